"""What a person changes of a state can be undone, and is known of before; on every kind of store."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest

from chatkeep import ChangedSince, Chatkeep, Message, Turn, UsageError
from chatkeep.conversation.edits import VALUES_MOST

from ..support.stores import FAST


async def bot(turn: Turn[Any]) -> str:
    """Counts."""
    turn.state["count"] = turn.state.get("count", 0) + 1
    return f"number {turn.state['count']}"


async def last_note(keep: Chatkeep[Any]) -> Message:
    """The newest entry of ada's log."""
    return [entry async for entry in keep.history("ada")][-1]


async def test_a_change_is_undone_and_the_undo_too(opened: Any) -> None:
    """Slots that were changed, made and removed come back as they were; who did it is in the log, and twice is once."""
    keep = await opened(bot)
    await keep.receive("ada", "hello")
    await keep.change("ada", lambda state: state.update(cart=["tea"], stage="paying"))
    before = (await keep.conversation("ada")).state

    def edit(state: dict[str, Any]) -> None:
        state["cart"] = []
        state["gift"] = None
        del state["stage"]

    changed = await keep.change("ada", edit, by="Kim")
    note = await last_note(keep)
    undone = await keep.undo("ada", note.number, by="Eve")
    again = await keep.undo("ada", note.number, by="Eve")
    undo_note = await last_note(keep)
    redone = await keep.undo("ada", undo_note.number, by="Kim")

    assert {"cart": [], "gift": None, "count": 1} == changed.state
    assert before == undone.state == again.state
    assert changed.state == redone.state
    assert ("Kim", {"was": ["tea"], "now": []}) == (note.metadata["by"], note.metadata["slots"]["cart"])
    assert ("Eve", note.number) == (undo_note.metadata["by"], undo_note.metadata["undoes"])
    assert undo_note.number == note.number + 1
    assert {"cart", "gift", "stage"} == note.metadata["slots"].keys()


async def test_an_undo_overwrites_nothing(opened: Any) -> None:
    """Where a turn or somebody else has changed the slot since, it is refused and nothing is changed; another slot is no matter."""
    keep = await opened(bot)
    await keep.receive("ada", "hello")
    await keep.change("ada", lambda state: state.update(count=10), by="Kim")
    note = await last_note(keep)
    await keep.change("ada", lambda state: state.update(other=1))
    await keep.receive("ada", "again")
    there = await keep.conversation("ada")
    with pytest.raises(ChangedSince, match="'count'"):
        await keep.undo("ada", note.number, by="Kim")

    assert there == await keep.conversation("ada")
    assert {"count": 11, "other": 1} == there.state


@pytest.mark.parametrize(
    ("changes", "saw", "plan"), [("heard", ["large"], "small"), ("plan", ["large", "small"], "small!")]
)
async def test_an_undo_under_a_turn_loses_nothing(opened: Any, changes: str, saw: list[str], plan: str) -> None:
    """Another slot that the turn changes is put together with what was put back; of the same slot, the turn runs again on that."""
    begun, go, seen = asyncio.Event(), asyncio.Event(), list[str]()

    async def slow(turn: Turn[Any]) -> str:
        seen.append(turn.state["plan"])
        begun.set()
        await go.wait()
        turn.state[changes] = turn.state.get(changes, "") + "!"
        return "ok"

    keep = await opened(slow)
    await keep.change("ada", lambda state: state.update(plan="small"))
    await keep.change("ada", lambda state: state.update(plan="large"), by="Kim")
    number = (await last_note(keep)).number
    running = asyncio.create_task(keep.receive("ada", "hello"))
    await begun.wait()
    await keep.undo("ada", number, by="Eve")
    go.set()
    await running

    assert saw == seen
    assert {"plan": "small", changes: "!"} | {"plan": plan} == (await keep.conversation("ada")).state


async def test_what_is_no_change_of_a_person_is_not_undone(opened: Any) -> None:
    """A message, a change of the application, a clearing, a number that is not there, too large a value, and one that was redacted."""
    keep = await opened(bot)
    await keep.receive("ada", "hello")
    await keep.change("ada", lambda state: state.update(a=1), id="app")
    of_app = (await last_note(keep)).number
    await keep.clear("ada", "a", id="cleared")
    of_clearing = (await last_note(keep)).number
    await keep.change("ada", lambda state: state.update(a="x" * VALUES_MOST), by="Kim")
    large = await last_note(keep)
    await keep.change("ada", lambda state: state.update(a="4111"), by="Kim")
    redacted = await last_note(keep)
    await keep.redact("ada", redacted.number)
    for number in (1, of_app, of_clearing, large.number, redacted.number, 999):
        with pytest.raises(UsageError, match="nothing was undone"):
            await keep.undo("ada", number, by="Kim")
    with pytest.raises(UsageError):
        await keep.undo("ada", large.number, by="")

    assert ["a"] == large.metadata["large"]
    assert (await keep.conversation("ada")).state == {"count": 1, "a": "4111"}
    assert "4111" not in str([entry async for entry in keep.history("ada")])


async def test_an_undo_races_a_change_and_one_of_them_counts(opened: Any) -> None:
    """Ten at once from two instances: the slot is as one of them has left it, and every undo that was refused says so."""
    keep, other = await opened(bot), await opened(bot)
    await keep.receive("ada", "hello")
    await keep.change("ada", lambda state: state.update(n=0), by="Kim")
    number = (await last_note(keep)).number

    async def undo(instance: Chatkeep[Any]) -> str:
        try:
            await instance.undo("ada", number, by="Kim")
        except ChangedSince:
            return "refused"
        return "done"

    async def change(instance: Chatkeep[Any], n: int) -> str:
        await instance.change("ada", lambda state: state.update(n=n))
        return "changed"

    said = await asyncio.gather(*(undo(one) if n % 2 else change(one, n) for n in range(1, 6) for one in (keep, other)))
    state = (await other.conversation("ada")).state

    assert 10 == len(said)
    assert {"changed"} <= set(said) <= {"changed", "done", "refused"}
    assert state.get("n", "none") in (2, 4, "none")


