"""The states of a worker: which may follow which."""

from __future__ import annotations

import pytest

from chatkeep.drivers.base import Key
from chatkeep.engine.worker import ADMITTED, ALONE, HELD, IDLE, NEXT, WORKING, Worker, WorkerState


def worker_in(state: WorkerState) -> Worker:
    """A worker that has come to *state* by the changes that there are."""
    worker = Worker(Key("", "ada"), "host:1:ab:cd", HELD if state is HELD else IDLE)
    for step in {IDLE: (), HELD: (), WORKING: (WORKING,)}.get(state, (WORKING, state)):
        worker.move(step)
    return worker


@pytest.mark.parametrize("state", WorkerState)
@pytest.mark.parametrize("to", WorkerState)
async def test_only_the_changes_of_the_table_are_made(state: WorkerState, to: WorkerState) -> None:
    """Any other one is refused, and leaves the worker as it was."""
    worker = worker_in(state)
    if to in NEXT[state]:
        worker.move(to)
        assert to is worker.state
    else:
        with pytest.raises(RuntimeError, match=rf"ada: a worker that is {state.value} cannot become {to.value}"):
            worker.move(to)
        assert state is worker.state


async def test_whoever_has_a_place_does_not_ask_for_all_and_nobody_works_twice() -> None:
    """What the table must never have: these would be two at work on one conversation, or one who waits for itself."""
    never = {(HELD, WORKING), (WORKING, HELD), (ADMITTED, ALONE), (ALONE, ADMITTED), (ADMITTED, IDLE), (ALONE, IDLE)}

    assert set() == {(state, to) for state, following in NEXT.items() for to in following} & never
    assert set(WorkerState) == set(NEXT) == {HELD} | {to for following in NEXT.values() for to in following}


async def test_a_place_is_had_by_the_admitted_and_the_lone_alone() -> None:
    """The runner has no place to give to these two."""
    assert {ADMITTED, ALONE} == {state for state in WorkerState if worker_in(state).has_place}
