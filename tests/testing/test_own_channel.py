"""The channel of docs/how-to/channels.md passes the contract with the sample of the page, and serves customers."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from starlette.testclient import TestClient

from chatkeep import Chatkeep
from chatkeep.server import create_app
from chatkeep.testing import ChannelContract

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "channels.md").read_text().partition("## Writing one")[2]
CLAUSES = [name for name in dir(ChannelContract) if name.startswith("test_")]


@pytest.fixture
def contract(tmp_path: Path) -> Iterator[Any]:
    """The contract class of the page, in a folder with its corpus."""
    channel, test = re.findall("^```python\n(.*?)^```$", PAGE, re.M | re.S)
    (sample,) = re.findall("^```json\n(.*?)^```$", PAGE, re.M | re.S)
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "two_rings.json").write_text(sample)
    module = ModuleType("bell")
    sys.modules["bell"] = module
    names: dict[str, Any] = {"__name__": "test_bell", "__file__": str(tmp_path / "test_bell.py")}
    try:
        exec(compile(channel, "bell.py", "exec", dont_inherit=True), vars(module))
        exec(compile(test, "test_bell.py", "exec", dont_inherit=True), names)
        yield names["TestBell"]()
    finally:
        del sys.modules["bell"]


@pytest.mark.parametrize("clause", CLAUSES)
def test_the_channel_of_the_page_passes(clause: str, contract: Any) -> None:
    """Clause by clause."""
    getattr(contract, clause)()


def test_the_channel_of_the_page_is_served(contract: Any) -> None:
    """Its platform posts to the address of its name, and what is unknown is where the page says."""
    from chatkeep.channels.outlet import ChannelOutlet

    keep: Chatkeep[Any] = Chatkeep("memory://")
    keep.deliver(ChannelOutlet(contract.channel()))
    body = json.dumps(contract.samples()[0].body).encode()
    with TestClient(create_app(keep, hosts=["testserver"])) as http:
        taken = http.post("/channels/bell", content=body, headers=dict(contract.signed(body)))
        refused = http.post("/channels/bell", content=body + b" ", headers=dict(contract.signed(body)))
        found = http.portal.call(ids_of, keep) if http.portal else []

    assert (200, 401) == (taken.status_code, refused.status_code)
    assert {"bell:door:ada", "bell:door:unknown"} == set(found)


async def ids_of(keep: Chatkeep[Any]) -> list[str]:
    """The ids of all conversations."""
    return [one.id async for one in keep.conversations()]
