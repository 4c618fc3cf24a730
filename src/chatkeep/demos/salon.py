"""A beauty salon books appointments. A guest may have several wishes in one talk; each is a goal in `activeGoals`.

A goal stays, with whatever is known of it, until it is done or given up, however many messages, questions about prices or restarts
lie in between. The next question is always about the first goal that lacks something.
"""

from __future__ import annotations

import re
from datetime import date, datetime, timedelta
from typing import Any, Literal, NamedTuple

from msgspec import Struct, field

from ..app import Chatkeep
from ..engine.turn import Turn
from ..model import Part
from .words import (
    buttons,
    day_in,
    day_name,
    heard,
    listed,
    mentioned,
    nearest,
    plain,
    reference,
    time_in,
    today,
    unreadable,
)


class Service(NamedTuple):
    """What the salon does: for how many euros, in how many hours."""

    price: int
    hours: int


SERVICES = {
    "Basic Manicure": Service(25, 1),
    "Gel Manicure": Service(40, 1),
    "Pedicure": Service(35, 1),
    "Haircut": Service(45, 1),
    "Colouring": Service(90, 2),
    "Facial": Service(60, 1),
}
ALIASES = {
    "manicure": "Basic Manicure",
    "cut": "Haircut",
    "coloring": "Colouring",
    "color": "Colouring",
    "colour": "Colouring",
}
TIMES = ("09:00", "10:00", "11:00", "13:00", "14:00", "15:00", "16:00", "17:00")
CLOSED = (6,)  # Sunday
AHEAD = 28
"""Days that can be booked."""

MOST = 8
"""Goals and appointments of one guest."""

HELP = (
    "I book appointments. Say what you would like and when, such as “a basic manicure and a haircut on friday”. "
    "You can also say: services, my appointments, move my pedicure, cancel my pedicure, forget the haircut, start over."
)


class Goal(Struct):
    """Something that a guest wants to get done. A service of "" is asked for, and so is a day and a time."""

    kind: Literal["book", "move"]
    service: str = ""
    day: str = ""
    time: str = ""


class Appointment(Struct):
    """What is booked."""

    service: str
    day: str
    time: str
    reference: str


class Guest(Struct, rename="camel"):
    """All that the bot knows of one guest; at rest the goals are called `activeGoals`."""

    active_goals: list[Goal] = field(default_factory=list)
    appointments: list[Appointment] = field(default_factory=list)
    name: str = ""


def build(url: str, **options: Any) -> Chatkeep[Guest]:
    """Return the salon on the store *url*. Goals and appointments are known for as long as one can be booked ahead."""
    keep = Chatkeep(url, state=Guest, **({"session_ttl": "35d"} | options))

    @keep.on_message
    async def bot(turn: Turn[Guest]) -> str | Part | None:
        """Answer one message, and remind of each appointment on the evening before."""
        guest = turn.state
        if turn.reminder:
            visits = [kept for kept in guest.appointments if visit(kept) == turn.reminder]
            return tomorrow(visits[0]) if visits else None
        before = {visit(kept) for kept in guest.appointments}
        said = answer(guest, heard(turn), today=today(turn), new=reference("SR", turn))
        for name in before - {visit(kept) for kept in guest.appointments}:
            turn.cancel(name)
        for kept in guest.appointments:
            evening = datetime.fromisoformat(f"{kept.day}T00:00:00+00:00") - timedelta(hours=6)
            if visit(kept) not in before and (ahead := evening.timestamp() - turn.message.created_at) > 0:
                turn.remind(ahead, visit(kept), keep=True)
        return said

    return keep


