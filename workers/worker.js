// chatkeep on Cloudflare Durable Objects: a store for Python instances (/store, signed with the secret).
//
// Each conversation is an object with a database of its own: its row and its log. Sixteen shards find conversations (by key, due
// time, owner and recency) and count hits of rate limits. One Meta object for each store knows its epoch; one Bell rings whoever
// watches. An act is one transaction of one conversation. What it changes in an index is told to the shard before any answer
// leaves the conversation, and an alarm, set in the same transaction, tells it where that did not happen.
//
// Bindings: CONVERSATION, SHARD, META, BELL (the classes below) and SECRET.
import { DurableObject } from "cloudflare:workers";

const FORMAT = 1; // of what is stored; part of what a driver looks at when it opens a store
const SHARDS = 16; // of a new store; each store remembers its own number
const GRAIN_S = 60; // how coarse the index "recent" is, as in chatkeep.drivers.base
const SHOWN = 200; // entries that a refusal shows at most
const SIGNED_S = 300; // how old, or how far ahead, the time of a signature may be
const EPOCH_MS = 3000; // how long an epoch may be taken for the store's after Meta was asked
const TELL_MS = 2000; // when an alarm tells a shard what the act itself could not
const MARK_S = 8 * 86_400; // how long the mark of an erasure stays: a day more than was promised
const COUNTERS_KEPT_S = 3600;

export class Conversation extends DurableObject {
  constructor(ctx, env) {
    super(ctx, env);
    this.sql = ctx.storage.sql;
    this.telling = null;
    this.armed = false;
    this.load();
    this.told = this.version;
    if (this.made) {
      // An alarm that is set may mean that the last index entry was never told; telling it twice does no harm.
      ctx.blockConcurrencyWhile(async () => {
        if ((await ctx.storage.getAlarm()) !== null) this.told = -1;
      });
    }
  }

  // Reads what is kept in memory: whether there are tables, and the version of the index entry.
  load() {
    this.made = this.one("select 1 from sqlite_master where name = 'conversation'") !== null;
    this.version = this.made ? this.one("select version from conversation").version : 0;
  }

  one(sql, ...values) {
    for (const row of this.sql.exec(sql, ...values)) return row;
    return null;
  }

  // The one row of "conversation" is there from the first act on; while there is no conversation, its revision is null.
  make({ store, shard, tenant, id }) {
    if (this.made) return;
    this.sql.exec(`
      create table conversation(zero integer primary key check(zero = 0), store text, shard integer, tenant text, id text,
        version integer, mark real, mark_until real, revision text, incarnation text, head integer, body, owner text, at real,
        due real, lease text, until real);
      create table entry(number integer primary key, id text, role text, body);
      create unique index entry_id on entry(id) where id <> ''`);
    const sql = "insert into conversation(zero, store, shard, tenant, id, version) values (0, ?, ?, ?, ?, 0)";
    this.sql.exec(sql, store, shard, tenant, id);
    this.made = true;
  }

  row() {
    return this.made ? this.one("select * from conversation where revision is not null") : null;
  }

  mark() {
    return this.made ? this.one("select mark from conversation").mark : null;
  }

  // Does a list of acts in order, each as a transaction, and answers each of them.
  async acts(where, until, list) {
    if (Date.now() > until) return null; // the epoch may be another one by now
    const answers = list.map((act) => {
      try {
        return this.ctx.storage.transactionSync(() => VERBS[act[0]].call(this, where, act));
      } catch (fault) {
        this.load(); // what was rolled back, and perhaps the alarm with it
        this.armed = false;
        return { error: `${fault}` };
      }
    });
    await this.tell();
    return answers;
  }

  after(number, limit) {
    const sql = "select number, id, role, body from entry where number > ? order by number limit ?";
    return [...this.sql.exec(sql, number, limit).raw()];
  }

  known(entries) {
    const ids = entries.map(([id]) => id).filter((id) => id !== "");
    if (!ids.length || !this.made) return new Map();
    const sql = "select id, number from entry where id in (select value from json_each(?))";
    return new Map(this.sql.exec(sql, JSON.stringify(ids)).raw());
  }

  add(head, entries) {
    for (const [id, role, body] of entries) this.sql.exec("insert into entry values (?, ?, ?, ?)", ++head, id, role, body);
    return head;
  }

