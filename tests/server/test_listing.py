"""The list of the operators' desk: filters, search and pages, and what is shown of each conversation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from chatkeep import Chatkeep
from chatkeep.app import core_of
from chatkeep.auth.credentials import create_key
from chatkeep.errors import HandlerFailed
from chatkeep.server import items, listing
from chatkeep.storage.text_index import TextIndex

from ..support.desk import chat, person
from ..support.serving import Client, served
from ..support.waiting import until


async def page(client: Client, **query: Any) -> dict[str, Any]:
    """One page of the list."""
    answer = await client.ask("GET", f"/v1/desk/conversations?{urlencode(query)}")
    assert answer.status == 200, answer.body
    found: dict[str, Any] = answer.json
    return found


async def ids(client: Client, **query: Any) -> list[str]:
    """The ids of all pages, in order; no page has more than it may, and none comes twice."""
    found: list[str] = []
    following = ""
    while True:
        told = await page(client, **query, **({"next": following} if following else {}))
        found += [item["id"] for item in told["conversations"]]
        assert len(told["conversations"]) <= int(query.get("limit", 50))
        following = told.get("next", "")
        if not following:
            assert len(set(found)) == len(found), found
            return found


async def test_the_list_shows_and_finds_what_is_there(url: str) -> None:
    """On every store: each filter, each way to search, and pages that go on where the one before ended."""
    keep = chat(url)
    core = core_of(keep)
    async with served(keep) as client:
        for name in ("ada", "bob", "eve"):
            await keep.receive(name, f"I am {name}")
        await keep.create("lonely", owner="Ada L.")
        for number in range(3):
            await keep.create(f"hers {number}", owner="Grace H.")
        with pytest.raises(HandlerFailed):
            await keep.receive("bob", "fail")
        await keep.pause("eve")
        await keep.accept("eve", "is anybody there?")
        for number in (490, 491):
            await core.inlet.accept(
                "whatsapp", "", f"whatsapp:{number}", "hello", id=f"m{number}", role="user", metadata={"name": "Grace"}
            )

        async def sent() -> bool:
            told = await page(client, channel="whatsapp")
            return len(told["conversations"]) == 2 and "heard: hello" in {one["last"] for one in told["conversations"]}

        await until(sent, within=20, every=0.1)
        await until(lambda: ids(client, show="undelivered"), within=20, every=0.1)
        hers = {"hers 0", "hers 1", "hers 2"}
        everything = {"ada", "bob", "eve", "lonely", "whatsapp:490", "whatsapp:491"} | hers
        found = {
            name: set(await ids(client, **query))
            for name, query in {
                "all": {},
                "two at a time": {"limit": 2},
                "failing": {"show": "failing"},
                "off": {"show": "off"},
                "waiting": {"show": "waiting"},
                "unread": {"show": "unread"},
                "undelivered": {"show": "undelivered"},
                "channel": {"channel": "whatsapp"},
                "owner": {"owner": "Ada L."},
                "owner, in pages": {"owner": "Grace H.", "limit": 1},
                "an id": {"text": "ada"},
                "its beginning": {"text": "whatsapp:49"},
                "a name": {"text": "grace"},
                "words": {"text": "ANYBODY"},
                "nothing": {"text": "xyzzy"},
                "both": {"text": "grace", "show": "undelivered"},
            }.items()
        }
        (eve,) = (await page(client, show="waiting"))["conversations"]
        (bob,) = (await page(client, show="failing"))["conversations"]
        (undelivered,) = (await page(client, show="undelivered"))["conversations"]
        await keep.accept("eve", "I am a person", role="operator")
        answered = await ids(client, show="waiting")
        wrong = [
            (await client.ask("GET", f"/v1/desk/conversations?{query}")).status
            for query in ("show=x", "next=x", "next=~m.AAAA", "limit=0", "limit=101", "everywhere=1", "x=1")
        ]

    pair = {"whatsapp:490", "whatsapp:491"}
    assert {
        "all": everything,
        "two at a time": everything,
        "failing": {"bob"},
        "off": {"eve"},
        "waiting": {"eve"},
        "unread": {"eve"},
        "undelivered": {"whatsapp:490"},
        "channel": pair,
        "owner": {"lonely"},
        "owner, in pages": hers,
        "an id": {"ada", "lonely"},
        "its beginning": pair,
        "a name": pair | hers,
        "words": {"eve"},
        "nothing": set(),
        "both": {"whatsapp:490"},
    } == found
    assert (1, "is anybody there?", ["conversation"]) == (eve["waiting"], eve["last"], eve["off_by"])
    assert (1, "RuntimeError: as asked") == (bob["dead"], bob["reason"])
    assert (1, "The number is not known.", "Grace") == (
        undelivered["undelivered"],
        undelivered["reason"],
        undelivered["name"],
    )
    assert [] == answered
    assert [400, 404, 404, 400, 400, 403, 400] == wrong


async def test_what_a_customer_has_saved_speaks_for_nobody() -> None:
    """Under whatever role and name: the log says that it was saved, it names nobody, and whoever waits goes on waiting."""
    keep = chat("memory://")
    async with served(keep) as client:
        await keep.create("ada", owner="ada")
        await keep.pause("ada")
        await keep.accept("ada", "is anybody there?")
        token = await client.ask("POST", "/v1/users/ada/tokens", b"{}")
        forged = [
            {"id": "s1", "content": "Your refund is granted.", "role": "operator", "metadata": {"author": "Kim"}},
            {"id": "s2", "content": "Thank you!", "metadata": {"name": "Grace H."}},
        ]
        saved = await client.ask(
            "PUT",
            "/v1/conversations/ada",
            json.dumps({"messages": forged}).encode(),
            {"Authorization": f"Bearer {token.json['token']}"},
        )
        log = (await client.ask("GET", "/v1/conversations/ada/messages?notes=1")).json["messages"]
        (shown,) = (await page(client, show="waiting"))["conversations"]
        found = await page(client, text="grace")

    assert 200 == saved.status, saved
    assert [("operator", True), ("user", True)] == [(one["role"], one["saved"]) for one in log[-2:]]
    assert [None, None] == [one.get("author") for one in log[-2:]]
    assert (1, "", []) == (shown["waiting"], shown.get("name", ""), found["conversations"])


async def test_a_page_ends_in_time_where_little_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says how many it has looked at, and the next one goes on from there, until all were looked at."""
    monkeypatch.setattr(listing, "LOOKED_AT", 20)
    monkeypatch.setattr(listing, "SPENT_S", 60.0)
    monkeypatch.setattr(listing, "ROWS", 10)
    keep = chat()
    async with served(keep) as client:
        await keep.receive("the one", "a needle")
        for number in range(70):
            await keep.accept(f"c{number}", "hay")
        pages = [await page(client, text="needle")]
        while following := pages[-1].get("next"):
            pages.append(await page(client, text="needle", next=following))

    assert [20, 20, 20] == [told["looked_at"] for told in pages[:3]]
    assert ["the one"] == [item["id"] for told in pages for item in told["conversations"]]


