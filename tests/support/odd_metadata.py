"""Metadata that a client may send with a message, named like what chatkeep notes itself, and of other types."""

from __future__ import annotations

from typing import Any

ODD: list[dict[str, Any]] = [
    {"reason": 5},
    {"reason": ["x"]},
    {"kind": "change", "slots": 5, "by": 7},
    {"kind": "change", "slots": {"a": {"was": 1}}, "undoes": "x"},
    {"kind": "conflict", "about": "title", "slot": "", "path": []},
    {"kind": "dead", "reason": {}},
    {"kind": "delivery", "status": 5},
    {"kind": "note", "text": 5, "author": []},
    {"kind": "once", "call": 5},
    {"kind": "status", "id": 5},
    {"response": "x"},
    {"response": {"metadata": 5}},
    {"task": "x"},
    {"amends": "x", "regenerates": 5, "edits": []},
    {"name": 5, "username": [], "author": 5, "written_at": "x", "traceparent": 5, "replay_of": "x"},
    {"stopped": "x", "interrupted": 5, "sent": "x"},
]
