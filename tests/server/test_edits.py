"""What somebody at the desk changes of a state is undone over HTTP, and known of before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from chatkeep import Chatkeep, Turn
from chatkeep.auth.credentials import create_key
from chatkeep.client import Client
from chatkeep.server import create_app

from ..support.desk import person
from ..support.serving import serving
from ..support.stores import FAST

ONE = "/v1/conversations/ada"


async def bot(turn: Turn[Any]) -> str:
    """Counts."""
    turn.state["count"] = turn.state.get("count", 0) + 1
    return "ok"


async def test_an_admin_s_change_is_undone_and_audited(tmp_path: Path) -> None:
    """By whoever may write states; an agent may not; a change by a key is the application's, and is not noted."""
    keep: Chatkeep[Any] = Chatkeep(f"sqlite:///{tmp_path}/chat.db", **FAST)
    keep.on_message(bot)
    async with serving(create_app(keep)) as port:
        await keep.receive("ada", "hello")
        admin, agent = await person(keep, port, "admin", shown="Kim"), await person(keep, port, "agent")
        key = (await create_key(keep, "")).token
        async with Client(f"http://127.0.0.1:{port}", key) as client:
            await client.conversation("ada").patch({"cart": ["tea"]})
            changed = await admin.ask("PUT", f"{ONE}/state/cart", [], If_Match="*")
            note = [entry async for entry in client.desk.history("ada")][-1]
            before = await client.desk.as_of("ada", note.number - 1)
            refused = await agent.ask("POST", f"{ONE}/changes/{note.number}")
            undone = await admin.ask("POST", f"{ONE}/changes/{note.number}")
            state = await client.conversation("ada").state()
            await client.conversation("ada").patch({"cart": ["cake"]})
            late = await admin.ask("POST", f"{ONE}/changes/{note.number}")
            missing = await admin.ask("POST", "/v1/conversations/nobody/changes/1")
            acts = [act.act for act in await client.desk.audit()]

    assert 200 == changed.status, changed
    assert ("Kim", {"cart": {"was": ["tea"], "now": []}}) == (note.metadata["by"], note.metadata["slots"])
    assert (True, {"count": 1, "cart": ["tea"]}) == (before.complete, before.slots)
    assert 403 == refused.status
    assert 204 == undone.status, undone
    assert {"count": 1, "cart": ["tea"]} == state
    assert (409, "urn:chatkeep:changed-since") == (late.status, late.json["type"])
    assert missing.status in (400, 404)
    assert "undo" in acts
