"""redis:// rediss:// redis+cluster:// redis+sentinel://  Conversations in Redis 6.2+ or Valkey 8+, each in one hash slot.

    redis://[user:password@]host[:port][/db]        one server (rediss: TLS)
    redis+cluster://host:port[,host:port...]        the masters of a cluster
    redis+sentinel://host:port[,host:port...]/name  the primary that Sentinel names

Each verb is one script, run whole or not at all (lua/). It is as durable as the server: `appendonly yes`,
`appendfsync always` and `maxmemory-policy noeviction`, or it calls itself a cache and says so. What the server does not
promise nobody can: after a failover to a replica the last answered acts may be gone, and the revisions see to it that no
conversation is mixed up by that.

A user needs the keys PREFIX:*, the channel PREFIX:changed and +eval +evalsha +del +set +get +exists +hset +hdel +hget
+hmget +hlen +rpush +lrange +ltrim +llen +zadd +zrem +zscore +zcard +zcount +zrange +zrangebyscore +zrangebylex
+publish +subscribe +select +ping +info, in a cluster +asking and +cluster|slots, +script|load so that
acts on one conversation keep their order on a server that has lost its scripts, and +config|get +time so that more can
be checked:

    ACL SETUSER chatkeep on >SECRET ~chatkeep:* resetchannels &chatkeep:* +@read +@write +@scripting +@pubsub
                         +@connection +info +config|get +time
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import secrets
from collections.abc import Callable, Collection
from functools import partial
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from ...errors import Corrupt, Misconfigured, Replaced, StoreError, Unavailable, Uncertain, Unsupported
from ..announcements import announcement_of, listener_for
from ..base import (
    Ability,
    About,
    Append,
    Appended,
    Count,
    Counted,
    Entries,
    Entry,
    Erase,
    Fence,
    Finding,
    Index,
    Pool,
    Read,
    Row,
    Scan,
    Write,
)
from ..openable import Openable, end
from ..scanning import scan_places
from ..url import UrlOptions
from . import replies
from . import scripts as acts
from .check import examined, foreign, judged, passing, reported, stored_epochs, stored_meta
from .seam import Address, Site, Transport

T = TypeVar("T")

log = logging.getLogger("chatkeep")

PAGE = 500  # rows that a scan has under way at once

TLS = ("ca", "cert", "key")
OPTIONS = {
    "redis": {"prefix", "timeout"},
    "rediss": {"prefix", "timeout", *TLS},
    "redis+cluster": {"prefix", "timeout", "tls", *TLS},
    "redis+sentinel": {"prefix", "timeout", "tls", *TLS, "sentinel_user", "sentinel_password"},
}
EXAMPLES = {
    "redis": "redis://127.0.0.1:6379/0",
    "rediss": "rediss://user:password@host:6379/0?ca=/etc/ca.pem",
    "redis+cluster": "redis+cluster://host1:6379,host2:6379",
    "redis+sentinel": "redis+sentinel://host1:26379,host2:26379/mymaster",
}


class RedisDriver(Openable):
    """One Redis or Valkey, a cluster of them, or what Sentinel watches. See `Driver` for what each verb promises."""

    abilities = frozenset(Ability) - {Ability.SEARCH}
    about = About(
        urls=(
            "redis://host:6379/0",
            "rediss://host:6379/0",
            "redis+cluster://host:6379,host:6380",
            "redis+sentinel://host:26379,host:26379/name",
        ),
        use="many instances; Redis 6.2+, Valkey 8+; TLS, a cluster, or behind Sentinel",
        costs="a message: one round trip, which those of one moment share, and one fsync; looking for work: one round trip",
        lacks="what was answered last, when a replica takes over; more than fits into memory",
        depends={Ability.DURABLE: "with `appendfsync always`"},
    )

    def __init__(self, url: str, transport: Callable[[Site], Transport] | None = None) -> None:
        if transport is None:  # who brings another one needs no hiredis
            from .transport import Servers

            transport = Servers
        site, prefix = site_of(url)
        self._bind(site, acts.Acts(prefix), transport)

    def _bind(self, site: Site, said: acts.Acts, transport: Callable[[Site], Transport]) -> None:
        super().__init__(site.name)
        self._site, self._acts, self._transport = site, said, transport
        self._servers: Transport | None = None
        self._ear: asyncio.Task[None] | None = None

    async def _start(self) -> str:
        self._servers = servers = self._transport(self._site)
        try:
            await servers.start()
            # (In one trip; a server that is unfit may refuse the rest, and says why itself.)
            reports, known = await asyncio.gather(
                reported(servers, self._acts), self._known(servers), return_exceptions=True
            )
            if isinstance(reports, BaseException):
                raise reports
            if wrong := [found.said for found in judged(reports) if found.level == "fail"]:
                raise Misconfigured(" ".join(wrong))
            if isinstance(known, BaseException):
                raise known
            epoch = await self._made(servers, *known)
        except Exception as fault:
            if not unfit(fault):
                raise
            raise Misconfigured(f"{self._site.name} was not opened: {fault}") from fault
        lost = passing(reports)
        self.abilities = RedisDriver.abilities - ({Ability.DURABLE} if lost else set())
        if lost:
            log.warning("%s is a cache now: what was answered may be lost. %s", self._site.name, lost)
        self._acts.epoch = epoch
        return epoch

    async def examine(self) -> list[Finding]:
        servers = self._transport(self._site)
        try:
            await servers.start()
            return await examined(servers, self._acts)
        except StoreError as fault:
            return [Finding("fail", "reachable", f"{fault}")]
        finally:
            await servers.close()

    async def announce(self, marks: Collection[str]) -> None:
        servers = self._opened("announced")
        with contextlib.suppress(StoreError):  # best effort: whoever missed it looks by itself in the end
            await servers.ask(b"PUBLISH", self._acts.channel, announcement_of(self.epoch, marks))

    def watch(self, heard: Callable[[list[str]], None]) -> None:
        servers = self._opened("watched")
        self._ear = asyncio.create_task(
            servers.listen(self._acts.channel, listener_for(self, heard)), name="chatkeep redis watch"
        )

    async def _stop(self) -> None:
        servers, self._servers = self._servers, None
        ear, self._ear = self._ear, None
        if ear is not None:
            await end(ear)
        if servers is not None:
            await servers.close()

    def pool(self) -> Pool:
        return self._servers.pool() if self._servers is not None else Pool()

    async def backup(self, path: str, *, replace: bool = False) -> None:
        raise Unsupported(
            f"The server copies a redis:// store; {path} was not written. Have it save itself (BGSAVE), and copy that."
        )

    async def query(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        raise Unsupported("Redis knows no SQL; nothing was read. Use conversations() and history().")

    async def read(self, act: Read) -> tuple[Row, list[Entry]] | None:
        return replies.read_answer(act, await self._opened("read").act(self._acts.read(act)))

    async def append(self, act: Append) -> Appended:
        return replies.append_answer(act, await self._opened("written").act(self._acts.append(act)))

    async def write(self, act: Write) -> Row:
        return replies.write_answer(act, await self._opened("written").act(self._acts.write(act)))

    async def entries(self, act: Entries) -> list[Entry]:
        return replies.entries_answer(act, await self._opened("read").act(self._acts.entries(act)))

    async def scan(self, act: Scan) -> list[Row]:
        servers = self._opened("read")
        places_of, rows_at = partial(self._places, servers, act), partial(self._rows_at, servers, act.index)
        return await scan_places(
            act, places_of, rows_at, acts, page=PAGE, moments_at=partial(self._moments_at, servers)
        )

    async def _places(
        self, servers: Transport, act: Scan, place: acts.Place | None, wanted: int
    ) -> tuple[list[acts.Place], bool]:
        """Return the next places of an index, *wanted* at most, and whether there are more."""
        scans = self._acts.scan(act, place, wanted, apart=servers.site.cluster)
        answers = await asyncio.gather(*map(servers.act, scans))
        pages = (page for reply in answers for page in reply)
        return replies.places_in(act, pages, self._acts.share(wanted), wanted)

    async def _rows_at(self, servers: Transport, index: Index, places: list[acts.Place]) -> list[Row]:
        """Return the rows that stand at places of an index, without those that stand elsewhere by now: they are still to come."""
        runs = self._acts.rows(places, apart=servers.site.cluster)
        found = await self._answered(servers, runs, replies.rows_answer)
        rows = [found[at] for at in places]
        closer = [n for n, row in enumerate(rows) if row is None]
        for n, row in zip(
            closer, await asyncio.gather(*(self._row_at(servers, index, places[n]) for n in closer)), strict=True
        ):
            rows[n] = row
        return [
            row
            for row, at in zip(rows, places, strict=True)
            if row is not None and (not row.revision or acts.place_of(index, row) == at)
        ]

    async def _moments_at(self, servers: Transport, places: list[acts.Place]) -> list[acts.Place]:
        """Return where the rows at places of the index `recent` stand among those changed lately."""
        found = await self._answered(
            servers, self._acts.moments(places, apart=servers.site.cluster), replies.moments_answer
        )
        return [found[at] for at in places]

    async def _answered(
        self,
        servers: Transport,
        runs: list[tuple[acts.ScriptRun, list[acts.Place]]],
        answer: Callable[[list[acts.Place], Any], list[T]],
    ) -> dict[acts.Place, T]:
        """Return what scripts that each answer for some places have answered for each."""
        found: dict[acts.Place, T] = {}
        for (_, asked), reply in zip(runs, await asyncio.gather(*(servers.act(run) for run, _ in runs)), strict=True):
            found |= zip(asked, answer(asked, reply), strict=True)
        return found

    async def _row_at(self, servers: Transport, index: Index, at: acts.Place) -> Row | None:
        """Return the row that an index has at a place; what stands for it if it cannot be read, and none if it is gone."""
        read = Read(acts.key_of(at[1]), tail=0)
        try:
            there = replies.read_answer(read, await servers.act(self._acts.read(read)))
        except Corrupt:
            # Whoever reads it is told what is wrong; the others must not have to wait for that.
            moment = (await self._moments_at(servers, [at]))[0] if index == "recent" else None
            return acts.unreadable(index, read.key, at, moment)
        return there[0] if there else None

    async def erase(self, act: Erase) -> None:
        replies.erase_answer(act, await self._opened("written").act(self._acts.erase(act)))

    async def count(self, act: Count) -> Counted:
        return replies.count_answer(await self._opened("counted").act(self._acts.count(act)))

    async def fence(self, act: Fence) -> None:
        servers = self._opened("done")
        said = replies.meta_of(await servers.act(self._acts.make(self.epoch, act.epoch)))
        if said.epoch != act.epoch:
            raise Replaced(f"{self._site.name} was emptied, or fenced off, since it was opened; nothing was done.")
        try:
            await self._copy_epoch(servers, act.epoch)
        except Unavailable as fault:
            raise Uncertain(
                f"{self._site.name} has its new epoch only in part: {fault} Run the same act again."
            ) from fault
        self.epoch = self._acts.epoch = act.epoch

    async def _known(self, servers: Transport) -> tuple[acts.Meta, set[str]]:
        """Return what the store says of itself, and the epochs that are in its buckets."""
        return await asyncio.gather(stored_meta(servers, self._acts), stored_epochs(servers, self._acts))

    async def _made(self, servers: Transport, said: acts.Meta, stored: set[str]) -> str:
        """Return the store's epoch; made, and copied to every bucket, when there is none."""
        stored = await self._divided(servers, said, stored)
        if emptied := said.epoch == said.copied != "" and stored != {said.epoch}:
            # Somebody may just be making it: what was read after meta counts.
            stored = await stored_epochs(servers, self._acts)
            emptied = stored != {said.epoch}
        if emptied:
            log.error(
                "%s: a part of this store was emptied, or another has taken its place. It gets a new epoch, so that whoever has "
                "it open is refused and must start anew. Find out what happened to it.",
                self._site.name,
            )
        if emptied or not said.epoch:
            said = replies.meta_of(await servers.act(self._acts.make(said.epoch, secrets.token_hex(8))))
            stored = await self._divided(servers, said, stored)
        if {said.copied, *stored} != {said.epoch}:
            await self._copy_epoch(servers, said.epoch)
        return said.epoch

    async def _divided(self, servers: Transport, said: acts.Meta, stored: set[str]) -> set[str]:
        """Look into as many buckets as the store has; return the epochs that are in them, which are *stored* if they were read."""
        if not said.epoch:
            return stored
        if wrong := foreign(said):
            raise Misconfigured(wrong)
        if int(said.buckets) == len(self._acts.buckets):
            return stored
        self._acts.divide(int(said.buckets))
        return await stored_epochs(servers, self._acts)

    async def _copy_epoch(self, servers: Transport, epoch: str) -> None:
        """Tell every bucket the epoch that meta has, and then meta that they know it."""
        copies = (servers.ask(b"SET", bucket.epoch, epoch, key=bucket.epoch) for bucket in self._acts.buckets)
        await asyncio.gather(*copies)
        await servers.ask(b"HSET", self._acts.meta, b"copied", epoch, key=self._acts.meta)

    def _opened(self, done: str) -> Transport:
        self.refuse_closed(done)
        assert self._servers is not None
        return self._servers


