"""The full-text index of a PostgreSQL schema: its two verbs as statements. The functions are in sql/011_search.sql.

An entry's words are a tsvector, put together as they are: no dictionary of the server's, no language.
"""

from __future__ import annotations

from typing import Any

import msgspec

from ...errors import Replaced
from ..base import (
    FAR,
    INDEX_COUNTED,
    RECENT_GRAIN_S,
    SLOTS,
    Entry,
    Hit,
    Hits,
    Indexed,
    IndexText,
    Key,
    Search,
    Unindexed,
    first_place,
)
from .opening import replaced
from .seam import Site, Statement

LOOKED_AT = 4000
"""So many entries are looked at in one act, one by one, and as many again that the index of words has."""

ENOUGH = 8
"""Where so many of LOOKED_AT fit, the next act looks one by one too. Where fewer do, hardly any entry fits, and all that do can be put in
order."""


def search_statement(site: Site) -> Statement:
    """Return what does `Search`."""
    return Statement(site.sql("search"), _search_arguments, _search_answers, alone=True)


def index_statement(site: Site, *, writes: bool) -> Statement:
    """Return what does `IndexText`, for acts that change the index or for those that do not."""
    return Statement(site.sql("index_text"), _index_arguments, _index_answers, writes=writes, alone=True)


def _search_arguments(acts: list[Search]) -> tuple[Any, ...]:
    (act,) = acts
    lexemes = [_quoted(f"w{term.text}") + ":*" * term.begins for term in act.terms]
    if act.tenant is not None:
        lexemes.append(_quoted(f"t{act.tenant}"))
    before = FAR if act.before is None else min(act.before, FAR)
    return " & ".join(lexemes), before, act.rows, LOOKED_AT, ENOUGH, act.limit


def _quoted(lexeme: str) -> str:
    """Return a lexeme as a tsquery has it."""
    return "'{}'".format(lexeme.replace("\\", "\\\\").replace("'", "''"))


def _search_answers(_: list[Search], found: list[Any]) -> list[Any]:
    *hits, (verdict, *_rest, place) = found
    if verdict == "replaced":
        return [Replaced(replaced("the store"))]
    return [
        Hits(
            [Hit(Key(tenant, id), number, at) for _, tenant, id, number, at in hits],
            place if verdict == "next" else None,
        )
    ]


def _index_arguments(acts: list[IndexText]) -> tuple[Any, ...]:
    (act,) = acts
    return (
        act.keep,
        [one.of for one in act.words],
        [one.number for one in act.words],
        [max(-FAR, min(first_place(one.at), FAR)) for one in act.words],
        [msgspec.json.encode(list(one.words)).decode() for one in act.words],
        [one.revision for one in act.words],
        SLOTS,
        int(RECENT_GRAIN_S) * SLOTS,
        act.limit,
        INDEX_COUNTED,
    )


def _index_answers(_: list[IndexText], found: list[Any]) -> list[Any]:
    head, *lacking = found
    if head["verdict"] == "replaced":
        return [Replaced(replaced("the store"))]
    if head["verdict"] == "off":
        return [Indexed(False, [])]
    entries = [
        Unindexed(Key(tenant, id), of, Entry(number, entry_id, role, body))
        for _, tenant, id, of, number, entry_id, role, body, *_rest in lacking
    ]
    return [Indexed(True, entries, head["remaining"], head["total"], head["waiting"])]
