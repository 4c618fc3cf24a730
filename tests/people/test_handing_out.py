"""An archive of one person: everything under each name, nothing of anybody else, readable by people and programs."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path
from typing import Any
from zipfile import ZipFile

from click.testing import CliRunner

from chatkeep import Chatkeep, Turn
from chatkeep.app import core_of
from chatkeep.cli import main

from ..support.stores import FAST


async def echo(turn: Turn[Any]) -> str:
    """Answers, and keeps what was said, but no numbers of cards."""
    if "4111" in turn.text:
        return "I did not see that."
    turn.state["last"] = turn.text
    if "remind me" in turn.text:
        turn.remind("1h", "call", {"of": turn.text})
        turn.remind("2h", "again")
    return f"You said {turn.text}."


def texts(archive: ZipFile) -> dict[str, str]:
    """What is in an archive."""
    return {name: archive.read(name).decode() for name in archive.namelist()}


async def test_it_has_all_of_one_person(opened: Any) -> None:
    """What was claimed too; states, parts and redactions; and nobody else's, of no other tenant."""
    keep = await opened(echo)
    salon = keep.tenant("salon")
    await salon.user("ann").create("trip", title="To Rome / \x1b[31mand back")
    await salon.receive("trip", "hotels in Trastevere", id="m1")
    await salon.receive(
        "trip", [{"type": "text", "text": "4111 1111"}, {"type": "image", "url": "https://e.x/i"}], id="m2"
    )
    await salon.redact("trip", next(m.number for m in [m async for m in salon.history("trip")] if m.id == "m2"))
    await salon.user("guest:1").create("cart")
    await salon.receive("cart", "two lemonades", id="m1")
    await salon.user("ann").claim("guest:1")
    await salon.user("bob").create("secret")
    await salon.receive("secret", "nothing for ann", id="m1")
    await keep.user("ann").create("elsewhere", title="another tenant")
    target = io.BytesIO()
    said = await core_of(keep).hand_out("salon", "ann", target)
    found = texts(ZipFile(target))
    together = "".join(found.values())
    [trip] = [json.loads(text) for name, text in found.items() if name.endswith(".json") and "Rome" in name]

    assert (2, ["ann", "guest:1"]) == (said.conversations, said.names)
    assert all(text in together for text in ("hotels in Trastevere", "two lemonades", "You said two lemonades."))
    assert not any(text in together for text in ("nothing for ann", "another tenant", "4111"))
    assert "hotels in Trastevere" == trip["state"]["last"]
    assert any("(redacted)" in text for text in found.values())
    assert {"README.txt", "about.json"} < found.keys()
    assert all(name.isascii() and "/" not in name.removeprefix("conversations/") for name in found)


async def test_it_has_what_comes_later(opened: Any) -> None:
    """Reminders with their data, as names and times that a person reads."""
    keep = await opened(echo)
    await keep.receive("trip", "remind me of the train", owner="ann")
    target = io.BytesIO()
    await core_of(keep).hand_out("", "ann", target)
    [trip] = [json.loads(text) for name, text in texts(ZipFile(target)).items() if name.endswith("trip.json")]

    assert [("call", {"of": "remind me of the train"}), ("again", None)] == [
        (one["name"], one["data"]) for one in trip["reminders"]
    ]
    assert all(len("2026-11-30 21:00:00") == len(one["at"]) for one in trip["reminders"])


def test_the_command(tmp_path: Path) -> None:
    """A file for its owner alone; noted in the audit log; nobody there, nothing written."""
    url, target = f"{tmp_path}/chat.db", tmp_path / "ann.zip"

    async def talk() -> None:
        keep = Chatkeep[Any](f"sqlite:///{url}", **FAST)
        keep.on_message(echo)
        async with keep:
            await keep.user("ann").create("trip")
            await keep.receive("trip", "hotels", id="m1")

    asyncio.run(talk())
    run = CliRunner().invoke
    done = run(main, ["export", url, "--owner", "ann", "-o", str(target)])
    nobody = run(main, ["export", url, "--owner", "eve", "-o", f"{tmp_path}/eve.zip"])
    bare = run(main, ["export", url, "--owner", "ann"])
    audit = run(main, ["audit", url])

    assert [0, 1, 2] == [one.exit_code for one in (done, nobody, bare)]
    assert 0o600 == target.stat().st_mode & 0o777
    assert "hotels" in "".join(texts(ZipFile(target)).values())
    assert ["ann.zip"] == sorted(path.name for path in tmp_path.glob("*.zip*"))
    assert "owner ann" in audit.output
