"""Several instances on one store: they take turns, take over, and tell each other (F5, F6, F9, F12)."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from typing import Any

import pytest

from chatkeep import Turn

from ..support.stand import Clients, Stand, note
from ..support.waiting import takes, time_passes, until


async def slow(turn: Turn[dict[str, Any]]) -> str:
    """A bot that takes its time: long enough for another instance to come in between."""
    await takes(0.003)
    return await note(turn)


async def test_f5_two_instances_serialise_one_conversation(url: str, opening: Any) -> None:
    """Two hundred at once, to either one in turn: all applied once, in order, and few handlers run in vain."""
    keeps = [await opening(url, slow) for _ in range(2)]
    clients = Clients(keeps)
    await asyncio.gather(*(clients.insist("ada") for _ in range(200)))
    runs = sum(keep.statistics.engine.turns for keep in keeps)
    verdict = await clients.verdict()

    assert ([], 200) == (verdict.faults, verdict.acked)
    assert runs < 1.05 * 200


async def test_f5_taking_turns_runs_no_handler_twice(url: str, opening: Any) -> None:
    """One message after another, to either instance in turn: once an instance knows of the other, it looks before it runs."""
    keeps = [await opening(url, poll="30s") for _ in range(2)]
    clients = Clients(keeps)
    for _ in range(12):
        await clients.send("ada")
        await time_passes(0.06)
    reruns = sum(keep.statistics.engine.reruns for keep in keeps)

    assert [] == (await clients.verdict()).faults
    assert reruns <= len(keeps)


ZOMBIE = """
import asyncio, json, sys
from chatkeep import Chatkeep

async def main():
    keep = Chatkeep(sys.argv[1], poll="20ms", quick="0s")

    @keep.on_message
    async def bot(turn):
        print(json.dumps("begun"), flush=True)
        await asyncio.sleep(0.3)
        turn.state.setdefault("seen", []).append(turn.id)
        return f"{len(turn.state['seen'])}: {turn.id}, says the zombie"

    async with keep:
        for id in ("1", "2"):
            receipt = await keep.receive("ada", id, id=id)
            print(json.dumps([reply.text for reply in receipt.replies]), flush=True)
            sys.stdin.readline()

asyncio.run(main())
"""


async def test_f6_what_a_zombie_brings_is_thrown_away(url: str, opening: Any) -> None:
    """Stopped while its handler runs, overtaken, and woken again: it shows the other's answer, and goes on from there."""
    command = [sys.executable, "-c", ZOMBIE, url]
    zombie = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert zombie.stdin is not None
    assert zombie.stdout is not None
    try:
        said = [await asyncio.to_thread(zombie.stdout.readline)]
        zombie.send_signal(signal.SIGSTOP)
        # Its lease lasts ten seconds, by any clock that may be right. One that is far ahead is as good as having waited.
        other = await opening(url, clock=lambda: time.time() + 400)
        await until(lambda: other.statistics.engine.taken_over)
        clients = Clients([other])
        await clients.send("ada", "1")
        zombie.send_signal(signal.SIGCONT)
        said += [await asyncio.to_thread(zombie.stdout.readline)]
        texts = [message.text async for message in other.history("ada")]
        await other.close()  # by its clock every lease of the zombie's has run out
        zombie.stdin.write("\n")
        zombie.stdin.flush()
        said += [await asyncio.to_thread(zombie.stdout.readline) for _ in range(2)]
    finally:
        zombie.kill()
        zombie.wait()
        zombie.stdin.close()
        zombie.stdout.close()

    assert ["begun", ["1: 1"], "begun", ["2: 2, says the zombie"]] == [json.loads(line) for line in said]
    assert ["1", "1: 1"] == texts


async def test_f9_cancelled_callers_leave_nothing_half_done(url: str, opening: Any) -> None:
    """Two hundred callers go away at any moment; what they sent is there once or not at all, and nobody gets another's answer."""
    keeps = [await opening(url) for _ in range(2)]
    clients = Clients(keeps)
    began = time.monotonic()
    await asyncio.gather(*(clients.insist(f"c{number % 10}", f"before {number}") for number in range(50)))
    longest = max(0.5, 2 * (time.monotonic() - began))  # as busy as this machine is, some are answered and some are not

    async def impatient(number: int) -> None:
        await time_passes(random.random() * longest)
        with suppress(TimeoutError):
            async with asyncio.timeout(random.random() ** 3 * longest):
                await clients.send(f"c{number % 10}", str(number))

    await asyncio.gather(*(impatient(number) for number in range(200)))
    acked = sum(one.acked for one in clients.told) - 50
    for number in range(200):
        await clients.insist(f"c{number % 10}", str(number))
    verdict = await clients.verdict()

    assert ([], 250) == (verdict.faults, verdict.acked)
    assert 0 < acked < 200, "every caller was cancelled, or none"
    assert verdict.unacked > 0, "no caller was cancelled between a commit and its answer"
    assert [(0, 0)] * 2 == [(keep.statistics.engine.waiting, keep.statistics.engine.workers) for keep in keeps]


