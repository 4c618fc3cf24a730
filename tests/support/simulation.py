"""The simulated customers against three real servers on one store, all of which are killed meanwhile:
`python -m tests.support.simulation FOLDER ENGINE`.

Three `chatkeep serve` share a database server. Customers (`chatkeep simulate`) repeat and overtake themselves and hang up; the
servers and the database are killed with SIGKILL and started again on what they had. Prints the verdict of the customers.
Options that it does not know, such as --faults 0.3, are those of `chatkeep simulate`.
"""

from __future__ import annotations

import argparse
import os
import random
import secrets
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from chatkeep.testing.servers import Server, free_port

from .fork_server import NOWHERE, Program
from .killing import SERVERS
from .program import PATIENCE_S, PROGRAM, chatkeep

ENGINES = tuple(SERVERS)
CHANNELS = ("api", "whatsapp", "telegram")
INSTANCES = 3
AWAY = 3  # `chatkeep serve` found no store; whoever supervises it starts it again

BOT = """
import asyncio, random
from chatkeep import Chatkeep
from chatkeep.channels import Telegram, WhatsApp
from chatkeep.channels.outlet import ChannelOutlet

keep = Chatkeep({url!r}, poll="200ms")
platform = "http://127.0.0.1:{platform}"
channels = [
    WhatsApp(accounts={{"1550": "a token"}}, secrets="a secret", verify_tokens="v", api=platform),
    Telegram(token="42:AAF", secrets="a-secret", api=platform),
]

@keep.on_message
async def bot(turn):
    seen = turn.state.setdefault("seen", [])
    seen.append(turn.id)
    if {slow}:
        await asyncio.sleep(random.random() * {slow})
    return f"{{len(seen)}}: {{turn.text}}"

keep.deliver(ChannelOutlet(*channels, rates={{"whatsapp:1550": 1000, "telegram:42": 1000}}))
"""

SECRETS = {"whatsapp": "a secret", "telegram": "a-secret"}


class Fleet:
    """Servers of one bot, each at a port of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports = [free_port() for _ in range(INSTANCES)]
        self.processes: list[Program | None] = [None] * INSTANCES

    def start(self, place: int) -> None:
        """Starts the server at *place*."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith("CHATKEEP_")}
        unlimited = {"CHATKEEP_RATE_PEER": "off", "CHATKEEP_RATE_CONVERSATION": "off", "CHATKEEP_LOG_LEVEL": "warning"}
        command = "serve", "bot:keep", "--port", str(self.ports[place])
        with (self.folder / f"server{place}.log").open("ab") as log:
            streams = NOWHERE, log.fileno(), log.fileno()
            self.processes[place] = Program(
                *command, folder=self.folder, environment=clean | unlimited, streams=streams
            )

    def kill(self, place: int) -> None:
        """kill -9."""
        process, self.processes[place] = self.processes[place], None
        assert process is not None
        process.kill()
        process.wait(PATIENCE_S)

    def look_after(self) -> None:
        """Starts again who found the store away. Raises `SystemExit` for one that ended for another reason."""
        for place, process in enumerate(self.processes):
            if process is not None and (code := process.poll()) is not None:
                if code != AWAY:
                    raise SystemExit(f"server {place} ended with {code}; see {self.folder}/server{place}.log")
                self.start(place)

    def wait(self) -> None:
        """Until all are ready."""
        deadline = time.monotonic() + PATIENCE_S
        for port in self.ports:
            while not ready(port):
                self.look_after()
                assert time.monotonic() < deadline, f"port {port} is not ready"
                time.sleep(0.05)

    def __enter__(self) -> Fleet:
        for place in range(INSTANCES):
            self.start(place)
        self.wait()
        return self

    def __exit__(self, *exc: object) -> None:
        for place, process in enumerate(self.processes):
            if process is not None:
                self.kill(place)


def ready(port: int) -> bool:
    """Whether the server at *port* answers messages."""
    with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
        return bool(answer.status == 200)
    return False


@contextmanager
def database(engine: str, folder: Path) -> Iterator[tuple[str, Server]]:
    """A server of *engine* of our own, and the URL of a fresh store on it."""
    with SERVERS[engine](folder) as server:
        option = "prefix" if engine == "redis" else "schema"
        yield f"{server.url}?{option}=t{secrets.token_hex(4)}", server


def main() -> None:
    """Kills, waits for the verdict; exit code 8 when it is not clean."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("folder", type=Path)
    options.add_argument("engine", choices=ENGINES)
    options.add_argument("--channel", choices=CHANNELS, default="api")
    options.add_argument("--customers", type=int, default=1000)
    options.add_argument("--messages", type=int, default=10)
    options.add_argument("--rate", type=float, default=20.0)
    options.add_argument("--kills", type=int, default=9)
    options.add_argument("--server-kills", type=int, default=3)
    options.add_argument("--every", type=float, default=3.0, help="seconds between two kills")
    options.add_argument("--slow", type=float, default=0.02, help="seconds that the bot takes at most")
    options.add_argument("--down", type=float, default=0.0, help="seconds that the database stays away")
    given, more = options.parse_known_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    with database(given.engine, given.folder) as (url, server):
        raise SystemExit(simulated(given, more, url, server))


def simulated(given: argparse.Namespace, more: list[str], url: str, server: Server) -> int:
    """Serves and kills while the customers talk; the exit code of `chatkeep simulate`."""
    platform = free_port()
    bot = BOT.format(url=url, platform=platform, slow=given.slow)
    (given.folder / "bot.py").write_text(bot)
    code, key, trouble = chatkeep("key", "create", url, folder=given.folder)
    assert code == 0, trouble
    with Fleet(given.folder) as fleet:
        command = [*PROGRAM, "simulate", *[f"http://127.0.0.1:{port}" for port in fleet.ports], "--key", key.strip()]
        command += ["--customers", str(given.customers), "--messages", str(given.messages), "--rate", str(given.rate)]
        if given.channel != "api":
            command += ["--channel", given.channel, "--secret", SECRETS[given.channel]]
            command += ["--platform-port", str(platform)]
        customers = subprocess.Popen([*command, *more], cwd=given.folder)
        victims = ["instance"] * given.kills + ["server"] * given.server_kills
        random.shuffle(victims)
        try:
            while customers.poll() is None:
                pause = time.monotonic() + random.uniform(0.5, 1.5) * given.every
                while time.monotonic() < pause and customers.poll() is None:
                    fleet.look_after()
                    time.sleep(0.05)
                if customers.poll() is None and victims:
                    kill(victims.pop(), fleet, server, given.down)
            if victims:
                raise SystemExit(f"the customers were done before {len(victims)} kills; give more customers")
            return customers.returncode
        finally:
            customers.kill()
            customers.wait()


def kill(victim: str, fleet: Fleet, server: Server, down: float) -> None:
    """Kills the database or any of the servers, and starts it again."""
    print(f"kill -9: {victim}", file=sys.stderr, flush=True)
    if victim == "server":
        server.kill()
        time.sleep(down)
        server.start()
    else:
        place = random.choice([place for place, process in enumerate(fleet.processes) if process is not None])
        fleet.kill(place)
        fleet.start(place)


if __name__ == "__main__":
    main()
