"""Announcements as one message, for stores that carry such: the epoch of the store that is meant, and the marks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection

import msgspec

from .openable import Openable

log = logging.getLogger("chatkeep")


def announcement_of(epoch: str, marks: Collection[str]) -> bytes:
    """Return the message that announces *marks*."""
    return msgspec.json.encode([epoch, *marks])


def listener_for(driver: Openable, heard: Callable[[list[str]], None]) -> Callable[[bytes], None]:
    """Return what takes a message and gives *heard* its marks, if it is about the store that *driver* has open: others may use the same
    channel. Raises nothing, whatever the message is."""

    def hear(message: bytes) -> None:
        try:
            epoch, *marks = msgspec.json.decode(message, type=list[str])
            if epoch == driver.epoch:
                heard(marks)
        except Exception:
            log.exception("%s: an announcement was lost: %r", driver.store, message[:80])

    return hear
