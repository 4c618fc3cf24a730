"""Where a store URL becomes a driver. A new backend is one file in this folder and one line in DRIVERS."""

from __future__ import annotations

from importlib import import_module
from typing import cast
from urllib.parse import urlsplit

from ..errors import Misconfigured, Unsupported
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

EXTRAS = {"redis": "redis", "postgresql": "postgres"}
"""The extra that installs what a driver's module needs."""


def driver_for(url: str) -> Driver:
    """Builds the driver that *url* names; nothing is opened yet.

    Raises `Unsupported` for a scheme without a driver, `Misconfigured` for a URL the driver cannot use.
    """
    scheme = urlsplit(url).scheme
    if scheme not in DRIVERS:
        known = ", ".join(f"{name}://" for name in DRIVERS)
        raise Unsupported(f"There is no driver for {scheme or url!r}; this version has {known}. Nothing was opened.")
    module, _, name = DRIVERS[scheme].partition(":")
    try:
        found = import_module(f".{module}", __package__)
    except ImportError as missing:
        extra = f"[{EXTRAS[module]}]" if module in EXTRAS else ""
        raise Misconfigured(f"{scheme}:// needs {missing.name!r}; install chatkeep{extra}.") from missing
    return cast(Driver, getattr(found, name)(url))
