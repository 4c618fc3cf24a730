"""The answer to one message as it is made: what every protocol shows, in the order in which it may be shown.

A protocol cannot take text back, and chatkeep never does: what was shown of a streamed reply is the beginning of what is recorded. An
answer is a row of *blocks*: texts, which grow, and other parts, which are whole. They are the same whoever follows the answer.

Nothing is stored for this. Whoever follows an answer, at once or later, on whichever instance, is given all of it from its
first character on.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from msgspec import Struct, json

from ...conversation.streams import STREAMED
from ...core import Core
from ...engine.watch import Watch
from ...errors import StoreError
from ...model import ASKING, Content, Delta, Erased, Failing, Message, Part, PartSaid, Typing

TICK_S = 3.0
"""So often it is looked whether the bot was paused; that asks nobody."""

LOOK_S = 15.0
"""So often the store is asked what became of the message, in case that was not announced; and a beat is sent."""

PATIENCE_S = 60.0
"""Where this process has no handler, an answer that nobody begins is waited for so long."""


class BlockBegan(Struct, frozen=True):
    """A block begins that grows: a text, or what a model thinks ("reasoning")."""

    block: int
    kind: str


class BlockGrew(Struct, frozen=True):
    """A block goes on with *text*."""

    block: int
    kind: str
    text: str


class BlockEnded(Struct, frozen=True):
    """A block is whole. *void*: it is part of no recorded reply."""

    block: int
    kind: str
    text: str
    void: bool = False


class PartShown(Struct, frozen=True):
    """A part that does not grow is there: a block of its own."""

    block: int
    part: Part


class Ended(Struct, frozen=True):
    """Nothing more comes. *status*: as a receipt has it, or "erased", "closing" (this process stops), "unattended" (nobody here
    answers). *reason*: why the message was set aside. *replies*: the answer as it is recorded. *failing*: of an answer that is still to
    come, that attempts at it have failed."""

    status: str
    reason: str = ""
    replies: Sequence[Message] = ()
    failing: Failing | None = None


Step = BlockBegan | BlockGrew | BlockEnded | PartShown | Failing | Ended | None
"""One step of an answer; None is a beat: nothing has happened for a while, and whoever listens still may. `Failing`: one more attempt
at it, or at a message before it, has failed."""


def write_time(at: float) -> str:
    """Return a time as text, in UTC."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def tell_failing(failing: Failing) -> str:
    """Say in words for customers that their answer takes longer."""
    tries = "once" if failing.attempts == 1 else f"{failing.attempts} times"
    at = datetime.fromtimestamp(failing.retry_at, UTC)
    return f"The bot has failed {tries}. The message is kept, and the bot tries again at {at:%H:%M:%S} UTC."


def show_failing(failing: Failing) -> dict[str, Any]:
    """Return what pages are shown of it."""
    at, text = write_time(failing.retry_at), tell_failing(failing)
    return {"status": "failing", "attempts": failing.attempts, "retryAt": at, "message": text}


def parts_of(message: Message) -> list[Part]:
    """Return what a message says as parts: text is one part of type "text"."""
    if isinstance(message.content, str):
        return [{"type": "text", "text": message.content}] if message.content else []
    return message.content


def is_text(part: Part) -> bool:
    """Tell whether a part is text and nothing else."""
    return part.get("type", "text") == "text" and isinstance(part.get("text"), str)


def content_from(parts: list[Part]) -> Content:
    """Return *parts* that a client has sent as they are kept: text where they are text alone."""
    return "\n".join(part["text"] for part in parts) if all(map(is_text, parts)) else parts


def growing(part: Part) -> tuple[str, str] | None:
    """Return the kind and the text of a part that grows; None for any other."""
    if is_text(part):
        return "text", part["text"]
    if part.get("type") == "reasoning" and isinstance(said := part.get("reasoning", part.get("text")), str):
        return "reasoning", said
    return None


