"""Words for the full-text index, of any script."""

from __future__ import annotations

import time

import pytest

from chatkeep.conversation.codec import body_of, entry_for
from chatkeep.conversation.keys import SAVED
from chatkeep.conversation.marks import FAILING, marks_of_record
from chatkeep.conversation.record import Record
from chatkeep.conversation.words import (
    LONGEST,
    TERMS,
    entry_words,
    find_in,
    has_words,
    name_in,
    shown_of,
    terms_in,
    words_in,
)
from chatkeep.drivers.base import Entry, EntryWords, Key, Term, Unindexed
from chatkeep.model import Role

from ..support.snapshots import message

ADA = Key("", "ada")

FOUND = [
    ("Where is the Blue Parcel?", "blue par"),
    ("Where is the Blue Parcel?", "PARCEL, blue"),
    ("ein grüner Nagellack", "gruner NAGEL"),
    ("ein gru\u0308ner Nagellack", "grüner"),
    ("STRASSE 7", "straße"),
    ("İstanbul", "istanbul"),
    ("order 4711-23", "4711 23"),
    ("mail ada@example.com", "ada@example.com"),
    ("\uff21\uff22\uff23 \uff11\uff12\uff13", "abc 123"),
    ("寿司が好きです", "好き"),
    ("寿司が好きです", "す"),
    ("我想预订明天的桌子", "预订"),
    ("ร้านทำเล็บอยู่ที่ไหน", "ทำเล็บ"),
    ("김치찌개 두 개", "김치"),
    ("नमस्ते दुनिया", "नमस्ते"),
    ("Ёлка", "елка"),
    ("x" * 500, "x" * 400),
]


@pytest.mark.parametrize(("said", "searched"), FOUND)
def test_what_was_said_is_found(said: str, searched: str) -> None:
    """As people type it: in another case, without accents, a beginning, a part of what has no spaces."""
    assert has_words(said, terms_in(searched))


@pytest.mark.parametrize(
    ("said", "searched"),
    [
        ("Where is the Blue Parcel?", "arcel"),
        ("Where is the Blue Parcel?", "blu parcel"),
        ("Where is the Blue Parcel?", "p"),
        ("寿司が好きです", "寿好"),
        ("anything", ""),
        ("anything", "?!"),
        ("नमस्ते", "नमस्ता"),
    ],
)
def test_what_was_not_said_is_not_found(said: str, searched: str) -> None:
    """The middle of a word, the beginning of one that is not the last, one letter; nor is nothing everything."""
    assert not has_words(said, terms_in(searched))


def test_a_search_is_short() -> None:
    """Of many words and long ones, so much is looked at; a word twice is one."""
    assert TERMS == len(terms_in(" ".join(f"w{n}" for n in range(100))))
    assert [Term("blue"), Term("x" * LONGEST)] == terms_in(f"blue blue {'x' * 90}")
    assert ["blue", "x" * LONGEST] == words_in(f"blue, BLUE {'x' * 90}")


@pytest.mark.parametrize(
    ("said", "searched", "shown"),
    [
        ("Where is the Blue Parcel?", "blue parcel", "Blue Parcel"),
        ("Where is the Blue Parcel?", "parcel blue", "Parcel"),
        ("ein grüner Nagellack", "GRUNER", "grüner"),
        ("寿司が好きです", "好き", "好き"),
        ("nothing", "else", ""),
        ("(a+b)*", "a+b", "a+b"),
        (f"{'ﷺ' * 998}ein grüner", "ein gruner", "ein grüner"),
        (f"{'é' * 3000}gru\u0308ner Nagellack", "grüner n", "gru\u0308ner N"),
    ],
)
def test_it_is_shown_where_it_was_said(said: str, searched: str, shown: str) -> None:
    """The whole, or else the first word of it."""
    begin, end = find_in(said, searched)

    assert shown == said[begin:end]


@pytest.mark.parametrize(
    "text",
    [
        "a" + "\u0301" * 20_000 + "\u0327" * 20_000,
        "\u05d0" + "\u0592" * 20_000 + "\u0591" * 20_000,
        "\u0f40" + "\u0f73" * 40_000,
        "\uff76" + "\uff9e\u0316" * 20_000,
        "\ufdfa" * 80_000,
        "a " * 125_000,
        "\u0430 " * 80_000,
    ],
    ids=[
        "accents",
        "Hebrew accents",
        "vowels that are two marks",
        "half-width marks",
        "a letter that is eighteen",
        "ASCII",
        "Cyrillic",
    ],
)
def test_no_message_is_slow_to_read(text: str) -> None:
    """Whoever writes a message as long as may be holds nobody up: not who keeps the index, nor who searches."""
    began = time.process_time()
    words_in(text)
    find_in(text, "nothing of the kind")

    assert time.process_time() - began < 0.4


def test_an_entry_has_the_words_of_people() -> None:
    """And who the customer is, as a channel tells it, and no save; chatkeep's own notes and records have none, nor what cannot be read."""

    def words(role: Role, key: Key = ADA, text: str = "Blue parcel", channel: str = "") -> EntryWords:
        told = {"created_at": 7.0, "limit": 999, "metadata": {"name": "Ada L.", "phone": "491701"}, "channel": channel}
        entry = entry_for(key, text, number=3, id="m", role=role, **told)
        return entry_words(Unindexed(key, 5, entry))

    damaged = entry_words(Unindexed(ADA, 5, Entry(3, "m", "u", b'["00000000",1,"blue"]')))

    assert EntryWords(5, 3, 7.0, ["blue", "parcel", "ada", "l", "491701"]) == words("user")
    assert [["blue", "parcel", "ada", "l", "491701"]] * 2 == [words("assistant").words, words("operator").words]
    assert ["blue", "parcel"] == words("user", channel=SAVED).words
    assert [[], ()] == [words("system").words, words("user", Key("~audit", "a")).words]
    assert EntryWords(5, 3, 0.0, ()) == damaged


def test_a_customer_has_a_name_where_a_channel_tells_it() -> None:
    """What was saved was said by the customer alone, and what is no text is no name."""
    told = [({"name": "Ada"}, ""), ({"username": "ada"}, ""), ({"name": "Ada"}, SAVED), ({"name": 7}, ""), ({}, "")]

    assert ["Ada", "ada", "", "", ""] == [
        name_in(message(1, metadata=metadata, channel=channel)) for metadata, channel in told
    ]


def test_what_is_searched_for_is_shown_in_what_was_said() -> None:
    """In what is known of the customer only where that alone has it; and what has it nowhere is what was said."""
    told = message(1, content="blue parcel", metadata={"name": "Ada", "phone": "491701"})

    assert ["blue parcel", "Ada 491701", "blue parcel"] == [
        shown_of(told, text) for text in ("blue", "4917", "nowhere")
    ]
    assert "I am Ada" == shown_of(message(1, content="I am Ada", metadata={"name": "Ada"}), "ada")


def test_a_row_has_the_words_of_its_id_and_title_and_its_marks() -> None:
    """One that cannot be read is found by its id, and fails."""
    record = Record(title="Blue cake", assignee="ann", dead=(1,))
    row = Unindexed(Key("", "order-7"), 5, Entry(0, "r9", "", body_of(Key("", "order-7"), record)))
    damaged = Unindexed(Key("", "order-7"), 5, Entry(0, "r9", "", b"damaged"))

    assert EntryWords(5, 0, 0.0, ["blue", "cake", "order", "7", *marks_of_record(record)], "r9") == entry_words(row)
    assert EntryWords(5, 0, 0.0, ["order", "7", FAILING], "r9") == entry_words(damaged)
    assert FAILING in marks_of_record(record)
