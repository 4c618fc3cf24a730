"""Users whom the application knows already: by JWTs of its own, and by sessions."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from chatkeep import Chatkeep
from chatkeep.errors import Misconfigured
from chatkeep.server import create_app, jwt_users

from ..support.counting import count
from ..support.serving import Client, serving
from ..support.stores import FAST

jwt = pytest.importorskip("jwt", reason="NO PyJWT, SO USERS' TOKENS ARE NOT TRIED: pip install 'chatkeep[jwt]'")

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "people.md").read_text()
FIXED: dict[str, Any] = {"algorithms": ["RS256"], "audience": "chat", "issuer": "https://login.example"}


class Keys(NamedTuple):
    """The application's key, another one, and what is public of the first."""

    own: rsa.RSAPrivateKey
    other: rsa.RSAPrivateKey

    @property
    def public(self) -> bytes:
        """As PEM."""
        return self.own.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@pytest.fixture(scope="module")
def keys() -> Keys:
    """Two of them."""
    return Keys(*(rsa.generate_private_key(65537, 2048) for _ in range(2)))


def claims(**changed: Any) -> dict[str, Any]:
    """What a good token says, but for what is *changed*; None: not there."""
    now = time.time()
    said = {"sub": "ada", "aud": "chat", "iss": "https://login.example", "exp": now + 60, "org": "salon-7"} | changed
    return {name: value for name, value in said.items() if value is not None}


def signed(key: Any, *, algorithm: str = "RS256", head: dict[str, Any] | None = None, **changed: Any) -> str:
    """A token that the application gives out."""
    return str(jwt.encode(claims(**changed), key, algorithm=algorithm, headers=head))


def forged(head: dict[str, Any], body: dict[str, Any], sign: Callable[[bytes], bytes]) -> str:
    """A token as no library would make it."""

    def part(value: bytes) -> bytes:
        return base64.urlsafe_b64encode(value).rstrip(b"=")

    said = part(json.dumps(head).encode()) + b"." + part(json.dumps(body).encode())
    return (said + b"." + part(sign(said))).decode()


@asynccontextmanager
async def asking(users: Any) -> AsyncIterator[Callable[..., Any]]:
    """A server for *users*: asked with a token, it says what /v1/me answers."""
    keep: Chatkeep[Any] = Chatkeep("memory://", **FAST)
    keep.on_message(count)
    async with serving(create_app(keep, users=users, anonymous=True)) as port:
        client = Client(port, "")

        async def ask(token: str = "", method: str = "GET", path: str = "/v1/me", **headers: str) -> Any:
            given = {
                "Authorization": token and f"Bearer {token}",
                **{n.replace("_", "-"): v for n, v in headers.items()},
            }
            return await client.ask(method, path, b'{"content": "hi"}' if method == "POST" else None, given)

        ask.port = port  # type: ignore[attr-defined]
        yield ask


def attacks(keys: Keys) -> dict[str, tuple[str, str]]:
    """Tokens that must not be let in, and why."""
    good = signed(keys.own)
    head, body, signature = good.split(".")
    other = signed(keys.own, sub="eve").split(".")[1]

    def by_hmac(said: bytes) -> bytes:
        return hmac.new(keys.public, said, hashlib.sha256).digest()

    return {
        "no signature": (forged({"alg": "none"}, claims(), lambda said: b""), "algorithm"),
        "no signature, in other letters": (forged({"alg": "NonE"}, claims(), lambda said: b""), "algorithm"),
        "no algorithm": (forged({}, claims(), lambda said: b"x"), "algorithm"),
        "the public key as a secret": (forged({"alg": "HS256"}, claims(), by_hmac), "algorithm"),
        "that, and called RS256": (forged({"alg": "RS256"}, claims(), by_hmac), "signature"),
        "its own key with it": (
            forged({"alg": "RS256", "jwk": {"kty": "oct", "k": "eA"}}, claims(), by_hmac),
            "signature",
        ),
        "another key": (signed(keys.other), "signature"),
        "other claims": (f"{head}.{other}.{signature}", "signature"),
        "cut off": (f"{head}.{body}.", "signature"),
        "expired": (signed(keys.own, exp=time.time() - 31), "expired"),
        "not yet valid": (signed(keys.own, nbf=time.time() + 60), "not-yet-valid"),
        "without end": (signed(keys.own, exp=None), "no-expiry"),
        "an end that is no number": (forged({"alg": "RS256"}, claims(exp="soon"), by_hmac), "signature"),
        "for others": (signed(keys.own, aud="billing"), "wrong-audience"),
        "for nobody": (signed(keys.own, aud=None), "wrong-audience"),
        "by others": (signed(keys.own, iss="https://evil.example"), "wrong-issuer"),
        "by nobody": (signed(keys.own, iss=None), "wrong-issuer"),
        "of nobody": (signed(keys.own, sub=None), "no-subject"),
        "of a number": (forged_claims(keys, sub=7), "no-subject"),
        "of an empty name": (signed(keys.own, sub=""), "no-subject"),
        "of a name that is too long": (signed(keys.own, sub="x" * 513), "no-subject"),
        "without a tenant": (signed(keys.own, org=None), "no-tenant"),
        "of a tenant that is chatkeep's own": (signed(keys.own, org="~people:"), "no-tenant"),
        "of a list of tenants": (signed(keys.own, org=["salon-7"]), "no-tenant"),
        "no JSON": ("e30.e30.e30", "algorithm"),
        "no base64": ("a.b.c", "malformed"),
        "too long": (f"{head}.{'A' * 20_000}.{signature}", "malformed"),
    }


