"""Which version of a conversation somebody has seen."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import Raw, structs

from chatkeep.conversation.codec import body_of
from chatkeep.conversation.record import Record
from chatkeep.conversation.versions import checksum_before, checksum_from, find_checksum, find_version, is_checksum

from ..support.snapshots import ADA, message, snapshot

SEEN = snapshot(message(1), message(2, "assistant"), title="tea", state=Raw(b'{"n":1}'), cursor=2)


def test_the_version_grows_with_entries_and_with_changes_that_leave_none() -> None:
    """So a number tells which is newer."""
    assert [2, 3, 7] == [find_version(2, Record()), find_version(3, Record()), find_version(3, Record(edits=4))]


@pytest.mark.parametrize(
    "changed", [{"title": "coffee"}, {"title": ""}, {"state": Raw(b'{"n":2}')}, {"redactions": 1}, {"notes": 1}]
)
def test_the_checksum_changes_with_what_a_person_can_see(changed: dict[str, Any]) -> None:
    """Notes are taken from the number of entries."""
    other = structs.replace(SEEN, record=structs.replace(SEEN.record, **changed))

    assert find_checksum(SEEN) != find_checksum(other)


@pytest.mark.parametrize("changed", [{"cursor": 1}, {"begun": 2}, {"seen": 2}, {"pinned": True}, {"edits": 3}])
def test_it_does_not_change_with_anything_else(changed: dict[str, Any]) -> None:
    """Nor with a note."""
    other = structs.replace(SEEN, record=structs.replace(SEEN.record, **changed))
    noted = checksum_from("i", 3, structs.replace(SEEN.record, notes=1))

    assert find_checksum(SEEN) == find_checksum(other) == noted


def test_the_title_cannot_be_taken_for_the_state() -> None:
    """Its length stands before it."""
    one, other = Record(title="a:", state=Raw(b"1")), Record(title="a", state=Raw(b":1"))

    assert checksum_from("i", 2, one) != checksum_from("i", 2, other)
    assert checksum_from("i", 2, one) != checksum_from("j", 2, one)


def test_a_checksum_of_an_older_version_counts_too() -> None:
    """It was made of the whole record."""
    old = checksum_before("i", 2, body_of(ADA, SEEN.record))

    assert is_checksum(SEEN, find_checksum(SEEN))
    assert is_checksum(SEEN, old)
    assert old != checksum_before("i", 2, body_of(ADA, structs.replace(SEEN.record, begun=2)))
    assert not is_checksum(SEEN, "")


def test_what_older_versions_have_told_is_the_same_for_ever() -> None:
    """Clients have it from them."""
    assert "03d6403baf480932a5af8e2a" == checksum_before("i", 2, b'{"crc":"0a1b2c3d","format":1}')
    assert checksum_before("i", 2, b'{"crc":"0a1b2c3d","x":1}') == checksum_before("i", 2, b'{"crc":"0a1b2c3d","y":2}')
