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

CLIENT = {f"/{name}.js": (f"{name}.js", "text/javascript") for name in ("client", "account", "claims")}
"""The browser's client; account.js fetches claims.js when there is something to claim or to import."""

SHOWN = {f"/{name}.js": (f"{name}.js", "text/javascript") for name in ("shown", "offline")}

PARTS = ("-ask", "-acts", "-canned", "-list", "-talk", "-why", "-queues", "-health")
"""The modules of the operators' desk beside its first."""

OPERATOR = {
    "/operator": ("operator.html", "text/html"),
    **{f"/operator{part}.js": (f"operator{part}.js", "text/javascript") for part in ("", *PARTS)},
    "/operator.css": ("operator.css", "text/css"),
}
PAGE = {
    "/": ("chat.html", "text/html"),
    "/chat.js": ("chat.js", "text/javascript"),
    "/people.js": ("people.js", "text/javascript"),
    "/chat.css": ("chat.css", "text/css"),
    "/chat.svg": ("chat.svg", "image/svg+xml"),
}


def static(name: str, kind: str, words: Mapping[str, str]) -> Callable[[Request], Awaitable[Response]]:
    """Return an endpoint that answers with a file of the page, or says that the reader's copy is still good; *words* are put into it."""
    text = filled(name, words)
    tag = digest(text)

    @allows(anyone=True)
    async def answer(request: Request) -> Response:
        packs = wire.reads_gzip(request)
        headers = {
            "cache-control": "no-cache",
            "etag": f'"{tag}-gzip"' if packs else f'"{tag}"',
            "vary": "accept-encoding",
        }
        if headers["etag"] in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        if packs:
            return Response(packed(text), headers=headers | {"content-encoding": "gzip"}, media_type=kind)
        return Response(text, headers=headers, media_type=kind)

    return answer


def filled(name: str, words: Mapping[str, str]) -> str:
    """Return a file of the page as it is served, with *words* where it names them."""
    text = stored(name)
    for word, value in words.items():
        text = text.replace(f"{{{{{word}}}}}", html.escape(value))
    return text


def version_of(words: Mapping[str, str]) -> str:
    """Return a name for this version of the chat page, which its service worker keeps under it."""
    return digest("".join(filled(name, words) for name, _ in (CLIENT | SHOWN | PAGE).values() if name != "offline.js"))


def digest(text: str) -> str:
    """Return what names *text*, and no other one."""
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


@cache
def stored(name: str) -> str:
    """Return a file of the page; in a wheel the scripts are shorter than their source (`tools/short_scripts.py`)."""
    return (files(__package__) / "page" / name).read_text()


@cache
def packed(text: str) -> bytes:
    """Return *text* as gzip: made when it is first asked for, and kept."""
    return gzip.compress(text.encode(), 9, mtime=0)
