"""The turn: what a handler is given."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Generic

from msgspec import Struct

from ..model import Content, Message, Part, State
from .reply_stream import ReplyStream
from .work import Work


class Turn(Struct, Generic[State], kw_only=True, eq=False):
    """What a handler is given: the state to change, what the user wrote, and what was said before.

    Change `state` in place or put another value there; it is recorded, together with the replies, when the handler
    returns, and forgotten when it raises. A handler may run more than once for the same messages: what it does to the
    outside world should carry `turn.id`, which is the same each time.

    version: of the application (the setting `version`): the one that began what this turn goes on with, an earlier try of which
    anything was recorded, or a session where sessions are pinned; else this one.
    """

    tenant: str
    conversation: str
    session: int
    state: State
    messages: list[Message]
    history: list[Message]
    replies: list[Content] = []
    failure: str = ""
    version: str = ""
    # What chatkeep puts here: it records a streamed reply as it is made, and keeps steps and reminders.
    stream: ReplyStream | None = None
    begin_work: Callable[[], Work] | None = None
    work: Work | None = None

    __repr__ = object.__repr__  # what people have said belongs in no log

    @property
    def id(self) -> str:
        """Names what is being answered, the same each time it is tried: the id of the last message."""
        return self.messages[-1].id

    @property
    def message(self) -> Message:
        """The message to answer; the last one, if several are answered together."""
        return self.messages[-1]

    @property
    def text(self) -> str:
        """What the user wrote; several messages answered together are one a line."""
        messages = self.messages
        return messages[0].text if len(messages) == 1 else "\n".join(message.text for message in messages)

    @property
    def said(self) -> str:
        """
        What the streamed reply has said so far: what an earlier run of this turn has yielded, and what this one has.

        An earlier run was cut short: its process died, or it failed. What it said was shown and stays, so a handler that yields goes
        on from here: `prompt + turn.said`. One that does not look at this before it yields does not know of it, and its reply ends
        where the earlier run was cut short, with `metadata["interrupted"]`.
        """
        return self.stream.said if self.stream is not None else ""

    @property
    def said_parts(self) -> list[Part]:
        """What the streamed reply has said so far, as parts: as `said`, for handlers that yield more than text."""
        return self.stream.said_parts if self.stream is not None else []

    def reply(self, content: Content | Part) -> None:
        """Add a reply, in order, before whatever the handler returns: text, a JSON part, or a list of parts."""
        self.replies.append([content] if isinstance(content, dict) else content)

    def step(self, name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
        """
        Do something that must not be done twice, and give its result: `await turn.step("charge", pay, 42)`.

        Promised: the result is recorded before it is answered, so a turn that is tried again, here or elsewhere, gets
        the recorded one and *function* is not called. So does a second step of the same name in the turn, whatever its arguments: in a
        loop, have the name differ. Not promised: that it is never called twice. A process that dies
        after the effect and before the record leaves nothing to know it by, so hand `turn.step_key(name)` to the other
        side. A step that raises is not recorded. *function* may be async; its result is at most 64 KB of JSON, and is answered as JSON
        has it: a tuple as a list, a date as text. In a handler that is a plain function, which cannot await it, it raises
        `UsageError`, and a turn that has not awaited it fails.
        """
        return self._begin_work().step(name, function, args, kwargs)

    def step_key(self, name: str) -> str:
        """Give an idempotency key for step *name*: the same however often and wherever this turn is tried."""
        return self._begin_work().step_key(name)

    def remind(self, after: str | float, name: str, data: Any = None, *, keep: bool = False) -> None:
        """
        Have the bot called again *after* a while ("2h", or seconds), unless the user writes before: `turn.remind("2h", "cart")`.

        The turn that comes then has one message of role "event" whose content is `[{"type": "reminder", "name": ..., "data":
        ...}]`. It comes once, survives restarts, and is set only if this turn is recorded. A reminder of the same name is
        replaced; with *keep* it comes also when the user has written.
        """
        self._begin_work().remind(after, name, data, keep=keep)

    def cancel(self, name: str) -> None:
        """Cancel a reminder; it is fine if there is none."""
        self._begin_work().cancel(name)

    @property
    def reminder(self) -> str:
        """The name of the reminder that this turn is about; "" if it is about something else."""
        part = (
            self.message.content[0] if self.message.role == "event" and isinstance(self.message.content, list) else {}
        )
        return str(part["name"]) if part.get("type") == "reminder" else ""

    def _begin_work(self) -> Work:
        if self.work is None:
            if self.begin_work is None:
                raise RuntimeError(
                    "Steps and reminders belong to a turn that chatkeep runs; this one is over, or was made by hand."
                )
            self.work = self.begin_work()
        return self.work
