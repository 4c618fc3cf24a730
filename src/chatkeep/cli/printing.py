"""Prints what commands found, so that it cannot steer the reader's terminal."""

from __future__ import annotations

import shutil
import sys
import time
import unicodedata
from bisect import bisect_left
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import accumulate
from typing import Any, NamedTuple, TypeVar

import click
import msgspec
from msgspec import UNSET

from ..conversation.edits import SlotEdit, edits_in
from ..conversation.keys import SAVED
from ..conversation.outbox import Delivery
from ..model import Conversation, DeadLetter, Message, Role, Words

T = TypeVar("T")

HIDDEN = {code: f"\\x{code:02x}" for code in (*range(9), *range(11, 32), *range(127, 160))}
HIDDEN |= {code: f"\\u{code:04x}" for code in (0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A))}
"""Characters that would steer the reader's terminal, end its line, or turn its text around."""

ESCAPED = {code: f"\\u{code:04x}" for code in HIDDEN if code > 31}
"""The same in JSON, where it is only another way to write them; those below 32 are written so anyhow."""

IN_UTC = "chatkeep.utc"
"""Where a command's context says that times are to be told in UTC."""

COLOURS: dict[Role, str] = {"user": "cyan", "assistant": "green", "operator": "magenta"}
NARROWEST = 12
"""A column that does not fit is cut down to so much, and no further."""

AGES = (("d", 86_400), ("h", 3600), ("min", 60))

EVERY_S = 2.0
"""Between two lines that say how far something is."""


class Cell(NamedTuple):
    """What stands in a table, and in which colour."""

    text: str
    colour: str | None = None


def facts(found: Conversation[Any]) -> dict[str, Any]:
    """Return where a conversation stands."""
    return {
        "conversation": found.id,
        "tenant": found.tenant,
        "owner": found.owner,
        "session": found.session,
        "log": found.head,
        "unread": found.unread,
        "dead": found.dead,
        "bot": "paused" if found.paused else "answers",
        "updated": stamp(found.updated_at),
        "due": stamp(found.due_at) if found.due_at is not None else None,
        "revision": found.revision,
    }


def full_name(tenant: str, conversation: str) -> str:
    """Return what a conversation is called where those of several tenants stand, so that it may be printed."""
    return plain(f"{tenant}/{conversation}" if tenant else conversation, line=True)


def tell(value: Any) -> None:
    """Print *value* as a line of JSON."""
    click.echo(msgspec.json.encode(value).decode().translate(ESCAPED))


def listed(found: Sequence[T], show: Callable[[T], None], *, as_json: bool, nothing: str) -> None:
    """Print each of *found*, as JSON or as *show* does; people are told when there is *nothing*."""
    for one in found:
        (tell if as_json else show)(one)
    if not found and not as_json:
        click.echo(nothing)


def columns(names: Sequence[str], rows: Sequence[Sequence[str | Cell]], *, nothing: str) -> None:
    """Print a table with the names of its columns above it; programs take --json. On a terminal what does not fit is cut: of the last
    column first, then of the first one."""
    if not rows:
        click.echo(nothing)
        return
    cells = [[Cell(name) for name in names]]
    cells += [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in rows]
    widths = [max(width(cell.text) for cell in column) for column in zip(*cells, strict=True)]
    if sys.stdout.isatty():
        over = sum(widths) + 2 * (len(widths) - 1) - shutil.get_terminal_size().columns
        for place in (len(widths) - 1, 0):
            cut = max(min(over, widths[place] - NARROWEST), 0)
            widths[place], over = widths[place] - cut, over - cut
    numeric = [
        all(cell.text.isdigit() or cell.text == "?" for cell in column) for column in zip(*cells[1:], strict=True)
    ]
    for row in cells:
        shown = []
        for cell, most, number in zip(row, widths, numeric, strict=True):
            text = padded(shortened(cell.text, most), most, right=number)
            shown.append(click.style(text, fg=cell.colour) if cell.colour else text)
        click.echo("  ".join(shown).rstrip())


def width(text: str) -> int:
    """Return how many places of a terminal a text takes."""
    return sum(
        0 if unicodedata.combining(one) else 2 if unicodedata.east_asian_width(one) in "WF" else 1 for one in text
    )


def shortened(text: str, most: int) -> str:
    """Return *text*, or so much of it as takes *most* places."""
    taken = list(accumulate(map(width, text)))
    if not taken or taken[-1] <= most:
        return text
    return text[: bisect_left(taken, most)] + "…"


def padded(text: str, most: int, *, right: bool) -> str:
    """Return *text* with spaces up to *most* places."""
    gap = " " * (most - width(text))
    return gap + text if right else text + gap


