"""One message can be removed: nobody sees any more what it said, wherever that was kept, and everything else stays as it was."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from msgspec import structs

from chatkeep import Chatkeep, Corrupt, HandlerFailed, Message, Redacted, Turn, UsageError
from chatkeep.app import core_of
from chatkeep.conversation.codec import body_of, record_from
from chatkeep.conversation.outbox import Sent
from chatkeep.drivers.base import Entries, Key, Read, Write

from ..support.clock import Clock
from ..support.stores import FAST
from ..support.waiting import until

CARD = "4111 1111 1111 1111"
ADA = Key("", "ada")


class Bot:
    """Answers with what it has seen; writes down each history that it was given."""

    def __init__(self) -> None:
        self.seen: list[list[Any]] = []
        self.gate: asyncio.Event | None = None
        self.begun = asyncio.Event()

    async def __call__(self, turn: Turn[dict[str, Any]]) -> str:
        """Answers."""
        self.seen.append([*[m.text for m in turn.history], turn.text])
        self.begun.set()
        if self.gate is not None:
            await self.gate.wait()
        if "fail" in turn.text:
            raise RuntimeError(f"cannot pay with {turn.text}")
        return f"answer {len(self.seen)}"


async def stored(keep: Any, key: Key = ADA) -> bytes:
    """Everything that the store holds of a conversation, without compression."""
    driver = keep._engine.store.driver
    row, _ = await driver.read(Read(key, 0))
    entries = await driver.entries(Entries(key, after=0, limit=500))
    return bytes(row.body) + b"".join(entry.body for entry in entries)


async def test_a_page_of_nothing_but_redacted_messages_has_their_time(opened: Any) -> None:
    """That of the last one before that still has one, else of the first behind; never that of 1970."""
    clock = Clock()
    keep = await opened(clock=clock)
    for n in range(30):
        clock.now += 60
        await keep.accept("ada", f"{n}")
    times = [m.created_at async for m in keep.history("ada")]
    for number in [1, *range(5, 25)]:
        await keep.redact("ada", number)
    first = [m.created_at async for m in keep.history("ada", before=2)]
    page = [(m.number, m.created_at) async for m in keep.history("ada", after=21, limit=2)]
    last = [(m.number, m.created_at) async for m in keep.history("ada", before=24, limit=1)]

    assert [times[1]] == first
    assert [(22, times[3]), (23, times[3])] == page
    assert [(23, times[3])] == last


async def test_a_redacted_message_is_seen_by_nobody_any_more(opened: Any) -> None:
    """Not in the store, by no instance, cached or not, and by no turn that counts; number, id, role and the others stay."""
    bot = Bot()
    keep, other = await opened(bot), await opened(bot)
    await keep.receive("ada", "hello", id="m1")
    await keep.receive("ada", CARD, id="m2")
    await other.receive("ada", "and now?", id="m3")
    before = [m async for m in keep.history("ada")]

    await keep.redact("ada", 3)
    for instance in (keep, other, keep):  # from what each has cached, before anything is read
        await instance.receive("ada", "go on")
    await keep.redact("ada", 3)

    after = [m async for m in other.history("ada")]
    redacted = after[2]
    shown = (await other.conversation("ada")).messages[2]
    assert CARD.encode() not in await stored(keep)
    assert ("m2", 3, "user", "", True) == (
        redacted.id,
        redacted.number,
        redacted.role,
        redacted.content,
        redacted.redacted,
    )
    assert (redacted.id, "", True) == (shown.id, shown.text, shown.redacted)
    assert before[1].created_at <= redacted.created_at <= before[3].created_at
    assert [*before[:2], *before[3:]] == [m for m in after if m.number != 3 and m.number <= before[-1].number]
    # (An instance that has not heard yet may begin a turn on what it has cached: nothing that comes of it is recorded.)
    told = [m.text for m in after if m.role == "assistant" and m.number > before[-1].number]
    assert 3 == len(told)
    for answer in told:
        history = bot.seen[int(answer.removeprefix("answer ")) - 1]
        assert CARD not in history
        assert "" not in history
        assert ["hello", "answer 1", "answer 2", "and now?"] == history[:4]


async def test_a_redelivery_of_what_was_redacted_is_still_known(opened: Any) -> None:
    """With the replies of then, by `receive` and `accept`, on another instance."""
    bot = Bot()
    keep, other = await opened(bot), await opened(bot)
    first = await keep.receive("ada", CARD, id="m1")
    await keep.redact("ada", 1)
    again, accepted = await other.receive("ada", CARD, id="m1"), await keep.accept("ada", CARD, id="m1")

    assert first.replies == again.replies == accepted.replies
    assert (True, "answered", True, "answered") == (again.duplicate, again.status, accepted.duplicate, accepted.status)
    assert 1 == len(bot.seen)


async def test_parts_events_replies_and_operators_messages_can_be_redacted(opened: Any) -> None:
    """Of every role, and what is not there, or is a note of chatkeep's own, is refused."""

    async def bot(turn: Turn[dict[str, Any]]) -> Any:
        return [{"type": "text", "text": f"your card is {CARD}"}] if turn.message.role == "user" else None

    keep = await opened(bot)
    await keep.receive("ada", [{"type": "text", "text": CARD}, {"type": "image", "url": "x"}], metadata={"card": CARD})
    await keep.receive("ada", [{"type": "event", "card": CARD}], role="event")
    await keep.accept("ada", f"charged {CARD}", role="operator")
    numbers = [m.number async for m in keep.history("ada") if m.role != "system"]
    for number in numbers:
        await keep.redact("ada", number)

    assert CARD.encode() not in await stored(keep)
    assert [True] * 4 == [m.redacted async for m in keep.history("ada") if m.role != "system"]
    notes = [m.number async for m in keep.history("ada") if m.role == "system"]
    for conversation, number in (("ada", 999), ("ada", notes[0]), ("nobody", 1)):
        with pytest.raises(UsageError):
            await keep.redact(conversation, number)
    assert await keep.conversation("nobody") is None


