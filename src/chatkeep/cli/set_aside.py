"""Commands about what the bot could not answer: messages that were set aside, and calls of which nobody knows whether they were done."""

from __future__ import annotations

import click
import msgspec

from ..model import DeadLetter
from .options import (
    StoreCommand,
    conversation_argument,
    json_option,
    number_argument,
    one_or_more,
    store_argument,
    tenant_option,
    utc_option,
)
from .printing import columns, full_name, listed, logged, plain, tell, when
from .reaching import in_scope, look
from .target import Target, Verbs


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
@number_argument
@tenant_option
def replay(store: str, conversation: str, number: int, tenant: str) -> None:
    """Hand in a message again that was set aside.

    `chatkeep dead` has the numbers.

    It becomes a new message at the end of the log, and whoever runs the bot on this store answers it.

    \b
    Example:
      chatkeep replay chat.db ada 7
    """

    async def work(of: Verbs) -> None:
        receipt = await of.replay(conversation, number)
        again = " was replayed before:" if receipt.duplicate else " is in the log again:"
        click.echo(f"Message {number}{again} number {receipt.number}, {receipt.status}.")
        if receipt.duplicate and receipt.status == "failed":
            click.echo(
                f"Nothing was done now: number {receipt.number} has its place among what was set aside; replay that."
            )

    look(store, tenant, work)


@click.command(cls=StoreCommand)
@store_argument
@conversation_argument
@number_argument
@tenant_option
def dismiss(store: str, conversation: str, number: int, tenant: str) -> None:
    """Take a message that was set aside off the list.

    Nobody has to do anything about it any more; it stays in the log. `chatkeep dead` has the numbers.

    \b
    Example:
      chatkeep dismiss chat.db ada 7
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

    \b
    Example:
      chatkeep doubts chat.db ada
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
