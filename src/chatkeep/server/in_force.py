"""What is in force: every setting in words, where it came from, and which of them are hardly what was meant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from ..app import Chatkeep
from ..drivers.base import Finding
from ..durations import in_words, seconds
from ..secrecy import SECRETS, shown
from ..settings import DURATIONS, PLAUSIBLE, Settings
from ..sources import PREFIX, GivenValue, given
from .settings import PERIODS, ServerSettings

ELSEWHERE = ("flags",)
"""Settings that are no single value."""


def in_force(settings: ServerSettings, arguments: Mapping[str, object], keep: Chatkeep[Any] | None) -> list[Finding]:
    """Return one finding for each setting of the server and of *keep*: its name, its value in words, and who gave it."""
    found = findings(settings, given(ServerSettings, arguments)[0])
    return found if keep is None else found + findings(keep.settings, given(Settings, {})[0])


def findings(settings: Struct, told: Mapping[str, GivenValue]) -> list[Finding]:
    """Return the settings of one kind; *told* is what was given for them outside of the program."""
    default, found = type(settings)(), []
    for name in settings.__struct_fields__:
        if name in ELSEWHERE:
            continue
        value = getattr(settings, name)
        source = told.get(name)
        if source is not None and value in (source.value, tuple_of(source.value)):
            where = origin(source.source)
        else:
            where = "default" if value == getattr(default, name) else "program"
        odd = implausible(name, value)
        said = f"{name} {words(name, value)} ({where})"
        found.append(Finding("warn" if odd else "ok", "setting", f"{said}: {odd}" if odd else said))
    return found


def origin(source: str) -> str:
    """Return where a value came from, as people say it."""
    if not source:
        return "argument"
    if source.startswith(PREFIX):
        return f"file of {source}" if source.endswith("_FILE") else "environment"
    return source


def words(name: str, value: Any) -> str:
    """Return a value as people say it, without secrets."""
    if value is None or value in ("", ()):
        return "none"
    if name in (*DURATIONS, *PERIODS):
        return in_words(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name in SECRETS and isinstance(value, tuple):
        return f"{len(value)} secret{'s' * (len(value) != 1)}"
    if isinstance(value, tuple):
        return ", ".join(value)
    if isinstance(value, int) and name not in ("port",):
        return f"{value:,}"
    return shown(name, value).strip("'") if isinstance(value, str) else str(value)


def implausible(name: str, value: Any) -> str:
    """Tell why a duration is hardly what was meant; "" when it may well be. A zero is meant."""
    if value is None or name not in PLAUSIBLE or seconds(value) == 0:
        return ""
    least, most = PLAUSIBLE[name]
    if seconds(least) <= seconds(value) <= seconds(most):
        return ""
    return f"unusual, look whether its unit is meant; usual is {in_words(least)} to {in_words(most)}"


def tuple_of(value: object) -> object:
    """Return a list as the tuple that settings hold."""
    return tuple(value) if isinstance(value, list) else value
