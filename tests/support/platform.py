"""A messaging platform on this machine: takes what channels send, writes it down, and answers as platforms do, or as it is told."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .serving import Answer, Client, serving

SECRET = "an app secret"


class Platform:
    """What was sent here, in order; *then* holds answers for the next requests: (status, body), or seconds to wait first."""

    def __init__(self) -> None:
        self.port = 0
        self.sent: list[dict[str, Any]] = []
        self.then: list[tuple[int, Any] | float] = []
        self.numbers = 0

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def texts(self) -> list[str]:
        """The texts that were sent."""
        return [
            told["text"]["body"] if isinstance(told.get("text"), dict) else str(told.get("text")) for told in self.sent
        ]

    def to(self, customer: str) -> list[str]:
        """The texts that were sent to *customer*."""
        return [text for told, text in zip(self.sent, self.texts, strict=True) if str(told.get("to")) == customer]

    async def take(self, request: Request) -> Response:
        """One request of a channel."""
        told = await request.json()
        told["path"] = request.url.path
        answer = self.then.pop(0) if self.then else None
        if isinstance(answer, float):
            await asyncio.sleep(answer)
            answer = None
        if answer is not None:
            return JSONResponse(answer[1], answer[0])
        self.sent.append(told)
        self.numbers += 1
        if "sendMessage" in request.url.path:
            return JSONResponse(
                {"ok": True, "result": {"message_id": self.numbers, "date": 1, "chat": {"id": told["chat_id"]}}}
            )
        return JSONResponse(
            {"messaging_product": "whatsapp", "contacts": [], "messages": [{"id": f"wamid.out{self.numbers}"}]}
        )


@asynccontextmanager
async def platform() -> AsyncIterator[Platform]:
    """A platform until the end of the block."""
    found = Platform()
    app = Starlette(routes=[Route("/{path:path}", found.take, methods=["POST"])])
    async with serving(app) as port:
        found.port = port
        yield found


def whatsapp_message(
    customer: str, text: str, id: str, *, account: str = "1550", at: int = 1763697600
) -> dict[str, Any]:
    """What WhatsApp posts when *customer* writes."""
    return {
        "from": customer,
        "id": id,
        "timestamp": str(at),
        "type": "text",
        "text": {"body": text},
        "account": account,
    }


def whatsapp_status(customer: str, id: str, status: str, *, account: str = "1550", key: str = "") -> dict[str, Any]:
    """What WhatsApp posts when a message of ours was delivered or read; it repeats the key that came with it."""
    more = {"biz_opaque_callback_data": key} if key else {}
    return more | {"id": id, "status": status, "timestamp": "1763697700", "recipient_id": customer, "account": account}


async def post_whatsapp(client: Client, *items: dict[str, Any], secret: str = SECRET) -> Answer:
    """Posts messages and statuses in one signed webhook, each account's in a change of its own."""
    changes = []
    for item in items:
        account = item["account"]
        plain = {name: value for name, value in item.items() if name != "account"}
        value: dict[str, Any] = {
            "messaging_product": "whatsapp",
            "metadata": {"display_phone_number": "15550001", "phone_number_id": account},
        }
        value |= {"statuses": [plain]} if "status" in plain else {"messages": [plain]}
        changes.append({"field": "messages", "value": value})
    body = json.dumps({"object": "whatsapp_business_account", "entry": [{"id": "9", "changes": changes}]}).encode()
    signature = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    headers = {"X-Hub-Signature-256": f"sha256={signature}", "Authorization": ""}
    return await client.ask("POST", "/channels/whatsapp", body, headers)