def answer(guest: Guest, said: str, *, today: date, new: str) -> str | Part:
    """Take what was *said* into the goals and say what to say. *new* is the reference of what is booked by it."""
    if trouble := unreadable(said):
        return trouble
    forget_the_past(guest, today)
    words, goals = plain(said), guest.active_goals
    match words:
        case "help" | "hi" | "hello" | "hey" | "start":
            return next_step(guest, today, HELP)
        case "start over" | "forget it" | "never mind" | "nevermind":
            guest.active_goals = []
            return next_step(guest, today, "Nothing is planned any more." if goals else "")
        case "my appointments" | "appointments" | "status":
            return next_step(guest, today, "\n".join(map(described, guest.appointments)) or "You have no appointments.")
        case "no" | "no thanks" | "nothing" | "thanks" | "thank you":
            return next_step(guest, today, "All right.")
        case "confirm" | "yes" | "ok" | "book it" if goals and not missing(guest):
            return next_step(guest, today, settle(guest, new))
    services = services_in(words)
    if re.search(r"\b(prices?|costs?|how much|how long|services|menu)\b", words):
        return next_step(guest, today, prices(services or [*SERVICES]))
    if re.match(r"(cancel|forget|drop|no|without)\b", words):
        return next_step(guest, today, drop(guest, services))
    day, time = day_in(words, today), time_in(words)
    if wrong := refused(day, time, today):
        return next_step(guest, today, wrong)
    told = wish(guest, words, services) if services or re.search(r"\b(book|appointment|move|change)\b", words) else []
    if day or time:
        told += schedule(guest, services, day, time)
    elif not told and missing(guest) == "name" and len(said) <= 40:
        guest.name = said
        told = [f"Thank you, {said}."]
    elif not told:
        told = [f"I did not get “{said[:60]}”. {HELP}"]
    return next_step(guest, today, "\n".join(told))


def wish(guest: Guest, words: str, services: list[str]) -> list[str]:
    """Make goals of what a guest wants: one for each service, or one whose service is asked for."""
    goals, moves, told = guest.active_goals, bool(re.search(r"\b(move|change|reschedule)\b", words)), list[str]()
    for service in services or [""]:
        there = next((goal for goal in goals if goal.service in (service, "")), None)
        if moves and not service and goals:
            there = goals[-1]
        booked = [kept for kept in guest.appointments if service in (kept.service, "")]
        if there:
            there.service = there.service or service
            if moves:
                there.day = there.time = ""
        elif moves and len(booked) != 1 and (not booked or not service):
            told.append(
                f"Which one? {listed([kept.service for kept in booked])}." if booked else "There is nothing to move."
            )
        elif len(goals) + len(guest.appointments) >= MOST:
            told.append(f"I can look after {MOST} things at once; let us settle these first.")
        else:
            goals.append(Goal("move" if moves else "book", booked[0].service if moves else service))
            told += [f"{goals[-1].service}, gladly."] * bool(goals[-1].service)
    return told or [""]


def schedule(guest: Guest, services: list[str], day: date | None, time: str) -> list[str]:
    """Write day and time into the goals that are meant: those named, or else the one that is asked about."""
    if not guest.active_goals:
        guest.active_goals.append(Goal("book"))
    goals, told = guest.active_goals, list[str]()
    asked = next(filter(lacking, goals), goals[-1])
    for goal in [goal for goal in goals if goal.service in services] or [asked]:
        goal.day, goal.time = day.isoformat() if day else goal.day, time or goal.time
        if goal.day and goal.time and goal.time not in free(guest, goal):
            told.append(f"{goal.time} on {day_name(date.fromisoformat(goal.day))} is not free for that.")
            goal.time = ""
    return told


def settle(guest: Guest, new: str) -> str:
    """Make appointments of all goals."""
    done = []
    for goal in guest.active_goals:
        made = Appointment(goal.service, goal.day, goal.time, new)
        if old := moved_by(guest, goal):
            guest.appointments.remove(old)
            made.reference = old.reference
        guest.appointments.append(made)
        done.append(described(made))
    guest.active_goals = []
    return f"See you then, {guest.name}!\n" + "\n".join(done)


def drop(guest: Guest, services: list[str]) -> str:
    """Give up goals, or cancel appointments where there is no such goal."""
    known: list[Goal | Appointment] = [*guest.active_goals, *guest.appointments]
    if not services and len(known) == 1:
        services = [known[0].service]
    told = []
    for service in services:
        if goal := next((goal for goal in guest.active_goals if goal.service == service), None):
            guest.active_goals.remove(goal)
            told.append(f"{service or 'That'} is not planned any more.")
        elif kept := next((kept for kept in guest.appointments if kept.service == service), None):
            guest.appointments.remove(kept)
            told.append(f"{service} {kept.reference} is cancelled.")
        else:
            told.append(f"There is no {service} to cancel.")
    return "\n".join(told) or "Which one? Say “cancel” with its name, or “start over” to give up what is planned."


def forget_the_past(guest: Guest, today: date) -> None:
    """Let appointments that are over go; goals for a day that is over are asked about again."""
    guest.appointments = [kept for kept in guest.appointments if kept.day >= today.isoformat()]
    for goal in guest.active_goals:
        if goal.day and goal.day <= today.isoformat():
            goal.day = goal.time = ""


