"""RESULTS.md and its charts, written from results.json and nothing else.

results.json has a part for each engine of `make bench`, and APART: what the benchmarks that are started alone have recorded.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from . import report_apart
from .chart import Line, drawn
from .report_apart import Bar

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
MODES = {"many": "64 conversations at once", "one": "one turn at a time"}
COSTS = 100  # the length of history whose costs are shown
APART = "apart"
Found = dict[str, Any]


def circumstances() -> Found:
    """When, how and on what something is measured."""
    system = f"{platform.system()} {platform.release().split('-')[0]}"
    return {
        "taken": time.strftime("%Y-%m-%d"),
        "command": " ".join(["python", *sys.orig_argv[1:]]),
        "cores": os.cpu_count(),
        "machine": f"{os.cpu_count()} cores, {system}, CPython {platform.python_version()}",
        "chatkeep": version("chatkeep"),
    }


def record(part: str, found: Found) -> None:
    """Puts what a benchmark of its own has *found* into results.json, in the place of what it had there, and writes RESULTS.md."""
    merged = json.loads(RESULTS.read_text())
    merged[APART] = merged.get(APART, {}) | {part: circumstances() | found}
    RESULTS.write_text(json.dumps(merged, indent=1) + "\n")
    write()


def write() -> None:
    """Writes RESULTS.md and charts/ anew."""
    found = json.loads(RESULTS.read_text())
    apart = found.pop(APART, {})
    parts = [HEAD, "## Bars\n"]
    for engine in found.values():
        parts += [f"**{engine['title']}**, {age(engine)}\n", *judged(bars(engine))]
    if apart:
        parts += ["**Without a server, in functions, and on the move**\n", *judged(report_apart.bars(apart))]
    (HERE / "charts").mkdir(exist_ok=True)
    for name, engine in found.items():
        (HERE / "charts" / f"{name}.svg").write_text(chart(engine))
        parts += section(name, engine)
    parts += report_apart.sections(apart)
    (HERE / "RESULTS.md").write_text("\n".join(parts).rstrip() + "\n")


def age(engine: Found) -> str:
    """Which chatkeep was measured, and when; it is said where that was an older one."""
    measured, now = engine["versions"]["chatkeep"], version("chatkeep")
    older = "" if measured == now else f"; an older version: {now} was not measured yet"
    return f"chatkeep {measured}, measured on {engine['taken']}{older}"


def judged(bars: Iterable[Bar]) -> list[str]:
    """A table of bars."""
    words = {True: "met", False: "**missed**", None: ""}
    lines = [f"| {bar.what} | {bar.wanted} | {bar.figure} | {words[bar.met]} |" for bar in bars]
    return ["| | bar | figure | |\n|---|---|---|---|", *lines, ""]


def bars(engine: Found) -> list[Bar]:
    """The engine's bars, in the order of their weight."""
    found: list[Bar] = []
    wire = engine["wire"]
    for act, trips in (("receive", 1), ("accept", 2)) if wire else ():
        what = {"receive": "round trips of a `receive`", "accept": "round trips of an `accept` with its answer"}[act]
        told = wire[act]["announcements"]
        figure = wire[act]["trips"]
        extra = f" (and {told:.2f} announcements, which nobody waits for)" if told else ""
        found.append(Bar(f"{what}, on the wire", f"{trips}", f"{figure:.2f}{extra}", figure <= trips))
    for mode, least in (("many", 2.0), ("one", 0.7 if engine["name"] == "sqlite" else None)):
        lowest = least_ratio(engine, ["raw"], mode)
        if lowest:
            figure, length, _ = lowest
            said = f"{figure:.2f} (at {length:,} messages)"
            wanted = f"at least {least:g}" if least else ""
            met = figure >= least if least else None
            found.append(Bar(f"{MODES[mode]}, x (a), at every length", wanted, said, met))
    if lowest := least_ratio(engine, ["bare"], "many"):
        found.append(Bar("64 conversations at once, x (b)", "", f"{lowest[0]:.2f} (at {lowest[1]:,} messages)", None))
    for python, what, least in ((True, "every Python peer", 4.0), (False, "every other peer", 1.0)):
        names = [subject["name"] for subject in engine["subjects"] if subject["peer"] and subject["python"] == python]
        for mode in MODES:
            if lowest := least_ratio(engine, names, mode):
                figure, length, name = lowest
                said = f"{figure:.2f} ({title(engine, name)}, {length:,} messages)"
                many = mode == "many"
                label = f"{MODES[mode]}, x {what}, at every length"
                wanted = (f"at least {least:g}" if python else "ahead") if many else ""
                found.append(Bar(label, wanted, said, (figure >= least) if many else None))
    logs = engine["long_logs"]
    for long in [length for length in logs if length != "10"]:
        for what, unit in (("time", "ms"), ("bytes written", "bytes")):
            figure = logs[long][unit] / logs["10"][unit]
            label = f"a turn in a log of {int(long):,} messages, {what}, x one in a log of 10"
            found.append(Bar(label, "at most 1.1", f"{figure:.2f}", figure <= 1.1))
    if rounds := engine["instances"]:
        shared = engine["name"] != "sqlite"
        figure = statistics.median(one["pair"] / one["alone"] for one in rounds)
        label = "two instances on one store, a turn at a time each, x one (cores are left)"
        found.append(Bar(label, "at least 1.5" if shared else "", f"{figure:.2f}", figure >= 1.5 if shared else None))
        figure = statistics.median(one["two"] / one["one"] for one in rounds)
        there = f"{engine['cores']} cores{', the server on them too' if shared else ''}"
        label = f"two instances on one store, 32 conversations each, x one with 64 ({there}: none is left)"
        found.append(Bar(label, "", f"{figure:.2f}", None))
    if slowed := engine["slowed"]:
        figure = statistics.median(ratios(slowed, "raw", 10, "many"))
        found.append(Bar("64 conversations with each fsync 1 ms slower, x (a)", "", f"{figure:.1f}", None))
    grown, stored = engine["memory"], engine["stored_bytes"]
    label = f"memory from turn {grown[5][0]:,} to {grown[-1][0]:,} (2,000 conversations, cache of 200), MB"
    said = f"{grown[5][1]:.1f} to {grown[-1][1]:.1f}"
    found.append(Bar(label, "flat (within 5 %)", said, grown[-1][1] < 1.05 * grown[5][1]))
    label = "bytes stored per conversation of 20 messages (ids of 16 characters)"
    small = engine["name"] == "sqlite"
    found.append(Bar(label, "at most 5,120" if small else "", f"{stored:,.0f}", stored <= 5120 if small else None))
    cold = engine["cold"]
    found.append(Bar("`import chatkeep`, seconds", "under 0.1", f"{cold['import_s']:.3f}", cold["import_s"] < 0.1))
    return found


