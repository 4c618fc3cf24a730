"""The queue on disk: durable when `post` returns, sent in order, once each, whatever is killed."""

from __future__ import annotations

import asyncio
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import apsw
import pytest

from chatkeep import BadMessage, Chatkeep, Misconfigured, Unavailable, UsageError
from chatkeep.auth.credentials import create_key, forget, issue_token
from chatkeep.client import Client, NotFound, Pending, PreconditionFailed, Queued, SyncClient
from chatkeep.client import outbox as outbox_module
from chatkeep.client.link import TokenChanged
from chatkeep.client.outbox import Outbox
from chatkeep.drivers.base import Act, Append, Erase, Key, Read, Write
from chatkeep.drivers.memory import MemoryDriver
from chatkeep.server import create_app
from chatkeep.testing.crash import Wrapped, wrapped
from chatkeep.testing.proxy import Loss, Proxy
from chatkeep.testing.servers import free_port

from ..support.client_server import Place, Running, answering_pages, counting
from ..support.serving import serving
from ..support.waiting import time_passes, until

CONVERSATIONS = ("ada", "bob", "eve")


async def sent_of(place: Place, conversation: str, count: int) -> bool:
    """Whether so many messages of *conversation* have arrived."""
    return len(said(await place_log(place, conversation))) == count


def said(texts: list[str]) -> list[str]:
    """Without the bot's answers."""
    return [text for text in texts if "is number" not in text]


async def test_what_is_posted_while_the_server_is_away_arrives_when_it_is_back(tmp_path: Path) -> None:
    """In order, once, under the ids it was posted with; progress is reported."""
    server = Running(tmp_path)
    queue = str(tmp_path / "outbox.db")
    with server:
        pass  # it was there once: there is a key
    try:
        async with Client(server.url, server.key, queue=queue) as client:
            ids = [await client.conversation("ada").post(f"m{n}", metadata={"n": n}) for n in range(5)]
            again = await client.conversation("ada").post("m0", id=ids[0], metadata={"n": 0})
            with pytest.raises(BadMessage, match="other content"):
                await client.conversation("ada").post("other", id=ids[0])
            await until(lambda: client.pending.trouble)
            away = client.pending
            await asyncio.to_thread(server.start)
            await asyncio.wait_for(client.drained(), 20)
            done = client.pending
            log = await client.conversation("ada").history()
    finally:
        server.kill()

    assert (ids[0], 5, 0) == (again, away.waiting, away.refused)
    assert "Nothing was done" in away.trouble
    assert (0, 0, "") == (done.waiting, done.refused, done.trouble)
    assert ids == [message.id for message in log if message.role == "user"]
    assert [{"n": n} for n in range(5)] == [message.metadata for message in log if message.role == "user"]


@pytest.mark.parametrize("status", ["JSON", 200, 302, 401, 403, 404, 410])
async def test_what_is_posted_while_a_proxy_has_no_server_behind_it_arrives(tmp_path: Path, status: int | str) -> None:
    """As in a deploy: something answers each request with a page of its own, and then the server is there. Nothing is refused for it."""
    server = Running(tmp_path)
    with server:
        pass  # it was there once: there is a key
    try:
        async with answering_pages(server.port) as front:
            if isinstance(status, int):
                front.status = status
            else:
                front.told = {"ok": True}
            client = Client(server.url, server.key, queue=str(tmp_path / "outbox.db"))
            await client.open()
            await client.conversation("ada").post("tea", id="m1")
            await until(lambda: client.pending.trouble)
            before = client.pending
        await asyncio.to_thread(server.start)
        await asyncio.wait_for(client.drained(), 40)
        after = client.pending
        log = await client.conversation("ada").history()
        await client.close()
    finally:
        server.kill()

    assert (1, 0) == (before.waiting, before.refused)
    assert re.search("something else than a chatkeep server|not what this client understands", before.trouble)
    assert (0, 0, "") == (after.waiting, after.refused, after.trouble)
    assert ["m1"] == [message.id for message in log if message.role == "user"]


