"""The rules of sending replies out through a channel, as pure functions: what goes next, what is noted, when to try again.

Replies go out in the order of the log, one at a time, under a key that never changes. Before one is sent, the record says
so; if the process dies then, nobody knows whether it went, so it is sent again and noted as doubtful.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal, Protocol, cast

from msgspec import Meta, Struct, ValidationError, convert, structs

from ..drivers.base import Row
from ..model import Content, Message
from . import commits, leases, snapshots
from .record import OutboxState, Record
from .snapshots import Commit, Policy, Snapshot

TRIES = 12
GIVE_UP_S = 24 * 3600.0  # a reply is tried for a day, however often that is
AGAIN_MOST = 100
IDS_MOST = 50
AT_ONCE_S = 1.0
"""A platform that has a reply sent again sooner than this, time after time, names no pause that helps it."""


class Sent(Struct, frozen=True, kw_only=True):
    """What became of sending a reply.

    status: delivered (the platform has it, under *ids*), failed (it will not take it), uncertain (nobody knows), retry
    (certainly not sent; *after* so many seconds, or when the pause says). parts: how many of the requests that the reply
    takes are done with. counts: whether a retry counts as an attempt (not when our own account is at fault). channel, cause: through
    which channel, and why it was not delivered, each of a fixed set; for those who count.
    """

    status: Literal["delivered", "failed", "uncertain", "retry"]
    ids: tuple[str, ...] = ()
    reason: str = ""
    after: float | None = None
    parts: Annotated[int, Meta(ge=0)] = 0
    counts: bool = True
    channel: str = ""
    cause: str = ""


def checked_answer(answer: object) -> Sent:
    """Return what an outlet has answered. Of what is no `Sent`, or one with other members than it has, nothing can be told but that the
    reply may have gone out, so it is not sent again."""
    try:
        if issubclass(type(answer), Sent):  # (what it says of its own kind may raise whatever it likes)
            return convert(structs.asdict(cast("Sent", answer)), Sent)
        fault = type(answer).__name__
    except ValidationError as wrong:
        fault = str(wrong)
    return Sent(status="uncertain", reason=f"the outlet has answered with no Sent ({fault})", cause="bug")


DeliveryStatus = Literal["waiting", "delivered", "read", "failed", "uncertain"]


class Delivery(Struct, frozen=True, kw_only=True):
    """How the delivery of one reply stands: what was noted last, and what the platform has told since.

    status: waiting, delivered, read, failed or uncertain; ids: the platform's. reason: why it failed, or, of one that waits, why
    the last try did; tries: how often a waiting one was tried. doubtful: it may have been shown twice.
    """

    number: int
    status: DeliveryStatus
    ids: tuple[str, ...] = ()
    reason: str = ""
    doubtful: bool = False
    at: float = 0.0
    tries: int = 0


class Outlet(Protocol):
    """Where replies go out: channels with their connections."""

    def takes(self, tenant: str, conversation: str) -> bool:
        """Tell whether replies of this tenant's conversation go out here."""

    async def send(self, conversation: str, content: Content, *, key: str, skip: int, at: float) -> Sent:
        """Send a reply, but for the first *skip* of the requests it takes. Raises nothing but cancellation, and ends by a time-out of its
        own where the platform does not answer: the conversation waits for it, until `send_timeout` is over."""

    async def open(self) -> None:
        """Get ready to send."""

    async def close(self) -> None:
        """Give everything back."""


def key_of(row: Row, number: int) -> str:
    """Return the key under which the reply of this number is sent, the same each time."""
    return f"{row.incarnation}.{number}@{row.key.id}"


def number_of(key: str, incarnation: str) -> int | None:
    """Return the number of the reply that was sent under *key*, or under one made of it; None if it is none of this incarnation's."""
    life, number = _take_apart(key)
    return number if life == incarnation else None


def is_of_another(key: str, incarnation: str) -> bool:
    """Tell whether *key* is that of a reply of another incarnation, such as one that was erased."""
    life, number = _take_apart(key)
    return "@" in key and number is not None and life != incarnation


