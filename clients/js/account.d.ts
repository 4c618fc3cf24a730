import type { Chat, Json } from "./client.js";

/** A page with users needs this module alone. */
export { Chat, Problem, merged, open, shareInAddress } from "./client.js";

/** A conversation in the list of its owner. */
export interface Summary {
  readonly id: string;
  readonly title: string;
  /** Grows with each message and each change of title, state or marks. */
  readonly version: number;
  readonly checksum?: string;
  /** Seconds since 1970. */
  readonly updated_at: number;
  /** The number of its last entry, and up to which one its owner has read. */
  readonly head: number;
  readonly seen: number;
  /** How many of the last replies its owner has not seen. */
  readonly unseen: number;
  readonly last: string;
  readonly last_role: string;
  readonly archived: boolean;
  readonly pinned: boolean;
  /** Something of it was changed here and is not with the server yet. */
  readonly pending?: boolean;
}

/** `guest`: a user whose name begins with "guest:". `expired`: the sign-in is over, and what was kept is still shown. */
export type AuthState = "guest" | "signed-in" | "expired" | "signed-out";

/**
 * Something that a person should hear of. `persistent` ones stand in `account.notices` until they are dismissed; the
 * others are shown for `duration` milliseconds. `actions` are what can be done about it; one that is done dismisses it.
 */
export interface Notice {
  readonly id: string;
  readonly kind: "saved" | "failed" | "offline" | "restored" | "conflict" | "claimed" | "expired" | "device" | (string & {});
  readonly level: "info" | "warning" | "error";
  readonly text: string;
  /** Milliseconds since 1970. */
  readonly at: number;
  readonly duration: number;
  readonly persistent: boolean;
  readonly actions: readonly { readonly name: string; run(): Promise<void> }[];
  /** The conversation that it is about. */
  readonly about?: string;
}

/** A token as a server hands it out: `POST /v1/users/{user}/tokens`. */
export interface Credential {
  id?: string;
  token: string;
  expires_at?: number | null;
}

export interface AccountOptions {
  /** Where chatkeep's server is, without /v1. By default where this module came from. */
  url?: string;
  /**
   * A function that gets a user's token from your site: called when one is needed, and again when one is refused; null:
   * nobody is signed in. true: the browser's session says who it is (`create_app(users=...)`). Left out: the token that
   * was given to `signIn` is kept in `storage`, and refreshed when half its time is over.
   */
  token?: true | (() => string | null | Promise<string | null>);
  /** Who is signed in, so that what is kept is shown before there is a token. */
  user?: string;
  /** Where the token is kept between pages. By default localStorage. */
  storage?: globalThis.Storage;
}

/** Something that gave way to a later change. */
export interface Lost {
  readonly number: number;
  readonly about: "title" | "message" | "state";
  readonly value: Json;
  readonly slot: string;
  readonly path: readonly string[];
  readonly at: number;
  readonly by: string;
  readonly noted_at: number;
}

/** One of the user's tokens. */
export interface Device {
  readonly id: string;
  readonly label: string;
  /** Whether it is the one that asks. */
  readonly current: boolean;
  readonly created_at: number;
  readonly last_used_at: number | null;
  readonly expires_at: number | null;
}

export interface AccountEvents {
  auth: { state: AuthState; user: string | null };
  conversations: readonly Summary[];
  notice: Notice;
  /** The notice with this id stands no more. */
  dismiss: string;
  /** Somebody wants to sign in again. */
  "sign-in": null;
}

/** What a user has, in this tab. All tabs of one browser agree, and all devices of the user. */
export class Account extends EventTarget {
  constructor(options?: AccountOptions);
  readonly loaded: Promise<void>;
  readonly state: AuthState;
  readonly user: string | null;
  /** Pinned ones first, then the last changed; with what was done here and is not with the server yet. */
  readonly conversations: readonly Summary[];
  readonly notices: readonly Notice[];

  on<Name extends keyof AccountEvents>(event: Name, hear: (detail: AccountEvents[Name]) => void): () => void;

  /** The token to use now; true: the browser's session; null: nobody is signed in. */
  token(): Promise<string | true | null>;
  /** Puts a new token in the place of the one that is kept, in all tabs. */
  refresh(): Promise<void>;
  /**
   * Goes on as who is signed in now: by *token*, or by what the page's token function gives. The chats that guests have in
   * this browser become the user's, unless *claim* is false; answers whose they were.
   */
  signIn(options?: { token?: string | Credential; claim?: boolean }): Promise<string[]>;
  /**
   * Ends the token of this device and removes what the user has seen, in all tabs. What is not sent is kept for the next
   * sign-in, unless *unsent* is "discard"; with "send" it is waited for, and refused while there is no line.
   */
  signOut(options?: { unsent?: "keep" | "send" | "discard" }): Promise<void>;

  /** Opens a conversation of the user; without an id a new one, which begins with its first message. */
  chat<State = { [name: string]: Json }>(id?: string): Promise<Chat<State>>;
  /** Tells what becomes of a chat that the page has opened otherwise, such as a visitor's, as notices. */
  watch(chat: Chat): void;

  /** These are kept here, shown at once, and sent when it is possible. */
  create(title?: string, id?: string): Promise<string>;
  rename(id: string, title: string): Promise<void>;
  archive(id: string, archived?: boolean): Promise<void>;
  pin(id: string, pinned?: boolean): Promise<void>;
  /** The user has read up to this message. */
  seen(id: string, number: number): Promise<void>;
  /** Erases it, on all devices. */
  delete(id: string): Promise<void>;

  /** What gave way in a conversation, the newest first. */
  losses(id: string): Promise<Lost[]>;
  /** Puts it back, as a change of now. */
  restore(id: string, number: number): Promise<void>;
  devices(): Promise<Device[]>;
  /** Signs a device out. */
  endDevice(id: string): Promise<void>;
  /** Saves what *read* gives of an application's own old data; once for each user and *name*. Answers how many conversations. */
  importOld(name: string, read: () => OldConversation[] | Promise<OldConversation[]>): Promise<number>;

  /** Shows a notice of the page's own. */
  notify(notice: Partial<Omit<Notice, "actions">> & { kind: string; text: string; actions?: { name: string; run(): unknown }[] }): Notice;
  dismiss(id: string): void;

  stats(): { [part: string]: unknown };
  /** Kept for this browser. While on, `lines` has the last 500 things that happened, with names and sizes and no content. */
  debug: boolean;
  readonly lines: readonly unknown[][];
  /** Lets go of everything, the chats too. */
  close(): void;
}

export interface OldConversation {
  id: string;
  title?: string;
  messages?: { id: string; content: string; role?: string; created_at?: number; metadata?: { [name: string]: Json } }[];
}

/** Opens the account of this page: what is kept here at once, what the server has if it answers. */
export function openAccount(options?: AccountOptions): Promise<Account>;
