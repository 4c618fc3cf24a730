"""Moving on from a cookie to a store: on the next request, with the same numbers and ids, once."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from chatkeep import Chatkeep, Misconfigured, StoreError, Unavailable
from chatkeep.cookie import CookieChat
from chatkeep.testing.servers import RedisServer, UpstashServer

from ..support.stores import STORES, store_url
from ..support.visitor import KEY, Browser, counting


@pytest.fixture(params=STORES)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh store of each kind."""
    return store_url(request.param, request, tmp_path)


async def log(url: str) -> dict[str, list[tuple[int, str, str]]]:
    """Every conversation of a store: number, id and text of its messages."""
    async with Chatkeep(url) as keep:
        return {
            found.id: [(one.number, one.id, one.text) async for one in keep.history(found.id)]
            async for found in keep.conversations()
        }


async def test_a_chat_moves_on_with_its_next_request(url: str) -> None:
    """State, log, numbers and ids; what the cookie has answered is known there; the cookie only says where it is."""
    ada = Browser()
    first, second = await ada.say("hello", id="m1"), await ada.say("again", id="m2")
    long = len(ada.cookie)
    ada.move(then=url)
    assert {} == await log(url)

    again = await ada.say("hello", id="m1")
    third = await ada.say("third", id="m3")
    await ada.close()
    there = await log(url)
    told = [
        (1, "m1", "hello"),
        (2, first.replies[0].id, "1 of 1"),
        (3, "m2", "again"),
        (4, second.replies[0].id, "2 of 2"),
    ]

    assert (True, first.replies) == (again.duplicate, again.replies)
    assert ("3 of 3", 5) == (third.replies[0].text, third.number)
    assert {third.conversation: [*told, (5, "m3", "third"), (6, third.replies[0].id, "3 of 3")]} == there
    assert len(ada.cookie) < 120 < long


async def test_a_cut_log_keeps_its_numbers(url: str) -> None:
    """What the cookie had no room for is missing in the store, as if retention had taken it."""
    ada = Browser()
    for number in range(60):
        await ada.say(f"{number}: twelve words or so are what a message of somebody has in it", id=f"m{number}")
    ada.move(then=url)
    receipt = await ada.say("in the store", id="n")
    async with ada.open() as chat:
        there = await chat.conversation()
    await ada.close()
    ((numbers, ids, _),) = [list(zip(*entries, strict=True)) for entries in (await log(url)).values()]

    assert (121, "61 of 11") == (receipt.number, receipt.replies[0].text)
    assert list(range(numbers[0], 123)) == list(numbers)
    assert 80 < numbers[0] < 120
    assert f"m{(numbers[0] - 1) // 2}" == ids[0]
    assert {"count": 61} == there.state


async def test_an_old_cookie_changes_nothing_in_the_store(url: str) -> None:
    """It is there already: the store goes on from what it has."""
    ada = Browser()
    await ada.say("hello")
    old = ada.cookie
    ada.move(then=url)
    await ada.say("again")
    ada.cookie = old

    assert "3 of 3" == await ada.hear("from another tab")
    assert 1 == len(await log(url))
    await ada.close()


async def test_many_tabs_move_it_once(url: str) -> None:
    """At the same time, each with the same cookie, in two processes: every message counts, once."""
    ada, eve = Browser(), Browser()
    await ada.say("hello")
    eve.cookie = ada.cookie
    ada.move(then=url)
    eve.move(then=url)
    # (memory:// of one name is one store)
    heard = await asyncio.gather(*(one.hear(f"{n}", id=f"n{n}") for n in range(10) for one in (ada, eve)))
    there = await ada.state()
    await asyncio.gather(ada.close(), eve.close())

    assert {"count": 11} == there
    assert sorted(f"{n}" for n in range(2, 12)) == sorted({one.split()[0] for one in heard})
    assert [22] == [len(entries) for entries in (await log(url)).values()]


