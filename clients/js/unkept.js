// What is not sent, in memory: for browsers that keep nothing, such as in a frame of another site. client.js fetches this module
// where there is no IndexedDB, in the place of its Shelf.

export class MemoryShelf {
  _items = [];
  _next = 1;

  constructor({ same }) {
    this._same = same;
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
