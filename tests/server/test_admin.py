"""Metrics, health and the operators' desk on a listener of their own, seen from outside."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from pathlib import Path

from chatkeep import Chatkeep
from chatkeep.server import create_app
from chatkeep.server.admin import ADMIN

from ..support.service import Service, service
from ..support.serving import Answer, Client
from ..support.waiting import until


def paths() -> list[str]:
    """What the listener of the API does not have."""
    routes = create_app(Chatkeep("memory://paths")).routes
    found = ["/metrics", *(path for route in routes if (path := getattr(route, "path", "")).startswith(ADMIN))]
    return [path for path in found if "oidc" not in path]  # which are nowhere without a provider


def admin_of(server: Service) -> list[Client]:
    """Somebody who speaks to each listener that the log names."""
    said = server.wait_for(r"On (.*) alone: /operator")[1]
    return [Client(int(port), "") for port in re.findall(r":(\d+)/", said)]


async def answered(client: Client, path: str, status: int) -> bool:
    """Whether it answers with this status; while nobody listens it does not."""
    try:
        return (await client.ask("GET", path)).status == status
    except (OSError, asyncio.IncompleteReadError):
        return False


async def test_what_is_for_operators_is_on_the_other_address_alone(tmp_path: Path) -> None:
    """The address of the API has none of it, by any method; the other one has it and the API, which the desk uses."""
    with service(tmp_path, "--admin-bind", "127.0.0.1:0", anonymous="true") as server:
        api, (admin,) = server.client(), admin_of(server)
        asked = {path: [(await api.ask(method, path)).status for method in ("GET", "POST")] for path in paths()}
        there = {path: (await admin.ask("GET", path)).status for path in paths()}
        begun = [(await client.ask("POST", "/v1/conversations", b"{}")).status for client in (api, admin)]
        tricks = [
            (await api.raw(request.encode(), bodyless=request.startswith("HEAD"))).status
            for request in tricks_of(admin.port)
        ]
        numbers = await admin.ask("GET", "/metrics", headers={"Host": "10.0.0.5:9000"})

    assert {} == {path: statuses for path, statuses in asked.items() if statuses != [404, 404]}
    assert {} == {path: status for path, status in there.items() if status == 404}
    assert {"/metrics", "/healthz", "/readyz", "/operator", "/operator.css", "/v1/session", "/v1/desk/health"} <= {
        *asked
    }
    assert [404] * 6 == tricks
    assert [201, 201] == begun
    assert (200, True) == (numbers.status, b"chatkeep_ready 1.0" in numbers.body)


def tricks_of(port: int) -> list[str]:
    """Requests that want to be taken for some that came to the other address, at *port*."""
    asked = [
        f"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1:{port}",
        f"GET http://127.0.0.1:{port}/metrics HTTP/1.1\r\nHost: 127.0.0.1:{port}",
        "GET /%6detrics HTTP/1.1\r\nHost: localhost",
        f"GET /metrics HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-Port: {port}\r\nX-Forwarded-Host: 127.0.0.1:{port}",
        "GET /metrics HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-Prefix: /metrics\r\nX-Original-URL: /metrics",
        "HEAD /metrics HTTP/1.1\r\nHost: localhost",
    ]
    return [f"{request}\r\nConnection: close\r\n\r\n" for request in asked]


async def test_a_port_that_an_argument_has_overruled_opens_nothing(tmp_path: Path) -> None:
    """The process that serves knows by which port the API is reached, whatever else names one."""
    tmp_path.joinpath("port").write_text("8765")
    with service(tmp_path, "--admin-bind", "127.0.0.1:0", port_file=str(tmp_path / "port")) as server:
        (admin,) = admin_of(server)
        statuses = [(await client.ask("GET", "/healthz")).status for client in (server.client(), admin)]

    assert [404, 200] == statuses


async def test_who_is_signed_in_at_the_desk_is_nobody_at_the_address_of_the_api(tmp_path: Path) -> None:
    """A browser sends its cookies to every port of a host; there they open nothing."""
    with service(tmp_path, "--admin-bind", "127.0.0.1:0", anonymous="true") as server:
        api, (admin,) = server.client(), admin_of(server)
        await until(lambda: answered(admin, "/readyz", 200))
        key = server.key()
        signed_in = await admin.ask("POST", "/v1/session", json.dumps({"key": key}).encode(), same_origin(admin))
        session = {"Cookie": signed_in.headers["set-cookie"].split(";")[0], "chatkeep-desk": signed_in.json["proof"]}
        listed = [await client.ask("GET", "/v1/conversations", headers=session) for client in (admin, api)]
        by_key = await Client(api.port, key).ask("GET", "/v1/conversations")

    assert [200, 401] == [one.status for one in listed]
    assert 200 == by_key.status  # a backend goes on


def same_origin(client: Client) -> dict[str, str]:
    """What a browser says of a page of this address."""
    return {"Origin": f"http://127.0.0.1:{client.port}", "Sec-Fetch-Site": "same-origin"}


async def test_each_of_several_processes_has_its_own_and_a_stop_ends_all(tmp_path: Path) -> None:
    """Each process is scraped at a port of its own, which the one that follows it takes over; while they stop they are not ready."""
    with service(tmp_path, "--workers", "2", "--admin-bind", "127.0.0.1:0", anonymous="true", drain="2s") as server:
        api, admin = server.client(), admin_of(server)
        for client in admin:
            await until(lambda client=client: answered(client, "/readyz", 200))
        first = [[scraped(await client.ask("GET", "/metrics")) for _ in range(4)] for client in admin]
        before = workers(server)
        os.kill(int(before[-1]), signal.SIGKILL)
        await until(lambda: len(set(workers(server)) - set(before)) == 1)
        followed = sorted([scraped(await client.ask("GET", "/metrics")) for client in admin])
        server.process.send_signal(signal.SIGHUP)
        await asyncio.to_thread(server.wait_for, "The flags were read again", 2)
        ready = [(await client.ask("GET", "/readyz")).status for client in admin]
        server.process.send_signal(signal.SIGTERM)
        for client in admin:
            await until(lambda client=client: answered(client, "/readyz", 503))
        code = await asyncio.to_thread(server.process.wait, 15)
        after = [await answered(client, path, 404) for client in (api, *admin) for path in ("/healthz", "/nowhere")]

    assert [[0, 1, 2, 3]] * 2 == first
    assert [0, 4] == followed
    assert [200, 200] == ready
    assert (0, [False] * 6) == (code, after), server.log


def scraped(numbers: Answer) -> int:
    """How often the process that tells these numbers has told them before."""
    found = re.search(
        rb'^chatkeep_http_requests_total\{method="GET",route="/metrics",status="200"\} (\d+)', numbers.body, re.M
    )
    return int(found[1]) if found else 0


def workers(server: Service) -> list[str]:
    """The processes that the server has started."""
    pid = server.process.pid
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
