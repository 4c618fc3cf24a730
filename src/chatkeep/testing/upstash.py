"""A test double of Upstash's REST protocol over a real Redis or Valkey: `python upstash.py PORT REDIS_PORT TOKEN READ_ONLY_TOKEN`.

Written from the published protocol: POST / with a command, /pipeline, /multi-exec, commands in the path, /subscribe/CHANNEL as
server-sent events, tokens in a header or in `_token`, answers in base64 where that is asked for. With faults: POST /-/faults sets
what of FAULTS it is given, GET /-/counts tells how many requests and commands there were. It is started as a program of its own, and
imports nothing of chatkeep, so that it is there at once.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import random
import sys
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import hiredis
import httptools

FAULTS: dict[str, Any] = {
    "lost_requests": 0.0,  # the part of the requests that is dropped before anything is done
    "lost_answers": 0.0,  # the part that is done and not answered
    "quota": None,  # commands until the quota is used up
    "size": 1 << 20,  # bytes that a request may have
    "status": None,  # every request is answered with this HTTP status
    "delay": 0.0,  # seconds that every request takes
}

READERS = "reader"
"""The user of Valkey under which the read-only token works."""

SHEBANG = b"#!lua flags=allow-key-locking\n"
"""The service's own; Redis and Valkey refuse it."""

NOT_OVER_REST = {
    "AUTH",
    "SELECT",
    "WATCH",
    "UNWATCH",
    "DISCARD",
    "MULTI",
    "EXEC",
    "BLPOP",
    "BRPOP",
    "SUBSCRIBE",
    "QUIT",
}
MISSING = object()


class Valkey:
    """One connection to the server behind the double; commands of one request go together."""

    def __init__(self, port: int, user: str | None = None) -> None:
        self._port = port
        self._user = user
        self._lock = asyncio.Lock()
        self._link: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, commands: list[list[bytes]]) -> list[Any]:
        """Return the answers, one for each command; errors are values."""
        async with self._lock:
            try:
                if self._link is None:
                    self._link = await asyncio.open_connection("127.0.0.1", self._port)
                    if self._user is not None:
                        await self._exchange([[b"AUTH", self._user.encode(), b"x"]])
                return await self._exchange(commands)
            except BaseException:
                if self._link is not None:
                    self._link[1].close()
                self._link = None
                raise

    async def _exchange(self, commands: list[list[bytes]]) -> list[Any]:
        assert self._link is not None
        reader, writer = self._link
        writer.write(b"".join(hiredis.pack_command(tuple(command)) for command in commands))  # type: ignore[arg-type]
        parser = hiredis.Reader(notEnoughData=MISSING)
        answers: list[Any] = []
        while len(answers) < len(commands):
            if (answer := parser.gets()) is not MISSING:
                answers.append(answer)
            elif arrived := await reader.read(1 << 16):
                parser.feed(arrived)
            else:
                raise ConnectionError("the server is gone")
        return answers


