// What waits for people: messages that failed, replies that did not go out, customers without an answer. And who did what.

import { age, button, element, json, may, me, timeOf, words } from "./operator-ask.js";
import { faultLines, inSum, openBulk, perform } from "./operator-bulk.js";
import { replies } from "./operator-canned.js";
import { health } from "./operator-health.js";
import { placeOf } from "./operator-list.js";
import { create } from "./shown.js";

const page = element("page");
const WHEN = { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", second: "2-digit" };

const REFRESH_MS = 15_000;

let shown = 0; // the newest view; older answers are late

export function closePage() {
  shown++;
  page.hidden = true;
  page.replaceChildren();
}

export async function openPage(view) {
  const mine = ++shown;
  page.hidden = false;
  page.replaceChildren(create("p", "faint", "Looking…"));
  try {
    const made = await { queues, replies, health, audit }[view]();
    if (mine === shown) page.replaceChildren(...made);
    if (mine === shown && view === "health") watch(mine);
  } catch (fault) {
    if (mine === shown) page.replaceChildren(create("p", "fault", words(fault)));
  }
}

// The health page goes on by itself, unless somebody is about to press one of its buttons, or reads the settings.
function watch(mine) {
  setTimeout(async () => {
    if (mine !== shown) return;
    if (document.hidden || page.contains(document.activeElement) || page.querySelector("details[open]")) return watch(mine);
    const made = await health().catch(() => null); // the next one tells
    if (mine === shown && made && !page.contains(document.activeElement)) page.replaceChildren(...made);
    watch(mine);
  }, REFRESH_MS);
}

// -- queues -----------------------------------------------------------------------------------------------------------

const QUEUES = [
  ["waiting", "Waiting for a person", "Customers who wrote while the bot is off, and whom nobody has answered since.", { answer: "Have the bot answer", skip: "Hand back, pass over" }],
  ["failing", "Failed messages", "Messages that the bot failed on, and that were set aside.", { replay: "Try again", dismiss: "Dismiss" }],
  ["undelivered", "Undelivered replies", "Replies that the channel has refused, or of which nobody knows whether they were shown.", { resend: "Send again" }],
];

async function queues() {
  return Promise.all(QUEUES.map(([show, title, about, deeds]) => queue(show, title, about, deeds)));
}

async function queue(show, title, about, deeds) {
  const made = create("section", "queue");
  const told = await json(`desk/conversations?show=${show}&limit=100`);
  const items = told.conversations;
  let [next, looked] = [told.next, told.looked_at];
  while (next && items.length < 100 && looked < 20_000) {
    const more = await json(`desk/conversations?${new URLSearchParams({ show, limit: 100, next })}`);
    items.push(...more.conversations);
    [next, looked] = [more.next, looked + more.looked_at];
  }
  const count = create("span", items.length ? "mark bad" : "mark on", `${items.length}${next ? "+" : ""}`);
  const head = create("h2", "", title);
  head.append(" ", count);
  made.append(head, create("p", "faint", about));
  if (!items.length) {
    made.append(create("p", "faint", "Nothing is here."));
    return made;
  }
  const table = create("ul", "rows");
  const boxes = new Map();
  for (const item of items) {
    const row = create("li");
    const box = create("input");
    Object.assign(box, { type: "checkbox", ariaLabel: `Choose ${item.title || item.name || item.id}` });
    const link = create("a", "", item.title || item.name || item.owner || item.id);
    link.href = `#${placeOf(item)}`;
    const said = create("span", "last", item.reason || item.last);
    if (may("operate")) row.append(box);
    row.append(link, said, age(item.waiting_since || item.last_at || item.updated_at));
    boxes.set(box, { item, row });
    table.append(row);
  }
  const done = create("p", "status");
  done.setAttribute("role", "status");
  const bar = create("div", "bulk");
  const whole = create("input");
  Object.assign(whole, { type: "checkbox", ariaLabel: `Choose all of ${title}` });
  whole.addEventListener("change", () => boxes.forEach((_, box) => (box.checked = whole.checked)));
  const choose = create("label", "");
  choose.append(whole, next ? ` The first ${items.length}` : " All");
  bar.append(choose);
  for (const [act, label] of Object.entries(deeds))
    bar.append(
      button(label, async (pressed) => {
        const chosen = new Map([...boxes].filter(([box]) => box.checked && box.isConnected).map(([, { item, row }]) => [item.id, { item, row }]));
        if (!chosen.size) return void (done.textContent = "Choose some first.");
        pressed.disabled = true;
        const tell = ({ id, outcome }, { left }) => {
          if (outcome !== "failed") chosen.get(id).row.remove();
          done.textContent = `${label}: ${chosen.size - left} of ${chosen.size}…`;
        };
        const sum = await perform(act, [...chosen.values()].map(({ item }) => item), { filter: { show }, signal: new AbortController().signal, tell });
        done.replaceChildren(`${label}: ${inSum(sum)}.`, ...faultLines(sum).flatMap((line) => [" ", ...line.childNodes]));
        pressed.disabled = false;
      }),
    );
  bar.append(button("All that are here…", () => openBulk({ show }, title, () => openPage("queues"))));
  if (may("operate")) made.append(bar);
  made.append(done, table);
  return made;
}

// -- audit ------------------------------------------------------------------------------------------------------------

async function audit() {
  const { acts } = await json("audit?limit=100");
  const made = create("section", "queue");
  made.append(create("h2", "", "Who did what"), create("p", "faint", "What people at the desk, service keys and commands did in this tenant; reveal: somebody has read a conversation in clear."));
  const rows = create("ul", "rows acts");
  const show = (found) => {
    for (const { act, by, label, conversation, address, at: when } of found) {
      const row = create("li");
      const about = create("span", "last");
      if (conversation) {
        const link = create("a", "", conversation);
        link.href = `#${placeOf({ tenant: me.tenant, id: conversation })}`;
        about.append(link);
      }
      row.append(timeOf(when ?? 0, WHEN), create("b", "", label || by), create("span", "", act), about, create("span", "faint", address ?? ""));
      rows.append(row);
    }
  };
  show(acts);
  let last = acts.at(-1)?.number;
  const more = button("Show earlier", async () => {
    const { acts: found } = await json(`audit?limit=100&before=${last}`);
    show(found);
    last = found.at(-1)?.number;
    more.hidden = found.length < 100;
  });
  more.hidden = acts.length < 100;
  made.append(rows, more);
  return [made];
}
