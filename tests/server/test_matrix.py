"""The access matrix: every route of the application x every kind of caller x whose conversation it is."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest
from starlette.endpoints import HTTPEndpoint
from starlette.routing import Route

from chatkeep import Chatkeep, Turn
from chatkeep.auth.credentials import SCOPES, create_key, issue_token, list_tokens, revoke, revoke_key
from chatkeep.auth.format import make_credential
from chatkeep.server import create_app
from chatkeep.server.principals import AccessPolicy

from ..support.serving import Answer, answer_from, serving
from ..support.stores import FAST

ID = "/v1/conversations/{id}"

MATRIX = {
    "GET /v1/me": AccessPolicy(own=True),
    "GET /v1/session": AccessPolicy(anyone=True),
    "GET /v1/session/oidc": AccessPolicy(anyone=True),
    "GET /v1/session/oidc/done": AccessPolicy(anyone=True),
    "POST /v1/session": AccessPolicy(anyone=True),
    "PUT /v1/session": AccessPolicy(right="list", masks=True),
    "DELETE /v1/session": AccessPolicy(right="list", masks=True),
    "PUT /v1/session/password": AccessPolicy(right="list", masks=True),
    "GET /v1/desk/conversations": AccessPolicy(right="list", masks=True),
    "GET /v1/desk/health": AccessPolicy(right="list", masks=True),
    "POST /v1/desk/bulk": AccessPolicy(right="operate"),
    "GET /v1/desk/replies": AccessPolicy(right="operate"),
    "PUT /v1/desk/replies/{reply}": AccessPolicy(right="operate"),
    "DELETE /v1/desk/replies/{reply}": AccessPolicy(right="operate"),
    "GET /v1/desk/present": AccessPolicy(right="operate"),
    f"PUT {ID}/writing": AccessPolicy(right="operate"),
    "GET /v1/desk/views": AccessPolicy(right="operate"),
    "PUT /v1/desk/views/{view}": AccessPolicy(right="operate"),
    "DELETE /v1/desk/views/{view}": AccessPolicy(right="operate"),
    "GET /v1/desk/people": AccessPolicy(right="operate"),
    f"PUT {ID}/assignee": AccessPolicy(right="operate"),
    f"GET {ID}/story": AccessPolicy(right="list", masks=True),
    f"POST {ID}/notes": AccessPolicy(right="operate"),
    "GET /v1/me/conversations": AccessPolicy(scope="read", user=True),
    "GET /v1/me/events": AccessPolicy(scope="read", user=True),
    "POST /v1/me/claim": AccessPolicy(scope="send", user=True),
    "DELETE /v1/me/claim/{guest}": AccessPolicy(scope="send", user=True),
    "GET /v1/me/tokens": AccessPolicy(user=True),
    "DELETE /v1/me/tokens/{token}": AccessPolicy(user=True),
    "POST /v1/me/tokens/{token}/rotate": AccessPolicy(user=True),
    "DELETE /v1/users/{user}": AccessPolicy(right="erase"),
    "GET /v1/users/{user}/tokens": AccessPolicy(right="tokens"),
    "POST /v1/users/{user}/tokens": AccessPolicy(right="tokens"),
    "DELETE /v1/users/{user}/tokens/{token}": AccessPolicy(right="tokens"),
    "POST /v1/conversations": AccessPolicy(scope="send", right="send", user=True, visitor=True),
    "GET /v1/conversations": AccessPolicy(right="list"),
    f"GET {ID}": AccessPolicy(scope="read", masks=True),
    f"PUT {ID}": AccessPolicy(scope="send", creates=True),
    f"PATCH {ID}": AccessPolicy(scope="send"),
    f"DELETE {ID}": AccessPolicy(scope="erase"),
    f"GET {ID}/losses": AccessPolicy(scope="state:read"),
    f"POST {ID}/losses/{{number}}": AccessPolicy(scope="state:write"),
    f"GET {ID}/messages": AccessPolicy(scope="read", masks=True),
    f"POST {ID}/messages": AccessPolicy(scope="send", creates=True),
    f"GET {ID}/events": AccessPolicy(scope="read", masks=True),
    f"GET {ID}/answering": AccessPolicy(scope="read", masks=True),
    f"GET {ID}/waiting": AccessPolicy(scope="read", masks=True),
    f"PUT {ID}/waiting/{{number}}": AccessPolicy(scope="send", right="operate"),
    f"DELETE {ID}/waiting/{{number}}": AccessPolicy(scope="send", right="operate"),
    f"POST {ID}/stop": AccessPolicy(scope="send", right="operate"),
    f"GET {ID}/state": AccessPolicy(scope="state:read"),
    f"PUT {ID}/state": AccessPolicy(scope="state:write", creates=True),
    f"PATCH {ID}/state": AccessPolicy(scope="state:write", creates=True),
    f"DELETE {ID}/state": AccessPolicy(scope="state:write"),
    f"GET {ID}/state/{{slot}}": AccessPolicy(scope="state:read"),
    f"PUT {ID}/state/{{slot}}": AccessPolicy(scope="state:write", creates=True),
    f"PATCH {ID}/state/{{slot}}": AccessPolicy(scope="state:write", creates=True),
    f"DELETE {ID}/state/{{slot}}": AccessPolicy(scope="state:write"),
    f"GET {ID}/tokens": AccessPolicy(own=True, right="tokens"),
    f"POST {ID}/tokens": AccessPolicy(right="tokens"),
    f"DELETE {ID}/tokens/{{token}}": AccessPolicy(own=True, right="tokens"),
    f"POST {ID}/tokens/{{token}}/rotate": AccessPolicy(own=True, right="tokens"),
    f"POST {ID}/shares": AccessPolicy(scope="share"),
    f"POST {ID}/operator": AccessPolicy(right="operate"),
    f"PUT {ID}/bot": AccessPolicy(right="operate"),
    "GET /v1/bot": AccessPolicy(right="list", masks=True),
    "PUT /v1/bot": AccessPolicy(right="switch"),
    "GET /v1/paused": AccessPolicy(right="list"),
    "GET /v1/audit": AccessPolicy(right="audit"),
    "GET /v1/holds": AccessPolicy(right="hold"),
    "POST /v1/holds": AccessPolicy(right="hold"),
    "DELETE /v1/holds": AccessPolicy(right="hold"),
    "GET /v1/export": AccessPolicy(right="export"),
    "GET /v1/cache": AccessPolicy(right="list"),
    "GET /v1/stats": AccessPolicy(right="list"),
    "PUT /v1/cache": AccessPolicy(right="switch"),
    f"GET {ID}/deliveries": AccessPolicy(right="list", masks=True),
    f"POST {ID}/deliveries/{{number}}": AccessPolicy(right="operate"),
    f"DELETE {ID}/messages/{{number}}": AccessPolicy(right="erase"),
    f"POST {ID}/changes/{{number}}": AccessPolicy(right="state:write"),
    f"GET {ID}/as-of/{{number}}": AccessPolicy(right="state:read"),
    "GET /v1/dead-letters": AccessPolicy(right="list"),
    f"GET {ID}/dead-letters": AccessPolicy(right="list", masks=True),
    f"POST {ID}/dead-letters/{{number}}": AccessPolicy(right="operate"),
    f"DELETE {ID}/dead-letters/{{number}}": AccessPolicy(right="operate"),
    f"GET {ID}/doubts": AccessPolicy(right="list"),
    f"POST {ID}/doubts/{{call}}": AccessPolicy(right="operate"),
    "POST /v1/shares/redeem": AccessPolicy(anyone=True),
}
"""Who may do what, written down a second time: an endpoint whose policy changes must be changed here too, knowingly."""

FOR_ALL = (
    "PUT /v1/cache",
    *(name for name, policy in MATRIX.items() if policy.user and not policy.right),
    *(f"{method} /v1/session" for method in ("POST", "PUT", "DELETE")),
    "PUT /v1/session/password",
    "GET /v1/desk/views",
    *(f"{method} /v1/desk/views/{{view}}" for method in ("PUT", "DELETE")),
)
"""What concerns all tenants, which no key of one tenant may; what is a user's own; and sessions and views, which keys have none of."""