  put(old, row) {
    const was = placed(old);
    const is = placed(row);
    if (!was || was.wake !== is.wake || was.owner !== is.owner || was.recent !== is.recent) this.move();
    const { revision, incarnation, head, body, owner, at, due, lease, until } = row;
    this.sql.exec(
      `update conversation set version = ?, revision = ?, incarnation = ?, head = ?, body = ?, owner = ?, at = ?, due = ?,
        lease = ?, until = ?`,
      this.version, revision, incarnation, head, body, owner, at, due, lease, until);
  }

  // Sees to it that the shard is told where this conversation stands; the caller stores the version.
  move() {
    this.version += 1;
    if (!this.armed) {
      this.armed = true;
      this.ctx.storage.setAlarm(Date.now() + TELL_MS);
    }
  }

  async tell() {
    while (this.made && this.told < this.version) {
      this.telling ??= this.tellOnce().finally(() => {
        this.telling = null;
      });
      await this.telling;
    }
  }

  async tellOnce() {
    const { store, shard, tenant, id, version } = this.one("select * from conversation");
    await shardOf(this.env, store, shard).put(tenant, id, version, placed(this.row()));
    this.told = Math.max(this.told, version);
  }

  // Runs again and again until the shard knows; afterwards once more, when the mark of an erasure may go.
  async alarm() {
    this.armed = false;
    if (!this.made) return;
    try {
      await this.tell();
      const { store, shard, tenant, id, version, mark_until } = this.one("select * from conversation");
      if (this.row() !== null || mark_until === null) return;
      if (Date.now() < mark_until) {
        this.wakeAt(mark_until);
        return;
      }
      await shardOf(this.env, store, shard).forget(tenant, id, version);
      if (this.row() !== null || this.version !== version) return;
      await this.ctx.storage.deleteAll();
      this.load();
      this.told = this.version;
    } catch (fault) {
      console.error(`chatkeep: an index entry could not be told yet: ${fault}`);
      this.wakeAt(Date.now() + 5 * TELL_MS); // (an alarm that throws is given up after a few times)
    }
  }

  wakeAt(when) {
    if (!this.armed) this.ctx.storage.setAlarm(when);
  }
}

// The verbs of chatkeep.drivers.base, on one conversation.
const VERBS = {
  read(where, [, tail]) {
    const row = this.row();
    return row ? { row: told(row), tail: this.after(row.head - tail, tail) } : {};
  },

  entries(where, [, after, before, ids, limit]) {
    if (!this.row()) return { tail: [] };
    const columns = "select number, id, role, body from entry where";
    let found;
    if (ids !== null) {
      const sql = `${columns} id <> '' and id in (select value from json_each(?)) order by number limit ?`;
      found = this.sql.exec(sql, JSON.stringify(ids), limit);
    } else if (after === null && before !== null) {
      found = this.sql.exec(`${columns} number < ? order by number desc limit ?`, before, limit);
      return { tail: [...found.raw()].reverse() };
    } else {
      const last = before ?? Number.MAX_SAFE_INTEGER;
      found = this.sql.exec(`${columns} number > ? and number < ? order by number limit ?`, after ?? 0, last, limit);
    }
    return { tail: [...found.raw()] };
  },

  append(where, [, entries, revision, at, due, lease, until, tail, owner]) {
    const old = this.row();
    const mark = this.mark();
    if (mark !== null && at <= mark) return { erased: mark, row: told(old) };
    const known = this.known(entries);
    const fresh = entries.filter(([id]) => !known.has(id));
    let row = old;
    if (!old || (old.revision !== revision && fresh.length)) {
      this.make(where);
      row = old ? { ...old } : { incarnation: revision, head: 0, body: "", owner, due: null, lease: null, until: 0 };
      row.revision = revision;
      row.at = at;
      row.head = this.add(row.head, fresh);
      if (due !== null && (row.due === null || due < row.due)) row.due = due;
      if (row.lease === null) {
        row.lease = lease;
        row.until = lease === null ? 0 : until;
      }
      this.put(old, row);
    }
    return { row: told(row), tail: this.after(row.head - tail, tail), known: [...known] };
  },

  write(where, [, row, replaces, entries, since, drop, blank]) {
    const [revision, incarnation, head, body, owner, at, due, lease, until] = row;
    const old = this.row();
    if (old) {
      if (old.revision === revision) return { row: told(old) };
      const known = this.known(entries);
      const refused = { row: told(old), tail: null };
      if (known.size) return { ...refused, duplicate: [...known], tail: this.after(since, SHOWN) };
      if (replaces === null || old.revision !== replaces || old.incarnation !== incarnation)
        return { ...refused, conflict: true, tail: this.after(since, SHOWN) };
    } else {
      const mark = this.mark();
      if (replaces !== null || (mark !== null && at <= mark)) return { conflict: true, row: null, tail: [], erased: mark };
    }
    this.make(where);
    const last = this.add(old ? old.head : head, entries);
    this.put(old, { revision, incarnation, head: last, body, owner, at, due, lease, until });
    if (drop > 0) this.sql.exec("delete from entry where number <= ?", drop);
    if (blank.length) {
      this.sql.exec("update entry set body = '' where number in (select value from json_each(?))", JSON.stringify(blank));
    }
    return { head: last };
  },

  erase(where, [, at, revision]) {
    const old = this.row();
    if (old && revision !== null && old.revision !== revision) return { conflict: true, row: told(old) };
    this.make(where);
    const mark = Math.max(at, old ? old.at : at, this.mark() ?? at);
    const until = Date.now() + 1000 * Number(this.env.MARK_S ?? MARK_S);
    this.move();
    this.sql.exec("delete from entry");
    this.sql.exec("update conversation set revision = null, body = null, version = ?, mark = ?, mark_until = ?", this.version, mark, until);
    return {};
  },
};

