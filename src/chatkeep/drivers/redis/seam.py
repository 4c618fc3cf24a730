"""What the Redis driver asks of whatever carries its acts. Connections of its own are one way (`transport`); a service that takes
commands over HTTP is served by another implementation, which needs no hiredis."""

from __future__ import annotations

from asyncio import Future
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol

from msgspec import Struct

from ...errors import ChatkeepError, Unavailable, Uncertain
from ..base import Pool, settle
from .scripts import Argument, ScriptRun

Address = tuple[str, int]


class Site(Struct, frozen=True, kw_only=True):
    """Where the servers are, and the credentials for them."""

    name: str
    """The URL without what is secret in it."""
    hosts: tuple[Address, ...]
    cluster: bool = False
    service: str = ""
    """What Sentinel calls the store; '' where there is none."""
    access: dict[str, Any] = {}
    """The credentials, as the transport takes them."""
    sentinel_access: dict[str, Any] = {}
    timeout: float = 5.0


class Waiting(Struct, eq=False):
    """A command on its way, and the future of its answer. Cancelling that does not take the command back."""

    act: ScriptRun | None
    deadline: float
    answered: Future[Any]
    # One connection carries all of them, in order.
    kind: ClassVar[None] = None
    key: ClassVar[None] = None

    def settle(self, answer: Any) -> None:
        """Give the caller, if one still waits, its answer or refusal."""
        settle(self.answered, answer)

    @property
    def undone(self) -> str:
        """What certainly did not happen."""
        return "nothing was written" if self.act and self.act.writes else "nothing was read"

    def unanswered(self, server: str, fault: str) -> ChatkeepError:
        """Return what the caller is told when the command has left and *server* does not answer, because of *fault*."""
        if self.act is not None and self.act.writes:
            return Uncertain(
                f"{server} did not answer ({fault}): perhaps it was written. Send it again under the same id."
            )
        return Unavailable(f"{server} did not answer ({fault}); {self.undone}. Try again.")


class Transport(Protocol):
    """Carries acts and plain commands to the servers of one store, from `start` until `close`.

    Every call is answered or refused on its own, within the site's timeout, and not taken back when its caller is cancelled.
    A refusal is one of chatkeep's errors: `Unavailable` when the command certainly did not run, `Uncertain` when an act that
    writes may have run. The calls on one slot reach the server in the order in which they were made.
    """

    site: Site

    async def start(self) -> None:
        """Learn which servers have a part of the store."""

    async def close(self) -> None:
        """Have what is under way answered, then give everything back."""

    def pool(self) -> Pool:
        """Return the connections that acts use."""

    def act(self, act: ScriptRun) -> Future[Any]:
        """Run a script where its keys are."""

    def ask(self, *command: Argument, key: bytes = b"", address: Address | None = None) -> Future[Any]:
        """Send a plain command: to whoever has *key*, or to one server of a cluster."""

    @property
    def primaries(self) -> Sequence[Address | None]:
        """Every server that has a part of the store."""

    @property
    def covered(self) -> int:
        """How many of a cluster's 16384 slots somebody serves."""

    async def listen(self, channel: bytes, heard: Callable[[bytes], None]) -> None:
        """Have *heard* called with every message of a channel, until cancelled."""