@dataclass
class Order:
    """A state with a type."""

    cart: list[str]
    seats: int = 0

    def __init__(self, cart: list[str] | None = None, seats: int = 0) -> None:
        self.cart, self.seats = cart or [], seats


async def test_a_typed_state_is_undone_as_it_is_stored(tmp_path: Any) -> None:
    """By a process that knows the type and by one that only looks; what comes back is read."""

    async def count(turn: Turn[Order]) -> str:
        turn.state.seats += 1
        return "ok"

    url = f"sqlite:///{tmp_path}/chat.db"
    keep: Chatkeep[Order] = Chatkeep(url, state=Order, **FAST)
    keep.on_message(count)

    def edit(order: Order) -> None:
        order.cart = ["tea"]

    async with keep, Chatkeep(url, schema=0) as looking:
        await keep.receive("ada", "hello")
        await keep.change("ada", edit, by="Kim")
        number = [entry async for entry in keep.history("ada")][-1].number
        await looking.undo("ada", number, by="root@host")
        found = await keep.conversation("ada")

    assert found is not None
    assert ([], 1) == (found.state.cart, found.state.seats)


async def test_a_state_is_known_of_before_as_far_as_the_log_tells(opened: Any) -> None:
    """All of it where no turn came later; else the slots that people changed around that number; nothing of a session that is over."""
    keep = await opened(bot)
    await keep.receive("ada", "hello")
    first = (await keep.conversation("ada")).head
    await keep.change("ada", lambda state: state.update(cart=["tea"]), by="Kim")
    await keep.change("ada", lambda state: state.update(cart=["tea", "cake"]), by="Kim")
    quiet = [await keep.as_of("ada", number) for number in (first, first + 1, first + 2)]
    await keep.receive("ada", "again")
    later = [await keep.as_of("ada", number) for number in (first, first + 1, first + 2, first + 3, first + 4)]
    await keep.clear("ada")
    await keep.receive("ada", "a new session")
    over = await keep.as_of("ada", first + 1)
    now = await keep.as_of("ada", 10_000)

    assert [
        (True, {"count": 1}),
        (True, {"count": 1, "cart": ["tea"]}),
        (True, {"count": 1, "cart": ["tea", "cake"]}),
    ] == [(one.complete, one.slots) for one in quiet]
    assert [
        (False, {}),
        (False, {"cart": ["tea"]}),
        (False, {"cart": ["tea", "cake"]}),
        (False, {}),
        (True, {"count": 2, "cart": ["tea", "cake"]}),
    ] == [(one.complete, one.slots) for one in later]
    assert "turn" in later[0].why
    assert (False, {"cart": ["tea"]}) == (over.complete, over.slots)
    assert (True, {"count": 1}) == (now.complete, now.slots)
    assert None is await keep.as_of("nobody", 1)


async def test_a_flag_that_became_a_number_is_a_change(opened: Any) -> None:
    """1 in the place of True is noted, taken back as it was, and no undo takes one for the other; inside of slots too."""
    keep = await opened(bot)
    await keep.change("ada", lambda state: state.update(vip=1, cart={"gift": 1}))
    await keep.change("ada", lambda state: state.update(vip=True, cart={"gift": True}), by="Kim")
    note = await last_note(keep)
    undone = await keep.undo("ada", note.number, by="Kim")
    await keep.change("ada", lambda state: state.update(vip=1.0), by="Eve")
    with pytest.raises(ChangedSince, match="'vip'"):
        await keep.undo("ada", (await last_note(keep)).number - 1, by="Kim")

    assert {"vip", "cart"} == note.metadata["slots"].keys()
    assert (int, int) == (type(undone.state["vip"]), type(undone.state["cart"]["gift"]))


@pytest.mark.parametrize(
    ("hide", "why"), [("large", "too large"), ("redact", "was redacted"), ("id", "holds no slots")]
)
async def test_a_change_that_the_log_does_not_hold_ends_what_is_known(opened: Any, hide: str, why: str) -> None:
    """Of before it nothing is said but what later changes tell; behind it all is known."""
    keep = await opened(bot)
    await keep.receive("ada", "hello")
    first = (await keep.conversation("ada")).head
    await keep.change("ada", lambda state: state.update(cart=["tea"]), by="Kim")
    named = {"id": "its own"} if hide == "id" else {"by": "Kim"}
    value = "x" * VALUES_MOST if hide == "large" else "cake"
    await keep.change("ada", lambda state: state.update(cart=[value], note=value), **named)
    if hide == "redact":
        await keep.redact("ada", first + 2)
    await keep.change("ada", lambda state: state.update(stage="paying"), by="Kim")
    before, between, behind = [await keep.as_of("ada", number) for number in (first, first + 1, first + 2)]

    assert (False, {}) == (before.complete, {name: before.slots[name] for name in before.slots.keys() - {"cart"}})
    assert (False, {"cart": ["tea"]}) == (between.complete, between.slots)
    assert why in between.why
    assert (True, {"count": 1, "cart": [value], "note": value}) == (behind.complete, behind.slots)
