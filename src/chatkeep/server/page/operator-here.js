// Who else is here: colleagues who have a conversation open, or write in it. Asked for every few seconds, and told at most as often.

import { ask, at, json, may, me } from "./operator-ask.js";

const ASK_MS = 3000;
const TELL_MS = 6000;

const listeners = [];
let present = [];
let shown = "";
let told = { at: 0 }; // when it was last told that somebody writes, and where

// hear: is called when somebody came, left, or began to write.
export const onPresence = (hear) => listeners.push(hear);

// The others who have it open, those who write first, in words; "" where nobody has.
export function othersAt(tenant, id) {
  const others = present.filter((one) => one.tenant === tenant && one.conversation === id && one.account !== me.account);
  const names = (all) => all.map(({ account, shown: name }) => name || account).join(", ");
  const writing = others.filter((one) => one.writing);
  const reading = others.filter((one) => !one.writing);
  return [writing.length && `${names(writing)} ${writing.length > 1 ? "are" : "is"} writing`, reading.length && `${names(reading)} ${reading.length > 1 ? "are" : "is"} here`].filter(Boolean).join("; ");
}

// Somebody types: told once in a while, and not at each key.
export function tellWriting({ place, tenant, id }) {
  if (!may("operate") || (told.place === place && performance.now() - told.at < TELL_MS)) return;
  told = { place, at: performance.now() };
  ask(`${at(id)}/writing`, { method: "PUT", tenant }).catch(() => {}); // the next key tells it again
}

function show(found) {
  present = found;
  const now = JSON.stringify(found);
  if (now === shown) return;
  shown = now;
  for (const hear of listeners) hear();
}

async function look() {
  if (document.hidden) return;
  const { proof } = me;
  const found = proof && may("operate") ? await json("desk/present").then(({ present: told }) => told, () => []) : [];
  if (proof === me.proof) show(found); // and nobody else has signed in
}
setInterval(look, ASK_MS);
document.addEventListener("visibilitychange", look);
