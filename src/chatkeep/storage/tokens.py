"""Random tokens for revisions, leases and ids."""

from __future__ import annotations

import os
import random
import secrets
from binascii import b2a_base64

_URLSAFE = bytes.maketrans(b"+/", b"-_")
_DRAWN = 64
_random = random.Random(secrets.token_bytes(32))
_tokens: list[str] = []  # drawn at once and used one by one: drawn singly, each would cost a turn 1 %


def _draw_anew() -> None:
    _random.seed(secrets.token_bytes(32))
    _tokens.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_draw_anew)


def fresh_token() -> str:
    """Return a random token for a revision, lease or id: 72 bits, unique, and no secret (asking the system costs 10 us)."""
    while True:
        try:
            return _tokens.pop()
        except IndexError:  # (another thread may take them as well)
            drawn = b2a_base64(_random.randbytes(9 * _DRAWN), newline=False).translate(_URLSAFE).decode()
            _tokens.extend([drawn[place : place + 12] for place in range(0, len(drawn), 12)])
