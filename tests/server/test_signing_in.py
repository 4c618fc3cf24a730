"""People at the operators' desk: signing in and out, what each role may do, and what attackers try."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from argon2 import Type, extract_parameters

from chatkeep import Chatkeep, Turn
from chatkeep.auth import accounts, passwords
from chatkeep.auth.credentials import create_key, revoke_key
from chatkeep.server.signed_in import header_of

from ..support.desk import PASSWORD, Person, person
from ..support.serving import Client, served
from ..support.stores import FAST
from ..support.waiting import time_passes, until

PHONE = "whatsapp:4915112345678"
HASHER = passwords._hasher
"""The one that people have: other tests have one that costs little (tests/conftest.py)."""


def chat() -> Chatkeep[Any]:
    """A bot that repeats."""
    keep: Chatkeep[Any] = Chatkeep("memory://", **FAST)

    @keep.on_message
    async def bot(turn: Turn[Any]) -> str:
        turn.state["phone"] = "+49 151 12345678"
        return turn.text

    return keep


async def test_nobody_is_there_before_somebody_is_added() -> None:
    """No account, no default password; what is typed is never echoed."""
    async with served(chat()) as client:
        somebody = Person(client.port)
        tried = [("admin", "admin"), ("admin", ""), ("", ""), ("root", "password1234"), ("a b", "x"), ("\x00", "x")]
        answers = [await somebody.sign_in({"name": name, "password": word}) for name, word in tried]
        status = (await somebody.ask("GET", "/v1/session")).json

    assert [401] * len(tried) == [answer.status for answer in answers]
    assert [] == [answer for answer in answers if b"password1234" in answer.body or "set-cookie" in answer.headers]
    assert {"signed_in": False} == status


async def test_the_cookie_is_for_this_host_and_no_script() -> None:
    """HttpOnly, SameSite, Secure and __Host- behind TLS; the store has no token and no password."""
    keep = chat()
    async with served(keep, hosts=["*"]) as client:
        await accounts.add_account(keep, "Kim", role="agent", password=PASSWORD)
        plain = await Person(client.port).sign_in({"name": "KIM ", "password": PASSWORD})
        named = "desk.example"
        outside = await Person(client.port).sign_in(
            {"name": "kim", "password": PASSWORD}, Host=named, Origin=f"https://{named}"
        )
        ((name, held),) = await accounts.list_accounts(keep)

    cookie = outside.headers["set-cookie"].lower()
    assert (201, 201) == (plain.status, outside.status)
    assert plain.headers["set-cookie"].startswith("desk=ck_s_")
    assert cookie.startswith("__host-desk=ck_s_")
    assert {"httponly", "secure", "path=/", "samesite=strict"} <= {part.strip() for part in cookie.split(";")}
    assert ("kim", True) == (name, held.password.startswith("$argon2id$"))


async def test_a_guess_at_a_password_is_dear(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes 64 MB and goes over them three times, as the authors of argon2 recommend."""
    monkeypatch.setattr(passwords, "_hasher", HASHER)
    hashed = await passwords.hash_password(PASSWORD)
    cost = extract_parameters(hashed)

    assert (Type.ID, 64 << 10, 3) == (cost.type, cost.memory_cost, cost.time_cost)
    assert await passwords.is_password(PASSWORD, hashed)
    assert not await passwords.is_password(f"{PASSWORD}!", hashed)


ATTACKS: dict[str, tuple[str, dict[str, str], int]] = {
    "no proof beside the cookie": ("PUT", {"Chatkeep_Desk": ""}, 401),
    "another session's proof": ("PUT", {"Chatkeep_Desk": "0" * 40}, 403),
    "a form of another site": ("PUT", {"Sec_Fetch_Site": "cross-site"}, 403),
    "a page of another host, by its origin": ("PUT", {"Sec_Fetch_Site": "", "Origin": "https://evil.example"}, 403),
    "an origin without a host": ("PUT", {"Sec_Fetch_Site": "", "Origin": "null"}, 403),
    "a request that says nothing of where it is from": ("PUT", {"Sec_Fetch_Site": "", "Origin": ""}, 403),
    "a sister site": ("PUT", {"Sec_Fetch_Site": "same-site"}, 403),
    "reading without the proof": ("GET", {"Chatkeep_Desk": ""}, 401),
    "the cookie twice": ("GET", {"Cookie": "twice"}, 401),
    "a made-up session": ("GET", {"Cookie": "desk=ck_s_" + "x" * 43}, 401),
    "no session at all": ("GET", {"Cookie": ""}, 401),
    "the secure name, without TLS": ("GET", {"Cookie": "secure"}, 401),
    "another tenant": ("GET", {"Chatkeep_Tenant": "pizza"}, 403),
    "chatkeep's own tenant": ("GET", {"Chatkeep_Tenant": "~access"}, 403),
}


