"""Real servers for tests and benchmarks, from PyPI wheels and npm, on free loopback ports; nobody has to install one.

    from chatkeep.drivers.redis import RedisDriver

    with RedisServer("valkey-9", tmp_path) as server:
        driver = RedisDriver(server.url)

`kill` is kill -9, `start` starts again on the same port and data. Each stops only what it started. Needs psutil and filelock; which
wheel a server comes in is said where it is missing.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from http.client import HTTPConnection, HTTPException
from importlib.resources import files
from itertools import chain
from pathlib import Path
from typing import Any, Self

import psutil

from .programs import postgres_binary, redis_binary, unprivileged, workerd_binary

START_S = 20.0
FILES = 20_000  # that a workerd opens at most: systems have their own bounds above that, which they do not always tell
FILES_APART = 300


class Server:
    """A process that listens on 127.0.0.1; a context manager that starts and stops it. Without a *folder* its data is gone with it."""

    def __init__(self, folder: Path | str | None = None, *, port: int | None = None) -> None:
        self._borrowed = None if folder else borrowed_folder()
        self.folder = Path(folder or (self._borrowed.name if self._borrowed else ""))
        self.port = port or free_port()
        self._may_move = port is None  # until it has once run on its port
        self.process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        """Return what is run."""
        raise NotImplementedError

    def answers(self) -> bool:
        """Tell whether it can be used by now."""
        raise NotImplementedError

    def start(self) -> None:
        """Start it, or start it again on what it had; returns when it answers."""
        assert self.process is None
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(self.command(), stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + START_S
        while not (self.answers() and self._listens()):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                said = (self.folder / "server.log").read_text("utf-8", errors="replace")[-2000:]
                # Somebody was quicker, or has the second port of a cluster's server.
                if self._may_move and "Address already in use" in said:
                    (self.folder / "server.log").unlink()
                    self.port = free_port()
                    self.start()
                    return
                raise RuntimeError(f"{self.command()[0]} did not start:\n{said}")
            time.sleep(0.005)
        self._may_move = False

    def kill(self) -> None:
        """Kill it by kill -9, with every process that it has forked."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Ask it to end, and make sure."""
        self._end(signal.SIGTERM)

    def pause(self) -> None:
        """Freeze it: connections stay, nothing answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Go on after `pause`."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)

    def _listens(self) -> bool:
        """Tell whether who answers on the port is this process or one of its children, and not one that was quicker to take it."""
        assert self.process is not None
        with contextlib.suppress(psutil.Error):
            links = [one.net_connections("tcp") for one in (psutil.Process(self.process.pid), *self._family())]
            return any(link.status == psutil.CONN_LISTEN and link.laddr.port == self.port for link in chain(*links))
        return False

    def _family(self) -> list[psutil.Process]:
        # PostgreSQL's children leave its process group.
        assert self.process is not None
        with contextlib.suppress(psutil.NoSuchProcess):
            return list(psutil.Process(self.process.pid).children(recursive=True))
        return []

    def _end(self, number: int) -> None:
        if self.process is None:
            return
        family = []
        if number == signal.SIGKILL:
            self._signal(signal.SIGSTOP)  # or it might fork one more, which lives on and answers
            family = self._family()
        self._signal(number)
        for child in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        deadline = time.monotonic() + 10
        while any([_runs(child) for child in family]) and time.monotonic() < deadline:
            time.sleep(0.001)
        self._signal(signal.SIGCONT)
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self.process.wait()
        self.process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()
        if self._borrowed is not None:
            self._borrowed.cleanup()


def borrowed_folder() -> tempfile.TemporaryDirectory[str]:
    """Return a folder that is removed in the end, in memory where that can be: what is gone anyway needs no disk."""
    return tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)


class RedisServer(Server):
    """A Redis or Valkey of *kind* (see `programs.REDIS`), as durable as it can be unless *args* say otherwise."""

    def __init__(
        self,
        kind: str = "valkey-9",
        folder: Path | str | None = None,
        *args: str,
        port: int | None = None,
        password: str = "",
        sentinel: bool = False,
    ) -> None:
        super().__init__(folder, port=port)
        self.kind = kind
        self.args = args
        self.password = password
        self.sentinel = sentinel

    @property
    def url(self) -> str:
        """Where it is, for a driver."""
        return f"redis://{':' + self.password + '@' if self.password else ''}127.0.0.1:{self.port}/0"

    def command(self) -> list[str]:
        """Return what is run."""
        here = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        if self.sentinel:
            return [redis_binary(self.kind), str(self.folder / "sentinel.conf"), *here, "--sentinel", *self.args]
        durable = ["--save", "", "--appendonly", "yes", "--appendfsync", "always"]
        password = ["--requirepass", self.password] if self.password else []
        return [redis_binary(self.kind), *here, *durable, *password, *self.args]

    def answers(self) -> bool:
        """Tell whether it takes commands."""
        try:
            return self.ask("PING").startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False

    def ask(self, *words: str) -> bytes:
        """Send one command and answer the raw reply; for short ones only."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as link:
            if self.password and words[0] != "PING":
                link.sendall(_resp("AUTH", self.password))
                link.recv(65536)
            link.sendall(_resp(*words))
            return link.recv(1 << 20)


