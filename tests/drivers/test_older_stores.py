"""A store that an older version made is opened and upgraded in place, also while an instance of that version still runs."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from chatkeep import Turn
from chatkeep.drivers.base import Entries, Erase, Key, Read, Write

from ..support.counting import answered
from ..support.stores import store_url
from ..support.waiting import until

OLDER = "61c7a46"
"""The first commit whose stores every later version opens."""

PROGRAM = """
import asyncio, sys
import chatkeep
from chatkeep import Chatkeep

def bot(turn):
    turn.state["seen"] = turn.state.get("seen", 0) + 1
    return f"{turn.state['seen']}: {turn.text}"

async def main(url):
    answers, accepts = Chatkeep(url), Chatkeep(url)
    answers.on_message(bot)
    await answers.open()
    await accepts.open()
    for number in range(1, 4):
        await answers.receive("ada", "hello " * number * 20, id=f"m{number}")
        await answers.receive("bob", "hello", id=f"m{number}")
    await answers.change("ada", lambda state: state.update(vip=True))
    await answers.erase("bob")
    print(chatkeep.__file__, flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    receipt = await answers.receive("ada", "still here", id="m4")
    print(receipt.replies[0].text, flush=True)
    await answers.close()
    await accepts.accept("cara", "hello", id="m1")
    await accepts.close()

asyncio.run(main(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source of the older version, out of the repository."""
    folder = tmp_path_factory.mktemp("older")
    root = Path(__file__).parents[2]
    found = subprocess.run(
        ["git", "archive", "--output", f"{folder}/src.tar", OLDER, "src"], cwd=root, capture_output=True
    )
    if found.returncode:
        pytest.skip(
            f"STORES OF OLDER VERSIONS WERE NOT TRIED: git has no {OLDER} here ({found.stderr.decode().strip()})"
        )
    subprocess.run(["tar", "-xf", f"{folder}/src.tar", "-C", f"{folder}"], check=True)
    return folder / "src"


@pytest.fixture(params=["sqlite", "redis", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A store that outlives its process."""
    return store_url(request.param, request, tmp_path)


async def test_a_store_of_an_older_version_is_opened(url: str, older: Path, opened: Any) -> None:
    """Nothing of it is lost, the instance that made it goes on, and what came later can be done with what it wrote."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, url],
        env={**os.environ, "PYTHONPATH": f"{older}"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert f"{older}/chatkeep/__init__.py\n" == await asyncio.to_thread(process.stdout.readline)

        def bot(turn: Turn[dict[str, Any]]) -> str:
            turn.state["seen"] = turn.state.get("seen", 0) + 1
            return f"{turn.state['seen']}: {turn.text}"

        keep = await opened(bot)
        again = await keep.receive("ada", "hello", id="m1")
        ada = await keep.conversation("ada")

        assert (True, "1: " + "hello " * 20) == (again.duplicate, again.replies[0].text)
        assert {"seen": 3, "vip": True} == ada.state
        assert None is await keep.conversation("bob")

        process.stdin.write("\n")
        process.stdin.flush()

        assert "4: still here\n" == await asyncio.to_thread(process.stdout.readline)
        assert 0 == await asyncio.to_thread(process.wait, 20)
        await until(lambda: answered(keep, "cara", 1))
    finally:
        process.kill()
        process.communicate()

    assert "5: hello" == (await keep.receive("ada", "hello", id="m5")).replies[0].text
    driver, key = keep._engine.store.driver, Key("", "ada")
    row, log = await driver.read(Read(key, tail=500))
    [first] = await driver.entries(Entries(key, ids=["m1"]))

    assert list(range(1, row.head + 1)) == [entry.number for entry in log]
    assert log[0] == first

    row = await driver.write(Write(structs.replace(row, revision="blanked"), replaces=row.revision, blank=[1]))

    assert b"" == (await driver.entries(Entries(key, ids=["m1"])))[0].body

    await driver.erase(Erase(key, at=time.time() + 10, revision="blanked"))

    assert None is await driver.read(Read(key, tail=1))
