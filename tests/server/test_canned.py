"""Canned replies of the operators' desk: kept by every store, for each tenant, by who may operate."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from chatkeep import Chatkeep
from chatkeep.server import canned

from ..support.desk import Person, person
from ..support.serving import served
from ..support.stores import FAST


async def names(who: Person, **headers: str) -> dict[str, str]:
    """The texts by name."""
    answer = await who.ask("GET", "/v1/desk/replies", **headers)
    assert answer.status == 200, answer.body
    return {reply["name"]: reply["text"] for reply in answer.json["replies"]}


async def test_canned_replies_are_kept_by_every_store(url: str) -> None:
    """They are put, changed only as they were seen, removed, in the audit, and each tenant's own; placeholders stay as they are."""
    keep: Chatkeep[Any] = Chatkeep(url, **FAST)
    hello = "Hello {name|there}, {name} \U0001f44b"
    async with served(keep) as client:
        kim = await person(keep, client.port, "admin", tenants=["salon", "pizza"], shown="Kim")
        made = await kim.ask("PUT", "/v1/desk/replies/Hello", {"text": hello, "was": ""})
        again = await kim.ask("PUT", "/v1/desk/replies/hello", {"text": "other", "was": ""})
        changed = await kim.ask("PUT", "/v1/desk/replies/hello", {"text": "Hi.", "was": hello})
        await kim.ask("PUT", "/v1/desk/replies/bye", {"text": "Bye."})
        salon, pizza = await names(kim), await names(kim, Chatkeep_Tenant="pizza")
        removed = [(await kim.ask("DELETE", "/v1/desk/replies/bye")).status for _ in range(2)]
        after = await names(kim)
        acts = [act["act"] for act in (await kim.ask("GET", "/v1/audit")).json["acts"]]

    assert (200, "hello", hello, "admin") == (made.status, *(made.json[part] for part in ("name", "text", "by")))
    assert (409, 200) == (again.status, changed.status)
    assert ({"hello": "Hi.", "bye": "Bye."}, {}, [204, 404], {"hello": "Hi."}) == (salon, pizza, removed, after)
    assert ["reply:remove:bye", "reply:save:bye", "reply:save:hello", "reply:save:hello"] == [
        act for act in acts if act.startswith("reply")
    ]


async def test_only_good_names_and_texts_by_who_may(monkeypatch: pytest.MonkeyPatch) -> None:
    """No viewer sees or keeps one; names are short and plain, texts not empty; there are so many at most."""
    monkeypatch.setattr(canned, "MOST", 3)
    keep: Chatkeep[Any] = Chatkeep("memory://", **FAST)
    async with served(keep) as client:
        viewer = await person(keep, client.port, "viewer")
        kim = await person(keep, client.port, "agent")
        refused = [
            (await viewer.ask(method, f"/v1/desk/replies{path}", body)).status
            for method, path, body in (("GET", "", None), ("PUT", "/a", {"text": "x"}), ("DELETE", "/a", None))
        ]
        told = {
            name: (await kim.ask("PUT", f"/v1/desk/replies/{quote(name, safe='')}", {"text": "x"})).status
            for name in ("ok", "grüße_1-2", "a b", "a/b", "../x", "~x", "\u202ea", "x" * 41, "<b>")
        }
        texts = [(await kim.ask("PUT", "/v1/desk/replies/t", {"text": text})).status for text in ("", "x" * 4001)]
        long = (await kim.ask("PUT", "/v1/desk/replies/t", {"text": "\U0001f469" * 4000})).status
        over = await kim.ask("PUT", "/v1/desk/replies/u", {"text": "x"})
        still = (await kim.ask("PUT", "/v1/desk/replies/t", {"text": "y"})).status

    assert [403, 403, 403] == refused
    assert {"ok": 200, "grüße_1-2": 200} == {name: status for name, status in told.items() if status == 200}
    assert {404, 422} >= {status for status in told.values() if status != 200}
    assert ([400, 400], 200, 422, 200) == (texts, long, over.status, still), over.body
