"""The next row: when somebody has to look again, and what a change from outside leaves."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import Raw, structs

from chatkeep.conversation.codec import entry_for, message_from, record_of
from chatkeep.conversation.commits import (
    CHANGES_KEPT,
    SEND_PAUSE_MOST_S,
    awaits_channel,
    commit_change,
    commit_note,
    count_notes,
    encode_act,
    find_oldest,
    first_due,
    forget_after,
    make_note,
    may_pass,
    next_commit,
    next_due,
    not_before,
)
from chatkeep.conversation.keys import SAVED
from chatkeep.conversation.record import OutboxState, Record, Reminder
from chatkeep.conversation.snapshots import Commit, Draft, Policy
from chatkeep.drivers.base import AT_ONCE, Key
from chatkeep.errors import TooLarge

from ..support.snapshots import ADA, AT, message, snapshot

LIVE = Raw(b"{}")
DONE = snapshot(message(1), message(2, "assistant"), cursor=2)


@pytest.mark.parametrize(
    ("record", "policy", "expected"),
    [
        pytest.param({}, {}, None, id="nothing ends"),
        pytest.param({"reminders": (Reminder(at=9.0, name="b"), Reminder(at=5.0, name="a"))}, {}, 5.0, id="reminders"),
        pytest.param({"state": LIVE, "active_at": 100.0}, {"session_ttl_s": 30.0}, 130.0, id="a session"),
        pytest.param({"active_at": 100.0}, {"session_ttl_s": 30.0}, None, id="no session"),
        pytest.param({"oldest_at": 50.0}, {"retention_s": 60.0}, 110.0, id="the first entry"),
        pytest.param({"oldest_at": 50.0, "dropped": 3}, {"retention_s": 60.0}, None, id="no entry"),
        pytest.param({}, {"forget_after_s": 70.0}, 270.0, id="forgotten"),
        pytest.param({"visitor": True}, {"forget_visitors_s": 7.0}, 207.0, id="a visitor"),
        pytest.param({}, {"forget_visitors_s": 7.0}, None, id="no visitor"),
        pytest.param(
            {"state": LIVE, "active_at": 100.0, "oldest_at": 50.0},
            {"session_ttl_s": 30.0, "retention_s": 60.0},
            110.0,
            id="the first of all",
        ),
    ],
)
def test_an_idle_conversation_is_due_when_something_of_it_ends(
    record: dict[str, Any], policy: dict[str, Any], expected: float | None
) -> None:
    """Whichever comes first."""
    assert expected == next_due(Record(**record), Policy(**policy), head=3, touched=200.0)


def test_what_nobody_answers_ends_like_anything_else() -> None:
    """A conversation that begins with it is due from the beginning."""
    assert 60.0 == first_due(Policy(retention_s=50.0, forget_after_s=90.0), at=10.0)
    assert first_due(Policy(), at=10.0) is None


@pytest.mark.parametrize(
    ("visitor", "all_s", "visitors_s", "expected"),
    [
        (False, None, 5.0, None),
        (False, 9.0, 5.0, 9.0),
        (True, None, 5.0, 5.0),
        (True, 9.0, 5.0, 5.0),
        (True, 3.0, 5.0, 3.0),
        (True, 9.0, None, 9.0),
    ],
)
def test_visitors_are_forgotten_at_the_earlier_of_two_times(
    visitor: bool, all_s: float | None, visitors_s: float | None, expected: float | None
) -> None:
    """A setting for visitors makes nobody stay longer."""
    policy = Policy(forget_after_s=all_s, forget_visitors_s=visitors_s)

    assert expected == forget_after(Record(visitor=visitor), policy)


@pytest.mark.parametrize(
    ("time", "expected"), [(9.0, AT_ONCE), (10.0, AT_ONCE), (11.0, 11.0), (70.0, 70.0), (71.0, AT_ONCE)]
)
def test_a_time_that_no_pause_reaches_is_not_believed(time: float, expected: float) -> None:
    """A clock that was ahead has written it."""
    assert expected == not_before(time, 60.0, at=10.0)


def test_what_waits_is_due_when_it_may_be_tried() -> None:
    """As far as the longest pause of the settings, and for a conversation that a channel's rate holds up as long as that may last."""
    policy = Policy(pause_most_s=60.0, channel_within_s=600.0)
    waits = [snapshot(message(1), retry_at=AT + wait) for wait in (0, 50, 70)]
    paced = snapshot(message(1), retry_at=AT + 70, paced=AT)

    assert [AT_ONCE, AT + 50, AT_ONCE] == [next_commit(one, one.record, policy, at=AT).due_at for one in waits]
    assert AT + 70 == next_commit(paced, paced.record, policy, at=AT).due_at


@pytest.mark.parametrize(
    ("old", "expected"),
    [(None, AT + 60), (AT + 30, AT + 30), (AT + 60, AT + 60), (AT, AT + 60), (AT + 90, AT + 60)],
)
def test_a_due_time_that_is_early_stays(old: float | None, expected: float) -> None:
    """It costs a look, and a new one would cost a write of the index; one that is late, or over, does not stay."""
    there = snapshot(message(1), row={"due_at": old}, cursor=1, state=LIVE, active_at=AT)

    assert expected == next_commit(there, there.record, Policy(session_ttl_s=60.0), at=AT).due_at


