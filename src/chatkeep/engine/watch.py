"""What happens in a conversation right now: new entries of its log, its state, and the reply that is just being made.

The log is the truth, and whoever watches is given all of it, in order, from wherever they were. What a turn says while it runs
stands in the record before it is shown, and the recorded reply begins with it. Watchers pull: a slow one gets more at a time, up to
a bound in bytes, and costs no more memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy

from msgspec import Raw, Struct, structs

from ..conversation.snapshots import Snapshot, find_failing, unread_messages
from ..conversation.streams import GROWING, find_said, reply_id
from ..drivers.base import Key
from ..errors import ChatkeepError, Corrupt, Unsupported
from ..model import ASKING, Content, Delta, Erased, Event, Failing, PartSaid, Redacted, SetAside, StateChanged, Typing
from ..storage.paging import fitting, read_page
from ..storage.snapshots import blank
from ..storage.store import Store
from .notifier import Notifier

LOOK_S = 1.0  # where no news is heard, a conversation with a message unread is looked at so often
SELDOM_S = 5.0  # and any other one so often
SURE_S = 15.0  # where news is heard: in case some of it got lost


class ShownReply(Struct, frozen=True):
    """How much of a streamed *reply*, made in *turn*, a watcher was shown: so many characters of each of its parts."""

    reply: str
    turn: str
    parts: list[int]


class WatchHub:
    """Who watches what in this process. *show_state* answers a conversation's state as people see it."""

    def __init__(self, store: Store, notifier: Notifier, *, show_state: Callable[[Snapshot], Raw]) -> None:
        self.store = store
        self.show_state = show_state
        self.ended = False
        self._notifier = notifier
        self.by_key: dict[Key, set[Watch]] = {}
        self.listening: dict[str, list[Callable[[Key], None]]] = {}

    @property
    def watching(self) -> int:
        """How many watch in this process."""
        return sum(map(len, self.by_key.values()))

    @property
    def is_live(self) -> bool:
        """Whether it is heard at once what other instances do."""
        return bool(self._notifier.live)

    @property
    def pause_s(self) -> float:
        """After how long a conversation where nothing was heard of is looked at again."""
        return SURE_S if self._notifier.live else SELDOM_S

    @property
    def short_pause_s(self) -> float:
        """The same while a message waits there."""
        return SELDOM_S if self._notifier.live else LOOK_S

    def close(self) -> None:
        """End every watch."""
        self.ended = True
        for watches in self.by_key.values():
            for watch in watches:
                watch.wake.set()

    def note_change(self, key: Key, *, here: bool) -> None:
        """Note that something was written to *key*; *here*: the cache has it."""
        for hear in self.listening.get(key.tenant, ()):
            hear(key)
        for watch in self.by_key.get(key, ()):
            watch.note_change(here=here)

    def listen(self, tenant: str, hear: Callable[[Key], None]) -> None:
        """Call *hear* with each key of *tenant* of which this process learns that it was written to, or erased, here or elsewhere."""
        self.listening.setdefault(tenant, []).append(hear)

    def add(self, watch: Watch) -> None:
        """Begin to tell *watch* what happens."""
        self.by_key.setdefault(watch.key, set()).add(watch)
        self._notifier.expect(watch.key)

    def expect(self, key: Key) -> None:
        """Remember that news of *key* is waited for."""
        self._notifier.expect(key)

    def remove(self, watch: Watch) -> None:
        """Tell *watch* nothing more."""
        watches = self.by_key.get(watch.key, set())
        watches.discard(watch)
        if not watches:
            self.by_key.pop(watch.key, None)


