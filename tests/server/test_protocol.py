"""What of a request is not its body has one budget and one deadline; connections mix nothing up, whatever a client sends."""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
import tomllib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, NamedTuple
from urllib.request import urlopen

import psutil
import pytest
import uvicorn
from packaging.requirements import Requirement
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from chatkeep import Chatkeep, Turn
from chatkeep.server import create_app, protocol, wire

from ..support.bots import echoing
from ..support.service import BOT, Service, service
from ..support.serving import Answer, Client, answer_from, path_of, served, serving
from ..support.waiting import nothing_happens_for, takes, time_passes, until

HURRIED = "from chatkeep.server import protocol, wire\nprotocol.HEAD_S = wire.PATIENCE_S = 1.0\n" + BOT
MOST_MB = 30.0
"""What the server's memory may grow by while a client floods it."""


FLOOD = 64_000_000
"""What a client sends if nobody stops it."""


HOST = b"Host: localhost\r\n"
GET = b"GET /healthz HTTP/1.1\r\n" + HOST
WHOLE = GET + b"\r\n"
POST = b"POST /v1/conversations HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
BODY = CHUNKED + b"2\r\n{}\r\n"


WAITS = b"POST /v1/conversations/ada/messages HTTP/1.1\r\n" + HOST


class Element(NamedTuple):
    """Something of a request that a client goes on with for ever. said: the statuses that it is answered with."""

    opening: bytes
    then: bytes
    said: tuple[int, ...]


