"""The addresses for who runs a server, where they answer on a listener of their own (`admin_bind`)."""

from __future__ import annotations

from starlette.routing import BaseRoute, Match, Route
from starlette.types import Receive, Scope, Send

PUBLIC = "chatkeep.public"
"""In the scope of a request that came to the listener of the API, where these addresses have one of their own."""

ADMIN = ("/metrics", "/healthz", "/readyz", "/operator", "/v1/desk/", "/v1/session")
"""How their paths begin: numbers, health, and what only the operators' desk uses."""


class AdminRoute(BaseRoute):
    """*route*, which is not there for a request that came to the listener of the API."""

    def __init__(self, route: Route) -> None:
        self.path = route.path
        self._route = route

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Tell whether the request is for this route."""
        return (Match.NONE, {}) if scope.get(PUBLIC) else self._route.matches(scope)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        await self._route.handle(scope, receive, send)


def set_apart(routes: list[BaseRoute]) -> None:
    """Have those of *routes* that are ADMIN answer no request that came to the listener of the API."""
    routes[:] = [
        AdminRoute(route) if isinstance(route, Route) and route.path.startswith(ADMIN) else route for route in routes
    ]
