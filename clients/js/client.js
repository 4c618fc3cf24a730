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
export const SETTLED_MS = 10_000; // so long after the page was loaded comes what may be wanted without a line
export const MARK = 16; // a token is known again by its last letters; the others are 170 bits that nobody guesses
const REMEMBERED = 50; // credentials whose subject is remembered, for each server
const FORMAT = 2; // of what is kept: an item of 1 has no base; what a newer release has kept is left alone
const LATE_MS = 5000; // a message that is sent later than that says when it was written
const TRACED = 500;
const OF_REQUESTS = [400, 408, 413, 414, 415, 417, 422, 425, 429, 431]; // what anything on the way may say of a request itself

// What has happened in this page: counts, and with `debug` the last lines, with names and sizes and no content.
export const meter = { link: { requests: 0, refused: 0, lost: 0, events: 0 }, ms: 0, debug: Boolean(safely(() => localStorage["chatkeep-debug"])), lines: [] };
let skew = 0; // how far the server's clock is ahead of this one

export function trace(...what) {
  if (!meter.debug) return;
  meter.lines.push([Date.now(), ...what]);
  meter.lines.splice(0, meter.lines.length - TRACED);
  console.debug("chatkeep", ...what);
}

// So long ago by this clock; by one that was set back meanwhile nobody knows, and nothing is to wait for it.
const since = (at) => (at > Date.now() ? Infinity : Date.now() - at);
export const serverTime = (ms) => (ms + skew) / 1000;

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

export async function open(options = {}) {
  const chat = new Chat(options, options.conversation === undefined ? await import("./visitors.js") : undefined);
  await chat.loaded;
  return chat;
}

export class Chat extends Emitter {
  messages = []; // in order: the log, a reply that is being made, what is not acknowledged yet
  typing = false;
  failing = null; // the bot fails, and tries again: {number, attempts, retry_at}
  status = "saved"; // saved | sending | offline | restored | failed
  more = false; // there are earlier messages: earlier()

  _url; _visitor; _user; _mint; _cookie; _shelf; _channel; _me; // _me: {id, token, subject, ...}, or {share}, or {}
  _place; _proven; _first = true; _doors; // _proven: the token of which the subject is known
  _creates; _absent = false; // a user's conversation begins with its first message: until then it is absent
  _log = new Log(); // as the server has them
  _drawn = { byId: new Map() }; // what was shown last, and what it was made of
  _toldState; // the state that was told last, as text
  _queue = []; // as IndexedDB has it
  _adding = 0; // so many changes are on the way there
  _piece = null; // the reply that is being made: {turn, text, length}
  _shown = ""; // how much of it was shown, as the id of an event says it
  _seen = null; // every message up to this number is in _log; null: nothing was loaded
  _handled = 0; _checked = 0; // the bot has dealt with all up to this number, we are sure of it up to that one
  _dead = new Set();
  _state;
  _identifying = null; _loading = null; _catching = null; _gone = false; _problem = null; _offline = false; _restored = false; _backAt = 0;
  _sending = new Bell(); _listening = new Bell();
  _end = new AbortController(); _reign = null; _waiting = null; _steals = false; _answered = false; _timers = {};

