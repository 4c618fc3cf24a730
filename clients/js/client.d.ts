/** A JSON value. */
export type Json = null | boolean | number | string | Json[] | { [name: string]: Json };

/** Text, or a list of JSON parts such as `{ type: "text", text: "hello" }`. */
export type Content = string | { [name: string]: Json }[];

/**
 * `sending`: kept here, and not with the server yet. `sent`: in the log on the server. `delivered`: the bot has dealt
 * with it. `failed`: refused, or given up by the bot; `error` says why, and `retry` sends it again.
 * `streaming`: a reply that is just being made. `received`: a reply, or anything else that is not from the user.
 */
export type MessageStatus = "sending" | "sent" | "delivered" | "failed" | "streaming" | "received";

/** A message of the chat. A change of it is a new object under the same `id`. */
export interface Message {
  readonly id: string;
  /** Its place in the log; undefined while the server does not have it. */
  readonly number?: number;
  readonly role: "user" | "assistant" | "operator" | "event";
  /** Which person, of an operator's message. */
  readonly author?: string;
  readonly content: Content;
  /** The text alone: the content, or its text parts, one a line. */
  readonly text: string;
  readonly status: MessageStatus;
  readonly error?: string;
  /** Seconds since 1970. */
  readonly created_at?: number;
  /** The first and the last message that this one answers, by their numbers. */
  readonly reply_from?: number;
  /** What it said was removed for good. */
  readonly redacted?: boolean;
  readonly reply_to?: number;
  readonly metadata?: { [name: string]: Json };
}

/**
 * `saved`: the server has everything. `sending`: something is on its way. `offline`: the server cannot be reached, and
 * what is written is kept here. `restored`: for four seconds after that, when all has caught up. `failed`: a message
 * was refused, or the chat cannot be opened here (`problem` is then set).
 */
export type Status = "saved" | "sending" | "offline" | "restored" | "failed";

/** Why the chat is offline or cannot be opened: `status` and `type` are those of the server's problem document. */
export interface Trouble {
  readonly message: string;
  readonly status?: number;
  readonly type?: string;
  readonly body?: { [name: string]: Json };
}

/** An answer of the server that is not a yes. */
export class Problem extends Error implements Trouble {
  readonly status: number;
  readonly type: string;
  readonly body: { [name: string]: Json };
  /** Whether asking again would be answered the same. */
  get final(): boolean;
}

export interface Options {
  /** Where chatkeep's server is, without /v1. By default where this module came from. */
  url?: string;
  /** Names the chat in this browser. By default the one that was opened last; a new name begins another conversation. */
  name?: string;
  /** A conversation that your site has made, opened with your `token`; nothing of it is put into `storage`. */
  conversation?: string;
  /** The token for it, or a function that gets one: called when it is needed, and again when one is refused. null: nobody is signed in; true: the browser's session says who it is. */
  token?: string | true | (() => string | true | null | Promise<string | true | null>);
  /** Who is signed in, by any name that stays the same: whose things are shown before there is a token. */
  user?: string;
  /** Of a user's token or session: a conversation that is not there yet begins with its first message. */
  create?: boolean;
  /** Keeps the token in a cookie that no script can read. There is one such chat for each browser and host. */
  cookie?: boolean;
  /** A share to open. By default the one in the address (#share=...), which is taken out of it at once; ask the person first: `shareInAddress`. */
  share?: string;
  /** Where name and token are kept between pages. By default localStorage. */
  storage?: Pick<globalThis.Storage, "getItem" | "setItem" | "removeItem">;
}

/** One member of the state that page and bot share. What is written here is shown at once, and saved as soon as may be. */
export interface Slot<Value> {
  /** The value with this browser's unsaved changes; undefined when there is none, or none may be read. */
  get(): Value | undefined;
  /**
   * Replaces it. Resolves when it is kept here. What others have changed meanwhile is put together with it, member by
   * member; where both have changed the same, the later change stands, and the other is a "loss".
   */
  set(value: Value): Promise<void>;
  /** Changes members of it (RFC 7396: null removes). */
  patch(patch: { [Name in keyof Value]?: Value[Name] | null }): Promise<void>;
  clear(): Promise<void>;
  /** Calls *hear* with the value now, and whenever it is another. Answers a function that ends that. */
  subscribe(hear: (value: Value | undefined) => void): () => void;
}

export interface Events {
  /** A message is new, or has changed. */
  message: Message;
  /** The message with this id is not shown any more: the streamed form of a reply, or one that was discarded. */
  remove: string;
  typing: boolean;
  failing: Failing | null;
  status: Status;
  /** The state, from here or from there. */
  state: unknown;
  /** The conversation has begun on the server, or was opened by a share: its id. */
  conversation: string;
  /** A change of this slot is with the server. */
  kept: string;
  /** In a merge of a slot this gave way to a later change; `losses` has it, and `restore` puts it back. */
  loss: { slot: string; path: string[]; value: Json; at: number; by: string };
  close: null;
}

