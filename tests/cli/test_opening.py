"""Commands without STORE: the environment, a file with the URL, or the settings file names it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from chatkeep import Chatkeep, Turn
from chatkeep.secrecy import without_secret

from ..support.program import chatkeep


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with two conversations."""
    path = tmp_path / "chat.db"
    keep: Chatkeep[Any] = Chatkeep(f"sqlite:///{path}")

    @keep.on_message
    async def bot(turn: Turn[Any]) -> str:
        return "fine"

    async def fill() -> None:
        async with keep:
            await keep.receive("ada", "hello")
            await keep.tenant("salon").receive("bob", "hello")

    asyncio.run(fill())
    return path


def ran(folder: Path, *arguments: str, **variables: str) -> tuple[int, str, str]:
    """Runs a command with CHATKEEP_ *variables*: exit code, output, errors."""
    return chatkeep(
        *arguments, folder=folder, **{f"CHATKEEP_{name.upper()}": value for name, value in variables.items()}
    )


@pytest.mark.parametrize("url", ["memory://", "Memory://bot"])
@pytest.mark.parametrize("command", [("list",), ("key", "create"), ("hold", "ada", "--reason", "case 7")])
def test_a_store_in_memory_is_in_no_other_process(tmp_path: Path, command: tuple[str, ...], url: str) -> None:
    """An empty one was looked into, and a key was made for it that opens nothing."""
    code, out, said = ran(tmp_path, *command, store=url)

    assert (2, "") == (code, out)
    assert said.startswith("chatkeep: memory:// is in the process of the bot alone; nothing was opened.")


def test_nothing_is_copied_into_memory(store: Path, tmp_path: Path) -> None:
    """It was said to be imported, and was gone; a file can be looked at all the same."""
    url, lines = f"sqlite:///{store}", str(tmp_path / "lines.jsonl")
    assert 0 == ran(tmp_path, "export", "-o", lines, store=url)[0]

    for command in (("import", "memory://", lines), ("fork", url, "ada", "copy", "--to", "memory://")):
        code, out, said = ran(tmp_path, *command)

        assert (2, "") == (code, out)
        assert "gone with this command; nothing was written" in said
    assert "nothing wrong" in ran(tmp_path, "import", "memory://", lines, "--check")[1]


def test_a_file_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    """However the scheme is written; the library takes it in capitals too."""
    for url in ("missing.db", "sqlite:///missing.db", "SQLite:///missing.db"):
        code, out, said = ran(tmp_path, "list", store=url)

        assert (2, "", []) == (code, out, list(tmp_path.iterdir()))
        assert "There is no file missing.db; nothing was created." in said


def test_every_command_takes_the_store_from_the_environment(store: Path) -> None:
    """With one argument, with several, with an optional one, and in the group of keys."""
    url = f"sqlite:///{store}"
    commands = {
        ("list",): "ada",
        ("show", "ada"): "hello",
        ("history", "ada", "--limit", "1"): "hello",
        ("clear", "ada", "--slot", "n", "--yes"): "is cleared",
        ("say", "ada", "Kim here"): "is in the log",
        ("pause", "ada"): "The bot is paused: ada",
        ("resume", "--all"): "The bot answers: tenant ''",
        ("dead", "ada"): "Nothing was set aside",
        ("deliveries", "ada"): "Nothing goes out",
        ("check",): "fit",
        ("key", "create", "--label", "ci"): "ck_k_",
        ("key", "list"): "ci",
        ("canary", "v2", "10%"): "version v2: never seen, 10% of the conversations",
        ("canary",): "version v2",
        ("cache",): "The shared cache is on",
        ("cache", "off"): "The shared cache is off",
        ("erase", "ada", "--yes"): "is erased",
    }
    wrong = {}
    for arguments, words in commands.items():
        code, said, errors = ran(store.parent, *arguments, store=url)
        if code or words not in said:
            wrong[arguments] = (code, said, errors)

    assert {} == wrong


def test_a_resumption_says_what_stays_paused(store: Path) -> None:
    """Of a conversation, a tenant and everything; it said that the bot answers where another pause kept it silent."""
    silent = "The bot stays silent where another one stands:"
    said = [
        ran(store.parent, *arguments, store=f"sqlite:///{store}")[1].strip()
        for arguments in (
            ("pause", "ada"),
            ("pause", "--all"),
            ("pause", "--all", "--tenant", "salon"),
            ("pause", "--everywhere"),
            ("resume", "ada"),
            ("resume", "--all"),
            ("resume", "--everywhere"),
            ("resume", "--all", "--tenant", "salon"),
        )
    ][4:]

    assert [
        f"The pause is lifted: ada. {silent} everywhere, tenant ''.",
        f"The pause is lifted: tenant ''. {silent} everywhere.",
        f"The pause is lifted: everywhere. {silent} tenant 'salon'.",
        "The bot answers: tenant 'salon'.",
    ] == said


def test_a_file_with_the_url_and_the_settings_file_name_it_too(store: Path) -> None:
    """So no password stands in the list of processes; a STORE that is given still counts."""
    store.with_name("url").write_text(f"sqlite:///{store}\n")
    store.with_name("x.toml").write_text(f'store = "sqlite:///{store}"\n')
    by_file = ran(store.parent, "show", "ada", "--json", store_file="url")
    by_config = ran(store.parent, "show", "ada", "--json", config="x.toml")
    given = ran(store.parent, "show", str(store), "ada", "--json", store="sqlite:///missing.db")

    assert ["ada"] * 3 == [json.loads(found[1])["conversation"] for found in (by_file, by_config, given)]