def forged_claims(keys: Keys, **changed: Any) -> str:
    """A token with claims that PyJWT would not write."""
    return str(jwt.api_jws.encode(json.dumps(claims(**changed)).encode(), keys.own, algorithm="RS256"))


async def test_a_token_is_refused_by_name(keys: Keys) -> None:
    """Each attack; none of them is taken for a visitor either. The good one is let in, and so is a clock that is a little off."""
    async with asking(jwt_users(keys.public, **FIXED, tenant="org")) as ask:
        told = {}
        for name, (token, _) in attacks(keys).items():
            answer = await ask(token)
            told[name] = (answer.status, answer.json.get("reason"))
        good, late = await ask(signed(keys.own)), await ask(signed(keys.own, exp=time.time() - 20))
        nobody = await ask()

    assert {name: (401, reason) for name, (_, reason) in attacks(keys).items()} == told
    assert ("ada", "salon-7", "user") == (good.json["user"], good.json["tenant"], good.json["kind"])
    assert (200, 401) == (late.status, nobody.status)
    assert 'Bearer error="invalid_token"' == (await refused(keys)).headers["www-authenticate"]


async def refused(keys: Keys) -> Any:
    """The whole answer to an expired token."""
    async with asking(jwt_users(keys.public, **FIXED)) as ask:
        return await ask(signed(keys.own, exp=time.time() - 100))


async def test_a_user_of_one_tenant_has_nothing_of_another(keys: Keys) -> None:
    """The same name in two tenants is two users."""
    async with asking(jwt_users(keys.public, **FIXED, tenant=["app", "tenant"])) as ask:
        one, other = (signed(keys.own, app={"tenant": name}) for name in ("a", "b"))
        sent = await ask(one, "POST", "/v1/conversations/c/messages")
        mine, others = await ask(one, path="/v1/conversations/c"), await ask(other, path="/v1/conversations/c")

    assert (200, 200, 404) == (sent.status, mine.status, others.status)


async def test_secrets_and_several_keys(keys: Keys) -> None:
    """A shared secret; keys by name; a cookie with the token, which changes something only from a page of this host."""
    secret = "s" * 40
    shared = {"algorithms": ["HS256"], "audience": None, "issuer": None}
    async with asking(jwt_users(secret, **shared, cookie="session", scopes=["read"])) as ask:
        token = signed(secret, algorithm="HS256", aud=None)
        read, audience = await ask("", Cookie=f"session={token}"), await ask(signed(secret, algorithm="HS256"))
        elsewhere = await ask("", "POST", "/v1/conversations/c/messages", Cookie=f"session={token}")
    async with asking(jwt_users({"new": keys.public, "old": keys.other.public_key()}, **FIXED)) as ask:
        named = [
            (await ask(signed(keys.other, head={"kid": kid}))).json.get("reason", "") for kid in ("old", "new", "x")
        ]

    assert (200, ["read"], 401) == (read.status, read.json["scopes"], audience.status)
    assert (403, ["", "signature", "unknown-key"]) == (elsewhere.status, named)


@pytest.mark.parametrize(
    ("key", "changed"),
    [
        (None, {}),
        ("s" * 40, {"algorithms": ["none"]}),
        ("s" * 40, {"algorithms": []}),
        ("s" * 40, {"algorithms": "HS256"}),
        ("s" * 31, {"algorithms": ["HS256"]}),
        ("s" * 40, {"algorithms": ["RS256"]}),
        ("s" * 40, {"algorithms": ["HS256", "RS256"]}),
        ("s" * 40, {"algorithms": ["RS257"]}),
        (None, {"jwks_url": "http://login.example/keys"}),
        (None, {"jwks_url": "https://login.example/keys", "algorithms": ["HS256"]}),
    ],
)
def test_what_cannot_be_safe_is_refused_at_once(key: Any, changed: dict[str, Any]) -> None:
    """When the application starts, and not with the first token."""
    with pytest.raises(Misconfigured):
        jwt_users(key, **(FIXED | changed))


def test_a_public_key_is_no_secret(keys: Keys) -> None:
    """The confusion that gives everybody the key."""
    with pytest.raises(Misconfigured, match="none for HS256"):
        jwt_users(keys.public, **(FIXED | {"algorithms": ["HS256"]}))


