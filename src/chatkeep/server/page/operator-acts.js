// The acts of the desk, in one table: its buttons, its keys, the command palette and the page of keys are all made of it.

import { button, element } from "./operator-ask.js";
import { create } from "./shown.js";

const MANY = 200; // acts that the palette shows at once
const GROUPS = ["Conversation", "Message", "List", "Desk"]; // in this order, where nothing was typed; behind them the others
const table = new Map(); // name -> {words, group, key, when, deed}
const sources = []; // functions that give further acts, which depend on what is shown

const [palette, wanted, options, found, keys, list] = "palette wanted options found keys keylist".split(" ").map(element);

// acts: name -> {words, key, when, deed, hidden}. words may be a function; when: whether it can be done now; a deed is given what was pressed.
export function offer(group, acts) {
  for (const [name, act] of Object.entries(acts)) table.set(name, { ...act, name, group, when: act.when ?? (() => true) });
}

// give: returns acts as {words, group, deed}, as far as they can be done now.
export function offerMore(give) {
  sources.push(give);
}

const wordsOf = ({ words }) => (typeof words === "function" ? words() : words);
export const can = (name) => table.get(name).when();

export function run(name, pressed) {
  const act = table.get(name);
  if (act.when()) act.deed(pressed);
}

export function actButton(name, className = "quiet") {
  const act = table.get(name);
  const made = button(wordsOf(act), (pressed) => run(name, pressed), className);
  made.dataset.act = name;
  if (act.key) made.title = `${wordsOf(act)} (${act.key})`;
  return made;
}

// A key that was pressed outside of all fields; tells whether it does something.
export function press(key) {
  const act = [...table.values()].find((one) => one.key === key && one.when());
  act?.deed();
  return Boolean(act);
}

// Buttons that stand in the page already.
export function bindButtons() {
  for (const made of document.querySelectorAll("button[data-act]")) {
    const { name, key } = table.get(made.dataset.act);
    made.addEventListener("click", () => run(name, made));
    if (key) made.title ||= `${made.ariaLabel || made.textContent} (${key})`;
  }
}

// -- the page of keys -------------------------------------------------------------------------------------------------

function showKeys() {
  const rows = [...table.values()].filter(({ key }) => key);
  list.replaceChildren(
    ...rows.flatMap((act) => {
      const term = create("dt");
      term.append(create("kbd", "", act.key));
      return [term, create("dd", "", wordsOf(act))];
    }),
  );
  keys.showModal();
}

// -- the palette ------------------------------------------------------------------------------------------------------

let shown = []; // the acts that are listed
let chosen = 0;
let only = null; // the acts that alone are listed
let loading = false; // they are still asked for
let hurried = false; // and the first one was chosen meanwhile
let cancelled = () => {};
let nothing = ""; // what is said where there are no such acts at all

export const isOpen = () => Boolean(document.querySelector("dialog[open]"));

// acts: those that alone are listed, or a promise of them.
export async function openPalette({ acts = null, label = "What do you want to do?", none = "", onCancel = () => {} } = {}) {
  only = acts instanceof Promise ? [] : acts;
  [loading, hurried] = [only !== acts, false];
  cancelled = onCancel;
  nothing = none;
  wanted.value = "";
  wanted.placeholder = palette.ariaLabel = wanted.ariaLabel = label;
  filter();
  if (!palette.open) palette.showModal();
  if (!loading) return;
  const waiting = only;
  const current = () => palette.open && only === waiting;
  try {
    const given = await acts;
    if (!current()) return;
    only = given;
    loading = false;
    filter();
    if (hurried) take(0);
  } finally {
    if (current()) palette.close();
  }
}

function listed() {
  const all = only ?? [...[...table.values()].filter((act) => !act.hidden && act.when()), ...sources.flatMap((give) => give())];
  const parts = wanted.value.toLocaleLowerCase().split(/\s+/).filter(Boolean);
  const scored = [];
  for (const act of all) {
    const text = `${wordsOf(act)} ${act.group} ${act.also ?? ""}`.toLocaleLowerCase();
    if (!parts.every((part) => text.includes(part))) continue;
    scored.push([parts.every((part) => new RegExp(`(^|[^\\p{L}])${part.replace(/[^\p{L}\p{N}]/gu, "\\$&")}`, "u").test(text)) ? 0 : 1, act]);
  }
  const rank = (act) => (only || parts.length ? 0 : GROUPS.indexOf(act.group) + (GROUPS.includes(act.group) ? 0 : GROUPS.length));
  return scored.sort((one, other) => one[0] - other[0] || rank(one[1]) - rank(other[1])).map(([, act]) => act);
}

function filter() {
  shown = listed().slice(0, MANY);
  options.replaceChildren(
    ...shown.map((act, index) => {
      const line = create("li");
      Object.assign(line, { id: `option-${index}`, role: "option" });
      line.append(create("bdi", "words", wordsOf(act)));
      if (act.also) line.append(create("span", "also", act.also));
      line.append(create("span", "faint", act.group));
      if (act.key) line.append(create("kbd", "", act.key));
      return line;
    }),
  );
  found.textContent = loading ? "Looking…" : shown.length ? `${shown.length} found` : (!only?.length && nothing) || "Nothing is called like that.";
  choose(0);
}

function choose(index) {
  chosen = shown.length ? (index + shown.length) % shown.length : 0;
  for (const [place, line] of [...options.children].entries()) line.ariaSelected = String(place === chosen);
  const line = options.children[chosen];
  if (line) wanted.setAttribute("aria-activedescendant", line.id);
  else wanted.removeAttribute("aria-activedescendant");
  line?.scrollIntoView({ block: "nearest" });
}

function take(index) {
  const act = shown[index];
  if (!act) return;
  cancelled = () => {};
  palette.close();
  if (act.when?.() ?? true) act.deed(); // it may have changed since it was listed
}

// What is listed is of what was shown: with that it goes.
export function closeDialogs() {
  for (const dialog of document.querySelectorAll("dialog")) dialog.close();
  options.replaceChildren();
}

wanted.addEventListener("input", filter);
wanted.addEventListener("keydown", (event) => {
  const to = { ArrowDown: chosen + 1, ArrowUp: chosen - 1, PageDown: Math.min(chosen + 8, shown.length - 1), PageUp: Math.max(chosen - 8, 0) }[event.key];
  if (event.isComposing || (to === undefined && event.key !== "Enter")) return;
  event.preventDefault();
  if (to === undefined && loading) hurried = true;
  else if (to === undefined) take(chosen);
  else choose(to);
});
options.addEventListener("click", (event) => take([...options.children].indexOf(event.target.closest("[role=option]"))));
palette.addEventListener("click", (event) => event.target === palette && palette.close()); // beside it
palette.addEventListener("close", () => cancelled());
addEventListener("hashchange", closeDialogs);

addEventListener("keydown", (event) => {
  if (!(event.ctrlKey || event.metaKey) || event.altKey || event.shiftKey || event.key.toLowerCase() !== "k" || !can("palette")) return;
  event.preventDefault();
  if (palette.open) palette.close();
  else if (!isOpen()) openPalette();
});

offer("Desk", {
  palette: { words: "Command palette", key: "Ctrl K", hidden: true, when: () => !element("desk").hidden, deed: () => openPalette() },
  keys: { words: "Keyboard shortcuts", key: "?", deed: showKeys },
});
