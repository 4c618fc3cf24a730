"""What was tried against the server from outside, as one table: the attack, what is expected, and what is measured.

Each attack is a coroutine that makes the attempt over real connections and returns what it has seen; its row holds what it must see.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from starlette.middleware import Middleware

from chatkeep import Chatkeep, Turn
from chatkeep import client as clients
from chatkeep.app import core_of
from chatkeep.auth.credentials import create_key
from chatkeep.channels import Webhook
from chatkeep.server import create_app, limits, protocol, state, webhooks
from tests.support.serving import Answer, Client, narrow_connection, serving
from tests.support.stores import FAST
from tests.support.waiting import takes, time_passes

SHOP = base64.b64encode(secrets.token_bytes(24)).decode()
ADA = "/v1/conversations/ada"


class Site:
    """A server that lets visitors in, over a Chatkeep whose clock can be put forward."""

    def __init__(self, keep: Chatkeep[Any], client: Client, key: str, folder: Path) -> None:
        self.folder = folder
        self.keep = keep
        self.client = client
        self.key = key

    async def ask(
        self, method: str, path: str, body: Any = None, /, token: str = "", headers: dict[str, str] | None = None
    ) -> Answer:
        """One request with a JSON body and a credential."""
        told = ({"Authorization": f"Bearer {token}"} if token else {}) | (headers or {})
        return await self.client.ask(method, path, None if body is None else json.dumps(body).encode(), told)

    async def made(self, path: str, body: Any, token: str) -> Any:
        """What a request made, which must succeed."""
        answer = await self.ask("POST", path, body, token=token)
        assert 201 == answer.status, answer.body
        return answer.json

    async def token(self, *scopes: str, conversation: str = "ada", **asked: Any) -> str:
        """A token that the service key has made."""
        path = f"/v1/conversations/{conversation}/tokens"
        return str((await self.made(path, asked | {"scopes": scopes}, self.key))["token"])

    async def shared(self, token: str, *scopes: str, uses: int = 1) -> tuple[str, str]:
        """A share that *token* has made, and what it was redeemed for."""
        share = str((await self.made(f"{ADA}/shares", {"scopes": scopes, "uses": uses}, token))["share"])
        return share, str((await self.made("/v1/shares/redeem", {"share": share}, ""))["token"])

    async def reads(self, *tokens: str) -> list[int]:
        """What reading the conversation with each of *tokens* is answered with."""
        return [(await self.ask("GET", f"{ADA}/messages", token=token)).status for token in tokens]


AHEAD = [0.0]
"""How far the clock of the Chatkeep is ahead."""

Attack = Callable[[Site], Awaitable[object]]
TABLE: dict[str, tuple[Attack, object, dict[str, str]]] = {}
"""By name: the attack, what is expected, and the server's rate limits."""


def expects(expected: object, **rates: str) -> Callable[[Attack], Attack]:
    """Puts an attack into TABLE."""

    def row(attack: Attack) -> Attack:
        TABLE[attack.__name__] = attack, expected, rates
        return attack

    return row


# -- tokens and shares ------------------------------------------------------------------------------------------------------


@expects({"before": [200] * 4, "after": [401] * 4, "shares": [401, 404, 404], "the service key's other token": [200]})
async def shares_outlive_their_maker(site: Site) -> object:
    """Who held a token for a moment made a share from it, redeemed it, and shared on from there; then its holder ends the token."""
    token, other = await site.token("read", "share"), await site.token("read")
    share, guest = await site.shared(token, "read", "share", uses=9)
    onward, second = await site.shared(guest, "read", "share", uses=9)
    rotated = str((await site.made(f"{ADA}/tokens/current/rotate", {"grace": 60}, guest))["token"])
    before = await site.reads(token, guest, second, rotated)
    assert 204 == (await site.ask("DELETE", f"{ADA}/tokens/current", token=token)).status
    tried = [await site.ask("POST", f"{ADA}/shares", {}, token=second)]
    tried += [await site.ask("POST", "/v1/shares/redeem", {"share": stolen}) for stolen in (share, onward)]
    return {
        "before": before,
        "after": await site.reads(token, guest, second, rotated),
        "shares": [answer.status for answer in tried],
        "the service key's other token": await site.reads(other),
    }


