// Whose chats are on the page: the list, signing in and out, the devices, and notices as toasts.

import { openAccount } from "./account.js";
import { create, unlessPressed } from "./shown.js";

const element = (id) => document.getElementById(id);
const names = document.body.dataset.users.split(" ").filter(Boolean);
const NAMES = { retry: "Try again", discard: "Discard", restore: "Restore", "sign-in": "Sign in", "sign-out": "Sign out there" };
const TOASTS = 4;

export const account = await openAccount();

// The page opens without the server too, where it is asked to; and forgets that where it is not.
const workers = navigator.serviceWorker;
if (document.body.dataset.offline) workers?.register("offline.js").catch(console.warn);
else if (!document.body.dataset.frame) workers?.getRegistration("./").then((found) => found?.active?.scriptURL.endsWith("/offline.js") && found.update()).catch(console.warn);

function button(words, act, className = "quiet") {
  const made = create("button", className, words);
  made.type = "button";
  made.addEventListener("click", act);
  return made;
}

export function showPeople({ chat, own }) {
  showToasts();
  if (!names.length && account.user === null) return;
  element("chats").hidden = false;
  element("chats").addEventListener("click", () => turn(element("side").hidden));
  element("archived").addEventListener("change", () => drawList(chat, own));
  account.on("conversations", () => drawList(chat, own));
  drawList(chat, own);
  element("user").textContent = account.user === null ? "You are not signed in." : `Signed in as ${account.user}`;
  for (const [id, shown] of [["sign-in", account.user === null], ["sign-out", account.user !== null], ["devices-open", account.user !== null]]) element(id).hidden = !shown;
  const user = account.user;
  account.on("auth", (said) => said.user !== user && !signing && location.assign(location.pathname)); // in another tab, too
  account.on("sign-in", () => showSignIn(chat));
  element("sign-in").addEventListener("click", () => showSignIn(chat));
  element("sign-out").addEventListener("click", signOut);
  element("devices-open").addEventListener("click", showDevices);
  element("renaming-close").addEventListener("click", () => element("renaming").close());
  addEventListener("keydown", (event) => {
    if (event.key === "Escape" && element("side").contains(document.activeElement)) turn(false);
  });
  if (own) {
    const read = () => document.hidden || account.seen(chat.conversation, Math.max(0, ...chat.messages.map(({ number = 0 }) => number))).catch(() => {});
    chat.on("message", read);
    account.on("conversations", read);
    document.addEventListener("visibilitychange", read);
    read();
  }
}

function turn(open) {
  element("side").hidden = !open;
  element("chats").ariaExpanded = String(open);
  if (open) element("list").querySelector("a")?.focus();
  else element("chats").focus();
}

const drawn = new Map(); // id -> [what its line says, the line]
const touched = (line) => [...line.querySelectorAll("a, summary, button")];

const inList = unlessPressed(element("list"));
const drawList = (chat, own) => inList(() => drawNow(chat, own));

function drawNow(chat, own) {
  const shown = account.conversations.filter((one) => !one.archived || element("archived").checked);
  const held = document.activeElement?.closest?.("#list li");
  const at = held ? touched(held).indexOf(document.activeElement) : -1;
  const lines = shown.map((one) => {
    const current = own && one.id === chat.conversation;
    const says = JSON.stringify([one, current]);
    const [said, old] = drawn.get(one.id) ?? [];
    if (said === says) return old;
    const line = lineOf(one, current);
    line.querySelector("details").open = Boolean(old?.querySelector("details").open);
    drawn.set(one.id, [says, line]);
    return line;
  });
  const there = [...element("list").children];
  if (lines.length !== there.length || lines.some((line, n) => line !== there[n])) element("list").replaceChildren(...lines);
  if (held) touched(lines.find((line) => line.dataset.id === held.dataset.id) ?? held)[at]?.focus();
  element("none").hidden = shown.length > 0;
  const unseen = account.conversations.filter((one) => one.unseen && !one.archived).length;
  element("unseen").hidden = !unseen;
  element("unseen").textContent = unseen;
  element("chats").ariaLabel = unseen ? `Chats, ${unseen} with new messages` : "Chats";
}

function lineOf(one, current) {
  const line = create("li", `${one.pending ? "pending " : ""}${one.archived ? "archived" : ""}`);
  line.dataset.id = one.id;
  const link = create("a", "");
  link.href = `?id=${encodeURIComponent(one.id)}`;
  if (current) link.ariaCurrent = "page";
  link.append(create("strong", "", `${one.pinned ? "📌 " : ""}${one.title || one.last || "New chat"}`, { gentle: true }));
  if (one.unseen) link.append(create("span", "count", `${one.unseen} new`));
  if (one.last && one.title) link.append(create("small", "", one.last.slice(0, 80), { gentle: true }));
  const more = document.createElement("details");
  const acts = create("div", "acts");
  acts.append(
    button("Rename", () => rename(one)),
    button(one.pinned ? "Unpin" : "Pin", () => account.pin(one.id, !one.pinned)),
    button(one.archived ? "Unarchive" : "Archive", () => account.archive(one.id, !one.archived)),
    button("Delete", async () => {
      if (!confirm("Delete this chat on all of your devices?")) return;
      await account.delete(one.id);
      if (current) location.assign(location.pathname);
    }),
  );
  more.append(Object.assign(create("summary", "", "More"), { ariaLabel: `More for ${one.title || one.last || "this chat"}` }), acts);
  line.append(link, more);
  return line;
}

