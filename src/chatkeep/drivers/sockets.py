"""What the drivers want of a socket."""

from __future__ import annotations

import asyncio
import socket

PROBES = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))


def keep_alive(transport: asyncio.BaseTransport) -> None:
    """Have a host that is gone show by itself on a connection that only waits: after 60 s instead of the system's two hours."""
    link = transport.get_extra_info("socket")
    for option, value in PROBES:
        if link is not None and link.family != socket.AF_UNIX and hasattr(socket, option):
            link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            link.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
