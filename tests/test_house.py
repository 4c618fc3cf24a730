"""The house: who may import whom, no cycle, everything public documented, no heavy import unasked."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

import chatkeep
from chatkeep.channels import Channel
from chatkeep.drivers import DRIVERS
from chatkeep.drivers.base import Driver, Searching
from chatkeep.testing.servers import RedisServer

SRC = Path(chatkeep.__file__).parent
TESTS = Path(__file__).parent

FLOORS: dict[str, set[str]] = {
    "errors": set(),
    "model": set(),
    "frames": set(),
    "bounded": set(),
    "secrecy": set(),
    "durations": set(),
    "sources": {"errors", "secrecy"},
    "extras": {"errors"},
    "kinds": {"errors"},
    "own_file": {"errors"},
    "offload": {"errors"},
    "drivers": {"bounded", "errors", "extras", "kinds", "offload"},
    "conversation": {"bounded", "drivers", "errors", "model"},
    "settings": {"conversation", "durations", "errors", "secrecy", "sources"},
    "storage": {"bounded", "conversation", "drivers", "errors", "extras", "model", "offload", "own_file", "secrecy"},
    "engine": {"bounded", "conversation", "drivers", "durations", "errors", "kinds", "model", "settings", "storage"},
    "people": {"conversation", "drivers", "engine", "errors", "model", "storage"},
    "core": {"conversation", "drivers", "engine", "errors", "model", "people", "storage"},
    "showing": {"conversation", "drivers", "engine", "errors", "model", "people"},
    "tenant": {"conversation", "drivers", "engine", "errors", "model", "people", "settings", "showing"},
    "app": {
        *("conversation", "core", "drivers", "durations", "engine", "errors", "kinds", "model", "secrecy"),
        *("settings", "showing", "sources", "storage", "tenant"),
    },
    "auth": {"app", "conversation", "drivers", "errors", "extras", "offload", "storage"},
    "loop_thread": {"errors", "offload"},
    "blocking": {"app", "loop_thread", "model", "people", "tenant"},
    "": {"app", "conversation", "durations", "engine", "errors", "model", "people", "settings", "tenant"},
}
"""What each package of the core may import, the ground first. What people meet (PEOPLE) may import all of these."""

PEOPLE = ("__main__", "cli", "loading", "server", "demos", "testing", "channels", "adapters", "client", "cookie")

BY_URL = {"app", "storage.shared_cache", "storage.spool"}
"""Who reads URLs and makes what they name; everybody else above them knows `drivers.base` alone."""


BUILT_ON = {"upstash": {"redis"}}
"""The driver whose verbs another one carries over a way of its own."""

EXTRAS: dict[str, set[str]] = {
    "server": {"server"},
    "server.oidc": {"oidc", "server"},
    "client": {"client"},
    "auth.accounts": {"server"},
    "auth.passwords": {"server"},
    "cli.on_server": {"client"},
    "testing.http_contract": {"client"},
    "testing.loadtest": {"client"},
    "testing.transports": {"client"},
    "cookie": {"cookie"},
    "channels.outlet": {"channels"},
    "channels.sender": {"channels"},
    "drivers.redis.batches": {"redis"},
    "drivers.redis.connection": {"redis"},
    "drivers.redis.opening": {"redis"},
    "drivers.redis.transport": {"redis"},
    "drivers.upstash": {"upstash"},
    "drivers.postgresql": {"postgres"},
    "drivers.durable_object": {"durable-object"},
    "storage.shared_cache": {"redis"},
    "storage.key_ring": {"seal"},
    "storage.conversation_keys": {"seal"},
    "storage.sealing": {"seal"},
    "demos.concierge": {"agents"},
}
"""The extras that a module, or a package with all in it, is for; what is not listed does with what chatkeep itself requires."""

SHARED = {"drivers.http": {"upstash", "durable-object"}}
"""The extras of which each brings what a module needs; who imports the module tells its own one."""

OPTIONAL = {"server.telemetry": {"telemetry"}, "server.jwts": {"jwt"}}
"""The extras that a module uses where they are installed, and does without."""

FOR_TESTS = ("testing.machine", "testing.programs", "testing.servers", "testing.upstash")
"""What only tests import, with the libraries of the group "dev"."""

DISTRIBUTIONS = {
    "jwt": "pyjwt",
    "argon2": "argon2-cffi",
    "prometheus_client": "prometheus-client",
    "opentelemetry": "opentelemetry-api",
    "pydantic_ai": "pydantic-ai-slim",
}
"""Libraries whose distribution has another name."""


def built_on(name: str) -> set[str]:
    """The drivers that the module *name* of a driver may use."""
    return BUILT_ON.get(name.split(".")[1], set()) if "." in name else set()


@cache
def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name under chatkeep."""
    found = {}
    for path in SRC.rglob("*.py"):
        parts = list(path.relative_to(SRC).with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def running(path: Path) -> ast.Module:
    """The code of *path* that runs, parsed once; nobody changes it."""
    return parsed(path)


def parsed(path: Path, *, types: bool = False) -> ast.Module:
    """The code of *path* that runs; what is there for its type checker is taken out, unless *types* are asked for."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if not types and isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = [ast.Pass()]
    return tree


@cache
def imports(name: str, path: Path, *, later: bool = True, types: bool = False) -> set[str]:
    """The modules of ours that *path* imports when it runs; with *later* false, only those that importing it imports; with
    *types*, also those for its type checker."""
    tree = parsed(path, types=types)
    for node in ast.walk(tree):
        if not later and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [ast.Pass()]
    return imported_in(tree, name, path)


def imported_in(tree: ast.Module, name: str, path: Path) -> set[str]:
    """The modules of ours that are imported in *tree*, which is a part of the module *name*."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    known = set(modules())
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            if node.level:
                parts = [part for part in package.split(".") if part]
                base = parts[: len(parts) - node.level + 1]
                module = ".".join([*base, *([node.module] if node.module else [])])
            elif (node.module or "").split(".")[0] == "chatkeep":
                module = (node.module or "").partition(".")[2]
            else:
                continue
            for alias in node.names:
                inner = f"{module}.{alias.name}".strip(".")
                found.add(inner if inner in known else module)
        elif isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[2] for alias in node.names if alias.name.split(".")[0] == "chatkeep"}
    return found - {name}


