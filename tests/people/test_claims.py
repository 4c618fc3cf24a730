"""A guest signs in: what was the guest's is the user's, by one write."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from chatkeep import OnHold, OtherOwner, UsageError
from chatkeep.app import core_of
from chatkeep.drivers.base import Key
from chatkeep.people.claims import UNDO_S, Claim, Claims
from chatkeep.storage.holds import Hold, Holds

from ..support.clock import Clock
from ..support.counting import count
from ..support.people import ids

GUEST = "guest:7f3a"


def claims_of(keep: Any, tenant: str = "") -> Claims:
    """The claims in the store of *keep*."""
    return Claims(keep._engine.store, tenant, clock=core_of(keep).clock)


async def test_what_was_the_guests_is_the_users(opened: Any) -> None:
    """At once, on every instance; also what the guest's other page writes later; and nobody else gets any of it."""
    keep, other = await opened(count), await opened(count)
    for n in range(3):
        await keep.receive(f"g{n}", "hi", owner=GUEST)
    await keep.receive("a", "hi", owner="ada")
    await keep.user("ada").claim(GUEST)
    await keep.receive("g9", "late", owner=GUEST)
    await other.receive("g0", "and more")

    assert {"a", "g0", "g1", "g2", "g9"} == set(await ids(other.user("ada")))
    assert [] == await ids(other.user(GUEST))
    assert [] == await ids(other.user("eve"))
    assert await other.user("ada").owns("g1")
    assert [GUEST] == await other.user("ada").claimed()
    with pytest.raises(OtherOwner, match="somebody else"):
        await other.user("eve").claim(GUEST)
    assert "ada" == await other.user("ada").claim(GUEST)
    assert {"a", "g0", "g1", "g2", "g9"} == set(await ids(other.user("ada")))
    assert {"a", "g0", "g1", "g2", "g9"} == {one.id async for one in other.conversations(owner="ada")}
    assert [] == await ids(keep.tenant("salon").user("ada"))
    with pytest.raises(UsageError, match="was claimed"):
        await keep.user(GUEST).create("g10")


async def test_a_name_of_a_class_of_text_is_that_name(opened: Any) -> None:
    """As a StrEnum, or what a framework hands over."""

    class OwnText(str):
        """A class of text."""

    keep = await opened(count)
    await keep.receive("g0", "hi", owner=OwnText(GUEST))
    await keep.user(OwnText("ada")).claim(OwnText(GUEST), by=OwnText("kim"))

    assert ["g0"] == await ids(keep.user("ada"))
    assert await keep.user(OwnText("ada")).undo_claim(OwnText(GUEST))


async def test_of_several_who_claim_at_once_one_gets_it(opened: Any) -> None:
    """Whole, and the others are told."""
    keep = await opened(count)
    await keep.receive("g", "hi", owner=GUEST)
    raced = await asyncio.gather(*(keep.user(f"u{n}").claim(GUEST) for n in range(5)), return_exceptions=True)
    [won] = [name for name in raced if isinstance(name, str)]

    assert [OtherOwner] * 4 == [type(fault) for fault in raced if not isinstance(fault, str)]
    assert ["g"] == await ids(keep.user(won))


async def test_a_claim_is_undone_in_time(opened: Any) -> None:
    """By one act; then the guest's are the guest's, and somebody else may claim them. Later it is refused, and rows have the new owner."""
    clock = Clock()
    keep = await opened(count, clock=clock)
    await keep.receive("g", "hi", owner=GUEST)
    ada = keep.user("ada")
    await ada.claim(GUEST)
    await ids(ada)

    assert await ada.undo_claim(GUEST)
    assert not await ada.undo_claim(GUEST)
    assert ([], ["g"]) == (await ids(ada), await ids(keep.user(GUEST)))
    await keep.user("bob").claim(GUEST)
    assert not await ada.undo_claim(GUEST)
    assert GUEST == (await keep._engine.store.row(Key("", "g"))).owner
    clock.now += UNDO_S + 1
    with pytest.raises(UsageError, match="too long ago"):
        await keep.user("bob").undo_claim(GUEST)
    assert ["g"] == await ids(keep.user("bob"))
    assert "bob" == (await keep._engine.store.row(Key("", "g"))).owner
    assert ["g"] == await ids(keep.user("bob"))


