// What is not sent, in memory: for browsers that keep nothing, such as in a frame of another site, and for what a browser has no room for.
// client.js fetches this module where there is no IndexedDB, in the place of its Shelf, and where something could not be kept in it.

const FIRST = 2 ** 40; // what is held is numbered behind all that is kept

const isWaiting = (item) => item && !item.error && !item.sent;

export class MemoryShelf {
  _items = [];
  _next = 1;

  constructor({ same }) {
    this._same = same;
  }

  get isHeld() {
    return this._items.some(isWaiting);
  }

  async edit(chat, change) {
    const mine = () => this._items.filter((item) => this._same(item.chat, chat));
    change?.(mine(), {
      put: (item) => (this._items = [...this._items.filter(({ n }) => n !== item.n), { n: this._next++, ...item, chat }].sort((a, b) => a.n - b.n)),
      delete: (n) => (this._items = this._items.filter((item) => item.n !== n)),
    });
    return mine();
  }

  async all() {
    return this._items;
  }

  async move(from, to) {
    for (const item of this._items) if (this._same(item.chat, from)) item.chat = to;
  }

  async seen() {}
  async see() {}
  async wipe() {}
  async whose() {}
  async note() {}
}

// What could not be kept, held beside *kept*, what the database does: whatever is changed is tried there first.
export class HeldShelf {
  _items = new Map(); // n -> item; null: the database has it still, and it is gone
  _next = FIRST;

  constructor({ same }, kept) {
    this._same = same;
    this._kept = kept;
  }

  get isHeld() {
    return [...this._items.values()].some(isWaiting);
  }

  _over(items, isMeant) {
    const held = [...this._items.values()].filter((item) => item && isMeant(item));
    return [...items.filter(({ n }) => !this._items.has(n)), ...held].sort((a, b) => a.n - b.n);
  }

  async _look(chat) {
    return this._over(await this._kept.edit(chat).catch(() => []), (item) => this._same(item.chat, chat));
  }

  async edit(chat, change) {
    const items = await this._look(chat);
    if (!change) return items;
    const done = [];
    change(items, { put: (item) => done.push([{ ...item, chat }]), delete: (n) => done.push([null, n]) });
    for (const [item, n = item.n] of done) {
      // What comes behind something that is held is held too: it is sent in order.
      const isBehind = n === undefined && (await this._look(chat)).some((one) => one.n >= FIRST);
      const keep = (_, store) => (item ? store.put(item) : store.delete(n));
      const isKept = !isBehind && !(n >= FIRST) && (await this._kept.edit(chat, keep).then(() => true, () => false));
      if (isKept || (!item && n >= FIRST)) this._items.delete(n);
      else this._hold(item, n);
    }
    return this._look(chat);
  }

  _hold(item, n = this._next++) {
    this._items.set(n, item && { ...item, n });
  }

  async all() {
    return this._over(await this._kept.all().catch(() => []), () => true);
  }

  async move(from, to) {
    const items = await this._look(from);
    const isKept = await this._kept.move(from, to).then(() => true, () => false);
    for (const item of items) if (!isKept || this._items.has(item.n)) this._hold({ ...item, chat: to }, item.n);
  }
}
