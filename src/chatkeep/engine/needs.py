"""What a Chatkeep needs of its store, beyond the six verbs, and for the sake of which setting."""

from __future__ import annotations

from collections.abc import Collection

from ..drivers.base import Ability
from ..errors import Unsupported
from ..settings import Settings


def refuse_lacking(abilities: Collection[Ability], settings: Settings, *, answers: bool) -> None:
    """Raise `Unsupported` where the store lacks an ability that is needed. *answers*: there is a handler.

    SHARED is asked for by who starts several processes. Without WATCH and DURABLE everything goes on, later and less safely.
    """
    needs = [
        (Ability.LOG, "every Chatkeep", True),
        (Ability.SCAN, "a handler (on_message)", answers),
        (Ability.SCAN, "retention", settings.retention is not None),
        (Ability.SCAN, "session_ttl", settings.session_ttl is not None),
        (Ability.EPOCH, 'on_outage="journal"', settings.on_outage == "journal"),
        (Ability.EPOCH, "cache", settings.cache is not None),
    ]
    lacking = [
        f"{what} needs {ability.name} ({ability})"
        for ability, what, asked in needs
        if asked and ability not in abilities
    ]
    if lacking:
        raise Unsupported(
            f"The store was not opened, for it cannot do what is asked of it: {'; '.join(lacking)}. Leave that out, or take a store "
            "that can (docs/reference/stores.md)."
        )
