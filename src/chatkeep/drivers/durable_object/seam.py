"""What the Durable Objects driver asks of whatever carries its acts: `transport` does it over HTTP/1.1."""

from __future__ import annotations

from asyncio import Future
from collections.abc import Callable
from typing import Any, Literal, Protocol

from msgspec import Struct

from ...errors import Unavailable
from ..base import Pool

What = Literal["look", "open", "acts", "places", "counts", "rings", "fences"]
"""What the worker answers: each takes a list of acts and answers each of them."""


class Site(Struct, frozen=True, kw_only=True):
    """Where the worker is, and the secret for it."""

    name: str
    """The URL without what is secret in it."""
    host: str
    port: int
    tls: bool
    secret: str
    store: str
    timeout: float = 5.0


class Transport(Protocol):
    """Carries acts to the worker, from `start` until `close`.

    Every call is answered or refused on its own, within the site's timeout, and not taken back when its caller is cancelled.
    A refusal is one of chatkeep's errors: `Unavailable` when the act certainly was not done, `Uncertain` when one that
    *writes* may have been. Acts on one conversation, which is told by *lane*, are done in the order in which they were asked for.
    """

    site: Site
    epoch: str
    """The store's, once known; sent with each act, and compared."""

    async def close(self) -> None:
        """Have what is under way answered, then give everything back."""

    def pool(self) -> Pool:
        """Return the connections that acts use."""

    def act(self, what: What, said: bytes, *, lane: int = 0, writes: bool = False) -> Future[Any]:
        """Have the worker do an act, which is *said* as JSON; answers what it answered."""

    async def listen(self, heard: Callable[[bytes], None]) -> None:
        """Have *heard* called with what the store's bell rings, until cancelled."""


class Refused(Unavailable):
    """The worker answered, and will not do it."""


class Crowded(Unavailable):
    """The worker has as many conversations in memory as it may; a moment later it has fewer."""
