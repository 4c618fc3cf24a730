"""How acts travel to the worker: what one event-loop tick brings for a lane goes in one POST, and one POST of a lane is under way at
a time, so that what waits meanwhile goes together. A conversation has one lane, which keeps its acts in order.

Each POST is signed: HMAC-SHA256 with the secret, over its method, path, time and body. The worker refuses a signature whose time is
five minutes off. Within that time whoever has read a request, which takes a broken TLS, can send it again: appends and writes
know themselves again by their ids and revisions, an erasure would erase again.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
from msgspec import Struct

from ...errors import ChatkeepError, Overloaded, Replaced, TooLarge, Unavailable, Uncertain
from ...extras import from_extra
from ..base import WAITING, Pool, settle
from ..batching import ANSWERS, WAITS, BatchingQueue, never_sent
from .seam import Crowded, Refused, Site, What
from .websocket import messages

with from_extra("durable-object", "A Durable Objects store (durable-object://)"):
    from ..http import Answer, HttpConnection, scheme_fault

if TYPE_CHECKING:
    from ssl import SSLContext

log = logging.getLogger("chatkeep")

LANES = 4  # of acts on conversations; what else there is has one each
BATCH = 100
BATCH_FIRST = 10  # until it is known how fast the worker is
BATCH_BYTES = 8 << 20
PAUSE_S = 0.5  # the longest between two attempts to connect; the shortest is random
SILENT_S = 20.0  # a WebSocket that says nothing for so long is asked whether it is there

AT_REST: tuple[What, ...] = ("look", "open", "places", "counts", "rings", "fences")


class Call(Struct, eq=False):
    """One act on its way, and the future of its answer. Cancelling that does not take the act back."""

    said: bytes
    writes: bool
    deadline: float
    answered: asyncio.Future[Any]
    size: int
    # One connection carries all of a lane, in order.
    kind: ClassVar[None] = None
    key: ClassVar[None] = None

    @property
    def undone(self) -> str:
        """What certainly did not happen."""
        return "nothing was written" if self.writes else "nothing was read"


class Lane:
    """A connection while there is one, and the acts of one kind that wait for it."""

    def __init__(self, connections: Connections, what: What) -> None:
        self.connection: HttpConnection | None = None
        self.queue: BatchingQueue[Call] = BatchingQueue(self._expire, most=BATCH, room=BATCH_BYTES)
        self._task: asyncio.Task[None] | None = None
        self._connections, self._what = connections, what
        self._fault = ""
        self._most = BATCH_FIRST
        self._sends = False

    def put(self, call: Call) -> None:
        """Queue *call*."""
        if not self.queue.put(call):
            said = f"{WAITING} acts wait for {self._connections.site.name} already; {call.undone}. Try again later."
            settle(call.answered, Overloaded(said))
        elif self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="chatkeep durable object lane")

    async def _run(self) -> None:
        while await self.queue.filled():
            connection = await self._connected()
            ready = min(len(self.queue.calls), self._most)
            if connection is not None and (batch := self.queue.take(ready=ready)):
                self._sends = True
                await self._send(connection, batch)
                self._sends = False
                if self.queue.calls:
                    await asyncio.sleep(0)  # those who were answered now may have more

    def give(self) -> HttpConnection | None:
        """Give the connection away, if there is one and it is of no use here now."""
        if self._sends or self.queue.calls:
            return None
        connection, self.connection = self.connection, None
        return connection

    async def _connected(self) -> HttpConnection | None:
        """Return a connection; None when there is none now, or never will be, which is told to all that wait."""
        if self.connection is not None and await self.connection.still_listens():
            return self.connection
        self.drop()
        self.connection = await self._connections.spare()
        if self.connection is not None:
            return self.connection
        try:
            # So that a call may outlive an address that is gone.
            async with asyncio.timeout(self._connections.site.timeout / 2):
                self.connection = await self._connections.connect()
        except (OSError, TimeoutError) as fault:
            self._fault = str(fault) or "it does not answer"
            if refused := refused_by(fault):
                for call in self.queue.clear():
                    settle(call.answered, Refused(f"{self._connections.site.name} {refused}; {call.undone}."))
            if self.queue.calls:
                await asyncio.sleep(random.uniform(0.01, PAUSE_S))
        return self.connection

    def _expire(self, late: list[Call]) -> None:
        for call in late:
            settle(call.answered, never_sent(self._connections.site.name, self._fault, call.undone))

    async def _send(self, connection: HttpConnection, batch: list[Call]) -> None:
        site = self._connections.site
        path = f"/store/{site.store}/{self._what}"
        acts = b",".join([call.said for call in batch])
        body = b'{"epoch":%s,"acts":[%s]}' % (msgspec.json.encode(self._connections.epoch), acts)
        answers: list[Any]
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            async with asyncio.timeout_at(batch[0].deadline + ANSWERS * site.timeout):
                answer = await connection.post(signed(site, "POST", path, body), body)
            self._fault = ""
            answers = answers_in(site, answer, batch)
            # Twice as many would still be answered in the time that is left to a call that has waited as long as it may.
            if len(batch) == self._most and loop.time() - began < site.timeout * ANSWERS / 2:
                self._most = min(2 * self._most, BATCH)
        except (OSError, TimeoutError) as fault:
            self.drop()
            if isinstance(fault, TimeoutError):
                self._most = max(len(batch) // 2, 1)
            self._fault = str(fault) or f"silent for {site.timeout:g} s"
            answers = [unanswered(site, self._fault, call) for call in batch]
        except BaseException:
            for call in batch:
                settle(call.answered, unanswered(site, "it was closed", call))
            raise
        for call, told in zip(batch, answers, strict=True):
            settle(call.answered, told)

    def drop(self) -> None:
        """Close the connection, if there is one."""
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.abort()

    async def close(self) -> None:
        """Have what is under way answered, then close the connection, if there is one."""
        if self._task is not None:
            await self.queue.close(self._task)
        connection, self.connection = self.connection, None
        if connection is not None:
            await connection.close()


class Connections:
    """The connections to the worker at one address, for one store: a lane has one while it needs it, and keeps it while no other does."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.epoch = ""
        self._tls: SSLContext | None = None
        self._closed = False
        self._acts = [Lane(self, "acts") for _ in range(LANES)]
        self._others = {what: Lane(self, what) for what in AT_REST}
        if site.tls:
            import ssl  # takes 17 ms, and a worker on this machine needs none

            self._tls = ssl.create_default_context()

    @property
    def _lanes(self) -> list[Lane]:
        return [*self._acts, *self._others.values()]

    async def close(self) -> None:
        """Have what is under way answered, then give everything back."""
        self._closed = True
        await asyncio.gather(*(lane.close() for lane in self._lanes))

    def pool(self) -> Pool:
        """Return the connections that acts use."""
        lanes = self._lanes
        return Pool(
            sum(lane.connection is not None for lane in lanes), len(lanes), sum(len(lane.queue.calls) for lane in lanes)
        )

    def act(self, what: What, said: bytes, *, lane: int = 0, writes: bool = False) -> asyncio.Future[Any]:
        """Have the worker do an act."""
        loop = asyncio.get_running_loop()
        call = Call(said, writes, loop.time() + WAITS * self.site.timeout, loop.create_future(), len(said))
        if self._closed:
            settle(call.answered, Unavailable(f"{self.site.name} is closed; {call.undone}."))
        else:
            (self._acts[lane % LANES] if what == "acts" else self._others[what]).put(call)
        return call.answered

    async def spare(self) -> HttpConnection | None:
        """Return a connection that no lane needs now: the opening's serves the first message, so that a function connects once."""
        for lane in self._lanes:
            if (connection := lane.give()) is not None:
                if await connection.still_listens():
                    return connection
                connection.abort()
        return None

    async def connect(self) -> HttpConnection:
        """Return a new connection. Raises OSError."""
        return await HttpConnection.open(self.site.host, self.site.port, self._tls)

    async def listen(self, heard: Callable[[bytes], None]) -> None:
        """Have *heard* called with what the bell rings, on a connection of its own that comes back by itself.

        The bell rings whoever comes back, for what may have been rung meanwhile.
        """
        path = f"/store/{self.site.store}/watch"
        again = b""
        while True:
            try:
                async with asyncio.timeout(self.site.timeout):
                    connection = await self.connect()
                head = signed(self.site, "GET", path, b"") + again
                again = b"\r\nx-chatkeep-again: 1"
                async with contextlib.aclosing(messages(connection, head, SILENT_S)) as arriving:
                    async for message in arriving:
                        heard(message)
            except (OSError, TimeoutError) as fault:
                log.info("%s: announcements are interrupted (%s); listening again soon", self.site.name, fault)
            await asyncio.sleep(random.uniform(0, 2 * PAUSE_S))


