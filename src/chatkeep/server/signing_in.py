"""How people sign in at the operators' desk, and out of it: /v1/session."""

from __future__ import annotations

import logging
from math import ceil
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import quote

from msgspec import UNSET, Meta, Struct, UnsetType
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute

from ..app import core_of
from ..auth import accounts
from ..auth.accounts import Account, Throttled
from ..auth.credentials import stored_credentials
from ..auth.format import digest_of, is_mistyped
from ..auth.passwords import Busy
from ..errors import UsageError
from . import audit, wire
from .access import access_of, allows, keep_of, principal_of
from .audit import audited
from .cookies import refuse_other_pages
from .principals import Principal
from .refusals import forbidden
from .signed_in import Operator, SignInRefused, cookie_name, is_local, token_of

if TYPE_CHECKING:
    from .oidc import OpenIDProvider

log = logging.getLogger("chatkeep.audit")

SMALL = 16 * 1024
WRONG = "The name and the password do not belong together, or the account is disabled; nobody was signed in."
WRONG_KEY = "This key is unknown, expired or revoked; nobody was signed in. `chatkeep key create` makes one."
NO_ACCOUNT = (
    "There is no account for who the host in front of this server says you are; `chatkeep accounts add` makes one."
)

Secret = Annotated[str, Meta(max_length=2048)]


class SigningIn(Struct, forbid_unknown_fields=True):
    """Who wants to sign in: *name* and *password*, or a service *key*; neither: who the host in front says it is."""

    name: Secret = ""
    password: Secret = ""
    key: Secret = ""


class NewPassword(Struct, forbid_unknown_fields=True):
    """Another password for one's own account."""

    old: Secret
    new: Secret


