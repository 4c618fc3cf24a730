// The operators' page: every conversation of a service key's tenant, live. What people wrote, ids and states are hostile: they
// are put in as text only, and what would be invisible in them, or turn a line around, is shown as a token.

import { Problem } from "./client.js";
import { create, visible } from "./shown.js";

const PAGE = 50;
const PARTS = 50; // parts of a message that are shown one by one
const LISTED = 100;
const LISTED_MOST = 500;
const REFRESH_MS = 5000;
const AGAIN_MS = 1000;
const ASK_MS = 20_000;
const QUIET_MS = 40_000; // the server says something every 15 s
const KEY = "chatkeep:operator";
const API = new URL("v1/", import.meta.url).href;
const WHO = { user: "User", assistant: "Bot", operator: "Person", event: "Event" };

const element = (id) => document.getElementById(id);
const [entry, key, refusal, desk, status, leave, owner, list, none, more, unchosen, name, bot, skipping, skip] =
  "entry key refusal desk status leave owner list none more unchosen name bot skipping skip".split(" ").map(element);
const [trouble, room, earlier, log, making, form, text, inside, facts, state] =
  "trouble room earlier log making form text inside facts state".split(" ").map(element);
const talk = document.querySelector("main");

const rows = new Map(); // conversation id -> its line in the list
const drafts = new Map(); // conversation id -> {text, id}: what is written there and not sent yet
let listed = LISTED;
let asked = 0; // the newest question for the list; older answers are late
let here = null; // the conversation that is shown

// -- text -------------------------------------------------------------------------------------------------------------

const pretty = (value) => JSON.stringify(value, null, 2) ?? "";

function timeOf(seconds) {
  const date = new Date(seconds * 1000);
  const today = date.toDateString() === new Date().toDateString();
  const made = create("time", "", date.toLocaleString([], { ...(today ? {} : { day: "numeric", month: "short" }), hour: "2-digit", minute: "2-digit" }));
  made.dateTime = date.toISOString();
  made.title = date.toLocaleString();
  return made;
}

