"""What a user sees of its own conversations, and does with them."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from chatkeep import BadKey, Chatkeep, OtherOwner, UsageError
from chatkeep.app import core_of
from chatkeep.drivers.base import Erase, Key
from chatkeep.people.claims import Claims
from chatkeep.storage.store import Store

from ..support.clock import Clock
from ..support.counting import count
from ..support.people import ids


async def test_the_list_has_what_a_page_shows(opened: Any) -> None:
    """Newest first; title, last words, what was not seen, version and checksum; nobody else's."""
    clock = Clock()
    keep = await opened(count, clock=clock)
    ada = keep.user("ada")
    await ada.create("trip", title="To Rome")
    clock.now += 1
    await keep.receive("shop", "milk", owner="ada")
    await keep.receive("eve's", "hi", owner="eve")
    await keep.accept("shop", "we have none", role="operator")
    first = {summary.id: summary async for summary in ada.conversations()}
    await ada.seen("shop", first["shop"].head)
    seen = await ada.conversation("shop")

    assert ["shop", "trip"] == list(first)
    assert ("To Rome", "", 0) == (first["trip"].title, first["trip"].last, first["trip"].unseen)
    assert ("we have none", "operator", 2) == (first["shop"].last, first["shop"].last_role, first["shop"].unseen)
    assert (0, first["shop"].version + 1) == (seen.unseen, seen.version)
    assert seen.checksum == first["shop"].checksum
    assert await ada.conversation("eve's") is None
    assert seen.checksum == (await keep.save("shop")).checksum
    assert (True, False) == (await ada.owns("trip"), await ada.owns("eve's"))


async def test_pinned_first_and_archived_apart(opened: Any) -> None:
    """As the user has put them."""
    clock = Clock()
    keep = await opened(count, clock=clock)
    ada = keep.user("ada")
    for name in "abc":
        clock.now += 1
        await ada.create(name)
    await ada.pin("a")
    await ada.archive("b")
    before = [await ids(ada), await ids(ada, archived=False), await ids(ada, archived=True), await ids(ada, limit=1)]
    await ada.pin("a", False)
    await ada.archive("b", False)

    assert [["a", "c", "b"], ["a", "c"], ["b"], ["a"]] == [
        [one for one in found if one != "b"] + [one for one in found if one == "b"] for found in before
    ]
    assert {"a", "b", "c"} == set(await ids(ada, archived=False))


async def test_another_users_conversation_is_refused(opened: Any) -> None:
    """Whatever is asked for, and nothing of it is changed."""
    keep = await opened(count)
    await keep.user("ada").create("trip", title="To Rome")
    before, eve = await keep.user("ada").conversation("trip"), keep.user("eve")
    for act in (
        eve.create("trip", title="mine"),
        eve.rename("trip", "mine"),
        eve.archive("trip"),
        eve.pin("trip"),
        eve.seen("trip", 1),
        eve.delete("trip"),
        eve.save("trip", messages=[{"id": "m1", "content": "in"}]),
        eve.rename("nothing there", "mine"),
    ):
        with pytest.raises(OtherOwner):
            await act

    assert before == await keep.user("ada").conversation("trip")
    assert [] == await ids(eve)


async def test_a_deletion_is_told_and_another_tenant_sees_nothing(opened: Any) -> None:
    """Who holds a cursor hears of changes, new ones and deletions, once; also when an operator, or time, has erased it."""
    clock = Clock()
    keep = await opened(count, clock=clock)
    ada = keep.user("ada")
    for name in "abcd":
        await ada.create(name)
        clock.now += 60
    first = await ada.changes()
    nothing = await ada.changes(first.cursor)
    await ada.rename("b", "B")
    await ada.delete("a")
    await ada.delete("a")
    await keep.erase("c")
    await ada.create("e")
    then = await ada.changes(first.cursor)
    after = await ada.changes(then.cursor)
    other = await keep.tenant("salon").user("ada").changes()

    assert (["a", "b", "c", "d"], [], 4) == ([one.id for one in first.conversations], first.erased, first.total)
    assert ([], []) == (nothing.conversations, nothing.erased)
    assert ({"b", "e"}, {"a", "c"}, 3) == ({one.id for one in then.conversations}, set(then.erased), then.total)
    assert ([], []) == (after.conversations, after.erased)
    assert ([], 0) == (other.conversations, other.total)


