"""Saves from outside, and merges of slots: what is put together, what gives way and is kept."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest

from chatkeep import MISSING, BadMessage, Chatkeep, Misconfigured, Turn, UsageError
from chatkeep.conversation.codec import body_of
from chatkeep.conversation.versions import checksum_before
from chatkeep.drivers.base import Key

from ..support.clock import Clock
from ..support.counting import count


def said(id: str, content: str, role: str = "user", created_at: float | None = None) -> dict[str, Any]:
    """A message as a page has it."""
    return {"id": id, "content": content, "role": role, "created_at": created_at}


async def log_of(keep: Any, conversation: str) -> list[tuple[str, str, str]]:
    """What was said: ids, roles and texts."""
    return [(m.id, m.role, m.text) async for m in keep.history(conversation) if m.role != "system"]


async def test_old_messages_are_saved_and_nobody_answers_them(opened: Any) -> None:
    """With their roles and times, once, also beside messages that are answered; later ones are answered as ever."""
    keep = await opened(count)
    old = [said("o1", "hello", created_at=100.5), said("o2", "hi there", "assistant", created_at=101.0)]
    first = await keep.save("c", owner="ada", title="Old", messages=old)
    found = await keep.conversation("c")
    receipts = await asyncio.gather(
        *(keep.receive("c", f"new {n}", id=f"n{n}") for n in range(3)),
        *(keep.save("c", messages=[said(f"s{n}", "from elsewhere")]) for n in range(3)),
        keep.save("c", messages=old),
    )
    log = await log_of(keep, "c")

    assert (["o1", "o2"], [], "Old") == (first.added, first.conflicts, first.title)
    assert (0, [100.5, 101.0]) == (found.unread, [m.created_at for m in found.messages])
    assert [[], []] == [receipts[-1].added, receipts[-1].conflicts]
    assert [1] * 3 == [len(receipt.replies) for receipt in receipts[:3]]
    assert {"o1", "o2", "n0", "n1", "n2", "s0", "s1", "s2"} == {
        id for id, role, _ in log if role == "user" or id == "o2"
    }
    assert 3 == sum(role == "assistant" and id != "o2" for id, role, _ in log)
    assert 0 == (await keep.conversation("c")).unread


async def test_a_save_on_an_old_version_is_told_its_conflicts(opened: Any) -> None:
    """The log stands; the title is not taken, unless by force; what gave way is kept once, and can be restored."""
    keep = await opened(count)
    first = await keep.save("c", title="A", messages=[said("m1", "one")])
    named = await keep.save("c", title="B", version=first.version)
    stale = [
        await keep.save("c", title="C", version=first.version, messages=[said("m1", "another"), said("m2", "two")])
        for _ in range(2)
    ]
    stricter = await keep.save("c", title="C", checksum=first.checksum)
    losses = await keep.losses("c")
    forced = await keep.save("c", title="D", version=first.version, force=True)
    restored = await keep.restore("c", next(lost.number for lost in losses if lost.about == "title"))
    with pytest.raises(UsageError, match="new message"):
        await keep.restore("c", next(lost.number for lost in losses if lost.about == "message"))
    with pytest.raises(UsageError, match="no loss"):
        await keep.restore("c", 1)

    assert ([], "B") == (named.conflicts, named.title)
    assert [(["title", "m1"], ["m2"]), (["title", "m1"], [])] == [(save.conflicts, save.added) for save in stale]
    assert (["title"], "B") == (stricter.conflicts, stricter.title)
    assert {("title", "C"), ("message", "another")} == {(lost.about, lost.value) for lost in losses}
    assert (2, "D", "C") == (len(losses), forced.title, restored.title)
    assert ("m1", "user", "one") in await log_of(keep, "c")
    assert named.version < forced.version < restored.version


async def test_titles_of_two_devices_go_by_time(opened: Any) -> None:
    """The later one stands, whichever comes first; a device's clock that is ahead counts as now."""
    clock = Clock()
    keep = await opened(count, clock=clock)
    user = keep.user("ada")
    await user.create("c", title="A")
    began = clock.now
    clock.now += 100
    await user.rename("c", "phone's", base="A", at=began + 50, by="phone")
    late = await user.rename("c", "tab's", base="A", at=began + 20, by="tab")
    ahead = await user.rename("c", "clock's", base="A", at=clock.now + 9999, by="tab")
    clock.now += 1
    plain = await user.rename("c", "now")
    losses = await keep.losses("c")

    assert ("phone's", ["title"]) == (late.title, late.conflicts)
    assert ("clock's", []) == (ahead.title, ahead.conflicts)
    assert "now" == plain.title
    assert [("phone's", "phone"), ("tab's", "tab")] == [(lost.value, lost.by) for lost in losses]