function random() {
  return [...crypto.getRandomValues(new Uint8Array(12))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

// -- asking -----------------------------------------------------------------------------------------------------------

async function ask(path, { method, body, headers, signal = AbortSignal.timeout(ASK_MS) } = {}) {
  const shown = sessionStorage.getItem(KEY);
  if (!shown) throw new DOMException("There is no key.", "AbortError");
  const answer = await fetch(API + path, {
    method,
    body: body && JSON.stringify(body),
    headers: { authorization: `Bearer ${shown}`, ...(body && { "content-type": "application/json" }), ...headers },
    credentials: "omit",
    cache: "no-store",
    signal,
  });
  if (answer.ok) return answer;
  const fault = new Problem(answer.status, await answer.json().catch(() => ({})), answer.headers.get("retry-after"));
  if (fault.status === 401 && shown === sessionStorage.getItem(KEY)) forget(`The server does not take this key. ${fault.message}`);
  throw fault;
}

const json = async (path, options) => (await ask(path, options)).json();
const at = (id) => `conversations/${encodeURIComponent(id)}`;
const words = (fault) => (fault instanceof Problem ? fault.message : "The server does not answer.");

function complain(fault, place = here) {
  if (place !== here || fault.status === 401) return;
  trouble.replaceChildren(...visible(fault ? words(fault) : ""));
  trouble.hidden = !fault;
}

// What an operator does: once at a time, with its error in words.
async function act(button, deed) {
  const place = here;
  button.disabled = true;
  try {
    await deed(place);
    complain("", place);
  } catch (fault) {
    complain(fault, place);
  } finally {
    button.disabled = false;
  }
  await refresh();
}

// -- the key ----------------------------------------------------------------------------------------------------------

function forget(why) {
  sessionStorage.removeItem(KEY);
  close();
  rows.clear();
  list.replaceChildren();
  refusal.replaceChildren(...visible(why));
  desk.hidden = true;
  entry.hidden = false;
  key.value = "";
  key.focus();
}

function enter() {
  entry.hidden = true;
  desk.hidden = false;
  listed = LISTED;
  refresh();
  choose();
}

entry.addEventListener("submit", (event) => {
  event.preventDefault();
  const given = key.value.trim();
  if (!/^ck_k_\w+$/.test(given)) return void (refusal.textContent = "This is no service key: they begin with ck_k_.");
  sessionStorage.setItem(KEY, given);
  key.value = refusal.textContent = "";
  enter();
});
leave.addEventListener("click", () => {
  drafts.clear();
  forget("");
});

// -- the list ---------------------------------------------------------------------------------------------------------

async function refresh() {
  if (!sessionStorage.getItem(KEY)) return;
  const mine = ++asked;
  const query = new URLSearchParams({ limit: listed, ...(owner.value && { owner: owner.value }) });
  const place = here;
  if (place?.ready) look(place).catch((fault) => fault.final && complain(fault, place)); // the list tells of a server that is away
  try {
    const { conversations } = await json(`conversations?${query}`);
    if (mine !== asked) return;
    showList(conversations.sort((one, other) => other.updated_at - one.updated_at)); // the server's order is to the minute
    status.textContent = "";
  } catch (fault) {
    if (mine === asked && fault.status !== 401) status.replaceChildren(...visible(words(fault)), " Trying again.");
  }
}

function showList(conversations) {
  const focused = document.activeElement;
  const gone = new Set(rows.keys());
  conversations.forEach((found, place) => {
    gone.delete(found.id);
    if (!rows.has(found.id)) rows.set(found.id, create("li"));
    const row = rows.get(found.id);
    showRow(row, found);
    if (list.children[place] !== row) list.insertBefore(row, list.children[place] ?? null);
  });
  for (const id of gone) {
    rows.get(id).remove();
    rows.delete(id);
  }
  none.hidden = conversations.length > 0;
  more.hidden = conversations.length < listed || listed >= LISTED_MOST;
  if (focused !== document.activeElement && list.contains(focused)) focused.focus({ preventScroll: true });
}

function showRow(row, { id, owner, unread, dead, paused, fault, updated_at }) {
  const link = row.firstChild ?? row.appendChild(create("a"));
  link.href = `#${encodeURIComponent(id)}`;
  if (id === here?.id) link.ariaCurrent = "true";
  else link.removeAttribute("aria-current");
  const marks = create("span", "marks");
  if (paused) marks.append(create("span", "mark off", "bot paused"));
  if (unread) marks.append(create("span", "mark", `${unread} unread`));
  if (dead.length) marks.append(create("span", "mark bad", `${dead.length} dead`));
  if (fault) marks.append(create("span", "mark bad", fault));
  link.replaceChildren(create("bdi", "id", id), timeOf(updated_at), create("bdi", "faint owner", owner), marks);
}

let typed;
owner.addEventListener("input", () => {
  clearTimeout(typed);
  typed = setTimeout(refresh, 250);
});
more.addEventListener("click", () => {
  listed = LISTED_MOST;
  refresh();
});
setInterval(() => document.hidden || refresh(), REFRESH_MS);
document.addEventListener("visibilitychange", () => document.hidden || refresh());

// -- one conversation -------------------------------------------------------------------------------------------------

function close() {
  here?.end.abort();
  here = null;
  text.value = "";
  for (const part of [name, log, making, facts, state]) part.replaceChildren();
}

function choose() {
  if (!sessionStorage.getItem(KEY)) return;
  close();
  let id = location.hash.slice(1);
  try {
    id = decodeURIComponent(id);
  } catch {
    // typed by hand: taken as it is
  }
  talk.hidden = inside.hidden = !id;
  unchosen.hidden = Boolean(id);
  document.body.classList.toggle("chosen", Boolean(id));
  for (const [other, row] of rows) {
    if (other === id) row.firstChild.ariaCurrent = "true";
    else row.firstChild.removeAttribute("aria-current");
  }
  if (!id) return;
  here = { id, end: new AbortController(), lines: new Map(), seen: 0, first: 0, sendings: new Map(), dead: new Set(), reasons: new Map(), doubts: [], made: [] };
  name.replaceChildren(...visible(id));
  for (const part of [making, earlier, trouble, skipping, form]) part.hidden = true; // writing would begin what is not there
  bot.disabled = true;
  text.value = drafts.get(id)?.text ?? "";
  follow(here);
}

// Loads it, then holds its event stream, and goes on where that ended for as long as it is shown.
async function follow(place) {
  const { signal } = place.end;
  while (!signal.aborted) {
    try {
      if (!place.ready) await load(place);
      const ended = await stream(place);
      if (ended === "erased") {
        [place.ready, form.hidden, bot.disabled] = [false, true, true];
        return complain(new Problem(410, { detail: "This conversation was erased." }), place);
      }
    } catch (fault) {
      if (signal.aborted) return;
      complain(fault, place);
      if (fault.final) return;
    }
    await new Promise((go) => setTimeout(go, AGAIN_MS));
  }
}

async function load(place) {
  const found = await json(`${at(place.id)}?messages=${PAGE}`);
  if (place !== here) return;
  place.seen = found.head;
  place.first = found.messages[0]?.number ?? found.head + 1;
  earlier.hidden = found.messages.length < PAGE;
  place.ready = true;
  form.hidden = false;
  showFacts(found);
  found.messages.forEach(showMessage);
  room.scrollTop = room.scrollHeight;
  await look(place);
}

// What no event tells: the numbers, and how sending stands.
async function look(place) {
  const [found, { deliveries }] = await Promise.all([json(`${at(place.id)}?messages=0`), json(`${at(place.id)}/deliveries`)]);
  const { dead_letters } = found.dead.length ? await json(`${at(place.id)}/dead-letters`) : { dead_letters: [] };
  const { doubts } = found.dead.length ? await json(`${at(place.id)}/doubts`) : { doubts: [] };
  if (place !== here) return;
  place.reasons = new Map(dead_letters.map((letter) => [letter.number, letter.reason]));
  place.doubts = doubts;
  place.sendings = new Map(deliveries.map((sending) => [sending.number, sending]));
  showFacts(found);
  for (const line of place.lines.values()) showFoot(line);
}

let looking;
function soon(place) {
  clearTimeout(looking);
  looking = setTimeout(() => place === here && look(place).catch(() => {}), 200); // the next refresh tells of errors
}

async function stream(place) {
  const cut = new AbortController();
  const signal = AbortSignal.any([cut.signal, place.end.signal]);
  let watch = setTimeout(() => cut.abort(), QUIET_MS);
  try {
    const headers = { accept: "text/event-stream", "last-event-id": String(place.seen) };
    const answer = await ask(`${at(place.id)}/events`, { headers, signal });
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    complain("", place);
    making.hidden = true;
    for (let rest = ""; ; ) {
      const { value, done } = await reader.read();
      if (done) return "";
      clearTimeout(watch);
      watch = setTimeout(() => cut.abort(), QUIET_MS);
      const events = (rest + value).split("\n\n");
      rest = events.pop();
      for (const event of events) {
        const [, kind] = /^event: (.*)$/m.exec(event) ?? [];
        if (!kind || place !== here) continue;
        const data = JSON.parse(event.slice(event.indexOf("\ndata: ") + 7));
        if (kind === "end") return data.reason;
        hear(place, kind, data);
      }
    }
  } finally {
    clearTimeout(watch);
    cut.abort();
  }
}

function hear(place, kind, data) {
  const following = room.scrollHeight - room.scrollTop - room.clientHeight < 40;
  if (kind === "message") {
    place.seen = data.number;
    if (data.role === "assistant") making.hidden = true;
    showMessage(data);
    soon(place);
  } else if (kind === "redacted") {
    const line = place.lines.get(data.number);
    if (line) {
      place.lines.delete(data.number);
      line.remove();
      const { id, number, role, created_at } = line.message;
      showMessage({ id, number, role, created_at, content: "", redacted: true });
    }
  } else if (kind === "state") {
    state.replaceChildren(...visible(pretty(data.state)));
    soon(place);
  } else if (kind === "typing") {
    place.made = [];
    making.textContent = "The bot is answering…";
    making.hidden = !data.on;
    soon(place);
  } else if (kind === "piece") {
    place.made = [...place.made.slice(0, data.at), ...data.text]; // "at" counts characters, not UTF-16
    making.replaceChildren(...visible(place.made.join("")));
    making.hidden = false;
  }
  if (following) room.scrollTop = room.scrollHeight;
}

function showFacts(found) {
  const { id, owner, session, revision, head, unread, paused, dead, updated_at } = found;
  here.dead = new Set(dead);
  bot.disabled = false;
  bot.ariaChecked = String(!paused);
  bot.textContent = paused ? "Bot is paused" : "Bot answers";
  skipping.hidden = !paused;
  const told = { Conversation: id, Owner: owner, Session: session, Revision: revision, "Last message": head, Unread: unread };
  told.Dead = dead.join(", ") || "none";
  told.Changed = new Date(updated_at * 1000).toLocaleString();
  if (found.stale) told.Stale = "The store is away; this is what the server has seen last.";
  facts.replaceChildren(
    ...Object.entries(told).flatMap(([term, value]) => [create("dt", "", term), create("dd", "", value === "" ? "none" : value)]),
  );
  if ("state" in found) state.replaceChildren(...visible(pretty(found.state)));
}

// What cannot be shown is told in its place: it must not keep the others from being shown.
function showMessage(message) {
  if (here.lines.has(message.number)) return;
  let line;
  try {
    line = lineOf(message);
  } catch (fault) {
    console.error(fault);
    line = create("li", message.role);
    line.append(create("div", "said", `This message cannot be shown (${fault}).`), create("div", "foot"));
  }
  const { number } = message;
  line.message = message;
  here.lines.set(number, line);
  here.first = Math.min(here.first, number);
  showFoot(line);
  const next = [...log.children].findLast((other) => other.message.number < number)?.nextSibling ?? log.firstChild;
  log.insertBefore(line, log.lastChild?.message.number < number ? null : next);
}

function lineOf(message) {
  const line = create("li", message.role);
  const { content, role, number, created_at, ...rest } = message;
  const head = create("div", "head");
  head.append(create("b", "", WHO[role] ?? role), timeOf(created_at), create("span", "faint", `#${number}`));
  const details = create("details", "");
  details.append(create("summary", "", "Details"), create("pre", "", pretty(rest)));
  line.append(head, ...(message.redacted ? [create("div", "faint", "redacted")] : said(content)), create("div", "foot"), details);
  return line;
}

function said(content) {
  if (!Array.isArray(content)) return [create("div", "said", typeof content === "string" ? content : pretty(content))];
  const parts = content.slice(0, PARTS).map((part) => {
    const text = part?.type === "text" && typeof part.text === "string";
    return text ? create("div", "said", part.text) : create("pre", "", pretty(part));
  });
  if (content.length > PARTS) parts.push(create("pre", "", pretty(content.slice(PARTS))));
  return parts;
}

function jsonOr(text) {
  try {
    return text === "" ? null : JSON.parse(text);
  } catch {
    return text;
  }
}

function showFoot(line) {
  const { number } = line.message;
  const sending = here.sendings.get(number);
  const foot = line.querySelector(".foot");
  const doubts = here.doubts.filter((call) => call.number === number);
  const shown = JSON.stringify([sending, here.dead.has(number), here.reasons.get(number), doubts]);
  if (foot.shown === shown) return; // who is about to press a button here must not lose it
  foot.shown = shown;
  foot.replaceChildren();
  const button = (words, path, method) => {
    const made = create("button", "quiet", words);
    made.type = "button";
    made.addEventListener("click", () => act(made, ({ id }) => ask(`${at(id)}/${path}/${number}`, { method })));
    foot.append(made);
  };
  if (here.dead.has(number)) {
    foot.append(create("span", "mark bad", "dead: the bot failed on it"), create("span", "faint", here.reasons.get(number) ?? ""));
    button("Try again", "dead-letters", "POST");
    button("Dismiss", "dead-letters", "DELETE");
  }
  const settle = (words, call, told) => {
    const made = create("button", "quiet", words);
    made.type = "button";
    made.addEventListener("click", () => {
      const body = told();
      if (body) act(made, ({ id }) => ask(`${at(id)}/doubts/${call.name}`, { method: "POST", body }));
    });
    foot.append(made);
  };
  for (const call of doubts) {
    foot.append(create("span", "mark bad", `in doubt: ${call.tool}`), create("span", "faint", call.arguments));
    settle("It was done", call, () => {
      const result = prompt(`What has ${call.tool} answered? Leave it empty if nothing; text that is no JSON is taken as text.`, "");
      return result === null ? null : { done: true, result: jsonOr(result) };
    });
    settle("It was not done", call, () => ({ done: false }));
  }
  if (!sending) return;
  const bad = ["failed", "uncertain"].includes(sending.status);
  foot.append(create("span", bad ? "mark bad" : "mark", sending.status));
  if (sending.doubtful) foot.append(create("span", "faint", "perhaps shown twice"));
  if (sending.reason) foot.append(create("span", "faint", sending.reason));
  if (bad) button("Send again", "deliveries", "POST");
}

earlier.addEventListener("click", () =>
  act(earlier, async (place) => {
    const { messages } = await json(`${at(place.id)}/messages?before=${place.first}&limit=${PAGE}`);
    if (place !== here) return;
    const below = room.scrollHeight - room.scrollTop;
    messages.forEach(showMessage);
    earlier.hidden = messages.length < PAGE;
    room.scrollTop = room.scrollHeight - below;
  }),
);

// -- taking over ------------------------------------------------------------------------------------------------------

bot.addEventListener("click", () => {
  const paused = bot.ariaChecked === "true";
  const body = { paused, ...(!paused && { unread: skip.checked ? "skip" : "answer" }) };
  act(bot, ({ id }) => ask(`${at(id)}/bot`, { method: "PUT", body }));
});

// The id stays with the words, so that sending them again after a lost answer says them once.
text.addEventListener("input", () => drafts.set(here.id, { text: text.value, id: random() }));
text.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  form.requestSubmit();
});
form.addEventListener("submit", (event) => {
  event.preventDefault();
  const draft = drafts.get(here.id);
  const button = form.querySelector("button");
  if (!draft?.text.trim() || button.disabled) return;
  act(button, async ({ id }) => {
    await ask(`${at(id)}/operator`, { method: "POST", body: { content: draft.text, id: draft.id } });
    if (drafts.get(id) !== draft) return; // somebody has typed on
    drafts.delete(id);
    if (here?.id === id) text.value = "";
  });
});

// An error of the page itself is told, and never shown as an empty log.
for (const event of ["error", "unhandledrejection"])
  addEventListener(event, ({ error, reason }) => {
    if (reason?.name === "AbortError") return;
    trouble.replaceChildren(...visible(`This page has met an error: ${error ?? reason}. Reload it, and report it if it comes again.`));
    trouble.hidden = false;
  });
addEventListener("hashchange", choose);
inside.open = matchMedia("(min-width: 64rem)").matches;
if (sessionStorage.getItem(KEY)) enter();
else forget("");
