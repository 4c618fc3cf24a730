"""Processes that die with turns in flight: whoever did nothing is answered, whoever kills is found and set aside."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from chatkeep import Chatkeep
from chatkeep.drivers.base import Key

from ..support.fork_server import NOWHERE, Program
from ..support.program import PATIENCE_S, plain_environment
from ..support.soaking import long
from ..support.stores import FAST, LASTING, store_url
from ..support.waiting import time_passes, until

WORKER = """
import asyncio, os, sys
from chatkeep import Chatkeep

keep = Chatkeep(sys.argv[1], poll="50ms", concurrency=int(sys.argv[2]))

@keep.on_message
async def bot(turn):
    print(turn.conversation, flush=True)
    if turn.text == "poison":
        await asyncio.sleep(0.05)
        os._exit(9)
    if turn.text.startswith("asks "):
        await keep.receive("inner", turn.text.replace("asks", "kills"), id="1")
        return "ok"
    if turn.text.startswith("kills "):
        with open(turn.text.removeprefix("kills "), "a") as deaths:
            print(file=deaths)
            if deaths.tell() < 4:
                os._exit(9)
        return "ok"
    if turn.text.startswith("waits for "):
        while not os.path.exists(turn.text.removeprefix("waits for ")):
            await asyncio.sleep(0.02)
        return "ok"
    await asyncio.sleep(float(turn.text))
    return "ok"

async def main():
    async with keep:
        await asyncio.sleep(3600)

asyncio.run(main())
"""


SENDER = """
import asyncio, os, sys
from chatkeep import Chatkeep
from chatkeep.conversation.outbox import Sent

class Outlet:
    def takes(self, tenant, conversation):
        return True

    async def open(self):
        pass

    async def close(self):
        pass

    async def send(self, conversation, content, *, key, skip, at):
        print(conversation, flush=True)
        await asyncio.sleep(0.05)
        if content == "poison":
            os._exit(9)
        return Sent(status="delivered")

keep = Chatkeep(sys.argv[1], poll="50ms")
keep.deliver(Outlet())

@keep.on_message
async def bot(turn):
    return turn.text

async def main():
    async with keep:
        await asyncio.sleep(3600)

asyncio.run(main())
"""


@pytest.fixture(params=LASTING)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A store that outlives its processes."""
    return store_url(request.param, request, tmp_path)


class House:
    """Processes that answer, started again whenever one dies; and a Chatkeep without a handler that sees what becomes of it."""

    def __init__(self, url: str, folder: Path, concurrency: int = 100, program: str = WORKER) -> None:
        self.url, self.folder, self.program = url, folder, program
        self.concurrency = concurrency
        self.desk: Chatkeep[Any] = Chatkeep(url, **FAST)
        self.deaths = 0
        self.began: Counter[str] = Counter()
        self.began_now: set[str] = set()
        self._processes: set[Program] = set()
        self._slots: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> House:
        (self.folder / "worker.py").write_text(self.program)
        await self.desk.open()
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self.end()
        await self.desk.close()

    def serve(self, instances: int = 1) -> None:
        """Keeps so many processes at work."""
        self._slots += [asyncio.create_task(self._slot()) for _ in range(instances)]

    async def _slot(self) -> None:
        while True:
            reading, writing = os.pipe()
            process = Program(
                *(self.url, str(self.concurrency)),
                folder=self.folder,
                environment=plain_environment(),
                streams=(NOWHERE, writing, 2),
                module="worker",
            )
            os.close(writing)
            self._processes.add(process)
            said = asyncio.StreamReader()
            pipe, _ = await asyncio.get_running_loop().connect_read_pipe(
                lambda said=said: asyncio.StreamReaderProtocol(said), os.fdopen(reading, "rb")
            )
            try:
                async for line in said:
                    self.began[line.decode().strip()] += 1
                    self.began_now.add(line.decode().strip())
                process.wait(PATIENCE_S)
                self.deaths += 1
            finally:
                pipe.close()
                process.kill()
                process.wait(PATIENCE_S)
                self._processes.discard(process)

    def kill(self) -> None:
        """Kills whatever runs."""
        self.began_now.clear()
        for process in self._processes:
            process.kill()

    async def end(self) -> None:
        """Kills whatever runs, and starts nothing again."""
        for slot in self._slots:
            slot.cancel()
        await asyncio.gather(*self._slots, return_exceptions=True)
        self._slots.clear()

    async def answered(self, names: list[str]) -> bool:
        """Whether all of these conversations are answered."""
        found = [await self.desk.conversation(name) for name in names]
        return all(one is not None and not one.unread and not one.dead for one in found)


