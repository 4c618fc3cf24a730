"""The protocols of other people's front ends and clients, over the same conversations and under the same access rules.

    from chatkeep.server import create_app
    from chatkeep.server.protocols import aisdk

    app = create_app(keep, protocols=["aisdk", "responses"])           # beside the server's own API
    app = Starlette(routes=aisdk.routes(keep), lifespan=...)            # or in an application of your own

Each module has `routes(keep)`, which only translates: it takes the last message of what a client sends, with its id as the
idempotency key, and follows the answer (`answer_stream`). None keeps anything.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import Any

from starlette.routing import BaseRoute

from ...app import Chatkeep
from ...errors import Misconfigured
from ..settings import PROTOCOLS


def routes_of(keep: Chatkeep[Any], names: Iterable[str]) -> list[BaseRoute]:
    """Return the routes of the protocols of these *names* over *keep*. Raises `Misconfigured` for a name that is none."""
    if isinstance(names, str) or (wrong := [name for name in names if name not in PROTOCOLS]):
        given = names if isinstance(names, str) else ", ".join(map(str, wrong))
        raise Misconfigured(f"protocols is a list of {', '.join(PROTOCOLS)}; it has {given}. Nothing was started.")
    return [route for name in names for route in import_module(f"{__name__}.{name}").routes(keep)]
