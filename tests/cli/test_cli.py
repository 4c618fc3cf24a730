"""The command line, as a process of its own: bots in the terminal, and looking into a store while others use it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import msgspec
import pytest

from chatkeep import Chatkeep, Corrupt, HandlerFailed, Turn, UsageError
from chatkeep.cli.archives import whole_file
from chatkeep.testing.servers import RedisServer

from ..support.counting import count
from ..support.program import PATIENCE_S, PROGRAM, Demo, chatkeep, free_port, killed_when_late, plain_environment
from ..support.stores import store_url


def post(address: str, conversation: str, content: str, store: Path) -> dict[str, Any]:
    """Posts a message to a running demo with a service key made for it; answers the receipt."""
    key = json.loads(chatkeep("key", "create", store.name, "--json", folder=store.parent)[1])["token"]
    request = urllib.request.Request(
        f"{address}v1/conversations/{conversation}/messages",
        data=json.dumps({"content": content}).encode(),
        headers={"content-type": "application/json", "authorization": f"Bearer {key}"},
    )
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
        receipt: dict[str, Any] = json.load(answer)
    return receipt


def test_an_order_goes_on_after_a_restart(tmp_path: Path) -> None:
    """Half an order through one pipe, the rest through another process; the log of before is shown first."""
    first = chatkeep("chat", "restaurant", typed="2 margherita\na tiramisù\ncheckout\n", folder=tmp_path)
    second = chatkeep("chat", "restaurant", typed="12 Via Roma\nconfirm", folder=tmp_path)
    other = chatkeep("chat", "restaurant", "--conversation", "bob", typed="cart\n/quit\nmenu\n", folder=tmp_path)

    assert (0, "") == (first[0], first[2])
    assert "bot: Added 2 margherita." in first[1]
    assert "Total: €20.50" in first[1]
    assert (0, "") == (second[0], second[2])
    assert second[1].startswith(first[1])
    assert "in the oven. It goes to 12 Via Roma; €20.50" in second[1]
    assert 1 == second[1].count("Benvenuto")
    assert "Your cart is empty" in other[1]
    assert "Today we have" not in other[1]


def test_a_chat_that_is_killed_is_not_forgotten(tmp_path: Path) -> None:
    """kill -9 after an answer was shown: the next chat has it."""
    process = subprocess.Popen(
        [*PROGRAM, "chat", "restaurant"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=tmp_path,
        env=plain_environment(),
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"3 funghi\n")
    process.stdin.flush()
    with killed_when_late(process):
        while b"Anything else" not in process.stdout.readline():
            assert process.poll() is None
    process.kill()
    process.wait(PATIENCE_S)
    process.stdin.close()
    process.stdout.close()

    assert "3 funghi, €27.00" in chatkeep("chat", "restaurant", typed="cart", folder=tmp_path)[1]


def test_a_chat_in_a_terminal_ends_at_ctrl_c_and_ctrl_d(tmp_path: Path) -> None:
    """With a prompt, without an echo of one's own words, and at once."""
    for end in (b"\x03", b"\x04"):
        leader, follower = pty.openpty()
        process = subprocess.Popen(
            [*PROGRAM, "chat", "restaurant", "--store", f"{end[0]}.db"],
            stdin=follower,
            stdout=follower,
            stderr=follower,
            cwd=tmp_path,
            env=plain_environment(),
            start_new_session=True,
            preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),  # makes it the controlling terminal
        )
        os.close(follower)
        with killed_when_late(process):
            seen = read_until(leader, b"you: ")
            os.write(leader, b"hello\n")
            seen += read_until(leader, b"\nyou: ")
        began = time.monotonic()
        os.write(leader, end)
        code = process.wait(PATIENCE_S)
        os.close(leader)

        assert 0 == code
        assert time.monotonic() - began < 3
        assert 1 == seen.count(b"hello")
        assert b"bot: Benvenuto" in seen


def read_until(source: int, end: bytes) -> bytes:
    """What comes from a terminal, until *end* comes."""
    seen = b""
    while not seen.endswith(end):
        seen += os.read(source, 1024)
    return seen


