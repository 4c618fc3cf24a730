"""Sealing at rest: a sealed driver keeps the whole contract, and what lies in the store tells nothing of what was said."""

from __future__ import annotations

import asyncio
import random
import secrets
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import asyncpg
import pytest
from click.testing import CliRunner
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test
from msgspec import structs

from chatkeep import Chatkeep, Turn
from chatkeep.app import core_of
from chatkeep.cli import main
from chatkeep.drivers import driver_for
from chatkeep.drivers.base import (
    Append,
    Driver,
    Entries,
    Entry,
    Erase,
    Indexed,
    IndexText,
    Key,
    Read,
    Row,
    Scan,
    Write,
    mark_of,
    searching,
)
from chatkeep.errors import Conflict, Corrupt, Misconfigured, Unsupported
from chatkeep.storage import sealing
from chatkeep.storage.conversation_keys import reseal_store
from chatkeep.storage.key_ring import KeyRing
from chatkeep.storage.seal_note import SPACE
from chatkeep.storage.sealing import SealedDriver, sealed
from chatkeep.testing import DriverContract, Intact
from chatkeep.testing.contract.broken import empty_shelf
from chatkeep.testing.machine import DriverMachine

from ..support.soaking import SOAK, few_or_many
from ..support.stores import EVERY_STORE, FAST, store_url
from ..support.waiting import until

OLD, NEW, OTHER = "a secret that nobody guesses", "another one made a year later", "what somebody else has"
ADA = Key("salon", "ada")
MARKER = "marzipan-4711"


def sealed_by(url: str, *keys: str) -> SealedDriver:
    """A driver on the store that seals."""
    return cast(SealedDriver, sealed(driver_for(url), keys or (OLD,)))


async def opened(url: str, *keys: str) -> SealedDriver:
    """The same, open."""
    driver = sealed_by(url, *keys)
    await driver.open()
    return driver


def entry(id: str = "m", number: int = 0, role: str = "u") -> Entry:
    """Something that was said."""
    return Entry(number, id, role, MARKER.encode())


async def dump(url: str) -> bytes:
    """All bodies of a store, as they lie there."""
    driver, held = driver_for(url), list[bytes]()
    await driver.open()
    after: Row | None = None
    while rows := await driver.scan(Scan("key", limit=100, after=after)):
        for row in rows:
            held += [row.body, *(one.body for one in await driver.entries(Entries(row.key, after=0)))]
        after = rows[-1]
    await driver.close()
    return b"|".join(held)


class TestSealedMemory(DriverContract):
    """The contract, sealed, on the driver that all others are like."""

    @pytest.fixture(autouse=True)
    def fresh_store(self) -> None:
        """A shelf of the test's own."""
        self.url = f"memory://{secrets.token_hex(8)}"

    async def open_driver(self) -> Driver:
        """Another sealed driver on the shelf."""
        driver = SealedDriver(Intact(self.url), KeyRing([OLD]))
        await driver.open()
        return cast(Driver, driver)

    async def empty_store(self) -> None:
        """Clears the shelf."""
        empty_shelf(self.url)


@pytest.mark.slow
def test_random_histories() -> None:
    """Three sealed connections on one store never answer otherwise than the model."""

    def fresh_store() -> DriverMachine:
        url = f"memory://{secrets.token_hex(8)}"

        async def open_driver() -> Driver:
            driver = SealedDriver(Intact(url), KeyRing([OLD]))
            await driver.open()
            return cast(Driver, driver)

        return DriverMachine(open_driver)

    run_state_machine_as_test(fresh_store, settings=settings(max_examples=25, stateful_step_count=25, deadline=None))


async def test_an_append_is_done_once_beside_one_with_an_older_key() -> None:
    """Who holds the key of a conversation that was erased and begun anew seals with it, and puts it into the store behind that: who
    finds such an entry in between waits for the key."""
    url, key = f"memory://{secrets.token_hex(8)}", Key("", "a")
    ours, theirs = SealedDriver(Intact(url), KeyRing([OLD])), SealedDriver(Intact(url), KeyRing([OLD]))

    def said(id: str, at: float) -> Append:
        return Append(key, [Entry(0, id, "user", b"hello")], id, at, tail=9)

    await ours.open()
    await theirs.open()
    await ours.append(said("m1", 1.0))
    await theirs.read(Read(key, tail=1))
    await ours.erase(Erase(key, 2.0))
    await ours.append(said("m2", 3.0))
    answers = await asyncio.gather(theirs.append(said("m3", 4.0)), ours.append(said("m4", 5.0)))

    assert [{}, {}] == [answer.known for answer in answers]
    assert ["m2", "m3", "m4"] == [entry.id for entry in await ours.entries(Entries(key, after=0, limit=9))]
    await theirs.close()
    await ours.close()


