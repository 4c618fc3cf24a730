"""Slots that several devices have changed offline: nothing is lost without being told."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw, Struct, structs

from chatkeep import BadMessage, UsageError
from chatkeep.conversation import merge as merging
from chatkeep.conversation.merge import MISSING, Version, merge
from chatkeep.conversation.record import Record
from chatkeep.conversation.slots import mark_of, merge_slot
from chatkeep.conversation.snapshots import Snapshot
from chatkeep.conversation.state import StateCodec
from chatkeep.drivers.base import Key, Row

from ..support.soaking import examples

STATES: StateCodec[Any] = StateCodec(dict, limit=1 << 20)


class Sparse(Struct, omit_defaults=True, rename="camel", tag=True):
    """Stores what is not as it was at first."""

    form_data: dict[str, str] = {}
    seats: int = 1
    nothing: int | msgspec.UnsetType = msgspec.UNSET


def test_members_that_are_not_stored_are_shown_and_can_be_merged() -> None:
    """Who looks at a state, or changes a slot, sees what the type has, and not what happens to be in the store."""
    states: StateCodec[Any] = StateCodec(Sparse, limit=10**6)
    key, stored = Key("", "c"), (states.encode(Key("", "c"), Sparse(seats=2)), 1)
    there = Snapshot(Row(key=key, revision="r", incarnation="r"), Record(state=stored[0]), ())
    made = merge_slot(there, states, stored, "formData", {}, Version({"name": "Ada"}, 1.0), "later", now=1.0)
    assert made.raw is not None

    assert {"type": "Sparse", "formData": {}, "seats": 2} == states.shape.json_of(Sparse(seats=2))
    assert (Sparse({"name": "Ada"}, 2), ()) == (states.decode(key, made.raw, 1), made.losses)
    with pytest.raises(UsageError, match="has no slot 'form'"):
        merge_slot(there, states, stored, "form", {}, Version({}, 1.0), "later", now=1.0)


class Server:
    """A conversation, and what gave way in it."""

    def __init__(self) -> None:
        self.record, self.now, self.lost = Record(state=Raw(b"{}")), 100.0, list[Any]()

    def value(self, slot: str) -> Any:
        """What a slot holds."""
        return msgspec.json.decode(self.record.state).get(slot, MISSING)

    def merge(self, slot: str, base: Any, value: Any, at: float, by: str) -> Any:
        """Takes what a device has made of a slot."""
        row = Row(key=Key("", "c"), revision="r", incarnation="r", updated_at=self.now)
        there, stored = Snapshot(row, self.record, ()), (self.record.state, 1)
        made = merge_slot(
            there, STATES, stored, slot, base, Version(value, min(at, self.now), by), "later", now=self.now
        )
        self.lost += [loss.value for loss in made.losses]
        if made.raw is not None:
            self.record = structs.replace(self.record, state=Raw(made.raw), stamps=made.stamps)
        return self.value(slot)


acts = st.lists(
    st.tuples(st.integers(0, 4), st.sampled_from(["read", "send", "name", "item", "bot"]), st.floats(-50, 50)),
    max_size=60,
)


@examples(4)
@given(acts)
def test_nothing_is_lost_without_being_told(history: list[tuple[int, str, float]]) -> None:
    """Five devices with clocks that disagree, and a bot beside them: each item that was added is there at the end, and each name that was
    given stands, was known to whom replaced it, or is told as lost."""
    server = Server()
    held: list[dict[str, Any]] = [{"name": MISSING, "list": MISSING} for _ in range(5)]
    base: list[dict[str, Any]] = [dict(one) for one in held]
    written: list[dict[str, float]] = [{} for _ in range(5)]
    names, items, known = set[str](), set[str](), set[Any]()
    for count, (which, what, skew) in enumerate(history):
        server.now += 10
        mine = held[which]
        if what == "name":
            mine["name"] = f"n{count}"
            written[which]["name"] = server.now + skew
        elif what == "item":
            mine["list"] = [*(mine["list"] or []), {"id": f"i{count}"}]
            written[which]["list"] = server.now + skew
            items.add(f"i{count}")
        elif what == "bot":
            known.add(server.value("name"))
            state = msgspec.json.decode(server.record.state) | {"name": f"b{count}"}
            server.record = structs.replace(server.record, state=Raw(msgspec.json.encode(state)))
            names.add(f"b{count}")
        else:
            for slot, at in written[which].items():
                if slot == "name":
                    names.add(mine[slot])
                    known.add(base[which][slot])
                server.merge(slot, base[which][slot], mine[slot], at, f"d{which}")
            written[which].clear()
            held[which] = {slot: server.value(slot) for slot in ("name", "list")}
            base[which] = dict(held[which])
    for which in range(5):
        for slot, at in written[which].items():
            if slot == "name":
                names.add(held[which][slot])
                known.add(base[which][slot])
            server.merge(slot, base[which][slot], held[which][slot], at, f"d{which}")
    there = server.value("list")

    assert items == {item["id"] for item in (there or [])}
    assert set() == names - {server.value("name")} - known - set(server.lost)


class CountedKey(tuple[Any, ...]):
    """What makes items the same, counting how often it is looked at."""

    looks = 0

    def __hash__(self) -> int:
        CountedKey.looks += 1
        return super().__hash__()

    def __eq__(self, other: object) -> bool:
        CountedKey.looks += 1
        return super().__eq__(other)


def test_ten_thousand_items_and_ten_thousand_more_are_merged_within_a_second() -> None:
    """Of the processor's time: two devices that have each added as many to a list, or to a slot's members."""
    lists = [[{"id": f"{name}{n}", "text": name} for n in range(10_000)] for name in "ac"]
    members = [{f"{name}{n}": n for n in range(10_000)} for name in "ac"]
    began = time.process_time()
    items = merge([], Version(lists[0], 1.0, "a"), Version(lists[1], 2.0, "c"))
    slots = merge({}, Version(members[0], 1.0, "a"), Version(members[1], 2.0, "c"))
    took = time.process_time() - began

    assert 20_000 == len(items.value) == len(slots.value)
    assert took < 1.0


def test_long_lists_are_merged_item_by_item(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten times as many items are ten times as many looks at one; `python -m benchmarks.people` prints how long it takes."""
    keys_of = merging.key_items
    monkeypatch.setattr(merging, "key_items", lambda items: [CountedKey(key) for key in keys_of(items)])

    def looked(count: int) -> int:
        both = [{"id": n, "text": "x"} for n in range(count)]
        sides = [[{"id": f"{name}{n}", "text": name} for n in range(count)] for name in "ac"]
        CountedKey.looks = 0
        merged = merge(both, Version(sides[0] + both, 1.0, "a"), Version(both + sides[1], 2.0, "c"))
        assert sides[0] + both + sides[1] == merged.value
        return CountedKey.looks

    few, many = looked(300), looked(3_000)

    assert 300 < few <= 60 * 300
    assert many <= 11 * few


