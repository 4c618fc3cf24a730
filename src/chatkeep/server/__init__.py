"""Conversations over HTTP, and a page to chat on: `create_app` makes a Starlette application of a Chatkeep."""

from ..extras import from_extra

with from_extra("server", "chatkeep.server"):
    from .app import create_app

__all__ = ["create_app"]
