"""Old code beside new code on one store: nothing that the newer one has written is lost, and nobody waits for the older one."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pydantic
import pytest
from msgspec import Raw, structs

from chatkeep import Chatkeep, Corrupt, Misconfigured, Turn, Unsupported
from chatkeep.conversation.codec import _crc
from chatkeep.drivers import driver_for
from chatkeep.drivers.base import AT_ONCE, Driver, Key, Read, Row, Write
from chatkeep.engine.hooks import handler_for

from ..support.clock import Clock
from ..support.waiting import nothing_happens_for, until


@dataclass
class Order:
    """The state of the older version."""

    cart: list[str] = field(default_factory=list)
    note: str = ""


@dataclass
class NewOrder(Order):
    """That of the newer one."""

    address: str = ""


class Packed(msgspec.Struct):
    """The state of the older version."""

    cart: list[str] = []
    note: str = ""


class NewPacked(Packed):
    """That of the newer one."""

    address: str = ""


class Model(pydantic.BaseModel):
    """The state of the older version."""

    cart: list[str] = []
    note: str = ""


class NewModel(Model):
    """That of the newer one."""

    address: str = ""


KINDS: list[tuple[Any, Any]] = [(Order, NewOrder), (Packed, NewPacked), (Model, NewModel)]


async def shop(turn: Turn[Any]) -> str:
    """Notes an address where the state has one, and what is said; "again" begins anew, "later" sets a reminder."""
    if turn.text.startswith("to "):
        turn.state.address = turn.text[3:]
    elif turn.text == "again":
        turn.state = type(turn.state)()
    elif turn.text == "later":
        turn.remind("1h", "later")
    else:
        turn.state.cart.append(turn.reminder or turn.text)
    return "ok"


@pytest.mark.parametrize(("kind", "newer"), KINDS)
@pytest.mark.parametrize("quick", ["0ms", "50ms"])
async def test_what_newer_code_has_added_to_the_state_survives_older_code(
    opened: Any, kind: Any, newer: Any, quick: str
) -> None:
    """Whatever the older code does: it answers on both ways, changes, clears a slot, fires a reminder, drops old log."""
    clock = Clock()
    new = await opened(shop, state=newer, clock=clock)
    await new.receive("ada", "to 5 High Street")
    await new.close()
    old = await opened(shop, state=kind, clock=clock, retention="2h", quick=quick)
    await old.receive("ada", "tea")
    await old.receive("ada", "later")

    def noted(state: Any) -> None:
        state.note = "soon"

    await old.change("ada", noted)
    clock.now += 3700

    async def reminded() -> bool:
        return "later" in (await old.conversation("ada")).state.cart

    await until(reminded)
    await old.clear("ada", "note")
    await old.pause("ada")
    await old.resume("ada")
    clock.now += 7300

    async def dropped() -> bool:
        return [] == (await old.conversation("ada")).messages

    await until(dropped)
    found = await (await opened(shop, state=newer, clock=clock)).conversation("ada")

    assert newer(cart=["tea", "later"], note="", address="5 High Street") == found.state


@pytest.mark.parametrize(("kind", "newer"), KINDS)
async def test_what_is_cleared_is_cleared_with_what_only_newer_code_knows(opened: Any, kind: Any, newer: Any) -> None:
    """Cleared from outside, by a handler that begins anew, and by the end of the session."""
    clock = Clock()
    new = await opened(shop, state=newer, clock=clock)
    old = await opened(shop, state=kind, clock=clock)
    brief = await opened(shop, state=kind, clock=clock, session_ttl="1h")
    for name in ("ada", "bob", "cyd"):
        await new.receive(name, f"to {name}")
        await old.receive(name, "tea")
    await old.clear("ada")
    await old.receive("bob", "again")
    clock.now += 3700
    await brief.receive("cyd", "cake")

    assert ["", "", ""] == [(await new.conversation(name)).state.address for name in ("ada", "bob", "cyd")]


async def seats(turn: Turn[Any]) -> str:
    """Counts."""
    turn.state["n"] = turn.state.get("n", 0) + 1
    return f"{turn.state['n']}"


SHAPES = {"old": {}, "new": {"schema": 2, "upgrades": {1: lambda plain: plain}}}


async def test_what_the_older_version_sees_first_is_answered_by_the_newer_one(opened: Any) -> None:
    """Within two polls, for all that come at once; whichever poll: the older instance neither keeps it nor puts it off."""
    new = await opened(seats, poll="300ms", **SHAPES["new"])
    old = await opened(seats, poll="300ms")
    older = await opened(seats, poll="300ms")
    names = [f"c{number}" for number in range(8)]
    for name in names:
        await new.receive(name, "one")
    for _ in range(2):
        for name, by in zip(names, [old, older] * 4, strict=True):
            await by.accept(name, "two")

        async def unread() -> int:
            return sum([(await new.conversation(name)).unread for name in names])

        async def answered() -> bool:
            return not await unread()

        await until(answered, within=2 * 0.3 * 1.2 + 0.4)
    with pytest.raises(Unsupported, match="schema 2"):
        await old.receive("c0", "three", id="m")
    await until(answered, within=2 * 0.3 * 1.2 + 0.4)

    assert "4" == (await new.receive("c0", "three", id="m")).replies[0].text
    assert "5" == (await new.receive("c0", "four")).replies[0].text


def split(plain: dict[str, Any]) -> dict[str, Any]:
    """To schema 2: a name becomes two."""
    first, _, last = plain.pop("name", "").partition(" ")
    return plain | {"first": first, "last": last}


def joined(plain: dict[str, Any]) -> dict[str, Any]:
    """Back to schema 1; what schema 2 has beside that stays."""
    return plain | {"name": f"{plain['first']} {plain['last']}".strip()}


@dataclass
class Named:
    """The state of schema 1."""

    name: str = ""
    n: int = 0


@dataclass
class Split:
    """The state of schema 2."""

    first: str = ""
    last: str = ""
    n: int = 0
    language: str = ""


@pytest.mark.parametrize("typed", [True, False], ids=["typed", "dict"])
async def test_a_release_reads_the_next_schema_while_it_writes_its_own(opened: Any, typed: bool) -> None:
    """Both answer in one conversation, in turn and at once; nothing waits, nothing that only the newer one knows is lost; and a
    release that is taken back leaves no conversation silent."""

    async def older(turn: Turn[Any]) -> str:
        state = turn.state if typed else Named(turn.state.get("name", ""), turn.state.get("n", 0))
        state.n += 1
        if not typed:
            turn.state["n"] = state.n
        return f"1 {state.name} {state.n}"

    async def newer(turn: Turn[Any]) -> str:
        state = turn.state if typed else Split(turn.state["first"], turn.state["last"], turn.state["n"])
        state.n += 1
        if not typed:
            turn.state["n"] = state.n
        return f"2 {state.first}|{state.last} {state.n}"

    one: dict[str, Any] = {"state": Named} if typed else {}
    two: dict[str, Any] = {"state": Split} if typed else {}
    old = await opened(older, downgrades={2: joined}, **one)
    new = await opened(newer, schema=2, upgrades={1: split}, **two)

    def name(state: Any) -> None:
        if typed:
            state.name = "Ada Lovelace"
        else:
            state["name"] = "Ada Lovelace"

    def speak(state: Any) -> None:
        if typed:
            state.language = "fr"
        else:
            state["language"] = "fr"

    await old.change("ada", name)
    said = [(await keep.receive("ada", "hi")).replies[0].text for keep in (old, new)]
    await new.change("ada", speak)
    said += [(await keep.receive("ada", "hi")).replies[0].text for keep in (old, old, new, old)]
    for keep in (old, new) * 5:
        await keep.accept("ada", "and")

    async def answered() -> bool:
        return not (await new.conversation("ada")).unread

    await until(answered)
    state = (await new.conversation("ada")).state

    assert said == [
        f"{which} {'Ada Lovelace' if which == 1 else 'Ada|Lovelace'} {n}"
        for n, which in enumerate([1, 2, 1, 1, 2, 1], 1)
    ]
    assert (16, "fr") == ((state.n, state.language) if typed else (state["n"], state["language"]))
    await new.close()
    assert "1 Ada Lovelace 17" == (await old.receive("ada", "still here?")).replies[0].text
    assert "" == old.trouble


async def test_a_schema_that_no_downgrade_leads_from_waits_for_newer_code(opened: Any) -> None:
    """As without any; and steps that are missing, or lead nowhere, are refused at construction."""
    newest = await opened(seats, schema=3, upgrades={1: dict, 2: dict})
    await newest.receive("ada", "one")
    old = await opened(seats, downgrades={2: dict})
    with pytest.raises(Unsupported, match="schema 3, this code knows up to 2"):
        await old.conversation("ada")
    broken = await opened(seats, downgrades={2: dict, 3: lambda plain: plain["nothing"]})
    with pytest.raises(Unsupported, match=r"downgrades\[3\] raised KeyError"):
        await broken.conversation("ada")
    for downgrades in ({3: dict}, {1: dict}):
        with pytest.raises(Misconfigured, match="downgrades"):
            Chatkeep("memory://", downgrades=downgrades)


async def row_of(url: str, name: str) -> Row:
    """A conversation's row as it stands in the store."""
    async with connected(url) as driver:
        found = await driver.read(Read(Key("", name), tail=0))
        assert found is not None
        return found[0]


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Driver]:
    """The driver alone."""
    driver = driver_for(url)
    await driver.open()
    try:
        yield driver
    finally:
        await driver.close()


