"""Why a conversation is as it is: the turns that were made, the notes in its log, who has switched what, and what is done next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import Struct
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from ..app import core_of
from ..conversation.codec import record_from
from ..conversation.keys import key_for
from ..conversation.record import Record
from ..drivers.base import AT_ONCE, Row
from ..model import ASKING, Message
from ..storage.audit import Act
from ..storage.paging import outline
from . import wire
from .access import allows, conversation_asked, keep_of, tenant_of
from .audit import Trail

ENTRIES = 300
ACTS = 500
"""So many of the last entries of the log, and of the last acts in the tenant, are looked at."""

KNOWN = ("assignee", "author", "kind", "note", "reason", "status", "text")


class TurnMade(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A turn that is over: which messages it took, when the last of them came, and how long its first reply took from then."""

    first: int
    last: int
    replies: list[int]
    at: float
    took_s: float
    stopped: bool = False
    interrupted: bool = False


class NoteShown(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A note in the log. *about*: the message that it is about; *text*: of a person's note; *assignee*: who looks after the
    conversation from then on, "" for nobody; *metadata*: what else it holds."""

    number: int
    kind: str
    at: float
    about: int = 0
    author: str = ""
    assignee: str | None = None
    status: str = ""
    reason: str = ""
    text: str = ""
    metadata: dict[str, Any] = {}


class ReminderShown(Struct, frozen=True):
    """What comes to the conversation later."""

    at: float
    name: str


class Inside(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """
    What is known of a conversation beside its log, and what is done next.

    begun, raised, deaths: attempts at the first message that waits; retry_at: when the next one may start. steps: what its turn has done so
    far. lease_until: until when somebody works on it. next_at: when it is looked at next. sent_upto, send_tries, send_at, send_reason: how
    the sending of replies stands.
    """

    session: int
    cursor: int
    head: int
    revision: str
    begun: int = 0
    raised: int = 0
    deaths: int = 0
    alone: bool = False
    failed_at: float = 0.0
    retry_at: float = 0.0
    steps: list[str] = []
    reminders: list[ReminderShown] = []
    lease_until: float = 0.0
    next_at: float = 0.0
    sent_upto: int | None = None
    send_tries: int = 0
    send_at: float = 0.0
    send_reason: str = ""
    dropped: int = 0
    redactions: int = 0
    size: int = 0


class Story(Struct, frozen=True, kw_only=True):
    """Why a conversation is as it is; the newest turns, notes and acts first."""

    turns: list[TurnMade]
    notes: list[NoteShown]
    acts: list[Act]
    inside: Inside


class StoryAsked(wire.Resource):
    """/v1/conversations/{id}/story"""

    @allows(right="list", masks=True)
    async def get(self, request: Request) -> Response:
        """Return the last turns, the notes in the log, what people have done, and what is done next."""
        core, key = core_of(keep_of(request)), key_for(tenant_of(request).name, conversation_asked(request))
        row = await core.read_row(key)
        if row is None:
            raise HTTPException(404)
        entries = list[Message]()
        async for page in core.walk_back(row, limit=ENTRIES):
            entries[:0] = outline(page)
        trail: Trail = request.app.state.trail
        await trail.write()
        acts = [act for act in await core.audit.read(key.tenant, limit=ACTS) if act.conversation in (key.id, "")]
        switched = [act for act in acts if act.conversation or act.act.startswith(("pause", "resume"))]
        return wire.as_json(
            Story(
                turns=list_turns(entries)[::-1],
                notes=[note_shown(entry) for entry in reversed(entries) if entry.role == "system"],
                acts=switched,
                inside=inside_from(row, record_from(row.key, row.body)),
            )
        )


def list_turns(entries: Sequence[Message]) -> list[TurnMade]:
    """Return the turns whose replies are among *entries*, oldest first."""
    asked = {entry.number: entry for entry in entries if entry.role in ASKING}
    turns: dict[tuple[int, int], list[Message]] = {}
    for entry in entries:
        if entry.role == "assistant" and entry.reply_to:
            turns.setdefault((entry.reply_from or entry.reply_to, entry.reply_to), []).append(entry)
    found = []
    for (first, last), replies in turns.items():
        since = asked[last].created_at if last in asked else replies[0].created_at
        found.append(
            TurnMade(
                first=first,
                last=last,
                replies=[reply.number for reply in replies],
                at=since,
                took_s=max(replies[0].created_at - since, 0.0),
                stopped=any("stopped" in reply.metadata for reply in replies),
                interrupted=any("interrupted" in reply.metadata for reply in replies),
            )
        )
    return found


def note_shown(entry: Message) -> NoteShown:
    """Return *entry*, a note, as it is shown."""
    told = {name: value for name in KNOWN if isinstance(value := entry.metadata.get(name), str)}
    return NoteShown(
        number=entry.number,
        kind=told.get("kind", "note"),
        at=entry.created_at,
        about=entry.reply_to or 0,
        author=told.get("author", ""),
        assignee=told.get("assignee"),
        status=told.get("status", ""),
        reason=told.get("reason", ""),
        text=told.get("text", "") or entry.text[:1000],
        metadata={name: value for name, value in entry.metadata.items() if name not in KNOWN},
    )


def inside_from(row: Row, record: Record) -> Inside:
    """Return what is known of a conversation beside its log."""
    delivery = record.delivery
    return Inside(
        session=record.session,
        cursor=record.cursor,
        head=row.head,
        revision=row.revision,
        begun=record.begun,
        raised=record.raised,
        deaths=record.deaths,
        alone=record.alone,
        failed_at=record.failed_at,
        retry_at=record.retry_at,
        steps=list(record.steps),
        reminders=[ReminderShown(one.at, one.name) for one in record.reminders],
        lease_until=row.leased_until if row.lease else 0.0,
        next_at=0.0 if row.due_at is None else row.updated_at if row.due_at == AT_ONCE else row.due_at,
        sent_upto=None if delivery is None else delivery.upto,
        send_tries=0 if delivery is None else delivery.tries,
        send_at=0.0 if delivery is None else delivery.at,
        send_reason="" if delivery is None else delivery.reason,
        dropped=record.dropped,
        redactions=record.redactions,
        size=len(row.body),
    )


ROUTES: list[BaseRoute] = [wire.RawRoute("/v1/conversations/{id}/story", StoryAsked)]
