"""The README and the docs are true: their Python runs, their links lead somewhere, and each page can be found."""

from __future__ import annotations

import ast
import asyncio
import functools
import json
import os
import re
import runpy
import secrets
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

import chatkeep
import chatkeep.channels
import chatkeep.drivers
import chatkeep.testing
from chatkeep import Chatkeep
from chatkeep.cli import main
from chatkeep.errors import NotOpen
from chatkeep.server.settings import KNOWN
from chatkeep.testing.servers import UpstashServer
from tools.cli_reference import commands, section

from .support.blocks import Block, awaits, compiled, run_open

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
KINDS = ("tutorial", "how-to", "reference", "explanation")
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md"))]

ENVIRONMENT = {
    "APP_SECRET": "app secret",
    "BOT_TOKEN": "42:token",
    "CHAT_KEY": "a secret of at least sixteen bytes",
    "TELEGRAM_SECRET": "hush",
    "UPSTASH_REDIS_REST_TOKEN": "secret",
    "UPSTASH_REDIS_REST_URL": "http://127.0.0.1:1",
    "WEBHOOK_SECRET": "whsec_" + "YWJj" * 8,
    "WHATSAPP_TOKEN": "token",
    "WHATSAPP_VERIFY_TOKEN": "hello",
}
"""What the pages read from the environment; the values are of the kind that the platforms take."""


MAPPED = ("drivers", "conversation", "storage", "auth", "engine", "people", "cookie", "server")
"""The rooms of which ARCHITECTURE.md names every module; of the others it says that there is a file a subject."""


def blocks(page: Path) -> list[Block]:
    """The Python blocks of a page."""
    text = page.read_text()
    found = re.finditer(r"(?:^<!-- (fragment|run by [\w/.]+)\b.*? -->\n+)?^```python\n(.*?)^```$", text, re.M | re.S)
    return [
        Block(str(page.relative_to(ROOT)), text[: match.start(2)].count("\n") + 1, match[2], match[1] or "")
        for match in found
    ]


ALL = [block for page in PAGES for block in blocks(page)]
RUN = sorted({block.page for block in ALL if not block.mark})


def test_no_python_is_hidden_from_these_tests() -> None:
    """Python stands in fences of that name, at the left edge, and nowhere else: not indented, and in no fence without a name."""
    fences = {page: len(re.findall(r"^\s*(?:```|~~~) *py", page.read_text(), re.M)) for page in PAGES}
    python = r"^(?: {4})?(?:from \w+ import |import \w+$|keep = |await |async )"

    assert sum(fences.values()) == len(ALL)
    assert [] == [page.name for page in PAGES if re.search(python, without_fences(page, "[a-z]+"), re.M)]


@pytest.mark.parametrize("page", RUN)
def test_the_python_of_a_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Block after block, in an empty folder. A block that decorates a handler, or awaits, and makes no Chatkeep of its own is
    given a fresh one; if it awaits, an open one with a conversation "ada" in it. Whatever else a page uses it imports, so that it can be
    copied."""
    monkeypatch.chdir(tmp_path)
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    run(page)


def run(page: str) -> dict[str, Any]:
    """Runs the blocks of a page, and returns the names that they have made."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in ALL:
        if block.page != page or block.mark:
            continue
        code = compiled(block)
        makes = re.search(r"^keep = ", block.code, re.M)
        if not makes and ("keep" not in names or "@keep.on_" in block.code or awaits(code)):
            names["keep"] = Chatkeep("memory://")
        if not awaits(code):
            exec(code, names)
        elif makes:
            asyncio.run(eval(code, names))
        else:
            asyncio.run(run_open(code, names))
    return names


@pytest.mark.parametrize("block", [block for block in ALL if block.mark], ids=lambda b: f"{b.page}:{b.line}")
def test_what_is_not_run_here_compiles_and_imports_what_there_is(block: Block) -> None:
    """A fragment is Python, and every name that it imports exists; what another test runs is run by a test that is there."""
    compiled(block)
    imports = [node for node in ast.walk(ast.parse(block.code)) if isinstance(node, ast.Import | ast.ImportFrom)]
    ours = [node for node in imports if ast.unparse(node).split()[1].partition(".")[0] == "chatkeep"]
    exec(compile(ast.Module(ours, []), block.page, "exec"), {})
    if block.mark != "fragment":
        assert (ROOT / block.mark.removeprefix("run by ")).exists()


LEFT_TO_READERS = {"SECRET"}
"""Names that the pages take for the reader's own."""