def package(name: str) -> str:
    """The package of the core that a module belongs to."""
    return name.split(".")[0]


def test_no_arrow_points_up() -> None:
    """Each package imports only packages below it."""
    broken = {}
    for name, path in modules().items():
        if package(name) in PEOPLE:
            continue
        assert package(name) in FLOORS, f"{package(name)} has no line in the table of floors"
        if extra := {package(one) for one in imports(name, path)} - FLOORS[package(name)] - {package(name)}:
            broken[name] = extra

    assert {} == broken


def test_a_driver_is_known_by_its_contract_alone() -> None:
    """Above the drivers only their contract is imported; and no driver imports another one, but for BUILT_ON."""
    floors = [name for name in modules() if package(name) in FLOORS]
    found = {name: {one for one in imports(name, modules()[name]) if package(one) == "drivers"} for name in floors}
    above = {name: ones - {"drivers.base"} for name, ones in found.items() if package(name) != "drivers"}
    families = {name.split(".")[1] for name in floors if name.count(".") == 2 and package(name) == "drivers"}
    crossing = {
        name: others
        for name, ones in found.items()
        if (
            others := {one.split(".")[1] for one in ones if one.count(".") == 2}
            & families - {*name.split(".")[1:2]} - built_on(name)
        )
    }

    assert BY_URL == {name for name, ones in above.items() if ones}
    assert {} == crossing


