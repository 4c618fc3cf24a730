"""Who may do what (I9): credentials, tokens, shares and keys, over real servers."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.routing import Mount

from chatkeep import Chatkeep, Turn
from chatkeep.auth.credentials import (
    DIGITS,
    SCOPES,
    create_key,
    credential,
    forget,
    issue_token,
    list_keys,
    list_tokens,
    name_of,
    revoke,
    revoke_key,
    stored_credentials,
)
from chatkeep.errors import Unavailable
from chatkeep.server import create_app
from chatkeep.server.known_credentials import KnownCredentials

from ..support.serving import Answer, Client, served, serving
from ..support.stores import FAST
from ..support.waiting import nothing_happens_for, takes, time_passes, until

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


@pytest.fixture
async def clock() -> Clock:
    """A clock that a test can put forward."""
    return Clock()


@pytest.fixture
async def house(tmp_path: Path, clock: Clock) -> AsyncIterator[House]:
    """A house over SQLite that lets visitors in."""
    async with housed(f"sqlite:///{tmp_path}/chat.db", clock=clock, anonymous=True) as found:
        yield found


# -- credentials ------------------------------------------------------------------------------------------------------------


@given(st.sampled_from(["service", "token", "share"]), st.integers(0, 53), st.sampled_from(DIGITS))
def test_a_typo_is_seen_without_a_look_up(kind: Any, place: int, letter: str) -> None:
    """One letter that is wrong, anywhere, and it names no stored."""
    text = credential(kind)
    wrong = text[:place] + letter + text[place + 1 :]

    assert name_of(text) is not None
    assert (name_of(wrong) is None) == (wrong != text)


def test_a_credential_is_256_random_bits() -> None:
    """43 letters of 62 hold them; no two are the same, and each kind is told by its prefix."""
    made = [credential("token") for _ in range(1000)]

    assert {"ck_c_"} == {text[:5] for text in made}
    assert {54} == {len(text) for text in made}
    assert 1000 == len({text[5:48] for text in made})
    assert 62**43 > 2**256
    assert ["ck_k_", "ck_h_"] == [credential("service")[:5], credential("share")[:5]]


@pytest.mark.parametrize(
    "text", ["", "ck_c_", "ck_x_" + "0" * 49, "Bearer", "ck_c_" + "é" * 49, "0" * 100_000, "\udcff" * 9]
)
def test_what_is_no_credential_names_no_grant(text: str) -> None:
    """Whatever is sent."""
    assert name_of(text) is None


async def test_the_store_holds_no_credential(house: House, tmp_path: Path) -> None:
    """Not in any file of it: only the SHA-256."""
    token = await house.token()
    share = (await house.ask("POST", f"{ADA}/shares", {}, token=house.key)).json["share"]
    # By another process: this one may not open the files of its store.
    held = subprocess.run(["cat", *map(str, tmp_path.iterdir())], capture_output=True, check=True).stdout

    for secret in (token, share, house.key):
        assert secret[5:40].encode() not in held
        assert str(name_of(secret)).encode() in held


# -- tokens -----------------------------------------------------------------------------------------------------------------


async def test_a_token_works_and_ends_on_every_instance(url: str) -> None:
    """Made on one, used on the other; ended on one, and refused by both: here at once, there within two seconds."""
    async with AsyncExitStack() as stack:
        one, two = [await stack.enter_async_context(housed(url)) for _ in range(2)]
        token = await one.token("read", "send", label="the phone")

        assert [200, 200] == [await one.may(token), await two.may(token)]
        listed = (await two.ask("GET", f"{ADA}/tokens", token=two.key)).json["tokens"]
        assert ["the phone"] == [found["label"] for found in listed]
        ended = await one.ask("DELETE", f"{ADA}/tokens/{listed[0]['id']}", token=one.key)
        began = time.monotonic()
        assert 204 == ended.status
        assert 401 == await one.may(token)

        async def refused() -> bool:
            return await two.may(token) == 401

        await until(refused, within=2.0)
        assert time.monotonic() - began < 2.0
        listed = (await two.ask("GET", f"{ADA}/tokens", token=two.key)).json["tokens"]
        assert [True] == [found["revoked"] for found in listed]


async def test_a_token_is_shown_once(house: House) -> None:
    """The list has what it is for, not what it is."""
    answer = await house.ask("POST", f"{ADA}/tokens", {"label": "phone", "expires_in": 60}, token=house.key)
    listed = (await house.ask("GET", f"{ADA}/tokens", token=house.key)).json["tokens"]

    assert {"id", "token", "scopes", "expires_at", "label"} == set(answer.json)
    assert ["read", "send"] == answer.json["scopes"]
    assert [answer.json["id"]] == [found["id"] for found in listed]
    assert ("token", "phone", False) == tuple(listed[0][name] for name in ("kind", "label", "revoked"))
    assert answer.json["token"].encode() not in json.dumps(listed).encode()


async def test_a_token_ends_in_time(house: House, clock: Clock) -> None:
    """To the second, whatever is cached."""
    token = await house.token(expires_in=60)

    assert 200 == await house.may(token)
    clock.ahead = 61
    assert 401 == await house.may(token)


async def test_a_token_can_end_itself_and_no_other(house: House) -> None:
    """By "current" or its own id; another's id says nothing of whether it exists."""
    mine, other = await house.token(), await house.token()
    ids = {found.id: found for found in await list_tokens(house.keep, "salon", "ada")}
    theirs = str(name_of(other))[:16]

    answers = [await house.ask("DELETE", f"{ADA}/tokens/{id}", token=mine) for id in (theirs, "0" * 16)]
    assert theirs in ids
    assert [403, 403] == [answer.status for answer in answers]
    assert answers[0].body == answers[1].body
    assert 204 == (await house.ask("DELETE", f"{ADA}/tokens/current", token=mine)).status
    assert [401, 200] == [await house.may(mine), await house.may(other)]


