"""Opens the store that a command names."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Coroutine
from getpass import getuser
from socket import gethostname
from typing import Any, TypeVar

from ..app import Chatkeep, core_of
from ..drivers import DRIVERS, driver_for
from ..drivers.base import Driver
from ..errors import UsageError
from ..settings import named_seal_keys
from ..storage.audit import Act
from ..storage.relocation import refuse_elsewhere
from ..storage.seal_note import refuse_sealed
from .target import refuse_server

T = TypeVar("T")

LOGIN = "[^/]*:.*@"
"""User and password, as a URL has them."""


def acting() -> str:
    """Return who types on this machine, for the audit log."""
    try:
        user = getuser()
    except (ImportError, KeyError, OSError):  # nobody by that number; or no numbers, and no name in the environment
        user = str(os.getuid()) if hasattr(os, "getuid") else "somebody"
    return f"{user}@{gethostname()}"


async def note_act(keep: Chatkeep[Any], tenant: str, act: str, conversation: str = "") -> None:
    """Have the store keep who has done something on this machine; see `chatkeep audit`."""
    made = Act(act=act, by=acting(), label="chatkeep", conversation=conversation)
    await core_of(keep).audit.write(tenant, [made])


def existing(store: str) -> Chatkeep[Any]:
    """Return a Chatkeep without a bot on a store that is there: it starts no workers. Raises `UsageError`."""
    url = existing_url(store)
    # A server's journal is not ours to open.
    return Chatkeep(url, schema=0, on_outage="refuse", journal=None, cache=None, version="", pin="none")


def shown_path(path: str) -> str:
    """Return *path* as it is shown: what was meant as a URL without user, password and options."""
    return re.sub(r"\?\w+=.*", "?…", re.sub(LOGIN, "…@", path), flags=re.DOTALL)


def existing_url(store: str) -> str:
    """Return the URL of a store, of which the file is there if it is one. Raises `UsageError`."""
    if not store:
        raise UsageError("STORE is empty; nothing was opened. Name a URL or the file that the bot writes to.")
    url = url_of(store)
    if url.startswith("memory:"):  # an empty one of this process's own would be looked into, and given keys
        raise UsageError(
            "memory:// is in the process of the bot alone; nothing was opened. Ask its server, or use a file."
        )
    path = file_of(url)
    if path is not None and not os.path.isfile(path):
        raise UsageError(
            f"There is no file {shown_path(path)}; nothing was created. Name the store that the bot writes to."
        )
    return url


def driver_with_keys(url: str) -> Driver:
    """Return the driver of a store, which seals and opens with the keys that the environment or the settings file names."""
    keys = named_seal_keys()
    if not keys:
        return driver_for(url)
    from ..storage.sealing import sealed  # an extra: imported only where it is wanted

    return sealed(driver_for(url), keys)


async def open_driver(driver: Driver) -> None:
    """Open a driver; raises where the store was moved, or is sealed and no key was named."""
    await driver.open()
    await refuse_elsewhere(driver)
    await refuse_sealed(driver)


def file_of(url: str) -> str | None:
    """Return the path of an SQLite file; None for a store of another kind."""
    scheme, _, path = url.partition(":///")
    return path if scheme == "sqlite" else None


def url_of(store: str) -> str:
    """Return the URL of a store, with its scheme in lower case; it may be given as the path of an SQLite file."""
    refuse_server(store)
    scheme, colon, rest = store.partition(":")
    if not colon or scheme.lower() not in DRIVERS:
        if "://" in store:
            return store
        if re.search(LOGIN, store) and not os.path.lexists(store):
            raise UsageError(
                f"There is no file {shown_path(store)}; nothing was opened. A URL begins with its scheme, such as redis://."
            )
        return f"sqlite:///{store}"
    if not rest.startswith("//"):
        # (What comes there is not shown: it may have a password in it.)
        raise UsageError(f"What comes behind {scheme}: in a URL begins with //; nothing was opened.")
    return f"{scheme.lower()}:{rest}"  # as drivers are found, so that whoever looks at the scheme sees which


def target_url(store: str) -> str:
    """Return the URL of a store that is written to, and made if it is not there. Raises `UsageError`."""
    url = url_of(store)
    if url.startswith("memory:"):
        raise UsageError("A memory:// store would be gone with this command; nothing was written. Use a file.")
    return url


async def opened(keep: Chatkeep[Any], work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Return what *work* answers while *keep* is open."""
    async with keep:
        return await work()


async def nothing() -> None:
    """Do nothing, where opening is all that is wanted."""