class UpstashServer(Server):
    """A test double of Upstash's REST protocol (`testing/upstash.py`) over a Redis or Valkey of *kind*, which it starts and ends too.

        from chatkeep.drivers.upstash import UpstashDriver

        with UpstashServer(tmp_path) as server:
            server.set_faults(lost_requests=0.08, lost_answers=0.08)
            driver = UpstashDriver(server.url)

    *folder*: what it starts in; None: a new one.
    """

    def __init__(
        self,
        folder: Path | str | None = None,
        kind: str = "valkey-9",
        *,
        port: int | None = None,
        token: str = "secret",
    ) -> None:
        super().__init__(folder, port=port)
        home = self.folder / "redis"
        home.mkdir(parents=True, exist_ok=True)
        self.redis = RedisServer(kind, home)
        self.token = token

    @property
    def url(self) -> str:
        """Where it is, for a driver."""
        return f"upstash://{self.token}@127.0.0.1:{self.port}?tls=no"

    @property
    def read_only_url(self) -> str:
        """The same with the token that may only read."""
        return f"upstash://{self.token}-read-only@127.0.0.1:{self.port}?tls=no"

    def command(self) -> list[str]:
        """Return what is run."""
        program = str(Path(__file__).with_name("upstash.py"))
        return [sys.executable, program, str(self.port), str(self.redis.port), self.token, f"{self.token}-read-only"]

    def start(self) -> None:
        """Start both, or start them again on what they had."""
        if self.redis.process is None:
            self.redis.start()
        super().start()

    def answers(self) -> bool:
        """Tell whether it takes commands."""
        try:
            return "commands" in self.counts()
        except (OSError, HTTPException, ValueError):
            return False

    def set_faults(self, **faults: Any) -> None:
        """Have it do what services do; see FAULTS in `testing/upstash.py`."""
        self._administer("POST", "/-/faults", json.dumps(faults))

    def counts(self) -> dict[str, int]:
        """Return how many requests and commands there were since it was started."""
        counts: dict[str, int] = self._administer("GET", "/-/counts")
        return counts

    def _administer(self, method: str, path: str, body: str = "") -> Any:
        link = HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            link.request(method, path, body, {"Authorization": f"Bearer {self.token}"})
            return json.loads(link.getresponse().read())
        finally:
            link.close()

    def _end(self, number: int) -> None:
        super()._end(number)
        self.redis._end(number)


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)  # which holds nothing any more
    except psutil.NoSuchProcess:
        return False


def _resp(*words: str) -> bytes:
    parts = [f"*{len(words)}\r\n".encode()]
    for word in words:
        raw = word.encode()
        parts.append(b"$%d\r\n%s\r\n" % (len(raw), raw))
    return b"".join(parts)


