"""The HTTP API over a real socket: what it answers, and what it refuses without harm."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest

from chatkeep import Chatkeep, Turn
from chatkeep.server import wire

from ..support.bots import counting
from ..support.serving import PROBLEM, Client, answer_from, path_of, served
from ..support.waiting import nothing_happens_for, until


async def logged(client: Client, conversation: str, count: int) -> bool:
    """Whether so many messages are in the log."""
    return len(await client.log(conversation)) >= count


async def test_a_message_is_answered_and_both_are_in_the_log() -> None:
    """The receipt has the reply, and the log has what the receipt said."""
    async with served(counting()) as client:
        answer = await client.post("ada", {"content": "tea", "id": "m1"})
        parts = await client.post("ada", {"content": [{"type": "text", "text": "cake"}, {"type": "image", "url": "x"}]})
        log = await client.log("ada")

    receipt = answer.json
    assert (200, "application/json", "no-store") == (
        answer.status,
        answer.headers["content-type"],
        answer.headers["cache-control"],
    )
    assert ("ada", "m1", 1, "answered", False) == tuple(
        receipt[name] for name in ("conversation", "id", "number", "status", "duplicate")
    )
    assert ["tea is number 1"] == [reply["content"] for reply in receipt["replies"]]
    assert ["cake is number 2"] == [reply["content"] for reply in parts.json["replies"]]
    assert [1, 2, 3, 4] == [message["number"] for message in log]
    assert ["user", "assistant", "user", "assistant"] == [message["role"] for message in log]
    assert receipt["replies"] == log[1:2]


async def test_the_history_is_the_servers() -> None:
    """What a client says of it changes nothing: it is refused, or kept with its own message and nowhere else."""
    histories: list[list[str]] = []
    keep = counting()
    handler = keep._engine.turns.handler
    assert handler is not None

    async def looks(turn: Turn[Any]) -> Any:
        histories.append([f"{message.role}: {message.text}" for message in turn.history])
        return await handler(turn)

    keep._engine.turns.handler = looks
    echoed = [{"role": "user", "content": "cake"}, {"role": "assistant", "content": "cake is number 7"}]
    async with served(keep) as client:
        await client.post("ada", {"content": "tea", "id": "m1"})
        before = await client.log("ada")
        refused = [
            await client.post("ada", {"content": "more"} | more)
            for more in (
                {"messages": echoed},
                {"history": echoed},
                {"role": "assistant"},
                {"number": 1},
                {"reply_to": 1},
                {"created_at": 1.0},
                {"id": before[1]["id"]},
            )
        ]
        overwriting = await client.post("ada", {"content": "coffee", "id": "m1"})
        same = await client.log("ada")
        await client.post(
            "ada", {"content": "milk", "metadata": {"messages": echoed, "reply_to": 1, "role": "assistant"}}
        )
        after = await client.log("ada")

    assert [400] * 6 == [answer.status for answer in refused[:6]]
    assert 422 == overwriting.status
    assert before == same[:2]
    assert before == after[:2]
    assert ["user: tea", "assistant: tea is number 1"] == histories[-1][:2]
    assert not any("cake" in said for said in histories[-1])


async def test_the_same_id_again_has_no_second_effect() -> None:
    """In the body, or in an Idempotency-Key with or without quotes: the recorded receipt, marked as replayed."""
    async with served(counting()) as client:
        first = await client.post("ada", {"content": "tea", "id": "m1", "metadata": {"b": 1, "a": 2}})
        same = {"content": "tea", "metadata": {"a": 2, "b": 1}}
        others = [
            await client.post("ada", same | {"id": "m1"}),
            await client.post("ada", same, {"Idempotency-Key": "m1"}),
            await client.post("ada", same, {"Idempotency-Key": '"m1"'}),
            await client.post("ada", same | {"id": "m1"}, {"Idempotency-Key": '"m1"'}),
            await client.post("ada", same, {"Idempotency-Key": '"m1"', "Prefer": "respond-async"}),
        ]
        log = await client.log("ada")

    assert "idempotent-replayed" not in first.headers
    assert [(200, "true", first.json | {"duplicate": True})] * 5 == [
        (other.status, other.headers["idempotent-replayed"], other.json) for other in others
    ]
    assert 2 == len(log)
    assert {"a": 2, "b": 1} == log[0]["metadata"]


async def test_a_key_that_means_something_else_is_refused() -> None:
    """Other content or metadata under a known key, two names at once, or what is no key: nothing is touched."""
    async with served(counting()) as client:
        await client.post("ada", {"content": [{"n": 1}], "id": "m1"})
        reused = [
            await client.post("ada", message, {"Idempotency-Key": '"m1"'})
            for message in (
                {"content": "tea"},
                {"content": [{"n": True}]},
                {"content": [{"n": 1.0}]},
                {"content": [{"n": 1}], "metadata": {"a": 1}},
            )
        ]
        bare = await client.post("ada", {"content": "tea", "id": "m1"})
        different = await client.post("ada", {"content": [{"n": 1}], "id": "m1"}, {"Idempotency-Key": '"m2"'})
        wrong = [
            await client.post("ada", {"content": "x"}, {"Idempotency-Key": key})
            for key in ('""', '"a', "a b", '"a"b"', "\u00e9", '"a\\b"')
        ]
        twice = await client.post("ada", {"content": "x"}, {"Idempotency-Key": "a", "idempotency-key": "b"})
        escaped = await client.post("ada", {"content": "x"}, {"Idempotency-Key": r'"a\"b\\"'})
        log = await client.log("ada")

    assert [(422, PROBLEM, "urn:chatkeep:key-reused")] * 5 == [
        (answer.status, answer.headers["content-type"], answer.json["type"]) for answer in [*reused, bare]
    ]
    assert [400] * 8 == [answer.status for answer in [different, *wrong, twice]]
    assert 'a"b\\' == escaped.json["id"]
    assert 4 == len(log)


async def test_a_key_whose_message_is_being_answered_says_so() -> None:
    """409 and when to ask again, instead of waiting; a body's id alone waits for the answer."""
    keep: Chatkeep[Any] = Chatkeep("memory://")
    thinking = asyncio.Event()

    @keep.on_message
    async def bot(turn: Turn[Any]) -> str:
        await thinking.wait()
        return "done"

    key = {"Idempotency-Key": '"m1"'}
    async with served(keep) as client:
        first = asyncio.create_task(client.post("ada", {"content": "go"}, key))
        await until(lambda: logged(client, "ada", 1))
        early = await client.post("ada", {"content": "go"}, key)
        later = await client.post("ada", {"content": "go"}, key | {"Prefer": "respond-async"})
        other = await client.post("ada", {"content": "stop"}, key)
        joined = asyncio.create_task(client.post("ada", {"content": "go", "id": "m1"}))
        await nothing_happens_for(0.05)
        waits = not joined.done()
        thinking.set()
        receipts = [(await first).json, (await joined).json, (await client.post("ada", {"content": "go"}, key)).json]

    assert (409, "urn:chatkeep:still-running", "1") == (early.status, early.json["type"], early.headers["retry-after"])
    assert (202, "accepted", True) == (later.status, later.json["status"], later.json["duplicate"])
    assert (422, "urn:chatkeep:key-reused") == (other.status, other.json["type"])
    assert waits
    assert [("answered", False), ("answered", True), ("answered", True)] == [
        (receipt["status"], receipt["duplicate"]) for receipt in receipts
    ]
    assert [receipts[0]["replies"]] * 2 == [receipt["replies"] for receipt in receipts[1:]]