async def test_what_waits_is_passed_over_and_the_next_is_answered(opened: Any) -> None:
    """The first, one in the middle, and the only one; its sender is told so."""
    bot = Bot()
    keep = await opened(bot)
    await keep.pause("ada")
    numbers = [(await keep.accept("ada", text, id=text)).number for text in (CARD, "one", "two", "three")]
    await keep.redact("ada", numbers[0])
    await keep.redact("ada", numbers[2])
    assert 2 == (await keep.conversation("ada")).unread
    await keep.resume("ada")
    await until(lambda: len(bot.seen) == 2)
    await keep.receive("ada", "four")
    duplicate = await keep.receive("ada", CARD, id=CARD)
    await keep.pause("ada")
    only = await keep.accept("ada", CARD, id="only")
    await keep.redact("ada", only.number)

    assert ["one", "three", "four"] == [history[-1] for history in bot.seen]
    assert ("dropped", True) == (duplicate.status, duplicate.duplicate)
    assert 0 == (await keep.conversation("ada")).unread
    assert "dropped" == (await keep.accept("ada", CARD, id="only")).status


async def test_a_turn_that_runs_on_it_says_nothing(opened: Any) -> None:
    """Neither one about it, nor one that has it in its history; also on an instance that has not heard."""
    bot = Bot()
    keep, other = await opened(bot), await opened(bot)
    await keep.receive("ada", CARD)
    bot.gate, bot.begun = asyncio.Event(), asyncio.Event()
    asked = asyncio.create_task(other.receive("ada", "and?"))
    await bot.begun.wait()
    assert [CARD, "answer 1", "and?"] == bot.seen[-1]
    await keep.redact("ada", 1)
    bot.gate.set()
    receipt = await asked

    assert ["and?"] == bot.seen[-1]  # (an answer without its question begins no history)
    assert [f"answer {len(bot.seen)}"] == [m.text for m in receipt.replies]

    bot.gate, bot.begun = asyncio.Event(), asyncio.Event()
    accepted = await other.accept("ada", f"my card is {CARD}", id="m9")
    await bot.begun.wait()
    await keep.redact("ada", accepted.number)
    bot.gate.set()
    await keep.receive("ada", "last")

    assert "dropped" == (await keep.accept("ada", "-", id="m9")).status
    assert CARD.encode() not in await stored(keep)


async def test_reasons_replays_steps_and_reminders_that_quote_it_go_too(opened: Any) -> None:
    """A dead letter is closed; its copy says the same; another message's step keeps its result."""
    runs: list[str] = []

    async def bot(turn: Turn[dict[str, Any]]) -> str:
        if "fail" in turn.text:
            raise RuntimeError(f"cannot pay with {turn.text}")
        if turn.text == "pay":

            async def charge() -> Any:
                runs.append("charged")
                return {"card": [CARD + " fail"], "ok": True}

            await turn.step("charge", charge)
            turn.remind("1h", "later", {"card": CARD + " fail"}, keep=True)
            if len(runs) < 2:
                runs.append("died")
                raise RuntimeError("not yet")
        return "ok"

    keep = await opened(bot, attempts=1)
    with pytest.raises(HandlerFailed):
        await keep.receive("ada", f"{CARD} fail", id="m1")
    await keep.receive("ada", "hello")
    replayed = await keep.replay("ada", 1)
    await until(lambda: is_dead(keep, replayed.number))
    await keep.redact("ada", 1)

    assert ([], []) == (await keep.dead_letters("ada"), (await keep.conversation("ada")).dead)
    assert CARD.encode() not in await stored(keep)
    assert "failed" == (await keep.accept("ada", "-", id="m1")).status
    for number in (1, replayed.number):
        with pytest.raises(UsageError, match="was redacted"):
            await keep.replay("ada", number)


