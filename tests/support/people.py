"""Short ways to look at users' lists."""

from __future__ import annotations

from typing import Any


async def ids(user: Any, **asked: Any) -> list[str]:
    """The user's list, in its order."""
    return [summary.id async for summary in user.conversations(**asked)]
