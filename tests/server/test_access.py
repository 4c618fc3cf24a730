"""Who may do what (I9), over real servers: whose conversation, which subject, and what no client should try."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from chatkeep.auth.credentials import SCOPES, create_key, issue_token
from chatkeep.auth.format import make_credential, name_of

from ..support.salon import ADA, COOKIE, House, housed, with_cookie
from ..support.waiting import until


async def test_a_key_opens_its_own_tenant_only(house: House) -> None:
    """What another tenant has under the same name cannot be seen, and is not there for it."""
    other = (await create_key(house.keep, "barber", label="ci")).token
    await house.ask("POST", f"{ADA}/messages", {"content": "hello"}, token=house.key)

    assert [200, 404] == [await house.may(house.key, ADA), await house.may(other, ADA)]
    assert [] == (await house.ask("GET", "/v1/conversations", token=other)).json["conversations"]
    token = await house.token()
    id = str(name_of(token))[:16]
    assert 404 == (await house.ask("DELETE", f"{ADA}/tokens/{id}", token=other)).status
    assert 404 == (await house.ask("GET", f"{ADA}/tokens", token=other)).status


async def me(house: House, token: str) -> dict[str, Any]:
    """What a credential is told of itself."""
    answer = await house.ask("GET", "/v1/me", token=token)
    assert 200 == answer.status, answer.body
    return dict(answer.json)


async def test_a_credential_is_told_what_it_is(house: House) -> None:
    """Kind, tenant, scopes, conversation and end; the subject is opaque and tells nobody's name."""
    unnamed = await me(house, await house.token("read", "send", expires_in=1000))
    named = await me(house, await house.token("read", subject="ada@example.com", label="her telephone"))
    service = await me(house, house.key)
    visitor = await me(house, (await house.ask("POST", "/v1/conversations", {})).json["token"])

    assert ("holder", "salon", "ada", ["read", "send"]) == tuple(
        unnamed[name] for name in ("kind", "tenant", "conversation", "scopes")
    )
    assert 990 < unnamed["expires_at"] - time.time() < 1001
    assert ("user", "salon", "ada") == (named["kind"], named["tenant"], named["conversation"])
    assert not {"ada@", "telephone"} & set(re.findall(r"ada@|telephone", json.dumps(named)))
    assert ("service", "salon", None, sorted(SCOPES)) == (
        service["kind"],
        service["tenant"],
        service["expires_at"],
        service["scopes"],
    )
    assert "conversation" not in service
    assert ("visitor", "", ["read", "send", "share"]) == (visitor["kind"], visitor["tenant"], visitor["scopes"])
    for told in (unnamed, named, service, visitor):
        assert {"subject", "tenant", "kind", "scopes", "expires_at"} <= told.keys() <= {*unnamed, "rights"}
        assert re.fullmatch("[0-9a-f]{32}", told["subject"])


async def test_a_subject_is_one_holder_and_no_other(house: House) -> None:
    """The same for each token of one user, after a rotation, for each key of a tenant; another for everybody else."""
    other = (await create_key(house.keep, "barber")).token
    maker = await house.token("read", "share")
    mine = [
        [await house.token("read", subject="ada"), await house.token("send", subject="ada", conversation="bob")],
        [maker, await house.token("send"), (await issue_token(house.keep, "salon", "ada")).token],
        [(await house.redeem(await house.share(maker))).json["token"]],
        [(await house.redeem(await house.share(maker))).json["token"]],
        [(await house.ask("POST", "/v1/conversations", {})).json["token"]],
        [(await house.ask("POST", "/v1/conversations", {})).json["token"]],
        [house.key, (await create_key(house.keep, "salon")).token],
        [other],
        [await house.token("read", subject="bob")],
        [await house.token("read", conversation="bob")],
        [(await issue_token(house.keep, "barber", "ada")).token],
        [(await issue_token(house.keep, "barber", "ada", subject="ada")).token],
        [(await issue_token(house.keep, "salon", "x", subject="conversation")).token],
    ]
    for tokens, path in ((mine[0], ADA), (mine[1], ADA), (mine[2], ADA)):
        rotated = await house.ask("POST", f"{path}/tokens/current/rotate", {}, token=tokens[0])
        tokens.append(rotated.json["token"])
    subjects = [{(await me(house, token))["subject"] for token in tokens} for tokens in mine]

    assert [1] * len(mine) == [len(found) for found in subjects]
    assert len(mine) == len(set.union(*subjects))


