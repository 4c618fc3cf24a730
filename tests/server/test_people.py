"""Users over HTTP: their lists, what they save, and what becomes of a guest's when it signs in."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from msgspec import Struct

from chatkeep.drivers.base import Act, Append, Erase, Key, Read, Write
from chatkeep.drivers.memory import MemoryDriver
from chatkeep.server.protocols.answer_stream import name_answer
from chatkeep.testing.crash import Wrapped, wrapped

from ..support.damaged import Damaged
from ..support.serving import Answer
from ..support.users import House, housed

MERGE = {"Content-Type": "application/vnd.chatkeep.merge+json"}


@pytest.fixture
async def house(url: str) -> AsyncIterator[House]:
    """A house that lets visitors in."""
    async with housed(url, anonymous=True) as found:
        yield found


async def test_a_user_has_its_conversations_on_every_device(house: House) -> None:
    """Creates, writes, names, marks and deletes them; another user finds none of it, and learns of none."""
    phone, tab, eve = await house.token("ada", label="phone"), await house.token("ada"), await house.token("eve")
    begun = await house.ask("POST", "/v1/conversations", {"id": "trip"}, token=phone)
    sent = await house.ask("POST", "/v1/conversations/shop/messages", {"content": "milk"}, token=phone)
    named = await house.ask("PUT", "/v1/conversations/trip", {"title": "To Rome"}, token=tab)
    listed = await house.list(tab)
    cursor = listed["cursor"]
    changed = await house.ask("PATCH", "/v1/conversations/shop", {"seen": 2, "pinned": True}, token=tab)
    slot = await house.ask("PUT", "/v1/conversations/new/state/form", {"a": 1}, token=tab, If_None_Match="*")
    gone = await house.ask("DELETE", "/v1/conversations/trip", token=phone)
    since = await house.list(tab, f"?since={cursor}")
    me = await house.ask("GET", "/v1/me", token=phone)

    assert (201, 200, 200) == (begun.status, sent.status, named.status)
    assert {"trip": "To Rome", "shop": ""} == {one["id"]: one["title"] for one in listed["conversations"]}
    assert (200, 200, 204) == (changed.status, slot.status, gone.status)
    assert ({"shop", "new"}, ["trip"], 2) == (
        {one["id"] for one in since["conversations"]},
        since["erased"],
        since["total"],
    )
    assert ("ada", "user") == (me.json["user"], me.json["kind"])
    assert [] == (await house.list(eve))["conversations"]
    for method, path, body in (
        ("GET", "", None),
        ("PUT", "", {"title": "mine"}),
        ("PATCH", "", {"title": "mine"}),
        ("GET", "/messages", None),
        ("POST", "/messages", {"content": "in"}),
        ("PUT", "/state/form", 1),
        ("GET", "/events", None),
        ("GET", "/losses", None),
        ("DELETE", "", None),
    ):
        answer = await house.ask(method, f"/v1/conversations/shop{path}", body, token=eve, If_Match="*")
        assert 404 == answer.status, (method, path, answer)
    taken = await house.ask("POST", "/v1/conversations", {"id": "shop"}, token=eve)
    assert 409 == taken.status
    assert 404 == (await house.ask("GET", "/v1/conversations/nothing", token=eve)).status
    for method, path, body in (
        ("POST", "/messages", {"contents": "in"}),
        ("POST", "/messages", {"content": "in", "metadata": {"phone": "+49"}}),
        ("PUT", "", {"titel": "x"}),
        ("PATCH", "/state/form", {"value": 1}),
        ("PATCH", "/state", []),
    ):
        bad = await house.ask(method, f"/v1/conversations/never{path}", body, token=tab)
        assert bad.status in (400, 415, 422), (path, bad)
    assert "never" not in [one["id"] for one in (await house.list(tab))["conversations"]]
    assert ["milk", "1: milk"] == [one["content"] for one in await house.client.log("shop")]


WRITES: dict[str, tuple[str, str, Any, dict[str, str]]] = {
    "message": ("POST", "/messages", {"content": "more"}, {}),
    "message for later": ("POST", "/messages", {"content": "more"}, {"Prefer": "respond-async"}),
    "save": ("PUT", "", {"title": "Rome"}, {}),
    "state": ("PATCH", "/state", {"form": 1}, {"Content-Type": "application/merge-patch+json"}),
    "slot": ("PUT", "/state/form", 1, {"If-None-Match": "*"}),
    "merge": ("PATCH", "/state/form", {"value": 1, "at": 1, "by": "phone"}, MERGE),
    "useChat": ("POST", "/api/chat", {"id": "trip", "messages": [{"id": "m", "role": "user", "content": "more"}]}, {}),
}


@pytest.mark.parametrize("write", WRITES)
async def test_what_is_written_while_it_is_erased_is_not_nobodys(url: str, write: str) -> None:
    """A device writes in the moment in which another one deletes: what begins anew is the user's, and in the user's list."""
    method, path, body, headers = WRITES[write]
    async with housed(url, protocols=["aisdk"]) as house:
        ada = await house.token("ada")
        await house.ask("POST", "/v1/conversations/trip/messages", {"content": "hi"}, token=ada)
        await house.ask("GET", "/v1/conversations/trip", token=ada)
        await house.keep.erase("trip")  # on another server; this one believes for a second that it is there
        answer = await house.ask(
            method, path if "api" in path else f"/v1/conversations/trip{path}", body, token=ada, **headers
        )

        assert answer.status in (200, 202, 204), answer
        assert ["trip"] == [one["id"] for one in (await house.list(ada))["conversations"]]
        assert "ada" == (await house.keep.conversation("trip")).owner


REFUSED: dict[str, tuple[str, str, Any, dict[str, str]]] = {
    "NUL": ("POST", "/messages", {"content": "a\0"}, {}),
    "NUL for later": ("POST", "/messages", {"content": "a\0"}, {"Prefer": "respond-async"}),
    "id of ours": ("POST", "/messages", {"content": "hi", "id": "~dead:1"}, {}),
    "too long": ("POST", "/messages", {"content": "x" * 300_000}, {}),
    "half a character": ("POST", "/messages", {"content": "hi", "metadata": {"a": "\ud800"}}, {}),
    "saved NUL": ("PUT", "", {"messages": [{"id": "m", "content": "a\0"}]}, {}),
    "another version": ("PUT", "", {"title": "Rome"}, {"If-Match": '"other"'}),
    "another state": ("PUT", "/state/form", 1, {"If-Match": '"other"'}),
    "no state": ("PATCH", "/state", {"count": "many"}, {"Content-Type": "application/merge-patch+json"}),
    "no slot": ("PATCH", "/state/count", {"value": "many", "at": 1, "by": "phone"}, MERGE),
}


class Counted(Struct):
    """A state that not everything fits."""

    count: int = 0
    form: Any = None


@pytest.mark.parametrize("write", REFUSED)
async def test_what_is_refused_begins_nothing(write: str) -> None:
    """A user's first words that the engine does not take leave no conversation, and so nothing in the user's list."""
    method, path, body, headers = REFUSED[write]
    async with housed("memory://", state=Counted) as house:
        ada = await house.token("ada")
        answer = await house.ask(method, f"/v1/conversations/trip{path}", body, token=ada, **headers)

        assert answer.status in (400, 412, 413, 422), answer
        assert [] == (await house.list(ada))["conversations"]
        assert await house.keep.conversation("trip") is None


@pytest.mark.parametrize("prefer", ["respond-async", "wait=5"])
async def test_a_message_that_waited_on_a_device_begins_nothing_anew(house: House, prefer: str) -> None:
    """Its `If-Match: *` says that the conversation was there: where it was erased meanwhile the device is told, by whomever it is asked."""
    ada, at = await house.token("ada"), "/v1/conversations/trip/messages"
    told = {"Prefer": prefer, "If_Match": "*"}

    async def say(text: str, token: str | None = ada, **headers: str) -> Answer:
        return await house.ask("POST", at, {"content": text, "id": text}, token=token, **headers)

    early = await say("early", **told)
    begun = await say("begun", Prefer=prefer)
    known, again = await say("known", **told), await say("known", **told)
    other = await house.ask("POST", at, {"content": "x"}, token=ada, If_Match='"other"')
    await house.ask("DELETE", "/v1/conversations/trip", token=ada)
    late = [await say("late", token, **told) for token in (ada, None)]
    there = await house.ask("GET", "/v1/conversations/trip", token=ada)
    anew = await say("late", Prefer=prefer)

    assert [412, 412, 412, 412] == [answer.status for answer in (early, other, *late)]
    assert {"urn:chatkeep:precondition-failed"} == {answer.json["type"] for answer in (early, other, *late)}
    assert "was erased" in late[0].json["detail"]
    assert [404, False, True, False] == [there.status, *(answer.json["duplicate"] for answer in (known, again, anew))]
    assert begun.status in (200, 202)


async def test_what_is_saved_for_a_conversation_that_is_there_begins_none(house: House) -> None:
    """With `If-Match`, whatever it names: a save and a merge, by a user and by a key. A merge looks at the version too."""
    ada, at = await house.token("ada"), "/v1/conversations/trip"

    async def tried(match: str, token: str | None = ada) -> list[int]:
        save = await house.ask("PUT", at, {"title": "Rome"}, token=token, If_Match=match)
        merge = await house.ask("PATCH", f"{at}/state/x", {"value": 1}, token=token, If_Match=match, **MERGE)
        return [save.status, merge.status]

    early = [await tried(match, token) for match in ("*", '"other"') for token in (ada, None)]
    there = [await house.keep.conversation("trip")]
    begun = await house.ask("PATCH", f"{at}/state/x", {"value": 0}, token=ada, **MERGE)
    known, other = await tried("*"), await tried('"other"')
    read = await house.ask("GET", at, token=ada)
    named = {"If_Match": read.headers["etag"], "Idempotency_Key": '"k1"', **MERGE}
    by_etag = await house.ask("PATCH", f"{at}/state/x", {"value": 2}, token=ada, **named)
    again = await house.ask(
        "PATCH", f"{at}/state/x", {"value": 2}, token=ada, **named
    )  # it has changed the version itself
    await house.ask("DELETE", at, token=ada)
    late = await tried("*")
    erased = await house.ask("PATCH", f"{at}/state/x", {"value": 2}, token=ada, **named)
    there.append(await house.keep.conversation("trip"))

    assert [[412, 412]] * 4 == early
    assert (200, [200, 200], [412, 412], 200) == (begun.status, known, other, by_etag.status)
    assert (200, by_etag.json["value"]) == (again.status, again.json.get("value"))
    assert ([412, 412], 412, [None, None]) == (late, erased.status, there)


@pytest.mark.parametrize("id", [".", ".."])
async def test_nobody_begins_what_browsers_take_for_a_step_in_the_path(id: str) -> None:
    """A user, or a visitor who chooses an id, is refused on each way: at the desk "the bot of this conversation" would be everybody's. What
    an application has under such an id can be read and written by whose it is."""
    async with housed("memory://", protocols=["aisdk"], anonymous=True) as house:
        ada, at = await house.token("ada"), f"/v1/conversations/{id}"
        message = {"id": "m", "role": "user", "parts": [{"type": "text", "text": "hi"}]}
        tried = [
            await house.ask("POST", "/v1/conversations", {"id": id}, token=ada),
            await house.ask("PUT", at, {"title": "x"}, token=ada),
            await house.ask("POST", f"{at}/messages", {"content": "hi"}, token=ada),
            await house.ask("PUT", f"{at}/state/x", 1, token=ada, If_None_Match="*"),
            await house.ask("PATCH", f"{at}/state/x", {"value": 1}, token=ada, **MERGE),
            await house.ask("POST", "/api/chat", {"id": id, "messages": [message]}, token=ada),
            await house.ask("POST", "/api/chat", {"id": id, "messages": [message]}, token=""),
        ]
        absent = await house.keep.conversation(id)
        await house.keep.user("ada").create(id)
        there = [
            await house.ask("POST", "/v1/conversations", {"id": id}, token=ada),
            await house.ask("POST", f"{at}/messages", {"content": "hi"}, token=ada),
        ]

    assert [(400, True)] * 7 == [(answer.status, b"cannot be called" in answer.body) for answer in tried], tried
    assert absent is None
    assert [200, 200] == [answer.status for answer in there]


class Erasing(Wrapped):
    """A driver under which somebody else erases "trip" right after it was looked at, or before it is written to, once from `armed` on."""

    armed = False

    async def read(self, act: Read) -> Any:
        """Reads, and then it is gone."""
        found = await self.inner.read(act)
        await self._erased(act)
        return found

    async def write(self, act: Write) -> Any:
        """It is gone by then."""
        await self._erased(act)
        return await self.inner.write(act)

    async def append(self, act: Append) -> Any:
        """It is gone by then."""
        await self._erased(act)
        return await self.inner.append(act)

    async def _erased(self, act: Act) -> None:
        if self.armed and act.key == Key("", "trip"):
            self.armed = False
            await self.inner.erase(Erase(act.key, at=time.time()))


@pytest.mark.parametrize("match", ["*", "revision"])
@pytest.mark.parametrize("prefer", ["respond-async", "wait=5"])
async def test_what_is_erased_while_a_message_is_looked_at_is_not_begun_anew(match: str, prefer: str) -> None:
    """The condition is a part of the act that writes the message, whichever way it is answered."""
    erasing = Erasing(MemoryDriver())
    async with housed(wrapped(erasing)) as house:
        ada, at = await house.token("ada"), "/v1/conversations/trip/messages"
        for number in range(4):  # its bot is known to be quick by then
            await house.ask("POST", at, {"content": "hello", "id": f"m{number}"}, token=ada)
        read = await house.ask("GET", "/v1/conversations/trip", token=ada)
        erasing.armed = True
        told = {"Prefer": prefer, "If_Match": "*" if match == "*" else read.headers["etag"]}
        late = await house.ask("POST", at, {"content": "late", "id": "late"}, token=ada, **told)
        there = await house.keep.conversation("trip")

    assert (412, "urn:chatkeep:precondition-failed") == (late.status, late.json["type"])
    assert there is None


async def test_an_operator_whose_words_are_refused_pauses_nothing(house: House) -> None:
    """Neither in a conversation that is there, nor in a new one."""
    await house.keep.receive("old", "hi")
    said = {"content": "a\0", "paused": True}
    refused = [await house.ask("POST", f"/v1/conversations/{id}/operator", said) for id in ("old", "new")]

    assert [422, 422] == [answer.status for answer in refused], refused
    assert not (await house.keep.conversation("old")).paused
    assert await house.keep.conversation("new") is None


async def test_a_list_says_whether_a_person_has_answered(house: House) -> None:
    """What a save has brought is no answer, and no question that the bot has failed on."""
    await house.keep.pause("ada")
    await house.keep.accept("ada", "anybody there?")

    async def answered() -> bool:
        return bool((await house.ask("GET", "/v1/conversations")).json["conversations"][0].get("answered"))

    before = await answered()
    await house.keep.save("ada", messages=[{"id": "s1", "content": "by letter", "role": "operator"}])
    saved = await answered()
    await house.ask("POST", "/v1/conversations/ada/operator", {"content": "Kim here"})

    assert (False, False, True) == (before, saved, await answered())


SAID = {"role": "user", "content": "hi"}
BEGINNINGS: dict[str, tuple[str, Any, dict[str, str]]] = {
    "aisdk": ("/api/chat", {"id": "mine", "messages": [SAID]}, {}),
    "responses": ("/v1/responses", {"model": "any", "input": "hi", "conversation": "mine"}, {}),
    "agui": ("/agui", {"threadId": "mine", "runId": "r", "messages": [SAID | {"id": "m"}]}, {}),
    "a2a": (
        "/a2a",
        {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "SendMessage",
            "params": {
                "message": {"messageId": "m", "contextId": "mine", "role": "ROLE_USER", "parts": [{"text": "hi"}]}
            },
        },
        {"A2A-Version": "1.0"},
    ),
    "mcp": (
        "/mcp",
        {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "tools/call",
            "params": {"name": "say", "arguments": {"text": "hi", "conversation": "mine"}},
        },
        {"Accept": "application/json, text/event-stream", "MCP-Protocol-Version": "2025-11-25"},
    ),
}


@pytest.mark.parametrize("protocol", BEGINNINGS)
async def test_a_user_begins_a_chat_over_each_protocol(protocol: str) -> None:
    """Under an id that nobody has. Nothing is begun by looking, and what is another user's is not there."""
    path, body, headers = BEGINNINGS[protocol]
    async with housed("memory://", protocols=[protocol], anonymous=True) as house:
        ada, eve = await house.token("ada"), await house.token("eve")
        if protocol == "aisdk":  # what a page asks first
            looks = [await house.ask("GET", f"/api/chat/mine{more}", token=ada) for more in ("", "/stream")]
            assert [(200, b"[]"), (204, b"")] == [(look.status, look.body) for look in looks]
            assert 404 == (await house.ask("POST", "/api/chat/mine/stop", token=ada)).status
        empty = dict.fromkeys(("messages", "input", "params"))  # what has no message
        none = {name: empty.get(name, told) for name, told in body.items()}
        for bad in (none, json.loads(json.dumps(body).replace('"hi"', '"h\\u0000"'))):
            refused = [await house.ask("POST", path, bad, token=token, **headers) for token in (ada, "")]
            assert await house.keep.conversation("mine") is None, refused
            assert not any("chatkeep-token" in answer.headers for answer in refused), refused
        if protocol == "agui":
            shown = await house.ask("POST", path, body | {"messages": []}, token=ada)
            assert (200, None) == (shown.status, await house.keep.conversation("mine")), shown
        begun = await house.ask("POST", path, body, token=ada, **headers)
        found = await house.keep.conversation("mine")
        taken = await house.ask("POST", path, body, token=eve, **headers)
        after = await house.keep.conversation("mine")

    assert 200 == begun.status, begun
    assert found is not None
    assert ("ada", ["user", "assistant"]) == (found.owner, [m.role for m in found.messages if m.role != "system"])
    assert b"nothing at this address" in taken.body.lower(), taken
    assert found.revision == after.revision


