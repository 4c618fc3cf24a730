"""`chatkeep simulate`: clean where all is well, also when everything is killed meanwhile; and not clean where it is not."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from chatkeep import Chatkeep, Turn
from chatkeep.channels import Telegram, WhatsApp
from chatkeep.channels.outlet import ChannelOutlet
from chatkeep.conversation.outbox import Sent
from chatkeep.demos import demo_for
from chatkeep.drivers import driver_for
from chatkeep.server.webhooks import Webhooks
from chatkeep.testing.crash import wrapped
from chatkeep.testing.loadtest import Plan, Report, Simulation, bursts, latency, spelled
from chatkeep.testing.servers import free_port
from chatkeep.testing.transports import ApiTransport, transport_for

from ..support.killing import ForgetfulDriver
from ..support.program import PATIENCE_S, PROGRAM, chatkeep, plain_environment
from ..support.service import service
from ..support.serving import Client, served

ROOT = Path(__file__).parents[2]
HARD = Plan(customers=20, rate=200.0, messages=6, bursts=0.4, duplicates=0.5, reorder=0.3, faults=0.3, seed=7)


async def echo(turn: Turn[Any]) -> str:
    """Keeps what the checker looks for."""
    turn.state.setdefault("seen", []).append(turn.id)
    return f"{len(turn.state['seen'])}: {turn.text}"


def kinds(report: Report) -> set[str]:
    """What kinds of broken promises there are."""
    return {fault.partition(" ada")[0].split(" sim-")[0].split(" whatsapp:")[0] for fault in report.faults}


async def simulated(client: Client, plan: Plan = HARD) -> Report:
    """What customers of the HTTP API say of a server."""
    urls = [f"http://127.0.0.1:{client.port}", f"http://localhost:{client.port}/"]
    return await Simulation(urls, plan, ApiTransport(client.key), key=client.key).run()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "channel"), [pytest.param("postgresql", "api", marks=pytest.mark.long), ("redis", "whatsapp")]
)
def test_I1_to_I6_three_servers_and_their_database_are_killed(tmp_path: Path, engine: str, channel: str) -> None:
    """Sixty customers notice nothing but some waiting; `python -m tests.support.simulation` has a thousand."""
    command = [
        sys.executable,
        "-m",
        "tests.support.simulation",
        str(tmp_path),
        engine,
        "--channel",
        channel,
        "--json",
    ]
    command += [
        "--customers",
        "60",
        "--messages",
        "6",
        "--rate",
        "15",
        "--kills",
        "1",
        "--server-kills",
        "1",
        "--every",
        "1",
    ]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT, check=False)
    print(ended.stdout)

    assert 0 == ended.returncode, ended.stdout[-3000:] + ended.stderr[-3000:]
    told = json.loads(ended.stdout)
    assert [] == told["faults"]
    assert (60, 360, 360) == (told["customers"], told["acked"], told["answered"])
    assert told["sent"] > 360
    assert 0 < told["answer"]["p50"] <= told["answer"]["p99"]


@pytest.mark.long
async def test_a_bot_that_keeps_no_list_of_what_it_has_seen_is_judged_too(tmp_path: Path) -> None:
    """The restaurant answers with several replies, and greets."""
    async with served(demo_for("restaurant", "memory://", orders=tmp_path / "orders.db", overlap="burst")) as client:
        report = await simulated(client)

    assert [] == report.faults
    assert (20, 120, 120) == (report.customers, report.acked, report.answered)
    assert report.errors["cut by us"] > 10
    assert report.ack.p50 <= report.answer.p50 <= report.answer.p95
    assert "clean: nothing lost" in spelled(report)


async def test_a_store_that_forgets_ids_is_found_out() -> None:
    """The planted bug: a redelivery is a new message."""
    keep: Chatkeep[Any] = Chatkeep(wrapped(ForgetfulDriver(driver_for("memory://"))))
    keep.on_message(echo)
    async with served(keep) as client:
        report = await simulated(client)

    assert {"LOST", "PHANTOM"} <= kinds(report)
    assert "NOT CLEAN" in spelled(report)


@pytest.mark.long
async def test_a_bot_that_answers_something_else_the_second_time_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted bug: a redelivery is shown other replies than those that are recorded."""
    from chatkeep.server import answers

    shown = answers.message

    def other(found: Any, **told: Any) -> Any:
        message = shown(found, **told)
        return (
            message
            if random.random() < 0.5 or message.role == "user"
            else type(message)(
                **{name: getattr(message, name) for name in message.__struct_fields__} | {"content": "something else"}
            )
        )

    monkeypatch.setattr(answers, "message", other)
    keep: Chatkeep[Any] = Chatkeep("memory://")
    keep.on_message(echo)
    async with served(keep) as client:
        report = await simulated(client)

    assert "REPLY CHANGED" in kinds(report)