async def test_an_act_that_another_runs_again_with_an_older_key_stays_readable() -> None:
    """The key that an act seals with is derived from another one there: each has a name of its own, or one would stand in the other's
    place."""
    url, key = f"memory://{secrets.token_hex(8)}", Key("", "a")
    ours, theirs, later = (SealedDriver(Intact(url), KeyRing([OLD])) for _ in range(3))

    def said(id: str, at: float) -> Append:
        return Append(key, [Entry(0, id, "user", b"hello")], id, at, tail=9)

    for driver in (ours, theirs, later):
        await driver.open()
    await ours.append(said("m1", 1.0))
    await theirs.read(Read(key, tail=1))
    await ours.erase(Erase(key, 2.0))
    first, again = await ours.append(said("m2", 3.0)), await theirs.append(said("m2", 3.0))

    assert [{}, {"m2": 1}] == [first.known, again.known]
    for driver in (ours, theirs, later):
        assert ["m2"] == [entry.id for entry in await driver.entries(Entries(key, after=0, limit=9))]
        await driver.close()


@pytest.fixture(params=EVERY_STORE)
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """A fresh store of every kind; one in memory is held open, or it would be gone."""
    address = store_url(request.param, request, tmp_path)
    holder = driver_for(address)
    await holder.open()
    yield address
    await holder.close()


def bot(url: str, *keys: str, **options: Any) -> Chatkeep[Any]:
    """A bot on the store that says what was said to it, and keeps it."""
    keep = Chatkeep[Any](url, seal_keys=keys, **FAST, **options)

    @keep.on_message
    async def echo(turn: Turn[Any]) -> str:
        turn.state["said"] = turn.text
        return f"You said {turn.text}."

    return keep


async def test_nothing_that_was_said_lies_in_the_store(url: str) -> None:
    """Messages, replies, state, metadata and chatkeep's own records are sealed, and read as ever; by another instance too."""
    async with bot(url, OLD) as keep:
        salon = keep.tenant("salon")
        one = await salon.receive("ada", MARKER, id="m1", metadata={"from": MARKER})
        await salon.accept("ada", f"more {MARKER}", id="m2")
        again = await salon.receive("ada", MARKER, id="m1")
        await salon.change("ada", lambda state: state.update(cart=[MARKER]))
        two = await salon.receive("ada", "and?", id="m3")
    async with bot(url, OLD) as keep:
        found = await keep.tenant("salon").conversation("ada")
        log = [message.text async for message in keep.tenant("salon").history("ada")]

    assert MARKER.encode() not in await dump(url)
    assert [f"You said {MARKER}."] == [reply.text for reply in one.replies] == [reply.text for reply in again.replies]
    assert [[MARKER], "and?"] == [found.state["cart"], found.state["said"]] if found is not None else None
    assert ["You said and?."] == [reply.text for reply in two.replies]
    assert {MARKER, f"more {MARKER}", "and?"} <= set(log)


async def test_a_sealed_store_is_refused_without_its_key(url: str) -> None:
    """By name: without keys, and with other ones; and nothing is written."""
    async with bot(url, OLD) as keep:
        await keep.receive("ada", "hello", id="m1")
    before = await dump(url)
    for keys in ((), (OTHER,)):
        with pytest.raises(Misconfigured, match="sealed"):
            async with bot(url, *keys):
                pass

    assert before == await dump(url)


