"""Conversations over HTTP, and a page to chat on: `create_app` makes a Starlette application of a Chatkeep."""

from ..extras import from_extra

with from_extra("server", "chatkeep.server"):
    from .app import create_app
    from .jwts import jwt_users
    from .principals import KnownUser

__all__ = ["KnownUser", "create_app", "jwt_users"]
