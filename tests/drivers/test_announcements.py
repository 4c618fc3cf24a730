"""Announcements that travel as one message, on a channel that others may use too."""

from __future__ import annotations

import logging

import pytest

from chatkeep.drivers.announcements import announcement_of, listener_for
from chatkeep.drivers.openable import Openable


class Opened(Openable):
    """A driver, as far as its listener knows it."""

    def __init__(self, epoch: str) -> None:
        super().__init__("memory://test")
        self.epoch = epoch


def test_what_one_announces_the_others_on_the_store_hear() -> None:
    """In order; who has another store open does not."""
    heard: list[list[str]] = []
    message = announcement_of("epoch-1", ["a", "b"])
    listener_for(Opened("epoch-1"), heard.append)(message)
    listener_for(Opened("epoch-2"), heard.append)(message)

    assert [["a", "b"]] == heard


@pytest.mark.parametrize("message", [b"", b"{}", b"[]", b'["epoch-1", 3]', b"\xff\xfe", b'"epoch-1"', b"[" * 100_000])
def test_what_others_say_on_the_channel_raises_nothing(message: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """It is in the log, cut."""
    heard: list[list[str]] = []
    listener_for(Opened("epoch-1"), heard.append)(message)

    assert ([], 1) == (heard, len(caplog.records))
    assert f"memory://test: an announcement was lost: {message[:80]!r}" == caplog.records[0].getMessage()


def test_a_listener_that_raises_is_told_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    def hear(marks: list[str]) -> None:
        raise KeyError(marks[0])

    listener_for(Opened("e"), hear)(announcement_of("e", ["m"]))

    assert [logging.ERROR] == [record.levelno for record in caplog.records]
