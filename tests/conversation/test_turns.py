"""The rules of conversations as pure functions, on random logs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import Raw, json, structs

from chatkeep.conversation import housekeeping, keys, leases, sessions, snapshots, turns
from chatkeep.conversation.record import OutboxState, Record
from chatkeep.conversation.snapshots import Draft, Policy, Snapshot
from chatkeep.drivers.base import AT_ONCE, Key, Row
from chatkeep.model import Message

ROLES = ("user", "assistant", "operator", "system", "event")
AT = 1000.0


@st.composite
def some_snapshots(draw: Any) -> Snapshot:
    """A conversation with a random log, a cursor somewhere in it, attempts, and perhaps a lease."""
    roles = draw(st.lists(st.sampled_from(ROLES), max_size=12))
    messages = tuple(
        Message(id=f"m{n}", number=n, role=role, content="x", created_at=AT - 100 + n)
        for n, role in enumerate(roles, 1)
    )
    cursor = draw(st.integers(0, len(roles)))
    record = Record(
        state=draw(st.sampled_from([Raw(b"null"), Raw(b"{}")])),
        cursor=cursor,
        session=draw(st.integers(0, 3)),
        since=draw(st.integers(1, len(roles) + 1)),
        active_at=AT - draw(st.integers(0, 200)),
        begun=draw(st.integers(0, 9)),
        raised=draw(st.integers(0, 4)),
        retry_at=AT + draw(st.integers(-5, 5)),
        deaths=draw(st.integers(0, 4)),
        alone=draw(st.booleans()),
    )
    row = Row(
        key=Key("", "ada"),
        revision="r",
        incarnation="b",
        head=len(roles),
        due_at=draw(st.none() | st.floats(AT - 50, AT + 5000)),
        lease=draw(st.none() | st.just("c")),
    )
    return Snapshot(row, record, messages)


policies = st.builds(
    Policy,
    overlap=st.sampled_from(["queue", "debounce", "burst", "drop"]),
    session_ttl_s=st.none() | st.floats(0, 300),
    retention_s=st.none() | st.floats(1, 300),
    history=st.integers(0, 5),
)


def applied(snapshot: Snapshot, act: snapshots.Commit) -> Snapshot:
    """The snapshot that an act leaves."""
    head = snapshot.row.head
    said = tuple(
        Message(
            id=draft.id or f"b.{n}",
            number=n,
            role=draft.role,
            content=draft.content,
            created_at=AT,
            reply_to=draft.reply_to or None,
            reply_from=draft.reply_from or None,
            metadata=draft.metadata,
        )
        for n, draft in enumerate(act.drafts, head + 1)
    )
    row = structs.replace(
        snapshot.row, head=head + len(said), due_at=act.due_at, lease=act.lease, leased_until=act.leased_until
    )
    return Snapshot(row, act.record, (*snapshot.messages, *said))


@given(some_snapshots(), policies, st.lists(st.text(max_size=3), max_size=3))
def test_a_finished_turn_answers_its_batch_and_nothing_else(
    snapshot: Snapshot, policy: Policy, replies: list[str]
) -> None:
    """Afterwards the batch is answered with those replies, later messages still wait (or are noted as dropped)."""
    batch = turns.choose_batch(snapshot, policy)
    if not batch:
        return
    act = turns.finish_turn(
        snapshot, batch, list(replies), policy, state=Raw(b"{}"), schema=1, opens=False, at=AT, lease="c"
    )
    after = applied(snapshot, act)
    later = [message for message in snapshots.unread_messages(snapshot) if message not in batch]

    assert ([] if policy.overlap == "drop" else later) == snapshots.unread_messages(after)
    for message in batch:
        found = [entry for entry in after.messages if entry.number > message.number]
        outcome = snapshots.find_outcome(after.record, message.number, found)
        assert outcome is not None
        assert ("answered", replies) == (outcome.status, [reply.content for reply in outcome.replies])
    for message in later:
        outcome = snapshots.find_outcome(after.record, message.number, list(after.messages[message.number :]))
        assert ("dropped" if policy.overlap == "drop" else None) == (outcome and outcome.status)
    assert (0, 0, 0, False) == (
        after.record.begun,
        after.record.raised,
        after.record.deaths,
        after.record.alone,
    )


@given(some_snapshots(), policies)
def test_something_unread_is_always_due_and_a_claim_is_only_kept_for_work(snapshot: Snapshot, policy: Policy) -> None:
    """The invariant behind every recovery: unread means due; and nobody holds a lease on nothing."""
    waiting = snapshots.unread_messages(snapshot)
    acts = [turns.skip_unread(snapshot, policy, at=AT)]
    acts += [leases.take_lease(snapshot, policy, token="t", at=AT), leases.release_lease(snapshot, policy, at=AT)]
    if waiting:
        acts.append(turns.set_aside(snapshot, waiting[0].number, "why", policy, at=AT))
        acts.append(turns.fail_turn(snapshot, waiting[:1], "why", policy, at=AT, retry_at=AT + 1))
        acts.append(
            turns.finish_turn(
                snapshot, waiting[:1], ["r"], policy, state=Raw(b"{}"), schema=1, opens=True, at=AT, lease="t"
            )
        )
    for act in acts:
        if act is None:
            continue
        after = applied(snapshot, act)
        if snapshots.unread_messages(after):
            assert after.row.due_at is not None
            assert after.row.due_at == AT_ONCE or after.row.due_at > AT, "whose clock is right is not known"
        elif act.lease == "t":
            assert not waiting


@given(some_snapshots(), policies)
def test_an_idle_conversation_is_due_no_later_than_its_session_ends(snapshot: Snapshot, policy: Policy) -> None:
    """Early is allowed, late is not."""
    waiting = snapshots.unread_messages(snapshot)
    if not waiting:
        return
    act = turns.finish_turn(snapshot, waiting, ["r"], policy, state=Raw(b"{}"), schema=1, opens=False, at=AT)

    if policy.session_ttl_s is not None:
        assert act.due_at is not None
        assert act.due_at <= max(AT, act.record.active_at + policy.session_ttl_s)


@given(some_snapshots(), policies)
def test_a_message_that_only_fails_is_set_aside_in_the_end(snapshot: Snapshot, policy: Policy) -> None:
    """After so many attempts, where a number is given, and the next message has its turn."""
    waiting, policy = snapshots.unread_messages(snapshot), structs.replace(policy, max_raised=3)
    if not waiting:
        return
    after = structs.replace(snapshot, record=structs.replace(snapshot.record, begun=0, raised=0))
    for attempt in range(1, 4):
        act = turns.fail_turn(after, waiting[:1], "boom", policy, at=AT, retry_at=AT)
        after = applied(after, act)
        assert (attempt == 3) == (waiting[0].number in after.record.dead)
    assert waiting[1:] == snapshots.unread_messages(after)
    outcome = snapshots.find_outcome(after.record, waiting[0].number, list(after.messages[waiting[0].number :]))
    assert outcome is not None
    assert ("failed", "boom") == (outcome.status, outcome.dead)


@given(
    some_snapshots(),
    policies,
    st.lists(
        st.tuples(st.integers(-400, 400), st.sampled_from([*["raises"] * 9, "hangs", "final"])),
        min_size=12,
        max_size=30,
    ),
)
def test_a_message_is_tried_for_a_time(snapshot: Snapshot, policy: Policy, failures: list[tuple[int, str]]) -> None:
    """However often it raises; one that hangs has a number of chances, one that is sure to fail none. Of the time from which the next
    attempt may begin until it fails no more counts than an attempt takes, and nothing where it fails by a clock that is behind.
    What is said instead of an answer is in the same act, and the next message has a time of its own."""
    waiting = snapshots.unread_messages(snapshot)
    if not waiting:
        return
    record = structs.replace(snapshot.record, begun=0, raised=0, failed_at=0.0)
    now, tried_s, hung = structs.replace(snapshot, record=record), 0, 0
    for late_s, kind in failures:
        at = 1e6
        if now.record.begun:
            at = now.record.retry_at + late_s
            tried_s = min(tried_s + 50, 600) + min(max(late_s, 0), 35)
        hung += kind == "hangs"
        act = turns.fail_turn(
            now,
            waiting[:1],
            "boom",
            policy,
            at=at,
            retry_at=at + 50,
            lease="t" if kind == "hangs" else None,
            final=kind == "final",
            replies=["sorry"],
        )
        now = applied(now, act)
        ends = kind == "final" or tried_s >= 600 or hung >= 8

        assert ends == (waiting[0].number in now.record.dead)
        if ends:
            outcome = snapshots.find_outcome(now.record, waiting[0].number, list(now.messages[waiting[0].number :]))
            assert outcome is not None
            assert ("failed", ["sorry"], "boom") == (outcome.status, [r.text for r in outcome.replies], outcome.dead)
            assert waiting[1:] == snapshots.unread_messages(now)
            assert (0, 0, 0.0) == (now.record.begun, now.record.raised, now.record.failed_at)
            return
        assert now.record.retry_at == at + min(50, 600 - tried_s)
        assert waiting == snapshots.unread_messages(now)


@given(st.integers(1, 40), st.lists(st.just(0.0) | st.floats(0, 40), min_size=1, max_size=60))
def test_turns_of_a_channel_are_held_to_their_rate(rate: int, arrivals: list[float]) -> None:
    """Never more than the rate and its burst, in no window of time; and never held longer than that asks for."""
    policy, within_s = Policy(channel_turns=rate, channel_within_s=60.0), 60.0
    now, record, began = AT, Record(), list[float]()
    for number, pause_s in enumerate(arrivals, 1):
        message = Message(id=f"m{number}", number=number, role="user", content="x", created_at=now, channel="pigeon")
        there = Snapshot(
            Row(key=Key("", "ada"), revision="r", incarnation="b", head=number),
            structs.replace(record, cursor=number - 1),
            (message,),
        )
        now = max(now + pause_s, turns.ready_at(there, policy, at=now))
        record = turns.finish_turn(there, [message], [], policy, state=Raw(b"{}"), schema=1, opens=False, at=now).record
        record = structs.replace(record, cursor=number)
        began.append(now)
    for place, start in enumerate(began):
        run = [at - start for at in began[place:]]

        assert all(count <= rate + passed * rate / within_s + 1 + 1e-6 for count, passed in enumerate(run, 1))
    assert began[-1] <= AT + sum(arrivals) + len(arrivals) * within_s / rate
    said = Message(id="x", number=9, role="user", content="x", created_at=now)
    assert 0.0 == turns.held_until(record, [said], policy), "what came over HTTP has the server's own limits"


@given(some_snapshots(), policies, st.lists(st.sampled_from(["dies", "given back", "renewed", "lost"]), max_size=40))
def test_only_deaths_alone_are_attempts(snapshot: Snapshot, policy: Policy, fates: list[str]) -> None:
    """A message is set aside after `max_begun` of them and never before, and tried alone from the second death on."""
    waiting = snapshots.unread_messages(snapshot)
    if not waiting:
        return
    fresh = structs.replace(snapshot.record, begun=0, raised=0, deaths=0, alone=False)
    now = structs.replace(snapshot, record=fresh, row=structs.replace(snapshot.row, lease=None))
    deaths = alone_deaths = 0
    died = False
    for number, fate in enumerate(fates):
        suspect = leases.is_suspect(now, died=died)

        assert suspect == (deaths >= 2)
        now = applied(now, leases.take_lease(now, policy, token=f"t{number}", at=AT, died=died, alone=suspect))
        if alone_deaths == policy.max_begun:
            assert waiting[1:] == snapshots.unread_messages(now)
            assert waiting[0].number in now.record.dead
            assert (0, 0, False, None) == (now.record.begun, now.record.deaths, now.record.alone, now.row.lease)
            return
        assert (alone_deaths, deaths) == (now.record.begun, now.record.deaths)
        assert waiting == snapshots.unread_messages(now)
        assert suspect == now.record.alone
        if fate == "renewed":
            now = applied(now, leases.renew_lease(now, policy, at=AT))
            assert suspect == now.record.alone
        if fate == "given back":
            now = applied(now, leases.release_lease(now, policy, at=AT))
            assert not now.record.alone
        died = fate == "dies"
        deaths += died
        alone_deaths += died and suspect


@given(some_snapshots(), policies)
def test_a_suspect_that_fails_as_others_do_is_none_any_more(snapshot: Snapshot, policy: Policy) -> None:
    """Nor does the next message inherit what was suspected of one that was passed over."""
    waiting = snapshots.unread_messages(snapshot)
    if not waiting:
        return
    skipped = turns.skip_unread(snapshot, policy, at=AT)
    assert skipped is not None
    for act in (
        turns.fail_turn(snapshot, waiting[:1], "why", policy, at=AT, retry_at=AT),
        turns.set_aside(snapshot, waiting[0].number, "why", policy, at=AT),
        skipped,
    ):
        assert not leases.is_suspect(applied(snapshot, act), died=True)


@given(some_snapshots(), policies)
def test_an_attempt_that_still_runs_keeps_the_claim_until_the_message_is_set_aside(
    snapshot: Snapshot, policy: Policy
) -> None:
    """Between two attempts nobody else may take it; afterwards the next message may be answered by anybody."""
    waiting = snapshots.unread_messages(snapshot)
    if not waiting:
        return
    act = turns.fail_turn(snapshot, waiting[:1], "why", policy, at=AT, retry_at=AT, lease="t")

    assert (None if waiting[0].number in act.record.dead else "t") == act.lease


def test_after_a_death_a_burst_is_taken_apart() -> None:
    """An innocent message does not share the fate of a guilty one."""
    messages = tuple(Message(id=f"{n}", number=n, role="user", content="x", created_at=AT) for n in (1, 2, 3))
    snapshot = Snapshot(Row(key=Key("", "a"), revision="r", incarnation="b", head=3, lease="c"), Record(), messages)
    after = applied(snapshot, leases.take_lease(snapshot, Policy(overlap="burst"), token="t", at=AT, died=True))

    assert (3, 1) == tuple(len(turns.choose_batch(one, Policy(overlap="burst"))) for one in (snapshot, after))


@given(some_snapshots(), policies)
def test_history_is_the_sessions_talk_without_what_is_still_unread(snapshot: Snapshot, policy: Policy) -> None:
    """No note of chatkeep's own, nothing of earlier sessions, nothing unread, at most so many."""
    waiting = snapshots.unread_messages(snapshot)
    if not waiting:
        return
    said = turns.collect_history(snapshot, waiting[0], policy)

    assert len(said) <= policy.history
    assert not [message for message in said if message.role == "system" or message.number < snapshot.record.since]
    assert not [message for message in said if message in waiting]


