"""The same act on many conversations: which are done, passed over or refused, and that each is in the audit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from chatkeep import Chatkeep, Turn
from chatkeep.app import core_of
from chatkeep.auth.credentials import create_key
from chatkeep.errors import HandlerFailed
from chatkeep.server import bulk

from ..support.desk import Person, chat, person
from ..support.serving import Client, served
from ..support.stores import FAST
from ..support.waiting import until


async def outcomes(who: Person, act: str, names: list[str], **told: Any) -> dict[str, tuple[str, str]]:
    """What became of each, and why."""
    answer = await who.ask("POST", "/v1/desk/bulk", {"act": act, "conversations": names, **told})
    assert answer.status == 200, answer.body
    return {one["conversation"]: (one["outcome"], one.get("why", "")) for one in answer.json["outcomes"]}


async def shown(client: Client, show: str) -> set[str]:
    """The conversations that a filter has."""
    answer = await client.ask("GET", f"/v1/desk/conversations?show={show}")
    return {item["id"] for item in answer.json["conversations"]}


async def test_many_are_tried_again_dismissed_sent_again_and_handed_back(url: str) -> None:
    """On every store: each act on those that it is for; others are passed over, and each act is in the audit."""
    keep = chat(url)
    core = core_of(keep)
    async with served(keep) as client:
        kim = await person(keep, client.port, "admin", shown="Kim")
        for name in ("f1", "f2", "f3"):
            with pytest.raises(HandlerFailed):
                await keep.receive(name, "fail")
        await keep.receive("fine", "hello")
        for name in ("w1", "w2", "w3"):
            await keep.pause(name)
            await keep.accept(name, "is anybody there?")
        await keep.accept("w3", "I am", role="operator")
        await core.inlet.accept("whatsapp", "", "whatsapp:490", "hello", id="m", role="user", metadata={})
        await until(lambda: shown(client, "undelivered"), within=20, every=0.1)
        failing = {"filter": {"show": "failing"}}
        dismissed = await outcomes(kim, "dismiss", ["f1", "f2", "fine", "gone"], **failing)
        again = await outcomes(kim, "dismiss", ["f1"])
        replayed = await outcomes(kim, "replay", ["f3", "fine"])
        sent = await outcomes(kim, "resend", ["whatsapp:490", "fine"])
        answered = await outcomes(kim, "answer", ["w1", "fine"])
        skipped = await outcomes(kim, "skip", ["w1", "w2", "w3"], filter={"show": "waiting"})
        await until(lambda: heard(keep, "w1"), within=20)
        left = await shown(client, "failing"), await shown(client, "off")
        acts = [(act["act"], act.get("conversation", "")) for act in (await kim.ask("GET", "/v1/audit")).json["acts"]]

    assert ["done", "done", "passed", "passed"] == [outcome for outcome, _ in dismissed.values()]
    assert {"f1": ("passed", "Nothing is set aside there.")} == again
    assert ["done", "passed"] * 3 == [outcome for part in (replayed, sent, answered) for outcome, _ in part.values()]
    assert ["passed", "done", "passed"] == [outcome for outcome, _ in skipped.values()]
    assert ({"f3"}, {"w3"}) == left
    assert {
        ("dismiss", "f1"),
        ("dismiss", "f2"),
        ("replay", "f3"),
        ("resend", "whatsapp:490"),
        ("resume", "w1"),
        ("resume", "w2"),
    } == {one for one in acts if one[1]}
    assert ("bulk:dismiss", "") in acts


async def heard(keep: Chatkeep[Any], name: str) -> bool:
    """Whether the bot has answered there."""
    found = await keep.conversation(name)
    return found is not None and found.unread == 0


async def test_many_are_assigned_to_who_may_look_after_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only those that are still whose they were; to an account of the tenant alone; for who may operate; what had no time is left."""
    keep = chat()
    async with served(keep) as client:
        kim = await person(keep, client.port, "agent")
        viewer = await person(keep, client.port, "viewer")
        names = [f"c{number}" for number in range(12)]
        for name in names:
            await keep.receive(name, "hello")
        mine = await outcomes(kim, "assign", names[:2], assignee="agent")
        rest = await outcomes(kim, "assign", names[:4], assignee="agent", filter={"whose": "nobody"})
        freed = await outcomes(kim, "assign", names[:1], assignee="", filter={"whose": "mine"})
        monkeypatch.setattr(bulk, "SPENT_S", 0.0)
        some = await outcomes(kim, "assign", names[4:], assignee="agent")
        refused = [
            (await kim.ask("POST", "/v1/desk/bulk", body)).status
            for body in (
                {"act": "assign", "conversations": ["c0"], "assignee": "viewer"},
                {"act": "assign", "conversations": ["c0"], "assignee": "nobody-here"},
                {"act": "erase", "conversations": ["c0"]},
                {"act": "skip", "conversations": []},
                {"act": "skip", "conversations": ["c"] * (bulk.MOST + 1)},
            )
        ]
        forbidden = await viewer.ask("POST", "/v1/desk/bulk", {"act": "skip", "conversations": ["c0"]})
        reader = (await create_key(keep, "", scopes=("list", "read"))).token
        key = await client.ask(
            "POST", "/v1/desk/bulk", b'{"act":"skip","conversations":["c0"]}', {"Authorization": f"Bearer {reader}"}
        )
        whose = [(await keep.conversation(name)).assignee for name in names[:4]]  # type: ignore[union-attr]

    assert ["done", "done"] == [outcome for outcome, _ in mine.values()]
    assert ["passed", "passed", "done", "done"] == [outcome for outcome, _ in rest.values()]
    assert {"c0": ("done", "")} == freed
    assert names[4 : 4 + bulk.AT_ONCE] == list(some)
    assert [422, 422, 400, 400, 400] == refused
    assert (403, 403) == (forbidden.status, key.status)
    assert ["", "agent", "agent", "agent"] == whose


