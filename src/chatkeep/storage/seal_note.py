"""The note that a store is sealed, in the store: whoever opens it without its keys is refused by name."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import msgspec
from msgspec import Struct

from ..conversation.keys import RESERVED
from ..drivers.base import Driver, Key, Read, Row
from ..errors import Corrupt, Misconfigured

SPACE = RESERVED + "keys"
"""The tenant of the rows with the keys of conversations, each under the mark of its conversation."""

NOTE = Key(SPACE, "note")


@runtime_checkable
class Sealing(Protocol):
    """A driver that has the keys of its store: it seals, beside what it holds, values that are kept elsewhere for a while."""

    async def seal_value(self, key: Key, plain: bytes) -> bytes:
        """Seal something of the conversation *key*."""

    async def open_value(self, key: Key, sealed: bytes) -> bytes | None:
        """Return what `seal_value` was given; None for anything else."""


class SealNote(Struct, frozen=True, kw_only=True):
    """*ring*: the mark of the key that has sealed *check*, a value that every ring with that key opens."""

    ring: str
    check: bytes


async def read_seal_note(driver: Driver) -> tuple[SealNote, Row] | None:
    """Return the note, and its row; None where the store was never sealed. Raises `Corrupt`."""
    found = await driver.read(Read(NOTE, tail=0))
    if found is None:
        return None
    try:
        return msgspec.json.decode(found[0].body, type=SealNote), found[0]
    except msgspec.MsgspecError as fault:
        raise Corrupt(
            f"{NOTE}: the note that the store is sealed cannot be read ({fault}). Nothing was changed."
        ) from fault


async def refuse_sealed(driver: Driver) -> None:
    """Raise `Misconfigured` where a store is sealed and *driver* has no keys."""
    if isinstance(driver, Sealing):
        return
    found = await read_seal_note(driver)
    if found is not None:
        raise Misconfigured(
            f"This store is sealed, by the key {found[0].ring}, and was opened without keys; nothing was done. Name them: "
            "seal_keys=[...], or CHATKEEP_SEAL_KEYS_FILE."
        )