def preview(words: Words | None) -> str:
    """Return last words as one line, with whose they are."""
    return "" if words is None else f"{words.role}: {plain(' '.join(words.text.split()), line=True)}"


def sent(sending: Delivery) -> None:
    """Print how the sending of one reply stands."""
    doubt = "  perhaps shown twice" if sending.doubtful else ""
    reason = f"  [{plain(sending.reason, line=True)}]" if sending.reason else ""
    tries = f"  tried {sending.tries} times" if sending.tries else ""
    click.echo(f"{sending.number:>6}  {when(sending.at)}  {sending.status:<9}{doubt}{tries}{reason}")


def logged(message: Message) -> None:
    """Print a log entry with its number."""
    text = "[redacted]" if message.redacted else plain(message.text) or plain(told_of(message), line=True)
    ours = message.role == "system" or isinstance(message, DeadLetter)  # another's metadata are what a client says
    why = message.metadata.get("reason") if ours else None
    reason = f"  [{plain(str(why), line=True)}]" if why is not None else ""
    saved = "  [saved, not said here]" if message.channel == SAVED else ""
    text = text.replace("\n", "\n" + " " * 12)
    role = click.style(f"{message.role:<9}", fg=COLOURS.get(message.role), dim=message.role == "system")
    click.echo(f"{message.number:>6}  {click.style(when(message.created_at), dim=True)}  {role}  {text}{saved}{reason}")


def told_of(message: Message) -> str:
    """Return what a message without text says: of a person's change which slots, of anything else all it has."""
    changed = {name: shown_edit(edit) for name, edit in edits_in(message).items()}
    if not changed:
        return msgspec.json.encode(message.metadata).decode()
    what = f"undid {message.metadata['undoes']}" if "undoes" in message.metadata else "changed"
    return f"{message.metadata.get('by', '')} {what}: " + "; ".join(f"{name} {said}" for name, said in changed.items())


def shown_edit(edit: SlotEdit) -> str:
    """Return what became of a slot, cut to what fits a line."""
    was, now = (
        "(none)" if value is UNSET else shortened(msgspec.json.encode(value).decode(), 40)
        for value in (edit.was, edit.now)
    )
    return f"{was} -> {now}"


def when(at: float) -> str:
    """Return a time as people read it: by the clock of this machine, or in UTC with --utc."""
    context = click.get_current_context(silent=True)
    if context is not None and context.meta.get(IN_UTC):
        return stamp(at)
    return datetime.fromtimestamp(at).strftime("%Y-%m-%d %H:%M:%S")


def stamp(at: float) -> str:
    """Return a time as programs read it: in UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def age(at: float) -> str:
    """Return how long ago something was; a time, where that is more than a month or still to come."""
    passed = time.time() - at
    if not -60 <= passed < 31 * 86_400:
        return when(at)
    for unit, length in AGES:
        if passed >= length:
            return f"{int(passed / length)} {unit} ago"
    return "just now"


def plain(text: str, *, line: bool = False) -> str:
    """Return *text* with the characters made visible that would steer the terminal; as one *line* if so wanted."""
    text = text.translate(HIDDEN)
    return text.replace("\n", "\\n") if line else text


def amount(count: int, one: str, many: str = "") -> str:
    """Return how many there are, in words: 1 entry, 1,200 entries. *many*: of two or more, where that is not *one* with an s."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def in_all(count: int, done: str = "") -> str:
    """Return how many conversations and records there are of a store, and that they are *done*."""
    said = amount(count, "conversation or record", "conversations and records")
    return f"{said} {'is' if count == 1 else 'are'} {done}" if done else said


def progress(text: str) -> None:
    """Say how far it is, where a person looks on; "" takes it away."""
    if sys.stderr.isatty():
        click.echo(f"\r\x1b[K{text}", nl=False, err=True)


def now_and_then(tell: Callable[[T], str]) -> Callable[[T], None]:
    """Return what says how far it is, in the words of *tell*, once in EVERY_S and in a line of its own: also where nobody looks on."""
    said_at = time.monotonic()

    def told(done: T) -> None:
        nonlocal said_at
        if time.monotonic() > said_at + EVERY_S:
            said_at = time.monotonic()
            click.echo(tell(done), err=True)

    return told


def said(message: Message) -> None:
    """Print a message as people see it."""
    if message.role != "system":
        who = {"user": "you", "assistant": "bot"}.get(message.role, message.role)
        click.echo(f"{who}: {plain(message.text).replace(chr(10), chr(10) + '     ')}")
        parts = [part for part in message.content if isinstance(part, dict)]
        if choices := [str(button.get("text", "")) for part in parts for button in part.get("buttons", ())]:
            click.echo("     " + " ".join(f"[{plain(choice, line=True)}]" for choice in choices))