async def test_a_hold_goes_on_when_its_owner_is_claimed(opened: Any) -> None:
    """What is on hold keeps its owner until the hold is lifted: nobody would know of it under another one."""
    clock = Clock()
    keep = await opened(count, clock=clock)
    await keep.receive("g", "hi", owner=GUEST)
    await keep.receive("own", "hi", owner="ada")
    await core_of(keep).hold("", "", GUEST, reason="case 7")
    ada = keep.user("ada")
    await ada.claim(GUEST)
    clock.now += UNDO_S + 1
    listed = await ids(ada)
    with pytest.raises(OnHold, match="case 7"):
        await keep.erase("g")
    erased = await ada.erase()

    assert {"g", "own"} == {*listed}
    assert (["own"], ["g"]) == (erased.conversations, erased.held)
    assert GUEST == (await keep._engine.store.row(Key("", "g"))).owner
    await core_of(keep).lift_hold("", "", GUEST)
    await ids(ada)
    assert "ada" == (await keep._engine.store.row(Key("", "g"))).owner


async def test_a_hold_on_a_name_that_has_nothing_any_more_says_whose_it_is(opened: Any) -> None:
    """While a claim can be undone the name still has it. A hold of before stands, also where it is put once more."""
    clock = Clock()
    keep = await opened(count, clock=clock)
    core = core_of(keep)
    for name, owner in (("g", GUEST), ("held", "guest:2")):
        await keep.receive(name, "hi", owner=owner)
        await keep.user("ada").claim(owner)
    await keep.user("eve").claim("ada")
    await core.hold("", "", "guest:2", reason="case 8")

    assert [GUEST] == [held.owner for held in await core.hold("", "", GUEST, reason="case 7")]
    await core.lift_hold("", "", GUEST)
    clock.now += UNDO_S + 1
    for _ in range(2):  # before and after the rows have their new owner
        with pytest.raises(UsageError, match=f"'{GUEST}' has become 'eve'.*nothing was put on hold"):
            await core.hold("", "", GUEST, reason="case 7")
        await ids(keep.user("eve"))
    assert "case 8" == (await core.hold("", "", "guest:2", reason="case 9"))[0].reason
    await core.hold("", "", "eve", reason="case 7")
    await keep.user("eve").claim(GUEST)
    for name in ("g", "held"):
        with pytest.raises(OnHold):
            await keep.erase(name)


async def test_what_somebody_on_hold_claims_is_on_hold(opened: Any) -> None:
    """Under each name that the claimed one has; what was claimed for others is not."""
    keep = await opened(count)
    for name, owner in (("g", GUEST), ("old", "ada2"), ("hers", "eve")):
        await keep.receive(name, "hi", owner=owner)
    await core_of(keep).hold("", "", "ada", reason="case 7")
    await keep.user("ada2").claim(GUEST)
    await keep.erase("hers")
    await keep.user("ada").claim("ada2")
    for name in ("g", "old"):
        with pytest.raises(OnHold, match="case 7"):
            await keep.erase(name)

    assert ["ada", "ada2", GUEST] == sorted([held.owner async for held in core_of(keep).holds("").all()])