@expects({"guest": [401], "maker": [200], "share": 404})
async def guest_ends_its_maker(site: Site) -> object:
    """Who has redeemed a share ends its own token; the one that the share was made with is not touched. A share ends its guests."""
    token = await site.token("read", "share")
    share, guest = await site.shared(token, "read", uses=9)
    listed = (await site.ask("GET", f"{ADA}/tokens", token=token)).json["tokens"]
    [id] = [found["id"] for found in listed if found["kind"] == "share"]
    assert 204 == (await site.ask("DELETE", f"{ADA}/tokens/{id}", token=token)).status
    again = await site.ask("POST", "/v1/shares/redeem", {"share": share})
    return {"guest": await site.reads(guest), "maker": await site.reads(token), "share": again.status}


@expects({"in its grace": [200, 200], "after it": [401, 401], "shared from it": [401], "others": [200]})
async def rotated_token_is_used_again(site: Site) -> object:
    """A thief has the token that its holder has rotated: whichever of them is late, the family ends."""
    old, other = await site.token("read", "share"), await site.token("read")
    new = str((await site.made(f"{ADA}/tokens/current/rotate", {"grace": 30}, old))["token"])
    _, guest = await site.shared(new, "read")
    in_grace = await site.reads(old, new)
    AHEAD[0] = 31
    return {
        "in its grace": in_grace,
        "after it": await site.reads(old, new),
        "shared from it": await site.reads(guest),
        "others": await site.reads(other),
    }


@expects(
    {"seen": 3, "guest sees": 1, "guest ends maker": 403, "ends": 204, "after": [401], "own": [200], "foreign": 403}
)
async def devices_are_seen_and_ended(site: Site) -> object:
    """A visitor sees its token, its share and its guest's token, and ends the last; the guest sees and ends itself alone."""
    token, foreign = await site.token("read", "share"), await site.token("read")
    _, guest = await site.shared(token, "read")
    mine = (await site.ask("GET", f"{ADA}/tokens", token=token)).json["tokens"]
    seen = (await site.ask("GET", f"{ADA}/tokens", token=guest)).json["tokens"]
    everything = (await site.ask("GET", f"{ADA}/tokens", token=site.key)).json["tokens"]
    own = next(found["id"] for found in mine if not found["label"] and found["kind"] == "token")
    [strange] = {found["id"] for found in everything} - {found["id"] for found in mine}
    return {
        "seen": len(mine),
        "guest sees": len(seen),
        "guest ends maker": (await site.ask("DELETE", f"{ADA}/tokens/{own}", token=guest)).status,
        "foreign": (await site.ask("DELETE", f"{ADA}/tokens/{strange}", token=token)).status,
        "ends": (await site.ask("DELETE", f"{ADA}/tokens/{seen[0]['id']}", token=token)).status,
        "after": await site.reads(guest),
        "own": await site.reads(foreign),
    }


@expects([201] * 8 + [403])
async def shares_of_shares(site: Site) -> object:
    """A chain of shares, each made from what the one before was redeemed for: the ninth is refused."""
    said, token = [], await site.token("read", "share")
    for _ in range(9):
        answer = await site.ask("POST", f"{ADA}/shares", {"scopes": ["read", "share"]}, token=token)
        said.append(answer.status)
        if answer.status == 201:
            redeemed = await site.ask("POST", "/v1/shares/redeem", {"share": answer.json["share"]})
            token = redeemed.json["token"]
    return said


# -- what holds others up ---------------------------------------------------------------------------------------------------

HELD_S = 0.05
"""No request holds the event loop longer, on a machine that does nothing else."""


class LoopWatch:
    """Notes for how long the event loop was held at most: time that passed, and in which this process worked."""

    def __init__(self) -> None:
        self.most = 0.0

    async def watch(self) -> None:
        """Looks every 2 ms, until it is cancelled."""
        while True:
            wall, worked = time.monotonic(), time.process_time()
            await time_passes(0.002)
            self.most = max(self.most, min(time.monotonic() - wall, time.process_time() - worked))


