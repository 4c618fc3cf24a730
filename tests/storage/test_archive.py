"""Exporting and importing: identical after a round trip, and what is wrong is told by its line."""

from __future__ import annotations

import asyncio
import gc
import json
import time
from collections.abc import Sequence
from contextlib import aclosing, closing
from typing import Any

import pytest
from msgspec import structs

from chatkeep import Chatkeep, Tenant, Turn
from chatkeep.app import core_of
from chatkeep.auth.credentials import create_key
from chatkeep.drivers.base import Append, Driver, Key, Read, Write
from chatkeep.errors import BadMessage, ChatkeepError, Conflict
from chatkeep.people.claims import Claim
from chatkeep.storage.archive import Exported, Imported, export_lines, import_lines, read_blocks
from chatkeep.storage.copying import LogWriter
from chatkeep.storage.records import CLAIMS, Records
from chatkeep.testing.crash import Wrapped, wrapped

from ..support.moves import LONG, counting_bot, filled, held, said
from ..support.stores import FAST, STORES
from ..support.waiting import until

HEADER = '{"format":"chatkeep","version":1}'
SAID = '{"role":"user","at":1700000000000,"content":"hi"}'


async def exported(driver: Driver, **which: Any) -> list[bytes]:
    """The lines of an export."""
    return [line async for line in export_lines(driver, Exported(), **which)]


async def used(url: str) -> None:
    """Has bots and people use a store: turns, a redaction, a pause, a reminder's note, an owner, parts, a long log."""
    async with counting_bot(Chatkeep(url, **FAST)) as keep:
        await asyncio.gather(*[keep.receive(f"c{n}", f"text {n} 🍕 ünï", id=f"m{n}") for n in range(20)])
        for n in range(40):
            await keep.receive(
                "talk", [{"type": "text", "text": f"{n}"}], id=f"t{n}", metadata={"n": 1.0, "big": 2**50}
            )
        await keep.redact("talk", 5)
        await keep.pause("c3")
        await keep.accept("c3", "waits", id="w")
        await keep.create("owned", owner="ann")
        await keep.tenant("salon/7").receive("x\u2028y", "hi")


@pytest.mark.parametrize("target", STORES)
@pytest.mark.parametrize("source", ["sqlite", "postgresql"])
async def test_an_export_is_identical_after_a_round_trip(source: str, target: str, fresh: Any) -> None:
    """To the byte, what people have written as well as what no version of chatkeep can read; importing it again does nothing."""
    (url, ours), (there, theirs) = await fresh(source), await fresh(target)
    await filled(ours)
    await used(url)
    lines = await exported(ours)
    first = await import_lines(theirs, lines)
    again = await import_lines(theirs, lines)

    assert lines == await exported(theirs)
    assert (first.new, 0) == (again.already, again.new)
    before = {
        key: (structs.replace(row, lease=None, leased_until=0.0), log) for key, (row, log) in (await held(ours)).items()
    }
    assert before == await held(theirs)
    async with counting_bot(Chatkeep(there, **FAST)) as keep:
        assert (await keep.receive("c1", "text 1 🍕 ünï", id="m1")).duplicate
        await keep.resume("c3")
        assert ["re waits"] == [reply.text for reply in (await keep.receive("c3", "waits", id="w")).replies]


async def test_what_rested_in_a_paused_tenant_is_looked_at_where_it_comes_to(fresh: Any) -> None:
    """The pause of a tenant is not among its conversations; without it nobody would ever find what waits in them."""
    (url, ours), (there, theirs) = await fresh("sqlite"), await fresh("sqlite")
    async with reminding_bot(Chatkeep(url, **FAST)) as keep:
        salon = keep.tenant("salon")
        await salon.receive("ada", "hi")
        await salon.pause()
        await salon.pause("ben")
        for name in ("ada", "ben"):
            await salon.accept(name, "anybody?")
        await until(lambda: rests(salon, "ada", "ben"))
    await import_lines(theirs, await exported(ours, tenant="salon"))

    async with reminding_bot(Chatkeep(there, **FAST)) as keep:
        salon = keep.tenant("salon")
        await until(lambda: said_by_bot(salon, "ada", "re anybody?"))
        ben = await salon.conversation("ben")

    assert ben is not None
    assert (1, ["conversation"], None) == (ben.unread, ben.off_by, ben.due_at)


