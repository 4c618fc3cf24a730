"""Webhooks in, replies out: through real HTTP on both sides, on every store."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from chatkeep import Chatkeep, Turn
from chatkeep.app import core_of
from chatkeep.auth.credentials import issue_user_token
from chatkeep.channels import Instagram, Messenger, Telegram, Webhook, WhatsApp
from chatkeep.channels.aliases import Aliases
from chatkeep.channels.base import PLATFORMS
from chatkeep.channels.outlet import ChannelOutlet
from chatkeep.drivers.base import Key, mark_of
from chatkeep.errors import Unavailable
from chatkeep.server.webhooks import Webhooks
from chatkeep.testing.servers import RedisServer

from ..support import program
from ..support.platform import SECRET, Platform, platform, post_whatsapp, whatsapp_message, whatsapp_status
from ..support.samples import webhook_signed
from ..support.serving import Client, served
from ..support.waiting import nothing_happens_for, until

FAST = {"poll": "30ms", "retry_after": "5ms", "retry_longest": "20ms"}
TELEGRAM_SECRET = "tg"
TENANTS = {"1550": "pizza", "1660": "pasta"}


async def echo(turn: Turn[Any]) -> str:
    """Counts and says it again."""
    turn.state["count"] = turn.state.get("count", 0) + 1
    return f"{turn.state['count']}: {turn.text}"


@asynccontextmanager
async def connected(
    url: str, there: Platform, handler: Any = echo, **options: Any
) -> AsyncIterator[tuple[Client, Any]]:
    """A server with WhatsApp (two accounts, a tenant each) and Telegram, whose replies go to *there*."""
    whatsapp = WhatsApp(
        accounts={"1550": "token-a", "1660": "token-b"},
        secrets=["an old secret", SECRET],
        verify_tokens="v",
        api=there.url,
    )
    telegram = Telegram(token="42:AAF", secrets=TELEGRAM_SECRET, api=there.url)
    keep: Chatkeep[Any] = Chatkeep(url, **(FAST | options))
    keep.on_message(handler)
    outlet = ChannelOutlet(whatsapp, telegram, timeout=4.0, tenant_of=lambda channel, account: TENANTS.get(account, ""))
    keep.deliver(outlet)
    async with served(keep) as client:
        yield client, keep


async def test_a_customer_is_answered_where_they_wrote(url: str) -> None:
    """Two restaurants and Telegram; each answer goes to its own, and a redelivered webhook changes nothing."""
    async with platform() as there, connected(url, there) as (client, keep):
        posted = [whatsapp_message("4917", "hi", "wamid.1"), whatsapp_message("4917", "hi", "wamid.2", account="1660")]
        assert [200, 200] == [(await post_whatsapp(client, *posted)).status for _ in range(2)]
        update = {
            "update_id": 7,
            "message": {"message_id": 3, "date": 1763697600, "chat": {"id": 5, "type": "private"}, "text": "hey"},
        }
        secret = {"X-Telegram-Bot-Api-Secret-Token": TELEGRAM_SECRET, "Authorization": ""}
        assert 200 == (await client.ask("POST", "/channels/telegram", json.dumps(update).encode(), secret)).status
        await until(lambda: len(there.sent) == 3)
        await nothing_happens_for(0.1)

        assert ["1: hey", "1: hi", "1: hi"] == sorted(there.texts)
        assert {"/1550/messages", "/1660/messages", "/bot42:AAF/sendMessage"} == {told["path"] for told in there.sent}
        assert ["whatsapp:1550:4917"] == [found.id async for found in keep.tenant("pizza").conversations()]
        assert ["telegram:42:5"] == [found.id async for found in keep.tenant("").conversations()]
        assert ["telegram", ""] == [m.channel async for m in keep.history("telegram:42:5") if m.role != "system"]


def telegram_tap(n: int, **callback: Any) -> bytes:
    """A tapped button, as Telegram posts it."""
    there = {"message_id": 9, "date": 1, "chat": {"id": 5, "type": "private"}}
    told = {"id": f"tap{n}", "from": {"id": 5, "first_name": "Uma"}, "chat_instance": "1", "message": there}
    return json.dumps({"update_id": n, "callback_query": told | callback}).encode()


async def test_nobody_begins_the_conversation_of_a_customer_who_has_not_written_yet() -> None:
    """Whoever began it would read what the customer says, and have the bot write to any number: users and visitors find it taken."""
    async with platform() as there:
        whatsapp = WhatsApp(accounts={"1550": "token"}, secrets=SECRET, verify_tokens="v", api=there.url)
        keep: Chatkeep[Any] = Chatkeep("memory://", **FAST)
        keep.on_message(echo)
        keep.deliver(ChannelOutlet(whatsapp, timeout=4.0))
        async with served(keep, anonymous=True, protocols=["aisdk"]) as client:
            eve = await issue_user_token(keep, "", "eve")
            held = {"Authorization": f"Bearer {eve.token}"}
            chat = {
                "id": "whatsapp:1550:4917",
                "messages": [{"id": "m", "role": "user", "parts": [{"type": "text", "text": "mine"}]}],
            }
            asked = [
                ("PUT", "/v1/conversations/whatsapp:1550:4917", {"title": "mine"}, held),
                ("POST", "/v1/conversations/whatsapp:1550:4917/messages", {"content": "mine"}, held),
                ("PATCH", "/v1/conversations/whatsapp:1550:4917/state/x", {"content": "mine"}, held),
                ("POST", "/v1/conversations", {"id": "whatsapp:1550:4917"}, held),
                ("POST", "/api/chat", chat, held),
                ("POST", "/api/chat", chat, {"Authorization": ""}),
                ("POST", "/api/chat", chat | {"id": "telegram:42:5"}, {"Authorization": ""}),  # of another process
            ]
            refused = [
                (await client.ask(method, path, json.dumps(body).encode(), headers)).status
                for method, path, body, headers in asked
            ]
            begun = [found.id async for found in keep.conversations()]
            plain = await client.ask("PUT", "/v1/conversations/team:eu:7", b'{"title": "mine"}', held)
            await post_whatsapp(client, whatsapp_message("4917", "hi", "wamid.1"))
            await until(lambda: there.sent)
            found = await keep.conversation("whatsapp:1550:4917")

        assert ([404, 404, 404, 409, 404, 401, 401], [], 200) == (refused, begun, plain.status)
        assert (["1: hi"], "") == (there.texts, found and found.owner)


def test_the_names_of_the_platforms_are_those_of_the_channels() -> None:
    """Each channel that comes with chatkeep is one."""
    assert {channel.name for channel in (Instagram, Messenger, Telegram, Webhook, WhatsApp)} == PLATFORMS


async def test_a_tapped_button_stops_spinning() -> None:
    """Whatever becomes of the tap: answered, kept while the bot is paused, redelivered, or not understood."""
    headers = {"X-Telegram-Bot-Api-Secret-Token": TELEGRAM_SECRET, "Authorization": ""}
    async with platform() as there, connected("memory://", there) as (client, keep):
        taps = [telegram_tap(1, data="yes"), telegram_tap(1, data="yes"), telegram_tap(2, game_short_name="chess")]
        for tap in taps:
            assert 200 == (await client.ask("POST", "/channels/telegram", tap, headers)).status
        await until(lambda: len(there.sent) == 4)
        await keep.pause()
        await client.ask("POST", "/channels/telegram", telegram_tap(3, data="no"), headers)
        await until(lambda: len(there.sent) == 5)

        stopped = [told["callback_query_id"] for told in there.sent if told["path"].endswith("/answerCallbackQuery")]
        assert ["tap1", "tap1", "tap2", "tap3"] == sorted(stopped)


@pytest.mark.parametrize("typing", [False, True])
async def test_customers_see_that_their_message_has_come_if_it_is_wanted(typing: bool) -> None:
    """And only where the bot is about to answer: not for a redelivery, not while it is paused."""
    async with platform() as there:
        whatsapp = WhatsApp(accounts={"1550": "a"}, secrets=SECRET, verify_tokens="v", api=there.url)
        keep: Chatkeep[Any] = Chatkeep("memory://", **FAST)
        keep.on_message(echo)
        keep.deliver(ChannelOutlet(whatsapp, typing=typing))
        async with served(keep) as client:
            await post_whatsapp(client, whatsapp_message("1", "hi", "w1"))
            await until(lambda: len(there.sent) == 1 + typing)
            await post_whatsapp(client, whatsapp_message("1", "hi", "w1"))
            await keep.pause()
            await post_whatsapp(client, whatsapp_message("1", "hi", "w2"))
            await nothing_happens_for(0.2)

        shown = [told["message_id"] for told in there.sent if "typing_indicator" in told]
        assert ["w1"] * typing == shown
        assert 1 + typing == len(there.sent)


async def test_what_the_platform_tells_of_a_reply_is_shown_with_it(url: str) -> None:
    """Delivered, then read; also when it is told twice and in the wrong order."""
    async with platform() as there, connected(url, there) as (client, keep):
        await post_whatsapp(client, whatsapp_message("4917", "hi", "wamid.1"))
        await until(lambda: len(there.sent) == 1)
        for status in ("read", "delivered", "read"):
            assert 200 == (await post_whatsapp(client, whatsapp_status("4917", "wamid.out1", status))).status
        pizza = keep.tenant("pizza")

        async def told() -> bool:
            return [sending.status for sending in await pizza.deliveries("whatsapp:1550:4917")] == ["read"]

        await until(told)
        await post_whatsapp(client, whatsapp_message("4917", "more", "wamid.2"))
        await until(lambda: len(there.sent) == 2)

        assert ["1: hi", "2: more"] == there.texts


async def test_one_customer_under_several_names_has_one_conversation(url: str) -> None:
    """Known by the number, then by both, by either alone, and by a new number: replies go to the newest address."""

    async def tell(item: dict[str, Any]) -> None:
        sent = len(there.sent)
        assert 200 == (await post_whatsapp(client, item)).status
        await until(lambda: len(there.sent) == sent + 1)

    changed = {"body": "", "type": "user_changed_number", "wa_id": "4918", "user_id": "DE.2"}
    async with platform() as there, connected(url, there) as (client, keep):
        await tell(whatsapp_message("4917", "a", "w1"))
        await tell(whatsapp_message("4917", "b", "w2") | {"from_user_id": "DE.1"})
        await tell(whatsapp_message("", "c", "w3") | {"from_user_id": "DE.1"})
        await tell(whatsapp_message("4917", "d", "w4"))
        await tell(whatsapp_message("4917", "", "w5") | {"from_user_id": "DE.1", "type": "system", "system": changed})
        await tell(whatsapp_message("4918", "e", "w6"))
        await tell(whatsapp_message("4918", "f", "w7") | {"from_user_id": "DE.2"})
        first = ["1: a", "2: b", "3: c", "4: d", "5: ", "6: e", "7: f"]
        assert first == there.texts
        assert ["4917", "4917", "DE.1", "4917", "4918", "4918", "4918"] == [
            told.get("to") or told["recipient"] for told in there.sent
        ]
        pizza = keep.tenant("pizza")
        assert ["whatsapp:1550:4917"] == [found.id async for found in pizza.conversations()]

        await tell(whatsapp_message("4918", "mine now", "w8") | {"from_user_id": "DE.9"})
        assert ["1: mine now"] == there.texts[len(first) :]  # the number has another owner: no word of the first one's


@pytest.mark.parametrize("named", [{}, {"from_user_id": "DE.9"}])
async def test_a_number_that_was_given_up_is_somebody_elses(url: str, named: dict[str, str]) -> None:
    """Whoever gets it next has a conversation of its own; replies of the first customer's go to the new number, also when a message from
    the old one comes late."""
    start = 1763697600

    async def tell(customer: str, text: str, second: int, **more: Any) -> None:
        sent = len(there.sent)
        item = whatsapp_message(customer, text, f"w.{customer}.{second}", at=start + second)
        assert 200 == (await post_whatsapp(client, item | more)).status
        await until(lambda: len(there.sent) == sent + 1)

    changed = {"body": "", "type": "user_changed_number", "wa_id": "4918"}
    async with platform() as there, connected(url, there) as (client, keep):
        await tell("4917", "a", 1)
        await tell("4917", "", 20, type="system", system=changed)
        await tell("4917", "late", 10)
        await tell("4917", "new here", 30, **named)
        await tell("4918", "b", 40)
        await tell("4917", "more", 50, **named)
        await keep.tenant("pizza").accept("whatsapp:1550:4917", "for the first one", role="operator")
        await until(lambda: len(there.sent) == 7)
        listed = [found.id async for found in keep.tenant("pizza").conversations()]

    assert ["1: a", "2: ", "3: late", "1: new here", "4: b", "2: more", "for the first one"] == there.texts
    assert ["4917", "4918", "4918", "4917", "4918", "4917", "4918"] == [told["to"] for told in there.sent]
    assert {"whatsapp:1550:4917", f"whatsapp:1550:{'DE.9' if named else f'4917~{start + 20}'}"} == set(listed)


async def test_a_number_that_is_taken_back_is_its_first_customers_again(url: str) -> None:
    """Somebody else has had it in between: neither reads the other's words, and what is for that one, whose address nobody knows any more,
    goes nowhere. What the platform tells late, or twice, changes nothing."""
    start = 1763697600

    async def tell(customer: str, text: str, second: int, *, sent: int = 1, **more: Any) -> None:
        before = len(there.sent)
        item = whatsapp_message(customer, text, f"w.{customer}.{second}", at=start + second)
        assert 200 == (await post_whatsapp(client, item | more)).status
        await until(lambda: len(there.sent) == before + sent)

    def to(number: str) -> dict[str, Any]:
        return {"type": "system", "system": {"body": "", "type": "user_changed_number", "wa_id": number}}

    async with platform() as there, connected(url, there) as (client, keep):
        pizza = keep.tenant("pizza")
        await tell("4917", "ada", 1)
        await tell("4917", "", 20, **to("4918"))
        await tell("4917", "bob", 30)
        await tell("4917", "", 20, sent=0, **to("4918"))  # once more
        await tell("4917", "bob again", 40)
        await tell("4918", "", 100, **to("4917"))
        await tell("4917", "ada again", 110)
        await tell("4917", "", 20, sent=0, **to("4918"))
        await tell("4917", "ada still", 120)
        second = f"whatsapp:1550:4917~{start + 20}"
        await pizza.accept(second, "for bob", role="operator")

        async def failed() -> bool:
            return "failed" in [one.status for one in await pizza.deliveries(second)]

        await until(failed)
        await tell("4917", "bob, late", 90, sent=0)
        told = {
            found.id: [m.text async for m in pizza.history(found.id) if m.role in ("user", "operator")]
            async for found in pizza.conversations()
        }

    assert {
        "whatsapp:1550:4917": ["ada", "ada again", "ada still"],
        second: ["bob", "bob again", "for bob", "bob, late"],
    } == told
    assert ["1: ada", "2: ", "1: bob", "2: bob again", "3: ", "4: ada again", "5: ada still"] == there.texts
    assert ["4917", "4918", *["4917"] * 5] == [one["to"] for one in there.sent]


async def test_replies_do_not_go_to_who_has_the_number_now(url: str) -> None:
    """A number that comes with another user id is somebody else's: the first customer is reached by the user id, and a message of before
    that comes late does not take the number back."""
    start = 1763697600
    async with platform() as there, connected(url, there) as (client, keep):
        for customer, second, text in (("DE.1", 10, "a"), ("DE.9", 30, "b"), ("DE.1", 20, "late")):
            item = whatsapp_message("4918", text, f"w{second}", at=start + second) | {"from_user_id": customer}
            sent = len(there.sent)
            assert 200 == (await post_whatsapp(client, item)).status
            await until(lambda sent=sent: len(there.sent) == sent + 1)  # type: ignore[misc]
        for customer in ("DE.1", "DE.9"):
            await keep.tenant("pizza").accept(f"whatsapp:1550:{customer}", f"for {customer}", role="operator")
            await until(lambda customer=customer: f"for {customer}" in there.texts)  # type: ignore[misc]

    assert ["1: a", "1: b", "2: late", "for DE.1", "for DE.9"] == there.texts
    assert ["4918", "4918", "DE.1", "DE.1", "4918"] == [one.get("to") or one["recipient"] for one in there.sent]


@pytest.mark.parametrize("instances", [1, 2])
@pytest.mark.parametrize("new", [False, True])
async def test_two_names_that_come_at_the_same_moment_begin_one_conversation(
    url: str, monkeypatch: pytest.MonkeyPatch, instances: int, new: bool
) -> None:
    """One message shows the number, one the number and the user id; both are looked up before either is written. *new*: so is the customer,
    and not the number, which another one has given up."""
    start, together, looked = 1763697600, asyncio.Barrier(2), set[Any]()
    get = Aliases._get

    async def get_together(self: Any, tenant: str, name: str) -> Any:
        found = await get(self, tenant, name)
        if asyncio.current_task() not in looked and len(looked) < 2:
            looked.add(asyncio.current_task())
            await together.wait()
        return found

    async with platform() as there, connected(url, there) as one, connected(url, there) as two:
        (client, keep), (other, _) = one, two
        before: set[str] = set()
        if new:
            changed = {"type": "system", "system": {"body": "", "type": "user_changed_number", "wa_id": "4999"}}
            await post_whatsapp(client, whatsapp_message("4917", "first", "w1", at=start))
            await post_whatsapp(client, whatsapp_message("4917", "", "w2", at=start + 1) | changed)
            await until(lambda: len(there.sent) == 2)  # (who sends looks names up too)
            before = {found.id async for found in keep.tenant("pizza").conversations()}
        monkeypatch.setattr(Aliases, "_get", get_together)
        await asyncio.gather(
            post_whatsapp(client, whatsapp_message("4917", "a", "w3", at=start + 10)),
            post_whatsapp(
                client if instances == 1 else other,
                whatsapp_message("4917", "b", "w4", at=start + 10) | {"from_user_id": "DE.1"},
            ),
        )
        listed = {found.id async for found in keep.tenant("pizza").conversations()} - before
        assert 1 == len(listed)
        (id,) = listed
        assert ["a", "b"] == sorted([m.text async for m in keep.tenant("pizza").history(id) if m.role == "user"])


@pytest.mark.server
async def test_the_journal_takes_what_customers_write_who_came_before(tmp_path: Path) -> None:
    """By one name or two, while the store is away; of anybody else it could begin a second conversation, and is posted again."""
    journal = {"on_outage": "journal", "journal": str(tmp_path / "journal.db")}
    with RedisServer("valkey-9", tmp_path) as server:
        async with platform() as there, connected(f"{server.url}?timeout=1", there, **journal) as (client, keep):
            ada = whatsapp_message("4917", "hi", "wamid.1")
            bob = whatsapp_message("4918", "hi", "wamid.2") | {"from_user_id": "DE.2"}
            begun = (await post_whatsapp(client, ada, bob)).status
            await until(lambda: len(there.sent) == 2)
            server.kill()
            known = [
                (await post_whatsapp(client, one)).status
                for one in (
                    whatsapp_message("4917", "still here", "wamid.3"),
                    whatsapp_message("4918", "still here", "wamid.4") | {"from_user_id": "DE.2"},
                )
            ]
            others = [
                (await post_whatsapp(client, one)).status
                for one in (
                    whatsapp_message("4919", "hi", "wamid.5"),
                    whatsapp_message("4917", "hi", "wamid.6") | {"from_user_id": "DE.1"},
                )
            ]
            server.start()
            await until(lambda: len(there.sent) == 4)
            listed = [found.id async for found in keep.tenant("pizza").conversations()]

    assert (200, [200, 200], [503, 503]) == (begun, known, others)
    assert ["2: still here"] * 2 == there.texts[2:]
    assert ["whatsapp:1550:4917", "whatsapp:1550:DE.2"] == sorted(listed)


@pytest.mark.server
@pytest.mark.parametrize("elsewhere", [False, True])
async def test_the_journal_takes_nothing_for_a_conversation_that_was_erased(tmp_path: Path, elsewhere: bool) -> None:
    """Where the customer's message belongs now only the store can tell: the platform posts it again."""
    journal = {"on_outage": "journal", "journal": str(tmp_path / "journal.db")}
    with RedisServer("valkey-9", tmp_path) as server:
        url = f"{server.url}?timeout=1"
        async with platform() as there, connected(url, there, **journal) as (client, keep):
            old = whatsapp_message("4918", "hi", "wamid.1")
            both = whatsapp_message("4918", "hi again", "wamid.2") | {"from_user_id": "DE.2"}
            await post_whatsapp(client, old)
            await post_whatsapp(client, both)
            await until(lambda: len(there.sent) == 2)
            if elsewhere:
                async with Chatkeep[Any](url) as other:
                    await other.tenant("pizza").erase("whatsapp:1550:4918")
            else:
                await keep.tenant("pizza").erase("whatsapp:1550:4918")
            aliases = core_of(keep).outlet.aliases
            mark = mark_of(Key("pizza", "whatsapp:1550:DE.2"))
            await until(lambda: mark not in aliases._seen)
            server.kill()
            late = whatsapp_message("4918", "still here", "wamid.3") | {"from_user_id": "DE.2"}
            posted = (await post_whatsapp(client, late)).status
            server.start()

    assert 503 == posted