def test_there_is_no_cycle() -> None:
    """Following imports from any module never leads back to it; imports for a type checker count too."""
    graph = {name: imports(name, path, types=True) for name, path in modules().items()}

    def reached(name: str, seen: set[str]) -> set[str]:
        for next_one in graph.get(name, set()) - seen:
            seen.add(next_one)
            reached(next_one, seen)
        return seen

    assert [] == [name for name in graph if name in reached(name, set())]


def test_the_import_tables_can_fail() -> None:
    """A module that imports a floor above is seen."""
    assert "engine.engine" in imports("app", SRC / "app.py")
    assert "drivers.base" in imports("drivers.memory", SRC / "drivers" / "memory.py")


def required() -> dict[str, set[str]]:
    """The distributions that pyproject.toml requires, by extra; "" is chatkeep itself."""
    project = tomllib.loads((SRC.parents[1] / "pyproject.toml").read_text())["project"]
    lists = {"": project["dependencies"]} | project["optional-dependencies"]
    return {extra: {re.match(r"[\w.-]+", line)[0] for line in lines} for extra, lines in lists.items()}  # type: ignore[index]


def extras_of(name: str) -> set[str]:
    """The extras that the module *name* may count on."""
    parts = name.split(".")
    return next((EXTRAS[part] for n in range(len(parts), 0, -1) if (part := ".".join(parts[:n])) in EXTRAS), set())


@cache
def libraries(tree: ast.AST) -> set[str]:
    """The distributions of others that are imported in *tree*."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add((node.module or "").split(".")[0])
    found -= {"chatkeep", *sys.stdlib_module_names}
    return {DISTRIBUTIONS.get(name, name) for name in found}


def told_by(tree: ast.Module) -> dict[str, ast.Module]:
    """What is imported inside `with from_extra(extra, ...)`, by extra."""
    found: dict[str, ast.Module] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.With):
            call = node.items[0].context_expr
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "from_extra":
                found.setdefault(ast.literal_eval(call.args[0]), ast.Module([], [])).body += node.body
    return found


@cache
def imported_with(name: str) -> set[str]:
    """The modules of ours that are imported when *name* is."""
    known = modules()
    todo, seen = [name], set()
    while todo:
        one = todo.pop()
        if one in known and one not in seen:
            seen.add(one)
            todo += [*imports(one, known[one], later=False), one.rpartition(".")[0]]
    return seen


def test_what_a_module_imports_is_brought_by_what_it_is_for() -> None:
    """Its libraries are required by chatkeep or by an extra that the module is for, and so are those of the modules it imports."""
    asked = required()
    unasked, crossing = {}, {}
    for name, path in modules().items():
        brought = asked[""].union(*(asked[extra] for extra in extras_of(name) | OPTIONAL.get(name, set())))
        if name in SHARED:
            brought |= set.intersection(*(asked[extra] for extra in SHARED[name]))
        others = {one for one in imported_with(name) if not extras_of(one) <= extras_of(name)}
        if name not in FOR_TESTS and (more := libraries(running(path)) - brought):
            unasked[name] = more
        if others:
            crossing[name] = others

    assert ({}, {}) == (unasked, crossing)


def test_a_missing_extra_is_told_wherever_it_is_imported() -> None:
    """Each library of an extra is imported inside `with from_extra(...)`, which tells it. What `create_app` imports is told by the
    package of the server."""
    asked, known = required(), modules()
    by_the_package = set().union(*(libraries(running(known[one])) for one in imported_with("server.app")))
    untold = {}
    for name, path in known.items():
        parts = told_by(running(path))
        told = {extra: libraries(part) for extra, part in parts.items()}
        wrong = {extra: found - asked[extra] for extra, found in told.items() if found - asked[extra]}
        bare = libraries(running(path)) - asked[""].union(*told.values())
        if name.startswith("server."):
            bare -= by_the_package
        if name in SHARED:
            bare = set()
        for shared in SHARED.keys() & imports(name, path):
            told_here = {extra for extra, part in parts.items() if shared in imported_in(part, name, path)}
            bare |= set() if told_here == SHARED[shared] & extras_of(name) != set() else {shared}
        if name not in FOR_TESTS and (wrong or bare):
            untold[name] = wrong, bare

    assert {} == untold
    assert "from_extra('server'" in ast.unparse(running(known["server"]))


def test_everything_public_has_a_docstring() -> None:
    """A public name without a sentence for its user is not finished."""
    bare = []
    for name, path in modules().items():
        tree = ast.parse(path.read_text())
        bare += [] if ast.get_docstring(tree) or not tree.body else [name]
        driver = name.startswith(("drivers.", "testing.")) and name != "drivers.base"
        protocols = (Channel,) if name == "testing.channel_contract" else (Driver, Searching)
        for node in tree.body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith(
                "_"
            ):
                bare += [] if ast.get_docstring(node) else [f"{name}.{node.name}"]
            if isinstance(node, ast.ClassDef):
                bare += [
                    f"{name}.{node.name}.{inner.name}"
                    for inner in node.body
                    if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef)
                    and not inner.name.startswith("_")
                    and not (
                        driver and any(hasattr(one, inner.name) for one in protocols)
                    )  # the Protocol has its docstring
                    and "overload" not in map(ast.unparse, inner.decorator_list)
                    and not ast.get_docstring(inner)
                ]

    assert [] == bare


NO_VERBS = re.compile(
    r"[*a-z0-9]|(?:As|When|Where|Which|How|Why|What|Whether|Until|After|From|Under|The|An?|Its?|No|All|Something) "
)
"""How the first line of a function's docstring begins that leaves open what the function does: its argument, a clause, a noun."""


