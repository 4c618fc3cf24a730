"""What the outside does to conversations besides sending messages: begin, change once, ask without waiting, observe."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from msgspec import Struct

from chatkeep import Delta, Instrument, Message, OtherOwner, Turn, UsageError
from chatkeep.drivers.base import Erase, Key
from chatkeep.storage.reader import Reader

from ..support.waiting import until


async def counting(turn: Turn[Any]) -> str:
    """Counts the messages."""
    turn.state["count"] = turn.state.get("count", 0) + 1
    return f"{turn.state['count']}"


async def test_a_conversation_can_begin_before_anything_is_said(opened: Any) -> None:
    """It is there, it is its owner's, and nothing is in it; for another owner it is refused; then it goes on as any."""
    keep = await opened(counting)
    first = await keep.create("ada", owner="u1")
    again = [await keep.create("ada", owner=owner) for owner in ("u1", "")]
    with pytest.raises(OtherOwner, match=r"belongs to 'u1'.*nothing was changed") as refused:
        await keep.create("ada", owner="u2")
    await keep.create("nobody's")
    with pytest.raises(OtherOwner, match="has no owner"):
        await keep.create("nobody's", owner="u2")

    assert [(first.revision, "u1")] * 2 == [(found.revision, found.owner) for found in again]
    assert "u1" == refused.value.owner
    assert ["ada"] == [found.id async for found in keep.conversations(owner="u1")]
    assert 0 == again[0].unread
    assert ["1"] == [reply.text for reply in (await keep.receive("ada", "hi", id="m1")).replies]


async def test_two_begin_at_once(opened: Any) -> None:
    """For one owner all see the same conversation; for several, one has it and the others are told whose it is."""
    keep = await opened(counting)
    found = await asyncio.gather(*(keep.create("ada", owner="u1") for _ in range(5)))
    raced = await asyncio.gather(*(keep.create("bob", owner=f"u{n}") for n in range(5)), return_exceptions=True)
    lost = [fault for fault in raced if isinstance(fault, OtherOwner)]
    [won] = [conversation for conversation in raced if not isinstance(conversation, BaseException)]

    assert 1 == len({conversation.head for conversation in found})
    assert [won.owner] * 4 == [fault.owner for fault in lost]


@pytest.mark.parametrize("url", ["memory"], indirect=True)  # (it is refused before a store is written to)
@pytest.mark.filterwarnings("error")
async def test_a_change_that_is_no_plain_function_is_refused(opened: Any) -> None:
    """A coroutine function is told by that name, and its coroutine is not left behind; what cannot be called is refused too."""
    keep = await opened(counting)

    async def later(state: dict[str, Any]) -> None:
        state["vip"] = True

    for edit, said in (
        (later, "plain function"),
        (lambda state: later(state), "plain function"),
        ({"vip": True}, "a dict"),
    ):
        with pytest.raises(UsageError, match=rf"^ada: .*{said}.*othing was changed"):
            await keep.change("ada", edit)

    assert await keep.conversation("ada") is None


async def test_a_change_with_an_id_is_made_once(opened: Any) -> None:
    """As often as it is asked for, by whomever."""
    keep = await opened(counting)

    def more(state: dict[str, Any]) -> None:
        state["paid"] = state.get("paid", 0) + 1

    found = [await keep.change("ada", more, id="charge-1") for _ in range(3)]
    await asyncio.gather(*(keep.change("ada", more, id="charge-2") for _ in range(3)))

    assert [{"paid": 1}] * 3 == [conversation.state for conversation in found]
    assert {"paid": 2} == (await keep.conversation("ada")).state


async def test_what_an_edit_raises_is_raised_and_nothing_is_written(opened: Any) -> None:
    """The way to make a change depend on what is there."""
    keep = await opened(counting)
    before = await keep.change("ada", lambda state: {"a": 1})

    class Moved(Exception):
        pass

    def refuse(state: dict[str, Any]) -> None:
        state["a"] = 2
        raise Moved

    try:
        await keep.change("ada", refuse)
        raise AssertionError("it was not raised")
    except Moved:
        pass

    assert before == await keep.conversation("ada")


