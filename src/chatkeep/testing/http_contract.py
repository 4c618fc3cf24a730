"""What every server of conversations must answer over HTTP, one test for each clause: `chatkeep serve`, the worker of Durable Objects,
or one of your own. Say where yours is, and run it under pytest:

    class TestMine(HttpContract):
        @pytest.fixture(autouse=True)
        def serve(self, mine):
            self.address = "http://127.0.0.1:8000"     # /v1 is there
            self.key = mine.service_key

Visitors are let in there, with the scopes read, send, state:read and state:write, and a bot answers each message with "you said ..."
and keeps the last one as the slot `last` of the state. Tests are coroutines: they need pytest-asyncio in auto mode, or its mark on
the class.
"""

from __future__ import annotations

import json
import secrets
import time
from asyncio import timeout
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from ..extras import from_extra

with from_extra("client", "chatkeep.testing.http_contract"):
    from aiohttp import ClientSession

SLOT = "state/booking%20form"
MERGE_PATCH = {"content-type": "application/merge-patch+json"}


class HttpAnswer(NamedTuple):
    """What a server said."""

    status: int
    headers: dict[str, str]
    text: str

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.text)

    @property
    def etag(self) -> str:
        """The tag of the value."""
        return self.headers["etag"]

    @property
    def word(self) -> str:
        """The type of a problem document."""
        assert self.headers["content-type"].startswith("application/problem+json"), self
        assert self.status == self.json["status"]
        assert {"type", "title", "detail"} <= self.json.keys()
        return str(self.json["type"]).removeprefix("urn:chatkeep:")


class HttpUser:
    """Somebody with a credential, and a conversation."""

    def __init__(self, http: ClientSession, address: str, token: str = "", conversation: str = "") -> None:
        self.http, self.address, self.token, self.id = http, address, token, conversation

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> HttpAnswer:
        """Send a request; *path* is one under the conversation's, or begins with a slash; *body* is JSON, or its text."""
        own = f"/conversations/{self.id}{path if path.startswith('?') or not path else f'/{path}'}"
        whole = f"{self.address}/v1{path if path.startswith('/') else own}"
        told = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.token:
            told.setdefault("authorization", f"Bearer {self.token}")
        data = None if body is None else body if isinstance(body, str) else json.dumps(body)
        if data is not None:
            told.setdefault("content-type", "application/json")
        skipped = ["content-type"]  # (which aiohttp sends with nothing, too)
        async with self.http.request(method, whole, data=data, headers=told, skip_auto_headers=skipped) as answer:
            named = {name.lower(): value for name, value in answer.headers.items()}
            return HttpAnswer(answer.status, named, await answer.text())

    async def say(self, content: Any, id: str, **headers: str) -> HttpAnswer:
        """Send a message."""
        return await self.ask("POST", "messages", {"content": content, "id": id}, **headers)


class Asked:
    """Where a server is, and who asks it."""

    address: str
    """Where the server is, without /v1."""
    key: str
    """A service key of the tenant ""."""

    @asynccontextmanager
    async def visiting(self, count: int = 1) -> AsyncIterator[Any]:
        """Let a visitor in, or several: `async with self.visiting() as visitor`."""
        async with ClientSession() as http:
            found = []
            for _ in range(count):
                begun = await HttpUser(http, self.address).ask("POST", "/conversations")
                assert 201 == begun.status, begun
                found.append(HttpUser(http, self.address, begun.json["token"], begun.json["id"]))
            yield found[0] if count == 1 else found

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[HttpUser]:
        """Ask with the service key, about a conversation that is not there yet."""
        async with ClientSession() as http:
            yield HttpUser(http, self.address, self.key, secrets.token_hex(8))