def test_what_a_function_does_is_said_first() -> None:
    """In the imperative; what is told of a property, of a command, or of a clause of a contract, is a fact."""
    found = []
    for name, path in modules().items():
        for node in ast.walk(running(path)):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or package(name) in ("demos", "testing"):
                continue
            fact = any("property" in ast.unparse(one) or "command" in ast.unparse(one) for one in node.decorator_list)
            if not fact and NO_VERBS.match(ast.get_docstring(node) or "Do it"):
                found.append(f"{name}.{node.name}")

    assert [] == found
    assert NO_VERBS.match("*value* as JSON")
    assert not NO_VERBS.match("Answer whether it is")


def attributes(kind: ast.ClassDef) -> set[str]:
    """What the `__init__` of a class puts on `self`."""
    init = next((node for node in kind.body if isinstance(node, ast.FunctionDef) and node.name == "__init__"), None)
    return {
        node.attr
        for node in (ast.walk(init) if init is not None else ())
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self"
    }


def lines_of(kind: ast.ClassDef) -> int:
    """How many lines a class has, beside what it says to its users."""
    said = 0
    for node in ast.walk(kind):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(node):
            said += 1 + (node.body[0].end_lineno or 0) - node.body[0].lineno
    return 1 + (kind.end_lineno or 0) - kind.lineno - said


def test_no_class_does_everything() -> None:
    """At most 400 lines and 15 attributes: what takes more is several parts. A contract is its clauses, one after the other, and has as
    many as there are."""
    found = {
        f"{name}.{node.name}": (lines_of(node), len(attributes(node)))
        for name, path in modules().items()
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef) and not node.name.endswith("Contract")
    }

    assert {} == {name: (lines, held) for name, (lines, held) in found.items() if lines > 400 or held > 15}
    assert found["engine.engine.Engine"][1] > 5, "attributes are not seen"
    assert 300 < found["storage.store.Store"][0] + found["engine.work_loop.WorkLoop"][0], "lines are not seen"