async def test_what_attackers_send_does_nothing() -> None:
    """Each request beside one that is let in: what is missing, forged or from elsewhere is refused, and changes nothing."""
    keep, told = chat(), {}
    async with served(keep) as client:
        await keep.receive("ada", "hello")
        agent = await person(keep, client.port, "agent")
        switch = "/v1/conversations/ada/bot"
        cookies = {"twice": f"{agent.cookie}; desk=ck_s_{'y' * 43}", "secure": "__Host-" + agent.cookie}
        for attack, (method, headers, _) in ATTACKS.items():
            forged = {name: cookies.get(value, value) for name, value in headers.items()}
            path, body = (switch, {"paused": True}) if method == "PUT" else ("/v1/conversations", None)
            answer = await agent.ask(method, path, body, **forged)
            found = await keep.conversation("ada")
            assert found is not None
            allowed = await agent.ask(method, path, body)
            told[attack] = answer.status, found.paused, allowed.status
            await agent.ask("PUT", switch, {"paused": False})

    assert {attack: (status, False, 200) for attack, (*_, status) in ATTACKS.items()} == told


async def test_a_page_of_another_host_signs_nobody_in() -> None:
    """Signing somebody in as an attacker, behind their back, is an attack too; and a session of before is worth nothing after."""
    keep = chat()
    async with served(keep) as client:
        agent = await person(keep, client.port, "agent")
        old = agent.cookie
        forged = await Person(client.port).sign_in(
            {"name": "agent", "password": PASSWORD}, Origin="https://evil.example", Sec_Fetch_Site="cross-site"
        )
        again = await agent.sign_in({"name": "agent", "password": PASSWORD})
        fixed = await agent.ask("GET", "/v1/conversations", Cookie=old)

    assert (403, 201, 401) == (forged.status, again.status, fixed.status)
    assert old != agent.cookie


def refused(somebody: Person, method: str, path: str = "/v1/session") -> Callable[[], Coroutine[Any, Any, bool]]:
    """What asks whether somebody is not let in any more."""

    async def ask() -> bool:
        return (await somebody.ask(method, path)).status == 401

    return ask


async def test_a_session_ends_when_nobody_is_there_and_at_the_latest() -> None:
    """What the page asks by itself does not keep it; what a person does keeps it, but not for ever."""
    keep = chat()
    async with served(keep, desk_idle=0.6, desk_longest=2.5) as client:
        agent = await person(keep, client.port, "agent")
        await until(
            refused(agent, "GET", "/v1/conversations"), within=20, every=0.05
        )  # as the page asks every few seconds
        idle = (await agent.ask("GET", "/v1/session/password")).status, (await agent.ask("GET", "/v1/bot")).json["type"]
        await agent.sign_in({"name": "agent", "password": PASSWORD})
        begun, touched = asyncio.get_running_loop().time(), []
        while asyncio.get_running_loop().time() - begun < 1.5:
            touched.append((await agent.ask("PUT", "/v1/session")).status)
            await time_passes(0.05)
        await until(refused(agent, "PUT"), within=20, every=0.05)

    assert ((405, "urn:chatkeep:signed-out"), {204}) == (idle, set(touched))


async def test_wrong_passwords_make_the_account_wait() -> None:
    """Also many at once, also the right one then; another account is not held up, and one that is not there tells nothing."""
    keep = chat()
    async with served(keep) as client:
        for name in ("kim", "lee"):
            await accounts.add_account(keep, name, role="agent", password=PASSWORD)
        tried = await asyncio.gather(
            *(Person(client.port).sign_in({"name": "kim", "password": f"wrong {n}"}) for n in range(8))
        )
        right = await Person(client.port).sign_in({"name": "kim", "password": PASSWORD})
        other = await Person(client.port).sign_in({"name": "lee", "password": PASSWORD})
        unknown = [await Person(client.port).sign_in({"name": "nobody", "password": "x"}) for _ in range(7)]

    assert {401, 429} == {answer.status for answer in tried}
    assert 5 == sum(answer.status == 401 for answer in tried)
    assert (429, 201, {401}) == (right.status, other.status, {answer.status for answer in unknown})
    assert int(right.headers["retry-after"]) >= 1


