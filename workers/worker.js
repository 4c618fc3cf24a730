// chatkeep on Cloudflare Durable Objects: a store for Python instances (/store, signed with the secret), and conversations and
// their state for pages (/v1, as docs/reference/http.md has it), which need no Python: a bot answers when there is one.
//
// Each conversation is an object with a database of its own: its row and its log. Sixteen shards find conversations (by key, due
// time, owner and recency) and count hits of rate limits. One Meta object for each store knows its epoch; one Bell rings whoever
// watches. An act is one transaction of one conversation. What it changes in an index is told to the shard before any answer
// leaves the conversation, and an alarm, set in the same transaction, tells it where that did not happen. A due time that moved later,
// or went, may wait for that alarm: who finds the conversation too early reads it, sees where it stands, and has the shard told. A shard
// has an alarm at the time at which the next of its conversations is due, and rings then; who was not connected looks when it is, and at
// each poll.
//
// Bindings: CONVERSATION, SHARD, META, BELL (the classes below) and SECRET; for /v1, if wanted, STORE (the store's name), VISITORS
// ("yes" lets in whoever has no credential), VISITOR_SCOPES, and SESSION_TTL in seconds, which must be the bot's; on a workerd of one's own
// OBJECTS_MOST, how many conversations it has files for.
import { DurableObject } from "cloudflare:workers";

const FORMAT = 1; // of what is stored; part of what a driver looks at when it opens a store
const SHARDS = 16; // of a new store; each store remembers its own number
const GRAIN_S = 60; // how coarse the index "recent" is, as in chatkeep.drivers.base
const PLACES = 500; // places of an index that are asked for at once
const SHOWN = 200; // entries that a refusal shows at most
const TOGETHER = 20; // entries that one statement writes: the platform allows it 100 values
const SIGNED_S = 300; // how old, or how far ahead, the time of a signature may be
const EPOCH_MS = 1500; // how long an epoch may be taken for the store's after Meta was asked
const FENCE_MS = EPOCH_MS + 1000; // when nobody does that any more, also where the clocks of two machines differ
const TELL_MS = 2000; // when an alarm tells a shard what the act itself could not
const HELD_MS = 10_000 + TELL_MS + 1000; // how long workerd may keep a conversation in memory after an act, and the alarm that the act has set
const SCANNED = 0.75; // of the places for conversations in memory, so many are for those that go through many
const HEARD_MOST = 0.75; // and so many for those that somebody listens to
const MARK_S = 8 * 86_400; // how long the mark of an erasure stays: a day more than was promised
const COUNTERS_KEPT_S = 3600;
const RING_MS = 1000; // a shard rings no more often
const WORK = "!__worker"; // "there is work", as chatkeep.engine.notifier says it
const RECORD_FORMAT = 1; // of records and entries, as in chatkeep.conversation.codec
const MESSAGE_MOST = 256 * 1024;
const STATE_MOST = 1024 * 1024;
const TOKENS_MOST = 20_000; // strings, commas and brackets that a body may have
const PAGE_BYTES = 1024 * 1024;
const WAIT_MS = 10_000; // for the bot's answer, unless the client prefers not to wait
const PAUSES_MS = 1000; // how long nobody looks again at what is paused
const CHECK_MS = 5000; // how soon a stream notices that its token was revoked, and how often it says something
const STREAM_MS = 600_000; // a stream ends after so long, and its client comes back
const TOKEN_S = 30 * 86_400;
const TRACES = 16; // notes of its last changes that a record keeps, as in chatkeep.storage.records
const USES_S = 3600; // how fine the last use of a credential is noted
const ACTS_MOST = 50_000; // of the audit of a tenant, as in chatkeep.storage.audit
const ACTS_KEPT_S = 400 * 86_400;
const IDENTITY = ["name", "username", "phone", "user_id"]; // what customers do not say of themselves, as in chatkeep.channels.base
const ROLES = { u: "user", a: "assistant", o: "operator", s: "system", e: "event" };
const SCOPES = ["read", "send", "state:read", "state:write", "share", "erase"];

export class Conversation extends DurableObject {
  constructor(ctx, env) {
    super(ctx, env);
    this.sql = ctx.storage.sql;
    this.telling = null;
    this.armed = false;
    this.waiting = new Set();
    this.load();
    this.told = this.version;
    this.shown = this.place; // where the shard has this conversation; null too while that is not known
    if (this.made) {
      // An alarm that is set may mean that the last index entry was never told; telling it twice does no harm.
      ctx.blockConcurrencyWhile(async () => {
        if ((await ctx.storage.getAlarm()) === null) return;
        this.told = -1;
        this.shown = null;
      });
    }
  }

  // Reads what is kept in memory: whether there are tables, whose they are, the version of the index entry and its place, the mark of
  // an erasure, and the row without its body.
  load() {
    this.made = this.one("select 1 from sqlite_master where name = 'conversation'") !== null;
    const sql =
      "select store, shard, tenant, id, version, mark, revision, incarnation, head, owner, at, due, lease, until from conversation";
    const { store, shard, tenant, id, version, mark, ...bare } = this.made ? this.one(sql) : { version: 0, mark: null, revision: null };
    this.where = { store, shard, tenant, id };
    this.version = version;
    this.mark = mark;
    this.bare = bare.revision === null ? null : bare;
    this.place = placed(this.bare);
  }

  // (A cursor that is not read to its end keeps its statement, which is compiled anew then.)
  one(sql, ...values) {
    return this.sql.exec(sql, ...values).toArray()[0] ?? null;
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
    this.where = { store, shard, tenant, id };
  }

  row() {
    return this.bare && { ...this.bare, body: this.one("select body from conversation").body };
  }

  // Does a list of acts in order, each as a transaction, and answers each of them with JSON. (What travels between objects as one
  // text is not taken apart on the way.)
  async perform(where, until, list) {
    if (Date.now() > until) return null; // the epoch may be another one by now
    const answers = list.map((act) => {
      try {
        return JSON.stringify(packed(this.ctx.storage.transactionSync(() => VERBS[act[0]].call(this, where, act))));
      } catch (fault) {
        this.load(); // what was rolled back, and perhaps the alarm with it
        this.armed = false;
        return errorText(fault);
      }
    });
    if (this.isMisplaced() || list.some(isOfScan)) await this.tell();
    this.wake();
    return answers;
  }

  wake() {
    for (const wake of [...this.waiting]) wake();
  }

  // Answers a request of the public API: {status, headers, body}, or a refusal {problem: [status, word, detail, told]}.
  async serve(where, until, name, asked) {
    if (Date.now() > until) return null;
    try {
      const answer = this.ctx.storage.transactionSync(() => API[name].call(this, where, asked));
      if (this.isMisplaced()) await this.tell();
      this.wake();
      if (answer.number === undefined) return answer;
      return await this.answered(where, { ...answer, offBy: asked.offBy }, asked.waits ? Date.now() + WAIT_MS : 0);
    } catch (fault) {
      this.load();
      this.armed = false;
      if (fault instanceof Refusal) return { problem: fault.problem };
      throw fault;
    }
  }

  // Streams what happens from number *after* on, as server-sent events, until the client goes or its right ends.
  async events(where, until, { after, returns, shows, name }) {
    if (Date.now() > until) return null;
    const { readable, writable } = new IdentityTransformStream();
    const leave = listenTo(this.env, nameIn(where.store, where.tenant, where.id));
    const ending = this.stream(writable.getWriter(), where, { after, returns, shows, name });
    this.ctx.waitUntil(ending.catch(() => {}).finally(leave)); // (the client has gone)
    return readable;
  }

  async stream(writer, where, { after, returns, shows, name }) {
    const say = (text) => writer.write(bytesOf(text));
    const event = (kind, data, id = "") => say(`event: ${kind}\n${id}data: ${data}\n\n`);
    const stateNow = () => liveState(this, where, this.row(), recordOf(where, this.row()), Date.now() / 1000).state;
    const ends = Date.now() + STREAM_MS;
    const first = this.row();
    let seen = after ?? (first ? first.head : 0);
    let state = shows && !returns ? stateNow() : ""; // who comes back may have missed a change of it
    let checked = Date.now();
    await say("retry: 1000\n");
    for (let reason = ""; !reason; ) {
      const row = this.row();
      if (first ? !row || row.incarnation !== first.incarnation : row) reason = first ? "erased" : "closing";
      for (const entry of row ? this.after(seen, 100) : []) {
        if (entry[2] !== "s") await event("message", shownMessage(where, row, entry, 0)[0], `id: ${entry[0]}\n`);
        [seen] = entry;
      }
      const now = shows && row ? stateNow() : state;
      if (now !== state) await event("state", members([["etag", quoted(tagOf(where, now))], ["state", now]]));
      state = now;
      if (row && row.head > seen) continue;
      if (Date.now() > ends) reason ||= "closing";
      if (Date.now() - checked > CHECK_MS) {
        checked = Date.now();
        const stored = JSON.parse((await served(this.env, where.store, "~access", name, "held", {})).state);
        if (isOver(stored, checked / 1000)) reason = "revoked";
        else await say(": beat\n");
      }
      if (!reason) await this.woken(CHECK_MS);
      else await event("end", members([["reason", quoted(reason)]]));
    }
    await writer.close();
  }

  // Waits for something to happen here, so long at most.
  woken(ms) {
    return new Promise((resolve) => {
      const wake = () => {
        clearTimeout(timer);
        this.waiting.delete(wake);
        resolve();
      };
      const timer = setTimeout(wake, ms);
      this.waiting.add(wake);
    });
  }

  // Waits for what becomes of a message, until a time.
  async answered(where, { number, duplicate, offBy }, until) {
    for (;;) {
      const told = receiptOf(this, where, number, duplicate, offBy);
      const left = until - Date.now();
      if (told.status !== "accepted" || left <= 0) return { status: told.status === "accepted" ? 202 : 200, body: told.body, duplicate };
      await this.woken(left);
    }
  }

  after(number, limit) {
    const sql = "select number, id, role, body from entry where number > ? order by number limit ?";
    return [...this.sql.exec(sql, number, limit).raw()];
  }

  known(entries) {
    const known = new Map();
    for (const [id] of this.made ? entries : []) {
      const there = id === "" ? null : this.one("select number from entry where id = ? and id <> ''", id);
      if (there) known.set(id, there.number);
    }
    return known;
  }

