"""Durable conversation state for chatbots."""

from .app import Chatkeep, Reply, Statistics
from .conversation.merge import MISSING
from .conversation.outbox import Delivery, DeliveryStatus
from .conversation.saves import SavedMessage
from .engine.instruments import Arrival, Instrument
from .engine.statistics import Tended
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
    KeyReused,
    Misconfigured,
    Moved,
    NotOpen,
    OtherOwner,
    Overloaded,
    Replaced,
    StoreError,
    TooLarge,
    Unavailable,
    Uncertain,
    Unsupported,
    UsageError,
)
from .model import (
    Content,
    Conversation,
    DeadLetter,
    Delta,
    Erased,
    Event,
    Message,
    Part,
    Receipt,
    Redacted,
    Role,
    StateChanged,
    Status,
    Typing,
)
from .people.lists import Changed, Summary
from .people.surface import Lost, MergedSlot
from .people.user import Saved, User
from .settings import Duration, Flags, OnOutage, Options, Overlap, Settings
from .tenant import Tenant, Unread

__all__ = [
    "MISSING",
    "Arrival",
    "BadKey",
    "BadMessage",
    "Changed",
    "Chatkeep",
    "ChatkeepError",
    "Conflict",
    "Content",
    "Conversation",
    "Corrupt",
    "DeadLetter",
    "Delivery",
    "DeliveryFailed",
    "DeliveryStatus",
    "Delta",
    "Duplicate",
    "Duration",
    "Erased",
    "Event",
    "Flags",
    "HandlerFailed",
    "Instrument",
    "KeyReused",
    "Lost",
    "MergedSlot",
    "Message",
    "Misconfigured",
    "Moved",
    "NotOpen",
    "OnOutage",
    "Options",
    "OtherOwner",
    "Overlap",
    "Overloaded",
    "Part",
    "Receipt",
    "Redacted",
    "Replaced",
    "Reply",
    "Role",
    "Saved",
    "SavedMessage",
    "Settings",
    "StateChanged",
    "Statistics",
    "Status",
    "StoreError",
    "Summary",
    "Tenant",
    "Tended",
    "TooLarge",
    "Turn",
    "Typing",
    "Unavailable",
    "Uncertain",
    "Unread",
    "Unsupported",
    "UsageError",
    "User",
]

__version__ = "0.2.0"