async def test_what_is_claimed_for_somebody_who_is_being_put_on_hold_is_on_hold(
    opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here by a claim of somebody who is on hold: in between the claimed one claims another."""
    keep = await opened(count)
    await keep.receive("g", "hi", owner=GUEST)
    await core_of(keep).hold("", "", "ada", reason="case 7")
    put = Holds.put

    async def claim_first(holds: Holds, **about: str) -> Hold:
        monkeypatch.setattr(Holds, "put", put)
        await keep.user("ada2").claim(GUEST)
        return await put(holds, **about)

    monkeypatch.setattr(Holds, "put", claim_first)
    await keep.user("ada").claim("ada2")
    with pytest.raises(OnHold, match="case 7"):
        await keep.erase("g")

    assert ["ada", "ada2", GUEST] == sorted([held.owner async for held in core_of(keep).holds("").all()])


async def test_accounts_are_merged_in_chains_and_never_in_circles(opened: Any) -> None:
    """Each further account leads to the last one; a circle is refused, and one that two made at once is cut at its last claim."""
    clock = Clock()
    keep = await opened(count, clock=clock)
    for name in (GUEST, "ada", "eve"):
        await keep.receive(f"of {name}", "hi", owner=name)
    await keep.user("ada").claim(GUEST)
    await keep.user("eve").claim("ada")

    assert {f"of {name}" for name in (GUEST, "ada", "eve")} == set(await ids(keep.user("eve")))
    assert set(await ids(keep.user("eve"))) == set(await ids(keep.user("ada")))
    with pytest.raises(UsageError, match="merged into"):
        await keep.user("ada").claim("eve")
    with pytest.raises(UsageError, match="itself"):
        await keep.user("ada").claim("ada")
    records = claims_of(keep)._records
    clock.now += 1
    await records.change("eve", lambda held: Claim(moved_to="ada", at=clock.now), owner="ada")

    assert ["eve"] * 3 == [await claims_of(keep).find_user(name) for name in (GUEST, "ada", "eve")]
    assert {f"of {name}" for name in (GUEST, "ada", "eve")} == set(await ids(keep.user("ada")))
    clock.now += UNDO_S + 1
    held = await core_of(keep).hold("", "", "eve", reason="case 7")
    assert {GUEST, "ada", "eve"} == {one.owner for one in held}


async def test_what_one_account_has_claimed_is_the_others_too(opened: Any) -> None:
    """When two accounts are one person, who claims once more what one of them has is told so, and nothing changes; and it can be undone."""
    keep = await opened(count)
    await keep.receive("g", "hi", owner=GUEST)
    ada, eve = keep.user("ada"), keep.user("eve")
    await ada.claim(GUEST)
    await eve.claim("ada")

    assert ["eve", "eve"] == [await ada.claim(GUEST), await eve.claim(GUEST)]
    assert {"ada", GUEST} == set(await eve.claimed())
    with pytest.raises(OtherOwner):
        await keep.user("ben").claim(GUEST)
    with pytest.raises(UsageError, match="merged into"):
        await keep.user(GUEST).claim("eve")
    assert [False] * 3 == [await keep.user(name).undo_claim(name) for name in (GUEST, "ada", "eve")]
    assert not await ada.undo_claim("ada")
    assert await eve.undo_claim(GUEST)
    assert ([], ["g"]) == (await ids(eve), await ids(keep.user(GUEST)))
    assert "eve" == await ada.claim(GUEST)
    assert ["g"] == await ids(eve)


async def test_a_claim_is_noted_for_the_audit(opened: Any) -> None:
    """And so is its undoing."""
    keep = await opened(count)
    await keep.user("ada").claim(GUEST, by="desk")
    await keep.user("ada").undo_claim(GUEST)
    acts = await core_of(keep).audit.read("")

    assert [("claim:undo", "ada", GUEST), ("claim", "desk", GUEST)] == [(act.act, act.by, act.label) for act in acts]


async def test_many_rows_get_their_owner_a_few_at_a_time(opened: Any) -> None:
    """Each look at the list moves some; the list has all of them all the time, while they are written to."""
    clock = Clock()
    keep = await opened(count, clock=clock)
    for n in range(45):
        await keep.accept(f"g{n:02}", "hi", role="operator", owner=GUEST)
    await keep.user("ada").claim(GUEST)
    clock.now += UNDO_S + 1
    lengths = []
    for _ in range(4):
        found, *_ = await asyncio.gather(
            ids(keep.user("ada")), *(keep.receive(f"g{n:02}", "hi") for n in range(0, 45, 9))
        )
        lengths.append(len(found))
    rows = await keep._engine.store.rows("owner", tenant="", owner="ada")

    assert [45] * 4 == lengths
    assert 45 == len(rows)
