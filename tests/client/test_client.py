"""The client's words, over real sockets against the real server."""

from __future__ import annotations

import asyncio
import email.utils
import gc
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from chatkeep import (
    BadKey,
    BadMessage,
    ChatkeepError,
    HandlerFailed,
    Misconfigured,
    NotOpen,
    OtherOwner,
    TooLarge,
    Unavailable,
    Uncertain,
    UsageError,
)
from chatkeep.client import (
    Client,
    Forbidden,
    KeyReused,
    MessageEvent,
    NotFound,
    PreconditionFailed,
    SyncClient,
    Unauthorized,
    events,
    link,
)
from chatkeep.testing.proxy import Loss, Proxy
from chatkeep.testing.servers import free_port

from ..support.client_server import Place, Running, answering_pages
from ..support.waiting import time_passes, until


async def test_a_message_is_answered_and_the_log_has_what_the_receipt_says(place: Place) -> None:
    """One round: send, read, page."""
    async with place.client() as client:
        chat = client.conversation("ada")
        receipt = await chat.send("tea", id="m1", metadata={"from": "web"})
        again = await chat.send("tea", id="m1", metadata={"from": "web"})
        await chat.send([{"type": "text", "text": "cake"}])
        log = await chat.history()
        page = await chat.history(after=1, before=4, limit=1)
        seen = await chat.read(messages=1)

    assert ("ada", "m1", 1, "answered", False) == (
        receipt.conversation,
        receipt.id,
        receipt.number,
        receipt.status,
        receipt.duplicate,
    )
    assert ["tea is number 1"] == [reply.text for reply in receipt.replies]
    assert (True, receipt.replies) == (again.duplicate, again.replies)
    assert ["tea", "tea is number 1", "cake", "cake is number 2"] == [message.text for message in log]
    assert {"from": "web"} == log[0].metadata
    assert log[1:2] == page
    assert ("ada", 4, log[-1:], {"count": 2}) == (seen.id, seen.head, seen.messages, seen.state)


@pytest.mark.parametrize(
    "id", ["a/b", "..", ".", "%2F", "ö ü", "a?b#c", "x/messages", "x/state/y", "\n", "+1 555", "a%zz"]
)
async def test_an_id_is_any_text(place: Place, id: str) -> None:
    """What is in the address never becomes part of it."""
    async with place.client() as client:
        receipt = await client.conversation(id).send("hello")
        read = await client.conversation(id).read()
        found = [shown.id for shown in await client.conversations()]

    assert (id, id, 2, [id]) == (receipt.conversation, read.id, read.head, found)


async def test_accept_does_not_wait_for_the_answer(place: Place) -> None:
    """The message is in the log, the answer follows."""
    async with place.client() as client:
        chat = client.conversation("ada")
        receipt = await chat.accept("slow", id="m1")
        settled = await chat.send("slow", id="m1")

    assert ("accepted", 1) == (receipt.status, receipt.number)
    assert ("answered", ["slow is number 1"]) == (settled.status, [reply.text for reply in settled.replies])


async def test_refusals_say_what_to_do_next(place: Place) -> None:
    """Each problem is an error of its own."""
    async with place.client() as client:
        chat = client.conversation("ada")
        await chat.send("tea", id="m1")
        token = (await chat.issue(scopes=["read"])).token
        with pytest.raises(KeyReused, match="id of its own"):
            await chat.send("cake", id="m1")
        with pytest.raises(HandlerFailed, match="kept"):
            await chat.send("fail")
        with pytest.raises(NotFound, match="bob"):
            await client.conversation("bob").history()
        with pytest.raises(TooLarge):
            await chat.send("x" * 300_000)
        with pytest.raises(BadMessage, match="nothing was sent"):
            await chat.send([{"type": "number", "value": float("nan")}])
        with pytest.raises(BadMessage, match="nothing was sent"):
            await chat.send("half \ud800")
        with pytest.raises(BadKey):
            client.conversation("")
        client.token = token
        with pytest.raises(Forbidden, match="send"):
            await chat.send("more")
        with pytest.raises(NotFound):
            await client.conversation("bob").history()
        client.token = "ck_c_wrong"
        with pytest.raises(Unauthorized, match=r"client\.token"):
            await chat.history()
    with pytest.raises(NotOpen, match="the client is not open"):
        await chat.history()


