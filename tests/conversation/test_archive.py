"""Lines of an export: what is shown, and what is carried as it is."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

import pytest
from msgspec import Raw, structs

from chatkeep import BadMessage, Unsupported
from chatkeep.conversation.archive import (
    ConversationLine,
    EntryLine,
    encode_end,
    entry_from,
    line_of_entry,
    line_of_row,
    parse_line,
    refuse_other,
    row_from,
)
from chatkeep.conversation.codec import body_of, checked_body, entry_for, record_from
from chatkeep.conversation.record import FORMAT, Record
from chatkeep.drivers.base import Entry, Row

from ..support.snapshots import ADA

ASK = Record(state=Raw(b'{"n":1}'), cursor=2, session=1)


def row(body: bytes) -> Row:
    """A row with this record in it."""
    return Row(
        key=ADA,
        revision="r",
        incarnation="i",
        head=2,
        body=body,
        owner="ada",
        updated_at=5.0,
        due_at=9.0,
        lease="t",
        leased_until=8.0,
    )


def back(line: bytes, *, entries: int = 2) -> Row:
    """What is made of a line."""
    parsed = parse_line(line)
    assert isinstance(parsed, ConversationLine)
    return row_from(ADA, parsed, entries=entries, latest=7.0, revision="new")


def test_a_record_is_shown_and_comes_back_to_the_byte() -> None:
    """The lease stays behind."""
    line = line_of_row(row(body_of(ADA, ASK)), 1)

    assert {"n": 1} == json.loads(line)["record"]["state"]
    assert "body" not in json.loads(line)
    assert structs.replace(row(body_of(ADA, ASK)), lease=None, leased_until=0.0) == back(line)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(body_of(ADA, Record(format=FORMAT + 1)), id="of a newer format"),
        pytest.param(body_of(ADA, ASK)[:-1] + b" ", id="damaged"),
        pytest.param(checked_body(ADA, b'{"crc":"', b'"cursor":\n2}'), id="on two lines"),
        pytest.param(b"", id="empty"),
    ],
)
def test_what_cannot_be_shown_is_carried_as_it_is(body: bytes) -> None:
    """Nothing of a damaged record is lost by a move."""
    line = line_of_row(row(body), 1)

    assert "record" not in json.loads(line)
    assert body == back(line).body


def test_a_conversation_without_a_record_counts_as_handled() -> None:
    """Up to its end; what its numbers leave out was dropped. The line says the rest, or whoever reads it."""
    lines = [ConversationLine(conversation="ada", first=first) for first in (1, 4)]
    rows = [row_from(ADA, line, entries=entries, latest=7.0, revision="new") for line in lines for entries in (0, 2)]

    assert [(0, 0, 0), (2, 2, 0), (3, 3, 3), (5, 5, 3)] == [
        (one.head, found.cursor, found.dropped) for one in rows for found in [record_from(ADA, one.body)]
    ]
    assert b"" == rows[0].body
    assert ("new", "new", 7.0) == (rows[0].revision, rows[0].incarnation, rows[0].updated_at)
    own = row_from(
        ADA, ConversationLine(conversation="ada", revision="r", updated_at=0.0), entries=0, latest=7.0, revision="new"
    )
    assert ("r", "r", 0.0) == (own.revision, own.incarnation, own.updated_at)


@pytest.mark.parametrize(
    ("members", "entries"),
    [
        ({"first": 0}, 2),
        ({"head": 3}, 2),
        ({"first": 2, "head": 2}, 2),
        ({"owner": "a\0"}, 0),
        ({"owner": "é" * 257}, 0),
    ],
)
def test_a_line_that_cannot_be_true_is_refused(members: dict[str, Any], entries: int) -> None:
    """Entries that are missing are told."""
    with pytest.raises(BadMessage):
        row_from(ADA, ConversationLine(conversation="ada", **members), entries=entries, latest=7.0, revision="new")


@pytest.mark.parametrize(
    "said",
    [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "hi", "reply_to": 1},
        {"role": "assistant", "content": "hi", "reply_to": 3, "reply_from": 1},
        {"role": "user", "content": [{"type": "text", "text": "x"}], "metadata": {"a": 1}},
        {"role": "user", "content": "hello", "channel": "whatsapp"},
        {"role": "system", "content": "", "reply_to": 2, "reply_from": 1, "metadata": {"kind": "x"}, "channel": "c"},
    ],
)
def test_an_entry_is_shown_and_comes_back_to_the_byte(said: dict[str, Any]) -> None:
    """What is as usual is left out of its line."""
    said = {"reply_from": said.get("reply_to", 0)} | said
    entry = entry_for(ADA, number=4, id="m4", created_at=5.5, limit=1000, **said)
    line = json.loads(line_of_entry(ADA, entry))

    assert entry == entry_from(ADA, parse_line(line_of_entry(ADA, entry)), 4)
    assert "body" not in line
    assert ("reply_from" in line) == (said["reply_from"] != said.get("reply_to", 0))


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param(Entry(4, "m4", "?", checked_body(ADA, b'["', b'5500,"x"]')), id="of an unknown role"),
        pytest.param(Entry(4, "m4", "u", checked_body(ADA, b'["', b'5500,\n"x"]')), id="on two lines"),
        pytest.param(Entry(4, "m4", "u", checked_body(ADA, b'["', b'5500, "x"]')), id="with a space"),
        pytest.param(Entry(4, "m4", "u", checked_body(ADA, b'["', b'5500,"x",2,1]')), id="of which nobody knows"),
        pytest.param(Entry(4, "m4", "u", b"damaged"), id="damaged"),
        pytest.param(Entry(4, "m4", "?", b""), id="empty, of an unknown role"),
    ],
)
def test_an_entry_that_cannot_be_shown_comes_back_too(entry: Entry) -> None:
    """As it is stored, to the byte."""
    assert entry == entry_from(ADA, parse_line(line_of_entry(ADA, entry)), 4)


def test_a_redacted_entry_is_one_without_words() -> None:
    """It needs no time."""
    entry = Entry(4, "m4", "u", b"")

    assert {"number": 4, "id": "m4", "role": "user", "redacted": True} == json.loads(line_of_entry(ADA, entry))
    assert entry == entry_from(ADA, parse_line(line_of_entry(ADA, entry)), 4)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (EntryLine(number=5, role="user", at=1, content=Raw(b'"x"')), "number 5, where 4 belongs"),
        (EntryLine(role="user", content=Raw(b'"x"')), "has no role, time"),
        (EntryLine(role="user", at=1), "has no role, time"),
        (EntryLine(at=1, content=Raw(b'"x"')), "has no role, time"),
        (EntryLine(role="user", at=1, content=Raw(b'"x"'), id="a\0"), "a message id is text"),
        (EntryLine(role="user", at=1, content=Raw(b"7")), "cannot be read"),
        (EntryLine(role="user", at=1, content=Raw(b'"a\\u0000"')), "NUL"),
        (EntryLine(letter="u", body="!"), "not base64"),
        (ConversationLine(conversation="ben"), "entry 4 is missing"),
    ],
)
def test_an_entry_that_is_none_is_refused(line: Any, words: str) -> None:
    """With what is wrong."""
    with pytest.raises(BadMessage, match=words):
        entry_from(ADA, line, 4)


def test_an_entry_may_leave_its_number_out() -> None:
    """And what is not base64 only looks alike."""
    assert 4 == entry_from(ADA, EntryLine(role="user", at=1, content=Raw(b'"x"')), 4).number
    assert b"x" == entry_from(ADA, EntryLine(letter="u", body=b64encode(b"x").decode()), 4).body


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (b'{"format":"chatkeep","version":1}', None),
        (b'{"format":"other","version":1}', BadMessage),
        (encode_end(1, 2, "x"), BadMessage),
    ],
)
def test_an_export_begins_with_its_header(line: bytes, kind: Any) -> None:
    """Of a version that is known here."""
    if kind is None:
        refuse_other(parse_line(line))
    else:
        with pytest.raises(kind, match="an export begins with"):
            refuse_other(parse_line(line))
    with pytest.raises(Unsupported, match="version 2"):
        refuse_other(parse_line(b'{"format":"chatkeep","version":2}'))


@pytest.mark.parametrize(
    "line", [b"", b"[]", b"7", b'{"conversation":1}', b'{"number":1,"other":2}', b"\xff", b"[" * 5000]
)
def test_what_is_no_line_is_refused(line: bytes) -> None:
    """Whatever it is."""
    with pytest.raises(BadMessage, match="this is no line of an export"):
        parse_line(line)