async def test_respond_async_answers_before_the_bot_does() -> None:
    """202 while the bot still thinks; the reply is in the log later, and in the receipt of a redelivery."""
    keep: Chatkeep[Any] = Chatkeep("memory://")
    thinking = asyncio.Event()

    @keep.on_message
    async def bot(turn: Turn[Any]) -> str:
        await thinking.wait()
        return "done"

    headers = {"Prefer": "handling=lenient, respond-async; wait=10"}
    async with served(keep) as client:
        taken = await client.post("ada", {"content": "go", "id": "m1"}, headers)
        before = await client.log("ada")
        thinking.set()
        await until(lambda: logged(client, "ada", 2))
        again = await client.post("ada", {"content": "go", "id": "m1"}, headers)

    assert (202, "accepted", "respond-async") == (
        taken.status,
        taken.json["status"],
        taken.headers["preference-applied"],
    )
    assert 1 == len(before)
    assert (200, "answered", ["done"]) == (
        again.status,
        again.json["status"],
        [reply["content"] for reply in again.json["replies"]],
    )


NESTED = b'{"content":' + b"[" * 100_000 + b"]" * 100_000 + b"}"


HOSTILE: dict[str, tuple[int, bytes, dict[str, str]]] = {
    "empty": (400, b"", {}),
    "no JSON": (400, b"content=hello", {}),
    "cut": (400, b'{"content":"hel', {}),
    "text behind it": (400, b'{"content":"x"} {"content":"y"}', {}),
    "an array": (400, b'["content"]', {}),
    "a string": (400, b'"content"', {}),
    "null": (400, b"null", {}),
    "no content": (400, b'{"id":"x"}', {}),
    "content null": (400, b'{"content":null}', {}),
    "content a number": (400, b'{"content":1}', {}),
    "content an object": (400, b'{"content":{}}', {}),
    "parts not objects": (400, b'{"content":["x"]}', {}),
    "id a number": (400, b'{"content":"x","id":1}', {}),
    "unknown field": (400, b'{"content":"x","role":"system"}', {}),
    "unknown field, half a character": (400, b'{"content":"x","\\ud800":1}', {}),
    "content twice": (400, b'{"content":"x","content":"y"}', {}),
    "a name twice, inside": (400, b'{"content":[{"a":1,"a":2}]}', {}),
    "NaN": (400, b'{"content":[{"a":NaN}]}', {}),
    "infinity": (400, b'{"content":[{"a":-Infinity}]}', {}),
    "too large a float": (400, b'{"content":[{"a":1e999}]}', {}),
    "300 digits": (422, b'{"content":[{"a":' + b"9" * 300 + b"}]}", {}),
    "5000 digits": (400, b'{"content":[{"a":' + b"9" * 5000 + b"}]}", {}),
    "half a character": (400, b'{"content":"\\ud83c"}', {}),
    "half a character, inside": (400, b'{"content":[{"a":["\\udf55"]}]}', {}),
    "NUL": (422, b'{"content":"a\\u0000b"}', {}),
    "NUL in the id": (400, b'{"content":"x","id":"\\u0000"}', {}),
    "empty id": (400, b'{"content":"x","id":""}', {}),
    "long id": (400, b'{"content":"x","id":"' + b"i" * 513 + b'"}', {}),
    "long key": (422, b'{"content":"x"}', {"Idempotency-Key": "k" * 513}),
    "not UTF-8": (400, b'{"content":"\xff"}', {}),
    "UTF-16": (400, '{"content":"x"}'.encode("utf-16"), {}),
    "byte order mark": (400, b'\xef\xbb\xbf{"content":"x"}', {}),
    "comment": (400, b'{"content":"x"/**/}', {}),
    "deep": (400, NESTED, {}),
    "a hundred deep": (400, b'{"content":[{"a":' + b"[" * 100 + b"]" * 100 + b"}]}", {}),
    "over the message limit": (413, b'{"content":"' + b"x" * 300_000 + b'"}', {}),
    "a form": (415, b"content=x", {"Content-Type": "application/x-www-form-urlencoded"}),
    "text": (415, b'{"content":"x"}', {"Content-Type": "text/plain"}),
    "no type": (415, b'{"content":"x"}', {"Content-Type": ""}),
    "compressed": (
        415,
        gzip.compress(b'{"content":"x"}'),
        {"Content-Type": "application/json", "Content-Encoding": "gzip"},
    ),
    "nearly JSON": (415, b'{"content":"x"}', {"Content-Type": "application/jsonp"}),
}


