"""Legal holds: `chatkeep hold`, `chatkeep unhold`, `chatkeep holds`."""

from __future__ import annotations

import asyncio
from typing import Any

import click

from ..app import Chatkeep, core_of
from ..errors import ChatkeepError, UsageError
from .opening import existing, note_act, opened
from .options import StoreCommand, json_option, store_argument, tenant_option
from .printing import listed, plain, when


def one_of(ctx: click.Context, param: click.Parameter, conversation: str | None) -> str | None:
    """Refuse a command that names neither a conversation nor an owner, or both."""
    if (conversation is None) == (ctx.params.get("owner") is None):
        raise click.MissingParameter("Name a conversation, or --owner.", ctx, param)
    return conversation


conversation_or_owner = click.argument("conversation", required=False, callback=one_of)
owner_option = click.option("--owner", is_eager=True, metavar="NAME", help="All that is this user's, now and later.")


@click.command(cls=StoreCommand)
@store_argument
@conversation_or_owner
@owner_option
@tenant_option
@click.option("--reason", required=True, metavar="TEXT", help="Why, such as the number of the case.")
def hold(store: str, conversation: str | None, owner: str | None, tenant: str, reason: str) -> None:
    """Put a conversation, or all that is an owner's, on legal hold.

    It is not erased, redacted, forgotten or cut by retention until it is lifted, by nobody and on no instance; whoever tries is
    refused. It is in the audit log.

    \b
    Examples:
      chatkeep hold chat.db ada --reason "case 4711"
      chatkeep hold chat.db --owner user-17 --tenant salon-7 --reason "case 4711"
    """

    async def work(keep: Chatkeep[Any]) -> None:
        for name in await names_of(keep, tenant, owner):
            made = await core_of(keep).holds(tenant).put(conversation=conversation or "", owner=name, reason=reason)
            await note_act(keep, tenant, "hold", conversation or f"owner {name}")
            click.echo(f"On hold is {plain(made.subject, line=True)}, since {when(made.at)}.")

    run(store, work)


@click.command(cls=StoreCommand)
@store_argument
@conversation_or_owner
@owner_option
@tenant_option
def unhold(store: str, conversation: str | None, owner: str | None, tenant: str) -> None:
    """Lift a legal hold; what is over by then ends within the hour.

    \b
    Example:
      chatkeep unhold chat.db ada
    """

    async def work(keep: Chatkeep[Any]) -> None:
        lifted = [
            await core_of(keep).holds(tenant).lift(conversation=conversation or "", owner=name)
            for name in await names_of(keep, tenant, owner)
        ]
        for held in lifted:
            if held is not None:
                await note_act(keep, tenant, "unhold", held.conversation or f"owner {held.owner}")
                click.echo(f"Lifted: {plain(held.subject, line=True)}.")
        if not any(lifted):
            raise ChatkeepError("There is no such hold; nothing was changed. `chatkeep holds` has those there are.")

    run(store, work)


@click.command(cls=StoreCommand)
@store_argument
@tenant_option
@json_option
def holds(store: str, tenant: str, as_json: bool) -> None:
    """List the legal holds of a tenant."""

    async def work(keep: Chatkeep[Any]) -> None:
        found = [held async for held in core_of(keep).holds(tenant).all()]
        listed(
            found,
            lambda held: click.echo(
                f"{when(held.at)}  {plain(held.subject, line=True)}  {plain(held.reason, line=True)}"
            ),
            as_json=as_json,
            nothing="Nothing is on hold.",
        )

    run(store, work)


async def names_of(keep: Chatkeep[Any], tenant: str, owner: str | None) -> list[str]:
    """Return the names under which an owner has conversations; an empty one where there is none to look for."""
    if owner is None:
        return [""]
    if not owner:
        raise UsageError("--owner is empty; nothing was changed.")
    return await core_of(keep).find_names(tenant, owner)


def run(store: str, work: Any) -> None:
    """Run *work* on a store that is there."""
    keep = existing(store)
    asyncio.run(opened(keep, lambda: work(keep)))