def test_history_puts_a_reply_behind_what_it_answers() -> None:
    """Three questions came before the first answer was written: the talk reads as a talk."""
    log = [("user", None), ("user", None), ("user", None), ("assistant", 1), ("assistant", 2)]
    messages = tuple(
        Message(id=f"{n}", number=n, role=role, content=f"{n}", created_at=1.0, reply_to=to, reply_from=to)  # type: ignore[arg-type]
        for n, (role, to) in enumerate(log, 1)
    )
    snapshot = Snapshot(Row(key=Key("", "a"), revision="r", incarnation="b", head=5), Record(cursor=2), messages)

    assert [1, 4, 2, 5] == [message.number for message in turns.collect_history(snapshot, messages[2], Policy())]


@given(
    st.lists(st.tuples(st.sampled_from(ROLES), st.sampled_from([0, 0, 0, 1, 2]), st.sampled_from(["", "", "", "why"]))),
    st.integers(1, 12),
    st.integers(0, 6),
    st.integers(0, 5),
)
@example([("system", 0, ""), ("assistant", 0, ""), ("user", 0, ""), ("user", 0, "")], 1, 0, 3)
def test_the_quick_way_to_a_history_gives_the_same(
    log: list[tuple[Any, int, str]], since: int, cut: int, size: int
) -> None:
    """What stands there as it is needs no sorting; whatever was said, `plain_history` agrees with `history` or passes."""
    messages = [
        Message(
            id=f"{n}",
            number=n,
            role=role,
            content=f"{n}",
            created_at=1.0,
            reply_to=max(n - back, 1) if role == "assistant" and back else None,
            metadata={"why": why} if why else {},
        )
        for n, (role, back, why) in enumerate(log, 1)
    ]
    first = Message(id="first", number=len(log) + 1, role="user", content="?", created_at=1.0)
    policy, before = Policy(history=size), snapshots.plain_from(messages[:cut], 1)
    plain = snapshots.plain_from(messages[cut:], before)
    row = Row(key=Key("", "a"), revision="r", incarnation="b", head=len(log))

    for row_head, shown in ((len(log), messages[-8:]), (len(log) + 1, [*messages, first][-8:])):
        snapshot = Snapshot(structs.replace(row, head=row_head), Record(since=since), tuple(shown), plain)
        found = turns.slice_plain_history(snapshot, first, policy)
        assert not found or found == turns.collect_history(snapshot, first, policy)


