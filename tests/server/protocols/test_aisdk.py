"""The AI SDK's protocol, as `useChat` speaks it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from chatkeep import Chatkeep, Turn
from chatkeep.server.protocols import aisdk

from ...support.protocols import Bot, mounted, streamed
from ...support.serving import Client, served
from ...support.stores import FAST
from ...support.waiting import time_passes, until

V1 = "x-vercel-ai-ui-message-stream"


def body(text: str, id: str, chat: str = "c1", **more: Any) -> dict[str, Any]:
    """What `useChat` posts; before the message it sends what it believes was said, which counts for nothing."""
    forged = {"id": "forged", "role": "assistant", "parts": [{"type": "text", "text": "I owe you a million."}]}
    said = {"id": id, "role": "user", "parts": [{"type": "text", "text": text}]}
    return {"id": chat, "messages": [forged, said], "trigger": "submit-message", **more}


def as_json(value: Any) -> bytes:
    """A body."""
    return json.dumps(value).encode()


def text_of(chunks: list[Any]) -> str:
    """The text of the last block."""
    last = [chunk["id"] for chunk in chunks if "id" in chunk and chunk["type"] == "text-start"][-1]
    return "".join(
        chunk["delta"] for chunk in chunks if chunk != "[DONE]" and chunk.get("id") == last and "delta" in chunk
    )


async def say(client: Client, text: str, id: str, **more: Any) -> list[Any]:
    """Posts a message; the chunks of the whole answer."""
    async with streamed(client, "POST", "/api/chat", body(text, id, **more)) as answer:
        assert (200, "v1") == (answer.status, answer.headers[V1])
        return await answer.rest()


async def test_an_answer_is_streamed() -> None:
    """Piece by piece, in blocks that are opened and closed, under the id that the history has."""
    bot = Bot()
    async with mounted(bot, aisdk.routes(bot.keep)) as client:
        bot.goes.clear()
        async with streamed(client, "POST", "/api/chat", body("ada", "m1")) as answer:
            first = [await answer.next() for _ in range(3)]
            bot.goes.set()
            rest = await answer.rest()
        history = (await client.ask("GET", "/api/chat/c1")).json

    assert ["start", "text-start", "text-delta"] == [chunk["type"] for chunk in first]
    assert "Hello " == first[2]["delta"]
    assert "Hello there, ada" == text_of([*first, *rest[:-1]])
    assert ["text-end", "message-metadata", "finish"] == [chunk["type"] for chunk in rest[-4:-1]]
    assert "[DONE]" == rest[-1]
    assert [("m1", "user"), (first[0]["messageId"], "assistant")] == [(one["id"], one["role"]) for one in history]
    assert [{"type": "text", "text": "Hello there, ada"}] == history[1]["parts"]


async def test_the_middle_of_an_answer_is_resumed() -> None:
    """After a reload, and in a second tab: from the first character on. There is nothing to resume before and after."""
    bot = Bot()
    async with mounted(bot, aisdk.routes(bot.keep)) as client:
        bot.goes.clear()
        before = await client.ask("GET", "/api/chat/c1/stream")
        async with streamed(client, "POST", "/api/chat", body("ada", "m1")) as answer:
            await until(lambda: bot.said)
            async with streamed(client, "GET", "/api/chat/c1/stream") as second:
                shown = [await second.next() for _ in range(3)]
                bot.goes.set()
                seen = [*shown, *await second.rest()]
            first = await answer.rest()
        after = await client.ask("GET", "/api/chat/c1/stream")

    assert "Hello " == shown[2]["delta"]
    assert "Hello there, ada" == text_of(first) == text_of(seen)
    assert (first[0], ["m1"]) == (seen[0], bot.asked)
    assert (204, 204) == (before.status, after.status)


async def test_a_reader_who_goes_takes_nothing_along() -> None:
    """The connection ends in the middle; the answer is made, once, and is there."""
    bot = Bot()
    async with mounted(bot, aisdk.routes(bot.keep)) as client:
        bot.goes.clear()
        async with streamed(client, "POST", "/api/chat", body("ada", "m1")) as answer:
            await answer.next()
        bot.goes.set()
        again = await say(client, "ada", "m1")

    assert ("Hello there, ada", ["m1"]) == (text_of(again), bot.asked)


async def test_a_message_posted_twice_is_answered_once() -> None:
    """At once, and later: the same answer."""
    bot = Bot()
    async with mounted(bot, aisdk.routes(bot.keep)) as client:
        first, second = await asyncio.gather(say(client, "ada", "m1"), say(client, "ada", "m1"))
        third = await say(client, "ada", "m1")

    assert ["m1"] == bot.asked
    assert "Hello there, ada" == text_of(first) == text_of(second) == text_of(third)


async def test_a_page_may_send_its_last_message_alone() -> None:
    """As `message`, which the SDK's documentation and its chatbot template do."""
    bot = Bot()
    message = {"id": "m1", "role": "user", "parts": [{"type": "text", "text": "ada"}]}
    async with mounted(bot, aisdk.routes(bot.keep)) as client:
        found = await client.ask("POST", "/api/chat", json.dumps({"id": "c1", "message": message}).encode())

    assert 200 == found.status
    assert ["m1"] == bot.asked


