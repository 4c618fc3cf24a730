"""What the sweep does where no turn runs."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import Raw, structs

from chatkeep.conversation.commits import SEND_PAUSE_MOST_S
from chatkeep.conversation.housekeeping import (
    HELD_S,
    LOOK_AGAIN_S,
    PARKED_S,
    cut_log,
    do_housekeeping,
    is_forgotten,
    may_rest,
    may_schedule,
    may_wait,
    rest,
    schedule,
    wake,
)
from chatkeep.conversation.keys import SAVED
from chatkeep.conversation.outbox import GIVE_UP_S
from chatkeep.conversation.record import NONE, OutboxState, Reminder
from chatkeep.conversation.snapshots import Policy
from chatkeep.drivers.base import AT_ONCE
from chatkeep.model import Message

from ..support.snapshots import AT, message, snapshot

LIVE = Raw(b"{}")
LOG = tuple(message(n, created_at=100.0 * n) for n in (1, 2, 3))
LATER = Reminder(at=AT + 50, name="later")


def kept(**told: Any) -> Any:
    """What is written of a conversation that is done."""
    record = {"cursor": 3} | told.pop("record", {})
    options = {"at": AT, "oldest": [*LOG]} | told
    policy = options.pop("policy", Policy())
    return do_housekeeping(snapshot(*LOG, row={"updated_at": 300.0}, **record), policy, **options)


@pytest.mark.parametrize(
    ("retention", "drop", "oldest"), [(900.0, 1, 200.0), (899.0, 1, 200.0), (901.0, 0, 100.0), (100.0, 3, 0.0)]
)
def test_entries_go_when_they_are_as_old_as_is_said(retention: float, drop: int, oldest: float) -> None:
    """With the dead letters among them; it is noted how far, and of which time the next one is."""
    act = kept(policy=Policy(retention_s=retention), record={"dead": (1, 3)})

    assert (drop, drop, oldest) == (act.drop, act.record.dropped, act.record.oldest_at)
    assert tuple(number for number in (1, 3) if number > drop) == act.record.dead
    assert act.untouched


def test_what_was_over_at_another_time_is_ended() -> None:
    """A clock that jumps ends nothing: reminders go by it, and nothing else does."""
    policy = Policy(retention_s=150.0, session_ttl_s=10.0)
    record = {"state": LIVE, "active_at": 300.0, "reminders": (Reminder(at=AT, name="a"),)}
    act = kept(policy=policy, record=record, ends=305.0)

    assert (1, LIVE, 1) == (act.drop, act.record.state, len(act.drafts))
    assert (3, NONE) == (kept(policy=policy, record=record).drop, kept(policy=policy, record=record).record.state)


def test_a_legal_hold_keeps_what_would_go() -> None:
    """And has it looked at again; a session ends all the same."""
    policy = Policy(retention_s=1.0, forget_after_s=1.0, forget_visitors_s=1.0, session_ttl_s=1.0)
    act = kept(policy=policy, held=True, record={"state": LIVE, "visitor": True})
    soon = kept(policy=policy, held=True, record={"reminders": (LATER,)})

    assert (0, NONE, AT + HELD_S) == (act.drop, act.record.state, act.due_at)
    assert AT + 50 == soon.due_at


def test_a_reminder_that_is_due_becomes_an_event() -> None:
    """The others stay; while the bot is paused all rest."""
    reminders = (Reminder(at=AT, name="now"), LATER)
    act = kept(record={"reminders": reminders})
    resting = kept(record={"reminders": reminders}, paused=True)

    assert (["event"], (LATER,), AT_ONCE, False) == (
        [draft.role for draft in act.drafts],
        act.record.reminders,
        act.due_at,
        act.untouched,
    )
    assert ((), reminders, AT + 50) == (resting.drafts, resting.record.reminders, resting.due_at)


def test_the_sweep_looks_again_and_does_not_spin() -> None:
    """What is over by now was ended; what ends in this moment is looked at a little later."""
    policy = Policy(session_ttl_s=50.0)

    assert AT + LOOK_AGAIN_S == kept(policy=Policy(forget_after_s=1.0)).due_at
    assert AT + 45 == kept(policy=policy, record={"state": LIVE, "active_at": AT - 5}).due_at
    assert kept(policy=policy).due_at is None


def test_what_has_not_gone_out_stays_where_it_is_sent() -> None:
    """For a day where nobody sends it; then it is looked at ever less often."""
    log = (message(1, created_at=100.0), message(2, "assistant", created_at=200.0))
    waits = snapshot(*log, cursor=2, delivery=OutboxState(upto=1, at=AT + 9))
    policy = Policy(retention_s=50.0)
    sends = do_housekeeping(waits, policy, at=AT, sends=True, oldest=[*log])
    parked = do_housekeeping(waits, policy, at=AT, oldest=[*log])
    late = do_housekeeping(waits, policy, at=200.0 + GIVE_UP_S, oldest=[*log])
    again = structs.replace(waits.record, delivery=OutboxState(upto=2, again=(1,)))
    young = snapshot(log[0], message(2, "assistant", created_at=AT - 5), cursor=2, delivery=OutboxState(upto=1))

    assert (1, 1, 2) == (sends.drop, parked.drop, late.drop)
    assert 0 == do_housekeeping(structs.replace(waits, record=again), policy, at=AT, sends=True, oldest=[*log]).drop
    assert [AT + 9, AT + 800, AT + PARKED_S] == [
        do_housekeeping(one, Policy(), at=AT, sends=sends, oldest=[]).due_at
        for one, sends in ((waits, True), (waits, False), (young, False))
    ]


def test_what_stays_for_a_reply_is_looked_at_with_the_reply() -> None:
    """Not once a second, for what is over already."""
    log = (message(1, "assistant", created_at=100.0),)
    waits = snapshot(*log, cursor=1, delivery=OutboxState(at=AT + 500))
    act = do_housekeeping(waits, Policy(retention_s=50.0), at=AT, oldest=[*log], sends=True)

    assert (0, AT + 500) == (act.drop, act.due_at)


def test_a_log_is_cut_up_to_an_entry() -> None:
    """With its dead letters, and nothing else."""
    act = cut_log(snapshot(*LOG, cursor=3, dead=(1, 2, 3)), 2, Policy(), at=AT)

    assert (2, 2, (3,), True) == (act.drop, act.record.dropped, act.record.dead, act.untouched)


@pytest.mark.parametrize(
    ("record", "at", "expected"),
    [
        ({}, 349.0, False),
        ({}, 350.0, True),
        ({"reminders": (LATER,)}, 350.0, False),
        ({"cursor": 2}, 350.0, False),
        ({"delivery": OutboxState(upto=3)}, 350.0, True),
        ({"delivery": OutboxState(upto=3, again=(2,))}, 350.0, False),
        ({"delivery": OutboxState(upto=3, again=(2,))}, 300.0 + GIVE_UP_S, True),
    ],
)
def test_a_conversation_is_forgotten_when_nobody_waits_for_anything(
    record: dict[str, Any], at: float, expected: bool
) -> None:
    """So long after the last thing that happened."""
    there = snapshot(*LOG, row={"updated_at": 300.0}, **{"cursor": 3} | record)

    assert expected is is_forgotten(there, Policy(forget_after_s=50.0), at=at)
    assert not is_forgotten(there, Policy(), at=at)


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        ((message(1), message(2, "operator")), True),
        ((message(1), message(2, "operator"), message(3)), False),
        ((message(1), message(2, "operator", channel=SAVED)), False),
        ((message(1), message(2, "assistant")), False),
    ],
)
def test_what_a_person_has_answered_waits_for_nobody(log: tuple[Message, ...], expected: bool) -> None:
    """It is unread while the bot is paused, and forgotten all the same, when the time has come and not looked at before."""
    policy = Policy(forget_after_s=50.0)
    there = snapshot(*log, row={"updated_at": 300.0}, cursor=0)
    rested = rest(there, policy, at=310.0, sends=True)
    held = rest(there, policy, at=350.0, sends=True, held=True)
    late = schedule(there, policy, at=400.0)

    assert [False, expected] == [is_forgotten(there, policy, at=at) for at in (349.0, 350.0)]
    assert rested
    assert held
    assert (350.0 if expected else None, True) == (rested.due_at, rested.untouched)
    assert (350.0 + HELD_S if expected else None) == held.due_at
    assert (400.0 if expected else None) == (late and late.due_at)
    assert not is_forgotten(structs.replace(there, beyond=True), policy, at=350.0)


def test_what_was_written_before_a_setting_is_made_due() -> None:
    """Unless it is due some time, or somebody works on it, or it waits; where it is over, now."""
    policy = Policy(forget_after_s=50.0)
    there = snapshot(*LOG, row={"updated_at": 300.0}, cursor=3)
    old, new = schedule(there, policy, at=AT), schedule(there, policy, at=320.0)
    assert old is not None
    assert new is not None

    assert (AT, 350.0, True) == (old.due_at, new.due_at, old.untouched)
    assert schedule(there, Policy(), at=AT) is None
    for row, record in (({"due_at": 9.0}, {}), ({"lease": "t"}, {}), ({}, {"cursor": 2})):
        assert schedule(snapshot(*LOG, row=row, **{"cursor": 3} | record), policy, at=AT) is None


@pytest.mark.parametrize(
    ("record", "policy", "expected"),
    [
        ({}, {}, False),
        ({"cursor": 2}, {}, True),
        ({"delivery": OutboxState(upto=3)}, {}, True),
        ({}, {"retention_s": 50.0}, True),
        ({"oldest_at": 5.0}, {"retention_s": 50.0}, True),
        ({"oldest_at": 5.0, "dropped": 3}, {"retention_s": 50.0}, False),
        ({}, {"forget_after_s": 50.0}, True),
    ],
)
def test_a_row_tells_whether_it_may_have_to_be_made_due(
    record: dict[str, Any], policy: dict[str, Any], expected: bool
) -> None:
    """Without a look at its log."""
    there = snapshot(*LOG, row={"updated_at": 300.0}, **{"cursor": 3} | record)

    assert expected is may_schedule(there.row, there.record, Policy(**policy), at=AT)


def test_what_waits_rests_while_the_bot_is_paused() -> None:
    """Replies that wait stay due where they are sent, and are left to others where not."""
    waits = snapshot(*LOG, row={"due_at": AT_ONCE})
    act = rest(waits, Policy(), at=AT, sends=True, died=True)
    assert act is not None
    log = (*LOG[:2], message(3, "assistant"))
    out = snapshot(*log, cursor=3, delivery=OutboxState(upto=2, at=AT + 5))
    replies = rest(out, Policy(), at=AT, sends=True)
    assert replies is not None
    late = snapshot(*log, cursor=3, delivery=OutboxState(upto=2, at=AT + SEND_PAUSE_MOST_S + 1))
    unbelieved = rest(late, Policy(), at=AT, sends=True)
    assert unbelieved is not None

    assert (None, True, 1) == (act.due_at, act.untouched, act.record.deaths)
    assert (AT + 5, AT_ONCE) == (replies.due_at, unbelieved.due_at)
    assert rest(out, Policy(), at=AT, sends=False) is None


@pytest.mark.parametrize(
    ("row", "record", "rewrites", "wakes"),
    [
        pytest.param({}, {"cursor": 0}, False, True, id="unread"),
        pytest.param({"due_at": AT + 1}, {"cursor": 0}, False, True, id="due too late"),
        pytest.param({"due_at": AT}, {"cursor": 0}, False, False, id="due already"),
        pytest.param({"due_at": AT}, {"cursor": 0}, True, True, id="due already, and written all the same"),
        pytest.param({}, {}, True, False, id="nothing waits"),
        pytest.param({}, {"reminders": (LATER,)}, False, True, id="a reminder rests"),
        pytest.param({"due_at": AT + 50}, {"reminders": (LATER,)}, True, False, id="a reminder has time"),
        pytest.param({"due_at": AT + 50}, {"reminders": (Reminder(at=AT, name="a"),)}, False, True, id="one is due"),
    ],
)
def test_what_rested_is_made_due_again(
    row: dict[str, Any], record: dict[str, Any], rewrites: bool, wakes: bool
) -> None:
    """The lease stays whose it is."""
    there = snapshot(*LOG, row={"lease": "t", "leased_until": AT + 3} | row, **{"cursor": 3} | record)
    act = wake(there, Policy(), at=AT, rewrites=rewrites)

    assert wakes is (act is not None)
    if act is not None:
        assert ("t", AT + 3, True) == (act.lease, act.leased_until, act.untouched)
        assert act.due_at is not None


@pytest.mark.parametrize(
    ("record", "rests", "waits"),
    [
        ({}, False, True),
        ({"cursor": 2}, True, False),
        ({"reminders": (LATER,)}, True, True),
        ({"reminders": (Reminder(at=AT + 9, name="a"),)}, True, False),
        ({"delivery": OutboxState(upto=3)}, False, True),
        ({"delivery": OutboxState(upto=2)}, False, False),
        ({"delivery": OutboxState(upto=3, again=(1,))}, False, False),
    ],
)
def test_a_row_tells_whether_somebody_waits(record: dict[str, Any], rests: bool, waits: bool) -> None:
    """Soon, or since it was paused."""
    there = snapshot(*LOG, **{"cursor": 3} | record)

    assert rests is may_rest(there.row, there.record)
    assert waits is may_wait(there.row, there.record, soon=AT + 10)
