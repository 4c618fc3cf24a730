"""People sign in at the desk through an OpenID provider, a server of its own with real keys; and what is not believed of it."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from starlette.applications import Starlette
from starlette.routing import Mount

from chatkeep import Chatkeep
from chatkeep.auth import accounts
from chatkeep.errors import Misconfigured
from chatkeep.server import create_app
from chatkeep.server.application import provider_from
from chatkeep.server.settings import ServerSettings

from ..support.desk import PASSWORD, Person
from ..support.openid import CLIENT, SECRET, Provider, providing
from ..support.serving import Client, served, serving
from ..support.stores import FAST

pytest.importorskip("authlib", reason="NO AUTHLIB, SO OPENID CONNECT IS NOT TRIED: install the extra `oidc`")

from chatkeep.server import oidc
from chatkeep.server.oidc import OpenIDProvider, found_at

GROUPS = {"desk-admins": "admin", "support": "agent"}


class Visitor(Person):
    """A browser that goes through the provider and back, keeping cookies as a browser does."""

    async def go(self) -> tuple[str, Any]:
        """Where it ends, and who is signed in then."""
        answer = await self.ask("GET", "/v1/session/oidc", Sec_Fetch_Site="")
        begun = answer.headers.get("location", "")
        if not begun.startswith("http:"):
            return urlsplit(begun).fragment or str(answer.status), None
        self.kept = answer.headers["set-cookie"].partition(";")[0]
        there = urlsplit(begun)
        back = await Client(there.port or 0, "").ask("GET", f"{there.path}?{there.query}")
        return await self.come_back(back.headers["location"], self.kept)

    async def come_back(self, address: str, cookie: str) -> tuple[str, Any]:
        """As `go`, from where the provider sends the browser back."""
        parts = urlsplit(address)
        answer = await self.ask("GET", f"{parts.path}?{parts.query}", Cookie=cookie, Sec_Fetch_Site="cross-site")
        self.address = address
        cookies = answer.headers.get("set-cookie", "")
        if cookies.startswith("desk=ck_s_"):
            self.cookie = cookies.partition(";")[0]
        told = (await self.ask("GET", "/v1/session")).json
        return urlsplit(answer.headers["location"]).fragment, told


def provider_for(found: Provider, **told: Any) -> OpenIDProvider:
    """The desk's side of it."""
    return OpenIDProvider(found.issuer, CLIENT, SECRET, **told)


async def test_whoever_the_provider_lets_in_has_an_account(url: str) -> None:
    """On every store: it is made with the role that the claim gives, and follows the claim at each sign-in; disabled, it lets nobody in."""
    keep: Chatkeep[Any] = Chatkeep(url, **FAST)
    async with providing() as there:
        there.claims["groups"] = ["support", "lunch"]
        provider = provider_for(there, role_claim="groups", roles=GROUPS, tenants=["salon"], label="Sign in with Acme")
        async with served(keep, provider=provider) as client:
            kim = Visitor(client.port)
            before = (await kim.ask("GET", "/v1/session")).json
            where, told = await kim.go()
            kim.proof = told["proof"]
            listed = (await kim.ask("GET", "/v1/desk/conversations")).status
            there.claims["groups"] = ["desk-admins", "support"]
            _, second = await Visitor(client.port).go()
            there.claims["groups"] = ["lunch"]
            third = await Visitor(client.port).go()
            there.claims["groups"] = "support"
            await accounts.change_account(
                keep, "kim@example.com", lambda held: accounts.structs.replace(held, disabled=True)
            )
            disabled = await Visitor(client.port).go()

    assert ("Sign in with Acme", False) == (before["provider"], before["signed_in"])
    assert ("", "kim@example.com", "Kim", "agent", ["salon"], 200) == (
        where,
        *(told[name] for name in ("account", "shown", "role", "tenants")),
        listed,
    )
    assert "admin" == second["role"]
    assert ("/refused/role", False) == (third[0], third[1]["signed_in"])
    assert "/refused/account" == disabled[0]