async def test_what_a_clock_that_was_ahead_has_stamped_stands_against_nobody(opened: Any) -> None:
    """A title and a slot that were set while the clock of a host was a year ahead: whoever changes them when it is right again does."""
    clock = Clock()
    keep = await opened(count, clock=clock)
    user, right = keep.user("ada"), clock.now
    clock.now += 365 * 86_400
    await user.create("c", title="ahead")
    await keep.merge("c", "name", value="ahead", by="tab")
    clock.now = right
    renamed = await user.rename("c", "mine")
    merged = await keep.merge("c", "name", base="before", value="mine", at=right - 60, by="phone")
    clock.now += 60
    late = await keep.merge("c", "name", base="before", value="late", at=right - 120, by="tab")

    assert ("mine", []) == (renamed.title, renamed.conflicts)
    assert "mine" == merged.value
    assert "mine" == late.value, "from now on it goes by time again"
    assert ["ahead", "late"] == sorted(lost.value for lost in await keep.losses("c"))


async def test_of_two_messages_with_one_id_neither_is_lost(opened: Any) -> None:
    """The first one stands, and the others are kept as what gave way, once however often the save comes."""
    keep = await opened(count)
    given = [said("m1", "a"), said("m1", "b"), said("m1", "a"), said("m1", "b"), said("m1", "c")]
    for added in (["m1"], []):
        saved = await keep.save("c", messages=given)

        assert (added, ["m1"]) == (saved.added, saved.conflicts)
    assert ["a"] == [message.text for message in [one async for one in keep.history("c")] if message.role == "user"]
    assert ["c", "b"] == [loss.value for loss in await keep.losses("c")]


async def test_what_cannot_be_saved_is_refused(opened: Any) -> None:
    """Before anything is touched."""
    keep = await opened(count)
    for messages in (
        [{"content": "no id"}],
        [said("~own", "x")],
        [said("m", "x", "system")],
        [said("m", "half \ud800")],
        [said("m", "x") | {"more": 1}],
        [said("m", "x") | {"created_at": float("nan")}],
        ["no object"],
    ):
        with pytest.raises(BadMessage):
            await keep.save("c", title="T", messages=messages)
    for title in ("x" * 1001, "NUL \0", 5):
        with pytest.raises(BadMessage):
            await keep.save("c", title=title)
    with pytest.raises(BadMessage, match="one is a dict, and here is str"):
        await keep.save("c", title="T", messages=["no object"])
    for at in (float("nan"), "yesterday", datetime.now(UTC)):
        with pytest.raises(BadMessage, match="seconds since 1970"):
            await keep.save("c", title="T", at=at)
        with pytest.raises(BadMessage, match="seconds since 1970"):
            await keep.merge("c", "n", value=1, at=at)
    with pytest.raises(UsageError, match="whole numbers"):
        await keep.user("ada").seen("c", "1")
    for value in ({1: "one"}, {"deep": [{2}]}, float("inf"), b"bytes"):
        for told in ({"value": value}, {"value": 1, "base": value}):
            with pytest.raises(BadMessage, match=r"state\.n"):
                await keep.merge("c", "n", **told)
    with pytest.raises(Misconfigured, match="merge_rules"):
        Chatkeep("memory://", merge_rules={"n": "newest"})  # type: ignore[dict-item]

    assert await keep.conversation("c") is None


