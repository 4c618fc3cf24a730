// Asks a page's function for a token. client.js fetches this module for a chat that was opened with one.

const ASK_MS = 20_000;

// What the function gives. If it throws, that is told, and it is asked again; without a line it may well throw.
export async function mint(give) {
  let timer;
  const late = new Promise((resolve, reject) => {
    timer = setTimeout(reject, ASK_MS, new Error(`it gave nothing within ${ASK_MS / 1000} s`));
  });
  try {
    return await Promise.race([give(), late]);
  } catch (fault) {
    if (navigator.onLine === false || /fetch|network|load failed/i.test(fault?.message ?? "")) throw fault;
    throw Object.assign(new Error(`The page could not get a token: ${fault?.message ?? fault}`, { cause: fault }), { ours: true });
  } finally {
    clearTimeout(timer);
  }
}
