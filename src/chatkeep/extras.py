"""What is said when an extra of chatkeep is needed and cannot be imported."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from .errors import MissingExtra


@contextmanager
def from_extra(extra: str, user: str) -> Iterator[None]:
    """
    Import what *extra* brings, for *user*:

        with from_extra("client", "chatkeep.client"):
            import aiohttp

    Raises `MissingExtra` when the import fails: what is missing or does not fit, and how to install it. What chatkeep's own
    modules raise goes through as it is.
    """
    try:
        yield
    except MissingExtra:
        raise
    except ImportError as fault:
        if (fault.name or "").partition(".")[0] == __name__.partition(".")[0]:
            raise
        raise MissingExtra(told(fault, extra, user), name=fault.name) from fault


def is_installed(module: str) -> bool:
    """Tell whether there is a *module* to import, without importing it (its parents are imported)."""
    from importlib.util import find_spec  # only who asks needs it

    try:
        return find_spec(module) is not None
    except ImportError:
        return False


def told(fault: ImportError, extra: str, user: str) -> str:
    """Tell why *fault* came about, and what to do: the library is not installed, or the one that is installed does not fit."""
    # Nothing but a failed import needs these: `import chatkeep` does without.
    from importlib.metadata import packages_distributions, version

    top = (fault.name or "").partition(".")[0]
    wanted = requirements_of(extra)
    found = next((one for one in packages_distributions().get(top, ()) if plain(one) in wanted), None)
    if isinstance(fault, ModuleNotFoundError) and not is_installed(top):
        return f"{user} needs {top}, which is not installed. Run: pip install 'chatkeep[{extra}]'"
    if found is None:
        return f"{user} cannot import what it needs ({fault}). Run: pip install --upgrade 'chatkeep[{extra}]'"
    return (
        f"{user} needs {found}{wanted[plain(found)]}, and cannot use {found} {version(found)}, which is installed ({fault}). "
        f"Run: pip install --upgrade 'chatkeep[{extra}]'"
    )


def requirements_of(extra: str) -> dict[str, str]:
    """Return what *extra* asks for, by the name of the distribution: {"uvicorn": "<0.55,>=0.51"}."""
    from importlib.metadata import PackageNotFoundError, requires

    try:
        lines = requires("chatkeep") or []
    except PackageNotFoundError:  # imported from its source, and installed nowhere
        return {}
    asked = (re.match(rf"([\w.-]+)([^;]*);.*extra == ['\"]{extra}['\"]", line) for line in lines)
    return {plain(one[1]): one[2].strip() for one in asked if one}


def plain(distribution: str) -> str:
    """Return the name of a distribution as it is compared."""
    return re.sub(r"[-_.]+", "-", distribution).lower()
