"""What the operators' desk asks beside the API of everybody: its list, with filters and search; notes; how the server is."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct, structs
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from ..app import core_of
from ..auth.accounts import list_accounts, may_look_after
from ..auth.credentials import EVERYWHERE
from ..settings import Settings
from ..sources import given
from . import bulk, canned, presence, story, views, wire
from .access import access_of, allows, conversation_asked, keep_of, principal_of, tenant_of
from .audit import audited
from .filters import Filter
from .health import trouble_of
from .in_force import findings, in_force
from .items import Item
from .listing import Place, find_page, place_as_text, place_from_text
from .refusals import forbidden, not_found
from .samples import Instance, Sample, Samples

ALL = "*"
"""Asks for the conversations of all tenants."""


class DeskQuery(Filter, frozen=True, forbid_unknown_fields=True):
    """Which conversations a page of the list shows: a `Filter`, and beside it *order*: best, what is called like the *text* first, or
    recent, last changed first. *everywhere* 1: of all tenants. *next*: from the page before."""

    order: Literal["best", "recent"] = "best"
    everywhere: Annotated[int, Meta(ge=0, le=1)] = 0
    next: Annotated[str, Meta(max_length=4096)] = ""
    limit: Annotated[int, Meta(ge=1, le=100)] = 50


class TextIndexShown(Struct, frozen=True):
    """How complete the full-text index is: *left* of *total* conversations have to be gone through, and until then the ends of logs are
    searched; *waiting*: so many messages, or more, that came since are not in it yet."""

    left: int
    total: int
    waiting: int


class DeskPage(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A page of the list. *next*: there may be more; *looked_at*: so many conversations were looked at for it. *index*: the full-text
    index, where there is one and it was asked, for words or by what a filter is about; *all_said*: everything that it has was searched for
    the words, and what *next* gives has them inside an id, an owner or a title."""

    conversations: list[Item]
    looked_at: int
    next: str = ""
    index: TextIndexShown | None = None
    all_said: bool = False


class DeskConversations(wire.Resource):
    """/v1/desk/conversations"""

    @allows(right="list", masks=True)
    async def get(self, request: Request) -> Response:
        """Return a page of conversations with their last words, last changed first."""
        asked, principal, access = wire.query(request, DeskQuery), principal_of(request), access_of(request)
        if asked.everywhere and EVERYWHERE not in principal.scopes:
            raise forbidden("This shows all tenants, which takes an account or a key for everywhere.")
        wanted = asked.wanted_by(principal, named_first=asked.order == "best")
        tenant = None if asked.everywhere else principal.tenant
        place = self._place(request, asked.next) if asked.next else None
        found = await find_page(core_of(keep_of(request)), tenant, wanted, place, limit=asked.limit)
        following = access.masker.seal("", place_as_text(found.place)) if found.place is not None else ""
        at = found.index
        index = None if at is None else TextIndexShown(at.left, at.total, at.waiting)
        page = DeskPage(
            conversations=found.items,
            looked_at=found.looked_at,
            next=following,
            index=index,
            all_said=found.all_said,
        )
        if not principal.masked:
            return wire.as_json(page)
        # A handle is of the tenant that a conversation is in, which may be another one than the person's first.
        shown = [structs.replace(item, id=access.masker.seal(item.tenant, item.id)) for item in page.conversations]
        return wire.as_json(structs.replace(page, conversations=shown))

    def _place(self, request: Request, text: str) -> Place:
        opened = access_of(request).masker.unseal("", text)
        place = None if opened is None else place_from_text(opened)
        if place is None:
            raise wire.Refused(404, "not-found", "`next` is none of this store's; leave it out to begin anew.")
        return place


class Noting(Struct, forbid_unknown_fields=True):
    """A note of a person, which customers do not see; the same *id* again has no second effect."""

    text: Annotated[str, Meta(min_length=1, max_length=4000)]
    id: Annotated[str, Meta(min_length=1, max_length=100)]