async def test_lost_answers_make_no_doubles(place: Place, tmp_path: Path) -> None:
    """Every third answer is lost, in three conversations at once."""
    seen = 0

    def lose(request: bytes) -> Loss | None:
        nonlocal seen
        seen += b"POST" in request
        return "reply" if b"POST" in request and seen % 3 == 0 else None

    async with Proxy(place.port) as proxy, place.client(port=proxy.port, queue=str(tmp_path / "q.db")) as client:
        proxy.lose = lose
        for n in range(10):
            for name in CONVERSATIONS:
                await client.conversation(name).post(f"m{n}")
        await asyncio.wait_for(client.drained(), 30)
        logs = [await place_log(place, name) for name in CONVERSATIONS]

    assert [[f"m{n}" for n in range(10)]] * 3 == [said(log) for log in logs]
    assert proxy.lost["reply"] > 5


async def place_log(place: Place, conversation: str) -> list[str]:
    """What is in a log, as the server itself has it."""
    return [message.text async for message in place.keep.history(conversation)]


POSTING = """
import asyncio, sys
from chatkeep.client import Client

async def main(url, key, queue, start):
    async with Client(url, key, queue=queue) as client:
        n = int(start)
        while True:
            name = ("ada", "bob", "eve")[n % 3]
            await client.conversation(name).post(f"{name}-{n}", id=f"id-{n}")
            print(n, flush=True)
            n += 1
            await asyncio.sleep(0.003)

asyncio.run(main(*sys.argv[1:]))
"""


async def test_a_killed_program_loses_nothing_and_doubles_nothing(running: Running, tmp_path: Path) -> None:
    """kill -9 at random moments, of the program and of the server: what post has answered is there, once, in order."""
    queue, posted = str(tmp_path / "outbox.db"), 0
    for turn in range(5):
        command = [sys.executable, "-c", POSTING, running.url, running.key, queue, str(posted)]
        program = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert program.stdout is not None
        last = await asyncio.to_thread(lines_until, program, random.randint(20, 60))
        if turn == 2:
            running.kill()
            last = max(last, await asyncio.to_thread(lines_until, program, 30))
        program.send_signal(signal.SIGKILL)
        last = max([last, *[int(line) for line in program.stdout.read().splitlines()]])
        program.stdout.close()
        program.wait()
        posted = last + 1
        if turn == 3:
            await asyncio.to_thread(running.start)
    async with Client(running.url, running.key, queue=queue) as client:
        await asyncio.wait_for(client.drained(), 60)
        logs = {
            name: said([message.text for message in await client.conversation(name).history(after=0, limit=500)])
            for name in CONVERSATIONS
        }

    # A post that was killed before it answered may be there; the next program posted the same number again: the same id.
    found = sorted(int(text.partition("-")[2]) for log in logs.values() for text in log)
    assert list(range(posted)) == [n for n in found if n < posted]
    assert len(found) <= posted + 1
    for name, log in logs.items():
        numbers = [int(text.partition("-")[2]) for text in log]
        assert sorted(numbers) == numbers, name


def lines_until(program: subprocess.Popen[bytes], count: int) -> int:
    """Reads so many lines; the last one's number."""
    assert program.stdout is not None
    return [int(program.stdout.readline()) for _ in range(count)][-1]


async def test_what_the_server_refuses_is_set_aside(place: Place, tmp_path: Path) -> None:
    """With the reason, and without holding up what comes behind; it can be sent again or dropped."""
    queue = str(tmp_path / "outbox.db")
    async with place.client(queue=queue) as client:
        chat = client.conversation("ada")
        await chat.send("taken", id="m1")
        await chat.post("first")
        await chat.post("something else", id="m1")
        await chat.post("x" * 300_000)
        await chat.post("last")
        await asyncio.wait_for(client.drained(), 10)
    async with place.client(queue=queue) as client:
        reused, large = await client.refused()
        counted = client.pending
        await client.retry(reused.number)
        await asyncio.wait_for(client.drained(), 10)
        await client.drop(reused.number)
        await client.drop(large.number)
        with pytest.raises(UsageError, match="no refused message"):
            await client.drop(large.number)
        after = (client.pending, await client.refused())

    assert ("m1", "something else", "ada") == (reused.id, reused.content, reused.conversation)
    assert "id of its own" in reused.reason
    assert (0, 2) == (counted.waiting, counted.refused)
    assert (0, 0, []) == (after[0].waiting, after[0].refused, after[1])
    assert ["taken", "first", "last"] == said(await place_log(place, "ada"))