@pytest.mark.parametrize(
    ("stamped", "at", "stands"),
    [
        pytest.param("here", 7.0, "mine", id="merged before, and mine is later"),
        pytest.param("here", 3.0, "here", id="merged before, and mine is earlier"),
        pytest.param("other", 7.0, "here", id="written since by somebody else, who counts as new"),
        pytest.param(None, 7.0, "here", id="never merged, and as new as the conversation"),
        pytest.param("other", 200.0, "mine", id="written since, and mine is later still"),
    ],
)
def test_a_slot_is_as_old_as_its_last_merge_unless_somebody_has_written_it_since(
    stamped: str | None, at: float, stands: str
) -> None:
    """What gives way is told, with its time and device."""
    stamps = {"name": (5.0, "laptop", mark_of(stamped)), "gone": (1.0, "", 0)} if stamped is not None else {}
    state = Raw(b'{"name":"here","other":1}')
    row = Row(key=Key("", "c"), revision="r", incarnation="r", updated_at=100.0)
    there = Snapshot(row, Record(state=state, stamps=stamps), ())
    made = merge_slot(there, STATES, (state, 1), "name", "before", Version("mine", at, "phone"), "later", now=200.0)
    values = {"mine": at, "here": 5.0 if stamped == "here" else 100.0}
    lost = next(iter({*values} - {stands}))

    assert stands == msgspec.json.decode(made.raw or state)["name"]
    assert [(lost, values[lost])] == [(loss.value, loss.at) for loss in made.losses]
    assert {"name"} == {*made.stamps}
    assert (max(values.values()), mark_of(stands)) == made.stamps["name"][::2]


