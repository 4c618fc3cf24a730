"""Redis over REST: the contract, random histories, losses, and what only this driver has."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import random
import secrets
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test
from msgspec import structs

from chatkeep import Chatkeep, Receipt, Turn
from chatkeep.drivers import batching, driver_for
from chatkeep.drivers.base import Ability, Append, Driver, Entries, Entry, Key, Read, Row, Scan, Write
from chatkeep.drivers.redis import scripts as acts
from chatkeep.drivers.redis.driver import RedisDriver
from chatkeep.drivers.upstash import transport
from chatkeep.drivers.upstash.driver import UpstashDriver
from chatkeep.errors import Misconfigured, Overloaded, TooLarge, Unavailable, Uncertain
from chatkeep.testing import DriverContract
from chatkeep.testing.machine import DriverMachine
from chatkeep.testing.proxy import Proxy
from chatkeep.testing.servers import UpstashServer
from tests.support.soaking import SOAK, few_or_many
from tests.support.tls import self_signed, tls_before
from tests.support.waiting import time_passes, until

pytestmark = pytest.mark.server

ADA = Key("", "ada")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UpstashServer]:
    """A double for the tests of this file that do it no harm."""
    with UpstashServer(tmp_path_factory.mktemp("upstash")) as running:
        running.set_faults(size=16 << 20)
        yield running


@pytest.fixture
def server(tmp_path: Path) -> Iterator[UpstashServer]:
    """A double of the test's own."""
    with UpstashServer(tmp_path) as running:
        yield running


@pytest.fixture
async def driver(server: UpstashServer) -> AsyncIterator[UpstashDriver]:
    """A driver on it."""
    opened = await opened_on(server.url)
    yield opened
    await opened.close()


def fresh(server: UpstashServer, more: str = "") -> str:
    """The URL of a store that nobody else has."""
    return f"{server.url}&prefix={secrets.token_hex(8)}{more}"


async def opened_on(url: str) -> Any:
    """Another driver on a store."""
    driver = driver_for(url)
    await driver.open()
    return driver


async def say(driver: Driver, id: str, key: Key = ADA, body: bytes = b"hello") -> int:
    """One append; the head it left."""
    return (await driver.append(Append(key, [Entry(0, id, "user", body)], revision=f"r{id}", at=1.0))).row.head


class TestUpstash(DriverContract):
    """The contract, without announcements."""

    more = ""

    @pytest.fixture(autouse=True)
    def fresh_store(self, service: UpstashServer) -> None:
        """A store of the test's own."""
        self.service = service
        self.url = fresh(service, self.more)

    async def open_driver(self) -> Driver:
        """Another driver on it."""
        opened: Driver = await opened_on(self.url)
        return opened

    async def empty_store(self) -> None:
        """FLUSHALL."""
        assert b"+OK\r\n" == self.service.redis.ask("FLUSHALL")


class TestWatching(TestUpstash):
    """The contract, with announcements."""

    more = "&watch=yes"


@few_or_many("examples", 2, 8 * SOAK)
def test_random_histories(service: UpstashServer, examples: int) -> None:
    """Three connections to one store, a new store for each history."""

    def fresh_store() -> DriverMachine:
        url = fresh(service)
        return DriverMachine(lambda: opened_on(url))

    how = settings(max_examples=examples, stateful_step_count=25, deadline=None)
    run_state_machine_as_test(fresh_store, settings=how)


# What is lost on the way


async def settled(act: Callable[[], Awaitable[Any]], *, again: Callable[[], Awaitable[Any]] | None = None) -> Any:
    """The answer of an act that is run again until it has one, as the store runs it; or *again* in its place."""
    for _ in range(200):
        try:
            return await act()
        except (Uncertain, Unavailable):
            act = again or act
    raise AssertionError("it was never answered")


async def talk(driver: Driver, *, careless: bool) -> dict[str, list[str]]:
    """Twelve conversations at once, twenty messages each; what their logs hold then."""

    async def one(name: str) -> None:
        key = Key("", name)
        for n in range(20):
            row = f"{name}.{n}"
            act = Append(key, [Entry(0, row, "user", b"hi")], revision=f"r{row}", at=1.0)
            other = Append(key, [Entry(0, f"{row}~", "user", b"hi")], revision=f"r{row}~", at=1.0)
            await settled(
                lambda act=act: driver.append(act), again=(lambda: driver.append(other)) if careless else None
            )

    names = [f"c{n}" for n in range(12)]
    await asyncio.gather(*map(one, names))
    logs = [await settled(lambda name=name: driver.entries(Entries(Key("", name), after=0))) for name in names]
    return {name: [entry.id.rstrip("~") for entry in log] for name, log in zip(names, logs, strict=True)}


