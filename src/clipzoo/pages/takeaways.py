"""The takeaways of the report: what each headline says, and what a skeptic has to know about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict, cast

from clipzoo.evaluation.results import Results
from clipzoo.pages import words


class Takeaway(TypedDict):
    """The result of one headline; see `takeaways`."""

    title: str
    state: str
    sentence: str
    checks: list[str]


def takeaways(results: Results) -> list[Takeaway]:
    """Return title, state, sentence and caveats (``checks``) of every headline."""
    found: list[Takeaway] = []
    for metric in words.headlines(results):
        pair = words.reference(results, metric)
        verdict = words.judge(results, metric, pair)
        if verdict is not None:
            found.append(
                {
                    "title": f"{words.capitalized(words.group_name(metric))}, {words.measure_name(metric)}",
                    "state": "short" if verdict.state == "better" and verdict.unbeaten else verdict.state,
                    "sentence": _sentence(results, verdict, pair),
                    "checks": _checks(results, verdict, pair),
                }
            )
    return found


def notices(results: Results) -> list[str]:
    """Return warnings to read before any number: arms below chance, gains below a baseline, tasks not measured, and
    images that an expert cannot label.
    """
    return [*_below_chance(results), *_below_baselines(results), *_unmeasured(results), *_unlabeled(results)]


def _below_chance(results: Results) -> list[str]:
    """Return a sentence for each constant answer that an arm does not reach in zero-shot recognition."""
    sentences, told = [], set[str]()
    for row in words.CONSTANT:
        for metric in (m for m in words.headlines(results) if m.startswith(words.GUARD)):
            means = {arm: mean for arm, mean in _means(results, metric).items() if arm not in told}
            level = (results.get("baselines", {}).get(row, {}).get(metric) or {"mean": None})["mean"]
            below = [arm for arm, mean in means.items() if level is not None and mean < level]
            told.update(below)
            if below and level is not None:
                figures = words.listed([f"{arm} ({words.value(means[arm], '')})" for arm in below])
                sentences.append(
                    f"{figures} {'lies' if len(below) == 1 else 'lie'} below {words.ROWS[row]} in "
                    f"{words.group_name(metric)} {words.measure_name(metric)} ({words.value(level, '')}): recognition "
                    "is not better than an answer without looking at the image."
                )
    return sentences


def _below_baselines(results: Results) -> list[str]:
    """Return a sentence for each clear gain of which both arms are worse than features without any training."""
    sentences = []
    for metric in words.dense(results):
        pair = words.reference(results, metric)
        verdict = words.judge(results, metric, pair)
        means = _means(results, metric)
        if verdict is None or verdict.state != "better" or not set(pair.split("-vs-")) <= set(means):
            continue
        sign = 1 if verdict.cell["direction"] == "higher" else -1
        ours, theirs = (means[arm] for arm in pair.split("-vs-"))
        for row in words.UNTRAINED:
            level = (results.get("baselines", {}).get(row, {}).get(metric) or {"mean": None})["mean"]
            if level is not None and sign * level > max(sign * ours, sign * theirs):
                unit = verdict.cell["unit"]
                sentences.append(
                    f"The gain of {words.group_name(metric)} is real, but both arms ({words.value(theirs, unit)} and "
                    f"{words.value(ours, unit)}) are worse than {words.ROWS[row]} ({words.value(level, unit)})."
                )
    return sentences


def _unmeasured(results: Results) -> list[str]:
    """Return a sentence on tasks that were taught but not measured."""
    if "clipzoo" not in results.get("arms", {}):
        return []
    columns = [name for name, row in results.get("cost", {}).items() if "/" in name and isinstance(row, Mapping)]
    supervised = cast(Mapping[str, Mapping[str, Mapping[str, object]]], results.get("supervision", {}))
    for record in supervised.get("clipzoo", {}).values():
        columns += cast(Mapping[str, object], record["columns"])  # online columns, too, which have no cost of labeling
    taught = dict.fromkeys(name.partition("/")[0] for name in columns)
    measured = {metric.partition("/")[0] for cells in results["arms"].values() for metric in cells}
    missing = [words.group_name(task) for task in taught if task not in measured]
    if not missing:
        return []
    return [
        f"Taught but not measured: {words.listed(missing)}. The effect of these labels on their own task is unknown: "
        "the benchmarks of evaluation have no true labels of it."
    ]


def _unlabeled(results: Results) -> list[str]:
    """Return a sentence for each expert that cannot label some of the images on which it is scored."""
    return [
        f"The expert of {words.group_name(task)} has no label for {one['images']:,} of {one['of']:,} images of "
        f"{split}. They count as unknown. The first: {one['first']}"
        for split, tasks in results.get("expert_failures", {}).items()
        for task, one in tasks.items()
    ]


def _means(results: Results, metric: str) -> dict[str, float]:
    cells = {arm: row[metric] for arm, row in results["arms"].items() if metric in row}
    return {arm: cell["mean"] for arm, cell in cells.items() if cell["mean"] is not None}


def _sentence(results: Results, verdict: words.Verdict, pair: str) -> str:
    a, b = pair.split("-vs-")
    ours, theirs = (results["arms"][arm].get(verdict.metric) for arm in (a, b))
    verb = {"better": "improved", "worse": "got worse", "unclear": "did not clearly change"}[verdict.state]
    text = f"{words.capitalized(words.group_name(verdict.metric))} {verb}"
    if ours and theirs:
        unit = ours["unit"]
        before, after = words.value(theirs["mean"], unit), words.value(ours["mean"], unit)
        text += f": {before} with {b}, {after} with {a} ({words.size_of(verdict)})"
    closed = words.gap(results, verdict)
    if closed is not None:
        text += f". {words.share(closed)} of the gap to the expert is closed"
    if verdict.unbeaten:
        rows = words.listed([words.ROWS[row] for row in verdict.unbeaten])
        text += f". It does not clearly beat {rows}"
        text += ", so the gain does not count" if verdict.state == "better" else ""
    return text + "."


def _checks(results: Results, verdict: words.Verdict, pair: str) -> list[str]:
    checks = [*_seed_checks(verdict), *_prior_checks(results, verdict), *_held_checks(results, verdict, pair)]
    checks += [*_ceiling_checks(results, verdict), *_label_checks(results, verdict), *_rate_checks(results, pair)]
    images = results.get("images", {}).get(verdict.metric.split("/")[0])
    if images and verdict.ci:
        text = f"Measured on {images:,} images."
        resolution = words.change((verdict.ci[1] - verdict.ci[0]) / 2, verdict.cell["unit"])
        if resolution.startswith("+"):  # it is not rounded to zero
            text += f" Changes below about {resolution.lstrip('+')} cannot be detected reliably."
        checks.append(text)
    return checks


def _seed_checks(verdict: words.Verdict) -> list[str]:
    values = [v for v in verdict.cell.get("values", []) if v is not None]
    if len(values) < 2:
        return ["One seed: the variation between trainings is unknown. The interval resamples images only."]
    ups = sum(v > 0 if verdict.cell["direction"] == "higher" else v < 0 for v in values)
    if min(values) < 0 < max(values):
        return [f"The seeds disagree: {ups} of {len(values)} improved."]
    changes = ", ".join(words.change(v, verdict.cell["unit"]) for v in values)
    if 0 in values:
        return [f"{ups} of {len(values)} seeds improved ({changes})."]
    return [f"All {len(values)} seeds agree in sign ({changes})."]


def _prior_checks(results: Results, verdict: words.Verdict) -> list[str]:
    prior = results.get("baselines", {}).get("position_prior", {}).get(verdict.metric)
    if not prior or prior["mean"] is None or verdict.metric.split("/")[1] != "delta1":
        return []
    if prior["mean"] <= words.PREDICTABLE:
        return []
    reached = words.value(prior["mean"], prior["unit"])
    return [f"A constant map reaches {reached}: position alone predicts much of this test set."]


def _ceiling_checks(results: Results, verdict: words.Verdict) -> list[str]:
    arms = words.unmatched(results, verdict.metric)
    if not arms:
        return []
    cell = results["baselines"]["expert"][verdict.metric]
    return [
        f"The expert reaches {words.value(cell['mean'], cell['unit'])}, which is not better than {words.listed(arms)}. "
        "It is not an upper bound, so no share of a gap is reported."
    ]


def _label_checks(results: Results, verdict: words.Verdict) -> list[str]:
    cell = results.get("baselines", {}).get("more_labels", {}).get(verdict.metric)
    if not cell or words.beaten(results, verdict.metric, "clipzoo", "more_labels") is not False:
        return []
    text = f"{words.capitalized(words.ROWS['more_labels'])} reaches {words.value(cell['mean'], cell['unit'])}"
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


def _held_checks(results: Results, verdict: words.Verdict, pair: str) -> list[str]:
    checks = []
    for name, subset in results.get("subsets", {}).items():
        held = words.judge({"baselines": {}, **subset}, verdict.metric, pair)
        if held is not None:
            verb = {"better": "improved", "worse": "got worse", "unclear": "did not clearly change"}[held.state]
            checks.append(f"On the subset “{name}” it {verb} ({words.size_of(held)}).")
    return checks
