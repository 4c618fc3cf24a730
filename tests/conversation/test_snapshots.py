"""What can be read off the last messages of a conversation."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs

from chatkeep.conversation.keys import SAVED
from chatkeep.conversation.record import OutboxState, Record
from chatkeep.conversation.snapshots import (
    HELD,
    Condition,
    Draft,
    Place,
    Window,
    choose_beyond,
    copy_messages,
    find_failing,
    find_outcome,
    has_outbound,
    holds_id,
    is_cut,
    is_other_log,
    is_outbound,
    is_used_up,
    is_withdrawn,
    keep_outbound,
    lacks_changes,
    messages_after,
    must_send,
    place_of,
    plain_from,
    shorten,
    unanswered,
    unread_messages,
)

from ..support.snapshots import message, note, snapshot


def numbers(messages: Any) -> list[int]:
    """Which ones they are."""
    return [one.number for one in messages]


def test_what_waits_is_what_somebody_asks_behind_the_cursor() -> None:
    """Neither what was withdrawn or saved from elsewhere, nor what others have said."""
    there = snapshot(
        message(1),
        message(2),
        message(3, "event"),
        message(4, "assistant"),
        message(5, "operator"),
        message(6, redacted=True),
        message(7, channel=SAVED),
        message(8, channel="whatsapp"),
        cursor=1,
    )

    assert [2, 3, 8] == numbers(unread_messages(there))
    assert [] == unread_messages(structs.replace(there, record=Record(cursor=8)))


def test_a_person_answers_what_stands_before() -> None:
    """Wherever the bot is; a user who writes again asks again, and a save answers nothing."""
    log = [message(1), message(2, "operator"), message(3), message(4, "operator", channel=SAVED), message(5)]

    assert [3, 5] == numbers(unanswered(log, 0))
    assert [5] == numbers(unanswered(log, 3))
    assert [1, 3, 5] == numbers(unanswered([log[0], log[2], message(4, "assistant"), log[4]], 0))


@pytest.mark.parametrize(
    ("number", "expected"), [(3, False), (4, True), (5, False), (6, False), (2, False), (0, False), (1, False)]
)
def test_a_message_is_withdrawn_where_that_is_seen(number: int, expected: bool) -> None:
    """Not what is further back than what is held, nor what comes later."""
    there = snapshot(message(3), message(4, redacted=True), message(5))

    assert expected is is_withdrawn(there, number)
    assert not is_withdrawn(snapshot(), number)


def test_a_place_is_how_far_somebody_has_seen() -> None:
    """Its time is known where the last entry is, and has one."""
    assert Place("i", 2, 902.0, 3) == place_of(snapshot(message(1), message(2), edits=3))
    assert Place("i", 2) == place_of(snapshot(message(1), message(2, redacted=True)))
    assert Place("i", 5) == place_of(snapshot(message(1), row={"head": 5}))
    assert Place("i", 0) == place_of(snapshot())


def test_another_entry_at_a_known_place_is_another_log() -> None:
    """The store was rolled back, and somebody has gone on."""
    known = place_of(snapshot(message(1), message(2)))
    other = message(2, created_at=5.0)

    assert [True, False, False] == [is_other_log(known, [message(1), one]) for one in (other, message(2), message(3))]
    assert not is_other_log(known, [structs.replace(other, redacted=True)])
    assert not is_other_log(structs.replace(known, at=0.0), [other])


@pytest.mark.parametrize(
    ("known", "now", "expected"), [(3, 2, True), (3, 3, False), (3, 4, False), (3, 0, False), (0, 0, False)]
)
def test_fewer_changes_than_were_seen_is_a_store_rolled_back(known: int, now: int, expected: bool) -> None:
    """A count of none says nothing."""
    assert expected is lacks_changes(Place("i", 1, edits=known), Record(edits=now))


@pytest.mark.parametrize(
    ("seen", "unchanged", "expected"),
    [
        pytest.param(None, False, (True, False), id="there"),
        pytest.param({"revision": "old", "incarnation": "i"}, False, (True, False), id="the same one"),
        pytest.param({"revision": "r", "incarnation": "j"}, False, (False, False), id="another one"),
        pytest.param({"revision": "old", "incarnation": "i"}, True, (False, False), id="another revision"),
        pytest.param({"revision": "r", "incarnation": "i"}, True, (True, False), id="that revision"),
        pytest.param({"revision": "", "incarnation": ""}, False, (False, False), id="none was there"),
    ],
)
def test_a_condition_holds_for_what_is_there(
    seen: dict[str, str] | None, unchanged: bool, expected: tuple[bool, bool]
) -> None:
    """And for nothing that is not."""
    condition = Condition(None if seen is None else snapshot(row=seen), unchanged)
    gone = snapshot(row={"revision": "", "incarnation": ""})

    assert expected == (condition.holds(snapshot(message(1))), condition.holds(gone))


@pytest.mark.parametrize(
    ("draft", "expected"),
    [
        (Draft(role="assistant", content="x"), True),
        (Draft(role="operator", content="x"), True),
        (Draft(role="user", content="x"), False),
        (Draft(role="system", content="x"), False),
        (Draft(role="assistant", content="x", channel=SAVED), False),
        (Draft(role="operator", content="x", metadata={"sent": True}), False),
        (message(1, "assistant"), True),
        (message(1, "assistant", redacted=True), False),
    ],
)
def test_a_channel_sends_what_was_said_here(draft: Any, expected: bool) -> None:
    """By the bot or a person, and not what is at the user's already."""
    assert expected is is_outbound(draft)


