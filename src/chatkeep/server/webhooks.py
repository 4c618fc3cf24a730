"""Where platforms post: each webhook is answered only when all that is in it is durable, and may come any number of times."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from ..app import Chatkeep, core_of
from ..channels.accounts import Accounts, tenant_for
from ..channels.aliases import Aliases
from ..channels.base import Channel, Inbound, Received, Refused, Status, Unknown, conversation_of
from ..conversation.outbox import Outlet
from ..core import Core
from ..errors import BadKey, BadMessage, KeyReused, TooLarge
from ..offload import offload
from . import wire
from .access import allows, keep_of
from .limits import Limits, peer_of

log = logging.getLogger("chatkeep.server")

BODY_LIMIT = 3 * 1024 * 1024  # the largest that a platform posts
LARGE = 8 * 1024
"""A larger body is parsed in a thread: it may have thousands of things, and each takes ten microseconds."""

DEADLINE_S = 4.0  # platforms wait 5 to 20 s for an answer, and come again when there is none

TenantOf = Callable[[str, str], str]
"""The tenant of an account: `tenant_of("whatsapp", "1550")`."""


class Webhooks:
    """
    What comes in through *channels*, for the tenants that their accounts belong to.

    `create_app` makes it of the channels that the Chatkeep delivers through; give it another where they differ:
    `create_app(keep, webhooks=Webhooks(WhatsApp(...), tenant_of=...))`.
    """

    def __init__(self, *channels: Channel, tenant_of: TenantOf = lambda channel, account: "") -> None:
        self.channels: dict[str, list[Channel]] = defaultdict(list)
        for channel in channels:
            self.channels[channel.name].append(channel)
        self.tenant_of = tenant_of
        self._aliases: tuple[Core[Any], Aliases] | None = None

    def aliases_in(self, core: Core[Any]) -> Aliases:
        """Return the names of customers, as the outlet keeps them or, where that is none of channels, as these do."""
        if isinstance(core.outlet, Accounts) and core.outlet.aliases is not None:
            return core.outlet.aliases
        if self._aliases is None or self._aliases[0] is not core:
            self._aliases = core, Aliases(core)
        return self._aliases[1]


def webhooks_of(keep: Chatkeep[Any]) -> Webhooks:
    """Return what comes in through the channels that *keep* delivers through."""
    outlet = core_of(keep).outlet
    return Webhooks(*outlet.channels, tenant_of=outlet.tenant_of) if isinstance(outlet, Accounts) else Webhooks()


class WebhookEndpoint(wire.Resource):
    """/channels/{channel}"""

    @allows(anyone=True)
    async def get(self, request: Request) -> Response:
        """Return the handshake in which a platform asks whether this address is ours."""
        _, challenge = await verified(request, b"")
        return challenge or Response(status_code=200)

    @allows(anyone=True, counted=False)
    async def post(self, request: Request) -> Response:
        """Take what a platform posts: 200 when all of it is durable, 401 when the platform has not signed it."""
        body = await wire.read(request, limit=BODY_LIMIT)
        channel, challenge = await verified(request, body)
        if challenge is not None:
            return challenge
        keep, webhooks = keep_of(request), request.app.state.webhooks
        try:
            async with asyncio.timeout(DEADLINE_S):
                parse = partial(channel.parse, body, request.headers.items())
                items = await offload(parse) if len(body) > LARGE else parse()
                await take(keep, webhooks, channel, items)
        except TimeoutError:
            raise wire.Refused(
                503, "unavailable", "Not all of it is stored yet; post it again.", {"retry-after": "1"}
            ) from None
        return Response(status_code=200)


ROUTES: list[BaseRoute] = [wire.RawRoute("/channels/{channel}", WebhookEndpoint)]


REASONS = ("missing", "wrong", "old")
"""Why a request is refused; of several channels with one name, what comes last here is told."""


async def verified(request: Request, body: bytes) -> tuple[Channel, Response | None]:
    """Return the channel that is posted to, and what to answer at once, if anything: of those with this name (two bots, say) the
    one whose secret fits. Raises 401 for what the platform has not signed, always in the same words."""
    webhooks: Webhooks = request.app.state.webhooks
    channels = webhooks.channels.get(request.path_params["channel"], [])
    if not channels:
        raise wire.Refused(404, "not-found", "There is no such channel here.")
    why = Refused("missing")
    for channel in channels:
        try:
            challenge = channel.verify(
                request.method, request.headers.items(), request.query_params.multi_items(), body, at=time.time()
            )
        except Refused as refusal:
            why = max(why, refusal, key=lambda one: REASONS.index(one.reason))
            continue
        if challenge is None:
            return channel, None
        return channel, Response(challenge.body, headers={"cache-control": "no-store"}, media_type="text/plain")
    limits: Limits | None = request.app.state.limits
    if limits is not None:  # only what is refused counts, so that nobody keeps a platform out that shares their address
        await limits.hit({"refused": f"webhooks:{peer_of(request.scope)}"})
    log.warning(
        "A request to /channels/%s was refused: its signature, or secret token, is %s.", channels[0].name, why.reason
    )
    raise wire.Refused(401, "unauthorized", "This request is not signed by the platform; nothing was touched.")


def conversation_for(channel: Channel, item: Inbound) -> str:
    """Return where *item* belongs. A status does by the key that the reply was sent under: a platform may know its customers by
    other names when it tells of them than when they write."""
    account = item.account or "unknown"
    if not isinstance(item, Status):
        return item.conversation or conversation_of(channel.name, account, "unknown")
    named = re.sub(r"/[0-9]+$", "", item.key.partition("@")[2])
    return named if named.startswith(f"{channel.name}:{account}:") else conversation_of(channel.name, account, item.to)


def plain_of(item: Inbound) -> Any:
    """Return an item as JSON, to be kept in a note."""
    return msgspec.json.decode(msgspec.json.encode(item))


def can_answer(outlet: Outlet | None, channel: Channel, tenant: str, item: Received) -> bool:
    """Tell whether a reply to *item* can go out: a platform also posts what is for accounts of an app that are not ours. Where this
    process has no outlet, another one sends, with the same tokens."""
    if channel.one_way:
        return True
    return outlet.takes(tenant, item.conversation) if outlet is not None else item.account in channel.accounts


async def take(keep: Chatkeep[Any], webhooks: Webhooks, channel: Channel, items: Iterable[Inbound]) -> None:
    """Make *items* durable: those of one conversation in their order, conversations side by side."""
    core = core_of(keep)
    aliases = webhooks.aliases_in(core)
    lines: dict[tuple[str, str], list[Inbound]] = defaultdict(list)
    for item in items:
        account = item.account or "unknown"
        tenant = tenant_for(webhooks.tenant_of, channel.name, account)
        if tenant is None:  # it must not hold up what comes with it, and is not lost
            log.error(
                "A webhook tells of account %s:%s, which is no tenant's; it is kept in the tenant ''.",
                channel.name,
                account,
            )
            item = Unknown(reason="no tenant has this account", raw=plain_of(item), id=item.id, account=account)
        conversation = conversation_for(channel, item)
        if isinstance(item, Received | Unknown) and item.names:
            conversation = await aliases.conversation_of(tenant or "", item)
        if isinstance(item, Received) and not can_answer(core.outlet, channel, tenant or "", item):
            log.error(
                "A webhook brings a message for the account %s:%s, which nothing here can send from (no token, or not in the "
                "outlet); it is kept as a note in the tenant %r, and no handler runs for it.",
                channel.name,
                account,
                tenant,
            )
            reason = "nothing here can send from this account"
            item = Unknown(reason=reason, raw=plain_of(item), id=item.id, account=account)
        lines[tenant or "", conversation].append(item)

    async def in_order(tenant: str, conversation: str, line: list[Inbound]) -> None:
        for item in line:
            await keep_one(keep, channel, tenant, conversation, item)

    done = await asyncio.gather(*(in_order(*place, line) for place, line in lines.items()), return_exceptions=True)
    for fault in done:
        if fault is not None:
            raise fault


async def keep_one(keep: Chatkeep[Any], channel: Channel, tenant: str, conversation: str, item: Inbound) -> None:
    """Keep one item, and have the platform told so. What cannot be stored as it is must not hold up the rest, and is not
    lost: it becomes a note."""
    core = core_of(keep)
    if isinstance(item, Status):
        reason = item.error.reason if item.error is not None else ""
        await core.inlet.note_status(
            tenant, conversation, item.status, id=item.id, key=item.key, until=item.until, reason=reason, at=item.at
        )
        return
    try:
        if isinstance(item, Received):
            metadata = item.metadata | ({"sent": True} if item.role == "operator" else {})
            metadata |= {"sent_at": item.at} if item.at is not None else {}
            receipt = await core.inlet.accept(
                "" if channel.one_way else channel.name,
                tenant,
                conversation,
                item.content,
                id=item.id,
                role=item.role,
                metadata=metadata,
            )
            answering = receipt.status == "accepted" and not receipt.duplicate and item.role == "user"
            show(core.outlet, channel, item, answering=answering and not core.is_paused(tenant, conversation))
            return
        await core.inlet.note_unknown(tenant, conversation, item.id, reason=item.reason, raw=item.raw)
        show(core.outlet, channel, item)
    except (BadKey, BadMessage, TooLarge) as fault:
        log.warning("An item of a webhook cannot be stored as it is; a note of it is: %s", type(fault).__name__)
        raw = item.raw if isinstance(item, Unknown) else {"id": item.id}
        if isinstance(fault, KeyReused):
            raw = plain_of(item)
        await core.inlet.note_unknown(
            tenant, conversation, item.id, reason=f"it cannot be stored: {fault}", raw=str(raw)[:1000]
        )
        show(core.outlet, channel, item)


def show(outlet: Outlet | None, channel: Channel, item: Received | Unknown, *, answering: bool = False) -> None:
    """Have the platform told that *item* is kept, where replies go out from here; *answering*: and will be answered."""
    if isinstance(outlet, Accounts):
        outlet.show_received(channel, item, answering=answering)