@pytest.mark.server
async def test_a_server_that_sends_nothing_remembers_customers_too(tmp_path: Path) -> None:
    """Without an outlet the journal takes what they write as well."""
    journal = {"on_outage": "journal", "journal": str(tmp_path / "journal.db")}
    with RedisServer("valkey-9", tmp_path) as server:
        keep = Chatkeep[Any](f"{server.url}?timeout=1", **FAST | journal)
        keep.on_message(lambda turn: None)
        webhooks = Webhooks(WhatsApp(accounts={"1550": "a"}, secrets=SECRET, verify_tokens="v"))
        async with served(keep, webhooks=webhooks) as client:
            first = (await post_whatsapp(client, whatsapp_message("4917", "hi", "wamid.1"))).status
            server.kill()
            second = (await post_whatsapp(client, whatsapp_message("4917", "still here", "wamid.2"))).status
            server.start()

    assert (200, 200) == (first, second)


@pytest.mark.parametrize("told_first", [True, False])
async def test_a_group_that_becomes_a_supergroup_goes_on(told_first: bool, url: str) -> None:
    """Its conversation and state stay; what was to go to the old group goes to the new one, told of it or refused."""
    old, new = -400, -100400
    headers = {"X-Telegram-Bot-Api-Secret-Token": TELEGRAM_SECRET, "Authorization": ""}

    async def tell(n: int, chat: int, **said: Any) -> None:
        message = {"message_id": n, "date": 1, "from": {"id": 5}, "chat": {"id": chat, "type": "group"}} | said
        update = json.dumps({"update_id": n, "message": message}).encode()
        assert 200 == (await client.ask("POST", "/channels/telegram", update, headers)).status

    moved = {"ok": False, "error_code": 400, "description": "Bad Request: group chat was upgraded to a supergroup chat"}
    async with platform() as there, connected(url, there) as (client, keep):
        await tell(1, old, text="a")
        await until(lambda: len(there.sent) == 1)
        if told_first:
            await tell(2, old, migrate_to_chat_id=new)
            await tell(3, new, migrate_from_chat_id=old)
        else:
            there.then = [(400, moved | {"parameters": {"migrate_to_chat_id": new}})]
        await tell(4, new if told_first else old, text="b")
        await until(lambda: len(there.sent) == 2)
        await tell(5, new, text="c")
        await until(lambda: len(there.sent) == 3)

        assert ["1: a", "2: b", "3: c"] == there.texts
        assert [str(old), str(new), str(new)] == [told["chat_id"] for told in there.sent]
        assert [f"telegram:42:{old}"] == [found.id async for found in keep.tenant("").conversations()]


