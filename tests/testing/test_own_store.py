"""The driver of docs/how-to/own-store.md passes the contract as the page says, and the one that breaks it is caught."""

from __future__ import annotations

import inspect
import os
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from chatkeep import Corrupt, Uncertain
from chatkeep.drivers import Append, Entry, Key, Read, Scan, mark_of
from chatkeep.testing import DriverContract

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "own-store.md"
COSTLY = "any_key_is_its_own|any_bytes|any_text|pages_of_any_size|hundreds_at_once"
"""Clauses that write thousands of times, and so thousands of files; they have been run by hand."""

CLAUSES = [name for name in dir(DriverContract) if name.startswith("test_") and not re.search(COSTLY, name)]


@pytest.fixture(scope="module")
def page() -> dict[str, Any]:
    """The names of the page's driver and of its tests."""
    driver, _, *tests = re.findall("^```python\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
    module = ModuleType("chatkeep_folder")
    sys.modules[module.__name__] = module
    names: dict[str, Any] = {"__name__": "test_folder"}
    try:
        exec(compile(driver, "chatkeep_folder.py", "exec", dont_inherit=True), vars(module))
        exec(compile("".join(tests), "test_folder.py", "exec", dont_inherit=True), names)
    finally:
        del sys.modules[module.__name__]
    return names


@pytest.mark.parametrize("clause", CLAUSES)
async def test_the_driver_of_the_page_passes(
    clause: str, page: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clause by clause; power cuts are not tried, so nothing waits for the disk."""
    monkeypatch.setattr(os, "fsync", lambda file: None)
    contract = page["TestFolder"]()
    contract.folder = tmp_path / "chats"
    await getattr(contract, clause)()


async def test_the_broken_driver_of_the_page_is_caught(page: dict[str, Any], tmp_path: Path) -> None:
    """The test that the page shows fails where nothing is broken."""
    caught = page["test_the_contract_catches_a_driver_that_forgets"]
    await caught(tmp_path)
    page["Forgetful"].erase = inspect.getattr_static(page["FolderDriver"], "erase")
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        await caught(tmp_path / "other")


async def test_a_damaged_file_holds_up_no_other_conversation(page: dict[str, Any], tmp_path: Path) -> None:
    """It is told of, and found no more among the others; the disk's own errors come out as chatkeep's."""
    driver = page["FolderDriver"](f"folder:///{tmp_path / 'chats'}")
    assert ["ok"] == [finding.level for finding in await driver.examine()]
    assert not (tmp_path / "chats").exists()
    await driver.open()
    ada, bob = Key("", "ada"), Key("", "bob")
    for key in (ada, bob):
        await driver.append(Append(key, [Entry(0, "1", "u", b"hello")], revision="r1", at=1.0))
    path = tmp_path / "chats" / f"{mark_of(ada)}.json"
    path.write_bytes(path.read_bytes()[:-9])

    with pytest.raises(Corrupt, match="Restore it from a backup"):
        await driver.read(Read(ada, tail=1))
    assert [bob] == [row.key for row in await driver.scan(Scan("key", limit=9))]
    assert [("warn", "1 files cannot be read")] == [(one.level, one.said[-22:]) for one in await driver.examine()]

    path.unlink()
    path.with_suffix(".new").mkdir()
    with pytest.raises(Uncertain):
        await driver.append(Append(ada, [Entry(0, "1", "u", b"hello")], revision="r2", at=3.0))
    await driver.close()
