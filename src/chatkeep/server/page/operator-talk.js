// One conversation, live: its log as the customer sees it, with what became of each message; and the person's part in it.

import { actButton, can, offer, offerMore } from "./operator-acts.js";
import { Problem, ask, at, button, calledOf, colleagues, element, isHandle, json, may, me, nameOf, pretty, random, say, timeOf } from "./operator-ask.js";
import { onPresence, othersAt, tellWriting } from "./operator-here.js";
import { refresh } from "./operator-list.js";
import { fill, pick } from "./operator-canned.js";
import { clearWhy, showFacts, showState, showWhy } from "./operator-why.js";
import { draw, each, offersOf } from "./parts.js";
import { create, unlessPressed, visible } from "./shown.js";

const PAGE = 50;
const PARTS = 50; // parts of a message whose choices are shown, and choices of each
const AGAIN_MS = 1000;
const QUIET_MS = 40_000; // the server says something every 15 s
const TOGETHER_S = 300; // messages of one side within so long stand together
const WHO = { user: "Customer", assistant: "Bot", operator: "Person", event: "Event", note: "Note" };

const [name, about, others, why, taking, trouble, room, earlier, log, making, form, text, effect, inside, unchosen] =
  "name about others why taking trouble room earlier log making form text effect inside unchosen".split(" ").map(element);
const inTaking = unlessPressed(taking);
const talk = document.querySelector("main");

const KEPT = "chatkeep-drafts"; // in this tab, until whoever has written them signs out
const drafts = new Map(); // place -> {text, kind, id, open}: what is written there and not sent yet
let here = null; // the conversation that is shown

let told; // the fault that is shown

export function complain(fault, place = here) {
  if (place !== here || fault?.status === 401) return;
  say(trouble, (told = fault));
}

// What a person does: once at a time, with its error in words.
export async function act(pressed, deed) {
  const place = here;
  if (pressed) pressed.disabled = true;
  try {
    await deed(place);
    complain(null, place);
    if (place && place === here) await look(place);
  } catch (fault) {
    complain(fault, place);
  } finally {
    if (pressed) pressed.disabled = false;
  }
  await refresh();
}

export function close() {
  here?.end.abort();
  here = null;
  text.value = "";
  for (const part of [name, about, log, making, taking]) part.replaceChildren();
  clearWhy();
  talk.hidden = inside.hidden = true;
}

export function open(place, tenant, id) {
  close();
  talk.hidden = false;
  unchosen.hidden = true;
  inside.hidden = why.ariaExpanded !== "true";
  here = { place, tenant, id, end: new AbortController(), lost: null, lines: new Map(), seen: 0, first: 0, sendings: new Map(), dead: new Set(), reasons: new Map(), doubts: [], made: [] };
  name.replaceChildren(...visible(id));
  for (const part of [making, earlier, trouble, form]) part.hidden = true; // writing would begin what is not there
  const { text: written = "", kind = "reply" } = drafts.get(place) ?? {};
  [text.value, form.elements.kind.value] = [written, kind]; // a note for colleagues comes back as one
  follow(here);
  askPeople(here);
  showOthers();
}

async function askPeople(place) {
  place.people = await colleagues(place.tenant).catch(() => []);
  if (place === here && place.ready) look(place).catch(() => {}); // the next refresh tells of errors
}

function showOthers() {
  const words = here ? othersAt(here.tenant, here.id) : "";
  if (words !== others.said) others.replaceChildren(...visible((others.said = words))); // what is put in is read out, again too
}
onPresence(showOthers);

const asking = (place) => ({ tenant: place.tenant });

// Loads it, then holds its event stream, and goes on where that ended for as long as it is shown.
async function follow(place) {
  const { signal } = place.end;
  while (!signal.aborted) {
    try {
      if (!place.ready) await load(place);
      const ended = await stream(place);
      if (ended === "erased") return sayErased(place);
    } catch (fault) {
      if (signal.aborted) return;
      if (place.ready && fault.status === 404) return sayErased(place); // it was there a moment ago
      place.lost = fault.status === 404 ? new Problem(404, { detail: "This conversation is not there: it was erased, or it is another tenant's." }) : fault;
      complain(place.lost, place);
      if (fault.final) return;
    }
    await new Promise((go) => setTimeout(go, AGAIN_MS));
  }
}

