"""Which version answers: pins, shares, and that nobody waits for a version that nobody runs."""

from __future__ import annotations

from msgspec import structs

from chatkeep.conversation.record import Record, Said
from chatkeep.conversation.releases import Plan, begin_version, end_version, find_canary, find_version, may_answer
from chatkeep.conversation.snapshots import Policy, Snapshot
from chatkeep.drivers.base import Key, Row
from chatkeep.model import Message

BOTH = Plan(frozenset({"1", "2"}))
ONE, TWO = (Policy(version=version, pin="session") for version in ("1", "2"))
BY_TURN = Policy(version="2", pin="turn")


def snapshot(id: str = "ada", **record: object) -> Snapshot:
    """A conversation in which one message waits."""
    message = Message(id="m1", number=1, role="user", content="hi", created_at=1.0)
    made = structs.replace(Record(state=b"{}"), **record)  # type: ignore[arg-type]
    return Snapshot(Row(key=Key("", id), revision="r", incarnation="i", head=1), made, (message,))


def test_a_session_stays_with_the_version_that_began_it_while_that_is_there() -> None:
    """And goes to the others when it is gone, or was backed out."""
    held = snapshot(version="1")

    assert (True, False) == (may_answer(held, ONE, BOTH), may_answer(held, TWO, BOTH))
    assert may_answer(held, TWO, Plan(frozenset({"2"})))
    assert may_answer(held, TWO, Plan(frozenset({"1", "2"}), {"1": 0.0}))
    assert may_answer(snapshot(version="1", since=0), structs.replace(TWO, session_ttl_s=0.5), BOTH)
    assert may_answer(held, structs.replace(TWO, pin="none"), BOTH)


def test_a_turn_stays_with_the_version_that_recorded_something_of_it() -> None:
    """A step, a piece of its reply or a failure; one of which nothing is recorded is anybody's."""
    begun = {"steps": {"pay": b"1"}}, {"said": Said(1, "Hel")}, {"begun": 1}

    assert [False] * 3 == [may_answer(snapshot(version="1", **told), BY_TURN, BOTH) for told in begun]
    assert may_answer(snapshot(version="1"), BY_TURN, BOTH)
    assert "1" == find_version(snapshot(version="1", begun=1).record, BY_TURN, at=1.0)


def test_the_version_is_recorded_with_what_is_recorded_of_a_turn() -> None:
    """Once, by who begins it; at its end it stays only where sessions are pinned."""
    fresh, begun = snapshot(), snapshot(version="1", begun=1)

    assert "2" == begin_version(fresh, fresh.record, BY_TURN).version
    assert "1" == begin_version(begun, begun.record, BY_TURN).version
    assert ("", "2") == (end_version(begun.record, BY_TURN).version, end_version(begun.record, TWO).version)
    assert fresh.record is begin_version(fresh, fresh.record, Policy())


def test_a_canary_takes_its_share_and_the_others_the_rest() -> None:
    """Each conversation is one version's; a larger share has those of a smaller one."""
    keys = [f"c{n}" for n in range(2000)]
    plan, more = (Plan(frozenset({"1", "2"}), {"2": share}) for share in (0.1, 0.3))
    mine = {key for key in keys if may_answer(snapshot(key), TWO, plan)}
    others = {key for key in keys if may_answer(snapshot(key), ONE, plan)}

    assert 150 < len(mine) < 250
    assert (set(keys), set()) == (mine | others, mine & others)
    assert mine < {key for key in keys if find_canary(Key("", key), more)}


def test_one_that_was_backed_out_takes_nothing_unless_nobody_else_is_there() -> None:
    """And a share that nobody is there for is the others'."""
    backed_out = Plan(frozenset({"1", "2"}), {"2": 0.0})

    assert (False, True) == (may_answer(snapshot(), TWO, backed_out), may_answer(snapshot(), ONE, backed_out))
    assert may_answer(snapshot(), TWO, structs.replace(backed_out, present=frozenset({"2"})))
    assert may_answer(snapshot(), ONE, Plan(frozenset({"1"}), {"2": 1.0}))
    assert may_answer(snapshot(), Policy(), BOTH)


def test_who_has_no_name_or_knows_of_nobody_answers() -> None:
    """A process without a version, and one that could not look yet who is there."""
    held = snapshot(version="1")

    assert may_answer(held, Policy(), BOTH)
    assert may_answer(held, TWO, Plan())
    assert "" == find_canary(Key("", "ada"), BOTH)
