"""The state over HTTP: its ETag, its slots, and that nobody overwrites what they have not seen."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic.alias_generators import to_camel

from chatkeep import Chatkeep, Turn
from chatkeep.auth.credentials import issue_token
from chatkeep.server import state

from ..support.serving import PROBLEM, Answer, Client, path_of, served

HERE = "/v1/conversations/ada/state"
MERGE = "application/merge-patch+json"


def keeping(url: str = "memory://", **options: Any) -> Chatkeep[Any]:
    """A Chatkeep whose bot leaves the state alone."""
    keep: Chatkeep[Any] = Chatkeep(url, **options)

    @keep.on_message
    async def bot(turn: Turn[Any]) -> str:
        return "yes"

    return keep


async def put(client: Client, path: str, value: Any, **headers: str) -> Answer:
    """Puts a value."""
    return await client.ask("PUT", path, json.dumps(value).encode(), named(headers))


async def patch(client: Client, value: Any, **headers: str) -> Answer:
    """Merges a patch into the state."""
    return await client.ask("PATCH", HERE, json.dumps(value).encode(), {"Content-Type": MERGE} | named(headers))


def named(headers: dict[str, str]) -> dict[str, str]:
    """if_match="..." as If-Match: ..."""
    return {name.replace("_", "-"): value for name, value in headers.items()}


# -- merge patch ------------------------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=12,
)
EXAMPLES: list[tuple[Any, Any, Any]] = [
    ({"a": "b"}, {"a": "c"}, {"a": "c"}),
    ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
    ({"a": "b"}, {"a": None}, {}),
    ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
    ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
    ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
    ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
    ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
    (["a", "b"], ["c", "d"], ["c", "d"]),
    ({"a": "b"}, ["c"], ["c"]),
    ({"a": "foo"}, None, None),
    ({"a": "foo"}, "bar", "bar"),
    ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
    ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
    ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
]
"""The test cases of RFC 7396, appendix A."""


@pytest.mark.parametrize(("target", "change", "after"), EXAMPLES)
def test_the_examples_of_the_standard(target: Any, change: Any, after: Any) -> None:
    """Appendix A of RFC 7396."""
    assert after == state.merged(target, change)


def difference(before: Any, after: Any) -> Any:
    """The patch that makes *after* of *before*, where there is one."""
    if not isinstance(before, dict) or not isinstance(after, dict):
        return after
    gone: dict[str, Any] = dict.fromkeys(before.keys() - after.keys())
    return gone | {
        name: difference(before.get(name), value) for name, value in after.items() if before.get(name, ...) != value
    }


def without_nulls(value: Any) -> Any:
    """*value* as a patch can make it: null means "remove"."""
    if isinstance(value, dict):
        return {name: without_nulls(inner) for name, inner in value.items() if inner is not None}
    return value


@given(JSON, JSON)
def test_a_patch_is_merged_as_the_standard_says(target: Any, change: Any) -> None:
    """Twice is once; neither argument is touched; null removes; what is not named stays."""
    before = json.dumps([target, change])
    after = state.merged(target, change)

    assert after == state.merged(after, change)
    assert before == json.dumps([target, change])
    if isinstance(change, dict):
        kept = target if isinstance(target, dict) else {}
        assert {name: kept[name] for name in kept.keys() - change.keys()} == {
            name: after[name] for name in after.keys() - change.keys()
        }
        assert {name for name, value in change.items() if value is not None} == change.keys() & after.keys()
    else:
        assert change == after


@given(JSON, JSON)
def test_a_difference_that_is_merged_makes_the_other(before: Any, after: Any) -> None:
    """merged(a, difference(a, b)) is b, for all that a patch can say."""
    before, after = without_nulls(before), without_nulls(after)

    assert after == state.merged(before, difference(before, after))


@given(JSON, JSON)
def test_an_etag_is_the_value(one: Any, other: Any) -> None:
    """Equal exactly for equal JSON, whatever the order of names."""
    text = [json.dumps(value, sort_keys=True) for value in (one, other)]

    assert (text[0] == text[1]) == (state.etag(one, b"x") == state.etag(other, b"x"))
    assert state.etag(one, b"x") == state.etag(json.loads(json.dumps(one, sort_keys=True)), b"x")


# -- over HTTP --------------------------------------------------------------------------------------------------------------


async def test_the_state_is_read_replaced_merged_and_cleared() -> None:
    """Each answer has the new value and its ETag, and the next read has the same."""
    async with served(keeping()) as client:
        nobody = await client.ask("GET", HERE)
        await client.post("ada", {"content": "hi"})
        empty = await client.ask("GET", HERE)
        replaced = await put(client, HERE, {"cart": ["tea"], "vip": True}, if_match=empty.headers["etag"])
        merged = await patch(client, {"vip": None, "name": {"first": "Ada"}})
        read = await client.ask("GET", HERE)
        known = await client.ask("GET", HERE, headers={"If-None-Match": f'"other", W/{read.headers["etag"]}'})
        cleared = await client.ask("DELETE", HERE)
        after = await client.ask("GET", HERE)

    assert (404, PROBLEM) == (nobody.status, nobody.headers["content-type"])
    assert (200, {}) == (empty.status, empty.json)
    assert (200, {"cart": ["tea"], "vip": True}) == (replaced.status, replaced.json)
    assert (200, {"cart": ["tea"], "name": {"first": "Ada"}}) == (merged.status, merged.json)
    assert (merged.json, merged.headers["etag"]) == (read.json, read.headers["etag"])
    assert (304, b"", read.headers["etag"]) == (known.status, known.body, known.headers["etag"])
    assert (204, b"") == (cleared.status, cleared.body)
    assert (200, {}, empty.headers["etag"]) == (after.status, after.json, after.headers["etag"])


async def test_messages_that_leave_the_state_alone_leave_its_etag_alone() -> None:
    """The tag is of the value, not of the log."""
    async with served(keeping()) as client:
        await patch(client, {"a": 1})
        before = await client.ask("GET", HERE)
        await client.post("ada", {"content": "hi"})
        after = await client.ask("GET", HERE)
        same = await put(client, HERE, {"a": 1}, if_match=before.headers["etag"])

    assert before.headers["etag"] == after.headers["etag"] == same.headers["etag"]


async def test_who_replaces_says_what() -> None:
    """PUT without a precondition is 428; a wrong one is 412 with what is there; a weak tag is never enough."""
    async with served(keeping()) as client:
        there = await patch(client, {"a": 1})
        bare = await put(client, HERE, {"a": 2})
        stale = [
            await put(client, HERE, {"a": 2}, if_match='"old"'),
            await put(client, HERE, {"a": 2}, if_match=f"W/{there.headers['etag']}"),
            await put(client, HERE, {"a": 2}, if_none_match="*"),
            await patch(client, {"a": 2}, if_match='"old", "older"'),
            await client.ask("DELETE", HERE, headers={"If-Match": '"old"'}),
        ]
        wrong = [await put(client, HERE, {"a": 2}, if_match=tag) for tag in ('"old', '*, "a"', 'a"b', "a b")]
        untouched = await client.ask("GET", HERE)
        any_one = await put(client, HERE, {"a": 2}, if_match="*")
        listed = await patch(client, {"b": 1}, if_match=f'"old", {any_one.headers["etag"]}')
        bare_tag = await patch(client, {"b": None}, if_match=listed.headers["etag"].strip('"'))

    assert (428, "urn:chatkeep:precondition-required") == (bare.status, bare.json["type"])
    for answer in stale:
        assert (412, PROBLEM, "urn:chatkeep:precondition-failed") == (
            answer.status,
            answer.headers["content-type"],
            answer.json["type"],
        )
        assert (there.headers["etag"], {"a": 1}) == (answer.json["etag"], answer.json["state"])
    assert [400] * 4 == [answer.status for answer in wrong]
    assert {"a": 1} == untouched.json
    assert ({"a": 2}, {"a": 2, "b": 1}, {"a": 2}) == (any_one.json, listed.json, bare_tag.json)


async def test_a_slot_is_a_resource_of_its_own() -> None:
    """Its own value and ETag; created with If-None-Match, replaced with If-Match, cleared; any name."""
    slot = f"{HERE}/form"
    async with served(keeping()) as client:
        await patch(client, {"other": 1})
        absent = await client.ask("GET", slot)
        early = await put(client, slot, {"x": 1}, if_match="*")
        created = await put(client, slot, {"x": 1}, if_none_match="*")
        again = await put(client, slot, {"x": 2}, if_none_match="*")
        await patch(client, {"other": 2})
        replaced = await put(client, slot, None, if_match=created.headers["etag"])
        read = await client.ask("GET", slot)
        stale = await client.ask("DELETE", slot, headers={"If-Match": created.headers["etag"]})
        cleared = [(await client.ask("DELETE", slot)).status for _ in range(2)]
        odd = [
            await put(client, f"{HERE}/{name}", 1, if_none_match="*") for name in ("a%2Fb", "messages", "%F0%9F%8D%95")
        ]
        whole = await client.ask("GET", HERE)

    assert (404, "urn:chatkeep:not-found") == (absent.status, absent.json["type"])
    assert "no slot 'form'" in absent.json["detail"]
    assert (412, None, None) == (early.status, early.json["etag"], early.json["state"])
    assert "There is no slot 'form'" in early.json["detail"]
    assert "If-None-Match" in early.json["detail"]
    assert (200, {"x": 1}) == (created.status, created.json)
    assert (412, {"x": 1}, created.headers["etag"]) == (again.status, again.json["state"], again.json["etag"])
    assert (200, None) == (replaced.status, replaced.json)
    assert (200, None, replaced.headers["etag"]) == (read.status, read.json, read.headers["etag"])
    assert 412 == stale.status
    assert [204, 204] == cleared
    assert [200] * 3 == [answer.status for answer in odd]
    assert {"other": 2, "a/b": 1, "messages": 1, "🍕": 1} == whole.json


async def test_of_many_writers_from_one_etag_one_wins(url: str) -> None:
    """Ten PUTs at once from the same ETag: one 200, nine 412; ten PATCHes of different members: all are there."""
    async with served(keeping(url)) as client:
        tag = (await patch(client, {"n": 0})).headers["etag"]
        raced = await asyncio.gather(*[put(client, HERE, {"n": number}, if_match=tag) for number in range(1, 11)])
        won = [answer.json for answer in raced if answer.status == 200]
        await asyncio.gather(*[patch(client, {f"m{number}": number}) for number in range(10)])
        after = await client.ask("GET", HERE)

    assert [200] + [412] * 9 == sorted(answer.status for answer in raced)
    assert won[0] | {f"m{number}": number for number in range(10)} == after.json


async def test_a_write_that_is_sent_again_is_made_once(url: str) -> None:
    """Under an Idempotency-Key the second finds it done: 200 with what is there, not 412, and no later write undone."""
    async with served(keeping(url)) as client:
        tag = (await patch(client, {"n": 0})).headers["etag"]
        first = await put(client, HERE, {"n": 1}, if_match=tag, idempotency_key='"w1"')
        again = await put(client, HERE, {"n": 1}, if_match=tag, idempotency_key='"w1"')
        await patch(client, {"n": 2})
        late = await put(client, HERE, {"n": 1}, if_match=tag, idempotency_key='"w1"')

    assert [(200, {"n": 1}), (200, {"n": 1}), (200, {"n": 2})] == [
        (answer.status, answer.json) for answer in (first, again, late)
    ]


@dataclass
class Order:
    """A state as a dataclass."""

    items: list[str] = field(default_factory=list)
    seats: int = 1


class Booking(msgspec.Struct):
    """A state as a msgspec Struct."""

    items: list[str] = []
    seats: int = 1


class Ticket(pydantic.BaseModel):
    """A state as a pydantic model."""

    items: list[str] = []
    seats: int = 1


@pytest.mark.parametrize("kind", [dict, Order, Booking, Ticket])
async def test_a_state_that_does_not_fit_changes_nothing(kind: type[Any]) -> None:
    """422 for the wrong type, and what the bot is given next is of the application's own type."""
    keep: Chatkeep[Any] = Chatkeep("memory://", state=kind)

    @keep.on_message
    async def bot(turn: Turn[Any]) -> str:
        return type(turn.state).__name__

    async with served(keep) as client:
        good = await patch(client, {"items": ["tea"], "seats": 2})
        wrong = [await put(client, HERE, value, if_match="*") for value in ([1], "x", 1, None)]
        if kind is not dict:
            wrong.append(await patch(client, {"seats": "many"}))
            wrong.append(await put(client, f"{HERE}/items", 7, if_match="*"))
            wrong.append(await put(client, f"{HERE}/nothing", 7, if_none_match="*"))
        after = await client.ask("GET", HERE)
        said = await client.post("ada", {"content": "hi"})
        cleared = await client.ask("DELETE", f"{HERE}/seats")
        left = await client.ask("GET", HERE)

    assert (200, {"items": ["tea"], "seats": 2}) == (good.status, good.json)
    assert {(422, "urn:chatkeep:bad-state")} == {(answer.status, answer.json["type"]) for answer in wrong}
    assert good.json == after.json
    assert kind.__name__ == said.json["replies"][0]["content"]
    assert 204 == cleared.status
    assert ({"items": ["tea"]} | ({} if kind is dict else {"seats": 1})) == left.json


