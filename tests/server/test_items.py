"""What the desk's list shows of a conversation, and whether it is wanted: rules on its row and the end of its log."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs

from chatkeep.conversation.keys import SAVED
from chatkeep.conversation.record import OutboxState, Record
from chatkeep.drivers.base import Key, Row
from chatkeep.server.items import AROUND, Item, Wanted, around, fits, is_in, item_from, may_fit, reason_in, shown_in

from ..support.snapshots import message, note

pytestmark = pytest.mark.rules

ROW = Row(key=Key("salon", "order-7"), revision="r", incarnation="i", head=4, owner="Ada L.", updated_at=50.0)
ITEM = Item(id="order-7", tenant="salon", owner="Ada L.", title="Cake", name="Ada", last="hello there", updated_at=50.0)


def wanted(**members: Any) -> Wanted:
    """What a page is to show."""
    return Wanted(**members)


@pytest.mark.parametrize(
    ("expected", "record", "off_by", "asked"),
    [
        (True, {}, [], {}),
        (False, {}, [], {"show": "failing"}),
        (True, {"dead": (2,)}, [], {"show": "failing"}),
        (False, {}, [], {"show": "off"}),
        (True, {}, ["tenant"], {"show": "off"}),
        (False, {}, [], {"show": "waiting"}),
        (True, {"cursor": 3}, ["tenant"], {"show": "waiting"}),
        (False, {"cursor": 4}, ["tenant"], {"show": "waiting"}),
        (True, {"cursor": 3}, [], {"show": "unread"}),
        (False, {"cursor": 4}, [], {"show": "unread"}),
        (False, {}, [], {"show": "undelivered"}),
        (True, {"delivery": OutboxState()}, [], {"show": "undelivered"}),
        (False, {}, [], {"channel": "whatsapp"}),
        (True, {"delivery": OutboxState()}, [], {"channel": "whatsapp"}),
        (True, {}, [], {"assignee": ""}),
        (False, {"assignee": "ann"}, [], {"assignee": ""}),
        (True, {"assignee": "ann"}, [], {"assignee": "ann"}),
        (False, {"assignee": "ann"}, [], {"assignee": "bob"}),
        (True, {}, [], {"in_rows": True, "text": "ada l"}),
        (False, {}, [], {"in_rows": True, "text": "cake"}),
        (True, {"title": "Pancakes"}, [], {"in_rows": True, "text": "cake"}),
        (False, {"title": "Cake"}, [], {"in_rows": True, "text": "cake"}),
    ],
)
def test_most_are_passed_over_by_their_row(
    expected: bool, record: dict[str, Any], off_by: list[Any], asked: dict[str, Any]
) -> None:
    """In rows, what the words of the title have is left out: the index had it."""
    assert expected == may_fit(ROW, Record(**record), off_by, wanted(**asked))


@pytest.mark.parametrize(
    ("expected", "item", "asked"),
    [
        (True, {}, {}),
        (True, {"waiting": 1, "off_by": ["tenant"]}, {"show": "waiting"}),
        (False, {"waiting": 1}, {"show": "waiting"}),
        (False, {"off_by": ["tenant"]}, {"show": "waiting"}),
        (True, {"waiting": 1}, {"show": "unread"}),
        (False, {}, {"show": "unread"}),
        (True, {"dead": 1}, {"show": "failing"}),
        (False, {"waiting": 1}, {"show": "failing"}),
        (True, {"off_by": ["tenant"]}, {"show": "off"}),
        (True, {"undelivered": 1}, {"show": "undelivered"}),
        (False, {}, {"show": "undelivered"}),
        (True, {"channel": "whatsapp"}, {"channel": "whatsapp"}),
        (False, {"channel": "telegram"}, {"channel": "whatsapp"}),
        (False, {"assignee": "ann"}, {"assignee": ""}),
        (True, {"assignee": "ann"}, {"assignee": "ann"}),
        (True, {}, {"text": "HELLO"}),
        (True, {}, {"text": "cake"}),
        (True, {}, {"text": "order"}),
        (True, {}, {"text": "ada l"}),
        (False, {}, {"text": "salon"}),
        (True, {"found": "salon"}, {"text": "salon"}),
        (True, {"fault": "damaged"}, {"show": "failing"}),
        (True, {"fault": "damaged"}, {"show": "all"}),
        (False, {"fault": "damaged"}, {"show": "off"}),
        (False, {"fault": "damaged"}, {"show": "all", "channel": "whatsapp"}),
        (False, {"fault": "damaged"}, {"text": "other"}),
        (True, {"fault": "damaged"}, {"text": "order"}),
        (False, {"fault": "damaged"}, {"assignee": "ann"}),
    ],
)
def test_what_is_shown_decides(expected: bool, item: dict[str, Any], asked: dict[str, Any]) -> None:
    """One that cannot be read fails, and is found by its id."""
    assert expected == fits(structs.replace(ITEM, **item), wanted(**asked))


def test_an_item_says_how_the_conversation_stands() -> None:
    """Who it is with, what was said last, what nobody has answered, and why something failed."""
    tail = [
        message(1, content="hi", channel="whatsapp", metadata={"name": "Ada"}),
        message(2, "assistant", "hello", reply_to=1, reply_from=1),
        note(3, "dead", about=2, reason="ValueError: no"),
        message(4, content="are you there?", channel="whatsapp"),
    ]
    record = Record(cursor=3, dead=(2,), title="Cake", assignee="ann")
    expected = Item(
        id="order-7",
        tenant="salon",
        owner="Ada L.",
        title="Cake",
        name="Ada",
        channel="whatsapp",
        last="are you there?",
        last_role="user",
        last_at=tail[3].created_at,
        updated_at=50.0,
        off_by=["conversation"],
        waiting=1,
        waiting_since=tail[3].created_at,
        dead=1,
        reason="ValueError: no",
        assignee="ann",
    )

    assert expected == item_from(ROW, record, ["conversation"], tail)


def test_a_reason_is_shown_only_while_something_is_wrong() -> None:
    tail = [message(1), note(2, "dead", about=1, reason="ValueError: no")]

    assert "" == item_from(ROW, Record(cursor=2), [], tail).reason


def test_what_was_saved_came_through_no_channel() -> None:
    tail = [message(1, channel="telegram"), message(2, channel=SAVED)]

    assert "telegram" == item_from(ROW, Record(), [], tail).channel


def test_a_conversation_in_which_nothing_was_said_has_no_last_words() -> None:
    item = item_from(ROW, Record(), [], [note(1, "created")])

    assert ("", "", 0.0, 0, 0.0) == (item.last, item.last_role, item.last_at, item.waiting, item.waiting_since)


def test_a_note_without_a_reason_is_told_by_its_text() -> None:
    assert "no" == reason_in(note(1, "dead", reason="no", content="other"))
    assert "other" == reason_in(note(1, "dead", content="other"))


def test_what_is_searched_for_is_shown_where_it_was_said_last() -> None:
    """Not in chatkeep's own notes; also in what a channel has told of the customer."""
    said = [message(1, content="a CAKE"), message(2, content="cake!"), note(3, "kept", content="cake")]
    found = shown_in(ITEM, said, "cake")
    assert found is not None

    assert ("cake!", 2) == (found.found, found.found_in)
    assert None is shown_in(ITEM, said, "pie")
    assert None is not shown_in(ITEM, [message(1, metadata={"name": "Grace Hopper"})], "hopper")


