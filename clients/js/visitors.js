// A visitor, whom nobody knows: by which name this browser knows their chat, with which token it is kept, and how it begins.
// client.js fetches this module when a chat is opened that no site has made.

export class Visitor {
  // *urls*: the server's address, and as the page has written it; older releases kept things under that.
  constructor({ random, safely }, urls, { storage, name, share }) {
    this._safely = safely;
    this._urls = urls;
    this._storage = storage ?? safely(() => localStorage) ?? memory();
    this._name = share ? random() : (name ?? this._read() ?? random());
    const kept = this._read(`:${this._name}`);
    this._isAlone = kept !== undefined && this._hasNameAlone();
    this._me = share ? { share, shared: true } : JSON.parse(kept ?? "{}");
  }

  _read(rest = "") {
    const found = this._urls.map((url) => this._safely(() => this._storage.getItem(`chatkeep:${url}${rest}`)));
    return found.find((kept) => kept != null);
  }

  _keep(me) {
    const [url, written] = this._urls;
    const write = (rest, value) => this._safely(() => {
      this._storage.setItem(`chatkeep:${url}${rest}`, value);
      if (written !== url) this._storage.removeItem(`chatkeep:${written}${rest}`);
    });
    write(`:${this._name}`, JSON.stringify(me));
    // What somebody else has shared does not take the place of the chat that is one's own.
    if (!me.shared || (me.id && this._read() === undefined)) write("", this._name);
  }

  _forget() {
    for (const rest of this._read() === this._name ? ["", `:${this._name}`] : [`:${this._name}`])
      for (const url of this._urls) this._safely(() => this._storage.removeItem(`chatkeep:${url}${rest}`));
  }

  // Whether no other server has a chat of this name here: older releases kept what was written by the name alone.
  _hasNameAlone() {
    const own = this._urls.map((url) => `chatkeep:${url}:${this._name}`);
    const keys = [this._safely(() => localStorage), this._storage].flatMap((storage) => Object.keys(storage ?? {}));
    return keys.every((key) => own.includes(key) || !(key.startsWith("chatkeep:") && key.endsWith(`/v1/:${this._name}`)));
  }

  // Gives *place* what was written before it was known who this is.
  async _move(shelf, place) {
    if (this._isAlone) await shelf.move(this._name, place);
    await shelf.move([this._urls[0], "", this._name], place);
  }

  // Gets a conversation and the right to it: by the link that was opened, or a new one.
  async _begin(chat) {
    const { share, shared } = chat._me;
    const body = { ...(share && { share }), ...(chat._cookie && { cookie: true }) };
    const answer = await chat._ask(share ? "shares/redeem" : "conversations", { method: "POST", body });
    const { id, token, scopes, expires_at } = await answer.json();
    if (!chat._gone) chat._tell("conversation", { id, token, scopes, expires_at, shared });
  }
}

function memory() {
  const kept = new Map();
  return { getItem: (key) => kept.get(key) ?? null, setItem: (key, value) => kept.set(key, value), removeItem: (key) => kept.delete(key) };
}
