"""Seals bytes into the value of a cookie, so that nobody but the holder of the keys can read or alter them.

    value = base64url( version | key's mark | nonce, 12 bytes | AES-256-GCM of the bytes, with its tag of 16 )

Nothing is compressed: a visitor who chooses a part of the text, and sees how long the cookie becomes, would read the rest of it.
"""

from __future__ import annotations

import binascii
import os
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence

from msgspec import msgpack

from ..errors import Misconfigured
from ..extras import from_extra
from ..secrecy import MAKE_ONE, SHORTEST

with from_extra("cookie", "chatkeep.cookie"):
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

VERSION = 1
COOKIE_MOST = 4096
"""Bytes that a browser keeps of a cookie: its name, "=" and its value. A longer one is dropped silently."""

NONCE = 12
TAG = 16

Secret = str | bytes


class Sealer:
    """A ring of keys for one *purpose*: the first one seals, all of them open."""

    def __init__(self, keys: Sequence[Secret], *, purpose: str = "conversation") -> None:
        secrets = [key.encode() if isinstance(key, str) else key for key in keys]
        if not secrets or not all(isinstance(secret, bytes) and len(secret) >= SHORTEST for secret in secrets):
            raise Misconfigured(
                f"keys is a list of secrets of at least {SHORTEST} bytes each, the newest first; whoever can guess one reads every "
                f"cookie. Make one: {MAKE_ONE}. Nothing was opened."
            )
        self._purpose = purpose
        self._ring = [_derived(secret, purpose) for secret in secrets]

    def seal(self, plain: bytes, *, name: str, host: str) -> str:
        """Seal *plain* for the cookie *name* of *host*."""
        mark, cipher = self._ring[0]
        head, nonce = bytes((VERSION, mark)), os.urandom(NONCE)
        sealed = cipher.encrypt(nonce, plain, self._bound(head, name, host))
        return urlsafe_b64encode(head + nonce + sealed).rstrip(b"=").decode()

    def open(self, value: str, *, name: str, host: str) -> bytes | None:
        """Return what was sealed into *value*; None for whatever was not sealed so: altered, of another key, name, host or purpose."""
        if len(value) > COOKIE_MOST:
            return None
        try:
            raw = urlsafe_b64decode(value + "=" * (-len(value) % 4))
        except (binascii.Error, ValueError):
            return None
        # (The last character may hold bits that stand for nothing: with others in them it is another value.)
        if len(raw) < 2 + NONCE + TAG or urlsafe_b64encode(raw).rstrip(b"=").decode() != value or raw[0] != VERSION:
            return None
        head, nonce, sealed = raw[:2], raw[2 : 2 + NONCE], raw[2 + NONCE :]
        for mark, cipher in self._ring:
            if mark == head[1]:
                try:
                    return cipher.decrypt(nonce, sealed, self._bound(head, name, host))
                except InvalidTag:
                    continue
        return None

    def _bound(self, head: bytes, name: str, host: str) -> bytes:
        """Return what a seal is bound to beside its key."""
        return msgpack.encode([head, name, host, self._purpose])


def sealed_size(plain: int, name: str) -> int:
    """Return how many bytes a cookie *name* takes whose *plain* contents have so many."""
    return len(name) + 1 + (4 * (2 + NONCE + plain + TAG) + 2) // 3


def _derived(secret: bytes, purpose: str) -> tuple[int, AESGCM]:
    """Return a key for *purpose*, and the mark by which it is found in the ring."""
    derived = HKDF(SHA256(), 33, None, b"chatkeep cookie " + purpose.encode()).derive(secret)
    return derived[32], AESGCM(derived[:32])
