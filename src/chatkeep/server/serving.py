"""Runs an application as a service: loads it, puts the server around it, starts and stops its processes."""

from __future__ import annotations

import asyncio
import gc
import ipaddress
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from math import ceil
from types import FrameType
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote, unquote

from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..app import Chatkeep, core_of
from ..auth.credentials import list_keys
from ..channels.accounts import Accounts
from ..channels.base import Channel, weak_secrets
from ..drivers.base import Ability
from ..drivers.url import is_loopback
from ..durations import seconds
from ..errors import ChatkeepError, Misconfigured, StoreError, UsageError
from ..extras import from_extra
from ..loading import check_handler, loaded
from ..secrecy import MAKE_ONE, weakness_of
from . import logs, telemetry
from .access import allows
from .admin import PUBLIC, set_apart
from .app import create_app
from .health import STOPPING
from .limits import Limits, RateLimitMiddleware, is_forwarded
from .metrics import Metrics, get_metrics
from .protocol import PromptProtocol
from .settings import PREFIX, ServerSettings, admin_ports, colors_of, cors, server_settings_from
from .signed_in import header_of

with from_extra("server", "chatkeep serve"):
    import uvicorn
    from uvicorn.config import STARTUP_FAILURE
    from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
    from uvicorn.supervisors import Multiprocess
    from uvicorn.supervisors.multiprocess import Process

if TYPE_CHECKING:
    from .oidc import OpenIDProvider

log = logging.getLogger("chatkeep.server")

CONNECTIONS = 10_000
"""Connections that one process holds; more are answered 503."""

FINISH_S = 5.0
"""After a stop, requests may take this much longer than the longest turn."""

HUNG_S = 15
"""A worker process that says nothing for so long is replaced, and one that dies while it starts; what imports much on a busy machine needs
several seconds."""


def run(settings: ServerSettings) -> None:
    """Serve until SIGINT or SIGTERM. Raises a `ChatkeepError` when it cannot begin."""
    keep = check(loaded(settings.app), settings)
    listener = listening(settings.host, settings.port)
    admin = [listening(settings.admin[0], port) for port in admin_ports(settings)] if settings.admin else []
    hand_down(settings, port=listener.getsockname()[1])
    patience_s = (seconds(keep.settings.turn_timeout) if keep else 30.0) + FINISH_S
    config = configured(f"{__name__}:application", settings, patience_s=patience_s)
    logs.configure(as_json=settings.log_format == "json", level=settings.log_level)
    log.info("Serving %s on %s with %d process(es).", settings.app, address(listener), settings.workers)
    if keep is not None:
        log.info("%s", who_runs_it(settings, admin))
    for said in cautions(settings, keep):
        log.warning("%s", said)
    if settings.workers > 1:
        supervise(config, listener, admin)
    else:
        serve(config, listener, *admin)


def hand_down(settings: ServerSettings, *, port: int) -> None:
    """Put into the environment what a process that serves has to know and may be told by arguments alone; *port*: the one it is."""
    told = {"app": settings.app, "host": settings.host, "port": port, "workers": settings.workers}
    for name, value in (told | {"admin_bind": settings.admin_bind}).items():
        os.environ[f"CHATKEEP_{name.upper()}"] = str(value)
        # The file would count more than the variable, and say what an argument has overruled.
        os.environ.pop(f"CHATKEEP_{name.upper()}_FILE", None)


def configured(app: ASGIApp | str, settings: ServerSettings, *, patience_s: float) -> uvicorn.Config:
    """How uvicorn serves *app*, or what the function of that name makes; on a stop, requests have *patience_s* to end."""
    return uvicorn.Config(
        app,
        factory=isinstance(app, str),
        workers=settings.workers,
        loop="auto" if sys.platform == "win32" else "chatkeep.server.accepting:Loop",
        http=PromptProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # `Forwarded` does it
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=ceil(seconds(settings.keep_alive)),
        timeout_graceful_shutdown=int(patience_s),
        timeout_worker_healthcheck=HUNG_S,
    )


def serve(config: uvicorn.Config, *listeners: socket.socket) -> None:
    """Serve in this process."""
    # uvicorn raises the signal that stopped it once more when everything is closed.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(0))
    try:
        uvicorn.Server(config).run(sockets=list(listeners))
    except SystemExit as end:
        if end.code == STARTUP_FAILURE and FAULTS:
            raise FAULTS[0] from None
        raise


