"""The pictures of a report: the predictions of each arm's probe on test images that are chosen by their scores."""

from __future__ import annotations

import math
from collections.abc import Mapping

from clipzoo.benchmarks import Split, Truth
from clipzoo.evaluation.arms import RowScores
from clipzoo.evaluation.measure import Scored
from clipzoo.evaluation.probes.probe import Probes
from clipzoo.experts import Expert
from clipzoo.pages import words
from clipzoo.pages.pictures import PictureRow, cases
from clipzoo.types import ImageArray, View


def showcase(
    test: Split,
    probes: Mapping[str, Probes | None],
    scores: Mapping[str, RowScores],
    experts: Mapping[str, Expert],
    count: int = 1,
) -> list[PictureRow]:
    """Return rows for every dense task that was scored.

    Args:
        test: the split of the pictures.
        probes: of "clip-ft" and "clipzoo".
        scores: of the same arms and of "expert".
        experts: task -> its loaded expert.
        count: the number of pictures of each case.
    """
    fitted = {arm: one for arm, one in probes.items() if one}
    usable = {task: expert for task, expert in experts.items() if not expert.needs_sample}
    rows = []
    for task in [task for task in test.truth if task in scores["clipzoo"]]:
        for case, index in cases(scores["clipzoo"][task], scores["clip-ft"][task], count):
            rows.append(_row(test, task, case, index, fitted, scores, usable.get(task)))
    return rows


def _row(
    test: Split,
    task: str,
    case: str,
    index: int,
    probes: Mapping[str, Probes],
    scores: Mapping[str, RowScores],
    expert: Expert | None,
) -> PictureRow:
    truth, picture = test.truth[task], test.select([index])
    (image,) = next(picture.batches())
    label = truth.labels[index]
    predictions = {arm: one.tasks[task].predict(next(one.read(picture)))[0] for arm, one in probes.items()}

    def render(shown: object) -> ImageArray | None:
        return None if shown is None else truth.task.render(shown, truth.convention)

    return PictureRow(
        case,
        task,
        test.keys[index],
        " ".join(test.captions[index]),
        image,
        truth=render(label),
        expert=render(None if expert is None else _prediction(expert, test, index, truth)),
        predictions={arm: truth.task.render(one, truth.convention) for arm, one in predictions.items()},
        scores={row: _headline(scored[task], index) for row, scored in scores.items() if task in scored},
    )


def _prediction(expert: Expert, test: Split, index: int, truth: Truth) -> object:
    """Return the expert's label of an image at its original size, resampled as for its score."""
    return truth.task.view(expert.predict([test.images[index]])[0], View.whole(truth.size))


def _headline(scored: Scored, index: int) -> str:
    """Return the headline measure of one image with its unit."""
    name, measure = next(iter(scored.metric.measures.items()))
    number = scored.metric.of(scored.statistics[index : index + 1])[name]
    return f"{words.measure_name(name)} {words.value(number if math.isfinite(number) else None, measure.unit)}"
