"""What chatkeep's own server, channels and command line need of a Chatkeep, and applications do not."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import IO, TYPE_CHECKING, Any, Generic, TypeVar

from msgspec import Struct, structs

from .conversation.keys import RESERVED, check_user, key_for, message_id, refuse_reserved
from .conversation.outbox import Outlet
from .conversation.saves import Saved
from .conversation.snapshots import Condition, Outcome, Snapshot, find_failing
from .conversation.state import StateCodec
from .drivers.base import Ability, Driver, Entry, Finding, Index, Key, Row
from .engine.assignments import Assignments
from .engine.engine import Engine
from .engine.once import Ledger
from .engine.outcomes import page_dead_letters, read_outcome
from .engine.parts import Stats, read_parts
from .engine.watch import ShownReply, Watch
from .errors import Corrupt
from .model import Content, DeadLetter, Message, OffBy, Receipt, Role, State
from .people.claims import Claims
from .people.saving import save
from .storage.audit import AuditLog
from .storage.ends import End, find_ends
from .storage.holds import Hold, Holds
from .storage.paging import walk_back
from .storage.records import Records
from .storage.selection import find_listed
from .storage.text_index import TextIndex

if TYPE_CHECKING:
    from .engine.inlet import Inlet
    from .people.handing_out import HandedOut
    from .storage.archive import Exported

Record = TypeVar("Record", bound=Struct)

LOOKED_AT = 1000
"""So many conversations are looked at for one page of dead letters, or of paused ones, however few there are."""


class Core(Generic[State]):
    """The inside of one Chatkeep, from `chatkeep.app.core_of`."""

    def __init__(self, engine: Engine[State], url: str) -> None:
        self._engine = engine
        self._made_at = engine.shared.clock()
        self.url = url
        """The URL of the store, or the name of the driver that was given; it may hold a password."""

    @property
    def clock(self) -> Callable[[], float]:
        """The time, in seconds since 1970."""
        return self._engine.shared.clock

    @property
    def driver(self) -> Driver:
        """The driver of the store."""
        return self._engine.store.driver

    @property
    def abilities(self) -> frozenset[Ability]:
        """What the driver can do."""
        return self._engine.store.driver.abilities

    @property
    def text_index(self) -> TextIndex:
        """The full-text index of the store; there may be none."""
        return self._opened.sweeper.indexer.index

    @property
    def states(self) -> StateCodec[State]:
        """How states are read, written and described."""
        return self._engine.shared.states

    @property
    def outlet(self) -> Outlet | None:
        """Where replies go out, if anywhere."""
        return self._engine.sender.outlet

    @property
    def inlet(self) -> Inlet:
        """Where channels hand in what came through them."""
        from .engine.inlet import Inlet  # nobody else needs it

        return Inlet(self._opened.intake, self._opened.store)

    def read_stats(self) -> Stats:
        """Tell what each part of this process has done, and how it is now; asks nobody."""
        return read_parts(self._engine, self.url.partition(":")[0], since=self._made_at)

    @property
    def is_open(self) -> bool:
        """Whether messages are taken."""
        return self._engine.is_open

    @property
    def is_inside(self) -> bool:
        """Whether the caller is in the event loop and process in which it was opened."""
        return self._engine.store.confinement.is_inside

    @property
    def has_handler(self) -> bool:
        """Whether there is a bot that answers."""
        return self._engine.turns.handler is not None

    @property
    def trouble(self) -> str:
        """Why messages are not answered here, in words for strangers, which name no host and no user; "" when they are."""
        engine = self._engine
        if engine.turns.handler is None:
            return "there is no handler"
        if engine.runner.full:
            return "too many handlers hang"
        if not engine.outage:
            return ""
        if engine.store.gateway.replaced:
            moved = "the store was moved to another one"
            return moved if engine.store.gateway.moved else "the store was emptied, or another one has taken its place"
        if not engine.is_open:
            return "the Chatkeep is not open; the application has to open it in its lifespan"
        if engine.store.gateway.refuses_writes:
            return "the store refuses what is written"
        if not engine.reached:
            return "the store is not reached"
        return "messages wait in the journal"

    @property
    def warning(self) -> str:
        """What is wrong beside that messages are answered here, in words for strangers; "" when nothing is."""
        count = len(self._engine.shared.unreadable)
        return f"conversations wait that this version cannot read ({count})" if count else ""

    def records(self, space: str, kind: type[Record]) -> Records[Record]:
        """Return the records of this *kind* that chatkeep keeps in this store beside the conversations: see `Records`."""
        return Records(self._engine.store, space, kind, clock=self._engine.shared.clock)

    def hear_of_records(self, space: str, hear: Callable[[str], None]) -> None:
        """Call *hear* with the name of each record in a space that was changed, or erased, as far as this process learns of it."""
        self._engine.watches.listen(RESERVED + space, lambda key: hear(key.id))

    def watch(
        self, tenant: str, conversation: str, *, after: int | None = None, shown: ShownReply | None = None
    ) -> Watch:
        """Return what `Tenant.events` gives, for a server: several events at a time, and with a time-out.

        *after*: from which number of the log; None: what comes from now on. *shown*: as `Watch` has it.
        """
        return Watch(self._engine.watches, key_for(tenant, conversation), after, shown)

    def expect_visitors(self) -> None:
        """Have this process look after the end of what visitors have begun, from its opening on, also without a handler."""
        self._engine.shared.visitors = True

    async def create(self, tenant: str, conversation: str, *, owner: str) -> tuple[str, bool]:
        """Create as `Tenant.create` does; return the revision, and whether this call has created it: of several at once one has."""
        key = key_for(tenant, conversation)
        if owner:
            check_user(owner)
        snapshot, created = await self._opened.changes.create(key, owner=owner)
        if owner:
            await Claims(self._opened.store, tenant, clock=self.clock).refuse_other(key, snapshot.row.owner, owner)
        return snapshot.row.revision, created

    async def create_for_visitor(self, tenant: str, conversation: str) -> bool:
        """Create a conversation for somebody whom nobody knows, see the setting `forget_visitors`; False: there is one already."""
        _, made = await self._opened.changes.create(key_for(tenant, conversation), owner="", visitor=True)
        return made

    def check_message(
        self,
        tenant: str,
        conversation: str,
        content: Content,
        *,
        id: str | None = None,
        role: Role = "user",
        metadata: dict[str, Any] | None = None,
        waits: bool = False,
    ) -> None:
        """Refuse a message as `Tenant.accept` would, or, if its sender *waits*, `Tenant.receive`; for whoever has something to write before
        it. Asks nobody."""
        key = key_for(tenant, conversation)
        refuse_reserved(key, id)
        self._opened.intake.check(key, content, id=id, role=role, metadata=metadata, waits=waits)

    async def adopt(self, row: Row, entries: list[Entry]) -> bool:
        """Put in a conversation that was kept elsewhere before, as it is; see `Store.adopt`."""
        return await self._opened.store.adopt(row, entries)

    async def exists(self, tenant: str, conversation: str) -> bool:
        """Tell whether there is such a conversation; asks the store unless it was seen lately."""
        key, store = key_for(tenant, conversation), self._opened.store
        return (store.cached(key) or await store.load(key)) is not None

    async def scan(
        self, index: Index, *, tenant: str | None, owner: str = "", after: Row | None, limit: int
    ) -> list[Row]:
        """Return a page of conversations in the order of *index*, undecoded; rows of chatkeep's own are among those of all tenants."""
        return await self._opened.store.rows(index, tenant=tenant, owner=owner, after=after, limit=limit)

    async def load(self, tenant: str, conversation: str) -> Snapshot | None:
        """Return a conversation as it is now; None when there is none."""
        return await self._opened.store.load(key_for(tenant, conversation))

    async def holds_message(self, there: Snapshot, id: str | None) -> bool:
        """Tell whether a message of this id is in the log of the conversation that *there* shows, as it is now."""
        key = there.row.key
        return id is not None and bool(await self._opened.store.find(key, there.row.incarnation, [message_id(key, id)]))

    async def read_row(self, key: Key) -> Row | None:
        """Return the row of a conversation, undecoded, as it is now; None when there is none."""
        return await self._opened.store.row(key)

    async def read_tail(self, row: Row, *, before: int | None = None, limit: int) -> list[Message]:
        """Return the last entries of a conversation, or those before a number, oldest first, with chatkeep's own notes."""
        end = row.head + 1 if before is None else before
        return await self._opened.store.page(row.key, row.incarnation, before=end, limit=limit)

    def walk_back(self, row: Row, *, before: int | None = None, limit: int) -> AsyncIterator[list[Message]]:
        """Give what `read_tail` returns, a page at a time, the last page first."""
        end = row.head + 1 if before is None else before
        return walk_back(self._opened.store, row.key, row.incarnation, before=end, limit=limit)

    async def find_names(self, tenant: str, owner: str) -> list[str]:
        """Return the owners whose conversations are *owner*'s: itself, and whoever was claimed for it."""
        return list(await Claims(self._opened.store, tenant, clock=self.clock).find_owners(owner))

    async def note(self, tenant: str, conversation: str, text: str, *, author: str, id: str) -> bool:
        """Put a note of a person, which customers do not see, into the log; the same *id* again has no second effect. False where
        there is no such conversation."""
        key = key_for(tenant, conversation)
        there = await self._opened.store.load(key)
        if there is None:
            return False
        told = {"kind": "note", "text": text, "author": author}
        return await self._opened.intake.note(key, f"note:{id}", told, into=there)

    async def take_in(
        self,
        tenant: str,
        conversation: str,
        content: Content,
        *,
        only: Condition,
        waits: bool = False,
        id: str | None,
        role: Role = "user",
        metadata: dict[str, Any] | None,
        owner: str = "",
        wait_if_duplicate: bool = True,
    ) -> Receipt:
        """Accept as `Tenant.accept` does, or, if the sender *waits*, receive, where *only* holds when it is written; else it is "dropped",
        without a number."""
        key = key_for(tenant, conversation)
        refuse_reserved(key, id)
        intake = self._opened.intake
        told: dict[str, Any] = {"id": id, "role": role, "metadata": metadata, "owner": owner, "only": only}
        if waits:
            return await intake.receive(key, content, wait_if_duplicate=wait_if_duplicate, **told)
        return await intake.accept(key, content, **told)

    async def take_over(self, tenant: str, conversation: str, by: str, *, into: Snapshot | None = None) -> None:
        """Pause as `Tenant.pause` does; the conversation is then assigned to *by*, unless a person has it already. *into*: only the one
        that this shows, and nothing where that was erased."""
        await self._opened.changes.pause_one(key_for(tenant, conversation), by, into=into)

    async def assign(self, tenant: str, conversation: str, to: str, *, by: str, was: str | None = None) -> str | None:
        """Assign a conversation to the account *to* ("": to nobody), if *was* has it (None: whoever has); give who has it then, None
        where there is no such conversation."""
        return await Assignments(self._opened.shared).assign(key_for(tenant, conversation), to, by=by, was=was)

    async def find_owner(self, tenant: str, conversation: str, *, user: str) -> str | None:
        """Return whose a conversation is, as the store has it; None when there is none. Of one that cannot be read it is only told where it
        is *user*'s; else it is "", as of one that is nobody's."""
        store, key = self._opened.store, key_for(tenant, conversation)
        try:
            row = await store.row(key)
        except Corrupt:
            row = await find_listed(store, key, await self.find_names(tenant, user))
        return None if row is None else row.owner

    async def find_user(self, tenant: str, name: str) -> str:
        """Return the user that has what is *name*'s: itself, unless it was claimed."""
        return await Claims(self._opened.store, tenant, clock=self.clock).find_user(name)

    async def give_owner(self, tenant: str, conversation: str, owner: str) -> None:
        """Make a conversation that a visitor began, and that is nobody's, *owner*'s."""
        await Claims(self._opened.store, tenant, clock=self.clock).adopt(key_for(tenant, conversation), owner)

    async def save(
        self,
        tenant: str,
        conversation: str,
        messages: list[dict[str, Any]],
        *,
        look: Callable[[Snapshot], None],
        **told: Any,
    ) -> Saved:
        """Save as `Tenant.save` does, when *look*, given what is there, raises nothing; with what else `saving.save` takes."""
        claims = Claims(self._opened.store, tenant, clock=self.clock) if told.get("owner") else None
        return await save(self._opened, key_for(tenant, conversation), messages, look=look, claims=claims, **told)

    async def settle(self, tenant: str, conversation: str, call: str, *, done: bool, result: Any) -> bool:
        """Settle as `Tenant.settle` does; False where no call of that name is in doubt."""
        ledger = Ledger(self._opened.shared)
        return await ledger.settle(key_for(tenant, conversation), call, done=done, result=result, by="operator")

    async def dead_letters(self, tenant: str, *, after: str, limit: int) -> tuple[list[DeadLetter], str | None]:
        """Return a page of a tenant's dead letters, for a server: it looks at LOOKED_AT conversations behind *after* at most.

        With the conversation to go on behind; None at the end.
        """
        behind = key_for(tenant, after) if after else None
        letters, last = await page_dead_letters(
            self._opened.store, tenant, after=behind, limit=limit, rows_most=LOOKED_AT
        )
        return letters, None if last is None else last.id

    def is_paused(self, tenant: str, conversation: str) -> bool:
        """Tell whether the bot is silent in a conversation, as far as this process knows; asks nobody."""
        key, engine = key_for(tenant, conversation), self._opened
        cached = engine.store.cached(key)
        return engine.pauses.covers(key) if cached is None else engine.pauses.is_paused(cached)

    async def find_outcome(self, tenant: str, conversation: str, number: int) -> Outcome | None:
        """Tell what became of message *number*, with status "accepted" while it waits for an answer and "paused" where the bot is
        silent; None where there is no such message any more. Asks the store."""
        engine = self._opened
        snapshot = await engine.store.load(key_for(tenant, conversation))
        if snapshot is None or snapshot.row.head < number:
            return None
        found = await read_outcome(engine.store, snapshot, number)
        if found is None and engine.pauses.is_paused(snapshot):
            return Outcome("paused")
        return found or Outcome("accepted", failing=find_failing(snapshot))

    def holds(self, tenant: str) -> Holds:
        """Return the legal holds of a tenant."""
        return Holds(self._opened.store, tenant, clock=self.clock)

    async def hold(self, tenant: str, conversation: str, owner: str, *, reason: str) -> list[Hold]:
        """Put a conversation, or all that is an *owner*'s under each of its names, on legal hold; answers the holds."""
        if owner:
            return await Claims(self._opened.store, tenant, clock=self.clock).hold(owner, reason=reason)
        return [await self.holds(tenant).put(conversation=conversation, reason=reason)]

    async def lift_hold(self, tenant: str, conversation: str, owner: str) -> list[Hold]:
        """Lift a legal hold; answers those that there were."""
        names = await self.find_names(tenant, owner) if owner else [""]
        lifted = [await self.holds(tenant).lift(conversation=conversation, owner=name) for name in names]
        return [held for held in lifted if held is not None]

    def export(self, tenant: str, conversation: str | None, said: Exported) -> AsyncIterator[bytes]:
        """Give the lines of one conversation, or of all of a tenant; *said* is filled in. See `storage.archive`."""
        from .storage.archive import export_lines  # it imports tempfile, which nobody else needs

        return export_lines(self._opened.store.driver, said, tenant=tenant, conversation=conversation)

    def preview_ends(
        self,
        tenant: str | None,
        *,
        retention_s: float | None,
        forget_after_s: float | None,
        forget_visitors_s: float | None,
    ) -> AsyncIterator[End]:
        """Give what the sweep would erase or drop now under these settings; nothing is changed."""
        policy = structs.replace(
            self._engine.shared.policy,
            retention_s=retention_s,
            forget_after_s=forget_after_s,
            forget_visitors_s=forget_visitors_s,
        )
        return find_ends(self._opened.store, tenant, policy, at=self.clock())

    async def hand_out(self, tenant: str, user: str, target: IO[bytes]) -> HandedOut:
        """Write an archive of what the store has of one user to a file, to be read by that person."""
        from .people.handing_out import hand_out  # it imports zipfile, which nobody else needs

        key_for(tenant, user)
        return await hand_out(self._opened, tenant, user, target)

    @property
    def audit(self) -> AuditLog:
        """Who did what, as the store has it."""
        return AuditLog(self._opened.store, clock=self.clock)

    async def clear(
        self, tenant: str, conversation: str, slot: str | None, *, look: Callable[[State], None], id: str | None = None
    ) -> None:
        """Clear as `Tenant.clear` does, when *look*, given the state, raises nothing."""
        await self._opened.changes.clear(key_for(tenant, conversation), slot, look=look, id=id)

    def find_reasons(self, tenant: str, conversation: str, paused: bool = False) -> list[OffBy]:
        """Tell what silences the bot in a conversation that is *paused* itself, or not; asks nobody."""
        return self._opened.pauses.find_reasons(key_for(tenant, conversation), paused)

    async def find_paused(self) -> list[str | None]:
        """Return the tenants that are paused as a whole; None among them: everything is. Asks the store."""
        await self._opened.sweeper.look_at_pauses()
        return self._engine.pauses.scopes

    async def page_paused(self, tenant: str | None, *, after: Key | None, limit: int) -> tuple[list[Key], Key | None]:
        """Return a page of the conversations that are paused themselves, behind *after*: it looks at LOOKED_AT of them at most.

        With the key to go on behind; None at the end.
        """
        return await self._opened.pauses.page(tenant, after=after, limit=limit, rows_most=LOOKED_AT)

    async def cache_is_on(self) -> bool:
        """Tell whether instances that have a shared cache use it. Asks the store."""
        await self._opened.sweeper.look_at_pauses()
        return not self._engine.pauses.cache_is_off

    async def switch_cache(self, on: bool) -> None:
        """Switch the shared cache off, or on again, on all instances: the others notice within `poll`. Durable."""
        await self._opened.pauses.switch_cache(on)
        await self._engine.sweeper.look_at_pauses()

    async def examine(self) -> list[Finding]:
        """Return what is to be said about the store, and about the shared cache."""
        store = self._engine.store
        found = await store.driver.examine()
        return found if store.shared is None else found + await store.shared.examine()

    @property
    def _opened(self) -> Engine[State]:
        self._engine.store.confinement.check()
        return self._engine
