"""The journal: durable here, handed over in order, and nothing let go before it was taken."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from chatkeep.drivers.base import Entry, Erase, Key, Scan
from chatkeep.errors import Corrupt, Misconfigured, Unavailable
from chatkeep.storage.spool import Spool

ADA, BOB = Key("", "ada"), Key("salon", "bob")


def journal(folder: Path) -> Spool:
    """A journal on the test's file."""
    return Spool(f"{folder}/journal.db")


class Taker:
    """What a store would take, until it is told to fail."""

    def __init__(self) -> None:
        self.taken: list[tuple[Key, str, str]] = []
        self.fails_after: int | None = None
        self.there: set[Key] = set()

    async def __call__(self, key: Key, entries: list[Entry], owner: str, there: bool) -> bool:
        """Takes *entries*; what is only for a conversation that is there, if one of these is."""
        if there and key not in self.there:
            return False
        if self.fails_after is not None and len(self.taken) >= self.fails_after:
            raise Unavailable("away again")
        self.taken += [(key, entry.id, owner) for entry in entries]
        self.there.add(key)
        await asyncio.sleep(0)
        return True


async def test_what_is_kept_survives_and_is_handed_over_in_order(tmp_path: Path) -> None:
    """Across a restart; then nothing is held any more."""
    before = journal(tmp_path)
    await before.open()
    for number in range(3):
        await before.keep(ADA, Entry(0, f"a{number}", "u", b"hi"), at=float(number), owner="ann")
        await before.keep(BOB, Entry(0, f"b{number}", "u", b"hi"), at=float(number), owner="")
    await before.close()
    after, store = journal(tmp_path), Taker()
    await after.open()

    assert (True, True, 2) == (after.holds(ADA), after.holds(BOB), len(after))
    assert 6 == await after.hand_over(store)
    assert [(ADA, f"a{n}", "ann") for n in range(3)] == [taken for taken in store.taken if taken[0] == ADA]
    assert [(BOB, f"b{n}", "") for n in range(3)] == [taken for taken in store.taken if taken[0] == BOB]
    assert (False, 0) == (after.holds(ADA), len(after))
    assert 0 == await after.hand_over(store)
    await after.close()


async def test_its_files_are_its_owners_alone(tmp_path: Path) -> None:
    """Also the one by which a second process is told: whoever locked that would keep the bot from starting."""
    kept = journal(tmp_path)
    await kept.open()
    await kept.keep(ADA, Entry(0, "a0", "u", b"hi"), at=1.0, owner="ann")
    modes = {file.name: file.stat().st_mode & 0o777 for file in tmp_path.iterdir()}
    await kept.close()

    assert {"journal.db", "journal.db.lock"} <= modes.keys()
    assert {0o600} == set(modes.values())


async def test_what_was_not_taken_stays(tmp_path: Path) -> None:
    """A store that goes away in the middle gets the rest later, and nothing that it has twice."""
    kept, store = journal(tmp_path), Taker()
    await kept.open()
    for key in (ADA, BOB):
        await kept.keep(key, Entry(0, "m", "u", b"hi"), at=1.0, owner="")
    store.fails_after = 1
    with pytest.raises(Unavailable):
        await kept.hand_over(store)

    assert 1 == len(kept)

    store.fails_after = None
    await kept.hand_over(store)

    assert sorted([ADA, BOB]) == sorted(key for key, _, _ in store.taken)
    await kept.close()


@pytest.mark.parametrize("pause_s", [0.0, 0.004])
@pytest.mark.parametrize("keys", [(), ("a secret that nobody guesses",)], ids=["plain", "sealed"])
async def test_what_comes_while_it_is_handed_over_is_not_forgotten(
    tmp_path: Path, keys: tuple[str, ...], pause_s: float
) -> None:
    """However it falls between the looks of the hand-over; also where each act takes several of the driver's, as with keys."""
    kept, store = Spool(f"{tmp_path}/journal.db", keys), Taker()
    await kept.open()
    wanted = []

    async def write() -> None:
        for number in range(60):
            wanted.append(f"m{number}")
            await kept.keep(ADA, Entry(0, f"m{number}", "u", b"hi"), at=float(number), owner="")
            await asyncio.sleep(random.random() * pause_s)

    writer = asyncio.create_task(write())
    while not writer.done():
        await kept.hand_over(store)
        await asyncio.sleep(0)
    await kept.hand_over(store)

    assert wanted == [id for _, id, _ in store.taken]
    assert 0 == len(kept)
    await kept.close()