async def scheme_fault_of(site: Site) -> str:
    """Return what is wrong with a URL whose server speaks the other one of https and http; '' where that is not known."""
    return await scheme_fault(site.host, site.port, tls=site.tls, within=site.timeout)


def signed(site: Site, method: str, path: str, body: bytes) -> bytes:
    """Return the head of a request that carries its signature."""
    host = f"[{site.host}]" if ":" in site.host else site.host
    if site.port not in (80, 443):
        host += f":{site.port}"
    lines = (
        f"{method} {path} HTTP/1.1",
        f"host: {host}",
        f"authorization: {signature(site.secret, method, path, body)}",
    )
    return "\r\n".join(lines).encode()


def signature(secret: str, method: str, path: str, body: bytes) -> str:
    """Return the header that signs a request, for the worker's `refusalOf`."""
    now = int(time.time())
    said = b"%b\n%b\n%d\n%b" % (method.encode(), path.encode(), now, body)
    return f"HMAC-SHA256 {now}.{hmac.digest(secret.encode(), said, 'sha256').hex()}"


class _Said(Struct):
    """A refusal in the worker's words."""

    error: str = ""


def answers_in(site: Site, answer: Answer, batch: list[Call]) -> list[Any]:
    """Return what each call of a batch is told, be it an error."""
    if answer.status == 200:
        try:
            answers: list[Any] = msgspec.json.decode(answer.body, type=list[Any])
        except msgspec.MsgspecError:
            answers = []
        if len(answers) == len(batch):
            return [answer_of(site, told, call) for told, call in zip(answers, batch, strict=True)]
    try:
        said = msgspec.json.decode(answer.body, type=_Said).error
    except msgspec.MsgspecError:
        said = ""
    return [refusal(site, answer.status, said, call) for call in batch]


