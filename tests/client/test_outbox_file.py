"""The file of an outbox: durable, one process's, and counted as it is."""

from __future__ import annotations

import asyncio
import os
import resource
from pathlib import Path
from typing import Any

import apsw
import pytest

from chatkeep import BadMessage, Misconfigured, NotOpen, Unavailable, UsageError
from chatkeep.client.outbox_file import KNOWN_MOST, OutboxFile

from ..support.few_threads import few_threads

ADA = ("credential:1", "ada's")
BEN = ("credential:2", "credential:2")


async def filled(tmp_path: Path) -> OutboxFile:
    """A file with two messages of Ada's for the conversation c, and one of Ben's for d."""
    file = OutboxFile(str(tmp_path / "q.db"), "http://host")
    await file.open()
    for conversation, id, owners in (("c", "m1", ADA), ("c", "m2", ADA), ("d", "m1", BEN)):
        await file.put(conversation, id, b'{"content":"tea"}', owners)
    return file


async def test_the_file_is_durable_at_each_answer(tmp_path: Path) -> None:
    """WAL with synchronous=FULL: nothing that was answered is only in memory."""
    file = await filled(tmp_path)
    assert file._db is not None
    found = [file._db.pragma("journal_mode"), file._db.pragma("synchronous")]
    await file.close()

    assert ["wal", 2] == found
    assert apsw.SQLITE_VERSION_NUMBER >= 3_051_003


async def test_a_message_is_new_once(tmp_path: Path) -> None:
    """Under its id, for its owner and conversation; other content under the id is refused, and nothing is queued."""
    file = await filled(tmp_path)
    try:
        again = await file.put("c", "m1", b'{"content":"tea"}', ADA)
        with pytest.raises(BadMessage, match="other content is queued under the id 'm1'"):
            await file.put("c", "m1", b'{"content":"coffee"}', ADA)
        elsewhere = await file.put("c", "m1", b'{"content":"coffee"}', BEN)
        held = await file.held()
    finally:
        await file.close()

    assert (False, True) == (again, elsewhere)
    assert [("ada's", "c", 2, 0), ("credential:2", "d", 1, 0), ("credential:2", "c", 1, 0)] == held


async def test_a_message_is_settled_under_the_owner_that_it_has_now(tmp_path: Path) -> None:
    """It may have been given to somebody else while it was sent; one that is gone is nobody's."""
    file = await filled(tmp_path)
    try:
        first = await file.first("d", BEN)
        assert first is not None
        await file.give("ben's", *BEN)
        found = [await file.settle(first[0], "no such thing"), await file.settle(first[0], ""), None]
        found[2] = await file.settle(first[0], "")
        held = await file.held()
    finally:
        await file.close()

    assert ["ben's", "ben's", None] == found
    assert [("ada's", "c", 2, 0)] == held


async def test_a_conversation_is_there_when_something_of_its_owner_was_taken_for_it(tmp_path: Path) -> None:
    """What waits keeps what it was posted for; after an end what comes is not for what was there."""
    file = await filled(tmp_path)
    there = []
    try:
        for taken_by in ("", "ada's"):
            first = await file.first("c", ADA)
            assert first is not None
            there.append(first[1])
            await file.settle(first[0], "", taken_by=taken_by)
        await file.put("c", "m3", b'{"content":"tea"}', ADA)
        await file.end("c", ADA)
        await file.put("c", "m4", b'{"content":"tea"}', ADA)
        while (first := await file.first("c", ADA)) is not None:
            there.append(first[1])
            await file.settle(first[0], "")
    finally:
        await file.close()

    assert [False, False, True, False] == there


async def test_a_refused_message_waits_again_or_goes(tmp_path: Path) -> None:
    """Of the owners that ask, and none else's; what only waits is no refused one."""
    file = await filled(tmp_path)
    try:
        for _ in range(2):
            first = await file.first("c", ADA)
            assert first is not None
            await file.settle(first[0], "not today")
        one, two = [queued.number for queued in await file.refused(ADA)]
        with pytest.raises(UsageError, match=f"no refused message has the number {one}"):
            await file.drop(one, BEN)
        done = [await file.retry(one, ADA), await file.drop(two, ADA)]
        with pytest.raises(UsageError, match="nothing was done"):
            await file.retry(one, ADA)
        held = await file.held()
    finally:
        await file.close()

    assert [("c", "ada's"), ("c", "ada's")] == done
    assert [("ada's", "c", 1, 0), ("credential:2", "d", 1, 0)] == held