def test_what_is_missing_is_told_with_the_way_out(store: Path) -> None:
    """Without a store anywhere; with one, the argument that is really missing; and a file that is not there."""
    nowhere = ran(store.parent, "list")
    conversation = ran(store.parent, "show", store=f"sqlite:///{store}")
    number = ran(store.parent, "replay", "chat.db", "ada", "first", store="sqlite:///other.db")
    unreadable = ran(store.parent, "list", store_file="nothing")
    empty = ran(store.parent, "list", "")
    no_channel = ran(store.parent, "resend", "chat.db", "ada", "2")

    assert (2, True) == (nowhere[0], "CHATKEEP_STORE" in nowhere[2])
    assert (2, True) == (conversation[0], "Missing argument 'CONVERSATION'" in conversation[2])
    assert (2, True) == (number[0], "'first' is not a valid integer" in number[2])
    assert (2, True) == (unreadable[0], "CHATKEEP_STORE_FILE" in unreadable[2])
    assert "the file nothing, which cannot be read: No such file or directory" in unreadable[2]
    assert (2, True) == (empty[0], "STORE is empty" in empty[2])
    assert (2, True) == (no_channel[0], "go out through no channel" in no_channel[2])


def test_a_list_has_the_names_of_its_columns(store: Path) -> None:
    """In a pipe too; a program takes --json."""
    head, *rows = ran(store.parent, "list", "chat.db")[1].splitlines()

    assert ["conversation", "messages", "unread", "changed", "last", "words"] == head.split()
    assert {("ada", "2", "0"), ("salon/bob", "2", "0")} == {tuple(row.split()[:3]) for row in rows}


def test_no_command_names_a_function_of_python(store: Path) -> None:
    """Who works in a terminal is told of commands."""
    for arguments in (("replay", "ada", "1"), ("resend", "ada", "1"), ("show", "eve"), ("key", "revoke", "x")):
        code, _, errors = ran(store.parent, *arguments, store=f"sqlite:///{store}")

        assert (True, False) == (code in (1, 2), "()" in errors), errors


@pytest.mark.parametrize("key", ["", "ck_k_a"])
@pytest.mark.parametrize(
    "typed",
    [
        "http://me:s3cret@host",
        "HTTP://me:s3cret@host",
        "http://me:s3@cret@host",
        "https://me:s3/cret@host",
        "https://host/?token=s3cret",
        "https://:s3cret@host",
        "redis:/me:s3cret@host",
        "postgresql:me:s3cret@host",
    ],
)
def test_no_secret_of_an_address_that_cannot_be_is_shown(
    typed: str, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server with a password in its address, and a URL that is not typed right."""
    monkeypatch.setenv("CHATKEEP_KEY", key)
    code, output, errors = chatkeep("list", typed, folder=tmp_path)

    assert (2, False) == (code, "cret" in output + errors), errors


@pytest.mark.each
@pytest.mark.parametrize(
    "typed",
    [
        "serve URL",
        "chat URL",
        "dev URL",
        "demo URL",
        "URL",
        "accounts URL",
        "list chat.db URL",
        "erase chat.db ada URL",
        "dismiss chat.db ada URL",
        "canary chat.db URL",
        "cache chat.db URL",
        "import chat.db URL",
        "list --URL",
        "--URL",
    ],
)
@pytest.mark.parametrize(
    "url", ["redis://:s3cret@host/0", "redis://me:it's a s3cret@host/0", "postgresql://host/db?password=s3cret"]
)
def test_no_secret_of_a_url_in_the_wrong_place_is_shown(typed: str, url: str, tmp_path: Path) -> None:
    """Where an application, a conversation or nothing at all is expected, as in a script whose variables are mixed up."""
    code, output, errors = chatkeep(*(word.replace("URL", url) for word in typed.split()), folder=tmp_path)

    assert (2, False) == (code, "cret" in output + errors), errors


@pytest.mark.each
@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("upstash://s3cret@host:80?tls=no", "upstash://***@host:80?tls=no"),
        ("upstash://:s3cret@host", "upstash://***@host"),
        ("durable-object://s3cret@host", "durable-object://***@host"),
        ("redis://me:s3cret@host/0", "redis://me:***@host/0"),
        ("redis://me:s3cret/x#y@z@host/0", "redis://me:***@host/0"),
        ("redis://me@host/0", "redis://me@host/0"),
        ("upstash://host", "upstash://host"),
        (
            "postgresql://host/db?user=me&password=s3cret&timeout=2",
            "postgresql://host/db?user=me&password=***&timeout=2",
        ),
        ("postgresql://me:s3cret@host/db?sslpassword=s3cret", "postgresql://me:***@host/db?sslpassword=***"),
        ("sqlite:///home/a:b@c/chat.db", "sqlite:///home/a:b@c/chat.db"),
        ("chat.db", "chat.db"),
    ],
)
def test_no_secret_of_a_url_is_shown(url: str, shown: str) -> None:
    """A password, or the token that stands in its place."""
    assert shown == without_secret(url)
