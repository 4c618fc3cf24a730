"""Making a store's full-text index: `chatkeep index`."""

from __future__ import annotations

import asyncio
import sys
import time

import click

from ..app import core_of
from ..errors import Unsupported
from ..storage.moving import Progress
from .exits import INTERRUPTED
from .moving import Line
from .on_store import StoreTarget
from .opening import note_act
from .options import StoreCommand, json_option, store_argument
from .printing import tell
from .target import refuse_server

AT_ONCE = 200
"""So many messages are put in by one act: a bot on the store waits no longer than for one of those."""

PAUSE_S = 0.002  # others may write


@click.command(cls=StoreCommand)
@store_argument
@click.option("--remove", is_flag=True, help="Takes the index away, with every word in it.")
@json_option
def index(store: str, remove: bool, as_json: bool) -> None:
    """Make the full-text index, by which `chatkeep search` and the operators' desk find what was said.

    Bots and servers may use the store meanwhile, and keep the index up to date from then on. A run that was interrupted, or killed, is run
    again and goes on; so do the servers, more slowly. It takes about twice as much room as the messages. docs/how-to/search.md says more.

    \b
    Examples:
      chatkeep index chat.db
      chatkeep index chat.db --remove
    """
    refuse_server(store)
    try:
        asyncio.run(indexed(store, keep=not remove, as_json=as_json))
    except KeyboardInterrupt:
        click.echo("\nInterrupted. What is indexed stays so; run the same command again to go on.", err=True)
        sys.exit(INTERRUPTED)


async def indexed(store: str, *, keep: bool, as_json: bool) -> None:
    """Make the index of a store, or remove it."""
    async with StoreTarget(store) as target:
        text = core_of(target.keep).text_index
        if not text.able:
            raise Unsupported(
                f"{target.where} can have no full-text index: SQLite and PostgreSQL can, where they are not sealed. Nothing was done. "
                "Words are looked for in the last 2,000 entries of each log."
            )
        began, line, put = time.monotonic(), Line(as_json), 0
        answer = await text.step(limit=AT_ONCE if keep else 0, keep=keep)
        await note_act(target.keep, "", "index" if keep else "index:remove")
        first = answer.left
        while answer.entries:
            put += sum(one.entry.number > 0 for one in answer.entries)  # (rows are no part of a log)
            answer = await text.step(limit=AT_ONCE)
            line.show(
                Progress(stage="indexing", done=first - answer.left, total=first, seconds=time.monotonic() - began)
            )
            await asyncio.sleep(PAUSE_S)
        line.end()
        took = time.monotonic() - began
        if as_json:
            tell({"on": answer.on, "entries": put, "seconds": round(took, 3)})
        elif not keep:
            click.echo(f"{target.where} has no full-text index.")
        else:
            click.echo(
                f"The full-text index of {target.where} is complete: {put:,} log entries were gone through, in {took:.1f} s."
            )
