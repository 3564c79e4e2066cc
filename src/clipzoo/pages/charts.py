"""Inline SVG charts with the colors of the style sheet; every mark has a title for screen readers and tooltips."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypedDict

import numpy as np
from markupsafe import Markup, escape

from clipzoo.evaluation.results import Cell, Comparison
from clipzoo.pages import words

Place = Callable[[float], float]
"""A value -> its place on an axis, in pixels."""


class Point(TypedDict):
    """A value of a curve."""

    step: int
    name: str
    value: float | None


Curves = Mapping[str, Mapping[int, Sequence[Point]]]
"""Arm -> seed -> its points."""

ORDER = (
    "chance", "majority", "position_prior", "pixels_position", "random_student", "clip", "clip-ft", "clip-ft-best",
    "more_labels", "clipzoo", "clipzoo-best", "expert",
)  # fmt: skip
SHORT = {"more_labels": "more labels", "majority": "majority class"}
LONGEST = 17
"""Characters of the name of a row."""
WIDTH, LEFT, RIGHT, ROW, CAPTION = 370, 116, 60, 25, 106


def rows_of(results: Comparison, metric: str) -> list[tuple[str, Cell]]:
    """Return (row, cell) of a measure for baselines and arms in display order."""
    rows = {**results.get("arms", {}), **results.get("baselines", {})}
    cells = {row: measures[metric] for row, measures in rows.items() if metric in measures}
    cells = {row: cell for row, cell in cells.items() if cell["mean"] is not None}
    return sorted(cells.items(), key=lambda item: ORDER.index(item[0]) if item[0] in ORDER else 8.5)


def mean_of(cell: Cell) -> float:
    """Return the mean of a cell of `rows_of`."""
    assert cell["mean"] is not None
    return cell["mean"]


def ladder(results: Comparison, metric: str) -> Markup:
    """Draw the value and interval of every row in one measure; right is better for both directions."""
    rows = rows_of(results, metric)
    if not rows:
        return Markup("")
    unit, direction = rows[0][1]["unit"], rows[0][1]["direction"]
    ends = [end for _, cell in rows for end in (mean_of(cell), *(cell["ci"] or ()))]
    place = scale(min(ends), max(ends), LEFT + 8, WIDTH - RIGHT, flip=direction == "lower")
    height = ROW * len(rows) + 30
    floor = [mean_of(cell) for row, cell in rows if row in (*words.TRIVIAL, *words.CONSTANT)]
    marks = [_floor(place, floor, direction, height)] if floor else []
    arms = results.get("arms", {})
    marks += [
        _mark(i, row, words.row_name(results, metric, row), cell, place, arms) for i, (row, cell) in enumerate(rows)
    ]
    label = f"{words.group_name(metric)}, {words.measure_name(metric)}: " + ", ".join(
        f"{words.row_name(results, metric, row)} {words.value(cell['mean'], unit)}" for row, cell in rows
    )
    foot = f'<text class="axis" x="{WIDTH - RIGHT}" y="{height - 8}" text-anchor="end">better →</text>'
    return svg(label, WIDTH, height, [*marks, foot])


def forest(verdict: words.Verdict, reach: float) -> Markup:
    """Draw one difference on an axis from −``reach`` to ``reach``; right is better."""
    if verdict.gain is None or not verdict.ci or not reach:
        return Markup("")
    place = scale(-reach, reach, 4, 136, flip=False)
    low, high, mid = place(verdict.ci[0]), place(verdict.ci[1]), place(verdict.gain)
    body = (
        f'<line class="zero" x1="70" x2="70" y1="1" y2="21"/><line class="whisker {verdict.state}" x1="{low:.1f}" '
        f'x2="{high:.1f}" y1="11" y2="11"/><circle class="dot {verdict.state}" cx="{mid:.1f}" cy="11" r="4.5"/>'
    )
    return svg(f"{verdict.text}, {verdict.interval}", 140, 22, [body])


def curve(name: str, series: Mapping[str, Mapping[int, Sequence[tuple[float, float]]]]) -> Markup:
    """Draw a quantity over steps: a thin line for each seed, a thick one for their mean, a color for each arm.

    Args:
        name: of the quantity.
        series: arm -> seed -> (step, value), finite numbers.
    """
    points = [p for seeds in series.values() for line in seeds.values() for p in line]
    if not points:
        return Markup("")
    xs, ys = zip(*points, strict=True)
    across, up = scale(0, max(xs), 44, 350, flip=False, pad=0), scale(min(ys), max(ys), 14, 150, flip=True)
    marks = [_grid(min(ys), max(ys), up, max(xs), across)]
    ends = []
    for arm, seeds in series.items():
        for line in seeds.values():
            marks.append(_path(line, across, up, f"line thin arm-{escape(arm)}"))
        mean = _mean(list(seeds.values()))
        marks.append(
            _path(mean, across, up, f"line arm-{escape(arm)}", f"{arm}: {mean[-1][1]:.4g} at step {mean[-1][0]:g}")
        )
        ends.append((up(mean[-1][1]), arm))
    for y, arm in _apart(ends):
        marks.append(f'<text class="end arm-{escape(arm)}" x="356" y="{y + 4:.1f}">{escape(arm)}</text>')
    label = f"{name} over training steps for {', '.join(series)}"
    return svg(label, 410, 178, marks)


def curves(logs: Curves) -> list[tuple[str, Markup]]:
    """Return (name, chart) of every quantity with at least two steps, losses first; see `single`."""
    names = dict.fromkeys(p["name"] for seeds in logs.values() for line in seeds.values() for p in line)
    charts = []
    for name in sorted(names, key=lambda n: 0 if "loss" in n else 1):
        series = _series(logs, name)
        if any(len(line) > 1 for seeds in series.values() for line in seeds.values()):
            charts.append((name, curve(name, series)))
    return charts


def single(logs: Curves) -> list[tuple[str, str]]:
    """Return (name, text) of every quantity with one step, which is no curve."""
    names = dict.fromkeys(p["name"] for seeds in logs.values() for line in seeds.values() for p in line)
    told = []
    for name in names:
        lines = [(arm, s, line) for arm, seeds in _series(logs, name).items() for s, line in seeds.items()]
        if lines and all(len(line) == 1 for _, _, line in lines):
            values = [f"{arm}, seed {s}: {line[0][1]:.4g} at step {line[0][0]:,.0f}" for arm, s, line in lines]
            told.append((name, "; ".join(values)))
    return told


def _series(logs: Curves, name: str) -> dict[str, dict[int, list[tuple[float, float]]]]:
    """Return arm -> seed -> points of a quantity, without those that have none."""
    every = {arm: {s: _points(line, name) for s, line in seeds.items()} for arm, seeds in logs.items()}
    some = {arm: {s: line for s, line in seeds.items() if line} for arm, seeds in every.items()}
    return {arm: seeds for arm, seeds in some.items() if seeds}


def _points(line: Sequence[Point], name: str) -> list[tuple[float, float]]:
    pairs = [(float(p["step"]), p["value"]) for p in line if p["name"] == name]
    return sorted((x, float(y)) for x, y in pairs if y is not None and math.isfinite(y))


def _mean(lines: Sequence[Sequence[tuple[float, float]]]) -> list[tuple[float, float]]:
    """Return the mean over seeds at their common steps; the longest line if there are none."""
    tables = [dict(line) for line in lines]
    common = sorted(set.intersection(*(set(table) for table in tables)))
    if not common:
        return list(lines[int(np.argmax([len(line) for line in lines]))])
    return [(x, float(np.mean([table[x] for table in tables]))) for x in common]


def scale(low: float, high: float, start: float, stop: float, *, flip: bool, pad: float = 0.06) -> Place:
    """Return the function from values in [low, high] to positions in [start, stop], reversed by ``flip``."""
    margin = (high - low) * pad or (pad and 1e-9)
    low, high = low - margin, high + margin
    width = (high - low) or 1.0

    def place(value: float) -> float:
        share = (value - low) / width
        return start + (stop - start) * (1 - share if flip else share)

    return place


def _mark(i: int, row: str, title: str, cell: Cell, place: Place, arms: Collection[str]) -> str:
    y, x = ROW * i + 15, place(mean_of(cell))
    kind = "arm" if row in arms else "bound" if title.endswith("(upper bound)") else "base"
    number = words.value(cell["mean"], cell["unit"])
    whisker = ""
    if cell["ci"]:
        low, high = (place(end) for end in cell["ci"])
        whisker = f'<line class="whisker" x1="{low:.1f}" x2="{high:.1f}" y1="{y}" y2="{y}"/>'
    name = SHORT.get(row) or words.ROWS.get(row, row)
    name = name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"
    return (
        f'<g class="{kind} arm-{escape(row)}"><title>{escape(title)}: {escape(number)}</title>'
        f'<text class="row" x="{LEFT - 8}" y="{y + 4}" text-anchor="end">{escape(name)}</text>'
        f'<line class="rail" x1="{LEFT}" x2="{WIDTH - RIGHT + 6}" y1="{y}" y2="{y}"/>{whisker}'
        f'<circle class="dot" cx="{x:.1f}" cy="{y}" r="{5.5 if kind == "arm" else 4.5}"/>'
        f'<text class="number" x="{WIDTH - 2}" y="{y + 4}" text-anchor="end">{escape(number)}</text></g>'
    )


def _floor(place: Place, floor: Sequence[float], direction: str, height: int) -> str:
    best = max(floor) if direction == "higher" else min(floor)
    return (
        f'<line class="floor" x1="{place(best):.1f}" x2="{place(best):.1f}" y1="4" y2="{height - 26}"/>'
        f'<text class="axis" x="{min(place(best), WIDTH - RIGHT - CAPTION):.1f}" y="{height - 8}" text-anchor="middle">'
        "best trivial baseline</text>"
    )


def _grid(low: float, high: float, up: Place, last: float, across: Place) -> str:
    lines = [
        f'<line class="rail" x1="44" x2="350" y1="{up(y):.1f}" y2="{up(y):.1f}"/>'
        f'<text class="axis" x="38" y="{up(y) + 4:.1f}" text-anchor="end">{y:.3g}</text>'
        for y in sorted({low, (low + high) / 2, high})
    ]
    steps = f'<text class="axis" x="{across(last):.1f}" y="172" text-anchor="end">{last:,.0f} steps</text>'
    return "".join(lines) + f'<text class="axis" x="44" y="172">0</text>{steps}'


def _path(line: Sequence[tuple[float, float]], across: Place, up: Place, style: str, title: str = "") -> str:
    points = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in line)
    return f'<polyline class="{style}" points="{points}"><title>{escape(title or style)}</title></polyline>'


def _apart(ends: Sequence[tuple[float, str]], gap: float = 13) -> list[tuple[float, str]]:
    """Move labels down so that they do not overlap."""
    placed: list[tuple[float, str]] = []
    for y, name in sorted(ends):
        placed.append((max(y, placed[-1][0] + gap) if placed else y, name))
    return placed


def svg(label: str, width: int, height: int, marks: Sequence[str]) -> Markup:
    """Return a chart of SVG elements; ``label`` is its description for screen readers."""
    body = "".join(marks)
    return Markup(f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">{body}</svg>')
