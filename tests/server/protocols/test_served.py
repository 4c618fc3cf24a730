"""A process that speaks protocols by its settings, and dies in the middle of an answer."""

from __future__ import annotations

import signal
from pathlib import Path

from ...support.protocols import streamed
from ...support.service import service
from ...support.serving import Client

BOT = """
import asyncio
from chatkeep import Chatkeep
keep = Chatkeep({url!r})

@keep.on_message
async def bot(turn):
    for word in "one two three four five six seven eight".split()[len(turn.said.split()):]:
        yield word + " "
        await asyncio.sleep(0.2)
"""
SAID = {"id": "c1", "messages": [{"id": "m1", "role": "user", "parts": [{"type": "text", "text": "count"}]}]}


async def test_an_answer_outlives_its_server(tmp_path: Path) -> None:
    """kill -9 in the middle: who resumes on the next process is given what was read, and the rest of it."""
    settings = {"protocols": "aisdk,responses"}
    with service(tmp_path, bot=BOT, **settings) as server:
        server.wait_for("Nobody can use this server")
        client = Client(server.port, server.key())
        async with streamed(client, "POST", "/api/chat", SAID) as answer:
            assert 200 == answer.status
            read = ""
            while "two" not in read:
                read += (await answer.next()).get("delta", "")
            server.stop(signal.SIGKILL)
    with service(tmp_path, bot=BOT, **settings) as server:
        client = Client(server.port, client.key)
        async with streamed(client, "GET", "/api/chat/c1/stream") as resumed:
            assert 200 == resumed.status
            chunks = await resumed.rest()

    said = "".join(chunk["delta"] for chunk in chunks[:-1] if "delta" in chunk)
    assert "one two three four five six seven eight " == said
    assert said.startswith(read)
