// What a message says as nodes: words, which may be Markdown, and parts as channels have them. Nothing becomes markup, no link leads
// elsewhere than to a page or to somebody to write to, and a picture is loaded only from where the page may load it.

import { blocksOf, linksOf, spansOf, target } from "./markdown.js";
import { create, visible } from "./shown.js";

const PARTS = 50; // parts of a message, and choices, that are shown
const WORKING = ["reasoning", "tool_call", "tool_result"]; // how a reply came about, which customers are not shown
const FILES = ["image", "video", "audio", "voice", "document", "file", "sticker", "animation"];
const PICTURES = ["image", "sticker", "animation"];
const LOOKS_LIKE_A_PLACE = /^\s*(?:[a-z]+:\/\/)?([^\s\/]+\.[^\s\/.]{2,})/iu;

export const plain = (value) => (["string", "number"].includes(typeof value) ? String(value) : "");
export const each = (value) => (Array.isArray(value) ? value : []);
const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

function element(tag, className, ...nodes) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  for (const node of nodes) made.append(node);
  return made;
}

// options: markdown, whether words are; gentle, as in shown.js; loads, a function that tells whether a picture of an address may be loaded;
// otherwise, a function that makes a node of what has no look here, or is not for customers: without it these are named, or left out.
export function draw(content, options) {
  const whole = element("div", "said");
  if (typeof content === "string") {
    whole.append(...wordsOf(content, options));
    return whole;
  }
  const { otherwise } = options;
  const parts = each(content).filter((part) => otherwise || !WORKING.includes(part?.type));
  for (const part of parts.slice(0, PARTS)) {
    const drawn = partOf(isObject(part) ? part : {}, options) ?? (choicesOf(part).length ? null : (otherwise?.(part) ?? named(part)));
    if (drawn) whole.append(drawn);
  }
  const rest = parts.slice(PARTS);
  if (rest.length) whole.append(otherwise?.(rest) ?? create("div", "part faint", `and ${rest.length} more`));
  return whole;
}

// -- words ------------------------------------------------------------------------------------------------------------

const wordsOf = (words, { markdown, gentle }) => visible(words, { gentle, read: markdown ? readMarkdown : (text, nodesOf) => [drawSpans(linksOf(text), nodesOf)] });

function readMarkdown(text, nodesOf) {
  const blocks = blocksOf(text);
  if (blocks.length === 1 && blocks[0].kind === "p") return [drawSpans(blocks[0].spans, nodesOf)];
  return [drawBlocks(blocks, nodesOf)];
}

function drawBlocks(blocks, nodesOf) {
  const whole = document.createDocumentFragment();
  for (const { kind, spans, text, items, rows, blocks: inner } of blocks) {
    const made = element(kind === "heading" ? "p" : kind, kind === "heading" ? "heading" : "");
    if (spans) made.append(drawSpans(spans, nodesOf));
    if (text !== undefined) made.append(element("code", "", ...nodesOf(text)));
    if (inner) made.append(drawBlocks(inner, nodesOf));
    for (const { number, blocks: own } of items ?? []) {
      const line = element("li", "", own.length === 1 && own[0].kind === "p" ? drawSpans(own[0].spans, nodesOf) : drawBlocks(own, nodesOf));
      if (number !== undefined) line.value = number;
      made.append(line);
    }
    for (const [n, cells] of (rows ?? []).entries()) {
      const row = element("tr", "");
      for (const cell of cells) row.append(element(n ? "td" : "th", "", drawSpans(cell, nodesOf)));
      made.append(row);
    }
    if (items) made.dir = "auto"; // its marks stand where its words begin
    whole.append(made);
  }
  return whole;
}

function drawSpans(spans, nodesOf, linked = false) {
  const whole = document.createDocumentFragment();
  for (const span of spans) {
    if (typeof span === "string") {
      for (const node of nodesOf(span)) whole.append(node);
    } else if (span.kind === "code") whole.append(element("code", "", ...nodesOf(span.text)));
    else if (span.kind === "a" && linked) whole.append(drawSpans(span.spans, nodesOf, true));
    else if (span.kind === "a") whole.append(anchor(drawSpans(span.spans, nodesOf, true), span.to));
    else whole.append(element(span.kind, "", drawSpans(span.spans, nodesOf, linked)));
  }
  return whole;
}

