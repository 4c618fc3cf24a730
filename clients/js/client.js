// A conversation on a chatkeep server, kept over refreshes, tabs and lost networks; client.d.ts says what each method does.
// What is not acknowledged lies in IndexedDB. One tab of each chat, the leader, sends it, listens to the server and tells
// the others over a BroadcastChannel; one of them takes over when it closes.
//
// All that is kept belongs to a place: [server, subject, conversation]. The server says which subject a credential stands
// for; nothing is shown to, or sent in the name of, another. Until the subject is known, a visitor's things are at
// [server, "", name], and those of a conversation that a site has opened at [server, "?" + random, conversation].

const PAGE = 50;
const KEPT = 100; // messages that are kept in this browser, to be shown while the server is away
const SOON_MS = 250; // a slot that is being typed into is saved so long after the last key
const ASK_MS = 20_000;
const QUIET_MS = 40_000; // the server says something every 15 s
const POLL_MS = 2000;
const LONGEST_MS = 15_000;
const PATIENCE_MS = 3000;
const RESTORED_MS = 4000;
export const MARK = 16; // a token is known again by its last letters; the others are 170 bits that nobody guesses
const REMEMBERED = 50; // credentials whose subject is remembered, for each server
const FORMAT = 2; // of what is kept: an item of 1 has no base; what a newer release has kept is left alone
const MERGE = { "content-type": "application/vnd.chatkeep.merge+json" };
const LATE_MS = 5000; // a message that is sent later than that says when it was written
const TRACED = 500;

// What has happened in this page: counts, and with `debug` the last lines, with names and sizes and no content.
export const meter = { requests: 0, refused: 0, lost: 0, events: 0, ms: 0, debug: Boolean(safely(() => localStorage["chatkeep-debug"])), lines: [] };
let skew = 0; // how far the server's clock is ahead of this one

export function trace(...what) {
  if (!meter.debug) return;
  meter.lines.push([Date.now(), ...what]);
  meter.lines.splice(0, meter.lines.length - TRACED);
  console.debug("chatkeep", ...what);
}

export const serverTime = (ms) => (ms + skew) / 1000;

// Names this browser in merges; nobody else is told.
export function device() {
  const kept = safely(() => (localStorage["chatkeep-device"] ??= random()));
  return (made ??= kept ?? random());
}
let made;

export class Problem extends Error {
  constructor(status, body, after) {
    super(body.detail ?? body.title ?? `The server answered ${status}.`);
    Object.assign(this, { name: "Problem", status, type: body.type ?? "about:blank", body, after: Number(after) || 0 });
  }

  get final() {
    return this.status < 500 && ![408, 425, 429].includes(this.status);
  }
}

export class Emitter extends EventTarget {
  on(event, hear) {
    const listener = ({ detail }) => hear(detail);
    this.addEventListener(event, listener);
    return () => this.removeEventListener(event, listener);
  }
}

export const emit = (target, event, detail) => target.dispatchEvent(new CustomEvent(event, { detail }));

export async function open(options) {
  const chat = new Chat(options);
  await chat.loaded;
  return chat;
}

export class Chat extends Emitter {
  messages = []; // in order: the log, a reply that is being made, what is not acknowledged yet
  typing = false;
  failing = null; // the bot fails, and tries again: {number, attempts, retry_at}
  status = "saved"; // saved | sending | offline | restored | failed
  more = false; // there are earlier messages: earlier()

  #url; #written; #storage; #given; #user; #mint; #cookie; #shelf; #channel; #me; // #me: {id, token, subject, ...}, or {share}, or {}
  #place; #proven; #first = true; #old; #doors; // #proven: the token of which the subject is known; #old: nobody else's name
  #creates; #absent = false; // a user's conversation begins with its first message: until then it is absent
  #log = new Log(); // as the server has them
  #drawn = { logged: [], others: [] }; // what `messages` was made of last
  #toldState; // the state that was told last, as text
  #queue = []; // as IndexedDB has it
  #piece = null; // the reply that is being made: {turn, text, length}
  #shown = ""; // how much of it was shown, as the id of an event says it
  #seen = null; // every message up to this number is in #log; null: nothing was loaded
  #handled = 0; #checked = 0; // the bot has dealt with all up to this number, we are sure of it up to that one
  #dead = new Set();
  #state;
  #identifying = null; #loading = null; #catching = null; #gone = false; #problem = null; #offline = false; #restored = false;
  #sending = new Bell(); #listening = new Bell();
  #end = new AbortController(); #reign = null; #waiting = null; #steals = false; #answered = false; #timers = {};

