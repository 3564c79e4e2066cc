"""The chart of interpolated students: zero-shot recognition against the dense tasks, a curve for each arm."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from markupsafe import Markup, escape

from clipzoo.evaluation.tradeoff import PointRecord, Record
from clipzoo.pages import charts, words

Place = Callable[[float], float]

WIDTH, HEIGHT = 410, 304
LEFT, RIGHT, TOP, BOTTOM = 52, 392, 50, 250
"""Edges of the plot in the SVG's units."""
NEAR = 24
"""Points that are nearer than this along both axes share a label."""


def chart(arms: Mapping[str, Record]) -> Markup:
    """Draw the trade-off on validation; up and right are better.

    Bars are intervals of the change relative to the start, drawn around its values: a point is within the limit if its
    horizontal bar does not cross the dashed line.

    Args:
        arms: arm -> its record, of one seed.
    """
    start = _start(arms)
    ends = [_span(start, point) for record in arms.values() for point in record["points"]]
    limit = start["recognition"] - max(record["max_loss"] for record in arms.values())
    xs = [limit, *(x for (left, right), _ in ends for x in (left, right))]
    ys = [y for _, (low, high) in ends for y in (low, high)]
    across = charts.scale(min(xs), max(xs), LEFT, RIGHT, flip=False)
    up = charts.scale(min(ys), max(ys), TOP, BOTTOM, flip=True, pad=0.1)
    marks = [_axes(xs, ys, across, up, next(iter(arms.values()))["measure"]), _limit(across(limit))]
    for arm, record in arms.items():
        marks.append(_curve(arm, record, start, across, up))
    marks.append(_start_mark(across(start["recognition"]), up(start["dense"])))
    label = "Zero-shot recognition against the dense mean on validation: " + "; ".join(
        f"{arm} " + ", ".join(_told(point) for point in record["points"]) for arm, record in arms.items()
    )
    return charts.svg(label, WIDTH, HEIGHT, marks)


def _start(arms: Mapping[str, Record]) -> PointRecord:
    return next(iter(arms.values()))["points"][0]


def _span(start: PointRecord, point: PointRecord) -> tuple[Sequence[float], Sequence[float]]:
    """Return the ends of the horizontal and of the vertical bar of a point."""
    loss, gain = point["loss_ci"], point["gain_ci"]
    x = [start["recognition"] - end for end in reversed(loss)] if loss else [point["recognition"]] * 2
    y = [start["dense"] + end for end in gain] if gain else [point["dense"]] * 2
    return x, y


def _told(point: PointRecord) -> str:
    recognition, dense = words.value(point["recognition"], ""), words.value(point["dense"], "")
    return f"α = {point['alpha']:g}: {recognition}, dense mean {dense}"


def _curve(arm: str, record: Record, start: PointRecord, across: Place, up: Place) -> str:
    points = record["points"]
    line = " ".join(f"{across(p['recognition']):.1f},{up(p['dense']):.1f}" for p in points)
    marks = [f'<polyline class="line" points="{line}"><title>{escape(arm)}</title></polyline>']
    for point in points[1:]:
        x, y = across(point["recognition"]), up(point["dense"])
        (left, right), (low, high) = _span(start, point)
        marks.append(
            f'<line class="whisker fine" x1="{across(left):.1f}" x2="{across(right):.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<line class="whisker fine" x1="{x:.1f}" x2="{x:.1f}" y1="{up(low):.1f}" y2="{up(high):.1f}"/>'
        )
    for point in points[1:]:
        x, y = across(point["recognition"]), up(point["dense"])
        kind = "dot" if point["within"] else "dot over"
        chosen = point["alpha"] == record["best"]
        ring = f'<circle class="ring" cx="{x:.1f}" cy="{y:.1f}" r="9"/>' if chosen else ""
        marks.append(
            f'{ring}<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="4.5"><title>{escape(arm)}, '
            f"{escape(_told(point))}</title></circle>"
        )
    for x, y, text in _numbers(points[1:], across, up):
        marks.append(f'<text class="end" x="{x + 7:.1f}" y="{y + 16:.1f}">{text}</text>')
    if record["best"] == 0:
        x, y = across(points[0]["recognition"]), up(points[0]["dense"])
        marks.append(f'<circle class="ring" cx="{x:.1f}" cy="{y:.1f}" r="10"/>')
    return f'<g class="arm-{escape(arm)}">{"".join(marks)}</g>'


def _numbers(points: Sequence[PointRecord], across: Place, up: Place) -> list[tuple[float, float, str]]:
    """Return place and text of the labels: the α of a point, or of several consecutive points that are near."""
    labels: list[tuple[float, float, str]] = []
    for point in points:
        x, y, text = across(point["recognition"]), up(point["dense"]), f"{point['alpha']:g}"
        if labels and abs(x - labels[-1][0]) < NEAR and abs(y - labels[-1][1]) < NEAR:
            labels[-1] = (*labels[-1][:2], f"{labels[-1][2]}, {text}")
        else:
            labels.append((x, y, text))
    return labels


def _start_mark(x: float, y: float) -> str:
    square = f'<rect class="dot" x="{x - 5:.1f}" y="{y - 5:.1f}" width="10" height="10"/>'
    text = f'<text class="end" x="{x:.1f}" y="{y + 18:.1f}" text-anchor="middle">start</text>'
    return f'<g class="arm-clip">{square}{text}</g>'


def _limit(x: float) -> str:
    anchor = "start" if x < (LEFT + RIGHT) / 2 else "end"
    return (
        f'<line class="floor" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 10}" y2="{BOTTOM}"/>'
        f'<text class="axis" x="{x:.1f}" y="{TOP - 14}" text-anchor="{anchor}">limit of the loss</text>'
    )


def _axes(xs: Sequence[float], ys: Sequence[float], across: Place, up: Place, measure: str) -> str:
    rows = "".join(
        f'<line class="rail" x1="{LEFT}" x2="{RIGHT}" y1="{up(y):.1f}" y2="{up(y):.1f}"/>'
        f'<text class="axis" x="{LEFT - 6}" y="{up(y) + 4:.1f}" text-anchor="end">{words.figure(y, "")}</text>'
        for y in (min(ys), (min(ys) + max(ys)) / 2, max(ys))
    )
    columns = "".join(
        f'<text class="axis" x="{across(x):.1f}" y="{BOTTOM + 16}" text-anchor="middle">{words.figure(x, "")}</text>'
        for x in (min(xs), (min(xs) + max(xs)) / 2, max(xs))
    )
    name = escape(f"{words.group_name(measure)} {words.measure_name(measure)}, %")
    titles = (
        f'<text class="axis" x="{RIGHT}" y="{BOTTOM + 36}" text-anchor="end">{name}, better →</text>'
        f'<text class="axis" x="2" y="12">mean of the dense tasks, %, better ↑</text>'
    )
    return rows + columns + titles