async def test_what_waits_does_not_bring_back_what_was_erased(place: Place, tmp_path: Path) -> None:
    """It is refused, with all that was posted while the server was away; what is posted later begins anew."""
    async with Proxy(place.port) as proxy, place.client(port=proxy.port, queue=str(tmp_path / "q.db")) as client:
        ada = client.conversation("ada")
        await ada.post("before")
        await asyncio.wait_for(client.drained(), 10)
        proxy.lose = lambda _: "request"
        await ada.post("late")
        await ada.post("behind it")
        await until(lambda: client.pending.trouble)
        await place.keep.erase("ada")
        proxy.lose = lambda _: None
        await asyncio.wait_for(client.drained(), 20)
        refused = await client.refused()
        gone = await place.keep.conversation("ada")
        await ada.post("anew")
        await asyncio.wait_for(client.drained(), 10)
        await client.retry(refused[0].number)
        await asyncio.wait_for(client.drained(), 10)
        began = said(await place_log(place, "ada"))
        await ada.erase()
        await ada.post("on purpose")
        await asyncio.wait_for(client.drained(), 10)

    assert ["late", "behind it"] == [queued.content for queued in refused]
    assert all("was erased" in queued.reason for queued in refused)
    assert gone is None
    assert ["anew", "late"] == began
    assert ["on purpose"] == said(await place_log(place, "ada"))


class Away(Wrapped):
    """A driver whose store is away for the conversation "ada", while `away`."""

    away = False

    async def read(self, act: Read) -> Any:
        """Read any other."""
        self._refuse(act)
        return await self.inner.read(act)

    async def append(self, act: Append) -> Any:
        """Append to any other."""
        self._refuse(act)
        return await self.inner.append(act)

    async def write(self, act: Write) -> Any:
        """Write any other."""
        self._refuse(act)
        return await self.inner.write(act)

    def _refuse(self, act: Act) -> None:
        if self.away and act.key == Key("", "ada"):
            raise Unavailable("away")


@asynccontextmanager
async def late_in_a_journal(tmp_path: Path) -> AsyncIterator[tuple[Client, Chatkeep[Any], Away]]:
    """A client, a server and its store, which is away: a message for a conversation that was there, "ada", came late and lies in the
    server's journal."""
    away = Away(MemoryDriver())
    keep = counting(wrapped(away), on_outage="journal", journal=f"{tmp_path}/j.db", store_timeout="50ms", poll="50ms")
    async with (
        serving(create_app(keep)) as port,
        Proxy(port) as proxy,
        Place(port, (await create_key(keep, "")).token, keep).client(
            port=proxy.port, queue=str(tmp_path / "q.db")
        ) as client,
    ):
        ada = client.conversation("ada")
        await ada.post("before")
        await asyncio.wait_for(client.drained(), 10)
        proxy.lose = lambda _: "request"
        await ada.post("late")
        await until(lambda: client.pending.trouble)
        away.away = True
        proxy.lose = lambda _: None
        await until(lambda: "journal" in client.pending.trouble)
        yield client, keep, away


async def test_what_a_server_keeps_in_its_journal_brings_back_nothing(tmp_path: Path) -> None:
    """What became of a message that waited is asked until the server's store is back: it is refused where the conversation was erased."""
    async with late_in_a_journal(tmp_path) as (client, keep, away):
        await away.inner.erase(Erase(Key("", "ada"), at=time.time()))
        away.away = False
        await asyncio.wait_for(client.drained(), 30)
        refused = await client.refused()
        gone = await keep.conversation("ada")

    assert ["late"] == [queued.content for queued in refused]
    assert "was erased" in refused[0].reason
    assert gone is None


async def test_a_change_and_a_save_that_waited_bring_back_nothing(place: Place) -> None:
    """Whoever says that the conversation was there is refused where it was erased, and nothing is begun; others begin it."""
    async with place.client() as client:
        ada, account = client.conversation("ada"), client.account
        await ada.send("before")
        await ada.slot("form").merge("a", there=True)
        await account.save("ada", title="Rome", there=True)
        await ada.erase()
        with pytest.raises(PreconditionFailed, match="was erased"):
            await ada.slot("form").merge("b", there=True)
        with pytest.raises(NotFound):
            await account.save("ada", title="Paris", there=True)
        gone = await place.keep.conversation("ada")
        await ada.slot("form").merge("c")
        anew = await place.keep.conversation("ada")

    assert gone is None
    assert {"form": "c"} == anew.state


