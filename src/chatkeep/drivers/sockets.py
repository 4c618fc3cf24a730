"""What the drivers want of a socket: that one is opened or that there is an OSError, that a host that is gone shows, and what has
arrived."""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import Unavailable
from ..offload import offload

if TYPE_CHECKING:
    from ssl import SSLContext

T = TypeVar("T")

PROBES = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))


async def connected(
    host: str, port: int, tls: SSLContext | None = None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to *host*; with *tls*, its certificate is checked. Raises OSError."""
    name = host if tls else None
    return await _reach(host, port, lambda place: asyncio.open_connection(place, port, ssl=tls, server_hostname=name))


async def _reach(host: str, port: int, connect: Callable[[str], Awaitable[T]]) -> T:
    """Return what *connect* gives for the first address of *host* that it gets to. Raises OSError."""
    try:
        for place in (places := await _resolved(host, port)):
            try:
                return await connect(place)
            except OSError:
                if place == places[-1]:
                    raise
    except (UnicodeError, OverflowError) as fault:  # no host has such a name, or such a port
        raise ConnectionError(f"{host}:{port} cannot be an address ({fault})") from fault
    raise ConnectionError(f"{host} has no address")


class ResolvingLoop:
    """The event loop of now, for a library that connects by itself: it asks for addresses in chatkeep's threads, and not in the
    application's, which may all be busy."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    async def create_connection(self, factory: Callable[[], Any], host: str, port: int, **options: Any) -> Any:
        """Connect to *host*, whose name the certificate has to be for where there is TLS. Raises OSError."""
        if options.get("ssl"):
            options.setdefault("server_hostname", host)
        return await _reach(host, port, lambda place: self._loop.create_connection(factory, place, port, **options))


async def _resolved(host: str, port: int) -> list[str]:
    """Return the addresses of *host*: itself, where it is one. asyncio would ask for them in the application's threads."""
    with suppress(OSError):
        socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        return [host]
    try:
        found = await offload(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    except Unavailable as none_left:  # no address, no connection: it is tried again as after any other
        raise OSError(f"{host} could not be looked up. {none_left}") from none_left
    return list(dict.fromkeys(_address_of(place) for *_, place in found))


def _address_of(place: tuple[Any, ...]) -> str:
    """Return the address of a *place* as sockets have it. Of IPv6, it may be good on one link alone, which stands behind it there."""
    address, link = str(place[0]), place[3:]
    return f"{address}%{link[0]}" if any(link) else address


def keep_alive(transport: asyncio.BaseTransport) -> None:
    """Have a host that is gone show by itself on a connection that only waits: after 60 s instead of the system's two hours."""
    link = transport.get_extra_info("socket")
    for option, value in PROBES:
        if link is not None and link.family != socket.AF_UNIX and hasattr(socket, option):
            link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            link.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def looking_at(transport: asyncio.BaseTransport) -> Callable[[], object]:
    """Return what tells, without waiting, whether something has arrived that the loop has not read: bytes, or that the other end has
    closed."""
    link = transport.get_extra_info("socket")
    if not hasattr(select, "poll"):  # Windows, whose `select` takes any socket
        return lambda: select.select([link], [], [], 0)[0]
    poll = select.poll()
    poll.register(link, select.POLLIN)
    return partial(poll.poll, 0)