@pytest.mark.parametrize(
    "url", ["chat.example", "ftp://chat.example", "http://user:secret@host", "http://host/?a=b", ""]
)
def test_an_address_that_is_none_is_refused(url: str) -> None:
    """At once, and without showing a password."""
    with pytest.raises(Misconfigured) as refused:
        Client(url)
    with pytest.raises(Misconfigured, match="token"):
        Client("http://host", "two\nlines")
    with pytest.raises(Misconfigured, match="duration"):
        Client("http://host", timeout="soon")

    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("loss", ["request", "reply"])
async def test_a_lost_answer_has_no_second_effect(place: Place, loss: Loss) -> None:
    """The message is sent again under its id: one in the log, one reply."""
    async with Proxy(place.port) as proxy, place.client(port=proxy.port) as client:
        proxy.lose = lambda request: loss if b"POST" in request and proxy.lost[loss] < 2 else None
        receipt = await client.conversation("ada").send("tea")
        log = await client.conversation("ada").history()

    assert (2, "answered") == (proxy.lost[loss], receipt.status)
    assert ["tea", "tea is number 1"] == [message.text for message in log]


async def test_a_server_that_is_killed_in_the_middle_of_a_send_answers_once(running: Running) -> None:
    """Nobody has to send it again, and nobody is answered twice."""
    async with Client(running.url, running.key) as client:
        chat = client.conversation("ada")
        sending = asyncio.create_task(chat.send("slow"))
        await until(client.conversations)
        running.kill()
        await asyncio.to_thread(running.start)
        receipt = await sending
        log = await chat.history()

    assert ["slow is number 1"] == [reply.text for reply in receipt.replies]
    assert ["slow", "slow is number 1"] == [message.text for message in log]


async def test_what_passes_is_waited_for_and_what_does_not_is_not() -> None:
    """Retry-After in seconds and as a date, a proxy's page; a redirect is no answer, and gets no token."""
    asked: list[tuple[float, str, str]] = []
    soon = email.utils.format_datetime(datetime.now(UTC) + timedelta(seconds=4), usegmt=True)
    answers = {
        "/busy": [Response(status_code=429, headers={"retry-after": "1"})],
        "/dated": [Response(status_code=503, headers={"retry-after": soon})],
        "/proxy": [Response("<html>", 502), Response("<html>", 504)],
        "/moved": [Response(status_code=307, headers={"location": "/elsewhere"})],
        "/page": [Response("<html>")],
    }

    async def answer(request: Request) -> Response:
        asked.append((time.monotonic(), request.url.path, request.headers["authorization"]))
        waiting = answers.get("/" + request.url.path.split("/")[1], [])
        return waiting.pop(0) if waiting else JSONResponse({"messages": []})

    listener = socket.create_server(("127.0.0.1", 0))
    app = Starlette(routes=[Route("/{path:path}", answer)])
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", ws="none"))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    took: dict[str, Any] = {}
    for path in answers:
        async with Client(f"http://127.0.0.1:{listener.getsockname()[1]}{path}", "secret") as client:
            began = time.monotonic()
            try:
                await client.conversation("ada").history()
            except ChatkeepError as refused:
                took[path] = type(refused)
            else:
                took[path] = round(time.monotonic() - began, 1)
    server.should_exit = True
    await serving

    assert (Unavailable, Uncertain) == (took["/moved"], took["/page"])
    assert 1.1 <= took["/busy"] < 2
    assert 1.2 <= took["/dated"] < 4
    assert 0.3 <= took["/proxy"] < 2
    assert [2, 2, 3, 1, 1] == [len([1 for _, asked_for, _ in asked if asked_for.startswith(path)]) for path in answers]
    assert {"Bearer secret"} == {token for _, _, token in asked}


async def test_without_a_server_it_is_certain_that_nothing_was_sent() -> None:
    """The call ends with its timeout, and not when a connection is given up, and says so."""
    began = time.monotonic()
    async with Client(f"http://127.0.0.1:{free_port()}", timeout="1s") as client:
        with pytest.raises(Unavailable, match="Nothing was done"):
            await client.conversation("ada").send("tea")

    assert time.monotonic() - began < 10


