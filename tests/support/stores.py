"""The stores that tests run on: a fresh one of any kind, and settings that make a Chatkeep impatient."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from chatkeep.testing.servers import RedisServer

STORES = tuple(os.environ.get("TEST_STORES", "memory sqlite redis postgresql upstash").split())
EVERY_STORE = (*STORES, *({"durable-object"} - {*STORES}))
"""Where what is promised is tried; what the engine makes of that is tried on STORES, for workerd takes its time."""
LASTING = ("sqlite", "redis", "postgresql")
"""Stores that outlive a process, for tests of whole programs: `make test` has the one that is a file (SAMPLED of tests/conftest.py)."""
FAST: dict[str, Any] = {"poll": "20ms", "retry_after": "1ms", "retry_longest": "5ms", "attempts": 3}


def store_url(kind: str, request: pytest.FixtureRequest, folder: Path) -> str:
    """A fresh store of *kind*."""
    name = secrets.token_hex(8)
    match kind:
        case "memory":
            return f"memory://{name}"
        case "sqlite":
            return f"sqlite:///{folder}/chat.db"
        case "redis":
            return f"{request.getfixturevalue('valkey').url}?prefix={name}"
        case "cluster":
            return f"{request.getfixturevalue('cluster')}?prefix={name}"
        case "upstash":
            return f"{request.getfixturevalue('upstash').url}&prefix={name}"
        case "durable-object":
            return f"{request.getfixturevalue('workerd').url}&store={name}"
        case _:
            return f"{request.getfixturevalue('postgres').url}?schema=t{name}"


def cluster_url(servers: Iterable[RedisServer]) -> str:
    """The URL of the store that is on a cluster of *servers*."""
    return "redis+cluster://" + ",".join(f"127.0.0.1:{server.port}" for server in servers)
