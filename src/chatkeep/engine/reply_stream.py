"""A reply that a handler makes piece by piece: pieces are gathered for a moment and recorded, and nobody is shown one before.

So what anybody has read outlives this process: the next run is given it (`turn.said`) and goes on from there, or the reply ends there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from copy import deepcopy
from typing import Any

import msgspec

from ..conversation.codec import make_storable
from ..conversation.streams import GROWING
from ..drivers.base import Key
from ..errors import BadMessage, StoreError, TooLarge
from ..model import Content, Part, text_of

FIRST_S = 0.05
"""The first pieces are recorded after so long: what is over by then is recorded once."""

SOON_S = 0.005
"""A piece that comes when nothing was recorded for a while is recorded at once."""

GATHER_S, GATHER_LONGEST_S = 0.25, 1.0
"""After that pieces are gathered for so long; longer, the more there is to write each time."""

GATHER_CHARACTERS = 16 * 1024
"""With so many characters said, pieces are gathered twice as long as at the beginning."""

ROOM = 1024  # bytes that a reply's entry has beside its content, at most


class Ended(Exception):
    """The turn is not to go on: it was stopped, or interrupted, or somebody else runs it."""


class Unaware(Exception):
    """A handler has begun to say something, and does not know what its earlier run has said: it has not read `turn.said`."""


class ReplyStream:
    """What a turn says in *key*, after what an earlier run of it has said *before*.

    *record* writes it down and answers whether the turn is still to go on; None: nobody is shown it. *limit*: bytes that a message
    may have.
    """

    def __init__(
        self,
        key: Key,
        before: Content = "",
        record: Callable[[Content], Coroutine[Any, Any, bool]] | None = None,
        *,
        limit: int = 1 << 62,
    ) -> None:
        self.key = key
        self.before = before
        """What an earlier run of the turn has said."""
        self.was_read = False
        """The handler has looked at what was said before: it knows that there may be something."""
        self.ended = False
        """The turn is not to go on."""
        self.end: Callable[[], None] = lambda: None
        """Called when the turn is not to go on any more."""
        self._parts: list[Part] = _parts_of(before)
        self._text: list[str] = []  # what the last part, a growing one, has got since it was put together
        self._size = len(str(before))
        self._fits = 0  # so large it may become before it has to be measured
        self._limit = limit
        self._record = record
        self._written = self._count = 0
        self._write_at = 0.0  # not before
        self._writer: asyncio.Task[None] | None = None

    @property
    def content(self) -> Content:
        """All that was said so far: text, or parts where any of it is something else."""
        self._join()
        if all(part.keys() == {"type", "text"} and part["type"] == "text" for part in self._parts):
            return "".join(part["text"] for part in self._parts)
        return deepcopy(self._parts)

    @property
    def is_shown(self) -> bool:
        """Whether anything of it may have been read by somebody."""
        return bool(self.before or self._written)

    @property
    def said(self) -> str:
        """The text of what was said so far, for the handler."""
        self.was_read = True
        self._join()
        return text_of(self._parts)

    @property
    def said_parts(self) -> list[Part]:
        """The parts of what was said so far, for the handler."""
        self.was_read = True
        self._join()
        return deepcopy(self._parts)

    def take(self, piece: str | Part) -> None:
        """Take what the handler says next. Raises `Ended`, `Unaware`, `BadMessage`, `TooLarge`."""
        if self.ended:
            raise Ended
        if self.before and not self.was_read:
            raise Unaware
        # (Of a framework's own kind of text what it says.)
        part = {"type": "text", "text": str.__str__(piece)} if isinstance(piece, str) else dict(piece)
        kind = part.get("type")
        if not isinstance(kind, str) or (kind in GROWING and not isinstance(part.get(kind), str)):
            raise BadMessage(
                f'{self.key}: a piece of a streamed reply is text, or a part such as {{"type": "reasoning", "reasoning": "..."}} whose '
                f"type is a text, not {piece!r:.80}; nothing of it was recorded."
            )
        if not isinstance(piece, str):
            make_storable(self.key, [part], limit=self._limit)
            part = deepcopy(part)
        self._size += len(piece) if isinstance(piece, str) else len(str(part))
        if self._size > self._fits:
            self._measure(part)
        self._count += 1
        if self._grows(part):
            self._text.append(part[kind])
        else:
            self._join()
            self._parts.append(part)
        if self._writer is None and self._record is not None:
            self._writer = asyncio.create_task(self._write(), name=f"chatkeep pieces {self.key}")

    async def close(self) -> None:
        """Record no more; wait for what is just being recorded."""
        self.ended = True
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)

    def _grows(self, part: Part) -> bool:
        last = self._parts[-1] if self._parts else {}
        kind = part["type"]
        return kind in GROWING and last.get("type") == kind and part.keys() == {"type", kind} == last.keys()

    def _join(self) -> None:
        if self._text:
            last = self._parts[-1]
            last[last["type"]] += "".join(self._text)
            self._text = []

    def _measure(self, part: Part) -> None:
        """Find out how much more may be said. Raises `TooLarge` where *part* would make the reply larger than a message may be."""
        self._join()
        taken = len(msgspec.json.encode([*self._parts, part])) + ROOM
        if taken > self._limit:
            raise TooLarge(
                f"{self.key}: the streamed reply has become longer than a message may be ({self._limit:,} bytes, message_limit)."
            )
        self._fits = self._size + (self._limit - taken) // 6  # (in JSON one character takes six bytes at most)

    async def _write(self) -> None:
        """Record what was said, again and again, until nothing new was said meanwhile."""
        assert self._record is not None
        loop = asyncio.get_running_loop()
        if not self._write_at:
            self._write_at = loop.time() + FIRST_S
        while self._written != self._count:
            await asyncio.sleep(max(self._write_at - loop.time(), SOON_S))
            count, content = self._count, self.content
            self._write_at = loop.time() + min(GATHER_S * (1 + self._size / GATHER_CHARACTERS), GATHER_LONGEST_S)
            self._written = count  # (also if nobody ever knows whether it was)
            try:
                goes_on = await self._record(content)
            except StoreError:  # the worker finds out when it commits; nobody was shown what is not recorded
                goes_on, self._written = True, -1
            if not goes_on:
                self.ended = True
                self.end()
                return
        self._writer = None


def _parts_of(content: Content) -> list[Part]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    return deepcopy(content)
