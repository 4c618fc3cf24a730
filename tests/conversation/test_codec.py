"""Keys, messages, records and states as bytes: what is refused, what is seen as corrupt, what comes back."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw, json, structs

from chatkeep import BadKey, BadMessage, Corrupt, TooLarge, Unsupported
from chatkeep.conversation.codec import LETTERS, _crc, body_of, entry_for, json_of, message_from, record_from
from chatkeep.conversation.keys import key_for, message_id
from chatkeep.conversation.record import Record, Reminder
from chatkeep.conversation.shapes import UNREAD, _copy, misfit
from chatkeep.conversation.state import StateCodec
from chatkeep.drivers.base import Entry, Key

from ..support.soaking import examples

ADA = Key("salon", "ada")
LIMIT = 256 * 1024

texts = st.text(st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)))
plain: Any = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


def nested(levels: int) -> Any:
    """Lists in lists."""
    found: Any = "bottom"
    for _ in range(levels):
        found = [found]
    return found


@pytest.mark.parametrize("name", ["a", "a/b:c{d}%e", "😀 ünï", "x" * 512, "a\nb", "'; drop table", " "])
def test_any_text_names_a_conversation(name: str) -> None:
    """Slashes, colons, braces, per cent signs and emoji are just letters."""
    assert Key("t", name) == key_for("t", name)


@pytest.mark.parametrize("name", ["", "a\0b", "\ud800", "x" * 513, 42, None, b"ada", ["ada"], {"id": "ada"}])
def test_what_cannot_name_a_conversation_is_refused(name: Any) -> None:
    """Empty, NUL, half a surrogate pair, too long, no text at all."""
    with pytest.raises(BadKey, match="othing was touched"):
        key_for("t", name)


@pytest.mark.parametrize("name", ["", "a\0b", "\ud800", "x" * 513, 42])
def test_what_cannot_name_a_message_is_refused(name: Any) -> None:
    """The error names the conversation."""
    with pytest.raises(BadMessage, match="salon/ada"):
        message_id(ADA, name)


@given(texts, st.none() | st.dictionaries(texts, plain, max_size=2), st.integers(0, 9), texts)
def test_entries_come_back_as_they_were_put_in(said: str, metadata: Any, reply: int, channel: str) -> None:
    """With and without what may be missing at the end; without a channel they are what older versions write."""
    asked: Any = {"id": "m", "role": "user", "created_at": 1.5, "limit": LIMIT, "metadata": metadata}
    entry = entry_for(ADA, said, reply_to=reply, reply_from=reply, channel=channel, **asked)
    found = message_from(ADA, "i", structs.replace(entry, number=1))

    assert (said, metadata or {}, reply or None, channel) == (
        found.content,
        found.metadata,
        found.reply_to,
        found.channel,
    )
    assert channel or entry == entry_for(ADA, said, reply_to=reply, reply_from=reply, **asked)
    assert bool(channel) == (len(json.decode(entry.body)) == 7)


BAD_CONTENT = {
    "surrogate": "\ud800",
    "nul": "a\0b",
    "number": 42,
    "part that is no object": ["text"],
    "nan": [{"x": float("nan")}],
    "infinity": [{"x": float("inf")}],
    "300 digits": [{"x": 10**300}],
    "54 bits": [{"x": 2**53}],
    "65 bits": [{"x": 2**63}],
    "nul in a key": [{"a\0": 1}],
    "deep": [{"x": nested(70)}],
    "100,000 deep": [{"x": nested(100_000)}],
    "an object": [{"x": object()}],
    "surrogate in a part": [{"x": "\udfff"}],
}


@pytest.mark.parametrize(
    ("content", "said"),
    [(["text"], r"content\[0\] is of type str"), ([{}, 5], r"content\[1\] is of type int"), (42, "not int")],
)
def test_a_part_that_is_no_object_is_named(content: Any, said: str) -> None:
    """A list that is refused is not called a list where a list may be; the part in it is named."""
    with pytest.raises(BadMessage, match=said):
        entry_for(ADA, content, id="m", role="user", created_at=1.0, limit=LIMIT)


@pytest.mark.parametrize("content", BAD_CONTENT.values(), ids=BAD_CONTENT)
def test_what_cannot_be_stored_everywhere_is_refused(content: Any) -> None:
    """As content and as metadata; the error names the conversation and says that nothing was touched."""
    with pytest.raises(BadMessage, match=r"salon/ada.*othing was touched"):
        entry_for(ADA, content, id="m", role="user", created_at=1.0, limit=LIMIT)
    if isinstance(content, list) and content and isinstance(content[0], dict):
        with pytest.raises(BadMessage, match="salon/ada"):
            entry_for(ADA, "fine", id="m", role="user", created_at=1.0, limit=LIMIT, metadata=content[0])


@pytest.mark.parametrize("number", [2**53, -(2**53), 2**60 + 1, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**40])
@pytest.mark.parametrize("before", range(6))
def test_a_long_number_is_found_wherever_it_stands(number: int, before: int) -> None:
    """Also by who looks at some of the bytes only."""
    with pytest.raises(BadMessage, match="keep it as text"):
        entry_for(ADA, [{"x" * before: "y", "n": number, "z": "end"}], id="m", role="user", created_at=1.0, limit=LIMIT)


odd: Any = st.recursive(
    plain
    | st.floats()
    | st.integers()
    | st.text(st.characters(blacklist_categories=("Cs",)))
    | st.datetimes()
    | st.decimals()
    | st.binary(max_size=5)
    | st.sets(st.integers(), max_size=2),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(texts | st.integers() | st.dates() | st.binary(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


def kinds(value: Any) -> Any:
    """The types that *value* is made of."""
    if isinstance(value, dict):
        return dict, [(kinds(name), kinds(inner)) for name, inner in value.items()]
    return (type(value), [kinds(inner) for inner in value]) if isinstance(value, list | tuple | set) else type(value)


@given(value=st.dictionaries(texts | st.integers(), odd, max_size=3) | st.lists(odd, max_size=3))
@examples(5)
def test_plain_json_comes_back_equal_and_of_the_same_types_or_is_refused(value: Any) -> None:
    """The quick look lets nothing through that the slow one refuses, and what is refused is named."""
    reason = misfit(value, "this")
    if not reason:
        raw = json_of(ADA, value, "this")

        assert (value, kinds(value)) == (json.decode(raw), kinds(json.decode(raw)))
        return
    with pytest.raises(BadMessage, match=r"salon/ada: this.*othing was touched"):
        json_of(ADA, value, "this")
    try:
        raw = json.encode(value)
    except (TypeError, ValueError):
        return
    assert _copy(value, raw) is UNREAD


KEYED = {
    "number": ({1: "x"}, ""),
    "deep in lists": ({"x": [[{"y": ([{2: 3}])}]]}, r"\.x\[0\]\[0\]\.y\[0\]"),
    "below what is looked at quickly": ({"x": {"y": {"z": {"u": {"v": {b"w": 1}}}}}}, r"\.x\.y\.z\.u\.v"),
}


@pytest.mark.parametrize(("value", "member"), KEYED.values(), ids=KEYED)
def test_json_has_text_for_keys(value: dict[Any, Any], member: str) -> None:
    """Whoever wrote 1 would look for 1 and find "1": refused, and named, in a state as in a part."""
    with pytest.raises(BadMessage, match=f"salon/ada: state{member} has .*no text.*othing was stored"):
        StateCodec(dict, limit=LIMIT).encode(ADA, value)
    with pytest.raises(BadMessage, match=rf"salon/ada: content\[0\]{member} has .*no text.*othing was touched"):
        entry_for(ADA, [value], id="m", role="user", created_at=1.0, limit=LIMIT)
    with pytest.raises(BadMessage, match=f"salon/ada: metadata{member} has .*no text.*othing was touched"):
        entry_for(ADA, "hi", id="m", role="user", created_at=1.0, limit=LIMIT, metadata=value)


def test_a_limit_is_in_bytes() -> None:
    """100 emoji are 400 bytes."""
    entry_for(ADA, "x" * 300, id="m", role="user", created_at=1.0, limit=350)
    with pytest.raises(TooLarge, match="350"):
        entry_for(ADA, "😀" * 100, id="m", role="user", created_at=1.0, limit=350)


@given(
    content=texts | st.lists(st.dictionaries(texts, plain, max_size=3), max_size=3),
    at=st.integers(0, 4_000_000_000_000),
    span=st.tuples(st.integers(0, 10**9), st.integers(0, 10**9)),
    metadata=st.dictionaries(texts, plain, max_size=3),
)
def test_a_message_comes_back_as_it_was(content: Any, at: int, span: tuple[int, int], metadata: dict[str, Any]) -> None:
    """Any content, time, span and metadata."""
    first, last = min(span), max(span)
    entry = entry_for(
        ADA,
        content,
        id="m",
        role="user",
        created_at=at / 1000,
        limit=LIMIT,
        reply_to=last,
        reply_from=first,
        metadata=metadata,
    )
    found = message_from(ADA, "born", structs.replace(entry, number=7))

    assert (content, at, metadata, 7) == (found.content, round(found.created_at * 1000), found.metadata, found.number)
    if last:
        assert (first or last, last) == (found.reply_from, found.reply_to)


@given(
    state=st.dictionaries(texts, plain, max_size=5),
    cursor=st.integers(0, 2**40),
    dead=st.lists(st.integers(1, 1000), max_size=4),
    paused=st.booleans(),
)
def test_a_record_comes_back_as_it_was(state: dict[str, Any], cursor: int, dead: list[int], paused: bool) -> None:
    """Record and state, through their bytes."""
    states: StateCodec[Any] = StateCodec(dict, limit=10**6)
    record = Record(state=states.encode(ADA, state), cursor=cursor, dead=tuple(dead), paused=paused, session=3)
    found = record_from(ADA, body_of(ADA, record))

    assert record == found
    assert state == states.decode(ADA, found.state, 1)


@examples(3)
@given(data=st.data())
def test_a_flipped_bit_or_a_cut_is_corrupt(data: st.DataObject) -> None:
    """Whatever bit, wherever the cut: Corrupt, never another record and never an empty one."""
    record = Record(state=Raw(b'{"cart":["soup","bread"]}'), cursor=12, session=2, active_at=1.5)
    body = bytearray(body_of(ADA, record))
    if data.draw(st.booleans()):
        bit = data.draw(st.integers(0, len(body) * 8 - 1))
        body[bit // 8] ^= 1 << bit % 8
    else:
        del body[data.draw(st.integers(1, len(body) - 1)) :]
    with pytest.raises(Corrupt, match="salon/ada"):
        record_from(ADA, bytes(body))


def test_two_swapped_rows_are_corrupt() -> None:
    """A record or an entry is bound to its conversation."""
    other = Key("salon", "bob")
    with pytest.raises(Corrupt):
        record_from(other, body_of(ADA, Record(cursor=1)))
    entry = entry_for(ADA, "hi", id="m", role="user", created_at=1.0, limit=LIMIT)
    with pytest.raises(Corrupt):
        message_from(other, "born", entry)
    with pytest.raises(Corrupt):
        message_from(ADA, "born", Entry(1, "m", "user", b""))


def test_a_record_of_a_newer_format_is_refused() -> None:
    """It is not corrupt: it is newer."""
    from chatkeep.conversation import codec

    body = body_of(ADA, Record(cursor=1)).replace(b'"format":1', b'"format":2')
    rest = body[18:]
    with pytest.raises(Unsupported, match="format 2"):
        record_from(ADA, b'{"crc":"%s",%s' % (codec._crc(ADA, rest), rest))


def stored(key: Key, members: dict[str, Any]) -> bytes:
    """A record's body as any version writes one."""
    rest = json.encode(members)[1:]
    return b'{"crc":"%s",%s' % (_crc(key, rest), rest)


