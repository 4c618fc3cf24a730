"""Packages of npm for tests: other people's clients, unchanged, in a folder that is thrown away."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from pathlib import Path

import pytest

PATIENCE_S = 180.0


def install(folder: Path, *packages: str) -> Path:
    """Installs *packages* into *folder*, where nothing of them runs; skips loudly where there is no npm."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        pytest.skip(f"NO NPM, SO {packages[0]} IS NOT TRIED: install Node.js, or run where it is")
    folder.joinpath("package.json").write_text('{"private": true, "type": "module"}')
    command = [
        "npm",
        "install",
        "--no-audit",
        "--no-fund",
        "--ignore-scripts",
        "--force",
        "--loglevel=error",
        *packages,
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    if done.returncode:
        pytest.skip(f"NPM GIVES NOTHING, SO {packages[0]} IS NOT TRIED: {done.stderr[-500:]}")
    return folder


def bundle(folder: Path, source: str) -> str:
    """A page's script of *source*, with all that it imports, by the esbuild that is installed in *folder*."""
    folder.joinpath("page.jsx").write_text(source)
    command = [
        str(esbuild(folder)),
        "page.jsx",
        "--bundle",
        "--format=esm",
        '--define:process.env.NODE_ENV="production"',
        "--outfile=page.js",
    ]
    subprocess.run([*command, "--log-level=error"], cwd=folder, check=True, timeout=PATIENCE_S)
    return folder.joinpath("page.js").read_text()


def esbuild(folder: Path) -> Path:
    """The program esbuild that is installed in *folder*."""
    program = next(folder.glob("node_modules/@esbuild/*/bin/esbuild"))
    os.chmod(program, 0o755)
    return program


async def run(folder: Path, script: str, *arguments: str) -> str:
    """What a script prints, run by Node beside the packages in *folder*."""
    folder.joinpath("script.mjs").write_text(script)
    process = await asyncio.create_subprocess_exec(
        "node", "script.mjs", *arguments, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    async with asyncio.timeout(60):
        said, _ = await process.communicate()

    assert process.returncode == 0, said.decode()
    return said.decode()