async def test_what_could_not_be_written_does_not_hold_up_later_messages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk refuses the message; when the store is back, nothing waits behind what was never kept."""
    kept = journal(tmp_path)
    await kept.open()
    with monkeypatch.context() as full:
        full.setattr(kept._driver, "append", lambda *_, **__: asyncio.sleep(0, kept._driver.closed()))  # type: ignore[attr-defined]
        with pytest.raises(AttributeError):
            await kept.keep(ADA, Entry(0, "a", "u", b"hi"), at=1.0, owner="")

    assert 0 == await kept.hand_over(Taker())
    assert (False, 0) == (kept.holds(ADA), len(kept))
    await kept.close()


async def test_what_is_for_a_conversation_that_is_there_begins_none(tmp_path: Path) -> None:
    """It is let go of where none is, for good: not what began the conversation behind it, also where the store goes away in between."""
    before, store = journal(tmp_path), Taker()
    await before.open()
    for key in (ADA, BOB):
        await before.keep(key, Entry(0, "waited", "u", b"hi"), at=1.0, owner="ann", there=True)
        await before.keep(key, Entry(0, "fresh", "u", b"hi"), at=2.0, owner="ann")
        await before.keep(key, Entry(0, "more", "u", b"hi"), at=3.0, owner="ann", there=True)
    await before.close()
    kept = journal(tmp_path)
    await kept.open()
    store.there.add(BOB)
    store.fails_after = 1
    with pytest.raises(Unavailable):
        await kept.hand_over(store)
    store.fails_after = None
    store.there.add(ADA)  # somebody else has begun it meanwhile
    given, dropped = await kept.hand_over(store), kept.dropped

    assert [(ADA, "fresh", "ann"), (ADA, "fresh", "ann"), (ADA, "more", "ann")] == [
        t for t in store.taken if t[0] == ADA
    ]
    assert ["waited", "fresh", "more"] == [id for key, id, _ in store.taken if key == BOB]
    assert (5, 0) == (given, dropped)
    assert [] == await kept._driver.scan(Scan("key", limit=9))
    await kept.close()


@pytest.mark.parametrize("first_there", [True, False])
async def test_what_was_also_kept_to_begin_a_conversation_begins_one(tmp_path: Path, *, first_there: bool) -> None:
    """Whoever was told that it is accepted, whatever becomes of the conversation, is not betrayed by one who sent it with a condition."""
    kept, store = journal(tmp_path), Taker()
    await kept.open()
    for there in (first_there, not first_there):
        await kept.keep(ADA, Entry(0, "m", "u", b"hi"), at=1.0, owner="", there=there)
    given, dropped = await kept.hand_over(store), kept.dropped

    assert (1, 0, [(ADA, "m", "")]) == (given, dropped, store.taken)
    await kept.close()


async def test_what_it_is_for_is_known_of_what_comes_at_the_end_of_a_hand_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message for a conversation that is there comes while that of before is let go of: it begins none either, and no note is left."""
    kept, store = journal(tmp_path), Taker()
    await kept.open()
    await kept.keep(ADA, Entry(0, "early", "u", b"hi"), at=1.0, owner="", there=True)
    erase, late = kept._driver.erase, list[asyncio.Task[None]]()

    async def and_another_comes(act: Erase) -> None:
        if act.key == ADA:
            monkeypatch.undo()
            another = kept.keep(ADA, Entry(0, "late", "u", b"hi"), at=2.0, owner="", there=True)
            late.append(asyncio.create_task(another))
            await asyncio.sleep(0)
        await erase(act)

    monkeypatch.setattr(kept._driver, "erase", and_another_comes)
    await kept.hand_over(store)
    await late[0]
    assert kept.holds(ADA)
    await kept.hand_over(store)

    assert [] == store.taken
    assert (1, 0) == (kept.dropped, len(kept))
    assert [] == await kept._driver.scan(Scan("key", limit=9))
    await kept.close()


async def test_a_journal_has_one_process(tmp_path: Path) -> None:
    """A second one is told to take another file; a closed journal is free again."""
    first, second = journal(tmp_path), journal(tmp_path)
    await first.open()
    with pytest.raises(Misconfigured, match="of its own"):
        await second.open()
    await first.close()
    await second.open()
    await second.close()