async def test_what_was_written_before_there_were_clocks_is_of_1970(opened: Any) -> None:
    """The earliest time there is: it gives way to any other, and is kept."""
    keep = await opened(count)
    for at in (float("-inf"), -1e300):
        await keep.merge("c", "n", value="new", at=100.0)
        await keep.merge("c", "n", value=f"old {at}", at=at)
    losses = await keep.losses("c")

    assert ["new"] == [(await keep.conversation("c")).state["n"]]
    assert {("old -inf", 0.0), ("old -1e+300", 0.0)} == {(lost.value, lost.at) for lost in losses}


async def test_a_message_of_1970_is_no_sign_of_another_log(opened: Any) -> None:
    """What is known of it after the save is what the store has: nobody is told that the store was rolled back."""
    keep = await opened(count)
    await keep.save("c", messages=[{"id": "m", "content": "x", "created_at": -5.0}])
    there = (await keep.conversation("c")).messages
    await keep.receive("c", "hi")

    assert [("m", 0.0)] == [(message.id, message.created_at) for message in there]
    assert 0 == keep._engine.store.rolled_back


async def test_a_save_of_many_goes_on_where_it_broke_off(opened: Any) -> None:
    """Several acts, and the same again adds nothing twice."""
    keep = await opened(count)
    messages = [said(f"m{n}", f"text {n}") for n in range(450)]
    await keep.save("c", messages=messages[:300])
    saved = await keep.save("c", title="T", messages=messages)

    assert (150, [f"m{n}" for n in range(450)]) == (len(saved.added), [id for id, _, _ in await log_of(keep, "c")])


async def test_slots_of_two_devices_are_put_together(opened: Any) -> None:
    """Nothing is lost without a note; a tab that was asleep for a week changes nothing newer; rules are by slot."""
    clock = Clock()
    rules: Any = {"n": "sum", "best": "max", "tags": "union", "odd": lambda base, earlier, later: [earlier, later]}
    keep = await opened(count, clock=clock, merge_rules=rules)
    await keep.change("c", lambda state: {"cart": ["tea"], "name": "A", "n": 1, "best": 3, "tags": ["x"], "odd": 0})
    week_ago = clock.now
    clock.now += 7 * 86_400
    cart = await keep.merge("c", "cart", base=["tea"], value=["tea", "milk"], at=clock.now, by="phone")
    again = await keep.merge("c", "cart", base=["tea"], value=["eggs"], at=week_ago, by="tab")
    await keep.merge("c", "name", base="A", value="phone's", at=clock.now, by="phone")
    tab = await keep.merge("c", "name", base="A", value="tab's", at=week_ago, by="tab")
    await keep.receive("c", "hi")
    await keep.change("c", lambda state: state.update(name="bot's"))
    bots = await keep.merge("c", "name", base="phone's", value="tab's", at=clock.now - 1, by="tab")
    values = [
        (await keep.merge("c", slot, base=base, value=value, at=week_ago, by="tab")).value
        for slot, base, value in (("n", 0, 5), ("best", 0, 2), ("tags", [], ["y"]), ("odd", 1, 2))
    ]
    lost = [(loss.slot, loss.value, loss.by) for loss in await keep.losses("c")]
    restored = await keep.restore("c", (await keep.losses("c"))[-1].number)

    assert (["tea", "milk"], {"milk", "eggs"}) == (cart.value, set(again.value))
    assert ("phone's", "bot's") == (tab.value, bots.value)
    assert [("name", "tab's", "tab")] * 2 == lost
    assert [6, 3] == values[:2]
    assert ({"x", "y"}, [2, 0]) == (set(values[2]), values[3])
    assert "tab's" == restored.value
    assert "tab's" == (await keep.conversation("c")).state["name"]


async def test_a_merge_under_an_id_is_made_once(opened: Any) -> None:
    """However often it is asked for; a removal is a value of its own; nothing is written where nothing changes."""
    keep = await opened(count, merge_rules={"n": "sum"})
    for _ in range(3):
        await keep.merge("c", "n", base=0, value=5, id="add-5")
    head = (await keep.conversation("c")).head
    same = await keep.merge("c", "n", base=5, value=5)
    gone = await keep.merge("c", "n", base=5, value=MISSING)

    assert (5, head) == (same.value, same.version)
    assert MISSING == gone.value
    assert {} == (await keep.conversation("c")).state


