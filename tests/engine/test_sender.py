"""Replies go out through a channel: in order, once each, tried again after failures, and what became of them is recorded."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from msgspec import structs

from chatkeep import Chatkeep, Instrument, Turn, UsageError
from chatkeep.app import core_of
from chatkeep.conversation import housekeeping
from chatkeep.conversation import outbox as deliveries
from chatkeep.conversation.leases import SUSPECT
from chatkeep.conversation.outbox import Sent
from chatkeep.conversation.snapshots import Commit, Snapshot
from chatkeep.drivers import driver_for
from chatkeep.drivers.base import Key, Write
from chatkeep.errors import Unavailable
from chatkeep.testing.crash import Wrapped, wrapped

from ..support.counting import count
from ..support.pigeons import ADA, Loft, all_delivered, statuses, twice
from ..support.shy import Abort, Shy
from ..support.waiting import nothing_happens_for, takes, time_passes, until


async def has_failed(keep: Any) -> bool:
    """Whether it is noted that the account is not in order."""
    return "account" in [sending.reason for sending in await keep.deliveries(ADA)]


async def test_I6_replies_go_out_in_order_once_and_only_through_their_channel(sending: Any) -> None:
    """Ten messages at once; another conversation goes nowhere."""
    loft = Loft()
    keep = await sending(twice, loft)
    await asyncio.gather(*(keep.accept(ADA, f"{n}", id=f"m{n}") for n in range(10)))
    await keep.receive("web-bob", "hi", id="m1")
    await until(lambda: len(loft.sent) == 20)
    await nothing_happens_for(0.05)
    told = [m.text async for m in keep.history(ADA) if m.role == "assistant"]

    assert told == loft.texts
    assert 20 == len({key for key, _, _ in loft.sent})
    assert 1 == loft.most
    assert ["delivered"] * 20 == [status for _, status in await statuses(keep)]
    assert [] == await keep.deliveries("web-bob")
    assert None is (await keep.conversation(ADA)).due_at


async def test_a_failed_send_is_tried_again_under_the_same_key(sending: Any) -> None:
    """Half of a reply's requests were done; the next one waits its turn."""
    loft = Loft(
        Sent(status="retry", reason="busy", after=0.05),
        Sent(status="retry", reason="half", parts=1),
        Sent(status="delivered", ids=("x1", "x2")),
    )
    keep = await sending(twice, loft)
    await keep.accept(ADA, "hi", id="m1")
    await until(lambda: len(loft.sent) == 4)
    await until(lambda: statuses(keep))

    assert ["hi-a", "hi-a", "hi-a", "hi-b"] == loft.texts
    assert [0, 0, 1, 0] == [skip for _, _, skip in loft.sent]
    assert 2 == len({key for key, _, _ in loft.sent})


@pytest.mark.slow
async def test_an_outlet_that_raises_holds_up_nobody(sending: Any) -> None:
    """It is asked again later, from where it was, and says why meanwhile; what is written then is answered."""

    class Broken(Loft):
        """Raises twice, in the middle of a reply."""

        async def send(self, conversation: str, content: Any, *, key: str, skip: int, at: float) -> Sent:
            """Sends half, raises twice, and goes on."""
            await super().send(conversation, content, key=key, skip=skip, at=at)
            if len(self.sent) in (2, 3):
                raise KeyError("a fault of its own")
            return Sent(status="retry", after=0.05, parts=1) if len(self.sent) == 1 else Sent(status="delivered")

    loft = Broken()
    keep = await sending(count, loft)
    await keep.accept(ADA, "hi", id="m1")
    await until(lambda: len(loft.sent) >= 2)
    receipt = await asyncio.wait_for(keep.receive(ADA, "more", id="m2"), 5)
    await until(lambda: len(loft.sent) == 5)

    assert "2: more" == receipt.replies[0].text
    assert [0, 1, 1, 1, 0] == [skip for _, _, skip in loft.sent]


class Stuck(Loft):
    """An outlet whose first sending never ends; *deaf*: not when it is cancelled either."""

    def __init__(self, *, deaf: bool, closes: bool = True) -> None:
        super().__init__()
        self.deaf = deaf
        self.closes = closes

    async def send(self, conversation: str, content: Any, *, key: str, skip: int, at: float) -> Sent:
        """Sends all but the first one."""
        delivered = await super().send(conversation, content, key=key, skip=skip, at=at)
        while len(self.sent) == 1 or self.deaf:
            try:
                await takes(3600)
            except asyncio.CancelledError:
                if not self.deaf:
                    raise
        return delivered

    async def close(self) -> None:
        """Ends, or does not."""
        await takes(0 if self.closes else 3600)


