"""Commands about service keys."""

from __future__ import annotations

import asyncio

import click

from ..durations import seconds
from ..errors import ChatkeepError, UsageError
from .opening import existing, note_act, opened
from .options import StoreCommand, json_option, store_argument
from .printing import plain, tell, when


@click.group()
def key() -> None:
    """Service keys: what backends show to use the HTTP API of a whole tenant. People have accounts (chatkeep accounts)."""


@key.command("create", cls=StoreCommand)
@store_argument
@click.option("--tenant", default="", metavar="NAME", help="Whose conversations; without it, the default one's.")
@click.option("--label", default="", metavar="TEXT", help="What it is for.")
@click.option("--expires", metavar="DURATION", help='When it ends by itself, such as "90d"; never, unless told.')
@click.option(
    "--everywhere", is_flag=True, help="Also for what concerns all tenants, such as pausing the bot everywhere."
)
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    metavar="SCOPE",
    help="It may do this and what else is named so; without any: everything in its tenant. read, send, state:read, state:write, "
    "share, erase, save, list, operate, switch, tokens, audit, hold, export.",
)
@json_option
def create_key(
    store: str,
    tenant: str,
    label: str,
    expires: str | None,
    everywhere: bool,
    scopes: tuple[str, ...],
    as_json: bool,
) -> None:
    """Make a service key, and show it this once.

    \b
    Examples:
      chatkeep key create chat.db --tenant salon --label ci --expires 90d
      chatkeep key create chat.db --label reports --scope list --scope read --expires 30d
    """
    from ..auth import credentials, rights

    try:
        expires_in = None if expires is None else seconds(expires)
    except ValueError as fault:
        raise UsageError(f"{fault}. No key was made.") from None
    named = rights.checked_for_key(scopes) if scopes else ()
    keep = existing(store)

    async def create() -> credentials.Issued:
        made = await credentials.create_key(
            keep, tenant, label=label, expires_in=expires_in, everywhere=everywhere, scopes=named
        )
        await note_act(keep, tenant, f"key:create {made.id}")
        return made

    issued = asyncio.run(opened(keep, create))
    if as_json:
        tell(issued)
        return
    click.echo(issued.token)
    click.echo(f"That is key {issued.id}; it is kept nowhere and not shown again.", err=True)


@key.command("list", cls=StoreCommand)
@store_argument
@json_option
def list_keys(store: str, as_json: bool) -> None:
    """List the service keys of a store: what they are for, never what they are.

    \b
    Example:
      chatkeep key list chat.db
    """
    from ..auth import credentials

    keep = existing(store)
    keys = asyncio.run(opened(keep, lambda: credentials.list_keys(keep)))
    for found in keys:
        if as_json:
            tell(found)
            continue
        ends = "revoked" if found.revoked else f"until {when(found.expires_at)}" if found.expires_at else "for ever"
        used = f"last used {when(found.last_used_at)}" if found.last_used_at else "not used yet"
        tenant, label = plain(found.tenant, line=True) or "(default)", plain(found.label, line=True) or "(no label)"
        tenant += ", and everywhere" if credentials.EVERYWHERE in found.scopes else ""
        named = [scope for scope in found.scopes if scope != credentials.EVERYWHERE]
        tenant += f" ({', '.join(named)} only)" if named else ""
        click.echo(f"{found.id}  tenant {tenant}  {label}  made {when(found.created_at)}, {ends}, {used}")
    if not keys and not as_json:
        click.echo("There are no service keys.")


@key.command("revoke", cls=StoreCommand)
@store_argument
@click.argument("id", metavar="ID")
def revoke_key(store: str, id: str) -> None:
    """End a service key; every server on the store refuses it within two seconds.

    \b
    Example:
      chatkeep key revoke chat.db 4f1d0c2b9a7e6538
    """
    from ..auth import credentials

    keep = existing(store)

    async def revoke() -> bool:
        [tenant] = [key.tenant for key in await credentials.list_keys(keep) if key.id == id] or [""]
        found = await credentials.revoke_key(keep, id)
        if found:
            await note_act(keep, tenant, f"key:revoke {id}")
        return found

    if not asyncio.run(opened(keep, revoke)):
        raise ChatkeepError(f"There is no key {plain(id, line=True)!r}. `chatkeep key list` has those there are.")
    click.echo(f"Key {plain(id, line=True)} is revoked.")
