"""A person is erased, and the receipt says what was."""

from __future__ import annotations

from typing import Any

import pytest

from chatkeep import UsageError
from chatkeep.auth.credentials import issue_user_token, list_user_tokens
from chatkeep.storage.records import RESERVED

from ..support.counting import count
from ..support.people import ids


async def test_all_of_a_person_is_erased_and_nothing_else(opened: Any) -> None:
    """Under each name, claims included; another user's, and another tenant's of the same name, stay. Twice is fine."""
    keep = await opened(count)
    salon, ada = keep.tenant("salon"), keep.user("ada")
    for name, owner in (("trip", "ada"), ("shop", "guest:1"), ("old", "adele"), ("hers", "eve"), ("gone", "ada")):
        await keep.receive(name, "hello", owner=owner)
    await salon.receive("trip", "hello", owner="ada")
    await ada.claim("guest:1")
    await ada.claim("adele")
    await ada.delete("gone")
    for owner in ("ada", "ada", "adele", "eve"):
        await issue_user_token(keep, "", owner)
    receipt = await ada.erase(by="an operator")
    again = await ada.erase()
    left = [row.key async for row in rows(keep) if row.owner in ("ada", "guest:1", "adele")]
    await keep.user("eve").claim("guest:1")

    assert ("", "ada", ["ada", "adele", "guest:1"]) == (receipt.tenant, receipt.user, sorted(receipt.names))
    assert (["old", "shop", "trip"], 6, 3, 2, 4) == (
        receipt.conversations,
        receipt.entries,
        receipt.tokens,
        receipt.claims,
        receipt.notes,
    )
    assert ([], 0, 0, ["ada"]) == (again.conversations, again.tokens, again.claims, again.names)
    assert [("salon", "trip")] == [(key.tenant, key.id) for key in left]
    assert [[], ["hers"], ["trip"]] == [await ids(user) for user in (ada, keep.user("eve"), salon.user("ada"))]
    assert ([], 1) == (await list_user_tokens(keep, "", "ada"), len(await list_user_tokens(keep, "", "eve")))
    assert 0 == (await ada.changes()).total


async def test_another_account_of_the_same_person_is_the_same_person(opened: Any) -> None:
    """Whichever name is given; a guest that was claimed has nothing of its own any more."""
    keep = await opened(count)
    await keep.receive("one", "hello", owner="ada")
    await keep.receive("two", "hello", owner="eve")
    await keep.user("eve").claim("ada")
    await keep.user("eve").claim("guest:1")
    with pytest.raises(UsageError, match="nothing was erased"):
        await keep.user("guest:1").erase()
    receipt = await keep.user("ada").erase()

    assert ("eve", ["one", "two"], 2) == (receipt.user, receipt.conversations, receipt.claims)


async def rows(keep: Any) -> Any:
    """Every row of the store, but those of the audit log and the store's own."""
    store = keep._engine.store
    after = None
    while page := await store.rows("key", after=after, limit=100):
        for row in page:
            if not row.key.tenant.startswith(f"{RESERVED}audit"):
                yield row
        after = page[-1]
