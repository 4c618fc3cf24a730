"""What the drivers want of a socket: that one is opened or that there is an OSError, that a host that is gone shows, and what has
arrived."""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from ..offload import offload

if TYPE_CHECKING:
    from ssl import SSLContext

PROBES = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))


async def connected(
    host: str, port: int, tls: SSLContext | None = None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to *host*; with *tls*, its certificate is checked. Raises OSError."""
    try:
        for place in (places := await _resolved(host, port)):
            try:
                return await asyncio.open_connection(place, port, ssl=tls, server_hostname=host if tls else None)
            except OSError:
                if place == places[-1]:
                    raise
    except (UnicodeError, OverflowError) as fault:  # no host has such a name, or such a port
        raise ConnectionError(f"{host}:{port} cannot be an address ({fault})") from fault
    raise ConnectionError(f"{host} has no address")


async def _resolved(host: str, port: int) -> list[str]:
    """Return the addresses of *host*: itself, where it is one. asyncio would ask for them in the application's threads."""
    with suppress(OSError):
        socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        return [host]
    found = await offload(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
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
