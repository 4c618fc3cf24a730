"""/metrics: every number is there, counts what it says, and carries nothing that a user chose; alerts and dashboard fit."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families

from chatkeep import Chatkeep, Turn
from chatkeep.server.metrics import Metrics

from ..support.platform import SECRET, platform, post_whatsapp, whatsapp_message
from ..support.service import CHATKEEP, service
from ..support.serving import Client, served
from ..support.waiting import until

DEPLOY = Path(__file__).parents[2] / "deploy"

OURS = re.compile(r"\b(?:chatkeep|process)_[a-z_]+\b")


CHANNEL_BOT = """
import asyncio
from chatkeep import Chatkeep
from chatkeep.channels import Telegram, WhatsApp
from chatkeep.channels.outlet import ChannelOutlet
keep = Chatkeep({{url!r}}, turn_timeout="200ms", attempts=1)
keep.deliver(ChannelOutlet(
    WhatsApp(accounts={{{{"1550": "token"}}}}, secrets={secret!r}, verify_tokens="v", api={api!r}),
    Telegram(token="42:AAF", secrets="tg", api={api!r}),
))

@keep.on_message
def bot(turn):
    if turn.text == "hang":
        import time
        time.sleep(3)
    return "ok"
"""


async def numbers(client: Client) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Every sample by name and labels."""
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families((await client.ask("GET", "/metrics")).body.decode()):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


async def test_what_happened_is_counted(tmp_path: Path) -> None:
    """Turns, duplicates, failures, dead letters, acts, requests by route, refusals, streams, memory."""
    with service(tmp_path, anonymous="true", attempts="2", rate_begin="1/hour") as server:
        client = server.client()
        begun = (await client.ask("POST", "/v1/conversations", b"{}")).json
        await client.ask("POST", "/v1/conversations", b"{}")
        client.key = begun["token"]
        for id, text in [("1", "hello"), ("1", "hello"), ("2", "again"), ("3", "break it")]:
            await client.post(begun["id"], {"content": text, "id": id})
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(client.opening("GET", f"/v1/conversations/{begun['id']}/events"))
        await reader.readuntil(b"retry: 1000")
        await client.ask("GET", "/nowhere/" + begun["id"])
        found = await numbers(client)
        writer.close()

    route = ("route", "/v1/conversations/{id}/messages")
    messages = {
        status: found["chatkeep_http_requests_total"].get((("method", "POST"), route, ("status", status)))
        for status in ("200", "500")
    }
    assert {"200": 3.0, "500": 1.0} == messages
    assert [4.0, 1.0, 2.0, 1.0, 1.0] == [
        found[f"chatkeep_{name}"][()]
        for name in ("turns_total", "duplicates_total", "failures_total", "dead_total", "event_streams")
    ]
    assert 4.0 == found["chatkeep_turn_seconds_count"][()]
    assert {"append", "read", "write", "scan"} <= {labels[0][1] for labels in found["chatkeep_store_act_seconds_count"]}
    assert {(("rate", "begin"),): 1.0} == found["chatkeep_rate_limited_total"]
    assert 1.0 == found["chatkeep_ready"][()]
    assert found["process_resident_memory_bytes"][()] > 1e6
    assert found["process_open_fds"][()] > 3


async def test_no_label_holds_what_a_client_chose(tmp_path: Path) -> None:
    """Conversations, tenants, ids, methods and paths of strangers stay out, however many there are."""
    with service(tmp_path, anonymous="true") as server:
        client = server.client()
        begun = (await client.ask("POST", "/v1/conversations", b"{}")).json
        client.key = begun["token"]
        await client.post(begun["id"], {"content": "canary-text", "id": "canary-id"})
        for path in ("/canary-path", "/v1/conversations/canary-conversation", "/v1/conversations/x/state/canary-slot"):
            await client.ask("GET", path)
            await client.ask("PROPFIND", path)
        said = (await client.ask("GET", "/metrics")).body.decode()

    there = [
        word for word in ("canary", begun["id"].lower(), begun["token"].lower(), "propfind") if word in said.lower()
    ]

    assert [] == there


