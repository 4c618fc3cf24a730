"""Reminders: which stand after a turn, and the event that each becomes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from ..model import Message
from .keys import RESERVED
from .record import Reminder
from .snapshots import NOTHING, Draft


def keep_reminders(
    old: tuple[Reminder, ...], passed: Sequence[Message | Draft], set_now: Mapping[str, Reminder | None] = NOTHING
) -> tuple[Reminder, ...]:
    """Return the reminders that stand when the cursor has *passed* these messages, answered or not: a user who writes needs no
    reminding, but for those to be kept."""
    wrote = any(message.role == "user" for message in passed)
    kept = {reminder.name: reminder for reminder in old if reminder.keep or not wrote}
    return tuple(reminder for reminder in {**kept, **set_now}.values() if reminder is not None)


def ring_reminder(reminder: Reminder, head: int) -> Draft:
    """Return the event that a reminder brings to a log of so many entries. Its id lets it come only once, whoever brings it."""
    part = {"type": "reminder", "name": reminder.name, "data": msgspec.json.decode(reminder.data)}
    name = f"{RESERVED}reminder:{round(reminder.at * 1000)}.{head}:{reminder.name}"
    return Draft(role="event", content=[part], id=name)
