"""Saved views of the operators' desk: kept by every store, for each account, and gone with it."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from chatkeep import Chatkeep
from chatkeep.auth import accounts
from chatkeep.auth.credentials import create_key
from chatkeep.server import views

from ..support.desk import PASSWORD, Person, person
from ..support.serving import served
from ..support.stores import FAST


async def names(who: Person) -> dict[str, dict[str, Any]]:
    """The filters by name."""
    answer = await who.ask("GET", "/v1/desk/views")
    assert answer.status == 200, answer.body
    return {view["name"]: view["filter"] for view in answer.json["views"]}


async def test_views_are_kept_for_an_account_on_every_store(url: str) -> None:
    """On another device too, replaced, renamed, removed; nobody else's; and not there for the next account of that name."""
    keep: Chatkeep[Any] = Chatkeep(url, **FAST)
    late = {"show": "undelivered", "channel": "whatsapp"}
    async with served(keep) as client:
        kim, lee = await person(keep, client.port, "agent"), await person(keep, client.port, "admin")
        saved = await kim.ask("PUT", "/v1/desk/views/late", {"filter": late})
        await kim.ask("PUT", "/v1/desk/views/mine", {"filter": {"whose": "mine"}})
        other = Person(client.port)
        await other.sign_in({"name": "agent", "password": PASSWORD})
        elsewhere, hers = await names(other), await names(lee)
        await other.ask("PUT", "/v1/desk/views/late", {"filter": late | {"show": "failing"}})
        renamed = await kim.ask("PUT", f"/v1/desk/views/{quote('late — all')}", {"was": "late"})
        refused = [
            (await kim.ask("PUT", f"/v1/desk/views/{name}", body)).status
            for name, body in (("mine", {"was": "late — all"}), ("x", {"was": "gone"}), ("x", {}))
        ]
        after = await names(kim)
        removed = [(await kim.ask("DELETE", "/v1/desk/views/mine")).status for _ in range(2)]
        await accounts.remove_account(keep, "agent")
        again = await person(keep, client.port, "agent")
        next_one = await names(again)

    assert [{"name": "late", "filter": late}] == saved.json["views"]
    assert ({"late": late, "mine": {"whose": "mine"}}, {}) == (elsewhere, hers)
    assert (200, [409, 404, 422]) == (renamed.status, refused)
    assert {"late — all": late | {"show": "failing"}, "mine": {"whose": "mine"}} == after
    assert ([204, 404], {}) == (removed, next_one)


async def test_only_good_views_of_people_with_accounts(monkeypatch: pytest.MonkeyPatch) -> None:
    """No viewer and no key has one; names can be seen and filters are known ones; there are so many at most."""
    monkeypatch.setattr(views, "MOST", 2)
    keep: Chatkeep[Any] = Chatkeep("memory://", **FAST)
    async with served(keep) as client:
        viewer, kim = await person(keep, client.port, "viewer"), await person(keep, client.port, "agent")
        keyed = Person(client.port)
        await keyed.sign_in({"key": (await create_key(keep, "")).token})
        nobody = [(await who.ask("GET", "/v1/desk/views")).status for who in (viewer, keyed)]
        told = {
            name: (await kim.ask("PUT", f"/v1/desk/views/{quote(name, safe='')}", {"filter": {}})).status
            for name in ("Grüße, heute", "x" * 61, "\u202ea", " ", "a\x07")
        }
        unknown = await kim.ask("PUT", "/v1/desk/views/a", {"filter": {"show": "everything"}})
        many = [(await kim.ask("PUT", f"/v1/desk/views/{name}", {"filter": {}})).status for name in ("a", "b", "a")]

    assert [403, 403] == nobody
    assert {"Grüße, heute": 200} == {name: status for name, status in told.items() if status == 200}
    assert (400, [200, 422, 200]) == (unknown.status, many)
