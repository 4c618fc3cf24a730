"""Rate limits: counted over all instances, bounded, not fooled by headers, and no reason to fail."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterable
from typing import Any

import pytest

from chatkeep.auth.credentials import create_key, issue_token
from chatkeep.channels import Webhook
from chatkeep.drivers import driver_for
from chatkeep.server.limits import Limits, network_of, peer_of
from chatkeep.server.webhooks import Webhooks
from chatkeep.server.wire import Refused
from tests.support.samples import webhook_signed

from ..support.service import service
from ..support.serving import limited
from ..support.waiting import until


async def test_over_the_limit_is_a_problem_document_with_the_time_to_wait() -> None:
    """429, rate-limited, Retry-After; and the store is not asked again meanwhile."""
    async with limited("memory://over", {"conversation": "2/minute"}) as (keep, client):
        client.key = (await create_key(keep, "")).token
        said = [await client.post("ada", {"content": str(number)}) for number in range(3)]
        other = await client.post("bob", {"content": "hello"})
        read = await client.ask("GET", "/v1/conversations/ada")

    assert [200, 200, 429] == [answer.status for answer in said]
    assert ("urn:chatkeep:rate-limited", 429) == (said[2].json["type"], said[2].json["status"])
    assert "application/problem+json" == said[2].headers["content-type"]
    assert 55 <= int(said[2].headers["retry-after"]) <= 60
    assert (200, 200) == (other.status, read.status)


@pytest.mark.parametrize("kind", ["peer", "tenant", "token", "begin", "refused"])
async def test_each_limit_counts_what_it_says(kind: str) -> None:
    """A limit of 2 lets two through, of its own kind only."""
    async with limited(f"memory://{kind}", {kind: "2/minute"}, anonymous=True) as (keep, client):
        service_key = (await create_key(keep, "")).token
        token = (await issue_token(keep, "", "ada")).token
        begin = ("POST", "/v1/conversations", b"{}")
        asks: dict[str, tuple[str, tuple[Any, ...]]] = {
            "peer": ("", begin),
            "tenant": (service_key, ("GET", "/v1/conversations")),
            "token": (token, ("GET", "/v1/conversations/ada")),
            "begin": ("", begin),
            "refused": ("ck_k_wrong", ("GET", "/v1/conversations/ada")),
        }
        client.key, ask = asks[kind]
        said = [(await client.ask(*ask)).status for _ in range(4)]
        client.key = token if kind == "tenant" else service_key
        free = (await client.ask("GET", "/v1/conversations/ada/messages")).status

    assert [429] * (1 if kind == "refused" else 2) == said[3 if kind == "refused" else 2 :]
    assert 429 not in said[:2]
    assert (429 if kind in ("peer", "tenant") else 404) == free


@pytest.mark.parametrize("kind", ["conversation_kb", "peer_kb"])
async def test_what_is_sent_is_bounded_by_its_size(kind: str, url: str) -> None:
    """By conversation and by address: also what is small, and what is refused; reading goes on, and a service key is not held to it."""
    async with limited(url, {kind: "10/day"}) as (keep, client):
        scopes = ("read", "send", "state:write")
        tokens = [(await issue_token(keep, "", who, scopes=scopes)).token for who in ("ada", "bob")]
        client.key = tokens[0]
        said = [(await client.post("ada", {"content": "x" * 3000})).status for _ in range(4)]

        async def refused() -> bool:  # it is counted beside the answer
            return (await client.post("ada", {"content": "x"})).status == 429

        await until(refused)
        drafts = await client.ask("PUT", "/v1/conversations/ada/state/draft", b'"y"', {"If-None-Match": "*"})
        read = await client.ask("GET", "/v1/conversations/ada/messages")
        client.key = tokens[1]
        other = await client.post("bob", {"content": "hello"})
        client.key = (await create_key(keep, "")).token
        backend = await client.post("ada", {"content": "x" * 3000})

    assert ([200] * 4, 429) == (said, drafts.status)
    assert "Too much was sent" in drafts.json["detail"]
    assert 80_000 < int(drafts.headers["retry-after"]) <= 86_400
    assert (200, 429 if kind == "peer_kb" else 200, 200) == (read.status, other.status, backend.status)


@pytest.mark.parametrize("kind", ["conversation", "conversation_kb"])
async def test_guests_by_shares_use_up_nothing_of_the_owners(kind: str, url: str) -> None:
    """All of them are one: a guest who shares it on, or whose token is rotated, has no more."""
    async with limited(url, {kind: "6/day"}) as (keep, client):
        scopes = ("read", "send", "share")
        owner = (await issue_token(keep, "", "ada", scopes=scopes)).token
        client.key = owner
        shared = await client.ask("POST", "/v1/conversations/ada/shares", b'{"scopes": ["read", "send", "share"]}')
        client.key = None
        guest = await client.ask("POST", "/v1/shares/redeem", json.dumps({"share": shared.json["share"]}).encode())
        client.key = guest.json["token"]
        on = await client.ask("POST", "/v1/conversations/ada/shares", b'{"scopes": ["read", "send"]}')
        client.key = None
        other = await client.ask("POST", "/v1/shares/redeem", json.dumps({"share": on.json["share"]}).encode())
        client.key = guest.json["token"]

        async def refused() -> bool:
            return (await client.post("ada", {"content": "x" * 3000})).status == 429

        await until(refused)
        client.key = other.json["token"]
        by_other = await client.post("ada", {"content": "hello"})
        client.key = owner
        by_owner = await client.post("ada", {"content": "hello"})

    assert (429, 200) == (by_other.status, by_owner.status)


async def test_a_header_does_not_make_another_peer_unless_a_trusted_proxy_says_so(tmp_path: Any) -> None:
    """X-Forwarded-For is believed of nobody, and of 127.0.0.1 once it is named as a proxy; then only its last entry."""
    said, warned = {}, {}
    for trusted in ("", "127.0.0.1"):
        folder = tmp_path / (trusted or "none")
        folder.mkdir()
        with service(folder, anonymous="true", rate_begin="2/hour", proxies=trusted) as server:
            client = server.client()
            said[trusted] = [
                (await client.ask("POST", "/v1/conversations", b"{}", {"X-Forwarded-For": forwarded})).status
                for forwarded in ("9.9.9.1", "9.9.9.2", "9.9.9.3", "6.6.6.6, 9.9.9.1", "7.7.7.7, 9.9.9.1")
            ]

            junk = [
                (await client.ask("POST", "/v1/conversations", b"{}", {"X-Forwarded-For": forwarded})).status
                for forwarded in ("junk-1", "junk-2", "junk-3")
            ]
            said[trusted] += junk
            warned[trusted] = server.log.count("not listed in `proxies`")

    assert [201, 201, 429, 429, 429, 429, 429, 429] == said[""]
    assert [201, 201, 201, 201, 429, 201, 201, 429] == said["127.0.0.1"]
    assert {"": 1, "127.0.0.1": 0} == warned


@pytest.mark.parametrize(
    ("client", "peer"),
    [
        (("10.1.2.3", 5), "10.1.2.3"),
        (("2001:db8:1:2:3:4:5:6", 5), "2001:db8:1:2::/64"),
        (("::ffff:10.1.2.3", 5), "10.1.2.3"),
        (None, ""),
        (("unix", 0), "unix"),
    ],
)
def test_a_peer_is_an_address_or_the_network_of_one_customer(client: Any, peer: str) -> None:
    """With IPv6 one customer has 2**64 addresses."""
    assert peer == peer_of({"type": "http", "client": client})


async def test_defaults_of_serve_limit_a_visitor(tmp_path: Any) -> None:
    """Without a word about limits there are some; with empty rates there are none."""
    with service(tmp_path, anonymous="true", rate_begin="1/hour", log_format="json") as server:
        client = server.client()
        said = [(await client.ask("POST", "/v1/conversations", b"{}")) for _ in range(2)]

    assert [201, 429] == [answer.status for answer in said]
    assert "begin or join" in json.loads(said[1].body)["detail"]


async def test_unsigned_webhooks_are_counted_by_address_and_signed_ones_are_taken() -> None:
    """Guessing a secret ends soon; the platform goes on, also from the same address, and so does the rest of the API."""
    secret = "whsec_" + base64.b64encode(b"7" * 24).decode()
    webhooks = Webhooks(Webhook("shop", secrets=secret))

    async def post(n: int, key: str = secret) -> int:
        body = json.dumps({"conversation": "ada", "content": "hi", "id": f"{n}"}).encode()
        headers = dict(webhook_signed(body, key, at=time.time()))
        return (await client.ask("POST", "/channels/webhook", body, headers)).status

    wrong = "whsec_" + base64.b64encode(bytes(24)).decode()
    async with limited("memory://", {"refused": "3/hour"}, webhooks=webhooks) as (_, client):
        assert [401, 401, 401, 429, 429] == [await post(n, wrong) for n in range(5)]
        assert [200] * 5 == [await post(n) for n in range(5)]
        assert 429 == (await client.ask("GET", "/channels/webhook")).status
        assert 401 == (await client.ask("GET", "/v1/conversations")).status


@pytest.mark.parametrize(("kind", "before"), [("peer", ""), ("begin_day", ""), ("refused", "webhooks:")])
async def test_many_networks_of_one_customer_are_one(kind: str, before: str) -> None:
    """Each /64 of a /56, or of a /48, is another address for the rate alone; the wider network has a limit of its own."""
    limits = Limits(driver_for("memory://"), {kind: "2/minute"})

    async def hits(addresses: Iterable[str]) -> int:
        for count, address in enumerate(addresses):
            try:
                await limits.hit({kind: before + network_of(address)})
            except Refused:
                return count
        return -1

    one = [f"2001:db8:1:{number:x}::1" for number in range(256)]
    wide = [f"2001:db8:2:{number:x}00::1" for number in range(256)]

    assert 8 == await hits(one)
    assert 32 == await hits(wide)
    assert -1 == await hits(["2001:db8:3::1", "203.0.113.7", "203.0.113.8"])
    assert 2 == await hits(["203.0.113.9"] * 3)
    assert -1 == await hits(["2001:db8:4::1"] * 2)
