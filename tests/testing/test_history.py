"""The checker's own rules, fed with histories that are wrong in one way each."""

from __future__ import annotations

from typing import Any

import pytest

from chatkeep import Message
from chatkeep.testing.history import DeliveryReport, StoredConversation, check, wrong_sendings


def entry(number: int, id: str, *, to: int | None = None, since: int | None = None, text: str = "ok") -> Message:
    """A message of a customer; one that answers (*since* a message, up to *to*) is a reply."""
    role: Any = "user" if to is None else "assistant"
    return Message(id=id, number=number, role=role, content=text, created_at=0.0, reply_to=to, reply_from=since)


GOOD = [entry(1, "a"), entry(2, "b"), entry(3, "r1", to=2, since=1), entry(4, "r2", to=2, since=1), entry(6, "c")]
GOOD += [entry(7, "r3", to=6, since=6)]
TOLD = [DeliveryReport("ada", id, acked) for id in "abc" for acked in (False, True)]


def faults(messages: list[Message], told: list[DeliveryReport] = TOLD, *, unread: int = 0) -> list[str]:
    """What is found wrong, in words without names."""
    held = {"ada": StoredConversation(messages, {}, unread, noted=False)}
    return [fault.replace(" ada", "") for fault in check(told, held, any_bot=True).faults]


def test_any_bot_is_judged_by_what_its_replies_say_they_answer() -> None:
    """Several replies for several messages, and numbers that chatkeep's own notes have, are fine."""
    assert [] == faults(GOOD)


@pytest.mark.parametrize(
    ("fault", "messages"),
    [
        ("LOST b", [message for message in GOOD if message.id not in "b"]),
        ("DOUBLED in the log a x2", [*GOOD, entry(8, "a"), entry(9, "r4", to=8, since=8)]),
        ("PHANTOM z", [*GOOD, entry(8, "z"), entry(9, "r4", to=8, since=8)]),
        ("REPLY MISSING c", GOOD[:-1]),
        ("REPLY DOUBLED c", [*GOOD, entry(9, "r4", to=6, since=6)]),
        ("REPLY DOUBLED b", [*GOOD[:4], entry(5, "r4", to=2, since=2), *GOOD[4:]]),
        ("OUT OF ORDER", [*GOOD[:2], entry(3, "r3", to=6, since=6), *GOOD[4:5], entry(7, "r1", to=2, since=1)]),
        ("GAP", [*GOOD[:-1], GOOD[-2]]),
    ],
)
def test_each_broken_promise_is_told_by_name(fault: str, messages: list[Message]) -> None:
    """One wrong history each."""
    assert fault in faults(messages)


def test_a_bot_may_say_nothing_if_that_is_what_it_said() -> None:
    """An answer without replies is one; other replies than those shown are not."""
    silent = [*TOLD, DeliveryReport("ada", "c", acked=True, replies=[])]
    other = [*TOLD, DeliveryReport("ada", "c", acked=True, replies=["no"])]

    assert [] == faults(GOOD[:-1], silent)
    assert ["REPLY CHANGED c: ('no',)"] == faults(GOOD, other)
    assert ["UNREAD 1"] == faults(GOOD, unread=1)


def test_a_message_of_a_second_reply_is_not_judged_twice() -> None:
    """Two turns that answered the same message, side by side in the log, are still two."""
    twice = [entry(1, "a"), entry(2, "r1", to=1, since=1), entry(3, "r2", to=1, since=None)]

    assert ["REPLY DOUBLED a"] == faults(twice, TOLD[:2])


DUE = [(3, "hi"), (3, "there"), (5, "ok"), (7, "ok")]


@pytest.mark.parametrize(
    ("sent", "found"),
    [
        (["hi", "there", "ok", "ok"], []),
        (["hi", "hi", "there", "hi", "there", "ok", "ok"], []),
        (["hi", "there", "ok"], ["NOT SENT ada 7"]),
        (["hi", "there", "what?", "ok", "ok"], ["SENT FROM NOWHERE ada what?"]),
        (["hi", "ok", "there", "ok"], ["NOT SENT ada 3", "SENT FROM NOWHERE ada there"]),
        (["hi", "there", "ok", "ok", "hi"], ["SENT FROM NOWHERE ada hi"]),
        ([], ["NOT SENT ada 3", "NOT SENT ada 3", "NOT SENT ada 5", "NOT SENT ada 7"]),
    ],
)
def test_what_a_platform_was_sent_is_all_replies_in_order(sent: list[str], found: list[str]) -> None:
    """The one sent last may come again, with all its parts; nothing may be left out, overtake or come from elsewhere."""
    assert found == wrong_sendings("ada", DUE, sent)[0]


def test_where_each_reply_began_to_show() -> None:
    """For how long a customer waited: the first time counts."""
    assert {3: 0, 5: 3, 7: 4} == wrong_sendings("ada", DUE, ["hi", "hi", "there", "ok", "ok"])[1]
