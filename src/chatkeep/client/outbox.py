"""Messages that wait on this host until the server has them: durable in a local SQLite file, sent in order, once each.

Once each comes from the ids: a message whose answer was lost is sent again under the id it was posted with. Each process
has a file of its own, as two that send from one would overtake each other.

A message belongs to the subject whose credential the client had when it was posted, and goes out with a credential of
that subject only. As long as the server has not said whose a credential is, the message belongs to the credential itself
(its SHA-256); what was posted without any belongs to the run of the program, and what an older release has queued to
nobody.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import msgspec

from ..conversation.keys import key_for, message_id
from ..errors import ChatkeepError, Uncertain
from .link import TokenChanged, pause
from .outbox_file import OutboxFile, Owners
from .owners import Holder, Totals, credential_of
from .refusals import PreconditionFailed
from .values import Pending, Queued

log = logging.getLogger("chatkeep.client")

SENDERS = 8
BUSY_S = 1.0

HELD = (
    "Messages of another subject, or of nobody known, stay here. Give the client their credential; what nobody known has posted "
    "goes out as this credential's after client.adopt()."
)

Told = Callable[[str], None]
Deliver = Callable[[Queued, bool, bool, str | None, Told], Awaitable[bool]]
NameOf = Callable[[str, Told], Awaitable[str]]
Settled = Callable[[Queued, str], None]


class Postponed(Exception):
    """It is not known yet what becomes of a message: the server is asked again in a while, and others go out meanwhile."""


class Outbox:
    """What is posted for the server at *server*, kept in the file at *path* and sent from there."""

    def __init__(self, path: str, server: str) -> None:
        self._path = path
        self._file = OutboxFile(path, server)
        self._holder = Holder()
        self._totals = Totals()
        self._ready = ReadyConversations()
        self._trouble = Trouble()
        self._tasks: list[asyncio.Task[None]] = []
        self._empty = asyncio.Event()
        self._changed = asyncio.Event()  # there is another credential, or the first message for one
        self._first = True  # no credential was in hand yet in this run
        self._asking = False  # whose the credential is may bring more to be sent

    async def open(self, deliver: Deliver, name_of: NameOf, settled: Settled) -> None:
        """
        Open the file; what an earlier run has left in it goes out first.

        *deliver* is told, too, whether the conversation was there when the message was posted, and whether the message has waited
        since; it tells whether the conversation is there by now: what a server has in its journal has begun none yet, and where it is
        to begin none, this raises `Postponed`. *settled* is told of each message that went out, and of each that was refused, with the
        reason. *name_of* asks the server for the subject of a token, as long as it takes. Raises `Misconfigured`.
        """
        await self._file.open()
        self._ready = ReadyConversations()
        self._empty, self._changed = asyncio.Event(), asyncio.Event()  # an event belongs to the loop that waits for it
        try:
            self._holder.remember(await self._file.subjects())
            self._asking = self._holder.is_unnamed
            await self._look_again()
        except BaseException:
            await self.close()
            raise
        self._changed.set()
        work = [self._keep_named(name_of), *[self._send(deliver, settled) for _ in range(SENDERS)]]
        self._tasks = [asyncio.create_task(each, name="chatkeep-outbox") for each in work]

    async def close(self) -> None:
        """Stop sending and close the file; what it holds stays."""
        tasks, self._tasks = [] if self._file.confinement.has_ended else self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._file.close()

    @property
    def pending(self) -> Pending:
        """How far it is."""
        waiting, refused = self._totals.of(self._holder.owners)
        held = self._totals.all - waiting - refused
        trouble = self._trouble.words if waiting else HELD if held and not self._asking else ""
        return Pending(waiting=waiting, refused=refused, held=held, trouble=trouble)

    def use(self, token: str | None) -> None:
        """Send from now on what belongs to the subject of *token*. Any thread may say so."""
        self._holder.token = token
        self._trouble.end()
        self._asking = self._holder.is_unnamed
        if self._asking:
            self._empty.clear()
        if (loop := self._file.confinement.loop) is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._changed.set)

    async def hand_over(self, before: str | None, after: str) -> None:
        """Give what was posted with one token, or without any in this run, to another token of the same holder."""
        source, subject = self._holder.owners_of(before)
        if subject != source:
            await self.name(after, subject)
            return
        await self._file.give(self._holder.owners_of(after)[1], source)
        await self._look_again()

    async def hand_on(self, before: str, after: str) -> None:
        """Give what was posted with a guest's token, by the guest, to the user of another one: the guest was claimed."""
        await self._file.give(self._holder.owners_of(after)[1], *self._holder.owners_of(before))
        await self._look_again()

    async def discard(self) -> None:
        """Delete what waits and what was refused of the subject in whose name is sent now, and which conversations it has."""
        await self._file.discard(self._holder.owners)
        await self._look_again()

    async def adopt(self) -> int:
        """Give what nobody known has posted to the owner in whose name is sent now; answers how many messages that are."""
        adopted = await self._file.adopt(self._holder.owners[1])
        await self._look_again()
        return adopted

    async def put(self, conversation: str, id: str, message: bytes) -> None:
        """Make a message durable here. The same once more changes nothing; other content under its id is refused."""
        message_id(key_for("", conversation), id)
        await _whole(self._put(conversation, id, message, self._holder.owners))

    async def drained(self) -> None:
        """Wait until no message waits that may go out with the client's credential."""
        self._file.confinement.check(f"queue={self._path}")
        await self._empty.wait()

    async def refused(self) -> list[Queued]:
        """Return what the server did not want, oldest first."""
        return await self._file.refused(self._holder.owners)

    async def retry(self, number: int) -> None:
        """Send a refused message again, also where its conversation was erased: it begins a new one then."""
        await _whole(self._retry(number))

    async def forget(self, conversation: str) -> None:
        """Note that a conversation was erased on purpose: what is posted from now on begins a new one."""
        await self._file.end(conversation, self._holder.owners)

    async def drop(self, number: int) -> None:
        """Forget a refused message."""
        await _whole(self._drop(number))

    async def name(self, token: str, subject: str) -> None:
        """Note whose a token is; what was posted with it is that subject's."""
        await self._file.name(credential_of(token), subject)
        self._holder.name(token, subject)
        self._asking = False
        await self._look_again()

    async def _put(self, conversation: str, id: str, message: bytes, owners: Owners) -> None:
        is_new = await self._file.put(conversation, id, message, owners)
        self._count(owners[1], int(is_new), 0)
        self._ready.wake(conversation)
        if self._holder.is_unnamed:
            self._changed.set()

    async def _retry(self, number: int) -> None:
        conversation, owner = await self._file.retry(number, self._holder.owners)
        self._count(owner, 1, -1)
        self._ready.wake(conversation)

    async def _drop(self, number: int) -> None:
        _, owner = await self._file.drop(number, self._holder.owners)
        self._count(owner, 0, -1)

    async def _keep_named(self, name_of: NameOf) -> None:
        """Learn of each credential whose it is, once there is something in the queue."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            token = self._holder.token
            try:
                if token is not None and self._first:
                    self._first = False
                    await self.hand_over(None, token)
                self._asking = self._holder.is_unnamed and self._totals.all > 0
                await self._look_again()
                if token is not None and self._asking:
                    await self.name(token, await name_of(token, self._trouble.tell))
            except TokenChanged:
                continue
            except ChatkeepError as fault:  # an older server, for one: what is posted belongs to the credential alone
                log.info("queue=%s: whose the credential is was not told: %s", self._path, fault)
            except Exception as fault:
                log.exception("queue=%s: %s", self._path, fault)  # noqa: TRY401
                await asyncio.sleep(BUSY_S)
            self._asking = False
            self._note_emptiness()

    async def _send(self, deliver: Deliver, settled: Settled) -> None:
        while True:
            conversation = await self._ready.next()
            # The message goes out with this token, or not at all.
            token, owners = self._holder.token, self._holder.owners
            try:
                if (first := await self._file.first(conversation, owners)) is not None:
                    try:
                        await self._settle(*first, token, owners, deliver, settled)
                    except Postponed:
                        self._ready.postpone(conversation, first[0].number)
                        continue
                elif self._ready.leave(conversation):
                    continue
            except Exception as fault:  # a full disk, or a bug: the message stays, and its conversation waits
                log.exception("queue=%s: %s", self._path, fault)  # noqa: TRY401
                self._trouble.tell(f"{type(fault).__name__}: {fault}")
                await asyncio.sleep(BUSY_S)
            self._ready.put_back(conversation)

    async def _settle(
        self,
        queued: Queued,
        there: bool,
        token: str | None,
        owners: Owners,
        deliver: Deliver,
        settled: Settled,
    ) -> None:
        reason, is_there = "", False
        try:
            has_waited = self._trouble.has_kept(queued) or self._ready.has_postponed(queued)
            is_there = await deliver(queued, there, has_waited, token, self._trouble.tell)
        except TokenChanged:
            return
        except Uncertain as doubt:  # it may be there, or another program has answered
            self._trouble.tell(str(doubt))
            raise Postponed from doubt
        except ChatkeepError as refusal:
            if isinstance(refusal, PreconditionFailed):  # it was erased meanwhile, for what was posted behind it too
                await self._file.end(queued.conversation, owners)
            reason = str(refusal) or type(refusal).__name__
        owner = await self._file.settle(queued, reason, taken_by=owners[1] if is_there else "")
        if owner is not None:
            self._count(owner, -1, int(bool(reason)))
        self._trouble.end()
        settled(queued, reason)

    def _count(self, owner: str, waiting: int, refused: int) -> None:
        self._totals.add(owner, waiting, refused)
        self._note_emptiness()

    def _note_emptiness(self) -> None:
        if self._totals.of(self._holder.owners)[0] or self._asking:
            self._empty.clear()
        else:
            self._empty.set()

    async def _look_again(self) -> None:
        """Count anew, and wake every conversation: others may go out now."""
        found = await self._file.held()
        self._totals.clear()
        for owner, conversation, waiting, refused in found:
            self._totals.add(owner, waiting, refused)
            if waiting:
                self._ready.wake(conversation)
        self._note_emptiness()  # only now is it known whether nothing waits


class Waiting(msgspec.Struct):
    """A conversation to be looked at. came: something came since somebody looked. postponed: the number of its message that was
    `Postponed` last, *tries* times in a row."""

    came: bool = True
    postponed: int = 0
    tries: int = 0


class ReadyConversations:
    """Conversations that are to be looked at for something to send, first come first served, and each by one sender at a time."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[str] = asyncio.Queue()
        self._known: dict[str, Waiting] = {}

    def wake(self, conversation: str) -> None:
        """Have *conversation* looked at, or looked at once more by the sender that has it."""
        if conversation not in self._known:
            self._queue.put_nowait(conversation)
            self._known[conversation] = Waiting()
        self._known[conversation].came = True

    async def next(self) -> str:
        """Return the next conversation; nobody else gets it before `put_back`, `postpone` or `leave`."""
        conversation = await self._queue.get()
        self._known[conversation].came = False
        return conversation

    def put_back(self, conversation: str) -> None:
        """Have it looked at again, behind the others."""
        self._queue.put_nowait(conversation)

    def postpone(self, conversation: str, number: int) -> None:
        """Have it looked at again after a pause, as its message *number* cannot be settled yet: it waits, and no sender with it."""
        waiting = self._known[conversation]
        waiting.tries = waiting.tries + 1 if waiting.postponed == number else 1
        waiting.postponed = number
        asyncio.get_running_loop().call_later(pause(waiting.tries), self._queue.put_nowait, conversation)

    def has_postponed(self, queued: Queued) -> bool:
        """Tell whether a message was put off before."""
        return self._known[queued.conversation].postponed == queued.number

    def leave(self, conversation: str) -> bool:
        """Forget a conversation in which nothing waits; False when something came meanwhile, and it must be looked at again."""
        if self._known[conversation].came:
            return False
        del self._known[conversation]
        return True


class Trouble:
    """Why what waits was not sent yet, and which messages have waited: for this run, or for the server."""

    def __init__(self) -> None:
        self.words = ""
        self._until = time.time()

    def tell(self, words: str) -> None:
        """Note what is in the way."""
        self.words = words

    def end(self) -> None:
        """Note that nothing is in the way any more; what was posted until now has waited for that."""
        if self.words:
            self.words, self._until = "", time.time()

    def has_kept(self, queued: Queued) -> bool:
        """Tell whether a message was posted while something was in the way, or before this run."""
        return queued.posted_at <= self._until


async def _whole(act: Coroutine[Any, Any, None]) -> None:
    """Have *act* come to its end also where its caller is cancelled: the file has changed all the same, and must be counted and sent."""
    await asyncio.shield(asyncio.create_task(act))
