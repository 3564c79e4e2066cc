"""The text of the report: numbers with units and directions, verdicts on differences, and their sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from clipzoo import tasks
from clipzoo.evaluation.measure import NOT_PROBED, rounded
from clipzoo.evaluation.results import Cell, Comparison, Results

State = Literal["better", "worse", "unclear"]

UNTRAINED = ("random_student", "pixels_position")
"""Baselines of dense tasks with features that were not trained."""
CONSTANT = ("chance", "majority")
"""Baselines of zero-shot recognition that do not look at the image."""
TRIVIAL = ("position_prior", "pixels_position", "random_student")
"""The baselines that a gain must beat to count; in zero-shot recognition, `CONSTANT`."""

ARMS = {
    "clip": "clip: the pretrained model",
    "clip-ft": "clip-ft: trained on captions only",
    "clipzoo": "clipzoo: trained on captions and pseudo-labels",
    "clip-ft-best": "clip-ft-best: clip-ft interpolated with clip",
    "clipzoo-best": "clipzoo-best: clipzoo interpolated with clip",
}
ROWS = {
    "position_prior": "position prior",
    "pixels_position": "pixels + position",
    "random_student": "random student",
    "chance": "chance",
    "majority": "the most frequent class",
    "more_labels": "clip-ft probed on truth + pseudo-labels",
    "expert": "expert",
}
MEASURES = {
    "miou": "mIoU", "accuracy": "pixel accuracy", "delta1": "δ1", "absrel": "absolute relative error",
    "rmse": "RMSE", "coverage": "coverage", "mean_angle": "mean angle", "within_11": "within 11.25°",
    "within_22": "within 22.5°", "within_30": "within 30°", "top1": "top‑1", "top5": "top‑5",
    "ap50": "AP50", "ap": "AP", "r1": "recall@1", "r5": "recall@5", "r10": "recall@10",
    "image_to_text_r5": "image→text recall@5", "text_to_image_r5": "text→image recall@5", "ods": "F-measure (ODS)",
}  # fmt: skip
DEGREES = ("°", "deg", "degree", "degrees")
GUARD = "zero_shot/"
PREDICTABLE = 0.45
"""The δ1 of a constant map above which a depth test set is called predictable."""


def abouts(results: Comparison) -> dict[str, str]:
    """Return arm -> its description, of the arms of the results; named arms last."""
    named = {}
    for arm, one in results.get("named_arms", {}).items():
        titles = list(dict.fromkeys(group_name(column) for column in one["columns"]))
        named[arm] = f"{arm}: trained on captions and pseudo-labels of {listed(titles)}"
    return {arm: about for arm, about in ARMS.items() if arm in results.get("arms", {})} | named


def duration(seconds: float) -> str:
    """Return a time in its usual unit: "less than 1 s", "12 s", "4 min", "2.5 hours"."""
    if seconds < 1:
        return "less than 1 s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:,.1f} hours"


def group_name(metric: str) -> str:
    """Return the display name of a group, or of the group of ``<group>/<measure>``; the title if it is a task."""
    group = metric.split("/")[0]
    title = tasks.get(group).title if group in tasks.PLUGINS.names() else ""
    return title or group.replace("_", "-")


def measure_name(metric: str) -> str:
    """Return the display name of the measure of ``<group>/<measure>``."""
    measure = metric.split("/")[-1]
    return MEASURES.get(measure, measure.replace("_", " "))


def figure(number: float, unit: str) -> str:
    """Return a number as the report rounds it; scores in [0, 1] are in percent. See `rounded`."""
    return rounded(number, 1 if unit in ("", *DEGREES) else 3, percent=unit == "")


def value(number: float | None, unit: str) -> str:
    """Return a value with its unit."""
    return "–" if number is None else figure(number, unit) + _suffix(unit, " %")


def spread(number: float | None, unit: str) -> str:
    """Return a standard deviation, without its unit, which is that of `value`."""
    return "" if number is None else figure(number, unit)


def change(number: float | None, unit: str) -> str:
    """Return a signed difference with its unit; differences of scores are in points."""
    if number is None:
        return "–"
    size = figure(abs(number), unit)
    sign = "" if float(size) == 0 else "−" if number < 0 else "+"
    return sign + size + _suffix(unit, " points")


def _suffix(unit: str, of_scores: str) -> str:
    if unit in DEGREES:
        return "°"
    return f" {unit}" if unit else of_scores


def share(number: float) -> str:
    """Return a share in whole percent."""
    return f"{rounded(number, 0, percent=True)} %".replace("-", "−")


def between(ci: Sequence[float] | None, unit: str) -> str:
    """Return the text of an interval of differences."""
    if not ci:
        return "no interval"
    bare = [change(end, unit).removesuffix(" points").removesuffix("°") for end in ci]
    return f"95 % interval {bare[0]} to {bare[1]}"


def arrow(direction: str) -> str:
    """Return an arrow in the better direction, with its text; ``direction`` is "higher" or "lower"."""
    return "↑ higher is better" if direction == "higher" else "↓ lower is better"


@dataclass(frozen=True)
class Verdict:
    """The verdict on the difference of two rows in one measure.

    ``gain`` and ``ci`` are positive where the first row is better, for both directions of measures. ``unbeaten`` lists
    the trivial baselines that the first row does not clearly beat.
    """

    metric: str
    cell: Cell
    gain: float | None
    ci: tuple[float, float] | None
    state: State
    unbeaten: tuple[str, ...]

    @property
    def counts(self) -> bool:
        """True for a gain whose interval excludes zero and that beats all trivial baselines."""
        return self.state == "better" and not self.unbeaten

    @property
    def text(self) -> str:
        """The difference with its unit and measure."""
        return f"{change(self.cell['mean'], self.cell['unit'])} {measure_name(self.metric)}"

    @property
    def interval(self) -> str:
        """Its 95 % interval in the unit of the measure."""
        return between(self.cell["ci"], self.cell["unit"])


def judge(results: Comparison, metric: str, pair: str = "clipzoo-vs-clip-ft") -> Verdict | None:
    """Return the verdict on one measure of a pair of rows; None if it was not measured."""
    cell = results.get("differences", {}).get(pair, {}).get(metric)
    if cell is None:
        return None
    sign = 1 if cell["direction"] == "higher" else -1
    gain = None if cell["mean"] is None else sign * cell["mean"]
    ci = None if not cell["ci"] else (min(sign * c for c in cell["ci"]), max(sign * c for c in cell["ci"]))
    state: State = "unclear"
    if ci is not None and (ci[0] > 0 or ci[1] < 0):
        state = "better" if ci[0] > 0 else "worse"
    return Verdict(metric, cell, gain, ci, state, _unbeaten(results, metric, pair.split("-vs-")[0]))


def headlines(results: Comparison) -> list[str]:
    """Return the first measure of every group that any arm has, in the order of the results."""
    first: dict[str, str] = {}
    for cells in results.get("arms", {}).values():
        for metric in cells:
            first.setdefault(metric.split("/")[0], metric)
    return list(first.values())


def unmatched(results: Comparison, metric: str) -> list[str]:
    """Return the arms that are as good as the expert or better; if there is one, the expert is not an upper bound."""
    top = results.get("baselines", {}).get("expert", {}).get(metric)
    if top is None or top["mean"] is None:
        return []
    sign = 1 if top["direction"] == "higher" else -1
    means = {arm: cells[metric]["mean"] for arm, cells in results["arms"].items() if metric in cells}
    return [arm for arm, mean in means.items() if mean is not None and sign * (top["mean"] - mean) <= 0]


def gap(results: Comparison, verdict: Verdict) -> float | None:
    """Return the closed share of the gap from the second row to the expert; None if `unmatched` has any arm."""
    return None if unmatched(results, verdict.metric) else verdict.cell.get("gap_closed")


def gap_words(results: Comparison, verdict: Verdict) -> str:
    """Return the text of `gap`; empty without an expert."""
    if unmatched(results, verdict.metric):
        return "the expert is not an upper bound"
    closed = gap(results, verdict)
    return "" if closed is None else f"{share(closed)} of the gap to the expert"


def row_name(results: Comparison, metric: str, row: str) -> str:
    """Return the display name of a row; that of the expert tells if it is an upper bound of this measure."""
    if row != "expert":
        return ROWS.get(row, row)
    return f"{ROWS[row]} ({'not an upper bound' if unmatched(results, metric) else 'upper bound'})"


def dense(results: Results) -> list[str]:
    """Return the headlines of tasks: `headlines` without zero-shot, retrieval and open vocabulary."""
    return [metric for metric in headlines(results) if metric.split("/")[0] not in NOT_PROBED]


def headline(results: Results) -> str:
    """Return the result of the report: gains and losses relative to captions alone, and the change of zero-shot."""
    judged = [judge(results, metric, reference(results, metric)) for metric in dense(results)]
    verdicts = [verdict for verdict in judged if verdict is not None]
    if not any(results.get("differences", {}).get(_pair(results), {})):
        return _values(results)
    rival = "the pretrained model" if _pair(results).endswith("-vs-clip") else "captions alone"
    if not verdicts:
        return f"No dense task was compared with {rival}. {guard_clause(results)}."
    better = [v for v in verdicts if v.counts]
    verb = "improved" if better or len(verdicts) > 1 else "did not clearly improve"
    text = f"{capitalized(_cause(results))} {verb} {_count(len(better), len(verdicts))} over {rival}"
    if better:
        text += f" ({listed([f'{group_name(v.metric)} {v.text}' for v in better])})"
    return ". ".join([text, *(_shortfall(v) for v in verdicts if not v.counts), guard_clause(results)]) + "."


def title(results: Results) -> str:
    """Return the title of the report: the cause of the differences in its headline."""
    compared = any(results.get("differences", {}).get(_pair(results), {}))
    return f"Effect of {_cause(results)}" if compared else "Results"


def _cause(results: Results) -> str:
    """Return the difference between the two rows of `_pair`; relative to the pretrained model, it contains captions."""
    pair = _pair(results)
    if not pair.startswith("clipzoo"):
        return "training on captions"
    captions = results.get("protocol", {}).get("contrastive_weight", 1.0) != 0
    return "training on captions and pseudo-labels" if pair.endswith("-vs-clip") and captions else "pseudo-labels"


def guard_clause(results: Results) -> str:
    """Return the change of zero-shot recognition, relative to the pretrained model if that was measured."""
    metric = next((m for m in headlines(results) if m.startswith(GUARD)), None)
    verdict = judge(results, metric, reference(results, metric)) if metric else None
    if verdict is None:
        return "Zero-shot recognition was not compared"
    name = f"{group_name(verdict.metric)} {measure_name(verdict.metric)}"
    start = reference(results, verdict.metric).split("-vs-")[1] == "clip"
    other = "the pretrained model" if start else "training on captions only"
    if verdict.state == "unclear":
        return f"No clear change of {name} relative to {other} ({size_of(verdict)})"
    verb = "rose" if verdict.state == "better" else "fell"
    return f"{capitalized(name)} {verb} relative to {other} ({size_of(verdict)})"


def reference(results: Results, metric: str) -> str:
    """Return the pair of a measure: zero-shot is compared with the pretrained model, others as `_pair` says."""
    start = f"{_pair(results).split('-vs-')[0]}-vs-clip"
    guarded = metric.startswith(GUARD) and metric in results.get("differences", {}).get(start, {})
    return start if guarded else _pair(results)


def _pair(results: Results) -> str:
    """Return the pair of the dense tasks: clipzoo and captions alone, or the first of the others that was measured."""
    pairs = ("clipzoo-vs-clip-ft", "clipzoo-vs-clip", "clip-ft-vs-clip")
    return next((pair for pair in pairs if pair in results.get("differences", {})), pairs[0])


def _values(results: Results) -> str:
    """Return the headlines of the first arm, for results without a pair of arms."""
    for arm, cells in results.get("arms", {}).items():
        told = [
            f"{value(cells[metric]['mean'], cells[metric]['unit'])} {group_name(metric)} {measure_name(metric)}"
            for metric in headlines(results)
            if metric in cells
        ]
        if told:
            return f"The arm {arm} reaches {listed(told)}. No pair of arms was measured."
    return "Nothing was measured."


def _unbeaten(results: Comparison, metric: str, arm: str) -> tuple[str, ...]:
    return tuple(row for row in (*TRIVIAL, *CONSTANT) if beaten(results, metric, arm, row) is False)


def beaten(results: Comparison, metric: str, arm: str, row: str) -> bool | None:
    """Return True if an arm beats a row, by the interval of the difference if there is one; None if not comparable."""
    own = results["arms"].get(arm, {}).get(metric)
    other = results.get("baselines", {}).get(row, {}).get(metric)
    if own is None or other is None or own["mean"] is None or other["mean"] is None:
        return None
    ends = [own["mean"] - other["mean"]]
    difference = results.get("differences", {}).get(f"{arm}-vs-{row}", {}).get(metric)
    ends += (difference["ci"] if difference else None) or []
    return all(end > 0 if own["direction"] == "higher" else end < 0 for end in ends)


def capitalized(text: str) -> str:
    """Return a text with a capital first letter; the others are unchanged."""
    return text[:1].upper() + text[1:]


def size_of(verdict: Verdict) -> str:
    """Return a difference with its interval."""
    return f"{change(verdict.cell['mean'], verdict.cell['unit'])}, {verdict.interval}"


def _count(part: int, whole: int) -> str:
    if whole == 1:
        return "the one dense task"
    return {0: f"none of {whole} dense tasks", whole: f"all {whole} dense tasks"}.get(
        part, f"{part} of {whole} dense tasks"
    )


def listed(items: Sequence[str]) -> str:
    """Return items as a list in a sentence."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def _shortfall(verdict: Verdict) -> str:
    name = group_name(verdict.metric)
    if verdict.state == "unclear":
        return f"No clear change of {name} ({size_of(verdict)})"
    if verdict.state == "worse":
        return f"{capitalized(name)} got worse ({verdict.text})"
    rows = listed([ROWS[row] for row in verdict.unbeaten])
    return (
        f"{capitalized(name)} improved ({verdict.text}), but does not clearly beat {rows}, so the gain does not count"
    )
