"""Durable Streams 1.0, its read side: what clients of that protocol follow, and go on with anywhere from an offset.

    app = Starlette(routes=durable_streams.routes(keep), lifespan=...)    # or create_app(keep, protocols=["durable_streams"])

There it answers:

    GET, HEAD /streams/{id}/messages             the log of a conversation: JSON, an item a message
    GET, HEAD /streams/{id}/answers/{number}     the text of the answer to message {number}, as it is made; then the stream is closed

`offset=`, `live=long-poll`, `live=sse` and `cursor=` are as the protocol has them. An offset is a number of the log, or a number of
characters: whatever anybody was shown of an answer is the beginning of what is recorded, so every instance gives the same text
behind the same offset. Streams are written by talking to the bot, and by no method of this protocol.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from hashlib import blake2b
from typing import Any, Literal, Protocol, cast

import msgspec
from msgspec import Struct, structs
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from ...app import Chatkeep, core_of
from ...engine.watch import Watch
from ...errors import StoreError
from ...model import ASKING, Erased, Failing, Message, Role
from .. import answers, wire
from ..refusals import not_found
from ..streams import BEAT_S, RETRY, Stream, gone, listed_open
from .answer_stream import AnswerStream, BlockBegan, BlockGrew, Ended, write_time
from .entrance import Authorize, Caller, Entrance, Refusal
from .sse import BEAT, losing_right

PATH = "/streams"

LONG_POLL_S = 20.0
"""So long a long poll waits for something new."""

LASTS_S = 60.0
"""So long a stream of events stays open; its client comes back with the offset that it has."""

AGAIN_S = 1.0
"""So soon an answer that nobody makes at the moment is looked at again while a client waits for it."""

EPOCH, INTERVAL_S, JITTER = 1_728_432_000, 20, 180
"""Cursors: since when intervals are counted (9 October 2024), how long one is, and how far one is ahead at most where it has to be."""

DIGITS = 16
CLOSED = ("answered", "dropped", "failed")
"""The statuses of a message to whose answer nothing will ever be added."""

STATUS = "chatkeep-status"
"""The header that says how it stands with an answer."""

SAFE = {"cache-control": "no-store", "x-content-type-options": "nosniff", "cross-origin-resource-policy": "same-origin"}
"""What every answer says to browsers and caches: a conversation is confidential."""


def routes(keep: Chatkeep[Any], *, path: str = PATH, authorize: Authorize | None = None) -> list[BaseRoute]:
    """
    Return the routes of Durable Streams over *keep*, to mount.

    Args:
        path: What the addresses of streams begin with.

        authorize: Says, in an application of your own, who may read a conversation: see `Authorize`. Without it, chatkeep's own
            credentials are asked for, and from this machine none.
    """
    entrance = Entrance(keep, refuse=refuse, authorize=authorize)

    @entrance.guards("read")
    async def messages(request: Request) -> Response:
        """Give the log, or a part of it."""
        caller = await entrance.admit(request, request.path_params["id"])
        caller.refuse_stranger()
        return await give(request, caller, Log(caller))

    @entrance.guards("read")
    async def answer(request: Request) -> Response:
        """Give the text of an answer, or a part of it."""
        try:
            number = wire.whole(request.path_params["number"])
        except ValueError:
            raise not_found() from None
        caller = await entrance.admit(request, request.path_params["id"])
        await caller.find_message(number, cast("Sequence[Role]", tuple(ASKING)))
        return await give(request, caller, Answer(caller, number))

    return [
        wire.RawRoute(path + "/{id}/messages", messages, methods=["GET"]),
        wire.RawRoute(path + "/{id}/answers/{number}", answer, methods=["GET"]),
    ]


def refuse(refusal: Refusal) -> Response:
    """Tell a refusal."""
    told = {"code": refusal.word.replace("-", "_").upper(), "message": refusal.detail}
    return wire.as_json({"error": told}, status=refusal.status, headers={**refusal.headers, **SAFE})


# -- what is asked ------------------------------------------------------------------------------------------------------


class Asked(Struct, frozen=True):
    """What a client asks for. *at*: from where on, None: from now on; *live*: how it wants what comes later, "": not at all."""

    at: int | None
    live: Literal["", "long-poll", "sse"]
    cursor: int


def read_query(request: Request) -> Asked:
    """Return what a request asks for. Raises 400; parameters of extensions are passed over."""
    given = request.query_params.multi_items()
    offsets = [value for name, value in given if name == "offset"]
    live, cursor = request.query_params.get("live", ""), request.query_params.get("cursor", "")
    offset = offsets[0] if offsets else "-1"
    if len(offsets) > 1 or not (offset in ("-1", "now") or re.fullmatch(rf"[0-9]{{{DIGITS}}}", offset)):
        raise HTTPException(400, "`offset` is -1, now, or an offset that this stream has given.")
    if live not in ("", "long-poll", "sse"):
        raise HTTPException(400, "`live` is long-poll or sse.")
    if live and not offsets:
        raise HTTPException(400, f"live={live} goes on from an `offset`, which is not here.")
    known = int(cursor) if re.fullmatch(r"[0-9]{1,15}", cursor) else 0
    return Asked(None if offset == "now" else max(int(offset), 0), cast("Any", live), known)


def write_offset(at: int) -> str:
    """Return an offset as text; texts are in the order of the offsets."""
    return f"{at:0{DIGITS}d}"


def next_cursor(known: int, now: float) -> str:
    """Return the cursor that a client sends along next time, always another one than it has: a cache shall not answer it for ever."""
    current = int((now - EPOCH) // INTERVAL_S)
    return str(current if current > known else known + 1 + secrets.randbelow(JITTER))


# -- what there is ------------------------------------------------------------------------------------------------------


class Page(Struct, frozen=True):
    """What a stream has from an offset on. *next*: the offset behind it; *whole*: there is no more now; *closed*: nor ever."""

    body: bytes
    next: int
    whole: bool = True
    closed: bool = False


class Source(Protocol):
    """One stream: the log of a conversation, or the text of an answer. *status*: how it stands with that, as far as it is known."""

    media: str
    status: str

    async def find_tail(self) -> Page:
        """Return where it ends now, without anything of it."""
        ...

    async def read(self, at: int) -> Page:
        """Return what it has from *at* on, or a part of that. Raises 400 for an offset behind its end, 404, and 410."""
        ...

    def follow(self, at: int) -> AsyncGenerator[Page | None, None]:
        """Give what comes behind *at*, as it comes; None now and then while nothing does. Ends when the conversation does."""
        ...

    def stop(self) -> None:
        """Have `follow` end."""
        ...


class Log:
    """The log of a conversation: an item for each message, an offset for each number."""

    media = "application/json"
    status = ""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._watch: Watch | None = None
        self._stopped = False

    async def find_tail(self) -> Page:
        """Return where the log ends."""
        found = await self._caller.tenant.conversation(self._caller.conversation, messages=0)
        if found is None:
            raise not_found()
        return Page(b"[]", found.head)

    async def read(self, at: int) -> Page:
        """Return the messages behind *at*, or the first of them."""
        head = (await self.find_tail()).next
        if at > head:
            raise beyond(at)
        oldest = [m async for m in self._caller.tenant.history(self._caller.conversation, after=at, limit=1)]
        if at and at < head and (not oldest or oldest[0].number > at + 1):  # (the log has no gaps but at its beginning)
            raise HTTPException(410, "What was at this offset is kept no longer; offset=-1 gives what is.")
        window = wire.LogWindow(after=at, limit=wire.PAGE_MOST)
        found, cut = await self._caller.read_log(window)
        whole = not cut and len(found) < wire.PAGE_MOST
        last = found[-1].number if found else at
        return Page(items(found), max(last, head) if whole else last, whole)

    async def follow(self, at: int) -> AsyncGenerator[Page | None, None]:
        """Give messages as they come into the log."""
        core = core_of(self._caller.access.keep)
        self._watch = core.watch(self._caller.tenant.name, self._caller.conversation, after=at)
        if self._stopped:
            return
        async with self._watch as watch:
            while not self._stopped:
                try:
                    events = await watch.next(BEAT_S)
                except StoreError:  # nothing is left out: it goes on from there
                    await asyncio.sleep(1.0)
                    continue
                if events is None:
                    return
                if found := [event for event in events if isinstance(event, Message)]:
                    assert watch.number is not None
                    yield Page(items(found), watch.number)
                elif not events:
                    yield None
                if any(isinstance(event, Erased) for event in events):
                    return

    def stop(self) -> None:
        """Have `follow` end."""
        self._stopped = True
        if self._watch is not None:
            self._watch.wake.set()


class Answer:
    """The text of the answer to message *number*: its texts one after another, a blank line between them; offsets are characters."""

    media = "text/plain; charset=utf-8"

    def __init__(self, caller: Caller, number: int) -> None:
        self._caller, self._number = caller, number
        self.status = ""
        self._answer: AnswerStream | None = None
        self._stopped = asyncio.Event()

    async def find_tail(self) -> Page:
        """Return how long the answer is now, and whether that is all of it."""
        text, closed = await self._now()
        return Page(b"", len(text), closed=closed)

    async def read(self, at: int) -> Page:
        """Return the text behind *at*."""
        text, closed = await self._now()
        if at > len(text):
            raise beyond(at)
        return Page(text[at:].encode(), len(text), closed=closed)

    async def follow(self, at: int) -> AsyncGenerator[Page | None, None]:
        """Give the text as it is said, until it is whole."""
        while not self._stopped.is_set():
            self._answer = self._caller.answer(self._number)
            said, ended = 0, Ended("closing")
            async with aclosing(texts(self._answer)) as grown:
                async for step in grown:
                    self._note(step)
                    if isinstance(step, Ended):
                        ended = step
                    elif step is None or isinstance(step, Failing):
                        yield None
                    elif (said := said + len(step)) > at:
                        news = step[max(at - said, -len(step)) :]
                        at = said
                        yield Page(news.encode(), at)
            if ended.status in CLOSED:
                yield Page(b"", at, closed=True)
                return
            if ended.status == "erased":
                return
            with suppress(TimeoutError):  # the bot is paused, or nobody answers here: perhaps later
                await asyncio.wait_for(self._stopped.wait(), AGAIN_S)
            yield None

    def stop(self) -> None:
        """Have `follow` end."""
        self._stopped.set()
        if self._answer is not None:
            self._answer.stop()

    async def _now(self) -> tuple[str, bool]:
        """Return the text that the answer has now, and whether it is whole."""
        text = ""
        async with aclosing(texts(self._caller.answer(self._number), waits=False)) as grown:
            async for step in grown:
                self._note(step)
                text += step if isinstance(step, str) else ""
        if self.status == "erased":
            raise not_found()
        return text, self.status in CLOSED

    def _note(self, step: str | Failing | Ended | None) -> None:
        """Note how it stands with the answer after *step*."""
        match step:
            case Ended(status=status):
                self.status = status
            case Failing(attempts=attempts, retry_at=at):
                self.status = f"failing; attempts={attempts}; retry-at={write_time(at)}"
            case str():
                self.status = ""


async def texts(answer: AnswerStream, *, waits: bool = True) -> AsyncGenerator[str | Failing | Ended | None, None]:
    """Give the text of an answer as it grows, that attempts at it fail, and how it ends; None for a beat."""
    begun = False
    async with aclosing(cast("AsyncGenerator[Any, None]", answer.steps(waits=waits))) as steps:
        async for step in steps:
            match step:
                case BlockBegan(kind="text"):
                    if begun:
                        yield "\n\n"
                    begun = True
                case BlockGrew(kind="text", text=text):
                    yield text
                case Failing() | Ended() | None:
                    yield step


def items(messages: Sequence[Message]) -> bytes:
    """Return messages as the items of a stream."""
    return msgspec.json.encode([answers.message(message) for message in messages if message.role != "system"])


def beyond(at: int) -> HTTPException:
    """Return the refusal of an offset that the stream has not given."""
    return HTTPException(400, f"The stream has not come as far as offset {write_offset(at)}.")


# -- what goes out ------------------------------------------------------------------------------------------------------


async def give(request: Request, caller: Caller, source: Source) -> Response:
    """Answer a request for a stream."""
    asked, now = read_query(request), core_of(caller.access.keep).clock()
    if request.method == "HEAD" or (asked.at is None and not asked.live):
        return show(request, source, await source.find_tail(), now_only=True)
    page = await (source.find_tail() if asked.at is None else source.read(asked.at))
    cursor = next_cursor(asked.cursor, now)
    if asked.live == "sse":
        return EventStream(request, caller, source, page, cursor)
    begun = page.next if asked.at is None else asked.at
    if asked.live == "long-poll" and page.next == begun:
        if not page.closed:
            page = await Waiting(request, source).wait(page)
        if page.next == begun:
            told = heads(source, page) | {"stream-cursor": cursor, "stream-up-to-date": "true"}
            return Response(status_code=204, headers=told)
    return show(request, source, page, cursor=cursor, begun=begun)


def show(
    request: Request, source: Source, page: Page, *, cursor: str = "", begun: int = 0, now_only: bool = False
) -> Response:
    """Return a page as an answer."""
    told = heads(source, page) | ({"stream-cursor": cursor} if cursor else {})
    if not now_only:
        mark = blake2b(page.body, digest_size=8).hexdigest()  # (what a message said may be removed)
        told["etag"] = f'"{write_offset(begun)}:{write_offset(page.next)}:{mark}{"c" * page.closed}"'
        if request.headers.get("if-none-match") == told["etag"]:
            return Response(status_code=304, headers=told)
    return Response(b"" if request.method == "HEAD" else page.body, headers=told)


def heads(source: Source, page: Page) -> dict[str, str]:
    """Return what the headers say of a page."""
    told = SAFE | {"content-type": source.media, "stream-next-offset": write_offset(page.next)}
    told |= {"stream-up-to-date": "true"} if page.whole else {}
    told |= {STATUS: source.status} if source.status else {}
    return told | ({"stream-closed": "true"} if page.whole and page.closed else {})


class Waiting:
    """A long poll, which ends early when the server stops or the client goes."""

    def __init__(self, request: Request, source: Source) -> None:
        self._request, self._source = request, source

    def end(self, reason: str) -> None:
        """End the poll early."""
        self._source.stop()

    async def wait(self, page: Page) -> Page:
        """Wait for something behind *page*; as it was, if nothing comes."""
        with listed_open(self._request, self):
            leaving = asyncio.create_task(gone(self._request.receive), name="chatkeep long poll left")
            leaving.add_done_callback(lambda _: self._source.stop())
            try:
                async with asyncio.timeout(LONG_POLL_S), aclosing(self._source.follow(page.next)) as coming:
                    async for news in coming:
                        if news is not None:
                            return news
            except TimeoutError:
                pass
            finally:
                leaving.cancel()
        return page


class EventStream(Stream):
    """A stream as server-sent events, from *page* on: what it has, then the offset behind it, again and again."""

    def __init__(self, request: Request, caller: Caller, source: Source, page: Page, cursor: str) -> None:
        super().__init__(request, SAFE | {"cache-control": "no-store, no-transform"})
        self._caller, self._source, self._page, self._cursor = caller, source, page, cursor
        self._held = b""  # the half of an end of a line

    def end(self, reason: str) -> None:
        """End the stream, because the server stops."""
        self._source.stop()

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """Give the events."""
        yield RETRY
        page = self._page
        yield self._written(page)
        while not page.whole:
            page = await self._source.read(page.next)
            yield self._written(page)
        if page.closed:
            return
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + LASTS_S
        async with losing_right(self._caller, self._source.stop), aclosing(self._source.follow(page.next)) as coming:
            async for found in coming:
                yield self._beat() if found is None else self._written(found)
                if loop.time() > ends_at:
                    return

    def _beat(self) -> bytes:
        """Return a comment that says that it goes on, and how it stands."""
        return b": %s\n\n" % self._source.status.encode() if self._source.status else BEAT

    def _written(self, page: Page) -> bytes:
        """Return a page as events. The first half of an end of a line (CR LF) waits for what comes behind it, as does its offset: else it
        would be an end of a line, and the other half another one."""
        page = structs.replace(page, body=self._held + page.body)
        self._held = b"\r" if page.body.endswith(b"\r") and not page.closed else b""
        if self._held:
            page = structs.replace(page, body=page.body[:-1], next=page.next - 1)
        told: dict[str, Any] = {"streamNextOffset": write_offset(page.next)}
        if page.closed and page.whole:
            told |= {"streamClosed": True, "upToDate": True}
        else:
            told |= {"streamCursor": self._cursor} | ({"upToDate": True} if page.whole else {})
        control = b"event: control\ndata: %s\n\n" % msgspec.json.encode(told)
        if page.closed:
            control = self._beat() + control
        if page.body in (b"", b"[]"):
            return control
        # (Each end of a line that readers of events know ends a line here; else a text could end its event, and begin another.)
        lines = re.split(b"\r\n|\r|\n", page.body)
        return b"event: data\n" + b"".join(b"data: %s\n" % line for line in lines) + b"\n" + control
