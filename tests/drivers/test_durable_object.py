"""Durable Objects on workerd: the contract, and what only they have."""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import apsw
import psutil
import pytest
from aiohttp import ClientSession
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test
from msgspec import structs

from chatkeep import Chatkeep
from chatkeep.drivers import driver_for
from chatkeep.drivers.base import Append, Driver, Entry, Erase, Fence, Key, Read, Scan
from chatkeep.drivers.durable_object import DurableObjectDriver, transport
from chatkeep.drivers.durable_object.acts import BODY_MOST
from chatkeep.drivers.durable_object.driver import PAGE
from chatkeep.drivers.durable_object.seam import Crowded
from chatkeep.drivers.http import Answer, HttpConnection
from chatkeep.engine import backlog
from chatkeep.errors import Conflict, Misconfigured, TooLarge, Unavailable
from chatkeep.testing import DriverContract
from chatkeep.testing.http_contract import HttpUser
from chatkeep.testing.machine import DriverMachine
from chatkeep.testing.proxy import Proxy
from chatkeep.testing.servers import DurableObjectServer, worker_module
from tests.support.soaking import SOAK
from tests.support.waiting import time_passes, until

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def worker() -> Iterator[DurableObjectServer]:
    """A worker for all tests of this file; tests keep apart by their stores."""
    with DurableObjectServer() as server:
        yield server


def fresh(worker: DurableObjectServer) -> str:
    """The URL of a store that nobody else has. (workerd makes a database for each conversation, which takes it a while.)"""
    return f"{worker.url}&store={secrets.token_hex(8)}&timeout=30"


async def opened_on(url: str) -> DurableObjectDriver:
    """Another driver on a store."""
    driver = DurableObjectDriver(url)
    await driver.open()
    return driver


class TestDurableObject(DriverContract):
    """The contract."""

    @pytest.fixture(autouse=True)
    def fresh_store(self, worker: DurableObjectServer) -> None:
        """A store of the test's own."""
        self.worker = worker
        self.url = fresh(worker)

    async def open_driver(self) -> Driver:
        """Another driver on it."""
        return await opened_on(self.url)

    async def empty_store(self) -> None:
        """Takes away what workerd keeps on the disk."""
        self.worker.empty()


@pytest.mark.long
def test_random_histories(worker: DurableObjectServer) -> None:
    """Three connections to one store, a new store for each history."""

    def fresh_store() -> DriverMachine:
        url = fresh(worker)
        return DriverMachine(lambda: opened_on(url))

    how = settings(max_examples=8 * SOAK, stateful_step_count=25, deadline=None)
    run_state_machine_as_test(fresh_store, settings=how)


ADA = Key("", "ada")


def said(id: str, key: Key = ADA) -> Append:
    """A message, of Ada's where nothing else is said."""
    return Append(key, [Entry(0, id, "user", b"hello")], revision=f"r {id}", at=1.0, due_at=2.0, owner="eve", tail=9)


async def test_the_block_of_the_guide() -> None:
    """A server without a folder, and a store without a name."""
    with DurableObjectServer() as server:
        keep = Chatkeep(server.url)
        keep.on_message(lambda turn: f"you said {turn.text}")
        async with keep:
            assert ["you said hello"] == [reply.text for reply in (await keep.receive("ada", "hello")).replies]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("durable-object://127.0.0.1:1", "no secret"),
        ("durable-object://s@127.0.0.1:1/chat", "nothing behind it"),
        ("durable-object://s@127.0.0.1:1?tls=maybe", "tls is yes or no"),
        ("durable-object://s@127.0.0.1:1?store=a/b", "letters, digits"),
        ("durable-object://s@127.0.0.1:1?timeout=never", "number of seconds"),
        ("durable-object://s@127.0.0.1:1?token=s", "no option token"),
    ],
)
def test_a_wrong_url_is_told(url: str, words: str) -> None:
    """Before anything is opened, and without the secret."""
    with pytest.raises(Misconfigured, match=words) as told:
        driver_for(url)

    assert "s@" not in str(told.value)