@given(st.lists(st.sampled_from(["user", "assistant"]), min_size=1, max_size=12), st.integers(1, 5))
def test_a_plain_talk_goes_the_quick_way(roles: list[Any], size: int) -> None:
    """Else it would be quick for nobody."""
    messages = [Message(id=f"{n}", number=n, role=role, content="x", created_at=1.0) for n, role in enumerate(roles, 1)]
    first = Message(id="first", number=len(roles) + 1, role="user", content="?", created_at=1.0)
    row = Row(key=Key("", "a"), revision="r", incarnation="b", head=len(roles))
    snapshot = Snapshot(row, Record(), tuple(messages), snapshots.plain_from(messages, 1))

    said = messages[-size:]
    if len(messages) > size and "user" in roles[-size:]:  # then a question comes first
        said = said[roles[-size:].index("user") :]

    assert said == turns.slice_plain_history(snapshot, first, Policy(history=size))


@given(
    st.lists(
        st.tuples(st.integers(1, 3), st.lists(st.sampled_from(["", "xx", "é" * 5, "call"]), max_size=5)), max_size=7
    ),
    st.integers(0, 12),
    st.none() | st.integers(0, 60),
    st.integers(0, 20),
    st.booleans(),
)
def test_history_is_made_of_whole_turns(
    talk: list[tuple[int, list[str]]], size: int, most_bytes: int | None, window: int, notes: bool
) -> None:
    """The last ones that fit, by number and by size: no result of a tool without its call, no answer without all it answers."""
    log: list[Message] = []
    whole: list[list[Message]] = []
    for asked, replies in talk:
        begins = len(log) + 1
        for _ in range(asked):
            log.append(Message(id="q", number=len(log) + 1, role="user", content="why", created_at=1.0))
        last = len(log)
        for text in replies:
            content: Any = [{"type": "call", "of": text}] if text == "call" else text
            log.append(
                Message(
                    id="a",
                    number=len(log) + 1,
                    role="assistant",
                    content=content,
                    created_at=1.0,
                    reply_to=last,
                    reply_from=begins,
                )
            )
        whole += [log[begins - 1 :]] if replies else [[question] for question in log[begins - 1 :]]
        if notes:
            log.append(Message(id="n", number=len(log) + 1, role="system", content="", created_at=1.0))
    first = Message(id="first", number=len(log) + 1, role="user", content="?", created_at=1.0)
    shown = log[-window:] if window else []
    snapshot = Snapshot(
        Row(key=Key("", "a"), revision="r", incarnation="b", head=len(log)),
        Record(),
        tuple(shown),
        snapshots.plain_from(shown, shown[0].number if shown else len(log) + 1),
    )
    policy = Policy(history=size, history_bytes=most_bytes)

    def size_of(message: Message) -> int:
        return len(message.content.encode() if isinstance(message.content, str) else json.encode(message.content))

    fits: list[Message] = []
    for turn in reversed(whole):
        longer = turn + fits
        if len(longer) > size or longer[0] not in shown:
            break
        if most_bytes is not None and sum(map(size_of, longer)) > most_bytes:
            break
        fits = longer
    found = turns.slice_plain_history(snapshot, first, policy) or turns.collect_history(snapshot, first, policy)

    assert fits == found


