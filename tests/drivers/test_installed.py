"""Drivers of other packages, found by their entry points."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chatkeep import Chatkeep, Misconfigured, Unsupported
from chatkeep.cli import main
from chatkeep.drivers import driver_for
from chatkeep.drivers.memory import MemoryDriver

INSTALLED = """
from chatkeep.drivers.memory import MemoryDriver

class Noted(MemoryDriver):
    def __init__(self, url):
        super().__init__("memory://" + url.partition("://")[2])
"""

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Makes a function that installs a package with these entry points, as `pip install` would leave it."""
    monkeypatch.syspath_prepend(tmp_path)

    def installed(name: str, module: str, **points: str) -> None:
        (tmp_path / f"{name}.py").write_text(module)
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        lines = "".join(f"{scheme} = {value}\n" for scheme, value in points.items())
        (info / "entry_points.txt").write_text(f"[chatkeep.drivers]\n{lines}")

    return installed


def test_a_url_finds_the_driver_of_another_package(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    """In the library and in the commands."""
    install("noted_chats", INSTALLED, noted="noted_chats:Noted")

    async def said() -> None:
        async with Chatkeep("noted://salon") as keep:
            await keep.accept("ada", "hello")

    asyncio.run(said())
    with pytest.raises(SystemExit) as done:
        main(["list", "noted://salon"])

    assert 0 == done.value.code
    assert "ada" in capsys.readouterr().out


def test_without_one_it_is_said_how_to_have_one() -> None:
    """The group and the name of the entry point, and the way without one."""
    with pytest.raises(
        Unsupported, match=r'Chatkeep\(MyDriver\(\.\.\.\)\).*entry point "noted" of the group chatkeep.drivers'
    ):
        driver_for("noted://salon")


def test_a_misspelt_scheme_is_told_which_other_packages_have(install: Install) -> None:
    """Beside chatkeep's own, and with the one that is nearest."""
    install("noted_chats", INSTALLED, noted="noted_chats:Noted")
    with pytest.raises(Unsupported, match=r"did you mean noted://\?.*and other packages have noted://\. "):
        driver_for("notd://salon")


def test_a_driver_that_cannot_be_imported_is_named(install: Install) -> None:
    """With its entry point and the fault."""
    install("torn_chats", "raise RuntimeError('half of it')", torn="torn_chats:Torn")
    with pytest.raises(Misconfigured, match=r"torn_chats:Torn, cannot be imported .RuntimeError: half of it"):
        driver_for("torn://salon")


class Half:
    """A driver that is not finished."""

    abilities = frozenset[str]()
    epoch = ""
    read = append = write = entries = scan = erase = open = close = None


class Spelt(MemoryDriver):
    """A driver that says its abilities in words."""

    abilities = frozenset({"LOG", "SCAN"})  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (Spelt("memory://"), "Spelt declares 'LOG', 'SCAN' as abilities, which are none.*such as Ability.LOG"),
        (Half(), "Half is no driver: it lacks announce, backup, count, examine, fence, pool, query, watch"),
        (Half, r"Half is a class; a driver is an object of it, Half\(\.\.\.\)"),
        (Path("chat.db"), 'named by a URL, not by a path: write "sqlite:///chat.db"'),
        (7, "int is no driver"),
    ],
    ids=["abilities", "unfinished", "class", "path", "number"],
)
def test_what_is_no_store_is_refused_when_the_chatkeep_is_made(given: Any, said: str) -> None:
    """With all that it lacks, rather than at the first use of each."""
    with pytest.raises(Misconfigured, match=said):
        Chatkeep(given)


async def test_a_driver_that_finds_no_epoch_is_not_opened() -> None:
    """It is told what has to be returned, and may be opened when it is mended."""

    class Lost(MemoryDriver):
        async def _start(self) -> str:
            return None  # type: ignore[return-value]

    driver = Lost("memory://lost")
    with pytest.raises(Misconfigured, match=r"Lost\._start returned None, and has to return the epoch"):
        await driver.open()
    assert not driver.is_open


def test_two_drivers_of_one_scheme_are_refused(install: Install) -> None:
    """Which of them has the conversations cannot be told."""
    install("noted_chats", INSTALLED, noted="noted_chats:Noted")
    install("other_chats", INSTALLED, noted="other_chats:Noted")
    with pytest.raises(Misconfigured, match="noted_chats:Noted, other_chats:Noted"):
        driver_for("noted://salon")


def test_nobody_takes_the_place_of_a_driver_of_chatkeep(install: Install) -> None:
    """An entry point of a scheme that chatkeep has itself is passed over."""
    install("noted_chats", INSTALLED, memory="noted_chats:Noted")

    assert "MemoryDriver" == type(driver_for("memory://salon")).__name__