async def test_silence_is_uncertain_and_names_the_id(place: Place) -> None:
    """What was sent and not answered may be there; a read is just unavailable."""
    async with (
        Proxy(place.port) as proxy,
        place.client(port=proxy.port, timeout="500ms", attempt="100ms") as client,
    ):
        chat = client.conversation("ada")
        proxy.silent = True
        with pytest.raises(Uncertain, match="m1"):
            await chat.send("tea", id="m1")
        with pytest.raises(Unavailable, match="Nothing was read"):
            await chat.history()
        with pytest.raises(Uncertain):  # a refusal now says nothing of the attempt before
            await chat.erase()


async def test_closing_ends_the_calls_that_still_wait(place: Place) -> None:
    """With an error, not with a hang; what was sent is answered all the same."""
    async with place.client() as other:
        await other.create("ada")  # or whoever looks comes first, to nothing
        async with place.client() as client:
            sending = asyncio.create_task(client.conversation("ada").send("slow", id="m1"))
            await until(other.conversation("ada").history)
        with pytest.raises((Uncertain, UsageError)):
            await asyncio.wait_for(sending, 5)
        receipt = await other.conversation("ada").send("slow", id="m1")

    assert ["slow is number 1"] == [reply.text for reply in receipt.replies]


async def test_changes_of_many_are_all_made(place: Place) -> None:
    """Also when others write, and when answers are lost: each edit counts once."""

    def count(state: dict[str, Any]) -> None:
        state["count"] = state.get("count", 0) + 1

    keys: list[bytes] = []

    def lose(request: bytes) -> Loss | None:
        found = re.findall(rb"(?i)idempotency-key: (\S+)", request)
        keys.extend(found)
        return "reply" if found and len(keys) % 3 == 0 else None

    async with Proxy(place.port) as proxy, place.client(port=proxy.port) as one, place.client() as other:
        await one.create("ada")
        proxy.lose = lose
        chats = [one.conversation("ada"), other.conversation("ada")]
        await asyncio.gather(*(chat.change(count) for chat in chats * 10))
        proxy.lose = lambda request: None
        state = await chats[0].state()

    assert {"count": 20} == state
    assert proxy.lost["reply"] > 0
    assert 10 == len(set(keys)) < len(keys)  # one for each change: an attempt that was held up cannot be made late


async def test_a_slot_is_written_only_over_what_was_seen(place: Place) -> None:
    """Who has not seen the newest is told, with the newest."""
    async with place.client() as client:
        chat = client.conversation("ada")
        await chat.send("tea")
        mine, yours = chat.slot("cart"), chat.slot("cart")
        with pytest.raises(NotFound):
            await mine.get()
        items = await mine.get([])
        await mine.put([*items, "tea"])
        with pytest.raises(PreconditionFailed) as refused:
            await yours.put(["cake"])
        await yours.get()
        await yours.put(["tea", "cake"])
        with pytest.raises(PreconditionFailed):
            await mine.put(["milk"])
        await mine.put(None, overwrite=True)
        merged = await chat.patch({"cart": {"tea": 1}, "count": None})
        patched = await mine.patch({"milk": 2, "tea": None})
        with pytest.raises(PreconditionFailed):
            await mine.put(["blind"])
        await mine.clear()
        gone = await mine.get("nothing")
        await chat.patch({"vip": True})
        await chat.clear()
        state = await chat.state()

    assert ["tea"] == refused.value.state
    assert ({"cart": {"tea": 1}}, {"milk": 2}, "nothing", {}) == (merged, patched, gone, state)


async def test_a_slot_without_a_name_is_refused(place: Place) -> None:
    """Its address would be that of another conversation, which would be erased where the slot is cleared."""
    await place.keep.receive("ada/state/", "hi")
    async with place.client() as client:
        with pytest.raises(UsageError, match="ada: a slot has a name"):
            await client.conversation("ada").slot("").clear()

    assert await place.keep.conversation("ada/state/") is not None


