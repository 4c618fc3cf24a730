"""What is read out of platforms' requests: a corpus with its golden results, and whatever chance makes of it."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatkeep.channels import Instagram, Received, Status, Unknown, bodies
from chatkeep.conversation.codec import entry_for
from chatkeep.conversation.keys import key_for, message_id

from ..support.samples import CHANNELS, CORPUS, case, shown

CASES = sorted(CORPUS.glob("*.json"))


WORDS = st.one_of(
    st.text(max_size=8), st.sampled_from(["", "\0", "\ud800", "~x", "text", "hologram", "9" * 400, "x" * 600])
)


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.just(10**400), WORDS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(WORDS, inner, max_size=3)),
    max_leaves=8,
)


def at(value: Any, path: tuple[Any, ...]) -> Any:
    """What is at *path*."""
    for step in path:
        value = value[step]
    return value


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for name, item in inner for place in places(item, (*path, name)))]


def put(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """*value* with another thing at *path*."""
    if not path:
        return new
    found = copy.deepcopy(value)
    at(found, path[:-1])[path[-1]] = new
    return found


def storable(one: Received) -> bool:
    """Whether the core would take it; raises its refusal if not."""
    key = key_for("", one.conversation)
    message_id(key, one.id)
    entry_for(key, one.content, id=one.id, role="user", created_at=0, limit=1 << 20, metadata=one.metadata)
    return True


@given(data=st.data(), new=JSON, path=st.sampled_from(CASES))
def test_a_damaged_body_loses_nothing(data: Any, new: Any, path: Path) -> None:
    """Whatever stands in whatever place: nothing is raised; what is in the body is in what is found; all of it can be stored."""
    found = case(path)
    body = put(found["body"], data.draw(st.sampled_from(places(found["body"]))), new)
    parsed = CHANNELS[found["channel"]].parse(json.dumps(body).encode())
    left = [id for id in ids_of(found["expected"]) if id in json.dumps(body)]

    assert [] == [id for id in left if id not in json.dumps(shown(parsed))]
    assert parsed or any(at(body, place) == [] for place in places(body))
    assert all([storable(one) for one in parsed if isinstance(one, Received)])
    assert all([key_for("", one.conversation) for one in parsed if isinstance(one, Unknown) and one.conversation])


def ids_of(expected: list[dict[str, Any]]) -> list[str]:
    """The platform's ids of all that is in a case."""
    return [
        one["id"] for kind in expected for one in kind.values() if not one.get("id", "sha256:").startswith("sha256:")
    ]


@given(body=st.one_of(st.binary(max_size=200), JSON.map(lambda value: json.dumps(value).encode())))
def test_any_bytes_are_kept(body: bytes) -> None:
    """A signed body that is not what is published is shown as one unknown thing, never raised and never dropped."""
    for channel in CHANNELS.values():
        assert all([isinstance(one, Unknown) for one in channel.parse(body)])
        assert channel.parse(body) != [] or b"[]" in body


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xef\xbb\xbf{}",
        b"\x1f\x8b\x08",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"1" * 5000,
        b"nul",
        b"\xff\xfe{\0}\0",
    ],
    ids=["empty", "bom", "gzip", "deep list", "deep object", "long number", "cut", "utf-16"],
)
@pytest.mark.parametrize("name", CHANNELS)
def test_hostile_bodies_are_one_unknown_thing(name: str, body: bytes) -> None:
    """Nothing in a body takes the process down."""
    assert [Unknown] == [type(one) for one in CHANNELS[name].parse(body)]


