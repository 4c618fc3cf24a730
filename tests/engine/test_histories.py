"""Histories of a salon with two tenants and the same ids in both: customers write, operators step in, pause and resume, withdraw, redact
and erase, reminders come and conversations are forgotten, through instances that die in the middle of it. After each act any of
them shows what a small model of the promises says."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from itertools import zip_longest
from typing import Any

import pytest
from msgspec import Struct

from chatkeep import Chatkeep, HandlerFailed, Receipt, Turn
from chatkeep.drivers import driver_for
from chatkeep.errors import ChatkeepError
from chatkeep.model import ASKING, Message
from chatkeep.testing.crash import wrapped

from ..support.dying import Dying
from ..support.soaking import SOAK
from ..support.stores import FAST
from ..support.waiting import until

HISTORIES = 10 * SOAK
STEPS = 80
FORGET_S = 5000.0

KEYS = [(tenant, id) for tenant in ("", "salon") for id in ("ada", "bob")]
TEXTS = ("hello", "poison", "remind a 5 once", "remind a 1500 keep", "remind b 100 once", "cancel a")
ACTS = (
    *["say"] * 5,
    *["receive"] * 4,
    *["tend"] * 3,
    *["pause", "resume", "pause tenant", "resume tenant", "pause all", "resume all"] * 2,
    *["repeat", "operator", "redact", "withdraw", "change", "clear", "erase", "replay", "dismiss", "mend", "restart"],
)


class Item(Struct, eq=False):
    """What the model knows of a message. status: waiting, answered, passed (over), dead, closed; "" of what nobody answers."""

    role: str
    text: str
    id: str = ""
    status: str = ""
    redacted: bool = False
    number: int = 0
    replays: Item | None = None


class Talk:
    """A conversation, as the model has it."""

    def __init__(self, at: float) -> None:
        self.log: list[Item] = []
        self.answers = self.changes = 0
        self.paused = False
        self.reminders: dict[str, tuple[float, bool]] = {}
        self.touched = at

    def with_status(self, status: str) -> list[Item]:
        """The messages that stand so."""
        return [item for item in self.log if item.status == status]

    def skip(self, now: float) -> None:
        """Pass over what waits, and reminders that are due; a user who has written needs no reminding."""
        waiting, before = self.with_status("waiting"), self.reminders
        if any(item.role == "user" for item in waiting):
            self.reminders = {name: one for name, one in self.reminders.items() if one[1]}
        self.reminders = {name: one for name, one in self.reminders.items() if one[0] > now}
        for item in waiting:
            item.status = "passed"
        if waiting or self.reminders != before:
            self.touched = now

    def may_be_forgotten(self) -> bool:
        """Nothing is to come, and nobody waits for an answer: a person has said something behind the last message that waits."""
        waiting = self.with_status("waiting")
        behind = self.log[self.log.index(waiting[-1]) :] if waiting else []
        return not self.reminders and (not waiting or any(item.role == "operator" for item in behind))


class Model:
    """What the promises say of the whole store, and the chance of this history."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.now = 1_800_000_000.0
        self.talks: dict[tuple[str, str], Talk] = {}
        self.off: set[str | None] = set()  # tenants that are paused; None: all
        self.mended = False

    def off_by(self, key: tuple[str, str]) -> list[str]:
        """What silences the bot there."""
        there = key in self.talks and self.talks[key].paused
        told = {"conversation": there, "tenant": key[0] in self.off, "everywhere": None in self.off}
        return [reason for reason, holds in told.items() if holds]

    def say(self, key: tuple[str, str], item: Item) -> Talk:
        """Put a message into the log, which it may begin."""
        talk = self.talks.setdefault(key, Talk(self.now))
        talk.log.append(item)
        talk.touched = self.now
        return talk

    def answer(self, key: tuple[str, str], item: Item) -> None:
        """What the bot makes of one message."""
        talk = self.talks[key]
        talk.touched = self.now
        if item.role == "user":
            talk.reminders = {name: one for name, one in talk.reminders.items() if one[1]}
        if item.replays is not None:
            item.replays.status = "closed"
        if item.text == "poison" and not self.mended:
            item.status = "dead"
            return
        talk.answers += 1
        match item.text.split():
            case ["remind", name, after, how]:
                talk.reminders[name] = (self.now + float(after), how == "keep")
            case ["cancel", name]:
                talk.reminders.pop(name, None)
        item.status = "answered"
        talk.log.append(Item("assistant", f"{talk.answers}: {item.text}"))

    def answer_all(self, key: tuple[str, str]) -> None:
        """What waits is answered, unless the bot is silent there."""
        if key in self.talks and not self.off_by(key):
            for item in self.talks[key].with_status("waiting"):
                self.answer(key, item)

    def follow(self, key: tuple[str, str], seen: list[Message]) -> None:
        """Take reminders over that were brought, and answered, in an order that is the instance's own."""
        talk = self.talks[key]
        for message in seen[len(talk.log) :]:
            if message.role == "event":
                at, _ = talk.reminders.pop(name_of(message))
                assert at <= self.now
                talk.log.append(Item("event", f"ring {name_of(message)}", message.id, "waiting"))
            elif waiting := talk.with_status("waiting"):
                self.answer(key, waiting[0])


