// The chat page: shows what the client tells, and hands on what people type. Everything is put in as text.

import { open, shareInAddress } from "./account.js";
import { draw, each, offersOf } from "./parts.js";
import { account, showPeople } from "./people.js";
import { create as made, visible } from "./shown.js";

const element = (id) => document.getElementById(id);
const [room, log, form, text, empty, earlier, typing, stop, choices, newest, notice, status, heard] =
  "room log form text empty earlier typing stop choices newest notice status heard".split(" ").map(element);
const submit = form.querySelector("button");

const STATUS = {
  saved: "",
  sending: "Sending…",
  offline: "Offline. What you write is kept here and sent later.",
  restored: "Back online. Everything was sent.",
  failed: "",
};
const MARKS = { sending: "Sending", sent: "Sent", delivered: "Delivered" };

const OFFERS = 50; // buttons that are shown
const LABEL = 100; // letters on a button
const ALOUD = 1500; // letters of a message that are read aloud

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

const create = (tag, className, words) => made(tag, className, words, { gentle: true });

const pictures = document.body.dataset.pictures.split(" ");
const loads = (url) => [location.origin, ...pictures].includes(new URL(url).origin);

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
    line.append(made("div", "said", "This message cannot be shown here."));
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

function said({ role, content, text: words, redacted }) {
  if (redacted) return create("div", "said", "(removed)");
  return draw(each(content).length || typeof content === "string" ? content : (words ?? ""), { markdown: role !== "user", gentle: true, loads });
}

function timeOf(seconds) {
  const date = new Date(seconds * 1000);
  const time = made("time", "", date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" }));
  time.dateTime = date.toISOString();
  time.title = date.toLocaleString();
  return time;
}

// -- a line above the first message of each day -------------------------------------------------------------------------

const isDay = (line) => line?.classList.contains("day");

function dayOf(line) {
  const { dateTime } = line.querySelector("time") ?? {};
  return (dateTime ? new Date(dateTime) : new Date()).setHours(0, 0, 0, 0);
}

function nameOf(day) {
  const days = Math.round((new Date().setHours(0, 0, 0, 0) - day) / 864e5);
  if (days === 0 || days === 1) return ["Today", "Yesterday"][days];
  const year = new Date(day).getFullYear() === new Date().getFullYear() ? {} : { year: "numeric" };
  return new Date(day).toLocaleDateString([], { weekday: "long", day: "numeric", month: "long", ...year });
}

function drawDays() {
  for (const line of [...log.children]) if (isDay(line) && (!line.nextSibling || isDay(line.nextSibling))) line.remove();
  const today = new Date().setHours(0, 0, 0, 0);
  let last = today; // a chat that began today needs no line for it
  for (const line of [...log.children].filter((one) => !isDay(one))) {
    const [day, above] = [dayOf(line), line.previousSibling];
    const there = isDay(above) ? above : null;
    if (day === last) there?.remove();
    else if (!there) line.before(made("li", "day", nameOf(day)));
    else if (there.textContent !== nameOf(day)) there.textContent = nameOf(day);
    last = day;
  }
}
document.addEventListener("visibilitychange", () => document.hidden || drawDays());

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
  let target = before ? lines.get(before.id).nextSibling : log.firstChild;
  while (isDay(target)) target = target.nextSibling;
  if (target === line) return;
  log.insertBefore(line, target);
  days = true;
}
let days = true; // whether the lines of the days are to be looked at

function settle() {
  if (days) drawDays();
  days = false;
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
  announce(message);
  soon();
});
chat.on("remove", (id) => {
  const line = lines.get(id);
  // The line of a streamed reply waits for the message that takes its place, which comes in the same breath.
  queueMicrotask(() => {
    if (lines.get(id) !== line || chat.messages.some((message) => message.id === id)) return;
    line.remove();
    lines.delete(id);
    days = true;
  });
  soon();
});
chat.on("typing", soon);
chat.on("status", tell);
chat.on("failing", tell);

