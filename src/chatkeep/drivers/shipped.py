"""Files that lie beside the code: SQL, Lua, a dictionary. (importlib.resources, which could read them from an archive too, imports
zipfile, tempfile and shutil: 5 to 10 ms of a cold start.)"""

from __future__ import annotations

import os

HOME = os.path.dirname(__file__)


def read_file(*place: str) -> bytes:
    """Return what is in the file at *place* under `drivers/`."""
    with open(os.path.join(HOME, *place), "rb") as file:
        return file.read()


def list_files(*place: str) -> list[str]:
    """Return the names of the files in the folder at *place*, sorted."""
    return sorted(os.listdir(os.path.join(HOME, *place)))
