// The list of conversations: filters, search, pages. The newest page is asked for again every few seconds; what was opened below stays.

import { age, element, json, may, me, words } from "./operator-ask.js";
import { create, visible } from "./shown.js";

const REFRESH_MS = 5000;
const FURTHER = 20; // so many pages are looked through for one press, where few conversations are what is looked for
const WHO = { assistant: "Bot", operator: "Person", event: "Event" };
const SHOWS = { all: "All", waiting: "Waiting for a person", failing: "Failing", off: "Bot off", undelivered: "Undelivered", unread: "Unread" };

const [list, none, more, find, owner, channel, shows, status] = "list none more find owner channel shows status".split(" ").map(element);

const rows = new Map(); // where a conversation is -> its line
let show = "all";
let pages = 1;
let asked = 0; // the newest question; older answers are late
let current = "";
let costly = false; // the last answer took many pages: it is not asked for again unasked
let all = false; // the conversations of all tenants

export const placeOf = ({ tenant, id }) => (tenant === me.tenants[0] ? "" : `${encodeURIComponent(tenant)}/`) + encodeURIComponent(id);

for (const [name, label] of Object.entries(SHOWS)) {
  const made = create("label", "chip");
  const input = create("input");
  Object.assign(input, { type: "radio", name: "show", value: name, checked: name === show });
  made.append(input, label);
  shows.append(made);
}

export function choosePlace(place) {
  current = place;
  for (const [other, row] of rows) mark(row, other);
}

function mark(row, place) {
  if (place === current) row.firstChild.ariaCurrent = "true";
  else row.firstChild.removeAttribute("aria-current");
}

export function showEverywhere(on) {
  all = on;
  again();
}

export function again() {
  pages = 1;
  return refresh();
}

export function empty() {
  asked++;
  rows.clear();
  list.replaceChildren();
}

// j and k: the conversation after or before the one that is open.
export function step(by) {
  const links = [...list.querySelectorAll("a")];
  const here = links.findIndex((link) => link.ariaCurrent);
  const next = links[Math.min(Math.max(here + by, 0), links.length - 1)];
  if (!next) return;
  next.click();
  next.scrollIntoView({ block: "nearest" });
}

export async function refresh() {
  if (!me.proof) return;
  const mine = ++asked;
  const filter = { show, text: find.value.trim(), owner: owner.value.trim(), channel: channel.value };
  const query = new URLSearchParams(Object.entries(filter).filter(([, value]) => value));
  if (all) query.set("everywhere", "1");
  const found = [];
  let [next, looked, shown] = ["", 0, 0];
  try {
    for (let page = 0; page < FURTHER && shown < pages; page++) {
      if (next) query.set("next", next);
      const told = await json(`desk/conversations?${query}`);
      if (mine !== asked) return;
      found.push(...told.conversations);
      looked += told.looked_at;
      next = told.next ?? "";
      shown = found.length / 50;
      if (!next) break;
      if (page > 1) status.textContent = `Looked at ${looked.toLocaleString("en")} conversations…`;
    }
    costly = looked > 1000;
    showList(found);
    status.textContent = "";
    more.hidden = !next;
    more.textContent = shown < pages ? `Look further (${looked.toLocaleString("en")} looked at)` : "Show more";
    none.hidden = found.length > 0;
    none.textContent = Object.keys(filter).some((name) => name !== "show" && filter[name]) || show !== "all" ? "Nothing here fits." : "There is no conversation yet.";
  } catch (fault) {
    if (mine === asked && fault.status !== 401) status.replaceChildren(...visible(words(fault)), fault.final ? "" : " Trying again.");
  }
}

function showList(found) {
  const focused = document.activeElement;
  const gone = new Set(rows.keys());
  const placed = new Map(found.map((item) => [placeOf(item), item]));
  let index = 0;
  for (const [place, item] of placed) {
    gone.delete(place);
    if (!rows.has(place)) rows.set(place, create("li"));
    const row = rows.get(place);
    showRow(row, item, place);
    if (list.children[index] !== row) list.insertBefore(row, list.children[index] ?? null);
    index++;
  }
  for (const place of gone) {
    rows.get(place).remove();
    rows.delete(place);
  }
  if (focused !== document.activeElement && list.contains(focused)) focused.focus({ preventScroll: true });
}

function showRow(row, item, place) {
  const told = JSON.stringify(item) + Math.floor(Date.now() / 60_000);
  const link = row.firstChild ?? row.appendChild(create("a"));
  mark(row, place);
  if (row.told === told) return;
  row.told = told;
  link.href = `#${place}`;
  const name = item.title || item.name || item.owner || item.id;
  const head = create("span", "top");
  head.append(create("bdi", "id", name), age(item.last_at || item.updated_at));
  const said = create("span", "last");
  if (WHO[item.last_role]) said.append(create("b", "", `${WHO[item.last_role]}: `));
  said.append(create("bdi", "", item.last || (item.fault ? "" : "Nothing was said yet.")));
  const marks = create("span", "marks");
  const add = (kind, text) => marks.append(create("span", `mark ${kind}`, text));
  if (item.waiting) add(item.off_by ? "wait" : "", `${item.waiting} waiting`);
  if (item.waiting_since) marks.lastChild.append(" ", age(item.waiting_since));
  if (item.off_by) add("off", "bot off");
  if (item.dead) add("bad", `${item.dead} failed`);
  if (item.undelivered) add("bad", `${item.undelivered} undelivered`);
  if (item.fault) add("bad", item.fault);
  if (item.channel && !item.id.startsWith(`${item.channel}:`)) add("", item.channel);
  if (all) add("", item.tenant || "(default)");
  if (name !== item.id) marks.append(create("bdi", "faint", item.id));
  link.replaceChildren(head, said, marks);
}

let typed;
const soon = () => {
  clearTimeout(typed);
  typed = setTimeout(again, 250);
};
find.addEventListener("input", soon);
owner.addEventListener("input", soon);
channel.addEventListener("change", again);
shows.addEventListener("change", (event) => {
  show = event.target.value;
  again();
});
element("search").addEventListener("submit", (event) => {
  event.preventDefault();
  again();
});
more.addEventListener("click", () => {
  pages++;
  refresh();
});

export function allowSearch() {
  const allowed = may("reveal");
  find.disabled = owner.disabled = !allowed;
  find.placeholder = allowed ? "Search: id, name, words…  ( / )" : "Search takes a role that sees names";
}

setInterval(() => document.hidden || costly || refresh(), REFRESH_MS);
document.addEventListener("visibilitychange", () => document.hidden || costly || refresh());
