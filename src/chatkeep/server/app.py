"""Puts the application together: the API, the chat page, and what every answer carries."""

from __future__ import annotations

import html
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.convertors import Convertor, register_url_convertor
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .. import errors
from ..keep import Chatkeep
from . import api

HERE = ("localhost", "127.0.0.1", "[::1]")

PAGE = {
    "/": ("chat.html", "text/html"),
    "/chat.js": ("chat.js", "text/javascript"),
    "/chat.css": ("chat.css", "text/css"),
    "/chat.svg": ("chat.svg", "image/svg+xml"),
}

HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


def create_app(keep: Chatkeep[Any], *, title: str, hosts: Sequence[str] = HERE) -> Starlette:
    """
    The API and a chat page over *keep*, which is opened and closed with the application.

    There is no sign-in: whoever can reach it can read and write every conversation of the tenant "", so it answers
    only requests that name one of *hosts*. That keeps out pages of other sites that point their own name here.
    """

    @asynccontextmanager
    async def life(app: Starlette) -> AsyncIterator[None]:
        async with keep:
            yield

    app = Starlette(
        routes=[
            Route("/v1/conversations/{id:anything}/messages", api.Messages),
            Route("/healthz", api.get_health),
            *[Route(path, static(name, kind, title)) for path, (name, kind) in PAGE.items()],
        ],
        middleware=[
            Middleware(Guarded),
            Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False),
        ],
        exception_handlers={
            HTTPException: api.on_refused_request,
            errors.ChatkeepError: api.on_error,
            Exception: api.on_crash,
        },
        lifespan=life,
    )
    app.state.keep = keep
    app.router.redirect_slashes = False
    return app


def static(name: str, kind: str, title: str) -> Any:
    """An endpoint that answers with a file of the page; the title is put into it."""
    text = (files(__package__) / "page" / name).read_text().replace("{{title}}", html.escape(title))

    async def answer(request: Request) -> Response:
        return Response(text, headers={"cache-control": "no-cache"}, media_type=kind)

    return answer


class Anything(Convertor[str]):
    """A part of a path that may hold any character, also a slash or a line end."""

    regex = "(?s:.*)"

    def convert(self, value: str) -> str:
        """As it is."""
        return value

    def to_string(self, value: str) -> str:
        """As it is."""
        return value


register_url_convertor("anything", Anything())


class Guarded:
    """Puts HEADERS on every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self.app(scope, receive, send_guarded if scope["type"] == "http" else send)
