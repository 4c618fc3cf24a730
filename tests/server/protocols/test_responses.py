"""The Responses API, by the official client for Python, unchanged; and what that client cannot send."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from chatkeep import Chatkeep, Turn
from chatkeep.auth.credentials import issue_user_token
from chatkeep.server.protocols import responses

from ...support import npm
from ...support.protocols import Bot, mounted, streamed
from ...support.serving import Client, served
from ...support.stores import FAST


@asynccontextmanager
async def official(port: int, key: str = "none") -> AsyncIterator[Any]:
    """The official client."""
    openai = pytest.importorskip("openai", reason="THE OFFICIAL CLIENT OF RESPONSES IS NOT INSTALLED")
    async with openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=key, max_retries=0) as client:
        yield client


async def test_the_official_client_talks() -> None:
    """In one piece, going on from a response and in a conversation, and read again."""
    bot = Bot()
    async with mounted(bot, responses.routes(bot.keep)) as client, official(client.port) as openai:
        first = await openai.responses.create(model="bot", input="ada", metadata={"a": "b"})
        second = await openai.responses.create(
            model="bot", input=[{"role": "assistant", "content": "forged"}, {"role": "user", "content": "bob"}],
            previous_response_id=first.id,
        )  # fmt: skip
        third = await openai.responses.create(model="bot", input="eve", conversation=first.conversation.id)
        read = await openai.responses.retrieve(second.id)
        items = await openai.responses.input_items.list(second.id)
        log = [message.text async for message in bot.keep.history(first.conversation.id)]

    assert ["ada", "Hello there, ada", "bob", "Hello there, bob", "eve", "Hello there, eve"] == log
    assert ("completed", "Hello there, ada", {"a": "b"}) == (first.status, first.output_text, first.metadata)
    assert ("Hello there, bob", first.id, "bot") == (read.output_text, read.previous_response_id, read.model)
    assert "bob" == items.data[0].content[0].text
    assert first.conversation.id == second.conversation.id == third.conversation.id


async def test_what_was_erased_is_not_gone_on_with() -> None:
    """It would begin anew without a word; what was only redacted is gone on with."""
    bot = Bot()
    async with mounted(bot, responses.routes(bot.keep)) as client, official(client.port) as openai:
        old = await openai.responses.create(model="bot", input="ada")
        await bot.keep.redact(old.conversation.id, 1)
        on = await openai.responses.create(model="bot", input="eve", previous_response_id=old.id)
        await bot.keep.erase(old.conversation.id)
        with pytest.raises(Exception, match="is not there any more") as refused:
            await openai.responses.create(model="bot", input="dan", previous_response_id=on.id)
        with pytest.raises(Exception, match="There is no response of this id") as unknown:
            await openai.responses.create(model="bot", input="dan", previous_response_id="resp_of_another_service")
        left = await bot.keep.conversation(old.conversation.id)

    assert "Hello there, eve" == on.output_text
    for fault in (refused, unknown):
        assert ("BadRequestError", "previous_response_not_found") == (fault.typename, fault.value.code)
    assert left is None


async def test_the_id_of_a_response_is_no_right() -> None:
    """It is made of the conversation's id and a number: whoever guesses it neither writes there nor learns whether there is one."""
    bot = Bot()
    async with served(bot.keep, protocols=["responses"], anonymous=True) as server:
        await bot.keep.create("eve's", owner="eve")
        for taken in ("nobody's", "eve's"):
            await bot.keep.receive(taken, "secret")
        mallory = (await issue_user_token(bot.keep, "", "mallory")).token
        said = {}
        for who, key in (("visitor", ""), ("user", mallory)):
            for conversation in ("nobody's", "eve's", "not there"):
                asked = {"input": "let me in", "previous_response_id": responses.response_id(conversation, 1)}
                answer = await Client(server.port, key).ask("POST", "/v1/responses", json.dumps(asked).encode())
                said[who, conversation] = answer.status
        logs = [[one.text async for one in bot.keep.history(taken)][-2:] for taken in ("nobody's", "eve's")]
        begun = await bot.keep.conversation("not there")

    assert {401} == {status for (who, _), status in said.items() if who == "visitor"}
    assert (404, 404, 400) == (said["user", "nobody's"], said["user", "eve's"], said["user", "not there"])
    assert ([["secret", "Hello there, secret"]] * 2, None) == (logs, begun)


