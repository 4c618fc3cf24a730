// A safe part of Markdown as a tree: words, and what they are. Nothing here makes markup, and what is not understood stays as it was
// written. Every character is looked at a bounded number of times, so that no text can hold up the page.

const DEPTH = 4; // lists and quotes within each other; what is deeper stays text
const COLUMNS = 20;
const MARK = "\u0022"; // what stands around a title
const BRACKETS = 3; // round ones within each other in the address of a link

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^`\s]*)/;
const HEADING = /^ {0,3}#{1,6} +(\S.*)$/;
const RULE = /^ {0,3}([-*_])( *\1){2,} *$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( *)([-*•]|\d{1,9}[.)]) +(?=\S)/;
const ROW = /^ *(?:\| *)?(?::?-+:? *(?:\| *|$))+$/; // the line below the head of a table; no two places in it could take the same space

// -- blocks: {kind, spans | blocks | items | rows | text} ---------------------------------------------------------------

export const blocksOf = (text) => blocksIn(text.split("\n"), 0);

function blocksIn(lines, depth) {
  const blocks = [];
  let at = 0;
  while (at < lines.length) {
    const read = readFence(lines, at) ?? readHeading(lines, at) ?? readRule(lines, at) ?? readTable(lines, at) ?? (depth < DEPTH ? (readQuote(lines, at, depth) ?? readList(lines, at, depth)) : null) ?? readText(lines, at, depth);
    at = read.end;
    if (read.kind) blocks.push(read);
  }
  return blocks;
}

function readFence(lines, at) {
  const [, fence] = FENCE.exec(lines[at]) ?? [];
  if (!fence) return null;
  let end = at + 1;
  const closes = (line) => FENCE.exec(line)?.[1].startsWith(fence) && !/[^`~\s]/.test(line);
  while (end < lines.length && !closes(lines[end])) end++;
  return { kind: "pre", text: lines.slice(at + 1, end).join("\n"), end: end + 1 };
}