async def test_what_is_not_a_message_is_refused_and_leaves_nothing() -> None:
    """Each hostile body gets its problem document; nothing is written, and the next good message is answered."""
    wrong, problems = {}, []
    async with served(counting()) as client:
        for name, (status, body, headers) in HOSTILE.items():
            answer = await client.ask("POST", path_of("ada"), body, headers)
            if (status, PROBLEM) != (answer.status, answer.headers["content-type"]):
                wrong[name] = answer
            problems.append(answer.json)
        log = await client.log("ada")
        good = await client.post("ada", {"content": "tea"}, {"Content-Type": "Application/JSON; charset=utf-8"})

    assert {} == wrong
    assert all({"type", "title", "status", "detail", "conversation"} == set(problem) for problem in problems)
    assert {"ada"} == {problem["conversation"] for problem in problems}
    assert all("nothing was touched" in problem["detail"].lower() for problem in problems)
    assert [] == log
    assert "tea is number 1" == good.json["replies"][0]["content"]


async def test_a_body_over_the_limit_is_refused_before_it_is_read() -> None:
    """With a Content-Length nothing of it is read; in chunks, little more than the limit."""
    async with served(counting(message_limit=1000, state_limit=1000)) as client:
        kind = "Content-Type: application/json"
        declared = await client.raw(client.opening("POST", path_of("ada"), kind, "Content-Length: 99999999999"))
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
        writer.write(client.opening("POST", path_of("ada"), kind, "Transfer-Encoding: chunked"))
        answered = asyncio.create_task(answer_from(reader))
        sent = 0
        try:
            while not answered.done() and sent < 100_000_000:
                writer.write(b"1000\r\n" + b" " * 4096 + b"\r\n")
                await writer.drain()
                sent += 4096
                await asyncio.sleep(0)
        except ConnectionError:
            pass
        chunked = await answered
        writer.close()
        after = await client.post("ada", {"content": "tea"})

    assert (413, PROBLEM) == (declared.status, declared.headers["content-type"])
    assert (413, PROBLEM) == (chunked.status, chunked.headers["content-type"])
    assert sent < 20_000_000
    assert 200 == after.status


