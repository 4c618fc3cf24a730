// The operators' desk: who is signed in, which view is open, the keyboard. What people wrote, ids and states are hostile: they are put in as
// text only, and what would be invisible in them, or turn a line around, is shown as a token.

import { bindButtons, closeDialogs, isOpen, offer, offerMore, press } from "./operator-acts.js";
import { element, forget, look, may, me, onSignedOut, signIn, signOut, touch, words } from "./operator-ask.js";
import { allowSearch, choosePlace, empty, refresh, showEverywhere } from "./operator-list.js";
import { close, forgetDrafts, open, restoreDrafts, showInside } from "./operator-talk.js";
import { forgetCanned } from "./operator-canned.js";
import { closePage, openPage } from "./operator-queues.js";
import { forgetViews, loadViews } from "./operator-views.js";
import { create, visible } from "./shown.js";

const [entry, refusal, who, password, key, host, provider, desk, shown, role, account, tenants, tenant, lists, unchosen, trouble] =
  "entry refusal who password key host provider desk shown role account tenants tenant lists unchosen trouble".split(" ").map(element);
const VIEWS = ["queues", "replies", "health", "audit"];
const WIDE = matchMedia("(min-width: 72rem)");

// -- signing in -------------------------------------------------------------------------------------------------------

// Why somebody comes back from the OpenID provider without being signed in: by a code, since words in an address could be anybody's.
const REFUSED = {
  late: "The sign-in took too long, or was begun in another browser. Try again.",
  state: "The answer belongs to another attempt than this one. Try again.",
  denied: "The provider did not let you in.",
  token: "The provider's answer could not be believed. The server's log says why.",
  away: "The provider cannot be reached, or is not set up right. The server's log says why.",
  account: "There is no account for you here, or it is disabled. Ask whoever looks after the desk.",
  password: "The account of this name signs in with a password, and not through the provider.",
  subject: "The account of this name belongs to somebody else at the provider.",
  name: "The provider does not say who you are in a way that can be used here, such as by a verified address of mail.",
  role: "The provider gives you no role here. Ask whoever looks after the desk.",
};

function refusedBefore() {
  const [, code] = /^#\/refused\/([a-z]+)$/.exec(location.hash) ?? [];
  if (!code) return "";
  history.replaceState(null, "", location.pathname);
  return Object.hasOwn(REFUSED, code) ? REFUSED[code] : "You were not signed in.";
}

function out(why = "") {
  closeDialogs();
  forget();
  forgetCanned();
  forgetViews();
  close();
  closePage();
  empty();
  refusal.replaceChildren(...visible(why));
  desk.hidden = true;
  entry.hidden = false;
  password.value = key.value = "";
  who.focus();
}

// Which ways to sign in there are beside a name and a key.
function showWays(told) {
  host.hidden = !told.host;
  provider.hidden = !told.provider;
  provider.textContent = told.provider ?? "";
}

async function enter() {
  entry.hidden = true;
  desk.hidden = false;
  refusal.replaceChildren();
  shown.replaceChildren(...visible(me.shown || me.account));
  role.textContent = me.role;
  account.replaceChildren(...visible(me.account));
  tenants.hidden = me.tenants.length < 2 && !me.everywhere;
  const names = me.everywhere ? ["*", ...me.tenants] : me.tenants;
  tenant.replaceChildren(...names.map((name) => Object.assign(create("option", "", name === "*" ? "All" : name || "(default)"), { value: name })));
  tenant.value = me.tenant;
  document.querySelector('[data-view="audit"]').hidden = !may("audit");
  document.querySelector('[data-view="replies"]').hidden = !may("operate");
  allowSearch();
  restoreDrafts();
  showInside(WIDE.matches);
  choose();
  await Promise.all([refresh(), loadViews()]);
}

async function leave(why) {
  out(why);
  showWays(await look().catch(() => ({})));
}

onSignedOut((why) => desk.hidden || leave(why));