async def test_what_a_person_has_answered_in_a_paused_tenant_is_looked_at_where_it_comes_to(fresh: Any) -> None:
    """It is due when it is forgotten, which is no time for whoever has no pause."""
    (url, ours), (there, theirs) = await fresh("sqlite"), await fresh("sqlite")
    async with echoing_bot(Chatkeep(url, forget_after="60d", **FAST)) as keep:
        salon = keep.tenant("salon")
        await salon.pause()
        await salon.accept("ada", "anybody?")
        await salon.accept("ada", "Kim here.", role="operator")

        async def rested() -> bool:
            found = await salon.conversation("ada")
            return found is not None and found.due_at is not None and found.due_at > found.updated_at

        await until(rested)
    await import_lines(theirs, await exported(ours, tenant="salon"))

    async with echoing_bot(Chatkeep(there, **FAST)) as keep:
        await until(lambda: said_by_bot(keep.tenant("salon"), "ada", "re anybody?"))


async def test_an_export_of_a_tenant_has_what_its_users_said_as_guests(fresh: Any) -> None:
    """In the list of the user that has claimed the guest, also where nothing was given its new owner yet; no credential is in it."""
    (url, ours), (there, theirs) = await fresh("sqlite"), await fresh("sqlite")
    async with echoing_bot(Chatkeep(url, **FAST)) as keep:
        salon = keep.tenant("salon")
        await salon.receive("trip", "hello", owner="guest:1")
        await salon.user("ada").claim("guest:1")
        await keep.user("eve").claim("guest:2")
        await create_key(keep, "salon")
        before = [one.id async for one in salon.user("ada").conversations()]
    lines = await exported(ours, tenant="salon")
    await import_lines(theirs, lines)
    async with Chatkeep(there, **FAST) as keep:
        after = [one.id async for one in keep.tenant("salon").user("ada").conversations()]

    assert ["trip"] == before == after
    assert {"salon", "~people:salon"} == {json.loads(line)["tenant"] for line in lines if b'"conversation"' in line}


async def test_an_export_of_one_conversation_has_who_its_owner_has_become(fresh: Any) -> None:
    """Along the whole way, and nobody else's: the list of who owns it now shows it where it is imported."""
    (url, ours), (there, theirs) = await fresh("sqlite"), await fresh("sqlite")
    async with echoing_bot(Chatkeep(url, **FAST)) as keep:
        salon = keep.tenant("salon")
        await salon.receive("trip", "hello", owner="guest:1")
        await salon.receive("else", "hello", owner="guest:2")
        await salon.user("ada").claim("guest:1")
        await salon.user("ada").claim("guest:2")
        await salon.user("eve").claim("ada")
    lines = await exported(ours, tenant="salon", conversation="trip")
    await import_lines(theirs, lines)
    async with Chatkeep(there, **FAST) as keep:
        listed = [one.id async for one in keep.tenant("salon").user("eve").conversations()]

    assert ["trip"] == listed
    assert {"trip", "guest:1", "ada"} == {
        line["conversation"] for line in map(json.loads, lines) if "conversation" in line
    }