async def test_a_body_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a body, then silence: 408."""
    monkeypatch.setattr(wire, "PATIENCE_S", 0.1)
    async with served(counting()) as client:
        lines = ("Content-Type: application/json", "Content-Length: 50")
        answer = await client.raw(client.opening("POST", path_of("ada"), *lines) + b"{")

    assert (408, PROBLEM) == (answer.status, answer.headers["content-type"])


IDS = [
    "ada",
    "a/b",
    "/",
    "//",
    "a/messages",
    "/messages/messages",
    "whatsapp:+39 081:{salon-7}",
    "100%",
    "%2F",
    "%",
    "pizza 🍕 più",
    "a\nb\r\tc",
    "a?b#c;d&e=f",
    "..",
    "../../etc/passwd",
    "a+b",
    "é" * 256,
]


async def test_any_id_can_be_in_the_path() -> None:
    """What is percent-encoded comes out as it was, slashes and percent signs too; a plain slash may stay plain."""
    keep = counting()
    async with served(keep) as client:
        for number, name in enumerate(IDS):
            answer = await client.post(name, {"content": str(number)})
            assert (200, name) == (answer.status, answer.json["conversation"])
        logs = [[message["content"] for message in await client.log(name)] for name in IDS]
        kept = {found.id async for found in keep.conversations()}
        plain = await client.ask("GET", "/v1/conversations/a/b/messages")

    assert [[str(number), f"{number} is number 1"] for number in range(len(IDS))] == logs
    assert set(IDS) == kept
    assert ["1", "1 is number 1"] == [message["content"] for message in plain.json["messages"]]


async def test_an_id_that_cannot_be_is_refused() -> None:
    """Empty, too long, with NUL, not UTF-8, or an address that only looks like ours."""
    bad = {
        "/v1/conversations//messages": 400,
        "/v1/conversations/%00/messages": 400,
        "/v1/conversations/%ff%fe/messages": 400,
        "/v1/conversations/%ed%a0%80/messages": 400,
        path_of("x" * 513): 400,
        "/v1/conversations/messages": 404,
        "/v1/conversations/x/message%73": 404,
        "/v1/conversations/x/messages/": 404,
        "/v1/%63onversations/x/messages": 404,
        "/v1": 404,
        "/chat.py": 404,
    }
    async with served(counting()) as client:
        answers = {path: await client.ask("GET", path) for path in bad}
        unescaped = await client.raw(b"GET /v1/conversations/\xc3\xa9/messages HTTP/1.1\r\nHost: localhost\r\n\r\n")
        deleted = await client.ask("DELETE", path_of("x"))

    assert bad == {path: answer.status for path, answer in answers.items()}
    assert {PROBLEM} == {answer.headers["content-type"] for answer in answers.values()}
    assert 400 == unescaped.status
    assert (405, PROBLEM) == (deleted.status, deleted.headers["content-type"])
    assert {"GET", "HEAD", "POST", "OPTIONS"} == {method.strip() for method in deleted.headers["allow"].split(",")}


async def test_the_log_comes_in_pages_without_notes() -> None:
    """after, before and limit; the notes of chatkeep itself do not count and cannot end a page early."""
    keep = counting()
    async with served(keep) as client:
        for number in range(3):
            await keep.receive("ada", f"m{number}")
            for _ in range(130):
                await keep.change("ada", lambda state: state.update(noted=True))
        everything = await client.log("ada")
        numbers = [message["number"] for message in everything]
        pages = {
            query: [message["number"] for message in await client.log("ada", query)]
            for query in (
                "?limit=1",
                "?limit=4",
                "?after=0&limit=3",
                f"?after={numbers[1]}&limit=1",
                f"?after={numbers[5]}",
                f"?before={numbers[4]}&limit=2",
                f"?after={numbers[0]}&before={numbers[3]}",
            )
        }
        nobody = await client.log("nobody")

    assert ["user", "assistant"] * 3 == [message["role"] for message in everything]
    assert sorted(numbers) == numbers
    assert {
        "?limit=1": numbers[-1:],
        "?limit=4": numbers[-4:],
        "?after=0&limit=3": numbers[:3],
        f"?after={numbers[1]}&limit=1": numbers[2:3],
        f"?after={numbers[5]}": [],
        f"?before={numbers[4]}&limit=2": numbers[2:4],
        f"?after={numbers[0]}&before={numbers[3]}": numbers[1:3],
    } == pages
    assert [] == nobody


async def test_a_query_that_is_not_understood_is_refused() -> None:
    """Never guessed at: a wrong query is a problem, not the first page."""
    wrong = ["limit=0", "limit=501", "limit=-1", "after=x", "after=1.5", "after=", "after=1&after=2", "page=2"]
    wrong += ["before=" + "9" * 17, "before=" + "9" * 5000, "after=%D9%A1", "after=1_0", "limit=NaN"]
    async with served(counting()) as client:
        found = {query: await client.ask("GET", f"{path_of('ada')}?{query}") for query in wrong}

    assert {400} == {answer.status for answer in found.values()}, found
    assert {PROBLEM} == {answer.headers["content-type"] for answer in found.values()}
    unnamed = [
        query for query in wrong if query.partition("=")[0] not in found[query].json["detail"].partition("; ")[2]
    ]
    assert [] == unnamed, found


async def test_a_conversation_that_nobody_has_begun_is_not_told_as_erased() -> None:
    """What is true of both is said: it is not there, and how one begins."""
    async with served(counting()) as client:
        refused = await client.ask("POST", path_of("nobody"), b'{"content": "hi"}', headers={"If-Match": "*"})

    assert (412, True) == (refused.status, "nobody has begun it, or it was erased" in refused.json["detail"])


async def test_a_method_that_is_not_possible_says_which_are() -> None:
    """In words too: people read the problem document, not the header."""
    async with served(counting()) as client:
        refused = await client.ask("PATCH", path_of("ada"))

    assert 405 == refused.status
    assert [] == [name for name in refused.headers["allow"].split(", ") if name not in refused.json["detail"]]


@pytest.mark.parametrize("store", ["memory", "sqlite"])
async def test_messages_at_once_lose_nothing(store: str, tmp_path: Path) -> None:
    """Sixty posts to three conversations, each twice at the same time: each is counted once, and told so once."""
    keep = counting("memory://" if store == "memory" else f"sqlite:///{tmp_path}/chat.db")
    async with served(keep) as client:
        names = [(f"c{number % 3}", f"m{number}") for number in range(60)] * 2
        answers = await asyncio.gather(*[client.post(name, {"content": id, "id": id}) for name, id in names])
        logs = [await client.log(f"c{number}") for number in range(3)]
        states = [await keep.conversation(f"c{number}") for number in range(3)]

    assert {200} == {answer.status for answer in answers}
    assert {"answered"} == {answer.json["status"] for answer in answers}
    assert 60 == sum(answer.json["duplicate"] for answer in answers)
    for first, second in zip(answers[:60], answers[60:], strict=True):
        assert first.json["replies"] == second.json["replies"]
    assert [40, 40, 40] == [len(log) for log in logs]
    assert [20, 20, 20] == [found.state["count"] for found in states if found]


async def test_a_service_key_begins_conversations() -> None:
    """201 once, 200 after; under its own id or one of the server's; Location leads there; what is no id is refused."""
    keep = counting()
    async with served(keep) as client:
        first = await client.ask("POST", "/v1/conversations", b'{"id":"a/b","owner":"ada"}')
        again = await client.ask("POST", "/v1/conversations", b'{"id":"a/b","owner":"ada"}')
        named = [await client.ask("POST", "/v1/conversations", body) for body in (b"{}", None, b'{"owner":"ada"}')]
        found = await client.ask("GET", first.headers["location"])
        bad = {
            body: (await client.ask("POST", "/v1/conversations", body)).status
            for body in (b'{"id":""}', b'{"id":"\\u0000"}', b'{"id":1}', b'{"name":"x"}', b"[]", b'{"cookie":true}')
        }
        form = await client.ask("POST", "/v1/conversations", b"", {"Content-Type": "application/x-www-form-urlencoded"})

    assert (201, {"id": "a/b", "revision": first.json["revision"], "created": True}) == (first.status, first.json)
    assert "/v1/conversations/a%2Fb" == first.headers["location"]
    assert (200, first.json | {"created": False}) == (again.status, again.json)
    assert [201] * 3 == [answer.status for answer in named]
    assert 3 == len({answer.json["id"] for answer in named})
    assert all(re.fullmatch("[0-9a-f]{32}", answer.json["id"]) for answer in named)  # no option for a command line
    assert (200, "a/b", "ada", []) == (found.status, found.json["id"], found.json["owner"], found.json["messages"])
    assert f'"{first.json["revision"]}"' == found.headers["etag"]
    assert [400, 400, 400, 400, 400, 422] == list(bad.values())
    assert 415 == form.status