def _take_apart(key: str) -> tuple[str, int | None]:
    life, _, number = key.partition("@")[0].rpartition(".")
    return life, int(number) if re.fullmatch("[0-9]{1,18}", number) else None


def next_reply(snapshot: Snapshot, found: Iterable[Message] = ()) -> Message | int | None:
    """Return the message to send next, *found* being those behind the cursor that the window has not; its number alone if it is to be
    sent again and is not at hand.

    What is to be sent again goes first, but for a reply in doubt: the record has room for one doubt, and another sending would take it.
    """
    delivery = snapshots.delivery_of(snapshot)
    at_hand = {message.number: message for message in (*found, *snapshot.messages)}
    waits = next((m for _, m in sorted(at_hand.items()) if m.number > delivery.upto and snapshots.is_outbound(m)), None)
    if not delivery.again or (waits is not None and waits.number == delivery.sending):
        return waits
    again = _first_again(delivery)
    return at_hand.get(again, again)


def _first_again(delivery: OutboxState) -> int:
    """Return which of the replies that are to be sent again is next."""
    return delivery.sending if delivery.sending in delivery.again else delivery.again[0]


def parts_done(delivery: OutboxState, number: int) -> int:
    """Return how many of the requests of message *number* are done already."""
    return delivery.parts if delivery.half == number else 0


def begin_sending(
    snapshot: Snapshot, number: int, policy: Policy, *, token: str, at: float, died: bool = False
) -> Commit:
    """Say that message *number* is about to be sent by whoever holds the lease *token*; *died*: as `leases.count_death`."""
    delivery = structs.replace(snapshots.delivery_of(snapshot), sending=number, at=0.0)
    record = structs.replace(count_death(snapshot, number, died=died), delivery=delivery)
    return commits.next_commit(snapshot, record, policy, at=at, lease=token)


def count_death(snapshot: Snapshot, number: int, *, died: bool) -> Record:
    """Return the record when message *number* is to be sent; *died*: because the process that held the lease did, perhaps of sending it.

    What is unread was not tried then, so such a death is none of its own. (A reply that waits to be sent again was not on its way,
    though an earlier try may have left it in doubt.)
    """
    record, delivery = snapshot.record, snapshots.delivery_of(snapshot)
    if delivery.sending == number and not delivery.at:
        return structs.replace(record, sending_deaths=record.sending_deaths + 1) if died else record
    return structs.replace(leases.count_death(snapshot, died=died), sending_deaths=0)


def is_suspect(snapshot: Snapshot, number: int, *, died: bool) -> bool:
    """Tell whether sending message *number* may be what its processes die of, so that no other suspect is sent beside it."""
    return count_death(snapshot, number, died=died).sending_deaths >= leases.SUSPECT


def describe_deaths(snapshot: Snapshot, policy: Policy) -> str:
    """Say why a reply that is in doubt is not sent once more; "" where it is."""
    deaths = snapshot.record.sending_deaths
    return f"its process died {deaths} times while it was sent" if deaths >= policy.max_begun else ""


def note_nothing_to_send(snapshot: Snapshot, head: int, policy: Policy, *, at: float) -> Commit | None:
    """Note that what was to be sent again is gone, or that nothing up to *head* has to be sent. None when there is more now."""
    row, old = snapshot.row, snapshots.delivery_of(snapshot)
    if not old.again and row.head != head:
        return None
    if old.again:
        gone = _first_again(old)
        delivery = structs.replace(old, again=tuple(other for other in old.again if other != gone))
    else:
        delivery = OutboxState(upto=head)
    record = structs.replace(snapshot.record, delivery=delivery)
    return commits.next_commit(snapshot, record, policy, at=at, lease=row.lease, until=row.leased_until)


