"""What happens while the store is away, by the setting on_outage: refuse, read, journal."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette

from chatkeep import Receipt, Unavailable, Uncertain
from chatkeep.app import core_of
from chatkeep.conversation.snapshots import Condition
from chatkeep.drivers.base import Key
from chatkeep.server.protocols import responses
from chatkeep.testing.history import DeliveryReport, check, collect

from ..support.serving import Client, served, serving
from ..support.stand import Clients, Stand
from ..support.waiting import until

QUICK = {"store_timeout": "200ms"}


def url_of(stand: Stand) -> str:
    """The server itself, with little patience."""
    return stand.straight(timeout=0.8)  # (less is too little to open in, beside other work)


async def kill(stand: Stand, keep: Any) -> None:
    """kill -9 of the server, and a moment for *keep* to notice."""
    stand.server.kill()
    await until(lambda: keep.trouble)


async def test_refuse_says_so_and_shows_nothing_old(stand: Stand, opening: Any) -> None:
    """The default: no message is acknowledged, nothing is shown from a cache; afterwards all goes on."""
    keep = await opening(url_of(stand), **QUICK)
    clients = Clients([keep])
    await clients.insist("ada")
    await kill(stand, keep)
    acked = [await clients.send("ada", how=how) for how in ("receive", "accept")]
    with pytest.raises(Unavailable):
        await keep.conversation("ada")
    await stand.start()
    await clients.insist("ada")

    assert [False, False] == acked
    assert [] == (await clients.verdict()).faults


async def test_read_shows_what_was_seen_last_and_says_that_it_is_old(stand: Stand, opening: Any) -> None:
    """What this process has seen is shown, marked; what it has not seen is not there to be shown; writing is refused."""
    keep = await opening(url_of(stand), on_outage="read", **QUICK)
    clients = Clients([keep])
    await clients.send("unseen")
    keep._engine.store.forget(Key("", "unseen"))
    await clients.insist("ada", "1")
    fresh = await keep.conversation("ada")
    await kill(stand, keep)
    stale = await keep.conversation("ada")
    with pytest.raises(Unavailable):
        await keep.conversation("unseen")
    with pytest.raises((Unavailable, Uncertain)):
        await keep.receive("ada", "hello?", id="2")
    await stand.start()
    await clients.insist("ada", "2")

    async def fresh_again() -> bool:  # readers may find the server a moment later than writers
        return not (await keep.conversation("ada")).stale

    await until(fresh_again)
    again = await keep.conversation("ada")

    assert (False, True) == (fresh.stale, stale.stale)
    assert (["1"], ["1"], ["1", "2"]) == (fresh.state["seen"], stale.state["seen"], again.state["seen"])
    assert [] == (await clients.verdict()).faults


async def test_over_http_what_was_seen_last_is_shown_where_it_has_fewer_messages_than_are_asked_for(
    stand: Stand, opening: Any
) -> None:
    """What came before cannot be read, and is no reason to show nothing; `head` tells that there is more."""
    keep = await opening(url_of(stand), on_outage="read", history=2, **QUICK)
    clients = Clients([keep])
    for id in ("1", "2", "3"):
        await clients.insist("ada", id)
    async with served(keep) as client:
        fresh = await client.ask("GET", "/v1/conversations/ada")
        await kill(stand, keep)
        stale = await client.ask("GET", "/v1/conversations/ada")
        await stand.start()

    assert (200, False, 6) == (fresh.status, fresh.json.get("stale", False), len(fresh.json["messages"]))
    assert (200, True, fresh.json["head"]) == (stale.status, stale.json["stale"], stale.json["head"])
    assert fresh.json["messages"][-2:] == stale.json["messages"]


async def test_what_was_seen_last_does_not_say_that_a_response_is_gone(stand: Stand, opening: Any) -> None:
    """Another process has made the response that a client goes on with: 503, to be tried again, and not 400."""
    keep, other = [await opening(url_of(stand), on_outage="read", **QUICK) for _ in range(2)]
    await Clients([keep]).insist("ada", "1")
    async with serving(Starlette(routes=responses.routes(keep))) as port:
        seen = await keep.conversation("ada")
        made = await other.receive("ada", "2", id="2")
        await kill(stand, keep)
        stale = await keep.conversation("ada")
        asked = {"input": "3", "previous_response_id": responses.response_id("ada", made.number)}
        answer = await Client(port, "").ask("POST", "/v1/responses", json.dumps(asked).encode())
        await stand.start()

    assert (True, seen.head) == (stale.stale, stale.head)
    assert 503 == answer.status


async def test_journal_takes_messages_and_hands_them_over_in_order(stand: Stand, opening: Any, tmp_path: Path) -> None:
    """Taken while the store is away, redeliveries too; when it is back, each is there once, in order, and answered."""
    keep = await opening(url_of(stand), on_outage="journal", journal=f"{tmp_path}/journal.db", **QUICK)
    told: list[DeliveryReport] = []

    async def send(name: str, id: str, how: str) -> str:
        told.append(DeliveryReport(name, id, False))
        receipt = await getattr(keep, how)(name, id, id=id)
        told.append(DeliveryReport(name, id, True))
        return str(receipt.status)

    said = [await send("ada", "1", "receive")]
    await kill(stand, keep)
    said += [
        await send("ada", id, how) for id, how in (("2", "receive"), ("3", "accept"), ("1", "accept"), ("2", "accept"))
    ]
    said += [await send("bob", str(number), "accept") for number in range(20)]
    held_back = keep.statistics.engine.journaled
    await stand.start()
    await until(lambda: keep.statistics.engine.journaled == 0)
    held = await collect(keep)
    said.append(await send("ada", "4", "receive"))

    assert ["answered", *["journaled"] * 24, "answered"] == said
    assert (2, "") == (held_back, keep.trouble)
    assert ["1", "2", "3"] == held["ada"].state["seen"]
    assert [str(number) for number in range(20)] == held["bob"].state["seen"]
    assert [] == check(told, await collect(keep)).faults


async def test_the_journal_begins_nothing_anew_for_a_message_that_waited(
    stand: Stand, opening: Any, tmp_path: Path
) -> None:
    """What it asks is kept beside it, over a restart, and judged when it is handed over. Who sends it again is told."""
    options = {"on_outage": "journal", "journal": f"{tmp_path}/journal.db", **QUICK}
    first = await opening(url_of(stand), **QUICK)
    keep = await opening(url_of(stand), **options)
    for name in ("ada", "bob"):
        await Clients([keep]).insist(name, "1")
    await first.erase("ada")
    seen = await core_of(keep).load("", "bob")

    async def say(keep: Any, name: str, id: str, only: Condition, *, waits: bool = False) -> Receipt:
        return await core_of(keep).take_in("", name, id, id=id, metadata=None, only=only, waits=waits)

    await kill(stand, keep)
    asked = [(name, id, waits) for name in ("ada", "bob") for id, waits in (("2", False), ("3", True))]
    said = [await say(keep, name, id, Condition(), waits=waits) for name, id, waits in asked]
    with pytest.raises(Unavailable):
        await say(keep, "bob", "4", Condition(seen, unchanged=True))
    await keep.close()
    again = await opening(url_of(stand), **options)
    await stand.start()
    await until(lambda: again.statistics.engine.journaled == 0 and not again.trouble)

    async def answered() -> bool:
        return ["1", "2", "3"] == (await again.conversation("bob")).state["seen"]

    await until(answered)
    await until(lambda: not len(again._engine.journal.spool))
    there, bob = await again.conversation("ada"), await again.conversation("bob")
    told = [await say(again, name, "2", Condition()) for name in ("ada", "bob")]

    assert [("journaled", 0)] * 4 == [(receipt.status, receipt.number) for receipt in said]
    assert there is None
    assert ["1", "2", "3"] == bob.state["seen"]
    assert [("dropped", 0, False), ("answered", told[1].number, True)] == [
        (r.status, r.number, r.duplicate) for r in told
    ]


LOCKING = """
import sqlite3, sys

