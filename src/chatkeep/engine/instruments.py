"""Let metrics, traces and logs of one's own look at a Chatkeep while it works."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any, Literal

from msgspec import Struct

from ..model import Receipt
from .turn import Turn


class Arrival(Struct):
    """Describe a message that comes in, as an `Instrument` sees it.

    verb: "receive" or "accept". metadata: the message's own; what an instrument adds is recorded with the message.
    receipt: the answer, once there is one.
    """

    verb: Literal["receive", "accept"]
    metadata: dict[str, Any]
    receipt: Receipt | None = None


class Instrument:
    """Look at what a Chatkeep does: override what you want to see, and append an instance to `keep.instruments`.

        class SlowTurns(Instrument):
            def measured(self, name: str, seconds: float) -> None:
                if name == "turn" and seconds > 1:
                    print(f"a turn took {seconds:.1f} s")

        keep.instruments.append(SlowTurns())

    The methods are called in the event loop of the Chatkeep, so they must not wait. What they raise fails what they look at, though it
    may be done already: an instrument that writes to a file, say, catches the errors of that itself.
    """

    def arrival(self, arrival: Arrival) -> AbstractContextManager[None]:
        """Surround a call of `receive` or `accept`; the receipt is in *arrival* at the end of one that succeeded."""
        return nullcontext()

    def turn(self, turn: Turn[Any]) -> AbstractContextManager[None]:
        """Surround a run of the handler, in the context in which the handler runs."""
        return nullcontext()

    def measured(self, name: str, seconds: float) -> None:
        """Take the duration of something: "turn" for each run of the handler; "read", "append", "write", "entries", "scan"
        and "erase" for each act on the store, and those that the driver has beside these ("count", for one)."""

    def sent(self, channel: str, status: str, cause: str, seconds: float) -> None:
        """Take what became of an attempt to send a reply through *channel*, and how long it took.

        status: "delivered", "failed" (for good), "uncertain", or "retry" (it is tried again). cause: "" when it was delivered,
        otherwise why it was not, of a fixed set: see docs/reference/metrics.md.
        """


def surround_arrival(
    instruments: Sequence[Instrument], verb: Literal["receive", "accept"], metadata: dict[str, Any] | None
) -> tuple[ExitStack, Arrival]:
    """Enter what each of *instruments* puts around a message that comes in."""
    stack, arrival = ExitStack(), Arrival(verb, dict(metadata or {}))
    for instrument in instruments:
        stack.enter_context(_context(instrument, "arrival", instrument.arrival(arrival)))
    return stack, arrival


async def run_surrounded(
    instruments: Sequence[Instrument], handler: Callable[[Turn[Any]], Awaitable[Any]], turn: Turn[Any]
) -> Any:
    """Run *handler* for *turn*, inside what each of *instruments* puts around it."""
    with ExitStack() as stack:
        for instrument in instruments:
            stack.enter_context(_context(instrument, "turn", instrument.turn(turn)))
        return await handler(turn)


def _context(instrument: Instrument, name: str, found: Any) -> AbstractContextManager[None]:
    if not isinstance(found, AbstractContextManager):
        # A TypeError, and none of ours: what a wrong instrument fails is tried again, until somebody has mended it.
        raise TypeError(
            f"{type(instrument).__name__}.{name} of an instrument returned {found!r:.80}, and has to return a context manager; "
            "write it as a generator under @contextlib.contextmanager, with one yield."
        )
    return found
