"""Canned replies: what people at the desk write often, kept for each tenant under a short name.

The text may have placeholders, {name} or {name|there}, which the desk fills in where the reply is chosen: the server keeps them as they
are.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Annotated

from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from ..app import core_of
from ..storage.records import Records
from . import wire
from .access import allows, keep_of, principal_of
from .audit import audited, call

SPACE = "replies:"
"""Begins the space of a tenant's canned replies."""

LISTED = "reply"
"""The owner of all these records, by which they are listed."""

MOST = 500
ROOM = 64 * 1024
TEXT_MOST = 4000
NAME = re.compile(r"[\w-]{1,40}")


class CannedReply(Struct, frozen=True, omit_defaults=True):
    """What the store holds of a canned reply: its text, and which account wrote it last, and when."""

    text: str = ""
    by: str = ""
    at: float = 0.0


class CannedReplyShown(Struct, frozen=True, kw_only=True):
    """A canned reply, under its name."""

    name: str
    text: str
    by: str
    at: float


class CannedReplies(Struct, frozen=True):
    """The canned replies of a tenant, by name."""

    replies: list[CannedReplyShown]


class CannedText(Struct, forbid_unknown_fields=True):
    """What a canned reply says; *was*: only if this is what it says now ("": there is none)."""

    text: Annotated[str, Meta(min_length=1, max_length=TEXT_MOST)]
    was: Annotated[str, Meta(max_length=TEXT_MOST)] | None = None


class Changed(Exception):
    """The reply is another one than whoever changes it has seen."""


class Replies(wire.Resource):
    """/v1/desk/replies"""

    @allows(right="operate")
    async def get(self, request: Request) -> Response:
        """Return the canned replies of the tenant, by name."""
        found = [pair async for pair in records(request).owned_records(LISTED)]
        return wire.as_json(
            CannedReplies([shown(name, reply) for name, reply in sorted(found, key=lambda one: one[0])])
        )


class Reply(wire.Resource):
    """/v1/desk/replies/{reply}"""

    @audited("reply:save")
    @allows(right="operate")
    async def put(self, request: Request) -> Response:
        """Keep a canned reply under this name, in place of the one there was."""
        name, kept = name_asked(request), records(request)
        asked = await wire.body(request, CannedText, limit=ROOM)
        call(request, f"reply:save:{name}")
        if await kept.get(name) is None and len([one async for one in kept.owned(LISTED)]) >= MOST:
            raise wire.Refused(422, "too-many", f"There are {MOST} canned replies already; nothing was kept.")
        made = CannedReply(asked.text, principal_of(request).id, core_of(keep_of(request)).clock())

        def put(held: CannedReply | None) -> CannedReply | None:
            if held is not None and held.text == asked.text:
                return None
            if asked.was is not None and asked.was != (held.text if held else ""):
                raise Changed
            return made

        try:
            held = await kept.change(name, put, owner=LISTED)
        except Changed:
            raise wire.Refused(
                409, "changed", "Somebody has changed this reply meanwhile; nothing was kept. Look at it again."
            ) from None
        return wire.as_json(shown(name, held or made))

    @audited("reply:remove")
    @allows(right="operate")
    async def delete(self, request: Request) -> Response:
        """Remove the canned reply of this name."""
        name, kept = name_asked(request), records(request)
        call(request, f"reply:remove:{name}")
        if await kept.remove(name, unreadable=CannedReply) is None:
            raise wire.Refused(404, "not-found", "There is no canned reply of this name.")
        return Response(status_code=204)


def records(request: Request) -> Records[CannedReply]:
    """Return where the canned replies of the tenant are kept."""
    return core_of(keep_of(request)).records(SPACE + principal_of(request).tenant, CannedReply)


def name_asked(request: Request) -> str:
    """Return the name in the address, the same however it is typed. Raises 422 for what is none."""
    name = unicodedata.normalize("NFKC", request.path_params["reply"]).casefold()
    if not NAME.fullmatch(name):
        raise wire.Refused(
            422, "bad-name", "The name of a canned reply is 1 to 40 letters, digits, - and _; nothing was changed."
        )
    return name


def shown(name: str, reply: CannedReply) -> CannedReplyShown:
    """Return *reply*, as it is shown."""
    return CannedReplyShown(name=name, text=reply.text, by=reply.by, at=reply.at)


ROUTES: list[BaseRoute] = [
    wire.RawRoute("/v1/desk/replies", Replies),
    wire.RawRoute("/v1/desk/replies/{reply}", Reply),
]