def name_of(message: Message) -> str:
    """The reminder that a message brings."""
    assert isinstance(message.content, list)
    return str(message.content[0]["name"])


class Instance:
    """A process without work in the background; one that has died is followed by another."""

    def __init__(self, url: str, model: Model, cache: int) -> None:
        self._url, self._model, self._cache = url, model, cache

    async def start(self) -> None:
        """Open the store."""
        model = self._model
        self.driver = Dying(driver_for(self._url))
        options: dict[str, Any] = {**FAST, "attempts": 1, "poll": 1e-6, "background": False, "forget_after": FORGET_S}
        self.keep: Chatkeep[Any] = Chatkeep(
            wrapped(self.driver), clock=lambda: model.now, cache_entries=self._cache, **options
        )

        @self.keep.on_message
        async def bot(turn: Turn[Any]) -> str:
            text = f"ring {turn.reminder}" if turn.reminder else turn.text
            if text == "poison" and not model.mended:
                raise ValueError("I cannot digest this.")
            turn.state["answers"] = turn.state.get("answers", 0) + 1
            match text.split():
                case ["remind", name, after, how]:
                    turn.remind(float(after), name, keep=how == "keep")
                case ["cancel", name]:
                    turn.cancel(name)
            return f"{turn.state['answers']}: {text}"

        await self.keep.open()

    async def restart(self) -> None:
        """Be followed by another one."""
        await self.keep.close()
        await self.start()

    async def do(self, act: Callable[[Any], Awaitable[Any]], *, dies: bool) -> Any:
        """Run *act*; None if this process died on the way to its end."""
        chance = self._model.chance
        self.driver.left, self.driver.after = chance.randint(1, 6) if dies else 0, chance.random() < 0.5
        try:
            found = await act(self.keep) or True
        except HandlerFailed:
            found = True
        except ChatkeepError:
            assert self.driver.dead
        self.driver.left = 0
        if not self.driver.dead:
            return found
        await self.restart()
        return None


