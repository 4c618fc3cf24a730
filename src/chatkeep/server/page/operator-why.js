// Why a conversation is as it is: what is done next, its state as a tree that can be changed, its turns, and who did what.

import { ask, at, button, element, json, may, nameOf, pretty, random, say, span, timeOf } from "./operator-ask.js";
import { create, unlessPressed } from "./shown.js";

const DEEP = 6;
const MANY = 200; // members of one value that are shown
const [facts, state, turns, story] = "facts state turns story".split(" ").map(element);

const [inState, inStory] = [state, story].map(unlessPressed);

let editing = ""; // the slot that somebody edits: its text must not go away under them

export function clearWhy() {
  editing = "";
  for (const part of [facts, state, turns, story]) {
    part.replaceChildren();
    part.shown = "";
  }
}

const day = { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", second: "2-digit" };

function tell(place, told) {
  const shown = JSON.stringify(told);
  if (place.shown === shown) return;
  place.shown = shown;
  place.replaceChildren(
    ...Object.entries(told).flatMap(([term, value]) => {
      const made = create("dd", "", typeof value === "object" ? undefined : value === "" ? "none" : value);
      if (typeof value === "object") made.append(timeOf(value.time, day));
      return [create("dt", "", term), made];
    }),
  );
}

export function showFacts(place, found) {
  place.facts = { Session: found.session, Messages: found.head, Unread: found.unread, Failed: found.dead.join(", ") || "none", Changed: { time: found.updated_at } };
  tell(facts, { ...place.facts, ...place.next });
}

export async function showWhy(place) {
  const told = await json(`${at(place.id)}/story`, { tenant: place.tenant });
  if (place.end.signal.aborted) return;
  const { inside } = told;
  const next = {};
  if (inside.begun || inside.raised) next["Attempts"] = `${inside.begun ?? 0} begun, ${inside.raised ?? 0} raised`;
  if (inside.deaths) next["Deaths"] = `${inside.deaths}${inside.alone ? ", tried alone now" : ""}`;
  if (inside.failed_at) next["Failing since"] = { time: inside.failed_at };
  if (inside.retry_at) next["Next try"] = { time: inside.retry_at };
  if (inside.steps?.length) next["Steps done"] = inside.steps.join(", ");
  if (inside.lease_until) next["Worked on until"] = { time: inside.lease_until };
  if (inside.next_at) next["Looked at next"] = { time: inside.next_at };
  for (const { at: when, name } of inside.reminders ?? []) next[`Reminder ${name}`] = { time: when };
  if (inside.sent_upto !== undefined) next["Sent up to"] = `#${inside.sent_upto}${inside.send_tries ? `, ${inside.send_tries} tries` : ""}`;
  if (inside.send_reason) next["Last try"] = inside.send_reason;
  if (inside.redactions) next["Redacted"] = inside.redactions;
  next["Record"] = `${(inside.size ?? 0).toLocaleString("en")} bytes`;
  place.next = next;
  tell(facts, { ...place.facts, ...next });
  showTurns(told.turns);
  inStory(() => place.end.signal.aborted || showStory(place, told));
}

function showTurns(found) {
  const shown = JSON.stringify(found);
  if (turns.shown === shown) return;
  turns.shown = shown;
  const longest = Math.max(...found.map((turn) => turn.took_s), 0.001);
  turns.replaceChildren(
    ...found.slice(0, 50).map((turn) => {
      const line = create("li");
      const bar = document.createElement("meter");
      Object.assign(bar, { min: 0, max: longest, value: turn.took_s, ariaLabel: `took ${span(turn.took_s)}` });
      const which = turn.first === turn.last ? `#${turn.last}` : `#${turn.first}–${turn.last}`;
      line.append(timeOf(turn.at, day), create("span", "", which), bar, create("span", "took", span(turn.took_s)), create("span", "faint", `→ ${turn.replies.map((n) => `#${n}`).join(" ")}`));
      if (turn.stopped) line.append(create("span", "mark", "stopped"));
      if (turn.interrupted) line.append(create("span", "mark bad", "interrupted"));
      return line;
    }),
    ...(found.length ? [] : [create("li", "faint", "No turn was made yet.")]),
  );
}

function showStory(place, { notes, acts }) {
  const told = JSON.stringify([notes, acts]);
  if (story.shown === told) return;
  story.shown = told;
  const lines = [
    ...notes.filter(isTelling).map((note) => [note.at, noteLine(place, note)]),
    ...acts.filter((act) => act.act !== "reveal").map((act) => [act.at ?? 0, actLine(act)]),
  ];
  story.replaceChildren(...lines.sort((one, other) => other[0] - one[0]).slice(0, 200).map(([, line]) => line), ...(lines.length ? [] : [create("li", "faint", "Nothing yet.")]));
}

// What went well is told beside each message.
const isTelling = ({ kind, status }) => !["status", "begun"].includes(kind) && !(kind === "delivery" && ["delivered", "read"].includes(status));

function noteLine(place, { number, kind, at: when, about, author, assignee, status, reason, text, metadata }) {
  const line = create("li", kind === "note" ? "note" : "");
  line.append(timeOf(when, day), " ", create("b", "", kind === "note" ? author || "Note" : kind === "assigned" && author ? `${author} assigned` : kind === "change" && metadata?.slots ? `${metadata.by} changed ${Object.keys(metadata.slots).join(", ")}` : kind));
  if (about) line.append(create("span", "faint", ` #${about}`));
  if (assignee !== undefined) line.append(create("span", "", assignee ? ` to ${nameOf(assignee)}` : " to nobody"));
  const said = [status, reason, text].filter(Boolean).join(": ");
  if (said) line.append(create("div", "said", said));
  if (metadata && Object.keys(metadata).length) {
    const more = create("details");
    more.append(create("summary", "", "more"), create("pre", "", pretty(metadata)));
    line.append(more);
  }
  if (kind === "change" && metadata?.slots && may("state:write")) {
    line.append(button("Undo", (pressed) => undo(place, number, pressed)));
    line.lastChild.ariaLabel = `Undo the change of ${Object.keys(metadata.slots).join(", ")} (#${number})`;
  }
  return line;
}

// Puts the slots back, only if they still are what that change has left: what a turn has made of them since is not overwritten.
async function undo(place, number, pressed) {
  const fault = pressed.nextElementSibling ?? pressed.parentNode.appendChild(create("p", "fault"));
  fault.setAttribute("role", "alert");
  pressed.disabled = true;
  try {
    await ask(`${at(place.id)}/changes/${number}`, { method: "POST", tenant: place.tenant });
    say(fault, null);
    await showWhy(place);
  } catch (found) {
    say(fault, found);
  } finally {
    pressed.disabled = false;
  }
}

function actLine({ act, by, label, at: when, address }) {
  const line = create("li");
  line.append(timeOf(when ?? 0, day), " ", create("b", "", label || by), " ", create("span", "", act));
  if (address) line.append(create("span", "faint", ` from ${address}`));
  return line;
}

// -- the state --------------------------------------------------------------------------------------------------------

export const showState = (place, value) => inState(() => place.end.signal.aborted || drawState(place, value));

function drawState(place, value) {
  const shown = JSON.stringify(value);
  if (editing) place.missed = value;
  if (editing || state.shown === shown) return;
  const before = place.state;
  place.state = value;
  state.shown = shown;
  if (value === null || typeof value !== "object" || Array.isArray(value)) return state.replaceChildren(create("pre", "", pretty(value)));
  const slots = Object.entries(value).map(([slot, held]) => {
    const made = branch(slot, held, 0);
    // What the last change has made of it is marked, until the next one.
    if (before && JSON.stringify(before[slot]) !== JSON.stringify(held)) made.classList.add("changed");
    if (may("state:write")) made.prepend(button("Edit", () => edit(place, slot, made)));
    return made;
  });
  state.replaceChildren(...slots, ...(slots.length ? [] : [create("p", "faint", "It is empty.")]));
}

function branch(name, value, depth) {
  const made = create("div", "branch");
  if (value === null || typeof value !== "object" || depth >= DEEP) {
    const text = typeof value === "string" ? value : JSON.stringify(value);
    made.append(create("span", "slot", name), create("span", typeof value, text));
    return made;
  }
  const inner = document.createElement("details");
  const entries = Object.entries(value);
  inner.open = depth < 1 && entries.length <= 12;
  inner.append(create("summary", "slot", `${name} ${Array.isArray(value) ? `[${entries.length}]` : `{${entries.length}}`}`));
  const fill = () => inner.childElementCount > 1 || inner.append(...entries.slice(0, MANY).map(([key, held]) => branch(key, held, depth + 1)), entries.length > MANY ? create("p", "faint", `${entries.length - MANY} more`) : "");
  if (inner.open) fill();
  inner.addEventListener("toggle", () => inner.open && fill());
  made.append(inner);
  return made;
}

// Replaces the slot only if it is still what was read: a turn that has changed it meanwhile is not overwritten.
async function edit(place, slot, made) {
  if (editing) return;
  editing = slot; // from now on: what comes meanwhile would put another line in the place of this one
  place.missed = undefined;
  const path = `${at(place.id)}/state/${encodeURIComponent(slot)}`;
  const fault = create("p", "fault");
  fault.setAttribute("role", "alert");
  let tag, value;
  try {
    const answer = await ask(path, { tenant: place.tenant });
    [tag, value] = [answer.headers.get("etag"), await answer.json()];
  } catch (found) {
    if (place.end.signal.aborted) return;
    editing = "";
    if (place.missed !== undefined) drawState(place, place.missed);
    say(fault, found);
    return void (made.isConnected ? made : state).append(fault);
  }
  if (place.end.signal.aborted) return;
  const field = create("textarea");
  Object.assign(field, { value: pretty(value), rows: 8, spellcheck: false, ariaLabel: `Value of ${slot}, as JSON` });
  const end = () => {
    if (place.end.signal.aborted) return; // another conversation is shown, and may be edited
    editing = "";
    state.shown = "";
    json(`${at(place.id)}?messages=0`, { tenant: place.tenant }).then((found) => place.end.signal.aborted || showState(place, found.state));
  };
  let sent = {};
  const save = button("Save", async () => {
    try {
      const [text, body] = [field.value, JSON.parse(field.value)];
      if (sent.text !== text) sent = { text, key: random() }; // the same once more, as its answer was lost, is the same change
      await ask(path, { method: "PUT", body, headers: { "if-match": tag, "idempotency-key": sent.key }, tenant: place.tenant });
      end();
    } catch (found) {
      if (found instanceof SyntaxError) fault.textContent = `This is not JSON: ${found.message}`;
      else if (found.status === 412) fault.textContent = "It has changed meanwhile, and was not overwritten. Cancel to see what it is now.";
      else say(fault, found);
      fault.hidden = false;
    }
  }, "");
  made.replaceChildren(create("span", "slot", slot), field, save, button("Cancel", end), fault);
  field.focus();
}
