"""Bots in the terminal and the demo, as processes of their own."""

from __future__ import annotations

import os
import pty
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

from chatkeep.testing.servers import free_port

from ..support.program import PATIENCE_S, PROGRAM, Demo, chatkeep, killed_when_late, plain_environment, post


def test_an_order_goes_on_after_a_restart(tmp_path: Path) -> None:
    """Half an order through one pipe, the rest through another process; the log of before is shown first."""
    first = chatkeep("chat", "restaurant", typed="2 margherita\na tiramisù\ncheckout\n", folder=tmp_path)
    second = chatkeep("chat", "restaurant", typed="12 Via Roma\nconfirm", folder=tmp_path)
    other = chatkeep("chat", "restaurant", "--conversation", "bob", typed="cart\n/quit\nmenu\n", folder=tmp_path)

    assert (0, "") == (first[0], first[2])
    assert "bot: Added 2 margherita." in first[1]
    assert "Total: €20.50" in first[1]
    assert (0, "") == (second[0], second[2])
    assert second[1].startswith(first[1])
    assert "in the oven. It goes to 12 Via Roma; €20.50" in second[1]
    assert 1 == second[1].count("Benvenuto")
    assert "Your cart is empty" in other[1]
    assert "Today we have" not in other[1]


def test_a_chat_that_is_killed_is_not_forgotten(tmp_path: Path) -> None:
    """kill -9 after an answer was shown: the next chat has it."""
    process = subprocess.Popen(
        [*PROGRAM, "chat", "restaurant"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=tmp_path,
        env=plain_environment(),
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"3 funghi\n")
    process.stdin.flush()
    with killed_when_late(process):
        while b"Anything else" not in process.stdout.readline():
            assert process.poll() is None
    process.kill()
    process.wait(PATIENCE_S)
    process.stdin.close()
    process.stdout.close()

    assert "3 funghi, €27.00" in chatkeep("chat", "restaurant", typed="cart", folder=tmp_path)[1]


def test_a_chat_in_a_terminal_ends_at_ctrl_c_and_ctrl_d(tmp_path: Path) -> None:
    """With a prompt, without an echo of one's own words, and at once."""
    for end in (b"\x03", b"\x04"):
        leader, follower = pty.openpty()
        process = subprocess.Popen(
            [*PROGRAM, "chat", "restaurant", "--store", f"{end[0]}.db"],
            stdin=follower,
            stdout=follower,
            stderr=follower,
            cwd=tmp_path,
            env=plain_environment(),
            start_new_session=True,
            preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),  # makes it the controlling terminal
        )
        os.close(follower)
        with killed_when_late(process):
            seen = read_until(leader, b"you: ")
            os.write(leader, b"hello\n")
            seen += read_until(leader, b"\nyou: ")
        began = time.monotonic()
        os.write(leader, end)
        code = process.wait(PATIENCE_S)
        os.close(leader)

        assert 0 == code
        assert time.monotonic() - began < 3
        assert 1 == seen.count(b"hello")
        assert b"bot: Benvenuto" in seen


def read_until(source: int, end: bytes) -> bytes:
    """What comes from a terminal, until *end* comes."""
    seen = b""
    while not seen.endswith(end):
        seen += os.read(source, 1024)
    return seen


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_demo_says_where_it_is_and_stops_when_told(tmp_path: Path, number: int) -> None:
    """The address, the store and the hint; a quiet end with code 0."""
    with Demo(tmp_path, "restaurant", "--store", "orders.db") as demo:
        with urllib.request.urlopen(demo.address, timeout=PATIENCE_S) as page:
            title = page.read()
        post(demo.address, "ada", "2 margherita", tmp_path / "orders.db")
        greeting = demo.greeting
        code = demo.stop(number)

    assert b"<title>Bella Napoli</title>" in title
    assert "orders.db" in greeting
    assert f"kill -9 {demo.process.pid}" in greeting
    assert "chatkeep list orders.db" in greeting
    assert (0, "") == (code, demo.complaints())
    assert ["orders-orders.db", "orders.db"] == sorted(file.name for file in tmp_path.glob("*.db*"))


def test_a_port_that_is_taken_is_said_plainly(tmp_path: Path) -> None:
    """Which port, that nothing was started, and what to do."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, _, errors = chatkeep("demo", "--port", port, folder=tmp_path)

    assert 2 == code
    assert f"Port {port} of 127.0.0.1" in errors
    assert "--port 0" in errors
    assert "Traceback" not in errors


def test_the_demo_keeps_to_this_machine(tmp_path: Path) -> None:
    """An address that others can reach is refused."""
    for host in ("0.0.0.0", "::", "192.168.1.5", "example.com"):
        code, _, errors = chatkeep("demo", "--host", host, "--port", str(free_port()), folder=tmp_path)

        assert (2, True) == (code, "nothing was started" in errors)
