"""What comes in over HTTP, made safe: the one place where a request's path, query, headers and JSON are parsed.

Everything here ends in a value that is well-formed, or in an `HTTPException` that says what is wrong with the
request. Whether a well-formed message can be stored is for the core to say.
"""

from __future__ import annotations

import json
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_args, get_origin, get_type_hints
from urllib.parse import quote, unquote_to_bytes

import msgspec
from msgspec import Meta, Struct
from starlette.endpoints import HTTPEndpoint
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Receive, Scope, Send

from ..conversation.keys import key_for
from ..errors import NotOpen, UsageError
from ..model import Content, Conversation
from ..offload import offload
from .waiting import within

T = TypeVar("T", bound=Struct)

JSON = "application/json"
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
PATIENCE_S = 15.0
DEEPEST = 64
"""Levels of nesting that a body may have: as many on every Python, and as many as can be stored."""

TOKENS_MOST = 20_000
"""Strings, commas and brackets that a body may have: what a text holds is decoded at 4 ns a byte, what is made of small things at
250. (A list of so many numbers, an object of half as many members.)"""

SHORT_BODY = 16 * 1024
"""The most bytes of a body that holds neither messages nor a state."""

LARGE = 128 * 1024
"""A body of more bytes is decoded in a thread, so that nobody else waits for it."""

PAGE_MOST = 500
NEWEST = 2**53
"""Above every number of a log, and the largest that every JSON reader keeps exact."""

TEXTS = frozenset(
    ["owner", "behind", "conversation", "since", "show", "channel", "text", "next", "order", "whose", "assignee"]
)
"""Parameters that are text; all others are whole numbers."""

WHOLE = ("uses", "version", "seen")
"""Members of bodies that are whole numbers."""

Number = Annotated[int, Meta(ge=0, le=NEWEST)]
Limit = Annotated[int, Meta(ge=1, le=PAGE_MOST)]
Flagged = Annotated[int, Meta(ge=0, le=1)]
Name = Annotated[str, Meta(min_length=1, max_length=512, pattern=r"^[^\x00]+$")]
Owner = Annotated[str, Meta(max_length=512, pattern=r"^[^\x00]*$")]
Device = Annotated[str, Meta(max_length=200)]


class Refused(HTTPException):
    """A refusal with a type of its own: urn:chatkeep:*word*, and members of its problem document in *told*."""

    def __init__(self, status: int, word: str, detail: str, headers: dict[str, str] | None = None, **told: Any) -> None:
        super().__init__(status, detail, headers)
        self.word = word
        self.told = told


@contextmanager
def refusing(status: int, word: str) -> Iterator[None]:
    """Have a `UsageError` told as a refusal of this kind; that the Chatkeep is not open is no fault of the client's."""
    try:
        yield
    except NotOpen:
        raise
    except UsageError as fault:
        raise Refused(status, word, str(fault)) from None


class Incoming(Struct, forbid_unknown_fields=True):
    """A message as a client sends it."""

    content: Content
    id: Name | None = None
    metadata: dict[str, Any] | None = None


class NewConversation(Struct, forbid_unknown_fields=True):
    """A conversation to begin: *id* and *owner* for service keys only; with *cookie* a visitor's token goes into the cookie."""

    id: Name | None = None
    owner: Owner | None = None
    cookie: bool = False


class LogWindow(Struct, forbid_unknown_fields=True):
    """Which part of a log a client asks for. *notes* 1: with chatkeep's own notes and the channels, for service keys and people."""

    after: Number | None = None
    before: Number | None = None
    limit: Limit = 100
    notes: Flagged = 0


class ConversationQuery(Struct, forbid_unknown_fields=True):
    """How many of its last messages a client wants with a conversation; *notes* as in a `LogWindow`."""

    messages: Annotated[int, Meta(ge=0, le=PAGE_MOST)] = 20
    notes: Flagged = 0


class ListQuery(Struct, forbid_unknown_fields=True):
    """Which conversations a client asks for; *next*: from the page before."""

    owner: Owner | None = None
    next: Annotated[str, Meta(max_length=4096)] = ""
    limit: Limit = 100


class Place(Struct, frozen=True, array_like=True):
    """Where a list goes on: behind this conversation."""

    id: str
    updated_at: float
    owner: str = ""


def place_of(shown: Conversation[Any]) -> str:
    """Return the place of a conversation in a list, as text for clients, who need not understand it."""
    place = Place(shown.id, shown.updated_at, shown.owner)
    return urlsafe_b64encode(msgspec.json.encode(place)).decode().rstrip("=")


