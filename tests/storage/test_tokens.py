"""Tokens of revisions, leases and ids: no two are the same, whoever draws them."""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor
from tempfile import TemporaryFile

import pytest

from chatkeep.storage.tokens import fresh_token


def draw(_: object = None) -> list[str]:
    """Draws more than are drawn at once."""
    return [fresh_token() for _ in range(1_000)]


def test_threads_draw_other_tokens() -> None:
    """Also where several threads find none left at the same time."""
    with ThreadPoolExecutor(8) as threads:
        found = [token for tokens in threads.map(draw, range(64)) for token in tokens]

    assert len(found) == len(set(found)) == 64_000
    assert all(re.fullmatch(r"[\w-]{12}", token) for token in found)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")
def test_a_fork_draws_other_tokens() -> None:
    """What was drawn before the fork is used by one of the two."""
    fresh_token()
    with TemporaryFile() as told:
        if not (child := os.fork()):
            os.write(told.fileno(), " ".join(draw()).encode())
            os._exit(0)
        os.waitpid(child, 0)
        told.seek(0)
        theirs = told.read().decode().split()

    assert len(theirs) == 1_000
    assert set(draw()).isdisjoint(theirs)