class Ownership(Asked):
    """Whose a conversation is."""

    async def test_a_visitor_is_given_a_conversation_and_its_token(self) -> None:
        """Both are told once; the token is good for that conversation only, and says whose it is."""
        async with self.visiting(2) as (ada, bob):
            me, other = await ada.ask("GET", "/me"), await bob.ask("GET", "/me")
            strangers = [
                await bob.ask(method, f"/conversations/{ada.id}{path}", body)
                for method, path, body in (
                    ("GET", "", None),
                    ("GET", "/messages", None),
                    ("POST", "/messages", {"content": "hello"}),
                    ("GET", "/state", None),
                    ("DELETE", "", None),
                )
            ]

        assert (200, ada.id, "visitor", "") == (
            me.status,
            *(me.json[name] for name in ("conversation", "kind", "tenant")),
        )
        assert ["read", "send", "state:read", "state:write"] == me.json["scopes"]
        assert me.json["subject"] != other.json["subject"]
        assert [(404, "not-found")] * 5 == [(answer.status, answer.word) for answer in strangers]

    async def test_who_has_no_right_learns_nothing(self) -> None:
        """No credential, one that is unknown, mistyped or of another kind: 401, the same for each."""
        async with self.visiting() as ada:
            typo = ada.token[:-1] + ("1" if ada.token[-1] == "0" else "0")
            tokens = ["", "ck_c_" + "0" * 49, ada.token[:-1] + "?", typo, "x"]
            guests = [HttpUser(ada.http, ada.address, token, ada.id) for token in tokens]
            refused = [await guest.ask("GET", "") for guest in guests]
            another = await ada.ask("GET", "", chatkeep_subject="0" * 32)

        assert [(401, "unauthorized")] * 5 == [(answer.status, answer.word) for answer in refused]
        assert {"bearer"} == {answer.headers["www-authenticate"].lower() for answer in refused}
        assert (401, "other-subject") == (another.status, another.word)

    async def test_a_service_key_begins_conversations(self) -> None:
        """Under an id and for an owner of its choice, once, and for no other owner; what was not begun is not there."""
        async with self.serving() as service:
            before = await service.ask("GET", "")
            first = await service.ask("POST", "/conversations", {"id": service.id, "owner": "eve"})
            other = await service.ask("POST", "/conversations", {"id": service.id, "owner": "bob"})
            again = await service.ask("POST", "/conversations", {"id": service.id})
            there = await service.ask("GET", "")

        assert (404, 201, 200, 200) == (before.status, first.status, again.status, there.status)
        assert f"/v1/conversations/{service.id}" == first.headers["location"]
        assert {"id": service.id, "revision": there.json["revision"], "created": True} == first.json
        assert first.json | {"created": False} == again.json
        assert (409, "other-owner", True) == (other.status, other.word, "'eve'" in other.json["detail"])
        assert ("eve", f'"{there.json["revision"]}"') == (there.json["owner"], there.etag)

    async def test_an_erased_conversation_takes_its_tokens_with_it(self) -> None:
        """Nothing of it is left, and who had a right to it has none any more."""
        async with self.visiting() as ada, self.serving() as service:
            await ada.say("hello", "m1")
            forbidden = await ada.ask("DELETE", "")
            erased = await service.ask("DELETE", f"/conversations/{ada.id}")
            gone = await service.ask("GET", f"/conversations/{ada.id}"), await ada.ask("GET", "")

        assert (403, "forbidden", 204) == (forbidden.status, forbidden.word, erased.status)
        assert [404, 401] == [answer.status for answer in gone]