  add(head, entries) {
    for (let n = 0; n < entries.length; n += TOGETHER) {
      const some = entries.slice(n, n + TOGETHER);
      const values = some.flatMap((entry, place) => [head + n + place + 1, ...entry]);
      this.sql.exec(`insert into entry values ${some.map(() => "(?, ?, ?, ?)").join(", ")}`, ...values);
    }
    return head + entries.length;
  }

  // Stores a row; *body*: null leaves the one that is there.
  put(row, body) {
    const was = this.place;
    const is = placed(row);
    if (!was || was.wake !== is.wake || was.owner !== is.owner || was.recent !== is.recent) this.move(is);
    const { revision, incarnation, head, owner, at, due, lease, until } = row;
    this.sql.exec(
      `update conversation set version = ?, revision = ?, incarnation = ?, head = ?, body = ifnull(?, body), owner = ?, at = ?, due = ?,
        lease = ?, until = ?`,
      this.version, revision, incarnation, head, body, owner, at, due, lease, until);
    this.bare = row;
  }

  // Sees to it that the shard is told where this conversation stands now; the caller stores the version.
  move(place) {
    this.version += 1;
    this.place = place;
    if (!this.armed) {
      this.armed = true;
      this.ctx.storage.setAlarm(Date.now() + TELL_MS);
    }
  }

  // Whether a scan would miss this conversation, or find it too late, by what its shard knows.
  isMisplaced() {
    if (this.told === this.version) return false;
    const { shown, place } = this;
    if (!shown || !place || shown.owner !== place.owner || shown.recent !== place.recent) return true;
    return place.wake !== null && (shown.wake === null || place.wake < shown.wake);
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
    const { store, shard, tenant, id } = this.where;
    const { version, place } = this;
    this.shown = null;
    await shardOf(this.env, store, shard).put(tenant, id, version, place, store);
    this.told = version;
    this.shown = place;
  }

  // Runs again and again until the shard knows; afterwards once more, when the mark of an erasure may go.
  async alarm() {
    this.armed = false;
    if (!this.made) return;
    try {
      await this.tell();
      if (this.place !== null) return;
      const { store, shard, tenant, id } = this.where;
      const { version, mark_until } = this.one("select version, mark_until from conversation");
      if (mark_until === null) return;
      if (Date.now() < mark_until) {
        this.wakeAt(mark_until);
        return;
      }
      await shardOf(this.env, store, shard).forget(tenant, id, version);
      if (this.version !== version) return;
      await this.ctx.storage.deleteAll();
      this.load();
      this.told = this.version;
      this.shown = null;
    } catch (fault) {
      console.error(`chatkeep: an index entry could not be told yet: ${fault}`);
      this.wakeAt(Date.now() + 5 * TELL_MS); // (an alarm that throws is given up after a few times)
    }
  }

  wakeAt(when) {
    if (!this.armed) this.ctx.storage.setAlarm(when);
  }
}

// Scans read the rows that they have found, without a log. What they are shown has to be in the index by then, or they would look at the
// same old place again each time.
const isOfScan = ([verb, tail]) => verb === "read" && tail === 0;

// Whether it says that it is one of many, which can wait.
const isOneOfMany = ([verb, , many]) => verb === "read" && many === true;

// The verbs of chatkeep.drivers.base, on one conversation.
const VERBS = {
  read(where, [, tail]) {
    const row = this.row();
    return row ? { row: told(row), tail: this.after(row.head - tail, tail) } : {};
  },

  entries(where, [, after, before, ids, limit]) {
    if (!this.bare) return { tail: [] };
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
    const { bare: old, mark } = this;
    if (mark !== null && at <= mark) return { erased: mark, row: told(this.row()) };
    const known = this.known(entries);
    const fresh = entries.filter(([id]) => !known.has(id));
    if (!old || (old.revision !== revision && fresh.length)) {
      this.make(where);
      const row = old ? { ...old } : { incarnation: revision, head: 0, owner, due: null, lease: null, until: 0 };
      row.revision = revision;
      row.at = at;
      row.head = this.add(row.head, fresh);
      if (due !== null && (row.due === null || due < row.due)) row.due = due;
      if (row.lease === null) {
        row.lease = lease;
        row.until = lease === null ? 0 : until;
      }
      this.put(row, old ? null : "");
    }
    return { row: told(this.row()), tail: this.after(this.bare.head - tail, tail), known: [...known] };
  },

  write(where, [, row, replaces, entries, since, drop, blank]) {
    const [revision, incarnation, head, body, owner, at, due, lease, until] = row;
    const { bare: old, mark } = this;
    if (old) {
      if (old.revision === revision) return { row: told(this.row()) };
      const known = this.known(entries);
      const fits = old.revision === replaces && old.incarnation === incarnation;
      if (known.size || !fits) {
        const refused = { row: told(this.row()), tail: this.after(since, SHOWN) };
        return known.size ? { ...refused, duplicate: [...known] } : { ...refused, conflict: true };
      }
    } else if (replaces !== null || (mark !== null && at <= mark)) return { conflict: true, row: null, tail: [], erased: mark };
    this.make(where);
    const last = this.add(old ? old.head : head, entries);
    this.put({ revision, incarnation, head: last, owner, at, due, lease, until }, body);
    if (drop > 0) this.sql.exec("delete from entry where number <= ?", drop);
    if (blank.length) {
      this.sql.exec("update entry set body = '' where number in (select value from json_each(?))", JSON.stringify(blank));
    }
    return { head: last };
  },

  erase(where, [, at, revision]) {
    const old = this.bare;
    if (old && revision !== null && old.revision !== revision) return { conflict: true, row: told(this.row()) };
    this.make(where);
    const mark = Math.max(at, old ? old.at : at, this.mark ?? at);
    const until = Date.now() + 1000 * Number(this.env.MARK_S ?? MARK_S);
    this.move(null);
    this.bare = null;
    this.mark = mark;
    this.sql.exec("delete from entry");
    this.sql.exec("update conversation set revision = null, body = null, version = ?, mark = ?, mark_until = ?", this.version, mark, until);
    return {};
  },
};

// -- conversations as pages see them. JSON of others stays text: JavaScript has no 1.0, and no whole numbers above 2^53.

class Refusal extends Error {
  constructor(status, word, detail, told = {}) {
    super(detail);
    this.problem = [status, word, detail, told];
  }
}

const NOT_THERE = ["not-found", "There is nothing at this address."];

