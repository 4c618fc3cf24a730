"""What every test may use: a fresh store per engine, and the check that nothing is left behind."""

from __future__ import annotations

import asyncio
import compileall
import functools
import gc
import inspect
import os
import shutil
import signal
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
from hypothesis import HealthCheck, settings

import chatkeep
from chatkeep import Chatkeep
from chatkeep.testing.servers import (
    DurableObjectServer,
    PostgresServer,
    RedisServer,
    Server,
    UpstashServer,
    redis_cluster,
)

# What a shell runs in the background ignores Ctrl-C, and so would every program that a test starts and interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Many tests start a program, which takes twice as long where it has to compile chatkeep. So chatkeep is compiled once, before
# the first test, and so are the tests. A program of a test writes none: it may run a module that the test writes twice in a second.
sys.dont_write_bytecode = False
os.environ["PYTHONDONTWRITEBYTECODE"] = "1"

# Stores of tests lie in memory where there is enough: on a disk half of the time goes into waiting for it. A process that is killed
# leaves what it has written there too; only a machine that loses its power would not, and no test is one.
MEMORY = Path("/dev/shm")
if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > 4 << 30:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))

pytest.register_assert_rewrite("tests.support")  # what fails in there is shown as in a test

from .support.stores import FAST, STORES, cluster_url, store_url  # noqa: E402

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext

SERVED = {
    "valkey",
    "cluster",
    "postgres",
    "workerd",
    "servers",
    "browser",
    "redis",
    "postgresql",
    "upstash",
    "durable-object",
}
"""The fixtures, and the kinds of store, with which a test needs a server or a browser."""


ALL_ON_SERVERS = "\npytestmark = pytest.mark.server\n"
"""The line with which a file says that each of its tests needs a server."""


# How long an example takes says something about the machine, which is busy here, and nothing about the code.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=25)
settings.register_profile("quick", settings.get_profile("busy"), max_examples=5)  # `make quick` asks for it
settings.register_profile("long", settings.get_profile("busy"), max_examples=100)  # `make long` asks for it
settings.load_profile("busy")


def pytest_configure(config: pytest.Config) -> None:
    """Has chatkeep compiled, once, and each failure named when it happens, and not only at the end."""
    if not hasattr(config, "workerinput"):
        compileall.compile_dir(Path(chatkeep.__file__).parent, quiet=2)
        config.pluginmanager.register(Failures(config))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, Any, Any]:
    """Looks for no garbage while tests are collected, which makes little, and not among them afterwards: they stay."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leaves out the files of which every test needs a server where such tests are left out: a quarter of collecting goes into them."""
    if collection_path.suffix != ".py" or "not server" not in config.getoption("markexpr"):
        return None
    return ALL_ON_SERVERS in collection_path.read_text() or None


def pytest_collection_finish() -> None:
    """What is imported from now on may be a module that a test has written."""
    sys.dont_write_bytecode = True


class Failures:
    """Prints the name of a test as soon as the test fails."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Called by pytest for each phase of each test."""
        terminal = self.config.pluginmanager.get_plugin("terminalreporter")
        if report.failed and terminal is not None:
            terminal.write_line(f"\n{report.nodeid} failed in its {report.when} ({report.duration:.0f} s)")


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    """Makes a report fit to be sent by a worker: some tests log, or fail with, text that is not UTF-8."""
    return sendable((yield))