async def test_what_gave_way_goes_with_its_message_and_may_go_alone(opened: Any) -> None:
    """Two versions of a saved message are one message; a title and a slot that gave way, and what a colleague has noted, are redacted
    by their own numbers."""
    keep = await opened(Bot())
    for text in ("first", "second"):
        await keep.save("ada", messages=[{"id": "m1", "role": "user", "content": f"{text} {CARD}"}])
    await keep.save("ada", title="To Rome")
    await keep.save("ada", title=f"title {CARD}", version=0)
    for value, at in (("red", 2.0), (f"slot {CARD}", 1.0)):
        await keep.merge("ada", "cart", base="", value=value, at=at, by="phone")
    await core_of(keep).note("", "ada", f"note {CARD}", author="Kim", id="n1")
    lost = {one.about: one.number for one in await keep.losses("ada")}
    noted = (await keep.conversation("ada")).head
    for number in (1, lost["title"], lost["state"], noted):
        await keep.redact("ada", number)
    await keep.save("ada", messages=[{"id": "m1", "role": "user", "content": f"second {CARD}"}])
    (begun,) = [m.number async for m in keep.history("ada") if m.metadata.get("kind") == "redacted"][:1]
    with pytest.raises(UsageError, match="a note of chatkeep's own"):
        await keep.redact("ada", begun)

    assert {"message", "title", "state"} == lost.keys()
    assert [] == await keep.losses("ada")
    assert CARD.encode() not in await stored(keep)


async def is_dead(keep: Any, number: int) -> bool:
    """Whether a message was set aside."""
    return number in (await keep.conversation("ada")).dead


async def test_steps_and_reminders_lose_the_text_and_keep_the_rest(opened: Any) -> None:
    """The step is not taken again."""
    taken: list[str] = []
    bug = [True]

    async def bot(turn: Turn[dict[str, Any]]) -> str:
        if turn.text != "pay":
            turn.remind("1h", "later", {"card": turn.text, "n": 1}, keep=True)
            return "noted"

        async def charge() -> Any:
            taken.append("charged")
            return {"said": f"paid with {CARD}", "ok": 41111}

        result = await turn.step("charge", charge)
        if bug[0]:
            raise RuntimeError("not yet")
        return str(result)

    keep = await opened(bot, attempts=1000, retry_after="100ms", retry_longest="100ms")
    await keep.receive("ada", CARD)
    await keep.accept("ada", "pay")
    await until(lambda: taken)

    async def recorded() -> bool:
        return b"paid with" in await stored(keep)

    await until(recorded)
    await keep.redact("ada", 1)
    assert CARD.encode() not in await stored(keep)
    bug[0] = False

    async def last() -> str:
        return [m.text async for m in keep.history("ada") if m.role != "system"][-1]

    async def paid() -> bool:
        return await last() == "{'said': 'paid with [redacted]', 'ok': 41111}"

    await until(paid)
    assert ["charged"] == taken


async def test_watchers_hear_of_it(opened: Any) -> None:
    """Here and on another instance; who comes later sees it redacted."""
    keep, other = await opened(Bot()), await opened(Bot())
    await keep.receive("ada", CARD)
    heard: list[Any] = []

    async def watch(instance: Any) -> None:
        async for event in instance.events("ada", after=0):
            said = [event] if isinstance(event, Redacted) else [event.number] if isinstance(event, Message) else []
            heard.extend((instance is keep, one) for one in said)

    tasks = [asyncio.create_task(watch(instance)) for instance in (keep, other)]
    await until(lambda: len(heard) == 4)
    await keep.redact("ada", 1)
    await until(lambda: len(heard) == 6, within=20)
    for task in tasks:
        task.cancel()
    late = [event async for event in _first(other.events("ada", after=0), 3)]

    assert {(True, Redacted(1)), (False, Redacted(1))} == set(heard[4:])
    assert [True, False] == [event.redacted for event in late if isinstance(event, Message)]


async def _first(events: Any, count: int) -> Any:
    async for event in events:
        yield event
        count -= 1
        if not count:
            return


async def test_empty_entries_where_nothing_was_redacted_are_damage(opened: Any) -> None:
    """I8: what is unreadable is never taken for something else."""
    keep = await opened(Bot())
    await keep.receive("ada", "hello")
    driver = keep._engine.store.driver
    row, _ = await driver.read(Read(ADA, 0))
    await driver.write(Write(structs.replace(row, revision="damaged"), row.revision, blank=[1]))
    with pytest.raises(Corrupt):
        await keep.conversation("ada")


