"""Behind a proxy: the path's prefix, the host, connections that stay open, and a real nginx."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from chatkeep import Chatkeep
from chatkeep.auth.credentials import create_key
from chatkeep.server.application import application_of
from chatkeep.server.serving import configured
from chatkeep.server.settings import ServerSettings
from chatkeep.testing.servers import free_port

from ..support.service import Service, service
from ..support.serving import Client, served, serving
from ..support.waiting import time_passes, until

NGINX = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.log;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u;
    scgi_temp_path {folder}/s;
    upstream chatkeep {{ server 127.0.0.1:{server}; keepalive 32; }}
    server {{
        listen 127.0.0.1:{port};
        location /chat/ {{
            proxy_pass http://chatkeep/;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-For $remote_addr;
            proxy_set_header X-Forwarded-Prefix /chat;
        }}
        location /bare/ {{ proxy_pass http://chatkeep/; }}
    }}
}}
"""

CADDY = """
{{
    admin off
    grace_period 1s
    storage file_system {folder}
}}
http://:{port} {{
    bind 127.0.0.1
    handle_path /chat/* {{
        reverse_proxy 127.0.0.1:{server} {{
            header_up X-Forwarded-Prefix /chat
        }}
    }}
    handle_path /bare/* {{
        reverse_proxy 127.0.0.1:{server} {{
            header_up Host chatkeep
        }}
    }}
}}
"""

HAPROXY = """
defaults
    mode http
    timeout connect 5s
    timeout client 1h
    timeout server 1h
frontend chat
    bind 127.0.0.1:{port}
    use_backend bare if {{ path_beg /bare/ }}
    default_backend chatkeep
backend chatkeep
    option forwardfor
    http-request replace-path /chat/(.*) /\\1
    http-request set-header X-Forwarded-Prefix /chat
    server one 127.0.0.1:{server}
backend bare
    http-request replace-path /bare/(.*) /\\1
    http-request set-header Host chatkeep
    server one 127.0.0.1:{server}
"""

PROXIES = {
    "nginx": (NGINX, ["-e", "{folder}/nginx.log", "-p", "{folder}", "-c"]),
    "caddy": (CADDY, ["run", "--adapter", "caddyfile", "--config"]),
    "haproxy": (HAPROXY, ["-f"]),
}
"""The lines of docs/how-to/server.md, and how each is started with them. (Apache has no program that runs alone.)"""


@contextmanager
def proxied(name: str, folder: Path, server: Service) -> Iterator[int]:
    """A proxy in front of *server*, as the how-to has it: its port."""
    program = os.environ.get(f"CHATKEEP_{name.upper()}") or shutil.which(name)
    if program is None:
        pytest.skip(f"NOT RUN: there is no {name} here (apt-get install {name}, or CHATKEEP_{name.upper()})")
    port, (lines, arguments) = free_port(), PROXIES[name]
    written = folder / f"{name}.conf"
    written.write_text(lines.format(folder=folder, port=port, server=server.port))
    command = [program, *(argument.format(folder=folder) for argument in arguments), str(written)]
    with (folder / f"{name}.out").open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=os.environ | {"HOME": str(folder)})
    try:
        yield port
    finally:
        process.kill()
        process.wait(10)


@pytest.mark.long
@pytest.mark.parametrize("name", PROXIES)
async def test_behind_a_proxy_nothing_is_lost_and_addresses_have_the_prefix(name: str, tmp_path: Path) -> None:
    """Messages on connections that the proxy keeps; a stream comes at once; what is answered with addresses has the prefix; and a
    host that the proxy makes up is named."""
    with (
        service(tmp_path, anonymous="true", proxies="127.0.0.1", keep_alive="90s") as server,
        proxied(name, tmp_path, server) as port,
    ):
        key = server.key()
        client = Client(port, key)
        await until(lambda: answers(port))
        begun = await client.ask("POST", "/chat/v1/conversations", json.dumps({"id": "a/b c"}).encode())
        assert (201, "/chat/v1/conversations/a%2Fb%20c") == (begun.status, begun.headers.get("location")), begun.body
        told = await client.ask("GET", "/chat/openapi.json")
        statuses: Counter[int] = Counter()
        for number in range(40):
            body = json.dumps({"content": f"message {number}"}).encode()
            statuses[(await client.ask("POST", f"{begun.headers['location']}/messages", body)).status] += 1
            if number % 20 == 0:
                await time_passes(0.5)
        share = json.loads((await client.ask("POST", f"{begun.headers['location']}/shares", b"{}")).body)
        wrong = await client.ask("GET", "/bare/healthz")
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with closing(writer):
            writer.write(client.opening("GET", f"{begun.headers['location']}/events?after=79"))
            async with asyncio.timeout(10):
                head = await reader.readuntil(b"\r\n\r\n")
                event = await reader.readuntil(b"message 39")

    assert [{"url": "/chat"}] == told.json["servers"]
    assert {200: 40} == statuses
    assert share["url"].startswith("/chat/#share=")
    assert (400, True, True) == (wrong.status, b"'chatkeep'" in wrong.body, b"CHATKEEP_HOSTS" in wrong.body)
    assert b"text/event-stream" in head
    assert b"event: message" in event


