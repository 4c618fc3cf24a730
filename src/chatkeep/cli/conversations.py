"""Commands about conversations: look at them, take part in them, end them."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

import click
import msgspec

from ..drivers.base import RECENT_GRAIN_S
from ..errors import Corrupt, UsageError
from ..model import Conversation, DeadLetter
from ..settings import duration_fault, seconds
from ..tenant import Unread
from .options import (
    StoreCommand,
    conversation_argument,
    conversation_or,
    json_option,
    limit_option,
    store_argument,
    tenant_option,
    utc_option,
)
from .printing import Cell, age, columns, facts, full_name, listed, logged, plain, preview, tell, when
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
            columns(
                names, rows, nothing="There are no conversations." if show == "all" else "There are none like that."
            )

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
@click.argument("number", type=click.IntRange(1), metavar="NUMBER")
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
@click.argument("number", type=click.IntRange(1), metavar="NUMBER")
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


def one_or_more(ctx: click.Context, param: click.Parameter, conversation: str | None) -> str | None:
    """Want one conversation, or else the words for several: nobody silences them all by leaving out a name."""
    several = "--everywhere" if ctx.params.get("everywhere") else "--all" if ctx.params.get("whole") else ""
    if several and conversation is not None:
        raise click.BadParameter(f"{several} goes with no conversation; nothing was changed.", ctx, param)
    if not several and conversation is None:
        hint = "Name a conversation; or --all for the whole tenant, --everywhere for all tenants."
        raise click.MissingParameter(hint, ctx, param)
    return conversation


@click.command(cls=StoreCommand)
@store_argument
@click.argument("conversation", required=False, callback=one_or_more)
@tenant_option
@click.option("--all", "whole", is_flag=True, is_eager=True, help="In all conversations of the tenant.")
@click.option("--everywhere", is_eager=True, is_flag=True, help="In all tenants.")
@utc_option
@json_option
def dead(store: str, conversation: str | None, tenant: str, whole: bool, everywhere: bool, as_json: bool) -> None:
    """List the messages that were set aside, and why.

    Of one conversation, of --all of a tenant, or --everywhere. One is listed until `replay` was answered, or until `dismiss`.

    \b
    Examples:
      chatkeep dead chat.db ada
      chatkeep dead chat.db --all --tenant salon-7
    """

    def shown(letter: DeadLetter) -> None:
        if conversation is None:
            click.echo(full_name(letter.tenant, letter.conversation))
        logged(letter)

    async def work(target: Target, of: Verbs) -> None:
        every = target.dead_letters() if everywhere else of.dead_letters(conversation)
        found = [letter async for letter in every]
        listed(found, shown, as_json=as_json, nothing="Nothing was set aside.")

    in_scope(store, conversation, tenant, everywhere, work)


@click.command(cls=StoreCommand)
@store_argument
@conversation_argument
@click.argument("number", type=click.IntRange(1), metavar="NUMBER")
@tenant_option
def replay(store: str, conversation: str, number: int, tenant: str) -> None:
    """Hand in a message again that was set aside.

    `chatkeep dead` has the numbers.

    It becomes a new message at the end of the log, and whoever runs the bot on this store answers it.
    """

    async def work(of: Verbs) -> None:
        receipt = await of.replay(conversation, number)
        again = " was replayed before:" if receipt.duplicate else " is in the log again:"
        click.echo(f"Message {number}{again} number {receipt.number}, {receipt.status}.")

    look(store, tenant, work)


@click.command(cls=StoreCommand)
@store_argument
@conversation_argument
@click.argument("number", type=click.IntRange(1), metavar="NUMBER")
@tenant_option
def dismiss(store: str, conversation: str, number: int, tenant: str) -> None:
    """Take a message that was set aside off the list.

    Nobody has to do anything about it any more; it stays in the log. `chatkeep dead` has the numbers.
    """

    async def work(of: Verbs) -> None:
        await of.dismiss(conversation, number)
        click.echo(f"Message {number} is dismissed.")

    look(store, tenant, work)


@click.command(cls=StoreCommand)
@store_argument
@conversation_argument
@tenant_option
@utc_option
@json_option
def doubts(store: str, conversation: str, tenant: str, as_json: bool) -> None:
    """List the calls of which nobody knows whether they were done.

    They are those of tools that must not run twice (`@keep.once`), began and did not end. `settle` says how one has ended.
    """

    async def work(of: Verbs) -> None:
        found = await of.doubts(conversation)
        if as_json:
            for call in found:
                tell(call)
            return
        rows = [
            (
                call.name,
                plain(call.tool, line=True),
                str(call.number),
                when(call.began_at),
                plain(call.arguments, line=True),
            )
            for call in found
        ]
        columns(("call", "tool", "message", "began", "arguments"), rows, nothing="Nothing is in doubt.")

    look(store, tenant, work)


@click.command(cls=StoreCommand)
@store_argument
@conversation_argument
@click.argument("call", metavar="CALL")
@click.option("--done", "result", metavar="JSON", help="It was done, with this result; null where it has none.")
@click.option("--not-done", is_flag=True, help="It was not done, and may be made again.")
@tenant_option
def settle(store: str, conversation: str, call: str, result: str | None, not_done: bool, tenant: str) -> None:
    """Say how a call in doubt has ended.

    `chatkeep doubts` has the names. A message that was set aside because of it is answered after `chatkeep replay`.

    \b
    Examples:
      chatkeep settle chat.db ada 9b1c62a7e0d34f58.0 --done '"receipt 42"'
      chatkeep settle chat.db ada 9b1c62a7e0d34f58.0 --not-done
    """
    if (result is None) != not_done:
        raise click.UsageError("Say either --done JSON or --not-done; nothing was settled.")
    try:
        value = None if result is None else msgspec.json.decode(result)
    except msgspec.DecodeError as fault:
        raise click.UsageError(
            f"The result is not JSON ({fault}); nothing was settled. Text is quoted twice: '\"paid\"'."
        ) from None

    async def work(of: Verbs) -> None:
        await of.settle(conversation, call, done=not not_done, result=value)
        click.echo(f"Call {call} was {'not ' * not_done}done.")

    look(store, tenant, work)


def silent(found: Conversation[Any]) -> str:
    """Say that the bot is paused there and, unless it is the conversation itself, because what is."""
    wider = [reason for reason in found.off_by if reason != "conversation"]
    return f"paused ({', '.join(wider)})" if wider else "paused"


@click.command(cls=StoreCommand)
@store_argument
@click.argument("conversation", required=False, callback=one_or_more)
@tenant_option
@click.option("--all", "whole", is_flag=True, is_eager=True, help="For all conversations of the tenant.")
@click.option("--everywhere", is_eager=True, is_flag=True, help="For all tenants.")
def pause(store: str, conversation: str | None, tenant: str, whole: bool, everywhere: bool) -> None:
    """Silence the bot, so that a person can take over.

    For one conversation, for --all of a tenant, or --everywhere. Messages are kept meanwhile. A turn that runs just then says nothing.

    \b
    Examples:
      chatkeep pause chat.db ada
      chatkeep say chat.db ada "Kim here. How can I help?"
      chatkeep resume chat.db ada --skip
      chatkeep pause chat.db --all --tenant salon-7
    """

    async def work(target: Target, of: Verbs) -> None:
        await (target.pause() if everywhere else of.pause(conversation))
        click.echo(f"The bot is paused: {where(conversation, of.name, everywhere)}.")

    in_scope(store, conversation, tenant, everywhere, work)


@click.command(cls=StoreCommand)
@store_argument
@click.argument("conversation", required=False, callback=one_or_more)
@tenant_option
@click.option(
    "--all", "whole", is_flag=True, is_eager=True, help="Lifts `pause --all`; a conversation's own pause stays."
)
@click.option(
    "--everywhere",
    is_flag=True,
    is_eager=True,
    help="Lifts `pause --everywhere`; a tenant's or conversation's own pause stays.",
)
@click.option("--skip", is_flag=True, help="Pass over what came while it was paused, instead of answering it.")
def resume(store: str, conversation: str | None, tenant: str, whole: bool, everywhere: bool, skip: bool) -> None:
    """Let the bot answer again, what came meanwhile too.

    For one conversation, for --all of a tenant, or --everywhere, as it was paused.

    \b
    Examples:
      chatkeep resume chat.db ada
      chatkeep resume chat.db --all --tenant salon-7 --skip
    """
    unread: Unread = "skip" if skip else "answer"

    async def work(target: Target, of: Verbs) -> None:
        await (target.resume(unread=unread) if everywhere else of.resume(conversation, unread=unread))
        click.echo(f"The bot answers: {where(conversation, of.name, everywhere)}.")

    in_scope(store, conversation, tenant, everywhere, work)


@click.command(cls=StoreCommand)
@store_argument
@conversation_argument
@tenant_option
def stop(store: str, conversation: str, tenant: str) -> None:
    """End the reply that is being made, whichever process makes it.

    What was said of a streamed reply is kept as the reply. Where nothing was said yet, the message is passed over.

    \b
    Example:
      chatkeep stop chat.db ada
    """

    async def work(of: Verbs) -> None:
        found = await of.stop(conversation)
        if not found.stopped:
            click.echo("Nothing was stopped: no message waits for an answer.")
        elif found.reply is None:
            click.echo("Stopped: nothing was said yet, and the message is passed over.")
        else:
            click.echo(
                f"Stopped: {len(found.reply.text):,} characters were said, and are message {found.reply.number}."
            )

    look(store, tenant, work, conversation=conversation)


def where(conversation: str | None, tenant: str, everywhere: bool) -> str:
    """Where a bot is paused or resumed, in words."""
    return plain(conversation, line=True) if conversation else "everywhere" if everywhere else f"tenant {tenant!r}"


def in_scope(
    store: str,
    conversation: str | None,
    tenant: str,
    everywhere: bool,
    work: Callable[[Target, Verbs], Awaitable[None]],
) -> None:
    """Do *work* on what *store* names, when what it is to be done to is there."""
    if everywhere and tenant:
        raise UsageError("--everywhere goes with no tenant; nothing was changed.")

    async def there(target: Target) -> None:
        of = target.of(tenant)
        if conversation is not None:
            await found_in(of, conversation, target.where)
        await work(target, of)

    on_target(store, there)


@click.command(cls=StoreCommand)
@store_argument
@conversation_argument
@click.argument("text")
@tenant_option
@click.option("--author", default="", metavar="NAME", help="Who says it, as readers are to see it.")
def say(store: str, conversation: str, text: str, tenant: str, author: str) -> None:
    """Say something in a conversation as a person.

    Whoever serves the bot on this store sends it through the conversation's channel, also while the bot is off.
    """

    async def work(of: Verbs) -> None:
        receipt = await of.say(conversation, text, author=author)
        click.echo(f"Message {receipt.number} is in the log.")

    look(store, tenant, work, conversation=conversation)


async def _erase_user(of: Verbs, user: str, *, yes: bool, as_json: bool) -> None:
    named = plain(user, line=True)
    if not yes:
        there = len([found async for found in of.conversations(owner=user)])
        click.confirm(f"Erase {named} with {there} conversations for ever?", abort=True)
    receipt = await of.erase_user(user)
    if as_json:
        tell(receipt)
        return
    names = ", ".join(plain(name, line=True) for name in receipt.names)
    click.echo(f"{named} is erased, under the names {names}:")
    click.echo(
        f"{len(receipt.conversations)} conversations with {receipt.entries} log entries, {receipt.tokens} tokens,"
    )
    click.echo(f"{receipt.claims} claims, {receipt.notes} notes of erased conversations; {when(receipt.at)}")
    if receipt.held:
        click.echo(f"On hold, and still there: {', '.join(plain(id, line=True) for id in receipt.held)}")
