"""Tokens, shares and keys over HTTP: made, listed, rotated, ended, and gone with their conversation."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.routing import Mount

from chatkeep import Chatkeep
from chatkeep.auth.credentials import (
    create_key,
    issue_token,
    list_keys,
    list_tokens,
    revoke,
    revoke_key,
    stored_credentials,
)
from chatkeep.auth.format import make_credential, name_of
from chatkeep.server import create_app

from ..support.salon import ADA, Clock, House, ask, housed
from ..support.serving import Client, serving
from ..support.stores import FAST
from ..support.waiting import nothing_happens_for, until


async def test_the_store_holds_no_credential(house: House, tmp_path: Path) -> None:
    """Not in any file of it: only the SHA-256."""
    token = await house.token()
    share = (await house.ask("POST", f"{ADA}/shares", {}, token=house.key)).json["share"]
    # By another process: this one may not open the files of its store.
    held = subprocess.run(["cat", *map(str, tmp_path.iterdir())], capture_output=True, check=True).stdout

    for secret in (token, share, house.key):
        assert secret[5:40].encode() not in held
        assert str(name_of(secret)).encode() in held


async def test_credentials_are_plain_records(house: House) -> None:
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
    mine, other = await house.token(subject="ada"), await house.token(subject="ada")
    seen = (await house.ask("GET", f"{ADA}/tokens", token=mine)).json["tokens"]
    by_key = (await house.ask("GET", f"{ADA}/tokens", token=house.key)).json["tokens"]
    assert {str(name_of(mine))[:16]: True, str(name_of(other))[:16]: None} == {
        one["id"]: one.get("current") for one in seen
    }
    assert [None, None] == [one.get("current") for one in by_key]
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


async def test_a_share_becomes_a_token_once(house: House) -> None:
    """Of many who redeem it at once, one gets a token; afterwards it is as if it had never been."""
    maker = await house.token("read", "send", "share")
    share = await house.share(maker)
    answers = await asyncio.gather(*[house.redeem(share) for _ in range(8)])
    [won] = [answer for answer in answers if answer.status == 201]
    unknown = await house.redeem(make_credential("share"))

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


async def test_a_share_s_address_is_where_the_application_is_mounted(tmp_path: Path) -> None:
    """Under a prefix, too; what is behind the # never reaches a server."""
    keep: Chatkeep[Any] = Chatkeep(f"sqlite:///{tmp_path}/chat.db", **FAST)
    async with keep, serving(Starlette(routes=[Mount("/chat", create_app(keep))])) as port:
        key = (await create_key(keep, "salon")).token
        share = await ask(Client(port, ""), "POST", f"/chat{ADA}/shares", {}, token=key)

    assert f"/chat/#share={share.json['share']}" == share.json["url"]


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