def test_a_store_can_be_looked_into_while_a_server_has_it_open(tmp_path: Path) -> None:
    """list, show and history see what was answered a moment ago, and the server goes on."""
    with Demo(tmp_path) as demo:
        post(demo.address, "ada", "2 margherita", tmp_path / "chatkeep-demo.db")
        post(demo.address, "table%2F4", "menu", tmp_path / "chatkeep-demo.db")
        listed = chatkeep("list", "chatkeep-demo.db", folder=tmp_path)
        as_json = chatkeep("list", f"sqlite:///{tmp_path}/chatkeep-demo.db", "--json", folder=tmp_path)
        one = chatkeep("list", "chatkeep-demo.db", "--limit", "1", "--json", folder=tmp_path)
        shown = chatkeep("show", "chatkeep-demo.db", "ada", folder=tmp_path)
        shown_json = chatkeep("show", "chatkeep-demo.db", "ada", "--json", folder=tmp_path)
        history = chatkeep("history", "chatkeep-demo.db", "table/4", folder=tmp_path)
        pages = chatkeep(
            "history", "chatkeep-demo.db", "ada", "--after", "1", "--before", "3", "--json", folder=tmp_path
        )
        post(demo.address, "ada", "remove 1 margherita", tmp_path / "chatkeep-demo.db")
        later = chatkeep("show", "chatkeep-demo.db", "ada", "--json", folder=tmp_path)

        assert demo.process.poll() is None

    assert [0] * 8 == [found[0] for found in (listed, as_json, one, shown, shown_json, history, pages, later)]
    assert {"ada", "table/4"} == {json.loads(line)["conversation"] for line in as_json[1].splitlines()}
    assert 3 == len(listed[1].splitlines())
    assert 1 == len(one[1].splitlines())
    assert '"margherita": 2' in shown[1]
    assert "session:" in shown[1]
    assert {"margherita": 2} == json.loads(shown_json[1])["state"]["cart"]
    assert ["2 margherita", "Benvenuto at Bella Napoli!"] == [
        message["content"] for message in json.loads(shown_json[1])["messages"] if message["role"] != "system"
    ][:2]
    assert "assistant  Benvenuto at Bella Napoli!" in history[1]
    assert [2] == [json.loads(line)["number"] for line in pages[1].splitlines()]
    assert {"margherita": 1} == json.loads(later[1])["state"]["cart"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_demo_says_where_it_is_and_stops_when_told(tmp_path: Path, number: int) -> None:
    """The address, the store and the hint; a quiet end with code 0."""
    with Demo(tmp_path, "restaurant", "--store", "orders.db") as demo:
        with urllib.request.urlopen(demo.address, timeout=PATIENCE_S) as page:
            title = page.read()
        post(demo.address, "ada", "2 margherita", tmp_path / "orders.db")
        greeting = demo.greeting
        code = demo.stop(number)

    assert b"<title>Bella Napoli</title>" in title
    assert "orders.db" in greeting
    assert f"kill -9 {demo.process.pid}" in greeting
    assert "chatkeep list orders.db" in greeting
    assert (0, "") == (code, demo.complaints())
    assert ["orders-orders.db", "orders.db"] == sorted(file.name for file in tmp_path.glob("*.db*"))


def test_a_port_that_is_taken_is_said_plainly(tmp_path: Path) -> None:
    """Which port, that nothing was started, and what to do."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, _, errors = chatkeep("demo", "--port", port, folder=tmp_path)

    assert 2 == code
    assert f"Port {port} of 127.0.0.1" in errors
    assert "--port 0" in errors
    assert "Traceback" not in errors


def test_the_demo_keeps_to_this_machine(tmp_path: Path) -> None:
    """An address that others can reach is refused."""
    for host in ("0.0.0.0", "::", "192.168.1.5", "example.com"):
        code, _, errors = chatkeep("demo", "--host", host, "--port", str(free_port()), folder=tmp_path)

        assert (2, True) == (code, "nothing was started" in errors)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with a tenant's conversation, one whose text steers terminals, and a message that was set aside."""
    path = tmp_path / "chat.db"
    keep: Chatkeep[Any] = Chatkeep(f"sqlite:///{path}", retry_after="1ms", retry_longest="1ms", attempts=3)

    @keep.on_message
    async def bot(turn: Turn[Any]) -> str:
        if turn.text == "bomb":
            raise ValueError("tick \x1b[2J tock")
        return "fine"

    async def fill() -> None:
        async with keep:
            await keep.tenant("salon").receive("ada", "hello")
            await keep.receive("eve", "\x1b]0;owned\x07 red \u202e \x9b31m \u2028")
            with pytest.raises(HandlerFailed):
                await keep.receive("bob", "bomb")

    asyncio.run(fill())
    return path


def test_tenants_are_kept_apart(store: Path) -> None:
    """list shows all or one; the others need the tenant's name to find its conversation."""
    everything = chatkeep("list", "chat.db", "--json", folder=store.parent)
    salon = chatkeep("list", "chat.db", "--tenant", "salon", "--json", folder=store.parent)
    found = chatkeep("show", "chat.db", "ada", "--tenant", "salon", folder=store.parent)
    missing = chatkeep("show", "chat.db", "ada", folder=store.parent)

    assert 3 == len(everything[1].splitlines())
    assert ["salon"] == [json.loads(line)["tenant"] for line in salon[1].splitlines()]
    assert 0 == found[0]
    assert (1, "") == missing[:2]
    assert "no conversation 'ada'" in missing[2]


def test_a_message_that_was_set_aside_can_be_handed_in_again(store: Path) -> None:
    """dead shows it with the reason, replay puts it into the log once more, once."""
    dead = chatkeep("dead", "chat.db", "bob", folder=store.parent)
    as_json = chatkeep("dead", "chat.db", "bob", "--json", folder=store.parent)
    shown = chatkeep("show", "chat.db", "bob", folder=store.parent)
    first = chatkeep("replay", "chat.db", "bob", "1", folder=store.parent)
    again = chatkeep("replay", "chat.db", "bob", "1", folder=store.parent)
    other = chatkeep("replay", "chat.db", "bob", "2", folder=store.parent)
    after = chatkeep("show", "chat.db", "bob", "--json", folder=store.parent)

    assert "bomb" in dead[1]
    assert "ValueError: tick" in dead[1]
    assert [1] == [json.loads(line)["number"] for line in as_json[1].splitlines()]
    assert "set aside" in shown[1]
    assert (0, True) == (first[0], "is in the log again" in first[1])
    assert (0, True) == (again[0], "was replayed before" in again[1])
    assert (2, True) == (other[0], "was not set aside" in other[2])
    assert 1 == json.loads(after[1])["unread"]
    assert "Nothing was set aside" in chatkeep("dead", "chat.db", "eve", folder=store.parent)[1]


def test_dead_letters_of_a_store_are_listed_and_dismissed(store: Path) -> None:
    """--all of a tenant, --everywhere with the names; a store alone is not enough to list everything."""

    def ran(*arguments: str) -> tuple[int, str, str]:
        return chatkeep(*arguments, folder=store.parent)

    whole, everywhere = ran("dead", "chat.db", "--all"), ran("dead", "chat.db", "--everywhere", "--json")
    other, short = ran("dead", "chat.db", "--all", "--tenant", "salon"), ran("dead", "chat.db")
    wrong, dismissed = ran("dismiss", "chat.db", "bob", "2"), ran("dismiss", "chat.db", "bob", "1")
    after = ran("dead", "chat.db", "--everywhere")

    assert ["bob"] == whole[1].splitlines()[:1]
    assert "ValueError: tick" in whole[1]
    assert [("", "bob", 1)] == [
        (m["tenant"], m["conversation"], m["number"]) for m in map(json.loads, everywhere[1].splitlines())
    ]
    assert ("Nothing was set aside.\n", 2) == (other[1], short[0])
    assert (2, True) == (wrong[0], "was not set aside" in wrong[2])
    assert (0, "Nothing was set aside.\n") == (dismissed[0], after[1])


def test_redacting_asks_first_and_is_shown(store: Path) -> None:
    """In the history and in the export; what is not there is refused."""

    def ran(*arguments: str) -> tuple[int, str, str]:
        return chatkeep(*arguments, folder=store.parent)

    unasked, wrong = ran("redact", "chat.db", "bob", "1"), ran("redact", "chat.db", "bob", "99", "--yes")
    done = ran("redact", "chat.db", "bob", "1", "--yes")
    history, export = ran("history", "chat.db", "bob"), ran("history", "chat.db", "bob", "--json")

    assert (1, 2) == (unasked[0], wrong[0])
    assert "no message 99" in wrong[2]
    assert (0, "Message 1 is redacted.\n") == done[:2]
    assert "[redacted]" in history[1].splitlines()[0]
    assert "bomb" not in history[1] + export[1]
    assert [True] == [line["redacted"] for line in map(json.loads, export[1].splitlines()) if line["number"] == 1]


def test_erasing_asks_first(store: Path) -> None:
    """No answer or no: nothing is gone. --yes: everything is."""
    asked = chatkeep("erase", "chat.db", "eve", folder=store.parent)
    refused = chatkeep("erase", "chat.db", "eve", typed="n\n", folder=store.parent)
    there = chatkeep("show", "chat.db", "eve", folder=store.parent)
    done = chatkeep("erase", "chat.db", "eve", "--yes", folder=store.parent)
    gone = chatkeep("show", "chat.db", "eve", folder=store.parent)

    assert [1, 1, 0, 0, 1] == [found[0] for found in (asked, refused, there, done, gone)]
    assert 1 == chatkeep("erase", "chat.db", "eve", "--yes", folder=store.parent)[0]


def test_a_user_is_erased_with_a_receipt(tmp_path: Path) -> None:
    """As a person reads it and as JSON; a conversation and a user are not named together."""
    keep = Chatkeep(f"sqlite:///{tmp_path}/chat.db")
    keep.on_message(count)

    async def fill() -> None:
        async with keep:
            for name in ("trip", "shop"):
                await keep.receive(name, "hello", owner="ada")

    asyncio.run(fill())
    both = chatkeep("erase", "chat.db", "trip", "--user", "ada", folder=tmp_path)
    neither = chatkeep("erase", "chat.db", folder=tmp_path)
    refused = chatkeep("erase", "chat.db", "--user", "ada", typed="n\n", folder=tmp_path)
    done = chatkeep("erase", "chat.db", "--user", "ada", "--yes", folder=tmp_path)
    receipt = json.loads(chatkeep("erase", "chat.db", "--user", "ada", "--yes", "--json", folder=tmp_path)[1])
    audit = chatkeep("audit", "chat.db", folder=tmp_path)[1]

    assert [2, 2, 1, 0] == [found[0] for found in (both, neither, refused, done)]
    assert "with 2 conversations" in refused[1]
    assert "2 conversations with 4 log entries" in done[1]
    assert ("ada", []) == (receipt["user"], receipt["conversations"])
    assert "user:erase" in audit


def test_a_state_that_cannot_be_read_is_cleared(store: Path) -> None:
    """`forget` asks first, and needs no type: the slot that is wrong, or all of it; the bot then reads it again."""

    class Loose(msgspec.Struct):
        seats: Any = 1
        name: str = ""

    class Order(msgspec.Struct):
        seats: int = 1
        name: str = ""

    url = f"sqlite:///{store}"

    async def spoil() -> None:
        async with Chatkeep(url, state=Loose) as keep:
            for name in ("kim", "lee"):
                await keep.change(name, lambda state, name=name: Loose("two", name))

    async def states() -> list[Order]:
        async with Chatkeep(url, state=Order) as keep:
            found = [await keep.conversation(name) for name in ("kim", "lee")]
            return [conversation.state for conversation in found if conversation is not None]

    asyncio.run(spoil())
    with pytest.raises(Corrupt):
        asyncio.run(states())
    refused = chatkeep("clear", "chat.db", "kim", "--slot", "seats", typed="n\n", folder=store.parent)
    shown = chatkeep("show", "chat.db", "kim", folder=store.parent)
    slot = chatkeep("clear", "chat.db", "kim", "--slot", "seats", "--yes", folder=store.parent)
    whole = chatkeep("clear", "chat.db", "lee", "--yes", folder=store.parent)

    assert (1, True) == (refused[0], '"two"' in shown[1])
    assert (0, "Slot 'seats' of kim is cleared.\n") == slot[:2]
    assert (0, "The state of lee is cleared.\n") == whole[:2]
    assert [Order(1, "kim"), Order()] == asyncio.run(states())
    assert 1 == chatkeep("clear", "chat.db", "nobody", "--yes", folder=store.parent)[0]


def test_what_is_damaged_can_be_erased(store: Path) -> None:
    """It cannot be shown, and that is no reason to keep it."""
    with contextlib.closing(sqlite3.connect(store)) as db, db:
        db.execute("update conversation set body = x'01' where id = 'eve'")
    shown = chatkeep("show", "chat.db", "eve", folder=store.parent)
    done = chatkeep("erase", "chat.db", "eve", "--yes", folder=store.parent)

    assert (4, 0) == (shown[0], done[0])
    assert 1 == chatkeep("show", "chat.db", "eve", folder=store.parent)[0]


STEERS = set("\x1b\x07\u202e\x9b\u2028")
"""Characters of what was said that must not be printed."""


def test_an_export_is_for_its_owner_alone(store: Path) -> None:
    """Also where somebody has put a link in its place."""
    made, victim = store.parent / "all.jsonl", store.parent / "victim"
    made.symlink_to(victim)
    victim.write_text("mine")
    code, _, said = chatkeep("export", "chat.db", "-o", "all.jsonl", "--replace", folder=store.parent)

    assert 0 == code, said
    assert ("mine", False, 0o600) == (victim.read_text(), made.is_symlink(), made.stat().st_mode & 0o777)


def test_an_export_to_where_no_file_can_be_is_refused_in_words(store: Path) -> None:
    """Of everything and of a person: a folder that is not there."""
    for which in ((), ("--owner", "ada")):
        code, out, said = chatkeep("export", "chat.db", *which, "-o", "gone/all.jsonl", folder=store.parent)

        assert (2, "") == (code, out)
        assert said.startswith("chatkeep: gone/all.jsonl cannot be made: No such file or directory")


def test_two_exports_to_one_file_are_each_whole_or_not_there(tmp_path: Path) -> None:
    """The last one that ends wins, if it may replace what is there; else it is refused, and leaves nothing."""
    made, late = tmp_path / "all.jsonl", contextlib.ExitStack()
    late.enter_context(whole_file(str(made), replace=False)).write(b"the first")
    with whole_file(str(made), replace=False) as second:
        second.write(b"the second")
    with pytest.raises(UsageError, match="was made by somebody else meanwhile"):
        late.close()
    kept = made.read_bytes()
    with whole_file(str(made), replace=True) as first:
        first.write(b"the first")
        with contextlib.suppress(KeyError), whole_file(str(made), replace=True) as second:
            second.write(b"half of the sec")
            raise KeyError

    assert (b"the second", b"the first", ["all.jsonl"]) == (kept, made.read_bytes(), os.listdir(tmp_path))


def test_what_a_killed_export_has_left_goes_with_the_next_one(tmp_path: Path) -> None:
    """But nothing that another process makes just now, and no file of another name."""
    script = (
        "import sys; from chatkeep.cli.archives import whole_file\n"
        "with whole_file(sys.argv[1], replace=False) as file:\n"
        "    file.write(b'half'); file.flush(); print('begun', flush=True); sys.stdin.read()"
    )
    made, others = tmp_path / "all.jsonl", tmp_path / "all.jsonl.bak.0a1b2c3d.part"
    others.write_bytes(b"somebody's")

    def begun() -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(made)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert process.stdout is not None
        assert "begun\n" == process.stdout.readline()
        return process

    killed, working = begun(), begun()
    killed.kill()
    killed.communicate()
    with whole_file(str(made), replace=False) as file:
        file.write(b"whole")
        there = sorted(os.listdir(tmp_path))
    working.communicate("")

    assert 3 == len(there), there
    assert (b"whole", 2) == (made.read_bytes(), len(os.listdir(tmp_path)))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="NOT RUN: this system has no disk that is always full")
