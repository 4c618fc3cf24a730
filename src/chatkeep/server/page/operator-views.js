// Saved views: filters of the list under a name, kept for the account; in the head of the list, and in the palette.

import { offer, offerMore } from "./operator-acts.js";
import { ask, button, element, json, may, me, words } from "./operator-ask.js";
import { filterNow, onFilter, showFilter } from "./operator-list.js";
import { visible } from "./shown.js";

const PARTS = ["show", "whose", "text", "owner", "channel"];

const place = element("saved");
let views = [];

const told = (filter) => JSON.stringify(PARTS.map((part) => filter[part] ?? ""));
const current = () => views.find(({ filter }) => told(filter) === told(filterNow()));
const savable = () => may("operate") && me.role !== "key" && !current() && PARTS.some((part) => filterNow()[part]);

export async function loadViews() {
  forgetViews();
  if (may("operate") && me.role !== "key") await changed(async () => {});
}

export function forgetViews() {
  views = [];
  draw();
}

function draw() {
  const chosen = current();
  const focused = place.contains(document.activeElement) ? document.activeElement.textContent : null;
  place.replaceChildren(
    ...views.map((view) => {
      const made = button("", () => showFilter(view.filter), "quiet view");
      made.append(...visible(view.name));
      made.ariaPressed = String(view === chosen);
      return made;
    }),
    ...(chosen ? [of(chosen, "Rename", rename), of(chosen, "Delete", remove)] : []),
    ...(savable() ? [button("Save as a view…", save)] : []),
  );
  // Whoever has pressed one of them goes on from there.
  if (focused !== null) ([...place.children].find(({ textContent }) => textContent === focused) ?? place.lastChild)?.focus();
}

function of(view, verb, deed) {
  const made = button(verb, () => deed(view));
  made.ariaLabel = `${verb} the view ${view.name}`;
  return made;
}

onFilter(draw);

// Does it, and shows the views as they are then.
async function changed(deed) {
  const { proof } = me;
  try {
    await deed();
    const told = await json("desk/views");
    if (proof !== me.proof) return; // somebody else may have signed in
    ({ views } = told);
    draw();
  } catch (fault) {
    element("status").replaceChildren(...visible(words(fault)));
  }
}

const at = (name) => `desk/views/${encodeURIComponent(name)}`;

function save() {
  const name = prompt("What is this view called?")?.trim();
  if (!name) return;
  if (views.some((view) => view.name === name) && !confirm(`Replace the view ${name}?`)) return;
  const { everywhere, ...filter } = filterNow();
  changed(() => ask(at(name), { method: "PUT", body: { filter } }));
}

function rename({ name: was }) {
  const name = prompt("What is this view called from now on?", was)?.trim();
  if (name && name !== was) changed(() => ask(at(name), { method: "PUT", body: { was } }));
}

function remove({ name }) {
  if (confirm(`Delete the view ${name}?`)) changed(() => ask(at(name), { method: "DELETE" }));
}

offer("List", { "save-view": { words: "Save these filters as a view", when: savable, deed: save } });
offerMore(() => {
  const chosen = current();
  return [
    ...views.map((view) => ({ words: `View: ${view.name}`, group: "List", deed: () => showFilter(view.filter) })),
    ...(chosen ? [["Rename", rename], ["Delete", remove]] : []).map(([verb, deed]) => ({ words: `${verb} the view ${chosen.name}`, group: "List", deed: () => deed(chosen) })),
  ];
});
