"""The alert rules, run by promtool: what fires, and what is no more than a blip."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ALERTS = Path(__file__).parents[2] / "deploy" / "alerts.yaml"
PROMTOOL = os.environ.get("CHATKEEP_PROMTOOL") or shutil.which("promtool") or ""

OURS = 'instance="a", job="chatkeep"'
CASES: dict[str, tuple[dict[str, str], int, int]] = {
    "ChatkeepNotReady": ({f"chatkeep_ready{{{OURS}}}": "1x9 0x50"}, 9, 12),
    "ChatkeepDown": ({f"up{{{OURS}}}": "1x9 0x50"}, 9, 12),
    "ChatkeepStoreRolledBack": ({f"chatkeep_rolled_back_total{{{OURS}}}": "0x9 1x50"}, 9, 12),
    "ChatkeepMessagesSetAside": ({f"chatkeep_dead_total{{{OURS}}}": "0x9 1x50"}, 9, 12),
    "ChatkeepHandlersHang": ({f"chatkeep_abandoned{{{OURS}}}": "0x9 2x50"}, 12, 17),
    "ChatkeepUnreadable": ({f"chatkeep_unreadable_conversations{{{OURS}}}": "0x9 3x50"}, 15, 21),
    "ChatkeepJournal": ({f"chatkeep_journaled{{{OURS}}}": "0x9 7x50"}, 15, 21),
    "ChatkeepStoreQueue": ({f"chatkeep_store_acts_waiting{{{OURS}}}": "0x9 500x50"}, 12, 16),
    "ChatkeepSweepBehind": ({f"chatkeep_sweep_behind_seconds{{{OURS}}}": "2x9 400x50"}, 12, 16),
    "ChatkeepBacklog": ({f"chatkeep_waiting{{{OURS}}}": "0x9 5000x50"}, 12, 16),
    "ChatkeepRepliesFail": (
        {f'chatkeep_deliveries_total{{{OURS}, channel="whatsapp", status="failed", cause="window"}}': "0x9 2x50"},
        9,
        12,
    ),
    "ChatkeepRepliesHeldUp": (
        {
            f'chatkeep_deliveries_total{{{OURS}, channel="telegram", status="retry", cause="platform"}}': "0x9 0+30x60",
            f'chatkeep_deliveries_total{{{OURS}, channel="telegram", status="delivered", cause="none"}}': "0+9x70",
        },
        12,
        40,
    ),
    "ChatkeepTurnsFail": (
        {f"chatkeep_failures_total{{{OURS}}}": "0x9 0+30x60", f"chatkeep_turns_total{{{OURS}}}": "0+60x70"},
        11,
        40,
    ),
}
"""Series, a minute in which the alert must be silent, and one in which it must fire."""

pytestmark = pytest.mark.skipif(
    not PROMTOOL, reason="There is no promtool: apt-get install prometheus, or CHATKEEP_PROMTOOL=/path/to/it"
)


def run(*words: str | Path) -> str:
    """What promtool says; the test fails when it is not content."""
    ended = subprocess.run([PROMTOOL, *map(str, words)], capture_output=True, text=True, check=False, timeout=60)
    assert 0 == ended.returncode, ended.stdout + ended.stderr
    return ended.stdout


def test_the_rules_are_rules() -> None:
    """All of them."""
    assert "SUCCESS" in run("check", "rules", ALERTS)


def test_each_alert_fires_on_what_it_is_for(tmp_path: Path) -> None:
    """And not before its time."""
    tests: list[dict[str, Any]] = []
    for alert, (series, silent, fires) in CASES.items():
        tests.append(
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "promql_expr_test": [
                    {
                        "expr": f'count(ALERTS{{alertname="{alert}", alertstate="firing"}}) or vector(0)',
                        "eval_time": f"{at}m",
                        "exp_samples": [{"labels": "{}", "value": count}],
                    }
                    for at, count in ((silent, 0), (fires, 1))
                ],
            }
        )
    file = tmp_path / "tests.json"
    file.write_text(json.dumps({"rule_files": [str(ALERTS)], "evaluation_interval": "1m", "tests": tests}))

    assert "SUCCESS" in run("test", "rules", file)
    assert CASES.keys() <= {
        rule["alert"] for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]
    }
