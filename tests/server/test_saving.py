"""Saves over HTTP: what elsewhere was said and named, on which version, and what is in conflict."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from chatkeep.drivers.base import Key, Write
from chatkeep.drivers.memory import MemoryDriver
from chatkeep.errors import Uncertain
from chatkeep.people.saving import ADDED_AT_ONCE
from chatkeep.testing.crash import Wrapped, wrapped

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


async def test_who_may_not_read_is_told_no_title_but_its_own(house: House) -> None:
    """The answer to a save repeats what the request has said, and nothing of what others have."""
    ada, path = await house.token("ada"), "/v1/conversations/c"
    sender = await house.token("ada", scopes=["send"])
    key = (await house.ask("POST", f"{path}/tokens", {"scopes": ["send"]})).json["token"]
    first = await house.ask("PUT", path, {"title": "Secret"}, token=ada)
    later = {"title": "Late", "version": first.json["version"] - 1}
    for token in (sender, key):
        told = [await house.ask("PATCH", path, body, token=token) for body in ({}, {"seen": 0}, later)]

        assert [200] * 3 == [answer.status for answer in told]
        assert [""] * 3 == [answer.json["title"] for answer in told]
        assert ["title"] == told[-1].json["conflicts"]
    own = await house.ask("PATCH", path, {"title": "Mine"}, token=sender)
    assert ("Mine", "Mine") == (own.json["title"], (await house.ask("PATCH", path, {}, token=ada)).json["title"])


async def test_what_gave_way_is_for_who_may_see_and_write_what_it_was(house: House) -> None:
    """Titles and messages take `read`, beside `state:read` for the state; a title is put back by who may give one."""
    ada, path = await house.token("ada"), "/v1/conversations/c"
    merge = {"Content_Type": "application/vnd.chatkeep.merge+json"}
    first = await house.ask("PUT", path, {"title": "A", "messages": [{"id": "m1", "content": "hi"}]}, token=ada)
    await house.ask("PATCH", f"{path}/state/a", {"value": "new"}, token=ada, **merge)
    await house.ask("PATCH", f"{path}/state/a", {"base": "none", "value": "old", "at": 5.0}, token=ada, **merge)
    late = {"title": "B", "version": first.json["version"] - 1, "messages": [{"id": "m1", "content": "other"}]}
    await house.ask("PATCH", path, late, token=ada)

    async def losses(token: str | None) -> dict[str, int]:
        found = (await house.ask("GET", f"{path}/losses", token=token)).json["losses"]
        return {one["about"]: one["number"] for one in found}

    states = ["state:read", "state:write"]
    blind = [
        await house.token("ada", scopes=states),
        (await house.ask("POST", f"{path}/tokens", {"scopes": states})).json["token"],
    ]
    everything = await losses(ada)
    assert {"title", "message", "state"} == set(everything) == set(await losses(None))
    for token in blind:
        assert {"state"} == set(await losses(token))
        refused = await house.ask("POST", f"{path}/losses/{everything['title']}", token=token)
        assert (403, True) == (refused.status, "'send'" in refused.json["detail"])
    assert "A" == (await house.ask("GET", path, token=ada)).json["title"]
    assert 204 == (await house.ask("POST", f"{path}/losses/{everything['state']}", token=blind[0])).status
    assert 204 == (await house.ask("POST", f"{path}/losses/{everything['title']}", token=ada)).status
    assert "B" == (await house.ask("GET", path, token=ada)).json["title"]


async def test_a_save_that_is_sent_again_is_told_as_done(house: House) -> None:
    """Its answer was lost, and its own write has made `If-Match` untrue. It is known by whose it is, what it says and what it is for, also
    where somebody has saved behind it; whatever else is for that version is refused as before, also by who asks for the same."""
    token, other, path = await house.token("ada"), await house.token("bob"), "/v1/conversations/c"
    first = await house.ask("PUT", path, {"title": "A"}, token=token)
    asked, match = {"title": "B", "messages": [{"id": "m1", "content": "hi"}], "archived": True}, first.headers["etag"]
    done = await house.ask("PUT", path, asked, token=token, If_Match=match)
    again = await house.ask("PUT", path, asked, token=token, If_Match=match)
    others = [
        (await house.ask("PUT", path, asked | more, token=token, If_Match=tag)).status
        for more, tag in (({"title": "C"}, match), ({"archived": False}, match), ({}, '"other"'))
    ]
    others.append((await house.ask("PUT", path, asked, If_Match=match)).status)  # by a service key
    later = await house.ask("PUT", path, {"title": "C"}, token=token)
    superseded = await house.ask("PATCH", path, asked, token=token, If_Match=match)
    stranger = await house.ask("PUT", path, asked, token=other, If_Match=match)

    assert [200, 200] == [done.status, again.status]
    assert (done.headers["etag"], done.json | {"added": []}) == (again.headers["etag"], again.json)
    assert ([412] * 4, 404) == (others, stranger.status)
    assert (200, "C", later.headers["etag"]) == (
        superseded.status,
        superseded.json["title"],
        superseded.headers["etag"],
    )


async def test_a_save_for_what_is_there_once_more_is_done_once_more(house: House) -> None:
    """A checksum comes back with what it was made of: the same save for it is another one then, and no repetition."""
    token, path = await house.token("ada"), "/v1/conversations/c"
    first = await house.ask("PUT", path, {"title": "A"}, token=token)
    for match in (first.headers["etag"], None, first.headers["etag"]):
        title = "A" if match is None else "B"
        saved = await house.ask("PUT", path, {"title": title}, token=token, **({"If_Match": match} if match else {}))

        assert (200, title) == (saved.status, saved.json["title"])


async def test_a_save_is_known_by_its_idempotency_key(house: House) -> None:
    """Also where somebody has saved behind it, and for a client that may not read: it has no second effect, and the same conflicts."""
    token, writer = await house.token("ada"), await house.token("ada", scopes=["send", "save"])
    path, key = "/v1/conversations/c", '"k1"'
    first = await house.ask("PUT", path, {"title": "A", "messages": [{"id": "m1", "content": "hi"}]}, token=token)
    asked = {"title": "B", "messages": [{"id": "m1", "content": "ho"}, {"id": "m2", "content": "hi"}]}
    told = {"token": writer, "If_Match": first.headers["etag"], "Idempotency_Key": key}
    done = await house.ask("PUT", path, asked, **told)
    unkeyed = await house.ask("PUT", path, asked, token=writer, If_Match=first.headers["etag"])
    later = await house.ask("PUT", path, {"title": "C"}, token=token)
    again = await house.ask("PUT", path, asked, **told)
    other = await house.ask("PUT", path, asked, **told | {"Idempotency_Key": '"k2"'})

    assert (200, 200, 412, 412) == (done.status, again.status, unkeyed.status, other.status)
    assert (["m1"], ["m2"]) == (done.json["conflicts"], done.json["added"])
    assert (["m1"], []) == (again.json["conflicts"], again.json["added"])
    assert ("", later.headers["etag"]) == (again.json["title"], again.headers["etag"])  # it may not read "C"


async def test_the_key_of_a_save_is_its_makers(house: House) -> None:
    """The same save under the same key by somebody else is another one, and not swallowed as one that was done."""
    token, path, key = await house.token("ada"), "/v1/conversations/c", '"k1"'
    for title in "BC":
        await house.ask("PUT", path, {"title": title, "force": True}, token=token, Idempotency_Key=key)
    saved = await house.ask("PUT", path, {"title": "B", "force": True}, Idempotency_Key=key)
    again = await house.ask("PUT", path, {"title": "B", "force": True}, token=token, Idempotency_Key=key)
    await house.ask("PUT", path, {"title": "D", "force": True}, token=token)
    late = await house.ask("PUT", path, {"title": "B", "force": True}, Idempotency_Key=key)

    assert ["B", "B", "D"] == [answer.json["title"] for answer in (saved, again, late)]


async def test_a_long_save_that_broke_off_goes_on_only_where_it_may(house: House) -> None:
    """The first of its acts is there already, the rest is not: `If-Match` is looked at before anything is written."""
    token, path = await house.token("ada"), "/v1/conversations/c"
    messages = [{"id": f"m{n}", "content": "x"} for n in range(ADDED_AT_ONCE + 1)]
    first = await house.ask("PUT", path, {"messages": messages[:-1]}, token=token)
    refused = await house.ask("PUT", path, {"messages": messages}, token=token, If_Match='"other"')
    told = {"token": token, "If_Match": first.headers["etag"]}
    whole, again = [await house.ask("PUT", path, {"messages": messages}, **told) for _ in range(2)]

    assert (200, 412, 200, 200) == (first.status, refused.status, whole.status, again.status)
    assert (["m200"], []) == (whole.json["added"], again.json["added"])


class Silent(Wrapped):
    """A driver that does not answer one write to "trip", which it has done; *meanwhile* somebody else is there."""

    meanwhile: Callable[[], Awaitable[Any]] | None = None

    async def write(self, act: Write) -> Any:
        """Writes, and says nothing of it once."""
        stored = await self.inner.write(act)
        if act.row.key == Key("", "trip") and self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            await meanwhile()
            raise Uncertain("The answer was lost.")
        return stored


@pytest.mark.parametrize("match", ["", "the version that is there"])
async def test_a_save_that_the_store_did_not_answer_is_not_done_again_over_what_came_behind_it(match: str) -> None:
    """Its own act is looked for in what is there by then, also where its `If-Match`, or none, would let it in once more."""
    silent = Silent(MemoryDriver())
    async with housed(wrapped(silent)) as house:
        token, path = await house.token("ada"), "/v1/conversations/trip"
        first = await house.ask("PUT", path, {"title": "Rome"}, token=token)
        silent.meanwhile = lambda: house.keep.user("ada").archive("trip", False)
        told = {"If_Match": first.headers["etag"]} if match else {}
        saved = await house.ask("PUT", path, {"archived": True}, token=token, **told)
        (listed,) = (await house.list(token))["conversations"]

    assert (200, False) == (saved.status, listed["archived"])
