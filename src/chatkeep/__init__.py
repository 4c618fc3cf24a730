"""Durable conversation state for chatbots."""

from .app import Chatkeep, Tenant
from .engine.turn import Turn
from .errors import (
    BadKey,
    BadMessage,
    ChatkeepError,
    Conflict,
    Corrupt,
    DeliveryFailed,
    Duplicate,
    HandlerFailed,
    Misconfigured,
    Overloaded,
    Replaced,
    StoreError,
    TooLarge,
    Unavailable,
    Uncertain,
    Unsupported,
    UsageError,
)
from .model import Conversation, Message, Receipt

__all__ = [
    "BadKey",
    "BadMessage",
    "Chatkeep",
    "ChatkeepError",
    "Conflict",
    "Conversation",
    "Corrupt",
    "DeliveryFailed",
    "Duplicate",
    "HandlerFailed",
    "Message",
    "Misconfigured",
    "Overloaded",
    "Receipt",
    "Replaced",
    "StoreError",
    "Tenant",
    "TooLarge",
    "Turn",
    "Unavailable",
    "Uncertain",
    "Unsupported",
    "UsageError",
]

__version__ = "0.1.0"