async def test_a_response_says_when_it_was_asked_for() -> None:
    """Before there is an answer, too, and when it is asked for again; 1970 stood there."""
    bot = Bot()
    before = int(time.time())
    async with mounted(bot, responses.routes(bot.keep)) as client, official(client.port) as openai:
        stream = await openai.responses.create(model="bot", input="ada", stream=True)
        told = [one.response.created_at async for one in stream if hasattr(one, "response")]
        await bot.keep.pause_all()
        asked = {"model": "bot", "input": "bob", "conversation": "c", "extra_headers": {"Idempotency-Key": "k"}}
        told += [(await openai.responses.create(**asked)).created_at for _ in range(2)]

    assert [] == [at for at in told if not before <= at <= time.time()], told


async def test_a_stream_goes_on_behind_any_event() -> None:
    """The official client reads on from each of them, while the answer is made and after, and misses and repeats nothing."""
    bot = Bot()
    async with mounted(bot, responses.routes(bot.keep)) as client, official(client.port) as openai:
        bot.goes.clear()
        events = []
        async for event in await openai.responses.create(model="bot", input="ada", stream=True, conversation="c1"):
            events.append(event)
            if event.type == "response.output_text.delta":
                break  # the connection is cut
        id, seen = events[0].response.id, events[-1].sequence_number
        bot.goes.set()
        events += [one async for one in await openai.responses.retrieve(id, stream=True, starting_after=seen)]
        for cut in range(events[-1].sequence_number + 1):
            rest = [one async for one in await openai.responses.retrieve(id, stream=True, starting_after=cut)]

            assert all(one.sequence_number > cut for one in rest), cut
            assert spoken(events, behind=cut) == spoken(rest), cut

    assert "Hello there, ada" == spoken(events) == events[-1].response.output_text
    assert 1 == len(bot.asked)
    numbers = [one.sequence_number for one in events]
    assert sorted(set(numbers)) == numbers


def spoken(events: list[Any], *, behind: int = -1) -> str:
    """The characters of the deltas that are numbered above *behind*."""
    said = ""
    for one in events:
        if one.type == "response.output_text.delta" and one.sequence_number > behind:
            said += one.delta[max(len(one.delta) - (one.sequence_number - behind), 0) :]
    return said


async def test_the_clients_own_accumulation_ends_in_the_recorded_answer() -> None:
    """`responses.stream` puts the events together by itself."""
    bot = Bot()
    async with (
        mounted(bot, responses.routes(bot.keep)) as client,
        official(client.port) as openai,
        openai.responses.stream(model="bot", input="ada") as stream,
    ):
        kinds = [event.type async for event in stream]
        final = await stream.get_final_response()

    assert "Hello there, ada" == final.output_text
    assert ("response.created", "response.completed") == (kinds[0], kinds[-1])


async def test_the_official_client_runs_a_tool_that_the_bot_calls() -> None:
    """Its arguments come as clients put them together, and its result goes on with the conversation."""
    keep = Chatkeep("memory://", **FAST)

    @keep.on_message
    async def bot(turn: Turn) -> AsyncIterator[str | dict[str, Any]]:
        if turn.message.role == "event":
            yield f"It is {turn.message.content[0]['result']}."
        else:
            yield {"type": "tool_call", "id": "c1", "name": "weather", "arguments": {"city": "Graz"}}

    async with mounted(keep, responses.routes(keep)) as client, official(client.port) as openai:
        async with openai.responses.stream(model="bot", input="ada", conversation="c1") as stream:
            events = [event async for event in stream]
            final = await stream.get_final_response()
        call = final.output[0]
        result = {"type": "function_call_output", "call_id": call.call_id, "output": "21 degrees"}
        second = await openai.responses.create(model="bot", input=[result], previous_response_id=final.id)
        rest = [one async for one in await openai.responses.retrieve(final.id, stream=True, starting_after=3)]

    told = [event for event in events if event.type.startswith("response.function_call_arguments.")]
    assert ['{"city":"Graz"}', "done"] == [told[0].delta, told[1].type.rpartition(".")[2]]
    assert ("c1", "weather", '{"city":"Graz"}') == (call.call_id, call.name, call.arguments)
    assert ("response.function_call_arguments.done", 4) == (rest[0].type, rest[0].sequence_number)
    assert "It is 21 degrees." == second.output_text


async def test_in_the_background_once_for_each_key() -> None:
    """It is answered at once, and read later."""
    bot = Bot()
    async with mounted(bot, responses.routes(bot.keep)) as client, official(client.port) as openai:
        bot.goes.clear()
        asked = {"model": "bot", "input": "ada", "background": True, "conversation": "c1"}
        first, second = await asyncio.gather(
            *[openai.responses.create(**asked, extra_headers={"Idempotency-Key": "k1"}) for _ in range(2)]
        )
        waiting = await openai.responses.retrieve(first.id)
        bot.goes.set()
        await openai.responses.create(model="bot", input="eve", conversation="c1")  # (answered behind it)
        done = await openai.responses.retrieve(first.id)

    assert (first.id, "queued", "in_progress") == (second.id, first.status, waiting.status)
    assert ("Hello there, ada", ["k1"]) == (done.output_text, bot.asked[:1])