MAY = {
    "viewer": {"list", "conversation", "session"},
    "agent": {"list", "conversation", "session", "bot", "say", "state"},
    "admin": {"list", "conversation", "session", "bot", "say", "state", "change", "switch", "audit", "erase"},
}
"""What each role may do, of ASKED; what is not named is 403."""


ASKED: dict[str, tuple[str, str, Any]] = {
    "list": ("GET", "/v1/bot", None),
    "conversation": ("GET", "/v1/conversations/{id}", None),
    "session": ("PUT", "/v1/session", None),
    "bot": ("PUT", "/v1/conversations/{id}/bot", {"paused": True}),
    "say": ("POST", "/v1/conversations/{id}/operator", {"content": "I am here."}),
    "state": ("GET", "/v1/conversations/{id}/state", None),
    "change": ("PUT", "/v1/conversations/{id}/state/phone", "1"),
    "switch": ("PUT", "/v1/bot", {"paused": True}),
    "audit": ("GET", "/v1/audit", None),
    "as the customer": ("POST", "/v1/conversations/{id}/messages", {"content": "I am the customer."}),
    "everywhere": ("PUT", "/v1/cache", {"on": False}),
    "erase": ("DELETE", "/v1/conversations/{id}", None),
}


async def test_each_role_may_do_what_it_is_for() -> None:
    """The matrix of roles and acts; nobody writes in a customer's name, and what concerns all takes an account for everywhere."""
    keep = chat()
    found: dict[str, set[str]] = {}
    async with served(keep) as client:
        await keep.receive("ada", "hello")
        for role in MAY:
            who = await person(keep, client.port, role)  # type: ignore[arg-type]
            id = "ada"
            if role == "viewer":
                id = (await who.ask("GET", "/v1/desk/conversations")).json["conversations"][0]["id"]
            answers = {
                name: (await who.ask(method, path.replace("{id}", id), body, If_Match="*")).status
                for name, (method, path, body) in ASKED.items()
            }
            found[role] = {name for name, status in answers.items() if status < 300}
            assert {403} == {status for name, status in answers.items() if name not in found[role]}, answers

    assert MAY == found


async def test_a_viewer_sees_what_is_personal_nowhere() -> None:
    """Numbers, addresses and ids are masked in every answer that a viewer gets, errors and streams too; an agent's reading is noted."""
    keep = chat()
    async with served(keep) as client:
        await keep.create(PHONE, owner="Ada Lovelace")
        for text in ("call +49 151 12345678", "mail ada@example.com or see https://ada.example/x", {"type": "image"}):
            await keep.receive(PHONE, text if isinstance(text, str) else [text | {"url": "https://ada.example/x.png"}])
        viewer, agent = await person(keep, client.port, "viewer"), await person(keep, client.port, "agent")
        listed = await viewer.ask("GET", "/v1/desk/conversations")
        id = listed.json["conversations"][0]["id"]
        paths = ["", "/messages", "/deliveries", "/answering", "/waiting", "/dead-letters", "/story"]
        shown = [listed, *[await viewer.ask("GET", f"/v1/conversations/{id}{path}") for path in paths]]
        raw = [await viewer.ask("GET", f"/v1/conversations/{wrong}") for wrong in (PHONE, "nobody", id[:-2] + "xx")]
        shown += [*raw, await viewer.ask("POST", f"/v1/conversations/{id}/dead-letters/9")]
        clear = await agent.ask("GET", f"/v1/conversations/{PHONE}")
        await agent.ask("GET", f"/v1/conversations/{PHONE}/messages")
        acts = (await client.ask("GET", "/v1/audit")).json["acts"]

    # (What is not found is told with the id that was asked for.)
    said = b"".join(answer.body for answer in shown).replace(b'"conversation":"whatsapp:4915112345678"', b"")
    assert [200] * 8 + [404] * 3 + [403] == [answer.status for answer in shown]
    assert [] == [word for word in (b"12345678", b"ada@", b"ada.example", b"Lovelace", b"4915") if word in said]
    assert b"mail \xe2\x80\xa2" in said
    assert "+49 151 12345678" in clear.body.decode()
    assert [("agent", PHONE)] == [(act["by"], act["conversation"]) for act in acts if act["act"] == "reveal"]