async def test_keys_that_an_issuer_publishes(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are fetched when they are needed; tokens with invented names fetch nothing; without the issuer it says 503, not 401."""
    old, new = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    published, asked = {"old": old}, list[float]()

    async def publish(request: Request) -> JSONResponse:
        asked.append(time.monotonic())
        shown = [
            json.loads(jwt.algorithms.ECAlgorithm.to_jwk(key.public_key())) | {"kid": kid, "use": "sig", "alg": "ES256"}
            for kid, key in published.items()
        ]
        return JSONResponse({"keys": shown})

    def token(kid: str, key: Any) -> str:
        return signed(key, algorithm="ES256", head={"kid": kid})

    async with serving(Starlette(routes=[Route("/keys", publish)])) as port:
        users = jwt_users(jwks_url=f"http://127.0.0.1:{port}/keys", **(FIXED | {"algorithms": ["ES256"]}))
        async with asking(users) as ask:
            let_in = [await ask(token("old", old)) for _ in range(3)]
            at_first = len(asked)
            invented = await asyncio.gather(*(ask(token(f"x{number}", new)) for number in range(20)))
            invented_asked = len(asked)
            wrong = await ask(token("old", new))
            unnamed = await ask(signed(old, algorithm="ES256"))
    away = jwt_users(jwks_url=f"http://127.0.0.1:{port}/keys", **(FIXED | {"algorithms": ["ES256"]}))
    async with asking(away) as ask:
        without = [await ask(token("old", old)) for _ in range(2)]

    assert ([200] * 3, 1) == ([one.status for one in let_in], at_first)
    assert {"unknown-key"} == {one.json["reason"] for one in invented}
    assert invented_asked <= 2
    assert ("signature", "unknown-key") == (wrong.json["reason"], unnamed.json["reason"])
    assert [503, 503] == [one.status for one in without]


async def test_a_stream_ends_with_its_token(keys: Keys) -> None:
    """What was opened with a token that has expired tells nothing more."""
    async with asking(jwt_users(keys.public, **FIXED, leeway=0)) as ask:
        token = signed(keys.own, exp=int(time.time()) + 2)
        reader, writer = await asyncio.open_connection("127.0.0.1", ask.port)  # type: ignore[attr-defined]
        lines = "GET /v1/me/events HTTP/1.1", "Host: localhost", f"Authorization: Bearer {token}"
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        async with asyncio.timeout(10):
            said = await reader.readuntil(b"revoked")
        writer.close()

    assert b"event: end" in said


async def test_sessions_of_starlette(monkeypatch: pytest.MonkeyPatch) -> None:
    """The example of the page: who has signed in has the session's conversations; a forged session is nobody's."""
    pytest.importorskip("itsdangerous", reason="NO itsdangerous, SO STARLETTE'S SESSIONS ARE NOT TRIED")
    names: dict[str, Any] = {"SECRET": "x" * 32}
    exec(example("session"), names)
    async with serving(names["app"]) as port:
        client = Client(port, "")
        signed_in = await client.ask("POST", "/sign-in", b"{}", {"Authorization": ""})
        cookie = signed_in.headers["set-cookie"].split(";")[0]
        here = {"Cookie": cookie, "Authorization": "", "Sec-Fetch-Site": "same-origin"}
        sent = await client.ask("POST", "/chat/v1/conversations/c/messages", b'{"content": "hi"}', here)
        elsewhere = await client.ask(
            "POST", "/chat/v1/conversations/c/messages", b'{"content": "hi"}', here | {"Sec-Fetch-Site": ""}
        )
        forged = await client.ask("GET", "/chat/v1/me", None, here | {"Cookie": cookie[:-3] + "AAA"})
        me = await client.ask("GET", "/chat/v1/me", None, here)

    assert (200, 403, 401, "ada") == (sent.status, elsewhere.status, forged.status, me.json["user"])


async def test_sessions_of_django() -> None:
    """The example of the page, with Django's own signed cookies."""
    pytest.importorskip("django", reason="NO Django, SO ITS SESSIONS ARE NOT TRIED")
    from django.conf import settings

    engine = "django.contrib.sessions.backends.signed_cookies"
    settings.configure(SECRET_KEY="x" * 50, SESSION_ENGINE=engine)
    from django.contrib.sessions.backends.signed_cookies import SessionStore

    session = SessionStore()
    session["_auth_user_id"] = "ada"
    session.save()
    names: dict[str, Any] = {}
    exec(example("django"), names)
    async with asking(names["user_of"]) as ask:
        me = await ask("", Cookie=f"sessionid={session.session_key}")
        forged = await ask("", Cookie=f"sessionid={session.session_key[:-3]}AAA")
        nobody = await ask("")

    assert ("ada", 401, 401) == (me.json["user"], forged.status, nobody.status)


def example(word: str) -> str:
    """The block of the page that has this word."""
    blocks = re.findall(r"<!-- run by tests/server/test_jwts.py -->\n+```python\n(.*?)```", PAGE, re.S)
    return next(block for block in blocks if word in block)
