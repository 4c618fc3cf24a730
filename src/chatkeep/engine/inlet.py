"""What channels hand in: messages that came through them, and what their platforms say of replies that were sent."""

from __future__ import annotations

from typing import Any, Literal

from ..conversation.keys import LONGEST_ID, key_for, refuse_reserved
from ..conversation.outbox import is_of_another, number_of
from ..drivers.base import Key, mark_of
from ..model import Content, Receipt, Role
from ..storage.store import Store
from .intake import Intake


class Inlet:
    """Takes what came in through a channel into the log of its conversation, by *intake*."""

    def __init__(self, intake: Intake, store: Store) -> None:
        self._intake = intake
        self._store = store

    async def accept(
        self,
        channel: str,
        tenant: str,
        conversation: str,
        content: Content,
        *,
        id: str,
        role: Role,
        metadata: dict[str, Any],
    ) -> Receipt:
        """Record a message that came in through *channel*, as `Tenant.accept` does; what is answered goes out through it, from
        whichever process sends there. "": it came through one that only listens."""
        key = key_for(tenant, conversation)
        refuse_reserved(key, id)
        return await self._intake.accept(key, content, id=id, role=role, metadata=metadata, owner="", channel=channel)

    async def note_status(
        self,
        tenant: str,
        conversation: str,
        status: Literal["sent", "delivered", "read", "failed"],
        *,
        id: str = "",
        key: str = "",
        until: float | None = None,
        reason: str = "",
        at: float | None = None,
    ) -> None:
        """
        Record what a channel's platform says of a reply that was sent: the one it knows as *id* or, where no sending is known by
        that id, the one that was sent under *key*, or all *until* a time.

        The same again has no second effect, and what is told of a conversation that was erased has none at all.
        `Tenant.deliveries` shows it.
        """
        place, store = key_for(tenant, conversation), self._store
        there = store.cached(place) or await store.load(place)
        while there is not None and not is_of_another(key, there.row.incarnation):
            number = number_of(key, there.row.incarnation)
            told = {"id": id, "number": number, "until": until, "reason": reason, "at": at}
            metadata = {"kind": "status", "status": status} | {name: value for name, value in told.items() if value}
            which = id or (f"until:{until}" if number is None else f"{number}:{at}")
            name = f"status:{status}:{which}"[: LONGEST_ID - 1]
            if await self._intake.note(place, name, metadata, into=there):
                return
            there = await store.load(place)  # it was erased; the customer may have written again since

    async def note_unknown(self, tenant: str, conversation: str, id: str, *, reason: str, raw: Any) -> None:
        """Keep something that came in through a channel and cannot be answered: shown with the log, and not dropped.

        The same *id* again has no second effect.
        """
        metadata = {"kind": "unknown", "reason": reason[:500], "raw": raw}
        mark = mark_of(Key(tenant, id or "-"))
        await self._intake.note(key_for(tenant, conversation), f"unknown:{mark}", metadata)
