"""Logs for machines or for people, one line an event, without what users said and without secrets.

What holds: no credential of ours or of a platform, no password of a URL, no cookie and no Authorization header is in a line,
wherever it came from, and nothing that is named password, secret or token; control characters are escaped, so a line is a
line; an error that is not chatkeep's own is told by its kind and its places in the code, because its text may quote a message.
"""

from __future__ import annotations

import asyncio
import logging
import re
import sys
import time
import traceback
from contextlib import nullcontext, suppress
from contextvars import ContextVar
from functools import lru_cache
from secrets import token_hex
from typing import Any, Protocol, TextIO, cast

import msgspec
from cachetools import TTLCache
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import ChatkeepError, HandlerFailed
from ..frames import cause_of, chain_of, place_of

access_log = logging.getLogger("chatkeep.access")

request_id: ContextVar[str] = ContextVar("chatkeep_request_id", default="")
"""The request that is being served; every line of the log that is about it has it."""

SECRET = re.compile(
    r"ck_[a-z]_[A-Za-z0-9]+"
    r"|whsec_[\w+/=-]+|\bEAA[A-Za-z0-9]{20,}|(?<=/bot)\d+:[\w-]+|\b\d{6,}:AA[\w-]{33,}"  # webhooks, Meta, Telegram
    r"|((?i:cookie: ))[^\r\n]+"
    r"|((?i:bearer |basic |cookie=|(?:password|secret|token)[\"']?(?:: | ?= ?|:(?=[\"']))[\"']?))[^\s;,&'\"]+"
)
URL = re.compile(r"://[^\s\"]+")
"""The rest of a URL. It is taken whole, whatever is in it, so that no text is looked at again from each of its "://"."""

QUOTING = re.compile(r"(the handler failed|was set aside|could not rebuild the state).*", re.DOTALL)
"""Where the words of `HandlerFailed` go on with those of the bot's own error."""

STEERING = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}
STEERING |= {code: f"\\u{code:04x}" for code in (0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A))}
REPEATED_S = 60.0
"""How often the whole way to the same error is written; the line itself, with the error's place, is written every time."""

NUMBERS = (int, float, type(None))
PLAIN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName", "color_message"}