async def test_a_state_is_written_without_reading_it(place: Place) -> None:
    """A token with `state:write` alone is told nothing of it."""
    async with place.client() as client:
        await client.create("ada")
        client.token = (await client.conversation("ada").issue(scopes=["state:write"])).token
        slot = client.conversation("ada").slot("cart")
        answers = [await slot.put(["tea"]), await client.conversation("ada").patch({"vip": True})]
        with pytest.raises(PreconditionFailed) as refused:
            await client.conversation("ada").slot("cart").put([])
        with pytest.raises(Forbidden, match="state:read"):
            await client.conversation("ada").change(lambda state: state)
    found = await place.keep.conversation("ada")

    assert [None, None, None] == [*answers, refused.value.state]
    assert found is not None
    assert {"cart": ["tea"], "vip": True} == found.state


async def test_a_visitor_gets_a_token_and_shares_it(place: Place) -> None:
    """From nothing to two devices in one conversation; a token that was revoked ends."""
    async with place.client(None) as phone, place.client(None) as laptop, place.client() as service:
        created = await phone.create()
        chat = phone.conversation(created.id)
        await chat.send("tea")
        share = await chat.share(expires_in=60)
        redeemed = await laptop.redeem(share.share)
        seen = await laptop.conversation(redeemed.conversation).history()
        with pytest.raises(NotFound):
            await laptop.redeem(share.share)
        before = laptop.token
        rotated = await laptop.conversation(created.id).rotate(grace=0)
        credentials = await service.conversation(created.id).tokens()
        await laptop.conversation(created.id).revoke()
        await time_passes(1.2)
        with pytest.raises(Unauthorized):
            await laptop.conversation(created.id).history()
        await service.conversation(created.id).erase()

    assert (created.token, created.id) == (phone.token, redeemed.conversation)
    assert ["tea", "tea is number 1"] == [message.text for message in seen]
    assert (rotated.token, True) == (laptop.token, before != laptop.token)
    assert {"token", "share"} == {grant.kind for grant in credentials}


async def test_a_service_creates_and_lists(place: Place) -> None:
    """By id, by owner; the same again finds it."""
    async with place.client() as client:
        first = await client.create("ada", owner="lovelace")
        again = await client.create("ada")
        other = await client.create()
        with pytest.raises(OtherOwner, match="belongs to 'lovelace'"):
            await client.create("ada", owner="byron")
        mine = await client.conversations(owner="lovelace")
        issued = await client.conversation("ada").issue(scopes=["read"], expires_in=60, label="ci")
        everything = await client.conversations(limit=10)

    assert (True, False, True) == (first.created, again.created, other.created)
    assert ["ada"] == [found.id for found in mine]
    assert {"ada", other.id} == {found.id for found in everything}
    assert (["read"], "ci") == (issued.scopes, issued.label)


@pytest.mark.parametrize("status", [200, 302, 401, 403, 404, 405, 410])
async def test_what_a_proxy_says_is_not_taken_for_the_servers_word(status: int) -> None:
    """A page of a proxy without a server behind it: no value is absent for that. What is said of the request itself counts."""
    async with answering_pages() as front:
        front.status = status
        async with Client(front.url, "secret") as client:
            chat = client.conversation("ada")
            with pytest.raises(Unavailable, match=f"ada.*something else than a chatkeep server has answered .{status}"):
                await chat.slot("cart").get("none")
            with pytest.raises(Unavailable, match="Nothing was done"):
                await chat.send("tea", id="m1")
            with pytest.raises(Unavailable, match="Nothing was done"):
                await anext(chat.events())
            online = client.statistics().online
            front.status = 413
            with pytest.raises(TooLarge):
                await chat.send("tea", id="m2")

    assert online is False


