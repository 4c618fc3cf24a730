"""A server over one Chatkeep, with a service key of the tenant "salon", and whoever asks it."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from chatkeep import Chatkeep, Turn
from chatkeep.auth.credentials import create_key

from .serving import Answer, Client, served
from .stores import FAST
from .waiting import takes

ADA = "/v1/conversations/ada"
COOKIE = "__Host-chatkeep"
PAGE = {"Sec-Fetch-Site": "same-origin"}


class Clock:
    """The time, and what a test adds to it."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


def bearing(token: str) -> dict[str, str]:
    """The header that carries a credential."""
    return {"Authorization": f"Bearer {token}"}


async def ask(client: Client, method: str, path: str, body: Any = None, /, token: str = "", **headers: str) -> Answer:
    """One request with a JSON body, a credential, and headers whose names are written with underscores."""
    told = {name.replace("_", "-"): value for name, value in headers.items()}
    raw = None if body is None else json.dumps(body).encode()
    return await client.ask(method, path, raw, (bearing(token) if token else {}) | told)


class House:
    """A server over one Chatkeep, with a service key of the tenant "salon"."""

    def __init__(self, keep: Chatkeep[Any], client: Client, key: str) -> None:
        self.keep = keep
        self.client = client
        self.key = key

    async def ask(self, method: str, path: str, body: Any = None, /, token: str = "", **headers: str) -> Answer:
        """As `ask`."""
        return await ask(self.client, method, path, body, token=token, **headers)

    async def token(self, *scopes: str, conversation: str = "ada", **asked: Any) -> str:
        """A token that the service key has made."""
        body = asked | ({"scopes": scopes} if scopes else {})
        answer = await self.ask("POST", f"/v1/conversations/{conversation}/tokens", body, token=self.key)
        assert 201 == answer.status, answer.body
        return str(answer.json["token"])

    async def share(self, token: str, **asked: Any) -> str:
        """A share that *token* has made."""
        answer = await self.ask("POST", f"{ADA}/shares", asked, token=token)
        assert 201 == answer.status, answer.body
        return str(answer.json["share"])

    async def redeem(self, share: str, **headers: str) -> Answer:
        """The answer to a share."""
        return await self.ask("POST", "/v1/shares/redeem", {"share": share}, **headers)

    async def may(self, token: str, path: str = f"{ADA}/messages") -> int:
        """What reading with *token* is answered with."""
        return (await self.ask("GET", path, token=token)).status


async def bot(turn: Turn[Any]) -> str:
    """Says it again; after a while, if it is asked to."""
    await takes(0.5 if turn.text == "slowly" else 0)
    return turn.text


@asynccontextmanager
async def housed(url: str, **options: Any) -> AsyncIterator[House]:
    """A house on *url*."""
    keep: Chatkeep[Any] = Chatkeep(url, clock=options.pop("clock", time.time), **(FAST | options.pop("settings", {})))
    keep.on_message(bot)
    async with served(keep, **options) as client:
        yield House(keep, Client(client.port, ""), (await create_key(keep, "salon")).token)


async def with_cookie(house: House, **headers: str) -> tuple[str, Answer]:
    """A conversation whose token a page of this host was given in the cookie."""
    answer = await house.ask(
        "POST", "/v1/conversations", {"cookie": True}, **(headers or {"Sec_Fetch_Site": "same-origin"})
    )
    return answer.headers.get("set-cookie", "").partition(";")[0], answer
