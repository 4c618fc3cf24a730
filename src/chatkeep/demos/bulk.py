"""A print shop takes bulk orders, one question at a time: products, quantities, delivery, contact, confirmation.

The order is a form. `ask` looks for the first thing that is missing and asks for it, so the talk never has a position to lose: after a
restart, a correction or a week away, the next question follows from the state alone.
"""

from __future__ import annotations

import re
from typing import Any, Literal

from msgspec import Struct, field

from ..app import Chatkeep
from ..engine.turn import Turn
from ..model import Part
from .words import buttons, contact_in, heard, listed, mentioned, nearest, plain, reference, unreadable

PRODUCTS = {"T-shirt": 690, "Hoodie": 1850, "Mug": 420, "Tote bag": 310, "Notebook": 280}
"""What there is, and the price of one in cents."""

LEAST, MOST = 25, 10_000
"""Of one product, in one order."""

DISCOUNTS = {1000: 20, 500: 15, 100: 10}
"""Per cent off, from so many of a product."""

Slot = Literal["product", "quantity", "delivery", "contact", "confirm"]


class BulkOrder(Struct):
    """The form. *lines*: product to quantity, 0 where it has not been said yet. *asked*: what the last question was about."""

    lines: dict[str, int] = field(default_factory=dict)
    complete: bool = False
    delivery: str = ""
    contact: str = ""
    asked: Slot = "product"
    reference: str = ""


def build(url: str, **options: Any) -> Chatkeep[BulkOrder]:
    """Return the print shop on the store *url*. An order may be taken up again for a week."""
    keep = Chatkeep(url, state=BulkOrder, **({"session_ttl": "7d"} | options))

    @keep.on_message
    async def bot(turn: Turn[BulkOrder]) -> str | Part:
        """Answer one message."""
        return answer(turn.state, heard(turn), new=reference("PW", turn))

    return keep


def answer(order: BulkOrder, said: str, *, new: str) -> str | Part:
    """Take what was *said* into the order and give the next question. *new* is the order's reference if this places it."""
    if trouble := unreadable(said):
        return trouble
    words = plain(said)
    if words in ("new order", "start over", "cancel", "restart"):
        clear(order)
        return ask(order, "Let us start with an empty order.")
    if order.reference and words not in ("summary", "help", "products"):
        return ask(order)
    match words:
        case "help" | "hi" | "hello" | "hey" | "start":
            return ask(order, HELP)
        case "products" | "prices" | "catalogue" | "catalog" | "menu":
            return ask(order, catalogue())
        case "summary" | "order" | "status" | "my order":
            return ask(order, summary(order))
        case "confirm" | "yes" | "ok" | "place order" if missing(order) == "confirm":
            order.reference = new
            return ask(order)
        case "that is all" | "that's all" | "done" | "no" | "no more" | "nothing else" if order.lines:
            order.complete = True
            return ask(order)
        case "add a product" | "add" | "more" | "another product":
            order.complete = False
            return ask(order)
    if told := correct(order, said):
        return ask(order, told)
    if told := fill(order, said):
        return ask(order, told)
    return ask(order, f"I did not get “{said[:60]}”. {HELP}")


HELP = (
    "I take orders from 25 pieces on. You can say “200 mugs”, and at any time: products, summary, remove mugs, "
    "change delivery to ..., change contact to ..., start over."
)


def correct(order: BulkOrder, said: str) -> str:
    """Return a correction or removal, whatever was asked; "" when *said* is none."""
    words = plain(said)
    if named := re.match(
        r"(?:change |correct |set )?(?:the |my )?(delivery|address|contact|email|phone)\b( to\b|:)?(.*)", words
    ):
        slot: Slot = "delivery" if named[1] in ("delivery", "address") else "contact"
        given = re.sub(r"(?i)^.*?\b(delivery|address|contact|email|phone)\b( to\b|:)?", "", said).strip()
        if given:
            return note(order, slot, given)
        setattr(order, slot, "")
        return f"Let us change the {slot}."
    if words.startswith(("remove ", "delete ", "no ", "without ")):
        gone = [product for product in products_in(words) if product in order.lines]
        for product in gone:
            del order.lines[product]
        order.complete = order.complete and bool(order.lines)
        return (
            f"Removed {listed([f'{product.lower()}s' for product in gone])}."
            if gone
            else f"That is not in your order. {summary(order)}"
        )
    left = re.sub(r"\b(?:and|add|also|please|actually|change|make|set|to|it)\b|[0-9.,']", "", words)
    for product in mentioned(words, PRODUCTS):
        left = re.sub(rf"\b{re.escape(plain(product))}s?\b", "", left)
    # "Mug Worker 5" is an address, "500 mugs" is not.
    return take_products(order, words) if order.asked != "delivery" or not left.strip() else ""


def fill(order: BulkOrder, said: str) -> str:
    """Return the answer to what was asked; "" when *said* is none."""
    match order.asked:
        case "quantity":
            waiting = next((product for product, count in order.lines.items() if not count), "")
            count = re.search(r"[0-9][0-9.,' ]*", said)
            return set_quantity(order, waiting, number(count[0])) if waiting and count else ""
        case "delivery" | "contact":
            return note(order, order.asked, said)
    return ""


