// Somebody's conversations on a chatkeep server, over devices, tabs and sign-ins; account.d.ts says what each method does.
// The list is kept in IndexedDB with a cursor, and what has changed since is asked for. What is done to it without a line
// lies in the same queue as messages do, under the name OWN, which no conversation has.

import {
  Bell, Emitter, Line, MARK, Problem, Shelf, backoff, device, emit, follow, meter, notSent, open, pause, random, request, safely, same, serverTime, trace,
} from "./client.js";

const OWN = "~account";
const SOON_MS = 400; // changes of one conversation that follow each other so fast are one save
const PAGE = 100;
const TOLD_MS = 5000;
const HELD = 50; // notices
const GRACE_S = 3600; // so long a token that was refreshed may go on
const LEVELS = { failed: "error", expired: "error", offline: "warning", conflict: "warning", device: "warning" };

export async function openAccount(options) {
  const account = new Account(options);
  await account.loaded;
  return account;
}

export class Account extends Emitter {
  state = "signed-out"; // guest | signed-in | expired | signed-out
  user = null;
  conversations = []; // as people see them: pinned ones first, then the last changed
  notices = []; // those that stand until they are dismissed

  #url; #key; #mint; #hint; #storage; #shelf; #line; #doors;
  #subject; #proven; #token; #out = false; #told = null; #refreshed = 0; #claims = true; #claiming = null;
  #list = new Map(); #cursor = ""; #devices; #queue = []; #drawn = "[]";
  #chats = new Set(); #away = new Set(); #link = { failures: 0, pulls: 0, saves: 0 };
  #sending = new Bell(); #listening = new Bell(); #end = new AbortController(); #whose = new AbortController(); #keeping;

  constructor({ url = new URL(".", import.meta.url).href, token, user, storage } = {}) {
    super();
    this.#url = new URL(String(url).replace(/\/*$/, "/v1/"), document.baseURI).href;
    this.#key = `chatkeep-account:${this.#url}`;
    this.#mint = token === true ? () => true : token;
    this.#hint = user;
    this.#storage = storage ?? safely(() => localStorage) ?? {};
    this.loaded = this.#open();
  }

  // -- who it is ------------------------------------------------------------------------------------------------------