BODIES: dict[str, Any] = {
    f"POST {ID}/messages": {"content": "in"},
    f"POST {ID}/operator": {"content": "in"},
    f"PUT {ID}/bot": {"paused": True},
    f"PUT {ID}/assignee": {"assignee": ""},
    "POST /v1/desk/bulk": {"act": "skip", "conversations": ["bob"]},
    "PUT /v1/desk/replies/{reply}": {"text": "in"},
    "PUT /v1/desk/views/{view}": {"filter": {}},
    "PUT /v1/bot": {"paused": False},
    "PUT /v1/cache": {"on": True},
    "POST /v1/holds": {"owner": "nobody", "reason": "x"},
    "POST /v1/session": {"name": "x", "password": "x"},
    "PUT /v1/session/password": {"old": "x", "new": "x"},
    f"POST {ID}/notes": {"text": "in", "id": "x"},
    f"PUT {ID}/state": {"mine": 1},
    f"PATCH {ID}/state": {"mine": 1},
    f"PUT {ID}/state/{{slot}}": 1,
    f"PATCH {ID}/state/{{slot}}": {"value": 1},
    f"PUT {ID}": {"title": "in"},
    f"PATCH {ID}": {"title": "in"},
    "POST /v1/me/claim": {"guest": "x"},
    "POST /v1/shares/redeem": {"share": "x"},
}