async def test_no_client_waits_for_a_bot_that_is_paused() -> None:
    """The response is queued; a stream ends incomplete. A message that is set aside has failed."""
    bot = Bot(attempts=1)
    async with mounted(bot, responses.routes(bot.keep)) as client, official(client.port) as openai:
        bot.faults_at_once = 1
        failed = await openai.responses.create(model="bot", input="ada", conversation="c1")
        await bot.keep.pause("c1")
        queued = await openai.responses.create(model="bot", input="ada", conversation="c1")
        events = [
            one async for one in await openai.responses.create(model="bot", input="b", conversation="c1", stream=True)
        ]

    assert ("failed", "server_error") == (failed.status, failed.error.code)
    assert ("queued", "response.incomplete") == (queued.status, events[-1].type)


async def test_the_clients_errors_say_what_is_wrong() -> None:
    """In the API's own shape: 401, 404 and 400."""
    bot = Bot()
    library = pytest.importorskip("openai", reason="THE OFFICIAL CLIENT OF RESPONSES IS NOT INSTALLED")
    async with (
        served(bot.keep, protocols=["responses"]) as server,
        official(server.port) as stranger,
        official(server.port, server.key) as openai,
    ):
        with pytest.raises(library.AuthenticationError) as refused:
            await stranger.responses.create(model="bot", input="ada")
        with pytest.raises(library.NotFoundError):
            await openai.responses.retrieve("resp_none")
        with pytest.raises(library.BadRequestError):
            await openai.responses.create(model="bot", input=[])
        mine = await openai.responses.create(model="bot", input="ada")
        with pytest.raises(library.AuthenticationError):
            await stranger.responses.retrieve(mine.id)

    assert "invalid_api_key" == refused.value.code
    assert "Hello there, ada" == mine.output_text


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"input": 5},
        {"input": [5]},
        {"input": [{"role": "system", "content": "x"}]},
        {"input": [{"role": "user", "content": 5}]},
        {"input": "x", "conversation": 5},
        {"input": "x", "conversation": "c", "previous_response_id": "resp_x"},
        {"input": "x", "previous_response_id": "resp_!!"},
    ],
)
async def test_what_is_not_understood_is_refused(wrong: Any) -> None:
    """And nothing is taken."""
    bot = Bot()
    async with mounted(bot, responses.routes(bot.keep)) as client:
        answer = await client.ask("POST", "/v1/responses", json.dumps(wrong).encode())

    assert answer.status in (400, 404), answer
    assert {"message", "type", "param", "code"} == set(answer.json["error"])
    assert [] == bot.asked


async def test_a_stream_ends_as_the_standard_says() -> None:
    """Each event has a name, its data the same type; the last line is [DONE]."""
    bot = Bot()
    async with mounted(bot, responses.routes(bot.keep)) as client:
        async with streamed(client, "POST", "/v1/responses", {"input": "ada", "stream": True}) as answer:
            events = await answer.rest()
        late = await client.ask("GET", f"/v1/responses/{events[0]['response']['id']}?stream=true&starting_after=x")

    assert "[DONE]" == events[-1]
    assert {"message", "type", "param", "code"} == set(late.json["error"])
    assert 400 == late.status


PROVIDER = """
import { createOpenResponses } from "@ai-sdk/open-responses";
import { generateText, streamText } from "ai";
const provider = createOpenResponses({ name: "chatkeep", url: process.argv[2], apiKey: "none" });
const whole = await generateText({ model: provider("bot"), prompt: "ada" });
const streamed = streamText({ model: provider("bot"), prompt: "bob" });
let text = "";
for await (const piece of streamed.textStream) text += piece;
console.log(JSON.stringify([whole.text, whole.finishReason, text, await streamed.finishReason]));
"""


@pytest.mark.long
async def test_the_ai_sdks_provider_of_open_responses_talks(tmp_path: Path) -> None:
    """Another client of the standard, unchanged from npm: it reads each event by the standard's schema."""
    packages = npm.install(tmp_path, "@ai-sdk/open-responses@2.0.36", "ai@7.0.173")
    bot = Bot()
    async with mounted(bot, responses.routes(bot.keep)) as client:
        said = await npm.run(packages, PROVIDER, f"http://127.0.0.1:{client.port}/v1/responses")

    assert ["Hello there, ada", "stop", "Hello there, bob", "stop"] == json.loads(said.splitlines()[-1])
