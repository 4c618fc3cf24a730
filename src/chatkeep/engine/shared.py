"""What the parts of one engine have in common: the store, the settings, the clock, the counts, and whether the engine is open.

Values and their upkeep alone: nothing here waits, and `Shared` knows none of the parts.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic

from msgspec import Raw

from ..conversation import sessions
from ..conversation.releases import Plan
from ..conversation.snapshots import Commit, Snapshot
from ..conversation.state import StateCodec
from ..drivers.base import Key
from ..errors import Unavailable
from ..model import Message, State
from ..settings import Settings
from ..storage.store import Store
from .instruments import Instrument
from .left_alone import LeftAlone, Unreadable
from .statistics import EngineStatistics


class Shared(Generic[State]):
    """What each part of one engine is given."""

    def __init__(self, store: Store, settings: Settings, states: StateCodec[State], clock: Callable[[], float]) -> None:
        self.store = store
        self.settings = settings
        self.policy = settings.policy()
        self.states = states
        self.clock = clock
        self.statistics = EngineStatistics()
        self.left_alone = LeftAlone(clock)
        self.unreadable = Unreadable(clock, self.left_alone)
        self.plan = Plan()
        """Which versions of the application answer on the store."""
        self.instruments: list[Instrument] = []
        self.open = False
        """Messages are taken."""
        self.visitors = False
        """Conversations of visitors whom nobody knows are begun here."""
        self.unopened = "the store has not been reached since the start"
        """Why the store is not open; "" while it is."""

    def take_plan(self, plan: Plan) -> None:
        """Go by *plan* from now on."""
        self.plan = plan

    def refuse_closed(self, key: Key) -> None:
        """Refuse an act on *key* while the engine is not open. Raises `Unavailable`."""
        if not self.open:  # where it was never opened, or elsewhere, `Confinement.check` has refused the call
            raise Unavailable(f"{key}: this Chatkeep is being opened or closed; nothing was written. Try again later.")

    def commit(
        self, snapshot: Snapshot, decide: Callable[[Snapshot], Commit | None], *, begins: bool = False
    ) -> Awaitable[tuple[Snapshot, list[Message] | None]]:
        """Write what *decide* makes of the newest snapshot: see `Store.commit_once`."""
        return self.store.commit_once(snapshot, decide, at=self.clock(), begins=begins)

    def show_state(self, snapshot: Snapshot) -> Raw:
        """Give the state as people see it: of a live session, in today's shape."""
        key, record = snapshot.row.key, snapshot.record
        if sessions.is_session_over(record, self.policy, self.clock()):
            return self.states.fresh()
        if record.schema == self.states.schema:
            return record.state
        return self.states.encode(key, self.states.decode(key, record.state, record.schema))
