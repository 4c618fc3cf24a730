"""Which secrets can be guessed, and how to make one that cannot."""

from __future__ import annotations

import re

SHORTEST = 16
"""Bytes of a secret: with fewer it can be guessed."""

DIFFERENT = 4
"""Characters that a secret of any use has at least: that a random one of 16 has fewer does not happen."""

MAKE_ONE = "python -c 'import secrets; print(secrets.token_urlsafe(32))'"

WORDS = (
    "(?:account|admin|api|app|bot|change|channel|chat|chatkeep|default|demo|dev|development|do|dummy|example|fill|fixme|foobar|for|here|hello|"
    "in|insecure|instagram|it|key|letmein|long|master|me|messenger|meta|must|my|not|now|only|password|passwd|phrase|placeholder|please|prod|"
    "production|qwerty|random|replace|sample|secret|server|shared|sign|signing|some|string|super|telegram|test|testing|the|this|to|todo|token|top|"
    "use|value|verify|very|webhook|whatsapp|with|world|xxx|your|abcdef(?:ghijklmnop)?|0?123456789(?:0123456)?)+[0-9]{0,4}"
)
"""What is put where a secret belongs until somebody makes one."""


def weakness_of(secret: str | bytes) -> str:
    """Return why *secret* can be guessed, to be put behind "a secret"; "" when it may well be random."""
    raw = secret.encode(errors="replace") if isinstance(secret, str) else secret
    if len(raw) < SHORTEST:
        return f"of {len(raw)} bytes"
    if len(set(raw)) < DIFFERENT:
        return f"of {len(set(raw))} different characters"
    if (raw + raw).find(raw, 1) < min(SHORTEST, len(raw)):
        return "that repeats what is shorter"
    plain = re.sub(r"[\W_]", "", raw.decode("latin-1").lower())
    return "made of words that stand for one" if re.fullmatch(WORDS, plain) else ""
