"""What a browser downloads of a wheel: a server that is installed from one, and a page that signs in, opens a chat and writes."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Response

from ..support import npm
from ..support.browsing import ROOT, Shop
from ..support.program import plain_environment

BUDGET = 17_000


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


def test_a_page_with_a_user_downloads_two_small_modules(packed: Shop, person: BrowserContext) -> None:
    """On the wire, all that is fetched until a first message is answered; what takes a guest's chats over is fetched when there are any."""
    page = person.new_page()
    answers: list[Response] = []
    page.goto(f"{packed.address}chat.svg")
    page.on("response", lambda answer: answers.append(answer) if answer.url.endswith(".js") else None)
    page.evaluate(
        """async () => {
          window.account = await (await import('/account.js')).openAccount();
          window.signIn = async () => account.signIn({ token: await (await fetch('/sample-users/user0', { method: 'POST' })).json() });
          await signIn();
          window.chat = await account.chat();
          await chat.slot('form').set({ name: 'Ada' });
          await chat.send('hello');
        }"""
    )
    page.wait_for_function("() => chat.status === 'saved' && chat.messages.at(-1).text === '1: hello'")
    size = {answer.url.rpartition("/")[2]: int(answer.header_value("content-length") or 0) for answer in answers}
    print(f"{size}, together {sum(size.values())} bytes")

    assert {"gzip"} == {answer.header_value("content-encoding") for answer in answers}
    assert {"account.js", "client.js"} == size.keys()
    assert sum(size.values()) < BUDGET
    page.evaluate(
        """async () => {
          await account.signOut();
          const { open } = await import('/client.js');
          await (await open()).send('as a guest');
          await signIn();
        }"""
    )
    assert ["claims.js"] == [answer.url.rpartition("/")[2] for answer in answers[len(size) :]]
