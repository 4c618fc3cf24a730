"""Service keys, from being made until they are revoked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..support.program import chatkeep


def keys(store: Path, *words: str) -> tuple[int, str, str]:
    """Runs one of the commands: exit code, output, errors."""
    command, *rest = words
    return chatkeep("key", command, store.name, *rest, folder=store.parent)


def listed(store: Path) -> list[dict[str, Any]]:
    """The keys, as the command tells them to programs."""
    return [json.loads(line) for line in keys(store, "list", "--json")[1].splitlines()]


def test_a_key_is_shown_once_and_listed_by_what_it_is_for(store: Path) -> None:
    """The key is the output, so that a program can take it, and all else is not."""
    none = keys(store, "list")
    code, token, said = keys(
        store, "create", "--tenant", "salon", "--label", "ci", "--scope", "list", "--expires", "90d"
    )
    made = json.loads(keys(store, "create", "--everywhere", "--json")[1])
    shown = keys(store, "list")[1].splitlines()
    one, other = listed(store)

    assert (0, "There are no service keys.\n") == none[:2]
    assert (0, True, True) == (code, token.startswith("ck_k_"), one["id"] in said)
    assert (made["id"], made["token"].startswith("ck_k_")) == (other["id"], True)
    assert ("salon", "ci", ["list"], False) == tuple(one[name] for name in ("tenant", "label", "scopes", "revoked"))
    assert "tenant salon (list only)  ci  made" in shown[0]
    assert "until " in shown[0]
    assert "tenant (default), and everywhere  (no label)  made" in shown[1]
    assert "for ever, not used yet" in shown[1]
    assert token.strip() not in str([one, other, *shown])


def test_a_key_is_revoked_by_its_id(store: Path) -> None:
    """Twice is fine; another one goes on, and an id that there is not is told."""
    keys(store, "create", "--label", "a")
    keys(store, "create", "--label", "b")
    one = next(key["id"] for key in listed(store) if key["label"] == "a")
    ended = [keys(store, "revoke", one)[0] for _ in range(2)]
    missing = keys(store, "revoke", "0" * 16)

    assert [0, 0] == ended
    assert {"a": True, "b": False} == {key["label"]: key["revoked"] for key in listed(store)}
    assert (1, True) == (missing[0], "There is no key '0000000000000000'. `chatkeep key list`" in missing[2])


def test_a_key_that_cannot_be_meant_is_not_made(store: Path) -> None:
    """A scope that there is not, a time that is none, a tenant of chatkeep's own."""
    wrong = [
        keys(store, "create", *words) for words in (("--scope", "king"), ("--expires", "soon"), ("--tenant", "~keys"))
    ]

    assert [(2, ""), (2, ""), (2, "")] == [found[:2] for found in wrong]
    assert "No key was made" in wrong[1][2]
    assert [] == listed(store)