async def test_signing_in_and_being_refused_is_in_the_audit(caplog: pytest.LogCaptureFixture) -> None:
    """Who has signed in is kept with the store, as with a password; who was refused is a line that names the account, where it is known."""
    caplog.set_level(logging.INFO, "chatkeep.audit")
    keep: Chatkeep[Any] = Chatkeep("memory://", **FAST)
    async with providing() as there:
        there.claims["groups"] = "support"
        async with served(keep, provider=provider_for(there, role_claim="groups", roles=GROUPS)) as client:
            await Visitor(client.port).go()
            there.claims["groups"] = "lunch"
            await Visitor(client.port).go()
            there.denies = True
            await Visitor(client.port).go()
            acts = (await client.ask("GET", "/v1/audit")).json["acts"]
    lines = [(line.act, line.by, line.outcome, line.address) for line in caplog.records]  # type: ignore[attr-defined]

    assert [("sign-in", "kim@example.com", "Kim")] == [(act["act"], act["by"], act["label"]) for act in acts]
    assert [
        ("sign-in", "kim@example.com", "201", "127.0.0.1"),
        ("sign-in", "kim@example.com", "role", "127.0.0.1"),
        ("sign-in", "openid", "denied", "127.0.0.1"),
    ] == lines


async def test_what_is_not_for_this_attempt_is_not_believed() -> None:
    """Other issuers, audiences, nonces and times, no algorithm and another's key: each refused, and nobody has an account."""
    keep: Chatkeep[Any] = Chatkeep("memory://", **FAST)
    past = int(time.time()) - 3600
    lies: dict[str, dict[str, Any]] = {
        "issuer": {"iss": "https://evil.example"},
        "audience": {"aud": "another"},
        "two audiences": {"aud": [CLIENT, "another"], "azp": "another"},
        "nonce": {"nonce": "another"},
        "no nonce": {"nonce": None},
        "over": {"exp": past, "iat": past - 300},
        "no end": {"exp": None},
        "no subject": {"sub": None},
        "in the future": {"iat": past + 7200, "nbf": past + 7200},
    }
    async with providing() as there:
        there.claims["groups"] = "support"
        async with served(keep, provider=provider_for(there, role_claim="groups", roles=GROUPS)) as client:
            found = {}
            for name, there.lies in lies.items():
                found[name] = (await Visitor(client.port).go())[0]
            there.lies = {}
            for algorithm, key in (
                ("none", ""),
                ("HS256", SECRET.ljust(40, "x")),
                ("RS256", rsa.generate_private_key(65537, 2048)),
            ):
                there.algorithm, there.signs_with = algorithm, key
                found[algorithm] = (await Visitor(client.port).go())[0]
            there.algorithm, there.signs_with = "RS256", None
            none = await accounts.list_accounts(keep)
            good = (await Visitor(client.port).go())[0]

    assert {"/refused/token"} == set(found.values()), found
    assert ([], "") == (none, good)