def place_from(text: str, tenant: str) -> Conversation[Any] | None:
    """Return what stands at the place that *text* names; None for the beginning."""
    if not text:
        return None
    try:
        place = msgspec.json.decode(urlsafe_b64decode(text + "=" * (-len(text) % 4)), type=Place)
        key_for(tenant, place.id)
    except (ValueError, UsageError):
        raise Refused(404, "not-found", "`next` is none of this server's; leave it out to begin anew.") from None
    blank: dict[str, Any] = {"revision": "", "state": None, "session": 0, "messages": [], "head": 0, "unread": 0}
    blank |= {"paused": False, "dead": [], "due_at": None}
    return Conversation(tenant=tenant, id=place.id, owner=place.owner, updated_at=place.updated_at, **blank)


ONE = "/v1/conversations/{id}"
"""The address of a conversation."""


class RawRoute(Route):
    """A route that looks at the bytes that were sent: in the decoded path an escaped %2F looks like a separator.

    `{id}` stands for anything, also with slashes; other names for one segment. `path_params` are percent-decoded. *slash*: a
    slash may follow, as clients write one that are given a base address.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], *, slash: bool = False, **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        pattern = re.sub(
            r"\\{(\w+)\\}", lambda name: rf"(?P<{name[1]}>{'.*' if name[1] == 'id' else '[^/]+'})", re.escape(path)
        )
        self._pattern = re.compile((pattern + "/?" * slash).encode())

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Tell whether the request is for this route; whatever its method, so that no other route can take it instead."""
        found = self._pattern.fullmatch(raw_path(scope)) if scope["type"] == "http" else None
        if found is None:
            return Match.NONE, {}
        try:
            named = {name: plain(value) for name, value in found.groupdict().items()}
        except UnicodeDecodeError:
            raise Refused(400, "bad-key", "The address is not percent-encoded UTF-8; nothing was touched.") from None
        return Match.FULL, {"endpoint": self.endpoint, "path_params": {**scope.get("path_params", {}), **named}}


def plain(segment: bytes) -> str:
    """Return a part of a path without its percent-encoding. Raises UnicodeDecodeError."""
    return (unquote_to_bytes(segment) if b"%" in segment else segment).decode()


def raw_path(scope: Scope) -> bytes:
    """Return the path as it was sent, without the prefix under which the application is mounted."""
    raw: bytes = scope.get("raw_path") or quote(scope["path"]).encode()
    root: str = scope.get("root_path", "")
    if root and scope["path"].startswith(root.rstrip("/") + "/"):
        raw = b"/" + raw.split(b"/", root.rstrip("/").count("/") + 1)[-1]
    return raw


class Resource(HTTPEndpoint):
    """What is at one address: a method for each HTTP method. HEAD is GET; OPTIONS says which there are.

    (Looks up once what Starlette's own looks up with each request.)
    """

    methods: ClassVar[dict[str, str]] = {}

    def __init_subclass__(cls) -> None:
        found = {method: method.lower() for method in METHODS if hasattr(cls, method.lower())}
        cls.methods = found | ({"HEAD": "get"} if "GET" in found else {})

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope, self.receive, self.send = scope, receive, send

    async def dispatch(self) -> None:
        """Serve one request."""
        request = Request(self.scope, self.receive, self.send)
        method = self.methods.get(request.method)
        if method is None:
            raise HTTPException(405, headers={"allow": ", ".join(self.methods)})
        response = await getattr(self, method)(request)
        await response(self.scope, self.receive, self.send)

    async def options(self, request: Request) -> Response:
        """Return the methods that are possible here."""
        return Response(status_code=204, headers={"allow": ", ".join(self.methods)})


def query(request: Request, kind: type[T]) -> T:
    """Return the request's query as a *kind*, never guessed at."""
    given = request.query_params.multi_items()
    try:
        if len(dict(given)) < len(given):
            twice = next(name for at, (name, _) in enumerate(given) if name in dict(given[:at]))
            raise ValueError(f"{twice[:20]!a} is given twice")
        plain = {name: value if name in TEXTS else whole(value, name) for name, value in given}
        msgspec.json.encode(plain)  # a name that is half a character cannot be
        return msgspec.convert(plain, kind)
    except ValueError as fault:
        known = ", ".join(kind.__struct_fields__)
        raise HTTPException(400, f"The query is {known}; this one is not understood: {fault}.") from None


def whole(text: str, name: str = "") -> int:
    """Return the whole number from 0 on that is in *text*, which has nothing else in it; *name* is what it was given for."""
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        where = f"{name[:20]!a}: " if name else ""
        raise ValueError(f"{where}{text[:20]!a} is not a whole number from 0 on, in at most 19 digits")
    return int(text)


