"""A turn while its handler runs: whether it is still to go on, by what others have written since it began.

It is not when somebody has stopped it, or erased the conversation, when another instance has taken the lease, or, with
overlap="interrupt", when another message came. Then its run is ended, and what it said is dealt with by the worker.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from ..conversation import turns
from ..conversation.snapshots import Policy, Snapshot
from ..errors import ChatkeepError
from ..model import Content, Message
from ..storage.store import Store
from .reply_stream import ReplyStream


class RunningTurn:
    """The turn on *started* with the messages *tried*, under *lease*; *end* ends its run. `async with` surrounds the run."""

    def __init__(
        self,
        store: Store,
        policy: Policy,
        started: Snapshot,
        tried: list[Message],
        lease: str,
        *,
        stream: ReplyStream | None,
        end: Callable[[], None],
    ) -> None:
        self.stream = stream
        self._store = store
        self._policy = policy
        self._started = started
        self._tried = tried
        self._lease = lease
        self._end = end
        self._ended = False
        self._looking: asyncio.Task[None] | None = None
        if stream is not None:
            stream.end = self._end_it

    @property
    def content(self) -> Content:
        """What its reply has said so far; "" where it has said nothing, or does not stream."""
        return self.stream.content if self.stream is not None else ""

    @property
    def knows(self) -> bool:
        """Whether a second run goes on where this one ends: its handler has looked at what was said, or nothing was shown."""
        return self.stream is None or self.stream.was_read or not self.stream.is_shown

    async def __aenter__(self) -> RunningTurn:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._ended = True
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        if self.stream is not None:
            await self.stream.close()

    def look(self, there: Snapshot | None) -> None:
        """Look at what is there now, and end the run if the turn is not to go on."""
        if there is not None and not turns.is_wanted(
            self._started, there, self._tried, self._policy, lease=self._lease
        ):
            self._end_it()

    def look_again(self) -> None:
        """Look at what the store has: another instance has written to the conversation."""
        if not self._ended and self._looking is None:
            self._looking = asyncio.create_task(self._reload(), name=f"chatkeep look {self._started.row.key}")

    async def _reload(self) -> None:
        with suppress(ChatkeepError):
            self.look(await self._store.load(self._started.row.key))
        self._looking = None

    def _end_it(self) -> None:
        if not self._ended:
            self._ended = True
            self._end()
