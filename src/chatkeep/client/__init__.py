"""Conversations on a chatkeep server, from Python: `Client`, and `SyncClient` for code without an event loop.

async with Client("https://chat.example", token="ck_c_...") as client:
    chat = client.conversation("ada")
    receipt = await chat.send("hello")
    async for event in chat.events():
        ...
"""

from ..errors import KeyReused
from ..model import Answering, Delta, PartSaid, Stopped, Typing
from .account import Account, Claimed
from .blocking import SyncAccount, SyncChat, SyncClient, SyncSlot
from .chat import Chat, Client, Slot
from .events import Ended, Event, MessageEvent, StateEvent
from .refusals import Forbidden, NotFound, PreconditionFailed, Unauthorized
from .values import Conversation, Created, Credential, Me, Pending, Queued, Receipt, Redeemed, Share, Token

__all__ = [
    "Account",
    "Answering",
    "Chat",
    "Claimed",
    "Client",
    "Conversation",
    "Created",
    "Credential",
    "Delta",
    "Ended",
    "Event",
    "Forbidden",
    "KeyReused",
    "Me",
    "MessageEvent",
    "NotFound",
    "PartSaid",
    "Pending",
    "PreconditionFailed",
    "Queued",
    "Receipt",
    "Redeemed",
    "Share",
    "Slot",
    "StateEvent",
    "Stopped",
    "SyncAccount",
    "SyncChat",
    "SyncClient",
    "SyncSlot",
    "Token",
    "Typing",
    "Unauthorized",
]
