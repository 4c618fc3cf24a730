"""The answer to one message as it is made: what every protocol shows, in the order in which it may be shown.

A protocol cannot take text back. So an answer is a row of *blocks*: texts, which grow, and other parts, which are whole. Text that a
turn has shown, and that another try of it says differently, is a block that ends there; the recorded reply is the next one.

Nothing is stored for this. Whoever follows an answer, at once or later, on whichever instance, is given all of it from its
first character on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from msgspec import Struct

from ...core import Core
from ...engine.watch import Watch
from ...errors import StoreError
from ...model import ASKING, Delta, Erased, Message, Typing

TICK_S = 3.0
"""So often it is looked whether the bot was paused; that asks nobody."""

LOOK_S = 15.0
"""So often the store is asked what became of the message, in case that was not announced; and a beat is sent."""

PATIENCE_S = 60.0
"""Where this process has no handler, an answer that nobody begins is waited for so long."""


class TextBegan(Struct, frozen=True):
    """A block of text begins."""

    block: int


class TextGrew(Struct, frozen=True):
    """A block of text goes on with *text*."""

    block: int
    text: str


class TextEnded(Struct, frozen=True):
    """A block of text is whole. *void*: it is part of no recorded reply, because the turn was tried again."""

    block: int
    text: str
    void: bool = False


class PartShown(Struct, frozen=True):
    """A part that is no text is there."""

    block: int
    part: dict[str, Any]


class Ended(Struct, frozen=True):
    """Nothing more comes. *status*: as a receipt has it, or "erased", "closing" (this process stops), "unattended" (nobody here
    answers). *reason*: why the message was set aside. *replies*: the answer as it is recorded."""

    status: str
    reason: str = ""
    replies: Sequence[Message] = ()


Step = TextBegan | TextGrew | TextEnded | PartShown | Ended | None
"""One step of an answer; None is a beat: nothing has happened for a while, and whoever listens still may."""


def parts_of(message: Message) -> list[dict[str, Any]]:
    """Return what a message says as parts: text is one part of type "text"."""
    if isinstance(message.content, str):
        return [{"type": "text", "text": message.content}] if message.content else []
    return message.content


def is_text(part: dict[str, Any]) -> bool:
    """Tell whether a part is text and nothing else."""
    return part.get("type", "text") == "text" and isinstance(part.get("text"), str)


class Blocks:
    """The blocks of one answer, as far as they were shown."""

    def __init__(self) -> None:
        self._next = 0
        self._open: int | None = None
        self._said = ""

    def grow(self, at: int, text: str) -> Iterator[Step]:
        """Show what a turn says: *text* stands *at* that many characters of it; at 0 it begins anew."""
        if self._open is not None and at == 0 and self._said:
            yield from self._end(void=True)
        if self._open is None:
            yield from self._begin()
        if (fresh := text[max(len(self._said) - at, 0) :]) and self._open is not None:
            self._said += fresh
            yield TextGrew(self._open, fresh)

    def record(self, replies: Sequence[Message]) -> Iterator[Step]:
        """Show the recorded *replies*, as far as they were not shown; first the one that was begun."""
        left = [part for reply in replies for part in parts_of(reply)]
        begun = next((part for part in left if is_text(part) and part["text"].startswith(self._said)), None)
        if self._open is not None and begun is None:
            yield from self._end(void=True)
        if self._open is not None and begun is not None:
            left.remove(begun)
            yield from self._finish(begun["text"])
        for part in left:
            if is_text(part):
                yield from self._begin()
                yield from self._finish(part["text"])
            else:
                yield PartShown(self._next, part)
                self._next += 1

    def close(self) -> Iterator[Step]:
        """End what was begun and is not recorded."""
        if self._open is not None:
            yield from self._end(void=True)

    def _begin(self) -> Iterator[Step]:
        self._open, self._said = self._next, ""
        self._next += 1
        yield TextBegan(self._open)

    def _finish(self, text: str) -> Iterator[Step]:
        assert self._open is not None
        if rest := text[len(self._said) :]:
            yield TextGrew(self._open, rest)
        self._said = text
        yield from self._end()

    def _end(self, *, void: bool = False) -> Iterator[Step]:
        assert self._open is not None
        block, self._open = self._open, None
        yield TextEnded(block, self._said, void)
        self._said = ""


class AnswerStream:
    """
    Follows the answer to message *number* of a conversation: `async for step in stream.steps()`, once.

    *wake* ends it early, from anywhere in the loop; its status is then "closing".
    """

    def __init__(self, core: Core[Any], tenant: str, conversation: str, number: int) -> None:
        self._core, self._tenant, self._conversation, self._number = core, tenant, conversation, number
        self._watch: Watch = core.watch(tenant, conversation, after=number - 1)
        self._blocks = Blocks()
        self._mine: set[str] = set()  # ids by which a turn that answers the message may go
        self._turn = ""
        self._stopped = False

    def stop(self) -> None:
        """End it: nobody listens any more, or this process stops."""
        self._stopped = True
        self._watch.wake.set()

    async def steps(self) -> AsyncIterator[Step]:
        """Give what happens, as it happens, and `Ended` at last."""
        loop = asyncio.get_running_loop()
        look_at, patient_until = 0.0, loop.time() + PATIENCE_S
        async with self._watch:
            while True:
                if self._stopped:
                    ended: Ended | None = Ended("closing")
                else:
                    looks = loop.time() >= look_at
                    ended = await self._find_end(looks=looks)
                    if looks:
                        if look_at:
                            yield None
                        look_at = loop.time() + LOOK_S
                if ended is None and not (self._turn or self._core.has_handler) and loop.time() > patient_until:
                    ended = Ended("unattended")
                if ended is not None:
                    for step in self._blocks.record(ended.replies) if ended.replies else self._blocks.close():
                        yield step
                    yield ended
                    return
                events, looks = await self._next(min(TICK_S, look_at - loop.time()))
                look_at = 0.0 if looks else look_at
                for event in events:
                    if isinstance(event, Delta) and event.turn in self._mine:
                        if self._turn not in ("", event.turn) and await self._find_end(looks=True) is not None:
                            look_at = 0.0
                            break  # another message is being answered: this one was, or was set aside
                        self._turn = event.turn
                        for step in self._blocks.grow(event.at, event.text):
                            yield step
                    elif isinstance(event, Erased):
                        for step in self._blocks.close():
                            yield step
                        yield Ended("erased")
                        return

    async def _next(self, within_s: float) -> tuple[Sequence[Any], bool]:
        """Wait for events; tell with them whether the message may be answered now."""
        try:
            events = await self._watch.next(max(within_s, 0.0))
        except StoreError:  # nothing is left out: it goes on from there
            await asyncio.sleep(1.0)
            return (), False
        if events is None:
            self._stopped = True
            return (), True
        for event in events:
            if isinstance(event, Message) and event.role in ASKING:
                self._mine.add(event.id)
        return events, any(
            (isinstance(event, Message) and event.role not in ASKING) or (isinstance(event, Typing) and not event.on)
            for event in events
        )

    async def _find_end(self, *, looks: bool) -> Ended | None:
        """Find out whether nothing more comes; the store is asked only if it *looks*."""
        if looks:
            try:
                found = await self._core.find_outcome(self._tenant, self._conversation, self._number)
            except StoreError:
                return None
            if found is None:
                return Ended("erased")
            if found.status != "accepted":
                return Ended(found.status, found.dead, found.replies)
        elif self._core.is_paused(self._tenant, self._conversation):
            return await self._find_end(looks=True)
        return None
