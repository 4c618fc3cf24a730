"""
Shortens the scripts of the pages in a wheel that is built where esbuild is: comments and long names are for who reads the source.

`npm install --global esbuild`, `apt-get install esbuild`, or CHATKEEP_ESBUILD=/path/to/it. Where it is not, the wheel has the scripts
as they are written, and the build says so. What is served from a checkout is the source.

The browser's client is put together: client.js and account.js are each one file then. What they fetch later stays apart, and members
that begin with an underscore have the same short names in all of them.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PAGE = Path("src", "chatkeep", "server", "page")
CLIENT = Path("clients", "js")
HOW = ("--minify", "--format=esm", "--target=es2022", "--log-level=warning")


class ShortScripts(BuildHookInterface[Any]):
    """Puts the shortened scripts in the place of those of the page."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Make them, unless the installation is an editable one, which serves the source."""
        self.folder = TemporaryDirectory()
        esbuild = os.environ.get("CHATKEEP_ESBUILD") or shutil.which("esbuild")
        if version == "editable":
            return
        if not esbuild:
            self.app.display_warning("esbuild is not here; the scripts of the pages are packed as they are written")
            return
        shorten(esbuild, Path(self.root), Path(self.folder.name))
        for script in Path(self.folder.name).glob("*.js"):
            build_data["force_include"][str(script)] = f"chatkeep/server/page/{script.name}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove them: they are in the wheel."""
        self.folder.cleanup()


def shorten(esbuild: str, root: Path, folder: Path) -> None:
    """Write the scripts of the pages into *folder*."""
    client = root / CLIENT
    names = ("--mangle-props=^_", f"--mangle-cache={folder / 'names.json'}")
    wholes = [client / "account.js", client / "client.js"]  # the larger one first: it has the shorter names
    later = sorted({name for whole in wholes for name in re.findall(r'import\("\./([\w-]+\.js)"\)', whole.read_text())})
    for whole in wholes:
        types = whole.with_suffix(".d.ts").read_text()
        public = re.findall(r"^export (?:class|function) (\w+)", types, re.MULTILINE)
        public += re.findall(r"^export \{ (.+) \} from", types, re.MULTILINE)
        entry = f'export {{ {", ".join(public)} }} from "./{whole.name}";'
        external = [f"--external:./{name}" for name in later]
        command = [esbuild, "--bundle", *external, *HOW, *names, f"--outfile={folder / whole.name}"]
        subprocess.run(command, input=entry, text=True, cwd=client, check=True)
    subprocess.run([esbuild, *later, *HOW, *names, f"--outdir={folder}"], cwd=client, check=True)
    others = [script for script in sorted((root / PAGE).glob("*.js")) if not (folder / script.name).exists()]
    subprocess.run([esbuild, *others, *HOW, f"--outdir={folder}"], check=True)
