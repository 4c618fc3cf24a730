"""Opens the store that a command names."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar
from urllib.parse import urlsplit

from ..app import Chatkeep
from ..errors import ChatkeepError, UsageError
from ..model import Conversation
from ..tenant import Tenant
from .printing import plain

T = TypeVar("T")


def look(store: str, tenant: str, work: Callable[[Tenant[Any]], Coroutine[Any, Any, None]]) -> None:
    """Runs *work* on one tenant of a store that is there."""
    keep = existing(store)
    asyncio.run(opened(keep, lambda: work(keep.tenant(tenant))))


def existing(store: str) -> Chatkeep[Any]:
    """A Chatkeep without a bot on a store that is there: it starts no workers. Raises `UsageError`."""
    if not store:
        raise UsageError("STORE is empty; nothing was opened. Name a URL or the file that the bot writes to.")
    url = url_of(store)
    scheme, _, path = url.partition(":///")
    if scheme == "sqlite" and not os.path.isfile(path):
        raise UsageError(f"There is no file {path}; nothing was created. Name the store that the bot writes to.")
    return Chatkeep(
        url, schema=0, on_outage="refuse", journal=None, cache=None
    )  # a server's journal is not ours to open


def url_of(store: str) -> str:
    """The URL of a store that may be given as the path of an SQLite file."""
    return store if "://" in store else f"sqlite:///{store}"


def without_secret(url: str) -> str:
    """*url* as it may be shown."""
    parts = urlsplit(url)
    return url.replace(f":{parts.password}@", ":***@") if parts.password else url


async def opened(keep: Chatkeep[Any], work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """What *work* answers while *keep* is open."""
    async with keep:
        return await work()


async def nothing() -> None:
    """For when opening is all that is wanted."""


async def found_in(of: Tenant[Any], conversation: str, store: str) -> Conversation[Any]:
    """The conversation; ends the program when there is none."""
    found = await of.conversation(conversation)
    if found is None:
        store = without_secret(store)
        raise ChatkeepError(
            f"There is no conversation {plain(conversation, line=True)!r} in {store}. `chatkeep list` has those there are."
        )
    return found
