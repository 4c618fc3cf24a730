// The tokens of a user, one for each device. account.js fetches this module when one is to be refreshed or ended, when devices are asked
// for, and a while after the opening, to look whether there are new ones.

const GRACE_S = 3600; // so long a token that was refreshed may go on
const LATE_MS = 5000; // so late at most a tab reads of what another one has written

export async function devices(account, { serverTime }) {
  const { tokens } = await account._json("me/tokens");
  const own = account._read("")?.id; // (servers of before do not say which one asks; of a token that was given alone nobody knows it then)
  const now = serverTime(Date.now());
  const isLive = (one) => !one.revoked && !(one.expires_at < now);
  // One that was refreshed goes on for a while beside its successor.
  return tokens.map((one) => ({ ...one, current: one.current ?? one.id === own })).filter((one) => isLive(one) && (one.current || !one.rotated));
}

export async function endDevice(account, tools, id) {
  await account._ask(`me/tokens/${encodeURIComponent(id)}`, { method: "DELETE" });
}

// Puts a new token in the place of the one that is kept, unless another tab was faster.
export async function refresh(account, { locked, pick, request, serverTime }) {
  if (account._mint) return account._identify();
  const old = account._read("").token;
  await locked(`${account._key}:refresh`, async () => {
    const kept = account._read("");
    if (kept?.token !== old) return;
    try {
      const fresh = await (await request(`${account._url}me/tokens/current/rotate`, { method: "POST", token: old })).json();
      account._write("", { ...kept, ...pick(fresh, "id", "token", "expires_at"), at: serverTime(Date.now()) });
    } catch (fault) {
      // The site's own, of which the server has no other: without a beginning it has no half of its time, and is not tried again.
      if (fault.status === 404 && !old.startsWith("ck_")) account._write("", { ...kept, at: undefined });
      if (fault.status !== 409) throw fault;
      // Another tab has refreshed it: this one may read so later than it gets the lock.
      for (const end = performance.now() + LATE_MS; account._read("")?.token === old; await new Promise((go) => setTimeout(go, 50))) if (performance.now() > end) throw fault;
    }
  });
  account._tell({ who: true });
  await account._identify();
}

// Ends on the server what was signed out of here, also when there was no line then.
export async function endTokens(account, { request }) {
  const names = Object.keys(account._storage).map((key) => (key.startsWith(account._key) ? key.slice(account._key.length) : ""));
  for (const name of names.filter((name) => name.startsWith(":end"))) {
    // A list is of an older release; another tab may have seen to it just now.
    for (const token of name === ":end" ? (account._read(name) ?? []) : [name.slice(5)])
      await request(`${account._url}me/tokens/current`, { method: "DELETE", token }).catch((fault) => {
        if (!fault.final) throw fault;
      });
    account._write(name);
  }
}

// Tells of devices that were not there when this browser looked last.
export async function lookAtDevices(account, tools) {
  const found = await devices(account, tools);
  const known = account._devices ?? found.filter((one) => one.created_at < tools.serverTime(account._lookedAt));
  const lasting = found.filter((one) => !(one.expires_at < tools.serverTime(Date.now()) + GRACE_S)); // one that was refreshed has a successor
  account._devices = lasting.map(({ id, label }) => ({ id, label }));
  account._keepSoon();
  const count = (devices, label) => devices.filter((one) => one.label === label).length;
  for (const { id, label, current } of lasting)
    if (!current && !known.some((one) => one.id === id) && count(lasting, label) > count(known, label))
      account.notify({
        id: `device:${id}`,
        kind: "device",
        text: `Your account was opened on another device${label && `: ${label}`}.`,
        actions: [{ name: "sign-out", run: () => account.endDevice(id) }],
      });
}
