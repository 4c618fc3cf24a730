"""Who goes through a log holds a page of it at a time, by its size: a store is asked for some megabytes at once, however many ask."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from chatkeep import Chatkeep, Turn
from chatkeep.app import core_of
from chatkeep.drivers.base import Entries, Entry, Key, Read
from chatkeep.server.access import EXPORTS
from chatkeep.storage.paging import FIRST_READ, PAGE_BYTES, Paging, fitting, outline, walk_back
from chatkeep.storage.reader import PAGE

from ..support.serving import served
from ..support.snapshots import message, note
from ..support.stores import FAST
from ..support.waiting import nothing_happens_for

LARGE = 100_000
"""Bytes of one message: a hundred of them are ten megabytes."""


async def parrot(turn: Turn[Any]) -> str:
    """Answers with what was said."""
    return turn.text


@asynccontextmanager
async def filled(messages: int) -> AsyncIterator[Chatkeep[Any]]:
    """A Chatkeep with a conversation of so many large messages, and as many answers."""
    keep = Chatkeep[Any]("memory://", **FAST)
    keep.on_message(parrot)
    async with keep:
        for number in range(messages):
            await keep.receive("ada", f"{number}".rjust(LARGE, "x"), id=f"m{number}")
        yield keep


async def preview(keep: Chatkeep[Any]) -> None:
    """Looks at what retention would end."""
    told: dict[str, Any] = {"retention_s": 1e9, "forget_after_s": None, "forget_visitors_s": None}
    async for _ in core_of(keep).preview_ends(None, **told):
        pass


async def story(keep: Chatkeep[Any]) -> None:
    """Asks the server why a conversation is as it is."""
    async with served(keep) as client:
        told = await client.ask("GET", "/v1/conversations/ada/story")

    assert 50 == len(told.json["turns"])
    assert 1 == told.json["turns"][-1]["first"]


async def search(keep: Chatkeep[Any]) -> None:
    """Looks for what was said first."""
    async with served(keep) as client:
        told = await client.ask("GET", "/v1/desk/conversations?text=xx0")

    assert 1 <= told.json["conversations"][0]["found_in"] <= 2


WALKS: dict[str, Callable[[Chatkeep[Any]], Any]] = {
    "losses": lambda keep: keep.losses("ada"),
    "as of": lambda keep: keep.as_of("ada", 50),
    "doubts": lambda keep: keep.doubts("ada"),
    "duplicate": lambda keep: keep.receive("ada", "0".rjust(LARGE, "x"), id="m0"),
    "redact": lambda keep: keep.redact("ada", 1),
    "preview of ends": preview,
    "story": story,
    "search of the desk": search,
}


@pytest.mark.parametrize("walk", WALKS.values(), ids=WALKS)
async def test_a_log_is_read_by_its_size(walk: Callable[[Chatkeep[Any]], Any]) -> None:
    """No walk through the log takes more of it at once than a first read, and pages of the size that this one tells."""
    async with filled(50) as keep:
        driver, answered = keep._engine.store.driver, list[int]()
        entries = driver.entries

        async def counted(act: Entries) -> list[Entry]:
            found = await entries(act)
            answered.append(sum(len(entry.body) for entry in found))
            return found

        driver.entries = counted  # type: ignore[method-assign]
        await walk(keep)

    assert 0 < max(answered) < FIRST_READ * (LARGE + 500)


async def test_exports_are_read_a_few_at_a_time() -> None:
    """Of many that are asked for at the same time; each is whole."""
    async with filled(3) as keep:
        driver, running, most = keep._engine.store.driver, 0, 0
        read = driver.read

        async def slow(act: Read) -> Any:
            nonlocal running, most
            if act.key != Key("", "ada") or not act.tail:  # (a credential, or whether there is such a conversation)
                return await read(act)
            running += 1
            most = max(most, running)
            await nothing_happens_for(0.01)
            running -= 1
            return await read(act)

        driver.read = slow  # type: ignore[method-assign]
        async with served(keep) as client, aiohttp.ClientSession() as session:

            async def export() -> bytes:
                address = f"http://127.0.0.1:{client.port}/v1/export?conversation=ada"
                async with session.get(address, headers={"Authorization": f"Bearer {client.key}"}) as told:
                    return await told.read()

            told = await asyncio.gather(*(export() for _ in range(8)))

    assert {9} == {said.count(b"\n") for said in told}
    assert EXPORTS == most


def test_a_page_ends_with_the_message_that_makes_it_large() -> None:
    """As many are asked for next as make a page of that size: one at least, and never more than a store is asked for."""
    half = [message(n, content="x" * (PAGE_BYTES // 2)) for n in range(1, 6)]
    small, huge, paging = [message(n) for n in range(1, 6)], message(1, content="x" * 3 * PAGE_BYTES), Paging()
    seen = [(paging.limit, 0)]
    for messages in (half, small, [huge, *small], half[:1], []):
        count = paging.fit(messages)
        seen.append((paging.limit, count))

    assert [(FIRST_READ, 0), (1, 2), (PAGE, 5), (1, 1), (1, 1), (1, 0)] == seen
    assert [2, 5, 0] == [fitting(messages) for messages in (half, small, [])]


def test_an_outline_has_what_happened_and_not_what_was_said() -> None:
    """The notes say it."""
    log = [message(1), message(2, "assistant"), note(3, "dead", content="its reason"), message(4, "operator")]

    assert ["", "", "its reason", ""] == [one.content for one in outline(log)]
    assert log[2] is outline(log)[2]
    assert [1, 2, 3, 4] == [one.number for one in outline(log)]


@pytest.mark.parametrize(
    ("before", "limit", "expected"),
    [(100, 3, [5, 6, 7]), (5, 100, [1, 2, 3, 4]), (5, 0, []), (5, 2, [3, 4]), (1, 5, [])],
)
async def test_a_log_is_read_backwards_up_to_a_limit(before: int, limit: int, expected: list[int]) -> None:
    """Each page in the order of the log."""
    async with Chatkeep[Any]("memory://") as keep:
        for number in range(7):
            await keep.accept("ada", f"{number}", id=f"m{number}", role="operator")
        store = keep._engine.store
        snapshot = await store.load(Key("", "ada"))
        assert snapshot is not None
        pages = [
            page
            async for page in walk_back(store, Key("", "ada"), snapshot.row.incarnation, before=before, limit=limit)
        ]

    assert expected == [one.number for page in reversed(pages) for one in page]
