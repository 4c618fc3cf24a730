"""The history checker: compares what clients were told with what the store holds in the end, message by message.

Sums can hide a loss behind a double; this looks at each message. A test's bot must put the id of every message it handles
into its state, as `state["seen"]`, and answer each message with one reply.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import Struct

from ..errors import Unavailable
from ..keep import Chatkeep
from ..model import ASKING, Message


class Told(Struct, frozen=True):
    """What a client knows of one delivery, at the moment it learns it: sent (no answer yet), or acked, with the texts of
    the replies it was shown and whether it was told that the message was there before."""

    conversation: str
    id: str
    acked: bool
    replies: list[str] | None = None
    duplicate: bool = False


class Held(Struct, frozen=True):
    """What the store holds of one conversation in the end."""

    messages: list[Message]
    state: dict[str, Any]
    unread: int


class Verdict(Struct, frozen=True):
    """faults: one line for each broken promise. acked: messages that a client was told are there. unacked: those in the
    log whose writing nobody was told of, so that only a redelivery, or this check, has found them. lost: acked ones that
    are gone, where that is no fault."""

    faults: list[str]
    acked: int
    unacked: int
    lost: int = 0


async def collect(keep: Chatkeep[Any], *, within: float = 20.0) -> dict[str, Held]:
    """Waits until the store answers and nothing is unread, for so many seconds, and takes out every conversation.

    Nobody may write meanwhile.
    """
    deadline = time.monotonic() + within
    while True:
        late = time.monotonic() > deadline
        try:
            found = [one async for one in keep.conversations(by="key")]
            if late or not any([one.unread for one in found]):
                return {
                    one.id: Held([message async for message in keep.history(one.id)], one.state, one.unread)
                    for one in found
                }
        except Unavailable:
            if late:
                raise
        await asyncio.sleep(0.05)


def check(told: Iterable[Told], held: Mapping[str, Held], *, lossy: bool = False) -> Verdict:
    """Every broken promise, by name: lost, doubled, out of order, reply missing, and a few that should not be possible.

    *told* is in the order of time. *lossy*: the store was set back behind what it had answered; what is lost then is
    counted, and everything that is still there must be one history all the same.
    """
    by_name: dict[str, list[Told]] = {}
    for one in told:
        by_name.setdefault(one.conversation, []).append(one)
    faults: list[str] = []
    acked = unacked = lost = 0
    for name in by_name.keys() | held.keys():
        heard, found = by_name.get(name, []), held.get(name) or Held([], {}, 0)
        asked = [message for message in found.messages if message.role in ASKING]
        log = Counter(message.id for message in asked)
        seen = found.state.get("seen", [])
        effects = Counter(seen)
        told_of = {one.id for one in heard if one.acked}
        gone = sorted(told_of - log.keys())
        acked += len(told_of)
        unacked += len(log.keys() - {one.id for one in heard if one.acked and not one.duplicate})
        if lossy:
            lost += len(gone)
        else:
            faults += [f"LOST {name} {id}" for id in gone]
            faults += overtaken(name, heard, {message.id: message.number for message in asked})
        faults += [f"DOUBLED in the log {name} {id} x{n}" for id, n in log.items() if n > 1]
        faults += [f"DOUBLED effect {name} {id} x{n}" for id, n in effects.items() if n > 1]
        faults += [f"PHANTOM {name} {id}" for id in sorted(log.keys() - {one.id for one in heard})]
        faults += [f"UNHANDLED {name} {id}" for id in sorted(log.keys() - effects.keys())]
        faults += [f"FROM NOWHERE {name} {id}" for id in sorted(effects.keys() - log.keys())]
        if log == effects and [message.id for message in asked] != seen:
            faults.append(f"OUT OF ORDER {name}")
        if [message.number for message in found.messages] != list(range(1, len(found.messages) + 1)):
            faults.append(f"GAP {name}")
        if found.unread:
            faults.append(f"UNREAD {name} {found.unread}")
        faults += wrong_replies(name, asked, found.messages, [] if lossy else heard)
    return Verdict(faults, acked, unacked, lost)


def overtaken(name: str, heard: list[Told], numbers: Mapping[str, int]) -> list[str]:
    """Messages that stand in the log before one that was acknowledged before they were first sent."""
    faults, latest = [], 0
    floor: dict[str, int] = {}
    for one in heard:
        number = numbers.get(one.id, 0)
        if one.acked:
            latest = max(latest, number)
        elif number <= floor.setdefault(one.id, latest) and number:
            faults.append(f"OVERTAKEN {name} {one.id}")
    return faults


def wrong_replies(name: str, asked: list[Message], messages: list[Message], heard: list[Told]) -> list[str]:
    """What is wrong with the replies: missing, doubled, or other than a client was shown."""
    faults = []
    shown: dict[str, set[tuple[str, ...]]] = {}
    for one in heard:
        if one.replies is not None:
            shown.setdefault(one.id, set()).add(tuple(one.replies))
    answers: dict[int, list[Message]] = {}
    for reply in messages:
        if reply.role == "assistant":
            for number in range(reply.reply_from or 0, (reply.reply_to or 0) + 1):
                answers.setdefault(number, []).append(reply)
    for message in asked:
        found = answers.get(message.number, [])
        if len(found) != 1:
            faults.append(f"REPLY {'DOUBLED' if found else 'MISSING'} {name} {message.id}")
        texts = tuple([answer.text for answer in found])
        faults += [f"REPLY CHANGED {name} {message.id}: {seen}" for seen in shown.get(message.id, set()) - {texts}]
    return faults
