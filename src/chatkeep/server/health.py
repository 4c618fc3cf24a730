"""Whether messages are answered here now, for load balancers and people."""

from __future__ import annotations

import threading
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from ..app import Chatkeep, core_of
from .access import keep_of

STOPPING = threading.Event()
"""Set when this process was told to stop: it is not ready any more, and event streams end."""


async def get_ready(request: Request) -> Response:
    """Answer 200 while messages are answered here, else 503 with the reason, in words that name no host and no user.

    Where this version cannot read some conversations it says so and stays ready: it answers all the others.
    """
    core, trouble = core_of(keep_of(request)), trouble_of(keep_of(request))
    if not (trouble or core.is_inside):
        trouble = (
            "the Chatkeep is open in another event loop or process; the application has to open it in its lifespan"
        )
    warning = core.warning
    told = {"status": "not ready" if trouble else "ready"} | (
        {"trouble": trouble or warning} if trouble or warning else {}
    )
    headers = {"cache-control": "no-store"} | ({"retry-after": "1"} if trouble else {})
    return Response(msgspec.json.encode(told), 503 if trouble else 200, headers, "application/json")


def trouble_of(keep: Chatkeep[Any]) -> str:
    """Tell why *keep* does not answer messages, as strangers may read it; "" when it does. The log has the details."""
    if STOPPING.is_set():
        return "this server is stopping"
    return core_of(keep).trouble