function rename(one) {
  const dialog = element("renaming");
  element("title").value = one.title;
  dialog.returnValue = "";
  dialog.addEventListener("close", () => dialog.returnValue === "rename" && account.rename(one.id, element("title").value.trim()), { once: true });
  dialog.showModal();
  element("title").select();
}

// -- signing in and out -----------------------------------------------------------------------------------------------

let signing = false; // in this tab, which goes to the chat itself then

function showSignIn(chat) {
  const told = element("signing-told");
  told.textContent = "";
  element("accounts").replaceChildren(
    ...names.map((name) =>
      button(name, async () => {
        try {
          const answer = await fetch(`sample-users/${encodeURIComponent(name)}`, { method: "POST" });
          if (!answer.ok) throw new Error((await answer.json()).detail);
          const begun = chat.conversation;
          signing = true;
          if (account.user === null) chat.close(); // it goes on as the account's
          await account.signIn({ token: await answer.json() });
          location.assign(begun && account.conversations.some((one) => one.id === begun) ? `?id=${encodeURIComponent(begun)}` : location.pathname);
        } catch (fault) {
          signing = false;
          told.textContent = `You are not signed in: ${fault.message}`;
        }
      }),
    ),
  );
  element("signing").showModal();
}

async function signOut() {
  const left = account.stats().chats.reduce((sum, { unsent }) => sum + unsent, 0);
  if (left && !confirm(`${left} of your messages are not sent yet. They are kept here, and sent when you sign in again. Sign out?`)) return;
  await account.signOut();
}

async function showDevices() {
  const [list, told] = [element("devices-list"), element("devices-told")];
  told.textContent = "";
  list.replaceChildren();
  if (!element("devices").open) element("devices").showModal();
  try {
    for (const { id, label, current, last_used_at, created_at } of await account.devices()) {
      const line = create("li", "", label || "A device", { gentle: true });
      line.append(create("small", "", current ? "This device" : `Last used ${new Date((last_used_at ?? created_at) * 1000).toLocaleString()}`));
      const end = async () => {
        try {
          await account.endDevice(id);
          await showDevices();
          told.textContent = "It is signed out.";
        } catch (fault) {
          told.textContent = `It is not signed out: ${fault.message}`;
        }
      };
      if (!current) line.append(button("Sign out", end));
      list.append(line);
    }
  } catch {
    told.textContent = "The server cannot be reached now. Try again later.";
  }
}

// -- notices as toasts: read aloud, in view for their time, for longer while somebody is at them ------------------------

function showToasts() {
  const toasts = new Map();
  account.on("notice", (notice) => {
    toasts.get(notice.id)?.();
    toasts.set(notice.id, showToast(notice, () => toasts.delete(notice.id)));
    while (toasts.size > TOASTS) toasts.values().next().value();
  });
  account.on("dismiss", (id) => toasts.get(id)?.());
  for (const notice of account.notices) toasts.set(notice.id, showToast(notice, () => toasts.delete(notice.id)));
}

function showToast(notice, gone) {
  const line = create("li", `toast ${notice.level}`);
  line.dataset.kind = notice.kind;
  line.setAttribute("role", notice.level === "error" ? "alert" : "status");
  let timer;
  const remove = () => {
    clearTimeout(timer);
    const held = line.contains(document.activeElement);
    line.remove();
    gone();
    if (held) element("text").focus();
  };
  const close = () => (remove(), account.dismiss(notice.id));
  const wait = () => {
    clearTimeout(timer);
    if (!notice.persistent) timer = setTimeout(() => (line.matches(":hover, :focus-within") ? wait() : remove()), notice.duration);
  };
  const act = (action) =>
    button(NAMES[action.name] ?? action.name, async () => {
      if (line.ariaBusy === "true") return;
      line.ariaBusy = "true"; // the button stays as it is: a disabled one loses the focus
      try {
        await action.run();
        remove();
      } catch (fault) {
        line.ariaBusy = "false";
        words.textContent = `That did not work: ${fault.message}`;
      }
    });
  const words = create("span", "", notice.text, { gentle: true });
  line.append(words, ...notice.actions.map(act), Object.assign(button("×", close, "quiet close"), { ariaLabel: "Dismiss" }));
  line.addEventListener("keydown", (event) => event.key === "Escape" && (event.stopPropagation(), close()));
  for (const left of ["pointerleave", "focusout"]) line.addEventListener(left, wait);
  element("toasts").append(line);
  wait();
  return remove;
}