@dataclass
class Form:
    """A typed state."""

    name: str = ""
    seats: int = 0
    wishes: list[str] = field(default_factory=list)


async def test_typed_slots_are_checked(opened: Any) -> None:
    """What does not fit is refused, and so is a slot that the state has not."""
    keep = await opened(None, state=Form)
    await keep.merge("c", "wishes", value=["window"])
    with pytest.raises(UsageError, match="no slot"):
        await keep.merge("c", "seat", value=1)
    with pytest.raises(BadMessage, match="does not fit"):
        await keep.merge("c", "seats", value="two")

    assert Form(wishes=["window"]) == (await keep.conversation("c")).state


async def test_a_merge_beside_a_running_turn_loses_neither(opened: Any) -> None:
    """The turn is put on top of it."""
    begun, going = asyncio.Event(), asyncio.Event()

    async def slow(turn: Turn[Any]) -> str:
        begun.set()
        await going.wait()
        turn.state["bot"] = 1
        return "done"

    keep = await opened(slow)
    asked = asyncio.create_task(keep.receive("c", "hi"))
    await begun.wait()
    await keep.merge("c", "form", value={"name": "ada"}, by="tab")
    going.set()
    await asked

    assert {"bot": 1, "form": {"name": "ada"}} == (await keep.conversation("c")).state


async def test_a_checksum_covers_what_a_person_sees(opened: Any) -> None:
    """Each change of title, messages and state moves it; marks, leases, a silent turn and housekeeping do not. The old one is accepted."""
    keep = await opened(count)
    ada = keep.user("ada")
    sums = [(await ada.save("c", title="A")).checksum]

    async def now() -> str:
        return str((await ada.conversation("c")).checksum)

    await keep.receive("c", "hello")
    sums.append(await now())
    await keep.change("c", lambda state: state | {"cart": ["tea"]})
    sums.append(await now())
    await keep.merge("c", "cart", base=["tea"], value=["tea", "milk"])
    sums.append(await now())
    await ada.rename("c", "B")
    sums.append(await now())
    await keep.redact("c", 2)
    sums.append(await now())
    await ada.seen("c", 3)
    await ada.pin("c")
    await keep.save("c", messages=[{"id": "a", "content": "x"}])
    sums.append(await now())
    await keep.save("c", messages=[{"id": "a", "content": "not the same"}])  # a note in the log
    await keep.pause("c")
    await keep.resume("c")
    snapshot = await keep._engine.store.reload(Key("", "c"))
    row = snapshot.row
    before = checksum_before(row.incarnation, row.head, body_of(row.key, snapshot.record))

    assert len(sums) == len(set(sums))
    assert sums[-1] == await now() == (await keep.conversation("c")).checksum
    assert [] == (await ada.save("c", title="C", checksum=before)).conflicts
    assert ["title"] == (await ada.save("c", title="D", checksum=before)).conflicts


async def test_nobody_makes_a_loss_by_what_a_message_says_of_itself(opened: Any) -> None:
    """Metadata of a client that looks like a note of what gave way is no loss, cannot be put back, and is in nobody's way."""
    keep = await opened()
    made = {"kind": "conflict", "about": "title", "slot": "", "path": ["m9"], "at": 1.0, "by": "phone"}
    for number, metadata in enumerate(({"kind": "conflict"}, made, made | {"about": "message"}), 1):
        await keep.accept("ada", '"a title"', id=f"m{number}", metadata=metadata)
    await keep.save("ada", messages=[{"id": "m9", "role": "user", "content": "hello"}])
    saved = (await keep.conversation("ada")).head
    with pytest.raises(UsageError, match="entry 2 is no loss"):
        await keep.restore("ada", 2)
    await keep.redact("ada", saved)

    assert [] == await keep.losses("ada")
    assert ['"a title"'] * 3 + [""] == [message.text async for message in keep.history("ada") if message.role == "user"]
