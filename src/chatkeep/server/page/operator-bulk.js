// The same act on many conversations: counted first, confirmed, a few in each request, and stopped when somebody says so.

import { offer } from "./operator-acts.js";
import { colleagues, element, json, may, me, words } from "./operator-ask.js";
import { filterNow, inWords, placeOf, queryOf, refresh } from "./operator-list.js";
import { create, visible } from "./shown.js";

const MOST = 20_000; // are counted, and done, at once
const AT_ONCE = 25;
const SHOWN = 100; // failures that are listed
const TRIES = 5; // of a request, where the server does not answer
const WAIT_MS = 2000;
const DEEDS = {
  replay: "Try again what failed",
  dismiss: "Dismiss what failed",
  resend: "Send again what was not delivered",
  answer: "Hand back, the bot answers",
  skip: "Hand back, pass over",
  assign: "Assign",
};
const MEANT = { failing: "replay", undelivered: "resend", waiting: "answer", off: "answer" };

const [dialog, which, told, progress, what, deed, whom, faults, go, end] =
  "bulk bulk-which bulk-told bulk-progress bulk-what bulk-act bulk-whom bulk-faults bulk-go bulk-end".split(" ").map(element);

const many = (count) => `${count.toLocaleString("en")} conversation${count === 1 ? "" : "s"}`;

// All that fit, as they are now: what comes to fit later was not counted, and is left alone. tell: is given how many there are so far.
export async function findAll(filter, signal, tell = () => {}) {
  const found = new Map();
  let next = "";
  do {
    const page = await json(`desk/conversations?${queryOf({ ...filter, limit: 100, next })}`, { signal: AbortSignal.any([signal, AbortSignal.timeout(20_000)]) });
    for (const item of page.conversations) found.set(placeOf(item), item);
    next = page.next;
    tell(found.size);
  } while (next && found.size < MOST);
  return { items: [...found.values()].slice(0, MOST), more: Boolean(next) };
}

// Does it, and returns what became of them: {done, passed, failed, left, reasons, fault}. tell: is given each outcome, and these so far.
export async function perform(act, items, { filter = {}, assignee = "", signal, tell }) {
  const so_far = { done: 0, passed: 0, failed: 0, left: items.length, reasons: [], fault: null };
  const { everywhere, text, owner, ...again } = filter; // words are not searched for once more
  for (const tenant of new Set(items.map((item) => item.tenant))) {
    let names = items.filter((item) => item.tenant === tenant).map(({ id }) => id);
    for (let tries = 0; names.length && !signal.aborted; ) {
      try {
        const body = { act, assignee, filter: again, conversations: names.slice(0, AT_ONCE) };
        const { outcomes } = await json("desk/bulk", { method: "POST", body, tenant });
        const over = new Set(outcomes.map(({ conversation }) => conversation));
        names = names.filter((name) => !over.has(name));
        so_far.left -= over.size;
        for (const { conversation: id, outcome, why } of outcomes) {
          so_far[outcome]++;
          if (outcome === "failed") so_far.reasons.push({ tenant, id, why });
          tell({ tenant, id, outcome }, so_far);
        }
        tries = 0;
      } catch (fault) {
        if (fault.final || ++tries > TRIES || !me.proof) return { ...so_far, fault };
        await new Promise((wake) => setTimeout(wake, WAIT_MS));
      }
    }
  }
  return so_far;
}

export const inSum = ({ done, passed, failed, left, fault }) =>
  [`${many(done)} done`, passed && `${passed.toLocaleString("en")} passed over: nothing to do, or not so any more`, failed && `${failed.toLocaleString("en")} failed`, left && `${left.toLocaleString("en")} not begun`, fault && words(fault)].filter(Boolean).join("; ");

export const faultLines = ({ reasons }) => [
  ...reasons.slice(0, SHOWN).map(({ tenant, id, why }) => {
    const line = create("li", "fault");
    const link = create("a", "", id);
    link.href = `#${placeOf({ tenant, id })}`;
    line.append(link, " ", ...visible(why ?? ""));
    return line;
  }),
  ...(reasons.length > SHOWN ? [create("li", "fault", `And ${(reasons.length - SHOWN).toLocaleString("en")} more.`)] : []),
];

// -- the dialog -------------------------------------------------------------------------------------------------------

let ended = new AbortController(); // of the dialog that is open
let running = null; // that of the dialog whose act runs

const name = () => (deed.value === "assign" ? `Assign to ${whom.selectedOptions[0]?.textContent ?? ""}` : DEEDS[deed.value]);

export async function openBulk(filter, said, then = refresh) {
  const mine = (ended = new AbortController());
  const { signal } = mine;
  let items = null;
  const label = () => {
    whom.closest("label").hidden = deed.value !== "assign";
    go.textContent = items ? `${name()}: ${many(items.length)}` : name();
    go.disabled = !items?.length;
  };
  which.replaceChildren(...visible(said));
  told.textContent = "Counting…";
  deed.replaceChildren(...Object.entries(DEEDS).map(([value, text]) => Object.assign(create("option", "", text), { value })));
  deed.value = MEANT[filter.show] ?? "assign";
  whom.replaceChildren(Object.assign(create("option", "", "nobody"), { value: "" }));
  faults.replaceChildren();
  what.hidden = go.hidden = false;
  progress.hidden = true;
  end.textContent = "Cancel";
  deed.onchange = whom.onchange = label;
  label();
  dialog.showModal();
  go.onclick = async () => {
    running = mine;
    what.hidden = go.hidden = true;
    progress.hidden = false;
    [progress.max, progress.value] = [items.length, 0];
    end.textContent = "Stop";
    end.focus();
    const tell = (_, so_far) => {
      progress.value = items.length - so_far.left;
      told.textContent = `${name()}: ${(items.length - so_far.left).toLocaleString("en")} of ${many(items.length)}…`;
    };
    const sum = await perform(deed.value, items, { filter, assignee: whom.value, signal, tell });
    if (running === mine) running = null;
    if (mine !== ended) return;
    progress.hidden = true;
    told.textContent = `${name()}: ${inSum(sum)}.`;
    faults.replaceChildren(...faultLines(sum));
    end.textContent = "Close";
    then();
  };
  try {
    for (const { account, shown } of await colleagues(me.tenant)) whom.append(Object.assign(create("option", "", account === me.account ? "You" : shown || account), { value: account }));
    whom.value = me.account;
    if (whom.selectedIndex < 0) whom.value = "";
    const found = await findAll(filter, signal, (count) => (told.textContent = `Counting: ${many(count)} so far…`));
    items = found.items;
    told.textContent = found.more ? `There are more than ${many(MOST)}: these are the first, do it again for the others.` : items.length ? `${many(items.length)} fit${items.length === 1 ? "s" : ""}.` : "Nothing fits.";
  } catch (fault) {
    if (!signal.aborted) told.textContent = words(fault);
  }
  if (!signal.aborted) label();
}

// The first press stops what runs, and leaves the dialog open to say how far that came.
end.addEventListener("click", () => (running === ended ? ended.abort() : dialog.close()));
dialog.addEventListener("cancel", (event) => {
  if (running !== ended) return;
  event.preventDefault();
  ended.abort();
});
dialog.addEventListener("close", () => ended.abort());

offer("List", {
  bulk: {
    words: "For all of these: assign, hand back, try again…",
    key: "b",
    when: () => may("operate"),
    deed: () => openBulk(filterNow(), inWords(filterNow())),
  },
});
