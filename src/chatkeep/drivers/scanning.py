"""Scans of a store whose indexes hold places: where each row stands, and the rows elsewhere.

The places are looked for first, then the rows that stand at them. In between a row may have moved: what stands elsewhere by then is left
out, and is still to come. An index may have a row that is due later at a place of before: such a row is shown where it stands.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from math import inf
from operator import itemgetter
from typing import Any, Protocol

from .base import Index, Row, Scan, step_at

SPARE = 20
"""So many places more than rows are asked for at first of the index `recent`: its newest step ends within them where not many rows have
been changed in it."""

PlacesOf = Callable[[Any, int], Awaitable[tuple[list[Any], bool]]]
"""Answers so many places behind one (None: from the beginning), and whether there are more."""

RowsAt = Callable[[list[Any]], Awaitable[list[Row]]]
"""Answers the rows that stand at places, or, of the index `due`, behind them."""

MomentsAt = Callable[[list[Any]], Awaitable[list[Any]]]
"""Answers for places of the index `recent` what `Order.moment_of` says of the rows there."""


class Order(Protocol):
    """What a driver's module of acts says of the order of its indexes."""

    def place_of(self, index: Index, row: Row) -> Any:
        """Return where a row stands in an index."""

    def step_of(self, row: Row) -> Any:
        """Return the place before all others of a row's step of the index `recent`."""

    def moment_of(self, row: Row) -> Any:
        """Return where a row stands among those changed lately, exactly: when it was changed, below zero, and what orders the others."""


async def scan_places(
    act: Scan,
    places_of: PlacesOf,
    rows_at: RowsAt,
    order: Order,
    *,
    page: int,
    moments_at: MomentsAt | None = None,
) -> list[Row]:
    """Return the rows of a scan, at most *page* of which are looked for at once. With *moments_at*, where a store tells that more cheaply
    than whole rows, only those of a large step of the index `recent` are read that are shown."""
    if act.index == "recent":
        newest = partial(_newest, act, rows_at, moments_at, order)
        return await _scan_recent(act, places_of, newest, order, page=page)
    place = None if act.after is None else order.place_of(act.index, act.after)
    rows: list[Row] = []
    more = True
    while more and len(rows) < act.limit:
        places, more = await places_of(place, min(act.limit - len(rows), page))
        place = places[-1] if places else place
        found = await rows_at(places)
        rows += due_rows(act, found, order, place if more else None) if act.index == "due" else found
    return rows


def due_rows(act: Scan, found: list[Row], order: Order, last: Any) -> list[Row]:
    """Return the rows of a page in the order in which they are due, without those that are due later than it ends: behind its *last* place,
    where they are still to come (None: it has no end), or behind the end of the scan."""
    until = inf if act.until is None else act.until
    placed = sorted([(order.place_of("due", row), row) for row in found if due_of(row) <= until], key=itemgetter(0))
    return [row for place, row in placed if last is None or place <= last]


def due_of(row: Row) -> float:
    """Return when the index `due` shows a row; that of a row which is never due is no time of any place."""
    return inf if row.wake is None else row.wake


def last_score(act: Scan) -> float | None:
    """Return the score of the last places that a scan has to look at; None where it goes to the end of its index."""
    if act.index == "recent":
        return None if act.since is None else float(-step_at(act.since))
    return act.until


async def _scan_recent(
    act: Scan,
    places_of: PlacesOf,
    newest: Callable[[list[Any], int], Awaitable[list[Row]]],
    order: Order,
    *,
    page: int,
) -> list[Row]:
    """Return the rows of a scan of the index `recent`, step by step: the index has the steps, and within one only the rows know which
    was changed last. Of steps that end before the scan does no row is read."""
    last = last_score(act)
    place = None if act.after is None else order.step_of(act.after)
    rows: list[Row] = []
    held: list[Any] = []
    wanted, more = act.limit + SPARE, True
    while len(rows) < act.limit:
        if whole := first_steps(held, act.limit - len(rows), ended=not more):
            rows += await newest(held[:whole], act.limit - len(rows))
            held = held[whole:]
        elif more:
            wanted = min(wanted, page)
            places, more = await places_of(place, wanted)
            within = len(places) if last is None else bisect_right(places, last, key=itemgetter(0))
            held, more = held + places[:within], more and within == len(places)
            place = held[-1] if held else None
            wanted *= 2
        else:
            break
    return rows[: act.limit]


async def _newest(
    act: Scan,
    rows_at: RowsAt,
    moments_at: MomentsAt | None,
    order: Order,
    places: list[Any],
    wanted: int,
) -> list[Row]:
    """Return the rows at *places*, which are whole steps, that were changed before the last page's and within the scan's bound: last
    changed first, as many as are *wanted* or more."""
    behind = None if act.after is None else order.moment_of(act.after)
    last = inf if act.since is None else -act.since

    def is_shown(moment: Any) -> bool:
        return bool(behind is None or moment > behind) and moment[0] <= last

    async def shown_at(some: list[Any]) -> list[Row]:
        return [row for row in await rows_at(some) if is_shown(order.moment_of(row))]

    if moments_at is None or len(places) <= wanted + SPARE:
        return sorted(await shown_at(places), key=order.moment_of)
    moments = zip(await moments_at(places), places, strict=True)
    pending = sorted((moment, at) for moment, at in moments if is_shown(moment))
    found: list[Row] = []
    while True:
        # (Where some of them have been changed since, there are fewer; or one is older now, by a clock that is behind.)
        shown = [row for row in found if not pending or order.moment_of(row) < pending[0][0]]
        if not pending or len(shown) >= wanted:
            return sorted(shown, key=order.moment_of)
        most = wanted - len(shown)
        found += await shown_at([at for _, at in pending[:most]])
        pending = pending[most:]


def first_steps(places: Sequence[tuple[Any, ...]], least: int, *, ended: bool) -> int:
    """
    Return how many of the *places* of the index `recent`, each with its step in front, make up its first steps: so many steps as
    have *least* places. A step that may go on behind the last place is none of them, unless there are no more (*ended*).
    """
    whole = len(places)
    if places and not ended:
        whole = bisect_left(places, places[-1][0], key=itemgetter(0))
    for count in range(max(least, 1), whole):
        if places[count][0] != places[count - 1][0]:
            return count
    return whole
