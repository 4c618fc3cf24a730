// A conversation on a chatkeep server, kept over refreshes, tabs and lost networks; chatkeep.d.ts says what each method does.
// What is not acknowledged lies in IndexedDB. One tab of each chat, the leader, sends it, listens to the server and tells
// the others over a BroadcastChannel; one of them takes over when it closes.

const PAGE = 50;
const KEPT = 100; // messages that are kept in this browser, to be shown while the server is away
const SOON_MS = 250; // a slot that is being typed into is saved so long after the last key
const ASK_MS = 20_000;
const QUIET_MS = 40_000; // the server says something every 15 s
const POLL_MS = 2000;
const LONGEST_MS = 15_000;
const PATIENCE_MS = 3000;
const RESTORED_MS = 4000;

export class Problem extends Error {
  constructor(status, body, after) {
    super(body.detail ?? body.title ?? `The server answered ${status}.`);
    Object.assign(this, { name: "Problem", status, type: body.type ?? "about:blank", body, after: Number(after) || 0 });
  }

  get final() {
    return this.status < 500 && ![408, 425, 429].includes(this.status);
  }
}

export async function open(options) {
  const chat = new Chat(options);
  await chat.loaded;
  return chat;
}

export class Chat extends EventTarget {
  messages = []; // in order: the log, a reply that is being made, what is not acknowledged yet
  typing = false;
  status = "saved"; // saved | sending | offline | restored | failed
  more = false; // there are earlier messages: earlier()

  #url; #storage; #given; #mint; #cookie; #shelf; #channel; #me; // #me: {id, token, ...}, or {share}, or {}
  #log = new Map(); // by id, as the server has them
  #queue = []; // as IndexedDB has it
  #piece = null; // the reply that is being made: {turn, text, length}
  #seen = null; // every message up to this number is in #log; null: nothing was loaded
  #handled = 0; #checked = 0; // the bot has dealt with all up to this number, we are sure of it up to that one
  #dead = new Set();
  #state; #known = new Map(); // slot -> {etag, value}, as last answered
  #loading = null; #catching = null; #problem = null; #offline = false; #restored = false;
  #sending = new Bell(); #listening = new Bell();
  #end = new AbortController(); #reign = null; #waiting = null; #steals = false; #answered = false; #timers = {};

