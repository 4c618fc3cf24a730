"""Entries that are said, put into the full-text index of a driver, and found there."""

from __future__ import annotations

import random
from typing import Protocol

from msgspec import structs

from chatkeep.drivers.base import (
    Append,
    Driver,
    Entry,
    EntryWords,
    Erase,
    IndexText,
    Key,
    Read,
    Row,
    Search,
    Searching,
    Term,
    Unindexed,
    Write,
)

SHORT = ["ab", "abc", "b", "bc", "c", "cab", "x"]


class SearchingDriver(Driver, Searching, Protocol):
    """A driver with SEARCH."""


def body(text: str) -> bytes:
    """Return a body in which the words of *text* do not stand as they are."""
    return f"body of {text}".encode()[::-1]


async def say(driver: Driver, key: Key, *texts: str, at: float = 1.0) -> None:
    """Say *texts*."""
    entries = [Entry(0, "", "user", body(text)) for text in texts]
    await driver.append(Append(key, entries, revision=f"{random.random()}", at=at))


def changed(row: Row) -> Row:
    """Return the next row."""
    return structs.replace(row, revision=f"{random.random()}")


def words_of(one: Unindexed) -> EntryWords:
    """Return the words of what is handed out: what `body` has been given."""
    entry = one.entry
    return EntryWords(
        one.of, entry.number, 1.0, entry.body.decode()[::-1].split()[2:], "" if entry.number else entry.id
    )


async def index(driver: SearchingDriver) -> None:
    """Put in what lacks; the words are what the bodies say."""
    answer = await driver.index_text(IndexText(100))
    while answer.entries:
        answer = await driver.index_text(IndexText(100, [words_of(one) for one in answer.entries]))


async def hits(driver: SearchingDriver, word: str, *, begins: bool = False) -> list[str]:
    """Return where a word is."""
    page = await driver.search(Search([Term(word, begins)], 1000))
    return sorted(hit.key.id for hit in page.hits)


async def search_pages(driver: SearchingDriver, text: str) -> tuple[list[str], int]:
    """Return where the words of *text* are, of which the last is a beginning, and how many acts that has taken."""
    *whole, last = text.split()
    act, found, pages = Search([*map(Term, whole), Term(last, begins=True)], 100), list[str](), 0
    while True:
        page = await driver.search(act)
        found += [hit.key.id for hit in page.hits]
        pages += 1
        if page.place is None:
            return found, pages
        act = structs.replace(act, before=page.place)


async def act_at_random(driver: SearchingDriver, times: int) -> dict[tuple[str, int], set[str]]:
    """Say, index, blank, cut and erase; answers the words of what is left, by conversation and number, after all was put in."""
    chance = random.Random(11)
    said: dict[tuple[str, int], set[str]] = {}
    for moment in range(times):
        name, deed = f"c{chance.randrange(4)}", chance.choice(["say", "say", "say", "index", "blank", "cut", "erase"])
        found = await driver.read(Read(Key("", name), tail=0))
        if deed == "say":
            words = chance.sample(SHORT, 3)
            said[name, 1 + (found[0].head if found is not None else 0)] = {*words}
            await say(driver, Key("", name), " ".join(words), at=moment)
        elif deed == "index":
            await index(driver)
        elif found is not None:
            row, number = found[0], chance.randint(1, found[0].head)
            if deed == "erase":
                await driver.erase(Erase(row.key, at=moment))
            elif deed == "blank":
                await driver.write(Write(changed(row), row.revision, blank=[number]))
            else:
                await driver.write(Write(changed(row), row.revision, drop=number))
            for of, n in list(said):
                if of == name and (deed == "erase" or n == number or (deed == "cut" and n < number)):
                    del said[of, n]
    await index(driver)
    return said


async def check_found(driver: SearchingDriver, said: dict[tuple[str, int], set[str]]) -> None:
    """Compare what is found with what was said."""
    for word in SHORT:
        begins = {name for (name, _), words in said.items() if any(one.startswith(word) for one in words)}
        assert sorted({name for (name, _), words in said.items() if word in words}) == await hits(driver, word)
        assert sorted(begins) == await hits(driver, word, begins=True)