async def test_slots_are_merged_over_http(house: House) -> None:
    """By base and time; the same key again has no second effect."""
    token, path = await house.token("ada"), "/v1/conversations/c/state/cart"
    first = await house.ask("PATCH", path, {"value": ["tea"]}, token=token, **MERGE)
    for _ in range(2):
        second = await house.ask(
            "PATCH", path, {"base": ["tea"], "value": ["tea", "milk"]}, token=token, Idempotency_Key='"k1"', **MERGE
        )
    stale = await house.ask("PATCH", path, {"base": "A", "value": "old", "at": 5, "by": "tab"}, token=token, **MERGE)
    removed = await house.ask("PATCH", path, {"base": ["tea", "milk"]}, token=token, **MERGE)
    wrong = await house.ask("PATCH", path, {"valeu": 1}, token=token, **MERGE)
    media = await house.ask("PATCH", path, {"value": 1}, token=token)

    assert [["tea"], ["tea", "milk"], ["tea", "milk"]] == [one.json["value"] for one in (first, second, stale)]
    assert [{"path": [], "value": "old", "at": 5.0, "by": "tab"}] == stale.json["losses"]
    assert ("value" not in removed.json, 400, 415) == (True, wrong.status, media.status)


async def test_a_guest_signs_in(house: House) -> None:
    """What the visitor had is the user's; its page may go on; nobody else can claim it, and it can be undone."""
    visit = (await house.ask("POST", "/v1/conversations", token="")).json
    path, ada, eve = f"/v1/conversations/{visit['id']}", await house.token("ada"), await house.token("eve")
    await house.ask("POST", f"{path}/messages", {"content": "hi"}, token=visit["token"])
    before = await house.ask("GET", path, token=ada)
    claimed = await house.ask("POST", "/v1/me/claim", {"guest": visit["token"]}, token=ada)
    after = [await house.ask("GET", path, token=token) for token in (ada, eve)]
    again = await house.ask("POST", f"{path}/messages", {"content": "late"}, token=visit["token"])
    stolen = await house.ask("POST", "/v1/me/claim", {"guest": visit["token"]}, token=eve)
    listed = await house.list(ada)
    guest = claimed.json["guest"]
    undone = [await house.ask("DELETE", f"/v1/me/claim/{guest}", token=token) for token in (eve, ada, ada)]
    gone = await house.ask("GET", path, token=ada)

    assert (404, 200, "ada") == (before.status, claimed.status, claimed.json["user"])
    assert [200, 404] == [answer.status for answer in after]
    assert (200, 409) == (again.status, stolen.status)
    assert [visit["id"]] == [one["id"] for one in listed["conversations"]]
    assert [404, 204, 404] == [answer.status for answer in undone]
    assert 404 == gone.status
    for useless in ("nonsense", ada, (await house.ask("POST", f"{path}/tokens", {})).json["token"]):
        assert 404 == (await house.ask("POST", "/v1/me/claim", {"guest": useless}, token=eve)).status


