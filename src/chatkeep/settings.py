"""Every setting, its default and its limits, checked all at once when a Chatkeep is made. Where they come from is in `sources`."""

# No `from __future__ import annotations`: a TypedDict compiles each annotation that is text, a fiftieth of chatkeep's part of an import.

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, TypedDict, get_args

from msgspec import Struct

from .conversation.snapshots import Policy
from .durations import Duration, duration_fault, rate_of, seconds
from .errors import Misconfigured
from .secrecy import SHORTEST, shown
from .sources import GivenValue, file_settings, from_source, given, instead, value_of

Overlap = Literal["queue", "debounce", "burst", "interrupt", "drop"]
Interrupted = Literal["continue", "close"]
OnOutage = Literal["refuse", "read", "journal"]
OnReplaced = Literal["refuse", "reopen"]
Outside = Literal["merge", "rerun"]
Pin = Literal["none", "turn", "session"]

LEASE_S = 10.0
"""A lease lasts so long and is renewed while its turn runs: an instance that died with its host is followed after it."""

SHORTEST_DOUBT_S = 10.0
"""A pause that ends later than this, and later than any that the settings ask for, was made by another clock."""


TEST_ATTEMPTS = 8
"""So often a message is tried where the pauses are too short to wait for an outage's end, and nothing else was said."""


Flag = bool | int | float | str


class Flags:
    """Switches of features, for all tenants or one, that an operator sets without a deploy; handlers read them and cannot change them.

    In the file, [flags] holds for every tenant and [flags.salon] for one:

        [flags]
        new_menu = false
        [flags.salon]
        new_menu = true
    """

    def __init__(self, table: Mapping[str, Any] | None = None) -> None:
        self._set(table or {})

    def __repr__(self) -> str:
        return "Flags()"

    def of(self, tenant: str) -> Mapping[str, Flag]:
        """Return the flags of *tenant*: its own, on top of everybody's."""
        return self._of.get(tenant, self._all)

    def reload(self) -> None:
        """Read them from the file again. Raises `Misconfigured`, and then they stay as they are."""
        self._set(file_settings()[0].get("flags", {}))

    def _set(self, table: Mapping[str, Any]) -> None:
        if not isinstance(table, Mapping):
            raise Misconfigured(f"flags is a table of flags and of tenants, not {table!r}. Nothing was changed.")
        everybody = {name: value for name, value in table.items() if not isinstance(value, Mapping)}
        own = {tenant: everybody | dict(value) for tenant, value in table.items() if isinstance(value, Mapping)}
        for tenant, flags in {"": everybody, **own}.items():
            if wrong := [name for name, value in flags.items() if not isinstance(value, Flag)]:
                place = f"flags.{tenant}" if tenant else "flags"
                raise Misconfigured(
                    f"{place}: {', '.join(wrong)} must be true, false, a number or text. Nothing was changed."
                )
        self._all: Mapping[str, Flag] = MappingProxyType(everybody)
        self._of = {tenant: MappingProxyType(flags) for tenant, flags in own.items()}


