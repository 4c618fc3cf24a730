"""Moving a store: what is copied, what is followed, who is refused, and that it may be killed at every act."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from click.testing import CliRunner
from msgspec import structs

from chatkeep import Chatkeep, Moved, Replaced, Unavailable
from chatkeep.cli import main
from chatkeep.cli.exits import UNFIT
from chatkeep.drivers.base import Ability, Append, Driver, Erase, Fence, Key, Read, Row, Scan, Write
from chatkeep.errors import Conflict, Corrupt, Misconfigured, Uncertain, Unsupported
from chatkeep.storage import pacing
from chatkeep.storage.moving import Move
from chatkeep.storage.relocation import NOTE
from chatkeep.testing.crash import VERBS, Wrapped, wrapped

from ..support.moves import LONG, copied, counting_bot, filled, held, moved, opened_on, said
from ..support.stores import FAST, STORES
from ..support.waiting import time_passes, until

T = TypeVar("T")

ADA = Key("salon", "ada")
WAYS = [
    way for there, back in zip(STORES, (*STORES[1:], STORES[0]), strict=True) for way in ((there, back), (back, there))
]
"""From each kind of store to its neighbours in the list."""

NOW = time.time() + 1000  # (Marks of erasures of long ago are forgotten.)


@pytest.mark.parametrize(("source", "target"), WAYS)
async def test_a_moved_store_holds_the_very_same(source: str, target: str, fresh: Any) -> None:
    """Every row and every entry, field by field, from each kind of store and to each."""
    (_, ours), (_, theirs) = await fresh(source), await fresh(target)
    await filled(ours)
    before, epoch = await held(ours), ours.epoch
    walk = await moved(ours, theirs)

    assert before == await held(theirs)
    assert (len(before), walk.checksum) == (walk.conversations, walk.checksum_there)
    assert epoch == theirs.epoch
    assert await theirs.read(Read(NOTE, tail=0)) is None


async def test_whatever_changes_meanwhile_is_followed(fresh: Any) -> None:
    """Messages, redactions, retention, erasures, and a conversation that was begun anew under the same name."""
    (_, ours), (_, theirs) = await fresh("sqlite"), await fresh("memory")
    await filled(ours)
    move = await copied(ours, theirs)

    row = (await ours.append(Append(LONG, said(461, 470), revision="n1", at=NOW))).row
    await ours.write(Write(structs.replace(row, revision="n2"), replaces="n1", drop=440, blank=[450]))
    await ours.erase(Erase(ADA, at=NOW))
    await ours.append(Append(ADA, said(7, 8), revision="new", at=NOW + 1))
    await ours.append(Append(Key("", "fresh"), said(1, 1), revision="f1", at=NOW + 2))
    assert 3 == await move.follow()
    assert await held(ours) == await held(theirs)
    await ours.erase(Erase(LONG, at=NOW + 3))
    await ours.append(Append(Key("", "fresh"), said(2, 2), revision="f2", at=NOW + 4))
    await move.finish()

    assert await held(ours) == await held(theirs)
    with pytest.raises(Conflict, match="erased later"):
        await theirs.append(Append(LONG, said(1, 1), revision="late", at=NOW + 3))


async def test_a_redaction_is_followed(fresh: Any) -> None:
    """What was copied before is not left in the new store, though the log only grew by a note."""
    (url, ours), (_, theirs) = await fresh("memory"), await fresh("memory")
    async with counting_bot(Chatkeep(url, **FAST)) as keep:
        await keep.receive("ada", "4111 1111 1111 1111", id="1")
        move = await copied(ours, theirs)
        await keep.redact("ada", 1)
        await move.follow()
        assert await held(ours) == await held(theirs)
        await move.finish()

    assert await held(ours) == await held(theirs)


class Killed(Exception):
    """The process that moves ended here."""


class Slow(Wrapped):
    """Answers in its time only for a few rows at once."""

    def __getattr__(self, name: str) -> Any:
        if name != "scan":
            return super().__getattr__(name)

        async def scan(act: Scan) -> list[Row]:
            if act.limit > 12:
                raise Unavailable("silent for 5 s")
            return await self.inner.scan(act)

        return scan


async def test_a_store_that_cannot_answer_for_many_rows_is_asked_for_fewer(fresh: Any) -> None:
    """A page of five hundred rows may take such a store longer than any act may take, however often it is asked again."""
    (_, ours), (_, theirs) = await fresh("memory"), await fresh("sqlite")
    for number in range(60):
        await ours.append(Append(Key("", f"c{number}"), said(1, 2), revision="r", at=50.0))
    began = time.monotonic()
    walk = await moved(wrapped(Slow(ours)), theirs)

    assert 60 == walk.conversations
    assert time.monotonic() - began < 60


class Busy(Wrapped):
    """Does one act after another; who has waited too long has gone, but what was asked for is done all the same."""

    ROW_S = 0.004
    GIVEN_UP_S = 0.25

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self.busy_until = 0.0
        self.late = 0

    def __getattr__(self, name: str) -> Any:
        verb = super().__getattr__(name)
        if name not in ("read", "write", "scan"):
            return verb

        async def do(act: Any) -> Any:
            now = time.monotonic()
            told = await verb(act)
            rows = len(told) if name == "scan" else 1
            self.busy_until = done_at = max(self.busy_until, now) + rows * self.ROW_S
            await time_passes(min(done_at - now, self.GIVEN_UP_S))
            if done_at > now + self.GIVEN_UP_S:
                self.late += 1
                raise Uncertain("silent for 0.25 s")
            return told

        return do


@pytest.mark.slow
@pytest.mark.parametrize("which", ["source", "target"])
async def test_a_store_is_asked_for_no_more_at_once_than_it_keeps_up_with(
    which: str, fresh: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it works for those who have given up, and answers nobody: neither the move nor those who use the store."""
    monkeypatch.setattr(pacing, "PAGE_S", 0.4 * Busy.GIVEN_UP_S)
    monkeypatch.setattr(pacing, "LONG_S", 0.8 * Busy.GIVEN_UP_S)
    (_, ours), (_, theirs) = await fresh("memory"), await fresh("memory")
    for number in range(250):
        await ours.append(Append(Key("", f"c{number:03}"), said(1, 2), revision="r", at=50.0))
    busy = Busy(ours if which == "source" else theirs)
    walk = await (moved(wrapped(busy), theirs) if which == "source" else moved(ours, wrapped(busy)))

    assert 250 == walk.conversations
    assert busy.late < 25


