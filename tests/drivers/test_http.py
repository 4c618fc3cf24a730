"""What the drivers that speak HTTP say where a URL means https and the server speaks http, and the other way round."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from chatkeep import Misconfigured, Unavailable
from chatkeep.drivers import driver_for
from chatkeep.testing.servers import DurableObjectServer, UpstashServer

from ..support.moves import opened_on
from ..support.tls import self_signed, tls_before

pytestmark = pytest.mark.server

Server = UpstashServer | DurableObjectServer


@pytest.fixture(scope="module", params=[UpstashServer, DurableObjectServer])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One of each that the drivers speak HTTP with; neither speaks TLS."""
    with request.param(tmp_path_factory.mktemp("server")) as running:
        yield running


async def told(url: str) -> str:
    """What `open` and `examine` say of it."""
    with pytest.raises(Misconfigured) as refused:
        await opened_on(url)
    (finding,) = [found for found in await driver_for(url).examine() if found.level == "fail"]
    assert finding.said in str(refused.value)
    return finding.said


async def test_https_to_a_server_without_tls(server: Server) -> None:
    """It is what tls=no was made for, and the URL has not got it."""
    said = await told(server.url.replace("tls=no", "timeout=2"))

    assert "it speaks http without TLS: add tls=no to the options of the URL, or name the port of https" == said


async def test_http_to_a_server_with_tls(server: Server, tmp_path: Path) -> None:
    """Nothing that is secret has to be sent to find it out, and no certificate is looked at for it."""
    _, tls = self_signed(tmp_path)
    async with tls_before(server.port, tls) as port:
        said = await told(server.url.replace(f":{server.port}", f":{port}"))

    assert "it speaks https: leave tls=no out of the URL" == said


async def test_http_to_a_server_that_sends_everybody_to_https(server: Server) -> None:
    """As services have it on port 80."""

    async def send_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 301 Moved Permanently\r\nlocation: https://localhost/\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(send_on, "127.0.0.1", 0) as front:
        port = front.sockets[0].getsockname()[1]
        said = await told(server.url.replace(f":{server.port}", f":{port}"))

    assert "it sends one on to https: leave tls=no out of the URL" == said


async def test_a_certificate_that_is_not_trusted_is_another_fault(server: Server, tmp_path: Path) -> None:
    """TLS is spoken, so tls=no would be the wrong thing to say."""
    _, tls = self_signed(tmp_path)
    async with tls_before(server.port, tls) as port:
        url = server.url.replace(f"127.0.0.1:{server.port}?tls=no", f"localhost:{port}?timeout=2")
        with pytest.raises(Misconfigured, match="certificate verify failed") as refused:
            await opened_on(url)

    assert "tls=no" not in str(refused.value)


async def test_a_server_that_only_hangs_up_is_away(server: Server) -> None:
    """Nothing is said that is not known."""

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as front:
        port = front.sockets[0].getsockname()[1]
        for options in ("tls=no&timeout=0.5", "timeout=0.5"):
            with pytest.raises(Unavailable):
                await opened_on(server.url.replace(f":{server.port}?tls=no", f":{port}?{options}"))
