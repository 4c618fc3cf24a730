"""How credentials are written: `ck_`, a kind (k service key, c conversation token, h share, u user token), 256 random bits and a checksum.

So typos, and what secret scanners find, are told from credentials without a look-up.
"""

from __future__ import annotations

import re
import secrets
import zlib
from hashlib import sha256
from typing import Literal

Kind = Literal["service", "token", "share", "user"]
LETTERS: dict[Kind, str] = {"service": "k", "token": "c", "share": "h", "user": "u"}
SHAPE = re.compile(r"ck_[kchu]_[0-9A-Za-z]{43}[0-9A-Za-z]{6}")
DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def make_credential(kind: Kind) -> str:
    """Make a new credential."""
    said = f"ck_{LETTERS[kind]}_{base62(secrets.randbits(256), 43)}"
    return said + base62(zlib.crc32(said.encode()), 6)


def name_of(text: str) -> str | None:
    """Return the name under which the store has a credential; None if *text* is none, which needs no look-up, or is mistyped."""
    name = digest_of(text)
    return None if name is None or is_mistyped(text) else name


def digest_of(text: str) -> str | None:
    """Return what `name_of` does, also of a credential that may be mistyped."""
    return sha256(text.encode()).hexdigest() if SHAPE.fullmatch(text) else None


def is_mistyped(text: str) -> bool:
    """Tell whether the checksum is wrong of what has the shape of a credential."""
    return text[-6:] != base62(zlib.crc32(text[:-6].encode()), 6)


def base62(number: int, width: int) -> str:
    """Return *number* in *width* letters and digits."""
    found = ""
    while len(found) < width:
        number, digit = divmod(number, 62)
        found = DIGITS[digit] + found
    return found


def id_of(name: str) -> str:
    """Return what people call a credential: the first letters of its name."""
    return name[:16]