class Camel(pydantic.BaseModel):
    """With other names outside, a computed member, and a member that is never shown."""

    model_config = pydantic.ConfigDict(alias_generator=to_camel, extra="forbid")
    customer_name: str = ""
    items: list[Ticket] = []
    hidden: int = pydantic.Field(0, exclude=True)

    @pydantic.computed_field
    @property
    def count(self) -> int:
        """Derived."""
        return len(self.items)


@dataclass
class Cart:
    """With dataclasses in it."""

    lines: list[Order] = field(default_factory=list)
    by_name: dict[str, Booking] = field(default_factory=dict)


async def test_a_member_that_the_state_has_not_is_refused_wherever_it_is() -> None:
    """422 with its path, by PUT, PATCH and in a slot: 200 would say that it is kept."""
    async with served(keeping(state=Cart)) as client:
        good = await patch(client, {"lines": [{"seats": 2}], "by_name": {"a": {"seats": 3}}})
        wrong = {
            "nothing": await patch(client, {"nothing": 1}),
            "lines[1].seat": await patch(client, {"lines": [{"seats": 2}, {"seat": 2}]}),
            "by_name.a.seat": await patch(client, {"by_name": {"a": {"seat": 2}}}),
            "lines[0].x": await put(client, f"{HERE}/lines", [{"x": 1}], if_match="*"),
            "other": await put(client, HERE, {"other": 1}, if_match="*"),
        }
        after = await client.ask("GET", HERE)

    assert 200 == good.status
    for path, answer in wrong.items():
        assert (422, "urn:chatkeep:bad-state") == (answer.status, answer.json["type"])
        assert f"no slot {path}." in answer.json["detail"]
    assert good.json == after.json


