"""Many scripted customers against a running server. They repeat and overtake themselves, hang up and write again; in the
end every conversation is read back and judged by what the customers were told. `chatkeep simulate` runs a `Simulation`.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import secrets
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import msgspec
from msgspec import Struct

from ..channels import Channel
from ..errors import Unavailable, UsageError
from ..extras import from_extra
from ..model import ASKING, Message, text_of
from .history import DeliveryReport, StoredConversation, check, wrong_sendings
from .transports import Platform, Post, SentMessage, Transport

with from_extra("client", "chatkeep simulate"):
    import aiohttp

PATIENCE_S = 60.0  # after which a customer gives a message up, and the end no longer waits for what is unread
REQUEST_S = 40.0
PAUSES_S = (0.1, 2.0)
SILENT_S = 10.0  # a bot that says nothing for so long has nothing to say
CUT_S = 0.01  # after which a connection is cut, in the mean
WRITING_S = 0.02  # between two messages of a burst
LATER = 0.3  # the share of API requests that do not wait for the answer
READERS = 20
SHOWN = 20

SILENCES = (aiohttp.ClientError, OSError, TimeoutError)

TALK = """\
hi
2 margherita
a tiramisù
cart
one more margherita
checkout
12 Via Roma
card
confirm
where is my order?
"""


class Plan(Struct, frozen=True, kw_only=True):
    """What the customers do; shares are from 0 to 1, see `chatkeep simulate --help`."""

    customers: int = 100
    rate: float = 20.0
    messages: int = 10
    bursts: float = 0.2
    duplicates: float = 0.2
    reorder: float = 0.1
    faults: float = 0.05
    seed: int = 0
    talk: Sequence[str] = tuple(TALK.splitlines())


class Latency(Struct, frozen=True):
    """Percentiles, in seconds."""

    p50: float = 0.0
    p95: float = 0.0
    p99: float = 0.0


class Report(Struct, frozen=True, kw_only=True):
    """How it went. sent: requests with a message in them. acked: messages that a customer was told are taken; unacked:
    that are in the log although nobody was told. repeated: replies that were on a screen more than once. errors: answers
    that only meant "later". faults: one line for each broken promise."""

    customers: int
    seconds: float
    sent: int
    acked: int
    unacked: int
    answered: int
    repeated: int
    ack: Latency
    answer: Latency
    errors: dict[str, int]
    faults: list[str]


class Seen:
    """What the customers of a run have seen: whom they told what, what they were told, and how long that took."""

    def __init__(self) -> None:
        self.customers: dict[str, str] = {}
        self.reports: list[DeliveryReport] = []
        self.acks: dict[tuple[str, str], float] = {}
        self.answers: dict[tuple[str, str], float] = {}
        self.errors: Counter[str] = Counter()
        self.faults: list[str] = []
        self._first: dict[tuple[str, str], float] = {}

    @property
    def sent(self) -> int:
        """How many requests had a message in them."""
        return sum([not one.acked for one in self.reports])

    def note_first(self, said: SentMessage, at: float) -> None:
        """Note a message that is about to be sent; what takes time is counted from the first time."""
        self.customers[said.conversation] = said.customer
        self._first.setdefault((said.conversation, said.id), at)

    def note_sent(self, said: SentMessage) -> None:
        """Note a request, whatever comes of it."""
        self.reports.append(DeliveryReport(said.conversation, said.id, acked=False))

    def note_receipt(self, said: SentMessage, receipt: Mapping[str, Any], at: float) -> None:
        """Note that a message was taken, and the replies where they are in the answer."""
        name = said.conversation, said.id
        self.acks.setdefault(name, at - self._first[name])
        answered = receipt.get("status") == "answered"
        texts = [text_of(reply["content"]) for reply in receipt["replies"]] if answered else None
        duplicate = receipt.get("duplicate", False)
        self.reports.append(DeliveryReport(*name, acked=True, replies=texts, duplicate=duplicate))
        if answered:
            self.answers.setdefault(name, at - self._first[name])

    def note_shown(self, conversation: str, id: str, at: float) -> None:
        """Note when the reply to a message, if a customer has sent that, was on a screen."""
        if (conversation, id) in self._first:
            self.answers[conversation, id] = at - self._first[conversation, id]


class Servers:
    """The servers of one store: any of them at any time, and another when one does not answer."""

    def __init__(self, urls: Sequence[str], key: str, dice: random.Random) -> None:
        self.urls = [url.rstrip("/") for url in urls]
        if wrong := [url for url in urls if not url.startswith(("http://", "https://"))]:
            raise UsageError(f"{wrong[0]} is no server's address: write http://host:port. Nothing was simulated.")
        self._reading = {"Authorization": f"Bearer {key}"}
        self._dice = dice
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Servers:
        """Make ready; connects to nobody yet."""
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), trust_env=False)
        return self

    async def __aexit__(self, *_: object) -> None:
        """End every connection."""
        await self._session.close()

    async def greet(self) -> None:
        """Make sure that the key opens the door, before anything is written."""
        for url in self.urls:
            with contextlib.suppress(*SILENCES):
                asked = self._session.get(f"{url}/v1/conversations?limit=1", headers=self._reading)
                async with asyncio.timeout(REQUEST_S), asked as answer:
                    body = await answer.read()
                    if answer.status == 200 and body.startswith(b'{"conversations":'):
                        return
                    if answer.status < 500:
                        raise UsageError(
                            f"{url} answers {answer.status} ({problem(body)}); nothing was simulated. It must be chatkeep, and the key "
                            "a service key of the tenant whose customers these are: `chatkeep key create` makes one."
                        )
        raise Unavailable(f"{', '.join(self.urls)} does not answer; nothing was simulated. Start it: chatkeep serve.")

    async def post(
        self, path: str, body: Any, headers: dict[str, str], dice: random.Random, *, within: float
    ) -> tuple[int, float, bytes]:
        """Return status, Retry-After and body of the answer of one of them. Raises one of SILENCES where there is none."""
        async with (
            asyncio.timeout(within),
            self._session.post(dice.choice(self.urls) + path, data=body, headers=headers) as answer,
        ):
            return answer.status, float(answer.headers.get("retry-after", 0)), await answer.read()

    async def get(self, path: str, deadline: float) -> Any:
        """Return what is there, from whichever server answers; None for 404. Raises `Unavailable` when time is over."""
        while True:
            with contextlib.suppress(*SILENCES):
                url = self._dice.choice(self.urls) + path
                async with asyncio.timeout(REQUEST_S), self._session.get(url, headers=self._reading) as answer:
                    if answer.status == 404:
                        return None
                    if answer.status == 200:
                        return msgspec.json.decode(await answer.read())
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"{path} could not be read back for {PATIENCE_S:.0f} s, so there is no verdict. Start the servers."
                )
            await asyncio.sleep(0.25)


class Simulation:
    """One run, against the servers at *urls*: any of them at any time, and another when one does not answer."""

    def __init__(
        self,
        urls: Sequence[str],
        plan: Plan,
        transport: Transport,
        *,
        key: str,
        platform_port: int | None = None,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        self.plan, self.transport, self.tell = plan, transport, tell
        self.run_number = 10_000_000 + secrets.randbelow(90_000_000)
        self.dice = random.Random(plan.seed)
        self.platform = Platform()
        self.seen = Seen()
        self._servers = Servers(urls, key, self.dice)
        self._port = platform_port

    async def run(self) -> Report:
        """Let all customers talk, wait until all is answered, and judge. Ctrl-C ends the talking. Raises `UsageError` for
        a key that is not good, `Unavailable` when nobody is there."""
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(self._servers)
            await self._servers.greet()
            if self._port is not None:
                await stack.enter_async_context(self.platform.listening(self._port))
            began = time.monotonic()
            talking, telling = asyncio.create_task(self._talk()), asyncio.create_task(self._progress())
            asyncio.get_running_loop().add_signal_handler(signal.SIGINT, talking.cancel)
            try:
                await asyncio.wait([talking])
            finally:
                asyncio.get_running_loop().remove_signal_handler(signal.SIGINT)
                telling.cancel()
            if not talking.cancelled():
                talking.result()
            return await self._judge(time.monotonic() - began)

    async def _talk(self) -> None:
        async with asyncio.TaskGroup() as customers:
            for number in range(self.plan.customers):
                customers.create_task(self._customer(number))
                await asyncio.sleep(self.dice.expovariate(self.plan.rate))

    async def _customer(self, number: int) -> None:
        """Have one customer talk: bursts, each after the answer to the one before, and repetitions of what was said."""
        plan = self.plan
        dice = random.Random(f"{plan.seed}.{number}")
        again: list[SentMessage] = []
        for burst in bursts(plan, dice):
            said = [
                self.transport.said(self.run_number, number, place, plan.talk[place % len(plan.talk)])
                for place in burst
            ]
            twice = [one for one in said if dice.random() < plan.duplicates]
            soon = [one for one in twice if dice.random() < 0.5]
            bell = self.platform.bells[said[0].customer]
            bell.clear()
            async with asyncio.TaskGroup() as saying:
                for one in said:
                    saying.create_task(self._say(one, dice))
                    if one in soon:
                        saying.create_task(self._say(one, dice))
                    await asyncio.sleep(dice.random() * WRITING_S)
                for one in again:
                    saying.create_task(self._say(one, dice))
            again = [one for one in twice if one not in soon]
            if self._port is not None:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(SILENT_S):
                        await bell.wait()
        for one in again:
            await self._say(one, dice)

    async def _say(self, said: SentMessage, dice: random.Random) -> None:
        """Send a message until the server has taken it and, where the answer comes back this way, answered it."""
        began, pause = time.monotonic(), PAUSES_S[0]
        self.seen.note_first(said, began)
        later = self.transport.channel is None and dice.random() < LATER
        while time.monotonic() - began < PATIENCE_S:
            self.seen.note_sent(said)
            answer = await self._post(self.transport.post(said), dice, later=later)
            if answer is None:
                continue
            status, retry_after, body = answer
            if status in (200, 202):
                receipt = msgspec.json.decode(body) if self.transport.channel is None else {}
                self.seen.note_receipt(said, receipt, time.monotonic())
                if receipt.get("status") not in ("accepted", "journaled"):
                    return
                if later:  # asked again, the server waits for the answer
                    later = False
                    continue
                pause = PAUSES_S[0]
            elif status in (408, 409, 429) or status >= 500:
                self.seen.errors[problem(body)] += 1
            else:
                self.seen.faults.append(f"REFUSED {said.conversation} {said.id}: {status} {problem(body)}")
                return
            await asyncio.sleep(retry_after or dice.uniform(pause / 2, pause))
            pause = min(pause * 2, PAUSES_S[1])
        self.seen.faults.append(f"GIVEN UP {said.conversation} {said.id} after {PATIENCE_S:.0f} s")

    async def _post(self, post: Post, dice: random.Random, *, later: bool) -> tuple[int, float, bytes] | None:
        """Return status, Retry-After and body of the answer; None when there was none. Sometimes the connection is cut: while the
        body is on its way, or before the answer can come."""
        body: Any = post.body
        headers = post.headers | ({"Prefer": "respond-async"} if later else {})
        patience, cut = REQUEST_S, dice.random() < self.plan.faults
        if cut:
            patience = dice.expovariate(1 / CUT_S)
            if dice.random() < 0.5:
                headers |= {"Content-Length": str(len(body))}
                body = begun(body)
        try:
            return await self._servers.post(post.path, body, headers, dice, within=patience)
        except SILENCES as fault:
            self.seen.errors["cut by us" if cut else type(fault).__name__] += 1
            if not cut:
                await asyncio.sleep(dice.uniform(*PAUSES_S) / 4)
            return None

    async def _progress(self) -> None:
        while self.tell is not None:
            await asyncio.sleep(1.0)
            answered = sum(map(len, self.platform.screens.values())) or len(self.seen.answers)
            self.tell(
                f"{len(self.seen.customers):,} customers, {self.seen.sent:,} sent, {len(self.seen.acks):,} acked, "
                f"{answered:,} answered, {self.seen.errors.total():,} errors; "
                f"{times(latency((self.seen.answers or self.seen.acks).values()))}"
            )

    async def _judge(self, seconds: float) -> Report:
        """Read every conversation back, and say what the customers would complain about."""
        deadline, readers = time.monotonic() + PATIENCE_S, asyncio.Semaphore(READERS)
        held: dict[str, StoredConversation] = {}

        async def read(name: str) -> None:
            async with readers:
                if found := await held_by(self._servers, name, deadline):
                    held[name] = found

        if self.tell is not None:
            self.tell(f"Reading {len(self.seen.customers):,} conversations back.")
        await asyncio.gather(*(read(name) for name in self.seen.customers))
        ids = {one.id for one in self.seen.reports}
        keeps_seen = any([keeps(found.state.get("seen"), ids) for found in held.values()])
        verdict = check(self.seen.reports, held, any_bot=not keeps_seen)
        faults, repeated = verdict.faults + self.seen.faults, 0
        if self.transport.channel is not None and self._port is not None:
            for name, found in held.items():
                wrong, more = await self._on_screen(self.transport.channel, name, found, deadline)
                faults, repeated = faults + wrong, repeated + more
        return Report(
            customers=len(self.seen.customers),
            seconds=seconds,
            sent=self.seen.sent,
            acked=verdict.acked,
            unacked=verdict.unacked,
            answered=sum([len(covered(found.messages)) for found in held.values()]),
            repeated=repeated,
            ack=latency(self.seen.acks.values()),
            answer=latency(self.seen.answers.values()),
            errors=dict(self.seen.errors.most_common()),
            faults=faults,
        )

    async def _on_screen(
        self, channel: Channel, name: str, found: StoredConversation, deadline: float
    ) -> tuple[list[str], int]:
        """Return what is wrong with what a customer saw of the replies, and how many came twice; when all of it should be there."""
        _, account, customer = name.split(":", 2)
        due = [
            (reply.number, msgspec.json.decode(request.body))
            for reply in found.messages
            if reply.role in ("assistant", "operator")
            for request in channel.requests(
                reply.content, account=account, to=customer, key=f"{reply.id}@{name}", at=reply.created_at
            )
        ]
        screen = self.platform.screens[customer]
        while True:
            faults, begins = wrong_sendings(name, due, [body for _, body in screen])
            if not faults or time.monotonic() > deadline:
                break
            await asyncio.sleep(0.25)
        for id, reply in covered(found.messages).items():
            if reply.number in begins:
                self.seen.note_shown(name, id, screen[begins[reply.number]][0])
        return faults, len(screen) - len(due) if not faults else 0


async def held_by(servers: Servers, name: str, deadline: float) -> StoredConversation | None:
    """Return what the server holds of a conversation, as soon as nothing in it is unread; None when it has none."""
    path = f"/v1/conversations/{quote(name, safe='')}"
    while True:
        found = await servers.get(f"{path}?messages=0", deadline)
        if found is None or not found["unread"] or time.monotonic() > deadline:
            break
        await asyncio.sleep(0.25)
    if found is None:
        return None
    messages: list[Message] = []
    page: list[Any] = [None]
    while page:
        last = messages[-1].number if messages else 0
        page = (await servers.get(f"{path}/messages?after={last}&limit=500", deadline))["messages"]
        messages += msgspec.convert(page, list[Message])
    state = found.get("state")
    # A bot's own reminders are nobody's messages.
    talk = [message for message in messages if message.role != "event"]
    return StoredConversation(talk, state if isinstance(state, dict) else {}, found["unread"], noted=False)


async def begun(body: bytes) -> AsyncIterator[bytes]:
    """Yield half of *body*; the rest never comes."""
    yield body[: len(body) // 2]
    await asyncio.sleep(REQUEST_S)


def keeps(seen: Any, ids: set[str]) -> bool:
    """Tell whether a bot's *seen* is what the checker means by it, the ids of messages."""
    return isinstance(seen, list) and any([isinstance(one, str) and one in ids for one in seen])


