"""Durable records beside the conversations, on every store."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from msgspec import Struct, structs

from chatkeep import Chatkeep, Turn
from chatkeep.drivers.base import Entries
from chatkeep.errors import BadKey, Corrupt, Uncertain
from chatkeep.storage.records import TRACES, Records

from ..support.stores import FAST
from ..support.waiting import nothing_happens_for


class Card(Struct, frozen=True, kw_only=True):
    """What these tests keep."""

    count: int = 0
    label: str = ""


def cards(keep: Chatkeep[Any]) -> Records[Card]:
    """The cards of *keep*'s store."""
    return Records(keep._engine.store, "cards", Card, clock=keep._engine.shared.clock)


def counted(held: Card | None) -> Card:
    """One more."""
    held = held or Card()
    return structs.replace(held, count=held.count + 1)


async def test_a_record_is_made_changed_read_and_erased(opened: Any) -> None:
    """The whole life of a record, as another instance sees it."""
    ours, theirs = cards(await opened()), cards(await opened())

    assert await theirs.get("a") is None
    assert Card(count=1) == await ours.change("a", counted)
    assert Card(count=2) == await theirs.change("a", counted)
    assert Card(count=2) == await ours.get("a")
    await theirs.erase("a")
    assert await ours.get("a") is None
    assert Card(count=1) == await ours.change("a", counted)


async def test_many_writers_lose_nothing(opened: Any) -> None:
    """An edit that conflicts is applied again to what is there by then."""
    ours, theirs = cards(await opened()), cards(await opened())

    await asyncio.gather(*[records.change("a", counted) for records in (ours, theirs) for _ in range(20)])

    assert Card(count=40) == await ours.get("a")


async def test_an_edit_that_answers_none_writes_nothing(opened: Any) -> None:
    """Nothing is made where nothing was, and what is as it was is not written again."""
    keep = await opened()
    records = cards(keep)

    assert await records.change("a", lambda held: held) is None
    assert [] == await keep._engine.store.rows("key", tenant="~cards")
    await records.change("a", counted)
    before = await keep._engine.store.rows("key", tenant="~cards")
    assert Card(count=1) == await records.change("a", lambda held: None)
    assert Card(count=1) == await records.change("a", lambda held: Card(count=1))
    assert before == await keep._engine.store.rows("key", tenant="~cards")


async def test_what_an_edit_raises_comes_through_and_nothing_is_written(opened: Any) -> None:
    """An edit may refuse."""
    records = cards(await opened())
    await records.change("a", counted)

    def refuse(held: Card | None) -> Card:
        raise LookupError("no")

    with pytest.raises(LookupError):
        await records.change("a", refuse)
    assert Card(count=1) == await records.get("a")


async def test_records_are_found_by_their_owner(opened: Any) -> None:
    """In order, over more than a page, from behind a name; an erased one is not."""
    records = cards(await opened())
    names = [f"{number:03}" for number in range(0, 450, 2)]
    await asyncio.gather(*[records.change(name, counted, owner="ada") for name in names])
    await records.change("bob's", counted, owner="bob")
    await records.erase("000")

    assert names[1:] == [name async for name in records.owned("ada")]
    assert names[100:] == [name async for name in records.owned("ada", after="199")]
    assert [] == [name async for name in records.owned("eve")]


async def test_records_and_conversations_do_not_see_each_other(opened: Any) -> None:
    """Same name, different space; no tenant and no listing shows the rows of records."""
    keep = await opened()
    other = Records(keep._engine.store, "stamps", Card, clock=keep._engine.shared.clock)
    await cards(keep).change("a", counted, owner="ada")

    assert await other.get("a") is None
    assert await keep.conversation("a") is None
    assert [] == [found async for found in keep.conversations()]
    assert [] == [found async for found in keep.conversations(owner="ada")]


async def test_no_sweep_session_end_or_retention_touches_a_record(opened: Any) -> None:
    """Its row is never due, whatever is set for conversations, and switching the bots over leaves it as it is."""

    async def bot(turn: Turn[Any]) -> str:
        return "ok"

    keep = await opened(bot, session_ttl="10ms", retention="10ms")
    records = cards(keep)
    await records.change("a", counted)
    await records.change("a", counted)
    before = await keep._engine.store.rows("key", tenant="~cards")

    await keep.pause_all()
    await keep.resume_all(unread="skip")
    await nothing_happens_for(0.15)

    assert [None] == [row.due_at for row in before]
    assert before == await keep._engine.store.rows("key", tenant="~cards")
    assert Card(count=2) == await records.get("a")


async def test_the_log_of_a_record_does_not_grow(opened: Any) -> None:
    """A hundred changes leave the traces of the last ones."""
    keep = await opened(history=5)
    records = cards(keep)
    for _ in range(50):
        await records.change("a", counted)
    entries = await keep._engine.store.driver.entries(Entries(records._key("a"), after=0, limit=500))

    assert TRACES == len(entries)
    assert Card(count=50) == await cards(await opened(history=20)).get("a")


async def test_a_change_whose_answer_was_lost_is_applied_once(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store wrote it and somebody wrote after it, and only then the act is run again."""
    keep, other = await opened(), cards(await opened())
    records = cards(keep)
    await records.change("a", counted)
    driver, lost = keep._engine.store.driver, [True]
    write = driver.write

    async def losing(*args: Any, **options: Any) -> Any:
        done = await write(*args, **options)
        if lost:
            lost.clear()
            await other.change("a", counted)
            raise Uncertain("the answer was lost")
        return done

    monkeypatch.setattr(driver, "write", losing)

    assert Card(count=3) == await records.change("a", counted)


async def test_a_record_that_cannot_be_read_is_never_taken_for_none(opened: Any) -> None:
    """Another kind's record is `Corrupt`, and nothing is written over it."""

    class Stamp(Struct, frozen=True, forbid_unknown_fields=True):
        price: int = 0

    keep = await opened()
    await cards(keep).change("a", counted)
    stamps = Records(keep._engine.store, "cards", Stamp, clock=keep._engine.shared.clock)

    with pytest.raises(Corrupt):
        await stamps.get("a")
    with pytest.raises(Corrupt):
        await stamps.change("a", lambda held: Stamp(price=1))


async def test_a_name_is_as_good_as_a_conversations() -> None:
    """What no store could keep is refused."""
    async with Chatkeep("memory://records", **FAST) as keep:
        for name in ("", "a\0b", "\ud800", "x" * 513):
            with pytest.raises(BadKey):
                await cards(keep).get(name)


class NewCard(Card, frozen=True, kw_only=True):
    """A card of a newer version of chatkeep."""

    owner: str = ""


async def test_what_a_newer_version_keeps_in_a_record_is_carried_along(opened: Any) -> None:
    """An older one changes what it knows."""
    ours, keep = cards(await opened()), await opened()
    theirs = Records(keep._engine.store, "cards", NewCard, clock=keep._engine.shared.clock)
    await theirs.change("a", lambda held: NewCard(owner="ada"))
    await ours.change("a", counted)

    assert NewCard(count=1, owner="ada") == await theirs.get("a")
