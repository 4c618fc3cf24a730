"""Which person looks after a conversation: the account that it is assigned to, "" for nobody's."""

from __future__ import annotations

from msgspec import structs

from .record import Record

NAME_MOST = 200
"""Characters of an assignee's name."""


def take_over(record: Record, by: str) -> Record:
    """Return the record with the bot paused, and the conversation assigned to *by*, if that is anybody.

    Where the bot was paused before, a person has it already: only one that is nobody's changes hands.
    """
    if by and not (record.paused and record.assignee):
        record = structs.replace(record, assignee=by)
    return structs.replace(record, paused=True)


def hand_back(record: Record) -> Record:
    """Return the record with the bot on again: no person has the conversation any more."""
    return structs.replace(record, paused=False, assignee="") if record.paused else record
