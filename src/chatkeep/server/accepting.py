"""Takes new connections: all that wait, and not one in each round of the event loop, as uvloop does.

Behind three hundred others, somebody who asks how the server is would else be heard after three hundred rounds; on a busy server that is
many seconds.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable
from typing import Any

from ..extras import from_extra

with from_extra("server", "chatkeep serve"):
    import uvloop

log = logging.getLogger("chatkeep.server")

AT_ONCE = 16
"""So many are taken in one round: requests go on meanwhile, and other processes that listen to the same socket have their share."""

FULL = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
"""What the system says when it can give no more."""

FULL_S = 1.0
"""So long the others wait in the queue of the system then."""


class Loop(uvloop.Loop):
    """uvloop's, with an `Acceptor` where it is to listen to a socket."""

    async def create_server(  # type: ignore[override]
        self, protocol_factory: Callable[[], asyncio.Protocol], *args: Any, **options: Any
    ) -> Any:
        """Listen to *sock* by an `Acceptor`, and to anything else as uvloop does."""
        listener = options.get("sock")
        if listener is None or options.get("ssl") is not None:
            return await super().create_server(protocol_factory, *args, **options)
        return Acceptor(self, listener, protocol_factory)


class Acceptor:
    """Gives a protocol that *make* has made to each connection that comes to *listener*, until it is closed."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, listener: socket.socket, make: Callable[[], asyncio.Protocol]
    ) -> None:
        self._loop = loop
        self._listener = listener
        self._make = make
        self._closed = False
        self._connecting: set[asyncio.Task[Any]] = set()
        listener.setblocking(False)
        self._listen()

    def close(self) -> None:
        """Take no more."""
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self._listener)

    async def wait_closed(self) -> None:
        """Wait until each connection that was taken has its protocol."""
        await asyncio.gather(*self._connecting)

    def _listen(self) -> None:
        if not self._closed:
            self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        for _ in range(AT_ONCE):
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionAbortedError:  # its client has gone already
                continue
            except OSError as fault:
                if fault.errno not in FULL:
                    raise
                log.critical(
                    "No connection can be taken (%s); those that come wait. Allow this process more open files.", fault
                )
                self._loop.remove_reader(self._listener)
                self._loop.call_later(FULL_S, self._listen)
                return
            connection.setblocking(False)
            connecting = self._loop.create_task(self._connect(connection), name="chatkeep connection")
            self._connecting.add(connecting)
            connecting.add_done_callback(self._connecting.discard)

    async def _connect(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._make, connection)
        except OSError:  # its client has gone already
            connection.close()