async def test_what_is_posted_after_a_conversation_has_ended_begins_it_anew(place: Place, tmp_path: Path) -> None:
    """As by a program with one conversation for good, whose old messages are forgotten after a time: it waits for nothing."""
    async with place.client(queue=str(tmp_path / "q.db")) as client:
        for text in ("before", "after"):
            await client.conversation("ada").post(text)
            await asyncio.wait_for(client.drained(), 10)
            log = said(await place_log(place, "ada"))
            await place.keep.erase("ada")
        refused = await client.refused()

    assert (["after"], []) == (log, refused)


async def test_what_an_earlier_run_has_left_brings_back_nothing(place: Place, tmp_path: Path) -> None:
    """A program that comes back after an erasure has its message refused, and is told so."""
    queue = str(tmp_path / "q.db")
    async with Proxy(place.port) as proxy:
        async with place.client(port=proxy.port, queue=queue) as client:
            await client.conversation("ada").post("before")
            await asyncio.wait_for(client.drained(), 10)
            proxy.lose = lambda _: "request"
            await client.conversation("ada").post("late")
        await place.keep.erase("ada")
        proxy.lose = lambda _: None
        async with place.client(port=proxy.port, queue=queue) as client:
            await asyncio.wait_for(client.drained(), 10)
            refused = await client.refused()

    assert ["late"] == [queued.content for queued in refused]
    assert await place.keep.conversation("ada") is None


async def test_a_post_that_is_cancelled_is_sent_or_not_there(place: Place, tmp_path: Path) -> None:
    """Never in the file and forgotten until the next start."""
    async with place.client(queue=str(tmp_path / "q.db")) as client:
        for n in range(20):
            posting = asyncio.create_task(client.conversation("ada").post(f"m{n}"))
            await asyncio.sleep(random.random() / 1000)
            posting.cancel()
            await asyncio.gather(posting, return_exceptions=True)
        await client.conversation("ada").post("last")
        await asyncio.sleep(0.2)
        await asyncio.wait_for(client.drained(), 10)
        pending = client.pending
    with apsw.Connection(str(tmp_path / "q.db")) as db:
        left = db.execute("select count(*) from outbox").fetchall()

    assert (0, 0, [(0,)]) == (pending.waiting, pending.refused, left)


async def token_for(place: Place, subject: str, tenant: str = "") -> str:
    """A token of the conversation "ada" that is made for somebody."""
    return (await issue_token(place.keep, tenant, "ada", subject=subject)).token


async def test_a_token_that_ended_holds_messages_up_and_refuses_none(place: Place, tmp_path: Path) -> None:
    """They go out as soon as the client is given another one of the same subject."""
    first, second = await token_for(place, "ada"), await token_for(place, "ada")
    async with place.client(first, queue=str(tmp_path / "q.db")) as client:
        await client.conversation("ada").post("tea")
        await asyncio.wait_for(client.drained(), 10)
        await forget(place.keep, "", "ada")
        await time_passes(1.1)
        await client.conversation("ada").post("cake")
        await until(lambda: client.pending.trouble)
        held = client.pending
        second = await token_for(place, "ada")
        client.token = second
        await until(lambda: sent_of(place, "ada", 2))

    assert (1, 0) == (held.waiting, held.refused)
    assert "client.token" in held.trouble
    assert ["tea", "cake"] == said(await place_log(place, "ada"))


