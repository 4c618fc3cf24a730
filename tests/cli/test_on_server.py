"""Commands on a running server, as processes of their own: what they print and how they end is as on its store."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

import pytest

from chatkeep import Chatkeep
from chatkeep.client import SyncClient

from ..support import fork_server
from ..support.program import PATIENCE_S, PROGRAM, killed_when_late, plain_environment
from ..support.service import service

BOT = """
from chatkeep import Chatkeep
keep = Chatkeep({url!r}, attempts=1, poll="50ms")

@keep.on_message
async def bot(turn):
    if "bad" in turn.text:
        raise ValueError("a bug")
    turn.state["n"] = turn.state.get("n", 0) + 1
    return "you said " + turn.text
"""


class Place(NamedTuple):
    """A server, its store, and a key of its default tenant."""

    folder: Path
    url: str
    key: str

    def ran(self, *arguments: str, key: str | None = None, typed: str = "", **more: str) -> tuple[int, str, str]:
        """Runs a command with the key in the environment: exit code, output, errors."""
        environment = {name: value for name, value in plain_environment().items() if not name.startswith("CHATKEEP_")}
        environment |= {"CHATKEEP_KEY": self.key if key is None else key} | more
        code, said, errors = fork_server.run(
            *arguments, folder=self.folder, environment=environment, within=PATIENCE_S, typed=typed.encode()
        )
        return code, said.decode(), errors.decode()

    def made(self, *options: str) -> str:
        """A new key."""
        code, said, errors = self.ran("key", "create", "chat.db", *options)
        assert 0 == code, errors
        return said.strip()

    def client(self) -> SyncClient:
        """Somebody who has the key."""
        return SyncClient(self.url, self.key)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Conversations with a state; in one of them a message was set aside, in another the bot is paused."""
    folder = tmp_path_factory.mktemp("place")
    with service(folder, bot=BOT) as running:
        found = Place(folder, f"http://127.0.0.1:{running.port}", "")
        running.wait_for("Uvicorn running|Serving")
        while found.ran("list", "chat.db")[0]:
            assert running.process.poll() is None, running.log
        found = found._replace(key=found.made("--label", "ops"))
        with found.client() as client:
            for n in range(4):
                client.create(f"c{n}", owner="ada" if n else "bob")
                client.conversation(f"c{n}").send(f"A GEL manicure, number {n}")
            client.conversation("c0").accept("bad")
            while not list(client.desk.dead_letters("c0")):
                pass
            client.desk.pause("c1")
            client.conversation("c1").accept("anybody?")
        yield found


ALIKE = [
    "list",
    "list --json",
    "list --limit 2",
    "list --show failing --json",
    "list --show waiting",
    "list --show off --utc",
    "list --owner ada --json",
    "list --owner nobody",
    "list --since 1d",
    "show c0",
    "show c0 --json",
    "show c1 --json --utc",
    "history c0",
    "history c0 --json",
    "history c0 --after 2 --limit 1",
    "history c0 --before 4 --limit 2 --json",
    "dead c0",
    "dead c0 --json",
    "dead --all",
    "deliveries c0",
    "doubts c0",
    "search GEL",
    "search ada --json",
    "search nothing-like-that",
    "stats",
    "stats --json",
    "holds",
    "paused",
    "paused --json",
    "audit --json --limit 1",
    "export --tenant= --conversation c1",
    "export --tenant=",
    "redact c0 999 --yes",
    "replay c0 1",
    "dismiss c0 2",
    "resend c0 1",
    "settle c0 0123456789abcdef.0 --not-done",
    "unhold c0",
]


@pytest.mark.parametrize("command", ALIKE)
def test_a_server_is_told_of_as_its_store_is(place: Place, command: str) -> None:
    """The same output and the same exit code, to the byte."""
    word, *arguments = command.split()
    on_store = place.ran(word, "chat.db", *arguments)
    on_server = place.ran(word, place.url, *arguments)

    assert on_store[:2] == on_server[:2]


@pytest.mark.parametrize("command", ["show", "history", "dead", "deliveries", "pause", "stop", "erase"])
def test_what_is_not_there_ends_alike(place: Place, command: str) -> None:
    on_store = place.ran(command, "chat.db", "nobody")
    on_server = place.ran(command, place.url, "nobody")

    assert (1, 1) == (on_store[0], on_server[0])
    assert on_store[2].replace("chat.db", place.url) == on_server[2]