ELEMENTS = {
    "address": Element(b"GET /", b"a", (431,)),
    "segments of the address": Element(b"GET ", b"/a", (431,)),
    "parameters of the query": Element(b"GET /healthz?", b"a=b&", (431,)),
    "blank lines first": Element(b"", b"\r\n", (431,)),
    "blank lines after a request": Element(WHOLE, b"\r\n", (200,)),
    "headers": Element(GET, b"X-A: " + b"b" * 995 + b"\r\n", (431,)),
    "headers of nothing": Element(GET, b"a:\r\n", (431,)),
    "a header's name": Element(GET, b"a", (431,)),
    "a header's value": Element(GET + b"A: ", b"b", (431,)),
    "a token": Element(GET + b"Authorization: Bearer ", b"b", (431,)),
    "cookies": Element(GET + b"Cookie: ", b"a=b; ", (431,)),
    "headers on a kept connection": Element(WHOLE + GET, b"X-A: b\r\n", (200, 431)),
    "zeros of a chunk's size": Element(CHUNKED, b"0", (413,)),
    "a chunk's extension": Element(CHUNKED + b"2;a=", b"b", (413,)),
    "extensions of a chunk": Element(CHUNKED + b"2", b";a=b", (413,)),
    "chunks of one byte": Element(CHUNKED, b"1\r\n \r\n", (413,)),
    "chunks with extensions": Element(CHUNKED, b"1;abc=def\r\n \r\n", (413,)),
    "zeros after 100 Continue": Element(CHUNKED.replace(HOST, HOST + b"Expect: 100-continue\r\n"), b"0", (100, 413)),
    "trailers": Element(BODY + b"0\r\n", b"X-A: " + b"b" * 995 + b"\r\n", (413,)),
    "trailers of nothing": Element(BODY + b"0\r\n", b"a:\r\n", (413,)),
    "a trailer's name": Element(BODY + b"0\r\n", b"a", (413,)),
    "a trailer's value": Element(BODY + b"0\r\nA: ", b"b", (413,)),
    "trailers on a kept connection": Element(WHOLE + BODY + b"0\r\n", b"X-A: b\r\n", (200, 413)),
    "trailers of what is answered": Element(
        b"GET /healthz HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X-A: b\r\n", (200,)
    ),
    "a body": Element(CHUNKED + b"fffffff\r\n", b"a", (413,)),
    "a body that nobody reads": Element(WAITS + b"Content-Length: 999999999\r\n\r\n", b"a", (401,)),
    "what follows an upgrade": Element(GET + b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\n", b"a", (200,)),
    "what follows an upgrade with a body": Element(
        CHUNKED.replace(HOST, HOST + b"Connection: upgrade\r\nUpgrade: h2c\r\n"), b"1\r\n \r\n", (400,)
    ),
    "a method": Element(b"", b"A", (400,)),
    "what follows the end of a connection": Element(GET + b"Connection: close\r\n\r\n", WHOLE, (200,)),
}
"""One line for each element that has no end by itself."""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A server of its own process, with a deadline of a second."""
    with service(tmp_path_factory.mktemp("framing"), url="memory://", bot=HURRIED, anonymous="true") as running:
        with urlopen(f"http://127.0.0.1:{running.port}/healthz", timeout=20):
            pass
        yield running


class Talk:
    """What a client on a connection of its own has sent, and what it heard."""

    def __init__(self) -> None:
        self.sent = 0
        self.heard = bytearray()
        self.took_s = 0.0

    @property
    def said(self) -> tuple[int, ...]:
        """The statuses of the answers."""
        return tuple(int(status) for status in re.findall(rb"HTTP/1\.1 (\d+)", self.heard))


async def talk(port: int, opening: bytes, then: bytes, *, pause_s: float = 0.0, most: int = FLOOD) -> Talk:
    """Sends *opening*, and *then* again and again, until the server hangs up or *most* bytes are sent."""
    told = Talk()
    began = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def listen() -> None:
        with suppress(ConnectionError):  # hanging up on one who still talks may be a reset
            while heard := await reader.read(65536):
                told.heard += heard

    listening = asyncio.create_task(listen())
    try:
        writer.write(opening)
        await takes(0.05)
        while not listening.done() and told.sent < most:
            writer.write(then)
            told.sent += len(then)
            with suppress(ConnectionError):
                await writer.drain()
            await asyncio.wait([listening], timeout=pause_s)
        await asyncio.wait([listening], timeout=10)
    finally:
        listening.cancel()
        writer.close()
    told.took_s = time.monotonic() - began
    return told


class Watched:
    """How a server fares meanwhile."""

    memory_mb = 0.0
    longest_s = 0.0
    served = 0


@asynccontextmanager
async def watched(running: Service) -> AsyncIterator[Watched]:
    """Asks the server something again and again, and looks at its memory."""
    process, client, found = psutil.Process(running.process.pid), running.client(), Watched()
    before = process.memory_info().rss

    async def look() -> None:
        while True:
            began = time.monotonic()
            assert 200 == (await client.ask("GET", "/healthz")).status
            found.longest_s = max(found.longest_s, time.monotonic() - began)
            found.memory_mb = max(found.memory_mb, (process.memory_info().rss - before) / 1e6)
            found.served += 1
            await asyncio.sleep(0.01)

    looking = asyncio.create_task(look())
    try:
        yield found
        await until(lambda: found.served or looking.done())  # (what was quick has ended before the first answer)
        if looking.done():
            looking.result()
    finally:
        looking.cancel()


@pytest.mark.parametrize("element", ELEMENTS.values(), ids=ELEMENTS)
async def test_what_has_no_end_is_cut_off(running: Service, element: Element) -> None:
    """Sent as fast as possible: it is refused, the connection is closed, memory stays as it was, others are served."""
    portion = element.then * (64_000 // len(element.then))
    async with watched(running) as found:
        for _ in range(3):  # the reset of a connection that is still flooded may overtake an answer
            told = await talk(running.port, element.opening, portion)
            if len(told.said) >= len(element.said):
                break

    assert element.said == told.said[: len(element.said)]
    assert told.sent < FLOOD or told.took_s < 10
    assert found.memory_mb < MOST_MB
    assert found.longest_s < 2.0


async def test_what_comes_byte_by_byte_has_a_deadline(running: Service) -> None:
    """Each element, a portion at a time and for ever: every connection is closed soon, and has taken next to nothing."""
    async with watched(running) as found:
        told = await asyncio.gather(
            *(talk(running.port, element.opening, element.then[:1], pause_s=0.05) for element in ELEMENTS.values()),
            talk(running.port, b"", b"", pause_s=0.05),
            talk(running.port, b"GET /hea", b"", pause_s=0.05),
            talk(running.port, POST + b"Content-Length: 2\r\n\r\n", b"", pause_s=0.05),
        )
        took_s = dict(
            zip([*ELEMENTS, "silence", "half a request line", "no body"], (one.took_s for one in told), strict=True)
        )

    assert {} == {name: spent_s for name, spent_s in took_s.items() if spent_s > 5}
    assert [(), (408,), (408,)] == [one.said for one in told[-3:]]
    assert found.memory_mb < MOST_MB


async def test_requests_that_wait_are_few(running: Service) -> None:
    """Ten thousand requests behind one that takes its time: that one is answered, and nothing of the others is kept."""
    slow = json.dumps({"content": "wait"}).encode()
    begun = await running.client().ask("POST", "/v1/conversations", b"{}")
    token = begun.json["token"]
    post = (
        b"POST %s HTTP/1.1\r\n" % path_of(begun.json["id"]).encode()
        + HOST
        + b"Authorization: Bearer %s\r\nContent-Type: application/json\r\n" % token.encode()
        + b"Content-Length: %d\r\n\r\n" % len(slow)
        + slow
    )
    async with watched(running) as found:
        told = await asyncio.gather(*(talk(running.port, post, WHOLE * 10_000) for _ in range(3)))

    assert [(200,)] * 3 == [one.said for one in told]
    assert found.memory_mb < MOST_MB
    assert found.longest_s < 2.0


async def test_a_few_requests_may_wait() -> None:
    """As many as may wait are answered one after the other."""
    async with served(parrot()) as client:
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
        writer.write(WHOLE * (protocol.WAITING_MOST + 1))
        answers = [await answer_from(reader) for _ in range(protocol.WAITING_MOST + 1)]
        writer.close()

    assert {200} == {answer.status for answer in answers}


TRAILERS = {
    "Authorization": "Bearer {key}",
    "Origin": "http://localhost",
    "Host": "evil.example",
    "Content-Type": "application/json",
    "Expect": "100-continue",
    "Cookie": "__Host-chatkeep=x",
    "X-Forwarded-For": "10.0.0.1",
    "X-Forwarded-Proto": "https",
    "Idempotency-Key": '"mine"',
    "If-Match": "*",
    "If-None-Match": "*",
    "Prefer": "respond-async",
    "Last-Event-ID": "5",
    "Sec-Fetch-Site": "same-origin",
    "Sec-Fetch-Mode": "navigate",
    "X-Request-ID": "mine",
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
}
"""Each header that something here looks at."""


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Says which headers a request has when its body has come."""
    if scope["type"] == "lifespan":
        while (message := await receive())["type"] != "lifespan.shutdown":
            await send({"type": f"{message['type']}.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    while (await receive()).get("more_body"):
        pass
    body = json.dumps([[name.decode(), value.decode()] for name, value in scope["headers"]]).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


@pytest.mark.parametrize("packets", [1, 2, 3], ids=["in one packet", "trailers apart", "on a kept connection"])
@pytest.mark.parametrize("name", TRAILERS)
async def test_a_trailer_is_no_header(name: str, packets: int) -> None:
    """Neither of its request nor of the next one, however they come."""
    head = b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"
    trailer = f"{name}: {TRAILERS[name]}\r\n\r\n".encode()
    async with serving(echo) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        first: Any = None
        for packet in {1: [head + trailer + WHOLE], 2: [head, trailer + WHOLE], 3: [head, trailer, WHOLE]}[packets]:
            writer.write(packet)
            await takes(0.02)
        first, second = [await answer_from(reader) for _ in range(2)]
        writer.close()

    assert [["host", "localhost"], ["transfer-encoding", "chunked"]] == first.json
    assert [["host", "localhost"]] == second.json


@pytest.mark.parametrize(
    "trailer",
    [
        "Content-Length: 1",
        "Transfer-Encoding: identity",
        "Connection: close",
        "Connection: upgrade\r\nUpgrade: x",
        "Upgrade: x",
        "Proxy-Connection: close",
    ],
)
async def test_a_trailer_that_the_parser_would_obey_is_refused(trailer: str) -> None:
    """The request is not served, and neither is what comes after it."""
    head = b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"
    async with serving(echo) as port:
        told = await talk(port, head + trailer.encode() + b"\r\n\r\n" + WHOLE, WHOLE, most=len(WHOLE))

    assert (400,) == told.said
    assert told.took_s < 5


def parrot() -> Chatkeep[Any]:
    """A Chatkeep whose bot says the message's text."""
    keep: Chatkeep[Any] = Chatkeep("memory://")

    @keep.on_message
    async def bot(turn: Turn[Any]) -> str:
        return turn.text

    return keep


@pytest.mark.parametrize("without", ["Authorization", "Content-Type", "Host", "Idempotency-Key", "Sec-Fetch-Site"])
async def test_a_trailer_opens_no_door(without: str) -> None:
    """The API answers as it does when the trailer is not there."""
    async with served(parrot(), anonymous=True) as client:
        path = "/v1/conversations" if without == "Sec-Fetch-Site" else path_of("ada")
        body = b'{"cookie":true}' if without == "Sec-Fetch-Site" else b'{"content":"x"}'
        lines = {
            "Host": "localhost",
            "Authorization": f"Bearer {client.key}",
            "Content-Type": "application/json",
            "Transfer-Encoding": "chunked",
        }
        if without == "Sec-Fetch-Site":
            del lines["Authorization"]
        lines.pop(without, None)
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        request = f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + b"%x\r\n%b\r\n0\r\n" % (len(body), body)
        trailer = f"{without}: {TRAILERS[without].format(key=client.key)}\r\n".encode()
        plain = await client.raw(request + b"\r\n")
        given = await client.raw(request + trailer + b"\r\n")

    assert plain.status == given.status
    assert "set-cookie" not in given.headers
    assert (200 if without == "Idempotency-Key" else 0) == (given.status if given.status == 200 else 0)
    if given.status == 200:
        assert "mine" != given.json["id"]


class Streaming:
    """An application whose answers take until somebody says so, or their client goes away."""

    def __init__(self) -> None:
        self.end = asyncio.Event()
        self.left = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] == "lifespan":
            await echo(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"10")]})
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        ending = asyncio.create_task(self.end.wait())
        while not ending.done():
            receiving = asyncio.ensure_future(receive())
            await asyncio.wait([ending, receiving], return_when=asyncio.FIRST_COMPLETED)
            if receiving.done() and receiving.result()["type"] == "http.disconnect":
                self.left.set()
                break
            receiving.cancel()
        ending.cancel()
        await send({"type": "http.response.body", "body": b"ended"})