async def test_a_conversation_that_is_created_again_is_not_told_as_erased(opened: Any) -> None:
    """It is told as changed; and the deletion itself only while it is gone."""
    keep = await opened(count)
    ada = keep.user("ada")
    await ada.create("a", title="old")
    first = await ada.changes()
    await ada.delete("a")
    await ada.create("a", title="new")
    then = await ada.changes(first.cursor)

    assert ([("a", "new")], []) == ([(one.id, one.title) for one in then.conversations], then.erased)


async def test_pages_of_changes_leave_nothing_out(opened: Any) -> None:
    """Also where all was written in the same moment; another user's cursor, or nonsense, begins anew or is refused."""
    clock = Clock()
    keep = await opened(count, clock=clock)
    ada = keep.user("ada")
    await asyncio.gather(*(ada.create(f"c{n:02}") for n in range(25)))
    found, cursor, pages = list[str](), None, 0
    while True:
        page = await ada.changes(cursor, limit=10)
        found, cursor, pages = found + [one.id for one in page.conversations], page.cursor, pages + 1
        if not page.more:
            break
    eves = await keep.user("eve").changes(cursor)
    with pytest.raises(UsageError, match="no"):
        await ada.changes("nonsense")

    assert (3, [f"c{n:02}" for n in range(25)]) == (pages, sorted(found))
    assert (True, 0) == (eves.reset, eves.total)


async def test_a_writer_whose_clock_is_behind_is_not_missed(opened: Any) -> None:
    """Within half a minute."""
    ahead, behind = Clock(), Clock()
    keep, other = await opened(count, clock=ahead), await opened(count, clock=behind)
    ahead.now += 20
    await keep.user("ada").create("a")
    first = await keep.user("ada").changes()
    await other.user("ada").create("b")
    then = await keep.user("ada").changes(first.cursor)

    assert ["b"] == [one.id for one in then.conversations]