@pytest.mark.parametrize("count", [*long(1), 3])
async def test_innocent_messages_survive_eight_deaths(url: str, tmp_path: Path, count: int) -> None:
    """Killed each time that one of them is at work, and answered by the process that lives."""
    names, enough = [f"c{n}" for n in range(count)], tmp_path / "enough"
    async with House(url, tmp_path) as house:
        for name in names:
            await house.desk.accept(name, f"waits for {enough}")
        house.serve()
        for _ in range(8):
            await until(lambda: house.began_now, within=30)
            await time_passes(0.1)
            house.kill()
        assert not await house.answered(names[:1])
        enough.touch()
        await until(lambda: house.answered(names), within=60)

        for name in names:
            talk = [(message.role, message.text) async for message in house.desk.history(name)]
            assert [("user", f"waits for {enough}"), ("assistant", "ok")] == talk


async def test_after_a_single_death_all_are_tried_at_once(url: str, tmp_path: Path) -> None:
    """Fifty turns that are all under way, and again after the death; one alone says nothing against any of them."""
    names, enough = [f"c{n}" for n in range(50)], tmp_path / "enough"
    async with House(url, tmp_path) as house:
        for name in names:
            await house.desk.accept(name, f"waits for {enough}")
        house.serve()
        await until(lambda: len(house.began_now) == 50, within=30)
        house.kill()
        await until(lambda: len(house.began_now) == 50, within=30)
        enough.touch()
        await until(lambda: house.answered(names), within=40)

        assert {2} == set(house.began.values())


@pytest.mark.parametrize("instances", [*long(1), 2])
async def test_a_message_that_kills_is_found_and_the_others_are_answered(
    url: str, tmp_path: Path, instances: int
) -> None:
    """Twenty innocent turns are in flight with it, and more comes all the time."""
    innocent, fresh = [f"c{n}" for n in range(20)], [f"fresh{n}" for n in range(15)]
    async with House(url, tmp_path) as house:
        for name in innocent[:10]:
            await house.desk.accept(name, "0.3")
        await house.desk.accept("killer", "poison", id="poison")
        await house.desk.accept("killer", "0.01")
        for name in innocent[10:]:
            await house.desk.accept(name, "0.3")
        house.serve(instances)
        for name in fresh:
            await time_passes(0.25)
            await house.desk.accept(name, "0.01")

        async def over() -> bool:
            found = await house.desk.conversation("killer")
            return found is not None and not found.unread

        await until(over, within=200)
        await until(lambda: house.answered(innocent + fresh), within=60)
        letters = await house.desk.dead_letters("killer")

        assert ["poison"] == [letter.id for letter in letters]
        assert "with no other handler beside it" in letters[0].metadata["reason"]
        assert "ok" == [message.text async for message in house.desk.history("killer")][-1]
        assert 10 <= house.deaths <= 11


async def test_what_only_waits_for_a_place_is_in_no_death(url: str, tmp_path: Path) -> None:
    """Neither killed twice nor tried alone afterwards."""
    names, enough = [f"c{n}" for n in range(12)], tmp_path / "enough"
    async with House(url, tmp_path, concurrency=4) as house:
        for name in names:
            await house.desk.accept(name, f"waits for {enough}")
        house.serve()
        await until(lambda: len(house.began_now) == 4, within=30)
        await time_passes(0.2)
        house.kill()
        await until(lambda: len(house.began_now) == 4, within=30)
        await time_passes(0.2)
        await house.end()
        assert house.desk._engine is not None
        rows = [await house.desk._engine.store.load(Key("", name)) for name in names]
        held = [name for name, row in zip(names, rows, strict=True) if row is not None and row.row.lease]

        assert set(held) == {name for name in names if house.began[name]}
        house.serve()
        enough.touch()
        await until(lambda: house.answered(names), within=60)


async def test_a_suspect_that_another_turn_waits_for_runs_beside_it(url: str, tmp_path: Path) -> None:
    """It kills three processes; the turn that asks it is a suspect by then, too, and neither waits for the end of the other."""
    async with House(url, tmp_path) as house:
        await house.desk.accept("outer", f"asks {tmp_path / 'deaths'}")
        house.serve()
        await until(lambda: house.answered(["outer", "inner"]), within=60)

        assert 3 == house.deaths


async def test_a_reply_that_kills_whoever_sends_it_is_given_up_and_others_go_out(url: str, tmp_path: Path) -> None:
    """Its processes end eight times; what was on its way beside it is sent twice more at most, and whoever comes later finds peace."""
    names = [f"c{n}" for n in range(4)]
    async with House(url, tmp_path, program=SENDER) as house:
        await house.desk.accept("bad", "poison")
        for name in names:
            await house.desk.accept(name, "hello")
        house.serve()

        async def settled() -> bool:
            found = [await house.desk.deliveries(name) for name in ("bad", *names)]
            return [one.status for found in found for one in found] == ["uncertain", *["delivered"] * 4]

        await until(settled, within=120)
        given_up = (await house.desk.deliveries("bad"))[0]

    assert ("its process died 8 times while it was sent", True) == (given_up.reason, given_up.doubtful)
    assert (8, 8) == (house.began["bad"], house.deaths)
    assert max(house.began[name] for name in names) <= 3
