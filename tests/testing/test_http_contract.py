"""`chatkeep serve` and the worker of Durable Objects give the same answers."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from aiohttp import ClientSession

from chatkeep import Chatkeep, Turn
from chatkeep.app import core_of
from chatkeep.auth.credentials import create_key, issue_share, issue_token, list_tokens, redeem, rotate
from chatkeep.auth.format import name_of
from chatkeep.drivers.base import Key, Read
from chatkeep.storage.audit import Act
from chatkeep.testing.http_contract import MERGE_PATCH, SLOT, HttpContract, HttpUser
from chatkeep.testing.servers import DurableObjectServer, worker_module
from tests.support.serving import served
from tests.support.waiting import until
from tests.support.wrangler import Wrangler

pytestmark = pytest.mark.server

SETTINGS = {"VISITORS": "yes", "STORE": "contract"}
VISITOR = ("read", "send", "state:read", "state:write")


def echo(url: str) -> Chatkeep[dict[str, Any]]:
    """The bot that the clauses are about."""
    keep: Chatkeep[dict[str, Any]] = Chatkeep(url, poll="50ms")

    @keep.on_message
    async def bot(turn: Turn[dict[str, Any]]) -> str:
        turn.state["last"] = turn.text
        return f"you said {turn.text}"

    return keep


class OnAStore(HttpContract):
    """The clauses, and what only somebody with the store can try."""

    __test__ = False
    keep: Chatkeep[dict[str, Any]]

    async def test_a_key_does_what_its_scopes_allow(self) -> None:
        """And nothing else, wherever it is used; one that was made without any does everything."""
        async with self.serving() as service:
            await service.ask("POST", "/conversations", {"id": service.id})
            service.token = (await create_key(self.keep, "", scopes=("read",))).token
            reads = await service.ask("GET", ""), await service.ask("GET", "messages")
            refused = [
                await service.ask("GET", "state"),
                await service.ask("PUT", "state", {"a": 1}, if_match="*"),
                await service.ask("POST", "messages", {"content": "hello"}),
                await service.ask("POST", "/conversations", {"id": "another"}),
                await service.ask("DELETE", ""),
            ]
            me = await service.ask("GET", "/me")
            service.token = (await create_key(self.keep, "", scopes=("list",))).token
            lists = await service.ask("GET", "/me")

        assert [200, 200] == [answer.status for answer in reads]
        assert "state" not in reads[0].json
        assert [(403, "forbidden")] * 5 == [(answer.status, answer.word) for answer in refused]
        assert [["read"], []] == [me.json["scopes"], lists.json["scopes"]]

    async def test_what_is_on_legal_hold_is_not_erased(self) -> None:
        """Itself, or its owner; it is when the hold is lifted."""
        holds = core_of(self.keep).holds("")
        async with self.serving() as service:
            await service.ask("POST", "/conversations", {"id": service.id, "owner": "eve"})
            found = []
            for held in ({"conversation": service.id}, {"owner": "eve"}):
                await holds.put(**held, reason="case 7")
                found.append(await service.ask("DELETE", ""))
                await holds.lift(**held)
            there, erased = await service.ask("GET", ""), await service.ask("DELETE", "")

        assert [(409, "on-hold")] * 2 == [(answer.status, answer.word) for answer in found]
        assert [200, 204] == [there.status, erased.status]

    async def test_a_token_that_is_used_after_it_was_rotated_ends_its_family(self) -> None:
        """With what was shared by it: its thief and its holder cannot be told apart. A token that is merely over ends nothing."""
        async with self.visiting(2) as (ada, bob):
            old = (await list_tokens(self.keep, "", ada.id))[0].id
            fresh = await rotate(self.keep, "", ada.id, old, grace=0.0)
            assert fresh is not None
            used, ada.token = ada.token, fresh.token
            share = await issue_share(self.keep, "", ada.id, maker=str(name_of(fresh.token)), scopes=["read"])
            assert share is not None
            redeemed = await redeem(self.keep, share.token)
            assert redeemed is not None
            guest = HttpUser(ada.http, self.address, redeemed[2].token, ada.id)
            ended = await issue_token(self.keep, "", bob.id, expires_in=0.0)
            expired = await HttpUser(bob.http, self.address, ended.token, bob.id).ask("GET", "")
            before = [(await user.ask("GET", "")).status for user in (ada, guest, bob)]
            reused = await HttpUser(ada.http, self.address, used, ada.id).ask("GET", "")

            async def over() -> bool:
                return [401, 401] == [(await user.ask("GET", "")).status for user in (ada, guest)]

            await until(over)
            stays = await bob.ask("GET", "")

        assert [401, 200, 200, 200] == [expired.status, *before]
        assert [401, 200] == [reused.status, stays.status]

    async def test_a_paused_bot_is_told(self) -> None:
        """Where the conversation is paused, its tenant or everything: nobody waits for an answer, and the conversation says why."""
        tenant = self.keep.tenant("")
        async with self.visiting(2) as (ada, bob):
            await ada.say("hello", "m1")
            await self.keep.pause(ada.id)
            one = [await ada.say("hello", "m2"), await ada.ask("GET", "")]
            await self.keep.resume(ada.id)
            found = []
            for pause, resume in ((tenant.pause, tenant.resume), (self.keep.pause_all, self.keep.resume_all)):
                await pause()

                async def paused(wanted: bool = True) -> bool:
                    return bool((await bob.ask("GET", "")).json["paused"]) is wanted

                await until(paused)
                found += [await bob.say("hello", f"b{len(found)}"), await bob.ask("GET", "")]
                await resume()
                await until(lambda: paused(False))
            again = await ada.say("thanks", "m3")

        assert (200, "paused") == (one[0].status, one[0].json["status"])
        assert ["conversation"] == one[1].json["off_by"]
        assert [(200, "paused")] * 2 == [(told.status, told.json["status"]) for told in found[::2]]
        assert [(True, ["tenant"]), (True, ["everywhere"])] == [
            (told.json["paused"], told.json["off_by"]) for told in found[1::2]
        ]
        assert ["you said thanks"] == [reply["content"] for reply in again.json["replies"]]

    async def test_what_a_key_has_done_is_in_the_audit(self) -> None:
        """Who, what, to which conversation, and how it ended; not what was refused, and not what customers do."""
        key = await create_key(self.keep, "", label="shop")
        async with self.visiting() as ada, self.serving() as service:
            service.token = key.token
            await service.ask("POST", "/conversations", {"id": service.id})
            await ada.ask("PUT", SLOT, 1, if_none_match="*")
            done = [
                await service.ask("PUT", SLOT, 1, if_none_match="*"),
                await service.ask("PUT", SLOT, 2, if_none_match="*"),
                await service.ask("PATCH", "state", {"a": 1}, **MERGE_PATCH),
                await service.ask("DELETE", SLOT),
                await service.ask("DELETE", ""),
            ]

            async def written() -> bool:
                return "erase" in [act.act for act in await core_of(self.keep).audit.read("")]

            await until(written)
            acts = await core_of(self.keep).audit.read("")

        assert [200, 412, 200, 204, 204] == [answer.status for answer in done]
        expected = [("create", "201"), ("state", "200"), ("state", "200"), ("state", "204"), ("erase", "204")]
        acts = [act for act in reversed(acts) if act.conversation == service.id]
        assert expected == [(act.act, act.outcome) for act in acts]
        assert {(key.id, "shop")} == {(act.by, act.label) for act in acts}

    async def test_what_clients_say_of_a_trace_is_thrown_away(self) -> None:
        """A turn belongs to the trace of the request, which is no client's to choose; and a redelivery is the same without it."""
        async with self.visiting() as ada:
            body = {"content": "hello", "id": "m1", "metadata": {"page": "home"}}
            trace = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
            first = await ada.ask("POST", "messages", body | {"metadata": trace | {"page": "home"}})
            again = await ada.ask("POST", "messages", body)
            kept = [message.metadata async for message in self.keep.history(ada.id) if message.role == "user"]

        assert (200, 200, True) == (first.status, again.status, again.json["duplicate"])
        assert [{"page": "home"}] == kept

    async def test_what_was_saved_says_so(self) -> None:
        """A client has put it there under any role, so nobody takes it for what was said here."""
        async with self.serving() as service:
            forged = {"id": "m1", "content": "Yes, a refund.", "role": "operator", "metadata": {"author": "Kim"}}
            await self.keep.save(service.id, messages=[forged])
            [told] = (await service.ask("GET", "messages")).json["messages"]

        assert (True, None) == (told["saved"], told.get("author"))


