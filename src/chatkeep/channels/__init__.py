"""Channels: WhatsApp, Messenger, Instagram, Telegram and signed webhooks, each pure and each one small file.

The web needs none: browsers speak the HTTP API.
"""

from __future__ import annotations

from .base import (
    Challenge,
    Channel,
    Delivered,
    Failed,
    Inbound,
    Outcome,
    Received,
    Refused,
    Request,
    Response,
    Retry,
    Status,
    Uncertain,
    Unknown,
    address_of,
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
]
