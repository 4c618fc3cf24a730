// What this browser keeps of a chat: sent again, counted, taken over, removed. client.js fetches this module a while after a chat was opened,
// since it must be there without a line.

export const notSent = (count, what) => Object.assign(new Error(`${count} not sent yet; ${what}.`), { name: "Unsent", count });

export async function retry(chat, tools, id) {
  const logged = chat._log.get(id);
  if (logged) return chat.send(logged.content, { metadata: logged.metadata });
  await chat._edit((items, store) => {
    const item = items.find((item) => item.id === id);
    // Whoever says it again begins anew what was erased.
    if (item) store.put({ ...item, error: undefined, there: false, sent: undefined, asks: undefined });
  });
  return chat._wake();
}

export async function kept(chat, { same }) {
  const found = { others: 0, unknown: 0 };
  for (const { chat: place, sent } of await chat._shelf.all()) if (!sent && !same(place, chat._place)) {
    if (isUnknown(chat, place)) found.unknown++;
    else if (place[0] === chat._url && place[2] === chat._place[2]) found.others++;
  }
  return found;
}

export async function adopt(chat, { isNobody }) {
  if (isNobody(chat._place)) throw new Error("It is not known yet who this is.");
  for (const { chat: place } of await chat._shelf.all()) if (isUnknown(chat, place)) {
    await chat._shelf.see(place, undefined); // what somebody unknown has seen is not taken over
    await chat._shelf.move(place, chat._place);
  }
  await chat._edit(() => {});
}

export async function forget(chat, tools, { unsent } = {}) {
  if (unsent === "keep" && chat._visitor) throw new TypeError("Nothing could send what a visitor keeps.");
  const place = chat._place;
  await chat._edit((items, store) => {
    const left = items.filter((item) => !item.sent).length;
    if (left && !["keep", "discard"].includes(unsent)) throw notSent(left, "nothing was removed");
    if (unsent !== "keep") items.forEach((item) => store.delete(item.n));
  });
  chat._say({ event: "forgotten" });
  const wiped = chat._leave(place);
  await chat._shelf.note(chat._url, (pairs) => pairs.filter(([, subject]) => subject !== place[1]));
  chat._visitor?._forget();
  await wiped;
}

// The things of whom nobody knows: written before the subject was known, or by an older release.
function isUnknown(chat, place) {
  return place === chat.name || (place[0] === chat._url && place[2] === chat._place[2] && place[1][0] === "?");
}
