"""Signs people in at the operators' desk through an OpenID Connect provider: authorization code with PKCE, by Authlib.

    from chatkeep.server import create_app

    provider = OpenIDProvider("https://login.example.com", "desk", "...", roles={"desk-admins": "admin"}, role_claim="groups")
    app = create_app(keep, provider=provider)

The browser is sent to the provider with a state, a nonce and a challenge, which a cookie of ten minutes keeps for it; so any process may
finish what another one began. What comes back is believed only if the ID token is signed by a key of the provider, and is for this client
and this very attempt. Who signs in so has an account, whose name is a claim; with *role_claim* the account is made, and its role is
the provider's at each sign-in.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping, Sequence
from hmac import compare_digest
from typing import Any
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct, structs

from ..app import Chatkeep, core_of
from ..auth.accounts import ACCOUNTS, Account, name_of, stored_accounts
from ..auth.rights import ROLES, Role
from ..conversation.keys import key_for
from ..errors import Misconfigured, UsageError
from ..extras import from_extra
from .signed_in import SignInRefused

with from_extra("oidc", "Signing in through OpenID Connect"):
    from authlib.integrations.base_client.errors import OAuthError
    from authlib.integrations.httpx_client import AsyncOAuth2Client
    from authlib.oidc.core import CodeIDToken
    from httpx2 import HTTPError
    from joserfc import jwt
    from joserfc.errors import JoseError
    from joserfc.jwk import KeySet

log = logging.getLogger("chatkeep.audit")

ASK_S = 10.0
KNOWN_S = 3600.0
"""What the provider has said of itself, and its keys, are asked for again after this long."""

AGAIN_S = 30.0
"""And not sooner than after this long where a token names a key that is not known."""

ATTEMPT_S = 600
"""A person has so long to sign in at the provider."""

LEEWAY_S = 60
SIGNED_BY = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519"}
)
"""Algorithms that a token may be signed by: those with a key that only the provider has."""

RANK: Sequence[Role] = ("viewer", "agent", "admin")

NAMED = "openid email profile"


class Attempt(Struct, frozen=True, array_like=True):
    """What the browser keeps between leaving for the provider and coming back: proofs that both are one attempt."""

    state: str
    nonce: str
    verifier: str
    begun_at: float


class Described(Struct, frozen=True, kw_only=True):
    """What is used of a provider's description of itself."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    id_token_signing_alg_values_supported: tuple[str, ...] = ("RS256",)
    token_endpoint_auth_methods_supported: tuple[str, ...] = ("client_secret_basic",)


