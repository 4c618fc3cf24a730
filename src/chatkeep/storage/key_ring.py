"""A ring of keys that wraps other keys and seals short values: the first key seals, all of them open.

wrapped = nonce, 12 bytes | AES-256-GCM of the value, with its tag of 16
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Sequence

from ..errors import Misconfigured
from ..extras import from_extra
from ..secrecy import MAKE_ONE, SHORTEST

with from_extra("seal", "seal_keys"):
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

NONCE = 12
TAG = 16

KEY_BYTES = 32


class KeyRing:
    """The keys of `seal_keys`, the newest first. What is sealed is bound to *bound*, and opens with nothing else."""

    def __init__(self, keys: Sequence[str]) -> None:
        if not keys or any(len(key.encode()) < SHORTEST for key in keys):
            raise Misconfigured(
                f"seal_keys is a list of secrets of at least {SHORTEST} bytes each, the newest first. Make one: {MAKE_ONE}. "
                "Nothing was opened."
            )
        self._ring = dict(_derived(key.encode()) for key in reversed(keys))
        self.first = next(reversed(self._ring))
        """The mark of the key that seals."""

    @property
    def marks(self) -> list[str]:
        """The marks of all keys, the newest first: short names that tell nothing of the keys."""
        return list(reversed(self._ring))

    def seal(self, plain: bytes, bound: bytes) -> bytes:
        """Seal *plain* with the first key."""
        nonce = os.urandom(NONCE)
        return nonce + self._ring[self.first].encrypt(nonce, plain, bound)

    def open(self, mark: str, sealed: bytes, bound: bytes) -> bytes | None:
        """Return what the key with this *mark* has sealed; None when it is not in the ring, or something else was sealed."""
        key = self._ring.get(mark)
        try:
            return None if key is None else key.decrypt(sealed[:NONCE], sealed[NONCE:], bound)
        except (InvalidTag, ValueError):
            return None


def fresh_key() -> bytes:
    """Return a new random key for one conversation."""
    return os.urandom(KEY_BYTES)


def derived_key(key: bytes, id: bytes) -> bytes:
    """Return the key that *id* names among those that are made of *key*, which nobody can learn from it."""
    return hmac.digest(key, b"chatkeep derived " + id, "sha256")


def cipher_of(key: bytes) -> AESGCM:
    """Return what seals and opens with *key*."""
    return AESGCM(key)


def seal_with(cipher: AESGCM, plain: bytes, bound: bytes) -> bytes:
    """Seal *plain* with a conversation's key."""
    nonce = os.urandom(NONCE)
    return nonce + cipher.encrypt(nonce, plain, bound)


def open_with(cipher: AESGCM, sealed: bytes, bound: bytes) -> bytes | None:
    """Return what was sealed; None when it was altered, or is bound to something else."""
    try:
        return cipher.decrypt(sealed[:NONCE], sealed[NONCE:], bound)
    except (InvalidTag, ValueError):
        return None


def _derived(secret: bytes) -> tuple[str, AESGCM]:
    """Return the mark of a key, and the key that is made of it for sealing conversations."""
    derived = HKDF(SHA256(), KEY_BYTES + 4, None, b"chatkeep seal").derive(secret)
    return derived[KEY_BYTES:].hex(), AESGCM(derived[:KEY_BYTES])