async def test_names_go_with_the_conversation_whose_they_are_now(url: str) -> None:
    """A number that another customer has by now stays when the first one is erased, and goes with the other."""
    first, second, number = (f"whatsapp:1550:{name}" for name in ("DE.1", "DE.9", "4918"))
    async with platform() as there, connected(url, there) as (client, keep):
        for n, customer in enumerate(("DE.1", "DE.9"), 1):
            await post_whatsapp(client, whatsapp_message("4918", "hi", f"w{n}") | {"from_user_id": customer})
            await until(lambda n=n: len(there.sent) == n)  # type: ignore[misc]
        found = []
        for erased in (first, second):
            await keep.tenant("pizza").erase(erased)
            rows = await keep._engine.store.rows("key", tenant="~aliases", limit=9)
            found.append({row.key.id for row in rows})

    assert [{mark_of(Key("pizza", name)) for name in (second, number)}, set()] == found


async def test_looking_a_customer_up_takes_one_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where names may change: one when a message comes, one when a reply goes; none for a person on Telegram."""
    from chatkeep.storage.records import Records

    reads = 0
    get = Records.get

    async def counted(self: Any, name: str) -> Any:
        nonlocal reads
        reads += "aliases" in self._tenant
        return await get(self, name)

    monkeypatch.setattr(Records, "get", counted)
    async with platform() as there, connected("memory://", there) as (client, _):
        for n in range(1, 4):
            await post_whatsapp(client, whatsapp_message("4917", "hi", f"w{n}") | {"from_user_id": "DE.1"})
            await until(lambda n=n: len(there.sent) == n)  # type: ignore[misc]
            if n == 1:
                reads = 0
        assert 4 == reads
        message = {"message_id": 1, "date": 1, "chat": {"id": 5, "type": "private"}, "text": "hi"}
        headers = {"X-Telegram-Bot-Api-Secret-Token": TELEGRAM_SECRET, "Authorization": ""}
        await client.ask(
            "POST", "/channels/telegram", json.dumps({"update_id": 1, "message": message}).encode(), headers
        )
        await until(lambda: len(there.sent) == 4)
        assert 4 == reads


async def test_a_status_may_overtake_the_answer_to_the_send(url: str) -> None:
    """The platform posts that the message failed before it has answered the request that sent it."""
    async with platform() as there, connected(url, there) as (client, keep):
        there.then = [0.5]
        await post_whatsapp(client, whatsapp_message("4917", "hi", "wamid.1"))
        await until(lambda: not there.then)
        assert 200 == (await post_whatsapp(client, whatsapp_status("4917", "wamid.out1", "failed"))).status
        await until(lambda: len(there.sent) == 1)

        async def failed() -> bool:
            stands = await keep.tenant("pizza").deliveries("whatsapp:1550:4917")
            return [("failed", ("wamid.out1",))] == [(one.status, one.ids) for one in stands]

        await until(failed)


async def test_a_status_belongs_to_the_reply_whatever_the_platform_calls_the_customer() -> None:
    """WhatsApp repeats the key of the reply; the customer may be a user id in one and a phone number in the other."""
    async with platform() as there, connected("memory://", there) as (client, keep):
        await post_whatsapp(client, whatsapp_message("4917", "hi", "wamid.1"))
        await until(lambda: len(there.sent) == 1)
        key = there.sent[0]["biz_opaque_callback_data"]
        await post_whatsapp(client, whatsapp_status("another-name", "wamid.out1", "read", key=key))
        pizza = keep.tenant("pizza")

        assert ["read"] == [sending.status for sending in await pizza.deliveries("whatsapp:1550:4917")]
        assert ["whatsapp:1550:4917"] == [found.id async for found in pizza.conversations()]


async def test_a_status_of_a_reply_that_was_erased_is_nobodys() -> None:
    """Under an id of the platform's and the reply's key: it begins no conversation, and leaves nothing in one that was begun since."""
    async with platform() as there, connected("memory://", there) as (client, keep):
        pizza = keep.tenant("pizza")
        await post_whatsapp(client, whatsapp_message("4917", "hi", "wamid.1"))
        await until(lambda: len(there.sent) == 1)
        read = whatsapp_status("4917", "wamid.out1", "read", key=there.sent[0]["biz_opaque_callback_data"])
        await pizza.erase("whatsapp:1550:4917")
        await post_whatsapp(client, read)
        begun = await pizza.conversation("whatsapp:1550:4917")
        await post_whatsapp(client, whatsapp_message("4917", "hi again", "wamid.2"))
        await until(lambda: len(there.sent) == 2)
        await post_whatsapp(client, read)
        log = [message.metadata.get("kind") async for message in pizza.history("whatsapp:1550:4917")]

    assert begun is None
    assert "status" not in log


async def test_an_account_that_nobody_knows_does_not_hold_up_the_others() -> None:
    """What comes for it is kept as a note in the tenant "", and answered by nobody."""
    async with platform() as there:
        whatsapp = WhatsApp(accounts={"1550": "a", "1660": "b"}, secrets=SECRET, verify_tokens="v", api=there.url)
        keep: Chatkeep[Any] = Chatkeep("memory://", **FAST)
        keep.on_message(echo)
        keep.deliver(ChannelOutlet(whatsapp, tenant_of=lambda channel, account: {"1550": "pizza"}[account]))
        async with served(keep) as client:
            posted = [whatsapp_message("1", "hi", "w1", account="1660"), whatsapp_message("2", "hi", "w2")]
            answer = await post_whatsapp(client, *posted)
            await until(lambda: len(there.sent) == 1)
            notes = [m async for m in keep.history("whatsapp:1660:unknown")]

        assert 200 == answer.status
        assert ["1: hi"] == there.to("2")
        assert ["no tenant has this account"] == [note.metadata["reason"] for note in notes]


@pytest.mark.parametrize(("known", "sends"), [("1550", "1550"), ("1550 1770", "1550"), ("1550", "")])
async def test_what_could_not_be_answered_is_a_note_and_runs_no_handler(
    known: str, sends: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A number of the app without a token, or whose token the outlet has not: nothing waits to go out, and the log says so."""
    async with platform() as there:
        bot: dict[str, Any] = {"secrets": SECRET, "verify_tokens": "v", "api": there.url}
        keep: Chatkeep[Any] = Chatkeep("memory://", **FAST)
        keep.on_message(echo)
        if sends:
            keep.deliver(ChannelOutlet(WhatsApp(accounts=dict.fromkeys(sends.split(), "a"), **bot)))
        webhooks = Webhooks(WhatsApp(accounts=dict.fromkeys(known.split(), "a"), **bot))
        async with served(keep, webhooks=webhooks) as client:
            posted = [whatsapp_message("1", "hi", f"w{account}", account=account) for account in ("1770", "1550")]
            assert [200, 200] == [(await post_whatsapp(client, *posted)).status for _ in range(2)]

            async def answered() -> bool:
                return ["1: hi"] == [m.text async for m in keep.history("whatsapp:1550:1") if m.role == "assistant"]

            await until(answered)
            log = [(m.role, m.metadata.get("reason")) async for m in keep.history("whatsapp:1770:1")]
            waiting = await keep.deliveries("whatsapp:1770:1")

        assert [("system", "nothing here can send from this account")] == log
        assert [] == waiting
        assert "whatsapp:1770" in caplog.text
        assert sends == "" or ["1: hi"] == there.to("1")