async def test_a_stream_with_requests_behind_it_hears_of_its_end() -> None:
    """The client goes away while others of its requests wait: the application is told, and nothing is left running."""
    app = Streaming()
    async with serving(app) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(WHOLE * 2)
        await reader.readuntil(b"begun")
        writer.close()
        async with asyncio.timeout(5):
            await app.left.wait()


@pytest.mark.parametrize(
    "bad",
    [b"\x00\x01\r\n\r\n", GET + b"X-A: " + b"b" * 100_000, GET + b"a:\r\n" * 101 + b"\r\n", WHOLE * 100],
    ids=["junk", "long", "headers", "requests"],
)
async def test_no_refusal_is_said_into_another_answer(bad: bytes) -> None:
    """What is wrong with a request that came while another is answered ends the connection, after that answer."""
    app = Streaming()
    async with serving(app) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(WHOLE)
        said = await reader.readuntil(b"begun")
        writer.write(bad)
        await nothing_happens_for(0.1)
        app.end.set()
        async with asyncio.timeout(5):
            said += await reader.read()
        writer.close()

    assert 1 == said.count(b"HTTP/1.1")
    assert said.endswith(b"begunended")


@pytest.mark.parametrize(
    "rest",
    [
        b"2\r\n{}\r\n0\r\n" + b"X-A: b\r\n" * 20_000,
        b"2;" + b"a" * 200_000,
        b"junk\r\n",
        b"2\r\n{}\r\n0\r\nContent-Length: 5\r\n\r\n",
        b"1100000\r\n" + b" " * 0x1100000 + b"\r\n",
    ],
    ids=["trailers", "an extension", "junk", "a trailer that the parser obeys", "a body without an end"],
)
async def test_a_request_is_answered_once(rest: bytes) -> None:
    """Where a request was answered before its body came, what is wrong with that body ends the connection without a word."""
    async with served(parrot()) as client:
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
        writer.write(WAITS + b"Transfer-Encoding: chunked\r\n\r\n")
        refused, said = await answer_from(reader), b""
        with suppress(ConnectionError):
            writer.write(rest)
            await writer.drain()
            async with asyncio.timeout(5):
                said = await reader.read()
        writer.close()

    assert (401, b"") == (refused.status, said)


