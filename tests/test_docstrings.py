"""The examples in docstrings are true: what is Python runs, beside the names of its module and of `chatkeep`, as a reader has them."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import textwrap
import tomllib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import chatkeep
from chatkeep import Chatkeep
from chatkeep.settings import Flags

from .support.blocks import Block, awaits, compiled, run_open

SRC = Path(chatkeep.__file__).parent
SECTIONS = ("Args:", "Raises:", "Returns:")
"""What stands indented below these is prose."""

PYTHON = r"^(?:from \w+ import |import \w+$|await |async |with |@\w|class \w+\(|[\w.]+ = [\w.]+\(\S)"
"""How a line begins that is Python and nothing else."""

SERVED = ("chatkeep.client", "chatkeep.server", "chatkeep.testing.http_contract", "chatkeep.testing.servers")
"""Modules and packages whose examples need a server, or what it is made of: `make quick` leaves them out."""

REQUEST = SimpleNamespace(headers={}, host="chat.example", secure=True, is_secure=True)
OWN: dict[str, Callable[[], Any]] = {
    "ACCESS_TOKEN": lambda: "token",
    "APP_SECRET": lambda: "app secret",
    "BOT_TOKEN": lambda: "42:token",
    "FastAPI": lambda: import_module("fastapi").FastAPI,
    "PAGE_ID": lambda: "106540352242922",
    "PAGE_TOKEN": lambda: "token",
    "Starlette": lambda: import_module("starlette.applications").Starlette,
    "TELEGRAM_SECRET": lambda: "hush",
    "WEBHOOK_SECRET": lambda: "whsec_" + "YWJj" * 8,
    "app": lambda: import_module("starlette.applications").Starlette(),
    "asynccontextmanager": lambda: asynccontextmanager,
    "bot": lambda: lambda turn: f"You said: {turn.text}",
    "chats": lambda: import_module("chatkeep.cookie").CookieChat(
        lambda turn: turn.text, keys=["a secret of at least sixteen bytes"]
    ),
    "pytest": lambda: pytest,
    "request": lambda: REQUEST,
    "server": lambda: SimpleNamespace(port=1),
    "text": lambda: "hello",
}
"""What examples take for the reader's own, where neither the module nor `chatkeep` has it; imported where it is wanted."""


