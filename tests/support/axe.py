"""What axe-core, which looks for what keeps people from using a page, finds on one. It comes from npm."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from playwright.sync_api import Frame, Page

from .npm import install

GRAVE = ("serious", "critical")


@cache
def script() -> str:
    """The library, fetched once in a run; skips loudly where there is no npm."""
    with TemporaryDirectory() as folder:
        return (install(Path(folder), "axe-core") / "node_modules" / "axe-core" / "axe.min.js").read_text()


def faults(page: Page | Frame) -> list[str]:
    """What is serious or critical on *page*: the rule, and the elements that break it. The page's policy lets no script in, so it is
    run from outside; frames within the page are looked at by themselves."""
    page.evaluate(script() + "; 0")
    found = page.evaluate("axe.run(document, { iframes: false, resultTypes: ['violations'] })")
    return [
        f"{each['id']} ({each['impact']}): {[node['html'][:200] + ' ' + str(node['failureSummary'])[:300] for node in each['nodes'][:3]]}"
        for each in found["violations"]
        if each["impact"] in GRAVE
    ]