function sayErased(place) {
  [place.ready, form.hidden] = [false, true];
  taking.replaceChildren();
  complain(new Problem(410, { detail: "This conversation was erased." }), place);
}

async function load(place) {
  const found = await json(`${at(place.id)}?messages=${PAGE}&notes=1`, asking(place));
  if (place !== here) return;
  place.seen = place.noted = found.head;
  place.first = found.messages[0]?.number ?? found.head + 1;
  earlier.hidden = found.messages.length < PAGE;
  place.ready = true;
  form.hidden = !may("operate");
  showEntries(found.messages);
  showHead(found);
  room.scrollTop = room.scrollHeight;
  await look(place);
}

// What no event tells: the numbers, and how sending stands.
export async function look(place = here) {
  if (!place?.ready) return;
  const ours = asking(place);
  const [found, { deliveries }] = await Promise.all([json(`${at(place.id)}?messages=0`, ours), json(`${at(place.id)}/deliveries`, ours)]);
  const { dead_letters } = found.dead.length ? await json(`${at(place.id)}/dead-letters`, ours) : { dead_letters: [] };
  const { doubts } = found.dead.length && may("reveal") ? await json(`${at(place.id)}/doubts`, ours) : { doubts: [] };
  const news = found.head > place.noted ? await json(`${at(place.id)}/messages?after=${place.noted}&limit=${PAGE}&notes=1`, ours) : { messages: [] };
  if (place !== here) return;
  place.noted = Math.max(place.noted, news.messages.at(-1)?.number ?? 0);
  showEntries(news.messages.filter(({ number, role }) => role === "system" && !place.lines.has(number)));
  place.reasons = new Map(dead_letters.map((letter) => [letter.number, letter.reason]));
  place.doubts = doubts;
  place.sendings = new Map(deliveries.map((sending) => [sending.number, sending]));
  showHead(found);
  for (const line of place.lines.values()) showFoot(line);
  if (!inside.hidden) await showWhy(place);
}

let looking;
function soon(place) {
  clearTimeout(looking);
  looking = setTimeout(() => place === here && look(place).catch(() => {}), 200); // the next refresh tells of errors
}
setInterval(() => {
  const place = here;
  if (document.hidden || !place?.ready) return;
  look(place).catch((fault) => fault.final && place.ready && complain(fault, place)); // (an erased one is told of by its stream)
}, 5000);

