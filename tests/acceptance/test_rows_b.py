"""The checklist of the restaurant on WhatsApp, row by row: silent after a restart, carts forgotten. No more."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import pytest

from chatkeep import Chatkeep
from chatkeep.demos.menus import BELLA, SAKURA

from ..support.platform import platform
from ..support.rows import Customer, Instance, durable, instance, place, put_forward, text_of
from ..support.serving import Client
from ..support.soaking import SOAK
from ..support.stores import LASTING, store_url
from ..support.waiting import nothing_happens_for, takes, time_passes

ORDER = (
    ("hello", "Your cart is empty"),
    ("2 margherita and a lemonade", "Total: €18.50"),
    ("a tiramisu", "Total: €24.00"),
    ("remove 1 margherita", "Total: €16.50"),
    ("checkout", "Where shall we bring it?"),
    ("12 Via Roma, Napoli", "To 12 Via Roma, Napoli."),
    ("pay by card", "you pay by card"),
    ("confirm", "is in the oven"),
)
"""What a customer writes, and what the answer to it says."""

ORDERED = {
    "cart": {"margherita": 1, "lemonade": 1, "tiramisu": 1},
    "address": "12 Via Roma, Napoli",
    "payment": "card",
    "stage": "placed",
}
KILLS = 6 * SOAK
"""On each of them."""
AT_ONCE_S = 3.0
"""After the server is back; most of it is allowed for a busy machine."""


# -- B1 -------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", LASTING)
async def test_b1_killed_at_any_moment_of_an_order(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """kill -9, each time at another moment of another order; nobody has to write anything twice. Half of the kills come at once."""
    chosen, url = Random(f"b1 {kind}"), store_url(kind, request, tmp_path)
    hit, waits = Counter[str](), list[float]()
    async with platform() as there, instance(tmp_path, "restaurant", url, there, orders="orders.db") as it:
        customers = [Customer(there, it, phone=f"49170{number:04}") for number in range(KILLS)]
        for nth, customer in enumerate(customers):
            struck = chosen.randrange(len(ORDER))
            for number, (words, answer) in enumerate(ORDER):
                saying = asyncio.create_task(customer.say(words, times=1 + (chosen.random() < 0.2)))
                if number == struck:
                    await takes(chosen.uniform(0, 0.015) * (nth % 2))
                    it.kill()
                    hit[moment(saying, customer, answer)] += 1
                    await it.start()
                    began = time.monotonic()
                    await saying
                    await customer.hear(answer)
                    waits.append(time.monotonic() - began)
                await saying
                if number != struck and chosen.random() < 0.6:
                    await customer.hear(answer)
        operator = await it.operator("bella")
        for customer in customers:
            await check_order(customer, operator)
    doubled = sum(len(customer.sendings) - len(customer.heard) for customer in customers)
    print(f"{kind}: killed {dict(hit)}; {doubled} doubled; answered after {max(waits):.2f} s at most")

    assert hit["before it was acknowledged"] + hit["before it was answered"] > 2
    assert AT_ONCE_S > max(waits)
    assert dict.fromkeys((customer.conversation for customer in customers), 1) == placed(tmp_path)


def moment(saying: asyncio.Task[None], customer: Customer, answer: str) -> str:
    """When the server died."""
    if not saying.done():
        return "before it was acknowledged"
    return "after it was answered" if any(answer in text for text in customer.heard) else "before it was answered"


async def check_order(customer: Customer, operator: Client) -> None:
    """All was heard and answered once and in order; only what was noted as doubtful came twice; the cart is right."""
    await asyncio.wait_for(settled(customer.conversation, operator), 10)
    log = await operator.log(customer.conversation, "?limit=200")
    replies = [message for message in log if message["role"] == "assistant"]
    sendings = (await operator.ask("GET", place(customer.conversation, "deliveries"))).json["deliveries"]
    found = (await operator.ask("GET", place(customer.conversation))).json
    doubtful = {sending["number"] for sending in sendings if sending["doubtful"]}
    came = Counter(id for id, _ in customer.sendings)
    answers = [BELLA.welcome, *(answer for _, answer in ORDER)]

    assert [words for words, _ in ORDER] == [message["content"] for message in log if message["role"] == "user"]
    assert [reply["id"] for reply in replies] == list(dict(customer.sendings))
    assert [] == [
        answer for reply, answer in zip(replies, answers, strict=True) if answer not in text_of(reply["content"])
    ]
    assert {"delivered"} == {sending["status"] for sending in sendings}
    assert doubtful >= {reply["number"] for reply in replies if came[reply["id"]] > 1}
    assert max(came.values()) <= 2
    assert ORDERED == {slot: found["state"][slot] for slot in ORDERED}
    assert (0, []) == (found["unread"], found["dead"])


async def settled(conversation: str, operator: Client) -> None:
    """Waits until all of a conversation is answered, and every answer is noted as sent."""
    while True:
        found = (await operator.ask("GET", place(conversation))).json
        sendings = (await operator.ask("GET", place(conversation, "deliveries"))).json.get("deliveries", [])
        if not found.get("unread", 1) and all(sending["status"] != "waiting" for sending in sendings):
            return
        await asyncio.sleep(0.02)


def placed(folder: Path) -> dict[str, int]:
    """How many orders of each guest the restaurant's own database has as placed."""
    with closing(sqlite3.connect(folder / "orders.db")) as orders:
        return dict(orders.execute("select guest, count(*) from orders where status = 'placed' group by guest"))


