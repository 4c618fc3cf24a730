"""Durations and rates, as people write them and as they are told."""

from __future__ import annotations

import re
from datetime import timedelta

Duration = str | int | float | timedelta

EXAMPLES = '"30s", "2m", "24h", "90d" or "250ms"'

UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


def seconds(duration: Duration) -> float:
    """Return the seconds in "30m", "1.5h", "250ms", "7d", a timedelta or a plain number. Raises ValueError."""
    if isinstance(duration, timedelta):
        found = duration.total_seconds()
    elif isinstance(duration, int | float) and not isinstance(duration, bool):
        found = float(duration)
    elif isinstance(duration, str) and (parts := re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", duration.strip())):
        found = float(parts[1]) * UNITS[parts[2]]
    else:
        number = "" if isinstance(duration, str) else ", or seconds as a number"
        raise ValueError(f"{duration!r} is not a duration; write {EXAMPLES}{number}")
    if not 0 <= found < 1e9:
        raise ValueError(f"{duration!r} is out of range")
    return found


def rate_of(rate: object) -> tuple[int, float] | None:
    """Return how many, and within how many seconds, "30/minute" means; None for "off". Raises ValueError."""
    if rate == "off":
        return None
    parts = re.fullmatch(
        r"\s*([1-9][0-9]{0,8})\s*/\s*(second|minute|hour|day)\s*", rate if isinstance(rate, str) else ""
    )
    if parts is None:
        raise ValueError(f'{rate!r} is not a rate; write "30/minute" ("/second", "/hour", "/day"), or "off"')
    return int(parts[1]), UNITS[parts[2][0]]


def duration_fault(duration: object, source: str) -> str:
    """Return what is wrong with a duration that came from *source*; "" when nothing is.

    Only a program may leave the unit out: it passes a number, and its documentation says that those are seconds. Whoever
    writes 30000 into a variable or a file may mean milliseconds.
    """
    if source and isinstance(duration, int | float) and not isinstance(duration, bool):
        duration = str(duration)
    if isinstance(duration, str) and re.fullmatch(r"\s*\d+(\.\d+)?\s*", duration):
        return f"{duration!r} has no unit; write {EXAMPLES}"
    try:
        seconds(duration)  # type: ignore[arg-type]
    except ValueError as fault:
        return str(fault)
    return ""


def in_words(duration: Duration) -> str:
    """Return a duration as people say it, by its two largest units: "8 hours 20 minutes"; one in seconds may be as long as it is."""
    left = round((duration if isinstance(duration, int | float) else seconds(duration)) * 1000)
    parts: list[str] = []
    for size, unit in (
        (86_400_000, "day"),
        (3_600_000, "hour"),
        (60_000, "minute"),
        (1000, "second"),
        (1, "millisecond"),
    ):
        count, left = divmod(left, size)
        if count and len(parts) < 2:
            parts.append(f"{count:,} {unit}{'s' * (count != 1)}")
    return " ".join(parts) or "0 seconds"