@pytest.mark.parametrize(
    "value",
    [
        "[" * 100 + "]" * 100,
        '{"a":' * 70 + "1" + "}" * 70,
        "1" * 300,
        "1e400",
        "-1e300",
        "NaN",
        r'"\u0000\ud800"',
        str(2**64),
    ],
)
def test_what_no_store_can_hold_is_replaced(value: str) -> None:
    """A message is kept although something beside it could not be."""
    body = f'{{"conversation": "ada", "content": "hello", "id": "1", "metadata": {{"x": {value}}}}}'
    found = CHANNELS["webhook"].parse(body.encode())[0]

    assert isinstance(found, Received)
    assert ("hello", True) == (found.content, storable(found))


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("messenger_attachments", ("lat",)),
        ("whatsapp_order", ("quantity",)),
    ],
)
def test_a_number_that_no_store_can_hold_makes_the_item_unknown(path: str, place: tuple[str, ...]) -> None:
    """Also where it is made of a text, after the body was cleaned."""
    found = case(CORPUS / f"{path}.json")
    where = next(one for one in places(found["body"]) if one[-1:] == place)
    parsed = CHANNELS[found["channel"]].parse(json.dumps(put(found["body"], where, "9" * 400)).encode())

    assert "it has a number that no store can hold" in [one.reason for one in parsed if isinstance(one, Unknown)]
    assert all([storable(one) for one in parsed if isinstance(one, Received)])


@pytest.mark.parametrize("id", ["~mine", "", "x" * 257, "é" * 129, "a\0b", "a\nb", "a\ud800", "\u202e"])
def test_an_id_is_never_cleaned(id: str) -> None:
    """Two customers, or two messages, must not become one: the item is shown as unknown instead."""
    for member in ("id", "conversation"):
        body = {"conversation": "ada", "content": "hello", "id": "1"} | {member: id}
        assert [Unknown] == [type(one) for one in CHANNELS["webhook"].parse(json.dumps(body).encode())]


def test_one_bad_item_does_not_spoil_the_others() -> None:
    """F33: the good ones of a batch are messages, each bad one is shown with its reason."""
    found = case(CORPUS / "whatsapp_one_bad_item.json")
    parsed = CHANNELS["whatsapp"].parse(json.dumps(found["body"]).encode())

    assert ["good", "good too"] == [one.content for one in parsed if isinstance(one, Received)]
    assert [True] * 5 == [bool(one.reason) for one in parsed if isinstance(one, Unknown)]


@pytest.mark.parametrize(("count", "notes"), [(100, 100), (101, 2), (1000, 10)])
def test_many_things_that_cannot_be_read_are_few_notes(count: int, notes: int) -> None:
    """Each note is written; a message among them is a message, and nothing is left out."""
    message = {"conversation": "ada", "content": "hello", "id": "1"}
    body = {"messages": [*range(count - 1), message, count - 1]}
    parsed = CHANNELS["webhook"].parse(json.dumps(body).encode())
    unknown = [one for one in parsed if isinstance(one, Unknown)]
    raw = [one.raw for one in unknown] if notes == count else [each for one in unknown for each in one.raw]

    assert ["hello"] == [one.content for one in parsed if isinstance(one, Received)]
    assert (notes, list(range(count))) == (len(unknown), raw)
    assert notes == len({one.id for one in unknown})


def test_an_echo_of_another_app_on_instagram_is_told_by_the_app_id() -> None:
    """With app_id given, ours is a status and a person's is an operator's message, marked as sent."""
    channel = Instagram(accounts={}, secrets="s", verify_tokens="t", app_id="4455")
    body = case(CORPUS / "instagram_echoes.json")["body"]
    path = ("entry", 0, "messaging", 0, "message", "app_id")
    ours, theirs, nobodys = (
        channel.parse(json.dumps(one).encode())[0] for one in (put(body, path, 4455), put(body, path, "9"), body)
    )

    assert isinstance(ours, Status)
    assert isinstance(theirs, Received)
    assert isinstance(nobodys, Received)
    assert ("sent", "i_out1") == (ours.status, ours.id)
    assert ("operator", "from somebody", {"sent": True}) == (theirs.role, theirs.content, theirs.metadata)