def left_to_the_system(tree: ast.AST) -> list[int]:
    """The lines in which a file is read or written as text, and not said in which encoding."""
    found = []
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        said = any(word.arg == "encoding" for word in call.keywords)
        given = [*call.args, *[word.value for word in call.keywords]]
        modes = [one.value for one in given if isinstance(one, ast.Constant) and isinstance(one.value, str)]
        is_text = (
            (name == "read_text" and not call.args)
            or (name == "write_text" and len(call.args) < 2)
            or (isinstance(call.func, ast.Name) and name == "open" and not any("b" in mode for mode in modes))
        )
        if is_text and not said:
            found.append(call.lineno)
    return found


def test_no_text_is_read_as_the_system_likes() -> None:
    """Windows and many a locale take files for something else than UTF-8."""
    found = {name: lines for name, path in modules().items() if (lines := left_to_the_system(parsed(path)))}

    assert {} == found
    assert [1] * 3 == [
        left_to_the_system(ast.parse(text))[0] for text in ("open(x)", "a.read_text()", "a.write_text(x)")
    ]
    assert [] == left_to_the_system(ast.parse("open(x, 'rb'), a.read_text('utf-8'), open(x, encoding='utf-8')"))


def test_parts_of_the_engine_know_nothing_private_of_each_other() -> None:
    """Nor does anybody who uses the engine: `_names` are reached through `self` alone."""
    reached = []
    for name, path in modules().items():
        if package(name) in ("engine", "core", "tenant"):
            reached += [
                f"{name}: {ast.unparse(node)}"
                for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.Attribute)
                and re.match("_[a-z]", node.attr)
                and ast.unparse(node.value) not in ("self", "cls", "asyncio.tasks")
            ]

    assert [] == reached


LIGHT = {"chatkeep", "msgspec", "typing_extensions"}
"""The packages beside the standard library that `import chatkeep` may load."""

HEAVY = {
    "argparse", "bz2", "csv", "ctypes", "dbm", "difflib", "email", "glob", "html", "http", "importlib.metadata",
    "importlib.resources", "json", "lzma", "multiprocessing", "optparse", "pathlib", "pickle", "pprint", "shutil", "sqlite3", "statistics",
    "tarfile", "tempfile", "tomllib", "unicodedata", "unittest", "urllib.request", "xml", "zipfile",
}  # fmt: skip
"""What of the standard library costs a millisecond or more, and neither asyncio nor msgspec has imported."""

ELSEWHERE = {"importlib.util", "ipaddress", "urllib.parse"}
"""The same, needed by drivers of a store that has a host, or where something fails."""

OWN = {"bisect", "copy", "dataclasses", "gc", "hashlib", "hmac", "queue", "random", "secrets", "zlib"}
"""What of the standard library `import chatkeep` brings, beside what asyncio and msgspec bring: each of them costs every process."""

MODULES = 112
"""So many modules of chatkeep an import brings at most; each takes a third of a millisecond, whatever is in it."""

CALLS = 35_200
"""Importing calls fewer functions than this: exact where a time is not, and hardly another number from one Python to the next."""

TURN = """
import asyncio
from chatkeep import Chatkeep

async def main():
    keep = Chatkeep("sqlite:///{path}", background=False)
    keep.on_message(lambda turn: turn.text)
    async with keep:
        assert (await keep.receive("ada", "hello", id="wamid.1")).status == "answered"

asyncio.run(main())
"""
"""A process for one message, as a function has it."""


ENTERED = 115
"""An ordinary turn enters fewer functions of chatkeep than this: what one message costs a processor goes with it, and a time would
say something of the machine."""

WARM_TURNS = """
import asyncio, sys
import chatkeep

counts = []

async def main():
    keep, entered = chatkeep.Chatkeep("memory://"), 0
    at = chatkeep.__file__.removesuffix("__init__.py")

    @keep.on_message
    async def bot(turn):
        turn.state["seen"] = len(turn.history)
        return turn.text

    def count(frame, event, argument):
        nonlocal entered
        entered += event == "call" and frame.f_code.co_filename.startswith(at)

    async with keep:
        for number in range(40):
            entered = 0
            sys.setprofile(count)
            await keep.receive("ada", "hello", id=f"wamid.{number}")
            sys.setprofile(None)
            counts.append(entered)

asyncio.run(main())
print(min(counts))
"""
"""A process that answers the same conversation again and again; news that are told meanwhile count with some turns and not with others."""


