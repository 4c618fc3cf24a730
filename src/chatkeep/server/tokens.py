"""The addresses at which tokens and shares are made, listed, exchanged and ended."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct, structs
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from ..app import core_of
from ..auth import credentials
from ..auth.credentials import Issued, Scope
from . import answers, wire
from .access import access_of, allows, conversation_asked, keep_of, principal_of
from .api import conversation
from .audit import audited
from .cookies import (
    SHARED_MOST,
    clear_cookie,
    holds_many,
    refuse_other_pages,
    set_cookie,
    shared_cookie,
)
from .devices import OWN, Rotation
from .refusals import forbidden, not_found, unauthorized

Label = Annotated[str, Meta(max_length=200)]
Subject = Annotated[str, Meta(max_length=512)]


class NewToken(Struct, forbid_unknown_fields=True):
    """A token that is asked for; *subject*: the user whom it is for, under any name that stays the same."""

    scopes: tuple[Scope, ...] = credentials.TOKEN_SCOPES
    expires_in: Annotated[float, Meta(gt=0, le=credentials.TOKEN_LONGEST_S)] = credentials.TOKEN_S
    label: Label = ""
    subject: Subject = ""


class NewShare(Struct, forbid_unknown_fields=True):
    """A share that is asked for; without *scopes*, what a token has by default, as far as its maker has it."""

    scopes: list[Scope] | None = None
    expires_in: Annotated[float, Meta(gt=0, le=credentials.SHARE_LONGEST_S)] = credentials.SHARE_S
    uses: Annotated[int, Meta(ge=1, le=100)] = 1


class Redemption(Struct, forbid_unknown_fields=True):
    """A share to be exchanged for a token; with *cookie* the token goes into a cookie for that conversation alone."""

    share: str
    cookie: bool = False


class MeQuery(Struct, forbid_unknown_fields=True):
    """Of which conversation the cookie is meant, where a browser has several."""

    conversation: wire.Name | None = None


class Me(wire.Resource):
    """/v1/me"""

    @allows(own=True)
    async def get(self, request: Request) -> Response:
        """Return who the credential stands for, and what it allows."""
        principal, asked = principal_of(request), wire.query(request, MeQuery).conversation
        if principal.kind == "token" and asked not in (None, principal.conversation):
            raise not_found()
        return wire.as_json(answers.me(principal))


class Tokens(wire.Resource):
    """/v1/conversations/{id}/tokens"""

    @audited("token:create")
    @allows(right="tokens")
    async def post(self, request: Request) -> Response:
        """Make a token; the only time that it is shown."""
        asked = await wire.body(request, NewToken, limit=wire.SHORT_BODY, needed=False)
        issued = await credentials.issue_token(
            keep_of(request), principal_of(request).tenant, conversation_asked(request), **structs.asdict(asked)
        )
        return wire.as_json(issued, status=201)

    @allows(own=True, right="tokens")
    async def get(self, request: Request) -> Response:
        """Return the tokens and shares of the conversation, without what they are: a token is shown those that it may end."""
        keep, principal = keep_of(request), principal_of(request)
        if principal.kind == "token" and principal.stored is not None:
            found = await credentials.list_related(keep, principal.stored)
        else:
            found = await credentials.list_tokens(keep, principal.tenant, conversation_asked(request))
            if not found:
                await conversation(request, messages=0)  # an empty list of what is not there would hide that
        return wire.as_json(answers.Tokens(credentials.mark_current(found, principal.id)))


class Token(wire.Resource):
    """/v1/conversations/{id}/tokens/{token}"""

    @audited("token:end")
    @allows(own=True, right="tokens")
    async def delete(self, request: Request) -> Response:
        """End a token or a share, and what comes from it; a token can end itself, and those that it is shown."""
        keep, principal, asked = keep_of(request), principal_of(request), request.path_params["token"]
        id = principal.id if asked == OWN else asked
        if principal.kind == "token" and principal.stored is not None and id != principal.id:
            related = await credentials.list_related(keep, principal.stored)
            if id not in [found.id for found in related]:
                raise forbidden("A token can end itself, the others of its holder, and what comes from these.")
        if not await credentials.revoke(keep, principal.tenant, conversation_asked(request), id):
            raise not_found()
        access_of(request).look_again()
        answer = Response(status_code=204)
        if principal.cookie and not await access_of(request).holds(principal):
            clear_cookie(answer, principal.cookie)
        return answer


class Rotated(wire.Resource):
    """/v1/conversations/{id}/tokens/{token}/rotate"""

    @audited("token:rotate")
    @allows(own=True, right="tokens")
    async def post(self, request: Request) -> Response:
        """Put a new token in the place of another; whoever holds it in the cookie gets the new one there."""
        asked = await wire.body(request, Rotation, limit=wire.SHORT_BODY, needed=False)
        place = (principal_of(request).tenant, conversation_asked(request), rotated_asked(request))
        with wire.refusing(409, "rotated"):
            issued = await credentials.rotate(keep_of(request), *place, grace=asked.grace)
        if issued is None:
            raise not_found()
        access_of(request).look_again()
        return answered(request, issued, cookie=principal_of(request).cookie)


class Shares(wire.Resource):
    """/v1/conversations/{id}/shares"""

    @audited("share:create")
    @allows("share")
    async def post(self, request: Request) -> Response:
        """Make a share of the conversation, with no more rights than its maker has."""
        maker = principal_of(request)
        asked = await wire.body(request, NewShare, limit=wire.SHORT_BODY, needed=False)
        scopes = asked.scopes
        if scopes is None:
            scopes = [scope for scope in credentials.TOKEN_SCOPES if scope in maker.scopes]
        if more := [scope for scope in scopes if scope not in maker.scopes]:
            raise forbidden(f"This token has not the scope {more[0]!r}, so it cannot share it.")
        with wire.refusing(403, "forbidden"):
            issued = await credentials.issue_share(
                keep_of(request),
                maker.tenant,
                conversation_asked(request),
                maker=maker.name,
                scopes=scopes,
                expires_in=asked.expires_in,
                uses=asked.uses,
            )
        if issued is None:
            raise unauthorized()
        # Behind the #: that part of an address is never sent to a server, so no log has it.
        url = f"{request.scope.get('root_path', '')}/#share={issued.token}"
        return wire.as_json(answers.Share(issued.id, issued.token, url, issued.expires_at or 0.0), status=201)


class Redeemed(wire.Resource):
    """/v1/shares/redeem"""

    @audited("share:redeem")
    @allows(anyone=True)
    async def post(self, request: Request) -> Response:
        """Exchange a share for a token of its conversation."""
        asked = await wire.body(request, Redemption, limit=wire.SHORT_BODY)
        if asked.cookie:  # before the share is used up
            refuse_other_pages(request)
        full = asked.cookie and holds_many(request)
        ended = await access_of(request).find_ended_cookies(request) if full else []
        if full and not ended:
            raise wire.Refused(
                409,
                "too-many-chats",
                f"This browser keeps {SHARED_MOST} shared chats in its cookies; the share was not used. Leave one of them "
                "(`DELETE .../tokens/current`), or redeem the share without `cookie`.",
            )
        found = await credentials.redeem(keep_of(request), asked.share)
        if found is None:
            raise wire.Refused(404, "not-found", "This share is unknown, expired or used up; ask for a new one.")
        tenant, joined, issued = found
        request.state.conversation, request.state.joined = joined, tenant
        cookie = shared_cookie(tenant, joined) if asked.cookie else ""
        answer = answered(request, issued, cookie=cookie, conversation=joined)
        for name in ended:
            if name != cookie:
                clear_cookie(answer, name)
        return answer


def answered(request: Request, issued: Issued, *, cookie: str, conversation: str = "") -> Response:
    """Return the answer with a new token: in its body, or in the *cookie* of that name and then not in its body."""
    told = answers.Credential(id=conversation or issued.id, scopes=issued.scopes, expires_at=issued.expires_at)
    if not cookie:
        return wire.as_json(structs.replace(told, token=issued.token), status=201)
    answer = wire.as_json(told, status=201)
    set_cookie(answer, cookie, issued, now=core_of(keep_of(request)).clock())
    return answer


def rotated_asked(request: Request) -> str:
    """Return the token that is to be rotated. Raises 403 when a token asks for another than itself, whether that exists or not."""
    principal, asked = principal_of(request), request.path_params["token"]
    own = asked == OWN or asked == principal.id
    if principal.kind == "token" and not own:
        raise forbidden("This takes a service key; a token can rotate only itself.")
    return principal.id if own else str(asked)


ROUTES: list[BaseRoute] = [
    wire.RawRoute("/v1/me", Me),
    wire.RawRoute("/v1/conversations/{id}/tokens/{token}/rotate", Rotated),
    wire.RawRoute("/v1/conversations/{id}/tokens/{token}", Token),
    wire.RawRoute("/v1/conversations/{id}/tokens", Tokens),
    wire.RawRoute("/v1/conversations/{id}/shares", Shares),
    wire.RawRoute("/v1/shares/redeem", Redeemed),
]
