"""Seals: nothing that was altered, or sealed for something else, is opened; the forms of every release are."""

from __future__ import annotations

import json
import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from chatkeep import Misconfigured, Turn
from chatkeep.cookie import CookieChat
from chatkeep.cookie.contents import Contents, from_bytes, to_bytes
from chatkeep.cookie.sealing import COOKIE_MOST, Sealer, sealed_size

KEY, OTHER = "a key of at least sixteen bytes", b"\x00" * 16
SITE: dict[str, str] = {"name": "chat", "host": "shop.example.com"}

GOLDEN_KEY = "golden key of format one, of 40 letters"
GOLDEN = {
    "format 1, a conversation": (
        "ASgAAQIDBAUGBwgJCgse8qz8xBAhDyEZFb_PALcBINgkV6S0ww31evRLX_UskTFAL6jcHWylHNzdmHcDqRjnLkyVZ-86ah6f2O6SWGRWRVUlVtBJmBzXejwVD09PiqjnQNhpIBKb"
        "-gg1revxdjcWVFu70Raz2W4uIS4kP8AYXb0hbHL1bOvFlfFxhAF3uvt0iuATJUmAXXex-T8yNL-t1jQirC_rbdjlcRsWp9Ou3ZRfGiJI_NrDWBZ11bYtO-TBdcBKgGNorsmNnBbM"
        "XezBH6D0H_8dEI788xJkEaGeGMXnoNZdg0Sn9QIV9qMXLwM0tO6KM6zqaUaVtI_bU3WF45EMgfpLF5y4ug_8eSg9d_vptJ6uwNHu3aNhoSnNwApE3VaPLqZyxy_t-0U1BXq7IB5E"
        "vUSZXQJ97padCoGq5M_-E6gNLcoBWLZUTRyR2eL_FsTpD8WBvNA98F7ZnxIWWepT5LYr0vsb8nvEEF4n3vZ2nw0iA0MGf1xTrfrXv0unKvR5xVTrKS_lRNCHI-hJkMD4UIihdUn_"
        "75Kakezcm7D2_rC2E8PRRD53NjxSm_OIHoQ"
    ),
    "format 1, where one is": "ASgAAQIDBAUGBwgJCgse8pKszj0lXA85FPyzWulmc7MkV6S0w1qa-3XtGYq9w6DCBQ_l8C_K",
}
"""Cookies as they were sealed by the release that first had the form. They stay as they are."""


async def golden_bot(turn: Turn) -> str:
    turn.state["cart"] = [*turn.state.get("cart", []), turn.text]
    return f"{len(turn.state['cart'])} in your cart"


async def test_a_golden_conversation_goes_on() -> None:
    """Messages, state, numbers and ids of format 1 are there, and the next message goes on from them."""
    chats = CookieChat(golden_bot, keys=[GOLDEN_KEY], clock=lambda: 1_800_000_100.0, max_age="400d")
    cookie = f"__Host-chat={GOLDEN['format 1, a conversation']}"
    async with chats.chat(cookie, host="shop.example.com", https=True) as chat:
        there = await chat.conversation()
        again = await chat.receive("basic manicure", id="m0")
        receipt = await chat.receive("a polish")

    assert there is not None
    assert {"cart": ["basic manicure", "and a pedicure ä"]} == there.state
    assert [(1, "m0"), (3, "m1")] == [(m.number, m.id) for m in there.messages if m.role == "user"]
    assert (True, "1 in your cart") == (again.duplicate, again.replies[0].text)
    assert (5, "3 in your cart") == (receipt.number, receipt.replies[0].text)


def test_a_golden_reference_is_read() -> None:
    """A cookie of format 1 that says where the conversation is."""
    plain = Sealer([GOLDEN_KEY]).open(GOLDEN["format 1, where one is"], name="chat", host="localhost")

    assert Contents("abcdefgh12345678", 1_834_560_000, None) == from_bytes(plain or b"")


def test_no_bit_can_be_flipped() -> None:
    """Neither in the sealed bytes nor in the letters of the value; nor can it be cut, or made longer."""
    sealer, value = Sealer([KEY]), GOLDEN["format 1, where one is"]
    sealer = Sealer([GOLDEN_KEY])
    site = {"name": "chat", "host": "localhost"}
    altered = [
        value[:at] + chr(ord(value[at]) ^ 1 << bit) + value[at + 1 :] for at in range(len(value)) for bit in range(8)
    ]
    altered += [value[:at] for at in range(len(value))] + [value[at:] for at in range(1, len(value))]
    altered += [
        value + "A",
        value + "=",
        value + "==",
        value + "\n",
        " " + value,
        value[:10] + "\n" + value[10:],
        value * 2,
    ]

    assert sealer.open(value, **site) is not None
    assert [] == [one for one in altered if sealer.open(one, **site) is not None]


