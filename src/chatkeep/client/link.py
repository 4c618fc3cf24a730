"""The way to the server: requests that are made again until they are answered, and errors that say what is true then.

The one place that knows aiohttp. A request is only repeated when a second time does no harm: it carries an id, or the
server certainly did nothing.
"""

from __future__ import annotations

import email.utils
import json
import logging
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, NamedTuple, TypeVar

import msgspec
from msgspec import UNSET, UnsetType
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_before_delay, stop_never

from ..durations import Duration, seconds
from ..errors import BadMessage, ChatkeepError, Misconfigured, NotOpen, Unavailable, Uncertain
from ..extras import from_extra
from ..secrecy import split_entry
from .confinement import Confinement
from .notices import Notices
from .refusals import Forbidden, NotFound, Unauthorized, answered_by_another, refusal
from .statistics import Statistics

with from_extra("client", "chatkeep.client"):
    import aiohttp
    from yarl import URL

log = logging.getLogger("chatkeep.client")

T = TypeVar("T")

CONNECT_S = 5.0
FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 10.0
SILENCE_S = 40.0  # the server's streams say something every 15 s
LONGEST_ANSWER = 64 * 1024 * 1024  # bytes; of a stream: of one event or line
IDLE_S = 4.0  # less than a server keeps a connection: nothing is sent into one that is just being closed

AWAY = (408, 502, 503, 504)
"""Statuses of a server, or of what stands before it, that does not do its work."""

HAPPENED = "Perhaps it was done. Do it again the same way, or read."
NOTHING = "Nothing was done. Try again later."


class TemporaryFailure(Exception):
    """A trouble that passes by itself. error: what to raise when nobody waits for that; after: the server's wish;
    certain: nothing was done; away: the server was not there."""

    def __init__(self, error: ChatkeepError, *, certain: bool, after: float = 0.0, away: bool = True) -> None:
        super().__init__(str(error))
        self.away = away
        self.error = error
        self.certain = certain
        self.after = after


class TokenChanged(Exception):
    """The client has another token by now than the one that a request was for; it was not sent with that."""


class Answer(NamedTuple):
    """What the server said, when it was no refusal. repeated: an earlier attempt may have been done as well."""

    headers: Mapping[str, str]
    body: bytes
    repeated: bool

    @property
    def etag(self) -> str:
        """The version of what was answered."""
        return self.headers.get("etag", "")

    @property
    def value(self) -> Any:
        """The JSON that was answered; None when this token may not see it."""
        return self.to(Any) if self.body else None

    def to(self, kind: type[T]) -> T:
        """Return the body as a *kind*."""
        return decoded(self.body, kind)


def decoded(raw: bytes | str, kind: type[T]) -> T:
    """Return what the server said, as a *kind*. Raises `Uncertain` for what is something else, perhaps of another program."""
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as fault:
        raise Uncertain(
            f"The server's answer is not what this client understands ({fault}). Is it a chatkeep server, and no newer than the "
            f"client? If something was to be changed: {HAPPENED[0].lower()}{HAPPENED[1:]}"
        ) from fault


def address_of(url: str) -> str:
    """Return the address of a server as it is used. Raises `Misconfigured` for what is none, or holds what may be a secret."""
    try:
        where = URL(url)
        wrong = (
            where.scheme not in ("http", "https")
            or not where.host
            or where.user
            or where.password
            or where.query_string
        )
    except ValueError:
        wrong = True
    if wrong:
        place = (split_entry(url)[2] or url.rpartition("@")[2]).partition("?")[0]
        raise Misconfigured(
            f"{place!r} is no server's address: write https://host/path, without a user, a password or a query."
        )
    return str(where).rstrip("/")