def note_delivery(
    snapshot: Snapshot,
    number: int,
    sent: Sent,
    policy: Policy,
    *,
    at: float,
    since: float,
    retry_at: float,
    doubtful: bool,
    token: str,
) -> Commit | None:
    """Record what became of sending message *number*, of time *since*; the lease *token* is kept while there is more to do. One that is
    *doubtful*, and to be sent again, stays so until it is done with.

    None when there is nothing to record: somebody else has gone on meanwhile.
    """
    row, old = snapshot.row, snapshots.delivery_of(snapshot)
    done_by_others = number <= old.upto and number not in old.again
    tries = old.tries + (sent.status != "retry" or sent.counts)
    ids = (*(old.done if old.half == number else ()), *map(_storable, sent.ids))
    status, reason = sent.status, sent.reason
    if status == "retry" and tries >= TRIES and at - since >= GIVE_UP_S:
        status, reason = "failed", f"given up after {tries} attempts: {reason}"
    if status == "retry":
        if done_by_others:
            return None
        helps = tries < 2 or not sent.counts or (sent.after or 0.0) >= AT_ONCE_S
        if sent.after is not None and sent.after == sent.after and helps:
            retry_at = at + min(max(sent.after, 0.0), commits.SEND_PAUSE_MOST_S)
        delivery = structs.replace(
            old,
            sending=number if doubtful else 0,
            tries=tries,
            half=number,
            parts=sent.parts,
            done=ids[-IDS_MOST:],
            at=retry_at,
            reason=_storable(reason),
        )
        record = structs.replace(snapshot.record, delivery=delivery, sending_deaths=0)
        mine = row.lease == token
        lease, until = (None, None) if mine else (row.lease, row.leased_until)
        return commits.next_commit(snapshot, record, policy, at=at, lease=lease, until=until)
    again = tuple(other for other in old.again if other != number)
    upto = old.upto if number in old.again else max(old.upto, number)
    delivery = old if done_by_others else OutboxState(upto=upto, again=again)
    if number in old.again and old.half != number:  # what waits behind it may be half out
        delivery = structs.replace(delivery, half=old.half, parts=old.parts, done=old.done)
    metadata: dict[str, Any] = {"kind": "delivery", "status": status}
    metadata |= {"ids": list(ids[-IDS_MOST:])} if ids else {}
    metadata |= {"reason": _storable(reason)} if reason else {}
    metadata |= {"doubtful": True} if doubtful else {}
    note = commits.make_note("delivery", f"{row.incarnation}.{number}.{row.head}", first=number, last=number)
    note = structs.replace(note, metadata=metadata)
    deaths = snapshot.record.sending_deaths if done_by_others else 0  # (they did not die of it: this process lives)
    record = structs.replace(snapshot.record, delivery=delivery, sending_deaths=deaths)
    act = commits.commit_note(snapshot, record, note, policy, at=at)
    if row.lease == token and not snapshots.unread_messages(snapshot) and not snapshots.has_outbound(snapshot, record):
        act = structs.replace(act, lease=None, leased_until=0.0)
    return act


def resend_reply(snapshot: Snapshot, number: int, name: str, policy: Policy, *, at: float) -> Commit:
    """Have message *number* sent once more; one that still waits is tried at once."""
    old = snapshots.delivery_of(snapshot)
    delivery = structs.replace(old, at=0.0, tries=0)
    if number <= old.upto:
        again = (*(other for other in old.again if other != number), number)[-AGAIN_MOST:]
        delivery = structs.replace(delivery, again=again)
    record = structs.replace(snapshot.record, delivery=delivery)
    note = commits.make_note("resend", name, first=number, last=number)
    return commits.commit_note(snapshot, record, note, policy, at=at)


def _storable(text: str) -> str:
    """Return what a platform has told, so that it can be kept whatever it is."""
    return text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")[:500]