def file_name(part: Part) -> str:
    """Return how the file that a part refers to is called; "" where that is not said."""
    return str(part.get("filename") or part.get("name") or "")


def name_answer(conversation: str, number: int) -> str:
    """Return a name for the answer to message *number*, of which `find_named` makes both again."""
    return base64.urlsafe_b64encode(f"{number}.{conversation}".encode()).decode().rstrip("=")


def find_named(name: str) -> tuple[str, int] | None:
    """Return the conversation and the number that `name_answer` has named so; None where it has not."""
    try:
        number, _, conversation = base64.urlsafe_b64decode(name + "=" * (-len(name) % 4)).decode().partition(".")
    except (ValueError, binascii.Error):
        return None
    if not conversation or not (number.isascii() and number.isdecimal() and len(number) < 16) or number == "0":
        return None
    return conversation, int(number)


class Tool(Struct, frozen=True):
    """A tool's call with its arguments as *value*, or its result."""

    called: bool
    id: str
    name: str
    value: Any
    error: str = ""

    @property
    def text(self) -> str:
        """The value as text: as it is, or as JSON."""
        value = self.error or self.value
        return value if isinstance(value, str) else json.encode(value).decode()


def tool_in(part: Part) -> Tool | None:
    """Return the call or the result of a tool that a part is; None for any other."""
    kind = str(part.get("type")).replace("-", "_")
    id, name = str(part.get("id", part.get("tool_call_id", ""))), str(part.get("name", ""))
    if kind == "tool_call":
        return Tool(True, id, name, part.get("arguments", part.get("input")))
    if kind == "tool_result":
        return Tool(False, id, name, part.get("result", part.get("output")), str(part.get("error") or ""))
    return None


def in_order(replies: Sequence[Message]) -> list[Message]:
    """Return the replies to a message in the order in which they are shown: the streamed one, which was shown first, is the first."""
    return sorted(replies, key=lambda reply: not reply.id.startswith(STREAMED))


