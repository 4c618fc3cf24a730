"""What a `CookieChat` may be given, and what it refuses by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, TypedDict, cast

from ..app import Chatkeep
from ..durations import Duration, in_words, seconds
from ..engine.hooks import streams
from ..settings import Flags, Settings, faults_of

LONGEST_AGE_S = 400 * 86_400.0
"""Browsers keep no cookie longer."""

SameSite = Literal["lax", "strict", "none"]


class CookieOptions(TypedDict, total=False):
    """The settings that make sense for a chat that is there during its visitor's requests alone; `Settings` says what each means."""

    session_ttl: Duration | None
    history: int
    history_bytes: int | None
    turn_timeout: Duration
    attempts: int | None
    retry_for: Duration
    retry_after: Duration
    retry_longest: Duration
    message_limit: int
    state_limit: int
    flags: Flags | Mapping[str, Any]


LATER = "nobody looks at a cookie between its visitor's requests"
ALONE = "a chat has no store that others share, and nothing waits in it"
REFUSED = {
    "overlap": "messages are answered one after another, each in its request",
    "quiet": "messages are answered one after another, each in its request",
    "max_wait": "messages are answered one after another, each in its request",
    "retention": f"{LATER}, and the log is as long as there is room; set max_age",
    "forget_after": f"{LATER}; set max_age",
    "forget_visitors": f"{LATER}; set max_age",
    "poll": LATER,
    "failure_reply": "nothing is recorded of a turn that failed; the application answers HandlerFailed",
    "on_failure": "nothing is recorded of a turn that failed; the application answers HandlerFailed",
    "on_missing": "a new visitor is known to nobody",
    "background": LATER,
    "interrupted": "a bot that streams is refused",
    "outside": ALONE,
    "concurrency": ALONE,
    "backlog": ALONE,
    "quick": ALONE,
    "cache": ALONE,
    "seal_keys": "the cookie is sealed by `keys`",
    "version": "a chat goes on with whatever answers its visitor's request",
    "pin": "a chat goes on with whatever answers its visitor's request",
    "cache_entries": ALONE,
    "cache_bytes": ALONE,
    "journal": ALONE,
    "on_outage": ALONE,
    "on_replaced": ALONE,
    "store_timeout": ALONE,
    "channel_rate": "a channel's platform has no cookie",
    "send_timeout": "a channel's platform has no cookie",
    "deliver": "a channel's platform has no cookie",
    "outlet": "a channel's platform has no cookie",
    "credentials": "who has the cookie has the chat",
}
"""What a `CookieChat` refuses, and why. All of it is for the Chatkeep that `then` may be."""

DEFAULTS: CookieOptions = {"attempts": 3}


def find_faults(
    bot: object,
    options: Mapping[str, object],
    *,
    max_age: Duration,
    name: str | None,
    path: str,
    secure: bool | None,
    same_site: str,
) -> list[str]:
    """Return everything that is wrong with what a `CookieChat` is given."""
    return [
        *_faults_of_bot(bot),
        *_faults_of_age(max_age),
        *_faults_of_options(options),
        *_faults_of_session(options.get("session_ttl"), max_age),
        *_faults_of_cookie(name, path, secure, same_site),
    ]


def _faults_of_bot(bot: object) -> list[str]:
    if not callable(bot) or isinstance(bot, Chatkeep):
        return ["bot is the handler, a function that takes a Turn (a Chatkeep goes into then=)"]
    if streams(bot):
        return [
            "bot streams, and the cookie has to be sent before the first piece of its reply; return the text as a whole"
        ]
    return []


def _faults_of_age(max_age: Duration) -> list[str]:
    try:
        fits = 1 <= seconds(max_age) <= LONGEST_AGE_S
    except ValueError as fault:
        return [f"max_age: {fault}"]
    longest = in_words(LONGEST_AGE_S)
    return [] if fits else [f"max_age is from 1 second to {longest}, which browsers keep a cookie at most"]


def _faults_of_options(options: Mapping[str, object]) -> list[str]:
    allowed, faults = CookieOptions.__annotations__, list[str]()
    for option, value in options.items():
        if option in REFUSED:
            faults.append(f"{option} makes no sense with a cookie: {REFUSED[option]}")
        elif option not in allowed:
            faults.append(f"{option} is not a setting of CookieChat; there are: {', '.join(sorted(allowed))}")
        else:
            faults += faults_of(option, value)
    return faults


def _faults_of_session(ttl: object, max_age: Duration) -> list[str]:
    """Return what is wrong with a session's time beside that of the cookie, where each of them is a time."""
    if ttl is None or faults_of("session_ttl", ttl):
        return []
    try:
        age_s = seconds(max_age)
    except ValueError:
        age_s = LONGEST_AGE_S
    if seconds(cast(Duration, ttl)) <= age_s:
        return []
    long, age = in_words(cast(Duration, ttl)), in_words(max_age)
    return [f"session_ttl ({long}) is longer than max_age ({age}), after which the cookie is gone"]


def _faults_of_cookie(name: str | None, path: str, secure: bool | None, same_site: str) -> list[str]:
    faults = list[str]()
    if name is not None and not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}", name):
        faults.append(f"name is that of a cookie, of letters, digits, '-' and '_', not {name!r}")
    elif name is not None and name.startswith(("__Host-", "__Secure-")) and secure is not True:
        faults.append(f"the name {name} wants secure=True")
    if name is not None and name.startswith("__Host-") and path != "/":
        faults.append(f'the name {name} wants path="/"')
    if not re.fullmatch(r"/[!-:<-~]*", path):
        faults.append(f'path begins with "/" and has no spaces or ";", not {path!r}')
    if not isinstance(secure, bool | None):
        faults.append(f"secure is True, False or None, not {secure!r:.40}")
    if same_site not in ("lax", "strict", "none"):
        faults.append(f"same_site is one of lax, strict, none, not {same_site!r}")
    if same_site == "none" and secure is not True:
        faults.append('same_site="none" wants secure=True, without which browsers refuse the cookie')
    return faults


def settings_from(options: CookieOptions) -> Settings:
    """Return the settings of the engines: *options*, which are right, and the defaults of a cookie."""
    values: dict[str, Any] = {**DEFAULTS, **options}
    if not isinstance(values.get("flags", Flags()), Flags):
        values["flags"] = Flags(values["flags"])
    return Settings(background=False, **values)