@pytest.mark.long
@pytest.mark.slow
def test_a_plain_type_checker_is_content_with_every_block(tmp_path: Path) -> None:
    """Of mypy as it is without settings. A block takes from those before it what it does not make itself."""
    made: dict[tuple[str, str], str] = {}
    for block in ALL:
        if block.mark == "fragment":
            continue
        tree, module = ast.parse(block.code), re.sub(r"\W", "_", f"{block.page}_{block.line}")
        named = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        own = made_by(tree.body)
        lines = ["from typing import Any"]
        lines += [f"{name}: Any" for name in LEFT_TO_READERS & named - own]
        if "keep" not in own and ("@keep.on_" in block.code or (block.page, "keep") not in made):
            lines += ["import chatkeep", 'keep = chatkeep.Chatkeep("memory://")']
            own.add("keep")
        lines += [f"from {made[key]} import {key[1]}" for name in named - own if (key := (block.page, name)) in made]
        (tmp_path / f"{module}.py").write_text("\n".join([*lines, block.code]))
        made |= {(block.page, name): module for name in own}
    # (Readers have modules of their own, and `async with` stands outside of functions.)
    lenient = ("import-not-found", "top-level-await", "syntax")
    command = [sys.executable, "-m", "mypy", "--config-file=", f"--cache-dir={tmp_path}", "--no-pretty", "."]
    run = subprocess.run(
        [*command, *(f"--disable-error-code={code}" for code in lenient)],
        cwd=tmp_path,
        env=os.environ | {"MYPYPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )

    assert run.stdout.startswith("Success"), run.stdout + run.stderr


def made_by(body: Iterable[ast.stmt]) -> set[str]:
    """The names that statements make in their module."""
    found: set[str] = set()
    for one in body:
        match one:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                found.add(one.name)
            case ast.Import() | ast.ImportFrom():
                found |= {(name.asname or name.name).partition(".")[0] for name in one.names}
            case ast.With() | ast.AsyncWith() | ast.For() | ast.AsyncFor() | ast.If():
                found |= made_by(one.body) | stored(one)
            case _:
                found |= stored(one)
    return found


def stored(tree: ast.AST) -> set[str]:
    """The names that are assigned anywhere in it."""
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


def test_the_first_screen_of_the_readme_is_true(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its bot runs as it stands, and each comment behind a line says what the line gives."""
    monkeypatch.chdir(tmp_path)
    code = blocks(ROOT / "README.md")[0].code
    setup, _, inside = code.partition("async with keep:")
    comments = dict(re.findall(r"^    (\S[^#\n]*?) +# (.*)$", inside, re.M))
    names: dict[str, Any] = {}
    exec(setup, names)
    lines = textwrap.dedent(inside.partition("\n")[2])
    body = textwrap.indent(lines + "\nreturn locals()\n", "        ")
    exec(f"async def run():\n    async with keep:\n{body}", names)
    found = asyncio.run(names["run"]())

    assert '"1 in your cart", recorded before you see it' == comments["receipt.replies[0].text"]
    assert "1 in your cart" == found["receipt"].replies[0].text
    assert (True, True) == (found["again"].duplicate, found["again"].replies == found["receipt"].replies)


def test_the_first_bot_of_the_tour_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It prints its answer."""
    monkeypatch.chdir(tmp_path)
    exec(blocks(DOCS / "tutorial" / "start.md")[0].code, {"__name__": "__main__"})

    assert "That was message 1." == capsys.readouterr().out.strip()


def test_the_applications_of_the_page_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The endpoint, the mounted API and the page answer with either lifespan; the worker answers what was left, and ends at
    SIGTERM."""
    monkeypatch.chdir(tmp_path)
    page = "docs/how-to/application.md"
    first, mounted, other = [block.code for block in ALL if block.page == page and not block.mark][:3]
    names: dict[str, Any] = {}
    exec(first + mounted, names)
    found = [answers_of(names["app"])]
    exec(
        first
        + other
        + f"app = FastAPI(lifespan=lifespan)\napp.mount('/chat', chat)\n{first.partition('(lifespan=lifespan)')[2]}",
        names,
    )
    found.append(answers_of(names["app"]))

    assert [
        (["That was message 1."], "That was message 1.", 200, 200),
        (["That was message 2."], "That was message 1.", 200, 200),  # without a title: what is there, in words
    ] == found

    names = run(page)
    asyncio.run(accepted("sqlite:///chat.db", "bob", "hello"))
    asyncio.run(ended(names["work"]))

    assert ["hello", "That was message 1."] == asyncio.run(log("sqlite:///chat.db", "bob"))


def answers_of(app: Any) -> tuple[list[str], str, int, int]:
    """What the application of the page answers: its endpoint, a message over the mounted API, readiness, the chat page."""
    with TestClient(app, base_url="http://www.example.com") as http:
        said = http.post("/hook/ada", params={"id": secrets.token_hex(4), "text": "hello"}).json()
        begun = http.post("/chat/v1/conversations").json()
        sent = http.post(
            f"/chat/v1/conversations/{begun['id']}/messages",
            json={"content": "hello"},
            headers={"Authorization": f"Bearer {begun['token']}"},
        ).json()
        return said, sent["replies"][0]["content"], *(http.get(f"/chat/{at}").status_code for at in ("readyz", ""))


async def accepted(url: str, conversation: str, content: str) -> None:
    """Leaves a message in a store."""
    async with Chatkeep(url) as keep:
        await keep.accept(conversation, content)


async def ended(work: Callable[[], Any]) -> None:
    """Runs a worker for a second, and ends it as a supervisor does."""
    asyncio.get_running_loop().call_later(1, os.kill, os.getpid(), signal.SIGTERM)
    await work()


async def log(url: str, conversation: str) -> list[str]:
    """What was said in a conversation."""
    async with Chatkeep(url) as keep:
        return [message.text async for message in keep.history(conversation)]


def test_the_functions_of_the_page_answer(
    tmp_path: Path, upstash: UpstashServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a store over REST whose address is in the variables of the platform: the plain handler, the application, and its cron."""
    monkeypatch.chdir(tmp_path)
    for name, value in {"URL": f"http://127.0.0.1:{upstash.port}", "TOKEN": upstash.token}.items():
        monkeypatch.setenv(f"UPSTASH_REDIS_REST_{name}", value)
    names = run("docs/how-to/functions.md")
    said = {"customer": secrets.token_hex(8), "text": "hello", "id": "1"}
    first = names["handler"]({"body": json.dumps(said)}, None)
    with TestClient(names["app"]) as http:
        again = http.post("/hook", json=said).json()
        second = http.post("/hook", json=said | {"id": "2"}).json()
        done = http.post("/cron").json()

    assert ["That was message 1."] == json.loads(first["body"]) == again
    assert ["That was message 2."] == second
    assert {"conversations": 0, "turns": 0, "done": True} == done


def test_the_threads_of_a_function_share_an_opening(upstash: UpstashServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """All are answered; with the plain handler, whose requests come one at a time, they would not be."""
    for name, value in {"URL": f"http://127.0.0.1:{upstash.port}", "TOKEN": upstash.token}.items():
        monkeypatch.setenv(f"UPSTASH_REDIS_REST_{name}", value)
    names = run("docs/how-to/functions.md")
    [threaded] = [block for block in ALL if block.page == "docs/how-to/functions.md" and block.mark]
    exec(compiled(threaded), names)
    customer = secrets.token_hex(8)

    def answered(handler: Callable[[dict[str, str], None], dict[str, str]], number: int) -> list[str]:
        said = {"customer": customer, "text": "hello", "id": f"{number}"}
        return list(json.loads(handler({"body": json.dumps(said)}, None)["body"]))

    with ThreadPoolExecutor(8) as threads:
        told = list(threads.map(lambda number: answered(names["threaded_handler"], number), range(8)))
        with pytest.raises(NotOpen):
            answered(names["handler"], 8)
    names["chat"].close()

    assert sorted([f"That was message {number}."] for number in range(1, 9)) == sorted(told)


def test_the_tests_of_the_page_pass(tmp_path: Path) -> None:
    """Those of docs/how-to/testing.md, by pytest."""
    code = "\n".join(block.code for block in ALL if block.page == "docs/how-to/testing.md")
    (tmp_path / "test_bot.py").write_text(code)
    command = [sys.executable, "-m", "pytest", "-q", "-o", "asyncio_mode=auto", "-p", "no:cacheprovider", "test_bot.py"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)

    assert f"{code.count('def test_')} passed" in ran.stdout, ran.stdout


def test_the_reference_lists_the_names_for_authors() -> None:
    """docs/reference/extending.md lists every name of `chatkeep.drivers`, and what channels and tests are made of."""
    page = (DOCS / "reference" / "extending.md").read_text()
    listed = {
        module: re.findall(r"^ {8}- (\w+)$", part, re.M)
        for module, part in re.findall(r"^::: (\S+)\n(.*?)(?=^:::|\Z)", page, re.M | re.S)
    }
    shipped = {"Instagram", "Messenger", "Telegram", "Webhook", "WhatsApp", "bodies", "Inbound", "Outcome"}

    assert sorted(chatkeep.drivers.__all__) == sorted(listed["chatkeep.drivers"])
    assert sorted(set(chatkeep.channels.__all__) - shipped) == sorted(listed["chatkeep.channels"])
    assert set(listed["chatkeep.testing"]) <= set(chatkeep.testing.__all__)


def links(page: Path) -> Iterator[str]:
    """The relative links of a page, without its code."""
    text = re.sub(r"`[^`\n]*`", "", without_fences(page))
    return (link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link)


def without_fences(page: Path, language: str = "[a-z]*") -> str:
    """The text of a page without its fenced blocks in a language that matches."""
    return re.sub(rf"^```{language}\n.*?^```$", "", page.read_text(), flags=re.M | re.S)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as both the site and GitHub make them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    """Every relative link names a file, and a heading in it; a page of docs/ links only within docs/, which the site holds."""
    for link in links(page):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link
        assert not page.is_relative_to(DOCS) or target.is_relative_to(DOCS), f"{link} leads out of the site"


def test_the_tables_of_stores_are_what_the_drivers_declare() -> None:
    """`python tools/table_of_stores.py` writes them."""
    page = (DOCS / "reference" / "stores.md").read_text()

    assert runpy.run_path(str(ROOT / "tools" / "table_of_stores.py"))["written"](page) == page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_tests_that_a_page_names_are_there(page: Path) -> None:
    """`tests/some/test_file.py::name` is a function of that file."""
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", page.read_text())

    assert [] == [f"{file}::{name}" for file, name in named if name not in functions(ROOT / file)]


@functools.cache
def functions(path: Path) -> set[str]:
    """The names of all functions of a file."""
    tree = ast.parse(path.read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_each_fault_that_was_found_has_its_test() -> None:
    """docs/explanation/faults.md leaves out no row of its sections, and each names what keeps the fault away."""
    rows = re.findall(r"^\| ([A-L])(\d+) \|(.*)\|$", (DOCS / "explanation" / "faults.md").read_text(), re.M)
    counted = {letter: [int(number) for other, number, _ in rows if other == letter] for letter, _, _ in rows}

    assert {"A", "B", "C", "D", "E", "F", "G", "H", "J", "L"} == set(counted)
    assert [] == [letter for letter, numbers in counted.items() if numbers != list(range(1, len(numbers) + 1))]
    assert [] == [letter + number for letter, number, row in rows if ".py::" not in row.rpartition(" | ")[2]]


VARIABLES = {"KEY", "KEY_FILE", "CONFIG", "COMPLETE", "SOAK"}
"""What commands and tests read from the environment beside the settings, each with CHATKEEP_ before it."""


@pytest.mark.parametrize("page", sorted({*PAGES} - {ROOT / "CONTRIBUTING.md"}), ids=lambda page: page.name)
def test_pages_name_variables_that_there_are(page: Path) -> None:
    """CHATKEEP_POLL is the setting `poll`; CHATKEEP_STORE_FILE names a file with its value."""
    named = set(re.findall(r"\bCHATKEEP_([A-Z_]+)\b", page.read_text())) - VARIABLES

    assert [] == [name for name in named if name.removesuffix("_FILE").lower() not in KNOWN]


def test_code_names_pages_that_there_are() -> None:
    """So do error texts, comments and deployment files."""
    files: Callable[[str], Iterator[Path]] = ROOT.rglob
    named = [
        (path.relative_to(ROOT), name)
        for pattern in ("src/**/*.py", "tests/**/*.py", "deploy/*", "clients/**/*.js", "*.md")
        for path in files(pattern)
        if path.is_file() and not {".venv", ".venv-docs", "node_modules"} & set(path.parts)
        for name in re.findall(r"\bdocs/[\w/-]+\.md\b", path.read_text())
    ]

    assert [] != named
    assert [] == [(str(path), name) for path, name in named if not (ROOT / name).exists()]


def test_every_page_is_in_the_index_and_in_the_navigation() -> None:
    """docs/index.md links each page, and mkdocs.yml shows it under its kind."""
    there = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")} - {"index.md"}
    navigation = re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2])

    assert there == {link.partition("#")[0] for link in links(DOCS / "index.md")}
    assert sorted({"index.md"} | there) == sorted(navigation)
    assert set(KINDS) == {page.partition("/")[0] for page in there}


def test_the_reference_shows_all_that_is_exported() -> None:
    """docs/reference/api.md lists every name of `chatkeep`, each once."""
    shown = re.findall(r"^ {8}- (\w+)$", (DOCS / "reference" / "api.md").read_text(), re.M)

    assert sorted(chatkeep.__all__) == sorted(shown)


def test_the_reference_of_the_command_line_is_what_the_commands_say() -> None:
    """`python -m tools.cli_reference` writes the page anew."""
    shown = (DOCS / "reference" / "cli.md").read_text()
    differing = [words for words, command in commands(main, "chatkeep").items() if section(words, command) not in shown]

    assert [] == differing


@pytest.mark.parametrize("room", MAPPED)
def test_the_map_of_the_house_has_every_module(room: str) -> None:
    """What is new is found where people look for it."""
    (shown,) = re.findall(
        rf"^### `{room}/`\n(.*?)^##", (ROOT / "ARCHITECTURE.md").read_text(), re.MULTILINE | re.DOTALL
    )
    named = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`]+)`", shown))))
    modules = {path.stem for path in (ROOT / "src" / "chatkeep" / room).rglob("*.py")}

    assert set() == modules - named - {"__init__"}