@pytest.mark.parametrize("read", [None, 2])
def test_history_does_not_begin_in_the_middle_of_a_turn_that_was_saved(read: int | None) -> None:
    """A talk of another system, with its calls of tools: no result without its call. What an operator wrote stands for itself."""

    def said(roles: str, channel: str, size: int) -> str:
        log = [
            Message(
                id=f"{n}",
                number=n,
                role="user" if role == "u" else "assistant",
                content=role,
                created_at=1.0,
                channel=channel,
            )
            for n, role in enumerate(roles, 1)
        ]
        shown = log if read is None else log[-read:]
        first = Message(id="first", number=len(log) + 1, role="user", content="?", created_at=1.0)
        row = Row(key=Key("", "a"), revision="r", incarnation="b", head=len(log))
        snapshot = Snapshot(row, Record(), tuple(shown), snapshots.plain_from(shown, shown[0].number))
        policy = Policy(history=size)
        found = turns.slice_plain_history(snapshot, first, policy) or turns.collect_history(snapshot, first, policy)
        return "".join(str(message.content) for message in found)

    assert "" == said("ucra", keys.SAVED, 2)
    assert "ra" == said("ucra", "", 2)
    if read is None:
        assert "ucra" == said("ucra", keys.SAVED, 4)
        assert "ua" == said("ucraua", keys.SAVED, 5)
        assert "aa" == said("aa", keys.SAVED, 2)