class LineFormatter(logging.Formatter):
    """Formats a record as one line: JSON, or text for people."""

    def __init__(self, *, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json
        self._told: TTLCache[tuple[object, ...], bool] = TTLCache(1000, REPEATED_S)
        self._second = (0, "")

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        if self._as_json and record.name == access_log.name and "ms" in record.__dict__:
            # By hand, for every request pays for it; the texts are of a fixed set, so each is made safe once.
            text = text_of_access(*cast("tuple[str, str, int]", record.args))
            credential = record.__dict__.get("credential")  # (of letters and digits)
            who = f',"credential":"{credential}"' if credential else ""
            return (
                f'{{"time":"{self._time(record.created)}","level":"{record.levelname.lower()}","logger":"{record.name}",'
                f'"message":{text},"request":"{request_id.get()}","ms":{record.__dict__["ms"]}{who}}}'
            )
        told: dict[str, Any] = {
            "time": self._time(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": line(message(record)),
        }
        if request := request_id.get():
            told["request"] = request
        told |= {name: safe(value) for name, value in record.__dict__.items() if name not in PLAIN}
        if (fault := cause_of(record)) is not None and self._is_new(fault):
            told["error"] = [line(part) for part in told_of(fault)]
        if self._as_json:
            return msgspec.json.encode(told).decode()
        head = f"{told.pop('time')} {told.pop('level'):<7} {told.pop('logger')}: {told.pop('message')}"
        errors = told.pop("error", [])
        return "\n    ".join([" ".join([head, *[f"{name}={value}" for name, value in told.items()]]), *errors])

    def _time(self, created: float) -> str:
        """Return the time in UTC. (The second is put into words once, for all the lines of it.)"""
        second, words = self._second
        if second != int(created):
            second = int(created)
            words = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            self._second = second, words
        return f"{words}.{int(created % 1 * 1000):03}Z"

    def _is_new(self, fault: BaseException) -> bool:
        """Tell whether the way to this error was not written lately: each attempt of a message fails in the same way."""
        *_, root = chain_of(fault)
        mark = (
            type(root),
            *[(frame.filename, frame.lineno) for frame in traceback.extract_tb(root.__traceback__)[-3:]],
        )
        known = mark in self._told
        self._told.setdefault(mark, True)
        return not known


def told_of(fault: BaseException) -> list[str]:
    """Return an error and what caused it, each with its places in the code; only chatkeep's own errors with their words."""
    told: list[str] = []
    for cause in chain_of(fault):
        name = f"{type(cause).__module__}.{type(cause).__qualname__}"
        told.append(f"{name}: {words(cause)}" if isinstance(cause, ChatkeepError) else name)
        frames = traceback.extract_tb(cause.__traceback__)[-12:]
        told += [f"  at {frame.filename}:{frame.lineno} in {frame.name}" for frame in frames]
    return told


def message(record: logging.LogRecord) -> str:
    """Return what was logged; errors in it by what of their words is chatkeep's or the system's own."""
    arguments = record.args
    if not isinstance(arguments, tuple):
        return record.getMessage()
    plain = tuple(words(part) if isinstance(part, BaseException) else part for part in arguments)
    return str(record.msg) % plain if plain else str(record.msg)


def words(fault: BaseException) -> str:
    """Return an error in words that quote nobody."""
    if isinstance(fault, HandlerFailed):
        told = QUOTING.sub(r"\1", str(fault)) if QUOTING.search(str(fault)) else "the handler failed"
        *_, root = chain_of(fault)
        place = place_of(root)
        return f"{told}: {type(root).__name__} at {place}" if place and root is not fault else told
    return str(fault) if isinstance(fault, ChatkeepError | OSError) else type(fault).__name__


def line(text: str) -> str:
    """Return *text* without secrets, as one line that steers no terminal."""
    if "://" in text:
        text = URL.sub(without_password, text)
    return SECRET.sub(r"\1\2***", text).translate(STEERING)


def without_password(url: re.Match[str]) -> str:
    """Return the rest of a URL without what stands before its last @: a password may have / and # in it."""
    _, at, place = url[0].rpartition("@")
    return f"://***@{place}" if at else url[0]


@lru_cache(1024)
def text_of_access(method: str, route: str, status: int) -> str:
    """Return what is said of a request, as JSON."""
    return msgspec.json.encode(line(f"{method} {route} {status}")).decode()


def safe(value: object) -> object:
    """Return a value as it may be logged."""
    return value if isinstance(value, NUMBERS) else line(str(value))


class LineHandler(logging.StreamHandler[TextIO]):
    """Writes lines; those of the access log are held until the event loop has done what it can do now, and written together.

    Whatever else is logged is written at once, behind what was held.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._held: list[str] = []
        self._due: asyncio.AbstractEventLoop | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Take one record; the lock is held."""
        loop = asyncio._get_running_loop() if record.name == access_log.name else None
        if loop is None:
            self._write_held()
            super().emit(record)
            return
        try:
            self._held.append(self.format(record))
        except Exception:
            self.handleError(record)
        if self._due is not loop:
            self._due = loop
            loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write what is held."""
        with self.lock or nullcontext():
            self._write_held()
            super().flush()

    def _write_held(self) -> None:
        held, self._held, self._due = self._held, [], None
        if held:
            held.append("")
            with suppress(OSError, ValueError):  # nobody may read it any more
                self.stream.write(self.terminator.join(held))


def configure(*, as_json: bool, level: str) -> None:
    """Send the logs of everything in this process to standard error, in lines."""
    handler = LineHandler(sys.stderr)
    handler.setFormatter(LineFormatter(as_json=as_json))
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    logging.captureWarnings(True)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):  # theirs go the same way, and ours is the access log
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = name != "uvicorn.access"
    logging.getLogger("uvicorn.error").setLevel("WARNING")
    logging.getLogger("asyncio").setLevel("WARNING")


class Requests(Protocol):
    """What wants to know of each request that was answered."""

    def answered(self, route: str, method: str, status: int, seconds: float) -> None:
        """Note that one request is over; *route* is its template, never its path."""


PROBES = frozenset({"/healthz", "/readyz", "/metrics"})
"""What asks every few seconds."""

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class RequestLogMiddleware:
    """Middleware: names each request (`x-request-id`), logs it and counts it. Nothing that a client chose is told."""

    def __init__(self, app: ASGIApp, *, metrics: Requests | None = None) -> None:
        self.app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, answered, status, name = time.perf_counter(), 0.0, 500, token_hex(8)
        token = request_id.set(name)

        async def send_named(message: Message) -> None:
            nonlocal status, answered
            if message["type"] == "http.response.start":
                status, answered = message["status"], time.perf_counter() - began
                MutableHeaders(scope=message)["x-request-id"] = name
            await send(message)

        try:
            await self.app(scope, receive, send_named)
        finally:
            took = time.perf_counter() - began
            method = scope["method"] if scope["method"] in METHODS else "other"
            route = route_of(scope)
            if self._metrics is not None:
                self._metrics.answered(route, method, status, answered or took)
            level = logging.DEBUG if route in PROBES else logging.INFO
            if access_log.isEnabledFor(level):
                # (As `access_log.log` does, which would look for its caller's place in the code first.)
                said, extra = (method, route, status), dict[str, Any](ms=round(took * 1000, 1))
                if id := getattr(scope.get("state", {}).get("principal"), "id", ""):
                    extra["credential"] = id
                record = access_log.makeRecord(access_log.name, level, __file__, 0, "%s %s %d", said, None, extra=extra)
                access_log.handle(record)
            request_id.reset(token)


def route_of(scope: Scope) -> str:
    """Return the template of the route that answered, such as /v1/conversations/{id}/messages; "other" where there was none."""
    return str(scope.get("route_path") or getattr(scope.get("route"), "path", None) or "other")
