"""Leases: whose they are, whether that somebody still lives, and how they are kept while work takes its time."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import cache

from ..bounded import Newest
from ..conversation import leases
from ..conversation.snapshots import Commit, Policy, Snapshot
from ..drivers.base import Key, Row
from ..errors import StoreError
from ..storage.store import Store
from ..storage.tokens import fresh_token


@cache
def this_process() -> str:
    """Give the beginning of every lease token of this process; on this host it tells whether the holder of a lease still lives."""
    return f"{_host()}:{os.getpid()}:{secrets.token_hex(4)}"


def _host() -> str:
    # Containers may share a host's name, and then their process ids say nothing of each other.
    try:
        return f"{socket.gethostname()}/{os.stat('/proc/self/ns/pid').st_ino}".replace(":", "-")
    except OSError:
        return socket.gethostname().replace(":", "-")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=this_process.cache_clear)


SKEW_S = 300.0
"""The clocks of two hosts do not differ by more."""

SEEN_MOST = 10_000

WORKING: set[str] = set()
"""Whose leases of this process somebody works under: the names of the engines that are open in it."""


def is_holder_gone(lease: str) -> bool:
    """Tell whether the process that holds *lease* is certainly dead: it ran on this host, and its process id says so.

    Or it is this process, and the engine was closed. Being wrong costs a handler run twice, never a wrong result: what a
    turn writes is checked against the revision.
    """
    host, pid, nonce = this_process().split(":")
    parts = lease.split(":")
    if os.name != "posix" or len(parts) < 3 or parts[0] != host or not parts[1].isdigit():
        return False
    if parts[1] == pid:
        return parts[2] != nonce or ":".join(parts[:4]) not in WORKING
    try:
        os.kill(int(parts[1]), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


class LeaseKeeper:
    """The leases of one engine; all of their tokens open with its *name*."""

    def __init__(self, store: Store, policy: Policy, clock: Callable[[], float]) -> None:
        self._store = store
        self._policy = policy
        self._clock = clock
        self.name = f"{this_process()}:{fresh_token()}"
        self._seen: Newest[Key, tuple[str, float, float]] = Newest(SEEN_MOST)  # lease, until when, and since when seen
        self.lost = False
        """A lease of ours may stand that nobody works under: the next sweep looks for it."""

    def open(self) -> None:
        """Say that somebody works under the leases from now on."""
        WORKING.add(self.name)

    def close(self) -> None:
        """Say that nobody works under the leases any more."""
        WORKING.discard(self.name)

    def is_ours(self, lease: str | None) -> bool:
        """Tell whether *lease* was taken by this engine."""
        return lease is not None and lease.startswith(self.name)

    def may_have_died(self, lease: str | None) -> bool:
        """Tell whether the process of whoever held *lease*, and works no more, may have died: it is not this one."""
        return lease is not None and not self.is_ours(lease) and not lease.startswith(this_process() + ":")

    def is_orphaned(self, lease: str) -> bool:
        """Tell whether nobody works under *lease* any more, for certain: its process is dead, or it is a lost one of ours."""
        return self.is_ours(lease) or is_holder_gone(lease)

    def observe_holder(self, row: Row) -> bool:
        """Note which lease *row* has, and tell whether somebody may still work under it.

        Judged by how long this process has seen the same lease, not renewed, by a measure of its own: the time in it is of its
        holder's clock, which need not agree with the one here. Only one that ran out long ago by any clock is not waited for.
        """
        if row.lease is None or self.is_orphaned(row.lease) or row.leased_until <= self._clock() - SKEW_S:
            return False
        now = time.monotonic()
        lease, until, since = self._seen.get(row.key, ("", 0.0, now))
        if (lease, until) != (row.lease, row.leased_until):
            self._seen[row.key], since = (row.lease, row.leased_until, now), now
        return now < since + self._policy.lease_s

    @asynccontextmanager
    async def keep_alive(
        self, key: Key, token: str, *, at_once: bool = False, look: Callable[[Snapshot], None] | None = None
    ) -> AsyncIterator[None]:
        """Keep the lease *token* from running out while a handler, or a platform, takes its time; *at_once*: it was taken a
        while ago. *look* is given what is there each time that it was renewed, or was not there to be."""
        loop, every_s = asyncio.get_running_loop(), self._policy.lease_s / 3
        renewing: asyncio.Task[None] | None = None

        def renew_once(there: Snapshot) -> Commit | None:
            return leases.renew_lease(there, self._policy, at=self._clock()) if there.row.lease == token else None

        async def renew() -> None:
            while True:
                with suppress(StoreError):
                    newest = self._store.cached(key) or await self._store.reload(key)
                    there, _ = await self._store.commit_once(newest, renew_once, at=self._clock())
                    if look is not None:
                        look(there)
                await asyncio.sleep(every_s)

        def begin() -> None:
            nonlocal renewing
            renewing = asyncio.create_task(renew(), name=f"chatkeep lease {key}")

        alarm = loop.call_later(0.0 if at_once else every_s, begin)  # most turns are over by then
        try:
            yield
        finally:
            alarm.cancel()
            if renewing is not None:
                renewing.cancel()
                await asyncio.gather(renewing, return_exceptions=True)
