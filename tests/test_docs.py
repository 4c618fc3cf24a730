"""The README and the docs are true: their Python runs."""

from __future__ import annotations

import asyncio
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


def blocks(name: str) -> list[str]:
    """The Python blocks of a page."""
    return re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), re.S)


def test_the_first_screen_of_the_readme_is_true(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its bot runs as it stands, and each comment behind a line says what the line gives."""
    monkeypatch.chdir(tmp_path)
    code = blocks("README.md")[0]
    setup, _, inside = code.partition("async with keep:")
    comments = dict(re.findall(r"^    (\S[^#\n]*?) +# (.*)$", inside, re.M))
    names: dict[str, Any] = {}
    exec(setup, names)
    lines = textwrap.dedent(inside.partition("\n")[2])
    body = textwrap.indent(lines + "\nreturn locals()\n", "        ")
    exec(f"async def run():\n    async with keep:\n{body}", names)
    found = asyncio.run(names["run"]())

    assert '"1 in your cart", recorded before you see it' == comments["receipt.replies[0].text"]
    assert "1 in your cart" == found["receipt"].replies[0].text
    assert (True, True) == (found["again"].duplicate, found["again"].replies == found["receipt"].replies)


def test_the_tour_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The first bot of the tour prints its answer; every other block at least compiles."""
    monkeypatch.chdir(tmp_path)
    first, *rest = blocks("docs/tutorial/start.md")
    exec(first, {"__name__": "__main__"})
    for block in [*rest, *blocks("docs/reference/stores.md")]:
        compile(block, "docs", "exec", flags=__import__("ast").PyCF_ALLOW_TOP_LEVEL_AWAIT)

    assert "That was message 1." == capsys.readouterr().out.strip()


def test_the_links_lead_somewhere() -> None:
    """Every relative link of every page names a file."""
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    links = [
        (page, link) for page in pages for link in re.findall(r"\]\(([^)#]+?)\)", page.read_text()) if "://" not in link
    ]

    assert [] == [(page.name, link) for page, link in links if not (page.parent / link).exists()]