async def body(request: Request, kind: type[T], *, limit: int, needed: bool = True) -> T:
    """Return the request's body as a *kind*; without any, if none is *needed*, a blank one."""
    if not needed and "content-type" not in request.headers and not await read(request, limit=limit):
        return kind()
    plain = await value(request, limit=limit)
    if isinstance(plain, dict):  # 47.0 is the whole number 47 to JSON, and some clients write all numbers like that
        plain |= {
            name: int(plain[name]) for name in WHOLE if isinstance(plain.get(name), float) and plain[name].is_integer()
        }
    return as_kind(plain, kind)


def as_kind(plain: object, kind: type[T]) -> T:
    """Return what was read from a body as a *kind*. The refusal of another one says what there is instead."""
    try:
        return msgspec.convert(plain, kind)
    except ValueError as fault:
        said = str(fault)
    if " field `" in said and " - at `$" not in said:  # (one that is unknown, or lacks, at the top)
        said += f" (there are {', '.join(kind.__struct_encode_fields__)})"
    elif (named := re.match(r"Invalid enum value .* - at `\$\.(\w+)", said)) and named[1] in kind.__annotations__:
        choices = list(_choices(get_type_hints(kind)[named[1]]))
        said += f" (there are {', '.join(map(str, choices))})" if choices else ""
    raise misread(said)


def _choices(hint: object) -> Iterator[object]:
    if get_origin(hint) is Literal:
        yield from get_args(hint)
        return
    for part in get_args(hint):
        yield from _choices(part)


async def value(request: Request, *, limit: int, media: str = JSON, most: int = TOKENS_MOST) -> Any:
    """Return the JSON value in the request's body, which has at most *most* strings, commas and brackets."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != media:
        raise HTTPException(415, f"Send the body as {media}; nothing was touched.", {"accept": media})
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise HTTPException(
            415, "Send the body as it is, and not compressed; nothing was touched.", {"accept-encoding": "identity"}
        )
    raw = await read(request, limit=limit)
    return parsed(raw, most) if len(raw) <= LARGE else await offload(parsed, raw, most)


async def message(request: Request, *, limit: int) -> tuple[Incoming, bool]:
    """Return the message in the request's body, and whether an Idempotency-Key named it."""
    key = idempotency_key(request)
    found = await body(request, Incoming, limit=limit)
    if key is not None and found.id not in (None, key):
        raise HTTPException(
            400, "The Idempotency-Key and the body's id differ; name the message once. Nothing was touched."
        )
    if key is not None:
        found.id = key
    return found, key is not None


STRING = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])+)"')
BARE = re.compile(r"[!#-~][!-~]*")


def idempotency_key(request: Request) -> str | None:
    """Return the request's Idempotency-Key: a quoted string, as the standard has it, or bare as most people send it."""
    keys = request.headers.getlist("idempotency-key")
    if not keys:
        return None
    if len(keys) > 1:
        raise HTTPException(400, "There is more than one Idempotency-Key; nothing was touched.")
    if quoted := STRING.fullmatch(keys[0]):
        return re.sub(r"\\(.)", r"\1", quoted[1])
    if BARE.fullmatch(keys[0]):
        return keys[0]
    raise HTTPException(400, 'An Idempotency-Key is ASCII text in quotes, like "8e03978e"; nothing was touched.')


def preferences(request: Request) -> set[str]:
    """Return what the client would like (RFC 7240), without parameters."""
    given = ",".join(request.headers.getlist("prefer")).split(",") if "prefer" in request.headers else []
    return {preference.partition(";")[0].strip().lower() for preference in given}


GZIP = re.compile(r"(?:x-)?gzip(?:\s*;\s*q\s*=\s*(?:1(?:\.0*)?|0\.0*[1-9][0-9]*))?", re.IGNORECASE)
"""The coding, with a weight above 0 or without one."""


def reads_gzip(request: Request) -> bool:
    """Tell whether the client takes an answer that is compressed with gzip."""
    given = ",".join(request.headers.getlist("accept-encoding"))
    return any(GZIP.fullmatch(coding.strip()) for coding in given.split(","))


TAG = re.compile(r'((?:W/)?)(?:"([!#-~]*)"|([!#-+\--~]+))')


def tags(request: Request, name: str) -> set[str] | None:
    """Return the entity tags in the header *name*, weak ones as they are; {"*"} for any; None when it is not there.

    A tag without its quotes, which many clients forget, is the same tag.
    """
    given = request.headers.getlist(name)
    if not given:
        return None
    parts = [part.strip() for part in ",".join(given).split(",")]
    if parts == ["*"]:
        return {"*"}
    found = [TAG.fullmatch(part) for part in parts]
    if "*" in parts or None in found:
        raise HTTPException(400, f'{name} is * or entity tags in quotes, like "1c29"; nothing was touched.')
    return {f'{tag[1]}"{tag[2] or tag[3] or ""}"' for tag in found if tag}


