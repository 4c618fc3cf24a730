"""A2A against its official kit of tests, with the bot of the how-to page."""

from __future__ import annotations

import asyncio
import os
import re
import xml.etree.ElementTree as Tree
from pathlib import Path
from typing import Any

import pytest

from ...support.serving import serving

KIT = os.environ.get("CHATKEEP_A2A_TCK")
PAGE = Path(__file__).parents[3] / "docs/how-to/protocols.md"


@pytest.mark.long
async def test_the_kit_finds_nothing_that_must_be_otherwise(tmp_path: Path) -> None:
    """Of what its level `must` has for JSON-RPC and for what the card declares, and most of it is that."""
    if not KIT:
        pytest.skip("NOT RUN: there is no kit of A2A here (CHATKEEP_A2A_TCK=/path/to/its/clone, with its .venv)")
    bot: dict[str, Any] = {}
    [block] = [one for one in re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.M | re.S) if "WANTED" in one]
    exec(block, bot)
    python, report = Path(KIT) / ".venv/bin/python", tmp_path / "report.xml"
    async with serving(bot["app"]) as port:
        process = await asyncio.create_subprocess_exec(
            *(python, "-m", "pytest", "tests/compatibility", f"--sut-host=http://127.0.0.1:{port}"),
            *("--transport=jsonrpc", "-m", "must", "-q", "-p", "no:cacheprovider", f"--junitxml={report}"),
            *(f"--compatibility-report={tmp_path / 'compatibility'}",),
            cwd=KIT,
            env={name: value for name, value in os.environ.items() if not name.startswith("PY")},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await process.communicate()
    cases = list(Tree.parse(report).iter("testcase"))
    failed = [case.get("name") for case in cases if case.find("failure") is not None or case.find("error") is not None]
    passed = [case for case in cases if len(case) == 0]

    assert [] == failed, said.decode()
    assert len(passed) >= 81
