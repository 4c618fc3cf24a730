"""Users by the JWT that the application has given them, for `create_app(users=...)`; PyJWT verifies it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from cachetools import TTLCache
from starlette.requests import Request

from ..auth.credentials import USER_SCOPES, Scope, checked
from ..conversation.keys import key_for
from ..errors import Misconfigured, Unavailable, UsageError
from ..extras import from_extra
from ..offload import offload
from .access import bearer
from .principals import KnownUser
from .wire import Refused

log = logging.getLogger("chatkeep.server")

TOKEN_MOST = 16 * 1024
SECRET_LEAST = 32
"""Bytes of a shared secret: fewer can be guessed."""

KEYS_MOST = 100
KEYS_S = 300.0
"""Keys from a URL are asked for again after this long."""

FETCH_S = 5.0
AGAIN_S = 5.0
"""After keys could not be had nobody asks for them for so long."""

INVALID = {"www-authenticate": 'Bearer error="invalid_token"'}

SAID = {
    "malformed": "It is no JWT that can be read",
    "algorithm": "It is signed in a way that is not accepted here",
    "unknown-key": "The key that it names is not known here",
    "signature": "Its signature is not that of the key",
    "expired": "It has expired",
    "not-yet-valid": "It is not valid yet; compare the clocks",
    "no-expiry": "It has no expiry (`exp`)",
    "wrong-audience": "It was made for somebody else (`aud`)",
    "wrong-issuer": "It was made by somebody else (`iss`)",
    "no-subject": "It names no user",
    "no-tenant": "It names no tenant",
}
"""Why a token is refused, by the name that the problem document has as its `reason`."""


def jwt_users(
    key: Any = None,
    *,
    jwks_url: str | None = None,
    algorithms: Sequence[str],
    audience: str | None,
    issuer: str | None,
    leeway: float = 30.0,
    subject: str = "sub",
    tenant: str | Sequence[str] | None = None,
    cookie: str | None = None,
    scopes: Sequence[Scope] = USER_SCOPES,
) -> Callable[[Request], Awaitable[KnownUser | None]]:
    """
    Return a function for `create_app(users=...)` that takes users from the JWTs of your application.

    A request without a JWT is nobody's; one with a JWT that does not hold is refused with 401 and a `reason`. A stream that was
    opened with a JWT ends when the JWT does.

    Args:
        key: The public key, as PEM or as a key object; for HS256 and its kind a secret of at least 32 bytes; or such keys by their `kid`.

        jwks_url: Instead: where the issuer publishes its keys. Over https, but for this host.

        algorithms: Those that are accepted, such as ["RS256"]. What the token says of itself decides nothing.

        audience, issuer: Whom `aud` and `iss` must name. None: the claim is not asked for; a token with an `aud` is then refused.

        leeway: How many seconds the issuer's clock may differ.

        subject: The claim with the user's name.

        tenant: The claim with the tenant; for a claim within another, both: ["app_metadata", "tenant"]. None: the default tenant.

        cookie: A cookie that may have the token, where there is no Authorization header.

        scopes: What the user may do.

    Raises:
        Misconfigured: The keys and algorithms do not fit each other, or there are not exactly one of `key` and `jwks_url`.
    """
    with from_extra("jwt", "jwt_users"):
        import jwt
    if (key is None) == (jwks_url is None):
        raise Misconfigured("jwt_users takes either a key or a jwks_url.")
    _check_algorithms(algorithms, jwks_url)
    allowed, place = checked(scopes), [tenant] if isinstance(tenant, str) else tenant
    fetched = None if jwks_url is None else _Fetched(jwks_url)
    held = _prepared(key, algorithms) if fetched is None else {}
    required = ["exp", *(["aud"] if audience is not None else []), *(["iss"] if issuer is not None else [])]

    async def key_of(kid: Any) -> Any:
        if fetched is not None:
            return await fetched.find(kid)
        if None in held:  # one key, whatever the token calls it
            return held[None]
        if kid not in held:
            raise _refused("unknown-key")
        return held[kid]

    async def users(request: Request) -> KnownUser | None:
        given = request.headers.getlist("authorization")
        text = bearer(given) if given else request.cookies.get(cookie, "") if cookie else ""
        if text.count(".") != 2:
            return None
        if len(text) > TOKEN_MOST:
            raise _refused("malformed")
        try:
            head = jwt.get_unverified_header(text)
            if head.get("alg") not in algorithms:
                raise _refused("algorithm")
            claims: dict[str, Any] = jwt.decode(
                text,
                await key_of(head.get("kid")),
                algorithms=list(algorithms),
                audience=audience,
                issuer=issuer,
                leeway=leeway,
                options={"require": required, "verify_sub": False},
            )
        except (jwt.InvalidTokenError, ValueError, TypeError, RecursionError) as fault:
            raise _refused(_reason(fault)) from None
        return _user_from(claims, subject, place, allowed, leeway)

    return users


def _check_algorithms(algorithms: Sequence[str], jwks_url: str | None) -> None:
    shared = [name for name in algorithms if name.startswith("HS")]
    if isinstance(algorithms, str) or not algorithms or "none" in [name.lower() for name in algorithms]:
        raise Misconfigured(f"algorithms={algorithms!r:.80}: name those that sign, in a list, such as ['RS256'].")
    if shared and (jwks_url is not None or len(shared) < len(algorithms)):
        # Whoever has the public key could use it as the secret.
        raise Misconfigured(f"algorithms={list(algorithms)!r:.80}: a shared secret and public keys do not go together.")
    if jwks_url is not None:
        where = urlsplit(jwks_url)
        if where.scheme != "https" and where.hostname not in ("localhost", "127.0.0.1", "::1"):
            raise Misconfigured("jwks_url: keys that come over plain http could be anybody's; use https.")


def _prepared(key: Any, algorithms: Sequence[str]) -> dict[str | None, Any]:
    """Return the keys by `kid`, one alone by None. Raises `Misconfigured` where one does not fit the algorithms."""
    import jwt

    keys = dict(key) if isinstance(key, Mapping) else {None: key}
    for name, one in keys.items():
        about = "The key" if name is None else f"The key {name!r:.40}"
        for algorithm in algorithms:
            try:
                jwt.get_algorithm_by_name(algorithm).prepare_key(one)
            except NotImplementedError:
                raise Misconfigured(f"algorithms: PyJWT has no {algorithm!r:.20} here.") from None
            except (jwt.InvalidKeyError, ValueError, TypeError) as fault:
                raise Misconfigured(f"{about} is none for {algorithm} ({fault}).") from None
            if algorithm.startswith("HS") and len(one) < SECRET_LEAST:
                raise Misconfigured(f"{about} is a secret of {len(one)} bytes; it takes at least {SECRET_LEAST}.")
    return keys


class _Fetched:
    """The keys that an issuer publishes."""

    def __init__(self, url: str) -> None:
        from jwt import PyJWKClient

        # It asks for a key that it does not know once in 30 s, so tokens with invented names cost no requests.
        self._client = PyJWKClient(url, cache_keys=False, lifespan=KEYS_S, timeout=FETCH_S)
        self._known: TTLCache[str, Any] = TTLCache(KEYS_MOST, KEYS_S)
        self._lock = asyncio.Lock()
        self._failed_at = 0.0

    async def find(self, kid: Any) -> Any:
        """Return the key *kid*. Raises `Refused` when the issuer has none of that name, `Unavailable` when the issuer cannot be asked."""
        if not isinstance(kid, str):
            raise _refused("unknown-key")
        if kid not in self._known:
            async with self._lock:
                self._known[kid] = self._known.get(kid) or await self._ask(kid)
        return self._known[kid]

    async def _ask(self, kid: str) -> Any:
        from jwt import PyJWKClientConnectionError, PyJWKClientError, PyJWTError

        if time.monotonic() - self._failed_at < AGAIN_S and self._failed_at:
            raise Unavailable(
                "The keys that users' tokens are signed with cannot be had at the moment; nothing was done."
            )
        try:
            return await offload(self._client.get_signing_key, kid)
        except PyJWKClientConnectionError as fault:
            self._failed_at = time.monotonic()
            log.warning("The keys of the users' tokens could not be fetched: %s", fault)
            raise Unavailable(
                "The keys that users' tokens are signed with cannot be had at the moment; nothing was done."
            ) from None
        except PyJWKClientError:
            raise _refused("unknown-key") from None
        except (PyJWTError, ValueError) as fault:
            self._failed_at = time.monotonic()
            log.warning("The keys of the users' tokens cannot be read: %s", fault)
            raise Unavailable("The keys that users' tokens are signed with cannot be read; nothing was done.") from None


def _reason(fault: Exception) -> str:
    import jwt

    reasons: list[tuple[type[Exception], str]] = [
        (jwt.ExpiredSignatureError, "expired"),
        (jwt.ImmatureSignatureError, "not-yet-valid"),
        (jwt.InvalidIssuedAtError, "not-yet-valid"),
        (jwt.InvalidAudienceError, "wrong-audience"),
        (jwt.InvalidIssuerError, "wrong-issuer"),
        (jwt.InvalidAlgorithmError, "algorithm"),
        (jwt.InvalidSignatureError, "signature"),
        (jwt.InvalidKeyError, "algorithm"),
    ]
    if isinstance(fault, jwt.MissingRequiredClaimError):
        return {"exp": "no-expiry", "aud": "wrong-audience", "iss": "wrong-issuer"}.get(fault.claim, "malformed")
    return next((name for kind, name in reasons if isinstance(fault, kind)), "malformed")


def _user_from(
    claims: Mapping[str, Any],
    subject: str,
    tenant: Sequence[str] | None,
    scopes: Sequence[Any],
    leeway: float,
) -> KnownUser:
    user, place = claims.get(subject), ""
    if not isinstance(user, str) or not _is_name("", user):
        raise _refused("no-subject")
    if tenant is not None:
        found: Any = claims
        for name in tenant:
            found = found.get(name) if isinstance(found, Mapping) else None
        if not isinstance(found, str) or not found or not _is_name(found, user):
            raise _refused("no-tenant")
        place = found
    return KnownUser(user=user, tenant=place, expires_at=float(claims["exp"]) + leeway, scopes=tuple(scopes))


def _is_name(tenant: str, user: str) -> bool:
    try:
        key_for(tenant, user)
    except UsageError:
        return False
    return True


def _refused(reason: str) -> Refused:
    return Refused(
        401, "unauthorized", f"The token was refused: {SAID[reason]}; nothing was done.", INVALID, reason=reason
    )
