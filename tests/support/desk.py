"""People who are signed in at the operators' desk, over HTTP."""

from __future__ import annotations

import json
from typing import Any

from chatkeep import Chatkeep
from chatkeep.auth.accounts import add_account
from chatkeep.auth.rights import Role

from .serving import Answer, Client

PASSWORD = "correct horse battery"


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
