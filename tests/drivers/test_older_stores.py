"""A store that an older version made is opened and upgraded in place, also while an instance of that version still runs."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from chatkeep import Turn
from chatkeep.drivers import driver_for
from chatkeep.drivers.base import Entries, Erase, Key, Read, Write

from ..support.counting import answered
from ..support.moves import held, moved, opened_on
from ..support.stores import store_url
from ..support.waiting import until

OLDER = {"first": "61c7a46", "0.2.0": "37abbf5d"}
"""The first commit whose stores every later version opens, and the releases since."""

PROGRAM = """
import asyncio, sys
import chatkeep
from chatkeep import Chatkeep

def bot(turn):
    turn.state["seen"] = turn.state.get("seen", 0) + 1
    return f"{turn.state['seen']}: {turn.text}"

async def main(url):
    answers, accepts = Chatkeep(url), Chatkeep(url)
    answers.on_message(bot)
    await answers.open()
    await accepts.open()
    for number in range(1, 4):
        await answers.receive("ada", "hello " * number * 20, id=f"m{number}")
        await answers.receive("bob", "hello", id=f"m{number}")
    await answers.change("ada", lambda state: state.update(vip=True))
    await answers.erase("bob")
    print(chatkeep.__file__, flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    receipt = await answers.receive("ada", "still here", id="m4")
    print(receipt.replies[0].text, flush=True)
    await answers.close()
    await accepts.accept("cara", "hello", id="m1")
    await accepts.close()

asyncio.run(main(sys.argv[1]))
"""


pytestmark = pytest.mark.long


@pytest.fixture(scope="module", params=OLDER)
def older(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source of an older version, out of the repository."""
    commit = OLDER[request.param]
    folder = tmp_path_factory.mktemp("older")
    root = Path(__file__).parents[2]
    found = subprocess.run(
        ["git", "archive", "--output", f"{folder}/src.tar", commit, "src"], cwd=root, capture_output=True
    )
    if found.returncode:
        pytest.skip(
            f"STORES OF OLDER VERSIONS WERE NOT TRIED: git has no {commit} here ({found.stderr.decode().strip()})"
        )
    subprocess.run(["tar", "-xf", f"{folder}/src.tar", "-C", f"{folder}"], check=True)
    return folder / "src"


@pytest.fixture(params=["sqlite", "redis", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A store that outlives its process."""
    return store_url(request.param, request, tmp_path)


async def test_a_store_of_an_older_version_is_opened(url: str, older: Path, opened: Any) -> None:
    """Nothing of it is lost, the instance that made it goes on, and what came later can be done with what it wrote."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, url],
        env={**os.environ, "PYTHONPATH": f"{older}"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert f"{older}/chatkeep/__init__.py\n" == await asyncio.to_thread(process.stdout.readline)

        def bot(turn: Turn[dict[str, Any]]) -> str:
            turn.state["seen"] = turn.state.get("seen", 0) + 1
            return f"{turn.state['seen']}: {turn.text}"

        keep = await opened(bot)
        again = await keep.receive("ada", "hello " * 20, id="m1")
        ada = await keep.conversation("ada")

        assert (True, "1: " + "hello " * 20) == (again.duplicate, again.replies[0].text)
        assert {"seen": 3, "vip": True} == ada.state
        assert None is await keep.conversation("bob")

        process.stdin.write("\n")
        process.stdin.flush()

        assert "4: still here\n" == await asyncio.to_thread(process.stdout.readline)
        assert 0 == await asyncio.to_thread(process.wait, 20)
        await until(lambda: answered(keep, "cara", 1))
    finally:
        process.kill()
        process.communicate()

    assert "5: hello" == (await keep.receive("ada", "hello", id="m5")).replies[0].text
    driver, key = keep._engine.store.driver, Key("", "ada")
    row, log = await driver.read(Read(key, tail=500))
    [first] = await driver.entries(Entries(key, ids=["m1"]))

    assert list(range(1, row.head + 1)) == [entry.number for entry in log]
    assert log[0] == first

    row = await driver.write(Write(structs.replace(row, revision="blanked"), replaces=row.revision, blank=[1]))

    assert b"" == (await driver.entries(Entries(key, ids=["m1"])))[0].body

    await driver.erase(Erase(key, at=time.time() + 10, revision="blanked"))

    assert None is await driver.read(Read(key, tail=1))


BESIDE = """
import asyncio, sys, threading
from dataclasses import dataclass, field
from chatkeep import Chatkeep

@dataclass
class Order:
    cart: list[str] = field(default_factory=list)

def bot(turn):
    turn.state.cart.append(turn.text)
    return "older"

async def connect(readers):
    begun, go = threading.Event(), threading.Event()
    one = readers.call(lambda db: (begun.set(), go.wait()))
    await asyncio.to_thread(begun.wait)
    await readers.call(lambda db: None)  # so the other thread does it
    go.set()
    await one

async def main(url, schema):
    more = {"schema": 2, "upgrades": {1: lambda plain: plain}} if schema == "2" else {}
    keep = Chatkeep(url, state=Order, poll="300ms", **more)
    keep.on_message(bot)
    async with keep:
        if url.startswith("sqlite"):
            await connect(keep._engine.store.driver._readers)
        print("open", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            verb, name, text = line.split()
            try:
                await getattr(keep, verb)(name, text)
            except Exception as fault:
                print("refused", repr(fault), flush=True)
            else:
                print("done", flush=True)

asyncio.run(main(sys.argv[1], sys.argv[2]))
"""


class Beside:
    """An instance of the older version that does what it is told.

    On SQLite each of its two reading threads connects when it is first asked something, and may not any more once the schema was
    raised: both have connected when it says that it is open.
    """

    def __init__(self, older: Path, url: str, schema: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", BESIDE, url, f"{schema}"],
            env={**os.environ, "PYTHONPATH": f"{older}"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    async def told(self, *words: str) -> None:
        """Waits for its next line, after telling it *words*, if any."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        if words:
            self.process.stdin.write(" ".join(words) + "\n")
            self.process.stdin.flush()
        line = await asyncio.to_thread(self.process.stdout.readline)
        assert line in ("open\n", "done\n"), line

    def stop(self) -> None:
        """Ends it."""
        self.process.kill()
        self.process.communicate()


@dataclass
class Order:
    """The state, as both versions of the application know it."""

    cart: list[str] = field(default_factory=list)


@dataclass
class NewOrder(Order):
    """As only the newer one knows it."""

    address: str = ""


async def order(turn: Turn[Any]) -> str:
    """Puts what is said into the cart."""
    turn.state.cart.append(turn.text)
    return "today"


NAMES = [f"c{number}" for number in range(6)]


async def test_what_todays_code_cannot_read_is_answered_by_an_older_chatkeep_with_newer_code(
    url: str, older: Path, opened: Any
) -> None:
    """Today's chatkeep runs the older code of the application and sees all messages first; none waits for more than two polls."""
    beside = Beside(older, url, schema=2)
    try:
        await beside.told()
        keep = await opened(order, state=Order, poll="300ms")
        for name in NAMES:
            await beside.told("receive", name, "one")
        for text in ("two", "three"):
            for name in NAMES:
                await keep.accept(name, text)
            await until(lambda: all_answered(url), within=2 * 0.3 * 1.2 + 1.0)
    finally:
        beside.stop()
    reading = await opened(state=Order, schema=2, upgrades={1: dict})
    for name in NAMES:
        assert ["one", "two", "three"] == (await reading.conversation(name)).state.cart
        assert ["older"] * 3 == [m.text async for m in reading.history(name) if m.role == "assistant"]


async def all_answered(url: str) -> bool:
    """Whether nothing is due, as the store itself says."""
    driver = driver_for(url)
    await driver.open()
    try:
        rows = [await driver.read(Read(Key("", name), tail=0)) for name in NAMES]
        return all(row is not None and row[0].due_at is None for row in rows)
    finally:
        await driver.close()


async def test_both_answer_beside_each_other_and_nothing_is_dropped(url: str, older: Path, opened: Any) -> None:
    """Messages come in on both sides at once; what today's code writes on top of newer code's state keeps what it does not know."""
    beside = Beside(older, url, schema=1)
    try:
        await beside.told()
        keep = await opened(order, state=Order, poll="300ms")
        newer = await opened(order, state=NewOrder, poll="300ms")
        for text in ("one", "two", "three"):
            await asyncio.gather(*(keep.accept(name, text) for name in NAMES[:3]))
            for name in NAMES[:3]:
                await beside.told("accept", name, text + "!")

        async def answered_all() -> bool:
            return not sum([(await keep.conversation(name)).unread for name in NAMES[:3]])

        await until(answered_all, within=5)
        for name in NAMES[:3]:
            assert {"one", "two", "three", "one!", "two!", "three!"} == set((await keep.conversation(name)).state.cart)
            assert 6 == len((await keep.conversation(name)).state.cart)

        def moved(state: NewOrder) -> None:
            state.address = "5 High Street"

        await newer.change("dora", moved)
    finally:
        beside.stop()
    await keep.receive("dora", "tea")

    assert NewOrder(["tea"], "5 High Street") == (await newer.conversation("dora")).state


@pytest.mark.parametrize("url", ["sqlite", "postgresql"], indirect=True)
async def test_an_older_instance_that_runs_is_kept_out_of_a_store_that_was_moved(
    url: str, older: Path, tmp_path: Path
) -> None:
    """From the fence on: what it had answered after that would be in the old store alone."""
    beside = Beside(older, url, schema=1)
    try:
        await beside.told()
        await beside.told("receive", "ada", "one")
        ours, theirs = await opened_on(url), await opened_on(f"sqlite:///{tmp_path}/there.db")
        await moved(ours, theirs)
        for verb in ("receive", "accept"):
            with pytest.raises(AssertionError, match="refused"):
                await beside.told(verb, "ada", "two")

        assert await held(ours) == await held(theirs)
        assert [Key("", "ada")] == [key for key in await held(theirs) if not key.tenant]

        for driver in (ours, theirs):
            await driver.close()
    finally:
        beside.stop()
