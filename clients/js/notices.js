// Tells what people can do something about: what was refused, what gave way to a later change, a sign-in that is over. account.js fetches this module
// when there is such a thing.

export function expired(account, { emit }) {
  if (account.state !== "expired") return; // somebody was faster than this module
  const text = "Your sign-in has ended. Sign in again to go on; what you write is kept.";
  account.notify({ id: "expired", kind: "expired", text, actions: [{ name: "sign-in", run: () => emit(account, "sign-in") }] });
}

export function failed(account, tools, chat, { id: about, error }) {
  if (chat.messages.find((message) => message.id === about)?.status !== "failed") return;
  const actions = [{ name: "retry", run: () => chat.retry(about) }, { name: "discard", run: () => chat.discard(about) }];
  account.notify({ id: `failed:${about}`, kind: "failed", text: `Not sent: ${error}`, about: chat.conversation, actions });
}

export function lost(account, { same }, chat, { slot, path }) {
  const id = `conflict:${JSON.stringify([chat.conversation, slot, path])}`; // the same in each of its chats
  const text = "Another device has changed this too; the later change stands.";
  const restore = (number) => chat.restore(number);
  tellConflict(account, chat.conversation, id, text, () => chat.losses(), restore, (one) => one.slot === slot && same(one.path, path));
}

export function renamed(account, tools, conversation) {
  const text = "This chat was renamed on another device too; the later title stands.";
  const restore = (number) => account.restore(conversation, number);
  tellConflict(account, conversation, `conflict:${conversation}`, text, () => account.losses(conversation), restore, (one) => one.about === "title");
}

// What gave way can be put back: the log of the conversation has it.
function tellConflict(account, about, id, text, losses, restore, isThis) {
  const run = async () => {
    const found = (await losses()).find(isThis);
    if (found) await restore(found.number);
    account._both({ dealt: id }); // once more, and what was put back would give way
  };
  account.notify({ id, kind: "conflict", text, about, actions: [{ name: "restore", run }] });
}
