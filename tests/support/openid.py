"""An OpenID provider in a server of its own: real keys and signatures (PyJWT's), authorization codes that count once, PKCE; and lies.

It signs in whoever `claims` are, without asking. What it checks of the client it answers as RFC 6749 says.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlencode

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from .serving import serving

CLIENT, SECRET = "desk", "a secret: with/odd+parts"


class Provider:
    """What the provider is, and how it lies."""

    def __init__(self) -> None:
        self.claims: dict[str, Any] = {"sub": "s-1", "email": "kim@example.com", "email_verified": True, "name": "Kim"}
        self.lies: dict[str, Any] = {}
        """Claims that it puts over the right ones; None takes one away."""
        self.denies = False
        self.describes: dict[str, Any] = {}
        self.algorithm = "RS256"
        self.asked: list[str] = []
        self.codes: dict[str, dict[str, str]] = {}
        self.issuer = ""
        self.rotate()
        self.signs_with: Any = None
        """Another key than those that it tells."""

    def rotate(self) -> None:
        """From now on another key, under another name, is the only one."""
        self.key, self.kid = rsa.generate_private_key(public_exponent=65537, key_size=2048), secrets.token_hex(4)

    @property
    def app(self) -> Starlette:
        """The server."""
        routes = {
            "/.well-known/openid-configuration": self.describe,
            "/authorize": self.authorize,
            "/token": self.give_token,
            "/keys": self.tell_keys,
        }
        return Starlette(routes=[Route(path, answer, methods=["GET", "POST"]) for path, answer in routes.items()])

    async def describe(self, request: Request) -> Response:
        """What it says of itself."""
        self.asked.append("describe")
        told = {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/keys",
            "id_token_signing_alg_values_supported": ["RS256", "HS256", "none"],
        }
        return JSONResponse(told | self.describes)

    async def tell_keys(self, request: Request) -> Response:
        """Its keys."""
        self.asked.append("keys")
        key = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(self.key.public_key()))
        return JSONResponse({"keys": [key | {"kid": self.kid, "use": "sig", "alg": "RS256"}]})

    async def authorize(self, request: Request) -> Response:
        """Signs in whoever comes."""
        asked = dict(request.query_params)
        assert ("code", CLIENT, "S256") == tuple(
            asked[n] for n in ("response_type", "client_id", "code_challenge_method")
        )
        assert "openid" in asked["scope"].split()
        told = {"state": asked["state"], "iss": self.issuer}
        if self.denies:
            told |= {"error": "access_denied", "error_description": "<b>no</b>"}
        else:
            code = told["code"] = secrets.token_urlsafe(8)
            self.codes[code] = asked
        return RedirectResponse(f"{asked['redirect_uri']}?{urlencode(told)}", 302)

    async def give_token(self, request: Request) -> Response:
        """A token for a code, once, to the client that began, and who holds what it hashed."""
        form = {name: str(value) for name, value in (await request.form()).items()}
        asked = self.codes.pop(form.get("code", ""), None)
        basic = base64.b64encode(f"{CLIENT}:{SECRET}".encode()).decode()
        if request.headers.get("authorization") != f"Basic {basic}":
            return JSONResponse({"error": "invalid_client"}, 401)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(form.get("code_verifier", "").encode()).digest()).decode()
        good = asked is not None and challenge.rstrip("=") == asked["code_challenge"]
        if asked is None or not good or form["redirect_uri"] != asked["redirect_uri"]:
            return JSONResponse({"error": "invalid_grant"}, 400)
        now = int(time.time())
        claims = self.claims | {
            "iss": self.issuer,
            "aud": CLIENT,
            "iat": now,
            "exp": now + 300,
            "nonce": asked["nonce"],
        }
        claims = {name: value for name, value in (claims | self.lies).items() if value is not None}
        key = self.key if self.signs_with is None else self.signs_with
        token = jwt.encode(claims, key, algorithm=self.algorithm, headers={"kid": self.kid})
        return JSONResponse({"access_token": "x", "token_type": "Bearer", "expires_in": 60, "id_token": token})


@asynccontextmanager
async def providing() -> AsyncIterator[Provider]:
    """A provider that runs until the end of the block."""
    provider = Provider()
    async with serving(provider.app) as port:
        provider.issuer = f"http://127.0.0.1:{port}"
        yield provider
