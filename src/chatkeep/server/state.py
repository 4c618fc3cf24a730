"""The state of a conversation as a resource: its value as plain JSON, its ETag, its slots, and edits that look first.

Every edit is a function that `Tenant.change` applies in one act, on top of whatever was written meanwhile; the
precondition is looked at inside it, so that two writers can never both win from the same ETag.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import UNSET, Struct

from ..conversation.shapes import Shape, Unfit, told, unknown
from .wire import Refused

Edit = Callable[[Any], Any]
"""Plain JSON, UNSET for what is not there, to plain JSON."""


def state_from(plain: Any, shape: Shape[Any]) -> Any:
    """Return the application's state in *plain*. Raises `Refused` when it does not fit, or has a member that the state has not."""
    try:
        try:
            made = shape.decode(msgspec.json.encode(plain))
        except Exception:
            plain = _without_points(plain)
            made = shape.decode(msgspec.json.encode(plain))
        lost = unknown(plain, made, shape.json_of(made))
    except Unfit as unfit:
        raise Refused(422, "bad-state", f"That does not fit the state: {unfit!s:.500}. Nothing was changed.") from None
    except Exception as fault:  # the application's own types may raise anything
        raise Refused(
            422, "bad-state", f"That does not fit the state: {told(fault):.500}. Nothing was changed."
        ) from None
    if lost:
        raise Refused(422, "bad-state", f"The state has no slot {lost:.100}. Nothing was changed.")
    return made


def _without_points(plain: Any) -> Any:
    # 47.0 is the whole number 47 to JSON, and some clients write all numbers like that.
    if isinstance(plain, dict):
        return {name: _without_points(value) for name, value in plain.items()}
    if isinstance(plain, list):
        return [_without_points(value) for value in plain]
    return int(plain) if isinstance(plain, float) and plain.is_integer() else plain


def member(plain: Any, slot: str | None) -> Any:
    """Return what is in *slot*, or all of it; UNSET when there is no such slot."""
    if slot is None:
        return plain
    return plain.get(slot, UNSET) if isinstance(plain, dict) else UNSET


def canonical(plain: Any) -> bytes:
    """Return the one way to write *plain* as JSON."""
    return msgspec.json.encode(plain, order="sorted")


def etag(plain: Any, secret: bytes) -> str:
    """Return the strong entity tag of a value: the same exactly when the value is.

    Made with a *secret* of the store: else whoever may write and not read could find out by If-Match whether they guess right.
    """
    return f'"{hashlib.blake2b(canonical(plain), digest_size=12, key=secret).hexdigest()}"'


def merged(target: Any, patch: Any) -> Any:
    """Return *target* with *patch* merged into it as RFC 7396 has it; both stay as they are."""
    if not isinstance(patch, dict):
        return patch
    found = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            found.pop(name, None)
        else:
            found[name] = merged(found.get(name), value)
    return found


class Precondition(Struct, frozen=True):
    """What must hold for a write: If-Match and If-None-Match, as `wire.tags` reads them; *secret*: of the tags, see `etag`."""

    match: set[str] | None
    none_match: set[str] | None
    secret: bytes

    def clears(self, slot: str | None) -> bool:
        """Tell whether *slot*, or the whole state, may be cleared whatever is in it."""
        return self.none_match is None and (self.match is None or (slot is None and self.match == {"*"}))

    def holds(self, there: Any) -> bool:
        """Tell whether it holds for the value that is *there* (UNSET: none is)."""
        tag = None if there is UNSET else etag(there, self.secret)
        fits = self.match is None or (tag is not None and (tag in self.match or "*" in self.match))
        return fits and not (self.none_match is not None and tag is not None and is_in(tag, self.none_match))


def is_in(tag: str, tags: set[str]) -> bool:
    """Tell whether one of *tags* means the value with *tag*, compared weakly, as If-None-Match does."""
    return "*" in tags or tag in tags or f"W/{tag}" in tags


def look_for(precondition: Precondition, slot: str | None, *, shape: Shape[Any], shows: bool) -> Callable[[Any], Any]:
    """Return a look at a state of that *shape*: gives it as plain JSON if the precondition holds for it, or for its *slot*.

    Raises `Refused` when it does not hold, with the value that is there, if the client is one to whom it *shows*.
    """

    def look(state: Any) -> Any:
        plain = shape.json_of(state)
        there = member(plain, slot)
        if not precondition.holds(there):
            # An ETag is made of the value, so it is told only to whom the value is shown.
            told: dict[str, Any] = {"etag": None, "state": None} if shows else {}
            if shows and there is not UNSET:
                told = {"etag": etag(there, precondition.secret), "state": there}
            said = "The state is not the one that this change was made for; nothing was changed. Change the one that is there now."
            if there is UNSET:
                said = f"There is no slot {slot!r:.80} now; nothing was changed. `If-None-Match: *` puts one there."
            raise Refused(412, "precondition-failed", said, **told)
        return plain

    return look


def guarded(
    edit: Edit, precondition: Precondition, slot: str | None, *, shape: Shape[Any], shows: bool
) -> Callable[[Any], Any]:
    """Return *edit*, on the whole state of that *shape* or on one *slot*, for `Tenant.change`.

    Raises `Refused`, and so changes nothing, as `look_for` says, or when the result does not fit.
    """
    look = look_for(precondition, slot, shape=shape, shows=shows)

    def apply(state: Any) -> Any:
        plain = look(state)
        changed = edit(member(plain, slot))
        if slot is None:
            return state_from(changed, shape)
        if not isinstance(plain, dict):
            raise Refused(422, "bad-state", "The state is not an object, so it has no slots. Nothing was changed.")
        return state_from(plain | {slot: changed}, shape)

    return apply
