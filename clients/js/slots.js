// Sends changes of slots. client.js fetches this module when there is one to be sent.

const MERGE = { "content-type": "application/vnd.chatkeep.merge+json" };

// Has the server put a change together with what is there, by the value with which it was begun.
export async function putSlot(chat, tools, item, place) {
  const { FORMAT, MOVED, applied, emit, same, serverTime } = tools;
  if (!("base" in item) && chat._seen === null) await chat._load(); // kept by an older release: it begins with what is there
  let sent;
  await chat._edit((items, store) => {
    sent = items.find(({ n, rev }) => n === item.n && rev === item.rev);
    if (!sent || (sent.tried && "base" in sent)) return;
    const [base, set] = "base" in sent ? [sent.base, sent.set] : [chat._state?.[sent.slot], applied(sent, chat._state?.[sent.slot])];
    store.put((sent = { ...sent, base, set, patch: undefined, tried: true, v: FORMAT })); // what is typed from now on is another change
  });
  if (place !== chat._place) throw MOVED;
  if (!sent) return;
  const { slot, base, set, rev } = sent;
  const path = `/state/${encodeURIComponent(slot)}`;
  const body = { base, value: set, at: serverTime(sent.at), by: device(tools) };
  let value = set;
  if (!same(base, set))
    try {
      const found = await chat._json(path, { method: "PATCH", body, headers: { ...MERGE, "idempotency-key": rev, ...chat._only(sent) }, place });
      value = found.value;
      for (const loss of found.losses) chat._tell("loss", { slot, ...loss });
    } catch (fault) {
      if (![405, 415].includes(fault.status)) throw fault;
      value = await putOver(chat, tools, path, sent, place); // a server that cannot merge, such as the worker of Durable Objects
    }
  else value = chat._state?.[slot];
  if (place !== chat._place) throw MOVED;
  chat._begun();
  chat._tell("state", { state: { ...chat._state, [slot]: value } });
  await chat._edit((items, store) => store.delete(sent.n));
  emit(chat, "kept", slot);
}

async function putOver(chat, { rebased, same }, path, { base, set, rev }, place) {
  for (;;) {
    const now = await readSlot(chat, path, place);
    const value = rebased(base, set, now.value);
    if (same(value, now.value)) return value;
    // By the key it is known when it was written and only the answer got lost: others may have gone on from there.
    const headers = { "idempotency-key": rev, ...(now.etag ? { "if-match": now.etag } : { "if-none-match": "*" }) };
    try {
      const answer = await chat._here(path, { ...(value === undefined ? { method: "DELETE" } : { method: "PUT", body: value }), headers, place });
      return answer.status === 204 ? value : await answer.json();
    } catch (fault) {
      if (fault.status !== 412 && !(fault.status === 404 && now.etag)) throw fault;
    }
  }
}

async function readSlot(chat, path, place) {
  try {
    const answer = await chat._here(path, { place });
    return { etag: answer.headers.get("etag"), value: await answer.json() };
  } catch (fault) {
    if (fault.status === 404) return {};
    throw fault;
  }
}

// Names this browser in merges; nobody else is told.
export function device({ random, safely }) {
  const kept = safely(() => (localStorage["chatkeep-device"] ??= random()));
  return (made ??= kept ?? random());
}
let made;
