"""The checklist of the salon: goals that were forgotten, messages that were processed twice or not at all."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil

from ..support.platform import SECRET, platform, post_whatsapp, whatsapp_message
from ..support.rows import Customer, Visitor, answered, durable, instance, place, text_of
from ..support.soaking import SOAK

SALON = {"1550": "rosa"}
MOODY = """
import asyncio

OPTIONS = {"turn_timeout": "1s"} | OPTIONS
keep = Chatkeep(STORE, clock=clock, retry_after="200ms", poll="100ms", attempts=3, **OPTIONS)

@keep.on_message
async def bot(turn):
    with open("tries", "a") as tries:
        tries.write(f"{turn.text} {time.time()}\\n")
    turn.state["count"] = turn.state.get("count", 0) + 1
    match turn.text:
        case "flaky" if Path("tries").read_text().count("flaky") < 3:
            raise RuntimeError("not yet")
        case "broken":
            raise RuntimeError("never")
        case "slow":
            await asyncio.sleep(30)
        case "think":
            while not Path("go").exists():
                await asyncio.sleep(0.01)
    content = turn.message.content
    parts = [] if isinstance(content, str) else content
    seen = [f"{part['type']} {part.get('media') or part.get('url')}" for part in parts if part["type"] != "text"]
    return f"{turn.state['count']}: {' '.join([turn.text, *seen])}"