MANY = 1_000_000
BODIES = {
    "deep and wide": b'{"content":"x","metadata":{"a":' + b"[" * 60 + b"{}," * MANY + b"{}" + b"]" * 60 + b"}}",
    "wide, as long as a message may be": b'{"content":"x","metadata":{"a":[' + b"{}," * 340_000 + b"{}]}}",
    "numbers": b'{"content":"x","metadata":{"a":[' + b"1," * 520_000 + b"1]}}",
    "names": b'{"content":"x","metadata":{' + b",".join(b'"%d":1' % name for name in range(100_000)) + b"}}",
    "as many as may be": b'{"content":"x","metadata":{"a":[' + b"{}," * 6_600 + b"{}]}}",
    "closing brackets": b'{"content":"x"' + b"]" * MANY,
    "a string of brackets": b'{"content":"' + b"[{,]}" * 50_000 + b'"}',
    "escapes": b'{"content":"' + b"\\u00e9" * 100_000 + b'"}',
}


@expects(
    {
        "statuses": dict(zip(BODIES, [413, 400, 400, 400, 200, 400, 200, 200], strict=True)),
        "states": [413, 400, 200],
        "held": True,
    }
)
async def bodies_hold_the_loop(site: Site) -> object:
    """Bodies that are slow to decode, as message and as state; meanwhile the loop is never held, by whatever they are."""
    token, watch = await site.token("send"), LoopWatch()
    watching = asyncio.create_task(watch.watch())
    statuses, states = {}, []
    for name, body in BODIES.items():
        headers = {"Authorization": f"Bearer {token}"}
        statuses[name] = (await site.client.ask("POST", f"{ADA}/messages", body, headers)).status
    for body in (b"[" * 5 * MANY, b'{"a":[' + b"{}," * MANY + b"1]}", b'{"a":"' + b"\\n" * 400_000 + b'"}'):
        headers = {"Authorization": f"Bearer {site.key}", "If-Match": "*"}
        states.append((await site.client.ask("PUT", "/v1/conversations/bob/state", body, headers)).status)
    watching.cancel()
    return {"statuses": statuses, "states": states, "held": watch.most < 3 * HELD_S or watch.most}


@expects({"taken": [200] * 3, "found": 6, "held": True})
async def texts_hold_the_loop(site: Site) -> object:
    """Messages that are slow to compare: rows of accents, a letter that stands for eighteen. The index and a search come to them."""
    index, watch = core_of(site.keep).text_index, LoopWatch()
    await index.step(keep=True)
    texts = [
        "a" + "\u0301" * 60_000 + "\u0327" * 60_000,
        "\u05d0" + "\u0592" * 60_000 + "\u0591" * 60_000,
        "\ufdfa" * 80_000,
    ]
    token = await site.token("send")
    taken = [
        (await site.ask("POST", f"{ADA}/messages", {"content": f"word {text}"}, token=token)).status for text in texts
    ]
    watching = asyncio.create_task(watch.watch())
    while (await index.step()).entries:
        pass
    answer = await site.ask("GET", "/v1/desk/conversations?text=word", token=site.key)
    watching.cancel()
    return {
        "taken": taken,
        "found": answer.json["conversations"][0]["found_in"],
        "held": watch.most < 3 * HELD_S or watch.most,
    }


PIECES = {"objects": b"{},", "numbers": b"1,", "lists": b"[],"}


async def post_signed(site: Site, name: str, body: bytes) -> int:
    """Posts what the shop has signed."""
    stamp = str(int(time.time()))
    mark = hmac.digest(base64.b64decode(SHOP), f"{name}.{stamp}.".encode() + body, "sha256")
    headers = {"webhook-id": name, "webhook-timestamp": stamp}
    headers |= {"webhook-signature": f"v1,{base64.b64encode(mark).decode()}"}
    return (await site.client.ask("POST", "/channels/webhook", body, headers)).status


