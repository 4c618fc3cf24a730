// Says so when a script of this page does not load, and offers to load the page anew; what was typed by then is kept. No module: it is there
// when they are not.

{
  const KEPT = `chatkeep:typed:${location.pathname}`;
  const failed = new Set();
  const fields = () => [...document.querySelectorAll("textarea[id], input[id]:not([type=password], [type=checkbox], [type=file])")];
  const loaded = new Promise((resolve) => addEventListener("DOMContentLoaded", resolve, { once: true }));
  const told = document.createElement("div");
  const words = document.createElement("span");
  const reload = document.createElement("button");
  told.id = "unloaded";
  told.setAttribute("role", "alert");
  reload.type = "button";
  reload.textContent = "Reload";
  reload.addEventListener("click", () => location.reload());
  told.append(words, reload);

  const safely = (act) => {
    try {
      return act();
    } catch {
      return undefined; // a frame that may keep nothing
    }
  };

  const tell = (address, isNeeded = true) => {
    failed.add(address.split(/[?#]/)[0].split("/").at(-1));
    words.textContent = `A part of this page did not load (${[...failed].join(", ")}), so it does not work. What you have typed is kept. Reload it, perhaps once more in a while.`;
    if (isNeeded) loaded.then(() => document.body.prepend(told));
  };

  // A script says for all that it needs that it did not load; which that was, what is loaded early says.
  addEventListener("error", ({ target, error }) => {
    if (target instanceof HTMLScriptElement) tell(target.src);
    else if (target instanceof HTMLLinkElement && target.rel === "modulepreload") tell(target.href, false);
    else look(error);
  }, true);
  addEventListener("unhandledrejection", ({ reason }) => look(reason));

  // What is fetched later is refused with an error, in words of the browser's own.
  function look(fault) {
    if (fault instanceof TypeError && /import/i.test(fault.message)) tell(/\S+\.js\b/.exec(fault.message)?.[0] ?? "a module");
  }

  addEventListener("pagehide", () => {
    if (!told.isConnected) return;
    const typed = fields().filter(({ value, defaultValue }) => value !== defaultValue).map(({ id, value }) => [id, value]);
    safely(() => sessionStorage.setItem(KEPT, JSON.stringify(typed)));
  });

  loaded.then(() => {
    for (const [id, value] of safely(() => JSON.parse(sessionStorage.getItem(KEPT))) ?? []) {
      const field = document.getElementById(id);
      if (field) field.value ||= value;
    }
    safely(() => sessionStorage.removeItem(KEPT));
  });
}
