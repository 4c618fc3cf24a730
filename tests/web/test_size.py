"""What a browser downloads of a wheel: a server that is installed from one, and pages that open a chat and write."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Page, Response

from ..support import npm
from ..support.browsing import ROOT, Shop
from ..support.program import plain_environment

BUDGET = 12_800
BUDGET_OF_VISITORS = 10_000


class PackedShop(Shop):
    """The shop, on the chatkeep of a wheel instead of the source's."""

    def __init__(self, folder: Path, packages: Path) -> None:
        super().__init__(folder, "memory://")
        self.packages = packages

    def begin(self, errors: int) -> subprocess.Popen[bytes]:
        """Starts it from nothing: what is forked has imported the source."""
        environment = plain_environment() | {"PYTHONPATH": os.pathsep.join([str(self.packages), str(ROOT)])}
        command = [sys.executable, "-m", "tests.support.shop", self.url, str(self.port)]
        return subprocess.Popen(command, cwd=self.folder, env=environment, stderr=errors)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """A shop out of a wheel that is built now."""
    folder = tmp_path_factory.mktemp("wheel")
    esbuild = npm.esbuild(npm.install(folder, "esbuild"))
    environment = os.environ | {"CHATKEEP_ESBUILD": str(esbuild)}
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder],
        cwd=ROOT,
        env=environment,
        check=True,
        capture_output=True,
    )
    zipfile.ZipFile(next(folder.glob("*.whl"))).extractall(folder / "packages")
    with PackedShop(folder, folder / "packages") as shop:
        yield shop


def scripts_of(page: Page) -> list[Response]:
    """The answers with scripts, as they come."""
    answers: list[Response] = []
    page.on("response", lambda answer: answers.append(answer) if answer.url.endswith(".js") else None)
    return answers


def sizes(answers: list[Response]) -> dict[str, int]:
    """What each script has on the wire."""
    assert {"gzip"} == {answer.header_value("content-encoding") for answer in answers}
    return {answer.url.rpartition("/")[2]: int(answer.header_value("content-length") or 0) for answer in answers}


def test_a_page_with_a_user_downloads_one_small_module(packed: Shop, person: BrowserContext) -> None:
    """All that is fetched until a first message is answered; the rest comes when there is something for it to do."""
    page = person.new_page()
    page.goto(f"{packed.address}chat.svg")
    answers = scripts_of(page)
    page.evaluate(
        """async () => {
          window.account = await (await import('/account.js')).openAccount();
          window.signIn = async () => account.signIn({ token: await (await fetch('/sample-users/user0', { method: 'POST' })).json() });
          await signIn();
          window.chat = await account.chat();
          await chat.send('hello');
        }"""
    )
    page.wait_for_function("() => chat.status === 'saved' && chat.messages.at(-1).text === '1: hello'")
    size = sizes(answers)
    print(f"{size}, together {sum(size.values())} bytes")

    assert {"account.js"} == size.keys()
    assert sum(size.values()) < BUDGET
    page.evaluate(
        """async () => {
          await chat.slot('form').set({ name: 'Ada' });
          await account.rename(chat.conversation, 'Hello');
          await account.signOut();
          const { open } = await import('/account.js');
          await (await open()).send('as a guest');
          await signIn();
        }"""
    )
    page.wait_for_function("() => account.conversations.length === 2 && !account.stats().outbox.waiting")
    assert {"slots.js", "outbox.js", "changes.js", "tokens.js", "visitors.js", "claims.js"} <= sizes(answers).keys()
    assert not {"client.js", "minting.js", "lines.js", "unkept.js"} & sizes(answers).keys()


def test_a_page_of_visitors_downloads_less(packed: Shop, person: BrowserContext) -> None:
    """The client alone, and what a visitor's chat begins with."""
    page = person.new_page()
    page.goto(f"{packed.address}chat.svg")
    answers = scripts_of(page)
    page.evaluate("async () => { window.chat = await (await import('/client.js')).open(); await chat.send('hello'); }")
    page.wait_for_function("() => chat.status === 'saved' && chat.messages.at(-1).text === '1: hello'")
    size = sizes(answers)
    print(f"{size}, together {sum(size.values())} bytes")

    assert {"client.js", "visitors.js"} == size.keys()
    assert sum(size.values()) < BUDGET_OF_VISITORS
