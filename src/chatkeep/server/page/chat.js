// The chat page: shows what the client tells, and hands on what people type. Everything is put in as text.

import { open, shareInAddress } from "./client.js";
import { account, showPeople } from "./people.js";
import { create as made, visible } from "./shown.js";

const element = (id) => document.getElementById(id);
const [room, log, form, text, empty, earlier, typing, stop, choices, newest, notice, status] =
  "room log form text empty earlier typing stop choices newest notice status".split(" ").map(element);
const submit = form.querySelector("button");

const STATUS = {
  saved: "",
  sending: "Sending…",
  offline: "Offline. What you write is kept here and sent later.",
  restored: "Back online. Everything was sent.",
  failed: "",
};
const MARKS = { sending: "Sending", sent: "Sent", delivered: "Delivered" };

const PARTS = 50; // parts of a message, and buttons, that are shown
const LABEL = 100; // letters on a button

// An error of the page itself is told, and stops nothing but what it happened in.
let broken = "";
function complain(fault) {
  console.error(fault);
  broken = `Something on this page does not work (${fault?.message ?? fault}). Reload it if the chat stands still.`;
  notice.hidden = false;
  notice.firstElementChild.replaceChildren(...visible(broken));
}
addEventListener("error", ({ error, message }) => complain(error ?? message));
addEventListener("unhandledrejection", ({ reason }) => complain(reason));

// Whoever follows a link is asked first: what they write in a shared chat others read.
function asks() {
  const dialog = element("asking");
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((answer) => dialog.addEventListener("close", () => answer(dialog.returnValue === "open"), { once: true }));
}

const share = shareInAddress();
const accepted = share !== undefined && (await asks());
const address = new URL(location.href);
// One's own chat has its id in the address; that of a visitor, or one that was shared, the name that this browser has for it.
const own = account.user !== null && !accepted && !address.searchParams.has("c");
const chat = own
  ? await account.chat(address.searchParams.get("id") ?? account.conversations.find((one) => !one.archived)?.id)
  : await open(accepted ? { share } : { name: address.searchParams.get("c") ?? undefined });
if (!own) account.watch(chat);
address.search = "";
address.searchParams.set(own ? "id" : "c", own ? chat.conversation : chat.name);
address.hash = "";
history.replaceState(null, "", address);
element("shared").hidden = !chat.shared;

// -- the log ----------------------------------------------------------------------------------------------------------

const lines = new Map(); // message id -> its line
let following = true; // whether the newest message stays in view

// Addresses in a text are links, to where they say: the name of a user before the host would say something else.
function link(text) {
  const nodes = [];
  let from = 0;
  for (const { 0: found, index } of text.matchAll(/https?:\/\/[^\s<>"'`]+/gi)) {
    const words = found.replace(/[.,;:!?)\]}*_]+$/, "");
    const to = target(words);
    if (!to) continue;
    nodes.push(text.slice(from, index), anchor(words, to));
    from = index + words.length;
  }
  return [...nodes, text.slice(from)];
}

function target(address) {
  const url = typeof address === "string" && URL.canParse(address) && new URL(address);
  return url && ["http:", "https:"].includes(url.protocol) && !url.username && !url.password ? url.href : "";
}

function anchor(words, to) {
  const found = create("a", "");
  found.append(...visible(words));
  Object.assign(found, { href: to, target: "_blank", rel: "noopener noreferrer nofollow" });
  return found;
}

const create = (tag, className, words) => made(tag, className, words, { gentle: true, link });

// A reply that was streamed goes on in the line in which it was made.
function lineOf(message) {
  const made = [...lines].find(([id]) => id.startsWith("piece:"));
  if (made && message.status === "received" && message.reply_to !== undefined) {
    lines.delete(made[0]);
    lines.set(message.id, made[1]);
  }
  if (!lines.has(message.id)) lines.set(message.id, create("li"));
  return lines.get(message.id);
}