function tell() {
  const problem = chat.status === "failed" ? chat.problem : null;
  status.dataset.status = chat.status;
  const said = STATUS[chat.status] || (chat.failing ? failed(chat.failing) : "");
  if (status.textContent !== said) status.textContent = said;
  notice.hidden = !problem && !broken;
  notice.firstElementChild.replaceChildren(...visible(problem ? explain(problem) : broken));
  soon();
}

function failed({ retry_at }) {
  const at = new Date(retry_at * 1000).toLocaleTimeString([], { timeStyle: "medium" });
  return `No answer yet: the bot failed, and tries again at ${at}. Your message is kept.`;
}

function explain({ status: code, message }) {
  if (code === 401) return "This chat can no longer be opened here. What you see is what this browser has kept.";
  if (code === 404) return "This link was used already, or it has expired. Ask for a new one.";
  return message;
}

// -- suggested replies --------------------------------------------------------------------------------------------------

function offer() {
  const last = chat.messages.at(-1);
  const groups = last?.role === "assistant" ? each(last.content).flatMap(offersOf) : [];
  if (choices.dataset.of === JSON.stringify([last?.id, groups])) return;
  choices.dataset.of = JSON.stringify([last?.id, groups]);
  const held = choices.contains(document.activeElement);
  let left = OFFERS;
  const made_of = ({ title, rows }) => {
    const some = rows.slice(0, left);
    left -= some.length;
    return [...(title && some.length ? [made("p", "title", shortened(title), { gentle: true })] : []), ...some.map(buttonOf)];
  };
  choices.replaceChildren(...groups.flatMap(made_of));
  choices.hidden = !choices.firstChild;
  if (held && choices.hidden) text.focus();
}

const shortened = (words) => (words.length > LABEL ? `${words.slice(0, LABEL).replace(/[\uD800-\uDBFF]$/, "")}…` : words);

// What is pressed is said: as its text or, if the bot knows it by another id, as channels tell of a button.
function buttonOf({ id, text: words, description }) {
  const button = made("button", "quiet", shortened(words), { gentle: true });
  button.type = "button";
  if (description) button.append(made("small", "", shortened(description), { gentle: true }));
  button.addEventListener("click", () => write(id && id !== words ? [{ type: "button", id, text: words }] : words));
  return button;
}

// What is said first, where the site suggests it.
for (const words of JSON.parse(document.body.dataset.starters || "[]")) element("starters").append(buttonOf({ text: words }));

// A reply is read aloud once, when it is complete; what was there before, or comes from further back, is not.
let last = Math.max(0, ...chat.messages.map(({ number = 0 }) => number));
function announce({ id, role, status: state, number = 0 }) {
  if (role === "user" || state !== "received" || number <= last) return;
  last = number;
  const [who, words] = [role === "operator" ? "Agent" : "Bot", lines.get(id).querySelector(".said").textContent];
  heard.append(create("p", "", `${who}: ${words.slice(0, ALOUD)}`));
  while (heard.children.length > 3) heard.firstChild.remove();
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

async function write(words) {
  following = true;
  try {
    await chat.send(words);
  } catch (fault) {
    if (typeof words === "string") text.value ||= words; // they are kept nowhere else
    drafted();
    complain(fault);
  }
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
  } else if (event.key === "PageUp" || event.key === "PageDown") {
    event.preventDefault();
    room.scrollBy({ top: (event.key === "PageUp" ? -0.9 : 0.9) * room.clientHeight });
  }
});

// What is half typed comes back after a refresh.
let drafts;
try {
  drafts = sessionStorage;
} catch {
  // a frame that may keep nothing
}
const draft = `chatkeep:draft:${location.pathname}:${chat.name}`;
function drafted() {
  submit.disabled = !text.value.trim();
  if (text.value) drafts?.setItem(draft, text.value);
  else drafts?.removeItem(draft);
}
text.addEventListener("input", drafted);
if (!text.value) text.value = drafts?.getItem(draft) ?? "";
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
if (document.body.dataset.frame) (await import("./frame.js")).live({ chat });
document.body.dataset.ready = "yes";
