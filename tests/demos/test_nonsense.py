"""Whatever people write, each bot answers, keeps a state that makes sense, and offers no button that leads nowhere."""

from __future__ import annotations

import asyncio
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatkeep import Message
from chatkeep.demos import BOTS, bulk, restaurant, salon, tutoring
from chatkeep.demos.menus import BELLA

from ..support.talking import bot_on, labels, told

WORDS = {
    "bulk": "hello 200 25 7 1,000 mugs hoodies t-shirt change remove delivery to contact ada@example.com confirm done no summary "
    "5_Quay_Street,_Bath that's_all new_order actually make and",
    "restaurant": "2 25 0 margherita tiramisu water olives cheese with and remove checkout confirm no cancel menu pizza cash card "
    "deliver pick_up_at_porto 12_Via_Roma address new_order cart + x2",
    "tutoring": "math physics chemistry high_school primary university show_me_other_tutors Maya Jonas first about monday sunday "
    "2026-11-24 15:00 3pm 25:00 Ada ada@example.com change day time name confirm cancel new_search my_bookings",
    "salon": "book basic_manicure manicure haircut colouring facial pedicure on and monday friday tomorrow 2026-11-24 9999-12-31 "
    "10:00 9am 11 14:00 move cancel forget change confirm yes Ada start_over prices how_much my_appointments",
}
DEAD_ENDS = ("I did not get", "I do not know", "I can only read")


def sense_of_bulk(order: bulk.BulkOrder) -> None:
    """Quantities are possible, and what is placed is complete."""
    assert all(count == 0 or bulk.LEAST <= count <= bulk.MOST for count in order.lines.values())
    if order.reference:
        assert "confirm" == bulk.missing(order)


def sense_of_restaurant(order: restaurant.Order) -> None:
    """Counts are possible, an order has a reference, and where it goes is known before it is confirmed."""
    assert all(BELLA.cost(line) > 0 and 1 <= count <= restaurant.MOST for line, count in order.cart.items())
    assert bool(order.cart) == bool(order.reference)
    assert order.cart or order.stage == "choosing"
    if order.stage in ("confirming", "placed"):
        assert order.address or order.pickup


def sense_of_tutoring(desk: tutoring.Desk) -> None:
    """What is offered fits the search and has been counted as shown; bookings are complete."""
    assert {*desk.offered} <= {*desk.shown} <= {*tutoring.BY_NAME}
    if desk.level:
        assert {*desk.shown} <= {tutor.name for tutor in tutoring.fitting(desk)}
    assert all(booking.reference and not tutoring.missing(booking) for booking in desk.booked)


def sense_of_salon(guest: salon.Guest) -> None:
    """Nobody has two appointments, or a goal and an appointment that is to stay, at one time."""
    moved = [goal.service for goal in guest.active_goals if goal.kind == "move"]
    there: list[Any] = [*guest.active_goals, *[kept for kept in guest.appointments if kept.service not in moved]]
    hours = [
        (each.day, hour) for each in there if each.day and each.time for hour in salon.hours(each.service, each.time)
    ]
    assert len({*hours}) == len(hours)
    assert len(there) <= salon.MOST
    assert all(date.fromisoformat(kept.day).weekday() != 6 for kept in guest.appointments)


SENSE = {
    "bulk": sense_of_bulk,
    "restaurant": sense_of_restaurant,
    "tutoring": sense_of_tutoring,
    "salon": sense_of_salon,
}


def messages(bot: str) -> st.SearchStrategy[Any]:
    """Nonsense, half sense, sense, and the number of a button to press."""
    words = st.sampled_from([word.replace("_", " ") for word in WORDS[bot].split()])
    anything = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=30)
    return st.one_of(
        words,
        st.lists(words, min_size=1, max_size=6).map(" ".join),
        st.lists(words | anything, min_size=1, max_size=4).map(" ".join),
        anything,
        st.integers(0, 9),
    )


@pytest.mark.parametrize("bot", BOTS)
@given(data=st.data())
def test_it_always_answers_and_its_state_makes_sense(bot: str, data: st.DataObject) -> None:
    """Twenty messages of every kind, buttons among them: each gets an answer, and no button is a dead end."""
    lines = data.draw(st.lists(messages(bot), min_size=1, max_size=20))

    async def run(folder: Path) -> None:
        async with bot_on(bot, "memory://", folder) as keep:
            replies: list[Message] = []
            for line in lines:
                choices = labels(replies)
                button = choices[line % len(choices)] if isinstance(line, int) and choices else None
                said = button[["id", "text"][line % 2]] if button else str(line)
                replies = (await keep.receive("ada", said)).replies

                assert told(replies).strip(), said
                assert not (button and any(words in told(replies) for words in DEAD_ENDS)), (said, told(replies))
                SENSE[bot]((await keep.conversation("ada")).state)  # type: ignore[operator]

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(Path(folder)))


@pytest.mark.parametrize("bot", BOTS)
@pytest.mark.parametrize(
    "content", ["   ", "?!", [{"type": "image", "url": "https://example.com/cat.jpg"}], "x" * 301, "no " * 150]
)
async def test_what_cannot_be_read_is_said_so(bot: str, content: Any, tmp_path: Path) -> None:
    """A picture, silence and a novel are answered, and change nothing."""
    async with bot_on(bot, "memory://", tmp_path) as keep:
        await keep.receive("ada", "hello")
        before = (await keep.conversation("ada")).state
        receipt = await keep.receive("ada", content)

        assert any(words in told(receipt.replies) for words in ("only read words", "a lot to read"))
        assert before == (await keep.conversation("ada")).state


@pytest.mark.parametrize("bot", BOTS)
async def test_a_greeting_says_what_there_is(bot: str, tmp_path: Path) -> None:
    """The first reply to hello has choices, each with an id and a text that fits a telephone's button."""
    async with bot_on(bot, "memory://", tmp_path) as keep:
        choices = labels((await keep.receive("ada", "hello")).replies)

    assert 2 <= len(choices)
    assert [] == [button for button in choices if {*button} != {"id", "text"} or not 1 <= len(button["text"]) <= 20]
