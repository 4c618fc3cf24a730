"""Conversations are assigned to people at the desk: by hand, and by taking over; and who may."""

from __future__ import annotations

from typing import Any

import pytest

from chatkeep import Chatkeep, Turn
from chatkeep.app import core_of
from chatkeep.auth import accounts
from chatkeep.auth.credentials import issue_token

from ..support.desk import PASSWORD, Person, person
from ..support.serving import served
from ..support.stores import FAST


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
