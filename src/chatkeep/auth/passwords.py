"""Passwords of people: hashed by argon2id, compared in a thread, so that nobody else waits."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import UsageError
from ..extras import from_extra
from ..offload import OfEachLoop, offload

if TYPE_CHECKING:
    from argon2 import PasswordHasher

T = TypeVar("T")

SHORTEST = 12
LONGEST = 1024

AT_ONCE = 2
"""So many passwords are compared at once: each takes 64 MB, and whoever likes may ask."""

WAITING_MOST = 32
"""So many more wait for their turn; who comes then is told at once."""


class Busy(Exception):
    """As many passwords wait to be compared as may; this one was not looked at."""


class _Places:
    """What bounds the comparisons of one event loop."""

    def __init__(self) -> None:
        self._places = asyncio.Semaphore(AT_ONCE)
        self._count = 0

    async def run(self, work: Callable[..., T], *given: Any) -> T:
        """Return what *work* answers, in a thread. Raises `Busy`."""
        if self._count >= AT_ONCE + WAITING_MOST:
            raise Busy
        self._count += 1
        try:
            async with self._places:
                return await offload(work, *given)
        finally:
            self._count -= 1


_places = OfEachLoop(_Places)


@cache
def _hasher() -> PasswordHasher:
    # Loaded when the first password is seen: a server without accounts does without.
    with from_extra("server", "An account with a password"):
        from argon2 import PasswordHasher as Hasher
    return Hasher()


def make_password() -> str:
    """Make a password that nobody has to think of: 120 bits, in groups that can be read out."""
    letters = "abcdefghjkmnpqrstuvwxyz23456789"
    return "-".join("".join(secrets.choice(letters) for _ in range(6)) for _ in range(4))


def check_password(text: str) -> str:
    """Return *text* if it may be a password. Raises `UsageError`."""
    if not SHORTEST <= len(text) <= LONGEST:
        raise UsageError(
            f"A password has {SHORTEST} to {LONGEST} characters; this one has {len(text)}. Nothing was changed."
        )
    return text


async def hash_password(text: str) -> str:
    """Return what is stored of a password. Raises `UsageError` for one that is too short or too long."""
    checked = check_password(text)
    return await _places.of_now().run(_hasher().hash, checked)


async def is_password(text: str, hashed: str) -> bool:
    """Tell whether *text* is the password of which *hashed* is stored. With "" for *hashed* it takes as long, and is False.

    Raises `Busy` where too many ask.
    """
    against = hashed or await _decoy()
    same = await _places.of_now().run(_compare, against, text[: LONGEST + 1])
    return same and bool(hashed)


async def _decoy() -> str:
    """Return the hash of a password that nobody knows: an account that is not there must not answer sooner than one that is."""
    global _hashed
    if not _hashed:
        _hashed = await _places.of_now().run(_hasher().hash, secrets.token_hex())
    return _hashed


_hashed = ""


def _compare(hashed: str, text: str) -> bool:
    with from_extra("server", "An account with a password"):
        from argon2.exceptions import InvalidHashError, VerificationError
    try:
        return _hasher().verify(hashed, text)
    except (VerificationError, InvalidHashError):
        return False