const API = {
  create(where, { owner, visitor, now }) {
    const row = this.row();
    if (row && owner && row.owner !== owner) {
      const whose = row.owner ? `belongs to '${row.owner}'` : "has no owner";
      const said = `The conversation exists and ${whose}, so it was not created for '${owner}'; nothing was changed. Use another id.`;
      throw new Refusal(409, "other-owner", said);
    }
    if (row) return json(200, members([["id", quoted(where.id)], ["revision", quoted(row.revision)], ["created", "false"]]));
    const record = new Map(visitor ? [["visitor", "true"]] : []);
    const made = commit(this, where, null, record, { now, owner, note: ["begun", token()] });
    return json(201, members([["id", quoted(where.id)], ["revision", quoted(made.revision)], ["created", "true"]]));
  },

  look(where, { messages, service, shows, offBy, now }) {
    const row = this.row();
    if (!row && service) throw new Refusal(404, ...NOT_THERE);
    const record = recordOf(where, row);
    const head = row ? row.head : 0;
    const page = pageOf(this, where, row, { before: head + 1, limit: messages });
    const silenced = [...(record.get("off") === "true" ? ["conversation"] : []), ...offBy];
    const parts = [
      ["id", quoted(where.id)],
      ["owner", quoted(row ? row.owner : "")],
      ["revision", quoted(row ? row.revision : "")],
      ["session", record.get("session") ?? "0"],
      ["head", `${head}`],
      ["unread", `${row ? unread(this, record).length : 0}`],
      ["paused", `${silenced.length > 0}`],
      ["off_by", JSON.stringify(silenced)],
      ["dead", record.get("dead") ?? "[]"],
      ["updated_at", `${row ? row.at : 0}`],
      ["messages", `[${page.shown.join(",")}]`],
    ];
    if (shows) parts.push(["state", liveState(this, where, row, record, now).state]);
    return json(200, members(parts), { etag: `"${row ? row.revision : ""}"` });
  },

  log(where, { after, before, limit, service }) {
    const row = this.row();
    if (!row && service) throw new Refusal(404, ...NOT_THERE);
    const { shown, truncated } = pageOf(this, where, row, { after, before, limit });
    return json(200, `{"messages":[${shown.join(",")}]${truncated ? ',"truncated":true' : ""}}`);
  },

  send(where, { id, content, metadata, match, now }) {
    const row = this.row();
    if (match !== null && !row) throw new Refusal(412, "precondition-failed", GONE);
    // What is sent again has changed the revision itself.
    if (match !== null && !match.includes("*") && !match.includes(`"${row.revision}"`) && !this.known([[id]]).size) {
      throw new Refusal(412, "precondition-failed", "The conversation has changed since it was read; the message was not taken.");
    }
    const body = lineText(where, { at: now, content, metadata });
    if (bytesOf(body).length > MESSAGE_MOST) throw new Refusal(413, "too-large", `The message is over ${MESSAGE_MOST} bytes; nothing was touched.`);
    const at = Math.max(now, (this.mark ?? -1) + 0.001);
    const told = VERBS.append.call(this, where, ["append", [[id, "u", body]], token(), at, 0, null, 0, 0, ""]);
    if (!told.known.length) return { number: told.row[2], duplicate: false };
    const [[, number]] = told.known;
    const [recorded] = this.after(number - 1, 1);
    if (recorded[3] !== "") {
      const there = lineOf(where, recorded);
      const same = recorded[2] === "u" && canonical(there.content) === canonical(content) && canonical(shownMetadata(there)) === canonical(metadata);
      if (!same) {
        const said = `Message ${number} is recorded under this id and says something else; nothing was touched. Name each message once.`;
        throw new Refusal(422, "key-reused", said);
      }
    }
    return { number, duplicate: true };
  },

  state(where, { slot, known, now, service }) {
    const row = this.row();
    if (!row && service) throw new Refusal(404, ...NOT_THERE);
    const there = inSlot(liveState(this, where, row, recordOf(where, row), now).state, slot);
    if (there === undefined) throw new Refusal(404, "not-found", `The state has no slot '${slot.slice(0, 80)}'.`);
    const etag = tagOf(where, there);
    if (known !== null && isIn(etag, known)) return { status: 304, headers: { etag }, body: "" };
    return json(200, there, { etag });
  },

  // Puts, merges or clears the state, or one slot of it, if the precondition holds for what is there.
  change(where, { how, slot, value, match, noneMatch, key, now, shows, service }) {
    const row = this.row();
    if (!row && how === "clear" && !service && match === null) return { status: 204, body: "" };
    if (!row && how === "clear" && service) throw new Refusal(404, ...NOT_THERE);
    const record = recordOf(where, row);
    const noted = key === null ? null : `~change:${key}`;
    const { state, number } = liveState(this, where, row, record, now);
    const there = inSlot(state, slot);
    const told = (shown) => {
      if (!shows || shown === undefined || how === "clear") return { status: 204, body: "" };
      return json(200, shown, { etag: tagOf(where, shown) });
    };
    if (noted !== null && this.made && this.known([[noted]]).size) return told(there);
    const etag = there === undefined ? null : tagOf(where, there);
    const fits = match === null || (etag !== null && (match.includes(etag) || match.includes("*")));
    if (!fits || (noneMatch !== null && etag !== null && isIn(etag, noneMatch))) {
      const shown = shows ? { etag: etag === null ? "null" : quoted(etag), state: there ?? "null" } : {};
      const said =
        there === undefined
          ? `There is no slot '${slot.slice(0, 80)}' now; nothing was changed. \`If-None-Match: *\` puts one there.`
          : "The state is not the one that this change was made for; nothing was changed. Change the one that is there now.";
      throw new Refusal(412, "precondition-failed", said, shown);
    }
    if (slot !== null && !isObject(state)) throw new Refusal(422, "bad-state", "The state is not an object, so it has no slots. Nothing was changed.");
    const inside = new Map(isObject(state) ? membersOf(state) : []);
    let changed = how === "merge" ? merged(state, value) : value;
    if (slot !== null) {
      if (how === "clear") inside.delete(slot);
      else inside.set(slot, value);
      changed = members([...inside]);
    } else if (how === "clear") changed = "{}";
    if (!isObject(changed)) throw new Refusal(422, "bad-state", "That does not fit the state: it is no object. Nothing was changed.");
    if (bytesOf(changed).length > STATE_MOST) throw new Refusal(413, "too-large", `The state is over ${STATE_MOST} bytes; nothing was changed.`);
    record.set("state", changed);
    if (number) {
      record.set("session", `${Number(record.get("session") ?? 0) + 1}`);
      record.set("since", `${number}`);
      record.set("active_at", `${now}`);
    }
    commit(this, where, row, record, { now, owner: "", note: key !== null || !row || !row.head ? ["change", key ?? token()] : null });
    return told(inSlot(changed, slot));
  },

  // What a small record of chatkeep's own holds.
  held(where) {
    const record = recordOf(where, this.row());
    return { state: record.get("state") ?? "null" };
  },

  standing() {
    const row = this.row();
    return { there: row !== null, owner: row?.owner ?? "" };
  },

  // Keeps a small record of chatkeep's own, as chatkeep.storage.records does.
  keep(where, { state, owner, now }) {
    const record = new Map([["state", state]]);
    commit(this, where, this.row(), record, { now, owner, note: ["change", token()] });
    return { status: 200, body: "" };
  },

  // Changes members of a credential to the raw JSON in *changes*, if it is of *family*, or was made through a share by somebody of
  // it; tells whether it did.
  revise(where, { family = null, changes, now }) {
    const row = this.row();
    const record = recordOf(where, row);
    const held = new Map(membersOf(record.get("state") ?? "{}"));
    const families = [held.get("family"), ...itemsOf(held.get("ancestors") ?? "[]")];
    if (!held.size || (family !== null && !families.includes(quoted(family)))) return { changed: false };
    if (Object.entries(changes).every(([name, value]) => held.get(name) === value)) return { changed: false };
    for (const [name, value] of Object.entries(changes)) held.set(name, value);
    record.set("state", members([...held]));
    shorten(this, row, record, TRACES);
    commit(this, where, row, record, { now, owner: "", note: ["change", token()] });
    return { changed: true };
  },

  // Adds an act to the audit of a tenant, which ends by itself: what is too old leaves it, and what is too much.
  note(where, { act, metadata, now }) {
    const row = this.row();
    const record = recordOf(where, row);
    const isOld = (entry) => {
      try {
        return lineOf(where, entry).at < 1000 * (now - ACTS_KEPT_S);
      } catch {
        return false; // it cannot be read, and goes with those around it
      }
    };
    const oldest = row ? this.after(0, TOGETHER).filter(isOld) : [];
    shorten(this, row, record, ACTS_MOST, Math.max(0, ...oldest.map(([number]) => number)));
    commit(this, where, row, record, { now, owner: "", note: ["act", token(), quoted(act), metadata] });
    return {};
  },

  erase(where, { now }) {
    VERBS.erase.call(this, where, ["erase", now, null]);
    return { status: 204, body: "" };
  },
};

const json = (status, body, headers = {}) => ({ status, headers, body });

// Lets go of the entries of a log up to *old*, and of all but the last *most* with the one that is to be added.
function shorten(object, row, record, most, old = 0) {
  const drop = Math.max(row ? row.head + 1 - most : 0, Number(record.get("dropped") ?? 0), old);
  if (drop <= 0) return;
  record.set("dropped", `${drop}`);
  object.sql.exec("delete from entry where number <= ?", drop);
}

// Writes the next row: what was changed from outside a turn, as chatkeep.conversation.commits has it.
function commit(object, where, row, record, { now, owner, note }) {
  object.make(where);
  const head = row ? row.head : 0;
  const cursor = Number(record.get("cursor") ?? 0);
  // Nothing waits for an answer, or to be sent: then the cursor moves on to the end.
  const passes = object.one("select 1 from entry where number > ? and role <> 's' limit 1", cursor) === null;
  const entries = [];
  if (note !== null) {
    const [kind, name, content = '""', metadata = members([["kind", quoted(kind)]])] = note;
    entries.push([`~${kind}:${name}`, "s", lineText(where, { at: now, content, metadata })]);
  }
  const last = object.add(head, entries);
  if (passes) record.set("cursor", `${last}`);
  let due = row ? row.due : null;
  if (Number(record.get("cursor") ?? 0) < last && due === null && record.get("off") !== "true") due = 0;
  const ttl = Number(object.env.SESSION_TTL ?? 0);
  if (ttl > 0 && record.has("state") && !where.tenant.startsWith("~")) due = Math.min(due ?? Infinity, Number(record.get("active_at") ?? now) + ttl);
  const at = Math.max(now, row ? row.at : (object.mark ?? -1) + 0.001);
  const revision = token();
  const { incarnation, lease, until } = row ?? { incarnation: revision, lease: null, until: 0 };
  object.put({ revision, incarnation, head: last, owner: row ? row.owner : owner, at, due, lease, until }, bodyOf(where, record));
  return { revision };
}

// The members of a stored record, as raw JSON by name.
function recordOf(where, row) {
  if (!row || row.body === "") return new Map();
  const rest = typeof row.body === "string" ? row.body.slice(18) : "";
  if (row.body.slice(0, 18) !== `{"crc":"${crcOf(where, rest)}",`) throw corrupt("record");
  const record = new Map(membersOf(`{${rest}`));
  if (Number(record.get("format")) > RECORD_FORMAT) {
    throw new Refusal(503, "unsupported", "The conversation needs a newer version of this server. Nothing was lost.");
  }
  if (record.get("state") === "null") record.delete("state");
  return record;
}

function bodyOf(where, record) {
  const rest = members([["format", `${RECORD_FORMAT}`], ...[...record].filter(([name]) => name !== "format")]).slice(1);
  return `{"crc":"${crcOf(where, rest)}",${rest}`;
}

// The body of an entry.
function lineText(where, { at, content, metadata }) {
  const rest = `${Math.round(at * 1000)},${content}${metadata === "{}" ? "" : `,0,0,${metadata}`}]`;
  return `["${crcOf(where, rest)}",${rest}`;
}

// What is in an entry: at in milliseconds, and raw JSON.
function lineOf(where, [number, , , body]) {
  const rest = typeof body === "string" ? body.slice(12) : "";
  if (typeof body !== "string" || body.slice(0, 12) !== `["${crcOf(where, rest)}",`) throw corrupt(`log entry ${number}`);
  const [, at, content, to = "0", from = "0", metadata = "{}", channel] = itemsOf(body);
  return { at: Number(at), content, to: Number(to), from: Number(from) || Number(to), metadata, saved: channel === '"~"' };
}

function corrupt(what) {
  const said = `The ${what} of the conversation is there and cannot be read. Nothing was changed; its state can be cleared.`;
  return new Refusal(500, "corrupt", said);
}

// The metadata of a message without the trace that it belongs to, which is the server's.
function shownMetadata({ metadata }) {
  return members(membersOf(metadata).filter(([name]) => name !== "traceparent"));
}

function shownMessage(where, row, entry, time) {
  const [number, id, role, body] = entry;
  const line = body === "" ? { at: time, content: '""', to: 0, from: 0, metadata: "{}", saved: false } : lineOf(where, entry);
  const metadata = shownMetadata(line);
  const parts = [
    ["id", quoted(id || `${row.incarnation}.${number}`)],
    ["number", `${number}`],
    ["role", quoted(ROLES[role] ?? role)],
    ["content", line.content],
    ["created_at", floating(line.at / 1000)],
  ];
  if (line.to) parts.push(["reply_to", `${line.to}`], ["reply_from", `${line.from}`]);
  const author = role === "o" && !line.saved ? new Map(membersOf(line.metadata)).get("author") : undefined;
  if (author?.startsWith('"')) parts.push(["author", author]);
  if (metadata !== "{}") parts.push(["metadata", metadata]);
  if (body === "") parts.push(["redacted", "true"]);
  if (line.saved) parts.push(["saved", "true"]);
  return [members(parts), line.at];
}

// As many messages as were asked for, without chatkeep's own notes; whether they end early, because they are large.
function pageOf(object, where, row, { after = null, before = null, limit }) {
  if (!row || !limit) return { shown: [], truncated: false };
  const on = after !== null;
  const sql = `select number, id, role, body from entry where number > ? and number < ? and role <> 's' order by number ${on ? "" : "desc"} limit ?`;
  const found = [...object.sql.exec(sql, after ?? 0, before ?? Number.MAX_SAFE_INTEGER, limit).raw()];
  const shown = [];
  let size = 0;
  let time = 0;
  for (const entry of found) {
    if (size >= PAGE_BYTES) break;
    const [text, at] = shownMessage(where, row, entry, time);
    time = at;
    size += text.length;
    shown.push(text);
  }
  return { shown: on ? shown : shown.reverse(), truncated: shown.length < found.length };
}