class Link:
    """One server, one token, any number of requests at a time."""

    def __init__(self, url: str, token: str | None, *, timeout: Duration, attempt: Duration) -> None:
        self.url = address_of(url)
        self.token = token
        try:
            self.timeout_s, self._attempt_s = seconds(timeout), seconds(attempt)
        except ValueError as fault:
            raise Misconfigured(f"timeout, attempt: {fault}.") from fault
        self.notices = Notices()
        self.statistics = Statistics()
        self.confinement = Confinement()
        self._session: aiohttp.ClientSession | None = None
        self._reading: set[aiohttp.ClientResponse] = set()

    @property
    def token(self) -> str | None:
        """What is shown to the server. Raises `Misconfigured` when it is given what no token can be."""
        return self._token

    @token.setter
    def token(self, token: str | None) -> None:
        """Use another token from now on."""
        if token is not None and not (token.isascii() and token.isprintable() and token.strip()):
            raise Misconfigured("This is not a token: a token is one line of letters and digits. Nothing was changed.")
        self._token = token

    async def open(self) -> None:
        """Make ready; connects to nobody yet."""
        self.confinement.begin()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_S),  # streams must not starve requests
            cookie_jar=aiohttp.DummyCookieJar(),
            middlewares=[_once],
            headers={"accept": "application/json"},
        )

    async def close(self) -> None:
        """End every connection."""
        self.notices.close()
        if self._session is not None:
            await self._session.close()
        for said in list(self._reading):  # the session's close does not wake those who read
            said.close()

    @property
    def is_open(self) -> bool:
        """Whether anything can be asked."""
        return self._session is not None and not self._session.closed

    async def ask(
        self,
        method: str,
        path: str,
        body: Any = UNSET,
        *,
        about: str,
        headers: Mapping[str, str] | None = None,
        repeatable: bool = True,
        told: Callable[[str], None] | None = None,
        only: str | UnsetType | None = UNSET,
        removes: bool = False,
    ) -> Answer:
        """
        Make one request and return its answer; it is made again while it fails in a way that passes, and is *repeatable* or was
        certainly not done.

        Ends within the timeout. With *told* it never gives up, not even for want of a valid token, and tells what is
        in the way. With *only* it is sent with that token or not at all: `TokenChanged` when there is another. What
        *removes* something that is not there any more after an attempt without an answer has removed it; the answer
        is empty then.
        """
        raw = None if body is UNSET else encode(body, about)
        doubt = False

        def again(fault: BaseException) -> bool:
            nonlocal doubt
            if not isinstance(fault, TemporaryFailure):
                return False
            doubt = doubt or not fault.certain
            if told is not None:
                told(str(fault.error))
            return repeatable or fault.certain

        began = time.monotonic()
        try:
            async for attempt in AsyncRetrying(
                retry=retry_if_exception(again),
                wait=_pause,
                stop=stop_never if told else stop_before_delay(self.timeout_s),
                reraise=True,
            ):
                with attempt:
                    self.statistics.repeated += attempt.retry_state.attempt_number > 1
                    left = self._attempt_s if told else began + self.timeout_s - time.monotonic()
                    within = aiohttp.ClientTimeout(total=min(self._attempt_s, max(left, 0.05)), sock_connect=CONNECT_S)
                    async with self._request(
                        method, path, raw, headers or {}, within, about, told is not None, only
                    ) as said:
                        body = await _whole(said, about)
                        self.statistics.received_bytes += len(body)
                        return Answer(said.headers, body, doubt)
        except (Unauthorized, Forbidden, NotFound) as refused:
            if doubt and removes and isinstance(refused, NotFound):
                return Answer({}, b"", doubt)
            if doubt:  # what was done the first time may be the very reason
                raise Uncertain(f"{refused} An earlier attempt was not answered. {HAPPENED}") from refused
            raise
        except TemporaryFailure as last:
            error = last.error
            if last.away:
                self.notices.note_away(str(error), given_up=True)
            if method == "GET" and isinstance(error, Uncertain):
                error = Unavailable(f"{about}: {last.__cause__ or error}. Nothing was read. Try again later.")
            elif doubt and not isinstance(error, Uncertain):
                error = Uncertain(f"{error} An earlier attempt was not answered. {HAPPENED}")
            raise error from last.__cause__
        raise AssertionError("tenacity ends with an answer or an error")

    async def lines(self, path: str, *, about: str) -> AsyncIterator[bytes]:
        """Give the lines of an answer as they come, each with its end; it is asked for once. Raises `Unavailable` when it breaks off."""
        within = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=SILENCE_S)
        held = bytearray()
        try:
            async with self._request("GET", path, None, {"accept": "*/*"}, within, about, False) as said:
                async for chunk in said.content.iter_any():
                    *ends, left = chunk.split(b"\n")
                    for end in ends:
                        yield bytes(held) + end + b"\n"
                        held.clear()
                    held += left
                    if len(held) > LONGEST_ANSWER:
                        raise ChatkeepError(
                            f"{about}: a line is longer than {LONGEST_ANSWER:,} bytes, and is not read on."
                        )
        except TemporaryFailure as fault:
            raise Unavailable(f"{about}: {fault.__cause__ or fault.error}. What was read is not all of it.") from fault
        if held:
            yield bytes(held)

    @asynccontextmanager
    async def stream(self, path: str, last: int | str, about: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """Return the chunks of an event stream, from behind the event with the id *last*, a number or cursor. Raises `TemporaryFailure`."""
        headers = {"accept": "text/event-stream", "last-event-id": str(last)}
        within = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=SILENCE_S)
        async with self._request("GET", path, None, headers, within, about, False) as said:
            self.statistics.streams += 1
            try:
                yield said.content.iter_any()
            finally:
                self.statistics.streams -= 1

    @asynccontextmanager
    async def _request(
        self,
        method: str,
        path: str,
        raw: bytes | None,
        headers: Mapping[str, str],
        within: aiohttp.ClientTimeout,
        about: str,
        patient: bool,
        only: str | UnsetType | None = UNSET,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        if self._session is None or self._session.closed:
            raise NotOpen(f"{about}: the client is not open; nothing was done. Use it in `async with Client(...)`.")
        self.confinement.check(about)
        if only is not UNSET and only != self.token:
            raise TokenChanged
        headers = {"content-type": "application/json", **headers} if raw is not None else dict(headers)
        if self.token:
            headers["authorization"] = f"Bearer {self.token}"
        address = URL(self.url + path, encoded=True)
        counted, began = self.statistics, time.monotonic()
        counted.requests += 1
        counted.sent_bytes += len(raw or b"")
        asking = self._session.request(
            method, address, data=raw, headers=headers, timeout=within, allow_redirects=False
        )
        with self._telling_failures(method, path, about):
            async with asking as said:
                counted.note_time(time.monotonic() - began)
                log.debug("%s %s: %d after %.3f s", method, path, said.status, time.monotonic() - began)
                if said.status >= 300:
                    counted.refused += 1
                    raise self._refused(said, await _whole(said, about), about, patient)
                if said.content_type == "text/html":
                    counted.refused += 1
                    raise self._away(answered_by_another(said.status, about), patient)
                self.notices.note_back()
                self._reading.add(said)
                try:
                    yield said
                finally:
                    self._reading.discard(said)

    @contextmanager
    def _telling_failures(self, method: str, path: str, about: str) -> Iterator[None]:
        """Raise `TemporaryFailure` for what keeps a request from its answer, and note that."""
        try:
            yield
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as fault:
            self._note_unanswered(method, path, fault, away=True)
            raise TemporaryFailure(Unavailable(f"{about}: {_words(fault)}. {NOTHING}"), certain=True) from fault
        except (aiohttp.ClientError, _Broken, TimeoutError, OSError) as fault:
            # An attempt that took too long may be a bot that takes its time.
            away = isinstance(fault, aiohttp.ClientError | _Broken | OSError) and type(fault) is not TimeoutError
            self._note_unanswered(method, path, fault, away=away)
            uncertain = Uncertain(f"{about}: {_words(fault)}. {HAPPENED}")
            raise TemporaryFailure(uncertain, certain=False, away=away) from fault

    def _refused(self, said: aiohttp.ClientResponse, body: bytes, about: str, patient: bool) -> Exception:
        """Return what is raised for an answer that is no yes, and note what it says of the server and the token."""
        error, passes = refusal(said.status, body, about)
        if isinstance(error, Unavailable) and not passes:
            return self._away(error, patient)
        if away := said.status in AWAY:
            self.notices.note_away(str(error))
        else:
            self.notices.note_back()
        if isinstance(error, Unauthorized) and said.request_info.headers.get("authorization") == f"Bearer {self.token}":
            self.notices.note_refused()
        if passes or (patient and isinstance(error, Unauthorized)):
            after = _seconds(said.headers.get("retry-after", ""))
            return TemporaryFailure(error, certain=not isinstance(error, Uncertain), after=after, away=away)
        return error

    def _away(self, error: Unavailable, patient: bool) -> Exception:
        """Return what is raised where the server was not reached, though something has answered."""
        self.notices.note_away(str(error))
        return TemporaryFailure(error, certain=True) if patient else error

    def _note_unanswered(self, method: str, path: str, fault: BaseException, *, away: bool) -> None:
        self.statistics.unanswered += 1
        log.debug("%s %s: %s", method, path, _words(fault))
        if away and self.is_open:  # (a client that is being closed breaks its own connections)
            self.notices.note_away(_words(fault))


async def _whole(said: aiohttp.ClientResponse, about: str) -> bytes:
    raw = bytearray()
    while more := await said.content.read(LONGEST_ANSWER + 1 - len(raw)):
        raw += more
        if len(raw) > LONGEST_ANSWER:
            raise ChatkeepError(
                f"{about}: the server's answer is longer than {LONGEST_ANSWER:,} bytes and was thrown away. {HAPPENED}"
            )
    return bytes(raw)


def encode(value: Any, about: str) -> bytes:
    """Return JSON as every reader understands it. Raises `BadMessage`."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (ValueError, TypeError, RecursionError) as fault:
        raise BadMessage(f"{about}: this is not JSON that every store keeps ({fault}); nothing was sent.") from fault


def pause(failures: int, *, first: float = FIRST_PAUSE_S) -> float:
    """Tell how long to wait after so many failures in a row: twice as long each time, and never all clients together."""
    return random.uniform(0.5, 1.0) * min(first * 2.0 ** min(failures - 1, 10), LONGEST_PAUSE_S)


def _pause(state: RetryCallState) -> float:
    fault = state.outcome.exception() if state.outcome else None
    return pause(state.attempt_number) + (fault.after if isinstance(fault, TemporaryFailure) else 0.0)


class _Broken(Exception):
    """A connection that ended in the middle."""


async def _once(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    # aiohttp repeats a PUT or DELETE by itself when a kept connection breaks; whoever asked must know of that.
    try:
        return await handler(request)
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as fault:
        raise _Broken(_words(fault)) from fault


def _words(fault: BaseException) -> str:
    return str(fault) or {"TimeoutError": "no answer in time"}.get(type(fault).__name__, type(fault).__name__)


def _seconds(told: str) -> float:
    if told.isdecimal():
        return float(told)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(told).timestamp() - time.time()) if told else 0.0
    except ValueError:
        return 0.0
