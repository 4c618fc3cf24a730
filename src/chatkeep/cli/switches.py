"""Commands about a whole store: the shared cache, canaries, who did what."""

from __future__ import annotations

import asyncio
import re

import click

from ..app import core_of
from .opening import existing, note_act, opened
from .options import StoreCommand, json_option, limit_option, store_argument, tenant_option, utc_option
from .printing import plain, tell, when
from .reaching import look
from .target import Verbs


def refuse_lone_switch(ctx: click.Context, param: click.Parameter, switch: str | None) -> str | None:
    """Have a lone `on` or `off` be the switch: the store is then the one that the environment names."""
    if switch is None and ctx.params.get("store") in ("on", "off"):
        raise click.MissingParameter("Name the store before the switch.", ctx, param)
    return switch


@click.command(cls=StoreCommand)
@store_argument
@click.argument("switch", type=click.Choice(["on", "off"]), required=False, callback=refuse_lone_switch)
def cache(store: str, switch: str | None) -> None:
    """Switch the shared cache of all instances off, or on again; without a word say how it stands.

    Only speed changes. Instances on the store notice within `poll`.

    \b
    Example:
      chatkeep cache chat.db off
    """
    keep = existing(store)

    async def work() -> None:
        if switch is not None:
            await core_of(keep).switch_cache(switch == "on")
            await note_act(keep, "", f"cache:{switch}")
        said = "on" if await core_of(keep).cache_is_on() else "off"
        click.echo(f"The shared cache is {said}, for all instances that have one.")

    asyncio.run(opened(keep, work))


SHARES = {"off": 0.0, "done": None}
"""Shares that have a word."""


class Share(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # (older ones of click are not generic)
    """A share of the conversations: 10%, off, or done."""

    name = "share"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> float | str:
        """Return the share as a number, or the word for it."""
        if not isinstance(value, str) or value in SHARES:
            return value
        number = value.removesuffix("%")
        if number == value or not re.fullmatch(r"[0-9]{1,3}([.][0-9]+)?", number) or float(number) > 100:
            self.fail(f"{value!r} is no share; write 10%, off or done.", param, ctx)
        return float(number) / 100


def with_version(ctx: click.Context, param: click.Parameter, share: float | str | None) -> float | str | None:
    """Refuse a version without its share, or take what was read as a store for the version: the environment names the store then."""
    if share is None and ctx.params.get("version") is not None:
        raise click.MissingParameter("Name the version and its share: chatkeep canary chat.db 2026-11 10%.", ctx, param)
    return share


@click.command(cls=StoreCommand)
@store_argument
@click.argument("version", required=False)
@click.argument("share", type=Share(), required=False, callback=with_version)
@json_option
def canary(store: str, version: str | None, share: float | str | None, as_json: bool) -> None:
    """Have a version of the application take a share of the conversations; without one list the versions.

    SHARE is 10%, or off: the version is backed out, and takes nothing more; or done: it has no share of its own any more, and
    answers like the others. Instances on the store notice within `poll`.

    \b
    Example:
      chatkeep canary chat.db 2026-11 10%
    """
    keep = existing(store)

    async def work() -> None:
        if version is not None:
            await keep.set_canary(version, SHARES[share] if isinstance(share, str) else share)
            await note_act(keep, "", f"canary:{version}:{share}")
        found = await keep.versions()
        if as_json:
            tell(found)
            return
        for one in found:
            said = "never seen" if one.said_at is None else f"last seen {when(one.said_at)}"
            part = "" if one.share is None else f", {100 * one.share:.4g}% of the conversations"
            click.echo(f"version {plain(one.name, line=True)}: {said}{part}")
        if not found:
            click.echo("No version of the application has a name on this store.")

    asyncio.run(opened(keep, work))


@click.command(cls=StoreCommand)
@store_argument
@tenant_option
@limit_option
@utc_option
@json_option
def audit(store: str, tenant: str, limit: int, as_json: bool) -> None:
    """List who did what: keys over HTTP and people with commands, the newest first.

    Reading is not noted, and tokens' acts are in the server's log alone.

    \b
    Example:
      chatkeep audit chat.db --tenant salon-7
    """

    async def work(of: Verbs) -> None:
        acts = await of.audit(limit=limit)
        for act in acts:
            if as_json:
                tell(act)
                continue
            who = f"{act.by} ({act.label})" if act.label else act.by
            about = f"  {act.conversation}" if act.conversation else ""
            source = f"  from {act.address}" if act.address else ""
            click.echo(plain(f"{when(act.at)}  {act.act}{about}  by {who}{source}: {act.outcome}", line=True))
        if not acts and not as_json:
            click.echo(f"Nothing is noted of tenant {of.name!r}.")

    look(store, tenant, work)
