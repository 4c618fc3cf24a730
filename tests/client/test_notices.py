"""What a person is told: notices of the Python client, and its statistics."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from chatkeep.auth.credentials import issue_user_token
from chatkeep.client import (
    Changed,
    Client,
    Ended,
    Notice,
    SignedIn,
    SyncClient,
)
from chatkeep.client.notices import LISTENED_MOST, STANDING_MOST, Notices
from chatkeep.errors import Unavailable, UsageError
from chatkeep.server import people

from ..support.client_server import Place, Running
from ..support.waiting import until


@asynccontextmanager
async def told(client: Client) -> AsyncIterator[list[Notice]]:
    """The notices of *client*, as they come."""
    heard: list[Notice] = []

    async def listen() -> None:
        async for notice in client.notices():
            heard.append(notice)  # noqa: PERF401 - looked at meanwhile

    task = asyncio.create_task(listen())
    await asyncio.sleep(0)
    try:
        yield heard
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def kinds(heard: list[Notice]) -> list[str]:
    """Which there were."""
    return [notice.kind for notice in heard]


async def token_of(place: Place, user: str, label: str = "") -> str:
    """A new device of a user."""
    return (await issue_user_token(place.keep, "", user, label=label)).token


async def test_what_is_refused_can_be_retried_or_discarded(place: Place, tmp_path: Path) -> None:
    """The notice of a refused message stands, also for the next run of the program, until it is dealt with."""
    queue = str(tmp_path / "outbox.db")
    async with place.client(queue=queue) as client, told(client) as heard:
        chat = client.conversation("ada")
        await chat.post("hello")
        await client.drained()
        await until(lambda: "saved" in kinds(heard))
        await place.keep.receive("ada", "another text", id="taken")
        await chat.post("one", id="taken")
        await until(lambda: "failed" in kinds(heard))
    async with place.client(queue=queue) as client, told(client) as later:
        await until(lambda: bool(later))
        failed = later[0]
        await client.act(failed, "retry")
        await until(lambda: kinds(later).count("failed") == 2)
        await client.act(failed.id, "discard")
        with pytest.raises(UsageError, match="no"):
            await client.act(failed, "discard")
        left = await client.refused()

    assert ("failed", "error", True, ("retry", "discard"), "ada") == (
        failed.kind,
        failed.level,
        failed.persistent,
        failed.actions,
        failed.about,
    )
    assert [] == left


async def test_a_server_that_is_away_is_told_once_and_so_is_its_return(running: Running, tmp_path: Path) -> None:
    """What was posted meanwhile is told as saved."""
    async with (
        Client(running.url, running.key, queue=str(tmp_path / "outbox.db")) as client,
        told(client) as heard,
    ):
        running.kill()
        await client.conversation("ada").post("hello")
        await until(lambda: "offline" in kinds(heard))
        during = client.statistics()
        running.start()
        await until(lambda: "saved" in kinds(heard))
        after = client.statistics()

    assert ["offline", "restored", "saved"] == kinds(heard)
    assert (False, 1) == (during.online, during.pending.waiting if during.pending else None)
    assert (True, {"offline": 1, "restored": 1, "saved": 1}) == (after.online, after.notices)
    assert after.unanswered >= 2
    assert after.requests > after.unanswered
    assert after.received_bytes > 0


async def test_a_save_that_failed_is_made_again_by_its_notice(running: Running) -> None:
    """The caller has the error, and the person a retry."""
    async with Client(running.url, running.key, timeout="3s") as client, told(client) as heard:
        running.kill()
        with pytest.raises(Unavailable):
            await client.account.save("trip", title="To Rome")
        await until(lambda: "failed" in kinds(heard))
        running.start()
        [failed] = [notice for notice in heard if notice.kind == "failed"]
        await client.act(failed, "retry")
        title = (await client.account.save("trip", notify=False)).title

    assert ("To Rome", ["offline", "failed", "restored", "saved"]) == (title, kinds(heard))


async def test_what_gave_way_is_told_and_restored(place: Place) -> None:
    """A title, and a place in a slot."""
    async with place.client(await token_of(place, "ada")) as client, told(client) as heard:
        account, cart = client.account, client.conversation("trip").slot("cart")
        first = await account.save("trip", title="To Rome", notify=False)
        await account.rename("trip", "To Naples")
        await account.save("trip", title="Florence", version=first.version)
        await cart.merge({"n": 1}, at=1000.0)
        await cart.merge({"n": 2}, base={"n": 1}, at=3000.0, by="tab")
        await cart.merge({"n": 3}, base={"n": 1}, at=2000.0, by="phone")
        await until(lambda: kinds(heard).count("conflict") == 2)
        title, slot = [notice for notice in heard if notice.kind == "conflict"]
        await client.act(title, "restore")
        await client.act(slot, "restore")
        [summary] = [one async for one in account.conversations()]
        value = await cart.get()

    assert ("trip", "info", ("restore",)) == (title.about, title.level, title.actions)
    assert ("Florence", {"n": 3}) == (summary.title, value)


async def test_another_device_is_told_and_can_be_ended(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stream of a list tells what changes, on which device the user signs in, and that the own token has ended."""
    monkeypatch.setattr(people, "DEVICES_S", 0.05)
    monkeypatch.setattr(people, "LOOK_S", 0.05)
    async with place.client(await token_of(place, "ada")) as client, told(client) as heard:
        happened: list[object] = []

        async def follow() -> None:
            async for event in client.account.events():
                happened.append(event)  # noqa: PERF401 - looked at meanwhile

        following = asyncio.create_task(follow())
        await until(lambda: client.statistics().streams == 1)
        await client.account.create("trip", title="To Rome")
        await until(lambda: any(isinstance(one, Changed) for one in happened))
        other = await token_of(place, "ada", "phone")
        await until(lambda: "device" in kinds(heard))
        [notice] = [one for one in heard if one.kind == "device"]
        await client.act(notice, "sign-out")
        labels = [one.label for one in await client.account.devices() if not one.revoked]
        await client.account.delete("trip")
        await until(lambda: any(isinstance(one, Changed) and one.erased for one in happened))
        await client.account.sign_out()
        await following

    changed = [one for one in happened if isinstance(one, Changed)]
    assert ("To Rome", ["trip"], 0) == (changed[0].conversations[0].title, changed[-1].erased, changed[-1].total)
    assert ["phone"] == [one.device.label for one in happened if isinstance(one, SignedIn)]
    assert "phone" not in labels
    assert Ended(reason="revoked") == happened[-1]
    assert "expired" in kinds(heard)
    assert other


