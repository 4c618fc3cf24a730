"""However many large answers are asked for at the same time, everybody else is answered meanwhile."""

from __future__ import annotations

import asyncio
from pathlib import Path

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chatkeep import Chatkeep, Turn
from chatkeep.server.reads import LATE_S, LEAST, MOST, STEP, Reads

from ..support.serving import Client, narrow_connection, served
from ..support.stores import FAST
from ..support.waiting import until

READERS = 100


class Counted:
    """Middleware that counts the pages of the log that were begun to be sent."""

    sent = 0

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""

        async def counting(message: Message) -> None:
            if message["type"] == "http.response.start" and scope["path"].endswith("/messages"):
                Counted.sent += 1
            await send(message)

        await self.app(scope, receive, counting if scope["type"] == "http" else send)


async def bot(turn: Turn) -> str:
    """Answers shortly."""
    return turn.text[:9]


async def test_health_is_answered_beside_a_hundred_readers_who_take_nothing(tmp_path: Path) -> None:
    """Each asks for a page of a megabyte; all of them are answered, and somebody who asks for health does not wait for that."""
    keep = Chatkeep(f"sqlite:///{tmp_path}/chat.db", **FAST)
    keep.on_message(bot)
    async with served(keep, middleware=[Middleware(Counted)]) as client:
        for _ in range(6):
            await keep.receive("ada", "x" * 200_000)
        Counted.sent = 0
        links = [await narrow_connection(client.port) for _ in range(READERS)]
        for _, writer in links:
            writer.write(client.opening("GET", "/v1/conversations/ada/messages"))
        await until(lambda: Counted.sent > 0)
        answers = [(await Client(client.port, "").ask("GET", "/healthz")).status for _ in range(2)]
        before = Counted.sent
        await until(lambda: Counted.sent == READERS)
        for _, writer in links:
            writer.close()

    assert [200, 200] == answers
    assert before < READERS / 2


async def test_fewer_run_where_the_loop_is_late_and_more_where_it_is_not() -> None:
    """Who waits comes in its order; a call that is cancelled gives its place to the next one."""
    reads, order, go = Reads(), [], asyncio.Event()
    reads.most = LEAST

    async def read(number: int) -> None:
        async with reads:
            order.append(number)
            await go.wait()

    tasks = [asyncio.create_task(read(number)) for number in range(MOST)]
    await asyncio.sleep(0)
    at_first = list(order)
    tasks[LEAST].cancel()
    await until(lambda: len(order) > LEAST + STEP)
    grown = reads.most
    held(2 * LATE_S)
    await until(lambda: reads.most < grown)
    go.set()
    await asyncio.gather(*tasks, return_exceptions=True)

    assert list(range(LEAST)) == at_first
    assert [number for number in range(MOST) if number != LEAST] == order
    assert 0 == reads.running


def held(seconds: float) -> None:
    """Holds the loop."""
    end = asyncio.get_running_loop().time() + seconds * 2
    while asyncio.get_running_loop().time() < end:
        pass
