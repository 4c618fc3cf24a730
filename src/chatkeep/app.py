"""The way in: `Chatkeep`. Everything here is thin; the engine does the work."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import partial
from os import PathLike, fspath
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar, Unpack, cast, overload

from msgspec import Struct

from .conversation.keys import key_for
from .conversation.merge import Rule, check_rules
from .conversation.once import Call
from .conversation.outbox import Outlet
from .conversation.state import StateCodec
from .core import Core
from .drivers import check_driver, driver_for
from .drivers.base import Driver, Index
from .durations import Duration, duration_fault, seconds
from .engine.engine import Engine, describe
from .engine.hooks import Handler, check_handler, handler_for, unnamed
from .engine.instruments import Instrument
from .engine.once import Ledger, OnceTool, Tool, make_once
from .engine.parts import Stats
from .engine.statistics import EngineStatistics, Tended
from .engine.turn import Turn
from .errors import Misconfigured, UsageError
from .kinds import refuse_other
from .model import AppVersion, Content, Conversation, DeadLetter, Part, State
from .secrecy import without_secret
from .settings import Options, Settings, settings_from, version_fault
from .showing import list_conversations
from .sources import store_url
from .storage.cache import Cache, CacheStatistics
from .storage.seal_note import Sealing
from .storage.store import Store
from .tenant import LETTERS, Surface, Tenant, Unread, skips_unread

if TYPE_CHECKING:
    from .storage.shared_cache import SharedCache
    from .storage.spool import Spool

Reply = Content | Part | Sequence[Content | Part] | None
"""What a handler may return."""

STATES_KEPT = 1000
"""Of so many conversations that were answered last the state is kept as the next turn gets it, beside its JSON."""

P = ParamSpec("P")
T = TypeVar("T")
Said = TypeVar("Said", bound=Reply | Awaitable[Reply] | AsyncIterator[str | Part | None])


class Statistics(Struct, frozen=True):
    """What happened in this process since it started."""

    cache: CacheStatistics
    engine: EngineStatistics


class Chatkeep(Surface[State]):
    """
    Durable conversations over one store: the way in to everything.

    It has tenants, `keep.tenant("salon-7")`. Its own verbs mean the default tenant, whose name is ""; what reaches every
    tenant says so in its name.

        keep = Chatkeep("sqlite:///chat.db", session_ttl="30m")

        @keep.on_message
        async def bot(turn: Turn) -> str:
            turn.state["count"] = turn.state.get("count", 0) + 1
            return f"That was message {turn.state['count']}."

        async with keep:
            receipt = await keep.receive("ada", "hello", id="wamid.1")

    The state of a session can have a type, and the handler then takes a `Turn[Order]`:

        from dataclasses import dataclass, field

        @dataclass
        class Order:
            items: list[str] = field(default_factory=list)

        keep = Chatkeep("sqlite:///chat.db", state=Order)

    Args:
        url: The store: sqlite:///chat.db (a file here), sqlite:////var/chat.db, memory:// ...; or a `Driver`. None: what
            CHATKEEP_STORE says, or `store` in the settings file.

        state: What a session's state is: a dict (None, the default), a dataclass, a msgspec Struct or a pydantic model, made
            without arguments.

        schema: The number of the state's shape, from 1. Count it up when old states do not fit any more. 0: look only; any
            state is shown as plain JSON and none can be written.

        upgrades: For each older schema n, a function from the plain JSON value of n to that of n + 1; run when a
            state is next loaded.

        downgrades: For each newer schema n, a function from the plain JSON value of n to that of n - 1: this code then reads what newer
            code has written, and writes its own shape, so that two releases answer from one store, and the newer one may be taken back.

        merge_rules: How `merge` puts changes of a slot together, by the slot's name: "later" (the default: where both have changed
            the same, the later one stands), "union" (of lists, all items), "sum", "max" (of numbers), or a function that is
            given base, earlier and later value, each perhaps `MISSING`, and returns the one that stands.

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
        downgrades: Mapping[int, Callable[[Any], Any]] | None = None,
        merge_rules: Mapping[str, Rule] | None = None,
        clock: Callable[[], float] = time.time,
        **options: Unpack[Options],
    ) -> None:
        self.settings = settings = settings_from(options)
        states = StateCodec(
            cast(type[State], dict) if state is None else state,
            schema=schema,
            upgrades=upgrades,
            downgrades=downgrades,
            limit=settings.state_limit,
            kept=min(settings.cache_entries, STATES_KEPT),
        )
        url = store_url() if url is None else url
        place = url if isinstance(url, str) else type(url).__name__
        driver = _make_driver(url, settings)
        store = Store(
            driver,
            place=without_secret(place),
            cache=Cache(entries=settings.cache_entries, bytes=settings.cache_bytes, dropped=states.forget),
            shared=_make_shared_cache(driver, settings),
            window=settings.history,
            message_limit=settings.message_limit,
            patience_s=seconds(settings.store_timeout),
            another=partial(driver_for, url) if isinstance(url, str) else None,
        )
        engine = Engine(
            store,
            settings,
            states,
            merge_rules=check_rules(merge_rules or {}),
            journal=_make_journal(settings),
            clock=clock,
        )
        super().__init__(engine, "")
        self._core = Core(engine, place)

    def __repr__(self) -> str:
        return describe(self._engine, "Chatkeep")

    @property
    def instruments(self) -> list[Instrument]:
        """What looks at the work of this Chatkeep, such as metrics: append an `Instrument`."""
        return self._engine.shared.instruments

    def on_message(self, handler: Callable[[Turn[State]], Said] = unnamed) -> Callable[[Turn[State]], Said]:
        """
        Decorate the bot: takes a `Turn`, returns the reply.

        A reply is text, a JSON part (a dict), a list of these, or None; an async generator of text and parts makes one reply, which is
        shown while it is made; see `turn.said`. A
        plain function runs in a thread; what it returns may have to be awaited, as where a decorator passes on what an async handler
        returns. State and replies are recorded when it returns; when it raises, nothing is.
        """
        if self._engine.turns.handler is not None:
            raise Misconfigured(
                "This Chatkeep has a handler already, and can have only one. Remove one @keep.on_message."
            )
        self._engine.turns.handler = self._awaitable(handler)
        return handler

    @overload
    def on_missing(
        self, hook: Callable[[Turn[State]], Awaitable[State | None]]
    ) -> Callable[[Turn[State]], Awaitable[State | None]]: ...

    @overload
    def on_missing(self, hook: Callable[[Turn[State]], State | None]) -> Callable[[Turn[State]], State | None]: ...

    def on_missing(self, hook: Callable[[Turn[State]], Any] = unnamed) -> Callable[[Turn[State]], Any]:
        """
        Decorate the hook that rebuilds a session's state from the application's own data.

            @keep.on_missing
            async def rebuild(turn: Turn) -> dict[str, Any]:
                return {"customer": turn.conversation}

        It runs when a message finds no live session, is given the `Turn` (without history), and returns the state, or
        None for a fresh one. Its result is committed before the handler runs, once per session. When it raises, the
        message stays unread, is tried again, and `receive` raises `HandlerFailed`: never does a bot see an empty
        state by mistake.
        """
        if self._engine.turns.on_missing is not None:
            raise Misconfigured(
                "This Chatkeep has an on_missing hook already, and can have only one. Remove one @keep.on_missing."
            )
        self._engine.turns.on_missing = self._awaitable(hook)
        return hook

    def on_failure(self, hook: Callable[[Turn[State]], Said] = unnamed) -> Callable[[Turn[State]], Said]:
        """
        Decorate the hook that says what a user is told whose message could not be answered.

            @keep.on_failure
            async def apologize(turn: Turn) -> str:
                return "I cannot answer that now. A colleague will."

        It runs when a message is set aside because its handler kept failing (`retry_for`, `attempts`), is given the `Turn`, with
        the last reason in `turn.failure`, and returns a reply as a handler does, or None. The reply is recorded together with
        the dead letter. Nothing else of the turn is kept. When the hook fails, or a message is set aside because processes died
        of it, `failure_reply` is said.
        """
        if self._engine.turns.on_failure is not None:
            raise Misconfigured(
                "This Chatkeep has an on_failure hook already, and can have only one. Remove one @keep.on_failure."
            )
        self._engine.turns.on_failure = self._awaitable(hook)
        return hook

    @overload
    def once(self, function: Tool[P, T], /) -> OnceTool[P, T]: ...

    @overload
    def once(
        self,
        function: None = None,
        /,
        *,
        done: Callable[[Call], Any] | None = None,
        failed: tuple[type[Exception], ...] = (),
    ) -> Callable[[Tool[P, T]], OnceTool[P, T]]: ...

    def once(
        self,
        function: Tool[P, T] | None = None,
        /,
        *,
        done: Callable[[Call], Any] | None = None,
        failed: tuple[type[Exception], ...] = (),
    ) -> OnceTool[P, T] | Callable[[Tool[P, T]], OnceTool[P, T]]:
        """
        Decorate a tool that must not run twice, such as a charge: any async function that is called in a turn, by the handler or by a
        framework that it uses.

            @keep.once
            async def charge(amount: int, card: str) -> str: ...

        Promised: that the call begins is in the log before it does, and its result is in the log before it is given. When the turn is
        tried again, here or elsewhere, or replayed, the same call is not made: it gets the recorded result. A call is the same when tool
        and arguments are; of several such calls in one turn, the first is the same as the first, the second as the second. A call that
        began and did not end, because its process died, its time was over or it raised, is in doubt, and is not made again: `InDoubt`
        is raised, unless *done* settles it. The message is set aside then; `doubts` lists it, `settle` says how it has ended, `replay`
        answers the message.

        Not promised: anything between runs that call the tool with other arguments, as a model may; those are other calls. A call that is
        not awaited is not made, and the turn fails with `UsageError`; under Python 3.11 only type checkers and Python's own warning tell.

        Args:
            done: Settles a call in doubt by asking the other side: takes the `Call`, returns the result if it was done, raises
                `NotDone` if it certainly was not; whatever else it raises leaves the doubt.

            failed: Exceptions of the tool that say for certain that nothing was done, beside `NotDone`.
        """

        def decorated(tool: Tool[P, T]) -> OnceTool[P, T]:
            return make_once(Ledger(self._engine.shared), tool, done, failed)

        return decorated if function is None else decorated(function)

    def deliver(self, outlet: Outlet) -> None:
        """
        Send replies out through *outlet*, which says whose.

            from chatkeep.channels import Telegram
            from chatkeep.channels.outlet import ChannelOutlet

            keep.deliver(ChannelOutlet(Telegram(token=BOT_TOKEN, secrets=[TELEGRAM_SECRET])))

        In order, one at a time, each under a key that never changes; one that fails for the moment is tried again with
        growing pauses, also by another instance after a crash. What became of it is in `deliveries`. Every instance on
        the store that answers messages should have the same outlet. Raises `Misconfigured` where there is one already, and once
        this Chatkeep is open.
        """
        if self._engine.is_open:
            raise Misconfigured("This Chatkeep is open already; call `deliver` before `async with keep`.")
        if self._engine.sender.outlet is not None:
            raise Misconfigured(
                "This Chatkeep has an outlet already. Give all channels to one: keep.deliver(ChannelOutlet(one, another))."
            )
        refuse_other(outlet, Outlet, "outlet", "A channel goes into one: keep.deliver(ChannelOutlet(channel)).")
        self._engine.sender.outlet = outlet
        if (attach := getattr(outlet, "attach", None)) is not None:  # it keeps records of its own in the store
            attach(self._core)
        self._engine.store.widen()

    def _awaitable(self, function: Callable[..., Any]) -> Handler[State]:
        if function is unnamed:
            raise Misconfigured(
                "The decorators of a Chatkeep stand without parentheses: @keep.on_message, with the handler below. Nothing was decorated."
            )
        if self._engine.is_open:
            raise Misconfigured(
                "This Chatkeep is open already; decorate its handler and hooks before `async with keep`."
            )
        check_handler(function)
        return handler_for(function, self._engine.runner.call_in_thread)

    def tenant(self, name: str) -> Tenant[State]:
        """
        Return the same surface over another tenant's conversations.

            salon = keep.tenant("salon-7")
            receipt = await salon.receive("ada", "hello", id="wamid.1")

        Raises `BadKey` for a name that cannot be stored everywhere, or is chatkeep's own.
        """
        key_for(name, "-")
        return Tenant(self._engine, name)

    @property
    def statistics(self) -> Statistics:
        """Counts of the cache and the engine in this process."""
        return Statistics(self._engine.store.statistics, self._engine.statistics)

    def stats(self) -> Stats:
        """Return what each part of this process has done since this Chatkeep was made, and how it is now: counts, bytes and ages.

        Of the store, the caches, the engine, the outbox, the sweeper and the streams. It asks nobody, so it is good for any moment. Over
        HTTP it is `GET /v1/stats`, in a terminal `chatkeep stats --parts`; what Prometheus reads is at /metrics.
        """
        return self._core.read_stats()

    @property
    def trouble(self) -> str:
        """Why messages are not answered now, or soon may not be; "" when nothing is wrong.

        Says what the last act on the store has shown, which the workers ask every `poll`, whether as many handlers hang as may
        run at once, and whether conversations wait that this version cannot read.
        """
        return self._engine.trouble

    async def backup(self, path: str | PathLike[str], *, replace: bool = False) -> None:
        """
        Copy the whole store into a new file at *path*, while everything runs: of one instant, and complete when it is there.

        For SQLite. The copy is a store like any other: `Chatkeep("sqlite:///copy.db")`. Raises `UsageError` when *path* is
        there already, unless told to *replace* it, and when a store that is there is open; `Unsupported`, with what to use
        instead, on a store whose server makes its own backups.
        """
        await self._opened.store.driver.backup(fspath(path), replace=replace)

    async def query(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """
        Return the rows of one SQL statement over the tables of an SQLite store, all tenants': to look into it in this process.

            await keep.query("select tenant, id, chatkeep_json(body) ->> '$.state' from conversation where owner = ?", "eve")

        It only reads: a statement that writes raises `UsageError`. The tables are chatkeep's own and may change with a version.
        `Unsupported` on other stores, with what to use there.
        """
        return await self._opened.store.driver.query(sql, *parameters)

    def use_shared_cache(self, on: bool) -> None:
        """Switch the shared cache (`cache=`) off, or on again, while everything runs: only speed changes.

        Raises `UsageError` when there is none.
        """
        shared = self._engine.store.shared
        if shared is None:
            raise UsageError(
                'There is no shared cache; open the Chatkeep with cache="redis://...". Nothing was changed.'
            )
        shared.on = on

    async def all_conversations(
        self,
        *,
        owner: str | None = None,
        by: Index = "recent",
        limit: int | None = None,
        messages: int = 0,
        after: Conversation[State] | None = None,
    ) -> AsyncIterator[Conversation[State]]:
        """List the conversations of every tenant, as `conversations` does those of one."""
        told: dict[str, Any] = {"by": by, "limit": limit, "messages": messages, "after": after}
        async for conversation in list_conversations(self._opened, None, owner=owner, **told):
            yield conversation

    async def all_dead_letters(self, *, after: DeadLetter | None = None, limit: int = LETTERS) -> list[DeadLetter]:
        """Return the messages that were set aside in every tenant, as `dead_letters` does without a conversation.

        after: The last one of the list before; None for the first list.
        """
        if after is not None and not isinstance(after, DeadLetter):
            raise UsageError(f"after is the last DeadLetter of the list before, not {after!r:.40}; nothing was listed.")
        behind = None if after is None else key_for(after.tenant, after.conversation)
        return await self._letters(None, behind, limit)

    async def pause_all(self) -> None:
        """Silence the bot for every tenant, as `pause` does for one.

        It adds to what is paused, and a `resume` of one tenant does not lift it.
        """
        await self._opened.changes.pause(None)

    async def resume_all(self, *, unread: Unread = "answer") -> None:
        """Lift `pause_all`; see `resume`. Tenants and conversations that are paused themselves stay so."""
        await self._opened.changes.resume(None, skips=skips_unread(unread))

    async def set_canary(self, version: str, share: float | None) -> None:
        """
        Have a *version* of the application (the setting `version`) take that *share* of the conversations, of every tenant: 0.1 is a tenth.

        0 backs it out: it takes nothing more, and what was pinned to it is answered by the others. None: it has no share of its
        own any more, and answers like the others. The instances notice within `poll`; say it before the version is deployed. It
        is always the same conversations that fall into a share, and a larger share has those of a smaller one.

        Raises:
            UsageError: The name is none, or the share is not between 0 and 1.
        """
        if not version or (fault := version_fault(version)):
            raise UsageError(f"{fault if version else 'a version has a name'}; nothing was changed.")
        if share is not None and not (isinstance(share, int | float) and 0 <= share <= 1):
            raise UsageError(f"The share of a version is from 0 to 1, or None, not {share!r}; nothing was changed.")
        await self._opened.sweeper.versions.give_share(version, None if share is None else float(share))

    async def versions(self) -> list[AppVersion]:
        """Return the versions of the application that have answered on this store in the last week, or have a share."""
        held = await self._opened.sweeper.versions.find()
        names = sorted(held.said.keys() | held.shares.keys())
        return [AppVersion(name, held.said.get(name), held.shares.get(name)) for name in names]

    async def tend(self, *, within: Duration | None = None, thorough: bool = False) -> Tended:
        """
        Do everything that is due, and return what was done: messages that wait for an answer, reminders, retries, replies that
        have to go out, sessions and logs whose time is over.

            keep = Chatkeep("sqlite:///chat.db", background=False)

            async with keep:
                await keep.tend(within="50s")

        For a `Chatkeep(..., background=False)`, which looks for nothing by itself: call it from a cron, once a minute say. Several
        may run at once; each conversation is looked after by one. A message whose handler fails is tried again by the next call.

        Args:
            within: How long it may take; what it has not come to stays due. A turn that has begun is let finish when the
                Chatkeep is closed.

            thorough: Goes through the whole store, too, for conversations that were last written before `session_ttl`,
                `retention` or `forget_after` was set. Once after such a change is enough.

        Raises:
            UsageError: Where it works in the background, and does all this by itself.

            Unavailable: The store does not answer; nothing is lost.
        """
        sweeper = self._opened.sweeper
        if self.settings.background:
            raise UsageError(
                "This Chatkeep looks after everything by itself. `tend` is for Chatkeep(..., background=False). Nothing was done."
            )
        if within is not None and (fault := duration_fault(within, "")):
            raise UsageError(f"within: {fault}. Nothing was done.")
        return await sweeper.tend(None if within is None else seconds(within), thorough=thorough)

    async def open(self) -> None:
        """
        Open the store and start the workers; what a crash has left unread is answered now.

        From then on until it is closed, it belongs to this event loop and process: calls from elsewhere raise `NotOpen`.
        """
        await self._engine.open()

    async def close(self) -> None:
        """Let running turns finish, hand the rest back, close the store."""
        await self._engine.close()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def core_of(keep: Chatkeep[State]) -> Core[State]:
    """Return the part of *keep* that chatkeep's own server, channels and command line use. Not for applications."""
    if not isinstance(keep, Chatkeep):
        raise Misconfigured(f'A Chatkeep is wanted here, not {keep!r:.80}; Chatkeep("sqlite:///chat.db") makes one.')
    return keep._core


def _make_driver(url: str | Driver, settings: Settings) -> Driver:
    """Return the driver of the store that *url* names, sealed where the settings say so; nothing is opened."""
    driver = driver_for(url) if isinstance(url, str) else check_driver(url)
    if not settings.seal_keys:
        return driver
    from .storage.sealing import sealed  # an extra: imported only where it is wanted

    return sealed(driver, settings.seal_keys)


def _make_shared_cache(driver: Driver, settings: Settings) -> SharedCache | None:
    """Return the shared cache that the settings name, sealed as *driver* is; None without one. Nothing is opened."""
    if settings.cache is None:
        return None
    from .storage.shared_cache import SharedCache  # an extra: imported only where it is wanted

    return SharedCache(settings.cache, driver if isinstance(driver, Sealing) else None)


def _make_journal(settings: Settings) -> Spool | None:
    """Return what keeps messages here while the store is away; None where the settings ask for none. Nothing is opened."""
    if settings.on_outage != "journal" or not settings.journal:
        return None
    from .storage.spool import Spool  # it imports filelock, which nobody else needs

    return Spool(settings.journal, settings.seal_keys)
