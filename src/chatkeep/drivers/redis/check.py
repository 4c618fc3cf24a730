"""What a Redis says about itself, and whether conversations may be kept on it: for `open`, which refuses or warns, and for
`examine`, which tells a person."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from ...errors import StoreError
from ..base import Finding
from . import replies
from . import scripts as acts
from .seam import Address, Transport

OLDEST = {"redis": (6, 2), "valkey": (8, 0)}
SKEW_S = 1.0
PINGS = 20
FULL = 0.8

MENDED = "Set appendonly yes, appendfsync always and maxmemory-policy noeviction in its configuration."


class Report(NamedTuple):
    """One server. *settings* is None where CONFIG is forbidden; what INFO does not say is missing from *info*."""

    name: str
    info: dict[str, str]
    settings: dict[str, str] | None
    forbidden: list[str]

    def said(self, setting: str, told: str) -> str | None:
        """Return a setting, from CONFIG or else from INFO."""
        return (self.settings or {}).get(setting, self.info.get(told))


async def reported(servers: Transport, said: acts.Acts) -> list[Report]:
    """Return what every server that has a part of the store says, in one round trip."""
    return list(await asyncio.gather(*(_reported(servers, said, address) for address in servers.primaries)))


async def _reported(servers: Transport, said: acts.Acts, address: Address | None) -> Report:
    asked = [(b"INFO",), *((b"CONFIG", b"GET", names) for names in (b"append*", b"maxmemory*", b"min-replicas*"))]
    answers: list[Any] = await asyncio.gather(
        *(servers.ask(*command, address=address) for command in asked),
        servers.act(said.probe()),
        return_exceptions=True,
    )
    info, appends, memory, replicas, forbidden = answers
    for answer in answers:
        if isinstance(answer, BaseException) and not isinstance(answer, replies.Refused):
            raise answer
    settings = (
        None
        if any(isinstance(answer, replies.Refused) for answer in (appends, memory, replicas))
        else _pairs(appends + memory + replicas)
    )
    names = [name.decode() for name in forbidden] if isinstance(forbidden, list) else [f"evalsha or eval ({forbidden})"]
    host = "" if address is None else f"{address[0]}:{address[1]} "
    return Report(host, {} if isinstance(info, replies.Refused) else _told(info), settings, names)


def passing(reports: Sequence[Report]) -> str:
    """Tell why what was answered may be lost with the server; '' when it is kept."""
    for report in reports:
        for finding in _kept(report):
            if finding.level != "ok":
                return finding.said
    return ""


def judged(reports: Sequence[Report]) -> list[Finding]:
    """Return what is to be said about the servers as they are set up."""
    return [
        finding for report in reports for judge in (_server, _kept, _room, _rights, _role) for finding in judge(report)
    ]


def _server(report: Report) -> list[Finding]:
    kind = "valkey" if "valkey_version" in report.info else "redis"
    version = report.info.get(f"{kind}_version", "")
    if not version:
        return [Finding("warn", "server", f"{report.name}its version could not be checked: INFO is forbidden.")]
    oldest = OLDEST[kind]
    if tuple(int(part) for part in version.split(".")[:2]) < oldest:
        needed = ".".join(map(str, oldest))
        return [Finding("fail", "server", f"{report.name}{kind} {version} is too old; use {kind} {needed} or newer.")]
    if "cluster" in (report.info.get("redis_mode"), report.info.get("server_mode")) and not report.name:
        return [
            Finding("fail", "server", "it is a node of a cluster: write redis+cluster:// and name some of its nodes.")
        ]
    return [Finding("ok", "server", f"{report.name}{kind} {version}")]


def _kept(report: Report) -> list[Finding]:
    on = report.said("appendonly", "aof_enabled")
    policy = (report.settings or {}).get("appendfsync")
    evicts = report.said("maxmemory-policy", "maxmemory_policy")
    limit = report.said("maxmemory", "maxmemory")
    found = []
    if on in ("yes", "1"):
        found.append(Finding("ok", "persistence", f"{report.name}appendonly yes"))
    elif on is None:
        found.append(
            Finding("warn", "persistence", f"{report.name}it could not be checked whether anything is kept. {MENDED}")
        )
    else:
        found.append(
            Finding("warn", "persistence", f"{report.name}appendonly no: a restart loses conversations. {MENDED}")
        )
    if policy == "always":
        found.append(Finding("ok", "fsync", f"{report.name}appendfsync always"))
    elif policy is None:
        found.append(
            Finding("warn", "fsync", f"{report.name}appendfsync could not be checked: CONFIG is forbidden. {MENDED}")
        )
    else:
        lost = f"appendfsync {policy}: a crash loses what was answered last"
        found.append(Finding("warn", "fsync", f"{report.name}{lost}. {MENDED}"))
    if evicts == "noeviction":
        found.append(Finding("ok", "eviction", f"{report.name}noeviction"))
    elif evicts is None:
        found.append(Finding("warn", "eviction", f"{report.name}maxmemory-policy could not be checked. {MENDED}"))
    elif limit in (None, "0"):
        found.append(Finding("ok", "eviction", f"{report.name}{evicts}, but there is no limit of memory"))
    else:
        thrown = f"maxmemory-policy {evicts} throws conversations away when memory is full"
        found.append(Finding("fail", "eviction", f"{report.name}{thrown}. Set it to noeviction."))
    return found


def _room(report: Report) -> list[Finding]:
    used, limit = (int(report.info.get(name) or 0) for name in ("used_memory", "maxmemory"))
    if not used:
        return [Finding("warn", "memory", f"{report.name}it could not be checked: INFO is forbidden.")]
    if not limit:
        return [Finding("ok", "memory", f"{report.name}{used >> 20} MB used, no limit set")]
    said = f"{report.name}{used >> 20} of {limit >> 20} MB used"
    if used > FULL * limit:
        return [
            Finding("warn", "memory", f"{said}: a full server takes no messages. Give it more, or keep shorter logs.")
        ]
    return [Finding("ok", "memory", said)]


def _rights(report: Report) -> list[Finding]:
    if report.forbidden:
        need = "+@read +@write +@scripting and the keys of the prefix"
        missing = ", ".join(report.forbidden)
        return [Finding("fail", "permissions", f"{report.name}its user may not use {missing}. Grant it {need}.")]
    return [Finding("ok", "permissions", f"{report.name}its user may do all that is needed")]


def _role(report: Report) -> list[Finding]:
    role = report.info.get("role")
    if role is None:
        return [Finding("warn", "role", f"{report.name}it could not be checked: INFO is forbidden.")]
    if role != "master":
        return [Finding("fail", "role", f"{report.name}it is a {role}: name its primary, or use redis+sentinel://.")]
    if report.info.get("connected_slaves", "0") != "0":
        said = "replicas follow a little behind: what was answered last is lost when one of them takes over"
        if (report.settings or {}).get("min-replicas-to-write", "0") == "0":
            said += ". Without min-replicas-to-write a primary that is cut off from its replicas goes on taking messages, which are"
            said += " lost: set it to 1, and min-replicas-max-lag to 10"
        return [Finding("warn", "role", f"{report.name}primary; {said}.")]
    return [Finding("ok", "role", f"{report.name}primary")]


async def stored_meta(servers: Transport, said: acts.Acts) -> acts.Meta:
    """Return what is written about the store as a whole."""
    return replies.meta_of(await servers.ask(b"HMGET", said.meta, *acts.META, key=said.meta))


async def stored_epochs(servers: Transport, said: acts.Acts) -> set[str]:
    """Return the epochs in the buckets: one, unless the store is new or somebody has emptied a part of it."""
    copies = await asyncio.gather(*(servers.ask(b"GET", bucket.epoch, key=bucket.epoch) for bucket in said.buckets))
    return {(copy or b"").decode() for copy in copies}


def foreign(meta: acts.Meta) -> str:
    """Tell why a store that says *meta* is not for this code; '' when it is."""
    if meta.format != str(acts.FORMAT):
        return f"it was made by another chatkeep (format {meta.format!r}, this code knows {acts.FORMAT}). Deploy that version."
    if not (meta.buckets.isascii() and meta.buckets.isdigit() and 0 < int(meta.buckets) <= acts.BUCKETS_MOST):
        return f"it says that it has {meta.buckets!r} buckets, which is none from 1 to {acts.BUCKETS_MOST}. Use another prefix."
    return ""


async def examined(servers: Transport, said: acts.Acts) -> list[Finding]:
    """Return everything that can be found out without changing anything."""
    found = [Finding("ok", "reachable", servers.site.name), *judged(await reported(servers, said))]
    for address in servers.primaries:
        found += await _timed(servers, address)
    if servers.site.cluster:
        whole = servers.covered == 16384
        found.append(Finding("ok" if whole else "fail", "cluster", f"{servers.covered} of 16384 slots are served"))
    return found + await inscribed(servers, said)


async def inscribed(servers: Transport, said: acts.Acts) -> list[Finding]:
    """Return what is written about the store as a whole, and whether it is there whole."""
    try:
        meta = await stored_meta(servers, said)
        if not meta.epoch:
            return [Finding("ok", "format", "nothing is stored yet")]
        if wrong := foreign(meta):
            return [Finding("fail", "format", wrong)]
        epochs = await stored_epochs(servers, acts.Acts(said.prefix, buckets=int(meta.buckets)))
    except StoreError as fault:
        return [Finding("fail", "format", f"{fault}")]
    found = [Finding("ok", "format", f"format {meta.format}, {meta.buckets} bucket{'s' * (meta.buckets != '1')}")]
    if epochs == {meta.epoch}:
        found.append(Finding("ok", "epoch", meta.epoch))
    else:
        found.append(
            Finding("warn", "epoch", "it is not in every bucket: the store is just being made, or a part was emptied")
        )
    return found


async def _timed(servers: Transport, address: Address | None) -> list[Finding]:
    """Return the clock, against half a round trip, and how long one takes."""
    host = "" if address is None else f"{address[0]}:{address[1]} "
    trips = []
    try:
        for _ in range(PINGS):
            begun = time.perf_counter()
            await servers.ask(b"PING", address=address)
            trips.append(time.perf_counter() - begun)
        import statistics  # takes milliseconds, which an opening need not wait for

        median = statistics.median(trips)
        found = [Finding("ok", "round trip", f"{host}{median * 1000:.2f} ms, the median of {PINGS}")]
        begun = time.time()
        seconds, micros = await servers.ask(b"TIME", address=address)
    except replies.Refused as refused:
        return [Finding("warn", "clock", f"{host}it could not be checked: {refused}")]
    skew = int(seconds) + int(micros) / 1e6 - (begun + time.time()) / 2
    if abs(skew) > SKEW_S:
        said = f"{host}its clock is {skew:+.1f} s off from this host's: set one of them right"
        return [*found, Finding("warn", "clock", said)]
    return [*found, Finding("ok", "clock", f"{host}{skew * 1000:+.1f} ms off from this host's")]


def _told(info: bytes) -> dict[str, str]:
    lines = (line.partition(":") for line in info.decode(errors="replace").splitlines())
    return {name: value for name, colon, value in lines if colon}


def _pairs(flat: list[Any]) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in zip(flat[::2], flat[1::2], strict=True)}
