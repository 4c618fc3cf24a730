"""The work everybody does: one turn of a booking chat.

Load the state (about 1 KB of JSON) and the last 20 messages, add the user's message and the bot's reply (200 bytes each), put
a changed state, durable before it is answered. Texts are put together from a vocabulary, by a seeded choice, so that they
compress like chat and not like a repeated line.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from typing import Any

TEXT_BYTES = 200
WINDOW = 20

SUBJECTS = [
    "I",
    "we",
    "my friend",
    "the driver",
    "someone",
    "your colleague",
    "my sister",
    "the shop",
    "everybody",
    "nobody",
    "our office",
]
VERBS = [
    "need",
    "ordered",
    "booked",
    "paid",
    "cancelled",
    "moved",
    "forgot",
    "found",
    "liked",
    "returned",
    "asked for",
    "would prefer",
    "picked up",
]
OBJECTS = """a gel manicure,two large pizzas,the blue cushion,an appointment,the wrong size,a table for six,a refund,the invoice
extra cheese,nail art,the parcel,a birthday cake,our reservation,the early slot,that voucher,a haircut""".replace(
    "\n", ","
).split(",")
TAILS = """on Thursday at half past nine,before the rain,for the office party,because of the traffic,with a discount code
without onions,at the branch near the station,if that is still possible,and it never arrived,instead of the other one
for about forty euros,in green or grey,as we said on the phone,by Friday evening,after my shift ends""".replace(
    "\n", ","
).split(",")
DISHES = [
    "Margherita",
    "Quattro Stagioni",
    "Tiramisu",
    "Minestrone",
    "Bruschetta",
    "Lasagne",
    "Panna cotta",
    "Insalata",
    "Calzone",
    "Gnocchi",
]


def text(seed: int) -> str:
    """A message of TEXT_BYTES characters."""
    chosen = random.Random(seed)
    said = ""
    while len(said) < TEXT_BYTES:
        said += f"{chosen.choice(SUBJECTS)} {chosen.choice(VERBS)} {chosen.choice(OBJECTS)} {chosen.choice(TAILS)}. "
    return said[:TEXT_BYTES]


TEXTS = [text(seed) for seed in range(512)]


def state(step: int) -> dict[str, Any]:
    """A cart of ten items, a little over 1,000 bytes as JSON; it changes with each step."""
    return {
        "stage": ("browse", "cart", "address", "confirm")[step % 4],
        "revision": step,
        "items": [
            {
                "sku": f"P-{(step * 7 + n * 31) % 997:03d}",
                "name": DISHES[(step + n) % 10],
                "quantity": n % 3 + 1,
                "price": 650 + 50 * n,
            }
            for n in range(10)
        ],
        "address": {
            "street": f"{step % 90 + 1} Harbour Road",
            "city": "Springfield",
            "phone": f"+49 30 {1234567 + step}",
        },
        "notes": TEXTS[step % 512][:180],
    }


def question(seed: int) -> str:
    """What the user writes."""
    return TEXTS[seed % 512]


def answer(seed: int) -> str:
    """What the bot says."""
    return TEXTS[(seed * 3 + 257) % 512]


def history(messages: int) -> list[tuple[int, str, str]]:
    """What has been said before, to fill a conversation with: number, role, text."""
    return [(n, ("assistant", "user")[n % 2], TEXTS[n % 512]) for n in range(1, messages + 1)]


def pairs(messages: int) -> list[bytes]:
    """The same, a question and its answer in one body: what the bare combiners keep."""
    said = [text for _, _, text in history(messages)]
    return [json.dumps(pair).encode() for pair in zip(said[::2], said[1::2], strict=True)]


def unpaired(bodies: Iterable[tuple[bytes | str]]) -> list[str]:
    """The texts in bodies made by `pairs`, oldest first, of bodies newest first."""
    return [text for (body,) in reversed(list(bodies)) for text in json.loads(body)]
