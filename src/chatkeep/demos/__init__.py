"""The reference bots: small, complete, and meant to be read and copied. A new one is one file and one line in BOTS."""

from __future__ import annotations

from importlib import import_module
from typing import Any, NamedTuple

from ..app import Chatkeep
from ..errors import UsageError
from ..secrecy import without_entries


class Demo(NamedTuple):
    """A bot that can be run. Calling it makes its Chatkeep on a store; only then is its module imported."""

    title: str
    module: str

    def __call__(self, url: str, **options: Any) -> Chatkeep[Any]:
        """Return the bot on the store *url*; nothing is opened yet. *options* are those of its `build`, and `Settings`."""
        keep: Chatkeep[Any] = import_module(f".{self.module}", __package__).build(url, **options)
        return keep


BOTS = {
    "restaurant": Demo("Bella Napoli", "restaurant"),
    "bulk": Demo("Printworks", "bulk"),
    "tutoring": Demo("Tutor Desk", "tutoring"),
    "salon": Demo("Studio Rosa", "salon"),
}


def demo_for(name: str, url: str, **options: Any) -> Chatkeep[Any]:
    """Return the Chatkeep of bot *name* on the store *url*; nothing is opened yet. Raises `UsageError` for an unknown name."""
    if name not in BOTS:
        raise UsageError(
            f"There is no demo {without_entries(name)!r}; there are: {', '.join(BOTS)}. Nothing was opened."
        )
    return BOTS[name](url, **options)