class History:
    """One history: acts on some instance, which another one does again where that died, and the same acts on the model."""

    def __init__(self, url: str, seed: int) -> None:
        self.model = Model(seed)
        self.instances = [Instance(url, self.model, cache) for cache in (0, 1, 10_000)]
        self.said = 0

    async def ask(self, act: Callable[[Any], Awaitable[Any]]) -> Any:
        """Have *act* done; every sixth instance dies of it."""
        chance = self.model.chance
        found = await chance.choice(self.instances).do(act, dies=chance.random() < 0.16)
        return await chance.choice(self.instances).do(act, dies=False) if found is None else found

    async def step(self) -> None:
        """Let some time pass, and do one thing."""
        model, chance = self.model, self.model.chance
        model.now += chance.choice([0.01, 1.0, 30.0, 200.0, 900.0, 2000.0])
        act, key = chance.choice(ACTS), chance.choice(KEYS)
        talk = model.talks.get(key)
        match act.split():
            case ["say"] | ["receive"] | ["operator"]:
                await self._say(key, act)
            case ["pause" | "resume"]:
                await self._switch(key, key[0], pauses=act == "pause")
            case [verb, scope]:
                await self._switch(None, None if scope == "all" else key[0], pauses=verb == "pause")
            case ["tend"]:
                await self._tend()
            case ["erase"]:
                await self.ask(lambda keep: keep.tenant(key[0]).erase(key[1]))
                model.talks.pop(key, None)
            case ["mend"]:
                model.mended = chance.random() < 0.5
            case ["restart"]:
                await chance.choice(self.instances).restart()
            case _ if talk is not None:
                await self._touch(key, talk, act)

    async def _say(self, key: tuple[str, str], act: str) -> None:
        model, (tenant, name) = self.model, key
        self.said += 1
        text, id = model.chance.choice(TEXTS), f"m{self.said}"
        if act == "operator":
            await self.ask(lambda keep: keep.tenant(tenant).accept(name, "I look", id=id, role="operator"))
            model.say(key, Item("operator", "I look", id))
            return
        verb = "receive" if act == "receive" else "accept"
        receipt = await self.ask(lambda keep: getattr(keep.tenant(tenant), verb)(name, text, id=id))
        item = Item("user", text, id, "waiting")
        talk = model.say(key, item)
        if act == "receive":
            begun = len(talk.log)
            model.answer_all(key)
            if isinstance(receipt, Receipt) and receipt.status == "answered":
                assert [talk.log[-1].text] == [reply.text for reply in receipt.replies]
                assert len(talk.log) > begun
            for instance in self.instances:
                await rests(instance.keep)
            model.follow(key, await talk_of(self.instances[0].keep, key))

    async def _switch(self, key: tuple[str, str] | None, tenant: str | None, *, pauses: bool) -> None:
        """Pause or resume a conversation, a tenant, or, where *tenant* is None, all."""
        model, unread = self.model, self.model.chance.choice(["answer", "skip"])
        verb, options = ("pause", {}) if pauses else ("resume", {"unread": unread})

        async def switch(keep: Chatkeep[Any]) -> None:
            if tenant is None:
                await getattr(keep, f"{verb}_all")(**options)
            else:
                await getattr(keep.tenant(tenant), verb)(*([key[1]] if key else []), **options)

        if key is not None and not pauses and key not in model.talks:
            return
        await self.ask(switch)
        if key is None:
            model.off = model.off | {tenant} if pauses else model.off - {tenant}
        else:
            talk = model.talks.setdefault(key, Talk(model.now))
            talk.touched = talk.touched if talk.paused == pauses else model.now
            talk.paused = pauses
        if not pauses and unread == "skip":
            for other, talk in model.talks.items():
                is_meant = other == key or (key is None and tenant in (None, other[0]))
                if is_meant and not model.off_by(other):
                    talk.skip(model.now)

    async def _tend(self) -> None:
        model = self.model
        await self.ask(lambda keep: keep.tend())
        first = self.instances[0].keep
        for key in KEYS:
            model.answer_all(key)
        for key in list(model.talks):
            if not model.off_by(key) and any(at <= model.now for at, _ in model.talks[key].reminders.values()):
                model.follow(key, await talk_of(first, key))
            talk = model.talks[key]
            if talk.may_be_forgotten() and model.now - talk.touched >= FORGET_S:
                del model.talks[key]
            assert model.off_by(key) or not [at for at, _ in talk.reminders.values() if at <= model.now]

    async def _touch(self, key: tuple[str, str], talk: Talk, act: str) -> None:
        """Do something to a conversation that is there."""
        (tenant, name), now, token = key, self.model.now, f"a{self.model.chance.random()}"
        wanted = {"repeat": lambda one: one.role == "user", "redact": lambda one: not one.redacted}
        wanted |= {"withdraw": lambda one: one.status == "waiting" and one.role in ASKING}
        wanted |= {"replay": lambda one: one.status == "dead" and not [o for o in talk.log if o.replays is one]}
        wanted |= {"dismiss": lambda one: one.status == "dead"}
        found = [item for item in talk.log if act in wanted and wanted[act](item)]
        item = self.model.chance.choice(found) if found else Item("", "")
        number = item.number
        if act in wanted and not found:
            return
        match act:
            case "repeat":
                if item.id.startswith("m"):
                    told = await self.ask(lambda keep: keep.tenant(tenant).accept(name, item.text, id=item.id))
                    assert told.duplicate
                return
            case "change":

                def bump(state: dict[str, Any]) -> None:
                    state["changes"] = state.get("changes", 0) + 1

                await self.ask(lambda keep: keep.tenant(tenant).change(name, bump, id=token))
                talk.changes += 1
            case "clear":
                await self.ask(lambda keep: keep.tenant(tenant).clear(name, id=token))
                talk.answers = talk.changes = 0
            case "replay":
                told = await self.ask(lambda keep: keep.tenant(tenant).replay(name, number))
                talk.log.append(Item("user", item.text, told.id, "waiting", replays=item))
            case "dismiss":
                await self.ask(lambda keep: keep.tenant(tenant).dismiss(name, number))
                item.status = "closed"
            case _:
                await self.ask(lambda keep: getattr(keep.tenant(tenant), act)(name, number))
                for one in copies_of(talk, item) if act == "redact" else [item]:
                    one.redacted = True
                    one.status = {"waiting": "passed", "dead": "closed"}.get(one.status, one.status)
        talk.touched = now

    async def compare(self) -> None:
        """Some instance shows what the model says, of every conversation; the others have not heard of everything."""
        keep = self.model.chance.choice(self.instances).keep
        for key in KEYS:
            talk, found = self.model.talks.get(key), await keep.tenant(key[0]).conversation(key[1])

            assert (talk is None) == (found is None)
            if talk is None or found is None:
                continue
            log = await talk_of(keep, key)
            for item, message in zip_longest(talk.log, log):
                assert shown(item) == told(message)
                item.number = message.number
            state = {"answers": talk.answers, "changes": talk.changes}

            assert {name: count for name, count in state.items() if count} == found.state
            assert [item.number for item in talk.with_status("waiting")] == [one.number for one in found.waiting]
            assert sorted(item.number for item in talk.with_status("dead")) == sorted(found.dead)
            assert self.model.off_by(key) == found.off_by


