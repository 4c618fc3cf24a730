"""Commands about conversations: look at them, take part in them, end them."""

from __future__ import annotations

import asyncio
from typing import Any

import click
import msgspec

from ..app import Tenant
from ..errors import Corrupt, UsageError
from .opening import existing, found_in, look, opened
from .options import StoreCommand, conversation_argument, json_option, limit_option, store_argument, tenant_option
from .printing import columns, facts, listed, logged, plain, tell, when


@click.command("list", cls=StoreCommand)
@store_argument
@click.option("--tenant", metavar="NAME", help="Only this tenant's; without it, all.")
@limit_option
@json_option
def list_(store: str, tenant: str | None, limit: int, as_json: bool) -> None:
    """Lists conversations, last changed first.

    \b
    Examples:
      chatkeep list chatkeep-demo.db
      chatkeep list sqlite:////var/lib/bot/chat.db --tenant salon-7 --json
    """
    keep = existing(store)

    async def work() -> None:
        of = keep if tenant is None else keep.tenant(tenant)
        rows = []
        async for found in of.conversations(limit=limit):
            if as_json:
                tell(facts(found))
            else:
                name = f"{found.tenant}/{found.id}" if found.tenant else found.id
                notes = [f"{len(found.dead)} set aside"] * bool(found.dead) + ["bot is off"] * (not found.on)
                note = plain(found.fault, line=True) or ", ".join(notes)
                counts = ("?", "?") if found.fault else (str(found.head), str(found.unread))
                rows.append((plain(name, line=True), *counts, when(found.updated_at), note))
        if not as_json:
            columns(("conversation", "messages", "unread", "changed", ""), rows, nothing="There are no conversations.")

    asyncio.run(opened(keep, work))


@click.command(cls=StoreCommand)
@store_argument
@conversation_argument
@tenant_option
@json_option
def show(store: str, conversation: str, tenant: str, as_json: bool) -> None:
    """Shows one conversation: where it stands.

    Its session, its state, its last messages, and what was set aside.

    \b
    Example:
      chatkeep show chatkeep-demo.db terminal
    """

    async def work(of: Tenant[Any]) -> None:
        found = await found_in(of, conversation, store)
        dead = await of.dead_letters(conversation)
        if as_json:
            tell(facts(found) | {"state": found.state, "messages": found.messages, "dead_letters": dead})
            return
        for name, value in facts(found).items():
            click.echo(f"{name + ':':<14}{plain(str(value), line=True)}")
        state = msgspec.json.format(msgspec.json.encode(found.state), indent=2).decode()
        click.echo(f"\nstate:\n{plain(state)}\n\nlast messages:")
        for message in found.messages:
            logged(message)
        if dead:
            click.echo("\nset aside (chatkeep replay hands one in again):")
            for message in dead:
                logged(message)

    look(store, tenant, work)


@click.command(cls=StoreCommand)
@store_argument
@conversation_argument
@tenant_option
@click.option("--after", type=click.IntRange(0), metavar="NUMBER", help="Only what is numbered above.")
@click.option("--before", type=click.IntRange(0, 2**62), metavar="NUMBER", help="Only what is numbered below.")
@click.option("--limit", type=click.IntRange(1), help="At most so many; with --before alone, the last ones.")
@json_option
def history(
    store: str, conversation: str, tenant: str, after: int | None, before: int | None, limit: int | None, as_json: bool
) -> None:
    """Prints the log of a conversation, oldest first.

    \b
    Examples:
      chatkeep history chatkeep-demo.db terminal --after 20
      chatkeep history chatkeep-demo.db terminal --json > terminal.jsonl
    """

    async def work(of: Tenant[Any]) -> None:
        await found_in(of, conversation, store)
        async for message in of.history(conversation, after=after, before=before, limit=limit):
            if as_json:
                tell(message)
            else:
                logged(message)

    look(store, tenant, work)


@click.command(cls=StoreCommand)
@store_argument
@conversation_argument
@tenant_option
@click.option("--yes", is_flag=True, help="Do not ask.")
def erase(store: str, conversation: str, tenant: str, yes: bool) -> None:
    """Removes a conversation with its whole log, and the tokens for it. There is no way back."""
    from ..auth import credentials as grants

    async def work(of: Tenant[Any]) -> None:
        try:
            what = f"{(await found_in(of, conversation, store)).head} log entries"
        except Corrupt:
            what = "log, which cannot be read,"
        if not yes:
            click.confirm(f"Erase {plain(conversation, line=True)} with its {what} for ever?", abort=True)
        await of.erase(conversation)
        await grants.forget(keep, tenant, conversation)
        click.echo(f"{plain(conversation, line=True)} is erased.")

    keep = existing(store)
    asyncio.run(opened(keep, lambda: work(keep.tenant(tenant))))


