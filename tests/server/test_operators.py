"""What operators do over HTTP: dead letters, doubts, redactions, assignments, and changes of a state that are undone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chatkeep import Chatkeep, Turn
from chatkeep import client as package
from chatkeep.app import core_of
from chatkeep.auth import accounts
from chatkeep.auth.credentials import create_key, issue_token
from chatkeep.server import create_app
from chatkeep.server.events import written

from ..support.desk import PASSWORD, Person, person
from ..support.serving import Client, served, serving
from ..support.stores import FAST
from ..support.waiting import until


def at(conversation: str, what: str) -> str:
    """The address of something of a conversation."""
    return f"/v1/conversations/{conversation}/{what}"


async def test_doubts_are_listed_and_settled() -> None:
    """What a tool that must not run twice has left; what is not in doubt is refused."""
    keep: Chatkeep[Any] = Chatkeep("memory://", **FAST)
    charged: list[int] = []

    @keep.once
    async def charge(amount: int) -> str:
        charged.append(amount)
        raise TimeoutError("the line broke")

    @keep.on_message
    async def bot(turn: Turn[Any]) -> str:
        return await charge(5)

    async with served(keep) as client:
        await client.post("ada", {"content": "hello"})
        (doubt,) = (await client.ask("GET", at("ada", "doubts"))).json["doubts"]
        name = f"doubts/{doubt['name']}"
        wrong = [
            (await client.ask("POST", at(who, what), json.dumps(body).encode())).status
            for who, what, body in (
                ("ada", "doubts/0.0", {"done": True}),
                ("eve", name, {"done": True}),
                ("ada", name, {"result": 1}),
                ("ada", name, {"done": "yes"}),
            )
        ]
        missing = (await client.ask("GET", at("eve", "doubts"))).status
        settled = await client.ask("POST", at("ada", name), b'{"done": true, "result": "receipt 42"}')
        left = (await client.ask("GET", at("ada", "doubts"))).json
        await client.ask("POST", at("ada", "dead-letters/1"))

        async def answered() -> bool:
            said = (await client.ask("GET", at("ada", "messages"))).json["messages"]
            return bool(said[-1]["content"] == "receipt 42")

        await until(answered)

    assert ("charge", '{"amount":5}', 1) == (doubt["tool"], doubt["arguments"], doubt["number"])
    assert ([404, 404, 400, 400], 404, 204, {"doubts": []}) == (wrong, missing, settled.status, left)
    assert [5] == charged


async def test_dead_letters_are_listed_replayed_and_dismissed() -> None:
    """Of one conversation and of the tenant, in pages; what was never set aside is refused, and nothing else is closed."""
    broken = True
    keep: Chatkeep[Any] = Chatkeep("memory://", **FAST | {"attempts": 1})

    @keep.on_message
    async def bot(turn: Turn[Any]) -> str:
        if broken:
            raise RuntimeError("a bug")
        return "fine"

    async with served(keep) as client:
        for name in ("ada", "bob", "eve"):
            await client.post(name, {"content": f"from {name}"})
        one = (await client.ask("GET", at("ada", "dead-letters"))).json
        page = (await client.ask("GET", "/v1/dead-letters?limit=2")).json
        rest = (await client.ask("GET", f"/v1/dead-letters?behind={page['next']}")).json
        broken = False
        handed_in = await client.ask("POST", at("ada", "dead-letters/1"))

        async def closed() -> bool:
            return (await client.ask("GET", at("ada", "dead-letters"))).json == {"dead_letters": []}

        await until(closed)
        again = await client.ask("POST", at("ada", "dead-letters/1"))
        dismissed = [(await client.ask("DELETE", at("bob", "dead-letters/1"))).status for _ in range(2)]
        wrong = [
            (await client.ask(method, at("eve", f"dead-letters/{number}"))).status
            for method in ("POST", "DELETE")
            for number in ("2", "x", "999999999999")
        ]
        left = (await client.ask("GET", "/v1/dead-letters")).json

    (letter,) = one["dead_letters"]
    assert ("ada", 1, "from ada", "RuntimeError: a bug") == tuple(
        letter[name] for name in ("conversation", "number", "content", "reason")
    )
    assert (["ada", "bob"], "bob") == ([m["conversation"] for m in page["dead_letters"]], page["next"])
    assert (["eve"], False) == ([m["conversation"] for m in rest["dead_letters"]], "next" in rest)
    assert (201, 200, "answered") == (handed_in.status, again.status, again.json["status"])
    assert ([204, 204], [400, 404, 400] * 2) == (dismissed, wrong)
    assert ["eve"] == [m["conversation"] for m in left["dead_letters"]]


async def test_a_person_does_not_write_into_what_was_erased() -> None:
    """With If-Match, as the desk asks: what was erased while somebody was writing is not begun anew, and nothing is paused there. With a
    revision: nor what has changed since."""
    keep: Chatkeep[Any] = Chatkeep("memory://", **FAST)
    async with served(keep) as client:
        await keep.accept("ada", "hello")
        said = {"content": "I am here.", "paused": True}

        async def say(id: str, **headers: str) -> int:
            body = json.dumps(said | {"id": id}).encode()
            return (await client.ask("POST", at("ada", "operator"), body, headers={"If-Match": "*"} | headers)).status

        there = await say("o1")
        now = await keep.conversation("ada")
        assert now is not None
        known = await say("o4", **{"If-Match": f'"{now.revision}"'})
        again = await say("o4", **{"If-Match": f'"{now.revision}"'})
        changed = await say("o5", **{"If-Match": f'"{now.revision}"'})
        await keep.erase("ada")
        gone = await say("o2")
        left = await keep.conversation("ada")
        anew = await say("o3", **{"If-Match": ""})

    assert (201, 404, None, 201) == (there, gone, left, anew)
    assert (201, 200, 412) == (known, again, changed)


async def test_a_message_is_redacted_for_everybody() -> None:
    """Shown so in the page and the conversation, told to streams; a redelivery gets the recorded replies, and only an operator may."""
    keep: Chatkeep[Any] = Chatkeep("memory://", **FAST)

    @keep.on_message
    async def bot(turn: Turn[Any]) -> str:
        return "thanks"

    async with served(keep) as client:
        first = await client.post("ada", {"content": "4111 1111", "id": "m1", "metadata": {"card": "4111 1111"}})
        token = (await client.ask("POST", at("ada", "tokens"), b'{"scopes":["read","erase"]}')).json["token"]
        refused = await Client(client.port, token).ask("DELETE", at("ada", "messages/1"))
        done = [(await client.ask("DELETE", at("ada", "messages/1"))).status for _ in range(2)]
        wrong = [(await client.ask("DELETE", at("ada", f"messages/{number}"))).status for number in ("x", "99")]
        page = (await client.ask("GET", at("ada", "messages"))).json["messages"]
        shown = (await client.ask("GET", "/v1/conversations/ada")).json["messages"]
        again = await client.post("ada", {"content": "4111 1111", "id": "m1"})
        watch = core_of(keep).watch("", "ada", after=0)
        async with watch:
            events = await watch.next(1.0) or []
            told = b"".join(written(events, [""] * len(events), None, b""))

    assert (403, [204, 204], [404, 400]) == (refused.status, done, wrong)
    assert page == shown
    assert ({"id", "number", "role", "content", "created_at", "redacted"}, "", True) == (
        set(page[0]),
        page[0]["content"],
        page[0]["redacted"],
    )
    assert "redacted" not in page[1]
    assert (200, first.json["replies"]) == (again.status, again.json["replies"])
    assert b'event: redacted\ndata: {"number":1}\n\n' in told
    assert b"4111" not in told


def chat(url: str = "memory://") -> Chatkeep[Any]:
    """A bot that repeats."""
    keep: Chatkeep[Any] = Chatkeep(url, **FAST)

    @keep.on_message
    async def bot(turn: Turn[Any]) -> str:
        return f"heard: {turn.text}"

    return keep


async def ids(who: Person, query: str) -> list[str]:
    """The ids of a page of the list."""
    answer = await who.ask("GET", f"/v1/desk/conversations?{query}")
    assert answer.status == 200, answer.body
    return sorted(item["id"] for item in answer.json["conversations"])


async def test_who_has_a_conversation_is_kept_by_every_store(url: str) -> None:
    """Taking over assigns in the same act, handing back frees; by hand it goes to whoever may operate; the list and the log tell."""
    keep = chat(url)
    async with served(keep) as client:
        kim = await person(keep, client.port, "agent", shown="Kim")
        await accounts.add_account(keep, "lee", role="admin", password=PASSWORD, shown="Lee")
        lee = Person(client.port)
        await lee.sign_in({"name": "lee", "password": PASSWORD})
        for name in ("ada", "bob", "eve"):
            await keep.receive(name, f"I am {name}")
        await kim.ask("POST", "/v1/conversations/ada/operator", {"content": "I am Kim.", "paused": True})
        await lee.ask("POST", "/v1/conversations/ada/operator", {"content": "Lee here.", "paused": True})
        given = (await kim.ask("PUT", "/v1/conversations/bob/assignee", {"assignee": "LEE", "was": ""})).json
        late = await kim.ask("PUT", "/v1/conversations/bob/assignee", {"assignee": "agent", "was": ""})
        whose = {
            name: await ids(who, query)
            for name, who, query in (
                ("kim", kim, "whose=mine"),
                ("lee", lee, "whose=mine"),
                ("nobody", kim, "whose=nobody"),
                ("by name", kim, "assignee=lee"),
                ("both", lee, "whose=mine&show=off"),
                ("found", lee, "whose=mine&text=ada"),
            )
        }
        people = (await kim.ask("GET", "/v1/desk/people")).json["people"]
        head = (await kim.ask("GET", "/v1/conversations/ada")).json["assignee"]
        await kim.ask("PUT", "/v1/conversations/ada/bot", {"paused": False})
        freed = await ids(kim, "whose=mine")
        story = (await kim.ask("GET", "/v1/conversations/bob/story")).json
        stored = await keep.conversation("bob")
        acts = {(act.act, act.by) for act in await core_of(keep).audit.read("")}

    assert {"assignee": "lee"} == given
    assert (409, "It is assigned to lee meanwhile; nothing was changed.") == (late.status, late.json["detail"])
    assert {
        "kim": ["ada"],
        "lee": ["bob"],
        "nobody": ["eve"],
        "by name": ["bob"],
        "both": [],
        "found": [],
    } == whose
    assert [{"account": "agent", "shown": "Kim"}, {"account": "lee", "shown": "Lee"}] == people
    assert ("agent", [], "lee") == (head, freed, stored and stored.assignee)
    assert [("assigned", "lee", "Kim")] == [
        (note["kind"], note["assignee"], note["author"]) for note in story["notes"] if note["kind"] == "assigned"
    ]
    assert ("assign:lee", "agent") in acts


async def test_only_who_may_operate_assigns_and_is_assigned() -> None:
    """No viewer, nobody of another tenant, no account that is disabled or is not there; and a customer is not told who has it."""
    keep = chat()
    async with served(keep) as client:
        admin = await person(keep, client.port, "admin")
        viewer = await person(keep, client.port, "viewer")
        await accounts.add_account(keep, "elsewhere", role="agent", tenants=["pizza"])
        await accounts.add_account(keep, "gone", role="agent")
        await accounts.change_account(keep, "gone", lambda held: accounts.structs.replace(held, disabled=True))
        await keep.receive("ada", "hello")
        path = "/v1/conversations/ada/assignee"
        refused = (await viewer.ask("PUT", path, {"assignee": "viewer"})).status
        asked = (await viewer.ask("GET", "/v1/desk/people")).status
        bad = {
            name: (await admin.ask("PUT", path, {"assignee": name})).status
            for name in ("viewer", "elsewhere", "gone", "nobody at all", "nobody", "\u202e", "x" * 201)
        }
        absent = (await admin.ask("PUT", "/v1/conversations/nobody/assignee", {"assignee": "admin"})).status
        good = (await admin.ask("PUT", path, {"assignee": "admin"})).json
        token = await issue_token(keep, "", "ada", scopes=["read"])
        seen = (await client.ask("GET", "/v1/conversations/ada", None, {"Authorization": f"Bearer {token.token}"})).json
        none = await keep.conversation("nobody")

    assert (403, 403) == (refused, asked)
    assert {"viewer": 422, "elsewhere": 422, "gone": 422, "nobody at all": 422, "nobody": 422, "\u202e": 422} == {
        name: status for name, status in bad.items() if len(name) < 200
    }
    assert 400 == bad["x" * 201]
    assert (404, {"assignee": "admin"}, None) == (absent, good, none)
    assert "assignee" not in seen


@pytest.mark.parametrize("paused", [True, False])
async def test_a_program_that_pauses_assigns_nobody(paused: bool) -> None:
    """A service key, and the library, have no account; what a person has stays theirs until the bot has it again."""
    keep = chat()
    async with served(keep) as client:
        kim = await person(keep, client.port, "agent")
        await keep.receive("ada", "hello")
        if paused:
            await kim.ask("PUT", "/v1/conversations/ada/bot", {"paused": True})
        await client.ask("PUT", "/v1/conversations/ada/bot", b'{"paused":true}')
        held = await keep.conversation("ada")
        await keep.resume("ada")
        after = await keep.conversation("ada")

    assert held is not None
    assert after is not None
    assert ("agent" if paused else "", "") == (held.assignee, after.assignee)


ONE = "/v1/conversations/ada"


async def bot(turn: Turn[Any]) -> str:
    """Counts."""
    turn.state["count"] = turn.state.get("count", 0) + 1
    return "ok"


async def test_an_admin_s_change_is_undone_and_audited(tmp_path: Path) -> None:
    """By whoever may write states; an agent may not; a change by a key is the application's, and is not noted."""
    keep: Chatkeep[Any] = Chatkeep(f"sqlite:///{tmp_path}/chat.db", **FAST)
    keep.on_message(bot)
    async with serving(create_app(keep)) as port:
        await keep.receive("ada", "hello")
        admin, agent = await person(keep, port, "admin", shown="Kim"), await person(keep, port, "agent")
        key = (await create_key(keep, "")).token
        async with package.Client(f"http://127.0.0.1:{port}", key) as client:
            await client.conversation("ada").patch({"cart": ["tea"]})
            changed = await admin.ask("PUT", f"{ONE}/state/cart", [], If_Match="*")
            note = [entry async for entry in client.desk.history("ada")][-1]
            before = await client.desk.as_of("ada", note.number - 1)
            refused = await agent.ask("POST", f"{ONE}/changes/{note.number}")
            undone = await admin.ask("POST", f"{ONE}/changes/{note.number}")
            state = await client.conversation("ada").state()
            await client.conversation("ada").patch({"cart": ["cake"]})
            late = await admin.ask("POST", f"{ONE}/changes/{note.number}")
            missing = await admin.ask("POST", "/v1/conversations/nobody/changes/1")
            acts = [act.act for act in await client.desk.audit()]

    assert 200 == changed.status, changed
    assert ("Kim", {"cart": {"was": ["tea"], "now": []}}) == (note.metadata["by"], note.metadata["slots"])
    assert (True, {"count": 1, "cart": ["tea"]}) == (before.complete, before.slots)
    assert 403 == refused.status
    assert 204 == undone.status, undone
    assert {"count": 1, "cart": ["tea"]} == state
    assert (409, "urn:chatkeep:changed-since") == (late.status, late.json["type"])
    assert missing.status in (400, 404)
    assert "undo" in acts