async def test_only_what_nobody_known_has_posted_is_adopted_and_only_what_is_asked_for_is_discarded(
    tmp_path: Path,
) -> None:
    """A known subject's messages are its own."""
    file = await filled(tmp_path)
    try:
        await file.put("e", "m1", b'{"content":"tea"}', ("run:1", "run:1"))
        adopted = await file.adopt("cleo's")
        again = await file.adopt("credential:3")
        await file.discard(ADA)
        held = await file.held()
    finally:
        await file.close()

    assert (2, 0) == (adopted, again)
    assert [("cleo's", "d", 1, 0), ("cleo's", "e", 1, 0)] == held


async def test_so_many_subjects_are_remembered(tmp_path: Path) -> None:
    """The last ones; what was posted with a credential becomes its subject's when that is told."""
    file = await filled(tmp_path)
    try:
        await file.name(BEN[0], "ben's")
        held = await file.held()
        for number in range(KNOWN_MOST):
            await file.name(f"credential:1{number}", "cleo's")
        known = await file.subjects()
    finally:
        await file.close()

    assert ("ben's", "d", 1, 0) in held
    assert (KNOWN_MOST, {"cleo's"}) == (len(known), {*known.values()})


async def test_a_file_is_one_process_s_and_one_server_s_until_it_is_closed(tmp_path: Path) -> None:
    """Then it can be opened again; a file that could not be opened is let go at once."""
    file = await filled(tmp_path)
    with pytest.raises(Misconfigured, match="in use by another process"):
        await OutboxFile(str(tmp_path / "q.db"), "http://host").open()
    await file.close()
    with pytest.raises(NotOpen, match="is not open; nothing was done"):
        await file.held()
    with pytest.raises(Misconfigured, match="holds messages for http://host"):
        await OutboxFile(str(tmp_path / "q.db"), "http://other").open()
    await file.open()
    held = await file.held()
    await file.close()

    assert [("ada's", "c", 2, 0), ("credential:2", "d", 1, 0)] == held


async def test_a_queue_stays_where_it_is_after_a_chdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path is one of the folder in which it was named."""
    monkeypatch.chdir(tmp_path)
    file = OutboxFile("q.db", "http://host")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    await file.open()
    with pytest.raises(Misconfigured, match="in use by another process"):
        await OutboxFile(str(tmp_path / "q.db"), "http://host").open()
    await file.close()

    assert [] == list(Path().iterdir())
    assert (tmp_path / "q.db").exists()


async def test_too_many_open_files_are_no_wrong_path(tmp_path: Path) -> None:
    """Where there is none left for the lock, or for the file itself, it is refused as what may pass; then it is opened."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)
    spare = [os.dup(0) for _ in range(64)]  # what is free below the limit is taken
    try:
        for more in (0, 1):
            file = OutboxFile(str(tmp_path / "q.db"), "http://host")
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(spare) + 1 + more, most[1]))
            try:
                with pytest.raises(Unavailable, match="cannot be used"):
                    await file.open()
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, most)
            await file.open()
            await file.close()
    finally:
        for descriptor in spare:
            os.close(descriptor)


def test_a_queue_is_named_by_text(tmp_path: Path) -> None:
    """As the stores and journals of the library are."""
    path: Any = tmp_path / "q.db"
    with pytest.raises(Misconfigured, match=r"^queue is text, not PosixPath\(.*; nothing was opened\.$"):
        OutboxFile(path, "http://host")


async def test_a_queue_for_which_there_is_no_thread_is_opened_when_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is refused as what may pass, and the file is nobody's meanwhile."""
    path = str(tmp_path / "q.db")
    with few_threads(monkeypatch, 0), pytest.raises(Unavailable, match="none could be started"):
        await OutboxFile(path, "http://host").open()
    file = OutboxFile(path, "http://host")
    await file.open()
    await file.close()


def test_a_queue_that_is_opened_without_a_loop_is_nobodys(tmp_path: Path) -> None:
    """As under Trio: it is refused, and opened by whoever has a loop of asyncio."""
    path = str(tmp_path / "q.db")
    first, second = OutboxFile(path, "http://host"), OutboxFile(path, "http://host")
    with pytest.raises(UsageError, match="needs an event loop of asyncio"):
        first.open().send(None)

    async def opens() -> None:
        await second.open()
        await second.close()

    asyncio.run(opens())
