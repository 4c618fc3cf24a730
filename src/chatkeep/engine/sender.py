"""Sends replies out through the outlet, one conversation at a time under its lease, and notes what became of them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import nullcontext, suppress
from typing import Any, Protocol, cast

from ..bounded import Newest
from ..conversation import outbox as deliveries
from ..conversation import snapshots
from ..conversation.backoff import backoff, believed
from ..conversation.commits import SEND_PAUSE_MOST_S
from ..conversation.outbox import Outlet, Sent
from ..conversation.snapshots import Commit, Policy, Snapshot
from ..drivers.base import Key
from ..errors import describe_fault, log_fault, presentable
from ..model import Message
from ..storage.reader import PAGE
from ..storage.store import Store
from ..storage.tokens import fresh_token
from .instruments import Instrument
from .lease_keeper import LeaseKeeper

log = logging.getLogger("chatkeep")

SENT_MOST = 10_000
GRACE_S = 1.0
"""A call of the outlet that is cancelled has so long to end."""
CLOSES_S = 10.0
"""So long an outlet may take to close."""
PAUSE_MOST_S = 600.0  # between two attempts to send a reply


class Holder(Protocol):
    """Whoever works on a conversation under a lease."""

    sending: int
    """The message that the holder has said it would send; 0 for none."""

    @property
    def lease(self) -> str:
        """The token of the lease."""

    def back_off(self) -> float:
        """Tell the pause before what was thrown away is done again."""


class Sender:
    """The way out of one engine. *first*: seconds before a reply that failed for the moment is sent again the first time; *timeout_s*: an
    outlet that takes longer is given up. Each of *instruments* is told what became of each attempt."""

    def __init__(
        self,
        store: Store,
        policy: Policy,
        leases: LeaseKeeper,
        *,
        clock: Callable[[], float],
        first: float,
        timeout_s: float,
        instruments: Sequence[Instrument] = (),
    ) -> None:
        self.outlet: Outlet | None = None
        self._store = store
        self._policy = policy
        self._leases = leases
        self._clock = clock
        self._first = first
        self._timeout_s = timeout_s
        self._given_up: set[asyncio.Task[Any]] = set()  # calls of the outlet that still run
        self._instruments = instruments
        self._sent: Newest[Key, tuple[str, int, Sent, float, bool]] = Newest(SENT_MOST)  # sent, and not noted yet
        self.open()
        self.attempts: Counter[tuple[str, str]] = Counter()
        """How often a reply was tried to be sent, by channel and what became of it."""
        self.sent_at: float | None = None
        """When the last one was delivered."""

    def open(self) -> None:
        """Begin, in the loop of now."""
        self._suspects = asyncio.Lock()  # (it belongs to the loop that waited for it)
        """One at a time is sent that processes may have died of; all that were on their way beside it are suspects too."""

    def takes(self, key: Key) -> bool:
        """Tell whether what is replied in *key* goes out through a channel here."""
        return self.outlet is not None and self.outlet.takes(key.tenant, key.id)

    def due(self, snapshot: Snapshot, *, at: float) -> float | None:
        """Tell when the next reply may go out; None if none has to."""
        sends = self.takes(snapshot.row.key) and snapshots.must_send(snapshot)
        return believed(snapshots.delivery_of(snapshot).at, SEND_PAUSE_MOST_S, at=at) if sends else None

    async def deliver(self, snapshot: Snapshot, worker: Holder) -> float | None:
        """Send the next reply through its channel, under the lease, and note what became of it."""
        assert self.outlet is not None
        row, delivery, now = snapshot.row, snapshots.delivery_of(snapshot), self._clock()
        ours = row.lease == worker.lease
        if not ours and self._leases.observe_holder(row):
            return None
        message = await self._next_out(snapshot)
        if message is None:  # what the record said was to go is not there, or needs no sending
            await self._store.commit_once(
                snapshot,
                lambda there: deliveries.note_nothing_to_send(there, row.head, self._policy, at=self._clock()),
                at=now,
            )
            return worker.back_off()
        number = message.number
        known = self._sent.get(row.key)
        sent = known[2] if known is not None and known[:2] == (row.incarnation, number) else None
        doubtful = sent is None and delivery.sending == number and worker.sending != number
        suspect = doubtful and deliveries.is_suspect(snapshot, number, died=self._leases.may_have_died(row.lease))
        async with self._suspects if suspect else nullcontext():
            return await self._deliver(snapshot, worker, message, doubtful=doubtful)

    async def _deliver(self, snapshot: Snapshot, worker: Holder, message: Message, *, doubtful: bool) -> float | None:
        """Send *message*, of which it may be *doubtful* whether it was sent by a process that died."""
        assert self.outlet is not None
        row, delivery, now = snapshot.row, snapshots.delivery_of(snapshot), self._clock()
        ours, number = row.lease == worker.lease, message.number
        known = self._sent.get(row.key)
        sent = known[2] if known is not None and known[:2] == (row.incarnation, number) else None
        if not ours or delivery.sending != number or (sent is None and worker.sending != number):

            def begin(there: Snapshot) -> Commit | None:
                now_there = (there.row.incarnation, there.row.lease, snapshots.delivery_of(there))
                same = now_there == (row.incarnation, row.lease, delivery)
                died = self._leases.may_have_died(there.row.lease)
                return (
                    deliveries.begin_sending(there, number, self._policy, token=worker.lease, at=now, died=died)
                    if same
                    else None
                )

            snapshot, said = await self._store.commit_once(snapshot, begin, at=now)
            if said is None:
                return worker.back_off()
            worker.sending = number
        if doubtful and (reason := deliveries.describe_deaths(snapshot, self._policy)):
            sent = Sent(status="uncertain", reason=reason)
        took = 0.0
        if sent is None:
            began = time.perf_counter()
            async with self._leases.keep_alive(row.key, worker.lease):
                sent, is_known = await self._send(self.outlet, snapshot, message, at=now)
            took, doubtful = time.perf_counter() - began, doubtful or not is_known
        elif known is not None:
            took, doubtful = known[3], doubtful or known[4]
        worker.sending = 0
        pause_s = backoff(delivery.tries + 2, first_s=self._first, longest_s=PAUSE_MOST_S)
        retry_at = self._clock() + pause_s

        def note(there: Snapshot) -> Commit | None:
            # It was sent, whoever holds the lease by now.
            if there.row.incarnation != row.incarnation:
                return None
            return deliveries.note_delivery(
                there,
                number,
                sent,
                self._policy,
                at=self._clock(),
                since=message.created_at,
                retry_at=retry_at,
                doubtful=doubtful or sent.status == "uncertain",
                token=worker.lease,
            )

        # Should the store be away now, it is known here all the same.
        self._sent[row.key] = (row.incarnation, number, sent, took, doubtful)
        _, said = await self._store.commit_once(self._store.cached(row.key) or snapshot, note, at=self._clock())
        self._sent.pop(row.key, None)
        status = said[0].metadata["status"] if said else sent.status  # (what was tried long enough has failed)
        self.attempts[sent.channel or "other", status] += 1
        if sent.status == "delivered":
            self.sent_at = self._clock()
        for instrument in self._instruments:
            instrument.sent(sent.channel, status, sent.cause, took)
        if sent.status != "delivered":
            log.warning("%s: reply %d was not delivered: %s, %s", row.key, number, sent.status, sent.reason)
        return 0.0

    async def _send(self, outlet: Outlet, snapshot: Snapshot, message: Message, *, at: float) -> tuple[Sent, bool]:
        """Send a reply, and tell whether the outlet has said what became of it. What an outlet raises is a fault of its own, and holds up
        neither the conversation nor whoever waits for it; the reply may be out all the same, as after `send_timeout`."""
        row, number = snapshot.row, message.number
        done = deliveries.parts_done(snapshots.delivery_of(snapshot), number)
        key = deliveries.key_of(row, number)
        call = lambda: outlet.send(row.key.id, message.content, key=key, skip=done, at=at)  # noqa: E731
        answer, fault = await self._ask(call, within=self._timeout_s)
        if fault is not None:
            log_fault(
                log,
                logging.ERROR,
                fault,
                "%s: the outlet failed to send reply %d, and is asked again later.",
                row.key,
                number,
            )
            return Sent(status="retry", reason=describe_fault(fault), parts=done), False
        sent = deliveries.checked_answer(answer)
        if sent.status == "uncertain" and sent.cause == "bug":
            log.error("%s: reply %d may have gone out, and is not sent again: %s.", row.key, number, sent.reason)
        return sent, True

    async def _ask(
        self, call: Callable[[], Awaitable[Any]], *, within: float
    ) -> tuple[Any, None] | tuple[None, BaseException]:
        """Ask the outlet, and give its answer, or what it has raised. One that takes longer than *within* is cancelled; if it does not heed
        that, it is given up, and nothing that it does later counts."""

        async def ask() -> Any:
            return await call()

        # (A task of its own: an outlet that swallows its cancellation would swallow the end of whoever waits for it.)
        task = asyncio.create_task(ask(), name="chatkeep outlet")
        late = False
        try:
            await asyncio.wait((task,), timeout=within)
            if late := not task.done():
                await self._end(task)
        except BaseException:
            await self._end(task)
            raise
        if late and (not task.done() or task.cancelled()):
            return None, TimeoutError(f"it took longer than {within:g} s{'' if task.done() else ', and still runs'}")
        fault = asyncio.CancelledError() if task.cancelled() else task.exception()
        return (task.result(), None) if fault is None else (None, presentable(fault))

    async def _end(self, task: asyncio.Task[Any]) -> None:
        """Cancel a call of the outlet, and give it up where it does not end."""
        if not task.done():
            task.cancel()
            self._given_up.add(task)
            task.add_done_callback(self._let_go)
            await asyncio.wait((task,), timeout=GRACE_S)

    def _let_go(self, task: asyncio.Task[Any]) -> None:
        self._given_up.discard(task)
        if not task.cancelled():
            task.exception()  # (else asyncio tells that nobody has asked for it)

    async def close(self) -> None:
        """Close the outlet, and let go of what still runs of it. Raises what the outlet raises."""
        fault: BaseException | None = None
        if self.outlet is not None:
            _, fault = await self._ask(self.outlet.close, within=CLOSES_S)
        for task in list(self._given_up):
            with suppress(BaseException):  # it may swallow this too
                cast("Coroutine[Any, Any, Any]", task.get_coro()).close()
            task.cancel()
        await asyncio.sleep(0)
        if isinstance(fault, TimeoutError):
            log.error("The outlet was not closed: %s.", fault)
        elif fault is not None:
            raise fault

    async def _next_out(self, snapshot: Snapshot) -> Message | None:
        upto, messages = snapshots.delivery_of(snapshot).upto, snapshot.messages
        row, found = snapshot.row, list[Message]()
        held = messages and not snapshots.is_cut(snapshot)
        while upto < (messages[0].number - 1 if held else row.head) and not any(map(snapshots.is_outbound, found)):
            page = await self._store.page(row.key, row.incarnation, after=upto, limit=PAGE)
            if not page:
                break
            found, upto = page, page[-1].number
        following = deliveries.next_reply(snapshot, found)
        if isinstance(following, int):
            page = await self._store.page(row.key, row.incarnation, after=following - 1, limit=1)
            following = page[0] if page and page[0].number == following else None
        return following

    async def resend(self, key: Key, number: int) -> None:
        """Note that a reply is to be sent once more."""
        name = fresh_token()
        await self._store.commit_once(
            await self._store.reload(key),
            lambda there: deliveries.resend_reply(there, number, name, self._policy, at=self._clock()),
            at=self._clock(),
        )