async def test_one_of_several_has_begun_it() -> None:
    """Several who create the same conversation at the same time: one is told 201, the others that it is there."""
    async with served(counting()) as client:
        told = await asyncio.gather(
            *(client.ask("POST", "/v1/conversations", b'{"id":"order 7","owner":"ada"}') for _ in range(8))
        )

    assert [200] * 7 + [201] == sorted(answer.status for answer in told)
    assert [answer.status == 201 for answer in told] == [answer.json["created"] for answer in told]


async def test_a_conversation_is_shown_with_its_last_messages() -> None:
    """As many as are asked for, also more than a turn's window; notes are left out; the state is there."""
    keep = counting(history=3)
    async with served(keep) as client:
        for number in range(5):
            await client.post("ada", {"content": f"m{number}"})
            await keep.change("ada", lambda state: None)
        answers = {
            count: (await client.ask("GET", f"/v1/conversations/ada?messages={count}")).json for count in (0, 1, 7, 500)
        }
        usual = (await client.ask("GET", "/v1/conversations/ada")).json
        log = await client.log("ada")
        wrong = [
            (await client.ask("GET", f"/v1/conversations/ada?{query}")).status for query in ("messages=501", "limit=1")
        ]
        nobody = await client.ask("GET", "/v1/conversations/bob")

    assert {count: log[len(log) - min(count, 10) :] for count in answers} == {
        count: answer["messages"] for count, answer in answers.items()
    }
    assert (10, 0, False, [], {"count": 5}, 1) == tuple(
        usual[name] for name in ("head", "unread", "paused", "dead", "state", "session")
    )
    assert log == usual["messages"]
    assert [400, 400] == wrong
    assert (404, "urn:chatkeep:not-found") == (nobody.status, nobody.json["type"])


