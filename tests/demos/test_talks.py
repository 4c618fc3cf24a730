"""Whole talks with each bot, with a restart between every two messages and every message delivered twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..support.talking import Line, bot_on, check

BULK = [
    Line("hello", ("What shall we print", "200 mugs"), {"asked": "product"}),
    Line("200 mugs and hoodies", ("200 mugs", "How many hoodies?"), {"lines": {"Mug": 200, "Hoodie": 0}}),
    Line("10", ("I can take 25 to 10,000", "How many hoodies?"), {"lines": {"Mug": 200, "Hoodie": 0}}),
    Line("1,000", ("1,000 hoodies: €14,800.00", "Anything else?"), {"lines": {"Mug": 200, "Hoodie": 1000}}),
    Line("that's all", ("Where shall we deliver?",), {"complete": True, "asked": "delivery"}),
    Line("500 tote bags", ("500 tote bags",), {"lines": {"Mug": 200, "Hoodie": 1000, "Tote bag": 500}}),
    Line(
        "5 Mug Worker, Bath",
        ("We deliver to 5 Mug Worker, Bath", "How can we reach you?"),
        {"delivery": "5 Mug Worker, Bath"},
    ),
    Line("call me", ("I need an email",), {"contact": ""}),
    Line("actually 300 mugs", ("300 mugs", "How can we reach you?"), {"asked": "contact"}),
    Line("Add a product", ("Anything else?",), {"asked": "product", "complete": False}),
    Line("that is all", ("How can we reach you?",), {"complete": True}),
    Line("ada@example.com", ("Total:", "Say “confirm”"), {"contact": "ada@example.com", "asked": "confirm"}),
    Line(
        "change delivery to 7 Quay Street, Bath",
        ("7 Quay Street", "Say “confirm”"),
        {"delivery": "7 Quay Street, Bath"},
    ),
    Line("remove tote bags", ("Removed tote bags",), {"lines": {"Mug": 300, "Hoodie": 1000}}),
    Line("change hoodies", ("How many hoodies?",), {"asked": "quantity"}),
    Line("50", ("50 hoodies", "€2,059.00"), {"lines": {"Mug": 300, "Hoodie": 50}}),
    Line("Change contact", ("How can we reach you?",), {"contact": ""}),
    Line("+49 30 1234567", ("Contact: +49 30 1234567",), {"asked": "confirm"}),
    Line("Confirm", ("is placed", "PW-", "300 mugs")),
    Line("500 mugs", ("is placed", "300 mugs"), {"lines": {"Mug": 300, "Hoodie": 50}}),
    Line("new order", ("empty order",), {"lines": {}, "reference": "", "delivery": ""}),
]

RESTAURANT = [
    Line("hello", ("Benvenuto at Bella Napoli!", "Your cart is empty"), {"welcomed": True, "cart": {}}),
    Line("drinks", ("espresso, €2.20", "water")),
    Line(
        "2 margherita with olives and a tiramisù",
        ("Total: €22.50",),
        {"cart": {"margherita + olives": 2, "tiramisu": 1}},
    ),
    Line(
        "cheese",
        ("Made it margherita + cheese + olives",),
        {"cart": {"margherita + cheese + olives": 2, "tiramisu": 1}},
    ),
    Line("remove cheese", ("Removed cheese",), {"cart": {"margherita + olives": 2, "tiramisu": 1}}),
    Line("25 water", ("nothing was added",), {"cart": {"margherita + olives": 2, "tiramisu": 1}}),
    Line(
        "remove 1 margherita", ("Removed 1 margherita + olives",), {"cart": {"margherita + olives": 1, "tiramisu": 1}}
    ),
    Line("confirm", ("Where shall we bring it?",), {"stage": "address"}),
    Line("here", ("a bit short for an address",), {"stage": "address"}),
    Line(
        "Pick up at Porto", ("It waits for you at Porto",), {"stage": "confirming", "pickup": True, "branch": "Porto"}
    ),
    Line("Pay by card", ("you pay by card",), {"payment": "card"}),
    Line("Deliver", ("Where shall we bring it?",), {"pickup": False, "stage": "address"}),
    Line("12 Via Roma, Napoli", ("To 12 Via Roma", "Say “confirm”"), {"address": "12 Via Roma, Napoli"}),
    Line("address: 14 Via Roma", ("It goes to 14 Via Roma",), {"address": "14 Via Roma", "stage": "confirming"}),
    Line("no", ("What shall I change?",), {"stage": "choosing"}),
    Line("a water", ("Added 1 water.",), {"cart": {"margherita + olives": 1, "tiramisu": 1, "water": 1}}),
    Line("checkout", ("It goes to 14 Via Roma",), {"stage": "confirming"}),
    Line("yes", ("is in the oven. It goes to 14 Via Roma; €16.00 by card", "BN-"), {"stage": "placed"}),
    Line("cancel", ("cannot be changed", "BN-"), {"stage": "placed"}),
    Line("an espresso", ("Added 1 espresso", "Total: €2.20"), {"stage": "choosing", "cart": {"espresso": 1}}),
    Line("remove espresso", ("Your cart is empty",), {"cart": {}, "reference": "", "address": "14 Via Roma"}),
]

TUTORING = [
    Line("hello", ("Which subject?",)),
    Line("something with numbers", ("I did not get",)),
    Line("algebra", ("Math, for which level?",), {"subject": "math"}),
    Line(
        "High school",
        ("These fit", "Maya Lind"),
        {"level": "high school", "offered": ["Maya Lind", "Jonas Weber", "Priya Nair"]},
    ),
    Line("show me other tutors", ("There are also", "Tomas Silva"), {"offered": ["Tomas Silva", "Ada Okoro"]}),
    Line("tell me about Maya", ("She draws before she calculates",)),
    Line("the first one", ("Tomas Silva, a good choice", "Which day")),
    Line("sunday", ("is not possible", "Which day")),
    Line("monday at 3pm", ("What is the student's name?",)),
    Line("Ada", ("Where can we reach you?",)),
    Line("show me other tutors", ("You have seen all; once more", "Maya Lind")),
    Line("Jonas", ("Jonas Weber, a good choice", "Where can we reach you?")),
    Line("by pigeon", ("no email address",)),
    Line("ada@example.com", ("Jonas Weber on Mon 2026-11-23 at 15:00 for Ada (ada@example.com)", "Say “confirm”")),
    Line("change day to friday", ("Fri 2026-11-27",)),
    Line("Change time", ("At what time?",)),
    Line("20:00", ("There is nothing at 20:00",)),
    Line("18:00", ("Jonas Weber on Fri 2026-11-27 at 18:00",)),
    Line(
        "confirm",
        ("Booked: Jonas Weber on Fri 2026-11-27 at 18:00", "TD-"),
        {"form": {"tutor": "", "day": "", "time": "", "student": "Ada", "contact": "ada@example.com", "reference": ""}},
    ),
    Line("my bookings", ("TD-", "Jonas Weber on Fri 2026-11-27")),
    Line("chemistry for primary", ("Nobody teaches chemistry", "high school and university"), {"level": ""}),
    Line("university", ("Noor Haddad",), {"subject": "chemistry", "offered": ["Noor Haddad"]}),
]

MANICURE = {"kind": "book", "service": "Basic Manicure", "day": "", "time": ""}
HAIRCUT = MANICURE | {"service": "Haircut", "day": "2026-11-27"}

SALON = [
    Line("I want to book an appointment", ("Which service",), {"activeGoals": [MANICURE | {"service": ""}]}),
    Line("Basic Manicure", ("Which day for the Basic Manicure?",), {"activeGoals": [MANICURE]}),
    Line(
        "how much is a pedicure?", ("Pedicure: €35", "Which day for the Basic Manicure?"), {"activeGoals": [MANICURE]}
    ),
    Line(
        "and a haircut on friday",
        ("Haircut, gladly", "Which day for the Basic Manicure?"),
        {"activeGoals": [MANICURE, HAIRCUT]},
    ),
    Line("tomorrow", ("Sun 2026-11-22 is not possible",), {"activeGoals": [MANICURE, HAIRCUT]}),
    Line("friday 10:00", ("Haircut on Fri 2026-11-27, at what time?",)),
    Line(
        "10:00",
        ("10:00 on Fri 2026-11-27 is not free",),
        {"activeGoals": [MANICURE | {"day": "2026-11-27", "time": "10:00"}, HAIRCUT]},
    ),
    Line("2pm", ("What name",)),
    Line("Ada", ("Thank you, Ada.", "Say “confirm”"), {"name": "Ada"}),
    Line(
        "Change Basic Manicure",
        ("Which day for the Basic Manicure?",),
        {"activeGoals": [MANICURE, HAIRCUT | {"time": "14:00"}]},
    ),
    Line("Mon 2026-11-23 at 11", ("Say “confirm”",)),
    Line(
        "confirm",
        ("See you then, Ada!", "Basic Manicure on Mon 2026-11-23 at 11:00", "Haircut on Fri"),
        {"activeGoals": []},
    ),
    Line(
        "move my haircut to thursday",
        ("at what time?",),
        {"activeGoals": [HAIRCUT | {"kind": "move", "day": "2026-11-26"}]},
    ),
    Line("9am", ("Haircut 2026-11-26 09:00 for Ada",)),
    Line("change haircut to friday 2pm", ("Haircut 2026-11-27 14:00 for Ada",)),
    Line("move haircut to thu 9am", ("Haircut 2026-11-26 09:00 for Ada",)),
    Line("yes", ("Haircut on Thu 2026-11-26 at 09:00",)),
    Line("no", ("All right.", "What can we do for you?")),
    Line("cancel the manicure", ("Basic Manicure SR-", "is cancelled")),
    Line("my appointments", ("Haircut on Thu 2026-11-26 at 09:00",), {"activeGoals": []}),
    Line("a facial and colouring", ("Which day for the Facial?",)),
    Line("forget the facial", ("Facial is not planned any more", "Which day for the Colouring?")),
    Line("start over", ("Nothing is planned any more",), {"activeGoals": []}),
]

SAKURA = [
    Line("hello", ("Welcome to Sakura.", "2 shoyu ramen")),
    Line("2 margherita", ("I do not know “2 margherita”",), {"cart": {}}),
    Line("miso ramen with egg and a green tea", ("Total: €16.00",), {"cart": {"miso ramen + egg": 1, "green tea": 1}}),
    Line("pick up at riverside", ("It waits for you at Riverside",), {"branch": "Riverside"}),
    Line("confirm", ("Order SK-", "in the oven"), {"stage": "placed"}),
]

TALKS = {"bulk": BULK, "restaurant": RESTAURANT, "tutoring": TUTORING, "salon": SALON}


@pytest.mark.each
@pytest.mark.parametrize("bot", TALKS)
async def test_nothing_is_forgotten_over_restarts(bot: str, tmp_path: Path) -> None:
    """Every message meets a new process on the same SQLite file, and is then delivered once more: the talk goes on as
    written, and the second delivery gets the recorded replies and changes nothing."""
    url = f"sqlite:///{tmp_path}/chat.db"
    for number, line in enumerate(TALKS[bot]):
        async with bot_on(bot, url, tmp_path) as keep:
            first = await check(keep, line, id=f"wamid.{number}")
            revision = (await keep.conversation("ada")).revision
        async with bot_on(bot, url, tmp_path) as keep:
            again = await keep.receive("ada", line.said, id=f"wamid.{number}")
            there = await keep.conversation("ada")

        assert (True, first.replies) == (again.duplicate, again.replies), line.said
        assert revision == there.revision, line.said


@pytest.mark.parametrize("bot", TALKS)
async def test_tenants_never_see_each_other(bot: str, tmp_path: Path) -> None:
    """The same talk by two guests of one name with two tenants, line by line: each is as if it were alone."""
    one, other = ("bella", "sakura") if bot == "restaurant" else ("north", "south")
    async with bot_on(bot, f"sqlite:///{tmp_path}/chat.db", tmp_path) as keep:
        for number, line in enumerate(TALKS[bot]):
            await check(keep.tenant(one), line, id=f"wamid.{number}")
            if number == len(TALKS[bot]) // 2:
                before = await keep.tenant(other).conversation("ada")
                await keep.tenant(other).receive("ada", "hello", id="wamid.1")

        assert before is None
        assert 1 == len([m async for m in keep.tenant(other).history("ada") if m.role == "user"])
        assert None is await keep.conversation("ada")


async def test_each_tenant_is_a_restaurant_of_its_own(tmp_path: Path) -> None:
    """Another menu, another welcome; where there is no restaurant, nothing is ordered."""
    async with bot_on("restaurant", "memory://", tmp_path) as keep:
        for number, line in enumerate(SAKURA):
            await check(keep.tenant("sakura"), line, id=f"wamid.{number}")
        await check(
            keep.tenant("haggis"), Line("2 margherita", ("no restaurant “haggis”",), {"cart": {}}), id="wamid.1"
        )


async def test_a_moved_appointment_keeps_its_reference(tmp_path: Path) -> None:
    """Whoever wrote it down finds it; what is booked in the same talk later has another."""
    async with bot_on("salon", "memory://", tmp_path) as keep:
        for line in ("haircut monday 9am", "Ada", "confirm"):
            await keep.receive("ada", line)
        before = (await keep.conversation("ada")).state.appointments
        for line in ("move my haircut to tuesday 10:00", "and a facial on friday 9am", "confirm"):
            await keep.receive("ada", line)
        after = (await keep.conversation("ada")).state.appointments

    assert [("2026-11-23", "09:00"), ("2026-11-24", "10:00")] == [
        (kept.day, kept.time) for kept in (before[0], after[0])
    ]
    assert before[0].reference == after[0].reference != after[1].reference


async def test_an_appointment_is_not_moved_onto_another(tmp_path: Path) -> None:
    """Its own hour counts as free, that of another of its kind does not."""
    async with bot_on("salon", "memory://", tmp_path) as keep:
        for line in ("haircut monday 9am", "Ada", "confirm", "haircut monday 10:00", "confirm"):
            await keep.receive("ada", line)
        await check(
            keep, Line("move my haircut to monday 10:00", ("10:00 on Mon 2026-11-23 is not free",)), id="wamid.8"
        )
        await check(keep, Line("9am", ("Haircut 2026-11-23 09:00 for Ada",)), id="wamid.9")


async def test_a_salon_guest_has_so_many_wishes_and_no_more(tmp_path: Path) -> None:
    """The ninth is refused in words, and the eight stay."""
    async with bot_on("salon", "memory://", tmp_path) as keep:
        for number, service in enumerate(
            ["haircut", "facial", "pedicure", "haircut", "facial", "pedicure", "haircut", "facial"]
        ):
            for line in (f"{service} 2026-11-{23 + number // 4} at {(9, 10, 11, 13)[number % 4]}", "Ada", "confirm"):
                await keep.receive("ada", line)
        await check(keep, Line("a pedicure", ("8 things at once",), {"activeGoals": []}), id="wamid.9")

        assert 8 == len((await keep.conversation("ada")).state.appointments)