async def test_a_whole_number_of_a_typed_state_may_be_written_with_a_point() -> None:
    """47.0 is 47 to JSON, at every depth; 1.5 is no whole number."""
    async with served(keeping(state=Cart)) as client:
        merged = await patch(client, {"lines": [{"seats": 2.0}]})
        replaced = await put(client, f"{HERE}/by_name", {"a": {"seats": 3.0}}, if_match="*")
        refused = await patch(client, {"lines": [{"seats": 1.5}]})
        after = (await client.ask("GET", HERE)).json

    assert [200, 200, 422] == [merged.status, replaced.status, refused.status]
    assert (2, 3) == (after["lines"][0]["seats"], after["by_name"]["a"]["seats"])


async def test_what_is_shown_can_be_put_back() -> None:
    """Also of a model with aliases, computed members and extra="forbid"; what is not shown cannot be written."""
    async with served(keeping(state=Camel)) as client:
        made = await patch(client, {"customer_name": "ada", "items": [{"seats": 2}]})
        back = await put(client, HERE, made.json, if_match=made.headers["etag"])
        alias = await patch(client, {"customerName": "bob"})
        hidden = await patch(client, {"hidden": 5})
        after = await client.ask("GET", HERE)

    assert {"customer_name": "ada", "items": [{"items": [], "seats": 2}]} == made.json
    assert [200, 422, 422] == [back.status, alias.status, hidden.status]
    assert (made.json, made.headers["etag"]) == (after.json, after.headers["etag"])


