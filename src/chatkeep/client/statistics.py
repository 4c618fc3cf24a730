"""What a client has done since it was made, in numbers."""

from __future__ import annotations

from msgspec import Struct, field

from .values import Pending


class Statistics(Struct, kw_only=True):
    """
    What a client has done since it was made.

    requests: attempts that were made; `repeated` ones were not the first of their call, `refused` ones were answered with a refusal,
    `unanswered` ones not at all. seconds: how long the answers took; slowest: the longest one. sent_bytes, received_bytes: bodies, without
    headers. streams: event streams that are open. online: whether the server answered last. notices: how many were told, by kind.
    pending: the queue; None without one.
    """

    requests: int = 0
    repeated: int = 0
    refused: int = 0
    unanswered: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    sent_bytes: int = 0
    received_bytes: int = 0
    streams: int = 0
    online: bool = True
    notices: dict[str, int] = field(default_factory=dict)
    pending: Pending | None = None

    def note_time(self, seconds: float) -> None:
        """Count an attempt that took so long."""
        self.seconds += seconds
        self.slowest = max(self.slowest, seconds)
