"""The server of these tests: a bot with a form, slow and streamed answers. `python -m tests.support.shop STORE PORT [offline]`.

A second server is mounted at /other. /token makes the tokens of a site with sign-in: `?tenant=`, `?user=`, `?id=`;
/log has what a tenant's conversation says. Anybody may sign in as one of USERS; a cookie "who" is a session of the site's own.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from chatkeep import Chatkeep, Turn
from chatkeep.auth.credentials import issue_token
from chatkeep.server import KnownUser, create_app

USERS = tuple(f"user{number}" for number in range(40))
SCOPES = ("read", "send", "share", "state:read", "state:write")
STORY = "Once upon a time a message was sent 🍕 and it arrived, once, and in order, ever after."


async def bot(turn: Turn[Any]) -> AsyncIterator[str]:
    """Counts and echoes; "tell" streams a story, "slow" thinks, "fail" fails, "form" reads what the page has filled in,
    "offer" gives buttons."""
    said = turn.state.setdefault("said", [])
    said.append(turn.text)
    match turn.text:
        case "tell":
            for word in STORY.split(" ")[len(turn.said.split()) :]:
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
    store, port, *options = sys.argv[1:]
    keep, other = (
        Chatkeep(url, retry_after="1ms", retry_longest="5ms", attempts=3, poll="100ms") for url in (store, "memory://")
    )

    async def token(request: Request) -> Response:
        """A token as the site's own backend makes it."""
        asked = request.query_params
        made = await issue_token(
            keep, asked.get("tenant", ""), asked.get("id", "support"), scopes=SCOPES, subject=asked.get("user", "")
        )
        return JSONResponse(made.token)

    async def log(request: Request) -> Response:
        """What people have said in a conversation."""
        asked = request.query_params
        history = keep.tenant(asked.get("tenant", "")).history(asked.get("id", "support"))
        return JSONResponse([message.text async for message in history if message.role == "user"])

    def known(request: Request) -> str | KnownUser | None:
        """Who has a session, or a token of the site's own, which says whose it is and until when."""
        said = request.headers.get("authorization", "").removeprefix("Bearer site.").split(".")
        return KnownUser(user=said[0], expires_at=float(said[1])) if len(said) == 2 else request.cookies.get("who")

    people: dict[str, Any] = {"sample_users": USERS, "users": known}
    apps = []
    for served in (keep, other):
        served.on_message(bot)
        given = people | {"offline": "offline" in options} if served is keep else {}
        apps.append(create_app(served, title="The shop", anonymous=True, visitor_scopes=SCOPES, **given))

    @asynccontextmanager
    async def life(app: Starlette) -> AsyncIterator[None]:
        async with apps[0].router.lifespan_context(apps[0]), apps[1].router.lifespan_context(apps[1]):
            yield

    routes = [Route("/token", token), Route("/log", log), Mount("/other", apps[1]), Mount("/", apps[0])]
    uvicorn.run(
        Starlette(routes=routes, lifespan=life),
        port=int(port),
        log_level="warning",
        ws="none",
        timeout_graceful_shutdown=1,
    )