class Anything(pydantic.BaseModel):
    """What older code stored."""

    items: Any = []
    seats: Any = 1


@pytest.mark.parametrize("kind", [Order, Booking, Ticket])
async def test_a_state_that_cannot_be_read_is_cleared(kind: type[Any]) -> None:
    """By DELETE of the slot that is wrong, or of all; the rest says that it cannot be read."""
    store = f"memory://broken-{kind.__name__}"
    async with keeping(store, state=Anything) as old:
        await old.change("ada", lambda state: Anything(seats="many", items=["tea"]))
        await old.change("bob", lambda state: Anything(seats="many"))
    async with served(keeping(store, state=kind)) as client:
        unread = await client.ask("GET", HERE)
        patched = await patch(client, {"seats": 2})
        other = await client.ask("DELETE", f"{HERE}/nothing")
        slot = await client.ask("DELETE", f"{HERE}/seats", headers={"Idempotency-Key": '"d1"'})
        again = await client.ask("DELETE", f"{HERE}/seats", headers={"Idempotency-Key": '"d1"'})
        after = await client.ask("GET", HERE)
        whole = await client.ask("DELETE", HERE.replace("ada", "bob"), headers={"If-Match": "*"})
        bob = await client.ask("GET", HERE.replace("ada", "bob"))

    assert [(500, "urn:chatkeep:corrupt")] * 2 == [(a.status, a.json["type"]) for a in (unread, patched)]
    assert "can be cleared" in unread.json["detail"]
    assert [400, 204, 204] == [other.status, slot.status, again.status]
    assert (200, {"items": ["tea"], "seats": 1}) == (after.status, after.json)
    assert (204, 200, {"items": [], "seats": 1}) == (whole.status, bob.status, bob.json)


