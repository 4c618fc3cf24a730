"""Cloudflare Durable Objects, through the worker in workers/."""

from .driver import DurableObjectDriver

__all__ = ["DurableObjectDriver"]