async def test_a_token_that_may_not_send_begins_and_claims_nothing(house: House) -> None:
    """A device that was given the right to read changes nothing of what the user has: neither by a new conversation nor by a guest's."""
    ada, reader = await house.token("ada"), await house.token("ada", scopes=["read"])
    earlier, guest = await house.token("guest:earlier"), await house.token("guest:7f3a")
    for token, id in ((earlier, "e"), (guest, "g")):
        await house.ask("POST", f"/v1/conversations/{id}/messages", {"content": "hi"}, token=token)
    assert 200 == (await house.ask("POST", "/v1/me/claim", {"guest": earlier}, token=ada)).status
    refused = [
        await house.ask("POST", "/v1/conversations", {"id": "new"}, token=reader),
        await house.ask("POST", "/v1/me/claim", {"guest": guest}, token=reader),
        await house.ask("DELETE", "/v1/me/claim/guest:earlier", token=reader),
    ]

    assert [403] * 3 == [answer.status for answer in refused]
    assert ["'send'" in answer.json["detail"] for answer in refused] == [True] * 3
    assert ["e"] == [one["id"] for one in (await house.list(reader))["conversations"]]
    sender = await house.token("ada", scopes=["send"])
    assert 201 == (await house.ask("POST", "/v1/conversations", {"id": "new"}, token=sender)).status
    assert 403 == (await house.ask("GET", "/v1/me/conversations", token=sender)).status