def refused(day: date | None, time: str, today: date) -> str:
    """Tell why nobody can come then; "" when one can."""
    if day and not (today < day <= today + timedelta(days=AHEAD) and day.weekday() not in CLOSED):
        return f"{day_name(day)} is not possible. We are open Monday to Saturday, from tomorrow to {AHEAD} days ahead."
    return f"Nothing begins at {time}. We begin at {listed(TIMES)}." if time and time not in TIMES else ""


def free(guest: Guest, goal: Goal) -> list[str]:
    """Return the times on the goal's day at which this guest is not with us already. A real salon asks its calendar here."""
    taken, others = set[int](), list[Goal | Appointment]([*guest.active_goals, *guest.appointments])
    for other in others:
        if other is not goal and other is not moved_by(guest, goal) and other.day == goal.day and other.time:
            taken |= hours(other.service, other.time)
    return [time for time in TIMES if not hours(goal.service, time) & taken]


def moved_by(guest: Guest, goal: Goal) -> Appointment | None:
    """Return the appointment that a goal is about to move."""
    return next((kept for kept in guest.appointments if goal.kind == "move" and kept.service == goal.service), None)


def hours(service: str, time: str) -> set[int]:
    """Return the hours of the day that a service takes from *time* on."""
    begin = int(time[:2])
    return {*range(begin, begin + (SERVICES[service].hours if service else 1))}


def lacking(goal: Goal) -> Literal["", "service", "day", "time"]:
    """Return what has to be asked about a goal."""
    return "service" if not goal.service else "day" if not goal.day else "" if goal.time else "time"


def missing(guest: Guest) -> Literal["", "service", "day", "time", "name"]:
    """Return what has to be asked next, of the first goal that lacks something."""
    slots = [slot for goal in guest.active_goals if (slot := lacking(goal))]
    return slots[0] if slots else ("name" if guest.active_goals and not guest.name else "")


def next_step(guest: Guest, today: date, first: str = "") -> Part:
    """Return what to ask next; *first* is said before."""
    goals, slot = guest.active_goals, missing(guest)
    goal = next(filter(lacking, goals), None)
    days = [today + timedelta(days=ahead) for ahead in range(1, 6)]
    open_days = [day_name(day) for day in days if day.weekday() not in CLOSED][:4]
    if not goals:
        text, labels = "What can we do for you?", [*SERVICES]
    elif goal is None and slot == "name":
        text, labels = "What name may I write down?", []
    elif goal is None:
        text = f"{planned(goals)} for {guest.name}. Say “confirm” to book, or what to change."
        labels = ["Confirm", *[f"Change {goal.service}" for goal in goals], "Start over"]
    else:
        others = [other for other in goals if other is not goal]
        aside = f" (Then: {planned(others)}.)" if others else ""
        if slot == "service":
            text, labels = f"Which service would you like?{aside}", [*SERVICES]
        elif slot == "day" or not free(guest, goal):
            text, labels = f"Which day for the {goal.service}?{aside}", open_days
        else:
            day = day_name(date.fromisoformat(goal.day))
            text, labels = f"{goal.service} on {day}, at what time?{aside}", free(guest, goal)
    return buttons(f"{first}\n{text}".strip(), *labels)


def tomorrow(kept: Appointment) -> Part:
    """Return what a guest is told on the evening before."""
    service = kept.service.lower()
    return buttons(f"See you tomorrow!\n{described(kept)}", f"Move my {service}", f"Cancel my {service}")


def visit(kept: Appointment) -> str:
    """Return the name of the reminder of an appointment."""
    return f"{kept.service} {kept.day} {kept.time}"


def planned(goals: list[Goal]) -> str:
    """Return the goals in a line."""
    return listed([" ".join(filter(None, (goal.service or "something", goal.day, goal.time))) for goal in goals])


def described(kept: Appointment) -> str:
    """Return an appointment in a line."""
    return f"• {kept.service} on {day_name(date.fromisoformat(kept.day))} at {kept.time}, {kept.reference}"


def prices(services: list[str]) -> str:
    """Return what services cost."""
    return "\n".join(f"• {name}: €{SERVICES[name].price}, {SERVICES[name].hours} h" for name in services)


def services_in(words: str) -> list[str]:
    """Return the services that are named, slips of the finger allowed when nothing else is said."""
    named = mentioned(words, [*SERVICES, *ALIASES]) or [found for found in [nearest(words, SERVICES)] if found]
    return list(dict.fromkeys(ALIASES.get(name, name) for name in named))
