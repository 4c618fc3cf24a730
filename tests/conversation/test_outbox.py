"""How the delivery of replies stands, going by notes and by what platforms tell in any order, by clocks of their own."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest
from msgspec import Raw, structs

from chatkeep.conversation import leases, outbox, snapshots, turns
from chatkeep.conversation.outbox import Sent, checked_answer, key_of, list_deliveries, number_of
from chatkeep.conversation.record import OutboxState, Record
from chatkeep.conversation.snapshots import Commit, Policy, Snapshot
from chatkeep.drivers import Key, Row
from chatkeep.model import Message

SKEW_S = 40.0


def log(*entries: dict[str, Any]) -> list[Message]:
    """A log in which each entry comes a second after the one before; the first is number 1."""
    plain: dict[str, Any] = {"role": "system", "content": ""}
    return [
        Message(**{**plain, "id": f"{n}", "number": n, "created_at": 1000.0 + n, **entry})
        for n, entry in enumerate(entries, 1)
    ]


def sent(number: int, id: str, status: str = "delivered") -> dict[str, Any]:
    """The note that reply *number* was sent."""
    return {"reply_to": number, "metadata": {"kind": "delivery", "status": status, "ids": [id]}}


def told(status: str, id: str = "", **more: Any) -> dict[str, Any]:
    """The note of what the platform tells."""
    return {"metadata": {"kind": "status", "status": status, **({"id": id} if id else {}), **more}}


REPLY = {"role": "assistant", "content": "hi"}


@pytest.mark.parametrize(
    ("statuses", "stands"),
    [
        ([told("failed", "m1", reason="131026: not there")], "failed"),
        ([told("sent", "m1"), told("delivered", "m1")], "delivered"),
        ([told("delivered", "m1"), told("read", "m1")], "read"),
        ([told("delivered", "m1"), told("failed", "m1")], "failed"),
        ([told("read", "another")], "delivered"),
        ([told("sent", "m1", at=1001.5 - SKEW_S), told("read", until=1001.5 - SKEW_S)], "read"),
        ([told("sent", "m1", at=1001.5 + SKEW_S), told("read", until=1001.5)], "delivered"),
        ([told("read", until=1001.5)], "read"),
        ([told("read", until=900.0)], "delivered"),
    ],
)
def test_statuses_come_in_any_order(statuses: list[dict[str, Any]], stands: str) -> None:
    """Before the note that the reply was sent, behind it, and mixed: it stands the same in the end."""
    for entries in permutations([sent(1, "m1"), *statuses]):
        (found,) = list_deliveries(log(REPLY, *entries))
        assert stands == found.status


def test_what_was_told_of_the_first_sending_says_nothing_of_the_second() -> None:
    """Sent again, a reply is delivered until the platform tells of it anew; a late word on the first one counts."""
    again = [REPLY, sent(1, "m1"), told("failed", "m1"), told("read", until=1002.5), sent(1, "m2")]

    assert ["delivered"] == [one.status for one in list_deliveries(log(*again))]
    assert ["read"] == [one.status for one in list_deliveries(log(*again, told("read", "m2")))]
    assert ["read"] == [one.status for one in list_deliveries(log(*again, told("read", "m1")))]
    assert ["read"] == [one.status for one in list_deliveries(log(*again, told("read", until=1009.0)))]


def test_a_status_under_the_key_of_a_reply_is_told_of_it() -> None:
    """Where the platform tells no id: before and behind the note that it was sent, until somebody has it sent again."""
    bounced = told("failed", number=1, reason="mailbox full")
    again = {"reply_to": 1, "metadata": {"kind": "resend"}}
    for entries, stands in (
        ([sent(1, "m1"), bounced], "failed"),
        ([bounced, sent(1, "m1")], "failed"),
        ([sent(1, "m1"), told("failed", number=9)], "delivered"),
        ([sent(1, "m1"), bounced, again, sent(1, "m2")], "delivered"),
        ([sent(1, "m1"), bounced, again, bounced, sent(1, "m2")], "failed"),
        ([bounced], "waiting"),
    ):
        assert [stands] == [one.status for one in list_deliveries(log(REPLY, *entries))]


def test_a_status_under_the_key_counts_where_its_id_was_never_noted() -> None:
    """The platform's answer with the id was lost, by a silence or with a process; a failure is not told of another sending."""
    silence = {"reply_to": 1, "metadata": {"kind": "delivery", "status": "uncertain", "ids": []}}
    echo, read, bounced = (told(status, "m0", number=1) for status in ("sent", "read", "failed"))
    again = {"reply_to": 1, "metadata": {"kind": "resend"}}
    for entries, stands in (
        ([silence, echo], "delivered"),
        ([silence, read], "read"),
        ([read, silence], "read"),
        ([silence, bounced], "failed"),
        ([silence, echo, bounced], "failed"),
        ([silence, told("read", "m0"), echo], "read"),
        ([silence, read, again, sent(1, "m1")], "delivered"),
        ([read, sent(1, "m1")], "read"),
        ([bounced, sent(1, "m1")], "delivered"),
        ([sent(1, "m1"), told("failed", "m1", number=1)], "failed"),
        ([sent(1, "m1"), told("failed", "m1", number=1), sent(1, "m2")], "delivered"),
        ([silence, told("read", "m9")], "uncertain"),
    ):
        assert [stands] == [one.status for one in list_deliveries(log(REPLY, *entries))]