@durable
async def test_b1_what_is_written_while_the_server_is_down_is_answered_when_it_is_back(
    url: str, tmp_path: Path
) -> None:
    """A planned stop instead of a kill; the platform posts on, the answer comes at once and knows the cart."""
    async with platform() as there, instance(tmp_path, "restaurant", url, there, orders="orders.db") as it:
        customer = Customer(there, it)
        await customer.ask("2 margherita", "Total: €15.00")
        code = await it.stop()
        writing = asyncio.create_task(customer.ask("a water", "Total: €17.00"))
        await time_passes(0.2)
        await it.start()
        answer = await asyncio.wait_for(writing, AT_ONCE_S)

        assert 0 == code
        assert "2 margherita" in answer
        assert 3 == len(customer.sendings)


# -- B2 to B5 -------------------------------------------------------------------------------------------------------------


@durable
async def test_b2_restaurants_never_see_each_other(url: str, tmp_path: Path) -> None:
    """One telephone writes to two restaurants: two carts, each answers through its own number, each key opens its own."""
    async with platform() as there, instance(tmp_path, "restaurant", url, there, orders="orders.db") as it:
        bella, sakura = Customer(there, it), Customer(there, it, account="1660")
        await asyncio.gather(bella.ask("2 margherita", "€15.00"), sakura.ask("2 gyoza", "€13.00"))
        await it.restart()
        await asyncio.gather(bella.ask("a water", "€17.00"), sakura.ask("a water", "€15.00"))
        await sakura.ask("margherita", "I do not know")
        operators = [await it.operator(tenant) for tenant in ("bella", "sakura")]
        listed = [(await each.ask("GET", "/v1/conversations")).json["conversations"] for each in operators]
        carts = [
            (await each.ask("GET", place(customer.conversation, "state/cart"))).json
            for each, customer in zip(operators, (bella, sakura), strict=True)
        ]
        foreign = [await operators[0].ask("GET", place(id)) for id in (sakura.conversation, "whatsapp:1660:nobody")]
        commands = await it.operate("list", url, "--tenant", "sakura", "--json")

    assert [BELLA.welcome, SAKURA.welcome] == [customer.heard[0] for customer in (bella, sakura)]
    assert [[bella.conversation], [sakura.conversation]] == [[found["id"] for found in each] for each in listed]
    assert [{"margherita": 2, "water": 1}, {"gyoza": 2, "water": 1}] == carts
    assert [404, 404] == [answer.status for answer in foreign]
    assert [sakura.conversation] == [json.loads(line)["conversation"] for line in commands.splitlines()]
    assert not [text for text in sakura.heard if "margherita," in text] + [
        text for text in bella.heard if "gyoza" in text
    ]


