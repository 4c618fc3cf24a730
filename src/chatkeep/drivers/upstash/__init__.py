"""Redis over REST, as Upstash and Vercel KV offer it."""

from .driver import UpstashDriver

__all__ = ["UpstashDriver"]
