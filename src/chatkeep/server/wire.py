"""What comes in over HTTP, made safe: the one place where a request's path, query and JSON are parsed.

Everything here ends in a value that is well-formed, or in an `HTTPException` that says what is wrong with the
request. Whether a well-formed message can be stored is for the core to say.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import unquote_to_bytes

import msgspec
from msgspec import Struct
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from ..model import Content

PREFIX, SUFFIX = b"/v1/conversations/", b"/messages"
PATIENCE_S = 15.0
PAGE_MOST = 500
NEWEST = 2**53
"""Above every number of a log, and the largest that every JSON reader keeps exact."""


class Incoming(Struct, forbid_unknown_fields=True):
    """A message as a client sends it."""

    content: Content
    id: str | None = None


class Window(Struct, forbid_unknown_fields=True):
    """Which part of a log a client asks for."""

    after: int | None = None
    before: int | None = None
    limit: int = 100


def conversation_id(request: Request) -> str:
    """The conversation that the path names, whatever characters are in it.

    Taken from the bytes that were sent: in the decoded path an escaped %2F looks like a separator.
    """
    path: bytes = request.scope["raw_path"].removeprefix(request.scope.get("root_path", "").encode())
    if not (path.startswith(PREFIX) and path.endswith(SUFFIX)):
        raise HTTPException(404)
    try:
        return unquote_to_bytes(path[len(PREFIX) : -len(SUFFIX)]).decode()
    except UnicodeDecodeError:
        raise HTTPException(
            400, "The conversation id in the address is not percent-encoded UTF-8; nothing was touched."
        ) from None


def window(request: Request) -> Window:
    """The page of the log that the query asks for."""
    given = request.query_params.multi_items()
    try:
        if len(dict(given)) < len(given):
            raise ValueError("a parameter is given twice")
        if not all(value.isascii() and value.isdecimal() for _, value in given):
            raise ValueError("the values are whole numbers")
        found = msgspec.convert(dict(given), Window, strict=False)
        if not (1 <= found.limit <= PAGE_MOST and max(found.after or 0, found.before or 0) <= NEWEST):
            raise ValueError(f"limit is 1 to {PAGE_MOST}, after and before at most {NEWEST}")
    except ValueError as fault:
        raise HTTPException(
            400, f"The query is after, before and limit; this one is not understood: {fault}."
        ) from None
    return found


async def message(request: Request, *, limit: int) -> Incoming:
    """The message in the request's body, with the Idempotency-Key as its id when the body names none."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise HTTPException(415, "Send the message as application/json; nothing was touched.")
    keys = request.headers.getlist("idempotency-key")
    if len(keys) > 1:
        raise HTTPException(400, "There is more than one Idempotency-Key; nothing was touched.")
    found = parsed(await body(request, limit=limit))
    if found.id is None and keys:
        found.id = keys[0][1:-1] if len(keys[0]) > 2 and keys[0][0] == keys[0][-1] == '"' else keys[0]
    return found


async def body(request: Request, *, limit: int) -> bytes:
    """The request's body, refused as soon as it is known to be over *limit* bytes."""
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > limit:
        raise too_large(limit)
    read = bytearray()
    try:
        async with asyncio.timeout(PATIENCE_S):
            async for chunk in request.stream():
                read += chunk
                if len(read) > limit:
                    raise too_large(limit)
    except TimeoutError:
        raise HTTPException(408, "The request's body did not arrive in time; nothing was touched.") from None
    except ClientDisconnect:
        raise HTTPException(400, "The request's body ended early; nothing was touched.") from None
    return bytes(read)


def too_large(limit: int) -> HTTPException:
    """The refusal of a body; the connection goes with it, so that the rest of the body need not be read."""
    return HTTPException(
        413, f"The request's body is over {limit:,} bytes; nothing was touched.", {"connection": "close"}
    )


def parsed(raw: bytes) -> Incoming:
    """The message in *raw*, read strictly: what two JSON readers could understand differently is refused."""
    try:
        plain = json.loads(raw.decode(), object_pairs_hook=once, parse_constant=refuse)
        msgspec.json.encode(plain)  # finds lone surrogates, wherever they are
        return msgspec.convert(plain, Incoming)
    except RecursionError:
        fault = "it is nested too deeply"
    except UnicodeError:
        fault = "it is not UTF-8, or holds half a character"
    except ValueError as refused:
        fault = str(refused)
    raise HTTPException(
        400,
        f'The body is a JSON object like {{"content": "hello", "id": "42"}}; this one is not: {fault}. Nothing was touched.',
    )


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose names are all different."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name is there twice in one object")
    return found


def refuse(constant: str) -> None:
    """NaN and the infinities are not JSON."""
    raise ValueError(f"{constant} is not JSON")
