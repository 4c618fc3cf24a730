"""What Python and the worker of Durable Objects must write alike, and read of each other: one table, tests/support/golden.json."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import structs

from chatkeep.auth.credentials import StoredCredential, subject_of
from chatkeep.auth.format import is_mistyped, name_of
from chatkeep.conversation.codec import body_of, entry_for, message_from, record_from
from chatkeep.conversation.record import Record
from chatkeep.drivers.base import Key, mark_of
from chatkeep.drivers.http import HttpConnection
from chatkeep.server.state import etag
from chatkeep.testing.servers import DurableObjectServer, worker_module

GOLDEN = json.loads((Path(__file__).parents[1] / "support" / "golden.json").read_text())
"""Keys, what is written at each, and the stored forms. Content, metadata, states and records are JSON as text."""

ASKING = """
export default {
  async fetch(request) {
    const told = (await request.json()).map(async (of) => {
      const { tenant, id, epoch, at, content, metadata, record, state, credential, token, entry_body, record_body } = of;
      const where = { tenant, id, epoch };
      const line = lineOf(where, [1, "m", "u", entry_body]);
      const read = new Map(recordOf(where, { body: record_body }));
      return {
        mark: markOf(tenant, id),
        entry_body: lineText(where, { at, content, metadata }),
        record_body: bodyOf(where, new Map(membersOf(record))),
        etag: tagOf(where, state),
        subject: await subjectOf(credential),
        name: await sha256(token),
        fits: token.slice(-6) === base62(BigInt(crc32(token.slice(0, -6))), 6),
        read: [line.at, line.content, line.metadata, read.get("state") ?? "null", read.get("cursor") ?? "0"],
      };
    });
    return Response.json(await Promise.all(told));
  },
};
"""


def from_python(of: dict[str, Any]) -> dict[str, Any]:
    """What Python makes of one line of the table."""
    key = Key(of["tenant"], of["id"])
    asked: Any = {"id": "m", "role": "user", "created_at": of["at"], "limit": 1 << 20}
    entry = entry_for(key, json.loads(of["content"]), metadata=json.loads(of["metadata"]), **asked)
    message = message_from(key, "i", structs.replace(entry, number=1, body=of["entry_body"].encode()))
    record = record_from(key, of["record_body"].encode())
    secret = hashlib.blake2b(msgspec.json.encode((of["epoch"], *key)), digest_size=32).digest()
    return {
        "mark": mark_of(key),
        "entry_body": entry.body.decode(),
        "record_body": body_of(key, msgspec.json.decode(of["record"], type=Record)).decode(),
        "etag": etag(json.loads(of["state"]), secret),
        "subject": subject_of(msgspec.convert(of["credential"], StoredCredential)),
        "name": name_of(of["token"]),
        "fits": not is_mistyped(of["token"]),
        "read": [
            round(message.created_at * 1000),
            msgspec.json.encode(message.content).decode(),
            msgspec.json.encode(message.metadata).decode(),
            bytes(record.state).decode(),
            f"{record.cursor}",
        ],
    }


@pytest.mark.parametrize("line", GOLDEN, ids=[line["id"][:9] for line in GOLDEN])
def test_python_writes_and_reads_what_the_table_says(line: dict[str, Any]) -> None:
    """To the byte."""
    assert line == line | from_python(line)


@pytest.mark.server
async def test_the_worker_writes_and_reads_what_the_table_says() -> None:
    """The same, in JavaScript, by the functions of the worker itself."""
    module = worker_module()
    assert 1 == module.count("export default {")
    module = module.replace("export default {", "const worker = {") + ASKING
    with DurableObjectServer(worker=module) as server:
        connection = await HttpConnection.open("127.0.0.1", server.port, None)
        answer = await connection.post(b"POST / HTTP/1.1\r\nhost: worker", json.dumps(GOLDEN).encode())
        connection.abort()

    assert 200 == answer.status
    assert GOLDEN == [line | told for line, told in zip(GOLDEN, json.loads(answer.body), strict=True)]