class Order(Struct):
    """A state whose slots have types."""

    seats: int = 1
    names: list[str] = []


class Listed(Struct, array_like=True):
    """A state that is stored as a list."""

    seats: int = 1


def merged(state: Any, slot: str, base: Any, value: Any, kind: Any = dict, **record: Any) -> Any:
    """What a change at 50 makes of a state that was last written at 100."""
    states: StateCodec[Any] = StateCodec(kind, limit=1 << 20)
    stored = msgspec.Raw(msgspec.json.encode(state)), 1
    row = Row(key=Key("", "c"), revision="r", incarnation="r", updated_at=100.0)
    there = Snapshot(row, Record(state=stored[0], **record), ())
    return merge_slot(there, states, stored, slot, base, Version(value, 50.0, "phone"), "later", now=100.0)


@pytest.mark.parametrize("value", [b"x", {1: "one"}, float("nan")], ids=["bytes", "names", "nan"])
def test_what_is_no_json_is_refused_before_anything_is_merged(value: Any) -> None:
    for base, mine in ((value, 1), (1, value)):
        with pytest.raises(BadMessage, match=r"^c: .*state\.cart.* Nothing was changed\.$"):
            merged({"cart": 1}, "cart", base, mine)


def test_a_state_that_is_no_object_has_no_slots() -> None:
    with pytest.raises(UsageError, match=r"^c: the state is no object, so it has no slots; nothing was changed"):
        merged([1], "cart", 1, 2, kind=Listed)


def test_what_does_not_fit_the_type_of_the_state_is_refused() -> None:
    with pytest.raises(BadMessage, match=r"^c: the slot 'seats' does not fit \(.*\); nothing was changed"):
        merged({"seats": 2}, "seats", 2, "many", kind=Order)


def test_what_changes_nothing_is_not_written() -> None:
    """Neither the state nor the stamps of its slots."""
    stamps = {"cart": (20.0, "desk", mark_of(1)), "other": (1.0, "", 7)}
    made = merged({"cart": 1}, "cart", 1, 1, stamps=stamps)

    assert (None, stamps, ()) == (made.raw, made.stamps, made.losses)


def test_stamps_of_slots_that_are_gone_go_too() -> None:
    """Those of others stay; a loss is told by its path within the slot."""
    stamps = {"cart": (20.0, "desk", mark_of({"a": 1})), "gone": (1.0, "", 7), "other": (2.0, "", 8)}
    made = merged({"cart": {"a": 1}, "other": 0}, "cart", {"a": 0}, {"a": 2}, stamps=stamps)

    assert {"cart": (50.0, "phone", mark_of({"a": 2})), "other": (2.0, "", 8)} == made.stamps
    assert [(("a",), 1)] == [(loss.path, loss.value) for loss in made.losses]


@pytest.mark.parametrize(("expected", "stamps"), [(50.0, {}), (100.0, {"cart": (20.0, "desk", mark_of(1))})])
def test_a_slot_that_somebody_has_taken_out_is_as_new_as_that(expected: float, stamps: Any) -> None:
    """One that never was there is older than anything; what a device has made of it is kept in both cases."""
    made = merged({"other": 0}, "cart", 1, 2, stamps=stamps)

    assert ({"other": 0, "cart": 2}, expected) == (msgspec.json.decode(made.raw), made.stamps["cart"][0])