class Blocks:
    """The blocks of one answer, as far as they were shown."""

    def __init__(self) -> None:
        self._reply = ""  # the streamed reply whose parts are shown,
        self._shown = 0  # how many of them were begun,
        self._kind: str | None = None  # what the last of them is, if it may still grow,
        self._said = ""  # and what it has said
        self._next = 0

    def show(self, reply: str, place: int, part: Part) -> Iterator[Step]:
        """Show a piece of the part at *place* of a streamed reply: what of a text comes next, or a part that is whole."""
        if reply != self._reply:
            yield from self.close()
            self._reply, self._shown = reply, 0
        grown = growing(part)
        if self._kind is not None and (place >= self._shown or grown is None):
            yield from self._end()
        if grown is None:
            yield PartShown(self._next, part)
            self._next, self._shown = self._next + 1, place + 1
            return
        if place >= self._shown:
            yield from self._begin(grown[0])
            self._shown = place + 1
        if grown[1]:
            self._said += grown[1]
            yield BlockGrew(self._next - 1, grown[0], grown[1])

    def record(self, replies: Sequence[Message]) -> Iterator[Step]:
        """Show the recorded *replies*, as far as they were not shown."""
        for reply in in_order(replies):
            parts = parts_of(reply)
            for place, part in enumerate(parts):
                grown = growing(part)
                if reply.id == self._reply and place < self._shown - 1:
                    continue
                if reply.id == self._reply and place == self._shown - 1:
                    if self._kind is not None and grown is not None and grown[1].startswith(self._said):
                        yield from self.show(reply.id, place, {"type": grown[0], grown[0]: grown[1][len(self._said) :]})
                    continue
                yield from self.show(reply.id, place, part)
            if self._kind is not None:
                yield from self._end(void=reply.id != self._reply)
        yield from self.close()

    def close(self) -> Iterator[Step]:
        """End what was begun and is not recorded."""
        if self._kind is not None:
            yield from self._end(void=True)

    def _begin(self, kind: str) -> Iterator[Step]:
        self._kind, self._said = kind, ""
        self._next += 1
        yield BlockBegan(self._next - 1, kind)

    def _end(self, *, void: bool = False) -> Iterator[Step]:
        kind, self._kind = self._kind, None
        yield BlockEnded(self._next - 1, str(kind), self._said, void)


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
        self._own = ""  # that of the message itself, by which no other turn goes
        self._shown = ("", "")  # the turn and the reply that are known to answer it
        self._waits = self._stopped = False

    def stop(self) -> None:
        """End it: nobody listens any more, or this process stops."""
        self._stopped = True
        self._watch.wake.set()

    async def steps(self, *, waits: bool = True) -> AsyncIterator[Step]:
        """
        Give what happens, as it happens, and `Ended` at last; if it does not wait, what there is now, and `Ended` if that is all.

        Raises `StoreError` if it does not wait: what there is now, nobody knows then.
        """
        self._waits = waits
        loop = asyncio.get_running_loop()
        look_at, patient_until = 0.0, loop.time() + PATIENCE_S
        if not self._number:  # it is in the journal of this host, without a number yet
            yield Ended("journaled")
            return
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
                if ended is None and not (any(self._shown) or self._core.has_handler) and loop.time() > patient_until:
                    ended = Ended("unattended")
                if ended is not None:
                    for step in self._blocks.record(ended.replies) if ended.replies else self._blocks.close():
                        yield step
                    yield ended
                    return
                events, looks = await self._next(min(TICK_S, look_at - loop.time()) if waits else 0.0)
                if not (waits or events):
                    return
                look_at = 0.0 if looks else look_at
                for event in events:
                    if isinstance(event, Delta | PartSaid) and event.turn in self._mine:
                        if not await self._is_answered_by(event.turn, event.reply):
                            look_at = 0.0
                            break
                        self._shown = (event.turn, event.reply)
                        said = event.content if isinstance(event, PartSaid) else {"type": "text", "text": event.text}
                        for step in self._blocks.show(event.reply, event.part, said):
                            yield step
                    elif isinstance(event, Failing) and 0 < event.number <= self._number and event.attempts:
                        yield event
                    elif isinstance(event, Erased):
                        for step in self._blocks.close():
                            yield step
                        yield Ended("erased")
                        return

    async def _is_answered_by(self, turn: str, reply: str) -> bool:
        """Tell whether *turn*, which says something just now, answers the message: by itself, or with later ones. Else it was answered, or
        set aside, before that turn began, though nothing of it may have been seen here. (After a failure a burst is taken apart, and
        another turn may go by the id of the one that had all of it.)"""
        while turn != self._own and (turn, reply) != self._shown:
            if self._stopped:
                return False
            try:
                found = await self._core.find_outcome(self._tenant, self._conversation, self._number)
            except StoreError:  # what is not known is not shown
                if not self._waits:
                    raise
                await asyncio.sleep(1.0)
                continue
            return found is not None and found.status == "accepted"
        return True

    async def _next(self, within_s: float) -> tuple[Sequence[Any], bool]:
        """Wait for events; tell with them whether the message may be answered now."""
        try:
            events = await self._watch.next(max(within_s, 0.0))
        except StoreError:  # nothing is left out: it goes on from there
            if not self._waits:
                raise
            await asyncio.sleep(1.0)
            return (), False
        if events is None:
            self._stopped = True
            return (), True
        for event in events:
            if isinstance(event, Message) and event.role in ASKING:
                self._mine.add(event.id)
                self._own = event.id if event.number == self._number else self._own
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
                if not self._waits:
                    raise
                return None
            if found is None:
                return Ended("erased")
            if found.status != "accepted":
                return Ended(found.status, found.dead, found.replies)
        elif self._core.is_paused(self._tenant, self._conversation):
            return await self._find_end(looks=True)
        return None