async def test_who_does_not_join_is_told_that_it_runs(opened: Any) -> None:
    """A known message that is still being answered: at once "accepted"; later the recorded answer."""
    going, begun = asyncio.Event(), asyncio.Event()

    async def slow(turn: Turn[Any]) -> str:
        begun.set()
        await going.wait()
        return "done"

    keep = await opened(slow, quick="0ms")
    first = asyncio.create_task(keep.receive("ada", "go", id="m1"))
    await begun.wait()
    second = await keep.receive("ada", "go", id="m1", wait_if_duplicate=False)
    going.set()
    answered = await first
    third = await keep.receive("ada", "go", id="m1", wait_if_duplicate=False)

    assert ("accepted", True, []) == (second.status, second.duplicate, second.replies)
    assert ("answered", False) == (answered.status, answered.duplicate)
    assert ("answered", True, ["done"]) == (third.status, third.duplicate, [reply.text for reply in third.replies])


async def test_turns_and_acts_are_observed(opened: Any) -> None:
    """Each with its name and how long it took."""
    keep = await opened(counting)
    seen: list[tuple[str, float]] = []

    class Seeing(Instrument):
        def measured(self, name: str, seconds: float) -> None:
            seen.append((name, seconds))

    keep.instruments.append(Seeing())
    await keep.receive("ada", "hi", id="m1")
    await keep.conversation("ada")
    await until(lambda: {"turn", "append", "write", "read"} <= {name for name, _ in seen})

    assert all(0 <= seconds < 5 for _, seconds in seen)


class Slow:
    """A handler that is held up: it waits until it is told to go on, and counts how often it has begun."""

    def __init__(self, act: Callable[[Turn[Any]], Any]) -> None:
        self.act, self.began, self.go = act, 0, asyncio.Event()
        self.running = asyncio.Event()

    async def __call__(self, turn: Turn[Any]) -> Any:
        self.began += 1
        self.running.set()
        await self.go.wait()
        return self.act(turn)

    async def beside(self, keep: Any, *changes: Callable[[], Any], conversation: str = "ada") -> Any:
        """A message is answered while *changes* are made; its receipt."""
        self.go.clear()
        self.running.clear()
        asked = asyncio.create_task(keep.receive(conversation, "hi"))
        await self.running.wait()
        for change in changes:
            await change()
        self.go.set()
        return await asked


def answering(turn: Turn[Any]) -> str:
    """Counts in a member of its own."""
    turn.state["answers"] = turn.state.get("answers", 0) + 1
    return f"answer {turn.state['answers']}"


async def test_changes_of_other_members_leave_a_running_turn_alone(opened: Any) -> None:
    """Somebody types into a form while the bot answers: the handler runs once, and both changes are kept. So in the first turn
    of a session and in later ones, for members that are added, changed and taken away, also within an object."""
    slow = Slow(answering)
    keep = await opened(slow)

    def typed(text: str) -> Callable[[], Any]:
        return lambda: keep.change("ada", lambda state: state.setdefault("form", {}).update(name=text))

    first = await slow.beside(keep, typed("A"), typed("Ad"))
    state = (await keep.conversation("ada")).state
    second = await slow.beside(keep, typed("Ada"), lambda: keep.change("ada", lambda state: state.update(vip=True)))
    third = await slow.beside(keep, lambda: keep.clear("ada", "vip"))
    found = await keep.conversation("ada")

    assert 3 == slow.began
    assert {"answers": 1, "form": {"name": "Ad"}} == state
    assert {"answers": 3, "form": {"name": "Ada"}} == found.state
    assert [["answer 1"], ["answer 2"], ["answer 3"]] == [[r.text for r in x.replies] for x in (first, second, third)]
    assert 0 == keep.statistics.engine.reruns
    assert 1 == found.session


async def test_members_of_one_object_are_put_together(opened: Any) -> None:
    """The turn and somebody else change different members of the same object."""
    slow = Slow(lambda turn: turn.state["order"].update(size=3))
    keep = await opened(slow)
    await keep.change("ada", lambda state: {"order": {"size": 1, "paid": False}})
    await slow.beside(keep, lambda: keep.change("ada", lambda state: state["order"].update(paid=True)))

    assert {"order": {"size": 3, "paid": True}} == (await keep.conversation("ada")).state
    assert 1 == slow.began


