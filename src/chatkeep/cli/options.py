"""Arguments and options that several commands have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from ..sources import named_store
from .printing import IN_UTC

Decorated = TypeVar("Decorated", bound=Callable[..., Any] | click.Command)


class StoreCommand(click.Command):
    """A command on a store. STORE may be left out where the environment or the settings file names one.

    So a password need not be on the command line, where every user of the machine can read it.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the arguments as they are; if one is missing or does not fit, with the named store in front of them."""
        try:
            return super().parse_args(ctx, list(args))
        except click.BadParameter as misfit:
            store = named_store()
            missing = isinstance(misfit, click.MissingParameter)
            if store is None:
                if missing and isinstance(misfit.param, click.Argument):  # of an option the place of STORE says nothing
                    hint = f"{misfit.message} STORE may be left out where CHATKEEP_STORE or CHATKEEP_STORE_FILE is set.".strip()
                    raise click.MissingParameter(hint, ctx=misfit.ctx, param=misfit.param) from None
                raise
            ctx.params.clear()
            try:
                return super().parse_args(ctx, [store, *args])
            except click.BadParameter:
                if missing:
                    raise
                raise misfit from None
            except click.UsageError:  # one argument too many: STORE was given, and what is missing is something else
                raise misfit from None


def complete_store(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Have the shell complete the path of a file."""
    return [CompletionItem(incomplete, type="file")]


def tell_in_utc(ctx: click.Context, param: click.Parameter, utc: bool) -> None:
    """Remember how times are to be told."""
    ctx.meta[IN_UTC] = utc


store_argument = click.argument("store", metavar="[STORE]", shell_complete=complete_store)
utc_option = click.option(
    "--utc",
    is_flag=True,
    expose_value=False,
    callback=tell_in_utc,
    help="Times in UTC; without it, as on this machine.",
)
conversation_argument = click.argument("conversation", metavar="CONVERSATION")
number_argument = click.argument("number", type=click.IntRange(1), metavar="NUMBER")


def conversation_or(option: str) -> Callable[[Decorated], Decorated]:
    """Take a conversation, or *option* in its place; one that is read before, as an eager one is."""

    def check(ctx: click.Context, param: click.Parameter, conversation: str | None) -> str | None:
        given = ctx.params.get(option)
        if conversation is None and given is None:
            raise click.MissingParameter(f"Name a conversation, or --{option}.", ctx, param)
        if conversation is not None and given is not None:
            raise click.BadParameter(
                f"name a conversation, or --{option}, and not both; nothing was touched.", ctx=ctx, param=param
            )
        return conversation

    return click.argument("conversation", required=False, metavar="[CONVERSATION]", callback=check)


def one_or_more(ctx: click.Context, param: click.Parameter, conversation: str | None) -> str | None:
    """Want one conversation, or else the words for several: nobody silences them all by leaving out a name."""
    several = "--everywhere" if ctx.params.get("everywhere") else "--all" if ctx.params.get("whole") else ""
    if several and conversation is not None:
        raise click.BadParameter(f"{several} cannot be combined with a conversation; nothing was changed.", ctx, param)
    if not several and conversation is None:
        hint = "Name a conversation; or --all for the whole tenant, --everywhere for all tenants."
        raise click.MissingParameter(hint, ctx, param)
    return conversation


tenant_option = click.option(
    "--tenant", default="", metavar="NAME", help="Whose conversation; without it, the default one's."
)
json_option = click.option("--json", "as_json", is_flag=True, help="JSON, one object a line.")
limit_option = click.option("--limit", default=50, show_default=True, type=click.IntRange(1), help="At most so many.")
