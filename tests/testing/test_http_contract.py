"""`chatkeep serve` and the worker of Durable Objects give the same answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from chatkeep import Chatkeep, Turn
from chatkeep.auth.credentials import create_key
from chatkeep.testing.http_contract import HttpContract
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


class TestServe(HttpContract):
    """`chatkeep serve`."""

    @pytest.fixture(autouse=True)
    async def serve(self) -> AsyncIterator[None]:
        """A server on a store of its own."""
        async with served(echo("memory://"), anonymous=True, visitor_scopes=VISITOR) as client:
            self.address, self.key = f"http://127.0.0.1:{client.port}", client.key
            yield


@pytest.fixture(scope="module")
def worker() -> Iterator[DurableObjectServer]:
    """A worker that lets visitors in."""
    with DurableObjectServer(settings={"VISITORS": "yes", "STORE": "contract"}) as server:
        yield server


class TestWorker(HttpContract):
    """The worker of Durable Objects, without Python but for the bot."""

    @pytest.fixture(autouse=True)
    async def serve(self, worker: DurableObjectServer) -> AsyncIterator[None]:
        """The bot on the worker's store."""
        async with echo(f"{worker.url}&store=contract") as keep:
            self.address, self.key = worker.address, (await create_key(keep, "")).token
            yield
