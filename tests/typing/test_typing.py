"""What a strict type checker says of programs that use chatkeep."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from chatkeep.durations import seconds
from chatkeep.errors import Misconfigured
from chatkeep.settings import Flags, Options, Settings, settings_from

pytestmark = [pytest.mark.long, pytest.mark.slow]
ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[tuple[int, str]]]:
    """The errors of `mypy --strict` by file: of good.py, bad.py and the first block of the README, with its use in a coroutine."""
    block = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)[0]
    setup, _, use = block.partition("\nasync with")
    readme = tmp_path_factory.mktemp("typing") / "readme.py"
    readme.write_text(f"{setup}\n\nasync def use() -> None:\n{textwrap.indent(f'async with{use}', '    ')}")
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--no-pretty",
            "tests/typing/good.py",
            "tests/typing/bad.py",
            readme,
        ],
        cwd=ROOT,
        env=os.environ | {"MYPYPATH": "src"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 1, run.stdout + run.stderr  # errors, and no failure of mypy itself
    errors: dict[str, set[tuple[int, str]]] = {}
    for path, line, code in re.findall(r"^(\S+?):(\d+): error: .*\[([\w-]+)\]$", run.stdout, re.M):
        errors.setdefault(Path(path).name, set()).add((int(line), code))
    return errors


def test_what_people_write_has_no_error(found: dict[str, set[tuple[int, str]]]) -> None:
    """The bot of the README, typed and untyped states, hooks, streams, events and options that are passed on."""
    assert set() == found.get("readme.py", set()) | found.get("good.py", set())


def test_each_mistake_is_refused_where_it_is_made(found: dict[str, set[tuple[int, str]]]) -> None:
    """A misspelt option, a wrong literal, a turn of another state: each line of bad.py that names an error has it, and no other."""
    wanted = {
        (number, told[1])
        for number, line in enumerate((HERE / "bad.py").read_text().splitlines(), 1)
        if (told := re.search(r"# error: ([\w-]+)$", line))
    }

    assert len(wanted) > 10
    assert wanted == found["bad.py"]


def test_options_are_the_settings() -> None:
    """`Options` has the names and types of `Settings`; flags may also be the table they are made from, and keys any sequence."""
    options, settings = get_type_hints(Options), get_type_hints(Settings)
    for name, kind in options.items():
        if name == "flags":
            options[name] = Flags
        if name == "seal_keys":
            assert kind == Sequence[str]
            options[name] = tuple[str, ...]
        assert settings.get(name) == options[name], f"{name} is {kind} in Options, {settings.get(name)} in Settings"

    assert list(settings) == list(options)


def test_everything_exported_is_there() -> None:
    """What `from chatkeep import *` names can be imported, and importing needs no typing_extensions."""
    code = (
        "import sys; sys.modules['typing_extensions'] = None; from chatkeep import *; import chatkeep;"
        "assert set(chatkeep.__all__) <= set(globals()), set(chatkeep.__all__) - set(globals())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert "" == done.stderr


def test_a_duration_may_be_a_timedelta() -> None:
    """As type checkers are told: it means the same as the text."""
    made: dict[str, Any] = {"session_ttl": timedelta(minutes=30), "quick": timedelta(milliseconds=5)}

    assert 1800.0 == seconds(timedelta(minutes=30)) == settings_from(made).policy().session_ttl_s
    with pytest.raises(Misconfigured, match="out of range"):
        settings_from({"quiet": timedelta(seconds=-1)})
    with pytest.raises(Misconfigured, match="more than 0"):
        settings_from({"poll": timedelta()})
