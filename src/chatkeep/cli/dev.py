"""A bot while it is written: served with its page, and started anew at every save."""

from __future__ import annotations

import sys
from functools import partial
from socket import socket
from time import monotonic
from typing import TYPE_CHECKING, Any

import click

from ..app import Chatkeep, core_of
from ..drivers.base import Ability
from ..drivers.url import is_loopback
from ..errors import ChatkeepError, UsageError
from ..frames import place_of
from ..loading import BrokenModule, loaded, parted
from ..secrecy import without_secret
from .exits import exit_code
from .printing import plain
from .tracebacks import log_for_developers, way_to

if TYPE_CHECKING:
    from multiprocessing.synchronize import Event

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

LABEL = "chatkeep dev"
KEY_S = 86_400.0
PATIENCE_S = 3.0


@click.command()
@click.argument("app", metavar="MODULE:ATTRIBUTE")
@click.option("--port", default=8765, show_default=True, type=click.IntRange(0, 65535), help="0 takes any free one.")
@click.option("--host", default="127.0.0.1", show_default=True, help="An address of this machine's own.")
def dev(app: str, port: int, host: str) -> None:
    """Run your bot with a chat page and start it anew when you save, until Ctrl-C.

    Conversations are in the store, so they go on after each start. Anybody on this machine may talk to the bot; there are no
    rate limits. Errors of the bot are shown with the line of yours that they come from.

    \b
    Example:
      chatkeep dev app:keep
    """
    from ..server import serving
    from ..server.reloading import Reloader

    parted(app)
    if not is_loopback(host):
        raise UsageError(
            f"{host} can be reached from other machines, and there is no sign-in here; nothing was started. Use 127.0.0.1."
        )
    listener = serving.listening(host, port, hint="Take another with --port, or any free one with --port 0.")
    sys.exit(Reloader(partial(attend, app), listener, click.echo).run())


def attend(app: str, listener: socket, ready: Event, changed: list[str]) -> None:
    """Serve *app* in a process of its own, until it is told to stop; *ready* is set when it serves.

    Where it cannot be started, and the next save may mend that, every request is answered 503 with the reason.
    """
    from ..server import checks, serving
    from ..server.application import application_of
    from ..server.reloading import refusing
    from ..server.settings import ServerSettings, server_settings_from

    began = monotonic()
    log_for_developers("INFO")
    # A file that is saved twice in a second with the same length would be taken for what was compiled before.
    sys.dont_write_bytecode = True
    try:
        settings = server_settings_from({"app": app, **ALONE})
        if not settings.title:
            settings = server_settings_from({"app": app, **ALONE, "title": app.partition(":")[0]})
        found = loaded(app)
        keep = checks.check(found, settings)
        greeting = partial(greet, app, keep, serving.address(listener), ready, changed, began)
        served = Greeting(application_of(found, settings), greeting)
        serving.serve(serving.configured(served, settings, patience_s=PATIENCE_S), listener)
    except BrokenModule as broken:
        cause = broken.__cause__ or broken
        why = "\n    ".join([f"{place_of(cause)}: {app} cannot be started.", *way_to(cause)])
    except ChatkeepError as fault:
        why = f"chatkeep: {plain(str(fault), line=True)}"
        if not changed:
            click.echo(why, err=True)
            sys.exit(exit_code(fault))
    else:
        return
    click.echo(f"{why}\nWaiting for the next save.", err=True)
    serving.serve(serving.configured(refusing(why), ServerSettings(), patience_s=PATIENCE_S), listener)


NO_LIMITS = {f"rate_{name}": "off" for name in ("peer", "refused", "begin", "token", "conversation", "tenant")}
ALONE = {"workers": 1, "admin_bind": "", "anonymous": True} | NO_LIMITS
"""How a bot is served that nobody but its author uses: by one process, at one address."""


async def greet(
    app: str, keep: Chatkeep[Any] | None, address: str, ready: Event, changed: list[str], began: float
) -> None:
    """Say where everything is; after a change only that the bot runs again."""
    from ..auth import credentials

    first = not ready.is_set()
    ready.set()
    if changed:
        click.echo(f"{', '.join(changed)} changed: {app} runs again, after {monotonic() - began:.1f} s.")
    if first or (keep is not None and changed and not lasts(keep)):
        click.echo(f"{app} is open: {address}  (Ctrl-C stops it; a save of a .py or .toml file starts it anew)")
        if keep is None:
            return
        store = without_secret(core_of(keep).url)
        kept = (
            f"kept in {store}" if lasts(keep) else f"in {store}, which every start empties; sqlite:///chat.db keeps it"
        )
        click.echo(f"What is said is {kept}.")
        issued = await credentials.create_key(keep, "", label=LABEL, expires_in=KEY_S)
        click.echo(f"A service key, for a day: {issued.token}")
        click.echo(f"The API: {address}openapi.json   people take over at {address}operator (sign in with the key)")
        click.echo(
            f"  curl -H 'Authorization: Bearer {issued.token}' -H 'Content-Type: application/json' "
            f'-d \'{{"content": "hello"}}\' {address}v1/conversations/ada/messages'
        )


def lasts(keep: Chatkeep[Any]) -> bool:
    """Tell whether the store outlives this process."""
    return Ability.DURABLE in core_of(keep).abilities


class Greeting:
    """Calls *greet* when the application has started."""

    def __init__(self, app: ASGIApp, greet: Any) -> None:
        self.app = app
        self._greet = greet

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the life of the application."""

        async def send_greeted(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                await self._greet()
            await send(message)

        await self.app(scope, receive, send_greeted if scope["type"] == "lifespan" else send)