@durable
async def test_b3_a_session_that_is_lost_is_rebuilt_once(url: str, tmp_path: Path) -> None:
    """The conversation is gone from the store, the orders are not: three messages at once to two instances find the cart,
    the address and the payment, at a stage that takes any answer."""
    async with (
        platform() as there,
        instance(tmp_path, "restaurant", url, there, orders="orders.db") as one,
        instance(tmp_path, "restaurant", url, there, orders="orders.db") as two,
    ):
        customer = Customer(there, one, two)
        for words, answer in ORDER[1:-1]:
            await customer.ask(words, answer)
        operator = await one.operator("bella")
        before = (await operator.ask("GET", place(customer.conversation, "state"))).json
        await one.operate("erase", url, customer.conversation, "--tenant", "bella", "--yes")
        await asyncio.gather(*(customer.say(words) for words in ("cart", "cart", "cart")))
        await customer.hear("you pay by card")
        await settled(customer.conversation, operator)
        after = (await operator.ask("GET", place(customer.conversation, "state"))).json
        notes = [entry for entry in await history(one, customer, url) if entry["role"] == "system"]
        await customer.ask("confirm", f"Order {before['reference']} is in the oven")

    assert {**before, "stage": "confirming", "welcomed": True} == after
    assert 1 == len([note for note in notes if note["metadata"].get("kind") not in ("delivery", "status")]), notes
    assert {customer.conversation: 1} == placed(tmp_path)


@durable
async def test_b3_a_rebuild_that_fails_is_told_and_never_an_empty_cart(url: str, tmp_path: Path) -> None:
    """The business database cannot be read: no answer, the message waits and is shown as unread, the log says why; when it is
    mended the answer comes without being asked for again, also after a restart."""
    async with platform() as there, instance(tmp_path, "restaurant", url, there, orders="orders.db") as it:
        customer = Customer(there, it)
        await customer.ask("2 margherita", "€15.00")
        operator = await it.operator("bella")
        await it.operate("erase", url, customer.conversation, "--tenant", "bella", "--yes")
        write(tmp_path, "update orders set items = '{\"haggis\": 2}'")
        heard = len(customer.heard)
        await customer.say("cart")
        await nothing_happens_for(0.5)
        found = (await operator.ask("GET", place(customer.conversation))).json
        silent, told = customer.heard[heard:], it.log
        write(tmp_path, "update orders set items = '{\"margherita\": 2}'")
        put_forward(tmp_path, 6)  # it is tried again every 5 s
        await it.restart()
        await customer.hear("Total: €15.00")

    assert ([], 1, []) == (silent, found["unread"], found["dead"])
    assert ["cart"] == [message["content"] for message in found["messages"]]
    assert "on_missing" in told


async def history(it: Instance, customer: Customer, url: str) -> list[dict[str, Any]]:
    """The whole log of a customer, chatkeep's own notes included, as an operator sees it."""
    said = await it.operate("history", url, customer.conversation, "--tenant", "bella", "--json")
    return [json.loads(line) for line in said.splitlines()]


def write(folder: Path, statement: str) -> None:
    """Changes the business's own database."""
    with closing(sqlite3.connect(folder / "orders.db", timeout=5)) as orders, orders:
        orders.execute(statement)


STATELESS = """
import json, sqlite3
from contextlib import closing

keep = Chatkeep(STORE, session_ttl="0s", clock=clock, poll="50ms")

def business():
    db = sqlite3.connect("orders.db", timeout=5, isolation_level=None)
    db.execute("create table if not exists cart (tenant text, guest text, items text, primary key (tenant, guest))")
    return closing(db)

@keep.on_missing
def load(turn):
    with business() as db:
        row = db.execute("select items from cart where (tenant, guest) = (?, ?)", (turn.tenant, turn.conversation)).fetchone()
    return {"items": json.loads(row[0]) if row else [], "loaded": True}

@keep.on_message
def bot(turn):
    assert turn.state["loaded"]
    items = turn.state["items"] + [turn.text]
    with business() as db:
        db.execute("insert or replace into cart values (?, ?, ?)", (turn.tenant, turn.conversation, json.dumps(items)))
    return "cart: " + ", ".join(items)
"""


