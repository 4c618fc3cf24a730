"""A look at what retention would end: it is what the sweep then ends, and nothing is changed by looking."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from chatkeep import Chatkeep, Turn
from chatkeep.app import core_of
from chatkeep.cli import main
from chatkeep.drivers.base import Key

from ..support.clock import Clock
from ..support.stores import FAST

DAY_S = 86_400.0


async def echo(turn: Turn[Any]) -> str:
    """Answers."""
    return f"You said {turn.text}."


async def test_what_is_shown_is_what_ends(opened: Any) -> None:
    """Old logs are dropped as far as they are old, what nobody touched is erased; what waits or is held stays."""
    clock = Clock()
    keep = await opened(echo, clock=clock)
    for name in ("old", "held", "mixed"):
        await keep.receive(name, "hello", id="m1")
    await core_of(keep).holds("").put(conversation="held", reason="case 7")
    await keep.pause("waits")
    await keep.accept("waits", "hello?")
    clock.now += 40 * DAY_S
    await keep.receive("mixed", "again", id="m2")
    await keep.receive("new", "hello", id="m1")

    async def preview(**rules: float | None) -> dict[str, tuple[str, int, str | None]]:
        told: dict[str, Any] = {"retention_s": None, "forget_after_s": None, "forget_visitors_s": None} | rules
        found = core_of(keep).preview_ends(None, **told)
        return {end.conversation: (end.what, end.entries, end.held) async for end in found}

    retained = await preview(retention_s=30 * DAY_S)
    forgotten = await preview(forget_after_s=30 * DAY_S)
    nothing = await preview()
    there = {name: await keep.conversation(name) is not None for name in ("old", "held", "mixed", "waits", "new")}

    assert {"old": ("drop", 2, None), "held": ("drop", 2, "case 7"), "mixed": ("drop", 2, None)} == retained
    assert {"old": ("erase", 2, None), "held": ("erase", 2, "case 7")} == forgotten
    assert {} == nothing
    assert all(there.values())


def test_the_command(tmp_path: Path) -> None:
    """By options, with a sum; a duration without a unit is refused."""
    url = f"{tmp_path}/chat.db"

    async def talk() -> None:
        keep = Chatkeep[Any](f"sqlite:///{url}", clock=lambda: 1_700_000_000.0, **FAST)
        keep.on_message(echo)
        async with keep:
            await keep.receive("ada", "hello", id="m1")

    asyncio.run(talk())
    run = CliRunner().invoke
    shown = run(main, ["retention", url, "--forget-after", "30d"])
    lines = run(main, ["retention", url, "--retention", "30d", "--json"])
    refused = run(main, ["retention", url, "--retention", "30"])

    assert [0, 0, 2] == [one.exit_code for one in (shown, lines, refused)]
    assert "1 conversation would be erased" in shown.output
    assert '"what":"drop"' in lines.output
    assert "no unit" in refused.output


async def test_what_was_dropped_before_is_not_counted_again() -> None:
    """Neither where more of the log would be dropped, nor where all that is left is erased."""
    clock = Clock()
    keep = Chatkeep[Any]("memory://", clock=clock, background=False, retention="30d")
    keep.on_message(echo)
    async with keep:
        for day in range(3):
            await keep.receive("ada", "hello", id=f"m{day}")
            clock.now += 20 * DAY_S
        await keep.tend(thorough=True)
        dropped = (await keep._engine.store.load(Key("", "ada"))).record.dropped  # type: ignore[union-attr]

        async def preview(**rules: float | None) -> list[tuple[str, int]]:
            told: dict[str, Any] = {"retention_s": None, "forget_after_s": None, "forget_visitors_s": None} | rules
            return [(end.what, end.entries) async for end in core_of(keep).preview_ends(None, **told)]

        dropping = await preview(retention_s=20 * DAY_S)
        edge = await preview(retention_s=20 * DAY_S + 1)
        all_of_it = await preview(retention_s=DAY_S)
        erasing = await preview(forget_after_s=DAY_S)

    assert 4 == dropped
    assert ([("drop", 2)], [], [("drop", 2)], [("erase", 2)]) == (dropping, edge, all_of_it, erasing)