def loaded_by(statement: str) -> set[str]:
    """The modules that are there after *statement*, in a fresh interpreter."""
    code = f"import sys; before = set(sys.modules); {statement}; print(*sorted(set(sys.modules) - before))"
    # (-S: the site's own start-up imports much, and not the same everywhere.)
    paths = os.pathsep.join(dict.fromkeys(filter(None, [str(SRC.parent), *sys.path])))
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
    return set(done.stdout.split())


def others(loaded: set[str]) -> set[str]:
    """The packages among *loaded* that are not of the standard library."""
    tops = {name.partition(".")[0] for name in loaded} - set(sys.stdlib_module_names)
    return {name for name in tops if not name.startswith("_sysconfigdata")}


def test_importing_chatkeep_is_light() -> None:
    """A process that only wants the library, such as a function that is started for one message, loads no extra, no driver before a
    URL names it, and of the standard library nothing heavy but what asyncio and msgspec need."""
    loaded = loaded_by("import chatkeep")
    brought = {name: name.partition(".")[0] for name in loaded - loaded_by("import asyncio, msgspec")}

    assert LIGHT >= others(loaded)
    assert OWN >= {name for name, top in brought.items() if top in sys.stdlib_module_names and name[0] != "_"}
    assert MODULES >= list(brought.values()).count("chatkeep")
    assert [] == [
        name
        for name in loaded
        if re.match(
            r"chatkeep\.(drivers\.(?!base|rows|acts|full_text|openable)|server|cli|client|channels|testing)", name
        )
    ]


def test_importing_chatkeep_does_little() -> None:
    """What is made when a module is imported is what every process needs: no type is taken apart, and no long expression compiled, for
    what comes later or never."""
    counted = (
        "import sys, asyncio, msgspec; calls = 0\n"
        "def count(frame, event, argument):\n    global calls; calls += event in ('call', 'c_call')\n"
        "sys.setprofile(count)\nimport chatkeep\nsys.setprofile(None)\nprint(calls)"
    )
    said = subprocess.run([sys.executable, "-c", counted], capture_output=True, text=True, check=True).stdout

    assert 10_000 < int(said) < CALLS


def test_an_ordinary_turn_does_little() -> None:
    """A cached conversation, one message, a handler that waits for nothing, one reply: what other turns need is not asked of it."""
    said = subprocess.run([sys.executable, "-c", WARM_TURNS], capture_output=True, text=True, check=True).stdout

    assert 50 < int(said) < ENTERED


def test_a_first_turn_is_light(tmp_path: Path) -> None:
    """Nor does a process that answers one message, on a store that has no host, load more than its driver."""
    loaded = loaded_by(f"exec({TURN.format(path=tmp_path / 'chat.db')!r})")

    assert {*LIGHT, "apsw", "zstandard"} >= others(loaded)
    assert set() == (HEAVY | ELSEWHERE) & loaded - loaded_by("import asyncio, msgspec")


def test_the_driver_over_rest_is_light() -> None:
    """Most of what a function takes to start is imports: beside what all drivers need there is a parser of HTTP."""
    loaded = loaded_by("import chatkeep; chatkeep.Chatkeep('upstash://token@host', background=False)")

    assert {*LIGHT, "httptools", "zstandard"} >= {name for name in others(loaded) if "cython" not in name}


