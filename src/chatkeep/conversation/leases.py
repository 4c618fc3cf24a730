"""Leases: taking, renewing and giving back the right to work on a conversation."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import structs

from ..model import Content
from .commits import next_commit
from .record import Record
from .snapshots import Commit, Policy, Snapshot, unread_messages
from .turns import set_aside

SUSPECT = 2
"""From so many deaths on, a message is tried alone. One alone says nothing: a deploy that kills is no reason to go slowly."""


def count_death(snapshot: Snapshot, *, died: bool) -> Record:
    """Return the record when the lease changes hands; *died*: because the process that held it did.

    A death is none of the message's attempts, since whatever else ran there may have caused it; only one that ran alone has
    nobody else to blame.
    """
    record = snapshot.record
    if not died or not unread_messages(snapshot):
        return record
    return structs.replace(record, deaths=record.deaths + 1, begun=record.begun + record.alone, alone=False)


def is_suspect(snapshot: Snapshot, *, died: bool) -> bool:
    """Tell whether the first unread message may be what its processes die of, so that it has to be tried alone."""
    return count_death(snapshot, died=died).deaths >= SUSPECT


def take_lease(
    snapshot: Snapshot,
    policy: Policy,
    *,
    token: str,
    at: float,
    died: bool = False,
    alone: bool = False,
    replies: Sequence[Content] = (),
    out: bool = False,
) -> Commit:
    """Take the lease: a free one, or one whose holder is gone; *died*: as `count_death`. *alone*: nothing else runs meanwhile.

    A message that was the end of too many processes that tried nothing else is set aside instead; *replies*, *out*: as in
    `set_aside`.
    """
    record = count_death(snapshot, died=died)
    if died and record.begun - record.raised >= policy.max_begun:
        alone_deaths = record.begun - record.raised
        reason = f"its process died {record.deaths} times while it was tried, {alone_deaths} times with no other handler beside it"
        number = unread_messages(snapshot)[0].number
        return set_aside(snapshot, number, reason, policy, at=at, replies=replies, out=out)
    if record.alone != alone:
        record = structs.replace(record, alone=alone)
    return next_commit(snapshot, record, policy, at=at, lease=token)


def renew_lease(snapshot: Snapshot, policy: Policy, *, at: float) -> Commit:
    """Keep the lease that is held for as long again."""
    return next_commit(snapshot, snapshot.record, policy, at=at, lease=snapshot.row.lease)


def release_lease(snapshot: Snapshot, policy: Policy, *, at: float, retry_at: float | None = None) -> Commit:
    """Give the lease back without counting an attempt; others may go on at once, or from *retry_at*."""
    record = snapshot.record if retry_at is None else structs.replace(snapshot.record, retry_at=retry_at)
    return next_commit(snapshot, record, policy, at=at)
