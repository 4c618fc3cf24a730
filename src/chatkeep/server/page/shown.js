// Words as both pages show them: as text only, whatever they are. What would be invisible, turn a line around or pile up is shown as
// a token, a run of it as one token, and what is long is cut, with a button that shows more.

const LONGEST = 5000; // characters that are shown before the rest is asked for
const LINES = 100;
const TOKENS = 100;
const STEP = 20; // so much more is shown at each press: all at once could hold up the page
const FEW = 4; // so many unseen characters in a row are shown one by one
const MARKS = 8; // accents on one letter; no language has more
const BLANKS = 200; // spaces and line breaks in a row

// Each of them matches one run, or leaves it alone: a flag of a country's part, an emoji that is joined of others.
const ODD = new RegExp(
  String.raw`(?<flag>\u{1F3F4}[\u{E0030}-\u{E0039}\u{E0061}-\u{E007A}]{1,6}\u{E007F})` +
    String.raw`|(?<unseen>(?![\n\t])(?!(?<=\p{Emoji})\uFE0F)(?!(?<=[\p{Extended_Pictographic}\p{Emoji_Modifier}\uFE0F])\u200D\p{Extended_Pictographic})[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}\p{DI}])` +
    String.raw`|(?<piled>\p{M}{${MARKS + 1},})|(?<blank>[\s\u2800]{${BLANKS},})`,
  "gu",
);

// What some scripts need between letters, or what says how a letter looks: left alone where people talk, if there are few.
const GENTLE = /^[\r\u00AD\u034F\u061C\u17B4\u17B5\u180B-\u180F\u200B-\u200F\u2060\u2066-\u2069\uFE00-\uFE0F\u{E0100}-\u{E01EF}]$/u;

export function create(tag, className, words, options) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (words !== undefined) made.append(...visible(words, options));
  return made;
}

const TAP_MS = 400; // so late at most a finger that was lifted becomes a click

// Returns what draws in *place*, and waits while something there is being pressed: what is put in its place would take the click with it.
export function unlessPressed(place) {
  const waiting = [];
  let pressed = false;
  let pointer; // what it is pressed with
  let timer;
  const press = (by) => {
    clearTimeout(timer);
    [pressed, pointer, timer] = [true, by, undefined];
  };
  const release = (ms) => {
    if (!pressed) return;
    clearTimeout(timer);
    timer = setTimeout(() => {
      [pressed, timer] = [false, undefined];
      for (const draw of waiting.splice(0)) draw();
    }, ms);
  };
  place.addEventListener("pointerdown", ({ button, pointerId }) => button || press(pointerId));
  place.addEventListener("keydown", ({ key }) => key === " " && press());
  addEventListener("pointerup", ({ pointerType }) => release(pointerType === "mouse" ? 0 : TAP_MS));
  addEventListener("click", () => timer && release(0), true);
  // A release that this page is not told of is seen by the next move.
  addEventListener("pointermove", ({ pointerId, buttons }) => pointerId === pointer && !buttons && !timer && release(0));
  for (const end of ["pointercancel", "keyup", "blur"]) addEventListener(end, () => release(0));
  return (draw) => (pressed ? waiting.push(draw) : draw());
}

const point = (character) => `U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;

function token(words) {
  const made = document.createElement("span");
  made.className = "token";
  made.textContent = words;
  return made;
}

// The pieces of *words*, one after the other: {text} as it is, or {token}.
function* piecesOf(words, gentle) {
  let from = 0;
  let run = [];
  const tokens = function* () {
    const count = run.length;
    if (gentle && count < FEW && run.every((character) => GENTLE.test(character))) yield { text: run.join("") };
    else if (count <= FEW) for (const character of run) yield { token: point(character) };
    else if (run.every((character) => character === run[0])) yield { token: `${point(run[0])} × ${count.toLocaleString("en")}` };
    else yield { token: `${count.toLocaleString("en")} hidden characters` };
    run = [];
  };
  for (const { 0: found, index, groups } of words.matchAll(ODD)) {
    if (groups.flag) continue;
    if (index > from) {
      yield* tokens();
      yield { text: words.slice(from, index) };
    }
    from = index + found.length;
    if (groups.unseen) {
      run.push(found);
      continue;
    }
    yield* tokens();
    if (groups.piled) {
      yield { text: found.slice(0, MARKS) };
      yield { token: `${(Array.from(found).length - MARKS).toLocaleString("en")} more accents` };
    } else yield { token: `${found.length.toLocaleString("en")} blanks` };
  }
  yield* tokens();
  if (from < words.length) yield { text: words.slice(from) };
}

// The longest beginning of *text* with so many characters and lines: never half a character.
function cut(text, length, lines) {
  let end = Math.min(text.length, length);
  for (let at = -1, line = 0; (at = text.indexOf("\n", at + 1)) !== -1 && at < end; ) if (++line > lines) end = at;
  return end && end < text.length && /[\uD800-\uDBFF]/.test(text[end - 1]) ? end - 1 : end;
}

// The nodes that show *words*. gentle: for people who talk, in any script, rather than for who judges what was sent. read: makes nodes of
// the text, and those of each piece of it by the function that it is given too. times: how much longer than usual it may be.
export function visible(words, { gentle = false, read = (text, nodesOf) => nodesOf(text), times = 1 } = {}) {
  words = String(words);
  let [length, lines, left] = [LONGEST * times, LINES * times, TOKENS * times];
  let [text, whole] = ["", true];
  const tokens = []; // in the text each is its place between two NUL, which is itself never text
  for (const piece of piecesOf(words, gentle)) {
    if (piece.token) {
      whole = left-- > 0;
      if (!whole) break;
      text += `\0${tokens.push(token(piece.token)) - 1}\0`;
      continue;
    }
    const end = cut(piece.text, length, lines);
    text += piece.text.slice(0, end);
    whole = end === piece.text.length;
    if (!whole) break;
    length -= end;
    lines -= piece.text.split("\n").length - 1;
  }
  const nodes = read(text, (piece) => piece.split("\0").map((found, at) => (at % 2 ? tokens[found] : found)).filter(Boolean));
  return whole ? nodes : [more(nodes, words, { gentle, read, times: times * STEP })];
}

function more(nodes, words, options) {
  const whole = document.createElement("span");
  const button = document.createElement("button");
  button.type = "button";
  button.className = "quiet whole";
  button.textContent = `Show more of ${words.length.toLocaleString("en")} characters`;
  button.addEventListener("click", () => whole.replaceChildren(...visible(words, options)));
  whole.append(...nodes, "… ", button);
  return whole;
}
