"""Erasures: what meets one begins nothing anew, and what is damaged is erased too."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from chatkeep import Chatkeep, HandlerFailed, OnHold, OtherOwner, Turn, Unavailable, UsageError
from chatkeep.app import core_of
from chatkeep.conversation.snapshots import Commit
from chatkeep.drivers.base import Append, Erase, Key, Write
from chatkeep.storage.gateway import Gateway

from ..support.damaged import Damaged

ADA = Key("", "ada")


class Bot:
    """Fails with what begins with "bad"."""

    async def __call__(self, turn: Turn[Any]) -> str:
        """Answers."""
        if turn.text.startswith("bad"):
            raise RuntimeError("cannot digest it")
        return f"fine: {turn.text}"


ACTS: dict[str, Callable[[Any], Awaitable[Any]]] = {
    "replay": lambda keep: keep.replay("ada", 4),
    "dismiss": lambda keep: keep.dismiss("ada", 4),
    "redact": lambda keep: keep.redact("ada", 1),
    "withdraw": lambda keep: keep.withdraw("ada", 8),
    "amend": lambda keep: keep.amend("ada", 8, "rather this"),
    "pause": lambda keep: keep.pause("ada"),
    "take over": lambda keep: core_of(keep).take_over("", "ada", "kim"),
    "hand over": lambda keep: core_of(keep).assign("", "ada", "kim", by="joe"),
    "hand back": lambda keep: keep.resume("ada"),
    "skip": lambda keep: keep.resume("ada", unread="skip"),
    "undo": lambda keep: keep.undo("ada", 3, by="kim"),
    "restore": lambda keep: keep.restore("ada", 6),
    "clear": lambda keep: keep.clear("ada"),
    "send again": lambda keep: keep._engine.changes.resend(ADA, 2),
    "note": lambda keep: core_of(keep).note("", "ada", "call her", author="kim", id="n1"),
    "status": lambda keep: core_of(keep).inlet.note_status("", "ada", "read", id="p1"),
}


@pytest.mark.parametrize("anew", [False, True], ids=["gone", "begun anew"])
@pytest.mark.parametrize("act", ACTS)
async def test_an_act_that_meets_an_erasure_begins_nothing(
    opened: Any, monkeypatch: pytest.MonkeyPatch, act: str, anew: bool
) -> None:
    """It was asked for in the moment before: it ends with the conversation, and does nothing to one that is begun under its id."""
    keep = await opened(Bot(), attempts=1, background=False)
    await keep.receive("ada", "hi")
    await keep.change("ada", lambda state: state.update(n=1), by="kim")
    with pytest.raises(HandlerFailed):
        await keep.receive("ada", "bad")
    await keep.save("ada", title="Rome", at=1000.0)
    await keep.save("ada", title="Oslo", base="Bonn", at=900.0)
    if act in ("withdraw", "amend", "hand back", "skip"):
        await keep.pause("ada")
        await keep.accept("ada", "waits")

    log = [(m.number, m.role, m.text, m.metadata.get("kind")) async for m in keep.history("ada")]
    through = Gateway.act

    async def meeting(gateway: Gateway, verb: Any, told: Any) -> Any:
        monkeypatch.setattr(Gateway, "act", through)
        await gateway.driver.erase(Erase(ADA, at=keep._engine.shared.clock()))
        if anew:
            await keep.accept("ada", "another life", owner="ada")
            await keep.change("ada", lambda state: state.update(n=2))
        return await through(gateway, verb, told)

    def met(gateway: Gateway, verb: Any, told: Any) -> Any:
        writes = isinstance(told, Append) or (isinstance(told, Write) and told.row.key == ADA)
        return meeting(gateway, verb, told) if writes else through(gateway, verb, told)

    monkeypatch.setattr(Gateway, "act", met)
    with suppress(UsageError):
        await ACTS[act](keep)
    erased = Gateway.act is through
    monkeypatch.setattr(Gateway, "act", through)
    found = await keep.conversation("ada")

    assert erased, log
    if anew:
        log = [m.text async for m in keep.history("ada")]
        assert ("ada", "another life") == (found.owner, log[0])
        # (What a platform knows under an id of its own says nothing of a life.)
        assert act == "status" or ["another life"] == log
        assert (False, "", {"n": 2}) == (found.paused, found.assignee, found.state)
    else:
        assert found is None


async def test_the_journal_keeps_nothing_for_a_conversation_that_may_be_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is handed in later begins a conversation where there is none; a replay is refused while the store is away."""
    outage: dict[str, Any] = {"on_outage": "journal", "journal": f"{tmp_path}/journal.db"}
    keep: Chatkeep[Any] = Chatkeep(f"sqlite:///{tmp_path}/chat.db", attempts=1, background=False, **outage)
    keep.on_message(Bot())
    through = Gateway.act

    def act(gateway: Gateway, verb: Any, told: Any) -> Any:
        if isinstance(told, Write):
            raise Unavailable("The store went away.")
        return through(gateway, verb, told)

    async with keep:
        with pytest.raises(HandlerFailed):
            await keep.receive("ada", "bad")
        number = (await keep.dead_letters("ada"))[0].number
        with monkeypatch.context() as away:
            away.setattr(Gateway, "act", act)
            with pytest.raises(Unavailable):
                await keep.replay("ada", number)

        assert 0 == len(keep._engine.journal.spool)


async def test_what_is_read_anew_for_an_act_may_be_another_conversation(opened: Any) -> None:
    """Where a long backlog was held, and all of that is answered, the conversation is read before the act is decided on."""
    keep = await opened(Bot(), background=False)
    await keep.receive("ada", "hi")
    store = keep._engine.store
    held = await store.load(ADA)
    held = structs.replace(held, beyond=held.messages[-1:])
    await keep.erase("ada")
    after, said = await store.commit(held, lambda there: Commit(record=there.record), at=keep._engine.shared.clock())

    assert ("", None) == (after.row.revision, said)
    assert await keep.conversation("ada") is None


async def test_what_cannot_be_read_is_erased_and_said(opened: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever has the right can have it erased, a user whose list does not have it cannot, and a hold that it may be under stands."""
    keep = await opened(Bot())
    await keep.create("ada", owner="u1")
    await keep.receive("ada", "hi")
    store = keep._engine.store
    store.gateway.driver = Damaged(store.driver, ADA)
    with pytest.raises(OtherOwner, match="the user has no such conversation"):
        await keep.user("u2").delete("ada")
    await core_of(keep).hold("", "", "u2", reason="a lawsuit")
    with pytest.raises(
        OnHold, match=r"nobody knows whose it is.*all that 'u2' owns is on legal hold.*nothing was changed"
    ):
        await keep.erase("ada")
    await core_of(keep).lift_hold("", "", "u2")
    await core_of(keep).hold("", "ada", "", reason="a lawsuit")
    with pytest.raises(OnHold, match="conversation 'ada' is on legal hold"):
        await keep.erase("ada")
    await core_of(keep).lift_hold("", "ada", "")
    with caplog.at_level(logging.WARNING, "chatkeep"):
        await keep.erase("ada")

    assert "erased unread" in caplog.text
    assert await keep.conversation("ada") is None
    assert "fine: again" == (await keep.receive("ada", "again")).replies[0].text