def docstrings(path: Path) -> Iterator[tuple[str, int, str]]:
    """Each docstring of a module: the name that it is of, its first line's number, and the text."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text is not None:
                begins_below = (ast.get_docstring(node, clean=False) or "").lstrip(" ").startswith("\n")
                yield getattr(node, "name", ""), node.body[0].lineno + begins_below, text


def indented(text: str) -> Iterator[tuple[int, str]]:
    """What stands indented below an empty line and in no section, piece by piece, each with the number of its first line."""
    lines = text.split("\n")
    at, section = 0, False
    while at < len(lines):
        if not section and lines[at].startswith("    ") and at and not lines[at - 1].strip():
            end = at
            while end < len(lines) and (not lines[end].strip() or lines[end].startswith("    ")):
                end += 1
            yield at, textwrap.dedent("\n".join(lines[at:end])).strip()
            at = end
        else:
            section = lines[at] in SECTIONS if lines[at][:1].strip() else section
            at += 1


def examples() -> Iterator[tuple[str, str, Block]]:
    """What is indented in the docstrings of chatkeep, with the module and the name that it is of."""
    for path in sorted(SRC.rglob("*.py")):
        if not any(any(indented(inspect.cleandoc(text))) for text in re.findall('"""(.*?)"""', path.read_text(), re.S)):
            continue  # parsing them all takes two seconds
        module = ".".join(path.relative_to(SRC.parent).with_suffix("").parts).removesuffix(".__init__")
        for name, first, text in docstrings(path):
            for line, code in indented(text):
                yield module, f"{module}.{name}".rstrip("."), Block(str(path), first + line, code)


def is_python(code: str) -> bool:
    """Whether it compiles; a table of TOML that happens to compile is none."""
    try:
        compile(code, "", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    except SyntaxError:
        return False
    return not re.match(r"\[\w+\]\n", code)


ALL = list(examples())
RUN = [example for example in ALL if is_python(example[2].code)]


@asynccontextmanager
async def placed(module: str, block: Block) -> AsyncIterator[tuple[Block, dict[str, Any]]]:
    """An example and the names that it finds; one of the client speaks to a server that is there, with a conversation "ada" in it."""
    if not module.startswith("chatkeep.client"):
        yield block, {}
        return
    from chatkeep.auth.credentials import create_key, issue_user_token
    from chatkeep.client import Client

    from .support.client_server import counting
    from .support.serving import served

    async with counting("memory://") as keep, served(keep) as server:
        url, key = f"http://127.0.0.1:{server.port}", (await create_key(keep, "")).token
        await keep.receive("ada", "hello")
        await keep.user("eve").create("rome", title="To Rome")
        token = key if ".account" not in module else (await issue_user_token(keep, "", "eve")).token
        code = re.sub('token="ck_._..."', f'token="{key}"', block.code.replace("https://chat.example", url))
        async with Client(url, token) as client:
            yield block._replace(code=code), {"client": client, "chat": client.conversation("ada"), "cursor": ""}


async def run(block: Block, names: dict[str, Any]) -> None:
    """Runs an example: what waits in an open Chatkeep, unless it makes its own; the rest in a thread, where it may block."""
    code = compiled(block)
    if not awaits(code):
        if "@keep.on_message" not in block.code:
            names["keep"].on_message(OWN["bot"]())
        await asyncio.to_thread(exec, code, names)
    elif "keep = " in block.code or "keep" not in block.code:
        await eval(code, names)
    else:
        await run_open(code, names)


@pytest.mark.parametrize(
    ("module", "name", "block"),
    [pytest.param(*one, id=one[1], marks=[pytest.mark.server] * one[0].startswith(SERVED)) for one in RUN],
)
async def test_an_example_runs(
    module: str, name: str, block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In an empty folder, on a store of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CHAT_KEY", "a secret of at least sixteen bytes")
    names: dict[str, Any] = {"__name__": "__main__", "tmp_path": tmp_path}
    names |= {own: make() for own, make in OWN.items() if re.search(rf"\b{own}\b", block.code)}
    for package in (chatkeep, import_module(module.rpartition(".")[0])):
        names |= {one: getattr(package, one) for one in getattr(package, "__all__", ())}
    names |= vars(import_module(module))
    names |= {module.rpartition(".")[2]: import_module(module), "keep": Chatkeep("sqlite:///chat.db")}
    try:
        async with placed(module, block) as (block, own):
            await run(block, names | own)
    finally:
        if "chats" in names:
            names["chats"].stop()


def test_what_is_no_python_does_not_look_like_it() -> None:
    """What does not compile is a table, or another language: no line of it can only be Python. TOML is what the settings take."""
    others = [(name, block.code) for _, name, block in ALL if not is_python(block.code)]
    tables = [tomllib.loads(code) for _, code in others if code.startswith("[")]

    assert [] == [name for name, code in others if re.search(PYTHON, code, re.M)]
    assert [{"new_menu": True}] == [dict(Flags(table["flags"]).of("salon")) for table in tables]


def test_no_example_is_hidden() -> None:
    """What is Python stands indented, where it is looked for, and not at the left edge."""
    texts = {path: re.findall('"""(.*?)"""', path.read_text(), re.S) for path in SRC.rglob("*.py")}
    bare = r"^(?:from \w+ import |async (?:with|for) |with \w+\(|await \w+[.(]|[\w.]+\(.*\)$|[\w.]+ = [\w.]+\(\S)"

    assert [] == [
        path for path, found in texts.items() for one in found if re.search(bare, inspect.cleandoc(one), re.M)
    ]


def test_examples_are_found() -> None:
    """Those of classes, of methods and of modules; nothing of what a section says of an argument."""
    text = inspect.cleandoc(
        """
        Say hello.

            hello()

        Args:
            name: Whose.

                name = input()

        Then:

            again()
        """
    )

    assert ["hello()", "again()"] == [code for _, code in indented(text)]
    assert {"chatkeep.app.Chatkeep", "chatkeep.app.once", "chatkeep.auth.accounts"} <= {name for _, name, _ in RUN}


def test_an_example_that_is_wrong_is_told_by_its_line(tmp_path: Path) -> None:
    """The traceback has the line of the file."""
    (tmp_path / "module.py").write_text('"""Say it.\n\n    1 / 0\n\nSo.\n"""\n')
    ((_, first, text),) = docstrings(tmp_path / "module.py")
    ((line, code),) = indented(text)
    with pytest.raises(ZeroDivisionError) as told:
        exec(compiled(Block("module.py", first + line, code)), {})

    assert 3 == told.traceback[-1].lineno + 1
