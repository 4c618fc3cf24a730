"""Every setting, its default and its limits, in one place; checked all at once when a Chatkeep is made."""

from __future__ import annotations

import re
from typing import Literal, get_args

from msgspec import Struct

from .errors import Misconfigured
from .turns import Policy

Overlap = Literal["queue", "debounce", "burst", "drop"]
OnOutage = Literal["refuse", "read", "journal"]
Duration = str | int | float

CLAIM_S = 10.0
"""A claim lasts so long and is renewed while its turn runs: an instance that died with its host is followed after it."""

UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


def seconds(duration: Duration) -> float:
    """The seconds in "30m", "1.5h", "250ms", "7d" or a plain number. Raises ValueError."""
    if isinstance(duration, int | float) and not isinstance(duration, bool):
        found = float(duration)
    elif isinstance(duration, str) and (parts := re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", duration.strip())):
        found = float(parts[1]) * UNITS[parts[2]]
    else:
        raise ValueError(f'{duration!r} is not a duration; write "30m", "24h", "250ms" or seconds as a number')
    if not 0 <= found < 1e9:
        raise ValueError(f"{duration!r} is out of range")
    return found


class Settings(Struct, frozen=True, kw_only=True):
    """How a Chatkeep behaves. Durations are "30m", "24h", "250ms", or seconds as a number.

    session_ttl: idle time after which a conversation starts fresh (None: never; "0s": each message is a session of
    its own). retention: how long log entries are kept (None: for ever); looked after when a conversation is used or
    due, so not where nobody has been since it was set. history: so many earlier messages are in a
    turn. overlap: what happens to messages that come while a turn runs, or shortly one after another:
        queue     each gets a turn of its own, in order
        burst     the first is answered at once; what comes meanwhile is answered together in the next turn
        debounce  waits until the user has been quiet for `quiet`, at most `max_wait`, then answers all together
        drop      what comes meanwhile is kept and shown, and not answered
    turn_timeout: a handler that takes longer has failed. concurrency: handlers that run at once in this process.
    backlog: messages that may wait in this process; more are refused with `Overloaded`.
    attempts: a message whose handler raised so often is set aside. retry_after, retry_longest: the pause after a
    failure, doubled each time, with jitter. poll: how often the store is asked for work that another process, or a
    crash, has left. cache_entries, cache_bytes: bounds of the local cache (0 entries: none). quick: a handler that
    has lately been faster than this is run before the message is written, which saves a round trip; a slower one
    after. store_timeout: an act whose outcome the store does not tell is run again for so long.
    on_outage: what happens while the store does not answer:
        refuse    `Unavailable`; nothing is acknowledged that is not in the store
        read      as refuse, and `conversation` shows what this process has seen last, marked `stale`
        journal   as refuse for reads; messages are written to a local SQLite file, durable, acknowledged with status
                  "journaled", and handed over to the store, in order and once, when it is back
    journal: that file, one for each process and store. cache: a Redis or Valkey that instances share, redis://...,
    in front of the store; never trusted, and its loss costs only time.
    """

    session_ttl: Duration | None = None
    retention: Duration | None = None
    history: int = 20
    overlap: Overlap = "queue"
    quiet: Duration = "1.5s"
    max_wait: Duration = "10s"
    turn_timeout: Duration = "30s"
    concurrency: int = 100
    backlog: int = 10_000
    attempts: int = 3
    retry_after: Duration = "200ms"
    retry_longest: Duration = "30s"
    poll: Duration = "1s"
    cache_entries: int = 10_000
    cache_bytes: int = 128 * 1024 * 1024
    message_limit: int = 256 * 1024
    state_limit: int = 1024 * 1024
    quick: Duration = "50ms"
    store_timeout: Duration = "5s"
    on_outage: OnOutage = "refuse"
    journal: str | None = None
    cache: str | None = None

    def policy(self) -> Policy:
        """The settings that the rules in `turns` look at."""
        return Policy(
            overlap=self.overlap,
            quiet_s=seconds(self.quiet),
            max_wait_s=seconds(self.max_wait),
            session_ttl_s=None if self.session_ttl is None else seconds(self.session_ttl),
            retention_s=None if self.retention is None else seconds(self.retention),
            history=self.history,
            max_raised=self.attempts,
            max_begun=max(8, self.attempts + 5),
            claim_s=min(seconds(self.turn_timeout) + 5.0, CLAIM_S),
        )


LEAST = {
    "history": 0,
    "concurrency": 1,
    "backlog": 1,
    "attempts": 1,
    "cache_entries": 0,
    "cache_bytes": 0,
    "message_limit": 1,
    "state_limit": 2,
}
DURATIONS = (
    "session_ttl",
    "retention",
    "quiet",
    "max_wait",
    "turn_timeout",
    "retry_after",
    "retry_longest",
    "poll",
    "quick",
    "store_timeout",
)
NEVER_ZERO = ("retention", "turn_timeout", "poll", "max_wait")
CHOICES = {"overlap": get_args(Overlap), "on_outage": get_args(OnOutage)}


def settings_from(options: dict[str, object]) -> Settings:
    """Settings from keyword arguments. Raises `Misconfigured` with everything that is wrong in one message."""
    known = Settings.__struct_fields__
    faults = [f"{name} is not a setting; there are: {', '.join(known)}" for name in options if name not in known]
    for name, value in options.items():
        if name in DURATIONS and not (value is None and name in ("session_ttl", "retention")):
            try:
                if seconds(value) == 0 and name in NEVER_ZERO:  # type: ignore[arg-type]
                    faults.append(f"{name} must be more than 0")
            except ValueError as fault:
                faults.append(f"{name}: {fault}")
        if name in LEAST and (not isinstance(value, int) or isinstance(value, bool) or value < LEAST[name]):
            faults.append(f"{name} must be a whole number of at least {LEAST[name]}, not {value!r}")
        if name in CHOICES and value not in CHOICES[name]:
            faults.append(f"{name} is one of {', '.join(CHOICES[name])}, not {value!r}")
        if name in ("journal", "cache") and not (value is None or (isinstance(value, str) and value)):
            faults.append(f"{name} is text, not {value!r}")
    if options.get("on_outage") == "journal" and not options.get("journal"):
        faults.append('on_outage="journal" needs journal="/path/to/journal.db", a file on this host')
    if faults:
        raise Misconfigured("; ".join(faults) + ". Nothing was opened.")
    return Settings(**options)  # type: ignore[arg-type]
