"""What people write, as a strict type checker has to take it."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, assert_type

from chatkeep import (
    Chatkeep,
    Conversation,
    Delivery,
    Delta,
    Erased,
    Event,
    Failing,
    Message,
    Options,
    PartSaid,
    Receipt,
    Redacted,
    SetAside,
    Settings,
    StateChanged,
    Tenant,
    Turn,
    Typing,
)
from chatkeep.blocking import BlockingChatkeep, BlockingTenant


@dataclass
class Order:
    """A state."""

    dishes: list[str] = field(default_factory=list)


keep = Chatkeep("sqlite:///chat.db", session_ttl="30m", retention=timedelta(days=30), overlap="burst", history=5)
assert_type(keep, Chatkeep[dict[str, Any]])


@keep.on_message
async def bot(turn: Turn) -> str:
    """A handler of the default state."""
    assert_type(turn.state, dict[str, Any])
    cart = turn.state.setdefault("cart", [])
    cart.append(turn.text)
    return f"{len(cart)} in your cart"


@keep.on_missing
async def rebuild(turn: Turn) -> dict[str, Any]:
    """A hook of the default state."""
    return {"cart": []}


orders = Chatkeep("memory://", state=Order, on_outage="read")
assert_type(orders, Chatkeep[Order])


@orders.on_message
def plain(turn: Turn[Order]) -> list[str | dict[str, Any]] | None:
    """A plain function; text and parts."""
    turn.state.dishes.append(turn.text)
    return ["noted", {"type": "image", "url": "https://example.com/a.png"}]


@orders.on_missing
def remembered(turn: Turn[Order]) -> Order | None:
    """A plain hook."""
    return None


streaming = Chatkeep("memory://", state=Order)


@streaming.on_message
async def streamed(turn: Turn[Order]) -> AsyncIterator[str]:
    """A streamed reply."""
    yield "a"
    yield "b"


def made(url: str, options: Options) -> Chatkeep[Order]:
    """Options that are passed on."""
    return Chatkeep(url, state=Order, **options)


async def use() -> None:
    """The words of a Chatkeep and of a tenant."""
    async with keep:
        assert_type(await keep.receive("ada", "hello", id="1"), Receipt)
        assert_type(keep.settings, Settings)
        salon = keep.tenant("salon")
        assert_type(salon, Tenant[dict[str, Any]])
        assert_type(await salon.conversation("ada"), Conversation[dict[str, Any]] | None)
        await orders.change("ada", lambda state: state.dishes.clear())
        deliveries: list[Delivery] = await keep.deliveries("ada")
        assert [delivery.status for delivery in deliveries] == []
        await keep.pause("ada")
        await salon.resume("ada", unread="skip")
        async for found in keep.all_conversations():
            assert_type(found, Conversation[dict[str, Any]])
        async for event in keep.events("ada"):
            shown(event)


def use_from_a_thread() -> None:
    """The same words without an event loop."""
    with BlockingChatkeep(orders) as chat:
        assert_type(chat, BlockingChatkeep[Order])
        assert_type(chat.receive("ada", "hello", id="1"), Receipt)
        assert_type(chat.conversation("ada"), Conversation[Order] | None)
        assert_type(chat.change("ada", lambda state: state.dishes.clear()), Conversation[Order])
        assert_type(chat.query("select 1"), list[tuple[Any, ...]])
        for message in chat.history("ada", limit=3):
            assert_type(message, Message)
        for found in chat.all_conversations(by="key"):
            assert_type(found, Conversation[Order])
        salon = chat.tenant("salon")
        assert_type(salon, BlockingTenant[Order])
        assert_type(salon.create("ada", owner="eve"), Conversation[Order])
        for event in salon.events("ada", after=0):
            shown(event)


def shown(event: Event) -> str:
    """Every kind of event has a name."""
    match event:
        case Message():
            return event.text
        case Delta():
            return event.text
        case PartSaid():
            return str(event.content)
        case Typing():
            return str(event.on)
        case StateChanged():
            return str(event.state)
        case Failing():
            return str(event.attempts)
        case SetAside() | Redacted():
            return str(event.number)
        case Erased():
            return ""
