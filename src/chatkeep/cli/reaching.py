"""Reaches what a command names, a store or a server, and runs the command on it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from ..errors import ChatkeepError, UsageError
from ..model import Conversation
from .on_store import StoreTarget
from .printing import plain
from .target import Target, Verbs, is_server


def open_target(store: str) -> Target:
    """Return what *store* names, to be opened by `async with`. Raises `UsageError`."""
    if is_server(store):
        from .on_server import ServerTarget  # an extra: imported only where it is wanted

        return ServerTarget(store)
    return StoreTarget(store)


def on_target(store: str, work: Callable[[Target], Awaitable[None]]) -> None:
    """Run *work* on what *store* names."""

    async def worked() -> None:
        async with open_target(store) as target:
            await work(target)

    asyncio.run(worked())


def look(store: str, tenant: str, work: Callable[[Verbs], Awaitable[None]], *, conversation: str | None = None) -> None:
    """Run *work* on one tenant of what *store* names, where the *conversation* is there."""
    in_scope(store, conversation, tenant, False, lambda target, of: work(of))


def in_scope(
    store: str,
    conversation: str | None,
    tenant: str,
    everywhere: bool,
    work: Callable[[Target, Verbs], Awaitable[None]],
) -> None:
    """Run *work* on what *store* names and one tenant of it, where the *conversation* is there; *everywhere* goes with no tenant."""
    if everywhere and tenant:
        raise UsageError("--everywhere cannot be combined with --tenant; nothing was changed.")

    async def worked(target: Target) -> None:
        of = target.of(tenant)
        if conversation is not None:
            await found_in(of, conversation, target.where)
        await work(target, of)

    on_target(store, worked)


async def found_in(of: Verbs, conversation: str, where: str, *, messages: int = 0) -> Conversation[Any]:
    """Return the conversation; ends the program when there is none."""
    found = await of.conversation(conversation, messages=messages)
    if found is None:
        raise ChatkeepError(
            f"There is no conversation {plain(conversation, line=True)!r} in {where}. `chatkeep list` has those there are."
        )
    return found
