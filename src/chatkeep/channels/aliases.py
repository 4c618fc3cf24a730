"""Customers who are known by several names: the conversation goes on under the first one, replies go to the newest address.

A platform shows two names together when one takes the other's place: a phone number and a user id, an old number and a new one, a
group and the supergroup that it has become. Each name has a record then, which later messages are looked up by.
"""

from __future__ import annotations

from contextlib import suppress
from math import inf
from typing import Any

from msgspec import Struct, structs

from ..bounded import Newest
from ..core import Core
from ..drivers.base import Key, mark_of
from ..errors import Unavailable
from .base import Received, Unknown, address_of

TRIES = 8
"""So often it is decided anew where others write of the same names at the same moment."""

REMEMBERED = 4096
"""Of so many customers it is remembered where they belong, for as long as the store is away."""


class Alias(Struct, frozen=True, kw_only=True):
    """What is known of one name, or of the conversation itself.

    conversation: where all that comes under this name belongs. person: the name that only this customer has, as far as it is
    known: a number may be somebody else's next year. to: the newest address. left_at: when the customer gave the name up, in seconds
    since 1970; what comes under it and was sent later is somebody else's. 0: it is the customer's. since, before: since when the name
    is this customer's, and the conversation of whoever had it before. lost: somebody else has the only address that was known.
    """

    conversation: str = ""
    person: str = ""
    to: str = ""
    left_at: float = 0.0
    since: float = 0.0
    before: str = ""
    lost: bool = False


class Meanwhile(Exception):
    """Another message has said something of a name since it was read."""


class Aliases:
    """The names of customers, as records of one store."""

    def __init__(self, core: Core[Any]) -> None:
        self._core = core
        self._records = core.records("aliases", Alias)
        self._seen: Newest[str, Alias] = Newest(REMEMBERED)
        core.hear_of_records("aliases", self._forget)  # moved elsewhere, or erased with the conversation

    async def conversation_of(self, tenant: str, item: Received | Unknown) -> str:
        """Return the conversation that *item* belongs to. One read where all its names are known; more, and writes, only where a customer
        comes for the first time, two names are shown together for the first time, or the address is a new one.

        Of messages that come at the same moment, here or on other instances, one decides, and the others go by that. While the store is
        away it is told of customers who came to this process before, under the same names: of any other the message might begin a second
        conversation. Raises `Unavailable`, and the platform posts it again.
        """
        for _ in range(TRIES):
            try:
                return await self._decide(tenant, item)
            except Meanwhile:
                continue
        raise Unavailable(f"{item.names[0]}: its names change all the time. Nothing was written for it; post it again.")

    async def _decide(self, tenant: str, item: Received | Unknown) -> str:
        names = item.names
        mark = mark_of(Key(tenant, names[0]))
        try:
            held = await self._get(tenant, names[0])
        except Unavailable:
            seen = self._seen.get(mark)
            if seen is None or not _fits(seen, item):
                raise
            return seen.conversation
        if held is not None and _is_left(held, item):
            # (The name of the conversation is that of the first customer's: instances that do this at once name it alike.)
            new = f"{names[0]}~{held.left_at:.0f}"
            taken = Alias(conversation=new, to=item.to, since=held.left_at, before=held.conversation)
            await self._put(tenant, new, Alias(conversation=new, to=item.to), was=await self._get(tenant, new))
            await self._put(tenant, names[0], taken, was=held)
            held = taken
        if held is not None and _fits(held, item):
            self._seen[mark] = held
            return held.conversation
        found = {names[0]: held}
        for name in (*names[1:], *item.former):
            found[name] = await self._get(tenant, name)
        if (late := _find_late(found, item)) is not None:
            return late
        conversation = await self._first(tenant, item, found)
        person = names[0] if len(names) > 1 else ""
        if conversation not in found:
            found[conversation] = await self._get(tenant, conversation)
        alias = Alias(conversation=conversation, person=person, to=item.to)
        # The record that is looked at first comes last, so that what is cut off here is done again by the redelivery.
        for name in reversed(dict.fromkeys((*names, *item.former, conversation))):
            named = _name_customer(alias, name, item, was=found[name])
            if named is not None:
                await self._put(tenant, name, named, was=found[name], known_by=name in names or name in item.former)
        self._seen[mark] = alias
        return conversation

    def _forget(self, mark: str) -> None:
        self._seen.pop(mark, None)

    async def address_of(self, tenant: str, conversation: str) -> str:
        """Return where replies of *conversation* go, "" where that is not known any more, because somebody else has the address by now; one
        read, or two where another customer has the name that the conversation is called by."""
        held = await self._get(tenant, conversation)
        if held is not None and held.conversation not in ("", conversation):
            held = await self._get(tenant, _place_of(conversation))
        if held is not None and held.lost:
            return ""
        return held.to if held is not None and held.to else address_of(conversation)[2]

    async def move(self, tenant: str, conversation: str, name: str, to: str) -> None:
        """Record that the customer of *conversation* is known as *name* from now on, and is reached at *to*."""
        moved = Alias(conversation=conversation, person=name, to=to)
        for one in (conversation, name):
            with suppress(Meanwhile):  # who has written meanwhile knows better
                await self._put(tenant, one, moved, was=await self._get(tenant, one), known_by=one == name)

    async def _first(self, tenant: str, item: Received | Unknown, found: dict[str, Alias | None]) -> str:
        """Return the conversation that these names belong to: what a record says, else the first one that is there."""
        person, sent = item.names[0], _sent_at(item, inf)
        for name in item.former:  # who gives a name up is the one who had it then, whoever has had the new one
            held = found[name]
            if held is not None and held.since < sent:
                return held.conversation
        for name in item.names:
            held = found[name]
            another = held is not None and name != person and held.person not in ("", person)
            if held is not None and not another and not 0 < held.left_at < sent:
                return held.conversation
        for name in (*item.former, *(name for name in item.names if found[name] is None)):
            if await self._core.exists(tenant, name):
                return name
        return (*item.former, person)[0]

    async def _get(self, tenant: str, name: str) -> Alias | None:
        return await self._records.get(mark_of(Key(tenant, name)))

    async def _put(self, tenant: str, name: str, alias: Alias, *, was: Alias | None, known_by: bool = True) -> None:
        """Record *alias* under *name*, of which *was* was read. *known_by*: the customer is known by it; else it is only what the
        conversation is called by. Raises `Meanwhile`."""
        if was is None or was.conversation in ("", alias.conversation):
            await self._write(tenant, name, alias, was)
        elif not known_by:  # another customer has it by now
            place = _place_of(name)
            await self._write(tenant, place, alias, await self._get(tenant, place))
        else:
            # What is cut off between the two is done again: the name is still theirs then.
            await self._lose(tenant, name, was)
            await self._write(tenant, name, alias, was)

    async def _lose(self, tenant: str, name: str, was: Alias) -> None:
        """Have replies of the customer who *was* known by *name* go to where nobody else is: an address that was given since, or the name
        that only this customer has; else nowhere."""
        place = _place_of(name) if was.conversation == name else was.conversation
        there = was if was.conversation == name else await self._get(tenant, place)
        if there is None or there.conversation != was.conversation:
            return
        kept = structs.replace(there, person=was.person)
        if there.to == address_of(name)[2]:
            own = was.person if was.person not in ("", name) else ""
            kept = structs.replace(kept, to=address_of(own)[2] if own else "", lost=not own)
        await self._write(tenant, place, kept, await self._get(tenant, place))

    async def _write(self, tenant: str, name: str, alias: Alias, was: Alias | None) -> None:
        def edit(there: Alias | None) -> Alias:
            if there != was and (there is None or _holder(there) != _holder(alias)):
                raise Meanwhile
            kept = there.person if there is not None and there.conversation == alias.conversation else ""
            return structs.replace(alias, person=alias.person or kept)

        owner = mark_of(Key(tenant, alias.conversation))  # it goes when the conversation is erased
        mark = mark_of(Key(tenant, name))
        self._forget(mark)
        await self._records.change(mark, edit, owner=owner)


