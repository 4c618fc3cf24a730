"""The same act on many conversations, some of them in each request: the page at the desk counts them, goes on, and can be stopped.

Whoever asks names the conversations, so that no more of them are changed than were counted; and the filter by which they were found, so
that one which does not fit it any more, because a colleague was there first, is passed over.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, structs
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from ..app import core_of
from ..conversation.assignments import NAME_MOST
from ..conversation.keys import key_for
from ..errors import ChatkeepError, Unavailable
from ..tenant import Tenant
from . import wire
from .access import allows, keep_of, principal_of, tenant_of
from .audit import Trail, audited, call
from .filters import Filter
from .items import Item, Wanted, fits, look
from .operators import assignee_asked

MOST = 50
"""So many conversations a request may name."""

AT_ONCE = 5
SPENT_S = 1.0
"""After so long no further ones are begun; what is left is for the next request."""

ROOM = 256 * 1024


class Bulk(Struct, forbid_unknown_fields=True):
    """
    What is to be done with each of these *conversations*, as far as they still fit the *filter*.

    act: replay (what the bot failed on), dismiss (that), resend (replies that did not go out), answer (hand back; the bot answers what is
    unread), skip (hand back; that is passed over), assign (to *assignee*, "" for nobody).
    """

    act: Literal["replay", "dismiss", "resend", "answer", "skip", "assign"]
    conversations: Annotated[list[wire.Name], Meta(min_length=1, max_length=MOST)]
    filter: Filter = Filter()
    assignee: Annotated[str, Meta(max_length=NAME_MOST)] = ""


class Outcome(Struct, frozen=True, omit_defaults=True):
    """What became of one *conversation*: done, passed (over: it fits no more, or there is nothing to do) or failed, and *why*."""

    conversation: str
    outcome: Literal["done", "passed", "failed"]
    why: str = ""


class Outcomes(Struct, frozen=True):
    """What became of the first of the conversations; those that are not among them were not begun, and may be named again."""

    outcomes: list[Outcome]


class BulkAct(wire.Resource):
    """/v1/desk/bulk"""

    @audited("bulk")
    @allows(right="operate")
    async def post(self, request: Request) -> Response:
        """Do the same with many conversations; each act is in the audit as if it were alone."""
        asked = await wire.body(request, Bulk, limit=ROOM)
        to = await assignee_asked(request, asked.assignee) if asked.act == "assign" else ""
        act = (f"assign:{to}" if to else "unassign") if asked.act == "assign" else asked.act
        call(request, f"bulk:{act}")
        act = "resume" if act in ("answer", "skip") else act
        # Words and owners are not searched for once more: it was whoever asks that found them.
        wanted = structs.replace(asked.filter.wanted_by(principal_of(request)), text="", owner="")
        names = list(dict.fromkeys(asked.conversations))
        until, found = time.monotonic() + SPENT_S, list[Outcome]()
        while names and (not found or time.monotonic() < until):
            some, names = names[:AT_ONCE], names[AT_ONCE:]
            made = await asyncio.gather(
                *(do(request, asked, act, to, name, wanted) for name in some), return_exceptions=True
            )
            found += [one for one in made if isinstance(one, Outcome)]
            broken = next((one for one in made if isinstance(one, BaseException)), None)
            if broken is not None and found:
                break  # what was done is told; whoever names the others again is told of this
            if broken is not None:
                raise broken
        return wire.as_json(Outcomes(found))


async def do(request: Request, asked: Bulk, act: str, to: str, name: str, wanted: Wanted) -> Outcome:
    """Do it with one conversation, and have the audit told; what is wrong with it alone concerns no other one."""
    trail: Trail = request.app.state.trail
    note = partial(trail.note, request, act, conversation=name)
    try:
        item = await find(request, name, wanted)
        if item is None:
            return Outcome(name, "passed", "It is not there any more, or does not fit any more.")
        if item.fault:
            return Outcome(name, "failed", item.fault)
        why = await DEEDS[asked.act](request, item, to, partial(note, outcome="200"))
    except (HTTPException, ChatkeepError) as fault:
        if isinstance(fault, Unavailable):
            raise
        note(outcome=str(fault.status_code) if isinstance(fault, HTTPException) else type(fault).__name__)
        return Outcome(name, "failed", str(getattr(fault, "detail", fault)))
    return Outcome(name, "passed", why) if why else Outcome(name, "done")


async def find(request: Request, name: str, wanted: Wanted) -> Item | None:
    """Return a conversation as the list shows it; None where it is not there, or not *wanted* any more."""
    core = core_of(keep_of(request))
    row = await core.read_row(key_for(principal_of(request).tenant, name))
    item = None if row is None else await look(core, row, wanted)
    return item if item is not None and (item.fault or fits(item, wanted)) else None


async def settle(
    verb: Callable[[Tenant[Any], str, int], Awaitable[object]],
    request: Request,
    item: Item,
    _: str,
    note: Callable[[], None],
) -> str:
    """Do *verb* with each message that was set aside, with a *note* for the audit; answers why there was nothing to do, "" where there
    was."""
    tenant = tenant_of(request)
    letters = await tenant.dead_letters(item.id)
    for letter in letters:
        await verb(tenant, item.id, letter.number)
        note()
    return "" if letters else "Nothing is set aside there."


async def resend(request: Request, item: Item, _: str, note: Callable[[], None]) -> str:
    """Send again the replies that did not go out."""
    tenant = tenant_of(request)
    bad = [one for one in await tenant.deliveries(item.id) if one.status in ("failed", "uncertain")]
    for delivery in bad:
        await tenant.resend(item.id, delivery.number)
        note()
    return "" if bad else "No reply there has failed, or is in doubt; what waits is tried again by itself."


async def answer(request: Request, item: Item, _: str, note: Callable[[], None]) -> str:
    """Hand back, and have the bot answer what is unread."""
    if "conversation" not in item.off_by:
        return "The bot is off by its tenant, or by everything." if item.off_by else "The bot is on there."
    await tenant_of(request).resume(item.id, unread="answer")
    note()
    return ""


async def skip(request: Request, item: Item, _: str, note: Callable[[], None]) -> str:
    """Hand back, and pass over what is unread."""
    if not item.off_by:
        return "The bot is on there."
    await tenant_of(request).resume(item.id, unread="skip")
    note()
    return ""


async def assign(request: Request, item: Item, to: str, note: Callable[[], None]) -> str:
    """Assign the conversation, if it is still whose it was a moment ago."""
    if item.assignee == to:
        return "It is assigned so already."
    principal = principal_of(request)
    by = principal.label or principal.id
    has = await core_of(keep_of(request)).assign(principal.tenant, item.id, to, by=by, was=item.assignee)
    if has is not None and has != to:
        raise wire.Refused(409, "assigned", f"It is assigned to {has or 'nobody'} meanwhile.")
    if has is None:
        return "It is not there any more."
    note()
    return ""


DEEDS: dict[str, Callable[[Request, Item, str, Callable[[], None]], Awaitable[str]]] = {
    "replay": partial(settle, Tenant.replay),
    "dismiss": partial(settle, Tenant.dismiss),
    "resend": resend,
    "answer": answer,
    "skip": skip,
    "assign": assign,
}

ROUTES: list[BaseRoute] = [wire.RawRoute("/v1/desk/bulk", BulkAct)]
