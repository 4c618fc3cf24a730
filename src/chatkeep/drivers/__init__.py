"""Where a store URL becomes a driver. A new backend is one file in this folder and one line in DRIVERS."""

from __future__ import annotations

from importlib import import_module
from typing import cast

from ..errors import Misconfigured, Unsupported
from .base import Driver
from .url import host_fault

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


def driver_for(url: str) -> Driver:
    """Build the driver that *url* names; nothing is opened yet.

    Raises `Unsupported` for a scheme without a driver, `Misconfigured` for a URL the driver cannot use, `MissingExtra` (one of
    these) for a driver whose extra is not installed.
    """
    scheme = url.partition(":")[0].lower() if ":" in url else ""
    if url and "://" not in url and scheme not in DRIVERS:
        raise Misconfigured(
            f"{url!r} is not a URL. Write sqlite:///{url} for the SQLite file of that name. Nothing was opened."
            if "@" not in url
            else "The store is not a URL, such as sqlite:///chat.db or redis://127.0.0.1:6379/0. Nothing was opened."
        )
    if scheme not in HOSTLESS and scheme in DRIVERS and (fault := host_fault(url)):
        raise Misconfigured(f"The {scheme}:// URL of the store is wrong: {fault}. Nothing was opened.")
    if scheme not in DRIVERS:
        known = ", ".join(f"{name}://" for name in DRIVERS)
        raise Unsupported(f"There is no driver for {scheme or url!r}; this version has {known}. Nothing was opened.")
    module, _, name = DRIVERS[scheme].partition(":")
    return cast(Driver, getattr(import_module(f".{module}", __package__), name)(url))