async def test_the_sync_client_works_from_plain_threads(place: Place) -> None:
    """Several at once; its events end with the loop over them, and with the client."""

    def use(results: list[Any]) -> None:
        with SyncClient(place.url, place.key) as client:
            chat = client.conversation("ada")
            threads = [threading.Thread(target=chat.send, args=(f"m{n}",)) for n in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            results.append(chat.change(lambda state: {**state, "vip": True}))
            slot = chat.slot("cart")
            slot.put(["tea"])
            results.append((slot.get(), bool(slot.etag)))
            for event in chat.events(after=0):
                if isinstance(event, MessageEvent):
                    results.append(event.message.number)
                    if event.message.number == 8:
                        break
            waiting = chat.events()
            thread = threading.Thread(target=lambda: results.append(list(waiting)))
            thread.start()
            time.sleep(0.2)
            assert "send" == chat.send.__name__
        assert "chatkeep-client" not in [thread.name for thread in threading.enumerate()]
        thread.join(5)
        with pytest.raises(NotOpen, match="The client is not open"):
            chat.send("late")

    results: list[Any] = []
    await asyncio.to_thread(use, results)

    assert [{"count": 4, "vip": True}, (["tea"], True), *range(1, 9)] == results[:10]


def test_the_sync_client_says_what_is_wrong_at_open(tmp_path: Any) -> None:
    """And leaves no thread."""
    with pytest.raises(Misconfigured, match="queue"), SyncClient("http://127.0.0.1:1", queue=str(tmp_path)):
        pass


def test_the_extra_is_only_imported_when_it_is_wanted() -> None:
    """`import chatkeep` does without it, and chatkeep.client says what to install."""
    code = (
        "import sys, chatkeep; assert 'aiohttp' not in sys.modules; sys.modules['aiohttp'] = None\n"
        "try: import chatkeep.client\nexcept chatkeep.Misconfigured as missing: print(missing)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert "chatkeep.client needs aiohttp, which is not installed. Run: pip install 'chatkeep[client]'" == said.strip()


async def test_a_client_is_told_who_it_is(place: Place) -> None:
    """With a service key, a named user's token and a visitor's; without any it is refused."""
    async with place.client() as client:
        service = await client.me()
        token = await client.conversation("ada").issue(subject="ada")
    async with place.client(token.token) as client:
        user = await client.me()
    async with place.client(None) as client:
        with pytest.raises(Unauthorized):
            await client.me()
        created = await client.create()
        visitor = await client.me()

    assert ("service", "") == (service.kind, service.conversation)
    assert ("user", "ada", ["read", "send"]) == (user.kind, user.conversation, user.scopes)
    assert ("visitor", created.id) == (visitor.kind, visitor.conversation)
    assert 3 == len({service.subject, user.subject, visitor.subject})


# -- answers without end -----------------------------------------------------------------------------------------------------

ENDLESS = {
    "an answer": (b"200 OK", b"application/json", b"[1,"),
    "a refusal": (b"403 Forbidden", b"application/problem+json", b"[1,"),
    "a line of an event": (b"200 OK", b"text/event-stream", b"a"),
    "lines of an event": (b"200 OK", b"text/event-stream", b"data: a\n"),
}


@pytest.mark.parametrize(("status", "kind", "portion"), ENDLESS.values(), ids=ENDLESS)
async def test_an_answer_without_end_is_not_kept(
    monkeypatch: pytest.MonkeyPatch, status: bytes, kind: bytes, portion: bytes
) -> None:
    """A server that goes on for ever is left, with an error that says so and what may have been done."""
    monkeypatch.setattr(link, "LONGEST_ANSWER", 1_000_000)
    monkeypatch.setattr(events, "LONGEST_ANSWER", 1_000_000)
    sent = 0
    served: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Type: " + kind + b"\r\n\r\n")
        try:
            while sent < 50_000_000:
                writer.write(portion * (64_000 // len(portion)))
                await writer.drain()
                sent += 64_000
        except ConnectionError:
            pass
        finally:
            writer.close()
            served.set_result(None)

    server = await asyncio.start_server(flood, "127.0.0.1", 0)
    try:
        async with Client(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", "x") as client:
            chat = client.conversation("ada")
            with pytest.raises(ChatkeepError, match="longer than 1,000,000"):
                await (anext(chat.events()) if kind == b"text/event-stream" else chat.history())
        await served
    finally:
        server.close()
        await server.wait_closed()

    assert sent < 50_000_000


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # of a loop that ended, nobody can close the sockets
async def test_a_client_is_used_in_the_loop_that_opened_it_and_elsewhere_refused_in_words(
    place: Place, tmp_path: Path
) -> None:
    """A loop that has ended, one that goes on, and no second opening; a client that was closed may be opened in any loop."""

    def elsewhere() -> list[str]:
        client = Client(place.url, place.key, queue=str(tmp_path / "queue.db"))
        chat = client.conversation("ada")
        told: list[str] = []

        async def refused() -> None:
            client.token = place.key
            for use in (lambda: chat.send("two"), lambda: chat.post("two"), client.drained, client.refused):
                with pytest.raises(NotOpen, match="nothing was done") as refusal:
                    await asyncio.wait_for(use(), 30)
                told.append(str(refusal.value))

        async def first() -> None:
            await client.open()
            await asyncio.to_thread(asyncio.run, refused())
            with pytest.raises(UsageError, match="open already"):
                await client.open()

        async def again(id: str) -> None:
            async with client:
                await chat.post(id, id=id)
                await asyncio.wait_for(client.drained(), 60)

        asyncio.run(first())
        asyncio.run(refused())
        asyncio.run(again("m2"))
        asyncio.run(again("m3"))
        return told

    told = await asyncio.to_thread(elsewhere)
    async with place.client() as client:
        said = [message.text for message in await client.conversation("ada").history() if message.role == "user"]

    assert ["m2", "m3"] == said
    assert [True] * 4 == ["opened in another event loop" in words for words in told[:4]]
    assert [True] * 4 == ["has ended" in words for words in told[4:]]


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # of tasks whose loop was closed under them
async def test_what_a_closed_loop_has_left_pending_keeps_no_client_from_being_closed_or_opened_anew(
    place: Place, tmp_path: Path
) -> None:
    """A loop that was closed by hand has ended none of its tasks, and its thread may be another one."""

    def abandoned(name: str) -> Client:
        client, loop = Client(place.url, place.key, queue=str(tmp_path / name)), asyncio.new_event_loop()
        loop.run_until_complete(client.open())
        loop.close()
        return client

    async def post(client: Client, id: str) -> None:
        async with client:
            await client.conversation("ada").post(id, id=id)
            await asyncio.wait_for(client.drained(), 60)

    async def again() -> None:
        await post(await asyncio.to_thread(abandoned, "one.db"), "m1")
        closed = await asyncio.to_thread(abandoned, "two.db")
        await closed.close()
        await post(Client(place.url, place.key, queue=str(tmp_path / "two.db")), "m2")

    await asyncio.to_thread(asyncio.run, again())
    gc.collect()  # here, where what the tasks say of it is expected
    async with place.client() as client:
        said = [message.text for message in await client.conversation("ada").history() if message.role == "user"]

    assert ["m1", "m2"] == said


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")
async def test_a_client_is_not_closed_or_opened_where_it_is_not_its_own(place: Place, tmp_path: Path) -> None:
    """Neither in another loop, while its own lives, nor in a forked child, which would end what the parent has open."""
    client = Client(place.url, place.key, queue=str(tmp_path / "queue.db"))
    chat = client.conversation("ada")

    async def refusals() -> list[str]:
        told: list[str] = []
        for call in (client.close, client.open):
            try:
                await call()
            except ChatkeepError as fault:
                told.append(f"{type(fault).__name__}: {fault}")
        return told

    def forked() -> str:
        reading, writing = os.pipe()
        if not (child := os.fork()):
            signal.alarm(20)  # what waits for threads of the parent waits for ever
            try:
                os.write(writing, "\n".join(asyncio.new_event_loop().run_until_complete(refusals())).encode())
            finally:
                os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as answers:
            told = answers.read()
        os.waitpid(child, 0)
        return told

    async with client:
        await chat.send("one", id="m1")
        elsewhere = await asyncio.to_thread(asyncio.run, refusals())
        in_child = (await asyncio.to_thread(forked)).splitlines()
        await chat.post("two", id="m2")
        await asyncio.wait_for(client.drained(), 60)
        with pytest.raises(Misconfigured, match="in use by another process"):
            await Client(place.url, place.key, queue=str(tmp_path / "queue.db")).open()
        said = [message.text for message in await chat.history() if message.role == "user"]

    assert ["one", "two"] == said
    assert [True, True] == [
        "NotOpen: close: the client was opened in another event loop" in elsewhere[0],
        "open already" in elsewhere[1],
    ]
    assert [True, True] == [line.startswith("NotOpen: ") and "is a fork" in line for line in in_child]
