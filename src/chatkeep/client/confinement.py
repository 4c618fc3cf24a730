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
        """Confine use to the running loop and this process. Raises `UsageError` where no loop runs, as under Trio."""
        try:
            self.loop, self._process = asyncio.get_running_loop(), os.getpid()
        except RuntimeError:
            raise UsageError(
                "The client needs an event loop of asyncio, and none runs here (Trio has another); nothing was opened. Use asyncio.run, or "
                'anyio\'s backend "asyncio"; code without an event loop uses `SyncClient`.'
            ) from None

    @property
    def has_ended(self) -> bool:
        """Whether the loop of the opening is over: nothing runs in it any more, nor can anything be ended in it."""
        return self.loop is not None and self.loop.is_closed()

    def check(self, about: str) -> None:
        """Raise `NotOpen` unless the caller is where the client was opened."""
        self.refuse_elsewhere(about)
        if self.has_ended:
            raise NotOpen(
                f"{about}: the event loop in which the client was opened has ended, and the client was not closed before; nothing was "
                "done. Close it and open it anew, or use another one in `async with Client(...)`, which closes it."
            )

    def refuse_elsewhere(self, about: str) -> None:
        """Raise `NotOpen` in another process than that of the opening, and in another loop while that one still lives."""
        if self.loop is not None and self._process != os.getpid():
            raise NotOpen(
                f"{about}: the client was opened in another process, of which this one is a fork; nothing was done. Make and open a "
                "client of its own in this process."
            )
        if self.loop is not None and not self.has_ended and asyncio.get_running_loop() is not self.loop:
            raise NotOpen(
                f"{about}: the client was opened in another event loop; nothing was done. Use it there, or open another one in this "
                "loop; one `SyncClient` serves all threads."
            )

    def refuse_second(self) -> None:
        """Raise `UsageError` unless the loop of the opening has ended: what it has open would be lost. In a fork it is the parent's."""
        if self._process == os.getpid() and not self.has_ended:
            raise UsageError("The client is open already; nothing was done. Close it first, or use another one.")
        self.refuse_elsewhere("open")
