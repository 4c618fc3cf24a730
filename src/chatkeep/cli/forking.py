"""A copy of a conversation to look for a fault in: `chatkeep fork`."""

from __future__ import annotations

import asyncio
import time

import click

from ..app import core_of
from ..conversation.keys import key_for
from ..drivers.base import Row
from ..errors import ChatkeepError
from ..storage.forking import fork_conversation
from .opening import driver_with_keys, existing, note_act, open_driver, opened, target_url
from .options import StoreCommand, conversation_argument, store_argument, tenant_option
from .printing import plain


@click.command(cls=StoreCommand)
@store_argument
@conversation_argument
@click.argument("name")
@tenant_option
@click.option("--to", "target", metavar="STORE", help="Another store, which is made if it is not there.")
@click.option(
    "--as-of", type=click.IntRange(0), metavar="NUMBER", help="Only the log up to this number, with a fresh state."
)
def fork(store: str, conversation: str, name: str, tenant: str, target: str | None, as_of: int | None) -> None:
    """Copy a conversation to NAME, to look for a fault without reaching the customer.

    Log, state and session are copied; owner, reminders and what waits to be sent are not, and what was unread counts as
    answered. A name that is no address of a platform, such as debug-1, is reached by no channel.

    \b
    Examples:
      chatkeep fork chat.db whatsapp:1:49170 debug-1
      chatkeep fork postgresql://bot@db.example/chat ada debug-1 --to /tmp/debug.db --as-of 40
    """
    keep = existing(store)
    other = None if target is None else driver_with_keys(target_url(target))

    async def work() -> Row | None:
        source, keys = core_of(keep).driver, (key_for(tenant, conversation), key_for(tenant, name))
        try:
            if other is not None:
                await open_driver(other)
            made = await fork_conversation(source, other or source, *keys, at=time.time(), as_of=as_of)
        finally:
            if other is not None:
                await other.close()
        if made is not None:  # nothing else tells who looks for a person's words that there is a copy of them
            await note_act(keep, tenant, f"fork {name}", conversation)
        return made

    made = asyncio.run(opened(keep, work))
    if made is None:
        raise ChatkeepError(f"There is no conversation {plain(conversation, line=True)!r}; nothing was copied.")
    click.echo(f"{plain(name, line=True)} has {made.head} log entries of {plain(conversation, line=True)}.")
