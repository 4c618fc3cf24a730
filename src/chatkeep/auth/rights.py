"""What people and service keys may do in a tenant, beside the scopes that a conversation's token can have; and the roles of people."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

from ..errors import UsageError
from .credentials import EVERYWHERE, SCOPES, StoredCredential

Right = Literal["list", "operate", "switch", "tokens", "audit", "reveal", "hold", "export"]
"""list: all conversations of the tenant, and how they stand. operate: a person's part in one of them. switch: the bot of the tenant,
and what all share. tokens: credentials of others. audit: who did what. reveal: what is personal, unmasked. hold: legal
holds. export: all that was said, as lines."""

Role = Literal["viewer", "agent", "admin"]

RIGHTS: frozenset[str] = frozenset(get_args(Right))
ALL: frozenset[str] = SCOPES | RIGHTS

ROLES: dict[Role, frozenset[str]] = {
    "viewer": frozenset({"read", "state:read", "list"}),
    "agent": frozenset({"read", "state:read", "list", "operate", "reveal"}),
    "admin": ALL - {"send", "share"},
}
"""Nobody writes in a customer's name: that takes `send`, which only keys and tokens have."""


def rights_of(stored: StoredCredential) -> frozenset[str]:
    """Return what a service key may do: what was named when it was made, or everything; EVERYWHERE only where that was said."""
    named = frozenset(stored.scopes) - {EVERYWHERE}
    return (named or ALL) | (frozenset(stored.scopes) & {EVERYWHERE})


def checked_for_key(scopes: Iterable[str]) -> tuple[str, ...]:
    """Return *scopes* of a service key without repetition. Raises `UsageError` for one that there is not, and for none at all."""
    found = tuple(dict.fromkeys(scopes))
    if unknown := [scope for scope in found if scope not in ALL]:
        raise UsageError(
            f"{unknown[0]!r:.40} is not a scope of a key; the scopes are {', '.join(sorted(ALL))}. No key was made."
        )
    if not found:
        raise UsageError(
            "A key without a scope would allow nothing; name at least one scope, or leave scopes out to allow everything. No key was made."
        )
    return found
