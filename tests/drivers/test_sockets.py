"""Sockets of the drivers, and addresses that nobody can have."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from chatkeep.drivers import driver_for, sockets
from chatkeep.errors import Unavailable


@pytest.mark.parametrize("host", ["a..b", f"{'a' * 70}.example"])
@pytest.mark.parametrize(
    "url",
    [
        "redis://{}?timeout=0.2",
        "redis+cluster://{}?timeout=0.2",
        "redis+sentinel://{}/name?timeout=0.2",
        "upstash://token@{}?timeout=0.2&tls=no",
        "durable-object://secret@{}?timeout=0.2&tls=no",
    ],
)
async def test_an_address_that_nobody_can_have_is_unavailable_and_that_is_said(url: str, host: str) -> None:
    """Python raises no OSError for it."""
    driver = driver_for(url.format(host))
    with pytest.raises(Unavailable, match="cannot be an address"):
        await driver.open()


async def test_a_host_may_have_an_address_that_is_good_on_one_link_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one of the house that tells its name itself: without the link nobody gets there."""
    look_up = socket.getaddrinfo

    def told(host: str, port: int, *kind: Any, **asked: Any) -> Any:
        if host != "redis.local":
            return look_up(host, port, *kind, **asked)
        if asked.get("flags"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        link, all_over = (socket.AF_INET6, 1, 6, ""), (socket.AF_INET, 1, 6, "")
        return [
            (*link, ("fe80::7", port, 0, 1)),
            (*link, ("2001:db8::7", port, 0, 0)),
            (*all_over, ("192.0.2.7", port)),
        ]

    monkeypatch.setattr(socket, "getaddrinfo", told)
    found = await sockets._resolved("redis.local", 6379)

    assert ["fe80::7%1", "2001:db8::7", "192.0.2.7"] == found
    places: list[Any] = look_up(found[0], 6379, type=socket.SOCK_STREAM)
    assert ("fe80::7", 6379, 0, 1) == places[0][4]