async def test_who_is_not_let_in_is_told_why(worker: DurableObjectServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another secret, and a clock that is off, are for a person to mend; an act of somebody open was certainly not done."""
    driver = await opened_on(fresh(worker))
    with pytest.raises(Misconfigured, match="another secret"):
        await opened_on(worker.url.replace("secret@", "guess@"))
    monkeypatch.setattr(transport, "time", SimpleNamespace(time=lambda: time.time() - 400))
    with pytest.raises(Misconfigured, match=r"-40[01] s off"):
        await opened_on(worker.url)
    with pytest.raises(Unavailable, match=r"-40[01] s off.*Nothing was written"):
        await driver.append(said("a"))
    assert "fail" in {finding.level for finding in await driver.examine()}
    monkeypatch.undo()

    assert (await driver.append(said("a"))).row.head == 1
    await driver.close()


@pytest.mark.parametrize("change", ["path", "body", "none"])
async def test_a_signature_is_of_one_request(worker: DurableObjectServer, change: str) -> None:
    """Nothing else is taken with it: neither by another store nor with another act."""
    body = b'{"epoch":"","acts":[["e"]]}'
    header = transport.signature(worker.secret, "POST", "/store/a/open", body)
    connection = await HttpConnection.open("127.0.0.1", worker.port, None)
    path = "/store/b/open" if change == "path" else "/store/a/open"
    head = f"POST {path} HTTP/1.1\r\nhost: worker\r\nauthorization: {header}".encode()
    answer = await connection.post(head, body.replace(b'"e"', b'"f"') if change == "body" else body)
    connection.abort()

    assert (200 if change == "none" else 401) == answer.status


async def test_where_no_worker_is(tmp_path: Path) -> None:
    """Another web server at the address is for a person to mend; nobody there may come by itself."""
    answering = await asyncio.start_server(refuse, "127.0.0.1", 0)
    port = answering.sockets[0].getsockname()[1]
    with pytest.raises(Misconfigured, match="no chatkeep worker"):
        await opened_on(f"durable-object://s@127.0.0.1:{port}?tls=no")
    answering.close()
    with pytest.raises(Unavailable, match="cannot be reached"):
        await opened_on(f"durable-object://s@127.0.0.1:{port}?tls=no&timeout=0.3")


async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A web server that has nothing."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 4\r\n\r\ngone")
    await writer.drain()
    writer.close()


async def test_a_worker_that_comes_back_is_found_again() -> None:
    """Idle connections that it has closed cost nobody an error, and the bell is heard again."""
    heard: list[str] = []
    with DurableObjectServer() as server:
        driver = await opened_on(server.url)
        driver.watch(heard.extend)
        await driver.append(said("a"))
        server.kill()
        coming = asyncio.create_task(driver.append(said("b")))
        await asyncio.to_thread(server.start)

        assert 2 == (await coming).row.head
        await until(lambda: announced(driver, heard))
        await driver.close()


async def test_lanes_share_what_connections_they_do_not_need(worker: DurableObjectServer) -> None:
    """Opening, and a hundred acts on as many conversations, one after the other, take one connection; acts of one moment one a lane."""
    async with Proxy(worker.port) as proxy:
        driver = await opened_on(fresh(worker).replace(f"127.0.0.1:{worker.port}", f"127.0.0.1:{proxy.port}"))
        for n in range(100):
            await driver.append(said(f"{n}", Key("", f"{n}")))

        assert 1 == proxy.connections == driver.pool().open
        await asyncio.gather(*(driver.append(said("later", Key("", f"{n}"))) for n in range(100)))

        assert transport.LANES == proxy.connections == driver.pool().open
        await driver.close()


async def announced(driver: Driver, heard: list[str]) -> bool:
    """Whether what is announced arrives."""
    await driver.announce(["mark"])
    return "mark" in heard


async def test_marks_and_places_of_what_was_erased_go() -> None:
    """When the time of a mark is over, neither the object nor its shard has anything of the conversation."""
    with DurableObjectServer(settings={"MARK_S": "0"}) as server:
        driver = await opened_on(server.url)
        await driver.append(said("a"))
        await driver.append(structs.replace(said("a"), key=Key("", "bob")))
        await driver.erase(Erase(ADA, at=10.0))
        with pytest.raises(Conflict):
            await driver.append(said("b"))
        assert ({"bob"}, {"ada", "bob"}) == ({row.key.id for row in await driver.scan(Scan("key", 9))}, held(server))
        await until(lambda: held(server) == {"bob"}, within=20)

        assert 1 == (await driver.append(said("b"))).row.head
        assert {"ada", "bob"} == {row.key.id for row in await driver.scan(Scan("key", 9))}
        await driver.close()


def held(server: DurableObjectServer) -> set[str]:
    """The ids of the conversations that are on the disk in some way."""
    found: set[str] = set()
    for path in server.data.rglob("*.sqlite"):
        db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
        db.set_busy_timeout(5000)  # (workerd locks a database while it opens it)
        try:
            for table in ("conversation", "place"):
                if db.execute("select 1 from sqlite_master where name = ?", [table]).fetchall():
                    found |= {id for (id,) in db.execute(f"select id from {table}")}
        finally:
            db.close()
    return found


async def test_a_warm_message_is_one_request(worker: DurableObjectServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the first one of a process that has the store open is two: it looks at the conversation."""
    posted: list[bytes] = []

    async def counted(connection: HttpConnection, head: bytes, body: bytes) -> Answer:
        posted.append(head.partition(b" HTTP")[0])
        return await post(connection, head, body)

    post = HttpConnection.post
    keep: Chatkeep[dict[str, Any]] = Chatkeep(fresh(worker), background=False, quick="5s")
    keep.on_message(lambda turn: "fine")
    async with keep:
        monkeypatch.setattr(HttpConnection, "post", counted)
        await keep.receive("ada", "hello")
        cold = len(posted)
        await keep.receive("ada", "again")

    assert (2, 1) == (cold, len(posted) - cold), posted


async def test_a_scan_has_no_more_under_way_than_is_done_in_time(
    worker: DurableObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where more conversations than that were changed in the same minute, which are looked at together: they would wait behind one
    another until their time is over, and again at each try."""
    driver = await opened_on(fresh(worker))
    acts = [Append(Key("", f"c{n}"), [Entry(0, "a", "u", b"hi")], revision="r", at=9.0) for n in range(PAGE + 50)]
    await asyncio.gather(*map(driver.append, acts))
    waiting: list[int] = []
    left = 0

    def counted(connections: transport.Connections, what: Any, said: bytes, **how: Any) -> asyncio.Future[Any]:
        nonlocal left
        answered = act(connections, what, said, **how)
        left += 1
        waiting.append(left)
        answered.add_done_callback(done)
        return answered

    def done(_: asyncio.Future[Any]) -> None:
        nonlocal left
        left -= 1

    act = transport.Connections.act
    monkeypatch.setattr(transport.Connections, "act", counted)
    found = await driver.scan(Scan("recent", limit=10))
    await driver.close()

    assert 10 == len(found)
    assert len(waiting) > len(acts)
    assert max(waiting) <= PAGE


async def test_the_look_for_a_clock_that_is_ahead_reads_no_row_of_the_running_minute(
    worker: DurableObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is a request that is paid for. What is newer is found all the same, page by page."""
    monkeypatch.setattr(backlog, "PAGE", 3)
    asked: list[str] = []

    def counted(connections: transport.Connections, what: Any, said: bytes, **how: Any) -> asyncio.Future[Any]:
        asked.append(what)
        return act(connections, what, said, **how)

    act = transport.Connections.act
    url, now = fresh(worker), 6020.0
    async with Chatkeep(url, background=False, clock=lambda: now) as keep:
        store = keep._engine.store
        driver = store.gateway.driver
        acts = [Append(Key("", f"c{n}"), [Entry(0, "a", "u", b"hi")], revision="r", at=6000.0) for n in range(50)]
        await asyncio.gather(*map(driver.append, acts))
        monkeypatch.setattr(transport.Connections, "act", counted)
        look = backlog.Ahead(store)

        assert ([], ["places"]) == (await look.step(now), asked)
        assert look.is_done

        for n in range(7):
            later = Append(Key("", f"later{n}"), [Entry(0, "a", "u", b"hi")], revision="r", at=9000.0 - n * 40)
            await driver.append(later)
        asked.clear()
        look.restart()
        found: list[str] = []
        while not look.is_done:
            found += [row.key.id for row in await look.step(now)]

    assert [f"later{n}" for n in range(7)] == found
    assert asked.count("acts") < 20  # some of a step are read for two pages, and none of the fifty


async def test_a_scan_that_fails_leaves_nobody_waiting_in_the_crowd(
    worker: DurableObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would keep places in memory from the scan's next try, and from all others."""
    driver = await opened_on(f"{fresh(worker)}&timeout=30")
    acts = [Append(Key("", f"c{n}"), [Entry(0, "a", "u", b"hi")], revision="r", at=9.0) for n in range(5)]
    await asyncio.gather(*map(driver.append, acts))
    asked: list[bytes] = []
    act = transport.Connections.act

    def crowded(connections: transport.Connections, what: Any, said: bytes, **how: Any) -> asyncio.Future[Any]:
        if what != "acts":
            return act(connections, what, said, **how)
        asked.append(said)
        answered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        lost = len(asked) == len(acts)
        answered.set_exception(Unavailable("the line was cut") if lost else Crowded("as many as it may"))
        return answered

    monkeypatch.setattr(transport.Connections, "act", crowded)
    with pytest.raises(Unavailable, match="the line was cut"):
        await driver.scan(Scan("key", limit=10))

    def left() -> list[str]:
        return [name for task in asyncio.all_tasks() if "_row_at" in (name := repr(task))]

    try:
        await until(lambda: not left(), within=20.0)
    finally:
        await driver.close()


async def test_a_value_that_an_object_cannot_hold_is_refused(worker: DurableObjectServer) -> None:
    """Before anything is sent; what just fits is stored."""
    driver = await opened_on(fresh(worker))
    for size in (BODY_MOST + 1, BODY_MOST):
        act = Append(ADA, [Entry(0, "a", "user", b"x" * size)], revision="r", at=1.0, tail=1)
        if size > BODY_MOST:
            with pytest.raises(TooLarge, match="nothing was written"):
                await driver.append(act)
        else:
            assert size == len((await driver.append(act)).tail[0].body)
    await driver.close()


@pytest.mark.long
async def test_a_scan_of_more_conversations_than_workerd_has_files_for(tmp_path: Path) -> None:
    """It waits until workerd has closed some, which it would end without, and those who talk are answered meanwhile."""
    with DurableObjectServer(tmp_path) as roomy:
        driver = await opened_on(f"{roomy.url}&timeout=30")
        acts = [Append(Key("", f"c{n}"), [Entry(0, "a", "u", b"hi")], revision="r", at=1.0) for n in range(320)]
        await asyncio.gather(*map(driver.append, acts))
        await driver.close()
        assert roomy.process is not None
        workerd = psutil.Process(roomy.process.pid)
        await until(lambda: workerd.num_fds() < len(acts), within=60.0, every=0.5)  # each has had its alarm
    with DurableObjectServer(tmp_path, files=900) as narrow:
        driver = await opened_on(f"{narrow.url}&timeout=30")
        scanning = asyncio.create_task(driver.scan(Scan("key", limit=500)))
        answered = 0
        while not scanning.done():
            said = [Entry(0, f"m{answered}", "u", b"hi")]
            await driver.append(Append(Key("", f"live{answered % 10}"), said, revision=f"r{answered}", at=2.0))
            answered += 1
            await asyncio.wait([scanning], timeout=0.2)
        found = await scanning
        await driver.close()

    assert {act.key for act in acts} <= {row.key for row in found}
    assert answered > 20


@pytest.mark.slow
async def test_a_worker_with_no_place_for_a_conversation_says_so() -> None:
    """Nothing was written then, whoever has a place goes on, and a place is free when another is not asked for."""
    with DurableObjectServer(settings={"OBJECTS_MOST": "1", "VISITORS": "yes"}) as server:
        driver = await opened_on(f"{server.url}&timeout=30")

        def said(name: str, id: str) -> Append:
            return Append(Key("", name), [Entry(0, id, "u", b"hi")], revision=id, at=1.0)

        async def taken(act: Append) -> bool:
            with contextlib.suppress(Unavailable):
                return bool(await driver.append(act))
            return False

        await driver.append(said("ada", "1"))
        with pytest.raises(Unavailable, match=r"OBJECTS_MOST.*nothing was written"):
            await driver.append(said("bob", "1"))
        with pytest.raises(Unavailable, match=r"OBJECTS_MOST.*nothing was read"):
            await driver.read(Read(Key("", "bob"), tail=9))
        refused = await asyncio.to_thread(began, server.address)
        await driver.append(said("ada", "2"))
        await until(lambda: taken(said("bob", "2")), within=60.0, every=0.5)
        found = await driver.read(Read(Key("", "bob"), tail=9))
        await driver.close()

    assert 503 == refused
    assert found is not None
    assert ["2"] == [entry.id for entry in found[1]]


async def test_a_clock_that_is_set_back_leaves_places_for_conversations() -> None:
    """What was asked by a clock that was an hour ahead is not taken to be in memory for an hour."""
    ahead = "const now = Date.now() + (name.endsWith('ada') ? 3_600_000 : 0);\n  for (const [held"
    worker = worker_module().replace("const now = Date.now();\n  for (const [held", ahead)
    assert ahead in worker
    with DurableObjectServer(settings={"OBJECTS_MOST": "1"}, worker=worker) as server:
        driver = await opened_on(f"{server.url}&timeout=30")
        for name in ("ada", "bob"):
            await driver.append(Append(Key("", name), [Entry(0, "1", "u", b"hi")], revision="r", at=1.0))
        await driver.close()


@pytest.mark.slow
async def test_a_conversation_where_somebody_waits_keeps_its_place() -> None:
    """For as long as whoever waits keeps it in memory, and ten seconds more: there is no bot, so that is ten seconds too."""
    own = "if (!most || name.includes('~')) return true;"  # (the records of chatkeep's own have room in this test)
    worker = re.sub(r"if \(!most\) return true;", own, worker_module())
    assert own in worker
    with DurableObjectServer(settings={"OBJECTS_MOST": "1", "VISITORS": "yes"}, worker=worker) as server:
        driver = await opened_on(f"{server.url}&timeout=30")
        said = Append(Key("", "bob"), [Entry(0, "1", "u", b"hi")], revision="r", at=1.0)

        async def taken() -> bool:
            with contextlib.suppress(Unavailable):
                return bool(await driver.append(said))
            return False

        async with ClientSession() as http:
            begun = await HttpUser(http, server.address).ask("POST", "/conversations")
            ada = HttpUser(http, server.address, begun.json["token"], begun.json["id"])
            told = await ada.ask("POST", "messages", {"content": "hello", "id": "m1"})
        waited_until = time.monotonic()
        await until(taken, within=60.0, every=0.5)
        kept_s = time.monotonic() - waited_until
        await driver.close()

    assert 202 == told.status
    assert kept_s > 8


@pytest.mark.slow
async def test_a_conversation_that_somebody_listens_to_keeps_its_place() -> None:
    """A stream keeps it in memory: its place is taken for as long as anybody listens, and free soon after nobody does. Who listens
    leaves places to others."""
    own = "if (!most || name.includes('~')) return true;"  # (the records of chatkeep's own have room in this test)
    worker = re.sub(r"if \(!most\) return true;", own, worker_module())
    worker, changed = re.subn(r"const (HELD_MS|CHECK_MS) = [^;]*;", r"const \1 = 2000;", worker)
    assert (True, 2) == (own in worker, changed)
    with DurableObjectServer(settings={"OBJECTS_MOST": "2", "VISITORS": "yes"}, worker=worker) as server:
        driver = await opened_on(f"{server.url}&timeout=30")

        async def taken(*names: str) -> bool:
            said = [Append(Key("", name), [Entry(0, "1", "u", b"hi")], revision="r", at=1.0) for name in names]
            with contextlib.suppress(Unavailable):
                return bool(await asyncio.gather(*(driver.append(act) for act in said)))
            return False

        async with ClientSession() as http:
            begun = await HttpUser(http, server.address).ask("POST", "/conversations")
            headers = {"authorization": f"Bearer {begun.json['token']}"}
            url = f"{server.address}/v1/conversations/{begun.json['id']}/events"
            async with http.get(url, headers=headers) as one:
                async with http.get(url, headers=headers) as other:
                    assert (200, 200) == (one.status, other.status)
                    await until(lambda: taken("bob"))
                tried = []
                for _ in range(10):
                    await time_passes(0.5)
                    tried.append(await taken("bob", "eve"))
            await until(lambda: taken("bob", "eve"), within=60.0, every=0.5)
        await driver.close()

    assert [False] * 10 == tried


async def test_the_public_api_refuses_a_store_that_was_moved() -> None:
    """Nobody begins a conversation in a store that a move has closed, or is still filling."""
    with DurableObjectServer(settings={"VISITORS": "yes"}) as server:
        driver = DurableObjectDriver(server.url)
        await driver.open()
        answers = []
        for epoch in ("filling:x", "x", "moved:x"):
            await driver.fence(Fence(epoch))
            answers.append(await asyncio.to_thread(began, server.address))
        await driver.close()

    assert [503, 201, 503] == answers


def began(address: str) -> int:
    """The status with which a visitor's conversation is begun."""
    request = urllib.request.Request(
        f"{address}/v1/conversations", data=b"{}", headers={"content-type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as refusal:
        return refusal.code