// A row as it travels.
function told(row) {
  if (!row) return null;
  const { revision, incarnation, head, body, owner, at, due, lease, until } = row;
  return [revision, incarnation, head, body, owner, at, due, lease, until];
}

// Where a row stands in the indexes.
function placed(row) {
  if (!row) return null;
  const wake = row.due === null ? null : Math.max(row.due, row.until);
  return { wake, owner: row.owner, recent: -Math.floor(row.at / GRAIN_S) };
}

export class Shard extends DurableObject {
  constructor(ctx, env) {
    super(ctx, env);
    this.sql = ctx.storage.sql;
    this.sql.exec(`
      create table if not exists place(tenant text, id text, version integer, wake real, owner text, recent integer, gone integer,
        primary key(tenant, id)) without rowid;
      create index if not exists place_due on place(wake, tenant, id) where wake is not null;
      create index if not exists place_owner on place(owner, tenant, id) where owner <> '';
      create index if not exists place_recent on place(recent, tenant, id) where recent is not null;
      create table if not exists counter(name text primary key, hits integer, ends real, until real) without rowid;
      create index if not exists counter_until on counter(until)`);
  }

  // What is told late does not replace what is newer; of what is gone the version stays until `forget`.
  put(tenant, id, version, place) {
    const { wake, owner, recent } = place ?? { wake: null, owner: null, recent: null };
    this.sql.exec(
      `insert into place values (?, ?, ?, ?, ?, ?, ?) on conflict do update set version = excluded.version, wake = excluded.wake,
        owner = excluded.owner, recent = excluded.recent, gone = excluded.gone where excluded.version > place.version`,
      tenant, id, version, wake, owner, recent, place ? 0 : 1);
  }

  forget(tenant, id, version) {
    this.sql.exec("delete from place where tenant = ? and id = ? and version = ? and gone = 1", tenant, id, version);
  }

  // The first places of an index behind *after*: [score, tenant, id].
  places(index, tenant, owner, until, after, limit) {
    const score = { due: "wake", recent: "recent" }[index];
    const order = score ? `${score}, tenant, id` : "tenant, id";
    const where = [score ? `${score} is not null` : "gone = 0"];
    const values = [];
    const demand = (sql, ...wanted) => {
      where.push(sql);
      values.push(...wanted);
    };
    if (tenant !== null) demand("tenant = ?", tenant);
    if (index === "owner") demand("owner = ? and owner <> ''", owner);
    if (index === "due" && until !== null) demand("wake <= ?", until);
    if (after !== null) demand(`(${order}) > (${score ? "?, ?, ?" : "?, ?"})`, ...after.slice(score ? 0 : 1));
    const sql = `select ${score ?? 0}, tenant, id from place where ${where.join(" and ")} order by ${order} limit ?`;
    return [...this.sql.exec(sql, ...values, limit).raw()];
  }