async def test_a_guest_signs_in_and_out(place: Place, tmp_path: Path) -> None:
    """What the guest had, also in the queue, is the user's; who signs out leaves what is unsent, for the same user alone."""
    ada = await token_of(place, "ada")
    queue = str(tmp_path / "outbox.db")
    async with place.client(None, queue=queue) as client, told(client) as heard:
        visit = await client.create()
        await client.conversation(visit.id).send("hello")
        claimed = await client.sign_in(ada)
        mine = [one.id async for one in client.account.conversations()]
        again = await client.sign_in(ada)
        posted = await client.conversation(visit.id).post("at last")
        await client.sign_out(unsent="send")
        signed_out = client.token
        await client.sign_in(await token_of(place, "ada"))
        ids = [message.id for message in await client.conversation(visit.id).history()]
        await client.conversation(visit.id).post("other text", id=posted)
        await until(lambda: client.pending.refused == 1)
        await client.sign_out()
        kept = client.pending
        await client.sign_in(await token_of(place, "ada"))
        await until(lambda: client.pending.refused == 1)
        there = len(await client.refused())
        await client.sign_out(unsent="discard")
        await client.sign_in(await token_of(place, "ada"))
        await client.drained()
        left = await client.refused()

    assert claimed is not None
    assert ("ada", [visit.id], None, None) == (claimed.user, mine, again, signed_out)
    assert posted in ids
    assert (1, 0, 1, []) == (kept.held, kept.refused, there, left)
    assert "claimed" in kinds(heard)


async def test_a_claim_that_is_refused_leaves_the_client_signed_in_as_before(place: Place) -> None:
    """Somebody else has claimed the guest."""
    async with place.client(None) as client:
        await client.create()
        guest = client.token
        async with place.client(await token_of(place, "eve")) as eve:
            await eve.account.claim(guest or "")
        with pytest.raises(UsageError, match="claimed"):
            await client.sign_in(await token_of(place, "ada"))

        assert guest == client.token


async def test_the_same_words_without_an_event_loop(place: Place) -> None:
    """Notices, an action and statistics from a plain thread."""
    token = await token_of(place, "ada")

    def use() -> tuple[str, str, int]:
        with SyncClient(place.url, token) as client:
            heard = client.notices()
            client.account.save("trip", title="To Rome", notify=False)
            stale = client.account.save("trip", notify=False).version
            client.account.rename("trip", "To Naples")
            client.account.save("trip", title="Florence", version=stale - 1)
            notice = next(heard)
            client.act(notice, "restore")
            return notice.kind, next(iter(client.account.conversations())).title, client.statistics().requests

    kind, title, requests = await asyncio.to_thread(use)

    assert ("conflict", "Florence") == (kind, title)
    assert requests >= 6


async def test_the_debug_log_has_no_content(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    """Addresses, statuses and times."""
    caplog.set_level(logging.DEBUG, "chatkeep.client")
    async with place.client() as client:
        await client.conversation("ada").send("a secret word")

    assert "POST /v1/conversations/ada/messages: 200" in caplog.text
    assert "secret" not in caplog.text


async def test_a_hundred_thousand_notices_take_no_memory() -> None:
    """What stands, and what a slow reader is behind, is bounded."""
    notices = Notices()
    heard = notices.listen()
    first = asyncio.ensure_future(anext(heard))
    await asyncio.sleep(0)
    for number in range(100_000):
        notices.tell("failed", "x", id=f"queue:{number}")
    await first
    notices.close()
    rest = [notice.id async for notice in heard]

    assert "queue:99999" == rest[-1]
    assert len(rest) < LISTENED_MOST
    assert STANDING_MOST == len([notice async for notice in closing(notices)])


async def closing(notices: Notices) -> AsyncIterator[Notice]:
    """What stands."""
    heard = notices.listen()
    for _ in range(STANDING_MOST):
        yield await anext(heard)
    await heard.aclose()
