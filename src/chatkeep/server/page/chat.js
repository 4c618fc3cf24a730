// The chat page. The log on the server is the truth; what is written here is kept in this browser, and sent again under
// the same id, until the server has answered for it.

const POLL_MS = 1000;
const TIMEOUT_MS = 40_000;
const PAGE = 100;

const element = (id) => document.getElementById(id);
const [log, form, text, status, empty, earlier] = ["log", "form", "text", "status", "empty", "earlier"].map(element);
const room = document.querySelector("main");

const conversation = conversationHere();
const address = `/v1/conversations/${encodeURIComponent(conversation)}/messages`;
const shelf = `chatkeep:pending:${encodeURIComponent(conversation)}:`;
const shown = new Map(); // message id -> its line in the log

let first = Infinity; // number of the earliest message that is shown
let last = null; // every message up to this number is shown; null: nothing has been loaded
let sending = false;
let looking = null;

// -- which conversation -----------------------------------------------------------------------------------------------

function conversationHere() {
  const here = new URL(location.href);
  let id = here.searchParams.get("c");
  if (!id) {
    id = localStorage.getItem("chatkeep:conversation") ?? crypto.randomUUID();
    here.searchParams.set("c", id);
    history.replaceState(null, "", here);
  }
  localStorage.setItem("chatkeep:conversation", id);
  return id;
}

element("fresh").addEventListener("click", () => {
  location.search = new URLSearchParams({ c: crypto.randomUUID() });
});

// -- what is not with the server yet ----------------------------------------------------------------------------------

// One entry of localStorage for each message, so that two tabs on one conversation cannot overwrite each other's.
function pending() {
  const entries = Object.entries(localStorage).filter(([name]) => name.startsWith(shelf));
  return entries.map(([, value]) => JSON.parse(value)).sort((a, b) => a.at - b.at);
}

const keep = (message) => localStorage.setItem(shelf + message.id, JSON.stringify(message));
const done = (message) => localStorage.removeItem(shelf + message.id);

// -- talking to the server --------------------------------------------------------------------------------------------

class Problem extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
    this.final = status < 500 && ![408, 429].includes(status); // asking again is no use
  }
}

async function ask(url, options = {}) {
  const answer = await fetch(url, { ...options, cache: "no-store", signal: AbortSignal.timeout(TIMEOUT_MS) });
  if (answer.ok) return answer.json();
  const said = await answer.json().catch(() => ({}));
  throw new Problem(answer.status, said.detail ?? answer.statusText);
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// Sends what is pending, one after the other and in order, for as long as that takes.
async function send() {
  if (sending) return;
  sending = true;
  for (let next, failures = 0; (next = pending()[0]); ) {
    const { id, content } = next;
    const seen = last;
    try {
      const body = JSON.stringify({ id, content });
      const receipt = await ask(address, { method: "POST", headers: { "content-type": "application/json" }, body });
      done(next);
      if (seen !== null && receipt.number <= seen && !receipt.duplicate) location.reload(); // it was erased meanwhile
      note(shown.get(id), receipt.status === "failed" ? "The bot could not answer this; your message is kept." : "");
      failures = 0;
      await look();
    } catch (fault) {
      if (fault.final) {
        done(next);
        refuse(shown.get(id), fault.message);
      } else {
        tell(fault);
        failures += 1;
        await pause(Math.min(500 * failures, 3000));
      }
    }
  }
  sending = false;
}

// Shows what is new in the log. A look that is under way may have been too early, so another one follows it.
async function look() {
  await looking;
  looking = lookOnce().catch(tell);
  await looking;
}

async function lookOnce() {
  const { messages } = await ask(`${address}?limit=${PAGE}${last === null ? "" : `&after=${last}`}`);
  tell(null);
  if (last === null) earlier.hidden = messages.length < PAGE;
  show(messages);
  last = Math.max(last ?? 0, messages.at(-1)?.number ?? 0);
  if (messages.length === PAGE) await lookOnce();
}

async function lookEarlier() {
  const height = room.scrollHeight;
  const { messages } = await ask(`${address}?limit=${PAGE}&before=${first}`);
  show(messages, false);
  earlier.hidden = messages.length < PAGE;
  room.scrollTop += room.scrollHeight - height;
}

function tell(fault) {
  const waiting = "Waiting for the server. What you write is kept here and sent when it is back.";
  const said = !fault ? "" : fault instanceof Problem && fault.status !== 503 ? fault.message : waiting;
  if (status.textContent !== said) status.textContent = said;
}

// -- what people see --------------------------------------------------------------------------------------------------

const words = (content) =>
  typeof content === "string" ? content : content.map((part) => part.text ?? `[${part.type ?? "attachment"}]`).join("\n");

function show(messages, follow = true) {
  const atEnd = room.scrollHeight - room.scrollTop - room.clientHeight < 80;
  for (const message of messages) {
    const line = shown.get(message.id) ?? lineFor(message);
    line.dataset.number = message.number;
    line.classList.remove("waiting");
    line.title = new Date(message.created_at * 1000).toLocaleString();
    if (line.querySelector("small").textContent === "sending") note(line, "");
    place(line, message.number);
    first = Math.min(first, message.number);
  }
  empty.hidden = shown.size > 0;
  if (follow && atEnd && messages.length) room.scrollTop = room.scrollHeight;
}

// Log order; what has no number yet comes last.
function place(line, number) {
  let before = log.lastElementChild;
  while (before && (before === line || Number(before.dataset.number ?? Infinity) > number)) {
    before = before.previousElementSibling;
  }
  const target = before ? before.nextElementSibling : log.firstElementChild;
  if (target !== line) log.insertBefore(line, target);
}

function lineFor(message) {
  const line = document.createElement("li");
  const who = document.createElement("span");
  const said = document.createElement("span");
  line.className = message.role;
  who.className = "unseen";
  who.textContent = message.role === "user" ? "You: " : "Bot: ";
  said.textContent = words(message.content);
  line.append(who, said, document.createElement("small"));
  shown.set(message.id, line);
  return line;
}

function showPending(message) {
  if (shown.has(message.id)) return;
  const line = lineFor({ ...message, role: "user" });
  line.classList.add("waiting");
  note(line, "sending");
  log.append(line);
  empty.hidden = true;
  room.scrollTop = room.scrollHeight;
}

function refuse(line, why) {
  line?.classList.replace("waiting", "refused");
  note(line, `Not sent: ${why}`);
}

function note(line, words) {
  const small = line?.querySelector("small");
  if (!small) return;
  small.textContent = words;
  small.hidden = !words;
}

// -- what people do ---------------------------------------------------------------------------------------------------

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const content = text.value.trim();
  if (!content) return;
  const message = { id: crypto.randomUUID(), content, at: Math.max(Date.now(), (pending().at(-1)?.at ?? 0) + 1) };
  keep(message);
  showPending(message);
  text.value = "";
  text.focus();
  send();
});

text.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  form.requestSubmit();
});

earlier.addEventListener("click", () => lookEarlier().catch(tell));
addEventListener("online", look);

// -- life -------------------------------------------------------------------------------------------------------------

for (;;) {
  pending().forEach(showPending);
  await look();
  send(); // also what another tab, or this page before it was closed, has left
  await pause(POLL_MS);
}