db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("begin immediate")
print("locked", flush=True)
sys.stdin.read()
"""


@pytest.mark.slow
async def test_a_journal_that_takes_nothing_says_so(stand: Stand, opening: Any, tmp_path: Path) -> None:
    """Its file is locked from outside while the store is away: who sends is told of both, and so is whoever asks what is wrong."""
    keep = await opening(url_of(stand), on_outage="journal", journal=f"{tmp_path}/journal.db", **QUICK)
    await kill(stand, keep)
    journaled = (await keep.accept("ada", "one", id="1")).status
    program = [sys.executable, "-c", LOCKING, f"{tmp_path}/journal.db"]
    locking = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert locking.stdout is not None
        assert "locked\n" == await asyncio.to_thread(locking.stdout.readline)
        refusals = []
        for name in ("ada", "bob"):  # behind one that waits, and the first of a conversation
            with pytest.raises(Unavailable, match=r"It is not in the journal either: .*locked") as refused:
                await keep.accept(name, "two", id="2")
            refusals.append(str(refused.value))
        trouble = keep.trouble
    finally:
        locking.communicate("")
    again = (await keep.accept("ada", "two", id="2")).status
    after = keep.trouble
    await stand.start()
    await until(lambda: keep.statistics.engine.journaled == 0 and not keep.trouble)
    held = await collect(keep)

    assert ["journaled", "journaled"] == [journaled, again]
    assert refusals[0].startswith("ada: earlier messages still wait in the journal")
    assert "127.0.0.1" in trouble.partition("; the journal")[0]
    assert "; the journal cannot be written (" in trouble
    assert "journal cannot be written" not in after
    assert ["1", "2"] == held["ada"].state["seen"]


JOURNALING = """
import asyncio, sys
from chatkeep import Chatkeep

async def main():
    keep = Chatkeep(sys.argv[1], on_outage="journal", journal=sys.argv[2], store_timeout="200ms", poll="50ms")

    @keep.on_message
    async def bot(turn):
        return turn.id

    await keep.open()
    for id in sys.argv[3].split():
        receipt = await keep.accept("ada", id, id=id)
        print(receipt.status, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_journal_outlives_kill_9_and_opens_without_the_store(stand: Stand, opening: Any, tmp_path: Path) -> None:
    """Two processes, one after the other, are started and killed during the outage; what they took is handed over by a third."""
    journal = f"{tmp_path}/journal.db"
    first = await opening(url_of(stand), **QUICK)
    clients = Clients([first])
    await clients.insist("ada", "1")
    await kill(stand, first)
    said = []
    for ids in ("2 3 4", "4 5 1"):
        command = [sys.executable, "-c", JOURNALING, url_of(stand), journal, ids]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            assert process.stdout is not None
            said += [(await asyncio.to_thread(process.stdout.readline)).strip() for _ in range(3)]
            process.kill()
    third = await opening(url_of(stand), on_outage="journal", journal=journal, **QUICK)
    without = third.trouble
    await stand.start()
    await until(lambda: not third.trouble)
    await until(lambda: third.statistics.engine.turns >= 4)
    held = await collect(third)
    texts = [message.text for message in held["ada"].messages if message.role == "user"]

    assert ["journaled"] * 6 == said
    assert "" != without
    assert ["1", "2", "3", "4", "5"] == held["ada"].state["seen"] == texts
