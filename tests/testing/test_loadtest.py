"""What simulated customers have seen, and how it is told; whole runs are in acceptance/test_simulate."""

from __future__ import annotations

from typing import Any

import pytest

from chatkeep import Message, UsageError
from chatkeep.testing.history import DeliveryReport
from chatkeep.testing.loadtest import (
    SHOWN,
    Latency,
    Plan,
    Report,
    Seen,
    Simulation,
    covered,
    keeps,
    problem,
    spelled,
    times,
)
from chatkeep.testing.transports import ApiTransport, SentMessage

TEA = SentMessage("sim-1", "sim-1", "m1", "tea")


def message(number: int, role: str, *, reply_to: int | None = None, reply_from: int | None = None) -> Message:
    """One with the id m1, m2 and so on."""
    return Message(
        number=number, id=f"m{number}", role=role, content="x", created_at=0.0, reply_to=reply_to, reply_from=reply_from
    )


def report(**changes: Any) -> Report:
    """A clean one."""
    plain: dict[str, Any] = {"customers": 1, "seconds": 1.0, "sent": 2, "acked": 1, "unacked": 0, "answered": 1}
    plain |= {"repeated": 0, "ack": Latency(), "answer": Latency(), "errors": {}, "faults": []}
    return Report(**plain | changes)


def test_times_are_counted_from_the_first_time_that_a_message_is_sent() -> None:
    """And end with the first acknowledgement and the first answer."""
    seen = Seen()
    for at in (10.0, 12.0):
        seen.note_first(TEA, at)
        seen.note_sent(TEA)
    seen.note_receipt(TEA, {"status": "accepted"}, 13.0)
    seen.note_receipt(TEA, {"status": "answered", "replies": [{"content": "Tea."}]}, 14.0)
    seen.note_receipt(TEA, {"status": "answered", "replies": [{"content": "Tea."}], "duplicate": True}, 15.0)

    name = (TEA.conversation, TEA.id)
    assert {TEA.conversation: TEA.customer} == seen.customers
    assert ({name: 3.0}, {name: 4.0}, 2) == (seen.acks, seen.answers, seen.sent)
    assert [
        DeliveryReport(*name, acked=False),
        DeliveryReport(*name, acked=False),
        DeliveryReport(*name, acked=True, replies=None, duplicate=False),
        DeliveryReport(*name, acked=True, replies=["Tea."], duplicate=False),
        DeliveryReport(*name, acked=True, replies=["Tea."], duplicate=True),
    ] == seen.reports


def test_what_was_on_a_screen_counts_for_messages_that_were_sent() -> None:
    """A bot may also answer what no customer has said."""
    seen = Seen()
    seen.note_first(TEA, 10.0)
    seen.note_shown("sim-1", "m1", 12.0)
    seen.note_shown("sim-1", "m2", 12.0)

    assert {("sim-1", "m1"): 2.0} == seen.answers


def test_an_address_is_looked_at_before_anything_is_sent() -> None:
    """A slash at its end is the same address."""
    with pytest.raises(UsageError, match="host:1 is no server's address"):
        Simulation(["http://host/", "host:1"], Plan(), ApiTransport("key"), key="key")


def test_a_reply_covers_the_messages_that_it_answers() -> None:
    """The first one counts; events are answered too, other replies are not."""
    log = [
        message(1, "user"),
        message(2, "event"),
        message(3, "assistant", reply_to=2, reply_from=1),
        message(4, "assistant", reply_to=2),
        message(5, "operator", reply_to=2),
        message(6, "assistant", reply_to=3),
        message(7, "assistant"),
    ]

    assert {"m1": 3, "m2": 3} == {id: reply.number for id, reply in covered(log).items()}


@pytest.mark.parametrize(
    ("seen", "expected"), [(["m1"], True), (["x", "m1"], True), ([1, "x"], False), ("m1", False), (None, False)]
)
def test_a_bot_keeps_what_it_has_seen_when_it_has_a_list_of_ids(seen: Any, expected: bool) -> None:
    """Another "seen" of an application's own is not judged."""
    assert expected is keeps(seen, {"m1", "m2"})


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"type":"urn:chatkeep:problem:rate-limited"}', "rate-limited"),
        (b'{"type":1}', "1"),
        (b"[]", "no problem document"),
        (b"{}", "no problem document"),
        (b"<html>", "no problem document"),
    ],
)
def test_a_problem_is_its_last_word(body: bytes, expected: str) -> None:
    """Also what a proxy says is counted."""
    assert expected == problem(body)


def test_times_are_read_in_milliseconds_below_a_second() -> None:
    """Above it in seconds."""
    assert "p50 12 ms  p95 999 ms  p99 1.0 s" == times(Latency(0.012, 0.999, 1.0))


def test_a_report_says_whether_all_is_well_and_what_came_twice() -> None:
    """Not more faults than a screen has; and what to do about a limit."""
    faults = [f"LOST {number}" for number in range(SHOWN + 2)]
    many = spelled(report(faults=faults))

    assert "clean: nothing lost" in spelled(report())
    assert "NOT CLEAN" not in spelled(report())
    assert "came back later: none" in spelled(report())
    assert "twice" not in spelled(report())
    assert "answered, 3 sent out twice" in spelled(report(repeated=3))
    assert "CHATKEEP_RATE_PEER=off" in spelled(report(errors={"rate-limited": 2}))
    assert "came back later: 2 overloaded\n" in spelled(report(errors={"overloaded": 2}))
    assert f"LOST {SHOWN - 1}\n... and 2 more\nNOT CLEAN: {SHOWN + 2} broken promises" in many
    assert "more" not in spelled(report(faults=faults[:SHOWN]))