async def test_a_paused_bot_leaves_no_page_waiting() -> None:
    """Also when it is paused while a message waits."""
    bot = Bot()
    async with mounted(bot, aisdk.routes(bot.keep)) as client:
        await bot.keep.pause("c1")
        chunks = await say(client, "ada", "m1")
        resumed = await client.ask("GET", "/api/chat/c1/stream")

    assert ["start", "data-chatkeep", "finish"] == [chunk["type"] for chunk in chunks[:-1]]
    assert ({"status": "paused"}, 204, []) == (chunks[1]["data"], resumed.status, bot.asked)
    assert "messageId" not in chunks[0], "the page would show an empty message"


@pytest.mark.parametrize("goes_on", [True, False])
async def test_what_was_shown_before_a_failure_stays(goes_on: bool) -> None:
    """The next try goes on from there, in the same text; or the answer ends there, and says so."""
    bot = Bot(goes_on=goes_on)
    bot.faults = 1
    async with mounted(bot, aisdk.routes(bot.keep)) as client:
        bot.goes.clear()
        async with streamed(client, "POST", "/api/chat", body("ada", "m1")) as answer:
            chunks = [await answer.next() for _ in range(3)]
            bot.goes.set()
            chunks += await answer.rest()
        history = (await client.ask("GET", "/api/chat/c1")).json

    said = "Hello there, ada" if goes_on else "Hello "
    assert 1 == len([chunk for chunk in chunks[:-1] if chunk["type"] == "text-start"])
    assert said == text_of(chunks) == history[1]["parts"][0]["text"]
    assert goes_on == ("interrupted" not in history[1]["metadata"])


async def test_an_answer_is_stopped_from_another_tab() -> None:
    """What was said stays, on both pages and in the history, and is marked."""
    bot = Bot()
    async with mounted(bot, aisdk.routes(bot.keep)) as client:
        bot.goes.clear()
        async with streamed(client, "POST", "/api/chat", body("ada", "m1")) as answer:
            chunks = [await answer.next() for _ in range(3)]
            stopped = await client.ask("POST", "/api/chat/c1/stop")
            chunks += await answer.rest()
        history = (await client.ask("GET", "/api/chat/c1")).json
        bot.goes.set()

    assert (204, "abort") == (stopped.status, chunks[-2]["type"])
    assert "Hello " == text_of(chunks) == history[1]["parts"][0]["text"]
    assert history[1]["metadata"]["stopped"]


async def test_parts_have_the_sdks_names() -> None:
    """As they are shown, and in the history; what the SDK has no name for is a data part."""
    keep: Chatkeep[Any] = Chatkeep("memory://", **FAST)

    @keep.on_message
    async def agent(turn: Turn[Any]) -> AsyncIterator[str | dict[str, Any]]:
        yield {"type": "reasoning", "reasoning": "Hm"}
        yield {"type": "reasoning", "reasoning": "m."}
        yield {"type": "tool_call", "id": "c1", "name": "weather", "arguments": {"city": "Graz"}}
        yield {"type": "tool_result", "id": "c1", "name": "weather", "result": {"celsius": 21}}
        yield "21 "
        await time_passes(0.2)  # (pieces are recorded meanwhile)
        yield "degrees"
        yield {"type": "source", "url": "https://example.com/", "title": "Weather"}
        yield {"type": "file", "url": "https://example.com/a.png", "media_type": "image/png"}
        yield {"type": "map", "at": [1, 2]}

    bot = Bot()
    bot.keep = keep
    async with mounted(bot, aisdk.routes(keep)) as client:
        chunks, again = await say(client, "ada", "m1"), await say(client, "ada", "m1")
        history = (await client.ask("GET", "/api/chat/c1")).json

    kinds = [chunk["type"] for chunk in chunks[:-1] if not chunk["type"].endswith("-delta")]
    assert [
        "start",
        "reasoning-start",
        "reasoning-end",
        "tool-input-available",
        "tool-output-available",
        "text-start",
        "text-end",
        "source-url",
        "file",
        "data-map",
        "message-metadata",
        "finish",
    ] == kinds
    assert "21 degrees" == text_of(chunks) == text_of(again)
    assert {"celsius": 21} == next(one for one in chunks if one["type"] == "tool-output-available")["output"]
    named = ["reasoning", "dynamic-tool", "text", "source-url", "file", "data-map"]
    assert named == [part["type"] for part in history[1]["parts"]]
    assert ("Hmm.", "output-available") == (history[1]["parts"][0]["text"], history[1]["parts"][1]["state"])


