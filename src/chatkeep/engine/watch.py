"""What happens in a conversation right now: new entries of its log, its state, and the reply that is just being made.

The log is the truth, and whoever watches is given all of it, in order, from wherever they were. What is said of a turn
that still runs (typing, the pieces of a streamed reply) is only shown: it is kept nowhere, may begin again, and the
recorded reply replaces it. Watchers pull: a slow one gets more at a time and costs no more memory.

Instances tell each other by `Notifier`: that a log has changed, and, to whoever asks, what a turn says meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import msgspec
from msgspec import Raw, Struct

from ..bounded import Newest
from ..conversation.snapshots import Snapshot
from ..drivers.base import Key
from ..errors import ChatkeepError, Corrupt, Unsupported
from ..model import Delta, Erased, Event, Redacted, StateChanged, Typing
from ..storage.store import PAGE, Store, blank
from .notifier import Notifier

TELL_S = 0.05  # so long pieces of a reply are collected for other instances
TOLD_MOST = 1000  # characters that one announcement carries
WANTED_S = 60.0  # who has asked is told about turns that begin within
WANTED_MOST = 10_000
LOOK_S = 1.0  # where no news is heard, a conversation with a message unread is looked at so often
SELDOM_S = 5.0  # and any other one so often
SURE_S = 15.0  # where news is heard: in case some of it got lost


class StreamedReply(Struct, eq=False):
    """What a running turn has said so far."""

    turn: str
    text: str = ""
    told: int = -1  # how much of it other instances know; -1: not even that it runs


class WatchHub:
    """Who watches what in this process, and what its turns say; with `Notifier`, also those of other instances.

    *show_state* answers a conversation's state as people see it.
    """

    def __init__(self, store: Store, news: Notifier, *, show_state: Callable[[Snapshot], Raw]) -> None:
        self.store = store
        self.show_state = show_state
        self.ended = False
        self._notifier = news
        self._watches: dict[Key, set[Watch]] = {}
        self._here: dict[Key, StreamedReply] = {}
        self._elsewhere: dict[Key, StreamedReply] = {}
        self._wanted: Newest[Key, float] = Newest(WANTED_MOST)
        self._teller: asyncio.TimerHandle | None = None
        news.asked, news.heard = self.hear_question, self.hear

    @property
    def watching(self) -> int:
        """How many watch in this process."""
        return sum(map(len, self._watches.values()))

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
        if self._teller is not None:
            self._teller.cancel()
            self._teller = None
        for watches in self._watches.values():
            for watch in watches:
                watch.wake.set()

    # -- turns of this process

    @contextmanager
    def show_turn(self, key: Key, name: str) -> Iterator[None]:
        """Show that a turn runs, up to its commit."""
        speech = self._here[key] = StreamedReply(name)
        self._say(key)
        try:
            yield
        finally:
            del self._here[key]
            if speech.told >= 0:
                self._notifier.whisper(key, msgspec.json.encode((name, -1, "")).decode())
            self._wake(key)

    def say(self, key: Key, text: str) -> None:
        """Show that the turn that runs in *key* goes on with *text*."""
        self._here[key].text += text
        self._say(key)

    def _say(self, key: Key) -> None:
        self._wake(key)
        if self._wanted and key in self._wanted and self._teller is None:
            self._teller = asyncio.get_running_loop().call_later(TELL_S, self._tell)

    def _tell(self) -> None:
        self._teller = None
        now = asyncio.get_running_loop().time()
        while self._wanted and next(iter(self._wanted.values())) < now:
            self._wanted.popitem(last=False)
        for key, speech in self._here.items():
            if key not in self._wanted or speech.told == len(speech.text):
                continue
            start = max(speech.told, 0)
            for at in range(start, max(len(speech.text), start + 1), TOLD_MOST):
                told = (speech.turn, at, speech.text[at : at + TOLD_MOST])
                self._notifier.whisper(key, msgspec.json.encode(told).decode())
            speech.told = len(speech.text)

    # -- what others tell

    def note_change(self, key: Key, *, here: bool) -> None:
        """Note that something was written to *key*; *here*: the cache has it."""
        for watch in self._watches.get(key, ()):
            watch.note_change(here=here)

    def hear_question(self, key: Key) -> None:
        """Hear that somebody elsewhere watches *key*, and wants to know what its turn says."""
        self._wanted[key] = asyncio.get_running_loop().time() + WANTED_S
        if key in self._here:
            self._here[key].told = -1  # whoever asks has heard nothing yet
            self._say(key)

    def hear(self, key: Key, told: str) -> None:
        """Hear what a turn in another instance has said."""
        if key not in self._watches:
            return
        with suppress(msgspec.MsgspecError):
            turn, at, text = msgspec.json.decode(told, type=tuple[str, int, str])
            speech = self._elsewhere.get(key)
            if at < 0:
                self._elsewhere.pop(key, None)
            elif speech is None or speech.turn != turn or at > len(speech.text):
                if at == 0:
                    self._elsewhere[key] = StreamedReply(turn, text)
                else:
                    self.ask(key)  # something got lost
            elif at == len(speech.text):
                speech.text += text
            elif not speech.text.startswith(text, at):  # (it may be told again to somebody who came later)
                self._elsewhere[key] = StreamedReply(turn, speech.text[:at] + text)
            self._wake(key)

    def forget_elsewhere(self, key: Key) -> None:
        """Forget what was said elsewhere: nothing waits in *key*, so it is recorded, or was given up."""
        self._elsewhere.pop(key, None)

    def ask(self, key: Key) -> None:
        """Have other instances tell what a turn in *key* says, if one runs there."""
        self._notifier.expect(key)
        if key not in self._here:
            self._notifier.ask(key)

    # -- watches

    def find_speech(self, key: Key) -> StreamedReply | None:
        """Find what is being said in *key* now."""
        return self._here.get(key) or self._elsewhere.get(key)

    def add(self, watch: Watch) -> None:
        """Begin to tell *watch* what happens."""
        self._watches.setdefault(watch.key, set()).add(watch)

    def remove(self, watch: Watch) -> None:
        """Tell *watch* nothing more."""
        watches = self._watches.get(watch.key, set())
        watches.discard(watch)
        if not watches:
            self._watches.pop(watch.key, None)
            self._elsewhere.pop(watch.key, None)

    def _wake(self, key: Key) -> None:
        for watch in self._watches.get(key, ()):
            watch.wake.set()


class Watch:
    """A watch on a conversation: `async with watch:`, then `next()` again and again.

    *after*: from which number of the log; None: only what comes from now on. Setting *wake* ends a `next` that waits.
    """

    def __init__(self, live: WatchHub, key: Key, after: int | None) -> None:
        self.key = key
        self.number = after
        """The log is known up to here."""
        self.wake = asyncio.Event()
        self._live = live
        self._born = ""
        self._state: Raw | None = None
        self._look_at = 0.0
        self._pause_s = 0.0
        self._changes = 0  # that we were told of
        self._fresh = False  # the cache is as new as what we were told of
        self._erased = self._over = False
        self._typing = False
        self._speech: StreamedReply | None = None
        self._heard = 0  # characters of it

    async def __aenter__(self) -> Watch:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    async def open(self) -> None:
        """Begin: look where the log is."""
        self._live.store.confinement.check()
        self._live.add(self)
        self._fresh = True  # unless we are told otherwise while it is read
        try:
            snapshot = await self._live.store.load(self.key)
            head = snapshot.row.head if snapshot is not None else 0
            if self.number is None:
                self.number = head
            self._erased = self.number > head  # it was begun anew, or set back, since somebody has seen that number
            self._born = snapshot.row.incarnation if snapshot is not None else ""
            self._state = self._show_state(snapshot or blank(self.key))
            self._live.ask(self.key)
        except BaseException:
            self._live.remove(self)
            raise

    def close(self) -> None:
        """End the watch."""
        self._live.remove(self)

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
        while not (self._over or self._live.ended):
            self._live.store.confinement.check()
            woken = self.wake.is_set()
            self.wake.clear()
            events = await self._look() if loop.time() >= self._look_at else []
            events += self._listen()
            if events or woken or loop.time() >= until:
                return events
            with suppress(TimeoutError):
                async with asyncio.timeout_at(min(until, self._look_at)):
                    await self.wake.wait()
        return None

    async def _look(self) -> list[Event]:
        """Read what the log and the state have that was not given yet."""
        store, loop = self._live.store, asyncio.get_running_loop()
        snapshot = store.cached(self.key) if self._fresh else None
        self._fresh, self._look_at = False, loop.time() + self._live.pause_s
        changes, self._pause_s = self._changes, self._live.pause_s
        try:
            if snapshot is None or snapshot.row.head < (self.number or 0):
                snapshot = await store.load(self.key)
            if snapshot is not None and snapshot.row.head < (self.number or 0):
                self._erased = True  # the store was set back: what is there now is another log
            return await self._list_events(snapshot)
        except ChatkeepError:
            self._pause_s = LOOK_S
            raise
        finally:
            # What has changed while we looked is looked at again at once.
            self._look_at = loop.time() + self._pause_s if changes == self._changes else 0.0

    def _show_state(self, snapshot: Snapshot) -> Raw | None:
        try:
            return self._live.show_state(snapshot)
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
            known = await self._live.store.page(self.key, row.incarnation, after=self.number, limit=PAGE)
        events: list[Event] = []
        for message in known:
            if message.role != "system":
                events.append(message)
            elif message.metadata.get("kind") == "redacted" and message.reply_to:
                events.append(Redacted(message.reply_to))
        if known:
            self.number = known[-1].number
        if self.number < row.head:  # there is more: at once
            self._pause_s = 0.0 if known else self._pause_s
        elif row.head > snapshot.record.cursor:
            self._pause_s = self._live.short_pause_s
            self._live.ask(self.key)
        else:
            self._live.forget_elsewhere(self.key)
        state = self._show_state(snapshot)
        if state is not None and state != self._state:
            self._state = state
            events.append(StateChanged(state))
        return events

    def _listen(self) -> list[Event]:
        """Collect what a running turn has said that was not given yet."""
        speech = self._live.find_speech(self.key)
        events: list[Event] = []
        if (speech is not None) != self._typing:
            self._typing = speech is not None
            events.append(Typing(self._typing))
        if speech is not self._speech:
            self._speech, self._heard = speech, 0
        if speech is not None and len(speech.text) > self._heard:
            events.append(Delta(speech.turn, self._heard, speech.text[self._heard :]))
            self._heard = len(speech.text)
        return events