def test_a_conversation_is_looked_after_through_a_server(place: Place) -> None:
    """Taken over, written in, handed back, stopped, redacted, cleared, erased; each act is in the audit log under the key."""
    with place.client() as client:
        client.create("kim")
        client.conversation("kim").send("my card is 4111 1111")
    said = [
        place.ran("pause", place.url, "kim")[1],
        place.ran("say", place.url, "kim", "Kim here", "--author", "Kim")[1],
        place.ran("resume", place.url, "kim", "--skip")[1],
        place.ran("stop", place.url, "kim")[1],
        place.ran("redact", place.url, "kim", "2", "--yes")[1],
        place.ran("clear", place.url, "kim", "--yes")[1],
    ]
    log = place.ran("history", "chat.db", "kim")[1]
    shown = json.loads(place.ran("show", "chat.db", "kim", "--json")[1])
    declined = place.ran("erase", place.url, "kim", typed="n\n")
    erased = place.ran("erase", place.url, "kim", "--yes")
    gone = place.ran("show", "chat.db", "kim")[0]
    acts = [json.loads(line) for line in place.ran("audit", place.url, "--json")[1].splitlines()]

    assert "The bot is paused: kim." in said[0]
    assert "is in the log" in said[1]
    assert "The bot answers: kim." in said[2]
    assert "Nothing was stopped" in said[3]
    assert "Message 2 is redacted." in said[4]
    assert "The state of kim is cleared." in said[5]
    assert "Kim here" in log
    assert "user       [redacted]" in log
    assert {} == shown["state"]
    assert 1 == declined[0]
    assert (0, "kim is erased.\n") == erased[:2]
    assert 1 == gone
    assert ["erase", "state", "redact", "stop", "resume", "say", "pause", "create"] == [
        act["act"] for act in acts if act.get("conversation") == "kim"
    ]
    assert {"ops"} == {act["label"] for act in acts if act.get("conversation") == "kim"}


def test_a_message_that_was_set_aside_is_replayed_and_a_user_erased(place: Place) -> None:
    with place.client() as client:
        client.create("eve-1", owner="eve")
        client.conversation("eve-1").accept("bad")
        while not (letters := list(client.desk.dead_letters("eve-1"))):
            pass
    again = place.ran("replay", place.url, "eve-1", str(letters[0].number))
    asked = place.ran("erase", place.url, "--user", "eve", typed="y\n")
    receipt = json.loads(place.ran("erase", place.url, "--user", "eve", "--yes", "--json")[1])

    assert 0 == again[0], again[2]
    assert "is in the log again" in again[1]
    assert "Erase eve with 1 conversation for ever?" in asked[1]
    assert "1 conversation with" in asked[1]
    assert [] == receipt["conversations"]


def test_a_hold_is_put_and_lifted_through_a_server(place: Place) -> None:
    """What is on hold is not erased, through the server or on the store."""
    put = place.ran("hold", place.url, "c2", "--reason", "case 4711")
    refused = [place.ran("erase", where, "c2", "--yes") for where in (place.url, "chat.db")]
    listed = place.ran("holds", "chat.db")[1]
    lifted = place.ran("unhold", place.url, "c2")
    none = place.ran("unhold", place.url, "c2")

    assert "On hold is conversation 'c2'" in put[1]
    assert [2, 2] == [code for code, *_ in refused]
    assert "case 4711" in listed
    assert "Lifted: conversation 'c2'." in lifted[1]
    assert 1 == none[0]


def test_an_export_through_a_server_is_imported_and_alike(place: Place) -> None:
    """Only the key's tenant, without credentials; and the copy has what the store has."""
    code, _, told = place.ran("export", place.url, "-o", "copy.jsonl")
    read = place.ran("import", "copy.db", "copy.jsonl")
    alike = [place.ran("history", name, "c0", "--json")[1] for name in ("chat.db", "copy.db")]

    assert 0 == code, told
    assert "conversations and records with" in told
    assert "~access" not in (place.folder / "copy.jsonl").read_text()
    assert 0 == read[0], read[2]
    assert alike[0] == alike[1]


def test_a_tail_follows_a_server(place: Place) -> None:
    """What is said is shown, in one conversation and in all."""
    environment = plain_environment() | {"CHATKEEP_KEY": place.key}
    for arguments, count in ((("c3", "--last", "1"), 2), ((), 2)):
        command = [*PROGRAM, "tail", place.url, *arguments]
        with (
            subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            ) as tail,
            killed_when_late(tail),  # type: ignore[arg-type]
        ):
            assert tail.stdout is not None
            assert tail.stderr is not None
            first = [tail.stdout.readline()] if arguments else [tail.stderr.readline()]
            place.ran("say", place.url, "c3", f"Kim, {len(arguments)}")
            lines = first + [tail.stdout.readline() for _ in range(count - 1 if arguments else count)]
            tail.terminate()

        assert f"Kim, {len(arguments)}" in lines[-1]