class PostgresServer(Server):
    """A PostgreSQL with fsync on; the superuser is postgres, its password *password*."""

    def __init__(
        self, folder: Path | str | None = None, *options: str, port: int | None = None, password: str = "secret"
    ) -> None:
        super().__init__(folder, port=port)
        self.options = options
        self.password = password
        self.data = self.folder / "data"

    @property
    def url(self) -> str:
        """Where it is, for a driver."""
        return f"postgresql://postgres:{self.password}@127.0.0.1:{self.port}/postgres"

    def command(self) -> list[str]:
        """Return what is run."""
        settings = [f"port={self.port}", "listen_addresses=127.0.0.1", "unix_socket_directories=", *self.options]
        return [
            *unprivileged(),
            postgres_binary("postgres"),
            "-D",
            str(self.data),
            *[p for s in settings for p in ("-c", s)],
        ]

    def start(self) -> None:
        """Start it; the first time it makes its data folder."""
        if not self.data.exists():
            secret = self.folder / "password"
            secret.write_text(self.password, encoding="utf-8")
            initdb = [postgres_binary("initdb"), "-D", str(self.data), "-U", "postgres", "--auth=scram-sha-256"]
            initdb += [f"--pwfile={secret}", "--locale=C", "--encoding=UTF8", "--no-sync"]
            subprocess.run([*unprivileged(), *initdb], check=True, capture_output=True)
        else:
            (self.data / "postmaster.pid").unlink(missing_ok=True)
        super().start()

    def answers(self) -> bool:
        """Tell whether it takes connections."""
        tool = [postgres_binary("pg_isready"), "-h", "127.0.0.1", "-p", str(self.port), "-q"]
        return subprocess.run(tool, check=False).returncode == 0

    def stop(self) -> None:
        """End it without waiting for who is connected."""
        self._end(signal.SIGINT)


WORKERD_CONFIG = """using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [(name = "main", worker = .main), (name = "disk", disk = (path = {data}, writable = true))],
  sockets = [(name = "http", address = "127.0.0.1:{port}", http = (), service = "main")]
);
const main :Workerd.Worker = (
  modules = [(name = "worker.js", esModule = embed "worker.js")],
  compatibilityDate = "2026-03-01",
  durableObjectNamespaces = [
    (className = "Conversation", uniqueKey = "conversation", enableSql = true),
    (className = "Shard", uniqueKey = "shard", enableSql = true),
    (className = "Meta", uniqueKey = "meta", enableSql = true),
    (className = "Bell", uniqueKey = "bell", enableSql = true)
  ],
  durableObjectStorage = (localDisk = "disk"),
  bindings = [
    (name = "CONVERSATION", durableObjectNamespace = "Conversation"),
    (name = "SHARD", durableObjectNamespace = "Shard"),
    (name = "META", durableObjectNamespace = "Meta"),
    (name = "BELL", durableObjectNamespace = "Bell"),
    {settings}
  ]
);
"""