def refusal(site: Site, status: int, said: str, call: Call) -> ChatkeepError:
    """Return what a *status* that is no answer means for *call*."""
    if status == 401:
        return Refused(f"{site.name}: {said or 'it refuses the secret.'} {call.undone.capitalize()}.")
    if status in (403, 404, 405):
        what = said or "there is no chatkeep worker at this address."
        return Refused(f"{site.name}: {what} {call.undone.capitalize()}.")
    if status == 413:
        return TooLarge(f"{site.name} takes no request of {len(call.said):,} bytes; {call.undone}.")
    if status == 429:
        return Unavailable(f"{site.name} takes no more requests now (429); {call.undone}. Try again later.")
    return unanswered(site, f"{status} {said}".strip(), call)


def answer_of(site: Site, told: Any, call: Call) -> Any:
    """Return one answer of the worker, or the error that it stands for."""
    if not isinstance(told, dict):
        return told
    if "replaced" in told:
        return Replaced(
            f"{call.undone.capitalize()}: {site.name} was emptied, or another has taken its place, since it was opened. Look at "
            "what happened to it; then start chatkeep anew."
        )
    if "undone" in told:
        return Crowded(f"{site.name} is busy: {told['error']}; {call.undone}. Try again soon.")
    return unanswered(site, told["error"], call) if "error" in told else told


def unanswered(site: Site, why: str, call: Call) -> ChatkeepError:
    """Return what is said of an act that left and was not answered."""
    if call.writes:
        return Uncertain(
            f"{site.name} did not answer ({why}): perhaps it was written. Send it again under the same id."
        )
    return Unavailable(f"{site.name} did not answer ({why}); {call.undone}. Try again.")


def refused_by(fault: BaseException) -> str:
    """Return what is wrong with a connection that trying again does not mend; '' for nothing of the kind."""
    kind = type(fault).__module__
    return f"cannot be talked to over TLS ({fault})" if kind == "ssl" else ""
