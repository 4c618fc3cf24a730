"""The command line: run a demo bot, talk to it, and look into a store while others use it."""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

import click

from .. import __version__
from ..errors import ChatkeepError, Unavailable
from ..secrecy import without_entries
from . import (
    accounts,
    archives,
    bots,
    conversations,
    deliveries,
    forking,
    holds,
    indexing,
    keys,
    load,
    looking,
    moving,
    pausing,
    sealing,
    serving,
    set_aside,
    stores,
    switches,
)
from . import dev as developing
from .exits import INTERRUPTED, UNREAD, exit_code
from .printing import plain

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says where there is no room for what is written."""


class TerminalLines(logging.Formatter):
    """Formats what is logged as one line each, beside the way through the code: names in it may be anybody's."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """Return the line."""
        return plain(super().formatMessage(record), line=True)


class Commands(click.Group):
    """The commands; errors are told in one line and become exit codes."""

    def main(self, *args: Any, **told: Any) -> Any:
        """Run the program: what it shows of itself, such as what shells complete, needs room too."""
        with output_needs_room():
            return super().main(*args, **told)

    def make_context(self, *args: Any, **told: Any) -> click.Context:
        """Read the command line, and show the help that it asks for."""
        open_closed_streams()
        with nobody_need_read(), no_password_repeated():
            return super().make_context(*args, **told)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was asked for."""
        with nobody_need_read():
            try:
                with no_password_repeated():
                    return super().invoke(ctx)
            except ChatkeepError as fault:
                return end(ctx, exit_code(fault), f"chatkeep: {plain(str(fault), line=True)}")
            except KeyboardInterrupt:
                said = (
                    "\nInterrupted. What was done by now stays done; run the same command again for the rest. A file that it was to make "
                    "is not there."
                )
                return end(ctx, INTERRUPTED, said)


@contextmanager
def no_password_repeated() -> Iterator[None]:
    """Have no error repeat the password of a URL that stands where something else belongs: errors get into logs and mails of cron."""
    try:
        yield
    except click.UsageError as refused:
        said = refused.format_message()
        if (shown := without_entries(said)) == said:
            raise  # some show more than their words, such as the help of a command that needs another word
        raise click.UsageError(shown, refused.ctx) from None


def end(ctx: click.Context, code: int, said: str) -> NoReturn:
    """Say why a command did not do what was asked for, and end it."""
    click.echo(said, err=True)
    ctx.exit(code)


def open_closed_streams() -> None:
    """Have a stream that the program was started without (`>&-`) lead nowhere: Python has None in its place, and the next file that is
    opened, such as a store, would get its number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))


@contextmanager
def output_needs_room() -> Iterator[None]:
    """End the program where there is no room for what it writes, be it its help: one line says so, and the exit code."""
    try:
        yield
    except OSError as fault:
        if fault.errno not in FULL:
            raise
        leave(sys.stdout)
        said = (
            f"chatkeep: What this command writes is not complete: {fault.strerror}. Run it again when there is room; a file that it was "
            "to make is not there."
        )
        with suppress(OSError):  # there may be no room for that either
            click.echo(said, err=True)
        leave(sys.stderr)
        sys.exit(exit_code(Unavailable()))


@contextmanager
def nobody_need_read() -> Iterator[None]:
    """End the program as a broken pipe ends others, and say nothing, where who reads its output has gone: `chatkeep list | head`."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        leave(sys.stdout, sys.stderr)
        sys.exit(UNREAD)


def leave(*streams: Any) -> None:
    """Have what is left in *streams*, which Python tries to write once more at the end, go nowhere."""
    with open(os.devnull, "wb") as nowhere:
        for stream in streams:
            os.dup2(nowhere.fileno(), stream.fileno())


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="chatkeep")
def main() -> None:
    """Durable conversations: run a demo bot, and look into the store it keeps.

    \b
    Try it:
      chatkeep demo                          a restaurant with a chat page
      chatkeep dev app:keep                  your bot with a chat page, started anew when you save
      chatkeep chat app:keep                 the same, here in the terminal; chat restaurant: the demo
      chatkeep list chatkeep-demo.db         what is in the store, also while the demo runs
      chatkeep show chatkeep-demo.db ada     one conversation: state, log, what was set aside
      chatkeep check redis://127.0.0.1/0     whether a store is durable, and fit to be used
      chatkeep serve app:keep                your bot, over HTTP

    STORE is a URL (sqlite:///chat.db) or the path of an SQLite file; without one, CHATKEEP_STORE counts.
    These commands never create a file and never answer a message; a server that has the store open is not disturbed.
    STORE may be a running server, too: https://chat.example, with a service key in CHATKEEP_KEY or CHATKEEP_KEY_FILE.

    \b
    Exit codes: 0 done, 1 not found, 2 used wrongly, 3 the store cannot be reached (try again), 4 damaged,
    5 perhaps done (look), 6 the bot's code failed, 7 the store is not fit (check), 8 a message was lost,
    doubled, put out of order or not answered (simulate), 130 interrupted, 141 who reads the output has gone.
    """
    if os.environ.get("NO_COLOR"):  # https://no-color.org
        click.get_current_context().color = False
    handler = logging.StreamHandler()
    handler.setFormatter(TerminalLines("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(handlers=[handler])
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


for command in (
    bots.demo,
    bots.chat,
    developing.dev,
    conversations.list_,
    conversations.show,
    conversations.history,
    looking.tail,
    looking.search,
    indexing.index,
    looking.stats,
    conversations.erase,
    conversations.redact,
    conversations.clear,
    conversations.undo,
    set_aside.dead,
    set_aside.replay,
    set_aside.dismiss,
    pausing.stop,
    set_aside.doubts,
    set_aside.settle,
    pausing.pause,
    pausing.resume,
    pausing.paused,
    switches.cache,
    switches.canary,
    switches.audit,
    pausing.say,
    deliveries.deliveries,
    deliveries.resend,
    stores.backup,
    stores.check,
    moving.move,
    holds.hold,
    holds.unhold,
    holds.holds,
    holds.retention,
    forking.fork,
    sealing.reseal,
    archives.export,
    archives.import_,
    serving.serve,
    load.simulate,
    keys.key,
    accounts.accounts,
):
    main.add_command(command)
