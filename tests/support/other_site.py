"""A site of somebody else's, which shows pages that a test gives it under a policy of its own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Site:
    """What it shows (*body*), and under which policy."""

    def __init__(self, port: int) -> None:
        self.port, self.body, self.policy = port, "", ""

    def origin(self, name: str = "127.0.0.1") -> str:
        """The site under one of its names."""
        return f"http://{name}:{self.port}"


@contextmanager
def other_site() -> Iterator[Site]:
    """A running one."""
    site: Site

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *given: object) -> None:
            """Says nothing."""

        def do_GET(self) -> None:
            """The page, whatever is asked for."""
            self.send_response(200)
            self.send_header("content-type", "text/html; charset=utf-8")
            self.send_header("content-security-policy", site.policy)
            self.end_headers()
            self.wfile.write(f'<!doctype html><html lang="en"><title>A shop</title>{site.body}</html>'.encode())

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        site = Site(server.server_address[1])
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield site
        finally:
            server.shutdown()
            thread.join()