async def test_a_guests_own_token_ends_with_the_claim(house: House) -> None:
    """And what it had is the user's."""
    guest, ada = await house.token("guest:7f3a"), await house.token("ada")
    await house.ask("POST", "/v1/conversations/g/messages", {"content": "hi"}, token=guest)
    await house.ask("POST", "/v1/me/claim", {"guest": guest}, token=ada)
    ended = await house.ask("GET", "/v1/me/conversations", token=guest)

    assert 401 == ended.status
    assert ["g"] == [one["id"] for one in (await house.list(ada))["conversations"]]
    assert 200 == (await house.ask("POST", "/v1/conversations/g/messages", {"content": "on"}, token=ada)).status


async def test_an_operator_erases_a_user(house: House) -> None:
    """With a receipt, and one entry in the audit log; no user does it."""
    token = await house.token("ada")
    await house.ask("PUT", "/v1/conversations/a", {"title": "A"}, token=token)
    refused = await house.ask("DELETE", "/v1/users/ada", token=token)
    done = await house.ask("DELETE", "/v1/users/ada")
    after = await house.ask("GET", "/v1/me", token=token)
    there = await house.ask("GET", "/v1/conversations/a")
    acts = (await house.ask("GET", "/v1/audit")).json["acts"]

    assert [("user:erase", "ada")] == [(act["act"], act["label"]) for act in acts if act["act"] != "token:create"]
    assert (403, 200, 401, 404) == (refused.status, done.status, after.status, there.status)
    assert ("ada", ["a"], 1) == (done.json["user"], done.json["conversations"], done.json["tokens"])


