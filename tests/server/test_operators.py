"""What operators do over HTTP, beside what a platform's webhooks show: dead letters."""

from __future__ import annotations

from typing import Any

from chatkeep import Chatkeep, Turn

from ..support.serving import served
from ..support.stores import FAST
from ..support.waiting import until


def at(conversation: str, what: str) -> str:
    """The address of something of a conversation."""
    return f"/v1/conversations/{conversation}/{what}"


async def test_dead_letters_are_listed_replayed_and_dismissed() -> None:
    """Of one conversation and of the tenant, in pages; what was never set aside is refused, and nothing else is closed."""
    broken = True
    keep: Chatkeep[Any] = Chatkeep("memory://", attempts=1, **FAST)

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
