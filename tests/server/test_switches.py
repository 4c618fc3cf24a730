"""What is switched for more than one conversation, over HTTP and on the command line, on stores that instances share."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from chatkeep import Chatkeep, Turn
from chatkeep.app import core_of
from chatkeep.auth.credentials import create_key

from ..support.service import run
from ..support.serving import Answer, Client, served
from ..support.stores import FAST, store_url
from ..support.waiting import until

SERVERS = [pytest.param(kind, marks=pytest.mark.server) for kind in ("redis", "postgresql")]


async def echo(turn: Turn[Any]) -> str:
    """Says it again."""
    return f"you said {turn.text}"


async def ask(client: Client, key: str, method: str, path: str, body: Any = None) -> Answer:
    """One request with a service key."""
    raw = None if body is None else json.dumps(body).encode()
    return await client.ask(method, path, raw, {"Authorization": f"Bearer {key}"})


@pytest.mark.parametrize("kind", ["sqlite", *SERVERS])
async def test_the_bot_of_a_tenant_and_of_all_is_switched_over_http(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Each pause is lifted by itself; what is off says because of what, here and on another instance."""
    url = store_url(kind, request, tmp_path)
    keep, other = Chatkeep[Any](url, **FAST), Chatkeep[Any](url, **FAST)
    keep.on_message(echo)
    other.on_message(echo)
    async with served(keep) as client, other:
        salon = (await create_key(keep, "salon")).token
        all_of = (await create_key(keep, "", everywhere=True)).token
        ada, bot = "/v1/conversations/ada", "/v1/bot"
        for name in ("ada", "bob", "eve"):
            await keep.tenant("salon").receive(name, "hello")

        assert {"paused": False, "off_by": []} == (await ask(client, salon, "GET", bot)).json
        put = await ask(client, salon, "PUT", bot, {"paused": True})
        assert (200, {"paused": True, "off_by": ["tenant"]}) == (put.status, put.json)
        refused = await ask(client, salon, "PUT", bot, {"paused": True, "everywhere": True})
        assert (403, []) == (refused.status, (await ask(client, all_of, "GET", bot)).json["off_by"])
        everywhere = await ask(client, all_of, "PUT", bot, {"paused": True, "everywhere": True})
        assert {"paused": True, "off_by": ["everywhere"], "tenants": ["salon"]} == everywhere.json
        await ask(client, salon, "PUT", f"{ada}/bot", {"paused": True})

        told = (await ask(client, salon, "GET", ada)).json
        assert (True, ["conversation", "tenant", "everywhere"]) == (told["paused"], told["off_by"])
        listed = (await ask(client, salon, "GET", "/v1/conversations")).json["conversations"]
        assert {"ada": 3, "bob": 2, "eve": 2} == {found["id"]: len(found["off_by"]) for found in listed}
        assert {"conversations": ["ada"]} == (await ask(client, salon, "GET", "/v1/paused")).json
        assert {"conversations": []} == (await ask(client, salon, "GET", "/v1/paused?behind=ada")).json

        async def elsewhere() -> bool:
            found = await other.tenant("salon").conversation("bob")
            return found is not None and found.off_by == ["tenant", "everywhere"]

        await until(elsewhere)
        assert "paused" == (await keep.tenant("salon").receive("bob", "are you there?")).status
        await ask(client, all_of, "PUT", bot, {"paused": False, "everywhere": True})
        assert ["tenant"] == (await ask(client, salon, "GET", "/v1/conversations/bob")).json["off_by"]
        lifted = await ask(client, salon, "PUT", bot, {"paused": False})
        assert {"paused": False, "off_by": []} == lifted.json
        await until(lambda: answered(keep, "bob"))
        assert ["conversation"] == (await ask(client, salon, "GET", ada)).json["off_by"]


async def answered(keep: Chatkeep[Any], name: str) -> bool:
    """Whether nothing is unread there."""
    found = await keep.tenant("salon").conversation(name)
    return found is not None and found.unread == 0 and not found.paused


@pytest.mark.server
async def test_the_shared_cache_is_switched_on_all_instances(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Over HTTP, with a key for everywhere; durable, also for an instance that is opened later."""
    url = store_url("redis", request, tmp_path)
    options: dict[str, Any] = FAST | {"cache": url.partition("?")[0]}
    keep, other, later = (Chatkeep[Any](url, **options) for _ in range(3))
    keep.on_message(echo)
    other.on_message(echo)

    def on(of: Chatkeep[Any]) -> bool:
        shared = of._engine.store.shared
        return shared is not None and shared.on

    async with served(keep) as client, other:
        salon = (await create_key(keep, "salon")).token
        all_of = (await create_key(keep, "", everywhere=True)).token
        assert 403 == (await ask(client, salon, "PUT", "/v1/cache", {"on": False})).status
        assert {"on": True} == (await ask(client, salon, "GET", "/v1/cache")).json
        assert {"on": False} == (await ask(client, all_of, "PUT", "/v1/cache", {"on": False})).json
        assert not on(keep)
        await until(lambda: asyncio.sleep(0, not on(other)))
        async with later:
            assert not on(later)
        assert [] == await core_of(keep).find_paused()
        assert {"on": True} == (await ask(client, all_of, "PUT", "/v1/cache", {"on": True})).json
        assert on(keep)
        await until(lambda: asyncio.sleep(0, on(other)))


def test_what_is_paused_is_listed_on_the_command_line(tmp_path: Path) -> None:
    """Everywhere, a tenant, a conversation; and why the bot is silent stands in the list of conversations."""
    store = str(tmp_path / "chat.db")

    async def begin() -> None:
        async with Chatkeep(f"sqlite:///{store}", **FAST) as keep:
            for name in ("ada", "bob"):
                await keep.tenant("salon").create(name)

    asyncio.run(begin())
    assert "Nothing is paused" in run(tmp_path, "paused", store, "--tenant", "salon").stdout
    run(tmp_path, "pause", store, "ada", "--tenant", "salon")
    run(tmp_path, "pause", store, "--all", "--tenant", "salon")
    run(tmp_path, "pause", store, "--everywhere")
    plain = run(tmp_path, "paused", store, "--tenant", "salon")
    told = json.loads(run(tmp_path, "paused", store, "--tenant", "salon", "--json").stdout)

    assert ["everywhere", "tenant 'salon'", "conversation ada"] == plain.stdout.splitlines()
    assert {"everywhere": True, "tenants": ["salon"], "conversations": ["ada"]} == told
    assert "paused (tenant, everywhere)" in run(tmp_path, "list", store).stdout
    assert "is off" in run(tmp_path, "cache", store, "off").stdout
    assert "is off" in run(tmp_path, "cache", store).stdout
    assert "is on" in run(tmp_path, "cache", store, "on").stdout
