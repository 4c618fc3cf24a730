"""Which version of a conversation somebody has seen: known from its row alone, and the same wherever it is computed."""

from __future__ import annotations

from hashlib import sha256

from .codec import CRC_END, body_of
from .record import Record
from .snapshots import Snapshot


def find_version(head: int, record: Record) -> int:
    """Return the version: a number that grows with each entry of the log and each change of title, state or marks, and with nothing
    else. It begins anew when the conversation was erased and created again."""
    return head + record.edits


def find_checksum(snapshot: Snapshot) -> str:
    """Return the checksum: another one for everything that was ever written, also where a store was set back and went on."""
    row = snapshot.row
    return checksum_from(row.incarnation, row.head, body_of(row.key, snapshot.record))


def checksum_from(incarnation: str, head: int, body: bytes) -> str:
    """As `find_checksum`, from the stored form of the record."""
    crc = body[len(b'{"crc":"') : CRC_END - len(b'",')].decode(errors="replace")
    return sha256(f"{incarnation}:{head}:{crc}".encode()).hexdigest()[:24]
