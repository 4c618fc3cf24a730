"""Requests on real sockets: what is sent arrives as it is, and what goes wrong is told for what it is."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp
import pytest
from aiohttp import web

from chatkeep.channels import Channel, Delivered, Failed, Outcome, Retry, Telegram, Uncertain, Webhook
from chatkeep.channels.sender import send

from ..support.samples import NOW, WEBHOOK_SECRETS
from ..support.waiting import takes

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]
OK = {"ok": True, "result": {"message_id": 31}}


@pytest.fixture
async def served() -> AsyncIterator[Callable[[Answer], Awaitable[str]]]:
    """`await served(handler)` gives the address of a server of its own; all are stopped at the end."""
    runners = []

    async def serve(handler: Answer) -> str:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handler)
        runners.append(runner := web.AppRunner(app, handler_cancellation=True))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}"

    yield serve
    for runner in runners:
        await runner.cleanup()


async def tried(url: str, *, kind: str = "telegram", timeout: float = 5) -> Outcome:
    """What becomes of one request to *url*."""
    channel: Channel = (
        Telegram(token="1:s3cret", secrets="x", api=url)
        if kind == "telegram"
        else Webhook("shop", secrets=WEBHOOK_SECRETS, url=url)
    )
    account = "1" if kind == "telegram" else "shop"
    async with aiohttp.ClientSession() as session:
        return await send(
            session,
            channel,
            channel.requests("hello ☕", account=account, to="8", key="r1", at=NOW)[0],
            timeout=timeout,
        )


async def test_what_is_sent_arrives(served: Callable[[Answer], Awaitable[str]]) -> None:
    """Method, path, headers and the bytes that were signed."""
    seen = []

    async def handler(request: web.Request) -> web.Response:
        seen.append((request.method, request.path, request.headers.get("webhook-id"), await request.json()))
        return web.json_response(OK)

    url = await served(handler)
    found = [await tried(url), await tried(f"{url}/replies", kind="webhook")]

    assert [Delivered("31"), Delivered("")] == found
    assert [
        ("POST", "/bot1:s3cret/sendMessage", None, {"chat_id": "8", "text": "hello ☕"}),
        ("POST", "/replies", "r1", {"conversation": "8", "id": "r1", "content": "hello ☕"}),
    ] == seen


async def test_no_connection_is_certainly_not_sent() -> None:
    """A port that nobody listens on, and a name that nobody has."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    assert [Retry, Retry] == [type(await tried(f"http://127.0.0.1:{port}")), type(await tried("http://nobody.invalid"))]


@pytest.mark.parametrize(("kind", "expected"), [("telegram", Uncertain), ("webhook", Retry)])
async def test_no_answer_is_uncertain(kind: str, expected: type, served: Callable[[Answer], Awaitable[str]]) -> None:
    """A server that hangs, drips, or hangs up in the middle; harmless only where the same key shows once."""

    async def hang(request: web.Request) -> web.Response:
        await takes(30)
        return web.Response()

    async def drip(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        while True:
            await answer.write(b" ")
            await takes(0.05)

    async def cut(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"content-length": "1000"})
        await answer.prepare(request)
        await answer.write(b'{"ok"')
        assert request.transport
        request.transport.close()
        return answer

    found = [await tried(await served(handler), kind=kind, timeout=0.4) for handler in (hang, drip, cut)]

    assert [expected] * 3 == [type(one) for one in found]
    assert "s3cret" not in str(found)


async def test_a_redirect_is_not_followed(served: Callable[[Answer], Awaitable[str]]) -> None:
    """It would take the token and the message elsewhere."""
    seen = []

    async def elsewhere(request: web.Request) -> web.Response:
        seen.append(request.path)
        return web.json_response(OK)

    other = await served(elsewhere)

    async def redirect(request: web.Request) -> web.Response:
        return web.Response(status=307, headers={"location": other})

    found = await tried(await served(redirect), kind="webhook")

    assert (Failed("HTTP 307", "account"), []) == (found, seen)


async def test_an_endless_answer_is_cut_off(served: Callable[[Answer], Awaitable[str]]) -> None:
    """Not more than a megabyte of it is ever held."""

    async def flood(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        try:
            while True:
                await answer.write(b" " * 65536)
        except (ConnectionError, asyncio.CancelledError):
            return answer

    assert Uncertain("200: no reason given") == await tried(await served(flood))


async def test_an_address_that_is_none_is_the_accounts_fault() -> None:
    """Nothing leaves the host, and waiting does not help."""
    assert Failed("the channel's address is not a URL", "account") == await tried("http://")


async def test_cancelling_is_cancelling(served: Callable[[Answer], Awaitable[str]]) -> None:
    """It is not taken for an answer."""
    begun = asyncio.Event()

    async def hang(request: web.Request) -> web.Response:
        begun.set()
        await takes(30)
        return web.Response()

    task = asyncio.create_task(tried(await served(hang)))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_the_channels_import_no_client() -> None:
    """Reading and writing needs no network library; only sending does."""
    heavy = ["aiohttp", "starlette", "chatkeep.engine.engine", "chatkeep.storage.store", "chatkeep.server"]
    code = (
        "import sys; sys.modules['chatkeep'] = type(sys)('chatkeep'); sys.modules['chatkeep'].__path__ = [sys.argv[1]]\n"
        f"import chatkeep.channels; print([name for name in {heavy} if name in sys.modules])"
    )
    import chatkeep

    said = subprocess.run(
        [sys.executable, "-c", code, chatkeep.__path__[0]], capture_output=True, text=True, check=True
    )

    assert "[]" == said.stdout.strip()
