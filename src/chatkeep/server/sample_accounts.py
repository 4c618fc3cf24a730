"""Accounts that anybody may sign in to, for trying out what people with several devices have; never where others can reach the server."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from ..auth import credentials
from ..errors import Misconfigured
from . import access, wire
from .access import ELSEWHERE, allows, keep_of, same_origin
from .people import credential_of

BROWSERS = {"Edg/": "Edge", "OPR/": "Opera", "Firefox/": "Firefox", "Chrome/": "Chrome", "Safari/": "Safari"}
SYSTEMS = {
    "Android": "Android",
    "iPhone": "iPhone",
    "iPad": "iPad",
    "Windows": "Windows",
    "Mac OS": "macOS",
    "Linux": "Linux",
}


class SampleAccount(wire.Resource):
    """/accounts/{user}"""

    @allows(anyone=True)
    async def post(self, request: Request) -> Response:
        """Sign in as a sample account: make a token for a new device of it."""
        user = request.path_params["user"]
        if user not in request.app.state.accounts:
            raise access.not_found()
        if not same_origin(request):
            raise access.forbidden(ELSEWHERE)
        label = describe_device(request.headers.get("user-agent", ""))
        issued = await credentials.issue_user_token(keep_of(request), "", user, label=label)
        return wire.as_json(credential_of(issued), status=201)


def describe_device(agent: str) -> str:
    """Return what a device is called in a list, by what its browser says of itself: "Firefox, Windows"."""
    browser = next((name for mark, name in BROWSERS.items() if mark in agent), "A browser")
    system = next((name for mark, name in SYSTEMS.items() if mark in agent), "")
    return f"{browser}, {system}" if system else browser


def routes_of(accounts: Sequence[str]) -> list[BaseRoute]:
    """Return the route for signing in, where there are sample accounts."""
    if any(not name or set(name) & set(" /\"'<>&%?#:") for name in accounts):
        raise Misconfigured(f"accounts: {list(accounts)!r} are to be plain names; nothing was started.")
    return [wire.RawRoute("/accounts/{user}", SampleAccount)] if accounts else []
