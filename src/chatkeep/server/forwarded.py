"""What proxies say of where a request comes from, and which of them are believed."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Sequence
from typing import Any, cast
from urllib.parse import quote, unquote

from starlette.types import ASGIApp, Receive, Scope, Send

from ..extras import from_extra
from .limits import is_forwarded
from .settings import PREFIX

with from_extra("server", "chatkeep serve"):
    from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

log = logging.getLogger("chatkeep.server")


class Forwarded:
    """Believes what listed proxies say of where a request comes from and which prefix they took off its path, and says once
    that another address says so. *root_path*: the prefix where none is said."""

    def __init__(self, app: ASGIApp, proxies: Sequence[str], root_path: str = "") -> None:
        self.app = app
        self._root_path = root_path
        self._believed = ProxyHeadersMiddleware(cast(Any, self._served), list(proxies))
        self._told = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the life of the application."""
        forwarded = scope["type"] == "http" and is_forwarded(scope)
        client = scope.get("client")
        peer = client[0] if client else ""
        believed = forwarded and peer in self._believed.trusted_hosts
        if scope["type"] == "http" and (prefix := (prefix_of(scope) if believed else "") or self._root_path):
            put_under(prefix, scope)
        if not forwarded:
            await self.app(scope, receive, send)
            return
        if believed:
            scope["chatkeep.proxy"] = client
            await self._believed(cast(Any, scope), cast(Any, receive), cast(Any, send))
            return
        if not self._told:
            self._told = True
            log.warning(
                "%s sends forwarding headers and is not listed in `proxies`, so they are not believed. If it is your proxy, "
                "everybody behind it counts as one address for the rate limits: list it. This is said once.",
                peer or "A client without an address",
            )
        await self.app(scope, receive, send)

    async def _served(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            ipaddress.ip_address(scope["client"][0])
        except ValueError:  # a proxy that passes on anything: what is no address counts as the proxy itself
            scope["client"] = scope["chatkeep.proxy"]
        await self.app(scope, receive, send)


def prefix_of(scope: Scope) -> str:
    """Return the prefix that a proxy says it has taken off the path of a request; "" if it says none, or what cannot be one."""
    given = [value.decode("latin-1").rstrip("/") for name, value in scope["headers"] if name == b"x-forwarded-prefix"]
    return given[0] if len(given) == 1 and PREFIX.fullmatch(given[0]) else ""


def put_under(prefix: str, scope: Scope) -> None:
    """Have a request come to an application that is mounted under *prefix*: its path as a client has asked for it."""
    path, scope["root_path"] = scope["path"], unquote(prefix)
    if not f"{path}/".startswith(f"{scope['root_path']}/"):  # else the proxy took nothing off
        scope["raw_path"] = prefix.encode() + (scope.get("raw_path") or quote(path).encode())
        scope["path"] = scope["root_path"] + path
