"""`chatkeep serve`: how it starts and stops, alone and with several processes, and the keys that open it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
from pathlib import Path

from chatkeep.server.serving import HUNG_S

from ..support.program import chatkeep
from ..support.service import BOT, run, service
from ..support.waiting import nothing_happens_for, until

SECRET_URL = "redis://bot:hunter2@127.0.0.1:1/0"
REPLACED_S = 2 * HUNG_S + 20.0
"""Until a worker that is killed is followed by another: each of two may be waited for, if it is still starting."""


async def test_a_bot_is_served_to_whoever_has_a_key(tmp_path: Path) -> None:
    """A key made on the command line opens the API; without one it stays shut."""
    with service(tmp_path) as server:
        server.wait_for("Nobody can use this server")
        key = server.key("--label", "ci")
        answered = await server.client(key).post("ada", {"content": "hello"})
        refused = await server.client().post("ada", {"content": "hello"})

    assert (200, "you said hello{}") == (answered.status, answered.json["replies"][0]["content"])
    assert 401 == refused.status


def test_who_is_served_is_told_where_channels_reach_the_bot(tmp_path: Path) -> None:
    """A server without a key serves the customers of its channels, and says no more than that nobody has a key."""
    outlet = f"""
from chatkeep.channels import Telegram
from chatkeep.channels.outlet import ChannelOutlet
keep.deliver(ChannelOutlet(Telegram(token="42:token", secrets="{"s" * 32}")))
"""
    with service(tmp_path, bot=BOT + outlet) as server:
        server.wait_for("Only channels reach this server, and nobody can use its API: there is no service key")

    assert "Nobody can use this server" not in server.log


def test_an_address_that_cannot_be_had_is_told_with_what_to_do(tmp_path: Path) -> None:
    """The one of the API, and that of `admin_bind`; each by the setting that names it."""
    (tmp_path / "bot.py").write_text(BOT.format(url="memory://x"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        api = chatkeep("serve", "bot:keep", "--port", str(port), folder=tmp_path)
        admin = chatkeep("serve", "bot:keep", "--port", "0", "--admin-bind", f"127.0.0.1:{port}", folder=tmp_path)

    assert [2, 2] == [api[0], admin[0]]
    told = f"Port {port} of 127.0.0.1 cannot be used (Address already in use); nothing was started. Name another place with"
    assert f"{told} `port` and `host`." in api[2]
    assert f"{told} `admin_bind`." in admin[2]


def test_keys_are_listed_without_what_they_are_and_can_be_revoked(tmp_path: Path) -> None:
    """A key is shown once; afterwards there is its id, its tenant and its label."""
    tmp_path.joinpath("bot.py").write_text(BOT.format(url=f"sqlite:///{tmp_path}/chat.db"))
    with service(tmp_path) as server:
        server.wait_for("Nobody can use")
    made = json.loads(run(tmp_path, "key", "create", "chat.db", "--tenant", "salon", "--label", "ci", "--json").stdout)
    listed = run(tmp_path, "key", "list", "chat.db").stdout
    revoked = run(tmp_path, "key", "revoke", "chat.db", made["id"])
    after = run(tmp_path, "key", "list", "chat.db").stdout
    unknown = run(tmp_path, "key", "revoke", "chat.db", "nobody")

    assert (True, False) == (f"{made['id']}  tenant salon  ci" in listed, made["token"] in listed)
    assert (0, True) == (revoked.returncode, "revoked" in after)
    assert (1, True) == (unknown.returncode, "There is no key 'nobody'" in unknown.stderr)
    assert 2 == run(tmp_path, "key", "create", "chat.db", "--expires", "soon").returncode


def test_a_store_that_is_away_ends_the_start_with_one_line(tmp_path: Path) -> None:
    """Exit code 3, the reason, no traceback, no password."""
    tmp_path.joinpath("bot.py").write_text(BOT.format(url=SECRET_URL))
    ended = run(tmp_path, "serve", "bot:keep", "--port", "0")

    assert (3, True) == (ended.returncode, "chatkeep: redis://127.0.0.1:1/0" in ended.stderr), ended.stderr
    assert (False, False) == ("Traceback" in ended.stderr, "hunter2" in ended.stderr), ended.stderr


async def test_with_a_journal_it_starts_while_the_store_is_away(tmp_path: Path) -> None:
    """What it would tell of service keys is in the store, and nobody's start waits for that."""
    away = {"url": "redis://127.0.0.1:1/0", "on_outage": "journal", "journal": "journal.db", "store_timeout": "500ms"}
    with service(tmp_path, **away) as server:
        server.wait_for("messages are taken into the journal")

        async def answers() -> bool:
            return (await server.client().ask("GET", "/healthz")).status == 200

        await until(answers, within=15.0)
        assert 0 == server.stop()


async def test_a_stop_lets_the_running_turn_finish_and_says_not_ready_first(tmp_path: Path) -> None:
    """SIGTERM: 503 from /readyz while it drains; the turn that runs is answered; exit code 0."""
    with service(tmp_path, anonymous="true", drain="1s") as server:
        client = server.client()
        begun = (await client.ask("POST", "/v1/conversations", b"{}")).json
        client.key = begun["token"]
        turn = asyncio.create_task(client.post(begun["id"], {"content": "wait a moment"}))

        async def not_ready() -> bool:
            return (await client.ask("GET", "/readyz")).status == 503

        await nothing_happens_for(0.3)  # what it does before a turn is over is seen by nobody
        server.process.send_signal(signal.SIGTERM)
        await until(not_ready)
        ready = await client.ask("GET", "/readyz")
        answered = await turn
        code = await asyncio.to_thread(server.process.wait, 10)

    assert (503, "this server is stopping") == (ready.status, ready.json["trouble"])
    assert (200, 0) == (answered.status, code)
    assert [] == re.findall(r"^.*Z (?:warning|error|critical) .*$", server.log, re.M)