def test_what_a_newer_version_has_added_to_a_record_is_carried_along() -> None:
    """Members, and what stands behind the items of reminders and of how far replies have gone out."""
    there = {
        "format": 1,
        "title": "Of a newer version",
        "cursor": 4,
        "reminders": [[9.5, "cart", {"n": 1}, True, {"zone": "UTC"}], [7.0, "bill", None, False, "x", 2]],
        "delivery": [3, 0, 1, 2.5, 0, [2], 0, ["a"], "why", {"lane": 7}],
    }
    record = record_from(ADA, stored(ADA, there))

    assert (4, 3, ["cart", "bill"]) == (record.cursor, record.delivery.upto, [one.name for one in record.reminders])

    record = structs.replace(record, cursor=5, reminders=(record.reminders[1],), state=Raw(b"{}"))
    record = structs.replace(record, delivery=structs.replace(record.delivery, upto=5, again=()))
    found = json.decode(body_of(ADA, record))
    found.pop("crc")

    assert found == {
        **there,
        "cursor": 5,
        "state": {},
        "reminders": [[7.0, "bill", None, False, "x", 2]],
        "delivery": [5, 0, 1, 2.5, 0, [], 0, ["a"], "why", {"lane": 7}],
    }
    assert body_of(ADA, record_from(ADA, body_of(ADA, record))) == body_of(ADA, record)


