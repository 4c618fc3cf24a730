"""Commands that run a bot: with a chat page, or in the terminal."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import AsyncIterator
from io import FileIO
from threading import Thread
from typing import Any

import click

from ..app import Chatkeep
from ..demos import BOTS, demo_for
from ..drivers.url import is_loopback
from ..errors import HandlerFailed, UsageError
from ..loading import check_handler, loaded
from ..secrecy import without_secret
from .opening import nothing, opened, url_of
from .printing import plain, said
from .tracebacks import log_for_developers

USERS = ("ada", "ben")
"""As which anybody may sign in to a demo."""


@click.command()
@click.argument("bot", default="restaurant", metavar="[BOT]")
@click.option("--store", help="URL or SQLite file; created when there is none. Otherwise one of the bot's own.")
@click.option("--port", default=8765, show_default=True, type=click.IntRange(0, 65535), help="0 takes any free one.")
@click.option("--host", default="127.0.0.1", show_default=True, help="An address of this machine's own.")
def demo(bot: str, store: str | None, port: int, host: str) -> None:
    """Run a demo bot with a chat page and an HTTP API, until Ctrl-C.

    There is no sign-in, so it listens on this machine only.

    \b
    Examples:
      chatkeep demo
      chatkeep demo restaurant --store orders.db --port 0
    """
    from ..server import create_app, serving
    from ..server.application import Lifespan
    from ..server.settings import ServerSettings

    store = store or store_of(bot)
    keep = demo_for(bot, url_of(store))
    # What is wrong with the store is said here, and not in a traceback of the server.
    asyncio.run(opened(Chatkeep(url_of(store)), nothing))
    if not is_loopback(host):
        raise UsageError(
            f"{host} can be reached from other machines, and the demo has no sign-in; nothing was started. Use 127.0.0.1."
        )
    listener = serving.listening(
        host, port, hint="Perhaps a demo runs there already: open it, or start this one with --port 0."
    )
    click.echo(f"{BOTS[bot].title} is open: {serving.address(listener)}")
    store = without_secret(store).removeprefix("sqlite:///")
    click.echo(f"Everything said there is kept in {store}. Ctrl-C stops it.")
    click.echo(f"Order something, then kill it (kill -9 {os.getpid()}) and start it again: the order is still there.")
    # `make demo` has it in an environment of its own, where no other terminal finds it by its name.
    hidden = not shutil.which("chatkeep") and os.access(sys.argv[0], os.X_OK)
    program = sys.argv[0] if hidden else "chatkeep"
    click.echo(f"Look inside meanwhile, in another terminal: {program} list {store}")
    app = create_app(keep, title=BOTS[bot].title, anonymous=True, sample_users=USERS, offline=True)
    settings = ServerSettings(anonymous=True)
    served = Lifespan(app, settings, keep, ends=app.state.streams.end)
    serving.serve(serving.configured(served, settings, patience_s=5.0), listener)


@click.command()
@click.argument("bot", metavar="BOT")
@click.option("--store", help="Of a demo bot: URL or SQLite file, created when there is none; or one of its own.")
@click.option(
    "--conversation", default="terminal", show_default=True, metavar="NAME", help="Which conversation to be in."
)
def chat(bot: str, store: str | None, conversation: str) -> None:
    """Talk to a bot in the terminal; Ctrl-D or /quit ends it.

    BOT is yours, as MODULE:ATTRIBUTE, or the name of a demo.

    What was said before is shown first. Messages may also come through a pipe, one a line.

    \b
    Examples:
      chatkeep chat app:keep
      chatkeep chat restaurant --conversation ada
      echo "2 margherita" | chatkeep chat restaurant --store orders.db
    """
    keep = demo_for(bot, url_of(store or store_of(bot))) if bot in BOTS else own(bot, store)
    try:
        asyncio.run(opened(keep, lambda: talk(keep, conversation)))
    except KeyboardInterrupt:
        click.echo()


def own(app: str, store: str | None) -> Chatkeep[Any]:
    """Return the Chatkeep that *app* names, on its own store. Raises `UsageError`."""
    if not set(app) & set(":/") and not app.endswith(".py"):
        raise UsageError(
            f'{app} is not "module:attribute", such as app:keep, and no demo; demos are: {", ".join(BOTS)}. Nothing was opened.'
        )
    if store is not None:
        raise UsageError(f"{app} has a store of its own; --store goes with a demo. Nothing was opened.")
    log_for_developers("WARNING")
    keep = check_handler(loaded(app), app)
    if keep is None:
        raise UsageError(f"{app} is an application; name the Chatkeep that it serves. Nothing was opened.")
    return keep


def store_of(bot: str) -> str:
    """Return where a demo bot keeps its conversations unless told otherwise."""
    return "chatkeep-demo.db" if bot == "restaurant" else f"chatkeep-{bot}.db"


async def talk(keep: Chatkeep[Any], conversation: str) -> None:
    """Show the log, then answer line by line what is typed."""
    for _ in range(40):  # what was left unread is answered now, so it can be part of what is shown
        found = await keep.conversation(conversation)
        if found is None or not found.unread:
            break
        await asyncio.sleep(0.05)
    seen = 0
    async for message in keep.history(conversation):
        seen = message.number
        said(message)
    typed_here = sys.stdin.isatty()
    async for line in lines(prompt="you: " if typed_here else ""):
        if line == "/quit":
            return
        if not line:
            continue
        try:
            receipt = await keep.receive(conversation, line)
        except HandlerFailed as failed:
            if not typed_here:
                raise
            click.echo(f"chatkeep: {plain(str(failed), line=True)}", err=True)
            continue
        async for message in keep.history(conversation, after=seen):
            seen = message.number
            if not (typed_here and message.id == receipt.id):
                said(message)


async def lines(*, prompt: str) -> AsyncIterator[str]:
    """Return the lines of standard input. Read in a thread that may be left waiting, so that Ctrl-C ends the program at once."""
    loop, read = asyncio.get_running_loop(), asyncio.Queue[bytes](maxsize=1)
    # Unbuffered, because Python cannot exit while a thread waits inside its buffered standard input.
    source = FileIO(0, closefd=False)

    def read_on() -> None:
        while True:
            line = source.readline(1 << 20)
            asyncio.run_coroutine_threadsafe(read.put(line), loop).result()
            if not line:
                return

    Thread(target=read_on, name="stdin", daemon=True).start()
    while True:
        click.echo(prompt, nl=False)
        line = await read.get()
        if not line:
            if prompt:
                click.echo()
            return
        yield line.decode(errors="replace").strip()
