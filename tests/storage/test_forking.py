"""A copy for debugging: what was said and known, and nothing that reaches anybody."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from chatkeep import Chatkeep, Turn
from chatkeep.cli import main
from chatkeep.drivers import driver_for
from chatkeep.drivers.base import Key, Row, Scan
from chatkeep.storage.forking import fork_conversation

from ..support.stores import FAST


async def echo(turn: Turn[Any]) -> str:
    """Counts, and asks to be reminded."""
    turn.state["count"] = turn.state.get("count", 0) + 1
    turn.remind("1d", "are you still there?")
    return f"{turn.state['count']}: {turn.text}"


def bot(url: str) -> Chatkeep[Any]:
    """A bot on the store."""
    keep = Chatkeep[Any](url, **FAST)
    keep.on_message(echo)
    return keep


async def rows(url: str) -> dict[str, Row]:
    """The rows of a store, by id."""
    driver = driver_for(url)
    await driver.open()
    found = await driver.scan(Scan("key", limit=99, tenant="salon"))
    await driver.close()
    return {row.key.id: row for row in found}


async def test_the_copy_goes_on_and_is_due_for_nothing(url: str) -> None:
    """With log, ids and state, on the same store; the original stays as it was, to the byte. As of a number, the state is fresh."""
    async with bot(url) as keep:
        salon = keep.tenant("salon")
        await salon.user("ann").create("ada", title="To Rome")
        for number in range(30):
            await salon.receive("ada", f"hello {number}" * 300, id=f"m{number}")
        before, driver = (await rows(url))["ada"], driver_for(url)
        await driver.open()
        ada = Key("salon", "ada")
        made = await fork_conversation(driver, driver, ada, Key("salon", "debug-1"), at=1.0)
        early = await fork_conversation(driver, driver, ada, Key("salon", "debug-2"), at=1.0, as_of=5)
        nothing = await fork_conversation(driver, driver, Key("salon", "nobody"), Key("salon", "debug-3"), at=1.0)
        await driver.close()
        found = await rows(url)
        logs = {name: [(m.id, m.text) async for m in salon.history(name) if m.role != "system"] for name in found}
        one, two = await salon.receive("debug-1", "more", id="m9"), await salon.receive("debug-2", "more", id="x")
        again = await salon.receive("debug-1", "never mind", id="m0")

    assert made is not None
    assert early is not None
    assert (before, None) == (found["ada"], nothing)
    assert [("", None), ("", None)] == [(found[name].owner, found[name].due_at) for name in ("debug-1", "debug-2")]
    assert [text for _, text in logs["ada"]] == [text for _, text in logs["debug-1"]]
    assert [text for _, text in logs["ada"]][: len(logs["debug-2"])] == [text for _, text in logs["debug-2"]]
    assert ({"debug-2": 5}) == {"debug-2": early.head}
    assert [True, "1: more"] == [one.duplicate, two.replies[0].text]
    assert again.duplicate


def test_the_command(tmp_path: Path) -> None:
    """Into another store; a name that is taken is refused. Who erases a person reads in the audit log where there are copies."""
    url, other = f"{tmp_path}/chat.db", f"{tmp_path}/debug.db"

    async def talk() -> None:
        async with bot(f"sqlite:///{url}") as keep:
            await keep.receive("ada", "hello", id="m1")

    asyncio.run(talk())
    run = CliRunner().invoke
    done = run(main, ["fork", url, "ada", "debug-1", "--to", other])
    again = run(main, ["fork", url, "ada", "debug-1", "--to", other])
    nobody = run(main, ["fork", url, "nobody", "debug-2"])
    shown = run(main, ["show", other, "debug-1"])
    acts = run(main, ["audit", url, "--json"]).output.splitlines()

    assert [("fork debug-1", "ada")] == [(act["act"], act["conversation"]) for act in map(json.loads, acts)]
    assert [0, 2, 1, 0] == [one.exit_code for one in (done, again, nobody, shown)]
    assert "1: hello" in shown.output