def bursts(plan: Plan, dice: random.Random) -> list[list[int]]:
    """Return the places of a customer's messages, as they leave: in bursts, some after the one that should follow them."""
    order = list(range(plan.messages))
    for place in range(len(order) - 1):
        if dice.random() < plan.reorder:
            order[place : place + 2] = order[place + 1], order[place]
    found: list[list[int]] = []
    for place in order:
        if found and dice.random() < plan.bursts:
            found[-1].append(place)
        else:
            found.append([place])
    return found


def problem(body: bytes) -> str:
    """Return the last word of a problem's type; "no problem document" for anything else."""
    with contextlib.suppress(msgspec.DecodeError, KeyError, TypeError, AttributeError):
        return str(msgspec.json.decode(body)["type"]).rpartition(":")[2]
    return "no problem document"


def covered(messages: list[Message]) -> dict[str, Message]:
    """Return the first reply to each message that has one, by the message's id."""
    ids = {message.number: message.id for message in messages if message.role in ASKING}
    found: dict[str, Message] = {}
    for reply in messages:
        if reply.role == "assistant" and reply.reply_to:
            for number in range(reply.reply_from or reply.reply_to, reply.reply_to + 1):
                if number in ids:
                    found.setdefault(ids[number], reply)
    return found


def latency(seconds: Iterable[float]) -> Latency:
    """Return the percentiles of *seconds*; zeros of none."""
    ordered = sorted(seconds)
    return Latency(*[ordered[math.ceil(share * len(ordered)) - 1] if ordered else 0.0 for share in (0.5, 0.95, 0.99)])


