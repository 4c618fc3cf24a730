"""The addresses for users' tokens, which are their devices: listed, ended, rotated by themselves, and made by service keys."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct, structs
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from ..auth import credentials
from ..auth.credentials import Listed, Scope
from . import answers, wire
from .access import access_of, allows, keep_of, principal_of
from .audit import audited
from .refusals import forbidden, not_found

OWN = "current"
"""Names the token that a request is made with."""


class UserTokenAsked(Struct, forbid_unknown_fields=True):
    """A user's token that is asked for; *label*: such as of the device."""

    scopes: tuple[Scope, ...] = credentials.USER_SCOPES
    expires_in: Annotated[float, Meta(gt=0, le=credentials.TOKEN_LONGEST_S)] = credentials.TOKEN_S
    label: wire.Device = ""


class Rotation(Struct, forbid_unknown_fields=True):
    """How long the old token goes on beside the new one, in seconds."""

    grace: Annotated[float, Meta(ge=0, le=3600)] = 60.0


class Devices(Struct, frozen=True):
    """A user's tokens, which are its devices."""

    tokens: list[Listed]


class MyTokens(wire.Resource):
    """/v1/me/tokens"""

    @allows(user=True)
    async def get(self, request: Request) -> Response:
        """Return the user's tokens, which are its devices, without what they are."""
        principal = principal_of(request)
        found = await credentials.list_user_tokens(keep_of(request), principal.tenant, principal.user)
        return wire.as_json(Devices(credentials.mark_current(found, principal.id)))


class MyToken(wire.Resource):
    """/v1/me/tokens/{token}"""

    @audited("token:end")
    @allows(user=True)
    async def delete(self, request: Request) -> Response:
        """End one of the user's tokens: sign a device out, or this one, `current`."""
        principal = principal_of(request)
        id = own_token(request)
        if not await credentials.revoke_user_token(keep_of(request), principal.tenant, principal.user, id):
            raise not_found()
        access_of(request).look_again()
        return Response(status_code=204)


class MyTokenRotated(wire.Resource):
    """/v1/me/tokens/{token}/rotate"""

    @audited("token:rotate")
    @allows(user=True)
    async def post(self, request: Request) -> Response:
        """Put a new token in the place of the one that the request is made with."""
        asked = await wire.body(request, Rotation, limit=wire.SHORT_BODY, needed=False)
        principal, id = principal_of(request), own_token(request)
        if id != principal.id:
            raise forbidden("A token can rotate only itself.")
        place = keep_of(request), principal.tenant, principal.user, id
        with wire.refusing(409, "rotated"):
            issued = await credentials.rotate_user_token(*place, grace=asked.grace)
        if issued is None:
            raise not_found()
        access_of(request).look_again()
        return wire.as_json(credential_of(issued), status=201)


class UserTokens(wire.Resource):
    """/v1/users/{user}/tokens"""

    @audited("token:create")
    @allows(right="tokens")
    async def post(self, request: Request) -> Response:
        """Make a token for a user; the only time that it is shown."""
        asked = await wire.body(request, UserTokenAsked, limit=wire.SHORT_BODY, needed=False)
        place = keep_of(request), principal_of(request).tenant, request.path_params["user"]
        return wire.as_json(
            credential_of(await credentials.issue_user_token(*place, **structs.asdict(asked))), status=201
        )

    @allows(right="tokens")
    async def get(self, request: Request) -> Response:
        """Return a user's tokens, without what they are."""
        place = keep_of(request), principal_of(request).tenant, request.path_params["user"]
        return wire.as_json(Devices(await credentials.list_user_tokens(*place)))


class UserToken(wire.Resource):
    """/v1/users/{user}/tokens/{token}"""

    @audited("token:end")
    @allows(right="tokens")
    async def delete(self, request: Request) -> Response:
        """End one of a user's tokens."""
        place = keep_of(request), principal_of(request).tenant, request.path_params["user"]
        if not await credentials.revoke_user_token(*place, request.path_params["token"]):
            raise not_found()
        access_of(request).look_again()
        return Response(status_code=204)


def own_token(request: Request) -> str:
    """Return the token that is asked for, by its id or as `current`."""
    asked = str(request.path_params["token"])
    return principal_of(request).id if asked == OWN else asked


def credential_of(issued: credentials.Issued) -> answers.Credential:
    """Return a new token as it is shown, this once."""
    return answers.Credential(
        id=issued.id, scopes=issued.scopes, expires_at=issued.expires_at, token=issued.token, label=issued.label
    )


ROUTES: list[BaseRoute] = [
    wire.RawRoute("/v1/me/tokens", MyTokens),
    wire.RawRoute("/v1/me/tokens/{token}/rotate", MyTokenRotated),
    wire.RawRoute("/v1/me/tokens/{token}", MyToken),
    wire.RawRoute("/v1/users/{user}/tokens", UserTokens),
    wire.RawRoute("/v1/users/{user}/tokens/{token}", UserToken),
]
