"""The way from threads back to an event loop."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar

T = TypeVar("T")


class Handover(Generic[T]):
    """Has *take* called in the running event loop with what any thread has `put`, in that order, until `close`.

    Where the system has such descriptors (Linux), the loop watches one of ours. The way that loops offer to threads,
    `call_soon_threadsafe`, costs more: asyncio makes a context and writes to a socket, uvloop goes around once more before it calls.
    """

    def __init__(self, take: Callable[[T], None]) -> None:
        self._take = take
        self._process = os.getpid()
        self._loop = asyncio.get_running_loop()
        self._held: deque[T] = deque()
        self._descriptor = self._watched()

    def put(self, item: T) -> None:
        """Have *item* taken soon; never, where the loop is closed."""
        self._held.append(item)
        if self._descriptor is not None:
            os.eventfd_write(self._descriptor, 1)
        else:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._take_all)

    def close(self) -> None:
        """Have what is left taken at once. No thread may put anything any more."""
        descriptor, self._descriptor = self._descriptor, None
        if not self._loop.is_closed():
            if descriptor is not None:
                self._loop.remove_reader(descriptor)
            self._take_all()
        if descriptor is not None:
            os.close(descriptor)

    def _watched(self) -> int | None:
        if not hasattr(os, "eventfd"):
            return None
        try:
            descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        except OSError:  # too many files are open
            return None
        try:
            self._loop.add_reader(descriptor, self._called, descriptor)
        except BaseException as fault:
            os.close(descriptor)
            if isinstance(fault, NotImplementedError):  # there are loops that only have the other way
                return None
            raise
        return descriptor

    def _called(self, descriptor: int) -> None:
        if os.getpid() != self._process:
            return  # A child that goes on with its parent's loop has this descriptor too; what is read here the parent never hears of.
        with suppress(BlockingIOError):
            os.eventfd_read(descriptor)  # (first: what is put from here on calls again)
        self._take_all()

    def _take_all(self) -> None:
        held = self._held
        while held:
            self._take(held.popleft())