async def test_what_cannot_be_read_is_shown_as_that_and_deleted_by_its_owner(house: House) -> None:
    """At the desk too; it was shown as an empty one, and answered with 500."""
    token = await house.token("ada")
    for name in ("a", "b"):
        await house.ask("PUT", f"/v1/conversations/{name}", {"title": name}, token=token)
    store = house.keep._engine.store
    store.gateway.driver = Damaged(store.driver, Key("", "a"))
    listed = (await house.list(token))["conversations"]
    desk = (await house.ask("GET", "/v1/desk/conversations")).json["conversations"]
    gone = await house.ask("DELETE", "/v1/conversations/a", token=token)

    for shown in (listed, desk):
        assert {"a": True, "b": False} == {one["id"]: "cannot be read" in one.get("fault", "") for one in shown}
    assert 204 == gone.status
    assert ["b"] == [one["id"] for one in (await house.list(token))["conversations"]]


SAYS = {"id": "{id}", "messages": [{"id": "m", "role": "user", "parts": [{"type": "text", "text": "hi"}]}]}
RUN = {"threadId": "{id}", "runId": "r", "messages": [], "tools": [], "context": [], "state": {}}
ANSWERED = {name: name_answer(name, 1) for name in ("trip", "shop")}


def rpc(method: str, **params: Any) -> dict[str, Any]:
    """A call of a method."""
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}