async def test_without_metrics_there_is_no_such_address(tmp_path: Path) -> None:
    """metrics = false."""
    with service(tmp_path, metrics="false") as server:
        answer = await server.client().ask("GET", "/metrics")

    assert 404 == answer.status


async def test_ready_says_no_while_the_store_is_away_and_yes_after() -> None:
    """chatkeep_ready follows keep.trouble; two applications in one process keep their numbers apart."""
    one, two = Chatkeep[Any]("memory://one"), Chatkeep[Any]("memory://two")
    for keep in (one, two):
        keep.on_message(lambda turn: "hello")
    metrics, other = Metrics(one), Metrics(two)
    before = metrics.registry.get_sample_value("chatkeep_ready")
    async with one, two:
        await one.receive("ada", "hello")
        during = metrics.registry.get_sample_value("chatkeep_ready")

    assert (0.0, 1.0) == (before, during)
    assert (1.0, 0.0) == tuple(
        found.registry.get_sample_value("chatkeep_turn_seconds_count") for found in (metrics, other)
    )


async def test_every_number_that_alerts_and_dashboard_name_is_there(tmp_path: Path) -> None:
    """A rule over a metric that does not exist never fires."""
    bot = CHANNEL_BOT.format(secret=SECRET, api="http://127.0.0.1:1")
    with service(tmp_path, bot=bot, anonymous="true", rate_begin="1/hour") as server:
        client = server.client()
        for _ in range(2):
            await client.ask("POST", "/v1/conversations", b"{}")
        there = set(await numbers(client))
    groups = yaml.safe_load((DEPLOY / "alerts.yaml").read_text())["groups"]
    dashboard = json.loads((DEPLOY / "dashboard.json").read_text())
    asked = [rule["expr"] for group in groups for rule in group["rules"]]
    asked += [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    named = {name for expression in asked for name in OURS.findall(expression)}

    assert len(asked) > 20
    assert set() == named - there


def test_every_alert_says_what_is_wrong_and_what_to_do() -> None:
    """A summary, a description, a severity, and a time that is no blip."""
    rules = [
        rule for group in yaml.safe_load((DEPLOY / "alerts.yaml").read_text())["groups"] for rule in group["rules"]
    ]

    assert [] == [rule["alert"] for rule in rules if not {"summary", "description"} <= rule["annotations"].keys()]
    assert {"page", "ticket"} == {rule["labels"]["severity"] for rule in rules}
    assert len(rules) == len({rule["alert"] for rule in rules})


def test_dashboard_panels_do_not_overlap() -> None:
    """Each place of the grid is one panel's; each panel has a title and each id is given once."""
    panels = json.loads((DEPLOY / "dashboard.json").read_text())["panels"]
    places: list[tuple[int, int]] = []
    for panel in panels:
        at = panel["gridPos"]
        places += [(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])]

    assert len(places) == len(set(places))
    assert all(x < 24 for x, _ in places)
    assert len(panels) == len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels})


async def test_numbers_are_for_this_machine_or_who_has_the_token(tmp_path: Path) -> None:
    """Without a token a request that a proxy has passed on is refused; with one, whoever has it is answered and nobody else."""
    said = {}
    for token in ("", "prometheus-7"):
        folder = tmp_path / (token or "none")
        folder.mkdir()
        with service(folder, metrics_token=token) as server:
            client = server.client()
            tried: list[dict[str, str]] = [
                {},
                {"X-Forwarded-For": "9.9.9.9"},
                {"Authorization": "Bearer prometheus-7"},
                {"Authorization": "Bearer prometheus"},
            ]
            said[token] = [(await client.ask("GET", "/metrics", headers=headers)).status for headers in tried]

    assert {"": [200, 401, 200, 200], "prometheus-7": [401, 401, 200, 401]} == said


