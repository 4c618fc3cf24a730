// Asks the server, as who is signed in. The session is in a cookie that no script reads; what proves that this page sends a request is
// held here and nowhere else.

import { create, visible } from "./shown.js";

const API = new URL("v1/", import.meta.url).href;
const ASK_MS = 20_000;
const TOUCH_MS = 60_000;

export const element = (id) => document.getElementById(id);
export const me = { proof: "", rights: [], tenants: [""], everywhere: false, tenant: "", account: "" };
export const may = (right) => me.rights.includes(right);
export const at = (id) => `conversations/${encodeURIComponent(id)}`;

let leave = () => {};
export function onSignedOut(told) {
  leave = told;
}

export class Problem extends Error {
  constructor(status, { type = "", detail = "", title = "", ...told } = {}) {
    super(detail || title || `The server answered ${status}.`);
    this.status = status;
    this.type = type.replace("urn:chatkeep:", "");
    this.told = told;
    this.final = status >= 400 && status < 500 && ![408, 409, 429].includes(status);
  }
}

export const words = (fault) => (fault instanceof Problem ? fault.message : "The server does not answer.");

export async function ask(path, { method = "GET", body, headers, signal = AbortSignal.timeout(ASK_MS), tenant = me.tenant } = {}) {
  // Browsers take these for steps in the path: what is meant for one conversation would be done to all.
  if (/(^|\/)\.\.?([/?]|$)/.test(path)) throw new Problem(0, { detail: "What is called “.” or “..” is out of reach of a browser. Use the command line, or a client in a program." });
  const answer = await fetch(API + path, {
    method,
    body: body === undefined ? undefined : JSON.stringify(body),
    headers: {
      ...(me.proof && { "chatkeep-desk": me.proof, "chatkeep-tenant": encodeURIComponent(tenant) }),
      ...(body !== undefined && { "content-type": "application/json" }),
      ...headers,
    },
    credentials: "same-origin",
    cache: "no-store",
    signal,
  });
  if (answer.ok && !answer.headers.get("content-type")?.startsWith("text/html")) return answer;
  const told = await answer.json().catch(() => ({}));
  // A proxy without a server behind it knows nothing of sessions and conversations.
  if (answer.status < 500 && !String(told?.type).startsWith("urn:chatkeep:")) throw new Error(`something else has answered: ${answer.status}`);
  const fault = new Problem(answer.status, told);
  if (fault.status === 401 && me.proof) leave(fault.message);
  throw fault;
}

export const json = async (path, options) => (await ask(path, options)).json();

export async function look() {
  return take(await json("session"));
}

export async function signIn(body) {
  take(await json("session", { method: "POST", body }));
  // A browser that keeps no cookie would be asked for the password again and again, without a word.
  if (!(await json("session")).signed_in) {
    me.proof = "";
    throw new Problem(400, { detail: "This browser did not keep the session's cookie. Sign in over https, or from this very machine." });
  }
}

export async function signOut() {
  await ask("session", { method: "DELETE" }).catch(() => {});
  me.proof = "";
}

export function forget() {
  me.proof = "";
  me.rights = [];
  known.clear();
}

function take(told) {
  if (told.signed_in) Object.assign(me, { everywhere: false }, told, { tenant: told.tenants[0] });
  return told;
}

// What a person does keeps the session; what the page asks by itself does not.
let touched = -Infinity;
export function touch() {
  if (!me.proof || performance.now() - touched < TOUCH_MS) return;
  touched = performance.now();
  ask("session", { method: "PUT" }).catch(() => {});
}

// Whom conversations of a tenant may be given to: [{account, shown}].
const known = new Map();
export async function colleagues(tenant) {
  if (!may("operate")) return [];
  const { at: when = -Infinity, people = [] } = known.get(tenant) ?? {};
  if (performance.now() - when < TOUCH_MS) return people;
  const told = await json("desk/people", { tenant });
  known.set(tenant, { at: performance.now(), people: told.people });
  return told.people;
}

export function nameOf(account, tenant = me.tenant) {
  if (account === me.account) return "You";
  return known.get(tenant)?.people.find((one) => one.account === account)?.shown || account;
}

// What a conversation is called: by one of its names or by its id; where these are masked, by the beginning of its handle.
export const isHandle = (id) => id.startsWith("~m.");
export const calledOf = (id, ...names) => names.find((name) => name && name !== "•••") ?? (isHandle(id) ? `Customer ${id.slice(3, 9)}` : id);

// -- what all parts show ----------------------------------------------------------------------------------------------

export const pretty = (value) => JSON.stringify(value, null, 2) ?? "";

export function random() {
  return [...crypto.getRandomValues(new Uint8Array(12))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

export function timeOf(seconds, options = { hour: "2-digit", minute: "2-digit" }) {
  const date = new Date(seconds * 1000);
  const made = create("time", "", date.toLocaleString([], options));
  made.dateTime = date.toISOString();
  made.title = date.toLocaleString();
  return made;
}

export function span(seconds) {
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  for (const [unit, size] of [["d", 86400], ["h", 3600], ["min", 60]]) if (seconds >= size) return `${Math.floor(seconds / size)} ${unit}`;
  return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
}

export function age(seconds) {
  const made = create("time", "", span(Math.max(Date.now() / 1000 - seconds, 1)).replace(/\.\d/, ""));
  made.dateTime = new Date(seconds * 1000).toISOString();
  made.title = new Date(seconds * 1000).toLocaleString();
  return made;
}

export function button(label, deed, className = "quiet") {
  const made = create("button", className, label);
  made.type = "button";
  made.addEventListener("click", () => deed(made));
  return made;
}

export function say(place, fault) {
  place.replaceChildren(...visible(fault ? words(fault) : ""));
  place.hidden = !fault;
}
