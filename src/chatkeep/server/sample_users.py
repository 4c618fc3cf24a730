"""Users that anybody may be on the chat page, for trying out what several devices do; never where others can reach the server.

They are users, who own conversations, and no accounts of the operators' desk (`auth.accounts`).
"""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from ..auth import credentials
from ..errors import Misconfigured
from . import wire
from .access import allows, keep_of
from .cookies import refuse_other_pages
from .devices import credential_of
from .refusals import not_found

BROWSERS = {"Edg/": "Edge", "OPR/": "Opera", "Firefox/": "Firefox", "Chrome/": "Chrome", "Safari/": "Safari"}
SYSTEMS = {
    "Android": "Android",
    "iPhone": "iPhone",
    "iPad": "iPad",
    "Windows": "Windows",
    "Mac OS": "macOS",
    "Linux": "Linux",
}


class SampleUser(wire.Resource):
    """/sample-users/{user}"""

    @allows(anyone=True)
    async def post(self, request: Request) -> Response:
        """Sign in as a sample user: make a token for a new device of theirs."""
        user = request.path_params["user"]
        if user not in request.app.state.sample_users:
            raise not_found()
        refuse_other_pages(request)
        label = describe_device(request.headers.get("user-agent", ""))
        issued = await credentials.issue_user_token(keep_of(request), "", user, label=label)
        return wire.as_json(credential_of(issued), status=201)


def describe_device(agent: str) -> str:
    """Return what a device is called in a list, by what its browser says of itself: "Firefox, Windows"."""
    browser = next((name for mark, name in BROWSERS.items() if mark in agent), "A browser")
    system = next((name for mark, name in SYSTEMS.items() if mark in agent), "")
    return f"{browser}, {system}" if system else browser


def routes_of(names: Sequence[str]) -> list[BaseRoute]:
    """Return the route for signing in, where there are sample users."""
    if any(not name or set(name) & set(" /\"'<>&%?#:") for name in names):
        raise Misconfigured(f"sample_users: {list(names)!r} are to be plain names; nothing was started.")
    return [wire.RawRoute("/sample-users/{user}", SampleUser)] if names else []
