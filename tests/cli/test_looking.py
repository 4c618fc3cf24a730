"""Looking at many conversations, as a process of its own: as things happen, for words that were said, and in numbers."""

from __future__ import annotations

import json
import secrets
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from chatkeep import Chatkeep, Turn
from chatkeep.testing.servers import PostgresServer

from ..support.odd_metadata import ODD
from ..support.program import PATIENCE_S, PROGRAM, chatkeep, killed_when_late, plain_environment
from ..support.waiting import until


@pytest.fixture
async def store(tmp_path: Path) -> Path:
    """Two tenants; one message was set aside, one waits."""
    keep = Chatkeep(f"sqlite:///{tmp_path}/chat.db", attempts=1)

    @keep.on_message
    async def answer(turn: Turn) -> str:
        if "bad" in turn.text:
            raise ValueError("a bug")
        return f"You said {turn.text}"

    async with keep:
        for n in range(3):
            await keep.receive(f"c{n}", f"A GEL manicure, number {n}", owner="ada" if n else "bob")
        await keep.tenant("salon").receive("x", f"{'before ' * 20}Straße{' behind' * 20}")
        await keep.accept("c0", "bad")
        await until(lambda: keep.dead_letters("c0"))
        await keep.pause("c1")
        await keep.accept("c1", "anybody?")
    return tmp_path / "chat.db"