class Notes(wire.Resource):
    """/v1/conversations/{id}/notes"""

    @audited("note")
    @allows(right="operate")
    async def post(self, request: Request) -> Response:
        """Write a note into the log, for other people at the desk."""
        asked = await wire.body(request, Noting, limit=wire.SHORT_BODY)
        place = tenant_of(request).name, conversation_asked(request)
        author = principal_of(request).label or principal_of(request).id
        if not await core_of(keep_of(request)).note(*place, asked.text, author=author, id=asked.id):
            raise not_found()
        return Response(status_code=204)


class Colleague(Struct, frozen=True):
    """Somebody who may be given a conversation: the *account*, and the name that customers see."""

    account: str
    shown: str


class Colleagues(Struct, frozen=True):
    """Whom conversations of the tenant may be assigned to."""

    people: list[Colleague]


class People(wire.Resource):
    """/v1/desk/people"""

    @allows(right="operate")
    async def get(self, request: Request) -> Response:
        """Return the accounts that conversations of the tenant may be assigned to, in order."""
        tenant = principal_of(request).tenant
        found = await list_accounts(keep_of(request))
        return wire.as_json(
            Colleagues([Colleague(name, held.shown) for name, held in found if may_look_after(held, tenant)])
        )


class SettingShown(Struct, frozen=True):
    """A setting in words: its name, value and where that came from. *odd*: it is hardly what was meant."""

    said: str
    odd: bool


class DeskHealth(Struct, frozen=True, kw_only=True):
    """How this server is: whether it answers, what is paused as a whole, and what this process has done since it was started.

    samples: the last hour of this process. For who may switch what concerns all tenants: instances, the processes that serve on this store,
    this one first; settings, what is in force, in words and without secrets.
    """

    status: str
    trouble: str
    warning: str
    paused: list[str | None]
    has_handler: bool
    sends: bool
    store: str
    numbers: dict[str, Any]
    samples: list[Sample]
    instances: list[Instance]
    settings: list[SettingShown]


class Health(wire.Resource):
    """/v1/desk/health"""

    @allows(right="list", masks=True)
    async def get(self, request: Request) -> Response:
        """Tell how this server is."""
        keep = keep_of(request)
        core, principal = core_of(keep), principal_of(request)
        trouble = trouble_of(keep)
        samples: Samples = request.app.state.samples
        for_all = {EVERYWHERE, "switch"} <= principal.scopes
        paused = await core.find_paused()
        known = [scope for scope in paused if scope in (None, principal.tenant) or EVERYWHERE in principal.scopes]
        told = DeskHealth(
            status="not ready" if trouble else "ready",
            trouble=trouble,
            warning=core.warning,
            paused=known,
            has_handler=core.has_handler,
            sends=core.outlet is not None,
            store=core.url.partition(":")[0] if ":" in core.url else core.url,
            numbers=msgspec.to_builtins(keep.statistics),
            samples=list(samples.taken),
            instances=await samples.instances() if for_all else [],
            settings=settings_shown(request) if for_all else [],
        )
        return wire.as_json(told)


def settings_shown(request: Request) -> list[SettingShown]:
    """Return what is in force: of the server, where it was started by settings, and of the Chatkeep."""
    keep, server = keep_of(request), request.app.state.settings
    found = findings(keep.settings, given(Settings, {})[0]) if server is None else in_force(server, {}, keep)
    return [SettingShown(finding.said, finding.level != "ok") for finding in found]


ROUTES: list[BaseRoute] = [
    wire.RawRoute("/v1/desk/conversations", DeskConversations),
    wire.RawRoute("/v1/desk/health", Health),
    wire.RawRoute("/v1/desk/people", People),
    wire.RawRoute("/v1/conversations/{id}/notes", Notes),
    *bulk.ROUTES,
    *canned.ROUTES,
    *presence.ROUTES,
    *story.ROUTES,
    *views.ROUTES,
]
