"""Erasing a user: all that the store has of one person, with a receipt of what it was."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from msgspec import Struct

from ..engine.engine import Engine
from ..errors import Corrupt, OnHold, OtherOwner, Unsupported
from ..storage.audit import Act, AuditLog
from ..storage.erasures import SPACE as ERASURES
from ..storage.records import CLAIMS, erase_owned, owner_of_user

log = logging.getLogger("chatkeep")


class ErasedUser(Struct, frozen=True, kw_only=True):
    """
    What was erased of a user: a receipt, without anything of what was said.

    names: those under which the user had conversations: the user's own, and those that were claimed for the user. conversations: their ids;
    entries: how many entries their logs had. tokens: how many devices were signed out. claims: how many claims were removed; notes: how
    many notes that a conversation was erased, those of this act among them. held: ids of
    conversations that are on legal hold and stay, and with them the claims. at: when it was done, in seconds since 1970.
    """

    tenant: str
    user: str
    names: list[str]
    conversations: list[str]
    entries: int
    tokens: int
    claims: int
    notes: int
    held: list[str]
    at: float


async def erase_user(engine: Engine[Any], tenant: str, user: str, names: Iterable[str], *, by: str) -> ErasedUser:
    """
    Erase all that is the user's under *names*, and note in the audit log who had it done.

    The claims go last: what was erased until a crash is gone, and the same again finds the rest.
    """
    store, clock = engine.store, engine.shared.clock
    names = list(names)

    tokens = sum([await erase_owned(store, "access", owner_of_user(tenant, name), at=clock()) for name in names])
    erased, held = await _erase_conversations(engine, tenant, names)
    notes = sum([await erase_owned(store, ERASURES + tenant, name, at=clock()) for name in names])
    claims = 0
    for name in names if not held else ():  # whose they are is found through the claims
        claims += await erase_owned(store, CLAIMS + tenant, name, at=clock())
    at = clock()
    await _note_act(engine, tenant, Act(act="user:erase", by=by or user, label=user, at=at))
    return ErasedUser(
        tenant=tenant,
        user=user,
        names=names,
        conversations=sorted({id for id, _ in erased}),
        entries=sum([entries for _, entries in erased]),
        tokens=tokens,
        claims=claims,
        notes=notes,
        held=sorted(held),
        at=at,
    )


async def _erase_conversations(
    engine: Engine[Any], tenant: str, names: list[str]
) -> tuple[list[tuple[str, int]], set[str]]:
    """Erase the conversations of *names*; answers the id of each that went, with how many entries it had, and the ids of those that are on
    legal hold."""
    erased, held = list[tuple[str, int]](), set[str]()
    for name in names:
        before = -1
        while before < len(erased):  # until nothing has come meanwhile
            before = len(erased)
            async for row in engine.store.walk("owner", tenant=tenant, owner=name):
                try:
                    await engine.erase(row.key, owners=names)
                    erased.append((row.key.id, row.head))
                except OnHold:
                    held.add(row.key.id)
                except OtherOwner:
                    continue  # erased meanwhile, and created by somebody else
    return erased, held


async def _note_act(engine: Engine[Any], tenant: str, made: Act) -> None:
    """Note in the audit log what was done; where that cannot be, in the log: all is gone, and the same again would find nothing."""
    try:
        await AuditLog(engine.store, clock=engine.shared.clock).write(tenant, [made])
    except (Corrupt, Unsupported) as fault:
        log.error("%s of %s by %s was not noted in the audit log: %s", made.act, made.label, made.by, fault)
