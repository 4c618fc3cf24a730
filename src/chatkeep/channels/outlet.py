"""Where replies go out: the channels of a Chatkeep with their connections and the pace that each account keeps.

    from chatkeep.channels import Telegram, Webhook

    telegram = Telegram(token=BOT_TOKEN, secrets=[TELEGRAM_SECRET])
    shop = Webhook("shop", secrets=[WEBHOOK_SECRET], url="https://shop.example/replies")
    keep.deliver(ChannelOutlet(telegram, shop, rates={"webhook:shop": 20}))

The server takes in what platforms post to /channels/whatsapp and so on by itself then.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence

from msgspec import structs

from ..conversation.outbox import Sent
from ..errors import ChatkeepError, Misconfigured
from ..extras import from_extra
from ..model import Content
from .accounts import Accounts, tenant_for
from .base import Cause, Channel, Delivered, Failed, Received, Request, Retry, Unknown, address_of, conversation_of
from .sender import TIMEOUT_S, send

with from_extra("channels", "Sending through channels (ChannelOutlet)"):
    import aiohttp
    from aiolimiter import AsyncLimiter

log = logging.getLogger("chatkeep")

BURST_S = 0.2  # so much of a second's requests may go at once: in no second more than the rate and a fifth of it
IDLE_S = 2.0
SHOWING_MOST, SHOWING_S = 1000, 5.0  # what shows that a message has come: under way at once, and for so long
REPAIR_S = 60.0  # our own account is at fault: somebody has to repair it, so nobody need hurry

LOST = "somebody else has the address of this customer by now, and no other one is known"

ADVICE: dict[Cause, str] = {
    "window": "the time in which the platform lets us answer is over; a template may go",
    "recipient": "this customer cannot be reached",
    "content": "the platform does not take this message",
    "account": "our account cannot send until it is repaired",
}


class ChannelOutlet(Accounts):
    """
    Sends the replies of conversations that came in through one of *channels*; give it to `Chatkeep.deliver`.

    Args:
        rates: Requests a second for an account, by "channel:account"; the channel's own `rate` for the others.

        concurrency: Requests of one account that are under way at once.

        timeout: Seconds after which a request was not answered.

        typing: Whether customers see that their message has come and is being answered: "typing", and blue ticks on WhatsApp. It
        takes a request for each message. A tapped button is answered in any case.

        tenant_of: The tenant of an account, `tenant_of("whatsapp", "1550")`, for the server, which takes in what platforms
        post to the same channels; without it all of it belongs to the tenant "".

    Raises:
        Misconfigured: Two channels with one account, a rate that is none.
    """

    def __init__(
        self,
        *channels: Channel,
        rates: Mapping[str, float] | None = None,
        concurrency: int = 20,
        timeout: float = TIMEOUT_S,
        typing: bool = False,
        tenant_of: Callable[[str, str], str] = lambda channel, account: "",
    ) -> None:
        super().__init__(*channels, tenant_of=tenant_of)
        self._rates = dict(rates or {})
        if wrong := [account for account, rate in self._rates.items() if not rate > 0]:
            raise Misconfigured(f"The rates of {', '.join(wrong)} must be above 0. Nothing was opened.")
        self._concurrency = concurrency
        self._timeout = timeout
        self._typing = typing
        self._pace: dict[str, tuple[AsyncLimiter, asyncio.Semaphore]] = {}
        self._session: aiohttp.ClientSession | None = None
        self._showing: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Get ready to send."""
        # A connection that the platform closes just as we write to it leaves a reply uncertain, and servers give up idle
        # ones after 5 s or more: ours are given up before.
        connector = aiohttp.TCPConnector(keepalive_timeout=IDLE_S)
        self._session = aiohttp.ClientSession(connector=connector, trust_env=False)

    async def close(self) -> None:
        """Close its connections."""
        session, self._session = self._session, None
        self._pace.clear()
        for task in self._showing:
            task.cancel()
        await asyncio.gather(*self._showing, return_exceptions=True)
        if session is not None:
            await session.close()

    async def send(self, conversation: str, content: Content, *, key: str, skip: int, at: float) -> Sent:
        """Send a reply, but for the first *skip* of its requests. What goes wrong is told, and raises nothing."""
        sent = await self._send(conversation, content, key=key, skip=skip, at=at)
        return structs.replace(sent, channel=address_of(conversation)[0])

    async def _send(self, conversation: str, content: Content, *, key: str, skip: int, at: float) -> Sent:
        name, account, to = address_of(conversation)
        channel = self._channels[name, account]
        tenant = tenant_for(self.tenant_of, name, account) or ""
        try:
            if self.aliases is not None and channel.may_move(to):
                to = await self.aliases.address_of(tenant, conversation)
        except ChatkeepError as fault:
            return Sent(status="retry", reason=str(fault), parts=skip, counts=False, cause="store")
        if not to:
            return Sent(status="failed", reason=LOST, cause="recipient")
        requests = write_requests(channel, content, account=account, to=to, key=key, at=at, about=conversation)
        if isinstance(requests, Sent):
            return requests if requests.status == "failed" else structs.replace(requests, parts=skip)
        if self._session is None:
            reason = "this instance stops"
            return Sent(status="retry", reason=reason, after=0.0, parts=skip, counts=False, cause="stopping")
        limiter, slots = self._pace_of(f"{name}:{account}", channel.rate)
        ids: tuple[str, ...] = ()
        unknown = ""
        for part, request in enumerate(requests[skip:], skip):
            async with slots, limiter:
                found = await send(self._session, channel, request, timeout=self._timeout)
            if isinstance(found, Delivered):
                ids += (found.id,)
            elif isinstance(found, Retry | Failed):
                moved = await self._follow(tenant, conversation, found, to=to)
                return (
                    judge(found, ids=ids, part=part) if moved is None else structs.replace(moved, ids=ids, parts=part)
                )
            else:
                unknown = unknown or found.reason  # the rest is to go out all the same
        if unknown:
            return Sent(status="uncertain", ids=ids, reason=unknown, cause="unclear")
        return Sent(status="delivered", ids=ids)

    async def _follow(self, tenant: str, conversation: str, refused: Retry | Failed, *, to: str) -> Sent | None:
        """Note the new address that a platform tells to who sends to the old one, *to*; None where there is no other one."""
        name, account, _ = address_of(conversation)
        if not isinstance(refused, Failed):
            return None
        if not refused.permanent:
            log.error("%s:%s cannot send: %s", name, account, refused.reason)
            return None
        moved = refused.moved_to
        if not moved or moved == to or self.aliases is None:
            return None
        try:
            await self.aliases.move(tenant, conversation, conversation_of(name, account, moved), moved)
        except ChatkeepError as fault:
            return Sent(status="retry", reason=str(fault), counts=False, cause="store")
        return Sent(status="retry", reason=refused.reason, after=0.0, cause="recipient")

    def show_received(self, channel: Channel, item: Received | Unknown, *, answering: bool) -> None:
        """
        Tell the platform in the background that *item* has come, and with `typing` the customer, if it is *answering*.

        It is done once and never again: what customers see of it is over in seconds.
        """
        try:
            request = channel.acknowledge(item)
            if request is None and self._typing and answering and isinstance(item, Received):
                request = channel.notice(item)
        except Exception as fault:  # a bug of one channel must not hold up what it has taken in
            log.warning("%s: it cannot be shown that a message has come: %s", channel.name, type(fault).__name__)
            return
        if request is None or self._session is None or len(self._showing) >= SHOWING_MOST:
            return
        task = asyncio.create_task(self._show(self._session, channel, request))
        self._showing.add(task)
        task.add_done_callback(self._showing.discard)

    async def _show(self, session: aiohttp.ClientSession, channel: Channel, request: Request) -> None:
        found = await send(session, channel, request, timeout=SHOWING_S)
        if not isinstance(found, Delivered):
            log.info("%s: it was not shown that a message has come: %s", channel.name, found.reason)

    def _pace_of(self, account: str, usual: float) -> tuple[AsyncLimiter, asyncio.Semaphore]:
        if account not in self._pace:
            rate = self._rates.get(account, usual)
            burst = max(rate * BURST_S, 1.0)
            limiter = AsyncLimiter(burst, burst / rate)
            self._pace[account] = limiter, asyncio.Semaphore(self._concurrency)
        return self._pace[account]


