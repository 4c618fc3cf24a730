"""What waits or takes long does so in threads of chatkeep's own: calls of the application that hang hold up none of it."""

from __future__ import annotations

import asyncio
import gc
import os
import secrets
import threading
import time
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from chatkeep import Chatkeep, Turn
from chatkeep.auth.passwords import hash_password, is_password
from chatkeep.blocking import BlockingChatkeep
from chatkeep.drivers.sockets import connected
from chatkeep.drivers.sqlite import file as sqlite_files
from chatkeep.errors import Misconfigured, Unavailable
from chatkeep.offload import AT_ONCE, _call, offload
from chatkeep.server import wire
from chatkeep.testing.servers import PostgresServer
from tests.support.few_threads import few_threads
from tests.support.tls import self_signed
from tests.support.waiting import until

LIMIT_S = 60


@asynccontextmanager
async def busy_executor() -> AsyncIterator[None]:
    """All threads of `asyncio.to_thread` hang."""
    over = threading.Event()
    count = min(32, (os.cpu_count() or 1) + 4)
    begun: list[int] = []

    def hang() -> None:
        begun.append(1)
        over.wait(LIMIT_S * 4)

    hanging = [asyncio.create_task(asyncio.to_thread(hang)) for _ in range(count)]
    try:
        await until(lambda: len(begun) == count)
        yield
    finally:
        over.set()
        await asyncio.gather(*hanging)


@pytest.mark.parametrize("left", range(4))
async def test_a_store_for_which_there_are_too_few_threads_is_opened_when_there_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, left: int
) -> None:
    """What was begun of it is given back: no thread is left, and the file is nobody's."""
    keep, before = Chatkeep(f"sqlite:///{tmp_path}/chat.db", background=False), threading.active_count()
    with few_threads(monkeypatch, left), pytest.raises(Unavailable, match="No thread could be started"):
        await keep.open()
    await until(lambda: threading.active_count() <= before)

    assert [] == sqlite_files._files

    async with keep:
        await keep.accept("ada", "hello")


async def test_without_a_thread_a_store_answers_and_is_closed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What needs one of its own is refused, and done when there is one."""
    keep, before = Chatkeep(f"sqlite:///{tmp_path}/chat.db", background=False), threading.active_count()
    await keep.open()
    with few_threads(monkeypatch, 0):
        await keep.accept("ada", "hello")
        for refused in (keep.query("select 1"), keep.backup(tmp_path / "copy.db")):
            with pytest.raises(Unavailable, match="No thread could be started"):
                await refused
        with pytest.raises(OSError, match="localhost could not be looked up"):
            await connected("localhost", 9)
        await keep.close()

    assert [] == sqlite_files._files
    assert threading.active_count() <= before
    async with keep:
        assert [(1,)] == await keep.query("select 1")


def test_a_blocking_chatkeep_for_which_there_is_no_thread_is_opened_when_there_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Code without an event loop hears of it as everybody does."""
    chat = BlockingChatkeep(Chatkeep("memory://"))
    with few_threads(monkeypatch, 0), pytest.raises(Unavailable, match="No thread could be started"):
        chat.open()
    with chat:
        chat.accept("ada", "hello")


async def test_a_store_is_opened_and_closed_while_calls_of_the_bot_hang(tmp_path: Path) -> None:
    """Otherwise a stop would wait for a provider that does not answer."""
    keep = Chatkeep(f"sqlite:///{tmp_path}/chat.db", version="1")

    @keep.on_message
    async def bot(turn: Turn) -> str:
        return "here"

    async with busy_executor(), asyncio.timeout(LIMIT_S), keep:
        assert ["here"] == [reply.text for reply in (await keep.receive("ada", "there?")).replies]


async def test_processes_tell_each_other_news_while_calls_of_the_bot_hang(tmp_path: Path) -> None:
    """So what is shown of a chat stays new."""
    url = f"sqlite:///{tmp_path}/chat.db"
    heard: list[str] = []
    one, other = (Chatkeep(url, poll="60s") for _ in range(2))
    async with one, other:
        other._engine.store.driver.watch(heard.extend)
        async with busy_executor(), asyncio.timeout(LIMIT_S):
            await one._engine.store.driver.announce(["mark"])
            await until(lambda: "mark" in heard)


async def test_a_host_is_found_while_calls_of_the_bot_hang() -> None:
    """A connection to the store that was lost comes back."""
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    async with server, busy_executor(), asyncio.timeout(LIMIT_S):
        _, writer = await connected("localhost", server.sockets[0].getsockname()[1])
        writer.close()


@asynccontextmanager
async def upgrading(port: int, folder: Path) -> AsyncIterator[tuple[int, Path]]:
    """A port before a PostgreSQL that knows no TLS, which upgrades to it with a certificate for localhost; and the certificate."""
    certificate, context = self_signed(folder)
    links: set[asyncio.Task[None]] = set()

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(1 << 16):
                sink.write(data)
        sink.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            await reader.readexactly(8)
            writer.write(b"S")
            await writer.start_tls(context)
            arriving, leaving = await asyncio.open_connection("127.0.0.1", port)
            for way in (pump(reader, leaving), pump(arriving, writer)):
                links.add(asyncio.create_task(way))

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as front:
        yield front.sockets[0].getsockname()[1], certificate
    for link in links:
        link.cancel()
    await asyncio.gather(*links, return_exceptions=True)


