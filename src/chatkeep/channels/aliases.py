"""Customers who are known by several names: the conversation goes on under the first one, replies go to the newest address.

A platform shows two names together when one takes the other's place: a phone number and a user id, an old number and a new one, a
group and the supergroup that it has become. Each name has a record then, which later messages are looked up by.
"""

from __future__ import annotations

from math import inf
from typing import Any

from msgspec import Struct, structs

from ..bounded import Newest
from ..core import Core
from ..drivers.base import Key, mark_of
from ..errors import Unavailable
from .base import Received, Unknown, address_of

REMEMBERED = 4096
"""Of so many customers it is remembered where they belong, for as long as the store is away."""


class Alias(Struct, frozen=True, kw_only=True):
    """What is known of one name, or of the conversation itself.

    conversation: where all that comes under this name belongs. person: the name that only this customer has, as far as it is
    known: a number may be somebody else's next year. to: the newest address. left_at: when the customer gave the name up, in seconds
    since 1970; what comes under it and was sent later is somebody else's. 0: it is the customer's.
    """

    conversation: str = ""
    person: str = ""
    to: str = ""
    left_at: float = 0.0


class Aliases:
    """The names of customers, as records of one store."""

    def __init__(self, core: Core[Any]) -> None:
        self._core = core
        self._records = core.records("aliases", Alias)
        self._seen: Newest[str, Alias] = Newest(REMEMBERED)
        core.hear_of_records("aliases", self._forget)  # moved elsewhere, or erased with the conversation

    async def conversation_of(self, tenant: str, item: Received | Unknown) -> str:
        """Return the conversation that *item* belongs to. One read where all its names are known, or it has one; more, and writes, only
        where two names are shown together for the first time, or the address is a new one.

        While the store is away it is told of customers who came to this process before, under the same names: of any other the message
        might begin a second conversation. Raises `Unavailable`, and the platform posts it again.
        """
        names = item.names
        mark = mark_of(Key(tenant, names[0]))
        try:
            held = await self._get(tenant, names[0])
        except Unavailable:
            seen = self._seen.get(mark)
            if seen is None or not _fits(seen, item):
                raise
            return seen.conversation
        if held is None and len(names) == 1 and not item.former:
            held = Alias(conversation=names[0], to=item.to)
        if held is not None and _is_left(held, item):
            # (The name of the conversation is that of the first customer's: instances that do this at once name it alike.)
            held = Alias(conversation=f"{names[0]}~{held.left_at:.0f}", to=item.to)
            for name in (held.conversation, names[0]):
                await self._put(tenant, name, held)
        if held is not None and _fits(held, item):
            self._seen[mark] = held
            return held.conversation
        found = {names[0]: held}
        for name in (*names[1:], *item.former):
            found[name] = await self._get(tenant, name)
        late = [one for one in (found[name] for name in names) if one is not None and _is_late(one, item)]
        if late:
            return late[0].conversation
        conversation = await self._first(tenant, item, found)
        person = names[0] if len(names) > 1 else ""
        # The record that is looked at first comes last, so that what is cut off here is done again by the redelivery.
        for name in reversed(dict.fromkeys((*names, *item.former, conversation))):
            alias = Alias(conversation=conversation, person=person, to=item.to)
            if name in item.former:
                alias = structs.replace(alias, person=item.former[0], left_at=_sent_at(item, 0.0))
            await self._put(tenant, name, alias, known_by=name in names or name in item.former)
        self._seen[mark] = Alias(conversation=conversation, person=person, to=item.to)
        return conversation

    def _forget(self, mark: str) -> None:
        self._seen.pop(mark, None)

    async def address_of(self, tenant: str, conversation: str) -> str:
        """Where replies of *conversation* go; one read, or two where another customer has the name that it is called by."""
        held = await self._get(tenant, conversation)
        if held is not None and held.conversation not in ("", conversation):
            held = await self._get(tenant, _place_of(conversation))
        return held.to if held is not None and held.to else address_of(conversation)[2]

    async def move(self, tenant: str, conversation: str, name: str, to: str) -> None:
        """Record that the customer of *conversation* is known as *name* from now on, and is reached at *to*."""
        moved = Alias(conversation=conversation, person=name, to=to)
        for one in (conversation, name):
            await self._put(tenant, one, moved, known_by=one == name)

    async def _first(self, tenant: str, item: Received | Unknown, found: dict[str, Alias | None]) -> str:
        """Return the conversation that these names belong to: what a record says, else the first one that is there."""
        person = item.names[0]
        for name, held in found.items():
            another = (
                held is not None and name != person and name not in item.former and held.person not in ("", person)
            )
            if held is not None and not another:
                return held.conversation
        for name in (*item.former, *(name for name, held in found.items() if held is None)):
            if await self._core.exists(tenant, name):
                return name
        return (*item.former, person)[0]

    async def _get(self, tenant: str, name: str) -> Alias | None:
        return await self._records.get(mark_of(Key(tenant, name)))

    async def _put(self, tenant: str, name: str, alias: Alias, *, known_by: bool = True) -> None:
        """Record *alias* under *name*. *known_by*: the customer is known by it; else it is only what the conversation is called by."""
        there = await self._get(tenant, name)
        if there is not None and there.conversation not in ("", alias.conversation):
            if not known_by:  # another customer has it by now
                name = _place_of(name)
            elif there.conversation == name:  # that conversation goes on, and its replies go where they went
                await self._write(tenant, _place_of(name), Alias(conversation=name, to=there.to))
        await self._write(tenant, name, alias)

    async def _write(self, tenant: str, name: str, alias: Alias) -> None:
        def edit(there: Alias | None) -> Alias:
            kept = there.person if there is not None and there.conversation == alias.conversation else ""
            return structs.replace(alias, person=alias.person or kept)

        owner = mark_of(Key(tenant, alias.conversation))  # it goes when the conversation is erased
        mark = mark_of(Key(tenant, name))
        self._forget(mark)
        await self._records.change(mark, edit, owner=owner)


def _place_of(conversation: str) -> str:
    """Return the name under which a conversation's address is kept while another customer has the name that it is called by."""
    return f"{conversation}~"


def _sent_at(item: Received | Unknown, otherwise: float) -> float:
    at = item.at if isinstance(item, Received) else None
    return otherwise if at is None else at


def _is_left(known: Alias, item: Received | Unknown) -> bool:
    """Tell whether *item* is somebody else's: its only name was given up before it was sent."""
    return len(item.names) == 1 and not item.former and 0 < known.left_at < _sent_at(item, inf)


def _is_late(known: Alias, item: Received | Unknown) -> bool:
    """Tell whether *item* was sent before its customer gave this name up: it is that customer's, and its address no news."""
    return not item.former and known.left_at >= _sent_at(item, inf)


def _fits(known: Alias, item: Received | Unknown) -> bool:
    """Tell whether *item* says nothing new of a customer: no name, and no address."""
    return not item.former and known.to == item.to and (len(item.names) == 1 or known.person == item.names[0])
