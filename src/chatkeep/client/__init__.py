"""Conversations on a chatkeep server, from Python: `Client`, and `SyncClient` for code without an event loop.

    async with Client("https://chat.example", token="ck_c_...") as client:
        chat = client.conversation("ada")
        receipt = await chat.send("hello")
        for message in await chat.history():
            print(message.role, message.text)

`chat.events()` shows the conversation as it goes on.
"""

from ..errors import KeyReused
from ..model import Answering, Delta, Failing, PartSaid, SetAside, Stopped, Typing
from ..people.lists import Changed, Summary
from .account import Account, Claimed, SignedIn
from .blocking import SyncAccount, SyncChat, SyncClient, SyncDesk, SyncSlot
from .chat import Chat, Slot
from .client import Client
from .desk import Desk
from .events import Ended, Event, MessageEvent, StateEvent
from .notices import Notice
from .refusals import Forbidden, NotFound, PreconditionFailed, Unauthorized
from .statistics import Statistics
from .values import (
    Conversation,
    Created,
    Credential,
    DeadLetter,
    Exported,
    Listed,
    Me,
    Pending,
    ProcessStats,
    Queued,
    Receipt,
    Redeemed,
    Share,
    Token,
)

__all__ = [
    "Account",
    "Answering",
    "Changed",
    "Chat",
    "Claimed",
    "Client",
    "Conversation",
    "Created",
    "Credential",
    "DeadLetter",
    "Delta",
    "Desk",
    "Ended",
    "Event",
    "Exported",
    "Failing",
    "Forbidden",
    "KeyReused",
    "Listed",
    "Me",
    "MessageEvent",
    "NotFound",
    "Notice",
    "PartSaid",
    "Pending",
    "PreconditionFailed",
    "ProcessStats",
    "Queued",
    "Receipt",
    "Redeemed",
    "SetAside",
    "Share",
    "SignedIn",
    "Slot",
    "StateEvent",
    "Statistics",
    "Stopped",
    "Summary",
    "SyncAccount",
    "SyncChat",
    "SyncClient",
    "SyncDesk",
    "SyncSlot",
    "Token",
    "Typing",
    "Unauthorized",
]
