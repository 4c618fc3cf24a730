// The service worker of the chat page, where `create_app(offline=True)` asks for it: the page opens also while the server is away.
// It keeps the page's own files under their version and nothing else; what is asked of /v1 never passes through it. Served without
// a version, it removes what it has kept, and itself.

const VERSION = "{{kept}}";
const OWN = `chatkeep-page ${registration.scope} `; // another page of this origin has its own
const FILES = [
  ..."./ loading.js chat.js people.js chat.css parts.css shown.js parts.js markdown.js {{logo}}".split(" "),
  ..."client.js account.js changes.js claims.js keeping.js lines.js minting.js notices.js outbox.js requests.js slots.js tokens.js unkept.js visitors.js".split(" "),
].map((name) => new URL(name, registration.scope).href);
const PATIENCE_MS = 3000;

addEventListener("install", (event) => {
  skipWaiting();
  if (VERSION) event.waitUntil(caches.open(OWN + VERSION).then((cache) => cache.addAll(FILES.map((url) => new Request(url, { cache: "no-cache" })))));
});

addEventListener("activate", (event) => event.waitUntil(tidy()));

async function tidy() {
  for (const name of await caches.keys()) if (name.startsWith(OWN) && name !== OWN + VERSION) await caches.delete(name);
  if (VERSION) await clients.claim();
  else await registration.unregister();
}

addEventListener("fetch", (event) => {
  const { request } = event;
  const url = request.url.replace(/[?#].*/, "");
  if (VERSION && request.method === "GET" && FILES.includes(url)) event.respondWith(answer(request, url));
});

// The server's answer, if it gives one soon; else what is kept.
async function answer(request, url) {
  const asked = fetch(request);
  asked.catch(() => {});
  try {
    const late = new Promise((resolve, reject) => setTimeout(reject, PATIENCE_MS));
    const found = await Promise.race([asked, late]);
    if (found.status < 500) return found;
  } catch {
    // the server is away, or slow
  }
  return (await (await caches.open(OWN + VERSION)).match(url)) ?? asked;
}