async def test_who_cannot_read_a_conversation_writes_nothing_to_it(opened: Any, url: str) -> None:
    """After a roll back, say: it stays due as it was, two older instances do not wake each other, and say what is wrong."""
    new = await opened(seats, **SHAPES["new"])
    await new.receive("ada", "one")
    await new.close()
    await (await opened(None)).accept("ada", "two")
    keeps = [await opened(seats), await opened(seats)]
    for keep in keeps:
        await until(lambda keep=keep: 1 == keep.statistics.engine.unreadable)
    await nothing_happens_for(0.1)
    before = await row_of(url, "ada")
    await nothing_happens_for(0.3)

    assert before == await row_of(url, "ada")
    assert (AT_ONCE, None) == (before.due_at, before.lease)
    for keep in keeps:
        assert re.match(r"1 conversation waits that this version cannot read; .*ada: .*schema 2", keep.trouble)

    for keep in keeps:
        await keep.accept("ada", "three")
    await nothing_happens_for(0.2)
    after = await row_of(url, "ada")

    assert (AT_ONCE, None, before.head + 2) == (after.due_at, after.lease, after.head)

    await (await opened(seats, **SHAPES["new"])).receive("ada", "four")
    await keeps[0].clear("ada")

    assert "1" == (await keeps[0].receive("ada", "five")).replies[0].text
    assert "" == keeps[0].trouble


