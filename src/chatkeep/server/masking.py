"""What people see who may not see what is personal: answers whose texts are masked, and conversations under names that tell nothing.

Numbers of five digits or more, addresses of mail and of pages are taken out of what was said. Whatever else is text is hidden, unless it is
known to name nobody: a member that is added later is hidden until somebody has thought of it. A conversation's id, which is often a
telephone number, is told as a handle: only the server can read it, it is the same on every instance, and opens nothing in another store.
"""

from __future__ import annotations

import re
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import blake2b, sha512
from typing import TYPE_CHECKING, Any

from ..extras import from_extra

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESSIV

HIDDEN = "•••"
HANDLE = "~m."
"""Begins a handle; no conversation of an application is called like that by chance."""

MEANS = frozenset({"checksum", "etag", "next", "paused", "revision", "store", "tenant", "trouble", "warning"})
"""Members whose text is chatkeep's own."""

NAMES = frozenset(
    {
        "act",
        "assignee",
        "author",
        "channel",
        "filter",
        "fault_kind",
        "kind",
        "last_role",
        "off_by",
        "outcome",
        "role",
        "status",
        "tool",
        "type",
    }
)
"""Members whose text is a word of chatkeep's own, or names staff or a part of the application; a customer may have written some of them."""

SAID = frozenset({"caption", "content", "detail", "last", "reason", "text"})
"""Members with what somebody has said or what is said of it."""

INSIDE = frozenset({"arguments", "metadata", "raw", "result", "state", "value"})
"""Members with whatever an application has put there: only its shape is shown."""

LARGE = 10_000

UNSEEN = (
    r"[\u00ad\u0300-\u036f\u061c\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f"
    r"\u20d0-\u20ff\u3164\ufe00-\ufe0f\ufeff\U000e0000-\U000e0fff]*+"
)
SIGNS = (
    r"\s()./_\u00b7\u058a\u05be\u2010-\u2015\u2022-\u2024\u2027\u2043\u2044\u2212\u2215\u2219\u22c5\u2e3a\u2e3b\u30a0\u30fb\u30fc"
    r"\ufe31-\ufe36\ufe52\ufe58-\ufe5a\ufe63\uff08\uff09\uff0d-\uff0f\uff3f\uff65\uff70-"
)
BETWEEN = rf"{UNSEEN}[{SIGNS}]{{0,4}}+{UNSEEN}"
"""What may stand between two digits of one number: what nobody sees or is drawn over a digit, and up to four signs that numbers are written
with: blanks, brackets, dashes, points and strokes, narrow or wide, and the long vowel of Katakana, which is typed for a dash."""

AT = r"@\uff20\ufe6b"

# Each begins where nothing before it could have begun, so that no text makes it look at a letter many times.
PERSONAL = re.compile(
    rf"(?<![^\s{AT}<>])[^\s{AT}<>]{{1,2000}}+[{AT}][^\s{AT}<>]{{1,2000}}+|https?://\S{{1,2000}}+|www\.\S{{1,2000}}+"
    rf"|[+\uff0b]?\d(?:{BETWEEN}\d){{4,40}}"
)


def mask_text(text: str) -> str:
    """Return *text* without numbers, addresses of mail and addresses of pages."""
    return PERSONAL.sub(HIDDEN, text)


class Masker:
    """Masks for one store, which *epoch* names; "" where it has none, and then handles are this process's own."""

    def __init__(self, epoch: str) -> None:
        self._secret = sha512(f"chatkeep masks:{epoch or secrets.token_hex()}".encode()).digest()
        self._cipher: AESSIV | None = None

    def seal(self, tenant: str, text: str) -> str:
        """Return a name for *text* that tells nothing of it, and is the same each time."""
        sealed = self._aead.encrypt(text.encode(errors="surrogatepass"), [tenant.encode()])
        return HANDLE + urlsafe_b64encode(sealed).decode().rstrip("=")

    def unseal(self, tenant: str, handle: str) -> str | None:
        """Return what *handle* names; None if it is none of this tenant's."""
        raw = handle.removeprefix(HANDLE)
        if raw == handle or not re.fullmatch(r"[A-Za-z0-9_-]{1,4096}", raw):
            return None
        from cryptography.exceptions import InvalidTag

        try:
            return self._aead.decrypt(urlsafe_b64decode(raw + "=" * (-len(raw) % 4)), [tenant.encode()]).decode()
        except (InvalidTag, ValueError):
            return None

    def mask(self, value: Any, *, tenant: str, conversation: str | None) -> Any:
        """Return *value*, an answer of the API about *conversation*, with what is personal masked."""
        return self._masked(value, "", tenant, conversation)

    def _masked(self, value: Any, name: str, tenant: str, conversation: str | None) -> Any:
        if name in INSIDE:
            return shape_of(value)
        if isinstance(value, dict):
            within = value.get("tenant")
            tenant = within if isinstance(within, str) else tenant
            return {key: self._masked(held, key, tenant, conversation) for key, held in value.items()}
        if isinstance(value, list) and name == "content":
            return [part_of(part) for part in value]
        if isinstance(value, list):
            return [self._masked(held, name, tenant, conversation) for held in value]
        if not isinstance(value, str) or not value or name in MEANS:
            return value
        if name in ("id", "conversation"):
            if self.unseal(tenant, value) is not None:
                return value
            named = name == "conversation" or value == conversation
            return (
                self.seal(tenant, value)
                if named
                else blake2b(value.encode(), digest_size=6, key=self._secret).hexdigest()
            )
        return mask_text(value) if name in SAID | NAMES else HIDDEN

    @property
    def _aead(self) -> AESSIV:
        if self._cipher is None:
            # Loaded when the first person comes who may not see everything: a server without such accounts does without.
            with from_extra("server", "An account with the role viewer"):
                from cryptography.hazmat.primitives.ciphers.aead import AESSIV as CIPHER
            self._cipher = CIPHER(self._secret)
        return self._cipher


def part_of(part: Any) -> Any:
    """Return a part of a message: what it says without what is personal, of anything else the shape; a place is hidden whole."""
    if not isinstance(part, dict):
        return shape_of(part)
    shown = {}
    for name, held in part.items():
        if isinstance(held, str) and name in ("type", "text", "caption"):
            shown[name] = mask_text(held)
        else:
            shown[mask_text(name)] = HIDDEN if isinstance(held, float) else shape_of(held)
    return shown


def shape_of(value: Any) -> Any:
    """Return *value* with every text and large number hidden, also in the names of members."""
    if isinstance(value, dict):
        return {mask_text(key): shape_of(held) for key, held in value.items()}
    if isinstance(value, list):
        return [shape_of(held) for held in value]
    if isinstance(value, str):
        return HIDDEN if value else ""
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) >= LARGE:
        return HIDDEN
    return value