def supervise(config: uvicorn.Config, listener: socket.socket, admin: Sequence[socket.socket] = ()) -> None:
    """Serve in processes of their own; one that dies is followed by another. *admin*: a listener for each, beside the one for all."""
    workers = Workers(config, listener, admin)
    workers.run()
    if any(process.exitcode == STARTUP_FAILURE for process in workers.processes):
        raise Misconfigured("A worker process could not start, and all were stopped; its log says why.")


class Workers(Multiprocess):
    """uvicorn's worker processes; SIGHUP is passed on to them, instead of starting them anew. *admin*: a listener for each."""

    def __init__(self, config: uvicorn.Config, listener: socket.socket, admin: Sequence[socket.socket]) -> None:
        super().__init__(config, [listener])
        self._listener, self._admin = listener, admin

    def init_processes(self) -> None:
        """Start the processes."""
        with hangups_held_back():
            for number in range(self.processes_num):
                process = Process(self.config, self._sockets_of(number))
                process.start()
                self.processes.append(process)

    def keep_subprocess_alive(self) -> None:
        """Start another process in the place of one that has ended, with its listeners."""
        every = self.processes
        with hangups_held_back():
            for number, process in enumerate(every):
                self.processes, self.sockets = [process], self._sockets_of(number)
                super().keep_subprocess_alive()
                every[number] = self.processes[0]
        self.processes = every

    def _sockets_of(self, number: int) -> list[socket.socket]:
        return [self._listener, *self._admin[number : number + 1]]

    def handle_hup(self) -> None:
        """Have every process read its flags again."""
        for process in self.processes:
            if process.pid is not None:
                os.kill(process.pid, signal.SIGHUP)


