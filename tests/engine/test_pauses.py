"""While the bot is paused nothing is written where messages wait; a resume finds them, whoever makes it and whatever dies meanwhile."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest
from msgspec import Raw, structs

from chatkeep import Chatkeep, Turn
from chatkeep.app import core_of
from chatkeep.conversation.codec import body_of
from chatkeep.conversation.keys import RESERVED
from chatkeep.conversation.outbox import Sent
from chatkeep.conversation.record import Record
from chatkeep.drivers.base import Append, Key, Lease, Read, Write
from chatkeep.engine import pauses
from chatkeep.engine.pauses import PAUSES
from chatkeep.engine.releases import VERSIONS
from chatkeep.errors import Conflict

from ..support.clock import Clock
from ..support.waiting import nothing_happens_for, time_passes, until

SCOPES = ("conversation", "tenant", "everything")


async def echo(turn: Turn[dict[str, Any]]) -> str:
    """Answers; a message "remind me" sets a reminder."""
    if turn.text == "remind me":
        turn.remind("1m", "now")
    return f"you said {turn.text}"


async def pause(keep: Any, scope: str) -> None:
    """Silences the bot."""
    await (keep.pause_all() if scope == "everything" else keep.pause("ada" if scope == "conversation" else None))


async def resume(keep: Any, scope: str, **options: Any) -> None:
    """Lets the bot answer again."""
    one = "ada" if scope == "conversation" else None
    await (keep.resume_all(**options) if scope == "everything" else keep.resume(one, **options))


async def row_of(keep: Any, id: str = "ada") -> Any:
    """The row as it is stored."""
    row, _ = await keep._engine.store.driver.read(Read(Key("", id), tail=0))
    return row


async def at_rest(keep: Any, id: str = "ada") -> bool:
    """Whether it is out of what is due."""
    return (await row_of(keep, id)).due_at is None


async def is_left_alone(keep: Any, clock: Clock, id: str = "ada") -> None:
    """Asserts that nothing is written within ten minutes in which nobody does anything."""
    before = await row_of(keep, id)
    for _ in range(12):
        clock.now += 50
        await nothing_happens_for(0.05)
    after = await row_of(keep, id)

    assert (before.revision, before.updated_at) == (after.revision, after.updated_at)


async def texts(keep: Any, id: str = "ada") -> list[str]:
    """What the bot has said."""
    return [message.text async for message in keep.history(id) if message.role == "assistant"]


async def said(keep: Any, *expected: str, id: str = "ada") -> bool:
    """Whether the bot has said these, last."""
    return (await texts(keep, id))[-len(expected) :] == list(expected)


@pytest.mark.parametrize("scope", SCOPES)
async def test_what_waits_while_the_bot_is_paused_is_left_alone_and_then_answered(opened: Any, scope: str) -> None:
    """By two instances; resting is no change of the conversation, and another instance's resume is enough."""
    clock = Clock()
    keep, other = await opened(echo, clock=clock), await opened(echo, clock=clock)
    await keep.receive("ada", "hi")
    await pause(keep, scope)
    if scope != "conversation":  # (the others hear of it a moment later, and may answer till then)
        await until(lambda: other._engine.pauses.covers(Key("", "ada")))
    accepted = await keep.accept("ada", "are you there?")
    changed = (await row_of(keep)).updated_at
    await until(lambda: at_rest(keep))

    assert changed == (await row_of(keep)).updated_at
    await is_left_alone(keep, clock)

    await resume(other, scope)
    await until(lambda: said(keep, "you said are you there?"))
    assert accepted.number < (await keep.conversation("ada")).head


@pytest.mark.parametrize("scope", SCOPES)
async def test_a_reminder_rests_too_and_comes_after_the_pause(opened: Any, scope: str) -> None:
    """Nothing is unread, and the reminder's time comes while the bot is paused."""
    clock = Clock()
    keep = await opened(echo, clock=clock)
    await keep.receive("ada", "remind me")
    await pause(keep, scope)
    clock.now += 61
    await until(lambda: at_rest(keep))
    await is_left_alone(keep, clock)

    await resume(keep, scope)

    async def rung() -> bool:
        return any([m.role == "event" async for m in keep.history("ada")])

    await until(rung)


