"""Histories of one user's devices: what they say, change and claim, sent late, by clocks that disagree, through processes that die in the
middle of it. Nothing is lost without a note, and all come to the same."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from chatkeep import Chatkeep
from chatkeep.app import core_of
from chatkeep.drivers import driver_for
from chatkeep.errors import ChatkeepError
from chatkeep.testing.crash import wrapped

from ..support.dying import Dying
from ..support.people import ids
from ..support.soaking import SOAK
from ..support.stores import FAST

HISTORIES = 4 * SOAK
STEPS = 40
FIELDS = ("name", "size", "note")


class Server:
    """The process that a device asks, with a clock of its own; one that has died is followed by another."""

    def __init__(self, url: str, world: World) -> None:
        self.url, self.world = url, world
        self.skew = world.chance.uniform(-10, 10)

    async def start(self) -> None:
        """Open the store."""
        self.driver = Dying(driver_for(self.url))
        self.keep: Chatkeep[Any] = Chatkeep(
            wrapped(self.driver), **FAST | {"poll": "1h"}, clock=lambda: self.world.now + self.skew
        )
        await self.keep.open()

    async def do(self, act: Callable[[Any], Awaitable[None]], *, dies: bool) -> bool:
        """Run *act*, in which this process dies if it *dies* and the act is long enough; tells whether it came to its end."""
        self.driver.left, self.driver.after = (
            (self.world.chance.randint(1, 8) if dies else 0),
            self.world.chance.random() < 0.5,
        )
        try:
            await act(self.keep.tenant(self.world.tenant))
        except ChatkeepError:
            assert self.driver.dead
        ended = not self.driver.dead
        self.driver.left = 0
        if self.driver.dead:
            await self.keep.close()
            await self.start()
        return ended


class World:
    """What has really been written, and which values somebody has replaced who knew them."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.tenant, self.now = f"t{seed}", 1_800_000_000.0
        self.said: list[str] = []
        self.written: set[str] = set()
        self.replaced: set[str] = set()
        self.owners = {"shared": "ada"}

    def fresh(self, kind: str) -> str:
        """A value that is there once."""
        return f"{kind}{len(self.said) + len(self.written)}"


class Device:
    """Keeps what it has seen, and what it has not sent; that survives the death of a server."""

    def __init__(self, number: int, server: Server, world: World) -> None:
        self.name, self.server, self.world = f"d{number}", server, world
        self.skew = world.chance.uniform(-7200, 7200)
        self.guest = f"guest:{number}"
        self.form: dict[str, str] = {}
        self.title = ""
        self.base: dict[str, str] | None = None
        self.mine: dict[str, str] = {}
        self.change, self.titled = "", ("", "")
        self.unsaid: list[dict[str, str]] = []
        self.cursor: str | None = None
        self.list: dict[str, int] = {}

    def at(self) -> float:
        """The time on this device."""
        return self.world.now + self.skew

    def edit(self) -> None:
        """Change a field of the slot; what is changed again before it is sent was known."""
        if self.base is None:
            self.base, self.mine, self.change = self.form, dict(self.form), self.world.fresh("change")
        field, value = self.world.chance.choice(FIELDS), self.world.fresh("v")
        self.world.written.add(value)
        if field in self.mine:
            self.world.replaced.add(self.mine[field])
        self.mine[field] = value

    def rename(self) -> None:
        """Give the conversation another title; one that was not sent is replaced."""
        title = self.world.fresh("title")
        self.world.written.add(title)
        self.world.replaced |= {self.titled[0] or self.title}
        self.titled = title, self.titled[1] if self.titled[0] else self.title

    def say(self) -> None:
        """Write a message."""
        message = self.world.fresh("m")
        self.world.said.append(message)
        self.unsaid.append({"id": message, "content": message})

    async def send(self, keep: Any) -> None:
        """Hand over what was not sent, in steps that may each be done twice, and forget it when it was taken."""
        ada = keep.user("ada")
        if self.unsaid:
            await ada.save("shared", messages=self.unsaid, by=self.name)
            self.unsaid = []
        if self.titled[0]:
            title, base = self.titled
            saved = await ada.rename("shared", title, base=base, at=self.at(), by=self.name)
            self.titled, self.title = ("", ""), saved.title
        if self.base is not None:
            merged = await keep.merge(
                "shared", "form", base=self.base, value=self.mine, at=self.at(), by=self.name, id=self.change
            )
            self.base, self.form = None, dict(merged.value)

    async def sync(self, keep: Any) -> None:
        """Send, ask what has changed, and look at it."""
        await self.send(keep)
        while True:
            found = await keep.user("ada").changes(self.cursor, limit=2)
            if found.reset:
                self.list = {}
            self.list |= {one.id: one.version for one in found.conversations}
            self.cursor = found.cursor
            if not found.more and found.total == len(self.list):
                break
            if not found.more:
                self.cursor, self.list = None, {}
        there = await keep.conversation("shared")
        self.form = dict(there.state.get("form", {}))
        summary = await keep.user("ada").conversation("shared")
        self.title = summary.title

    async def begin(self, keep: Any) -> None:
        """Write as a guest, before signing in."""
        await keep.save(f"of {self.guest}", owner=self.guest, messages=[{"id": "g", "content": "hi"}])
        self.world.owners[f"of {self.guest}"] = self.guest

    async def claim(self, keep: Any) -> None:
        """Sign in."""
        await keep.user("ada").claim(self.guest)