@contextmanager
def following(store: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """`chatkeep tail`, which Ctrl-C ends."""
    arguments = [*PROGRAM, "tail", store.name, *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with (
        subprocess.Popen(arguments, cwd=store.parent, env=plain_environment(), text=True, **pipes) as process,
        killed_when_late(process),
    ):
        try:
            yield process
        finally:
            process.send_signal(signal.SIGINT)
        assert 0 == process.wait(PATIENCE_S)


def lines(process: subprocess.Popen[str], count: int) -> list[str]:
    assert process.stdout is not None
    return [process.stdout.readline().rstrip("\n") for _ in range(count)]


def test_a_tail_begins_with_the_last_and_goes_on(store: Path) -> None:
    """What is said by another process is shown as it is said."""
    with following(store, "c2", "--last", "1") as process:
        first = lines(process, 1)
        chatkeep("say", store.name, "c2", "Kim here", folder=store.parent)
        second = lines(process, 1)

    assert ["You said A GEL manicure, number 2", "Kim here"] == [
        line.split("  ")[-1].strip() for line in first + second
    ]


def test_a_tail_of_all_shows_what_is_said_from_now_on(store: Path) -> None:
    """Each message once, with the conversation that it is from, also of one that is new."""
    with following(store, "--json") as process:
        said: list[tuple[str, str, str]] = []
        assert process.stderr is not None
        assert process.stderr.readline().startswith("What is said from now on")
        for tenant, conversation, text in (("salon", "x", "one"), ("", "c2", "two"), ("salon", "x", "three")):
            chatkeep("say", store.name, conversation, text, "--tenant", tenant, folder=store.parent)
            found = json.loads(lines(process, 1)[0])
            said.append((found["tenant"], found["conversation"], found["message"]["content"]))

    assert [("salon", "x", "one"), ("", "c2", "two"), ("salon", "x", "three")] == said


def test_words_are_found_where_they_were_said(store: Path) -> None:
    """The newest conversations first, whatever the case; around them some of what was said."""
    code, found, _ = chatkeep("search", store.name, "gel manicure", "--limit", "3", folder=store.parent)
    around = chatkeep("search", store.name, "STRASSE", "--limit", "1", folder=store.parent)[1]
    by_name = chatkeep("search", store.name, "c2", "--json", folder=store.parent)[1]
    by_owner = chatkeep("search", store.name, "bob", folder=store.parent)[1]
    none = chatkeep("search", store.name, "pedicure", folder=store.parent)
    other = chatkeep("search", store.name, "gel", "--tenant", "salon", folder=store.parent)[1]

    assert 0 == code
    assert 3 == len(found.splitlines())
    assert found.startswith("c1  ")
    assert around.startswith("salon/x  1  ")
    assert "before Straße behind" in around
    assert 2 == around.count("...")
    assert {"tenant": "", "conversation": "c2", "message": None} == json.loads(by_name)
    assert "c0\n" == by_owner
    assert (0, "Nothing was found.\n") == none[:2]
    assert "Nothing was found.\n" == other


def test_an_index_is_made_and_used(store: Path) -> None:
    """Words in any order, the beginning of the last one, without accents; names too; each message with the words is shown."""
    made = chatkeep("index", store.name, folder=store.parent)
    again = json.loads(chatkeep("index", store.name, "--json", folder=store.parent)[1])
    found = chatkeep("search", store.name, "number manic", folder=store.parent)[1].splitlines()
    all_tenants = chatkeep("search", store.name, "strasse behi", folder=store.parent)[1]
    other = chatkeep("search", store.name, "gel", "--tenant", "salon", folder=store.parent)[1]
    by_owner = chatkeep("search", store.name, "bob", folder=store.parent)[1]
    chatkeep("say", store.name, "c2", "something newer: zebra", folder=store.parent)
    newer = chatkeep("search", store.name, "zeb", folder=store.parent)[1]
    removed = chatkeep("index", store.name, "--remove", folder=store.parent)

    assert made[0] == 0
    assert "is complete" in made[1]
    assert again["on"]
    assert 6 == len(found)
    assert all_tenants.startswith("salon/x  1  ")
    assert ("Nothing was found.\n", "c0\n") == (other, by_owner)
    assert newer.startswith("c2  3  ")
    assert (0, f"{store.name} has no full-text index.\n") == removed[:2]


@pytest.mark.parametrize("indexed", [False, True])
async def test_a_customer_is_found_by_what_the_channel_tells(tmp_path: Path, indexed: bool) -> None:
    """Each conversation once, however often the customer has written; and each message of which a word was said."""
    keep = Chatkeep(f"sqlite:///{tmp_path}/chat.db")
    async with keep:
        for text in ("one pizza", "and a salad", "two pizza"):
            await keep.accept("whatsapp:1:US.7", text, metadata={"name": "Grace H.", "phone": "4917012345"})
    if indexed:
        assert 0 == chatkeep("index", "chat.db", folder=tmp_path)[0]
    told = [
        chatkeep("search", "chat.db", text, folder=tmp_path)[1].splitlines()
        for text in ("+49170", "grace", "grace pizza")
    ]

    assert [1, 1, 2] == [len(lines) for lines in told]
    assert all(lines[0].endswith("user  Grace H. 4917012345") for lines in told[:2]), told
    assert ["one pizza", "two pizza"] == [line.split("user  ")[1] for line in told[2]]


@pytest.mark.server
async def test_an_index_is_made_on_postgresql(postgres: PostgresServer, tmp_path: Path) -> None:
    """And removed; without one the logs are read."""
    url = f"{postgres.url}?schema=t{secrets.token_hex(6)}"
    async with Chatkeep(url) as keep:
        for n in range(3):
            await keep.accept(f"c{n}", f"A GEL manicure, number {n}", role="operator")
    made = chatkeep("index", url, folder=tmp_path)
    found = chatkeep("search", url, "number manic", folder=tmp_path)[1].splitlines()
    removed = chatkeep("index", url, "--remove", folder=tmp_path)
    without = chatkeep("search", url, "number manic", folder=tmp_path)[1].splitlines()

    assert made[0] == 0
    assert "is complete: " in made[1]
    assert ["c0  1", "c1  1", "c2  1"] == sorted(line[:5] for line in found)  # said in one second
    assert 0 == removed[0]
    assert removed[1].endswith(" has no full-text index.\n")
    assert sorted(found) == sorted(without)
    assert postgres.password not in made[1] + removed[1]


async def test_no_metadata_of_a_client_hides_a_log(tmp_path: Path) -> None:
    """Whatever they are: each command shows the conversation, and takes none of it for a note of chatkeep's own."""
    async with Chatkeep(f"sqlite:///{tmp_path}/chat.db") as keep:
        for metadata in ODD:
            await keep.accept("ada", "hello", metadata=metadata)
    commands = ["history", "show", "dead", "doubts", "deliveries"]
    ended = {
        command: chatkeep(command, "chat.db", "ada", *more, folder=tmp_path)
        for command in commands
        for more in ([], ["--as-of", "3"] if command in ("history", "show") else [])
    }

    assert dict.fromkeys(commands, (0, "")) == {name: (code, errors) for name, (code, _, errors) in ended.items()}
    assert len(ODD) == chatkeep("history", "chat.db", "ada", folder=tmp_path)[1].count("hello\n")


async def test_what_was_saved_says_so(tmp_path: Path) -> None:
    """A client has put it there, under any role."""
    async with Chatkeep(f"sqlite:///{tmp_path}/chat.db") as keep:
        await keep.save("ada", messages=[{"id": "m1", "content": "Granted.", "role": "operator"}])
    code, said, _ = chatkeep("history", "chat.db", "ada", folder=tmp_path)

    assert (0, "operator   Granted.  [saved, not said here]") == (
        code,
        said.strip().partition("  ")[2].partition("  ")[2],
    )


def test_a_person_says_something_or_nothing_is_written(store: Path) -> None:
    """An empty message would go out, and the customer would count as answered."""
    before = chatkeep("history", store.name, "c1", folder=store.parent)
    said = [chatkeep("say", store.name, "c1", text, folder=store.parent) for text in ("", " \n")]
    after = chatkeep("history", store.name, "c1", folder=store.parent)

    assert [2, 2] == [code for code, _, _ in said]
    assert all("TEXT is empty; nothing was said." in errors for _, _, errors in said)
    assert before == after


def test_a_search_for_nothing_is_refused(store: Path) -> None:
    code, _, said = chatkeep("search", store.name, "", folder=store.parent)

    assert 2 == code
    assert "nothing was searched" in said


def test_a_store_is_counted(store: Path) -> None:
    """Each tenant, and all together."""
    told = [json.loads(line) for line in chatkeep("stats", store.name, "--json", folder=store.parent)[1].splitlines()]
    table = chatkeep("stats", store.name, folder=store.parent)[1].splitlines()

    assert [
        {
            "tenant": "",
            "conversations": 3,
            "messages": 10,  # with a note of the pause
            "unread": 1,
            "waiting": 1,
            "set_aside": 1,
            "paused": 1,
            "unreadable": 0,
            "changed_today": 3,
        },
        {
            "tenant": "salon",
            "conversations": 1,
            "messages": 2,
            "unread": 0,
            "waiting": 0,
            "set_aside": 0,
            "paused": 0,
            "unreadable": 0,
            "changed_today": 1,
        },
    ] == told
    assert ["(default)", "salon", "all"] == [row.split()[0] for row in table[1:]]


def test_who_was_answered_by_a_person_waits_no_more(store: Path) -> None:
    """`unread` and `waiting` mean what they mean at the desk; what the bot has not answered is counted on."""

    def listed(show: str) -> list[str]:
        found = chatkeep("list", store.name, "--show", show, "--json", folder=store.parent)[1]
        return [json.loads(line)["conversation"] for line in found.splitlines()]

    before = {show: listed(show) for show in ("unread", "waiting", "off")}
    chatkeep("say", store.name, "c1", "Kim here", folder=store.parent)
    after = {show: listed(show) for show in ("unread", "waiting", "off")}
    counted = json.loads(chatkeep("stats", store.name, "--tenant", "", "--json", folder=store.parent)[1])

    assert {"unread": ["c1"], "waiting": ["c1"], "off": ["c1"]} == before
    assert {"unread": [], "waiting": [], "off": ["c1"]} == after
    assert (1, 0) == (counted["unread"], counted["waiting"])


async def test_what_was_saved_answers_nobody(store: Path) -> None:
    """What a person has said elsewhere, and a save has brought, is no answer to who waits here."""
    async with Chatkeep(f"sqlite:///{store}", background=False) as keep:
        await keep.save("c1", messages=[{"id": "s1", "content": "by letter", "role": "operator"}])
    found = chatkeep("list", store.name, "--show", "waiting", "--json", folder=store.parent)[1]

    assert ["c1"] == [json.loads(line)["conversation"] for line in found.splitlines()]


def test_a_list_without_a_row_says_whether_it_is_the_store_that_is_empty(store: Path) -> None:
    """Where only some conversations were asked for, others may be there."""
    asked = ("--owner", "nobody"), ("--tenant", "nobody"), ("--since", "1ms")

    told = {chatkeep("list", store.name, *one, folder=store.parent)[1] for one in asked}

    assert {"There are none like that.\n"} == told
