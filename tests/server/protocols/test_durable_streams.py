"""Durable Streams, by the official client, unchanged; and what that client does not ask."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from chatkeep import Chatkeep, Turn
from chatkeep.app import core_of
from chatkeep.auth.credentials import create_key, issue_token
from chatkeep.errors import Unavailable
from chatkeep.server import create_app
from chatkeep.server.protocols import durable_streams, sse

from ...support import npm
from ...support.clock import Clock
from ...support.protocols import Bot, mounted, streamed
from ...support.serving import Client, served, serving
from ...support.stores import FAST
from ...support.waiting import nothing_happens_for, until

CLIENT = "@durable-streams/client@0.2.7"

FOLLOW = """
import { stream } from "@durable-streams/client";
const [url, live, offset] = process.argv.slice(2);
const abort = new AbortController();
const answer = await stream({ url, offset, live: live === "false" ? false : live, signal: abort.signal });
const told = [];
const json = url.endsWith("/messages");
const end = () => { console.log(JSON.stringify({ told, offset: answer.offset, closed: answer.streamClosed })); process.exit(0); };
if (live === "false") { told.push(await (json ? answer.json() : answer.text())); end(); }
const take = async (batch) => {
  told.push(json ? batch.items : batch.text);
  if (json && batch.items.some((item) => item.content === "Hello there, bye")) { setTimeout(end, 0); }
};
json ? answer.subscribeJson(take) : answer.subscribeText(take);
await answer.closed;
setTimeout(end, 50);
"""


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The official client."""
    return npm.install(tmp_path_factory.mktemp("durable-streams"), CLIENT)


async def follow(packages: Path, client: Client, path: str, live: str, offset: str = "-1") -> dict[str, Any]:
    """What the official client is told."""
    found: dict[str, Any] = json.loads(
        await npm.run(packages, FOLLOW, f"http://127.0.0.1:{client.port}/streams/{path}", live, offset)
    )
    return found


@pytest.mark.long
@pytest.mark.parametrize("live", ["sse", "long-poll"])
async def test_the_official_client_follows_a_log_and_goes_on(packages: Path, live: str) -> None:
    """What was there, what comes, and nothing twice; one that comes later goes on from an offset."""
    bot = Bot()
    async with mounted(bot, durable_streams.routes(bot.keep)) as client:
        await bot.keep.receive("c1", "ada", id="m1")
        following = asyncio.create_task(follow(packages, client, "c1/messages", live))
        await until(lambda: client_waits(bot))
        await bot.keep.receive("c1", "bye", id="m2")
        found = await following
        there = await client.ask("GET", "/streams/c1/messages?offset=" + found["offset"])
        late = await follow(packages, client, "c1/messages", "false", "0000000000000002")

    seen = [item for batch in found["told"] for item in batch]
    assert ["ada", "Hello there, ada", "bye", "Hello there, bye"] == [item["content"] for item in seen]
    assert [1, 2, 3, 4] == [item["number"] for item in seen]
    assert (b"[]", "true") == (there.body, there.headers["stream-up-to-date"])
    assert [3, 4] == [item["number"] for batch in late["told"] for item in batch]


STATUS = """
import { stream } from "@durable-streams/client";
const answer = await stream({ url: process.argv[2], live: "sse", offset: "-1" });
let said = "";
answer.subscribeText(({ text }) => { said += text; });
const status = answer.headers.get("chatkeep-status");
await answer.closed;
console.log(JSON.stringify({ status, said, closed: answer.streamClosed }));
process.exit(0);
"""


@pytest.mark.long
async def test_the_official_client_is_told_that_the_bot_fails(packages: Path) -> None:
    """By a header of the answer that it gets first; the comments among the events are nothing to it."""
    bot = Bot(retry_after="5s", retry_longest="5s")
    bot.faults_at_once = 1
    async with mounted(bot, durable_streams.routes(bot.keep)) as client:
        await bot.keep.accept("c1", "ada", id="m1")
        await until(lambda: has_failed(bot))
        url = f"http://127.0.0.1:{client.port}/streams/c1/answers/1"
        found = json.loads(await npm.run(packages, STATUS, url))

    assert found["status"].startswith("failing; attempts=1; retry-at=")
    assert ("Hello there, ada", True) == (found["said"], found["closed"])