@durable
async def test_b4_a_bot_without_state_is_given_it_on_every_message(url: str, tmp_path: Path) -> None:
    """Each message is a session of its own: what the business changes meanwhile is seen by the very next one."""
    async with platform() as there, instance(tmp_path, STATELESS, url, there) as it:
        customer = Customer(there, it)
        await customer.ask("pizza", "cart: pizza")
        await it.restart()
        await customer.ask("water", "cart: pizza, water")
        write(tmp_path, "update cart set items = '[\"soup\"]'")
        await customer.ask("bread", "cart: soup, bread")
        log = await (await it.operator("bella")).log(customer.conversation)

    assert ["pizza", "water", "bread"] == [message["content"] for message in log if message["role"] == "user"]


@pytest.mark.parametrize(
    ("url", "ttl", "before", "after"),
    [
        ("sqlite", "30m", "29m", "60m"),
        ("redis", "24h", "23.9h", "48h"),
        pytest.param("postgresql", "30m", "29m", "60m", marks=pytest.mark.long),
    ],
    indirect=["url"],
)
async def test_b5_after_the_ttl_a_session_starts_fresh_and_the_log_stays(
    url: str, ttl: str, before: str, after: str, tmp_path: Path
) -> None:
    """Just before it the cart is there, restarted or not; after it the cart is empty, and operators still see all that was said."""
    async with (
        platform() as there,
        instance(tmp_path, "restaurant", url, there, orders="orders.db", session_ttl=ttl) as it,
    ):
        customer = Customer(there, it)
        await customer.ask("2 margherita", "€15.00")
        put_forward(tmp_path, before)
        await it.restart()
        await customer.ask("cart", "€15.00")
        put_forward(tmp_path, after)
        await customer.ask("cart", "Your cart is empty")
        operator = await it.operator("bella")
        found = (await operator.ask("GET", place(customer.conversation))).json
        log = await operator.log(customer.conversation)

    assert (2, {}) == (found["session"], found["state"]["cart"])
    assert ["2 margherita", "cart", "cart"] == [message["content"] for message in log if message["role"] == "user"]


# -- B6 to B9 -------------------------------------------------------------------------------------------------------------


@durable
@pytest.mark.parametrize("scope", ["everywhere", "restaurant", "conversation"])
async def test_b6_while_the_bot_is_off_messages_are_kept_and_shown(url: str, scope: str, tmp_path: Path) -> None:
    """For all, for one restaurant, for one customer: kept, shown, not answered, also after a restart; on again, answered."""
    async with (
        platform() as there,
        instance(tmp_path, "restaurant", url, there, orders="orders.db", poll="100ms") as it,
    ):
        ada, bob, eve = (
            Customer(there, it, phone=phone, account=account)
            for phone, account in (("1", "1550"), ("2", "1550"), ("3", "1660"))
        )
        everybody = {"everywhere": [ada, bob, eve], "restaurant": [ada, bob], "conversation": [ada]}
        operator = await it.operator("bella")
        for customer in (ada, bob, eve):
            await customer.ask("a water", "Total: €2.00")
        await pause(url, scope, ada, operator, paused=True)
        await time_passes(0.5)
        await it.restart()
        for customer in (ada, bob, eve):
            await customer.say("2 water")
            if customer not in everybody[scope]:
                await customer.hear("Total: €6.00")
        await nothing_happens_for(0.5)
        silent = [customer for customer in (ada, bob, eve) if not any("€6.00" in text for text in customer.heard)]
        found = (await operator.ask("GET", place(ada.conversation))).json
        await pause(url, scope, ada, operator, paused=False)
        put_forward(
            tmp_path, 31
        )  # after a wide pause, other instances look again at what they put aside within half a minute
        for customer in everybody[scope]:
            await customer.hear("Total: €6.00")

    assert everybody[scope] == silent
    assert (True, 1, "2 water") == (found["paused"], found["unread"], found["messages"][-1]["content"])


async def pause(url: str, scope: str, customer: Customer, operator: Client, *, paused: bool) -> None:
    """For a conversation over HTTP; wider pauses have only the library, which any process on the store may use."""
    if scope == "conversation":
        body = json.dumps({"paused": paused}).encode()
        assert (await operator.ask("PUT", place(customer.conversation, "bot"), body)).status == 200
        return
    async with Chatkeep(url, schema=0) as keep:
        bella = keep.tenant("bella")
        if scope == "restaurant":
            await (bella.pause() if paused else bella.resume())
        else:
            await (keep.pause_all() if paused else keep.resume_all())