def sendable(value: Any) -> Any:
    """The same, with half characters written as an escape."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {sendable(name): sendable(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(sendable, value))
    return value


DEAR = {"postgresql", "upstash", "durable-object"}
"""Kinds of store on which opening a fresh one takes a tenth of a second or more; on memory, SQLite and Redis it takes a tenth of that."""

AROUND = {"channels", "cookie", "engine", "people", "server"}
"""Folders of what is the same whatever store it stands on. `make test` tries it on one kind, the first of USUAL that a test has;
`make long` tries it on the others. Stores themselves are tried elsewhere, on every kind, in `make test`."""

USUAL = ("sqlite", "memory", "redis")
"""SQLite comes first: it needs no server, and its acts take their time, as those of memory do not."""

THOUSANDS = {"test_backlog.py", "test_corners.py", "test_listing.py", "test_long_backlog.py"}
"""Files whose tests do thousands of acts one after another, on memory in `make test`, and are slow. Over REST they take minutes, and
run the scripts that Redis runs."""

SAMPLED = {"acceptance", "cli", "demos", "faults", "web"}
"""Folders whose tests mostly start programs. `make test` tries each on the first of its parameters, `make long` on the others; what is
marked `each` is tried on all of them in both."""

CROSSING = {"acceptance", "cli", "client", "demos", "faults", "server", "web"}
"""Folders whose tests start servers wherever they want, be it with `request.getfixturevalue`. Of these `make quick` runs what is marked
`rules`, and no more."""


FIRST = {"acceptance", "cli", "faults", "web"}
"""Folders whose files take half a minute and more. A file is one worker's, so the small ones come last, and the workers end together."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sorts the tests into tiers: marks what needs a server, and what is long. What is slow comes first, then the folders in FIRST,
    then the files with the most tests."""
    items[:] = [item for item in items if not (item.path.name in THOUSANDS and "upstash" in kinds(item))]
    on: dict[str, set[str]] = {}
    for item in items:
        on.setdefault(test_of(item), set()).update(kinds(item))
    sampled: set[str] = set()
    for item in items:
        folder, uses = folder_of(item.path), set(getattr(item, "fixturenames", ()))
        crossing = set() if item.get_closest_marker("rules") else CROSSING
        if {folder, *uses, *kinds(item)} & (SERVED | crossing):
            item.add_marker("server")
        if folder in AROUND and kinds(item) & ((DEAR | {*USUAL}) - {usual_kind(item, on[test_of(item)])}):
            item.add_marker("long")
        if "browser" in uses and not item.get_closest_marker("journey"):
            item.add_marker("long")
        if folder in SAMPLED and not (item.get_closest_marker("each") or item.get_closest_marker("long")):
            if test_of(item) in sampled:
                item.add_marker("long")
            sampled.add(test_of(item))
        if item.path.name in THOUSANDS:
            item.add_marker("slow")
    size = Counter(item.path for item in items if not item.get_closest_marker("long"))
    waiting = {item.path for item in items if inspect.iscoroutinefunction(getattr(item, "obj", None))}

    def place(item: pytest.Item) -> tuple[bool, bool, int, bool]:
        # While a browser is open no event loop can run beside Playwright's, so tests that want one come before.
        last = item.path in waiting and "browser" in getattr(item, "fixturenames", ())
        is_quick = item.get_closest_marker("slow") is None
        return is_quick or last, folder_of(item.path) not in FIRST, -size[item.path], last

    items.sort(key=place)


def usual_kind(item: pytest.Item, kinds: set[str]) -> str | None:
    """The kind of store on which `make test` tries a test of AROUND that can be tried on so many."""
    order = sorted(USUAL, key="memory".__ne__) if item.path.name in THOUSANDS else USUAL
    return next((kind for kind in order if kind in kinds), None)


@functools.cache
def folder_of(path: Path) -> str:
    """The folder of `tests` that a test is in, or its file."""
    return path.relative_to(Path(__file__).parent).parts[0]


def test_of(item: pytest.Item) -> str:
    """The name of a test without its parameters."""
    return item.nodeid.partition("[")[0]


def kinds(item: pytest.Item) -> set[str]:
    """The parameters of a test that are words: the kind of store is one of them."""
    values = item.callspec.params.values() if isinstance(item, pytest.Function) and hasattr(item, "callspec") else ()
    return {value for value in values if isinstance(value, str)}


@pytest.fixture(autouse=True)
def server_only_where_marked(request: pytest.FixtureRequest) -> Iterator[None]:
    """`make quick` leaves out what is marked; a test without the mark that starts a database server fails."""

    def refused(server: Server) -> NoReturn:
        raise AssertionError(f"{type(server).__name__} is started by a test that is not marked: pytest.mark.server")

    with pytest.MonkeyPatch.context() as patch:
        if request.node.get_closest_marker("server") is None:
            patch.setattr(Server, "start", refused)
        yield


@pytest.fixture(scope="session", autouse=True)
def passwords_cost_little() -> Iterator[None]:
    """A password is hashed by argon2id as ever, but at its least cost: else each takes tenths of a second of a processor.
    `tests/server/test_signing_in.py` looks at the cost that people have."""

    @functools.cache
    def hasher() -> Any:
        from argon2 import PasswordHasher

        return PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("chatkeep.auth.passwords._hasher", hasher)
        yield


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Valkey for the whole run; tests keep apart by their prefixes."""
    with RedisServer("valkey-9", tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A cluster of three Valkeys for the whole run, as the URL of a store; tests keep apart by their prefixes."""
    servers = redis_cluster("valkey-9", tmp_path_factory.mktemp("cluster"))
    yield cluster_url(servers)
    for server in servers:
        server.stop()


@pytest.fixture(scope="session")
def upstash(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UpstashServer]:
    """A Redis over REST for the whole run; tests keep apart by their prefixes."""
    with UpstashServer(tmp_path_factory.mktemp("upstash")) as server:
        yield server


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """A PostgreSQL for the whole run; tests keep apart by their schemas."""
    with PostgresServer(tmp_path_factory.mktemp("postgres")) as server:
        yield server


@pytest.fixture(scope="session")
def workerd() -> Iterator[DurableObjectServer]:
    """A workerd with chatkeep's worker for the whole run; tests keep apart by their stores."""
    with DurableObjectServer() as server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for the tests of a file."""
    from .support.browsing import launched

    with launched() as browser:
        yield browser


@pytest.fixture
def person(browser: Browser) -> Iterator[BrowserContext]:
    """Somebody with a browser profile of their own."""
    from .support.browsing import profile

    with profile(browser) as context:
        yield context


@pytest.fixture(params=STORES)
def url(request: pytest.FixtureRequest, tmp_path: Any) -> str:
    """A store that several Chatkeeps of one test may open."""
    return store_url(request.param, request, tmp_path)


@pytest.fixture
async def opened(url: str) -> AsyncIterator[Callable[..., Any]]:
    """`await opened(handler, **options)` gives an open Chatkeep on the test's store; all are closed at the end."""
    keeps: list[Chatkeep[Any]] = []

    async def make(handler: Callable[..., Any] | None = None, /, **options: Any) -> Chatkeep[Any]:
        missing = options.pop("on_missing", None)
        keep: Chatkeep[Any] = Chatkeep(options.pop("url", url), **(FAST | options))
        if handler is not None:
            keep.on_message(handler)
        if missing is not None:
            keep.on_missing(missing)
        await keep.open()
        keeps.append(keep)
        return keep

    yield make
    for keep in reversed(keeps):
        await keep.close()
    await asyncio.sleep(0)
    tasks = [task for task in asyncio.all_tasks() if task.get_name().startswith("chatkeep")]

    assert [] == tasks


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """No thread of ours outlives a test (I10)."""
    before = set(threading.enumerate())
    yield
    ours = [thread for thread in set(threading.enumerate()) - before if thread.name.startswith("chatkeep")]
    for thread in ours:  # one that a handler has kept ends when the handler does
        thread.join(2)

    assert [] == [thread for thread in ours if thread.is_alive()]


@pytest.fixture
def settings_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The settings file that CHATKEEP_CONFIG names; empty at first."""
    path = tmp_path / "chatkeep.toml"
    path.write_text("")
    monkeypatch.setenv("CHATKEEP_CONFIG", str(path))
    return path
