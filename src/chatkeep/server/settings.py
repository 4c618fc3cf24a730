"""Every setting of `chatkeep serve`, its default and its limits; given like those of a Chatkeep (see chatkeep.settings)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from ipaddress import ip_network
from typing import Any, Literal, get_args

from msgspec import Struct

from ..auth.credentials import SCOPES
from ..durations import Duration, duration_fault
from ..errors import Misconfigured
from ..extras import from_extra
from ..settings import Settings, settings_given
from ..sources import from_source, given, strangers
from .appearance import appearance_of, is_origin

with from_extra("server", "A rate limit"):
    from limits import parse

LogFormat = Literal["text", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]


class ServerSettings(Struct, frozen=True, kw_only=True):
    """How `chatkeep serve` runs an application.

    app: what is served, "module:attribute": a Chatkeep, or an ASGI app. host, port: where it listens. admin_bind: "host:port" where
    /metrics, /healthz, /readyz and the operators' desk answer, which are not at the other address then. workers: processes;
    each has its own Chatkeep, so the store must be one that processes may share. title: of the chat page; without one there
    is no page. starters: what visitors may say first, as buttons. colors: of the chat page, each "accent=#0b5fff"; logo: the file of
    a picture for it. pictures: origins from which it loads pictures of messages. frame_ancestors: sites that may show it in a frame, by
    /widget.js. offline: the chat page opens in browsers also while the server is away. hosts: the names that requests may use for
    this server. anonymous: whoever comes may begin a conversation, and is handed a token with `visitor_scopes`. origins: pages of
    other origins that may use the API from a browser (CORS).
    proxies: addresses or networks in front of the server whose X-Forwarded-For is believed; of nobody else's. metrics:
    serve /metrics: to who sends metrics_token as a bearer token; without one, to this machine only. log_format, log_level.
    drain: so long the server says that it is not ready, and goes on, before it stops; for a load balancer to notice.
    keep_alive: a connection without a request is closed after this long; longer than a proxy keeps its own, which would send a
    request into one that is just being closed. root_path: the prefix that a proxy takes off the path; X-Forwarded-Prefix of a
    listed proxy says so too. protocols: those of other clients that are spoken beside the server's own API: see
    `chatkeep.server.protocols`. operator_header: the header in which a listed proxy names the account of the operators' desk that it
    has authenticated, such as "X-Forwarded-User"; it must take that header out of what others send. oidc_issuer, oidc_client_id,
    oidc_client_secret: the OpenID provider through which people sign in at the desk, and what it knows the desk by.
    oidc_name: the claim that names the account. oidc_role: the claim that tells the role, such as "groups" or "realm_access.roles", and
    oidc_roles: which value gives which, as "desk-admins=admin"; without them the account must be there. oidc_tenants: what accounts see
    that are made so. oidc_label: what the button says. desk_idle, desk_longest: when a person who is signed in at the desk is signed
    out: after doing nothing for so long, and at the latest.

    Rates are "60/minute" ("/second", "/hour", "/day"), or "off". Each counts requests:
        rate_peer          of one network address (IPv6: of a /64; a /56 has four times, a /48 16 times as many)
        rate_refused       of one address whose credentials were refused; good ones from there are served
        rate_begin         of one address that begin a conversation anonymously or redeem a share
        rate_begin_day     the same over a longer time: what one address leaves behind
        rate_token         with one conversation token
        rate_conversation  that change one conversation
        rate_tenant        of one tenant

    Two count kilobytes of what is sent with tokens and by visitors, not with service keys; reading goes on over them:
        rate_peer_kb          from one network address (IPv6: as rate_peer)
        rate_conversation_kb  to one conversation
    """

    app: str = ""
    host: str = "127.0.0.1"
    port: int = 8765
    admin_bind: str = ""
    workers: int = 1
    title: str = ""
    starters: tuple[str, ...] = ()
    colors: tuple[str, ...] = ()
    logo: str = ""
    pictures: tuple[str, ...] = ()
    frame_ancestors: tuple[str, ...] = ()
    offline: bool = False
    hosts: tuple[str, ...] = ("localhost", "127.0.0.1", "[::1]")
    anonymous: bool = False
    visitor_scopes: tuple[str, ...] = ("read", "send", "share")
    origins: tuple[str, ...] = ()
    proxies: tuple[str, ...] = ()
    metrics: bool = True
    metrics_token: str = ""
    log_format: LogFormat = "text"
    log_level: LogLevel = "info"
    drain: Duration = "0s"
    keep_alive: Duration = "130s"
    root_path: str = ""
    protocols: tuple[str, ...] = ()
    operator_header: str = ""
    oidc_issuer: str = ""
    oidc_client_id: str = ""
    oidc_client_secret: str = ""
    oidc_name: str = "email"
    oidc_role: str = ""
    oidc_roles: tuple[str, ...] = ()
    oidc_tenants: tuple[str, ...] = ("",)
    oidc_label: str = "Sign in with OpenID Connect"
    desk_idle: Duration = "30m"
    desk_longest: Duration = "12h"
    rate_peer: str = "1200/minute"
    rate_refused: str = "30/minute"
    rate_begin: str = "60/hour"
    rate_begin_day: str = "300/day"
    rate_token: str = "300/minute"
    rate_conversation: str = "60/minute"
    rate_tenant: str = "off"
    rate_peer_kb: str = "524288/day"
    rate_conversation_kb: str = "65536/day"

    @property
    def admin(self) -> tuple[str, int] | None:
        """Host and port of `admin_bind`; None without one."""
        host, _, port = self.admin_bind.rpartition(":")
        return (host.strip("[]"), int(port)) if port else None

    @property
    def rates(self) -> dict[str, str]:
        """The rate limits by what they count."""
        names = [name for name in self.__struct_fields__ if name.startswith("rate_")]
        return {name.removeprefix("rate_"): rate for name in names if (rate := getattr(self, name)) != "off"}


CHOICES = {"log_format": get_args(LogFormat), "log_level": get_args(LogLevel)}
PERIODS = ("drain", "keep_alive", "desk_idle", "desk_longest")
RANGES = {"port": (0, 65_535), "workers": (1, 256)}
PROTOCOLS = ("aisdk", "agui", "responses", "a2a", "durable_streams", "mcp")
"""The protocols of other clients that a server can speak: a module of `chatkeep.server.protocols` each."""

PREFIX = re.compile(r"(?:/[A-Za-z0-9._~%-]+)+")
"""A path that a server may be under."""

PLACE = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}")
"""A host and a port."""

HEADER = re.compile(r"[A-Za-z0-9-]+")

HOST = re.compile(r"\*|(?:\*\.)?[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]")
"""The name of a server, all names under one, or any."""

KNOWN = (*ServerSettings.__struct_fields__, *Settings.__struct_fields__, "store")


def server_settings_from(arguments: Mapping[str, object]) -> ServerSettings:
    """Return the settings from arguments, the environment and the file. Raises `Misconfigured` with everything that is wrong in
    one message, also with the names that mean nothing to anybody."""
    found, faults = given(ServerSettings, arguments)
    faults += [fault for fault in settings_given({})[1] if fault not in faults] + strangers(KNOWN)
    values: dict[str, Any] = {}
    for name, (value, source) in found.items():
        fault = fault_of(name, value, source)
        if fault:
            faults.append(from_source(f"{name} {fault}", source))
        values[name] = tuple(value) if isinstance(value, list) else value
    if faults:
        raise Misconfigured("; ".join(faults) + ". Nothing was started.")
    settings = ServerSettings(**values)
    if settings.port and settings.port in admin_ports(settings):
        raise Misconfigured(
            f"admin_bind takes port {settings.port}, which is that of the API (port): give it another one, and with several workers as "
            "many as there are workers. Nothing was started."
        )
    return settings


def admin_ports(settings: ServerSettings) -> Sequence[int]:
    """Return the ports of `admin_bind`, one for each process; those that are 0 are any free one."""
    if settings.admin is None:
        return ()
    first = settings.admin[1]
    return [first + number if first else 0 for number in range(settings.workers)]


def fault_of(name: str, value: object, source: str = "") -> str:
    """Return what is wrong with one value, which *source* gave ("": an argument); "" when nothing is."""
    kind = type(getattr(ServerSettings(), name))
    if name in PERIODS:
        fault = duration_fault(value, source)
        return f"is no duration: {fault}" if fault else ""
    if kind is tuple:
        if (
            not isinstance(value, Sequence)
            or isinstance(value, str)
            or not all(isinstance(part, str) for part in value)
        ):
            return f"is a list of text, not {value!r}"
        return fault_in_list(name, value)
    if type(value) is not kind:
        return f"is {'true or false' if kind is bool else 'a whole number' if kind is int else 'text'}, not {value!r}"
    if name == "root_path" and value and not PREFIX.fullmatch(str(value)):
        return f'is a path like "/chat", not {value!r}'
    if name == "operator_header" and value and not HEADER.fullmatch(str(value)):
        return f'is the name of a header like "X-Forwarded-User", not {value!r}'
    if (
        name == "admin_bind"
        and value
        and not (PLACE.fullmatch(str(value)) and int(str(value).rpartition(":")[2]) < 65_536)
    ):
        return f'is a host and a port like "127.0.0.1:9000", not {value!r}'
    if name == "logo" and value:
        return appearance_fault(logo=str(value))
    if name in CHOICES and value not in CHOICES[name]:
        return f"is one of {', '.join(CHOICES[name])}, not {value!r}"
    if isinstance(value, int) and name in RANGES and not RANGES[name][0] <= value <= RANGES[name][1]:
        return f"is from {RANGES[name][0]} to {RANGES[name][1]}, not {value}"
    if name.startswith("rate_") and value != "off":
        try:
            if parse(str(value)).amount < 1:
                return f"allows nothing: {value!r}"
        except ValueError:
            return f'is like "60/minute", or "off", not {value!r}'
    return ""


def fault_in_list(name: str, value: Sequence[str]) -> str:
    """Return what is wrong with the parts of a list."""
    if name == "hosts" and (wrong := [host for host in value if not HOST.fullmatch(host)]):
        return f'has {", ".join(wrong)}; a host is a name alone, like "chat.example.com" or "*.example.com"'
    if name == "visitor_scopes" and (wrong := [scope for scope in value if scope not in SCOPES]):
        return f"has no {', '.join(wrong)}; there are: {', '.join(sorted(SCOPES))}"
    if name == "origins" and (wrong := [origin for origin in value if not is_origin(origin)]):
        return f'has {", ".join(wrong)}; an origin is like "https://shop.example", and "*" is not taken'
    if name == "protocols" and (wrong := [protocol for protocol in value if protocol not in PROTOCOLS]):
        return f"has {', '.join(wrong)}; there are: {', '.join(PROTOCOLS)}"
    if name == "colors":
        wrong = [color for color in value if "=" not in color]
        return (
            f'has {", ".join(wrong)}; a color is like "accent=#0b5fff"'
            if wrong
            else appearance_fault(colors=colors_of(value))
        )
    if name in ("pictures", "frame_ancestors"):
        return appearance_fault(**{name: value})
    if name == "oidc_roles" and (wrong := [pair for pair in value if "=" not in pair]):
        return f'has {", ".join(wrong)}; each is like "desk-admins=admin"'
    if name == "proxies":
        for network in value:
            try:
                ip_network(network)
            except ValueError as fault:
                return f'has no address or network "{network}": {fault}'
    return ""


def appearance_fault(**chosen: Any) -> str:
    """Return what is wrong with a choice for the chat page."""
    try:
        appearance_of(title=None, **chosen)
    except Misconfigured as fault:
        return f"cannot be: {str(fault).removesuffix('. Nothing was started.').removesuffix('; nothing was started.')}"
    return ""


def colors_of(given: Sequence[str]) -> dict[str, str]:
    """Return colors, each "name=value", by their names."""
    return {name.strip(): value.strip() for name, _, value in (color.partition("=") for color in given)}


def cors(origins: Sequence[str]) -> dict[str, Any]:
    """Return the arguments of Starlette's CORSMiddleware: what the browser client uses, and no cookies."""
    return {
        "allow_origins": list(origins),
        "allow_methods": ["GET", "POST", "PUT", "PATCH", "DELETE"],
        "allow_headers": [
            "authorization",
            "content-type",
            "idempotency-key",
            "if-match",
            "if-none-match",
            "last-event-id",
            "prefer",
            "traceparent",
        ],
        "expose_headers": ["etag", "idempotent-replayed", "preference-applied", "retry-after", "x-request-id"],
        "max_age": 600,
    }