def _name_customer(alias: Alias, name: str, item: Received | Unknown, *, was: Alias | None) -> Alias | None:
    """Return what stands under *name* when *item*, whose customer *alias* is, has come; *was*: what stands there. None: that stays."""
    is_anothers = was is not None and was.conversation not in ("", alias.conversation)
    if name in item.former:
        if is_anothers:
            return None  # (told once more, when somebody else has it by now)
        return structs.replace(alias, person=item.former[0], left_at=_sent_at(item, 0.0))
    if was is None:
        return alias
    if is_anothers:
        return structs.replace(alias, since=was.left_at or _sent_at(item, 0.0), before=was.conversation)
    # (The conversation may be called by a number that was given up.)
    left_at = 0.0 if name in item.names else was.left_at
    return structs.replace(alias, since=was.since, before=was.before, left_at=left_at)


def _holder(alias: Alias) -> tuple[str, float, str]:
    """Tell whose a name is, and whose it was: two messages that say the same of that need not be told apart."""
    return alias.conversation, alias.left_at, alias.before


def _place_of(conversation: str) -> str:
    """Return the name under which a conversation's address is kept while another customer has the name that it is called by."""
    return f"{conversation}~"


def _sent_at(item: Received | Unknown, otherwise: float) -> float:
    at = item.at if isinstance(item, Received) else None
    return otherwise if at is None else at


def _is_left(known: Alias, item: Received | Unknown) -> bool:
    """Tell whether *item* is somebody else's: its only name was given up before it was sent."""
    return len(item.names) == 1 and not item.former and 0 < known.left_at < _sent_at(item, inf)


def _find_late(found: dict[str, Alias | None], item: Received | Unknown) -> str | None:
    """Return the conversation of whoever sent *item* before one of its names became somebody else's, or was given up: its address is no
    news. None: it is none of these."""
    sent, own = _sent_at(item, inf), found[item.names[0]]
    for name in item.names:
        held = found[name]
        if held is not None and held.left_at >= sent:
            return held.conversation
        if held is not None and _is_before(held, item):
            return own.conversation if own is not None and own is not held else held.before
    return None


def _fits(known: Alias, item: Received | Unknown) -> bool:
    """Tell whether *item* says nothing new of a customer: no name, and no address; and it is this customer's."""
    if item.former or known.to != item.to or _is_before(known, item):
        return False
    return len(item.names) == 1 or known.person == item.names[0]


def _is_before(known: Alias, item: Received | Unknown) -> bool:
    """Tell whether *item* was sent when somebody else had this name."""
    return bool(known.before) and known.since > _sent_at(item, inf)
