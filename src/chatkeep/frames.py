"""Where in somebody's own code an error came from: which file, which line, which function; and what caused it."""

from __future__ import annotations

import logging
import os
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path

OURS = str(Path(__file__).parent) + os.sep
LIBRARIES = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
STDLIB = tuple({sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib")})


def is_own(filename: str) -> bool:
    """Tell whether a file is of the application: not of chatkeep, of an installed library or of Python."""
    library = any(part in filename for part in LIBRARIES)
    return not (library or filename.startswith((OURS, *STDLIB, "<frozen ")))


def shortened(filename: str) -> str:
    """Return a file's path, from the current directory if it is in there."""
    here = os.getcwd() + os.sep
    return filename.removeprefix(here)


def place_of(fault: BaseException) -> str:
    """Return the line of the application that an error comes from: "app.py:12 in bot"; "" when there is none."""
    if isinstance(fault, SyntaxError) and fault.filename:
        return f"{shortened(fault.filename)}:{fault.lineno}"
    frames = [frame for frame in traceback.extract_tb(fault.__traceback__) if is_own(frame.filename)]
    return f"{shortened(frames[-1].filename)}:{frames[-1].lineno} in {frames[-1].name}" if frames else ""


def chain_of(fault: BaseException) -> Iterator[BaseException]:
    """Return an error and what caused it, each once."""
    seen: set[int] = set()
    cause: BaseException | None = fault
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)


def cause_of(record: logging.LogRecord) -> BaseException | None:
    """Return the error that a record of a log is about, or what caused the one that it mentions."""
    if record.exc_info and record.exc_info[1] is not None:
        return record.exc_info[1]
    mentioned = [part for part in record.args or () if isinstance(part, BaseException)]
    return mentioned[0].__cause__ if mentioned else None