async def test_a_redaction_whose_count_an_older_version_has_dropped_is_no_damage(opened: Any) -> None:
    """0.2.0 writes records without it: the note in the log says as much, to a bot that reads no further back than it has to."""
    keep = await opened(Bot())
    await keep.receive("ada", f"my card: {CARD}")
    await keep.redact("ada", 1)
    driver = keep._engine.store.driver
    row, _ = await driver.read(Read(ADA, 0))
    record = structs.replace(record_from(ADA, row.body), redactions=0)
    await driver.write(Write(structs.replace(row, revision="old", body=body_of(ADA, record)), row.revision))

    later = await opened(Bot())
    shown = await later.conversation("ada")

    assert [True, False] == [message.redacted for message in shown.messages if message.role != "system"]
    assert "answer 1" == (await later.receive("ada", "hello", id="m2")).replies[0].text


class Loft:
    """An outlet that fails until it is told otherwise, and quotes what it could not send."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.key = ""  # of the first one
        self.answer = Sent(status="failed", reason=f"no such number: {CARD}", ids=("p1",))

    def takes(self, tenant: str, conversation: str) -> bool:
        """Everything."""
        return True

    async def open(self) -> None:
        """Nothing to do."""

    async def close(self) -> None:
        """Nothing to do."""

    async def send(self, conversation: str, content: Any, *, key: str, skip: int, at: float) -> Sent:
        """Sends one."""
        self.sent.append(content)
        self.key = self.key or key
        return self.answer


async def test_a_reply_that_waits_is_not_sent_and_reasons_of_failures_go(url: str) -> None:
    """What became of the others stands as it was."""
    loft, bot = Loft(), Bot()
    keep: Chatkeep[Any] = Chatkeep(url, **(FAST | {"retry_after": "10s"}))
    keep.on_message(bot)
    keep.deliver(loft)
    async with keep:
        await keep.receive("ada", "hello")
        await until(lambda: delivered(keep, "failed"))
        await core_of(keep).inlet.note_status("", "ada", "sent", id="p4", key=loft.key)
        for told in ({"id": "p1"}, {"id": "p0", "key": loft.key}, {"key": loft.key}, {"id": "p4"}):
            await core_of(keep).inlet.note_status("", "ada", "failed", reason=f"no such number: {CARD}", **told)
        loft.answer = Sent(status="retry", reason="later")
        waits = await keep.accept("ada", f"charged {CARD}", role="operator")
        await until(lambda: len(loft.sent) == 2)
        await keep.redact("ada", 2)
        await keep.redact("ada", waits.number)
        stands = await keep.deliveries("ada")
        loft.answer = Sent(status="delivered", ids=("p3",))
        await keep.receive("ada", "next")
        await until(lambda: delivered(keep, "delivered"))
        with pytest.raises(UsageError):
            await keep.resend("ada", waits.number)

        assert CARD.encode() not in await stored(keep)
        assert [(2, "failed", "", ("p1",))] == [(d.number, d.status, d.reason, d.ids) for d in stands]
        assert ["answer 1", f"charged {CARD}", "answer 2"] == loft.sent


async def delivered(keep: Any, status: str) -> bool:
    """Whether the last reply's sending stands like this."""
    found = await keep.deliveries("ada")
    return bool(found) and found[-1].status == status


async def test_a_shared_cache_is_told(valkey: Any, tmp_path: Any) -> None:
    """An instance that starts from it does not see the text."""
    url, bot = f"sqlite:///{tmp_path}/chat.db", Bot()
    keep: Chatkeep[Any] = Chatkeep(url, **(FAST | {"cache": valkey.url}))
    keep.on_message(bot)
    async with keep:
        await keep.receive("ada", CARD)
        shared = keep._engine.store.shared
        assert shared is not None
        await until(lambda: shared.statistics.writes > 0)
        await keep.redact("ada", 1)
        assert await shared.get(ADA) is None


async def test_what_follows_a_redaction_is_no_store_that_was_rolled_back(opened: Any) -> None:
    """The time of a redacted entry is not compared: it has none of its own."""
    keep = await opened(Bot(), attempts=1)
    with pytest.raises(HandlerFailed):
        await keep.receive("ada", "fail")
    await keep.redact("ada", 1)
    await keep.accept("ada", "more", role="operator")

    assert 0 == keep._engine.store.rolled_back


async def test_the_message_after_a_redacted_one_has_all_its_time(opened: Any) -> None:
    """Its attempts begin anew, and so does the time for which it is tried."""
    clock = Clock()
    keep = await opened(Bot(), clock=clock, attempts=None, retry_for="10m", retry_after="1h", retry_longest="1h")
    await keep.accept("ada", "fail one")

    async def failed() -> bool:
        return bool((await keep._engine.store.load(ADA)).record.failed_at)

    await until(failed)
    await keep.redact("ada", 1)

    assert not await failed()