class Messages(Asked):
    """What is said, and the log of it."""

    async def test_a_message_that_waited_begins_nothing_anew(self) -> None:
        """With `If-Match: *` it is taken where the conversation is, and not where that was erased."""
        async with self.visiting() as ada, self.serving() as service:
            at, match = f"/conversations/{ada.id}/messages", {"if-match": "*"}
            await ada.say("hello", "m1")
            there = await service.ask("POST", at, {"content": "still here", "id": "m2"}, **match)
            await service.ask("DELETE", f"/conversations/{ada.id}")
            late = await service.ask("POST", at, {"content": "late", "id": "m3"}, **match)
            gone = await service.ask("GET", f"/conversations/{ada.id}")
            anew = await service.ask("POST", at, {"content": "late", "id": "m3"})

        assert (200, 412, "precondition-failed", 404, 200) == (
            there.status,
            late.status,
            late.word,
            gone.status,
            anew.status,
        )

    async def test_a_message_is_taken_at_the_revision_that_was_read(self) -> None:
        """With that of the conversation in `If-Match`, or a list with it, and not where it has changed since; nothing is written then. What
        is sent again, after its answer was lost, has changed the revision itself, and is answered as any redelivery."""
        async with self.visiting() as ada:
            await ada.say("hello", "m1")
            read = (await ada.ask("GET", "")).etag
            taken = await ada.ask("POST", "messages", {"content": "two", "id": "m2"}, if_match=f'"other", {read}')
            again = await ada.ask("POST", "messages", {"content": "two", "id": "m2"}, if_match=f'"other", {read}')
            late = await ada.ask("POST", "messages", {"content": "three", "id": "m3"}, if_match=read)
            other = await ada.ask("POST", "messages", {"content": "four", "id": "m4"}, if_match='"other"')
            log = (await ada.ask("GET", "messages")).json["messages"]

        assert (200, 412, 412) == (taken.status, late.status, other.status)
        assert (200, taken.json["number"], True) == (
            again.status,
            again.json.get("number"),
            again.json.get("duplicate"),
        )
        assert ("precondition-failed", "precondition-failed") == (late.word, other.word)
        assert ["hello", "two"] == [message["content"] for message in log if message["role"] == "user"]

    async def test_a_message_is_answered(self) -> None:
        """The receipt has the reply, the log both; a redelivery has no effect and gets the same."""
        async with self.visiting() as ada:
            first, again = await ada.say("hello", "m1"), await ada.say("hello", "m1")
            log = (await ada.ask("GET", "messages")).json["messages"]
            found = (await ada.ask("GET", "")).json

        assert (200, "answered", False, "m1") == (
            first.status,
            *(first.json[name] for name in ("status", "duplicate", "id")),
        )
        assert ["you said hello"] == [reply["content"] for reply in first.json["replies"]]
        assert (200, first.json | {"duplicate": True}) == (again.status, again.json)
        assert "true" == again.headers["idempotent-replayed"]
        assert [("user", "hello"), ("assistant", "you said hello")] == [(one["role"], one["content"]) for one in log]
        number = log[0]["number"]
        assert (number, number) == (log[1]["reply_to"], log[1]["reply_from"])
        assert (log, log[-1]["number"], 0, False) == tuple(
            found[name] for name in ("messages", "head", "unread", "paused")
        )
        assert {"last": "hello"} == found["state"]

    async def test_a_client_may_prefer_not_to_wait(self) -> None:
        """The message is durable then, and its reply comes into the log."""
        async with self.visiting() as ada:
            taken = await ada.say("hello", "m1", prefer="respond-async")
            answered = await ada.say("hello", "m1")

        assert (202, "respond-async") == (taken.status, taken.headers["preference-applied"])
        assert ("accepted", []) == (taken.json["status"], taken.json["replies"])
        assert ["you said hello"] == [reply["content"] for reply in answered.json["replies"]]

    async def test_a_message_is_named_once(self) -> None:
        """By its id or an Idempotency-Key; the same name for something else is refused, and nothing is touched."""
        async with self.visiting() as ada:
            await ada.ask("POST", "messages", {"content": "hello", "metadata": {"a": 1.0}}, idempotency_key='"m1"')
            other = await ada.say("goodbye", "m1")
            metadata = await ada.ask("POST", "messages", {"content": "hello", "metadata": {"a": 2}, "id": "m1"})
            two = await ada.say("hello", "m2", idempotency_key='"m1"')
            log = (await ada.ask("GET", "messages")).json["messages"]

        assert [(422, "key-reused")] * 2 == [(answer.status, answer.word) for answer in (other, metadata)]
        assert 400 == two.status
        assert ["hello", "you said hello"] == [one["content"] for one in log]
        assert {"a": 1.0} == log[0]["metadata"]

    async def test_who_a_customer_is_they_do_not_say(self) -> None:
        """People and bots trust the metadata that name a customer: a channel or a service key sets them, and nobody of themselves."""
        async with self.visiting() as ada, self.serving() as service:
            claims = [{name: "Grace"} for name in ("name", "username", "phone", "user_id")]
            bodies = [{"content": "hello", "metadata": {"page": "home"} | claim} for claim in claims]
            before = (await ada.ask("GET", "")).json["revision"]
            refused = [await ada.ask("POST", "messages", body) for body in bodies]
            after = (await ada.ask("GET", "")).json["revision"]
            allowed = await ada.ask("POST", "messages", {"content": "hello", "metadata": {"page": "home"}})
            named = await service.ask("POST", "messages", bodies[0])
            [told] = [one for one in (await service.ask("GET", "messages")).json["messages"] if one["role"] == "user"]

        assert [(422, "bad-message")] * 4 == [(answer.status, answer.word) for answer in refused]
        assert ("'name'" in refused[0].json["detail"], before) == (True, after)
        assert [200, 200] == [allowed.status, named.status]
        assert {"page": "home", "name": "Grace"} == told["metadata"]

    async def test_the_log_is_read_in_pages(self) -> None:
        """The last ones, or those after or before a number; chatkeep's own notes are never shown."""
        async with self.visiting() as ada:
            for n in range(5):
                await ada.say(f"{n}", f"m{n}")
            whole = (await ada.ask("GET", "messages")).json["messages"]
            numbers = [one["number"] for one in whole]
            windows = ["limit=3", f"after={numbers[2]}&limit=3", f"before={numbers[4]}&limit=2", "after=0&limit=1"]
            windows.append(f"after={numbers[-1]}")
            found = [(await ada.ask("GET", f"messages?{window}")).json["messages"] for window in windows]
            pages = [[one["number"] for one in page] for page in found]
            few = (await ada.ask("GET", "?messages=2")).json["messages"]
            wrong = [
                await ada.ask("GET", f"messages?{query}")
                for query in ("limit=0", "limit=x", "limit=1&limit=1", "last=1")
            ]

        assert ["0", "1", "2", "3", "4"] == [one["content"] for one in whole if one["role"] == "user"]
        assert [numbers[-3:], numbers[3:6], numbers[2:4], numbers[:1], []] == pages
        assert whole[-2:] == few
        assert [400] * 4 == [answer.status for answer in wrong]

    async def test_content_is_kept_as_it_was_sent(self) -> None:
        """Text of any kind, parts, and numbers that JavaScript would change."""
        async with self.visiting() as ada:
            texts = ["", " ", "é 😀 \u2028", 'a "quoted" \\ one', "\t\n\u001f", "</script>", "[1]"]
            for n, text in enumerate(texts):
                await ada.say(text, f"m{n}", prefer="respond-async")
            parts = '[{"type":"score","value":1.0,"exact":9007199254740991,"e":-0.5}]'
            await ada.ask("POST", "messages", f'{{"content":{parts},"id":"parts"}}', prefer="respond-async")
            told = await ada.ask("GET", "messages")
            users = [one["content"] for one in told.json["messages"] if one["role"] == "user"]

        assert [*texts, json.loads(parts)] == users
        assert '"value":1.0' in told.text

    async def test_what_happens_is_streamed(self) -> None:
        """From a number of the log on, as server-sent events: messages under their numbers, and the state with its tag. Whoever comes
        back is told the state of now, for a change of it need not be in the log."""
        async with self.visiting() as ada:
            await ada.say("before", "m1")
            number = (await ada.ask("GET", "")).json["head"]
            headers = {"authorization": f"Bearer {ada.token}", "last-event-id": f"{number}"}
            found: list[tuple[str, str, Any]] = []
            async with ada.http.get(f"{self.address}/v1/conversations/{ada.id}/events", headers=headers) as stream:
                assert (200, "text/event-stream") == (stream.status, stream.headers["content-type"].partition(";")[0])
                await ada.say("hello", "m2")
                event: dict[str, str] = {}
                async with timeout(10):
                    while not {"hello", "you said hello", "hello state"} <= {text for _, _, text in found}:
                        line = (await stream.content.readline()).decode().rstrip("\n")
                        name, _, value = line.partition(": ")
                        event[name] = value
                        if not line and "data" in event:
                            data = json.loads(event["data"])
                            said = data.get("content") or (f"{data['state']['last']} state" if "etag" in data else "")
                            found.append((event["event"], event.get("id", ""), said))
                        event = event if line else {}
            log = (await ada.ask("GET", "messages")).json["messages"]
            state = await ada.ask("GET", "state")
            refused = await ada.ask("GET", "events", last_event_id="x")

        said = [(f"{one['number']}", one["content"]) for one in log]
        assert said[-2:] == [(id, text) for kind, id, text in found if kind == "message"]
        assert [("state", "", f"{text} state") for text in ("before", "hello")] == [
            one for one in found if one[0] == "state"
        ]
        assert {"last": "hello"} == state.json
        assert 400 == refused.status