@pytest.mark.parametrize("careless", [False, True])
async def test_lost_requests_and_lost_answers_change_nothing(server: UpstashServer, careless: bool) -> None:
    """Each message is once in its log. (One who sends again under a new id finds it twice: the check can fail.)"""
    driver = await opened_on(server.url)
    # (Some twenty requests are made: by chance none of them may lose its answer, and a careless one would look careful.)
    server.set_faults(lost_requests=0.08, lost_answers=0.4 if careless else 0.15)
    try:
        logs = await talk(driver, careless=careless)
    finally:
        server.set_faults(lost_requests=0.0, lost_answers=0.0)
        await driver.close()
    wrong = [name for name, log in logs.items() if log != [f"{name}.{n}" for n in range(20)]]

    assert careless == bool(wrong)


async def test_a_bot_on_a_lossy_network_answers_each_message_once(server: UpstashServer) -> None:
    """Its counter, which a turn that ran twice would show."""
    keep: Chatkeep[dict[str, Any]] = Chatkeep(server.url, poll="100ms")

    @keep.on_message
    async def bot(turn: Turn[dict[str, Any]]) -> str:
        turn.state["n"] = turn.state.get("n", 0) + 1
        return f"{turn.state['n']}"

    async with keep:
        server.set_faults(lost_requests=0.08, lost_answers=0.08)

        async def one(name: str) -> list[str]:
            said: list[Receipt] = [await settled(lambda n=n: keep.receive(name, "hi", id=f"{n}")) for n in range(15)]
            return [receipt.replies[0].text for receipt in said]

        answers = await asyncio.gather(*(one(f"c{n}") for n in range(6)))
        server.set_faults(lost_requests=0.0, lost_answers=0.0)

    assert [[f"{n}" for n in range(1, 16)]] * 6 == answers


async def test_what_was_not_answered_is_uncertain_and_reads_are_not(
    driver: UpstashDriver, server: UpstashServer
) -> None:
    """A write may have happened; a read can be asked again."""
    server.set_faults(lost_answers=1.0)
    with pytest.raises(Uncertain):
        await say(driver, "m")
    with pytest.raises(Unavailable):
        await driver.read(Read(ADA, tail=1))
    server.set_faults(lost_answers=0.0)

    assert 1 == await say(driver, "m")


