"""One connection to a Redis or Valkey server: opened, authenticated, written to and read from. hiredis speaks its protocol, RESP 2.

Nothing is sent that was not asked for, and nothing is sent again: a library's own retries would run an act twice when only its
answer was lost.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

from ...extras import from_extra
from ..sockets import connected, keep_alive
from .scripts import Argument
from .seam import Address

with from_extra("redis", "A Redis store (redis://)"):
    import hiredis
    from hiredis import ReplyError

Command = tuple[Argument, ...]

# (hiredis' types say that a command has one word)
pack_command: Callable[[Command], bytes] = hiredis.pack_command  # type: ignore[assignment]

READ_MOST = 1 << 16
NO_ANSWER = object()
PASSING = ("LOADING ", "ERR max number of clients reached")  # what a server answers that trying again may mend


class ErrorReply(ConnectionError):
    """A server has answered a command with an error, so that there is no connection."""

    def __init__(self, words: str) -> None:
        super().__init__(words)
        self.code = words.partition(" ")[0]

    @property
    def lasts(self) -> bool:
        """Whether trying again mends nothing."""
        return not str(self).startswith(PASSING)


class Connection:
    """Carries commands, and their answers in the same order. What breaks it raises OSError."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._answers = hiredis.Reader(notEnoughData=NO_ANSWER)

    @classmethod
    async def open(
        cls,
        address: Address,
        *,
        user: str = "",
        password: str = "",
        database: int = 0,
        tls: dict[str, str] | None = None,
        greeting: Sequence[Command] = (),
    ) -> Connection:
        """Connect to *address*, authenticate, and have the commands of *greeting* done, all in one round trip.

        *tls* names the files of a `ca`, and of a `cert` and its `key`, if there are any. Of a *greeting* the first command counts, where it
        is allowed; what is answered to the others does not.
        """
        context = None if tls is None else _context(**tls)
        connection = cls(*await connected(*address, context))
        admits: list[Command] = []
        if user or password:
            admits.append((b"AUTH", *([user] if user else []), password))
        if database:
            admits.append((b"SELECT", database))
        try:
            keep_alive(connection._writer.transport)
            answers = await connection.ask_all([*admits, *greeting])
            for place, answer in enumerate(answers[: len(admits) + 1]):
                if isinstance(answer, ReplyError) and (place < len(admits) or not str(answer).startswith("NOPERM")):
                    raise ErrorReply(str(answer))
        except BaseException:
            connection.abort()
            raise
        return connection

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.abort()

    async def send(self, packed: bytes) -> None:
        """Write commands, and wait while too much of them is still here."""
        self._writer.write(packed)
        await self._writer.drain()

    async def answers(self) -> list[Any]:
        """Wait until something has arrived; return the answers that are whole, an error as a `ReplyError`."""
        arrived = await self._reader.read(READ_MOST)
        if not arrived:
            raise ConnectionError("the server has closed the connection")
        found = []
        try:
            self._answers.feed(arrived)
            while (answer := self._answers.gets()) is not NO_ANSWER:
                found.append(answer)
        except hiredis.ProtocolError as fault:
            raise ConnectionError(f"what answers is no Redis ({fault})") from fault
        return found

    async def ask(self, *command: Argument) -> Any:
        """Send a command and return its answer, where no other is under way. Raises `ErrorReply`."""
        answer, *_ = await self.ask_all([command])
        if isinstance(answer, ReplyError):
            raise ErrorReply(str(answer))
        return answer

    async def ask_all(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands in one write and return their answers, where none is under way. Raises `ErrorReply` when the server gives
        a reason at once and hangs up."""
        found: list[Any] = []
        try:
            await self.send(b"".join(map(pack_command, commands)))
            while len(found) < len(commands):
                found += await self.answers()
        except OSError:
            if found and isinstance(found[0], ReplyError):
                raise ErrorReply(str(found[0])) from None
            raise
        return found

    async def messages(self, channel: bytes) -> AsyncGenerator[bytes]:
        """Subscribe to a channel, and return what is said on it, one after another. Raises `ErrorReply`."""
        await self.send(pack_command((b"SUBSCRIBE", channel)))
        while True:
            for said in await self.answers():
                if isinstance(said, ReplyError):
                    raise ErrorReply(str(said))
                if said[0] == b"message":
                    yield said[2]

    def abort(self) -> None:
        """Close the socket at once: nothing of what is still held back may reach the server later."""
        self._writer.transport.abort()


def _context(ca: str = "", cert: str = "", key: str = "") -> ssl.SSLContext:
    """Made anew for each connection: the files may be others by now."""
    context = ssl.create_default_context()
    if cert or key:
        context.load_cert_chain(cert, key or None)
    if ca:
        context.load_verify_locations(ca)
    return context


def refused_by(fault: BaseException) -> str:
    """Return what a server has against us that trying again does not mend; '' for nothing of the kind."""
    if isinstance(fault, ssl.SSLError):
        return f"no TLS connection can be made ({fault})"
    if isinstance(fault, ErrorReply) and fault.lasts:
        kept_out = fault.code == "WRONGPASS" or "AUTH" in str(fault)
        return f"it does not let us in ({fault})" if kept_out else f"it refuses the connection ({fault})"
    return ""