def test_a_lease_lasts_as_long_as_is_said_or_as_the_settings_say() -> None:
    """Who has none tries nothing alone."""
    there = snapshot(message(1), alone=True)
    acts = [
        next_commit(there, there.record, Policy(lease_s=9.0), at=AT, lease=lease, until=until)
        for lease, until in (("t", None), ("t", AT + 2), (None, None))
    ]

    assert [("t", AT + 9, True), ("t", AT + 2, True), (None, 0.0, False)] == [
        (act.lease, act.leased_until, act.record.alone) for act in acts
    ]


def test_a_reply_that_has_to_go_out_makes_it_due() -> None:
    """When it may be tried; what is out is noted as that, up to the end."""
    delivery = OutboxState(upto=1, at=AT + 5)
    waits = snapshot(message(1), message(2, "assistant"), cursor=2, delivery=delivery)
    late = structs.replace(waits.record, delivery=structs.replace(delivery, at=AT + SEND_PAUSE_MOST_S + 1))
    out = structs.replace(waits.record, delivery=OutboxState(upto=2))
    remind = (Reminder(at=AT + 1, name="a"),)

    assert AT + 5 == next_commit(waits, waits.record, Policy(), at=AT).due_at
    assert AT_ONCE == next_commit(waits, late, Policy(), at=AT).due_at
    assert AT + 1 == next_commit(waits, structs.replace(waits.record, reminders=remind), Policy(), at=AT).due_at
    noted = next_commit(waits, structs.replace(out, cursor=3), Policy(), at=AT, drafts=[make_note("note")])
    assert (None, 3) == (noted.due_at, noted.record.delivery and noted.record.delivery.upto)


@pytest.mark.parametrize(
    ("messages", "dropped", "drafts", "expected"),
    [
        pytest.param((message(1), message(2)), 0, [], AT - 99, id="all is at hand"),
        pytest.param((message(3), message(4)), 2, [], AT - 97, id="all that is left is at hand"),
        pytest.param((message(3), message(4)), 1, [], 0.0, id="the first is not at hand"),
        pytest.param((), 0, [Draft(role="user", content="x", created_at=7.0)], 7.0, id="the first entry"),
        pytest.param((), 0, [Draft(role="user", content="x")], AT, id="the first entry, of now"),
        pytest.param((), 0, [], 0.0, id="nothing"),
        pytest.param((message(3),), 3, [Draft(role="user", content="x", created_at=7.0)], 7.0, id="all is gone"),
    ],
)
def test_the_time_of_the_first_entry_is_known_where_it_is_seen(
    messages: Any, dropped: int, drafts: list[Draft], expected: float
) -> None:
    """0 where it is not; the sweep finds out."""
    there = snapshot(*messages, dropped=dropped)

    assert expected == find_oldest(there, there.record, drafts, at=AT)


def test_the_time_of_the_first_entry_is_found_once() -> None:
    """And only where it counts."""
    known = snapshot(message(1), cursor=1, oldest_at=5.0)
    unknown = snapshot(message(1), cursor=1)

    assert 5.0 == next_commit(known, known.record, Policy(retention_s=1e6), at=AT).record.oldest_at
    assert AT - 99 == next_commit(unknown, unknown.record, Policy(retention_s=1e6), at=AT).record.oldest_at
    assert 0.0 == next_commit(unknown, unknown.record, Policy(), at=AT).record.oldest_at


def test_a_change_from_outside_knows_itself_again() -> None:
    """As long as not too many came between; each is counted once."""
    act = commit_change(snapshot(changes=("a",), edits=4), Record(changes=("a",)), "b", Policy(), at=AT)
    assert act is not None
    full = tuple(f"{n}" for n in range(CHANGES_KEPT))
    next_one = commit_change(snapshot(changes=full), Record(), "b", Policy(), at=AT)
    assert next_one is not None

    assert (("a", "b"), 5, ()) == (act.record.changes, act.record.edits, act.drafts)
    assert (*full[1:], "b") == next_one.record.changes
    assert commit_change(snapshot(changes=("a", "b")), Record(), "b", Policy(), at=AT) is None


def test_a_change_passes_what_nobody_answers_and_nothing_else() -> None:
    """Nor an operator's words that a channel may have to send; the lease stays whose it is."""
    lease = {"lease": "t", "leased_until": AT + 9}
    done = snapshot(message(1), message(2, "system"), row=lease, cursor=1)
    waits = snapshot(message(1), message(2), row=lease, cursor=1)
    written = snapshot(message(1, "operator"), row=lease)
    for there, note_cursor, change_cursor in ((done, 4, 2), (waits, 1, 1), (written, 0, 0)):
        noted = commit_note(there, there.record, make_note("note"), Policy(), at=AT, more=[make_note("more")])
        changed = commit_change(there, there.record, "a", Policy(), at=AT)
        assert changed is not None

        assert (note_cursor, change_cursor) == (noted.record.cursor, changed.record.cursor)
        assert ("t", AT + 9, 2) == (noted.lease, noted.leased_until, len(noted.drafts))
        assert ("t", AT + 9) == (changed.lease, changed.leased_until)