async def test_an_unsealed_store_goes_on_being_readable(url: str) -> None:
    """What was there is read as it is; the record is sealed by the next turn, and so is what is said from then on."""
    async with bot(url) as keep:
        await keep.receive("ada", f"open {MARKER}", id="m1")
    async with bot(url, OLD) as keep:
        receipt = await keep.receive("ada", "hidden-4712", id="m2")
        log = [message.text async for message in keep.history("ada")]
    held = await dump(url)

    assert ["You said hidden-4712."] == [reply.text for reply in receipt.replies]
    assert f"open {MARKER}" in log
    assert (True, False) == (MARKER.encode() in held, b"hidden-4712" in held)


async def test_a_sealed_store_has_no_full_text_index(url: str) -> None:
    """What an index holds lies there as it is: who seals removes it, and nobody makes one."""
    if "search" not in dir(driver_for(url)):
        pytest.skip("it has none")
    async with bot(url) as keep:
        await keep.receive("ada", MARKER, id="m1")
        index = core_of(keep).text_index
        await index.step(keep=True)
        await index.step()
        before = (await index.find("", MARKER, before=None, limit=5)).hits
    async with bot(url, OLD) as keep:
        able = core_of(keep).text_index.able
        with pytest.raises(Unsupported, match="SEARCH"):
            await core_of(keep).text_index.step(keep=True)
    unsealed = driver_for(url)
    await unsealed.open()
    there = searching(unsealed)
    assert there is not None
    left = await there.index_text(IndexText(1))
    await unsealed.close()

    assert (1, False, Indexed(False, [])) == (len(before), able, left)


async def test_a_new_key_goes_around_without_touching_a_log(url: str) -> None:
    """Wrapped anew: rows and logs stay as they are, to the byte, the new key alone opens them, and the old one nothing."""
    driver = await opened(url, OLD)
    for name in ("ada", "bob"):
        await driver.append(Append(Key("salon", name), [entry()], revision="r1", at=1.0))
    await driver.close()
    driver = await opened(url, NEW, OLD)
    plain = driver.driver
    rows = [row for row in await plain.scan(Scan("key", limit=9)) if row.key.tenant != SPACE]
    first = await reseal_store(plain, [NEW, OLD], at=2.0)
    again = await reseal_store(plain, [NEW, OLD], at=3.0)
    after = [row for row in await plain.scan(Scan("key", limit=9)) if row.key.tenant != SPACE]
    await driver.close()
    driver = await opened(url, NEW)
    found = await driver.read(Read(ADA, tail=1))
    await driver.close()
    with pytest.raises(Misconfigured, match="seal_keys"):
        await sealed_by(url, OLD).open()

    assert (2, 2, 0) == (first.conversations, first.wrapped, again.wrapped)
    assert rows == after
    assert found is not None
    assert MARKER.encode() == found[1][0].body


async def test_erasing_destroys_the_key_first(url: str) -> None:
    """No row with a key is left; where it stops in between, nobody reads what is there, and erasing again ends it."""
    driver = await opened(url)
    await driver.append(Append(ADA, [entry()], revision="r1", at=1.0))
    before = await driver.driver.read(Read(Key(SPACE, mark_of(ADA)), tail=0))
    await driver.driver.erase(Erase(Key(SPACE, mark_of(ADA)), at=2.0))  # as far as an erasure comes that is killed
    other = await opened(url)
    with pytest.raises(Corrupt, match="destroyed"):
        await other.read(Read(ADA, tail=1))
    await other.erase(Erase(ADA, at=3.0))
    left = await other.driver.read(Read(Key(SPACE, mark_of(ADA)), tail=0)), await other.read(Read(ADA, tail=1))
    await driver.close()
    await other.close()

    assert before is not None
    assert (None, None) == left


async def test_who_has_not_heard_of_an_erasure_loses_nothing(url: str) -> None:
    """An instance appends with the key that another one has destroyed: what it has begun is readable by everybody."""
    mine, theirs = await opened(url), await opened(url)
    await mine.append(Append(ADA, [entry("m1")], revision="r1", at=1.0))
    await theirs.erase(Erase(ADA, at=2.0))
    await mine.append(Append(ADA, [entry("m2")], revision="r2", at=3.0))
    found = await theirs.read(Read(ADA, tail=9))
    fresh = await opened(url)
    later = await fresh.read(Read(ADA, tail=9))
    for driver in (mine, theirs, fresh):
        await driver.close()

    assert found is not None
    assert ["m2"] == [one.id for one in found[1]]
    assert found == later
    assert MARKER.encode() == found[1][0].body