def test_a_key_names_a_reply_of_its_own_incarnation_only() -> None:
    """Also with what a reply of several requests adds; a number that is none names nothing."""
    key = key_of(Row(key=Key("", "mail:list:a@b"), revision="r2", incarnation="r.1"), 12)

    assert [12, 12] == [number_of(key, "r.1"), number_of(key + "/1", "r.1")]
    assert [None] * 4 == [
        number_of(key, "r2"),
        number_of("", "r.1"),
        number_of("r.1.x@c", "r.1"),
        number_of("r.1.-1@c", "r.1"),
    ]


def test_a_watermark_reaches_only_what_was_sent_before_it() -> None:
    """And by the platform's clock, where it has told when it had the reply."""
    entries = [REPLY, sent(1, "m1"), told("sent", "m1", at=500.0), REPLY, sent(4, "m2"), told("sent", "m2", at=503.0)]

    for until, stands in ((499.0, 0), (500.0, 1), (502.0, 1), (503.0, 2)):
        found = list_deliveries(log(*entries, told("read", until=until)))
        assert stands == [one.status for one in found].count("read")


@pytest.mark.parametrize(
    "answer",
    [
        None,
        True,
        "m1",
        {"status": "delivered"},
        Sent(status="sent"),  # type: ignore[arg-type]
        Sent(status="delivered", ids=(5,)),  # type: ignore[arg-type]
        Sent(status="delivered", ids=None),  # type: ignore[arg-type]
        Sent(status="retry", parts=-1),
        Sent(status="retry", after="1m"),  # type: ignore[arg-type]
        Sent(status="failed", reason=ValueError("x")),  # type: ignore[arg-type]
    ],
    ids=str,
)
def test_what_is_no_answer_of_an_outlet_is_uncertain(answer: Any) -> None:
    """It may have gone out; and what stands in the note says what the outlet has answered with."""
    found = checked_answer(answer)

    assert ("uncertain", "bug") == (found.status, found.cause)
    assert found.reason.startswith("the outlet has answered with no Sent (")


@pytest.mark.parametrize(
    "answer",
    [
        Sent(status="delivered", ids=("x", "y"), channel="pigeon"),
        Sent(status="retry", after=0.5, parts=3, counts=False, cause="platform", reason="busy"),
        Sent(status="failed", reason="gone"),
        Sent(status="uncertain"),
    ],
    ids=str,
)
def test_an_answer_of_an_outlet_stays_as_it_is(answer: Sent) -> None:
    """With all its members."""
    assert answer == checked_answer(answer)
    assert Sent(status="delivered", ids=("x",)) == checked_answer(Sent(status="delivered", ids=["x"]))  # type: ignore[arg-type]


POLICY = Policy()
GONE: dict[str, Any] = {"token": "t", "at": 1010.0, "died": True}


def waiting(**record: Any) -> Snapshot:
    """A reply, number 2, that waits to go out, with a message behind it that nobody has answered."""
    said = log({"role": "user", "content": "hi"}, REPLY | {"reply_to": 1}, {"role": "user", "content": "more"})
    row = Row(key=Key("", "pigeon:loft:ada"), revision="r", incarnation="b", head=3, lease="of the dead")
    return Snapshot(row, Record(cursor=2, delivery=OutboxState(upto=1), **record), tuple(said))


