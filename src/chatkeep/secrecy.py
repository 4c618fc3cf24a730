"""Which secrets can be guessed, how to make one that cannot, and what holds a secret without it."""

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


SECRETS = ("store", "cache", "metrics_token", "seal_keys", "oidc_client_secret")
"""Settings whose value may hold a password."""

TOKENS = ("upstash", "durable-object")
"""Schemes whose URL has a secret where others have the name of a user."""

IN_QUERY = r"([?&]\w*password=)[^&]*"
"""A password among the options of a URL, which PostgreSQL takes there too."""


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


def split_entry(url: str) -> tuple[str, str, str]:
    """Return the scheme of *url*, its user and password, and what is behind them: a password may have @, / and # in it."""
    scheme, _, rest = url.partition("://")
    entry, _, place = ("", "", rest) if rest.startswith("/") else rest.rpartition("@")
    return scheme, entry, place


def without_secret(url: str) -> str:
    """Return *url* as it may be shown."""
    url = re.sub(IN_QUERY, r"\1***", url)
    scheme, entry, place = split_entry(url)
    user, _, password = entry.partition(":")
    if not entry:
        return url
    if scheme in TOKENS:
        return f"{scheme}://***@{place}"
    return f"{scheme}://{user}:***@{place}" if password else url


def without_entries(text: str) -> str:
    """Return a *text* that quotes what somebody has typed, without what stands between "://" and the last "@" of a line: where a URL ends
    in it nobody knows, for a password may have quotes and spaces."""
    return re.sub(IN_QUERY, r"\1***", re.sub(r"://[^\n]*@", "://***@", text))


def shown(name: str, value: object) -> str:
    """Return *value* as it may be printed."""
    if name not in SECRETS or not value:
        return repr(value)
    scheme, _, place = split_entry(without_secret(value) if isinstance(value, str) else "")
    return repr(f"{scheme}://{place.partition('?')[0]}" if place else "***")