async def test_a_late_message_does_not_bring_back_the_key_of_what_was_erased(url: str) -> None:
    """An instance appends with the key that another one has destroyed: its message is read by everybody, and an old copy by nobody."""
    mine, theirs = await opened(url), await opened(url)
    await mine.append(Append(ADA, [entry("m1")], revision="r1", at=1.0))
    copies = await mine.driver.entries(Entries(ADA, after=0))
    await theirs.erase(Erase(ADA, at=2.0))
    row = (await mine.append(Append(ADA, [entry("m2")], revision="r2", at=3.0))).row
    await mine.write(Write(structs.replace(row, revision="r3", updated_at=4.0, body=b"state"), "r2", [entry("m3", 2)]))
    await mine.driver.append(Append(ADA, copies, revision="r4", at=5.0))
    fresh = await opened(url)
    read = await fresh.entries(Entries(ADA, ids=["m2", "m3"]))
    with pytest.raises(Corrupt, match="was destroyed"):
        await fresh.entries(Entries(ADA, ids=["m1"]))
    for driver in (mine, theirs, fresh):
        await driver.close()

    assert [MARKER.encode()] * 2 == [one.body for one in read]


class Watched:
    """A store that takes a while, differently long each time, and remembers each sealed entry that it was given."""

    def __init__(self, url: str, chance: random.Random, given: dict[str, Entry]) -> None:
        self.driver = Intact(url)
        self.chance = chance
        self.given = given

    def __getattr__(self, name: str) -> Any:
        return getattr(self.driver, name)

    async def read(self, act: Read) -> Any:
        """As the driver does it, some time later; so do the others."""
        return await self.driver.read(await self.wait(act))

    async def append(self, act: Append) -> Any:
        """The same."""
        return self.note(act, await self.driver.append(await self.wait(act)))

    async def write(self, act: Write) -> Any:
        """The same."""
        return self.note(act, await self.driver.write(await self.wait(act)))

    async def erase(self, act: Erase) -> None:
        """The same."""
        await self.driver.erase(await self.wait(act))

    def note(self, act: Append | Write, answer: Any) -> Any:
        """Remembers what an act has written."""
        if act.key == ADA:
            self.given |= {one.id: one for one in act.entries}
        return answer

    async def wait(self, act: Any) -> Any:
        """Lets others go first."""
        for _ in range(self.chance.randrange(6)):
            await asyncio.sleep(0)
        return act


