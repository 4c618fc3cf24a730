"""The browser client against the worker of Durable Objects: a tutoring team's page needs no server of ours, and no Python."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import BrowserContext, Route

from chatkeep import Chatkeep, Turn
from chatkeep.testing.servers import DurableObjectServer

from ..support.browsing import ROOT, again, bare, said, send, wait

SLOTS = {
    "booking form": {"tutor": "Ada", "rate": 1.5},
    "last search": {"subject": "maths", "page": 2},
    "pending match": None,
    "available tutors": ["Ada", "Grace"],
}


@pytest.fixture
def worker() -> Iterator[DurableObjectServer]:
    """A worker that lets visitors in."""
    with DurableObjectServer(settings={"VISITORS": "yes"}) as server:
        yield server


@contextmanager
def answering(url: str) -> Iterator[None]:
    """A bot in Python, on the store, until the end of the block."""
    keep = Chatkeep(url, poll="50ms")
    keep.on_message(answer)
    loop, ended = asyncio.new_event_loop(), asyncio.Event()

    async def serve() -> None:
        async with keep:
            await ended.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=[serve()])
    thread.start()
    yield
    loop.call_soon_threadsafe(ended.set)
    thread.join()
    loop.close()


def answer(turn: Turn) -> str:
    """Turns the page of the last search, which the page has put there."""
    search = turn.state["last search"]
    search["page"] += 1
    return f"page {search['page']} of {search['subject']}"


@pytest.mark.journey
def test_a_tutoring_page_keeps_its_chat(worker: DurableObjectServer, person: BrowserContext) -> None:
    """Messages and slots come back after a refresh, an outage and a kill -9; a second tab sees them; a bot answers when there is one."""
    client = ROOT / "clients" / "js"
    person.route("**/*.js", lambda route: route.fulfill(path=client / route.request.url.rpartition("/")[2]))
    page = bare(person, f"{worker.address}/")
    page.evaluate("(slots) => Object.entries(slots).forEach(([name, value]) => chat.slot(name).set(value))", SLOTS)
    send(page, "hello", "show me other tutors")
    wait(page, "chat.status === 'saved' && chat.unsent === 0")
    again(page)

    assert ["hello", "show me other tutors"] == said(page)
    assert SLOTS == page.evaluate("chat.state")

    other = bare(person, f"{worker.address}/")
    wait(other, "said.length === 2")
    worker.kill()
    page.evaluate("chat.slot('booking form').patch({ day: 'Monday' })")
    send(page, "are you there?")
    wait(page, "chat.status === 'offline' && chat.unsent === 2")
    worker.start()
    wait(page, "chat.unsent === 0")
    wait(other, "said.length === 3 && chat.state['booking form'].day === 'Monday'")
    with answering(worker.url):
        wait(page, "said.includes('page 5 of maths') && chat.state['last search'].page === 5")
        wait(other, "said.length === 6")
    form = page.evaluate("chat.state['booking form']")

    assert {"tutor": "Ada", "rate": 1.5, "day": "Monday"} == form


@pytest.mark.journey
def test_a_slot_whose_answer_is_lost_is_not_written_twice(worker: DurableObjectServer, person: BrowserContext) -> None:
    """The worker knows the change by its key: what somebody else has made of the slot meanwhile stands."""
    client = ROOT / "clients" / "js"
    person.route("**/*.js", lambda route: route.fulfill(path=client / route.request.url.rpartition("/")[2]))
    page = bare(person, f"{worker.address}/")
    page.evaluate("chat.slot('page').set(1)")
    wait(page, "chat.status === 'saved' && chat.unsent === 0")
    asked: list[str] = []

    def lose(route: Route) -> None:
        if route.request.method != "PUT":
            route.fallback()
            return
        asked.append(route.request.headers.get("idempotency-key", ""))
        made = route.fetch()
        if len(asked) == 1:
            others = {"if-match": "*", "content-type": "application/json"}
            told = {"authorization": route.request.headers["authorization"]}
            assert 200 == person.request.put(route.request.url, headers=others | told, data="3").status
            route.abort()
        else:
            route.fulfill(response=made)

    page.route("**/state/page", lose)
    page.evaluate("chat.slot('page').set(2)")
    wait(page, "chat.status === 'saved' && chat.unsent === 0")

    assert 2 == len(asked)
    assert 1 == len(set(asked))
    assert 3 == page.evaluate("chat.state.page")
    again(page)
    wait(page, "chat.state?.page === 3")
