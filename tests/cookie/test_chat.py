"""The chat of a request: remembered in its cookie alone, cut and refused by its size, never half recorded."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from msgspec import Struct

from chatkeep import HandlerFailed, TooLarge, Turn, Unsupported, UsageError
from chatkeep.cookie import Chat, CookieChat, clear_cookie

from ..support.visitor import HOST, KEY, Browser, counting
from ..support.waiting import until


async def test_it_remembers_in_its_cookie_alone() -> None:
    """State, history, numbers; another visitor, or another CookieChat object with the same key, has nothing of it or goes on."""
    ada, bob = Browser(), Browser()

    assert ["1 of 1", "2 of 2"] == [await ada.hear("hello"), await ada.hear("again")]
    assert "1 of 1" == await bob.hear("hello")
    assert 5 == (await ada.say("third")).number
    bob.cookie = ada.cookie  # another process, and another copy of the same visitor
    assert "4 of 4" == await bob.hear("fourth")


async def test_a_message_that_is_known_has_no_second_effect() -> None:
    """It is answered with what was recorded, and the cookie stays as it is."""
    ada = Browser()
    first, again = await ada.say("hello", id="m1"), await ada.say("hello", id="m1")

    assert (False, True) == (first.duplicate, again.duplicate)
    assert first.replies == again.replies
    assert [] == ada.headers
    assert {"count": 1} == await ada.state()


async def test_the_log_is_cut_where_there_is_no_more_room() -> None:
    """Whole turns go, the oldest first; what is kept is dense, and goes on being answered for hundreds of messages."""
    ada = Browser()
    sizes = []
    for number in range(1, 121):
        heard = await ada.hear(
            f"{number}: twelve words or so are what a message of somebody has in it", id=f"m{number}"
        )
        sizes.append(len(ada.cookie))
        assert heard.startswith(f"{number} of ")
    async with ada.open() as chat:
        there = await chat.conversation()
    numbers = [message.number for message in there.messages]

    assert 4000 < max(sizes) <= 4096
    assert (240, "user") == (there.head, there.messages[0].role)
    assert list(range(numbers[0], 241)) == numbers
    assert 10 <= len(numbers) < 60
    assert (await ada.say("120: twelve words or so are what a message of somebody has in it", id="m120")).duplicate


async def test_fewer_messages_than_a_history_has_are_enough() -> None:
    """Where messages are long the log is shorter than `history`; what is gone is known to be gone, and not missing."""
    ada = Browser()
    for number in range(1, 12):
        assert (await ada.hear(f"{number} " + "y" * 700)).startswith(f"{number} of ")
    async with ada.open() as chat:
        there = await chat.conversation()

    assert [17, 18, 19, 20, 21, 22] == [message.number for message in there.messages]
    assert "12 of 4" == await ada.hear("short")


async def test_a_cookie_holds_4096_bytes_and_not_one_more() -> None:
    """The largest state that fits is kept, with a cookie of exactly 4,096 bytes; with one byte more the whole turn did not happen."""
    options: dict[str, Any] = {"name": "chat", "now": lambda: 1_800_000_000.0}
    least, most = 1, 4096  # fits, does not fit
    while most - least > 1:
        size = (least + most) // 2
        try:
            await Browser(**options).say(f"fill {size:04}", id="m")
        except TooLarge:
            most = size
        else:
            least = size
    ada = Browser(**options)
    await ada.say(f"fill {least:04}", id="m")
    with pytest.raises(TooLarge, match="the chat takes 4,097 bytes"):
        await Browser(**options).say(f"fill {most:04}", id="m")

    before = ada.cookie
    async with ada.open() as chat:
        with pytest.raises(TooLarge, match=r"The largest slots of the state: large \(3,\d\d\d bytes\), ") as told:
            await chat.receive(f"fill {least + 400:04}", id="n")
        ada.take(chat)

    assert 4096 == len(ada.cookie)
    assert "small (1 bytes)" in str(told.value)
    assert "Nothing was recorded" in str(told.value)
    assert (before, []) == (ada.cookie, ada.headers)
    async with ada.open() as chat:  # the chat of the same request goes on from what was kept last, too
        with pytest.raises(TooLarge):
            await chat.receive(f"fill {least + 400:04}", id="n")
        receipt = await chat.receive("empty", id="n")
        ada.take(chat)
    assert ("2 of 2", 3) == (receipt.replies[0].text, receipt.number)
    assert {"count": 2, "small": 1} == await ada.state()


@pytest.mark.parametrize("text", ["fail", "remind"])
async def test_a_turn_that_fails_leaves_the_cookie_as_it_was(text: str) -> None:
    """The error says why, and what is true now; the chat goes on in the same request and in the next one."""
    ada = Browser()
    await ada.say("hello")
    async with ada.open() as chat:
        with pytest.raises(
            HandlerFailed, match=r"(no|nobody looks at a cookie).*Nothing of this message is in the cookie"
        ):
            await chat.receive(text, id="m2")
        assert [] == chat.headers()

    assert {"count": 1} == await ada.state()
    assert "2 of 2" == await ada.hear("hello", id="m2")


async def test_two_messages_of_one_request() -> None:
    """One after another, also where they are sent at once; one that fails takes nothing of the others."""
    ada = Browser()
    async with ada.open() as chat:
        found = await asyncio.gather(
            chat.receive("one"), chat.receive("fail"), chat.receive("two"), return_exceptions=True
        )
        ada.take(chat)

    assert ["1 of 1", "2 of 2"] == [one.replies[0].text for one in (found[0], found[2])]
    assert isinstance(found[1], HandlerFailed)
    assert {"count": 2} == await ada.state()


async def test_a_message_after_the_headers_is_refused_loudly() -> None:
    """Before anything runs; and at its end, where they have gone out while the handler ran."""
    ran = []
    going = asyncio.Event()

    async def slow(turn: Turn) -> str:
        ran.append(turn.text)
        await going.wait()
        return "yes"

    ada = Browser(slow)
    async with ada.open() as chat:
        running = asyncio.create_task(chat.receive("first"))
        await until(lambda: ran)
        assert [] == chat.headers()
        with pytest.raises(UsageError, match=r"headers of this request's answer have gone out.*nothing was recorded"):
            await asyncio.gather(chat.receive("second"), asyncio.sleep(0, going.set()))
        with pytest.raises(UsageError, match="gone out"):
            await running
        with pytest.raises(UsageError, match="nothing was changed"):
            await chat.change(lambda state: state)
    with pytest.raises(UsageError, match="gone out"):
        await chat.receive("third")

    assert ["first"] == ran


async def test_a_bot_clears_the_cookie_when_the_order_is_complete() -> None:
    """The browser is told to forget it; the next message begins a new chat. So does the application."""
    ada = Browser()
    await ada.say("hello")
    old = ada.cookie
    assert "2 of 2" == await ada.hear("complete")

    assert "" == ada.cookie
    assert "=; Max-Age=0; Path=/; HttpOnly; SameSite=Lax" in dict(ada.headers)["set-cookie"]
    assert ("1 of 1", "") == (await ada.hear("new"), ada.lost)

    ada.cookie = old
    async with ada.open() as chat:
        chat.clear_cookie()
        assert await chat.conversation() is None
        ada.take(chat)
    assert "" == ada.cookie


@pytest.mark.parametrize("by", ["bot", "application"])
async def test_what_comes_after_a_clear_in_the_same_request_is_a_new_chat(by: str) -> None:
    """Under another id, and its cookie is kept."""
    ada = Browser()
    first = await ada.say("hello")
    async with ada.open() as chat:
        if by == "bot":
            await chat.receive("complete")
        else:
            await chat.conversation()
            chat.clear_cookie()
        receipt = await chat.receive("hello")
        ada.take(chat)

    assert "1 of 1" == receipt.replies[0].text
    assert first.conversation != receipt.conversation
    assert "2 of 2" == await ada.hear("again")


async def test_a_run_that_is_not_recorded_clears_nothing() -> None:
    """The bot asks for it, and then fails; and in a turn that takes steps the last run counts."""
    runs = []

    async def bot(turn: Turn) -> str:
        runs.append(turn.text)
        if len(runs) == 1:
            clear_cookie(turn)
        if turn.text == "step":
            await turn.step("pay", lambda: 1)
        if turn.text == "fail":
            raise ValueError
        return "yes"

    for text in ("step", "fail"):
        runs.clear()
        ada = Browser(bot)
        async with ada.open() as chat:
            if text == "fail":
                with pytest.raises(HandlerFailed):
                    await chat.receive(text)
            await chat.receive("step" if text == "step" else "hello")
            ada.take(chat)
        assert (True, True) == (len(runs) > 1, ada.cookie != "")


@pytest.mark.parametrize(
    ("age", "lost", "heard"), [(599, "", "2 of 2"), (600, "expired", "1 of 1"), (10**6, "expired", "1 of 1")]
)
async def test_it_is_over_after_its_time_whatever_the_browser_keeps(age: float, lost: str, heard: str) -> None:
    """The end is inside of the seal, and each message moves it on."""
    now = [1_800_000_000.0]
    ada = Browser(now=lambda: now[0], max_age="10m")
    await ada.say("hello")
    now[0] += age

    assert (heard, lost) == (await ada.hear("again"), ada.lost)
    now[0] += 599
    assert (int(heard[0]) + 1, "") == (int((await ada.hear("once more"))[0]), ada.lost)


async def test_a_session_ends_before_its_cookie() -> None:
    """The state is fresh, the log goes on."""
    now = [1_800_000_000.0]
    ada = Browser(now=lambda: now[0], session_ttl="30m", max_age="1d")
    first = await ada.say("hello")
    now[0] += 1800
    again = await ada.say("hello")

    assert (["1 of 1", 1], ["1 of 1", 3]) == tuple([one.replies[0].text, one.number] for one in (first, again))


@pytest.mark.parametrize("value", ["nonsense", "A" * 300, "", "%00", "AS" * 3000, '"x"', "=;=", "ä"])
async def test_a_cookie_that_cannot_be_opened_begins_a_fresh_chat(value: str) -> None:
    """Whatever it is; that is told."""
    ada = Browser()
    ada.cookie = f"other=1; __Host-chat={value}; another"

    assert "1 of 1" == await ada.hear("hello")
    assert ("unreadable" if value else "") == ada.lost
    assert "2 of 2" == await ada.hear("hello")


async def test_of_several_cookies_of_the_name_the_one_that_opens_counts() -> None:
    """A neighbour on the domain may have set one of the same name."""
    ada = Browser()
    await ada.say("hello")
    ada.cookie = f'a=b; __Host-chat="evil"; {ada.cookie}; __Host-chat=other'

    assert ("2 of 2", "") == (await ada.hear("hello"), ada.lost)


async def test_a_step_is_done_once_and_recorded_with_the_turn() -> None:
    """Also in the first request, in which nobody knows yet that the bot takes steps."""
    ada = Browser()
    await ada.say("pay")
    await ada.say("pay")

    assert {"count": 2, "paid": "ref"} == await ada.state()


async def test_the_state_is_changed_outside_a_turn() -> None:
    """It goes into the cookie; what is too large does not."""
    ada = Browser()
    await ada.say("hello")
    async with ada.open() as chat:
        changed = await chat.change(lambda state: state.update(vip=True))
        with pytest.raises(TooLarge, match="large"):
            await chat.change(lambda state: state.update(large="x" * 5000))
        ada.take(chat)

    assert {"count": 1, "vip": True} == changed.state == await ada.state()


async def test_plain_functions_and_typed_states() -> None:
    """A handler in a thread, a state of a class, with a schema: a newer one is refused and stays."""

    class Order(Struct):
        pizzas: int = 0

    def bot(turn: Turn[Order]) -> str:
        turn.state.pizzas += 1
        return str(turn.state.pizzas)

    ada = Browser(bot, state=Order, schema=2, upgrades={1: lambda old: old})
    assert ["1", "2"] == [await ada.hear("one"), await ada.hear("more")]

    older = Browser(bot, state=Order)
    older.cookie = ada.cookie
    with pytest.raises(Unsupported):
        await older.say("with the last release")
    assert "3" == await ada.hear("more")


async def test_a_chat_in_its_own_turn_is_refused() -> None:
    """It would wait for itself."""
    inner: list[Chat[Any]] = []

    async def bot(turn: Turn) -> str:
        await inner[0].receive("again")
        return "never"

    ada = Browser(bot, attempts=1)
    async with ada.open() as chat:
        inner.append(chat)
        with pytest.raises(HandlerFailed, match="would wait for itself"):
            await asyncio.wait_for(chat.receive("hello"), 5)


async def test_a_handler_that_hangs_is_given_up() -> None:
    """Its time is over; the cookie stays."""

    async def bot(turn: Turn) -> str:
        await asyncio.Event().wait()
        return "never"

    ada = Browser(bot, turn_timeout="20ms", attempts=1)
    with pytest.raises(HandlerFailed, match="longer than"):
        await ada.say("hello")
    assert "" == ada.cookie


def test_without_an_event_loop() -> None:
    """The plain function: several threads at once, headers to add, the same errors."""
    chats = CookieChat(counting, keys=[KEY])
    first = chats.answer("hello", host=HOST, https=True, id="m1")
    cookie = dict(first.headers)["set-cookie"].partition(";")[0]
    again = chats.answer("again", cookie=cookie, host=HOST, https=True)

    assert ("1 of 1", "2 of 2") == (first.receipt.replies[0].text, again.receipt.replies[0].text)
    assert "no-store" == dict(first.headers)["cache-control"]
    assert [] == chats.answer("hello", cookie=cookie, host=HOST, https=True, id="m1").headers
    with pytest.raises(TooLarge):
        chats.answer("fill 5000", cookie=cookie, host=HOST, https=True)
    chats.stop()
    assert "2 of 2" == chats.answer("again", cookie=cookie, host=HOST, https=True).receipt.replies[0].text
    chats.stop()


async def test_the_plain_function_where_a_loop_runs_says_what_to_do() -> None:
    """It would stand still."""
    chats = CookieChat(counting, keys=[KEY])
    with pytest.raises(UsageError, match=r"async with chats\.chat"):
        chats.answer("hello", host=HOST)
    await asyncio.to_thread(chats.stop)
