"""Which version of the application answers, where several run on one store: what is pinned to one, and what share a canary has.

A record says by which version its session, or the turn that is under way, was begun; nothing else is stored in a conversation.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b

from msgspec import Struct, structs

from ..drivers.base import Key
from .record import Record
from .sessions import is_session_over
from .snapshots import NOTHING, Policy, Snapshot, unread_messages


class Plan(Struct, frozen=True):
    """What is known of the versions. *present*: those that answer on the store; *shares*: of those that an operator has given one,
    the part of the conversations that they take, 0 to 1."""

    present: frozenset[str] = frozenset()
    shares: Mapping[str, float] = NOTHING


def find_version(record: Record, policy: Policy, *, at: float, number: int = 0) -> str:
    """Return the version that began what message *number*, of time *at*, goes on with: the session where sessions are pinned, else a
    turn of which something was recorded; "" where nothing is gone on with, or its version has no name."""
    pinned = policy.pin == "session" and not is_session_over(record, policy, at, number)
    return record.version if pinned or record.steps or record.said is not None or record.begun else ""


def begin_version(snapshot: Snapshot, record: Record, policy: Policy) -> Record:
    """Return *record*, in which something is recorded of a turn, with the version that began the turn."""
    waiting = unread_messages(snapshot)
    if not policy.version or not waiting:
        return record
    first = waiting[0]
    held = find_version(snapshot.record, policy, at=first.created_at, number=first.number)
    return record if held else structs.replace(record, version=policy.version)


def end_version(record: Record, policy: Policy) -> Record:
    """Return the *record* of a turn that is over: its session goes on with the version that has ended it, where sessions are pinned."""
    version = policy.version if policy.pin == "session" else ""
    return record if record.version == version else structs.replace(record, version=version)


def may_answer(snapshot: Snapshot, policy: Policy, plan: Plan, *, at: float | None = None) -> bool:
    """Tell whether this version answers what waits in a conversation, or a message that comes *at* a time.

    What is pinned is left to its version while that is there and was not backed out (a share of 0). Else a canary takes its share, always
    the same conversations, and the versions that have no share take the rest. Where only versions with shares are there, all answer:
    nobody waits for a version that nobody runs.
    """
    if not policy.version or not plan.present:
        return True
    number = 0
    if at is None:
        first = unread_messages(snapshot)[0]
        at, number = first.created_at, first.number
    pinned = find_version(snapshot.record, policy, at=at, number=number) if policy.pin != "none" else ""
    if pinned in plan.present and plan.shares.get(pinned) != 0:
        return pinned == policy.version
    if canary := find_canary(snapshot.row.key, plan):
        return canary == policy.version
    return policy.version not in plan.shares or plan.present <= plan.shares.keys()


def find_canary(key: Key, plan: Plan) -> str:
    """Return the version with a share into which *key* falls, of those that are there; "" where it falls into none."""
    mark = blake2b(f"{len(key.tenant)}:{key.tenant}{key.id}".encode(), digest_size=8).digest()
    place, upto = int.from_bytes(mark) / 2**64, 0.0
    for version in sorted(plan.shares.keys() & plan.present):
        upto += plan.shares[version]
        if place < upto:
            return version
    return ""
