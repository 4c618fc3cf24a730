"""A line chart as SVG: turns per second by length of history, both on logarithmic scales, readable in light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT = 900, 460
LEFT, RIGHT, TOP, BOTTOM = 70, 290, 50, 50
LABEL = 17  # pixels between two labels
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #24292f } .title { font-size: 15px; font-weight: 600 }
  .tick { fill: #59636e } .ours { font-weight: 600 } .grid { stroke: #d1d9e0; stroke-width: 1 }
  .line { fill: none; stroke-width: 1.8 } .line.ours { stroke-width: 3.5 } .line.floor { stroke-dasharray: 6 4 }
  .link { fill: none; stroke: #afb8c1; stroke-width: 1 }
  .c0 { --c: #0b62c4 } .c1, .c2 { --c: #59636e } .c3 { --c: #b3500f } .c4 { --c: #177245 } .c5 { --c: #7b3fb5 }
  .c6 { --c: #b02a63 } .c7 { --c: #7a6500 } .line { stroke: var(--c) } .dot { fill: var(--c) }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .tick { fill: #9198a1 } .grid { stroke: #30363d } .link { stroke: #59636e }
    .c0 { --c: #58a6ff } .c1, .c2 { --c: #9198a1 } .c3 { --c: #f0883e } .c4 { --c: #3fb950 } .c5 { --c: #bc8cff }
    .c6 { --c: #f778ba } .c7 { --c: #d4b106 }
  }
"""


class Line(NamedTuple):
    """One subject: (length, turns per second), and how it is drawn: "ours", "floor" or ""."""

    title: str
    kind: str
    points: Sequence[tuple[float, float]]


def drawn(title: str, lines: Sequence[Line]) -> str:
    """The chart, with each line named at its right end."""
    lines = [line for line in lines if line.points]
    xs = sorted({x for line in lines for x, _ in line.points})
    ys = [y for line in lines for _, y in line.points]
    low, high = math.floor(math.log10(min(ys))), math.ceil(math.log10(max(ys)))
    wide = math.log10(xs[-1] / xs[0]) or 1.0

    def across(x: float) -> float:
        return LEFT + math.log10(x / xs[0]) / wide * (WIDTH - LEFT - RIGHT)

    def up(y: float) -> float:
        return HEIGHT - BOTTOM - (math.log10(y) - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    parts = [f'<text class="title" x="{LEFT}" y="24">{escape(title)}</text>']
    for power in range(low, high + 1):
        y = up(10**power)
        parts.append(f'<line class="grid" x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{10**power:,}</text>')
    centred = f'y="{HEIGHT - 28}" text-anchor="middle"'
    parts += [f'<text class="tick" x="{across(x):.1f}" {centred}>{x:,.0f}</text>' for x in xs]
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="tick" x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">messages in the log</text>')
    ends = {}
    for place, line in enumerate(lines):
        path = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in line.points)
        parts.append(f'<polyline class="line c{place % 8} {line.kind}" points="{path}"/>')
        parts += [
            f'<circle class="dot c{place % 8}" cx="{across(x):.1f}" cy="{up(y):.1f}" r="3"/>' for x, y in line.points
        ]
        ends[place] = up(line.points[-1][1])
    for place, y in _apart(ends).items():
        line = lines[place]
        x, end = across(line.points[-1][0]), WIDTH - RIGHT + 26
        parts.append(f'<polyline class="link" points="{x + 5:.1f},{ends[place]:.1f} {end - 4},{y:.1f}"/>')
        parts.append(f'<circle class="dot c{place % 8}" cx="{end + 3}" cy="{y:.1f}" r="4"/>')
        parts.append(f'<text class="{line.kind}" x="{end + 12}" y="{y + 4:.1f}">{escape(line.title)}</text>')
    size = f'width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{escape(title)}">'
    return "\n".join([head, f"<style>{STYLE}</style>", *parts, "</svg>", ""])


def _apart(ends: dict[int, float]) -> dict[int, float]:
    """The labels' places: near the ends of their lines, none upon another."""
    order = sorted(ends, key=lambda place: ends[place])
    found: dict[int, float] = {}
    for place in order:
        below = max(found.values(), default=-math.inf)
        found[place] = max(ends[place], below + LABEL)
    too_low = max(found.values(), default=0.0) - (HEIGHT - BOTTOM)
    for place in reversed(order):
        if too_low <= 0:
            break
        above = min((found[other] for other in order if found[other] > found[place]), default=math.inf)
        found[place] = min(found[place], HEIGHT - BOTTOM, above - LABEL)
    return found