class Careless(ChannelOutlet):
    """The planted bug: says that it has sent what it has not, or sends what nobody said."""

    every = 0

    async def send(self, conversation: str, content: Any, **options: Any) -> Sent:
        """Does so now and then."""
        self.every += 1
        if self.every % 10 == 0:
            return Sent(status="delivered", ids=("x",))
        return await super().send(conversation, "ads!" if self.every % 15 == 0 else content, **options)


@pytest.mark.long
@pytest.mark.parametrize("careless", [False, True])
@pytest.mark.parametrize("name", ["whatsapp", "telegram"])
async def test_replies_are_judged_where_customers_see_them(name: str, careless: bool) -> None:
    """Through signed webhooks, and a platform that has a look at what is sent out."""
    port = free_port()
    at = f"http://127.0.0.1:{port}"
    channels: Sequence[Any] = [
        WhatsApp(accounts={"1550": "t"}, secrets="a-secret", verify_tokens="v", api=at),
        Telegram(token="42:A", secrets="a-secret", api=at),
    ]
    rates = {"whatsapp:1550": 1000.0, "telegram:42": 1000.0}
    keep: Chatkeep[Any] = Chatkeep("memory://")
    keep.on_message(echo)
    keep.deliver((Careless if careless else ChannelOutlet)(*channels, rates=rates))
    async with served(keep, webhooks=Webhooks(*channels)) as client:
        customers = transport_for(name, key=client.key, secret="a-secret")
        if careless:  # the last ones are waited for
            import chatkeep.testing.loadtest as kit

            with pytest.MonkeyPatch.context() as patched:
                patched.setattr(kit, "PATIENCE_S", 3.0)
                patched.setattr(kit, "SILENT_S", 0.2)
                report = await run(client, customers, port)
        else:
            report = await run(client, customers, port)

    assert (120, 120) == (report.acked, report.answered)
    if careless:
        assert any(fault.startswith("NOT SENT") for fault in report.faults)
        assert any(fault.startswith("SENT FROM NOWHERE") for fault in report.faults)
    else:
        assert [] == report.faults
        assert 0 < report.answer.p50 < 5


@pytest.mark.parametrize("name", ["whatsapp", "telegram"])
def test_what_a_customer_of_a_platform_posts_is_taken_by_its_channel(name: str) -> None:
    """Its signature or secret included; the test above, which has whole conversations, is among the long ones."""
    customers = transport_for(name, key="", secret="a-secret")
    said = customers.said(12345678, 7, 1, "hello")
    post, channel = customers.post(said), customers.channel
    assert channel is not None

    channel.verify("POST", list(post.headers.items()), [], post.body, at=time.time())
    (taken,) = channel.parse(post.body)

    assert (said.conversation, "hello") == (taken.conversation, taken.content)


async def run(client: Client, customers: Any, port: int) -> Report:
    """What customers of a platform at *port* say of a server."""
    return await Simulation(
        [f"http://127.0.0.1:{client.port}"], HARD, customers, key=client.key, platform_port=port
    ).run()


async def test_a_wrong_secret_is_a_refusal_not_a_loss() -> None:
    """Nothing was acknowledged, so nothing is lost; it is told all the same."""
    channel = WhatsApp(accounts={"1550": "t"}, secrets="right", verify_tokens="v")
    keep: Chatkeep[Any] = Chatkeep("memory://")
    keep.on_message(echo)
    async with served(keep, webhooks=Webhooks(channel)) as client:
        plan = Plan(customers=1, rate=100.0, messages=1, duplicates=0.0, faults=0.0)
        asked = Simulation(
            [f"http://127.0.0.1:{client.port}"], plan, transport_for("whatsapp", key="", secret="x"), key=client.key
        )
        report = await asked.run()

    assert [("REFUSED", "401", "unauthorized")] == [(f.split()[0], *f.split()[-2:]) for f in report.faults]
    assert 0 == report.acked