def test_what_an_operator_wrote_before_any_turn_awaits_a_channel() -> None:
    """Not where it is known how replies go out, nor what a save has brought, nor what is just being removed."""
    written = snapshot(message(1), message(2, "operator"))

    assert awaits_channel(written)
    assert not awaits_channel(written, without={2})
    assert not awaits_channel(snapshot(message(1), message(2, "operator"), cursor=2))
    assert not awaits_channel(snapshot(message(1, "operator"), delivery=OutboxState()))
    assert not awaits_channel(snapshot(message(1, "operator", channel=SAVED)))
    assert not awaits_channel(snapshot(message(1, "system")))
    assert [False, True, True] == [may_pass(one) for one in (written, DONE, snapshot())]


def test_notes_are_counted_where_people_read() -> None:
    """Chatkeep's own conversations have no reader."""
    own = snapshot(row={"key": Key("~keys", "ada")}, notes=3)

    assert 5 == count_notes(snapshot(notes=3), Record(), 2).notes
    assert 0 == count_notes(own, Record(), 2).notes


def test_a_note_with_a_name_can_be_written_once() -> None:
    """By its id; it says what it is about."""
    named = make_note("dropped", "i.1", first=1, last=2)

    assert ("~dropped:i.1", 1, 2, {"kind": "dropped"}) == (
        named.id,
        named.reply_from,
        named.reply_to,
        named.metadata,
    )
    assert "" == make_note("dropped").id


MADE = entry_for(ADA, "saved", id="s1", role="user", created_at=3.25, limit=100, channel=SAVED)
DRAFTS = (
    Draft(role="user", content="hi", id="m3", channel="pigeon"),
    Draft(role="assistant", content="hello", reply_to=3, reply_from=3, created_at=AT + 0.0006),
    Draft(role="user", content=[{"type": "text", "text": "more"}], id="m5"),
    Draft(role="operator", content="I am here", metadata={"author": "eve"}),
    Draft(role="user", content="saved", id="s1", created_at=3.25, channel=SAVED, entry=MADE),
    make_note("noted", "n1", content="a note"),
)


@pytest.mark.parametrize("incarnation", ["", "i"])
def test_what_is_cached_of_an_act_is_what_is_read_of_it(incarnation: str) -> None:
    """The entries go on in the log, and say what the messages say, to the bit: of the act's time, if they have none of their own. A
    conversation that begins is named by its first revision."""
    before = snapshot(message(1), message(2, "assistant"), cursor=2, notes=4, row={"incarnation": incarnation})
    act = Commit(record=structs.replace(before.record, cursor=7), drafts=DRAFTS)
    row, entries, said, record = encode_act(before, act, revision="r2", at=AT + 0.0004, limit=100)

    assert ("r2", incarnation or "r2") == (row.revision, row.incarnation)
    assert [3, 4, 5, 6, 7, 8] == [entry.number for entry in entries]
    assert [message_from(ADA, row.incarnation, entry) for entry in entries] == said
    assert [AT, AT + 0.001, AT, AT, 3.25, AT] == [one.created_at for one in said]
    assert ["m3", f"{row.incarnation}.4", "m5", f"{row.incarnation}.6", "s1", "~noted:n1"] == [one.id for one in said]
    assert (record_of(row), 7, 5) == (record, record.cursor, record.notes)


def test_a_note_may_be_longer_than_a_message() -> None:
    """The limit is for what people say: a reason that quotes it is chatkeep's own."""
    act = Commit(record=DONE.record, drafts=(make_note("dead", content="x" * 200),))

    assert "x" * 200 == encode_act(DONE, act, revision="r2", at=AT, limit=100)[2][0].content
    with pytest.raises(TooLarge):
        encode_act(DONE, Commit(record=DONE.record, drafts=(Draft(role="user", content="x" * 200),)), **ACT)


ACT: dict[str, Any] = {"revision": "r2", "at": AT, "limit": 100}


@pytest.mark.parametrize(
    ("changed", "before", "expected"),
    [
        ({}, {"updated_at": AT - 5}, ("bob", AT)),
        ({"owner": "eve"}, {"updated_at": AT + 5}, ("eve", AT + 5)),
        ({"owner": ""}, {}, ("", AT)),
        ({"untouched": True}, {"updated_at": AT - 5}, ("bob", AT - 5)),
        ({"untouched": True}, {"updated_at": 0.0, "revision": ""}, ("bob", AT)),
    ],
)
def test_a_row_is_of_its_owner_and_of_its_last_change(
    changed: dict[str, Any], before: dict[str, Any], expected: tuple[str, float]
) -> None:
    """A clock that is set back moves no change back; an act that is nobody's leaves the time, unless the conversation begins with it."""
    there = snapshot(message(1), row={"owner": "bob"} | before)
    row = encode_act(there, Commit(record=there.record, **changed), **ACT)[0]

    assert expected == (row.owner, row.updated_at)
