"""Where in the application's own code an error comes from, and what caused it."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path

import pytest

import chatkeep
from chatkeep.durations import seconds
from chatkeep.frames import cause_of, chain_of, is_own, place_of, shortened


@pytest.mark.parametrize(
    ("expected", "filename"),
    [
        (True, os.path.join(os.sep, "home", "ada", "bot.py")),
        (False, os.path.join(os.path.dirname(chatkeep.__file__), "app.py")),
        (True, os.path.dirname(chatkeep.__file__) + "_bot.py"),
        (False, os.path.join(os.sep, "env", "site-packages", "httpx", "_client.py")),
        (False, os.path.join(os.sep, "usr", "lib", "dist-packages", "six.py")),
        (False, json.__file__),
        (False, "<frozen importlib._bootstrap>"),
    ],
)
def test_the_application_is_what_is_neither_ours_nor_installed_nor_pythons(expected: bool, filename: str) -> None:
    assert expected == is_own(filename)


def test_a_path_is_told_from_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    assert os.path.join("bots", "salon.py") == shortened(str(tmp_path / "bots" / "salon.py"))
    assert str(tmp_path) + "s.py" == shortened(str(tmp_path) + "s.py")


def test_an_error_comes_from_the_last_line_of_the_application() -> None:
    """Not from the library in which it was raised, nor from who called."""

    def bot() -> None:
        seconds("soon")  # what raises is chatkeep's

    with pytest.raises(ValueError, match="soon") as raised:
        bot()

    assert f"{shortened(__file__)}:{bot.__code__.co_firstlineno + 1} in bot" == place_of(raised.value)
    assert "" == place_of(ValueError("never raised"))


def test_a_line_that_python_cannot_read_is_named() -> None:
    fault = SyntaxError("invalid syntax", (os.path.join(os.getcwd(), "bot.py"), 3, 1, "def"))

    assert "bot.py:3" == place_of(fault)


def test_each_cause_is_told_once() -> None:
    """What was raised `from` another, what came while another was handled, and no circle for ever."""
    first, second, third = ValueError("first"), ValueError("second"), ValueError("third")
    third.__cause__, second.__context__, first.__context__ = second, first, third

    assert [third, second, first] == list(chain_of(third))


def test_what_was_raised_from_none_has_no_cause() -> None:
    hidden = ValueError("hidden")
    fault = ValueError("shown")
    fault.__context__, fault.__suppress_context__ = hidden, True

    assert [fault] == list(chain_of(fault))


def record(*args: object, raised: BaseException | None = None) -> logging.LogRecord:
    """A line of a log."""
    told = None if raised is None else (type(raised), raised, None)
    return logging.LogRecord("bot", logging.ERROR, __file__, 1, "%s failed: %s", args, told)


def test_a_line_of_the_log_is_about_its_error_or_what_caused_the_one_that_it_mentions() -> None:
    cause, mentioned = KeyError("cart"), RuntimeError("failed")
    mentioned.__cause__ = cause

    assert mentioned is cause_of(record("ada", raised=mentioned))
    assert cause is cause_of(record("ada", mentioned))
    assert None is cause_of(record("ada", RuntimeError("of itself")))
    assert None is cause_of(record("ada", "no error"))


def test_a_line_that_is_logged_where_nothing_is_being_handled_is_about_nothing() -> None:
    """`exc_info=True` without an error leaves three times None."""
    line = record("ada")
    line.exc_info = sys.exc_info()

    assert None is cause_of(line)