@pytest.mark.parametrize("framing", ["declared", "chunked"])
@pytest.mark.parametrize("path", ["ada/messages", "ada/state", ""])
async def test_who_sends_all_of_a_body_that_is_too_large_is_told_so(path: str, framing: str) -> None:
    """Also a client that reads nothing before it has sent everything; and the connection goes on."""
    method, kind = ("PATCH", "merge-patch+json") if path == "ada/state" else ("POST", "json")
    address = f"/v1/conversations/{path}".rstrip("/")
    whole = b" " * 12_000_000
    body = whole if framing == "declared" else iter([whole])
    async with served(parrot()) as client:
        told = {"Content-Type": f"application/{kind}", "Authorization": f"Bearer {client.key}"}

        def send_and_then_read() -> list[int]:
            with closing(HTTPConnection("127.0.0.1", client.port, timeout=30)) as link:
                link.request(method, address, body, told)
                refused = link.getresponse()
                refused.read()
                link.auto_open = 0
                link.request("GET", "/healthz")
                return [refused.status, link.getresponse().status]

        assert [413, 200] == await asyncio.to_thread(send_and_then_read)


async def test_a_body_that_ends_after_its_answer_leaves_the_connection_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """The deadline ends with the request: one that was refused before its body came does not take the next one along."""
    monkeypatch.setattr(protocol, "HEAD_S", 0.3)
    async with served(parrot()) as client:
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
        body = b" " * 8_000_000
        writer.write(WAITS + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body))
        refused = await answer_from(reader)
        writer.write(body)
        await nothing_happens_for(0.6)
        writer.write(WHOLE)
        next_one = await answer_from(reader)
        writer.close()

    assert (401, 200) == (refused.status, next_one.status)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (GET + b"a: b\r\n" * (protocol.HEADERS_MOST - 1) + b"\r\n", 200),
        (GET + b"a: b\r\n" * protocol.HEADERS_MOST + b"\r\n", 431),
        (GET + b"A: " + b"b" * 65_000 + b"\r\n\r\n", 200),
        (GET + b"A: " + b"b" * 82_000 + b"\r\n\r\n", 431),
        (WHOLE.replace(b"healthz", b"healthz?" + b"a" * (protocol.URL_MOST - 9)), 200),
        (WHOLE.replace(b"healthz", b"healthz?" + b"a" * (protocol.URL_MOST - 8)), 414),
        (CHUNKED + b"1\r\n \r\n" * 3000 + b"2\r\n{}\r\n0\r\n\r\n", 201),
        (GET + b"Connection: upgrade\r\nUpgrade: h2c\r\n\r\n", 200),
        (POST + b"Connection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\n{}", 400),
    ],
    ids=[
        "100 headers",
        "101",
        "64 KB",
        "82 KB",
        "address",
        "long address",
        "small chunks",
        "upgrade",
        "upgrade with a body",
    ],
)
async def test_where_the_bounds_are(request_: bytes, status: int) -> None:
    """What is allowed is served; what is not is told so, and its client can read it."""
    async with served(parrot(), anonymous=True) as client:
        answer = await client.raw(request_)

    assert status == answer.status
    assert status < 300 or "application/problem+json" == answer.headers["content-type"]