def write_requests(
    channel: Channel, content: Content, *, account: str, to: str, key: str, at: float, about: str
) -> Sequence[Request] | Sent:
    """Return the requests that send a reply; or, where *channel* makes none of it, what becomes of the reply."""
    try:
        return channel.requests(content, account=account, to=to, key=key, at=at)
    except Misconfigured as fault:
        return Sent(status="retry", reason=str(fault), after=REPAIR_S, counts=False, cause="account")
    except ChatkeepError as fault:
        return Sent(status="failed", reason=str(fault), cause="content")
    except Exception as fault:  # a bug of one channel must not hold up its conversation for ever
        log.exception("%s: a reply cannot be made into a request.", about)
        return Sent(status="failed", reason=f"{type(fault).__name__} in channel {channel.name}", cause="bug")


def judge(found: Retry | Failed, *, ids: tuple[str, ...], part: int) -> Sent:
    """Return what becomes of a reply whose request number *part* was not taken; *ids*: of those before it."""
    if isinstance(found, Retry):
        return Sent(status="retry", ids=ids, reason=found.reason, after=found.after, parts=part, cause="platform")
    if not found.permanent:
        return Sent(
            status="retry", ids=ids, reason=found.reason, after=REPAIR_S, parts=part, counts=False, cause=found.cause
        )
    return Sent(status="failed", ids=ids, reason=f"{ADVICE[found.cause]} ({found.reason})", cause=found.cause)
