"""What is stored of credentials, as it was a second ago: a busy token costs one read a second."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

from cachetools import TTLCache
from msgspec import structs

from ..app import Chatkeep, core_of
from ..auth.credentials import StoredCredential, end_reused, stored_credentials
from ..auth.format import digest_of, id_of, is_mistyped
from ..bounded import Newest
from ..errors import StoreError, Unavailable
from .last_known import HELD, LastKnown

log = logging.getLogger("chatkeep.server")

T = TypeVar("T")

FRESH_S = 1.0
"""What is known of a credential is looked at again after this long."""

NOTED_S = 3600.0
"""`last_used_at` is no finer than this: a write for each request would cost more than it tells."""

TASKS_MOST = 100


class KnownCredentials:
    """
    The credentials of the store of *keep* that were used lately.

    One is looked at again after FRESH_S, so that a revocation is effective everywhere within two seconds; and at once where this process
    has ended or changed it, whoever did that: a request, the application, retention. While the store cannot be reached, what `LastKnown`
    has of it counts.
    """

    def __init__(self, keep: Chatkeep[Any]) -> None:
        self._keep = keep
        self._records = stored_credentials(keep)
        core_of(keep).hear_of_records("access", self._look_again_at)
        self._clock = core_of(keep).clock
        self._looked: TTLCache[str, asyncio.Task[StoredCredential | None]] = TTLCache(HELD, FRESH_S)
        self._last: LastKnown[str, StoredCredential] = LastKnown(keep)
        self._changes: Newest[str, object] = Newest(HELD)
        """Another object for a credential with each change of it: a look from before one is not remembered for an outage."""
        self._noted: TTLCache[str, bool] = TTLCache(HELD, NOTED_S)
        self._tasks: set[asyncio.Task[Any]] = set()

    async def close(self) -> None:
        """End what is still being looked up or noted down."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.look_again()

    def look_again(self) -> None:
        """Let go of what is known, after one was ended here."""
        self._looked.clear()
        self._last.clear()

    def _look_again_at(self, name: str) -> None:
        """Let go of what is known of one credential, which was changed or ended; what may be wanted in an outage is asked for anew."""
        self._looked.pop(name, None)
        self._changes[name] = object()
        if self._last.forget(name):
            self._looked[name] = self._start(self._look(name))

    async def find_valid(self, text: str, kinds: tuple[str, ...]) -> tuple[str, StoredCredential | None]:
        """Return the name of the credential *text*, and what is stored of it if it gives a right and is of one of these *kinds*.

        One that was used after its rotation ends with its family.
        """
        name = digest_of(text)
        stored = await self.find(name, text) if name else None
        if name is None or stored is None or stored.kind not in kinds:
            return "", None
        if not stored.over(self._clock()):
            return name, stored
        if stored.reused(self._clock()):
            log.warning("The rotated token %s was used after its grace; its family is ended.", id_of(name))
            await end_reused(self._keep, stored)
            self.look_again()
        return "", None

    async def find(self, name: str, text: str = "") -> StoredCredential | None:
        """Return the credential, as it was at most FRESH_S ago; those who ask meanwhile wait for the same look. What is mistyped in
        *text* needs none."""
        try:
            task = self._looked[name]  # (`get` asks for the time twice)
        except KeyError:
            task = None
            if text and is_mistyped(text):
                return None
        if task is None or (task.done() and (task.cancelled() or task.exception())):
            task = self._looked[name] = self._start(self._look(name))
        return task.result() if task.done() else await asyncio.shield(task)

    async def _look(self, name: str) -> StoredCredential | None:
        round, change = self._last.round, self._changes.get(name)
        try:
            stored = await self._records.get(name)
        except Unavailable as away:
            return self._last.find(name, away)
        if self._changes.get(name) is change:
            self._last.note(name, stored, round=round)
        return stored

    def note_use(self, name: str, stored: StoredCredential) -> None:
        """Note down, once in a while, that a credential was used; nobody waits for it."""
        now = self._clock()
        if now - (stored.last_used_at or 0.0) < NOTED_S or name in self._noted or len(self._tasks) >= TASKS_MOST:
            return
        self._noted[name] = True

        def note(held: StoredCredential | None) -> StoredCredential | None:
            return held and structs.replace(held, last_used_at=max(now, held.last_used_at or 0.0))

        async def write() -> None:
            try:
                await self._records.change(name, note)
            except StoreError as fault:
                log.info("The last use of token %s could not be noted: %s", id_of(name), type(fault).__name__)

        self._start(write())

    def _start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work, name="chatkeep access")
        self._tasks.add(task)  # the loop alone would let go of it
        task.add_done_callback(self._end)
        return task

    def _end(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # told to whoever asks; where nobody does, such as after a change here, it is no news for the loop