async def test_conversations_are_listed_and_erased() -> None:
    """By owner, bounded; an erased one is gone, with its tokens, and erasing it twice is fine."""
    keep = counting()
    async with served(keep) as client:
        for name, owner in (("a1", "ada"), ("a2", "ada"), ("b1", "bob")):
            body = json.dumps({"id": name, "owner": owner}).encode()
            await client.ask("POST", "/v1/conversations", body)
        token = (await client.ask("POST", "/v1/conversations/a1/tokens", b'{"scopes":["read"]}')).json["token"]
        lists = {
            query: {
                found["id"] for found in (await client.ask("GET", f"/v1/conversations{query}")).json["conversations"]
            }
            for query in ("", "?owner=ada", "?owner=eve")
        }
        one = (await client.ask("GET", "/v1/conversations?limit=1")).json["conversations"]
        erased = [(await client.ask("DELETE", "/v1/conversations/a1")).status for _ in range(2)]
        gone = await client.ask("GET", "/v1/conversations/a1")
        refused = await client.ask("GET", "/v1/conversations/a1", headers={"Authorization": f"Bearer {token}"})

    assert {"": {"a1", "a2", "b1"}, "?owner=ada": {"a1", "a2"}, "?owner=eve": set()} == lists
    assert 1 == len(one)
    assert {"id", "owner", "session", "head", "unread", "paused", "dead", "updated_at", "revision"} == set(one[0])
    assert [204, 204] == erased
    assert 404 == gone.status
    assert 401 == refused.status