def test_what_is_behind_the_last_that_is_out_has_to_be_sent() -> None:
    """And what is sent once more, and what nobody has looked at."""
    log = (message(3), message(4, "assistant"), message(5, "assistant"))

    def waits(*drafts: Draft, **delivery: Any) -> bool:
        there = snapshot(*log, delivery=OutboxState(**delivery))
        return has_outbound(there, there.record, drafts)

    assert [True, True, False] == [waits(upto=upto) for upto in (3, 4, 5)]
    assert waits(upto=5, again=(4,))
    assert waits(Draft(role="assistant", content="x"), upto=5)
    assert not waits(Draft(role="user", content="x"), upto=5)
    assert [True, False] == [
        has_outbound(there, there.record)
        for there in (snapshot(message(3), delivery=OutboxState(upto=upto)) for upto in (1, 2))
    ]
    assert not has_outbound(snapshot(*log), Record())
    assert must_send(snapshot(*log, cursor=4))
    assert not must_send(snapshot(*log, cursor=5))


def test_what_a_channel_brought_goes_out_through_it() -> None:
    """From the act on that passes it, whoever does; what a save has brought came through none."""
    brought = snapshot(message(1), message(2, channel="whatsapp"), message(3), cursor=1)

    def passing(cursor: int, there: Any = brought) -> OutboxState | None:
        return keep_outbound(there, structs.replace(there.record, cursor=cursor)).delivery

    assert [None, OutboxState(upto=1), OutboxState(upto=1)] == [passing(cursor) for cursor in (1, 2, 3)]
    assert passing(3, snapshot(message(1, channel="whatsapp"), message(2), message(3), cursor=1)) is None
    assert passing(2, snapshot(message(1), message(2, channel=SAVED), cursor=1)) is None
    assert passing(0) is None
    known = structs.replace(brought.record, cursor=3, delivery=OutboxState(upto=3))
    assert known is keep_outbound(brought, known)


def test_what_became_of_a_message_is_told_by_what_is_about_it() -> None:
    """Replies, the note that it was set aside, or that it was passed over; a redaction says nothing of it."""
    log = [
        message(4, "assistant", reply_to=2, reply_from=1),
        note(5, "dead", about=3, content="no"),
        message(6, "assistant", reply_to=3, reply_from=3),
        note(7, "dropped", about=8),
        note(9, "redacted", about=10),
        message(11, "user", reply_to=12),
    ]
    found = [find_outcome(Record(cursor=12), number, log) for number in (1, 2, 3, 8, 10, 12)]

    assert [
        ("answered", [4], ""),
        ("answered", [4], ""),
        ("failed", [6], "no"),
        ("dropped", [], ""),
        ("answered", [], ""),
        ("answered", [], ""),
    ] == [(one.status, numbers(one.replies), one.dead) for one in found if one]
    assert find_outcome(Record(cursor=0), 1, log) is None
    assert find_outcome(Record(cursor=1), 1, log) is not None


def test_a_message_fails_from_its_first_failure_on() -> None:
    """If it still waits."""
    failing = find_failing(snapshot(message(1), failed_at=5.0, begun=2, retry_at=9.0))

    assert failing is not None
    assert (1, 2, 9.0) == (failing.number, failing.attempts, failing.retry_at)
    assert find_failing(snapshot(message(1), begun=2)) is None
    assert find_failing(snapshot(message(1), cursor=1, failed_at=5.0)) is None