class SignedInAs(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who is signed in. *proof*: what requests carry in `Chatkeep-Desk` beside the cookie. *host*: a host in front may say who it is.
    *provider*: what the button says that leads to the OpenID provider; "": there is none."""

    signed_in: bool
    account: str = ""
    shown: str = ""
    role: str = ""
    rights: list[str] = []
    tenants: list[str] = []
    everywhere: bool = False
    proof: str | UnsetType = UNSET
    ends_at: float = 0.0
    idle_s: float = 0.0
    host: bool = False
    provider: str = ""


class Session(wire.Resource):
    """/v1/session"""

    @allows(anyone=True)
    async def get(self, request: Request) -> Response:
        """Tell who is signed in, if anybody is, and what a page sends beside the cookie."""
        desk = access_of(request).desk
        operator = await desk.find(request) if from_here(request) else None
        if operator is None:
            provider: OpenIDProvider | None = request.app.state.provider
            return wire.as_json(
                SignedInAs(
                    signed_in=False,
                    host=await desk.named_by_host(request) is not None,
                    provider="" if provider is None else provider.label,
                )
            )
        return wire.as_json(shown(request, operator))

    @audited("sign-in")
    @allows(anyone=True)
    async def post(self, request: Request) -> Response:
        """Begin a session, and put it into a cookie that no script reads."""
        asked = await wire.body(request, SigningIn, limit=SMALL)
        refuse_other_pages(request)
        key = account = ""
        host = not asked.key and not asked.name
        if asked.key:
            key = await key_named(request, asked.key)
        elif asked.name:
            account = await account_named(request, asked)
        else:
            account = await account_of_host(request)
        operator, token = await begin(request, account=account, key=key, host=host)
        answer = wire.as_json(shown(request, operator, token), status=201)
        keep_session(request, answer, token)
        return answer

    @allows(right="list", masks=True)
    async def put(self, request: Request) -> Response:
        """Say that the person is still there; what a page asks by itself does not."""
        operator = of_person(request)
        await access_of(request).desk.touch(operator)
        return Response(status_code=204)

    @audited("sign-out")
    @allows(right="list", masks=True)
    async def delete(self, request: Request) -> Response:
        """End the session."""
        await accounts.end_session(keep_of(request), of_person(request).session)
        access_of(request).desk.look_again()
        answer = Response(status_code=204)
        answer.delete_cookie(cookie_name(request), **told_of_cookie(request, "strict"))
        return answer


class ProviderAsked(wire.Resource):
    """/v1/session/oidc"""

    @allows(anyone=True)
    async def get(self, request: Request) -> Response:
        """Send the browser to the OpenID provider, to sign in there."""
        provider = provider_of(request)
        try:
            address, kept = await provider.begin(done_at(request))
        except SignInRefused as fault:
            return not_let_in(request, fault)
        answer = RedirectResponse(address, 303)
        answer.set_cookie(attempt_cookie(request), kept, max_age=600, **told_of_cookie(request, "lax"))
        return answer


class ProviderDone(wire.Resource):
    """/v1/session/oidc/done"""

    @audited("sign-in")
    @allows(anyone=True)
    async def get(self, request: Request) -> Response:
        """Begin a session of whom the OpenID provider has authenticated, and go on to the desk."""
        provider, keep = provider_of(request), keep_of(request)
        name = attempt_cookie(request)
        token = ""
        try:
            claims = await provider.finish(request.query_params, request.cookies.get(name, ""), done_at(request))
            account = await provider.account(keep, claims)
            _, token = await begin(request, account=account)
        except SignInRefused as fault:
            answer = not_let_in(request, fault)
        else:
            answer = RedirectResponse(desk_at(request), 303)
            audit.end(request, "201")  # a session was made, as by a password
        answer.delete_cookie(name, **told_of_cookie(request, "lax"))  # an attempt counts once
        if token:
            keep_session(request, answer, token)
        return answer


class Password(wire.Resource):
    """/v1/session/password"""

    @audited("password")
    @allows(right="list", masks=True)
    async def put(self, request: Request) -> Response:
        """Change one's own password; all sessions of the account end, this one too."""
        operator, asked = of_person(request), await wire.body(request, NewPassword, limit=SMALL)
        if operator.role == "key":
            raise forbidden("Who has signed in with a key has no password.")
        await verified(request, operator.name, asked.old, status=403)
        with wire.refusing(422, "bad-password"):
            await accounts.set_password(keep_of(request), operator.name, asked.new)
        access_of(request).desk.look_again()
        return Response(status_code=204)


async def begin(request: Request, *, account: str = "", key: str = "", host: bool = False) -> tuple[Operator, str]:
    """Begin a session of an account, or of who holds a key; returns who is signed in then, and what the cookie holds."""
    keep, desk = keep_of(request), access_of(request).desk
    await accounts.tidy_sessions(keep, account, key, longest_s=desk.longest_s)
    if (former := accounts.session_name(token_of(request))) is not None:
        await accounts.end_session(keep, former)  # nothing of before a sign-in is worth anything after it
    token = await accounts.begin_session(keep, account=account, key=key, host=host)
    request.scope["headers"] = [
        *[(name, value) for name, value in request.scope["headers"] if name != b"cookie"],
        (b"cookie", f"{cookie_name(request)}={token}".encode()),
    ]
    desk.look_again()
    operator = await desk.find(Request(request.scope))
    if operator is None:  # (the key, or the account, was ended in this very moment)
        note_refused(request, account or "a key", "refused")
        raise refused(WRONG)
    request.state.principal = Principal(
        kind="operator", tenant=operator.tenants[0], scopes=operator.rights, id=operator.name, operator=operator
    )
    return operator, token


def keep_session(request: Request, answer: Response, token: str) -> None:
    """Have the browser keep a session."""
    longest = int(access_of(request).desk.longest_s)
    answer.set_cookie(cookie_name(request), token, max_age=longest, **told_of_cookie(request, "strict"))


def told_of_cookie(request: Request, samesite: Literal["lax", "strict"]) -> dict[str, Any]:
    """Return what is said of a cookie, beside its name and value."""
    return {"path": "/", "secure": not is_local(request), "httponly": True, "samesite": samesite}


def attempt_cookie(request: Request) -> str:
    """Return the name of the cookie that keeps an attempt to sign in at the OpenID provider. It is sent by who comes back from there,
    and so is not the session's."""
    return f"{cookie_name(request)}-oidc"


def provider_of(request: Request) -> OpenIDProvider:
    """Return the OpenID provider of this server. Raises 404 where there is none."""
    provider: OpenIDProvider | None = request.app.state.provider
    if provider is None:
        raise wire.Refused(404, "not-found", "No OpenID provider is set here; see `oidc_issuer`.")
    return provider


def desk_at(request: Request) -> str:
    """Return the address of the desk on this host, where the application may be mounted under a path."""
    return f"{quote(request.scope.get('root_path', ''))}/operator"


def done_at(request: Request) -> str:
    """Return where the OpenID provider sends the browser back to."""
    root = quote(request.scope.get("root_path", ""))
    return f"{request.url.scheme}://{request.url.netloc}{root}/v1/session/oidc/done"


def not_let_in(request: Request, fault: SignInRefused) -> Response:
    """Send the browser back to the desk, which says why nobody was signed in: by a code, since words in an address could be anybody's."""
    audit.end(request, fault.code)
    note_refused(request, fault.account or "openid", fault.code, " ".join(str(fault).split()))
    return RedirectResponse(f"{desk_at(request)}#/refused/{fault.code}", 303)


def from_here(request: Request) -> bool:
    """Tell whether a browser that says where a request comes from names this host; one that says nothing is believed to read only."""
    return request.headers.getlist("sec-fetch-site") in ([], ["same-origin"], ["none"])


def shown(request: Request, operator: Operator, token: str = "") -> SignedInAs:
    """Return *operator* as the page is told."""
    desk = access_of(request).desk
    return SignedInAs(
        signed_in=True,
        account=operator.name,
        shown=operator.shown,
        role=operator.role,
        rights=sorted(operator.rights),
        tenants=list(operator.tenants),
        everywhere=operator.everywhere,
        proof=accounts.proof_of(token or token_of(request)),
        ends_at=desk.ends_at(operator),
        idle_s=desk.idle_s,
    )


async def account_named(request: Request, asked: SigningIn) -> str:
    """Return the name of the account whose name and password were given. Raises 401, or 429 after too many wrong ones."""
    if digest_of(asked.password) is not None:
        raise refused(f"{WRONG} (A service key goes into the field for keys.)")
    await verified(request, asked.name, asked.password, status=401)
    return accounts.name_of(asked.name)


async def verified(request: Request, name: str, password: str, *, status: int) -> Account:
    """Return the account if the password is its own. Raises *status*, or 429 after too many wrong ones."""
    try:
        found = await accounts.sign_in(keep_of(request), name, password)
    except Busy:
        raise wire.Refused(
            503,
            "busy",
            "Too many people sign in here now; the password was not checked. Try again.",
            {"retry-after": "2"},
        ) from None
    except Throttled as wait:
        after = max(1, ceil(wait.after))
        note_refused(request, name, "throttled")
        raise wire.Refused(
            429,
            "rate-limited",
            f"Too many wrong passwords were given for this account; none is looked at for {after} s.",
            {"retry-after": str(after)},
        ) from None
    if found is None:
        note_refused(request, name, "refused")
        raise refused(WRONG) if status == 401 else forbidden("The old password is another one; nothing was changed.")
    return found


async def key_named(request: Request, key: str) -> str:
    """Return the name of the record of a service key that stands. Raises 401."""
    name = digest_of(key)
    stored = None if name is None or is_mistyped(key) else await stored_credentials(keep_of(request)).get(name)
    now = core_of(keep_of(request)).clock()
    if name is None or stored is None or stored.kind != "service" or stored.over(now):
        note_refused(request, "a key", "refused")
        raise refused(WRONG_KEY)
    return name


async def account_of_host(request: Request) -> str:
    """Return the account that the host in front of the server names. Raises 401 where it names nobody, and 403 for who has no account."""
    named = await access_of(request).desk.named_by_host(request)
    if named is None:
        raise refused(WRONG)
    account = await accounts.stored_accounts(keep_of(request)).get(named)
    if account is None or account.disabled:
        note_refused(request, named, "no account")
        raise forbidden(NO_ACCOUNT)
    return named


def note_refused(request: Request, name: str, outcome: str, why: str = "") -> None:
    """Note in the log that a sign-in was refused: of who said to be *name*, the *outcome* in one word or two, and *why*."""
    address = request.client.host if request.client else ""
    try:
        by = accounts.name_of(name)
    except UsageError:
        by = "(no name)"
    told = {"act": "sign-in", "by": by, "address": address, "outcome": outcome}
    log.warning("sign-in %s%s", outcome, why and f": {why}", extra=told)


def of_person(request: Request) -> Operator:
    """Return who is signed in. Raises 403 for a service key, which has no session."""
    operator = principal_of(request).operator
    if operator is None:
        raise forbidden("This is for people who are signed in; a key has no session.")
    return operator


def refused(said: str) -> wire.Refused:
    """Return 401, in words for people."""
    return wire.Refused(401, "unauthorized", said, {"www-authenticate": "Bearer"})


ROUTES: list[BaseRoute] = [
    wire.RawRoute("/v1/session", Session),
    wire.RawRoute("/v1/session/password", Password),
    wire.RawRoute("/v1/session/oidc", ProviderAsked),
    wire.RawRoute("/v1/session/oidc/done", ProviderDone),
]
