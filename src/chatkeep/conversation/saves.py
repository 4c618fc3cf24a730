"""Saves from outside: a title and messages that somebody has, put into the conversation that there is.

The log is never rewritten. What it has under an id stands, or else the first message of a save with that id; another text under the
same id is a conflict. A title is the last one that was given, by whom knew the one before. What gives way is written down as a note
of kind "conflict", from which it can be restored.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

import msgspec
from msgspec import Struct, structs

from ..drivers.base import Key
from ..errors import BadMessage
from ..model import Content, Message, Role
from .backoff import is_ahead
from .codec import entry_for
from .commits import CHANGES_KEPT, make_note, may_pass, next_commit
from .keys import RESERVED, SAVED, message_id, refuse_reserved
from .merge import Loss, plain
from .record import Record
from .snapshots import Commit, Draft, Policy, Snapshot
from .versions import find_version, is_checksum

CONFLICT = "conflict"
"""The kind of the note that keeps what gave way."""

TITLE, MESSAGE, SLOT = "title", "message", "state"
"""What a loss may be about."""

NOTE = f"{RESERVED}{CONFLICT}:"
TITLE_MOST = 1000
LOSS_ROOM = 1024


class SavedMessage(Struct, frozen=True, forbid_unknown_fields=True):
    """A message that is saved: it was said elsewhere, *created_at* then (None: now), and nobody answers it."""

    id: str
    content: Content
    role: Role = "user"
    created_at: float | None = None
    metadata: dict[str, Any] = {}


class Saved(Struct, frozen=True, kw_only=True):
    """
    What a save has left.

    added: ids of the messages that were not in the log before. conflicts: what gave way and is kept in the log as notes: "title", and ids
    under which the log has another text.
    """

    id: str
    version: int
    checksum: str
    title: str
    added: list[str]
    conflicts: list[str]


class Save(Struct, frozen=True, kw_only=True):
    """What is saved: None stands for what stays as it is.

    base: the title that was there when *title* was written; version, checksum: those of the conversation then. Without any of them
    *at* and *by*, the time and device of the change, decide. force: the title is put there whatever is there. seen: up to which
    number the owner has read. token: names the act.
    """

    title: str | None = None
    base: str | None = None
    drafts: Sequence[Draft] = ()
    version: int | None = None
    checksum: str | None = None
    force: bool = False
    at: float
    by: str = ""
    archived: bool | None = None
    pinned: bool | None = None
    seen: int | None = None
    token: str


def message_from(key: Key, given: SavedMessage | Mapping[str, Any]) -> SavedMessage:
    """Return *given* as a message to be saved; members that are None count as absent. Raises `BadMessage`."""
    try:
        if isinstance(given, SavedMessage):
            message = given
        elif not isinstance(given, Mapping):
            raise TypeError(f"one is a dict, and here is {type(given).__name__}")
        else:
            message = msgspec.convert({name: value for name, value in given.items() if value is not None}, SavedMessage)
    except (msgspec.ValidationError, TypeError) as fault:
        raise BadMessage(
            f"{key}: a message that is saved has id, content, role and created_at ({fault}); nothing was touched."
        ) from fault
    return message


def written_at(key: Key, at: float | None, *, now: float) -> float:
    """Return when something was written, as it is kept: not before 1970, and not in the time to come. None: now. Raises `BadMessage`."""
    if at is not None and (not isinstance(at, int | float) or isinstance(at, bool) or at != at):
        raise BadMessage(
            f"{key}: the time of a change or message is no number; nothing was touched. "
            "Give it in seconds since 1970, or leave it out for now."
        )
    return now if at is None else min(max(at, 0.0), now)


def drafts_from(key: Key, messages: Sequence[SavedMessage], *, at: float, limit: int) -> list[Draft]:
    """Return *messages* ready to be stored, in their order. Raises `BadMessage` or `TooLarge`."""
    drafts: list[Draft] = []
    for message in messages:
        id = message_id(key, message.id)
        refuse_reserved(key, id)
        if message.role not in ("user", "assistant", "operator"):
            raise BadMessage(
                f"{key}: a message of role {message.role!r:.40} cannot be saved; nothing was touched. "
                "A role is user, assistant or operator."
            )
        created_at = round(written_at(key, message.created_at, now=at) * 1000) / 1000
        told: dict[str, Any] = {"metadata": message.metadata, "channel": SAVED, "created_at": created_at}
        entry = entry_for(key, message.content, id=id, role=message.role, limit=limit, **told)
        drafts.append(Draft(role=message.role, content=message.content, id=id, entry=entry, **told))
    return drafts


KINDS: dict[str, tuple[type, str]] = {
    "base": (str, "text"),
    "version": (int, "a whole number"),
    "checksum": (str, "text"),
    "force": (bool, "True or False"),
    "archived": (bool, "True or False"),
    "pinned": (bool, "True or False"),
    "seen": (int, "a whole number"),
}
"""What a save is told beside title and messages. Much of it goes into the record, which nobody could read with anything else in it."""


def check_told(key: Key, told: Mapping[str, object]) -> None:
    """Raise `BadMessage` where something that a save is *told* is not of its kind."""
    for name, (kind, words) in KINDS.items():
        given = told.get(name)
        if given is not None and (not isinstance(given, kind) or (kind is int and isinstance(given, bool))):
            raise BadMessage(f"{key}: {name} is {words}, not {given!r:.40}; nothing was touched.")


def check_title(key: Key, title: str) -> str:
    """Return *title*, if every store can keep it. Raises `BadMessage`."""
    if not isinstance(title, str) or len(title) > TITLE_MOST:
        raise BadMessage(f"{key}: a title is text of at most {TITLE_MOST} characters; nothing was touched.")
    entry_for(key, title, id="", role="system", created_at=0.0, limit=1 << 20)
    return title


def ids_asked(asked: Save) -> list[str]:
    """Return the ids that have to be looked for in the log before `save_into`: of the messages, and of the notes of what may give way."""
    notes = [_note_id(asked, draft.id, draft.content) for draft in asked.drafts]
    return [draft.id for draft in asked.drafts] + notes + [_note_id(asked, "", asked.title or "")]


def save_into(
    there: Snapshot, asked: Save, known: Mapping[str, Message], policy: Policy, *, at: float
) -> tuple[Commit | None, list[str]]:
    """Return what is written of *asked*, and the conflicts: "title", and ids of messages that say something else in the log.

    *known*: what the log has under `ids_asked`. The act can be run again: it leaves its token, as `commit_change` does.
    """
    if asked.token in there.record.changes:
        return None, find_conflicts(asked, known)
    record, title_notes = _save_title(there, asked, at=at)
    firsts, message_notes = _save_messages(there.row.key, asked, known, at=at)
    conflicts = [TITLE] if title_notes and record is there.record else []
    conflicts += dict.fromkeys(id for id, _ in message_notes)
    notes = {note.id: note for note in (*title_notes, *(note for _, note in message_notes))}
    drafts = [draft for draft in (*firsts, *notes.values()) if draft.id not in known]
    marks = {"archived": asked.archived, "pinned": asked.pinned}
    marked: dict[str, Any] = {name: mark for name, mark in marks.items() if mark is not None}
    seen = record.seen if asked.seen is None else max(record.seen, min(asked.seen, there.row.head))
    record = structs.replace(record, seen=seen, **marked)
    if not drafts and record == there.record and there.row.revision:
        return None, conflicts
    if not there.row.revision and not drafts:
        drafts = [make_note("begun", asked.token)]
    changes = (*record.changes, asked.token)[-CHANGES_KEPT:]
    record = structs.replace(record, edits=record.edits + (not drafts), changes=changes)
    if record.titled != there.record.titled:
        version = find_version(there.row.head + len(drafts), record)
        record = structs.replace(record, titled=(*record.titled[:2], version))
    if may_pass(there):
        record = structs.replace(record, cursor=there.row.head + len(drafts))
    row = there.row
    act = next_commit(there, record, policy, at=at, lease=row.lease, until=row.leased_until, drafts=drafts)
    return act, conflicts


def _save_title(there: Snapshot, asked: Save, *, at: float) -> tuple[Record, list[Draft]]:
    """Return the record with the title that counts, and a note of one that gave way; the record as it is where *asked* is what did."""
    if asked.title is None or asked.title == there.record.title:
        return there.record, []
    record, lost = _choose_title(there, asked, at=at)
    if lost is None:
        return record, []
    id = _note_id(asked, "", asked.title) if record is there.record else f"{NOTE}{asked.token}"
    return record, [note_loss(there.row.key, TITLE, lost, at=at, id=id)]


def _save_messages(
    key: Key, asked: Save, known: Mapping[str, Message], *, at: float
) -> tuple[list[Draft], list[tuple[str, Draft]]]:
    """Return each message once, as *asked* says it first; and, with its id, a note of each that gives way to what says something else."""
    firsts: dict[str, Draft] = {}
    notes: list[tuple[str, Draft]] = []
    for draft in asked.drafts:
        first = firsts.setdefault(draft.id, draft)
        message = known.get(draft.id)
        if (message is not None and message.redacted) or _says(message or first, draft):
            continue
        lost = Loss((draft.id,), draft.content, draft.created_at, asked.by)
        note = note_loss(key, MESSAGE, lost, at=at, id=_note_id(asked, draft.id, draft.content))
        notes.append((draft.id, note))
    return [*firsts.values()], notes


def find_conflicts(asked: Save, known: Mapping[str, Message]) -> list[str]:
    """Return what of *asked*, which was saved before, gave way then: what the log has a note of."""
    notes = {TITLE: _note_id(asked, "", asked.title or "")}
    notes |= {draft.id: _note_id(asked, draft.id, draft.content) for draft in asked.drafts}
    return [about for about, note in notes.items() if note in known]


def token_from(id: str, number: int) -> str:
    """Name one of the acts of the save with this *id*: that before which it has made *number* others."""
    return urlsafe_b64encode(sha256(f"{id}\n{number}".encode()).digest()[:9]).decode()


def _choose_title(there: Snapshot, asked: Save, *, at: float) -> tuple[Record, Loss | None]:
    """Return the record with the title that stands, the same one if that is the title which is there, and what gave way."""
    record, title = there.record, asked.title or ""
    titled_at, by, version = record.titled
    ahead = is_ahead(titled_at, at=at)  # nobody knows when that was
    loss = None
    if asked.force or asked.base == record.title or not titled_at:
        wins = True
    elif asked.version is not None:
        wins = asked.version >= version
    elif asked.checksum is not None:
        wins = is_checksum(there, asked.checksum)
    else:
        wins = ahead or (asked.at, asked.by) >= (titled_at, by)
        loss = Loss((), record.title, titled_at, by) if asked.base is not None else None
    if not wins:
        return record, Loss((), title, asked.at, asked.by)
    since = asked.at if ahead else max(asked.at, titled_at)
    return structs.replace(record, title=title, titled=(since, asked.by, 0)), loss


def _says(message: Message | Draft, draft: Draft) -> bool:
    return message.role == draft.role and plain(message.content) == plain(draft.content)


def _note_id(asked: Save, id: str, content: Content) -> str:
    """Name the note of what was asked for and gave way: the same however often it is asked for."""
    return NOTE + sha256(plain([id, content, asked.by])).hexdigest()[:24]


def is_loss(message: Message) -> bool:
    """Tell whether *message* is a note of what gave way, and not a client's whose metadata look like one."""
    return message.role == "system" and message.metadata.get("kind") == CONFLICT


def note_losses(key: Key, losses: Sequence[Loss], *, at: float, token: str) -> list[Draft]:
    """Return the notes of what gave way in a whole state, under ids that *token* makes."""
    return [
        note_loss(
            key, SLOT, structs.replace(loss, path=loss.path[1:]), at=at, id=f"{NOTE}{token}.{n}", slot=loss.path[0]
        )
        for n, loss in enumerate(losses)
        if loss.path
    ]


def note_loss(key: Key, about: str, loss: Loss, *, at: float, id: str, slot: str = "") -> Draft:
    """Return the note of what gave way: the title, a message with the id in its path, or a place in a *slot* of the state."""
    lost = {"kind": CONFLICT, "about": about, "slot": slot, "path": list(loss.path), "at": loss.at, "by": loss.by}
    text = msgspec.json.encode(loss.value).decode()
    limit = 2 * len(plain([text, lost])) + LOSS_ROOM  # whatever was stored, or could have been, can be kept
    entry = entry_for(key, text, id=id, role="system", created_at=at, limit=limit, metadata=lost)
    return Draft(role="system", content=text, id=id, metadata=lost, created_at=at, entry=entry)
