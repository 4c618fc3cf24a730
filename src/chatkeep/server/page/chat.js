// The chat page: shows what the client tells, and hands on what people type. Everything is put in as text.

import { open } from "./client.js";

const element = (id) => document.getElementById(id);
const [room, log, form, text, empty, earlier, typing, choices, newest, notice, status] =
  "room log form text empty earlier typing choices newest notice status".split(" ").map(element);
const submit = form.querySelector("button");

const STATUS = {
  saved: "",
  sending: "Sending…",
  offline: "Offline. What you write is kept here and sent later.",
  restored: "Back online. Everything was sent.",
  failed: "",
};
const MARKS = { sending: "Sending", sent: "Sent", delivered: "Delivered" };

const address = new URL(location.href);
const chat = await open({ name: address.searchParams.get("c") ?? undefined });
address.searchParams.set("c", chat.name);
address.hash = "";
history.replaceState(null, "", address);

// -- the log ----------------------------------------------------------------------------------------------------------

const lines = new Map(); // message id -> its line
let following = true; // whether the newest message stays in view

function create(tag, className, words) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (words !== undefined) made.textContent = words;
  return made;
}

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

function show(message) {
  const line = lineOf(message);
  line.className = `${message.role} ${message.status}`;
  line.ariaBusy = String(message.status === "streaming"); // read aloud when it is complete
  line.replaceChildren(create("span", "unseen", message.role === "user" ? "You: " : message.role === "operator" ? "Agent: " : "Bot: "));
  line.append(create("span", "said", message.redacted ? "(removed)" : message.text || textOfParts(message.content)));
  const foot = create("small");
  if (message.created_at) foot.append(timeOf(message.created_at));
  if (message.role === "user") foot.append(...marksOf(message));
  line.append(foot);
  place(line, message);
}

const textOfParts = (content) =>
  Array.isArray(content) ? content.map((part) => `[${part.type ?? "attachment"}]`).join(" ") : "";

function timeOf(seconds) {
  const date = new Date(seconds * 1000);
  const today = date.toDateString() === new Date().toDateString();
  const time = create("time", "", date.toLocaleString([], { ...(today ? {} : { day: "numeric", month: "short" }), hour: "2-digit", minute: "2-digit" }));
  time.dateTime = date.toISOString();
  time.title = date.toLocaleString();
  return time;
}

function marksOf({ id, number, status: state, error }) {
  if (state !== "failed") {
    const mark = create("span", "mark");
    mark.append(create("span", "unseen", MARKS[state]));
    mark.title = MARKS[state];
    return [mark];
  }
  const retry = create("button", "retry", "Try again");
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
  notice.hidden = !problem;
  notice.firstElementChild.textContent = problem ? explain(problem) : "";
  soon();
}

function explain({ status: code, message }) {
  if (code === 401) return "This chat can no longer be opened here. What you see is what this browser has kept.";
  if (code === 404) return "This link was used already, or it has expired. Ask for a new one.";
  return message;
}

// -- suggested replies --------------------------------------------------------------------------------------------------

// The buttons of the last message: {"type": "buttons", "buttons": [...]}, or parts that are choices.
function offer() {
  const last = chat.messages.at(-1);
  const parts = last?.role === "assistant" && Array.isArray(last.content) ? last.content : [];
  const offered = parts.flatMap((part) => part.buttons ?? part.choices ?? (part.type === "choice" ? [part] : []));
  const words = offered.map((each) => (typeof each === "string" ? each : String(each.text ?? each.title ?? each.id)));
  if (choices.dataset.of === JSON.stringify([last?.id, words])) return;
  choices.dataset.of = JSON.stringify([last?.id, words]);
  const held = choices.contains(document.activeElement);
  choices.replaceChildren(
    ...words.map((word) => {
      const button = create("button", "quiet", word);
      button.type = "button";
      button.addEventListener("click", () => write(word));
      return button;
    }),
  );
  choices.hidden = words.length === 0;
  if (held && choices.hidden) text.focus();
}

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
  location.assign(`?c=${Array.from(crypto.getRandomValues(new Uint8Array(8)), (byte) => byte.toString(16).padStart(2, "0")).join("")}`);
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

addEventListener("hashchange", () => location.hash.includes("share=") && location.reload());

chat.messages.forEach(show);
tell();
settle();
document.body.dataset.ready = "yes";
