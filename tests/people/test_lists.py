"""What a cursor tells: nothing is left out, whatever devices and clocks there are."""

from __future__ import annotations

from math import inf
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from chatkeep.conversation.record import Record
from chatkeep.drivers.base import Key
from chatkeep.people.lists import MARKS_MOST, SLACK_S, Cursor, Listed, find_changes, read_cursor, write_cursor

from ..support.soaking import examples


def listed(id: str, at: float, head: int, incarnation: str = "i") -> Listed:
    """A conversation as its row shows it."""
    return Listed(Key("", id), incarnation, head, at, Record())


class Device:
    """One that keeps a copy of the list."""

    def __init__(self) -> None:
        self.cursor, self.held = Cursor("x", 0.0), dict[str, tuple[str, int]]()
        self.died = False

    def sync(
        self, found: list[Listed], erased: list[tuple[str, float]], limit: int, dies_at: int = 0, now: float = inf
    ) -> int:
        """Asks until there is no more; tells how many were told. *dies_at*: at the first page, before (1) or after (2) it is kept, and
        before its cursor is. *now*: by the clock of who is asked."""
        count, here = 0, {one.key.id for one in found}
        while True:
            page, gone, cursor, more = find_changes(found, erased, self.cursor, limit=limit, now=now)
            if dies_at == 1:
                return count
            for id in gone:
                if id not in here:
                    self.held.pop(id, None)
            self.held |= {one.key.id: (one.incarnation, one.head) for one in page}
            if dies_at == 2:
                self.died = True
                return count
            count += len(page)
            self.cursor = read_cursor(write_cursor(cursor))
            if not more and self.died and len(self.held) != len(found):  # as `total` says: begin anew
                self.cursor, self.held = Cursor("x", 0.0), {}
            elif not more:
                self.died = False
                return count


steps = st.lists(
    st.tuples(
        st.sampled_from(["write", "erase", "sync", "dies before", "dies after"]),
        st.integers(0, 4),
        st.sampled_from([0.0, 0.001, 1.0, SLACK_S, 4 * SLACK_S]),
        st.floats(-SLACK_S / 2, SLACK_S / 2) | st.sampled_from([3600.0, 365 * 86_400.0]),
    ),
    max_size=40,
)


@examples(3)
@given(steps, st.integers(1, 5))
def test_every_device_comes_to_the_same_list(history: list[Any], limit: int) -> None:
    """Of five devices that die at each step of a sync, with clocks of writers that differ by half a minute, or are far ahead; what has
    not changed is not told again."""
    devices, rows, erased, now = [Device() for _ in range(5)], dict[str, Listed](), list[tuple[str, float]](), 1000.0
    count = 0
    for what, which, passes, skew in history:
        now, count = now + passes, count + 1
        id = f"c{which}"
        if what == "write":
            old = rows.get(id)
            at, head = now + skew, 1 if old is None else old.head + 1
            rows[id] = listed(
                id, at if old is None else max(at, old.updated_at), head, old.incarnation if old else f"i{count}"
            )
        elif what == "erase" and id in rows:
            erased.append((id, now + skew))
            del rows[id]
        elif what == "sync":
            devices[which].sync(list(rows.values()), erased, limit, now=now)
        elif what.startswith("dies"):
            devices[which].sync(list(rows.values()), erased, limit, dies_at=1 + (what == "dies after"), now=now)
    for device in devices:
        device.sync(list(rows.values()), erased, limit, now=now)

        assert {id: (one.incarnation, one.head) for id, one in rows.items()} == device.held
        assert 0 == device.sync(list(rows.values()), erased, limit, now=now)


def test_more_than_a_cursor_has_room_for_is_told_once() -> None:
    """All of the same moment, in pages."""
    found, device = [listed(f"c{n:05}", 5.0, 1) for n in range(3 * MARKS_MOST)], Device()
    told = device.sync(found, [], 200)
    found[-1] = listed(found[-1].key.id, 6.0, 2)

    assert len(found) == told == len(device.held)
    assert 1 == device.sync(found, [], 200)
    assert len(write_cursor(device.cursor)) < 6000