@given(some_snapshots(), st.sampled_from(["state", "cursor", "session", "born", "head", "paused"]))
def test_a_changed_input_is_seen(snapshot: Snapshot, changed: str) -> None:
    """What a handler has not seen makes its result void; a later message or another lease does not."""
    record, row = snapshot.record, snapshot.row
    other = {
        "state": structs.replace(snapshot, record=structs.replace(record, state=Raw(b'{"x":1}'))),
        "cursor": structs.replace(snapshot, record=structs.replace(record, cursor=record.cursor + 1)),
        "session": structs.replace(snapshot, record=structs.replace(record, session=record.session + 1)),
        "paused": structs.replace(snapshot, record=structs.replace(record, paused=True)),
        "born": structs.replace(snapshot, row=structs.replace(row, incarnation="other")),
        "head": structs.replace(snapshot, row=structs.replace(row, head=row.head - 1)),
    }[changed]
    later = structs.replace(snapshot, row=structs.replace(row, revision="r2", head=row.head + 1, lease="other"))

    assert not turns.has_same_input(snapshot, other)
    assert turns.has_same_input(snapshot, later)


@given(some_snapshots(), st.integers(0, 3))
def test_nothing_is_put_on_a_log_that_was_rolled_back_and_went_on_elsewhere(snapshot: Snapshot, more: int) -> None:
    """Its numbers are those that the turn has seen, and what is said there is not; what was added behind it is no matter."""
    head = snapshot.row.head
    if not head:
        return
    came = tuple(
        Message(id=f"n{n}", number=n, role="system", content="x", created_at=AT)
        for n in range(head + 1, head + 1 + more)
    )
    row = structs.replace(snapshot.row, head=head + more, revision="r2")
    before = structs.replace(snapshot, record=structs.replace(snapshot.record, cursor=head))
    same = structs.replace(before, row=row, messages=(*snapshot.messages, *came))
    last = structs.replace(snapshot.messages[-1], id="other", created_at=AT - 1)
    other = structs.replace(same, messages=(*snapshot.messages[:-1], last, *came))
    first = Message(id="new", number=head + 1, role="user", content="x", created_at=AT)

    assert turns.has_same_input(before, same)
    assert turns.is_same_turn(before, same, first, opens=False)
    assert not turns.has_same_input(before, other)
    assert not turns.is_same_turn(before, other, first, opens=False)


