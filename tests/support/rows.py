"""The checklists from outside: bots served by real processes, customers who write through a platform, visitors who use the API.

Nothing here reaches into a process: webhooks and requests go in over HTTP, replies come out at a platform that writes them
down, operators use the command line.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from chatkeep.demos import BOTS
from chatkeep.durations import seconds
from chatkeep.testing.servers import free_port

from .fork_server import NOWHERE, Program
from .platform import SECRET, Platform, post_whatsapp, whatsapp_message
from .service import environment, run
from .serving import Answer, Client
from .stores import LASTING

PATIENCE_S = 20.0
durable = pytest.mark.parametrize("url", LASTING, indirect=True)
"""On every store that outlives a process."""

RESTAURANTS = {"1550": "bella", "1660": "sakura"}
"""WhatsApp account to tenant."""

APP = """
import time
from pathlib import Path

from chatkeep import Chatkeep
from chatkeep.channels import WhatsApp
from chatkeep.channels.outlet import ChannelOutlet
from chatkeep.demos import BOTS


def clock():
    return time.time() + float(Path("ahead").read_text())

{bot}
whatsapp = WhatsApp(accounts=dict.fromkeys(TENANTS, "token"), secrets=SECRET, verify_tokens="v", api=PLATFORM)
keep.deliver(ChannelOutlet(whatsapp, tenant_of=lambda channel, account: TENANTS[account]))
"""
SETTINGS = {"anonymous": "true", "visitor_scopes": "read,send,share,state:read"}
SETTINGS |= dict.fromkeys(("rate_peer", "rate_refused", "rate_begin", "rate_token", "rate_conversation"), "off")
DEMO = "keep = BOTS[{name!r}](STORE, clock=clock, **OPTIONS)\n"


class Instance:
    """`chatkeep serve` with a bot on a store: started, killed, and started again on its port."""

    def __init__(self, folder: Path, store: str) -> None:
        self.folder, self.store, self.port = folder, store, free_port()
        self.process: Program | None = None

    @property
    def visitor(self) -> Client:
        """Somebody whom nobody knows."""
        return Client(self.port, "")

    @property
    def log(self) -> str:
        """What it has logged so far."""
        return self.folder.joinpath("serve.log").read_text()

    async def start(self) -> None:
        """Starts it and waits until it is ready."""
        command = "serve", "bot:keep", "--port", str(self.port)
        with self.folder.joinpath("serve.log").open("ab") as out:
            streams = NOWHERE, out.fileno(), out.fileno()
            self.process = Program(*command, folder=self.folder, environment=environment(SETTINGS), streams=streams)
        async with asyncio.timeout(PATIENCE_S):
            while not await self._is_ready():
                assert self.process.poll() is None, self.log
                await asyncio.sleep(0.01)

    async def _is_ready(self) -> bool:
        with contextlib.suppress(OSError, EOFError):
            return (await self.visitor.ask("GET", "/readyz")).status == 200
        return False

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(PATIENCE_S)

    async def stop(self) -> int:
        """Stops it as a deploy does; its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return await asyncio.to_thread(self.process.wait, PATIENCE_S)

    async def restart(self) -> None:
        """kill -9, and the next one."""
        self.kill()
        await self.start()

    async def operate(self, *arguments: str) -> str:
        """What a command of the operator's says: `chatkeep COMMAND STORE ...`."""
        done = await asyncio.to_thread(run, self.folder, arguments[0], *arguments[1:])
        assert 0 == done.returncode, done.stderr
        return done.stdout

    async def operator(self, tenant: str = "") -> Client:
        """Somebody who has a service key of *tenant*."""
        key = await self.operate("key", "create", self.store, "--tenant", tenant)
        return Client(self.port, key.strip())


@asynccontextmanager
async def instance(
    folder: Path,
    bot: str,
    store: str,
    platform: Platform | None = None,
    *,
    tenants: Mapping[str, str] = RESTAURANTS,
    **options: Any,
) -> AsyncIterator[Instance]:
    """Serves a demo, or what the source text *bot* makes as `keep`, until the end of the block."""
    url = platform.url if platform is not None else "http://127.0.0.1:9"
    said = {"STORE": store, "PLATFORM": url, "TENANTS": dict(tenants), "SECRET": SECRET, "OPTIONS": options}
    constants = "".join(f"{name} = {value!r}\n" for name, value in said.items())
    source = DEMO.format(name=bot) if bot in BOTS else bot
    folder.joinpath("bot.py").write_text(constants + APP.replace("{bot}", source))
    if not folder.joinpath("ahead").exists():
        put_forward(folder, 0)
    found = Instance(folder, store)
    try:
        await found.start()
        yield found
    finally:
        if found.process is not None and found.process.poll() is None:
            found.kill()


