"""Handing out what the store has of one person, as an archive that people and programs read."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Mapping
from typing import IO, Any
from zipfile import ZIP_DEFLATED, ZipFile

import msgspec
from msgspec import Struct

from ..conversation.record import NONE
from ..conversation.snapshots import Snapshot
from ..drivers.base import Key
from ..engine.engine import Engine
from ..errors import Corrupt, Unsupported
from ..model import Message
from ..storage.paging import walk_log
from .claims import Claim, Claims

README = """This archive has what {store} knows of {user}, as of {when}.

conversations/  each conversation twice: as text to be read, and as JSON with everything
about.json      who this is: the names under which the conversations were found, and what could not be read

Times are UTC. What was redacted or erased is not here, and nothing of it is kept. What was sent to others, such as the
operator of a messaging platform or of a language model, is not here either; ask them.
"""

STEERING = dict.fromkeys((*range(9), *range(11, 32), *range(127, 160)))
"""Characters that would steer the terminal of whoever looks at a text."""

WHO = {"user": "You", "assistant": "Bot", "operator": "Staff", "event": "Event", "system": "Note"}


class HandedOut(Struct, kw_only=True):
    """What an archive has: the user's *names*, how many *conversations* and *messages*; *damaged*: what could not be read, and why."""

    user: str
    names: list[str]
    conversations: int = 0
    messages: int = 0
    damaged: dict[str, str] = {}


async def hand_out(engine: Engine[Any], tenant: str, user: str, target: IO[bytes]) -> HandedOut:
    """Write a ZIP archive with all conversations of a user, under each of the user's names, to *target*. Nothing is changed."""
    store, clock = engine.store, engine.shared.clock
    owners: Mapping[str, Claim | None] = await Claims(store, tenant, clock=clock).find_owners(user)
    said = HandedOut(user=user, names=list(owners))
    with ZipFile(target, "w", ZIP_DEFLATED) as archive:
        for name in said.names:
            async for row in store.walk("owner", tenant=tenant, owner=name):
                try:
                    snapshot = await store.load(row.key)
                    if snapshot is not None:
                        await _write(engine, archive, snapshot, said)
                except (Corrupt, Unsupported) as fault:
                    said.damaged[row.key.id] = str(fault)
        about = {
            "user": user,
            "tenant": tenant,
            "names": {
                name: None if claim is None else {"claimed_at": _when(claim.at) if claim.at else None}
                for name, claim in owners.items()
            },
            "conversations": said.conversations,
            "messages": said.messages,
            "damaged": said.damaged,
        }
        archive.writestr("about.json", msgspec.json.format(msgspec.json.encode(about)))
        of = f"the chats of {tenant!r}" if tenant else "these chats"
        archive.writestr("README.txt", README.format(store=of, user=user, when=_when(clock())))
    return said


async def _write(engine: Engine[Any], archive: ZipFile, snapshot: Snapshot, said: HandedOut) -> None:
    row, record = snapshot.row, snapshot.record
    said.conversations += 1
    name = f"conversations/{said.conversations:04} {re.sub(r'[^A-Za-z0-9_-]+', '_', record.title or row.key.id)[:60]}"
    text: list[str] = [f"{record.title or row.key.id}\n{'=' * 40}\n"]
    count = 0
    with archive.open(f"{name}.json", "w") as file:
        head = {
            "conversation": row.key.id,
            "owner": row.owner,
            "title": record.title,
            "changed": _when(row.updated_at),
            "state": None if record.state == NONE else record.state,
            "reminders": [{"name": one.name, "at": _when(one.at), "data": one.data} for one in record.reminders],
        }
        file.write(msgspec.json.encode(head)[:-1] + b',"messages":[')
        async for message in _messages(engine, row.key, row.incarnation, record.dropped, row.head):
            file.write((b",\n" if count else b"\n") + msgspec.json.encode(message))
            count += 1
            if message.role != "system":
                text.append(_told(message))
        file.write(b"\n]}\n")
    archive.writestr(f"{name}.txt", "\n".join(text) + "\n")
    said.messages += count


async def _messages(engine: Engine[Any], key: Key, incarnation: str, seen: int, head: int) -> AsyncIterator[Message]:
    async for page in walk_log(engine.store, key, incarnation, after=seen, before=head + 1):
        for message in page:
            yield message


def _told(message: Message) -> str:
    parts = [] if isinstance(message.content, str) else [part for part in message.content if "text" not in part]
    shown = "(redacted)" if message.redacted else message.text.translate(STEERING)
    more = "".join(f"\n    {msgspec.json.encode(part).decode()}" for part in parts)
    return f"[{_when(message.created_at)}] {WHO[message.role]}: {shown}{more}"


def _when(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(at))
