"""A server with a bot that counts, and users who come to it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from chatkeep import Chatkeep
from chatkeep.auth.credentials import create_key
from chatkeep.server import create_app

from .counting import count
from .serving import Answer, Client, serving
from .stores import FAST


class House:
    """A server, and who comes to it."""

    def __init__(self, keep: Chatkeep[Any], port: int, key: str) -> None:
        self.keep, self.client = keep, Client(port, key)

    async def ask(
        self, method: str, path: str, body: Any = None, *, token: str | None = None, **headers: str
    ) -> Answer:
        """One request, with the service key unless there is a *token* ("": without any)."""
        told = {} if token is None else {"Authorization": token and f"Bearer {token}"}
        told |= {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.ask(method, path, None if body is None else json.dumps(body).encode(), told)

    async def token(self, user: str, **asked: Any) -> str:
        """A new token of a user."""
        answer = await self.ask("POST", f"/v1/users/{user}/tokens", asked)
        assert 201 == answer.status, answer
        return str(answer.json["token"])

    async def list(self, token: str, query: str = "") -> Any:
        """A user's list."""
        answer = await self.ask("GET", f"/v1/me/conversations{query}", token=token)
        assert 200 == answer.status, answer
        return answer.json


@asynccontextmanager
async def housed(url: Any, state: type = dict, **options: Any) -> AsyncIterator[House]:
    """A house over *url*."""
    keep: Chatkeep[Any] = Chatkeep(url, state=state, **FAST)
    keep.on_message(count)
    async with serving(create_app(keep, title="x", **options)) as port:
        yield House(keep, port, (await create_key(keep, "")).token)