def unfit(fault: BaseException) -> bool:
    """Tell whether opening again would not help: what is at the URL, or the credentials, must be mended first."""
    return isinstance(fault, Misconfigured | Corrupt) or (
        isinstance(fault, Unavailable) and fault.__cause__ is not None
    )


def site_of(url: str) -> tuple[Site, str]:
    """Return what *url* says, and the prefix of the store's keys. Raises `Misconfigured`."""
    parts = urlsplit(url)
    scheme = parts.scheme
    entry, _, hosts = parts.netloc.rpartition("@")
    user, _, password = (unquote(word) for word in entry.partition(":"))
    name = f"{scheme}://{hosts}{parts.path}"
    options = UrlOptions(name, parts.query, OPTIONS[scheme], example=EXAMPLES[scheme])
    if not hosts:
        raise options.wrong("it names no host.")
    prefix, timeout = options.name("prefix"), options.seconds("timeout", 5.0)
    sentinel, cluster = scheme == "redis+sentinel", scheme == "redis+cluster"
    path = unquote(parts.path.strip("/"))
    if (sentinel and not path) or (cluster and path) or not (sentinel or cluster or re.fullmatch(r"\d*", path)):
        raise options.wrong(
            "behind the host stands the number of the database; with Sentinel, the name of the service; with a cluster, nothing."
        )
    secured = options.is_on("tls", default=scheme == "rediss")
    files = {option: options.text(option) for option in TLS if option in options}
    if files and not secured:
        raise options.wrong("ca, cert and key need tls=yes.")
    if absent := [file for file in files.values() if not os.path.isfile(file)]:
        raise options.wrong(f"there is no file {', '.join(map(repr, absent))}.")
    tls = files if secured else None
    try:
        places = tuple(_address(host, 26379 if sentinel else 6379) for host in hosts.split(","))
    except ValueError:
        raise options.wrong("it names no host and port.") from None
    watcher = {"user": options.text("sentinel_user"), "password": options.text("sentinel_password")}
    site = Site(
        name=name,
        hosts=places,
        cluster=cluster,
        service=path if sentinel else "",
        access={"user": user, "password": password, "database": 0 if sentinel else int(path or 0), "tls": tls},
        sentinel_access=watcher | {"tls": tls},
        timeout=timeout,
    )
    return site, prefix


def _address(host: str, port: int) -> Address:
    name, _, number = host.rpartition(":") if re.search(r":\d+$", host) else (host, "", port)
    if not name:
        raise ValueError(host)
    return name.strip("[]"), int(number)
