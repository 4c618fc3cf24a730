"""Who may use the routes of protocols, in the server and in other people's applications."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.routing import BaseRoute

from chatkeep import Chatkeep
from chatkeep.auth.credentials import create_key, issue_token
from chatkeep.server import create_app
from chatkeep.server.protocols import a2a, agui, aisdk, mcp, responses, sse
from chatkeep.server.protocols.answer_stream import name_answer
from chatkeep.server.settings import PROTOCOLS

from ...support.protocols import Bot, mounted, streamed
from ...support.serving import Answer, Client, served

SAID = {"id": "c1", "messages": [{"id": "m1", "role": "user", "parts": [{"type": "text", "text": "ada"}]}]}
SAME_ORIGIN = {"Sec-Fetch-Site": "same-origin"}


async def post(client: Client, headers: dict[str, str] | None = None, *, chat: str = "c1") -> Answer:
    """Posts to a chat, and reads the whole answer."""
    async with streamed(client, "POST", "/api/chat", SAID | {"id": chat}, headers) as answer:
        if answer.status == 200:
            await answer.rest()
        return Answer(answer.status, answer.headers, b"")


@pytest.mark.parametrize("protocol", [aisdk, agui, responses, a2a, mcp])
async def test_another_site_a_proxy_and_another_machine_are_strangers(protocol: Any) -> None:
    """Outside of the server nobody is asked for a credential on this machine; but only there, and no page of another site is."""
    bot = Bot()
    path = protocol.PATH
    async with mounted(bot, protocol.routes(bot.keep)) as client:
        refused = [
            await client.ask("POST", path, b"{}", headers)
            for headers in (
                {"Origin": "https://evil.example"},
                {"Host": "chat.example.com"},
                {"X-Forwarded-For": "127.0.0.1"},
                {"Sec-Fetch-Site": "cross-site"},
                {"Authorization": f"Bearer ck_k_{'a' * 49}"},
            )
        ]
        here = [
            await client.ask("POST", path, b"{}", headers)
            for headers in (
                {},
                {"Origin": "http://localhost:5173", "Sec-Fetch-Site": "cross-site"},
                {"Authorization": "Bearer some-key-of-another-service"},
            )
        ]

    assert [401] * 5 == [one.status for one in refused]
    assert {400, 200} >= {one.status for one in here}  # (JSON-RPC says 200 of an error)
    assert [] == bot.asked


async def test_an_application_decides_itself() -> None:
    """`authorize` names the tenant, or nobody; credentials and this machine count for nothing then."""
    bot = Bot()

    async def authorize(request: Request, conversation: str) -> str | None:
        return "salon-7" if request.headers.get("x-user") == conversation else None

    async with mounted(bot, aisdk.routes(bot.keep, authorize=authorize)) as client:
        mine, other = [(await post(client, {"X-User": user})).status for user in ("c1", "eve")]
        nobody = await client.ask("GET", "/api/chat/c1")
        there = await bot.keep.tenant("salon-7").conversation("c1")
        elsewhere = await bot.keep.conversation("c1")

    assert (200, 401, 401) == (mine, other, nobody.status)
    assert there is not None
    assert elsewhere is None


@pytest.mark.parametrize("given", [True, 7])
async def test_what_authorize_gives_is_a_tenant_or_nobody(given: Any) -> None:
    """True is no tenant: it is refused loudly, before anything is touched. A plain function may decide as well."""
    bot = Bot()
    wrong = aisdk.routes(bot.keep, authorize=lambda request, conversation: given)
    right = agui.routes(bot.keep, authorize=lambda request, conversation: None)
    async with mounted(bot, [*wrong, *right]) as client:
        answer = await client.ask("POST", "/api/chat", json.dumps(SAID).encode())
        nobody = await client.ask("POST", "/agui", b'{"threadId": "t", "runId": "r", "messages": []}')

        assert (500, 401) == (answer.status, nobody.status)
        assert await bot.keep.conversation("c1") is None


async def test_a_token_without_the_scope_sees_no_state() -> None:
    """Of an AG-UI run it gets the messages alone."""
    bot = Bot()
    async with served(bot.keep, protocols=["agui"]) as server:
        token = (await issue_token(bot.keep, "", "t1")).token
        said = {"threadId": "t1", "runId": "r", "messages": [{"id": "u1", "role": "user", "content": "ada"}]}
        async with streamed(Client(server.port, token), "POST", "/agui", said) as answer:
            kinds = [event["type"] for event in await answer.rest()]

    assert "MESSAGES_SNAPSHOT" in kinds
    assert "STATE_SNAPSHOT" not in kinds


async def test_who_may_only_send_is_shown_no_log_and_who_may_only_read_says_nothing() -> None:
    """By no protocol: neither in snapshots, nor by the tasks and responses to what others have said, whose names can be guessed."""
    bot = Bot()
    app = ("aisdk", "agui", "responses", "a2a", "durable_streams", "mcp")
    async with served(bot.keep, protocols=app) as client:
        await bot.keep.receive("c1", "the secret")
        named = name_answer("c1", 1)
        found = {}
        for scope in ("send", "read"):
            client.key = (await issue_token(bot.keep, "", "c1", scopes=(scope,))).token
            asked = {
                "GetTask": await rpc(client, "/a2a", "GetTask", id=f"task_{named}"),
                "ListTasks of a context": await rpc(client, "/a2a", "ListTasks", contextId="c1"),
                "ListTasks": await rpc(client, "/a2a", "ListTasks"),
                "tasks/result": await rpc(client, "/mcp", "tasks/result", taskId=f"task_{named}"),
                "response": await client.ask("GET", f"/v1/responses/resp_{named}"),
                "cancel": await client.ask("POST", f"/v1/responses/resp_{named}/cancel", b"{}"),
                "useChat": await client.ask("GET", "/api/chat/c1"),
                "stream": await client.ask("GET", "/streams/c1/messages?offset=-1"),
                "AG-UI": await client.ask("POST", "/agui", b'{"threadId":"c1","runId":"r","messages":[]}'),
            }
            found[scope] = {name for name, answer in asked.items() if b"the secret" in answer.body}
            refused = {name for name, answer in asked.items() if answer.status == 403}

    assert set() == found["send"]
    assert {"cancel", "AG-UI"} == refused
    assert {*asked} - refused == found["read"]


async def rpc(client: Client, path: str, method: str, **params: Any) -> Answer:
    """Call a method."""
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    return await client.ask("POST", path, json.dumps(body).encode(), {"A2A-Version": "1.0"})


async def test_a_right_that_ends_ends_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a token that is revoked in the middle of an answer."""
    monkeypatch.setattr(sse, "CHECK_S", 0.05)
    bot = Bot()
    async with served(bot.keep, protocols=["aisdk"]) as server:
        issued = await issue_token(bot.keep, "", "c1")
        bot.goes.clear()
        async with streamed(Client(server.port, issued.token), "POST", "/api/chat", SAID) as answer:
            await answer.next()
            gone = await server.ask("DELETE", f"/v1/conversations/c1/tokens/{issued.id}")
            rest = await answer.rest()
        bot.goes.set()

    assert 204 == gone.status
    assert "error" in [chunk["type"] for chunk in rest[:-1]]


