"""A system that lets a process start no more threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

TOO_LARGE = 1 << 46
"""So large a stack the system gives to no thread."""


@contextmanager
def few_threads(monkeypatch: pytest.MonkeyPatch, left: int) -> Iterator[None]:
    """The system starts *left* more threads, and no further one."""
    begin = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        nonlocal left
        left -= 1
        threading.stack_size(0 if left >= 0 else TOO_LARGE)
        try:
            begin(thread)
        finally:
            threading.stack_size(0)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        yield
