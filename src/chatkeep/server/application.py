"""The application that a process serves: what is put around a Chatkeep, or around an ASGI application, while it runs."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any, cast

from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..app import Chatkeep, core_of
from ..auth.credentials import list_keys
from ..drivers.url import is_loopback
from ..durations import seconds
from ..errors import ChatkeepError, Misconfigured, StoreError
from ..loading import loaded
from . import logs, telemetry
from .access import allows
from .admin import PUBLIC, set_apart
from .app import create_app
from .forwarded import Forwarded
from .health import STOPPING
from .limits import Limits, RateLimitMiddleware
from .metrics import Metrics, get_metrics
from .settings import ServerSettings, colors_of, cors, server_settings_from
from .signed_in import header_of

if TYPE_CHECKING:
    from .oidc import OpenIDProvider

log = logging.getLogger("chatkeep.server")


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
    """Return *found*, a Chatkeep or an ASGI application, with the server around it."""
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
