"""Assigns conversations to the people who look after them."""

from __future__ import annotations

from typing import Generic

from msgspec import structs

from ..conversation.commits import commit_note, make_note
from ..conversation.snapshots import Commit, Snapshot
from ..drivers.base import Key
from ..model import State
from ..storage.tokens import fresh_token
from .shared import Shared


class Assignments(Generic[State]):
    """Who has which conversation of one engine's store."""

    def __init__(self, shared: Shared[State]) -> None:
        self._shared = shared

    async def assign(self, key: Key, to: str, *, by: str, was: str | None) -> str | None:
        """
        Assign the conversation to the account *to* ("": to nobody), if *was* has it (None: whoever has).

        Gives who has it then, which is another one where *was* has it no more; None where there is no such conversation.
        """
        shared = self._shared
        shared.refuse_closed(key)
        note = make_note("assigned", fresh_token())
        note = structs.replace(note, metadata=note.metadata | {"assignee": to, "author": by})

        def decide(there: Snapshot) -> Commit | None:
            held = there.record.assignee
            if held == to or was not in (None, held):
                return None
            record = structs.replace(there.record, assignee=to)
            return commit_note(there, record, note, shared.policy, at=shared.clock())

        after, _ = await shared.commit(await shared.store.reload(key), decide)
        return after.record.assignee if after.row.revision else None
