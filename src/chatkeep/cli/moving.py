"""Moving a store: `chatkeep move`."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import click
from msgspec import structs

from ..drivers import driver_for
from ..drivers.base import Ability, Driver
from ..engine.needs import refuse_lacking
from ..errors import Misconfigured, UsageError
from ..secrecy import without_secret
from ..settings import settings_from
from ..storage.moving import CAUGHT_UP, Move, Progress, Walk
from ..storage.relocation import refuse_elsewhere
from .exits import INTERRUPTED
from .opening import file_of, shown_path, url_of
from .options import StoreCommand
from .printing import amount, in_all, plain, tell

FOLLOWS_S = 1.0  # between two looks at what has changed
QUIET_S = 5.0  # between two lines where nobody watches a terminal


@click.command(cls=StoreCommand)
@click.argument("source", metavar="[FROM]")
@click.argument("target", metavar="TO")
@click.option("--follow", is_flag=True, help="Goes on copying what changes, until it is interrupted, or finished.")
@click.option("--finish", is_flag=True, help="Closes FROM for everybody, copies the rest, compares, and opens TO.")
@click.option("--stopped", is_flag=True, help="Nobody has FROM open: for a store that cannot be closed for others.")
@click.option("--cancel", is_flag=True, help="Opens FROM again for everybody, if the move was not finished.")
@click.option("--json", "as_json", is_flag=True, help="The result as a line of JSON.")
def move(source: str, target: str, follow: bool, finish: bool, stopped: bool, cancel: bool, as_json: bool) -> None:
    """Move all conversations from one store to another one, of any kind, while bots use it.

    TO is empty, or what an earlier run of this very move has left: a move that was interrupted, or killed, is run again. Without
    --finish all is copied and nothing is closed; do that first, and with --follow for as long as you like. With --finish FROM
    refuses everybody from one moment on, who is told where the conversations are now; start the bots with the new address then.

    \b
    Examples:
      chatkeep move chat.db postgresql://bot@db.example/chat
      chatkeep move chat.db postgresql://bot@db.example/chat --finish
      chatkeep move redis://127.0.0.1/0 sqlite:////var/lib/bot/chat.db --follow
    """
    if cancel and (follow or finish):
        raise UsageError("--cancel cannot be combined with --follow or --finish; nothing was done.")
    source, target = url_of(source), url_of(target)
    try:
        asyncio.run(
            moved(source, target, follow=follow, finish=finish, stopped=stopped, cancel=cancel, as_json=as_json)
        )
    except KeyboardInterrupt:
        click.echo(
            f"\nInterrupted. What was copied stays in {shown(target)}; run the same move again to go on.", err=True
        )
        sys.exit(0 if follow and not finish else INTERRUPTED)


async def moved(
    source: str, target: str, *, follow: bool, finish: bool, stopped: bool, cancel: bool, as_json: bool
) -> None:
    """Run the stages that were asked for, between the two stores that the URLs name."""
    drivers = refuse_unfit(source, target)
    line = Line(as_json)
    async with opened(drivers, target) as (ours, theirs):
        run = Move(ours, theirs, address=address_of(target), told=line.show)
        if cancel:
            await run.cancel()
            click.echo(f"{shown(source)} is open for everybody again; {shown(target)} was not opened.")
            return
        if not await run.begin():
            click.echo(f"This move is finished: use {shown(target)}. Nothing was done.")
            return
        began = time.monotonic()
        walk = await run.copy()
        line.end()
        if not as_json:
            click.echo(f"{in_all(walk.conversations, 'copied')} ({walk.changed:,} now), in {lasted(began)}.")
        while follow:
            changed = await run.follow()
            if finish and changed < CAUGHT_UP:
                break
            line.followed(changed)
            await asyncio.sleep(FOLLOWS_S)
        if finish:
            closed = time.monotonic()
            walk = await run.finish(stopped=stopped)
            line.end()
            closed_s = time.monotonic() - closed if Ability.FENCE in ours.abilities else None
            finished(walk, source, target, closed_s, as_json=as_json)
        elif as_json:
            tell(structs.asdict(walk) | {"finished": False})
        else:
            click.echo(f"Nothing is closed yet: run it again with --finish to go over to {shown(target)}.")


def refuse_unfit(source: str, target: str) -> tuple[Driver, Driver]:
    """Return the drivers of two stores that look as if one could be moved to the other; nothing is opened."""
    if not source or not target:
        raise UsageError("Name two stores, FROM and TO; nothing was opened.")
    for url in (source, target):
        if url.startswith("memory:"):
            raise UsageError("A memory:// store exists only inside its process and cannot be moved; nothing was moved.")
    path, there = file_of(source), file_of(target)
    if path is not None and not os.path.isfile(path):
        raise UsageError(
            f"There is no file {shown_path(path)}; nothing was moved. Name the store that the bot writes to as FROM."
        )
    ours, theirs = driver_for(source), driver_for(target)
    if path is not None and there is not None and os.path.exists(there) and os.path.samefile(path, there):
        raise Misconfigured(f"FROM and TO are the same file ({there}); nothing was moved.")
    refuse_lacking(theirs.abilities, settings_from({}), answers=True)
    return ours, theirs


@asynccontextmanager
async def opened(drivers: tuple[Driver, Driver], target: str) -> AsyncIterator[tuple[Driver, Driver]]:
    """Open the old store, then the new one; the new one is not even made when the old one cannot be opened."""
    ours, theirs = drivers
    try:
        await ours.open()
        if is_unmade(target):  # a file that would be made for nothing
            await refuse_elsewhere(ours)
        await theirs.open()
        if Ability.DURABLE in ours.abilities and Ability.DURABLE not in theirs.abilities:
            click.echo(
                "TO does not promise that what it has answered survives a crash, as FROM does. See `chatkeep check`.",
                err=True,
            )
        yield ours, theirs
    finally:
        await theirs.close()
        await ours.close()


class Line:
    """Shows how far a walk has come: one line that changes where somebody watches, a line now and then elsewhere."""

    def __init__(self, as_json: bool) -> None:
        self._live = sys.stderr.isatty()
        self._silent = as_json and not self._live
        self._shown_at = 0.0 if self._live else time.monotonic()
        self._width = 0

    def show(self, progress: Progress) -> None:
        """Show where a walk is."""
        now = time.monotonic()
        if self._silent or (not self._live and now < self._shown_at + QUIET_S):
            return
        self._shown_at = now
        rate = progress.done / progress.seconds if progress.seconds > 0 else 0.0
        said = f"{progress.stage}: {amount(progress.done, 'conversation')}"
        if progress.total:
            said += f" of {progress.total:,}"
        said += f", {rate:,.0f} a second"
        if progress.total and rate:
            said += f", {clock_time(max(progress.total - progress.done, 0) / rate)} left"
        self._put(said)

    def followed(self, changed: int) -> None:
        """Show what a look at the changes has found."""
        if not self._silent and (self._live or changed):
            self._put(f"following: {amount(changed, 'conversation')} had changed; Ctrl-C ends it")

    def end(self) -> None:
        """Leave the line as it is."""
        if self._live and self._width:
            click.echo(err=True)
            self._width = 0

    def _put(self, said: str) -> None:
        if self._live:
            click.echo("\r" + said.ljust(self._width), nl=False, err=True)
            self._width = len(said)
        else:
            click.echo(said, err=True)


def finished(walk: Walk, source: str, target: str, closed_s: float | None, *, as_json: bool) -> None:
    """Print what was compared, and what to do now; *closed_s*: None of a store that cannot be closed for others."""
    if as_json:
        closed = None if closed_s is None else round(closed_s, 3)
        tell(structs.asdict(walk) | {"finished": True, "closed_s": closed, "address": address_of(target)})
        return
    click.echo(
        f"Alike on both sides: {in_all(walk.conversations)}, numbered to {amount(walk.messages, 'log entry', 'log entries')}, "
        f"checksum {walk.checksum}."
    )
    if closed_s is None:
        click.echo(
            f"{shown(source)} cannot be closed: a bot that opens it goes on there, and nobody here learns of that."
        )
    else:
        click.echo(f"{shown(source)} was closed {closed_s:.1f} s ago, for good, and says where it went.")
    click.echo(f"Start the bots with {shown(target)} now.")


def is_unmade(url: str) -> bool:
    """Tell whether *url* names a file that is not there yet."""
    path = file_of(url)
    return path is not None and not os.path.exists(path)


def address_of(url: str) -> str:
    """Return where a store is, for those who come late to the old one, wherever they run: without its password."""
    path = file_of(url)
    return without_secret(url) if path is None else f"sqlite:///{os.path.abspath(path)}"


def shown(url: str) -> str:
    """Return a store's URL as people may read it."""
    return plain(without_secret(url), line=True)


def lasted(began: float) -> str:
    """Return how long something took."""
    return f"{time.monotonic() - began:.1f} s"


def clock_time(seconds: float) -> str:
    """Return a duration as 5 s, 3:20 min or 2:05 h."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60) if seconds >= 3600 else seconds // 60
    return (
        f"{minutes // 60:.0f}:{minutes % 60:02.0f} h" if seconds >= 3600 else f"{minutes:.0f}:{seconds % 60:02.0f} min"
    )