def test_a_reminder_that_is_set_anew_is_another_one() -> None:
    """What a newer version said of the old one does not come to stand behind it."""
    record = record_from(ADA, stored(ADA, {"format": 1, "reminders": [[9.5, "cart", None, False, "x"]]}))
    record = structs.replace(record, reminders=(Reminder(11.5, "cart"),))

    assert [[11.5, "cart", None, False]] == json.decode(body_of(ADA, record))["reminders"]


def test_members_of_another_type_in_a_newer_format_are_not_damage() -> None:
    """Such a record is for the newer version; one of this format is damaged."""
    with pytest.raises(Unsupported, match=r"format 2.*Nothing was changed"):
        record_from(ADA, stored(ADA, {"format": 2, "cursor": "b7", "reminders": {"cart": {}}}))
    for odd in ({"cursor": "b7", "title": 1}, {"reminders": {"cart": {}}}, {"reminders": [[]]}, {"format": "x"}):
        with pytest.raises(Corrupt, match="cannot be read"):
            record_from(ADA, stored(ADA, {"format": 1, **odd}))


def test_a_body_is_plain_json() -> None:
    """Any SQL engine can read it."""
    import json

    record = Record(state=Raw(b'{"cart":[]}'), cursor=3)
    entry = entry_for(ADA, "hi", id="m", role="user", created_at=1.5, limit=LIMIT, reply_to=2, reply_from=2)

    assert {"cart": []} == json.loads(body_of(ADA, record))["state"]
    assert [1500, "hi", 2] == json.loads(entry.body)[1:]
    assert Record() == record_from(ADA, b"")
    assert Record() == record_from(ADA, body_of(ADA, Record()))


