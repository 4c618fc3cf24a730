"""Scans of indexes that hold places: pages of them, the rows that stand there, and rows that move meanwhile."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import pytest
from msgspec import structs

from chatkeep.drivers.base import AT_ONCE, RECENT_GRAIN_S, Key, Row, Scan, row_at
from chatkeep.drivers.durable_object import acts
from chatkeep.drivers.redis import scripts
from chatkeep.drivers.scanning import Order, first_steps, scan_places

PLACES = [(step, f"{n}") for n, step in enumerate([-9, -9, -9, -7, -7, -5, -5])]


@pytest.mark.parametrize(
    ("least", "ended", "count"),
    [(1, False, 3), (3, False, 3), (4, False, 5), (6, False, 5), (6, True, 7), (5, True, 5), (100, True, 7)],
)
def test_the_first_steps_of_an_index_are_whole(least: int, ended: bool, count: int) -> None:
    """As many as have the places that are wanted; the last one only where nothing is behind it."""
    assert count == first_steps(PLACES, least, ended=ended)


@pytest.mark.parametrize(("places", "ended", "count"), [([], False, 0), ([], True, 0), (PLACES[:3], False, 0)])
def test_a_step_that_may_go_on_is_none(places: list[tuple[int, str]], ended: bool, count: int) -> None:
    """Whoever asks fetches more places first."""
    assert count == first_steps(places, 1, ended=ended)


@pytest.mark.parametrize("order", [acts, scripts])
def test_what_is_never_due_stands_nowhere_among_the_due(order: Order) -> None:
    """Not where it stood when it was due at once: a scan that has found it there a moment before must not show it."""
    was, row = row_at(Key("", "a"), due_at=AT_ONCE), row_at(Key("", "a"))

    assert order.place_of("due", was) < order.place_of("due", row)


class Shelf:
    """A store whose indexes hold places: rows as they are *now*, and as they were when their *places* and *moments* were told."""

    def __init__(self, order: Any, rows: list[Row], *, now: dict[Key, Row | None] | None = None) -> None:
        self.order = order
        self.told = {row.key: row for row in rows}
        self.now: dict[Key, Row | None] = dict(self.told) | (now or {})
        self.read = 0

    async def scan(self, act: Scan, *, page: int, cheaply: bool = False) -> list[Row]:
        """The rows of a scan; *cheaply*: the store tells when rows were changed without reading them."""
        places = {self.order.place_of(act.index, row): row for row in self.told.values()}
        if act.index == "due":
            places = {place: row for place, row in places.items() if row.wake is not None}

        async def places_of(behind: Any, wanted: int) -> tuple[list[Any], bool]:
            found = sorted(place for place in places if behind is None or place > behind)
            return found[:wanted], len(found) > wanted

        async def rows_at(asked: list[Any]) -> list[Row]:
            self.read += len(asked)
            there = ((at, self.now[places[at].key]) for at in asked)
            return [row for at, row in there if row is not None and self.order.place_of(act.index, row) >= at]

        async def moments_at(asked: list[Any]) -> list[Any]:
            return [self.order.moment_of(places[at]) for at in asked]

        return await scan_places(
            act, places_of, rows_at, self.order, page=page, moments_at=moments_at if cheaply else None
        )


def changed(number: int, at: float) -> Row:
    """A row that was changed at a time."""
    return row_at(Key("salon", f"c{number:03}"), updated_at=at)


def lately(rows: Iterable[Row | None]) -> list[Row]:
    """The same, last changed first."""
    return sorted([row for row in rows if row is not None], key=lambda row: (-row.updated_at, row.key))


ORDERS = pytest.mark.parametrize("order", [acts, scripts])
CHEAPLY = pytest.mark.parametrize("cheaply", [False, True])


@ORDERS
@CHEAPLY
@pytest.mark.parametrize("since", [None, 7 * RECENT_GRAIN_S / 2])
async def test_pages_of_what_was_changed_lately_are_a_list(order: Any, cheaply: bool, since: float | None) -> None:
    """Whatever their sizes are, however many rows were changed in one step, or in one moment."""
    chance = random.Random(1)
    for _ in range(60):
        count, steps = chance.choice([0, 1, 30, 120]), chance.choice([1, 2, 9])
        times = [chance.randrange(steps * 4) * RECENT_GRAIN_S / 4 for _ in range(count)]
        shelf = Shelf(order, [changed(number, at) for number, at in enumerate(times)])
        limit, page, seen = chance.choice([1, 7, 50]), chance.choice([3, 25, 100]), list[Row]()
        while True:
            act = Scan("recent", limit=limit, since=since, after=seen[-1] if seen else None)
            rows = await shelf.scan(act, page=page, cheaply=cheaply)
            seen += rows
            if len(rows) < limit:
                break

        assert [row for row in lately(shelf.now.values()) if since is None or row.updated_at >= since] == seen


@ORDERS
@CHEAPLY
async def test_a_row_that_moves_while_it_is_looked_for_is_left_out_or_where_it_stands(
    order: Any, cheaply: bool
) -> None:
    """It has been changed since, and is to come in another step; or it is older by now, by a clock that is behind."""
    chance = random.Random(2)
    for _ in range(60):
        rows = [changed(number, chance.randrange(40) * RECENT_GRAIN_S / 20) for number in range(chance.choice([5, 90]))]
        moved: dict[Key, Row | None] = {row.key: None for row in chance.sample(rows, 3)}
        older = [row for row in chance.sample(rows, 4) if row.key not in moved and row.updated_at % RECENT_GRAIN_S > 1]
        moved |= {row.key: structs.replace(row, updated_at=row.updated_at - 1) for row in older}
        shelf, limit = Shelf(order, rows, now=moved), chance.choice([1, 7, 50])

        assert lately(shelf.now.values())[:limit] == await shelf.scan(
            Scan("recent", limit=limit), page=chance.choice([3, 100]), cheaply=cheaply
        )


@ORDERS
async def test_of_a_large_step_only_what_is_shown_is_read(order: Any) -> None:
    """Where the store tells cheaply when each was changed; of steps before the bound nothing is."""
    shelf = Shelf(order, [changed(number, number / 100) for number in range(200)])
    few = await shelf.scan(Scan("recent", limit=5), page=500, cheaply=True)
    read, shelf.read = shelf.read, 0
    none = await shelf.scan(Scan("recent", limit=5, since=3 * RECENT_GRAIN_S), page=500, cheaply=True)

    assert (lately(shelf.now.values())[:5], 5) == (few, read)
    assert ([], 0) == (none, shelf.read)


@ORDERS
async def test_pages_of_what_is_due_are_a_list_up_to_the_end(order: Any) -> None:
    """A row that is due later by now is shown where it stands, on the page that reaches there; one that is never due, nowhere."""
    chance = random.Random(3)
    for _ in range(60):
        times = [chance.choice([None, *range(9)]) for _ in range(chance.choice([1, 40]))]
        rows = [row_at(Key("", f"c{number:03}"), due_at=at) for number, at in enumerate(times)]
        shelf, seen, limit = Shelf(order, rows), list[Row](), chance.choice([1, 7])
        while True:
            act = Scan("due", limit=limit, until=5.0, after=seen[-1] if seen else None)
            page = await shelf.scan(act, page=chance.choice([3, 100]))
            seen += page
            if len(page) < limit:
                break

        due = [row for row in rows if row.wake is not None and row.wake <= 5.0]
        assert sorted(due, key=lambda row: (row.wake, row.key)) == seen

    first, second, third = (row_at(Key("", name), due_at=at) for name, at in (("a", 1.0), ("b", 2.0), ("c", 3.0)))
    later, never, beyond = (structs.replace(first, due_at=at) for at in (2.5, None, 9.0))
    told = [first, second, third]

    async def shown(now: Row, page: int) -> list[str]:
        rows = await Shelf(order, told, now={first.key: now}).scan(Scan("due", limit=9, until=5.0), page=page)
        return [row.key.id for row in rows]

    assert ["b", "a", "c"] == await shown(later, 9)
    assert ["b", "c"] == await shown(later, 2)
    assert ["b", "c"] == await shown(never, 9) == await shown(beyond, 9)