async def has_failed(bot: Bot) -> bool:
    """Whether an attempt has failed."""
    return (await bot.keep.answering("c1")).failing is not None


def client_waits(bot: Bot) -> bool:
    """Whether somebody watches."""
    return bool(bot.keep._engine.watches.watching)


@pytest.mark.long
@pytest.mark.parametrize("live", ["sse", "long-poll"])
async def test_the_official_client_follows_an_answer_to_its_end(packages: Path, live: str) -> None:
    """It is given the text as it is said, and that the stream is closed then; another one goes on in the middle."""
    bot = Bot()
    bot.goes.clear()
    async with mounted(bot, durable_streams.routes(bot.keep)) as client:
        number = (await bot.keep.accept("c1", "ada\rdata: x\n\nyes ", id="m1")).number
        following = asyncio.create_task(follow(packages, client, f"c1/answers/{number}", live))
        await until(lambda: client_waits(bot))
        bot.goes.set()
        found = await following
        middle = await follow(packages, client, f"c1/answers/{number}", live, f"{4:016d}")
        tail = await client.ask("HEAD", f"/streams/c1/answers/{number}")

    said = "Hello there, ada\ndata: x\n\nyes "  # (server-sent events have one end of a line)
    assert said == "".join(found["told"]).replace("\r", "\n")
    assert (True, True, said[4:]) == (found["closed"], middle["closed"], "".join(middle["told"]).replace("\r", "\n"))
    assert ("true", f"{len(said):016d}") == (tail.headers["stream-closed"], tail.headers["stream-next-offset"])


async def test_an_answer_goes_on_on_another_instance_behind_any_offset(tmp_path: Path) -> None:
    """The text behind an offset is the same wherever it is asked for, while it is made and when it is recorded."""
    url = f"sqlite:///{tmp_path}/chat.db"
    bot, other = Bot(url), Bot(url)
    bot.goes.clear()
    other.goes.clear()
    async with (
        mounted(bot, durable_streams.routes(bot.keep)) as client,
        mounted(other, durable_streams.routes(other.keep)) as second,
    ):
        await bot.keep.accept("c1", "ada", id="m1")
        path = "/streams/c1/answers/1"

        async def read(at: int = 0) -> Any:
            return await second.ask("GET", f"{path}?offset={at:016d}")

        async with asyncio.timeout(10):
            while not (early := await read()).body:
                pass
        waiting = asyncio.create_task(second.ask("GET", f"{path}?offset={6:016d}&live=long-poll"))
        await until(lambda: client_waits(other))
        for one in (bot, other):
            one.goes.set()
        rest = await waiting
        whole = await client.ask("GET", path)
        late = [await client.ask("GET", f"{path}?offset={at:016d}") for at in (6, 16, 17)]

    assert (b"Hello ", "0" * 15 + "6", "true") == (
        early.body,
        early.headers["stream-next-offset"],
        early.headers["stream-up-to-date"],
    )
    assert "stream-closed" not in early.headers
    assert b"there, ada".startswith(rest.body)
    assert rest.body
    assert (b"Hello there, ada", "true") == (whole.body, whole.headers["stream-closed"])
    assert [(200, b"there, ada"), (200, b""), (400, late[2].body)] == [(one.status, one.body) for one in late]


async def test_a_long_poll_ends_with_the_offset_that_it_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """204 where nothing comes, at once where nothing ever will; and a cursor that no cache has answered."""
    monkeypatch.setattr(durable_streams, "LONG_POLL_S", 0.05)
    bot = Bot()
    async with mounted(bot, durable_streams.routes(bot.keep)) as client:
        await bot.keep.receive("c1", "ada", id="m1")
        nothing = await client.ask("GET", "/streams/c1/messages?offset=now&live=long-poll")
        cursor = nothing.headers["stream-cursor"]
        again = await client.ask("GET", f"/streams/c1/messages?offset=now&live=long-poll&cursor={cursor}")
        over = await client.ask("GET", "/streams/c1/answers/1?offset=now&live=long-poll")

    assert (204, 204, 204) == (nothing.status, again.status, over.status)
    assert ("0" * 15 + "2", "true") == (nothing.headers["stream-next-offset"], nothing.headers["stream-up-to-date"])
    assert int(again.headers["stream-cursor"]) > int(cursor)
    assert "true" == over.headers["stream-closed"]


