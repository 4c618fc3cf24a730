"""Commands about the accounts of people who sign in at the operators' desk."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import click

from ..app import Chatkeep
from ..errors import ChatkeepError, UsageError
from .opening import existing, note_act, opened
from .options import StoreCommand, json_option, store_argument
from .printing import plain, tell, when

if TYPE_CHECKING:
    from ..auth.accounts import Account

name_argument = click.argument("name", metavar="NAME")
role_option = click.Choice(["viewer", "agent", "admin"])


@click.group()
def accounts() -> None:
    """Accounts: people who sign in at the operators' desk, /operator. There is none until one is added here."""


@accounts.command("add", cls=StoreCommand)
@store_argument
@name_argument
@click.option(
    "--role",
    type=role_option,
    default="viewer",
    show_default=True,
    help="viewer: sees everything, with what is personal masked; agent: sees it in clear, and writes; admin: also state, "
    "erasing, switches, audit.",
)
@click.option(
    "--tenant",
    "tenants",
    multiple=True,
    metavar="NAME",
    help="Whose conversations; again for more; without it, the default one's.",
)
@click.option("--everywhere", is_flag=True, help="All tenants' conversations, and for an admin what concerns all.")
@click.option("--shown", default="", metavar="TEXT", help="The name that customers see; without it, NAME.")
@click.option("--no-password", is_flag=True, help="Only a proxy that is listed says who this is (`operator_header`).")
def add_account(
    store: str, name: str, role: Any, tenants: tuple[str, ...], everywhere: bool, shown: str, no_password: bool
) -> None:
    """Add an account. On a terminal it asks for the password; an empty one, and no terminal, has one made and shown this once.

    \b
    Example:
      chatkeep accounts add chat.db kim --role agent --tenant salon --shown "Kim from the salon"
    """
    from ..auth import accounts as people

    password, made = (None, False) if no_password else asked_password()
    keep = existing(store)

    async def add() -> None:
        await people.add_account(
            keep, name, role=role, tenants=tenants or ("",), everywhere=everywhere, shown=shown, password=password
        )
        await note_act(keep, (tenants or ("",))[0], f"account:add {people.name_of(name)}")

    asyncio.run(opened(keep, add))
    show_password(password, made)
    click.echo(f"There is an account {plain(name, line=True)} now, with the role {role}.", err=made)


@accounts.command("list", cls=StoreCommand)
@store_argument
@json_option
def list_accounts(store: str, as_json: bool) -> None:
    """List the accounts of a store.

    \b
    Example:
      chatkeep accounts list chat.db
    """
    from ..auth import accounts as people

    keep = existing(store)
    found = asyncio.run(opened(keep, lambda: people.list_accounts(keep)))
    for name, account in found:
        tenants = "every tenant" if account.everywhere else ", ".join(one or "(default)" for one in account.tenants)
        seen = f"last signed in {when(account.signed_in_at)}" if account.signed_in_at else "not signed in yet"
        how = "disabled" if account.disabled else "password" if account.password else "by the proxy"
        if as_json:
            tell(
                {
                    "name": name,
                    "role": account.role,
                    "shown": account.shown,
                    "tenants": account.tenants,
                    "everywhere": account.everywhere,
                    "signs_in": how,
                    "created_at": account.created_at,
                    "signed_in_at": account.signed_in_at,
                }
            )
            continue
        click.echo(f"{plain(name, line=True)}  {account.role}  {plain(tenants, line=True)}  {how}, {seen}")
    if not found and not as_json:
        click.echo("There are no accounts. `chatkeep accounts add` adds one.")


@accounts.command("change", cls=StoreCommand)
@store_argument
@name_argument
@click.option("--role", type=role_option, help="Its role from now on.")
@click.option("--tenant", "tenants", multiple=True, metavar="NAME", help="Its tenants from now on; again for more.")
@click.option("--everywhere/--not-everywhere", default=None, help="Whether it is for all tenants.")
@click.option("--shown", metavar="TEXT", help="The name that customers see.")
@click.option("--disable/--enable", "disabled", default=None, help="Whether it is shut; its sessions end at once.")
def change_account(
    store: str,
    name: str,
    role: Any,
    tenants: tuple[str, ...],
    everywhere: bool | None,
    shown: str | None,
    disabled: bool | None,
) -> None:
    """Change the role, the tenants or the name of an account; every server knows it within two seconds.

    \b
    Examples:
      chatkeep accounts change chat.db kim --role admin
      chatkeep accounts change chat.db kim --disable
    """
    told = {"role": role, "tenants": tenants or None, "everywhere": everywhere, "shown": shown, "disabled": disabled}
    changed = {member: value for member, value in told.items() if value is not None}
    if not changed:
        raise UsageError("Name what is to be changed, such as --role agent; nothing was changed.")

    async def change(keep: Chatkeep[Any]) -> bool:
        from msgspec import structs

        from ..auth import accounts as people

        edit: Callable[[Account], Account] = lambda held: structs.replace(held, **changed)  # noqa: E731
        found = await people.change_account(keep, name, edit)
        if found is not None and disabled:
            await people.end_sessions(keep, name)
        return found is not None

    done(store, name, "account:change", change)
    click.echo(f"The account {plain(name, line=True)} is changed.")


@accounts.command("password", cls=StoreCommand)
@store_argument
@name_argument
def set_password(store: str, name: str) -> None:
    """Give an account another password, and sign it out everywhere.

    \b
    Example:
      chatkeep accounts password chat.db kim
    """
    password, made = asked_password()

    async def change(keep: Chatkeep[Any]) -> bool:
        from ..auth import accounts as people

        return await people.set_password(keep, name, password) is not None

    done(store, name, "account:password", change)
    show_password(password, made)
    click.echo(f"The account {plain(name, line=True)} has another password, and is signed out everywhere.", err=made)


@accounts.command("remove", cls=StoreCommand)
@store_argument
@name_argument
def remove_account(store: str, name: str) -> None:
    """Remove an account, and sign it out everywhere. What it has written stays.

    \b
    Example:
      chatkeep accounts remove chat.db kim
    """

    async def remove(keep: Chatkeep[Any]) -> bool:
        from ..auth import accounts as people

        return await people.remove_account(keep, name)

    done(store, name, "account:remove", remove)
    click.echo(f"The account {plain(name, line=True)} is removed.")


def done(store: str, name: str, act: str, work: Callable[[Chatkeep[Any]], Coroutine[Any, Any, bool]]) -> None:
    """Run *work* on the account *name*, and note it. Raises `ChatkeepError` where there is no such account."""
    keep = existing(store)

    async def worked() -> bool:
        found = await work(keep)
        if found:
            await note_act(keep, "", f"{act} {name}")
        return found

    if not asyncio.run(opened(keep, worked)):
        raise ChatkeepError(
            f"There is no account {plain(name, line=True)!r}. `chatkeep accounts list` has those there are."
        )


def asked_password() -> tuple[str, bool]:
    """Return a password, typed twice or made, and whether it was made."""
    from ..auth.passwords import check_password, make_password

    if not sys.stdin.isatty():
        return make_password(), True
    typed = click.prompt("Password (empty: one is made)", hide_input=True, default="", show_default=False, err=True)
    if not typed:
        return make_password(), True
    check_password(typed)
    if click.prompt("The same again", hide_input=True, default="", show_default=False, err=True) != typed:
        raise UsageError("The two passwords differ; nothing was changed. Try again.")
    return typed, False


def show_password(password: str | None, made: bool) -> None:
    """Print a password that was made here, this once."""
    if made:
        click.echo(password)
        click.echo("That is the password; it is kept nowhere and not shown again.", err=True)
