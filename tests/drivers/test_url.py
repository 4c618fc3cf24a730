"""URLs that no driver can use: told at once, in words, without a password."""

from __future__ import annotations

import pytest

from chatkeep import Chatkeep
from chatkeep.errors import Misconfigured

WRONG = {
    "chat.db": "sqlite:///chat.db",
    "/var/chat.db": "sqlite:////var/chat.db",
    "ann:hunter2@host/db": "is not a URL",
    "redis://host:notaport": "behind the : is not a port",
    "rediss://:hunter2@host:99999/0": "'99999' is not a port",
    "redis://:hunter2@host:": "'' is not a port",
    "redis://host:0": "behind the : is not a port",
    "redis://::1:6379": "is not host:port",
    "redis://[::1": "brackets",
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