@pytest.mark.parametrize("scope", SCOPES)
async def test_a_resume_that_skips_passes_over_reminders_that_fell_due(opened: Any, scope: str) -> None:
    """Nothing is unread, or something is; a reminder whose time has not come yet comes."""
    clock = Clock()

    async def bot(turn: Turn[dict[str, Any]]) -> str | None:
        if turn.reminder:
            return f"it is {turn.reminder}"
        turn.remind("1m", "noon", keep=True)
        turn.remind("1h", "one", keep=True)
        return None

    keep = await opened(bot, clock=clock)

    for id in ("ada", "bob"):
        await keep.receive(id, "remind me")
    await pause(keep, scope)
    if scope == "conversation":
        await keep.pause("bob")
    await keep.accept("bob", "hello?")
    clock.now += 600

    async def is_seen() -> bool:
        due_at = (await row_of(keep)).due_at
        return due_at is None or due_at > clock.now

    await until(is_seen)
    await resume(keep, scope, unread="skip")
    if scope == "conversation":
        await keep.resume("bob", unread="skip")
    clock.now += 3600

    async def said(id: str) -> list[str]:
        return [message.text async for message in keep.history(id) if message.role == "assistant"]

    for id in ("ada", "bob"):

        async def come(id: str = id) -> bool:
            return bool(await said(id))

        await until(come)
    heard = [await said(id) for id in ("ada", "bob")]

    assert [["it is one"]] * 2 == heard


@pytest.mark.parametrize("scope", SCOPES)
async def test_a_resume_by_a_process_without_a_handler_is_enough(opened: Any, scope: str) -> None:
    """As by the command line: it ends at once, and what rested is answered by whoever has the bot."""
    keep = await opened(echo)
    await pause(keep, scope)
    for n in range(3):
        await keep.accept("ada" if scope == "conversation" else f"c{n}", "hello")
    names = ["ada"] if scope == "conversation" else ["c0", "c1", "c2"]
    for name in names:
        await until(lambda name=name: at_rest(keep, name))

    looker = await opened()
    await resume(looker, scope)

    for name in names:
        await until(lambda name=name: said(keep, "you said hello", id=name))


