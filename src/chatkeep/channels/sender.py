"""Where channels' requests go out: one function, one deadline, no retries of its own."""

from __future__ import annotations

import asyncio

from ..extras import from_extra
from .base import Channel, Failed, Outcome, Request, Response, Retry, Uncertain

with from_extra("channels", "Sending through channels (ChannelOutlet)"):
    import aiohttp

TIMEOUT_S = 15.0
LONGEST_ANSWER = 1 << 20


async def send(
    session: aiohttp.ClientSession, channel: Channel, request: Request, *, timeout: float = TIMEOUT_S
) -> Outcome:
    """
    Send one of the channel's requests, and say what became of it.

    Raises nothing but cancellation. What did not leave this host is `Retry`; what did, and was not answered in time or
    in full, is `Uncertain`, or `Retry` on a channel where the same key shows once only.
    """
    try:
        async with (
            asyncio.timeout(timeout),
            session.request(
                request.method,
                request.url,
                data=request.body,
                headers=request.headers,
                allow_redirects=False,  # it would take the token, and what is said, to another address
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=timeout / 2),
            ) as answer,
        ):
            raw = b""
            while more := await answer.content.read(LONGEST_ANSWER - len(raw)):
                raw += more
            return channel.outcome(
                Response(answer.status, {key.lower(): value for key, value in answer.headers.items()}, raw)
            )
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as fault:
        return Retry(f"not connected: {type(fault).__name__}")
    except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError):
        return Failed("the channel's address is not a URL", "account")
    except (aiohttp.ClientError, OSError, TimeoutError) as fault:
        # The type alone: some of these texts hold the URL, and Telegram's URLs hold the token.
        reason = f"no answer: {type(fault).__name__}"
        return Retry(reason) if channel.idempotent else Uncertain(reason)