def copies_of(talk: Talk, item: Item) -> list[Item]:
    """A message, what it replays, and what replays it."""
    found = [item]
    for one in found:
        found += [other for other in talk.log if other not in found and (other.replays is one or one.replays is other)]
    return found


def shown(item: Item | None) -> tuple[str, str, bool] | None:
    """What the model has of a message."""
    return None if item is None else (item.role, "" if item.redacted else item.text, item.redacted)


def told(message: Message | None) -> tuple[str, str, bool] | None:
    """What the store has of it."""
    if message is None:
        return None
    rings = message.role == "event" and not message.redacted
    return message.role, f"ring {name_of(message)}" if rings else message.text, message.redacted


async def talk_of(keep: Chatkeep[Any], key: tuple[str, str]) -> list[Message]:
    """The log, without chatkeep's own notes."""
    return [message async for message in keep.tenant(key[0]).history(key[1]) if message.role != "system"]


async def rests(keep: Chatkeep[Any]) -> None:
    """Waits until nobody works in a process: what is due behind an answer may be done after it."""
    await until(lambda: not any(one.task and not one.task.done() for one in keep._engine.workers.by_key.values()))


@pytest.mark.parametrize("seed", range(HISTORIES))
async def test_any_instance_shows_what_the_promises_say(url: str, seed: int) -> None:
    """Of three instances, one without a cache, one that holds a single conversation; what one died in is done again by another."""
    history = History(url, seed)
    for instance in history.instances:
        await instance.start()
    try:
        for _ in range(STEPS):
            await history.step()
            await history.compare()
    finally:
        for instance in history.instances:
            await instance.keep.close()