REFUSED = {
    "accounts list": "anybody in",
    "backup {} x.db": "file",
    "cache {}": "all tenants",
    "canary {}": "all tenants",
    "check {}": "examines the store",
    "fork {} c0 copy": "rows",
    "import {} -": "rules",
    "key list {}": "after its end",
    "move {} other.db": "closes the store",
    "reseal {}": "keys",
    "retention {}": "all tenants",
    "export {} --owner ada -o ada.zip": "put together where the store is",
    "dead {} --everywhere": "one tenant",
}


@pytest.mark.parametrize("command", REFUSED)
def test_what_a_server_does_not_do_is_said_by_name(place: Place, command: str) -> None:
    words = (command if "{}" in command else f"{command} {{}}").format(place.url).split()
    code, _, told = place.ran(*words)

    assert 2 == code
    assert "over HTTP" in told
    assert REFUSED[command] in told


def test_a_key_is_needed_and_says_whose_conversations(place: Place) -> None:
    """Without one, with a wrong one, with a token, of another tenant, with too few rights: nothing is done, and the next step is named."""
    no_key = place.ran("list", place.url, key="")
    wrong = place.ran("list", place.url, key="ck_k_wrong")
    with place.client() as client:
        token = client.conversation("c0").issue(scopes=["read"]).token
    tokened = place.ran("list", place.url, key=token)
    salon = place.made("--tenant", "salon")
    other = place.ran("show", place.url, "c0", key=salon)
    named = place.ran("list", place.url, "--tenant", "salon")
    reading = place.made("--scope", "list", "--scope", "read")
    may_not = place.ran("erase", place.url, "c3", "--yes", key=reading)
    lists = place.ran("list", place.url, key=reading)
    (place.folder / "key").write_text(place.key + "\n")
    by_file = place.ran("list", place.url, key="", CHATKEEP_KEY_FILE=str(place.folder / "key"))
    by_name = place.ran("show", "c0", CHATKEEP_STORE=place.url)
    away = place.ran("list", "http://127.0.0.1:1")
    secured = place.ran("list", place.url.replace("http:", "https:"))
    lost = place.ran("list", f"{place.url}/chat")

    assert (2, True) == (no_key[0], "CHATKEEP_KEY_FILE" in no_key[2])
    assert (2, True) == (wrong[0], "chatkeep key create" in wrong[2])
    assert (2, True) == (tokened[0], "service key" in tokened[2])
    assert 1 == other[0]
    assert (2, True) == (named[0], "not for 'salon'" in named[2])
    assert (2, True) == (may_not[0], "the right 'erase'" in may_not[2])
    assert [0, 0, 0] == [lists[0], by_file[0], by_name[0]], (lists, by_file, by_name)
    assert (3, True) == (away[0], "is not reached: Cannot connect" in away[2])
    assert (2, True) == (lost[0], f"There is no chatkeep server at {place.url}/chat" in lost[2]), lost
    assert (2, True) == (secured[0], f"http is spoken there; nothing was done. Write {place.url}." in secured[2])


class ToHttps(BaseHTTPRequestHandler):
    """As a proxy is at port 80: sends everybody on to https."""

    def do_GET(self) -> None:
        self.send_response(301)
        self.send_header("Location", f"https://{self.headers['Host']}{self.path}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""


def test_what_is_wrong_with_https_is_told_and_not_what_http_answers(place: Place) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), ToHttps) as proxy:
        Thread(target=proxy.serve_forever, daemon=True).start()
        url = f"https://127.0.0.1:{proxy.server_port}"
        refused = place.ran("list", url)
        proxy.shutdown()

    assert (3, True) == (refused[0], f"{url} is not reached: Cannot connect" in refused[2]), refused


