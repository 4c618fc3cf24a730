"""Legal holds: what is held is not erased, redacted, forgotten or cut, on any store."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from chatkeep import Chatkeep, OnHold, Turn
from chatkeep.app import core_of
from chatkeep.cli import main

from ..support.clock import Clock
from ..support.stores import FAST
from ..support.waiting import until


def bot(url: str, **options: Any) -> Chatkeep[Any]:
    """A bot that answers."""
    keep = Chatkeep[Any](url, **FAST, **options)

    @keep.on_message
    async def echo(turn: Turn[Any]) -> str:
        return f"You said {turn.text}."

    return keep


async def test_what_is_held_is_erased_by_nobody(url: str) -> None:
    """A conversation, and all that is an owner's under every name; what is lifted can be erased."""
    async with bot(url) as keep:
        salon = keep.tenant("salon")
        await salon.user("ann").create("trip")
        await salon.user("guest:1").create("cart")
        await salon.user("ann").claim("guest:1")
        for name in ("ada", "bob"):
            await salon.receive(name, "hello", id="m1")
        holds = core_of(keep).holds("salon")
        await holds.put(conversation="ada", reason="case 7")
        for name in await core_of(keep).find_names("salon", "ann"):
            await holds.put(owner=name, reason="case 8")
        for name in ("ada", "trip", "cart"):
            with pytest.raises(OnHold, match="case"):
                await salon.erase(name)
        with pytest.raises(OnHold, match="case 7"):
            await salon.redact("ada", 1)
        with pytest.raises(OnHold, match="case 8"):
            await salon.user("ann").delete("trip")
        await salon.erase("bob")
        there = [(await salon.conversation(name)) is not None for name in ("ada", "trip", "cart", "bob")]
        listed = sorted([held.subject async for held in holds.all()])
        lifted = await holds.lift(conversation="ada"), await holds.lift(conversation="ada")
        await salon.erase("ada")
        after = await salon.conversation("ada")

    assert [True, True, True, False] == there
    assert ["all that 'ann' owns", "all that 'guest:1' owns", "conversation 'ada'"] == listed
    assert ("case 7", None) == (lifted[0].reason if lifted[0] else "", lifted[1])
    assert after is None


async def test_a_message_that_waits_is_not_taken_back_under_a_hold(url: str) -> None:
    """Neither withdrawn nor said anew, which both remove what it says; after the hold it may be."""
    async with bot(url) as keep:
        await keep.pause("ada")
        for number in (1, 2, 3):
            await keep.accept("ada", f"order {number}", id=f"m{number}")
        first, second, third = [message.number for message in (await keep.conversation("ada")).waiting]
        holds = core_of(keep).holds("")
        await holds.put(conversation="ada", reason="case 7")
        with pytest.raises(OnHold, match=r"case 7.*nothing was changed"):
            await keep.withdraw("ada", first)
        with pytest.raises(OnHold, match="case 7"):
            await keep.amend("ada", second, "another order")
        held = [message.text for message in (await keep.conversation("ada")).waiting]
        await holds.lift(conversation="ada")
        await keep.withdraw("ada", third)
        after = [message.text for message in (await keep.conversation("ada")).waiting]

    assert ["order 1", "order 2", "order 3"] == held
    assert ["order 1", "order 2"] == after


async def test_what_is_held_is_not_forgotten_and_not_cut(url: str) -> None:
    """By the sweep, which ends what is beside it; after the hold it ends as ever, within the hour."""
    clock = Clock()
    async with bot(url, clock=clock, forget_after="10d", retention="5d") as keep:
        for name in ("ada", "bob"):
            await keep.receive(name, "hello", id="m1")
        await core_of(keep).holds("").put(conversation="ada", reason="case 7")

        async def find(name: str) -> Any:
            return await keep.conversation(name)

        async def is_gone(name: str) -> bool:
            return await find(name) is None

        clock.now += 6 * 86_400
        await until(lambda: _shortened(keep, "bob"))
        log = [message.number async for message in keep.history("ada")]
        clock.now += 20 * 86_400
        await until(lambda: is_gone("bob"))
        held = await find("ada")
        await core_of(keep).holds("").lift(conversation="ada")
        clock.now += 3_700
        await until(lambda: is_gone("ada"))

    assert [1, 2] == log
    assert held is not None


async def _shortened(keep: Chatkeep[Any], name: str) -> bool:
    return [] == [message.number async for message in keep.history(name)]


def test_the_commands(tmp_path: Path) -> None:
    """Hold, list, refuse, lift; each in the audit log."""
    url = f"{tmp_path}/chat.db"

    async def talk() -> None:
        async with bot(f"sqlite:///{url}") as keep:
            await keep.receive("ada", "hello", id="m1")

    asyncio.run(talk())
    run = CliRunner().invoke
    made = run(main, ["hold", url, "ada", "--reason", "case 7"])
    listed = run(main, ["holds", url, "--json"])
    refused = run(main, ["erase", url, "ada", "--yes"])
    neither = run(main, ["hold", url, "--reason", "case 7"])
    empty = [run(main, ["hold", url, *of, "--reason", "case 7"]) for of in ([""], ["--owner", ""])]
    nothing = run(main, ["unhold", url, ""])
    lifted, again = run(main, ["unhold", url, "ada"]), run(main, ["unhold", url, "ada"])
    erased, audit = run(main, ["erase", url, "ada", "--yes"]), run(main, ["audit", url])

    assert [0, 0, 2, 2, 0, 1, 0] == [one.exit_code for one in (made, listed, refused, neither, lifted, again, erased)]
    assert [2, 2, 2] == [one.exit_code for one in (*empty, nothing)]  # a script whose variable is empty has no hold
    assert '"reason":"case 7"' in listed.output
    assert "case 7" in refused.output
    assert ["erase", "unhold", "hold"] == [line.split()[2] for line in audit.output.splitlines()]
