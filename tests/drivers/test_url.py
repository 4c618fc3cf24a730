"""URLs that no driver can use: told at once, in words, without a password."""

from __future__ import annotations

from pathlib import Path

import pytest

from chatkeep import Chatkeep
from chatkeep.drivers.url import UrlOptions, is_loopback
from chatkeep.errors import Misconfigured

WRONG = {
    "": "URL is empty. Write one such as sqlite:///chat.db",
    "chat.db": "sqlite:///chat.db",
    "/var/chat.db": "sqlite:////var/chat.db",
    "ann:hunter2@host/db": "is not a URL",
    "redis://host:notaport": "behind the : is not a port",
    "rediss://:hunter2@host:99999/0": "'99999' is not a port",
    "redis://:hunter2@host:": "'' is not a port",
    "redis://host:0": "behind the : is not a port",
    "redis://::1:6379": "is not host:port",
    "redis://[::1": "brackets",
    "redis://hunter2:1:2": "what stands behind // is not host:port",
    "redis://bot:hunter2@host:1:2": "'host:1:2' is not host:port",
    "redis://:hunter2?a=x@host": "? as %3F",
    "redis+cluster://a:7000,b:x": "behind the : is not a port",
    "redis+sentinel://a:26379,b:/main": "behind the : is not a port",
    "postgresql://bot:hunter2@host:five/db": "'five' is not a port",
    "postgres://host:70000/db": "behind the : is not a port",
    "postgresql://bot:hunter2/x@host/db": "write / as %2F",
    "redis://:hunter2#x@host": "# as %23",
    "redis://:p@ss:hunter2/x@host:6379/0": "@ as %40",
    "redis://:p@hunter2/x@host:6379/0": "@ as %40",
    "redis://:p@hunter2?x@host": "? as %3F",
    "redis://:p@hunter2#x@host": "# as %23",
    "redis://:p@[hunter2/x@host": "brackets",
    "redis://:hunter2": "user:password@host:6379",
    "upstash://hunter2": "upstash://TOKEN@",
    "durable-object://hunter2": "durable-object://SECRET@",
    "postgresql://bot:hunter2/db": "user:password@host:6379",
}


@pytest.mark.parametrize("url", WRONG)
def test_a_url_that_cannot_be_used_is_refused_when_the_chatkeep_is_made(url: str) -> None:
    """The part that is wrong is named, and what to write instead."""
    with pytest.raises(Misconfigured) as refused:
        Chatkeep(url)

    assert WRONG[url] in str(refused.value)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    "url", ["redis://:hunter2@host:notaport", "redis://:hunter2/x@host", "redis://:p@hunter2/x@host", "chat.db"]
)
def test_the_url_of_a_shared_cache_is_refused_likewise(url: str) -> None:
    """It is read by another library, which quotes what it does not understand."""
    with pytest.raises(Misconfigured) as refused:
        Chatkeep("memory://", cache=url)

    assert "cache: " in str(refused.value)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://host",
        "redis://[::1]:6379/1",
        "redis+cluster://a:7000,b",
        "rediss://:p%40%2F@host:6380",
        "postgresql://u:p@[::1]:5432/db",
    ],
)
def test_urls_that_are_right_are_taken(url: str) -> None:
    """With and without ports, several hosts, IPv6, a password with escapes."""
    assert Chatkeep(url).trouble == Chatkeep("memory://x").trouble


def options(query: str) -> UrlOptions:
    """What stands behind the ? of a URL."""
    return UrlOptions("redis://host/0", query, {"prefix", "timeout", "sync"}, example="redis://host/0")


def test_an_option_is_what_was_given_or_as_usual() -> None:
    """A name, a time, or yes and no."""
    given, none = options("prefix=a.b&timeout=0.5&sync=no"), options("")

    assert ("a.b", 0.5, False, True) == (
        given.name("prefix"),
        given.seconds("timeout", 5.0),
        given.is_on("sync", default=True),
        "sync" in given,
    )
    assert ("chatkeep", 5.0, True, False) == (
        none.name("prefix"),
        none.seconds("timeout", 5.0),
        none.is_on("sync", default=True),
        "sync" in none,
    )
    assert (True, False, "") == (
        options("sync=yes").is_on("sync", default=False),
        none.is_on("sync", default=False),
        none.text("prefix"),
    )


@pytest.mark.parametrize(
    "query", ["timeout=0", "timeout=-1", "timeout=3600", "timeout=soon", "timeout=", "timeout=nan"]
)
def test_a_time_that_cannot_be_meant_is_refused(query: str) -> None:
    """With what a URL looks like."""
    with pytest.raises(Misconfigured, match=r"timeout is a number of seconds\. A URL looks like redis://host/0"):
        options(query).seconds("timeout", 5.0)


@pytest.mark.parametrize("query", ["sync=on", "sync=", "sync=Yes"])
def test_an_option_is_on_by_yes_alone(query: str) -> None:
    """Nobody believes a store to be durable because of a slip."""
    with pytest.raises(Misconfigured, match="sync is yes or no"):
        options(query).is_on("sync", default=True)


@pytest.mark.parametrize("query", ["prefix=", "prefix=a b", "prefix=" + "x" * 101, "prefix=a/b"])
def test_a_name_is_letters_digits_and_a_few_signs(query: str) -> None:
    """So that it can be part of any key."""
    with pytest.raises(Misconfigured, match="must be letters, digits"):
        options(query).name("prefix")


def test_an_unknown_option_is_named() -> None:
    """With those that there are."""
    with pytest.raises(Misconfigured, match=r"there is no option a, b\. .* it may have \?prefix=, sync=, timeout=\."):
        options("b=1&a=2&sync=no")


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("10.0.0.1", False),
        ("host", False),
    ],
)
def test_this_machine_alone_is_known_by_its_addresses(host: str, expected: bool) -> None:
    """And by its name."""
    assert expected is is_loopback(host)


async def test_a_file_that_is_no_database_is_called_that(tmp_path: Path) -> None:
    """It can be written very well: that it may be is no advice."""
    (tmp_path / "junk.db").write_bytes(b"this is not a database, it is a text" * 100)
    with pytest.raises(Misconfigured, match=r"Nothing in it was touched\. Name another file"):
        await Chatkeep(f"sqlite:///{tmp_path}/junk.db").open()