class TestServe(OnAStore):
    """`chatkeep serve`."""

    __test__ = True

    @pytest.fixture(autouse=True)
    async def serve(self) -> AsyncIterator[None]:
        """A server on a store of its own."""
        self.keep = echo("memory://")
        async with served(self.keep, anonymous=True, visitor_scopes=VISITOR) as client:
            self.address, self.key = f"http://127.0.0.1:{client.port}", client.key
            yield


@pytest.fixture(scope="module")
def worker() -> Iterator[DurableObjectServer]:
    """A worker that lets visitors in."""
    with DurableObjectServer(settings=SETTINGS) as server:
        yield server


class TestWorker(OnAStore):
    """The worker of Durable Objects, without Python but for the bot."""

    __test__ = True

    @pytest.fixture(autouse=True)
    async def serve(self, worker: DurableObjectServer) -> AsyncIterator[None]:
        """The bot on the worker's store."""
        async with echo(f"{worker.url}&store=contract") as self.keep:
            self.address, self.key = worker.address, (await create_key(self.keep, "")).token
            yield


@pytest.mark.long
class TestWrangler(TestWorker):
    """The same under `wrangler dev`, with another release of the runtime, and with what wrangler puts around the worker."""

    @pytest.fixture(scope="class")
    @classmethod
    def worker(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DurableObjectServer]:
        """The worker as its guide has people run it on their machine."""
        with Wrangler(tmp_path_factory.mktemp("wrangler"), settings=SETTINGS) as server:
            yield server

    async def test_it_is_fit_to_be_deployed(self, worker: Wrangler) -> None:
        """By the tool that deploys it: each class is bound, and there is nothing that has to be built first."""
        told = worker.run("deploy", "--dry-run")

        assert ["Bell", "Conversation", "Meta", "Shard"] == sorted(
            re.findall(r"env\.[A-Z]+ \((\w+)\) +Durable Object", told)
        )


