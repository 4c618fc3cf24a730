// Somebody's conversations on a chatkeep server, over devices, tabs and sign-ins; account.d.ts says what each method does.
// The list is kept in IndexedDB with a cursor, and what has changed since is asked for. What is done to it without a line
// lies in the same queue as messages do, under the name OWN, which no conversation has.

import {
  Bell, Emitter, Line, MARK, Problem, SETTLED_MS, Shelf, attend, emit, follow, hasLocks, later, meter, open, pause, random, repeat, request, safely,
  serverTime, tools as clientTools, trace,
} from "./client.js";

const SOON_MS = 400; // changes of one conversation that follow each other so fast are one save
const PAGE = 100;
const TOLD_MS = 5000;
const HELD = 50; // notices
const OWN = "~account";
const LEVELS = { failed: "error", expired: "error", offline: "warning", conflict: "warning", device: "warning" };

export { Chat, Problem, merged, open, shareInAddress } from "./client.js"; // who has users needs this module alone

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

  _url; _key; _mint; _hint; _storage; _shelf; _line; _doors;
  _subject; _proven; _token; _out = false; _told = null; _refreshed = -Infinity; _claims = true; _claiming = null;
  _list = new Map(); _cursor = ""; _devices; _lookedAt; _queue = []; _drawn = "[]";
  _chats = new Set(); _away = new Set(); _counts = { failures: 0, pulls: 0, saves: 0 };
  _sending = new Bell(); _listening = new Bell(); _end = new AbortController(); _whose = new AbortController(); _keeping;

  constructor({ url = new URL(".", import.meta.url).href, token, user, storage } = {}) {
    super();
    this._url = new URL(String(url).replace(/\/*$/, "/v1/"), document.baseURI).href;
    this._key = `chatkeep-account:${this._url}`;
    this._mint = token === true ? () => true : token;
    this._hint = user;
    this._storage = storage ?? safely(() => localStorage) ?? {};
    this.loaded = this._open();
  }

  // -- who it is ------------------------------------------------------------------------------------------------------

  async token() {
    if (this._out) return null;
    if (this._mint) return (await this._mint()) || null;
    const { at, expires_at } = this._read("") ?? {};
    const now = serverTime(Date.now());
    const half = at > 60 + now ? 0 : (at + expires_at) / 2; // a clock that was ahead then tells nothing
    if (expires_at && now > half && performance.now() - this._refreshed > 60_000) {
      this._refreshed = performance.now();
      await this.refresh().catch(() => {}); // it is good for a while yet
    }
    return this._read("")?.token ?? null;
  }

  async signIn({ token, claim = true } = {}) {
    const guest = this.state === "guest" ? { token: this._token, subject: this._subject } : undefined;
    this._out = false;
    if (token) this._write("", { at: serverTime(Date.now()), ...pick(token.token ? token : { token }, "id", "token", "expires_at") });
    const hasGuests = guest || this._holds(`chatkeep:${this._url}:`);
    if (claim) this._write(":claim", hasGuests ? { guest, id: random() } : undefined);
    this._claims = claim;
    this._tell({ who: true });
    await this._identify();
    if (this.state === "expired") throw new Problem(401, { detail: "This sign-in is not valid." });
    return this._claim().catch((fault) => (this._fail(fault), [])); // it goes on when there is a line
  }

  async signOut({ unsent = "keep" } = {}) {
    const subject = this._subject;
    if (unsent !== "keep") await (await import("./changes.js")).leaveNothing(this, tools, unsent);
    const { token } = this._read("") ?? {};
    this._write("");
    this._out = true;
    if (token) this._write(`:end:${token}`, 1); // a name for each: two tabs may write at the same time
    this._tell({ who: true, out: true });
    await this._become(null);
    await this._shelf.wipe(this._url, subject);
    await this._endTokens().catch(this._fail); // it is ended when there is a line
  }

  // Sees to it that the credential is known, and goes on as the one for whom it stands.
  async _identify() {
    const token = await this.token();
    if (!token) return this._become(null);
    if (token !== true && token === this._proven) return undefined;
    const me = await request(`${this._url}me`, { token }).then(
      (answer) => answer.json(),
      (fault) => {
        if (fault.status !== 401) throw fault;
      },
    );
    if (me) {
      if (!me.user) throw new Problem(403, { detail: "This sign-in is not a user's." });
      await this._shelf.note(this._url, (pairs) => [...(token === true ? [] : [[token.slice(-MARK), me.subject]]), [`user:${me.user}`, me.subject], ...pairs]);
    }
    // Somebody has signed in or out meanwhile. (A page's function may give another token each time; whether it is another user's the
    // server says at the next request, which names the subject.)
    if (this._mint ? this._out : token !== (await this.token())) return this._identify();
    if (!me) {
      this._proven = undefined;
      this._auth("expired");
      this._explain("expired");
      return undefined;
    }
    this._token = this._proven = token;
    if (!this._mint) this._write("", { ...this._read(""), ...pick(me, "user", "subject", "expires_at") });
    return this._become(me);
  }

  async _become(me) {
    const subject = me?.subject;
    if (subject !== this._subject) {
      const before = this._subject;
      this._subject = subject;
      this._cursor = "";
      this._devices = undefined;
      this._lookedAt = Date.now();
      this._list = new Map();
      this._queue = [];
      clearTimeout(this._keeping);
      this.notices.forEach(({ id }) => this.dismiss(id));
      this._doors.say(subject ?? null); // the chats of all tabs look whose they are
      if (before && subject) await this._shelf.wipe(this._url, before);
      const place = subject && this._place();
      const { list = [], cursor = "", devices } = (subject && (await this._shelf.seen(place))) || {};
      if (subject !== this._subject) return;
      this._list = new Map(list.map((one) => [one.id, one]));
      this._cursor = cursor;
      this._devices = devices;
      this.user = me?.user ?? null;
      if (subject) await this._edit();
    }
    this._auth(!me ? "signed-out" : me.user.startsWith("guest:") ? "guest" : "signed-in");
    if (me) this.dismiss("expired");
    this._draw();
  }

  _auth(state) {
    if (state === this.state && this.user === this._told) return;
    this._told = this.user;
    this.state = state;
    trace("auth", state);
    this._whose.abort(); // the stream that was followed is another's
    this._whose = new AbortController();
    emit(this, "auth", { state, user: this.user });
    this._wake();
  }

  // Makes what guests have in this browser the user's.
  async _claim() {
    if (!this._claims || this.state !== "signed-in" || !this._read(":claim")) return [];
    const subject = this._subject;
    const { claim } = await import("./claims.js");
    if (subject !== this._subject) return []; // somebody else has signed in meanwhile
    return (this._claiming ??= claim(this, tools).finally(() => (this._claiming = null)));
  }

  async _endTokens() {
    if (this._holds(`${this._key}:end`)) await (await import("./tokens.js")).endTokens(this, tools);
  }

  // -- what it has ----------------------------------------------------------------------------------------------------

  async chat(id = random()) {
    const token = () => this.token();
    if (!this._mint) token.current = () => (this._out ? null : this._read("")?.token);
    const chat = await open({ url: this._url.slice(0, -3), conversation: id, token, create: true });
    this.watch(chat);
    return chat;
  }

  // Tells what becomes of a chat's messages and slots as notices, also of a chat that a visitor has opened.
  watch(chat) {
    const look = (message) => (message.status === "failed" && !message.number ? this._explain("failed", chat, message) : this.dismiss(`failed:${message.id}`));
    chat.on("message", look);
    chat.on("remove", (id) => this.dismiss(`failed:${id}`));
    chat.on("status", (status) => this._mark(chat, status === "offline"));
    chat.on("kept", () => this.notify({ kind: "saved", text: "Saved.", about: chat.conversation }));
    chat.on("loss", (loss) => this._explain("lost", chat, loss));
    chat.on("close", () => (this._chats.delete(chat), this._mark(chat, false)));
    this._chats.add(chat);
    this._mark(chat, chat.status === "offline");
    chat.messages.forEach(look);
  }

  stats() {
    const { failures, pulls, saves } = this._counts;
    const { requests } = meter.link;
    return {
      auth: { state: this.state, user: this.user },
      list: { conversations: this._list.size, cursor: this._cursor.length, pulls },
      outbox: { waiting: this._queue.length, failed: this._queue.filter((item) => item.error).length, saves, failures },
      link: { ...meter.link, offline: this._away.size > 0, mean_ms: requests && Math.round(meter.ms / requests) },
      notices: this.notices.length,
      chats: [...this._chats].map((chat) => chat.stats()),
    };
  }

  get debug() {
    return meter.debug;
  }

  set debug(on) {
    meter.debug = Boolean(on);
    safely(() => (on ? (localStorage["chatkeep-debug"] = 1) : delete localStorage["chatkeep-debug"]));
  }

  get lines() {
    return meter.lines;
  }

  close() {
    this._end.abort();
    this._whose.abort();
    [...this._chats].forEach((chat) => chat.close());
    this._line.close();
    this._doors.close();
    this._wake();
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
    const left = this.notices.filter((one) => one.id !== id);
    if (left.length === this.notices.length) return;
    this.notices = left;
    emit(this, "dismiss", id);
  }

  // Tells what somebody can do something about.
  _explain(what, ...about) {
    import("./notices.js").then((notices) => notices[what](this, tools, ...about)).catch(this._fail);
  }

  // *what* has lost its line, or has it again.
  _mark(what, isAway) {
    const before = this._away.size;
    if (isAway) this._away.add(what);
    else this._away.delete(what);
    if (!before && isAway) this.notify({ id: "offline", kind: "offline", text: "You are offline. What you write is kept here and sent later.", persistent: true });
    if (!before || this._away.size) return;
    this.dismiss("offline");
    this.notify({ kind: "restored", text: "You are back online." });
    this._wake();
  }

  // -- keeping up -----------------------------------------------------------------------------------------------------

  async _open() {
    this._shelf = await Shelf.open();
    this._line = new Line(this._key, (said) => this._hear(said));
    this._doors = new Line(`chatkeep:${this._url}`, () => {});
    attend(this._end.signal, () => this._wake(), () => this._mark(this, true), () => this._resume());
    // Another tab tells of a sign-in before this one can read of it: what is written there may come later than what is said.
    addEventListener("storage", ({ key }) => key === this._key && this._resume(), { signal: this._end.signal });
    const { user = this._hint, subject = user && (await this._shelf.whose(this._url, `user:${user}`)) } = this._read("") ?? {};
    if (subject) await this._become({ user, subject }); // what is here is shown at once
    const first = this._identify().then(() => this._subject && this._pull());
    await Promise.race([first.catch(this._fail), pause(this._cursor ? 0 : 3000)]); // a server that does not answer keeps nobody from what is here
    this._listen();
    setTimeout(() => this._settle().catch(this._fail), SETTLED_MS);
  }

  _resume() {
    this._wake();
    this._catchUp().catch(this._fail);
  }

  async _catchUp() {
    if (this._end.signal.aborted) return;
    await this._endTokens();
    await this._identify();
    if (!this._subject && navigator.onLine !== false) this._mark(this, false);
    if (!this._subject || this.state === "expired") return;
    await this._claim();
    await this._pull();
    await this._deliver();
    if (this._isSettled) await this._settle();
  }

  _fail = (fault) => {
    trace("failed", fault.name, fault.status ?? "");
    this._counts.failures++;
    if (fault.status === 401) this._proven = undefined;
    if (!fault.final) this._mark(this, true);
  };

  async _ask(path, options = {}, again = true) {
    const subject = this._subject;
    const token = await this.token();
    if (!token || !subject) throw new Problem(401, { detail: "Nobody is signed in." });
    try {
      const answer = await request(this._url + path, { token, subject, ...options });
      if (subject !== this._subject) throw new Problem(401, { detail: "Somebody else is here now." });
      this._mark(this, false);
      return answer;
    } catch (fault) {
      if (fault.status !== 401 || !again) throw fault;
      this._proven = undefined;
      await this._identify();
      if (subject !== this._subject || this.state === "expired") throw fault;
      return this._ask(path, options, false);
    }
  }

  async _json(path, options) {
    return (await this._ask(path, options)).json();
  }

  async _pull() {
    this._counts.pulls++;
    for (let again = this._cursor !== "", more = true; more; ) {
      const since = this._cursor;
      const found = await this._json(`me/conversations?since=${encodeURIComponent(since)}&limit=${PAGE}`);
      if (since !== this._cursor) continue; // another tab was faster, and knows more
      this._take(since ? found : { ...found, reset: true });
      ({ more = false } = found);
      if (more || !again || found.total === this._list.size) continue;
      this._cursor = ""; // something was missed
      again = false;
      more = true;
    }
  }

  _take(changed, isTold) {
    const { conversations = [], erased = [], cursor, reset } = changed;
    if (reset) this._list = new Map();
    for (const one of conversations) this._list.set(one.id, one);
    for (const id of erased) this._list.delete(id);
    if (!isTold) {
      this._say({ changed, since: this._cursor });
      this._keepSoon();
    }
    this._cursor = cursor;
    this._draw();
  }

  _keepSoon() {
    clearTimeout(this._keeping);
    const place = this._place();
    this._keeping = setTimeout(() => this._subject && this._shelf.see(place, { v: 2, list: [...this._list.values()], cursor: this._cursor, devices: this._devices }), SOON_MS);
  }

  // One tab listens, and tells the others.
  _listen() {
    const { signal } = this._end;
    const listen = async () => {
      await this._catchUp();
      const subject = this._subject;
      if (!subject || this.state === "expired") return undefined;
      await locked(`${this._key}:listen:${subject}`, () => subject === this._subject && this._stream(), { signal });
      return SOON_MS;
    };
    return repeat(signal, this._listening, listen, this._fail);
  }

  async _stream() {
    const changed = { conversations: [], erased: [] };
    const ask = (signal) => this._ask(`me/events?since=${encodeURIComponent(this._cursor)}`, { headers: { accept: "text/event-stream" }, signal });
    await follow(this._whose.signal, ask, (event, data, id) => {
      if (event === "changed") changed.conversations.push(data);
      else if (event === "erased") changed.erased.push(data.id);
      else if (event === "cursor") this._take({ ...data, conversations: changed.conversations.splice(0), erased: changed.erased.splice(0), cursor: id });
    });
  }

  // -- changing -------------------------------------------------------------------------------------------------------

  async _edit(change) {
    const subject = this._subject;
    const items = await this._shelf.edit(this._place(), change);
    if (subject !== this._subject) return;
    this._queue = items;
    if (change) this._say({ queue: true });
    this._draw();
    if (items.length || this._sends) this._send().catch(this._fail); // it is begun again when there is a line
  }

  async _send() {
    const outbox = await import("./outbox.js");
    this._sends ??= outbox.sendChanges(this, tools);
    outbox.tellRefused(this);
    return outbox;
  }

  // Fetches what has to work without a line, and looks at the devices: a while after the opening, and then with each catching up.
  async _settle() {
    this._isSettled = true;
    await import("./changes.js");
    if (this._subject && !this._end.signal.aborted) await (await import("./tokens.js")).lookAtDevices(this, tools);
  }

  // Sends what was done, and what was written in chats that are not open here.
  async _deliver() {
    const open = [...this._chats].map((chat) => chat.conversation);
    const left = (await this._unsent(this._subject)).filter(({ chat, error }) => !error && !open.includes(chat[2]));
    if (left.length) await (await this._send()).sendFromClosed(this, left);
  }

  async _unsent(subject) {
    return (await this._shelf.all()).filter(({ chat, sent }) => chat[0] === this._url && chat[1] === subject && !sent);
  }

  _draw() {
    const list = new Map(this._list);
    for (const { of: id, gone, body, at, error } of this._queue) {
      if (error) continue;
      if (gone) list.delete(id);
      else list.set(id, { ...BLANK, updated_at: at / 1000, ...list.get(id), id, ...omit(body, "base"), ...("seen" in body && { unseen: 0 }), pending: true });
    }
    const found = [...list.values()].sort((a, b) => b.pinned - a.pinned || b.updated_at - a.updated_at || (a.id < b.id ? -1 : 1));
    const drawn = JSON.stringify(found);
    if (drawn === this._drawn) return;
    this._drawn = drawn;
    emit(this, "conversations", (this.conversations = found));
  }

  // -- between tabs ---------------------------------------------------------------------------------------------------

  _say(said) {
    if (!this._end.signal.aborted) this._line.say({ subject: this._subject, ...said });
  }

  // Any tab may have sent what was done in this one.
  _both(said) {
    this._say(said);
    this._hear({ subject: this._subject, ...said });
  }

  // Who is signed in has changed: the other tabs look, and so do the chats of all tabs.
  _tell(said) {
    this._say(said);
    this._doors.say(null);
  }

  _hear({ subject, changed, since, queue, saved, conflict, dealt, who, out = false }) {
    if (who) {
      this._out = out && Boolean(this._mint);
      this._resume();
    } else if (subject !== this._subject) return;
    else if (changed && (changed.reset || since === this._cursor)) this._take(changed, true);
    else if (changed) this._pull().catch(this._fail); // something was missed
    else if (saved) this.notify(saved);
    else if (conflict) this._explain("renamed", conflict);
    else if (dealt) this.dismiss(dealt);
    else if (queue) this._edit().then(() => this._sending.ring());
  }

  _place() {
    return [this._url, this._subject, OWN];
  }

  _wake() {
    this._sending.ring();
    this._listening.ring();
  }

  _holds(start) {
    return Object.keys(this._storage).join().includes(start);
  }

  _read(rest) {
    return JSON.parse(safely(() => this._storage.getItem(this._key + rest)) ?? "null") ?? undefined;
  }

  _write(rest, value) {
    safely(() => (value === undefined ? this._storage.removeItem(this._key + rest) : this._storage.setItem(this._key + rest, JSON.stringify(value))));
  }
}

const BLANK = { title: "", version: 0, head: 0, seen: 0, unseen: 0, last: "", last_role: "", archived: false, pinned: false };
const pick = (from, ...names) => Object.fromEntries(names.filter((name) => name in from).map((name) => [name, from[name]]));
const omit = (from, ...names) => Object.fromEntries(Object.entries(from).filter(([name]) => !names.includes(name)));
const locked = (name, act, options = {}) => (hasLocks() ? navigator.locks.request(name, options, act) : act());
const tools = { ...clientTools, BLANK, locked, omit, pick };

later(Account, tools, () => import("./changes.js"), "create", "rename", "archive", "pin", "seen", "delete", "losses", "restore");
later(Account, tools, () => import("./tokens.js"), "devices", "endDevice", "refresh");
later(Account, tools, () => import("./claims.js"), "importOld");