class Settings(Struct, frozen=True, kw_only=True):
    """How a Chatkeep behaves. Durations are "30m", "24h", "250ms", a timedelta, or seconds as a number; text needs its unit.

    session_ttl: idle time after which a conversation starts fresh (None: never; "0s": each message is a session of
    its own). retention: how long log entries are kept (None: for ever); looked after when a conversation is used or
    due; where nobody has been since it was set, within the first hours. forget_after: a conversation in which nothing has
    happened for so long is erased, with its credentials (None: never); never one with unread messages, reminders or replies
    that wait. forget_visitors: the same for conversations of visitors whom nobody knows: their token is over by then.
    history, history_bytes: at most so many earlier messages are in a turn, of so many bytes together (None: any); they begin
    with the first message of a turn. overlap: what happens to messages that come while a turn runs, or shortly one after another:
        queue     each gets a turn of its own, in order
        burst     the first is answered at once; what comes meanwhile is answered together in the next turn
        debounce  waits until the user has been quiet for `quiet`, at most `max_wait`, then answers all together
        interrupt what comes ends the running turn: what was said of its reply stays, as by `stop`; where nothing was said yet,
                  all is answered together
        drop      what comes meanwhile is kept and shown, and not answered
    interrupted: what becomes of a streamed reply of which something was shown when its handler failed, or its process died:
        continue  the handler runs again and goes on from `turn.said`; one that does not look at that before it says something
                  has its reply ended as with close
        close     the reply ends with what was shown, and metadata "interrupted"; no handler is run for it again
    outside: what happens to a turn whose state was changed from outside while its handler ran (`change`, a slot saved on a page):
        merge     different members were changed: both changes are kept, and the replies; the same member: as rerun
        rerun     the turn is thrown away and the handler runs again on what is there now
    channel_rate: so many turns answer one customer of a channel (WhatsApp, a webhook, ...) in a second, minute, hour or day; what
    comes beyond that is taken in, and waits for its turn ("off": however many). A conversation over HTTP has the server's rates.
    turn_timeout: a handler that takes longer has failed. concurrency: handlers that run at once in this process.
    backlog: messages that may wait in this process; more are refused with `Overloaded`.
    retry_for: a message whose handler fails is tried again for so long after its first failure, and then set aside (a time in which
    no process runs, or the bot is paused, does not count); attempts:
    it is set aside earlier when its handler has failed so often (None: however often). Where neither is set and the pauses are a
    test's, retry_after below 100 ms or retry_longest below 1 s, attempts is 8. retry_after, retry_longest: the pause after a
    failure, doubled each time, with jitter. failure_reply: what a user is told whose message was set aside, where no
    `on_failure` says it (None: nothing). poll: how often the store is asked for work that another process, or a
    crash, has left. cache_entries, cache_bytes: bounds of the local cache (0 entries: none). quick: a handler that
    has lately been faster than this is run before the message is written, which saves a commit; a slower one
    after. store_timeout: an act whose outcome the store does not tell is run again for so long. send_timeout: an outlet that takes
    longer to send a reply is given up, and asked again after a pause.
    on_outage: what happens while the store does not answer:
        refuse    `Unavailable`; nothing is acknowledged that is not in the store
        read      as refuse, and `conversation` shows what this process has seen last, marked `stale`
        journal   as refuse for reads; messages are written to a local SQLite file, durable, acknowledged with status
                  "journaled", and handed over to the store, in order and once, when it is back
    on_replaced: what happens when the store was emptied, or another one answers in its place, while it is open:
        refuse    `Replaced`, until the right one is back or this is opened anew: nothing begins afresh behind anybody's back
        reopen    what is there now is opened within a `poll` and begun with, for who rebuilds with `on_missing`
    background: False where a process lives for one message, such as a function: nothing is looked for, heard or answered unless it is
    asked for; `Chatkeep.tend` does what is due, and what is paused is looked at when something depends on it, if that was `poll` ago.
    version: the name of this version of the application, such as "2026-11" ("": none): `turn.version` says which version began what a turn
    goes on with. pin: what stays with the version that began it, as long as that version runs:
        none      nothing: whoever comes first answers
        turn      a turn of which anything was recorded: a step, a piece of its reply, a failed attempt
        session   the session
    journal: that file, one for each process and store. cache: a Redis or Valkey that instances share, redis://...,
    in front of the store; never trusted, and its loss costs only time. seal_keys: secrets of at least 16 bytes, the newest first,
    with which what was said is encrypted in the store, in the journal and in the cache (none: not); the first one seals, all of them
    open. flags: see `Flags`.
    """

    session_ttl: Duration | None = None
    retention: Duration | None = None
    forget_after: Duration | None = None
    forget_visitors: Duration | None = "30d"
    history: int = 20
    history_bytes: int | None = None
    overlap: Overlap = "queue"
    interrupted: Interrupted = "continue"
    quiet: Duration = "1.5s"
    max_wait: Duration = "10s"
    outside: Outside = "merge"
    channel_rate: str = "30/minute"
    turn_timeout: Duration = "30s"
    concurrency: int = 100
    backlog: int = 10_000
    retry_for: Duration = "10m"
    attempts: int | None = None
    retry_after: Duration = "200ms"
    retry_longest: Duration = "30s"
    failure_reply: str | None = None
    poll: Duration = "1s"
    cache_entries: int = 10_000
    cache_bytes: int = 128 * 1024 * 1024
    message_limit: int = 256 * 1024
    state_limit: int = 1024 * 1024
    quick: Duration = "50ms"
    store_timeout: Duration = "5s"
    send_timeout: Duration = "5m"
    on_outage: OnOutage = "refuse"
    on_replaced: OnReplaced = "refuse"
    background: bool = True
    version: str = ""
    pin: Pin = "none"
    journal: str | None = None
    cache: str | None = None
    seal_keys: tuple[str, ...] = ()
    flags: Flags = Flags()

    def __repr__(self) -> str:
        return f"Settings({', '.join(f'{name}={shown(name, getattr(self, name))}' for name in self.__struct_fields__)})"

    def policy(self) -> Policy:
        """Return the settings that the rules in `turns` look at."""
        turns, within_s = rate_of(self.channel_rate) or (None, 0.0)
        return Policy(
            overlap=self.overlap,
            quiet_s=seconds(self.quiet),
            max_wait_s=seconds(self.max_wait),
            session_ttl_s=None if self.session_ttl is None else seconds(self.session_ttl),
            retention_s=None if self.retention is None else seconds(self.retention),
            forget_after_s=None if self.forget_after is None else seconds(self.forget_after),
            forget_visitors_s=None if self.forget_visitors is None else seconds(self.forget_visitors),
            history=self.history,
            history_bytes=self.history_bytes,
            retry_for_s=seconds(self.retry_for),
            pause_most_s=max(2 * seconds(self.retry_longest), seconds(self.max_wait), SHORTEST_DOUBT_S),
            max_raised=self.attempts,
            max_begun=max(8, (self.attempts or 0) + 5),
            turn_s=seconds(self.turn_timeout) + 5.0,
            lease_s=min(seconds(self.turn_timeout) + 5.0, LEASE_S),
            channel_turns=turns,
            channel_within_s=within_s,
            version=self.version,
            pin=self.pin,
        )