def refuse_other_revision(match: set[str], revision: str, why: str) -> None:
    """Refuse what is asked of a conversation at another *revision* than `If-Match` names; {"*"} means any. *why*: what was not done."""
    if match != {"*"} and f'"{revision}"' not in match:
        raise changed(why)


def changed(why: str) -> Refused:
    """Return the refusal of what was asked of a conversation as it was read. *why*: what was not done."""
    return Refused(412, "precondition-failed", f"The conversation has changed since it was read; {why}.")


async def read(request: Request, *, limit: int) -> bytes:
    """Return the request's body, refused as soon as it is known to be over *limit* bytes."""
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > limit:
        raise too_large(limit)
    try:
        return await within(PATIENCE_S, collected(request, limit))
    except TimeoutError:
        raise HTTPException(
            408, "The request's body did not arrive in time; nothing was touched.", {"connection": "close"}
        ) from None
    except ClientDisconnect:
        raise HTTPException(400, "The request's body ended early; nothing was touched.") from None


async def collected(request: Request, limit: int) -> bytes:
    """Return the request's body, from the messages it comes in; once. (Starlette's `stream` is a generator for what is mostly one.)"""
    found, more = bytearray(), True
    try:
        while more:
            message = await request.receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            found += message.get("body", b"")
            more = message.get("more_body", False)
            if len(found) > limit:
                raise too_large(limit)
    finally:
        request.scope["chatkeep.bytes"] = len(found)
    return bytes(found)


def too_large(limit: int) -> HTTPException:
    """Return the refusal of a body. (Not with `Connection: close`: a connection that is closed while the rest of its body comes is
    reset, and a client that sends first and reads then never sees why. The server throws the rest away, up to a bound.)"""
    return HTTPException(413, f"The request's body is over {limit:,} bytes; nothing was touched.")


def parsed(raw: bytes, most: int = TOKENS_MOST) -> Any:
    """Return the JSON value in *raw*, read strictly: what two JSON readers could understand differently is refused."""
    try:
        if fault := overfull(raw, most=most):
            raise ValueError(fault)
        plain = _decode(raw.decode())
        if b"\\u" in raw:
            msgspec.json.encode(plain)  # finds lone surrogates, wherever they are
    except UnicodeError:
        raise misread("it is not UTF-8, or holds half a character") from None
    except ValueError as fault:
        raise misread(str(fault)) from None
    return plain


def misread(fault: str) -> HTTPException:
    """Return the refusal of a body that is not what is wanted."""
    return HTTPException(400, f"The body is not the JSON that belongs here: {fault[:500]}. Nothing was touched.")


# A string, whole or cut off, a comma or a bracket. Possessive, so that no text makes it look at anything twice.
# Of long runs, and of alternatives that begin with a literal: no other thread runs while it looks, and so five times as much is looked at.
TOKENS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|\[|\{|\]|\}|,', re.DOTALL)


def overfull(raw: bytes, *, deepest: int = DEEPEST, most: int = TOKENS_MOST) -> str:
    """Tell why the JSON in *raw* is not to be decoded: too deep, or of too many things; "" when it may be.

    Seen in one pass without recursion, which ends at the first thing too many.
    """
    if len(raw) <= most and raw.count(b"[") + raw.count(b"{") <= deepest:
        return ""
    depth = 0
    for count, token in enumerate(TOKENS.finditer(raw)):
        if count >= most:
            return f"it is made of more than {most:,} strings, commas and brackets"
        if token[0] in (b"[", b"{"):
            depth += 1
            if depth > deepest:
                return f"it is nested more than {deepest} levels deep"
        elif token[0] in (b"]", b"}"):
            depth -= 1
    return ""


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object whose names are all different."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name is there twice in one object")
    return found


def refuse(constant: str) -> None:
    """Refuse NaN and the infinities, which are not JSON."""
    raise ValueError(f"{constant} is not JSON")


def finite(text: str) -> float:
    """Return the number in *text*, if a float can hold it."""
    found = float(text)
    if found in (float("inf"), float("-inf")):
        raise ValueError(f"the number {text[:20]} is too large")
    return found


_decode = json.JSONDecoder(object_pairs_hook=once, parse_constant=refuse, parse_float=finite).decode


def as_json(value: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return an answer in JSON."""
    return Response(msgspec.json.encode(value), status, headers, JSON)