async function stream(place) {
  const cut = new AbortController();
  const signal = AbortSignal.any([cut.signal, place.end.signal]);
  let watch = setTimeout(() => cut.abort(), QUIET_MS);
  try {
    const headers = { accept: "text/event-stream", "last-event-id": String(place.seen) };
    const answer = await ask(`${at(place.id)}/events`, { headers, signal, ...asking(place) });
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    const isRefusal = told instanceof Problem && told.status < 500; // of what somebody did meanwhile
    if (!isRefusal || told === place.lost) complain(null, place);
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
      const { id, number, role, created_at } = line.message;
      place.lines.delete(data.number);
      line.remove();
      showMessage({ id, number, role, created_at, content: "", redacted: true });
    }
  } else if (kind === "state") {
    showState(place, data.state);
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

// -- the head: whose it is, and who answers ---------------------------------------------------------------------------

function showHead(found) {
  const place = here;
  place.dead = new Set(found.dead);
  place.paused = found.off_by.includes("conversation");
  [place.assignee, place.unread] = [found.assignee ?? "", found.unread];
  const called = calledOf(found.id, found.title, place.called, found.owner); // as in the list
  name.replaceChildren(...visible(called));
  const told = [called === found.id || isHandle(found.id) ? "" : found.id, found.owner && called !== found.owner && `owner ${found.owner}`, place.tenant && `tenant ${place.tenant}`];
  about.replaceChildren(...visible(told.filter(Boolean).join(" · ")));
  if (found.stale) about.append(create("span", "mark bad", "The store is away; this is what the server has seen last."));
  const shown = JSON.stringify([found.off_by, found.unread, place.id, place.assignee, place.people]);
  inTaking(() => {
    if (place.end.signal.aborted || (taking.shown === shown && taking.firstChild)) return;
    taking.shown = shown;
    taking.replaceChildren(...takingParts(found));
  });
  effect.textContent = place.paused ? "The bot is off here." : "Sending takes over: the bot is paused.";
  showFacts(place, found);
  if ("state" in found) showState(place, found.state);
}

function takingParts({ off_by }) {
  const elsewhere = off_by.filter((scope) => scope !== "conversation");
  const parts = [];
  if (elsewhere.length) parts.push(create("span", "mark off", `Bot off: ${elsewhere.join(", ")}`));
  const status = create("span", off_by.length ? "mark off" : "mark on", off_by.length ? "A person answers" : "Bot answers");
  status.id = "bot";
  if (!elsewhere.length) parts.push(status);
  if (!may("operate")) {
    if (here.assignee) parts.push(create("span", "mark", `With ${here.assignee}`));
    return parts;
  }
  return [...parts, ...["take-over", "hand-back", "bot-answers"].filter(can).map((name) => actButton(name)), assigneeField()];
}

function assigneeField() {
  const place = here;
  const field = create("label", "assignee");
  const select = create("select");
  Object.assign(select, { id: "assignee", ariaLabel: "Assigned to" });
  const names = new Map([["", "nobody"], [me.account, "You"], ...(place.people ?? []).filter(({ account }) => account !== me.account).map(({ account, shown }) => [account, shown || account])]);
  if (!names.has(place.assignee)) names.set(place.assignee, place.assignee);
  select.append(...[...names].map(([account, shown]) => Object.assign(create("option", "", shown), { value: account })));
  select.value = place.assignee;
  select.addEventListener("change", () => assign(select.value, select));
  field.append(create("span", "", "Assigned to"), select);
  return field;
}

// Only if it is still whose it was shown to be: two people who take the same one are told.
function assign(assignee, pressed) {
  act(pressed, async ({ id, tenant, assignee: was }) => {
    try {
      await ask(`${at(id)}/assignee`, { method: "PUT", body: { assignee, was }, tenant });
    } finally {
      taking.shown = ""; // whatever was chosen, the field shows what is
    }
  });
}

const pause = (paused, unread) => (pressed) =>
  act(pressed, ({ id, tenant }) => ask(`${at(id)}/bot`, { method: "PUT", body: { paused, ...(unread && { unread }) }, tenant }));
const operates = () => Boolean(here?.ready) && may("operate");

offer("Conversation", {
  "take-over": { words: "Take over", when: () => operates() && !here.paused, deed: pause(true) },
  "hand-back": { words: "Hand back", when: () => operates() && here.paused, deed: pause(false, "skip") },
  "bot-answers": { words: () => `Have the bot answer ${here?.unread ?? ""}`, when: () => operates() && here.paused && here.unread > 0, deed: pause(false, "answer") },
  "assign-me": { words: "Assign to me", key: "m", when: () => operates() && here.assignee !== me.account, deed: (pressed) => assign(me.account, pressed) },
  unassign: { words: "Assign to nobody", when: () => operates() && here.assignee !== "", deed: (pressed) => assign("", pressed) },
  reply: { words: "Reply to the customer", key: "r", when: operates, deed: () => write("reply") },
  note: { words: "Note for colleagues", key: "n", when: operates, deed: () => write("note") },
  canned: { words: "Insert a canned reply", key: "i", when: operates, deed: () => choose() },
  details: { words: "Details: why it is as it is", key: "d", when: () => Boolean(here), deed: () => toggleInside() },
  earlier: { words: "Show earlier messages", when: () => Boolean(here?.ready) && !earlier.hidden, deed: (pressed) => showEarlier(pressed) },
});

// What has a button in the log, or a place in a menu, can be done from the palette too.
offerMore(() => {
  if (!operates()) return [];
  const given = (here.people ?? []).filter(({ account }) => ![me.account, here.assignee].includes(account));
  return [
    ...given.map(({ account, shown }) => ({ words: `Assign to ${shown || account}`, group: "Conversation", also: shown ? account : "", deed: () => assign(account) })),
    ...[...log.querySelectorAll(".foot button")].map((made) => ({ words: `#${made.closest("li").message.number}: ${made.textContent}`, group: "Message", deed: () => made.click() })),
    ...[...inside.querySelectorAll("#state button, #story button")].map((made) => ({ words: made.ariaLabel || made.textContent, group: "State", deed: () => made.click() })),
  ];
});

// -- the log ----------------------------------------------------------------------------------------------------------

// What cannot be shown is told in its place: it must not keep the others from being shown.
function showMessage(message) {
  if (here.lines.has(message.number)) return;
  let line;
  try {
    line = lineOf(message);
  } catch (fault) {
    console.error(fault);
    line = create("li", message.role);
    line.append(create("b", "who", ""), create("div", "said", `This message cannot be shown (${fault}).`), create("div", "foot"));
  }
  const { number } = message;
  line.message = message;
  here.lines.set(number, line);
  here.first = Math.min(here.first, number);
  showFoot(line);
  const above = [...log.children].findLast((other) => other.message?.number < number);
  log.insertBefore(line, above ? above.nextSibling : log.firstChild);
  group(line);
  const after = following(line);
  if (after) group(after);
}

// Messages, and notes of people among them, which customers never see; what else chatkeep has noted stands in the details.
function showEntries(entries) {
  const following = room.scrollHeight - room.scrollTop - room.clientHeight < 40;
  for (const entry of entries) {
    if (entry.role !== "system") showMessage(entry);
    else if (entry.metadata?.kind === "note" && !entry.redacted) showMessage({ ...entry, role: "note", author: entry.metadata.author, content: entry.metadata.text ?? "" });
  }
  if (following) room.scrollTop = room.scrollHeight;
}

function following(line) {
  let next = line.nextSibling;
  while (next && !next.message) next = next.nextSibling;
  return next;
}

// Stands together with the message above, or says who it is; a line with the day stands above the first message of each.
function group(line) {
  let above = line.previousSibling;
  if (above && !above.message) {
    above.remove();
    above = line.previousSibling;
  }
  const { role, created_at, author } = line.message;
  const day = (message) => new Date(message.created_at * 1000).toDateString();
  const new_day = !above || day(above.message) !== day(line.message);
  if (new_day) {
    const made = create("li", "day");
    made.append(timeOf(created_at, { weekday: "short", day: "numeric", month: "long", year: "numeric" }));
    line.before(made);
  }
  const same = !new_day && above.message.role === role && above.message.author === author && created_at - above.message.created_at < TOGETHER_S;
  line.classList.toggle("more", same);
}

function lineOf(message) {
  const line = create("li", message.role);
  const { content, role, number, created_at, author, ...rest } = message;
  const body = create("div", "body");
  body.append(message.redacted ? create("div", "faint", "redacted") : said(message));
  if (message.saved) body.append(create("span", "mark", "saved, not said here"));
  if (message.metadata?.stopped) body.append(create("span", "mark", "stopped"));
  if (message.metadata?.interrupted) body.append(create("span", "mark bad", "interrupted"));
  const details = create("details", "raw");
  details.append(create("summary", "", `#${number}`));
  details.addEventListener("toggle", () => details.open && !details.lastChild.matches("pre") && details.append(create("pre", "", pretty(rest))));
  const when = create("span", "when");
  when.append(create("span", "sent"), timeOf(created_at));
  line.append(create("b", "who", author || WHO[role] || role), body, when, details, create("div", "foot"));
  const called = role === "user" && !message.saved && (message.metadata?.name || message.metadata?.username);
  if (typeof called === "string") here.called = called;
  return line;
}

// As the customer sees it, but that no picture is loaded: whoever writes could make this page ask for an address of theirs. What has no
// look stands as it was sent.
function said({ content, role }) {
  const whole = draw(content, { markdown: role !== "user", otherwise: (part) => create("pre", "", pretty(part)) });
  const choices = create("span", "choices");
  for (const { rows } of each(content).slice(0, PARTS).flatMap(offersOf)) choices.append(...rows.slice(0, PARTS).map(({ text }) => create("span", "choice", text)));
  if (choices.firstChild) whole.append(choices);
  return whole;
}

function jsonOr(text) {
  try {
    return text === "" ? null : JSON.parse(text);
  } catch {
    return text;
  }
}

const DELIVERED = { waiting: ["◷", "waiting"], delivered: ["✓", "delivered"], read: ["✓✓", "read"], failed: ["✕", "failed"], uncertain: ["?", "uncertain"] };

function showFoot(line) {
  const { number } = line.message;
  const sending = here.sendings.get(number);
  const foot = line.querySelector(".foot");
  const doubts = here.doubts.filter((call) => call.number === number);
  const shown = JSON.stringify([sending, here.dead.has(number), here.reasons.get(number), doubts]);
  if (foot.shown === shown) return; // who is about to press a button here must not lose it
  foot.shown = shown;
  foot.replaceChildren();
  const press = (label, path, method) => {
    if (may("operate")) foot.append(button(label, (made) => act(made, ({ id, tenant }) => ask(`${at(id)}/${path}/${number}`, { method, tenant }))));
  };
  if (here.dead.has(number)) {
    foot.append(create("span", "mark bad", "dead: the bot failed on it"), create("span", "reason", here.reasons.get(number) ?? ""));
    press("Try again", "dead-letters", "POST");
    press("Dismiss", "dead-letters", "DELETE");
  }
  const settle = (label, call, told) =>
    foot.append(
      button(label, (made) => {
        const body = told();
        if (body) act(made, ({ id, tenant }) => ask(`${at(id)}/doubts/${call.name}`, { method: "POST", body, tenant }));
      }),
    );
  for (const call of may("operate") ? doubts : []) {
    foot.append(create("span", "mark bad", `in doubt: ${call.tool}`), create("span", "reason", call.arguments));
    settle("It was done", call, () => {
      const result = prompt(`What has ${call.tool} answered? Leave it empty if nothing; text that is no JSON is taken as text.`, "");
      return result === null ? null : { done: true, result: jsonOr(result) };
    });
    settle("It was not done", call, () => ({ done: false }));
  }
  if (!sending) return;
  const bad = ["failed", "uncertain"].includes(sending.status) || sending.tries;
  const [tick, said] = DELIVERED[sending.status] ?? ["", sending.status];
  const sent = line.querySelector(".sent");
  if (sent) [sent.textContent, sent.title, sent.ariaLabel, sent.role] = bad ? ["", "", "", ""] : [tick, said, said, "img"];
  if (bad) foot.append(create("span", "mark bad", `${tick} ${said}`));
  if (sending.tries) foot.append(create("span", "faint", `${sending.tries} tries`));
  if (sending.doubtful) foot.append(create("span", "faint", "perhaps shown twice"));
  if (sending.reason) foot.append(create("span", "reason", sending.reason));
  if (["failed", "uncertain"].includes(sending.status)) press("Send again", "deliveries", "POST");
}

function showEarlier() {
  act(earlier, async (place) => {
    const { messages } = await json(`${at(place.id)}/messages?before=${place.first}&limit=${PAGE}&notes=1`, asking(place));
    if (place !== here) return;
    const below = room.scrollHeight - room.scrollTop;
    showEntries(messages);
    place.first = Math.min(place.first, messages[0]?.number ?? 0);
    earlier.hidden = messages.length < PAGE;
    room.scrollTop = room.scrollHeight - below;
  });
}

function toggleInside() {
  const shown = why.ariaExpanded !== "true";
  why.ariaExpanded = String(shown);
  inside.hidden = !shown;
  if (shown && here?.ready) showWhy(here).catch(complain);
}
element("unwhy").addEventListener("click", () => showInside(false));
export function showInside(shown) {
  why.ariaExpanded = String(shown);
  inside.hidden = !shown || !here;
}

// -- writing ----------------------------------------------------------------------------------------------------------

export function write(kind) {
  if (form.hidden) return;
  form.elements.kind.value = kind;
  if (text.value) keepDraft();
  text.focus();
}

// The id stays with the words, so that sending them again after a lost answer says them once. open: placeholders that nobody has filled in.
function keepDraft(open = drafts.get(here.place)?.open ?? []) {
  drafts.set(here.place, { text: text.value, kind: form.elements.kind.value, id: random(), open: open.filter((one) => text.value.includes(one)) });
  keepDrafts();
}
text.addEventListener("input", () => {
  keepDraft();
  if (text.value) tellWriting(here);
});
form.addEventListener("change", () => keepDraft());

function keepDrafts() {
  try {
    sessionStorage.setItem(KEPT, JSON.stringify([me.account, ...drafts]));
  } catch {} // there is no room for them: they are kept as long as the page is
}

// What was written before a session expired, or the page was left to sign in again, comes back for the same account, and for no other one.
export function restoreDrafts() {
  const [account, ...kept] = JSON.parse(sessionStorage.getItem(KEPT) ?? "[]");
  drafts.clear();
  if (account !== me.account) return forgetDrafts();
  for (const [place, draft] of kept) drafts.set(place, draft);
}

// Puts a canned reply where the caret is; *typed*: the "/" that has asked for it, which it takes the place of.
function choose(typed = "") {
  const place = here;
  const [start, end] = [text.selectionStart, text.selectionEnd];
  const taken = (canned) => {
    if (place !== here) return;
    const filled = fill(canned, { name: place.called, id: place.id, agent: me.shown || me.account });
    text.setRangeText(filled.text, start, end, "end");
    const [first] = filled.open;
    text.focus();
    if (first) text.setSelectionRange(text.value.indexOf(first), text.value.indexOf(first) + first.length);
    keepDraft([...(drafts.get(place.place)?.open ?? []), ...filled.open]);
    if (first) complain(new Problem(0, { detail: `${first} is not known here: write what is meant before you send it.` }));
  };
  const back = () => {
    if (place !== here) return;
    text.focus();
    if (!typed) return;
    text.setRangeText(typed, start, end, "end");
    keepDraft();
  };
  pick(place.tenant, taken, back).catch(complain);
}

text.addEventListener("keydown", (event) => {
  if (event.key === "/" && !text.value && !event.ctrlKey && !event.metaKey && !event.altKey && !event.isComposing) {
    event.preventDefault();
    return choose("/");
  }
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  form.requestSubmit();
});
form.addEventListener("submit", (event) => {
  event.preventDefault();
  const draft = drafts.get(here.place);
  const pressed = form.querySelector(":scope > button");
  if (!draft?.text.trim() || pressed.disabled) return;
  const [open] = draft.open;
  if (open) return complain(new Problem(0, { detail: `${open} stands in it still: write what is meant, or take it out. Nothing was sent.` }));
  const note = form.elements.kind.value === "note";
  act(pressed, async ({ place, id, tenant }) => {
    if (note) await ask(`${at(id)}/notes`, { method: "POST", body: { text: draft.text, id: draft.id }, tenant });
    else await ask(`${at(id)}/operator`, { method: "POST", headers: { "if-match": "*" }, body: { content: draft.text, id: draft.id, paused: true }, tenant });
    if (drafts.get(place) !== draft) return; // somebody has typed on
    drafts.delete(place);
    keepDrafts();
    if (here?.place !== place) return;
    text.value = "";
    if (note) showInside(true);
  });
});

export function forgetDrafts() {
  drafts.clear();
  sessionStorage.removeItem(KEPT);
}