@given(some_snapshots(), policies)
def test_what_the_sweep_writes_keeps_every_unread_message_and_never_spins(snapshot: Snapshot, policy: Policy) -> None:
    """It drops only what is handled and old, and asks to be called again later, not now."""
    if snapshots.unread_messages(snapshot):
        return
    act = housekeeping.do_housekeeping(snapshot, policy, at=AT, oldest=list(snapshot.messages))

    assert act.due_at is None or act.due_at > AT
    if policy.retention_s is not None:
        kept = [message for message in snapshot.messages if message.number > act.drop]
        assert kept == [message for message in snapshot.messages if message in kept]
        assert all(message.created_at + policy.retention_s <= AT for message in snapshot.messages[: act.drop])


def test_a_turn_that_opened_a_session_is_found_again_by_it() -> None:
    """The next session, which began with the message that it answers: in another one somebody else has answered."""
    first = Message(id="m1", number=1, role="user", content="x", created_at=AT)
    row = Row(key=Key("", "a"), revision="r", incarnation="b", head=1)
    before = Snapshot(row, Record(session=2, since=1), (first,))

    def now(**record: Any) -> Snapshot:
        return structs.replace(before, record=structs.replace(before.record, **record))

    opened = now(session=3, since=1)

    assert turns.is_same_turn(before, before, first, opens=True)
    assert turns.is_same_turn(before, opened, first, opens=True)
    assert not turns.is_same_turn(before, opened, first, opens=False)
    assert not turns.is_same_turn(before, now(session=4, since=1), first, opens=True)
    assert not turns.is_same_turn(before, now(session=3, since=2), first, opens=True)
    assert not turns.is_same_turn(before, now(paused=True), first, opens=True)