async def test_a_webhook_without_an_address_for_replies_is_answered_all_the_same() -> None:
    """It only listens, and whoever posts knows so: its replies are read, and not sent."""
    secret = "whsec_" + base64.b64encode(bytes(24)).decode()
    keep: Chatkeep[Any] = Chatkeep("memory://", **FAST)
    keep.on_message(echo)
    keep.deliver(ChannelOutlet(Webhook("shop", secrets=secret)))
    async with served(keep) as client:
        body = json.dumps({"conversation": "ada", "content": "hi", "id": "1"}).encode()
        headers = dict(webhook_signed(body, secret, at=time.time())) | {"Authorization": ""}
        assert 200 == (await client.ask("POST", "/channels/webhook", body, headers)).status

        async def answered() -> bool:
            return ["1: hi"] == [m.text async for m in keep.history("webhook:shop:ada") if m.role == "assistant"]

        await until(answered)


async def test_two_bots_of_one_platform_are_told_apart_by_their_secrets() -> None:
    """And each answers for itself."""
    async with platform() as there:
        bots = [Telegram(token=f"{n}:AAF", secrets=f"tg{n}", api=there.url) for n in (1, 2)]
        keep: Chatkeep[Any] = Chatkeep("memory://", **FAST)
        keep.on_message(echo)
        keep.deliver(ChannelOutlet(*bots))
        async with served(keep, webhooks=Webhooks(*bots)) as client:
            for n in (1, 2):
                update = {
                    "update_id": n,
                    "message": {"message_id": 3, "date": 1, "chat": {"id": 5, "type": "private"}, "text": "hey"},
                }
                secret = {"X-Telegram-Bot-Api-Secret-Token": f"tg{n}", "Authorization": ""}
                assert (
                    200 == (await client.ask("POST", "/channels/telegram", json.dumps(update).encode(), secret)).status
                )
            await until(lambda: len(there.sent) == 2)

        assert {"/bot1:AAF/sendMessage", "/bot2:AAF/sendMessage"} == {told["path"] for told in there.sent}