STRANGE = [
    *(
        (method, f"/v1/conversations/{{id}}{rest}", None if method in ("GET", "DELETE") else {})
        for rest in ("", "/messages", "/state", "/state/form", "/events", "/stop", "/tokens", "/shares", "/messages/m1")
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE")
    ),
    ("POST", "/api/chat", SAYS),
    ("GET", "/api/chat/{id}", None),
    ("POST", "/agui", RUN),
    ("POST", "/v1/responses", {"conversation": "{id}", "input": "hi"}),
    ("GET", "/v1/responses/resp_{answer}", None),
    ("GET", "/streams/{id}/messages?offset=-1", None),
    ("POST", "/a2a", rpc("GetTask", id="task_{answer}")),
    ("POST", "/a2a", rpc("ListTasks", contextId="{id}")),
    ("POST", "/mcp", rpc("tasks/result", taskId="task_{answer}")),
]
"""What a user may ask of a conversation."""


async def test_a_stranger_is_answered_of_it_as_of_any_other(url: str) -> None:
    """On every address of a conversation, and by every protocol; it was 500. Its owner, who comes in between, has it still."""
    spoken = ("aisdk", "agui", "responses", "a2a", "durable_streams", "mcp")
    async with housed(url, protocols=spoken) as house:
        eve, ada = await house.token("eve"), await house.token("ada")
        for name in ANSWERED:
            await house.ask("POST", f"/v1/conversations/{name}/messages", {"content": "hi"}, token=ada)
        store = house.keep._engine.store
        store.forget(Key("", "trip"))
        store.gateway.driver = Damaged(store.driver, Key("", "trip"))
        for method, path, body in STRANGE:
            found = []
            for name in ANSWERED:
                path_of, body_of = (
                    text.replace("{id}", name).replace("{answer}", ANSWERED[name]) for text in (path, json.dumps(body))
                )
                answer = await house.ask(method, path_of, json.loads(body_of), token=eve, A2A_Version="1.0")
                told = answer.body.decode().replace(ANSWERED[name], "?").replace(name, "?")
                found.append((answer.status, re.sub('"timestamp":[^,}]*', "", told)))

            assert found[0] == found[1], (method, path)
            assert found[0][0] < 500, (method, path, found)
        gone = await house.ask("DELETE", "/v1/conversations/trip", token=ada)

    assert 204 == gone.status