class Dying(Wrapped):
    """Ends at the nth act that changes anything, before it is done or after."""

    def __init__(self, inner: Driver, left: list[float]) -> None:
        super().__init__(inner)
        self.left = left

    async def around(self, verb: str, act: Callable[[], Awaitable[T]]) -> T:
        """Count half before the act and half after it."""
        if verb not in ("write", "erase", "append", "fence"):
            return await act()
        self._die()
        found = await act()
        self._die()
        return found

    def _die(self) -> None:
        self.left[0] -= 0.5
        if self.left[0] <= 0:
            raise Killed

    def __getattr__(self, name: str) -> Any:
        if name == "fence":
            return lambda act: self.around("fence", lambda: self.inner.fence(act))
        assert name in VERBS or name in ("epoch", "abilities", "fence"), name
        return super().__getattr__(name)


async def attempt(
    ours: Driver, theirs: Driver, left: float, meanwhile: Callable[[], Awaitable[None]] | None = None
) -> bool:
    """One run of the move that ends after so many changes; whether it came to its end."""
    many = [left]
    try:
        move = Move(wrapped(Dying(ours, many)), wrapped(Dying(theirs, many)), address="there", together=3)
        if await move.begin():
            await move.copy()
            if meanwhile is not None:
                await meanwhile()
            await move.finish()
        return True
    except Killed:
        return False


@pytest.mark.slow
async def test_a_move_that_is_killed_at_every_write_is_run_again(fresh: Any) -> None:
    """Before and after each act that changes anything, the fences too: the next run brings the very same over."""
    kills, done = 0, False
    while not done:
        (_, ours), (_, theirs) = await fresh("memory"), await fresh("memory")
        await filled(ours)
        before = await held(ours)
        done = await attempt(ours, theirs, kills / 2)
        assert done or await attempt(ours, theirs, 1e9)

        assert before == await held(theirs), kills
        assert (f"moved:{theirs.epoch}", None) == (ours.epoch, await theirs.read(Read(NOTE, tail=0)))
        kills += 1

    assert kills > 25


