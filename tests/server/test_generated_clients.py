"""Clients that other people's programs make or have: generated from /openapi.json, and standard readers of event streams."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from chatkeep import Chatkeep, Turn
from chatkeep.server import events

from ..support import npm
from ..support.serving import Client, served
from ..support.waiting import time_passes

pytestmark = [pytest.mark.long, pytest.mark.slow]

PACKAGES = (
    "openapi-typescript@7",
    "openapi-fetch@0.17",
    "@hey-api/openapi-ts@0.95",
    "typescript@5",
    "esbuild@0.28",
    "eventsource@4",
    "@microsoft/fetch-event-source@2",
)

FETCH = """
import createClient from "openapi-fetch";
import type { paths } from "./api";

declare const process: { argv: string[] };
const [baseUrl, key] = process.argv.slice(2);
const client = createClient<paths>({ baseUrl, headers: { authorization: `Bearer ${key}` } });
const params = { path: { id: "a/b" } };
const any = { ...params, header: { "If-Match": "*" } };

const made = [
  await client.POST("/v1/conversations", { body: { id: "a/b", owner: "ada" } }),
  await client.POST("/v1/conversations/{id}/messages", { params, body: { content: [{ type: "card", size: 3 }] } }),
  await client.PUT("/v1/conversations/{id}/state", { params: any, body: { cart: { tea: 3 } } }),
  await client.PATCH("/v1/conversations/{id}/state", {
    params: any, body: { cart: { milk: 2 } }, headers: { "content-type": "application/merge-patch+json" },
  }),
  await client.POST("/v1/conversations/{id}/shares", { params, body: { uses: 2 } }),
  await client.POST("/v1/conversations/{id}/tokens", { params, body: {} }),
];
const said = await client.POST("/v1/conversations/{id}/messages", {
  params, body: { content: "hi", metadata: { any: { thing: [1] } } },
});
const reply: unknown = said.data?.replies[0]?.content;
const log = await client.GET("/v1/conversations/{id}/messages", { params: { ...params, query: { limit: 1 } } });
const last: string | undefined = log.data?.messages.at(-1)?.id;
const nobody = await client.GET("/v1/conversations/{id}/messages", { params: { path: { id: "nobody" } } });
// @ts-expect-error (it is not called so)
const misspelt = await client.POST("/v1/conversations/{id}/messages", { params, body: { contents: "hi" } });
console.log(JSON.stringify({
  made: made.map((one) => one.response.status), reply, last: last === said.data?.replies[0]?.id,
  nobody: nobody.error?.type, misspelt: misspelt.response.status,
}));
"""

HEY = """
import { createClient } from "./hey/client";
import * as api from "./hey/sdk.gen";

declare const process: { argv: string[] };
const [baseUrl, key] = process.argv.slice(2);
const client = createClient({ baseUrl, headers: { authorization: `Bearer ${key}` } });
const path = { id: "a/b" };
const headers = { "If-Match": "*" };

const made = [
  await api.postConversations({ client, body: { id: "a/b", owner: "ada" } }),
  await api.postConversationMessages({ client, path, body: { content: [{ type: "card", size: 3 }] } }),
  await api.putConversationState({ client, path, headers, body: { cart: { tea: 3 } } }),
  await api.patchConversationState({ client, path, headers, body: { cart: { milk: 2 } } }),
  await api.postConversationShares({ client, path, body: { uses: 2 } }),
  await api.postConversationTokens({ client, path, body: {} }),
];
const said = await api.postConversationMessages({ client, path, body: { content: "hi", metadata: { any: { thing: [1] } } } });
const reply: unknown = said.data?.replies[0]?.content;
const log = await api.getConversationMessages({ client, path, query: { limit: 1 } });
const last: string | undefined = log.data?.messages.at(-1)?.id;
const nobody = await api.getConversationMessages({ client, path: { id: "nobody" } });
// @ts-expect-error (it is not called so)
const misspelt = await api.postConversationMessages({ client, path, body: { contents: "hi" } });
console.log(JSON.stringify({
  made: made.map((one) => one.response?.status), reply, last: last === said.data?.replies[0]?.id,
  nobody: nobody.error?.type, misspelt: misspelt.response?.status,
}));
"""

PROGRAMS = {"fetch": FETCH, "hey": HEY}

READERS = """
import { EventSource } from "eventsource";