async def test_the_application_says_who_the_user_is(url: str) -> None:
    """By a session or a token of its own; a browser's session changes nothing from another site."""
    sessions = {"s1": "ada", "s2": "eve"}

    async def users(request: Any) -> str | None:
        given = request.cookies.get("session") or request.headers.get("authorization", "").removeprefix("Bearer jwt-")
        return sessions.get(given)

    async with housed(url, users=users, anonymous=True) as house:
        here = {"Sec_Fetch_Site": "same-origin"}
        sent = await house.ask(
            "POST", "/v1/conversations/c/messages", {"content": "hi"}, token="", Cookie="session=s1", **here
        )
        elsewhere = await house.ask(
            "POST", "/v1/conversations/c/messages", {"content": "hi"}, token="", Cookie="session=s1"
        )
        by_token = await house.list("jwt-s1")
        eves = await house.ask("GET", "/v1/conversations/c", token="jwt-s2")
        nobody = await house.ask("GET", "/v1/me/conversations", token="jwt-s3")
        share = await house.ask("POST", "/v1/conversations/c/shares", {}, token="jwt-s1")
        service = await house.ask("GET", "/v1/conversations/c")

    assert (200, 403) == (sent.status, elsewhere.status)
    assert ["c"] == [one["id"] for one in by_token["conversations"]]
    assert (404, 401, 201, "ada") == (eves.status, nobody.status, share.status, service.json["owner"])