class Options(TypedDict, total=False):
    """The settings as keyword arguments of `Chatkeep`, for type checkers and editors; `Settings` says what each means."""

    session_ttl: Duration | None
    retention: Duration | None
    forget_after: Duration | None
    forget_visitors: Duration | None
    history: int
    history_bytes: int | None
    overlap: Overlap
    interrupted: Interrupted
    quiet: Duration
    max_wait: Duration
    outside: Outside
    channel_rate: str
    turn_timeout: Duration
    concurrency: int
    backlog: int
    retry_for: Duration
    attempts: int | None
    retry_after: Duration
    retry_longest: Duration
    failure_reply: str | None
    poll: Duration
    cache_entries: int
    cache_bytes: int
    message_limit: int
    state_limit: int
    quick: Duration
    store_timeout: Duration
    send_timeout: Duration
    on_outage: OnOutage
    on_replaced: OnReplaced
    background: bool
    version: str
    pin: Pin
    journal: str | None
    cache: str | None
    seal_keys: Sequence[str]
    flags: Flags | Mapping[str, Any]


LEAST = {
    "history": 0,
    "history_bytes": 0,
    "concurrency": 1,
    "backlog": 1,
    "attempts": 1,
    "cache_entries": 0,
    "cache_bytes": 0,
    "message_limit": 1,
    "state_limit": 2,
}
OPTIONAL = ("session_ttl", "retention", "forget_after", "forget_visitors", "history_bytes", "attempts")
"""Settings that may be None."""

DURATIONS = (
    "session_ttl",
    "retention",
    "forget_after",
    "forget_visitors",
    "quiet",
    "max_wait",
    "turn_timeout",
    "retry_for",
    "retry_after",
    "retry_longest",
    "poll",
    "quick",
    "store_timeout",
    "send_timeout",
)
NEVER_ZERO = ("retention", "forget_after", "forget_visitors", "turn_timeout", "poll", "max_wait", "send_timeout")
CHOICES = {
    "overlap": get_args(Overlap),
    "interrupted": get_args(Interrupted),
    "on_outage": get_args(OnOutage),
    "on_replaced": get_args(OnReplaced),
    "outside": get_args(Outside),
    "pin": get_args(Pin),
}


PLAUSIBLE: dict[str, tuple[Duration, Duration]] = {
    "session_ttl": ("1m", "400d"),
    "retention": ("1h", "4000d"),
    "forget_after": ("1d", "4000d"),
    "forget_visitors": ("1d", "4000d"),
    "quiet": ("100ms", "1m"),
    "max_wait": ("500ms", "10m"),
    "turn_timeout": ("1s", "1h"),
    "retry_for": ("1s", "1d"),
    "retry_after": ("100ms", "10m"),
    "retry_longest": ("1s", "1d"),
    "poll": ("50ms", "1m"),
    "quick": ("0s", "1s"),
    "store_timeout": ("500ms", "1m"),
    "send_timeout": ("10s", "1h"),
    "drain": ("0s", "5m"),
    "keep_alive": ("5s", "1h"),
}
"""From where to where a duration is what somebody may well mean. Others are taken, and `serve --check` warns of them."""


