"""Accounts of the people at the desk, from being added until they are removed."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from chatkeep import Chatkeep
from chatkeep.auth.accounts import list_accounts
from chatkeep.auth.passwords import is_password

from ..support.program import chatkeep


def accounts(store: Path, *words: str) -> tuple[int, str, str]:
    """Runs one of the commands: exit code, output, errors."""
    command, *rest = words
    return chatkeep("accounts", command, store.name, *rest, folder=store.parent)


def listed(store: Path) -> list[dict[str, Any]]:
    """The accounts, as the command tells them to programs."""
    return [json.loads(line) for line in accounts(store, "list", "--json")[1].splitlines()]


def opens(store: Path, name: str, password: str) -> bool:
    """Whether this is the password of an account."""

    async def compare() -> bool:
        async with Chatkeep[Any](f"sqlite:///{store}", background=False) as keep:
            found = dict(await list_accounts(keep))
        return await is_password(password, found[name].password)

    return asyncio.run(compare())


def test_an_account_is_added_with_a_password_that_is_shown_once(store: Path) -> None:
    """Without a terminal it is made here. It is the output, so that a program can take it, and all else is not."""
    none = accounts(store, "list")
    code, password, said = accounts(
        store, "add", "kim", "--role", "agent", "--tenant", "salon", "--tenant", "spa", "--shown", "Kim"
    )
    shown = accounts(store, "list")[1]

    assert (0, "There are no accounts. `chatkeep accounts add` adds one.\n") == none[:2]
    assert 0 == code
    assert "There is an account kim now, with the role agent." in said
    assert opens(store, "kim", password.strip())
    assert ("kim  agent  salon, spa  password, not signed in yet\n", False) == (shown, password.strip() in shown)
    (told,) = listed(store)
    assert ("kim", "agent", "Kim", ["salon", "spa"], False, "password", None) == tuple(
        told[name] for name in ("name", "role", "shown", "tenants", "everywhere", "signs_in", "signed_in_at")
    )


def test_an_account_that_a_proxy_vouches_for_has_no_password(store: Path) -> None:
    """Nor does it get one unasked; without a tenant it is for the default one, as a viewer."""
    code, said, _ = accounts(store, "add", "lee", "--no-password")

    assert (0, "There is an account lee now, with the role viewer.\n") == (code, said)
    assert "lee  viewer  (default)  by the proxy, not signed in yet\n" == accounts(store, "list")[1]


def test_an_account_is_changed_shut_and_removed(store: Path) -> None:
    """Only what is named changes; another password is another one."""
    _, first, _ = accounts(store, "add", "kim", "--tenant", "salon")
    changed = [
        accounts(store, "change", "kim", *words)[0] for words in (("--role", "admin", "--everywhere"), ("--disable",))
    ]
    shown = accounts(store, "list")[1]
    code, second, _ = accounts(store, "password", "kim")
    opened = [opens(store, "kim", password.strip()) for password in (first, second)]
    enabled = accounts(store, "change", "kim", "--enable", "--not-everywhere")[0], accounts(store, "list")[1]
    removed = accounts(store, "remove", "kim")

    assert ([0, 0], "kim  admin  every tenant  disabled, not signed in yet\n") == (changed, shown)
    assert (0, [False, True]) == (code, opened)
    assert (0, "kim  admin  salon  password, not signed in yet\n") == enabled
    assert (0, "The account kim is removed.\n") == removed[:2]
    assert [] == listed(store)


def test_what_cannot_be_done_is_told_and_changes_nothing(store: Path) -> None:
    """An account that is not there, or that is there already; nothing to change; a role that there is not."""
    accounts(store, "add", "kim")
    before = listed(store)
    missing = [
        accounts(store, *words) for words in (("change", "lee", "--disable"), ("password", "lee"), ("remove", "lee"))
    ]
    wrong = [
        accounts(store, *words) for words in (("add", "kim"), ("change", "kim"), ("change", "kim", "--role", "king"))
    ]

    assert [1, 1, 1] == [code for code, _, _ in missing]
    assert all("There is no account 'lee'. `chatkeep accounts list`" in said for _, _, said in missing)
    assert ["", "", ""] == [output for _, output, _ in missing], "a password was shown that nobody has"
    assert [2, 2, 2] == [code for code, _, _ in wrong]
    assert "nothing was changed" in wrong[1][2]
    assert before == listed(store)
