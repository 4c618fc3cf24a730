"""Redis and Valkey."""

from .driver import RedisDriver

__all__ = ["RedisDriver"]