PATCHES = {
    f"PATCH {ID}/state": "application/merge-patch+json",
    f"PATCH {ID}/state/{{slot}}": "application/vnd.chatkeep.merge+json",
}


class Asked(NamedTuple):
    """One method of one route."""

    method: str
    path: str

    @property
    def name(self) -> str:
        """As in MATRIX."""
        return f"{self.method} {self.path}"

    def request(self, id: str, headers: dict[str, str]) -> bytes:
        """The bytes that ask for it."""
        path = self.path.format(
            id=quote(id, safe=""),
            slot="mine",
            token="current",
            number=1,
            user="u",
            guest="g",
            call="0" * 16 + ".0",
            reply="r",
            view="v",
        )
        body = json.dumps(BODIES[self.name]).encode() if self.name in BODIES else b""
        told = {"Host": "localhost", "Connection": "close", "If-Match": "*"} | headers
        if body:
            kind = PATCHES.get(self.name, "application/json")
            told |= {"Content-Type": kind, "Content-Length": str(len(body))}
        lines = [f"{self.method} {path} HTTP/1.1", *[f"{name}: {value}" for name, value in told.items()], "", ""]
        return "\r\n".join(lines).encode() + body


def policies(app: Any) -> Iterator[tuple[Asked, AccessPolicy | None]]:
    """Every method of every route, with the policy that it declares."""
    for route in app.routes:
        assert isinstance(route, Route), f"{route} is no plain route: who may use what is behind it?"
        if inspect.isclass(route.endpoint) and issubclass(route.endpoint, HTTPEndpoint):
            methods = [
                m for m in ("get", "head", "post", "put", "patch", "delete", "trace") if hasattr(route.endpoint, m)
            ]
            for method in methods:
                yield Asked(method.upper(), route.path), getattr(getattr(route.endpoint, method), "policy", None)
        else:
            for method in sorted(route.methods or {"GET"}):
                yield Asked(method, route.path), getattr(route.endpoint, "policy", None)


def test_every_route_declares_who_may_use_it() -> None:
    """One that does not fails here; and under /v1 it says what MATRIX says."""
    found = dict(policies(create_app(Chatkeep("memory://matrix", **FAST), title="x", anonymous=True)))

    assert [] == [asked.name for asked, policy in found.items() if policy is None]
    assert MATRIX == {asked.name: policy for asked, policy in found.items() if asked.path.startswith("/v1")}
    assert {AccessPolicy(anyone=True), AccessPolicy(anyone=True, counted=False)} == {
        policy for asked, policy in found.items() if not asked.path.startswith("/v1")
    }
    assert ["POST /channels/{channel}"] == [asked.name for asked, policy in found.items() if not policy.counted]


ASKED = [Asked(*name.split(" ")) for name in MATRIX]
ABOUT_ONE = [asked for asked in ASKED if "{id}" in asked.path]


