"""Which version of a conversation somebody has seen: known from its row alone, and the same wherever it is computed."""

from __future__ import annotations

from hashlib import sha256

from ..drivers.base import Key
from .codec import CRC_END, body_of
from .record import Record


def find_version(head: int, record: Record) -> int:
    """Return the version: a number that grows with each entry of the log and each change of title, state or marks, and with nothing
    else. It begins anew when the conversation was erased and created again."""
    return head + record.edits


def find_checksum(key: Key, incarnation: str, head: int, record: Record) -> str:
    """Return the checksum: another one for everything that was ever written, also where a store was set back and went on."""
    crc = body_of(key, record)[len(b'{"crc":"') : CRC_END - len(b'",')].decode()
    return sha256(f"{incarnation}:{head}:{crc}".encode()).hexdigest()[:24]
