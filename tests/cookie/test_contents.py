"""What a cookie holds, to bytes and back, and as a store for one request."""

from __future__ import annotations

import pytest
from msgspec import msgpack, structs

from chatkeep.cookie.contents import Contents, Kept, RequestDriver, from_bytes, kept_from, row_of, to_bytes
from chatkeep.drivers.base import Entries, Entry, Key, Read, Row, Write

KEY = Key("", "ada")
KEPT = Kept(
    "r9", "r1", 7, 50.0, None, b"body", [("m6", "user", b"hi"), ("", "system", b""), ("m7", "assistant", b"ho")]
)


@pytest.mark.parametrize("kept", [KEPT, None])
def test_what_is_kept_comes_back(kept: Kept | None) -> None:
    contents = Contents("ada", 99, kept)

    assert contents == from_bytes(to_bytes(contents))


@pytest.mark.parametrize("plain", [b"", b"\xff", msgpack.encode({"user": 3}), msgpack.encode(["ada", "soon", None])])
def test_what_another_program_has_sealed_is_nothing(plain: bytes) -> None:
    """It may have the same keys."""
    assert from_bytes(plain) is None


def test_entries_have_the_numbers_up_to_the_head() -> None:
    row, entries = row_of(KEY, KEPT)

    assert [(5, "m6"), (6, ""), (7, "m7")] == [(entry.number, entry.id) for entry in entries]
    assert Row(key=KEY, revision="r9", incarnation="r1", head=7, body=b"body", updated_at=50.0) == row
    assert KEPT == kept_from(row, entries)


async def test_a_request_finds_its_conversation_and_keeps_it_without_the_lease() -> None:
    """Nobody holds a lease when the request is over."""
    driver = RequestDriver(KEY, KEPT)
    await driver.open()
    found = await driver.read(Read(KEY, tail=2))
    assert found is not None
    row = structs.replace(found[0], revision="r10", lease="t", leased_until=99.0)
    await driver.write(Write(row, "r9", [Entry(0, "m8", "user", b"more")]))

    assert [6, 7] == [entry.number for entry in found[1]]
    assert ["m7"] == [entry.id for entry in await driver.entries(Entries(KEY, ids=["m7", ""]))]
    assert [*KEPT.entries, ("m8", "user", b"more")] == (driver.kept or KEPT).entries
    assert ("r10", 8) == ((driver.kept or KEPT).revision, (driver.kept or KEPT).head)
    assert None is row_of(KEY, driver.kept or KEPT)[0].lease
    await driver.close()


async def test_a_visitor_without_a_cookie_has_nothing_there() -> None:
    assert None is RequestDriver(KEY, None).kept