class Place(NamedTuple):
    """A server, and what its callers hold."""

    keep: Chatkeep[Any]
    port: int
    key: str
    other_key: str
    useless: dict[str, dict[str, str]]

    async def ask(self, asked: Asked, id: str, headers: dict[str, str]) -> Answer:
        """One request; of a stream only its head."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(asked.request(id, headers))
            if asked.method == "HEAD":
                return Answer(int((await reader.readline()).split()[1]), {}, b"")
            return await answer_from(reader)
        finally:
            writer.close()

    async def token(self, *scopes: str, id: str = "ada", tenant: str = "salon") -> dict[str, str]:
        """The header with a new token."""
        return bearing((await issue_token(self.keep, tenant, id, scopes=scopes)).token)

    async def all_of(self, id: str, tenant: str = "salon") -> Any:
        """All that there is of a conversation, but for when somebody has last used a token."""
        found = await self.keep.tenant(tenant).conversation(id)
        tokens = [(token.id, token.scopes, token.revoked) for token in await list_tokens(self.keep, tenant, id)]
        return found, tokens


def bearing(token: str) -> dict[str, str]:
    """The header that carries a credential."""
    return {"Authorization": f"Bearer {token}"}


@asynccontextmanager
async def placed(url: str) -> AsyncIterator[Place]:
    """A place with the conversations "ada" and "bob" of "salon", and "ada" of "barber"."""

    async def bot(turn: Turn[Any]) -> str:
        turn.state["mine"] = turn.text
        return turn.text

    keep: Chatkeep[Any] = Chatkeep(url, **FAST)
    keep.on_message(bot)
    async with serving(create_app(keep, title="x", anonymous=True)) as port:
        for tenant, id in (("salon", "ada"), ("salon", "bob"), ("barber", "ada")):
            await keep.tenant(tenant).receive(id, f"a secret of {id} in {tenant}")
        key, other_key = [(await create_key(keep, tenant)).token for tenant in ("salon", "barber")]
        expired = await issue_token(keep, "salon", "ada", scopes=SCOPES, expires_in=0.001)
        revoked = await issue_token(keep, "salon", "ada", scopes=SCOPES)
        dead_key = await create_key(keep, "salon")
        await revoke(keep, "salon", "ada", revoked.id)
        await revoke_key(keep, dead_key.id)
        useless = {
            "nothing": {},
            "empty": {"Authorization": "Bearer "},
            "malformed": bearing("ck_c_0"),
            "mistyped": bearing(expired.token[:-1] + "~"),
            "unknown": bearing(make_credential("token")),
            "unknown key": bearing(make_credential("service")),
            "expired": bearing(expired.token),
            "revoked": bearing(revoked.token),
            "revoked key": bearing(dead_key.token),
            "a share": bearing(make_credential("share")),
            "another scheme": {"Authorization": f"Basic {key}"},
            "a cookie that is a key": {"Cookie": f"__Host-chatkeep={key}"},
            "in the query's place": {"X-Api-Key": key},
        }
        yield Place(keep, port, key, other_key, useless)


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    """A place over SQLite."""
    async with placed(f"sqlite:///{tmp_path}/chat.db") as found:
        yield found


def plain(answer: Answer, id: str) -> tuple[int, dict[str, str], bytes]:
    """What an answer says, but for its date, its number, and the id that was asked for."""
    headers = {name: value for name, value in answer.headers.items() if name not in ("date", "x-request-id")}
    headers.pop("content-length", None)
    return answer.status, headers, answer.body.replace(json.dumps(id, ensure_ascii=False).encode(), b'"..."')


@pytest.mark.parametrize("asked", ASKED, ids=lambda asked: asked.name)
async def test_without_credentials_that_count_it_is_401_whatever_the_id(place: Place, asked: Asked) -> None:
    """The same answer for what is there and what is not; a cookie or nothing makes a visitor, where one is let in."""
    policy = MATRIX[asked.name]
    if policy.anyone:
        return
    before = await place.all_of("ada")
    for name, headers in place.useless.items():
        answers = [await place.ask(asked, id, headers) for id in ("ada", "nobody")]

        if policy.visitor and "Authorization" not in headers:
            assert [201, 201] == [answer.status for answer in answers], name
            continue
        assert [401, 401] == [answer.status for answer in answers], name
        assert {"Bearer"} == {answer.headers["www-authenticate"] for answer in answers}, name
        assert plain(answers[0], "ada") == plain(answers[1], "nobody"), name
        assert "urn:chatkeep:unauthorized" == answers[0].json["type"]
    assert before == await place.all_of("ada")


@pytest.mark.parametrize("asked", ABOUT_ONE, ids=lambda asked: asked.name)
async def test_I9_anothers_conversation_is_as_if_it_were_not_there(place: Place, asked: Asked) -> None:
    """BOLA: with all scopes of one's own, every other id is 404, byte for byte what an absent one is."""
    token = await place.token(*SCOPES)
    before = await place.all_of("bob")
    others = [
        "bob",
        "nobody",
        "ad",
        "ada ",
        "Ada",
        "ada/",
        "/ada",
        "ada/../bob",
        "ada%2Fx",
        "ada\0",
        "salon/ada",
        "~",
        "äda",
    ]
    answers = [plain(await place.ask(asked, id, token), id) for id in others]

    assert [404] * len(others) == [answer[0] for answer in answers]
    assert [answers[0]] * len(others) == answers
    assert before == await place.all_of("bob")


