"""The full-text index of a SQLite file, beyond the contract: its bytes, its tables, and an older chatkeep beside it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import apsw
import pytest

from chatkeep.drivers.base import Erase, IndexText, Key, Read, Search, Term, Write
from chatkeep.drivers.sqlite import SqliteDriver
from chatkeep.drivers.sqlite import search as searching

from ...support.indexing import act_at_random, body, changed, check_found, hits, index, say, search_pages
from ...support.soaking import few_or_many

NEIGHBOURS = [f"4111111111111{n:03}" for n in range(300)]


@pytest.fixture
async def driver(tmp_path: Path) -> AsyncIterator[SqliteDriver]:
    """A driver on a file with an index."""
    driver = SqliteDriver(f"sqlite:///{tmp_path}/chat.db")
    await driver.open()
    await driver.index_text(IndexText(0, keep=True))
    yield driver
    await driver.close()


def tables(path: Path) -> dict[str, int]:
    """How many rows each table of the index has."""
    db = apsw.Connection(f"{path}/chat.db")
    names = [
        name for (name,) in db.execute("select name from sqlite_schema where name like 'search_%' and type = 'table'")
    ]
    found = {name: int(db.execute(f"select count(*) from {name}").get) for name in names}
    db.close()
    return found


async def test_words_that_were_removed_are_nowhere_in_the_file(driver: SqliteDriver, tmp_path: Path) -> None:
    """Nor is a part of them that only they have: erased, cut, blanked; whatever stands beside them on a page."""
    for number, word in enumerate(NEIGHBOURS):
        await say(driver, Key("", f"c{number % 20}"), f"{word} of all")
    await index(driver)
    removed = set[str]()
    for number in range(20):
        found = await driver.read(Read(Key("", f"c{number}"), tail=100))
        assert found is not None
        row, entries = found
        gone = entries[:5] if number % 3 == 1 else entries[3:9] if number % 3 == 2 else entries
        removed |= {one.body.decode()[::-1].split()[2] for one in gone}
        if number % 3 == 0:
            await driver.erase(Erase(row.key, at=2.0))
        elif number % 3 == 1:
            await driver.write(Write(changed(row), row.revision, drop=5))
        else:
            await driver.write(Write(changed(row), row.revision, blank=[one.number for one in gone]))
    still = {word for word in NEIGHBOURS if await hits(driver, word)}
    await driver.close()
    held = (tmp_path / "chat.db").read_bytes()

    assert {*NEIGHBOURS} - removed == still
    assert [] == [word for word in sorted(removed) if word.encode() in held]
    assert [] == [word for word in sorted(still) if word.encode() not in held]


async def test_a_removed_index_leaves_no_word_in_the_file(driver: SqliteDriver, tmp_path: Path) -> None:
    """Nor a table, nor a trigger."""
    await say(driver, Key("", "ada"), "sapphire brooch")
    await index(driver)
    assert tables(tmp_path)
    await driver.index_text(IndexText(0, keep=False))
    await driver.close()
    db = apsw.Connection(f"{tmp_path}/chat.db")

    assert [] == db.execute("select name from sqlite_schema where name like 'search%'").fetchall()
    assert b"sapphire" not in (tmp_path / "chat.db").read_bytes()


async def test_an_older_chatkeep_keeps_it_true(driver: SqliteDriver, tmp_path: Path) -> None:
    """One that knows nothing of the index, and has no function of ours: what it writes lacks, what it removes is gone."""
    for name in ("ada", "bob", "cy"):
        await say(driver, Key("", name), f"gel {name}", "gel again")
    await index(driver)
    older = apsw.Connection(f"{tmp_path}/chat.db")
    of = {id: number for number, id in older.execute("select number, id from conversation")}
    older.execute("insert into entry values (?, 3, '', 'user', ?)", (of["ada"], body("new")))
    older.execute("delete from entry where conversation = ?", (of["bob"],))
    older.execute("update entry set body = x'' where conversation = ? and number = 1", (of["cy"],))
    older.close()
    lacking = await driver.index_text(IndexText(100))

    assert [("ada", 3)] == [(one.key.id, one.entry.number) for one in lacking.entries]
    assert [["ada", "cy"], [], []] == [await hits(driver, word) for word in ("gel", "bob", "cy")]


@few_or_many("times", 150, 3000)
async def test_nothing_is_left_over(driver: SqliteDriver, tmp_path: Path, times: int) -> None:
    """By random acts: what is found is what is there, and postings and words that nobody has are gone."""
    said = await act_at_random(driver, times)
    await check_found(driver, said)
    for name in {name for name, _ in said}:
        await driver.erase(Erase(Key("", name), at=1e9))

    left = {"search_entry": 0, "search_posting": 0, "search_waiting": 0, "search_word": 0, "search_progress": 1}
    assert left == tables(tmp_path)


async def test_places_are_where_the_time_is(driver: SqliteDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where one second has more than it has room for; each place is given once."""
    monkeypatch.setattr(searching, "SLOTS", 2)
    monkeypatch.setattr(searching, "first_place", lambda at: int(at) * 2)
    for number in range(7):
        await say(driver, Key("", f"c{number}"), "word")
    await index(driver)
    page = await driver.search(Search([Term("word")], 100))

    assert [8, 7, 6, 5, 4, 3, 2] == [hit.place for hit in page.hits]


async def test_a_search_goes_on_where_it_was_broken_off(driver: SqliteDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks at so many entries in one act, found or not; wide beginnings too."""
    monkeypatch.setattr(searching, "LOOKED_AT", 3)
    monkeypatch.setattr(searching, "FORMS_MERGED", 2)
    for number in range(10):
        await say(driver, Key("", f"c{number}"), f"word w{number} {'needle' if number == 2 else 'hay'}")
    await index(driver)
    found = {text: await search_pages(driver, text) for text in ("word needle", "word w", "needle w")}

    assert {"word needle": 1, "word w": 10, "needle w": 1} == {text: len(ids) for text, (ids, _) in found.items()}
    assert max(pages for _, pages in found.values()) < 9
