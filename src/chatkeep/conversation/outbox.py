"""The rules of sending replies out through a channel, as pure functions: what goes next, what is noted, when to try again.

Replies go out in the order of the log, one at a time, under a key that never changes. Before one is sent, the record says
so; if the process dies then, nobody knows whether it went, so it is sent again and noted as doubtful.
"""

from __future__ import annotations

import math
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
    old = snapshots.delivery_of(snapshot)
    tries = old.tries + (sent.status != "retry" or sent.counts)
    if sent.status == "retry" and tries >= TRIES and at - since >= GIVE_UP_S:
        sent = structs.replace(sent, status="failed", reason=f"given up after {tries} attempts: {sent.reason}")
    ids = (*(old.done if old.half == number else ()), *map(_storable, sent.ids))[-IDS_MOST:]
    done_by_others = number <= old.upto and number not in old.again
    if sent.status != "retry":
        if done_by_others:
            record = structs.replace(snapshot.record, delivery=old)
        else:  # nobody died of sending it, for this process lives
            record = structs.replace(snapshot.record, delivery=_without_reply(old, number), sending_deaths=0)
        return _note_done(snapshot, number, sent, record, policy, at=at, ids=ids, doubtful=doubtful, token=token)
    if done_by_others:
        return None
    delivery = structs.replace(
        old,
        sending=number if doubtful else 0,
        tries=tries,
        half=number,
        parts=sent.parts,
        done=ids,
        at=_find_retry(sent, tries, at=at, otherwise=retry_at),
        reason=_storable(sent.reason),
    )
    record = structs.replace(snapshot.record, delivery=delivery, sending_deaths=0)
    row = snapshot.row
    lease, until = (None, None) if row.lease == token else (row.lease, row.leased_until)
    return commits.next_commit(snapshot, record, policy, at=at, lease=lease, until=until)


def _find_retry(sent: Sent, tries: int, *, at: float, otherwise: float) -> float:
    """Return when a reply is sent again: after the pause that the platform names, if that helps, or else when our own one is over."""
    after = sent.after
    if after is None or math.isnan(after) or (tries >= 2 and sent.counts and after < AT_ONCE_S):
        return otherwise
    return at + min(max(after, 0.0), commits.SEND_PAUSE_MOST_S)


def _without_reply(old: OutboxState, number: int) -> OutboxState:
    """Return what is left to send when message *number* is done with."""
    if number not in old.again:
        return OutboxState(upto=max(old.upto, number), again=old.again)
    left = OutboxState(upto=old.upto, again=tuple(other for other in old.again if other != number))
    if old.half == number:
        return left
    return structs.replace(left, half=old.half, parts=old.parts, done=old.done)  # what waits behind it may be half out


def _note_done(
    snapshot: Snapshot,
    number: int,
    sent: Sent,
    record: Record,
    policy: Policy,
    *,
    at: float,
    ids: tuple[str, ...],
    doubtful: bool,
    token: str,
) -> Commit:
    """Note how message *number* went; *record* has what is left to send. The lease *token* is given back where that is nothing."""
    row = snapshot.row
    metadata: dict[str, Any] = {"kind": "delivery", "status": sent.status}
    metadata |= {"ids": list(ids)} if ids else {}
    metadata |= {"reason": _storable(sent.reason)} if sent.reason else {}
    metadata |= {"doubtful": True} if doubtful else {}
    note = commits.make_note("delivery", f"{row.incarnation}.{number}.{row.head}", first=number, last=number)
    note = structs.replace(note, metadata=metadata)
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
    notes = _Notes()
    for message in messages:
        notes.read(message)
    notes.since.update(notes.platform_times())
    # Of these not all of the platform's ids are noted.
    lacking = {number for number, one in notes.found.items() if one.status == "uncertain"}
    keyed = {
        id: number for number, id in map(_named, notes.statuses) if number is not None and id and id not in notes.owner
    }
    for status in notes.statuses:
        for number in notes.meant_by(status, keyed, lacking):
            notes.found[number] = _after_status(notes.found[number], status)
    tried = notes.found.get(outbox.half) if outbox is not None else None
    if outbox is not None and tried is not None and tried.status == "waiting":
        notes.found[tried.number] = structs.replace(tried, reason=outbox.reason, tries=outbox.tries)
    return [notes.found[number] for number in sorted(notes.found)]


class _Notes(Struct):
    """What the notes of a log say of the replies in it.

    found: how each stands. owner: whose each id of the platform's is. noted: where in the log its last sending was noted; asked:
    where somebody last asked for another one. since: the earliest time at which the platform can have had it. statuses: what
    the platform has told.
    """

    found: dict[int, Delivery] = {}
    owner: dict[str, int] = {}
    noted: dict[int, int] = {}
    asked: dict[int, int] = {}
    since: dict[int, float] = {}
    statuses: list[Message] = []

    def read(self, message: Message) -> None:
        """Take in the next entry of the log."""
        kind = message.metadata.get("kind") if message.role == "system" else None
        if snapshots.is_outbound(message):
            self.found[message.number] = Delivery(number=message.number, status="waiting", at=message.created_at)
            self.since[message.number] = message.created_at
        elif kind == "delivery" and message.reply_to is not None:
            self._read_sending(message, message.reply_to)
        elif kind == "resend" and message.reply_to is not None:
            self.asked[message.reply_to] = message.number
        elif kind == "status":
            self.statuses.append(message)

    def _read_sending(self, note: Message, number: int) -> None:
        if number in self.noted or number not in self.since:  # sent again, or a reply that is not among the messages
            self.since[number] = note.created_at
        self.noted[number] = note.number
        self.found[number] = Delivery(
            number=number,
            status=note.metadata["status"],
            ids=tuple(note.metadata.get("ids", ())),
            reason=note.metadata.get("reason", ""),
            doubtful=note.metadata.get("doubtful", False),
            at=note.created_at,
        )
        self.owner |= dict.fromkeys(self.found[number].ids, number)

    def platform_times(self) -> dict[int, float]:
        """Return when the platform had each reply, by its own clock, by which it also says up to when all was read."""
        times: dict[int, float] = {}
        for status in self.statuses:
            id, at = status.metadata.get("id"), status.metadata.get("at")
            number = self.owner.get(id) if id else None
            if number is None or at is None or id not in self.found[number].ids:
                continue
            if status.metadata["status"] in ON_TIME:
                times[number] = min(at, times.get(number, at))
        return times

    def meant_by(self, status: Message, keyed: dict[str, int], lacking: set[int]) -> list[int]:
        """Return the replies that *status* tells of. *keyed*: whose the ids are that were never noted; *lacking*: replies of
        which that may be."""
        (named, id), upto = _named(status), status.metadata.get("until")
        numbers = list[int]()
        if id in self.owner:
            number = self.owner[id]
            numbers += [number] if status.number > self.noted[number] or id in self.found[number].ids else []
        elif (of_key := keyed.get(id, named)) in self.noted and status.number > self.asked.get(of_key, 0):
            # That a sending has failed says nothing of another one, whose id was noted.
            counts = not id or status.metadata["status"] != "failed" or of_key in lacking
            numbers += [of_key] if counts else []
        if upto is not None:
            numbers += [n for n, one in self.found.items() if self.since[n] <= upto and one.status in REACHED]
        return numbers


def _named(status: Message) -> tuple[int | None, str]:
    """Return which reply the platform tells of: by the key, its number; and the platform's id."""
    return status.metadata.get("number"), status.metadata.get("id", "")


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
