"""What a turn does besides answering: steps whose results are recorded, and reminders.

A step is something that must not be done twice, such as a charge. Its result is written to the conversation's record as
soon as it is there, so a turn that is tried again gets it from there. If the process dies between the effect and the
record, the step is done again under the same key: whoever is asked can tell by it.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import msgspec
from msgspec import Raw

from ..conversation.codec import json_of
from ..conversation.once import mark_of_call
from ..conversation.record import Reminder
from ..conversation.shapes import STORABLE, Unfit, encoded
from ..drivers.base import Key
from ..durations import Duration, seconds
from ..errors import BadMessage, TooLarge, UsageError
from ..storage.confinement import Confinement

T = TypeVar("T")

STEPS_MOST = 100
RESULT_LIMIT = 64 * 1024
NAME_MOST = 100
REMINDERS_MOST = 20
MESSAGE_ROOM = 64  # what the entry of a message has beside its content, at most


class NotInLog(BaseException):
    """A step was asked for in a turn whose message is not in the log yet: it has to be, before anything is done for it."""


class Work:
    """Steps and reminders of one run of a turn. *record* writes a result; None: the message is not in the log yet.

    *limit*: bytes that a message may have, and so a reminder, which becomes one.
    """

    def __init__(
        self,
        key: Key,
        name: str,
        *,
        steps: dict[str, Raw],
        record: Callable[[str, Raw], Awaitable[None]] | None,
        reminders: tuple[Reminder, ...],
        confinement: Confinement,
        limit: int = RESULT_LIMIT,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._key = key
        self._name = name
        self._steps = dict(steps)
        self._record = record
        self._clock = clock
        self._limit = limit
        self._confinement = confinement
        self._asked: list[tuple[str, Coroutine[Any, Any, Any]]] = []  # what has to be awaited
        self.reminders = {reminder.name: reminder for reminder in reminders}
        self.refused = False
        """Something was asked for that needs the message in the log."""
        self.over = False
        """The turn is over: it was recorded, or given up, and nothing more is done for it."""
        self._at_work: dict[str, asyncio.Lock] = {}
        self.set: dict[str, Reminder | None] = {}
        """What this turn has set, or, with None, cancelled."""
        self._marks: set[str] = set()  # calls that were made in this run

    @property
    def place(self) -> tuple[Key, str]:
        """The conversation, and its incarnation."""
        return self._key, self._name.rpartition(".")[0]

    def ask(self, what: str, function: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> Coroutine[Any, Any, T]:
        """Give what *function* does, to be awaited; the turn is refused if nobody does."""
        if not self._confinement.is_inside:
            raise UsageError(
                f"{self._key}: {what} has to be awaited in the event loop of the Chatkeep, and this is a thread of a plain function; it "
                f"was not done. Make the handler `async def` and write `await {what}`."
            )
        asked = function(*args)
        self._asked.append((what, asked))
        return asked

    def begin_call(self) -> None:
        """Refuse a call that must not be made twice where the turn is over, or has no message in the log."""
        if self.over:
            raise UsageError(f"{self._key}: the turn is over; nothing was called.")
        if self._record is None:
            self.refused = True
            raise NotInLog

    def mark_call(self, turn: str, tool: str, arguments: bytes) -> str:
        """Return what stands for a call: the next one of the same tool with the same *arguments* in this run of *turn*."""
        occurrence = 0
        while (mark := mark_of_call(turn, tool, arguments, occurrence)) in self._marks:
            occurrence += 1
        self._marks.add(mark)
        return mark

    def step_key(self, name: str) -> str:
        """Name a step for whoever carries it out: the same each time the turn is tried."""
        self._check(name)
        if self._record is None:  # the message has no number yet, so the key could be another next time
            self.refused = True
            raise NotInLog
        return f"{self._name}.{name}"

    def step(self, name: str, function: Callable[..., Any], args: Any, kwargs: Any) -> Coroutine[Any, Any, Any]:
        """Give the recorded result of step *name*; if there is none, that of *function*, recorded before it is given.

        A step that has begun is recorded also if its turn was given up meanwhile: it has been done.
        """
        self._check(name)
        return self.ask(f"turn.step({name!r}, ...)", self._step, name, function, args, kwargs)

    def refuse_unawaited(self) -> None:
        """Refuse a turn that has asked for something and did not await it. Raises `UsageError`."""
        # (What was cancelled before it began is closed.)
        left = [
            (what, asked) for what, asked in self._asked if inspect.getcoroutinestate(asked) == inspect.CORO_CREATED
        ]
        for _, asked in left:
            asked.close()
        if left:
            raise UsageError(
                f"{self._key}: the handler has called {left[0][0]} without awaiting it ({len(left)} such calls), so nothing was done for "
                f"that. Write `await {left[0][0]}`."
            )

    async def _step(self, name: str, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        self._check(name)
        if self._record is None:
            self.refused = True
            raise NotInLog
        async with self._at_work.setdefault(name, asyncio.Lock()):  # asked for twice at once, it is done once
            if name not in self._steps:
                await self._do(name, function, args, kwargs, self._record)
        return msgspec.json.decode(self._steps[name])

    async def _do(
        self,
        name: str,
        function: Callable[..., Any],
        args: Any,
        kwargs: Any,
        record: Callable[[str, Raw], Awaitable[None]],
    ) -> None:
        if len(self._steps) >= STEPS_MOST:
            raise UsageError(f"{self._key}: a turn has at most {STEPS_MOST} steps; {name!r} was not done.")
        found = function(*args, **kwargs)
        found = await found if inspect.isawaitable(found) else found
        about = f"the result of step {name!r}"
        try:
            raw = encoded(found, about, STORABLE)  # (no browser sees it)
        except Unfit as unfit:
            # It was done, and a refusal would have it done again: what JSON has a form for is recorded in that form.
            try:
                raw = encoded(to_json_types(found), about, STORABLE)
            except (Unfit, TypeError, ValueError, RecursionError):
                raise BadMessage(
                    f"{self._key}: {unfit}. The step was done and could not be recorded; give back JSON's own types, such as a "
                    "reference as text."
                ) from unfit
        if len(raw) > RESULT_LIMIT:
            raise TooLarge(
                f"{self._key}: the result of step {name!r} takes {len(raw):,} bytes, {RESULT_LIMIT:,} are allowed. It was done "
                "and could not be recorded; give back less, such as a reference."
            )
        await record(name, Raw(raw))
        self._steps[name] = Raw(raw)

    def remind(self, after: Duration, name: str, data: Any, *, keep: bool) -> None:
        """Set reminder *name*, in place of an earlier one of that name."""
        self._check(name)
        if not isinstance(keep, bool):  # nobody could read a record with anything else
            raise UsageError(
                f"{self._key}: reminder {name!r}: keep is True or False, not {keep!r:.40}. Nothing was set."
            )
        try:
            at = self._clock() + seconds(after)
        except ValueError as fault:
            raise UsageError(f"{self._key}: reminder {name!r}: {fault}. Nothing was set.") from None
        raw = json_of(self._key, data, f"the data of reminder {name!r}")
        # What could not become a message when its time has come would stand in the way of everything after it.
        part = json_of(self._key, [{"type": "reminder", "name": name, "data": data}], f"reminder {name!r}")
        there = {other for other, found in {**self.reminders, **self.set}.items() if found is not None}
        limit = min(RESULT_LIMIT, self._limit - MESSAGE_ROOM)
        if len(part) > limit or len(there | {name}) > REMINDERS_MOST:
            raise TooLarge(
                f"{self._key}: a conversation has at most {REMINDERS_MOST} reminders, each of at most {limit:,} bytes with its "
                f"name and data; {name!r} was not set."
            )
        self.set[name] = Reminder(at=round(at, 3), name=name, data=Raw(raw), keep=keep)

    def cancel(self, name: str) -> None:
        """Cancel reminder *name*, if there is one."""
        self.set[name] = None

    def _check(self, name: str) -> None:
        if self.over:
            raise UsageError(f"{self._key}: the turn that asks for {name!r} is over; nothing was done for it.")
        if not (isinstance(name, str) and 0 < len(name) <= NAME_MOST and name.isprintable()):
            raise UsageError(
                f"{self._key}: a step or reminder has a printable name of 1 to {NAME_MOST} characters, not {name!r:.60}."
            )


def to_json_types(value: Any) -> Any:
    """Return *value* as made of JSON's own types, where it has a form there. Raises `TypeError`, `ValueError`, `RecursionError`."""
    return _replace_tuples(msgspec.to_builtins(value, str_keys=True, enc_hook=_to_base))


def _to_base(value: Any) -> Any:
    """Return the text or number that an object of a class made of them is, such as the kind of text that a framework answers with."""
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    raise TypeError(f"Encoding objects of type {type(value).__name__} is unsupported")


def _replace_tuples(value: Any) -> Any:
    """Replace each tuple in *value* by a list, as JSON has it."""
    if isinstance(value, list | tuple):
        return [_replace_tuples(one) for one in value]
    if isinstance(value, dict):
        return {name: _replace_tuples(one) for name, one in value.items()}
    return value