class Request:
    """One HTTP request as it arrives."""

    def __init__(self) -> None:
        self.url = b""
        self.headers: dict[bytes, bytes] = {}
        self.body = b""
        self.whole = False

    def on_url(self, url: bytes) -> None:
        """Keep a part of the path and query."""
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header."""
        self.headers[name.lower()] = value

    def on_body(self, body: bytes) -> None:
        """Keep a part of the body."""
        self.body += body

    def on_message_complete(self) -> None:
        """Note that the request is whole."""
        self.whole = True


class Double:
    """The double: tokens, faults, counts, and the names that scripts have for clients."""

    def __init__(self, port: int, token: str, read_only: str) -> None:
        self.port = port
        self.servers = {token: Valkey(port), read_only: Valkey(port, READERS)}
        self.token = token
        self.faults = dict(FAULTS)
        self.counts = {"requests": 0, "commands": 0}
        self.scripts: dict[bytes, bytes] = {}

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        try:
            while True:
                request = Request()
                parser = httptools.HttpRequestParser(request)
                while not request.whole:
                    arrived = await reader.read(1 << 16)
                    if not arrived:
                        return
                    parser.feed_data(arrived)
                if not await self._served(request, parser.get_method().decode(), writer):
                    return
        except (OSError, httptools.HttpParserError):
            pass
        finally:
            writer.transport.abort()

    async def _served(self, request: Request, method: str, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; tell whether the connection goes on."""
        parts = urlsplit(request.url.decode())
        path = [unquote(part) for part in parts.path.split("/") if part]
        query = parse_qs(parts.query, keep_blank_values=True)
        given = request.headers.get(b"authorization", b"").decode().removeprefix("Bearer ")
        given = given or query.pop("_token", [""])[0]
        status: int
        said: Any
        if path[:1] == ["-"]:
            status, said = self._administered(path, given, request.body)
        else:
            self.counts["requests"] += 1
            if self.faults["delay"]:
                await asyncio.sleep(self.faults["delay"])
            if random.random() < self.faults["lost_requests"]:
                writer.transport.abort()
                return False
            if self.faults["status"] is not None:
                status, said = self.faults["status"], "<html>out of order</html>"
            elif given not in self.servers:
                status, said = 401, {"error": "WRONGPASS invalid or missing auth token"}
            elif method not in ("GET", "POST", "PUT", "HEAD"):
                status, said = 405, {"error": "ERR method not allowed"}
            elif len(request.body) > self.faults["size"]:
                limit, actual = self.faults["size"], len(request.body)
                status = 400
                said = {"error": f"ERR max request size exceeded. Limit: {limit} bytes, Actual: {actual} bytes"}
            elif path[:1] == ["subscribe"] and len(path) == 2:
                await self._streamed(path[1].encode(), writer)
                return False
            else:
                encoded = request.headers.get(b"upstash-encoding") == b"base64"
                try:
                    status, said = await self._answered(self.servers[given], path, query, request.body, encoded)
                except OSError:
                    status, said = 500, {"error": "ERR the database cannot be reached"}
            if random.random() < self.faults["lost_answers"]:
                writer.transport.abort()
                return False
        body = json.dumps(said).encode() if not isinstance(said, str) else said.encode()
        writer.write(
            b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nUpstash-Sync-Token: t%d\r\nContent-Length: %d\r\n\r\n%b"
            % (status, self.counts["requests"], len(body), body)
        )
        await writer.drain()
        return True

    def _administered(self, path: list[str], given: str, body: bytes) -> tuple[int, Any]:
        if given != self.token:
            return 401, {"error": "not yours"}
        if path == ["-", "faults"]:
            self.faults |= json.loads(body)
            return 200, self.faults
        return 200, self.counts

    async def _answered(
        self, server: Valkey, path: list[str], query: dict[str, list[str]], body: bytes, encoded: bool
    ) -> tuple[int, Any]:
        """Return status and body of the answer to a request that is let in."""
        try:
            if path in (["pipeline"], ["multi-exec"]):
                commands = [list(map(_word, command)) for command in json.loads(body)]
            elif path:
                commands = [[part.encode() for part in path]]
                commands[0] += [body] if body else []
                commands[0] += [word.encode() for name, values in query.items() for word in (name, *values) if word]
            else:
                commands = [list(map(_word, json.loads(body)))]
            if not commands or not all(commands):
                raise ValueError("ERR empty command")
        except (ValueError, TypeError) as fault:
            return 400, {"error": f"ERR failed to parse command: {fault}"}
        self.counts["commands"] += len(commands)
        if (quota := self.faults["quota"]) is not None and self.counts["commands"] > quota:
            return 400, {"error": f"ERR max requests limit exceeded. Limit: {quota}, Usage: {self.counts['commands']}."}
        if path == ["multi-exec"]:
            answers = (await server.ask([[b"MULTI"], *map(self._translated, commands), [b"EXEC"]]))[-1]
            if isinstance(answers, Exception):
                return 400, {"error": f"{answers}"}
        else:
            answers = await server.ask([self._translated(command) for command in commands])
        items = [self._item(command, answer, encoded) for command, answer in zip(commands, answers, strict=True)]
        if path in (["pipeline"], ["multi-exec"]):
            return 200, items
        return 400 if "error" in items[0] else 200, items[0]

    def _translated(self, command: list[bytes]) -> list[bytes]:
        """Return the command as Valkey takes it: without the line that only the service knows, under Valkey's name of the script."""
        name = command[0].upper()
        if name.decode() in NOT_OVER_REST:
            return [b"ECHO"]  # which is refused, for want of an argument
        if name == b"EVALSHA":
            return [name, self.scripts.get(command[1], command[1]), *command[2:]]
        text = (
            command[1]
            if name == b"EVAL"
            else command[2]
            if [word.upper() for word in command[:2]] == [b"SCRIPT", b"LOAD"]
            else b""
        )
        if not text.startswith(SHEBANG):
            return command
        own = text.removeprefix(SHEBANG)
        self.scripts[_sha(text)] = _sha(own)
        return [own if word is text else word for word in command]

    def _item(self, command: list[bytes], answer: Any, encoded: bool) -> dict[str, Any]:
        if isinstance(answer, Exception):
            return {"error": f"{answer}"}
        if [word.upper() for word in command[:2]] == [b"SCRIPT", b"LOAD"]:
            answer = _sha(command[2])
        return {"result": _shown(answer, encoded)}

    async def _streamed(self, channel: bytes, writer: asyncio.StreamWriter) -> None:
        """Yield the server-sent events of a channel, until somebody goes."""
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        async for event in _heard(self.port, channel):
            data = b"data: %b\n\n" % event
            writer.write(b"%x\r\n%b\r\n" % (len(data), data))
            await writer.drain()
        writer.transport.abort()


async def _heard(port: int, channel: bytes) -> AsyncIterator[bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(hiredis.pack_command((b"SUBSCRIBE", channel)))  # type: ignore[arg-type]
        parser = hiredis.Reader(notEnoughData=MISSING)
        while True:
            if (answer := parser.gets()) is not MISSING:
                yield b",".join(part if isinstance(part, bytes) else b"%d" % part for part in answer)
            elif arrived := await reader.read(1 << 16):
                parser.feed(arrived)
            else:
                return
    finally:
        writer.close()


def _word(word: Any) -> bytes:
    if isinstance(word, bool) or not isinstance(word, str | int | float):
        raise TypeError(f"{word!r} is no argument")
    return str(word).encode()


def _sha(text: bytes) -> bytes:
    return hashlib.sha1(text, usedforsecurity=False).hexdigest().encode()


def _shown(answer: Any, encoded: bool) -> Any:
    """Return an answer as JSON has it."""
    if isinstance(answer, list):
        return [_shown(one, encoded) for one in answer]
    if isinstance(answer, Exception):
        return f"{answer}"
    if not isinstance(answer, bytes):
        return answer
    if not encoded or answer == b"OK":
        return answer.decode(errors="replace")
    return base64.b64encode(answer).decode()


async def main() -> None:
    """Serve until it is killed."""
    port, redis_port, token, read_only = sys.argv[1:]
    double = Double(int(redis_port), token, read_only)
    rules = [
        b"ACL",
        b"SETUSER",
        READERS.encode(),
        b"on",
        b">x",
        b"~*",
        b"&*",
        b"+@read",
        b"+ping",
        b"+echo",
        b"-scan",
        b"-keys",
    ]
    await double.servers[token].ask([rules])
    async with await asyncio.start_server(double.talk, "127.0.0.1", int(port)) as server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
