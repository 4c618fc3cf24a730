"""A tutor desk: search by subject and level, a match, a booking form slot by slot.

Search, the tutors shown so far, the match and the half-filled form are all in `Desk`, so "show me other tutors" and the form's next
question work from the state alone, also after a refresh or on another device. The bot is an async generator: what it
tells at length it tells word by word, and the words make one reply.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from datetime import date, timedelta
from typing import Any, Literal, NamedTuple, cast

from msgspec import Struct, field

from ..app import Chatkeep
from ..engine.turn import Turn
from ..model import Part
from .words import (
    buttons,
    contact_in,
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

SUBJECTS = ("math", "physics", "chemistry", "English")
SYNONYMS = {"mathematics": "math", "algebra": "math", "geometry": "math", "calculus": "math", "writing": "English"}
LEVELS = {name: name for name in ("primary", "high school", "university")}
LEVELS |= {"elementary": "primary", "secondary": "high school", "college": "university"}
TIMES = ("15:00", "16:30", "18:00")
SHOWN = 3
"""Tutors at a time."""

KEPT = 20
"""Bookings that are remembered."""


class Tutor(NamedTuple):
    """Somebody who teaches."""

    name: str
    subjects: tuple[str, ...]
    levels: tuple[str, ...]
    price: int
    about: str


TUTORS = (
    Tutor("Maya Lind", ("math", "physics"), ("high school", "university"), 38,
          "She draws before she calculates, and makes you explain it back."),
    Tutor("Jonas Weber", ("math",), ("primary", "high school"), 29,
          "He was afraid of fractions once and has not forgotten how that feels."),
    Tutor("Priya Nair", ("math", "chemistry"), ("high school",), 34,
          "She begins with last week's mistakes and ends with an exam question."),
    Tutor("Tomas Silva", ("math", "physics"), ("high school",), 31,
          "He brings springs, marbles and a stopwatch."),
    Tutor("Ada Okoro", ("math",), ("high school", "university"), 45,
          "She teaches proofs as stories with a surprise in them."),
    Tutor("Lena Fischer", ("English",), ("primary", "high school"), 27,
          "She reads aloud, slowly, and lets you finish the sentence."),
    Tutor("Sam Whitaker", ("English",), ("high school", "university"), 36,
          "He cuts your essay in half and hands you the scissors."),
    Tutor("Noor Haddad", ("chemistry", "physics"), ("university",), 42,
          "She starts from the units; the formula follows."),
    Tutor("Elif Demir", ("math", "English"), ("primary",), 25,
          "She has a game for every table from two to twelve."),
)  # fmt: skip
BY_NAME = {tutor.name: tutor for tutor in TUTORS}

Slot = Literal["day", "time", "student", "contact"]
QUESTIONS: dict[Slot, str] = {
    "day": "Which day suits you?",
    "time": "At what time?",
    "student": "What is the student's name?",
    "contact": "Where can we reach you? An email address or a phone number.",
}


class Booking(Struct):
    """The form, and once it has a reference, the booking."""

    tutor: str = ""
    day: str = ""
    time: str = ""
    student: str = ""
    contact: str = ""
    reference: str = ""


class Desk(Struct):
    """All that the bot knows of one visitor. *shown*: tutors of this search seen so far; *offered*: those on the table now."""

    subject: str = ""
    level: str = ""
    shown: list[str] = field(default_factory=list)
    offered: list[str] = field(default_factory=list)
    form: Booking = field(default_factory=Booking)
    booked: list[Booking] = field(default_factory=list)


def build(url: str, *, pace_s: float = 0.02, **options: Any) -> Chatkeep[Desk]:
    """Return the tutor desk on the store *url*; longer answers come a word every *pace_s*. A search is kept for a day."""
    keep = Chatkeep(url, state=Desk, **({"session_ttl": "24h"} | options))

    @keep.on_message
    async def bot(turn: Turn[Desk]) -> AsyncIterator[str]:
        """Answer one message: text is streamed, choices come whole. A form that is left half filled is asked about once."""
        if turn.reminder:
            turn.reply([next_step(turn.state, today(turn), "Shall we finish your booking?")])
            return
        said = answer(turn.state, heard(turn), today=today(turn), new=reference("TD", turn))
        if turn.state.form.tutor:
            turn.remind("2h", "booking")
        if isinstance(said, dict):
            turn.reply([said])
            return
        # The answer is the same each time, so a turn that is tried again goes on where the last try ended.
        for word in re.findall(r"\S+\s*", said[len(turn.said) :]):
            yield word
            await asyncio.sleep(pace_s)

    return keep


HELP = (
    "I find tutors for math, physics, chemistry and English. Say what you need, such as “a math tutor for high school”. "
    "Then: a tutor's name, “show me other tutors”, “about Maya”, “change day to friday”, my bookings, new search."
)


def answer(desk: Desk, said: str, *, today: date, new: str) -> str | Part:
    """Take what was *said* into the desk and say what to say. *new* is the reference of a booking made by it."""
    if trouble := unreadable(said):
        return trouble
    words = plain(said)
    return obey(desk, words, today=today, new=new) or look(desk, words, today) or take(desk, said, words, today)


def obey(desk: Desk, words: str, *, today: date, new: str) -> str | Part:
    """Answer what is a command as it stands; "" for anything else."""
    form = desk.form
    match words:
        case "help" | "hi" | "hello" | "hey" | "start":
            return next_step(desk, today, HELP)
        case "new search" | "start over" | "restart":
            desk.subject = desk.level = ""
            desk.shown, desk.offered = [], []
            let_go(desk)
            return next_step(desk, today)
        case "my bookings" | "bookings" | "status":
            lines = [f"• {booking.reference}: {described(booking)}" for booking in desk.booked]
            return next_step(desk, today, "\n".join(lines) or "You have no bookings yet.")
        case "confirm" | "yes" | "ok" | "book" if form.tutor and not missing(form):
            form.reference = new
            desk.booked = [*desk.booked, form][-KEPT:]
            let_go(desk)
            return buttons(f"Booked: {described(form)}. Your reference is {new}.", "My bookings", "New search")
        case "no" | "cancel" if form.tutor:
            let_go(desk)
            return next_step(desk, today, f"{form.tutor} is not booked.")
    return ""


def look(desk: Desk, words: str, today: date) -> str | Part:
    """Show the tutors, or the tutor, that *words* ask for; "" where they ask for none."""
    if re.search(r"\b(other|another|more|different|next)\b.*\b(tutors?|ones?|people)\b|^(others?|more|next)$", words):
        desk.form.tutor = ""
        return show(desk) if fitting(desk) else next_step(desk, today)
    if about := re.match(r"(?:tell me (?:more )?about|who is|about) (.+)", words):
        name = tutor_in(desk, about[1])
        return profile(BY_NAME[name]) if name else next_step(desk, today, f"I know nobody called “{about[1][:60]}”.")
    return ""


def take(desk: Desk, said: str, words: str, today: date) -> str | Part:
    """Take what was *said*, in plain *words*, into the form, or as what is searched for."""
    form = desk.form
    if change := re.match(r"change (?:the |my )?(day|time|student|name|contact)\b(?: to | )?", words):
        slot = cast(Slot, {"name": "student"}.get(change[1], change[1]))
        setattr(form, slot, "")
        return next_step(
            desk, today, fill(form, slot, said[change.end() :].strip(), today) if words[change.end() :] else ""
        )
    slot_asked = missing(form) if form.tutor else ""
    if mentioned(words, [*SUBJECTS, *SYNONYMS]) or (mentioned(words, LEVELS) and not slot_asked):
        return search(desk, words) or next_step(desk, today)
    if slot_asked in ("student", "contact") or (slot_asked and (day_in(words, today) or time_in(words))):
        return next_step(desk, today, fill(form, slot_asked, said, today))
    if name := tutor_in(desk, words):
        form.tutor = name
        return next_step(desk, today, f"{name}, a good choice.")
    return next_step(desk, today, f"I did not get “{said[:60]}”. {HELP}")


def search(desk: Desk, words: str) -> str | Part:
    """Look for tutors as soon as subject and level are known; "" while one of them is missing."""
    subject = next((SYNONYMS.get(name, name) for name in mentioned(words, [*SUBJECTS, *SYNONYMS])), desk.subject)
    level = next((LEVELS[name] for name in mentioned(words, LEVELS)), desk.level)
    desk.subject, desk.level, desk.shown, desk.offered, desk.form.tutor = subject, level, [], [], ""
    return show(desk) if subject and level else ""


def show(desk: Desk) -> Part:
    """Return the next tutors that fit, from the first again when all have been seen."""
    fits = fitting(desk)
    if not fits:
        levels = sorted({level for tutor in TUTORS if desk.subject in tutor.subjects for level in tutor.levels})
        desk.level = ""
        return buttons(
            f"Nobody teaches {desk.subject} at that level here. There is {listed(levels)}.", *levels, "New search"
        )
    fresh = [tutor for tutor in fits if tutor.name not in desk.shown]
    first = "These fit" if fresh and not desk.shown else "There are also" if fresh else "You have seen all; once more"
    offered = (fresh or fits)[:SHOWN]
    desk.offered = [tutor.name for tutor in offered]
    desk.shown = (desk.shown if fresh else []) + desk.offered
    lines = [f"• {tutor.name}, €{tutor.price} an hour" for tutor in offered]
    others = ["Show other tutors"] if len(fits) > SHOWN else []
    return buttons(
        f"{first} ({desk.subject}, {desk.level}):\n" + "\n".join(lines), *desk.offered, *others, "New search"
    )


def fitting(desk: Desk) -> list[Tutor]:
    """Return the tutors who teach what is looked for."""
    return [tutor for tutor in TUTORS if desk.subject in tutor.subjects and desk.level in tutor.levels]


def tutor_in(desk: Desk, words: str) -> str:
    """Return the tutor who is named, by name, first name, or place in the list that was offered; "" when none is."""
    firsts = {tutor.name.split()[0]: tutor.name for tutor in TUTORS}
    places = dict(zip(("first", "second", "third"), desk.offered, strict=False))
    if named := mentioned(words, [*BY_NAME, *firsts]):
        return firsts.get(named[0], named[0])
    if placed := mentioned(words, places):
        return places[placed[0]]
    return nearest(words, BY_NAME)


def profile(tutor: Tutor) -> str:
    """Return a few sentences about somebody."""
    return (
        f"{tutor.name} teaches {listed(tutor.subjects)} at {listed(tutor.levels)} level, for €{tutor.price} an hour. "
        f"{tutor.about} Say “{tutor.name}” to book a lesson, or “show me other tutors”."
    )


def missing(form: Booking) -> Slot | Literal[""]:
    """Return the first slot of the form that is empty."""
    return next((slot for slot in QUESTIONS if not getattr(form, slot)), "")


def fill(form: Booking, asked: Slot | Literal[""], said: str, today: date) -> str:
    """Write what was *said* into the form; gives what is wrong with it, or ""."""
    if asked == "contact":
        form.contact = contact_in(said)
        return "" if form.contact else "That is no email address or phone number."
    if asked == "student":
        form.student = said if len(said) < 60 else ""
        return "" if form.student else "That is a long name; a first name will do."
    day, time = day_in(said, today), time_in(said)
    if day and not (today < day <= today + timedelta(days=14) and day.weekday() < 6):
        return f"{day_name(day)} is not possible. Lessons are on Monday to Saturday, within two weeks."
    if time and time not in TIMES:
        return f"There is nothing at {time}. Lessons begin at {listed(TIMES)}."
    form.day = day_name(day) if day else form.day
    form.time = time or form.time
    return "" if day or time else f"I did not get “{said[:60]}”."


def next_step(desk: Desk, today: date, first: str = "") -> Part:
    """Return what to ask next; *first* is said before."""
    form, labels = desk.form, list[str]()
    if form.tutor:
        slot = missing(form)
        text = f"{QUESTIONS[slot]}" if slot else f"{described(form)}. Say “confirm” to book, or “change day”."
        if slot == "day":
            days = [today + timedelta(days=ahead) for ahead in range(1, 6)]
            labels = [day_name(day) for day in days if day.weekday() < 6][:3]
        elif slot == "time":
            labels = [*TIMES]
        elif not slot:
            labels = ["Confirm", "Change day", "Change time", "Cancel"]
        labels.append("Show other tutors")
    elif not desk.subject:
        text, labels = "Which subject?", [*SUBJECTS]
    elif not desk.level:
        text, labels = f"{desk.subject.capitalize()}, for which level?", [*dict.fromkeys(LEVELS.values())]
    else:
        text = f"Whom would you like for {desk.subject}? Say a name, or “show me other tutors”."
        labels = [*desk.offered, "Show other tutors", "New search"]
    return buttons(f"{first}\n{text}" if first else text, *labels)


def let_go(desk: Desk) -> None:
    """Nobody is chosen any more; who it is for stays known."""
    desk.form = Booking(student=desk.form.student, contact=desk.form.contact)


def described(form: Booking) -> str:
    """Return the booking in a line."""
    return f"{form.tutor} on {form.day} at {form.time} for {form.student} ({form.contact})"
