"""What each extra promises, tried where it alone is installed: `python -I promises.py NAME [URL] [KEY]`, in an empty folder.

Only what chatkeep requires and the standard library are imported here, beside what the extra brings.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

from chatkeep import Chatkeep, Turn

COMMAND = str(Path(sys.executable).with_name("chatkeep"))
START_S = 60.0

BOT = """
from chatkeep import Chatkeep

keep = Chatkeep({url!r})

@keep.on_message
async def bot(turn):
    turn.state["count"] = turn.state.get("count", 0) + 1
    return f"{{turn.state['count']}}: {{turn.text}} {{turn.message.metadata.get('traceparent', '')}}".strip()
"""

INLET = """
from chatkeep.channels import Telegram
from chatkeep.server import create_app
from chatkeep.server.webhooks import Webhooks

app = create_app(keep, webhooks=Webhooks(Telegram(token="42:token", secrets="hush")))
"""

USERS = """
from chatkeep.server import create_app, jwt_users

app = create_app(keep, users=jwt_users("k" * 32, algorithms=["HS256"], audience=None, issuer=None))
"""


def core() -> None:
    """Conversations in memory and in SQLite, the commands on a store, and pure channels."""
    from chatkeep.channels import Instagram, Messenger, Telegram, Webhook, WhatsApp  # noqa: F401

    talk("memory://")
    talk("sqlite:///chat.db")
    assert "ada" in said("list", "chat.db")
    assert "2: again" in said("show", "chat.db", "ada")
    assert "hello" in said("history", "chat.db", "ada")
    assert said("key", "create", "chat.db").startswith("ck_k_")
    assert "fit" in said("check", "chat.db")
    assert "2 margherita" in said("chat", "restaurant", "--store", "orders.db", typed="2 margherita\n")


def server() -> None:
    """`chatkeep serve`: --check, the API, both pages, metrics, webhooks; several processes; `chatkeep demo`."""
    Path("app.py").write_text(BOT.format(url="sqlite:///chat.db"))
    Path("inlet.py").write_text(BOT.format(url="sqlite:///inlet.db") + INLET)
    assert "fit to be served" in said("serve", "app:keep", "--check")
    with serving("serve", "app:keep", "--port", "0", CHATKEEP_TITLE="Salon", CHATKEEP_ANONYMOUS="true") as url:
        key = said("key", "create", "chat.db").split()[0]
        assert "1: hello" == posted(url, key)["replies"][0]["content"]
        assert "Salon" in got(url)
        assert "operator.js" in got(url + "operator")
        assert "chatkeep_turns_total 1" in got(url + "metrics")
        assert "ok" in got(url + "healthz")
        assert "openapi" in got(url + "openapi.json")
    with serving("serve", "app:keep", "--port", "0", "--workers", "2") as url:
        assert "2: hello" == posted(url, key)["replies"][0]["content"]
    with serving("serve", "inlet:app", "--port", "0") as url:
        update = {"update_id": 7, "message": {"message_id": 1, "date": 1, "chat": {"id": 5, "type": "private"}, "text": "pedicure",
                  "from": {"id": 5, "is_bot": False, "first_name": "Ada"}}}  # fmt: skip
        ask(url + "channels/telegram", update, {"X-Telegram-Bot-Api-Secret-Token": "hush"})
    assert "pedicure" in said("history", "inlet.db", "telegram:42:5")
    with serving("demo", "--port", "0", "--store", "demo.db") as url:
        assert "Bella Napoli" in got(url)


def client(url: str, key: str) -> None:
    """Both clients, and simulated customers, against a server elsewhere."""
    from chatkeep.client import Client, SyncClient

    async def asked() -> str:
        async with Client(url, token=key) as there:
            return str((await there.conversation("ada").send("hello")).replies[0].content)

    assert asyncio.run(asked()).startswith("1: hello")
    with SyncClient(url, token=key) as there:
        assert there.conversation("ada").send("again").replies[0].text.startswith("2: again")
    options = ["--customers", "2", "--messages", "2", "--rate", "50", "--key", key, "--json"]
    assert json.loads(said("simulate", url, *options))["clean"] is True


def channels() -> None:
    """A reply goes out through a channel, signed, to whom the message came from."""
    from chatkeep.channels import Webhook
    from chatkeep.channels.outlet import ChannelOutlet

    posts: list[bytes] = []
    came = threading.Event()

    class Platform(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posts.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(204)
            self.end_headers()
            came.set()

        def log_message(self, *_: Any) -> None:
            pass

    platform = HTTPServer(("127.0.0.1", 0), Platform)
    threading.Thread(target=platform.serve_forever, daemon=True).start()
    secret = "whsec_" + base64.b64encode(bytes(24)).decode()
    shop = Webhook("shop", secrets=secret, url=f"http://127.0.0.1:{platform.server_port}/replies")

    async def delivered() -> None:
        keep = bot("sqlite:///chat.db")
        keep.deliver(ChannelOutlet(shop))
        async with keep:
            for one in shop.parse(b'{"conversation": "ada", "content": "hello", "id": "1"}', []):
                await keep.receive(one.conversation, one.content, id=one.id)
            await asyncio.to_thread(came.wait, START_S)

    asyncio.run(delivered())
    assert "1: hello" == json.loads(posts[0])["content"]


def telemetry() -> None:
    """The server takes up the trace of a request, and the message carries it to its turn."""
    Path("app.py").write_text(BOT.format(url="sqlite:///chat.db"))
    trace = f"00-{'ab' * 16}-{'cd' * 8}-01"
    with serving("serve", "app:keep", "--port", "0") as url:
        key = said("key", "create", "chat.db").split()[0]
        reply = posted(url, key, traceparent=trace)["replies"][0]["content"]
    assert "ab" * 16 in reply, reply


def agents() -> None:
    """The bot with a model behind it, here one that is for tests."""
    from pydantic_ai.models.test import TestModel

    from chatkeep.demos.concierge import build

    async def asked() -> str:
        async with build("sqlite:///chat.db", model=TestModel(custom_output_text="Gladly.")) as keep:
            return str((await keep.receive("ada", "a manicure, please")).replies[0].text)

    assert "Gladly." == asyncio.run(asked())


def redis(url: str) -> None:
    """A store in Redis, and a shared cache in front of a file."""
    talk(url + "?prefix=packaging")
    assert "ada" in said("list", url + "?prefix=packaging")
    assert "fit" in said("check", url + "?prefix=packaging")
    talk("sqlite:///chat.db", cache=url)


def postgres(url: str) -> None:
    """A store in PostgreSQL."""
    talk(url + "?schema=packaging")
    assert "ada" in said("list", url + "?schema=packaging")
    assert "fit" in said("check", url + "?schema=packaging")


def upstash(url: str) -> None:
    """A store in a Redis over REST."""
    talk(url + "&prefix=packaging")
    assert "ada" in said("list", url + "&prefix=packaging")
    assert "fit" in said("check", url + "&prefix=packaging")


def durable_object(url: str) -> None:
    """A store in Durable Objects, and the worker to deploy."""
    talk(url + "&store=packaging")
    assert "ada" in said("list", url + "&store=packaging")
    assert "fit" in said("check", url + "&store=packaging")
    import chatkeep.drivers.durable_object as store

    assert {"worker.js", "wrangler.toml", "README.md"} == {
        path.name for path in Path(store.__path__[0], "worker").iterdir()
    }


# -- what they share ----------------------------------------------------------------------------------------------------


def bot(url: str, **options: Any) -> Chatkeep[Any]:
    """A bot that counts."""
    keep: Chatkeep[Any] = Chatkeep(url, **options)

    @keep.on_message
    async def answer(turn: Turn[Any]) -> str:
        turn.state["count"] = turn.state.get("count", 0) + 1
        return f"{turn.state['count']}: {turn.text}"

    return keep


def talk(url: str, **options: Any) -> None:
    """Two messages; where the store outlives a process, each to a Chatkeep of its own."""

    async def asked(*texts: str) -> list[str]:
        async with bot(url, **options) as keep:
            return [(await keep.receive("ada", text, id=text)).replies[0].text for text in texts]

    if url.startswith("memory"):
        assert ["1: hello", "2: again"] == asyncio.run(asked("hello", "again"))
    else:
        assert ["1: hello"] == asyncio.run(asked("hello"))
        assert ["2: again"] == asyncio.run(asked("again"))


def jwt() -> None:
    """Users by the tokens of an application, and none by those of another one."""
    from jwt import encode

    Path("users.py").write_text(BOT.format(url="sqlite:///users.db") + USERS)
    told = {"sub": "ada", "exp": time.time() + 60}
    good, bad = (encode(told, secret * 32, algorithm="HS256") for secret in "kx")
    with serving("serve", "users:app", "--port", "0") as url:
        assert "ada" == json.loads(ask(url + "v1/me", headers={"Authorization": f"Bearer {good}"}))["user"]
        told_why: tuple[int, str] | None = None
        try:
            ask(url + "v1/me", headers={"Authorization": f"Bearer {bad}"})
        except urllib.error.HTTPError as refused:
            told_why = refused.code, json.loads(refused.read())["reason"]
        assert (401, "signature") == told_why


def oidc() -> None:
    """A server whose people sign in through an OpenID provider, which cannot be reached here."""
    Path("desk.py").write_text(BOT.format(url="sqlite:///desk.db"))
    told = {"CHATKEEP_OIDC_ISSUER": "http://127.0.0.1:9", "CHATKEEP_OIDC_CLIENT_ID": "desk"}
    with serving("serve", "desk:keep", "--port", "0", **told) as url:
        assert "Sign in with OpenID Connect" == json.loads(ask(url + "v1/session"))["provider"]
        assert "Operators" in ask(url + "v1/session/oidc")  # back at the desk, which says why


def seal() -> None:
    """A conversation that is sealed in its file."""
    talk("sqlite:///sealed.db", seal_keys=["k" * 32])
    stored = Path("sealed.db").read_bytes()
    assert b"hello" in stored  # as the id of a message, which is not sealed
    assert b"1: hello" not in stored


def cookie() -> None:
    """Chats in a cookie: without an event loop, and in a plain ASGI application."""
    from chatkeep.cookie import CookieChat

    async def bot(turn: Turn) -> str:
        turn.state["count"] = turn.state.get("count", 0) + 1
        return f"{turn.state['count']}: {turn.text}"

    chats = CookieChat(bot, keys=["k" * 32])
    first = chats.answer("hello", host="localhost")
    kept = dict(first.headers)["set-cookie"].partition(";")[0]
    assert "2: again" == chats.answer("again", cookie=kept, host="localhost").receipt.replies[0].text

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await scope["state"]["chat"].receive("once more")
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    sent: list[Any] = []

    async def send(event: Any) -> None:
        sent.append(event)

    headers = [(b"host", b"localhost"), (b"cookie", kept.encode())]
    asyncio.run(chats(app)({"type": "http", "scheme": "http", "headers": headers}, None, send))
    assert dict(sent[0]["headers"])[b"set-cookie"].startswith(b"chat=")


def said(*arguments: str, typed: str = "") -> str:
    """What `chatkeep` says; it must end well."""
    ended = subprocess.run([COMMAND, *arguments], input=typed, capture_output=True, text=True, timeout=START_S)
    assert 0 == ended.returncode, (arguments, ended.returncode, ended.stdout, ended.stderr)
    return ended.stdout


@contextlib.contextmanager
def serving(*arguments: str, **settings: str) -> Iterator[str]:
    """A `chatkeep` that serves, until the end of the block: its address. It must stop well."""
    with open("served.log", "w+") as log:
        process = subprocess.Popen([COMMAND, *arguments], stdout=log, stderr=log, env=os.environ | settings)
        try:
            deadline = time.monotonic() + START_S
            while not (found := re.search(r"http://127\.0\.0\.1:\d+/", Path("served.log").read_text())):
                assert process.poll() is None, Path("served.log").read_text()
                assert time.monotonic() < deadline, Path("served.log").read_text()
                time.sleep(0.05)
            while True:
                with contextlib.suppress(OSError):
                    got(found[0] + "healthz")
                    break
                assert process.poll() is None, Path("served.log").read_text()
                assert time.monotonic() < deadline, Path("served.log").read_text()
                time.sleep(0.05)
            yield found[0]
            process.send_signal(signal.SIGTERM)
            assert 0 == process.wait(START_S), Path("served.log").read_text()
        finally:
            process.kill()
            process.wait()


def ask(url: str, body: Any = None, headers: dict[str, str] | None = None) -> str:
    """The answer to a GET, or to a POST of JSON."""
    raw = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, raw, {"Content-Type": "application/json"} | (headers or {}))
    with urllib.request.urlopen(request, timeout=START_S) as answer:
        return str(answer.read().decode())


def got(url: str) -> str:
    """The answer to a GET."""
    return ask(url)


def posted(url: str, key: str, **headers: str) -> Any:
    """The receipt for a message of ada's."""
    there = url + "v1/conversations/ada/messages"
    return json.loads(ask(there, {"content": "hello"}, {"Authorization": f"Bearer {key}"} | headers))


if __name__ == "__main__":
    globals()[sys.argv[1].replace("-", "_")](*sys.argv[2:])
