// What becomes an account's that was not: chats of guests in this browser, and what an application has kept in a form of its
// own. account.js fetches this module when there is something to take over.

const SAVED_AT_ONCE = 200;

const TOLD_MS = 60_000; // so long every tab is told what one of them has claimed, also the one that has signed in

// Makes what guests have here the user's: each is one write. What is broken off goes on later, or at the next opening. Whoever asks
// again for the same sign-in is told the same; the notice comes once.
export function claim(account, tools) {
  const { _subject: subject } = account;
  return tools.locked(`${account._key}:claim`, () => (subject === account._subject ? claimOnce(account, tools) : []));
}

async function claimOnce(account, tools) {
  const { _url: url, _subject: subject, _shelf: shelf } = account;
  const { id = "", guest } = account._read(":claim") ?? {};
  // What was claimed lies in IndexedDB: a tab may see what another one has written into localStorage later than it gets the lock.
  const place = [url, subject, "~claim"];
  const kept = await shelf.seen(place);
  const told = kept && kept.of === id ? kept : { v: 2, of: id, claimed: await claimGuests(account, tools, guest), at: Date.now() };
  if (subject !== account._subject) return [];
  if (told !== kept) await shelf.see(place, told);
  const claimed = Date.now() - told.at < TOLD_MS ? told.claimed : [];
  account._write(":claim", claimed.length ? { id } : undefined);
  if (told.of === account._toldOf) return claimed;
  await account._pull();
  account._toldOf = told.of;
  if (claimed.length) account.notify({ kind: "claimed", text: "Your earlier chats are in your account now." });
  return claimed;
}

async function claimGuests(account, tools, guest) {
  const { _url: url, _subject: subject, _storage: storage, _shelf: shelf } = account;
  const json = asking(account, tools);
  const prefix = `chatkeep:${url}:`;
  const chats = Object.keys(storage).filter((key) => key.startsWith(prefix)).map((key) => ({ key, ...JSON.parse(storage.getItem(key)) }));
  const claimed = [];
  for (const { key, token, subject: before } of [...chats.filter(({ token, shared }) => token && !shared), ...(guest ? [guest] : [])]) {
    try {
      claimed.push((await json("me/claim", { method: "POST", body: { guest: token } })).guest);
    } catch (fault) {
      if (![404, 409].includes(fault.status)) throw fault;
      continue; // it has ended, or is another user's
    }
    for (const { chat } of await shelf.all()) if (chat[0] === url && chat[1] === before) await shelf.move(chat, [url, subject, chat[2]]);
    await shelf.wipe(url, before); // what the guest has seen the user loads anew
    if (key) tools.safely(() => storage.removeItem(key));
  }
  return claimed;
}

// Saves what *read* gives: once for each user and *name*, also when it was broken off.
export async function importOld(account, tools, name, read) {
  const { _url: url, _subject: subject, _shelf: shelf } = account;
  const json = asking(account, tools);
  const place = [url, subject, "~imports"];
  const { names = [] } = (await shelf.seen(place)) ?? {};
  if (!subject || names.includes(name)) return 0;
  const found = await read();
  for (const { id, title, messages = [] } of found) {
    let at = 0;
    do {
      const body = { ...(title !== undefined && { title }), messages: messages.slice(at, at + SAVED_AT_ONCE) };
      await json(`conversations/${encodeURIComponent(id)}`, { method: "PUT", body });
    } while ((at += SAVED_AT_ONCE) < messages.length);
  }
  await shelf.see(place, { v: 2, names: [...names, name] });
  if (found.length) await account._pull();
  return found.length;
}

// Asks for who is here now, and for nobody who signs in later.
function asking(account, { Problem }) {
  const subject = account._subject;
  return (path, options) => {
    if (subject !== account._subject) throw new Problem(401, { detail: "Somebody else is here now." });
    return account._json(path, options);
  };
}
