"""
Shortens the scripts of the pages in a wheel that is built where esbuild is: comments and long names are for who reads the source.

`npm install --global esbuild`, `apt-get install esbuild`, or CHATKEEP_ESBUILD=/path/to/it. Where it is not, the wheel has the scripts
as they are written, and the build says so. What is served from a checkout is the source.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PAGE = Path("src", "chatkeep", "server", "page")
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
        scripts = sorted(Path(self.root, PAGE).glob("*.js"))
        subprocess.run([esbuild, *scripts, *HOW, f"--outdir={self.folder.name}"], check=True)
        for script in scripts:
            build_data["force_include"][str(Path(self.folder.name, script.name))] = (
                f"chatkeep/server/page/{script.name}"
            )

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove them: they are in the wheel."""
        self.folder.cleanup()
