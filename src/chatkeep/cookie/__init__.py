"""Chats without a store: each visitor's conversation is sealed in a cookie of the visitor's own. See `CookieChat`."""

from .app import CookieChat
from .chat import Answer, Chat
from .keeping import clear_cookie
from .options import CookieOptions

__all__ = ["Answer", "Chat", "CookieChat", "CookieOptions", "clear_cookie"]
