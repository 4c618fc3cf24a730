"""What the bots make of words: dates, times, names, contacts, references."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from chatkeep import Message, Misconfigured, Turn, UsageError
from chatkeep.demos import BOTS, demo_for, words
from chatkeep.demos.menus import BELLA, understood

pytestmark = pytest.mark.each
SATURDAY = date(2026, 11, 21)


@pytest.mark.parametrize(
    ("said", "day"),
    [
        ("today", date(2026, 11, 21)),
        ("Tomorrow!", date(2026, 11, 22)),
        ("on Monday", date(2026, 11, 23)),
        ("fri 10:00", date(2026, 11, 27)),
        ("saturday", date(2026, 11, 28)),
        ("Mon 2026-11-30", date(2026, 11, 30)),
        ("2026-02-30", None),
        ("0000-00-00", None),
        ("someday", None),
        ("monkey", None),
    ],
)
def test_days(said: str, day: date | None) -> None:
    """A weekday is the next one, never today."""
    assert day == words.day_in(said, SATURDAY)


@pytest.mark.parametrize(
    ("said", "time"),
    [
        ("10:00", "10:00"),
        ("at 3 PM", "15:00"),
        ("3pm please", "15:00"),
        ("12am", "00:00"),
        ("12:30 pm", "12:30"),
        ("9", "09:00"),
        ("monday at 16", "16:00"),
        ("2026-11-24", ""),
        ("2026-11-24 16:30", "16:30"),
        ("13pm", ""),
        ("25:00", ""),
        ("two", ""),
    ],
)
def test_times(said: str, time: str) -> None:
    """Written as people do; a date's numbers are no time."""
    assert time == words.time_in(said)


@pytest.mark.parametrize(
    ("said", "contact"),
    [
        ("ada@example.com", "ada@example.com"),
        ("it is ada.l+x@mail.example.co.uk, thanks", "ada.l+x@mail.example.co.uk"),
        ("+49 (0)30 123-4567", "+49 (0)30 123-4567"),
        ("12", ""),
        ("@example", ""),
    ],
)
def test_contacts(said: str, contact: str) -> None:
    """An address or a number, whatever stands around it."""
    assert contact == words.contact_in(said)


def test_names_are_found_in_order_the_longer_first() -> None:
    """Of two names that overlap, the one that says more; slips of the finger only for a name alone."""
    names = ["Manicure", "Basic Manicure", "Pedicure"]

    assert ["Pedicure", "Basic Manicure"] == words.mentioned("pedicures, then a basic MANICURE", names)
    assert "Basic Manicure" == words.nearest("basic manicur", names)
    assert "" == words.nearest("haircut", names)
    assert "a, b and c" == words.listed(["a", "b", "c"])
    assert "" == words.listed([])


@pytest.mark.parametrize(
    ("said", "lines", "extras", "unknown"),
    [
        ("2 margherita", [(2, "margherita")], [], []),
        ("margheritas x3, two water", [(3, "margherita"), (2, "water")], [], []),
        ("Funghi with olives and capers and a tiramisù", [(1, "funghi + capers + olives"), (1, "tiramisu")], [], []),
        ("olives and ham", [], ["olives", "ham"], []),
        ("water with cheese", [(1, "water")], [], ["cheese"]),
        ("a haggis & a panna cota", [(1, "panna cotta")], [], ["haggis"]),
    ],
)
def test_dishes(said: str, lines: list[tuple[int, str]], extras: list[str], unknown: list[str]) -> None:
    """Counts before and after, extras where they fit, and what is on no menu by name."""
    assert (lines, extras, unknown) == tuple(understood(BELLA, said))


def test_choices_are_buttons_and_no_choice_is_text() -> None:
    """A channel gets no empty list of buttons, which some refuse."""
    assert {"type": "text", "text": "Name?"} == words.buttons("Name?")
    assert [{"id": "colouring", "text": "Colouring"}] == words.buttons("What?", "Colouring")["buttons"]


def test_a_reference_is_the_same_each_time_and_differs_between_tenants() -> None:
    """It is made of the turn alone."""

    def made(tenant: str, id: str) -> str:
        message = Message(id=id, number=1, role="user", content="yes", created_at=0.0)
        turn: Turn[Any] = Turn(tenant=tenant, conversation="ada", session=1, state={}, messages=[message], history=[])
        return words.reference("BN", turn)

    assert made("a", "1") == made("a", "1")
    assert 3 == len({made("a", "1"), made("b", "1"), made("a", "2")})


def test_a_bot_is_picked_by_name_and_takes_settings() -> None:
    """An unknown bot and an unknown setting are refused before anything is opened."""
    assert "5m" == demo_for("salon", "memory://", session_ttl="5m").settings.session_ttl
    assert ["bulk", "restaurant", "salon", "tutoring"] == sorted(BOTS)
    with pytest.raises(UsageError, match="restaurant, bulk, tutoring, salon"):
        demo_for("waiter", "memory://")
    with pytest.raises(Misconfigured, match="is not a setting"):
        demo_for("bulk", "memory://", colour="red")
