"""The restaurants of the demo: what they serve, for how many cents, and how guests name it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from .words import NUMBERS, nearest, plain


class House(NamedTuple):
    """A restaurant. Its menu is by category; extras go with the dishes of the first one."""

    name: str
    welcome: str
    code: str
    menu: dict[str, dict[str, int]]
    extras: dict[str, int]
    branches: tuple[str, ...]

    @property
    def dishes(self) -> dict[str, int]:
        """All dishes and their prices."""
        return {dish: cents for dishes in self.menu.values() for dish, cents in dishes.items()}

    def takes_extras(self, line: str) -> bool:
        """Tell whether the dish of a line of the cart may have extras."""
        return line.split(" + ")[0] in next(iter(self.menu.values()))

    def cost(self, line: str) -> int:
        """Return what one of a line of the cart costs, such as "margherita + olives". Raises KeyError for what is not there."""
        dish, *extras = line.split(" + ")
        return self.dishes[dish] + sum(self.extras[extra] for extra in extras)


BELLA = House(
    name="Bella Napoli",
    welcome="Benvenuto at Bella Napoli!",
    code="BN",
    menu={
        "pizza": {"margherita": 750, "marinara": 650, "diavola": 950, "funghi": 900, "quattro formaggi": 1050},
        "desserts": {"tiramisu": 550, "panna cotta": 500},
        "drinks": {"espresso": 220, "lemonade": 350, "water": 200},
    },
    extras={"cheese": 150, "olives": 100, "capers": 100, "ham": 180},
    branches=("Centro", "Porto"),
)
SAKURA = House(
    name="Sakura",
    welcome="Irasshaimase! Welcome to Sakura.",
    code="SK",
    menu={
        "ramen": {"shoyu ramen": 1150, "miso ramen": 1200, "vegan ramen": 1100},
        "small plates": {"gyoza": 650, "edamame": 450},
        "drinks": {"green tea": 250, "water": 200},
    },
    extras={"egg": 150, "noodles": 250, "chili oil": 50},
    branches=("Station", "Riverside"),
)

HOUSES = {"": BELLA, "bella": BELLA, "sakura": SAKURA}
"""Tenant to restaurant."""


def prices(shelf: dict[str, int]) -> str:
    """Return dishes and what they cost, one a line."""
    return "\n".join(f"• {dish}, {price(cents)}" for dish, cents in shelf.items())


def price(cents: int) -> str:
    """Return an amount of money as text."""
    return f"€{cents / 100:.2f}"


CHATTER = {"please", "of", "the", "some", "i", "id", "we", "want", "would", "like", "to", "add", "x", "extra", "more"}
CHATTER |= {"order", "can", "could", "have", "get", "give", "me", "us", "also", "pizza", "pizzas"}


class Wish(NamedTuple):
    """What a guest named: lines for the cart with their counts, extras without a dish, and names on no menu."""

    lines: list[tuple[int, str]]
    extras: list[str]
    unknown: list[str]


def understood(house: House, said: str, *, otherwise: int = 1) -> Wish:
    """Return what *said* means on this menu: "2 margherita with olives and a water". *otherwise* counts what has no count."""
    wish = Wish([], [], [])
    for part in re.split(r"[,;&+]|\b(?:and|with|plus)\b", plain(said)):
        words = [word for word in re.findall(r"[\w-]+", part.replace("'", "")) if word not in CHATTER]
        count, name = counted(words, otherwise)
        if dish := nearest(name, house.dishes):
            wish.lines.append((count, dish))
        elif (extra := nearest(name, house.extras)) and not wish.lines:
            wish.extras.append(extra)
        elif extra and house.takes_extras(wish.lines[-1][1]):
            count, line = wish.lines.pop()
            wish.lines.append((count, with_extras(line, [extra])))
        elif name:
            wish.unknown.append(name)
    return wish


def with_extras(line: str, extras: Iterable[str]) -> str:
    """Return the line of the cart with these extras too, each once and in one order."""
    dish, *there = line.split(" + ")
    return " + ".join([dish, *sorted({*there, *extras})])


def counted(words: list[str], otherwise: int) -> tuple[int, str]:
    """Split "2 margherita", "two margherita", "2x margherita" or "margherita x2" into count and name."""
    for place, rest in ((0, words[1:]), (-1, words[:-1])):
        word = words[place].strip("x") if words else ""
        if word in NUMBERS or re.fullmatch("[0-9]{1,4}", word):
            return NUMBERS.get(word) or int(word), " ".join(rest)
    return otherwise, " ".join(words)