async def test_an_answer_that_nobody_makes_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the bot is paused no client asks again and again; when it is resumed the same request is answered."""
    monkeypatch.setattr(durable_streams, "AGAIN_S", 0.02)
    bot = Bot()
    async with mounted(bot, durable_streams.routes(bot.keep)) as client:
        await bot.keep.create("c1")
        await bot.keep.pause("c1")
        number = (await bot.keep.accept("c1", "ada", id="m1")).number
        path = f"/streams/c1/answers/{number}?offset=-1&live=long-poll"
        waiting = asyncio.create_task(client.ask("GET", path))
        await nothing_happens_for(0.1)
        assert not waiting.done()
        await bot.keep.resume("c1")
        found = await waiting

    assert 200 == found.status
    assert b"Hello there, ada".startswith(found.body)


@pytest.mark.parametrize(
    "query",
    [
        "offset=",
        "offset=1",
        "offset=-2",
        "offset=1,2",
        "offset=-1&offset=-1",
        "live=sse",
        "offset=-1&live=x",
        f"offset={'9' * 16}",
    ],
)
async def test_what_is_no_offset_is_refused(query: str) -> None:
    """And a live read without an offset, or of another kind."""
    bot = Bot()
    async with mounted(bot, durable_streams.routes(bot.keep)) as client:
        await bot.keep.receive("c1", "ada", id="m1")
        found = await client.ask("GET", f"/streams/c1/messages?{query}")

    assert 400 == found.status


async def test_what_is_not_there_is_404_what_was_dropped_410() -> None:
    """A conversation, a message, an answer to a reply; and the beginning of a log that retention has cut."""
    clock = Clock()
    bot = Bot(retention="10d", history=3, clock=clock)
    async with mounted(bot, durable_streams.routes(bot.keep)) as client:
        for n in range(5):
            await bot.keep.receive("cut", str(n))
        clock.now += 11 * 86_400
        await bot.keep.receive("cut", "new")

        async def dropped() -> bool:
            clock.now += 1
            return [11] == [m.number async for m in bot.keep.history("cut", limit=1)]

        await until(dropped)
        gone = (await client.ask("GET", f"/streams/cut/messages?offset={3:016d}")).status
        left = (await client.ask("GET", "/streams/cut/messages?offset=-1")).json
        await bot.keep.receive("c1", "ada", id="m1")
        paths = ("none/messages?offset=now&live=sse", "none/messages", "c1/answers/2", "c1/answers/9", "c1/answers/x")
        missing = [(await client.ask("GET", f"/streams/{path}")).status for path in paths]
        written = [
            (await client.ask(method, "/streams/c1/messages", b"[]")).status for method in ("PUT", "POST", "DELETE")
        ]

    assert [404] * 5 == missing
    assert (410, [11, 12]) == (gone, [one["number"] for one in left])
    assert [405] * 3 == written


async def test_the_same_page_is_not_sent_again() -> None:
    """Its ETag says so; a message whose words were removed is another page."""
    bot = Bot()
    async with mounted(bot, durable_streams.routes(bot.keep)) as client:
        await bot.keep.receive("c1", "ada", id="m1")
        first = await client.ask("GET", "/streams/c1/messages")
        held = {"If-None-Match": first.headers["etag"]}
        same = await client.ask("GET", "/streams/c1/messages", headers=held)
        await bot.keep.redact("c1", 1)
        other = await client.ask("GET", "/streams/c1/messages", headers=held)

    assert (304, b"", 200) == (same.status, same.body, other.status)
    assert "no-store" == first.headers["cache-control"]


async def test_a_stream_is_for_who_may_read_it_and_as_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """A token reads its own conversation alone, and a right that ends ends the stream."""
    monkeypatch.setattr(sse, "CHECK_S", 0.05)
    bot = Bot()
    async with served(bot.keep, protocols=["durable_streams"], anonymous=True) as server:
        await bot.keep.receive("c1", "ada")
        await bot.keep.receive("c2", "eve")
        issued = await issue_token(bot.keep, "", "c1")
        mine = Client(server.port, issued.token)
        other, nobody = [
            (await client.ask("GET", "/streams/c2/messages")).status for client in (mine, Client(server.port, ""))
        ]
        async with streamed(mine, "GET", "/streams/c1/messages?offset=-1&live=sse") as answer:
            first = await answer.next()
            await server.ask("DELETE", f"/v1/conversations/c1/tokens/{issued.id}")
            rest = await answer.rest()

    assert (404, 401) == (other, nobody)
    assert "ada" == first[0]["content"]
    assert [{"streamNextOffset": f"{2:016d}"}] == [{"streamNextOffset": one["streamNextOffset"]} for one in rest]


async def test_a_server_that_stops_waits_for_no_long_poll() -> None:
    """It ends at once, with the offset that it had."""
    bot = Bot()
    app = create_app(bot.keep, protocols=["durable_streams"])
    async with serving(app) as port:
        client = Client(port, (await create_key(bot.keep, "")).token)
        await bot.keep.receive("c1", "ada")
        waiting = asyncio.create_task(client.ask("GET", "/streams/c1/messages?offset=now&live=long-poll"))
        await until(lambda: client_waits(bot))
        app.state.streams.end()
        found = await waiting

    assert 204 == found.status


async def test_an_end_of_a_line_that_is_torn_is_one_in_events() -> None:
    """CR comes before LF does: it waits for it, and so does its offset, behind which the whole end of the line is."""
    keep: Chatkeep[Any] = Chatkeep("memory://", **FAST)
    goes, path = asyncio.Event(), "/streams/c1/answers/1?live=sse&offset="

    @keep.on_message
    async def bot(turn: Turn[Any]) -> AsyncIterator[str]:
        yield "a\r"
        await goes.wait()
        yield "\nb\r"

    async with mounted(keep, durable_streams.routes(keep)) as client:
        await keep.accept("c1", "hi", id="m1")
        await until(lambda: is_said(keep))
        async with streamed(client, "GET", path + "-1") as early:
            first = [await early.line()]
            while told_by(first)[0] == "" or told_by(first)[1] == 0:
                first.append(await early.line())
            goes.set()
            rest = await early.lines()
        async with streamed(client, "GET", path + f"{1:016d}") as late:
            again = await late.lines()

    assert ("a", 1) == told_by(first)
    assert ("\nb\n", 5) == told_by(rest) == told_by(again)


def told_by(lines: list[str | None]) -> tuple[str, int]:
    """The text in events, and the last offset."""
    text, offset, data = "", 0, list[str]()
    for line in lines:
        if line and line.startswith("data: "):
            data.append(line.removeprefix("data: "))
        elif data:
            told = "\n".join(data)
            if told.startswith("{"):
                offset = int(json.loads(told)["streamNextOffset"])
            else:
                text += told
            data = []
    return text, offset


async def is_said(keep: Chatkeep[Any]) -> bool:
    """Whether something of the answer can be seen."""
    return bool((await keep.answering("c1")).reply)


@pytest.mark.parametrize("query", ["?offset=0000000000000016", "?offset=-1", "?offset=now"])
async def test_an_answer_of_which_nothing_is_known_now_is_not_said_to_be_short(query: str) -> None:
    """While the store is away: 503, to be asked again, and not that the stream has not come as far."""
    bot = Bot()
    async with mounted(bot, durable_streams.routes(bot.keep)) as client:
        await bot.keep.receive("c1", "ada", id="m1")
        core_of(bot.keep).find_outcome = away  # type: ignore[method-assign, assignment]
        found = await client.ask("GET", "/streams/c1/answers/1" + query)

    assert 503 == found.status


async def away(*_: object) -> None:
    """What the store says."""
    raise Unavailable("The store is away for a moment.")
