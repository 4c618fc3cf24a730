"""What keys and people may do."""

from __future__ import annotations

from typing import Any

import pytest

from chatkeep import UsageError
from chatkeep.auth.credentials import EVERYWHERE, SCOPES, StoredCredential
from chatkeep.auth.rights import ALL, RIGHTS, ROLES, checked_for_key, rights_of


@pytest.mark.parametrize(
    ("scopes", "expected"),
    [
        ((), ALL),
        ((EVERYWHERE,), ALL | {EVERYWHERE}),
        (("list", "read"), {"list", "read"}),
        (("list", EVERYWHERE), {"list", EVERYWHERE}),
    ],
)
def test_a_key_has_what_was_named_or_everything_of_its_tenant(scopes: tuple[str, ...], expected: set[str]) -> None:
    """What concerns all tenants only where that was said."""
    assert expected == rights_of(StoredCredential(kind="service", scopes=scopes))


def test_scopes_of_a_key_are_named_once() -> None:
    """In their order."""
    assert ("list", "read") == checked_for_key(["list", "read", "list"])


@pytest.mark.parametrize(
    ("scopes", "words"),
    [(["list", "king"], "'king' is not a scope"), ([EVERYWHERE], "is not a scope"), ([], "would allow nothing")],
)
def test_a_scope_that_there_is_not_is_refused(scopes: Any, words: str) -> None:
    """And so is none: a list that came out empty must not mean everything."""
    with pytest.raises(UsageError, match=words):
        checked_for_key(scopes)


def test_roles_grow_and_nobody_writes_in_a_customers_name() -> None:
    """A viewer changes nothing, and sees nothing that is personal."""
    assert ROLES["viewer"] < ROLES["agent"] < ROLES["admin"] < ALL
    assert SCOPES | RIGHTS == ALL
    assert all("send" not in rights and "share" not in rights for rights in ROLES.values())
    assert ROLES["viewer"].isdisjoint({"reveal", "operate", "erase", "state:write", "export", "hold"})
    assert ROLES["agent"].isdisjoint({"erase", "export", "hold", "tokens", "switch", "audit"})