@pytest.mark.parametrize("command", ["list", "export"])
def test_output_that_has_no_room_is_told_in_one_line(store: Path, command: str) -> None:
    """And the next one may say so too: "try again"."""
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [*PROGRAM, command, store.name],
            cwd=store.parent,
            env=plain_environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=PATIENCE_S,
        )

    assert 3 == ended.returncode
    assert "is not complete: No space left on device" in ended.stderr
    assert 1 == len(ended.stderr.splitlines()), ended.stderr


def test_what_people_wrote_cannot_steer_the_terminal(store: Path) -> None:
    """Escape sequences and direction marks are shown as text, in logs and in reasons."""
    for command in (("show", "eve"), ("history", "eve"), ("dead", "bob"), ("show", "bob"), ("history", "bob")):
        code, said, _ = chatkeep(command[0], "chat.db", command[1], folder=store.parent)

        assert 0 == code
        assert not STEERS & set(said)
        assert "\\x1b" in said


def test_json_cannot_steer_the_terminal_either(store: Path) -> None:
    """What programs read is what was written, in another spelling."""
    code, said, _ = chatkeep("history", "chat.db", "eve", "--json", folder=store.parent)

    assert 0 == code
    assert not STEERS & set(said)
    assert "\x1b]0;owned\x07 red \u202e \x9b31m \u2028" == json.loads(said.splitlines()[0])["content"]