OVERLAPS: dict[str, tuple[Any, Callable[[Any], Any], Callable[[Any], Any], Any]] = {
    # what there was, what the turn does, what somebody else does meanwhile, what there is then
    "both count": ({"n": 1}, lambda s: s.update(n=s["n"] + 1), lambda s: s.update(n=s["n"] + 1), {"n": 3}),
    "both add to a list": ({"a": [1]}, lambda s: s["a"].append(2), lambda s: s["a"].append(3), {"a": [1, 3, 2]}),
    "taken away and changed": (
        {"cart": 2},
        lambda s: s.pop("cart"),
        lambda s: s.update(cart=s.get("cart", 0) + 5),
        {},
    ),
    "changed and taken away": (
        {"cart": 2, "x": 1},
        lambda s: s.update(cart=s.get("cart", 0) + 5),
        lambda s: s.pop("cart"),
        {"x": 1, "cart": 5},
    ),
    "both make it": (
        {},
        lambda s: s.setdefault("a", []).append(1),
        lambda s: s.setdefault("a", []).append(2),
        {"a": [2, 1]},
    ),
}


@pytest.mark.parametrize("case", OVERLAPS)
async def test_a_turn_that_overlaps_with_a_change_runs_again(opened: Any, case: str) -> None:
    """Neither change is lost, be it that both put the same value there."""
    before, mine, theirs, after = OVERLAPS[case]

    def act(turn: Turn[Any]) -> str:
        mine(turn.state)
        return "done"

    slow = Slow(act)
    keep = await opened(slow)
    await keep.change("ada", lambda state: before)

    def change(state: Any) -> None:
        theirs(state)

    receipt = await slow.beside(keep, lambda: keep.change("ada", change))

    assert after == (await keep.conversation("ada")).state
    assert (2, ["done"]) == (slow.began, [reply.text for reply in receipt.replies])