async def test_a_move_that_is_killed_again_and_again_comes_to_its_end(fresh: Any) -> None:
    """Each run ends a few acts after it began, while messages come in and conversations go; on real stores."""
    (_, ours), (_, theirs) = await fresh("sqlite"), await fresh("sqlite")
    await filled(ours)
    count = 0

    async def meanwhile() -> None:
        nonlocal count
        count += 1
        if ours.epoch.startswith("moved:"):
            return
        await ours.append(Append(LONG, said(460 + count, 460 + count), revision=f"n{count}", at=NOW + count))
        await ours.append(Append(Key("", f"new{count}"), said(1, 2), revision="n", at=NOW + count))
        if count % 2:
            await ours.erase(Erase(Key("", f"new{count - 1}"), at=NOW + count))

    for left in range(3, 60):
        if await attempt(ours, theirs, left, meanwhile):
            break
    else:
        pytest.fail("it came to no end")

    assert count > 3
    assert await held(ours) == await held(theirs)


async def test_who_is_refused_before_anything_is_touched(fresh: Any) -> None:
    """The same store, one that is not empty, one that is part of another move, one that was moved away."""
    (url, ours), (_, theirs), (_, third) = await fresh("memory"), await fresh("memory"), await fresh("memory")
    await filled(ours)
    same = await opened_on(url)
    with pytest.raises(Misconfigured, match="same store"):
        await Move(ours, same, address="x").begin()
    await third.append(Append(ADA, said(1, 1), revision="r", at=1.0))
    before, epoch = await held(third), third.epoch
    with pytest.raises(Misconfigured, match="not empty"):
        await Move(ours, third, address="x").begin()
    assert (before, epoch) == (await held(third), third.epoch)

    assert await Move(ours, theirs, address="there").begin()
    with pytest.raises(Misconfigured, match="another store"):
        await Move(third, theirs, address="there").begin()
    with pytest.raises(Misconfigured, match="being filled"):
        await Move(theirs, third, address="there").begin()
    await moved(ours, theirs)
    (_, fourth) = await fresh("memory")
    with pytest.raises(Moved, match="moved to there"):
        await Move(ours, fourth, address="elsewhere").begin()
    with pytest.raises(Misconfigured, match=r"itself moved to there.*Name an empty store"):
        await Move(third, ours, address="x").begin()
    assert not await Move(ours, theirs, address="there").begin()
    assert fourth.epoch not in ("", ours.epoch)
    assert {} == await held(fourth)


async def test_somebody_who_has_the_new_store_open_is_fenced_off(fresh: Any) -> None:
    """And no instance begins to answer what is not complete."""
    (_, ours), (url, theirs) = await fresh("memory"), await fresh("memory")
    await filled(ours)
    async with counting_bot(Chatkeep(url, **FAST)) as keep:
        move = Move(ours, theirs, address=url)
        assert await move.begin()
        with pytest.raises(Replaced):
            await keep.receive("ada", "hi")
    with pytest.raises(Unavailable, match="being filled by `chatkeep move`"):
        async with Chatkeep(url):
            pass
    await move.copy()
    await move.finish()
    async with counting_bot(Chatkeep(url, **FAST)) as keep:
        assert (await keep.receive("bob", "hi")).replies


@pytest.mark.parametrize("kind", STORES)
@pytest.mark.parametrize("options", [{}, {"on_replaced": "reopen"}])
async def test_a_late_instance_is_told_where_to_go(kind: str, options: dict[str, Any], fresh: Any) -> None:
    """One that runs, at its next act, and one that is started later, at its opening; none begins afresh."""
    (url, ours), (there, theirs) = await fresh(kind), await fresh("memory")
    async with counting_bot(Chatkeep(url, **FAST, **options)) as late:
        await late.receive("ada", "one", id="1")
        await moved(ours, theirs, there)
        with pytest.raises(Moved, match=there):
            await late.receive("ada", "two", id="2")
        with pytest.raises(Moved, match=there):
            await late.accept("bob", "three", id="3")
        await until(lambda: there in late.trouble)
    with pytest.raises(Moved, match=there):
        async with Chatkeep(url):
            pass
    if kind != "memory":  # (of which nothing can be seen from outside)
        looked = await asyncio.to_thread(CliRunner().invoke, main, ["check", url])
        assert (UNFIT, True) == (looked.exit_code, "FAIL  moved " in looked.output)
    async with counting_bot(Chatkeep(there, **FAST)) as keep:
        assert ["re one"] == [reply.text for reply in (await keep.receive("ada", "one", id="1")).replies]
        assert await keep.conversation("bob") is None


