"""The server of these tests: a bot with a form, slow and streamed answers. `python -m tests.web.shop STORE PORT`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import uvicorn

from chatkeep import Chatkeep, Turn
from chatkeep.server import create_app

SCOPES = ("read", "send", "share", "state:read", "state:write")
STORY = "Once upon a time a message was sent 🍕 and it arrived, once, and in order, ever after."


async def bot(turn: Turn[Any]) -> AsyncIterator[str]:
    """Counts and echoes; "tell" streams a story, "slow" thinks, "fail" fails, "form" reads what the page has filled in,
    "offer" gives buttons."""
    said = turn.state.setdefault("said", [])
    said.append(turn.text)
    match turn.text:
        case "tell":
            for word in STORY.split(" "):
                yield f"{word} "
                await asyncio.sleep(0.15)
        case "offer":
            buttons = [{"id": "1", "text": "Red"}, {"id": "2", "text": "Blue <b>"}]
            turn.reply([{"type": "text", "text": "Which one?"}, {"type": "buttons", "buttons": buttons}])
        case "form":
            yield f"The form says {turn.state.get('form')}."
        case "fail":
            raise ValueError("as asked")
        case words:
            await asyncio.sleep(2 if words == "slow" else 0)
            yield f"{len(said)}: {words}"


if __name__ == "__main__":
    store, port = sys.argv[1:]
    keep = Chatkeep(store, retry_after="1ms", retry_longest="5ms", poll="100ms")
    keep.on_message(bot)
    app = create_app(keep, title="The shop", anonymous=True, visitor_scopes=SCOPES)
    uvicorn.run(app, port=int(port), log_level="warning", ws="none", timeout_graceful_shutdown=1)