def test_a_customer_is_one_conversation_per_account() -> None:
    """The same customer at two of our numbers talks in two conversations; with or without their number shown, in one."""
    body = case(CORPUS / "whatsapp_text.json")["body"]
    value = ("entry", 0, "changes", 0, "value")
    elsewhere = put(body, (*value, "metadata", "phone_number_id"), "999")
    hidden = put(put(body, (*value, "messages", 0, "from"), ""), (*value, "contacts", 0, "wa_id"), "")
    names = [CHANNELS["whatsapp"].parse(json.dumps(one).encode())[0].conversation for one in (body, elsewhere, hidden)]  # type: ignore[union-attr]

    assert ["whatsapp:200100300400500:DE.7700011122", "whatsapp:999:DE.7700011122", names[0]] == names


def test_what_no_store_can_hold_becomes_what_it_can() -> None:
    """Numbers that would be changed by a store, and what is nested too deeply, as text; all else as it is, to the last level."""
    exact = 2**53
    plain = ["", "x", exact, -exact, float(exact), 0.5, True, None, {"a": [1]}]
    odd = [exact + 1, -exact - 1, float("inf"), float("-inf"), float(2 * exact), "a\0b\ud800"]

    assert plain == bodies.storable(plain)
    assert [str(value) for value in odd[:-1]] + ["a\ufffdb\ufffd"] == bodies.storable(odd)
    assert "nan" == bodies.storable(float("nan"))
    assert {"a\ufffd": 1} == bodies.storable({"a\0": 1})


@pytest.mark.parametrize("wrap", [lambda inner: [inner], lambda inner: {"in": inner}], ids=["lists", "objects"])
def test_nesting_ends_at_a_depth(wrap: Any) -> None:
    """What is plain at the deepest place stays; what would go on from there is named."""

    def nested(depth: int, inner: Any) -> Any:
        for _ in range(depth):
            inner = wrap(inner)
        return inner

    assert nested(bodies.DEEPEST, "x") == bodies.storable(nested(bodies.DEEPEST, "x"))
    cut = bodies.storable(nested(bodies.DEEPEST + 1, "x"))
    assert nested(bodies.DEEPEST, "(nested too deeply)") == cut


def test_a_body_of_too_many_things_is_not_read() -> None:
    """It is kept as one thing, with what is wrong with it."""
    most = b"[" + b"," * (bodies.THINGS_MOST - 1)

    def read(body: bytes) -> Any:
        (one,) = bodies.items(body, lambda item: iter(()))
        return one

    assert "it has more than 300,000 brackets and commas" in read(most + b",").reason
    assert "it has more than" not in read(most).reason


def test_what_is_no_object_is_kept_with_the_reason() -> None:
    """Beside those that can be read."""
    read = list(bodies.each([7, {"a": 1}, {}], lambda item: [bodies.unknown(item["a"], "read")]))

    assert ["an object was expected, not int", "read", "there is no 'a'"] == [
        getattr(one, "reason", "") for one in read
    ]


@pytest.mark.parametrize("value", ["x", "x" * bodies.LONGEST_ID, "é" * (bodies.LONGEST_ID // 2), 7])
def test_an_id_of_a_platform_is_text_or_a_whole_number(value: Any) -> None:
    assert str(value) == bodies.name(value)


@pytest.mark.parametrize(
    "value", ["", "x" * (bodies.LONGEST_ID + 1), "é" * 129, "~x", True, None, 1.5, "a\ufffd", "a\n"]
)
def test_what_is_no_id_of_a_platform_is_refused(value: Any) -> None:
    """Two ids must not become one by being cleaned."""
    with pytest.raises(ValueError, match="id"):
        bodies.name(value)


def test_the_same_content_has_the_same_fingerprint() -> None:
    """In whatever order its members come."""
    one, other = {"a": "é", "b": [1]}, {"b": [1], "a": "é"}

    assert bodies.fingerprint(one) == bodies.fingerprint(other)
    assert bodies.fingerprint(one) != bodies.fingerprint({"a": "é"})


def test_members_that_say_nothing_are_left_out() -> None:
    assert {"zero": 0, "no": False, "a": "x"} == bodies.filled(zero=0, no=False, a="x", b=None, c="", d=[], e={})
