"""The desk's health: samples of the last hour that are true, and the servers on the store."""

from __future__ import annotations

from typing import Any

import pytest

from chatkeep import Chatkeep, Turn
from chatkeep.auth.accounts import add_account
from chatkeep.server import samples
from chatkeep.server.application import application_of
from chatkeep.server.samples import Samples, quantile, since
from chatkeep.server.settings import ServerSettings

from ..support.desk import PASSWORD, Person, person
from ..support.serving import served, serving
from ..support.stores import FAST
from ..support.waiting import time_passes, until


def test_a_quantile_lies_where_it_does() -> None:
    """As on a straight line between two bounds; nothing of nothing; the last bound above which it lies."""
    counts = [(1.0, 0.0), (2.0, 50.0), (4.0, 100.0), (float("inf"), 100.0)]

    assert (1.5, 2.0, 4.0) == (quantile(counts, 0.25), quantile(counts, 0.5), quantile(counts, 1.0))
    assert (None, None) == (quantile([], 0.5), quantile([(1.0, 0.0), (float("inf"), 0.0)], 0.5))
    assert 1.0 == quantile([(1.0, 1.0), (float("inf"), 10.0)], 0.5)
    assert [(1.0, 3.0), (2.0, 5.0)] == since({1.0: 1.0}, {2.0: 5.0, 1.0: 4.0})


async def test_a_sample_says_what_happened_since_the_one_before() -> None:
    """Turns and failures in a second, the age of what is due, and nothing of what was before the first."""
    now = [1000.0]
    keep: Chatkeep[Any] = Chatkeep("memory://", **FAST | {"attempts": 1}, clock=lambda: now[0])

    @keep.on_message
    async def bot(turn: Turn[Any]) -> str:
        return turn.text

    async with keep:
        taken = Samples(keep)
        await keep.receive("ada", "before")
        await taken.take()
        for number in range(20):
            await keep.receive("ada", f"{number}")
        now[0] += 10.0
        await taken.take()
        now[0] += 10.0
        await taken.take()
        now[0] -= 100.0
        await taken.take()

    first, second = taken.taken
    assert (1010.0, 2.0, 0.0, None, 0.0) == (first.at, first.turns, first.failures, first.turn_p50, first.backlog)
    assert (0.0, 0.0) == (second.turns, second.misses)


async def test_what_is_due_and_not_done_is_the_backlog(url: str) -> None:
    """On every store: a message that nobody answers is as old as it is; nothing due is no backlog."""
    keep: Chatkeep[Any] = Chatkeep(url, **FAST)
    async with keep:
        taken = Samples(keep)
        await taken.take()
        await keep.accept("ada", "hello")
        await time_passes(1.1)  # its age is what is measured
        await taken.take()

    assert 1.0 <= (taken.taken[0].backlog or 0.0) < 60.0


async def test_health_tells_of_samples_servers_and_settings(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Settings are without secrets; they and the servers are for who may switch what concerns all."""
    monkeypatch.setattr(samples, "SAMPLE_S", 0.05)
    keep: Chatkeep[Any] = Chatkeep(url, **FAST)

    @keep.on_message
    async def bot(turn: Turn[Any]) -> str:
        return turn.text

    settings = ServerSettings(metrics_token="a-secret", title="x")
    async with serving(application_of(keep, settings)) as port:
        admin = await person(keep, port, "admin", everywhere=True)
        agent = await person(keep, port, "agent", everywhere=True)
        viewer = await person(keep, port, "viewer")
        await keep.receive("ada", "hello")

        async def turned() -> bool:
            told = (await admin.ask("GET", "/v1/desk/health")).json
            return any(one["turn_p50"] for one in told["samples"])

        await until(turned, within=20, every=0.1)
        told = (await admin.ask("GET", "/v1/desk/health")).json
        seen = [(await one.ask("GET", "/v1/desk/health")).json for one in (viewer, agent)]

    said = {setting["said"].partition(" ")[0]: setting["said"] for setting in told["settings"]}
    assert "metrics_token *** (program)" == said["metrics_token"]
    assert "session_ttl" in said
    assert "a-secret" not in str(told)
    assert [([], [])] * 2 == [(one["settings"], one["instances"]) for one in seen]
    assert seen[0]["samples"]
    assert 1 == len(told["instances"])
    assert {"at", "turns", "conflicts", "backlog", "act_p99"} <= set(told["samples"][0])


async def test_servers_on_one_store_know_of_each_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """Each is listed while it runs, and not when it has ended or has said nothing for long."""
    monkeypatch.setattr(samples, "SAMPLE_S", 0.05)
    url = f"sqlite:///{tmp_path}/chat.db"
    one, other = Chatkeep[Any](url, **FAST), Chatkeep[Any](url, **FAST)
    async with served(one) as client:
        await add_account(one, "kim", role="admin", everywhere=True, password=PASSWORD)
        kim = Person(client.port)
        await kim.sign_in({"name": "kim", "password": PASSWORD})

        async def count() -> int:
            return len((await kim.ask("GET", "/v1/desk/health")).json["instances"])

        async def is_(expected: int) -> bool:
            return await count() == expected

        async with served(other):
            await until(lambda: is_(2), within=20, every=0.1)
        await until(lambda: is_(1), within=20, every=0.1)