def after(snapshot: Snapshot, act: Commit | None) -> Snapshot:
    """What is there when *act* is written; whoever has the lease then dies too."""
    assert act is not None
    return structs.replace(snapshot, record=act.record)


def test_deaths_of_handlers_are_none_of_sendings() -> None:
    """A handler has killed seven processes before the reply is sent again, and one more dies of that: it is no suspect."""
    before = waiting(deaths=POLICY.max_begun - 1)
    sending = after(before, outbox.begin_sending(before, 2, POLICY, token="t", at=1005.0))
    again = after(sending, outbox.begin_sending(sending, 2, POLICY, **GONE))

    assert not outbox.is_suspect(sending, 2, died=True)
    assert "" == outbox.describe_deaths(again, POLICY)
    assert (POLICY.max_begun - 1, 1) == (again.record.deaths, again.record.sending_deaths)


def test_a_doubt_stays_with_a_reply_until_it_is_done_with() -> None:
    """What may have gone out may have been shown twice, also where a later try says for certain that it was not that one."""
    before = waiting()
    told: dict[str, Any] = {"at": 1010.0, "since": 1002.0, "retry_at": 1012.0, "token": "t"}
    tried = after(before, outbox.note_delivery(before, 2, Sent(status="retry"), POLICY, doubtful=True, **told))
    refused = after(tried, outbox.note_delivery(tried, 2, Sent(status="retry"), POLICY, doubtful=True, **told))
    certain = after(before, outbox.note_delivery(before, 2, Sent(status="retry"), POLICY, doubtful=False, **told))

    assert [2, 2, 0] == [snapshots.delivery_of(one).sending for one in (tried, refused, certain)]
    assert 1012.0 == refused.record.delivery.at  # type: ignore[union-attr]


def test_a_process_that_dies_while_a_doubtful_reply_waits_has_not_died_of_it() -> None:
    """The handler of the message behind it was running: its death counts there, or a message that kills would never be set aside."""
    before = waiting(deaths=1)
    told: dict[str, Any] = {"at": 1010.0, "since": 1002.0, "retry_at": 1012.0, "token": "t"}
    waits = after(before, outbox.note_delivery(before, 2, Sent(status="retry"), POLICY, doubtful=True, **told))
    sending = after(waits, outbox.begin_sending(waits, 2, POLICY, **GONE))
    again = after(sending, outbox.begin_sending(sending, 2, POLICY, **GONE))

    assert (2, 0) == (sending.record.deaths, sending.record.sending_deaths)
    assert (2, 1) == (again.record.deaths, again.record.sending_deaths)


def test_deaths_of_sendings_are_none_of_handlers() -> None:
    """The message behind the reply is no suspect, in whichever process it is looked at."""
    sending = waiting()
    sending = after(sending, outbox.begin_sending(sending, 2, POLICY, token="t", at=1005.0))
    for _ in range(POLICY.max_begun):
        assert not leases.is_suspect(sending, died=False)
        sending = after(sending, outbox.begin_sending(sending, 2, POLICY, **GONE))

    assert outbox.is_suspect(sending, 2, died=False) is True
    assert 0 == sending.record.deaths
    assert f"its process died {POLICY.max_begun} times while it was sent" == outbox.describe_deaths(sending, POLICY)


@pytest.mark.parametrize("status", ["delivered", "retry"])
def test_a_sending_that_ends_settles_its_own_deaths_alone(status: Any) -> None:
    """The handler of what waits behind it stays a suspect, and the next reply begins without deaths."""
    before = waiting(deaths=2, sending_deaths=3)
    told: dict[str, Any] = {"at": 1010.0, "since": 1002.0, "retry_at": 1012.0, "doubtful": True, "token": "t"}
    settled = after(before, outbox.note_delivery(before, 2, Sent(status=status), POLICY, **told))

    assert (2, 0) == (settled.record.deaths, settled.record.sending_deaths)
    assert leases.is_suspect(settled, died=False)