def note(order: BulkOrder, slot: Slot, given: str) -> str:
    """Write an address or a contact into the order, if it can be one."""
    if slot == "contact":
        if not contact_in(given):
            return "I need an email address or a phone number, such as ada@example.com."
        order.contact = given
        return f"We write to {given}."
    if len(given) < 8:
        return f"“{given}” is a bit short for an address. Please tell me street, number and town."
    order.delivery = given
    return f"We deliver to {given}."


def take_products(order: BulkOrder, words: str) -> str:
    """Return the products, each with or without a quantity: "200 mugs and hoodies"; "" when none is named."""
    told, left = [], words
    for product in products_in(words):
        name = rf"{re.escape(plain(product))}s?"
        count = re.search(rf"\b([0-9][0-9.,']*) (?:\w+ )?{name}\b|\b{name}\b(?: to| x|:)? ([0-9][0-9.,']*)", left)
        order.lines.setdefault(product, 0)
        if count:
            told.append(set_quantity(order, product, number(count[1] or count[2])))
        else:
            order.lines[product] = order.lines[product] if not words.startswith("change") else 0
            told.append(f"Noted: {product.lower()}s.")
    return "\n".join(told)


def set_quantity(order: BulkOrder, product: str, count: int) -> str:
    """Write the quantity of a product, if it is possible."""
    if not LEAST <= count <= MOST:
        stays = f" It stays at {pieces(order.lines[product], product)}." if order.lines[product] else ""
        return f"I can take {LEAST} to {MOST:,} of a product, so not {count:,} {product.lower()}s.{stays}"
    order.lines[product] = count
    return f"{pieces(count, product)}: €{cost(product, count) / 100:,.2f}."


def pieces(count: int, product: str) -> str:
    """Say so many of a product: "200 mugs"."""
    return f"{count:,} {product.lower()}s"


def products_in(words: str) -> list[str]:
    """Return the products that are named, slips of the finger allowed when nothing else is said."""
    return mentioned(words, PRODUCTS) or [found for found in [nearest(words, PRODUCTS)] if found]


def number(digits: str) -> int:
    """1,000 and 1.000 and 1'000 are a thousand here: nobody orders parts of a mug."""
    return int(re.sub(r"[^0-9]", "", digits) or 0)


def cost(product: str, count: int) -> int:
    """Return what so many cost, in cents, the discount taken off."""
    off = next((off for least, off in DISCOUNTS.items() if count >= least), 0)
    return PRODUCTS[product] * count * (100 - off) // 100


def missing(order: BulkOrder) -> Slot:
    """Return what has to be asked next."""
    if not order.lines or not (order.complete or not all(order.lines.values())):
        return "product"
    if not all(order.lines.values()):
        return "quantity"
    return "confirm" if order.delivery and order.contact else "contact" if order.delivery else "delivery"


def ask(order: BulkOrder, first: str = "") -> Part:
    """Return the next question; *first* is said before."""
    order.asked = missing(order)
    if order.reference:
        text, labels = f"Thank you! Your order {order.reference} is placed.\n{summary(order)}", ["New order"]
    elif order.asked == "product":
        text = (
            "Anything else? Say “that is all” when the list is complete."
            if order.lines
            else "What shall we print for you?"
        )
        labels = [*(["That is all"] if order.lines else []), *[each for each in PRODUCTS if each not in order.lines]]
    elif order.asked == "quantity":
        product = next(product for product, count in order.lines.items() if not count)
        text, labels = f"How many {product.lower()}s?", [str(LEAST), "100", "500"]
    elif order.asked == "delivery":
        text, labels = "Where shall we deliver? Street, number and town, please.", ["Summary", "Add a product"]
    elif order.asked == "contact":
        text, labels = "How can we reach you? An email address or a phone number.", ["Summary", "Change delivery"]
    else:
        text = f"{summary(order)}\nSay “confirm” to place the order, or tell me what to change."
        labels = ["Confirm", "Add a product", "Change delivery", "Change contact"]
    return buttons(f"{first}\n{text}" if first else text, *labels)


def summary(order: BulkOrder) -> str:
    """Return the order as text."""
    if not order.lines:
        return "Your order is empty."
    lines = [f"• {pieces(count, name)}, €{cost(name, count) / 100:,.2f}" for name, count in order.lines.items()]
    total = sum(cost(product, count) for product, count in order.lines.items())
    known = [f"Delivery: {order.delivery}"] * bool(order.delivery) + [f"Contact: {order.contact}"] * bool(order.contact)
    return "\n".join([*lines, f"Total: €{total / 100:,.2f}", *known])


def catalogue() -> str:
    """Return the products and prices."""
    discounts = ", ".join(f"{off} % off from {least:,}" for least, off in reversed(DISCOUNTS.items()))
    return "\n".join([*[f"• {name}, €{cents / 100:.2f}" for name, cents in PRODUCTS.items()], f"{discounts}."])


def clear(order: BulkOrder) -> None:
    """Empty the form."""
    order.lines, order.complete, order.delivery, order.contact, order.reference = {}, False, "", "", ""
