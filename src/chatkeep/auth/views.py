"""Views: filters of the desk's list that a person has saved under a name, as one record for each account, on every store."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from ..app import Chatkeep, core_of
from ..storage.records import Records


class SavedViews(Struct, frozen=True, omit_defaults=True):
    """What the store holds of a person's views: each filter by its name, as JSON has it."""

    views: dict[str, dict[str, Any]] = {}


def stored_views(keep: Chatkeep[Any]) -> Records[SavedViews]:
    """Return where the views are kept, under the names of accounts."""
    return core_of(keep).records("views", SavedViews)
