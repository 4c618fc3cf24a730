// How this server is: whether it answers, its last hour as charts, the servers on the store, switches, and the settings in force.

import { openPage } from "./operator-queues.js";
import { age, ask, button, json, may, me, say, span, timeOf } from "./operator-ask.js";
import { create } from "./shown.js";

const WIDTH = 240;
const HEIGHT = 64;
const NONE = "–";

const rate = (value) => (value === 0 ? "0" : value >= 10 ? value.toFixed(0) : value.toPrecision(2));
const count = (value) => value.toLocaleString("en");

// What is drawn: a title, the lines with their members of a sample, how a value is said.
const CHARTS = [
  ["Turns a second", [["turns", (one) => one.turns], ["failures", (one) => one.failures]], rate],
  ["Time of a turn", [["half below", (one) => one.turn_p50], ["99 % below", (one) => one.turn_p99]], span],
  ["Time of an act on the store", [["half below", (one) => one.act_p50], ["99 % below", (one) => one.act_p99]], span],
  ["Conflicts a second", [["turns that ran again", (one) => one.conflicts]], rate],
  ["Cache: found in it", [["share", (one) => (one.hits + one.misses ? one.hits / (one.hits + one.misses) : null)]], (value) => `${Math.round(value * 100)} %`],
  ["Backlog", [["age of the oldest that is due", (one) => one.backlog]], span],
  ["Waiting here", [["messages", (one) => one.waiting]], count],
];

export async function health() {
  const told = await json("desk/health");
  return [statusOf(told), chartsOf(told.samples), ...(told.instances.length ? [instancesOf(told)] : []), ...(told.settings.length ? [settingsOf(told.settings)] : []), numbersOf(told)];
}

function section(title, ...parts) {
  const made = create("section", "queue");
  made.append(create("h2", "", title), ...parts);
  return made;
}

function statusOf(told) {
  const good = told.status === "ready" && !told.warning;
  const made = section("This server ");
  made.firstChild.append(create("span", good ? "mark on" : "mark bad", told.status));
  for (const said of [told.trouble, told.warning]) if (said) made.append(create("p", "fault", said));
  const off = told.paused.map((scope) => (scope === null ? "everywhere" : scope || "the default tenant"));
  made.append(create("p", "", off.length ? `The bot is off: ${off.join(", ")}.` : "The bot is on in your tenants, but for conversations that are paused themselves."));
  if (may("switch")) made.append(switches(told));
  return made;
}

// -- charts -----------------------------------------------------------------------------------------------------------

function chartsOf(samples) {
  const made = section("The last hour");
  if (samples.length < 2) made.append(create("p", "faint", "Samples are taken every 15 s since this server was started; the charts begin with the second one."));
  else {
    const grid = create("div", "charts");
    grid.append(...CHARTS.map(([title, lines, say]) => chartOf(title, lines, say, samples)));
    made.append(grid);
  }
  return made;
}

function drawn(tag, members) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(members)) made.setAttribute(name, value);
  return made;
}

function chartOf(title, lines, say, samples) {
  const made = create("figure", "chart");
  const [first, last] = [samples[0].at, samples.at(-1).at];
  const series = lines.map(([name, read]) => [name, samples.map((one) => [one.at, read(one)])]);
  const known = series.flatMap(([, points]) => points.map(([, value]) => value).filter((value) => value !== null));
  const most = title.startsWith("Cache") ? 1 : Math.max(...known, 0);
  const x = (at) => ((at - first) / Math.max(last - first, 1)) * WIDTH;
  const y = (value) => HEIGHT - 2 - (most ? value / most : 0) * (HEIGHT - 6);
  const svg = drawn("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" });
  svg.append(drawn("line", { class: "base", x1: 0, x2: WIDTH, y1: HEIGHT - 2, y2: HEIGHT - 2 }));
  const latest = (points) => points.findLast(([, value]) => value !== null)?.[1];
  series.forEach(([, points], index) => {
    for (const piece of piecesOf(points)) {
      const path = piece.map(([at, value]) => `${x(at).toFixed(1)},${y(value).toFixed(1)}`);
      if (!index && path.length > 1) svg.append(drawn("polygon", { class: "area", points: `${x(piece[0][0]).toFixed(1)},${HEIGHT - 2} ${path.join(" ")} ${x(piece.at(-1)[0]).toFixed(1)},${HEIGHT - 2}` }));
      svg.append(drawn("polyline", { class: `line-${index}`, points: path.length > 1 ? path.join(" ") : `${path[0]} ${path[0]}` }));
    }
  });
  const said = (value) => (value === undefined || value === null ? NONE : say(value));
  svg.ariaLabel = `${title}, at most ${known.length ? say(Math.max(...known)) : NONE}; now ${series.map(([name, points]) => `${name} ${said(latest(points))}`).join(", ")}`;
  const head = create("figcaption", "", title);
  const legend = create("p", "legend");
  const tell = (index) => {
    const told = series.map(([name, points], line) => {
      const part = create("span", `key-${line}`, series.length > 1 ? `${name} ` : "");
      part.append(create("b", "", said(index === undefined ? latest(points) : points[index][1])));
      return part;
    });
    legend.replaceChildren(...told, ...(index === undefined ? [] : [timeOf(samples[index].at)]));
  };
  tell();
  svg.addEventListener("pointermove", (event) => {
    const share = event.offsetX / Math.max(svg.clientWidth, 1);
    tell(Math.min(Math.max(Math.round(share * (samples.length - 1)), 0), samples.length - 1));
  });
  svg.addEventListener("pointerleave", () => tell());
  const scale = create("p", "scale");
  scale.append(timeOf(first), create("span", "", known.length && most ? `0 to ${say(most)}` : ""), timeOf(last));
  made.append(head, legend, svg, scale);
  return made;
}

