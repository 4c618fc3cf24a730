"""What operators do, through the Python client, on a real server."""

from __future__ import annotations

import asyncio

import pytest

from chatkeep.auth.credentials import create_key
from chatkeep.client import Client, Exported, Forbidden, NotFound
from chatkeep.errors import OnHold, Unavailable, UsageError

from ..support.client_server import Place
from ..support.waiting import until


async def test_words_are_found_in_all_logs(place: Place) -> None:
    """Page by page, last changed first, each conversation once, also one that is called like that; with what was said."""
    for n in range(210):
        await place.keep.accept(f"c{n:03}", "a blue parcel, and much else" if n % 2 else "nothing", role="operator")
    await place.keep.accept("c001", "thanks", role="operator")
    await place.keep.create("blue parcel")
    async with place.client() as client:
        found = [one async for one in client.desk.search("BLUE parcel")]

    assert ["blue parcel", "c001", *(f"c{n:03}" for n in range(209, 2, -2))] == [one.id for one in found]
    assert ("a blue parcel, and much else", 1) == (found[1].found, found[1].found_in)
    assert {""} == {one.found for one in found[2:]}


async def test_a_log_is_read_whole_in_pages(place: Place) -> None:
    """With chatkeep's own notes, in the same order as in the library, forwards and the last ones; each message as it is there."""
    for n in range(130):
        await place.keep.receive("ada", f"message {n}")
    await place.keep.pause("ada")
    await place.keep.resume("ada")
    there = [message async for message in place.keep.history("ada")]
    last = [message async for message in place.keep.history("ada", before=200, limit=150)]
    between = [message async for message in place.keep.history("ada", after=100, before=240)]
    async with place.client() as client:
        read = [message async for message in client.desk.history("ada")]
        read_last = [message async for message in client.desk.history("ada", before=200, limit=150)]
        read_between = [message async for message in client.desk.history("ada", after=100, before=240)]

    assert "system" in {message.role for message in there}
    assert there == read
    assert last == read_last
    assert between == read_between


async def test_notes_are_for_who_may_list(place: Place) -> None:
    """A conversation's own token does not learn why a message was set aside; without notes there are none for a key either."""
    await place.keep.receive("ada", "hello")
    async with place.client() as client:
        token = (await client.conversation("ada").issue(scopes=["read"])).token
        plain = await client.conversation("ada").history()
    async with place.client(token) as client:
        with pytest.raises(Forbidden):
            await client.desk.read("ada")
        with pytest.raises(Forbidden):
            [message async for message in client.desk.history("ada")]

    assert {"user", "assistant"} == {message.role for message in plain}


async def test_holds_are_put_listed_and_lifted(place: Place) -> None:
    """Of a conversation and of an owner; what is on hold is not erased; it is noted who has put it."""
    for id in ("ada", "bob"):
        await place.keep.receive(id, "hello", owner="eve")
    async with place.client() as client:
        [one] = await client.desk.hold("ada", reason="case 1")
        [again] = await client.desk.hold("ada", reason="another")
        await client.desk.hold(owner="eve", reason="case 2")
        listed = await client.desk.holds()
        with pytest.raises(OnHold):
            await client.conversation("bob").erase()
        with pytest.raises(OnHold):
            await client.desk.redact("bob", 2)
        await client.desk.unhold(owner="eve")
        await client.conversation("bob").erase()
        [lifted] = await client.desk.unhold("ada")
        with pytest.raises(NotFound):
            await client.desk.unhold("ada")
        with pytest.raises(UsageError):
            await client.desk.hold("ada", owner="eve", reason="both")
        acts = await client.desk.audit()

    assert ("ada", "case 1") == (one.conversation, one.reason)
    assert one == again == lifted
    assert {("ada", ""), ("", "eve")} == {(held.conversation, held.owner) for held in listed}
    assert ["unhold", "erase", "unhold", "hold", "hold", "hold"] == [act.act for act in acts]
    assert "owner eve" in {act.conversation for act in acts}


@pytest.mark.parametrize("role", ["list", "operate", "erase", "audit"])
async def test_holds_and_exports_take_a_right_of_their_own(place: Place, role: str) -> None:
    """No other right opens them."""
    key = (await create_key(place.keep, "", scopes=(role,))).token
    async with place.client(key) as client:
        with pytest.raises(Forbidden):
            await client.desk.hold("ada", reason="x")
        with pytest.raises(Forbidden):
            await client.desk.holds()
        with pytest.raises(Forbidden):
            [line async for line in client.desk.export()]


async def test_an_export_says_what_is_left_out(place: Place) -> None:
    """A conversation that cannot be read is named, and not in the lines; the last line counts the others."""
    await place.keep.receive("ada", "hello")
    await place.keep.receive("bob", "hello")
    said = Exported()
    async with place.client() as client:
        whole = [line async for line in client.desk.export(said=said)]
        one = [line async for line in client.desk.export("bob")]
        with pytest.raises(NotFound):
            [line async for line in client.desk.export("nobody")]
        with pytest.raises(NotFound):
            [line async for line in client.desk.export("~keys")]

    assert (2, {}) == (said.conversations, said.left_out)
    assert whole[0].startswith(b'{"format":"chatkeep"')
    assert whole[-1].startswith(b'{"end":true')
    assert not [line for line in one if b'"ada"' in line]


async def test_a_person_s_part(place: Place) -> None:
    """Paused, written in, resumed; set aside, replayed, dismissed."""
    await place.keep.receive("ada", "hello")
    async with place.client() as client:
        await client.desk.pause("ada")
        scopes, ids = await client.desk.paused()
        receipt = await client.desk.say("ada", "Kim here", author="Kim", id="k1")
        again = await client.desk.say("ada", "Kim here", author="Kim", id="k1")
        await client.desk.resume("ada")
        await client.desk.pause()
        whole = await client.desk.paused()
        await client.desk.resume()
        await client.conversation("ada").accept("fail")
        await until(lambda: place.keep.dead_letters("ada"))
        [letter] = [one async for one in client.desk.dead_letters()]
        replayed = await client.desk.replay("ada", letter.number)
        await until(lambda: place.keep.dead_letters("ada"))
        await client.desk.dismiss("ada", letter.number)
        listed = [one async for one in client.desk.conversations()]

    assert ([], ["ada"]) == (scopes, ids)
    assert [""] == whole[0]
    assert (receipt.number, True) == (again.number, again.duplicate)
    assert "as asked" in letter.metadata["reason"]
    assert replayed.number > letter.number
    assert "fail" == listed[0].last


@pytest.mark.parametrize("head", ["Content-Length: 34", "Transfer-Encoding: chunked"])
async def test_an_export_that_is_cut_is_not_taken_for_a_whole_one(head: str) -> None:
    """Whether what stands between ends the answer cleanly or breaks it off."""
    line = b'{"format":"chatkeep","version":1}\n'

    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = line if head.startswith("Content") else b"22\r\n" + line + b"\r\n"
        writer.write(f"HTTP/1.1 200 OK\r\n{head}\r\n\r\n".encode() + body)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(cut, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with Client(f"http://127.0.0.1:{port}", "ck_k_x") as client:
            lines = client.desk.export()
            first = await anext(lines)
            with pytest.raises(Unavailable):
                await anext(lines)

    assert line == first
