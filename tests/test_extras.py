"""What is said when an extra is not installed, or not as chatkeep needs it, wherever it is first asked for."""

from __future__ import annotations

import subprocess
import textwrap
from pathlib import Path

import pytest

from chatkeep.errors import Misconfigured, MissingExtra
from chatkeep.extras import from_extra

from .support import fork_server
from .support.program import PATIENCE_S, plain_environment

HIDING = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {hidden!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

assert not {hidden!r} & sys.modules.keys()
sys.meta_path.insert(0, Hidden())
"""

LIBRARIES = {
    "server": ["starlette", "uvicorn", "httptools", "cachetools", "limits", "prometheus_client"],
    "client": ["aiohttp", "yarl"],
    "channels": ["aiohttp", "aiolimiter"],
    "agents": ["pydantic_ai"],
    "cookie": ["cryptography"],
    "jwt": ["jwt"],
    "seal": ["cryptography"],
    "redis": ["redis", "hiredis"],
    "postgres": ["asyncpg"],
    "upstash": ["httptools"],
    "durable-object": ["httptools"],
    "telemetry": ["opentelemetry"],
}

USES = {
    "server": [
        "from chatkeep.server import create_app",
        "import chatkeep.server.serving",
        "import chatkeep.server.settings",
        "import chatkeep.server.metrics",
    ],
    "client": ["import chatkeep.client", "import chatkeep.client.link", "import chatkeep.testing.loadtest"],
    "channels": ["from chatkeep.channels.outlet import ChannelOutlet", "import chatkeep.channels.sender"],
    "agents": ["from chatkeep.demos.concierge import build"],
    "cookie": ["from chatkeep.cookie import CookieChat"],
    "jwt": [
        "from chatkeep.server import jwt_users; jwt_users('k' * 32, algorithms=['HS256'], audience=None, issuer=None)"
    ],
    "seal": ["Chatkeep('memory://', seal_keys=['k' * 32])", "import chatkeep.storage.sealing"],
    "redis": [
        "Chatkeep('redis://127.0.0.1:1/0')",
        "Chatkeep('rediss://127.0.0.1:1/0')",
        "Chatkeep('redis+cluster://127.0.0.1:1')",
        "asyncio.run(opened(Chatkeep('memory://', cache='redis://127.0.0.1:1/0')))",
        "import chatkeep.drivers.redis.transport",
        "import chatkeep.storage.shared_cache",
    ],
    "postgres": ["Chatkeep('postgresql://a@127.0.0.1:1/a')", "import chatkeep.drivers.postgresql"],
    "upstash": ["Chatkeep('upstash://a@127.0.0.1:1')", "import chatkeep.drivers.upstash.transport"],
    "durable-object": [
        "Chatkeep('durable-object://a@127.0.0.1:1')",
        "import chatkeep.drivers.durable_object.transport",
    ],
}

COMMANDS = {
    "server": [["serve", "app:keep"], ["serve", "app:keep", "--check"], ["demo", "--port", "0"]],
    "client": [["simulate", "http://127.0.0.1:1", "--key", "x"]],
    "redis": [["check", "redis://127.0.0.1:1/0"], ["list", "redis://127.0.0.1:1/0"]],
    "postgres": [["check", "postgresql://a@127.0.0.1:1/a"], ["list", "postgres://a@127.0.0.1:1/a"]],
}


def without(hidden: list[str], code: str, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs *code* in a Python that has none of the *hidden* libraries, forked from one that has imported none."""
    (folder / "asking.py").write_text(HIDING.format(hidden=set(hidden)) + textwrap.dedent(code))
    ended, said, errors = fork_server.run(
        *arguments,
        folder=folder,
        environment=plain_environment(),
        within=10 * PATIENCE_S,
        module="asking",
        imported=fork_server.BARE,
    )
    return subprocess.CompletedProcess(arguments, ended, said.decode(), errors.decode())


@pytest.mark.parametrize("extra", USES)
def test_a_missing_extra_is_told_in_one_voice(extra: str, tmp_path: Path) -> None:
    """Whichever of its libraries is missing and whatever asks for it: what is missing, and the line that installs it."""
    code = f"""
    import asyncio
    from chatkeep import Chatkeep, Misconfigured

    async def opened(keep):
        async with keep:
            pass

    for use in {USES[extra]!r}:
        try:
            exec(use)
        except Misconfigured as fault:
            print(fault)
        else:
            print("nothing was said:", use)
    """
    said = without(LIBRARIES[extra], code, folder=tmp_path)
    lines = said.stdout.splitlines()

    assert (0, len(USES[extra])) == (said.returncode, len(lines)), said.stderr
    assert [] == [
        line for line in lines if not line.endswith(f"is not installed. Run: pip install 'chatkeep[{extra}]'")
    ]


@pytest.mark.parametrize(("extra", "library"), [(extra, one) for extra in USES for one in LIBRARIES[extra]])
def test_each_library_of_an_extra_is_told_by_its_name(extra: str, library: str, tmp_path: Path) -> None:
    """Also when it is the only one that is missing."""
    code = f"""
    from chatkeep import Chatkeep, Misconfigured
    for use in {[use for use in USES[extra] if "asyncio" not in use]!r}:
        try:
            exec(use)
        except Misconfigured as fault:
            print(fault)
    """
    said = without([library], code, folder=tmp_path)
    lines = set(said.stdout.splitlines())

    assert 0 == said.returncode, said.stderr
    assert lines
    assert [] == [
        line
        for line in lines
        if not line.endswith(f" needs {library}, which is not installed. Run: pip install 'chatkeep[{extra}]'")
    ]


@pytest.mark.parametrize(("extra", "command"), [(extra, one) for extra in COMMANDS for one in COMMANDS[extra]])
def test_the_command_line_says_so_in_one_line(extra: str, command: list[str], tmp_path: Path) -> None:
    """Exit code 2, and no traceback."""
    said = without(LIBRARIES[extra], "from chatkeep.cli import main; main()", *command, folder=tmp_path)

    assert (2, "", 1) == (said.returncode, said.stdout, len(said.stderr.splitlines())), said.stderr
    assert said.stderr.startswith("chatkeep: ")
    assert f"pip install 'chatkeep[{extra}]'" in said.stderr


def test_an_application_that_needs_an_extra_is_told_by_serve(tmp_path: Path) -> None:
    """Its import fails in the server's hands, and is told in the same line."""
    (tmp_path / "app.py").write_text("from chatkeep.channels.outlet import ChannelOutlet\n")
    code = "from chatkeep.cli import main; main()"
    said = without(LIBRARIES["channels"], code, "serve", "app:keep", "--check", folder=tmp_path)

    assert (2, "", 1) == (said.returncode, said.stdout, len(said.stderr.splitlines())), said.stderr
    assert "pip install 'chatkeep[channels]'" in said.stderr


def test_the_server_does_without_telemetry_and_channels(tmp_path: Path) -> None:
    """It traces nothing, and takes in webhooks all the same."""
    code = """
    import chatkeep.server.serving, chatkeep.server.telemetry as telemetry
    from chatkeep.channels import WhatsApp
    print(telemetry.CAN_TRACE)
    """
    said = without([*LIBRARIES["telemetry"], *LIBRARIES["channels"]], code, folder=tmp_path)

    assert (0, "False\n") == (said.returncode, said.stdout), said.stderr


@pytest.mark.parametrize(
    ("extra", "library", "use", "range_"),
    [
        ("server", "uvicorn", "import chatkeep.server.serving", "uvicorn"),
        ("redis", "redis", "import chatkeep.storage.shared_cache", "redis"),
        ("redis", "hiredis", "import chatkeep.drivers.redis.transport", "hiredis"),
        ("telemetry", "opentelemetry/trace", "import chatkeep.server.telemetry", "opentelemetry-api"),
    ],
)
def test_what_is_installed_and_does_not_fit_is_not_called_missing(
    extra: str, library: str, use: str, range_: str, tmp_path: Path
) -> None:
    """Another version than is needed: which one is there, which one is needed, and the line that brings it."""
    package = tmp_path / library
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")  # a library of this name without what chatkeep imports from it
    said = without([], f"import sys; sys.path.insert(0, '.'); {use}", folder=tmp_path)
    last = said.stderr.splitlines()[-1]

    assert last.startswith("chatkeep.errors.MissingExtra: ")
    assert "not installed" not in last
    assert f" needs {range_}>=" in last or f" needs {range_}<" in last
    assert "which is installed (" in last
    assert last.endswith(f"Run: pip install --upgrade 'chatkeep[{extra}]'")


def test_it_is_an_import_error_too() -> None:
    """`except ImportError` around an optional import goes on working; a fault of chatkeep's own modules is none of an extra."""
    with pytest.raises(ImportError) as told, from_extra("client", "It"):
        raise ModuleNotFoundError("No module named 'nowhere'", name="nowhere")
    with pytest.raises(ImportError, match=r"^ours$") as own, from_extra("client", "It"):
        raise ImportError("ours", name="chatkeep.client.link")

    assert isinstance(told.value, Misconfigured)
    assert "nowhere" == told.value.name
    assert "It needs nowhere, which is not installed. Run: pip install 'chatkeep[client]'" == str(told.value)
    assert not isinstance(own.value, MissingExtra)
