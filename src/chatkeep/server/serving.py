"""Runs an application as a service: loads it, puts the server around it, starts and stops its processes."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import ceil

from starlette.types import ASGIApp

from ..durations import seconds
from ..errors import Misconfigured, UsageError
from ..extras import from_extra
from ..loading import loaded
from . import logs
from .application import FAULTS, application
from .checks import cautions, check
from .protocol import PromptProtocol
from .settings import ServerSettings, admin_ports

with from_extra("server", "chatkeep serve"):
    import uvicorn
    from uvicorn.config import STARTUP_FAILURE
    from uvicorn.supervisors import Multiprocess
    from uvicorn.supervisors.multiprocess import Process

log = logging.getLogger("chatkeep.server")

CONNECTIONS = 10_000
"""Connections that one process holds; more are answered 503."""

FINISH_S = 5.0
"""After a stop, requests may take this much longer than the longest turn."""

HUNG_S = 15
"""A worker process that says nothing for so long is replaced, and one that dies while it starts; what imports much on a busy machine needs
several seconds."""


def run(settings: ServerSettings) -> None:
    """Serve until SIGINT or SIGTERM. Raises a `ChatkeepError` when it cannot begin."""
    keep = check(loaded(settings.app), settings)
    listener = listening(settings.host, settings.port, hint="Name another place with `port` and `host`.")
    elsewhere = "Name another place with `admin_bind`."
    admin = (
        [listening(settings.admin[0], port, hint=elsewhere) for port in admin_ports(settings)] if settings.admin else []
    )
    hand_down(settings, port=listener.getsockname()[1])
    patience_s = (seconds(keep.settings.turn_timeout) if keep else 30.0) + FINISH_S
    config = configured(f"{application.__module__}:{application.__name__}", settings, patience_s=patience_s)
    logs.configure(as_json=settings.log_format == "json", level=settings.log_level)
    log.info("Serving %s on %s with %d process(es).", settings.app, address(listener), settings.workers)
    if keep is not None:
        log.info("%s", who_runs_it(settings, admin))
    for said in cautions(settings, keep):
        log.warning("%s", said)
    if settings.workers > 1:
        supervise(config, listener, admin)
    else:
        serve(config, listener, *admin)


def hand_down(settings: ServerSettings, *, port: int) -> None:
    """Put into the environment what a process that serves has to know and may be told by arguments alone; *port*: the one it is."""
    told = {"app": settings.app, "host": settings.host, "port": port, "workers": settings.workers}
    for name, value in (told | {"admin_bind": settings.admin_bind}).items():
        os.environ[f"CHATKEEP_{name.upper()}"] = str(value)
        # The file would count more than the variable, and say what an argument has overruled.
        os.environ.pop(f"CHATKEEP_{name.upper()}_FILE", None)


def configured(app: ASGIApp | str, settings: ServerSettings, *, patience_s: float) -> uvicorn.Config:
    """Tell how uvicorn serves *app*, or what the function of that name makes; on a stop, requests have *patience_s* to end."""
    return uvicorn.Config(
        app,
        factory=isinstance(app, str),
        workers=settings.workers,
        loop="auto" if sys.platform == "win32" else "chatkeep.server.accepting:Loop",
        http=PromptProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # `Forwarded` does it
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=ceil(seconds(settings.keep_alive)),
        timeout_graceful_shutdown=int(patience_s),
        timeout_worker_healthcheck=HUNG_S,
    )


def serve(config: uvicorn.Config, *listeners: socket.socket) -> None:
    """Serve in this process."""
    # uvicorn raises the signal that stopped it once more when everything is closed.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(0))
    try:
        uvicorn.Server(config).run(sockets=list(listeners))
    except SystemExit as end:
        if end.code == STARTUP_FAILURE and FAULTS:
            raise FAULTS[0] from None
        raise


def supervise(config: uvicorn.Config, listener: socket.socket, admin: Sequence[socket.socket] = ()) -> None:
    """Serve in processes of their own; one that dies is followed by another. *admin*: a listener for each, beside the one for all."""
    workers = Workers(config, listener, admin)
    workers.run()
    if any(process.exitcode == STARTUP_FAILURE for process in workers.processes):
        raise Misconfigured("A worker process could not start, and all were stopped; its log says why.")


class Workers(Multiprocess):
    """uvicorn's worker processes; SIGHUP is passed on to them, instead of starting them anew. *admin*: a listener for each."""

    def __init__(self, config: uvicorn.Config, listener: socket.socket, admin: Sequence[socket.socket]) -> None:
        super().__init__(config, [listener])
        self._listener, self._admin = listener, admin

    def init_processes(self) -> None:
        """Start the processes."""
        with hangups_held_back():
            for number in range(self.processes_num):
                process = Process(self.config, self._sockets_of(number))
                process.start()
                self.processes.append(process)

    def keep_subprocess_alive(self) -> None:
        """Start another process in the place of one that has ended, with its listeners."""
        every = self.processes
        with hangups_held_back():
            for number, process in enumerate(every):
                self.processes, self.sockets = [process], self._sockets_of(number)
                super().keep_subprocess_alive()
                every[number] = self.processes[0]
        self.processes = every

    def _sockets_of(self, number: int) -> list[socket.socket]:
        return [self._listener, *self._admin[number : number + 1]]

    def handle_hup(self) -> None:
        """Have every process read its flags again."""
        for process in self.processes:
            if process.pid is not None:
                os.kill(process.pid, signal.SIGHUP)


@contextmanager
def hangups_held_back() -> Iterator[None]:
    """Have SIGHUP wait, here and in each process started meanwhile, until that process listens to it; before, it would end the process."""
    if not hasattr(signal, "SIGHUP"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def who_runs_it(settings: ServerSettings, admin: Sequence[socket.socket]) -> str:
    """Return where the addresses are for who runs this server, and who may use them."""
    numbers = "who has metrics_token" if settings.metrics_token else "programs of this machine"
    metrics = f", /metrics for {numbers}" if settings.metrics else ""
    if admin:
        places = ", ".join(map(address, admin))
        return f"On {places} alone: /operator for who signs in, /healthz and /readyz for everybody{metrics}."
    return (
        f"At the same address: /operator for who signs in, /healthz and /readyz for everybody{metrics}; `admin_bind` gives them one "
        "of their own."
    )


def listening(host: str, port: int, *, hint: str = "") -> socket.socket:
    """Return a socket that listens there. Raises `UsageError`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # asyncio sets it only on sockets that were made as TCP by name; without it an answer on a kept connection takes 40 ms.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.bind((host, port))
        listener.listen(2048)
        listener.set_inheritable(True)
    except OSError as fault:
        listener.close()
        raise UsageError(
            f"Port {port} of {host} cannot be used ({fault.strerror}); nothing was started. {hint}".strip()
        ) from fault
    return listener


def address(listener: socket.socket) -> str:
    """Return where it listens, as a URL."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