function unread(object, record) {
  const sql = "select number, id, role, body from entry where number > ? and role in ('u', 'e') and body <> '' order by number";
  return [...object.sql.exec(sql, Number(record.get("cursor") ?? 0)).raw()];
}

// The state of the live session, and where there is none a fresh one, and the entry that the next one begins with.
function liveState(object, where, row, record, now) {
  const [first] = row ? unread(object, record) : [];
  const [number, at] = first ? [first[0], lineOf(where, first).at / 1000] : [(row ? row.head : 0) + 1, now];
  const ttl = Number(object.env.SESSION_TTL ?? 0);
  const state = record.get("state");
  const ended = ttl > 0 && at - Number(record.get("active_at") ?? 0) >= ttl && Number(record.get("since") ?? 1) !== number;
  return state === undefined || ended ? { state: "{}", number } : { state, number: 0 };
}

// What became of a message.
function receiptOf(object, where, number, duplicate, offBy) {
  const row = object.row();
  const entry = row && object.after(number - 1, 1)[0];
  if (!entry || entry[0] !== number) throw new Refusal(409, "conflict", "The conversation was erased meanwhile; your message went with it.");
  const record = recordOf(where, row);
  const done = number <= Number(record.get("cursor") ?? 0);
  const dead = itemsOf(record.get("dead") ?? "[]").includes(`${number}`);
  const paused = record.get("off") === "true" || offBy.length > 0;
  const status = done ? (dead ? "failed" : "answered") : paused ? "paused" : "accepted";
  const sql = "select number, id, role, body from entry where number > ? and role = 'a' and body <> '' order by number limit 100";
  const replies = done ? [...object.sql.exec(sql, number).raw()] : [];
  const own = replies.filter((reply) => ((line) => line.from <= number && number <= line.to)(lineOf(where, reply)));
  const body = members([
    ["conversation", quoted(where.id)],
    ["id", quoted(entry[1] || `${row.incarnation}.${number}`)],
    ["number", `${number}`],
    ["status", quoted(status)],
    ["replies", `[${own.map((reply) => shownMessage(where, row, reply, 0)[0]).join(",")}]`],
    ["duplicate", `${duplicate}`],
  ]);
  return { status, body };
}

// The tag of a value: the same exactly when the value is. Made with the epoch, which no client knows.
function tagOf({ epoch, tenant, id }, value) {
  const secret = blake2b(bytesOf(`[${[epoch, tenant, id].map(quoted).join(",")}]`), 32);
  return `"${hex(blake2b(bytesOf(canonical(value)), 12, secret))}"`;
}

const isIn = (tag, tags) => tags.includes("*") || tags.includes(tag) || tags.includes(`W/${tag}`);

function inSlot(state, slot) {
  if (slot === null) return state;
  return isObject(state) ? new Map(membersOf(state)).get(slot) : undefined;
}

// -- JSON as text