  // Hits of a rate limit in its window, and when that ends.
  count(name, window, at, cost) {
    let hits = 0;
    let ends = at + window;
    for (const held of this.sql.exec("select hits, ends from counter where name = ?", name)) {
      if (held.ends > at) {
        hits = held.hits;
        ends = Math.min(ends, held.ends);
      }
    }
    const until = Date.now() / 1000 + window + COUNTERS_KEPT_S;
    this.sql.exec("insert or replace into counter values (?, ?, ?, ?)", name, hits + cost, ends, until);
    this.sql.exec("delete from counter where name in (select name from counter where until < ? limit 20)", Date.now() / 1000);
    return [hits + cost, ends];
  }
}

export class Meta extends DurableObject {
  // What is known of the store; {} where there is none yet.
  async look() {
    this.seen ??= (await this.ctx.storage.get("store")) ?? {};
    return this.seen;
  }

  async open(epoch) {
    if (!(await this.look()).epoch) {
      const made = { epoch, format: FORMAT, shards: SHARDS };
      await this.ctx.storage.put("store", made);
      this.seen = made;
    }
    return this.seen;
  }
}

// Sleeps while its sockets stay open, which costs nothing.
export class Bell extends DurableObject {
  async fetch() {
    const [client, server] = Object.values(new WebSocketPair());
    this.ctx.acceptWebSocket(server);
    return new Response(null, { status: 101, webSocket: client });
  }

  webSocketMessage() {}

  webSocketClose(socket) {
    socket.close();
  }

  ring(said) {
    for (const socket of this.ctx.getWebSockets()) {
      try {
        socket.send(said);
      } catch {
        // It has just gone.
      }
    }
  }
}

// -- where the objects are

const conversationOf = (env, store, tenant, id) => named(env.CONVERSATION, `${store}/${pointsOf(tenant)}:${tenant}${id}`);
const shardOf = (env, store, number) => named(env.SHARD, `${store}/${number}`);
const metaOf = (env, store) => named(env.META, store);
const bellOf = (env, store) => named(env.BELL, store);

function named(namespace, name) {
  return namespace.get(namespace.idFromName(name));
}

function pointsOf(text) {
  return [...text].length;
}

// -- the store of the Python instances

const STORE = {
  async look(env, store, epoch, acts) {
    const told = { ...(await metaOf(env, store).look()), now: Date.now() / 1000 };
    return acts.map(() => told);
  },

  async open(env, store, epoch, acts) {
    const told = await metaOf(env, store).open(acts[0][0]);
    return acts.map(() => told);
  },

  async acts(env, store, epoch, acts) {
    const groups = new Map();
    acts.forEach(([tenant, id, ...act], place) => {
      const name = `${pointsOf(tenant)}:${tenant}${id}`;
      if (!groups.has(name)) groups.set(name, { tenant, id, list: [], at: [] });
      const group = groups.get(name);
      group.list.push(unpacked(act));
      group.at.push(place);
    });
    const answers = new Array(acts.length);
    const each = [...groups.values()].map(async ({ tenant, id, list, at }) => {
      const said = await run(env, store, epoch, tenant, id, list);
      at.forEach((place, n) => {
        answers[place] = packed(said[n]);
      });
    });
    await Promise.all(each);
    return answers;
  },

  async places(env, store, epoch, acts) {
    const { epoch: there, shards } = await metaOf(env, store).look();
    if (there !== epoch) return acts.map(() => ({ replaced: true }));
    const numbers = [...Array(shards).keys()];
    const each = acts.map(async (act) => {
      const pages = await Promise.all(numbers.map((number) => shardOf(env, store, number).places(...act)));
      return { places: pages.flat() };
    });
    return await Promise.all(each);
  },

  async counts(env, store, epoch, acts) {
    const each = acts.map(async ([name, window, at, cost]) => {
      const [hits, ends] = await shardOf(env, store, crc32(name) % SHARDS).count(name, window, at, cost);
      return { hits, ends };
    });
    return await Promise.all(each);
  },

  async rings(env, store, epoch, acts) {
    const bell = bellOf(env, store);
    await Promise.all(acts.map((marks) => bell.ring(JSON.stringify(marks))));
    return acts.map(() => ({}));
  },
};

// Has a conversation do a list of acts for whoever has the store open under *epoch*.
async function run(env, store, epoch, tenant, id, list) {
  try {
    for (;;) {
      const known = await epochOf(env, store, epoch);
      if (known.epoch !== epoch) return list.map(() => ({ replaced: true }));
      const shard = crc32(`${tenant}\0${id}`) % known.shards;
      const answers = await conversationOf(env, store, tenant, id).acts({ store, shard, tenant, id }, known.until, list);
      if (answers !== null) return answers;
      EPOCHS.delete(store);
    }
  } catch (fault) {
    return list.map(() => ({ error: `${fault}` }));
  }
}

