"""Puts `request.state.chat` into the requests of an ASGI application, and the cookie into its answers."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Generic

import msgspec

from ..errors import BadMessage, KeyReused, TooLarge, Unavailable, Uncertain
from ..model import State
from .chat import Chat, Refusal
from .keeping import Keeping
from .site import cookies_named

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

log = logging.getLogger("chatkeep")

RETRY_AFTER_S = 2

AWAY = (
    "The store that has this chat cannot be reached now. Nothing was lost: what was said before is kept, and the cookie stays as it "
    "was. Try again in a moment, with a message under the same id."
)
UNKNOWN = (
    "The store that has this chat did not say whether the message was recorded. The cookie stays as it was. Send the message again in a "
    "moment, under the same id: it counts once."
)

NO_WEBSOCKET = "a websocket's headers go out before its first message"


class CookieMiddleware(Generic[State]):
    """The ASGI application *app* with the chats of *of*."""

    def __init__(self, of: Keeping[State], app: Application) -> None:
        self._of = of
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or the application's lifespan."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, self._closing(send))
        elif scope["type"] in ("http", "websocket"):
            await self._serve(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _closing(self, send: Send) -> Send:
        async def closing(event: Event) -> None:
            if event["type"] in ("lifespan.shutdown.complete", "lifespan.shutdown.failed"):
                await self._of.close()
            await send(event)

        return closing

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        chat = self._chat_of(scope)
        answer = _Answer(chat, send)
        if scope["type"] == "websocket":
            chat.refuse(NO_WEBSOCKET)
        scope = {**scope, "state": {**scope.get("state", {}), "chat": chat}}
        try:
            await self.app(scope, receive, answer.send if scope["type"] == "http" else send)
        except (BadMessage, TooLarge, Unavailable, Uncertain) as fault:
            if fault is not chat.refused or (answer.begun and not answer.refuses):
                raise
            await answer.refuse(fault)
        finally:
            await chat.close()

    def _chat_of(self, scope: Scope) -> Chat[State]:
        headers: list[tuple[bytes, bytes]] = scope.get("headers", [])
        host = next((value.decode("latin-1") for name, value in headers if name.lower() == b"host"), "")
        site = self._of.place.site_of(host, https=scope.get("scheme") in ("https", "wss"))
        cookies = [value.decode("latin-1") for name, value in headers if name.lower() == b"cookie"]
        return Chat(self._of, site, cookies_named(site.name, cookies))


class _Answer:
    """The answer to one request."""

    def __init__(self, chat: Chat[Any], send: Send) -> None:
        self._chat = chat
        self._send = send
        self.begun = False
        self.refuses = False
        """A refusal was answered in the place of what the application has made of it."""

    async def send(self, event: Event) -> None:
        """Send *event*, with the cookie where the answer begins."""
        if self.refuses:
            return
        if event["type"] == "http.response.start":
            if event["status"] == 500 and self._chat.refused is not None:  # nobody has caught it
                await self.refuse(self._chat.refused)
                return
            self.begun = True
            if headers := self._chat.headers():
                ours = [(name.encode(), value.encode("latin-1")) for name, value in headers]
                theirs = [one for one in event.get("headers", ()) if bytes(one[0]).lower() != b"cache-control"]
                event = {**event, "headers": [*theirs, *ours]}
        await self._send(event)

    async def refuse(self, fault: Refusal) -> None:
        """Answer why the call was not done, once; the cookie stays as it was."""
        if self.refuses:
            return
        self.begun = self.refuses = True
        self._chat.refuse("the answer was sent")
        headers = [(b"content-type", b"application/problem+json"), (b"cache-control", b"no-store")]
        if isinstance(fault, TooLarge):
            status, word, title, detail = 413, "too-large", "Content Too Large", str(fault)
        elif isinstance(fault, BadMessage):
            word = "key-reused" if isinstance(fault, KeyReused) else "bad-message"
            status, title, detail = 422, "Unprocessable Content", str(fault)
        else:
            log.error("%s: %s", type(fault).__name__, fault)  # with the store's address, which is nothing for visitors
            word, detail = ("uncertain", UNKNOWN) if isinstance(fault, Uncertain) else ("unavailable", AWAY)
            status, title = 503, "Service Unavailable"
            headers.append((b"retry-after", b"%d" % RETRY_AFTER_S))
        document = {"type": f"urn:chatkeep:{word}", "title": title, "status": status, "detail": detail}
        body = msgspec.json.encode(document)
        headers.append((b"content-length", b"%d" % len(body)))
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})
