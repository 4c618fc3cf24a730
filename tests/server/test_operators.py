"""What operators do over HTTP, beside what a platform's webhooks show: dead letters, redactions."""

from __future__ import annotations

import json
from typing import Any

from chatkeep import Chatkeep, Turn
from chatkeep.app import core_of
from chatkeep.server.events import written

from ..support.serving import Client, served
from ..support.stores import FAST
from ..support.waiting import until


def at(conversation: str, what: str) -> str:
    """The address of something of a conversation."""
    return f"/v1/conversations/{conversation}/{what}"


async def test_doubts_are_listed_and_settled() -> None:
    """What a tool that must not run twice has left; what is not in doubt is refused."""
    keep: Chatkeep[Any] = Chatkeep("memory://", **FAST)
    charged: list[int] = []

    @keep.once
    async def charge(amount: int) -> str:
        charged.append(amount)
        raise TimeoutError("the line broke")

    @keep.on_message
    async def bot(turn: Turn[Any]) -> str:
        return await charge(5)

    async with served(keep) as client:
        await client.post("ada", {"content": "hello"})
        (doubt,) = (await client.ask("GET", at("ada", "doubts"))).json["doubts"]
        name = f"doubts/{doubt['name']}"
        wrong = [
            (await client.ask("POST", at(who, what), json.dumps(body).encode())).status
            for who, what, body in (
                ("ada", "doubts/0.0", {"done": True}),
                ("eve", name, {"done": True}),
                ("ada", name, {"result": 1}),
                ("ada", name, {"done": "yes"}),
            )
        ]
        missing = (await client.ask("GET", at("eve", "doubts"))).status
        settled = await client.ask("POST", at("ada", name), b'{"done": true, "result": "receipt 42"}')
        left = (await client.ask("GET", at("ada", "doubts"))).json
        await client.ask("POST", at("ada", "dead-letters/1"))

        async def answered() -> bool:
            said = (await client.ask("GET", at("ada", "messages"))).json["messages"]
            return bool(said[-1]["content"] == "receipt 42")

        await until(answered)

    assert ("charge", '{"amount":5}', 1) == (doubt["tool"], doubt["arguments"], doubt["number"])
    assert ([404, 404, 400, 400], 404, 204, {"doubts": []}) == (wrong, missing, settled.status, left)
    assert [5] == charged


async def test_dead_letters_are_listed_replayed_and_dismissed() -> None:
    """Of one conversation and of the tenant, in pages; what was never set aside is refused, and nothing else is closed."""
    broken = True
    keep: Chatkeep[Any] = Chatkeep("memory://", **FAST | {"attempts": 1})

    @keep.on_message
    async def bot(turn: Turn[Any]) -> str:
        if broken:
            raise RuntimeError("a bug")
        return "fine"

    async with served(keep) as client:
        for name in ("ada", "bob", "eve"):
            await client.post(name, {"content": f"from {name}"})
        one = (await client.ask("GET", at("ada", "dead-letters"))).json
        page = (await client.ask("GET", "/v1/dead-letters?limit=2")).json
        rest = (await client.ask("GET", f"/v1/dead-letters?behind={page['next']}")).json
        broken = False
        handed_in = await client.ask("POST", at("ada", "dead-letters/1"))

        async def closed() -> bool:
            return (await client.ask("GET", at("ada", "dead-letters"))).json == {"dead_letters": []}

        await until(closed)
        again = await client.ask("POST", at("ada", "dead-letters/1"))
        dismissed = [(await client.ask("DELETE", at("bob", "dead-letters/1"))).status for _ in range(2)]
        wrong = [
            (await client.ask(method, at("eve", f"dead-letters/{number}"))).status
            for method in ("POST", "DELETE")
            for number in ("2", "x", "999999999999")
        ]
        left = (await client.ask("GET", "/v1/dead-letters")).json

    (letter,) = one["dead_letters"]
    assert ("ada", 1, "from ada", "RuntimeError: a bug") == tuple(
        letter[name] for name in ("conversation", "number", "content", "reason")
    )
    assert (["ada", "bob"], "bob") == ([m["conversation"] for m in page["dead_letters"]], page["next"])
    assert (["eve"], False) == ([m["conversation"] for m in rest["dead_letters"]], "next" in rest)
    assert (201, 200, "answered") == (handed_in.status, again.status, again.json["status"])
    assert ([204, 204], [400, 404, 400] * 2) == (dismissed, wrong)
    assert ["eve"] == [m["conversation"] for m in left["dead_letters"]]


async def test_a_person_does_not_write_into_what_was_erased() -> None:
    """With If-Match, as the desk asks: what was erased while somebody was writing is not begun anew, and nothing is paused there. With a
    revision: nor what has changed since."""
    keep: Chatkeep[Any] = Chatkeep("memory://", **FAST)
    async with served(keep) as client:
        await keep.accept("ada", "hello")
        said = {"content": "I am here.", "paused": True}

        async def say(id: str, **headers: str) -> int:
            body = json.dumps(said | {"id": id}).encode()
            return (await client.ask("POST", at("ada", "operator"), body, headers={"If-Match": "*"} | headers)).status

        there = await say("o1")
        now = await keep.conversation("ada")
        assert now is not None
        known = await say("o4", **{"If-Match": f'"{now.revision}"'})
        changed = await say("o5", **{"If-Match": f'"{now.revision}"'})
        await keep.erase("ada")
        gone = await say("o2")
        left = await keep.conversation("ada")
        anew = await say("o3", **{"If-Match": ""})

    assert (201, 404, None, 201) == (there, gone, left, anew)
    assert (201, 412) == (known, changed)


async def test_a_message_is_redacted_for_everybody() -> None:
    """Shown so in the page and the conversation, told to streams; a redelivery gets the recorded replies, and only an operator may."""
    keep: Chatkeep[Any] = Chatkeep("memory://", **FAST)

    @keep.on_message
    async def bot(turn: Turn[Any]) -> str:
        return "thanks"

    async with served(keep) as client:
        first = await client.post("ada", {"content": "4111 1111", "id": "m1", "metadata": {"card": "4111 1111"}})
        token = (await client.ask("POST", at("ada", "tokens"), b'{"scopes":["read","erase"]}')).json["token"]
        refused = await Client(client.port, token).ask("DELETE", at("ada", "messages/1"))
        done = [(await client.ask("DELETE", at("ada", "messages/1"))).status for _ in range(2)]
        wrong = [(await client.ask("DELETE", at("ada", f"messages/{number}"))).status for number in ("x", "99")]
        page = (await client.ask("GET", at("ada", "messages"))).json["messages"]
        shown = (await client.ask("GET", "/v1/conversations/ada")).json["messages"]
        again = await client.post("ada", {"content": "4111 1111", "id": "m1"})
        watch = core_of(keep).watch("", "ada", after=0)
        async with watch:
            events = await watch.next(1.0) or []
            told = b"".join(written(events, [""] * len(events), None, b""))

    assert (403, [204, 204], [404, 400]) == (refused.status, done, wrong)
    assert page == shown
    assert ({"id", "number", "role", "content", "created_at", "redacted"}, "", True) == (
        set(page[0]),
        page[0]["content"],
        page[0]["redacted"],
    )
    assert "redacted" not in page[1]
    assert (200, first.json["replies"]) == (again.status, again.json["replies"])
    assert b'event: redacted\ndata: {"number":1}\n\n' in told
    assert b"4111" not in told
