"""What every test may use: a fresh store per engine, and the check that nothing is left behind."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from chatkeep import Chatkeep
from chatkeep.testing.servers import PostgresServer, RedisServer

pytest.register_assert_rewrite("tests.support")  # what fails in there is shown as in a test

from .support.stores import FAST, STORES, store_url  # noqa: E402

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Valkey for the whole run; tests keep apart by their prefixes."""
    with RedisServer("valkey-9", tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """A PostgreSQL for the whole run; tests keep apart by their schemas."""
    with PostgresServer(tmp_path_factory.mktemp("postgres")) as server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for the tests of a file."""
    from .support.browsing import launched

    with launched() as browser:
        yield browser


@pytest.fixture
def person(browser: Browser) -> Iterator[BrowserContext]:
    """Somebody with a browser profile of their own."""
    from .support.browsing import profile

    with profile(browser) as context:
        yield context


@pytest.fixture(params=STORES)
def url(request: pytest.FixtureRequest, tmp_path: Any) -> str:
    """A store that several Chatkeeps of one test may open."""
    return store_url(request.param, request, tmp_path)


@pytest.fixture
async def opened(url: str) -> AsyncIterator[Callable[..., Any]]:
    """`await opened(handler, **options)` gives an open Chatkeep on the test's store; all are closed at the end."""
    keeps: list[Chatkeep[Any]] = []

    async def make(handler: Callable[..., Any] | None = None, /, **options: Any) -> Chatkeep[Any]:
        missing = options.pop("on_missing", None)
        keep: Chatkeep[Any] = Chatkeep(options.pop("url", url), **(FAST | options))
        if handler is not None:
            keep.on_message(handler)
        if missing is not None:
            keep.on_missing(missing)
        await keep.open()
        keeps.append(keep)
        return keep

    yield make
    for keep in reversed(keeps):
        await keep.close()
    await asyncio.sleep(0)
    tasks = [task for task in asyncio.all_tasks() if task.get_name().startswith("chatkeep")]

    assert [] == tasks


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """No thread of ours outlives a test (I10)."""
    before = set(threading.enumerate())
    yield
    ours = [thread for thread in set(threading.enumerate()) - before if thread.name.startswith("chatkeep")]
    for thread in ours:  # one that a handler has kept ends when the handler does
        thread.join(2)

    assert [] == [thread for thread in ours if thread.is_alive()]