async def test_a_webhook_is_acknowledged_only_when_all_of_it_is_durable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The store fails for one of three; the whole post comes again; each is answered once."""
    async with platform() as there, connected("memory://", there) as (client, keep):
        accept, fail = type(keep._engine.intake).accept, {"whatsapp:1550:2"}

        async def sometimes(self: Any, key: Any, *args: Any, **options: Any) -> Any:
            if key.id in fail:
                raise Unavailable(f"{key}: not now")
            return await accept(self, key, *args, **options)

        monkeypatch.setattr(type(keep._engine.intake), "accept", sometimes)
        posted = [whatsapp_message(f"{n}", "hi", f"wamid.{n}") for n in (1, 2, 3)]
        first = await post_whatsapp(client, *posted)
        fail.clear()
        second = await post_whatsapp(client, *posted)
        await until(lambda: len(there.sent) == 3)
        await nothing_happens_for(0.05)

        assert (503, 200) == (first.status, second.status)
        assert ["1: hi"] * 3 == there.texts


async def test_one_bad_item_does_not_hold_up_the_rest() -> None:
    """Too long for this bot, a kind that nobody knows: kept as notes; the others are answered."""
    async with platform() as there, connected("memory://", there, message_limit=1000) as (client, keep):
        odd = whatsapp_message("2", "", "wamid.2") | {"type": "hologram", "hologram": {"x": 1}}
        posted = [whatsapp_message("1", "x" * 2000, "wamid.1"), odd, whatsapp_message("3", "hi", "wamid.3")]

        assert 200 == (await post_whatsapp(client, *posted)).status == (await post_whatsapp(client, *posted)).status
        await until(lambda: "1: hi" in there.texts)
        log = [m async for m in keep.tenant("pizza").history("whatsapp:1550:1")]

        assert ["unknown"] == [message.metadata["kind"] for message in log]
        assert "2,0" in log[0].metadata["reason"]
        assert [m async for m in keep.tenant("pizza").history("whatsapp:1550:2")]


async def test_another_text_under_an_id_that_is_known_is_kept_as_a_note(caplog: pytest.LogCaptureFixture) -> None:
    """The platform is told that it has come, the bot answers once, and nothing is lost in silence."""
    async with platform() as there, connected("memory://", there) as (client, keep):
        for text in ("pizza", "pizza", "pasta"):
            assert 200 == (await post_whatsapp(client, whatsapp_message("1", text, "wamid.1"))).status
        await until(lambda: "1: pizza" in there.texts)
        log = [m async for m in keep.tenant("pizza").history("whatsapp:1550:1")]
        notes = [m.metadata for m in log if m.metadata.get("kind") == "unknown"]

        assert ["pizza"] == [m.text for m in log if m.role == "user"]
        assert 1 == len(notes)
        assert "says something else" in notes[0]["reason"]
        assert "pasta" in str(notes[0]["raw"])
        assert "KeyReused" in caplog.text
        assert ["1: pizza"] == there.texts


@pytest.mark.parametrize(
    ("late", "secret", "reason"),
    [(0, None, "missing"), (0, bytes(24), "wrong"), (400, b"7" * 24, "old"), (400, bytes(24), "wrong")],
)
async def test_the_log_says_why_a_request_was_refused(
    late: int, secret: bytes | None, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """With the channel, and with nothing of what is secret; the answer is the same for all."""
    right = "whsec_" + base64.b64encode(b"7" * 24).decode()
    keep: Chatkeep[Any] = Chatkeep("memory://", **FAST)
    async with served(keep, webhooks=Webhooks(Webhook("shop", secrets=right))) as client:
        body = json.dumps({"conversation": "ada", "content": "a word", "id": "1"}).encode()
        key = "whsec_" + base64.b64encode(secret or b"").decode()
        signed = dict(webhook_signed(body, key, at=time.time() - late)) if secret is not None else {}
        answer = await client.ask("POST", "/channels/webhook", body, signed | {"Authorization": ""})
    told = [record.getMessage() for record in caplog.records if "refused" in record.getMessage()]

    assert (401, "This request is not signed by the platform; nothing was touched.") == (
        answer.status,
        answer.json["detail"],
    )
    assert [f"A request to /channels/webhook was refused: its signature, or secret token, is {reason}."] == told
    assert not any(one in caplog.text for one in (right, key[6:] or "-" * 99, "a word"))


@pytest.mark.parametrize("secret", ["", "wrong"])
async def test_what_is_not_signed_is_refused_in_the_same_words(secret: str) -> None:
    """Constant answer, nothing stored; the handshake is answered only for the right token."""
    async with platform() as there, connected("memory://", there) as (client, keep):
        answer = await post_whatsapp(client, whatsapp_message("1", "hi", "wamid.1"), secret=secret)
        ask = "/channels/whatsapp?hub.mode=subscribe&hub.verify_token={}&hub.challenge={}"
        right = await client.ask("GET", ask.format("v", "1234"))
        wrong = [await client.ask("GET", ask.format(*pair)) for pair in (("x", "1234"), ("v", "<script>"))]

        assert 401 == answer.status
        assert "not signed" in answer.json["detail"]
        assert (200, b"1234") == (right.status, right.body)
        assert "text/plain" in right.headers["content-type"]
        assert [401, 401] == [refused.status for refused in wrong]
        assert 404 == (await client.ask("POST", "/channels/pigeon", b"{}")).status
        assert [] == [found async for found in keep.tenant("pizza").conversations()]


async def test_a_burst_of_one_customer_is_taken_in_and_held_back(url: str) -> None:
    """By `channel_rate`: none is refused or lost, the model is asked so often and no more, and others are answered at once."""
    asked: list[str] = []

    async def model(turn: Turn[Any]) -> str:
        asked.append(turn.text)
        return f"to {turn.text}"

    async with platform() as there, connected(url, there, model, channel_rate="5/second") as (client, _):
        began = time.monotonic()
        burst = [post_whatsapp(client, whatsapp_message("4917", f"m{n}", f"wamid.{n}")) for n in range(12)]
        assert [200] * 12 == [said.status for said in await asyncio.gather(*burst)]
        assert 200 == (await post_whatsapp(client, whatsapp_message("4999", "bob", "wamid.bob"))).status
        await until(lambda: "bob" in asked)
        at_once = len(asked)
        await until(lambda: 13 == len(asked))
        took = time.monotonic() - began

    assert {f"m{n}" for n in range(12)} | {"bob"} == set(asked)
    assert at_once < 13
    assert 1.3 < took, "five at once, and then one each fifth of a second"


async def test_the_platforms_own_codes_decide(url: str) -> None:
    """Busy: again. The 24 hours are over: set aside. No answer: uncertain, and said so."""
    window = {"error": {"code": 131047, "message": "Re-engagement message"}}
    busy = {"error": {"code": 130429, "message": "Rate limit hit"}}
    async with platform() as there, connected(url, there) as (client, keep):
        there.then = [(400, busy), (400, window), 6.0]
        for n in range(1, 4):
            await post_whatsapp(client, whatsapp_message("4917", f"{n}", f"wamid.{n}"))
        pizza = keep.tenant("pizza")

        async def settled() -> bool:
            found = await pizza.deliveries("whatsapp:1550:4917")
            return len(found) == 3 and all(sending.status != "waiting" for sending in found)

        await until(settled, within=40.0)
        found = await pizza.deliveries("whatsapp:1550:4917")

        assert ["failed", "uncertain", "delivered"] == [sending.status for sending in found]
        assert "a template may go" in found[0].reason
        assert [False, True, False] == [sending.doubtful for sending in found]


async def test_a_person_takes_over_and_hands_back(url: str) -> None:
    """Over HTTP with the restaurant's service key: the bot is silent, the person writes through WhatsApp, the bot goes on."""
    from chatkeep.auth.credentials import create_key

    async with platform() as there, connected(url, there) as (client, keep):
        client.key = (await create_key(keep, "pizza")).token
        await post_whatsapp(client, whatsapp_message("4917", "hi", "wamid.1"))
        await until(lambda: len(there.sent) == 1)
        place = "/v1/conversations/whatsapp:1550:4917"
        assert (
            201
            == (await client.ask("POST", f"{place}/operator", b'{"content":"I am Kim","id":"o1","paused":true}')).status
        )
        await post_whatsapp(client, whatsapp_message("4917", "are you human?", "wamid.2"))
        await until(lambda: len(there.sent) == 2)
        await nothing_happens_for(0.1)
        silent = list(there.texts)
        assert 200 == (await client.ask("PUT", f"{place}/bot", b'{"paused":false,"unread":"skip"}')).status
        await post_whatsapp(client, whatsapp_message("4917", "thanks", "wamid.3"))
        await until(lambda: len(there.sent) == 3)
        deliveries = (await client.ask("GET", f"{place}/deliveries")).json["deliveries"]
        again = await client.ask("POST", f"{place}/deliveries/{deliveries[1]['number']}")
        await until(lambda: len(there.sent) == 4)

        assert ["1: hi", "I am Kim"] == silent
        assert ["2: thanks", "I am Kim"] == there.texts[2:]
        assert 204 == again.status
        assert [400, 404] == [(await client.ask("POST", f"{place}/deliveries/{n}")).status for n in ("1", "x")]


