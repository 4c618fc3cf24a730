"""What all chats of one `CookieChat` share: keys, the cookie's attributes, the bot, and the store that they may move on to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Generic

from ..app import Chatkeep
from ..bounded import Newest
from ..conversation.state import StateCodec
from ..engine.engine import Engine
from ..engine.hooks import Handler, handler_for
from ..engine.turn import Turn
from ..errors import Misconfigured, UsageError
from ..model import State
from ..settings import Settings
from ..storage.cache import Cache
from ..storage.store import Store
from .contents import RequestDriver
from .options import LATER
from .sealing import Sealer
from .site import Place

CLEARING: Newest[str, bool] = Newest(10_000)
"""Conversations whose turn of now has asked for an end of the cookie."""


def clear_cookie(turn: Turn[Any]) -> None:
    """
    Have the visitor's browser forget the chat with the answer to this turn, such as when an order is complete.

    The next message begins a new chat. Nothing happens when the turn is not recorded, or is none of a `CookieChat`.
    """
    CLEARING[turn.conversation] = True


class Keeping(Generic[State]):
    """Opens an engine for each request, and the store that *then* names. *make* makes the Chatkeep of a URL."""

    def __init__(
        self,
        bot: Callable[[Turn[State]], Any],
        *,
        sealer: Sealer,
        place: Place,
        max_age_s: int,
        settings: Settings,
        states: StateCodec[State],
        clock: Callable[[], float],
        then: Chatkeep[State] | None,
        make: Callable[[], Chatkeep[State]] | None,
    ) -> None:
        self.sealer = sealer
        self.place = place
        self.max_age_s = max_age_s
        self.clock = clock
        self._bot = bot
        self._settings = settings
        self._states = states
        self._then = then
        self._make = make
        self._stores: dict[asyncio.AbstractEventLoop, asyncio.Task[Chatkeep[State]]] = {}
        self._log_first = False

    @property
    def has_store(self) -> bool:
        """Whether chats move on to a store."""
        return self._then is not None or self._make is not None

    async def open_engine(self, driver: RequestDriver) -> Engine[State]:
        """Open an engine over *driver*, for one request."""
        settings = self._settings
        cache = Cache(entries=4, bytes=settings.cache_bytes)
        store = Store(driver, cache=cache, window=settings.history, message_limit=settings.message_limit)
        engine = Engine(store, settings, self._states, clock=self.clock)
        engine.turns.handler = self._checked(handler_for(self._bot, engine.runner.call_in_thread))
        await engine.open()
        engine.turns.pace_s = 0.0  # nobody writes beside it, so it may always run before its message is in the log
        engine.turns.log_first = self._log_first
        return engine

    def learn(self, engine: Engine[State]) -> None:
        """Remember what the engine of a request has found out about the bot."""
        self._log_first = engine.turns.log_first

    async def open_store(self) -> Chatkeep[State]:
        """Return the Chatkeep that `then` is, or that is opened on the store that it names, once in each event loop."""
        if self._then is not None:
            return self._then
        if self._make is None:
            raise Misconfigured(
                "This chat was moved to a store, and CookieChat was made without then=; nothing was done. Give it the same store again."
            )
        loop = asyncio.get_running_loop()
        opening = self._stores.get(loop)
        if opening is None or (opening.done() and (opening.cancelled() or opening.exception() is not None)):
            self._stores = {other: found for other, found in self._stores.items() if not other.is_closed()}
            opening = self._stores[loop] = asyncio.create_task(
                self._open_store(self._make), name="chatkeep cookie store"
            )
        return await asyncio.shield(opening)

    async def close(self) -> None:
        """Close the store that was opened in this event loop."""
        opening = self._stores.pop(asyncio.get_running_loop(), None)
        if opening is not None:
            await asyncio.wait([opening])
            if not opening.cancelled() and opening.exception() is None:  # (else the request that needed it was told)
                await opening.result().close()

    async def _open_store(self, make: Callable[[], Chatkeep[State]]) -> Chatkeep[State]:
        keep = make()
        await keep.open()
        return keep

    def _checked(self, handler: Handler[State]) -> Handler[State]:
        """Return *handler*, refused what a cookie cannot do."""

        async def checked(turn: Turn[State]) -> Any:
            CLEARING.pop(turn.conversation, None)  # of a run before that is not recorded
            said = await handler(turn)
            if turn.work is not None and any(turn.work.set.values()):
                raise UsageError(
                    f"turn.remind was called, and {LATER}. Reminders need a store: give CookieChat then=..."
                )
            return said

        return checked