async def test_an_answer_counts_once_and_for_its_own_browser(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not with another browser's cookie, without any, a second time, after ten minutes, nor with somebody else's code."""
    keep: Chatkeep[Any] = Chatkeep("memory://", **FAST)
    async with providing() as there:
        there.claims["groups"] = "support"
        async with served(keep, provider=provider_for(there, role_claim="groups", roles=GROUPS)) as client:
            kim, eve = Visitor(client.port), Visitor(client.port)
            await kim.go()
            again = (await Visitor(client.port).come_back(kim.address, kim.kept))[0]
            await eve.go()
            crossed = (await Visitor(client.port).come_back(eve.address, kim.kept))[0]
            bare = (await Visitor(client.port).come_back(kim.address, ""))[0]
            broken = [
                (await Visitor(client.port).come_back(kim.address, f"desk-oidc={value}"))[0]
                for value in ("x", "W10", "e30", "=")
            ]
            other = (await Visitor(client.port).come_back(kim.address + "&iss=https://evil.example", kim.kept))[0]
            there.denies = True
            denied = (await Visitor(client.port).go())[0]
            there.denies = False
            monkeypatch.setattr(oidc, "ATTEMPT_S", -1)
            late = (await Visitor(client.port).go())[0]

    assert ("/refused/token", "/refused/state", "/refused/late") == (again, crossed, bare)
    assert (["/refused/late"] * 4, "/refused/state") == (broken, other)
    assert ("/refused/denied", "/refused/late") == (denied, late)


async def test_an_account_is_not_taken_over() -> None:
    """One with a password, one of another subject, and an address that nobody has verified; an account without a password is linked."""
    keep: Chatkeep[Any] = Chatkeep("memory://", **FAST)
    async with providing() as there, served(keep, provider=provider_for(there)) as client:
        absent = (await Visitor(client.port).go())[0]
        await accounts.add_account(keep, "kim@example.com", role="agent", password=PASSWORD)
        password = (await Visitor(client.port).go())[0]
        await accounts.remove_account(keep, "kim@example.com")
        await accounts.add_account(keep, "Kim@Example.com", role="agent", shown="Kim L.")
        linked, told = await Visitor(client.port).go()
        there.claims["sub"] = "s-2"
        subject = (await Visitor(client.port).go())[0]
        there.claims |= {"sub": "s-1", "email_verified": False}
        unverified = (await Visitor(client.port).go())[0]
        there.claims |= {"email_verified": True, "email": "a b"}
        odd = (await Visitor(client.port).go())[0]

    assert ("/refused/account", "/refused/password", "") == (absent, password, linked)
    assert ("agent", "Kim L.") == (told["role"], told["shown"])
    assert ("/refused/subject", "/refused/name", "/refused/name") == (subject, unverified, odd)


async def test_a_provider_that_changes_its_keys_or_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """New keys are asked for, once in a while; one that is away, or is somebody else, is told of, and asked again the next time."""
    monkeypatch.setattr(oidc, "AGAIN_S", 0.0)
    keep: Chatkeep[Any] = Chatkeep("memory://", **FAST)
    async with providing() as there:
        there.claims["groups"] = "support"
        issuer, provider = there.issuer, provider_for(there, role_claim="groups", roles=GROUPS)
        async with served(keep, provider=provider) as client:
            there.describes = {"issuer": "https://evil.example"}
            somebody = (await Visitor(client.port).go())[0]
            there.describes = {"token_endpoint": "http://evil.example/token"}
            unsafe = (await Visitor(client.port).go())[0]
            there.describes = {}
            first = (await Visitor(client.port).go())[0]
            there.rotate()
            rotated = (await Visitor(client.port).go())[0]
            asked = list(there.asked)
    gone = OpenIDProvider(issuer, CLIENT, SECRET)
    async with served(keep, provider=gone) as client:
        away = (await Visitor(client.port).go())[0]
    async with served(keep) as client:
        without = (await Visitor(client.port).go())[0]

    assert ("/refused/away", "/refused/away", "", "") == (somebody, unsafe, first, rotated)
    assert (3, 2) == (asked.count("describe"), asked.count("keys"))
    assert ("/refused/away", "404") == (away, without)


def test_settings_that_cannot_be_meant_are_refused() -> None:
    """Plain http elsewhere, no client, roles that there are not, and a claim without roles; and what makes a provider."""
    for told, why in (
        ({"oidc_issuer": "http://login.example.com", "oidc_client_id": "x"}, "https address"),
        ({"oidc_issuer": "https://login.example.com"}, "oidc_client_id"),
        (
            {
                "oidc_issuer": "https://login.example.com",
                "oidc_client_id": "x",
                "oidc_role": "groups",
                "oidc_roles": ("a=boss",),
            },
            "boss",
        ),
        ({"oidc_issuer": "https://login.example.com", "oidc_client_id": "x", "oidc_role": "groups"}, "belong together"),
        (
            {"oidc_issuer": "https://login.example.com", "oidc_client_id": "x", "oidc_tenants": ("~own",)},
            "oidc_tenants: .*own",
        ),
    ):
        with pytest.raises(Misconfigured, match=why):
            provider_from(ServerSettings(**told))  # type: ignore[arg-type]
    made = provider_from(ServerSettings(oidc_issuer="https://login.example.com", oidc_client_id="x"))

    assert made is not None
    assert provider_from(ServerSettings()) is None
    assert "agent" == found_at({"realm_access": {"roles": "agent"}}, "realm_access.roles")
    assert [7, None, None] == [
        found_at({"https://a.example/x": 7, "b": 1}, path) for path in ("https://a.example/x", "b.c", "")
    ]


async def test_it_works_where_the_server_is_mounted_under_a_path() -> None:
    """The provider sends the browser back under it, and the desk is opened under it."""
    keep: Chatkeep[Any] = Chatkeep("memory://", **FAST)
    async with providing() as there:
        there.claims["groups"] = "support"
        chat = create_app(keep, provider=provider_for(there, role_claim="groups", roles=GROUPS))

        @asynccontextmanager
        async def life(app: Starlette) -> AsyncIterator[None]:
            async with chat.router.lifespan_context(chat):
                yield

        async with serving(Starlette(routes=[Mount("/chat", chat)], lifespan=life)) as port:
            person = Visitor(port)
            answer = await person.ask("GET", "/chat/v1/session/oidc", Sec_Fetch_Site="")
            asked = parse_qs(urlsplit(answer.headers["location"]).query)
            back = await person.ask("GET", "/chat/v1/session/oidc/done?state=x", Sec_Fetch_Site="cross-site")

    assert [f"http://127.0.0.1:{port}/chat/v1/session/oidc/done"] == asked["redirect_uri"]
    assert "/chat/operator#/refused/late" == back.headers["location"]
