"""A user's conversations, from the Python client."""

from __future__ import annotations

import asyncio

import pytest

from chatkeep.auth.credentials import issue_user_token
from chatkeep.client import Client, NotFound, PreconditionFailed, SyncClient, Unauthorized
from chatkeep.testing.proxy import Loss, Proxy

from ..support.client_server import Place
from ..support.waiting import until


async def test_an_account_has_its_list_saves_and_devices(place: Place) -> None:
    """Two devices of one user and a guest that signs in; what gave way is told."""
    url = f"http://127.0.0.1:{place.port}"
    tokens = [(await issue_user_token(place.keep, "", "ada", label=label)).token for label in ("phone", "tab")]
    async with Client(url, tokens[0]) as phone, Client(url, tokens[1]) as tab, Client(url) as guest:
        first = await phone.account.create("trip", title="To Rome")
        await tab.conversation("shop").send("milk")
        listed = [(one.id, one.title) async for one in phone.account.conversations()]
        since = (await phone.account.changes()).cursor
        saved = await tab.account.save(
            "trip", title="To Naples", checksum=first.checksum, messages=[{"id": "m", "content": "x"}]
        )
        with pytest.raises(PreconditionFailed):
            await phone.account.save("trip", title="Florence", checksum=first.checksum)
        stale = await phone.account.save("trip", title="Florence", version=first.version)
        changed = await phone.account.changes(since)
        [lost] = await phone.account.losses("trip")
        await phone.account.restore("trip", lost.number)
        cart = phone.conversation("trip").slot("cart")
        await cart.merge(["tea"])
        merged = await cart.merge(["tea", "milk"], base=["tea"], by="phone")
        visit = await guest.create()
        claimed = await phone.account.claim(visit.token)
        ids = {one.id async for one in tab.account.conversations()}
        await phone.account.undo_claim(claimed.guest)
        with pytest.raises(NotFound):
            await phone.account.undo_claim(claimed.guest)
        devices = await phone.account.devices()
        fresh = await phone.account.refresh(grace=600)
        then = await tab.account.devices()
        me = await phone.me()
        await phone.account.sign_out(next(one.id for one in devices if one.label == "tab"))
        with pytest.raises(Unauthorized):
            await tab.me()

    assert {("trip", "To Rome"), ("shop", "")} == set(listed)
    assert (["m"], "To Naples", ["title"]) == (saved.added, saved.title, stale.conflicts)
    assert ({"trip"}, []) == ({one.id for one in changed.conversations}, changed.erased)
    assert [("phone", True), ("tab", False)] == sorted((one.label, one.current) for one in devices)
    assert ("title", "Florence", ["tea", "milk"]) == (lost.about, lost.value, merged)
    assert {"trip", "shop", visit.id} == ids
    assert ["phone", "tab"] == sorted(one.label for one in then)
    assert ("user", "ada", phone.token) == (me.kind, me.user, fresh.token)


@pytest.mark.parametrize("checked", [True, False])
async def test_a_save_whose_answer_was_lost_is_made_once(place: Place, checked: bool) -> None:
    """It is sent again and known by its key, also where another device has saved meanwhile, whose title stays."""
    url, token = f"http://127.0.0.1:{place.port}", (await issue_user_token(place.keep, "", "ada")).token
    async with (
        Proxy(place.port) as proxy,
        Client(f"http://127.0.0.1:{proxy.port}", token) as phone,
        Client(url, token) as tab,
    ):
        first = await phone.account.create("trip", title="To Rome")
        came, held = asyncio.Event(), asyncio.Event()

        def lose(request: bytes) -> Loss | None:
            if not request.startswith(b"PUT") or came.is_set():
                return "request" if request.startswith(b"PUT") and not held.is_set() else None
            came.set()
            return "reply"

        proxy.lose = lose
        saving = asyncio.create_task(
            phone.account.save("trip", title="To Naples", checksum=first.checksum if checked else None)
        )
        await until(lambda: proxy.lost["reply"])
        await tab.account.save("trip", title="To Florence")
        held.set()
        saved = await saving

    assert (1, "To Florence", []) == (proxy.lost["reply"], saved.title, saved.conflicts)


async def test_an_erasure_whose_answer_was_lost_is_done(place: Place) -> None:
    """What is not there any more was erased by it; a user is not told that it is uncertain. What never was there is not found, as ever."""
    token = (await issue_user_token(place.keep, "", "ada")).token
    async with Proxy(place.port) as proxy, Client(f"http://127.0.0.1:{proxy.port}", token) as phone:
        for name in ("trip", "shop"):
            await phone.account.create(name)
        proxy.lose = lambda request: "reply" if request.startswith(b"DELETE") and proxy.lost["reply"] < 1 else None
        await phone.account.delete("trip")
        proxy.lose = lambda request: "reply" if request.startswith(b"DELETE") and proxy.lost["reply"] < 2 else None
        await phone.conversation("shop").erase()
        with pytest.raises(NotFound):
            await phone.conversation("shop").erase()
        left = [one.id async for one in phone.account.conversations()]

    assert (2, []) == (proxy.lost["reply"], left)


async def test_without_an_event_loop(place: Place) -> None:
    """The same words."""
    token = (await issue_user_token(place.keep, "", "ada")).token

    def use() -> list[str]:
        with SyncClient(f"http://127.0.0.1:{place.port}", token) as client:
            client.account.create("a")
            return [one.id for one in client.account.conversations()]

    assert ["a"] == await asyncio.to_thread(use)
