"""What a save leaves, and what gives way in it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from chatkeep import BadMessage, SavedMessage
from chatkeep.conversation.keys import SAVED
from chatkeep.conversation.merge import Loss
from chatkeep.conversation.saves import (
    TITLE_MOST,
    Save,
    check_title,
    drafts_from,
    ids_asked,
    is_loss,
    message_from,
    note_losses,
    save_into,
    written_at,
)
from chatkeep.conversation.snapshots import Policy
from chatkeep.conversation.versions import find_checksum

from ..support.snapshots import ADA, AT, message, note, snapshot


def saved(there: Any, *messages: SavedMessage, known: Any = (), **asked: Any) -> Any:
    """What is written, and the conflicts."""
    drafts = drafts_from(ADA, messages, at=AT, limit=1000)
    save = Save(drafts=drafts, **{"at": AT, "by": "phone", "token": "t"} | asked)
    return save_into(there, save, {one.id: one for one in known}, Policy(), at=AT)


def losses(act: Any) -> list[tuple[str, Any]]:
    """What gave way: about what, and the value."""
    notes = [draft for draft in act.drafts if draft.metadata.get("kind") == "conflict"]
    return [(draft.metadata["about"], json.loads(draft.content)) for draft in notes]


def test_messages_that_are_new_are_added_and_nobody_answers_them() -> None:
    """In their order, with their times; the cursor passes them where nothing waits."""
    there = snapshot(message(1), cursor=1)
    act, conflicts = saved(there, SavedMessage("s1", "hi", created_at=5.0), SavedMessage("s2", "yo", "assistant"))

    assert [("s1", "user", 5.0, SAVED), ("s2", "assistant", AT, SAVED)] == [
        (draft.id, draft.role, draft.created_at, draft.channel) for draft in act.drafts
    ]
    assert ([], 3, ("t",), 0) == (conflicts, act.record.cursor, act.record.changes, act.record.edits)


@pytest.mark.parametrize(
    ("there", "conflicts"),
    [
        (message(1, id="s1", content="hi"), []),
        (message(1, id="s1", content="ho"), ["s1"]),
        (message(1, "assistant", id="s1", content="hi"), ["s1"]),
        (message(1, id="s1", content="", redacted=True), []),
    ],
)
def test_what_the_log_has_under_an_id_stands(there: Any, conflicts: list[str]) -> None:
    """Another text, or the same one of somebody else, is kept beside it; what was redacted does not come back."""
    act, told = saved(snapshot(there, cursor=1), SavedMessage("s1", "hi"), known=[there])

    assert conflicts == told
    assert ([("message", "hi")] if conflicts else []) == ([] if act is None else losses(act))


def test_of_two_with_one_id_the_first_is_in_the_log() -> None:
    """The same twice is one."""
    act, told = saved(
        snapshot(), SavedMessage("s1", "hi"), SavedMessage("s1", "ho"), SavedMessage("s2", "x"), SavedMessage("s2", "x")
    )

    assert (["s1"], [("message", "ho")]) == (told, losses(act))
    assert ["s1", "s2"] == [draft.id for draft in act.drafts if draft.role != "system"]


def test_a_save_is_made_once_and_one_that_changes_nothing_writes_nothing() -> None:
    """One that creates a conversation writes something."""
    known = message(1, id="s1", content="hi")

    assert (None, []) == saved(snapshot(changes=("t",)), SavedMessage("s1", "hi"))
    assert (None, []) == saved(snapshot(known, cursor=1), SavedMessage("s1", "hi"), known=[known])
    act, _ = saved(snapshot(row={"revision": ""}))
    assert ["begun"] == [draft.metadata["kind"] for draft in act.drafts]


@pytest.mark.parametrize(
    ("asked", "stands", "conflicts", "lost"),
    [
        pytest.param({}, "new", [], [], id="later"),
        pytest.param({"at": 50.0}, "old", ["title"], ["new"], id="earlier"),
        pytest.param({"at": 100.0, "by": "desk"}, "old", ["title"], ["new"], id="at the same time, by name"),
        pytest.param({"at": 100.0, "by": "tablet"}, "new", [], [], id="at the same time, by a later name"),
        pytest.param({"base": "old", "at": 50.0}, "new", [], [], id="who knew it"),
        pytest.param({"base": "other"}, "new", [], ["old"], id="who knew another one, later"),
        pytest.param({"force": True, "at": 50.0}, "new", [], [], id="forced"),
        pytest.param({"version": 3, "at": 50.0}, "new", [], [], id="who saw the version"),
        pytest.param({"version": 2, "at": 150.0}, "old", ["title"], ["new"], id="who saw one before"),
        pytest.param({"checksum": "x", "at": 150.0}, "old", ["title"], ["new"], id="who saw something else"),
    ],
)
def test_a_title_is_the_last_one_by_whom_knew_the_one_before(
    asked: dict[str, Any], stands: str, conflicts: list[str], lost: list[str]
) -> None:
    """What gives way is kept."""
    there = snapshot(message(1), cursor=1, title="old", titled=(100.0, "laptop", 3))
    act, told = saved(there, title="new", **asked)

    assert (stands, conflicts, [("title", text) for text in lost]) == (act.record.title, told, losses(act))
    if stands == "new":
        assert (max(100.0, asked.get("at", AT)), asked.get("by", "phone")) == act.record.titled[:2]
        assert 1 + len(act.drafts) + act.record.edits == act.record.titled[2]


def test_who_saw_what_is_there_gives_it_another_title() -> None:
    """And a title that nobody gave gives way to any."""
    there = snapshot(message(1), cursor=1, title="old", titled=(100.0, "laptop", 3))
    never = snapshot(message(1), cursor=1)

    assert "new" == saved(there, title="new", checksum=find_checksum(there), at=50.0)[0].record.title
    assert "new" == saved(never, title="new", version=0, at=0.0)[0].record.title
    assert (None, []) == saved(there, title="old", at=50.0)


def test_marks_are_put_and_what_was_read_is_never_unread() -> None:
    """Nor is more read than there is; a change without an entry is counted."""
    there = snapshot(message(1), message(2), cursor=2, seen=1, archived=True, edits=4)
    act, _ = saved(there, pinned=True, archived=False, seen=9)

    assert (True, False, 2, 5) == (act.record.pinned, act.record.archived, act.record.seen, act.record.edits)
    assert (None, []) == saved(there, seen=0)


def test_what_gave_way_in_a_state_is_kept_by_slot() -> None:
    """With the place in it; what has no place is no part of a slot."""
    found = [
        Loss(("cart", "tea", "n"), 2, 9.0, "phone"),
        Loss((), {}, 9.0, "phone"),
        Loss(("name",), "Ada", 8.0, "desk"),
    ]
    notes = note_losses(ADA, found, at=AT, token="t")

    assert [
        ("~conflict:t.0", "2", "cart", ["tea", "n"], 9.0, "phone"),
        ("~conflict:t.2", '"Ada"', "name", [], 8.0, "desk"),
    ] == [
        (one.id, one.content, one.metadata["slot"], one.metadata["path"], one.metadata["at"], one.metadata["by"])
        for one in notes
    ]


def test_the_ids_of_a_save_are_looked_for_before() -> None:
    """Those of its messages, and of the notes that it may leave."""
    drafts = drafts_from(ADA, [SavedMessage("s1", "hi")], at=AT, limit=1000)
    asked = Save(drafts=drafts, title="new", at=AT, by="phone", token="t")
    act, _ = save_into(
        snapshot(message(1, id="s1"), title="old", titled=(1e9, "", 1)),
        asked,
        {"s1": message(1, id="s1")},
        Policy(),
        at=AT,
    )
    assert act is not None

    assert {draft.id for draft in act.drafts} <= {*ids_asked(asked)}
    assert "s1" in ids_asked(asked)


@pytest.mark.parametrize(("at", "expected"), [(None, 50.0), (7.0, 7.0), (-1.0, 0.0), (60.0, 50.0), (0, 0.0)])
def test_nothing_was_written_before_1970_or_in_the_time_to_come(at: float | None, expected: float) -> None:
    """By a clock that is wrong."""
    assert expected == written_at(ADA, at, now=50.0)


@pytest.mark.parametrize("at", ["now", float("nan"), [1]])
def test_a_time_is_a_number(at: Any) -> None:
    """It is said in which unit."""
    with pytest.raises(BadMessage, match="seconds since 1970"):
        written_at(ADA, at, now=50.0)


def test_what_cannot_be_saved_is_refused() -> None:
    """Other roles, other members, ids of chatkeep's own, a title that is too long."""
    for given in (
        {"id": "s", "content": "x", "other": 1},
        {"content": "x"},
        7,
        {"id": "s", "content": "x", "role": "king"},
    ):
        with pytest.raises(BadMessage):
            message_from(ADA, given)  # type: ignore[arg-type]
    for one in (
        SavedMessage("s", "x", "event"),
        SavedMessage("~s", "x"),
        SavedMessage("", "x"),
        SavedMessage("s", "a\0"),
    ):
        with pytest.raises(BadMessage):
            drafts_from(ADA, [one], at=AT, limit=1000)
    for title in ("x" * (TITLE_MOST + 1), 7, "a\0"):
        with pytest.raises(BadMessage):
            check_title(ADA, title)  # type: ignore[arg-type]

    assert "x" * TITLE_MOST == check_title(ADA, "x" * TITLE_MOST)
    assert SavedMessage("s", "x") == message_from(ADA, {"id": "s", "content": "x", "created_at": None})


def test_only_a_note_of_chatkeeps_own_is_a_loss() -> None:
    """A client's metadata may look like one."""
    assert is_loss(note(1, "conflict"))
    assert not is_loss(note(1, "other"))
    assert not is_loss(message(1, metadata={"kind": "conflict"}))