class State(Asked):
    """The state, and its slots."""

    async def test_a_slot_is_kept_under_its_tag(self) -> None:
        """A new one only where none is; an old one only in the place of what was read; who is late is shown what is there."""
        async with self.visiting() as ada:
            absent = await ada.ask("GET", SLOT)
            made = await ada.ask("PUT", SLOT, {"day": "Monday"}, if_none_match="*")
            twice = await ada.ask("PUT", SLOT, {"day": "Sunday"}, if_none_match="*")
            read = await ada.ask("GET", SLOT)
            same = await ada.ask("GET", SLOT, if_none_match=read.etag)
            changed = await ada.ask("PUT", SLOT, {"day": "Tuesday"}, if_match=read.etag)
            late = await ada.ask("PUT", SLOT, {"day": "Friday"}, if_match=read.etag)
            blind = await ada.ask("PUT", SLOT, {"day": "Friday"})
            whole = await ada.ask("GET", "state")

        assert (404, "not-found") == (absent.status, absent.word)
        assert (200, {"day": "Monday"}) == (made.status, made.json)
        assert (200, made.text, made.etag) == (read.status, read.text, read.etag)
        assert (304, "") == (same.status, same.text)
        assert [(412, "precondition-failed")] * 2 == [(answer.status, answer.word) for answer in (twice, late)]
        assert (changed.etag, {"day": "Tuesday"}) == (late.json["etag"], late.json["state"])
        assert (428, "precondition-required") == (blind.status, blind.word)
        assert {"booking form": {"day": "Tuesday"}} == whole.json

    async def test_a_tag_is_that_of_the_value(self) -> None:
        """The same for the same value in whatever order and spacing; another for another value, and in another conversation."""
        async with self.visiting(2) as (ada, bob):
            values = ['{"b": 1.5, "a": [1, 2]}', '{"a":[1,2],"b":1.5}', '{"a":[2,1],"b":1.5}']
            tags = [
                (await ada.ask("PUT", f"state/s{n}", value, if_none_match="*")).etag for n, value in enumerate(values)
            ]
            other = (await bob.ask("PUT", "state/s0", values[0], if_none_match="*")).etag

        assert (tags[0], 2) == (tags[1], len(set(tags)))
        assert other not in tags

    async def test_a_slot_is_cleared(self) -> None:
        """In the place of what was read, or whatever is there; what was never there is gone as well."""
        async with self.visiting() as ada:
            tag = (await ada.ask("PUT", SLOT, [1], if_none_match="*")).etag
            late = await ada.ask("DELETE", SLOT, if_match='"0"')
            cleared = [await ada.ask("DELETE", SLOT, if_match=tag), await ada.ask("DELETE", SLOT)]
            await ada.ask("PUT", "state", {"a": 1, "b": 2}, if_match="*")
            cleared.append(await ada.ask("DELETE", "state/a"))
            left = (await ada.ask("GET", "state")).json
            cleared.append(await ada.ask("DELETE", "state"))
            fresh = (await ada.ask("GET", "state")).json

        assert [412, 204, 204, 204, 204] == [late.status, *(answer.status for answer in cleared)]
        assert ({"b": 2}, {}) == (left, fresh)

    async def test_a_patch_is_merged_into_the_state(self) -> None:
        """As RFC 7396 has it; what is not named stays, to the digit."""
        async with self.visiting() as ada:
            await ada.ask("PUT", "state", '{"a":{"b":1.0,"c":[1]},"d":1e3}', if_match="*")
            patched = await ada.ask("PATCH", "state", '{"a":{"c":null,"e":{"f":null,"g":2}},"h":null}', **MERGE_PATCH)
            plain = await ada.ask("PATCH", "state", {"a": 1})

        assert (200, {"a": {"b": 1.0, "e": {"g": 2}}, "d": 1000.0}) == (patched.status, patched.json)
        assert '"b":1.0' in patched.text
        assert (415, "unsupported-media-type") == (plain.status, plain.word)

    async def test_a_change_that_is_named_happens_once(self) -> None:
        """Under an Idempotency-Key: also when others have changed the state since."""
        async with self.visiting() as ada:
            first = await ada.ask("PUT", SLOT, 1, if_none_match="*", idempotency_key='"c1"')
            await ada.ask("PUT", SLOT, 2, if_match=first.etag)
            again = await ada.ask("PUT", SLOT, 1, if_none_match="*", idempotency_key='"c1"')
            there = await ada.ask("GET", SLOT)

        assert (200, 200, "2") == (first.status, again.status, there.text)

    async def test_the_name_of_a_change_is_its_makers(self) -> None:
        """Somebody else's change under the same Idempotency-Key is another one: it is made, or refused for what it is."""
        async with self.visiting() as ada:
            service = HttpUser(ada.http, self.address, self.key, ada.id)
            await ada.ask("PUT", SLOT, 1, if_none_match="*", idempotency_key='"c1"')
            late = await service.ask("PUT", SLOT, 2, if_none_match="*", idempotency_key='"c1"')
            made = await service.ask("PUT", SLOT, 2, if_match="*", idempotency_key='"c1"')
            again = await service.ask("PUT", SLOT, 2, if_match="*", idempotency_key='"c1"')
            own = await ada.ask("DELETE", SLOT, idempotency_key='"c1"')
            there = await ada.ask("GET", SLOT)

        assert [412, 200, 200, 204] == [answer.status for answer in (late, made, again, own)]
        assert "2" == there.text

    async def test_the_bot_and_the_page_share_the_state(self) -> None:
        """What a page has put there the bot sees and keeps, and the other way round."""
        async with self.visiting() as ada:
            await ada.ask("PUT", SLOT, {"day": "Monday", "rate": 1.0}, if_none_match="*")
            await ada.say("hello", "m1")
            await ada.ask("PUT", "state/last%20search", ["maths"], if_none_match="*")
            await ada.say("again", "m2")
            state = (await ada.ask("GET", "state")).json

        assert {"booking form": {"day": "Monday", "rate": 1.0}, "last search": ["maths"], "last": "again"} == state