@pytest.mark.parametrize(
    ("odd", "expected"),
    [
        ({"content": [{"type": "text", "text": "x"}]}, 3),
        ({"metadata": {"a": 1}}, 3),
        ({"redacted": True}, 3),
        ({"role": "system"}, 3),
        ({"role": "assistant", "reply_to": 1}, 1),
        ({"role": "assistant", "reply_to": 5}, 3),
    ],
)
def test_messages_are_plain_behind_the_last_that_is_not(odd: dict[str, Any], expected: int) -> None:
    """A reply that follows its message is plain."""
    assert expected == plain_from([message(1), message(2, **odd), message(3)], 1)


def test_only_what_can_be_changed_is_copied() -> None:
    """All the same the copy is a list of its own."""
    plain = [message(1), message(2)]
    parts = [message(1, content=[{"type": "text"}]), message(2, metadata={"a": {}}), message(3)]
    copies = copy_messages(plain), copy_messages(parts)

    assert (plain, parts) == copies
    assert copies[0] is not plain
    assert copies[0][0] is plain[0]
    assert [False, False, True] == [one is other for one, other in zip(parts, copies[1], strict=True)]
    assert parts[0].content[0] is not copies[1][0].content[0]


def backlog(count: int, *, answered: int = 3, window: int = 2) -> Any:
    """A conversation of which the first entries are answered and all the others wait."""
    there = snapshot(*[message(n) for n in range(1, answered + count + 1)], cursor=answered)
    return shorten(there, window)


def test_a_long_backlog_is_held_in_part() -> None:
    """Once it is twice as long: the window before it, so many that wait, and the last entry."""
    whole, cut = backlog(2 * HELD), backlog(2 * HELD + 1)

    assert not is_cut(whole)
    assert [*range(2, 4 + HELD)] == numbers(cut.messages)
    assert [2 * HELD + 4] == numbers(cut.beyond)
    assert holds_id(cut, "m4")
    assert not holds_id(cut, f"m{4 + HELD}")
    assert [*numbers(cut.messages[-1:]), 2 * HELD + 4] == numbers(messages_after(cut, HELD + 2))
    assert shorten(cut, 2) is cut


def test_a_cut_snapshot_is_used_up_when_all_that_it_holds_is_answered() -> None:
    """Then nobody can tell what is next."""
    cut = backlog(2 * HELD + 1)

    assert [False, True] == [
        is_used_up(structs.replace(cut, record=Record(cursor=cursor))) for cursor in (HELD + 2, HELD + 3)
    ]
    assert not is_used_up(snapshot(message(1), cursor=1))


def test_of_what_is_beyond_the_last_replies_are_held() -> None:
    """As many as the window has, and the last entry, whatever it is."""
    log = [message(1, "assistant"), message(2), message(3, "operator"), message(4, "assistant"), message(5, "system")]

    assert [3, 4, 5] == numbers(choose_beyond(log, 2))
    assert [5] == numbers(choose_beyond(log, 0))
    assert [] == numbers(choose_beyond([], 2))


def test_what_follows_a_number_is_as_much_as_is_held() -> None:
    """Nothing behind the end."""
    there = snapshot(message(3), message(4))

    assert [[3, 4], [4], [], []] == [numbers(messages_after(there, number)) for number in (0, 3, 4, 9)]


def test_the_window_holds_the_last_messages_and_all_that_wait() -> None:
    """Notes do not push out the talk, up to a bound."""
    window = Window(2)
    log = tuple(message(n) for n in range(1, 6))
    there = snapshot(*log)
    noted = (*log, *(note(n, "delivery") for n in range(6, 9)))

    def fit(cursor: int, messages: Any = log) -> list[int]:
        row = structs.replace(there.row, head=messages[-1].number)
        return numbers(window.fit(row, Record(cursor=cursor), messages, plain_from(messages, 1)).messages)

    assert [[4, 5], [2, 3, 4, 5], [1, 2, 3, 4, 5]] == [fit(cursor) for cursor in (5, 3, 2)]
    assert [4, 5, 6, 7, 8] == fit(8, noted)
    window.widen()
    assert [1, 2, 3, 4, 5] == fit(5)


def test_the_end_of_a_backlog_is_held_with_what_comes_before_it() -> None:
    """Where no more follows than would be held anyway, nothing is left to be read."""
    talk = [message(n, "user" if n > HELD // 2 else "system") for n in range(1, 3 * HELD)]

    assert [False, True] == [
        is_cut(shorten(snapshot(*talk[: 2 * HELD + more]), 2)) for more in (HELD // 2, HELD // 2 + 1)
    ]