// What cannot be shown is told in its place: it must not keep the others from being shown.
function show(message) {
  const line = lineOf(message);
  line.className = `${message.role} ${message.status}`;
  line.ariaBusy = String(message.status === "streaming"); // read aloud when it is complete
  line.replaceChildren(made("span", "unseen", message.role === "user" ? "You: " : message.role === "operator" ? "Agent: " : "Bot: "));
  try {
    line.append(said(message), footOf(message));
  } catch (fault) {
    console.error(fault);
    line.append(made("span", "said", "This message cannot be shown here."));
  }
  place(line, message);
}

function footOf(message) {
  const foot = document.createElement("small");
  const at = message.metadata?.written_at ?? message.created_at; // without a line it was written earlier than it arrived
  if (Number.isFinite(at)) foot.append(timeOf(at));
  if (message.role === "user") foot.append(...marksOf(message));
  if (isBehind(message)) foot.append(...takesBack(message));
  if (message.metadata?.stopped) foot.append(create("span", "why", "Stopped"));
  if (message.metadata?.interrupted) foot.append(create("span", "why", "Interrupted"));
  return foot;
}

function said({ content, text: words, redacted }) {
  if (redacted) return create("span", "said", "(removed)");
  if (typeof content === "string") return create("span", "said", content);
  const whole = made("span", "said");
  const parts = Array.isArray(content) ? content : [];
  for (const part of parts.slice(0, PARTS)) whole.append(partOf(part));
  if (parts.length > PARTS) whole.append(made("span", "part faint", `and ${parts.length - PARTS} more`));
  if (!parts.length) whole.append(...visible(words ?? ""));
  return whole;
}

const FILES = ["image", "video", "audio", "voice", "document", "file", "sticker", "animation"];
const plain = (value) => (["string", "number"].includes(typeof value) ? String(value) : "");
const each = (value) => (Array.isArray(value) ? value : []);

// One part: its text, and what can be followed. Nothing is loaded from elsewhere, so that nobody learns who reads here.
function partOf(given) {
  const part = given && typeof given === "object" && !Array.isArray(given) ? given : {};
  const type = plain(part.type) || "attachment";
  const shown = made("span", "part");
  const text = plain(part.text);
  const url = target(part.url);
  const names = [part.title, part.name, part.address].map(plain).filter(Boolean).join(", ");
  if (type === "location" && Number.isFinite(part.latitude) && Number.isFinite(part.longitude)) {
    const to = `https://www.openstreetmap.org/?mlat=${part.latitude}&mlon=${part.longitude}`;
    shown.append(anchor(names || `${part.latitude}, ${part.longitude}`, to));
  } else if (FILES.includes(type) || url) {
    const label = names || plain(part.filename) || (type === "link" ? plain(part.url) : `${type[0].toUpperCase()}${type.slice(1)}`);
    if (type === "image" && url && new URL(url).origin === location.origin) {
      const image = Object.assign(document.createElement("img"), { src: url, alt: plain(part.alt) || label, loading: "lazy" });
      image.addEventListener("error", () => image.replaceWith(anchor(label, url)), { once: true });
      image.addEventListener("load", soon);
      shown.append(image);
    } else shown.append(url ? anchor(label, url) : made("span", "faint", `[${label}]`));
    if (text) shown.append(create("span", "part", text));
  } else if (type === "contact") shown.append(create("span", "", [names, ...each(part.phones).map(plain)].filter(Boolean).join(", ")));
  else if (text) shown.append(...create("span", "", text).childNodes);
  else if (!choicesOf(part).length) shown.append(made("span", "faint", `[${names ? `${type}: ${names}` : type}]`));
  return shown;
}

function timeOf(seconds) {
  const date = new Date(seconds * 1000);
  const today = date.toDateString() === new Date().toDateString();
  const time = made("time", "", date.toLocaleString([], { ...(today ? {} : { day: "numeric", month: "short" }), hour: "2-digit", minute: "2-digit" }));
  time.dateTime = date.toISOString();
  time.title = date.toLocaleString();
  return time;
}