@pytest.mark.parametrize(
    ("engine", "own"),
    [
        ("sqlite", {"apsw", "zstandard"}),
        ("postgresql", {"asyncpg"}),
        ("redis", {"hiredis", "zstandard"}),
        ("upstash", {"httptools", "zstandard"}),
        ("durable_object", {"httptools"}),
    ],
)
def test_a_driver_imports_what_it_uses_alone(engine: str, own: set[str]) -> None:
    """Until something goes wrong: what only a broken connection needs is imported then, and TLS where an address has it."""
    before = loaded_by("import chatkeep, asyncpg" if engine == "postgresql" else "import chatkeep")
    loaded = loaded_by(f"import chatkeep, chatkeep.drivers.{engine}, chatkeep.drivers.{engine}.transport")

    assert {*LIGHT, *own} >= {name for name in others(loaded) if "cython" not in name}
    assert set() == HEAVY & loaded - before


def test_the_commands_load_neither_a_server_nor_a_driver() -> None:
    """`chatkeep --help` is quick; what one command needs is imported when it runs."""
    loaded = loaded_by("import chatkeep.cli")

    assert {*LIGHT, "click"} >= others(loaded)
    assert {"multiprocessing", "importlib.metadata", "email"}.isdisjoint(loaded)


def test_the_redis_driver_without_its_transport_needs_no_hiredis() -> None:
    """The verbs, the scripts and what is said of a store serve any transport: `transport` and what it is made of alone know hiredis."""
    ours = {f"drivers.redis.{name}" for name in ("transport", "batches", "opening", "connection")}
    names = [name for name in modules() if name.startswith("drivers.redis") and name not in ours]
    code = (
        f"import sys, importlib; [importlib.import_module('chatkeep.' + name) for name in {names}]; "
        "print([name for name in sys.modules if name.partition('.')[0] in ('redis', 'hiredis')])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert {"drivers.redis.driver", "drivers.redis.scripts", "drivers.redis.replies", "drivers.redis.check"} <= set(
        names
    )
    assert "[]" == said.strip()


@pytest.mark.parametrize("name", sorted(name for name in modules() if name.startswith("drivers.")))
def test_inner_names_of_a_library_are_used_in_one_place(name: str) -> None:
    """What a driver uses of a library's private attributes is listed in its INNER, and each of them is used once."""
    tree = ast.parse(modules()[name].read_text())
    own = [tree, *(ast.parse(modules()[f"drivers.{one}.driver"].read_text()) for one in built_on(name))]
    nodes = [node for one in own for node in ast.walk(one)]
    defined = {node.attr for node in nodes if isinstance(node, ast.Attribute) and is_own(node)}
    defined |= {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    used = [
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and re.match("_(?!_|replace$)", node.attr) and node.attr not in defined
    ]
    listed: tuple[str, ...] = next(
        (
            ast.literal_eval(node.value)
            for node in tree.body
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "INNER"
        ),
        (),
    )

    assert sorted(listed) == sorted(used)


def is_own(node: ast.Attribute) -> bool:
    """Whether a class gives itself this attribute."""
    return isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self"


def test_every_driver_of_the_table_is_documented() -> None:
    """The capability table in the docs lists the drivers that there are."""
    docs = (SRC.parents[1] / "docs" / "reference" / "stores.md").read_text()

    assert [] == [scheme for scheme in DRIVERS if f"`{scheme}://" not in docs]


def methods_of(tree: ast.Module, name: str) -> list[str]:
    """The methods of a class, in their order; two of one name, such as of a property, are one."""
    found = [one for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name for one in node.body]
    return list(dict.fromkeys(one.name for one in found if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)))