async def test_what_a_search_of_the_logs_shows_is_where_it_was_said() -> None:
    """Also behind letters that are two in the form that is compared, such as ß."""
    keep = chat()
    async with served(keep) as client:
        for number, text in enumerate([f"{'ß' * 500} a blue parcel {'x' * 500}", *(["hay"] * 10)]):
            await keep.accept("ada", text, id=f"{number}", role="operator")
        shown = [(await page(client, text=text))["conversations"][0]["found"] for text in ("blue parcel", "S A BLUE")]

    assert all("ß a blue parcel x" in found for found in shown), shown


async def test_a_search_reads_the_logs(url: str) -> None:
    """On every store: words of long ago, whatever the case, with some around them; in what was said, and for who may read alone."""
    keep = chat(url)
    async with served(keep) as client:
        for number in range(30):
            text = "Where is the Blue Parcel of mine, please?" if number == 3 else f"and {number}"
            await keep.accept("ada", text, role="operator")
            await keep.accept("bob", f"not {number}", role="operator")
        await core_of(keep).note("", "bob", "he has the blue parcel", author="Kim", id="n")
        (found,) = (await page(client, text="blue PARCEL"))["conversations"]
        last = (await page(client, text="and 29"))["conversations"]
        lister = (await create_key(keep, "", scopes=("list",))).token
        unread = await client.ask(
            "GET", "/v1/desk/conversations?text=blue+parcel", headers={"Authorization": f"Bearer {lister}"}
        )

    assert ("ada", "Where is the Blue Parcel of mine, please?", 4) == (
        found["id"],
        found["found"],
        found["found_in"],
    )
    assert [("ada", None)] == [(one["id"], one.get("found")) for one in last]
    assert [] == unread.json["conversations"]


