// The chat page in a frame of another site. It speaks only with the page around it, and only if that page is one of the sites that were
// named; it says how many messages are unread, and never what they say.

const element = (id) => document.getElementById(id);
const inside = () => [...document.querySelectorAll("a[href], button, textarea, input, summary, [tabindex='0']")].filter((one) => !one.disabled && one.getClientRects().length);

const sites = document.body.dataset.frame.split(" ");

function isNamed(origin) {
  return sites.some((site) => {
    const [scheme, name] = site.split("://*.");
    return name === undefined ? site === origin : origin.startsWith(`${scheme}://`) && origin.endsWith(`.${name}`);
  });
}

export function live({ chat }) {
  if (parent === window) return;
  const key = `chatkeep:read:${location.pathname}:${chat.name}`;
  let [site, open, read] = ["", false, kept(key)];
  const say = (what, more) => site && parent.postMessage({ chatkeep: what, ...more }, site);

  function count() {
    const said = chat.messages.filter(({ role, number = 0, status }) => role !== "user" && status === "received" && number > read);
    const seen = open && !document.hidden;
    if (seen && said.length) keep(key, (read = said.at(-1).number));
    say("unread", { count: seen ? 0 : said.length });
    if (chat.messages.length) say("talked");
  }

  addEventListener("message", ({ source, origin, data }) => {
    if (source !== parent || !isNamed(origin) || typeof data?.chatkeep !== "string") return;
    if (data.chatkeep === "hello" && !site) {
      site = origin;
      say("ready");
    } else if (data.chatkeep === "open") {
      open = true;
      (data.at === "first" ? inside()[0] : data.at === "last" ? inside().at(-1) : element("text"))?.focus();
    } else if (data.chatkeep === "closed") open = false;
    else return;
    count();
  });

  chat.on("message", count);
  document.addEventListener("visibilitychange", count);
  element("shut").hidden = false;
  element("shut").addEventListener("click", () => say("close"));
  // Escape closes first what is open in the page, and empties what is half typed.
  addEventListener("keydown", (event) => {
    const busy = document.querySelector("dialog[open]") || element("side").contains(event.target) || event.target.value;
    if (event.key === "Escape" && !busy && !event.defaultPrevented) say("close");
  }, true);
}

// A browser may keep nothing for pages in frames: then all is unread that comes while the page is there.
function kept(key) {
  try {
    return Number(localStorage[key] ?? 0);
  } catch {
    return 0;
  }
}

function keep(key, number) {
  try {
    localStorage[key] = String(number);
  } catch {
    // as above
  }
}
