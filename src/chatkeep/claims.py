"""Who holds a claim, and whether that somebody still lives."""

from __future__ import annotations

import os
import secrets
import socket
from functools import cache


@cache
def this_process() -> str:
    """Opens every claim token; tells whether the holder of a claim still lives, if it ran on this host."""
    return f"{_host()}:{os.getpid()}:{secrets.token_hex(4)}"


def _host() -> str:
    # Containers may share a host's name, and then their process ids say nothing of each other.
    try:
        return f"{socket.gethostname()}/{os.stat('/proc/self/ns/pid').st_ino}".replace(":", "-")
    except OSError:
        return socket.gethostname().replace(":", "-")


os.register_at_fork(after_in_child=this_process.cache_clear)


WORKING: set[str] = set()
"""Whose claims of this process somebody works under: the names of the engines that are open in it."""


def holder_gone(claim: str) -> bool:
    """Whether the process that holds *claim* is certainly dead: it ran on this host, and its process id says so.

    Or it is this process, and the engine was closed. Being wrong costs a handler run twice, never a wrong result: what a
    turn writes is checked against the revision.
    """
    host, pid, nonce = this_process().split(":")
    parts = claim.split(":")
    if os.name != "posix" or len(parts) < 3 or parts[0] != host or not parts[1].isdigit():
        return False
    if parts[1] == pid:
        return parts[2] != nonce or ":".join(parts[:4]) not in WORKING
    try:
        os.kill(int(parts[1]), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False
