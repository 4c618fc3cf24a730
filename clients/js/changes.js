// What can be done to the list of a user: it is kept, shown at once, and sent when it is possible. account.js fetches this module a
// while after an account was opened, since it must be there without a line.

import { notSent } from "./keeping.js";

const LOOK_MS = 100;

export async function create(account, tools, title = "", id = tools.random()) {
  await change(account, tools, id, { title }, { put: true });
  return id;
}

export function rename(account, tools, id, title) {
  return change(account, tools, id, { title, base: account.conversations.find((one) => one.id === id)?.title });
}

export function archive(account, tools, id, archived = true) {
  return change(account, tools, id, { archived });
}

export function pin(account, tools, id, pinned = true) {
  return change(account, tools, id, { pinned });
}

export async function seen(account, tools, id, number) {
  const known = account.conversations.find((one) => one.id === id);
  if (known?.version && number > known.seen && known.unseen) await change(account, tools, id, { seen: number });
}

async function remove(account, tools, id) {
  for (const chat of account._chats) if (chat.conversation === id) chat.close();
  const place = [account._url, account._subject, id];
  await account._shelf.see(place, undefined);
  await account._shelf.edit(place, (items, store) => items.forEach((item) => store.delete(item.n)));
  await change(account, tools, id, {}, { gone: true });
}
export { remove as delete };

export async function losses(account, tools, id) {
  return (await account._json(`conversations/${encodeURIComponent(id)}/losses`)).losses;
}

export async function restore(account, tools, id, number) {
  await account._ask(`conversations/${encodeURIComponent(id)}/losses/${number}`, { method: "POST" });
}

// Sends, or removes, what is not sent yet: who signs out leaves nothing here then.
export async function leaveNothing(account, tools, unsent) {
  const subject = account._subject;
  if (unsent === "send")
    for (let left; (left = await account._unsent(subject)).length; await new Promise((resolve) => setTimeout(resolve, LOOK_MS)))
      if (account._away.size || left.every(({ error }) => error)) throw notSent(left.length, "nobody was signed out");
  if (unsent === "discard")
    for (const { chat } of await account._unsent(subject)) await account._shelf.edit(chat, (items, store) => items.forEach((item) => store.delete(item.n)));
}

async function change(account, { Problem, pick }, id, body, { put = false, gone = false } = {}) {
  if (!account._subject) throw new Problem(401, { detail: "Nobody is signed in." });
  if (/^\.?\.?$/.test(id)) throw new TypeError(`a conversation cannot be called "${id}"`); // browsers take it for a step in the address
  await account._edit((items, store) => {
    const last = items.findLast((item) => item.of === id);
    const goesOn = last && !gone && !last.gone && !last.tried ? last : undefined;
    const made = { of: id, at: Date.now(), v: 2, gone, put: put || Boolean(goesOn?.put), body: { ...goesOn?.body, ...body, ...pick(goesOn?.body ?? {}, "base") } };
    if (gone) items.filter((item) => item.of === id && !item.tried).forEach((item) => store.delete(item.n));
    store.put(goesOn ? { ...made, n: goesOn.n } : made);
  });
  account._sending.ring();
}
