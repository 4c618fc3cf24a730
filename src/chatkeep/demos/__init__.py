"""The reference bots: small, complete, and meant to be read and copied. A new one is one file and one line in DEMOS."""

from __future__ import annotations

from importlib import import_module
from typing import Any, NamedTuple

from ..errors import UsageError
from ..keep import Chatkeep


class Demo(NamedTuple):
    """A bot that can be run: what people see as its name, and the function that builds its Chatkeep for a store URL."""

    title: str
    build: str


DEMOS = {
    "restaurant": Demo("Bella Napoli", "restaurant:build"),
}


def demo_for(name: str, url: str) -> Chatkeep[Any]:
    """The Chatkeep of demo *name* on the store *url*; nothing is opened yet. Raises `UsageError` for an unknown name."""
    if name not in DEMOS:
        raise UsageError(f"There is no demo {name!r}; there are: {', '.join(DEMOS)}. Nothing was opened.")
    module, _, function = DEMOS[name].build.partition(":")
    keep: Chatkeep[Any] = getattr(import_module(f".{module}", __package__), function)(url)
    return keep