async def test_a_record_that_only_a_newer_version_reads_is_left_to_it(opened: Any, url: str) -> None:
    """What comes meanwhile is taken in, and due for the newer version at once."""
    keep = await opened(seats)
    await keep.receive("ada", "one")
    before = await row_of(url, "ada")
    members = b'"format":2,"cursor":"of another type",' + before.body.split(b'"format":1,')[1]
    body = b'{"crc":"%s",%s' % (_crc(before.key, members), members)
    async with connected(url) as driver:
        await driver.write(Write(structs.replace(before, revision="newer", body=body), replaces=before.revision))
    for number in range(2):
        receipt = await keep.accept("ada", "two", id="m2")

        assert ("accepted", bool(number), "m2") == (receipt.status, receipt.duplicate, receipt.id)
    for _ in range(2):
        with pytest.raises(Unsupported, match="format 2"):
            await keep.receive("ada", "three", id="m3")
    await nothing_happens_for(0.2)
    after = await row_of(url, "ada")

    assert (body, before.head + 2) == (after.body, after.head)
    assert (AT_ONCE, None) == (after.due_at, after.lease)
    assert 1 == keep.statistics.engine.unreadable


@dataclass
class Strict:
    """A state that takes no other values than it declares."""

    n: int = 0


async def test_a_state_that_cannot_be_read_at_all_is_looked_at_again(
    opened: Any, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What keeps it from being read may end, without a write from anybody."""
    plain = await opened(seats)
    await plain.change("ada", lambda state: state.update(n="many"))
    await plain.close()
    monkeypatch.setattr("chatkeep.engine.left_alone.AGAIN_S", 0.1)
    keep = await opened(seats, state=Strict)
    with pytest.raises(Corrupt):
        await keep.receive("ada", "one")
    decode = keep._engine.shared.states.shape.decode
    row = await row_of(url, "ada")
    await nothing_happens_for(0.3)

    assert row == await row_of(url, "ada")

    async def answered() -> bool:
        return not (await keep.conversation("ada")).unread

    async def counting(turn: Turn[Strict]) -> str:
        turn.state.n += 1
        return "ok"

    keep._engine.turns.handler = handler_for(counting, keep._engine.runner.call_in_thread)
    shape = keep._engine.shared.states.shape
    monkeypatch.setattr(shape, "decode", lambda raw: decode(raw if b"many" not in bytes(raw) else Raw(b'{"n":3}')))
    await until(answered)

    assert 4 == (await keep.conversation("ada")).state.n