async def answers(port: int) -> bool:
    """Whether somebody listens there."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


@pytest.mark.parametrize(
    ("proxies", "root_path", "prefix", "path", "location"),
    [
        ("127.0.0.1", "", "/chat", "/v1/conversations", "/chat/v1/conversations/ada"),
        ("127.0.0.1", "", "/chat/", "/v1/conversations", "/chat/v1/conversations/ada"),
        ("127.0.0.1", "", "/a%20b/c", "/v1/conversations", "/a%20b/c/v1/conversations/ada"),
        ("127.0.0.1", "", "/chat", "/chat/v1/conversations", "/chat/v1/conversations/ada"),
        ("127.0.0.1", "/set", "/chat", "/v1/conversations", "/chat/v1/conversations/ada"),
        ("127.0.0.1", "/set", "", "/v1/conversations", "/set/v1/conversations/ada"),
        ("", "/set", "/chat", "/v1/conversations", "/set/v1/conversations/ada"),
        ("", "", "/chat", "/v1/conversations", "/v1/conversations/ada"),
        ("127.0.0.1", "", "//evil.example", "/v1/conversations", "/v1/conversations/ada"),
        ("127.0.0.1", "", "https://evil.example", "/v1/conversations", "/v1/conversations/ada"),
    ],
)
async def test_the_prefix_of_a_listed_proxy_is_believed(
    proxies: str, root_path: str, prefix: str, path: str, location: str
) -> None:
    """And of nobody else; one that is no path is none; the setting stands where none is said."""

    keep: Chatkeep[dict[str, object]] = Chatkeep("memory://")
    keep.on_message(lambda turn: turn.text)
    settings = ServerSettings(proxies=tuple(filter(None, [proxies])), root_path=root_path)
    async with serving(application_of(keep, settings)) as port:
        client = Client(port, (await create_key(keep, "")).token)
        headers = {"X-Forwarded-Prefix": prefix}
        begun = await client.ask("POST", path, b'{"id": "ada"}', headers)
        again = await client.ask("GET", path.replace("/conversations", "/me"), None, headers)
        told = await client.ask("GET", "/openapi.json", None, headers)

    assert (201, location) == (begun.status, begun.headers["location"])
    assert 200 == again.status
    assert [{"url": location.removesuffix("/v1/conversations/ada") or "/"}] == told.json["servers"]


async def test_a_request_for_another_host_says_which_and_what_to_set() -> None:
    """Also for hosts that are two, none, or no name; names in another case and with a port are known."""
    async with served(Chatkeep("memory://"), hosts=["chat.example.com", "*.shop.example", "[::1]"]) as client:

        async def asked(host: str) -> tuple[int, bytes]:
            answer = await client.raw(f"GET /v1/me HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            return answer.status, answer.body

        for known in ("chat.example.com", "CHAT.example.com:8443", "a.shop.example", "[::1]:8765"):
            assert 401 == (await asked(known))[0], known
        for unknown in (
            "upstream",
            "chat.example.com.evil.example",
            "x@chat.example.com",
            "chat.example.com@x",
            "[::2]",
            "",
        ):
            status, body = await asked(unknown)
            told = json.loads(body)
            assert (400, "urn:chatkeep:bad-request") == (status, told["type"])
            assert (True, True) == (repr(unknown) in told["detail"], "CHATKEEP_HOSTS" in told["detail"]), unknown


@pytest.mark.parametrize(("host", "status"), [("anything.example:1", 200), ("[x]y", 400), ("[", 400)])
async def test_what_is_no_host_is_refused_where_any_is_let_in(host: str, status: int) -> None:
    """As with every other refusal, and not by an error."""
    async with served(Chatkeep("memory://"), hosts=["*"]) as client:
        request = f"GET /v1/session HTTP/1.1\r\nHost: {host}\r\nCookie: desk=x\r\nConnection: close\r\n\r\n"
        answer = await client.raw(request.encode())

    assert (status, status == 400) == (answer.status, b"urn:chatkeep:bad-request" in answer.body)


def test_idle_connections_outlive_those_of_proxies() -> None:
    """nginx keeps a connection for 60 s, Caddy for 120; the setting is what the server is started with."""
    config = configured("x:y", ServerSettings(), patience_s=1.0)

    assert 120 < config.timeout_keep_alive
    assert 3 == configured("x:y", ServerSettings(keep_alive="2500ms"), patience_s=1.0).timeout_keep_alive