const isObject = (text) => text.startsWith("{");
const quoted = (text) => JSON.stringify(text);
const floating = (number) => (Number.isInteger(number) ? `${number}.0` : `${number}`);
const members = (pairs) => `{${pairs.map(([name, value]) => `${quoted(name)}:${value}`).join(",")}}`;
const compact = (text) => text.replace(/"[^"\\]*(?:\\[^][^"\\]*)*"|[ \t\r\n]+/g, (part) => (part[0] === '"' ? part : ""));

// Strings, whole or cut off, brackets and commas. (What begins a string is always one: else each quote of a text without an end would be a new beginning.)
const TOKENS = /"[^"\\]*(?:\\[^][^"\\]*)*"?|[[\]{},]/g;

// The parts of a JSON object or array without blanks, as raw JSON, cut at its own commas.
function partsOf(text) {
  const parts = [];
  let depth = 0;
  let start = 1;
  for (const { 0: mark, index } of text.matchAll(TOKENS)) {
    if (mark === "[" || mark === "{") depth += 1;
    else if (mark === "]" || mark === "}") depth -= 1;
    if ((mark === "," && depth === 1) || depth === 0) {
      if (index > start) parts.push(text.slice(start, index));
      start = index + 1;
    }
  }
  return parts;
}

const itemsOf = partsOf;

function membersOf(text) {
  return partsOf(text).map((part) => {
    const [name] = /^"[^"\\]*(?:\\[^][^"\\]*)*"/.exec(part);
    return [JSON.parse(name), part.slice(name.length + 1)];
  });
}

function canonical(text) {
  if (isObject(text)) {
    const sorted = membersOf(text).map(([name, value]) => [bytesOf(name), name, value]).sort(([a], [b]) => order(a, b));
    return members(sorted.map(([, name, value]) => [name, canonical(value)]));
  }
  if (text.startsWith("[")) return `[${itemsOf(text).map(canonical).join(",")}]`;
  return text.startsWith('"') ? quoted(JSON.parse(text)) : text;
}

function order(a, b) {
  for (let n = 0; n < a.length && n < b.length; n++) if (a[n] !== b[n]) return a[n] - b[n];
  return a.length - b.length;
}

// *patch* merged into *target* (RFC 7396).
function merged(target, patch) {
  if (!isObject(patch)) return patch;
  const found = new Map(isObject(target) ? membersOf(target) : []);
  for (const [name, value] of membersOf(patch)) {
    if (value === "null") found.delete(name);
    else found.set(name, merged(found.get(name) ?? "null", value));
  }
  return members([...found]);
}

// JSON without blanks that every store can keep, or a refusal.
function checkedJson(text) {
  let plain;
  let tokens = 0;
  for (const _ of text.matchAll(TOKENS)) {
    if (++tokens <= TOKENS_MOST) continue;
    throw new Refusal(400, "bad-request", `The body is made of more than ${TOKENS_MOST} strings, commas and brackets. Nothing was touched.`);
  }
  try {
    plain = JSON.parse(text);
  } catch (fault) {
    throw new Refusal(400, "bad-request", `The body is not the JSON that belongs here: ${fault.message}. Nothing was touched.`);
  }
  if (deeperThan(plain, 64)) throw new Refusal(400, "bad-request", "The body is nested more than 64 levels deep. Nothing was touched.");
  const raw = compact(text);
  const fault = unfit(raw);
  const unreadable = [TWICE, HALF, INFINITE].includes(fault);
  if (fault) throw new Refusal(unreadable ? 400 : 422, unreadable ? "bad-request" : "bad-message", `The body is refused: ${fault}. Nothing was touched.`);
  return raw;
}

function deeperThan(plain, levels) {
  if (plain === null || typeof plain !== "object") return false;
  return levels === 0 || Object.values(plain).some((inner) => deeperThan(inner, levels - 1));
}

const TWICE = "a name is there twice in one object";
const HALF = "a text holds half a character";
const INFINITE = "a number is too large";

function unfit(raw) {
  if (isObject(raw)) {
    const pairs = membersOf(raw);
    if (new Set(pairs.map(([name]) => name)).size < pairs.length) return TWICE;
    for (const [name, value] of pairs) {
      const fault = unfitText(name) || unfit(value);
      if (fault) return fault;
    }
    return "";
  }
  if (raw.startsWith("[")) return itemsOf(raw).map(unfit).find(Boolean) ?? "";
  if (raw.startsWith('"')) return unfitText(JSON.parse(raw));
  if (/^-?\d+$/.test(raw) && !Number.isSafeInteger(Number(raw))) return `the number ${raw.slice(0, 40)} is one that a browser would change`;
  return /^[-\d]/.test(raw) && !Number.isFinite(Number(raw)) ? INFINITE : "";
}

function unfitText(text) {
  if (text.includes("\0")) return "the text has a NUL character, which not every store can keep";
  return text.isWellFormed() ? "" : HALF;
}

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
      create index if not exists counter_until on counter(until);
      create table if not exists bell(zero integer primary key check(zero = 0), store text)`);
    [[this.store] = [null]] = [...this.sql.exec("select store from bell").raw()];
    this.rung = 0;
    this.rings = Infinity;
    ctx.blockConcurrencyWhile(async () => {
      this.rings = (await ctx.storage.getAlarm()) ?? Infinity;
    });
  }

  // What is told late does not replace what is newer; of what is gone the version stays until `forget`.
  put(tenant, id, version, place, store) {
    const { wake, owner, recent } = place ?? { wake: null, owner: null, recent: null };
    // Mostly only the due time has moved, and a column that is set is written in its index too, though it was the same. (What is gone
    // has no owner, not even the one without a name.)
    const moved = this.sql.exec(
      "update place set version = ?, wake = ? where tenant = ? and id = ? and version < ? and owner = ? and recent = ?",
      version, wake, tenant, id, version, owner, recent);
    if (moved.rowsWritten === 0) this.sql.exec(
      `insert into place values (?, ?, ?, ?, ?, ?, ?) on conflict do update set version = excluded.version, wake = excluded.wake,
        owner = excluded.owner, recent = excluded.recent, gone = excluded.gone where excluded.version > place.version`,
      tenant, id, version, wake, owner, recent, place ? 0 : 1);
    if (store && store !== this.store) {
      this.sql.exec("insert or replace into bell values (0, ?)", store);
      this.store = store;
    }
    if (wake !== null) this.ringAt(1000 * wake);
  }

  ringAt(when) {
    const at = Math.max(when, this.rung + RING_MS);
    if (at >= this.rings) return;
    this.rings = at;
    this.ctx.storage.setAlarm(at);
  }

  // Rings for what is due, and sees to it that it is rung again when the next is. What stays due is rung for once.
  async alarm() {
    this.rings = Infinity;
    this.rung = Date.now();
    const now = this.rung / 1000;
    const [[due, next]] = [...this.sql.exec(
      "select exists(select 1 from place where wake <= ?), (select min(wake) from place where wake > ?)", now, now).raw()];
    if (next !== null) this.ringAt(1000 * next);
    if (!due || this.store === null) return;
    try {
      await bellOf(this.env, this.store).work(this.store);
    } catch (fault) {
      console.error(`chatkeep: nobody was rung for what is due: ${fault}`);
    }
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

  // Gives the store another epoch in the place of the one that was *seen*; answers when no act under that one is done any more.
  async fence(seen, epoch) {
    const known = await this.look();
    if (known.epoch !== epoch) {
      if (known.epoch !== seen) return { replaced: true };
      const made = { ...known, epoch, fenced: Date.now() };
      await this.ctx.storage.put("store", made);
      this.seen = made;
    }
    const left = (this.seen.fenced ?? 0) + FENCE_MS - Date.now();
    if (left > 0) await new Promise((resolve) => setTimeout(resolve, left));
    return {};
  }
}

// Sleeps while its sockets stay open, which costs nothing.
export class Bell extends DurableObject {
  async fetch(request) {
    const [client, server] = Object.values(new WebSocketPair());
    this.ctx.acceptWebSocket(server);
    if (request.headers.has("x-chatkeep-again")) {
      // Who was away has missed what was rung meanwhile.
      const [, , store] = new URL(request.url).pathname.split("/");
      server.send(await this.said(store));
    }
    return new Response(null, { status: 101, webSocket: client });
  }

  webSocketMessage() {}

  webSocketClose(socket) {
    socket.close();
  }

  async said(store) {
    const { epoch } = await metaOf(this.env, store).look();
    return JSON.stringify([epoch ?? "", WORK]);
  }

  // Tells all that watch that there is work.
  async work(store) {
    this.ring(await this.said(store));
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

const nameIn = (store, tenant, id) => `${store}/${pointsOf(tenant)}:${tenant}${id}`;
const conversationOf = (env, store, tenant, id) => named(env.CONVERSATION, nameIn(store, tenant, id));
const shardOf = (env, store, number) => named(env.SHARD, `${store}/${number}`);
const metaOf = (env, store) => named(env.META, store);
const bellOf = (env, store) => named(env.BELL, store);

function named(namespace, name) {
  return namespace.get(namespace.idFromName(name));
}

function pointsOf(text) {
  return [...text].length;
}

// -- the store of the Python instances: each answers every one of a list of acts, with JSON

const textsOf = (answers) => answers.map((answer) => JSON.stringify(answer));
const errorText = (fault) => JSON.stringify({ error: `${fault}` });
const REPLACED = JSON.stringify({ replaced: true });

const STORE = {
  async look(env, store, epoch, acts) {
    const told = { ...(await metaOf(env, store).look()), now: Date.now() / 1000 };
    return textsOf(acts.map(() => told));
  },

  async open(env, store, epoch, acts) {
    const told = await metaOf(env, store).open(acts[0][0]);
    return textsOf(acts.map(() => told));
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
        answers[place] = said[n];
      });
    });
    await Promise.all(each);
    return answers;
  },

  async places(env, store, epoch, acts) {
    const { epoch: there, shards } = await metaOf(env, store).look();
    if (there !== epoch) return acts.map(() => REPLACED);
    return textsOf(await Promise.all(acts.map(async (act) => ({ places: await placesOf(env, store, shards, ...act) }))));
  },

  async counts(env, store, epoch, acts) {
    const each = acts.map(async ([name, window, at, cost]) => {
      const [hits, ends] = await shardOf(env, store, crc32(name) % SHARDS).count(name, window, at, cost);
      return { hits, ends };
    });
    return textsOf(await Promise.all(each));
  },

  async fences(env, store, epoch, acts) {
    const answers = [];
    for (const [fresh] of acts) answers.push(await metaOf(env, store).fence(epoch, fresh));
    EPOCHS.delete(store);
    return textsOf(answers);
  },

  async rings(env, store, epoch, acts) {
    const bell = bellOf(env, store);
    await Promise.all(acts.map((marks) => bell.ring(JSON.stringify(marks))));
    return acts.map(() => "{}");
  },
};

// The first places of an index behind *after*, of all shards: *limit* of them if there are so many, and perhaps some more, in no order.
// A shard is asked for about its share, and again where that may not reach as far as the others'.
async function placesOf(env, store, shards, index, tenant, owner, until, after, limit) {
  const found = [];
  let asked = [...Array(shards).keys()].map((number) => ({ number, last: after }));
  for (let size = Math.min(limit, shareOf(limit, shards)); ; size = Math.min(limit, 2 * size)) {
    const pages = await Promise.all(asked.map(({ number, last }) => shardOf(env, store, number).places(index, tenant, owner, until, last, size)));
    found.push(...pages.flat());
    asked = asked.map(({ number }, n) => ({ number, last: pages[n].at(-1) })).filter((_, n) => pages[n].length === size);
    if (!asked.length) return found;
    const known = asked.map(({ last }) => last).reduce((one, other) => (orderOf(one, other) < 0 ? one : other));
    const sure = found.filter((place) => orderOf(place, known) <= 0);
    if (sure.length >= limit) return sure;
  }
}

// More than most shards have of that many places, as keys are spread.
const shareOf = (limit, shards) => Math.ceil(limit / shards + 3 * Math.sqrt(limit / shards)) + 2;

// How two places stand to each other, as the databases and Python have it: by code points.
function orderOf([score, tenant, id], [otherScore, otherTenant, otherId]) {
  return score - otherScore || order(bytesOf(tenant), bytesOf(otherTenant)) || order(bytesOf(id), bytesOf(otherId));
}

// The conversations that workerd has in memory, by name, and until when; those that it lets go of first come first.
const HELD = new Map();

// Those that somebody listens to, which stay in memory meanwhile: by how many streams, and until when at most.
const HEARD = new Map();

// Whether a conversation may be asked, which brings it into memory. A workerd of one's own has three files open for each one there, and
// without files left it does not answer, or ends. Whoever goes through *many* leaves places to the others, and so does whoever *listens*.
function hasRoom(env, name, many, listens = false) {
  const most = Number(env.OBJECTS_MOST ?? 0);
  if (!most) return true; // the platform makes room itself
  const now = Date.now();
  for (const [held, until] of HELD) {
    if (until > now && until <= now + HELD_MS) break; // (what is later comes of a clock that was set back)
    HELD.delete(held);
  }
  for (const [heard, { until }] of HEARD) {
    if (until > now && until <= now + STREAM_MS + HELD_MS) break;
    HEARD.delete(heard);
  }
  if (HEARD.has(name)) return true;
  if (listens && HEARD.size >= HEARD_MOST * most) return false;
  if (!HELD.has(name) && HELD.size >= (many ? SCANNED : 1) * (most - HEARD.size)) return false;
  HELD.delete(name);
  HELD.set(name, now + HELD_MS);
  return true;
}

// Somebody begins to listen to a conversation that has a place. Gives what is called when that ends.
function listenTo(env, name) {
  if (!Number(env.OBJECTS_MOST ?? 0)) return () => {};
  const { streams = 0 } = HEARD.get(name) ?? {};
  HELD.delete(name);
  HEARD.delete(name);
  HEARD.set(name, { streams: streams + 1, until: Date.now() + STREAM_MS + HELD_MS });
  return () => {
    const heard = HEARD.get(name);
    if (!heard || (heard.streams -= 1) > 0) return;
    HEARD.delete(name);
    HELD.set(name, Date.now() + HELD_MS);
  };
}

const CROWDED =
  "it has as many conversations in memory as OBJECTS_MOST lets it, and lets go of one ten seconds after it was asked, and after nobody listens to it any more";
const CROWDED_ANSWER = JSON.stringify({ error: CROWDED, undone: true });

// Has a conversation do a list of acts for whoever has the store open under *epoch*.
async function run(env, store, epoch, tenant, id, list) {
  try {
    for (;;) {
      const known = await epochOf(env, store, epoch);
      if (known.epoch !== epoch) return list.map(() => REPLACED);
      if (!hasRoom(env, nameIn(store, tenant, id), list.every(isOneOfMany))) return list.map(() => CROWDED_ANSWER);
      const shard = crc32(`${tenant}\0${id}`) % known.shards;
      const answers = await conversationOf(env, store, tenant, id).perform({ store, shard, tenant, id }, known.until, list);
      if (answers !== null) return answers;
      EPOCHS.delete(store);
    }
  } catch (fault) {
    return list.map(() => errorText(fault));
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
  if (!secret) return "The worker has no SECRET: run `wrangler secret put SECRET`, or on your machine put it into .dev.vars.";
  if (!time) return "The request is not signed.";
  const key = imported[0] === secret ? imported[1] : await keyOf(secret);
  const text = bytesOf(`${request.method}\n${path}\n${time}\n`);
  const said = new Uint8Array(text.length + body.byteLength);
  said.set(text);
  said.set(new Uint8Array(body), text.length);
  const given = new Uint8Array(32);
  for (let n = 0; n < 32; n++) given[n] = parseInt(signature.slice(2 * n, 2 * n + 2), 16);
  if (!(await crypto.subtle.verify("HMAC", key, given, said))) return "The request is signed with another secret.";
  const off = Number(time) - Date.now() / 1000;
  if (Math.abs(off) > SIGNED_S) return `The clock that signed the request is ${Math.round(off)} s off from this server's.`;
  return "";
}

let imported = ["", null];

async function keyOf(secret) {
  const key = await crypto.subtle.importKey("raw", bytesOf(secret), { name: "HMAC", hash: "SHA-256" }, false, ["verify"]);
  imported = [secret, key];
  return key;
}

const JSON_TYPE = { headers: { "content-type": "application/json" } };

async function storeAsked(request, env, path) {
  const body = await request.arrayBuffer();
  const refused = await refusalOf(request, path, body, env.SECRET);
  if (refused) return Response.json({ error: refused }, { status: 401 });
  const [, , store, what] = path.split("/");
  if (what === "watch") return bellOf(env, store).fetch(request);
  const answer = STORE[what];
  if (!answer || request.method !== "POST") return Response.json({ error: `There is no ${path}.` }, { status: 404 });
  const { epoch, acts } = JSON.parse(DECODER.decode(body));
  return new Response(`[${(await answer(env, store, epoch, acts)).join(",")}]`, JSON_TYPE);
}

// -- /v1

const UNAUTHORIZED = "Send a valid credential as `Authorization: Bearer ...`: there is none here, or it is unknown, expired or revoked.";

const ROUTES = [
  ["/v1/me", "GET", { own: true }, me],
  ["/v1/conversations", "POST", { service: true, scope: "send", visitor: true, act: "create" }, begin],
  ["/v1/conversations/([^/]+)", "GET", { scope: "read" }, look],
  ["/v1/conversations/([^/]+)", "DELETE", { scope: "erase", act: "erase" }, erase],
  ["/v1/conversations/([^/]+)/messages", "POST", { scope: "send" }, send],
  ["/v1/conversations/([^/]+)/messages", "GET", { scope: "read" }, log],
  ["/v1/conversations/([^/]+)/events", "GET", { scope: "read" }, events],
  ["/v1/conversations/([^/]+)/state", "GET", { scope: "state:read" }, state],
  ["/v1/conversations/([^/]+)/state", "PUT", { scope: "state:write", act: "state" }, change("put")],
  ["/v1/conversations/([^/]+)/state", "PATCH", { scope: "state:write", act: "state" }, change("merge")],
  ["/v1/conversations/([^/]+)/state", "DELETE", { scope: "state:write", act: "state" }, change("clear")],
  ["/v1/conversations/([^/]+)/state/([^/]+)", "GET", { scope: "state:read" }, state],
  ["/v1/conversations/([^/]+)/state/([^/]+)", "PUT", { scope: "state:write", act: "state" }, change("put")],
  ["/v1/conversations/([^/]+)/state/([^/]+)", "DELETE", { scope: "state:write", act: "state" }, change("clear")],
].map(([path, method, policy, answer]) => ({ path: new RegExp(`^${path}$`), method, policy, answer }));

// Of every answer: nobody keeps it, and no browser takes it for a page or shows it to one of another host.
const GUARDS = {
  "cache-control": "no-store",
  "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
  "cross-origin-resource-policy": "same-origin",
  "x-content-type-options": "nosniff",
};

async function publicAsked(request, env, ctx, path) {
  const answer = await routed(request, env, ctx, path);
  for (const [name, value] of Object.entries(GUARDS)) answer.headers.set(name, value);
  return answer;
}

async function routed(request, env, ctx, path) {
  const methods = [];
  for (const { path: pattern, method, policy, answer } of ROUTES) {
    const found = pattern.exec(path);
    if (!found) continue;
    methods.push(method);
    if (method !== request.method && !(request.method === "HEAD" && method === "GET")) continue;
    let id;
    try {
      const [conversation, slot] = found.slice(1).map(decodeURIComponent);
      id = conversation;
      if (id !== undefined) checkedId(id);
      const asked = { request, env, url: new URL(request.url), id, slot: slot ?? null, now: Date.now() / 1000 };
      asked.later = (work) => ctx.waitUntil(work.catch((fault) => console.error(`chatkeep: what was done could not be noted: ${fault}`)));
      await admit(asked, policy);
      const answered = await answer(asked);
      if (policy.act && asked.service && answered.ok) asked.later(noteAct(asked, policy.act, answered.status));
      return answered;
    } catch (fault) {
      if (fault instanceof URIError) return problem(400, "bad-key", "The address is not percent-encoded UTF-8; nothing was touched.");
      if (fault instanceof Refusal) return problem(...fault.problem, id);
      console.error(`chatkeep: ${fault.stack ?? fault}`);
      return problem(503, "unavailable", "The store cannot be reached now. Nothing was lost. Send the message again under the same id.", {}, id);
    }
  }
  if (!methods.length) return problem(404, ...NOT_THERE);
  if (request.method === "OPTIONS") return new Response(null, { status: 204, headers: { allow: methods.join(", ") } });
  return problem(405, "method-not-allowed", `${request.method} is not possible here.`, {}, undefined, { allow: methods.join(", ") });
}

// RFC 9457; *told* has raw JSON.
function problem(status, word, detail, told = {}, id = undefined, headers = {}) {
  const parts = [["type", quoted(`urn:chatkeep:${word}`)], ["title", quoted(TITLES[status] ?? "Error")], ["status", `${status}`], ["detail", quoted(detail)]];
  if (id !== undefined) parts.push(["conversation", quoted(id)]);
  if (status === 401) headers["www-authenticate"] = "Bearer";
  if (status === 503) headers["retry-after"] = "1";
  return new Response(members([...parts, ...Object.entries(told)]), { status, headers: { "content-type": "application/problem+json", ...headers } });
}

const GONE =
  "The conversation is not there (any more): nobody has begun it, or it was erased. The message was not taken; sent again without `If-Match` it begins a new one.";

const TITLES = {
  400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed", 409: "Conflict",
  412: "Precondition Failed", 413: "Request Entity Too Large", 415: "Unsupported Media Type", 422: "Unprocessable Entity",
  428: "Precondition Required", 500: "Internal Server Error", 503: "Service Unavailable",
};

// Sees to it that who asks may do that: notes the credential, tenant, and what is allowed.
async function admit(asked, policy) {
  const given = asked.request.headers.get("authorization");
  asked.store = asked.env.STORE ?? "chatkeep";
  asked.tenant = "";
  asked.scopes = [];
  asked.service = false;
  await refuseSealed(asked);
  if (given === null) {
    if (!(policy.visitor && asked.env.VISITORS === "yes")) throw new Refusal(401, "unauthorized", UNAUTHORIZED);
    return;
  }
  const [, text] = /^bearer +(\S+) *$/i.exec(given) ?? [];
  asked.name = text && (await nameOf(text));
  const stored = asked.name && (await credentialOf(asked));
  if (!stored) throw new Refusal(401, "unauthorized", UNAUTHORIZED);
  asked.stored = stored;
  asked.tenant = stored.tenant ?? "";
  asked.service = stored.kind === "service";
  asked.scopes = asked.service ? scopesOfKey(stored) : (stored.scopes ?? []);
  const wanted = asked.request.headers.get("chatkeep-subject");
  if (wanted !== null && wanted !== (await subjectOf(stored))) {
    const said = "The credential is another subject's than `Chatkeep-Subject` says; nothing was done. Ask /v1/me whose it is.";
    throw new Refusal(401, "other-subject", said);
  }
  const lacks = policy.scope && !asked.scopes.includes(policy.scope);
  if (asked.service && lacks) throw new Refusal(403, "forbidden", `This key has not the right '${policy.scope}', which this takes; nothing was done.`);
  if (asked.service) return;
  if (asked.id !== undefined && asked.id !== (stored.conversation ?? "")) throw new Refusal(404, ...NOT_THERE);
  if (policy.service) throw new Refusal(403, "forbidden", "This takes a service key; a conversation's token cannot do it.");
  if (lacks) throw new Refusal(403, "forbidden", `This token has not the scope '${policy.scope}', which this takes.`);
}

const OPEN_UNTIL = new Map(); // by store: so long nobody looks again whether it was sealed

// Refuses where the store is sealed, as chatkeep.storage.seal_note notes it: there is no key here.
async function refuseSealed({ env, store }) {
  if (Date.now() < (OPEN_UNTIL.get(store) ?? 0)) return;
  if ((await served(env, store, "~keys", "note", "standing", {})).there) {
    const said = "This store is sealed, and the worker has no key to what is in it; nothing was touched. `chatkeep serve` has the keys.";
    throw new Refusal(500, "misconfigured", said);
  }
  OPEN_UNTIL.set(store, Date.now() + CHECK_MS);
}

// What a service key may do: what was named when it was made, or everything.
function scopesOfKey({ scopes = [] }) {
  const named = scopes.filter((scope) => scope !== "everywhere");
  return named.length ? named.filter((scope) => SCOPES.includes(scope)) : SCOPES;
}

// The name under which the store has a credential; null if it is none.
async function nameOf(text) {
  if (!/^ck_[kc]_[0-9A-Za-z]{49}$/.test(text) || text.slice(-6) !== base62(BigInt(crc32(text.slice(0, -6))), 6)) return null;
  return await sha256(text);
}

// What the store has of a credential that gives a right; null otherwise.
async function credentialOf({ env, store, name, now, later }) {
  const { state } = await served(env, store, "~access", name, "held", {});
  const stored = JSON.parse(state);
  if (isOver(stored, now)) {
    if (stored?.rotated && !stored.revoked) await endFamily(env, store, stored, now);
    return null;
  }
  if (now - (stored.last_used_at ?? 0) >= USES_S) later(served(env, store, "~access", name, "revise", { changes: { last_used_at: floating(now) }, now }));
  return stored;
}

// Ends the family of a token that was used after another had taken its place, and what was shared by it: its thief and its holder
// cannot be told apart. Until nothing more is found: what is made meanwhile is there by the next look.
async function endFamily(env, store, { tenant = "", conversation = "", family }, now) {
  for (let found = true; found; ) {
    const names = await belongings(env, store, "~access", markOf(tenant, conversation));
    const revise = (name) => served(env, store, "~access", name, "revise", { family, changes: { revoked: "true" }, now });
    // One that is damaged gives no right, and is in the way of no other.
    const ended = await Promise.all(names.map((name) => revise(name).catch((fault) => passed(name, fault))));
    found = ended.some(({ changed }) => changed);
  }
}

function passed(name, fault) {
  if (!(fault instanceof Refusal) || fault.problem[1] !== "corrupt") throw fault;
  console.error(`chatkeep: the token ${name.slice(0, 16)} cannot be read, and was not ended: ${fault}`);
  return { changed: false };
}

// The names of an owner's records in a space.
async function belongings(env, store, space, owner) {
  const { shards } = await epochOf(env, store, "");
  const each = [...Array(shards).keys()].map(async (number) => {
    const found = [];
    for (let page; !page || page.length === PLACES; found.push(...page)) {
      page = await shardOf(env, store, number).places("owner", space, owner, null, page?.at(-1) ?? null, PLACES);
    }
    return found;
  });
  return (await Promise.all(each)).flat().map(([, , name]) => name);
}

// Keeps an act of a service key, as chatkeep.storage.audit does.
async function noteAct({ env, store, tenant, id, name, stored, request, now }, act, status) {
  const told = { act, by: name.slice(0, 16), label: stored.label, conversation: id, address: request.headers.get("cf-connecting-ip"), outcome: `${status}` };
  const metadata = members(Object.entries(told).filter(([, text]) => text).map(([member, text]) => [member, quoted(text)]));
  await served(env, store, "~audit", markOf(tenant, "-"), "note", { act, metadata, now });
}

const PAUSES = new Map(); // by store: what was paused when somebody looked last

// What silences the bot beside the conversation itself, as chatkeep.engine.pauses keeps it.
async function pausesOf({ env, store, tenant }) {
  let seen = PAUSES.get(store);
  if (!seen || Date.now() > seen.until) {
    const { state } = await served(env, store, "~chatkeep", "switches", "held", {});
    seen = { scopes: JSON.parse(state) ?? {}, until: Date.now() + PAUSES_MS };
    PAUSES.set(store, seen);
  }
  const { scopes } = seen;
  return [...(scopes[`=${tenant}`] ? ["tenant"] : []), ...(scopes["*"] ? ["everywhere"] : [])];
}

function isOver(stored, now) {
  return !stored || stored.revoked || stored.uses === 0 || (typeof stored.expires_at === "number" && stored.expires_at <= now);
}

async function subjectOf({ kind, tenant = "", conversation = "", subject = "" }) {
  const who = kind === "service" ? ["service"] : subject ? ["subject", subject] : ["conversation", conversation];
  // (As Python's json.dumps writes it.)
  const ascii = (text) => quoted(text).replace(/[^ -~]/g, (letter) => `\\u${letter.charCodeAt(0).toString(16).padStart(4, "0")}`);
  return (await sha256(`[${[tenant, ...who].map(ascii).join(", ")}]`)).slice(0, 32);
}

// A store that was moved away, or that a move is still filling, answers nobody: `chatkeep move` says so by its epoch.
function refuseElsewhere(epoch) {
  if (/^(moved|filling):/.test(epoch)) throw new Refusal(503, "unavailable", "The conversations are being moved. Nothing was lost; try again later.");
}

function refuseCrowd(env, store, tenant, id, listens = false) {
  if (!hasRoom(env, nameIn(store, tenant, id), false, listens)) throw new Refusal(503, "overloaded", `The store is busy: ${CROWDED}. Nothing was done. Try again soon.`);
}

// Has a conversation's object answer, as part of the store as it is now.
async function served(env, store, tenant, id, name, asked) {
  for (;;) {
    const known = await epochOf(env, store, EPOCHS.get(store)?.epoch ?? "");
    if (!known.epoch) {
      await metaOf(env, store).open(token());
      EPOCHS.delete(store);
      continue;
    }
    refuseElsewhere(known.epoch);
    refuseCrowd(env, store, tenant, id);
    const where = { store, epoch: known.epoch, shard: crc32(`${tenant}\0${id}`) % known.shards, tenant, id };
    const answer = await conversationOf(env, store, tenant, id).serve(where, known.until, name, asked);
    if (asked.waits) hasRoom(env, nameIn(store, tenant, id), false); // it was in memory for all that time: its place is held anew
    if (answer === null) EPOCHS.delete(store);
    else if (answer.problem) throw new Refusal(...answer.problem);
    else return { epoch: known.epoch, ...answer };
  }
}

async function answerOf({ env, store, tenant, id }, name, asked) {
  const { status, headers, body } = await served(env, store, tenant, id, name, asked);
  const whole = { ...(body === "" ? {} : { "content-type": "application/json" }), ...headers };
  return new Response(status === 204 || status === 304 ? null : body, { status, headers: whole });
}

// Tells the Python instances that a conversation has changed, and that there is work.
async function ring({ env, store, tenant, id }, epoch, work) {
  const marks = [`${markOf(tenant, id).slice(0, 16)}__worker`, ...(work ? [WORK] : [])];
  await bellOf(env, store).ring(JSON.stringify([epoch, ...marks]));
}

function checkedId(id, status = 400, word = "bad-key") {
  const size = bytesOf(id).length;
  if (!size || size > 512 || unfitText(id)) throw new Refusal(status, word, "An id is 1 to 512 bytes of UTF-8 without NUL; nothing was touched.");
  return id;
}

async function me({ stored, service, scopes }) {
  const holder = service ? "service" : !stored.subject ? "holder" : stored.subject.startsWith("guest:") ? "visitor" : "user";
  const told = { subject: await subjectOf(stored), tenant: stored.tenant ?? "", kind: holder, scopes: [...scopes].sort(), expires_at: stored.expires_at ?? null };
  return Response.json(service ? told : { ...told, conversation: stored.conversation ?? "" });
}

async function begin(asked) {
  const { env, store, service, now } = asked;
  const type = asked.request.headers.get("content-type");
  const raw = type === null ? "{}" : await bodyAsked(asked, 64 * 1024);
  const said = isObject(raw) ? JSON.parse(raw) : null;
  const unknown = said === null || Object.keys(said).some((name) => !["id", "owner", "cookie"].includes(name));
  if (unknown || [said.id, said.owner].some((text) => text != null && typeof text !== "string")) {
    throw new Refusal(400, "bad-request", "The body is not the JSON that belongs here: it has id and owner. Nothing was touched.");
  }
  const { id, owner } = said;
  if (!service && (id != null || owner != null)) {
    throw new Refusal(400, "bad-request", "Without a service key the server chooses id and owner; nothing was begun.");
  }
  if (said.cookie) throw new Refusal(422, "no-cookie", "This server gives no cookies; nothing was begun.");
  if (owner) checkedId(owner, 400, "bad-request");
  asked.id = id == null ? hex(crypto.getRandomValues(new Uint8Array(16))) : checkedId(id, 400, "bad-request");
  const location = `/v1/conversations/${encodeURIComponent(asked.id)}`;
  const made = await served(env, store, asked.tenant, asked.id, "create", { owner: owner ?? "", visitor: !service, now });
  if (service) return new Response(made.body, { status: made.status, headers: { "content-type": "application/json", location } });
  const { token: secret, stored } = await visitorToken(asked);
  return Response.json({ id: asked.id, scopes: stored.scopes, expires_at: stored.expires_at, token: secret }, { status: 201, headers: { location } });
}

async function visitorToken({ env, store, tenant, id, now }) {
  let number = 0n;
  for (const byte of crypto.getRandomValues(new Uint8Array(32))) number = number * 256n + BigInt(byte);
  const text = `ck_c_${base62(number, 43)}`;
  const secret = text + base62(BigInt(crc32(text)), 6);
  const name = await sha256(secret);
  const scopes = (env.VISITOR_SCOPES ?? "read send state:read state:write").split(/[\s,]+/).filter((scope) => SCOPES.includes(scope));
  const stored = {
    tenant, conversation: id, subject: `guest:${hex(crypto.getRandomValues(new Uint8Array(16)))}`, scopes, label: "visitor",
    family: name.slice(0, 16), created_at: now, expires_at: now + TOKEN_S,
  };
  await served(env, store, "~access", name, "keep", { state: JSON.stringify(stored), owner: markOf(tenant, id), now });
  return { token: secret, stored };
}

async function look(asked) {
  const { service, scopes, now } = asked;
  const { messages } = numbersAsked(asked, { messages: [0, 500, 20] });
  const offBy = await pausesOf(asked);
  return await answerOf(asked, "look", { messages, service, shows: scopes.includes("state:read"), offBy, now });
}

// Refuses where the conversation, or all that is its owner's, is on legal hold, as chatkeep.storage.holds keeps it.
async function refuseHeld({ env, store, tenant, id }) {
  const { owner } = await served(env, store, tenant, id, "standing", {});
  const names = [markOf("conversation", id), ...(owner ? [markOf("owner", owner)] : [])];
  const held = await Promise.all(names.map((name) => served(env, store, `~holds:${tenant}`, name, "held", {})));
  if (held.some(({ state }) => state !== "null")) {
    throw new Refusal(409, "on-hold", "It is on legal hold, and is not erased before that is lifted. Nothing was changed.");
  }
}

async function erase(asked) {
  await refuseHeld(asked);
  const answer = await answerOf(asked, "erase", { now: asked.now });
  const { env, store, tenant, id, now } = asked;
  // (What belongs to it has its mark for an owner.)
  for (const space of ["~access", "~aliases"]) {
    for (const name of await belongings(env, store, space, markOf(tenant, id))) await served(env, store, space, name, "erase", { now });
  }
  await ring(asked, (await epochOf(env, store, "")).epoch, false);
  return answer;
}

async function log(asked) {
  const { after, before, limit } = numbersAsked(asked, { after: [0, 2 ** 53, null], before: [0, 2 ** 53, null], limit: [1, 500, 100] });
  return await answerOf(asked, "log", { after, before, limit, service: asked.service });
}

async function events(asked) {
  const { env, store, tenant, id, request, scopes } = asked;
  let { after } = numbersAsked(asked, { after: [0, 2 ** 53, null] });
  const known = request.headers.get("last-event-id");
  if (known !== null && !/^\d{1,19}$/.test(known)) throw new Refusal(400, "bad-request", "Last-Event-ID is a number of the log.");
  if (known !== null) after = Math.min(Number(known), 2 ** 53);
  const headers = { "content-type": "text/event-stream", "cache-control": "no-store" };
  if (request.method === "HEAD") return new Response(null, { headers });
  for (;;) {
    const { epoch, shards, until } = await epochOf(env, store, EPOCHS.get(store)?.epoch ?? "");
    refuseElsewhere(epoch ?? "");
    refuseCrowd(env, store, tenant, id, true);
    const where = { store, epoch, shard: crc32(`${tenant}\0${id}`) % shards, tenant, id };
    const stream = await conversationOf(env, store, tenant, id).events(where, until, { after, returns: known !== null, shows: scopes.includes("state:read"), name: asked.name });
    if (stream !== null) return new Response(stream, { headers });
    EPOCHS.delete(store);
  }
}

async function send(asked) {
  const { env, store, tenant, service, request, now } = asked;
  const key = keyAsked(request);
  const raw = await bodyAsked(asked, 4 * MESSAGE_MOST);
  const said = new Map(isObject(raw) ? membersOf(raw) : []);
  const content = said.get("content") ?? "";
  const id = said.get("id") === "null" ? undefined : said.get("id");
  const metadata = (said.get("metadata") ?? "null") === "null" ? "{}" : said.get("metadata");
  const parts = content.startsWith("[") && itemsOf(content).every(isObject);
  const known = [...said.keys()].every((name) => ["content", "id", "metadata"].includes(name));
  if (!known || !(content.startsWith('"') || parts) || !isObject(metadata) || (id !== undefined && !id.startsWith('"'))) {
    const what = "it has content (text, or a list of objects), and perhaps id and metadata";
    throw new Refusal(400, "bad-request", `The body is not the JSON that belongs here: ${what}. Nothing was touched.`);
  }
  const named = id === undefined ? undefined : JSON.parse(id);
  if (key !== null && ![undefined, key].includes(named)) {
    throw new Refusal(400, "bad-request", "The Idempotency-Key and the body's id differ; name the message once. Nothing was touched.");
  }
  if (named !== undefined) checkedId(named, 400, "bad-request");
  const whole = checkedId(key ?? named ?? token(), 422, "bad-message");
  if (whole.startsWith("~")) throw new Refusal(422, "bad-message", "Message ids that start with '~' are chatkeep's own; nothing was touched.");
  const claimed = service ? undefined : IDENTITY.find((name) => membersOf(metadata).some(([member]) => member === name));
  if (claimed !== undefined) {
    const said = `The metadata has '${claimed}', which a channel or a service key says of a customer; nothing was touched. Say it in the content, or in the state.`;
    throw new Refusal(422, "bad-message", said);
  }
  const later = (request.headers.get("prefer") ?? "").split(",").some((one) => one.split(";")[0].trim().toLowerCase() === "respond-async");
  const match = tagsAsked(request, "if-match");
  const message = { id: whole, content, metadata: shownMetadata({ metadata }), match, offBy: await pausesOf(asked), now };
  // The message is in the log before anybody is waited for, so that a bot hears of it.
  let told = await served(env, store, tenant, asked.id, "send", { ...message, waits: false });
  const { duplicate, epoch, status } = told;
  if (status === 202 || !duplicate) await ring(asked, epoch, status === 202);
  if (status === 202 && !later) {
    told = await served(env, store, tenant, asked.id, "send", { ...message, waits: true });
    told.body = told.body.replace(/"duplicate":true}$/, `"duplicate":${duplicate}}`);
  }
  const headers = { "content-type": "application/json", ...(later && { "preference-applied": "respond-async" }), ...(duplicate && { "idempotent-replayed": "true" }) };
  return new Response(told.body, { status: told.status, headers });
}

async function state(asked) {
  const known = tagsAsked(asked.request, "if-none-match");
  return await answerOf(asked, "state", { slot: asked.slot, known, now: asked.now, service: asked.service });
}

function change(how) {
  return async (asked) => {
    const { request, slot, scopes, service, now, env, store, tenant, id } = asked;
    const match = tagsAsked(request, "if-match");
    const noneMatch = tagsAsked(request, "if-none-match");
    if (how === "put" && match === null && noneMatch === null) {
      const said = "Say which value this replaces: If-Match with the ETag you have read, or *; for a new slot If-None-Match: *. Nothing was changed.";
      throw new Refusal(428, "precondition-required", said);
    }
    const media = how === "merge" ? "application/merge-patch+json" : "application/json";
    const value = how === "clear" ? null : await bodyAsked(asked, 4 * STATE_MOST, media);
    const shows = scopes.includes("state:read");
    const key = await changeNamed(asked);
    const told = await served(env, store, tenant, id, "change", { how, slot, value, match, noneMatch, key, now, shows, service });
    await ring(asked, told.epoch, false);
    const headers = { ...(told.body === "" ? {} : { "content-type": "application/json" }), ...told.headers };
    return new Response(told.status === 204 ? null : told.body, { status: told.status, headers });
  };
}

// The request's JSON, as text without blanks.
async function bodyAsked({ request }, most, media = "application/json") {
  const type = (request.headers.get("content-type") ?? "").split(";")[0].trim().toLowerCase();
  if (type !== media) throw new Refusal(415, "unsupported-media-type", `Send the body as ${media}; nothing was touched.`);
  if ((request.headers.get("content-encoding") ?? "identity").toLowerCase() !== "identity") {
    const said = "Send the body as it is, and not compressed; nothing was touched.";
    throw new Refusal(415, "unsupported-media-type", said, { "accept-encoding": "identity" });
  }
  const large = new Refusal(413, "too-large", `The request's body is over ${most} bytes; nothing was touched.`);
  if (Number(request.headers.get("content-length") ?? 0) > most) throw large;
  const bytes = await request.arrayBuffer();
  if (bytes.byteLength > most) throw large;
  let text;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw new Refusal(400, "bad-request", "The body is not the JSON that belongs here: it is not UTF-8. Nothing was touched.");
  }
  return checkedJson(text);
}

