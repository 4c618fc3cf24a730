"""Logs: one line an event, for machines or people; no content, no secret, nothing that steers a terminal."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
import secrets
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chatkeep.errors import Unavailable
from chatkeep.server.logs import LineFormatter, LineHandler, RequestLogMiddleware, access_log, line, request_id

from ..support.service import service

BOT = """
import logging, warnings
from chatkeep import Chatkeep
keep = Chatkeep({url!r})
log = logging.getLogger("bot")

@keep.on_message
async def bot(turn):
    text = turn.text
    if text.startswith("break"):
        raise ValueError("cannot make sense of " + text)
    if text.startswith("chain"):
        try:
            int(text)
        except ValueError as fault:
            raise RuntimeError("no number: " + text) from fault
    if text.startswith("type"):
        raise type("Wrong" + text[5:], (Exception,), dict())("x")
    return "you said " + text
"""


async def test_no_secret_and_no_content_is_anywhere_in_the_logs(tmp_path: Path) -> None:
    """Unique canaries go through every path, good and bad; afterwards the whole output is searched for each of them."""
    canary = {
        name: f"CANARY{secrets.token_hex(8)}" for name in ("text", "chain", "metadata", "query", "path", "cookie")
    }
    canary |= {"broken": f"ck_c_{secrets.token_hex(24)}a", "basic": f"CANARY{secrets.token_hex(8)}"}
    for form in ("text", "json"):
        folder = tmp_path / form
        folder.mkdir()
        settings = {"anonymous": "true", "log_format": form, "log_level": "debug", "attempts": "1"}
        with service(folder, bot=BOT, **settings) as server:
            client = server.client()
            begun = (await client.ask("POST", "/v1/conversations", b"{}")).json
            client.key = begun["token"]
            here = f"/v1/conversations/{begun['id']}"
            for said in ("hello ", "break ", "chain "):
                text = said + canary["chain" if said == "chain " else "text"]
                await client.post(
                    begun["id"], {"content": text, "metadata": {"note": canary["metadata"]}, "id": "m" + said}
                )
            await client.ask("GET", f"{here}/messages?limit={canary['query']}")
            await client.ask("GET", f"/{canary['path']}")
            await client.ask("POST", f"{here}/messages", f'{{"content": "{canary["text"]}'.encode())
            await client.ask("GET", here, headers={"Authorization": f"Bearer {canary['broken']}"})
            await client.ask("GET", here, headers={"Authorization": f"Basic {canary['basic']}"})
            await client.ask(
                "GET", here, headers={"Authorization": "", "Cookie": f"__Host-chatkeep={canary['cookie']}"}
            )
            await client.raw(f"GET {here} HTTP/9.{canary['path']}\r\nX: {canary['cookie']}\r\n\r\n".encode())
            server.stop()
        found = [name for name, secret in (canary | {"token": begun["token"]}).items() if secret in server.log]

        assert [] == found, server.log
        assert "ValueError" in server.log  # and yet it is told what went wrong


async def test_no_password_of_a_store_is_logged(tmp_path: Path) -> None:
    """Wherever a URL turns up, and without a traceback in one long line."""
    with service(
        tmp_path, url="redis://bot:CANARYhunter2@127.0.0.1:1/0", log_format="json", log_level="debug"
    ) as server:
        server.process.wait(20)

    said = [word for word in ("127.0.0.1:1", "CANARYhunter2", "Traceback") if word in server.log]
    assert ["127.0.0.1:1"] == said, server.log


async def test_every_line_of_the_json_log_is_json_and_names_its_request(tmp_path: Path) -> None:
    """The id in the answer's header finds the lines of its request."""
    with service(tmp_path, anonymous="true", log_format="json") as server:
        answer = await server.client().ask("POST", "/v1/conversations", b"{}")
        server.stop()
    lines = [json.loads(text) for text in server.log.splitlines()]
    access = [told for told in lines if told["logger"] == "chatkeep.access"]

    assert [{"time", "level", "logger", "message"}] * len(lines) == [
        {"time", "level", "logger", "message"} & told.keys() for told in lines
    ]
    assert ["POST /v1/conversations 201"] == [told["message"] for told in access]
    assert answer.headers["x-request-id"] == access[0]["request"]


