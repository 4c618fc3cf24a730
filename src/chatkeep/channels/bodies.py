"""Platforms' JSON, made safe to keep, item by item: one that cannot be read never spoils the others."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec
from msgspec import structs

from .base import Inbound, Received, Unknown

DEEPEST = 24
THINGS_MOST = 300_000
"""Brackets and commas of a body that is read: a platform's 3 MB full of messages have half as many, and each takes microseconds."""

TOGETHER = 100
"""So many things of one conversation that cannot be read are a note of their own each; of more, so many are one note. Each is written."""

LONGEST_ID = 256
EXACT = 2**53
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")

FAULTS = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
    msgspec.ValidationError,
)
"""What reading an item of another shape than published may raise."""


def storable(value: Any, depth: int = 0) -> Any:
    """Return *value* with what no store can hold (NUL, half characters, numbers without end) replaced by what it can."""
    if isinstance(value, str):
        return _UNSTORABLE.sub("\ufffd", value)
    if isinstance(value, dict | list) and depth == DEEPEST:
        return "(nested too deeply)"
    if isinstance(value, dict):
        return {storable(name): storable(item, depth + 1) for name, item in value.items()}
    if isinstance(value, list):
        return [storable(item, depth + 1) for item in value]
    if isinstance(value, float) and not (math.isfinite(value) and abs(value) <= EXACT):
        return str(value)
    if isinstance(value, int) and abs(value) > EXACT:
        return str(value)
    return value


def items(body: bytes, read: Callable[[dict[str, Any]], Iterator[Inbound]]) -> list[Inbound]:
    """Return what *read* finds in a body that is a JSON object; one `Unknown` for any other, and for one of too many things."""
    try:
        if sum(map(body.count, (b"{", b"[", b","))) > THINGS_MOST:
            raise ValueError(f"it has more than {THINGS_MOST:,} brackets and commas")
        plain = storable(json.loads(body))
    except (ValueError, RecursionError) as fault:
        text = storable(body.decode("utf-8", "replace"))
        return [Unknown(reason=f"it cannot be read: {fault}", raw=text, id=fingerprint(text))]
    return together(list(each([plain], read)))


def together(found: list[Inbound]) -> list[Inbound]:
    """Return *found*, where one conversation has more than TOGETHER things that cannot be read with these put together, at its end."""
    notes = defaultdict[Any, list[Unknown]](list)
    for one in found:
        if isinstance(one, Unknown):
            notes[one.account, one.conversation, one.to, one.names, one.former].append(one)
    if all(len(ones) <= TOGETHER for ones in notes.values()):
        return found
    read: list[Inbound] = [one for one in found if not isinstance(one, Unknown)]
    for ones in notes.values():
        for at in range(0, len(ones), TOGETHER):
            some = ones[at : at + TOGETHER]
            raw = [one.raw for one in some]
            whole = structs.replace(some[0], raw=raw, id=fingerprint([one.id for one in some]))
            read += some if len(ones) <= TOGETHER else [whole]
    return read


def each(
    found: Any, read: Callable[[dict[str, Any]], Iterable[Inbound]], *, account: str = "", conversation: str = ""
) -> Iterator[Inbound]:
    """Return what *read* makes of each of the items; those that it cannot read, and what is no list of objects, are `Unknown`."""
    for item in found if isinstance(found, list) else [found]:
        try:
            if not isinstance(item, dict):
                raise TypeError(f"an object was expected, not {type(item).__name__}")
            for one in read(item):
                if isinstance(one, Received) and storable(one.content) != one.content:
                    raise ValueError("it has a number that no store can hold")  # made of a text, or of a longer number
                yield one
        except FAULTS as fault:
            reason = f"there is no {fault}" if isinstance(fault, KeyError) else str(fault)
            yield unknown(item, reason, account=account, conversation=conversation)


def unknown(item: Any, reason: str, *, account: str = "", conversation: str = "", id: str = "") -> Unknown:
    """Return an item that is kept and shown as it came."""
    return Unknown(reason=reason, raw=item, id=id or fingerprint(item), account=account, conversation=conversation)


def fingerprint(item: Any) -> str:
    """Return an id for what has none: the same for the same content."""
    text = json.dumps(item, sort_keys=True, ensure_ascii=True)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def name(value: Any) -> str:
    """Return an id from a platform, fit to name something. Raises ValueError: two ids must not become one by being cleaned."""
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str) or not text or len(text.encode()) > LONGEST_ID or text.startswith("~"):
        raise ValueError(f"an id is 1 to {LONGEST_ID} bytes of text that does not begin with ~, not {text!r:.60}")
    if "\ufffd" in text or not text.isprintable():
        raise ValueError(f"the id {text!r:.60} holds what cannot be printed")
    return text


def filled(**members: Any) -> dict[str, Any]:
    """Return the members that say something."""
    return {member: value for member, value in members.items() if value not in (None, "", [], {})}
