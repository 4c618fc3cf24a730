"""Where an open client may be used: in the event loop and the process that opened it. Its connections belong to these."""

from __future__ import annotations

import asyncio
import os

from ..errors import NotOpen, UsageError


class Confinement:
    """Remembers the event loop and process of an opening, and refuses calls from anywhere else."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self._process = 0

    def begin(self) -> None:
        """Confine use to the running loop and this process."""
        self.loop, self._process = asyncio.get_running_loop(), os.getpid()

    def check(self, about: str) -> None:
        """Raise `NotOpen` unless the caller is where the client was opened."""
        if self.loop is None:
            return
        if self._process != os.getpid():
            raise NotOpen(
                f"{about}: the client was opened in another process, of which this one is a fork; nothing was done. Make and open a "
                "client of its own in this process."
            )
        if asyncio.get_running_loop() is self.loop:
            return
        if self.loop.is_closed():
            raise NotOpen(
                f"{about}: the event loop in which the client was opened has ended, and the client was not closed before; nothing was "
                "done. Close it and open it anew, or use another one in `async with Client(...)`, which closes it."
            )
        raise NotOpen(
            f"{about}: the client was opened in another event loop; nothing was done. Use it there, or open another one in this "
            "loop; one `SyncClient` serves all threads."
        )

    def refuse_second(self) -> None:
        """Raise `UsageError` where the loop of an opening still lives: what it has open would be lost."""
        if self.loop is not None and not self.loop.is_closed() and self._process == os.getpid():
            raise UsageError("The client is open already; nothing was done. Close it first, or use another one.")
