"""A browser for all, a person and a shop for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext

from .browsing import Shop, launched, profile


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for the tests of a file."""
    with launched() as browser:
        yield browser


@pytest.fixture
def person(browser: Browser) -> Iterator[BrowserContext]:
    """Somebody with a browser profile of their own."""
    with profile(browser) as context:
        yield context


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    """A running shop."""
    with Shop(tmp_path) as shop:
        yield shop
