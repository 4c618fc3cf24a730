"""upstash://  Conversations in a Redis that is reached over HTTP: Upstash, Vercel KV, and whatever speaks their REST protocol.

    upstash://TOKEN@host[:port]        https; with ?tls=no plain http, for a gateway on this host
    upstash://                         address and token from UPSTASH_REDIS_REST_URL and UPSTASH_REDIS_REST_TOKEN, or else
                                       from KV_REST_API_URL and KV_REST_API_TOKEN

The verbs, their scripts and their keys are those of the Redis driver, and either opens what the other has made. Here a store is made
with one bucket, so that looking for work is one command, and bodies are stored as text, for requests are JSON. What an act costs is
one command; acts that wait go together in one request. Announcements (`?watch=yes`) are off by default: a function that lives for
one message hears none, and each one costs a command.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Callable, Collection
from typing import Any
from urllib.parse import unquote, urlsplit

from ...errors import Misconfigured, StoreError, Unavailable, Unsupported
from ..base import Ability, About, Finding
from ..redis import scripts as acts
from ..redis.driver import RedisDriver
from ..redis.seam import Site
from ..url import UrlOptions, host_fault
from .check import examined, refuse_read_only
from .transport import Rejected, Rest, scheme_fault_of

BUCKETS = 1

OPTIONS = {"tls", "prefix", "timeout", "watch"}
EXAMPLE = "upstash://TOKEN@eu1-calm-owl-12345.upstash.io"
VARIABLES = (("UPSTASH_REDIS_REST_URL", "UPSTASH_REDIS_REST_TOKEN"), ("KV_REST_API_URL", "KV_REST_API_TOKEN"))


class UpstashDriver(RedisDriver):
    """One database behind a REST address. See `Driver` for what each verb promises."""

    abilities = frozenset(Ability) - {Ability.WATCH, Ability.SEARCH}
    about = About(
        urls=("upstash://TOKEN@host", "upstash://"),
        use="functions and edges: Redis over REST, as Upstash and Vercel KV offer it",
        costs="a message: one HTTPS request with one command; opening: one with three; looking for work: one command",
        lacks="durability and eviction, which are the service's word; chatkeep's tests run on a double of its protocol",
        depends={Ability.DURABLE: "as the service says", Ability.WATCH: "with `?watch=yes`"},
    )

    def __init__(self, url: str) -> None:
        site, prefix, watches = site_of(url)
        if watches:
            self.abilities = UpstashDriver.abilities | {Ability.WATCH}
        self._bind(site, acts.Acts(prefix, buckets=BUCKETS, small=acts.as_text), Rest)

    async def _start(self) -> str:
        self._servers = servers = self._transport(self._site)
        await servers.start()
        try:
            _, known = await asyncio.gather(refuse_read_only(servers, self._acts), self._known(servers))
            epoch = await self._made(servers, *known)
        except Unavailable as fault:
            if wrong := await scheme_fault_of(self._site):
                raise Misconfigured(f"{self._site.name} was not opened: {wrong}.") from fault
            if isinstance(fault, Rejected):
                raise Misconfigured(f"{fault} The store was not opened.") from fault
            raise
        self._acts.epoch = epoch
        return epoch

    async def examine(self) -> list[Finding]:
        servers = self._transport(self._site)
        try:
            await servers.start()
            return await examined(servers, self._acts)
        except StoreError as fault:
            return [Finding("fail", "reachable", await scheme_fault_of(self._site) or f"{fault}")]
        finally:
            await servers.close()

    async def announce(self, marks: Collection[str]) -> None:
        self.refuse_closed("announced")
        if Ability.WATCH in self.abilities:
            await super().announce(marks)

    def watch(self, heard: Callable[[list[str]], None]) -> None:
        self.refuse_closed("watched")
        if Ability.WATCH in self.abilities:
            super().watch(heard)

    async def backup(self, path: str, *, replace: bool = False) -> None:
        raise Unsupported(
            f"The service copies an upstash:// store; {path} was not written. Use the backups of its console."
        )


def site_of(url: str) -> tuple[Site, str, bool]:
    """Return what *url* says, the prefix of the store's keys, and whether announcements are wanted. Raises `Misconfigured`."""
    parts = urlsplit(url)
    entry, _, host = parts.netloc.rpartition("@")
    user, _, password = (unquote(word) for word in entry.partition(":"))
    token, secured = password or user, True
    if not parts.netloc:
        host, token, secured = _from_environment()
    shown = host if entry or not parts.netloc else ""  # without an @ it may be the token
    options = UrlOptions(f"upstash://{shown}", parts.query, OPTIONS, example=EXAMPLE)
    if not host or not host.isascii() or parts.path.strip("/"):
        raise options.wrong("behind the token belong a host, a port if it is not that of https, and nothing more.")
    if not _is_token(token):
        raise options.wrong("there is no token in front of the @, or what is there can be none.")
    tls: Any = ssl.create_default_context() if options.is_on("tls", default=secured) else None
    place = urlsplit(f"//{host}")
    site = Site(
        name=f"upstash://{host}",
        hosts=((place.hostname or "", place.port or (443 if tls else 80)),),
        access={"token": token, "tls": tls, "host": host},
        timeout=options.seconds("timeout", 5.0),
    )
    return site, options.name("prefix"), options.is_on("watch", default=False)


def _from_environment() -> tuple[str, str, bool]:
    """Return host, token and whether TLS is used, from the variables that Upstash and Vercel set. Raises `Misconfigured`."""
    for address, token in VARIABLES:
        if found := os.environ.get(address):
            parts = urlsplit(found)
            more = "@" in parts.netloc or parts.path.strip("/") or parts.query or parts.fragment
            if parts.scheme not in ("https", "http") or not parts.netloc or more or host_fault(found):
                said = "is not the address of a store, such as https://host, and nothing more"
                raise Misconfigured(f"{address} {said}. Nothing was opened.")
            given = os.environ.get(token)
            if not given:
                raise Misconfigured(f"{address} is set and {token} is not. Nothing was opened.")
            if not _is_token(given) or given[0] in "'\"":
                said = "is no token as the console shows it: it has blanks, or quotes around it"
                raise Misconfigured(f"{token} {said}. Nothing was opened.")
            return parts.netloc, given, parts.scheme == "https"
    names = " nor ".join(address for address, _ in VARIABLES)
    raise Misconfigured(
        f"upstash:// names no host, and neither {names} is set. A URL looks like {EXAMPLE}. Nothing was opened."
    )


def _is_token(text: str) -> bool:
    return bool(text) and text.isascii() and text.isprintable() and " " not in text
