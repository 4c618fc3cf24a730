"""A file that one process has at a time."""

from __future__ import annotations

import os

from filelock import FileLock, Timeout

from .errors import Misconfigured, Unavailable, is_transient


class OwnFile:
    """The right to the file at *path*, by a lock that lies beside it and ends with the process. *name*: the setting that names the file,
    and what people call it."""

    def __init__(self, name: str, path: str) -> None:
        self._name, self._path = name, path
        # It may be taken anew in another thread.
        self._lock = FileLock(f"{os.path.abspath(path)}.lock", mode=0o600, thread_local=False)

    def take(self) -> None:
        """Take the file. Raises `Misconfigured` where another process has it, or it cannot be had; `Unavailable` where that may pass."""
        try:
            self._lock.acquire(timeout=0)
        except Timeout as taken:
            raise Misconfigured(
                f"{self._name}={self._path} is in use by another process; nothing was opened. Give each process a {self._name} of its own."
            ) from taken
        except OSError as fault:
            refusal = Unavailable if is_transient(fault) else Misconfigured
            raise refusal(f"{self._name}={self._path} cannot be used ({fault}); nothing was opened.") from fault

    def leave(self) -> None:
        """Let another process have it; twice is fine."""
        self._lock.release()