@pytest.mark.server
async def test_postgresql_is_found_by_its_name_while_calls_of_the_bot_hang(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    """Also as the second of two hosts, and where the name is what a certificate is checked for."""
    schema = f"t{secrets.token_hex(6)}"
    place = urlsplit(postgres.url)
    user, base = place.netloc.rpartition("@")[0], place.path
    async with upgrading(place.port or 0, tmp_path) as (secure, certificate):
        tls = f"sslmode=verify-full&sslrootcert={certificate}"
        two = f"postgresql://{user}@localhost:1,localhost:{place.port}{base}?schema={schema}"
        named, numbered = (
            f"postgresql://{user}@{host}:{secure}{base}?schema={schema}&{tls}" for host in ("localhost", "127.0.0.1")
        )
        async with busy_executor(), asyncio.timeout(LIMIT_S):
            for url in (two, named):
                async with Chatkeep[Any](url, version="1") as keep:
                    await keep.accept("ada", "hi", id=url)
            with pytest.raises(Misconfigured, match="certificate verify failed"):
                async with Chatkeep[Any](numbered, version="1"):
                    pass
        async with Chatkeep[Any](two) as keep:
            assert 2 == len([message async for message in keep.history("ada")])
    connection = await asyncpg.connect(postgres.url)
    await connection.execute(f"set client_min_messages = warning; drop schema {schema} cascade")
    await connection.close()


async def test_passwords_are_compared_while_calls_of_the_bot_hang() -> None:
    """People can sign in."""
    async with busy_executor(), asyncio.timeout(LIMIT_S):
        hashed = await hash_password("a password of many words")

        assert await is_password("a password of many words", hashed)


@pytest.mark.parametrize("name", ["auth", "drivers", "engine", "people", "server", "storage"])
def test_nothing_takes_the_threads_of_the_application(name: str) -> None:
    """Whatever it does off the loop, a new line of it too."""
    folder = Path(wire.__file__).parents[1] / name
    taken = [path.name for path in folder.rglob("*.py") if "await asyncio.to_thread(" in path.read_text()]

    assert [] == taken


async def test_what_a_call_answers_or_raises_comes_back() -> None:
    """With its arguments; and no thread is left."""
    assert "1-2" == await offload("{}-{b}".format, 1, b=2)
    with pytest.raises(ZeroDivisionError):
        await offload(lambda: 1 // 0)

    assert [] == [thread for thread in threading.enumerate() if thread.name == "chatkeep call"]


async def test_who_is_cancelled_does_not_wait() -> None:
    """The call goes on, and its place is free when it ends or its caller goes."""
    over = threading.Event()
    begun: list[int] = []

    def hang() -> None:
        begun.append(1)
        over.wait(LIMIT_S)

    calls = [asyncio.create_task(offload(hang)) for _ in range(AT_ONCE + 1)]
    await until(lambda: len(begun) == AT_ONCE)
    for call in calls[:2]:
        call.cancel()
    await asyncio.wait(calls[:2], timeout=LIMIT_S)
    await until(lambda: len(begun) == AT_ONCE + 1)
    over.set()

    assert [None] * (AT_ONCE - 1) == await asyncio.gather(*calls[2:])
    assert all(call.cancelled() for call in calls[:2])


async def test_who_is_cancelled_before_the_call_has_begun_does_not_break_its_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A thread begins when the system has it begin; the call runs all the same."""
    goes, broken, ran = threading.Event(), list[object](), threading.Event()

    def late(*args: Any) -> None:
        goes.wait(LIMIT_S)
        _call(*args)

    monkeypatch.setattr("chatkeep.offload._call", late)
    monkeypatch.setattr(threading, "excepthook", broken.append)
    asked = asyncio.create_task(offload(ran.set))
    await until(lambda: any(thread.name == "chatkeep call" for thread in threading.enumerate()))
    asked.cancel()
    await asyncio.wait([asked], timeout=LIMIT_S)
    goes.set()
    await until(lambda: all(thread.name != "chatkeep call" for thread in threading.enumerate()))

    assert (True, True, []) == (asked.cancelled(), ran.is_set(), broken)


def test_nothing_is_kept_of_loops_that_are_closed() -> None:
    """Also where calls, or passwords, had to wait for their turn."""
    loops: list[weakref.ref[asyncio.AbstractEventLoop]] = []

    async def wait() -> None:
        loops.append(weakref.ref(asyncio.get_running_loop()))
        await asyncio.gather(*(offload(time.sleep, 0.01) for _ in range(AT_ONCE * 2)))
        await asyncio.gather(*(hash_password("correct horse") for _ in range(3)))

    for _ in range(3):
        asyncio.run(wait())
    gc.collect()

    assert [None, None] == [loop() for loop in loops[:2]]  # (the last one goes when another one comes)