async def test_ending_twice_is_fine_and_a_wrong_id_is_told(house: House) -> None:
    """A key that mistypes an id must not believe that the token has ended."""
    id = str(name_of(await house.token()))[:16]
    path = f"{ADA}/tokens/"

    assert [204, 204] == [(await house.ask("DELETE", path + id, token=house.key)).status for _ in range(2)]
    for wrong in ("0" * 16, "current", id[:8], "ada"):
        assert 404 == (await house.ask("DELETE", path + wrong, token=house.key)).status
    bobs = str(name_of(await house.token(conversation="bob")))[:16]
    assert 404 == (await house.ask("DELETE", path + bobs, token=house.key)).status


async def test_rotation_leaves_the_old_token_its_grace(house: House, clock: Clock) -> None:
    """Both work meanwhile; then only the new one, with the same scopes and the same end."""
    old = await house.token("read", "share", expires_in=1000)
    answer = await house.ask("POST", f"{ADA}/tokens/current/rotate", {"grace": 30}, token=old)
    new = answer.json["token"]
    listed = (await house.ask("GET", f"{ADA}/tokens", token=house.key)).json["tokens"]
    ends = {found["id"]: found["expires_at"] for found in listed}

    assert 201 == answer.status
    assert ["read", "share"] == answer.json["scopes"]
    assert [200, 200] == [await house.may(old), await house.may(new)]
    assert answer.json["expires_at"] == ends[answer.json["id"]]
    clock.ahead = 31
    assert 200 == await house.may(new)
    clock.ahead = 1001
    assert [401, 401] == [await house.may(new), await house.may(old)]


async def test_an_old_token_cannot_be_rotated_again(house: House) -> None:
    """Else whoever stole it could go on with it for ever; of many at once, one wins."""
    old = await house.token()
    path = f"{ADA}/tokens/current/rotate"
    answers = await asyncio.gather(*[house.ask("POST", path, {"grace": 60}, token=old) for _ in range(8)])
    statuses = sorted(answer.status for answer in answers)

    assert [201, *[409] * 7] == statuses
    assert 409 == (await house.ask("POST", path, token=old)).status
    assert 2 == len(await list_tokens(house.keep, "salon", "ada"))


