"""A Chatkeep is used where it was opened: before, after and from anywhere else each call is refused, and nothing is touched."""

from __future__ import annotations

import asyncio
import inspect
import os
import pickle
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from functools import partial
from typing import Any

import pytest
from msgspec import Struct

from chatkeep import Chatkeep, NotOpen, Tenant, Turn, Unavailable, UsageError
from chatkeep.app import core_of
from chatkeep.errors import ChatkeepError

from ..support.waiting import nothing_happens_for

FAST: dict[str, Any] = {"poll": "50ms", "retry_after": "20ms"}
ARGUMENTS: dict[str, Any] = {
    "conversation": "ada",
    "content": "hello",
    "edit": lambda state: None,
    "number": 1,
    "status": "read",
    "id": "1",
    "reason": "because",
    "raw": {},
    "on": True,
    "path": "/nonexistent/copy.db",
    "sql": "select 1",
    "slot": "cart",
    "call": "0.0",
    "done": True,
    "guest": "guest:1",
    "title": "T",
    "version": "2026-11",
    "share": 0.5,
    "by": "kim",
}
"""What every public call is called with, by the name of the parameter."""


class Card(Struct):
    """A record."""

    text: str = ""


def calls(keep: Chatkeep[Any]) -> Iterator[tuple[str, Callable[[], Awaitable[Any]]]]:
    """Every public call that acts on the store: of a Chatkeep, a tenant, a user, a watch and a register."""
    for face in (keep, keep.tenant("salon"), keep.user("ada")):
        for name, function in inspect.getmembers(type(face), inspect.isfunction):
            asks = inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
            if name.startswith("_") or not asks or name in ("open", "close"):
                continue
            needed = [
                one.name
                for one in inspect.signature(function).parameters.values()
                if one.name != "self" and one.default is one.empty and one.kind is not one.VAR_POSITIONAL
            ]
            named = {one: ARGUMENTS[one] for one in needed}
            yield f"{type(face).__name__}.{name}", partial(called, getattr(face, name), named)
    yield "Watch.open", lambda: core_of(keep).watch("", "ada").open()
    cards = core_of(keep).records("cards", Card)
    yield "Records.get", lambda: cards.get("ada")
    yield "Records.change", lambda: cards.change("ada", lambda card: Card("x"))
    yield "Records.erase", lambda: cards.erase("ada")
    yield "Records.owned", partial(called, cards.owned, {"owner": "ada"})


async def called(function: Callable[..., Any], named: dict[str, Any]) -> Any:
    """What a call answers; of a list, all of it."""
    call = function(**named)
    return [one async for one in call] if inspect.isasyncgen(call) else await call


async def refusals(keep: Chatkeep[Any]) -> dict[str, str]:
    """What each call raises: its class and its words; "" where it raises nothing."""
    told = {}
    for name, call in calls(keep):
        try:
            async with asyncio.timeout(5):
                await call()
            told[name] = ""
        except Exception as fault:
            told[name] = f"{type(fault).__name__}: {fault}"
    return told


def counting(url: str, **options: Any) -> Chatkeep[Any]:
    """A bot that numbers what it is told."""
    keep = Chatkeep(url, **(FAST | options))

    @keep.on_message
    async def bot(turn: Turn) -> str:
        turn.state["n"] = turn.state.get("n", 0) + 1
        return str(turn.state["n"])

    return keep


def all_say(told: dict[str, str], words: str) -> bool:
    """Whether each call was refused, in these words."""
    others = {name: said for name, said in told.items() if not said.startswith("NotOpen: ") or words not in said}
    assert {} == others
    assert {"Chatkeep.receive", "Tenant.accept", "Tenant.history", "Chatkeep.query", "Watch.open"} <= set(told)
    return True