def settings_from(options: Mapping[str, object]) -> Settings:
    """Return the settings from keyword arguments, the environment and the file. Raises `Misconfigured` with everything that is
    wrong in one message."""
    found, faults = settings_given(options)
    if faults:
        raise Misconfigured("; ".join(faults) + ". Nothing was opened.")
    values: dict[str, Any] = {name: value for name, (value, _) in found.items()}
    values["seal_keys"] = tuple(values.get("seal_keys", ()))
    if not isinstance(values.get("flags", Flags()), Flags):
        values["flags"] = Flags(values["flags"])
    if not values.keys() & {"retry_for", "attempts"} and any(
        name in values and seconds(values[name]) < seconds(PLAUSIBLE[name][0])
        for name in ("retry_after", "retry_longest")
    ):
        values["attempts"] = TEST_ATTEMPTS
    return Settings(**values)


def settings_given(options: Mapping[str, object]) -> tuple[dict[str, GivenValue], list[str]]:
    """Return what was given for the fields of `Settings`, and everything that is wrong with it."""
    known = Settings.__struct_fields__
    found, faults = given(Settings, options)
    faults[:0] = [f"{name} is not a setting{instead(name, known)}" for name in options if name not in known]
    for name, (value, source) in found.items():
        faults += [from_source(fault, source) for fault in faults_of(name, value, source)]
    if value_of(found, "on_outage") == "journal" and not value_of(found, "journal"):
        faults.append('on_outage="journal" needs journal="/path/to/journal.db", a file on this host')
    if value_of(found, "journal") and value_of(found, "on_outage") != "journal":
        # What waits in it would never be handed over.
        faults.append(
            'journal names a file that is used with on_outage="journal" alone: set that too, or leave journal out when nothing waits in it'
        )
    if value_of(found, "pin") in ("turn", "session") and not value_of(found, "version"):
        faults.append('pin needs version="...", the name of this version of the application')
    return found, faults


def faults_of(name: str, value: object, source: str = "") -> list[str]:
    """Return what is wrong with one value, which *source* gave ("": the program)."""
    try:
        if value is None and name in OPTIONAL:
            return []
        if name in DURATIONS:
            if fault := duration_fault(value, source):
                return [f"{name}: {fault}"]
            if seconds(value) == 0 and name in NEVER_ZERO:  # type: ignore[arg-type]
                return [f"{name} must be more than 0"]
        if name == "channel_rate":
            rate_of(value)
        elif name == "flags" and not isinstance(value, Flags):
            Flags(value)  # type: ignore[arg-type]
    except Misconfigured as fault:
        return [str(fault).removesuffix(". Nothing was changed.")]
    except ValueError as fault:
        return [f"{name}: {fault}"]
    if name in LEAST and (not isinstance(value, int) or isinstance(value, bool) or value < LEAST[name]):
        return [f"{name} must be a whole number of at least {LEAST[name]}, not {value!r}"]
    if name == "version":
        return [wrong] if (wrong := version_fault(value)) else []
    if name == "background" and not isinstance(value, bool):
        return [f"background is true or false, not {value!r}"]
    if name == "seal_keys" and not is_ring(value):
        return [f"seal_keys is a list of secrets of at least {SHORTEST} bytes each, the newest first"]
    if name in CHOICES and value not in CHOICES[name]:
        return [f"{name} is one of {', '.join(CHOICES[name])}, not {value!r}"]
    if name in ("journal", "cache", "failure_reply") and not (value is None or (isinstance(value, str) and value)):
        return [f"{name} is text, not {shown(name, value)}"]
    return []


def version_fault(name: object) -> str:
    """Return what is wrong with the *name* of a version of the application; "" when nothing is."""
    fine = isinstance(name, str) and len(name) <= 100 and (not name or name.isprintable()) and name == name.strip()
    return "" if fine else f"version is a short text without line breaks, not {name!r:.120}"


def is_ring(value: object) -> bool:
    """Tell whether *value* is a list of secrets that are long enough."""
    return isinstance(value, list | tuple) and all(
        isinstance(key, str) and len(key.encode(errors="replace")) >= SHORTEST for key in value
    )


def named_seal_keys() -> tuple[str, ...]:
    """Return the keys that the environment (CHATKEEP_SEAL_KEYS, or CHATKEEP_SEAL_KEYS_FILE) or the file names. Raises `Misconfigured`."""
    return settings_from({}).seal_keys
