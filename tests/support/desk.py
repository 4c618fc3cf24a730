"""People who are signed in at the operators' desk, over HTTP, and a bot that they look after."""

from __future__ import annotations

import json
from typing import Any

from chatkeep import Chatkeep, Turn
from chatkeep.auth.accounts import add_account
from chatkeep.auth.rights import Role
from chatkeep.conversation.outbox import Sent
from chatkeep.model import Content

from .serving import Answer, Client
from .stores import FAST

PASSWORD = "correct horse battery"


class Post:
    """Takes what goes to "whatsapp:..." but for what ends in 0."""

    def takes(self, tenant: str, conversation: str) -> bool:
        """Whether it goes out here."""
        return conversation.startswith("whatsapp:")

    async def send(self, conversation: str, content: Content, *, key: str, skip: int, at: float) -> Sent:
        """Sends one reply."""
        if conversation.endswith("0"):
            return Sent(status="failed", reason="The number is not known.")
        return Sent(status="delivered", ids=("1",), parts=1)

    async def open(self) -> None:
        """Nothing to open."""

    async def close(self) -> None:
        """Nothing to close."""


def chat(url: str = "memory://") -> Chatkeep[Any]:
    """A bot that repeats, and fails where it is asked to."""
    keep: Chatkeep[Any] = Chatkeep(url, **FAST | {"attempts": 1})

    @keep.on_message
    async def bot(turn: Turn[Any]) -> str:
        if turn.text == "fail":
            raise RuntimeError("as asked")
        return f"heard: {turn.text}"

    keep.deliver(Post())
    return keep


class Person:
    """Somebody at the desk, as a browser sends it: a cookie, where the page is from, and what the server has told it."""

    def __init__(self, port: int) -> None:
        self.client = Client(port, "")
        self.here = f"http://127.0.0.1:{port}"
        self.cookie = ""
        self.proof = ""

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """One request of the page; *headers* go over what it sends ("": not at all), with _ for -."""
        told = {
            "Cookie": self.cookie,
            "Chatkeep-Desk": self.proof,
            "Origin": self.here,
            "Sec-Fetch-Site": "same-origin",
        }
        told |= {name.replace("_", "-"): value for name, value in headers.items()}
        sent = None if body is None else json.dumps(body).encode()
        return await self.client.ask(method, path, sent, {name: value for name, value in told.items() if value})

    async def sign_in(self, body: dict[str, str], **headers: str) -> Answer:
        """Signs in, and keeps what a browser and the page keep."""
        answer = await self.ask("POST", "/v1/session", body, **headers)
        if answer.status == 201:
            self.cookie = answer.headers["set-cookie"].partition(";")[0]
            self.proof = answer.json["proof"]
        return answer


async def person(keep: Chatkeep[Any], port: int, role: Role, **told: Any) -> Person:
    """Somebody with an account of this role, who is called like it and is signed in."""
    await add_account(keep, role, role=role, password=PASSWORD, **told)
    found = Person(port)
    answer = await found.sign_in({"name": role, "password": PASSWORD})
    assert answer.status == 201, answer
    return found