async def test_f12_a_herd_on_one_conversation_holds_up_no_other(url: str, opening: Any) -> None:
    """Two hundred and fifty at once to one conversation: it goes forward all the time, and twenty others are answered meanwhile."""
    keeps = [await opening(url) for _ in range(2)]
    clients = Clients(keeps)
    progress: list[int] = []

    async def watch() -> None:
        while True:
            found = await keeps[0].conversation("herd", messages=0)
            progress.append(len(found.state.get("seen", [])) if found else 0)
            await takes(0.02)

    async def other(name: str) -> float:
        began = time.monotonic()
        for _ in range(3):
            await clients.insist(name)
        return (time.monotonic() - began) / 3

    def turns() -> int:
        return sum(keep.statistics.engine.turns for keep in keeps)

    alone, before = await asyncio.gather(*(other(f"before{number}") for number in range(20))), turns()
    watching = asyncio.create_task(watch())
    herd = asyncio.gather(*(clients.insist("herd", within=30) for _ in range(250)))
    await time_passes(0.05)
    others = await asyncio.gather(*(other(f"c{number}") for number in range(20)))
    left = 250 - progress[-1]
    await herd
    watching.cancel()
    await asyncio.wait([watching])
    verdict = await clients.verdict()

    assert ([], 370) == (verdict.faults, verdict.acked)
    assert progress == sorted(progress)
    assert left > 0, "the herd was through before the others: this says nothing"
    assert max(others) < 1.0 + 10 * max(alone)  # (a machine that is busy is slow with both)
    assert turns() - before < 1.05 * 310


@pytest.mark.parametrize("url", ["redis", "postgresql"], indirect=True)
async def test_work_is_heard_of_at_once(url: str, opening: Any) -> None:
    """Accepted by an instance that has no bot, answered by one that asks the store only every half minute."""
    desk = await opening(url, None)
    bot = await opening(url, poll="30s")
    await until(lambda: bot.statistics.engine.workers == 0)
    await asyncio.sleep(0.2)  # until it listens
    began = time.monotonic()
    await bot.receive("before", "hello")
    alone, took = time.monotonic() - began, []
    for number in range(2, 7):
        began = time.monotonic()
        await desk.accept(f"c{number}", "hello")
        await until(lambda: bot.statistics.engine.turns == number)
        took.append(time.monotonic() - began)

    assert sorted(took)[2] < 0.15 + 10 * alone  # (a machine that is busy is slow with both)


async def test_who_closes_hands_over_at_once(url: str, opening: Any) -> None:
    """Closed in the middle of a long queue: the other instance goes on with it, long before the lease would have run out."""
    sent = asyncio.Event()

    async def slower(turn: Turn[dict[str, Any]]) -> str:
        await sent.wait()
        await takes(0.03)
        return await note(turn)

    poll = "30s" if not url.startswith("sqlite") else "50ms"  # processes on a file do not hear of each other
    going, coming = await opening(url, slower, poll=poll), await opening(url, slower, poll=poll)
    await asyncio.sleep(0.2)
    clients = Clients([going])
    for _ in range(30):
        await clients.send("ada", how="accept")
    sent.set()
    began = time.monotonic()
    await going.close()
    closed = time.monotonic()
    await until(lambda: coming.statistics.engine.turns)
    took_over = time.monotonic()
    clients.keeps = [coming]
    verdict = await clients.verdict()

    assert [] == verdict.faults
    assert going.statistics.engine.turns < 30, "it was through before it was closed"
    assert closed - began < 5.0
    assert took_over - closed < 5.0  # a lease lasts ten seconds


async def test_an_idle_store_is_asked_little_however_much_it_holds(stand: Stand, opening: Any) -> None:
    """A bounded number of requests a second, the same with ten conversations and with a thousand."""
    keep = await opening(stand.url(), poll="250ms")

    async def asked() -> tuple[int, float]:
        """So many requests in so many seconds, which are more than one on a busy machine."""
        before, began = stand.proxy.trips, time.monotonic()
        await time_passes(1.0)
        return stand.proxy.trips - before, time.monotonic() - began

    def most_in(seconds: float) -> float:
        return 2 * seconds / (0.8 * 0.25) + 2

    for most in (10, 1000):
        await asyncio.gather(*(keep.receive(f"c{number}", "hello") for number in range(most)))
        await until(lambda: keep.statistics.engine.workers == 0)
        counts = [await asked()]
        while (
            counts[-1][0] > most_in(counts[-1][1]) and len(counts) < 10
        ):  # what the answers leave to do takes its time
            counts.append(await asked())
        requests, seconds = counts[-1]

        assert 0 < requests <= most_in(seconds), (most, counts)
