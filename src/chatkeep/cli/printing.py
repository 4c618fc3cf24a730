"""Prints what commands found, so that it cannot steer the reader's terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

import click
import msgspec

from ..conversation.outbox import Delivery
from ..model import Conversation, Message

T = TypeVar("T")

HIDDEN = {code: f"\\x{code:02x}" for code in (*range(9), *range(11, 32), *range(127, 160))}
HIDDEN |= {code: f"\\u{code:04x}" for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))}
"""Characters that would steer the reader's terminal, or turn its text around."""


def facts(found: Conversation[Any]) -> dict[str, Any]:
    """Where a conversation stands."""
    return {
        "conversation": found.id,
        "tenant": found.tenant,
        "owner": found.owner,
        "session": found.session,
        "log": found.head,
        "unread": found.unread,
        "dead": found.dead,
        "bot": "paused" if found.paused else "answers",
        "updated": when(found.updated_at),
        "due": when(found.due_at) if found.due_at is not None else None,
        "revision": found.revision,
    }


def full_name(tenant: str, conversation: str) -> str:
    """Return what a conversation is called where those of several tenants stand, so that it may be printed."""
    return plain(f"{tenant}/{conversation}" if tenant else conversation, line=True)


def tell(value: Any) -> None:
    """Print *value* as a line of JSON."""
    click.echo(msgspec.json.encode(value).decode())


def listed(found: Sequence[T], show: Callable[[T], None], *, as_json: bool, nothing: str) -> None:
    """Print each of *found*, as JSON or as *show* does; people are told when there is *nothing*."""
    for one in found:
        (tell if as_json else show)(one)
    if not found and not as_json:
        click.echo(nothing)


def columns(names: Sequence[str], rows: Sequence[Sequence[str]], *, nothing: str) -> None:
    """Print a table with the names of its columns above it; programs take --json."""
    if not rows:
        click.echo(nothing)
        return
    named = [names, *rows]
    widths = [max(map(len, column)) for column in zip(*named, strict=True)]
    numeric = [all(cell.isdigit() or cell == "?" for cell in column) for column in zip(*rows, strict=True)]
    for row in named:
        cells = [
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(row, widths, numeric, strict=True)
        ]
        click.echo("  ".join(cells).rstrip())


def sent(sending: Delivery) -> None:
    """Print how the sending of one reply stands."""
    doubt = "  perhaps shown twice" if sending.doubtful else ""
    reason = f"  [{plain(sending.reason, line=True)}]" if sending.reason else ""
    tries = f"  tried {sending.tries} times" if sending.tries else ""
    click.echo(f"{sending.number:>6}  {when(sending.at)}  {sending.status:<9}{doubt}{tries}{reason}")


def logged(message: Message) -> None:
    """Print a log entry with its number."""
    text = "[redacted]" if message.redacted else plain(message.text) or plain(str(message.metadata), line=True)
    reason = f"  [{plain(message.metadata['reason'], line=True)}]" if "reason" in message.metadata else ""
    text = text.replace("\n", "\n" + " " * 12)
    click.echo(f"{message.number:>6}  {when(message.created_at)}  {message.role:<9}  {text}{reason}")


def when(at: float) -> str:
    """Return a time as text, UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def plain(text: str, *, line: bool = False) -> str:
    """*text* with the characters made visible that would steer the terminal; as one *line* if so wanted."""
    text = text.translate(HIDDEN)
    return text.replace("\n", "\\n") if line else text


def said(message: Message) -> None:
    """Print a message as people see it."""
    if message.role != "system":
        who = {"user": "you", "assistant": "bot"}.get(message.role, message.role)
        click.echo(f"{who}: {plain(message.text).replace(chr(10), chr(10) + '     ')}")
        parts = [part for part in message.content if isinstance(part, dict)]
        if choices := [str(button.get("text", "")) for part in parts for button in part.get("buttons", ())]:
            click.echo("     " + " ".join(f"[{plain(choice, line=True)}]" for choice in choices))