async def in_a_thread(job: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """What *job* gives on a loop of another thread."""
    return await asyncio.to_thread(lambda: asyncio.run(job()))


async def log_of(keep: Chatkeep[Any]) -> list[str]:
    """What is in the log of every conversation."""
    return [f"{found.id} {m.content}" async for found in keep.conversations() async for m in keep.history(found.id)]


async def test_never_opened_says_how_to_open_it(url: str) -> None:
    """The three lines, whatever is called; closed again is told the same way."""
    keep = counting(url)
    assert issubclass(NotOpen, UsageError)
    assert all_say(await refusals(keep), "never opened")
    with pytest.raises(NotOpen, match="async with keep:"):
        await keep.receive("ada", "hello")

    async with keep:
        watch = core_of(keep).watch("", "ada")
        await watch.open()

    assert all_say(await refusals(keep), "was closed")
    assert None is await watch.next(1)

    async with keep:
        assert [] == await log_of(keep)


async def test_another_thread_is_refused_and_nothing_is_written(url: str) -> None:
    """In words that name the way; which works, and so does the loop it was opened in."""
    keep = counting(url)
    async with keep:
        loop = asyncio.get_running_loop()
        await keep.receive("ada", "1")
        async with core_of(keep).watch("", "ada", after=0) as watch:
            await watch.next(1)

            assert all_say(await in_a_thread(lambda: refusals(keep)), "run_coroutine_threadsafe")
            for refused in (keep.open, keep.close, lambda: watch.next(1)):
                with pytest.raises(NotOpen, match="another event loop"):
                    await in_a_thread(refused)
        handed = await asyncio.to_thread(
            lambda: asyncio.run_coroutine_threadsafe(keep.receive("ada", "2"), loop).result()
        )

        assert "2" == handed.replies[0].text
        assert ["ada 1", "ada 1", "ada 2", "ada 2"] == await log_of(keep)
        assert "" == keep.trouble


@pytest.mark.parametrize("what", ["history", "conversations", "all_conversations", "conversations of an owner"])
async def test_what_is_gone_through_is_refused_elsewhere_in_the_middle_too(url: str, what: str) -> None:
    """Begun in the loop of the opening and gone on with in another one, as by a handler that hands an iterator to a thread."""
    keep = counting(url)
    async with keep:
        for number in range(3):
            await keep.create(f"c{number}", owner="ada")
        await keep.save("c0", messages=[{"id": f"m{number}", "content": "hi"} for number in range(200)])
        await keep.save("c0", messages=[{"id": "last", "content": "hi"}])
        through: AsyncIterator[Any] = {
            "history": lambda: keep.history("c0"),
            "conversations": keep.conversations,
            "all_conversations": keep.all_conversations,
            "conversations of an owner": lambda: keep.conversations(owner="ada"),
        }[what]()
        await anext(through)

        async def go_on() -> list[Any]:
            return [one async for one in through]

        with pytest.raises(NotOpen, match="run_coroutine_threadsafe"):
            await in_a_thread(go_on)


def test_a_loop_that_ended_is_named() -> None:
    """Opened and never closed: no other loop can give back what it holds; another Chatkeep on the store goes on."""
    url = "memory://left-open"  # has no threads that would stay
    keep = counting(url)

    async def leave() -> None:
        await keep.open()
        await keep.receive("ada", "1")

    async def go_on() -> str:
        async with counting(url) as other:
            return (await other.receive("ada", "2")).replies[0].text

    asyncio.run(leave())

    assert all_say(asyncio.run(refusals(keep)), "has ended")
    with pytest.raises(NotOpen, match="has ended"):
        asyncio.run(keep.open())
    assert "2" == asyncio.run(go_on())


@pytest.mark.parametrize("runs", ["a loop of its own", "the loop of its parent"])
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")
def test_a_forked_child_is_refused(tmp_path: Any, runs: str) -> None:
    """It would write into its parent's connections; the parent goes on."""
    loop, keep = asyncio.new_event_loop(), counting(f"sqlite:///{tmp_path}/chat.db")
    loop.run_until_complete(keep.open())
    loop.run_until_complete(keep.receive("ada", "1"))
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        signal.alarm(20)  # what waits for threads of the parent waits for ever
        try:
            own = asyncio.new_event_loop() if runs == "a loop of its own" else loop
            told = own.run_until_complete(refusals(keep))
            for name, call in (("Chatkeep.open", keep.open), ("Chatkeep.close", keep.close)):
                try:
                    own.run_until_complete(call())
                except ChatkeepError as fault:
                    told[name] = f"{type(fault).__name__}: {fault}"
            os.write(writing, pickle.dumps(told))
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as answers:
        told = pickle.loads(answers.read())
    os.waitpid(child, 0)

    assert {"Chatkeep.open", "Chatkeep.close"} <= set(told)
    assert all_say(told, "a fork")
    assert "2" == loop.run_until_complete(keep.receive("ada", "2")).replies[0].text
    assert ["ada 1", "ada 1", "ada 2", "ada 2"] == loop.run_until_complete(log_of(keep))
    loop.run_until_complete(keep.close())
    loop.close()


def test_closed_and_opened_in_another_loop_it_works_as_before(url: str) -> None:
    """Its sweep too, which ended without a word there: what is left is found, and opening twice at once is refused as ever."""
    keep, other = counting(url), counting(url)

    async def use(text: str) -> tuple[str, list[bool]]:
        twice = await asyncio.gather(keep.open(), keep.open(), return_exceptions=True)
        try:
            assert keep._engine.sweeper.task is not None
            await nothing_happens_for(0.2)
            return (await keep.receive("ada", text)).replies[0].text, [
                keep._engine.sweeper.task.done(),
                isinstance(twice[1], UsageError),
            ]
        finally:
            await asyncio.gather(keep.close(), keep.close())

    for number in ("1", "2", "3"):
        assert (number, [False, True]) == asyncio.run(use(number))
    assert not other._engine.is_open


async def test_a_store_that_is_away_is_no_mistake_of_the_caller(tmp_path: Any) -> None:
    """An opening that failed because of the store is told as that until it succeeds, from whichever loop."""
    keep = counting(f"sqlite:///{tmp_path}/later/chat.db")
    for _ in range(2):
        with pytest.raises(Unavailable):
            await keep.open()
        with pytest.raises(Unavailable, match="not open"):
            await keep.accept("ada", "1")
        with pytest.raises(Unavailable, match="not open"):
            await keep.conversation("ada")
    (tmp_path / "later").mkdir()

    async def use() -> str:
        async with keep:
            return (await keep.receive("ada", "1")).replies[0].text

    assert "1" == await in_a_thread(use)


async def test_a_tenant_is_refused_like_its_chatkeep() -> None:
    """A tenant that was taken before the opening works after it."""
    keep = counting("memory://confined")
    salon: Tenant[Any] = keep.tenant("salon")
    with pytest.raises(NotOpen):
        await salon.receive("ada", "1")
    async with keep:
        assert "1" == (await salon.receive("ada", "1")).replies[0].text