def test_a_reply_that_a_turn_sends_at_once_begins_without_the_deaths_of_one_that_was_redacted() -> None:
    """What the processes died of needed no sending any more; and a version that does not know the count leaves it as it was."""
    said = log({"role": "user", "content": "hi"}, REPLY | {"reply_to": 1}, {"role": "user", "content": "more"})
    deadly = OutboxState(upto=1, sending=2)
    row = Row(key=Key("", "pigeon:loft:ada"), revision="r", incarnation="b", head=3, lease="t")
    record = Record(cursor=2, delivery=deadly, sending_deaths=POLICY.max_begun - 1)
    said[1] = structs.replace(said[1], content="", redacted=True)
    before = Snapshot(row, record, tuple(said))
    settled = after(before, outbox.note_nothing_to_send(before, 3, POLICY, at=1005.0))
    told: dict[str, Any] = {"state": Raw(b"{}"), "schema": 0, "opens": False, "lease": "t", "out": True}
    answered = after(settled, turns.finish_turn(settled, said[2:], ["ok"], POLICY, at=1006.0, **told))

    assert (4, 0) == (answered.record.delivery and answered.record.delivery.sending, answered.record.sending_deaths)
    assert not outbox.is_suspect(answered, 4, died=True)


HOUR, DAY = 3600.0, outbox.GIVE_UP_S


def noted(before: Snapshot, sent: Sent, number: int = 2, **told: Any) -> Commit | None:
    """What is written of a sending that ends at 1010."""
    how: dict[str, Any] = {"at": 1010.0, "since": 1002.0, "retry_at": 1012.0, "doubtful": False, "token": "t"}
    return outbox.note_delivery(before, number, sent, POLICY, **(how | told))


def delivery_in(act: Commit | None) -> OutboxState:
    """How far the sending is when *act* is written."""
    assert act is not None
    assert act.record.delivery is not None
    return act.record.delivery


def told_in(act: Commit | None) -> dict[str, Any]:
    """What the note of *act* says; nothing where it has none."""
    assert act is not None
    return act.drafts[0].metadata if act.drafts else {}


def outgoing(**delivery: Any) -> Snapshot:
    """As `waiting`, with a sending that stands like this."""
    before = waiting()
    return structs.replace(before, record=structs.replace(before.record, delivery=OutboxState(**delivery)))


def test_what_is_done_of_a_reply_counts_for_that_reply() -> None:
    """Of another one nothing is done, and its ids are another's."""
    half = OutboxState(upto=1, half=2, parts=3, done=("a",))

    assert [3, 0] == [outbox.parts_done(half, number) for number in (2, 3)]
    more = Sent(status="delivered", ids=("b",))
    assert ["a", "b"] == told_in(noted(outgoing(upto=1, half=2, done=("a",)), more))["ids"]
    assert ["b"] == told_in(noted(outgoing(upto=1, half=4, done=("a",)), more))["ids"]


def test_a_key_is_of_another_incarnation_only_if_it_is_a_replys() -> None:
    expected = [False, True, False, False, False]
    keys = ["b.2@ada", "gone.2@ada", "gone.2", "gone.x@ada", "wamid.4"]

    assert expected == [outbox.is_of_another(key, "b") for key in keys]


def test_what_is_to_be_sent_again_goes_first() -> None:
    """By its number alone where it is not at hand."""
    assert 1 == getattr(outbox.next_reply(outgoing(upto=1, again=(1, 2))), "number", None)
    assert 9 == outbox.next_reply(outgoing(upto=1, again=(9,)))
    assert 2 == getattr(outbox.next_reply(outgoing(upto=1)), "number", None)
    assert None is outbox.next_reply(outgoing(upto=2))


def test_a_reply_in_doubt_goes_before_what_is_to_be_sent_again() -> None:
    """While it is to be sent at all; what is gone from the log is taken out of its place, and nothing else."""

    def next_number(**delivery: Any) -> int:
        found = outbox.next_reply(outgoing(**delivery))
        return found if isinstance(found, int) else getattr(found, "number", 0)

    assert 2 == next_number(upto=1, again=(1,), sending=2)
    assert 8 == next_number(upto=1, again=(7, 8), sending=8)
    assert 7 == next_number(upto=1, again=(7,), sending=9)
    assert 7 == next_number(upto=2, again=(7,), sending=2)
    gone = outbox.note_nothing_to_send(outgoing(upto=1, again=(7, 8), sending=8), 2, POLICY, at=1010.0)

    assert OutboxState(upto=1, again=(7,), sending=8) == delivery_in(gone)


