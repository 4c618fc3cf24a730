"""Keys of conversations and ids of messages, as every store can keep them."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import ParamSpec, TypeVar, cast

from ..drivers.base import Key
from ..errors import BadKey, BadMessage, UsageError, is_utf8

P = ParamSpec("P")
T = TypeVar("T")

LONGEST_ID = 512

LONGEST_BY = 4 * LONGEST_ID
"""A name of who has made a change is no key: it is a label of 200 characters, say, of up to 800 bytes."""

RESERVED = "~"
"""Tenants and message ids that start with it are chatkeep's own."""

GUEST = "guest:"
"""Begins the name of somebody whom nobody knows: a visitor, or whoever has redeemed a share; it ends with the claim."""

SAVED = RESERVED
"""The channel of what a save has brought: messages of elsewhere, which nobody answers and no channel sends."""


def _remembered(check: Callable[P, T]) -> Callable[P, T]:
    """Return *check* with its last answers at hand."""
    known = cast("Callable[P, T]", lru_cache(maxsize=4096, typed=True)(check))

    @wraps(check)
    def answer(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return known(*args, **kwargs)
        except TypeError:  # no text, such as a list, and so without a hash; *check* says it
            return check(*args, **kwargs)

    return answer


@_remembered
def key_for(tenant: str, conversation: str) -> Key:
    """Return the key of a conversation. Raises `BadKey`."""
    for what, text in (("tenant", tenant), ("conversation id", conversation)):
        _refuse_unfit(what, text)
    if tenant.startswith(RESERVED):
        raise BadKey(f"Tenants that start with {RESERVED!r} are chatkeep's own ({tenant[:40]!r}); nothing was touched.")
    if not conversation:
        raise BadKey(
            f"The conversation id is empty (tenant {tenant!r}); nothing was touched. Give each conversation a name."
        )
    return Key(tenant, conversation)


@_remembered
def check_user(name: str) -> str:
    """Return the name of a user, an owner or a guest, if it can be stored everywhere. Raises `BadKey`."""
    _refuse_unfit("user's name", name)
    if not name:
        raise BadKey(
            "The user's name is empty; nothing was touched. Give the name that your application knows the user by."
        )
    return str.__str__(name)  # (a class of text is not stored everywhere)


def _refuse_unfit(what: str, text: str, longest: int = LONGEST_ID) -> None:
    if not isinstance(text, str):
        raise BadKey(f"The {what} must be text, not {type(text).__name__}; nothing was touched.")
    if "\0" in text or (not text.isascii() and not is_utf8(text)) or len(text.encode()) > longest:
        raise BadKey(
            f"The {what} {text[:40]!r} must be UTF-8 of at most {longest} bytes without NUL; nothing was touched."
        )


def check_by(by: str | None) -> str:
    """Return the name of who, or which device, has made a change, if it can be stored everywhere; "" and None are nobody's. Raises
    `BadKey`."""
    if by is None:
        return ""
    _refuse_unfit("name of a person or device (by)", by, LONGEST_BY)
    return str.__str__(by)


def check_slot(key: Key, slot: str) -> str:
    """Return the name of a member of the state, if a state can have it. Raises `BadMessage`."""
    if not isinstance(slot, str) or not is_utf8(slot):
        raise BadMessage(f"{key}: a slot is named by text, not {slot!r:.40}; nothing was touched.")
    return slot


def check_numbers(key: Key, *given: int) -> None:
    """Raise `UsageError` for what is no whole number: text such as "1" reads like one in an error that denies there is such a message."""
    for number in given:
        if not isinstance(number, int) or isinstance(number, bool):
            raise UsageError(
                f"{key}: entries of the log are named by whole numbers, and {number!r:.40} is {type(number).__name__}; nothing was done."
            )


def check_limits(key: Key | None = None, *, needed: bool = False, **given: int | None) -> None:
    """Raise `UsageError` for a number of items at most that is none. None stands for any number, where one is not *needed*."""
    for name, most in given.items():
        if most is None and not needed:
            continue
        if not isinstance(most, int) or isinstance(most, bool) or most < 0:
            where = f"{key}: " if key else ""
            raise UsageError(
                f"{where}{name} is how many there are at most, a whole number from 0 on, not {most!r:.40}; nothing was read."
            )


def message_id(key: Key, given: str) -> str:
    """Return *given*, if it can be stored everywhere. Raises `BadMessage`."""
    if isinstance(given, str) and given.isascii() and 0 < len(given) <= LONGEST_ID and "\0" not in given:
        return given
    if (
        not isinstance(given, str)
        or not given
        or "\0" in given
        or not is_utf8(given)
        or len(given.encode()) > LONGEST_ID
    ):
        raise BadMessage(
            f"{key}: a message id is text, 1 to {LONGEST_ID} bytes of UTF-8 without NUL, not {given!r:.60}; nothing was touched."
        )
    return given


def refuse_reserved(key: Key, id: str | None) -> None:
    """Raise `BadMessage` for a message id that is chatkeep's own."""
    if isinstance(id, str) and id.startswith(RESERVED):
        raise BadMessage(
            f"{key}: message ids that start with {RESERVED!r} are chatkeep's own ({id[:60]!r}); nothing was touched."
        )


def way_out(key: Key) -> str:
    """Return what can be done about a record under *key* that is damaged, in words that end a sentence: nobody can erase chatkeep's own
    records as a conversation is erased."""
    if not key.tenant.startswith(RESERVED):
        return "restore it or erase the conversation"
    place = key.id if key.tenant == RESERVED + "chatkeep" else key.tenant[1:].partition(":")[0]
    return _WAYS_OUT.get(place, "restore it from a backup of the store")


_WAYS_OUT = {
    "switches": "`chatkeep pause STORE --everywhere` or `chatkeep resume STORE --everywhere` writes it anew (pause_all, resume_all)",
    "versions": "`chatkeep canary STORE VERSION SHARE` writes it anew (set_canary)",
    "clock": "the processes on the store write it anew after an hour",
    "holds": "`chatkeep hold` of the same writes it anew, `chatkeep unhold` removes it",
    "accounts": "`chatkeep accounts remove` removes it, then add the account again",
    "access": "revoke the credential and make another",
    "replies": "delete the canned reply at the desk and write it again",
}
"""What writes a record of chatkeep's own anew, or removes it, by its name or its space."""