def test_errors_say_what_to_do_and_how_the_program_ends(tmp_path: Path) -> None:
    """One line, no traceback, no file made, and the exit code of its kind."""
    (tmp_path / "junk.db").write_bytes(b"this is not a database, it is a text" * 100)
    (tmp_path / "folder.db").mkdir()
    table: dict[tuple[str, ...], tuple[int, str]] = {
        ("list", "missing.db"): (2, "nothing was created"),
        ("show", "sqlite:///missing.db", "ada"): (2, "nothing was created"),
        ("history", "missing.db", "ada"): (2, "nothing was created"),
        ("erase", "missing.db", "ada", "--yes"): (2, "nothing was created"),
        ("list", "folder.db"): (2, "There is no file"),
        ("list", ":hunter2@here:6379/0"): (2, "There is no file …@here:6379/0;"),
        ("move", "bot:hunter2@here/0", "new.db"): (2, "There is no file …@here/0;"),
        ("list", "mongodb://here"): (2, "no driver"),
        ("list", "junk.db"): (2, "not a database"),
        ("demo", "--store", "junk.db"): (2, "not a database"),
        ("chat", "restaurant", "--store", "junk.db"): (2, "not a database"),
        ("chat", "waiter"): (2, "restaurant"),
        ("chat", "restaurant", "--conversation", ""): (2, "empty"),
        ("demo", "waiter"): (2, "restaurant"),
        ("nonsense",): (2, "No such command"),
    }
    before = sorted(tmp_path.iterdir())
    found = {arguments: chatkeep(*arguments, typed="x\n", folder=tmp_path) for arguments in table}

    for arguments, (code, words) in table.items():
        assert (code, True) == (found[arguments][0], words in found[arguments][2]), (arguments, found[arguments])
        assert "Traceback" not in found[arguments][2]
        assert "hunter2" not in found[arguments][2]
    assert before == [path for path in sorted(tmp_path.iterdir()) if not path.name.startswith("chatkeep-demo")]