async def test_an_export_of_a_conversation_whose_owners_became_each_other_ends(fresh: Any) -> None:
    """As two merges of the same moment leave it: each claim is there once."""
    url, ours = await fresh("sqlite")
    async with echoing_bot(Chatkeep(url, **FAST)) as keep:
        await keep.receive("trip", "hello", owner="ada")
        claims = Records(core_of(keep)._opened.store, CLAIMS, Claim, clock=time.time)
        for one, other in (("ada", "eve"), ("eve", "ada")):
            await claims.change(one, lambda _, other=other: Claim(moved_to=other, at=time.time()), owner=other)
    async with asyncio.timeout(30):
        lines = await exported(ours, conversation="trip")

    assert ["trip", "ada", "eve"] == [line["conversation"] for line in map(json.loads, lines) if "conversation" in line]


def echoing_bot(keep: Chatkeep) -> Chatkeep:
    """Gives *keep* a bot that says it again."""

    @keep.on_message
    async def bot(turn: Turn) -> str:
        return f"re {turn.text}"

    return keep


def reminding_bot(keep: Chatkeep) -> Chatkeep:
    """Gives *keep* a bot that wants to be reminded."""

    @keep.on_message
    async def bot(turn: Turn) -> str:
        turn.remind("1h", "later")
        return f"re {turn.text}"

    return keep


async def rests(tenant: Tenant, *names: str) -> bool:
    """Whether these conversations are due no more."""
    found = [await tenant.conversation(name) for name in names]
    return all(one is not None and one.due_at is None for one in found)


async def said_by_bot(tenant: Tenant, name: str, text: str) -> bool:
    """Whether the bot has said *text*."""
    return any([one.role == "assistant" and one.text == text async for one in tenant.history(name)])


async def test_what_is_exported(fresh: Any) -> None:
    """One conversation, a tenant's, or all with chatkeep's own records; each line is JSON that says what it is."""
    _, ours = await fresh("memory")
    await filled(ours)
    names = [json.loads(line).get("conversation") for line in await exported(ours, tenant="salon")]
    one = [json.loads(line) for line in await exported(ours, conversation="long")]

    assert {"ada", None} == set(names)
    assert ({"format": "chatkeep", "version": 1}, 423, 38, 460) == (
        one[0],
        len(one) - 3,
        one[1]["first"],
        one[1]["head"],
    )
    assert (True, 1, 423) == (one[-1]["end"], one[-1]["conversations"], one[-1]["entries"])
    assert '"tenant":"~access"' in b"".join(await exported(ours)).decode()


def read(lines: list[bytes]) -> None:
    """Reads a file and imports nothing."""
    for block in read_blocks(lines, Imported(), now=0.0):
        block.texts.close()


def of(*lines: str, end: tuple[int, int] | None = None) -> list[bytes]:
    """Lines of a file that somebody has written."""
    last = [] if end is None else [json.dumps({"end": True, "conversations": end[0], "entries": end[1]})]
    return [line.encode() + b"\n" for line in (*lines, *last)]


async def test_what_somebody_else_has_written_is_a_conversation(fresh: Any) -> None:
    """A name and what was said is enough; all of it counts as handled, and importing it again does nothing."""
    url, ours = await fresh("memory")
    lines = of(
        HEADER,
        '{"conversation": "ada", "tenant": "t"}',
        SAID,
        '{"role": "assistant", "at": 1700000001000, "content": "hello", "reply_to": 1}',
        '{"conversation":"empty"}',
        end=(2, 2),
    )
    assert 2 == (await import_lines(ours, lines)).new
    assert 2 == (await import_lines(ours, lines)).already
    async with counting_bot(Chatkeep(url, **FAST)) as keep:
        found = await keep.tenant("t").conversation("ada")
        assert found is not None
        assert (["hi", "hello"], 0) == ([message.text for message in found.messages], found.unread)
        assert (await keep.tenant("t").receive("ada", "more")).replies


