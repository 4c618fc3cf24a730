// Canned replies: chosen in the composer, with their placeholders filled in; and the page where they are kept.

import { openPalette } from "./operator-acts.js";
import { ask, button, json, me, random, say, timeOf, words } from "./operator-ask.js";
import { create } from "./shown.js";

const KEPT_MS = 60_000;
const VALUE_MOST = 80; // characters of what is filled in
const NAMES = { name: "the customer's name", id: "the conversation's id", agent: "your own name" };
const PLACEHOLDER = /\{(name|id|agent)(?:\|([^{}]*))?\}/g;

const known = new Map(); // tenant -> {at, replies}

export async function cannedOf(tenant, fresh) {
  const { at = 0, replies } = known.get(tenant) ?? {};
  if (!fresh && replies && performance.now() - at < KEPT_MS) return replies;
  const told = await json("desk/replies", { tenant });
  known.set(tenant, { at: performance.now(), replies: told.replies });
  return told.replies;
}

export const forgetCanned = () => known.clear();

// A value on one line, without what is unseen: a name of a customer's own making must not turn the reply around, or break it.
function plain(value) {
  const seen = String(value ?? "").replace(/[\p{Cc}\p{Zl}\p{Zp}]+/gu, " ").replace(/(?!\u200c|\u200d)[\p{Cf}\p{Cs}\p{DI}]/gu, "");
  return Array.from(seen.replace(/\s+/g, " ").trim()).slice(0, VALUE_MOST).join("");
}

// The text with its placeholders filled in, each once: what is filled in is not looked at again. What is not known stays, and is told.
export function fill(text, values) {
  const open = [];
  const filled = text.replace(PLACEHOLDER, (whole, name, otherwise) => {
    const value = plain(values[name]) || otherwise;
    if (value === undefined) open.push(whole);
    return value ?? whole;
  });
  return { text: filled, open };
}

// -- the picker -------------------------------------------------------------------------------------------------------

// The palette is there at once, so that what is typed goes into it, however long the replies take.
export function pick(tenant, taken, onCancel) {
  const acts = cannedOf(tenant).then((found) => found.map(({ name, text }) => ({ words: name, group: "", also: text.slice(0, 120), deed: () => taken(text) })));
  return openPalette({ acts, label: "Choose a canned reply", none: "There is no canned reply yet; see Replies.", onCancel });
}

// -- the page ---------------------------------------------------------------------------------------------------------

export async function replies() {
  const made = create("section", "queue");
  made.append(create("h2", "", "Canned replies"));
  const about = create("p", "faint", "What is written often. In a conversation, / in the empty field or the button chooses one. ");
  about.append(`Filled in there: ${Object.entries(NAMES).map(([name, said]) => `{${name}} ${said}`).join(", ")}; {name|there} says what stands there where it is not known.`);
  const rows = create("ul", "canned");
  const show = (found) => {
    rows.replaceChildren(...found.map((reply) => rowOf(reply, show)), ...(found.length ? [] : [create("li", "faint", "There is none yet.")]));
  };
  show(await cannedOf(me.tenant, true));
  made.append(about, editor({ name: "", text: "" }, show), rows);
  return [made];
}

function rowOf(reply, show) {
  const row = create("li");
  const said = create("div", "said", reply.text);
  const edited = create("span", "faint", `${reply.by} `);
  edited.append(timeOf(reply.at, { day: "numeric", month: "short", year: "numeric" }));
  const change = button("Change", () => row.replaceChildren(editor(reply, show, () => row.replaceWith(rowOf(reply, show)))));
  const remove = button("Remove", async () => {
    if (!confirm(`Remove the canned reply ${reply.name}?`)) return;
    try {
      await ask(`desk/replies/${encodeURIComponent(reply.name)}`, { method: "DELETE" });
      show(await cannedOf(me.tenant, true));
    } catch (fault) {
      edited.replaceChildren(create("span", "fault", words(fault)));
    }
  });
  for (const [made, what] of [[change, "Change"], [remove, "Remove"]]) made.ariaLabel = `${what} ${reply.name}`;
  row.append(create("b", "", reply.name), said, edited, change, remove);
  return row;
}

function editor(reply, show, end) {
  const form = create("form", "editor");
  const name = create("input");
  Object.assign(name, { value: reply.name, maxLength: 40, required: true, pattern: "[\\p{L}\\p{N}_\\-]+", title: "Letters, digits, - and _", autocomplete: "off", spellcheck: false, readOnly: Boolean(reply.name) });
  const text = create("textarea");
  text.dir = "auto";
  Object.assign(text, { value: reply.text, rows: 3, maxLength: 4000, required: true });
  const fault = create("p", "fault");
  fault.setAttribute("role", "alert");
  fault.hidden = true;
  for (const [label, field] of [["Name", name], ["Text", text]]) {
    field.id = `canned-${random()}`;
    const made = create("label", "", label);
    made.htmlFor = field.id;
    form.append(made, field);
  }
  const row = create("div", "bulk");
  row.append(create("button", "", reply.name ? "Save" : "Add"));
  if (end) row.append(button("Cancel", end));
  form.append(fault, row);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      await ask(`desk/replies/${encodeURIComponent(name.value)}`, { method: "PUT", body: { text: text.value, was: reply.text } });
      if (!reply.name) [name.value, text.value] = ["", ""];
      show(await cannedOf(me.tenant, true));
    } catch (found) {
      say(fault, found);
    }
  });
  return form;
}