async def test_what_was_erased_in_the_store_is_not_brought_back(url: str) -> None:
    """Neither by the cookie that says where it was, nor by an old one with all in it."""
    ada = Browser()
    receipt = await ada.say("hello")
    old = ada.cookie
    ada.move(then=url)
    await ada.say("again")
    async with Chatkeep(url) as keep:
        await keep.erase(receipt.conversation)

    ada.cookie = old
    assert "1 of 1" == await ada.hear("hello")
    ids = set(await log(url))
    await ada.close()

    assert receipt.conversation not in ids
    assert 1 == len(ids)


async def test_what_has_no_room_in_the_cookie_moves_at_once(url: str) -> None:
    """No 413: the turn that was answered is in the store, with the ones before."""
    ada = Browser(then=url)
    ada.cookie = ""
    receipt = await ada.say("fill 5000", id="m1")
    again = await ada.say("fill 5000", id="m1")
    await ada.close()

    assert (1, True, receipt.replies) == (again.number, again.duplicate, again.replies)
    assert [[1, 2]] == [[number for number, _, _ in entries] for entries in (await log(url)).values()]
    assert len(ada.cookie) < 120


async def test_who_writes_once_leaves_nothing_in_the_store(url: str) -> None:
    """The store is not even opened."""
    ada = Browser(then=url)
    assert "1 of 1" == await ada.hear("hello")
    await ada.close()

    assert {} == await log(url)


async def test_a_store_that_is_away_loses_nothing(tmp_path: Path) -> None:
    """The cookie stays as it was, and moves when the store is back."""
    ada = Browser()
    await ada.say("hello")
    before = ada.cookie
    ada.move(then="redis://127.0.0.1:1/0")
    async with ada.open() as chat:
        with pytest.raises(StoreError):
            await chat.receive("again")
        ada.take(chat)
    assert (before, []) == (ada.cookie, ada.headers)
    ada.move(then=f"sqlite:///{tmp_path}/chat.db")

    assert "2 of 2" == await ada.hear("again")
    await ada.close()


async def say(request: Any) -> Response:
    """The body is a message; answers the reply."""
    id = request.headers.get("message-id")
    receipt = await request.state.chat.receive((await request.body()).decode(), id=id)
    return PlainTextResponse(receipt.replies[0].text)


async def show(request: Any) -> Response:
    """How many messages there are."""
    there = await request.state.chat.conversation()
    return PlainTextResponse(f"{there.head}")


async def own(request: Any) -> Response:
    """Answers in its own words that the store is away."""
    try:
        return await say(request)
    except Unavailable:
        return PlainTextResponse("We are closed.", status_code=503)


def answered(http: TestClient, text: str, **told: Any) -> Any:
    """Sends a message until the store is asked again: it is left alone for a second after it did not answer."""
    deadline = time.monotonic() + 20
    while (answer := http.post("/say", content=text, **told)).status_code == 503:
        assert time.monotonic() < deadline
    return answer


ROUTES = [Route("/say", say, methods=["POST"]), Route("/own", own, methods=["POST"]), Route("/", show)]


@pytest.mark.server
@pytest.mark.parametrize("in_store", [False, True], ids=["on its way", "moved before"])
def test_a_store_that_is_away_is_503_and_nothing_is_lost(in_store: bool, tmp_path: Path) -> None:
    """The cookie stays as it was; when the server is back, the chat goes on with all that was said."""
    with RedisServer("valkey-9", tmp_path) as server:
        chats: CookieChat[Any] = CookieChat(counting, keys=[KEY], then=f"{server.url}?timeout=1")
        with TestClient(chats(Starlette(routes=ROUTES)), raise_server_exceptions=False) as http:
            for n in range(1 + in_store):
                http.post("/say", content=f"{n}")
            before = dict(http.cookies)
            server.stop()
            refused = [http.post("/say", content="lost?"), http.get("/")]
            ours = http.post("/own", content="lost?")
            after = dict(http.cookies)
            server.start()
            heard = answered(http, "again").text
            shown = http.get("/").text

    for answer in refused:
        problem = answer.json()
        assert (503, "2") == (answer.status_code, answer.headers["retry-after"])
        assert "application/problem+json" == answer.headers["content-type"]
        assert ("urn:chatkeep:unavailable", 503) == (problem["type"], problem["status"])
        assert "the cookie stays as it was. Try again in a moment" in problem["detail"]
        assert "127.0.0.1" not in answer.text
        assert "set-cookie" not in answer.headers
    assert (503, "We are closed.") == (ours.status_code, ours.text)
    assert before == after
    count = 2 + in_store
    assert (f"{count} of {count}", f"{2 * count}") == (heard, shown)


