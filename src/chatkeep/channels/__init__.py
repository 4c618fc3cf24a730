"""Channels: WhatsApp, Messenger, Instagram, Telegram and signed webhooks, each pure and each one small file.

The web needs none: browsers speak the HTTP API.
"""

from __future__ import annotations

from . import bodies
from .base import (
    Challenge,
    Channel,
    Delivered,
    Failed,
    Inbound,
    Outcome,
    Pairs,
    Received,
    Refused,
    Request,
    Response,
    Retry,
    Status,
    Uncertain,
    Unknown,
    address_of,
    conversation_of,
    header,
    same,
    secrets_of,
)
from .messenger import Instagram, Messenger
from .telegram import Telegram
from .webhook import Webhook
from .whatsapp import WhatsApp

__all__ = [
    "Challenge",
    "Channel",
    "Delivered",
    "Failed",
    "Inbound",
    "Instagram",
    "Messenger",
    "Outcome",
    "Pairs",
    "Received",
    "Refused",
    "Request",
    "Response",
    "Retry",
    "Status",
    "Telegram",
    "Uncertain",
    "Unknown",
    "Webhook",
    "WhatsApp",
    "address_of",
    "bodies",
    "conversation_of",
    "header",
    "same",
    "secrets_of",
]
