"""Users for trying out: only those that are named, only from a page of this host; and what goes into the page's files."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient

from chatkeep import Chatkeep, errors
from chatkeep.server import create_app
from chatkeep.server.sample_users import describe_device

PAGE = {"sec-fetch-site": "same-origin"}


def client_of(**options: object) -> TestClient:
    """A client of an application."""
    keep: Chatkeep = Chatkeep("memory://")
    return TestClient(create_app(keep, title="T", hosts=["*"], **options))  # type: ignore[arg-type]


def test_a_sample_user_is_signed_in_as() -> None:
    """With a token of its own for each device; nobody else is, and no other site's page does it."""
    with client_of(sample_users=["ada"]) as client:
        agent = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
        signed = client.post("/sample-users/ada", headers=PAGE | {"user-agent": agent})
        me = client.get("/v1/me", headers={"authorization": f"Bearer {signed.json()['token']}"})

        assert (201, "ada", "Firefox, Linux") == (signed.status_code, me.json()["user"], signed.json()["label"])
        assert 404 == client.post("/sample-users/eve", headers=PAGE).status_code
        assert 403 == client.post("/sample-users/ada", headers={"origin": "https://other.example"}).status_code
        assert 'data-users="ada"' in client.get("/").text
    with client_of() as client:
        assert 404 == client.post("/sample-users/ada", headers=PAGE).status_code


def test_odd_names_are_refused() -> None:
    """They would be read as something else in the page."""
    with pytest.raises(errors.Misconfigured, match="sample_users"):
        client_of(sample_users=["ada eve"])


def test_a_device_has_a_name() -> None:
    """By what its browser says; whatever it says."""
    assert "Edge, Windows" == describe_device("Mozilla/5.0 (Windows NT 10.0) Chrome/140 Safari/537 Edg/140")
    assert "Safari, iPhone" == describe_device("Mozilla/5.0 (iPhone; like Mac OS X) Version/18 Safari/604")
    assert "A browser" == describe_device("")


def test_the_service_worker_is_named_by_what_it_keeps() -> None:
    """Another title is another version; without `offline` there is none, and the worker removes itself."""
    found = {}
    for title, offline in (("A", True), ("B", True), ("A", False)):
        keep: Chatkeep = Chatkeep("memory://")
        with TestClient(create_app(keep, title=title, hosts=["*"], offline=offline)) as client:
            found[title, offline] = client.get("/offline.js").text
            assert ('data-offline="yes"' in client.get("/").text) is offline

    assert found["A", True] != found["B", True]
    assert 'VERSION = ""' in found["A", False]
    assert 'VERSION = ""' not in found["A", True]