@pytest.mark.server
def test_a_message_whose_fate_is_unknown_counts_once(tmp_path: Path) -> None:
    """The store does what it is told and its answers are lost: 503, and the same message again is known."""
    with UpstashServer(tmp_path) as server:
        chats: CookieChat[Any] = CookieChat(counting, keys=[KEY], then=f"{server.url}&timeout=1")
        with TestClient(chats(Starlette(routes=ROUTES)), raise_server_exceptions=False) as http:
            for n in range(2):
                http.post("/say", content=f"{n}")
            server.set_faults(lost_answers=1.0)
            refused = http.post("/say", content="once", headers={"message-id": "m"})
            server.set_faults(lost_answers=0.0)
            heard = answered(http, "once", headers={"message-id": "m"})
            shown = http.get("/").text

    assert (503, "2") == (refused.status_code, refused.headers["retry-after"])
    assert "urn:chatkeep:uncertain" == refused.json()["type"]
    assert "set-cookie" not in refused.headers
    assert ("3 of 3", "6") == (heard.text, shown)


def test_an_application_whose_store_was_never_reached_ends_as_ever() -> None:
    """The request that needed the store was told; the end of the lifespan has nothing to close."""
    chats: CookieChat[Any] = CookieChat(counting, keys=[KEY], then="redis://127.0.0.1:1/0")
    with TestClient(chats(Starlette(routes=ROUTES)), raise_server_exceptions=False) as http:
        assert [200, 503] == [http.post("/say", content="hello").status_code for _ in range(2)]


async def test_a_moved_chat_without_its_store_is_a_loud_error() -> None:
    """And no fresh chat: the conversation is there, and somebody has left out where."""
    ada = Browser()
    await ada.say("hello")
    ada.move(then="memory://moved")
    await ada.say("again")
    await ada.close()
    ada.move()
    with pytest.raises(Misconfigured, match="moved to a store"):
        await ada.say("third")


async def test_then_may_be_a_chatkeep_of_the_application() -> None:
    """With its own settings; nobody but the application opens or closes it."""
    keep = Chatkeep("memory://", retention="30d")
    keep.on_message(counting)
    ada = Browser()
    await ada.say("hello")
    ada.move(then=keep)
    async with keep:
        receipt = await ada.say("complete")
        assert "2 of 2" == receipt.replies[0].text
        assert "" == ada.cookie
        await ada.close()
        there = await keep.conversation(receipt.conversation)

    assert there is not None
    assert (2, 4) == (there.state["count"], there.head)


def test_the_lifespan_of_an_application_closes_the_store(tmp_path: Path) -> None:
    """And without one each event loop has a store of its own."""
    chats: CookieChat[Any] = CookieChat(counting, keys=[KEY], then=f"sqlite:///{tmp_path}/chat.db")

    with TestClient(chats(Starlette(routes=ROUTES))) as http:
        heard = [http.post("/say", content="hello").text for _ in range(4)]
        assert chats._keeping._stores
    assert not chats._keeping._stores

    assert ["1 of 1", "2 of 2", "3 of 3", "4 of 4"] == heard