function readHeading(lines, at) {
  const [, words] = HEADING.exec(lines[at]) ?? [];
  return words ? { kind: "heading", spans: spansOf(words.replace(/(?<=\s)#+$/, "")), end: at + 1 } : null;
}

const readRule = (lines, at) => (RULE.test(lines[at]) ? { kind: "hr", end: at + 1 } : null);

function cellsOf(line) {
  const words = line.trim();
  return words
    .slice(words.startsWith("|") ? 1 : 0, words.endsWith("|") && words.length > 1 ? -1 : undefined)
    .split("|", COLUMNS)
    .map((cell) => spansOf(cell.trim()));
}

function readTable(lines, at) {
  const below = lines[at + 1] ?? "";
  if (!lines[at].includes("|") || !below.includes("-") || !ROW.test(below)) return null;
  let end = at + 2;
  while (end < lines.length && lines[end].includes("|")) end++;
  return { kind: "table", rows: [lines[at], ...lines.slice(at + 2, end)].map(cellsOf), end };
}

function readQuote(lines, at, depth) {
  let end = at;
  while (end < lines.length && QUOTE.test(lines[end])) end++;
  return end > at ? { kind: "blockquote", blocks: blocksIn(lines.slice(at, end).map((line) => line.replace(QUOTE, "")), depth + 1), end } : null;
}

const indentOf = (line) => line.length - line.trimStart().length;

function readList(lines, at, depth) {
  const [, indent, first] = ITEM.exec(lines[at]) ?? [];
  if (!first || RULE.test(lines[at])) return null;
  const ordered = /\d/.test(first);
  const items = [];
  let end = at;
  while (end < lines.length) {
    const [whole, before, mark] = ITEM.exec(lines[end]) ?? [];
    if (!mark || before.length !== indent.length || /\d/.test(mark) !== ordered || RULE.test(lines[end])) break;
    const own = [lines[end].slice(whole.length)];
    let next = end + 1;
    // What is further in belongs to this item, and so do blank lines before it.
    for (let to = next; to < lines.length; to++) {
      if (!lines[to].trim()) continue;
      if (indentOf(lines[to]) <= indent.length) break;
      next = to + 1;
    }
    for (const line of lines.slice(end + 1, next)) own.push(line.slice(Math.min(indentOf(line), whole.length)));
    // A number stays as it was written, for somebody may answer with it; but for a list that has 1 before each.
    const number = ordered ? Math.max(parseInt(mark), (items.at(-1)?.number ?? -1) + 1) : undefined;
    items.push({ number, blocks: blocksIn(own, depth + 1) });
    end = next;
    let to = end;
    while (to < lines.length && !lines[to].trim()) to++;
    if (to > end && ITEM.exec(lines[to] ?? "")?.[1].length === indent.length) end = to;
  }
  return { kind: ordered ? "ol" : "ul", items, end };
}

const begins = (lines, at, depth) =>
  FENCE.test(lines[at]) || HEADING.test(lines[at]) || RULE.test(lines[at]) || (depth < DEPTH && (QUOTE.test(lines[at]) || ITEM.test(lines[at]))) || readTable(lines, at) !== null;

// Lines of words: breaks and blank lines within them stay as they are.
function readText(lines, at, depth) {
  let end = at;
  while (end < lines.length && (end === at || !begins(lines, end, depth))) end++;
  const [kept, spans] = [lines.slice(at, end), []];
  if (at > 0) while (kept.length && !kept[0].trim()) kept.shift();
  if (end < lines.length) while (kept.length && !kept.at(-1).trim()) kept.pop();
  let paragraph = [];
  const close = () => {
    for (const span of spansOf(paragraph.join("\n"))) spans.push(span);
    paragraph = [];
  };
  for (const [n, line] of kept.entries()) {
    if (line.trim()) paragraph.push(line);
    else close();
    if (n === kept.length - 1) continue;
    if (line.trim() && kept[n + 1].trim()) continue;
    close();
    spans.push(line.trim() ? "\n" : `${line}\n`);
  }
  close();
  return { kind: kept.length ? "p" : "", spans, end };
}

// -- spans: words, or {kind, spans | text, to} ----------------------------------------------------------------------------

const SPECIAL = /[\\`[\]!]|\*+|_+|~+|https?:\/\//gi;
const ADDRESS = /https?:\/\/(?:[^\s<>"'`\0\]]|\](?!\())+/iy;
const WORDY = /[\p{Lu}\p{Ll}\p{Lt}\p{Lm}\p{N}]/u;
const LETTER = /[\p{L}\p{N}]/u;
const ESCAPED = /[!-/:-@[-`{-~]/;
const KINDS = { "*1": "em", "_1": "em", "*2": "strong", "_2": "strong", "~2": "del" };

// Only addresses are found: for words in which nothing else is meant.
export function linksOf(text) {
  const spans = [];
  let from = 0;
  for (const { index } of text.matchAll(/https?:\/\//gi)) {
    const found = index >= from && addressAt(text, index);
    if (!found) continue;
    spans.push(text.slice(from, index), found.link);
    from = found.end;
  }
  spans.push(text.slice(from));
  return spans;
}

function addressAt(text, at) {
  if (LETTER.test(text[at - 1] ?? "")) return null;
  ADDRESS.lastIndex = at;
  const [found] = ADDRESS.exec(text) ?? [];
  if (!found) return null;
  let [end, open] = [found.length, 0];
  for (const letter of found) open += letter === "(" ? 1 : letter === ")" ? -1 : 0;
  while (/[.,;:!?\]}*_~]/.test(found[end - 1]) || (found[end - 1] === ")" && open < 0)) if (found[--end] === ")") open++;
  const words = found.slice(0, end);
  const to = target(words);
  return to ? { link: { kind: "a", spans: [words], to }, end: at + end } : null;
}

// Where a link may lead: a page, without a name before its host, which would look like one; or an address to write to.
export function target(address) {
  if (typeof address !== "string" || address.includes("\0")) return "";
  if (/^mailto:[^\s?&%<>@]+@[^\s?&%<>@]+$/i.test(address)) return address;
  const url = /^https?:\/\//i.test(address) && URL.canParse(address) && new URL(address);
  return url && !url.username && !url.password ? url.href : "";
}

// The address behind the text of a link, and where it ends: "(https://...)" or '(https://... "title")'.
function destinationAt(text, at) {
  let [end, open] = [at + 1, 1];
  for (; end < text.length; end++) {
    const letter = text[end];
    if (letter === "(" && ++open > BRACKETS) return null;
    if (letter === ")" && --open === 0) break;
    if (letter === " " || letter === "\n") break;
  }
  const to = target(text.slice(at + 1, end).replace(/^<|>$/g, ""));
  if (!to || end === text.length) return null;
  if (text[end] === ")") return { to, end: end + 1 };
  const last = text[end + 1] === MARK ? text.indexOf(MARK, end + 2) : -1;
  return last > 0 && text[last + 1] === ")" ? { to, end: last + 2 } : null;
}

// For each run of backticks the next one that is as long: looked up, and not searched for, each time.
function codeIn(text) {
  const [next, last] = [new Map(), new Map()];
  for (const { 0: run, index } of [...text.matchAll(/`+/g)].reverse()) {
    next.set(index, last.get(run.length));
    last.set(run.length, index);
  }
  return next;
}