DEEP = "[" * 5000 + "]" * 5000
WRONG: list[tuple[Sequence[str], str]] = [
    (["no json"], "line 1: this is no line of an export"),
    (["[1]"], "line 1: "),
    (['{"format":"other","version":1}'], "line 1: an export begins with"),
    (['{"format":"chatkeep","version":2}'], "line 1: version 2"),
    ([SAID], "line 1: an export begins with"),
    ([HEADER, SAID], "line 2: an entry that belongs to no conversation"),
    ([HEADER, HEADER], "line 2: a second header"),
    ([HEADER, '{"conversation":"a","colour":1}'], "line 2: .*colour"),
    ([HEADER, '{"conversation":""}', SAID], "line 2: .*empty"),
    ([HEADER, '{"conversation":"a\\u0000b"}'], "line 2: .*NUL"),
    ([HEADER, '{"conversation":"a","revision":"x\\u0000"}', '{"conversation":"b"}'], "line 3: .*revision"),
    ([HEADER, '{"conversation":"a","head":3}', SAID, '{"conversation":"b"}'], "line 4: a: 1 entries follow"),
    ([HEADER, '{"conversation":"a","first":0}', '{"conversation":"b"}'], "line 3: a: 0 entries"),
    ([HEADER, '{"conversation":"a"}', '{"role":"user","content":"x"}'], "line 3: a: entry 1 has no role"),
    ([HEADER, '{"conversation":"a"}', '{"number":2,' + SAID[1:]], "line 3: a: this entry is number 2"),
    ([HEADER, '{"conversation":"a"}', SAID.replace('"hi"', "7")], "line 3: a: entry 1 cannot be read"),
    ([HEADER, '{"conversation":"a"}', SAID.replace('"hi"', '"\\ud800"')], "line 3"),
    ([HEADER, '{"conversation":"a"}', SAID.replace('"hi"', '[{"a":' + DEEP + "}]")], "line 3"),
    ([HEADER, '{"conversation":"a"}', SAID.replace('"hi"', '[{"a":1' + "0" * 400 + "}]")], "line 3"),
    ([HEADER, '{"conversation":"a"}', SAID.replace("user", "nobody")], "line 3: .*nobody"),
    (
        [HEADER, '{"conversation":"a"}', '{"id":"x",' + SAID[1:], '{"id":"x",' + SAID[1:]],
        "line 4: a: the id 'x' is there twice",
    ),
    ([HEADER, '{"conversation":"a"}', '{"letter":"u","body":"%%"}'], "line 3: .*base64"),
    ([HEADER, '{"conversation":"a","record":5}', '{"conversation":"b"}'], "line 3: a: the record cannot be read"),
    (
        [HEADER, '{"conversation":"a","record":{"cursor":"x"}}', '{"conversation":"b"}'],
        "line 3: a: the record cannot be read",
    ),
    ([HEADER, '{"conversation":"a"}', SAID], "line 4: the export ends before its last line"),
    ([HEADER, '{"end":true,"conversations":1,"entries":0}'], "line 2: there were 0 conversations"),
    ([HEADER, '{"end":true,"conversations":0,"entries":0,"checksum":"x"}'], "line 2: the checksum does not fit"),
    ([HEADER, '{"end":true,"conversations":0,"entries":0}', SAID], "line 3: there is more"),
    ([], "line 1: the export ends"),
]


@pytest.mark.parametrize(("lines", "said"), WRONG, ids=[str(n) for n in range(len(WRONG))])
async def test_what_is_wrong_is_told_by_its_line(lines: Sequence[str], said: str, fresh: Any) -> None:
    """And nothing of that conversation is in the store."""
    _, ours = await fresh("memory")
    with pytest.raises(ChatkeepError, match=said):
        await import_lines(ours, of(*lines))

    assert {} == await held(ours)
    with pytest.raises(ChatkeepError, match=said):
        read(of(*lines))


async def test_an_import_tells_what_it_has_done_before_something_was_wrong(fresh: Any) -> None:
    """The same lines, mended, are imported again."""
    _, ours = await fresh("memory")
    lines = of(HEADER, *[text for n in range(200) for text in (f'{{"conversation":"c{n}"}}', SAID)], end=(200, 200))
    lines[151] = b"broken\n"
    with pytest.raises(BadMessage, match=r"line 152: .* 74 other conversations are in the store"):
        await import_lines(ours, lines)
    assert 74 == len(await held(ours))
    lines[151] = lines[1].replace(b"c0", b"c75")
    assert (126, 74) == ((done := await import_lines(ours, lines)).new, done.already)


