"""Dead letters end: by a replay that is answered, or by somebody who says so; until then they are listed, over a whole store too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import apsw
import pytest

from chatkeep import Corrupt, HandlerFailed, Turn, UsageError
from chatkeep.app import core_of

from ..support.clock import Clock
from ..support.counting import answered
from ..support.waiting import until

DAY_S = 86_400.0


class Bot:
    """Fails with what begins with "bad" for as long as it is broken."""

    def __init__(self) -> None:
        self.broken = True

    async def __call__(self, turn: Turn[dict[str, Any]]) -> str:
        """Answers."""
        if self.broken and turn.text.startswith("bad"):
            raise RuntimeError(f"cannot digest {turn.text}")
        return f"fine: {turn.text}"


async def fail(keep: Any, conversation: str, text: str) -> int:
    """Has a message set aside; gives its number."""
    with pytest.raises(HandlerFailed):
        await keep.receive(conversation, text)
    letters = await keep.dead_letters(conversation)
    return int(letters[-1].number)


async def numbers(keep: Any, conversation: str) -> tuple[list[int], list[int]]:
    """The open dead letters as they are listed, and as the conversation is shown."""
    return [m.number for m in await keep.dead_letters(conversation)], (await keep.conversation(conversation)).dead


async def test_a_replay_that_is_answered_closes_its_letter_and_no_other(opened: Any) -> None:
    """Two letters, of text and of parts; one is replayed, and asking for it once more has no second effect."""
    bot = Bot()
    keep = await opened(bot, attempts=1)
    first = await fail(keep, "ada", "bad order")
    with pytest.raises(HandlerFailed):
        await keep.receive("ada", [{"type": "text", "text": "bad parts"}])
    second = (await keep.dead_letters("ada"))[-1].number
    bot.broken = False

    replayed = await keep.replay("ada", second)

    async def answered() -> bool:
        return (await numbers(keep, "ada"))[0] == [first]

    await until(answered)
    again = await keep.replay("ada", second)

    assert ([first], [first]) == await numbers(keep, "ada")
    assert (replayed.number, True, "answered") == (again.number, again.duplicate, again.status)
    assert ["fine: bad parts"] == [m.text async for m in keep.history("ada") if m.role == "assistant"]


async def test_who_sends_a_message_again_that_was_replayed_gets_the_answer_to_its_replay(opened: Any) -> None:
    """Also to the replay of a replay; until there is an answer, and when the letter was dismissed, it has failed."""
    bot = Bot()
    keep = await opened(bot, attempts=1)

    async def send(id: str) -> Any:
        return await keep.receive("ada", f"bad {id}", id=id)

    for id in ("m1", "m2"):
        with pytest.raises(HandlerFailed):
            await send(id)
    first, second = (await numbers(keep, "ada"))[0]
    copy = (await keep.replay("ada", first)).number
    await until(lambda: listed(keep, [second, copy]))
    failed = await send("m1")
    bot.broken = False
    await keep.replay("ada", copy)
    await keep.dismiss("ada", second)
    await until(lambda: listed(keep, []))

    answered, dismissed = await send("m1"), await send("m2")

    assert ("failed", []) == (failed.status, failed.replies)
    assert ("answered", True, first, "m1") == (answered.status, answered.duplicate, answered.number, answered.id)
    assert ["fine: bad m1"] == [reply.text for reply in answered.replies]
    assert ("failed", []) == (dismissed.status, dismissed.replies)


async def test_a_replay_that_fails_too_takes_the_place_of_its_letter(opened: Any) -> None:
    """One matter, one letter; the replay of the replay closes it."""
    bot = Bot()
    keep = await opened(bot, attempts=1)
    first = await fail(keep, "ada", "bad order")
    copy = (await keep.replay("ada", first)).number
    await until(lambda: listed(keep, [copy]))
    bot.broken = False
    await keep.replay("ada", copy)
    await until(lambda: listed(keep, []))

    assert ([], []) == await numbers(keep, "ada")


async def listed(keep: Any, expected: list[int]) -> bool:
    """Whether these are the letters of ada."""
    return (await numbers(keep, "ada"))[0] == expected


async def test_a_replay_that_was_passed_over_can_be_made_again(opened: Any) -> None:
    """The letter stays open, and the next replay closes it, across instances."""
    bot = Bot()
    keep, other = await opened(bot, attempts=1), await opened(bot, attempts=1)
    number = await fail(keep, "ada", "bad order")
    bot.broken = False
    await keep.pause("ada")
    first = await keep.replay("ada", number)
    await keep.resume("ada", unread="skip")
    assert ([number], [number]) == await numbers(other, "ada")

    second = await other.replay("ada", number)
    await until(lambda: listed(keep, []))

    assert (False, True) == (second.duplicate, second.number > first.number)


async def test_a_replay_that_is_said_anew_closes_the_letter_too(opened: Any) -> None:
    """While the bot is paused somebody mends the words; what a sender only says of itself still closes nothing."""
    bot = Bot()
    keep = await opened(bot, attempts=1)
    first, second = await fail(keep, "ada", "bad order"), await fail(keep, "ada", "bad address")
    await keep.pause("ada")
    replayed = await keep.replay("ada", first)
    forged = await keep.accept("ada", "hello", metadata={"replay_of": second})
    await keep.amend("ada", replayed.number, "an order")
    await keep.amend("ada", forged.number, "hello there")
    await keep.resume("ada")

    await until(lambda: answered(keep, "ada", 2))

    assert ([second], [second]) == await numbers(keep, "ada")


async def test_dismissing_closes_a_letter_once_and_leaves_the_log(opened: Any) -> None:
    """Twice is fine, what was never set aside is refused, and a letter that was dismissed can still be replayed."""
    bot = Bot()
    keep = await opened(bot, attempts=1)
    number = await fail(keep, "ada", "bad order")
    await keep.dismiss("ada", number)
    before = [m.number async for m in keep.history("ada")]
    await keep.dismiss("ada", number)

    assert ([], []) == await numbers(keep, "ada")
    assert before == [m.number async for m in keep.history("ada")]
    assert "bad order" in [m.text async for m in keep.history("ada")]
    for conversation, wrong in (("ada", number + 1), ("ada", 99), ("eve", 1)):
        with pytest.raises(UsageError, match="was not set aside"):
            await keep.dismiss(conversation, wrong)
    assert await keep.conversation("eve") is None
    bot.broken = False
    replayed = await keep.replay("ada", number)
    assert not replayed.duplicate


async def test_nobody_closes_a_letter_by_what_a_message_says_of_itself(opened: Any) -> None:
    """Metadata is the sender's; only chatkeep's own replay counts."""
    keep = await opened(Bot(), attempts=1)
    number = await fail(keep, "ada", "bad order")
    await keep.receive("ada", "hello", metadata={"replay_of": number})

    assert ([number], [number]) == await numbers(keep, "ada")


async def test_letters_of_a_whole_tenant_and_of_all_are_listed_in_pages(opened: Any) -> None:
    """In the order of the conversations, each with its reason, whatever else is in the store."""
    bot = Bot()
    keep = await opened(bot, attempts=1)
    salon = keep.tenant("salon")
    for name in ("c3", "c1", "c2"):
        await fail(keep, name, f"bad {name}")
    await fail(keep, "c2", "bad again")
    await fail(salon, "c1", "bad salon")
    for n in range(5):
        await keep.receive(f"fine{n}", "hello")

    one = await keep.dead_letters(limit=2)
    rest = await keep.dead_letters(after=one[-1].conversation)
    last = await keep.dead_letters(after=rest[-1].conversation)
    everything = await keep.all_dead_letters()
    behind = await keep.all_dead_letters(after=everything[-2])
    page, following = await core_of(keep).dead_letters("", after="", limit=1)
    end = await core_of(keep).dead_letters("", after="c3", limit=1)

    assert [("c1", "bad c1"), ("c2", "bad c2"), ("c2", "bad again")] == [(m.conversation, m.text) for m in one]
    assert ([("c3", "bad c3")], []) == ([(m.conversation, m.text) for m in rest], last)
    assert ["", "", "", "", "salon"] == [m.tenant for m in everything]
    assert "RuntimeError: cannot digest bad salon" == everything[-1].metadata["reason"]
    assert ["salon"] == [m.tenant for m in behind]
    assert (["c1"], "c1", ([], None)) == ([m.conversation for m in page], following, end)
    assert ["bad salon"] == [m.text for m in await salon.dead_letters()]


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
async def test_a_log_that_is_damaged_hides_no_letters_of_others(tmp_path: Path, opened: Any) -> None:
    """It has its place in the list, with the fault as the reason; alone it is refused."""
    keep = await opened(Bot(), attempts=1)
    for name in ("ada", "bob", "eve"):
        await fail(keep, name, "bad order")
    await keep.close()
    with apsw.Connection(str(tmp_path / "chat.db")) as db:
        db.execute(
            "update entry set body = x'01' where number = 1 and conversation = (select number from conversation where id = 'bob')"
        )
        assert 1 == db.changes()
    keep = await opened(Bot(), attempts=1)

    letters = await keep.dead_letters()

    assert [("ada", 1), ("bob", 1), ("eve", 1)] == [(letter.conversation, letter.number) for letter in letters]
    assert ["RuntimeError: cannot digest bad order", "", "RuntimeError: cannot digest bad order"] == [
        "" if "damaged" in letter.metadata["reason"] else letter.metadata["reason"] for letter in letters
    ]
    assert letters == await keep.all_dead_letters()
    with pytest.raises(Corrupt, match="bob"):
        await keep.dead_letters("bob")


async def test_letters_that_have_left_the_log_are_none_any_more(opened: Any) -> None:
    """Also in the conversation that is shown."""
    clock = Clock()
    keep = await opened(Bot(), clock=clock, retention="10d", attempts=1)
    await fail(keep, "ada", "bad order")
    clock.now += 11 * DAY_S

    async def gone() -> bool:
        clock.now += 1
        return await numbers(keep, "ada") == ([], [])

    await until(gone)


async def test_a_letter_has_the_number_of_its_message_where_another_came_meanwhile(opened: Any) -> None:
    """Answered in one trip: an operator writes while the handler runs, whose answer cannot be stored."""
    desk = await opened(None)
    broken = False

    async def bot(turn: Turn[dict[str, Any]]) -> Any:
        if not broken:
            return "ok"
        await desk.accept("ada", "a person", role="operator")
        return 3

    keep = await opened(bot)
    for _ in range(3):
        await keep.receive("ada", "hi")
    broken = True
    with pytest.raises(HandlerFailed):
        await keep.receive("ada", "bad", id="the one")
    (letter,) = await keep.dead_letters("ada")
    there = {m.id: m.number async for m in keep.history("ada")}

    assert there["the one"] == letter.number


async def test_the_first_message_of_a_conversation_can_be_replayed_after_it_was_dismissed(opened: Any) -> None:
    """The act that sets it aside makes the conversation too."""
    bot = Bot()
    keep = await opened(bot, attempts=1)
    for _ in range(3):
        await keep.receive("bob", "hi")
    number = await fail(keep, "ada", "bad")
    await keep.dismiss("ada", number)
    await keep.dismiss("ada", number)
    bot.broken = False
    await keep.replay("ada", number)
    await until(lambda: answered(keep, "ada", 1))
