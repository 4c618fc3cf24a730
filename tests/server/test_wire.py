"""Bodies and queries that no client should send: each is read as it is meant, or refused, and nothing of it gets anywhere else."""

from __future__ import annotations

import json
import time
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.exceptions import HTTPException

from chatkeep import Chatkeep
from chatkeep.server import wire
from chatkeep.server.protocols.answer_stream import name_answer
from chatkeep.server.settings import PROTOCOLS

from ..support.bots import echoing
from ..support.odd_metadata import ODD
from ..support.serving import PROBLEM, path_of, served


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


@pytest.mark.parametrize(
    ("address", "sent", "said"),
    [
        ("messages", {"contnt": "x"}, "(there are content, id, metadata)"),
        ("messages", {"id": "m"}, "(there are content, id, metadata)"),
        ("tokens", {"scopes": ["fly"]}, "(there are read, send, state:read,"),
        ("bot", {"paused": True, "unread": "drop"}, "(there are answer, skip)"),
    ],
)
async def test_a_refused_body_is_told_what_there_is(address: str, sent: dict[str, Any], said: str) -> None:
    """The members, where one is unknown or lacks; the values, where there are few."""
    async with served(echoing()) as client:
        answer = await client.ask(
            "PUT" if address == "bot" else "POST", f"/v1/conversations/ada/{address}", json.dumps(sent).encode()
        )

    assert 400 == answer.status
    assert said in answer.json["detail"], answer.json["detail"]


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