class Watch:
    """A watch on a conversation: `async with watch:`, then `next()` again and again.

    *after*: from which number of the log; None: only what comes from now on; *shown*: what an earlier watch has shown of the reply that was
    being made there. Setting *wake* ends a `next` that waits.
    """

    def __init__(self, hub: WatchHub, key: Key, after: int | None, shown: ShownReply | None = None) -> None:
        self.key = key
        self.number = after
        """The log is known up to here."""
        self.wake = asyncio.Event()
        self._hub = hub
        self._born = ""
        self._state: Raw | None = None
        self._look_at = 0.0
        self._pause_s = 0.0
        self._changes = 0  # that we were told of
        self._fresh = False  # the cache is as new as what we were told of
        self._erased = self._over = False
        self._typing = False
        self._failing: Failing | None = Failing(0)  # as it was told last; None: to be told whatever it is
        self._shown = shown or ShownReply("", "", [])

    @property
    def shown(self) -> ShownReply:
        """What was shown of the reply that was being made last."""
        return structs.replace(self._shown, parts=list(self._shown.parts))

    async def __aenter__(self) -> Watch:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    async def open(self, *, returns: bool = False) -> None:
        """Begin: look where the log is. Who *returns* has watched before, and is told the state of now and whether the handler
        fails, for a change of these need not be in the log."""
        self._hub.store.confinement.check()
        self._hub.add(self)
        self._fresh = True  # unless we are told otherwise while it is read
        try:
            snapshot = await self._hub.store.load(self.key)
            head = snapshot.row.head if snapshot is not None else 0
            if self.number is None:
                self.number = head
            self._erased = self.number > head  # it was begun anew, or rolled back, since somebody has seen that number
            self._born = snapshot.row.incarnation if snapshot is not None else ""
            if returns:
                self._failing = None
            else:
                self._state = self._show_state(snapshot or blank(self.key))
        except BaseException:
            self._hub.remove(self)
            raise

    def close(self) -> None:
        """End the watch."""
        self._hub.remove(self)

    def note_change(self, *, here: bool) -> None:
        """Note that something was written, which is to be looked at."""
        self._fresh, self._look_at = here, 0.0
        self._changes += 1
        self.wake.set()

    async def next(self, within_s: float) -> list[Event] | None:
        """Wait for what has happened since, as soon as something has; nothing when nothing does *within_s* seconds.

        None when it is over: erased, or this Chatkeep is closed. Raises what the store raises; it can be asked again
        then, and nothing is left out.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + within_s
        while not (self._over or self._hub.ended):
            self._hub.store.confinement.check()
            woken = self.wake.is_set()
            self.wake.clear()
            events = await self._look() if loop.time() >= self._look_at else []
            if events or woken or loop.time() >= until:
                return events
            with suppress(TimeoutError):
                async with asyncio.timeout_at(min(until, self._look_at)):
                    await self.wake.wait()
        return None

    async def _look(self) -> list[Event]:
        """Read what the log and the state have that was not given yet."""
        store, loop = self._hub.store, asyncio.get_running_loop()
        snapshot = store.cached(self.key) if self._fresh else None
        self._fresh, self._look_at = False, loop.time() + self._hub.pause_s
        changes, self._pause_s = self._changes, self._hub.pause_s
        try:
            if snapshot is None or snapshot.row.head < (self.number or 0):
                snapshot = await store.load(self.key)
            if snapshot is not None and snapshot.row.head < (self.number or 0):
                self._erased = True  # the store was rolled back: what is there now is another log
            return await self._list_events(snapshot)
        except ChatkeepError:
            self._pause_s = LOOK_S
            raise
        finally:
            # What has changed while we looked is looked at again at once.
            self._look_at = loop.time() + self._pause_s if changes == self._changes else 0.0

    def _show_state(self, snapshot: Snapshot) -> Raw | None:
        try:
            return self._hub.show_state(snapshot)
        except (Corrupt, Unsupported):  # the log can be shown all the same
            return self._state

    async def _list_events(self, snapshot: Snapshot | None) -> list[Event]:
        if self._erased or (self._born and self._born != (snapshot.row.incarnation if snapshot is not None else "")):
            self._over = True
            return [Erased()]
        if snapshot is None:
            return []
        assert self.number is not None
        row, self._born = snapshot.row, snapshot.row.incarnation
        known = [message for message in snapshot.messages if message.number > self.number]
        if row.head > self.number and (not known or known[0].number > self.number + 1):
            known = await read_page(self._hub.store, self.key, row.incarnation, after=self.number)
        known = known[: fitting(known)]
        events: list[Event] = []
        state = self._show_state(snapshot)
        for message in known:
            if message.role not in ASKING:  # who reads a reply knows the state that the reply was recorded with
                state = self._tell_state(state, events)
            if message.id == self._shown.reply:  # what came last comes as a piece too
                self._tell_said(message.content, events)
            if message.role != "system":
                events.append(message)
            elif message.metadata.get("kind") == "redacted" and message.reply_to:
                events.append(Redacted(message.reply_to))
            elif message.metadata.get("kind") == "dead" and message.reply_to in snapshot.record.dead:
                events.append(SetAside(message.reply_to))
        if known:
            self.number = known[-1].number
        if self.number < row.head:  # there is more: at once
            self._pause_s = 0.0 if known else self._pause_s
        elif row.head > snapshot.record.cursor:
            self._pause_s = self._hub.short_pause_s
            self._hub.expect(self.key)
        self._tell_state(state, events)
        if self.number >= row.head:  # what is being said belongs behind all that is in the log
            self._tell_turn(snapshot, events)
        return events

    def _tell_state(self, state: Raw | None, events: list[Event]) -> Raw | None:
        """Tell the state, if it is another one."""
        if state is not None and state != self._state:
            self._state = state
            events.append(StateChanged(state))
        return state

    def _tell_turn(self, snapshot: Snapshot, events: list[Event]) -> None:
        """Tell whether a turn runs, and what it has said that was not told yet."""
        typing = snapshot.row.lease is not None and bool(unread_messages(snapshot))
        if typing != self._typing:
            self._typing = typing
            events.append(Typing(typing))
        failing = find_failing(snapshot) or Failing(self._failing.number if self._failing else 0)
        if failing != self._failing:
            self._failing = failing
            events.append(failing)
        said = find_said(snapshot)
        if said is not None:
            reply = reply_id(snapshot.row.incarnation, said.number)
            if reply != self._shown.reply:
                self._shown = ShownReply(reply, said.turn, [])
            self._tell_said(said.content, events)

    def _tell_said(self, content: Content, events: list[Event]) -> None:
        """Tell what the reply that is being shown has said, *content*, as far as that was not told yet."""
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        reply, turn, lengths = self._shown.reply, self._shown.turn, self._shown.parts
        lengths += [0] * (len(parts) - len(lengths))
        at = 0  # characters of text before
        for place, part in enumerate(parts):
            kind, shown = part.get("type"), lengths[place]
            grows = part.get(kind) if kind in GROWING else None
            lengths[place] = len(grows) if isinstance(grows, str) else 1
            if lengths[place] > shown and isinstance(grows, str) and kind == "text":
                events.append(Delta(turn, at + shown, grows[shown:], reply, place))
            elif lengths[place] > shown and isinstance(grows, str):
                news = {"type": kind, str(kind): grows[shown:]}
                events.append(PartSaid(turn, reply, place, news, shown))
            elif lengths[place] > shown:
                events.append(PartSaid(turn, reply, place, deepcopy(part)))
            at += len(grows) if isinstance(grows, str) and kind == "text" else 0
