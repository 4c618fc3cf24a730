"""The words people use: `Chatkeep`, and one `Tenant` of it. Everything here is thin; the engine does the work."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from os import PathLike, fspath
from types import TracebackType
from typing import Any, Generic, Literal, Self, TypeVar, Unpack, cast, get_args, overload

from msgspec import Struct, structs

from .conversation.keys import LONGEST_ID, RESERVED, key_for
from .conversation.outbox import Delivery, Outlet, list_deliveries
from .conversation.sessions import is_session_over
from .conversation.snapshots import Snapshot, is_outbound, unread_messages
from .conversation.state import StateCodec
from .drivers import driver_for
from .drivers.base import Driver, Index, Key, Row, mark_of
from .engine.engine import Engine, EngineStatistics, owned
from .engine.hooks import Handler, handler_for
from .engine.turn import Turn
from .engine.watch import Watch
from .errors import BadMessage, Corrupt, Misconfigured, Replaced, Unavailable, Unsupported, UsageError
from .model import Content, Conversation, Event, Message, Part, Receipt, Role, State
from .settings import Flag, Options, seconds, settings_from, store_url
from .storage.cache import Cache, CacheStatistics
from .storage.records import Records
from .storage.store import Store

Record = TypeVar("Record", bound=Struct)

Reply = Content | Part | Sequence[Content | Part] | None
"""What a handler may return."""

Said = TypeVar("Said", bound=Reply | Awaitable[Reply] | AsyncIterator[str])

PAGE = 100
FOLLOW_S = 60.0


class Statistics(Struct, frozen=True):
    """What happened in this process since it started."""

    cache: CacheStatistics
    engine: EngineStatistics


class Tenant(Generic[State]):
    """All conversations of one tenant; no other tenant's can be seen or touched through it."""

    def __init__(self, engine: Engine[State], tenant: str) -> None:
        self._engine = engine
        self._tenant = tenant

    @property
    def _opened(self) -> Engine[State]:
        """The engine, for a call that acts on the store: it must come from where this Chatkeep was opened."""
        self._engine.store.confinement.check()
        return self._engine

    async def receive(
        self,
        conversation: str,
        content: Content,
        *,
        id: str | None = None,
        role: Role = "user",
        metadata: dict[str, Any] | None = None,
        owner: str = "",
        joins: bool = True,
    ) -> Receipt:
        """
        Records a message and answers it in this call.

        Promised: when this returns, message, new state and replies are durable, and recorded together. A message
        whose *id* is in the log already has no second effect; the receipt then carries the replies recorded for it
        and `duplicate` is True. While the handler raises, it is tried again, with growing pauses; `HandlerFailed`
        comes when the message was set aside. Cancelling the call does not take back a message that is in the log: it
        is answered anyway.

        Not promised: that the handler runs once. What it does to the outside world should carry `turn.id`.

        Args:
            conversation: Names the conversation; any text, 1 to 512 bytes of UTF-8.

            content: Text, or a list of JSON parts; attachments by reference.

            id: The sender's id of this message, such as a webhook's. Without one, a redelivery cannot be told from a
                new message.

            role: "user" or "event".

            metadata: JSON kept with the message.

            owner: Whose conversation it is, if this message creates it.

            joins: Waits for the answer also when the message is known and somebody works on it already; False gives a
                receipt with status "accepted" and `duplicate` at once.

        Raises:
            BadKey, BadMessage, TooLarge: Nothing was touched.

            NotOpen: Not inside `async with keep:`, or in another event loop, thread or process. Nothing was touched.

            Overloaded, Unavailable: Certainly not written. Send it again later, under the same id.

            Uncertain: Perhaps written. Send it again under the same id.

            HandlerFailed: It is in the log and has no answer.
        """
        if role not in ("user", "event"):
            raise BadMessage(
                f"{conversation}: nobody answers a message of role {role!r}; use accept. Nothing was touched."
            )
        key = self._key(conversation)
        _check_names(key, id, owner)
        return await self._opened.receive(key, content, id=id, role=role, metadata=metadata, owner=owner, joins=joins)

    async def accept(
        self,
        conversation: str,
        content: Content,
        *,
        id: str | None = None,
        role: Role = "user",
        metadata: dict[str, Any] | None = None,
        owner: str = "",
    ) -> Receipt:
        """
        Records a message and returns; a worker answers it, here or, after a crash, wherever the store is opened next.

        When this returns, the message is durable. Roles other than "user" and "event" are kept and shown, and not
        answered. For a message whose *id* is known, the receipt has what became of it. Arguments and errors as for
        `receive`.
        """
        if role not in get_args(Role):
            raise BadMessage(
                f"{conversation}: a role is one of {', '.join(get_args(Role))}, not {role!r}. Nothing was touched."
            )
        key = self._key(conversation)
        _check_names(key, id, owner)
        return await self._opened.accept(key, content, id=id, role=role, metadata=metadata, owner=owner)

    async def begin(self, conversation: str, *, owner: str = "") -> Conversation[State]:
        """
        Creates a conversation before anything is said in it, and answers it; the one there is, if there is one.

        *owner* is whose it is; of one that exists already it is not changed.
        """
        key = self._key(conversation)
        _check_names(key, None, owner)
        return self._shown(await self._opened.begin(key, owner=owner), None)

    @property
    def flags(self) -> Mapping[str, Flag]:
        """The feature flags of this tenant, as the settings have them now: a handler asks keep.tenant(turn.tenant).flags."""
        return self._engine.settings.flags.of(self._tenant)

    async def conversation(self, conversation: str, *, messages: int | None = None) -> Conversation[State] | None:
        """
        The conversation as it is now, with its last messages; None when there is none.

        Always read from the store, never from a cache, so it shows every act that was answered before, on any
        instance; only with on_outage="read", while the store is away, what this process has seen last, marked
        `stale`. Raises `Corrupt` when it is there and cannot be read, `Unsupported` when its state is newer than
        this code.
        """
        key = self._key(conversation)
        try:
            snapshot = await self._opened.store.load(key)
        except Unavailable as away:
            snapshot = self._engine.store.cached(key)
            if snapshot is None or not self._engine.reads_on or isinstance(away, Replaced):
                raise
            return structs.replace(self._shown(snapshot, messages), stale=True)
        return None if snapshot is None else self._shown(snapshot, messages)

    async def history(
        self,
        conversation: str,
        *,
        after: int | None = None,
        before: int | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[Message]:
        """
        The log, oldest first, of all sessions: what is numbered above *after* and below *before*.

        With *before* and *limit* and no *after*, the last *limit* of them. Read page by page while you iterate;
        entries that are added meanwhile are seen, entries that retention removes are not.
        """
        key = self._key(conversation)
        snapshot = await self._opened.store.load(key)
        if snapshot is None:
            return
        page, incarnation = self._engine.store.page, snapshot.row.incarnation
        if after is None and before is not None and limit is not None:
            newest: list[Message] = []
            while limit > 0 and (found := await page(key, incarnation, before=before, limit=min(limit, PAGE))):
                newest[:0] = found
                before, limit = found[0].number, limit - len(found)
            for message in newest:
                yield message
            return
        seen, left = after or 0, limit if limit is not None else snapshot.row.head + (1 << 40)
        while left > 0 and (found := await page(key, incarnation, after=seen, before=before, limit=min(left, PAGE))):
            for message in found:
                yield message
            seen, left = found[-1].number, left - len(found)

    def watch(self, conversation: str, *, after: int | None = None) -> Watch:
        """
        Watches a conversation: for servers; `follow` is the same as a plain loop.

        *after*: from which number of the log; None: what comes from now on.
        """
        return Watch(self._engine.live, self._key(conversation), after)

    async def follow(self, conversation: str, *, after: int | None = None) -> AsyncIterator[Event]:
        """
        What happens in a conversation, as it happens, on whichever instance: `async for event in keep.follow("ada")`.

        Promised: every `Message` of the log but chatkeep's own notes, in order, each once, from number *after* on (None:
        what comes from now on), also after outages of the store. `StateChanged` when the state is another. `Typing` and
        `Delta` show a turn that runs and are kept nowhere: pieces of a streamed reply may begin again at 0, and the
        message that follows replaces them. Other instances' pieces are seen only on stores that announce changes. Ends
        with `Erased`, or when this Chatkeep is closed.
        """
        async with self.watch(conversation, after=after) as watch:
            while (events := await watch.next(FOLLOW_S)) is not None:
                for event in events:
                    yield event

    async def conversations(
        self, *, owner: str | None = None, by: Index = "recent", limit: int | None = None
    ) -> AsyncIterator[Conversation[State]]:
        """
        Conversations without their messages: last changed first (to the minute), or by="key"; or those of an *owner*.

        One that cannot be read does not end the list: it is shown with the reason in its `fault`.
        """
        after: Row | None = None
        left = limit if limit is not None else 1 << 40
        index: Index = "owner" if owner is not None else by
        while True:
            rows = await self._opened.store.rows(index, tenant=self._scope, owner=owner or "", after=after, limit=PAGE)
            for row in rows:
                if row.key.tenant.startswith(RESERVED):
                    continue
                if left <= 0:
                    return
                left -= 1
                try:
                    snapshot = await self._engine.store.load(row.key)
                    if snapshot is not None:
                        yield self._shown(snapshot, 0)
                except (Corrupt, Unsupported) as fault:
                    yield _unreadable(row, str(fault))
            if len(rows) < PAGE or left <= 0:
                return
            after = rows[-1]

    async def change(
        self, conversation: str, edit: Callable[[State], State | None], *, id: str | None = None
    ) -> Conversation[State]:
        """
        Applies *edit* to the state outside a turn, and answers the conversation it leaves.

        *edit* changes the state in place, or returns another. When others write meanwhile it is applied again to the
        newer state, so it must depend on nothing else and must not wait; what it raises is raised here, and nothing is
        written. A conversation that does not exist, or whose session is over, gets a new session. A turn that runs
        meanwhile is run again on the changed state. With an *id*, the change is made once, however often it is asked for.
        """
        return self._shown(await self._opened.change(self._key(conversation), edit, id=id), None)

    async def forget(self, conversation: str, slot: str | None = None, *, id: str | None = None) -> Conversation[State]:
        """
        Clears one *slot* of the state, or all of it: it is then as in a fresh one. The log stays; `erase` removes everything.

        The state need not be readable for that. If it still is not, because of another slot, the conversation is answered
        without a state and with the reason in its `fault`. With an *id*, it is cleared once, however often it is asked for.
        """
        key = self._key(conversation)
        snapshot = await self._opened.clear(key, slot, id=id)
        try:
            return self._shown(snapshot, None)
        except (Corrupt, Unsupported) as fault:
            return _unreadable(snapshot.row, str(fault))

    async def erase(self, conversation: str) -> None:
        """
        Removes state, log, ids and every trace in the indexes. There is no way back.

        When this returns no read on any instance shows it. A message that was on its way, or comes later, begins a new
        conversation; a turn that was running writes nothing.
        """
        await self._opened.erase(self._key(conversation))

    async def dead_letters(self, conversation: str) -> list[Message]:
        """The messages that were set aside and are still in the log, oldest first, each with its `metadata["reason"]`."""
        key = self._key(conversation)
        snapshot = await self._opened.store.load(key)
        letters = []
        for number in snapshot.record.dead if snapshot else ():
            page = (
                await self._engine.store.page(key, snapshot.row.incarnation, after=number - 1, limit=1)
                if snapshot
                else []
            )
            if snapshot and page and page[0].number == number:
                found = await self._engine.outcome(snapshot, number)
                reason = {"reason": found.dead if found else ""}
                letters.append(structs.replace(page[0], metadata=page[0].metadata | reason))
        return letters

    async def replay(self, conversation: str, number: int) -> Receipt:
        """
        Accepts the content of a message that was set aside once more, as a new message at the end of the log.

        Replaying the same one twice has no second effect. Raises `UsageError` when *number* was not set aside.
        """
        for message in await self.dead_letters(conversation):
            if message.number == number:
                metadata = {name: value for name, value in message.metadata.items() if name != "reason"}
                return await self._opened.accept(
                    self._key(conversation),
                    message.content,
                    id=f"{RESERVED}replay:{number}",
                    role=message.role,
                    metadata=metadata | {"replay_of": number},
                    owner="",
                )
        raise UsageError(
            f"{conversation}: message {number} was not set aside, or has left the log; nothing was done. Only "
            "what is listed as set aside can be replayed."
        )

    async def deliveries(self, conversation: str, *, limit: int = 200) -> list[Delivery]:
        """
        How the sending of each reply stands, among the last *limit* entries of the log, oldest first.

        Only for conversations whose replies go out through a channel. See `Delivery` for the statuses.
        """
        key = self._key(conversation)
        snapshot = await self._opened.store.load(key)
        if snapshot is None or not (snapshot.record.delivery or self._engine.sender.takes(key)):
            return []
        last = [m async for m in self.history(conversation, before=snapshot.row.head + 1, limit=limit)]
        return list_deliveries(last)

    async def resend(self, conversation: str, number: int) -> None:
        """
        Sends a reply once more: one that failed, or of which nobody knows whether it was shown.

        Raises `UsageError` when message *number* is none that goes out through a channel.
        """
        key = self._key(conversation)
        snapshot = await self._opened.store.load(key)
        channel = snapshot is not None and (snapshot.record.delivery is not None or self._engine.sender.takes(key))
        there = [m async for m in self.history(conversation, after=number - 1, limit=1) if m.number == number]
        if not channel or not there or not is_outbound(there[0]):
            raise UsageError(
                f"{conversation}: message {number} is no reply in its log; nothing was sent. The list of its deliveries has the numbers."
            )
        await self._opened.resend(key, number)

    async def note_status(
        self,
        conversation: str,
        status: Literal["sent", "delivered", "read", "failed"],
        *,
        id: str = "",
        until: float | None = None,
        reason: str = "",
        at: float | None = None,
    ) -> None:
        """
        Records what a channel's platform says of a reply that was sent: the one it knows as *id*, or all *until* a time.

        The same again has no second effect, and what is told of a conversation that was erased has none at all. `deliveries`
        shows it.
        """
        key = self._key(conversation)
        if (self._opened.store.cached(key) or await self._engine.store.load(key)) is None:
            return
        told = {"id": id, "until": until, "reason": reason, "at": at}
        metadata = {"kind": "status", "status": status} | {name: value for name, value in told.items() if value}
        which = id or f"until:{until}"
        await self._opened.note(key, f"status:{status}:{which}"[: LONGEST_ID - 1], metadata)

    async def note_unknown(self, conversation: str, id: str, *, reason: str, raw: Any) -> None:
        """Keeps something that came in through a channel and cannot be answered: shown with the log, and not dropped.

        The same *id* again has no second effect.
        """
        metadata = {"kind": "unknown", "reason": reason[:500], "raw": raw}
        await self._opened.note(self._key(conversation), f"unknown:{mark_of(self._key(id or '-'))}", metadata)

    async def switch(self, on: bool, conversation: str | None = None, *, unread: str = "answer") -> None:
        """
        Switches the bot off, or on again: for one conversation, or for all of this tenant (on a Chatkeep: of all
        tenants).

        While it is off, messages are kept and shown, and not answered. When it goes on again, what is unread is
        answered as `overlap` says, or, with unread="skip", passed over (but for what comes in that very moment).
        Durable. Other instances on the store notice within `poll`; what they have put aside while it was off they
        look at again within half a minute.
        """
        if unread not in ("answer", "skip"):
            raise UsageError(f'unread is "answer" or "skip", not {unread!r}; nothing was switched.')
        skips = on and unread == "skip"
        if conversation is None:
            await self._opened.switch(on, tenant=self._scope, skips=skips)
        else:
            await self._opened.switch_one(self._key(conversation), on, skips=skips)

    @property
    def _scope(self) -> str | None:
        return self._tenant

    def _key(self, conversation: str) -> Key:
        return key_for(self._tenant, conversation)

    def _shown(self, snapshot: Snapshot, messages: int | None) -> Conversation[State]:
        row, record, engine = snapshot.row, snapshot.record, self._engine
        over = is_session_over(record, engine.policy, engine.clock())
        raw, schema = (engine.states.fresh(), engine.states.schema) if over else (record.state, record.schema)
        shown = snapshot.messages if messages is None else snapshot.messages[-messages:] if messages else ()
        return Conversation(
            tenant=row.key.tenant,
            id=row.key.id,
            owner=row.owner,
            revision=row.revision,
            state=engine.states.decode(row.key, raw, schema),
            session=record.session,
            messages=owned(list(shown)),
            head=row.head,
            unread=len(unread_messages(snapshot)),
            on=not engine.pauses.is_off(snapshot),
            dead=list(record.dead),
            updated_at=row.updated_at,
            due_at=row.due_at,
        )


class Chatkeep(Tenant[State]):
    """
    Durable conversations over one store: the way in to everything, and the tenant "".

        keep = Chatkeep("sqlite:///chat.db", session_ttl="30m")

        @keep.on_message
        async def bot(turn: Turn) -> str:
            turn.state["count"] = turn.state.get("count", 0) + 1
            return f"That was message {turn.state['count']}."

        async with keep:
            receipt = await keep.receive("ada", "hello", id="wamid.1")

    Args:
        url: The store: sqlite:///chat.db (a file here), sqlite:////var/chat.db, memory:// ...; or a `Driver`. None: what
            CHATKEEP_STORE says, or `store` in the settings file.

        state: What a session's state is: a dict (None, the default), a dataclass, a msgspec Struct or a pydantic model, made
            without arguments.

        schema: The number of the state's shape, from 1. Count it up when old states do not fit any more. 0: look only; any
            state is shown as plain JSON and none can be written.

        upgrades: For each older schema n, a function from the plain JSON value of n to that of n + 1; run when a
            state is next loaded.

        clock: The time, in seconds since 1970.

        options: See `Settings`.

    Raises:
        Misconfigured: With everything that is wrong, in one message; nothing was opened.
    """

    def __init__(
        self,
        url: str | Driver | None = None,
        *,
        state: type[State] | None = None,
        schema: int = 1,
        upgrades: Mapping[int, Callable[[Any], Any]] | None = None,
        clock: Callable[[], float] = time.time,
        **options: Unpack[Options],
    ) -> None:
        self.settings = settings_from(options)
        settings = self.settings
        kind = cast(type[State], dict) if state is None else state
        states = StateCodec(kind, schema=schema, upgrades=upgrades, limit=settings.state_limit)
        cache = Cache(entries=settings.cache_entries, bytes=settings.cache_bytes)
        url = store_url() if url is None else url
        self._url = url if isinstance(url, str) else type(url).__name__
        driver = driver_for(url) if isinstance(url, str) else url
        patience_s = seconds(settings.store_timeout)
        store = Store(
            driver, cache=cache, window=settings.history, message_limit=settings.message_limit, patience_s=patience_s
        )
        if settings.cache is not None:
            from .storage.shared_cache import SharedCache  # an extra: imported only where it is wanted

            store.shared = SharedCache(settings.cache)
        journal = None
        if settings.on_outage == "journal" and settings.journal:
            from .storage.spool import Spool

            journal = Spool(settings.journal)
        super().__init__(Engine(store, settings, states, journal=journal, clock=clock), "")

    def on_message(self, handler: Callable[[Turn[State]], Said]) -> Callable[[Turn[State]], Said]:
        """
        Decorates the bot: takes a `Turn`, returns the reply.

        A reply is text, a JSON part (a dict), a list of these, or None; an async generator of text makes one reply. A
        plain function runs in a thread. State and replies are recorded when it returns; when it raises, nothing is.
        """
        if self._engine.handler is not None:
            raise Misconfigured("There is a handler already; a Chatkeep has one.")
        self._engine.handler = self._awaitable(handler)
        return handler

    @overload
    def on_missing(
        self, hook: Callable[[Turn[State]], Awaitable[State | None]]
    ) -> Callable[[Turn[State]], Awaitable[State | None]]: ...

    @overload
    def on_missing(self, hook: Callable[[Turn[State]], State | None]) -> Callable[[Turn[State]], State | None]: ...

    def on_missing(self, hook: Callable[[Turn[State]], Any]) -> Callable[[Turn[State]], Any]:
        """
        Decorates the hook that rebuilds a session's state from the application's own data.

        It runs when a message finds no live session, is given the `Turn` (without history), and returns the state, or
        None for a fresh one. Its result is committed before the handler runs, once per session. When it raises, the
        message stays unread, is tried again, and `receive` raises `HandlerFailed`: never does a bot see an empty
        state by mistake.
        """
        if self._engine.on_missing is not None:
            raise Misconfigured("There is an on_missing hook already; a Chatkeep has one.")
        self._engine.on_missing = self._awaitable(hook)
        return hook

    def deliver(self, outlet: Outlet) -> None:
        """
        Sends replies out through *outlet*, which says whose: see `chatkeep.channels.outlet.ChannelOutlet`.

        In order, one at a time, each under a key that never changes; one that fails for the moment is tried again with
        growing pauses, also by another instance after a crash. What became of it is in `deliveries`. Every instance on
        the store that answers messages should have the same outlet.
        """
        if self._engine.is_open or self._engine.sender.outlet is not None:
            raise Misconfigured("A Chatkeep has one outlet, given before it is opened.")
        self._engine.sender.outlet = outlet
        self._engine.store.widen()

    def _awaitable(self, function: Callable[..., Any]) -> Handler[State]:
        if self._engine.is_open:
            raise Misconfigured("This Chatkeep is open already; decorate its handler and hook before.")
        return handler_for(function, self._engine.runner.in_thread)

    def tenant(self, name: str) -> Tenant[State]:
        """The same surface over another tenant's conversations."""
        key_for(name, "-")
        return Tenant(self._engine, name)

    @property
    def statistics(self) -> Statistics:
        """Counts of the cache and the engine in this process."""
        return Statistics(self._engine.store.statistics, self._engine.statistics)

    @property
    def trouble(self) -> str:
        """Why messages are not answered now, or soon may not be; "" when nothing is wrong.

        Says what the last act on the store has shown, which the workers ask every `poll`, and whether as many handlers hang
        as may run at once.
        """
        return self._engine.trouble

    def register(self, space: str, kind: type[Record]) -> Records[Record]:
        """Records of chatkeep's own in this store, beside the conversations: see `Records`."""
        return Records(self._engine.store, space, kind, clock=self._engine.clock)

    def observe(self, function: Callable[[str, float], None]) -> None:
        """Has *function* called with what was done and the seconds it took: "turn" for each run of the handler, "read",
        "append", "write", "entries", "scan" and "erase" for each act on the store. For metrics; it must not raise."""
        self._engine.store.observed = function

    async def backup(self, path: str | PathLike[str], *, replace: bool = False) -> None:
        """
        Copies the whole store into a new file at *path*, while everything runs: of one instant, and complete when it is there.

        For SQLite. The copy is a store like any other: `Chatkeep("sqlite:///copy.db")`. Raises `UsageError` when *path* is
        there already, unless told to *replace* it, and when a store that is there is open; `Unsupported`, with what to use
        instead, on a store whose server makes its own backups.
        """
        await self._opened.store.driver.backup(fspath(path), replace=replace)

    async def query(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """
        The rows of one SQL statement over the tables of an SQLite store, all tenants': to look into it in this process.

            await keep.query("select tenant, id, chatkeep_json(body) ->> '$.state' from conversation where owner = ?", "eve")

        It only reads: a statement that writes raises `UsageError`. The tables are chatkeep's own and may change with a version.
        `Unsupported` on other stores, with what to use there.
        """
        return await self._opened.store.driver.query(sql, *parameters)

    def use_shared_cache(self, on: bool) -> None:
        """Switches the shared cache (`cache=`) off, or on again, while everything runs: only speed changes.

        Raises `UsageError` when there is none.
        """
        shared = self._engine.store.shared
        if shared is None:
            raise UsageError(
                'There is no shared cache; open the Chatkeep with cache="redis://...". Nothing was changed.'
            )
        shared.on = on

    async def open(self) -> None:
        """
        Opens the store and starts the workers; what a crash has left unread is answered now.

        From then on until it is closed, it belongs to this event loop and process: calls from elsewhere raise `NotOpen`.
        """
        await self._engine.open()

    async def close(self) -> None:
        """Lets running turns finish, hands the rest back, closes the store."""
        await self._engine.close()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def _scope(self) -> str | None:
        return None


def _check_names(key: Key, id: str | None, owner: str) -> None:
    if isinstance(id, str) and id.startswith(RESERVED):
        raise BadMessage(
            f"{key}: message ids that start with {RESERVED!r} are chatkeep's own ({id[:60]!r}); nothing was touched."
        )
    if owner:
        key_for("", owner)  # an owner is text that every store can keep


def _unreadable(row: Row, fault: str) -> Conversation[Any]:
    return Conversation(
        tenant=row.key.tenant,
        id=row.key.id,
        owner=row.owner,
        revision=row.revision,
        state=None,
        session=0,
        messages=[],
        head=row.head,
        unread=0,
        on=True,
        dead=[],
        updated_at=row.updated_at,
        due_at=row.due_at,
        fault=fault,
    )