async def test_probes_are_not_in_the_log_unless_asked_for(tmp_path: Path) -> None:
    """/readyz every second is noise."""
    with service(tmp_path) as server:
        await server.client().ask("GET", "/readyz")
        await server.client().ask("GET", "/nothing")
        server.stop()

    assert (False, True) == ("GET /readyz" in server.log, "GET other 404" in server.log)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\r\nb", "a\\x0d\\x0ab"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("\u202eevil", "\\u202eevil"),
        ("\x9b0m \x7f \x00", "\\x9b0m \\x7f \\x00"),
        ("caf\u00e9 \u65e5\u672c", "caf\u00e9 \u65e5\u672c"),
        ("postgresql://bot:pw@db/x", "postgresql://***@db/x"),
        ("redis://:p%40w@h:1/0 away", "redis://***@h:1/0 away"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
        ("cookie: a=b; c", "cookie: ***"),
        ("redis://:hunter2/x#y@h:1/0 away", "redis://***@h:1/0 away"),
        ("password=hunter2, x", "password=***, x"),
        ("Password: hunter2", "Password: ***"),
        ('{"password":"hunter2","n":1}', '{"password":"***","n":1}'),
        ("{'client_secret': 'hunter2'}", "{'client_secret': '***'}"),
        ("token = hunter2", "token = ***"),
        ("X-Telegram-Bot-Api-Secret-Token: hush", "X-Telegram-Bot-Api-Secret-Token: ***"),
        ("https://api.telegram.org/bot42:AAF-x/sendMessage", "https://api.telegram.org/bot***/sendMessage"),
        ("token 123456:" + "AAF-" * 9 + " here", "token *** here"),
        ("EAA" + "G0pX" * 8 + " of Meta", "*** of Meta"),
        ("whsec_YWJj+/== of webhooks", "*** of webhooks"),
        ("whatsapp:15501234567:491701234567", "whatsapp:15501234567:491701234567"),
        ("token:create by ci", "token:create by ci"),
        ("token ck_k_" + "A1" * 24 + " here", "token *** here"),
    ],
)
def test_what_steers_or_opens_something_is_made_harmless(text: str, shown: str) -> None:
    """Line ends, escape sequences, turned text; passwords and credentials."""
    assert shown == line(text)