class Refusals(Asked):
    """What does not belong here."""

    async def test_what_is_not_understood_is_refused(self) -> None:
        """With a problem document, before anything is touched."""
        async with self.visiting() as ada:
            before = (await ada.ask("GET", "")).json["revision"]
            wrong = [
                "",
                "{",
                "[]",
                '{"content":1}',
                '{"content":"a","id":""}',
                '{"content":"a","x":1}',
                '{"content":"","content":""}',
            ]
            refused = [(await ada.ask("POST", "messages", body)).status for body in wrong]
            unfit = [
                (await ada.ask("POST", "messages", body)).status
                for body in (
                    '{"content":"\\u0000"}',
                    '{"content":[{"n":9007199254740993}]}',
                    '{"content":"a","id":"~a"}',
                )
            ]
            half = (await ada.ask("POST", "messages", '{"content":"\\ud800"}')).status
            deep = (await ada.ask("PUT", SLOT, "[" * 70 + "]" * 70, if_none_match="*")).status
            many = (await ada.ask("PUT", SLOT, [0] * 30_000, if_none_match="*")).status
            twice = (await ada.ask("PUT", SLOT, '{"a":{"b":1,"b":2}}', if_none_match="*")).status
            shape = await ada.ask("PUT", "state", "[1]", if_match="*")
            large = (await ada.ask("POST", "messages", {"content": "x" * 300_000})).status
            form = (await ada.ask("POST", "messages", "content=a", content_type="text/plain")).status
            packed = (await ada.ask("POST", "messages", {"content": "a"}, content_encoding="gzip")).status
            tag = (await ada.ask("PUT", SLOT, "1", if_match="a b")).status
            long = [
                (await ada.ask("POST", "messages", {"content": "a", "id": "x" * 513})).status,
                (await ada.ask("POST", "messages", {"content": "a"}, idempotency_key="x" * 513)).status,
                (await ada.ask("PUT", SLOT, "1e400", if_none_match="*")).status,
            ]
            verb = await ada.ask("PATCH", "messages", {"content": "a"})
            where = [(await ada.ask("GET", path)).status for path in ("nothing", "/nothing")]
            after = (await ada.ask("GET", "")).json["revision"]

        assert ([400] * 7, [422] * 3, 400, 400, 400, 400) == (refused, unfit, half, deep, many, twice)
        assert [400, 422, 400] == long
        assert (422, "bad-state", 413, 415, 415, 400) == (shape.status, shape.word, large, form, packed, tag)
        assert (405, "method-not-allowed") == (verb.status, verb.word)
        assert "POST" in verb.headers["allow"]
        assert [404, 404] == where
        assert before == after

    async def test_no_body_is_slow_to_refuse(self) -> None:
        """Each character of it is looked at a bounded number of times, also where a text has no end."""
        async with self.visiting() as ada:
            began = time.monotonic()
            answers = [
                (await ada.ask("PUT", SLOT, begin + piece * 60_000, if_none_match="*")).status
                for begin, piece in (('"', '\\"'), ('"', "\\\\"), ("", '"\\'), ("", "\\"), ("", '\\"'))
            ]
            took_s = time.monotonic() - began

        assert [400] * 5 == answers
        assert took_s < 20  # it was minutes

    async def test_a_conversation_has_a_name_that_every_store_keeps(self) -> None:
        """Of 1 to 512 bytes and without NUL; what has another is refused, and cannot be read or written by anybody."""
        async with self.serving() as service:
            names = ["x" * 513, "%C3%A9" * 257, "a%00b", "%FF"]
            places = [f"/conversations/{name}" for name in names]
            refused = [await service.ask("GET", place) for place in places]
            refused += [await service.ask("POST", f"{place}/messages", {"content": "hello"}) for place in places]
            refused += [await service.ask("PUT", f"{place}/state", {}, if_match="*") for place in places]
            owned = await service.ask("POST", "/conversations", {"id": service.id, "owner": "o" * 513})
            longest = await service.ask("POST", "/conversations", {"id": service.id[:1] * 512})

        assert {(400, "bad-key")} == {(answer.status, answer.word) for answer in refused}
        assert [400, 201] == [owned.status, longest.status]

    async def test_an_answer_is_kept_nowhere(self) -> None:
        """By no cache, whatever it says; and no browser takes it for a page, or shows it to one of another host."""
        async with self.visiting() as ada:
            answers = [
                await ada.ask("GET", ""),
                await ada.ask("GET", "/me", authorization="Bearer x"),
                await ada.ask("GET", "/nothing"),
                await ada.ask("PUT", SLOT, 1, if_none_match="*"),
                await ada.ask("OPTIONS", "messages"),
            ]

        assert [200, 401, 404, 200, 204] == [answer.status for answer in answers]
        assert {("no-store", "nosniff", "same-origin")} == {
            tuple(
                answer.headers[name]
                for name in ("cache-control", "x-content-type-options", "cross-origin-resource-policy")
            )
            for answer in answers
        }
        assert {"GET", "POST"} <= set(answers[-1].headers["allow"].split(", "))


class HttpContract(Ownership, Messages, State, Refusals):
    """The clauses of a server."""
