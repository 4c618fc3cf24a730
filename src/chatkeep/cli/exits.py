"""How commands end: the exit codes."""

from __future__ import annotations

from ..errors import ChatkeepError, Corrupt, HandlerFailed, StoreError, Uncertain, UsageError

EXITS: dict[type[ChatkeepError], int] = {
    UsageError: 2,
    StoreError: 3,
    Corrupt: 4,
    Uncertain: 5,
    HandlerFailed: 6,
    ChatkeepError: 1,
}
"""Error to exit code: an error ends the program with the code of the nearest of its classes that is listed."""

UNFIT = 7
"""Exit code of `check` for a store that chatkeep should not be run on."""

UNCLEAN = 8
"""Exit code of `simulate` when a promise was broken."""

INTERRUPTED, UNREAD = 130, 141
"""Exit codes of a command that Ctrl-C has ended, or whose output nobody reads any more: what a shell makes of SIGINT and SIGPIPE."""


def exit_code(fault: ChatkeepError) -> int:
    """Return the exit code of a command that ends with *fault*."""
    return next(EXITS[kind] for kind in type(fault).__mro__ if kind in EXITS)
