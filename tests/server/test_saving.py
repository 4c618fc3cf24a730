"""Saves over HTTP: what elsewhere was said and named, on which version, and what is in conflict."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from ..support.users import House, housed


@pytest.fixture
async def house(url: str) -> AsyncIterator[House]:
    """A house that lets visitors in."""
    async with housed(url, anonymous=True) as found:
        yield found


async def test_a_save_says_what_was_in_conflict(house: House) -> None:
    """If-Match refuses, `version` tells; `*` forces; saved messages say that they are; losses are told and restored."""
    token, plain = await house.token("ada"), await house.token("ada", scopes=["read", "send"])
    path = "/v1/conversations/c"
    first = await house.ask(
        "PUT", path, {"title": "A", "messages": [{"id": "m1", "content": "hi", "created_at": 5.5}]}, token=token
    )
    matched = await house.ask("PUT", path, {"title": "B"}, token=token, If_Match=first.headers["etag"])
    refused = await house.ask("PUT", path, {"title": "C"}, token=token, If_Match=first.headers["etag"])
    read = await house.ask("GET", path, token=token)
    by_etag = await house.ask("PUT", path, {"title": "B2"}, token=token, If_Match=read.headers["etag"])
    told = await house.ask(
        "PATCH",
        path,
        {"title": "C", "version": first.json["version"], "messages": [{"id": "m1", "content": "other"}]},
        token=token,
    )
    losses = (await house.ask("GET", f"{path}/losses", token=token)).json["losses"]
    number = next(one["number"] for one in losses if one["about"] == "title")
    restored = await house.ask("POST", f"{path}/losses/{number}", token=token)
    named = (await house.list(token))["conversations"][0]["title"]
    forced = await house.ask("PUT", path, {"title": "D"}, token=token, If_Match="*")
    forged = await house.ask(
        "PUT", path, {"messages": [{"id": "m9", "content": "x", "role": "assistant"}]}, token=plain
    )
    absent = await house.ask("PATCH", "/v1/conversations/none", {"title": "x"}, token=token)
    log = await house.client.log("c")

    assert (200, ["m1"], 200, 412) == (first.status, first.json["added"], matched.status, refused.status)
    assert matched.headers["etag"] == refused.json["etag"]
    assert ("B", matched.json["checksum"]) == (read.json["title"], read.json["checksum"])
    assert (200, ["title", "m1"]) == (by_etag.status, told.json["conflicts"])
    assert (204, "C", "D") == (restored.status, named, forced.json["title"])
    assert (403, 404) == (forged.status, absent.status)
    assert [("m1", "hi", 5.5, True)] == [(one["id"], one["content"], one["created_at"], one["saved"]) for one in log]