async def test_a_silent_service_is_waited_for_no_longer_than_the_deadline(server: UpstashServer) -> None:
    """What was sent is uncertain, what waited behind it certainly did not happen, and it goes on afterwards."""
    driver = await opened_on(f"{server.url}&timeout=0.5")
    server.set_faults(delay=3.0)
    first = asyncio.ensure_future(say(driver, "a"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    told = await asyncio.gather(first, say(driver, "b"), return_exceptions=True)
    server.set_faults(delay=0.0)

    assert isinstance(told[0], Uncertain)
    assert isinstance(told[1], Uncertain | Unavailable)
    assert await settled(lambda: say(driver, "c")) >= 1
    await driver.close()


async def test_what_comes_faster_than_the_service_is_answered_or_was_never_sent(server: UpstashServer) -> None:
    """Nobody is left not knowing, and those that could not be sent in time hear why."""
    driver = await opened_on(f"{server.url}&timeout=5")
    server.set_faults(delay=0.3)
    burst = [Append(Key("", f"c{n}"), [Entry(0, "m", "user", b"hi")], revision="r", at=1.0) for n in range(8000)]
    told = await asyncio.gather(*map(driver.append, burst), return_exceptions=True)
    server.set_faults(delay=0.0)
    await driver.close()
    refused = [str(one) for one in told if isinstance(one, Unavailable)]

    assert [] == [one for one in told if isinstance(one, Uncertain)]
    assert len(refused) < len(told)
    assert all("has more to do than it does in time; nothing was written" in said for said in refused)


async def test_what_waits_for_a_silent_service_hears_of_that(server: UpstashServer) -> None:
    """And not that the service is slow, though it lets everybody connect."""
    driver = await opened_on(f"{server.url}&timeout=1")
    server.set_faults(delay=10.0)
    with pytest.raises(Uncertain):
        await say(driver, "a")
    sent = asyncio.ensure_future(say(driver, "b"))
    await until(lambda: driver.pool().open and not driver.pool().waiting)
    with pytest.raises(Unavailable, match=r"cannot be reached \(silent for 1 s\); nothing was written"):
        await say(driver, "c")
    server.set_faults(delay=0.0)
    await asyncio.gather(sent, return_exceptions=True)
    await driver.close()


async def test_a_service_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    """Nothing was sent, and that is said within the time-out."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"upstash://secret@127.0.0.1:{nobody.getsockname()[1]}?tls=no&timeout=0.5"
        with pytest.raises(Unavailable, match="cannot be reached"):
            await opened_on(url)


async def test_a_service_that_is_out_of_order_may_have_written(driver: UpstashDriver, server: UpstashServer) -> None:
    """A gateway's 502 says nothing of what happened behind it; a 404 does."""
    server.set_faults(status=502)
    with pytest.raises(Uncertain, match="502"):
        await say(driver, "m")
    server.set_faults(status=200)
    with pytest.raises(Uncertain, match="out of order"):
        await say(driver, "m")
    server.set_faults(status=404)
    with pytest.raises(Unavailable, match="404"):
        await say(driver, "m")
    server.set_faults(status=None)

    assert 1 == await say(driver, "m")


async def test_an_answer_that_is_no_base64_is_uncertain(driver: UpstashDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever comes back, nobody waits for ever, and the next act goes on."""
    with monkeypatch.context() as patched:
        patched.setattr(transport, "a2b_base64", lambda text: base64.b64decode("x" + text, validate=True))
        with pytest.raises(Uncertain):
            await asyncio.wait_for(say(driver, "m"), 3)

    assert 1 == await say(driver, "m")


async def test_kill_9_and_a_restart_between_acts(server: UpstashServer) -> None:
    """Service and server die again and again: what was answered is there once, and in order."""
    driver = await opened_on(server.url)
    said: list[str] = []
    for turn in range(5):
        for n in range(5):
            said.append(f"{turn}.{n}")
            await settled(lambda: say(driver, said[-1]))
        dying = [asyncio.ensure_future(say(driver, f"{turn}.x{n}")) for n in range(3)]
        await time_passes(random.random() / 100)
        server.kill()
        server.start()
        for n, act in enumerate(dying):
            with contextlib.suppress(Uncertain, Unavailable):
                await act
            said.append(f"{turn}.x{n}")
            await settled(lambda: say(driver, said[-1]))
    log = await driver.entries(Entries(ADA, after=0))
    await driver.close()

    assert sorted(said) == sorted(entry.id for entry in log)
    assert list(range(1, len(said) + 1)) == [entry.number for entry in log]


# What it costs


async def test_a_warm_message_is_one_request_with_one_command(server: UpstashServer) -> None:
    """And opening a store that is there is one request. A script that the server does not have yet comes along once."""

    def cost(one: dict[str, int], two: dict[str, int]) -> tuple[int, int]:
        return two["requests"] - one["requests"], two["commands"] - one["commands"]

    driver = await opened_on(server.url)
    await say(driver, "m")
    await driver.close()
    before = server.counts()
    driver = await opened_on(server.url)
    opened = server.counts()
    row = Row(key=ADA, revision="w0", incarnation="rm")
    costs = []
    for turn in range(2):
        told = [server.counts()]
        await driver.read(Read(ADA, tail=1))
        told.append(server.counts())
        last = "rm" if turn == 0 else row.revision
        row = await driver.write(Write(structs.replace(row, revision=f"w{turn + 1}"), replaces=last))
        told.append(server.counts())
        await driver.scan(Scan("due", limit=10, until=2.0))
        told.append(server.counts())
        costs.append([cost(one, two) for one, two in itertools.pairwise(told)])
    await driver.close()

    assert (1, 3) == cost(before, opened)
    assert [[(2, 2)] * 3, [(1, 1)] * 3] == costs


async def test_requests_that_follow_each_other_share_a_connection(server: UpstashServer) -> None:
    """A hundred acts do not greet the service a hundred times."""
    async with Proxy(server.port) as proxy:
        driver = await opened_on(fresh(server).replace(f":{server.port}", f":{proxy.port}"))
        for n in range(100):
            await driver.append(Append(ADA, [Entry(0, f"m{n}", "u", b"")], revision=f"r{n}", at=float(n)))

        assert 1 == proxy.connections
        await driver.close()


async def test_what_a_function_takes(server: UpstashServer) -> None:
    """In requests and commands, on a service that has the scripts: a process that answers one message, then one that is warm."""

    async def bot(turn: Turn[dict[str, Any]]) -> str:
        return "fine"

    async def ran() -> list[tuple[int, int]]:
        keep: Chatkeep[dict[str, Any]] = Chatkeep(server.url, background=False, poll="1h")
        keep.on_message(bot)
        told = [server.counts()]
        await keep.open()
        told.append(server.counts())
        for _ in range(2):
            await keep.receive("ada", "hello", id=secrets.token_hex(4))
            told.append(server.counts())
        await keep.tend()
        told.append(server.counts())
        await keep.close()
        told.append(server.counts())
        return [(b["requests"] - a["requests"], b["commands"] - a["commands"]) for a, b in itertools.pairwise(told)]

    await ran()
    await ran()
    opened, cold, warm, tended, closed = await ran()

    # (To tend is to look at switches and at what is due, and whether anything is newer than now, which a clock that was ahead has put off.)
    assert ((2, 5), (1, 1), (3, 3), (0, 0)) == (opened, warm, tended, closed)
    assert cold <= (3, 3)


async def test_what_waits_goes_in_one_request(driver: UpstashDriver, server: UpstashServer) -> None:
    """Fifty acts of one tick."""
    before = server.counts()["requests"]
    await asyncio.gather(*(say(driver, f"{n}", Key("", f"{n}")) for n in range(50)))

    assert 1 == server.counts()["requests"] - before


# Scripts and order


async def test_the_service_may_forget_its_scripts(driver: UpstashDriver, server: UpstashServer) -> None:
    """In the middle of whatever is under way, and also when the double has forgotten what they are called."""
    for turn in range(3):
        assert b"+OK\r\n" == server.redis.ask("SCRIPT", "FLUSH")
        await asyncio.gather(*(say(driver, f"{turn}.{n}") for n in range(20)), driver.read(Read(ADA, tail=1)))

    assert 60 == len(await driver.entries(Entries(ADA, after=0)))


async def test_acts_of_one_tick_keep_their_order_on_a_service_without_scripts(driver: UpstashDriver) -> None:
    """The write comes first: an append whose script is there already does not overtake it."""
    await say(driver, "x", Key("", "other"))
    created, appended = await asyncio.gather(
        driver.write(Write(Row(key=ADA, revision="w", incarnation="w"), replaces=None)),
        driver.append(Append(ADA, [Entry(0, "m", "user", b"hello")], revision="a", at=1.0)),
    )

    assert ("w", "w", 1) == (created.revision, appended.row.incarnation, appended.row.head)


# Refusals, by name


async def test_a_quota_that_is_used_up_is_said(driver: UpstashDriver, server: UpstashServer) -> None:
    """Nothing was written, certainly."""
    server.set_faults(quota=0)
    with pytest.raises(Unavailable, match="the quota is used up"):
        await say(driver, "m")
    server.set_faults(quota=None)

    assert await driver.read(Read(ADA, tail=1)) is None


async def test_what_is_too_large_is_refused_and_takes_nobody_along(
    driver: UpstashDriver, server: UpstashServer
) -> None:
    """The limit of the service is learnt from its refusal; neighbours in the request go on."""
    server.set_faults(size=100_000)
    big = random.Random(1).randbytes(150_000)
    told = await asyncio.gather(
        say(driver, "a", Key("", "a")),
        say(driver, "big", body=big),
        say(driver, "b", Key("", "b")),
        return_exceptions=True,
    )

    assert [1, 1] == [told[0], told[2]]
    assert isinstance(told[1], TooLarge)
    assert "max request size exceeded" in f"{told[1]}"
    assert await driver.read(Read(ADA, tail=1)) is None


async def test_a_reply_that_is_too_large_for_the_service_is_a_failure_of_the_handler(server: UpstashServer) -> None:
    """It is set aside with its reason, as a reply is that no store takes, and the next message is answered."""
    server.set_faults(size=100_000)
    keep: Chatkeep[dict[str, Any]] = Chatkeep(server.url, message_limit=1 << 20)

    @keep.on_message
    async def bot(turn: Turn[dict[str, Any]]) -> str:
        return secrets.token_hex(150_000) if turn.text == "all" else "fine"

    async with keep:
        with pytest.raises(Exception, match="size"):
            await keep.receive("ada", "all", id="1")
        receipt = await keep.receive("ada", "hello", id="2")
        letters = await keep.dead_letters("ada")

    assert "fine" == receipt.replies[0].text
    assert 1 == len(letters)


async def test_a_read_only_token_is_named_at_open(server: UpstashServer) -> None:
    """On a new store and on one that is there; `examine` says it too."""
    for _ in range(2):
        with pytest.raises(Misconfigured, match="may only read"):
            await opened_on(server.read_only_url)
        await (await opened_on(server.url)).close()
    found = await driver_for(server.read_only_url).examine()

    assert ["permissions"] == [finding.subject for finding in found if finding.level == "fail"]


async def test_a_wrong_token_is_said_at_once_and_never_shown(server: UpstashServer) -> None:
    """It is for somebody to mend."""
    with pytest.raises(Misconfigured, match="token is not taken") as refused:
        await opened_on(server.url.replace("secret", "hidden"))

    assert "hidden" not in f"{refused.value}"


async def test_what_speaks_no_rest_is_said(server: UpstashServer) -> None:
    """Another service at that address, and the port of the Redis itself."""
    server.set_faults(status=404)
    with pytest.raises(Misconfigured, match="speaks no REST of Redis"):
        await opened_on(server.url)
    with pytest.raises(Unavailable, match="did not answer"):
        await opened_on(f"upstash://secret@127.0.0.1:{server.redis.port}?tls=no&timeout=1")


async def test_calls_do_not_pile_up_without_bound(
    driver: UpstashDriver, server: UpstashServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who comes when too many wait is told at once."""
    monkeypatch.setattr(batching, "WAITING", 5)
    server.set_faults(delay=0.2)
    said = await asyncio.gather(*(say(driver, f"{n}", Key("", f"{n}")) for n in range(20)), return_exceptions=True)
    server.set_faults(delay=0.0)

    assert 5 == len([one for one in said if one == 1])
    assert 15 == len([one for one in said if isinstance(one, Overloaded)])


async def test_a_cancelled_caller_does_not_cancel_the_act(driver: UpstashDriver, server: UpstashServer) -> None:
    """It is in the log."""
    act = asyncio.ensure_future(say(driver, "m"))
    await asyncio.sleep(0)
    act.cancel()
    with pytest.raises(asyncio.CancelledError):
        await act

    assert 2 == await say(driver, "n")


# One store, two ways in


@pytest.mark.parametrize("first", ["redis", "upstash"])
async def test_redis_and_rest_open_each_others_stores(server: UpstashServer, first: str) -> None:
    """Whoever makes it says how many buckets it has; bodies of either form are read by both."""
    urls = {"redis": server.redis.url, "upstash": server.url}
    bodies = [b"short", b"\0", b"\1x", b"\2x", "Käse".encode(), b"\xff\xfe", b"long " * 2000, bytes(range(256)) * 40]
    drivers = {name: await opened_on(urls[name]) for name in (first, *(urls.keys() - {first}))}
    for name, driver in drivers.items():
        for n, body in enumerate(bodies):
            await say(driver, f"{name}{n}", Key("", f"{n}"), body)
    for driver in drivers.values():
        for n, body in enumerate(bodies):
            _, tail = await driver.read(Read(Key("", f"{n}"), tail=2))

            assert [body, body] == [entry.body for entry in tail]
        assert len(bodies) == len(await driver.scan(Scan("key", limit=100)))
    assert isinstance(drivers["redis"], RedisDriver)
    buckets = {len(driver._acts.buckets) for driver in drivers.values()}
    for driver in drivers.values():
        found = {finding.subject: finding for finding in await driver.examine()}
        assert "ok" == found["epoch"].level
        await driver.close()

    assert {acts.BUCKETS if first == "redis" else 1} == buckets


def test_bodies_are_stored_as_text() -> None:
    """Whatever they are, and short ones that are text as they are."""
    for body in (b"", b"hello", b"\2", b"\xff", bytes(range(256)) * 30):
        acts.as_text(body).decode()

    assert b"hello" == acts.as_text(b"hello")


# Addresses


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("upstash://host", "no token"),
        ("upstash://hidden@host/0", "nothing more"),
        ("upstash://hidden@host?tls=maybe", "yes or no"),
        ("upstash://hidden@host?watch=1", "yes or no"),
        ("upstash://hidden@host?prefix=a/b", "prefix"),
        ("upstash://hidden@host?timeout=never", "seconds"),
        ("upstash://hidden@host?db=1", "no option db"),
        ("upstash://hidden@host:port", "not a port"),
        ("upstash://hid%20den@host", "no token"),
    ],
)
def test_a_url_that_means_nothing_is_refused(url: str, said: str) -> None:
    """Before anything is opened, and without a word of its token."""
    with pytest.raises(Misconfigured, match=said) as refused:
        driver_for(url)

    assert "hidden" not in f"{refused.value}"


@pytest.mark.parametrize(
    "names", [("UPSTASH_REDIS_REST_URL", "UPSTASH_REDIS_REST_TOKEN"), ("KV_REST_API_URL", "KV_REST_API_TOKEN")]
)
async def test_address_and_token_come_from_the_usual_variables(
    service: UpstashServer, names: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Upstash and Vercel set them; half of them is refused."""
    for name in ("UPSTASH_REDIS_REST_URL", "UPSTASH_REDIS_REST_TOKEN", "KV_REST_API_URL", "KV_REST_API_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(Misconfigured, match="neither UPSTASH_REDIS_REST_URL nor KV_REST_API_URL"):
        driver_for("upstash://")
    monkeypatch.setenv(names[0], f"http://127.0.0.1:{service.port}")
    with pytest.raises(Misconfigured, match=names[1]):
        driver_for("upstash://")
    monkeypatch.setenv(names[1], service.token)
    driver = await opened_on(f"upstash://?prefix={secrets.token_hex(4)}")

    assert 1 == await say(driver, "m")
    await driver.close()


@pytest.mark.parametrize(
    ("address", "token", "named"),
    [
        ("https://user:hidden@calm-owl.upstash.io", "AX0", "UPSTASH_REDIS_REST_URL"),
        ("https://calm-owl.upstash.io/hidden", "AX0", "UPSTASH_REDIS_REST_URL"),
        ("https://calm-owl.upstash.io?_token=hidden", "AX0", "UPSTASH_REDIS_REST_URL"),
        ("rediss://calm-owl.upstash.io", "AX0", "UPSTASH_REDIS_REST_URL"),
        ('"https://calm-owl.upstash.io"', "AX0", "UPSTASH_REDIS_REST_URL"),
        ("https://calm-owl.upstash.io/", '"hidden"', "UPSTASH_REDIS_REST_TOKEN"),
        ("https://calm-owl.upstash.io/", "hidden\n", "UPSTASH_REDIS_REST_TOKEN"),
    ],
)
def test_a_variable_that_was_copied_wrongly_is_named(
    address: str, token: str, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As from a file whose quotes count, or with more than the address in it: nothing of it is left out silently, or shown."""
    monkeypatch.setenv("UPSTASH_REDIS_REST_URL", address)
    monkeypatch.setenv("UPSTASH_REDIS_REST_TOKEN", token)
    with pytest.raises(Misconfigured, match=f"^{named} is") as refused:
        driver_for("upstash://")

    assert "hidden" not in f"{refused.value}"


async def test_certificates_are_looked_at(
    service: UpstashServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is trusted is taken; of another it is said at once that it is not."""
    certificate, tls = self_signed(tmp_path)
    async with tls_before(service.port, tls) as port:
        url = f"upstash://{service.token}@localhost:{port}?prefix={secrets.token_hex(4)}"
        begun = time.monotonic()
        with pytest.raises(Misconfigured, match="no TLS connection"):
            await opened_on(url)
        assert time.monotonic() - begun < 4
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        driver = await opened_on(url)

        assert 1 == await say(driver, "m")
        await driver.close()


def test_without_tls_no_it_is_https() -> None:
    """On the port of https, and certificates are looked at."""
    driver = UpstashDriver("upstash://secret@calm-owl-12345.upstash.io")
    tls = driver._site.access["tls"]

    assert (("calm-owl-12345.upstash.io", 443),) == driver._site.hosts
    assert tls.check_hostname
    assert Ability.WATCH not in driver.abilities