def test_a_seal_is_of_one_key_name_host_and_purpose() -> None:
    """With another one of these it is not opened, though all the others fit."""
    value = Sealer([KEY]).seal(b"plain", **SITE)
    others = {
        "key": Sealer([OTHER]).open(value, **SITE),
        "name": Sealer([KEY]).open(value, name="__Host-chat", host=SITE["host"]),
        "host": Sealer([KEY]).open(value, name="chat", host="example.com"),
        "shifted": Sealer([KEY]).open(value, name="chatshop", host=".example.com"),
        "purpose": Sealer([KEY], purpose="export").open(value, **SITE),
    }

    assert b"plain" == Sealer([KEY]).open(value, **SITE)
    assert dict.fromkeys(others) == others


def test_the_purpose_gives_another_key_and_not_only_another_binding() -> None:
    """So what one purpose may be made to decrypt says nothing of another."""
    one, other = Sealer([KEY]), Sealer([KEY], purpose="export")
    other._purpose = one._purpose

    assert other.open(one.seal(b"plain", **SITE), **SITE) is None


def test_the_first_key_seals_and_all_open() -> None:
    """A new key in front: old cookies are opened, new ones are the new key's. Without the old key they are not."""
    old = Sealer([KEY]).seal(b"plain", **SITE)
    both = Sealer([OTHER, KEY])
    new = both.seal(b"plain", **SITE)

    assert (b"plain", b"plain") == (both.open(old, **SITE), Sealer([OTHER]).open(new, **SITE))
    assert (None, None) == (Sealer([KEY]).open(new, **SITE), Sealer([OTHER]).open(old, **SITE))


def test_keys_with_the_same_mark_are_told_apart() -> None:
    """Of 300 keys some have the same mark; each opens what it has sealed, from any place in the ring."""
    keys = [f"key number {number} of a large ring" for number in range(300)]
    ring = Sealer(keys)

    assert len({mark for mark, _ in ring._ring}) < len(keys)
    assert [] == [key for key in keys if ring.open(Sealer([key]).seal(b"plain", **SITE), **SITE) != b"plain"]


@pytest.mark.parametrize("keys", [[], [""], ["short"], [b"fifteen bytes.."], [KEY, "short"]])
def test_a_key_that_can_be_guessed_is_refused(keys: list[Any]) -> None:
    """With the line that makes a better one."""
    with pytest.raises(Misconfigured, match="at least 16 bytes"):
        Sealer(keys)


@given(some.binary(max_size=600))
def test_what_is_sealed_is_opened_and_as_large_as_told(plain: bytes) -> None:
    """To the byte, so that what fits is known before."""
    value = Sealer([KEY]).seal(plain, **SITE)

    assert plain == Sealer([KEY]).open(value, **SITE)
    assert sealed_size(len(plain), "chat") == len("chat") + 1 + len(value)


@given(some.text(max_size=200))
def test_anything_else_is_not_opened(value: str) -> None:
    """Whatever a client sends, nothing is raised."""
    assert Sealer([KEY]).open(value, **SITE) is None


def test_lengths_tell_nothing_of_what_is_hidden() -> None:
    """Who chooses a part of the text and sees the cookie's length learns none of the letters of a coupon beside it: nothing is
    compressed."""
    chance, letters = random.Random(7), "abcdef0123456789"
    coupon = "coupon=" + "".join(chance.choice(letters) for _ in range(8))

    def length(text: str) -> int:
        return len(Sealer([KEY]).seal(json.dumps({"state": {"note": coupon}, "log": [text]}).encode(), **SITE))

    assert 1 == len({length((coupon[:7] + letter + "~!") * 3) for letter in letters})


def test_a_cookie_is_as_long_as_browsers_keep() -> None:
    """4,096 bytes with its name; one that says it is longer is not even looked at."""
    most = next(size for size in range(5000) if sealed_size(size + 1, "chat") > COOKIE_MOST)
    value = Sealer([KEY]).seal(bytes(most), **SITE)

    assert COOKIE_MOST - 4 < len("chat=" + value) <= COOKIE_MOST
    assert Sealer([KEY]).open(value, **SITE) is not None
    assert most == math.floor((COOKIE_MOST - 5) * 3 / 4) - 30


def test_what_was_sealed_and_is_no_conversation_is_none() -> None:
    """Of another program with the same key and purpose."""
    assert [None, None, None] == [from_bytes(plain) for plain in (b"", b"{}", to_bytes(Contents("a", 1, None))[:-1])]