async def test_what_cannot_be_stored_is_refused_and_leaves_the_state() -> None:
    """NUL, too large, too deep, huge numbers, names twice, the wrong type of body."""
    async with served(keeping(state_limit=1000, message_limit=1000)) as client:
        await patch(client, {"a": 1})
        bad = {
            b'{"a":"\\u0000"}': 422,
            b'{"a":99999999999999999999}': 422,
            b'{"a":1e999}': 400,
            b'{"a":"' + b"x" * 1500 + b'"}': 413,
            b'{"a":"' + b"x" * 5000 + b'"}': 413,
            b'{"a":' + b"[" * 70 + b"]" * 70 + b"}": 400,
            b'{"a":1,"a":2}': 400,
            b'{"a":"\\ud800"}': 400,
            b"": 400,
            b"{": 400,
        }
        found = {body: (await client.ask("PATCH", HERE, body, {"Content-Type": MERGE})).status for body in bad}
        plain = await client.ask("PATCH", HERE, b'{"a":2}')
        after = await client.ask("GET", HERE)

    assert bad == found
    assert (415, MERGE) == (plain.status, plain.headers["accept"])
    assert {"a": 1} == after.json


async def test_scopes_decide_who_reads_and_who_writes() -> None:
    """Who may write and not read is not shown the state: not in a 200, not in a 412."""
    keep = keeping()
    async with served(keep) as client:
        await patch(client, {"secret": "tulip"})
        tokens = {
            scope: {"Authorization": f"Bearer {(await issue_token(keep, '', 'ada', scopes=[scope])).token}"}
            for scope in ("read", "state:read", "state:write")
        }
        statuses = {
            scope: [
                (await client.ask("GET", HERE, headers=key)).status,
                (await client.ask("PATCH", HERE, b"{}", {"Content-Type": MERGE} | key)).status,
            ]
            for scope, key in tokens.items()
        }
        stale = await client.ask("PUT", HERE, b"{}", {"If-Match": '"x"'} | tokens["state:write"])
        shown = await client.ask("GET", "/v1/conversations/ada", headers=tokens["read"])

    assert {"read": [403, 403], "state:read": [200, 403], "state:write": [403, 204]} == statuses
    assert 412 == stale.status
    assert b"tulip" not in stale.body
    assert "state" not in shown.json