def test_words_are_shown_with_some_around_them() -> None:
    """With an ellipsis where something was cut."""
    text = "x" * 100 + "cake" + "y" * 100

    assert "…" + "x" * AROUND + "cake" + "y" * AROUND + "…" == around(text, 100, 104)
    assert "a cake" == around("a cake", 2, 6)
    assert "x" * AROUND + "cake" == around("x" * AROUND + "cake", AROUND, AROUND + 4)


def test_case_does_not_matter() -> None:
    assert is_in("STRASSE", "", "die Straße")
    assert not is_in("a", "", "b")


@pytest.mark.parametrize(
    ("expected", "delivery", "status"),
    [
        ((1, "131047"), OutboxState(upto=3), "failed"),
        ((1, "131047"), OutboxState(upto=3), "uncertain"),
        ((0, ""), OutboxState(upto=3), "delivered"),
        ((1, "busy"), OutboxState(upto=1, tries=2, half=2, reason="busy"), ""),
        ((0, ""), OutboxState(upto=1), ""),
        ((0, ""), None, "failed"),
    ],
)
def test_a_reply_that_did_not_go_out_is_counted(
    expected: tuple[int, str], delivery: OutboxState | None, status: str
) -> None:
    """One that waits only once an attempt has failed; where nothing goes out, none."""
    tail = [message(1, channel="whatsapp"), message(2, "assistant", "hello", reply_to=1, reply_from=1)]
    if status:
        tail.append(note(3, "delivery", about=2, status=status, reason="131047" if status != "delivered" else ""))
    item = item_from(ROW, Record(cursor=2, delivery=delivery), [], tail)

    assert expected == (item.undelivered, item.reason)
