"""What is said of a Redis by what it says of itself: rules on its INFO and CONFIG, without a server."""

from __future__ import annotations

from typing import Any

import pytest

from chatkeep.drivers.base import Finding
from chatkeep.drivers.redis.check import FULL, Report, foreign, judged, passing
from chatkeep.drivers.redis.scripts import BUCKETS_MOST, FORMAT, Meta

INFO = {"redis_version": "7.2.4", "role": "master", "used_memory": str(3 << 20), "maxmemory": "0"}
SETTINGS = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction", "maxmemory": "0"}


def report(*, name: str = "", forbidden: tuple[str, ...] = (), config: bool = True, **changed: str | None) -> Report:
    """What a server says that is set up as it should be, but for what is *changed* (None: it does not say that)."""
    info, settings = dict(INFO), dict(SETTINGS)
    for member, value in changed.items():
        one = settings if member.replace("_", "-") in SETTINGS or member.startswith("min_") else info
        key = member.replace("_", "-") if one is settings else member
        if value is None:
            one.pop(key)
        else:
            one[key] = value
    return Report(name, info, settings if config else None, list(forbidden))


def said_of(subject: str, given: Report) -> tuple[str, str]:
    """What is said of one subject: how bad it is, and in which words."""
    (found,) = [finding for finding in judged([given]) if finding.subject == subject]
    return found.level, found.said


def test_a_server_that_is_set_up_right_gives_no_complaint() -> None:
    expected = [
        Finding("ok", "server", "redis 7.2.4"),
        Finding("ok", "persistence", "appendonly yes"),
        Finding("ok", "fsync", "appendfsync always"),
        Finding("ok", "eviction", "noeviction"),
        Finding("ok", "memory", "3 MB used, no limit set"),
        Finding("ok", "permissions", "its user may do all that is needed"),
        Finding("ok", "role", "primary"),
    ]

    assert expected == judged([report()])
    assert "" == passing([report(), report()])


@pytest.mark.parametrize(
    ("level", "said", "changed"),
    [
        ("ok", "redis 6.2.0", {"redis_version": "6.2.0"}),
        ("fail", "redis 6.0.16 is too old; use redis 6.2 or newer.", {"redis_version": "6.0.16"}),
        ("ok", "redis 10.0.1", {"redis_version": "10.0.1"}),
        ("ok", "valkey 8.0.0", {"valkey_version": "8.0.0"}),
        ("fail", "valkey 7.2.5 is too old; use valkey 8.0 or newer.", {"valkey_version": "7.2.5"}),
        ("warn", "its version could not be checked: INFO is forbidden.", {"redis_version": None}),
        (
            "fail",
            "it is a node of a cluster: write redis+cluster:// and name some of its nodes.",
            {"redis_mode": "cluster"},
        ),
        (
            "fail",
            "it is a node of a cluster: write redis+cluster:// and name some of its nodes.",
            {"valkey_version": "8.1.0", "server_mode": "cluster"},
        ),
        ("ok", "10.0.0.1:6379 redis 7.2.4", {"redis_mode": "cluster", "name": "10.0.0.1:6379 "}),
    ],
)
def test_the_version_decides_whether_it_can_be_used(level: str, said: str, changed: dict[str, Any]) -> None:
    """Versions are compared as numbers; a node of a cluster is fine where a cluster was named."""
    assert (level, said) == said_of("server", report(**changed))


@pytest.mark.parametrize(
    ("subject", "level", "begins", "changed"),
    [
        ("persistence", "warn", "appendonly no: a restart loses conversations.", {"appendonly": "no"}),
        ("persistence", "ok", "appendonly yes", {"config": False, "aof_enabled": "1"}),
        ("persistence", "warn", "appendonly no", {"config": False, "aof_enabled": "0"}),
        ("persistence", "warn", "it could not be checked whether", {"config": False}),
        ("fsync", "warn", "appendfsync everysec: a crash loses what was answered last", {"appendfsync": "everysec"}),
        ("fsync", "warn", "appendfsync could not be checked", {"config": False}),
        (
            "eviction",
            "fail",
            "maxmemory-policy allkeys-lru throws conversations away",
            {"maxmemory": "1", "maxmemory_policy": "allkeys-lru"},
        ),
        ("eviction", "ok", "allkeys-lru, but there is no limit of memory", {"maxmemory_policy": "allkeys-lru"}),
        ("eviction", "warn", "maxmemory-policy could not be checked.", {"config": False}),
    ],
)
def test_what_a_restart_or_a_full_memory_loses_is_told(
    subject: str, level: str, begins: str, changed: dict[str, Any]
) -> None:
    found = said_of(subject, report(**changed))

    assert (level, begins) == (found[0], found[1][: len(begins)])


