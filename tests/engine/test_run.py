"""How the run of a handler has ended: the table of `judge`. What follows from it is in test_judging."""

from __future__ import annotations

import asyncio

import pytest

from chatkeep.engine.run import CannotBegin, Fate, judge


class Abort(BaseException):
    """No Exception."""


FAULTS: list[BaseException | None] = [
    None,
    ValueError(),
    Abort(),
    GeneratorExit(),
    asyncio.CancelledError(),
    TimeoutError(),
]


@pytest.mark.parametrize(
    ("fault", "how", "fate"),
    [
        (None, {}, Fate.ANSWERED),
        *((fault, {}, Fate.FAILED) for fault in FAULTS if fault is not None),
        (BaseExceptionGroup("both", [SystemExit(), ValueError()]), {}, Fate.FAILED),
        *((fault, {"late": True}, Fate.FAILED) for fault in FAULTS),
        *((fault, {"late": True, "ended": False}, Fate.ABANDONED) for fault in FAULTS),
        *((fault, {"stopped": True}, Fate.STOPPED) for fault in FAULTS),
        (None, {"stopped": True, "ended": False}, Fate.STOPPED),
        (CannotBegin(), {}, Fate.NOT_BEGUN),
        *(
            (kind(), how, Fate.EXITS)
            for kind in (SystemExit, KeyboardInterrupt)
            for how in ({}, {"late": True}, {"stopped": True})
        ),
    ],
)
def test_the_table(fault: BaseException | None, how: dict[str, bool], fate: Fate) -> None:
    """Each way to end has one fate."""
    assert fate is judge(fault, **how)
