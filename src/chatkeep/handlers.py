"""Handlers as people write them, and as the engine calls them."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

from .model import Content, State, Turn

Handler = Callable[[Turn[State]], Any]
"""What `on_message` and `on_missing` are given, made awaitable by `handler_for`."""


def handler_for(function: Callable[..., Any]) -> Handler[Any]:
    """*function* as something to await: plain functions run in a thread, the text of async generators is put
    together."""
    if inspect.isasyncgenfunction(function):

        async def whole(turn: Turn[Any]) -> str:
            return "".join([piece async for piece in cast(AsyncIterator[str], function(turn))])

        return whole
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__):
        return cast(Handler[Any], function)

    async def in_thread(turn: Turn[Any]) -> Any:
        return await asyncio.to_thread(function, turn)

    return in_thread


def contents(said: Any) -> list[Content]:
    """What a handler returned, as replies: nothing, text, a JSON part, or a list of these. Raises TypeError."""
    if said is None or said == "":
        return []
    if isinstance(said, str):
        return [said]
    if isinstance(said, dict):
        return [[said]]
    if isinstance(said, list | tuple):
        return [content for part in said for content in contents(part)]
    raise TypeError(
        f"a handler returns text, a JSON part (a dict), a list of these, or None, not {type(said).__name__}"
    )