// What Meta said last, by store. An act is done only while that is young enough: whoever gives a store another epoch and waits
// for that long has fenced off everybody.
const EPOCHS = new Map();

async function epochOf(env, store, wanted) {
  const seen = EPOCHS.get(store);
  if (seen && seen.epoch === wanted && Date.now() < seen.until) return seen;
  const until = Date.now() + EPOCH_MS;
  const known = { ...(await metaOf(env, store).look()), until };
  EPOCHS.set(store, known);
  return known;
}

const blob = (body) => (typeof body === "string" ? body : Uint8Array.from(atob(body.b), (c) => c.charCodeAt(0)));

function unpacked(act) {
  const entries = (list) => list.map(([id, role, body]) => [id, role, blob(body)]);
  if (act[0] === "append") act[1] = entries(act[1]);
  if (act[0] === "write") {
    act[1][3] = blob(act[1][3]);
    act[3] = entries(act[3]);
  }
  return act;
}

function plain(body) {
  if (typeof body === "string") return body;
  const bytes = new Uint8Array(body);
  let text = "";
  for (let n = 0; n < bytes.length; n += 32_768) text += String.fromCharCode(...bytes.subarray(n, n + 32_768));
  return { b: btoa(text) };
}

function packed(answer) {
  if (answer.row) answer.row[3] = plain(answer.row[3]);
  for (const entry of answer.tail ?? []) entry[3] = plain(entry[3]);
  return answer;
}

// Whether a request carries a signature of the secret over its method, path, time and body: "HMAC-SHA256 TIME.HEX".
async function refusalOf(request, path, body, secret) {
  const [, time, signature] = /^HMAC-SHA256 (\d{1,12})\.([0-9a-f]{64})$/.exec(request.headers.get("authorization") ?? "") ?? [];
  if (!secret) return "The worker has no SECRET: run `wrangler secret put SECRET`.";
  if (!time) return "The request is not signed.";
  const key = await keyOf(secret);
  const text = bytesOf(`${request.method}\n${path}\n${time}\n`);
  const said = new Uint8Array(text.length + body.byteLength);
  said.set(text);
  said.set(new Uint8Array(body), text.length);
  const given = Uint8Array.from(signature.match(/../g), (pair) => parseInt(pair, 16));
  if (!(await crypto.subtle.verify("HMAC", key, given, said))) return "The request is signed with another secret.";
  const off = Number(time) - Date.now() / 1000;
  if (Math.abs(off) > SIGNED_S) return `The clock that signed the request is ${Math.round(off)} s off from this server's.`;
  return "";
}

let imported = ["", null];

async function keyOf(secret) {
  if (imported[0] !== secret) {
    const key = await crypto.subtle.importKey("raw", bytesOf(secret), { name: "HMAC", hash: "SHA-256" }, false, ["verify"]);
    imported = [secret, key];
  }
  return imported[1];
}

async function storeAsked(request, env, path) {
  const body = await request.arrayBuffer();
  const refused = await refusalOf(request, path, body, env.SECRET);
  if (refused) return Response.json({ error: refused }, { status: 401 });
  const [, , store, what] = path.split("/");
  if (what === "watch") return bellOf(env, store).fetch(request);
  const answer = STORE[what];
  if (!answer || request.method !== "POST") return Response.json({ error: `There is no ${path}.` }, { status: 404 });
  const { epoch, acts } = JSON.parse(new TextDecoder().decode(body));
  return Response.json(await answer(env, store, epoch, acts));
}

export default {
  async fetch(request, env) {
    const path = new URL(request.url).pathname;
    if (path.startsWith("/store/")) return await storeAsked(request, env, path);
    return Response.json({ error: `There is no ${path}.` }, { status: 404 });
  },
};

// -- bytes

function bytesOf(text) {
  return new TextEncoder().encode(text);
}

const CRC = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let bit = 0; bit < 8; bit++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n;
});

function crc32(text, seed = 0) {
  let crc = ~seed;
  for (const byte of bytesOf(text)) crc = CRC[(crc ^ byte) & 255] ^ (crc >>> 8);
  return ~crc >>> 0;
}