async def check(world: World, devices: list[Device], keep: Any) -> None:
    """Everything that was ever written is there, known to who replaced it, or noted as lost; lists agree."""
    ada = keep.user("ada")
    listed = set(await ids(ada))
    for device in devices:
        guests = set(await ids(keep.user(device.guest)))
        name = f"of {device.guest}"

        assert not guests or guests == {name}
        assert (name in world.owners) == (name in listed | guests)
        assert not (listed & guests)
        assert listed == device.list.keys()
        assert {id: (await ada.conversation(id)).version for id in listed} == device.list
    log = [message.id async for message in keep.history("shared") if message.role == "user"]
    there = await keep.conversation("shared")
    title = (await ada.conversation("shared")).title
    lost = {
        value
        for loss in await keep.losses("shared", limit=10_000)
        for value in (loss.value.values() if isinstance(loss.value, dict) else [loss.value])
    }

    assert sorted(world.said) == sorted(log)
    assert set() == world.written - world.replaced - lost - {title, *there.state.get("form", {}).values()}


@pytest.mark.parametrize("seed", range(HISTORIES))
async def test_nothing_is_lost_without_a_note(url: str, seed: int) -> None:
    """Up to five devices, and a death in every fourth act: after it, what was sent in one act is there whole or not at all, and the
    device sends it again."""
    world = World(seed)
    servers = [Server(url, world) for _ in range(2)]
    for server in servers:
        await server.start()
    devices = [Device(n, world.chance.choice(servers), world) for n in range(world.chance.randint(2, 5))]
    await servers[0].keep.tenant(world.tenant).user("ada").create("shared", title="")
    for _ in range(STEPS):
        world.now += world.chance.choice([0.001, 1.0, 45.0])
        device, dies = world.chance.choice(devices), world.chance.random() < 0.25
        match world.chance.choice(["edit", "edit", "say", "say", "rename", "sync", "sync", "begin", "claim"]):
            case "edit":
                device.edit()
            case "say":
                device.say()
            case "rename":
                device.rename()
            case "sync":
                await device.server.do(device.sync, dies=dies)
            case "begin":
                if f"of {device.guest}" not in world.owners and not await device.server.do(device.begin, dies=dies):
                    await device.server.do(device.begin, dies=False)
            case "claim":
                await device.server.do(device.claim, dies=dies)
    world.now += 120
    for device in devices * 2:
        assert await device.server.do(device.sync, dies=False)
    await check(world, devices, servers[0].keep.tenant(world.tenant))
    assert [] == [f for f in await core_of(servers[0].keep).driver.examine() if f.level == "fail"]
    for server in servers:
        await server.keep.close()