def section(name: str, engine: Found) -> list[str]:
    """All there is about one engine."""
    lengths, cold = engine["lengths"], engine["cold"]
    parts = [
        f"## {engine['title']}\n",
        f"{engine['version']}. `{engine['command']}` on {engine['taken']}; {engine['machine']}.",
        f"chatkeep's side: {listed(engine['versions'])}.",
    ]
    if engine["peer_versions"]:
        parts.append(f"The peers': {listed(engine['peer_versions'])}.")
    parts.append(f"\n![turns per second by length of history](charts/{name}.svg)\n")
    parts.append("(Who runs fewer conversations at once is noted in the table.)\n")
    for mode, heading in MODES.items():
        head = "".join(f" {length:,} messages |" for length in lengths)
        parts += [f"### {heading.capitalize()}: turns/s\n", f"| |{head}", "|---|" + "---|" * len(lengths)]
        for subject in engine["subjects"]:
            cells = [cell(engine, subject["name"], length, mode) for length in lengths]
            parts.append(f"| {subject['title']} | " + " | ".join(cells) + " |")
        parts.append("")
    length = COSTS if COSTS in lengths else lengths[0]
    parts += [
        f"### What a turn costs (64 at once, {length:,} messages)\n",
        "| | p50 ms | p99 ms | CPU us of the client | bytes written | acts | fsyncs | peak MB | import s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    parts += [costs(engine, subject, length) for subject in engine["subjects"]]
    if engine["absent"]:
        parts.append("\nNot measured, or not to the end:\n")
        parts += [f"- {title(engine, subject)}: {why}" for subject, why in engine["absent"].items()]
    if engine["slowed"]:
        parts += [
            "\n### With each fsync 1 ms slower (10 messages): turns/s\n",
            "| | one at a time | 64 at once |",
            "|---|---|---|",
        ]
        for subject in ("raw", "bare", "chatkeep"):
            runs = [median(engine["slowed"], subject, 10, mode, "turns_s") for mode in ("one", "many")]
            parts.append(f"| {title(engine, subject)} | {runs[0]:,.0f} | {runs[1]:,.0f} |")
    parts.append("\n### chatkeep alone\n")
    for act, trips in engine["wire"].items():
        what = {"receive": "`receive`", "accept": "`accept` and its answer"}[act]
        said = f"{trips['trips']:.2f} round trips, {trips['announcements']:.2f} announcements beside them, {trips['sent']:,.0f} bytes sent, {trips['got']:,.0f} received"
        parts.append(f"- {what}: {said}.")
    logs = [
        f"{int(n):,} messages {one['ms']:.3f} ms, {one['bytes']:,.0f} bytes written"
        for n, one in engine["long_logs"].items()
    ]
    parts.append(f"- A turn in a log of {'; '.join(logs)} (medians of 1,000 turns, by turns).")
    if engine["instances"]:
        one, two, alone, pair = (
            statistics.median(run[which] for run in engine["instances"]) for which in ("one", "two", "alone", "pair")
        )
        parts.append(
            f"- One process with 64 conversations: {one:,.0f} turns/s; two with 32 each: {two:,.0f}. A turn at a time, one process: "
            f"{alone:,.0f}; two: {pair:,.0f}."
        )
    times = ", ".join(f"{cold[f'{what}_s'] * 1e3:.0f} ms to {what}" for what in ("import", "open", "answer"))
    packages = ", ".join(cold["packages"])
    parts.append(
        f"- Cold start: {times}; {cold['modules']:.0f} modules, {cold['rss_mb']:.0f} MB; it imports {packages}."
    )
    grown = ", ".join(f"{turns:,}: {mb:.1f}" for turns, mb in engine["memory"])
    parts.append(f"- Resident MB after so many turns over 2,000 conversations, cache limited to 200: {grown}.")
    shares = ", ".join(f"{place} {share:.0%}" for place, share in engine["profile"].items())
    parts.append(f"- Where the event loop's thread spends its time with 64 conversations (under cProfile): {shares}.\n")
    return parts


def chart(engine: Found) -> str:
    """Turns per second by length, 64 at once."""
    lines = []
    for subject in engine["subjects"]:
        name = subject["name"]
        points = [
            (length, median(engine["samples"], name, length, "many", "turns_s"))
            for length in engine["lengths"]
            if chosen(engine["samples"], name, length, "many")
        ]
        kind = "ours" if name == "chatkeep" else "" if subject["peer"] else "floor"
        lines.append(Line(subject["title"], kind, points))
    return drawn(f"{engine['title']}: turns per second, 64 conversations at once", lines)


def cell(engine: Found, name: str, length: int, mode: str) -> str:
    """Turns per second, smallest and largest, and how many times as fast chatkeep is."""
    runs = chosen(engine["samples"], name, length, mode)
    if not runs:
        noted = any(s["subject"] == name and s["length"] == length and "note" in s for s in engine["samples"])
        return "too slow to fill" if noted else "-"
    speeds = [run["turns_s"] for run in runs]
    digits = 0 if min(speeds) >= 10 else 1
    said = f"{statistics.median(speeds):,.{digits}f} ({min(speeds):,.{digits}f}-{max(speeds):,.{digits}f})"
    if mode == "many" and runs[0]["clients"] < 64:
        said += f", {runs[0]['clients']} at once"
    if name != "chatkeep" and (found := ratios(engine["samples"], name, length, mode)):
        ratio = statistics.median(found)
        said += f"; {ratio:,.{2 if ratio < 10 else 0}f}x"
    return said


def costs(engine: Found, subject: Found, length: int) -> str:
    """A line of the table of costs."""
    if not chosen(engine["samples"], subject["name"], length, "many"):
        return f"| {subject['title']} | - | - | - | - | - | - | - | - |"
    cells = []
    for field, digits in (
        ("p50_ms", 2),
        ("p99_ms", 2),
        ("cpu_us", 0),
        ("bytes", 0),
        ("acts", 2),
        ("fsyncs", 3),
        ("rss_mb", 0),
    ):
        value = median(engine["samples"], subject["name"], length, "many", field)
        cells.append("-" if value is None else f"{value:,.{digits}f}")
    cells.append(f"{engine['imports'][subject['name']]:.2f}")
    return f"| {subject['title']} | " + " | ".join(cells) + " |"


def chosen(samples: Iterable[Found], name: str, length: int, mode: str) -> list[Found]:
    """The runs of a subject, by round."""
    return [
        sample
        for sample in samples
        if (sample["subject"], sample["length"], sample["mode"]) == (name, length, mode) and "note" not in sample
    ]


def median(samples: Iterable[Found], name: str, length: int, mode: str, field: str) -> Any:
    """The middle of a subject's runs; None where it was not counted."""
    found = [run[field] for run in chosen(samples, name, length, mode) if field in run]
    return statistics.median(found) if found else None


def ratios(samples: list[Found], name: str, length: int, mode: str) -> list[float]:
    """How many times as fast chatkeep is, within each round."""
    others = {run["round"]: run["turns_s"] for run in chosen(samples, name, length, mode)}
    ours = chosen(samples, "chatkeep", length, mode)
    return [run["turns_s"] / others[run["round"]] for run in ours if run["round"] in others]


def least_ratio(engine: Found, names: list[str], mode: str) -> tuple[float, int, str] | None:
    """The smallest ratio over subjects and lengths, and where it is."""
    found = [
        (statistics.median(pairs), length, name)
        for name in names
        for length in engine["lengths"]
        if (pairs := ratios(engine["samples"], name, length, mode))
    ]
    return min(found, default=None)


def title(engine: Found, name: str) -> str:
    """What a subject is called."""
    return str(next(subject["title"] for subject in engine["subjects"] if subject["name"] == name))


def listed(versions: dict[str, str]) -> str:
    """Names and versions in a sentence."""
    return ", ".join(f"{name} {number}" for name, number in sorted(versions.items(), key=lambda item: item[0].lower()))


HEAD = """# Results

Written by `make bench` and `make bench-edges` from `results.json`, which has the raw figures. Each engine's section names the version of
chatkeep that was measured; figures of an older version stand until they are taken again.

One turn: the user's message of 200 bytes comes in, the bot is given the state (about 1 KB of JSON) and the last 20 messages, puts
a changed state and answers 200 bytes, and all of it is durable before the answer is seen. It must find the state that the turn
before it left, or the run fails. Logs begin at the length named and grow by what is measured; up to 100 messages they are made
anew for each round.

(a) and (b) are in `floors/`: what a careful person writes by hand on the plain driver, and the least that a write-combining loop
can cost. chatkeep has message ids (of 16 characters), dedupe, order, session expiry, checksums and attempts on top. The peers are
in `peers/`, each driven as its documentation says, in its cheapest durable way: LangGraph with durability="exit"; Agents SDK sessions
have no place for state, so it is a third item; aiogram has no log, so the messages are in its data; Chat SDK makes the eight calls
that its `Chat` makes for a message, on a list without a limit; DBOS calls the workflow directly, without a queue; the Durable Object is
asked over HTTP on loopback, which is the only way to it. The Python peers on SQLite run the standard library's, at its default
synchronous=FULL, in WAL where they ask for it (ADK does not: the column of fsyncs shows it). On Redis and PostgreSQL all share the engine's
server, but for LangGraph on Redis, which needs modules and has a Redis Stack of its own, appendfsync always too.

Each subject runs in a process of its own, Python ones on uvloop; the processes stay open and are measured in turn, round after round.
Figures are medians over the rounds, smallest and largest in brackets; "x" behind a figure is how many times as fast chatkeep is, the
median of the ratios within a round. Who would not finish a turn of 64 conversations in a few seconds runs fewer at once, as
noted. Server and client share the machine's cores. Latencies of a subject that blocks the event loop, as (a) on SQLite does, leave out
waiting. CPU is that of the subject's process and its children; bytes written are those of the server's log (SQLite: of the
processes), so they are not comparable between engines.
"""
