"""How simulated customers reach a server: over its API, or through a platform that posts webhooks and takes the replies."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any, NamedTuple
from urllib.parse import quote

import msgspec

from ..channels import Channel, Telegram, WhatsApp
from ..errors import UsageError
from ..extras import from_extra

with from_extra("client", "chatkeep simulate"):
    from aiohttp import web


class SentMessage(NamedTuple):
    """A message of a customer."""

    conversation: str
    customer: str
    id: str
    text: str


class Post(NamedTuple):
    """What is sent to the server."""

    path: str
    headers: dict[str, str]
    body: bytes


class ApiTransport:
    """Customers whose backend uses the HTTP API. channel: whose replies go out through a platform; here they are in the answer."""

    channel: Channel | None = None

    def __init__(self, key: str) -> None:
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}

    def said(self, run: int, customer: int, place: int, text: str) -> SentMessage:
        """Return a message in a conversation such as sim-12345678-7."""
        name = f"sim-{run}-{customer}"
        return SentMessage(name, name, f"{run}.{customer}.{place}", text)

    def post(self, said: SentMessage) -> Post:
        """Return the message as a post to the conversation's messages, named by the body's id."""
        body = msgspec.json.encode({"id": said.id, "content": said.text})
        return Post(f"/v1/conversations/{quote(said.conversation, safe='')}/messages", self._headers, body)


class WhatsAppTransport:
    """Customers on WhatsApp: signed webhooks."""

    def __init__(self, secret: str, account: str) -> None:
        self._secret, self._account = secret, account
        self.channel: Channel | None = WhatsApp(accounts={account: "-"}, secrets=secret, verify_tokens="-")

    def said(self, run: int, customer: int, place: int, text: str) -> SentMessage:
        """Return a message from a number that nobody has."""
        number = f"999{run}{customer:05}"
        return SentMessage(f"whatsapp:{self._account}:{number}", number, f"wamid.{run}.{customer}.{place}", text)

    def post(self, said: SentMessage) -> Post:
        """Return the message as the platform posts it."""
        message = {"from": said.customer, "id": said.id, "type": "text", "text": {"body": said.text}}
        value = {
            "messaging_product": "whatsapp",
            "metadata": {"display_phone_number": "0", "phone_number_id": self._account},
            "messages": [message | {"timestamp": str(int(time.time()))}],
        }
        entry = {"id": "0", "changes": [{"field": "messages", "value": value}]}
        body = msgspec.json.encode({"object": "whatsapp_business_account", "entry": [entry]})
        signed = f"sha256={hmac.digest(self._secret.encode(), body, 'sha256').hex()}"
        return Post("/channels/whatsapp", {"X-Hub-Signature-256": signed, "Content-Type": "application/json"}, body)


class TelegramTransport:
    """Customers on Telegram: webhooks with the secret token."""

    def __init__(self, secret: str, account: str) -> None:
        self._secret, self._account = secret, account
        self.channel: Channel | None = Telegram(token=f"{account}:-", secrets=secret)

    def said(self, run: int, customer: int, place: int, text: str) -> SentMessage:
        """Return a message in a private chat."""
        chat = f"{run}{customer:05}"
        return SentMessage(f"telegram:{self._account}:{chat}", chat, f"1{customer:05}{place:05}", text)

    def post(self, said: SentMessage) -> Post:
        """Return the message as the platform posts it."""
        chat = {"id": int(said.customer), "type": "private"}
        message = {"message_id": int(said.id), "date": int(time.time()), "chat": chat, "text": said.text}
        body = msgspec.json.encode({"update_id": int(said.id), "message": message})
        headers = {"X-Telegram-Bot-Api-Secret-Token": self._secret, "Content-Type": "application/json"}
        return Post("/channels/telegram", headers, body)


Transport = ApiTransport | WhatsAppTransport | TelegramTransport


def transport_for(channel: str, *, key: str, secret: str = "", account: str | None = None) -> Transport:
    """Tell how customers of *channel* reach the server: "api", "whatsapp" or "telegram"."""
    if channel == "whatsapp":
        return WhatsAppTransport(secret, account or "1550")
    return TelegramTransport(secret, account or "42") if channel == "telegram" else ApiTransport(key)


class Platform:
    """Where the server sends replies: each customer's screen, with the time at which a message appeared on it, and the bell
    that rings then."""

    def __init__(self) -> None:
        self.screens: dict[str, list[tuple[float, Any]]] = defaultdict(list)
        self.bells: dict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._numbers = 0

    async def take(self, request: web.Request) -> web.Response:
        """Answer one request of a channel, as platforms do."""
        told = await request.json()
        self._numbers += 1
        if not told.keys() & {"status", "callback_query_id", "action"}:  # ticks and typing, which say nothing
            customer = str(told.get("to") or told.get("chat_id"))
            self.screens[customer].append((time.monotonic(), told))
            self.bells[customer].set()
        result = {"message_id": self._numbers, "date": 0, "chat": {"id": 0, "type": "private"}}
        return web.json_response(
            {"ok": True, "result": result, "messages": [{"id": f"wamid.platform.{self._numbers}"}]}
        )

    @contextlib.asynccontextmanager
    async def listening(self, port: int) -> AsyncIterator[None]:
        """Take what comes to *port* of 127.0.0.1, until the end of the block."""
        app = web.Application()
        app.router.add_post("/{path:.*}", self.take)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", port).start()
        except OSError as fault:
            raise UsageError(
                f"Port {port} cannot be listened on ({fault.strerror}); nothing was simulated. Choose another --platform-port."
            ) from fault
        else:
            yield
        finally:
            await runner.cleanup()