async def test_a_conversation_that_is_there_already_is_another_one(fresh: Any) -> None:
    """It is refused, passed over or replaced, as one is told; a conversation that has gone on since is left alone."""
    _, ours = await fresh("sqlite")
    lines = of(HEADER, '{"conversation":"ada"}', SAID, end=(1, 1))
    await ours.append(Append(Key("", "ada"), said(1, 5), revision="r", at=1e12))
    before = await held(ours)
    with pytest.raises(Conflict, match="line 2: ada is in the store already"):
        await import_lines(ours, lines)
    assert 1 == (await import_lines(ours, lines, existing="skip")).skipped
    assert before == await held(ours)
    assert 1 == (await import_lines(ours, lines, existing="replace")).replaced
    assert 1 == (await held(ours))[Key("", "ada")][0].head
    await ours.append(Append(Key("", "ada"), said(6, 6), revision="more", at=1e12))
    assert 1 == (await import_lines(ours, lines)).already
    assert 2 == (await held(ours))[Key("", "ada")][0].head


class Killed(Exception):
    """The process that imports ended here."""


class Cut(Wrapped):
    """Ends at the nth write."""

    left = 2

    async def around(self, verb: str, act: Any) -> Any:
        """Count the writes."""
        if verb == "write":
            self.left -= 1
            if self.left < 0:
                raise Killed
        return await act()


async def test_an_import_that_was_killed_in_a_long_log_is_run_again(fresh: Any) -> None:
    """What is there of it until then is found by nobody who looks for work."""
    (_, ours), (_, theirs) = await fresh("memory"), await fresh("sqlite")
    await filled(ours)
    lines = await exported(ours, conversation="long")
    (block,) = read_blocks(lines, Imported(), now=0.0)
    with closing(block.texts), pytest.raises(Killed):
        await LogWriter(wrapped(Cut(theirs))).extend(block.row, block.entries(), block.first, None)
    (row, log) = (await held(theirs))[LONG]
    assert row.revision.startswith("~part:")
    assert (None, True) == (row.due_at, 0 < len(log) < 423)
    assert 1 == (await import_lines(theirs, lines)).new
    assert lines == await exported(theirs, conversation="long")


async def test_an_export_of_a_store_in_use_has_whole_conversations(fresh: Any) -> None:
    """Retention and messages come in between its pages."""
    _, ours = await fresh("memory")
    await filled(ours)

    class Moving(Wrapped):
        count = 0

        async def around(self, verb: str, act: Any) -> Any:
            found = await act()
            if verb == "entries" and self.count < 3:
                self.count += 1
                row = (
                    await ours.append(
                        Append(LONG, said(460 + self.count, 460 + self.count), revision=f"n{self.count}", at=1e9)
                    )
                ).row
                await ours.write(
                    Write(structs.replace(row, revision=f"d{self.count}"), replaces=row.revision, drop=100 * self.count)
                )
            return found

    lines = await exported(wrapped(Moving(ours)), conversation="long")
    (block,) = read_blocks(lines, Imported(), now=0.0)
    block.texts.close()

    assert block.row.head - block.first + 1 == len(lines) - 3
    assert (await ours.read(Read(LONG, tail=0))) is not None


async def test_who_leaves_an_export_leaves_no_file_open(fresh: Any) -> None:
    """A browser that goes away between two lines: what was read ahead of them is let go of (an open file is an error of the tests)."""
    _, ours = await fresh("memory")
    await filled(ours)
    lines = export_lines(ours, Exported())
    async with aclosing(lines):
        await anext(lines)
        await anext(lines)
    del lines
    gc.collect()