async def test_a_stream_tells_what_changes(house: House) -> None:
    """Changes and deletions, with a cursor to go on from; it ends with the token."""
    token = await house.token("ada")
    await house.ask("PUT", "/v1/conversations/a", {"title": "A"}, token=token)
    cursor = (await house.list(token))["cursor"]
    reader, writer = await asyncio.open_connection("127.0.0.1", house.client.port)
    try:
        lines = f"GET /v1/me/events?since={cursor} HTTP/1.1", "Host: localhost", f"Authorization: Bearer {token}"
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        await house.ask("PUT", "/v1/conversations/a", {"title": "B"}, token=token)
        await house.ask("PUT", "/v1/conversations/b", {"title": "new"}, token=token)
        await house.ask("DELETE", "/v1/conversations/b", token=token)
        async with asyncio.timeout(10):
            said = await reader.readuntil(b"event: cursor")
            ended = asyncio.create_task(reader.readuntil(b"event: end"))
            await house.ask("DELETE", "/v1/me/tokens/current", token=token)
            await ended
    finally:
        writer.close()

    assert b'"title":"B"' in said


async def test_a_sync_costs_what_has_changed(house: House) -> None:
    """Ten changes are as many bytes beside 300 conversations as beside 30, compressed for who reads that."""

    async def cost(user: str, count: int) -> tuple[int, int]:
        ada = house.keep.user(user)
        for number in range(count):
            await ada.save(
                f"{user}-{number:03}", title=f"About {number:03}", messages=[{"id": "m", "content": "x" * 500}]
            )
        token, more, query = await house.token(user), True, "?since="
        while more:
            told = await house.list(token, query)
            more, query = told.get("more", False), f"?since={told['cursor']}"
        for number in range(10):
            await ada.save(f"{user}-{number:03}", messages=[{"id": "new", "content": "One more"}])
        plain = await house.ask("GET", f"/v1/me/conversations{query}", token=token)
        packed = await house.ask("GET", f"/v1/me/conversations{query}", token=token, Accept_Encoding="gzip, br")
        assert "gzip" == packed.headers["content-encoding"]
        assert plain.body == gzip.decompress(packed.body)
        assert 10 == len(plain.json["conversations"])
        return len(plain.body), len(packed.body)

    few, many = await cost("ada", 30), await cost("eve", 300)

    assert many[0] < few[0] + 3000  # the cursor says what of the last half minute was told
    assert many[0] < 10 * 400 + 3000
    assert many[1] < 10 * 120 + 3000
