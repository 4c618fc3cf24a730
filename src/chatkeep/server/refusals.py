"""Refusals of who may not: the same words wherever somebody is turned away, so that they tell nothing of what is there."""

from __future__ import annotations

from . import wire

NOT_FOUND = "There is nothing at this address."
"""The words for what is not there, and for what somebody else's token must not learn of."""

REFUSED = (
    "Send a valid credential as `Authorization: Bearer ...`: there is none here, or it is unknown, expired or revoked."
)


def unauthorized() -> wire.Refused:
    """Return 401, the same whatever was asked for."""
    return wire.Refused(401, "unauthorized", REFUSED, {"www-authenticate": "Bearer"})


def forbidden(detail: str) -> wire.Refused:
    """Return 403."""
    return wire.Refused(403, "forbidden", detail)


def not_found() -> wire.Refused:
    """Return 404, the same for what is not there and for what is somebody else's."""
    return wire.Refused(404, "not-found", NOT_FOUND)


STEPS = (".", "..")
"""Ids that browsers, and proxies which tidy up addresses, take for a step in the path: what is asked of them is asked of something else."""


def refuse_step(conversation: str | None) -> None:
    """Refuse to begin a conversation for a customer under an id that no page could ask for, nor anybody at the desk."""
    if conversation in STEPS:
        raise wire.Refused(
            400,
            "bad-key",
            f"A conversation cannot be called {conversation!r}: browsers and proxies take that for a step in the path. Nothing was begun; "
            "choose another id.",
        )


def gone(why: str) -> wire.Refused:
    """Return 412, for what is meant for a conversation that was there. *why*: what was not done."""
    there = "The conversation is not there (any more): nobody has begun it, or it was erased"
    return wire.Refused(412, "precondition-failed", f"{there}. {why}")