def test_the_act_that_answers_says_which_reply_is_about_to_be_sent() -> None:
    """The first one, behind the message itself where that arrives with it; nobody says so without the lease."""
    first = Message(id="m1", number=1, role="user", content="x", created_at=AT)
    there = Snapshot(Row(key=Key("", "a"), revision="r", incarnation="b", head=1), Record(), (first,))
    empty = Snapshot(Row(key=Key("", "a"), revision="", incarnation="", head=0), Record(), ())
    arriving = Draft(role="user", content="x", id="m1", created_at=AT)

    def sending(snapshot: Snapshot, **told: Any) -> Any:
        told = {"state": Raw(b"{}"), "schema": 1, "opens": True, "at": AT, "out": True, "lease": "t"} | told
        record = turns.finish_turn(snapshot, [first], ["hi", "you"], Policy(), **told).record
        return record.delivery and record.delivery.sending

    assert [2, 2, 0, None] == [
        sending(there),
        sending(empty, arriving=arriving),
        sending(there, lease=None),
        sending(there, out=False),
    ]


@st.composite
def some_talks(draw: Any) -> Snapshot:
    """A conversation whose turns are all answered, with all of its log: questions, their replies, what operators say, and notes."""
    messages: list[Message] = []
    for kind in draw(
        st.lists(st.sampled_from(["turn", "turn", "turn", "burst", "operator", "note", "redacted"]), max_size=9)
    ):
        first = len(messages) + 1
        asked = {"burst": 2, "turn": 1, "redacted": 1}.get(kind, 0)
        messages += [_said(first + n, "user", redacted=kind == "redacted") for n in range(asked)]
        if asked:
            last = len(messages)
            replies = draw(st.integers(0, 2))
            messages += [_said(last + n, "assistant", reply_to=last, reply_from=first) for n in range(1, replies + 1)]
        else:
            messages.append(_said(first, "operator" if kind == "operator" else "system"))
    head = len(messages)
    record = Record(
        state=draw(st.sampled_from([Raw(b"null"), Raw(b"{}")])),
        cursor=head,
        since=draw(st.integers(1, head + 1)),
        dropped=draw(st.just(0) | st.integers(0, head)),
        active_at=AT - draw(st.integers(0, 200)),
    )
    row = Row(key=Key("", "ada"), revision="r", incarnation="b", head=head)
    return _held(Snapshot(row, record, tuple(messages)), head - record.dropped)