@few_or_many("histories", 100, 1000)
async def test_keys_live_as_long_as_what_they_have_sealed(histories: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Instances write to and erase one conversation, all at once: what is left opens, and nothing that is gone does."""
    for seed in range(histories * SOAK):
        chance, url, given = random.Random(seed), f"memory://{secrets.token_hex(8)}", dict[str, Entry]()
        drivers = [
            SealedDriver(cast(Driver, Watched(url, chance, given)), KeyRing([OLD]), clock=lambda: 1.0) for _ in range(3)
        ]
        times = iter(range(10, 10_000))

        async def act(driver: SealedDriver, chance: random.Random = chance, times: Iterator[int] = times) -> None:
            for _ in range(chance.randrange(1, 6)):
                at = float(next(times))
                id, verb = f"m{at}", chance.choice(["append", "append", "write", "create", "erase", "end"])
                with suppress(Conflict):
                    if verb == "append":
                        await driver.append(Append(ADA, [entry(id)], id, at, tail=chance.choice([0, 9])))
                    elif verb == "create":
                        await driver.write(
                            Write(Row(key=ADA, revision=id, incarnation=id, updated_at=at), None, [entry(id)])
                        )
                    elif verb == "erase":
                        await driver.erase(Erase(ADA, at))
                    elif (found := await driver.read(Read(ADA, tail=0))) is not None:
                        row = found[0]
                        if verb == "end":
                            await driver.erase(Erase(ADA, at, row.revision))
                        else:
                            mine = structs.replace(row, revision=id, updated_at=at, body=b"state")
                            await driver.write(Write(mine, row.revision, [entry(id, row.head + 1)]))

        for driver in drivers:
            await driver.open()
        await asyncio.gather(*map(act, drivers))
        fresh = await opened(url)
        left = await fresh.read(Read(ADA, tail=500))
        there = {one.id for one in left[1]} if left is not None else set()
        gone = [one for id, one in given.items() if id not in there]
        if gone:
            await fresh.driver.append(Append(ADA, gone, "put back", 20_000.0))
        with monkeypatch.context() as impatient:
            impatient.setattr(sealing, "PAUSE_S", 0.0)
            for one in gone:
                with pytest.raises(Corrupt, match="was destroyed"):
                    await fresh.entries(Entries(ADA, ids=[one.id]))
        for driver in (*drivers, fresh):
            await driver.close()

        assert left is None or {MARKER.encode()} >= {one.body for one in left[1]}, f"history {seed}"


async def test_a_conversation_that_comes_anew_keeps_its_key(url: str) -> None:
    """An erasure by revision, as the sweep does it, does not take the key of what is begun in that moment."""
    mine, theirs = await opened(url), await opened(url)
    old = (await mine.append(Append(ADA, [entry("m1")], revision="r1", at=1.0))).row
    real = mine.driver.erase

    async def erase(act: Erase) -> None:
        await real(act)
        if act.key == ADA:
            await theirs.append(Append(ADA, [entry("m2")], revision="r2", at=3.0))

    mine.driver.erase = erase  # type: ignore[method-assign]
    await mine.erase(Erase(ADA, at=2.0, revision=old.revision))
    fresh = await opened(url)
    found = await fresh.read(Read(ADA, tail=9))
    for driver in (mine, theirs, fresh):
        await driver.close()

    assert found is not None
    assert ["m2"] == [one.id for one in found[1]]


@pytest.mark.parametrize("damage", ["another ring", "altered", "no keys at all"])
@pytest.mark.parametrize("begins", ["append", "write"])
async def test_keys_that_are_left_of_what_was_erased_are_in_no_way(damage: str, begins: str) -> None:
    """A row of them came back, as out of a copy, and cannot be used: it goes when the conversation is begun anew. Where one is there it
    stays, and is named."""
    url = f"memory://{secrets.token_hex(8)}"
    plain, first = driver_for(url), await opened(url)
    await plain.open()
    await first.append(Append(ADA, [entry()], revision="r1", at=1.0))
    name = Key(SPACE, mark_of(ADA))
    [kept, _] = await plain.read(Read(name, tail=0)) or (None, None)
    assert kept is not None
    body = kept.body.replace(b'"', b"!", 1) if damage == "altered" else kept.body
    if damage == "no keys at all":
        body = b"{}"
    await first.erase(Erase(ADA, at=2.0))
    await reseal_store(plain, [NEW, OLD], at=3.0)
    spare = structs.replace(kept, revision="s", incarnation="s", body=body, updated_at=4.0)
    await plain.write(Write(spare, replaces=None))
    second = await opened(url, NEW)
    if begins == "append":
        await second.append(Append(ADA, [entry("m2")], revision="r2", at=5.0))
    else:
        await second.write(Write(Row(key=ADA, revision="r2", incarnation="r2", updated_at=5.0), None, [entry("m2")]))
    third = await opened(url, NEW)
    log = await third.entries(Entries(ADA, after=0))
    now = await plain.read(Read(name, tail=0))
    other = structs.replace(spare, key=Key(SPACE, mark_of(Key("salon", "bob"))))
    await plain.write(Write(other, replaces=None))
    await reseal_store(plain, [NEW], at=6.0)  # nor in the way of new keys for all
    assert await plain.read(Read(other.key, tail=0)) is None
    await plain.write(Write(structs.replace(spare, revision="t", incarnation=now[0].incarnation), now[0].revision))
    with pytest.raises(Corrupt, match="key"):
        await reseal_store(plain, [NEW], at=6.0)
    fourth = await opened(url, NEW)
    with pytest.raises(Corrupt, match="key"):
        await fourth.append(Append(ADA, [entry("m3")], revision="r3", at=6.0))
    for driver in (plain, first, second, third, fourth):
        await driver.close()

    assert [("m2", MARKER.encode())] == [(one.id, one.body) for one in log]
    assert kept.body not in (now[0].body, b"")


async def test_of_two_that_begin_on_keys_that_are_left_neither_loses_what_it_has_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both find keys that they cannot use, and no conversation; those that the first one has put in their place stay."""
    url, name = f"memory://{secrets.token_hex(8)}", Key(SPACE, mark_of(ADA))
    plain, first, second = driver_for(url), await opened(url), await opened(url)
    await plain.open()
    spare = Row(key=name, revision="s", incarnation="s", body=b"{}", updated_at=1.0)
    await plain.write(Write(spare, replaces=None))
    read = first.driver.read

    async def and_the_other_is_first(act: Read) -> tuple[Row, list[Entry]] | None:
        found = await read(act)
        if act.key == ADA:
            monkeypatch.undo()
            await second.append(Append(ADA, [entry("m2")], revision="r2", at=5.0))
        return found

    monkeypatch.setattr(first.driver, "read", and_the_other_is_first)
    await first.append(Append(ADA, [entry("m1")], revision="r1", at=5.0))
    third = await opened(url)
    log = await third.entries(Entries(ADA, after=0))
    for driver in (plain, first, second, third):
        await driver.close()

    assert [("m2", MARKER.encode()), ("m1", MARKER.encode())] == [(one.id, one.body) for one in log]


async def test_a_body_belongs_where_it_was_sealed() -> None:
    """Put under another id, number, role or conversation, or changed by a bit, it is refused by name."""
    url = f"memory://{secrets.token_hex(8)}"
    driver = await opened(url)
    made = await driver.write(
        Write(Row(key=ADA, revision="r1", incarnation="r1", body=b"state"), None, [entry("", 1), entry("b", 2)])
    )
    found = await driver.driver.read(Read(ADA, tail=2))
    assert found is not None
    row, (first, second) = found
    bob = structs.replace(row, key=Key("salon", "bob"), revision="x", incarnation="x", head=0)
    swapped = [structs.replace(second, id=""), structs.replace(first, id="b")]
    await driver.driver.write(Write(bob, None, swapped))
    await driver.driver.erase(Erase(ADA, at=1.0))
    for turn, entries in enumerate((
        [structs.replace(first, number=0, body=second.body), second],
        [structs.replace(first, role="a"), second],
        [second],
    ), 2):  # fmt: skip
        await driver.driver.write(
            Write(structs.replace(row, revision=f"r{turn}", updated_at=float(turn), head=0), None, entries)
        )
        with pytest.raises(Corrupt, match="altered"):
            await driver.entries(Entries(ADA, after=0))
        await driver.driver.erase(Erase(ADA, at=1.0))
    flipped = structs.replace(row, revision="y", body=row.body[:-1] + bytes([row.body[-1] ^ 1]), updated_at=9.0, head=0)
    await driver.driver.write(Write(flipped, None))
    for key in (ADA, bob.key):
        with pytest.raises(Corrupt):
            await driver.read(Read(key, tail=2))
    scanned = await driver.scan(Scan("key", limit=9))
    await driver.close()

    assert made.head == 2
    assert [ADA, bob.key] == [one.key for one in scanned]


async def test_a_body_that_was_cut_off_is_refused_by_name() -> None:
    """Wherever it was cut: a record or an entry, sealed by the key of the conversation or by one made of it. It holds up no scan."""
    url = f"memory://{secrets.token_hex(8)}"
    driver = await opened(url)
    row = Row(key=ADA, revision="r1", incarnation="r1", body=b"state")
    await driver.write(Write(row, None, [entry("a", 1)]))
    stored = await driver.write(Write(structs.replace(row, revision="r2", head=1), "r1", [entry("b", 2)]))
    found = await driver.driver.read(Read(ADA, tail=2))
    assert found is not None
    whole, entries = found
    refused, scanned, lengths = [], [], []
    for body in (whole.body, entries[0].body, entries[1].body):
        for size in range(1, len(body)):
            await driver.driver.erase(Erase(ADA, at=1.0))
            lengths.append(size)
            record, said = (body[:size], b"") if body is whole.body else (b"", body[:size])
            cut = structs.replace(
                whole, revision=f"cut{len(lengths)}", body=record, updated_at=2.0 + len(lengths), head=0
            )
            await driver.driver.write(Write(cut, None, [Entry(1, "a", "u", said)]))
            scanned += [one.key for one in await driver.scan(Scan("key", limit=9))]
            try:
                await driver.read(Read(ADA, tail=2))
            except Corrupt as fault:
                refused.append(f"{fault}")
    await driver.close()

    assert stored.head == 2
    assert [ADA] * len(lengths) == scanned
    assert len(lengths) == len(refused)
    assert all("salon/ada" in said and "altered" in said for said in refused)


async def test_the_journal_is_sealed(tmp_path: Path) -> None:
    """What waits on this host for a store that is away."""
    from chatkeep.storage.spool import Spool

    path = f"{tmp_path}/journal.db"
    spool = Spool(path, [OLD])
    await spool.open()
    await spool.keep(ADA, entry(), at=1.0, owner="", there=True)
    taken = list[bytes]()

    async def take(key: Key, entries: list[Entry], owner: str, there: bool) -> bool:
        taken.extend(one.body for one in entries)
        return there

    held = subprocess.check_output(["cat", *tmp_path.iterdir()])  # (this process may not open them itself)
    count = await spool.hand_over(take)
    await spool.close()

    assert (1, [MARKER.encode()]) == (count, taken)
    assert MARKER.encode() not in held


async def test_the_shared_cache_is_sealed(valkey: Any) -> None:
    """What instances leave each other: read by those that have the keys."""
    from redis.asyncio import Redis

    url = f"{valkey.url}?prefix={secrets.token_hex(4)}"
    async with bot(url, OLD, cache=valkey.url) as keep:
        await keep.receive("ada", MARKER, id="m1")
        shared = keep._engine.store.shared
        assert shared is not None
        await until(lambda: shared.statistics.writes > 0)
        async with Redis.from_url(valkey.url) as raw:
            held = [
                await raw.get(name)
                async for name in raw.scan_iter("chatkeep:cache:*")
                if await raw.type(name) == b"string"
            ]
        async with bot(url, OLD, cache=valkey.url) as other:
            receipt = await other.receive("ada", "more", id="m2")

    assert ["You said more."] == [reply.text for reply in receipt.replies]
    assert held
    assert all(MARKER.encode() not in (value or b"") for value in held)


async def test_two_at_once_begin_one_conversation_with_one_key(url: str) -> None:
    """The row with the key is made once; both go on with it."""
    drivers = [await opened(url) for _ in range(3)]
    acts = [Append(ADA, [entry(f"m{n}")], revision=f"r{n}", at=1.0) for n in range(3)]
    await asyncio.gather(*[driver.append(act) for driver, act in zip(drivers, acts, strict=True)])
    fresh = await opened(url)
    found = await fresh.read(Read(ADA, tail=9))
    for driver in (*drivers, fresh):
        await driver.close()

    assert found is not None
    assert {"m0", "m1", "m2"} == {one.id for one in found[1]}
    assert {MARKER.encode()} == {one.body for one in found[1]}


async def test_a_conflict_shows_what_is_there(url: str) -> None:
    """Opened: whoever lost goes on from it."""
    mine, theirs = await opened(url), await opened(url)
    row = (await mine.append(Append(ADA, [entry("m1")], revision="r1", at=1.0))).row
    await theirs.write(Write(structs.replace(row, revision="r2", body=b"state"), "r1", [entry("m2", 2)]))
    with pytest.raises(Conflict) as refusal:
        await mine.write(Write(structs.replace(row, revision="r3", body=b"mine"), "r1"))
    await mine.close()
    await theirs.close()

    assert refusal.value.row is not None
    assert b"state" == refusal.value.row.body
    assert [MARKER.encode()] * 2 == [one.body for one in refusal.value.entries]


async def test_sql_is_refused_by_name(postgres: Any) -> None:
    """Functions for users write nothing open into a sealed store; views say what is sealed, and call nothing damaged."""
    schema = f"t{secrets.token_hex(8)}"
    url = f"{postgres.url}?schema={schema}"
    async with bot(url, OLD) as keep:
        await keep.receive("ada", MARKER, id="m1")
    database = await asyncpg.connect(postgres.url)
    calls = (
        "save_conversation('ada', 'trip', 'To Rome', '[]')",
        "append_message('ada', 'trip', '\"hi\"', 'm2')",
        "load_conversations('ada')",
    )
    for call in calls:
        with pytest.raises(asyncpg.FeatureNotSupportedError, match="sealed"):
            await database.execute(f"select {schema}.{call}")
    [row] = await database.fetch(f"select id, state, damaged, sealed, unread from {schema}.conversations")
    await database.close()

    assert ("ada", None, False, True, None) == tuple(row)


def test_commands_take_the_keys_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Export, import, show and reseal; without keys each says what is missing, and shows nothing."""
    url, target, keys = f"{tmp_path}/chat.db", f"{tmp_path}/new.db", tmp_path / "keys"

    async def talk() -> None:
        async with bot(f"sqlite:///{url}", OLD) as keep:
            await keep.receive("ada", MARKER, id="m1")

    asyncio.run(talk())
    run = CliRunner().invoke
    refused = [
        run(main, [*words, url, *rest]) for words, rest in ((["show"], ["ada"]), (["export"], []), (["reseal"], []))
    ]
    keys.write_text(f"{NEW}\n{OLD}\n")
    monkeypatch.setenv("CHATKEEP_SEAL_KEYS_FILE", str(keys))
    shown, written = run(main, ["show", url, "ada"]), run(main, ["export", url, "-o", f"{tmp_path}/all.jsonl"])
    imported = run(main, ["import", target, f"{tmp_path}/all.jsonl"])
    done = run(main, ["reseal", url, "--json"])
    keys.write_text(NEW)
    again = run(main, ["show", url, "ada"])

    assert [2, 2, 2] == [one.exit_code for one in refused]
    assert all("CHATKEEP_SEAL_KEYS_FILE" in one.output for one in refused)
    assert [0] * 5 == [one.exit_code for one in (shown, written, imported, done, again)]
    assert MARKER in shown.output
    assert MARKER in again.output
    assert '"wrapped":1' in done.output
    assert MARKER.encode() in (tmp_path / "all.jsonl").read_bytes()
    assert MARKER.encode() not in Path(target).read_bytes()


@pytest.mark.parametrize("kind", ["sqlite", "redis", "postgresql", "durable-object"])
async def test_nothing_is_found_on_the_disk(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """In the database, its log of changes, append-only files: neither while it is there, nor after it was erased."""
    address, marker = store_url(kind, request, tmp_path), f"marker{secrets.token_hex(12)}"
    fixture = {"redis": "valkey", "postgresql": "postgres", "durable-object": "workerd"}
    folder = tmp_path if kind == "sqlite" else request.getfixturevalue(fixture[kind]).folder

    def is_on_disk(text: str) -> bool:
        ended = subprocess.run(["grep", "-rqaF", text, folder], check=False)  # (this process may not open them itself)
        return ended.returncode == 0

    async with bot(address, OLD) as keep:
        before = keep.tenant("salon")
        await before.user("ann").create("ada", title=marker)
        await before.receive("ada", marker, id="m1", metadata={"from": marker})
        await before.change("ada", lambda state: state.update(cart=[marker]))
        while_there = is_on_disk(marker)
        await before.erase("ada")
        erased = is_on_disk(marker)
        await before.receive(f"name-{marker}", "hello", id="m1")
        named = is_on_disk(f"name-{marker}")

    assert (False, False) == (while_there, erased)
    assert named  # the id of a conversation is not sealed, and is found: so the search sees what is there


def test_a_sealed_store_is_moved_without_its_keys(tmp_path: Path) -> None:
    """As it is: the new store opens with the same keys, and with no others."""
    url, target = f"sqlite:///{tmp_path}/chat.db", f"sqlite:///{tmp_path}/new.db"

    async def talk(url: str, *keys: str) -> list[str]:
        async with bot(url, *keys) as keep:
            await keep.receive("ada", MARKER, id="m1")
            return [message.text async for message in keep.history("ada")]

    before = asyncio.run(talk(url, OLD))
    moved = CliRunner().invoke(main, ["move", url, target, "--finish"])
    after = asyncio.run(talk(target, OLD))
    with pytest.raises(Misconfigured, match="sealed"):
        asyncio.run(talk(target))

    assert 0 == moved.exit_code, moved.output
    assert before == after
