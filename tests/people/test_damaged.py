"""One conversation that cannot be read is in nobody's way: its owner sees the others, and may have it erased."""

from __future__ import annotations

import base64
import io
from typing import Any

import pytest
from msgspec import structs

from chatkeep import Chatkeep, Corrupt, OnHold, OtherOwner
from chatkeep.app import core_of
from chatkeep.auth import accounts, credentials
from chatkeep.conversation.keys import RESERVED
from chatkeep.drivers.base import Key, Scan, Write, mark_of

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
    store.gateway.driver = Damaged(store.driver, TRIP, log)
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


async def test_a_stranger_learns_of_it_what_is_learnt_of_any_other(opened: Any) -> None:
    """Nothing: it is not eve's, whatever she asks of it."""
    keep = await damaged(opened)
    eve = keep.user("eve")

    for name in ("shop", "trip"):
        assert (None, False) == (await eve.conversation(name), await eve.owns(name))
        for asked in (eve.delete(name), eve.rename(name, "mine")):
            with pytest.raises(OtherOwner, match="the user has no such conversation; nothing was changed"):
                await asked
        for asked in (eve.create(name), eve.save(name, title="mine")):
            with pytest.raises(OtherOwner, match="and the id is taken; nothing was changed"):
                await asked
    with pytest.raises(Corrupt):
        await keep.user("ada").rename("trip", "To Rome")


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


async def test_a_damaged_claim_is_in_nobodys_way(opened: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Whose it is the index says: what was the guest's is listed, handed out and erased, and the log names the claim once."""
    keep: Chatkeep[Any] = await opened(count)
    ada, target = keep.user("ada"), io.BytesIO()
    for guest in ("guest:1", "guest:2"):
        await keep.receive(f"of {guest}", "hello", owner=guest)
        await ada.claim(guest)
    store = keep._engine.store
    store.gateway.driver = Damaged(store.driver, Key(f"{RESERVED}people:", "guest:1"))
    listed = [await ids(ada) for _ in range(2)]
    handed_out = await core_of(keep).hand_out("", "ada", target)

    assert [["of guest:1", "of guest:2"]] * 2 == [sorted(names) for names in listed]
    assert (["ada", "guest:1", "guest:2"], 2) == (sorted(handed_out.names), handed_out.conversations)
    assert 1 == caplog.text.count("A record is passed over")
    assert "people:/guest:1" in caplog.text

    receipt = await ada.erase()

    assert (["of guest:1", "of guest:2"], 2) == (receipt.conversations, receipt.claims)


async def test_a_damaged_token_is_in_nobodys_way(opened: Any) -> None:
    """The others are listed, made and ended."""
    keep: Chatkeep[Any] = await opened(count)
    await keep.receive("trip", "hello", owner="ada")
    made = [await credentials.issue_token(keep, "", "trip", scopes=["read"]) for _ in range(3)]
    store = keep._engine.store
    store.gateway.driver = Damaged(store.driver, Key(f"{RESERVED}access", str(credentials.name_of(made[1].token))))

    assert [made[0].id, made[2].id] == [one.id for one in await credentials.list_tokens(keep, "", "trip")]
    assert await credentials.revoke(keep, "", "trip", made[0].id)
    assert await credentials.revoke(keep, "", "trip", made[1].id)
    assert not await credentials.revoke(keep, "", "trip", made[1].id)


async def test_a_damaged_token_of_a_family_is_in_nobodys_way(opened: Any) -> None:
    """The family is listed for its holder, and ends with any other of it."""
    keep: Chatkeep[Any] = await opened(count)
    await keep.receive("trip", "hello", owner="ada")
    made = [await credentials.issue_token(keep, "", "trip", scopes=["read"])]
    for _ in range(3):
        rotated = await credentials.rotate(keep, "", "trip", made[-1].id, grace=60)
        assert rotated is not None
        made.append(rotated)
    store = keep._engine.store
    store.gateway.driver = Damaged(store.driver, Key(f"{RESERVED}access", str(credentials.name_of(made[1].token))))
    held = await credentials.stored_credentials(keep).get(str(credentials.name_of(made[3].token)))
    assert held is not None
    related = [one.id for one in await credentials.list_related(keep, held)]
    revoked = await credentials.revoke(keep, "", "trip", made[2].id)
    ended = {one.id: one.revoked for one in await credentials.list_tokens(keep, "", "trip")}

    assert {made[n].id for n in (0, 2, 3)} == set(related)
    assert revoked
    assert {made[n].id: True for n in (0, 2, 3)} == ended


async def test_a_damaged_hold_is_listed_and_may_be_about_anything(opened: Any) -> None:
    """It hides no other; and what cannot be read itself is not erased while it is there."""
    keep = await damaged(opened)
    for name in ("shop", "zoo"):
        await core_of(keep).hold("", name, "", reason="a lawsuit")
    store = keep._engine.store
    store.gateway.driver = Damaged(store.driver, Key(f"{RESERVED}holds:", mark_of(Key("conversation", "shop"))))
    listed = [held.subject async for held in core_of(keep).holds("").all()]

    assert ["conversation 'zoo'", "something that nobody can tell"] == sorted(listed)
    with pytest.raises(OnHold, match="something that nobody can tell is on legal hold"):
        await keep.erase("trip")


async def test_records_of_chatkeeps_own_that_are_damaged_can_be_removed(opened: Any) -> None:
    """A hold is lifted or put anew, an account removed; each error names that."""
    keep: Chatkeep[Any] = await opened(count)
    core = core_of(keep)
    await keep.receive("shop", "hello")
    for name in ("shop", "zoo"):
        await core.hold("", name, "", reason="a lawsuit")
    await accounts.add_account(keep, "kim", role="agent")
    store = keep._engine.store
    for space in ("holds:", "accounts"):
        for row in await store.driver.scan(Scan("key", limit=9, tenant=RESERVED + space)):
            await store.driver.write(
                Write(structs.replace(row, revision=f"damaged-{row.key.id}", body=b"{"), row.revision)
            )
            store.forget(row.key)

    with pytest.raises(Corrupt, match="`chatkeep unhold` removes it"):
        await keep.erase("shop")
    with pytest.raises(Corrupt, match="`chatkeep accounts remove` removes it"):
        await accounts.set_password(keep, "kim", "correct horse battery")
    lifted = await core.lift_hold("", "shop", "")
    await core.hold("", "zoo", "", reason="another")
    removed = await accounts.remove_account(keep, "kim")

    assert (["conversation 'shop'"], True) == ([held.subject for held in lifted], removed)
    assert [("conversation 'zoo'", "another")] == [(one.subject, one.reason) async for one in core.holds("").all()]
    assert [] == await accounts.list_accounts(keep)


async def test_a_damaged_audit_log_is_no_erasure_that_failed(opened: Any, caplog: pytest.LogCaptureFixture) -> None:
    """All is gone, so the receipt says so; that it was not noted is in the log."""
    keep: Chatkeep[Any] = await opened(count)
    await keep.receive("shop", "hello", owner="ada")
    await keep.user("ada").claim("guest:1")
    driver = keep._engine.store.driver
    (row,) = await driver.scan(Scan("key", limit=2, tenant=f"{RESERVED}audit"))
    await driver.write(Write(structs.replace(row, revision="damaged", body=b"{"), row.revision))
    keep._engine.store.forget(row.key)
    receipt = await keep.user("ada").erase(by="kim")

    assert (["shop"], 1) == (receipt.conversations, receipt.claims)
    assert await keep.conversation("shop") is None
    assert "user:erase of ada by kim was not noted in the audit log" in caplog.text