@pytest.mark.parametrize("place", sorted(set(DRIVERS.values())))
def test_drivers_look_alike(place: str) -> None:
    """Each has the verbs in the order of the contract, and its transport what the seam asks for in the order of the seam: who reads one
    beside another finds the same in the same place."""
    engine, _, name = place.partition(":")
    order = [*methods_of(running(modules()["drivers.base"]), "Driver"), "search", "index_text"]
    opened = {"open": "_start", "close": "_stop"}
    module = "drivers.memory" if engine == "memory" else f"drivers.{engine}.driver"
    own = methods_of(running(modules()[module]), name)

    assert [one for one in (opened.get(one, one) for one in order) if one in own] == [
        one for one in own if one in {*order, *opened.values()}
    ]
    if transport := modules().get(f"drivers.{engine}.transport"):
        seam = modules().get(f"drivers.{engine}.seam", modules()["drivers.redis.seam"])
        asked, classes = methods_of(running(seam), "Transport"), running(transport).body
        made = [methods_of(running(transport), node.name) for node in classes if isinstance(node, ast.ClassDef)]
        kept = max(([one for one in found if one in asked] for found in made), key=len)

        assert len(kept) > 3
        assert [one for one in asked if one in kept] == kept


def modules_imported(source: str) -> set[str]:
    """The last names of all modules that *source* may import, `from package import module` among them."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found |= {name.rpartition(".")[2] for name in names}
    return found


def test_no_test_module_is_imported_by_another() -> None:
    """What several test modules share lies in tests/support; neither a module of tests nor a conftest is imported."""
    own = {path.stem for path in [*TESTS.rglob("test_*.py"), *TESTS.rglob("conftest.py")]}
    sources = {str(path.relative_to(TESTS)): path.read_text() for path in TESTS.rglob("*.py")}

    assert {} == {name: found for name, source in sources.items() if (found := modules_imported(source) & own)}


def test_what_is_not_marked_starts_no_server(tmp_path: Path) -> None:
    """`make quick` leaves out what has the mark `server`; without the mark nothing gets that far."""
    with pytest.raises(AssertionError, match="RedisServer is started by a test that is not marked"):
        RedisServer("valkey-9", tmp_path).start()


SLEEPS = {
    "acceptance/test_rows_a.py": 1,
    "acceptance/test_rows_b.py": 1,
    "cli/test_dev.py": 2,
    "client/test_client.py": 1,
    "client/test_events.py": 1,
    "client/test_outbox.py": 2,
    "demos/test_later.py": 1,
    "drivers/test_postgresql.py": 8,
    "drivers/test_redis.py": 11,
    "engine/test_blocking.py": 2,
    "drivers/test_sqlite.py": 4,
    "engine/test_corners.py": 2,
    "engine/test_engine.py": 2,
    "engine/test_judging.py": 5,
    "engine/test_places.py": 3,
    "engine/test_runner.py": 4,
    "engine/test_sender.py": 1,
    "faults/test_instances.py": 2,
    "faults/test_shared_file.py": 1,
    "packaging/__main__.py": 1,
    "packaging/promises.py": 2,
    "server/test_protocol.py": 2,
    "server/test_serving.py": 1,
    "support/browsing.py": 1,
    "support/killing.py": 7,
    "support/rows.py": 4,
    "support/service.py": 1,
    "support/serving.py": 1,
    "support/shop.py": 2,
    "support/simulation.py": 2,
    "support/stand.py": 2,
}
"""How many fixed sleeps the files of the tests still have; the numbers only fall."""


def fixed_sleeps(source: str) -> int:
    """How often *source* sleeps for a time that stands in it."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    sleeps = [call.args for call in calls if ast.unparse(call.func) in ("asyncio.sleep", "time.sleep")]
    numbers = [
        [part.value for one in args for part in ast.walk(one) if isinstance(part, ast.Constant)] for args in sleeps
    ]
    return len([found for found in numbers if any(isinstance(number, int | float) and number for number in found)])


def test_tests_wait_for_what_is_to_happen() -> None:
    """With `until` of tests/support/waiting.py; a time that has to pass, or is wasted on purpose, is named by its helpers."""
    found = {str(path.relative_to(TESTS)): fixed_sleeps(path.read_text()) for path in TESTS.rglob("*.py")}

    assert {} == {name: number for name, number in found.items() if number > SLEEPS.get(name, 0)}
    assert 2 == fixed_sleeps("await asyncio.sleep(0.1 if slow else 0); time.sleep(1); await asyncio.sleep(0)")