async def test_a_request_that_names_another_subject_does_nothing(house: House) -> None:
    """Chatkeep-Subject is held against the credential that came with it, a cookie too, before anything is done."""
    token, path = await house.token("read", "send"), f"{ADA}/messages"
    mine, theirs = (await me(house, token))["subject"], (await me(house, house.key))["subject"]
    cookie, begun = await with_cookie(house)
    own = {"Cookie": cookie, "Sec_Fetch_Site": "same-origin"}
    visitor = (await house.ask("GET", "/v1/me", **own)).json["subject"]
    hers = f"/v1/conversations/{begun.json['id']}/messages"
    answers = [
        await house.ask("POST", path, {"content": "hello"}, token=token, Chatkeep_Subject=subject)
        for subject in (theirs, "x", mine)
    ] + [
        await house.ask("POST", hers, {"content": "hi"}, **own, Chatkeep_Subject=subject) for subject in (mine, visitor)
    ]

    assert [401, 401, 200, 401, 200] == [answer.status for answer in answers]
    assert ["urn:chatkeep:other-subject"] * 2 == [answers[0].json["type"], answers[3].json["type"]]
    assert 1 == len((await house.ask("GET", hers, **own)).json["messages"]) - 1
    assert ["hello"] * 2 == [
        message["content"] for message in (await house.ask("GET", path, token=token)).json["messages"]
    ]


async def test_visitors_are_let_in_only_where_they_are_meant_to_be(tmp_path: Path) -> None:
    """By default nobody is; a visitor gets the scopes that were set."""
    async with housed(f"sqlite:///{tmp_path}/a.db") as house:
        assert 401 == (await house.ask("POST", "/v1/conversations", {})).status
    async with housed(f"sqlite:///{tmp_path}/b.db", anonymous=True, visitor_scopes=["read"]) as house:
        made = (await house.ask("POST", "/v1/conversations", {})).json
        path = f"/v1/conversations/{made['id']}/messages"
        assert ["read"] == made["scopes"]
        assert 200 == await house.may(made["token"], path)
        assert 403 == (await house.ask("POST", path, {"content": "x"}, token=made["token"])).status
        assert 401 == (await house.ask("GET", path)).status
        assert 401 == (await house.ask("POST", "/v1/conversations", {}, token=make_credential("token"))).status


async def test_a_stream_ends_with_its_token(tmp_path: Path) -> None:
    """Within five seconds, also on another instance than the one that ended the token."""
    url = f"sqlite:///{tmp_path}/chat.db"
    async with AsyncExitStack() as stack:
        one, two = [await stack.enter_async_context(housed(url)) for _ in range(2)]
        token = await one.token()
        reader, writer = await asyncio.open_connection("127.0.0.1", two.client.port)
        writer.write(
            f"GET {ADA}/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n".encode()
        )
        assert b"HTTP/1.1 200" == (await reader.readuntil(b"retry: "))[:12]
        await one.ask("DELETE", f"{ADA}/tokens/current", token=token)
        async with asyncio.timeout(5.0):
            rest = await reader.read()
        writer.close()

    assert b'event: end\ndata: {"reason":"revoked"}' in rest


async def test_a_turn_that_runs_is_finished_when_its_token_ends(tmp_path: Path) -> None:
    """What was let in is done to the end, and told; what comes after is not let in."""
    async with housed(f"sqlite:///{tmp_path}/chat.db", settings={"quick": "0ms"}) as house:
        token = await house.token()
        asked = asyncio.create_task(house.ask("POST", f"{ADA}/messages", {"content": "slowly"}, token=token))
        await until(lambda: house.keep._engine.statistics.workers)
        await house.ask("DELETE", f"{ADA}/tokens/current", token=token)
        answer = await asked

        assert (200, "slowly") == (answer.status, answer.json["replies"][0]["content"])
        assert 401 == (await house.ask("POST", f"{ADA}/messages", {"content": "more"}, token=token)).status


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (f"{ADA}/tokens", {"tenant": "barber"}),
        (f"{ADA}/tokens", {"kind": "service"}),
        (f"{ADA}/tokens", {"id": "0" * 16}),
        (f"{ADA}/tokens", {"scopes": ["admin"]}),
        (f"{ADA}/tokens", {"scopes": "read"}),
        (f"{ADA}/tokens", {"expires_in": -1}),
        (f"{ADA}/tokens", {"expires_in": 1e18}),
        (f"{ADA}/tokens", {"expires_in": "60"}),
        (f"{ADA}/tokens", {"label": "x" * 201}),
        (f"{ADA}/tokens", []),
        (f"{ADA}/shares", {"conversation": "bob"}),
        (f"{ADA}/shares", {"uses": 0}),
        (f"{ADA}/shares", {"uses": 10**9}),
        (f"{ADA}/shares", {"until": 1e10}),
        (f"{ADA}/tokens/current/rotate", {"scopes": ["erase"]}),
        (f"{ADA}/tokens/current/rotate", {"grace": 1e6}),
        ("/v1/shares/redeem", {"share": "x", "scopes": ["erase"]}),
        ("/v1/shares/redeem", {}),
    ],
)
async def test_nobody_sets_what_is_not_theirs_to_set(house: House, path: str, body: Any) -> None:
    """Mass assignment: a member that is not asked for, or not in its bounds, is refused, and nothing is made."""
    before = await house.keep._engine.store.rows("key", tenant="~access")
    answer = await house.ask("POST", path, body, token=house.key)

    assert 400 == answer.status, answer.body
    assert [row.key for row in before] == [
        row.key for row in await house.keep._engine.store.rows("key", tenant="~access")
    ]