@pytest.mark.parametrize(
    ("expected", "after_s", "tries", "counts"),
    [
        (1012.0, None, 0, True),
        (1010.5, 0.5, 0, True),
        (1012.0, 0.5, 1, True),
        (1010.5, 0.5, 1, False),
        (1011.0, outbox.AT_ONCE_S, 1, True),
        (1040.0, 30.0, 5, True),
        (1010.0 + HOUR, 2 * HOUR, 0, True),
        (1010.0, -5.0, 0, True),
        (1012.0, float("nan"), 0, True),
    ],
)
def test_a_platform_may_say_when_to_try_again(expected: float, after_s: float | None, tries: int, counts: bool) -> None:
    """For an hour at most; at once it is tried once, unless the failure counts for nothing."""
    act = noted(outgoing(upto=1, tries=tries), Sent(status="retry", after=after_s, counts=counts))
    found = delivery_in(act)

    assert (expected, tries + counts, 2, 0) == (found.at, found.tries, found.half, found.sending)


@pytest.mark.parametrize(
    ("expected", "status", "tries", "age"),
    [
        ("failed", "retry", outbox.TRIES - 1, DAY),
        (None, "retry", outbox.TRIES - 2, DAY),
        (None, "retry", outbox.TRIES - 1, DAY - 1),
        ("uncertain", "uncertain", outbox.TRIES - 1, DAY),
    ],
)
def test_a_reply_is_given_up_after_a_day_and_many_attempts(
    expected: str | None, status: Any, tries: int, age: float
) -> None:
    """And not before both; with the reason of the last one."""
    act = noted(outgoing(upto=1, tries=tries), Sent(status=status, reason="busy"), at=1010.0, since=1010.0 - age)
    metadata = told_in(act)

    assert expected == metadata.get("status")
    if expected == "failed":
        assert f"given up after {outbox.TRIES} attempts: busy" == metadata["reason"]


def test_who_comes_late_changes_nothing_of_what_others_have_done() -> None:
    """The note stays true: it was sent. What would be tried again was sent by others."""
    late = outgoing(upto=2, at=5.0)

    assert None is noted(late, Sent(status="retry"))
    assert OutboxState(upto=4, at=5.0) == delivery_in(noted(late, Sent(status="delivered")))


def test_what_was_sent_again_is_off_the_list_and_the_rest_stays() -> None:
    """Where sending stands is not moved back by it, and goes on over what no channel sends."""
    assert OutboxState(upto=3, again=(1,)) == delivery_in(
        noted(outgoing(upto=3, again=(2, 1)), Sent(status="delivered"))
    )
    assert OutboxState(upto=4) == delivery_in(noted(outgoing(upto=1, tries=4), Sent(status="delivered")))


@pytest.mark.parametrize(
    ("expected", "token"), [((None, None), "of the dead"), (("of the dead", 0.0), "t")], ids=["its own", "another's"]
)
def test_a_retry_gives_back_its_own_lease_and_no_other(expected: Any, token: str) -> None:
    act = noted(outgoing(upto=1), Sent(status="retry"), token=token)
    assert act is not None

    assert expected[0] == act.lease


def test_a_reply_that_is_out_goes_behind_those_that_are_sent_again() -> None:
    """Once, however often it is asked for; one that waits is tried at once."""

    def asked(before: Snapshot, number: int) -> OutboxState:
        return delivery_in(outbox.resend_reply(before, number, "n1", POLICY, at=1010.0))

    assert OutboxState(upto=2, again=(1, 2)) == asked(outgoing(upto=2, again=(1,), at=99.0, tries=3), 2)
    assert OutboxState(upto=2, again=(2, 1)) == asked(outgoing(upto=2, again=(1, 2)), 1)
    assert OutboxState(upto=1) == asked(outgoing(upto=1, at=99.0, tries=3), 2)


def test_what_a_platform_tells_can_be_kept() -> None:
    """Whatever it is, and cut."""
    act = noted(outgoing(upto=1), Sent(status="failed", reason="a\0b\ud800" + "x" * 999))

    assert "a\ufffdb?" + "x" * 496 == told_in(act)["reason"]