class DurableObjectServer(Server):
    """A workerd, Cloudflare's runtime, with chatkeep's worker and its *secret*; *settings* are further bindings of text, *worker* is the
    module that it runs, if not chatkeep's own, *files* how many it may open, if not as many as this process lets it."""

    def __init__(
        self,
        folder: Path | str | None = None,
        *,
        port: int | None = None,
        secret: str = "secret",
        settings: dict[str, str] | None = None,
        worker: str = "",
        files: int | None = None,
    ) -> None:
        super().__init__(folder, port=port)
        self.secret = secret
        self.files = files or files_at_most()
        self.settings = {"SECRET": secret, "OBJECTS_MOST": str(conversations_within(self.files))} | (settings or {})
        self.worker = worker or worker_module()
        self.data = self.folder / "data"

    @property
    def url(self) -> str:
        """Where it is, for a driver."""
        return f"durable-object://{self.secret}@127.0.0.1:{self.port}?tls=no"

    @property
    def address(self) -> str:
        """Where it answers HTTP."""
        return f"http://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        """Return what is run."""
        self.data.mkdir(exist_ok=True)
        settings = [f"(name = {json.dumps(name)}, text = {json.dumps(text)})" for name, text in self.settings.items()]
        told = WORKERD_CONFIG.format(data=json.dumps(str(self.data)), port=self.port, settings=",\n    ".join(settings))
        (self.folder / "config.capnp").write_text(told, encoding="utf-8")
        (self.folder / "worker.js").write_text(self.worker, encoding="utf-8")
        limited = ["sh", "-c", f'ulimit -n {self.files} && exec "$0" "$@"']
        return [*limited, workerd_binary(), "serve", str(self.folder / "config.capnp")]

    def answers(self) -> bool:
        """Tell whether it answers requests."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as link:
                link.sendall(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
                return link.recv(4096).startswith(b"HTTP/1.1 ")
        except OSError:
            return False

    def empty(self) -> None:
        """Take everything out of it: it is killed, and started again on nothing."""
        self.kill()
        shutil.rmtree(self.data)
        self.start()


def files_at_most() -> int:
    """Return how many files a process that is started here may have open."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return FILES if most == resource.RLIM_INFINITY else min(most, FILES)


def conversations_within(files: int) -> int:
    """Return how many conversations a workerd with so many files may have in memory: three files for each, and a part of all for its
    shards, its connections and who listens."""
    return max((files - FILES_APART) // 3, 1)


def worker_module() -> str:
    """Return the source of chatkeep's worker."""
    return (files("chatkeep.drivers.durable_object") / "worker" / "worker.js").read_text("utf-8")


def free_port() -> int:
    """Return a port nobody listens on: one below those that systems give to whoever goes out, which could take it before it is used, and so
    far below that a cluster's bus port, 10,000 above, is one too."""
    while True:
        port = 10_000 + secrets.randbelow(12_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def redis_cluster(kind: str, folder: Path, *args: str, masters: int = 3) -> list[RedisServer]:
    """Start a cluster; stop each of its servers."""
    servers: list[RedisServer] = []
    try:
        for number in range(masters):
            home = folder / f"node{number}"
            home.mkdir()
            cluster = ("--cluster-enabled", "yes", "--cluster-node-timeout", "2000")
            server = RedisServer(kind, home, *cluster, "--cluster-announce-ip", "127.0.0.1", *args)
            server.start()
            servers.append(server)
        step = 16384 // masters
        for number, server in enumerate(servers):
            last = 16383 if number == masters - 1 else (number + 1) * step - 1
            server.ask("CLUSTER", "ADDSLOTS", *map(str, range(number * step, last + 1)))
            server.ask("CLUSTER", "MEET", "127.0.0.1", str(servers[0].port))
        deadline = time.monotonic() + START_S
        while not all(b"cluster_state:ok" in s.ask("CLUSTER", "INFO") and _knows(s, masters) for s in servers):
            if time.monotonic() > deadline:
                raise RuntimeError("The cluster did not come together.")
            time.sleep(0.05)
    except BaseException:
        for server in servers:
            server.kill()
        raise
    return servers


def _knows(server: RedisServer, masters: int) -> bool:
    return b"cluster_known_nodes:%d" % masters in server.ask("CLUSTER", "INFO")


def redis_sentinel(kind: str, folder: Path, *, name: str = "chat", sentinels: int = 3) -> dict[str, Any]:
    """Start a primary, its replica and sentinels that watch them: {"primary", "replica", "sentinels", "url"}."""
    servers: dict[str, Any] = {"sentinels": []}
    try:
        for role in ("primary", "replica"):
            home = folder / role
            home.mkdir()
            servers[role] = RedisServer(kind, home, "--repl-diskless-sync-delay", "0")
            servers[role].start()
        servers["replica"].ask("REPLICAOF", "127.0.0.1", str(servers["primary"].port))
        for number in range(sentinels):
            home = folder / f"sentinel{number}"
            home.mkdir()
            (home / "sentinel.conf").write_text(
                f"sentinel monitor {name} 127.0.0.1 {servers['primary'].port} {sentinels // 2 + 1}\n"
                f"sentinel down-after-milliseconds {name} 1000\nsentinel failover-timeout {name} 3000\n",
                encoding="utf-8",
            )
            watcher = RedisServer(kind, home, sentinel=True)
            watcher.start()
            servers["sentinels"].append(watcher)
        deadline = time.monotonic() + START_S
        while not all(_sees(watcher, name, sentinels) for watcher in servers["sentinels"]):
            if time.monotonic() > deadline:
                raise RuntimeError("The sentinels did not find each other.")
            time.sleep(0.05)
    except BaseException:
        stop_all(servers)
        raise
    hosts = ",".join(f"127.0.0.1:{watcher.port}" for watcher in servers["sentinels"])
    servers["url"] = f"redis+sentinel://{hosts}/{name}"
    return servers


def _sees(watcher: RedisServer, name: str, sentinels: int) -> bool:
    said = watcher.ask("SENTINEL", "MASTER", name).replace(b"\r\n", b" ")
    others = b"num-other-sentinels $%d %d " % (len(str(sentinels - 1)), sentinels - 1)
    return others in said and b"num-slaves $1 1 " in said


def stop_all(servers: dict[str, Any]) -> None:
    """Stop what `redis_sentinel` started."""
    for server in [*servers["sentinels"], servers.get("replica"), servers.get("primary")]:
        if server is not None:
            server.kill()
