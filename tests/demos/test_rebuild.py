"""The restaurant takes orders up again from its own database: once, at a sane stage, or it says that it cannot."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from chatkeep import Chatkeep, HandlerFailed
from chatkeep.demos.orders import Orders, Placed

from ..support.talking import Clock, as_json, bot_on, told

ORDERS = "orders-of-the-house.db"
CART = ("hello", "2 margherita with olives")
STAGES = {
    "an empty cart": (("hello",), "12 Via Roma, Napoli", {"stage": "choosing", "cart": {}, "address": ""}),
    "a cart": (CART, "cart", {"stage": "choosing", "address": ""}),
    "the address asked for": ((*CART, "checkout"), "hello", {"stage": "choosing", "address": ""}),
    "the address known": (
        (*CART, "checkout", "12 Via Roma"),
        "hello",
        {"stage": "confirming", "address": "12 Via Roma"},
    ),
    "pick up, by card": (
        (*CART, "pick up at porto", "card"),
        "cart",
        {"stage": "confirming", "pickup": True, "branch": "Porto", "payment": "card"},
    ),
    "changing": ((*CART, "checkout", "12 Via Roma", "no"), "cart", {"stage": "confirming", "address": "12 Via Roma"}),
    "placed": ((*CART, "checkout", "12 Via Roma", "yes"), "status", {"stage": "placed", "address": "12 Via Roma"}),
    "placed, and the next one begun": (
        (*CART, "checkout", "12 Via Roma", "yes", "a water"),
        "cart",
        {"stage": "confirming", "cart": {"water": 1}, "address": "12 Via Roma"},
    ),
    "placed, and the next one given up": (
        (*CART, "checkout", "12 Via Roma", "yes", "a water", "cancel"),
        "status",
        {"stage": "placed", "cart": {"margherita + olives": 2}},
    ),
}


async def say(keep: Any, *lines: str, conversation: str = "ada") -> dict[str, Any]:
    """Says all *lines*; gives the state after them."""
    for line in lines:
        await keep.receive(conversation, line)
    return as_json((await keep.conversation(conversation)).state)


async def rebuilds(keep: Chatkeep[Any]) -> int:
    """How often the session of ada was rebuilt, as its log has it."""
    return len([message async for message in keep.history("ada") if message.role == "system"])


@pytest.mark.parametrize("stage", STAGES)
async def test_a_lost_conversation_goes_on_at_a_sane_stage(stage: str, tmp_path: Path) -> None:
    """The store is lost, the orders are not: the next message finds items, way, address, payment, branch and
    reference, and is not taken for the answer to a question of before."""
    lines, then, wanted = STAGES[stage]
    clock = Clock()
    async with bot_on("restaurant", f"sqlite:///{tmp_path}/lost.db", tmp_path, clock=clock) as keep:
        for line in lines:
            clock.now += 1
            before = await say(keep, line)
    clock.now += 60
    async with bot_on("restaurant", f"sqlite:///{tmp_path}/new.db", tmp_path, clock=clock) as keep:
        after = await say(keep, then)
        again = await say(keep, "cart")
        ran = await rebuilds(keep)

    kept = {} if "given up" in stage else {slot: before[slot] for slot in ("cart", "reference", "pickup", "payment")}
    assert {**kept, **wanted} == {slot: after[slot] for slot in {**kept, **wanted}}
    assert again["cart"] == after["cart"]
    assert 1 == ran


async def test_two_instances_rebuild_a_session_once(tmp_path: Path) -> None:
    """Six messages at once over two instances on one new store: one rebuild, and every dish counted once."""
    async with bot_on("restaurant", f"sqlite:///{tmp_path}/lost.db", tmp_path) as keep:
        await say(keep, *CART)
    url = f"sqlite:///{tmp_path}/new.db"
    async with bot_on("restaurant", url, tmp_path) as one, bot_on("restaurant", url, tmp_path) as two:
        await asyncio.gather(*[keep.receive("ada", "a water") for keep in (one, two) for _ in range(3)])
        after = await say(one, "cart")
        ran = await rebuilds(two)

    assert {"margherita + olives": 2, "water": 6} == after["cart"]
    assert 1 == ran


async def test_half_an_hour_later_the_cart_is_fresh_and_an_order_is_known(tmp_path: Path) -> None:
    """Idle is not lost: a cart is given up, for good, and what was ordered is still on its way, for three hours."""
    clock = Clock()
    url = f"sqlite:///{tmp_path}/chat.db"
    async with bot_on("restaurant", url, tmp_path, clock=clock) as keep:
        await say(keep, *CART)
        clock.now += 31 * 60
        idle = await say(keep, "hello")
        await say(keep, "a water", "checkout", "12 Via Roma", "confirm")
        clock.now += 31 * 60
        ordered = await say(keep, "status")
        clock.now += 3 * 3600
        late = await say(keep, "status")
        session = (await keep.conversation("ada")).session
    async with bot_on("restaurant", f"sqlite:///{tmp_path}/new.db", tmp_path, clock=clock) as keep:
        lost = await say(keep, "hello")

    assert [{}, {"water": 1}, {}, {}] == [state["cart"] for state in (idle, ordered, late, lost)]
    assert "placed" == ordered["stage"]
    assert 4 == session


async def test_nobody_gets_the_order_of_another(tmp_path: Path) -> None:
    """Another guest, and a guest of the same number at another restaurant, start with nothing."""
    async with bot_on("restaurant", f"sqlite:///{tmp_path}/lost.db", tmp_path) as keep:
        await say(keep.tenant("bella"), *CART)
    async with bot_on("restaurant", f"sqlite:///{tmp_path}/new.db", tmp_path) as keep:
        others = [
            await say(keep.tenant("sakura"), "cart"),
            await say(keep.tenant("bella"), "cart", conversation="bob"),
            await say(keep, "cart"),
        ]
        own = await say(keep.tenant("bella"), "cart")

    assert [{}, {}, {}] == [state["cart"] for state in others]
    assert {"margherita + olives": 2} == own["cart"]


def off_the_menu(path: Path) -> None:
    """A dish that the house does not have."""
    with closing(sqlite3.connect(path)) as orders, orders:
        orders.execute("update orders set items = '{\"haggis\": 2}'")


def impossible_count(path: Path) -> None:
    """Less than nothing of a dish."""
    with closing(sqlite3.connect(path)) as orders, orders:
        orders.execute("update orders set items = '{\"margherita\": -2}'")


def no_json(path: Path) -> None:
    """Items that are half written."""
    with closing(sqlite3.connect(path)) as orders, orders:
        orders.execute("update orders set items = '{\"marg'")


def no_database(path: Path) -> None:
    """A file full of something else."""
    path.write_bytes(b"what is this" * 1000)


@pytest.mark.parametrize("damage", [off_the_menu, impossible_count, no_json, no_database])
async def test_a_failed_rebuild_is_reported_and_the_message_waits(damage: Any, tmp_path: Path) -> None:
    """Whoever calls is told; the guest sees no empty cart, and gets the answer when the database is mended."""
    clock, path = Clock(), tmp_path / ORDERS
    async with bot_on("restaurant", f"sqlite:///{tmp_path}/lost.db", tmp_path) as keep:
        before = await say(keep, *CART)
    good = path.read_bytes()
    damage(path)
    async with bot_on("restaurant", f"sqlite:///{tmp_path}/new.db", tmp_path, clock=clock) as keep:
        with pytest.raises(HandlerFailed, match="could not rebuild the state"):
            await keep.receive("ada", "a water", id="wamid.9")
        waiting = await keep.conversation("ada")
        path.write_bytes(good)
        clock.now += 600
        receipt = await keep.receive("ada", "a water", id="wamid.9")
        after = as_json((await keep.conversation("ada")).state)

    assert (1, [], 0) == (waiting.unread, waiting.dead, waiting.session)
    assert ["a water"] == [message.text for message in waiting.messages]
    assert "Added 1 water" in told(receipt.replies)
    assert before["cart"] | {"water": 1} == after["cart"]


def test_an_order_that_is_written_twice_is_there_once(tmp_path: Path) -> None:
    """A turn may run again: the same order under the same reference is the same row; a guest has one draft."""
    database = Orders(tmp_path / ORDERS)
    order = Placed("BN-1", "draft", {"water": 1}, False, "", "", "cash", 1.0)
    for _ in range(2):
        database.save("bella", "ada", order)
    database.save("bella", "ada", Placed("BN-2", "draft", {"water": 2}, True, "Porto", "", "card", 2.0))
    database.save("bella", "bob", order)
    with closing(sqlite3.connect(database.path)) as orders:
        rows = orders.execute("select guest, reference, status from orders order by 1, 2").fetchall()

    assert [("ada", "BN-1", "dropped"), ("ada", "BN-2", "draft"), ("bob", "BN-1", "draft")] == rows
    assert {"water": 2} == getattr(database.latest("bella", "ada"), "items", None)


async def test_an_order_is_in_the_database_before_anybody_hears_of_it(tmp_path: Path) -> None:
    """When the database cannot be written, no reply says that something was ordered, and the state is as before."""
    async with bot_on("restaurant", f"sqlite:///{tmp_path}/chat.db", tmp_path, attempts=1) as keep:
        before = await say(keep, *CART, "checkout", "12 Via Roma")
        good = (tmp_path / ORDERS).read_bytes()
        no_database(tmp_path / ORDERS)
        with pytest.raises(HandlerFailed):
            await keep.receive("ada", "confirm")
        (tmp_path / ORDERS).write_bytes(good)
        there = await keep.conversation("ada")
        after = await say(keep, "confirm")

    assert before == as_json(there.state)
    assert "in the oven" not in there.messages[-1].text
    assert "placed" == after["stage"]
