"""The history checker: compares what clients were told with what the store holds in the end, message by message.

Sums can hide a loss behind a double; this looks at each message. A test's bot must put the id of every message it handles
into its state, as `state["seen"]`, and answer each message with one reply. Any other bot that answers every message is
judged by the messages that its replies say they answer.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from msgspec import Struct

from ..app import Chatkeep
from ..errors import Unavailable
from ..model import ASKING, Message


class DeliveryReport(Struct, frozen=True):
    """What a client knows of one delivery, at the moment it learns it: sent (no answer yet), or acked, with the texts of
    the replies it was shown and whether it was told that the message was there before."""

    conversation: str
    id: str
    acked: bool
    replies: list[str] | None = None
    duplicate: bool = False


class StoredConversation(Struct, frozen=True):
    """What the store holds of one conversation in the end. noted: with chatkeep's own notes, without which numbers have gaps."""

    messages: list[Message]
    state: dict[str, Any]
    unread: int
    noted: bool = True


class Verdict(Struct, frozen=True):
    """faults: one line for each broken promise. acked: messages that a client was told are there. unacked: those in the
    log whose writing nobody was told of, so that only a redelivery, or this check, has found them. lost: acked ones that
    are gone, where that is no fault."""

    faults: list[str]
    acked: int
    unacked: int
    lost: int = 0


async def collect(keep: Chatkeep[Any], *, within: float = 20.0) -> dict[str, StoredConversation]:
    """Wait until the store answers and nothing is unread, for so many seconds, and take out every conversation.

    Nobody may write meanwhile.
    """
    deadline = time.monotonic() + within
    while True:
        late = time.monotonic() > deadline
        try:
            found = [one async for one in keep.conversations(by="key")]
            if late or not any([one.unread for one in found]):
                return {
                    one.id: StoredConversation(
                        [message async for message in keep.history(one.id)], one.state, one.unread
                    )
                    for one in found
                }
        except Unavailable:
            if late:
                raise
        await asyncio.sleep(0.05)


def check(
    told: Iterable[DeliveryReport],
    held: Mapping[str, StoredConversation],
    *,
    lossy: bool = False,
    any_bot: bool = False,
) -> Verdict:
    """Return every broken promise, by name: lost, doubled, out of order, reply missing, and a few that should not be possible.

    *told* is in the order of time. *lossy*: the store was rolled back behind what it had answered; what is lost then is
    counted, and everything that is still there must be one history all the same. *any_bot*: one that keeps no
    `state["seen"]`, and may answer a message with several replies.
    """
    by_name: dict[str, list[DeliveryReport]] = {}
    for one in told:
        by_name.setdefault(one.conversation, []).append(one)
    faults: list[str] = []
    acked = unacked = lost = 0
    for name in by_name.keys() | held.keys():
        heard, found = by_name.get(name, []), held.get(name) or StoredConversation([], {}, 0)
        numbers = {message.id: message.number for message in found.messages if message.role in ASKING}
        told_of = {one.id for one in heard if one.acked}
        gone = sorted(told_of - numbers.keys())
        acked += len(told_of)
        unacked += len(numbers.keys() - {one.id for one in heard if one.acked and not one.duplicate})
        if lossy:
            lost += len(gone)
        else:
            faults += [f"LOST {name} {id}" for id in gone]
            faults += overtaken(name, heard, numbers)
        faults += inconsistencies(name, [one.id for one in heard], found, any_bot=any_bot)
        asked = [message for message in found.messages if message.role in ASKING]
        faults += wrong_replies(name, asked, found.messages, [] if lossy else heard, any_bot=any_bot)
    return Verdict(faults, acked, unacked, lost)