def test_the_help_teaches(tmp_path: Path) -> None:
    """Each command says what it does, and the first page has examples and exit codes."""
    code, said, _ = chatkeep("--help", folder=tmp_path)
    commands = ["demo", "chat", "list", "show", "history", "erase", "clear", "pause", "resume", "dead", "replay"]

    assert 0 == code
    assert all(f"\n  {name} " in said for name in commands)
    assert "Exit codes" in said
    assert "chatkeep demo " in said
    for name in commands:
        code, said, _ = chatkeep(name, "--help", folder=tmp_path)
        assert (0, True) == (code, "Usage: chatkeep " + name in said)
    assert chatkeep("--version", folder=tmp_path)[1].startswith("chatkeep, version ")


def test_looking_needs_no_server_libraries(tmp_path: Path) -> None:
    """Only the demo imports them, and says what to install when they are missing."""
    code = (
        "import sys; sys.modules['uvicorn'] = None; from chatkeep.cli import main; print('starlette' in sys.modules);"
        "main(['demo'], prog_name='chatkeep')"
    )
    done = subprocess.run([PROGRAM[0], "-c", code], capture_output=True, cwd=tmp_path, timeout=PATIENCE_S, text=True)

    assert 2 == done.returncode
    assert "False" == done.stdout.strip()
    assert "chatkeep[server]" in done.stderr
    assert [] == list(tmp_path.iterdir())