"""


# -- E2 -------------------------------------------------------------------------------------------------------------------


@durable
async def test_e2_one_context_per_session_created_once(url: str, tmp_path: Path) -> None:
    """Twenty first messages at once, half of them at each of two instances: one session, one counter, nobody answered twice."""
    async with instance(tmp_path, MOODY, url) as one, instance(tmp_path, MOODY, url) as two:
        visitor = await Visitor.of(one)
        clients = [
            Visitor(type(one.visitor)(each.port, visitor.client.key), visitor.conversation) for each in (one, two)
        ]
        receipts = await asyncio.gather(*(clients[n % 2].say(f"hi {n}", id=f"m{n}") for n in range(20)))
        found = (await answered(visitor.client, "GET", place(visitor.conversation))).json
        log = await visitor.client.log(visitor.conversation, "?limit=100")

    said = [text_of(receipt["replies"][0]["content"]) for receipt in receipts]
    assert list(range(1, 21)) == sorted(int(text.partition(":")[0]) for text in said)
    assert [f"hi {n}" for n in range(20)] == [text.partition(": ")[2] for text in said]
    assert (1, {"count": 20}) == (found["session"], found["state"])
    assert 40 == len(log)


async def test_e2_failures_are_tried_again_with_growing_pauses_and_then_told(tmp_path: Path) -> None:
    """What fails twice is answered the third time; what always fails, or takes too long, is set aside with a reason, the client is
    told so, nothing of it is in the state, and the next message is answered."""
    url = f"sqlite:///{tmp_path}/chat.db"
    async with instance(tmp_path, MOODY, url) as it:
        visitors = [await Visitor.of(it) for _ in range(3)]

        async def ask(visitor: Visitor, words: str) -> Any:
            body = {"content": words, "id": words}
            return await answered(visitor.client, "POST", place(visitor.conversation, "messages"), body)

        flaky, broken, slow = await asyncio.gather(*map(ask, visitors, ("flaky", "broken", "slow")))
        after = [await visitor.ask("hello") for visitor in visitors]
        found = [(await answered(each.client, "GET", place(each.conversation))).json for each in visitors]
        letters = [await it.operate("dead", url, each.conversation) for each in visitors[1:]]

    tries = [line.split() for line in tmp_path.joinpath("tries").read_text().splitlines()]
    times = {name: [float(at) for who, at in tries if who == name] for name in ("flaky", "broken", "slow")}
    pauses = [later - earlier for earlier, later in pairwise(times["broken"])]

    assert (200, "1: flaky") == (flaky.status, flaky.json["replies"][0]["content"])
    assert [(500, "urn:chatkeep:handler-failed")] * 2 == [(each.status, each.json["type"]) for each in (broken, slow)]
    assert ["2: hello", "1: hello", "1: hello"] == after
    assert [3, 3, 3] == [len(each) for each in times.values()]
    assert (True, True) == (pauses[0] > 0.19, pauses[1] > 0.39)
    assert [0, 1, 1] == [len(each["dead"]) for each in found]
    assert ["RuntimeError: never" in letters[0], "1 s" in letters[1]] == [True, True], letters


@durable
async def test_e2_attachments_are_kept_and_handed_on(url: str, tmp_path: Path) -> None:
    """A photo with a caption from WhatsApp, a file from a page: by reference, before and after a kill."""
    image = {"id": "media-1", "mime_type": "image/jpeg", "sha256": "x", "caption": "like this"}
    async with platform() as there, instance(tmp_path, MOODY, url, there, tenants=SALON) as it:
        customer, visitor = Customer(there, it), await Visitor.of(it)
        await customer.say("", type="image", image=image)
        await customer.hear("1: like this image media-1")
        file = [{"type": "text", "text": "and"}, {"type": "document", "url": "https://files.example/1"}]
        told = (
            await answered(
                visitor.client, "POST", place(visitor.conversation, "messages"), {"content": file, "id": "f"}
            )
        ).json
        await it.restart()
        log = await (await it.operator("rosa")).log(customer.conversation)
        other = await visitor.client.log(visitor.conversation)

    assert "1: and document https://files.example/1" == told["replies"][0]["content"]
    assert [("image", "media-1", "like this")] == [
        (part["type"], part["media"], part["text"]) for part in log[0]["content"]
    ]
    assert file == other[0]["content"]


# -- E3, E5 ---------------------------------------------------------------------------------------------------------------


@durable
async def test_e3_goals_persist_until_they_are_done(url: str, tmp_path: Path) -> None:
    """Two wishes, "Basic Manicure", a question about prices, and kills in between: `activeGoals` has both until booked."""
    async with platform() as there, instance(tmp_path, "salon", url, there, tenants=SALON) as it:
        customer = Customer(there, it)
        operator = await it.operator("rosa")

        async def goals() -> list[tuple[str, bool, str]]:
            state = (await operator.ask("GET", place(customer.conversation, "state"))).json
            return [(goal["service"], bool(goal["day"]), goal["time"]) for goal in state["activeGoals"]]

        await customer.ask("I would like a manicure and a haircut", "Which day for the Basic Manicure?")
        seen = [await goals()]
        for number, (words, answer) in enumerate(
            (
                ("Basic Manicure", "Which day for the Basic Manicure?"),
                ("how much is a pedicure?", "Pedicure: €35"),
                ("friday", "at what time?"),
                ("10:00", "Which day for the Haircut?"),
                ("friday 11:00", "What name may I write down?"),
                ("Kim", "Say “confirm” to book"),
            )
        ):
            if number % 2 == 0:
                await it.restart()
            await customer.ask(words, answer)
            seen.append(await goals())
        await customer.ask("confirm", "See you then, Kim!")
        state = (await operator.ask("GET", place(customer.conversation, "state"))).json

    nothing = [("Basic Manicure", False, ""), ("Haircut", False, "")]
    assert [nothing] * 3 == seen[:3]
    assert [("Basic Manicure", True, ""), ("Haircut", False, "")] == seen[3]
    assert [("Basic Manicure", True, "10:00"), ("Haircut", False, "")] == seen[4]
    assert [[("Basic Manicure", True, "10:00"), ("Haircut", True, "11:00")]] * 2 == seen[5:]
    assert ([], ["Basic Manicure", "Haircut"]) == (
        state["activeGoals"],
        [kept["service"] for kept in state["appointments"]],
    )


@durable
async def test_e5_a_webhook_is_verified_parsed_accepted_and_answered(url: str, tmp_path: Path) -> None:
    """The handshake; nothing without the right signature; 200 as soon as it is durable, before the bot has thought, so that a
    kill in between costs nothing; what cannot be understood is kept as a note and holds nothing up."""
    async with platform() as there, instance(tmp_path, MOODY, url, there, tenants=SALON, turn_timeout="8s") as it:
        customer = Customer(there, it)
        ask = "/channels/whatsapp?hub.mode=subscribe&hub.challenge=1234&hub.verify_token="
        shakes = [await it.visitor.ask("GET", ask + token) for token in ("v", "x")]
        message = whatsapp_message(customer.phone, "hi", "wamid.forged", account="1550")
        refused = [
            (await post_whatsapp(it.visitor, message, secret=secret)).status for secret in ("wrong", SECRET + " ")
        ]
        await customer.say("think")
        it.kill()
        early, tries = list(customer.heard), (tmp_path / "tries").read_text().count("think")
        (tmp_path / "go").touch()
        await it.start()
        await customer.hear("1: think")
        odd = whatsapp_message(customer.phone, "", "wamid.odd") | {"type": "hologram", "hologram": {"x": 1}}
        good = whatsapp_message(customer.phone, "still there?", "wamid.good")
        mixed = [(await post_whatsapp(it.visitor, odd, good)).status for _ in range(2)]
        await customer.hear("still there?")
        log = await (await it.operator("rosa")).log(customer.conversation)
        notes = await it.operate("history", url, customer.conversation, "--tenant", "rosa", "--json")

    assert [(200, b"1234"), (401, True)] == [
        (shakes[0].status, shakes[0].body),
        (shakes[1].status, b"1234" not in shakes[1].body),
    ]
    assert [401, 401] == refused
    assert ([], 1) == (early, tries)
    assert [200, 200] == mixed
    assert ["think", "still there?"] == [entry["content"] for entry in log if entry["role"] == "user"]
    assert 1 == len([line for line in notes.splitlines() if json.loads(line)["metadata"].get("kind") == "unknown"])


# -- E9 -------------------------------------------------------------------------------------------------------------------


@durable
async def test_e9_a_soak_of_concurrent_sessions(url: str, tmp_path: Path) -> None:
    """Thirty sessions write at once, some messages twice: each is answered once and in order; what the server holds does not grow.

    The load kit is `chatkeep simulate`. CHATKEEP_SOAK=100 makes this one a hundred times longer.
    """
    async with instance(tmp_path, MOODY, url, cache_entries=20) as it:
        assert it.process is not None
        process = psutil.Process(it.process.pid)
        visitors = await asyncio.gather(*(Visitor.of(it) for _ in range(30)))
        held: list[tuple[int, int]] = []

        async def talk(visitor: Visitor, lines: range) -> None:
            for n in lines:
                again = 1 + (n % 5 == 0)
                receipts = await asyncio.gather(*(visitor.say(f"line {n}", id=f"l{n}") for _ in range(again)))
                assert [f"{n}: line {n}"] * again == [receipt["replies"][0]["content"] for receipt in receipts]

        for part in range(2 * SOAK):
            await asyncio.gather(*(talk(visitor, range(5 * part + 1, 5 * part + 6)) for visitor in visitors))
            held.append((process.memory_info().rss, process.num_fds()))
        counts = [await visitor.state("count") for visitor in visitors]

    assert [10 * SOAK] * len(visitors) == counts
    assert 16 * 2**20 > held[-1][0] - held[0][0]
    assert 20 > held[-1][1] - held[0][1]