async def test_a_customer_is_found_by_what_the_channel_tells(searchable: str) -> None:
    """By a phone number, too, where the conversation is named by a user id: with an index, and without."""
    keep = chat(searchable)
    customer = {"name": "Grace H.", "phone": "4917012345", "user_id": "US.7"}
    async with served(keep) as client:
        for number in range(10):
            text = f"hello {number}"
            await keep.accept("US.7", text, role="operator", metadata=customer if number == 2 else {})
        without = [(await page(client, text=text))["conversations"] for text in ("+49170123", "grace", "123456")]
        await indexed(keep)
        found = [(await page(client, text=text))["conversations"] for text in ("+49170123", "grace", "123456")]

    shown = [("Grace H. 4917012345 US.7", 3)]
    assert [shown, shown, []] == [[(one["found"], one["found_in"]) for one in some] for some in without]
    assert [shown, shown, []] == [[(one["found"], one["found_in"]) for one in some] for some in found]


async def test_a_search_ends_in_time_where_logs_are_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few entries are read before the time is looked at, and no log is read further back than said."""
    for module in (listing, items):
        monkeypatch.setattr(module, "SEARCHED", 50)
    monkeypatch.setattr(listing, "SPENT_S", 0.0)
    keep = chat()
    async with served(keep) as client:
        for name in ("far", "near", "short"):
            await keep.receive(name, "hay")
        for name, place in (("far", 10), ("near", 60)):
            for number in range(100 if name != "short" else 0):
                await keep.accept(name, "a needle" if number == place else "hay", role="operator")
        pages = [await page(client, text="needle")]
        while following := pages[-1].get("next"):
            pages.append(await page(client, text="needle", next=following))

    assert [1, 1, 1, 0] == [told["looked_at"] for told in pages]
    assert ["near"] == [item["id"] for told in pages for item in told["conversations"]]


async def indexed(keep: Chatkeep[Any]) -> None:
    """Make the full-text index, and put in all that is there."""
    index = core_of(keep).text_index
    answer = await index.step(keep=True)
    while answer.entries:
        answer = await index.step()


@pytest.fixture(params=["memory", "sqlite"])
def searchable(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A store that can have a full-text index."""
    return "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/chat.db"


