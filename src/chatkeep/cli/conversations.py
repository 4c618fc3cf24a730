"""Commands about conversations: list them, show them, and remove what is in them."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import click
import msgspec

from ..drivers.base import RECENT_GRAIN_S
from ..durations import duration_fault, seconds
from ..errors import Corrupt, UsageError
from ..model import Conversation
from .options import (
    StoreCommand,
    conversation_argument,
    conversation_or,
    json_option,
    limit_option,
    number_argument,
    store_argument,
    tenant_option,
    utc_option,
)
from .printing import Cell, age, amount, columns, facts, full_name, logged, plain, preview, tell, when
from .reaching import found_in, look, on_target
from .target import Listed, Target, Verbs

as_of_option = click.option(
    "--as-of", metavar="NUMBER|TIME", help="As it was at a number of the log, at a time, or so long ago (2h)."
)

SHOWN: dict[str, Callable[[Listed], bool]] = {
    "all": lambda one: True,
    "unread": lambda one: one.waits,
    "waiting": lambda one: one.waits and one.conversation.paused,
    "failing": lambda one: bool(one.conversation.dead or one.conversation.fault),
    "off": lambda one: one.conversation.paused,
}
"""What `list --show` lists, in the words of the operators' desk."""


@click.command("list", cls=StoreCommand)
@store_argument
@click.option("--tenant", metavar="NAME", help="Only this tenant's; without it, all.")
@click.option("--owner", metavar="NAME", help="Only what is this user's, in the tenant.")
@click.option(
    "--show",
    type=click.Choice(list(SHOWN)),
    default="all",
    show_default=True,
    help="unread: somebody has written, and neither the bot nor a person has answered since; waiting: the same, and the bot is off; "
    "failing: set aside, or unreadable; off: the bot is.",
)
@click.option("--since", metavar="DURATION", help="Only what has changed within this long, such as 2h.")
@limit_option
@utc_option
@json_option
def list_(
    store: str, tenant: str | None, owner: str | None, show: str, since: str | None, limit: int, as_json: bool
) -> None:
    """List conversations with their last words, last changed first.

    \b
    Examples:
      chatkeep list chatkeep-demo.db
      chatkeep list chat.db --show waiting --since 1d
      chatkeep list sqlite:////var/lib/bot/chat.db --tenant salon-7 --json
      chatkeep list https://chat.example
    """
    if since is not None and (fault := duration_fault(since, "--")):
        raise UsageError(f"--since: {fault}. Nothing was listed.")
    oldest = None if since is None else time.time() - seconds(since)

    async def work(target: Target) -> None:
        every = target.conversations(tenant) if owner is None else target.of(tenant or "").conversations(owner=owner)
        rows, count = [], 0
        async for one in every:
            found, last, _ = one
            if oldest is not None and found.updated_at < oldest:
                if owner is None and found.updated_at < oldest - RECENT_GRAIN_S:
                    break
                continue  # (within a step the order is none; and an owner with several names has a list for each)
            if not SHOWN[show](one):
                continue
            count += 1
            if as_json:
                tell(facts(found) | {"last": last, "fault": found.fault})
            else:
                counts = ("?", "?") if found.fault else (str(found.head), str(found.unread))
                rows.append(
                    (full_name(found.tenant, found.id), *counts, age(found.updated_at), remark(found), preview(last))
                )
            if count == limit:
                break
        if not as_json:
            names = ("conversation", "messages", "unread", "changed", "", "last words")
            any_at_all = show == "all" and tenant is owner is since is None
            columns(names, rows, nothing="There are no conversations." if any_at_all else "There are none like that.")

    on_target(store, work)


def remark(found: Conversation[Any]) -> Cell:
    """Return what is to be said of a conversation in a list."""
    if found.fault:
        return Cell(plain(found.fault, line=True), "red")
    if found.dead:
        return Cell(", ".join([f"{len(found.dead)} set aside"] + [silent(found)] * found.paused), "red")
    return Cell(silent(found), "yellow") if found.paused else Cell("")


