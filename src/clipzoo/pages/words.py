"""The text of the report: numbers with units and directions, verdicts on differences, and their sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict, cast

from clipzoo import tasks
from clipzoo.evaluation.measure import NOT_PROBED, rounded
from clipzoo.evaluation.results import Cell, Comparison, Results

State = Literal["better", "worse", "unclear"]

TRIVIAL = ("position_prior", "pixels_position", "random_student")
"""The baselines that a gain must beat to count."""

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


def gap(results: Comparison, verdict: Verdict, pair: str) -> float | None:
    """Return the closed share of the gap from the second row to the expert; None where there is no gap."""
    closed: float | None = verdict.cell.get("gap_closed")
    return None if set(unmatched(results, verdict.metric)) & set(pair.split("-vs-")) else closed


def gap_words(results: Comparison, verdict: Verdict, pair: str) -> str:
    """Return the text of `gap`; empty without an expert."""
    if set(unmatched(results, verdict.metric)) & set(pair.split("-vs-")):
        return "the expert is not an upper bound"
    closed = gap(results, verdict, pair)
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
    rival = "the pretrained model" if _pair(results) == "clipzoo-vs-clip" else "captions alone"
    if not verdicts:
        return f"No dense task was compared with {rival}. {guard_clause(results)}."
    better = [v for v in verdicts if v.counts]
    verb = "improved" if better or len(verdicts) > 1 else "did not clearly improve"
    text = f"Pseudo-labels {verb} {_count(len(better), len(verdicts))} over {rival}"
    if better:
        text += f" ({_listed([f'{group_name(v.metric)} {v.text}' for v in better])})"
    return ". ".join([text, *(_shortfall(v) for v in verdicts if not v.counts), guard_clause(results)]) + "."


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
        return f"No clear change of {name} relative to {other} ({_size(verdict)})"
    verb = "rose" if verdict.state == "better" else "fell"
    return f"{_capitalized(name)} {verb} relative to {other} ({_size(verdict)})"


def reference(results: Results, metric: str) -> str:
    """Return the pair of a measure: zero-shot is compared with the pretrained model, others as `_pair` says."""
    start = "clipzoo-vs-clip"
    guarded = metric.startswith(GUARD) and metric in results.get("differences", {}).get(start, {})
    return start if guarded else _pair(results)


def _pair(results: Results) -> str:
    """Return the pair of the dense tasks: clipzoo and captions alone, or the pretrained model if that was trained."""
    pairs = results.get("differences", {})
    trained = "clipzoo-vs-clip-ft" in pairs or "clipzoo-vs-clip" not in pairs
    return "clipzoo-vs-clip-ft" if trained else "clipzoo-vs-clip"


class Takeaway(TypedDict):
    """The result of one headline; see `takeaways`."""

    title: str
    state: str
    sentence: str
    checks: list[str]


def takeaways(results: Results) -> list[Takeaway]:
    """Return title, state, sentence and caveats (``checks``) of every headline."""
    listed: list[Takeaway] = []
    for metric in headlines(results):
        pair = reference(results, metric)
        verdict = judge(results, metric, pair)
        if verdict is not None:
            listed.append(
                {
                    "title": f"{_capitalized(group_name(metric))}, {measure_name(metric)}",
                    "state": "short" if verdict.state == "better" and verdict.unbeaten else verdict.state,
                    "sentence": _sentence(results, verdict, pair),
                    "checks": _checks(results, verdict, pair),
                }
            )
    return listed


def _unbeaten(results: Comparison, metric: str, arm: str) -> tuple[str, ...]:
    return tuple(row for row in TRIVIAL if _beaten(results, metric, arm, row) is False)


def _beaten(results: Comparison, metric: str, arm: str, row: str) -> bool | None:
    """Return True if an arm beats a row, by the interval of the difference if there is one; None if not comparable."""
    own = results["arms"].get(arm, {}).get(metric)
    other = results.get("baselines", {}).get(row, {}).get(metric)
    if own is None or other is None or own["mean"] is None or other["mean"] is None:
        return None
    ends = [own["mean"] - other["mean"]]
    difference = results.get("differences", {}).get(f"{arm}-vs-{row}", {}).get(metric)
    ends += (difference["ci"] if difference else None) or []
    return all(end > 0 if own["direction"] == "higher" else end < 0 for end in ends)


def _capitalized(text: str) -> str:
    return text[:1].upper() + text[1:]


def _size(verdict: Verdict) -> str:
    return f"{change(verdict.cell['mean'], verdict.cell['unit'])}, {verdict.interval}"


def _count(part: int, whole: int) -> str:
    if whole == 1:
        return "the one dense task"
    return {0: f"none of {whole} dense tasks", whole: f"all {whole} dense tasks"}.get(
        part, f"{part} of {whole} dense tasks"
    )


def _listed(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def _shortfall(verdict: Verdict) -> str:
    name = group_name(verdict.metric)
    if verdict.state == "unclear":
        return f"No clear change of {name} ({_size(verdict)})"
    if verdict.state == "worse":
        return f"{_capitalized(name)} got worse ({verdict.text})"
    rows = _listed([ROWS[row] for row in verdict.unbeaten])
    return (
        f"{_capitalized(name)} improved ({verdict.text}), but does not clearly beat {rows}, so the gain does not count"
    )


def _sentence(results: Results, verdict: Verdict, pair: str) -> str:
    a, b = pair.split("-vs-")
    ours, theirs = (results["arms"][arm].get(verdict.metric) for arm in (a, b))
    verb = {"better": "improved", "worse": "got worse", "unclear": "did not clearly change"}[verdict.state]
    text = f"{_capitalized(group_name(verdict.metric))} {verb}"
    if ours and theirs:
        unit = ours["unit"]
        text += f": {value(theirs['mean'], unit)} with {b}, {value(ours['mean'], unit)} with {a} ({_size(verdict)})"
    closed = gap(results, verdict, pair)
    if closed is not None:
        text += f". {share(closed)} of the gap to the expert is closed"
    if verdict.unbeaten:
        rows = _listed([ROWS[row] for row in verdict.unbeaten])
        text += f". It does not clearly beat {rows}"
        text += ", so the gain does not count" if verdict.state == "better" else ""
    return text + "."


def _checks(results: Results, verdict: Verdict, pair: str) -> list[str]:
    checks = [*_seed_checks(verdict), *_prior_checks(results, verdict), *_held_checks(results, verdict, pair)]
    checks += [*_ceiling_checks(results, verdict), *_label_checks(results, verdict), *_rate_checks(results, pair)]
    images = results.get("images", {}).get(verdict.metric.split("/")[0])
    if images and verdict.ci:
        text = f"Measured on {images:,} images."
        resolution = change((verdict.ci[1] - verdict.ci[0]) / 2, verdict.cell["unit"])
        if resolution.startswith("+"):  # it is not rounded to zero
            text += f" Changes below about {resolution.lstrip('+')} cannot be detected reliably."
        checks.append(text)
    return checks


def _seed_checks(verdict: Verdict) -> list[str]:
    values = [v for v in verdict.cell.get("values", []) if v is not None]
    if len(values) < 2:
        return ["One seed: the variation between trainings is unknown. The interval resamples images only."]
    if min(values) < 0 < max(values):
        ups = sum((v > 0) == (verdict.cell["direction"] == "higher") for v in values)
        return [f"The seeds disagree: {ups} of {len(values)} improved."]
    unit = verdict.cell["unit"]
    return [f"All {len(values)} seeds agree in sign ({', '.join(change(v, unit) for v in values)})."]


def _prior_checks(results: Results, verdict: Verdict) -> list[str]:
    prior = results.get("baselines", {}).get("position_prior", {}).get(verdict.metric)
    if not prior or prior["mean"] is None or verdict.metric.split("/")[1] != "delta1":
        return []
    if prior["mean"] <= PREDICTABLE:
        return []
    return [
        f"A constant map reaches {value(prior['mean'], prior['unit'])}: position alone predicts much of this test set."
    ]


def _ceiling_checks(results: Results, verdict: Verdict) -> list[str]:
    arms = unmatched(results, verdict.metric)
    if not arms:
        return []
    cell = results["baselines"]["expert"][verdict.metric]
    return [
        f"The expert reaches {value(cell['mean'], cell['unit'])}, which is not better than {_listed(arms)}. It is not "
        "an upper bound, so no share of a gap is reported."
    ]


def _label_checks(results: Results, verdict: Verdict) -> list[str]:
    cell = results.get("baselines", {}).get("more_labels", {}).get(verdict.metric)
    if not cell or _beaten(results, verdict.metric, "clipzoo", "more_labels") is not False:
        return []
    text = f"{_capitalized(ROWS['more_labels'])} reaches {value(cell['mean'], cell['unit'])}"
    return [f"{text}, which clipzoo does not clearly beat."]


def _rate_checks(results: Results, pair: str) -> list[str]:
    """Return a caveat for each arm whose learning rate is at an end of the grid."""
    protocol, checks = results.get("protocol", {}), []
    grid = cast(Sequence[float], protocol.get("learning_rate_grid") or [0])
    rates = cast(Mapping[str, float], protocol.get("learning_rates", {}))
    for arm in pair.split("-vs-"):
        rate = rates.get(arm)
        if rate is not None and len(grid) > 1 and rate in (min(grid), max(grid)):
            end, beyond = ("lowest", "lower") if rate == min(grid) else ("highest", "higher")
            checks.append(
                f"The learning rate of {arm}, {rate:g}, is the {end} of the grid. A {beyond} one may be better."
            )
    return checks


def _held_checks(results: Results, verdict: Verdict, pair: str) -> list[str]:
    checks = []
    for name, subset in results.get("subsets", {}).items():
        held = judge({"baselines": {}, **subset}, verdict.metric, pair)
        if held is not None:
            verb = {"better": "improved", "worse": "got worse", "unclear": "did not clearly change"}[held.state]
            checks.append(f"On the subset “{name}” it {verb} ({_size(held)}).")
    return checks