  async token() {
    if (this.#out) return null;
    if (this.#mint) return (await this.#mint()) || null;
    const { at, expires_at } = this.#read("") ?? {};
    const now = Date.now() / 1000;
    if (now > (at + expires_at) / 2 && now - this.#refreshed > 60) {
      this.#refreshed = now;
      await this.refresh().catch(() => {}); // it is good for a while yet
    }
    return this.#read("")?.token ?? null;
  }

  async refresh() {
    if (this.#mint) return this.#identify();
    const old = this.#read("").token;
    await locked(`${this.#key}:refresh`, async () => {
      const kept = this.#read("");
      if (kept?.token !== old) return; // another tab was faster
      const fresh = await (await request(`${this.#url}me/tokens/current/rotate`, { method: "POST", token: old })).json();
      this.#write("", { ...kept, ...pick(fresh, "id", "token", "expires_at"), at: Date.now() / 1000 });
    });
    trace("refreshed");
    this.#tell({ who: true });
    await this.#identify();
  }

  async signIn({ token, claim = true } = {}) {
    const guest = this.state === "guest" ? { token: this.#token, subject: this.#subject } : undefined;
    this.#out = false;
    if (token) this.#write("", { at: Date.now() / 1000, ...(typeof token === "string" ? { token } : pick(token, "id", "token", "expires_at")) });
    if (claim) this.#write(":claim", { guest });
    this.#claims = claim;
    this.#tell({ who: true });
    await this.#identify();
    if (this.state === "expired") throw new Problem(401, { detail: "This sign-in is not valid." });
    return this.#claim().catch((fault) => (this.#fail(fault), [])); // it goes on when there is a line
  }

  async signOut({ unsent = "keep" } = {}) {
    const subject = this.#subject;
    const mine = async () => (await this.#shelf.all()).filter(({ chat, sent }) => chat[0] === this.#url && chat[1] === subject && !sent);
    if (unsent === "send")
      for (let left; (left = (await mine()).length); await pause(SOON_MS / 4))
        if (this.#away.size || (await mine()).every(({ error }) => error)) throw notSent(left, "nobody was signed out");
    if (unsent === "discard") for (const { chat } of await mine()) await this.#shelf.edit(chat, (items, store) => items.forEach((item) => store.delete(item.n)));
    const { token } = this.#read("") ?? {};
    this.#write("");
    this.#out = true;
    if (token) this.#write(":end", [...(this.#read(":end") ?? []), token]);
    this.#tell({ who: true, out: true });
    await this.#become(null);
    await this.#shelf.wipe(this.#url, subject);
    await this.#endTokens().catch((fault) => this.#fail(fault));
  }

  // Sees to it that the credential is known, and goes on as the one for whom it stands.
  async #identify() {
    const token = await this.token();
    if (!token) return this.#become(null);
    if (token !== true && token === this.#proven) return undefined;
    try {
      const me = await (await request(`${this.#url}me`, { token })).json();
      if (token !== (await this.token())) return await this.#identify(); // somebody has signed in or out meanwhile
      if (me.user === undefined) throw new Problem(403, { detail: "This credential is not a user's, so it has no list of conversations." });
      await this.#shelf.note(this.#url, (pairs) => [...(token === true ? [] : [[token.slice(-MARK), me.subject]]), [`user:${me.user}`, me.subject], ...pairs]);
      [this.#token, this.#proven] = [token, token];
      if (!this.#mint) this.#write("", { ...this.#read(""), ...pick(me, "user", "subject") });
      return await this.#become(me);
    } catch (fault) {
      if (fault.status !== 401) throw fault;
      this.#proven = undefined;
      this.#auth("expired");
      this.notify({ id: "expired", kind: "expired", text: "Your sign-in has ended. Sign in again to go on; what you write is kept.", actions: [{ name: "sign-in", run: () => emit(this, "sign-in") }] });
      return undefined;
    }
  }

  async #become(me) {
    const subject = me?.subject;
    if (subject !== this.#subject) {
      const before = this.#subject;
      [this.#subject, this.#cursor, this.#devices, this.#list, this.#queue] = [subject, "", undefined, new Map(), []];
      clearTimeout(this.#keeping);
      this.notices.slice().forEach(({ id }) => this.dismiss(id));
      this.#doors.say(subject ?? null); // the chats of all tabs look whose they are
      if (before && subject) await this.#shelf.wipe(this.#url, before);
      const place = subject && this.#place();
      const { list = [], cursor = "", devices } = (subject && (await this.#shelf.seen(place))) || {};
      if (subject !== this.#subject) return;
      [this.#list, this.#cursor, this.#devices] = [new Map(list.map((one) => [one.id, one])), cursor, devices];
      this.user = me?.user ?? null;
      if (subject) await this.#edit();
    }
    this.#auth(!me ? "signed-out" : me.user.startsWith("guest:") ? "guest" : "signed-in");
    if (me) this.dismiss("expired");
    this.#draw();
  }

  #auth(state) {
    if (state === this.state && this.user === this.#told) return;
    this.#told = this.user;
    this.state = state;
    trace("auth", state);
    this.#whose.abort(); // the stream that was followed is another's
    this.#whose = new AbortController();
    emit(this, "auth", { state, user: this.user });
    this.#wake();
  }

  // Makes what guests have in this browser the user's.
  #claim() {
    return (this.#claiming ??= this.#claimOnce().finally(() => (this.#claiming = null)));
  }

  async #claimOnce() {
    const asked = this.#claims && this.#read(":claim");
    if (!asked || this.state !== "signed-in") return [];
    const isGuest = (key) => key.startsWith(`chatkeep:${this.#url}:`);
    const { claimGuests } = asked.guest || Object.keys(this.#storage).some(isGuest) ? await import("./claims.js") : { claimGuests: () => [] };
    const claimed = await claimGuests({ ...this.#here(), ...asked });
    this.#write(":claim");
    this.#claims = false;
    if (claimed.length) this.notify({ kind: "claimed", text: "Your earlier chats are in your account now." });
    await this.#pull();
    return claimed;
  }

  // What claims.js works with.
  #here() {
    return { url: this.#url, subject: this.#subject, storage: this.#storage, shelf: this.#shelf, json: (path, options) => this.#json(path, options) };
  }

  // Ends on the server what was signed out of here, also when there was no line then.
  async #endTokens() {
    for (const token of this.#read(":end") ?? []) {
      await request(`${this.#url}me/tokens/current`, { method: "DELETE", token }).catch((fault) => {
        if (!fault.final) throw fault;
      });
      this.#write(":end", (this.#read(":end") ?? []).filter((one) => one !== token));
    }
  }

  // -- what it has ----------------------------------------------------------------------------------------------------

  async chat(id = random()) {
    const token = () => this.token();
    if (!this.#mint) token.current = () => (this.#out ? null : this.#read("")?.token);
    const chat = await open({ url: this.#url.slice(0, -3), conversation: id, token, create: true });
    this.watch(chat);
    return chat;
  }

  // Tells what becomes of a chat's messages and slots as notices, also of a chat that a visitor has opened.
  watch(chat) {
    const look = (message) => {
      const id = `failed:${message.id}`;
      if (message.status !== "failed" || message.number) return this.dismiss(id);
      const actions = [{ name: "retry", run: () => chat.retry(message.id) }, { name: "discard", run: () => chat.discard(message.id) }];
      return this.notify({ id, kind: "failed", text: `Not sent: ${message.error}`, about: chat.conversation, actions });
    };
    chat.on("message", look);
    chat.on("remove", (id) => this.dismiss(`failed:${id}`));
    chat.on("status", (status) => this.#mark(chat, status === "offline"));
    chat.on("kept", () => this.notify({ kind: "saved", text: "Saved.", about: chat.conversation }));
    chat.on("loss", ({ slot, path }) => {
      const id = `conflict:${JSON.stringify([chat.conversation, slot, path])}`; // the same in each of its chats
      const isThis = (lost) => lost.slot === slot && same(lost.path, path);
      this.#conflict(chat.conversation, "Another device has changed this too; the later change stands.", chat, isThis, id);
    });
    chat.on("close", () => (this.#chats.delete(chat), this.#mark(chat, false)));
    this.#chats.add(chat);
    this.#mark(chat, chat.status === "offline");
    chat.messages.forEach(look);
  }

  async create(title = "", id = random()) {
    await this.#change(id, { title }, { put: true });
    return id;
  }

  rename(id, title) {
    return this.#change(id, { title, base: this.conversations.find((one) => one.id === id)?.title });
  }

  archive(id, archived = true) {
    return this.#change(id, { archived });
  }

  pin(id, pinned = true) {
    return this.#change(id, { pinned });
  }

  async seen(id, number) {
    const known = this.conversations.find((one) => one.id === id);
    if (known?.version && number > known.seen && known.unseen) await this.#change(id, { seen: number });
  }

  async delete(id) {
    for (const chat of this.#chats) if (chat.conversation === id) chat.close();
    const place = [this.#url, this.#subject, id];
    await this.#shelf.see(place, undefined);
    await this.#shelf.edit(place, (items, store) => items.forEach((item) => store.delete(item.n)));
    await this.#change(id, {}, { gone: true });
  }

  async losses(id) {
    return (await this.#json(`conversations/${encodeURIComponent(id)}/losses`)).losses;
  }

  async restore(id, number) {
    await this.#ask(`conversations/${encodeURIComponent(id)}/losses/${number}`, { method: "POST" });
  }

  async devices() {
    const { tokens } = await this.#json("me/tokens");
    const own = this.#read("")?.id;
    const now = serverTime(Date.now());
    return tokens.filter((one) => !one.revoked && !(one.expires_at < now)).map((one) => ({ ...one, current: one.id === own }));
  }

  async endDevice(id) {
    await this.#ask(`me/tokens/${encodeURIComponent(id)}`, { method: "DELETE" });
  }

  // Takes over what an application has kept in a form of its own.
  async importOld(name, read) {
    const { importOld } = await import("./claims.js");
    const count = await importOld(this.#here(), name, read);
    if (count) await this.#pull();
    return count;
  }

  stats() {
    const { requests, refused, lost, events, ms } = meter;
    return {
      auth: { state: this.state, user: this.user },
      list: { conversations: this.#list.size, cursor: this.#cursor.length, ...pick(this.#link, "pulls") },
      outbox: { waiting: this.#queue.length, failed: this.#queue.filter((item) => item.error).length, ...pick(this.#link, "saves", "failures") },
      link: { requests, refused, lost, events, offline: this.#away.size > 0, mean_ms: requests ? Math.round(ms / requests) : 0 },
      notices: this.notices.length,
      chats: [...this.#chats].map((chat) => chat.stats()),
    };
  }

  get debug() {
    return meter.debug;
  }

  set debug(on) {
    meter.debug = Boolean(on);
    safely(() => (on ? (localStorage["chatkeep-debug"] = "1") : localStorage.removeItem("chatkeep-debug")));
  }

  get lines() {
    return meter.lines;
  }

  close() {
    this.#end.abort();
    this.#whose.abort();
    [...this.#chats].forEach((chat) => chat.close());
    this.#line.close();
    this.#doors.close();
    this.#wake();
  }

  // -- notices: data, which a page shows as it likes ------------------------------------------------------------------

  notify({ id = random(), kind, actions = [], persistent = actions.length > 0, duration = persistent ? 0 : TOLD_MS, ...rest }) {
    const notice = { id, kind, level: LEVELS[kind] ?? "info", at: Date.now(), persistent, duration, ...rest };
    notice.actions = actions.map(({ name, run }) => ({ name, run: async () => (await run(), this.dismiss(id)) }));
    const old = this.notices.find((one) => one.id === id);
    if (old?.text === notice.text) return old;
    if (persistent) this.notices = [...this.notices.filter((one) => one !== old), notice].slice(-HELD);
    trace("notice", kind, notice.about ?? "");
    emit(this, "notice", notice);
    return notice;
  }

  dismiss(id) {
    if (!this.notices.some((one) => one.id === id)) return;
    this.notices = this.notices.filter((one) => one.id !== id);
    emit(this, "dismiss", id);
  }

  // What gave way can be put back: the log of the conversation has it.
  #conflict(about, text, from, isThis, id = `conflict:${about}`) {
    const run = async () => {
      const lost = (await from.losses(about)).find(isThis);
      if (lost) await (from === this ? from.restore(about, lost.number) : from.restore(lost.number));
    };
    this.notify({ id, kind: "conflict", text, about, actions: [{ name: "restore", run }] });
  }

  // *what* has lost its line, or has it again.
  #mark(what, isAway) {
    const before = this.#away.size;
    if (isAway) this.#away.add(what);
    else this.#away.delete(what);
    if (!before && isAway) this.notify({ id: "offline", kind: "offline", text: "You are offline. What you write is kept here and sent later.", persistent: true });
    if (!before || this.#away.size) return;
    this.dismiss("offline");
    this.notify({ kind: "restored", text: "You are back online." });
    this.#wake();
  }

  // -- keeping up -----------------------------------------------------------------------------------------------------

  async #open() {
    this.#shelf = await Shelf.open();
    this.#line = new Line(this.#key, (said) => this.#hear(said));
    this.#doors = new Line(`chatkeep:${this.#url}`, () => {});
    const { signal } = this.#end;
    for (const event of ["online", "pageshow"]) addEventListener(event, () => this.#wake(), { signal });
    addEventListener("offline", () => this.#mark(this, true), { signal });
    document.addEventListener("visibilitychange", () => document.hidden || this.#resume(), { signal });
    const { user = this.#hint, subject = user && (await this.#shelf.whose(this.#url, `user:${user}`)) } = this.#read("") ?? {};
    if (subject) await this.#become({ user, subject }); // what is here is shown at once
    const first = this.#identify().then(() => this.#subject && this.#pull());
    await Promise.race([first.catch((fault) => this.#fail(fault)), pause(this.#cursor ? 0 : 3000)]); // a server that does not answer keeps nobody from what is here
    this.#send();
    this.#listen();
  }

  #resume() {
    this.#wake();
    this.#catchUp().catch((fault) => this.#fail(fault));
  }

  async #catchUp() {
    if (this.#end.signal.aborted) return;
    await this.#endTokens();
    await this.#identify();
    if (!this.#subject && navigator.onLine !== false) this.#mark(this, false);
    if (!this.#subject || this.state === "expired") return;
    await this.#claim();
    await this.#pull();
    await this.#deliver();
    await this.#lookAtDevices();
  }

  // What was written in chats that are not open here is sent too.
  async #deliver() {
    const waits = ({ chat, sent, error }) => chat[0] === this.#url && chat[1] === this.#subject && chat[2] !== OWN && !sent && !error;
    for (const id of new Set((await this.#shelf.all()).filter(waits).map(({ chat }) => chat[2]))) {
      if ([...this.#chats].some((chat) => chat.conversation === id)) continue;
      const chat = await this.chat(id);
      const close = () => chat.stats().unsent > chat.stats().refused || chat.close();
      chat.on("status", close);
      close();
    }
  }

  #fail(fault) {
    trace("failed", fault.name, fault.status ?? "");
    this.#link.failures++;
    if (fault.status === 401) this.#proven = undefined;
    if (!fault.final) this.#mark(this, true);
  }

  async #ask(path, options = {}, again = true) {
    const subject = this.#subject;
    const token = await this.token();
    if (!token || !subject) throw new Problem(401, { detail: "Nobody is signed in." });
    try {
      const answer = await request(this.#url + path, { token, subject, ...options });
      if (subject !== this.#subject) throw new Problem(401, { detail: "Somebody else is here now." });
      this.#mark(this, false);
      return answer;
    } catch (fault) {
      if (fault.status !== 401 || !again) throw fault;
      this.#proven = undefined;
      await this.#identify();
      if (subject !== this.#subject || this.state === "expired") throw fault;
      return this.#ask(path, options, false);
    }
  }

  async #json(path, options) {
    return (await this.#ask(path, options)).json();
  }

  async #pull() {
    this.#link.pulls++;
    for (let again = this.#cursor !== "", more = true; more; ) {
      const found = await this.#json(`me/conversations?since=${encodeURIComponent(this.#cursor)}&limit=${PAGE}`);
      this.#take(this.#cursor ? found : { ...found, reset: true });
      ({ more = false } = found);
      if (more || !again || found.total === this.#list.size) continue;
      [this.#cursor, again, more] = ["", false, true]; // something was missed
    }
  }

  #take(changed, isTold) {
    const { conversations = [], erased = [], cursor, reset } = changed;
    if (reset) this.#list = new Map();
    for (const one of conversations) this.#list.set(one.id, one);
    for (const id of erased) this.#list.delete(id);
    this.#cursor = cursor;
    if (!isTold) {
      if (conversations.length || erased.length || reset) this.#say({ changed });
      this.#keepSoon();
    }
    this.#draw();
  }

  #keepSoon() {
    clearTimeout(this.#keeping);
    const place = this.#place();
    this.#keeping = setTimeout(() => this.#subject && this.#shelf.see(place, { v: 2, list: [...this.#list.values()], cursor: this.#cursor, devices: this.#devices }), SOON_MS);
  }

  async #lookAtDevices() {
    const known = this.#devices;
    const found = await this.devices();
    const lasting = found.filter((one) => !(one.expires_at < serverTime(Date.now()) + GRACE_S)); // one that was refreshed has a successor
    this.#devices = lasting.map(({ id, label }) => ({ id, label }));
    this.#keepSoon();
    const count = (devices, label) => devices.filter((one) => one.label === label).length;
    for (const { id, label, current } of known ? lasting : [])
      if (!current && !known.some((one) => one.id === id) && count(lasting, label) > count(known, label))
        this.notify({ id: `device:${id}`, kind: "device", text: `Your account was opened on another device${label && `: ${label}`}.`, actions: [{ name: "sign-out", run: () => this.endDevice(id) }] });
  }

  // One tab listens, and tells the others.
  async #listen() {
    const { signal } = this.#end;
    for (let failures = 0; !signal.aborted; ) {
      try {
        await this.#catchUp();
        if (!this.#subject || this.state === "expired") {
          await this.#listening.wait();
          continue;
        }
        const subject = this.#subject;
        await locked(`${this.#key}:listen:${subject}`, () => subject === this.#subject && this.#stream(), { signal });
        failures = 0;
        await this.#listening.wait(SOON_MS);
      } catch (fault) {
        if (signal.aborted) return;
        this.#fail(fault);
        await this.#listening.wait(fault.final ? undefined : backoff(failures++, fault.after));
      }
    }
  }

  async #stream() {
    const changed = { conversations: [], erased: [] };
    const headers = { accept: "text/event-stream" };
    const ask = (signal) => this.#ask(`me/events?since=${encodeURIComponent(this.#cursor)}`, { signal, headers });
    await follow(this.#whose.signal, ask, (event, data, id) => {
      if (event === "changed") changed.conversations.push(data);
      else if (event === "erased") changed.erased.push(data.id);
      else if (event === "cursor") this.#take({ ...data, conversations: changed.conversations.splice(0), erased: changed.erased.splice(0), cursor: id });
    });
  }

  // -- changing -------------------------------------------------------------------------------------------------------

  async #change(id, body, { put = false, gone = false } = {}) {
    if (!this.#subject) throw new Problem(401, { detail: "Nobody is signed in." });
    await this.#edit((items, store) => {
      const last = items.findLast((item) => item.of === id);
      const goesOn = last && !gone && !last.gone && !last.tried ? last : undefined;
      const made = { of: id, at: Date.now(), v: 2, gone, put: put || Boolean(goesOn?.put), body: { ...goesOn?.body, ...body, ...pick(goesOn?.body ?? {}, "base") } };
      if (gone) items.filter((item) => item.of === id && !item.tried).forEach((item) => store.delete(item.n));
      store.put(goesOn ? { ...made, n: goesOn.n } : made);
    });
    this.#sending.ring();
  }

  async #edit(change) {
    const subject = this.#subject;
    const items = await this.#shelf.edit(this.#place(), change);
    if (subject !== this.#subject) return;
    this.#queue = items;
    if (change) this.#say({ queue: true });
    for (const item of items) if (item.error) this.#tellRefused(item);
    this.#draw();
  }

  #tellRefused({ n, of: about, error }) {
    const edit = (change) => this.#edit((items, store) => change(items.find((one) => one.n === n), store)).then(() => (this.dismiss(`failed:${n}`), this.#sending.ring()));
    const retry = () => edit((item, store) => item && store.put({ ...item, error: undefined }));
    const discard = () => edit((item, store) => store.delete(n));
    this.notify({ id: `failed:${n}`, kind: "failed", text: `Not saved: ${error}`, about, actions: [{ name: "retry", run: retry }, { name: "discard", run: discard }] });
  }

  // Sends what was done, in order. Each change may be sent twice: it is the same then.
  async #send() {
    const { signal } = this.#end;
    for (let failures = 0; !signal.aborted; ) {
      const next = this.#queue.find((item) => !item.error);
      const settling = next ? next.at + SOON_MS - Date.now() : 0;
      if (!next || !this.#subject || this.state === "expired") await this.#sending.wait();
      else if (settling > 0 && !next.tried) await this.#sending.wait(settling);
      else
        try {
          await locked(`${this.#key}:send:${this.#subject}`, () => this.#sendOne(next.n), { signal });
          failures = 0;
        } catch (fault) {
          if (signal.aborted) return;
          if (!fault.final || fault.status === 401) {
            this.#fail(fault);
            await this.#sending.wait(backoff(failures++, fault.after));
          } else await this.#edit((items, store) => items.some(({ n }) => n === next.n) && store.put({ ...next, error: fault.message }));
        }
    }
  }

  async #sendOne(n) {
    let item;
    await this.#edit((items, store) => {
      item = items.find((one) => one.n === n);
      if (item && !item.tried) store.put((item = { ...item, tried: true }));
    });
    if (!item) return; // another tab has sent it
    const { of: id, body, gone, put, at } = item;
    const path = `conversations/${encodeURIComponent(id)}`;
    try {
      if (gone) await this.#ask(path, { method: "DELETE" });
      else {
        const saved = await this.#json(path, { method: put ? "PUT" : "PATCH", body: { ...body, at: serverTime(at), by: device() } });
        const known = this.#list.get(id);
        if (known || put) this.#list.set(id, { ...BLANK, updated_at: at / 1000, ...known, id, ...omit(body, "base"), ...pick(saved, "version", "checksum", "title") });
        if (saved.conflicts.length) this.#both({ conflict: id });
      }
    } catch (fault) {
      if (!gone || fault.status !== 404) throw fault; // it is gone
    }
    if (gone) this.#list.delete(id);
    this.#link.saves++;
    await this.#edit((items, store) => store.delete(n));
    if (Object.keys(omit(body, "seen")).length || gone) this.#both({ saved: { kind: "saved", text: gone ? "Deleted." : "Saved.", about: id } });
    this.#listening.ring();
  }

  #draw() {
    const list = new Map(this.#list);
    for (const { of: id, gone, body, at, error } of this.#queue) {
      if (error) continue;
      if (gone) list.delete(id);
      else list.set(id, { ...BLANK, updated_at: at / 1000, ...list.get(id), id, ...omit(body, "base"), ...("seen" in body && { unseen: 0 }), pending: true });
    }
    const found = [...list.values()].sort((a, b) => b.pinned - a.pinned || b.updated_at - a.updated_at || (a.id < b.id ? -1 : 1));
    const drawn = JSON.stringify(found);
    if (drawn === this.#drawn) return;
    this.#drawn = drawn;
    emit(this, "conversations", (this.conversations = found));
  }

  // -- between tabs ---------------------------------------------------------------------------------------------------

  #say(said) {
    if (!this.#end.signal.aborted) this.#line.say({ subject: this.#subject, ...said });
  }

  // Any tab may have sent what was done in this one.
  #both(said) {
    this.#say(said);
    this.#hear({ subject: this.#subject, ...said });
  }

  // Who is signed in has changed: the other tabs look, and so do the chats of all tabs.
  #tell(said) {
    this.#say(said);
    this.#doors.say(null);
  }

  #hear({ subject, changed, queue, saved, conflict, who, out = false }) {
    if (who) {
      this.#out = out && Boolean(this.#mint);
      this.#resume();
    } else if (subject !== this.#subject) return;
    else if (changed) this.#take(changed, true);
    else if (saved) this.notify(saved);
    else if (conflict) this.#conflict(conflict, "This chat was renamed on another device too; the later title stands.", this, (lost) => lost.about === "title");
    else if (queue) this.#edit().then(() => this.#sending.ring());
  }

  #place() {
    return [this.#url, this.#subject, OWN];
  }

  #wake() {
    this.#sending.ring();
    this.#listening.ring();
  }

  #read(rest) {
    return JSON.parse(safely(() => this.#storage.getItem(this.#key + rest)) ?? "null") ?? undefined;
  }

  #write(rest, value) {
    safely(() => (value === undefined ? this.#storage.removeItem(this.#key + rest) : this.#storage.setItem(this.#key + rest, JSON.stringify(value))));
  }
}

const BLANK = { title: "", version: 0, head: 0, seen: 0, unseen: 0, last: "", last_role: "", archived: false, pinned: false };
const pick = (from, ...names) => Object.fromEntries(names.filter((name) => name in from).map((name) => [name, from[name]]));
const omit = (from, ...names) => Object.fromEntries(Object.entries(from).filter(([name]) => !names.includes(name)));
const locked = (name, act, options = {}) => (navigator.locks ? navigator.locks.request(name, options, act) : act());
