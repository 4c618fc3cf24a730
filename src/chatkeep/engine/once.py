"""Tools that must not run twice: `Chatkeep.once`. What begins is noted in the log before; what has not ended is in doubt."""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import Awaitable, Callable, Coroutine
from functools import wraps
from typing import Any, Generic, ParamSpec, TypeVar, cast

import msgspec

from ..conversation import once
from ..conversation.commits import commit_note
from ..conversation.dead_letters import is_replay
from ..conversation.once import Call
from ..conversation.shapes import STORABLE, Unfit, encoded
from ..conversation.snapshots import Commit, Draft, Snapshot
from ..drivers.base import Key
from ..errors import BadMessage, Duplicate, InDoubt, Misconfigured, NotDone, TooLarge, UsageError
from ..model import Message, State
from ..storage.paging import walk_log
from .run import RUNNING
from .shared import Shared
from .turn import Turn
from .work import RESULT_LIMIT, Work, to_json_types

P = ParamSpec("P")
T = TypeVar("T")

Tool = Callable[P, Awaitable[T]]
OnceTool = Callable[P, Coroutine[Any, Any, T]]
Hook = Callable[[Call], Any]


class Ledger(Generic[State]):
    """The notes of calls, in the log of the conversation whose turn they are made in."""

    def __init__(self, shared: Shared[State]) -> None:
        self._shared = shared

    async def read(self, key: Key) -> list[Call]:
        """Return the calls in the log that have begun and not ended."""
        snapshot, notes = await self._shared.store.reload(key), list[Message]()
        log = walk_log(self._shared.store, key, snapshot.row.incarnation, after=snapshot.record.dropped)
        async for page in log:
            notes += [entry for entry in page if entry.id.startswith(once.ONCE)]
        return once.find_doubts(notes)

    async def find(self, key: Key, incarnation: str, ids: list[str]) -> list[Message]:
        """Return the notes that have one of *ids*."""
        return await self._shared.store.find(key, incarnation, ids)

    async def write(self, key: Key, note: Draft) -> bool:
        """Put a note into the log; False where it is there already."""
        shared = self._shared

        def decide(there: Snapshot) -> Commit:
            return commit_note(there, there.record, note, shared.policy, at=shared.clock())

        snapshot = shared.store.cached(key) or await shared.store.reload(key)
        try:
            _, said = await shared.store.commit(snapshot, decide, at=shared.clock())
        except Duplicate:
            shared.store.forget(key)
            return False
        return said is not None

    async def origin(self, key: Key, incarnation: str, message: Message) -> int:
        """Return the number of the message that *message* is, or that was handed in again as it."""
        while is_replay(message):
            number = int(message.metadata["replay_of"])
            there = await self._shared.store.page(key, incarnation, after=number - 1, limit=1)
            if not there or there[0].number != number:
                return number
            message = there[0]
        return message.number

    async def settle(self, key: Key, name: str, *, done: bool, result: Any, by: str) -> bool:
        """End a call that is in doubt; False where there is none of that name."""
        found = {call.name: call for call in await self.read(key)}
        if not isinstance(name, str) or name not in found:
            return False
        text = _json(key, result, "the result", "Nothing was settled.") if done else None
        await self.write(key, once.note_ended(found[name], text, by))
        return True


