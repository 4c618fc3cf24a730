"""What the demo bots share: reading what people write, and showing choices as buttons."""

from __future__ import annotations

import base64
import hashlib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from difflib import get_close_matches
from typing import Any

from ..engine.turn import Turn
from ..model import Part

LONGEST = 300
"""Characters that a bot reads of one message."""

NUMBERS = {"a": 1, "an": 1, "another": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "ten": 10}
WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


def heard(turn: Turn[Any]) -> str:
    """Return what the user wrote, on one line."""
    return " ".join(turn.text.split())


def unreadable(said: str) -> str:
    """Return what to answer when there is nothing to read, or too much; "" when *said* is fine."""
    if not plain(said):
        return "I can only read words. Say “help” to see what I understand."
    return "That is a lot to read at once. Please say it in fewer words." if len(said) > LONGEST else ""


def plain(text: str) -> str:
    """Return *text* as the bots compare it: small letters, no accents, no punctuation at its ends."""
    # (More is not answered, and to put many accents in a row in order takes the square of their number.)
    bare = "".join(mark for mark in unicodedata.normalize("NFKD", text[:LONGEST]) if not unicodedata.combining(mark))
    return " ".join(bare.casefold().replace("\u2019", "'").split()).strip(" .,:;!?")


def buttons(text: str, *labels: str) -> Part:
    """Return *text* with choices under it, if there are any. A button's id is its label as `plain` gives it: to press is to say."""
    choices = [{"id": plain(label), "text": label} for label in labels]
    return {"type": "buttons", "text": text, "buttons": choices} if choices else {"type": "text", "text": text}


def nearest(name: str, names: Iterable[str]) -> str:
    """Return the one of *names* that *name* means: itself, its beginning, or nearly; "" when there is none."""
    known = {plain(each): each for each in names}
    name = plain(name)
    starts = [each for each in known if len(name) > 3 and each.startswith(name)]
    close = starts or get_close_matches(name, known, n=1, cutoff=0.75)
    return known[name] if name in known else known[close[0]] if close else ""


def mentioned(text: str, names: Iterable[str]) -> list[str]:
    """Return those of *names* that *text* speaks of, word for word, in its order. Of two that overlap, the longer one."""
    text, found = plain(text), dict[int, str]()
    for name in sorted(names, key=len, reverse=True):
        for place in re.finditer(rf"\b{re.escape(plain(name))}s?\b", text):
            found[place.start()] = name
            text = text[: place.start()] + "\0" * len(place[0]) + text[place.end() :]
    return list(dict.fromkeys(found[place] for place in sorted(found)))


def listed(names: Sequence[str]) -> str:
    """Return the names as one says them: "a, b and c"."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def reference(prefix: str, turn: Turn[Any]) -> str:
    """Return a reference such as BN-7KQ2MX: made of the turn's id, so the same however often the turn is tried."""
    digest = hashlib.sha256(f"{turn.tenant}\0{turn.conversation}\0{turn.id}".encode()).digest()
    return f"{prefix}-{base64.b32encode(digest).decode()[:6]}"


def today(turn: Turn[Any]) -> date:
    """Return the day the message was written (UTC). A turn that is tried again tomorrow still means the same "tomorrow"."""
    return datetime.fromtimestamp(turn.message.created_at, UTC).date()


def day_in(text: str, today: date) -> date | None:
    """Return the day that *text* names: today, tomorrow, a weekday (the next one), or 2026-11-23."""
    text = plain(text)
    if said := re.search(r"\b\d{4}-\d\d-\d\d\b", text):
        try:
            return date.fromisoformat(said[0])
        except ValueError:
            return None
    if named := mentioned(text, ("today", "tomorrow")):
        return today + timedelta(days=named[0] == "tomorrow")
    if named := [day for day in WEEKDAYS if re.search(rf"\b{day[:3]}({day[3:]})?\b", text)]:
        return today + timedelta(days=(WEEKDAYS.index(named[0]) - today.weekday() - 1) % 7 + 1)
    return None


def time_in(text: str) -> str:
    """Return the time that *text* names ("10:30", "3pm", "at 15"), as HH:MM; "" when it names none."""
    text = re.sub(r"\S+-\S+", "", plain(text)).strip()  # a date has numbers too
    for said in re.finditer(r"\b(at )?([0-9]{1,2})(?:[:.]([0-5][0-9]))? ?(am|pm)?\b", text):
        hour, half = int(said[2]), said[4]
        if not (said[1] or said[3] or half or said[0] == text):
            continue  # a number, of something else
        if half:
            hour = hour % 12 + 12 * (half == "pm") if 1 <= hour <= 12 else 24
        return f"{hour:02}:{said[3] or '00'}" if hour < 24 else ""
    return ""


def day_name(day: date) -> str:
    """Return a day as people say it, with its date, so that it can be said back: "Tue 2026-11-24"."""
    return f"{WEEKDAYS[day.weekday()][:3].title()} {day.isoformat()}"


def contact_in(text: str) -> str:
    """Return the email address or phone number in *text*; "" when there is none."""
    said = re.search(r"[\w.+-]+@[\w-]+(\.[\w-]+)+|\+?[0-9][0-9 ()/.-]{5,20}[0-9]", text)
    return said[0] if said else ""
