"""Where a store was moved to, and whether one is still being filled: told by its epoch, so that opening it costs nothing more.

A move names its two stores after the epoch that the old one had: the new one is FILLING + epoch until it is complete, and the old
one is MOVED + epoch from then on. A note in the store says what belongs to that: the address, or the epoch.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable

import msgspec
from msgspec import Struct

from ..conversation.keys import RESERVED
from ..drivers.base import Driver, Finding, Key, Read, Row, Write, behind_erasure
from ..errors import Conflict, Corrupt, Moved, Replaced, StoreError, Unavailable

MOVED = "moved:"
FILLING = "filling:"

NOTE = Key(RESERVED + "chatkeep", "move")
"""The note of a move, in each of its two stores; it is the only row that a move leaves out."""


class Note(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What a store says of the move that it is part of. *of*: the epoch that the old store had. *to*: where the conversations are now."""

    of: str
    to: str = ""
    at: float = 0.0


def origin_of(epoch: str) -> str:
    """Return the epoch that the old store of a move had, whatever the move has made of it."""
    return epoch.removeprefix(MOVED).removeprefix(FILLING)


async def read_note(driver: Driver) -> Note | None:
    """Return what the store says of a move. Raises `Corrupt`."""
    found = await driver.read(Read(NOTE, tail=0))
    if found is None:
        return None
    try:
        return msgspec.json.decode(found[0].body, type=Note)
    except msgspec.MsgspecError as fault:
        raise Corrupt(f"{NOTE}: the note of a move cannot be read ({fault}). Nothing was changed.") from fault


async def write_note(driver: Driver, note: Note, *, at: float) -> None:
    """Put *note* into the store, in place of the one that is there."""
    while True:
        found = await driver.read(Read(NOTE, tail=0))
        revision, body = secrets.token_hex(9), msgspec.json.encode(note)
        incarnation = revision if found is None else found[0].incarnation
        row = Row(key=NOTE, revision=revision, incarnation=incarnation, body=body, updated_at=at)
        try:
            await driver.write(Write(row, replaces=None if found is None else found[0].revision))
            return
        except Conflict as there:
            at = behind_erasure(at, there.erased_at)


async def refuse_elsewhere(driver: Driver) -> None:
    """Raise `Moved` where what the store held is elsewhere by now, `Unavailable` where it is not complete yet."""
    if driver.epoch.startswith(FILLING):
        raise Unavailable(
            "The store is being filled by `chatkeep move`, which has not finished; nothing was opened. Run the same move with "
            "--finish, then start again."
        )
    if driver.epoch.startswith(MOVED):
        note = await read_note(driver)
        raise moved(note or Note(of=origin_of(driver.epoch)))


def moved(note: Note) -> Moved:
    """Return what is told to whoever uses a store that was moved."""
    when = time.strftime(" on %Y-%m-%d %H:%M:%SZ", time.gmtime(note.at)) if note.at else ""
    return Moved(
        f"The store was moved to {note.to or 'another place'}{when}; nothing was done here. Give chatkeep the new address (in the "
        "code, as CHATKEEP_STORE or as STORE) and start it again."
    )


def judge_epoch(finding: Finding) -> Finding:
    """Return *finding*, of a store that was looked at and not opened, as a failing where its epoch says that bots are refused there."""
    if finding.subject != "epoch" or not finding.said.startswith((MOVED, FILLING)):
        return finding
    if finding.said.startswith(MOVED):
        return Finding(
            "fail", "moved", "its conversations are in another store; a bot that is started here is told in which"
        )
    return Finding(
        "fail", "moved", "`chatkeep move` still fills it. Run the same move with --finish before a bot is started here"
    )


async def explain(replaced: Replaced, another: Callable[[], Driver] | None) -> Replaced:
    """Return why acts are refused since the store has another epoch: `Moved` if that is why. *another* makes a driver of the same store."""
    if another is None:
        return replaced
    driver = another()
    try:
        await driver.open()
        await refuse_elsewhere(driver)
    except Moved as elsewhere:
        return elsewhere
    except StoreError:
        pass
    finally:
        await driver.close()
    return replaced
