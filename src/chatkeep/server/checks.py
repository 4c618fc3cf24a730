"""What is looked at before a server begins: whether it can, and what somebody who starts it should know."""

from __future__ import annotations

from typing import Any

from ..app import Chatkeep, core_of
from ..channels.accounts import Accounts
from ..channels.base import Channel, weak_secrets
from ..drivers.base import Ability
from ..drivers.url import is_loopback
from ..errors import Misconfigured, UsageError
from ..loading import check_handler
from ..secrecy import MAKE_ONE, weakness_of
from .app import create_app
from .application import chosen
from .settings import ServerSettings


def check(found: object, settings: ServerSettings) -> Chatkeep[Any] | None:
    """Return the Chatkeep that is to be served; None for an ASGI application. Raises `UsageError` when it cannot be served."""
    keep = check_handler(found, settings.app)
    if keep is not None and not keep.settings.background:
        raise UsageError(
            "A server works in the background; leave out background=False, or CHATKEEP_BACKGROUND=false. Nothing was started."
        )
    if keep is not None and settings.workers > 1:
        if Ability.SHARED not in core_of(keep).abilities:
            raise UsageError(
                "The store of this Chatkeep belongs to one process; use --workers 1, or another store. Nothing was started."
            )
        if keep.settings.journal:
            raise UsageError(
                "A journal belongs to one process; use --workers 1, or several services with one each. Nothing was started."
            )
    if keep is None and settings.admin:
        raise UsageError(
            "admin_bind sets apart addresses of a Chatkeep, and this is an ASGI application; leave it out. Nothing was started."
        )
    weak = weak_secrets_in(settings, keep)
    if weak and reachable(settings):
        raise Misconfigured(
            f"Other machines can reach this server, and what opens it can be guessed: {'; '.join(weak)}. Make each anew with {MAKE_ONE} "
            "(a platform has to be told that of its channel). Nothing was started."
        )
    if keep is not None:
        create_app(keep, **chosen(settings))  # what cannot be put together is told before anything listens
    return keep


def reachable(settings: ServerSettings) -> bool:
    """Tell whether others than programs of this machine can reach the server: where it listens, or through a proxy that it knows."""
    hosts = [settings.host, *([settings.admin[0]] if settings.admin else [])]
    return bool(settings.proxies) or not all(map(is_loopback, hosts))


def weak_secrets_in(settings: ServerSettings, keep: Chatkeep[Any] | None) -> list[str]:
    """Return which secrets can be guessed, and why: of the server, of the channels, and the key that seals now."""
    token = settings.metrics_token and weakness_of(settings.metrics_token)
    found = [f"metrics_token is a secret {token}"] if token else []
    if keep is not None:
        outlet, keys = core_of(keep).outlet, keep.settings.seal_keys[:1]
        channels: tuple[Channel, ...] = outlet.channels if isinstance(outlet, Accounts) else ()
        found += [said for channel in channels for said in weak_secrets(channel)]
        found += [f"the first of seal_keys is a secret {said}" for key in keys if (said := weakness_of(key))]
    return found


def cautions(settings: ServerSettings, keep: Chatkeep[Any] | None) -> list[str]:
    """Return what somebody who starts this should know."""
    said = [f"{weak}, which can be guessed. Make one: {MAKE_ONE}" for weak in weak_secrets_in(settings, keep)]
    if keep is not None and not is_loopback(settings.host) and settings.hosts == ServerSettings().hosts:
        said.append(
            'Requests must name this server as localhost; set hosts, such as CHATKEEP_HOSTS="chat.example.com".'
        )
    if settings.workers > 1 and keep is not None:
        said.append(
            f"The {settings.workers} processes share one port, so the messages of a conversation come to any of them: each reads what "
            "another has written, and a handler runs again where two answer one conversation at once. A message takes about twice the "
            "processor time of one that always comes to the same process. Where that matters, run a process a port and have the "
            "proxy choose by the path: docs/how-to/server.md has the lines."
        )
    if settings.workers > 1 and settings.metrics and keep is not None and not settings.admin:
        said.append(
            "Each process has its own /metrics: a scrape shows one of them. `admin_bind` gives each a port of its own."
        )
    return said
