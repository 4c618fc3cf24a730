// Vercel Chat SDK, its state adapters, as its `Chat` uses them for a message: `node chat_sdk.mjs URL WORK.json`.
// Speaks what benchmarks/run.py speaks: a line of JSON in, a line out.
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";

const LENGTHY = 4;
const WINDOW = 20;
const [url, workFile] = process.argv.slice(2);
const work = JSON.parse(readFileSync(workFile, "utf8"));
const began = performance.now();
const state = await opened(url);
const imported = (performance.now() - began) / 1e3;
const names = new Map();
const left = new Map();
let step = 0;

async function opened(url) {
  let adapter;
  if (url.startsWith("redis:")) {
    const { createRedisState } = await import("@chat-adapter/state-redis");
    adapter = createRedisState({ url });
  } else {
    const [{ createPostgresState }, { default: pg }] = await Promise.all([import("@chat-adapter/state-pg"), import("pg")]);
    adapter = createPostgresState({ client: new pg.Pool({ connectionString: url, max: 16 }) });
  }
  await adapter.connect();
  return adapter;
}

const said = (role, text) => ({ role, text });
const question = (step) => work.texts[step % work.texts.length];
const answer = (step) => work.texts[(step * 3 + 257) % work.texts.length];
const booking = (step) => ({ ...work.states[step % work.states.length], revision: step });

async function fill(conversation, messages) {
  await state.set(`thread-state:${conversation}`, booking(0));
  for (let first = 1; first <= messages; first += 500) {
    const page = [];
    for (let n = first; n < first + 500 && n <= messages; n += 1) {
      page.push(state.appendToList(`history:${conversation}`, said(n % 2 ? "user" : "assistant", question(n))));
    }
    await Promise.all(page);
  }
}

// Dedupe, lock, state, history, the message, the bot, its answer, state, unlock: eight calls.
async function turn(conversation, step) {
  if (!(await state.setIfNotExists(`dedupe:${conversation}:${step}`, true, 300_000))) throw new Error("seen before");
  const lock = await state.acquireLock(conversation, 30_000);
  if (!lock) throw new Error("somebody else holds the lock");
  const kept = await state.get(`thread-state:${conversation}`);
  const history = (await state.getList(`history:${conversation}`)).slice(-WINDOW);
  if (history.length === 0) throw new Error("there is no history");
  await state.appendToList(`history:${conversation}`, said("user", question(step)));
  await state.appendToList(`history:${conversation}`, said("assistant", answer(step)));
  await state.set(`thread-state:${conversation}`, booking(step));
  await state.releaseLock(lock);
  return kept.revision;
}

async function timed(name) {
  step += 1;
  const mine = step;
  const began = performance.now();
  const found = await turn(name, mine);
  const took = performance.now() - began;
  if (found !== left.get(name)) throw new Error(`${name} held the state of turn ${found}, not of ${left.get(name)}`);
  left.set(name, mine);
  return took;
}

async function filled({ fill: group, length, most, cap_s, seconds }) {
  const began = performance.now();
  const spent = () => (performance.now() - began) / 1e3;
  const found = [];
  let longest = 0;
  while (found.length < most && spent() + longest < cap_s) {
    const before = spent();
    const name = `${group}-${String(found.length).padStart(3, "0")}`;
    await fill(name, length);
    left.set(name, 0);
    const took = Math.min(await timed(name), await timed(name));
    found.push(name);
    longest = Math.max(longest, spent() - before);
    most = Math.min(most, Math.max(1, Math.floor((LENGTHY * seconds * 1e3) / took)));
  }
  names.set(group, found);
  return { conversations: found.length, seconds: spent() };
}

async function measured({ measure: group, clients, seconds }) {
  const began = performance.now();
  const latencies = [];
  const client = async (mine) => {
    for (;;) {
      for (const name of mine) {
        latencies.push(await timed(name));
        if (performance.now() > began + seconds * 1e3) return;
      }
    }
  };
  const shares = Array.from({ length: clients }, (_, first) => names.get(group).filter((_, n) => n % clients === first));
  await Promise.all(shares.map(client));
  const took = (performance.now() - began) / 1e3;
  const turns = latencies.length;
  latencies.sort((one, other) => one - other);
  return {
    turns,
    turns_s: turns / took,
    p50_ms: latencies[Math.floor(turns / 2)],
    p99_ms: latencies[Math.floor((turns * 99) / 100)],
    rss_mb: process.memoryUsage().rss / 2 ** 20,
  };
}

const answered = (found) => process.stdout.write(`${JSON.stringify(found)}\n`);
const { dependencies } = JSON.parse(readFileSync(new URL("package.json", import.meta.url), "utf8"));
answered({ import_s: imported, versions: { ...dependencies, node: process.versions.node } });
for await (const line of createInterface({ input: process.stdin })) {
  const asked = JSON.parse(line);
  answered(await ("fill" in asked ? filled(asked) : measured(asked)));
}
await state.disconnect();
process.exit(0);
