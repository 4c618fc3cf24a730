"""SQLite."""

from .driver import SqliteDriver

__all__ = ["SqliteDriver"]
