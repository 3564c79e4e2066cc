"""Numbers in words: each with its unit and its direction, and sentences that say when a figure falls short."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from clipzoo import tasks
from clipzoo.evaluation.measure import rounded

Results = Mapping[str, Any]
Cell = Mapping[str, Any]
State = Literal["better", "worse", "unclear"]

RECOGNITION = ("zero_shot", "retrieval")
TRIVIAL = ("position_prior", "pixels_position", "random_student")
"""The rows that a gain must beat to count."""

ARMS = {
    "clip": "CLIP as it came",
    "clip-ft": "CLIP-FT: captions only",
    "clipzoo": "clipzoo: captions and pseudo-labels",
}
ROWS = {
    "position_prior": "position prior",
    "pixels_position": "pixels + position",
    "random_student": "random student",
    "more_labels": "CLIP-FT probed on truth + pseudo-labels",
    "expert": "expert itself",
    "clip": "clip",
    "clip-ft": "clip-ft",
    "clipzoo": "clipzoo",
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


def group_name(metric: str) -> str:
    """The readable group of ``<group>/<measure>``, or of a group alone: of a task that is here, its title."""
    group = metric.split("/")[0]
    title = tasks.get(group).title if group in tasks.PLUGINS.names() else ""
    return title or group.replace("_", "-")


def measure_name(metric: str) -> str:
    """The readable measure of ``<group>/<measure>``."""
    measure = metric.split("/")[-1]
    return MEASURES.get(measure, measure.replace("_", " "))


def figure(number: float, unit: str) -> str:
    """A number as all of this page have it: scores in [0, 1] are percent. See `clipzoo.evaluation.measure.rounded`."""
    return rounded(number, 1 if unit in ("", *DEGREES) else 3, percent=unit == "")


def value(number: float | None, unit: str) -> str:
    """A value with its unit."""
    if number is None:
        return "–"
    return f"{figure(number, unit)}{'°' if unit in DEGREES else f' {unit}' if unit else ' %'}"


def spread(number: float | None, unit: str) -> str:
    """A deviation in the unit of `value`, without repeating it."""
    return "" if number is None else figure(number, unit)


def change(number: float | None, unit: str) -> str:
    """A signed difference with its unit, of scores in points; rounded itself, not the difference of rounded ones."""
    if number is None:
        return "–"
    size = figure(abs(number), unit)
    sign = "" if float(size) == 0 else "−" if number < 0 else "+"
    return f"{sign}{size}{'°' if unit in DEGREES else f' {unit}' if unit else ' points'}"


def share(number: float) -> str:
    """A share in whole percent."""
    return f"{rounded(number, 0, percent=True)} %".replace("-", "−")


def between(ci: Sequence[float] | None, unit: str) -> str:
    """An interval of differences in words."""
    if not ci:
        return "no interval"
    bare = [change(end, unit).removesuffix(" points").removesuffix("°") for end in ci]
    return f"95 % interval {bare[0]} to {bare[1]}"


def arrow(direction: str) -> str:
    """Which way is better, with an arrow; ``direction`` is "higher" or "lower"."""
    return "↑ higher is better" if direction == "higher" else "↓ lower is better"


@dataclass(frozen=True)
class Verdict:
    """What one difference of two rows says.

    ``gain`` and ``ci`` are positive where the first row is better, whatever the measure's direction; ``behind``
    lists the trivial rows that the first one does not beat.
    """

    metric: str
    cell: Cell
    gain: float | None
    ci: tuple[float, float] | None
    state: State
    behind: tuple[str, ...]

    @property
    def counts(self) -> bool:
        """Whether it is a gain that is no noise and that no trivial row reaches."""
        return self.state == "better" and not self.behind

    @property
    def text(self) -> str:
        """The difference with its unit and measure."""
        return f"{change(self.cell['mean'], self.cell['unit'])} {measure_name(self.metric)}"

    @property
    def interval(self) -> str:
        """Its 95 % interval in words, in the unit of the measure."""
        return between(self.cell["ci"], self.cell["unit"])


def judge(results: Results, metric: str, pair: str = "clipzoo-vs-clip-ft") -> Verdict | None:
    """The verdict on one measure of a pair of rows; None if it was not measured."""
    cell = results.get("differences", {}).get(pair, {}).get(metric)
    if cell is None:
        return None
    sign = 1 if cell["direction"] == "higher" else -1
    gain = None if cell["mean"] is None else sign * cell["mean"]
    ci = None if not cell["ci"] else (min(sign * c for c in cell["ci"]), max(sign * c for c in cell["ci"]))
    state: State = "unclear"
    if ci is not None and (ci[0] > 0 or ci[1] < 0):
        state = "better" if ci[0] > 0 else "worse"
    return Verdict(metric, cell, gain, ci, state, _behind(results, metric, pair.split("-vs-")[0]))


def headlines(results: Results) -> list[str]:
    """The first measure of every group that any arm has, in the order of the results."""
    first: dict[str, str] = {}
    for cells in results.get("arms", {}).values():
        for metric in cells:
            first.setdefault(metric.split("/")[0], metric)
    return list(first.values())


def unmatched(results: Results, metric: str) -> list[str]:
    """The arms that are as good as the expert itself, or better: where there is one, the expert is no ceiling."""
    top = results.get("baselines", {}).get("expert", {}).get(metric)
    if top is None or top["mean"] is None:
        return []
    sign = 1 if top["direction"] == "higher" else -1
    means = {arm: cells[metric]["mean"] for arm, cells in results["arms"].items() if metric in cells}
    return [arm for arm, mean in means.items() if mean is not None and sign * (top["mean"] - mean) <= 0]


def gap(results: Results, verdict: Verdict, pair: str) -> float | None:
    """The share of the gap from the second row to the expert that the first has closed; None where there is no gap."""
    closed: float | None = verdict.cell.get("gap_closed")
    return None if set(unmatched(results, verdict.metric)) & set(pair.split("-vs-")) else closed


def gap_words(results: Results, verdict: Verdict, pair: str) -> str:
    """`gap` in words; empty where there is no expert to compare with."""
    if set(unmatched(results, verdict.metric)) & set(pair.split("-vs-")):
        return "the expert is no ceiling here"
    closed = gap(results, verdict, pair)
    return "" if closed is None else f"{share(closed)} of the gap to the expert"


def row_name(results: Results, metric: str, row: str) -> str:
    """The readable name of a row; that of the expert says whether it is the ceiling of this measure."""
    if row != "expert":
        return ROWS.get(row, row)
    return f"{ROWS[row]} ({'no ceiling here' if unmatched(results, metric) else 'ceiling'})"


def dense(results: Results) -> list[str]:
    """The headlines of tasks: `headlines` without those of recognition and retrieval."""
    return [metric for metric in headlines(results) if metric.split("/")[0] not in RECOGNITION]


def headline(results: Results) -> str:
    """The page in one sentence: gains and losses against captions alone, and what became of zero-shot."""
    verdicts = [v for metric in dense(results) if (v := judge(results, metric))]
    if not verdicts:
        return f"This run compares no dense task with captions alone; {guard_clause(results)}."
    better = [v for v in verdicts if v.counts]
    did = "improved" if better or len(verdicts) > 1 else "did not clearly improve"
    text = f"Pseudo-labels {did} {_count(len(better), len(verdicts))} over captions alone"
    if better:
        text += f" ({_listed([f'{group_name(v.metric)} {v.text}' for v in better])})"
    return "; ".join([text, *(_shortfall(v) for v in verdicts if not v.counts), guard_clause(results)]) + "."


def guard_clause(results: Results) -> str:
    """What happened to zero-shot recognition, against the model as it came if that was measured."""
    metric = next((m for m in headlines(results) if m.startswith(GUARD)), None)
    verdict = judge(results, metric, reference(results, metric)) if metric else None
    if verdict is None:
        return "zero-shot recognition was not compared, so nothing is known of its price"
    words = {"better": "rose", "worse": "fell", "unclear": "shows no clear change"}[verdict.state]
    other = ARMS[reference(results, verdict.metric).split("-vs-")[1]].replace("CLIP-FT: ", "")
    return f"{group_name(verdict.metric)} {measure_name(verdict.metric)} {words} against {other} ({_size(verdict)})"


def reference(results: Results, metric: str) -> str:
    """The pair that tells most of a measure: the guard asks what the start has lost, other measures what labels add."""
    start = "clipzoo-vs-clip"
    guarded = metric.startswith(GUARD) and metric in results.get("differences", {}).get(start, {})
    return start if guarded else "clipzoo-vs-clip-ft"


def takeaways(results: Results) -> list[dict[str, Any]]:
    """For every headline: its title, its state, a sentence, and what a skeptic should check."""
    found = []
    for metric in headlines(results):
        pair = reference(results, metric)
        verdict = judge(results, metric, pair)
        if verdict is not None:
            found.append(
                {
                    "title": f"{group_name(metric).capitalize()}, {measure_name(metric)}",
                    "state": "short" if verdict.state == "better" and verdict.behind else verdict.state,
                    "sentence": _sentence(results, verdict, pair),
                    "checks": _checks(results, verdict, pair),
                }
            )
    return found


def _behind(results: Results, metric: str, arm: str) -> tuple[str, ...]:
    return tuple(row for row in TRIVIAL if _beaten(results, metric, arm, row) is False)


def _beaten(results: Results, metric: str, arm: str, row: str) -> bool | None:
    """Whether an arm beats a row, by the interval of the difference where there is one; None if not comparable."""
    own = results["arms"].get(arm, {}).get(metric)
    other = results.get("baselines", {}).get(row, {}).get(metric)
    if own is None or other is None or own["mean"] is None or other["mean"] is None:
        return None
    ends = [own["mean"] - other["mean"]]
    ends += results.get("differences", {}).get(f"{arm}-vs-{row}", {}).get(metric, {}).get("ci") or []
    return all(end > 0 if own["direction"] == "higher" else end < 0 for end in ends)


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
    if verdict.state == "better":
        rows = _listed([ROWS[row] for row in verdict.behind])
        return f"{name} improved ({verdict.text}) but does not clearly beat {rows}, so it does not count"
    if verdict.state == "worse":
        return f"{name} got worse ({verdict.text})"
    return f"{name} shows no clear change ({_size(verdict)})"


def _sentence(results: Results, verdict: Verdict, pair: str) -> str:
    a, b = pair.split("-vs-")
    ours, theirs = (results["arms"][arm].get(verdict.metric) for arm in (a, b))
    what = {"better": "improved", "worse": "got worse", "unclear": "did not change clearly"}[verdict.state]
    text = f"{group_name(verdict.metric).capitalize()} {what}"
    if ours and theirs:
        unit = ours["unit"]
        text += f": {value(theirs['mean'], unit)} with {b}, {value(ours['mean'], unit)} with {a} ({_size(verdict)})"
    closed = gap(results, verdict, pair)
    if closed is not None:
        text += f"; {share(closed)} of the gap to the expert is closed"
    if verdict.behind:
        rows = _listed([ROWS[row] for row in verdict.behind])
        text += f". It does not clearly beat {rows}: by this the gain does not count"
    return text + "."


def _checks(results: Results, verdict: Verdict, pair: str) -> list[str]:
    checks = [*_seed_checks(verdict), *_prior_checks(results, verdict), *_held_checks(results, verdict, pair)]
    checks += [*_ceiling_checks(results, verdict), *_label_checks(results, verdict), *_rate_checks(results, pair)]
    images = results.get("images", {}).get(verdict.metric.split("/")[0])
    if images and verdict.ci:
        blind = change((verdict.ci[1] - verdict.ci[0]) / 2, verdict.cell["unit"]).lstrip("+")
        seen = (
            f": a true change below about {blind} would be hard to see" if any(c in "123456789" for c in blind) else ""
        )
        checks.append(f"Measured on {images:,} images{seen}.")
    return checks


def _seed_checks(verdict: Verdict) -> list[str]:
    values = [v for v in verdict.cell.get("values", []) if v is not None]
    if len(values) < 2:
        return ["One seed: how far two runs of one arm lie apart is not known; the interval resamples images only."]
    if min(values) < 0 < max(values):
        ups = sum((v > 0) == (verdict.cell["direction"] == "higher") for v in values)
        return [f"The seeds disagree: {ups} of {len(values)} went the better way."]
    unit = verdict.cell["unit"]
    return [f"All {len(values)} seeds agree in sign ({', '.join(change(v, unit) for v in values)})."]


def _prior_checks(results: Results, verdict: Verdict) -> list[str]:
    prior = results.get("baselines", {}).get("position_prior", {}).get(verdict.metric)
    if not prior or prior["mean"] is None or verdict.metric.split("/")[1] != "delta1":
        return []
    if prior["mean"] <= PREDICTABLE:
        return []
    return [
        f"A constant map reaches {value(prior['mean'], prior['unit'])}: this test set is predictable from place alone."
    ]


def _ceiling_checks(results: Results, verdict: Verdict) -> list[str]:
    """Whether the expert is better than its students."""
    arms = unmatched(results, verdict.metric)
    if not arms:
        return []
    cell = results["baselines"]["expert"][verdict.metric]
    return [
        f"The expert itself reaches {value(cell['mean'], cell['unit'])}, no better than {_listed(arms)}: it is no "
        "ceiling here, and no share of a gap to it is told."
    ]


def _label_checks(results: Results, verdict: Verdict) -> list[str]:
    """Whether a probe that reads more labels would do as well as training on them."""
    cell = results.get("baselines", {}).get("more_labels", {}).get(verdict.metric)
    if not cell or _beaten(results, verdict.metric, "clipzoo", "more_labels") is not False:
        return []
    return [f"{ROWS['more_labels']} reaches {value(cell['mean'], cell['unit'])}: clipzoo does not clearly beat that."]


def _rate_checks(results: Results, pair: str) -> list[str]:
    """Arms whose rate lies at an end of the grid, beyond which nothing was tried."""
    protocol, checks = results.get("protocol", {}), []
    grid = protocol.get("learning_rate_grid") or [0]
    for arm in pair.split("-vs-"):
        rate = protocol.get("learning_rates", {}).get(arm)
        if len(grid) > 1 and rate in (min(grid), max(grid)):
            end = "least" if rate == min(grid) else "greatest"
            checks.append(f"The rate of {arm}, {rate:g}, is the {end} of those tried: one beyond might do better.")
    return checks


def _held_checks(results: Results, verdict: Verdict, pair: str) -> list[str]:
    checks = []
    for name, subset in results.get("subsets", {}).items():
        held = judge({"baselines": {}, **subset}, verdict.metric, pair)
        if held is not None:
            words = {"better": "holds", "worse": "turns into a loss", "unclear": "is not clear"}[held.state]
            subject = "The gain" if verdict.state == "better" else "The change"
            checks.append(f"{subject} {words} on the subset “{name}” ({_size(held)}).")
    return checks