def make_once(
    ledger: Ledger[Any], function: Tool[P, T], done: Hook | None, failed: tuple[type[Exception], ...]
) -> OnceTool[P, T]:
    """Return *function*, which then runs once for each of its calls in a turn; see `Chatkeep.once`."""
    # (Of a partial nobody could tell two with other arguments apart.)
    if not (inspect.isroutine(function) and inspect.iscoroutinefunction(function)):
        raise Misconfigured(
            f"{getattr(function, '__name__', function)!s:.80} is no `async def`, which @keep.once takes; that may `await "
            "asyncio.to_thread(...)`. Nothing was decorated."
        )
    tool, signature = function.__name__, inspect.signature(function)

    def begin(*args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T]:
        run = RUNNING.get()
        turn = None if run is None or run.over else run.turn
        if turn is None or (turn.work is None and turn.begin_work is None):
            raise UsageError(
                f"{tool} must not run twice, and was called outside of a turn, where nothing is recorded; it was not called."
            )
        if turn.work is None and turn.begin_work is not None:
            turn.work = turn.begin_work()
        return cast(Work, turn.work).ask(f"{tool}(...)", guarded, turn, args, kwargs)

    async def guarded(turn: Turn[Any], args: Any, kwargs: Any) -> T:
        work = cast(Work, turn.work)
        key, incarnation = work.place
        work.begin_call()
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        arguments = _json(key, dict(bound.arguments), f"an argument of {tool}", "It was not called.")
        origin = await ledger.origin(key, incarnation, turn.messages[0])
        mark = work.mark_call(f"{incarnation}.{origin}", tool, arguments.encode())
        tries, call, ended = once.find_last(await ledger.find(key, incarnation, once.note_ids(mark)))
        if call is not None and ended is None:
            ended = await _ask(ledger, key, call, done)
        if ended is not None and ended.metadata.get("outcome") == "done":
            return cast(T, msgspec.json.decode(ended.text or "null"))
        if tries >= once.TRIES_MOST:
            raise UsageError(f"{key}: {tool} was tried {tries} times for message {origin}; it was not called again.")
        call = Call(name=f"{mark}.{tries}", tool=tool, arguments=arguments, number=turn.messages[0].number)
        if not await ledger.write(key, once.note_begun(call)):
            raise InDoubt(_doubt(key, call), call=call.name, again=True)
        return cast(T, await _run(ledger, key, call, function, args, kwargs, failed))

    if sys.version_info >= (3, 12):
        return inspect.markcoroutinefunction(wraps(function)(begin))

    # Frameworks ask whether a tool is a coroutine function. Here only one of Python's own is, and nobody hears of a call before it is
    # awaited: of one that never is only Python warns.
    @wraps(function)
    async def awaited(*args: P.args, **kwargs: P.kwargs) -> T:
        return await begin(*args, **kwargs)

    return awaited


async def _run(
    ledger: Ledger[Any],
    key: Key,
    call: Call,
    function: Callable[..., Awaitable[Any]],
    args: Any,
    kwargs: Any,
    failed: tuple[type[Exception], ...],
) -> Any:
    try:
        found = await function(*args, **kwargs)
    except Exception as fault:
        if isinstance(fault, (NotDone, *failed)):
            await asyncio.shield(ledger.write(key, once.note_ended(call, None, "tool")))
        raise
    result = _json(
        key,
        found,
        f"the result of {call.tool}",
        f"It was called, and what it gave is recorded nowhere: settle call {call.name} (`chatkeep settle`, or keep.settle), and replay "
        "the message.",
    )
    await asyncio.shield(ledger.write(key, once.note_ended(call, result, "tool")))
    return msgspec.json.decode(result)


async def _ask(ledger: Ledger[Any], key: Key, call: Call, done: Hook | None) -> Message | None:
    """Have the hook say how a call in doubt has ended, and note that. Raises `InDoubt` where it cannot."""
    if done is None:
        raise InDoubt(_doubt(key, call), call=call.name)
    try:
        found = done(call)
        found = await found if inspect.isawaitable(found) else found
        result: str | None = _json(key, found, "what done= has returned", "It was not recorded.")
    except NotDone:
        result = None
    except Exception as fault:
        raise InDoubt(f"{_doubt(key, call)} Its hook done= failed: {fault}", call=call.name, again=True) from fault
    note = once.note_ended(call, result, "hook")
    await ledger.write(key, note)
    return Message(id=note.id, number=0, role="system", content=note.content, created_at=0.0, metadata=note.metadata)


def _doubt(key: Key, call: Call) -> str:
    return (
        f"{key}: {call.tool} began for message {call.number} and did not end, so nobody knows whether it was done; it is not called again. "
        f"Find out, settle call {call.name} (`chatkeep settle`, or keep.settle), and replay the message if it was set aside."
    )


def _json(key: Key, value: Any, what: str, then: str) -> str:
    """Return *value* as it is recorded. Raises `BadMessage` and `TooLarge`, which say *then*: what is true of the call now."""
    try:
        raw = encoded(to_json_types(value), what, STORABLE)
    except Unfit as unfit:
        raise BadMessage(f"{key}: {unfit}. {then}") from unfit
    except (TypeError, ValueError, RecursionError) as fault:
        raise BadMessage(f"{key}: {what} cannot be recorded as JSON ({fault}). {then}") from fault
    if len(raw) > RESULT_LIMIT:
        raise TooLarge(f"{key}: {what} takes {len(raw):,} bytes as JSON, {RESULT_LIMIT:,} are allowed. {then}")
    return raw.decode()