def _said(number: int, role: Any, **more: Any) -> Message:
    return Message(id=f"m{number}", number=number, role=role, content="x", created_at=AT - 300 + number, **more)


def _held(snapshot: Snapshot, count: int) -> Snapshot:
    """*snapshot* with its last so many messages."""
    messages = snapshot.messages[len(snapshot.messages) - count :]
    plain = snapshots.plain_from(messages, messages[0].number if messages else snapshot.row.head + 1)
    return structs.replace(snapshot, messages=messages, plain=plain)


def _history(snapshot: Snapshot, first: Message, policy: Policy) -> list[Message]:
    """What a handler is shown, as the turn processor chooses it."""
    if sessions.is_session_over(snapshot.record, policy, first.created_at, first.number):
        return []
    return turns.slice_plain_history(snapshot, first, policy) or turns.collect_history(snapshot, first, policy)


@given(some_talks(), policies, st.integers(0, 40))
def test_the_end_of_a_log_that_a_turn_needs_gives_it_the_history_of_the_whole(
    whole: Snapshot, policy: Policy, count: int
) -> None:
    """With as many entries as are needed, or more; and whoever has fewer, so that another history would come out, is told so."""
    first = _said(whole.row.head + 1, "user")
    needed = turns.count_needed(whole, policy, at=first.created_at)
    short = _held(whole, min(count, len(whole.messages)))

    if len(short.messages) >= needed:
        assert _history(whole, first, policy) == _history(short, first, policy)
    if short.messages and _history(whole, first, policy) != _history(short, first, policy):
        assert turns.lacks_history(short, policy, first)


@pytest.mark.parametrize(
    ("changes", "needed"),
    [
        ({}, 4),
        ({"active_at": AT - 60}, 0),  # the session is over
        ({"state": Raw(b"null")}, 0),
        ({"since": 11}, 0),
        ({"since": 1}, 10),
        ({"since": 1, "dropped": 3}, 7),
        ({"dropped": 10}, 0),
        ({"cursor": 9}, 10),  # one waits
        ({"delivery": OutboxState(upto=8)}, 4),
        ({"delivery": OutboxState(upto=2)}, 8),  # more than the session is not sent yet
        ({"active_at": AT - 60, "delivery": OutboxState(upto=9)}, 1),
        ({"active_at": AT - 60, "oldest_at": 0.0}, 10),  # retention looks for the first that is left
        ({"active_at": AT - 60, "oldest_at": 0.0, "dropped": 4}, 6),
    ],
)
def test_a_turn_needs_what_its_session_has_what_waits_and_what_is_not_sent(changes: Any, needed: int) -> None:
    """And nothing of what retention has dropped."""
    record = Record(state=Raw(b"{}"), cursor=10, since=7, active_at=AT - 10, oldest_at=AT - 100)
    row = Row(key=Key("", "ada"), revision="r", incarnation="b", head=10)
    snapshot = Snapshot(row, structs.replace(record, **changes), ())

    assert needed == turns.count_needed(snapshot, Policy(session_ttl_s=30.0, retention_s=1000.0), at=AT)
