"""The files of the pages over HTTP: compressed for who reads that, and not sent again to who has them."""

from __future__ import annotations

import gzip

import pytest
from starlette.testclient import TestClient

from chatkeep import Chatkeep
from chatkeep.server import create_app
from chatkeep.server.assets import CLIENT, PAGE


def test_a_coding_is_read_as_browsers_and_proxies_write_it() -> None:
    """With spaces and upper case anywhere, more than once, and not where its weight is 0."""
    given = {
        "br ; q=1, gzip ; q=0.5": True,
        "GZIP": True,
        "gzip;Q=1.000": True,
        "deflate,\tgzip\t;\tq=0.001": True,
        "x-gzip": True,
        "gzip ; q=0": False,
        "gzip;q=0.000": False,
        "gzipped, br": False,
        "gzip;q=high": False,
        "": False,
    }
    with TestClient(create_app(Chatkeep("memory://"), title="T", hosts=["*"])) as client:
        found = {
            value: client.get("/client.js", headers={"accept-encoding": value}).headers.get("content-encoding")
            == "gzip"
            for value in given
        }

    assert given == found


@pytest.mark.parametrize("path", [*CLIENT, *PAGE])
def test_a_file_is_compressed_and_sent_once(path: str) -> None:
    """The same text either way, each way under a tag of its own, which counts for that way only."""
    with TestClient(create_app(Chatkeep("memory://"), title="T", hosts=["*"])) as client:
        ways = {coding: client.get(path, headers={"accept-encoding": coding}) for coding in ("gzip, br", "gzip;q=0")}
        packed, plain = ways.values()
        again = {
            (coding, way.headers["etag"]): client.get(
                path, headers={"accept-encoding": coding, "if-none-match": way.headers["etag"]}
            ).status_code
            for coding in ways
            for way in ways.values()
        }

    assert ("gzip", None) == (packed.headers["content-encoding"], plain.headers.get("content-encoding"))
    assert packed.text == plain.text
    assert int(packed.headers["content-length"]) == len(gzip.compress(packed.content, 9, mtime=0))
    assert {"accept-encoding"} == {way.headers["vary"] for way in ways.values()}
    assert {"no-cache"} == {way.headers["cache-control"] for way in ways.values()}
    assert [304, 200, 200, 304] == list(again.values())
