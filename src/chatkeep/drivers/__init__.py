"""Where a store URL becomes a driver, and the names that the author of a driver needs.

A driver of chatkeep's own is a folder here and a line in DRIVERS. One of another package is found by its entry point: see
docs/how-to/own-store.md.
"""

from __future__ import annotations

from importlib import import_module
from os import PathLike, fspath
from typing import cast

from ..errors import ChatkeepError, Misconfigured, Unsupported
from ..kinds import refuse_other
from .base import (
    AT_ONCE,
    ENTRIES_MOST,
    RECENT_GRAIN_S,
    TOMBSTONE_KEPT_S,
    Ability,
    Append,
    Appended,
    Count,
    Counted,
    Driver,
    Entries,
    Entry,
    EntryWords,
    Erase,
    Fence,
    Finding,
    Hit,
    Hits,
    Index,
    Indexed,
    IndexText,
    Key,
    Lease,
    Pool,
    Read,
    Row,
    Scan,
    Search,
    Searching,
    Term,
    Unindexed,
    Write,
    mark_of,
)
from .openable import Openable

__all__ = [
    "AT_ONCE",
    "ENTRIES_MOST",
    "RECENT_GRAIN_S",
    "TOMBSTONE_KEPT_S",
    "Ability",
    "Append",
    "Appended",
    "Count",
    "Counted",
    "Driver",
    "Entries",
    "Entry",
    "EntryWords",
    "Erase",
    "Fence",
    "Finding",
    "Hit",
    "Hits",
    "Index",
    "IndexText",
    "Indexed",
    "Key",
    "Lease",
    "Openable",
    "Pool",
    "Read",
    "Row",
    "Scan",
    "Search",
    "Searching",
    "Term",
    "Unindexed",
    "Write",
    "driver_for",
    "mark_of",
]

DRIVERS = {
    "memory": "memory:MemoryDriver",
    "sqlite": "sqlite:SqliteDriver",
    "redis": "redis:RedisDriver",
    "rediss": "redis:RedisDriver",
    "redis+cluster": "redis:RedisDriver",
    "redis+sentinel": "redis:RedisDriver",
    "upstash": "upstash:UpstashDriver",
    "postgresql": "postgresql:PostgresqlDriver",
    "postgres": "postgresql:PostgresqlDriver",
    "durable-object": "durable_object:DurableObjectDriver",
}

HOSTLESS = ("memory", "sqlite")
"""Schemes whose URL names no host."""

ENTRY_POINTS = "chatkeep.drivers"
"""The group in which another package names its driver, by the scheme of its URLs."""


def driver_for(url: str) -> Driver:
    """Build the driver that *url* names; nothing is opened yet.

    Raises `Unsupported` for a scheme without a driver, `Misconfigured` for a URL the driver cannot use, or a driver of another
    package that cannot be imported, `MissingExtra` (one of these) for a driver whose extra is not installed.
    """
    scheme = url.partition(":")[0].lower() if ":" in url else ""
    if not url:
        raise Misconfigured(
            "The store's URL is empty. Write one such as sqlite:///chat.db or redis://127.0.0.1:6379/0. Nothing was opened."
        )
    if "://" not in url and scheme not in DRIVERS:
        raise Misconfigured(
            f"{url!r} is not a URL. Write sqlite:///{url} for the SQLite file of that name. Nothing was opened."
            if "@" not in url
            else "The store is not a URL, such as sqlite:///chat.db or redis://127.0.0.1:6379/0. Nothing was opened."
        )
    if scheme not in DRIVERS:
        return _installed(scheme, url)
    if scheme not in HOSTLESS:
        # (It imports urllib.parse and ipaddress: who has the store in a file does without.)
        from .url import host_fault

        if fault := host_fault(url):
            raise Misconfigured(f"The {scheme}:// URL of the store is wrong: {fault}. Nothing was opened.")
    module, _, name = DRIVERS[scheme].partition(":")
    return cast(Driver, getattr(import_module(f".{module}", __package__), name)(url))


def check_driver(found: object) -> Driver:
    """Return *found*, which somebody gives as a driver. Raises `Misconfigured`, with all that it lacks, when it is none."""
    if isinstance(found, PathLike):
        raise Misconfigured(
            f'A store is named by a URL, not by a path: write "sqlite:///{fspath(found)}". Nothing was opened.'
        )
    refuse_other(
        found,
        Driver,
        "driver",
        "A store is a URL, such as sqlite:///chat.db, or a driver (see chatkeep.drivers.Driver).",
    )
    driver = cast(Driver, found)
    if wrong := sorted(repr(ability) for ability in driver.abilities if not isinstance(ability, Ability)):
        raise Misconfigured(
            f"{type(found).__name__} declares {', '.join(wrong)} as abilities, which are none. Write them as members of "
            "chatkeep.drivers.Ability, such as Ability.LOG. Nothing was opened."
        )
    return driver


def _installed(scheme: str, url: str) -> Driver:
    """Build the driver that another package has for *scheme*."""
    from importlib.metadata import entry_points  # slow to import: only those pay who have such a driver

    found = {point.value: point for point in entry_points(group=ENTRY_POINTS, name=scheme)}
    if not found:
        from difflib import get_close_matches  # only an error needs it

        others = sorted({point.name for point in entry_points(group=ENTRY_POINTS)} - set(DRIVERS))
        known = ", ".join(f"{name}://" for name in DRIVERS)
        known += f", and other packages have {', '.join(f'{name}://' for name in others)}" if others else ""
        near = get_close_matches(scheme, [*DRIVERS, *others], n=1, cutoff=0.75)
        meant = f" (did you mean {near[0]}://?)" if near else ""
        raise Unsupported(
            f"There is no driver for {scheme or url!r}{meant}; this version has {known}. Nothing was opened. One of your own is given as "
            f'an object, Chatkeep(MyDriver(...)), or named by an entry point "{scheme or "scheme"}" of the group {ENTRY_POINTS}, in a '
            "package that is installed here."
        )
    if len(found) > 1:
        raise Misconfigured(
            f"Several installed packages have a driver for {scheme}://: {', '.join(sorted(found))}. Nothing was opened. Remove all but one."
        )
    ((value, point),) = found.items()
    try:
        driver = point.load()
    except ChatkeepError:
        raise
    except Exception as exc:
        raise Misconfigured(
            f"The driver for {scheme}://, {value}, cannot be imported ({type(exc).__name__}: {exc}). Nothing was opened."
        ) from exc
    return check_driver(driver(url))
