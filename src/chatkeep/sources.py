"""Where settings come from: arguments, the environment, and the TOML file that CHATKEEP_CONFIG names.

What is not an argument comes from the environment (session_ttl from CHATKEEP_SESSION_TTL; or CHATKEEP_SESSION_TTL_FILE,
whose content it is), else from the file.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple, get_type_hints

import msgspec
from msgspec import Struct

from .errors import Misconfigured, is_utf8
from .secrecy import shown

PREFIX = "CHATKEEP_"

CONFIG = "CHATKEEP_CONFIG"
"""Names the TOML file; without it there is none."""

NOT_OPENED = ". Nothing was opened."
"""The end of an error that stands alone; where faults are gathered, it is theirs together."""

YES_OR_NO = dict.fromkeys(("true", "yes", "on", "1"), True) | dict.fromkeys(("false", "no", "off", "0"), False)
"""What a variable may say for a setting that is true or false."""


class GivenValue(NamedTuple):
    """A value that somebody gave, and where."""

    value: object
    source: str = ""
    """The variable or file it came from; "" for an argument."""


def given(kind: type[Struct], arguments: Mapping[str, object]) -> tuple[dict[str, GivenValue], list[str]]:
    """Return what was given for the fields of *kind*, each from the source that counts; and what could not be read."""
    fields = kind.__struct_fields__
    # (Of a process that has no variable of chatkeep's nobody asks for types, which take half a millisecond to find out.)
    types = get_type_hints(kind) if any(name.startswith(PREFIX) for name in os.environ) else {}
    environment, faults = environment_settings({name: types[name] for name in types if name != "flags"})
    try:
        file, path = file_settings()
    except Misconfigured as fault:
        file, path, faults = {}, "", [*faults, str(fault).removesuffix(NOT_OPENED)]
    found = {name: GivenValue(file[name], path) for name in fields if name in file}
    found |= environment
    found |= {name: GivenValue(value) for name, value in arguments.items() if name in fields}
    return found, faults


def environment_settings(fields: Mapping[str, Any]) -> tuple[dict[str, GivenValue], list[str]]:
    """Return what CHATKEEP_ variables say about *fields* (name to type), and what of it is not understood.

    An empty variable says nothing, as `${NAME:-}` in a compose file means it.
    """
    found, faults = {}, []
    for name, kind in fields.items():
        try:
            variable, text = _read_variable(name)
        except Misconfigured as fault:
            faults.append(str(fault))
            continue
        if not text:
            continue
        try:
            found[name] = GivenValue(parsed(text, kind), variable)
        except (msgspec.ValidationError, KeyError):
            faults.append(from_source(f"{name} is {in_kind(kind)}, not {shown(name, text)}", variable))
    return found, faults


def _read_variable(name: str) -> tuple[str, str]:
    """Return the variable of the setting *name*, or the one that names its file, and what it says. Raises `Misconfigured`."""
    variable = PREFIX + name.upper()
    path = os.environ.get(f"{variable}_FILE")
    if not path:
        text = os.environ.get(variable, "")
        if not is_utf8(text):
            told = f"{name} has bytes that are no text in the encoding of this system ({sys.getfilesystemencoding()})"
            raise Misconfigured(from_source(told, variable))
        return variable, text
    try:
        with open(path, encoding="utf-8") as file:
            return f"{variable}_FILE", file.read().strip()
    except (OSError, UnicodeError) as fault:
        words = fault.strerror if isinstance(fault, OSError) else "it is not UTF-8"
        told = f"{name} is to be read from the file {path}, which cannot be read: {words}"
        raise Misconfigured(from_source(told, f"{variable}_FILE")) from None


def parsed(text: str, kind: Any) -> Any:
    """Return the value that *text* means for a field of type *kind*; a list is separated by commas, or by lines."""
    if kind is bool:
        return YES_OR_NO[text.strip().lower()]
    if kind in (int, float, int | None):
        return msgspec.convert(text.strip(), kind, strict=False)
    if getattr(kind, "__origin__", None) in (list, tuple):
        return kind.__origin__(part.strip() for part in re.split(r"[,\n]", text) if part.strip())
    return text


def in_kind(kind: Any) -> str:
    """Return in words what a variable for a field of type *kind* is taken as."""
    return (
        "true or false (or yes, no, on, off, 1, 0)"
        if kind is bool
        else "a number"
        if kind is float
        else "a whole number"
    )


def file_settings() -> tuple[dict[str, Any], str]:
    """Return what the file says that CHATKEEP_CONFIG names, and its path; nothing, where none is named."""
    path = os.environ.get(CONFIG, "")
    if not path:
        return {}, ""
    import tomllib  # a hundredth of a second is saved where there is no file

    try:
        with open(path, "rb") as file:
            return tomllib.load(file), path
    except OSError as fault:
        raise Misconfigured(f"The settings in {path} cannot be read: {fault.strerror}{NOT_OPENED}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as fault:
        at = f": {fault}" if isinstance(fault, tomllib.TOMLDecodeError) else ": it is not UTF-8"
        raise Misconfigured(f"The settings in {path} are not TOML{at}{NOT_OPENED}") from None


def store_url() -> str:
    """Return the store that the environment or the file names. Raises `Misconfigured` when neither does."""
    value = named_store()
    if value is None:
        raise Misconfigured(
            "There is no store. Give Chatkeep a URL, set CHATKEEP_STORE, or write "
            'store = "sqlite:///chat.db" into the file that CHATKEEP_CONFIG names. Nothing was opened.'
        )
    return value


def named_store() -> str | None:
    """Return the store that the environment (CHATKEEP_STORE, or CHATKEEP_STORE_FILE) or the file names; None when neither does.

    Raises `Misconfigured` when what names it cannot be read.
    """
    environment, faults = environment_settings({"store": str})
    value, source = environment.get("store") or GivenValue(file_settings()[0].get("store"), str(os.environ.get(CONFIG)))
    if faults:
        raise Misconfigured(f"The {'; '.join(faults)}. Nothing was opened.")
    if not value:
        return None
    if not isinstance(value, str):
        raise Misconfigured(from_source("store is the text of a URL", source) + ". Nothing was opened.")
    return value


def named_key() -> str | None:
    """Return the service key that the environment names (CHATKEEP_KEY, or CHATKEEP_KEY_FILE), for a client of a server; None without one.

    Raises `Misconfigured` when the file cannot be read.
    """
    environment, faults = environment_settings({"key": str})
    if faults:
        raise Misconfigured(f"The {'; '.join(faults)}. Nothing was asked.")
    value = environment.get("key")
    return str(value.value) if value is not None and value.value else None


def strangers(known: Collection[str]) -> list[str]:
    """Return the CHATKEEP_ variables and the names in the file that mean nothing, each with what was perhaps meant."""
    variables = {PREFIX + name.upper() for name in known if name != "flags"}
    variables.add(PREFIX + "KEY")  # of a client of the server
    variables |= {f"{variable}_FILE" for variable in variables} | {CONFIG}
    there = [name for name in os.environ if name.startswith(PREFIX)]
    faults = [f"{name} is not a setting{instead(name, variables)}" for name in there if name not in variables]
    try:
        file, path = file_settings()
    except Misconfigured:  # which `given` tells
        return faults
    return faults + [
        from_source(f"{name} is not a setting{instead(name, known)}", path) for name in file if name not in known
    ]


def instead(name: str, known: Collection[str]) -> str:
    """Return what was perhaps meant by *name*, to be put behind "is not a setting"."""
    from difflib import get_close_matches  # only an error needs it

    # (What all variables begin with makes no two of them alike.)
    names = {one.removeprefix(PREFIX): one for one in known}
    near = get_close_matches(name.removeprefix(PREFIX), names, n=1, cutoff=0.75)
    if near:
        return f" (did you mean {names[near[0]]}?)"
    return f"; there are: {', '.join(sorted(one for one in known if not one.endswith('_FILE')))}"


def from_source(fault: str, source: str) -> str:
    """Return *fault* with the place that has to be mended."""
    return f"{fault} ({source})" if source else fault


def value_of(found: Mapping[str, GivenValue], name: str) -> object:
    """Return what was given for *name*, if anything."""
    return found[name].value if name in found else None