async def test_an_index_finds_what_was_said_anywhere(searchable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However far back, words in any order, each conversation once; with the other filters; and it says that all was searched."""
    for module in (listing, items):
        monkeypatch.setattr(module, "SEARCHED", 10)
    monkeypatch.setattr(listing, "SPENT_S", 60.0)
    keep = chat(searchable)
    async with served(keep) as client:
        for name in ("ada", "bob", "cy"):
            await keep.accept(name, f"the Blue Parcel of {name}", role="operator", owner=f"o-{name}")
            for number in range(20):
                await keep.accept(name, f"hay {number}", role="operator")
        without = await page(client, text="parcel blue")
        await indexed(keep)
        found = await page(client, text="parcel BLU")
        await keep.tenant("salon").accept("ada", "another blue parcel", role="operator")
        await keep.accept("dan", "a parcel that is blue", role="operator")  # not in the index yet
        fresh = await ids(client, text="blue parc", limit=1)
        await keep.accept("blue", "a blue one", role="operator")
        named = await page(client, text="blue", limit=1)
        after = await page(client, text="blue", limit=1, next=named["next"])
        owned = await ids(client, text="blue parcel", owner="o-bob")
        await keep.pause("cy")
        off = await ids(client, text="blue parcel", show="off")
        key = (await create_key(keep, "", everywhere=True)).token
        asked = "/v1/desk/conversations?text=blue+parcel&everywhere=1"
        everywhere = (await client.ask("GET", asked, headers={"Authorization": f"Bearer {key}"})).json["conversations"]
        lister = (await create_key(keep, "", scopes=("list",))).token
        headers = {"Authorization": f"Bearer {lister}"}
        unread = await client.ask("GET", "/v1/desk/conversations?text=blue+parcel", headers=headers)
        viewer = await person(keep, client.port, "viewer")
        masked = await viewer.ask("GET", "/v1/desk/conversations?text=blue+parcel")

    assert ([], None) == (without["conversations"], without.get("index"))
    assert (True, {"left": 0, "waiting": 0}) == (
        found["all_said"],
        {name: found["index"][name] for name in ("left", "waiting")},
    )
    assert {(name, f"the Blue Parcel of {name}", 1) for name in ("ada", "bob", "cy")} == {
        (one["id"], one["found"], one["found_in"]) for one in found["conversations"]
    }
    assert ["ada", "bob", "cy", "dan"] == sorted(fresh)
    assert ["blue"] == [one["id"] for one in named["conversations"]]
    assert 1 == len(after["conversations"])
    assert (["bob"], ["cy"]) == (owned, off)
    assert {("", "ada"), ("salon", "ada")} <= {(one["tenant"], one["id"]) for one in everywhere}
    assert ([], 403) == (unread.json["conversations"], masked.status)


async def test_what_is_gone_is_not_found(searchable: str) -> None:
    """Erased, redacted, or its whole user: from that act on, without anybody going through the index; names and titles are searched too."""
    keep = chat(searchable)
    async with served(keep) as client:
        for name in ("ada", "bob", "cy", "dan"):
            await keep.accept(name, f"secret of {name}", role="operator", owner=f"o-{name}")
        await keep.user("o-dan").rename("dan", "Holiday plans")
        await indexed(keep)
        before = await ids(client, text="secret")
        await keep.erase("ada")
        await keep.redact("bob", 1)
        await keep.user("o-cy").erase(by="kim")
        after = await ids(client, text="secret")
        titled = await ids(client, text="holiday")

    assert (["ada", "bob", "cy", "dan"], ["dan"], ["dan"]) == (sorted(before), after, titled)


async def test_an_index_answers_filters_at_once(searchable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What few conversations pass is found on the first page, however many were changed since; without an index the page ends before, and
    says so. What has changed meanwhile is shown as it is, each filter alone and together with others."""
    monkeypatch.setattr(listing, "SPENT_S", 60.0)
    for name in ("ROWS", "ROWS_LOOKED_AT"):
        monkeypatch.setattr(listing, name, 10)
    keep = chat(searchable)
    core = core_of(keep)
    async with served(keep) as client:
        for number in (490, 491):
            await core.inlet.accept(
                "whatsapp", "", f"whatsapp:{number}", "hello", id=f"m{number}", role="user", metadata={}
            )
        for name in ("bob", "bee"):
            with pytest.raises(HandlerFailed):
                await keep.receive(name, "fail")
        for name in ("eve", "eli"):
            await keep.pause(name)
            await keep.accept(name, "anybody?")
        await keep.resume("eli", unread="skip")
        await keep.accept("kit", "hello", role="operator")
        await core.assign("", "kit", "kim", by="kim")
        await until(lambda: ids(client, show="undelivered"), within=20, every=0.1)
        for number in range(30):
            await keep.accept(f"hay {number}", "hay", role="operator")
        filters: dict[str, dict[str, str]] = {
            "failing": {"show": "failing"},
            "off": {"show": "off"},
            "waiting": {"show": "waiting"},
            "undelivered": {"show": "undelivered"},
            "channel": {"channel": "whatsapp"},
            "assigned": {"assignee": "kim"},
            "both": {"show": "undelivered", "channel": "whatsapp"},
            "neither": {"show": "failing", "channel": "whatsapp"},
        }
        without = {name: await page(client, **query) for name, query in filters.items()}
        await indexed(keep)
        found = {name: await page(client, **query) for name, query in filters.items()}
        in_pages = await ids(client, channel="whatsapp", limit=1)
        await keep.resume("eve", unread="skip")
        await keep.pause("kit")
        off = await page(client, show="off")
        await keep.pause()
        all_off = await page(client, show="off")

    assert all(told["next"] and told["looked_at"] == 10 for told in without.values())
    assert {
        "failing": {"bob", "bee"},
        "off": {"eve"},
        "waiting": {"eve"},
        "undelivered": {"whatsapp:490"},
        "channel": {"whatsapp:490", "whatsapp:491"},
        "assigned": {"kit"},
        "both": {"whatsapp:490"},
        "neither": set(),
    } == {name: {one["id"] for one in told["conversations"]} for name, told in found.items()}
    assert [] == [name for name, told in found.items() if "next" in told]
    assert ["whatsapp:490", "whatsapp:491"] == sorted(in_pages)
    assert ["kit"] == [one["id"] for one in off["conversations"]]
    assert 10 == len(all_off["conversations"])


async def test_an_index_has_titles(searchable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And ids: by words in any order; a new title at once, the old one no more; each conversation once, also where it was said too."""
    monkeypatch.setattr(listing, "SPENT_S", 60.0)
    keep = chat(searchable)
    async with served(keep) as client:
        for name in ("ada-490", "bob-491"):
            await keep.accept(name, f"a holiday of {name}", owner="mia", role="operator")
        await keep.user("mia").rename("ada-490", "Plans for the holiday")
        await indexed(keep)
        found = {
            text: await ids(client, text=text) for text in ("holiday plans", "490", "holiday", "ada holiday", "oliday")
        }
        await keep.user("mia").rename("ada-490", "Weekend")
        renamed = [await ids(client, text=text) for text in ("plans", "weekend")]
        await keep.erase("ada-490")
        erased = await ids(client, text="weekend")

    both = ["ada-490", "bob-491"]
    assert {
        "holiday plans": ["ada-490"],
        "490": ["ada-490"],
        "holiday": both,
        "ada holiday": ["ada-490"],
        "oliday": ["ada-490"],
    } == {text: sorted(one) for text, one in found.items()}
    assert ([[], ["ada-490"]], []) == (renamed, erased)


async def test_a_half_made_index_is_not_trusted(searchable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until it is complete the ends of logs are searched, and the page says how far it is."""
    monkeypatch.setattr(TextIndex, "catch_up", lambda index: index.step(limit=0))
    monkeypatch.setattr(listing, "SPENT_S", 60.0)
    keep = chat(searchable)
    async with served(keep) as client:
        for number in range(9):
            await keep.accept(f"c{number}", "blue parcel", role="operator")
        await core_of(keep).text_index.step(limit=2, keep=True)
        half = await page(client, text="blue parcel")
        await indexed(keep)
        whole = await page(client, text="blue parcel")

    assert (9, False) == (len(half["conversations"]), half.get("all_said", False))
    assert 0 < half["index"]["left"] <= half["index"]["total"]
    assert (9, True) == (len(whole["conversations"]), whole["all_said"])


async def test_several_tenants_are_kept_apart() -> None:
    """An account of two sees these two, one at a time; one for everywhere sees all at once, and opens each by its tenant."""
    keep = chat()
    async with served(keep) as client:
        for tenant in ("salon", "pizza", "kiosk"):
            await keep.tenant(tenant).receive("ada", f"hello {tenant}")
        two = await person(keep, client.port, "agent", tenants=["salon", "pizza"])
        all_ = await person(keep, client.port, "admin", tenants=["kiosk"], everywhere=True)
        seen = {
            tenant: (await two.ask("GET", "/v1/desk/conversations", Chatkeep_Tenant=tenant)).status
            for tenant in ("salon", "pizza", "kiosk", "~audit")
        }
        first = (await two.ask("GET", "/v1/desk/conversations")).json["conversations"]
        everywhere = (await all_.ask("GET", "/v1/desk/conversations?everywhere=1")).json["conversations"]
        opened = (await all_.ask("GET", "/v1/conversations/ada", Chatkeep_Tenant="pizza")).json["messages"][0]
        refused = (await two.ask("GET", "/v1/desk/conversations?everywhere=1")).status

    assert {"salon": 200, "pizza": 200, "kiosk": 403, "~audit": 403} == seen
    assert (["salon"], {"salon", "pizza", "kiosk"}) == (
        [one["tenant"] for one in first],
        {one["tenant"] for one in everywhere},
    )
    assert ("hello pizza", 403) == (opened["content"], refused)
