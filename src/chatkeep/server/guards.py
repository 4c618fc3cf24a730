"""What stands around every address: which hosts are answered for, and the headers that keep browsers from mischief."""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from . import problems, wire

HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
"""Of every answer but JSON."""

HEADERS_OF_DATA = {
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "cross-origin-resource-policy": "same-origin",
}
"""Of JSON, which is no page. (Uvicorn looks each header over at 1.4 us apiece.)"""

GUARDS = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
GUARDS_OF_DATA = [(name.encode(), value.encode()) for name, value in HEADERS_OF_DATA.items()]
UNKEPT = (b"cache-control", b"no-store")
DATA = {b"application/json", b"application/problem+json"}

HOST_HELP = (
    "Name it in the setting `hosts` (CHATKEEP_HOSTS), or have the proxy in front pass on the host that was asked for (nginx: "
    "`proxy_set_header Host $http_host;`).\n"
)
PROBES = (b"/healthz", b"/readyz", b"/metrics")


def is_number(host: str) -> bool:
    """Tell whether a Host header names no host: a network address, or nothing."""
    try:
        return not host or bool(ip_address(urlsplit(f"//{host}").hostname or ""))
    except ValueError:
        return False


async def refuse_host(scope: Scope, receive: Receive, send: Send, detail: str) -> None:
    """Answer a request that is for another server, as every other error is told."""
    await problems.problem(Request(scope), "bad-request", 400, detail)(scope, receive, send)


class Hosts(TrustedHostMiddleware):
    """Refuses requests that name another server, or two; probes, which call a server by its number, are let through."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http":
            given = [value for name, value in scope["headers"] if name == b"host"]
            if len(given) > 1:
                await refuse_host(scope, receive, send, "There is more than one Host header; nothing was done.")
                return
            host = b"".join(given).decode("latin-1")
            if is_number(host) and wire.raw_path(scope) in PROBES:
                await self.app(scope, receive, send)
                return

            if not self._knows(host):
                said = f"This server is not called {host[:100]!a}; nothing was done. {HOST_HELP}"
                await refuse_host(scope, receive, send, said)
                return
        await self.app(scope, receive, send)

    def _knows(self, host: str) -> bool:
        """Tell whether a request that names *host* is for this server."""
        try:
            name = "" if set(host) & set("@/?#\\ ") else urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False  # what is no host at all is none where any is let in, too
        name = f"[{name}]" if ":" in name else name
        return self.allow_any or any(
            name == known or (known.startswith("*") and name.endswith(known[1:])) for known in self.allowed_hosts
        )


class SecurityHeaders:
    """Puts HEADERS or HEADERS_OF_DATA on every answer without a policy of its own, and lets nobody on the way keep it unless it says so."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                told, guards, kept = message["headers"], GUARDS, False
                for name, value in told:
                    if name == b"content-type" and value in DATA:
                        guards = GUARDS_OF_DATA
                    elif name == b"cache-control":
                        kept = True
                    elif name == b"content-security-policy":
                        guards = []
                message["headers"] = [*told, *guards] if kept else [*told, *guards, UNKEPT]
            await send(message)

        await self.app(scope, receive, send_guarded if scope["type"] == "http" else send)


async def on_crash(request: Request, fault: Exception) -> Response:
    """Return what a bug is answered with; Starlette does that outside of all middleware."""
    answer = await problems.on_crash(request, fault)
    answer.headers.update(HEADERS | {"cache-control": "no-store"})
    return answer