def list_deliveries(messages: Iterable[Message], outbox: OutboxState | None = None) -> list[Delivery]:
    """Return how the delivery of each reply among *messages* stands, going by the notes among them, and by *outbox* for what waits.

    What a platform tells may be in the log before the note that the reply was sent, so it is looked at when all notes are known.
    """
    found: dict[int, Delivery] = {}
    owner: dict[str, int] = {}
    noted: dict[int, int] = {}  # where in the log the last sending of a reply was noted
    since: dict[int, float] = {}  # the earliest time at which the platform can have had it
    asked: dict[int, int] = {}  # where in the log somebody last asked for it to be sent again
    statuses: list[Message] = []
    for message in messages:
        kind = message.metadata.get("kind") if message.role == "system" else None
        if snapshots.is_outbound(message):
            found[message.number] = Delivery(number=message.number, status="waiting", at=message.created_at)
            since[message.number] = message.created_at
        elif kind == "delivery" and message.reply_to is not None:
            note, number = message.metadata, message.reply_to
            if number in noted or number not in since:  # sent again, or a reply that is not among the messages
                since[number] = message.created_at
            noted[number] = message.number
            found[number] = Delivery(
                number=number,
                status=note["status"],
                ids=tuple(note.get("ids", ())),
                reason=note.get("reason", ""),
                doubtful=note.get("doubtful", False),
                at=message.created_at,
            )
            owner |= dict.fromkeys(found[number].ids, number)
        elif kind == "resend" and message.reply_to is not None:
            asked[message.reply_to] = message.number
        elif kind == "status":
            statuses.append(message)
    since |= _platform_times(found, owner, statuses)
    # Of these not all of the platform's ids are noted.
    lacking = {number for number, one in found.items() if one.status == "uncertain"}
    keyed = {id: number for number, id in map(_named, statuses) if number is not None and id and id not in owner}
    for status in statuses:
        (named, id), upto = _named(status), status.metadata.get("until")
        numbers = list[int]()
        if id in owner:
            numbers += [owner[id]] if status.number > noted[owner[id]] or id in found[owner[id]].ids else []
        elif (of_key := keyed.get(id, named)) in noted and status.number > asked.get(of_key, 0):
            # That a sending has failed says nothing of another one, whose id was noted.
            counts = not id or status.metadata["status"] != "failed" or of_key in lacking
            numbers += [of_key] if counts else []
        numbers += [n for n, one in found.items() if upto is not None and since[n] <= upto and one.status in REACHED]
        for number in numbers:
            found[number] = _after_status(found[number], status)
    tried = found.get(outbox.half) if outbox is not None else None
    if outbox is not None and tried is not None and tried.status == "waiting":
        found[tried.number] = structs.replace(tried, reason=outbox.reason, tries=outbox.tries)
    return [found[number] for number in sorted(found)]


def _named(status: Message) -> tuple[int | None, str]:
    """Return which reply the platform tells of: by the key, its number; and the platform's id."""
    return status.metadata.get("number"), status.metadata.get("id", "")


def _platform_times(found: dict[int, Delivery], owner: dict[str, int], statuses: Iterable[Message]) -> dict[int, float]:
    """Return when the platform had each reply, by its own clock, by which it also says up to when all was read."""
    times: dict[int, float] = {}
    for status in statuses:
        id, at = status.metadata.get("id"), status.metadata.get("at")
        number = owner.get(id) if id else None
        if number is not None and at is not None and id in found[number].ids and status.metadata["status"] in ON_TIME:
            times[number] = min(at, times.get(number, at))
    return times


def _after_status(there: Delivery, status: Message) -> Delivery:
    """Return how a reply stands after the platform has told *status* of it, which counts if it says more."""
    note = status.metadata
    says = "delivered" if note["status"] == "sent" else note["status"]  # the platform has it
    if RANK.get(says, 0) < RANK.get(there.status, 0):
        return there
    return structs.replace(there, status=says, reason=note.get("reason", ""), at=status.created_at)


REACHED = ("delivered", "uncertain")
ON_TIME = ("sent", "delivered")
"""Statuses that are told when a reply has come to the platform, or to the customer; later ones say nothing of that."""
RANK = {"waiting": 0, "uncertain": 1, "delivered": 2, "read": 3, "failed": 4}
"""What the platform tells later counts if it says more; statuses come in any order."""
