"""Who did what: in the log, in the store, over HTTP and on the command line."""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from chatkeep import Chatkeep
from chatkeep.app import core_of
from chatkeep.auth.credentials import create_key
from chatkeep.drivers.base import Entry, Read, Write
from chatkeep.drivers.memory import MemoryDriver
from chatkeep.storage import audit, store
from chatkeep.storage.audit import Act
from chatkeep.storage.store import fresh_token
from chatkeep.testing.crash import Wrapped, wrapped

from ..support.service import run, service
from ..support.serving import Answer, Client, served
from ..support.stores import FAST, store_url

SERVERS = [pytest.param(kind, marks=pytest.mark.server) for kind in ("redis", "postgresql")]
ADA = "/v1/conversations/ada"


async def ask(client: Client, key: str, method: str, path: str, body: Any = None, **headers: str) -> Answer:
    """One request with a credential."""
    raw = None if body is None else json.dumps(body).encode()
    told = {name.replace("_", "-"): value for name, value in headers.items()}
    return await client.ask(method, path, raw, {"Authorization": f"Bearer {key}"} | told)


@pytest.mark.parametrize("kind", ["memory", "sqlite", *SERVERS])
async def test_who_did_what_is_kept_and_read(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each act of a key once, newest first, with key, conversation, address and outcome; what was refused, and a token's, in the log."""
    caplog.set_level(logging.INFO, "chatkeep.audit")
    keep = Chatkeep[Any](store_url(kind, request, tmp_path), **FAST)
    keep.on_message(lambda turn: turn.text)
    async with served(keep, anonymous=True) as client:
        made = await create_key(keep, "salon", label="Kim")
        key, other = made.token, (await create_key(keep, "barber")).token
        issued = (await ask(client, key, "POST", f"{ADA}/tokens", {"scopes": ["read", "state:write", "share"]})).json
        await ask(client, key, "PUT", f"{ADA}/bot", {"paused": True})
        said = await ask(client, key, "POST", f"{ADA}/operator", {"content": "Kim here"})
        named = await ask(client, key, "POST", f"{ADA}/operator", {"content": "me too", "author": "Lee"})
        await ask(client, key, "PUT", f"{ADA}/state", {"a": 1}, If_Match="*")
        await ask(client, issued["token"], "PUT", f"{ADA}/state/b", 2, If_None_Match="*")
        await ask(client, issued["token"], "DELETE", ADA)
        await ask(client, key, "DELETE", f"{ADA}/tokens/{issued['id']}")
        await ask(client, key, "PUT", "/v1/bot", {"paused": True})
        await ask(client, key, "PUT", "/v1/cache", {"on": False})
        log = (await ask(client, key, "GET", f"{ADA}/messages")).json["messages"]
        await ask(client, key, "DELETE", ADA)
        acts = (await ask(client, key, "GET", "/v1/audit")).json["acts"]
        page = (await ask(client, key, "GET", f"/v1/audit?before={acts[1]['number']}&limit=2")).json["acts"]
        nothing = (await ask(client, other, "GET", "/v1/audit")).json["acts"]

    kept = ["token:create", "pause", "say", "say", "state", "token:end", "pause:tenant", "erase"]
    told = [(record.act, record.outcome) for record in caplog.records if record.name == "chatkeep.audit"]  # type: ignore[attr-defined]
    assert kept == [act["act"] for act in reversed(acts)]
    assert {made.id} == {act["by"] for act in acts}
    assert {"Kim"} == {act["label"] for act in acts}
    assert {"127.0.0.1"} == {act["address"] for act in acts}
    assert {"ada", ""} == {act.get("conversation", "") for act in acts}
    assert acts[2:4] == page
    assert [] == nothing
    assert {("state", "204"), ("erase", "403"), ("cache:off", "403")} <= set(told)
    assert len(kept) + 3 == len(told)
    assert 201 == said.status == named.status
    assert ["Kim", "Lee"] == [message["author"] for message in log if message["role"] == "operator"]


async def test_what_a_backend_begins_and_saves_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    """By its key; what users do all day is not even a line."""
    caplog.set_level(logging.INFO, "chatkeep.audit")
    keep = Chatkeep[Any]("memory://", **FAST)
    keep.on_message(lambda turn: turn.text)
    async with served(keep, anonymous=True) as client:
        key = (await create_key(keep, "salon")).token
        kim = (await ask(client, key, "POST", "/v1/users/kim/tokens", {})).json["token"]
        await ask(client, key, "POST", "/v1/conversations", {"id": "ada"})
        named = (await ask(client, key, "POST", "/v1/conversations", {})).json["id"]
        await ask(client, key, "PUT", "/v1/conversations/eve", {"title": "Eve"})
        await ask(client, key, "PATCH", "/v1/conversations/eve", {"title": "Eva"})
        others = [
            await ask(client, kim, "POST", "/v1/conversations", {"id": "kims"}),
            await ask(client, kim, "PUT", "/v1/conversations/kims", {"title": "Kim"}),
            await client.ask("POST", "/v1/conversations", headers={"Authorization": ""}),
        ]
        acts = (await ask(client, key, "GET", "/v1/audit")).json["acts"]

    kept = [("create", "ada"), ("create", named), ("save", "eve"), ("save", "eve")]
    told = [record.act for record in caplog.records if record.name == "chatkeep.audit"]  # type: ignore[attr-defined]
    assert kept == [(act["act"], act["conversation"]) for act in reversed(acts) if act["act"] in ("create", "save")]
    assert [201, 200, 201] == [answer.status for answer in others]
    assert 4 == told.count("create") + told.count("save")


@pytest.mark.parametrize("seal_keys", [[], ["a secret that nobody guesses"]])
async def test_an_act_that_cannot_be_read_is_in_no_others_way(tmp_path: Path, seal_keys: Any) -> None:
    """The first, the last, one in between, and one that means nothing: others are shown and written."""
    path = tmp_path / "chat.db"
    now = [1000.0]
    async with Chatkeep(f"sqlite:///{path}", seal_keys=seal_keys, clock=lambda: now[0], **FAST) as keep:
        for number in range(1, 8):
            await core_of(keep).audit.write("salon", [Act(act=f"act {number}", by="k")])
    with closing(sqlite3.connect(path)) as raw:
        raw.execute("update entry set body = x'f50100' || randomblob(60) where number in (1, 4, 7)")
        raw.commit()
    async with Chatkeep(f"sqlite:///{path}", seal_keys=seal_keys, clock=lambda: now[0], **FAST) as keep:
        log = core_of(keep).audit
        await log.write("salon", [Act(act="act 8", by="k")])
        shown = await log.read("salon")
        page = await log.read("salon", before=5, limit=2)
        now[0] += audit.KEPT_S + 1
        await log.write("salon", [Act(act="late", by="k")])
        late = await log.read("salon")

    assert [8, 7, 6, 5, 4, 3, 2, 1] == [act.number for act in shown]
    assert ["act 8", "unreadable", "act 6", "act 5", "unreadable", "act 3", "act 2", "unreadable"] == [
        act.act for act in shown
    ]
    assert shown[4:6] == page
    assert ["late"] == [act.act for act in late]


async def test_the_audit_log_is_bounded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By number and by age; what many have done at once is all there."""
    monkeypatch.setattr(audit, "MOST", 50)
    now = [1000.0]
    async with Chatkeep(f"sqlite:///{tmp_path}/chat.db", clock=lambda: now[0], **FAST) as keep:
        log = core_of(keep).audit
        for number in range(60):
            await log.write("salon", [Act(act=f"act {number}", by="k")])
        many = await log.read("salon", limit=500)
        now[0] += audit.KEPT_S + 1
        await log.write("salon", [Act(act="late", by="k")])
        late = await log.read("salon", limit=500)
        listed = [found.id async for found in keep.all_conversations()]

    assert [f"act {number}" for number in range(59, 9, -1)] == [act.act for act in many]
    assert ["late"] == [act.act for act in late]
    assert [] == listed


async def test_commands_are_noted_and_the_access_log_names_the_key(tmp_path: Path) -> None:
    """Who typed a command on this machine stands beside what keys did; a line of the access log has the key's id."""
    with service(tmp_path, log_format="json") as server:
        server.wait_for("Nobody can use this server")
        made = json.loads(server.key("--label", "ci", "--json"))
        await server.client(made["token"]).post("ada", {"content": "hello"})
        run(tmp_path, "pause", "chat.db", "ada")
        run(tmp_path, "say", "chat.db", "ada", "Kim here", "--author", "Kim")
        await ask(server.client(), made["token"], "PUT", f"{ADA}/bot", {"paused": False})
        await ask(server.client(), made["token"], "GET", "/v1/audit")
        run(tmp_path, "export", "chat.db")
        run(tmp_path, "export", "chat.db", "--conversation", "ada")
        run(tmp_path, "export", "chat.db", "--tenant", "")
        run(tmp_path, "erase", "chat.db", "ada", "--yes")
        server.wait_for("PUT /v1/conversations/{id}/bot 200")
        listed = run(tmp_path, "audit", "chat.db", "--json").stdout.splitlines()
        plain = run(tmp_path, "audit", "chat.db").stdout
        lines = [json.loads(line) for line in server.log.splitlines() if line.startswith("{")]

    acts = [json.loads(line) for line in reversed(listed)]
    exports = ["export:everywhere", "export", "export"]
    assert [f"key:create {made['id']}", "pause", "say", "resume", *exports, "erase"] == [act["act"] for act in acts]
    assert [3] == [place for place, act in enumerate(acts) if act["by"] == made["id"]]
    assert ["", "ada", ""] == [act.get("conversation", "") for act in acts if act["act"] in exports]
    assert "resume  ada  by" in plain
    [posted] = [line for line in lines if line["message"].startswith("POST /v1/conversations/{id}/messages")]
    assert made["id"] == posted["credential"]


class Contended(Wrapped):
    """A driver under which somebody else writes to the audit log right before each of the next *left* writes there."""

    left = 0

    async def write(self, act: Write) -> Any:
        """Write, too late while somebody is left."""
        if self.left and act.key.tenant == "~audit":
            self.left -= 1
            found = await self.inner.read(Read(act.key, tail=0))
            now = structs.replace(found[0], revision=fresh_token())
            await self.inner.write(Write(now, found[0].revision, [Entry(0, "", "s", b"")]))
        return await self.inner.write(act)


async def test_who_writes_where_many_do_steps_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a moment at random that grows to a quarter of a second and no further: they would keep each other from it."""
    contended = Contended(MemoryDriver())
    async with Chatkeep[Any](wrapped(contended), **FAST) as keep:
        log = core_of(keep).audit
        await log.write("salon", [Act(act="one", by="key")])
        contended.left = 40
        waits: list[float] = []
        sleep, here = asyncio.sleep, asyncio.current_task()

        async def spy(delay: float, *rest: Any) -> None:
            if asyncio.current_task() is here:  # others sleep as long as they like
                waits.append(delay)
                delay = 0
            await sleep(delay, *rest)

        with monkeypatch.context() as patched:
            patched.setattr(store.asyncio, "sleep", spy)  # type: ignore[attr-defined]
            await log.write("salon", [Act(act="two", by="key")])
        acts = await log.read("salon")

    assert "two" == acts[0].act
    assert 37 <= len(waits)
    assert 0.1 < max(waits) < 0.256
    assert len(set(waits)) > 20