async def test_a_message_in_the_journal_keeps_no_page_waiting(tmp_path: Path) -> None:
    """While the store is away the answer ends at once, and says that the message is kept."""
    bot = Bot("redis://127.0.0.1:1/0", on_outage="journal", journal=str(tmp_path / "journal"))
    async with mounted(bot, aisdk.routes(bot.keep)) as client, streamed(client, "POST", "/api/chat", SAID) as answer:
        chunks = await answer.rest()

    assert {"status": "journaled"} == next(one["data"] for one in chunks if one["type"] == "data-chatkeep")


async def test_chatkeeps_credentials_hold_in_other_applications() -> None:
    """A token for its conversation, a service key for its tenant's; from wherever they come."""
    bot = Bot()
    async with mounted(bot, aisdk.routes(bot.keep)) as client:
        token = (await issue_token(bot.keep, "", "c1")).token
        key = (await create_key(bot.keep, "salon-7")).token
        far = {"X-Forwarded-For": "203.0.113.9"}
        own = await post(client, far | {"Authorization": f"Bearer {token}"})
        others = await post(client, far | {"Authorization": f"Bearer {token}"}, chat="c2")
        tenants = await post(client, far | {"Authorization": f"Bearer {key}"})

        assert (200, 404, 200) == (own.status, others.status, tenants.status)
        assert await bot.keep.tenant("salon-7").conversation("c1") is not None
        assert await bot.keep.conversation("c2") is None