async def test_ending_a_token_ends_what_it_was_rotated_from_and_what_it_has_shared(house: House) -> None:
    """The old one's grace and an open share would else outlive it."""
    old = await house.token("read", "share")
    new = (await house.ask("POST", f"{ADA}/tokens/current/rotate", {}, token=old)).json["token"]
    share, other = await house.share(new), await house.token()

    assert 204 == (await house.ask("DELETE", f"{ADA}/tokens/current", token=new)).status
    assert [401, 401, 200] == [await house.may(old), await house.may(new), await house.may(other)]
    assert 404 == (await house.redeem(share)).status


async def test_the_last_use_is_noted_coarsely(house: House, clock: Clock, tmp_path: Path) -> None:
    """Once an hour and behind the answer; the second use writes nothing, on no instance."""
    token = await house.token()

    async def used() -> float | None:
        return (await list_tokens(house.keep, "salon", "ada"))[0].last_used_at

    async def revisions() -> list[str]:
        rows = await house.keep._engine.store.rows("key", tenant="~access")
        return [row.revision for row in rows if row.key.id == name_of(token)]

    assert await used() is None
    await house.may(token)
    await until(used)
    before = await revisions()
    clock.ahead = 3000
    await house.may(token)
    async with housed(f"sqlite:///{tmp_path}/chat.db", clock=clock) as other:
        await other.may(token)
        await nothing_happens_for(0.1)
    assert before == await revisions()


async def test_noting_a_last_use_brings_no_grant_back(house: House) -> None:
    """One that was erased while its use was being noted stays erased."""
    name = str(name_of(await house.token()))
    held = await stored_credentials(house.keep).get(name)
    assert held is not None
    await forget(house.keep, "salon", "ada")
    known = KnownCredentials(house.keep)
    known.note_use(name, held)
    await until(lambda: not [task for task in asyncio.all_tasks() if task.get_name() == "chatkeep access"])

    assert await stored_credentials(house.keep).get(name) is None