@click.command(cls=StoreCommand)
@store_argument
@conversation_argument
@tenant_option
@utc_option
@json_option
@as_of_option
def show(store: str, conversation: str, tenant: str, as_json: bool, as_of: str | None) -> None:
    """Show one conversation: where it stands.

    Its session, its state, its last messages, and what was set aside.

    With --as-of the log as it was then, and of the state what is known of then: slots that people have changed since, and all of it
    where no turn came later. What was redacted since is not there.

    \b
    Examples:
      chatkeep show chatkeep-demo.db terminal
      chatkeep show chat.db ada --as-of 17
      chatkeep show https://chat.example ada --as-of 2h
    """

    async def work(target: Target) -> None:
        of = target.of(tenant)
        found = await found_in(of, conversation, target.where, messages=20)
        if as_of is not None:
            await _show_as_of(of, found, await number_as_of(of, found, as_of), as_json=as_json)
            return
        dead = [letter async for letter in of.dead_letters(conversation)]
        if as_json:
            tell(facts(found) | {"state": found.state, "messages": found.messages, "dead_letters": dead})
            return
        times = {"updated": f"{when(found.updated_at)} ({age(found.updated_at)})"}
        times["due"] = "nothing" if found.due_at is None else when(found.due_at)
        for name, value in (facts(found) | times).items():
            click.echo(f"{name + ':':<14}{plain(str(value), line=True)}")
        state = msgspec.json.format(msgspec.json.encode(found.state), indent=2).decode()
        click.echo(f"\nstate:\n{plain(state)}\n\nlast messages:")
        for message in found.messages:
            logged(message)
        if dead:
            click.echo("\nset aside (chatkeep replay hands one in again):")
            for message in dead:
                logged(message)

    on_target(store, work)


@click.command(cls=StoreCommand)
@store_argument
@conversation_argument
@tenant_option
@click.option("--after", type=click.IntRange(0), metavar="NUMBER", help="Only what is numbered above.")
@click.option("--before", type=click.IntRange(0, 2**62), metavar="NUMBER", help="Only what is numbered below.")
@click.option("--limit", type=click.IntRange(1), help="At most so many; with --before alone, the last ones.")
@utc_option
@json_option
@as_of_option
def history(
    store: str,
    conversation: str,
    tenant: str,
    after: int | None,
    before: int | None,
    limit: int | None,
    as_json: bool,
    as_of: str | None,
) -> None:
    """Print the log of a conversation, oldest first.

    With --as-of up to that number, or that time.

    \b
    Examples:
      chatkeep history chatkeep-demo.db terminal --after 20
      chatkeep history chatkeep-demo.db terminal --json > terminal.jsonl
    """

    async def work(target: Target) -> None:
        of = target.of(tenant)
        found, end = await found_in(of, conversation, target.where), before
        if as_of is not None:
            end = min(await number_as_of(of, found, as_of) + 1, 2**62 if before is None else before)
        async for message in of.history(conversation, after=after, before=end, limit=limit):
            if as_json:
                tell(message)
            else:
                logged(message)

    on_target(store, work)


async def number_as_of(of: Verbs, found: Conversation[Any], as_of: str) -> int:
    """Return the number of the last entry that there was *as_of* a number, a time, or so long ago. Raises `UsageError`."""
    if as_of.isascii() and as_of.isdecimal():
        return min(int(as_of), found.head)
    at = time_of(as_of)
    low, high = 0, found.head  # everything up to *low* was there by then, nothing above *high*
    while low < high:
        middle = (low + high + 1) // 2
        entry = [one async for one in of.history(found.id, after=middle - 1, limit=1)]
        if entry and entry[0].number > high:  # retention has left nothing in between
            break
        if not entry or entry[0].created_at > at:
            high = middle - 1
        else:
            low = entry[0].number
    return low


def time_of(text: str) -> float:
    """Return the time that *text* names: 2026-11-29 14:30, the same with Z for UTC, or so long ago, such as 2h. Raises `UsageError`."""
    if not duration_fault(text, "--"):
        return time.time() - seconds(text)
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise UsageError(
            f"--as-of is a number of the log, a time such as '2026-11-29 14:30', or so long ago, such as 2h, not {text!r:.40}."
        ) from None


async def _show_as_of(of: Verbs, found: Conversation[Any], number: int, *, as_json: bool) -> None:
    known = await of.as_of(found.id, number)
    messages = [entry async for entry in of.history(found.id, before=number + 1, limit=20)]
    if known is None:
        raise UsageError(f"{found.id} was erased meanwhile; nothing was read.")
    if as_json:
        told = {"conversation": found.id, "tenant": found.tenant, "log": number, "state": known.slots}
        tell(told | {"complete": known.complete, "why": known.why, "messages": messages})
        return
    click.echo(f"conversation: {plain(found.id, line=True)}")
    click.echo(f"as of:        {number} of {found.head}" + (f", {when(messages[-1].created_at)}" if messages else ""))
    state = msgspec.json.format(msgspec.json.encode(known.slots), indent=2).decode()
    if not number:
        click.echo("The log has nothing of that time.")
        return
    limits = "" if known.complete else f"Only these slots are known: {known.why}.\n"
    click.echo(f"\nstate:\n{limits}{plain(state)}\n\nlast messages:")
    for message in messages:
        logged(message)


