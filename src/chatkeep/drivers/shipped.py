"""Files that lie beside the code: SQL, Lua, a dictionary. (importlib.resources imports zipfile, tempfile and shutil, 5 to 10 ms of a
cold start; only code in an archive needs it.)"""

from __future__ import annotations

import os

HOME = os.path.dirname(__file__)
IN_ARCHIVE = not os.path.isdir(HOME)


def read_file(*place: str) -> bytes:
    """Return what is in the file at *place* under `drivers/`."""
    if IN_ARCHIVE:
        from importlib.resources import files

        return files(__package__).joinpath(*place).read_bytes()
    with open(os.path.join(HOME, *place), "rb") as file:
        return file.read()


def list_files(*place: str) -> list[str]:
    """Return the names of the files in the folder at *place*, sorted."""
    if IN_ARCHIVE:
        from importlib.resources import files

        return sorted(file.name for file in files(__package__).joinpath(*place).iterdir())
    return sorted(os.listdir(os.path.join(HOME, *place)))
