"""Bella Napoli takes orders: menu, cart, address, confirmation. No network, no model, the same answer each time.

Everything the bot must remember is in `Order`. It never saves anything: whatever `bot` leaves in `turn.state` is
recorded together with its reply, so a restart in the middle of an order is something the guest does not notice.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from difflib import get_close_matches
from typing import Literal

from msgspec import Struct, field

from ..keep import Chatkeep
from ..model import Turn

MENU = {
    "margherita": 750,
    "marinara": 650,
    "diavola": 950,
    "funghi": 900,
    "quattro formaggi": 1050,
    "tiramisu": 550,
    "panna cotta": 500,
    "espresso": 220,
    "lemonade": 350,
    "water": 200,
}
"""What there is, in cents."""

MOST = 20
"""Of one thing, in one order."""

NUMBERS = {"a": 1, "an": 1, "another": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "ten": 10}
CHATTER = {"please", "pizza", "pizzas", "of", "the", "some", "i", "id", "we", "want", "would", "like", "to", "add", "x"}
CHATTER |= {"order", "can", "could", "have", "get", "give", "me", "us", "also", "more"}

WELCOME = "Benvenuto at Bella Napoli!"
HELP = (
    "Tell me what you would like, such as “2 margherita and a tiramisu”.\n"
    "You can also say: menu, cart, remove margherita, checkout, address, cancel, new order."
)


class Order(Struct):
    """All that the bot knows of one guest."""

    stage: Literal["choosing", "address", "confirming", "placed"] = "choosing"
    cart: dict[str, int] = field(default_factory=dict)
    address: str = ""
    number: str = ""
    welcomed: bool = False


def build(url: str) -> Chatkeep[Order]:
    """The restaurant on the store *url*. A guest who has been away for half an hour starts with an empty cart."""
    keep = Chatkeep(url, state=Order, session_ttl="30m")
    keep.on_message(bot)
    return keep


async def bot(turn: Turn[Order]) -> str:
    """Answers one message."""
    order = turn.state
    if not order.welcomed:
        order.welcomed = True
        turn.reply(WELCOME)
    return answer(order, turn.text, number=order_number(turn))


def order_number(turn: Turn[Order]) -> str:
    """The number an order gets if it is placed in this turn: made of the turn's id, so the same however often it is
    tried."""
    return f"BN-{zlib.crc32(f'{turn.conversation} {turn.id}'.encode()) % 10_000:04}"


def answer(order: Order, text: str, *, number: str) -> str:
    """Takes *text* into the order and says what to say."""
    said = " ".join(text.split()).strip(" .!?")
    if not said:
        return "I can only read text. " + HELP
    if len(said) > 300:
        return "That is a lot to read in a busy kitchen. Please say it in fewer words."
    word, _, rest = said.lower().partition(" ")
    match said.lower():
        case "menu" | "the menu" | "show menu" | "show me the menu":
            return menu()
        case "hi" | "hello" | "hey" | "ciao" | "good morning" | "good evening" | "help" | "start":
            return f"{HELP}\n\n{where_we_are(order)}"
        case "cart" | "my cart" | "show cart" | "order" | "my order" | "status":
            return where_we_are(order)
        case "new order" | "new" | "start over" | "restart":
            begin_again(order)
            return "A new order, then.\n\n" + menu()
        case "cancel" | "cancel order" | "cancel my order" | "clear" | "empty cart":
            return cancel(order)
        case "checkout" | "check out" | "done" | "that's all" | "that is all" | "finish" | "pay":
            return check_out(order)
        case "confirm":
            return confirm(order, number)
        case "yes" | "y" | "ok" | "okay":
            return confirm(order, number) if order.stage == "confirming" else where_we_are(order)
        case "no" | "n" | "no thanks" | "nothing" if order.stage == "choosing":
            return check_out(order)
        case "no" | "n" | "change" if order.stage == "confirming":
            order.stage = "choosing"
            return "What shall I change? Add something, “remove” something, or tell me the “address” again."
    if word in ("remove", "delete", "without"):
        return remove(order, rest)
    if word == "address":
        return take_address(order, said[len("address") :].strip(" :")) if rest else ask_address(order)
    if order.stage == "address" and not names_dishes(said):
        return take_address(order, said)
    return add(order, said)


def menu() -> str:
    """The menu as text."""
    return "Today we have:\n" + "\n".join(f"• {dish}, {price(cents)}" for dish, cents in MENU.items())


def where_we_are(order: Order) -> str:
    """The cart, and what the guest can do next."""
    if order.stage == "placed":
        return (
            f"Order {order.number} is on its way to {order.address}:\n{cart(order)}\nSay “new order” for another one."
        )
    if not order.cart:
        return "Your cart is empty. Say “menu” to see what there is."
    todo = {
        "choosing": "Anything else? Say “checkout” when that is all.",
        "address": "Where shall we bring it?",
        "confirming": f"It goes to {order.address}. Say “confirm” to order, or “no” to change something.",
    }
    return f"In your cart:\n{cart(order)}\n{todo[order.stage]}"


def cart(order: Order) -> str:
    """The cart and its total as text."""
    lines = [f"• {count} {dish}, {price(count * MENU[dish])}" for dish, count in order.cart.items()]
    return "\n".join([*lines, f"Total: {total(order)}"])


def add(order: Order, said: str) -> str:
    """Puts dishes into the cart; after an order was placed, into the cart of the next one."""
    found, unknown = dishes(said)
    if not found:
        return f"I do not know “{said[:60]}”.\n{HELP}\n\n{where_we_are(order)}"
    if order.stage == "placed":
        begin_again(order)
    wanted = Counter(order.cart)
    for count, dish in found:
        wanted[dish] += count
        if not 1 <= count <= wanted[dish] <= MOST:
            return f"I can take 1 to {MOST} of each dish, so nothing was added.\n{where_we_are(order)}"
    order.cart = dict(wanted)
    added = "Added " + ", ".join(f"{count} {dish}" for count, dish in found) + "."
    if unknown:
        added += f" I do not know {', '.join(f'“{name}”' for name in unknown)}; say “menu” to see what there is."
    return f"{added}\n{where_we_are(order)}"


def remove(order: Order, said: str) -> str:
    """Takes dishes out of the cart: all of a dish, or as many as are named."""
    if order.stage == "placed":
        return cancel(order)
    found, _ = dishes(said, all_of_it=MOST)
    gone = [(min(count, order.cart[dish]), dish) for count, dish in found if dish in order.cart]
    for count, dish in gone:
        order.cart[dish] -= count
    order.cart = {dish: count for dish, count in order.cart.items() if count}
    if not order.cart:
        order.stage = "choosing"
    if not gone:
        return f"There is no “{said[:60]}” in your cart.\n{where_we_are(order)}"
    return "Removed " + ", ".join(f"{count} {dish}" for count, dish in gone) + f".\n{where_we_are(order)}"


def check_out(order: Order) -> str:
    """Goes on to the address, or to the confirmation if the address is known."""
    if order.cart and order.stage != "placed":
        order.stage = "confirming" if order.address else "address"
    return where_we_are(order)


def ask_address(order: Order) -> str:
    """Asks for the address, now or again."""
    if order.stage == "placed" or not order.cart:
        return where_we_are(order)
    order.stage = "address"
    return "Where shall we bring it?"


def take_address(order: Order, said: str) -> str:
    """Notes the address."""
    if order.stage == "placed":
        return where_we_are(order)
    if len(said) < 5:
        return f"“{said}” is a bit short for an address. Please tell me street, number and town."
    order.address = said
    if order.cart:
        order.stage = "confirming"
    return f"To {said}.\n{where_we_are(order)}"


def confirm(order: Order, number: str) -> str:
    """Places the order, once."""
    if order.stage != "confirming":
        return check_out(order)
    order.stage, order.number = "placed", number
    return f"Grazie! Order {number} is in the oven. It goes to {order.address}; {total(order)} to the driver, please."


def cancel(order: Order) -> str:
    """Empties the cart, unless it is too late."""
    if order.stage == "placed":
        return f"Order {order.number} is in the oven already and cannot be changed. Say “new order” for another one."
    begin_again(order)
    return "Your cart is empty again. Say “menu” to see what there is."


def begin_again(order: Order) -> None:
    """An empty cart; the address stays known."""
    order.stage, order.cart, order.number = "choosing", {}, ""


def dishes(said: str, *, all_of_it: int = 1) -> tuple[list[tuple[int, str]], list[str]]:
    """The counts and dishes named in *said*, and the names that are on no menu. *all_of_it* is the count of a dish
    without one."""
    found, unknown = [], []
    for part in re.split(r"[,;&+]|\band\b|\bwith\b", said.lower().replace("ù", "u")):
        words = [word for word in re.findall(r"[\w-]+", part.replace("'", "")) if word not in CHATTER]
        count, name = counted(words, otherwise=all_of_it)
        if dish := on_menu(name):
            found.append((count, dish))
        elif name:
            unknown.append(name)
    return found, unknown


def counted(words: list[str], *, otherwise: int) -> tuple[int, str]:
    """Splits "2 margherita", "two margherita", "2x margherita" or "margherita x2" into count and name."""
    for place, rest in ((0, words[1:]), (-1, words[:-1])):
        word = words[place].strip("x") if words else ""
        if word in NUMBERS or re.fullmatch("[0-9]{1,4}", word):
            return NUMBERS.get(word) or int(word), " ".join(rest)
    return otherwise, " ".join(words)


def on_menu(name: str) -> str:
    """The dish that *name* means, with a slip of the finger or a plural s allowed; "" when there is none."""
    starts = [dish for dish in MENU if len(name) > 3 and dish.startswith(name)]
    return next(iter([*starts, *get_close_matches(name, MENU, n=1, cutoff=0.75)]), "")


def names_dishes(said: str) -> bool:
    """Whether *said* is nothing but dishes, so not an address."""
    found, unknown = dishes(said)
    return bool(found) and not unknown


def total(order: Order) -> str:
    """What the cart costs."""
    return price(sum(count * MENU[dish] for dish, count in order.cart.items()))


def price(cents: int) -> str:
    """An amount of money as text."""
    return f"€{cents / 100:.2f}"
