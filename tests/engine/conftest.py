"""A Chatkeep that sends replies out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ..support.pigeons import Loft


@pytest.fixture
def sending(opened: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """`await sending(handler, loft)` gives an open Chatkeep that delivers through it."""
    from chatkeep import Chatkeep

    async def make(handler: Any, loft: Loft, **options: Any) -> Any:
        begin = Chatkeep.open

        async def with_outlet(self: Any) -> None:
            self.deliver(loft)
            await begin(self)

        monkeypatch.setattr(Chatkeep, "open", with_outlet)
        try:
            return await opened(handler, **options)
        finally:
            monkeypatch.setattr(Chatkeep, "open", begin)

    return make