async def test_a_busy_token_costs_one_read_a_second(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those who come at once wait for the same look."""
    token, reads = await house.token(), []
    driver = house.keep._engine.store.driver
    read = driver.read

    async def counting(act: Any) -> Any:
        reads.append(act.key)
        return await read(act)

    await house.may(token)
    await until(lambda: not [task for task in asyncio.all_tasks() if task.get_name() == "chatkeep access"])
    await time_passes(1.1)
    monkeypatch.setattr(driver, "read", counting)
    answers = await asyncio.gather(*[house.may(token) for _ in range(40)])

    assert [200] * 40 == answers
    assert 1 == len([key for key in reads if key.tenant == "~access"])


async def test_without_a_store_nobody_is_let_in_or_turned_away(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """503: a token that cannot be looked at is neither good nor bad, and is looked at again when the store is back."""
    token = await house.token()
    driver = house.keep._engine.store.driver

    async def away(act: Any) -> Any:
        raise Unavailable("away")

    with monkeypatch.context() as patched:
        patched.setattr(driver, "read", away)
        answers = [await house.ask("GET", f"{ADA}/messages", token=token) for _ in range(2)]
    assert [503, 503] == [answer.status for answer in answers]

    async def is_let_in() -> bool:
        return await house.may(token) == 200

    await until(is_let_in)  # the store is left alone for a moment where a sweep has met its absence too


# -- keys -------------------------------------------------------------------------------------------------------------------


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


async def test_keys_are_listed_expire_and_are_revoked(house: House, clock: Clock) -> None:
    """The functions behind `chatkeep key`."""
    made = await create_key(house.keep, "salon", label="ci", expires_in=60)
    listed = {found.id: found for found in await list_keys(house.keep)}
    last = await create_key(house.keep, "salon")

    assert ("service", "salon", "ci", False) == (
        listed[made.id].kind,
        listed[made.id].tenant,
        listed[made.id].label,
        listed[made.id].revoked,
    )
    assert 200 == await house.may(made.token, "/v1/conversations")
    clock.ahead = 61
    assert 401 == await house.may(made.token, "/v1/conversations")
    assert await revoke_key(house.keep, last.id)
    assert await revoke_key(house.keep, last.id)
    assert not await revoke_key(house.keep, "0" * 16)
    assert 401 == await house.may(last.token, "/v1/conversations")
    assert made.token not in repr(made)


# -- who it is ---------------------------------------------------------------------------------------------------------------


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


# -- shares -----------------------------------------------------------------------------------------------------------------


async def test_a_share_becomes_a_token_once(house: House) -> None:
    """Of many who redeem it at once, one gets a token; afterwards it is as if it had never been."""
    maker = await house.token("read", "send", "share")
    share = await house.share(maker)
    answers = await asyncio.gather(*[house.redeem(share) for _ in range(8)])
    [won] = [answer for answer in answers if answer.status == 201]
    unknown = await house.redeem(credential("share"))

    assert [201, *[404] * 7] == sorted(answer.status for answer in answers)
    assert ("ada", ["read", "send"]) == (won.json["id"], won.json["scopes"])
    assert 200 == await house.may(won.json["token"])
    assert unknown.body == (await house.redeem(share)).body
    for wrong in (maker, house.key, "", "x"):
        assert 404 == (await house.redeem(wrong)).status
    assert 401 == await house.may(share)


async def test_a_share_has_its_uses_and_its_time(house: House, clock: Clock) -> None:
    """Two uses are two tokens; after ten minutes there is nothing left."""
    maker = await house.token("read", "share")
    twice, late = await house.share(maker, uses=2), await house.share(maker)
    answer = await house.ask("POST", f"{ADA}/shares", {}, token=maker)

    assert f"/#share={answer.json['share']}" == answer.json["url"]
    assert [201, 201, 404] == [(await house.redeem(twice)).status for _ in range(3)]
    clock.ahead = 601
    assert 404 == (await house.redeem(late)).status


async def test_a_share_gives_no_more_than_its_maker_has(house: House) -> None:
    """Neither in scopes nor in time; by default what both the maker and a plain token have."""
    maker = await house.token("read", "share", "state:read", expires_in=300)
    refused = await house.ask("POST", f"{ADA}/shares", {"scopes": ["read", "send"]}, token=maker)
    plain = (await house.redeem(await house.share(maker, expires_in=3600))).json
    more = (await house.redeem(await house.share(maker, scopes=["state:read"]))).json
    long = await house.ask("POST", f"{ADA}/shares", {"expires_in": 3600}, token=maker)

    assert (403, True) == (refused.status, "'send'" in refused.json["detail"])
    assert ["read"] == plain["scopes"]
    assert ["state:read"] == more["scopes"]
    assert max(plain["expires_at"], long.json["expires_at"]) <= time.time() + 300
    assert 403 == (await house.ask("POST", f"{ADA}/shares", {}, token=plain["token"])).status


async def test_a_token_that_was_revoked_elsewhere_leaves_no_share(house: House) -> None:
    """Not even in the second in which it still passes here: a share made then would outlive it."""
    token = await house.token("read", "share")
    assert 200 == await house.may(token)
    await revoke(house.keep, "salon", "ada", str(name_of(token))[:16])
    answer = await house.ask("POST", f"{ADA}/shares", {}, token=token)

    assert 401 == answer.status
    assert ["token"] == [found.kind for found in await list_tokens(house.keep, "salon", "ada")]


# -- cookie -----------------------------------------------------------------------------------------------------------------


async def with_cookie(house: House, **headers: str) -> tuple[str, Answer]:
    """A conversation whose token a page of this host was given in the cookie."""
    answer = await house.ask(
        "POST", "/v1/conversations", {"cookie": True}, **(headers or {"Sec_Fetch_Site": "same-origin"})
    )
    return answer.headers.get("set-cookie", "").partition(";")[0], answer


async def test_the_cookie_is_out_of_reach_of_scripts_and_other_hosts(house: House) -> None:
    """And what is in it is not in the body."""
    cookie, answer = await with_cookie(house)
    attributes = {part.strip().lower() for part in answer.headers["set-cookie"].split(";")[1:]}

    assert 201 == answer.status
    assert cookie.startswith(f"{COOKIE}=ck_c_")
    assert {"httponly", "secure", "samesite=lax", "path=/"} <= attributes
    assert [] == [part for part in attributes if part.startswith("domain")]
    assert b"ck_c_" not in answer.body
    messages = f"/v1/conversations/{answer.json['id']}/messages"
    assert 200 == (await house.ask("GET", messages, Cookie=cookie)).status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec_Fetch_Site": "same-origin"}, 200),
        ({"Origin": "http://127.0.0.1:{port}"}, 200),
        ({}, 403),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Sec_Fetch_Site": "same-site"}, 403),
        ({"Sec_Fetch_Site": "none"}, 403),
        ({"Sec_Fetch_Site": "cross-site", "Origin": "http://127.0.0.1:{port}"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://127.0.0.1"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://[x]y"}, 403),
        ({"Origin": "http://["}, 403),
        ({"Origin": "http://127.0.0.1:{port}.evil.example"}, 403),
        ({"Origin": "http://evil@127.0.0.1:{port}"}, 403),
        ({"Referer": "http://127.0.0.1:{port}/"}, 403),
    ],
)
async def test_the_cookie_is_not_used_behind_its_owners_back(
    house: House, headers: dict[str, str], status: int
) -> None:
    """CSRF: what changes something must come from a page of this host, and a cookie is set only for one."""
    cookie, answer = await with_cookie(house)
    id = answer.json["id"]
    told = {name: value.format(port=house.client.port) for name, value in headers.items()}
    posted = await house.ask("POST", f"/v1/conversations/{id}/messages", {"content": "x"}, Cookie=cookie, **told)
    share = (
        await house.ask("POST", f"/v1/conversations/{id}/shares", {}, Cookie=cookie, Sec_Fetch_Site="same-origin")
    ).json
    redeemed = await house.ask("POST", "/v1/shares/redeem", {"share": share["share"], "cookie": True}, **told)

    assert status == posted.status
    assert (201 if status == 200 else 403) == redeemed.status
    assert (status == 200) == ("set-cookie" in redeemed.headers)
    assert (404 if status == 200 else 201) == (await house.redeem(share["share"])).status, "a refusal costs no use"


async def test_a_cookie_from_before_does_not_survive(house: House) -> None:
    """Fixation: whoever has planted a token in somebody's browser does not get into what is begun or joined there."""
    planted = await house.token()
    share = await house.share(await house.token("read", "share"))
    joined = await house.ask(
        "POST",
        "/v1/shares/redeem",
        {"share": share, "cookie": True},
        Cookie=f"{COOKIE}={planted}",
        Sec_Fetch_Site="same-origin",
    )
    stale = await house.ask(
        "POST",
        "/v1/conversations",
        {"cookie": True},
        Cookie=f"{COOKIE}={credential('token')}",
        Sec_Fetch_Site="same-origin",
    )

    assert [201, 201] == [joined.status, stale.status]
    assert re.match(rf"{COOKIE}-\w+-\w+=ck_c_", joined.headers["set-cookie"])
    assert stale.headers["set-cookie"].startswith(f"{COOKIE}=ck_c_")
    assert planted not in joined.headers["set-cookie"] + stale.headers["set-cookie"]
    refused = await house.ask(
        "POST", "/v1/conversations", {}, Cookie=f"{COOKIE}={planted}", Sec_Fetch_Site="same-origin"
    )
    assert 403 == refused.status


async def test_a_shared_chat_takes_no_cookie_of_another(house: House) -> None:
    """The browser's own chat stays, and so does each other one that was shared; the conversation says which cookie is meant."""
    own, begun = await with_cookie(house)
    mine, shares = begun.json["id"], [await house.share(await house.token("read", "share"))]
    bobs = await house.token("read", "send", "share", conversation="bob")
    shares.append((await house.ask("POST", "/v1/conversations/bob/shares", {}, token=bobs)).json["share"])
    jar, subjects = [own], {}
    for share in shares:
        answer = await house.ask(
            "POST", "/v1/shares/redeem", {"share": share, "cookie": True}, Cookie="; ".join(jar), **PAGE
        )
        assert 201 == answer.status
        jar.append(answer.headers["set-cookie"].partition(";")[0])
    everything = "; ".join(jar)
    for id in (mine, "ada", "bob"):
        assert 200 == (await house.ask("GET", f"/v1/conversations/{id}/messages", Cookie=everything)).status
        me = await house.ask("GET", f"/v1/me?conversation={id}", Cookie=everything)
        assert (200, id) == (me.status, me.json["conversation"])
        subjects[id] = me.json["subject"]

    assert 3 == len({pair.partition("=")[0] for pair in jar}) == len(set(subjects.values()))
    assert mine == (await house.ask("GET", "/v1/me", Cookie=everything)).json["conversation"]
    assert 404 == (await house.ask("GET", f"{ADA}/messages", Cookie=own)).status
    assert 404 == (await house.ask("GET", "/v1/me?conversation=ada", Cookie=own)).status
    left = await house.ask("DELETE", f"{ADA}/tokens/current", Cookie=everything, **PAGE)
    assert left.headers["set-cookie"].startswith(jar[1].partition("=")[0])
    assert 404 == (await house.ask("GET", f"{ADA}/messages", Cookie=everything)).status
    assert 200 == (await house.ask("GET", f"/v1/conversations/{mine}/messages", Cookie=everything)).status


async def test_a_browser_that_joins_its_own_chat_keeps_its_rights(house: House) -> None:
    """Who opens the link to their own chat has two cookies for it; the subject says which is meant."""
    own, begun = await with_cookie(house)
    path = f"/v1/conversations/{begun.json['id']}"
    subject = (await house.ask("GET", "/v1/me", Cookie=own)).json["subject"]
    share = (await house.ask("POST", f"{path}/shares", {"scopes": ["read"]}, Cookie=own, **PAGE)).json["share"]
    joined = await house.ask("POST", "/v1/shares/redeem", {"share": share, "cookie": True}, Cookie=own, **PAGE)
    both = f"{own}; {joined.headers['set-cookie'].partition(';')[0]}"
    said = await house.ask("POST", f"{path}/messages", {"content": "x"}, Cookie=both, **PAGE, Chatkeep_Subject=subject)

    assert 200 == said.status
    assert 403 == (await house.ask("POST", f"{path}/messages", {"content": "x"}, Cookie=both, **PAGE)).status


async def test_who_has_joined_a_chat_may_begin_one(house: House) -> None:
    """A shared chat in the cookies is no reason to refuse a chat of one's own; too many of them are one to refuse another."""
    share = await house.share(await house.token("read", "share"))
    joined = await house.ask("POST", "/v1/shares/redeem", {"share": share, "cookie": True}, **PAGE)
    cookie = joined.headers["set-cookie"].partition(";")[0]
    begun = await house.ask("POST", "/v1/conversations", {"cookie": True}, Cookie=cookie, **PAGE)
    live = await house.token("read", "share")
    many, over = ("; ".join(f"{COOKIE}-{number}-0={text}" for number in range(20)) for text in (live, "x"))
    another, one_more = await house.share(live), await house.share(live)
    refused = await house.ask("POST", "/v1/shares/redeem", {"share": another, "cookie": True}, Cookie=many, **PAGE)
    taken = await house.ask("POST", "/v1/shares/redeem", {"share": one_more, "cookie": True}, Cookie=over, **PAGE)

    assert 201 == begun.status
    assert begun.headers["set-cookie"].startswith(f"{COOKIE}=ck_c_")
    assert (409, "urn:chatkeep:too-many-chats") == (refused.status, refused.json["type"])
    assert 201 == (await house.redeem(another)).status, "a refusal costs no use"
    assert 201 == taken.status, "those that are over make room"


async def test_rotating_and_ending_by_cookie_stay_in_the_cookie(house: House) -> None:
    """No script ever sees the token, and afterwards the browser forgets it."""
    cookie, answer = await with_cookie(house)
    tokens = f"/v1/conversations/{answer.json['id']}/tokens/current"
    rotated = await house.ask("POST", f"{tokens}/rotate", Cookie=cookie, Sec_Fetch_Site="same-origin")
    fresh = rotated.headers["set-cookie"].partition(";")[0]
    ended = await house.ask("DELETE", tokens, Cookie=fresh, Sec_Fetch_Site="same-origin")

    assert 201 == rotated.status
    assert b"ck_c_" not in rotated.body
    assert fresh != cookie
    assert 204 == ended.status
    assert "max-age=0" in ended.headers["set-cookie"].lower()
    for gone in (cookie, fresh):
        assert 401 == (await house.ask("GET", f"/v1/conversations/{answer.json['id']}", Cookie=gone)).status


async def test_a_header_wins_over_the_cookie_and_neither_is_guessed_at(house: House) -> None:
    """A wrong header is not made good by a cookie; two cookies, two headers or another scheme are none; keys are no cookies."""
    token, other = await house.token(), await house.token(conversation="bob")
    path = f"{ADA}/messages"

    async def told(**headers: str) -> int:
        return (await house.ask("GET", path, **headers)).status

    assert 200 == await told(Cookie=f"a=b; {COOKIE}={token}; c=d")
    assert 404 == await told(Cookie=f"{COOKIE}={token}", Authorization=f"Bearer {other}")
    assert 401 == await told(Cookie=f"{COOKIE}={token}", Authorization=f"Bearer {credential('token')}")
    assert 401 == await told(Cookie=f"{COOKIE}={other}; {COOKIE}={token}")
    assert 401 == await told(Cookie=f"{COOKIE}={house.key}")
    assert 401 == await told(Cookie=f"chatkeep={token}")
    assert 401 == await told(Authorization=f"Basic {token}")
    assert 401 == await told(Authorization=token)
    assert 200 == await told(Authorization=f"bearer {token}")
    twice = (
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n" + 2 * f"Authorization: Bearer {token}\r\n"
    )
    assert 401 == (await house.client.raw(f"{twice}\r\n".encode())).status


# -- visitors ---------------------------------------------------------------------------------------------------------------


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
        assert 401 == (await house.ask("POST", "/v1/conversations", {}, token=credential("token"))).status


# -- what is under way ------------------------------------------------------------------------------------------------------


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


async def test_a_share_s_address_is_where_the_application_is_mounted(tmp_path: Path) -> None:
    """Under a prefix, too; what is behind the # never reaches a server."""
    keep: Chatkeep[Any] = Chatkeep(f"sqlite:///{tmp_path}/chat.db", **FAST)
    async with keep, serving(Starlette(routes=[Mount("/chat", create_app(keep))])) as port:
        key = (await create_key(keep, "salon")).token
        share = await ask(Client(port, ""), "POST", f"/chat{ADA}/shares", {}, token=key)

    assert f"/chat/#share={share.json['share']}" == share.json["url"]


# -- erasing ----------------------------------------------------------------------------------------------------------------


async def test_tokens_and_shares_go_with_their_conversation(house: House) -> None:
    """Nothing of them stays in the store, and nobody else's is touched."""

    async def names() -> list[str]:
        return [row.key.id for row in await house.keep._engine.store.rows("key", tenant="~access")]

    other = await house.token(conversation="bob")
    before = await names()
    token = await house.token("read", "erase")
    share = (await house.ask("POST", f"{ADA}/shares", {}, token=house.key)).json["share"]
    await house.ask("POST", f"{ADA}/messages", {"content": "hello"}, token=house.key)

    assert 200 == await house.may(token)
    assert 204 == (await house.ask("DELETE", ADA, token=token)).status
    assert [401, 404] == [await house.may(token), (await house.redeem(share)).status]
    assert 200 == await house.may(other, "/v1/conversations/bob/messages")
    await nothing_happens_for(0.05)  # (a last use that was being noted must not bring anything back)
    assert before == await names()


async def test_what_is_over_does_not_pile_up(house: House, clock: Clock) -> None:
    """Each new token clears away a few that have expired."""
    for _ in range(30):
        await issue_token(house.keep, "salon", "ada", expires_in=10)
    clock.ahead = 11
    for _ in range(30):
        await issue_token(house.keep, "salon", "ada", expires_in=10_000)
    left = await list_tokens(house.keep, "salon", "ada")

    assert 30 == len([found for found in left if (found.expires_at or 0) > clock()])
    assert 10 > len([found for found in left if (found.expires_at or 0) <= clock()])


# -- what no client should send ---------------------------------------------------------------------------------------------


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


# -- canary -----------------------------------------------------------------------------------------------------------------


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
        unknown = credential("token")
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


async def test_grants_are_plain_records(house: House) -> None:
    """What an operator finds in the store says whose it is and what it is for."""
    token = await house.token("read", label="phone")
    held = await stored_credentials(house.keep).get(str(name_of(token)))

    assert held is not None
    assert ("token", "salon", "ada", ("read",), "phone") == (
        held.kind,
        held.tenant,
        held.conversation,
        held.scopes,
        held.label,
    )
