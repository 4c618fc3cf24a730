"""How much of what can be repeated without an end is repeated: little in `make test`, more in `make long`, much in `make soak`."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import settings

SOAK = int(os.environ.get("CHATKEEP_SOAK", "1"))
"""How many times as many random histories, kills, clients and requests there are as in `make test`."""
KILLS = int(os.environ.get("CHATKEEP_KILLS", "40"))
"""How often a test of `make long` kills an instance on each engine."""


def few_or_many(name: str, few: int, many: int) -> Any:
    """Gives a test the argument *name*: *few* in `make test`, *many* in `make long`."""
    return pytest.mark.parametrize(name, [few, pytest.param(many, marks=pytest.mark.long)])


def examples(times: int) -> settings:
    """Tries *times* as many examples as other tests: those try five in `make quick`, 25 in `make test`, a hundred in `make long`."""
    return settings(max_examples=times * settings.default.max_examples)


def long(*values: Any) -> list[Any]:
    """Gives values of a parameter to `make long` alone."""
    return [pytest.param(value, marks=pytest.mark.long) for value in values]