async def test_what_fails_in_one_is_told_and_stops_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """A conversation that cannot be read, and one that is whose it was no more."""
    keep = chat()
    core = core_of(keep)
    async with served(keep) as client:
        kim = await person(keep, client.port, "agent", shown="Kim")
        for name in ("a", "b", "c"):
            await keep.receive(name, "hello")
        looked = bulk.look

        async def overtaken(*args: Any) -> Any:
            item = await looked(*args)
            if item is not None and item.id == "b":
                await core.assign("", "b", "lee", by="Lee")
            return item

        monkeypatch.setattr(bulk, "look", overtaken)
        found = await outcomes(kim, "assign", ["a", "b", "c"], assignee="agent")

    assert {"a": ("done", ""), "b": ("failed", "It is assigned to lee meanwhile."), "c": ("done", "")} == found


async def test_what_was_done_before_one_failed_is_in_the_audit(tmp_path: Path) -> None:
    """The second of two messages that were set aside is larger than is taken now: the first was handed in, and that is noted."""
    url = f"sqlite:///{tmp_path}/chat.db"
    before = Chatkeep[Any](url, **FAST | {"attempts": 1})

    @before.on_message
    async def bot(turn: Turn[Any]) -> str:
        raise RuntimeError("as asked")

    async with before:
        for text in ("small", "large" * 1000):
            with pytest.raises(HandlerFailed):
                await before.receive("ada", text)
    keep = Chatkeep[Any](url, **FAST | {"message_limit": 1024})
    async with served(keep) as client:
        kim = await person(keep, client.port, "admin")
        found = await outcomes(kim, "replay", ["ada"])
        acts = [act["act"] for act in (await kim.ask("GET", "/v1/audit")).json["acts"]]

    assert "failed" == found["ada"][0]
    assert 1 == acts.count("replay")
