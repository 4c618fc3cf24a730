"""Files that are made under another name, and stand under their own when they are complete."""

from __future__ import annotations

import os
import secrets


def part_of(path: str) -> str:
    """Return a name beside *path* for a file that is made: of nobody else who makes one of that name at the same time."""
    folder, name = os.path.split(path)
    return os.path.join(folder, f"{name[:32]}.{secrets.token_hex(4)}.part")


def put(made: str, path: str, *, replace: bool) -> None:
    """Give a file that is complete its name. Raises `FileExistsError` where there is one by now that it is not to *replace*."""
    if replace:
        os.replace(made, path)
        return
    try:
        os.link(made, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if os.path.lexists(path):
            raise FileExistsError(path) from None
        os.rename(made, path)
    else:
        os.unlink(made)