def put_forward(folder: Path, by: str | float) -> None:
    """Puts the clock of the instances in *folder* that far ahead of this machine's."""
    folder.joinpath("ahead.new").write_text(str(seconds(by)))
    os.replace(folder / "ahead.new", folder / "ahead")


def place(conversation: str, what: str = "") -> str:
    """The address of a conversation, or of *what* belongs to it."""
    return f"/v1/conversations/{quote(conversation, safe='')}{what and '/'}{what}"


def text_of(content: Any) -> str:
    """The text of a message."""
    parts = content if isinstance(content, list) else [content]
    return "\n".join(part if isinstance(part, str) else part.get("text", "") for part in parts)


async def answered(client: Client, method: str, path: str, body: Any = None, **headers: str) -> Answer:
    """Asks until there is an answer that is not "later": the patience of every decent client."""
    sent = None if body is None else json.dumps(body).encode()
    async with asyncio.timeout(PATIENCE_S):
        while True:
            with contextlib.suppress(OSError, EOFError):
                found = await client.ask(method, path, sent, headers)
                if found.status not in (429, 502, 503):
                    return found
            await asyncio.sleep(0.02)


class Customer:
    """A telephone. What is written on it is written once; the platform posts it until a webhook is acknowledged."""

    def __init__(self, there: Platform, *instances: Instance, phone: str = "4917", account: str = "1550") -> None:
        self.there, self.instances, self.phone, self.account = there, instances, phone, account
        self.conversation = f"whatsapp:{account}:{phone}"
        self._numbers, self._heard = count(1), 0

    @property
    def sendings(self) -> list[tuple[str, str]]:
        """The id of each reply that came to this telephone, and its text; doubled ones as often as they came."""
        mine = [
            told for told in self.there.sent if (told["to"], told["path"]) == (self.phone, f"/{self.account}/messages")
        ]
        return [(told["biz_opaque_callback_data"].partition("@")[0], shown(told)) for told in mine]

    @property
    def heard(self) -> list[str]:
        """The texts that came, each once."""
        return list(dict(self.sendings).values())

    async def say(self, text: str, /, *, times: int = 1, **other: Any) -> None:
        """Writes *text*, or something *other* (type="image", image=...); returns when it was acknowledged so many times."""
        number = next(self._numbers)
        message = whatsapp_message(
            self.phone, text, f"wamid.{self.account}.{self.phone}.{number}", account=self.account
        )
        message = {name: value for name, value in message.items() if name != "text" or text} | other
        clients = [each.visitor for each in self.instances]
        async with asyncio.timeout(PATIENCE_S):
            for attempt in count(number):
                with contextlib.suppress(OSError, EOFError):
                    answer = await post_whatsapp(clients[attempt % len(clients)], message)
                    times -= answer.status == 200
                if times < 1:
                    return
                await asyncio.sleep(0.01)

    async def hear(self, words: str) -> str:
        """Waits for a reply that says *words*, after those that were waited for before."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                texts = self.heard
                for place in range(self._heard, len(texts)):
                    if words in texts[place]:
                        self._heard = place + 1
                        return texts[place]
                await asyncio.sleep(0.005)

    async def ask(self, text: str, answer: str) -> str:
        """Writes *text* and waits for the answer."""
        await self.say(text)
        return await self.hear(answer)


def shown(told: dict[str, Any]) -> str:
    """The text of a message as the platform shows it."""
    body = told["text"] if "text" in told else told["interactive"]["body"]
    return str(body.get("body") or body.get("text"))


class Visitor:
    """Somebody in a browser or an app, with a token for a conversation of their own."""

    def __init__(self, client: Client, conversation: str) -> None:
        self.client, self.conversation = client, conversation
        self._numbers = count(1)

    @classmethod
    async def of(cls, instance: Instance) -> Visitor:
        """Begins a conversation."""
        begun = (await answered(instance.visitor, "POST", "/v1/conversations", {})).json
        return cls(Client(instance.port, begun["token"]), begun["id"])

    async def say(self, text: str, id: str | None = None) -> dict[str, Any]:
        """Sends *text*, under one id until it is answered; the receipt."""
        body = {"content": text, "id": id or f"m{next(self._numbers)}"}
        answer = await answered(self.client, "POST", place(self.conversation, "messages"), body)
        assert answer.status == 200, answer
        found: dict[str, Any] = answer.json
        return found

    async def ask(self, text: str) -> str:
        """What the bot says to *text*."""
        return "\n".join(text_of(reply["content"]) for reply in (await self.say(text))["replies"])

    async def state(self, slot: str = "") -> Any:
        """The state, or a slot of it."""
        answer = await answered(self.client, "GET", place(self.conversation, "state" + ("/" * bool(slot)) + slot))
        assert answer.status == 200, answer
        return answer.json