@pytest.mark.parametrize("url", ["sqlite", "redis", "postgresql"], indirect=True)
async def test_a_person_takes_over_from_the_command_line(url: str, tmp_path: Path) -> None:
    """Another process, which knows no channel: pause, say, resume, deliveries, resend."""
    place = "whatsapp:1550:4917"

    async def chatkeep(*words: str) -> str:
        code, told, errors = await asyncio.to_thread(lambda: program.chatkeep(*words, folder=tmp_path))
        assert 0 == code, errors
        return told

    async with platform() as there, connected(url, there) as (client, _):
        await post_whatsapp(client, whatsapp_message("4917", "hi", "wamid.1"))
        await until(lambda: len(there.sent) == 1)
        paused = await chatkeep("pause", url, place, "--tenant", "pizza")
        await post_whatsapp(client, whatsapp_message("4917", "are you human?", "wamid.2"))
        await chatkeep("say", url, place, "I am Kim", "--tenant", "pizza")
        await until(lambda: len(there.sent) == 2, within=10.0)
        await nothing_happens_for(0.2)
        silent = list(there.texts)
        await chatkeep("resume", url, place, "--tenant", "pizza", "--skip")
        await post_whatsapp(client, whatsapp_message("4917", "thanks", "wamid.3"))
        await until(lambda: len(there.sent) == 3, within=10.0)
        listed = await chatkeep("deliveries", url, place, "--tenant", "pizza", "--json")
        number = json.loads(listed.splitlines()[1])["number"]
        await chatkeep("resend", url, place, str(number), "--tenant", "pizza")
        await until(lambda: len(there.sent) == 4, within=10.0)

    assert "The bot is paused" in paused
    assert ["1: hi", "I am Kim"] == silent
    assert ["2: thanks", "I am Kim"] == there.texts[2:]