async def test_no_other_way_to_ask_is_a_way_around(house: House) -> None:
    """Overriding headers, HEAD, trailing slashes, ids encoded once too often, and ids in other places."""
    token = await house.token()
    await house.ask("POST", "/v1/conversations/bob/messages", {"content": "secret"}, token=house.key)

    async def told(method: str, path: str, **headers: str) -> int:
        return (await house.ask(method, path, token=token, **headers)).status

    assert 403 == await told("DELETE", ADA)
    for header in ("X_HTTP_Method_Override", "X_HTTP_Method", "X_Method_Override"):
        assert 200 == await told("GET", ADA, **{header: "DELETE"})
        assert 405 == await told("POST", f"{ADA}?_method=DELETE", **{header: "DELETE"})
    raw = f"HEAD {ADA}/messages HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", house.client.port)
    writer.write(raw.encode())
    assert b"HTTP/1.1 401" == (await reader.readline())[:12]
    writer.close()
    for path in (
        "/v1/conversations/bob/messages",
        "/v1/conversations/%62ob/messages",
        "/v1/conversations/ada%2F..%2Fbob/messages",
        "/v1/conversations/ada/../bob/messages",
        "/v1/conversations/ada%2f/messages",
        "/v1/conversations/ada//messages",
        "/v1/conversations/%2561da/messages",
        "/v1/conversations/bob/messages/",
        "/v1/conversations/ada/messages/",
        "/v1//conversations/bob/messages",
        "/v1/conversations/bob/messages?id=ada",
        "/v1/conversations/ada%00/messages",
    ):
        assert 404 == await told("GET", path), path
        assert 404 == await told("GET", path, X_Original_URL=f"{ADA}/messages", X_Rewrite_URL=f"{ADA}/messages"), path
    assert 200 == await told("GET", "/v1/conversations/%61da/messages")
    assert 204 == await told("OPTIONS", f"{ADA}/messages")


async def test_the_host_header_decides_nothing(house: House) -> None:
    """A Host that bends request.url does not bend what is asked for."""
    token = await house.token()
    for host in ("127.0.0.1/v1/conversations/ada/messages?", "127.0.0.1#", "127.0.0.1/ada?x="):
        answer = await house.ask("GET", "/v1/conversations/bob/messages", token=token, Host=host)

        assert answer.status in (400, 404)


@pytest.fixture
def everything_logged(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """All that any logger says, the server's own too."""
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, "chatkeep")
    return caplog


async def test_no_credential_leaks(house: House, everything_logged: pytest.LogCaptureFixture) -> None:
    """Not into a log, an error's body or a header, whatever goes wrong with it."""
    servers = [logging.getLogger(name) for name in ("uvicorn.access", "uvicorn.error", "uvicorn.asgi")]
    for server in servers:
        server.setLevel(logging.DEBUG)
        server.addHandler(everything_logged.handler)
    try:
        token = await house.token("read", "share")
        share = await house.share(token)
        wrong = token[:-1] + ("0" if token[-1] != "0" else "1")
        unknown = make_credential("token")
        answers = [
            await house.ask(method, path, body, token=credential_, **headers)
            for credential_ in (token, wrong, unknown, house.key, share)
            for method, path, body, headers in (
                ("GET", f"{ADA}/messages", None, {}),
                ("GET", f"{ADA}/messages/", None, {}),
                ("GET", f"{ADA}/messages?limit=x", None, {}),
                ("GET", "/v1/conversations/bob", None, {}),
                ("POST", f"{ADA}/messages", {"content": 1}, {}),
                ("POST", f"{ADA}/tokens", {"token": credential_}, {}),
                ("GET", ADA, None, {"Host": "evil.example"}),
                ("GET", "/readyz", None, {}),
                ("PATCH", "/", None, {}),
                ("GET", f"{ADA}/messages", None, {"Cookie": f"{COOKIE}={credential_}"}),
            )
        ]
        answers += [await house.redeem(wrong), await house.redeem(unknown)]
    finally:
        for server in servers:
            server.removeHandler(everything_logged.handler)
            server.setLevel(logging.CRITICAL)

    said = "\n".join(f"{record.getMessage()} {record.__dict__}" for record in everything_logged.records)
    assert f"{ADA}/messages" in said, "nothing was logged, so nothing was shown"
    for secret in (token, wrong, unknown, house.key, share):
        assert secret[5:40] not in said
        for answer in answers:
            assert secret[5:40] not in str(answer.headers)
            if b'"token"' not in answer.body:
                assert secret[5:40].encode() not in answer.body