def test_an_opening_is_told_the_first_thing_by_which_something_may_be_lost() -> None:
    """Of any of the servers, and of nothing else: a version is no loss."""
    careless = report(appendfsync="no", name="b:6379 ")

    assert passing([report(redis_version="6.0.0"), careless]).startswith("b:6379 appendfsync no: a crash loses")


@pytest.mark.parametrize(
    ("expected", "used", "limit"),
    [
        (("ok", "3 MB used, no limit set"), 3 << 20, 0),
        (("ok", "8 of 10 MB used"), int(FULL * (10 << 20)), 10 << 20),
        (
            ("warn", "8 of 10 MB used: a full server takes no messages. Give it more, or keep shorter logs."),
            int(FULL * (10 << 20)) + 1,
            10 << 20,
        ),
        (("warn", "it could not be checked: INFO is forbidden."), 0, 10 << 20),
    ],
)
def test_a_server_that_is_nearly_full_is_told(expected: tuple[str, str], used: int, limit: int) -> None:
    given = report()
    full = given._replace(info=given.info | {"used_memory": str(used), "maxmemory": str(limit)})

    assert expected == said_of("memory", full)


def test_what_its_user_may_not_do_is_named() -> None:
    expected = (
        "fail",
        "its user may not use evalsha, keys of the prefix. Grant it +@read +@write +@scripting and the keys of the prefix.",
    )

    assert expected == said_of("permissions", report(forbidden=("evalsha", "keys of the prefix")))


LATE = "primary; replicas follow a little behind: what was answered last is lost when one of them takes over"


@pytest.mark.parametrize(
    ("level", "begins", "ends", "changed"),
    [
        ("ok", "primary", "primary", {"connected_slaves": "0"}),
        ("warn", LATE, "max-lag to 10.", {"connected_slaves": "2"}),
        ("warn", LATE, "takes over.", {"connected_slaves": "2", "min_replicas_to_write": "1"}),
        ("warn", LATE, "max-lag to 10.", {"connected_slaves": "1", "config": False}),
        ("fail", "it is a slave: name its primary", "redis+sentinel://.", {"role": "slave"}),
        ("warn", "it could not be checked", "INFO is forbidden.", {"role": None}),
    ],
)
def test_a_failover_loses_what_a_replica_has_not_got(level: str, begins: str, ends: str, changed: Any) -> None:
    found, said = said_of("role", report(**changed))

    assert (level, True, True) == (found, said.startswith(begins), said.endswith(ends))


def test_each_server_is_judged() -> None:
    names = [finding.said.split(" ")[0] for finding in judged([report(name="a "), report(name="b ")])]

    assert sorted(["a"] * (len(names) // 2) + ["b"] * (len(names) // 2)) == names


@pytest.mark.parametrize(
    ("begins", "changed"),
    [
        ("", {}),
        ("", {"buckets": "1"}),
        ("", {"buckets": str(BUCKETS_MOST)}),
        ("it was made by another chatkeep (format '9'", {"format": "9"}),
        ("it was made by another chatkeep (format ''", {"format": ""}),
        *((f"it says that it has {text!r} buckets", {"buckets": text}) for text in ("", "0", "-1", "1.5", "²")),
        (f"it says that it has '{BUCKETS_MOST + 1}' buckets", {"buckets": str(BUCKETS_MOST + 1)}),
    ],
)
def test_a_store_of_another_chatkeep_is_not_opened(begins: str, changed: dict[str, str]) -> None:
    meta = Meta(**({"epoch": "e", "format": str(FORMAT), "buckets": "64", "copied": ""} | changed))
    said = foreign(meta)

    assert (begins, bool(begins)) == (said[: len(begins)], bool(said))