// A link. Where its words look like another place than it leads to, that is said beside them.
function anchor(words, to, className = "") {
  const found = element("a", className, words);
  Object.assign(found, { href: to, target: "_blank", rel: "noopener noreferrer nofollow", title: to });
  const [, place] = LOOKS_LIKE_A_PLACE.exec(found.textContent) ?? [];
  const host = hostOf(to);
  if (!className && host && place && place.toLowerCase() !== host) found.append(element("span", "leads", ` (${host})`));
  return found;
}

const hostOf = (to) => (to.startsWith("http") ? new URL(to).host : "");

// -- parts --------------------------------------------------------------------------------------------------------------

const typeOf = (part) => plain(part?.type) || "attachment";
const namesOf = (part) => [part?.title, part?.name, part?.address].map(plain).filter(Boolean).join(", ");
const named = (part) => create("div", "part faint", `[${[typeOf(part), namesOf(part)].filter(Boolean).join(": ")}]`);

// The look of a part; null where it has none.
function partOf(part, options) {
  const [type, names] = [typeOf(part), namesOf(part)];
  const text = plain(part.text);
  const url = target(part.url);
  const words = (given) => element("div", "part", ...wordsOf(given, options));
  if (WORKING.includes(type)) return null;
  if (type === "location" && isPlace(part)) return placeOf(part);
  if (type === "location") return words(names || "A place");
  if (FILES.includes(type) || (url && type !== "text" && !choicesOf(part).length)) {
    const file = type === "source" || type === "link" ? words("").appendChild(anchor(document.createTextNode(names || plain(part.url)), url)).parentNode : fileOf(part, type, url, options);
    return text ? element("div", "part", file, words(text)) : file;
  }
  if (type === "contact") return element("div", "part card", icon("person"), element("span", "about", create("bdi", "name", plain(part.name) || "A contact"), create("small", "", each(part.phones).map(plain).filter(Boolean).join(", "))));
  if (type === "order") return words([text, ...each(part.items).slice(0, PARTS).map((one) => `${plain(one?.quantity) || 1} × ${plain(one?.id)}`)].filter(Boolean).join("\n"));
  if (type === "form" && isObject(part.answers)) return words(Object.entries(part.answers).slice(0, PARTS).map(([name, value]) => `${name}: ${plain(value) || JSON.stringify(value)}`).join("\n"));
  if (type === "reaction") return words(plain(part.emoji) || "(a reaction was taken back)");
  if (type === "button") return words(text || plain(part.id));
  return text ? words(text) : null;
}

const isPlace = ({ latitude, longitude }) => Math.abs(latitude) <= 90 && Math.abs(longitude) <= 180 && [latitude, longitude].every(Number.isFinite);

function placeOf({ latitude, longitude, name, address }) {
  const where = `${latitude.toFixed(5)}, ${longitude.toFixed(5)}`;
  const called = [name, address].map(plain).filter(Boolean);
  const about = element("span", "about", create("bdi", "name", called[0] ?? where), create("small", "", called[1] ?? (called[0] ? where : "Open the map")));
  return anchor(element("span", "inner", icon("place"), about), `https://www.openstreetmap.org/?mlat=${latitude}&mlon=${longitude}#map=16/${latitude}/${longitude}`, "part card");
}