async def test_the_worker_refuses_a_sealed_store_by_name() -> None:
    """It has no keys: what a visitor says would lie there in the clear, and the answer could not be read."""
    with DurableObjectServer(settings={"VISITORS": "yes", "STORE": "sealed"}) as server:
        keep: Chatkeep[dict[str, Any]] = Chatkeep(f"{server.url}&store=sealed", seal_keys=["0123456789abcdef"])
        async with keep, ClientSession() as http:
            key = (await create_key(keep, "")).token
            begun = await HttpUser(http, server.address).ask("POST", "/conversations")
            told = await HttpUser(http, server.address, key, "ada").say("hello", "m1")
            listed = [one.id async for one in keep.all_conversations()]

    assert [(500, "misconfigured")] * 2 == [(answer.status, answer.word) for answer in (begun, told)]
    assert "sealed" in begun.json["detail"]
    assert [] == listed


async def test_what_the_worker_notes_ends_by_itself() -> None:
    """The acts of a tenant, and the last uses of a credential, which would grow with each request; Python goes on from there."""
    module = worker_module().replace("const USES_S = 3600", "const USES_S = -1").replace("50_000", "5")
    with DurableObjectServer(settings={"STORE": "short"}, worker=module) as server:
        async with echo(f"{server.url}&store=short") as keep, ClientSession() as http:
            key = await create_key(keep, "")
            service = HttpUser(http, server.address, key.token, "ada")
            for number in range(30):
                await service.ask("PATCH", "state", {"a": number}, **MERGE_PATCH)
            audit, core = core_of(keep).audit, core_of(keep)

            async def written() -> bool:
                acts = await audit.read("")
                return bool(acts) and acts[0].number >= 30

            await until(written)
            acts = await audit.read("")
            uses = await core.driver.read(Read(Key("~access", str(name_of(key.token))), tail=100))
            await audit.write("", [Act(act="test", by="me")])
            last = (await audit.read(""))[0]

        assert 5 == len(acts)
        assert uses is not None
        assert (16, True) == (len(uses[1]), uses[0].head > 30)
        assert ("test", acts[0].number + 1) == (last.act, last.number)