@click.command(cls=StoreCommand)
@store_argument
@conversation_argument
@click.option("--slot", metavar="NAME", help="Only this slot of the state.")
@tenant_option
@click.option("--yes", is_flag=True, help="Do not ask.")
def forget(store: str, conversation: str, slot: str | None, tenant: str, yes: bool) -> None:
    """Clears the state of a conversation, or one slot of it; the log stays.

    The bot need not be able to read what is cleared. After all of it the next message begins a new session.

    \b
    Examples:
      chatkeep forget chat.db ada
      chatkeep forget chat.db ada --slot cart --yes
    """

    async def work(of: Tenant[Any]) -> None:
        await found_in(of, conversation, store)
        what = f"slot {plain(slot, line=True)!r}" if slot else "the state"
        if not yes:
            click.confirm(f"Clear {what} of {plain(conversation, line=True)}?", abort=True)
        await of.forget(conversation, slot)
        click.echo(f"{what[0].upper()}{what[1:]} of {plain(conversation, line=True)} is cleared.")

    look(store, tenant, work)


@click.command(cls=StoreCommand)
@store_argument
@conversation_argument
@tenant_option
@json_option
def dead(store: str, conversation: str, tenant: str, as_json: bool) -> None:
    """Lists the messages that were set aside, and why."""

    async def work(of: Tenant[Any]) -> None:
        await found_in(of, conversation, store)
        letters = await of.dead_letters(conversation)
        listed(letters, logged, as_json=as_json, nothing="Nothing was set aside.")

    look(store, tenant, work)


@click.command(cls=StoreCommand)
@store_argument
@conversation_argument
@click.argument("number", type=click.IntRange(1), metavar="NUMBER")
@tenant_option
def replay(store: str, conversation: str, number: int, tenant: str) -> None:
    """Hands in a message again that was set aside.

    `chatkeep dead` has the numbers.

    It becomes a new message at the end of the log, and whoever runs the bot on this store answers it.
    """

    async def work(of: Tenant[Any]) -> None:
        receipt = await of.replay(conversation, number)
        again = " was replayed before:" if receipt.duplicate else " is in the log again:"
        click.echo(f"Message {number}{again} number {receipt.number}, {receipt.status}.")

    look(store, tenant, work)


@click.command(cls=StoreCommand)
@store_argument
@click.argument("to", type=click.Choice(["on", "off"]))
@click.argument("conversation", required=False)
@tenant_option
@click.option("--everywhere", is_flag=True, help="For all tenants.")
@click.option("--skip", is_flag=True, help="When it goes on: pass over what is unread, instead of answering it.")
def switch(store: str, to: str, conversation: str | None, tenant: str, everywhere: bool, skip: bool) -> None:
    """Switches the bot off, so that a person can take over, or on again.

    For one conversation, for a tenant, or --everywhere. Messages are kept meanwhile. A turn that runs just then says nothing.

    \b
    Examples:
      chatkeep switch chat.db off ada
      chatkeep say chat.db ada "Kim here. How can I help?"
      chatkeep switch chat.db on ada --skip
    """
    if everywhere and (conversation or tenant):
        raise UsageError("--everywhere goes with no conversation and no tenant; nothing was switched.")
    keep = existing(store)
    of = keep if everywhere else keep.tenant(tenant)

    async def work() -> None:
        if conversation is not None:
            await found_in(of, conversation, store)
        await of.switch(to == "on", conversation, unread="skip" if skip else "answer")
        where = plain(conversation, line=True) if conversation else "everywhere" if everywhere else f"tenant {tenant!r}"
        click.echo(f"The bot is {to}: {where}.")

    asyncio.run(opened(keep, work))


@click.command(cls=StoreCommand)
@store_argument
@conversation_argument
@click.argument("text")
@tenant_option
def say(store: str, conversation: str, text: str, tenant: str) -> None:
    """Says something in a conversation as a person.

    Whoever serves the bot on this store sends it through the conversation's channel, also while the bot is off.
    """

    async def work(of: Tenant[Any]) -> None:
        await found_in(of, conversation, store)
        receipt = await of.accept(conversation, text, role="operator")
        click.echo(f"Message {receipt.number} is in the log.")

    look(store, tenant, work)