@expects({"statuses": [200] * len(PIECES), "notes": len(PIECES), "held": True})
async def signed_bodies_hold_the_loop(site: Site) -> object:
    """Who may post to a channel posts as much as may be, made of as many things as fit; each body is kept as one note."""
    watch = LoopWatch()
    watching = asyncio.create_task(watch.watch())
    statuses = [
        await post_signed(site, name, b'{"messages":[' + piece * (2_900_000 // len(piece)) + b"0]}")
        for name, piece in PIECES.items()
    ]
    watching.cancel()
    told = await site.ask("GET", "/v1/conversations/webhook:unknown:unknown/messages?notes=1", token=site.key)
    return {"statuses": statuses, "notes": len(told.json["messages"]), "held": watch.most < 3 * HELD_S or watch.most}


@expects({"statuses": [200, 200], "held": True})
async def small_signed_bodies_hold_the_loop(site: Site) -> object:
    """What is small enough to be read has tens of thousands of things that cannot be, and each would be a note."""
    watch = LoopWatch()
    watching = asyncio.create_task(watch.watch())
    bodies = {"numbers": b"0," * 60_000, "different": b"".join(b"%d," % n for n in range(20_000))}
    statuses = [await post_signed(site, name, b'{"messages":[' + body + b"0]}") for name, body in bodies.items()]
    watching.cancel()
    began = time.process_time()
    Webhook("webhook", secrets=SHOP).parse(b'{"messages":[' + bodies["numbers"] + b"0]}")
    reading_s = time.process_time() - began  # on this machine, however slow: so long it is not held
    return {"statuses": statuses, "held": watch.most < max(0.4 * reading_s, 2 * HELD_S) or (watch.most, reading_s)}


# -- what stays open --------------------------------------------------------------------------------------------------------


@expects({"silent": "cut off", "reads": 12})
async def answers_are_not_read(site: Site) -> object:
    """A client that asks twelve times for a megabyte and reads nothing is cut off; one that reads has all."""
    token = await site.token("send", "read")
    for _ in range(8):
        assert 200 == (await site.ask("POST", f"{ADA}/messages", {"content": "x" * 250_000}, token=token)).status
    asked = 12 * Client(0, token).opening("GET", f"{ADA}/messages")
    found = {}
    for name, pause_s in (("silent", 2.0), ("reads", 0.0)):
        link = (
            narrow_connection(site.client.port) if pause_s else asyncio.open_connection("127.0.0.1", site.client.port)
        )
        reader, writer = await link
        writer.write(asked)
        await asyncio.sleep(pause_s)
        got, end = b"", time.monotonic() + 5
        with suppress(ConnectionError, TimeoutError):
            while got.count(b"HTTP/1.1 200") < 12 or not got.endswith(b"}"):
                async with asyncio.timeout(end - time.monotonic()):
                    piece = await reader.read(1 << 20)
                if not piece:
                    break
                got += piece
        writer.close()
        found[name] = got.count(b"HTTP/1.1 200")
    return {"silent": "cut off" if found["silent"] < 12 else "served", "reads": found["reads"]}


@expects({"largest": True, "truncated": True, "back": list(range(1, 17)), "on": list(range(1, 17))})
async def page_is_large(site: Site) -> object:
    """A page ends after a megabyte, and says so; page by page, in both directions, everything is there once."""
    token = await site.token("send", "read")
    for _ in range(8):
        assert 200 == (await site.ask("POST", f"{ADA}/messages", {"content": "x" * 250_000}, token=token)).status
    pages = []

    async def numbers(query: str) -> list[int]:
        pages.append(await site.ask("GET", f"{ADA}/messages?limit=500&{query}", token=token))
        return [message["number"] for message in pages[-1].json["messages"]]

    back, on = await numbers(""), await numbers("after=0")
    while more := await numbers(f"before={back[0]}"):
        back = more + back
    while more := await numbers(f"after={on[-1]}"):
        on += more
    largest = max(len(page.body) for page in pages)
    return {"largest": largest < 1_400_000 or largest, "truncated": pages[0].json["truncated"], "back": back, "on": on}


@expects({"token": {200: 2, 429: 2}, "other token": 200, "streams": [200, 200, 429], "afterwards": [200]})
async def many_at_once(site: Site) -> object:
    """Of four posts at once with one token, where two may be under way, and of three streams, where two may be open."""
    token, other = await site.token("send", "read"), await site.token("send", "read", conversation="bob")
    posts = [
        asyncio.create_task(site.ask("POST", f"{ADA}/messages", {"content": "slowly"}, token=token)) for _ in range(4)
    ]
    await time_passes(0.2)
    free = await site.ask("POST", "/v1/conversations/bob/messages", {"content": "hello"}, token=other)
    statuses = Counter([(await post).status for post in posts])
    streams, links = [], []
    for _ in range(3):
        reader, writer = await asyncio.open_connection("127.0.0.1", site.client.port)
        writer.write(Client(0, token).opening("GET", f"{ADA}/events"))
        streams.append(int((await reader.readuntil(b"\r\n")).split()[1]))
        links.append(writer)
    for writer in links:
        writer.close()
    await time_passes(0.2)
    return {
        "token": dict(statuses),
        "other token": free.status,
        "streams": streams,
        "afterwards": await site.reads(token),
    }


# -- what is done to others ---------------------------------------------------------------------------------------------------


@expects(
    {"bad": True, "good": [200, 200], "again": (429, "urn:chatkeep:rate-limited", True)},
    refused="3/minute",
    peer="10/minute",
)
async def bad_credentials_lock_others_out(site: Site) -> object:
    """Over the limit on refused credentials, bad ones get 429, good ones from the same address are served; none counts for `peer`."""
    good = [site.key, await site.token("read")]
    assert 200 == (await site.ask("POST", f"{ADA}/messages", {"content": "hi"}, token=site.key)).status
    bad = [401]
    while bad[-1] == 401 and len(bad) < 500:  # (each is counted beside its answer)
        bad.append((await site.ask("GET", ADA)).status)
    bad += [(await site.ask("GET", ADA)).status for _ in range(10)]
    served = await site.reads(*good)
    again = await site.ask("GET", ADA, token="ck_k_wrong")
    return {
        "bad": (bad == sorted(bad) and 4 < bad.count(401) < 500) or bad,
        "good": served,
        "again": (again.status, again.json["type"], 0 < int(again.headers["retry-after"]) <= 60),
    }


@expects({"statuses": [409, 409], "told": True, "owner": "grace", "title": "Hers"})
async def another_owner_takes_over(site: Site) -> object:
    """A backend begins or saves a conversation for one owner that is another's already: it is told whose, and nothing changes."""
    await site.made("/v1/conversations", {"id": "hers", "owner": "grace"}, site.key)
    taken = await site.ask("POST", "/v1/conversations", {"id": "hers", "owner": "eve"}, token=site.key)
    saved = await site.ask("PUT", "/v1/conversations/hers", {"owner": "eve", "title": "Mine"}, token=site.key)
    await site.ask("PUT", "/v1/conversations/hers", {"owner": "grace", "title": "Hers"}, token=site.key)
    left = await site.ask("GET", "/v1/conversations/hers", token=site.key)
    return {
        "statuses": [taken.status, saved.status],
        "told": all("'grace'" in answer.json["detail"] for answer in (taken, saved)),
        "owner": left.json["owner"],
        "title": left.json["title"],
    }


@expects({"bot": 403, "cache": 403, "token": [403, 403], "silent": []})
async def one_tenant_silences_all(site: Site) -> object:
    """The key of one tenant tries the switches that are everybody's; a conversation's token those of its tenant and of itself."""
    token = await site.token("read", "send", "state:write", "share")
    off = {"paused": True}
    bot = await site.ask("PUT", "/v1/bot", off | {"everywhere": True}, token=site.key)
    cache = await site.ask("PUT", "/v1/cache", {"on": False}, token=site.key)
    own = [(await site.ask("PUT", path, off, token=token)).status for path in ("/v1/bot", f"{ADA}/bot")]
    silent = (await site.ask("GET", "/v1/bot", token=site.key)).json["off_by"]
    return {"bot": bot.status, "cache": cache.status, "token": own, "silent": silent}


@expects((400, "urn:chatkeep:bad-request"))
async def hosts_are_two(site: Site) -> object:
    """A proxy may look at one Host, and the server at the other."""
    answer = await site.client.raw(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n")
    return answer.status, answer.json["type"]


# -- what is told without need ----------------------------------------------------------------------------------------------


@expects({"write only": (412, False, False), "reads too": (412, True, True)})
async def etags_reveal_the_state(site: Site) -> object:
    """A token that may write the state and not read it gets no ETag, which is made of the value, when its precondition fails."""
    found = {}
    for name, scopes in (("write only", ["state:write"]), ("reads too", ["state:write", "state:read"])):
        token = await site.token(*scopes)
        answer = await site.ask("PUT", f"{ADA}/state", {"a": 1}, token=token, headers={"If-Match": '"x"'})
        found[name] = (answer.status, "etag" in answer.json, "state" in answer.json)
    return found


@expects({"guessed": [412, 412], "read": 200, "same": True, "another conversation": True})
async def etags_are_guessed(site: Site) -> object:
    """Who may write and not read makes the tag of a value that the state may have, and asks whether it is right."""
    path, write = f"{ADA}/state/pin", await site.token("state:write")
    assert 200 == (await site.ask("PUT", path, 4711, token=site.key, headers={"If-None-Match": "*"})).status
    canonical = state.canonical(4711)
    made = [hashlib.blake2b(canonical, digest_size=12).hexdigest(), hashlib.sha256(canonical).hexdigest()]
    tried = [await site.ask("PUT", path, 4711, token=write, headers={"If-Match": f'"{tag}"'}) for tag in made]
    told = (await site.ask("GET", path, token=site.key)).headers["etag"]
    again = await site.ask("PUT", path, 4711, token=site.key, headers={"If-Match": told})
    await site.ask("PUT", "/v1/conversations/bob/state/pin", 4711, token=site.key, headers={"If-None-Match": "*"})
    other = (await site.ask("GET", "/v1/conversations/bob/state/pin", token=site.key)).headers["etag"]
    return {
        "guessed": [answer.status for answer in tried],
        "read": again.status,
        "same": again.headers["etag"] == told,
        "another conversation": other != told,
    }


@expects({"files": {0o600}, "existing": 0o644})
async def files_are_read_by_others(site: Site) -> object:
    """The store's files and the client's queue are for their owner alone; a file that was there keeps its mode."""
    folder = site.folder
    there = folder / "there.queue"
    there.touch(0o644)
    for queue in (folder / "new.queue", there):
        async with clients.Client(f"http://127.0.0.1:{site.client.port}", token=site.key, queue=str(queue)):
            modes = {file.name: file.stat().st_mode & 0o777 for file in folder.iterdir() if file.is_file()}
    return {
        "files": {mode for name, mode in modes.items() if not name.startswith("there.queue")},
        "existing": modes["there.queue"],
    }


@expects((200, True))
async def root_without_a_page(site: Site) -> object:
    """Whoever opens the address of a server without a chat page is told what it is."""
    answer = await site.ask("GET", "/")
    return answer.status, b"/openapi.json" in answer.body


async def bot(turn: Turn[Any]) -> str:
    """Says it again; after a while, if it is asked to."""
    await takes(0.6 if turn.text == "slowly" else 0)
    return f"you said {turn.text[:20]}"


# -- the table is made ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TABLE)
async def test_attack(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is measured is what is expected. Times are shorter and numbers smaller than the server's own."""
    attack, expected, rates = TABLE[name]
    AHEAD[0] = 0.0
    monkeypatch.setattr(protocol, "TAKEN_S", 0.5)
    monkeypatch.setattr(limits, "UNDER_WAY", {"token": 2, "peer": 4, "streams": 2, "peer-streams": 8})
    keep: Chatkeep[Any] = Chatkeep(f"sqlite:///{tmp_path}/chat.db", clock=lambda: time.time() + AHEAD[0], **FAST)
    keep.on_message(bot)
    counting = limits.Limits(core_of(keep).driver, rates)
    shop = webhooks.Webhooks(Webhook("shop", secrets=SHOP))
    limiting = Middleware(limits.RateLimitMiddleware, limits=counting)
    app = create_app(keep, anonymous=True, webhooks=shop, middleware=[limiting])
    app.state.limits = counting
    async with asyncio.timeout(60), serving(app) as port:
        client = Client(port, "")
        site = Site(keep, client, (await create_key(keep, "")).token, tmp_path)
        measured = await attack(site)

    assert expected == measured
