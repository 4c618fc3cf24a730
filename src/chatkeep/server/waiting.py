"""Waiting within a time: what is there already needs no timer, which costs as much as decoding a small body."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from types import coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def within(timeout_s: float, work: Coroutine[Any, Any, T]) -> T:
    """Return what *work* returns, which is begun at once. Raises TimeoutError after so many seconds."""
    try:
        awaited = work.send(None)
    except StopIteration as done:
        found: T = done.value
        return found
    async with asyncio.timeout(timeout_s):
        return await _go_on(work, awaited)


@coroutine
def _go_on(begun: Coroutine[Any, Any, T], awaited: Any) -> Generator[Any, Any, T]:
    """Go on with a coroutine that was begun and waits for *awaited*."""
    try:
        while True:
            try:
                sent = yield awaited
            except BaseException as fault:
                awaited = begun.throw(fault)
            else:
                awaited = begun.send(sent)
    except StopIteration as done:
        found: T = done.value
        return found
