"""docs/how-to/client.md is true: its Python runs."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest

from chatkeep import client as package
from chatkeep.client import Account, Chat, Client, Slot, SyncAccount, SyncChat, SyncClient, SyncSlot

from ..support.client_server import Place

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "client.md").read_text()
FIRST, SECOND, NOTICES, STATE, EVENTS, QUEUE = re.findall(
    r"<!-- run by tests/client/test_page.py -->\n+```python\n(.*?)```", PAGE, re.S
)


async def test_the_page_runs(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every block, against a real server."""
    monkeypatch.chdir(tmp_path)

    def here(block: str) -> str:
        return block.replace("https://chat.example", place.url).replace("ck_c_...", place.key)

    names: dict[str, Any] = {}
    inside = (
        "await chat.patch({'cart': []})\n"
        + STATE
        + EVENTS.replace("print(message.role, message.text)", "said.append(message.text)")
    )
    await run(here(FIRST) + textwrap.indent(inside + "    if said:\n        break\n", "    "), names)
    await asyncio.to_thread(exec, here(SECOND), {})
    await run(here(QUEUE), names)
    told = textwrap.indent(NOTICES + "        break\n", "    ")
    refused = "client._link.notices.tell('failed', 'x', actions={'retry': client.me})\n"
    opened = here(FIRST).splitlines()[:3]
    await run("\n".join([*opened, "    " + refused]) + told, names)

    assert ["basic manicure is number 1"] == names["said"]


async def run(code: str, names: dict[str, Any]) -> None:
    """Runs a block that awaits."""
    names["said"] = names.get("said", [])
    found = eval(compile(code, "client.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)
    if inspect.isawaitable(found):
        await found


def test_both_clients_have_the_same_words() -> None:
    """What one can, the other can; and the page names every word of a chat."""
    for one, other in ((Client, SyncClient), (Chat, SyncChat), (Slot, SyncSlot), (Account, SyncAccount)):
        assert words(one) - {"etag", "id"} == words(other) - {"etag", "id"}
    assert [] == [word for word in words(Chat) if f"chat.{word}(" not in PAGE]
    assert sorted(package.__all__) == package.__all__


def words(kind: type) -> set[str]:
    """Its public names."""
    return {name for name in vars(kind) if not name.startswith("_")}
