"""Loads what "module:attribute" names: the Chatkeep or the ASGI application that a command runs."""

from __future__ import annotations

import inspect
import os
import sys
from importlib import import_module
from types import ModuleType
from typing import Any, cast

from .app import Chatkeep, core_of
from .errors import UsageError
from .frames import place_of


class BrokenModule(UsageError):
    """The application's own code raised while it was imported; the cause is attached."""


def parted(app: str) -> tuple[str, str]:
    """Return the module and the attribute that *app* names. Raises `UsageError` when it names none."""
    if "://" in app:  # (Not repeated: it may have a password.)
        raise UsageError(
            "A URL was given where an application is named as module:attribute, such as app:keep; nothing was started. The store is named "
            "in the application, or by CHATKEEP_STORE."
        )
    module, colon, attribute = app.partition(":")
    path = module.replace("\\", "/")
    if path.endswith(".py") or "/" in path:
        folder, file = os.path.split(os.path.relpath(path.removesuffix(".py")))
        outside = folder.startswith("..")  # no module can be named from here
        where = f"go to {os.path.abspath(folder)} and " if outside else ""
        written = file if outside else ".".join([*filter(None, folder.split(os.sep)), file])
        raise UsageError(
            f"{module} is the path of a file; {where}name the module: {written}:{attribute or 'keep'}. Nothing was started."
        )
    if not app:
        raise UsageError(
            "No application was named; name it as module:attribute, such as app:keep for `keep` in app.py. Nothing was started."
        )
    if not (module and colon and attribute):
        raise UsageError(f'{app} is not "module:attribute", such as app:keep; nothing was started.')
    return module, attribute


def loaded(app: str) -> object:
    """Return what "module:attribute" names; the current directory is looked in first.

    A plain function without parameters is called for it. Raises `UsageError`; `BrokenModule` when the module's code raises.
    """
    module, attribute = parted(app)
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = import_module(module)
    except ModuleNotFoundError as missing:
        if missing.name is None or not f"{module}.".startswith(f"{missing.name}."):
            raise UsageError(
                f"{module} needs {missing.name}, which is not installed for {sys.executable}; nothing was started."
            ) from missing
        raise UsageError(
            f"There is no module {missing.name} in {os.getcwd()} or among what is installed; nothing was started. Go to the folder that "
            f"{missing.name}.py is in, or correct the name."
        ) from None
    except UsageError as refused:
        raise BrokenModule(f"{module} cannot be imported ({place_of(refused)}): {refused}") from refused
    except Exception as fault:
        words = fault.msg if isinstance(fault, SyntaxError) else fault
        raise BrokenModule(
            f"{module} cannot be imported: {type(fault).__name__} at {place_of(fault)}: {words}. Nothing was started."
        ) from fault
    for name in attribute.split("."):
        if not hasattr(found, name):
            raise UsageError(f"{module} has no {attribute}{offered(import_module(module))}. Nothing was started.")
        found = getattr(found, name)
    if inspect.isfunction(found) and not inspect.iscoroutinefunction(found) and takes(found, 0):
        found = found()
    return cast(object, found)


def offered(module: ModuleType) -> str:
    """Return what a module has that could have been meant, to be put behind what it has not."""
    kinds = [name for name, value in vars(module).items() if isinstance(value, Chatkeep)]
    return f"; it has the Chatkeep {', '.join(kinds)}: write {module.__name__}:{kinds[0]}" if kinds else ""


def takes(function: Any, count: int) -> bool:
    """Tell whether *function* can be called with so many arguments."""
    try:
        inspect.signature(function).bind(*[None] * count)
    except (TypeError, ValueError):
        return False
    return True


def check_handler(found: object, app: str) -> Chatkeep[Any] | None:
    """Return the Chatkeep that *app* names; None for an ASGI application. Raises `UsageError` when it is neither, or has no handler."""
    if not isinstance(found, Chatkeep):
        if isinstance(found, type) or not callable(found) or not takes(found, 3):
            what = (
                "a class"
                if isinstance(found, type)
                else f"the function {found.__name__}{inspect.signature(found)}"
                if inspect.isfunction(found)
                else type(found).__name__
            )
            hint = offered(import_module(parted(app)[0]))
            raise UsageError(f"{app} is {what}, not a Chatkeep or an ASGI application{hint}. Nothing was started.")
        return None
    if not core_of(found).has_handler:
        raise UsageError(f"{app} has no handler: decorate one with @keep.on_message. Nothing was started.")
    return found
