"""The worker as its guide has people run it on their machine: by wrangler, Cloudflare's tool, unchanged from npm."""

from __future__ import annotations

import shutil
import subprocess
from importlib.resources import files
from pathlib import Path

from chatkeep.testing.servers import DurableObjectServer

from . import npm

WRANGLER = "wrangler@4.86.0"  # the last one that runs on Node 20


class Wrangler(DurableObjectServer):
    """`wrangler dev` on the folder with the worker; the *settings* are in .dev.vars there."""

    def __init__(self, folder: Path, *, settings: dict[str, str] | None = None) -> None:
        super().__init__(folder, settings=settings)
        npm.install(self.folder, WRANGLER)
        self.worker_folder = self.folder / "worker"
        shutil.copytree(str(files("chatkeep.drivers.durable_object") / "worker"), self.worker_folder)

    def command(self) -> list[str]:
        """Return what is run."""
        told = [f'{name}="{text}"\n' for name, text in self.settings.items()]
        (self.worker_folder / ".dev.vars").write_text("".join(told))
        return [
            *self.program(),
            "dev",
            "--port",
            str(self.port),
            "--ip",
            "127.0.0.1",
            "--show-interactive-dev-session=false",
        ]

    def program(self) -> list[str]:
        """Return what every command of wrangler begins with."""
        home = ["env", f"HOME={self.folder}", "WRANGLER_SEND_METRICS=false"]
        return [
            *home,
            "node",
            str(self.folder / "node_modules/wrangler/bin/wrangler.js"),
            "--cwd",
            str(self.worker_folder),
        ]

    def run(self, *arguments: str) -> str:
        """Return what a command says, which has to succeed."""
        done = subprocess.run([*self.program(), *arguments], capture_output=True, text=True, timeout=60, check=False)

        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout
