"""Restaurants take orders: menu, cart with extras, delivery or pickup, payment, confirmation. Each tenant is a house.

Everything the bot must remember is in `Order`. It never saves a conversation: whatever it leaves in `turn.state` is
recorded together with its reply. Orders also go into the restaurant's own database (`orders`), and `rebuilt` takes one
up again from there when the conversation itself is gone. No network, no model, the same answer each time.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct, field

from ..app import Chatkeep
from ..engine.turn import Turn
from ..model import Part
from .menus import HOUSES, House, price, prices, understood, with_extras
from .orders import Orders, Placed
from .words import buttons, heard, nearest, plain, reference, unreadable

MOST = 20
"""Of one thing, in one order."""

PAYING = {"cash": "in cash", "card": "by card"}

ACTIVE_S = 3 * 3600.0
"""So long after it was placed, an order is still worth asking about."""


class Order(Struct):
    """All that the bot knows of one guest. The cart counts lines such as "margherita + olives"."""

    stage: Literal["choosing", "address", "confirming", "placed"] = "choosing"
    cart: dict[str, int] = field(default_factory=dict)
    pickup: bool = False
    branch: str = ""
    address: str = ""
    payment: Literal["cash", "card"] = "cash"
    reference: str = ""
    welcomed: bool = False


def build(url: str, *, orders: str | Path | None = None, **options: Any) -> Chatkeep[Order]:
    """Return the restaurants on the store *url*, their orders in the SQLite file *orders*: of its own for each SQLite store.

    A guest who has been away for half an hour starts with an empty cart.
    """
    keep = Chatkeep(url, state=Order, **({"session_ttl": "30m"} | options))
    if orders is None:
        store = Path(url.removeprefix("sqlite:///") if url.startswith("sqlite:///") else "restaurant")
        orders = store.with_name(f"{store.stem}-orders.db")
    database = Orders(orders)

    @keep.on_message
    async def bot(turn: Turn[Order]) -> str | Part:
        """Answer one message; an order that has changed is in the database before anybody hears of it.

        No `turn.step`, which would cost an act of its own: a turn that is tried again writes the same order again.
        """
        if turn.tenant not in HOUSES:
            return f"There is no restaurant “{turn.tenant}” here."
        house, order, before = HOUSES[turn.tenant], turn.state, deepcopy(turn.state)
        if not order.welcomed:
            order.welcomed = True
            turn.reply(house.welcome)
        said = Table(house, order).answer(heard(turn), new=reference(house.code, turn))
        if order.reference and order != before:
            await asyncio.to_thread(database.save, turn.tenant, turn.conversation, written(order, turn))
        elif before.reference and not order.reference:
            await asyncio.to_thread(database.drop_draft, turn.tenant, turn.conversation)
        return said

    @keep.on_missing
    async def rebuild(turn: Turn[Order]) -> Order | None:
        """Take an order up again; see `rebuilt`."""
        return await asyncio.to_thread(rebuilt, database, turn)

    return keep


def written(order: Order, turn: Turn[Order]) -> Placed:
    """Return the order as the database has it."""
    return Placed(
        reference=order.reference,
        status="placed" if order.stage == "placed" else "draft",
        items=order.cart,
        pickup=order.pickup,
        branch=order.branch,
        address=order.address,
        payment=order.payment,
        changed_at=turn.message.created_at,
    )


def rebuilt(database: Orders, turn: Turn[Order]) -> Order | None:
    """
    Return the guest's latest order, when no live session is there; None when there is nothing to go on with.

    A conversation that the store knows has only been idle: its cart is given up. One that it does not know was lost, and
    so was the question asked last. The stage is therefore one that takes any answer: never "address", where a "hello"
    would become the address. Raises LookupError or ValueError for an order that makes no sense: an empty cart instead of it would
    hide the trouble.
    """
    if turn.session > 1:
        database.drop_draft(turn.tenant, turn.conversation)
    found = database.latest(turn.tenant, turn.conversation)
    if found is None or (found.status == "placed" and turn.message.created_at - found.changed_at > ACTIVE_S):
        return None
    house = HOUSES[turn.tenant]
    for line, count in found.items.items():
        if house.cost(line) and not 1 <= count <= MOST:
            raise ValueError(f"order {found.reference} has {count} of {line}")
    ready = bool(found.items and (found.address or found.pickup))
    return Order(
        stage="placed" if found.status == "placed" else "confirming" if ready else "choosing",
        cart=found.items,
        pickup=found.pickup,
        branch=found.branch,
        address=found.address,
        payment=found.payment,
        reference=found.reference,
        welcomed=True,
    )


@dataclass
class Table:
    """One guest's talk with one house: each method takes something into the order and gives what to say."""

    house: House
    order: Order

    def answer(self, said: str, *, new: str) -> str | Part:
        """Answer what was *said*. *new* is the reference of an order that begins with it."""
        if trouble := unreadable(said):
            return trouble
        words = plain(said)
        return self.obey(words) or self.shelf(words) or self.change(said, words, new=new)

    def obey(self, words: str) -> str | Part:
        """Answer what is a command as it stands; "" for anything else."""
        order = self.order
        match words:
            case "menu" | "the menu" | "show menu" | "show me the menu":
                return self.menu()
            case "hi" | "hello" | "hey" | "ciao" | "good morning" | "good evening" | "help" | "start":
                return buttons(f"{self.help()}\n\n{self.where()['text']}", "Menu", "Cart")
            case "new order" | "new" | "start over" | "restart":
                self.begin_again()
                return self.menu("A new order, then.\n\n")
            case "cancel" | "cancel order" | "cancel my order" | "clear" | "empty cart":
                return self.cancel()
            case "checkout" | "check out" | "done" | "that's all" | "that is all" | "finish" | "pay":
                return self.check_out()
            case "confirm" | "yes" | "y" | "ok" | "okay" if order.stage == "confirming":
                order.stage = "placed"
                goes = f"It {self.whereto()}; {self.total()} {PAYING[order.payment]}, please."
                return buttons(f"Grazie! Order {order.reference} is in the oven. {goes}", "Status", "New order")
            case "no" | "n" | "change" if order.stage == "confirming":
                order.stage = "choosing"
                return buttons(
                    "What shall I change? Add or “remove” something, or tell me the “address” again.", "Cart"
                )
            case "confirm" | "no" | "n" | "no thanks" | "nothing" if order.stage == "choosing":
                return self.check_out()
            case "cart" | "my cart" | "show cart" | "order" | "my order" | "status" | "confirm" | "yes" | "y" | "ok":
                return self.where()
        return ""

    def shelf(self, words: str) -> str | Part:
        """Show what there is of the category that *words* name; "" where they name none."""
        for category, shelf in self.house.menu.items():
            if words.removeprefix("show ").removeprefix("the ").rstrip("s") == category.rstrip("s"):
                return buttons(f"{category.capitalize()}\n{prices(shelf)}", *shelf, "Cart")
        return ""

    def change(self, said: str, words: str, *, new: str) -> str | Part:
        """Take what was *said*, in plain *words*, into the order. *new* is the reference of an order that begins with it."""
        order = self.order
        first, _, rest = words.partition(" ")
        if order.stage == "placed":
            return self.cancel() if first == "remove" else self.add(said, new)
        if first in ("remove", "delete", "without"):
            return self.remove(rest)
        if paid := re.fullmatch(r"(?:pay )?(?:by |in |with )?(cash|card)", words):
            order.payment = "card" if paid[1] == "card" else "cash"
            return self.where()
        if way := re.fullmatch(
            r"(pick ?up|collect|deliver|delivery)(?: it| up| yourself)*(?: (?:at|from) (.*))?", words
        ):
            order.pickup = not way[1].startswith("deliver")
            order.branch = nearest(way[2] or "", self.house.branches) or order.branch
            return self.check_out()
        if first.rstrip(":") == "address" or (order.stage == "address" and not self.is_wish(said)):
            return self.take_address(said[len("address") :].strip(" :") if first.rstrip(":") == "address" else said)
        return self.add(said, new)

    def help(self) -> str:
        """Return what one can say, in this house's own dishes."""
        dish, *_, drink = self.house.dishes
        return (
            f"Tell me what you would like, such as “2 {dish} and a {drink}” or “{dish} with {next(iter(self.house.extras))}”.\n"
            f"You can also say: menu, cart, remove {dish}, checkout, pick up, address, cancel, new order."
        )

    def menu(self, first: str = "") -> Part:
        """Return the menu by category; *first* is said before."""
        shelves = {**self.house.menu, f"extras for {next(iter(self.house.menu))}": self.house.extras}
        shown = "\n\n".join(f"{name.capitalize()}\n{prices(shelf)}" for name, shelf in shelves.items())
        return buttons(f"{first}Today we have:\n\n{shown}", *[name.capitalize() for name in self.house.menu])

    def where(self, first: str = "") -> Part:
        """Return the cart, and what the guest can do next; *first* is said before."""
        said = self.next_step()
        return said | {"text": f"{first}\n{said['text']}" if first else said["text"]}

    def next_step(self) -> Part:
        """Return the cart, and the choices there are."""
        order, house = self.order, self.house
        if not order.cart:
            return buttons("Your cart is empty. Say “menu” to see what there is.", "Menu")
        lines = [f"• {count} {line}, {price(count * house.cost(line))}" for line, count in order.cart.items()]
        cart = "\n".join([*lines, f"Total: {self.total()}"])
        pick_up = [f"Pick up at {branch}" for branch in house.branches]
        match order.stage:
            case "placed":
                shown = f"Order {order.reference} is in the oven. It {self.whereto()}:\n{cart}\nSay “new order” for another one."
                return buttons(shown, "New order")
            case "choosing":
                shown = f"In your cart:\n{cart}\nAnything else? Say “checkout” when that is all."
                return buttons(shown, "Checkout", "Menu")
            case "address":
                return buttons(f"In your cart:\n{cart}\nWhere shall we bring it? Or say “pick up”.", *pick_up)
            case "confirming":
                other = "Pay in cash" if order.payment == "card" else "Pay by card"
                shown = f"In your cart:\n{cart}\nIt {self.whereto()}; you pay {PAYING[order.payment]}.\n"
                shown += f"Say “confirm” to order, “{other.lower()}”, or “no” to change something."
                return buttons(shown, "Confirm", "No", other, *(["Deliver"] if order.pickup else pick_up))

    def whereto(self) -> str:
        """Tell how the food gets to its guest."""
        branch = self.order.branch or self.house.branches[0]
        return f"waits for you at {branch}" if self.order.pickup else f"goes to {self.order.address}"

    def total(self) -> str:
        """Return what the cart costs."""
        return price(sum(count * self.house.cost(line) for line, count in self.order.cart.items()))

    def is_wish(self, said: str) -> bool:
        """Tell whether *said* is nothing but dishes and extras, so not an address."""
        wish = understood(self.house, said)
        return bool(wish.lines or wish.extras) and not wish.unknown

    def add(self, said: str, new: str) -> Part:
        """Put dishes into the cart, or extras on the last dish there; after an order was placed, into the next one."""
        house, order, wish = self.house, self.order, understood(self.house, said)
        cart = Counter({} if order.stage == "placed" else order.cart)
        told = "Added " + ", ".join(f"{count} {line}" for count, line in wish.lines) + "." if wish.lines else ""
        if wish.extras and (dish := next(filter(house.takes_extras, reversed(cart)), "")):
            count, topped = cart.pop(dish), with_extras(dish, wish.extras)
            cart[topped] += count
            told = f"Made it {topped}. {told}".strip()
        if not told:
            return self.where(f"I do not know “{said[:60]}”.\n{self.help()}\n")
        for count, line in wish.lines:
            cart[line] += count
        if min([1, *(count for count, _ in wish.lines)]) < 1 or max(cart.values()) > MOST:
            return self.where(f"I can take 1 to {MOST} of each dish, so nothing was added.")
        if order.stage == "placed":
            self.begin_again()
        order.cart, order.reference = dict(cart), order.reference or new
        if wish.unknown:
            told += (
                f" I do not know {', '.join(f'“{name}”' for name in wish.unknown)}; say “menu” to see what there is."
            )
        return self.where(told)

    def remove(self, said: str) -> Part:
        """Take dishes or extras out of the cart: all of a dish, or as many as are named."""
        wish, cart, gone = understood(self.house, said, otherwise=MOST), Counter(self.order.cart), list[str]()
        for count, line in wish.lines:
            there = line if line in cart else next((dish for dish in cart if dish.startswith(f"{line} + ")), "")
            if there and (taken := min(count, cart[there])):
                cart[there] -= taken
                gone.append(f"{taken} {there}")
        for extra in wish.extras:
            for line in [line for line in cart if extra in line.split(" + ")[1:]]:
                count = cart.pop(line)
                cart[" + ".join(part for part in line.split(" + ") if part != extra)] += count
                gone.append(f"{extra} from {line.split(' + ')[0]}")
        if not gone:
            return self.where(f"There is no “{said[:60]}” in your cart.")
        self.order.cart = dict(+cart)
        if not self.order.cart:
            self.begin_again()
        return self.where(f"Removed {', '.join(gone)}.")

    def check_out(self) -> Part:
        """Go on to the address, or to the confirmation if it is known where the food goes."""
        if self.order.cart:
            self.order.stage = "confirming" if self.order.pickup or self.order.address else "address"
        return self.where()

    def take_address(self, said: str) -> Part:
        """Note the address, or ask for it."""
        order = self.order
        if not said:
            order.stage, order.pickup = "address" if order.cart else order.stage, False
            return self.where()
        if len(said) < 5:
            return self.where(f"“{said}” is a bit short for an address. Please tell me street, number and town.")
        order.address, order.pickup = said, False
        order.stage = "confirming" if order.cart else order.stage
        return self.where(f"To {said}.")

    def cancel(self) -> Part:
        """Empty the cart, unless it is too late."""
        if self.order.stage == "placed":
            return self.where(f"Order {self.order.reference} is in the oven already and cannot be changed.")
        self.begin_again()
        return self.where()

    def begin_again(self) -> None:
        """Empty the cart; address and payment stay known."""
        self.order.stage, self.order.cart, self.order.reference = "choosing", {}, ""
