"""Shows the errors of a bot to who writes it: its own line first, the whole way through the code, once."""

from __future__ import annotations

import logging
import os
import traceback
from itertools import groupby

from ..frames import OURS, cause_of, chain_of, is_own, place_of, shortened
from .printing import plain

REMEMBERED = 1000


class DeveloperLines(logging.Formatter):
    """Formats what is logged for one person at a terminal; an error that comes again is a single line."""

    def __init__(self) -> None:
        super().__init__()
        self._told: set[tuple[object, ...]] = set()

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, and the way to the error that it is about."""
        head = f"{record.levelname.lower()}: {plain(record.getMessage(), line=True)}"
        fault = cause_of(record)
        if fault is None:
            return head
        *_, root = chain_of(fault)
        mark = (type(root), str(root), place_of(root))
        if place := place_of(root):
            head = f"{place}: {head}"
        if mark in self._told:
            return f"{head} (the same error as before)"
        if len(self._told) >= REMEMBERED:
            self._told.clear()
        self._told.add(mark)
        return "\n    ".join([head, *way_to(fault)])


def log_for_developers(level: str) -> None:
    """Send the logs of this process from *level* on to standard error, in the form of `DeveloperLines`."""
    handler = logging.StreamHandler()
    handler.setFormatter(DeveloperLines())
    logging.basicConfig(handlers=[handler], level=level, force=True)
    logging.captureWarnings(True)
    for name in ("chatkeep.access", "uvicorn", "uvicorn.error", "uvicorn.access", "asyncio"):
        logging.getLogger(name).setLevel("WARNING")


def way_to(fault: BaseException) -> list[str]:
    """Return an error with the whole way through the code: lines of the application are marked, frames of chatkeep are folded."""
    told: list[str] = []
    for cause in chain_of(fault):
        words = "".join(traceback.format_exception_only(cause)).rstrip().splitlines()
        if isinstance(cause, SyntaxError):
            told += [
                f"{'caused by ' * bool(told)}{words[-1]}",
                f"> {place_of(cause)}",
                *(f"> {x}" for x in words[1:-1]),
            ]
            continue
        told += [plain(f"{'caused by ' * bool(told)}{words[0]}"), *map(plain, words[1:])]
        frames = [frame for frame in traceback.extract_tb(cause.__traceback__) if not imports(frame.filename)]
        for folded, group in groupby(frames, lambda frame: frame.filename.startswith(OURS)):
            some = list(group)
            if folded:
                told.append(f"  ({len(some)} frame{'s' * (len(some) > 1)} of chatkeep)")
                continue
            for frame in some:
                mark = ">" if is_own(frame.filename) else " "
                told.append(f"{mark} {shortened(frame.filename)}:{frame.lineno} in {frame.name}")
                told += [f"{mark}     {frame.line}"] * bool(frame.line)
    return told


def imports(filename: str) -> bool:
    """Tell whether a file is of Python's import machinery, which nobody looks for a mistake in."""
    return filename.startswith("<frozen importlib") or filename.endswith(os.path.join("importlib", "__init__.py"))
