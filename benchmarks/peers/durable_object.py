"""A Durable Object with SQLite storage under workerd, asked over HTTP on loopback, which is the only way to it."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import aiohttp

from .. import work

PACKAGES = ("aiohttp",)
HERE = Path(__file__).parent
WORKERD = HERE / "node_modules" / "@cloudflare" / "workerd-linux-64" / "bin" / "workerd"
CONFIG = """using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [(name = "main", worker = .main), (name = "disk", disk = (path = "{disk}", writable = true))],
  sockets = [(name = "http", address = "127.0.0.1:{port}", http = (), service = "main")]
);
const main :Workerd.Worker = (
  modules = [(name = "worker", esModule = embed "worker.mjs")],
  compatibilityDate = "2025-01-01",
  durableObjectNamespaces = [(className = "Conversation", uniqueKey = "conversation", enableSql = true)],
  durableObjectStorage = (localDisk = "disk"),
  bindings = [(name = "CONVERSATIONS", durableObjectNamespace = "Conversation")]
);
"""


class DurableObject:
    """One object for each conversation; a POST with the question, what the bot makes of it comes back."""

    async def open(self, url: str) -> None:
        home = Path(url.removeprefix("sqlite:///")).parent
        disk = home / "objects"
        disk.mkdir()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        (home / "worker.mjs").write_text((HERE / "durable_object.mjs").read_text())
        (home / "config.capnp").write_text(CONFIG.format(disk=disk, port=port))
        if not WORKERD.exists():
            raise RuntimeError("there is no workerd in benchmarks/peers/node_modules")
        self.process = await asyncio.create_subprocess_exec(str(WORKERD), "serve", str(home / "config.capnp"))
        pool = aiohttp.TCPConnector(limit=100)
        self.http = aiohttp.ClientSession(base_url=f"http://127.0.0.1:{port}", connector=pool)
        for attempt in range(100):
            try:
                await self.ask("first", {"fill": [], "state": {}})
                break
            except aiohttp.ClientError:
                await asyncio.sleep(0.05)
                if attempt == 99:
                    raise

    async def ask(self, conversation: str, body: object) -> int:
        """Posts *body* to the object of a conversation."""
        async with self.http.post(f"/{conversation}", json=body) as response:
            found = await response.json()
            assert response.status == 200, found
            return int(found)

    async def fill(self, conversation: str, messages: int) -> None:
        said = [[role, text] for _, role, text in work.history(messages)]
        await self.ask(conversation, {"fill": said, "state": work.state(0)})

    async def turn(self, conversation: str, step: int) -> int:
        # The bot's part of the work is done here; the object loads, checks and writes.
        said = {"question": work.question(step), "answer": work.answer(step), "state": work.state(step)}
        return await self.ask(conversation, said)

    async def close(self) -> None:
        await self.http.close()
        self.process.terminate()
        await self.process.wait()
