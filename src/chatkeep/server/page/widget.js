// The chat page on pages of another site: a button, and the page in a frame that is loaded when somebody opens it, or has talked
// before. <script src="https://chat.example.com/widget.js" defer></script>; data-label, data-side and data-scheme are for the site to choose.
(() => {
  const script = document.currentScript;
  if (!script || window.chatkeepWidget) return;
  const home = new URL("widget", script.src);
  const { label = "Chat", side, scheme } = script.dataset;
  const edge = side === "left" ? "left" : "right";
  // Without a choice it is light or dark as the site's page is.
  const schemes = { light: "light", dark: "dark", both: "light dark" }[scheme] ?? "normal";
  const talked = `chatkeep:widget:${home.href}`;
  const HELLO_MS = 200;
  const PATIENCE_MS = 15_000;

  const element = (tag, given, ...inner) => {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(given)) made.setAttribute(name, value);
    made.append(...inner);
    return made;
  };
  const drawn = (path) => {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("viewBox", "0 0 24 24");
    svg.setAttribute("aria-hidden", "true");
    svg.append(document.createElementNS(svg.namespaceURI, "path"));
    svg.firstChild.setAttribute("d", path);
    return svg;
  };

  const sheet = new CSSStyleSheet();
  sheet.replaceSync(`
:host { all: initial !important; position: fixed !important; z-index: 2147483000 !important; inset: auto 0 0 0 !important; width: 0 !important; height: 0 !important; color-scheme: ${schemes} !important; }
* { box-sizing: border-box; }
[hidden] { display: none !important; }
button { font: 600 16px/1.2 system-ui, sans-serif; cursor: pointer; border: 0; color: light-dark({{on-accent}}, {{dark-on-accent}}); background: light-dark({{accent}}, {{dark-accent}}); }
button:hover { background: light-dark({{accent-hover}}, {{dark-accent-hover}}); }
button:focus-visible { outline: 3px solid Highlight; outline-offset: 3px; }
.launch { position: fixed; bottom: max(20px, env(safe-area-inset-bottom)); ${edge}: 20px; display: grid; place-items: center; width: 56px; height: 56px; border-radius: 50%; box-shadow: 0 4px 16px rgb(0 0 0 / 30%); }
svg { width: 28px; height: 28px; fill: none; stroke: currentcolor; stroke-width: 2; stroke-linecap: round; stroke-linejoin: round; }
.badge { position: absolute; top: -4px; right: -4px; min-width: 22px; padding: 0 6px; border: 2px solid #fff; border-radius: 12px; font: 700 12px/18px system-ui, sans-serif; color: #fff; background: #b3261e; }
.panel { position: fixed; bottom: 92px; ${edge}: 20px; width: 400px; max-width: 92vw; height: 680px; max-height: 80vh; max-height: 80dvh; overflow: hidden; border-radius: 18px; background: Canvas; box-shadow: 0 0 0 1px rgb(128 128 128 / 25%), 0 12px 48px rgb(0 0 0 / 30%); animation: rise 0.18s ease-out; }
iframe { display: block; width: 100%; height: 100%; border: 0; }
.wait { position: absolute; inset: 0; display: grid; grid-template-rows: auto 1fr; padding: 12px; font: 16px/1.4 system-ui, sans-serif; color: CanvasText; background: Canvas; }
.wait p { place-self: center; margin: 0; padding: 0 24px; text-align: center; }
.shut { justify-self: end; width: 40px; height: 40px; border-radius: 50%; font-size: 22px; }
.unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
@keyframes rise { from { opacity: 0; transform: translateY(12px); } }
@media (max-width: 480px), (max-height: 480px) {
  .panel { inset: 0; width: 100%; max-width: none; height: 100vh; height: 100dvh; max-height: none; border-radius: 0; }
  .panel:not([hidden]) ~ .launch { display: none; }
}
@media (prefers-reduced-motion: reduce) { .panel { animation: none; } }
`);

  const bubble = drawn("M4 5h16v11H12l-5 4v-4H4z");
  const arrow = drawn("M5 9l7 7 7-7");
  const badge = element("span", { class: "badge", "aria-hidden": "true", hidden: "" });
  const launch = element("button", { type: "button", class: "launch", "aria-haspopup": "dialog", "aria-expanded": "false" }, bubble, badge);
  const told = element("span", { class: "unseen", role: "status" });
  const shut = element("button", { type: "button", class: "shut", "aria-label": "Close" }, "×");
  const waits = element("p", { role: "status" });
  const cover = element("div", { class: "wait" }, shut, waits);
  const [first, last] = [0, 1].map(() => element("span", { tabindex: "0", class: "unseen" }));
  const panel = element("div", { class: "panel", role: "dialog", "aria-label": label, hidden: "" }, first, cover, last);
  const host = element("chatkeep-widget", {});
  const root = host.attachShadow({ mode: "open" });
  root.adoptedStyleSheets = [sheet];
  root.append(panel, launch, told);

  let [frame, ready, unread, greeting, late] = [null, false, 0, 0, 0];
  const isOpen = () => !panel.hidden;
  const say = (what, more) => frame?.contentWindow?.postMessage({ chatkeep: what, ...more }, home.origin);

  function load() {
    if (frame) return;
    frame = element("iframe", { title: label, allow: "clipboard-write", src: home.href });
    cover.before(frame);
    paint();
    waits.textContent = "Opening…";
    frame.addEventListener("load", greet); // each time: another chat is another page
    late = setTimeout(() => (waits.textContent = "The chat cannot be opened here now. Try again later."), PATIENCE_MS);
  }

  function greet() {
    ready = false;
    clearInterval(greeting);
    greeting = setInterval(() => say("hello"), HELLO_MS);
  }

  // The frame is told which scheme the page around it has: by itself it would only know what the visitor likes.
  function paint() {
    if (frame) frame.style.colorScheme = getComputedStyle(panel).backgroundColor === "rgb(255, 255, 255)" ? "light" : "dark";
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);

  function show() {
    const names = unread ? `${label}, ${unread} new ${unread === 1 ? "message" : "messages"}` : label;
    launch.setAttribute("aria-label", isOpen() ? `Close ${label}` : names);
    launch.setAttribute("aria-expanded", String(isOpen()));
    launch.firstChild.replaceWith(isOpen() ? arrow : bubble);
    badge.hidden = !unread || isOpen();
    badge.textContent = unread > 99 ? "99+" : unread;
  }

  function open() {
    load();
    panel.hidden = false;
    show();
    enter("text");
  }

  // Who goes beyond the frame comes back into it at its other end; Escape is the way out.
  function enter(at) {
    if (!ready) return shut.focus();
    frame.focus();
    say("open", { at });
  }

  function close() {
    if (!isOpen()) return;
    panel.hidden = true;
    show();
    say("closed");
    launch.focus();
  }

  addEventListener("message", ({ source, origin, data }) => {
    if (!frame || source !== frame.contentWindow || origin !== home.origin) return;
    if (data?.chatkeep === "ready" && !ready) {
      clearInterval(greeting);
      clearTimeout(late);
      ready = true;
      const held = [shut, frame].includes(root.activeElement);
      cover.remove();
      if (held) enter("text");
      else if (isOpen()) say("open");
    } else if (data?.chatkeep === "close") close();
    else if (data?.chatkeep === "unread" && Number.isInteger(data.count)) {
      if (data.count > unread) told.textContent = `${data.count} new ${data.count === 1 ? "message" : "messages"} in ${label}`;
      unread = data.count;
      show();
    } else if (data?.chatkeep === "talked") remember();
  });

  function remember() {
    try {
      localStorage[talked] = "1";
    } catch {
      // kept nowhere: then the frame is loaded when it is opened
    }
  }

  function hasTalked() {
    try {
      return talked in localStorage;
    } catch {
      return false;
    }
  }

  launch.addEventListener("click", () => (isOpen() ? close() : open()));
  shut.addEventListener("click", close);
  first.addEventListener("focus", () => enter("last"));
  last.addEventListener("focus", () => enter("first"));
  root.addEventListener("keydown", (event) => {
    if (event.key === "Escape") close();
  });
  show();

  const put = () => {
    document.body.append(host);
    if (hasTalked()) load();
  };
  if (document.readyState === "loading") addEventListener("DOMContentLoaded", put, { once: true });
  else put();
  window.chatkeepWidget = Object.freeze({ open, close });
})();