async def test_what_changed_is_told_in_what_it_takes(opened: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Of many conversations in which a few have changed, as much as the few."""
    clock = Clock()
    keep = await opened(count, clock=clock)
    ada = keep.user("ada")
    for first in range(0, 200, 50):
        await asyncio.gather(
            *(
                ada.save(f"c{n}", title=f"chat {n}", messages=[{"id": "m", "content": "words " * 20}])
                for n in range(first, first + 50)
            )
        )
    clock.now += 3600
    everything = await ada.changes()
    cursor = everything.cursor
    for n in range(5):
        await ada.rename(f"c{n}", "new")
    changed = await ada.changes(cursor)
    sizes = [len(msgspec.json.encode(one)) for one in (everything, changed)]
    with capsys.disabled():
        print(f"\n200 conversations take {sizes[0]:,} bytes; 5 that changed, {sizes[1]:,}")

    assert {f"c{n}" for n in range(5)} == {one.id for one in changed.conversations}
    assert sizes[1] < sizes[0] / 20


@pytest.mark.parametrize("url", ["memory://"])
async def test_what_changed_costs_the_same_however_many_there_are(
    opened: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ten that have changed of a thousand conversations with fifty messages each, and of ten: as many bytes."""
    clock = Clock()
    keep = await opened(count, clock=clock)
    messages = [{"id": f"m{n}", "content": f"What was said, number {n}"} for n in range(50)]
    sizes = {}
    for number in (10, 1_000):
        user = keep.user(f"has{number}")
        for first in range(0, number, 50):
            some = range(first, min(first + 50, number))
            await asyncio.gather(*(user.save(f"{number}-{n:04}", title=f"chat {n}", messages=messages) for n in some))
        clock.now += 3600
        known = await user.changes()
        while known.more:
            known = await user.changes(known.cursor)
        for n in range(10):
            await user.save(f"{number}-{n:04}", messages=[{"id": "new", "content": "One more"}])
        changed = await user.changes(known.cursor)
        sizes[number] = len(msgspec.json.encode(changed))
        assert 10 == len(changed.conversations)
    with capsys.disabled():
        print(f"\n10 that have changed of 10: {sizes[10]:,} bytes; of 1,000 of 50 messages: {sizes[1_000]:,}")

    assert sizes[1_000] < 1.1 * sizes[10]


async def test_a_conversation_is_its_owners_by_each_of_their_names(opened: Any) -> None:
    """Whoever saves or creates in another's name is told so, and nothing is changed; what was claimed for somebody is theirs."""
    keep = await opened(count)
    await keep.user("ada").create("trip", title="Rome")
    await keep.receive("g", "hi", owner="guest:1")
    await keep.receive("nobody's", "hi")
    for owner in ("ada", "eve"):
        with pytest.raises(OtherOwner, match=r"belongs to 'guest:1'.*nothing was changed"):
            await keep.create("g", owner=owner)
    await keep.user("ada").claim("guest:1")
    with pytest.raises(OtherOwner, match=r"belongs to 'ada'.*nothing was changed") as refused:
        await keep.save("trip", owner="eve", title="Mine", messages=[{"id": "m", "content": "x"}], force=True)
    for owner in ("ada", "guest:1"):
        await keep.create("g", owner=owner)
        await keep.save("g", owner=owner, title=f"of {owner}")
        await keep.save("trip", owner=owner, messages=[{"id": owner, "content": "x"}])
    await keep.save("nobody's", owner="ada", title="As it is")

    assert "ada" == refused.value.owner
    assert {"trip": "Rome", "g": "of guest:1"} == {one.id: one.title async for one in keep.user("ada").conversations()}
    assert ["ada", "guest:1"] == [m.id async for m in keep.history("trip") if m.role == "user"]
    assert "" == (await keep.conversation("nobody's")).owner


async def test_whose_it_is_costs_an_owner_nothing(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only where the conversation stands under another name the store is asked who that is."""
    keep = await opened(count)
    asked, find = list[str](), Claims.find_user

    async def counted(claims: Claims, name: str) -> str:
        asked.append(name)
        return await find(claims, name)

    await keep.user("ada").claim("guest:1")
    monkeypatch.setattr(Claims, "find_user", counted)
    for owner in ("ada", "ada", "guest:1"):
        await keep.create("trip", owner=owner)
        await keep.save("trip", owner=owner, title=f"of {owner}")

    assert ["guest:1"] * 2 == asked


async def test_what_is_created_for_an_owner_is_the_owners(opened: Any) -> None:
    """Also where it was erased without a word to this process, and nothing of it is known to be gone."""
    keep = await opened(count)
    ada, store = keep.tenant("t").for_owner("ada"), keep._engine.store
    made = [await ada.create("a"), await ada.change("b", lambda state: state.update(n=1))]
    await store.driver.erase(Erase(Key("t", "b"), at=keep._engine.shared.clock()))

    def once(state: dict[str, Any]) -> None:
        if state:
            raise ValueError("there is a state already")
        state["n"] = 2

    made += [await ada.change("b", once)]

    assert ["ada"] * 3 == [conversation.owner for conversation in made]
    with pytest.raises(OtherOwner):
        await keep.tenant("t").for_owner("eve").create("a")


async def test_a_conversation_that_is_given_away_meanwhile_is_looked_at_anew(
    opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was nobody's when the save looked, and somebody's when it wrote."""
    keep = await opened(count)
    await keep.receive("g", "hi")
    find = Store.find

    async def slow(store: Store, *asked: Any) -> Any:
        monkeypatch.undo()
        await core_of(keep).give_owner("", "g", "eve")
        return await find(store, *asked)

    monkeypatch.setattr(Store, "find", slow)
    with pytest.raises(OtherOwner, match="belongs to 'eve'"):
        await keep.save("g", owner="ada", title="Mine")

    assert "" == (await keep.conversation("g")).title


@pytest.mark.parametrize("name", ["", None, 7, ["ada"], "a\0b", "x" * 513, "\ud800"])
async def test_what_is_no_name_of_a_user_is_told_as_one(name: Any) -> None:
    """Nobody has given the id of a conversation."""
    async with Chatkeep("memory://") as keep:
        with pytest.raises(BadKey, match="user's name"):
            keep.user(name)
        with pytest.raises(BadKey, match="user's name"):
            await keep.user("ada").claim(name)
        if name:
            with pytest.raises(BadKey, match="user's name"):
                await keep.accept("trip", "hi", owner=name)
            with pytest.raises(BadKey, match="user's name"):
                await keep.save("trip", owner=name)