async def test_a_visitor_begins_chats_and_sees_no_others() -> None:
    """Where the server lets visitors in: a page of this host gets a cookie for each chat that it begins; an id alone is no right."""
    bot = Bot()
    async with served(bot.keep, anonymous=True, protocols=["aisdk"]) as server:
        visitor = Client(server.port, "")
        await bot.keep.receive("taken", "secret")
        first = await post(visitor, SAME_ORIGIN, chat="mine")
        cookie = first.headers["set-cookie"].partition(";")[0]
        held = SAME_ORIGIN | {"Cookie": cookie}
        again, second = await post(visitor, held, chat="mine"), await post(visitor, held, chat="mine too")
        taken = [await post(visitor, headers, chat="taken") for headers in (SAME_ORIGIN, held)]
        seen = [await visitor.ask("GET", f"/api/chat/{chat}", headers=held) for chat in ("mine", "taken")]
        resumed = [await visitor.ask("GET", f"/api/chat/{chat}/stream") for chat in ("taken", "nothing")]
        elsewhere = await post(visitor, chat="from a program")
        token = {"Authorization": f"Bearer {elsewhere.headers['chatkeep-token']}"}
        goes_on = await visitor.ask("GET", "/api/chat/from%20a%20program", headers=token)

    assert cookie != second.headers["set-cookie"].partition(";")[0]
    assert (200, 200, 200, [401, 401]) == (first.status, again.status, second.status, [one.status for one in taken])
    assert (2, 0) == (len(seen[0].json), len(seen[1].json))
    assert [204, 204] == [one.status for one in resumed]
    assert ("set-cookie" in elsewhere.headers, len(goes_on.json)) == (False, 2)


async def test_a_visitor_whose_first_message_is_refused_sends_another() -> None:
    """A refusal begins nothing and gives no token, so the same id can be used."""
    bot = Bot()
    async with served(bot.keep, anonymous=True, protocols=["aisdk"]) as server:
        visitor = Client(server.port, "")
        large = SAID | {"messages": [{"id": "m0", "role": "user", "parts": [{"type": "text", "text": "x" * 300_000}]}]}
        refused = await visitor.ask("POST", "/api/chat", json.dumps(large).encode(), SAME_ORIGIN)
        begun = await bot.keep.conversation("c1")
        taken = await post(visitor, SAME_ORIGIN)

    assert (413, False, None) == (refused.status, "set-cookie" in refused.headers, begun)
    assert (200, True) == (taken.status, "set-cookie" in taken.headers)


async def test_a_chatkeep_that_is_not_open_says_so(caplog: pytest.LogCaptureFixture) -> None:
    """500 with what to do, and the lines for it in the log, once."""
    bot = Bot()
    async with mounted(Bot(), aisdk.routes(bot.keep)) as client:
        answers = [await client.ask("POST", "/api/chat", json.dumps(SAID).encode()) for _ in range(2)]

    assert [500, 500] == [one.status for one in answers]
    assert b"has to open it in its own lifespan" in answers[0].body
    assert 1 == len([line for line in caplog.records if line.levelname == "CRITICAL"])


def routes_of(protocols: Any) -> list[BaseRoute]:
    """The routes that protocols add to the server."""
    keep: Chatkeep[Any] = Chatkeep("memory://")
    plain = {getattr(route, "path", "") for route in create_app(keep).routes}
    return [one for one in create_app(keep, protocols=protocols).routes if getattr(one, "path", "") not in plain]


@pytest.mark.parametrize("protocol", [aisdk, agui, responses, a2a, mcp])
async def test_an_address_may_end_with_a_slash(protocol: Any) -> None:
    """As clients write it that are given a base address; they follow no redirect of a POST."""
    bot = Bot()
    async with mounted(bot, protocol.routes(bot.keep)) as client:
        plain, slash = [await client.ask("POST", path, b"{}") for path in (protocol.PATH, f"{protocol.PATH}/")]

    assert 404 != plain.status
    assert (plain.status, plain.body) == (slash.status, slash.body)


def test_every_route_declares_who_may_use_it() -> None:
    """None but an agent's card lets anybody in."""
    found = [route for route in routes_of(PROTOCOLS) if route.path != a2a.CARD]  # type: ignore[attr-defined]

    assert len(found) > len(PROTOCOLS)
    for route in found:
        policy = getattr(route.endpoint, "policy", None)  # type: ignore[attr-defined]

        assert getattr(policy, "scope", None) in ("read", "send"), route


async def test_open_requests_are_counted_and_given_back() -> None:
    """Else a token would be refused for ever after so many answers."""
    bot = Bot()
    async with served(bot.keep, protocols=["aisdk"]) as client:
        token = {"Authorization": f"Bearer {(await issue_token(bot.keep, '', 'c1')).token}"}
        statuses = {(await client.ask("GET", "/api/chat/c1", headers=token)).status for _ in range(40)}

    assert {200} == statuses
