"""Tasks of A2A: what a message has begun, the answers to it and to those that have gone on with it, and how it stands.

Nothing is stored of a task but the messages themselves, and a note where it was cancelled while it asked.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Any

import msgspec
from starlette.requests import Request

from ...app import core_of
from ...conversation.keys import RESERVED
from ...errors import StoreError
from ...model import Erased, Event, Failing, Message, Part
from ..streams import event
from .answer_stream import (
    LOOK_S,
    BlockEnded,
    BlockGrew,
    Ended,
    PartShown,
    Step,
    file_name,
    growing,
    in_order,
    name_answer,
    parts_of,
    tell_failing,
    write_time,
)
from .entrance import Caller
from .json_rpc import rpc_result
from .sse import SSE, WhileItWorks

LISTED = 100
"""So many messages of a context are looked at for its tasks."""

TASK = "a2a_task"
"""The member of a message's metadata that says with which task it goes on: the number of the task's first message."""

CANCELLED = f"{RESERVED}note:a2a:{{}}"
"""The id of the note that a task was cancelled while it asked; with the number of its first message."""

STATES = {
    "accepted": "WORKING",
    "journaled": "SUBMITTED",
    "paused": "SUBMITTED",
    "unattended": "SUBMITTED",
    "closing": "WORKING",
    "answered": "COMPLETED",
    "dropped": "CANCELED",
    "erased": "CANCELED",
    "failed": "FAILED",
}
"""What became of a message, as the state of its task."""

OVER = ("TASK_STATE_COMPLETED", "TASK_STATE_CANCELED", "TASK_STATE_FAILED")
ASKS = "TASK_STATE_INPUT_REQUIRED"

INLINE = re.compile(r"data:([\w.+-]+/[\w.+-]+)?(?:;[\w-]+=[^;,]*)*;base64,([A-Za-z0-9+/]*={0,2})")
"""An address that is a file itself, in Base64: its media type, and its bytes."""


class Task:
    """One task: the messages that have gone on with it, of which the last one is answered now. *cancelled*: while it asked."""

    def __init__(self, caller: Caller, messages: Sequence[Message], *, cancelled: bool = False) -> None:
        self.caller, self.messages, self.cancelled = caller, messages, cancelled
        self.number = messages[-1].number

    async def read(self) -> Task:
        """Return the task as the log has it now."""
        history = self.caller.tenant.history(self.caller.conversation, after=self.number, limit=LISTED)
        return self.joined([message async for message in history])

    def joined(self, log: Sequence[Message]) -> Task:
        """Return the task with what has come to it in *log*."""
        first = self.messages[0].number
        later = [one for one in log if one.number > self.number and one.metadata.get(TASK) == first]
        cancelled = self.cancelled or any(one.id == CANCELLED.format(first) for one in log)
        return Task(self.caller, [*self.messages, *later], cancelled=cancelled)

    async def cancel(self) -> None:
        """End the task while it asks: nothing runs then that could be stopped, so the log is told by a note, which the desk shows."""
        first, caller = self.messages[0].number, self.caller
        text = f"The task that began with message {first} was cancelled by its client."
        await core_of(caller.access.keep).note(
            caller.tenant.name, caller.conversation, text, author="A2A", id=f"a2a:{first}"
        )

    async def now(self) -> Ended:
        """Return how the task stands."""
        return await self.caller.find_end(self.number)

    def state_of(self, ended: Ended) -> str:
        """Return the state of the task, in the protocol's words."""
        state = STATES[ended.status]
        marks = {name for reply in ended.replies for name in reply.metadata}
        if "stopped" in marks:
            state = "CANCELED"
        elif "interrupted" in marks:
            state = "FAILED"
        elif any(part.get("type") == "interrupt" for reply in ended.replies for part in parts_of(reply)):
            state = "CANCELED" if self.cancelled else "INPUT_REQUIRED"
        return f"TASK_STATE_{state}"

    async def give(self, ended: Ended, *, direct: bool, history: int | None = None) -> dict[str, Any]:
        """Return what a message is answered with: a message, if it is to be *direct* and there is one to give, or the task."""
        if not (direct and ended.replies and self.state_of(ended) == "TASK_STATE_COMPLETED"):
            return {"task": await self.show(ended, history=history)}
        parts = [wire_part(part) for reply in in_order(ended.replies) for part in parts_of(reply)]
        said = self._message(ended.replies[-1].id, "ROLE_AGENT", parts)
        del said["taskId"]
        return {"message": said}

    async def show(self, ended: Ended, *, history: int | None = None, artifacts: bool = True) -> dict[str, Any]:
        """Return the task as the protocol has it, with the last *history* messages (None: all), and with what it has given."""
        said: list[dict[str, Any]] = []
        given: list[dict[str, Any]] = []
        once = {reply.id for reply in ended.replies}  # (one reply may answer several messages)
        for message in self.messages:
            said.append(self._message(message.id, "ROLE_USER", [wire_part(part) for part in parts_of(message)]))
            if message.number == self.number:
                given += self._artifacts(message.number, ended.replies)
                continue
            replies = [one for one in (await self.caller.find_end(message.number)).replies if one.id not in once]
            once |= {reply.id for reply in replies}
            given += self._artifacts(message.number, replies)
            if asked := questions_in(replies):
                said.append(self._message(replies[-1].id, "ROLE_AGENT", [{"text": text} for text in asked]))
        told: dict[str, Any] = {"id": self._id, "contextId": self.caller.conversation, "status": self._status(ended)}
        told |= {"artifacts": given} if artifacts else {}
        return told | {"history": said if history is None else said[max(len(said) - history, 0) :]}

    def stream_whole(self, request: Request, id: Any) -> SSE:
        """Stream what the message is answered with at the end: a message, or the task."""

        async def write(step: Step) -> bytes:
            if not isinstance(step, Ended):
                return b""
            return event(rpc_result(id, await self.give(step, direct=True)))

        return SSE(request, self.caller, WhileItWorks(self.caller, self.number), write)

    def stream(self, request: Request, id: Any, following: Following, shown: dict[str, Any]) -> SSE:
        """Stream what comes of the task, after the task as it is *shown* first."""
        begun: set[tuple[int, int]] = set()  # the message, and the block of its answer

        def told(result: dict[str, Any]) -> bytes:
            return event(rpc_result(id, result))

        def artifact(block: int, part: Part, **more: bool) -> bytes:
            shown = self._artifact(following.task.number, block, part)
            return told({"artifactUpdate": {**self._names, "artifact": shown, **more}})

        async def write(step: Step) -> bytes:
            task = following.task
            match step:
                case BlockGrew(block=block, kind="text", text=text):
                    appends = (task.number, block) in begun
                    begun.add((task.number, block))
                    return artifact(block, {"type": "text", "text": text}, append=appends)
                case BlockEnded(block=block, kind="text") if (task.number, block) in begun:
                    return artifact(block, {"type": "text", "text": ""}, append=True, lastChunk=True)
                case PartShown(block=block, part=part) if part.get("type") != "interrupt":
                    return artifact(block, part, lastChunk=True)
                case Failing():
                    status = task._status(Ended("accepted", failing=step))
                    return told({"statusUpdate": {**self._names, "status": status}})
                case Ended():
                    return told({"statusUpdate": {**self._names, "status": task._status(step)}})
            return b""

        return SSE(request, self.caller, following, write, first=told({"task": shown}))

    @property
    def _names(self) -> dict[str, Any]:
        return {"taskId": self._id, "contextId": self.caller.conversation}

    @property
    def _id(self) -> str:
        return f"task_{name_answer(self.caller.conversation, self.messages[0].number)}"

    def _message(self, id: str, role: str, parts: list[dict[str, Any]]) -> dict[str, Any]:
        return {"messageId": id, "role": role, "parts": parts, **self._names}

    def _artifact(self, number: int, block: int, part: Part) -> dict[str, Any]:
        return {"artifactId": f"answer-{number}.{block}", "parts": [wire_part(part)]}

    def _artifacts(self, number: int, replies: Sequence[Message]) -> list[dict[str, Any]]:
        parts = [part for reply in in_order(replies) for part in parts_of(reply)]
        return [self._artifact(number, n, part) for n, part in enumerate(parts) if part.get("type") != "interrupt"]

    def _status(self, ended: Ended) -> dict[str, Any]:
        at = ended.replies[-1].created_at if ended.replies else self.messages[-1].created_at
        status: dict[str, Any] = {
            "state": self.state_of(ended),
            "timestamp": write_time(at),
        }
        if status["state"] == ASKS and (asked := questions_in(ended.replies)):
            parts = [{"text": text} for text in asked]
            status["message"] = self._message(ended.replies[-1].id, "ROLE_AGENT", parts)
        elif (failing := ended.failing) is not None:
            id = f"failing-{failing.number}.{failing.attempts}"
            status["message"] = self._message(id, "ROLE_AGENT", [{"text": tell_failing(failing)}])
        return status


