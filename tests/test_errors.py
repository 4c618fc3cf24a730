"""Exceptions in words, also those that cannot put themselves into words."""

from __future__ import annotations

import logging
import re
from typing import NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatkeep import errors
from chatkeep.errors import REASON_LONGEST, ChatkeepError, describe_fault, log_fault, presentable


class Mute(Exception):
    """Cannot say what it is."""

    def __str__(self) -> NoReturn:
        raise KeyboardInterrupt


class Posing(Exception):
    """Says that it is of another kind."""

    __class__ = KeyboardInterrupt  # type: ignore[assignment]


class Unjudged(Exception):
    """Raises where it is looked at."""

    def __bool__(self) -> NoReturn:
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("expected", "fault"),
    [
        ("ValueError: no", ValueError("no")),
        ("ValueError", ValueError()),
        ("Mute", Mute()),
        ("ValueError: a�b", ValueError("a\0b")),
        ("ValueError: a?b", ValueError("a\ud800b")),
        (("ValueError: " + "x" * REASON_LONGEST)[:REASON_LONGEST], ValueError("x" * 2 * REASON_LONGEST)),
    ],
)
def test_a_fault_is_told_in_words_that_every_store_keeps(expected: str, fault: BaseException) -> None:
    assert expected == describe_fault(fault)


def test_a_fault_that_can_be_looked_at_stands_for_itself() -> None:
    fault = ValueError("no")

    assert fault is presentable(fault)


@pytest.mark.parametrize("kind", [Posing, Unjudged])
def test_another_stands_for_a_fault_that_cannot_be_judged(kind: type[Exception]) -> None:
    """With its words, and the way through the code that it came."""
    try:
        raise kind("looks harmless")
    except kind as fault:
        stands_for, way = presentable(fault), BaseException.__dict__["__traceback__"].__get__(fault)

    assert RuntimeError is type(stands_for)
    assert f"{kind.__name__}: looks harmless, an exception that cannot be looked at" == str(stands_for)
    assert way is stands_for.__traceback__


class Ended(logging.Handler):
    """Raises what ends the process."""

    def emit(self, record: logging.LogRecord) -> NoReturn:
        raise SystemExit(3)


class Broken(logging.Handler):
    """Takes a line that is about no error, and no other."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            raise MemoryError
        self.lines.append(f"{record.funcName}: {record.getMessage()}")


def logger(handler: logging.Handler) -> logging.Logger:
    """A log with one handler."""
    log = logging.Logger("test")
    log.addHandler(handler)
    return log


def test_a_fault_that_cannot_be_logged_is_told_without_its_way() -> None:
    """And with the place of whoever logs it."""
    handler = Broken()
    log_fault(logger(handler), logging.ERROR, ValueError("no"), "%s failed", "ada")

    expected = "test_a_fault_that_cannot_be_logged_is_told_without_its_way: ada failed (its way through the code cannot be told)"

    assert [expected] == handler.lines


def test_what_ends_the_process_ends_it_from_a_log_too() -> None:
    with pytest.raises(SystemExit):
        log_fault(logger(Ended()), logging.ERROR, ValueError("no"), "%s failed", "ada")


def drawn() -> dict[str, str]:
    """Each error in the tree that the module's docstring draws, and the one that it is of."""
    assert errors.__doc__ is not None
    kinds = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)}
    found: dict[str, str] = {}
    above: dict[int, str] = {}
    for line in errors.__doc__.split("\n\n")[1].split("\n"):
        indent, last = len(line) - len(line.lstrip()), ""
        above = {depth: name for depth, name in above.items() if depth < indent}
        for opened, name in re.findall(r"(\(?)(\w+)", line):
            if name in kinds:
                found[name] = last if opened else above.get(max(above, default=0), "")
                last = name if not opened else last
        above[indent] = line.split()[0]
    return found


def test_the_tree_that_is_drawn_is_that_of_the_classes() -> None:
    """Whoever catches by it catches what it shows."""
    tree = {
        name: kind.__bases__[0].__name__ if kind is not ChatkeepError else ""
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, ChatkeepError)
    }

    assert tree == drawn()


@given(st.text())
def test_every_reason_can_be_stored(text: str) -> None:
    """Whatever an exception says."""
    said = describe_fault(ValueError(text))

    assert len(said) <= 500
    assert "\0" not in said.encode().decode()