class OtherApi(BaseHTTPRequestHandler):
    """Another program, which answers everything with JSON of its own."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", "8")
        self.end_headers()
        self.wfile.write(b'{"a": 1}')

    def log_message(self, *_: object) -> None:
        """Nothing."""


def test_nothing_is_said_to_be_missing_or_done_where_another_program_answers(place: Place) -> None:
    """Exit code 5, for nobody knows what it has done, and never 1: not found."""
    with ThreadingHTTPServer(("127.0.0.1", 0), OtherApi) as other:
        Thread(target=other.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{other.server_port}"
        shown, listed = place.ran("show", url, "c0"), place.ran("list", url)
        other.shutdown()

    for code, _, told in (shown, listed):
        assert (5, True) == (code, "Is it a chatkeep server" in told), told
        assert "perhaps it was done" in told, told


def test_everywhere_takes_a_key_that_may(place: Place) -> None:
    refused = place.ran("pause", place.url, "--everywhere")
    key = place.made("--everywhere")
    paused = place.ran("pause", place.url, "--everywhere", key=key)
    listed = place.ran("paused", place.url)
    resumed = place.ran("resume", place.url, "--everywhere", key=key)

    assert 2 == refused[0]
    assert (0, "The bot is paused: everywhere.\n") == paused[:2]
    assert listed[1].startswith("everywhere\n")
    assert (0, "The bot answers: everywhere.\n") == resumed[:2]


def test_many_conversations_are_listed_page_by_page(place: Place) -> None:
    """More than a page, each once, in the same order as on the store."""

    async def fill() -> None:
        from chatkeep.client import Client

        async with Client(place.url, place.made("--tenant", "many")) as client:
            await asyncio.gather(*(client.create(f"m{n:03}") for n in range(230)))

    asyncio.run(fill())
    key = place.made("--tenant", "many")
    on_server = place.ran("list", place.url, "--limit", "1000", "--json", key=key)[1].splitlines()
    on_store = place.ran("list", "chat.db", "--tenant", "many", "--limit", "1000", "--json")[1].splitlines()

    assert 230 == len(on_server)
    assert on_store == on_server


def test_a_person_s_change_is_undone_and_the_past_is_looked_at(place: Place) -> None:
    """On the store and on the server alike: the log and the state as of a number, of a time; and what cannot be known is said."""

    async def fill() -> list[int]:
        keep: Chatkeep[Any] = Chatkeep(f"sqlite:///{place.folder}/chat.db", on_outage="refuse")
        async with keep:
            await keep.create("old")
            await keep.change("old", lambda state: state.update(cart=["tea"]), by="Kim")
            await keep.change("old", lambda state: state.update(cart=[]), by="Kim")
            return [entry.number async for entry in keep.history("old")]

    *_, first, second = asyncio.run(fill())
    with place.client() as client:
        client.conversation("old").send("and now?")
    shown = [place.ran("show", where, "old", "--as-of", str(first)) for where in ("chat.db", place.url)]
    as_json = [place.ran("show", where, "old", "--as-of", str(first), "--json") for where in ("chat.db", place.url)]
    now = json.loads(place.ran("show", place.url, "old", "--as-of", "0s", "--json")[1])
    before = place.ran("history", place.url, "old", "--as-of", "1d")
    too_early = place.ran("show", place.url, "old", "--as-of", "1d")[1]
    short = [place.ran("history", where, "old", "--as-of", str(first))[1] for where in ("chat.db", place.url)]
    nonsense = place.ran("show", place.url, "old", "--as-of", "yesterday")
    log = place.ran("history", place.url, "old")[1]
    undone = place.ran("undo", place.url, "old", str(second))
    again = place.ran("undo", "chat.db", "old", str(second))
    state = json.loads(place.ran("show", place.url, "old", "--json")[1])["state"]
    none = [place.ran("undo", where, "old", "1") for where in ("chat.db", place.url)]

    assert shown[0] == shown[1]
    assert "Only these slots are known: a turn came later" in shown[0][1]
    assert as_json[0] == as_json[1]
    assert {"cart": ["tea"]} == json.loads(as_json[0][1])["state"]
    assert (True, {"cart": [], "n": 1}) == (now["complete"], now["state"])
    assert (0, "") == before[:2]
    assert ["The log has nothing of that time."] == too_early.splitlines()[2:]
    assert short[0] == short[1]
    assert first == len(short[0].splitlines())
    assert (2, True) == (nonsense[0], "--as-of is a number" in nonsense[2])
    assert 'Kim changed: cart ["tea"] -> []' in log
    assert (0, f"The change of entry {second} is undone.\n") == undone[:2], undone
    assert 0 == again[0]
    assert {"cart": ["tea"], "n": 1} == state
    assert [2, 2] == [code for code, *_ in none]


def test_the_parts_of_a_server_are_told(place: Place) -> None:
    """In columns and as JSON, also by the client; a store has no process to ask."""
    told = place.ran("stats", place.url, "--parts")
    as_json = json.loads(place.ran("stats", place.url, "--parts", "--json")[1])
    on_store = place.ran("stats", "chat.db", "--parts")
    with place.client() as client:
        found = client.desk.stats()

    assert 0 == told[0]
    assert {"store.engine", "cache.bytes", "engine.turns", "sweeper.running", "streams.watching", "server.streams"} <= {
        line.split()[0] for line in told[1].splitlines()
    }
    assert as_json["engine"]["turns"] >= 4
    assert found.engine.turns >= 4
    assert 0 == found.server.streams
    assert (2, True) == (on_store[0], "a store is none" in on_store[2])


def test_a_key_that_may_only_switch_resumes(place: Place) -> None:
    """It was done, and the command failed: it asked what else is paused, which this key may not know."""
    key = place.made("--scope", "switch")
    paused, resumed = (place.ran(verb, place.url, "--all", key=key) for verb in ("pause", "resume"))

    assert (0, 0) == (paused[0], resumed[0])
    assert "The pause is lifted: tenant ''. Whether another one stands, this key may not know.\n" == resumed[1]
