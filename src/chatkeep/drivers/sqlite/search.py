"""The full-text index of a SQLite file: which words are in which entries, in tables of their own.

They are there only when somebody has asked for them. Triggers note what is new, and take out what goes, in the transaction of whoever
writes, of an older chatkeep too. (FTS5 would be smaller. Where it has to forget a word for certain, it took 10 to 60 ms for each
message at a hundred thousand messages, and beginnings of words stayed: docs/explanation/decisions.md.)
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from functools import cache

import apsw
import msgspec

from ..base import (
    FAR,
    INDEX_COUNTED,
    RECENT_GRAIN_S,
    SLOTS,
    Entry,
    EntryWords,
    Hit,
    Hits,
    Indexed,
    IndexText,
    Key,
    Search,
    Term,
    Unindexed,
    first_place,
)
from ..packing import unpack
from ..shipped import read_file
from ..statements import named

_numbers = msgspec.json.Decoder(list[int]).decode

LOOKED_AT = 4000
"""So many entries that have one of the words are looked at in one act."""

FORMS_MOST = 20_000
"""So many words that begin as is asked for are looked for, in their order."""

FORMS_MERGED = 300
"""What begins so many words or more is in so many entries that going through all entries, newest first, finds it sooner."""

COUNTED = 2000
"""Up to so many entries of a word are counted: which word is the rarest matters little beyond."""


def search(db: apsw.Connection, act: Search) -> Hits:
    """Return what `Search` asks for, in the file that *db* has open."""
    if not is_on(db) or not act.terms:
        return Hits([], None)
    before = FAR if act.before is None else min(act.before, FAR)
    forms = [find_forms(db, act.tenant, term) for term in act.terms]
    if not all(forms):
        return Hits([], None)
    rarest = min(forms, key=lambda one: count(db, one, before))
    hits: list[Hit] = []
    looked_at = 0
    for place in places_of(db, rarest, before):
        of, number, words = db.execute(sql("entry_at"), {"place": place}).get
        looked_at += 1
        if not (act.rows and number) and has_each(words, forms):
            later = 0
            others = () if act.rows else db.execute(sql("entries_after"), {"of": of, "number": number})
            for (words,) in others:
                later += 1
                if has_each(words, forms):
                    break
            else:
                tenant, id = db.execute(sql("key_of"), {"of": of}).get
                if act.tenant in (None, tenant):
                    hits.append(Hit(Key(tenant, id), number, place))
            looked_at += later
        if len(hits) >= act.limit or looked_at >= LOOKED_AT:
            return Hits(hits, place)
    return Hits(hits, None)


def has_each(words: str, forms: Sequence[set[int]]) -> bool:
    """Tell whether an entry with these *words* has one of each of *forms*."""
    has = _numbers(words)
    return all(not one.isdisjoint(has) for one in forms)


def find_forms(db: apsw.Connection, tenant: str | None, term: Term) -> set[int]:
    """Return the numbers of the words that *term* stands for: in all tenants each has its own."""
    name = "words_from_all" if tenant is None else "words_from"
    numbers = set[int]()
    for number, word in db.execute(sql(name), {"tenant": tenant, "word": term.text}):
        if not (word.startswith(term.text) if term.begins else word == term.text) or len(numbers) == FORMS_MOST:
            break
        numbers.add(number)
    return numbers


def count(db: apsw.Connection, forms: set[int], before: int) -> int:
    """Return in about how many entries one of the words is; FAR where it is better not to look word by word."""
    if len(forms) > FORMS_MERGED:
        return FAR
    total = 0
    for number in forms:
        total += db.execute(sql("how_many"), {"word": number, "before": before, "most": COUNTED}).get
        if total >= COUNTED:
            break
    return total


def places_of(db: apsw.Connection, forms: set[int], before: int) -> Iterator[int]:
    """Yield where the entries are that have one of the words, or perhaps all entries, newest first, each once."""
    if len(forms) > FORMS_MERGED:
        found = db.execute(sql("all_places"), {"before": before})
        yield from (place for (place,) in found)
        return
    each = [db.execute(sql("places"), {"word": number, "before": before}) for number in forms]
    last = None
    for (place,) in heapq.merge(*each, reverse=True):
        if place != last:
            yield place
            last = place


def index_text(db: apsw.Connection, act: IndexText) -> Indexed:
    """Do what `IndexText` asks for."""
    there = is_on(db)
    if act.keep is not None and act.keep is not there:
        db.execute(script("search_removal.sql")).fetchall()
        if act.keep:
            db.execute(script("search_index.sql")).fetchall()
        there = act.keep
    if not there:
        return Indexed(False, [])
    if act.words:
        put(db, act.words)
    return hand_out(db, act.limit)


def is_on(db: apsw.Connection) -> bool:
    """Tell whether the file has the index."""
    return db.execute(sql("is_on")).fetchone() is not None


def put(db: apsw.Connection, words: Sequence[EntryWords]) -> None:
    """Put in the words of entries, those that are still there, and note how far the old ones have been gone through."""
    numbers: dict[tuple[str, str], int] = {}
    postings: list[tuple[int, int]] = []
    lacking = [one for one in words if one.number or makes_room(db, one)]
    for one in lacking:
        place_in_log = {"of": one.of, "number": one.number}
        found = db.execute(sql("is_there" if one.number else "row_of"), place_in_log).fetchone() if one.words else None
        if found is not None:
            of_words = [number_of(db, numbers, found[0], word) for word in one.words]
            place = free_place(db, one.at if one.number else found[2])
            db.execute(
                sql("put_entry"), {**place_in_log, "place": place, "words": msgspec.json.encode(of_words).decode()}
            )
            postings += [(number, place) for number in of_words]
        db.execute(sql("done"), place_in_log)
    postings.sort()  # neighbours go to one page
    db.executemany(sql("put_posting"), postings)
    advance(db, {(one.of, one.number) for one in words})


def makes_room(db: apsw.Connection, one: EntryWords) -> bool:
    """Take out the words that a row had, and tell whether it lacks those that are handed in: not where it has these already, nor where
    it was changed meanwhile, so that it is handed out again. (Before any others are put in: words that nobody has go with the last entry.)
    """
    found = db.execute(sql("row_of"), {"of": one.of}).fetchone()
    if found is not None and found[1] != one.revision:
        db.execute(sql("wait"), {"of": one.of, "number": 0})
        return False
    had = db.execute(sql("words_of_row"), {"of": one.of}).fetchone()
    if (
        had is not None
        and found is not None
        and near(had[0], found[2])
        and set(msgspec.json.decode(had[1])) == set(one.words)
    ):
        db.execute(sql("done"), {"of": one.of, "number": 0})
        return False
    db.execute(sql("take_row"), {"of": one.of})
    return True


def near(place: int, at: float) -> bool:
    """Tell whether a row need not be put anew, to be found in the order of the index `recent`."""
    return abs(place - first_place(at)) < RECENT_GRAIN_S * SLOTS


def advance(db: apsw.Connection, handed_in: set[tuple[int, int]]) -> None:
    """Note how far the old entries have been gone through: as far as each was handed in. (A new entry may lie far below those.)"""
    _, conversation, number = db.execute(sql("progress")).get
    reached = {"conversation": conversation, "number": number, "limit": len(handed_in)}
    for old in db.execute(sql("old"), reached).fetchall():
        if old not in handed_in:
            break
        db.execute(sql("advance"), {"conversation": old[0], "number": old[1]})


def number_of(db: apsw.Connection, known: dict[tuple[str, str], int], tenant: str, word: str) -> int:
    """Return the number of a word, a new one where there is none."""
    number = known.get((tenant, word))
    if number is None:
        values = {"tenant": tenant, "word": word}
        db.execute(sql("put_word"), values)
        number = known[tenant, word] = int(db.execute(sql("number_of"), values).get)
    return number


def free_place(db: apsw.Connection, at: float) -> int:
    """Return the first free place in the second *at*, or in a later one where it is full."""
    first = first_place(at)
    while (place := int(db.execute(sql("free_place"), {"first": first, "end": first + SLOTS}).get)) == first + SLOTS:
        first += SLOTS
    return place


def hand_out(db: apsw.Connection, limit: int) -> Indexed:
    """Return the next entries without words: what is new, then what was there before."""
    entries = unindexed(db.execute(sql("hand_out_new"), {"limit": limit}))
    total, conversation, number = db.execute(sql("progress")).get
    below = {"conversation": conversation, "number": number, "limit": max(limit - len(entries), 1)}
    old = [
        one
        for of, place in db.execute(sql("old"), below).fetchall()
        for one in unindexed(db.execute(sql("hand_out_old"), {"conversation": of, "number": place}))
    ]
    left = min(conversation, total) if old else 0
    entries += [one for one in old if one not in entries][: limit - len(entries)]
    waiting = db.execute(sql("waiting"), {"most": INDEX_COUNTED}).get
    return Indexed(True, entries, left, total, waiting)


def unindexed(found: apsw.Cursor) -> list[Unindexed]:
    """Return what is handed out."""
    return [
        Unindexed(Key(tenant, id), of, Entry(number, entry_id, role, unpack(body)))
        for tenant, id, of, number, entry_id, role, body in found
    ]


@cache
def script(name: str) -> str:
    """Return a file of statements."""
    return read_file("sqlite", "sql", name).decode()


def sql(name: str) -> str:
    """Return the named statement of search.sql."""
    return named("sqlite", "search.sql")[name]