async def test_what_was_erased_is_not_handed_over(tmp_path: Path) -> None:
    """Nor does anything of it stay in the file, name and owner included; what comes later is kept again."""
    kept, store = journal(tmp_path), Taker()
    await kept.open()
    await kept.keep(ADA, Entry(0, "secret", "u", b"hi"), at=5.0, owner="ann")
    await kept.erase(ADA)

    assert (0, []) == (await kept.hand_over(store), store.taken)
    assert [] == await kept._driver.scan(Scan("key", limit=9))

    await kept.keep(ADA, Entry(0, "later", "u", b"hi"), at=4.0, owner="")
    await kept.hand_over(store)

    assert [(ADA, "later", "")] == store.taken
    assert [] == await kept._driver.scan(Scan("key", limit=9))
    await kept.close()


async def test_what_is_erased_while_others_are_handed_over_ends_it_all_the_same(tmp_path: Path) -> None:
    """Before its own turn, and in the middle of it."""
    kept, store = journal(tmp_path), Taker()
    await kept.open()
    for key in (ADA, BOB):
        await kept.keep(key, Entry(0, "m", "u", b"hi"), at=1.0, owner="")

    async def take(key: Key, entries: list[Entry], owner: str, there: bool) -> bool:
        for each in (ADA, BOB):
            await kept.erase(each)
        return await store(key, entries, owner, there)

    async with asyncio.timeout(60):
        given = await kept.hand_over(take)

    assert [(ADA, "m", "")] == store.taken
    assert (1, 0) == (given, len(kept))
    await kept.close()


async def test_what_comes_behind_an_erasure_is_handed_over(tmp_path: Path) -> None:
    """Also where the conversation was erased in the middle of a hand-over: what comes then is numbered from the first again."""
    kept, store = journal(tmp_path), Taker()
    await kept.open()
    await kept.keep(ADA, Entry(0, "before", "u", b"hi"), at=1.0, owner="")

    async def take(key: Key, entries: list[Entry], owner: str, there: bool) -> bool:
        if not store.taken:
            await kept.erase(ADA)
            await kept.keep(ADA, Entry(0, "behind", "u", b"hi"), at=2.0, owner="")
        return await store(key, entries, owner, there)

    async with asyncio.timeout(60):
        await kept.hand_over(take)
        await kept.hand_over(take)

    assert ["before", "behind"] == [id for _, id, _ in store.taken]
    assert 0 == len(kept)
    await kept.close()


async def test_a_journal_keeps_to_its_store(tmp_path: Path) -> None:
    """Messages for one store never get into another; an empty journal may change hands."""
    kept = journal(tmp_path)
    await kept.open()
    await kept.belong("shop")
    await kept.belong("clinic")
    await kept.keep(ADA, Entry(0, "m", "u", b"hi"), at=1.0, owner="")
    with pytest.raises(Misconfigured, match="another store"):
        await kept.belong("shop")
    await kept.belong("clinic")
    await kept.close()


async def test_a_conversation_that_is_refused_holds_up_no_other(tmp_path: Path) -> None:
    """It stays, with the reason, and is given when it can be taken."""
    kept, store = journal(tmp_path), Taker()
    await kept.open()
    for key in (ADA, BOB):
        await kept.keep(key, Entry(0, "m", "u", b"hi"), at=1.0, owner="")
    damaged = {ADA}

    async def take(key: Key, entries: list[Entry], owner: str, there: bool) -> bool:
        if key in damaged:
            raise Corrupt("damaged")
        return await store(key, entries, owner, there)

    assert 1 == await kept.hand_over(take)
    assert (["damaged"], [ADA]) == ([str(fault) for fault in kept.refused.values()], list(kept.refused))
    assert (True, False) == (kept.holds(ADA), kept.holds(BOB))

    damaged.clear()

    assert 1 == await kept.hand_over(take)
    assert ({}, 0) == (kept.refused, len(kept))
    await kept.close()


async def test_a_journal_that_could_not_be_opened_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever opens it next finds no lock and no connection of the first."""
    first, second = journal(tmp_path), journal(tmp_path)

    async def unreadable(*_: object, **__: object) -> None:
        raise Corrupt("damaged")

    monkeypatch.setattr(first._driver, "scan", unreadable)
    with pytest.raises(Corrupt):
        await first.open()
    await second.open()
    await second.close()


async def test_a_journal_and_its_lock_stay_where_they_are_after_a_chdir(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path is one of the folder in which it was named; another process that names the same file is refused."""
    monkeypatch.chdir(tmp_path)
    here = Spool("journal.db")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    await here.open()
    with pytest.raises(Misconfigured, match="in use by another process"):
        await journal(tmp_path).open()
    await here.close()

    assert [] == list(Path().iterdir())