@contextmanager
def hangups_held_back() -> Iterator[None]:
    """Have SIGHUP wait, here and in each process started meanwhile, until that process listens to it; before, it would end the process."""
    if not hasattr(signal, "SIGHUP"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


FAULTS: list[ChatkeepError] = []
"""Why this process could not start; for `run`, because uvicorn only says that it could not."""


def collect_less() -> None:
    """Have Python look for garbage less often, of this whole process.

    Many open streams are many small objects that live long: looking through all of them stops everything for a quarter of a
    second.
    """
    gc.set_threshold(10_000, 20, 50)


def application() -> ASGIApp:
    """Return what a process serves, by the settings in its environment."""
    collect_less()
    settings = server_settings_from({})
    logs.configure(as_json=settings.log_format == "json", level=settings.log_level)
    return application_of(loaded(settings.app), settings)


def application_of(found: object, settings: ServerSettings) -> Lifespan:
    """*found*, a Chatkeep or an ASGI application, with the server around it."""
    if not isinstance(found, Chatkeep):
        return Lifespan(cast(ASGIApp, found), settings)
    if telemetry.CAN_TRACE:
        found.instruments.append(telemetry.Tracing())
    metrics = Metrics(found) if settings.metrics else None
    limits = Limits(core_of(found).driver, settings.rates, told=metrics)
    app = create_app(
        found,
        **chosen(settings),
        routes=[Route("/metrics", allows(anyone=True)(get_metrics))] if metrics is not None else [],
        middleware=[
            Middleware(telemetry.TracingMiddleware),
            Middleware(logs.RequestLogMiddleware, metrics=metrics),
            *([Middleware(CORSMiddleware, **cors(settings.origins))] if settings.origins else []),
            Middleware(RateLimitMiddleware, limits=limits),
        ],
    )
    app.state.metrics, app.state.limits = metrics, limits
    app.state.metrics_token = settings.metrics_token
    app.state.samples.metrics, app.state.settings = metrics, settings
    if settings.admin:
        set_apart(app.router.routes)
    if metrics is not None:
        metrics.streams = app.state.streams
    return Lifespan(app, settings, found, ends=app.state.streams.end, limits=limits)


def chosen(settings: ServerSettings) -> dict[str, Any]:
    """Return what *settings* choose of what `create_app` takes. Raises `Misconfigured`."""
    return {
        "title": settings.title or None,
        "starters": settings.starters,
        "colors": colors_of(settings.colors),
        "logo": settings.logo or None,
        "pictures": settings.pictures,
        "frame_ancestors": settings.frame_ancestors,
        "offline": settings.offline,
        "hosts": settings.hosts,
        "anonymous": settings.anonymous,
        "visitor_scopes": settings.visitor_scopes,
        "protocols": settings.protocols,
        "operators": header_of(settings.operator_header) if settings.operator_header else None,
        "provider": provider_from(settings),
        "desk_idle": seconds(settings.desk_idle),
        "desk_longest": seconds(settings.desk_longest),
    }


def provider_from(settings: ServerSettings) -> OpenIDProvider | None:
    """Return the OpenID provider that *settings* name; None where they name none. Raises `Misconfigured`."""
    if not settings.oidc_issuer:
        return None
    from .oidc import OpenIDProvider, roles_in  # it needs an extra

    return OpenIDProvider(
        settings.oidc_issuer,
        settings.oidc_client_id,
        settings.oidc_client_secret,
        name_claim=settings.oidc_name,
        role_claim=settings.oidc_role,
        roles=roles_in(settings.oidc_roles),
        tenants=settings.oidc_tenants,
        label=settings.oidc_label,
    )


class Forwarded:
    """Believes what listed proxies say of where a request comes from and which prefix they took off its path, and says once
    that another address says so. *root_path*: the prefix where none is said."""

    def __init__(self, app: ASGIApp, proxies: Sequence[str], root_path: str = "") -> None:
        self.app = app
        self._root_path = root_path
        self._believed = ProxyHeadersMiddleware(cast(Any, self._served), list(proxies))
        self._told = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the life of the application."""
        forwarded = scope["type"] == "http" and is_forwarded(scope)
        client = scope.get("client")
        peer = client[0] if client else ""
        believed = forwarded and peer in self._believed.trusted_hosts
        if scope["type"] == "http" and (prefix := (prefix_of(scope) if believed else "") or self._root_path):
            put_under(prefix, scope)
        if not forwarded:
            await self.app(scope, receive, send)
            return
        if believed:
            scope["chatkeep.proxy"] = client
            await self._believed(cast(Any, scope), cast(Any, receive), cast(Any, send))
            return
        if not self._told:
            self._told = True
            log.warning(
                "%s sends forwarding headers and is not listed in `proxies`, so they are not believed. If it is your proxy, "
                "everybody behind it counts as one address for the rate limits: list it. This is said once.",
                peer or "A client without an address",
            )
        await self.app(scope, receive, send)

    async def _served(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            ipaddress.ip_address(scope["client"][0])
        except ValueError:  # a proxy that passes on anything: what is no address counts as the proxy itself
            scope["client"] = scope["chatkeep.proxy"]
        await self.app(scope, receive, send)


def prefix_of(scope: Scope) -> str:
    """Return the prefix that a proxy says it has taken off the path of a request; "" if it says none, or what cannot be one."""
    given = [value.decode("latin-1").rstrip("/") for name, value in scope["headers"] if name == b"x-forwarded-prefix"]
    return given[0] if len(given) == 1 and PREFIX.fullmatch(given[0]) else ""


def put_under(prefix: str, scope: Scope) -> None:
    """Have a request come to an application that is mounted under *prefix*: its path as a client has asked for it."""
    path, scope["root_path"] = scope["path"], unquote(prefix)
    if not f"{path}/".startswith(f"{scope['root_path']}/"):  # else the proxy took nothing off
        scope["raw_path"] = prefix.encode() + (scope.get("raw_path") or quote(path).encode())
        scope["path"] = scope["root_path"] + path


class Lifespan:
    """An application with what a process needs around its life: signals, and one line about what went wrong."""

    def __init__(
        self,
        app: ASGIApp,
        settings: ServerSettings,
        keep: Chatkeep[Any] | None = None,
        *,
        ends: Callable[[], None] = lambda: None,
        limits: Limits | None = None,
    ) -> None:
        self.app = Forwarded(app, settings.proxies, settings.root_path)
        self._settings = settings
        self._api_port = settings.port if settings.admin else None
        self._keep = keep
        self._ends = ends
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the life of the application."""
        if scope["type"] != "lifespan":
            scope[PUBLIC] = (
                self._api_port is not None and (scope.get("server") or (None, self._api_port))[1] == self._api_port
            )
            await self.app(scope, receive, send)
            return

        began = False

        async def send_told(message: Message) -> None:
            nonlocal began
            began = True
            if message["type"] == "lifespan.startup.complete":
                self._listen_to_signals()
                if self._limits is not None:
                    await self._limits.open()
                await self._tell_who_may()
            if message["type"].endswith(".failed"):
                message = {"type": message["type"]}  # its text is a traceback, which may quote anything
            await send(message)

        async def receive_told() -> Message:
            message = await receive()
            if message["type"] == "lifespan.shutdown" and self._limits is not None:
                await self._limits.close()  # before the store, whose connections they use
            return message

        try:
            await self.app(scope, receive_told, send_told)
        except Exception as fault:
            if isinstance(fault, ChatkeepError):
                FAULTS.append(fault)
            if self._settings.workers > 1 or not isinstance(fault, ChatkeepError):
                log.critical("The application could not be started or stopped.", exc_info=fault)
            if not began:
                await send({"type": "lifespan.startup.failed", "message": ""})
        finally:
            if self._limits is not None:
                await self._limits.close()

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        if hasattr(signal, "SIGHUP"):
            loop.add_signal_handler(signal.SIGHUP, self._reload)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, partial(self._stop, loop, signal.getsignal(number)))

    def _stop(self, loop: asyncio.AbstractEventLoop, stop: Any, number: int, frame: FrameType | None) -> None:
        if STOPPING.is_set():
            if number == signal.SIGINT:  # once more: at once
                stop(number, frame)
            return
        STOPPING.set()

        def go() -> None:
            self._ends()
            stop(number, frame)

        loop.call_soon_threadsafe(loop.call_later, seconds(self._settings.drain), go)

    def _reload(self) -> None:
        if self._keep is None:
            return
        try:
            self._keep.settings.flags.reload()
        except Misconfigured as fault:
            log.error("The flags stay as they were: %s", fault)
        else:
            log.info("The flags were read again.")

    async def _tell_who_may(self) -> None:
        if self._keep is None or self._settings.anonymous:
            return
        try:
            keys = await list_keys(self._keep)
        except StoreError:
            return  # with on_outage="journal" it is served all the same
        if not keys:
            far = (
                ""
                if is_loopback(self._settings.host)
                else f", and {self._settings.host} can be reached from other machines"
            )
            served = core_of(self._keep).outlet is not None
            log.warning(
                "%s: there is no service key, and anonymous is off%s. `chatkeep key create` makes one.",
                "Only channels reach this server, and nobody can use its API"
                if served
                else "Nobody can use this server",
                far,
            )


