"""Tokens in cookies: whom they are shown to, what a browser that joins or leaves keeps, and which credential counts."""

from __future__ import annotations

import re

import pytest

from chatkeep.auth.format import make_credential

from ..support.salon import ADA, COOKIE, PAGE, House, with_cookie


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
        Cookie=f"{COOKIE}={make_credential('token')}",
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
    assert 401 == await told(Cookie=f"{COOKIE}={token}", Authorization=f"Bearer {make_credential('token')}")
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
