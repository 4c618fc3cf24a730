"""What users save with SQL and with the library, as one table, and the rights that the docs give them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from chatkeep import Chatkeep

DOCS = Path(__file__).parents[2] / "docs" / "how-to" / "sql.md"
THEN = 1_600_000_000.0


def grants(schema: str, role: str) -> list[str]:
    """The statements of the docs that let *role* use *schema*."""
    blocks = re.findall(r"```sql\n(grant .*?)```", DOCS.read_text(), re.S)
    return [re.sub(r"\bchatkeep\b", schema, block).replace("authenticated", role) for block in blocks]


def said(*pairs: str, role: str = "user") -> list[dict[str, Any]]:
    """Messages: ids and texts in turn."""
    return [
        {"id": id, "role": role, "content": text, "created_at": THEN + n}
        for n, (id, text) in enumerate(zip(pairs[::2], pairs[1::2], strict=True))
    ]


SAVES: dict[str, list[dict[str, Any]]] = {
    "a new one": [{"title": "To Rome", "messages": said("m1", "hello", "m2", 'é "quoted" \\ \x7f\n\t\u2028 🛵')}],
    "nothing at all": [{}],
    "a title alone": [{"title": "To Rome"}, {"title": "To Nice"}],
    "the same again": [{"title": "T", "messages": said("m1", "a")}] * 3,
    "more of it": [{"messages": said("m1", "a")}, {"messages": said("m1", "a", "m2", "b")}, {"title": "T"}],
    "one id twice": [{"messages": said("m1", "a", "m1", "b")}],
    "one id four times": [{"messages": said("m1", "a", "m1", "b", "m2", "x", "m1", "b", "m1", "a")}] * 2,
    "one id twice beside the log": [{"messages": said("m1", "a")}, {"messages": said("m1", "b", "m1", "a", "m1", "c")}],
    "one id with two roles": [{"messages": said("m1", "a") + said("m1", "a", role="assistant")}],
    "another text under an id": [{"messages": said("m1", "a")}, {"messages": said("m1", "b", "m2", "c")}],
    "another text twice": [{"messages": said("m1", "a")}, {"messages": said("m1", "b")}, {"messages": said("m1", "b")}],
    "another role under an id": [{"messages": said("m1", "a")}, {"messages": said("m1", "a", role="assistant")}],
    "an old version": [{"title": "A"}, {"title": "B", "version": 1}, {"title": "C", "version": 1}],
    "a version of before the title": [{"messages": said("m1", "a")}, {"title": "A"}, {"title": "B", "version": 1}],
    "an old version by force": [{"title": "A"}, {"title": "B"}, {"title": "C", "version": 1, "force": True}],
    "a foreign checksum": [{"title": "A"}, {"title": "B", "checksum": "0" * 24}],
    "the first title knows nothing": [{"messages": said("m1", "a")}, {"title": "A", "version": 0}],
    "a title taken away": [{"title": "A"}, {"title": ""}],
    "a message that is called title": [
        {"title": "A", "messages": said("title", "a")},
        {"title": "B"},
        {"title": "C", "version": 1, "messages": said("title", "a")},
        {"title": "C", "version": 1, "messages": said("title", "b")},
    ],
    "parts and metadata": [
        {
            "messages": [
                {
                    "id": "m1",
                    "role": "operator",
                    "content": [{"type": "text", "text": "a"}, {"n": 1.5, "list": [1, None, True, {}], "": []}],
                    "metadata": {"device": "phone", "deep": {"a": [1, 2.25]}},
                }
            ]
        }
    ],
    "no role and no time": [{"messages": [{"id": "m1", "content": "a"}]}],
    "members that are null": [
        {"messages": [{"id": "m1", "content": "a", "role": None, "created_at": None, "metadata": None}]}
    ],
    "a time to come": [{"messages": [{"id": "m1", "content": "a", "created_at": 1e11}]}],
}


async def shown(keep: Chatkeep[Any], conversation: str) -> list[Any]:
    """The log without what is of chance: a time counts if it was given."""
    found = []
    async for message in keep.history(conversation):
        metadata = {name: value for name, value in message.metadata.items() if name not in ("by", "at")}
        id = "" if message.id.startswith("~") else message.id
        at = message.created_at if message.created_at < THEN + 100 else 0
        found.append((message.number, id, message.role, message.content, at, message.channel, metadata))
    return found