async def test_a_resume_that_was_killed_half_way_is_finished_by_others(
    opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process dies after it has said so, and before it has come to the conversations."""
    monkeypatch.setattr(pauses, "TAKEN_OVER_S", 0.3)
    keep = await opened(echo)
    await keep.pause()
    for name in ("c1", "c2"):
        await keep.accept(name, "hello")
        await until(lambda name=name: at_rest(keep, name))
    await keep.close()
    dying = await opened()
    await dying._engine.pauses.resume("")
    await dying.close()
    started = await opened(echo)
    for name in ("c1", "c2"):
        await until(lambda name=name: said(started, "you said hello", id=name))

    async def finished() -> bool:
        found = await started._engine.store.load(pauses.PAUSES)
        return bytes(found.record.state) == b"{}"

    await until(finished)


async def test_one_who_has_not_heard_of_the_resume_makes_nothing_rest(opened: Any) -> None:
    """An instance has looked at the pauses and is about to write when the bot is resumed: it is refused, and answers."""
    keep = await opened(echo, poll="1h")
    await keep.pause()
    paused_there, go_on = asyncio.Event(), asyncio.Event()
    asked = keep._engine.pauses.is_still_paused

    async def late(snapshot: Any) -> bool:
        found = await asked(snapshot)
        paused_there.set()
        await go_on.wait()
        return bool(found)

    keep._engine.pauses.is_still_paused = late
    await keep.accept("ada", "hello")
    keep._engine.sweeper.hear_of_work()
    await asyncio.wait_for(paused_there.wait(), 5)
    other = await opened(poll="1h")
    await other.resume()
    keep._engine.pauses.is_still_paused = asked
    go_on.set()

    await until(lambda: said(keep, "you said hello"))


async def test_a_look_that_began_before_a_pause_does_not_undo_it(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has read what was paused before, and ends after the pause: the newer answer stands."""
    keep = await opened(echo, poll="1h")
    await keep.pause()
    await keep.resume()
    load, read, go_on = keep._engine.store.load, asyncio.Event(), asyncio.Event()

    async def slow(key: Key, **options: Any) -> Any:
        found = await load(key, **options)
        read.set()
        await go_on.wait()
        return found

    with monkeypatch.context() as patch:
        patch.setattr(keep._engine.store, "load", slow)
        looking = asyncio.create_task(keep._engine.pauses.look())
        await read.wait()
    await keep.pause()
    go_on.set()
    await looking

    assert "paused" == (await keep.receive("ada", "hi")).status


async def test_a_paused_conversation_with_replies_for_a_channel_of_others_is_left_alone(
    opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody here can send them, and whoever can still finds them: they stay due, and nothing is written."""
    clock = Clock()
    loft = Loft()

    async def with_outlet() -> Any:
        plain = Chatkeep.open

        async def open(self: Any) -> None:
            self.deliver(loft)
            await plain(self)

        with monkeypatch.context() as patch:
            patch.setattr(Chatkeep, "open", open)
            return await opened(echo, clock=clock)

    sender = await with_outlet()
    await sender.receive("pigeon:loft:ada", "hi")
    await until(lambda: loft.sent == ["you said hi"])
    await sender.close()
    keep = await opened(echo, clock=clock)
    await keep.pause("pigeon:loft:ada")
    await keep.accept("pigeon:loft:ada", "Kim here.", role="operator")
    await keep.accept("pigeon:loft:ada", "hello Kim")
    await nothing_happens_for(0.2)
    await is_left_alone(keep, clock, "pigeon:loft:ada")

    again = await with_outlet()
    await until(lambda: loft.sent == ["you said hi", "Kim here."])
    await until(lambda: at_rest(again, "pigeon:loft:ada"))
    await is_left_alone(keep, clock, "pigeon:loft:ada")


async def test_the_lease_of_a_dead_process_does_not_keep_a_paused_conversation_from_resting(opened: Any) -> None:
    """Its process died in a turn, then the bot was paused; after the resume the message is answered."""
    clock = Clock()
    keep = await opened(echo, clock=clock)
    await keep.receive("ada", "hi")
    await keep.pause("ada")
    dead = Lease("elsewhere:1:x:y:z", clock.now + 10)
    entry = keep._engine.intake._draft(Key("", "ada"), "hello", None, "user", None).entry
    act = Append(Key("", "ada"), [entry], "dead", clock.now, due_at=0.0, lease=dead)
    await keep._engine.store.driver.append(act)
    clock.now += 400  # so long that it is over by any clock
    await until(lambda: at_rest(keep))
    assert (await row_of(keep)).lease is None
    await is_left_alone(keep, clock)

    await keep.resume("ada")
    await until(lambda: said(keep, "you said hello"))


async def test_resuming_what_is_not_paused_writes_nothing_and_creates_nothing(opened: Any) -> None:
    """Nor does pausing it twice."""
    keep = await opened(echo)
    await keep.resume("nobody")
    await keep.receive("ada", "hi")
    before = await row_of(keep)
    await keep.resume("ada")
    assert before.revision == (await row_of(keep)).revision
    await keep.pause("ada")
    before = await row_of(keep)
    await keep.pause("ada")

    assert before.revision == (await row_of(keep)).revision
    assert await keep.conversation("nobody") is None


class Loft:
    """An outlet that writes down what it sends."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    def takes(self, tenant: str, conversation: str) -> bool:
        """Pigeons only."""
        return conversation.startswith("pigeon:")

    async def open(self) -> None:
        """Nothing to do."""

    async def close(self) -> None:
        """Nothing to do."""

    async def send(self, conversation: str, content: Any, *, key: str, skip: int, at: float) -> Sent:
        """Sends one."""
        self.sent.append(content)
        return Sent(status="delivered", ids=(f"p{len(self.sent)}",))


@pytest.mark.parametrize("record", ["switches", "versions"])
async def test_a_record_that_is_damaged_later_holds_up_no_work(
    opened: Any, record: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What was known of the pauses, and of other versions, goes on; what is due is done, and trouble says what is wrong."""
    keep, desk = await opened(echo, version="v1"), await opened(None)
    await keep.tenant("t").pause()
    driver, key = desk._engine.store.driver, Key(f"{RESERVED}chatkeep", record)
    await until(lambda: damages(driver, key))
    await until(lambda: "waits that this version cannot read" in keep.trouble)
    await desk.accept("ada", "hi")
    await desk.tenant("t").accept("bob", "hi")
    await until(lambda: is_read(desk, "ada"))

    assert f"{record}: the record is damaged" in keep.trouble
    assert 1 == caplog.text.count("cannot be read, so what was known of it goes on")
    assert not await is_read(desk.tenant("t"), "bob")


@pytest.mark.parametrize("damage", ["row", "state"])
async def test_a_store_whose_pauses_are_damaged_opens_and_the_bot_is_silent(
    opened: Any, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever was silenced stays so: messages are taken, lists and reads go on, and `resume_all` writes the pauses anew."""
    desk = await opened(None)
    await desk.pause_all()
    await spoil(desk, PAUSES, damage)
    keep = await opened(echo)
    status = (await keep.receive("ada", "hi")).status
    await keep.accept("bob", "hi")
    scopes, trouble = keep._engine.pauses.scopes, keep.trouble
    listed = [one.id async for one in keep.conversations()]

    assert ("paused", [None]) == (status, scopes)
    assert "switches" in trouble
    assert "`chatkeep resume STORE --everywhere`" in trouble
    assert 1 == caplog.text.count("What is paused is not known, so the bot is silent everywhere")
    assert {"ada", "bob"} == set(listed)
    await nothing_happens_for(0.3)
    assert not await is_read(keep, "ada")

    other = await opened(None)
    await other.tenant("t").pause()
    await other.resume_all()
    await until(lambda: is_read(keep, "ada"))
    await until(lambda: is_read(keep, "bob"))
    await until(lambda: not keep.trouble)
    assert ["t"] == await core_of(await opened(None)).find_paused()


async def test_trouble_says_that_the_bot_is_silent_for_as_long_as_it_is(opened: Any) -> None:
    """Also in a process that looks for no work, and reads the record no more."""
    clock = Clock()
    desk = await opened(None)
    await desk.pause_all()
    await spoil(desk, PAUSES, "row")
    keep = await opened(None, clock=clock)
    clock.now += 3600

    assert "the bot is silent everywhere" in keep.trouble
    await keep.resume_all()
    assert not keep.trouble


async def test_pauses_that_are_damaged_later_are_written_anew_with_what_is_known(opened: Any) -> None:
    """Whoever has read them keeps what they said, and says it again."""
    keep = await opened(echo)
    await keep.tenant("t").pause()
    await spoil(keep, PAUSES, "row")
    await keep.tenant("u").pause()

    assert {"t", "u"} == set(await core_of(await opened(None)).find_paused())


async def test_a_store_whose_versions_are_damaged_opens_and_answers(opened: Any) -> None:
    """Nobody is left without an answer for the sake of a share; `set_canary` writes the record anew."""
    first = await opened(echo, version="v1")
    await first.set_canary("v2", 0.0)
    await spoil(first, VERSIONS, "row")
    await first.close()
    keep = await opened(echo, version="v1")
    receipt = await keep.receive("ada", "hi")

    assert ["you said hi"] == [reply.text for reply in receipt.replies]
    assert "`chatkeep canary STORE VERSION SHARE`" in keep.trouble
    await keep.set_canary("v2", 0.0)
    assert ("v2", 0.0) in [(one.name, one.share) for one in await keep.versions()]
    await until(lambda: not keep.trouble)


async def spoil(keep: Any, key: Key, damage: str) -> None:
    """Damages a record: its row, or what a sound row says."""
    store = keep._engine.store
    row, _ = await store.driver.read(Read(key, tail=0))
    record = Record(state=Raw(b"[1]"), cursor=row.head)
    body = b"{" if damage == "row" else body_of(key, record)
    await store.driver.write(Write(structs.replace(row, revision="damaged", body=body), row.revision))
    store.forget(key)


async def damages(driver: Any, key: Key) -> bool:
    """Damages a record, if it is there and nobody writes it in this moment."""
    found = await driver.read(Read(key, tail=0))
    if found is None:
        return False
    with suppress(Conflict):
        await driver.write(Write(structs.replace(found[0], revision="damaged", body=b"{"), found[0].revision))
        return True
    return False


async def is_read(keep: Any, name: str) -> bool:
    """Whether nothing is unread there."""
    return not (await keep.conversation(name)).unread


@pytest.mark.parametrize("one", ["ada", None])
async def test_a_skip_goes_by_what_the_store_says_is_paused(opened: Any, one: str | None) -> None:
    """Whoever resumes a conversation or a tenant has not heard yet that everything is paused, and so stays silent: what waits there
    waits on, whatever was to be skipped."""
    keep, other = await opened(echo), await opened(echo, poll="1h")
    await keep.pause_all()
    await keep.pause(one)
    await keep.accept("ada", "are you there?")
    await other.resume(one, unread="skip")

    assert 1 == (await keep.conversation("ada")).unread

    await keep.resume_all()
    await until(lambda: said(keep, "you said are you there?"))


async def test_without_work_in_the_background_it_is_known_what_others_have_paused_when_it_is_asked(opened: Any) -> None:
    """A function that lives on shows it, and goes by it in a stop, though no message comes that it would look for."""
    keep = await opened(echo)
    function = await opened(echo, background=False, poll="1ms")
    await keep.pause()
    await keep.accept("ada", "are you there?")
    await time_passes(0.01)
    found = await function.conversation("ada")
    answering = await function.answering("ada")
    stopped = await function.stop("ada")

    assert (True, ["tenant"], "paused", False) == (found.paused, found.off_by, answering.status, stopped.stopped)

    await keep.pause("ada")
    await keep.resume()
    await time_passes(0.01)

    assert ["conversation"] == (await function.conversation("ada")).off_by
