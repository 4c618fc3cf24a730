"""Which version of a conversation somebody has seen: known from its row alone, and the same wherever it is computed."""

from __future__ import annotations

from hashlib import sha256

from .codec import CRC_END, body_of
from .record import NONE, Record
from .snapshots import Snapshot


def find_version(head: int, record: Record) -> int:
    """Return the version: a number that grows with each entry of the log and each change of title, state or marks, and with nothing
    else. It begins anew when the conversation was erased and created again."""
    return head + record.edits


def find_checksum(snapshot: Snapshot) -> str:
    """Return the checksum of what a person can see: another one for each change of title, messages and state, and for nothing else."""
    row = snapshot.row
    return checksum_from(row.incarnation, row.head, snapshot.record)


def checksum_from(incarnation: str, head: int, record: Record) -> str:
    """Return what `find_checksum` does, from the row. (SQL makes the same of it: `chatkeep.checksum_of`.)"""
    seen = f"{incarnation}:{head - record.notes}:{record.redactions}:{len(record.title)}:{record.title}:".encode()
    return sha256(seen + (b"" if record.state == NONE else bytes(record.state))).hexdigest()[:24]


def is_checksum(snapshot: Snapshot, given: str) -> bool:
    """Tell whether *given* is the conversation's checksum; also one that was told by a version which made it of the whole record."""
    row = snapshot.row
    return given == find_checksum(snapshot) or given == checksum_before(
        row.incarnation, row.head, body_of(row.key, snapshot.record)
    )


def checksum_before(incarnation: str, head: int, body: bytes) -> str:
    """Return the checksum of the whole record in *body*."""
    crc = body[len(b'{"crc":"') : CRC_END - len(b'",')].decode(errors="replace")
    return sha256(f"{incarnation}:{head}:{crc}".encode()).hexdigest()[:24]
