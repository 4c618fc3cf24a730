"""The chat of one request: opened from its cookie, answered by an engine of its own, sealed again."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Generic, Literal

import msgspec
from msgspec import Raw, Struct, structs

from ..app import core_of
from ..conversation.codec import record_from
from ..conversation.housekeeping import cut_log
from ..conversation.snapshots import Commit, Snapshot
from ..drivers.base import Key
from ..engine.engine import Engine
from ..engine.run import refuse_own_turn
from ..errors import BadMessage, HandlerFailed, TooLarge, Unavailable, Uncertain, UsageError, describe_fault
from ..model import Content, Conversation, Receipt, State
from ..tenant import Tenant
from .contents import Contents, Kept, RequestDriver, from_bytes, row_of, to_bytes
from .keeping import CLEARING, Keeping
from .sealing import COOKIE_MOST, sealed_size
from .site import Site

log = logging.getLogger("chatkeep")

SLOTS_NAMED = 3
CUT_ROOM = 24
"""Bytes by which a record may grow that says where its log begins."""

Lost = Literal["", "expired", "unreadable"]

Refusal = BadMessage | TooLarge | Unavailable | Uncertain
"""What a chat refuses that is not the application's fault: left alone, it becomes an answer with status 413 or 503."""


class Answer(Struct, frozen=True):
    """What became of a message, and the headers that go out with the answer: the cookie, where it is another one now."""

    receipt: Receipt
    headers: list[tuple[str, str]]


