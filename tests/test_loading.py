"""What "module:attribute" names: found, or refused with what to write instead."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from chatkeep import Chatkeep, UsageError
from chatkeep.loading import BrokenModule, check_handler, loaded, offered, parted, takes

Writer = Callable[[str, str], str]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Writer]:
    """Writes a module into the current directory, under a name that no other test has, and returns it."""
    monkeypatch.chdir(tmp_path)
    before, path = set(sys.modules), list(sys.path)

    def writer(name: str, text: str) -> str:
        (tmp_path / f"{name}.py").write_text(text)
        return name

    yield writer
    sys.path[:] = path
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.mark.parametrize("app", ["app:keep", "bots.salon:keep", "app:make.inner"])
def test_a_module_and_an_attribute_are_named(app: str) -> None:
    assert tuple(app.split(":")) == parted(app)


@pytest.mark.parametrize(
    ("app", "expected"),
    [
        ("", "No application was named; name it as module:attribute, such as app:keep"),
        ("app", 'app is not "module:attribute", such as app:keep'),
        ("app:", 'app: is not "module:attribute"'),
        (":keep", ':keep is not "module:attribute"'),
        ("app.py", "app.py is the path of a file; name the module: app:keep."),
        ("app.py:bot", "app.py is the path of a file; name the module: app:bot."),
        ("./bots/salon.py:bot", "./bots/salon.py is the path of a file; name the module: bots.salon:bot."),
        ("bots/salon:bot", "bots/salon is the path of a file; name the module: bots.salon:bot."),
        ("bots\\salon.py", "bots\\salon.py is the path of a file; "),
    ],
)
def test_what_names_no_application_is_told_with_what_would(app: str, expected: str) -> None:
    with pytest.raises(UsageError) as refused:
        parted(app)

    assert expected == str(refused.value)[: len(expected)]
    assert str(refused.value).rstrip(".").endswith(("othing was started", "nothing was started"))


def test_a_file_elsewhere_is_named_from_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No module can be named from here."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    with pytest.raises(UsageError, match=f"go to {tmp_path} and name the module: salon:keep"):
        parted("../salon.py")


def test_what_is_named_is_found_and_a_function_without_parameters_is_called(write: Writer) -> None:
    name = write("load_found", "class Bots:\n    one = 1\ndef make(): return 2\ndef app(scope, receive, send): pass\n")

    assert (1, 2) == (loaded(f"{name}:Bots.one"), loaded(f"{name}:make"))
    assert "app" == getattr(loaded(f"{name}:app"), "__name__", None)


def test_an_async_function_is_called_by_nobody(write: Writer) -> None:
    """What it would return has to be awaited, and no loop runs yet."""
    name = write("load_async", "async def make(): return 2\n")

    assert "make" == getattr(loaded(f"{name}:make"), "__name__", None)


@pytest.mark.parametrize(
    ("text", "asked", "kind", "expected"),
    [
        (None, ":keep", UsageError, "There is no module {name} in {here}"),
        (None, ".inner:keep", UsageError, "There is no module {name} in {here}"),
        (
            "import load_missing_library\n",
            ":keep",
            UsageError,
            "{name} needs load_missing_library, which is not installed",
        ),
        ("x = 1\n", ":keep", UsageError, "{name} has no keep. Nothing was started."),
        (
            "from chatkeep import Chatkeep\nbot = Chatkeep('memory://')\n",
            ":keep",
            UsageError,
            "{name} has no keep; it has the Chatkeep bot: write {name}:bot. Nothing was started.",
        ),
        ("x = 1\ny = 1 / 0\n", ":keep", BrokenModule, "{name} cannot be imported: ZeroDivisionError at {name}.py:2 in"),
        (
            "def broken(:\n",
            ":keep",
            BrokenModule,
            "{name} cannot be imported: SyntaxError at {name}.py:1: invalid syntax",
        ),
        (
            "from chatkeep import Chatkeep\nkeep = Chatkeep('memory://', poll='soon')\n",
            ":keep",
            BrokenModule,
            "{name} cannot be imported ({name}.py:2 in <module>): ",
        ),
    ],
    ids=["missing", "inner", "library", "attribute", "other name", "raises", "syntax", "refused"],
)
def test_what_cannot_be_loaded_is_told_by_its_cause(
    write: Writer,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    text: str | None,
    asked: str,
    kind: type,
    expected: str,
) -> None:
    name = f"load_{request.node.callspec.id.replace(' ', '_')}"
    if text is not None:
        write(name, text)
    with pytest.raises(kind) as refused:
        loaded(name + asked)

    wanted = expected.format(name=name, here=tmp_path)
    assert (kind, wanted) == (type(refused.value), str(refused.value)[: len(wanted)])


def test_where_the_chatkeep_is_is_told_beside_what_was_named(write: Writer) -> None:
    write("load_offer", "from chatkeep import Chatkeep\none = Chatkeep('memory://')\ntwo = Chatkeep('memory://')\n")
    loaded("load_offer:one")

    assert "; it has the Chatkeep one, two: write load_offer:one" == offered(sys.modules["load_offer"])
    assert "" == offered(sys)


def asgi(scope: object, receive: object, send: object) -> None:
    """Takes what an ASGI application takes."""


@pytest.mark.parametrize(
    ("expected", "function", "count"),
    [
        (True, asgi, 3),
        (False, asgi, 2),
        (False, asgi, 4),
        (True, lambda *all: None, 9),
        (False, dict, 0),
        (False, 3, 0),
    ],
)
def test_a_function_takes_so_many_arguments(expected: bool, function: object, count: int) -> None:
    assert expected == takes(function, count)


def test_a_chatkeep_with_a_handler_or_an_application_can_be_served(write: Writer) -> None:
    keep: Chatkeep[dict[str, object]] = Chatkeep("memory://")
    with pytest.raises(UsageError, match=r"^app:keep has no handler: decorate one with @keep.on_message"):
        check_handler(keep, "app:keep")
    keep.on_message(lambda turn: "hello")

    assert keep is check_handler(keep, "app:keep")
    assert None is check_handler(asgi, "app:keep")


@pytest.mark.parametrize(
    ("found", "what"),
    [
        (Chatkeep, "a class"),
        (lambda turn: "hello", r"the function <lambda>\(turn\)"),
        (3, "int"),
    ],
    ids=["class", "handler", "number"],
)
def test_what_is_neither_is_told_with_the_chatkeep_that_is_beside_it(write: Writer, found: object, what: str) -> None:
    name = write("load_neither", "from chatkeep import Chatkeep\nbot = Chatkeep('memory://')\n")
    loaded(f"{name}:bot")
    with pytest.raises(
        UsageError, match=rf"^{name}:x is {what}, not a Chatkeep .* write {name}:bot. Nothing was started"
    ):
        check_handler(found, f"{name}:x")
