"""Commands about what is switched for more than one conversation: where the bot is paused, the shared cache."""

from __future__ import annotations

import asyncio

import click

from ..app import core_of
from .conversations import where
from .opening import existing, opened
from .options import StoreCommand, json_option, store_argument, tenant_option
from .printing import plain, tell

PAGE = 200


@click.command(cls=StoreCommand)
@store_argument
@tenant_option
@json_option
def paused(store: str, tenant: str, as_json: bool) -> None:
    """Lists where the bot is paused: everywhere, in which tenants, in which conversations of one tenant.

    \b
    Example:
      chatkeep paused chat.db --tenant salon-7
    """
    keep = existing(store)

    async def work() -> None:
        scopes, core, after = await core_of(keep).find_paused(), core_of(keep), None
        ids: list[str] = []
        while True:
            found, after = await core.page_paused(tenant, after=after, limit=PAGE)
            ids += [key.id for key in found]
            if after is None:
                break
        tenants = [scope for scope in scopes if scope is not None]
        if as_json:
            tell({"everywhere": None in scopes, "tenants": tenants, "conversations": ids})
            return
        for said in [where(None, "", True)] * (None in scopes) + [where(None, name, False) for name in tenants]:
            click.echo(said)
        for id in ids:
            click.echo(f"conversation {plain(id, line=True)}")
        if not scopes and not ids:
            click.echo(f"Nothing is paused, neither a tenant nor a conversation of tenant {tenant!r}.")

    asyncio.run(opened(keep, work))


@click.command(cls=StoreCommand)
@store_argument
@click.argument("switch", type=click.Choice(["on", "off"]), required=False)
def cache(store: str, switch: str | None) -> None:
    """Switches the shared cache of all instances off, or on again; without a word says how it stands.

    Only speed changes. Instances on the store notice within `poll`.

    \b
    Example:
      chatkeep cache chat.db off
    """
    keep = existing(store)

    async def work() -> None:
        if switch is not None:
            await core_of(keep).switch_cache(switch == "on")
        said = "on" if await core_of(keep).cache_is_on() else "off"
        click.echo(f"The shared cache is {said}, for all instances that have one.")

    asyncio.run(opened(keep, work))
