// A BroadcastChannel by a key of localStorage. client.js fetches this module where there is no better one.

export class StorageChannel {
  constructor(name, { random }) {
    this._key = `${name}:said`;
    this._random = random;
    this._listener = ({ key, newValue }) => key === this._key && newValue && this.onmessage({ data: JSON.parse(newValue)[1] });
    addEventListener("storage", this._listener);
  }

  postMessage(what) {
    try {
      localStorage[this._key] = JSON.stringify([this._random(), what]);
      localStorage.removeItem(this._key);
    } catch {
      // storage is blocked or full: each tab is for itself
    }
  }

  close() {
    removeEventListener("storage", this._listener);
  }
}
