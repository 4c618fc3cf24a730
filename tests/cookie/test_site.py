"""Whose cookie it is that a request brings."""

from __future__ import annotations

import pytest

from chatkeep.cookie.site import Place, Site, cookies_named

ANY = Place(name=None, path="/", secure=None, same_site="lax", host=None)


@pytest.mark.parametrize(
    ("host", "https", "expected"),
    [
        ("shop.example.com", True, Site("__Host-chat", "shop.example.com", secure=True)),
        ("Shop.Example.COM:8443 ", True, Site("__Host-chat", "shop.example.com", secure=True)),
        ("shop.example.com", False, Site("__Host-chat", "shop.example.com", secure=True)),
        ("localhost:8000", False, Site("chat", "localhost", secure=False)),
        ("localhost:8000", True, Site("__Host-chat", "localhost", secure=True)),
        ("bot.localhost", False, Site("chat", "bot.localhost", secure=False)),
        ("printer.local", False, Site("chat", "printer.local", secure=False)),
        ("shop.test", False, Site("chat", "shop.test", secure=False)),
        ("shop.internal", False, Site("chat", "shop.internal", secure=False)),
        ("shop.", False, Site("chat", "shop.", secure=False)),
        ("127.0.0.1:8000", False, Site("chat", "127.0.0.1", secure=False)),
        ("10.1.2.3", False, Site("chat", "10.1.2.3", secure=False)),
        ("93.184.216.34", False, Site("__Host-chat", "93.184.216.34", secure=True)),
        ("[::1]:8000", False, Site("chat", "[::1]", secure=False)),
        ("[2606:4700::1111]:80", False, Site("__Host-chat", "[2606:4700::1111]", secure=True)),
        ("2606:4700::1111", False, Site("__Host-chat", "2606:4700::1111", secure=True)),
    ],
)
def test_what_may_be_public_is_kept_to_https(host: str, https: bool, expected: Site) -> None:
    """A browser keeps no `Secure` cookie of a machine that is reached by http; a name without a dot is none of the public network."""
    assert expected == ANY.site_of(host, https=https)


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        (Place("bot", "/", None, "lax", None), Site("bot", "localhost", secure=False)),
        (Place(None, "/", True, "lax", None), Site("__Host-chat", "localhost", secure=True)),
        (Place(None, "/bot", True, "lax", None), Site("chat", "localhost", secure=True)),
        (Place(None, "/", False, "lax", "shop.example.com"), Site("chat", "shop.example.com", secure=False)),
    ],
)
def test_what_was_said_goes_before_what_a_request_says(place: Place, expected: Site) -> None:
    """A name that begins with `__Host-` is for the path / alone."""
    assert expected == place.site_of("localhost", https=False)


def test_all_cookies_of_the_name_are_read() -> None:
    """In all headers, without quotes and spaces; an empty one is none, and another name is another cookie."""
    headers = ['chat=a; other=x;  chat = "b" ', "chat=; chats=y; chat", "chat=c=d"]

    assert ["a", "b", "c=d"] == cookies_named("chat", headers)
