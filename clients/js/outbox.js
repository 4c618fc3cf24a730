// Sends what was done to the list of a user, and what was written in chats that are closed by now. account.js fetches this
// module when there is something to send.

import { device } from "./slots.js";

const SOON_MS = 400; // changes of one conversation that follow each other so fast are one save

// Opens the chats in which the *items* were written, until they are sent.
export async function sendFromClosed(account, items) {
  for (const id of new Set(items.map(({ chat }) => chat[2]))) {
    if (id === "~account") continue;
    const chat = await account.chat(id);
    const close = () => chat.stats().unsent > chat.stats().refused || chat.close();
    chat.on("status", close);
    close();
  }
}

// Tells what was refused, for as long as it is: another tab may have dealt with it, or a later change have taken it along.
export function tellRefused(account) {
  const refused = new Map(account._queue.filter((item) => item.error).map((item) => [`refused:${item.n}`, item]));
  for (const { id } of account.notices) if (id.startsWith("refused:") && !refused.has(id)) account.dismiss(id);
  for (const [id, { n, of: about, error }] of refused) {
    const edit = (change) => account._edit((items, store) => change(items.find((one) => one.n === n), store)).then(() => account._sending.ring());
    const retry = () => edit((item, store) => item && store.put({ ...item, error: undefined }));
    const discard = () => edit((item, store) => store.delete(n));
    account.notify({ id, kind: "failed", text: `Not saved: ${error}`, about, actions: [{ name: "retry", run: retry }, { name: "discard", run: discard }] });
  }
}

// Sends what was done, in order, for as long as the account is open. A change that is sent twice is known by its key, and has no effect
// on what others have done behind it.
export function sendChanges(account, tools) {
  const { signal } = account._end;
  const send = async () => {
    const next = account._queue.find((item) => !item.error);
    if (!next || !account._subject || account.state === "expired") return undefined;
    const settling = SOON_MS - tools.since(next.at);
    if (settling > 0 && !next.tried) return settling;
    try {
      await tools.locked(`${account._key}:send:${account._subject}`, () => sendOne(account, tools, next.n), { signal });
    } catch (fault) {
      if (signal.aborted || !fault.final || fault.status === 401) throw fault;
      await account._edit((items, store) => items.some(({ n }) => n === next.n) && store.put({ ...next, error: fault.message }));
    }
    return 0;
  };
  return tools.repeat(signal, account._sending, send, (fault) => account._fail(fault));
}

async function sendOne(account, tools, n) {
  const { BLANK, omit, pick, random, serverTime } = tools;
  let item;
  await account._edit((items, store) => {
    item = items.find((one) => one.n === n);
    if (item && !item.asked) {
      const asked = { ...item.body, at: serverTime(item.at), by: device(tools) }; // the same each time, as its key says
      store.put((item = { ...item, tried: true, rev: random(), asked }));
    }
  });
  if (!item) return; // another tab has sent it
  const { of: id, body, gone, put, at, rev, asked } = item;
  const path = `conversations/${encodeURIComponent(id)}`;
  try {
    if (gone) await account._ask(path, { method: "DELETE" });
    else {
      const saved = await account._json(path, { method: put ? "PUT" : "PATCH", body: asked, headers: { "idempotency-key": rev } });
      const known = account._list.get(id);
      const isTold = known?.version >= saved.version; // by the server, perhaps of what another device has done since
      if (!isTold && (known || put)) account._list.set(id, { ...BLANK, updated_at: at / 1000, ...known, id, ...omit(body, "base"), ...pick(saved, "version", "checksum", "title") });
      if (saved.conflicts.length) account._both({ conflict: id });
    }
  } catch (fault) {
    if (!gone || fault.status !== 404) throw fault; // it is gone
  }
  if (gone) account._list.delete(id);
  account._counts.saves++;
  await account._edit((items, store) => store.delete(n));
  if (Object.keys(omit(body, "seen")).length || gone) account._both({ saved: { kind: "saved", text: gone ? "Deleted." : "Saved.", about: id } });
  account._listening.ring();
}