async def test_replies_that_do_not_go_out_pools_and_hung_handlers_are_counted(tmp_path: Path) -> None:
    """By channel and cause, with nothing of the customer in a label; what waits says why in `deliveries`."""
    async with platform() as there:
        bot = CHANNEL_BOT.format(secret=SECRET, api=there.url)
        with service(tmp_path, bot=bot, anonymous="true") as server:
            client = server.client()
            window = (400, {"error": {"code": 131047, "message": "more than 24 hours"}})
            busy = (429, {"error": {"code": 130429, "message": "Rate limit hit"}})

            async def tried() -> float:
                return sum((await numbers(client))["chatkeep_deliveries_total"].values())

            for n, (customer, answers) in enumerate((("4918", [window]), ("4919", []), ("4917", [busy] * 1000))):
                there.then += answers
                await post_whatsapp(client, whatsapp_message(customer, "hi", f"wamid.{n}"))

                async def counted(n: int = n) -> bool:
                    return await tried() > n

                await until(counted, within=15.0)
            await post_whatsapp(client, whatsapp_message("4920", "hang", "wamid.9"))

            async def hangs() -> bool:
                return (await numbers(client))["chatkeep_abandoned"][()] == 1.0

            await until(hangs, within=15.0)
            found, said = await numbers(client), (await client.ask("GET", "/metrics")).body.decode()
        listed = subprocess.run(
            [CHATKEEP, "deliveries", f"sqlite:///{tmp_path}/chat.db", "whatsapp:1550:4917", "--json"],
            capture_output=True,
            check=True,
            text=True,
        )

    def label(status: str, cause: str) -> tuple[tuple[str, str], ...]:
        return (("cause", cause), ("channel", "whatsapp"), ("status", status))

    deliveries = found["chatkeep_deliveries_total"]
    retries = deliveries[label("retry", "platform")]
    assert retries >= 1
    assert {label("retry", "platform"): retries, label("failed", "window"): 1.0, label("delivered", "none"): 1.0} == {
        labels: count for labels, count in deliveries.items() if count
    }
    assert 2 * 13 == len(deliveries)  # both channels are there before anything is sent
    labels = [line.rpartition(" ")[0] for line in said.splitlines()]  # (A count may have the same digits.)
    assert [] == [line for line in labels if "4917" in line or "1550" in line or "wamid" in line]
    assert 1 <= found["chatkeep_store_connections"][()] <= found["chatkeep_store_connections_most"][()]
    assert 0 == found["chatkeep_store_acts_waiting"][()]
    (waiting,) = map(json.loads, listed.stdout.splitlines())
    assert ("waiting", True) == (waiting["status"], waiting["tries"] >= 1)
    assert "130429" in waiting["reason"] or "429" in waiting["reason"]


async def test_conversations_that_this_version_cannot_read_are_told(tmp_path: Path) -> None:
    """A number, and a word beside "ready": the others are answered."""
    url = f"sqlite:///{tmp_path}/chat.db"

    async def bot(turn: Turn[dict[str, Any]]) -> str:
        turn.state["n"] = 1
        return "ok"

    newer: Chatkeep[Any] = Chatkeep(url, schema=2, upgrades={1: dict})
    newer.on_message(bot)
    async with newer:
        await newer.receive("ada", "hi")
    older: Chatkeep[Any] = Chatkeep(url, poll="20ms")
    older.on_message(bot)
    async with served(older) as client:
        ready = await client.ask("GET", "/readyz")
        assert (200, {"status": "ready"}) == (ready.status, ready.json)
        registry = Metrics(older).registry
        assert 0 == registry.get_sample_value("chatkeep_unreadable_conversations")

        await older.accept("ada", "hi again")
        await until(lambda: older.trouble)
        ready = await client.ask("GET", "/readyz")
        unreadable, answers = map(registry.get_sample_value, ("chatkeep_unreadable_conversations", "chatkeep_ready"))

    told = {"status": "ready", "trouble": "conversations wait that this version cannot read (1)"}
    assert (200, told) == (ready.status, ready.json)
    assert (1, 1) == (unreadable, answers)
