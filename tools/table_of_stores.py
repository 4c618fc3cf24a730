"""Writes the tables of docs/reference/stores.md from what the drivers declare: `python tools/table_of_stores.py`."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from chatkeep.drivers import DRIVERS
from chatkeep.drivers.base import Ability

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "stores.md"
BEGIN = "<!-- made by tools/table_of_stores.py from what the drivers declare -->\n"
END = "<!-- end -->\n"

COLUMNS = {
    Ability.SHARED: "shared by processes",
    Ability.DURABLE: "durable",
    Ability.LOG: "whole log",
    Ability.SCAN: "found by key, due, owner, recency",
    Ability.WATCH: "announces changes",
    Ability.EPOCH: "tells a replaced store",
    Ability.COUNT: "counts hits for all",
    Ability.FENCE: "can be closed for others",
    Ability.SEARCH: "full-text index",
}


def drivers() -> list[Any]:
    """Return the classes of all drivers that ship, each once."""
    places = dict.fromkeys(DRIVERS.values())
    return [
        getattr(import_module(f"chatkeep.drivers.{module}"), name)
        for module, _, name in (place.partition(":") for place in places)
    ]


def tables() -> str:
    """Say what each can do, and what each costs and does not promise."""
    can = (
        ["store", *COLUMNS.values()],
        *([names(kind), *map(lambda one, kind=kind: said(kind, one), COLUMNS)] for kind in drivers()),
    )
    more = ["store", "for", "costs", "not promised"], *([names(kind), *texts(kind)] for kind in drivers())
    return f"{table(*can)}\n{table(*more)}"


def names(kind: Any) -> str:
    """Return the URLs of a driver."""
    return ", ".join(f"`{url}`" for url in kind.about.urls)


def texts(kind: Any) -> tuple[str, str, str]:
    """Return what a driver says of itself."""
    return kind.about.use, kind.about.costs, kind.about.lacks


def said(kind: Any, ability: Ability) -> str:
    """Return what a cell says."""
    return str(kind.about.depends.get(ability, "yes" if ability in kind.abilities else "no"))


def table(head: list[str], *rows: list[str]) -> str:
    """Return lines of Markdown."""
    return "".join(f"| {' | '.join(row)} |\n" for row in [head, ["---"] * len(head), *rows])


def written(page: str) -> str:
    """Return the page with the tables in it."""
    start, rest = page.split(BEGIN)
    return start + BEGIN + "\n" + tables() + "\n" + END + rest.split(END, 1)[1]


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
