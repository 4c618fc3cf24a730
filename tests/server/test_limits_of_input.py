"""What no client should send, byte by byte: every limit is a clean refusal, and the server goes on as before."""

from __future__ import annotations

import asyncio
import json
import random
import time
from contextlib import suppress
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.exceptions import HTTPException

from chatkeep import Chatkeep, Turn
from chatkeep.server import protocol, wire
from chatkeep.server.protocols.answer_stream import name_answer
from chatkeep.server.settings import PROTOCOLS

from ..support.odd_metadata import ODD
from ..support.serving import Answer, Client, answer_from, path_of, served
from ..support.waiting import nothing_happens_for, takes, until

PROBLEM = "application/problem+json"


def echoing(url: str = "memory://", **options: Any) -> Chatkeep[Any]:
    """A Chatkeep whose bot says the conversation's name and the message."""
    keep: Chatkeep[Any] = Chatkeep(url, **options)

    @keep.on_message
    async def bot(turn: Turn[Any]) -> str:
        await takes(0.001)
        return f"{turn.conversation}: {turn.text}"

    return keep


# -- JSON -------------------------------------------------------------------------------------------------------------------


def depth(value: Any) -> int:
    """How deeply a JSON value is nested."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(depth, inner), default=0)


NASTY = st.recursive(
    st.none() | st.text('[]{}"\\,:', max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('[{"\\', max_size=3), inner, max_size=3),
    max_leaves=30,
)


@given(NASTY, st.integers(0, 8))
def test_depth_is_counted_as_a_parser_would(value: Any, deepest: int) -> None:
    """Brackets in strings, escaped quotes and backslashes do not count."""
    assert (depth(value) > deepest) == bool(wire.overfull(json.dumps(value).encode(), deepest=deepest))


@pytest.mark.parametrize(
    "raw",
    [
        b'"' + b'\\"' * 500_000 + b"[" * 100,
        b'"\\' * 500_000 + b"[" * 100,
        b"[" * 1_000_000,
        b'{"a":' * 200_000,
        b'["' + b"[" * 1_000_000,
        b"]" * 500_000 + b"[" * 100,
    ],
    ids=["open string", "escapes", "arrays", "objects", "brackets in an open string", "closed before"],
)
def test_a_megabyte_of_brackets_is_looked_at_once(raw: bytes) -> None:
    """No input makes the scan take longer than a pass over it, and none reaches the parser's recursion."""
    began = time.process_time()
    with pytest.raises(HTTPException):
        wire.parsed(raw)

    assert time.process_time() - began < 1.0


@given(st.binary(max_size=40) | st.text('{}[]":,0123456789.eE-+ntf\\u \n', max_size=40).map(str.encode))
def test_whatever_comes_is_json_or_refused(raw: bytes) -> None:
    """Any bytes are read as a value that can be written again, or are a 400."""
    try:
        value = wire.parsed(raw)
    except HTTPException as refused:
        value, status = None, refused.status_code
    else:
        status = 200

    assert status in (200, 400)
    assert value == json.loads(json.dumps(value))


DEEPEST = b'{"content":[' + b'{"a":' * 61 + b"[]" + b"}" * 61 + b"]}"


async def test_nesting_ends_at_64_levels() -> None:
    """64 are taken, 65 are refused, in the body as a whole; on any Python."""
    assert 64 == depth(json.loads(DEEPEST))
    async with served(echoing()) as client:
        good = await client.ask("POST", path_of("ada"), DEEPEST)
        bad = await client.ask("POST", path_of("ada"), DEEPEST.replace(b"[]", b"[[]]"))

    assert (200, 400, PROBLEM) == (good.status, bad.status, bad.headers["content-type"])


async def test_names_that_mean_something_elsewhere_are_only_names() -> None:
    """__proto__, constructor, $ref and the like come back as they were sent."""
    part = {"__proto__": {"admin": True}, "constructor": {"prototype": 1}, "$ref": "#/x", "__class__": "os", "": 0}
    async with served(echoing()) as client:
        posted = await client.post("ada", {"content": [part], "metadata": part})
        log = await client.log("ada")

    assert 200 == posted.status
    assert ([part], part) == (log[0]["content"], log[0]["metadata"])


async def test_text_comes_back_code_point_by_code_point() -> None:
    """Nothing is normalised: composed and decomposed letters, zero width, right to left, long clusters stay different."""
    texts = [
        "e\u0301",
        "\u00e9",
        "a\u200bb",
        "\u202egnp.exe",
        "x" + "\u0301" * 5000,
        "\ufeff",
        "\u2028\u2029\x85\x7f\x01",
        "👩‍👩‍👧",
    ]
    async with served(echoing()) as client:
        for text in texts:
            await client.post(text[:40], {"content": text, "id": text[:40]})
        logs = [await client.log(text[:40]) for text in texts]

    assert [(text[:40], text) for text in texts] == [(log[0]["id"], log[0]["content"]) for log in logs]


# -- addresses and headers --------------------------------------------------------------------------------------------------


async def test_no_input_becomes_a_header_of_the_answer() -> None:
    """Line ends in an id or a key stay percent-encoded in Location, or are refused."""
    evil = "a\r\nSet-Cookie: x=1\r\n\r\n<script>"
    async with served(echoing()) as client:
        made = await client.ask("POST", "/v1/conversations", json.dumps({"id": evil}).encode())
        again = await client.ask("GET", made.headers["location"])
        raw = await client.raw(
            client.opening(
                "POST", path_of("ada"), "Content-Type: application/json", "Content-Length: 15", "Idempotency-Key: a\rb"
            )
            + b'{"content":"x"}'
        )

    assert (201, f"/v1/conversations/{quote(evil, safe='')}") == (made.status, made.headers["location"])
    assert (200, evil) == (again.status, again.json["id"])
    assert "set-cookie" not in made.headers
    assert 400 == raw.status


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


# -- slow clients -----------------------------------------------------------------------------------------------------------


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


# -- many at once -----------------------------------------------------------------------------------------------------------


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


async def test_no_metadata_of_a_client_breaks_an_address() -> None:
    """Of the API, the desk and the protocols: what looks like a note of chatkeep's own is none, and another type is passed over."""
    keep: Chatkeep[Any] = Chatkeep("memory://")
    keep.on_message(lambda turn: turn.text)
    pages = ("", "/messages?notes=1", "/losses", "/story", "/deliveries", "/as-of/1", "/doubts", "/dead-letters")
    wrong = []
    async with served(keep, protocols=PROTOCOLS) as client:
        for number, metadata in enumerate(ODD):
            here, name = f"/v1/conversations/c{number}", name_answer(f"c{number}", 1)
            said = json.dumps({"content": "hi", "metadata": metadata}).encode()
            call = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "GetTask", "params": {"id": f"task_{name}"}})
            paths = [here + page for page in pages]
            paths += ["/v1/desk/conversations?text=hi", f"/v1/responses/resp_{name}", f"/api/chat/c{number}"]
            answers = {
                "post": await client.ask("POST", f"{here}/messages", said),
                "a2a": await client.ask("POST", "/a2a", call.encode(), {"A2A-Version": "1.0"}),
            }
            answers |= {path: await client.ask("GET", path) for path in paths}
            wrong += [path for path, one in answers.items() if one.status != 200 or b'"error":{' in one.body]

    assert [] == wrong