async def pieces(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers in two pieces, and says how long they are where it is asked for /long."""
    if scope["type"] == "lifespan":
        await echo(scope, receive, send)
        return
    headers = [(b"content-length", b"6")] if scope["path"] == "/long" else []
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for body in (b"one", b"two"):
        await send({"type": "http.response.body", "body": body, "more_body": body == b"one"})


@pytest.mark.parametrize(
    ("request_", "body"),
    [
        ("GET / HTTP/1.0", b"onetwo"),
        ("GET /long HTTP/1.0", b"onetwo"),
        ("HEAD / HTTP/1.0", b""),
        ("GET / HTTP/1.1", b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"),
    ],
)
async def test_only_who_knows_chunks_is_answered_in_chunks(request_: str, body: bytes) -> None:
    """A client of HTTP/1.0, such as an old proxy, would take their sizes for a part of the answer: an event, an export."""
    async with serving(pieces) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"{request_}\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        async with asyncio.timeout(5):
            head, _, said = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()

    assert (body, request_.endswith("1.1")) == (said, b"transfer-encoding" in head)


async def test_what_follows_an_upgrade_is_no_request() -> None:
    """A proxy that passes `Upgrade` on takes it for the other protocol; here it must not become a request of somebody's."""
    async with serving(echo) as port:
        told = await talk(
            port, GET + b"Connection: upgrade\r\nUpgrade: x\r\n\r\n", WHOLE, pause_s=0.1, most=len(WHOLE) * 3
        )

    assert (200,) == told.said


async def test_uvicorn_has_what_is_used_of_it() -> None:
    """Each of its inner names is there, and newer versions that nobody has tried are not installed with chatkeep."""
    state = ServerState()
    config = uvicorn.Config(echo, http=protocol.PromptProtocol)
    config.load()
    subjects: dict[str, Any] = {
        "HttpToolsProtocol": HttpToolsProtocol(config, state, {}),
        "RequestResponseCycle": RequestResponseCycle(
            {},  # type: ignore[arg-type]
            *[None] * 4,  # type: ignore[arg-type]
            False,
            [],
            asyncio.Event(),
            False,
            True,
            lambda: None,
        ),
        "FlowControl": FlowControl(None),  # type: ignore[arg-type]
        "ServerState": state,
    }
    HttpToolsProtocol.on_message_begin(subjects["HttpToolsProtocol"])
    missing = [
        f"{kind}.{name}"
        for kind, names in protocol.INNER.items()
        for name in names
        if not hasattr(subjects[kind], name)
    ]
    project = tomllib.loads(Path(__file__).parents[2].joinpath("pyproject.toml").read_text())
    needed = [Requirement(line) for line in project["project"]["optional-dependencies"]["server"]]
    pinned = next(one.specifier for one in needed if one.name == "uvicorn")

    assert [] == missing
    assert uvicorn.__version__ in pinned
    assert "0.999" not in pinned


async def test_idle_connections_go_soon_where_there_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first ones stay as long as the setting says; those that come when it is crowded are closed, after their answer."""
    monkeypatch.setattr(protocol, "CROWDED", 2)
    monkeypatch.setattr(protocol, "IDLE_S", 0.2)
    async with serving(create_app(Chatkeep("memory://"))) as port:
        opened = []
        for _ in range(4):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await reader.readuntil(b'"ok"}')
            opened.append((reader, writer))
        await time_passes(1.0)
        closed = [reader.at_eof() for reader, _ in opened]
        for _, writer in opened:
            writer.close()

    assert [False, False, True, True] == closed


async def test_methods_are_what_they_are() -> None:
    """HEAD is GET without a body, OPTIONS says what there is, others and overrides are refused without effect."""
    async with served(echoing()) as client:
        await client.post("ada", {"content": "x"})
        whole = await client.ask("GET", "/v1/conversations/ada/state")
        head = await client.raw(
            client.opening("HEAD", "/v1/conversations/ada/state", "Connection: close"), bodyless=True
        )
        options = await client.ask("OPTIONS", "/v1/conversations/ada/state")
        refused = [
            (await client.ask(method, path_of("ada"))).status
            for method in ("PUT", "DELETE", "PATCH", "TRACE", "PROPFIND")
        ]
        unknown = await client.ask("BREW", path_of("ada"))
        overrides = [
            await client.ask("GET", "/v1/conversations/ada", headers={name: "DELETE"})
            for name in ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override")
        ]
        form = await client.ask("GET", "/v1/conversations/ada?_method=DELETE")
        log = await client.log("ada")

    assert (200, whole.headers["etag"], whole.headers["content-length"]) == (
        head.status,
        head.headers["etag"],
        head.headers["content-length"],
    )
    assert (204, {"GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"}) == (
        options.status,
        set(options.headers["allow"].split(", ")),
    )
    assert [405] * 5 == refused
    assert 400 == unknown.status
    assert [200] * 3 == [answer.status for answer in overrides]
    assert 400 == form.status
    assert 2 == len(log)


async def test_a_body_that_ends_early_leaves_nothing() -> None:
    """Hung up in the middle of a message: no conversation, no log, and nothing is left open."""
    keep = echoing()
    async with served(keep) as client:
        for cut in (0, 1, 10):
            _, writer = await asyncio.open_connection("127.0.0.1", client.port)
            lines = ("Content-Type: application/json", "Content-Length: 15")
            writer.write(client.opening("POST", path_of("ada"), *lines) + b'{"content":"x"}'[:cut])
            await writer.drain()
            writer.close()
        await nothing_happens_for(0.05)
        kept = [found.id async for found in keep.conversations()]

    assert [] == kept


async def test_two_lengths_are_no_request() -> None:
    """What two servers could cut differently (request smuggling) is not read at all."""
    async with served(echoing()) as client:
        for lines in (
            ("Content-Length: 15", "Transfer-Encoding: chunked"),
            ("Content-Length: 15", "Content-Length: 16"),
            ("Content-Length: +15",),
            ("Content-Length: 1 5",),
            ("Transfer-Encoding: chunked, identity",),
        ):
            head = client.opening("POST", path_of("ada"), "Content-Type: application/json", *lines)
            answer = await client.raw(head + b'{"content":"x"}')
            assert 400 == answer.status, lines
        log = await client.log("ada")

    assert [] == log


async def ends(client: Client, opening: bytes, *, then: bytes = b"", every_s: float = 0.02) -> bytes:
    """What the server says to a client that goes on saying *then* until the server hangs up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    writer.write(opening)
    said = bytearray()

    async def listen() -> None:
        with suppress(ConnectionError):  # a hang-up upon one who still talks is a reset
            while heard := await reader.read(65536):
                said.extend(heard)

    listening = asyncio.create_task(listen())
    async with asyncio.timeout(10):
        while not listening.done():
            if then:
                writer.write(then)
            await asyncio.wait([listening], timeout=every_s)
    writer.close()
    return bytes(said)


async def test_a_client_that_does_not_come_to_the_point_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence, headers byte by byte, blank lines for ever, a body nobody waits for: the server hangs up."""
    monkeypatch.setattr(protocol, "HEAD_S", 0.3)
    monkeypatch.setattr(wire, "PATIENCE_S", 0.3)
    async with served(echoing()) as client:
        kind = "Content-Type: application/json"
        said = await asyncio.gather(
            ends(client, b""),
            ends(client, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n", then=b"X-A: b\r\n"),
            ends(client, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", then=b"\r\n"),
            ends(client, client.opening("POST", path_of("ada"), kind, "Content-Length: 9999"), then=b" "),
            ends(
                client,
                b"POST /v1/conversations/ada/messages HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\n\r\n",
                then=b" ",
            ),
        )
        after = await client.post("ada", {"content": "x"})

    assert [b"", b"HTTP/1.1 408", b"HTTP/1.1 200", b"HTTP/1.1 408", b"HTTP/1.1 401"] == [answer[:12] for answer in said]
    assert 200 == after.status


async def test_headers_without_end_are_not_kept() -> None:
    """A head of more than 64 KB is refused, long before it takes memory."""
    async with served(echoing()) as client:
        began = time.monotonic()
        said = await ends(
            client, b"GET / HTTP/1.1\r\nHost: localhost\r\n", then=b"X-A: " + b"b" * 8000 + b"\r\n", every_s=0.001
        )
        took_s = time.monotonic() - began
        after = await client.post("ada", {"content": "x"})

    assert b"HTTP/1.1 431" == said[:12]
    assert took_s < 5
    assert 200 == after.status


async def test_a_connection_that_is_kept_serves_one_request_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """The deadline is for one head: requests in a row, also in one packet, are all answered."""
    monkeypatch.setattr(protocol, "HEAD_S", 0.3)
    one = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    async with served(echoing()) as client:
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
        for request in (one, one[:20], one[20:], one + one):
            writer.write(request)
            await takes(0.15)
        answers = [await answer_from(reader) for _ in range(4)]
        writer.close()

    assert [200] * 4 == [answer.status for answer in answers]


async def at_rest(keep: Chatkeep[Any]) -> bool:
    """Whether nothing waits and nothing runs."""
    return not (keep.statistics.engine.waiting or keep.statistics.engine.workers)


async def test_a_storm_of_clients_that_go_away_mixes_nothing_up(url: str) -> None:
    """Two hundred posts to forty conversations, half of them cut off at random: no answer has another's content, each
    message is in the log at most once and has its own reply, and nothing is left open."""
    chance = random.Random(7)
    keep = echoing(url)
    jobs = [(f"c{number % 40}", f"m{number}", number % 2 == 0) for number in range(200)]
    async with served(keep) as client:

        async def post(name: str, id: str, cut: bool) -> Answer | None:
            reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
            body = json.dumps({"content": id, "id": id}).encode()
            request = client.opening(
                "POST",
                path_of(name),
                "Content-Type: application/json",
                f"Content-Length: {len(body)}",
                "Connection: close",
            )
            try:
                writer.write(
                    (request + body)[: chance.randrange(len(request + body)) if cut and chance.random() < 0.3 else None]
                )
                if cut:
                    await asyncio.sleep(chance.random() * 0.05)
                    return None
                return await answer_from(reader)
            finally:
                writer.transport.abort() if cut else writer.close()

        answers = await asyncio.gather(*[post(*job) for job in jobs])
        await until(lambda: at_rest(keep))
        logs = {name: await client.log(name, "?limit=500") for name in {name for name, _, _ in jobs}}

    for (name, id, cut), answer in zip(jobs, answers, strict=True):
        if not cut:
            assert answer is not None
            assert (200, name, id) == (answer.status, answer.json["conversation"], answer.json["id"])
            assert [f"{name}: {id}"] == [reply["content"] for reply in answer.json["replies"]]
    for name, log in logs.items():
        sent = [message for message in log if message["role"] == "user"]
        assert len(sent) == len({message["id"] for message in sent})
        assert {message["id"] for message in sent} <= {id for there, id, _ in jobs if there == name}
        replies = {message["reply_to"]: message["content"] for message in log if message["role"] == "assistant"}
        assert {message["number"]: f"{name}: {message['id']}" for message in sent} == replies
