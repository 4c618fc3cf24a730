"""Which conversations somebody at the desk means: what a page of the list, an act on many and a saved view say alike."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from . import wire
from .items import Show, Wanted
from .principals import Principal
from .refusals import forbidden

Text = Annotated[str, Meta(max_length=200)]


class Filter(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Which conversations are meant. *show*: all, waiting (for a person), failing, off (the bot), undelivered, unread. *text*: in an id, an
    owner, a title, a name, or in what was said, which takes the right to read. *whose*: all, mine (assigned to who asks), nobody's;
    *assignee*: assigned to this account."""

    show: Show = "all"
    channel: Text = ""
    owner: wire.Owner = ""
    text: Text = ""
    whose: Literal["all", "mine", "nobody"] = "all"
    assignee: Text = ""

    def wanted_by(self, principal: Principal, *, named_first: bool = True) -> Wanted:
        """Return what the list is to look for. Raises 403 for who may not see what is searched for."""
        if principal.masked and (self.text or self.owner):
            raise forbidden(f"{principal.id} may not see what is personal, and so not search for it.")
        return Wanted(
            show=self.show,
            channel=self.channel,
            owner=self.owner,
            text=self.text.strip(),
            in_logs="read" in principal.scopes,
            named_first=named_first,
            assignee={"all": self.assignee or None, "mine": principal.id, "nobody": ""}[self.whose],
        )
