"""What ends, and what must stay: `chatkeep retention`, `chatkeep hold`, `chatkeep unhold`, `chatkeep holds`."""

from __future__ import annotations

import asyncio
from typing import Any

import click

from ..app import Chatkeep, core_of
from ..durations import seconds
from ..errors import ChatkeepError, UsageError
from ..settings import faults_of
from ..storage.ends import End
from .opening import existing, opened
from .options import StoreCommand, conversation_or, json_option, store_argument, tenant_option, utc_option
from .printing import amount, full_name, listed, plain, tell, when
from .reaching import look
from .target import Verbs

owner_option = click.option("--owner", is_eager=True, metavar="NAME", help="All that is this user's, now and later.")


@click.command(cls=StoreCommand)
@store_argument
@conversation_or("owner")
@owner_option
@tenant_option
@click.option("--reason", required=True, metavar="TEXT", help="Why, such as the number of the case.")
def hold(store: str, conversation: str | None, owner: str | None, tenant: str, reason: str) -> None:
    """Put a conversation, or all that is an owner's, on legal hold.

    Until the hold is lifted, nobody erases it, redacts or withdraws a message of it, and no instance forgets it or cuts its log; whoever
    tries is refused. The hold is in the audit log.

    \b
    Examples:
      chatkeep hold chat.db ada --reason "case 4711"
      chatkeep hold chat.db --owner user-17 --tenant salon-7 --reason "case 4711"
    """

    async def work(of: Verbs) -> None:
        for made in await of.hold(conversation or "", owner or "", reason=reason):
            click.echo(f"On hold is {plain(made.subject, line=True)}, since {when(made.at)}.")

    look(store, tenant, work)


@click.command(cls=StoreCommand)
@store_argument
@conversation_or("owner")
@owner_option
@tenant_option
def unhold(store: str, conversation: str | None, owner: str | None, tenant: str) -> None:
    """Lift a legal hold; what is over by then ends within the hour.

    \b
    Example:
      chatkeep unhold chat.db ada
    """

    async def work(of: Verbs) -> None:
        lifted = await of.unhold(conversation or "", owner or "")
        for held in lifted:
            click.echo(f"Lifted: {plain(held.subject, line=True)}.")
        if not lifted:
            raise ChatkeepError("There is no such hold; nothing was changed. `chatkeep holds` has those there are.")

    look(store, tenant, work)


@click.command(cls=StoreCommand)
@store_argument
@tenant_option
@utc_option
@json_option
def holds(store: str, tenant: str, as_json: bool) -> None:
    """List the legal holds of a tenant.

    \b
    Example:
      chatkeep holds chat.db --tenant salon-7
    """

    async def work(of: Verbs) -> None:
        listed(
            await of.holds(),
            lambda held: click.echo(
                f"{when(held.at) if held.at else '?'}  {plain(held.subject, line=True)}  {plain(held.reason, line=True)}"
            ),
            as_json=as_json,
            nothing="Nothing is on hold.",
        )

    look(store, tenant, work)


@click.command(cls=StoreCommand)
@store_argument
@click.option("--tenant", metavar="NAME", help="Only this tenant's; without it, all.")
@click.option("--retention", metavar="DURATION", help="As the setting; without it, what CHATKEEP_RETENTION says.")
@click.option("--forget-after", metavar="DURATION", help="As the setting.")
@click.option("--forget-visitors", metavar="DURATION", help="As the setting.")
@utc_option
@json_option
def retention(
    store: str,
    tenant: str | None,
    retention: str | None,
    forget_after: str | None,
    forget_visitors: str | None,
    as_json: bool,
) -> None:
    """Show what the rules of retention would erase or drop now; nothing is changed.

    The rules are the settings `retention`, `forget_after` and `forget_visitors`, as a server would read them here; an option
    stands for one of them, so that a rule can be looked at before it is set.

    \b
    Examples:
      chatkeep retention chat.db --retention 90d
      chatkeep retention chat.db --forget-after 365d --json > what-would-go.jsonl
    """

    async def work(keep: Chatkeep[Any]) -> None:
        settings = keep.settings
        given = {"retention": retention, "forget_after": forget_after, "forget_visitors": forget_visitors}
        rules = {name: text if text is not None else getattr(settings, name) for name, text in given.items()}
        if faults := [
            fault for name, text in given.items() if text is not None for fault in faults_of(name, text, "--")
        ]:
            raise UsageError(f"{'; '.join(faults)}. Nothing was looked at.")
        found = core_of(keep).preview_ends(
            tenant, **{f"{name}_s": None if value is None else seconds(value) for name, value in rules.items()}
        )
        erased = entries = held = 0
        async for end in found:
            stays = end.held is not None or bool(end.fault)
            held += stays
            erased += end.what == "erase" and not stays
            entries += 0 if stays else end.entries
            (tell if as_json else _told)(end)
        if not as_json:
            said = ", ".join(f"{name} {value}" for name, value in rules.items() if value is not None) or "no rule"
            click.echo(
                f"With {said}: {amount(erased, 'conversation')} would be erased, {amount(entries, 'log entry', 'log entries')} would go, "
                f"{held:,} {'stays' if held == 1 else 'stay'} all the same. Nothing was changed."
            )

    run(store, work)


def _told(end: End) -> None:
    """Print what would end."""
    what = "erase" if end.what == "erase" else f"drop {end.entries:,}"
    stays = end.fault or (f"on hold: {end.held}" if end.held is not None else "")
    note = f"  [stays: {plain(stays, line=True)}]" if stays else ""
    touched = f"  last changed {when(end.touched_at)}" if end.touched_at else ""
    click.echo(f"{what:<10}  {full_name(end.tenant, end.conversation)}{touched}{note}")


def run(store: str, work: Any) -> None:
    """Run *work* on a store that is there."""
    keep = existing(store)
    asyncio.run(opened(keep, lambda: work(keep)))