/** The bot has failed on this message so often; *retry_at*: when it tries again, in seconds since 1970, UTC. */
export interface Failing {
  number: number;
  attempts: number;
  retry_at: number;
}

/**
 * Whether somebody answers; *number*: the first message that this is about; *reply*: the id that its streamed reply will have;
 * *failing*: its attempts so far have failed.
 */
export interface Answering {
  status: "running" | "waiting" | "paused" | "set aside" | "idle";
  number?: number;
  reply?: string;
  failing?: Failing;
}

/** A conversation, in this tab. All tabs of one browser on the same `name`, or with the same subject's token for one conversation, agree. */
export class Chat<State = { [name: string]: Json }> extends EventTarget {
  /** In order: the log as far as it is loaded, a reply that is being made, what the server does not have yet. */
  readonly messages: readonly Message[];
  /** Whether the bot is at it. */
  readonly typing: boolean;
  /** The bot has failed and tries again; null: it has not. */
  readonly failing: Failing | null;
  /** Whether somebody else's share has opened it: others read what is written here. */
  readonly shared: boolean;
  readonly status: Status;
  readonly problem: Trouble | null;
  /** How much of what this subject has written here is not with the server. */
  readonly unsent: number;
  /** Whether there are earlier messages than the first of `messages`. */
  readonly more: boolean;
  readonly name: string;
  /** The conversation's id on the server; undefined before the first message of a new chat. */
  readonly conversation: string | undefined;
  /** What the bot knows, with this browser's unsaved changes. Needs the scope state:read. */
  readonly state: State | undefined;

  on<Name extends keyof Events>(event: Name, hear: (detail: Events[Name]) => void): () => void;

  /** Sends a message: shown and kept at once, sent in order, under one id however often that takes. */
  send(content: Content, options?: { id?: string; metadata?: { [name: string]: Json } }): Promise<Message>;
  /** Sends a failed message again: under its id, or as a new one if the bot had given it up. */
  retry(id: string): Promise<unknown>;
  /** Forgets a message that was not sent. */
  discard(id: string): Promise<void>;
  /** Loads up to *limit* messages from before the first; answers whether there are more. */
  earlier(limit?: number): Promise<boolean>;
  /** Takes back a message that waits for its turn: what it says is removed for good. Rejects when it is being answered, or was. */
  withdraw(number: number): Promise<void>;
  /** Says a message that waits for its turn anew: the new one goes to the end of what waits. */
  amend(number: number, content: Content): Promise<{ id: string; number: number }>;
  /** Ends the reply that is being made, and keeps what was said of it: *reply*, with `metadata.stopped`. */
  stop(): Promise<{ stopped: boolean; reply: Message | null }>;
  /** What gave way in merges, the newest first; and puts one of it back, as a change of now. */
  losses(): Promise<{ number: number; about: string; value: Json; slot: string; path: string[]; at: number; by: string; noted_at: number }[]>;
  restore(number: number): Promise<void>;
  /** Counts: messages, what is not sent or was refused, whether this tab leads. */
  stats(): { [name: string]: unknown };
  /** Whether somebody answers now, on whichever server. */
  answering(): Promise<Answering>;
  /** A link that opens this conversation in another browser: once, within ten minutes, with the same rights, by default. */
  share(options?: { scopes?: string[]; expires_in?: number; uses?: number }): Promise<string>;
  slot<Name extends keyof State & string>(name: Name): Slot<State[Name]>;

  /** Lets go of everything; another tab goes on. What is not sent yet waits for the next page. */
  close(): void;
  /** How much of this conversation others have not sent yet, and how much is of nobody known; neither is sent here. */
  kept(): Promise<{ others: number; unknown: number }>;
  /** Takes what is of nobody known as this subject's, and sends it. Ask the person first. */
  adopt(): Promise<void>;
  /**
   * Closes, and removes all that this browser keeps of the chat, in every tab. The server's copy stays.
   * Rejects with an error named "Unsent", with its `count`, while something is not sent and *unsent* does not say what
   * becomes of it. "keep" leaves it for the next sign-in; not for visitors, whose right to the chat goes.
   */
  forget(options?: { unsent?: "discard" | "keep" }): Promise<void>;
}

/** Opens the chat of this page as it was left: what is kept here at once, what the server has if it answers. */
export function open<State = { [name: string]: Json }>(options?: Options): Promise<Chat<State>>;

/** The share in the page's address, which is taken out of it: to be given to `open` when the person has agreed. */
export function shareInAddress(): string | undefined;

/** *value* with a JSON merge patch (RFC 7396) applied. */
export function merged(value: unknown, patch: unknown): unknown;
