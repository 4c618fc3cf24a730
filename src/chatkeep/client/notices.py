"""Notices: what an application tells the person who uses it, as data; the client itself shows nothing."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Final, Literal, NamedTuple

from msgspec import Struct

from ..errors import UsageError

Kind = Literal["saved", "failed", "offline", "restored", "conflict", "claimed", "expired", "device"]
Level = Literal["info", "success", "warning", "error"]
Run = Callable[[], Awaitable[object]]

KINDS: Final[dict[Kind, tuple[Level, float | None]]] = {
    "saved": ("success", 3.0),
    "failed": ("error", None),
    "offline": ("warning", None),
    "restored": ("success", 4.0),
    "conflict": ("info", None),
    "claimed": ("info", 10.0),
    "expired": ("warning", None),
    "device": ("info", None),
}
"""How each kind is shown: its level, and for how many seconds; None: until somebody has dealt with it."""

OFFLINE_S = 1.0
"""A server that does not answer for less is not told of."""

STANDING_MOST = 200
LISTENED_MOST = 1000
"""Notices that a slow reader may be behind; of more, the oldest are left out, and those that stand can be listened to anew."""

OFFLINE, EXPIRED = "offline", "expired"


class Notice(Struct, frozen=True, kw_only=True):
    """
    Something to tell.

    kind: "saved"; "failed" (retry, discard); "offline", and "restored" when the server answers again; "conflict", which was resolved: what
    gave way can be restored; "claimed": a guest's conversations came in (undo); "expired": another token is wanted; "device": signed in
    on another device (sign-out ends that one). duration: seconds that it is shown; None: it stands until it is dealt with. actions: names
    for `client.act`. about: the conversation; "" where there is none.
    """

    id: str
    kind: Kind
    level: Level
    text: str
    at: float
    duration: float | None = None
    actions: tuple[str, ...] = ()
    about: str = ""

    @property
    def persistent(self) -> bool:
        """Whether it stands until it is dealt with."""
        return self.duration is None


class Told(NamedTuple):
    """A notice, and what its actions do."""

    notice: Notice
    runs: Mapping[str, Run]


class Notices:
    """The notices of one client: who listens, which of them stand, and how many there were."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._standing: dict[str, Told] = {}
        self._listeners: set[asyncio.Queue[Notice | None]] = set()
        self._away_since: float | None = None

    @property
    def online(self) -> bool:
        """Whether the server has answered when it was last asked."""
        return self._away_since is None

    def tell(
        self, kind: Kind, text: str, *, about: str = "", id: str = "", actions: Mapping[str, Run] | None = None
    ) -> None:
        """Tell all that listen. Under an *id* that stands it takes that one's place."""
        level, duration = KINDS[kind]
        runs = actions or {}
        notice = Notice(
            id=id or secrets.token_hex(6),
            kind=kind,
            level=level,
            text=text,
            at=time.time(),
            duration=duration,
            actions=tuple(runs),
            about=about,
        )
        self.counts[kind] += 1
        if duration is None or runs:
            self._standing.pop(notice.id, None)
            self._standing[notice.id] = Told(notice, runs)
            if len(self._standing) > STANDING_MOST:
                self._standing.pop(next(iter(self._standing)))
        for listener in self._listeners:
            if listener.full():
                listener.get_nowait()
            listener.put_nowait(notice)

    async def listen(self) -> AsyncGenerator[Notice, None]:
        """Give what stands, and then every notice as it comes, until the client is closed."""
        listener: asyncio.Queue[Notice | None] = asyncio.Queue(LISTENED_MOST)
        self._listeners.add(listener)
        try:
            for told in list(self._standing.values()):
                if told.notice.persistent:
                    yield told.notice
            while (notice := await listener.get()) is not None:
                yield notice
        finally:
            self._listeners.discard(listener)

    async def act(self, id: str, action: str) -> None:
        """Do one of a notice's actions; it stands no more when that is done. Raises `UsageError` when there is no such notice or action."""
        told = self._standing.get(id)
        if told is None or action not in told.runs:
            raise UsageError(
                f"There is no notice {id!r:.60} with the action {action!r:.40} any more; nothing was done."
            )
        await told.runs[action]()
        if self._standing.get(id) is told:
            del self._standing[id]

    def dismiss(self, id: str) -> bool:
        """Let a notice stand no more; False when none stands. What it was about stays as it is."""
        return self._standing.pop(id, None) is not None

    def clear(self) -> None:
        """Let go of what stands: it was another person's."""
        self._standing.clear()

    def close(self) -> None:
        """End all listening."""
        for listener in self._listeners:
            if listener.full():
                listener.get_nowait()
            listener.put_nowait(None)

    def note_away(self, why: str, *, given_up: bool = False) -> None:
        """Note that the server has not answered: told once that lasts OFFLINE_S, or at once when a call was *given up* for it."""
        now = time.monotonic()
        self._away_since = self._away_since or now
        if OFFLINE not in self._standing and (given_up or now - self._away_since >= OFFLINE_S):
            self.tell("offline", f"The server does not answer; what is posted is kept. ({why})", id=OFFLINE)

    def note_back(self) -> None:
        """Note that the server has answered."""
        if self._away_since is None:
            return
        self._away_since = None
        if self.dismiss(OFFLINE):
            self.tell("restored", "The server answers again.")

    def note_refused(self) -> None:
        """Note that the token gives no right any more."""
        if EXPIRED not in self._standing:
            self.tell("expired", "The sign-in has ended; sign in again. What is posted is kept.", id=EXPIRED)