// What is open at one place of the text is at most: each kind of emphasis once outside and once inside the text of a link.
export function spansOf(text) {
  const frames = [{ spans: [] }];
  const say = (span) => span && frames.at(-1).spans.push(span);
  const merge = (at) => {
    const [{ mark, spans }] = frames.splice(at, 1);
    const to = frames[at - 1].spans;
    to.push(mark);
    for (const span of spans) to.push(span);
  };
  const close = (at, kind, more) => {
    while (frames.length > at + 1) merge(frames.length - 1);
    const { spans } = frames.pop();
    say({ kind, spans, ...more });
  };
  const bracket = () => frames.findLastIndex(({ letter }) => letter === "[");
  const openAt = (letter, fits, inside) => frames.findLastIndex((frame, at) => at > inside && frame.letter === letter && fits(frame.size));
  // A bracket is none: what is open inside it is now open in the same place as what is open around it.
  const unbracket = (open) => {
    merge(open);
    for (let at = open; at < frames.length; at++) {
      const { letter, size } = frames[at];
      const twin = frames.findIndex((frame) => frame.letter === letter && frame.size === size);
      if (twin < at) merge(twin), at--;
    }
  };
  let [from, code] = [0, null];
  SPECIAL.lastIndex = 0;
  for (let found; (found = SPECIAL.exec(text)); ) {
    const [{ 0: run, index }, letter] = [found, found[0][0]];
    let end = index + run.length;
    const before = text[index - 1] ?? " ";
    const put = (span) => {
      say(text.slice(from, index));
      say(span);
      from = end;
    };
    if (letter === "\\") {
      if (!ESCAPED.test(text[end] ?? " ")) continue;
      put();
      from = end++;
    } else if (letter === "`") {
      while (text[end] === "`") end++;
      code ??= codeIn(text);
      const [size, to] = [end - index, code.get(index)];
      if (to !== undefined) {
        const words = text.slice(end, to);
        end = to + size;
        put({ kind: "code", text: /^ .*\S.* $/s.test(words) ? words.slice(1, -1) : words });
      }
    } else if (run.length > 3 && run.includes("://")) {
      const address = addressAt(text, index);
      if (address) {
        end = address.end;
        put(address.link);
      }
    } else if (letter === "[" || (letter === "!" && text[end] === "[")) {
      if (letter === "!") end++;
      put();
      const open = bracket();
      if (open > 0) unbracket(open);
      frames.push({ letter: "[", mark: text.slice(index, end), spans: [] });
    } else if (letter === "]") {
      const open = bracket();
      if (open < 0) continue;
      const there = text[end] === "(" ? destinationAt(text, end) : null;
      if (there) {
        end = there.end;
        put();
        close(open, "a", { to: there.to });
        const link = frames.at(-1).spans.at(-1);
        if (!link.spans.length) link.spans.push(link.to);
      } else {
        say(text.slice(from, index));
        from = index;
        unbracket(open);
      }
    } else if (letter !== "!") {
      const after = text[end] ?? " ";
      const wide = letter === "*" && run.length > 1 && !(/\d/.test(before) && /\d/.test(after));
      const word = letter === "*" ? WORDY : LETTER;
      const opens = !/\s/.test(after) && (wide || !word.test(before));
      const closes = !/\s/.test(before) && (wide || !word.test(after));
      if (run.length > 3 || (letter === "~" && run.length !== 2)) continue;
      let left = run.length;
      const inside = bracket();
      const begin = () => from < end && put();
      for (let at; closes && left && (at = openAt(letter, (size) => size <= left, inside)) > 0; ) {
        begin();
        const { size } = frames[at];
        left -= size;
        close(at, KINDS[letter + size]);
      }
      for (const size of opens && left ? (left === 3 ? [2, 1] : [left]) : []) {
        begin();
        const twin = openAt(letter, (one) => one === size, inside);
        if (twin > 0) merge(twin);
        frames.push({ letter, size, mark: letter.repeat(size), spans: [] });
        left -= size;
      }
      if (left < run.length && left) say(letter.repeat(left));
    }
    SPECIAL.lastIndex = Math.max(end, from);
  }
  say(text.slice(from));
  while (frames.length > 1) merge(frames.length - 1);
  return frames[0].spans;
}