  constructor({ url = new URL(".", import.meta.url).href, storage, name, conversation, token, user, cookie = false, share, create = false } = {}) {
    super();
    this.#written = String(url).replace(/\/*$/, "/v1/");
    this.#url = new URL(this.#written, document.baseURI).href; // one server has one name, however it was written
    this.#storage = storage ?? safely(() => localStorage) ?? memory();
    this.#cookie = cookie;
    this.#creates = create;
    this.#given = conversation !== undefined;
    if (user !== undefined) this.#user = `user:${user}`;
    if (typeof token === "function") this.#mint = token;
    share ??= shareInAddress();
    this.name = conversation ?? (share ? random() : (name ?? this.#read() ?? random()));
    if (this.#given) this.#me = { id: conversation, token: this.#mint ? undefined : token };
    else {
      const kept = this.#read(`:${this.name}`);
      this.#old = kept !== undefined && this.#alone();
      this.#keep(share ? { share, shared: true } : JSON.parse(kept ?? "{}"));
    }
    const { id, subject = this.#given ? `?${random()}` : "" } = this.#me;
    this.#place = [this.#url, subject, subject ? id : this.name];
    this.loaded = this.#open();
  }

  get conversation() {
    return this.#me.id;
  }

  get shared() {
    return Boolean(this.#me.shared);
  }

  get problem() {
    const refused = this.#queue.find((item) => item.error && item.slot !== undefined);
    return this.#problem ?? (refused ? { message: refused.error } : null);
  }

  get unsent() {
    return this.#queue.filter((item) => !item.sent).length;
  }

  async send(content, { id = random(), metadata } = {}) {
    await this.#edit((items, store) => store.put({ id, content, metadata, at: Date.now(), v: FORMAT }));
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
    const first = this.#log.ordered[0]?.number ?? 1;
    const { messages, truncated } = await this.#json(`/messages?before=${first}&limit=${limit}`);
    this.more = messages.length === limit || !!truncated;
    this.#take("message", messages);
    return this.more;
  }

  async withdraw(number) {
    await this.#here(`/waiting/${number}`, { method: "DELETE" });
  }

  async amend(number, content) {
    return this.#json(`/waiting/${number}`, { method: "PUT", body: { content } });
  }

  async stop() {
    if (!this.#me.id) return { stopped: false, reply: null };
    return this.#json("/stop", { method: "POST" });
  }

  async answering() {
    if (!this.#me.id) return { status: "idle" };
    return this.#json("/answering");
  }

  async losses() {
    return (await this.#json("/losses")).losses;
  }

  async restore(number) {
    await this.#here(`/losses/${number}`, { method: "POST" });
  }

  async share(options = {}) {
    if (!this.#me.id) throw new Error("There is nothing to share yet: send a message first.");
    const { share } = await this.#json("/shares", { method: "POST", body: { scopes: this.#me.scopes.filter((scope) => scope !== "share"), ...options } });
    return `${location.origin}${location.pathname}#share=${share}`;
  }

  get state() {
    return overlaid(this.#state, this.#queue);
  }

  stats() {
    const refused = this.#queue.filter((item) => item.error).length;
    return { conversation: this.#me.id, status: this.status, messages: this.messages.length, unsent: this.unsent, refused, leads: Boolean(this.#reign) };
  }

  slot(name) {
    const write = (change) => this.#write(name, change);
    const get = () => this.state?.[name];
    return {
      get,
      set: (value) => write(() => value),
      patch: (patch) => write((value) => merged(value, patch)),
      clear: () => write(() => undefined),
      subscribe: (hear) => {
        let last = get();
        hear(last);
        return this.on("state", () => same(last, get()) || hear((last = get())));
      },
    };
  }

  async kept() {
    const found = { others: 0, unknown: 0 };
    for (const { chat, sent } of await this.#shelf.all()) if (!sent && !same(chat, this.#place)) {
      if (this.#isUnknown(chat)) found.unknown++;
      else if (chat[0] === this.#url && chat[2] === this.#place[2]) found.others++;
    }
    return found;
  }

  async adopt() {
    if (isNobody(this.#place)) throw new Error("It is not known yet who this is.");
    for (const { chat } of await this.#shelf.all()) if (this.#isUnknown(chat)) {
      await this.#shelf.see(chat, undefined); // what somebody unknown has seen is not taken over
      await this.#shelf.move(chat, this.#place);
    }
    await this.#edit(() => {});
  }

  close() {
    this.#end.abort();
    this.#channel?.close();
    this.#doors?.close();
    emit(this, "close");
  }

  async forget({ unsent } = {}) {
    if (unsent === "keep" && !this.#given) throw new TypeError("Nothing could send what a visitor keeps.");
    const place = this.#place;
    await this.#edit((items, store) => {
      const left = items.filter((item) => !item.sent).length;
      if (left && !["keep", "discard"].includes(unsent)) throw notSent(left, "nothing was removed");
      if (unsent !== "keep") items.forEach((item) => store.delete(item.n));
    });
    this.#say({ event: "forgotten" });
    const wiped = this.#leave(place);
    await this.#shelf.note(this.#url, (pairs) => pairs.filter(([, subject]) => subject !== place[1]));
    if (!this.#given) {
      if (this.#read() === this.name) this.#unkeep("");
      this.#unkeep(`:${this.name}`);
    }
    await wiped;
  }

  // Nothing of the chat is to be in this tab any more, nor in what it was just about to keep.
  async #leave(place) {
    this.#gone = true;
    this.close();
    this.#drop({ message: GONE });
    await this.#shelf.see(place, undefined);
    if (this.#given || this.#old) await this.#shelf.see(this.name, undefined);
  }

  // The things of whom nobody knows: written before the subject was known, or by an older release.
  #isUnknown(chat) {
    return chat === this.name || (chat[0] === this.#url && chat[2] === this.#place[2] && chat[1][0] === "?");
  }

  // -- opening --------------------------------------------------------------------------------------------------------

  async #open() {
    this.#shelf = await Shelf.open();
    const { signal } = this.#end;
    if (this.#old) await this.#shelf.move(this.name, this.#place);
    if (!this.#given) await this.#shelf.move([this.#url, "", this.name], this.#place);
    if (this.#mint) this.#doors = new Line(`chatkeep:${this.#url}`, (subject) => subject !== this.#me.subject && this.#recheck());
    for (const event of ["online", "pageshow"]) addEventListener(event, ({ persisted }) => (persisted ? this.#recheck() : 0, this.#wake()), { signal });
    addEventListener("offline", () => this.#link(new Error("This device is offline.")), { signal });
    document.addEventListener("visibilitychange", () => document.hidden || this.#resume(), { signal });

    if (this.#given) {
      const last = await this.#shelf.whose(this.#url, this.#user ?? this.#me.token?.slice?.(-MARK));
      if (last) {
        this.#place = [this.#url, last, this.#me.id];
        this.#doors?.say(last);
      } else await Promise.race([this.#identify().catch((fault) => this.#link(fault)), pause(PATIENCE_MS)]);
    }
    if (this.#first) await this.#enter();
    this.#elect();
    this.#resume();
    // A server that does not answer must not keep people from what is here already.
    if (this.#me.id && !this.#problem) await Promise.race([this.#load().catch((fault) => this.#link(fault)), pause(PATIENCE_MS)]);
  }

  #read(rest = "") {
    const read = (url) => safely(() => this.#storage.getItem(`chatkeep:${url}${rest}`)) ?? undefined;
    return read(this.#url) ?? read(this.#written);
  }

  #unkeep(rest) {
    for (const url of [this.#url, this.#written]) safely(() => this.#storage.removeItem(`chatkeep:${url}${rest}`));
  }

  #keep(me) {
    this.#me = me;
    if (me.subject) this.#proven = me.token;
    const write = (rest, value) => safely(() => {
      this.#storage.setItem(`chatkeep:${this.#url}${rest}`, value);
      if (this.#written !== this.#url) this.#storage.removeItem(`chatkeep:${this.#written}${rest}`);
    });
    write(`:${this.name}`, JSON.stringify(me));
    // What somebody else has shared does not take the place of the chat that is one's own.
    if (!me.shared || (me.id && this.#read() === undefined)) write("", this.name);
  }

  // Whether no other server has a chat of this name here: older releases kept what was written by the name alone.
  #alone() {
    const own = [this.#url, this.#written].map((url) => `chatkeep:${url}:${this.name}`);
    const keys = [safely(() => localStorage), this.#storage].flatMap((storage) => Object.keys(storage ?? {}));
    return keys.every((key) => own.includes(key) || !(key.startsWith("chatkeep:") && key.endsWith(`/v1/:${this.name}`)));
  }

  // -- whose it is ----------------------------------------------------------------------------------------------------

  get #isProven() {
    return Boolean(this.#me.subject) && this.#proven === this.#me.token && !(this.#mint && !this.#me.token);
  }

  // Sees to it that there is a credential, and goes on as the subject that it stands for.
  #identify() {
    if (this.#isProven) return undefined;
    return (this.#identifying ??= this.#identifyOnce().finally(() => (this.#identifying = null)));
  }

  async #identifyOnce() {
    if (this.#mint && !(this.#me.token ??= (await this.#minted()) || undefined)) {
      await this.#become(null);
      throw new Problem(401, { detail: "Nobody is signed in." });
    }
    const { token } = this.#me;
    const mark = this.#given ? token?.slice?.(-MARK) : undefined;
    let subject = await this.#shelf.whose(this.#url, mark);
    if (!subject) {
      const answer = await this.#fetch(this.#cookie && this.#me.id ? `me?conversation=${encodeURIComponent(this.#me.id)}` : "me").catch((fault) => {
        if (this.#mint && fault.status === 401) this.#me.token = undefined;
        throw fault.status === 404 ? new Error("The server is older than this client.") : fault; // it may be about to be replaced
      });
      ({ subject } = await answer.json());
    }
    if (token !== this.#me.token) return;
    if (this.#given) await this.#shelf.note(this.#url, (pairs) => [[mark, subject], [this.#user, subject], ...pairs]);
    this.#user = undefined; // who comes after is somebody else
    this.#proven = token;
    await this.#become(subject);
  }

  // What the site's token function gives. If it throws, that is told, and it is asked again; without a line it may well throw.
  async #minted() {
    try {
      return await Promise.race([this.#mint(), pause(ASK_MS).then(() => Promise.reject(new Error(`it gave nothing within ${ASK_MS / 1000} s`)))]);
    } catch (fault) {
      if (navigator.onLine === false || /fetch|network|load failed/i.test(fault?.message ?? "")) throw fault;
      throw Object.assign(new Error(`The page could not get a token: ${fault?.message ?? fault}`, { cause: fault }), { ours: true });
    }
  }

  // Goes on as *subject*, with what it has here; what is another's stays where it is, and is let go of in memory.
  async #become(subject) {
    const from = this.#place;
    const place = [this.#url, subject ?? `?${random()}`, this.#me.id];
    const nobody = isNobody(from);
    if (this.#end.signal.aborted) return undefined;
    if (!this.#given && this.#me.subject !== subject) {
      this.#keep({ ...this.#me, subject });
      this.#say({ event: "conversation", data: this.#me });
    }
    this.#me.subject = subject ?? undefined;
    if (same(place, from) || (nobody && !subject)) return undefined;
    // Begun before the place is another: what is written from now on goes there.
    const moved = nobody && (!this.#given || this.#first) && this.#shelf.move(from, place);
    if (!nobody) this.#drop();
    this.#first = false;
    this.#place = place;
    await moved;
    if (!this.#given) return this.#edit();
    await this.#enter();
    if (!subject) return undefined;
    this.#doors?.say(subject);
    this.#say({ event: "hello" });
    return void this.#load().catch((fault) => this.#link(fault));
  }

  // Another person is here in another tab: this tab's credential may be theirs too by now.
  #recheck() {
    if (!this.#mint || this.#end.signal.aborted) return;
    this.#me.token = undefined;
    Promise.resolve(this.#identify()).catch((fault) => this.#link(fault));
  }

  // Shows what is kept at this place, and joins the other tabs there.
  async #enter() {
    const place = this.#place;
    this.#channel?.close();
    this.#channel = new Line(this.#line, (said) => this.#hear(said));
    this.#reign?.abort();
    this.#waiting?.abort();
    this.#wake();
    const { messages = [], state, handled = 0, dead, more = false } = (await this.#shelf.seen(place)) ?? {};
    if (place !== this.#place) return;
    messages.forEach((message) => this.#log.set(message));
    [this.#state, this.#handled, this.#dead, this.more] = [state, handled, new Set(dead), more];
    await this.#edit();
  }

  #drop(problem = null) {
    [this.#offline, this.#problem] = [false, problem];
    for (const held of [this.#log, this.#dead]) held.clear();
    clearTimeout(this.#timers.keep); // what was to be kept a little later was another's
    this.#queue = [];
    this.#handled = this.#checked = 0;
    this.#piece = this.#seen = this.#loading = this.#catching = null;
    this.#absent = false;
    this.#state = undefined;
    this.more = false;
    this.#takeTyping(false);
    this.#takeFailing({});
    this.#update();
    this.#tellState();
  }

  // What the tabs of this chat are joined by: a visitor's name stands for one credential, a site's conversation does not.
  get #line() {
    return `chatkeep:${JSON.stringify(this.#given ? this.#place : [this.#url, "", this.name])}`;
  }

  // -- asking ---------------------------------------------------------------------------------------------------------

  // *place*: whose request this is. If somebody else is here meanwhile, it is not made, or its answer is not taken.
  async #ask(path, options = {}, place = options.place, again = true) {
    if (this.#mint?.current) this.#me.token = this.#mint.current() ?? undefined; // a token that was rotated must not be used again
    if (this.#me.id) await this.#identify();
    place ??= this.#place;
    if (place !== this.#place) throw MOVED;
    let answer;
    try {
      answer = await this.#fetch(path, options);
    } catch (fault) {
      if (fault.status !== 401 || !this.#mint || !again) throw fault;
      this.#me.token = this.#proven = undefined;
      return this.#ask(path, options, place, false);
    }
    if (options.json) answer = await answer.json();
    if (place !== this.#place) throw MOVED;
    return answer;
  }

  #fetch(path, options) {
    const { token, subject } = this.#me;
    return request(this.#url + path, { token, subject: (this.#cookie && !token) || (token === true && path !== "me") ? subject : undefined, ...options });
  }

  #here(path, options) {
    return this.#ask(`conversations/${encodeURIComponent(this.#me.id)}${path}`, options);
  }

  #json(path, options) {
    return this.#here(path, { ...options, json: true });
  }

  // Gets a conversation and the right to it: by the link that was opened, or a new one.
  async #begin() {
    const { share, shared } = this.#me;
    const body = { ...(share && { share }), ...(this.#cookie && { cookie: true }) };
    const answer = await this.#ask(share ? "shares/redeem" : "conversations", { method: "POST", body });
    const { id, token, scopes, expires_at } = await answer.json();
    if (!this.#gone) this.#tell("conversation", { id, token, scopes, expires_at, shared });
  }

  #load() {
    return (this.#loading ??= this.#loadOnce().finally(() => (this.#loading = null)));
  }

  async #loadOnce() {
    const kept = [...this.#log.ordered];
    const found = await this.#json(`?messages=${PAGE}`).catch((fault) => {
      if (!this.#creates || fault.status !== 404) throw fault;
      return { messages: [], head: 0, unread: 0, state: {}, absent: true }; // nobody has written in it yet
    });
    this.#absent = Boolean(found.absent);
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

  async #elect() {
    for (let failures = 0; !this.#end.signal.aborted; ) {
      if (this.#given && isNobody(this.#place)) {
        try {
          await this.#identify();
        } catch (fault) {
          this.#link(fault);
          await this.#sending.wait(fault.final ? undefined : backoff(failures++, fault.after));
        }
        continue;
      }
      failures = 0;
      const key = this.#line;
      const steal = this.#steals;
      this.#steals = false;
      const waiting = (this.#waiting = new AbortController());
      this.#end.signal.addEventListener("abort", () => waiting.abort());
      try {
        if (!hasLocks()) await this.#lead(); // no secure context: each tab for itself; ids keep messages single
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
      const place = this.#place;
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
          else if (!this.#isProven) await this.#identify();
          else await (next.slot === undefined ? this.#post(next, place) : this.#put(next, place));
          failures = 0;
          this.#link(null);
        } catch (fault) {
          if (fault === MOVED) continue;
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

  async #post(item, place) {
    const { id, content, at } = item;
    const metadata = Date.now() - at > LATE_MS ? { ...item.metadata, written_at: serverTime(at) } : item.metadata;
    const body = { id, content, ...(metadata && { metadata }) };
    const headers = { prefer: "respond-async" };
    const receipt = await this.#json("/messages", { method: "POST", body, headers, place });
    this.#begun();
    if (receipt.status === "answered") this.#handled = Math.max(this.#handled, receipt.number);
    if (receipt.status === "failed") this.#takeDead(receipt.number);
    if (!receipt.number) return this.#edit((items, store) => store.put({ ...item, sent: true })); // in the server's journal
    const taken = { id, content, metadata, number: receipt.number, role: "user", created_at: Date.now() / 1000 };
    this.#tell("message", this.#log.has(id) ? receipt.replies : [taken, ...receipt.replies]);
    await this.discard(id);
  }

  // Has the server put a change together with what is there, by the value with which it was begun.
  async #put(item, place) {
    if (!("base" in item) && this.#seen === null) await this.#load(); // kept by an older release: it begins with what is there
    let sent;
    await this.#edit((items, store) => {
      sent = items.find(({ n, rev }) => n === item.n && rev === item.rev);
      if (!sent || (sent.tried && "base" in sent)) return;
      const [base, set] = "base" in sent ? [sent.base, sent.set] : [this.#state?.[sent.slot], applied(sent, this.#state?.[sent.slot])];
      store.put((sent = { ...sent, base, set, patch: undefined, tried: true, v: FORMAT })); // what is typed from now on is another change
    });
    if (place !== this.#place) throw MOVED;
    if (!sent) return;
    const { slot, base, set, rev } = sent;
    const path = `/state/${encodeURIComponent(slot)}`;
    const body = { base, value: set, at: serverTime(sent.at), by: device() };
    let value = set;
    if (!same(base, set))
      try {
        const found = await this.#json(path, { method: "PATCH", body, headers: { ...MERGE, "idempotency-key": rev }, place });
        value = found.value;
        for (const loss of found.losses) this.#tell("loss", { slot, ...loss });
      } catch (fault) {
        if (![405, 415].includes(fault.status)) throw fault;
        value = await this.#putOver(path, base, set, place); // a server that cannot merge, such as the worker of Durable Objects
      }
    else value = this.#state?.[slot];
    if (place !== this.#place) throw MOVED;
    this.#begun();
    this.#tell("state", { state: { ...this.#state, [slot]: value } });
    await this.#edit((items, store) => store.delete(sent.n));
    emit(this, "kept", slot);
  }

  async #putOver(path, base, set, place) {
    for (;;) {
      const now = await this.#slot(path, place);
      const value = rebased(base, set, now.value);
      if (same(value, now.value)) return value; // also when it was written, and only the answer got lost
      const headers = now.etag ? { "if-match": now.etag } : { "if-none-match": "*" };
      try {
        await this.#here(path, { ...(value === undefined ? { method: "DELETE" } : { method: "PUT", body: value }), headers, place });
        return value;
      } catch (fault) {
        if (fault.status !== 412 && !(fault.status === 404 && now.etag)) throw fault;
      }
    }
  }

  async #slot(path, place) {
    try {
      const answer = await this.#here(path, { place });
      return { etag: answer.headers.get("etag"), value: await answer.json() };
    } catch (fault) {
      if (fault.status === 404) return {};
      throw fault;
    }
  }

  #begun() {
    if (!this.#absent) return;
    this.#absent = false;
    this.#seen = null;
    emit(this, "conversation", this.#me.id);
    this.#wake();
  }

  // Holds the event stream. Where none gets through, it asks from time to time.
  async #listen(signal) {
    for (let failures = 0; !signal.aborted; ) {
      if (!this.#me.id) {
        await this.#listening.wait();
        continue;
      }
      try {
        if (this.#seen === null || this.#absent) await this.#load();
        if (this.#absent) {
          await this.#listening.wait();
          continue;
        }
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
    const poll = setInterval(() => this.#catchUp().catch(() => {}), POLL_MS); // until the stream says its first word
    const [accept, seen, shown] = ["text/event-stream", String(this.#seen), this.#piece ? this.#shown : ""];
    try {
      await follow(signal, async (signal) => {
        const ask = (id) => this.#here("/events", { headers: { accept, "last-event-id": id }, signal });
        this.#shown = "";
        const answer = await ask(shown ? `${seen}.${shown}` : seen).catch((fault) => {
          if (!shown || fault.status !== 400) throw fault;
          return ask(seen); // an older server shows the reply from its beginning
        });
        this.#shown = shown;
        this.#tell("typing", { on: false });
        return answer;
      }, (event, data, id) => {
        if (id) this.#shown = id.split(".")[1] ?? "";
        if (event === "message") this.#tell("message", [data], Number(id));
        else this.#tell(event, data);
      }, () => {
        clearInterval(poll);
        this.#link(null);
      });
    } finally {
      clearInterval(poll);
    }
  }

  // -- between tabs ---------------------------------------------------------------------------------------------------

  // What the leader learns is taken here and told to the followers.
  #tell(event, data, seen) {
    this.#say({ event, data, seen });
    this.#take(event, data, seen);
  }

  #say(said) {
    if (!this.#end.signal.aborted) this.#channel?.say(said);
  }

  async #hear({ event, data, seen }) {
    if (this.#end.signal.aborted) return;
    if (event === "forgotten") {
      await this.#leave(this.#place);
    } else if (event === "queue") {
      await this.#edit();
    } else if (event !== "hello") {
      this.#answered = true;
      this.#take(event, data, seen);
    } else if (this.#reign) {
      this.#wake();
      this.#say({ event: "link", data: { offline: this.#offline, problem: this.#problem } });
      this.#say({ event: "typing", data: { on: this.typing } });
      this.#say({ event: "failing", data: this.failing ?? {} });
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
    if (this.#answered || this.#reign || document.hidden || !hasLocks()) return;
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
    else if (event === "failing") this.#takeFailing(data);
    else if (event === "set-aside") this.#takeDead(data.number);
    else if (event === "state") this.#takeState(data.state);
    else if (event === "redacted") this.#takeRedacted(data.number);
    else if (event === "link") this.#takeLink(data);
    else if (event === "loss") emit(this, "loss", data);
    else if (event === "conversation") {
      const fresh = data.id !== this.#me.id;
      this.#keep(data);
      if (data.subject) this.#become(data.subject);
      if (fresh) emit(this, "conversation", data.id);
      this.#wake();
    } else if (event === "end" && ["revoked", "erased"].includes(data.reason) && !(this.#mint && data.reason === "revoked"))
      this.#link(new Problem(401, { detail: `This conversation was ${data.reason === "erased" ? "erased" : "closed"}.`, ...data }));
    this.#update();
  }

  #takeMessages(messages, seen) {
    for (const message of messages) {
      this.#log.set(message);
      if (message.reply_to) this.#handled = Math.max(this.#handled, message.reply_to);
      if (message.reply_to >= this.failing?.number) this.#takeFailing({});
      if (message.role === "assistant" && message.number > (this.#seen ?? 0)) this.#piece = null;
    }
    if (!this.typing) this.#check();
    if (seen) this.#seen = Math.max(this.#seen ?? 0, seen);
    const arrived = new Set(messages.map((message) => message.id));
    if (this.#reign && this.#queue.some((item) => arrived.has(item.id)))
      this.#edit((items, store) => items.filter((item) => arrived.has(item.id)).forEach((item) => store.delete(item.n)));
    this.#keepSoon();
  }

  // What a message said is removed for good: also from what this browser keeps.
  #takeRedacted(number) {
    const old = this.#log.ordered.find((message) => message.number === number);
    if (old) this.#log.set({ id: old.id, number, role: old.role, created_at: old.created_at, content: "", redacted: true });
    this.#keepSoon();
  }

  #takePiece({ turn, at, text }) {
    clearTimeout(this.#timers.check);
    const said = this.#piece?.turn === turn ? this.#piece.text : "";
    const characters = Array.from(said); // the server counts characters, not UTF-16 units
    if (at > characters.length) return; // the beginning was missed; the message is to come
    this.#piece = { turn, text: (at === characters.length ? said : characters.slice(0, at).join("")) + text };
  }

  #takeTyping(on) {
    if (on !== this.typing) emit(this, "typing", (this.typing = on));
    if (on) clearTimeout(this.#timers.check);
    else this.#check();
  }

  #takeFailing(data) {
    const failing = data.attempts ? data : null;
    if (failing || this.failing) emit(this, "failing", (this.failing = failing));
  }

  #takeDead(number) {
    this.#dead = new Set([...this.#dead, number]); // (another one: what was drawn is drawn anew)
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
    this.#tellState();
    this.#keepSoon();
  }

  // How the line to the server is: null when it has just answered.
  #link(fault) {
    if (this.#gone || fault === MOVED) return;
    const data = { offline: Boolean(fault && !fault.final && !fault.ours), problem: told(fault) };
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

  // A change of a slot keeps the value with which it was begun; what is typed on belongs to it until it is on its way.
  #write(slot, change) {
    return this.#edit((items, store) => {
      const last = items.at(-1);
      items.filter((item) => item.slot === slot && item.error && item !== last).forEach((item) => store.delete(item.n));
      const value = overlaid(this.#state, items)?.[slot];
      const made = { slot, base: value, set: change(value), at: Date.now(), rev: random(), v: FORMAT };
      const goesOn = last?.slot === slot && "base" in last && (!last.tried || last.error);
      store.put(goesOn ? { ...made, base: last.base, n: last.n } : made);
    });
  }

  async #edit(change) {
    if (this.#gone && change) throw new Error(GONE);
    const place = this.#place;
    const items = await this.#shelf.edit(place, change);
    if (place !== this.#place) return this.#edit(change && (() => {})); // it is kept for the one who wrote it; another may be here now
    this.#queue = this.#gone ? [] : items;
    if (change) this.#say({ event: "queue" });
    this.#update();
    if (!this.#offline) this.#sending.ring();
    if (this.#queue.some((item) => item.slot !== undefined)) this.#tellState();
  }

  // The state, if it is another than the one that was told last.
  #tellState() {
    const state = this.state;
    const text = JSON.stringify(state, sorted);
    if (text === this.#toldState) return;
    this.#toldState = text;
    emit(this, "state", state);
  }

  #update() {
    const last = this.#drawn;
    const [version, handled, dead] = [this.#log.version, this.#handled, this.#dead];
    // Most of what happens leaves the log as it was: a piece of a reply, typing, the line to the server.
    const logged = last.version === version && last.handled === handled && last.dead === dead ? last.logged : this.#drawLog();
    const before = new Map(last.others.map((message) => [message.id, message]));
    const made = this.#piece ? [shown({ id: `piece:${this.#piece.turn}`, role: "assistant", content: this.#piece.text }, before, "streaming")] : [];
    const local = this.#queue
      .filter((item) => item.id && !this.#log.has(item.id))
      .map(({ id, content, metadata, at, error, sent }) =>
        shown({ id, content, metadata, role: "user", created_at: at / 1000 }, before, error ? "failed" : sent ? "sent" : "sending", error),
      );
    const others = [...made, ...local];
    this.#drawn = { version, handled, dead, logged, others };
    this.messages = [...logged, ...others];
    const now = new Set(others.map((message) => message.id));
    for (const { id } of last.others) if (!now.has(id) && !this.#log.has(id)) emit(this, "remove", id);
    if (logged !== last.logged) {
      const old = new Map([...last.logged, ...last.others].map((message) => [message.id, message]));
      for (const { id } of last.logged) if (!this.#log.has(id) && !now.has(id)) emit(this, "remove", id);
      for (const message of logged) if (old.get(message.id) !== message) emit(this, "message", message);
    }
    for (const message of others) if (before.get(message.id) !== message) emit(this, "message", message);

    const refused = this.#queue.some((item) => item.error);
    const going = this.#queue.some((item) => !item.error && !item.sent);
    const restored = this.#restored ? "restored" : "saved";
    const status = this.#offline ? "offline" : this.#problem ? "failed" : going ? "sending" : refused ? "failed" : restored;
    if (status !== this.status) emit(this, "status", (this.status = status));
  }

  #drawLog() {
    const before = new Map([...this.#drawn.logged, ...this.#drawn.others].map((message) => [message.id, message]));
    return this.#log.ordered.map((message) => {
      if (message.role !== "user") return shown(message, before, "received");
      if (this.#dead.has(message.number)) return shown(message, before, "failed", "The bot could not answer this; your message is kept.");
      return shown(message, before, message.number <= this.#handled ? "delivered" : "sent");
    });
  }

  #keepSoon() {
    this.#later("keep", 500, () => {
      const messages = this.#log.ordered.slice(-KEPT);
      const summary = { v: FORMAT, messages, state: this.#state, handled: this.#handled, dead: [...this.#dead], more: messages[0]?.number > 1 };
      return this.#reign && this.#shelf.see(this.#place, summary);
    });
  }

  #later(what, ms, act) {
    clearTimeout(this.#timers[what]);
    this.#timers[what] = setTimeout(() => this.#end.signal.aborted || act(), ms);
  }
}

// The messages of the log by id, and in their order, which is made again only when one came that does not belong at the end.
class Log {
  version = 0; // another one after each change
  #byId = new Map();
  #ordered = [];
  #settled = true;

  get ordered() {
    if (!this.#settled) this.#ordered = [...this.#byId.values()].sort((a, b) => a.number - b.number);
    this.#settled = true;
    return this.#ordered;
  }

  has(id) {
    return this.#byId.has(id);
  }

  get(id) {
    return this.#byId.get(id);
  }

  set(message) {
    const old = this.#byId.get(message.id);
    const last = this.#ordered.length - 1;
    this.#byId.set(message.id, message);
    this.version++;
    if (!this.#settled) return;
    if (!old && !(message.number <= this.#ordered[last]?.number)) this.#ordered.push(message);
    else if (old?.number === message.number) this.#ordered[this.#ordered.lastIndexOf(old)] = message;
    else this.#settled = false;
  }

  delete(id) {
    if (this.#byId.delete(id)) this.#settled = false;
    this.version++;
  }

  clear() {
    this.#byId.clear();
    this.#ordered = [];
    this.#settled = true;
    this.version++;
  }
}

// Says something to the other pages of this browser, and hears what they say: by a channel, or where there is none by a key of localStorage.
export class Line {
  #name; #hear; #channel;

  constructor(name, hear) {
    this.#name = `${name}:said`;
    this.#channel = safely(() => new BroadcastChannel(name));
    if (this.#channel) this.#channel.onmessage = ({ data }) => hear(data);
    else addEventListener("storage", (this.#hear = ({ key, newValue }) => key === this.#name && newValue && hear(JSON.parse(newValue)[1])));
  }

  say(what) {
    if (this.#channel) this.#channel.postMessage(what);
    else safely(() => (localStorage[this.#name] = JSON.stringify([random(), what]), localStorage.removeItem(this.#name)));
  }

  close() {
    this.#channel?.close();
    if (this.#hear) removeEventListener("storage", this.#hear);
  }
}

// What a loop waits on: a time, or somebody who rings. A ring that comes before the wait is not lost.
export class Bell {
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
export class Shelf {
  #db;
  #items = [];
  #next = 1;

  static async open() {
    const shelf = new Shelf();
    const request = safely(() => indexedDB.open("chatkeep", 1));
    if (!request) return shelf;
    // The schema is that of older releases, so that their pages which are still open do not stand in the way.
    request.onupgradeneeded = () => {
      request.result.createObjectStore("queue", { keyPath: "n", autoIncrement: true }).createIndex("chat", "chat");
      request.result.createObjectStore("seen");
    };
    shelf.#db = await settled(request).catch(() => undefined);
    return shelf;
  }

  async edit(chat, change) {
    if (!this.#db) {
      const mine = () => this.#items.filter((item) => same(item.chat, chat));
      change?.(mine(), {
        put: (item) => (this.#items = [...this.#items.filter(({ n }) => n !== item.n), { n: this.#next++, ...item, chat }].sort((a, b) => a.n - b.n)),
        delete: (n) => (this.#items = this.#items.filter((item) => item.n !== n)),
      });
      return mine();
    }
    const look = async (store) => (await settled(store.index("chat").getAll(chat))).filter(isKnown);
    if (!change) return look(this.#stores("readonly")[0]);
    const [queue, , done] = this.#stores("readwrite");
    change(await look(queue), { put: (item) => queue.put({ ...item, chat }), delete: (n) => queue.delete(n) });
    const items = await look(queue);
    await done;
    return items;
  }

  #stores(mode) {
    const transaction = this.#db.transaction(["queue", "seen"], mode, { durability: "strict" });
    const done = new Promise((resolve, reject) => Object.assign(transaction, { oncomplete: resolve, onabort: reject }));
    done.catch(() => {});
    return [transaction.objectStore("queue"), transaction.objectStore("seen"), done];
  }

  async seen(chat) {
    const kept = this.#db && (await settled(this.#stores("readonly")[1].get(chat)));
    return kept && isKnown(kept) ? kept : undefined;
  }

  async see(chat, summary) {
    if (!this.#db) return undefined;
    const [, seen] = this.#stores("readwrite");
    return settled(summary ? seen.put(summary, chat) : seen.delete(chat));
  }

  async all() {
    return this.#db ? settled(this.#stores("readonly")[0].getAll()) : this.#items;
  }

  // Gives all that is kept at one place to another, at once or not at all.
  async move(from, to) {
    if (same(from, to)) return;
    if (!this.#db) return void this.#items.forEach((item) => same(item.chat, from) && (item.chat = to));
    const [queue, seen, done] = this.#stores("readwrite");
    for (const item of await settled(queue.index("chat").getAll(from))) queue.put({ ...item, chat: to });
    const [kept, there] = [await settled(seen.get(from)), await settled(seen.get(to))];
    if (kept && !there) seen.put(kept, to);
    if (kept) seen.delete(from);
    await done;
  }

  // Removes what *subject* has seen on a server; what is not sent stays.
  async wipe(url, subject) {
    if (!this.#db) return;
    const [, seen, done] = this.#stores("readwrite");
    for (const key of await settled(seen.getAllKeys())) if (key[0] === url && key[1] === subject) seen.delete(key);
    await done;
  }

  // Which subject a credential stood for when it was last seen on a server.
  async whose(url, credential) {
    return credential && (await this.seen([url]))?.find(([known]) => known === credential)?.[1];
  }

  async note(url, change) {
    if (!this.#db) return;
    const [, seen] = this.#stores("readwrite");
    const pairs = change((await settled(seen.get([url]))) ?? []);
    await settled(seen.put(pairs.filter(([known], at) => known && pairs.findIndex(([other]) => other === known) === at).slice(0, REMEMBERED), [url]));
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

// What was made of *base*, done to what is there *now*, member by member: as the server merges it, but for times.
export function rebased(base, value, now) {
  if (![base, value, now].every(isObject)) return same(base, value) ? now : value;
  const members = new Map(Object.entries(now));
  for (const name of new Set([...Object.keys(base), ...Object.keys(value)])) {
    const made = rebased(base[name], value[name], now[name]);
    if (made === undefined) members.delete(name);
    else members.set(name, made);
  }
  return Object.fromEntries(members);
}

// One request to a server. *token*: true means that the browser's session says who asks.
export async function request(url, { token, subject, method = "GET", body, headers, signal = AbortSignal.timeout(ASK_MS) } = {}) {
  const begun = performance.now();
  meter.requests++;
  let answer;
  try {
    answer = await fetch(url, {
      method,
      body: body === undefined ? undefined : JSON.stringify(body),
      headers: {
        ...(token && token !== true && { authorization: `Bearer ${token}` }),
        ...(subject && { "chatkeep-subject": subject }),
        ...(body !== undefined && { "content-type": "application/json" }),
        ...headers,
      },
      cache: "no-store",
      signal,
    });
  } catch (fault) {
    meter.lost++;
    trace(method, new URL(url).pathname, fault.name);
    throw fault;
  }
  meter.ms += performance.now() - begun;
  trace(method, new URL(url).pathname, answer.status, Math.round(performance.now() - begun));
  const ahead = Date.parse(answer.headers.get("date")) - Date.now();
  if (ahead) skew = Math.abs(ahead) > 3000 ? ahead : 0; // a Date has whole seconds, and was on its way
  if (answer.ok) return answer;
  meter.refused++;
  const told = await answer.json().catch(() => ({}));
  throw new Problem(answer.status, told, answer.headers.get("retry-after"));
}

// Asks for an event stream and reads it, until it ends, nothing is heard for a while, the device goes offline, or *signal* says so.
export async function follow(signal, ask, hear, alive = () => {}) {
  const cut = new AbortController();
  const stop = () => cut.abort();
  let watch;
  const heard = () => {
    clearTimeout(watch);
    watch = setTimeout(stop, QUIET_MS);
  };
  signal.addEventListener("abort", stop);
  addEventListener("offline", stop, { signal: cut.signal });
  heard();
  if (signal.aborted) stop();
  try {
    const reader = (await ask(cut.signal)).body.pipeThrough(new TextDecoderStream()).getReader();
    for (let rest = ""; ; ) {
      const { value, done } = await reader.read();
      if (done || signal.aborted) return;
      heard();
      alive();
      rest += value;
      if (rest.endsWith("\r")) continue;
      const events = rest.replaceAll("\r\n", "\n").split("\n\n");
      rest = events.pop();
      for (const lines of events) {
        const fields = {};
        for (const line of lines.split("\n")) {
          const [, name, value] = /^(\w*): ?([^]*)$/.exec(line) ?? []; // a dot would stop at U+2028
          fields[name] = value;
        }
        if (!fields.event || !fields.data) continue;
        meter.events++;
        hear(fields.event, JSON.parse(fields.data), fields.id);
        if (fields.event === "end") return;
      }
    }
  } catch (fault) {
    if (!cut.signal.aborted) throw fault;
  } finally {
    signal.removeEventListener("abort", stop);
    clearTimeout(watch);
    stop();
  }
}

// *message* as it is shown, with its *status*: the very same object as before if nothing of it has changed.
function shown(message, before, status, error) {
  const last = before.get(message.id);
  const text = textOf(message.content);
  const unchanged =
    last && last.status === status && last.error === error && last.number === message.number && last.text === text && last.redacted === message.redacted;
  return unchanged ? last : { ...message, text, status, error };
}

const MOVED = new Error("Somebody else is here now.");
const GONE = "This chat was removed from this browser.";
const isNobody = ([, subject]) => subject === "" || subject[0] === "?";
const isKnown = ({ v = 1 }) => v <= FORMAT;
const applied = (item, value) => ("base" in item ? rebased(item.base, item.set, value) : item.patch === undefined ? item.set : merged(value, item.patch));
const overlaid = (state, items) =>
  items.reduce((held, item) => (item.slot === undefined ? held : { ...held, [item.slot]: applied(item, held?.[item.slot]) }), state);
export const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const sorted = (name, value) => (isObject(value) ? Object.fromEntries(Object.entries(value).sort()) : value);
export const same = (a, b) => JSON.stringify(a, sorted) === JSON.stringify(b, sorted);
const textOf = (content) =>
  typeof content === "string" ? content : (Array.isArray(content) ? content : []).flatMap((part) => (["string", "number"].includes(typeof part?.text) ? [String(part.text)] : [])).join("\n");
export const notSent = (count, what) => Object.assign(new Error(`${count} not sent yet; ${what}.`), { name: "Unsent", count });
const told = (fault) => fault && { message: fault.message, status: fault.status, type: fault.type, body: fault.body };
export const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
export const backoff = (failures, after = 0) => Math.max(after * 1000, Math.min(LONGEST_MS, 500 * 2 ** failures)) * (0.5 + Math.random() / 2);
const settled = (request) =>
  new Promise((resolve, reject) => Object.assign(request, { onsuccess: () => resolve(request.result), onerror: () => reject(request.error) }));

export function random() {
  const bytes = crypto.getRandomValues(new Uint8Array(16)); // randomUUID is only there in secure contexts
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

// A frame whose browser lets it keep nothing has locks, and is refused each of them.
export const hasLocks = () => Boolean(navigator.locks && safely(() => localStorage));

export function safely(act) {
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
export function shareInAddress() {
  const share = /[#&]share=(ck_h_\w+)/.exec(location.hash)?.[1];
  if (share) history.replaceState(history.state, "", location.pathname + location.search);
  return share;
}
