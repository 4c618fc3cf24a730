"""Where a store URL becomes a driver. A new backend is one file in this folder and one line in DRIVERS."""

from __future__ import annotations

from importlib import import_module
from typing import cast
from urllib.parse import urlsplit

from ..errors import Unsupported
from .base import Driver

DRIVERS = {
    "memory": "memory:MemoryDriver",
    "sqlite": "sqlite:SqliteDriver",
    "redis": "redis:RedisDriver",
    "rediss": "redis:RedisDriver",
    "redis+cluster": "redis:RedisDriver",
    "redis+sentinel": "redis:RedisDriver",
    "postgresql": "postgresql:PostgresqlDriver",
    "postgres": "postgresql:PostgresqlDriver",
}


def driver_for(url: str) -> Driver:
    """Builds the driver that *url* names; nothing is opened yet.

    Raises `Unsupported` for a scheme without a driver, `Misconfigured` for a URL the driver cannot use, `MissingExtra` (one of
    these) for a driver whose extra is not installed.
    """
    scheme = urlsplit(url).scheme
    if scheme not in DRIVERS:
        known = ", ".join(f"{name}://" for name in DRIVERS)
        raise Unsupported(f"There is no driver for {scheme or url!r}; this version has {known}. Nothing was opened.")
    module, _, name = DRIVERS[scheme].partition(":")
    return cast(Driver, getattr(import_module(f".{module}", __package__), name)(url))