def test_check_says_whether_a_store_is_fit(tmp_path: Path, valkey: Any, postgres: Any) -> None:
    """In words and as JSON; nothing is made by asking, and no password is shown."""
    fit = [chatkeep("check", url, folder=tmp_path) for url in ("chat.db", valkey.url, postgres.url)]
    named = chatkeep("check", "--json", valkey.url, folder=tmp_path)

    assert [0, 0, 0] == [code for code, _, _ in fit]
    assert ["fit: sqlite:///chat.db", "fit: redis", "fit: postgresql"] == [
        said.splitlines()[-1][: len(start)]
        for (_, said, _), start in zip(fit, ("fit: sqlite:///chat.db", "fit: redis", "fit: postgresql"), strict=True)
    ]
    assert postgres.password not in fit[2][1]
    assert [] == list(tmp_path.iterdir())
    assert {"level", "subject", "said"} == set(json.loads(named[1].splitlines()[0]))


@pytest.mark.server
def test_check_finds_what_makes_a_store_unfit(tmp_path: Path) -> None:
    """A cache is only warned of, unless asked to be strict; what evicts, or is not there, is not fit."""
    folders = [tmp_path / name for name in ("loose", "evicting")]
    for folder in folders:
        folder.mkdir()
    evicting = ("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")
    with (
        RedisServer("redis-6", folders[0], "--appendfsync", "everysec") as loose,
        RedisServer("valkey-9", folders[1], *evicting) as cache,
    ):
        codes = [
            chatkeep("check", *arguments, folder=tmp_path)[0]
            for arguments in ((loose.url,), ("--strict", loose.url), (cache.url,))
        ]
        warned = chatkeep("check", loose.url, folder=tmp_path)[1]
    code, said, _ = chatkeep("check", "postgresql://ann:pass-word@127.0.0.1:1/x", folder=tmp_path)

    assert [0, 7, 7] == codes
    assert "appendfsync everysec" in warned
    assert "fit, with 1 to look at" in warned
    assert (7, True, False) == (code, "not fit" in said, "pass-word" in said)