async function entering(body) {
  refusal.replaceChildren();
  try {
    await signIn(body);
    password.value = key.value = "";
    await enter();
  } catch (fault) {
    refusal.replaceChildren(...visible(words(fault)));
  }
}

entry.addEventListener("submit", (event) => {
  event.preventDefault();
  if (key.value.trim()) entering({ key: key.value.trim() });
  else entering({ name: who.value, password: password.value });
});
host.addEventListener("click", () => entering({}));
provider.addEventListener("click", () => location.assign(new URL("v1/session/oidc", import.meta.url)));
for (const kind of ["keydown", "pointerdown"]) addEventListener(kind, touch, { passive: true });

// -- views ------------------------------------------------------------------------------------------------------------

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // typed by hand: taken as it is
  }
}

function choose() {
  if (!me.proof) return;
  close();
  closePage();
  const hash = location.hash.slice(1);
  const view = VIEWS.find((name) => hash === `/${name}`);
  const cut = hash.indexOf("/");
  const named = cut > 0 ? decoded(hash.slice(0, cut)) : me.tenants[0];
  const other = cut > 0 && (me.everywhere || me.tenants.includes(named));
  const id = view ? "" : decoded(other ? hash.slice(cut + 1) : hash);
  document.body.className = view ? "paged" : id ? "chosen" : "";
  for (const link of document.querySelectorAll("[data-view]")) {
    if (link.dataset.view === (view ?? "talks")) link.ariaCurrent = "page";
    else link.removeAttribute("aria-current");
  }
  lists.hidden = Boolean(view);
  unchosen.hidden = Boolean(view || id);
  choosePlace(hash);
  if (view) openPage(view);
  else if (id) {
    open(hash, other ? named : me.tenants[0], id);
    showInside(WIDE.matches);
  }
}

tenant.addEventListener("change", () => {
  if (tenant.value !== "*") me.tenant = tenant.value;
  showEverywhere(tenant.value === "*");
  if (location.hash.startsWith("#/")) choose();
});
addEventListener("hashchange", choose);

// -- the keyboard -----------------------------------------------------------------------------------------------------

const go = (view) => () => (location.hash = view);
offer("Desk", {
  talks: { words: "Go to the conversations", deed: go("") },
  queues: { words: "Go to the queues: what waits for people", deed: go("/queues") },
  replies: { words: "Go to the canned replies", when: () => may("operate"), deed: go("/replies") },
  health: { words: "Go to health: switches, charts, settings", deed: go("/health") },
  audit: { words: "Go to the audit: who did what", when: () => may("audit"), deed: go("/audit") },
  leave: {
    words: "Sign out",
    deed: async () => {
      forgetDrafts();
      await signOut();
      await leave();
    },
  },
});
offerMore(() =>
  tenants.hidden ? [] : [...tenant.options].map((option) => ({ words: `Tenant: ${option.textContent}`, group: "Desk", deed: () => [(tenant.value = option.value), tenant.dispatchEvent(new Event("change"))] })),
);
// What the view that is open has buttons for.
offerMore(() => [...element("page").querySelectorAll("button:enabled")].map((made) => ({ words: made.ariaLabel || made.textContent, group: made.closest("section").firstChild.textContent, deed: () => made.click() })));
bindButtons();

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !me.proof || isOpen()) return;
  const typing = event.target.matches("input:not([type=radio], [type=checkbox]), textarea, select");
  if (event.key === "Escape") {
    if (typing) event.target.blur();
    else if (location.hash) location.hash = "";
    return;
  }
  if (!typing && press(event.key)) event.preventDefault();
});

// An error of the page itself is told, and never shown as an empty log.
for (const event of ["error", "unhandledrejection"])
  addEventListener(event, ({ error, reason }) => {
    if (reason?.name === "AbortError") return;
    trouble.replaceChildren(...visible(`This page has met an error: ${error ?? reason}. Reload it, and report it if it comes again.`));
    trouble.hidden = false;
  });

try {
  const told = await look();
  showWays(told);
  const why = refusedBefore();
  if (told.signed_in) await enter();
  else out(why);
} catch (fault) {
  out(words(fault));
}
