// The list of conversations: filters, search, pages. The newest page is asked for again every few seconds; what was opened below stays.

import { offer, offerMore } from "./operator-acts.js";
import { age, calledOf, colleagues, element, isHandle, json, may, me, nameOf, words } from "./operator-ask.js";
import { onPresence, othersAt } from "./operator-here.js";
import { spansOf } from "./markdown.js";
import { create, unlessPressed, visible } from "./shown.js";

const REFRESH_MS = 5000;
const SHARE = 20; // a list is asked for again after so many times as long as it has taken: few conversations may be what is looked for
const BEFORE = 16; // characters before what was searched for: more would push it out of a line
const FURTHER = 20; // so many pages are looked through for one press, where few conversations are what is looked for
const WHO = { assistant: "Bot", operator: "Person", event: "Event" };
const SHOWS = { all: "All", waiting: "Waiting for a person", failing: "Failing", off: "Bot off", undelivered: "Undelivered", unread: "Unread" };
const MEANT = {
  waiting: "The bot is off, somebody has written, and no person has answered since",
  failing: "Messages that the bot failed on, or a log that cannot be read",
  undelivered: "Replies that the channel has refused, or of which nobody knows",
  unread: "Somebody has written, and neither the bot nor a person has answered since",
};

const WHOSE = { all: "Everybody's", mine: "Mine", nobody: "Nobody's" };

const [list, none, more, find, owner, channel, shows, status, whoses] = "list none more find owner channel shows status whoses".split(" ").map(element);

const inList = unlessPressed(list);
const rows = new Map(); // where a conversation is -> its line
let show = "all";
let whose = "all";
let pages = 1;
let asked = 0; // the newest question; older answers are late
let current = "";
let due = 0; // when the list is asked for again, unasked
let all = false; // the conversations of all tenants

export const placeOf = ({ tenant, id }) => (tenant === me.tenants[0] ? "" : `${encodeURIComponent(tenant)}/`) + encodeURIComponent(id);

function chips(place, group, labels, choose) {
  for (const [value, label] of Object.entries(labels)) {
    const made = create("label", "chip");
    const input = create("input");
    Object.assign(input, { type: "radio", name: group, value, checked: value === "all" });
    if (MEANT[value]) made.title = MEANT[value];
    made.append(input, label);
    place.append(made);
  }
  place.addEventListener("change", (event) => choose(event.target.value));
  return (value) => {
    place.querySelector(`[value="${value}"]`).checked = true;
    choose(value);
  };
}

const pickShow = chips(shows, "show", SHOWS, (value) => {
  show = value;
  again();
});
const pickWhose = chips(whoses, "whose", WHOSE, (value) => {
  whose = value;
  again();
});

const entries = (labels, start, pick, when) => Object.fromEntries(Object.entries(labels).map(([value, label]) => [`${start}-${value}`, { words: `Show: ${label}`, when, deed: () => (toList(), pick(value)) }]));
offer("List", {
  next: { words: "Next conversation", key: "j", deed: () => step(1) },
  previous: { words: "Previous conversation", key: "k", deed: () => step(-1) },
  search: { words: "Search", key: "/", when: () => may("reveal"), deed: () => toSearch() },
  ...entries(SHOWS, "show", pickShow),
  ...entries(WHOSE, "whose", pickWhose, () => may("operate")),
});
offerMore(() => [...rows].map(([place, row]) => ({ words: `Open ${row.called}`, group: "List", also: row.said, deed: () => (location.hash = place) })));

function toList() {
  if (location.hash.startsWith("#/")) location.hash = "";
}