class Following:
    """
    Follows a task: the answer to its last message, and then those to the messages that have gone on with it meanwhile.

    It ends where the task asks, or, if it goes on *until_over*, where it is over. *asked*: how it stands, where it asks already.
    """

    def __init__(self, task: Task, *, until_over: bool = False, asked: Ended | None = None) -> None:
        self.task = task
        self._until_over, self._asked = until_over, asked
        self._answer = task.caller.answer(task.number)
        self._wake = asyncio.Event()
        self._stopped = False

    def stop(self) -> None:
        """End the following early."""
        self._stopped = True
        self._answer.stop()
        self._wake.set()

    async def steps(self) -> AsyncIterator[Step]:
        """Give what happens, as it happens; and `Ended`, with the status "accepted" where the task goes on."""
        ended = self._asked
        while not self._stopped:
            if ended is None:
                async for step in self._answer.steps():
                    if isinstance(step, Ended):
                        ended = step
                    else:
                        yield step
                assert ended is not None
                later = await self._read()
                if later.number == self.task.number:
                    self.task = later
                    yield ended
                    if not (self._until_over and later.state_of(ended) == ASKS):
                        return
            async for beat in self._goes_on():
                yield beat
            if self.task.cancelled:
                yield ended
            if self.task.cancelled or self._stopped:
                return
            ended, self._answer = None, self.task.caller.answer(self.task.number)
            yield Ended("accepted")

    async def _goes_on(self) -> AsyncIterator[None]:
        """Wait until a message has gone on with the task, or it is cancelled; give beats meanwhile."""
        caller, before = self.task.caller, self.task
        watch = core_of(caller.access.keep).watch(caller.tenant.name, caller.conversation)
        async with watch:
            self._wake = watch.wake
            while not self._stopped:
                self.task = await self._read()
                if self.task.cancelled or self.task.number > before.number:
                    return
                events: Sequence[Event] | None = ()
                with suppress(StoreError):
                    events = await watch.next(LOOK_S)
                if events is None:  # this process stops
                    self._stopped = True
                elif any(isinstance(event, Erased) for event in events):
                    self.task = Task(caller, before.messages, cancelled=True)
                    return
                yield None

    async def _read(self) -> Task:
        """Return the task as it is now; as it was known, if it was stopped before the store was there."""
        while not self._stopped:
            with suppress(StoreError):
                return await self.task.read()
            await asyncio.sleep(1.0)
        return self.task


def questions_in(replies: Sequence[Message]) -> list[str]:
    """Return what *replies* ask."""
    return [
        str(part.get("message", part.get("reason", "")))
        for reply in replies
        for part in parts_of(reply)
        if part.get("type") == "interrupt"
    ]


def wire_part(part: Part) -> dict[str, Any]:
    """Return a kept part as the protocol has it."""
    grown, url = growing(part), part.get("url")
    if grown is not None:
        return {"text": grown[1]} | ({} if grown[0] == "text" else {"metadata": {"type": grown[0]}})
    if not isinstance(url, str):
        return {"data": part["data"] if part.get("type") == "data" and "data" in part else msgspec.to_builtins(part)}
    inline = INLINE.fullmatch(url)
    media = str(part.get("media_type") or (inline[1] if inline is not None else ""))
    told = ({"mediaType": media} if media else {}) | ({"filename": name} if (name := file_name(part)) else {})
    return ({"url": url} if inline is None else {"raw": inline[2]}) | told