async def test_what_was_ended_is_ended_at_once() -> None:
    """Disabling, another password, another role, removing: a session that is open learns of it within two seconds."""
    keep = chat()
    async with served(keep) as client:
        agent = await person(keep, client.port, "agent")

        async def answered(status: int) -> bool:
            return (await agent.ask("PUT", "/v1/conversations/ada/bot", {"paused": True})).status == status

        await keep.receive("ada", "hello")
        await until(lambda: answered(200), every=0.1)
        await accounts.change_account(keep, "agent", lambda held: accounts.structs.replace(held, role="viewer"))
        await until(lambda: answered(403), every=0.1)
        await accounts.change_account(keep, "agent", lambda held: accounts.structs.replace(held, disabled=True))
        await until(lambda: answered(401), every=0.1)
        shut = await agent.sign_in({"name": "agent", "password": PASSWORD})
        await accounts.change_account(
            keep, "agent", lambda held: accounts.structs.replace(held, disabled=False, role="agent")
        )
        await agent.sign_in({"name": "agent", "password": PASSWORD})
        wrong = await agent.ask("PUT", "/v1/session/password", {"old": "x", "new": "another long one"})
        short = await agent.ask("PUT", "/v1/session/password", {"old": PASSWORD, "new": "short"})
        changed = await agent.ask("PUT", "/v1/session/password", {"old": PASSWORD, "new": "another long one"})
        await until(lambda: answered(401), every=0.1)
        await agent.sign_in({"name": "agent", "password": "another long one"})
        out = await agent.ask("DELETE", "/v1/session")
        await until(lambda: answered(401), every=0.1)
        await accounts.remove_account(keep, "agent")
        gone = await agent.sign_in({"name": "agent", "password": "another long one"})

    assert (401, 403, 422, 204, 204, 401) == tuple(answer.status for answer in (shut, wrong, short, changed, out, gone))


async def test_the_host_in_front_says_who_it_is() -> None:
    """Only where it was said to be believed; who has no account is not let in, and the session ends with the host's."""
    keep = chat()

    def host(request: Any) -> str | None:
        return request.headers.get("x-user")

    async with served(keep, operators=host) as client:
        await accounts.add_account(keep, "kim", role="agent")
        kim = Person(client.port)
        unknown = await Person(client.port).sign_in({}, X_User="eve")
        nobody = await Person(client.port).sign_in({})
        by_password = await Person(client.port).sign_in({"name": "kim", "password": ""})
        good = await kim.sign_in({}, X_User="Kim")
        statuses = [
            (await kim.ask("GET", "/v1/conversations", **headers)).status
            for headers in ({"X_User": "kim"}, {"X_User": "eve"}, {})
        ]

    assert (403, 401, 401, 201) == (unknown.status, nobody.status, by_password.status, good.status)
    assert [200, 401, 401] == statuses


async def test_a_header_counts_from_a_listed_proxy_only() -> None:
    """Whoever sends it themselves is nobody."""

    class Asked:
        def __init__(self, **scope: Any) -> None:
            from starlette.datastructures import Headers

            self.headers, self.scope = Headers({"X-Forwarded-User": "kim"}), scope

    named = header_of("X-Forwarded-User")

    assert ("kim", None) == (named(Asked(**{"chatkeep.proxy": ("10.0.0.1", 1)})), named(Asked()))  # type: ignore[arg-type]


async def test_keys_have_scopes_and_an_end() -> None:
    """A key with scopes does these and nothing else; one without does all, as before; a key signs in as itself."""
    keep = chat()
    async with served(keep) as client:
        await keep.receive("ada", "hello")
        few = await create_key(keep, "", label="reports", scopes=("list", "read"))
        asked = {
            "GET /v1/conversations": None,
            "GET /v1/conversations/ada": None,
            "GET /v1/conversations/ada/state": None,
            "POST /v1/conversations/ada/messages": b'{"content":"x"}',
            "PUT /v1/conversations/ada/bot": b'{"paused":true}',
            "POST /v1/conversations/ada/tokens": None,
            "GET /v1/audit": None,
        }
        found = [
            (await Client(client.port, few.token).ask(*name.split(" "), body)).status for name, body in asked.items()
        ]
        whole = [(await client.ask(*name.split(" "), body)).status for name, body in asked.items()]
        holder = Person(client.port)
        signed = await holder.sign_in({"key": few.token})
        beside = [(await holder.ask("GET", "/v1/conversations")).status]
        beside.append((await holder.ask("PUT", "/v1/conversations/ada/bot", {"paused": False})).status)
        wrong = await holder.sign_in({"key": few.token[:-1] + ("y" if few.token.endswith("x") else "x")})
        await revoke_key(keep, few.id)
        await until(refused(holder, "GET", "/v1/conversations"), every=0.1)

    assert [200, 200, 403, 403, 403, 403, 403] == found
    assert [200, 200, 200, 200, 200, 201, 200] == whole
    assert (201, "reports", [200, 403], 401) == (signed.status, signed.json["shown"], beside, wrong.status)
