"""`chatkeep serve` and the worker of Durable Objects give the same answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from aiohttp import ClientSession

from chatkeep import Chatkeep, Turn
from chatkeep.app import core_of
from chatkeep.auth.credentials import create_key
from chatkeep.testing.http_contract import HttpContract, HttpUser
from chatkeep.testing.servers import DurableObjectServer
from tests.support.serving import served

pytestmark = pytest.mark.server

VISITOR = ("read", "send", "state:read", "state:write")


def echo(url: str) -> Chatkeep[dict[str, Any]]:
    """The bot that the clauses are about."""
    keep: Chatkeep[dict[str, Any]] = Chatkeep(url, poll="50ms")

    @keep.on_message
    async def bot(turn: Turn[dict[str, Any]]) -> str:
        turn.state["last"] = turn.text
        return f"you said {turn.text}"

    return keep


class OnAStore(HttpContract):
    """The clauses, and what only somebody with the store can try."""

    __test__ = False
    keep: Chatkeep[dict[str, Any]]

    async def test_a_key_does_what_its_scopes_allow(self) -> None:
        """And nothing else, wherever it is used; one that was made without any does everything."""
        async with self.serving() as service:
            await service.ask("POST", "/conversations", {"id": service.id})
            service.token = (await create_key(self.keep, "", scopes=("read",))).token
            reads = await service.ask("GET", ""), await service.ask("GET", "messages")
            refused = [
                await service.ask("GET", "state"),
                await service.ask("PUT", "state", {"a": 1}, if_match="*"),
                await service.ask("POST", "messages", {"content": "hello"}),
                await service.ask("POST", "/conversations", {"id": "another"}),
                await service.ask("DELETE", ""),
            ]
            me = await service.ask("GET", "/me")

        assert [200, 200] == [answer.status for answer in reads]
        assert "state" not in reads[0].json
        assert [(403, "forbidden")] * 5 == [(answer.status, answer.word) for answer in refused]
        assert ["read"] == me.json["scopes"]

    async def test_what_is_on_legal_hold_is_not_erased(self) -> None:
        """Itself, or its owner; it is when the hold is lifted."""
        holds = core_of(self.keep).holds("")
        async with self.serving() as service:
            await service.ask("POST", "/conversations", {"id": service.id, "owner": "eve"})
            found = []
            for held in ({"conversation": service.id}, {"owner": "eve"}):
                await holds.put(**held, reason="case 7")
                found.append(await service.ask("DELETE", ""))
                await holds.lift(**held)
            there, erased = await service.ask("GET", ""), await service.ask("DELETE", "")

        assert [(409, "on-hold")] * 2 == [(answer.status, answer.word) for answer in found]
        assert [200, 204] == [there.status, erased.status]


class TestServe(OnAStore):
    """`chatkeep serve`."""

    __test__ = True

    @pytest.fixture(autouse=True)
    async def serve(self) -> AsyncIterator[None]:
        """A server on a store of its own."""
        self.keep = echo("memory://")
        async with served(self.keep, anonymous=True, visitor_scopes=VISITOR) as client:
            self.address, self.key = f"http://127.0.0.1:{client.port}", client.key
            yield


@pytest.fixture(scope="module")
def worker() -> Iterator[DurableObjectServer]:
    """A worker that lets visitors in."""
    with DurableObjectServer(settings={"VISITORS": "yes", "STORE": "contract"}) as server:
        yield server


class TestWorker(OnAStore):
    """The worker of Durable Objects, without Python but for the bot."""

    __test__ = True

    @pytest.fixture(autouse=True)
    async def serve(self, worker: DurableObjectServer) -> AsyncIterator[None]:
        """The bot on the worker's store."""
        async with echo(f"{worker.url}&store=contract") as self.keep:
            self.address, self.key = worker.address, (await create_key(self.keep, "")).token
            yield


async def test_the_worker_refuses_a_sealed_store_by_name() -> None:
    """It has no keys: what a visitor says would lie there in the clear, and the answer could not be read."""
    with DurableObjectServer(settings={"VISITORS": "yes", "STORE": "sealed"}) as server:
        keep: Chatkeep[dict[str, Any]] = Chatkeep(f"{server.url}&store=sealed", seal_keys=["0123456789abcdef"])
        async with keep, ClientSession() as http:
            key = (await create_key(keep, "")).token
            begun = await HttpUser(http, server.address).ask("POST", "/conversations")
            told = await HttpUser(http, server.address, key, "ada").say("hello", "m1")
            listed = [one.id async for one in keep.all_conversations()]

    assert [(500, "misconfigured")] * 2 == [(answer.status, answer.word) for answer in (begun, told)]
    assert "sealed" in begun.json["detail"]
    assert [] == listed
