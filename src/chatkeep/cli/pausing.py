"""Commands about who answers: pause the bot and let it answer again, end a reply, speak as a person."""

from __future__ import annotations

import click

from ..tenant import Unread
from .options import StoreCommand, conversation_argument, json_option, one_or_more, store_argument, tenant_option
from .printing import amount, plain, tell
from .reaching import in_scope, look
from .target import Target, Verbs


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
        there = where(conversation, of.name, everywhere)
        scopes = await of.paused_as_a_whole()
        if scopes is None:
            click.echo(f"The pause is lifted: {there}. Whether another one stands, this key may not know.")
        elif left := silenced(scopes, conversation, of.name, everywhere):
            click.echo(f"The pause is lifted: {there}. The bot stays silent where another one stands: {left}.")
        else:
            click.echo(f"The bot answers: {there}.")

    in_scope(store, conversation, tenant, everywhere, work)


def silenced(scopes: list[str | None], conversation: str | None, tenant: str, everywhere: bool) -> str:
    """Tell, in words, which of *scopes* keep the bot silent after a resumption; "" where none does."""
    left = [
        scope
        for scope in scopes
        if (scope is not None if everywhere else scope is None or (scope == tenant and conversation is not None))
    ]
    return ", ".join(where(None, scope or "", scope is None) for scope in left)


@click.command(cls=StoreCommand)
@store_argument
@tenant_option
@json_option
def paused(store: str, tenant: str, as_json: bool) -> None:
    """List where the bot is paused: everywhere, in which tenants, in which conversations of one tenant.

    \b
    Example:
      chatkeep paused chat.db --tenant salon-7
    """

    async def work(of: Verbs) -> None:
        scopes, ids = await of.paused()
        tenants = [scope for scope in scopes if scope is not None]
        if as_json:
            tell({"everywhere": None in scopes, "tenants": tenants, "conversations": ids})
            return
        for said in [where(None, "", True)] * (None in scopes) + [where(None, name, False) for name in tenants]:
            click.echo(said)
        for id in ids:
            click.echo(f"conversation {plain(id, line=True)}")
        if not scopes and not ids:
            click.echo(f"Nothing is paused, neither a tenant nor a conversation of tenant {of.name!r}.")

    look(store, tenant, work)


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
            count = len(found.reply.text)
            said = f"{amount(count, 'character')} {'was said, and is' if count == 1 else 'were said, and are'}"
            click.echo(f"Stopped: {said} message {found.reply.number}.")

    look(store, tenant, work, conversation=conversation)


def where(conversation: str | None, tenant: str, everywhere: bool) -> str:
    """Return where a bot is paused or resumed, in words."""
    return plain(conversation, line=True) if conversation else "everywhere" if everywhere else f"tenant {tenant!r}"


@click.command(cls=StoreCommand)
@store_argument
@conversation_argument
@click.argument("text")
@tenant_option
@click.option("--author", default="", metavar="NAME", help="Who says it, as readers are to see it.")
def say(store: str, conversation: str, text: str, tenant: str, author: str) -> None:
    """Say something in a conversation as a person.

    Whoever serves the bot on this store sends it through the conversation's channel, also while the bot is off.

    \b
    Example:
      chatkeep say chat.db ada "Kim here. How can I help?" --author Kim
    """

    if not text.strip():
        raise click.UsageError("TEXT is empty; nothing was said.")

    async def work(of: Verbs) -> None:
        receipt = await of.say(conversation, text, author=author)
        click.echo(f"Message {receipt.number} is in the log.")

    look(store, tenant, work, conversation=conversation)