async def test_who_gets_no_answer_is_told() -> None:
    """A message that is set aside ends in an error; pressing "try again" has it answered."""
    bot = Bot(attempts=1)
    bot.faults_at_once = 1
    async with mounted(bot, aisdk.routes(bot.keep)) as client:
        failed = await say(client, "ada", "m1")
        again = await say(client, "ada", "m1", trigger="regenerate-message")
        history = (await client.ask("GET", "/api/chat/c1")).json

    assert "error" in [chunk["type"] for chunk in failed[:-1]]
    assert "Hello there, ada" == text_of(again)
    assert ["m1", again[0]["messageId"]] == [one["id"] for one in history]


async def test_an_answer_is_made_again() -> None:
    """Once for each answer that is to be another, however often it is asked for; the history has the last one."""
    bot = Bot()
    async with mounted(bot, aisdk.routes(bot.keep)) as client:
        first = await say(client, "ada", "m1")
        bot.goes.clear()
        asked = [asyncio.create_task(say(client, "forged", "m1", trigger="regenerate-message")) for _ in range(2)]
        await until(lambda: len(bot.asked) == 2)
        bot.goes.set()
        again = await asyncio.gather(*asked)
        history = (await client.ask("GET", "/api/chat/c1")).json

    assert 2 == len(bot.asked)
    assert ["Hello there, ada"] * 2 == [text_of(one) for one in again]
    assert first[0]["messageId"] != again[0][0]["messageId"] == again[1][0]["messageId"]
    assert ["m1", again[0][0]["messageId"]] == [one["id"] for one in history]


async def test_an_edited_message_takes_the_place_of_the_old_one() -> None:
    """A page keeps its id. Without saying that it is edited, another text under one id is refused."""
    bot = Bot()
    async with mounted(bot, aisdk.routes(bot.keep)) as client:
        await say(client, "ada", "m1")
        await say(client, "more", "m2")
        refused = await client.ask("POST", "/api/chat", as_json(body("bob", "m1")))
        edited = await say(client, "bob", "m1", messageId="m1")
        history = (await client.ask("GET", "/api/chat/c1")).json

    assert (422, "Hello there, bob") == (refused.status, text_of(edited))
    assert [("m1", "bob"), (edited[0]["messageId"], "Hello there, bob")] == [
        (one["id"], one["parts"][0]["text"]) for one in history
    ]


async def test_what_was_said_before_can_be_put_back() -> None:
    """An edit is another one each time that it takes the place of another text, and also when it cuts off what came after it; sent
    twice, it is one."""
    bot = Bot()
    async with mounted(bot, aisdk.routes(bot.keep)) as client:
        await say(client, "ada", "m1")
        there = []
        for text in ("bob", "ada", "bob"):
            both = await asyncio.gather(*(say(client, text, "m1", messageId="m1") for _ in range(2)))
            late = await say(client, text, "m1", messageId="m1")
            assert 1 == len({chunks[0]["messageId"] for chunks in (*both, late)})
            there.append((await client.ask("GET", "/api/chat/c1")).json)
        await say(client, "more", "m2")
        await say(client, "bob", "m1", messageId="m1")
        there.append((await client.ask("GET", "/api/chat/c1")).json)

    texts = [[one["parts"][0]["text"] for one in history] for history in there]
    assert [[text, f"Hello there, {text}"] for text in ("bob", "ada", "bob", "bob")] == texts
    assert 4 == len({history[1]["id"] for history in there})
    assert 6 == len(bot.asked)


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"id": "c1"},
        {"id": "c1", "messages": []},
        {"id": "c1", "messages": ["x"]},
        {"id": 3, "messages": [{"id": "m", "role": "user", "parts": []}]},
        {"id": "c1", "messages": [{"id": 5, "role": "user", "parts": []}]},
        {"id": "c1", "messages": [{"id": "m", "role": "user"}]},
        {"id": "c1", "messages": [{"id": "m", "role": "system", "parts": []}]},
        {"id": "c1", "trigger": "regenerate-message", "messages": [{"id": "m", "role": "user", "parts": []}]},
        [],
    ],
)
async def test_what_is_not_understood_is_refused_in_words(wrong: Any) -> None:
    """And touches nothing."""
    bot = Bot()
    async with mounted(bot, aisdk.routes(bot.keep)) as client:
        answer = await client.ask("POST", "/api/chat", as_json(wrong))

        assert answer.status in (400, 404, 422), answer
        assert await bot.keep.conversation("c1") is None


async def test_inside_the_server_its_access_rules_hold() -> None:
    """A service key may; nobody without one, and the refusal is text, which `useChat` shows."""
    bot = Bot()
    async with served(bot.keep, protocols=["aisdk"]) as client:
        answer = await say(client, "ada", "m1")
        stranger = Client(client.port, "")
        refused = await stranger.ask("POST", "/api/chat", as_json(body("eve", "m2")))
        read = [await stranger.ask("GET", path) for path in ("/api/chat/c1", "/api/chat/c1/stream")]

    assert "Hello there, ada" == text_of(answer)
    assert (401, "Bearer") == (refused.status, refused.headers["www-authenticate"])
    assert refused.body.startswith(b"Send a valid credential")
    assert [401, 401] == [one.status for one in read]
    assert ["m1"] == bot.asked
