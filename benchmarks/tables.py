"""Tables of RESULTS.md that measurements of their own put there, one after another; tables.json has them."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path

TABLES = Path(__file__).parent / "tables.json"


def put(name: str, title: str, about: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Puts a table into tables.json, in place of the one of that name and the same first cells, and writes RESULTS.md anew."""
    from . import report

    kernel = f"{platform.system()} {platform.release().split('-')[0]}"
    machine = f"{os.cpu_count()} cores, {kernel}, CPython {platform.python_version()}"
    tables = json.loads(TABLES.read_text()) if TABLES.exists() else {}
    kept = [row for row in tables.get(name, {}).get("rows", []) if row[0] not in {one[0] for one in rows}]
    tables[name] = {
        "title": title,
        "about": about,
        "taken": time.strftime("%Y-%m-%d"),
        "command": f"python -m benchmarks.{name} {' '.join(sys.argv[1:])}".strip(),
        "machine": machine,
        "head": list(head),
        "rows": [*kept, *map(list, rows)],
    }
    TABLES.write_text(json.dumps(tables, indent=1) + "\n")
    report.write()


def sections() -> list[str]:
    """The parts of RESULTS.md that the tables are."""
    parts = []
    for table in (json.loads(TABLES.read_text()) if TABLES.exists() else {}).values():
        taken = f"Measured on {table['taken']} with `{table['command']}` ({table['machine']})."
        parts += [f"## {table['title']}\n", f"{table['about']} {taken}\n", f"| {' | '.join(table['head'])} |"]
        parts += ["|---" * len(table["head"]) + "|", *(f"| {' | '.join(row)} |" for row in table["rows"]), ""]
    return parts