async def test_a_sending_that_never_ends_is_tried_again(sending: Any) -> None:
    """It is given up when its time is over, and says why; what is written meanwhile is answered. It may have been shown twice, and its
    delivery says so."""
    loft = Stuck(deaf=False)
    keep = await sending(count, loft, send_timeout="300ms", retry_after="10ms", poll="20ms")
    await keep.accept(ADA, "hi", id="m1")
    await until(lambda: loft.sent)
    receipt = await asyncio.wait_for(keep.receive(ADA, "more", id="m2"), 30)
    await all_delivered(keep, 2)

    assert "2: more" == receipt.replies[0].text
    assert ["1: hi", "1: hi", "2: more"] == loft.texts
    assert 2 == len({key for key, _, _ in loft.sent})
    assert [True, False] == [sending.doubtful for sending in await keep.deliveries(ADA)]


async def test_a_sending_that_nobody_can_end_keeps_neither_the_conversation_nor_close(
    sending: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It swallows its cancellation; why the reply waits is told, and nothing is left when the Chatkeep is closed."""
    monkeypatch.setattr("chatkeep.engine.sender.GRACE_S", 0.05)
    loft = Stuck(deaf=True)
    keep = await sending(count, loft, send_timeout="100ms", retry_after="10ms", poll="20ms", turn_timeout="500ms")
    await keep.accept(ADA, "hi", id="m1")
    await until(lambda: len(loft.sent) >= 3)
    waiting = (await keep.deliveries(ADA))[0]
    await asyncio.wait_for(keep.close(), 30)
    await nothing_happens_for(0.05)

    assert "waiting" == waiting.status
    assert "TimeoutError: it took longer than 0.1 s, and still runs" == waiting.reason
    assert [] == [task for task in asyncio.all_tasks() if task.get_name().startswith("chatkeep")]


async def test_an_outlet_that_does_not_close_is_left(
    sending: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The store is closed all the same."""
    monkeypatch.setattr("chatkeep.engine.sender.CLOSES_S", 0.1, raising=False)
    keep = await sending(count, Stuck(deaf=False, closes=False))
    await asyncio.wait_for(keep.close(), 30)

    assert "The outlet was not closed: it took longer than 0.1 s." in caplog.text


class Sloppy(Loft):
    """An outlet of the application that answers, or raises, what it is told; then as it should."""

    def __init__(self, *first: Any) -> None:
        super().__init__()
        self.first = list(first)

    async def send(self, conversation: str, content: Any, *, key: str, skip: int, at: float) -> Sent:
        """Sends one, and is wrong about it."""
        delivered = await super().send(conversation, content, key=key, skip=skip, at=at)
        found = self.first.pop(0) if self.first else delivered
        if issubclass(type(found), BaseException):
            raise found
        return found  # type: ignore[no-any-return]


class Secretive:
    """An answer that raises where it is asked what it is."""

    @property
    def __class__(self) -> Any:
        raise ValueError

    @__class__.setter
    def __class__(self, kind: Any) -> None:
        raise ValueError


@pytest.mark.parametrize(
    "answer",
    [lambda: None, lambda: Sent(status="delivered", ids=(5,)), Secretive],  # type: ignore[arg-type]
    ids=["None", "ids", "secretive"],
)
async def test_a_reply_of_which_an_outlet_says_nothing_useful_is_sent_once(
    sending: Any, answer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """An outlet that forgets its `return` has sent it: to ask again would show it to the customer for ever."""
    loft = Sloppy(answer())
    keep = await sending(count, loft, poll="20ms", retry_after="10ms")
    receipt = await keep.receive(ADA, "hi", id="m1")
    again = await keep.receive(ADA, "more", id="m2")
    await until(lambda: len(loft.sent) == 2)

    async def settled() -> bool:
        return ["uncertain", "delivered"] == [status for _, status in await statuses(keep)]

    await until(settled)

    assert ["1: hi", "2: more"] == loft.texts
    assert ["answered", "answered"] == [receipt.status, again.status]
    assert "no Sent" in (await keep.deliveries(ADA))[0].reason
    assert "may have gone out" in caplog.text


@pytest.mark.parametrize("kind", [asyncio.CancelledError, Abort, Shy])
async def test_whatever_an_outlet_raises_is_its_own_fault(sending: Any, kind: Callable[[str], BaseException]) -> None:
    """Nobody who writes meanwhile hears of it, and the reply is sent again after a pause."""
    loft = Sloppy(kind("odd"))
    keep = await sending(count, loft, poll="20ms", retry_after="10ms")
    receipts = [await keep.receive(ADA, text, id=text) for text in ("hi", "more")]
    await until(lambda: len(loft.sent) == 3)

    assert ["answered", "answered"] == [receipt.status for receipt in receipts]
    assert ["1: hi", "1: hi", "2: more"] == loft.texts
    await all_delivered(keep, 2)
    assert [True, False] == [sending.doubtful for sending in await keep.deliveries(ADA)]


async def test_a_doubt_that_another_process_notes_during_a_turn_stays(sending: Any) -> None:
    """That had lost its lease when it heard nothing from the platform; the lease is of whoever answers now."""
    loft = Loft(Sent(status="retry", reason="busy", after=60.0))

    async def bot(turn: Turn) -> str:
        if turn.text == "more":
            store, policy, now = keep._engine.store, keep._engine.shared.policy, time.time()
            sent = Sent(status="retry", reason="silence")
            told: dict[str, Any] = {"at": now, "since": now, "retry_at": now, "doubtful": True, "token": "another's"}
            await store.commit(
                await store.reload(Key("", ADA)),
                lambda there: deliveries.note_delivery(there, 2, sent, policy, **told),
                at=now,
            )
        return turn.text

    keep = await sending(bot, loft)
    await keep.receive(ADA, "hi", id="m1")
    await until(lambda: len(loft.sent) == 1)
    await keep.receive(ADA, "more", id="m2")
    await until(lambda: len(loft.sent) == 3)
    await all_delivered(keep, 2)

    assert [True, False] == [sending.doubtful for sending in await keep.deliveries(ADA)]


async def test_a_doubt_outlives_a_try_that_was_refused(sending: Any) -> None:
    """The platform says for certain that it has not taken the second try, and of the first one nobody knows."""
    loft = Sloppy(OSError("odd"), Sent(status="retry", reason="429"))
    keep = await sending(count, loft, poll="20ms", retry_after="10ms")
    await keep.accept(ADA, "hi", id="m1")
    await all_delivered(keep, 1)

    assert 3 == len(loft.sent)
    assert [True] == [sending.doubtful for sending in await keep.deliveries(ADA)]


async def test_who_always_says_at_once_is_asked_with_pauses(sending: Any) -> None:
    """A platform at its limit that names no time, or none that is in the future."""
    loft = Loft(*[Sent(status="retry", reason="429", after=0.0)] * 1000)
    keep = await sending(count, loft, poll="20ms", retry_after="30s", retry_longest="60s")
    await keep.accept(ADA, "hi", id="m1")
    await until(lambda: len(loft.sent) == 2)
    receipt = await keep.receive(ADA, "more", id="m2")
    await nothing_happens_for(0.3)

    assert "2: more" == receipt.replies[0].text
    assert 2 == len(loft.sent)


async def test_a_reply_that_is_half_out_goes_on_there_after_another_was_sent_again(sending: Any) -> None:
    """What the customer has of it does not come twice."""
    loft = Loft(Sent(status="delivered"), Sent(status="retry", reason="busy", after=60.0, parts=1))
    keep = await sending(twice, loft)
    await keep.accept(ADA, "hi", id="m1")

    async def waits() -> bool:
        return ["", "busy"] == [one.reason for one in await keep.deliveries(ADA)]

    await until(waits)
    await keep.resend(ADA, 2)
    await all_delivered(keep, 2)

    assert [("hi-a", 0), ("hi-b", 0), ("hi-a", 0), ("hi-b", 1)] == [(text, skip) for _, text, skip in loft.sent]


async def test_a_doubt_outlives_that_another_reply_is_sent_again(sending: Any) -> None:
    """The one in doubt is settled first: it may have been shown twice, whatever else is sent meanwhile."""
    loft = Sloppy(Sent(status="delivered"), OSError("odd"))
    keep = await sending(twice, loft, poll="20ms", retry_after="60s", retry_longest="60s")
    await keep.accept(ADA, "hi", id="m1")

    async def waits() -> bool:
        return [False, True] == ["odd" in one.reason for one in await keep.deliveries(ADA)]

    await until(waits)
    await keep.resend(ADA, 2)
    await until(lambda: len(loft.sent) == 4)
    await all_delivered(keep, 2)

    assert ["hi-a", "hi-b", "hi-b", "hi-a"] == loft.texts
    assert [False, True] == [sending.doubtful for sending in await keep.deliveries(ADA)]


async def test_what_the_platform_refuses_is_set_aside_with_its_reason_and_can_be_sent_again(sending: Any) -> None:
    """The next reply goes out; an operator mends the number and sends the first again."""
    loft = Loft(Sent(status="failed", reason="no such number"))
    keep = await sending(twice, loft)
    await keep.accept(ADA, "hi", id="m1")
    await until(lambda: len(loft.sent) == 2)

    async def settled() -> bool:
        return [status for _, status in await statuses(keep)] == ["failed", "delivered"]

    await until(settled)

    assert "no such number" == (await keep.deliveries(ADA))[0].reason
    await keep.resend(ADA, 2)
    await until(lambda: len(loft.sent) == 3)

    async def mended() -> bool:
        return [status for _, status in await statuses(keep)] == ["delivered", "delivered"]

    await until(mended)

    assert "hi-a" == loft.texts[2]
    with pytest.raises(UsageError, match="is no reply"):
        await keep.resend(ADA, 1)


async def test_it_gives_up_in_the_end(sending: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a day and twelve attempts, with the last reason; our own account's fault does not count."""
    monkeypatch.setattr(deliveries, "GIVE_UP_S", 0.0)
    busy = Sent(status="retry", reason="busy", after=0.001)
    ours = Sent(status="retry", reason="our token expired", after=0.001, counts=False)
    loft = Loft(*[ours] * 5, *[busy] * 12)
    keep = await sending(twice, loft)
    await keep.accept(ADA, "hi", id="m1")

    async def given_up() -> bool:
        return [status for _, status in await statuses(keep)] == ["failed", "delivered"]

    await until(given_up, within=10.0)

    assert "given up after 12 attempts: busy" == (await keep.deliveries(ADA))[0].reason
    assert 18 == len(loft.sent)


async def test_I6_whoever_dies_while_sending_leaves_it_doubtful(sending: Any) -> None:
    """The next instance sends it again under the same key, and says that it may have been shown twice."""
    dying, living = Loft(), Loft()
    dying.gate = asyncio.Event()
    one = await sending(twice, dying, poll="10s")
    await one.accept(ADA, "hi", id="m1")
    await until(lambda: len(dying.sent) == 1)
    worker = next(iter(one._engine.workers.by_key.values()))
    worker.task.cancel()  # what a kill leaves behind: the lease, and the word that it is being sent
    await asyncio.wait([worker.task])
    one._engine.workers.by_key.clear()
    await one.close()
    two = await sending(twice, living)
    await until(lambda: len(living.sent) == 2, within=15.0)

    async def settled() -> bool:
        return [status for _, status in await statuses(two)] == ["delivered", "delivered"]

    await until(settled)

    assert dying.sent[0] == living.sent[0]
    assert [True, False] == [sending.doubtful for sending in await two.deliveries(ADA)]


async def test_an_operator_writes_through_the_same_channel_also_while_the_bot_is_off(sending: Any) -> None:
    """And first of all; what was written in the platform's own inbox is not sent again."""
    loft = Loft()
    keep = await sending(twice, loft)
    await keep.pause(ADA)
    await keep.accept(ADA, "help!", id="m1")
    await keep.accept(ADA, "I am Kim. How can I help?", role="operator", id="o1")
    await keep.accept(ADA, "written in the app", role="operator", id="o2", metadata={"sent": True})
    await until(lambda: len(loft.sent) == 1)
    await nothing_happens_for(0.05)

    assert ["I am Kim. How can I help?"] == loft.texts
    await keep.resume(ADA)
    await until(lambda: len(loft.sent) == 3)

    assert ["help!-a", "help!-b"] == loft.texts[1:]


async def test_a_turn_that_ran_when_the_bot_was_paused_does_not_send(sending: Any) -> None:
    """Human take-over is enforced by the state: what the bot made of it is thrown away."""
    loft, begun, going = Loft(), asyncio.Event(), asyncio.Event()

    async def slow(turn: Turn[Any]) -> str:
        begun.set()
        await going.wait()
        return "too late"

    keep = await sending(slow, loft)
    await keep.accept(ADA, "hi", id="m1")
    await begun.wait()
    await keep.pause(ADA)
    going.set()
    await nothing_happens_for(0.1)

    assert [] == loft.sent
    assert ["hi"] == [m.text async for m in keep.history(ADA) if m.role != "system"]


async def test_an_instrument_is_told_how_long_a_reply_took(sending: Any) -> None:
    """With what became of the attempt; one that was delivered has no cause."""

    class Slow(Loft):
        async def send(self, conversation: str, content: Any, *, key: str, skip: int, at: float) -> Sent:
            await takes(0.05)
            return await super().send(conversation, content, key=key, skip=skip, at=at)

    class Seen(Instrument):
        told: ClassVar[list[tuple[Any, ...]]] = []

        def sent(self, channel: str, status: str, cause: str, seconds: float) -> None:
            self.told.append((status, cause, 0.05 <= seconds < 5))

    keep = await sending(twice, Slow(Sent(status="failed", cause="window")))
    keep.instruments.append(Seen())
    await keep.accept(ADA, "hi", id="m1")
    await until(lambda: len(Seen.told) == 2)

    assert [("failed", "window", True), ("delivered", "", True)] == Seen.told


async def test_two_instances_never_send_one_reply_twice(sending: Any) -> None:
    """Both see everything that is due."""
    one, two = Loft(), Loft()
    first, second = await sending(twice, one), await sending(twice, two)
    await asyncio.gather(
        *(keep.accept(f"pigeon:l:{n}", f"{n}", id=f"m{n}") for n in range(20) for keep in (first, second))
    )
    await until(lambda: len(one.sent) + len(two.sent) >= 40, within=60.0)
    await nothing_happens_for(0.2)
    keys = [key for key, _, _ in (*one.sent, *two.sent)]

    assert 40 == len(keys) == len(set(keys))


@pytest.mark.parametrize("url", ["memory"], indirect=True)
async def test_a_store_that_is_away_when_a_reply_was_sent_hears_of_it_later(sending: Any) -> None:
    """The process knows that it was sent, so it is not sent again, and not called doubtful."""
    away = False

    class Away(Wrapped):
        async def write(self, act: Write) -> Any:
            if away:
                raise Unavailable("away")
            return await self.inner.write(act)

    class Shutting(Loft):
        async def send(self, *args: Any, **options: Any) -> Sent:
            nonlocal away
            away = not self.sent
            return await super().send(*args, **options)

    loft = Shutting()
    driver = wrapped(Away(driver_for(f"memory://{id(loft)}")))
    keep = await sending(twice, loft, url=driver, store_timeout="100ms")
    await keep.accept(ADA, "hi", id="m1")
    await until(lambda: len(loft.sent) == 1)
    await time_passes(0.5)
    away = False

    async def settled() -> bool:
        return [status for _, status in await statuses(keep)] == ["delivered", "delivered"]

    await until(settled, within=15.0)

    assert ["hi-a", "hi-b"] == loft.texts
    assert [False, False] == [sending.doubtful for sending in await keep.deliveries(ADA)]
    assert None is (await keep.conversation(ADA)).due_at


class Clock:
    """The time, and how far it was set on."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


async def test_I9_nobody_sends_from_another_tenants_account(sending: Any) -> None:
    """The same conversation id in another tenant is another conversation, and goes nowhere."""
    loft = Loft()
    keep = await sending(twice, loft)
    await keep.tenant("evil").accept(ADA, "phish", role="operator")
    await nothing_happens_for(0.2)

    assert [] == loft.sent


async def test_an_operators_first_message_goes_out_whoever_writes_next(sending: Any, opened: Any, url: str) -> None:
    """Said and paused by a process that knows of no channel, before the one that does has seen it."""
    desk = await opened(None, url=url)
    await desk.accept(ADA, "hello", role="operator")
    await desk.pause(ADA)
    await desk.change(ADA, lambda state: None)
    await desk.close()
    loft = Loft()
    await sending(twice, loft)
    await until(lambda: loft.texts == ["hello"], within=10.0)


@pytest.mark.parametrize("role", ["operator", "user"])
async def test_an_operators_first_message_goes_out_also_after_a_redaction(
    sending: Any, opened: Any, url: str, role: str
) -> None:
    """Of what else was written before the process that knows the channel has seen it; what was redacted does not go out."""
    desk = await opened(None, url=url)
    await desk.accept(ADA, "hello", role="operator")
    gone = await desk.accept(ADA, "your card 4111 is charged", role=role)
    await desk.redact(ADA, gone.number)
    await desk.close()
    loft = Loft()
    keep = await sending(twice, loft)
    await until(lambda: loft.texts == ["hello"], within=10.0)

    async def settled() -> bool:
        return (await keep.conversation(ADA)).due_at is None

    await until(settled)
    assert ["hello"] == loft.texts


COLONS = [
    "plain",
    "team:7",
    "team:eu:7",
    "team:eu:7:a",
    "::",
    "whatsapp:1550:4917",
    "pigeon-2:loft-1:ada",
    "Pigeon:loft-1:ada",
]


@pytest.mark.parametrize("tenant", ["", "a:b:c"])
@pytest.mark.parametrize("within", [False, True])
async def test_colons_in_an_id_say_nothing_of_a_channel(opened: Any, sending: Any, within: bool, tenant: str) -> None:
    """An operator writes, the bot is paused and goes on, and nothing waits to be sent: with no channel, and *within* a Chatkeep
    that has one for others."""
    keep = await (sending(twice, Loft()) if within else opened(twice))
    of = keep.tenant(tenant)
    for name in COLONS:
        await of.accept(name, "a person here", role="operator")
        await of.pause(name)
        await of.accept(name, "again", id="m2")
        await of.resume(name, unread="skip")
        await of.receive(name, "once more", id="m3")

    async def settled() -> bool:
        return all([(await of.conversation(name)).due_at is None for name in COLONS])

    await until(settled, within=10.0)
    assert [[]] * len(COLONS) == [await of.deliveries(name) for name in COLONS]


async def test_what_a_channel_brought_goes_out_whoever_answers(
    sending: Any, opened: Any, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Taken in, answered, passed over and written to by a process that sends nothing; also where the id has one colon."""
    monkeypatch.setattr(housekeeping, "PARKED_S", 0.2)
    desk = await opened(twice, url=url)
    core = core_of(desk)
    for who in (ADA, "pigeon:loft"):
        await core.inlet.accept("pigeon", "", who, "hi", id="m1", role="user", metadata={})
        await until_answered(desk, who, 1)
        await desk.pause(who)
        await core.inlet.accept("pigeon", "", who, "and?", id="m2", role="user", metadata={"name": "Ada"})
        await desk.resume(who, unread="skip")
        await desk.accept(who, "a person here", role="operator")
        await desk.change(who, lambda state: state.update(seen=True))
        assert ["pigeon", "pigeon"] == [m.channel async for m in desk.history(who) if m.role == "user"]
        assert ["waiting"] * 3 == [one.status for one in await desk.deliveries(who)]
    await desk.close()
    loft = Loft()
    keep = await sending(twice, loft)
    await until(lambda: len(loft.texts) == 6, within=10.0)

    async def noted() -> bool:
        return ["delivered"] * 3 == [status for _, status in await statuses(keep)]

    await until(noted, within=10.0)
    assert 2 * ["a person here"] + 2 * ["hi-a"] + 2 * ["hi-b"] == sorted(loft.texts)


async def until_answered(keep: Any, who: str, number: int) -> None:
    """Waits until nothing is unread."""

    async def answered() -> bool:
        found = await keep.conversation(who)
        return found.unread == 0 and found.head > number

    await until(answered)


async def test_sending_again_what_still_waits_does_not_send_it_twice(sending: Any) -> None:
    """It is tried at once; the order stays."""
    loft = Loft(Sent(status="retry", reason="account", after=30.0, counts=False))
    keep = await sending(twice, loft)
    await keep.accept(ADA, "hi", id="m1")
    await until(lambda: len(loft.sent) == 1)
    await until(lambda: has_failed(keep))
    await keep.resend(ADA, 3)
    await all_delivered(keep, 2)

    assert ["hi-a", "hi-a", "hi-b"] == loft.texts


async def test_retention_keeps_what_has_not_gone_out(sending: Any) -> None:
    """The account is repaired after an hour and a half; the log is kept for one."""
    clock = Clock()
    loft = Loft(*[Sent(status="retry", reason="account", after=3000.0, counts=False)] * 2)
    keep = await sending(twice, loft, clock=clock, retention="1h")
    await keep.accept(ADA, "hi", id="m1")
    for hours in (1, 2):
        await until(lambda hours=hours: len(loft.sent) == hours)
        await asyncio.sleep(0.1)
        clock.ahead += 3300.0
    await until(lambda: len(loft.sent) == 4)

    assert ["hi-a", "hi-a", "hi-a", "hi-b"] == loft.texts


async def test_what_a_platform_says_is_kept_whatever_it_is(sending: Any) -> None:
    """NUL, half a character, an endless pause: nothing of it breaks the conversation or is sent again."""
    loft = Loft(
        Sent(status="retry", reason="\ud83d", after=float("nan")),
        Sent(status="retry", reason="later", after=-1e308),
        Sent(status="delivered", ids=("a\0b",), reason="x" * 100_000),
    )
    keep = await sending(twice, loft)
    await keep.accept(ADA, "hi", id="m1")
    await all_delivered(keep, 2)

    assert ("a\ufffdb",) == (await keep.deliveries(ADA))[0].ids
    assert 4 == len(loft.sent)


async def test_skipping_leaves_the_senders_claim_alone(sending: Any) -> None:
    """An operator's message is on its way when the bot is handed back elsewhere: it is sent once."""
    slow, idle = Loft(), Loft()
    slow.gate = asyncio.Event()
    one = await sending(twice, slow, poll="10s")
    await one.pause(ADA)
    await one.accept(ADA, "are you human?", id="m1")
    await one.accept(ADA, "I am Kim", role="operator")
    await until(lambda: len(slow.sent) == 1)
    two = await sending(twice, idle)  # not sooner: it could be the one that sends
    await two.resume(ADA, unread="skip")
    await nothing_happens_for(0.3)
    slow.gate.set()
    await all_delivered(two, 1)

    assert (["I am Kim"], []) == (slow.texts, idle.texts)


async def test_who_waits_for_an_answer_does_not_wait_for_the_platform(sending: Any) -> None:
    """It is recorded; how long sending takes is another matter."""
    loft = Loft()
    loft.gate = asyncio.Event()
    keep = await sending(twice, loft)
    async with asyncio.timeout(5.0):
        receipt = await keep.receive(ADA, "hi", id="m1")
    loft.gate.set()

    assert ["hi-a", "hi-b"] == [reply.text for reply in receipt.replies]


def test_suspects_are_sent_one_at_a_time_in_whichever_loop_it_is_opened(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Opened anew in another event loop, after some had to wait for each other in the first."""
    url, loft = f"sqlite:///{tmp_path}/chat.db", Loft()
    keep = Chatkeep(url, poll="20ms")
    keep.on_message(count)
    keep.deliver(loft)

    async def send_two(names: list[str]) -> None:
        async with Chatkeep(url, background=False) as desk:
            engine = desk._engine
            for name in names:
                await desk.accept(name, name, id="m", role="operator")

                def leave_in_doubt(there: Snapshot) -> Commit:
                    told: dict[str, Any] = {"token": "elsewhere:1:gone:0", "at": engine.shared.clock(), "died": False}
                    act = deliveries.begin_sending(there, 1, engine.shared.policy, **told)
                    return structs.replace(
                        act, record=structs.replace(act.record, sending_deaths=SUSPECT), leased_until=1.0
                    )

                await engine.store.commit(await engine.store.reload(Key("", name)), leave_in_doubt, at=1.0)
        sent, loft.gate = len(loft.sent), asyncio.Event()
        async with keep:
            await until(lambda: len(loft.sent) == sent + 1 and len(keep._engine.workers.by_key) == 2)
            await nothing_happens_for(0.1)
            assert sent + 1 == len(loft.sent)
            loft.gate.set()
            await until(lambda: len(loft.sent) == sent + 2)

    with caplog.at_level(logging.ERROR):
        for opening in ("first", "second"):
            asyncio.run(send_two([f"pigeon:{opening}:{n}" for n in range(2)]))

    assert 4 == len(loft.sent)
    assert [] == [record.getMessage() for record in caplog.records]