// A line ends where nothing is known, and begins anew behind it.
function piecesOf(points) {
  const pieces = [];
  let open = false;
  for (const point of points) {
    if (point[1] === null) open = false;
    else if (open) pieces.at(-1).push(point);
    else {
      pieces.push([point]);
      open = true;
    }
  }
  return pieces;
}

// -- servers, settings, numbers ---------------------------------------------------------------------------------------

function instancesOf({ instances }) {
  const list = create("ul", "rows servers");
  for (const [index, one] of instances.entries()) {
    const row = create("li");
    const name = create("b", "", `${one.host} · ${one.process}`);
    if (!index) name.append(" ", create("span", "mark", "this one"));
    const said = create("span", "last", one.version ? `version ${one.version}, ` : "");
    said.append(`${rate(one.turns ?? 0)} turns a second, up for `, age(one.begun_at ?? 0));
    row.append(name, said, create("span", one.trouble ? "mark bad" : "mark on", one.trouble || "ready"));
    list.append(row);
  }
  return section(instances.length === 1 ? "One server on this store" : `${instances.length} servers on this store`, list);
}

function settingsOf(settings) {
  const list = create("dl");
  for (const { said, odd } of settings) {
    const [, name, value, where] = /^(\S+) ([^]*) \(([^()]*)\)(?:: .*)?$/.exec(said) ?? ["", "", said, ""];
    const shown = create("dd", "", value);
    if (where !== "default") shown.append(create("span", "mark", where));
    if (odd) shown.append(create("span", "mark bad", said.split("): ")[1] ?? "unusual"));
    list.append(create("dt", "", name), shown);
  }
  const more = create("details");
  more.append(create("summary", "", `${settings.length} settings; those that are not the default say where they are from`), list);
  return section("Settings in force", more);
}

function numbersOf(told) {
  const facts = create("dl");
  const put = (name, value) => facts.append(create("dt", "", name), create("dd", "", value));
  put("Store", told.store);
  put("Has a bot", told.has_handler ? "yes" : "no");
  put("Sends replies out", told.sends ? "yes" : "no");
  for (const [part, numbers] of Object.entries(told.numbers))
    for (const [name, value] of Object.entries(numbers)) if (typeof value !== "object") put(`${part}: ${name.replaceAll("_", " ")}`, typeof value === "number" ? value.toLocaleString("en", { maximumFractionDigits: 3 }) : value);
  return section("Counts", create("p", "faint", "Of this process, since it was started; /metrics has them for Prometheus."), facts);
}

// -- switches ---------------------------------------------------------------------------------------------------------

function switches(told) {
  const row = create("div", "bulk");
  const fault = create("p", "fault");
  const put = (label, body, sure) =>
    row.append(
      button(label, async (pressed) => {
        if (sure && !confirm(sure)) return;
        pressed.disabled = true;
        try {
          await ask("bot", { method: "PUT", body });
          openPage("health");
        } catch (found) {
          say(fault, found);
          pressed.disabled = false;
        }
      }),
    );
  const tenant = me.tenant || "the default tenant";
  if (told.paused.includes(me.tenant)) {
    put(`Switch the bot on for ${tenant}, and answer what waits`, { paused: false, unread: "answer" });
    put("On, and pass over what waits", { paused: false, unread: "skip" });
  } else put(`Switch the bot off for ${tenant}`, { paused: true }, `The bot will be silent in all conversations of ${tenant}. Go on?`);
  if (me.everywhere && told.paused.includes(null)) put("Switch it on everywhere", { paused: false, everywhere: true });
  else if (me.everywhere) put("Switch it off everywhere", { paused: true, everywhere: true }, "The bot will be silent in all tenants. Go on?");
  row.append(fault);
  return row;
}