def test_what_is_said_of_deaths_takes_no_room_where_there_were_none() -> None:
    """A record without them is the same bytes as before there was anything to say."""
    plain = body_of(ADA, Record(cursor=3))
    told = body_of(ADA, Record(cursor=3, deaths=2, alone=True))

    assert b"deaths" not in plain
    assert b"alone" not in plain
    assert (2, True) == (record_from(ADA, told).deaths, record_from(ADA, told).alone)


def test_a_redacted_note_says_of_which_message_it_was() -> None:
    """By its id, where that is one of chatkeep's: another one does not count, whatever it looks like."""
    key = Key("", "ada")
    ids = ["~dead:i.7", "~dead:i.x", "~other:i.7", "dead:i.7", "7"]
    found = [message_from(key, "i", Entry(9, id, LETTERS["system"], b"")) for id in ids]

    assert [(7, "dead", "redacted"), *[(None, "blank", "")] * 4] == [
        (one.reply_to, one.metadata["kind"], one.content) for one in found
    ]


@pytest.mark.parametrize(
    ("role", "id", "fits"),
    [("system", "", True), ("event", "~reminder:1", True), ("event", "m1", False), ("user", "", False)],
)
def test_integers_that_a_browser_would_change_are_in_chatkeeps_own_entries_alone(
    role: Any, id: str, fits: bool
) -> None:
    """They hold what a platform has sent, or what was set before there was the rule."""
    told: dict[str, Any] = {"created_at": 1.0, "limit": 1000, "metadata": {"id": 2**53 + 1}}
    if fits:
        entry = entry_for(Key("", "ada"), "x", number=1, id=id, role=role, **told)

        assert 2**53 + 1 == message_from(Key("", "ada"), "i", entry).metadata["id"]
    else:
        with pytest.raises(BadMessage, match="metadata"):
            entry_for(Key("", "ada"), "x", number=1, id=id, role=role, **told)


def test_a_state_takes_no_more_room_than_it_may() -> None:
    """To the byte, as it is stored."""
    states: StateCodec[Any] = StateCodec(dict, limit=20)
    fits = {"n": "x" * (20 - len('{"n":""}'))}

    assert 20 == len(bytes(states.encode(ADA, fits)))
    with pytest.raises(TooLarge, match="the state takes 21 bytes, 20 are allowed; nothing was stored"):
        states.encode(ADA, {"n": fits["n"] + "x"})