@click.command(cls=StoreCommand)
@store_argument
@conversation_argument
@number_argument
@tenant_option
def undo(store: str, conversation: str, number: int, tenant: str) -> None:
    """Put back the slots of the state that a person has changed.

    `chatkeep history` shows such changes, with their numbers. One is undone only while the slots are what it has left; that it was undone
    is noted, and can be undone, too. What was cleared is gone: clearing keeps no copy.

    \b
    Example:
      chatkeep undo chat.db ada 17
    """

    async def work(of: Verbs) -> None:
        await of.undo(conversation, number)
        click.echo(f"The change of entry {number} is undone.")

    look(store, tenant, work, conversation=conversation)


@click.command(cls=StoreCommand)
@store_argument
@conversation_or("user")
@tenant_option
@click.option("--user", is_eager=True, metavar="NAME", help="All that is this user's, in place of one conversation.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def erase(store: str, conversation: str | None, tenant: str, user: str | None, yes: bool, as_json: bool) -> None:
    """Remove a conversation with its whole log, and the tokens for it. There is no way back.

    \b
    With --user all conversations of a user are removed, under each of the user's names, with
    the user's tokens and claims; a receipt of it is printed. Run again after a crash.

    \b
    Examples:
      chatkeep erase chat.db ada-1
      chatkeep erase chat.db --user ada --json > receipt.json
    """

    async def work(target: Target) -> None:
        of = target.of(tenant)
        if user is not None:
            await _erase_user(of, user, yes=yes, as_json=as_json)
            return
        assert conversation is not None
        try:
            what = f"{(await found_in(of, conversation, target.where)).head} log entries"
        except Corrupt:
            what = "log, which cannot be read,"
        if not yes:
            click.confirm(f"Erase {plain(conversation, line=True)} with its {what} for ever?", abort=True)
        await of.erase(conversation)
        click.echo(f"{plain(conversation, line=True)} is erased.")

    on_target(store, work)


@click.command(cls=StoreCommand)
@store_argument
@conversation_argument
@number_argument
@tenant_option
@click.option("--yes", is_flag=True, help="Do not ask.")
def redact(store: str, conversation: str, number: int, tenant: str, yes: bool) -> None:
    """Remove what one message says, such as a card number. There is no way back.

    Its number and id stay, so that it is still known when it comes again. `chatkeep history` has the numbers.

    \b
    Example:
      chatkeep redact chat.db ada 17
    """

    async def work(of: Verbs) -> None:
        if not yes:
            click.confirm(
                f"Remove what message {number} of {plain(conversation, line=True)} says, for ever?", abort=True
            )
        await of.redact(conversation, number)
        click.echo(f"Message {number} is redacted.")

    look(store, tenant, work, conversation=conversation)


@click.command(cls=StoreCommand)
@store_argument
@conversation_argument
@click.option("--slot", metavar="NAME", help="Only this slot of the state.")
@tenant_option
@click.option("--yes", is_flag=True, help="Do not ask.")
def clear(store: str, conversation: str, slot: str | None, tenant: str, yes: bool) -> None:
    """Clear the state of a conversation, or one slot of it; the log stays.

    The bot need not be able to read what is cleared. After all of it the next message begins a new session.

    \b
    Examples:
      chatkeep clear chat.db ada
      chatkeep clear chat.db ada --slot cart --yes
    """

    async def work(of: Verbs) -> None:
        what = f"slot {plain(slot, line=True)!r}" if slot else "the state"
        if not yes:
            click.confirm(f"Clear {what} of {plain(conversation, line=True)}?", abort=True)
        await of.clear(conversation, slot)
        click.echo(f"{what[0].upper()}{what[1:]} of {plain(conversation, line=True)} is cleared.")

    look(store, tenant, work, conversation=conversation)


def silent(found: Conversation[Any]) -> str:
    """Say that the bot is paused there and, unless it is the conversation itself, because what is."""
    wider = [reason for reason in found.off_by if reason != "conversation"]
    return f"paused ({', '.join(wider)})" if wider else "paused"


async def _erase_user(of: Verbs, user: str, *, yes: bool, as_json: bool) -> None:
    named = plain(user, line=True)
    if not yes:
        there = len([found async for found in of.conversations(owner=user)])
        click.confirm(f"Erase {named} with {amount(there, 'conversation')} for ever?", abort=True)
    receipt = await of.erase_user(user)
    if as_json:
        tell(receipt)
        return
    names = ", ".join(plain(name, line=True) for name in receipt.names)
    click.echo(f"{named} is erased, under the names {names}:")
    click.echo(
        f"{amount(len(receipt.conversations), 'conversation')} with {amount(receipt.entries, 'log entry', 'log entries')}, "
        f"{amount(receipt.tokens, 'token')},"
    )
    click.echo(
        f"{amount(receipt.claims, 'claim')}, {amount(receipt.notes, 'note')} of erased conversations; {when(receipt.at)}"
    )
    if receipt.held:
        click.echo(f"On hold, and still there: {', '.join(plain(id, line=True) for id in receipt.held)}")