// A message behind another one that waits has not had its turn: it can be taken back, or said anew.
function isBehind({ id, role, status: state, number }) {
  const waits = (one) => one.role === "user" && one.status === "sent" && one.number;
  return waits({ role, status: state, number }) && chat.messages.some((one) => waits(one) && one.id !== id && one.number < number);
}

function takesBack(message) {
  return [["Edit", "edit"], ["Withdraw", "withdraw"]].map(([label, act]) => {
    const button = made("button", "retry", label);
    button.type = "button";
    button.addEventListener("click", async () => {
      try {
        await chat.withdraw(message.number);
        if (act !== "edit") return;
        text.value = message.text;
        drafted();
        text.focus();
      } catch (fault) {
        if (fault.status !== 409) throw fault; // it is being answered by now
        button.parentNode?.querySelectorAll("button").forEach((one) => one.remove());
      }
    });
    return button;
  });
}

function marksOf({ id, number, status: state, error }) {
  if (state !== "failed") {
    const mark = made("span", "mark");
    mark.append(made("span", "unseen", MARKS[state]));
    mark.title = MARKS[state];
    return [mark];
  }
  const retry = made("button", "retry", "Try again");
  retry.type = "button";
  retry.addEventListener("click", () => (retry.remove(), chat.retry(id)));
  return [create("span", "why", number ? error : `Not sent: ${error}`), retry];
}

// The order is the client's; nearly always the line belongs at the end, or is there already.
function place(line, message) {
  const at = chat.messages.findLastIndex(({ id }) => id === message.id);
  const before = chat.messages.slice(0, Math.max(at, 0)).findLast(({ id }) => lines.get(id)?.parentNode);
  const target = before ? lines.get(before.id).nextSibling : log.firstChild;
  if (target !== line) log.insertBefore(line, target);
}

function settle() {
  empty.hidden = chat.messages.length > 0;
  earlier.hidden = !chat.more;
  typing.hidden = !chat.typing || chat.status === "offline" || chat.messages.some((message) => message.status === "streaming");
  const held = stop === document.activeElement;
  stop.hidden = !chat.typing || chat.status === "offline";
  if (held && stop.hidden) text.focus();
  offer();
  if (following) room.scrollTop = room.scrollHeight;
  newest.hidden = following || !newest.dataset.unseen;
}

let settling = false;
function soon() {
  if (settling) return;
  settling = true;
  queueMicrotask(() => ((settling = false), settle()));
}

chat.on("message", (message) => {
  if (!following && message.role !== "user" && !lines.has(message.id)) newest.dataset.unseen = "yes";
  show(message);
  soon();
});
chat.on("remove", (id) => {
  const line = lines.get(id);
  // The line of a streamed reply waits for the message that takes its place, which comes in the same breath.
  queueMicrotask(() => {
    if (lines.get(id) !== line || chat.messages.some((message) => message.id === id)) return;
    line.remove();
    lines.delete(id);
  });
  soon();
});
chat.on("typing", soon);
chat.on("status", tell);

function tell() {
  const problem = chat.status === "failed" ? chat.problem : null;
  status.dataset.status = chat.status;
  const said = STATUS[chat.status];
  if (status.textContent !== said) status.textContent = said;
  notice.hidden = !problem && !broken;
  notice.firstElementChild.replaceChildren(...visible(problem ? explain(problem) : broken));
  soon();
}

function explain({ status: code, message }) {
  if (code === 401) return "This chat can no longer be opened here. What you see is what this browser has kept.";
  if (code === 404) return "This link was used already, or it has expired. Ask for a new one.";
  return message;
}

// -- suggested replies --------------------------------------------------------------------------------------------------

// What a part offers: {"type": "buttons", "buttons": [...]}, choices, the rows of a list, or a part that is a choice itself.
function choicesOf(part) {
  const offered = [...each(part?.buttons), ...each(part?.choices), ...each(part?.sections).flatMap((one) => each(one?.rows)), ...(part?.type === "choice" ? [part] : [])];
  return offered.map((one) => plain(one) || [one?.text, one?.title, one?.id].map(plain).find((words) => words.trim()) || "").filter(Boolean);
}