async def test_a_visitor_is_given_a_conversation_and_its_token() -> None:
    """Only where the server lets visitors in; they choose neither id nor owner, and reach nothing else."""
    async with served(counting()) as client:
        closed = await client.ask("POST", "/v1/conversations", b"{}", {"Authorization": ""})
    async with served(counting(), anonymous=True, visitor_scopes=["read", "send"]) as client:
        made = await client.ask("POST", "/v1/conversations", b"{}", {"Authorization": ""})
        key = {"Authorization": f"Bearer {made.json['token']}"}
        chosen = [
            (await client.ask("POST", "/v1/conversations", body, {"Authorization": ""})).status
            for body in (b'{"id":"x"}', b'{"owner":"x"}')
        ]
        said = await client.post(made.json["id"], {"content": "tea"}, key)
        other = await client.post("ada", {"content": "tea"}, key)
        listed = await client.ask("GET", "/v1/conversations", headers=key)

    assert (401, "Bearer") == (closed.status, closed.headers["www-authenticate"])
    assert (201, {"id", "token", "scopes", "expires_at"}) == (made.status, set(made.json))
    assert [400, 400] == chosen
    assert "tea is number 1" == said.json["replies"][0]["content"]
    assert (404, 403) == (other.status, listed.status)


async def test_lists_of_what_never_was_are_404() -> None:
    """As its messages are; of what is there, and of a token for what has not begun, the list is empty or has it."""
    paths = ("messages", "deliveries", "dead-letters", "tokens")
    async with served(counting()) as client:
        never = [(await client.ask("GET", f"/v1/conversations/never/{path}")).status for path in paths]
        await client.post("ada", {"content": "hello"})
        there = [(await client.ask("GET", f"/v1/conversations/ada/{path}")).status for path in paths]
        await client.ask("POST", "/v1/conversations/later/tokens", b"{}")
        later = [(await client.ask("GET", f"/v1/conversations/later/{path}")).status for path in paths]

    assert [404] * 4 == never
    assert [200] * 4 == there
    assert [404, 404, 404, 200] == later


async def test_what_is_said_of_a_number_in_a_query_is_true() -> None:
    """-1 is a whole number: what is said is which are taken."""
    async with served(counting()) as client:
        await client.post("ada", {"content": "hello"})
        told = [
            (await client.ask("GET", f"/v1/conversations/ada/messages?after={number}")).json["detail"]
            for number in ("-1", "1.5", "9" * 20)
        ]

    assert [True] * 3 == ["is not a whole number from 0 on, in at most 19 digits" in said for said in told]


async def test_a_whole_number_may_be_written_with_a_point() -> None:
    """47.0 is 47, as JSON Schema has it; 1.5 is no whole number."""
    path = "/v1/conversations/ada/shares"
    async with served(counting()) as client:
        taken = [(await client.ask("POST", path, raw)).status for raw in (b'{"uses": 47.0}', b'{"uses": 4.7e1}')]
        refused = [
            (await client.ask("POST", path, raw)).status
            for raw in (b'{"uses": 1.5}', b'{"uses": 101.0}', b'{"uses": true}')
        ]

    assert [201, 201] == taken
    assert [400] * 3 == refused
