"""People at the desk are recognised by every server on a store, and by none any more when their sessions were ended."""

from __future__ import annotations

import pytest

from chatkeep.auth import accounts

from ..support.desk import PASSWORD, Person, chat
from ..support.serving import served
from ..support.waiting import until


async def test_accounts_and_sessions_are_kept_by_every_store(url: str) -> None:
    """Two servers on one store: who is added and signed in through one is known to the other, and so is that it has ended."""
    keep = chat(url)
    async with served(keep) as client:
        await accounts.add_account(keep, "kim", role="agent", password=PASSWORD, shown="Kim")
        kim = Person(client.port)
        signed = await kim.sign_in({"name": "kim", "password": PASSWORD})
        await keep.receive("ada", "hello")
        written = await kim.ask("POST", "/v1/conversations/ada/operator", {"content": "I am here.", "author": "Eve"})
        noted = [
            (await kim.ask("POST", f"/v1/conversations/{id}/notes", {"text": "a friend", "id": "n1"})).status
            for id in ("ada", "ada", "nobody")
        ]
        log = (await kim.ask("GET", "/v1/conversations/ada/messages")).json["messages"]
        story = (await kim.ask("GET", "/v1/conversations/ada/story")).json
        ended = await accounts.end_sessions(keep, "kim")

        async def out() -> bool:
            return (await kim.ask("GET", "/v1/conversations")).status == 401

        await until(out, every=0.1)
        with pytest.raises(accounts.UsageError, match="already"):
            await accounts.add_account(keep, "KIM", role="viewer", password=PASSWORD)

    assert (201, 201, [204, 204, 404], 1) == (signed.status, written.status, noted, ended)
    assert "Kim" == next(message["author"] for message in log if message["role"] == "operator")
    assert [("note", "Kim", "a friend")] == [
        (note["kind"], note["author"], note["text"]) for note in story["notes"] if note["kind"] == "note"
    ]
    assert [(1, 1, [2])] == [(turn["first"], turn["last"], turn["replies"]) for turn in story["turns"]]
    assert {"say", "note"} <= {act["act"] for act in story["acts"]}