def times(found: Latency) -> str:
    """Return latencies as people read them."""
    named = msgspec.structs.asdict(found).items()
    return "  ".join(f"{name} {f'{value * 1e3:,.0f} ms' if value < 1 else f'{value:,.1f} s'}" for name, value in named)


def spelled(report: Report) -> str:
    """Return the report as people read it."""
    errors = ", ".join(f"{count:,} {kind}" for kind, count in report.errors.items()) or "none"
    more = f"\n... and {len(report.faults) - SHOWN:,} more" if len(report.faults) > SHOWN else ""
    verdict = "\n".join(report.faults[:SHOWN]) + f"{more}\nNOT CLEAN: {len(report.faults):,} broken promises"
    twice = f", {report.repeated:,} sent out twice" if report.repeated else ""
    if "rate-limited" in report.errors:
        errors += (
            " (the server limits what comes from one address: CHATKEEP_RATE_PEER=off, CHATKEEP_RATE_CONVERSATION=off)"
        )
    return (
        f"{report.customers:,} customers in {report.seconds:,.1f} s: {report.sent:,} requests, {report.acked:,} messages acked, "
        f"{report.unacked:,} taken without an ack, {report.answered:,} answered{twice}\n"
        f"came back later: {errors}\n"
        f"acked     {times(report.ack)}\nanswered  {times(report.answer)}\n"
        + (verdict if report.faults else "clean: nothing lost, doubled, out of order or left without an answer")
    )
