// What a page may want of the server for a chat. client.js fetches this module when one of these is called.

const PAGE = 50;

export async function earlier(chat, tools, limit = PAGE) {
  const first = chat._log.ordered[0]?.number ?? 1;
  const { messages, truncated } = await chat._json(`/messages?before=${first}&limit=${limit}`);
  chat.more = messages.length === limit || !!truncated;
  chat._take("message", messages);
  return chat.more;
}

export async function withdraw(chat, tools, number) {
  await chat._here(`/waiting/${number}`, { method: "DELETE" });
}

export function amend(chat, tools, number, content) {
  return chat._json(`/waiting/${number}`, { method: "PUT", body: { content } });
}

export function stop(chat) {
  return chat._me.id ? chat._json("/stop", { method: "POST" }) : { stopped: false, reply: null };
}

export function answering(chat) {
  return chat._me.id ? chat._json("/answering") : { status: "idle" };
}

export async function losses(chat) {
  return (await chat._json("/losses")).losses;
}

export async function restore(chat, tools, number) {
  await chat._here(`/losses/${number}`, { method: "POST" });
}

export async function share(chat, tools, options) {
  if (!chat._me.id) throw new Error("There is nothing to share yet: send a message first.");
  const scopes = chat._me.scopes.filter((scope) => scope !== "share");
  const made = await chat._json("/shares", { method: "POST", body: { scopes, ...options } });
  return `${location.origin}${location.pathname}#share=${made.share}`;
}