def test_nothing_to_send_up_to_an_end_is_noted_while_that_is_the_end() -> None:
    assert None is outbox.note_nothing_to_send(outgoing(upto=1), 2, POLICY, at=1010.0)
    assert OutboxState(upto=3) == delivery_in(outbox.note_nothing_to_send(outgoing(upto=1), 3, POLICY, at=1010.0))
    gone = outbox.note_nothing_to_send(outgoing(upto=1, again=(7, 8)), 2, POLICY, at=1010.0)

    assert OutboxState(upto=1, again=(8,)) == delivery_in(gone)


def test_a_sending_that_may_have_been_seen_twice_is_noted_so() -> None:
    delivered = Sent(status="delivered")

    assert [True, None] == [
        told_in(noted(outgoing(upto=1), delivered, doubtful=doubtful)).get("doubtful") for doubtful in (True, False)
    ]


@pytest.mark.parametrize(
    ("expected", "token", "cursor", "again"),
    [
        (None, "of the dead", 3, ()),
        ("of the dead", "of the dead", 2, ()),
        ("of the dead", "of the dead", 3, (1,)),
        ("of the dead", "t", 3, ()),
    ],
    ids=["done", "unread", "more to send", "another's"],
)
def test_the_lease_is_given_back_when_there_is_no_more_to_do(
    expected: str | None, token: str, cursor: int, again: tuple[int, ...]
) -> None:
    before = outgoing(upto=1, again=again)
    before = structs.replace(before, record=structs.replace(before.record, cursor=cursor))
    act = noted(before, Sent(status="delivered"), token=token)
    assert act is not None

    assert expected == act.lease


def test_a_reply_whose_process_died_twice_is_a_suspect() -> None:
    """Once may be a deploy."""
    before = outgoing(upto=1, sending=2)
    seen = [
        structs.replace(before, record=structs.replace(before.record, sending_deaths=deaths))
        for deaths in range(leases.SUSPECT)
    ]

    assert [False] * (leases.SUSPECT - 1) + [True] == [outbox.is_suspect(one, 2, died=True) for one in seen]


def test_what_is_half_out_stays_so_when_another_one_is_done() -> None:
    """The reply that waits behind the one that was sent again goes on where it was; of that one itself nothing stays."""
    half: dict[str, Any] = {"half": 4, "parts": 3, "done": ("a",)}
    ended = Sent(status="delivered")

    other = noted(outgoing(upto=3, again=(2, 1), **half), ended)
    itself = noted(outgoing(upto=3, again=(2, 1), **half | {"half": 2}), ended)

    assert OutboxState(upto=3, again=(1,), **half) == delivery_in(other)
    assert OutboxState(upto=3, again=(1,)) == delivery_in(itself)


def test_a_reply_that_waits_says_how_its_last_try_went() -> None:
    """That of the outbox's reply alone, and only while it waits."""
    tried = OutboxState(half=1, tries=3, reason="busy")

    assert [(3, "busy"), (0, "")] == [(one.tries, one.reason) for one in list_deliveries(log(REPLY, REPLY), tried)]
    assert [(0, "")] == [(one.tries, one.reason) for one in list_deliveries(log(REPLY, sent(1, "m1")), tried)]
    assert [(0, "")] == [(one.tries, one.reason) for one in list_deliveries(log(REPLY))]
    assert [(0, "")] == [(one.tries, one.reason) for one in list_deliveries(log(REPLY), OutboxState(half=9))]


def test_a_reply_is_doubtful_where_its_note_says_so() -> None:
    """And the last word of two that say as much is the one that counts."""
    doubtful = sent(1, "m1")
    doubtful["metadata"]["doubtful"] = True
    bounced = [told("failed", "m1", reason=reason) for reason in ("busy", "gone")]

    assert [[False], [True]] == [
        [one.doubtful for one in list_deliveries(log(REPLY, note))] for note in (sent(1, "m1"), doubtful)
    ]
    assert ["gone"] == [one.reason for one in list_deliveries(log(REPLY, sent(1, "m1"), *bounced))]


def test_a_word_that_nobody_knows_says_less_than_any() -> None:
    """A platform may have statuses that came later."""
    assert ["delivered"] == [one.status for one in list_deliveries(log(REPLY, sent(1, "m1"), told("pondered", "m1")))]