@durable
async def test_b7_instances_behind_a_load_balancer_share_sessions(url: str, tmp_path: Path) -> None:
    """Each message, and each redelivery, goes to another instance; one is killed for good in the middle, unnoticed."""
    async with (
        platform() as there,
        instance(tmp_path, "restaurant", url, there, orders="orders.db") as one,
        instance(tmp_path, "restaurant", url, there, orders="orders.db") as two,
    ):
        customers = [Customer(there, one, two, phone=f"49170{number}") for number in range(5)]

        async def order(customer: Customer) -> None:
            for number, (words, answer) in enumerate(ORDER):
                await customer.say(words, times=2)
                await customer.hear(answer)
                if (number, customer) == (4, customers[0]):
                    one.kill()

        await asyncio.gather(*map(order, customers))
        operator = await two.operator("bella")
        for customer in customers:
            await check_order(customer, operator)


@durable
async def test_b8_operators_see_all_messages_and_look_into_sessions(url: str, tmp_path: Path) -> None:
    """API and command line show every message, from whom, how its sending stands, and the state; the page is in tests/web."""
    async with platform() as there, instance(tmp_path, "restaurant", url, there, orders="orders.db") as it:
        customers = [Customer(there, it, phone=phone) for phone in ("1", "2")]
        for customer in customers:
            await customer.ask("2 margherita", "€15.00")
        operator = await it.operator("bella")
        await settled(customers[0].conversation, operator)
        listed = (await operator.ask("GET", "/v1/conversations")).json["conversations"]
        found = (await operator.ask("GET", place(customers[0].conversation))).json
        log = await operator.log(customers[0].conversation)
        sent = (await operator.ask("GET", place(customers[0].conversation, "deliveries"))).json["deliveries"]
        said = [
            await it.operate(*command, "--tenant", "bella")
            for command in (
                ("list", url),
                ("show", url, customers[0].conversation),
                ("history", url, customers[0].conversation),
            )
        ]

    assert {customer.conversation for customer in customers} == {each["id"] for each in listed}
    assert ["user", "assistant", "assistant"] == [message["role"] for message in log]
    assert customers[0].heard == [text_of(message["content"]) for message in log[1:]]
    assert ({"margherita": 2}, "choosing") == (found["state"]["cart"], found["state"]["stage"])
    assert ["delivered", "delivered"] == [sending["status"] for sending in sent]
    assert all(customer.conversation in said[0] for customer in customers)
    assert ['"margherita": 2' in said[1], "2 margherita" in said[2]] == [True, True]


@durable
async def test_b9_their_checklist_passes_end_to_end(url: str, tmp_path: Path) -> None:
    """Respond, add to the cart, restart, remember, complete the order; half an hour later fresh; another restaurant; all is shown."""
    async with platform() as there, instance(tmp_path, "restaurant", url, there, orders="orders.db") as it:
        customer, other = Customer(there, it), Customer(there, it, account="1660")
        await customer.ask("hello", "Tell me what you would like")
        await customer.ask("2 margherita with olives", "Total: €17.00")
        await it.restart()
        await customer.ask("cart", "2 margherita + olives, €17.00")
        await customer.ask("checkout", "Where shall we bring it?")
        await it.restart()
        await customer.ask("12 Via Roma, Napoli", "It goes to 12 Via Roma, Napoli")
        await other.ask("cart", "Your cart is empty")
        await customer.ask("confirm", "is in the oven. It goes to 12 Via Roma, Napoli; €17.00 in cash")
        await customer.ask("new order", "A new order, then")
        await customer.ask("a water", "Total: €2.00")
        put_forward(tmp_path, "31m")
        await it.restart()
        fresh = await customer.ask("cart", "")
        operator = await it.operator("bella")
        log = await operator.log(customer.conversation, "?limit=100")
        state = (await operator.ask("GET", place(customer.conversation, "state"))).json

    assert {customer.conversation: 1} == placed(tmp_path)
    assert "is in the oven" in fresh
    assert ("placed", {"margherita + olives": 2}) == (state["stage"], state["cart"])
    assert 9 == len([message for message in log if message["role"] == "user"])
    assert customer.heard == [text_of(message["content"]) for message in log if message["role"] == "assistant"]
