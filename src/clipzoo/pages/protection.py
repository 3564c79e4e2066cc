"""The text of the report on zero-shot recognition: events of the guard, and the choice of interpolated students."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TypedDict

from markupsafe import Markup

from clipzoo.evaluation.results import Event, GuardRecord, Results
from clipzoo.evaluation.tradeoff import PointRecord, Record, Reported
from clipzoo.pages import tradeoff, words


class Card(TypedDict):
    """The guard of one training, in words."""

    title: str
    state: str
    sentences: list[str]


class Swept(TypedDict):
    """The interpolation of one training: its sentences and numbers."""

    name: str
    sentences: list[str]
    record: Record


class Panel(TypedDict):
    """The interpolated students of one seed."""

    seed: str
    chart: Markup
    arms: list[Swept]


def guard_cards(results: Results) -> list[Card]:
    """Return title, state and sentences on the guard of every training; none without a guard."""
    return [
        Card(title=f"{arm}, seed {seed}", state=_state(record), sentences=_sentences(record))
        for arm, seeds in results.get("guard", {}).items()
        for seed, record in seeds.items()
    ]


def _state(record: GuardRecord) -> str:
    """Return "better" for a training within its limit, "short" if it needed the guard, "worse" if it ended over it."""
    if not record["alarms"] and not record["events"]:
        return "better"
    ended_over = record["action"] == "warn" and _last_loss(record) > record["max_loss"]
    return "worse" if ended_over else "short"


def _last_loss(record: GuardRecord) -> float:
    return float(record["start"] - record["measured"][-1]["value"]) if record["measured"] else 0.0


def _sentences(record: GuardRecord) -> list[str]:
    measure, measured = record["measure"], record["measured"]
    name = f"{words.group_name(measure)} {words.measure_name(measure)}".capitalize()
    limit = words.value(record["max_loss"], "").replace("%", "points")
    text = (
        f"{name} of the start: {words.value(record['start'], '')} on {record['samples']:,} images. The guard measured "
        f"{_times(len(measured))} and allowed a loss of {limit}."
    )
    events = record["events"]
    if not record["alarms"] and not events:
        return [text, "Every measurement was within the limit."]
    sentences = [text, *(_event(event, record) for event in events)]
    if record["action"] == "warn":
        over = [one for one in measured if record["start"] - one["value"] > record["max_loss"]]
        listed = ", ".join(f"{_fall(record, one['value'])} after step {one['step']:,}" for one in over)
        sentences.append(f"The guard warned {_times(len(over))}, and training continued: {listed}.")
        final = _last_loss(record)
        sentences.append(
            f"At the last measurement the change was {words.change(-final, '')}: "
            + ("over the limit." if final > record["max_loss"] else "within the limit.")
        )
    return sentences


def _event(event: Event, record: GuardRecord) -> str:
    at, back = f"after step {event['step'] + 1:,}", f"{event['returned_to']:,}"
    value = event["value"]
    cause = "a gradient was not finite" if value is None else f"the change was {_fall(record, value)}"
    if event["event"] == "rollback":
        return (
            f"The guard rolled training back: {cause} {at}. Training continued from step {back} at "
            f"{event['rate_factor']:g} of the learning rates."
        )
    return f"The guard ended training: {cause} {at}. The student is that of step {back}."


def _fall(record: GuardRecord, value: float) -> str:
    return words.change(value - record["start"], "")


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count:,} times"


def summary(results: Results) -> str:
    """Return the effect of interpolation on test in a sentence; "" without ``clipzoo-best``."""
    records: Collection[Reported] = results.get("interpolation", {}).get("clipzoo", {}).values()
    if records and all(record["best"] == 0 for record in records):
        return "Interpolation chose the pretrained model itself: no other student is within the limit and better."
    metric = next((m for m in words.headlines(results) if m.startswith(words.GUARD)), "")
    verdict = words.judge(results, metric, "clipzoo-best-vs-clip")
    if verdict is None:
        return ""
    text = (
        f"Interpolated with the pretrained model (clipzoo-best): {words.change(verdict.cell['mean'], '')} "
        f"{words.group_name(metric)} {words.measure_name(metric)} relative to it ({verdict.interval})"
    )
    tests = [tested for record in records if (tested := record.get("test"))]
    shares = [kept for tested in tests if (kept := _chosen(tested)["kept"]) is not None]
    return f"{text}, with {words.share(sum(shares) / len(shares))} of the dense gain." if shares else f"{text}."


def _chosen(record: Record) -> PointRecord:
    return next(point for point in record["points"] if point["alpha"] == record["best"])


def interpolations(results: Results) -> list[Panel]:
    """Return title, chart, and arms (name, sentences, record) of the interpolated students of every seed."""
    records: Mapping[str, Mapping[str, Reported]] = results.get("interpolation", {})
    seeds = list(dict.fromkeys(seed for arm in records.values() for seed in arm))
    panels: list[Panel] = []
    for seed in seeds:
        arms = {arm: of[seed] for arm, of in records.items() if seed in of}
        told = [Swept(name=arm, sentences=_choice(arm, record), record=record) for arm, record in arms.items()]
        panels.append(Panel(seed=seed, chart=tradeoff.chart(arms), arms=told))
    return panels


def _choice(arm: str, record: Reported) -> list[str]:
    points, best = record["points"], _chosen(record)
    limit = words.value(record["max_loss"], "").replace("%", "points")
    within = [p for p in points[1:] if p["within"]]
    if best["alpha"] == 0:
        reason = (
            f"no α above 0 keeps the interval of the loss within {limit}"
            if not within
            else "no student within the limit has a higher dense mean"
        )
        return [f"For {arm}, the pretrained model itself (α = 0) is chosen: {reason}."]
    sentences = [
        f"For {arm}, α = {best['alpha']:g} is chosen on validation: {_tradeoff(best)}.",
    ]
    if points[-1]["alpha"] != best["alpha"] and not points[-1]["within"]:
        sentences.append(f"The trained student (α = 1) is over the limit: {_tradeoff(points[-1])}.")
    if tested := record.get("test"):
        (point,) = (p for p in tested["points"] if p["alpha"] == best["alpha"])
        sentences.append(f"On test: {_tradeoff(point)}.")
    return sentences


def _tradeoff(point: PointRecord) -> str:
    loss = point["loss_ci"]
    ci = None if loss is None else (-loss[1], -loss[0])
    text = (
        f"zero-shot recognition {words.change(-point['loss'], '')} ({words.between(ci, '')}), dense mean "
        f"{words.change(point['gain'], '')} ({words.between(point['gain_ci'], '')})"
    )
    return text if point["kept"] is None else f"{text}, {words.share(point['kept'])} of the gain of the trained student"