async def test_a_stop_ends_event_streams_instead_of_waiting_for_them(tmp_path: Path) -> None:
    """An open stream is told `end`, closing, and the process is gone soon after."""
    with service(tmp_path, anonymous="true") as server:
        client = server.client()
        begun = (await client.ask("POST", "/v1/conversations", b"{}")).json
        client.key = begun["token"]
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(client.opening("GET", f"/v1/conversations/{begun['id']}/events"))
        await reader.readuntil(b"retry: 1000")
        server.process.send_signal(signal.SIGINT)
        async with asyncio.timeout(5):
            rest = await reader.read()
        writer.close()
        code = await asyncio.to_thread(server.process.wait, 5)

    assert (True, 0) == (b"event: end" in rest and b"closing" in rest, code)


async def test_several_processes_serve_one_store_and_stop_together(tmp_path: Path) -> None:
    """A worker that is killed is followed by another; SIGTERM ends them all; memory:// is refused."""
    tmp_path.joinpath("bot.py").write_text(BOT.format(url="memory://x"))
    refused = run(tmp_path, "serve", "bot:keep", "--workers", "2", "--check")
    with service(tmp_path, "--workers", "2", anonymous="true") as server:
        await until_ready(server.client())
        killed = workers(server.process.pid)[-1]
        os.kill(int(killed), signal.SIGKILL)
        await until(lambda: killed not in workers(server.process.pid), within=REPLACED_S)
        await until_ready(server.client())
        client = server.client()
        begun = (await client.ask("POST", "/v1/conversations", b"{}")).json
        client.key = begun["token"]
        answered = [(await client.post(begun["id"], {"content": str(number)})).status for number in range(6)]
        code = await asyncio.to_thread(server.stop)

    assert (2, True) == (refused.returncode, "belongs to one process" in refused.stderr)
    assert ([200] * 6, 0) == (answered, code), server.log


async def test_flags_are_read_again_on_sighup_and_a_broken_file_changes_nothing(tmp_path: Path) -> None:
    """What a handler sees follows the file, without a restart."""
    file = tmp_path / "settings.toml"
    file.write_text("anonymous = true\n[flags]\nnew_menu = false\n")
    said = []
    with service(tmp_path, "--config", str(file)) as server:
        client = server.client()
        begun = (await client.ask("POST", "/v1/conversations", b"{}")).json
        client.key = begun["token"]
        for number, text in enumerate(["", "anonymous = true\n[flags]\nnew_menu = true\n", "[flags\n"]):
            if text:
                file.write_text(text)
                server.process.send_signal(signal.SIGHUP)
                server.wait_for("The flags", number)
            answer = await client.post(begun["id"], {"content": "flags "})
            said.append(answer.json["replies"][0]["content"])

    assert ["{'new_menu': False}", "{'new_menu': True}", "{'new_menu': True}"] == [
        text.removeprefix("you said flags ") for text in said
    ]


async def test_sighup_reaches_every_worker_and_restarts_none(tmp_path: Path) -> None:
    """Each process reads the flags again and goes on."""
    file = tmp_path / "settings.toml"
    file.write_text("[flags]\nnew_menu = false\n")
    with service(tmp_path, "--workers", "2", "--config", str(file), anonymous="true") as server:
        await until_ready(server.client())
        before = workers(server.process.pid)
        server.process.send_signal(signal.SIGHUP)
        await asyncio.to_thread(server.wait_for, "The flags were read again", 2)
        after = workers(server.process.pid)

    assert 2 <= len(before)
    assert before == after
    assert "Nobody can use" not in server.log
    assert 1 == server.log.count("Serving bot:keep")


async def test_sighup_waits_for_a_worker_that_is_only_just_starting(tmp_path: Path) -> None:
    """It would end a process that does not listen to it yet."""
    file = tmp_path / "settings.toml"
    file.write_text("[flags]\nnew_menu = false\n")
    slow = BOT + "\nimport time\ntime.sleep(1.5)\n"
    with service(tmp_path, "--workers", "2", "--config", str(file), bot=slow, anonymous="true") as server:
        await until_ready(server.client())
        first = workers(server.process.pid)
        os.kill(int(first[-1]), signal.SIGKILL)
        await until(lambda: 1 == len(set(workers(server.process.pid)) - set(first)), within=REPLACED_S)
        before = workers(server.process.pid)
        server.process.send_signal(signal.SIGHUP)
        await asyncio.to_thread(server.wait_for, "The flags were read again", 2)
        after = workers(server.process.pid)

    assert before == after


def workers(parent: int) -> list[str]:
    """The processes that *parent* has started."""
    return Path(f"/proc/{parent}/task/{parent}/children").read_text().split()


async def test_an_asgi_application_of_ones_own_is_served_too(tmp_path: Path) -> None:
    """A Starlette or FastAPI application that mounts the server, or has nothing to do with it."""
    bot = BOT + "\nfrom chatkeep.server import create_app\nkeep = create_app(keep, anonymous=True)\n"
    with service(tmp_path, bot=bot) as server:
        answer = await server.client().ask("GET", "/readyz")

    assert 200 == answer.status


async def until_ready(client: object) -> None:
    """Waits until a server answers."""
    for _ in range(400):
        try:
            if (await client.ask("GET", "/readyz")).status == 200:  # type: ignore[attr-defined]
                return
        except (OSError, asyncio.IncompleteReadError):
            pass
        await asyncio.sleep(0.05)
    raise AssertionError("it is not ready")
