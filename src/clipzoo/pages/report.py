"""The report of a run: one self-contained HTML file of ``results.json``, curves and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from datetime import timedelta
from pathlib import Path

from clipzoo.evaluation.measure import ALIGNED, NOT_PROBED
from clipzoo.evaluation.results import Cells, Comparison, Results
from clipzoo.files import write
from clipzoo.pages import _html, charts, protection, words
from clipzoo.pages import takeaways as told
from clipzoo.pages.pictures import CASES, PictureRow, data_uri

COLORS = ("#8660d1", "#12908f", "#cf5580", "#708f22", "#b8860b", "#4f7fc0")
"""Colors of named arms on light and dark pages."""
COST = {
    "seconds_per_image": ("labeling", "s / image"),
    "images_per_second": ("labeling", "images / s"),
    "bytes_per_image": ("stored", "bytes / image"),
    "images": ("images", ""),
    "labels": ("labels", ""),
    "failures": ("failures", ""),
    "dropped_seconds": ("dropped", "s in total"),
    "seconds": ("total", "s"),
    "bytes": ("total", "bytes"),
}


def write_page(
    results: Results,
    out: Path,
    *,
    curves: charts.Curves | None = None,
    pictures: Sequence[PictureRow] = (),
    tasks: Sequence[str] = (),
    recipe: str = "",
    title: str = "",
) -> Path:
    """Write the report.

    Args:
        results: of `clipzoo.evaluation.compare`.
        out: the file. Its folder is created; a link in its place is replaced.
        curves: arm -> seed -> list of {"step", "name", "value"}.
        pictures: rows in display order under their task.
        tasks: in the order in which they are shown; others follow.
        recipe: the full recipe as YAML; by default the recipe of the results.
        title: of the page; by default `words.title`.

    Returns:
        ``out``.
    """
    results = _ordered(results, tasks)
    page = _html.render(
        "report.html",
        title=title or words.title(results),
        results=results,
        headline=words.headline(results),
        tiles=_tiles(results),
        panels=[(metric, charts.ladder(results, metric)) for metric in words.headlines(results)],
        tables=_tables(results),
        gains=_gains(results),
        subsets=[(name, _gains({"baselines": {}, **part}), part) for name, part in results.get("subsets", {}).items()],
        curves=charts.curves(curves or {}),
        singles=charts.single(curves or {}),
        trained=_trained(results),
        guard=protection.guard_cards(results),
        interpolations=protection.interpolations(results),
        summary=protection.summary(results),
        units=_units(results),
        cost=_cost(results.get("cost", {})),
        pictures=_pictures(pictures, tasks),
        protocol=_flat(results.get("protocol", {})),
        recipe=recipe or str(results.get("recipe", "")),
        takeaways=told.takeaways(results),
        notices=told.notices(results),
        words=words,
        colors=COLORS,
        cases=CASES,
        script=_html.asset("report.js"),
    )
    write(out, page)
    return out


def _ordered(results: Results, tasks: Sequence[str]) -> Results:
    """Return the results with their measures in the order of the tasks, then those of `NOT_PROBED`."""
    groups = dict.fromkeys(metric.split("/")[0].removesuffix(ALIGNED) for metric in _metrics(results))
    tasks = tasks or [group for group in groups if group not in NOT_PROBED]

    def place(metric: str) -> int:
        group = metric.split("/")[0].removesuffix(ALIGNED)
        after = len(tasks) + 1 + NOT_PROBED.index(group) if group in NOT_PROBED else len(tasks)
        return tasks.index(group) if group in tasks else after

    def ordered(rows: Mapping[str, Cells]) -> dict[str, Cells]:
        return {row: {name: cells[name] for name in sorted(cells, key=place)} for row, cells in rows.items()}

    out = deepcopy(results)
    for part in (out, *(out.get("subsets", {}).values())):
        if "arms" in part:
            part["arms"] = ordered(part["arms"])
        if "baselines" in part:
            part["baselines"] = ordered(part["baselines"])
        if "differences" in part:
            part["differences"] = ordered(part["differences"])
    return out


def _tiles(results: Results) -> list[dict[str, object]]:
    """Return the headline of every group: zero-shot relative to the pretrained model, others to captions alone."""
    tiles = []
    for metric in words.headlines(results):
        pair = words.reference(results, metric)
        verdict = words.judge(results, metric, pair)
        if verdict is None:
            continue
        arms = [
            (arm, words.value(results["arms"][arm][metric]["mean"], verdict.cell["unit"]))
            for arm in words.abouts(results)
            if metric in results["arms"].get(arm, {})
        ]
        tiles.append(
            {
                "verdict": verdict,
                "arms": arms,
                "state": _state(verdict),
                "gap": words.gap_words(results, verdict),
                "pair": pair.replace("-vs-", " minus ").replace("-", "‑"),
            }
        )
    return tiles


def _trained(results: Results) -> list[dict[str, str]]:
    """Return a row for each training: its length, time and hardware; values that were not recorded are "–"."""
    return [
        {
            "training": f"{arm}, seed {seed}",
            "samples": f"{one['samples']:,}",
            "steps": f"{one['steps']:,}",
            "samples seen": f"{one['steps'] * one['batch_size']:,}",
            "time of the steps": f"about {timedelta(seconds=round(one['seconds']))}" if one["seconds"] else "–",
            "hardware": one["hardware"] or "not recorded",
        }
        for arm, seeds in results.get("trainings", {}).items()
        for seed, one in seeds.items()
    ]


def _state(verdict: words.Verdict) -> str:
    """Return the state of a verdict; "short" is a gain that does not beat all trivial baselines."""
    return "short" if verdict.state == "better" and verdict.unbeaten else verdict.state


def _tables(results: Comparison) -> list[dict[str, object]]:
    """Return a table for each group: a row for each arm or baseline, a column for each measure."""
    tables: list[dict[str, object]] = []
    for headline in words.headlines(results):
        group = headline.split("/")[0]
        cells = {m: dict(charts.rows_of(results, m)) for m in _metrics(results) if m.split("/")[0] == group}
        names = [row for row, _ in charts.rows_of(results, headline)]
        columns = [(metric, next(iter(rows.values()))) for metric, rows in cells.items() if rows]
        tables.append({"group": group, "columns": columns, "rows": names, "cells": cells})
    return tables


def _units(results: Comparison) -> dict[str, str]:
    return {metric: cell["unit"] for cells in results.get("arms", {}).values() for metric, cell in cells.items()}


def _metrics(results: Comparison) -> list[str]:
    return list(dict.fromkeys(metric for cells in results.get("arms", {}).values() for metric in cells))


def _gains(results: Comparison) -> list[dict[str, object]]:
    """Return a table for each pair of arms: a row for each measure, with bars of one scale for each unit."""
    tables: list[dict[str, object]] = []
    for pair in results.get("differences", {}):
        if pair.split("-vs-")[1] not in results.get("arms", {}):
            continue
        table = _gains_of(results, pair)
        if table["rows"]:
            tables.append(table)
    return tables


def _gains_of(results: Comparison, pair: str) -> dict[str, object]:
    """Return the table of one pair of rows."""
    judged = [words.judge(results, metric, pair) for metric in _metrics(results)]
    verdicts = [verdict for verdict in judged if verdict is not None and _differs(verdict)]
    reach: dict[str, float] = {}
    for v in verdicts:
        ends = [abs(end) for end in (v.gain or 0.0, *(v.ci or ()))]
        reach[v.cell["unit"]] = max(reach.get(v.cell["unit"], 0), *ends)
    rows = [
        {
            "verdict": v,
            "bar": charts.forest(v, reach[v.cell["unit"]]),
            "gap": _gap(results, v),
            "state": _state(v),
        }
        for v in verdicts
    ]
    return {"pair": pair, "names": pair.split("-vs-"), "rows": rows}


def _gap(results: Comparison, verdict: words.Verdict) -> str:
    closed = words.gap(results, verdict)
    if closed is not None:
        return words.share(closed)
    return "no upper bound" if words.gap_words(results, verdict) else "–"


def _differs(verdict: words.Verdict) -> bool:
    """Return True if the measure differs between the two rows in any resample."""
    return verdict.gain is not None and any((verdict.gain, *(verdict.ci or ())))


def _cost(cost: Mapping[str, object]) -> dict[str, object]:
    """Return the cost of labeling: a row for each column, and single numbers in ``rest``."""
    columns = {name: row for name, row in cost.items() if isinstance(row, Mapping)}
    keys = list(dict.fromkeys(key for row in columns.values() for key in row))
    heads = [(key, *COST.get(key, (key.replace("_", " "), ""))) for key in keys]
    rest = {name.replace("_", " "): _number(v) for name, v in cost.items() if name not in columns}
    cells = {name: {key: _number(row.get(key)) for key in keys} for name, row in columns.items()}
    return {"heads": heads, "rows": cells, "rest": rest}


def _number(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 1000 else f"{value:.3g}"


def _pictures(rows: Sequence[PictureRow], order: Sequence[str]) -> dict[str, list[dict[str, object]]]:
    shown = {row.task for row in rows}
    tasks: dict[str, list[dict[str, object]]] = {task: [] for task in order if task in shown}
    for row in rows:
        labels = {"truth": row.truth, **row.predictions, "expert": row.expert}
        panels = [
            {"name": name, "uri": data_uri(label, photo=row.blended), "score": row.scores.get(name, "")}
            for name, label in labels.items()
            if label is not None
        ]
        tasks.setdefault(row.task, []).append({"row": row, "image": data_uri(row.image, photo=True), "panels": panels})
    return tasks


def _flat(values: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    """Flatten nested settings to name -> text."""
    flat: dict[str, str] = {}
    for name, value in values.items():
        title = f"{prefix}{name}".replace("_", " ")
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{title} · ")
        else:
            flat[title] = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return flat
