"""Leases: whose they are, and whether anybody may still work under them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
from msgspec import structs

from chatkeep import Chatkeep
from chatkeep.conversation.snapshots import Policy
from chatkeep.drivers.base import Key, Row
from chatkeep.engine import lease_keeper
from chatkeep.engine.lease_keeper import SKEW_S, LeaseKeeper, is_holder_gone, this_process

from ..support.clock import Clock

HOST, PID, NONCE = this_process().split(":")
ROW = Row(key=Key("", "ada"), revision="r", incarnation="i", head=1)


@pytest.fixture
async def keeper() -> AsyncIterator[LeaseKeeper]:
    """The leases of one engine, which is open, by a clock that is turned."""
    async with Chatkeep[Any]("memory://") as keep:
        made = LeaseKeeper(keep._engine.store, Policy(lease_s=10.0), Clock())
        made.open()
        yield made
        made.close()


def dead_process() -> int:
    """The id of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    return process.pid


def test_a_holder_is_gone_only_if_its_process_is_certain_to_be() -> None:
    """Of another host nobody knows, nor of what is no lease of chatkeep's; a number may have gone to another process since."""
    gone = [f"{HOST}:{dead_process()}:n:e:1", f"{HOST}:{PID}:another:e:1", f"{this_process()}:closed:1"]
    unknown = [f"elsewhere:{dead_process()}:n:e:1", f"{HOST}:x:n:e:1", f"{HOST}:{dead_process()}", "", HOST]

    assert [True] * 3 == [is_holder_gone(lease) for lease in gone]
    assert [False] * 5 == [is_holder_gone(lease) for lease in unknown]


def test_a_holder_that_lives_is_not_gone() -> None:
    """It is asked for, and goes on."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert not is_holder_gone(f"{HOST}:{process.pid}:n:e:1")
        process.communicate(b"\n")

    assert 0 == process.returncode


def test_nobody_works_under_the_leases_of_an_engine_that_was_closed(keeper: LeaseKeeper) -> None:
    """In this process, where others may be open."""
    lease = f"{keeper.name}:1"

    assert not is_holder_gone(lease)
    keeper.close()
    assert is_holder_gone(lease)


def test_a_lease_of_ours_is_orphaned_though_we_live(keeper: LeaseKeeper) -> None:
    """Who asks works under none; of others it is told by their process."""
    ours, beside, elsewhere = f"{keeper.name}:1", f"{this_process()}:other", "elsewhere:7:n:e"

    assert [True, False, False, False] == [keeper.is_ours(lease) for lease in (ours, beside, elsewhere, None)]
    assert [True, True, False] == [keeper.is_orphaned(lease) for lease in (ours, beside, elsewhere)]
    assert [False, False, True, False] == [keeper.may_have_died(lease) for lease in (ours, beside, elsewhere, None)]


def leased(token: str, until: float) -> Row:
    """A row under a lease."""
    return structs.replace(ROW, lease=token, leased_until=until)


def test_a_lease_is_held_as_long_as_it_lasts_by_the_clock_of_who_looks(
    keeper: LeaseKeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time in it is its holder's: seen for the first time it may have begun just now. One that is renewed begins anew."""
    watch, now = [100.0], keeper._clock()
    monkeypatch.setattr(lease_keeper.time, "monotonic", lambda: watch[0])
    first, renewed, another = (
        leased("elsewhere:7:n:e", now - 60),
        leased("elsewhere:7:n:e", now),
        leased("b:7:n:e", now),
    )
    seen = []
    for after_s, row in ((0.0, first), (9.9, first), (0.1, first), (0.0, renewed), (9.9, renewed), (0.1, another)):
        watch[0] += after_s
        seen.append(keeper.observe_holder(row))

    assert [True, True, False, True, True, True] == seen
    assert not keeper.observe_holder(ROW)


def test_a_lease_that_ran_out_by_any_clock_is_not_waited_for(keeper: LeaseKeeper) -> None:
    """Nor is one that nobody works under."""
    now = keeper._clock()

    assert [True, False, False] == [
        keeper.observe_holder(row)
        for row in (
            leased("elsewhere:7:n:e", now - SKEW_S + 60),
            leased("elsewhere:7:n:e", now - SKEW_S),
            leased(f"{keeper.name}:1", now + 9),
        )
    ]