def test_ctrl_c_ends_the_talking_and_what_was_said_is_judged(tmp_path: Path) -> None:
    """A verdict, and exit code 0; the progress goes to a terminal only."""
    off = {"rate_peer": "off", "rate_conversation": "off"}
    _, key, _ = chatkeep("key", "create", make_store(tmp_path), folder=tmp_path)
    with service(tmp_path, **off) as running:
        command = [*PROGRAM, "simulate", f"http://127.0.0.1:{running.port}", "--rate", "5", "--customers", "5000"]
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=tmp_path,
            env=plain_environment() | {"CHATKEEP_KEY": key.strip()},
        )
        running.wait_for("POST /v1/conversations/{id}/messages", 5)
        process.send_signal(signal.SIGINT)
        said, trouble = process.communicate(timeout=PATIENCE_S)

    assert (0, b"") == (process.returncode, trouble)
    assert b"clean: nothing lost" in said


def make_store(folder: Path) -> str:
    """The store that `service` serves, made by talking to a demo bot once."""
    chatkeep("chat", "restaurant", "--store", "chat.db", typed="hi\n", folder=folder)
    return "chat.db"


def test_what_is_asked_wrongly_is_said_before_anything_is_sent(tmp_path: Path) -> None:
    """No key that is good, nobody there, no address, half a channel, an empty script."""
    tmp_path.joinpath("empty.txt").write_text("\n\n")
    nobody = f"http://127.0.0.1:{free_port()}"
    with service(tmp_path) as running:
        there = f"http://127.0.0.1:{running.port}"
        wrong_key = chatkeep("simulate", there, "--key", "ck_k_x", folder=tmp_path)
    alone = chatkeep("simulate", nobody, "--key", "x", folder=tmp_path)
    other = chatkeep("simulate", nobody.removeprefix("http://"), "--key", "x", folder=tmp_path)
    half = chatkeep("simulate", nobody, "--key", "x", "--channel", "whatsapp", folder=tmp_path)
    empty = chatkeep("simulate", nobody, "--key", "x", "--script", "empty.txt", folder=tmp_path)

    assert 2 == wrong_key[0]
    assert "unauthorized" in wrong_key[2]
    assert "chatkeep key create" in wrong_key[2]
    assert 3 == alone[0]
    assert "does not answer" in alone[2]
    assert (2, 2, 2) == (other[0], half[0], empty[0])
    assert "http://host:port" in other[2]
    assert "--secret" in half[2]
    assert "no lines" in empty[2]


def test_without_aiohttp_it_says_what_to_install(tmp_path: Path) -> None:
    """The rest of the command line does without."""
    code = "import sys; sys.modules['aiohttp'] = None; from chatkeep.cli import main; main()"
    command = [sys.executable, "-c", code, "simulate", "http://127.0.0.1:1", "--key", "x"]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)

    assert (2, "") == (ended.returncode, ended.stdout)
    assert "pip install 'chatkeep[client]'" in ended.stderr


def test_the_dice_are_the_seeds() -> None:
    """The same seed makes the same customers; every message is sent once, whatever the order."""
    plans = [bursts(HARD, random.Random(seed)) for seed in (1, 1, 2)]
    plain = Plan(messages=4, bursts=0.0, reorder=0.0)

    assert plans[0] == plans[1] != plans[2]
    assert list(range(6)) == sorted(place for burst in plans[0] for place in burst)
    assert [[0], [1], [2], [3]] == bursts(plain, random.Random(1))
    assert [[1, 2, 3, 0]] == bursts(Plan(messages=4, bursts=1.0, reorder=1.0), random.Random(1))


def test_percentiles() -> None:
    """Of nothing zeros, of one thing itself, of many the nearest rank."""
    assert [(0.0,) * 3, (2.0,) * 3, (50, 95, 99)] == [
        (found.p50, found.p95, found.p99) for found in map(latency, ([], [2.0], [float(n) for n in range(100, 0, -1)]))
    ]


def test_customers_without_a_key_are_told_how_to_have_one(tmp_path: Path) -> None:
    """It is named as for every command on a server: by CHATKEEP_KEY, or by the file that CHATKEEP_KEY_FILE names."""
    (tmp_path / "key").write_text("ck_k_no-such\n")
    asked = ("simulate", "http://127.0.0.1:1", "--customers", "1", "--channel", "whatsapp")

    without = chatkeep(*asked, "--secret", "s", folder=tmp_path)
    by_file = chatkeep(*asked, folder=tmp_path, CHATKEEP_KEY_FILE=str(tmp_path / "key"))

    assert 2 == without[0]
    assert (
        "There is no key for http://127.0.0.1:1; nothing was sent. Set CHATKEEP_KEY, or CHATKEEP_KEY_FILE" in without[2]
    )
    assert "There is no key" not in by_file[2]