  constructor({ url = new URL(".", import.meta.url).href, storage, name, conversation, token, cookie = false, share } = {}) {
    super();
    this.#url = String(url).replace(/\/*$/, "/v1/");
    this.#storage = storage ?? safely(() => localStorage) ?? memory();
    this.#cookie = cookie;
    this.#given = conversation !== undefined;
    if (typeof token === "function") this.#mint = token;
    share ??= shareInAddress();
    const prefix = `chatkeep:${this.#url}`;
    this.name = conversation ?? (share ? random() : (name ?? this.#read(prefix) ?? random()));
    if (this.#given) this.#me = { id: conversation, token: this.#mint ? undefined : token };
    else this.#keep(share ? { share } : JSON.parse(this.#read(`${prefix}:${this.name}`) ?? "{}"), !share);
    this.loaded = this.#open();
  }

  get conversation() {
    return this.#me.id;
  }

  get problem() {
    const refused = this.#queue.find((item) => item.error && item.slot !== undefined);
    return this.#problem ?? (refused ? { message: refused.error } : null);
  }

  on(event, hear) {
    const listener = ({ detail }) => hear(detail);
    this.addEventListener(event, listener);
    return () => this.removeEventListener(event, listener);
  }

  async send(content, { id = random(), metadata } = {}) {
    await this.#edit((items, store) => store.put({ chat: this.name, id, content, metadata, at: Date.now() }));
    this.#wake();
    return this.messages.find((message) => message.id === id);
  }

  async retry(id) {
    const logged = this.#log.get(id);
    if (logged) return this.send(logged.content, { metadata: logged.metadata });
    await this.#edit((items, store) => {
      const item = items.find((item) => item.id === id);
      if (item) store.put({ ...item, error: undefined });
    });
    return this.#wake();
  }

  async discard(id) {
    await this.#edit((items, store) => items.filter((item) => item.id === id).forEach((item) => store.delete(item.n)));
  }

  async earlier(limit = PAGE) {
    const first = Math.min(...[...this.#log.values()].map((message) => message.number));
    const { messages } = await this.#json(`/messages?before=${Number.isFinite(first) ? first : 1}&limit=${limit}`);
    this.more = messages.length === limit;
    this.#take("message", messages);
    return this.more;
  }

  async share(options = {}) {
    if (!this.#me.id) throw new Error("There is nothing to share yet: send a message first.");
    const { share } = await this.#json("/shares", { method: "POST", body: { scopes: this.#me.scopes, ...options } });
    return `${location.origin}${location.pathname}#share=${share}`;
  }

  get state() {
    return this.#queue.reduce(
      (state, item) => (item.slot === undefined ? state : { ...state, [item.slot]: applied(item, state?.[item.slot]) }),
      this.#state,
    );
  }

  slot(name) {
    const write = (op) => this.#write({ chat: this.name, slot: name, at: Date.now(), rev: random(), ...op });
    const get = () => this.state?.[name];
    return {
      get,
      set: (value) => write({ set: value }),
      patch: (patch) => write({ patch }),
      clear: () => write({ set: undefined }),
      subscribe: (hear) => {
        let last = get();
        hear(last);
        return this.on("state", () => same(last, get()) || hear((last = get())));
      },
    };
  }

  close() {
    this.#end.abort();
    this.#channel?.close();
  }

  async forget() {
    await this.#edit((items, store) => items.forEach((item) => store.delete(item.n)));
    this.close();
    await this.#shelf.see(this.name, undefined);
    const prefix = `chatkeep:${this.#url}`;
    if (this.#read(prefix) === this.name) safely(() => this.#storage.removeItem(prefix));
    safely(() => this.#storage.removeItem(`${prefix}:${this.name}`));
  }

  // -- opening --------------------------------------------------------------------------------------------------------

  async #open() {
    this.#shelf = await Shelf.open();
    const { signal } = this.#end;
    const key = `chatkeep:${this.#url}:${this.name}`;
    if (globalThis.BroadcastChannel) {
      this.#channel = new BroadcastChannel(key);
      this.#channel.onmessage = ({ data }) => this.#hear(data);
    }
    for (const event of ["online", "pageshow"]) addEventListener(event, () => this.#wake(), { signal });
    addEventListener("offline", () => this.#link(new Error("This device is offline.")), { signal });
    document.addEventListener("visibilitychange", () => document.hidden || this.#resume(), { signal });

    const { messages = [], state, handled = 0, dead, more = false } = (await this.#shelf.seen(this.name)) ?? {};
    messages.forEach((message) => this.#log.set(message.id, message));
    [this.#state, this.#handled, this.#dead, this.more] = [state, handled, new Set(dead), more];
    await this.#edit();
    this.#elect(key);
    this.#resume();
    // A server that does not answer must not keep people from what is here already.
    if (this.#me.id) await Promise.race([this.#load().catch((fault) => this.#link(fault)), pause(PATIENCE_MS)]);
  }

  #read(key) {
    return safely(() => this.#storage.getItem(key)) ?? undefined;
  }

  #keep(me, current = true) {
    this.#me = me;
    const prefix = `chatkeep:${this.#url}`;
    safely(() => this.#storage.setItem(`${prefix}:${this.name}`, JSON.stringify(me)));
    if (current) safely(() => this.#storage.setItem(prefix, this.name));
  }

  // -- asking ---------------------------------------------------------------------------------------------------------

  async #ask(path, options = {}, again = true) {
    const { method, body, headers, signal = AbortSignal.timeout(ASK_MS) } = options;
    if (this.#mint && this.#me.id) this.#me.token ??= await this.#mint();
    const { token } = this.#me;
    const answer = await fetch(this.#url + path, {
      method,
      body: body === undefined ? undefined : JSON.stringify(body),
      headers: {
        ...(token && { authorization: `Bearer ${token}` }),
        ...(body !== undefined && { "content-type": "application/json" }),
        ...headers,
      },
      cache: "no-store",
      signal,
    });
    if (answer.ok) return answer;
    if (answer.status === 401 && this.#mint && again) {
      this.#me.token = undefined;
      return this.#ask(path, options, false);
    }
    const told = await answer.json().catch(() => ({}));
    throw new Problem(answer.status, told, answer.headers.get("retry-after"));
  }

  #here(path, options) {
    return this.#ask(`conversations/${encodeURIComponent(this.#me.id)}${path}`, options);
  }

  async #json(path, options) {
    return (await this.#here(path, options)).json();
  }

  // Gets a conversation and the right to it: by the link that was opened, or a new one.
  async #begin() {
    const { share } = this.#me;
    const body = { ...(share && { share }), ...(this.#cookie && { cookie: true }) };
    const answer = await this.#ask(share ? "shares/redeem" : "conversations", { method: "POST", body });
    const { id, token, scopes, expires_at } = await answer.json();
    this.#tell("conversation", { id, token, scopes, expires_at });
  }

  #load() {
    return (this.#loading ??= this.#loadOnce().finally(() => (this.#loading = null)));
  }

  async #loadOnce() {
    const kept = [...this.#log.values()];
    const found = await this.#json(`?messages=${PAGE}`);
    const first = found.messages[0]?.number ?? found.head + 1;
    // What is kept here may end long before, and an erased conversation begins again at 1.
    for (const { id, number } of kept) if (number < first || number > found.head) this.#log.delete(id);
    this.more = first > 1 && found.messages.length > 0;
    this.#seen = Math.max(this.#seen ?? 0, found.head);
    this.#summarize(found);
    // What the leader loads the stream will not bring again, so the followers are told of it too.
    const take = (event, data) => (this.#reign ? this.#tell(event, data) : this.#take(event, data));
    if ("state" in found) take("state", { state: found.state });
    take("message", found.messages);
    this.#link(null);
  }

  #summarize({ unread, head, dead }) {
    if (!unread) this.#handled = this.#checked = head;
    this.#dead = new Set(dead);
  }

  #catchUp() {
    return (this.#catching ??= this.#catchUpOnce().finally(() => (this.#catching = null)));
  }

  async #catchUpOnce() {
    if (this.#seen === null) return this.#load();
    for (let page = []; ; ) {
      page = (await this.#json(`/messages?after=${this.#seen}&limit=${KEPT}`)).messages;
      this.#link(null);
      if (page.length) this.#tell("message", page, page.at(-1).number);
      if (page.length < KEPT) return;
    }
  }

  // -- leading: one tab sends and listens -----------------------------------------------------------------------------

  async #elect(key) {
    while (!this.#end.signal.aborted) {
      const steal = this.#steals;
      this.#steals = false;
      const waiting = (this.#waiting = new AbortController());
      this.#end.signal.addEventListener("abort", () => waiting.abort());
      try {
        if (!navigator.locks) await this.#lead(); // no secure context: each tab for itself; ids keep messages single
        else await navigator.locks.request(key, steal ? { steal } : { signal: waiting.signal }, () => this.#lead());
      } catch (fault) {
        if (fault.name !== "AbortError") throw fault;
      }
      this.#reign?.abort(); // perhaps stolen, by a tab that people look at
      this.#reign = null;
    }
  }

  async #lead() {
    const reign = (this.#reign = new AbortController());
    const { signal } = reign;
    this.#end.signal.addEventListener("abort", () => reign.abort());
    signal.addEventListener("abort", () => this.#wake());
    await this.#edit();
    await Promise.all([this.#drain(signal), this.#listen(signal)]);
  }

  // Sends what is queued, one after the other and in order, for as long as that takes.
  async #drain(signal) {
    for (let failures = 0; !signal.aborted; ) {
      const [next, another] = this.#queue.filter((item) => !item.error && !item.sent);
      const settling = next?.slot !== undefined && !another ? next.at + SOON_MS - Date.now() : 0;
      if (!next && !this.#me.share) {
        // What could not be sent may have been taken all the same: then there is nothing left to tell that the line is back.
        if (this.#offline && this.#me.id) await this.#catchUp().catch(() => {});
        await this.#sending.wait(this.#offline ? backoff(failures++) : undefined);
      } else if (settling > 0) await this.#sending.wait(settling);
      else {
        try {
          if (!this.#me.id) await this.#begin();
          else await (next.slot === undefined ? this.#post(next) : this.#put(next));
          failures = 0;
          this.#link(null);
        } catch (fault) {
          // Without the right to it, or the conversation, sending on is no use; a slot may be closed for itself.
          const closed = !next || [401, 404].includes(fault.status) || (fault.status === 403 && next.slot === undefined);
          if (fault.final && !closed) await this.#edit((items, store) => store.put({ ...next, error: fault.message }));
          else {
            this.#link(fault);
            await this.#sending.wait(fault.final ? undefined : backoff(failures++, fault.after));
          }
        }
      }
    }
  }

  async #post(item) {
    const { id, content, metadata } = item;
    const body = { id, content, ...(metadata && { metadata }) };
    const headers = { prefer: "respond-async" };
    const receipt = await this.#json("/messages", { method: "POST", body, headers });
    if (receipt.status === "answered") this.#handled = Math.max(this.#handled, receipt.number);
    if (receipt.status === "failed") this.#dead.add(receipt.number);
    if (!receipt.number) return this.#edit((items, store) => store.put({ ...item, sent: true })); // in the server's journal
    const taken = { id, content, metadata, number: receipt.number, role: "user", created_at: Date.now() / 1000 };
    this.#tell("message", this.#log.has(id) ? receipt.replies : [taken, ...receipt.replies]);
    await this.discard(id);
  }

  // Applies a change to what the slot is now, however often others were there first.
  async #put(item) {
    const path = `/state/${encodeURIComponent(item.slot)}`;
    let now = this.#known.get(item.slot) ?? (await this.#slot(path));
    for (let value; ; ) {
      value = applied(item, now.value);
      if (same(value, now.value)) break; // also when it was written, and only the answer got lost
      try {
        if (value === undefined) {
          await this.#here(path, { method: "DELETE", headers: { "if-match": now.etag } });
          now = {};
        } else {
          const headers = now.etag ? { "if-match": now.etag } : { "if-none-match": "*" };
          const answer = await this.#here(path, { method: "PUT", body: value, headers });
          now = { etag: answer.headers.get("etag") ?? "*", value };
        }
        break;
      } catch (fault) {
        if (fault.status !== 412 && !(fault.status === 404 && now.etag)) throw fault;
        now = fault.status === 412 && fault.body.etag ? { etag: fault.body.etag, value: fault.body.state } : await this.#slot(path);
      }
    }
    this.#known.set(item.slot, now);
    this.#tell("state", { state: { ...this.#state, [item.slot]: now.value } });
    // Somebody may have typed on while this was on its way.
    await this.#edit((items, store) => items.find(({ n, rev }) => n === item.n && rev === item.rev) && store.delete(item.n));
  }

  async #slot(path) {
    try {
      const answer = await this.#here(path);
      return { etag: answer.headers.get("etag"), value: await answer.json() };
    } catch (fault) {
      if (fault.status === 404) return {};
      throw fault;
    }
  }

  // Holds the event stream. Where none gets through, it asks from time to time.
  async #listen(signal) {
    for (let failures = 0; !signal.aborted; ) {
      if (!this.#me.id) {
        await this.#listening.wait();
        continue;
      }
      try {
        if (this.#seen === null) await this.#load();
        await this.#stream(signal).catch((fault) => signal.aborted || fault);
        if (signal.aborted) return;
        await this.#catchUp();
        failures = 0;
        await this.#listening.wait(POLL_MS * (0.5 + Math.random()));
      } catch (fault) {
        this.#link(fault);
        await this.#listening.wait(fault.final ? undefined : backoff(failures++, fault.after));
      }
    }
  }

  async #stream(signal) {
    const cut = new AbortController();
    const stop = () => cut.abort();
    signal.addEventListener("abort", stop);
    addEventListener("offline", stop, { signal: cut.signal });
    let watch = setTimeout(stop, QUIET_MS);
    const poll = setInterval(() => this.#catchUp().catch(() => {}), POLL_MS); // until the stream says its first word
    try {
      const headers = { accept: "text/event-stream", "last-event-id": String(this.#seen) };
      const answer = await this.#here("/events", { headers, signal: cut.signal });
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      this.#tell("typing", { on: false });
      for (let rest = ""; ; ) {
        const { value, done } = await reader.read();
        if (done) return;
        clearInterval(poll);
        clearTimeout(watch);
        watch = setTimeout(stop, QUIET_MS);
        this.#link(null);
        rest += value;
        if (rest.endsWith("\r")) continue;
        const events = rest.replaceAll("\r\n", "\n").split("\n\n");
        rest = events.pop();
        for (const event of events) if (this.#dispatch(event) === "end") return;
      }
    } finally {
      signal.removeEventListener("abort", stop);
      clearInterval(poll);
      clearTimeout(watch);
      cut.abort();
    }
  }

  #dispatch(lines) {
    const fields = {};
    for (const line of lines.split("\n")) {
      const [, name, value] = /^(\w*): ?([^]*)$/.exec(line) ?? []; // a dot would stop at U+2028
      fields[name] = value;
    }
    if (!fields.event || !fields.data) return undefined;
    const data = JSON.parse(fields.data);
    if (fields.event === "message") this.#tell("message", [data], Number(fields.id));
    else this.#tell(fields.event, data);
    return fields.event;
  }

  // -- between tabs ---------------------------------------------------------------------------------------------------

  // What the leader learns is taken here and told to the followers.
  #tell(event, data, seen) {
    this.#say({ event, data, seen });
    this.#take(event, data, seen);
  }

  #say(said) {
    if (!this.#end.signal.aborted) this.#channel?.postMessage(said);
  }

  async #hear({ event, data, seen }) {
    if (this.#end.signal.aborted) return;
    if (event === "queue") {
      await this.#edit();
    } else if (event !== "hello") {
      this.#answered = true;
      this.#take(event, data, seen);
    } else if (this.#reign) {
      this.#wake();
      this.#say({ event: "link", data: { offline: this.#offline, problem: this.#problem } });
      this.#say({ event: "typing", data: { on: this.typing } });
      if (this.#piece) this.#say({ event: "piece", data: { turn: this.#piece.turn, at: 0, text: this.#piece.text } });
    }
  }

  // This tab is looked at: it may have slept, and the leader may be asleep.
  async #resume() {
    if (this.#reign) return this.#wake();
    this.#answered = false;
    this.#say({ event: "hello" });
    if (this.#seen !== null) this.#catchUp().catch(() => {});
    await pause(PATIENCE_MS);
    if (this.#answered || this.#reign || document.hidden || !navigator.locks) return;
    this.#steals = true;
    this.#waiting?.abort();
  }

  #wake() {
    this.#sending.ring();
    this.#listening.ring();
  }

  // -- taking in what happens -----------------------------------------------------------------------------------------

  #take(event, data, seen) {
    if (event === "message") this.#takeMessages(data, seen);
    else if (event === "piece") this.#takePiece(data);
    else if (event === "typing") this.#takeTyping(data.on);
    else if (event === "state") this.#takeState(data.state);
    else if (event === "link") this.#takeLink(data);
    else if (event === "conversation") {
      this.#keep(data);
      this.#emit("conversation", data.id);
      this.#wake();
    } else if (event === "end" && ["revoked", "erased"].includes(data.reason))
      this.#link(new Problem(401, { detail: `This conversation was ${data.reason === "erased" ? "erased" : "closed"}.`, ...data }));
    this.#update();
  }

  #takeMessages(messages, seen) {
    for (const message of messages) {
      this.#log.set(message.id, message);
      if (message.reply_to) this.#handled = Math.max(this.#handled, message.reply_to);
      if (message.role === "assistant" && message.number > (this.#seen ?? 0)) this.#piece = null;
    }
    if (!this.typing) this.#check();
    if (seen) this.#seen = Math.max(this.#seen ?? 0, seen);
    const arrived = new Set(messages.map((message) => message.id));
    if (this.#reign && this.#queue.some((item) => arrived.has(item.id)))
      this.#edit((items, store) => items.filter((item) => arrived.has(item.id)).forEach((item) => store.delete(item.n)));
    this.#later("keep", 500, () => this.#reign && this.#shelf.see(this.name, this.#summary()));
  }

  #takePiece({ turn, at, text }) {
    clearTimeout(this.#timers.check);
    const said = this.#piece?.turn === turn ? this.#piece.text : "";
    const characters = Array.from(said); // the server counts characters, not UTF-16 units
    if (at > characters.length) return; // the beginning was missed; the message is to come
    this.#piece = { turn, text: (at === characters.length ? said : characters.slice(0, at).join("")) + text };
  }

  #takeTyping(on) {
    if (on !== this.typing) this.#emit("typing", (this.typing = on));
    if (on) clearTimeout(this.#timers.check);
    else this.#check();
  }

  // When all is quiet: a message that no reply covers may have been given up, or need none.
  #check() {
    this.#later("check", 1500, async () => {
      this.#piece = null;
      const covered = (number) => this.messages.some(({ reply_from, reply_to }) => reply_from <= number && number <= reply_to);
      const open = this.messages.some(({ role, number }) => role === "user" && number > this.#checked && !covered(number));
      if (open) await this.#json("?messages=0").then((found) => this.#summarize(found), () => {});
      this.#update();
    });
  }

  #takeState(state) {
    this.#state = state;
    for (const [name, { value }] of this.#known) if (!same(value, state?.[name])) this.#known.delete(name);
    this.#emit("state", this.state);
    this.#later("keep", 500, () => this.#reign && this.#shelf.see(this.name, this.#summary()));
  }

  // How the line to the server is: null when it has just answered.
  #link(fault) {
    const data = { offline: Boolean(fault && !fault.final), problem: told(fault) };
    if (data.offline !== this.#offline || data.problem?.message !== this.#problem?.message) this.#tell("link", data);
  }

  #takeLink({ offline, problem }) {
    if (this.#offline && !offline && !problem) {
      this.#restored = true;
      this.#later("restored", RESTORED_MS, () => {
        this.#restored = false;
        this.#update();
      });
    }
    this.#offline = offline;
    this.#problem = problem;
    if (!offline && !problem) this.#wake();
  }

  // -- showing --------------------------------------------------------------------------------------------------------

  #write(op) {
    return this.#edit((items, store) => {
      const last = items.at(-1);
      items.filter((item) => item.slot === op.slot && item.error && item !== last).forEach((item) => store.delete(item.n));
      if (last?.slot !== op.slot) return store.put(op);
      if (!("patch" in op)) return store.put({ ...op, n: last.n });
      if (!("patch" in last)) return store.put({ ...op, patch: undefined, n: last.n, set: merged(last.set, op.patch) });
      // Two patches become one only where that means the same: not where the second goes deeper than the first.
      const deep = Object.entries(op.patch).some(([name, value]) => name in last.patch && isObject(value));
      return store.put(deep ? op : { ...op, n: last.n, patch: { ...last.patch, ...op.patch } });
    });
  }

  async #edit(change) {
    this.#queue = await this.#shelf.edit(this.name, change);
    if (change) this.#say({ event: "queue" });
    this.#update();
    if (!this.#offline) this.#sending.ring();
    if (this.#queue.some((item) => item.slot !== undefined)) this.#emit("state", this.state);
  }

  #update() {
    const before = new Map(this.messages.map((message) => [message.id, message]));
    const shown = (message, status, error) => {
      const last = before.get(message.id);
      const text = textOf(message.content);
      const unchanged = last && last.status === status && last.error === error && last.number === message.number && last.text === text;
      return unchanged ? last : { ...message, text, status, error };
    };
    const logged = [...this.#log.values()].sort((a, b) => a.number - b.number).map((message) => {
      if (message.role !== "user") return shown(message, "received");
      if (this.#dead.has(message.number)) return shown(message, "failed", "The bot could not answer this; your message is kept.");
      return shown(message, message.number <= this.#handled ? "delivered" : "sent");
    });
    const made = this.#piece ? [shown({ id: `piece:${this.#piece.turn}`, role: "assistant", content: this.#piece.text }, "streaming")] : [];
    const local = this.#queue
      .filter((item) => item.id && !this.#log.has(item.id))
      .map(({ id, content, metadata, at, error, sent }) =>
        shown({ id, content, metadata, role: "user", created_at: at / 1000 }, error ? "failed" : sent ? "sent" : "sending", error),
      );
    this.messages = [...logged, ...made, ...local];
    const now = new Set(this.messages.map((message) => message.id));
    for (const id of before.keys()) if (!now.has(id)) this.#emit("remove", id);
    for (const message of this.messages) if (before.get(message.id) !== message) this.#emit("message", message);

    const refused = this.#queue.some((item) => item.error);
    const going = this.#queue.some((item) => !item.error && !item.sent);
    const restored = this.#restored ? "restored" : "saved";
    const status = this.#offline ? "offline" : this.#problem ? "failed" : going ? "sending" : refused ? "failed" : restored;
    if (status !== this.status) this.#emit("status", (this.status = status));
  }

  #summary() {
    const messages = [...this.#log.values()].sort((a, b) => a.number - b.number).slice(-KEPT);
    return { messages, state: this.#state, handled: this.#handled, dead: [...this.#dead], more: messages[0]?.number > 1 };
  }

  #emit(event, detail) {
    this.dispatchEvent(new CustomEvent(event, { detail }));
  }

  #later(what, ms, act) {
    clearTimeout(this.#timers[what]);
    this.#timers[what] = setTimeout(() => this.#end.signal.aborted || act(), ms);
  }
}

// What a loop waits on: a time, or somebody who rings. A ring that comes before the wait is not lost.
class Bell {
  #rung = false;
  #answer = () => {};

  ring() {
    this.#rung = true;
    this.#answer();
  }

  async wait(ms) {
    if (!this.#rung)
      await new Promise((resolve) => {
        this.#answer = resolve;
        if (ms !== undefined) setTimeout(resolve, ms);
      });
    this.#rung = false;
  }
}

// The queues and the last seen messages of all chats in this browser; in memory where IndexedDB is not to be had.
class Shelf {
  #db;
  #items = [];
  #next = 1;

  static async open() {
    const shelf = new Shelf();
    const request = safely(() => indexedDB.open("chatkeep", 1));
    if (!request) return shelf;
    request.onupgradeneeded = () => {
      request.result.createObjectStore("queue", { keyPath: "n", autoIncrement: true }).createIndex("chat", "chat");
      request.result.createObjectStore("seen");
    };
    shelf.#db = await settled(request).catch(() => undefined);
    return shelf;
  }

  async edit(chat, change) {
    if (!this.#db) {
      change?.(this.#items, {
        put: (item) => (this.#items = [...this.#items.filter(({ n }) => n !== item.n), { n: this.#next++, ...item }].sort((a, b) => a.n - b.n)),
        delete: (n) => (this.#items = this.#items.filter((item) => item.n !== n)),
      });
      return this.#items;
    }
    const transaction = this.#db.transaction("queue", change ? "readwrite" : "readonly", { durability: "strict" });
    const store = transaction.objectStore("queue");
    if (change) change(await settled(store.index("chat").getAll(chat)), store);
    const items = await settled(store.index("chat").getAll(chat));
    if (change) await new Promise((done, failed) => Object.assign(transaction, { oncomplete: done, onabort: failed }));
    return items;
  }

  async seen(chat) {
    return this.#db && settled(this.#db.transaction("seen").objectStore("seen").get(chat));
  }

  async see(chat, summary) {
    const store = this.#db?.transaction("seen", "readwrite").objectStore("seen");
    return store && settled(summary ? store.put(summary, chat) : store.delete(chat));
  }
}

// -- small rules ------------------------------------------------------------------------------------------------------

export function merged(value, patch) {
  if (!isObject(patch)) return patch;
  const members = new Map(Object.entries(isObject(value) ? value : {}));
  for (const [name, part] of Object.entries(patch)) {
    if (part === null) members.delete(name);
    else members.set(name, merged(members.get(name), part));
  }
  return Object.fromEntries(members);
}

const applied = (item, value) => (item.patch === undefined ? item.set : merged(value, item.patch));
const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const sorted = (name, value) => (isObject(value) ? Object.fromEntries(Object.entries(value).sort()) : value);
const same = (a, b) => JSON.stringify(a, sorted) === JSON.stringify(b, sorted);
const textOf = (content) =>
  typeof content === "string" ? content : content.flatMap((part) => ("text" in part ? [String(part.text)] : [])).join("\n");
const told = (fault) => fault && { message: fault.message, status: fault.status, type: fault.type, body: fault.body };
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const backoff = (failures, after = 0) => Math.max(after * 1000, Math.min(LONGEST_MS, 500 * 2 ** failures)) * (0.5 + Math.random() / 2);
const settled = (request) =>
  new Promise((resolve, reject) => Object.assign(request, { onsuccess: () => resolve(request.result), onerror: () => reject(request.error) }));

function random() {
  const bytes = crypto.getRandomValues(new Uint8Array(16)); // randomUUID is only there in secure contexts
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function safely(act) {
  try {
    return act();
  } catch {
    return undefined; // storage is blocked or full; the page goes on without
  }
}

function memory() {
  const kept = new Map();
  return { getItem: (key) => kept.get(key) ?? null, setItem: (key, value) => kept.set(key, value), removeItem: (key) => kept.delete(key) };
}

// The share in the address, which is taken out of it at once: nobody should copy, bookmark or photograph it.
function shareInAddress() {
  const share = /[#&]share=(ck_h_\w+)/.exec(location.hash)?.[1];
  if (share) history.replaceState(history.state, "", location.pathname + location.search);
  return share;
}
