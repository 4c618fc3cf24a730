"""Rate limits: how much one token, conversation, tenant or network address may ask, counted over all instances.

Two places ask: `admit`, once it is known who a request is from, and the middleware `RateLimitMiddleware`, for the others. Credentials
that were refused are limited by themselves: whoever sends good ones from the same address is served. Who is over a limit is
remembered here until the window ends, and costs the store nothing more.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from hashlib import blake2b
from math import ceil
from typing import Any, Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..bounded import Newest
from ..drivers.base import Driver
from ..errors import ChatkeepError
from ..extras import from_extra
from . import wire
from .access import SAFE
from .counters import HELD, Counters, InMemory, Window, counters_for
from .principals import Principal

with from_extra("server", "A rate limit"):
    from limits import RateLimitItem, parse

log = logging.getLogger("chatkeep.server")

PATIENCE_S = 0.5
"""A count that takes longer is made here instead: a limiter must not be what holds a request up."""

APART_S = 5.0
"""So long everything is counted here after the store could not count."""

BEGINNINGS = ("/v1/conversations", "/v1/shares/redeem")

LIMITED = tuple(f"/{name}".encode() for name in ("v1/", "api/chat", "agui", "a2a", "mcp", "streams/", ".well-known/"))
"""How the paths begin where requests are counted: the API, and the protocols of other clients."""

UNDER_WAY = {"token": 32, "peer": 512, "streams": 32, "peer-streams": 2048}
"""Requests that may run at once: of one token, of the tokens and visitors of one address; event streams of one token, of one address."""

WIDER = ((56, 4), (48, 16))
"""Prefix lengths at which IPv6 addresses are counted besides the /64, and how many times the /64's limit these may have: one
customer may have a /56 or a /48, and then each /64 of it would be another address."""

OF_PEERS = frozenset(("peer", "peer-streams", "refused", "begin", "begin_day", "peer_kb"))
"""What is counted by address."""

WORDS = {
    "peer": "this address",
    "refused": "this address, with credentials that are not valid",
    "begin": "this address, to begin or join conversations",
    "begin_day": "this address today, to begin or join conversations",
    "token": "this token",
    "conversation": "this conversation",
    "tenant": "this tenant",
    "peer_kb": "this address today",
    "conversation_kb": "this conversation today",
}

KILOBYTE = 1024
STEP = 64 * KILOBYTE
"""So much is gathered here before it is counted for all servers: counting each small request would cost as much as it does."""


FORWARDING = frozenset((b"x-forwarded-for", b"x-forwarded-prefix", b"forwarded", b"x-real-ip"))
"""The headers by which proxies say for whom they ask."""


class RefusalCounter(Protocol):
    """What wants to know of each refusal."""

    def limited(self, rate: str) -> None:
        """Take a request that this limit has refused."""


class Limits:
    """The rate limits of one server. *rates*: by what is counted (see WORDS), such as {"token": "300/minute"}."""

    def __init__(self, driver: Driver, rates: Mapping[str, str], *, told: RefusalCounter | None = None) -> None:
        self._rates: dict[str, RateLimitItem] = {name: parse(rate) for name, rate in rates.items()}
        self._here = InMemory()
        self._shared: Counters = counters_for(driver) or self._here
        self._told = told
        self._apart_until = 0.0
        self._over: Newest[str, float] = Newest(HELD)
        self._under_way: Counter[tuple[str, str]] = Counter()
        self._gathered: Newest[tuple[str, str], int] = Newest(HELD)
        """Bytes that are not counted yet, by kind and name."""

    async def open(self) -> None:
        """See whether hits are counted for all servers on the store, which is open."""
        if not self._rates:
            return
        if self._shared is self._here:
            log.warning(
                "Rate limits are counted in this process only, each server for itself: the store has not the ability COUNT."
            )
            return
        try:
            await self._shared.open()
        except ChatkeepError as fault:  # limits are no reason not to serve
            self._count_apart(fault)

    async def close(self) -> None:
        """Give everything back."""
        await self._shared.close()

    async def admit(self, request: Request, principal: Principal) -> None:
        """Count a request; raises `wire.Refused` (429) when one of its limits is reached."""
        peer = peer_of(request.scope)
        named = {"peer": peer, "tenant": principal.tenant}
        if principal.kind in ("token", "user"):
            named["token"] = name_of(principal)
        elif principal.kind == "visitor":
            del named["tenant"]
            begins = wire.raw_path(request.scope).decode("latin-1") in BEGINNINGS or request.scope.get(
                "chatkeep.begins"
            )
            if request.method == "POST" and begins:
                named["begin"] = named["begin_day"] = peer
        if request.method not in SAFE and (conversation := request.path_params.get("id")):
            # (What guests send must not shut out those whose conversation it is; all guests are one, for each could share it on.)
            whose = "shared:" if principal.is_guest else ""
            named["conversation"] = f"{whose}{len(principal.tenant)}:{principal.tenant}{conversation}"
        request.scope["chatkeep.counted"] = True
        if request.method not in SAFE and principal.kind != "service":
            weighed = {"peer_kb": peer} | (
                {"conversation_kb": named["conversation"]} if "conversation" in named else {}
            )
            for kind, name in weighed.items():
                self.refuse_over(kind, name)
            request.scope["chatkeep.weighed"] = weighed
        self._enter(request.scope, principal, peer)
        await self.hit(named)

    def _enter(self, scope: Scope, principal: Principal, peer: str) -> None:
        """Note that a request runs; `leave` takes it back. Who stands for a tenant may have as many under way as there are connections."""
        if principal.rules:
            return
        path = wire.raw_path(scope)
        streams = scope["method"] == "GET" and (
            path.endswith((b"/events", b"/stream")) or (b"/streams/" in path and b"live=" in scope["query_string"])
        )
        by_peer, by_token = ("peer-streams", "streams") if streams else ("peer", "token")
        most = {(by_peer, name): UNDER_WAY[by_peer] * times for name, times in counted_as(by_peer, peer)}
        if principal.kind in ("token", "user"):
            most[by_token, name_of(principal)] = UNDER_WAY[by_token]
        for (kind, name), allowed in most.items():
            if self._under_way[kind, name] >= allowed:
                if self._told is not None:
                    self._told.limited(f"under-way-{kind}")
                what = "event streams are open" if streams else "requests are under way"
                raise wire.Refused(
                    429,
                    "rate-limited",
                    f"{allowed} {what} from {WORDS['peer' if kind == by_peer else 'token']}; this one was not looked at. Try again "
                    "when one of them has ended.",
                    {"retry-after": "1"},
                )
        self._under_way.update(most.keys())
        scope["chatkeep.under_way"] = list(most)

    def leave(self, scope: Scope) -> None:
        """Note that a request has ended."""
        for key in scope.get("chatkeep.under_way", ()):
            self._under_way[key] -= 1
            if not self._under_way[key]:
                del self._under_way[key]

    async def weigh(self, scope: Scope) -> None:
        """Count the bytes of a request that has ended; whoever is over a limit by them is refused from the next one on."""
        size = scope.get("chatkeep.bytes", 0)
        for kind, name in scope.get("chatkeep.weighed", {}).items():
            if not size or kind not in self._rates:
                continue
            gathered = self._gathered.pop((kind, name), 0) + size
            # (Rounded so that what is small is counted in the end, too.)
            if gathered < min(STEP, self._rates[kind].amount * KILOBYTE):
                self._gathered[kind, name] = gathered
                continue
            with suppress(wire.Refused):
                await self.hit({kind: name}, ceil(gathered / KILOBYTE))

    async def hit(self, named: Mapping[str, str], cost: int = 1) -> None:
        """Count a hit, or so many, on each limit (by what it counts) of *named*. Raises `wire.Refused` when one is over."""
        asked = [
            (kind, key_of(kind, wide), self._rates[kind].amount * times)
            for kind, name in named.items()
            if kind in self._rates
            for wide, times in counted_as(kind, name)
        ]
        for kind, key, _ in asked:
            self._refuse_over(kind, key)
        for (kind, key, most), counted in zip(asked, await self._counted(asked, cost), strict=True):
            # (What has just been sent is taken in: it is the next that is refused, at the limit itself.)
            if counted.hits > most or (kind.endswith("_kb") and counted.hits == most):
                self._over[key] = time.monotonic() + counted.left_s
                raise self._refusal(kind, counted.left_s)

    def refuse_over(self, kind: str, name: str) -> None:
        """Raise `wire.Refused` when *name* is known to be over the limit *kind*; counts nothing."""
        if kind in self._rates:
            for wide, _ in counted_as(kind, name):
                self._refuse_over(kind, key_of(kind, wide))

    def _refuse_over(self, kind: str, key: str) -> None:
        until = self._over.get(key)
        if until is None:
            return
        left_s = until - time.monotonic()
        if left_s > 0:
            raise self._refusal(kind, left_s)
        del self._over[key]

    async def _counted(self, asked: Sequence[tuple[str, str, int]], cost: int) -> list[Window]:
        now = time.monotonic()
        hits = [(key, self._rates[kind].get_expiry()) for kind, key, _ in asked]
        if self._shared is not self._here and now >= self._apart_until:
            try:
                async with asyncio.timeout(PATIENCE_S):
                    return await asyncio.gather(*(self._shared.hit(key, window_s, cost) for key, window_s in hits))
            except (ChatkeepError, TimeoutError) as fault:
                self._count_apart(fault)
        return [self._here.count(key, window_s, now, cost) for key, window_s in hits]

    def _count_apart(self, fault: ChatkeepError | TimeoutError) -> None:
        self._apart_until = time.monotonic() + APART_S
        why = fault if isinstance(fault, ChatkeepError) else f"no answer within {PATIENCE_S:g} s"
        log.warning("Rate limits are counted in this process for %.0f s: the store does not count (%s).", APART_S, why)

    def _refusal(self, kind: str, left_s: float) -> wire.Refused:
        if self._told is not None:
            self._told.limited(kind)
        again = max(1, ceil(left_s))
        return wire.Refused(
            429,
            "rate-limited",
            f"{'Too much was sent' if kind.endswith('_kb') else 'Too many requests'} from {WORDS[kind]}; this one was not looked at. Try "
            f"again in {again} s.",
            {"retry-after": str(again)},
        )


class RateLimitMiddleware:
    """Middleware: refuses addresses that are over a limit, and counts requests that nobody else counted.

    A credential of 256 bits cannot be guessed, so a flood of bad ones is no reason to turn good ones away: the limit on refused
    credentials only makes a 429 of their 401, and they count for no other limit.
    """

    def __init__(self, app: ASGIApp, *, limits: Limits) -> None:
        self.app = app
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or not wire.raw_path(scope).startswith(LIMITED):
            try:
                await self.app(scope, receive, send)
            finally:
                self._limits.leave(scope)
            return
        peer = peer_of(scope)
        try:
            self._limits.refuse_over("peer", peer)
        except wire.Refused as over:
            await refusal(over)(scope, receive, send)
            return
        status, replaced = 0, False

        async def send_seen(message: Message) -> None:
            nonlocal status, replaced
            status = message.get("status", status)
            if message.get("status") == 401:
                try:
                    self._limits.refuse_over("refused", peer)
                except wire.Refused as over:
                    replaced = True
                    await refusal(over)(scope, receive, send)
            if not replaced:
                await send(message)

        try:
            await self.app(scope, receive, send_seen)
        finally:
            self._limits.leave(scope)
            await self._limits.weigh(scope)
        if status == 401 and not replaced:
            await self._count("refused", peer)
        elif status != 401 and "chatkeep.counted" not in scope:
            await self._count("peer", peer)

    async def _count(self, kind: str, peer: str) -> None:
        try:
            await self._limits.hit({kind: peer})
        except wire.Refused:
            return  # this one was answered; the next is refused


def refusal(over: wire.Refused) -> Response:
    """Return the refusal as a problem document, where no application is around that would make one."""
    told: dict[str, Any] = {
        "type": f"urn:chatkeep:{over.word}",
        "title": "Too Many Requests",
        "status": 429,
        "detail": over.detail,
    }
    headers = {"cache-control": "no-store", **(over.headers or {})}
    return Response(msgspec.json.encode(told), 429, headers, "application/problem+json")


def is_forwarded(scope: Scope) -> bool:
    """Tell whether a request says that a proxy has passed it on."""
    return not FORWARDING.isdisjoint(name for name, _ in scope["headers"])


def peer_of(scope: Scope) -> str:
    """Return the network address that a request comes from; of IPv6 the /64, which is what one customer has at least."""
    return network_of(scope["client"][0]) if scope.get("client") else ""


@lru_cache(maxsize=4096)
def network_of(host: str) -> str:
    """Return what *host* is counted as."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return host
    mapped = address.ipv4_mapped
    return str(mapped or ipaddress.ip_network((int(address) >> 64 << 64, 64)))


def name_of(principal: Principal) -> str:
    """Name who asks with a token, or whom the application knows."""
    return principal.id or f"{len(principal.tenant)}:{principal.tenant}{principal.user}"


@lru_cache(maxsize=4096)
def counted_as(kind: str, name: str) -> tuple[tuple[str, int], ...]:
    """Return what *name* is counted under, each with how many times the limit it may have: an IPv6 network under wider ones too."""
    network = name.rpartition("webhooks:")[2]
    if kind not in OF_PEERS or not network.endswith("/64"):
        return ((name, 1),)
    start = int(ipaddress.IPv6Network(network).network_address)
    wider = [(ipaddress.IPv6Network((start >> 128 - length << 128 - length, length)), times) for length, times in WIDER]
    return ((name, 1), *((f"{name.removesuffix(network)}{wide}", times) for wide, times in wider))


def key_of(kind: str, name: str) -> str:
    """Return what a count is kept under: bounded, and no name of a user."""
    return f"{kind}:{blake2b(name.encode(errors='surrogatepass'), digest_size=12).hexdigest()}"