# -- before it begins ---------------------------------------------------------------------------------------------------


def check(found: object, settings: ServerSettings) -> Chatkeep[Any] | None:
    """Return the Chatkeep that is to be served; None for an ASGI application. Raises `UsageError` when it cannot be served."""
    keep = check_handler(found, settings.app)
    if keep is not None and not keep.settings.background:
        raise UsageError("A server works in the background; leave out background=False, or CHATKEEP_BACKGROUND=false.")
    if keep is not None and settings.workers > 1:
        if Ability.SHARED not in core_of(keep).abilities:
            raise UsageError("The store of this Chatkeep belongs to one process; use --workers 1, or another store.")
        if keep.settings.journal:
            raise UsageError("A journal belongs to one process; use --workers 1, or several services with one each.")
    if keep is None and settings.admin:
        raise UsageError(
            "admin_bind sets apart addresses of a Chatkeep, and this is an ASGI application; leave it out."
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


def who_runs_it(settings: ServerSettings, admin: Sequence[socket.socket]) -> str:
    """Return where the addresses are for who runs this server, and who may use them."""
    numbers = "who has metrics_token" if settings.metrics_token else "programs of this machine"
    metrics = f", /metrics for {numbers}" if settings.metrics else ""
    if admin:
        places = ", ".join(map(address, admin))
        return f"On {places} alone: /operator for who signs in, /healthz and /readyz for everybody{metrics}."
    return (
        f"At the same address: /operator for who signs in, /healthz and /readyz for everybody{metrics}; `admin_bind` gives them one "
        "of their own."
    )


def listening(host: str, port: int, *, hint: str = "") -> socket.socket:
    """Return a socket that listens there. Raises `UsageError`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # asyncio sets it only on sockets that were made as TCP by name; without it an answer on a kept connection takes 40 ms.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.bind((host, port))
        listener.listen(2048)
        listener.set_inheritable(True)
    except OSError as fault:
        listener.close()
        raise UsageError(
            f"Port {port} of {host} cannot be used ({fault.strerror}); nothing was started. {hint}".strip()
        ) from fault
    return listener


def address(listener: socket.socket) -> str:
    """Where it listens, as a URL."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