class Chat(Generic[State]):
    """
    The visitor's chat, for one request: `request.state.chat`.

        async def say(request):
            receipt = await request.state.chat.receive("hello")

    lost: why the cookie that came was not used, and the chat begins anew: "expired", "unreadable" (altered, of another key or host, or
    no cookie of chatkeep's at all), or "" where it was used or none came.
    """

    def __init__(self, of: Keeping[State], site: Site, values: list[str]) -> None:
        self._of = of
        self._site = site
        self.lost: Lost = ""
        self._cleared = False
        self._begin_anew()
        self._open(values)
        self._sent = ""
        self._engine: Engine[State] | None = None
        self._driver: RequestDriver | None = None
        self._lock = asyncio.Lock()
        self.refused: Refusal | None = None
        """Why the last call was not done, where the cookie has no room or the store that `then` names is away."""

    # -- what an application does ------------------------------------------------------------------------------------------

    async def receive(
        self, content: Content, *, id: str | None = None, metadata: dict[str, Any] | None = None
    ) -> Receipt:
        """
        Answer a message in this call; the conversation as it is then goes out in the cookie of this request's answer.

        Promised: state, message and replies are in the cookie together, or none of them is, and the cookie stays as it was. A
        message whose *id* is in the log already, as far as the cookie has room for the log, has no second effect.

        Not promised: anything against the visitor's own past. Who sends an older cookie goes on from there, and of two requests at the
        same time the answer that comes last counts.

        Raises:
            BadMessage: It cannot be stored everywhere (a NUL, half a character), or its *id* stands for another message (`KeyReused`).
                Left alone, it becomes an answer with status 422.

            TooLarge: The cookie has no room for it. Left alone, it becomes an answer with status 413.

            Unavailable: The store that `then` names cannot be reached. Nothing was recorded, and the cookie stays as it was. Left
                alone, it becomes an answer with status 503.

            Uncertain: That store did not say whether it was recorded; otherwise as `Unavailable`. Send it again under the same *id*.

            HandlerFailed: The handler failed as often as `attempts` says.

            UsageError: The headers of the answer have gone out already.
        """
        refuse_own_turn(self._key, "would wait for itself; answer in the turn that runs")
        async with self._called():
            self._refuse_sent("recorded")
            CLEARING.pop(self._id, None)
            if self._moves:
                receipt = await (await self._store()).receive(self._id, content, id=id, metadata=metadata)
                self._changed = True
            else:
                receipt = await self._receive_here(content, id, metadata)
            if CLEARING.pop(self._id, None):
                self.clear_cookie()
            return receipt

    async def conversation(self) -> Conversation[State] | None:
        """
        Return the conversation as it is now, with the messages that the cookie has room for; None before the first message.

        Raises:
            Unavailable: The store that `then` names cannot be reached. Left alone, it becomes an answer with status 503.
        """
        async with self._called():
            if self._moves:
                keep = await self._store()
                self._changed = True
                return await keep.conversation(self._id)
            if self._kept is None:
                return None
            engine, _ = await self._opened()
            return await Tenant(engine, "").conversation(self._id)

    async def change(self, edit: Callable[[State], State | None]) -> Conversation[State]:
        """Apply *edit* to the state outside a turn, and return the conversation that this leaves; errors as those of `receive`."""
        refuse_own_turn(self._key, "would throw its own turn away; change turn.state")
        async with self._called():
            self._refuse_sent("changed")
            if self._moves:
                changed = await (await self._store()).change(self._id, edit)
                self._changed = True
                return changed
            engine, driver = await self._opened()
            try:
                changed = await Tenant(engine, "").change(self._id, edit)
                await self._keep(engine, driver)
            except BaseException:
                await self._discard()
                raise
            return changed

    def clear_cookie(self) -> None:
        """Have the browser forget the chat with this answer: the next message begins a new one."""
        self._refuse_sent("cleared")
        self._begin_anew()
        self._cleared = True

    def headers(self) -> list[tuple[str, str]]:
        """
        Return the headers that go out with the answer of this request: none where the chat is as it came.

        From here on the chat takes no more: what would be recorded now could not reach the browser.
        """
        self._sent = self._sent or "the headers of this request's answer have gone out"
        if self._changed:
            age = self._of.max_age_s
            plain = to_bytes(Contents(self._id, int(self._of.clock()) + age, self._kept))
            value = self._of.sealer.seal(plain, name=self._site.name, host=self._site.host)
        elif self._cleared:
            value, age = "", 0
        else:
            return []
        place = self._of.place
        cookie = f"{self._site.name}={value}; Max-Age={age}; Path={place.path}; HttpOnly; SameSite={place.same_site}"
        # What sets a visitor's cookie must not be kept by a cache, and shown to the next visitor.
        return [("set-cookie", cookie + "; Secure" * self._site.secure), ("cache-control", "no-store")]

    async def close(self) -> None:
        """Give back what the request has needed."""
        self._sent = self._sent or "this request is over"
        await self._discard()

    def refuse(self, why: str) -> None:
        """Take nothing from here on, because of *why*."""
        self._sent = self._sent or why

    # -- how it is done ----------------------------------------------------------------------------------------------------

    @property
    def _key(self) -> Key:
        return Key("", self._id)

    @property
    def _moves(self) -> bool:
        """Whether the store that `then` names answers: the chat is there, or has come in a cookie and moves there now."""
        return self._in_store or (self._of.has_store and self._kept is not None and not self._changed)

    def _begin_anew(self) -> None:
        """Have a new conversation, in which nothing was said."""
        self._id = secrets.token_urlsafe(12)
        self._kept: Kept | None = None
        self._in_store = self._changed = False

    def _open(self, values: list[str]) -> None:
        """Take what the first of *values* holds that can be opened."""
        for value in values:
            plain = self._of.sealer.open(value, name=self._site.name, host=self._site.host)
            found = None if plain is None else from_bytes(plain)
            if found is None:
                self.lost = "unreadable"
            elif found.expires <= self._of.clock():
                self.lost = "expired"
            else:
                self.lost = ""
                self._id, self._kept, self._in_store = found.id, found.kept, found.kept is None
                return
        if self.lost:
            log.info("A cookie %s was %s; a new chat begins in its place.", self._site.name, self.lost)

    @asynccontextmanager
    async def _called(self) -> AsyncIterator[None]:
        """Have one call at a time, and remember what the last one is refused for."""
        async with self._lock:
            self.refused = None
            try:
                yield
            except (BadMessage, TooLarge, Unavailable, Uncertain) as fault:
                self.refused = fault
                raise

    def _refuse_sent(self, done: str) -> None:
        if self._sent:
            raise UsageError(
                f"{self._sent}, and the cookie has to be among them; nothing was {done}. Call it before the answer begins, not in a "
                "stream, a background task or a websocket."
            )

    async def _opened(self) -> tuple[Engine[State], RequestDriver]:
        """Return the engine of this request."""
        if self._driver is not None and self._driver.key != self._key:
            await self._discard()  # of a chat that was cleared
        if self._engine is None or self._driver is None:
            driver = RequestDriver(self._key, self._kept)
            self._engine, self._driver = await self._of.open_engine(driver), driver
        return self._engine, self._driver

    async def _discard(self) -> None:
        """Let go of the engine and of what it has in it: the next one begins with what was kept last."""
        engine, self._engine, self._driver = self._engine, None, None
        if engine is not None:
            self._of.learn(engine)
            await engine.close()

    async def _receive_here(self, content: Content, id: str | None, metadata: dict[str, Any] | None) -> Receipt:
        engine, driver = await self._opened()
        try:
            receipt = await Tenant(engine, "").receive(self._id, content, id=id, metadata=metadata)
            self._refuse_sent("kept")  # they may have gone while the handler ran
            await self._keep(engine, driver)
        except HandlerFailed as fault:
            await self._discard()
            cause = fault.__cause__ or fault
            cause = cause.__cause__ or cause
            raise HandlerFailed(
                f"{self._key}: the handler failed ({describe_fault(cause)}). Nothing of this message is in the cookie, which stays as it "
                "was; send it again."
            ) from cause
        except BaseException:
            await self._discard()
            raise
        return receipt

    async def _keep(self, engine: Engine[State], driver: RequestDriver) -> None:
        """Keep the conversation as it is now, with as much of its log as there is room for. Raises `TooLarge`."""
        kept = driver.kept
        if kept is None or (self._kept is not None and self._kept.revision == kept.revision):
            return
        while (over := self._size(kept) - COOKIE_MOST) > 0:
            upto = find_cut(kept, over + CUT_ROOM)
            if upto is None and not self._of.has_store:
                raise TooLarge(describe_size(self._key, kept, self._size(kept)))
            if upto is None:
                await self._move(kept)
                return
            await self._cut(engine, upto)
            kept = driver.kept or kept
        self._kept, self._changed = kept, True

    async def _cut(self, engine: Engine[State], upto: int) -> None:
        shared = engine.shared

        def decide(there: Snapshot) -> Commit:
            return cut_log(there, upto, shared.policy, at=shared.clock())

        await shared.commit(shared.store.cached(self._key) or await shared.store.reload(self._key), decide)

    def _size(self, kept: Kept) -> int:
        plain = to_bytes(Contents(self._id, int(self._of.clock()) + self._of.max_age_s, kept))
        return sealed_size(len(plain), self._site.name)

    async def _store(self) -> Tenant[State]:
        """Return the conversations of the store that `then` names, with this one among them."""
        if self._kept is not None:
            await self._move(self._kept)
        return (await self._of.open_store()).tenant("")

    async def _move(self, kept: Kept) -> None:
        """Put the conversation into the store, unless it is there already; one that was erased there is not brought back."""
        row, entries = row_of(self._key, kept)
        keep = await self._of.open_store()
        there = await core_of(keep).adopt(structs.replace(row, head=kept.head - len(entries)), entries)
        if not there:
            self._id = secrets.token_urlsafe(12)
        self._kept, self._in_store, self._changed = None, True, True


