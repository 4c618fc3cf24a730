"""The history checker: compares what clients were told with what the store holds in the end, message by message.

Sums can hide a loss behind a double; this looks at each message. A test's bot must put the id of every message it handles
into its state, as `state["seen"]`, and answer each message with one reply.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import Struct

from ..model import ASKING, Message


class Told(Struct, frozen=True):
    """What a client knows of one delivery: sent (no answer yet), or acked, with the texts of the replies it was shown."""

    conversation: str
    id: str
    acked: bool
    replies: list[str] | None = None


class Held(Struct, frozen=True):
    """What the store holds of one conversation in the end."""

    messages: list[Message]
    state: dict[str, Any]
    unread: int


class Verdict(Struct, frozen=True):
    """faults: one line for each broken promise. acked, unacked: messages in the log that a client was, or was not, told of."""

    faults: list[str]
    acked: int
    unacked: int


def check(told: Iterable[Told], held: Mapping[str, Held]) -> Verdict:
    """Every broken promise, by name: lost, doubled, out of order, reply missing, and a few that should not be possible."""
    sent: dict[str, set[str]] = {}
    acked: dict[str, set[str]] = {}
    shown: dict[tuple[str, str], set[tuple[str, ...]]] = {}
    for one in told:
        sent.setdefault(one.conversation, set()).add(one.id)
        if one.acked:
            acked.setdefault(one.conversation, set()).add(one.id)
            if one.replies is not None:
                shown.setdefault((one.conversation, one.id), set()).add(tuple(one.replies))
    faults: list[str] = []
    unacked = 0
    for name in sent.keys() | held.keys():
        found = held.get(name) or Held([], {}, 0)
        asked = [message for message in found.messages if message.role in ASKING]
        log = Counter(message.id for message in asked)
        seen = found.state.get("seen", [])
        effects = Counter(seen)
        told_of = acked.get(name, set())
        unacked += len(log.keys() - told_of)
        faults += [f"LOST {name} {id}" for id in sorted(told_of - log.keys())]
        faults += [f"DOUBLED in the log {name} {id} x{n}" for id, n in log.items() if n > 1]
        faults += [f"DOUBLED effect {name} {id} x{n}" for id, n in effects.items() if n > 1]
        faults += [f"PHANTOM {name} {id}" for id in sorted(log.keys() - sent.get(name, set()))]
        faults += [f"UNHANDLED {name} {id}" for id in sorted(log.keys() - effects.keys())]
        faults += [f"FROM NOWHERE {name} {id}" for id in sorted(effects.keys() - log.keys())]
        if not faults and [message.id for message in asked] != seen:
            faults.append(f"OUT OF ORDER {name}")
        if [message.number for message in found.messages] != list(range(1, len(found.messages) + 1)):
            faults.append(f"GAP {name}")
        if found.unread:
            faults.append(f"UNREAD {name} {found.unread}")
        faults += replies_of(name, asked, found.messages, shown)
    return Verdict(faults, sum(map(len, acked.values())), unacked)


def replies_of(
    name: str, asked: list[Message], messages: list[Message], shown: Mapping[tuple[str, str], set[tuple[str, ...]]]
) -> list[str]:
    """What is wrong with the replies: missing, doubled, or other than a client was shown."""
    faults = []
    for message in asked:
        answers = [
            reply
            for reply in messages
            if reply.role == "assistant" and (reply.reply_from or 0) <= message.number <= (reply.reply_to or 0)
        ]
        if len(answers) != 1:
            faults.append(f"REPLY {'DOUBLED' if answers else 'MISSING'} {name} {message.id}")
        texts = tuple([answer.text for answer in answers])
        faults += [
            f"REPLY CHANGED {name} {message.id}: {seen}" for seen in shown.get((name, message.id), set()) - {texts}
        ]
    return faults
