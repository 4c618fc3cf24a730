"""Channels with secrets of their own, and how a platform would sign what it posts to them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import msgspec

from chatkeep.channels import Challenge, Channel, Inbound, Instagram, Messenger, Refused, Telegram, Webhook, WhatsApp

CORPUS = Path(__file__).parents[1] / "channels" / "corpus"
NOW = 1_763_700_000.0

META = ["whatsapp", "messenger", "instagram"]
META_SECRETS = ["new-app-secret", "old-app-secret"]
TELEGRAM_SECRETS = ["new_secret-1", "old_secret-1"]
WEBHOOK_SECRETS = ["whsec_" + base64.b64encode(bytes([seed]) * 24).decode() for seed in (1, 2)]

CHANNELS: dict[str, Channel] = {
    "whatsapp": WhatsApp(
        accounts={"200100300400500": "wa-token"}, secrets=META_SECRETS, verify_tokens=["hello", "old"]
    ),
    "messenger": Messenger(accounts={"700800900": "page-token"}, secrets=META_SECRETS, verify_tokens="hello"),
    "instagram": Instagram(accounts={"17841400000": "ig-token"}, secrets=META_SECRETS, verify_tokens="hello"),
    "telegram": Telegram(token="123456:AAF-secret", secrets=TELEGRAM_SECRETS),
    "webhook": Webhook("shop", secrets=WEBHOOK_SECRETS, url="https://shop.example/replies"),
}


def meta_signed(body: bytes, secret: str = META_SECRETS[0]) -> list[tuple[str, str]]:
    """The headers of a POST by Meta."""
    return [("X-Hub-Signature-256", "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest())]


def telegram_signed(body: bytes, secret: str = TELEGRAM_SECRETS[0]) -> list[tuple[str, str]]:
    """The headers of a POST by Telegram."""
    return [("X-Telegram-Bot-Api-Secret-Token", secret)]


def webhook_signed(body: bytes, secret: str = WEBHOOK_SECRETS[0], *, at: float = NOW) -> list[tuple[str, str]]:
    """The headers of a POST by the rules of Standard Webhooks."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signature = base64.b64encode(hmac.new(key, f"msg_1.{int(at)}.".encode() + body, hashlib.sha256).digest()).decode()
    return [("webhook-id", "msg_1"), ("webhook-timestamp", str(int(at))), ("webhook-signature", f"v1,{signature}")]


SIGNED = {
    "whatsapp": meta_signed,
    "messenger": meta_signed,
    "instagram": meta_signed,
    "telegram": telegram_signed,
    "webhook": webhook_signed,
}


def shown(found: list[Inbound]) -> list[dict[str, Any]]:
    """What was parsed, as the corpus has it: one object each, by the name of its kind, without what is empty."""
    return [
        {
            type(one).__name__: {
                member: value if member == "raw" else json.loads(msgspec.json.encode(value))
                for member, value in msgspec.structs.asdict(one).items()
                if value not in (None, "", {}, ())
            }
        }
        for one in found
    ]


def case(path: Path) -> dict[str, Any]:
    """One file of the corpus."""
    found: dict[str, Any] = json.loads(path.read_text())
    return found


BODY = b'{"object": "x", "entry": [{"id": 1}], "text": "caf\\u00e9"}'


def refused(
    name: str, headers: list[tuple[str, str]], body: bytes = BODY, *, method: str = "POST", at: float = NOW
) -> str:
    """What the channel says when it refuses; "" when it does not."""
    try:
        CHANNELS[name].verify(method, headers, [], body, at=at)
    except Refused as refusal:
        return str(refusal)
    return ""


def handshake(name: str, **asked: str) -> Challenge | None:
    """What the channel answers to hub.*."""
    return CHANNELS[name].verify("GET", [], [(f"hub.{key}", value) for key, value in asked.items()], b"", at=NOW)