function numbersAsked({ url }, wanted) {
  const known = Object.keys(wanted);
  const found = Object.fromEntries(known.map((name) => [name, wanted[name][2]]));
  for (const [name, text] of url.searchParams) {
    const [least, most] = wanted[name] ?? [1, 0];
    const number = /^\d{1,19}$/.test(text) ? Number(text) : -1;
    if (number < least || number > most || url.searchParams.getAll(name).length > 1) {
      throw new Refusal(400, "bad-request", `The query is ${known.join(", ")}; this one is not understood: ${name}.`);
    }
    found[name] = number;
  }
  return found;
}

function tagsAsked(request, name) {
  const given = request.headers.get(name);
  if (given === null) return null;
  const parts = given.split(",").map((part) => part.trim());
  if (parts.length === 1 && parts[0] === "*") return ["*"];
  const found = parts.map((part) => /^((?:W\/)?)(?:"([!#-~]*)"|([!#-+\--~]+))$/.exec(part));
  if (parts.includes("*") || found.includes(null)) {
    throw new Refusal(400, "bad-request", `${name} is * or entity tags in quotes, like "1c29"; nothing was touched.`);
  }
  return found.map(([, weak, inner, bare]) => `${weak}"${inner ?? bare ?? ""}"`);
}

function keyAsked(request) {
  const given = request.headers.get("idempotency-key");
  if (given === null) return null;
  const [, inner] = /^"((?:[ !#-[\]-~]|\\["\\])+)"$/.exec(given) ?? [];
  if (inner !== undefined) return inner.replace(/\\(.)/g, "$1");
  if (/^[!#-~][!-~]*$/.test(given)) return given;
  throw new Refusal(400, "bad-request", 'An Idempotency-Key is ASCII text in quotes, like "8e03978e"; nothing was touched.');
}

// What the request's Idempotency-Key calls a change among those of whoever asks, as chatkeep.server.saving does: another one's key is
// another name, though it is written alike.
async function changeNamed({ request, stored }) {
  const key = keyAsked(request);
  return key === null ? null : (await sha256(JSON.stringify([await subjectOf(stored), key]))).slice(0, 32);
}

export default {
  async fetch(request, env, ctx) {
    const path = new URL(request.url).pathname;
    if (path.startsWith("/store/")) return await storeAsked(request, env, path);
    if (path.startsWith("/v1/")) return await publicAsked(request, env, ctx, path);
    if (path === "/healthz") return Response.json({ status: "ok" });
    return problem(404, ...NOT_THERE);
  },
};

// -- bytes

const ENCODER = new TextEncoder();
const DECODER = new TextDecoder();

function bytesOf(text) {
  return ENCODER.encode(text);
}

const CRC = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let bit = 0; bit < 8; bit++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n;
});

// A checksum that is bound to the conversation's key.
function crcOf({ tenant, id }, rest) {
  return crc32(rest, crc32(`${pointsOf(tenant)}:${tenant}${id}`)).toString(16).padStart(8, "0");
}

// A short name for a key, as chatkeep.drivers.base.mark_of makes it.
function markOf(tenant, id) {
  return hex(blake2b(bytesOf(`${pointsOf(tenant)}:${tenant}${id}`), 16));
}

const hex = (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
const token = () => btoa(String.fromCharCode(...crypto.getRandomValues(new Uint8Array(9)))).replace(/\+/g, "-").replace(/\//g, "_");

async function sha256(text) {
  return hex(new Uint8Array(await crypto.subtle.digest("SHA-256", bytesOf(text))));
}

const DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

function base62(number, width) {
  let found = "";
  while (found.length < width) {
    found = DIGITS[Number(number % 62n)] + found;
    number /= 62n;
  }
  return found;
}

// BLAKE2b (RFC 7693), which the platform has not; words of 64 bits as pairs, the lower half first.
const IV = Uint32Array.of(
  0xf3bcc908, 0x6a09e667, 0x84caa73b, 0xbb67ae85, 0xfe94f82b, 0x3c6ef372, 0x5f1d36f1, 0xa54ff53a, 0xade682d1, 0x510e527f,
  0x2b3e6c1f, 0x9b05688c, 0xfb41bd6b, 0x1f83d9ab, 0x137e2179, 0x5be0cd19);
const SIGMA = [
  "0123456789abcdef", "ea489fd61c02b753", "b8c052fdae367194", "7931dcbe265a40f8", "905724afe1bc683d", "2c6a0b834d75fe19",
  "c51fed4a0763928b", "db7ec13950f4862a", "6fe9b308c2d714a5", "a2847615fb9e3cd0",
].map((line) => Array.from(line, (digit) => 2 * parseInt(digit, 16)));
const MIXED = ["048c", "159d", "26ae", "37bf", "05af", "16bc", "278d", "349e"].map((line) => Array.from(line, (digit) => 2 * parseInt(digit, 16)));

function blake2b(said, size, key = new Uint8Array(0)) {
  const h = IV.slice();
  h[0] ^= 0x01010000 ^ (key.length << 8) ^ size;
  const input = new Uint8Array((key.length ? 128 : 0) + said.length);
  input.set(key);
  input.set(said, key.length ? 128 : 0);
  const v = new Uint32Array(32);
  const m = new Uint32Array(32);
  const add = (a, low, high) => {
    const sum = v[a] + low;
    v[a + 1] += high + (sum > 0xffffffff ? 1 : 0);
    v[a] = sum;
  };
  const turn = (a, b, bits) => {
    const low = v[a] ^ v[b];
    const high = v[a + 1] ^ v[b + 1];
    const [x, y] = bits < 32 ? [low, high] : [high, low];
    const n = bits % 32;
    v[a] = n ? (x >>> n) | (y << (32 - n)) : x;
    v[a + 1] = n ? (y >>> n) | (x << (32 - n)) : y;
  };
  let done = 0;
  do {
    const block = new Uint8Array(128);
    block.set(input.subarray(done, done + 128));
    m.set(new Uint32Array(block.buffer));
    const last = done + 128 >= input.length;
    done = Math.min(done + 128, input.length);
    v.set(h);
    v.set(IV, 16);
    v[24] ^= done;
    if (last) {
      v[28] = ~v[28];
      v[29] = ~v[29];
    }
    for (let round = 0; round < 12; round++) {
      const line = SIGMA[round % 10];
      MIXED.forEach(([a, b, c, d], n) => {
        const [x, y] = [line[2 * n], line[2 * n + 1]];
        add(a, v[b], v[b + 1]);
        add(a, m[x], m[x + 1]);
        turn(d, a, 32);
        add(c, v[d], v[d + 1]);
        turn(b, c, 24);
        add(a, v[b], v[b + 1]);
        add(a, m[y], m[y + 1]);
        turn(d, a, 16);
        add(c, v[d], v[d + 1]);
        turn(b, c, 63);
      });
    }
    for (let n = 0; n < 16; n++) h[n] ^= v[n] ^ v[n + 16];
  } while (done < input.length);
  return new Uint8Array(h.buffer).slice(0, size);
}

function crc32(text, seed = 0) {
  let crc = ~seed;
  for (const byte of bytesOf(text)) crc = CRC[(crc ^ byte) & 255] ^ (crc >>> 8);
  return ~crc >>> 0;
}
