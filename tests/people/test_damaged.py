"""One conversation that cannot be read is in nobody's way: its owner sees the others, and may have it erased."""

from __future__ import annotations

import base64
import io
from typing import Any

import pytest

from chatkeep import Chatkeep, OnHold
from chatkeep.app import core_of
from chatkeep.drivers.base import Key

from ..support.counting import count
from ..support.damaged import Damaged
from ..support.people import ids

TRIP = Key("", "trip")
SECRET = base64.b64encode(bytes(range(32))).decode()


async def damaged(opened: Any, *, log: bool = False) -> Chatkeep[Any]:
    """A Chatkeep in which ada has "shop", "trip", which cannot be read, and "zoo"."""
    keep: Chatkeep[Any] = await opened(count)
    for name in ("shop", "trip", "zoo"):
        await keep.receive(name, "hello", owner="ada")
    store = keep._engine.store
    store.forget(TRIP)
    store.driver = Damaged(store.driver, TRIP, log)
    return keep


@pytest.mark.parametrize("log", [False, True], ids=["row", "log"])
async def test_a_list_shows_it_with_the_reason_and_all_others(opened: Any, log: bool) -> None:
    """Page by page, as what has changed, alone, in an archive, and at the desk."""
    keep = await damaged(opened, log=log)
    ada, target = keep.user("ada"), io.BytesIO()
    listed = {one.id: one.fault async for one in ada.conversations()}
    changed = {one.id: one.fault for one in (await ada.changes()).conversations}
    alone = await ada.conversation("trip")
    handed_out = await core_of(keep).hand_out("", "ada", target)

    assert {"shop": "", "trip": True, "zoo": ""} == {
        id: (bool(fault) and "cannot be read" in fault) or fault for id, fault in listed.items()
    }
    assert listed == changed == {one.id: one.fault for one in (await ada.page()).conversations}
    assert (True, listed["trip"]) == (await ada.owns("trip"), alone and alone.fault)
    assert (2, ["trip"]) == (handed_out.conversations, list(handed_out.damaged))


async def test_its_owner_may_delete_it_and_devices_are_told(opened: Any) -> None:
    """Whose it is the index says; another user's it is not, and a hold on either stands."""
    keep = await damaged(opened)
    ada = keep.user("ada")
    known = await ada.changes()
    await core_of(keep).hold("", "", "ada", reason="a lawsuit")
    with pytest.raises(OnHold, match="'ada' owns is on legal hold"):
        await ada.delete("trip")
    await core_of(keep).lift_hold("", "", "ada")
    await core_of(keep).hold("", "", "eve", reason="another one")
    await ada.delete("trip")

    assert ["trip"] == (await ada.changes(known.cursor)).erased
    assert ["shop", "zoo"] == sorted(await ids(ada))
    assert await keep.conversation("trip") is None


async def test_a_user_is_erased_with_it(opened: Any) -> None:
    """It does not stop half way."""
    keep = await damaged(opened)
    receipt = await keep.user("ada").erase()

    assert (["shop", "trip", "zoo"], 4) == (receipt.conversations, receipt.entries)
    assert [] == [one.id async for one in keep.conversations()]


async def test_its_owner_ends_an_erasure_that_was_killed(opened: Any) -> None:
    """In a sealed store the key goes first, and nobody reads what is left: it is shown, deleted and erased like any other."""
    keep: Chatkeep[Any] = await opened(count, seal_keys=[SECRET])
    for name in ("shop", "trip", "zoo"):
        await keep.receive(name, "hello", owner="ada")
        keep._engine.store.forget(Key("", name))
    for name in ("trip", "zoo"):
        sealing: Any = keep._engine.store.driver
        await sealing._keys.destroy(Key("", name), at=core_of(keep).clock())
    ada = keep.user("ada")
    alone, owns, others = await ada.conversation("trip"), await ada.owns("trip"), await keep.user("eve").owns("shop")
    await ada.delete("trip")
    receipt = await ada.erase()

    assert (True, True, False) == (bool(alone and "sealed" in alone.fault), owns, others)
    assert ["shop", "zoo"] == receipt.conversations
    assert [] == [one.id async for one in keep.conversations()]