  constructor({ url = new URL(".", import.meta.url).href, storage, name, conversation, token, user, cookie = false, share, create = false }, visitors) {
    super();
    const written = String(url).replace(/\/*$/, "/v1/");
    this._url = new URL(written, document.baseURI).href; // one server has one name, however it was written
    this._cookie = cookie;
    this._creates = create;
    if (user !== undefined) this._user = `user:${user}`;
    if (typeof token === "function") this._mint = token;
    share ??= shareInAddress();
    this._visitor = visitors && new visitors.Visitor(tools, [this._url, written], { storage, name, share });
    this.name = conversation ?? this._visitor._name;
    this._keep(this._visitor?._me ?? { id: conversation, token: this._mint ? undefined : token });
    const { id, subject = this._visitor ? "" : `?${random()}` } = this._me;
    this._place = [this._url, subject, subject ? id : this.name];
    this.loaded = this._open();
  }

  get conversation() {
    return this._me.id;
  }

  get shared() {
    return Boolean(this._me.shared);
  }

  get problem() {
    const refused = this._queue.find((item) => item.error && item.slot !== undefined);
    return this._problem ?? (refused ? { message: refused.error } : null);
  }

  // Whether the conversation is on the server, as far as it is known here.
  get _isThere() {
    return this._log.ordered.length > 0 || (this._seen > 0 && !this._absent); // (a token may be for one that nobody has begun)
  }

  get unsent() {
    return this._queue.filter((item) => !item.sent).length;
  }

  async send(content, { id = random(), metadata } = {}) {
    const there = this._isThere;
    await this._add((items, store) => store.put({ id, content, metadata, at: Date.now(), there, v: FORMAT }));
    this._wake();
    return this.messages.find((message) => message.id === id);
  }

  async discard(id) {
    await this._edit((items, store) => items.filter((item) => item.id === id).forEach((item) => store.delete(item.n)));
  }

  get state() {
    return overlaid(this._state, this._queue);
  }

  stats() {
    const refused = this._queue.filter((item) => item.error).length;
    return { conversation: this._me.id, status: this.status, messages: this.messages.length, unsent: this.unsent, refused, leads: Boolean(this._reign) };
  }

  slot(name) {
    // Browsers take these for folders, and would ask for something else.
    if (/^\.?\.?$/.test(name)) throw new TypeError(`a slot cannot be called "${name}"`);
    const write = (change) => this._write(name, change);
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

  close() {
    this._end.abort();
    this._channel?.close();
    this._doors?.close();
    emit(this, "close");
  }

  // Nothing of the chat is to be in this tab any more, nor in what it was just about to keep.
  async _leave(place) {
    this._gone = true;
    this.close();
    this._drop({ message: GONE });
    await this._shelf.see(place, undefined);
    if (this._visitor?._isAlone ?? true) await this._shelf.see(this.name, undefined);
  }

  // -- opening --------------------------------------------------------------------------------------------------------

  async _open() {
    this._shelf = await Shelf.open();
    await this._visitor?._move(this._shelf, this._place);
    if (this._mint) this._doors = new Line(`chatkeep:${this._url}`, (subject) => subject !== this._me.subject && this._recheck());
    const back = ({ persisted }) => (persisted && this._recheck(), this._wake());
    attend(this._end.signal, back, () => this._link(new Error("This device is offline.")), () => this._resume());

    if (!this._visitor) {
      const last = await this._shelf.whose(this._url, this._user ?? this._me.token?.slice?.(-MARK));
      if (last) {
        this._place = [this._url, last, this._me.id];
        this._doors?.say(last);
      } else await Promise.race([this._identify().catch((fault) => this._link(fault)), pause(PATIENCE_MS)]);
    }
    if (this._first) await this._enter();
    this._elect();
    this._resume();
    // A server that does not answer must not keep people from what is here already.
    if (this._me.id && !this._problem) await Promise.race([this._load().catch((fault) => this._link(fault)), pause(PATIENCE_MS)]);
  }

  _keep(me) {
    this._me = me;
    if (me.subject) this._proven = me.token;
    this._visitor?._keep(me);
  }

  // -- whose it is ----------------------------------------------------------------------------------------------------

  get _isProven() {
    return Boolean(this._me.subject) && this._proven === this._me.token && !(this._mint && !this._me.token);
  }

  // Sees to it that there is a credential, and goes on as the subject that it stands for.
  _identify() {
    if (this._isProven) return undefined;
    return (this._identifying ??= this._identifyOnce().finally(() => (this._identifying = null)));
  }

  async _identifyOnce() {
    if (this._mint && !(this._me.token ??= (await (this._mint.current ? this._mint() : (await import("./minting.js")).mint(this._mint))) || undefined)) {
      await this._become(null);
      throw new Problem(401, { detail: "Nobody is signed in." });
    }
    const { token } = this._me;
    const mark = this._visitor ? undefined : token?.slice?.(-MARK);
    let subject = await this._shelf.whose(this._url, mark);
    if (!subject) {
      const answer = await this._fetch(this._cookie && this._me.id ? `me?conversation=${encodeURIComponent(this._me.id)}` : "me").catch((fault) => {
        if (this._mint && fault.status === 401) this._me.token = undefined;
        throw fault.status === 404 ? new Error("The server is older than this client.") : fault; // it may be about to be replaced
      });
      ({ subject } = await answer.json());
    }
    if (token !== this._me.token) return;
    if (!this._visitor) await this._shelf.note(this._url, (pairs) => [[mark, subject], [this._user, subject], ...pairs]);
    this._user = undefined; // who comes after is somebody else
    this._proven = token;
    await this._become(subject);
  }

  // Goes on as *subject*, with what it has here; what is another's stays where it is, and is let go of in memory.
  async _become(subject) {
    const from = this._place;
    const place = [this._url, subject ?? `?${random()}`, this._me.id];
    const nobody = isNobody(from);
    if (this._end.signal.aborted) return undefined;
    if (this._visitor && this._me.subject !== subject) {
      this._keep({ ...this._me, subject });
      this._say({ event: "conversation", data: this._me });
    }
    this._me.subject = subject ?? undefined;
    if (same(place, from) || (nobody && !subject)) return undefined;
    // Begun before the place is another: what is written from now on goes there.
    const moved = nobody && (this._visitor || this._first) && this._shelf.move(from, place);
    if (!nobody) this._drop();
    this._first = false;
    this._place = place;
    await moved;
    if (this._visitor) return this._edit();
    await this._enter();
    if (!subject) return undefined;
    this._doors?.say(subject);
    this._say({ event: "hello" });
    return void this._load().catch((fault) => this._link(fault));
  }

  // Another person is here in another tab: this tab's credential may be theirs too by now.
  _recheck() {
    if (!this._mint || this._end.signal.aborted) return;
    this._me.token = undefined;
    Promise.resolve(this._identify()).then(() => this._wake(), (fault) => this._link(fault)); // what was refused may go on
  }

  // Shows what is kept at this place, and joins the other tabs there.
  async _enter() {
    const place = this._place;
    this._channel?.close();
    this._channel = new Line(this._line, (said) => this._hear(said));
    this._reign?.abort();
    this._waiting?.abort();
    this._wake();
    const { messages = [], state, handled = 0, dead, more = false } = (await this._shelf.seen(place)) ?? {};
    if (place !== this._place) return;
    messages.forEach((message) => this._log.set(message));
    this._state = state;
    this._handled = handled;
    this._dead = new Set(dead);
    this.more = more;
    await this._edit();
  }

  _drop(problem = null) {
    this._offline = false;
    this._problem = problem;
    for (const held of [this._log, this._dead]) held.clear();
    clearTimeout(this._timers.keep); // what was to be kept a little later was another's
    this._queue = [];
    this._handled = this._checked = 0;
    this._piece = this._seen = this._loading = this._catching = null;
    this._absent = false;
    this._state = undefined;
    this.more = false;
    this._takeTyping(false);
    this._takeFailing();
    this._update();
    this._tellState();
  }

  // What the tabs of this chat are joined by: a visitor's name stands for one credential, a site's conversation does not.
  get _line() {
    return `chatkeep:${JSON.stringify(this._visitor ? [this._url, "", this.name] : this._place)}`;
  }

  // -- asking ---------------------------------------------------------------------------------------------------------

  // *place*: whose request this is. If somebody else is here meanwhile, it is not made, or its answer is not taken.
  async _ask(path, options = {}, place = options.place, again = true) {
    if (this._mint?.current) this._me.token = this._mint.current() ?? undefined; // a token that was rotated must not be used again
    if (this._me.id) await this._identify();
    place ??= this._place;
    if (place !== this._place) throw MOVED;
    let answer;
    try {
      answer = await this._fetch(path, options);
    } catch (fault) {
      if (fault.status !== 401 || !this._mint || !again) throw fault;
      this._me.token = this._proven = undefined;
      return this._ask(path, options, place, false);
    }
    if (options.json) answer = await answer.json();
    if (place !== this._place) throw MOVED;
    return answer;
  }

  _fetch(path, options) {
    const { token, subject } = this._me;
    return request(this._url + path, { token, subject: (this._cookie && !token) || (token === true && path !== "me") ? subject : undefined, ...options });
  }

  _here(path, options) {
    return this._ask(`conversations/${encodeURIComponent(this._me.id)}${path}`, options);
  }

  _json(path, options) {
    return this._here(path, { ...options, json: true });
  }

  _load() {
    return (this._loading ??= this._loadOnce().finally(() => (this._loading = null)));
  }

  async _loadOnce() {
    const kept = [...this._log.ordered];
    const found = await this._json(`?messages=${PAGE}`).catch((fault) => {
      if (!this._creates || fault.status !== 404) throw fault;
      return { messages: [], head: 0, unread: 0, state: {}, absent: true }; // nobody has written in it yet
    });
    this._absent = Boolean(found.absent);
    const first = found.messages[0]?.number ?? found.head + 1;
    // What is kept here may end long before, and an erased conversation begins again at 1.
    for (const { id, number } of kept) if (number < first || number > found.head) this._log.delete(id);
    this.more = first > 1 && found.head > PAGE; // else only notes of chatkeep stand before
    this._seen = Math.max(this._seen ?? 0, found.head);
    this._summarize(found);
    // What the leader loads the stream will not bring again, so the followers are told of it too.
    const take = (event, data) => (this._reign ? this._tell(event, data) : this._take(event, data));
    if ("state" in found) take("state", { state: found.state });
    take("message", found.messages);
    this._link(null);
  }

  _summarize({ unread, head, dead }) {
    if (!unread) this._handled = this._checked = head;
    this._dead = new Set(dead);
  }

  _catchUp() {
    return (this._catching ??= this._catchUpOnce().finally(() => (this._catching = null)));
  }

  async _catchUpOnce() {
    if (this._seen === null) return this._load();
    for (let page = []; ; ) {
      page = (await this._json(`/messages?after=${this._seen}&limit=${KEPT}`)).messages;
      this._link(null);
      if (page.length) this._tell("message", page, page.at(-1).number);
      if (page.length < KEPT) return;
    }
  }

  // -- leading: one tab sends and listens -----------------------------------------------------------------------------

  _elect() {
    const { signal } = this._end;
    const elect = async () => {
      if (!this._visitor && isNobody(this._place)) {
        await this._identify();
        return 0;
      }
      const key = this._line;
      const steal = this._steals;
      this._steals = false;
      const waiting = (this._waiting = new AbortController());
      signal.addEventListener("abort", () => waiting.abort());
      try {
        if (!hasLocks()) await this._lead(); // no secure context: each tab for itself; ids keep messages single
        else await navigator.locks.request(key, steal ? { steal } : { signal: waiting.signal }, () => this._lead());
      } catch (fault) {
        if (fault.name !== "AbortError") throw fault;
      }
      this._reign?.abort(); // perhaps stolen, by a tab that people look at
      this._reign = null;
      this._later("insist", PATIENCE_MS, () => this._offline || this._insist());
      return 0;
    };
    return repeat(signal, this._sending, elect, (fault) => this._link(fault));
  }

  async _lead() {
    const reign = (this._reign = new AbortController());
    const { signal } = reign;
    this._end.signal.addEventListener("abort", () => reign.abort());
    signal.addEventListener("abort", () => this._wake());
    await this._edit();
    await Promise.all([this._drain(signal), this._listen(signal)]);
  }

  // Sends what is queued, one after the other and in order, for as long as that takes.
  _drain(signal) {
    const drain = async () => {
      const place = this._place;
      const [next, another] = this._queue.filter(({ error, sent, asks }) => !error && (!sent || (asks && since(sent) > POLL_MS)));
      const settling = next?.slot !== undefined && !another ? SOON_MS - since(next.at) : 0;
      if (!next && !this._me.share) {
        // What could not be sent may have been taken all the same: then there is nothing left to tell that the line is back.
        if (this._offline && this._me.id) await this._catchUp();
        return this._queue.some(({ error, asks }) => !error && asks) ? POLL_MS : undefined;
      }
      if (settling > 0) return settling;
      try {
        if (!this._me.id) await this._visitor._begin(this);
        else if (!this._isProven) await this._identify();
        else await (next.slot === undefined ? this._post(next, place) : (await import("./slots.js")).putSlot(this, tools, next, place));
        this._link(null);
      } catch (fault) {
        // Without the right to it, or the conversation, sending on is no use; a slot may be closed for itself.
        const closed = !next || [401, 404].includes(fault.status) || (fault.status === 403 && next.slot === undefined);
        if (fault !== MOVED && (!fault.final || closed)) throw fault;
        if (fault.status === 412) this._tell("erased");
        if (fault !== MOVED) await this._edit((items, store) => store.put({ ...next, error: fault.message }));
      }
      return 0;
    };
    return repeat(signal, this._sending, drain, (fault) => this._link(fault));
  }

  async _post(item, place) {
    const { id, content, at } = item;
    const late = Date.now() - at > LATE_MS && !item.asks; // what is asked again is the same message
    const metadata = late ? { ...item.metadata, written_at: serverTime(at) } : item.metadata;
    const body = { id, content, ...(metadata && { metadata }) };
    const only = this._only(item);
    const headers = { prefer: "respond-async", ...only };
    const receipt = await this._json("/messages", { method: "POST", body, headers, place });
    this._begun();
    if (receipt.status === "answered") this._handled = Math.max(this._handled, receipt.number);
    if (receipt.status === "failed") this._take("set-aside", receipt);
    // In the server's journal: what became of a message that is only for what is there is asked until it is known.
    if (!receipt.number) return this._edit((items, store) => store.put({ ...item, metadata, sent: Date.now(), asks: only }));
    const taken = { id, content, metadata, number: receipt.number, role: "user", created_at: Date.now() / 1000 };
    this._tell("message", this._log.get(id) ? receipt.replies : [taken, ...receipt.replies]);
    await this.discard(id);
  }

  // What waited is not to begin anew what was there: it was erased meanwhile, perhaps by this person, on another device.
  _only({ at, there, asks }) {
    const waited = Date.now() - at > LATE_MS || at <= this._backAt || this._offline || this._problem;
    return asks ?? (waited && (there || this._isThere) ? { "if-match": "*" } : undefined);
  }

  // What was there was erased meanwhile: no tab shows it any more, and what was written for it is not sent.
  _takeErased() {
    for (const held of [this._log, this._dead]) held.clear();
    this._seen = null;
    this.more = false;
    this._handled = this._checked = 0;
    this._takeState(undefined);
  }

  _begun() {
    if (!this._absent) return;
    this._absent = false;
    this._seen = null;
    emit(this, "conversation", this._me.id);
    this._wake();
  }

  // Holds the event stream. Where none gets through, it asks from time to time.
  _listen(signal) {
    const listen = async () => {
      if (!this._me.id) return undefined;
      if (this._seen === null || this._absent) await this._load();
      if (this._absent) return undefined;
      await this._stream(signal).catch((fault) => signal.aborted || fault);
      if (signal.aborted) return 0;
      await this._catchUp();
      return POLL_MS * (0.5 + Math.random());
    };
    return repeat(signal, this._listening, listen, (fault) => this._link(fault));
  }

  async _stream(signal) {
    const poll = setInterval(() => this._catchUp().catch(() => {}), POLL_MS); // until the stream says its first word
    const seen = String(this._seen);
    const shown = this._piece ? this._shown : "";
    try {
      await follow(signal, async (signal) => {
        const ask = (id) => this._here("/events", { headers: { accept: "text/event-stream", "last-event-id": id }, signal });
        this._shown = "";
        const answer = await ask(shown ? `${seen}.${shown}` : seen).catch((fault) => {
          if (!shown || fault.status !== 400) throw fault;
          return ask(seen); // an older server shows the reply from its beginning
        });
        this._shown = shown;
        this._tell("typing", { on: false });
        return answer;
      }, (event, data, id) => {
        if (id) this._shown = id.split(".")[1] ?? "";
        if (event === "message") this._tell("message", [data], Number(id));
        else this._tell(event, data);
      }, () => {
        clearInterval(poll);
        this._link(null);
      });
    } finally {
      clearInterval(poll);
    }
  }

  // -- between tabs ---------------------------------------------------------------------------------------------------

  // What the leader learns is taken here and told to the followers.
  _tell(event, data, seen) {
    this._say({ event, data, seen });
    this._take(event, data, seen);
  }

  _say(said) {
    if (!this._end.signal.aborted) this._channel?.say(said);
  }

  async _hear({ event, data, seen }) {
    if (this._end.signal.aborted) return;
    if (event === "forgotten") {
      await this._leave(this._place);
    } else if (event === "queue") {
      await this._edit();
    } else if (event !== "hello") {
      this._answered = true;
      this._take(event, data, seen);
    } else if (this._reign) {
      this._wake();
      this._say({ event: "link", data: { offline: this._offline, problem: this._problem } });
      this._say({ event: "typing", data: { on: this.typing } });
      this._say({ event: "failing", data: this.failing });
      if (this._piece) this._say({ event: "piece", data: { turn: this._piece.turn, at: 0, text: this._piece.text } });
    }
  }

  // This tab is looked at: it may have slept, and the leader may be asleep.
  async _resume() {
    if (this._reign) return this._wake();
    this._answered = false;
    this._say({ event: "hello" });
    if (this._seen !== null) this._catchUp().catch(() => {});
    await pause(PATIENCE_MS);
    if (!this._answered && !this._reign && !document.hidden) this._steal();
  }

  // What waits in this tab alone no other one could send.
  _insist() {
    if (this._shelf.isHeld && !this._reign) this._steal();
  }

  _steal() {
    if (!hasLocks()) return;
    this._steals = true;
    this._waiting?.abort();
  }

  _wake() {
    this._sending.ring();
    this._listening.ring();
  }

  // -- taking in what happens -----------------------------------------------------------------------------------------

  _take(event, data, seen) {
    if (event === "message") this._takeMessages(data, seen);
    else if (event === "piece") this._takePiece(data);
    else if (event === "typing") this._takeTyping(data.on);
    else if (event === "failing") this._takeFailing(data);
    else if (event === "set-aside") this._dead = new Set(this._dead).add(data.number); // (a new one, so that it is drawn anew)
    else if (event === "state") this._takeState(data.state);
    else if (event === "redacted") this._takeRedacted(data.number);
    else if (event === "erased") this._takeErased();
    else if (event === "link") this._takeLink(data);
    else if (event === "loss") emit(this, "loss", data);
    else if (event === "conversation") {
      const fresh = data.id !== this._me.id;
      this._keep(data);
      if (data.subject) this._become(data.subject);
      if (fresh) emit(this, "conversation", data.id);
      this._wake();
    } else if (event === "end" && (data.reason === "erased" || (data.reason === "revoked" && !this._mint)))
      this._link(new Problem(401, { detail: `This conversation was ${data.reason === "erased" ? "erased" : "closed"}.`, ...data }));
    this._update();
  }

  _takeMessages(messages, seen) {
    for (const message of messages) {
      this._log.set(message);
      if (message.reply_to) this._handled = Math.max(this._handled, message.reply_to);
      if (message.role === "assistant" && message.number > (this._seen ?? 0)) this._piece = null;
    }
    if (!this.typing) this._check();
    if (seen) this._seen = Math.max(this._seen ?? 0, seen);
    const arrived = new Set(messages.map((message) => message.id));
    if (this._reign && this._queue.some((item) => arrived.has(item.id)))
      this._edit((items, store) => items.filter((item) => arrived.has(item.id)).forEach((item) => store.delete(item.n)));
    this._keepSoon();
  }

  // What a message said is removed for good: also from what this browser keeps.
  _takeRedacted(number) {
    const old = this._log.ordered.find((message) => message.number === number);
    if (old) this._log.set({ id: old.id, number, role: old.role, created_at: old.created_at, content: "", redacted: true });
    this._keepSoon();
  }

  _takePiece({ turn, at, text }) {
    clearTimeout(this._timers.check);
    const said = this._piece?.turn === turn ? this._piece.text : "";
    const characters = Array.from(said); // the server counts characters, not UTF-16 units
    if (at > characters.length) return; // the beginning was missed; the message is to come
    this._piece = { turn, text: (at === characters.length ? said : characters.slice(0, at).join("")) + text };
  }

  _takeTyping(on) {
    if (on !== this.typing) emit(this, "typing", (this.typing = on));
    if (on) clearTimeout(this._timers.check);
    else this._check();
  }

  _takeFailing(data) {
    const failing = data?.attempts ? data : null;
    if (failing !== this.failing) emit(this, "failing", (this.failing = failing));
  }

  // When all is quiet: a message that no reply covers may have been given up, or need none.
  _check() {
    this._later("check", 1500, async () => {
      this._piece = null;
      const covered = (number) => this.messages.some(({ reply_from, reply_to }) => reply_from <= number && number <= reply_to);
      const open = this.messages.some(({ role, number }) => role === "user" && number > this._checked && !covered(number));
      if (open) await this._json("?messages=0").then((found) => this._summarize(found), () => {});
      this._update();
    });
  }

  _takeState(state) {
    this._state = state;
    this._tellState();
    this._keepSoon();
  }

  // How the line to the server is: null when it has just answered.
  _link(fault) {
    if (this._gone || fault === MOVED) return;
    const data = { offline: Boolean(fault && !fault.final && !fault.ours), problem: told(fault) };
    if (data.offline !== this._offline || data.problem?.message !== this._problem?.message) this._tell("link", data);
  }

  _takeLink({ offline, problem }) {
    if ((this._offline || this._problem) && !offline && !problem) this._backAt = Date.now();
    if (this._offline && !offline && !problem) {
      this._restored = true;
      this._later("restored", RESTORED_MS, () => {
        this._restored = false;
        this._update();
      });
    }
    this._offline = offline;
    this._problem = problem;
    if (offline || problem) return;
    this._wake();
    this._insist();
  }

  // -- showing --------------------------------------------------------------------------------------------------------

  // A change of a slot keeps the value with which it was begun; what is typed on belongs to it until it is on its way.
  _write(slot, change) {
    return this._add((items, store) => {
      const last = items.at(-1);
      items.filter((item) => item.slot === slot && item.error && item !== last).forEach((item) => store.delete(item.n));
      const value = overlaid(this._state, items)?.[slot];
      const made = { slot, base: value, set: change(value), at: Date.now(), there: this._isThere, rev: random(), v: FORMAT };
      const goesOn = last?.slot === slot && "base" in last && (!last.tried || last.error);
      store.put(goesOn ? { ...made, base: last.base, n: last.n } : made);
    });
  }

  // A change of the user's own: until it is kept here, nothing is "saved".
  async _add(change) {
    this._adding++;
    this._update();
    try {
      await this._edit(change);
      this._insist();
    } finally {
      this._adding--;
      this._update();
    }
  }

  async _edit(change) {
    if (this._gone && change) throw new Error(GONE);
    const place = this._place;
    const items = await this._shelf.edit(place, change);
    if (place !== this._place) return this._edit(change && (() => {})); // it is kept for the one who wrote it; another may be here now
    this._queue = this._gone ? [] : items;
    if (change) this._say({ event: "queue" });
    this._update();
    if (!this._offline) this._sending.ring();
    if (this._queue.some((item) => item.slot !== undefined)) this._tellState();
  }

  // The state, if it is another than the one that was told last.
  _tellState() {
    const state = this.state;
    const text = JSON.stringify(state, sorted);
    if (text === this._toldState) return;
    this._toldState = text;
    emit(this, "state", state);
  }

  _update() {
    const { byId: before, version, handled, dead } = this._drawn;
    // Most of what happens leaves the log as it was: a piece of a reply, typing, the line to the server.
    const isNew = version !== this._log.version || handled !== this._handled || dead !== this._dead;
    const logged = isNew ? this._drawLog(before) : this._drawn.logged;
    const made = this._piece ? [shown({ id: `piece:${this._piece.turn}`, role: "assistant", content: this._piece.text }, before, "streaming")] : [];
    const local = this._queue
      .filter((item) => item.id && !this._log.get(item.id))
      .map(({ id, content, metadata, at, error, sent }) =>
        shown({ id, content, metadata, role: "user", created_at: at / 1000 }, before, error ? "failed" : sent ? "sent" : "sending", error),
      );
    this.messages = [...logged, ...made, ...local];
    const byId = new Map(this.messages.map((message) => [message.id, message]));
    this._drawn = { logged, byId, version: this._log.version, handled: this._handled, dead: this._dead };
    for (const id of before.keys()) if (!byId.has(id)) emit(this, "remove", id);
    for (const [id, message] of byId) if (before.get(id) !== message) emit(this, "message", message);

    const refused = this._queue.some((item) => item.error);
    const going = this._adding || this._queue.some((item) => !item.error && !item.sent);
    const restored = this._restored ? "restored" : "saved";
    const status = this._offline ? "offline" : this._problem ? "failed" : going ? "sending" : refused ? "failed" : restored;
    if (status !== this.status) emit(this, "status", (this.status = status));
  }

  _drawLog(before) {
    return this._log.ordered.map((message) => {
      if (message.role !== "user") return shown(message, before, "received");
      if (this._dead.has(message.number)) return shown(message, before, "failed", "The bot could not answer this; your message is kept.");
      return shown(message, before, message.number <= this._handled ? "delivered" : "sent");
    });
  }

  _keepSoon() {
    this._later("keep", 500, () => {
      const messages = this._log.ordered.slice(-KEPT);
      const summary = { v: FORMAT, messages, state: this._state, handled: this._handled, dead: [...this._dead], more: messages[0]?.number > 1 };
      return this._reign && this._shelf.see(this._place, summary);
    });
  }

  _later(what, ms, act) {
    clearTimeout(this._timers[what]);
    this._timers[what] = setTimeout(() => this._end.signal.aborted || act(), ms);
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
  #channel; #isClosed = false;

  constructor(name, hear) {
    const listen = (channel) => {
      channel.onmessage = ({ data }) => hear(data);
      this.#channel = channel;
      if (this.#isClosed) channel.close();
    };
    const channel = safely(() => new BroadcastChannel(name));
    if (channel) listen(channel);
    else import("./lines.js").then(({ StorageChannel }) => listen(new StorageChannel(name, tools)), () => {});
  }

  say(what) {
    this.#channel?.postMessage(what);
  }

  close() {
    this.#isClosed = true;
    this.#channel?.close();
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

// Does *act* until *signal*: again at once if it answers 0, else when *bell* rings or so many milliseconds have passed. A fault is
// told, and if it may pass, *act* is tried again a little later.
export async function repeat(signal, bell, act, fail) {
  for (let failures = 0; !signal.aborted; )
    try {
      const ms = await act();
      failures = 0;
      if (ms !== 0) await bell.wait(ms);
    } catch (fault) {
      if (signal.aborted) return;
      fail(fault);
      await bell.wait(fault.final ? undefined : backoff(failures++, fault.after));
    }
}

// The queues and the last seen messages of all chats in this browser. A browser may take the database away (site data was removed; Safari
// loses it), and is then asked for it again; what it has no room for this page holds.
let isSilent;
export class Shelf {
  #db; #held; #finding;

  static async open() {
    const shelf = new Shelf();
    await shelf.#find().catch(() => {});
    return shelf.#db ? shelf : new (await import("./unkept.js")).MemoryShelf(tools);
  }

  // Whether something waits that is in this page alone.
  get isHeld() {
    return this.#held?.isHeld;
  }

  edit = (...given) => this.#orHeld("edit", given);
  all = (...given) => this.#orHeld("all", given);
  move = (...given) => this.#orHeld("move", given); // all that is kept at one place is another's, at once or not at all

  async #orHeld(verb, given) {
    if (!this.#held)
      try {
        return await this.#kept[verb](...given);
      } catch {
        const { HeldShelf } = await import("./unkept.js");
        this.#held ??= new HeldShelf(tools, this.#kept);
      }
    return this.#held[verb](...given);
  }

  #kept = {
    edit: async (chat, change) => {
      const look = async (store) => (await settled(store.index("chat").getAll(chat))).filter(isKnown);
      if (!change) return look((await this.#stores("readonly"))[0]);
      const [queue, , done] = await this.#stores("readwrite");
      change(await look(queue), { put: (item) => queue.put({ ...item, chat }), delete: (n) => queue.delete(n) });
      const items = await look(queue);
      await done;
      return items;
    },
    all: async () => settled((await this.#stores("readonly"))[0].getAll()),
    move: async (from, to) => {
      if (same(from, to)) return;
      const [queue, seen, done] = await this.#stores("readwrite");
      for (const item of await settled(queue.index("chat").getAll(from))) queue.put({ ...item, chat: to });
      const [kept, there] = [await settled(seen.get(from)), await settled(seen.get(to))];
      if (kept && !there) seen.put(kept, to);
      if (kept) seen.delete(from);
      await done;
    },
  };

  // Some browsers never answer, or not before another page has let go: that is waited for once, and then held for no database.
  #find() {
    return (this.#finding ??= this.#inTime(this.#open().finally(() => (this.#finding = null))));
  }

  async #inTime(opening) {
    const silence = pause(isSilent ? 0 : 2 * PATIENCE_MS).then(() => true);
    isSilent = await Promise.race([opening.then(() => false), silence]);
    if (isSilent) throw new Error("no database");
  }

  async #open() {
    const request = indexedDB.open("chatkeep", 1);
    // The schema is that of older releases, so that their pages which are still open do not stand in the way.
    request.onupgradeneeded = () => {
      request.result.createObjectStore("queue", { keyPath: "n", autoIncrement: true }).createIndex("chat", "chat");
      request.result.createObjectStore("seen");
    };
    const db = (this.#db = await settled(request));
    db.onversionchange = () => db.close(); // a site that removes it all is not held up by this page
  }

  async #stores(mode) {
    const begin = () => this.#db.transaction(["queue", "seen"], mode, { durability: "strict" });
    const transaction = safely(begin) ?? (await this.#find(), begin());
    const done = new Promise((resolve, reject) => Object.assign(transaction, { oncomplete: resolve, onabort: () => reject(transaction.error) }));
    done.catch(() => {});
    return [transaction.objectStore("queue"), transaction.objectStore("seen"), done];
  }

  async seen(chat) {
    const kept = await this.#stores("readonly").then(([, seen]) => settled(seen.get(chat))).catch(() => undefined);
    return kept && isKnown(kept) ? kept : undefined;
  }

  // What was seen is on the server: it may find no room here, but it must go when it is told to.
  async see(chat, summary) {
    const done = this.#stores("readwrite").then(([, seen]) => settled(summary ? seen.put(summary, chat) : seen.delete(chat)));
    return summary ? done.catch(() => {}) : done;
  }

  // Removes what *subject* has seen on a server; what is not sent stays.
  async wipe(url, subject) {
    const [, seen, done] = await this.#stores("readwrite");
    for (const key of await settled(seen.getAllKeys())) if (key[0] === url && key[1] === subject) seen.delete(key);
    await done;
  }

  // Which subject a credential stood for when it was last seen on a server.
  async whose(url, credential) {
    return credential && (await this.seen([url]))?.find(([known]) => known === credential)?.[1];
  }

  async note(url, change) {
    const note = async ([, seen]) => {
      const pairs = change((await settled(seen.get([url]))) ?? []);
      await settled(seen.put(pairs.filter(([known], at) => known && pairs.findIndex(([other]) => other === known) === at).slice(0, REMEMBERED), [url]));
    };
    await this.#stores("readwrite").then(note).catch(() => {});
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
  meter.link.requests++;
  let answer;
  try {
    answer = await fetch(url, {
      method,
      body: JSON.stringify(body),
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
    meter.link.lost++;
    trace(method, new URL(url).pathname, fault.name);
    throw fault;
  }
  const took = performance.now() - begun;
  meter.ms += took;
  trace(method, new URL(url).pathname, answer.status, Math.round(took));
  const ahead = Date.parse(answer.headers.get("date")) - Date.now();
  if (ahead) skew = Math.abs(ahead) > 3000 ? ahead : 0; // a Date has whole seconds, and was on its way
  const { status } = answer;
  const isPage = /html/.test(answer.headers.get("content-type"));
  if (answer.ok && !isPage) return answer;
  meter.link.refused++;
  const told = (!isPage && (await answer.json().catch(() => {}))) || {};
  // A proxy without a server behind it, or a network that wants a sign-in first, knows nothing of tokens and conversations.
  const counts = /^urn:chatkeep:/.test(told.type) || status > 499 || OF_REQUESTS.includes(status);
  throw new Problem(counts ? status : 503, counts ? told : { detail: `Something else has answered (${status}).` }, answer.headers.get("retry-after"));
}

// Calls *back* when the page may have a line again, *away* when it has none, and *seen* when somebody looks at it.
export function attend(signal, back, away, seen) {
  for (const event of ["online", "pageshow"]) addEventListener(event, back, { signal });
  addEventListener("offline", away, { signal });
  document.addEventListener("visibilitychange", () => document.hidden || seen(), { signal });
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
      const events = (rest + value).split(/\r?\n\r?\n/);
      rest = events.pop();
      for (const lines of events) {
        const { event, data, id } = Object.fromEntries(lines.split(/\r?\n/).map((line) => line.split(/: ?([^]*)/))); // a dot would stop at U+2028
        if (!event || !data) continue;
        meter.link.events++;
        hear(event, JSON.parse(data), id);
        if (event === "end") return;
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
const told = (fault) => fault && { message: fault.message, status: fault.status, type: fault.type, body: fault.body };
export const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const backoff = (failures, after = 0) => Math.max(after * 1000, Math.min(LONGEST_MS, 500 * 2 ** failures)) * (0.5 + Math.random() / 2);
const settled = (request) =>
  new Promise((resolve, reject) => Object.assign(request, { onsuccess: () => resolve(request.result), onerror: () => reject(request.error) }));

export function random() {
  const parts = crypto.getRandomValues(new Uint32Array(4)); // randomUUID is only there in secure contexts
  return Array.from(parts, (part) => part.toString(36)).join("");
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

// The share in the address, which is taken out of it at once: nobody should copy, bookmark or photograph it.
export function shareInAddress() {
  const share = /[#&]share=(ck_h_\w+)/.exec(location.hash)?.[1];
  if (share) history.replaceState(history.state, "", location.pathname + location.search);
  return share;
}

// -- what is fetched later --------------------------------------------------------------------------------------------

// What the modules that are fetched later work with. They import nothing: in a wheel client.js and account.js are whole, each for itself.
export const tools = { FORMAT, MOVED, Problem, applied, emit, isNobody, random, rebased, repeat, request, safely, same, serverTime, since };

// Gives *type* methods that are functions of a module: it is fetched when one of them is called.
export function later(type, tools, fetched, ...names) {
  for (const name of names)
    type.prototype[name] = async function (...given) {
      return (await fetched())[name](this, tools, ...given);
    };
}

// What a page must have that has lost its line: whoever opens, leaves or forgets a chat may not have one.
if (globalThis.document) setTimeout(() => Promise.all([import("./visitors.js"), import("./minting.js"), import("./keeping.js"), import("./unkept.js")]).catch(() => {}), SETTLED_MS);

later(Chat, tools, () => import("./requests.js"), "earlier", "withdraw", "amend", "stop", "answering", "losses", "restore", "share");
later(Chat, tools, () => import("./keeping.js"), "retry", "kept", "adopt", "forget");