class OpenIDProvider:
    """
    A provider, and which accounts its people have here.

    Args:
        issuer: Its address, from which its description is read; https, but for one on this very machine.

        client_id, client_secret: What the provider knows the desk by. Without a secret the client is a public one.

        name_claim: The claim that names the account: "email", which must be verified, "sub", "preferred_username" ...

        role_claim: The claim that tells the role, a path such as "realm_access.roles"; "": the account must be there, with its role.

        roles: Which value of that claim gives which role; the highest one counts.

        tenants: The tenants that an account sees which is made so.

        label: What the button says.
    """

    def __init__(
        self,
        issuer: str,
        client_id: str,
        client_secret: str = "",
        *,
        name_claim: str = "email",
        role_claim: str = "",
        roles: Mapping[str, str] | None = None,
        tenants: Sequence[str] = ("",),
        label: str = "Sign in with OpenID Connect",
    ) -> None:
        if not is_safe(issuer):
            raise Misconfigured(f"oidc_issuer is the https address of a provider, not {issuer!r:.100}.")
        if not client_id:
            raise Misconfigured("oidc_client_id is what the provider knows the desk by, and is not set.")
        if wrong := sorted(set((roles or {}).values()) - set(ROLES)):
            raise Misconfigured(
                f"oidc_roles has {wrong[0]!r:.40}, which is not a role; the roles are {', '.join(ROLES)}."
            )
        if bool(role_claim) != bool(roles):
            raise Misconfigured(
                "oidc_role and oidc_roles belong together: the claim, and which value gives which role."
            )
        try:
            for tenant in tenants:
                key_for(tenant, "-")
        except UsageError as fault:
            raise Misconfigured(f"oidc_tenants: {fault}") from None
        self.issuer = issuer
        self.label = label
        self._client = client_id, client_secret
        self._name_claim, self._role_claim = name_claim, role_claim
        self._roles: dict[str, Role] = {value: role for value, role in (roles or {}).items() if role in ROLES}
        self._tenants = tuple(tenants) or ("",)
        self._described: tuple[float, Described] | None = None
        self._keys: tuple[float, KeySet] | None = None
        self._asking = asyncio.Lock()

    async def begin(self, redirect_uri: str) -> tuple[str, str]:
        """Return where the browser is sent, and what a cookie keeps for it meanwhile. Raises `SignInRefused`."""
        described = await self._describe()
        state, nonce, verifier = (secrets.token_urlsafe(48) for _ in range(3))
        attempt = Attempt(state, nonce, verifier, time.time())
        async with self._session(described, redirect_uri) as session:
            address, _ = session.create_authorization_url(
                described.authorization_endpoint,
                state=attempt.state,
                nonce=attempt.nonce,
                code_verifier=attempt.verifier,
            )
        return address, urlsafe_b64encode(msgspec.json.encode(attempt)).decode().rstrip("=")

    async def finish(self, query: Mapping[str, str], kept: str, redirect_uri: str) -> dict[str, Any]:
        """Return the claims about who has signed in at the provider. Raises `SignInRefused`."""
        attempt = attempt_in(kept)
        if attempt is None or not 0 <= time.time() - attempt.begun_at <= ATTEMPT_S:
            raise SignInRefused("late", "no attempt of this browser was begun in the last ten minutes")
        if not compare_digest(query.get("state", "").encode(), attempt.state.encode()):
            raise SignInRefused("state", "the answer is to another attempt than this browser's")
        if query.get("iss", self.issuer) != self.issuer:
            raise SignInRefused("state", "another provider has answered")
        if "error" in query:
            raise SignInRefused(
                "denied", f"the provider says {query['error']!r:.60} {query.get('error_description', '')!r:.200}"
            )
        described = await self._describe()
        try:
            async with self._session(described, redirect_uri) as session:
                answer = await session.fetch_token(
                    described.token_endpoint, code=query.get("code", ""), code_verifier=attempt.verifier
                )
        except OAuthError as fault:
            raise SignInRefused("token", f"the provider gave no token: {fault}") from None
        except (HTTPError, ValueError) as fault:
            raise SignInRefused("away", f"the provider did not answer: {fault!r:.200}") from None
        return await self._believe(described, str(answer.get("id_token", "")), attempt.nonce)

    async def account(self, keep: Chatkeep[Any], claims: Mapping[str, Any]) -> str:
        """Return the name of the account that *claims* are of, made or changed as they say. Raises `SignInRefused`."""
        name, subject = self._name(claims), str(claims["sub"])
        role = self._role(claims, name)
        shown = next((one for claim in ("name", "given_name") if isinstance(one := claims.get(claim), str)), "")[:200]

        def edit(held: Account | None) -> Account:
            if held is None:
                if role is None:
                    raise SignInRefused("account", f"there is no account {name!r}", account=name)
                now = core_of(keep).clock()
                held = Account(role=role, shown=shown, tenants=self._tenants, created_at=now)
            elif held.disabled:
                raise SignInRefused("account", f"the account {name!r} is disabled", account=name)
            elif held.password:
                raise SignInRefused("password", f"the account {name!r} has a password", account=name)
            elif (held.issuer or self.issuer) != self.issuer or (held.subject or subject) != subject:
                raise SignInRefused("subject", f"the account {name!r} is somebody else's at the provider", account=name)
            now = core_of(keep).clock()
            return structs.replace(held, role=role or held.role, issuer=self.issuer, subject=subject, signed_in_at=now)

        await stored_accounts(keep).change(name, edit, owner=ACCOUNTS)
        return name

    def _name(self, claims: Mapping[str, Any]) -> str:
        given = found_at(claims, self._name_claim)
        if self._name_claim == "email" and claims.get("email_verified") not in (True, "true"):
            raise SignInRefused("name", "the provider has not verified the address of mail")
        try:
            return name_of(given if isinstance(given, str) else "")
        except UsageError:
            raise SignInRefused("name", f"the claim {self._name_claim!r} is no name of an account") from None

    def _role(self, claims: Mapping[str, Any], name: str) -> Role | None:
        if not self._role_claim:
            return None
        given = found_at(claims, self._role_claim)
        values = [given] if isinstance(given, str) else given if isinstance(given, list) else []
        roles = {self._roles[value] for value in values if isinstance(value, str) and value in self._roles}
        if not roles:
            raise SignInRefused("role", f"the claim {self._role_claim!r} gives no role here", account=name)
        return max(roles, key=RANK.index)

    async def _believe(self, described: Described, token: str, nonce: str) -> dict[str, Any]:
        algorithms = SIGNED_BY & set(described.id_token_signing_alg_values_supported)
        decoded = None
        for again in (False, True):
            keys = await self._fetch_keys(described, again=again)
            try:
                decoded = jwt.decode(token, keys, algorithms=algorithms)
                break
            except (JoseError, ValueError) as fault:  # perhaps the provider has new keys
                if again:
                    raise SignInRefused("token", f"the ID token is not signed by the provider: {fault}") from None
        assert decoded is not None
        client_id = self._client[0]
        options = {"iss": {"essential": True, "value": self.issuer}, "aud": {"essential": True, "value": client_id}}
        claims = CodeIDToken(decoded.claims, decoded.header, options, {"nonce": nonce, "client_id": client_id})
        try:
            claims.validate(leeway=LEEWAY_S)
        except (JoseError, ValueError, TypeError) as fault:
            raise SignInRefused("token", f"the ID token is not for this attempt: {fault}") from None
        return dict(decoded.claims)

    async def _describe(self) -> Described:
        async with self._asking:
            if self._described is None or time.monotonic() - self._described[0] > KNOWN_S:
                address = self.issuer.rstrip("/") + "/.well-known/openid-configuration"
                try:
                    found = msgspec.convert(await self._get(address), Described)
                except msgspec.ValidationError as fault:
                    raise SignInRefused("away", f"{address} does not describe a provider: {fault}") from None
                if found.issuer != self.issuer:
                    raise SignInRefused(
                        "away", f"{address} describes {found.issuer!r:.100}, and oidc_issuer is {self.issuer!r}"
                    )
                if not all(map(is_safe, (found.authorization_endpoint, found.token_endpoint, found.jwks_uri))):
                    raise SignInRefused("away", f"{address} names an address that is not https")
                self._described = time.monotonic(), found
            return self._described[1]

    async def _fetch_keys(self, described: Described, *, again: bool) -> KeySet:
        async with self._asking:
            age = float("inf") if self._keys is None else time.monotonic() - self._keys[0]
            if self._keys is None or age > (AGAIN_S if again else KNOWN_S):
                try:
                    found = KeySet.import_key_set(await self._get(described.jwks_uri))
                except (JoseError, ValueError, TypeError, KeyError) as fault:
                    raise SignInRefused("away", f"{described.jwks_uri} has no keys: {fault}") from None
                self._keys = time.monotonic(), found
            return self._keys[1]

    async def _get(self, address: str) -> Any:
        async with AsyncOAuth2Client(timeout=ASK_S) as session:
            try:
                answer = await session.request("GET", address, withhold_token=True)
                answer.raise_for_status()
                return answer.json()
            except (HTTPError, ValueError) as fault:
                raise SignInRefused("away", f"{address} did not answer: {fault!r:.200}") from None

    def _session(self, described: Described, redirect_uri: str) -> AsyncOAuth2Client:
        client_id, secret = self._client
        known = described.token_endpoint_auth_methods_supported
        method = (
            "client_secret_post"
            if "client_secret_basic" not in known and "client_secret_post" in known
            else "client_secret_basic"
        )
        return AsyncOAuth2Client(
            client_id,
            secret or None,
            scope=NAMED,
            redirect_uri=redirect_uri,
            token_endpoint_auth_method=method if secret else "none",
            code_challenge_method="S256",
            timeout=ASK_S,
        )


def attempt_in(kept: str) -> Attempt | None:
    """Return the attempt that a cookie holds; None if it holds none."""
    try:
        return msgspec.json.decode(urlsafe_b64decode(kept + "=" * (-len(kept) % 4)), type=Attempt)
    except ValueError:
        return None


def found_at(claims: Mapping[str, Any], path: str) -> Any:
    """Return the claim of this name or, where there is none, what is at the path that its dots make; None if there is nothing."""
    if path in claims:
        return claims[path]
    found: Any = claims
    for part in path.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def is_safe(address: str) -> bool:
    """Tell whether *address* is https, or on this very machine."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return False
    local = parts.hostname in ("localhost", "127.0.0.1", "::1")
    return bool(parts.hostname) and (parts.scheme == "https" or (parts.scheme == "http" and local))


def roles_in(pairs: Sequence[str]) -> dict[str, str]:
    """Return which value gives which role, from "value=role" each."""
    return {value: role for value, _, role in (pair.rpartition("=") for pair in pairs)}