function offer() {
  const last = chat.messages.at(-1);
  const words = last?.role === "assistant" ? each(last.content).flatMap(choicesOf).slice(0, PARTS) : [];
  if (choices.dataset.of === JSON.stringify([last?.id, words])) return;
  choices.dataset.of = JSON.stringify([last?.id, words]);
  const held = choices.contains(document.activeElement);
  choices.replaceChildren(
    ...words.map((word) => {
      const label = word.length > LABEL ? `${word.slice(0, LABEL).replace(/[\uD800-\uDBFF]$/, "")}…` : word;
      const button = made("button", "quiet", label, { gentle: true });
      button.type = "button";
      button.addEventListener("click", () => write(word));
      return button;
    }),
  );
  choices.hidden = words.length === 0;
  if (held && choices.hidden) text.focus();
}

// What was said stays; the answer of the server says how much that is, and so does the log.
stop.addEventListener("click", async () => {
  stop.disabled = true;
  try {
    await chat.stop();
  } catch (fault) {
    complain(fault);
  } finally {
    stop.disabled = false;
  }
});

// -- what people do -----------------------------------------------------------------------------------------------------

function write(words) {
  following = true;
  chat.send(words);
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const words = text.value.trim();
  if (!words) return;
  text.value = "";
  drafted();
  text.focus();
  write(words);
});

text.addEventListener("keydown", (event) => {
  if (event.isComposing) return;
  if (event.key === "Enter" && !event.shiftKey) {
    event.preventDefault();
    form.requestSubmit();
  } else if (event.key === "Escape") {
    text.value = "";
    drafted();
  }
});

// What is half typed comes back after a refresh.
const draft = `chatkeep:draft:${location.pathname}:${chat.name}`;
function drafted() {
  submit.disabled = !text.value.trim();
  if (text.value) sessionStorage.setItem(draft, text.value);
  else sessionStorage.removeItem(draft);
}
text.addEventListener("input", drafted);
if (!text.value) text.value = sessionStorage.getItem(draft) ?? "";
drafted();

earlier.addEventListener("click", async () => {
  following = false;
  const height = room.scrollHeight - room.scrollTop;
  earlier.disabled = true;
  await chat.earlier().catch(() => {});
  earlier.disabled = false;
  settle();
  room.scrollTop = room.scrollHeight - height;
});

room.addEventListener("scroll", () => {
  following = room.scrollHeight - room.scrollTop - room.clientHeight < 80;
  if (following) {
    delete newest.dataset.unseen;
    newest.hidden = true;
  }
});

newest.addEventListener("click", () => {
  following = true;
  settle();
  text.focus();
});

new ResizeObserver(() => following && (room.scrollTop = room.scrollHeight)).observe(room);

function begin() {
  location.assign(`?${account.user === null ? "c" : "id"}=${Array.from(crypto.getRandomValues(new Uint8Array(8)), (byte) => byte.toString(16).padStart(2, "0")).join("")}`);
}
element("fresh").addEventListener("click", begin);
notice.lastElementChild.addEventListener("click", begin);

element("share").addEventListener("click", async () => {
  const [dialog, link, copied] = ["sharing", "link", "copied"].map(element);
  link.value = copied.textContent = "";
  dialog.showModal();
  try {
    link.value = await chat.share();
    link.select();
  } catch (fault) {
    copied.textContent = fault.status || chat.conversation === undefined ? fault.message : "The server cannot be reached now. Try again later.";
  }
  element("copy").disabled = !link.value;
});
element("copy").addEventListener("click", async () => {
  const link = element("link");
  link.select();
  await navigator.clipboard.writeText(link.value).catch(() => document.execCommand("copy"));
  element("copied").textContent = "Copied.";
});

showPeople({ chat, own });

addEventListener("hashchange", () => location.hash.includes("share=") && location.reload());

chat.messages.forEach(show);
tell();
settle();
document.body.dataset.ready = "yes";