@pytest.mark.parametrize("kind", ["redis", "postgresql"])
def test_a_shared_store_can_be_looked_into(request: pytest.FixtureRequest, tmp_path: Path, kind: str) -> None:
    """The same commands, another URL."""
    url = store_url(kind, request, tmp_path)
    told = chatkeep("chat", "restaurant", "--store", url, typed="2 margherita\n", folder=tmp_path)
    listed = chatkeep("list", url, folder=tmp_path)
    shown = chatkeep("history", url, "terminal", folder=tmp_path)
    nobody = chatkeep("show", url, "nobody", folder=tmp_path)

    assert (0, 0, 0) == (told[0], listed[0], shown[0])
    assert "terminal" in listed[1]
    assert "2 margherita" in shown[1]
    assert (1, False) == (nobody[0], ":secret@" in nobody[2])


def test_a_backup_is_a_store_and_replaces_nothing_unasked(tmp_path: Path) -> None:
    """By another process than the bot's."""
    chatkeep("chat", "restaurant", "--store", "chat.db", typed="3 funghi\n", folder=tmp_path)
    first = chatkeep("backup", "chat.db", "copy.db", folder=tmp_path)
    again = chatkeep("backup", "chat.db", "copy.db", folder=tmp_path)
    replaced = chatkeep("backup", "chat.db", "copy.db", "--replace", folder=tmp_path)
    listed = [chatkeep("list", store, folder=tmp_path)[1] for store in ("chat.db", "copy.db")]

    assert (0, "chat.db is copied to copy.db.\n", "") == first
    assert (2, 0) == (again[0], replaced[0])
    assert "copy.db is there already; nothing was written" in again[2]
    assert "--replace" in again[2]
    assert listed[0]
    assert listed[0] == listed[1]
    assert {"copy.db"} == {file.name for file in tmp_path.iterdir() if not file.name.startswith("chat")}


async def test_a_backup_of_what_is_no_file_is_refused(tmp_path: Path) -> None:
    """It says how."""
    async with Chatkeep[Any]("memory://") as keep:
        with pytest.raises(UsageError, match=r"was not written\. Use sqlite"):
            await keep.backup(tmp_path / "other.db")

    assert [] == list(tmp_path.iterdir())
