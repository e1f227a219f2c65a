"""Pieces of a page of HTML that needs no other file: sortable tables, line charts, pictures.

Colours are variables of the page's style, so that charts follow light and dark.
"""

import base64
import html
import itertools
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

escape = html.escape

_STYLE = """
:root { color-scheme: light dark; --ground: #fff; --text: #1b1b1b; --quiet: #666; --line: #ddd;
  --head: #f4f4f4; --c0: #0072b2; --c1: #c4500a; --c2: #007a5a; --c3: #a8548a; --c4: #8a6d00 }
@media (prefers-color-scheme: dark) { :root { --ground: #16181b; --text: #e8e8e8; --quiet: #a0a0a0;
  --line: #3a3d41; --head: #22252a; --c0: #56b4e9; --c1: #ff9d5c; --c2: #3ddbac; --c3: #e59ac8;
  --c4: #f0e442 } }
* { box-sizing: border-box }
body { background: var(--ground); color: var(--text); font: 16px/1.5 system-ui, sans-serif;
  max-width: 70rem; margin: 0 auto; padding: 1rem }
h1 { font-size: 1.6rem } h2 { font-size: 1.25rem; border-top: 1px solid var(--line);
  padding-top: 1rem; margin-top: 2.5rem } h3 { font-size: 1.05rem; margin: 1.5rem 0 .3rem }
h1, h2, h3, p, li, summary { overflow-wrap: anywhere }
nav a { margin-right: 1rem; display: inline-block }
a { color: var(--c0) }
.quiet { color: var(--quiet); font-size: .9rem }
.wide { overflow-x: auto; margin: .5rem 0 1rem }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .7rem; text-align: left;
  white-space: nowrap }
th { background: var(--head); padding: 0 } th:not(:has(button)) { padding: .25rem .7rem }
th button { all: unset; cursor: pointer; padding: .25rem .7rem; width: 100% }
th button:focus-visible { outline: 2px solid var(--c0) }
th[aria-sort=ascending] button::after { content: " ▲" }
th[aria-sort=descending] button::after { content: " ▼" }
figure { margin: .5rem 0; display: inline-block; max-width: 100%; vertical-align: top }
figure img { max-width: 100%; height: auto; background: #fff; border-radius: 4px; display: block }
figcaption { font-size: .85rem; color: var(--quiet) }
svg { width: 32rem; max-width: 100%; height: auto }
svg text { fill: var(--text); font-size: 13px } svg .tick { fill: var(--quiet) }
svg .grid { stroke: var(--line) }
details { margin: .3rem 0 } summary { cursor: pointer }
"""

_SCRIPT = """
document.querySelectorAll("th button").forEach(button => button.onclick = () => {
  const head = button.parentNode, row = head.parentNode, body = row.closest("table").tBodies[0];
  const column = [...row.children].indexOf(head);
  const down = head.getAttribute("aria-sort") === "ascending";
  const read = line => {
    const text = line.children[column].textContent.trim();
    const number = parseFloat(text.replace(/,/g, ""));
    return [text === "", Number.isNaN(number) ? Infinity : number, text];
  };
  const lines = [...body.rows].map(line => [read(line), line]);
  lines.sort(([a], [b]) => a[0] - b[0] || (down ? -1 : 1) *
    (a[1] === b[1] ? a[2].localeCompare(b[2]) : a[1] - b[1]));
  [...row.children].forEach(one => one.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  lines.forEach(([, line]) => body.append(line));
});
"""

# Nothing is loaded from anywhere: the browser itself sees to it.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def document(title: str, body: str) -> str:
    """A page of HTML."""
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
<body>
<h1>{escape(title)}</h1>
{body}
<script>{_SCRIPT}</script>
</body>
</html>
"""


def number(value: Any) -> str:
    """A value as the text of a cell."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.5g}" if abs(value) < 1e5 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table that a click on a heading sorts; cells are HTML."""
    head = "".join(f"<th><button>{name}</button></th>" for name in header)
    body = "\n".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return (
        f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>\n{body}\n'
        "</tbody></table></div>"
    )


def picture(path: Path, caption: str) -> str:
    """A PNG file within the page."""
    content = base64.b64encode(path.read_bytes()).decode()
    text = escape(caption)
    return (
        f'<figure><img alt="{text}" src="data:image/png;base64,{content}">'
        f"<figcaption>{text}</figcaption></figure>"
    )


def folded(summary: str, content: str) -> str:
    """Content that a click on the summary shows."""
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


class Series(NamedTuple):
    """A line of a chart."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    dashed: bool = False
    """Published values; else ours, with markers."""


