"""Which passwords are taken, and how many are compared at a time."""

from __future__ import annotations

import asyncio
import threading

import pytest

from chatkeep import UsageError
from chatkeep.auth.passwords import (
    AT_ONCE,
    LONGEST,
    SHORTEST,
    WAITING_MOST,
    Busy,
    _Places,
    check_password,
    hash_password,
    is_password,
    make_password,
)

from ..support.waiting import until


@pytest.mark.parametrize("length", [0, SHORTEST - 1, LONGEST + 1])
def test_a_password_that_is_too_short_or_too_long_is_refused(length: int) -> None:
    """It is not shown."""
    with pytest.raises(UsageError, match=f"this one has {length}. Nothing was changed"):
        check_password("x" * length)


@pytest.mark.parametrize("length", [SHORTEST, LONGEST])
async def test_a_password_is_the_one_that_was_hashed(length: int) -> None:
    """To the last character; neither more of it nor anything is the password where there is none."""
    text = "x" * (length - 1) + "y"
    hashed = await hash_password(text)
    tried = [text, text[:-1], text + "y", "x" * length, ""]

    assert text not in hashed
    assert [True, False, False, False, False] == [await is_password(one, hashed) for one in tried]
    assert [False, False] == [await is_password(text, other) for other in ("", "no hash")]


def test_a_password_that_is_made_is_long_and_new() -> None:
    """It can be read out."""
    made = {make_password() for _ in range(20)}

    assert 20 == len(made)
    assert all(check_password(one).count("-") == 3 for one in made)


async def test_so_many_passwords_are_compared_at_once_and_so_many_wait() -> None:
    """Each takes memory; who comes then is told at once, and the places come back, also where one fails."""
    places, go_on, running = _Places(), threading.Event(), list[int]()

    def compare(number: int) -> int:
        running.append(number)
        go_on.wait(60)
        if number == 1:
            raise ValueError
        return number

    tasks = [asyncio.create_task(places.run(compare, n)) for n in range(AT_ONCE + WAITING_MOST)]
    await until(lambda: len(running) == AT_ONCE)
    for _ in range(2):
        with pytest.raises(Busy):
            await places.run(compare, 99)
    at_once = len(running)
    go_on.set()
    done = await asyncio.gather(*tasks, return_exceptions=True)

    assert AT_ONCE == at_once
    assert [0, *range(2, AT_ONCE + WAITING_MOST)] == [one for one in done if isinstance(one, int)]
    again = [asyncio.create_task(places.run(compare, n)) for n in range(2, 2 + AT_ONCE + WAITING_MOST)]
    assert [*range(2, 2 + AT_ONCE + WAITING_MOST)] == await asyncio.gather(*again)
