"""Serving a bot over HTTP."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import click

from ..app import Chatkeep, core_of
from ..drivers.base import Finding
from ..errors import UsageError
from ..loading import loaded
from ..sources import CONFIG
from .stores import report


@click.command()
@click.argument("app", required=False, metavar="[MODULE:ATTRIBUTE]")
@click.option("--host", help="Where to listen; 127.0.0.1 unless told otherwise.")
@click.option("--port", type=click.IntRange(0, 65535), help="8765 unless told otherwise; 0 takes any free one.")
@click.option(
    "--admin-bind", metavar="HOST:PORT", help="Where /metrics, health and the operators' desk answer, instead of there."
)
@click.option("--workers", type=click.IntRange(1), metavar="N", help="Processes, each with its own Chatkeep.")
@click.option(
    "--config", metavar="FILE", type=click.Path(dir_okay=False), help="Settings; chatkeep.toml if there is one."
)
@click.option("--check", "only_check", is_flag=True, help="Look at settings, application and store; start nothing.")
@click.option("--all", "whole", is_flag=True, help="With --check: also the settings that are as by default.")
def serve(
    app: str | None,
    host: str | None,
    port: int | None,
    admin_bind: str | None,
    workers: int | None,
    config: str | None,
    only_check: bool,
    whole: bool,
) -> None:
    """Serve a Chatkeep (or an ASGI application) over HTTP, until Ctrl-C or SIGTERM.

    What is not said here comes from the environment (CHATKEEP_PORT, CHATKEEP_HOSTS, CHATKEEP_SESSION_TTL, ...), else
    from the file; docs/reference/settings.md has all names. On a stop it finishes running turns. SIGHUP reads the flags again.

    \b
    Examples:
      chatkeep serve app:keep
      chatkeep serve app:keep --host 0.0.0.0 --port 80 --workers 4 --config /etc/chatkeep.toml
      chatkeep serve app:keep --host 0.0.0.0 --admin-bind 127.0.0.1:9000
      chatkeep serve app:keep --check
    """
    if config or (not os.environ.get(CONFIG) and os.path.isfile("chatkeep.toml")):
        os.environ[CONFIG] = os.path.abspath(config or "chatkeep.toml")
    from ..server import checks, in_force, serving
    from ..server.settings import server_settings_from

    options = {"app": app, "host": host, "port": port, "admin_bind": admin_bind, "workers": workers}
    said = {name: value for name, value in options.items() if value is not None}
    if whole and not only_check:
        raise UsageError("--all is an option of --check; nothing was started. Add --check.")
    settings = server_settings_from(said)
    if not only_check:
        serving.run(settings)
        return
    keep = checks.check(loaded(settings.app), settings)
    found = [Finding("ok", "settings", f"{settings.app}: settings and application are fit to be served")]
    found += in_force.in_force(settings, said, keep)
    if keep is not None:
        found += asyncio.run(examined(keep))
    report(first_things_first(found, whole=whole), what=settings.app)


def first_things_first(found: list[Finding], *, whole: bool) -> list[Finding]:
    """Return what was *found* with what is wrong before what is not; without the *whole*, the settings that nobody has set are counted."""
    levels = ("fail", "warn", "ok")
    found = sorted(found, key=lambda finding: levels.index(finding.level))
    told = [one for one in found if whole or (one.level, one.subject, one.said[-9:]) != ("ok", "setting", "(default)")]
    left = len(found) - len(told)
    return told + [Finding("ok", "settings", f"{left} more are as by default; --all shows them")] * bool(left)


async def examined(keep: Chatkeep[Any]) -> list[Finding]:
    """Return what is to be said about the store of *keep*, and about its shared cache."""
    return await core_of(keep).examine()