async def test_what_one_has_posted_goes_out_in_nobody_elses_name(place: Place, tmp_path: Path) -> None:
    """Neither of another person nor of another tenant, in this run or the next; the writer's next token sends it."""
    queue, tenants = str(tmp_path / "q.db"), ("acme", "globex")
    ada = await token_for(place, "ada", "acme")
    others = [await token_for(place, "eve", "acme"), await token_for(place, "ada", "globex")]
    async with place.client(ada, queue=queue) as client:
        await client.conversation("ada").post("hello")
        await asyncio.wait_for(client.drained(), 10)
        await forget(place.keep, "acme", "ada")
        others[0] = await token_for(place, "eve", "acme")
        await time_passes(1.1)
        await client.conversation("ada").post("unsent", id="m")
        await until(lambda: client.pending.trouble)
        client.token = others[0]
        await client.conversation("ada").post("from eve", id="m2")
        await until(lambda: client.pending.waiting == 0 and client.pending.held == 1)
        beside = (client.pending, await client.refused(), await client.adopt())
    async with place.client(others[1], queue=queue) as client:
        await client.conversation("ada").post("other", id="m")
        await asyncio.wait_for(client.drained(), 10)
        next_run = client.pending
    logs = [[message.text async for message in place.keep.tenant(name).history("ada")] for name in tenants]
    async with place.client(await token_for(place, "ada", "acme"), queue=queue) as client:
        await asyncio.wait_for(client.drained(), 10)
        done = client.pending
    after = [message.text async for message in place.keep.tenant("acme").history("ada")]

    assert ((0, 0, 1), [], 0) == (numbers(beside[0]), *beside[1:])
    assert "another subject" in beside[0].trouble
    assert (0, 0, 1) == numbers(next_run)
    assert [["hello", "from eve"], ["other"]] == [said(log) for log in logs]
    assert (0, 0, 0) == numbers(done)
    assert ["hello", "from eve", "unsent"] == said(after)


def numbers(pending: Pending) -> tuple[int, int, int]:
    """What is counted."""
    return pending.waiting, pending.refused, pending.held


async def test_what_is_posted_before_a_credential_is_there_is_the_first_ones(place: Place, tmp_path: Path) -> None:
    """In this run; what a run without any has left is nobody's known, kept, and sent on a word only."""
    queue = str(tmp_path / "q.db")
    async with place.client(None, queue=queue) as client:
        await client.conversation("ada").post("left")
        await until(lambda: client.pending.trouble)
    async with place.client(None, queue=queue) as client:
        await client.conversation("ada").post("first")
        client.token = await token_for(place, "ada")
        await asyncio.wait_for(client.drained(), 10)
        first = client.pending
        assert 1 == await client.adopt()
        await asyncio.wait_for(client.drained(), 10)
        adopted = client.pending

    assert [(0, 0, 1), (0, 0, 0)] == [numbers(first), numbers(adopted)]
    assert ["first", "left"] == said(await place_log(place, "ada"))


async def test_a_rotated_token_sends_what_the_old_one_has_posted(running: Running, tmp_path: Path) -> None:
    """Also when the server never had the time to say whose either is."""
    queue = str(tmp_path / "q.db")
    outbox = Outbox(queue, running.url)
    outbox.use("ck_c_old")
    sent: list[tuple[str | None, str]] = []

    async def deliver(queued: Queued, there: bool, waited: bool, token: str | None, told: object) -> bool:
        sent.append((token, str(queued.content)))
        if token == "ck_c_old":
            raise TokenChanged
        return True

    async def nobody(token: str, told: object) -> str:
        raise NotFound("an older server")

    await outbox.open(deliver, nobody, lambda queued, reason: None)
    try:
        await outbox.put("ada", "m1", b'{"content":"tea"}')
        await outbox.hand_over("ck_c_old", "ck_c_new")
        outbox.use("ck_c_new")
        await until(lambda: ("ck_c_new", "tea") in sent and not outbox.pending.waiting)
        await asyncio.wait_for(outbox.drained(), 10)
        pending = outbox.pending
    finally:
        await outbox.close()

    assert (0, 0, 0) == numbers(pending)