async def test_what_a_journal_holds_is_handed_to_the_new_store(fresh: Any, tmp_path: Path) -> None:
    """A journal belongs to an epoch, and the new store has taken that over."""
    (url, ours), (there, theirs) = await fresh("sqlite"), await fresh("sqlite")
    journal = {"on_outage": "journal", "journal": str(tmp_path / "journal.db")}
    async with Chatkeep(url, **FAST, **journal) as keep:
        await keep.accept("ada", "in the old store", id="1")
        spool = keep._engine.journal.spool  # type: ignore[union-attr]
        _, log = (await held(ours))[Key("", "ada")]
        await moved(ours, theirs, there)
        await spool.keep(Key("", "bob"), structs.replace(log[0], id="2"), at=1.0, owner="")
    async with Chatkeep(there, **FAST, **journal) as keep:
        await until(lambda: len(keep._engine.journal.spool) == 0)  # type: ignore[union-attr]

        assert {Key("", "ada"), Key("", "bob")} <= (await held(theirs)).keys()


async def test_a_move_that_is_cancelled_opens_the_old_store_again(fresh: Any) -> None:
    """Also between the fence and the end; whoever had it open goes on. A finished one cannot be cancelled."""
    (url, ours), (there, theirs) = await fresh("memory"), await fresh("memory")
    async with counting_bot(Chatkeep(url, **FAST)) as keep:
        await keep.receive("ada", "one", id="1")
        move = Move(ours, theirs, address=there)
        assert await move.begin()
        await ours.fence(Fence(f"moved:{ours.epoch}"))
        with pytest.raises(Replaced):
            await keep.receive("ada", "two", id="2")
        _, third = await fresh("memory")
        with pytest.raises(Misconfigured, match="is not what FROM is moved to"):
            await Move(ours, third, address="x").cancel()
        await Move(ours, theirs, address=there).cancel()

        async def answered() -> bool:
            try:
                return bool((await keep.receive("ada", "two", id="2")).replies)
            except Unavailable:
                return False

        await until(answered)
    await moved(ours, theirs, there)
    with pytest.raises(Misconfigured, match="finished"):
        await Move(ours, theirs, address=there).cancel()


async def test_a_store_that_cannot_be_fenced_needs_everybody_stopped(fresh: Any) -> None:
    """It is copied, and not finished before somebody says so; as the new one it is known by its note."""

    class Unfenced(Wrapped):
        abilities = frozenset(Ability) - {Ability.FENCE}

    (_, inner), (_, other) = await fresh("memory"), await fresh("memory")
    ours, theirs = wrapped(Unfenced(inner)), wrapped(Unfenced(other))
    await filled(inner)
    move = await copied(ours, theirs)
    with pytest.raises(Unsupported, match="--stopped"):
        await move.finish()
    again = await copied(ours, theirs)
    await again.finish(stopped=True)

    assert await held(inner) == await held(other)


async def test_what_another_run_has_left_is_compared_to_the_last_byte(fresh: Any) -> None:
    """What somebody has changed in the new store meanwhile is copied anew, though the revision is the right one."""
    (_, ours), (_, theirs) = await fresh("memory"), await fresh("memory")
    await filled(ours)
    await copied(ours, theirs)
    log = theirs._shelf.logs[LONG]  # type: ignore[attr-defined]
    log[100] = structs.replace(log[100], body=b"another")
    again = Move(ours, theirs, address="there")
    assert await again.begin()

    assert 1 == (await again.copy()).changed
    assert await held(ours) == await held(theirs)


async def test_a_log_with_a_hole_stops_the_move_by_name(fresh: Any) -> None:
    """It is not passed over in silence, and what is there stays."""
    (_, ours), (_, theirs) = await fresh("memory"), await fresh("memory")
    await filled(ours)
    del ours._shelf.logs[LONG][100]  # type: ignore[attr-defined]
    move = Move(ours, theirs, address="there")
    assert await move.begin()

    with pytest.raises(Corrupt, match="long: log entries are missing"):
        await move.copy()
