"""What RESULTS.md says of the benchmarks that are started alone: `edges`, `cold`, `uncached`, `moving` and `pieces`."""

from __future__ import annotations

from typing import Any, NamedTuple

Found = dict[str, Any]

SLOWEST = 0.5  # a writing act, times as fast as its floor
COLD_MS = 250
UNCACHED = 2.1  # the processor's time of a turn whose conversation is read first, x a warm one
COLD = ("redis", "postgresql", "upstash")
BUSY = 5  # a load average that a move and two stores do not make alone
MOVING = "moving"  # how the names of all runs of it begin


class Bar(NamedTuple):
    """What was wanted, what was found. *met* None: a figure without a bar."""

    what: str
    wanted: str
    figure: str
    met: bool | None


def bars(apart: Found) -> list[Bar]:
    """The bars of all of them that were recorded."""
    found: list[Bar] = []
    if edges := apart.get("edges"):
        for act in edges["acts"]:
            if act["writes"]:
                label = f"{act['name']}, x {act['floor'].partition(': ')[2]}"
                found.append(Bar(label, f"at least {SLOWEST:g}", f"{act['x']:.2f}", act["x"] >= SLOWEST))
        for title, requests in edges["requests"].items():
            found.append(Bar(f"{title}: requests of a warm `receive`", "1", f"{requests:.2f}", requests <= 1))
    if cold := apart.get("cold"):
        for name, engine in cold["engines"].items():
            label = f"{engine['title']}: a process for one message, ms"
            wanted = f"under {COLD_MS}" if name in COLD else ""
            whole = engine["ours"]["whole"]
            found.append(Bar(label, wanted, f"{whole:.0f}", whole < COLD_MS if wanted else None))
    if uncached := apart.get("uncached"):
        for kind in uncached["kinds"]:
            if kind["kind"] in ("cold", "new"):
                figure, label = f"{kind['x']:.2f}", f"{kind['title']}: CPU of a turn, x a warm one"
                found.append(Bar(label, f"at most {UNCACHED:g}", figure, kind["x"] <= UNCACHED))
    for moving in [apart[name] for name in sorted(apart) if name.startswith(MOVING)]:
        for way in moving["ways"]:
            label = f"{way['way']}: {moving['conversations']:,} conversations, seconds closed"
            found.append(Bar(label, "", f"{way['closed_s']:.1f}", None))
    return found


def sections(apart: Found) -> list[str]:
    """All there is about them."""
    moves = {name: moving_section for name in sorted(apart) if name.startswith(MOVING)}
    made = {
        "edges": acts_section,
        "cold": cold_section,
        "uncached": uncached_section,
        **moves,
        "pieces": pieces_section,
    }
    parts: list[str] = []
    for name, section in made.items():
        if found := apart.get(name):
            said = f"chatkeep {found['chatkeep']}. `{found['command']}` on {found['taken']}; {found['machine']}.\n"
            title, *rest = section(found)
            parts += [f"## {title}\n", said, *rest, ""]
    return parts


def acts_section(found: Found) -> list[str]:
    """A title, and the lines below it."""
    lines = [
        f"| {act['name']} | {act['least_ms']:.2f} | {act['median_ms']:.2f} | {act['x']:.2f}x |" for act in found["acts"]
    ]
    return [
        "Stores without a server",
        "One act at a time on one connection: what a caller waits for, in ms, as the least and the median of the rounds' means; x: how many "
        "times as fast as the floor above it, the median of the ratios within a round. A write that moves an index changes a second object "
        "before it is answered, as the bare one does that tells another; one that is due later, as the end of a turn is, changes it afterwards.\n",
        "| | least | median | |\n|---|---|---|---|",
        *lines,
    ]


def cold_section(found: Found) -> list[str]:
    """A title, and the lines below it."""
    lines = [f"| {title} | {ms:.0f} | - | - | - | - | - | - |" for title, ms in found["before"].items()]
    for engine in found["engines"].values():
        for title, run in ((engine["plain_title"], engine["plain"]), ("chatkeep", engine["ours"])):
            answered = run.get("answered")
            cells = [f"{ms:.0f}" if ms else "-" for ms in (run["whole"], run["processor"], answered, *run["stages"])]
            lines.append(f"| {engine['title']}: {title} | " + " | ".join([*cells, *["-"] * (7 - len(cells))]) + " |")
    return [
        "Cold starts",
        f"A process for one message, on a store that is there; ms, each the least of {found['runs']} runs. Whole: from the start of the process "
        "to its end. Answered: from its start to its answer, behind which the process of a function does not end.\n",
        "| | whole | CPU | answered | import | open | receive | close |\n|---|---|---|---|---|---|---|---|",
        *lines,
    ]


def uncached_section(found: Found) -> list[str]:
    """A title, and the lines below it."""
    lines = [
        f"| {kind['title']} | {kind['processor']:.0f} | {kind['x']:.2f}x | {kind['reads']:.2f} | {kind['writes']:.2f} |"
        for kind in found["kinds"]
    ]
    return [
        "Conversations that are not in memory",
        f"{found['conversations']:,} conversations of 30 messages, 64 turns at once. Warm: those that go on; cold: those that a process has "
        f"not seen that was started anew and has answered others; random: any of them, where the cache holds one in {found['held']}; new: those "
        "that nobody has begun. The processor's time of chatkeep's process for a turn, in microseconds, and how often the store was asked to read and to write for it.\n",
        "| | CPU us | | reads | writes |\n|---|---|---|---|---|",
        *lines,
    ]


def moving_section(found: Found) -> list[str]:
    """A title, and the lines below it."""
    lines = [
        f"| {way['way']} | {way['copied_s']:.1f} | {found['conversations'] / way['copied_s']:,.0f} | {way['finished_s']:.1f} | "
        f"{way['closed_s']:.1f} | {way['memory_mb']:.0f} |"
        for way in found["ways"]
    ]
    first = found["ways"][0]["way"].partition(" to ")[2]
    shared = ""
    if (load := found.get("load", 0.0)) > BUSY:
        shared = f" Others used the machine too: its load average was up to {load:.1f}."
    return [
        "Moving a store" if first == "PostgreSQL" else f"Moving a store through {first}",
        f"{found['conversations']:,} conversations of four messages and 400 bytes of state, by `chatkeep move`: copied, then compared and "
        f"finished.{shared}\n",
        "| | copied in s | a second | finished in s | closed for s | most MB |\n|---|---|---|---|---|---|",
        *lines,
    ]


def pieces_section(found: Found) -> list[str]:
    """A title, and the lines below it."""
    return [
        "Streamed replies",
        "All replies at once, two pieces a second each, written on one instance and watched on the other one, beside clients that never read. "
        "From the piece yielded to the piece seen: gathered (0.25 to 1 s after the first one), recorded, announced, read, sent.\n",
        f"| {' | '.join(found['head'])} |\n{'|---' * len(found['head'])}|",
        *(f"| {' | '.join(row)} |" for row in found["rows"]),
    ]
