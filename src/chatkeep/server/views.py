"""Saved views of the operators' desk: filters of its list that a person keeps under names, on every device.

They belong to an account. Who has signed in with a service key has none: several people may hold the same key.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from ..auth.views import SavedViews, stored_views
from . import wire
from .access import allows, keep_of, principal_of
from .filters import Filter
from .refusals import forbidden

MOST = 50
NAME_MOST = 60
ROOM = 16 * 1024


class View(Struct, frozen=True):
    """A filter, under its name."""

    name: str
    filter: Filter


class Views(Struct, frozen=True):
    """The views of whoever asks, by name."""

    views: list[View]


class ViewSaved(Struct, forbid_unknown_fields=True):
    """The *filter* that the view has from now on. *was*: its name before, whose filter it keeps where none is told."""

    filter: Filter | None = None
    was: str = ""


class OwnViews(wire.Resource):
    """/v1/desk/views"""

    @allows(right="operate")
    async def get(self, request: Request) -> Response:
        """Return one's own views, by name."""
        held = await stored_views(keep_of(request)).get(account_of(request))
        return wire.as_json(shown(held))


class OneView(wire.Resource):
    """/v1/desk/views/{view}"""

    @allows(right="operate")
    async def put(self, request: Request) -> Response:
        """Keep a view under this name, in place of the one there was; or give the one that *was* this name."""
        name, asked = name_asked(request), await wire.body(request, ViewSaved, limit=ROOM)

        def put(views: dict[str, dict[str, Any]]) -> None:
            before = views.pop(asked.was, None) if asked.was else None
            if asked.was and before is None:
                raise wire.Refused(404, "not-found", "There is no view of the name in `was`; nothing was changed.")
            if asked.was and name in views:
                raise wire.Refused(409, "taken", f"There is a view {name} already; nothing was changed.")
            if asked.filter is None and before is None:
                raise wire.Refused(422, "no-filter", "A new view takes a `filter`; nothing was kept.")
            views[name] = before if asked.filter is None and before is not None else msgspec.to_builtins(asked.filter)
            if len(views) > MOST:
                raise wire.Refused(422, "too-many", f"There are {MOST} views already; nothing was kept.")

        return wire.as_json(shown(await change(request, put)))

    @allows(right="operate")
    async def delete(self, request: Request) -> Response:
        """Remove the view of this name."""
        name = name_asked(request)

        def remove(views: dict[str, dict[str, Any]]) -> None:
            if views.pop(name, None) is None:
                raise wire.Refused(404, "not-found", "There is no view of this name.")

        await change(request, remove)
        return Response(status_code=204)


async def change(request: Request, edit: Callable[[dict[str, dict[str, Any]]], None]) -> SavedViews | None:
    """Have *edit* change a copy of the views of whoever asks, and keep that, unless it raises."""

    def changed(held: SavedViews | None) -> SavedViews:
        views = dict(held.views) if held else {}
        edit(views)
        return SavedViews(views)

    return await stored_views(keep_of(request)).change(account_of(request), changed)


def account_of(request: Request) -> str:
    """Return the account of whoever asks. Raises 403 for a service key."""
    operator = principal_of(request).operator
    if operator is None or operator.role == "key":
        raise forbidden("Views are kept for people with an account; a service key has none.")
    return operator.name


def name_asked(request: Request) -> str:
    """Return the name in the address. Raises 422 for what is none."""
    name = " ".join(unicodedata.normalize("NFC", request.path_params["view"]).split())
    if not 1 <= len(name) <= NAME_MOST or any(unicodedata.category(letter)[0] == "C" for letter in name):
        raise wire.Refused(
            422, "bad-name", f"The name of a view is 1 to {NAME_MOST} characters that can be seen; nothing was changed."
        )
    return name


def shown(held: SavedViews | None) -> Views:
    """Return the views as they are shown. One that only a newer version knows is left out, and stays in the store."""
    found = list[View]()
    for name, told in sorted(held.views.items() if held else ()):
        try:
            found.append(View(name, msgspec.convert(told, Filter)))
        except msgspec.ValidationError:
            continue
    return Views(found)


ROUTES: list[BaseRoute] = [
    wire.RawRoute("/v1/desk/views", OwnViews),
    wire.RawRoute("/v1/desk/views/{view}", OneView),
]