const [address, key] = process.argv.slice(2);
const headers = { authorization: `Bearer ${key}`, accept: "text/event-stream" };
const seen = { eventsource: [], "fetch-event-source": [] };
const take = (reader, data) => { seen[reader].push(JSON.parse(data).content); };  // as the obvious handler does

const source = new EventSource(address, { fetch: (url, init) => fetch(url, { ...init, headers: { ...init.headers, ...headers } }) });
source.onmessage = (event) => take("eventsource", event.data);

globalThis.document = { hidden: false, addEventListener() {}, removeEventListener() {} };
globalThis.window = globalThis;
const { fetchEventSource } = await import("@microsoft/fetch-event-source");
const reading = fetchEventSource(address, {
  headers,
  onmessage: ({ event, data }) => { if (event === "message" || !event) take("fetch-event-source", data); },
  onerror: (fault) => { throw fault; },
});
console.log("listening");
process.stdin.on("data", () => { console.log(JSON.stringify(seen)); process.exit(0); });
await reading;
"""


async def echo(turn: Turn[Any]) -> str:
    """Says it again."""
    return f"you said {turn.text}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the packages are."""
    return npm.install(tmp_path_factory.mktemp("generated"), *PACKAGES)


def called(folder: Path, program: str, *arguments: str) -> None:
    """Runs one of the programs that are installed; what it says is shown if it fails."""
    command = ["node", str(folder / "node_modules" / program), *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=npm.PATIENCE_S, check=False)
    assert 0 == done.returncode, done.stdout + done.stderr


@asynccontextmanager
async def bot() -> AsyncIterator[tuple[Chatkeep[Any], Client]]:
    """A server, and a client with its key."""
    keep: Chatkeep[Any] = Chatkeep("memory://")
    keep.on_message(echo)
    async with served(keep) as client:
        yield keep, client


async def test_generated_clients_type_check_and_work(folder: Path) -> None:
    """Correct calls are accepted by the types and by the server, a misspelt one by neither."""
    said = {}
    async with bot() as (_, client):
        folder.joinpath("api.json").write_bytes((await client.ask("GET", "/openapi.json")).body)
        for name, source in PROGRAMS.items():
            folder.joinpath(f"{name}.ts").write_text(source)

        def make() -> None:
            called(folder, "openapi-typescript/bin/cli.js", "api.json", "-o", "api.d.ts")
            called(
                folder, "@hey-api/openapi-ts/bin/run.js", "-i", "api.json", "-o", "hey", "-c", "@hey-api/client-fetch"
            )
            modules = ("--target", "es2022", "--module", "esnext", "--moduleResolution", "bundler", "--skipLibCheck")
            called(folder, "typescript/bin/tsc", "--noEmit", "--strict", *modules, *(f"{name}.ts" for name in PROGRAMS))

        await asyncio.to_thread(make)
    for name in PROGRAMS:
        command = [str(npm.esbuild(folder)), f"{name}.ts", "--bundle", "--format=esm", "--log-level=error"]
        script = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
        async with bot() as (_, client):
            said[name] = json.loads(await npm.run(folder, script, f"http://127.0.0.1:{client.port}", client.key))

    answers = {"made": [201, 200, 200, 200, 201, 201], "reply": "you said hi", "last": True}
    assert dict.fromkeys(PROGRAMS, answers | {"nobody": "urn:chatkeep:not-found", "misspelt": 400}) == said


async def test_standard_readers_of_streams_see_messages_and_nothing_else(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither `retry:` nor a heartbeat is an event to them, so that the obvious JSON.parse of each message does not fail."""
    monkeypatch.setattr(events, "BEAT_S", 0.05)
    folder.joinpath("readers.mjs").write_text(READERS)
    async with bot() as (keep, client):
        await keep.receive("ada", "hello")
        address = f"http://127.0.0.1:{client.port}/v1/conversations/ada/events?after=0"
        process = await asyncio.create_subprocess_exec(
            *("node", "readers.mjs", address, client.key),
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert process.stdout is not None
        async with asyncio.timeout(60):
            assert b"listening\n" == await process.stdout.readline()
            await keep.receive("ada", "again")
            await time_passes(1.0)
            said, _ = await process.communicate(b"enough\n")

    expected = ["hello", "you said hello", "again", "you said again"]
    assert {"eventsource": expected, "fetch-event-source": expected} == json.loads(said)