def find_cut(kept: Kept, over: int) -> int | None:
    """Return up to which number the log of *kept* is dropped so that it takes *over* bytes less in a cookie, or as much as there is
    to drop; the last turn stays. None where nothing is left to drop."""
    first = kept.head - len(kept.entries) + 1
    begins = [number for number, (_, role, _) in enumerate(kept.entries, first) if role in "ue"][1:]
    saved, number = 0, first
    for cut in begins:
        while number < cut:
            id, _, body = kept.entries[number - first]
            saved, number = saved + len(id) + len(body) + 6, number + 1
        if saved * 4 // 3 >= over:
            return cut - 1
    return begins[-1] - 1 if begins else None


def describe_size(key: Key, kept: Kept, size: int) -> str:
    """Say that *kept* does not fit into a cookie, and what in it is largest."""
    state = record_from(key, kept.body).state
    try:
        slots = {name: len(raw) for name, raw in msgspec.json.decode(state, type=dict[str, Raw]).items()}
    except msgspec.MsgspecError:
        slots = {}
    largest = sorted(slots.items(), key=lambda one: -one[1])[:SLOTS_NAMED]
    named = ", ".join(f"{name[:60]} ({count:,} bytes)" for name, count in largest) or f"none ({len(state):,} bytes)"
    said = sum(len(body) for _, _, body in kept.entries)
    return (
        f"{key}: the chat takes {size:,} bytes as a cookie, {COOKIE_MOST:,} are kept by browsers, also with no more than its last turn "
        f"({said:,} bytes). The largest slots of the state: {named}. Nothing was recorded, and the cookie stays as it was. Keep less in "
        'the state, or have chats move on to a store: CookieChat(..., then="redis://...").'
    )
