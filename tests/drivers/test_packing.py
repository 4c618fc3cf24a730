"""What lies in a store is smaller than what was said, and comes back to the byte."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatkeep.drivers.packing import MARKS, SMALLEST, pack, pack_text, unpack

TALK = b'["12345678",1763697600123,"Do you have a table for two at eight? ' + b"Or at nine? " * 20 + b'"]'


@given(st.binary(max_size=400) | st.sampled_from([b"\0", b"\1", b"\2", TALK]))
def test_everything_comes_back(body: bytes) -> None:
    """Whatever it begins with; also as text."""
    assert (body, body) == (unpack(pack(body)), unpack(pack_text(body)))


def test_what_repeats_itself_takes_less_room() -> None:
    """What is short, or would not get smaller, is stored as it is."""
    short, random = TALK[: SMALLEST - 1], b"x" + os.urandom(2 * SMALLEST)

    assert b"\1" == pack(TALK)[:1]
    assert len(pack(TALK)) < len(TALK) // 2
    assert (short, random) == (pack(short), pack(random))
    assert 1 + len(short) == len(pack(b"\1" + short[1:]))
    assert [b"\0" + mark for mark in MARKS] == [pack(mark) for mark in MARKS]


def test_text_is_text() -> None:
    """For a way on which nothing else goes."""
    assert pack_text(os.urandom(100))[1:].isascii()
    assert b"\2" == pack_text(TALK)[:1]
    assert len(pack_text(TALK)) < len(TALK)


@pytest.mark.parametrize(
    "damaged", [b"\1", b"\1not zstd", pack(TALK)[:-3], b"\2!", b"\2" + b"AA", b"\1" + b"\xff" * 20]
)
def test_what_is_damaged_comes_back_as_something_that_no_checksum_fits(damaged: bytes) -> None:
    """And never as an error of a library."""
    assert TALK != unpack(damaged)
