"""The servers that tests start."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from chatkeep.testing.servers import DurableObjectServer, PostgresServer, RedisServer, Server, UpstashServer

pytestmark = pytest.mark.server


@pytest.mark.parametrize("kind", ["redis", "a cluster's second port", "postgresql"])
def test_a_server_whose_port_was_taken_meanwhile_starts_on_another(kind: str, tmp_path: Path) -> None:
    """Between looking for a free port and listening on it somebody else may be quicker."""
    more = ("--cluster-enabled", "yes") if "cluster" in kind else ()
    server: Server = PostgresServer(tmp_path) if kind == "postgresql" else RedisServer("valkey-9", tmp_path, *more)
    taken = server.port
    with socket.socket() as quicker:
        quicker.bind(("127.0.0.1", taken + (10_000 if more else 0)))
        quicker.listen()
        try:
            server.start()

            assert server.answers()
            assert taken != server.port
        finally:
            server.stop()


def test_a_server_is_not_taken_for_the_one_that_was_quicker(tmp_path: Path) -> None:
    """Another server of the same kind answers on the port: this one goes elsewhere."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    with RedisServer("valkey-9", tmp_path / "a") as quicker:
        second = RedisServer("valkey-9", tmp_path / "b")
        second.port = quicker.port
        with second:
            assert second.port != quicker.port
            assert b"process_id:%d\r\n" % second.process.pid in second.ask("INFO", "server")  # type: ignore[union-attr]


def test_a_server_that_is_wanted_on_one_port_fails_when_that_is_taken(tmp_path: Path) -> None:
    """Whoever names a port has told others of it."""
    with socket.socket() as quicker:
        quicker.bind(("127.0.0.1", 0))
        quicker.listen()
        with pytest.raises(RuntimeError, match="already in use"):
            RedisServer("valkey-9", tmp_path, port=quicker.getsockname()[1]).start()


@pytest.mark.parametrize("kind", [RedisServer, PostgresServer, UpstashServer, DurableObjectServer])
def test_a_server_without_a_folder_leaves_nothing(kind: type[Server], tmp_path: Path) -> None:
    """Nobody has to think of one; and it may be named by text."""
    with kind() as server:
        assert server.answers()
        assert server.folder.exists()
    assert not server.folder.exists()

    named = RedisServer("valkey-9", str(tmp_path)) if kind is RedisServer else kind(str(tmp_path))
    with named:
        assert named.answers()
    assert any(tmp_path.iterdir())
