"""Runs the suite in two processes side by side, because most tests wait: `python -m tests.halves`. One after the other: `pytest`."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
FIRST = ("acceptance", "channels", "client", "drivers")


def main() -> int:
    """Shows each half's words when it is over; fails if one of them does."""
    rest = sorted(
        path for path in HERE.iterdir() if path.name not in FIRST and path.name.removesuffix(".py") != "halves"
    )
    second = [
        str(path)
        for path in rest
        if (path.is_dir() and (path / "__init__.py").is_file()) or path.name.startswith("test_")
    ]
    halves = {"first": [str(HERE / name) for name in FIRST], "second": second}
    with tempfile.TemporaryDirectory() as folder:
        running = {
            name: subprocess.Popen(
                [sys.executable, "-m", "pytest", f"--basetemp={folder}/{name}", *paths, *sys.argv[1:]],
                stdout=(Path(folder) / f"{name}.txt").open("wb") if name == "second" else None,
                stderr=subprocess.STDOUT,
            )
            for name, paths in halves.items()
        }
        codes = [process.wait() for process in running.values()]
        print((Path(folder) / "second.txt").read_text(errors="replace"))
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