def inconsistencies(name: str, sent: list[str], found: StoredConversation, *, any_bot: bool) -> list[str]:
    """Return what is wrong with a conversation by itself: its log, beside its state, and beside the ids that were *sent*."""
    asked = [message.id for message in found.messages if message.role in ASKING]
    log = Counter(asked)
    seen = list(log) if any_bot else found.state.get("seen", [])
    effects = Counter(seen)
    faults = [f"DOUBLED in the log {name} {id} x{n}" for id, n in log.items() if n > 1]
    faults += [f"DOUBLED effect {name} {id} x{n}" for id, n in effects.items() if n > 1]
    faults += [f"PHANTOM {name} {id}" for id in sorted(log.keys() - set(sent))]
    faults += [f"UNHANDLED {name} {id}" for id in sorted(log.keys() - effects.keys())]
    faults += [f"FROM NOWHERE {name} {id}" for id in sorted(effects.keys() - log.keys())]
    if (log == effects and asked != seen) or out_of_order(found.messages):
        faults.append(f"OUT OF ORDER {name}")
    numbers = [message.number for message in found.messages]
    if numbers != (list(range(1, len(numbers) + 1)) if found.noted else sorted(set(numbers))):
        faults.append(f"GAP {name}")
    if found.unread:
        faults.append(f"UNREAD {name} {found.unread}")
    return faults


def overtaken(name: str, heard: list[DeliveryReport], numbers: Mapping[str, int]) -> list[str]:
    """Return the messages that stand in the log before one that was acknowledged before they were first sent."""
    faults, latest = [], 0
    floor: dict[str, int] = {}
    for one in heard:
        number = numbers.get(one.id, 0)
        if one.acked:
            latest = max(latest, number)
        elif number <= floor.setdefault(one.id, latest) and number:
            faults.append(f"OVERTAKEN {name} {one.id}")
    return faults


def out_of_order(messages: Iterable[Message]) -> bool:
    """Tell whether a reply answers something that comes before what an earlier reply has answered."""
    spans = [(m.reply_from or m.reply_to, m.reply_to) for m in messages if m.role == "assistant" and m.reply_to]
    return any(after != before and after[0] <= before[1] for before, after in pairwise(spans))


def wrong_replies(
    name: str, asked: list[Message], messages: list[Message], heard: list[DeliveryReport], *, any_bot: bool = False
) -> list[str]:
    """Return what is wrong with the replies: missing, doubled, or other than a client was shown."""
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
        texts = tuple([answer.text for answer in found])
        # The replies of one turn are written in one act, side by side, and all answer the same.
        once = len({(a.reply_from, a.reply_to, a.number - place) for place, a in enumerate(found)}) == 1
        silent = not found and () in shown.get(message.id, ())
        if not (once or silent if any_bot else len(found) == 1):
            faults.append(f"REPLY {'DOUBLED' if found else 'MISSING'} {name} {message.id}")
        faults += [f"REPLY CHANGED {name} {message.id}: {seen}" for seen in shown.get(message.id, set()) - {texts}]
    return faults


def wrong_sendings(name: str, due: Sequence[tuple[int, Any]], sent: Sequence[Any]) -> tuple[list[str], dict[int, int]]:
    """
    Return what is wrong with what a platform was sent of the replies that were *due* (number and body, in their order): left
    out, out of order, not ours. And where in *sent* each reply begins.

    The reply sent last may come again: whoever is killed while sending cannot know that it went.
    """
    faults: list[str] = []
    begins: dict[int, int] = {}
    done = 0
    for place, body in enumerate(sent):
        ahead = next((later for later in range(done, len(due)) if due[later][1] == body), None)
        again = done and any(due[done - 1][0] == number and body == there for number, there in due[:done])
        if again and ahead != done:
            continue
        if ahead is None:
            faults.append(f"SENT FROM NOWHERE {name} {body}")
            continue
        faults += [f"NOT SENT {name} {number}" for number, _ in due[done:ahead]]
        begins.setdefault(due[ahead][0], place)
        done = ahead + 1
    return faults + [f"NOT SENT {name} {number}" for number, _ in due[done:]], begins