_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 500, 280, 64, 112, 14, 40
_MARKERS = ("M-3,-3h6v6h-6z", "M0,-4l4,7h-8z", "M0,-4l4,4l-4,4l-4,-4z", "M-3.5,0h7M0,-3.5v7")


def chart(series: Sequence[Series], x_label: str, y_label: str, *, whole: bool = False) -> str:
    """Lines with their names at their ends.

    Args:
      series: the lines; empty ones are left out.
      x_label: below.
      y_label: at the left.
      whole: whether all values are on the plot; else the highest of the first tenth of a line may
        leave it: losses start high.
    """
    series = [one for one in series if len(one.x)]
    if not series:
        return ""
    tails = [value for one in series for value in one.y[0 if whole else len(one.y) // 10 :]]
    most = float(np.percentile(tails, 100 if whole else 97))
    low, high = min(tails), max(most, *(one.y[-1] for one in series))
    margin = 0.06 * (high - low) or 0.01 * (abs(high) or 1)
    low, high = low - margin, high + margin
    first, last = (f(value for one in series for value in one.x) for f in (min, max))
    last = last if last > first else first + 1

    def across(x: float) -> float:
        return _LEFT + (x - first) / (last - first) * (_WIDTH - _LEFT - _RIGHT)

    def down(y: float) -> float:
        share = (y - low) / (high - low)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)

    parts = []
    for tick in _ticks(low, high):
        y = down(tick)
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text class="tick" x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:,.6g}'
            "</text>"
        )
    for tick in _ticks(first, last):
        parts.append(
            f'<text class="tick" x="{across(tick):.1f}" y="{_HEIGHT - _BOTTOM + 16}" '
            f'text-anchor="middle">{tick:,.6g}</text>'
        )
    ends = _apart([down(one.y[-1]) for one in series])
    for place, (one, end) in enumerate(zip(series, ends, strict=True)):
        colour = f"var(--c{place % 5})"
        on_plot = [(x, y) for x, y in zip(one.x, one.y, strict=True) if low <= y <= high]
        points = [(across(x), down(y)) for x, y in on_plot]
        path = "L".join(f"{x:.1f},{y:.1f}" for x, y in points)
        dashes = ' stroke-dasharray="5 4"' if one.dashed else ""
        parts.append(
            f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="1.6"{dashes}/>'
        )
        every = max(1, len(points) // 12)
        marked = [] if one.dashed else [*points[::-every]]
        marker = _MARKERS[place % len(_MARKERS)]
        parts += [
            f'<path d="{marker}" transform="translate({x:.1f},{y:.1f})" fill="{colour}" '
            f'stroke="{colour}"/>'
            for x, y in marked
        ]
        parts.append(
            f'<text x="{points[-1][0] + 8:.1f}" y="{end + 4:.1f}" style="fill: {colour}">'
            f"{escape(one.label)}</text>"
        )
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(
        f'<text x="{middle}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>'
    )
    parts.append(
        f'<text x="14" y="{_HEIGHT / 2}" text-anchor="middle" '
        f'transform="rotate(-90 14 {_HEIGHT / 2})">{escape(y_label)}</text>'
    )
    title = escape(f"{y_label} over {x_label}: {', '.join(one.label for one in series)}")
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img"><title>{title}</title>'
        f"{''.join(parts)}</svg>"
    )


def _ticks(low: float, high: float) -> list[float]:
    """Four to eight round numbers between two."""
    step = 10 ** math.floor(math.log10((high - low) / 4))
    step = next(step * k for k in (5, 2, 1) if (high - low) / (step * k) >= 3.5)
    return [step * i for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _apart(heights: Sequence[float], least: float = 13) -> list[float]:
    """The heights of labels, moved so that none covers another."""
    moved = list(heights)
    order = sorted(range(len(moved)), key=lambda i: moved[i])
    for before, after in itertools.pairwise(order):
        moved[after] = max(moved[after], moved[before] + least)
    over = max(0.0, max(moved) - (_HEIGHT - _BOTTOM + 6))
    return [height - over for height in moved]