@pytest.mark.parametrize(
    "piece", ["https://", "://@", "token=", "/bot1", "EAA", "whsec_", "ck_k_", "cookie: ", "123456 ", "a@"]
)
def test_no_text_is_slow_to_write(piece: str) -> None:
    """Bots log what their customers say: each character of it is looked at a bounded number of times."""
    began = time.process_time()
    line(piece * (60_000 // len(piece)))

    assert time.process_time() - began < 1


def test_an_error_is_told_by_kind_and_place_and_ours_with_words() -> None:
    """An error of others may quote a message; the chain is told to its end, also when it bites its tail."""
    try:
        try:
            int("CANARY")
        except ValueError as fault:
            raise Unavailable("ada: the store is away") from fault
    except Unavailable:
        record = logging.getLogger("x").makeRecord("x", 40, "f", 1, "it failed\nbadly", (), sys.exc_info())
    told = json.loads(LineFormatter(as_json=True).format(record))
    text = LineFormatter(as_json=False).format(record)

    assert ["chatkeep.errors.Unavailable: ada: the store is away", "builtins.ValueError"] == [
        part for part in told["error"] if not part.startswith("  at ")
    ]
    assert (False, False) == ("CANARY" in json.dumps(told), "CANARY" in text)
    assert text.startswith(told["time"])
    assert "it failed\\x0abadly" in text


def test_extras_are_kept_and_made_safe() -> None:
    """What is logged beside the message."""
    token = request_id.set("r1")
    extra: dict[str, Any] = {"ms": 1.5, "who": "a\nb", "thing": ["x"]}
    record = logging.getLogger("x").makeRecord("x", 20, "f", 1, "done", (), None, extra=extra)
    told = json.loads(LineFormatter(as_json=True).format(record))
    request_id.reset(token)

    assert {"request": "r1", "ms": 1.5, "who": "a\\x0ab", "thing": "['x']"} == {
        name: told[name] for name in ("request", "ms", "who", "thing")
    }


class Stream(io.StringIO):
    """Remembers each write."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[str] = []

    def write(self, text: str) -> int:
        self.writes.append(text)
        return super().write(text)


async def serve_one(status: int = 200) -> None:
    """One request, through the middleware that logs it."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["route_path"] = "/v1/conversations/{id}/messages"
        await send({"type": "http.response.start", "status": status, "headers": []})

    async def nothing(*_: Any) -> None:
        pass

    await RequestLogMiddleware(app)({"type": "http", "method": "POST"}, nothing, nothing)


@pytest.fixture
def lines() -> Iterator[Stream]:
    """What the logs of this process say, as JSON."""
    stream, root = Stream(), logging.getLogger()
    handler = LineHandler(stream)
    handler.setFormatter(LineFormatter(as_json=True))
    level = access_log.level
    root.addHandler(handler)
    access_log.setLevel("INFO")
    yield stream
    access_log.setLevel(level)
    root.removeHandler(handler)


async def test_lines_of_the_access_log_are_written_together_and_others_at_once(lines: Stream) -> None:
    """In the order in which they were said; nothing stays behind, also when the loop has ended."""
    for status in (200, 404):
        await serve_one(status)
    held = list(lines.writes)
    logging.getLogger("bot").warning("something else")
    await serve_one(500)
    await asyncio.sleep(0)
    said = [json.loads(told)["message"] for told in lines.getvalue().splitlines()]

    assert [] == held
    route = "POST /v1/conversations/{id}/messages"
    assert [f"{route} 200", f"{route} 404", "something else", f"{route} 500"] == said
    assert [2, 1, 1] == [len(write.splitlines()) for write in lines.writes]


def test_what_is_held_is_written_when_the_process_ends(lines: Stream) -> None:
    """`logging.shutdown` flushes; another loop writes its own lines."""
    for _ in range(2):
        asyncio.run(serve_one())
    for handler in logging.getLogger().handlers:
        handler.flush()

    assert 2 == len(lines.getvalue().splitlines())


@pytest.mark.parametrize(("level", "head"), [("INFO", "info    chat"), ("CRITICAL", "critical chat")])
def test_the_level_stands_apart_from_the_logger(level: str, head: str) -> None:
    """Also the longest one."""
    record = logging.makeLogRecord({"name": "chatkeep", "levelname": level, "msg": "x"})

    assert head in LineFormatter(as_json=False).format(record)


async def test_a_line_of_the_access_log_is_made_as_any_other(lines: Stream) -> None:
    """By hand, with the members that the formatter gives to every record, in their order."""
    await serve_one()
    record = logging.makeLogRecord({"name": "chatkeep.other", "levelname": "INFO", "msg": "x", "ms": 0.5})
    token = request_id.set("r")
    other = json.loads(LineFormatter(as_json=True).format(record))
    request_id.reset(token)
    await asyncio.sleep(0)
    told = json.loads(lines.getvalue())

    assert list(other) == list(told)
    assert ("info", "chatkeep.access", 16) == (told["level"], told["logger"], len(told["request"]))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", told["time"])
    assert [type(value) for value in other.values()] == [type(value) for value in told.values()]