@pytest.mark.parametrize("asked", ABOUT_ONE, ids=lambda asked: asked.name)
async def test_one_s_own_conversation_takes_the_scope(place: Place, asked: Asked) -> None:
    """Each scope opens what it names and nothing else; what is refused names the scope, or the key, that it takes."""
    policy = MATRIX[asked.name]
    for scope in sorted(SCOPES):
        before = await place.all_of("ada")
        answer = await place.ask(asked, "ada", await place.token(scope))
        allowed = policy.own or policy.scope == scope

        assert allowed == (answer.status not in (401, 403, 404)), (scope, answer)
        if not allowed:
            assert 403 == answer.status
            assert (policy.scope or "service key") in answer.json["detail"]
            assert before[0] == (await place.all_of("ada"))[0]
    almost = await place.ask(asked, "ada", await place.token(*SCOPES - {policy.scope}))
    assert policy.own == (almost.status not in (401, 403, 404)), almost


@pytest.mark.parametrize("asked", ASKED, ids=lambda asked: asked.name)
async def test_I9_a_service_key_has_its_tenant_and_no_other(place: Place, asked: Asked) -> None:
    """It is let in everywhere; what it does under a name touches only what its own tenant has under that name."""
    before = [await place.all_of("ada"), await place.all_of("bob")]
    for id in ("ada", "bob"):
        answer = await place.ask(asked, id, bearing(place.other_key))

        assert (answer.status in (401, 403)) == (asked.name in FOR_ALL), answer
        assert b"in salon" not in answer.body
    assert before == [await place.all_of("ada"), await place.all_of("bob")]
    own = await place.ask(asked, "ada", bearing(place.key))
    assert (own.status in (401, 403)) == (asked.name in FOR_ALL)


@pytest.mark.long
@pytest.mark.parametrize("asked", ASKED, ids=lambda asked: asked.name)
async def test_head_and_options_and_override_give_no_more(place: Place, asked: Asked) -> None:
    """HEAD is judged as GET, OPTIONS says nothing of what is there, and no header makes another method of one."""
    token = await place.token("read")
    heads = [await place.ask(Asked("HEAD", asked.path), id, {}) for id in ("ada", "nobody")]
    options = [await place.ask(Asked("OPTIONS", asked.path), id, {}) for id in ("ada", "nobody")]
    gets = MATRIX.get(f"GET {asked.path}")
    overridden = await place.ask(Asked("GET", asked.path), "ada", token | {"X-HTTP-Method-Override": asked.method})
    plainly = await place.ask(Asked("GET", asked.path), "ada", token)

    unknown = 405 if gets is None else 200 if gets.anyone else 401
    unknown = 404 if asked.path.startswith("/v1/session/oidc") else unknown  # there is no provider here
    assert [unknown] * 2 == [answer.status for answer in heads]
    assert [204, 204] == [answer.status for answer in options]
    assert plain(options[0], "ada") == plain(options[1], "nobody")
    assert plainly.status == overridden.status
