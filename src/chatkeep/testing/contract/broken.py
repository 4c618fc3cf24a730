"""Drivers that each break a clause of the contract, and the tests of the contract that must catch them.

A suite that nobody has seen fail proves nothing: `tests/testing/test_contract.py` runs every line of BROKEN. Each
is the memory driver with one thing done wrong, mostly a thing that a real driver got wrong once. It stands in the file
of the first clause that it breaks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ...drivers.base import Ability
from ...drivers.memory import SHELVES, MemoryDriver

D = TypeVar("D", bound="type[Intact]")


class Intact(MemoryDriver):
    """The memory driver on a named shelf, which several drivers share and which is there when they open it again."""

    abilities = MemoryDriver.abilities | {Ability.SHARED, Ability.DURABLE}


def empty_shelf(url: str) -> None:
    """Take everything out of a memory:// store, as FLUSHALL would; whoever watches goes on watching."""
    shelf = SHELVES[url.partition("://")[2]]
    watching = shelf.watching
    shelf.__init__()  # type: ignore[misc]
    shelf.watching = watching


BROKEN: dict[str, tuple[type[Intact], dict[str, type[Exception]]]] = {}
"""Name: the driver, and the methods of `DriverContract` that must fail on it, each with the exception it fails with."""


def caught_by(*clauses: str, raises: type[Exception] = AssertionError) -> Callable[[D], D]:
    """Enters a driver into BROKEN with the *clauses* (without their `test_`) that must catch it, and how they fail."""

    def enter(driver: D) -> D:
        entered, caught = BROKEN.setdefault(driver.__name__, (driver, {}))
        assert entered is driver, f"{driver.__name__} is the name of two broken drivers"
        caught.update({f"test_{clause}": raises for clause in clauses})
        return driver

    return enter
