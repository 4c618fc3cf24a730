"""What channels hand in: what their platforms say of replies finds the replies, and nothing else."""

from __future__ import annotations

from typing import Any

from chatkeep.app import core_of
from chatkeep.conversation.outbox import Sent

from ..support.pigeons import ADA, Loft, all_delivered, statuses, twice
from ..support.waiting import until


async def test_statuses_find_their_replies(sending: Any) -> None:
    """In any order, again and again; "until" means all that were sent by then."""
    loft = Loft()
    keep = await sending(twice, loft)
    await keep.accept(ADA, "hi", id="m1")

    async def settled() -> bool:
        return [status for _, status in await statuses(keep)] == ["delivered", "delivered"]

    await until(settled)
    for status in ("read", "delivered", "sent", "read"):
        await core_of(keep).inlet.note_status("", ADA, status, id="p1")
    await core_of(keep).inlet.note_status("", ADA, "failed", id="p2", reason="blocked")
    await core_of(keep).inlet.note_status("", ADA, "read", id="p9")
    found = await keep.deliveries(ADA)

    assert [("read", ""), ("failed", "blocked")] == [(sending.status, sending.reason) for sending in found]
    await keep.accept(ADA, "more", id="m2")
    await until(lambda: len(loft.sent) == 4)

    async def all_out() -> bool:
        return len([s for s in await keep.deliveries(ADA) if s.status == "delivered"]) == 2

    await until(all_out)
    await core_of(keep).inlet.note_status("", ADA, "read", until=4e9)

    assert ["read", "failed", "read", "read"] == [status for _, status in await statuses(keep)]


async def test_a_status_under_the_key_alone_finds_its_reply(sending: Any) -> None:
    """A platform that gives no ids of its own repeats the key; one of a conversation that was erased since is nobody's."""
    loft = Loft()
    keep = await sending(twice, loft)
    await keep.accept(ADA, "hi", id="m1")

    async def settled() -> bool:
        return [status for _, status in await statuses(keep)] == ["delivered", "delivered"]

    await until(settled)
    first, second = (key for key, _, _ in loft.sent)
    for _ in range(2):
        await core_of(keep).inlet.note_status("", ADA, "failed", key=first, reason="mailbox full", at=5.0)
    await core_of(keep).inlet.note_status("", ADA, "read", key=second + "/1")
    await core_of(keep).inlet.note_status("", ADA, "failed", key="another.2@" + ADA)

    assert ["failed", "read"] == [status for _, status in await statuses(keep)]
    assert 2 == len([m async for m in keep.history(ADA) if m.metadata.get("kind") == "status"])


async def test_the_platform_s_status_settles_a_reply_of_which_no_id_came_back(sending: Any) -> None:
    """Its answer was lost; the status has an id that nothing here has seen, and the key."""
    loft = Loft(Sent(status="uncertain", reason="no answer"), Sent(status="uncertain", reason="no answer"))
    keep = await sending(twice, loft)
    await keep.accept(ADA, "hi", id="m1")

    async def settled() -> bool:
        return [status for _, status in await statuses(keep)] == ["uncertain", "uncertain"]

    await until(settled)
    first, second = (key for key, _, _ in loft.sent)
    await core_of(keep).inlet.note_status("", ADA, "read", id="seen1", key=first)
    await core_of(keep).inlet.note_status("", ADA, "failed", id="seen2", key=second, reason="blocked")

    assert ["read", "failed"] == [status for _, status in await statuses(keep)]


async def test_a_status_does_not_bring_an_erased_conversation_back(sending: Any) -> None:
    """Platforms tell of what was sent for days."""
    loft = Loft()
    keep = await sending(twice, loft)
    await keep.accept(ADA, "hi", id="m1")
    await all_delivered(keep, 2)
    await keep.erase(ADA)
    await core_of(keep).inlet.note_status("", ADA, "read", id="p2")

    assert None is await keep.conversation(ADA)