async def test_what_waits_in_a_servers_journal_holds_up_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What becomes of it is asked again and again; other conversations do not wait for that, however few senders there are."""
    monkeypatch.setattr(outbox_module, "SENDERS", 1)
    async with late_in_a_journal(tmp_path) as (client, keep, away):
        await client.conversation("bob").post("meanwhile")
        await until(lambda: client.pending.waiting == 1)
        away.away = False
        await asyncio.wait_for(client.drained(), 30)
        await until(lambda: not keep.trouble)
        logs = [[message.text async for message in keep.history(name)][::2] for name in ("ada", "bob")]

    assert [["before", "late"], ["meanwhile"]] == logs


@pytest.mark.parametrize("subject", ["", "ada's"])
async def test_what_was_taken_is_known_under_the_next_token_too(tmp_path: Path, subject: str) -> None:
    """Of each message is told whether its conversation was there, also where the token was rotated since, or named late; what is in the
    journal of a server has begun none."""
    outbox = Outbox(str(tmp_path / "q.db"), "http://127.0.0.1:1")
    outbox.use("ck_u_old")
    told: list[tuple[str, bool]] = []

    async def deliver(queued: Queued, there: bool, waited: bool, token: str | None, tell: object) -> bool:
        told.append((str(queued.content), there))
        return queued.content != "in the journal"

    async def nobody(token: str, tell: object) -> str:
        raise NotFound("an older server")

    await outbox.open(deliver, nobody, lambda queued, reason: None)
    try:
        for number, words in enumerate(("in the journal", "first", "second")):
            await outbox.put("c", f"m{number}", b'{"content":"%s"}' % words.encode())
            await asyncio.wait_for(outbox.drained(), 10)
        if subject:
            await outbox.name("ck_u_old", subject)
        await outbox.hand_over("ck_u_old", "ck_u_new")
        outbox.use("ck_u_new")
        await outbox.put("c", "m3", b'{"content":"rotated"}')
        await asyncio.wait_for(outbox.drained(), 10)
        await outbox.discard()
        await outbox.put("c", "m4", b'{"content":"signed out"}')
        await asyncio.wait_for(outbox.drained(), 10)
    finally:
        await outbox.close()

    assert [
        ("in the journal", False),
        ("first", False),
        ("second", True),
        ("rotated", True),
        ("signed out", False),
    ] == told


async def test_a_queue_of_an_older_release_is_moved_on_and_sent_on_a_word(place: Place, tmp_path: Path) -> None:
    """It did not note whose its messages are: none is lost, and none goes out in just anybody's name."""
    queue = str(tmp_path / "q.db")
    with apsw.Connection(queue) as db:
        db.execute(
            "create table outbox (number integer primary key autoincrement, server text not null, conversation text not null,"
            " id text not null, message blob not null, posted_at real not null, reason text not null default '',"
            " unique (conversation, id)) strict;"
            "create index waiting on outbox (conversation, number) where reason = '';"
            "create index refused on outbox (number) where reason <> '';"
        )
        rows = [
            (place.url, f"m{n}", b'{"content":"old %d"}' % n, float(n), reason)
            for n, reason in enumerate(("", "", "no"))
        ]
        db.executemany(
            "insert into outbox (server, conversation, id, message, posted_at, reason) values (?, 'ada', ?, ?, ?, ?)",
            rows,
        )
    db.close()
    async with place.client(queue=queue) as client:
        await client.conversation("ada").post("new")
        await asyncio.wait_for(client.drained(), 10)
        before = client.pending
        adopted = await client.adopt()
        await asyncio.wait_for(client.drained(), 10)
        after, refused = client.pending, await client.refused()
    async with place.client(queue=queue) as client:
        again = client.pending

    assert (0, 0, 3) == numbers(before)
    assert (3, (0, 1, 0), ["no"]) == (adopted, numbers(after), [queued.reason for queued in refused])
    assert ["new", "old 0", "old 1"] == said(await place_log(place, "ada"))
    assert again.held + again.refused == 1


async def test_a_queue_belongs_to_one_process_and_one_server(place: Place, tmp_path: Path) -> None:
    """Two would overtake each other; another server would get what is not for it."""
    queue = str(tmp_path / "q.db")
    async with Client(f"http://127.0.0.1:{free_port()}", queue=queue) as client:
        await client.conversation("ada").post("tea")
        with pytest.raises(Misconfigured, match="another process"):
            await Client(place.url, queue=queue).open()
    with pytest.raises(Misconfigured, match="holds messages for http"):
        await Client(place.url, queue=queue).open()
    (tmp_path / "text.db").write_text("not a database at all, " * 100)
    with pytest.raises(Misconfigured, match="cannot be used"):
        await Client(place.url, queue=str(tmp_path / "text.db")).open()
    async with place.client() as client:
        with pytest.raises(UsageError, match="no queue"):
            await client.conversation("ada").post("tea")


async def test_the_sync_client_has_the_queue_too(place: Place, tmp_path: Path) -> None:
    """Posted from a plain thread, sent by the client's own."""

    def use() -> tuple[int, int]:
        with SyncClient(place.url, place.key, queue=str(tmp_path / "q.db")) as client:
            client.conversation("ada").post("tea")
            client.drained()
            return client.pending.waiting, len(client.refused())

    assert (0, 0) == await asyncio.to_thread(use)
    assert ["tea"] == said(await place_log(place, "ada"))
