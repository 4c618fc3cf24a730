"""The files of the pages and of the browser's client, as they are served: under a tag that names their text, and compressed once."""

from __future__ import annotations

import gzip
import hashlib
import html
from collections.abc import Awaitable, Callable, Mapping
from functools import cache
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response

from . import wire
from .access import allows

LATER = (
    "changes",
    "claims",
    "keeping",
    "lines",
    "minting",
    "notices",
    "outbox",
    "requests",
    "slots",
    "tokens",
    "unkept",
    "visitors",
)
"""The modules that client.js and account.js fetch when there is something for them to do."""

CLIENT = {f"/{name}.js": (f"{name}.js", "text/javascript") for name in ("client", "account", *LATER)}

SHOWN = {
    f"/{name}.js": (f"{name}.js", "text/javascript") for name in ("loading", "shown", "markdown", "parts", "offline")
} | {"/parts.css": ("parts.css", "text/css")}

PARTS = ("-ask", "-acts", "-canned", "-here", "-list", "-views", "-talk", "-why", "-bulk", "-queues", "-health")
"""The modules of the operators' desk beside its first."""

OPERATOR = {
    "/operator": ("operator.html", "text/html"),
    **{f"/operator{part}.js": (f"operator{part}.js", "text/javascript") for part in ("", *PARTS)},
    "/operator.css": ("operator.css", "text/css"),
    "/operator.svg": ("chat.svg", "image/svg+xml"),
}
PAGE = {
    "/": ("chat.html", "text/html"),
    "/chat.js": ("chat.js", "text/javascript"),
    "/people.js": ("people.js", "text/javascript"),
    "/chat.css": ("chat.css", "text/css"),
    "/chat.svg": ("chat.svg", "image/svg+xml"),
}
WIDGET = {
    "/widget": ("chat.html", "text/html"),
    "/widget.js": ("widget.js", "text/javascript"),
    "/frame.js": ("frame.js", "text/javascript"),
}
"""The chat page in a frame of other sites, where they are named, and the script that they load."""


def static(
    name: str, kind: str, words: Mapping[str, str], more: Mapping[str, str] | None = None
) -> Callable[[Request], Awaitable[Response]]:
    """Return an endpoint that answers with a file of the page, or says that the reader's copy is still good; *words* are put into it."""
    return static_bytes(filled(name, words).encode(), kind, more)


def static_bytes(
    body: bytes, kind: str, more: Mapping[str, str] | None = None
) -> Callable[[Request], Awaitable[Response]]:
    """Return an endpoint that answers with *body*, or says that the reader's copy is still good; *more*: headers beside its own."""
    tag = digest(body)

    @allows(anyone=True)
    async def answer(request: Request) -> Response:
        packs = wire.reads_gzip(request)
        headers = {
            "cache-control": "no-cache",
            "etag": f'"{tag}-gzip"' if packs else f'"{tag}"',
            "vary": "accept-encoding",
            **(more or {}),
        }
        if headers["etag"] in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        if packs:
            return Response(packed(body), headers=headers | {"content-encoding": "gzip"}, media_type=kind)
        return Response(body, headers=headers, media_type=kind)

    return answer


def filled(name: str, words: Mapping[str, str]) -> str:
    """Return a file of the page as it is served, with *words* where it names them."""
    text = stored(name)
    for word, value in words.items():
        text = text.replace(f"{{{{{word}}}}}", html.escape(value))
    return text


def version_of(words: Mapping[str, str], logo: tuple[bytes, str] | None = None) -> str:
    """Return a name for this version of the chat page, which its service worker keeps under it."""
    page = "".join(filled(name, words) for name, _ in (CLIENT | SHOWN | PAGE).values() if name != "offline.js")
    return digest(page.encode() + (logo[0] if logo else b""))


def digest(body: bytes) -> str:
    """Return what names *body*, and no other one."""
    return hashlib.blake2b(body, digest_size=12).hexdigest()


@cache
def stored(name: str) -> str:
    """Return a file of the page; in a wheel the scripts are shorter than their source (`tools/short_scripts.py`)."""
    return (files(__package__) / "page" / name).read_text("utf-8")


@cache
def packed(body: bytes) -> bytes:
    """Return *body* as gzip: made when it is first asked for, and kept."""
    return gzip.compress(body, 9, mtime=0)