async def test_what_is_erased_while_it_is_cleared_is_not_begun_anew(
    opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is nothing to clear any more, and clearing creates nothing."""
    keep = await opened(counting)
    await keep.change("ada", lambda state: state.update(n=1), by="Kim")
    read = Reader.read

    async def erased(reader: Reader, key: Key, **told: Any) -> Any:
        found = await read(reader, key, **told)
        monkeypatch.undo()
        await reader.driver.erase(Erase(key, at=keep._engine.shared.clock()))
        return found

    monkeypatch.setattr(Reader, "read", erased)
    await keep.clear("ada")

    assert await keep.conversation("ada") is None


async def test_a_turn_that_met_a_cleared_state_runs_again(opened: Any) -> None:
    """What it has made of what was cleared must not come back."""

    def act(turn: Turn[Any]) -> str:
        turn.state["greeting"] = f"hello {turn.state.get('name', 'you')}"
        return str(turn.state["greeting"])

    slow = Slow(act)
    keep = await opened(slow)
    await keep.change("ada", lambda state: {"name": "Ada"})
    receipt = await slow.beside(keep, lambda: keep.clear("ada"))

    assert {"greeting": "hello you"} == (await keep.conversation("ada")).state
    assert "hello you" == receipt.replies[0].text


async def test_with_rerun_every_change_has_the_handler_run_again(opened: Any) -> None:
    """For who wants a handler to see what has changed, whatever it makes of it."""
    slow = Slow(answering)
    keep = await opened(slow, outside="rerun")
    await slow.beside(keep, lambda: keep.change("ada", lambda state: state.update(form="x")))

    assert 2 == slow.began
    assert {"form": "x", "answers": 1} == (await keep.conversation("ada")).state


class Cheese(Struct, tag=True):
    """One of two things that an order may have."""

    kind: str = "gouda"


class Ham(Struct, tag=True):
    """The other one; without a member of Cheese."""

    slices: int = 1


@dataclass
class Order:
    """A typed state."""

    size: int = 0
    note: str = ""
    topping: Cheese | Ham | None = None


async def test_a_typed_state_is_put_together_member_by_member(opened: Any) -> None:
    """A dataclass as a dict; members that nobody has changed have their defaults."""

    def act(turn: Turn[Any]) -> str:
        turn.state.size += 1
        return "done"

    slow = Slow(act)
    keep = await opened(slow, state=Order)
    await slow.beside(keep, lambda: keep.change("ada", lambda order: setattr(order, "note", "no onions")))
    await slow.beside(keep, lambda: keep.change("ada", lambda order: setattr(order, "topping", Ham(2))))

    assert 2 == slow.began
    assert Order(2, "no onions", Ham(2)) == (await keep.conversation("ada")).state


async def test_what_is_no_state_when_put_together_is_not_written(opened: Any) -> None:
    """The handler runs again: a member of one kind in an object of another would not be read again."""

    def act(turn: Turn[Any]) -> str:
        if isinstance(turn.state.topping, Cheese):
            turn.state.topping.kind = "brie"
        return "done"

    slow = Slow(act)
    keep = await opened(slow, state=Order)
    await keep.change("ada", lambda order: setattr(order, "topping", Cheese()))
    await slow.beside(keep, lambda: keep.change("ada", lambda order: setattr(order, "topping", Ham(2))))

    assert Order(topping=Ham(2)) == (await keep.conversation("ada")).state


async def test_a_streamed_turn_keeps_its_state_where_others_have_changed_the_same(opened: Any) -> None:
    """Its reply was shown and is not made again, so it cannot run again: both lists' items are there, its value stands for what both
    have set, and what gave way is a note."""
    go, running = asyncio.Event(), asyncio.Event()

    async def bot(turn: Turn[Any]) -> Any:
        turn.state["cart"].append("tea")
        turn.state["last"], turn.state["count"] = "tea", 1
        yield "Added "
        running.set()
        await go.wait()
        yield "tea."

    def outside(state: dict[str, Any]) -> None:
        state["cart"].append("milk")
        state["last"], state["form"] = "milk", "x"

    keep = await opened(bot)
    await keep.change("ada", lambda state: state.update(cart=["bread"], last=""))
    asked = asyncio.create_task(keep.receive("ada", "tea, please"))
    await running.wait()
    async for event in keep.events("ada"):
        if isinstance(event, Delta):  # so it was shown
            break
    await keep.change("ada", outside)
    go.set()
    [reply] = (await asked).replies
    found = await keep.conversation("ada")
    notes = [entry async for entry in keep.history("ada") if entry.metadata.get("kind") == "conflict"]

    assert ("Added tea.", {}) == (reply.text, reply.metadata)
    assert {"bread", "milk", "tea"} == set(found.state["cart"])
    assert ("tea", 1, "x") == (found.state["last"], found.state["count"], found.state["form"])
    assert [("last", [], '"milk"')] == [(note.metadata["slot"], note.metadata["path"], note.text) for note in notes]
    assert 0 == found.unread


async def test_a_streamed_reply_is_shown_once(opened: Any) -> None:
    """A change from outside in its middle does not have it begin anew."""
    go, running = asyncio.Event(), asyncio.Event()

    async def bot(turn: Turn[Any]) -> Any:
        yield "Hel"
        running.set()
        await go.wait()
        turn.state["said"] = True
        yield "lo"

    keep = await opened(bot)
    await keep.create("ada")
    shown = []

    async def watch() -> None:
        async for event in keep.events("ada"):
            shown.append(event)
            if isinstance(event, Message) and event.role == "assistant":
                return

    watching = asyncio.create_task(watch())
    asked = asyncio.create_task(keep.receive("ada", "hi"))
    await running.wait()
    await until(lambda: any(isinstance(event, Delta) for event in shown))
    await keep.change("ada", lambda state: state.update(form="x"))
    go.set()
    await asked
    await watching
    pieces = [event for event in shown if isinstance(event, Delta)]

    assert "Hello" == "".join(piece.text for piece in pieces)
    assert 1 == sum(piece.at == 0 for piece in pieces)
    assert {"form": "x", "said": True} == (await keep.conversation("ada")).state


async def test_a_change_opens_the_session_of_the_message_that_waits(opened: Any) -> None:
    """The message is part of it, so that what the next turn is shown has the question beside its answer."""
    slow = Slow(lambda turn: f"I was shown {[m.text for m in turn.history]}")
    keep = await opened(slow)
    await slow.beside(keep, lambda: keep.change("ada", lambda state: state.update(form="x")))
    second = await slow.beside(keep)

    assert ["I was shown ['hi', 'I was shown []']"] == [reply.text for reply in second.replies]


@pytest.mark.parametrize("restarted", [False, True])
async def test_changes_do_not_push_the_talk_out_of_the_history(opened: Any, restarted: bool) -> None:
    """Each leaves a note in the log, and somebody may type for long between two messages."""

    async def bot(turn: Turn[Any]) -> str:
        return " ".join(message.text for message in turn.history)

    options = {"history": 4}
    keep = await opened(bot, **options)
    for text in ("a", "b", "c"):
        await keep.receive("ada", text)
    for n in range(30):
        await keep.change("ada", lambda state, n=n: state.update(form=n))
    if restarted:
        keep = await opened(bot, **options)
    first = await keep.receive("ada", "d")
    await keep.change("ada", lambda state: state.update(form="done"))
    second = await keep.receive("ada", "e")

    assert "b a c a b a" == first.replies[0].text
    assert "c a b a d b a c a b a" == second.replies[0].text