function toSearch() {
  toList();
  setTimeout(() => find.focus());
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

// What the filters say, without those that let everything pass.
export function filterNow() {
  const filter = { show, whose, text: find.value.trim(), owner: owner.value.trim(), channel: channel.value };
  return { ...Object.fromEntries(Object.entries(filter).filter(([, value]) => value && value !== "all")), ...(all && { everywhere: 1 }) };
}

export const queryOf = (filter) => new URLSearchParams(Object.entries(filter).filter(([, value]) => value));

export const inWords = ({ show: shown = "all", whose: theirs = "all", channel: by, owner: of, text, everywhere }) =>
  [SHOWS[shown], WHOSE[theirs], by, of && `owner ${of}`, text && `“${text}”`, everywhere && "all tenants"].filter(Boolean).join(" · ");

let tell = () => {};
export function onFilter(told) {
  tell = told;
}

export function showFilter(filter) {
  toList();
  [find.value, owner.value, channel.value] = [filter.text ?? "", filter.owner ?? "", filter.channel ?? ""];
  pickWhose(filter.whose ?? "all");
  pickShow(filter.show ?? "all");
}

export function again() {
  tell();
  pages = 1;
  return refresh();
}

// Whoever signs in next begins with everything: a filter that another person has set might not even be shown to them.
export function empty() {
  clearTimeout(typed);
  find.value = owner.value = channel.value = "";
  all = false;
  for (const pick of [pickShow, pickWhose]) pick("all");
  asked++;
  inList(() => {
    rows.clear();
    list.replaceChildren();
  });
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
  const began = performance.now();
  due = Infinity;
  const query = queryOf(filterNow());
  const found = [];
  let [next, looked, shown] = ["", 0, 0];
  let [index, said] = [undefined, false];
  try {
    for (let page = 0; page < FURTHER && shown < pages; page++) {
      if (next) query.set("next", next);
      const told = await json(`desk/conversations?${query}`);
      if (mine !== asked) return;
      found.push(...told.conversations);
      looked += told.looked_at;
      next = told.next ?? "";
      shown = found.length / 50;
      [index, said] = [told.index, told.all_said];
      if (!next || (said && found.length && pages === 1)) break;
      if (page > 1) status.textContent = `Looked at ${looked.toLocaleString("en")} conversations…`;
    }
    const reached = more === document.activeElement && list.children.length;
    inList(() => showList(found));
    status.textContent = indexNote(index, next && shown < pages);
    more.hidden = !next;
    if (reached && more.hidden) (list.children[reached] ?? list.lastChild)?.firstChild.focus();
    more.textContent = said ? `Look for it in ids, owners and titles${looked ? ` (${looked.toLocaleString("en")} looked at)` : ""}` : shown < pages ? `Look further (${looked.toLocaleString("en")} looked at)` : "Show more";
    none.hidden = found.length > 0;
    none.textContent = whose !== "all" && show === "all" ? (whose === "mine" ? "Nothing is assigned to you." : "Everything is assigned.") : query.size ? "Nothing here fits." : "There is no conversation yet.";
  } catch (fault) {
    if (mine === asked && fault.status !== 401) status.replaceChildren(...visible(words(fault)), fault.final ? "" : " Trying again.");
  }
  if (mine === asked) due = performance.now() + Math.max(REFRESH_MS, SHARE * (performance.now() - began));
}

// The focus stays on its conversation wherever that moves, and goes to the one in its place where it is not listed any more.
function showList(found) {
  const focused = document.activeElement;
  const place = [...list.children].findIndex((row) => row.contains(focused));
  const gone = new Set(rows.keys());
  const placed = new Map(found.map((item) => [placeOf(item), item]));
  let index = 0;
  for (const [name, item] of placed) {
    gone.delete(name);
    if (!rows.has(name)) rows.set(name, create("li"));
    const row = rows.get(name);
    showRow(row, item, name);
    if (list.children[index] !== row) list.insertBefore(row, list.children[index] ?? null);
    index++;
  }
  for (const name of gone) {
    rows.get(name).remove();
    rows.delete(name);
  }
  if (focused === document.activeElement || place < 0) return;
  const next = list.contains(focused) ? focused : list.children[Math.min(place, list.children.length - 1)]?.firstChild;
  (next ?? find).focus({ preventScroll: list.contains(focused) });
}

// The last words without the marks of Markdown, which is drawn in what bots and people say.
function plain({ last, last_role: role }) {
  const text = (spans) => spans.map((span) => (typeof span === "string" ? span : (span.text ?? text(span.spans)))).join("");
  return role === "user" ? last : text(spansOf(last ?? ""));
}

// How complete the answer of the full-text index is, where it is not, or that there is none and little of the list fits.
function indexNote(index, partly) {
  if (!index) return partly ? "There is no full-text index: the list, and the ends of logs, are looked through from what was changed last." : "";
  if (index?.left) return `The full-text index is being made: ${Math.floor((100 * (index.total - index.left)) / index.total)} % of the conversations are in it. Until then the ends of logs are searched.`;
  return index?.waiting ? `${index.waiting.toLocaleString("en")} of the newest messages are not searched yet.` : "";
}

// Case and accents are alike.
const fold = (text) => text.normalize("NFKD").replace(/[\u0300-\u036f]/g, "").toLowerCase();

// Where in the words stands what was searched for, as a whole, or else each of its words once: from and to, in order.
function placesOf(words, wanted) {
  let folded = "";
  const from = []; // where each folded character comes from
  let at = 0;
  for (const one of words) {
    const piece = fold(one);
    folded += piece;
    for (const _ of piece.split("")) from.push(at);
    at += one.length;
  }
  from.push(at);
  const spanOf = (text) => [folded.indexOf(text), text.length];
  const whole = fold(wanted);
  const spans = whole && folded.includes(whole) ? [spanOf(whole)] : whole.split(/[^\p{L}\p{N}\p{M}]+/u).filter((word) => word && folded.includes(word)).map(spanOf);
  const found = [];
  for (const [first, length] of spans.sort(([a], [b]) => a - b)) {
    if (from[first] >= (found.at(-1)?.[1] ?? 0)) found.push([from[first], from[first + length]]);
  }
  return found;
}

// The words, from shortly before what was searched for, which stands out.
function excerpt(words, wanted) {
  const made = create("bdi");
  let end = 0;
  for (const [first, last] of placesOf(words, wanted)) {
    const before = [...words.slice(end, first)]; // characters, not halves of them
    made.append(...visible(!end && before.length > BEFORE ? `…${before.slice(-BEFORE).join("")}` : before.join("")), create("mark", "", words.slice(first, last)));
    end = last;
  }
  made.append(...visible(words.slice(end)));
  return made;
}

function showRow(row, item, place) {
  const wanted = find.value.trim();
  const here = othersAt(item.tenant, item.id);
  const told = JSON.stringify([item, wanted, here, Math.floor(Date.now() / 60_000)]);
  row.item = item;
  const link = row.firstChild ?? row.appendChild(create("a"));
  mark(row, place);
  if (row.told === told) return;
  row.told = told;
  link.href = `#${place}`;
  const name = calledOf(item.id, item.title, item.name, item.owner);
  [row.called, row.said] = [name, name === item.id ? "" : item.id];
  const head = create("span", "top");
  head.append(create("bdi", "id", name), age(item.last_at || item.updated_at));
  const said = create("span", "last");
  if (!item.found && WHO[item.last_role]) said.append(create("b", "", `${WHO[item.last_role]}: `));
  said.append(excerpt(item.found || plain(item) || (item.fault ? "" : "Nothing was said yet."), wanted));
  const marks = create("span", "marks");
  const add = (kind, text) => marks.append(create("span", `mark ${kind}`, text));
  if (item.waiting) add(item.off_by ? "wait" : "", `${item.waiting} waiting`);
  if (item.waiting_since) marks.lastChild.append(" ", age(item.waiting_since));
  if (item.off_by) add("off", "bot off");
  if (item.assignee) add(item.assignee === me.account ? "mine" : "", nameOf(item.assignee, item.tenant));
  if (here) add("here", here);
  if (item.dead) add("bad", `${item.dead} failed`);
  if (item.undelivered) add("bad", `${item.undelivered} undelivered`);
  if (item.fault) add("bad", item.fault);
  if (item.channel && !item.id.startsWith(`${item.channel}:`)) add("", item.channel);
  if (all) add("", item.tenant || "(default)");
  if (name !== item.id && !isHandle(item.id)) marks.append(create("bdi", "faint", item.id));
  link.replaceChildren(head, said, marks);
}

onPresence(() => inList(() => rows.forEach((row, place) => showRow(row, row.item, place))));

let typed;
const soon = () => {
  clearTimeout(typed);
  typed = setTimeout(again, 250);
};
find.addEventListener("input", soon);
owner.addEventListener("input", soon);
channel.addEventListener("change", again);
element("search").addEventListener("submit", (event) => {
  event.preventDefault();
  again();
});
more.addEventListener("click", () => {
  pages++;
  refresh();
});

export function allowSearch() {
  whoses.hidden = element("kept").hidden = !may("operate");
  const allowed = may("reveal");
  find.disabled = owner.disabled = !allowed;
  colleagues(me.tenant).catch(() => {}); // without them the accounts' names are shown
  find.placeholder = allowed ? "Search: id, name, words…  ( / )" : "Search takes a role that sees names";
}

const keepLive = () => document.hidden || performance.now() < due || refresh();
setInterval(keepLive, 1000);
document.addEventListener("visibilitychange", keepLive);
