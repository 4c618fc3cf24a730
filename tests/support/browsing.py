"""A real browser, people who use it, and a shop whose server can be killed and started again.

Needs Chromium: set CHATKEEP_CHROMIUM to its path, or install it where it is looked for.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect, sync_playwright

from chatkeep.testing.servers import free_port

from .fork_server import NOWHERE, ROOT, Program
from .program import PATIENCE_S, plain_environment

PLACES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE_MS = 15_000


@contextmanager
def launched() -> Iterator[Browser]:
    """A browser; skips loudly where there is none."""
    path = os.environ.get("CHATKEEP_CHROMIUM") or next(filter(None, map(shutil.which, PLACES)), None)
    if path is None:
        pytest.skip(
            "NO BROWSER, NEITHER CLIENT NOR CHAT PAGE IS TESTED: run `apt-get install chromium`, or set CHATKEEP_CHROMIUM"
        )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def profile(browser: Browser, **options: Any) -> Iterator[BrowserContext]:
    """One person's browser: a localStorage of its own, and no error on any of its pages."""
    context = browser.new_context(**({"viewport": {"width": 900, "height": 760}} | options))
    context.set_default_timeout(PATIENCE_MS)
    expect.set_options(timeout=PATIENCE_MS)
    errors: list[str] = []
    context.on("weberror", lambda error: errors.append(str(error.error)))
    context.on("console", lambda said: errors.append(said.text) if "Content Security Policy" in said.text else None)
    yield context
    context.close()

    assert [] == errors


class Shop:
    """`tests.support.shop` in a process of its own; use it in a with statement."""

    def __init__(self, folder: Path, url: str = "", *options: str) -> None:
        self.folder, self.port, self.options = folder, free_port(), options
        self.url = url or f"sqlite:///{folder}/shop.db"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.kill()

    @property
    def address(self) -> str:
        """Where its page is."""
        return f"http://127.0.0.1:{self.port}/"

    def start(self) -> None:
        """Starts it, on the same store and port as before, and waits until it answers."""
        with (self.folder / "shop.err").open("ab") as errors:
            self.process = self.begin(errors.fileno())
        deadline = time.monotonic() + 3 * PATIENCE_S
        while True:
            try:
                urllib.request.urlopen(f"{self.address}healthz", timeout=1).close()
                assert self.process.poll() is None, "another program has its port"
                return
            except OSError:
                assert self.process.poll() is None, (self.folder / "shop.err").read_text()
                assert time.monotonic() < deadline, "the shop does not answer"
                time.sleep(0.05)

    def begin(self, errors: int) -> Program | subprocess.Popen[bytes]:
        """Its process, which writes what goes wrong to *errors*."""
        return Program(
            self.url,
            str(self.port),
            *self.options,
            folder=ROOT,
            environment=plain_environment(),
            streams=(NOWHERE, NOWHERE, errors),
            module="tests.support.shop",
        )

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait(PATIENCE_S)


def page_of_a_proxy(status: int) -> Callable[[Route], None]:
    """What a proxy without a server behind it answers to each request: a page of its own."""
    return lambda route: route.fulfill(status=status, content_type="text/html", body="<!doctype html>")


def bare(person: BrowserContext, address: str, options: str = "{}", *, at: str = "client.js") -> Page:
    """A tab with nothing but the client on it, as `chat`."""
    page = person.new_page()
    page.goto(f"{address}{at}")
    page.evaluate(
        f"async () => {{ window.client = await import('/client.js'); window.chat = await client.open({options}); }}"
    )
    return page


def account_of(person: BrowserContext, address: str, user: str | None = None) -> Page:
    """A tab with nothing but an account on it, as `account`; signed in as a sample user, or as whoever was before. `ids.c` is an id
    that only this user's tests use."""
    page = person.new_page()
    page.goto(f"{address}account.js")
    page.evaluate(
        """async (user) => {
          window.module = await import('/account.js');
          window.notices = [];
          if (user) localStorage.prefix ??= user;
          window.ids = new Proxy({}, { get: (_, name) => `${localStorage.prefix}-${name}` });
          window.account = new module.Account();
          account.on('notice', (notice) => notices.push(notice));
          await account.loaded;
          window.signIn = async (user) =>
            account.signIn({ token: await (await fetch(`/sample-users/${user}`, { method: 'POST' })).json() });
          if (user) await signIn(user);
        }""",
        user,
    )
    return page


def again(page: Page, options: str = "{}") -> None:
    """Reloads a bare tab, and opens the chat anew."""
    page.reload()
    page.evaluate(
        f"async () => {{ window.client = await import('/client.js'); window.chat = await client.open({options}); }}"
    )


def send(page: Page, *texts: str) -> None:
    """Sends messages, one after the other."""
    page.evaluate("async (texts) => { for (const text of texts) await chat.send(text); }", list(texts))


def said(page: Page) -> list[str]:
    """The texts of the chat, in order."""
    found: list[str] = page.evaluate("chat.messages.map((message) => message.text)")
    return found


def wait(page: Page, condition: str, argument: object = None) -> None:
    """Waits until an expression over `chat` is true."""
    page.wait_for_function(
        f"(given) => {{ const said = chat.messages.map((m) => m.text); return {condition}; }}", arg=argument
    )