async def test_a_token_of_an_empty_conversation_reads_an_empty_state() -> None:
    """Its own conversation is there for it before anything is in it; reading and clearing create nothing."""
    keep = keeping()
    async with served(keep) as client:
        issued = await issue_token(keep, "", "ada", scopes=["read", "state:read", "state:write"])
        key = {"Authorization": f"Bearer {issued.token}"}
        read = await client.ask("GET", HERE, headers=key)
        cleared = await client.ask("DELETE", HERE, headers=key)
        conversation = await client.ask("GET", "/v1/conversations/ada", headers=key)
        log = await client.ask("GET", path_of("ada"), headers=key)
        kept = await keep.conversation("ada")
        service = await client.ask("DELETE", HERE)

    assert (200, {}) == (read.status, read.json)
    assert 204 == cleared.status
    shown = conversation.json
    assert (200, "ada", [], {}) == (conversation.status, shown["id"], shown["messages"], shown["state"])
    assert (200, []) == (log.status, log.json["messages"])
    assert kept is None
    assert 404 == service.status


@dataclass
class Older:
    """A state as an older version of the application has it."""

    note: str = ""
    at: dict[str, int] = field(default_factory=dict)


@dataclass
class Newer(Older):
    """As a newer one has it."""

    address: str = ""


async def test_what_newer_code_has_added_is_kept_by_a_server_of_the_older_version(tmp_path: Any) -> None:
    """A patch, a slot and a whole state; only clearing the state clears it."""
    url = f"sqlite:///{tmp_path}/chat.db"

    async def address() -> str:
        async with Chatkeep(url, state=Newer) as keep:
            found = await keep.conversation("ada")
            assert found is not None
            return found.state.address

    def arrived(newer: Newer) -> None:
        newer.address, newer.note, newer.at = "5 High Street", "hi", {"x": 1}

    async with Chatkeep(url, state=Newer) as keep:
        await keep.change("ada", arrived)
    async with served(keeping(url, state=Older)) as client:
        assert {"note": "hi", "at": {"x": 1}} == (await client.ask("GET", HERE)).json
        assert 200 == (await patch(client, {"note": None, "at": {"y": 2}})).status
        assert 200 == (await put(client, f"{HERE}/note", "there", if_none_match='"x"')).status
        assert 200 == (await put(client, HERE, {"note": "all"}, if_match="*")).status
        tag = (await client.ask("GET", f"{HERE}/note")).headers["etag"]
        assert 204 == (await client.ask("DELETE", f"{HERE}/note", headers={"If-Match": tag})).status
        assert 204 == (await client.ask("DELETE", f"{HERE}/at")).status
        refused = await patch(client, {"address": "elsewhere"})
        assert (422, PROBLEM) == (refused.status, refused.headers["content-type"])
    assert "5 High Street" == await address()
    async with served(keeping(url, state=Older)) as client:
        tag = (await client.ask("GET", HERE)).headers["etag"]
        assert 204 == (await client.ask("DELETE", HERE, headers={"If-Match": tag})).status
    assert "" == await address()


@pytest.mark.parametrize("kind", [None, Older])
async def test_a_number_that_a_browser_would_change_is_refused(kind: Any) -> None:
    """In the state, in a slot, in a part and in metadata: 422, with what to do."""
    async with served(keeping(**({"state": kind} if kind else {}))) as client:
        await client.post("ada", "hi")
        answers = [
            await patch(client, {"at": {"x": 2**53 + 1}}),
            await put(client, HERE, {"at": {"x": 2**53}}, if_match="*"),
            await put(client, f"{HERE}/at", {"x": -(2**60)}, if_none_match='"x"'),
            await client.post("ada", {"content": [{"type": "card", "id": 2**53 + 1}]}),
            await client.post("ada", {"content": "hi", "metadata": {"id": 2**63 - 1}}),
        ]
        for answer in answers:
            assert (422, PROBLEM) == (answer.status, answer.headers["content-type"])
            assert "keep it as text" in answer.json["detail"]
        assert 200 == (await patch(client, {"at": {"x": 2**53 - 1}})).status