// A file by its own name, and by what its address says of it, which may be something else.
function fileOf(part, type, url, options, broken = false) {
  const path = url ? new URL(url).pathname : "";
  const kind = (/\.([a-z0-9]{1,5})$/i.exec(path || plain(part.name))?.[1] ?? /^[\w.-]+\/([\w.-]{1,12})$/.exec(plain(part.mime))?.[1] ?? type).toUpperCase();
  const last = path.slice(path.lastIndexOf("/") + 1);
  const name = [part.name, part.filename, part.title].map(plain).find((one) => one.trim()) || decoded(last) || `${type[0].toUpperCase()}${type.slice(1)}`;
  if (PICTURES.includes(type) && url && !broken && options.loads?.(url)) return pictureOf(part, url, name, () => fileOf(part, type, url, options, true));
  const host = hostOf(url);
  const told = [kind, sizeOf(part.size), host !== location.host && host, !url && "cannot be opened here", broken && "cannot be shown"].filter(Boolean).join(" · ");
  const inner = element("span", "inner", icon(PICTURES.includes(type) ? "picture" : "file"), element("span", "about", create("bdi", "name", name), create("small", "", told)));
  if (!url) return element("div", "part card", inner);
  const link = anchor(inner, url, "part card");
  if (!PICTURES.includes(type)) link.download = name;
  return link;
}

// The room of a picture is there before it is, so that nothing moves when it comes.
function pictureOf(part, url, name, replacement) {
  const image = element("img", "");
  Object.assign(image, { alt: plain(part.alt) || plain(part.text) || name, loading: "lazy", decoding: "async", referrerPolicy: "no-referrer" });
  const link = anchor(image, url, "part picture");
  if (part.width > 0 && part.height > 0) link.style.aspectRatio = Math.min(3, Math.max(1 / 3, part.width / part.height));
  image.addEventListener("load", () => link.classList.add("loaded"));
  image.addEventListener("error", () => link.replaceWith(replacement()), { once: true });
  image.src = url;
  return link;
}

function decoded(path) {
  try {
    return decodeURIComponent(path);
  } catch {
    return path;
  }
}

function sizeOf(bytes) {
  if (!(Number.isFinite(bytes) && bytes > 0)) return "";
  const step = Math.min(3, Math.floor(Math.log2(bytes) / 10));
  return `${(bytes / 1024 ** step).toLocaleString([], { maximumFractionDigits: step > 1 ? 1 : 0 })} ${["bytes", "KB", "MB", "GB"][step]}`;
}

const DRAWN = {
  file: "M7 3h7l5 5v13H7zM14 3v5h5",
  picture: "M4 5h16v14H4zM4 16l5-5 4 4 3-3 4 4M15 9h.01",
  place: "M12 21s7-6.5 7-11a7 7 0 0 0-14 0c0 4.5 7 11 7 11zM12 12.5a2.5 2.5 0 1 0 0-5 2.5 2.5 0 0 0 0 5z",
  person: "M12 12a4 4 0 1 0 0-8 4 4 0 0 0 0 8zM4 21c0-4 4-6 8-6s8 2 8 6",
};

function icon(kind) {
  const made = (tag, given) => {
    const shape = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(given)) shape.setAttribute(name, value);
    return shape;
  };
  const picture = made("svg", { viewBox: "0 0 24 24", width: "22", height: "22", "aria-hidden": "true" });
  picture.append(made("path", { d: DRAWN[kind] }));
  return element("span", "icon", picture);
}

// -- choices ------------------------------------------------------------------------------------------------------------

// What a part offers, as groups of {id, text, description}: {"type": "buttons", "buttons": [...]}, choices, the sections of a list, or a
// part that is a choice itself.
export function offersOf(part) {
  const sections = each(part?.sections).map((one) => ({ title: plain(one?.title), rows: each(one?.rows) }));
  const groups = [{ title: "", rows: [...each(part?.buttons), ...each(part?.choices), ...(part?.type === "choice" ? [part] : [])] }, ...sections];
  return groups.map(({ title, rows }) => ({ title, rows: rows.map(choiceOf).filter(({ text }) => text) })).filter(({ rows }) => rows.length);
}

function choiceOf(one) {
  const text = plain(one) || [one?.text, one?.title, one?.id].map(plain).find((words) => words.trim()) || "";
  return { id: plain(one?.id), text, description: plain(one?.description) };
}

const choicesOf = (part) => offersOf(part).flatMap(({ rows }) => rows);
