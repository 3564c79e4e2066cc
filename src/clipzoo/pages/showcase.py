"""The pictures of a run: what each arm's probe sees on test images that the scores chose, failures too."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from clipzoo.evaluation.arms import Run
from clipzoo.evaluation.probe import Probes
from clipzoo.evaluation.sets import DenseSet, Truth
from clipzoo.experts import Expert
from clipzoo.pages import words
from clipzoo.pages.pictures import PictureRow, cases


def showcase(
    test: DenseSet,
    probes: Mapping[str, Probes | None],
    runs: Mapping[str, Run],
    experts: Mapping[str, Expert],
    count: int = 1,
) -> list[PictureRow]:
    """Rows for every dense task that both arms were scored on.

    Args:
        test: of which pictures are shown.
        probes: of "clip-ft" and "clipzoo".
        runs: arm (and "expert") -> scores of the same.
        experts: task -> its loaded expert.
        count: pictures of each case.
    """
    fitted = {arm: one for arm, one in probes.items() if one}
    found = []
    for task, truth in ((task, truth) for task, truth in test.truth.items() if task in runs["clipzoo"]):
        for case, index in cases(runs["clipzoo"][task], runs["clip-ft"][task], count):
            image = test.images[index : index + 1]
            render, picture = truth.task.render, replace(test, images=image)
            labels = {arm: one.tasks[task].predict(one.read(picture))[0] for arm, one in fitted.items()}
            asked = experts.get(task)
            expert = _asked(asked, test, index, truth) if asked and not asked.needs_sample else None
            label = truth.labels[index]
            found.append(
                PictureRow(
                    case, task, test.keys[index], test.captions[index], image[0],
                    truth=None if label is None else render(label, truth.convention),
                    expert=None if expert is None else render(expert, truth.convention),
                    predictions={arm: render(value, truth.convention) for arm, value in labels.items()},
                    scores={row: _score(run[task], index) for row, run in runs.items() if task in run},
                )
            )  # fmt: skip
    return found


def _asked(expert: Expert, test: DenseSet, index: int, truth: Truth) -> Any:
    """An expert's label of a picture as it was scored: of the original, brought to the size of the truth."""
    image = test.original(index) if test.original else test.images[index]
    return truth.task.view(expert.predict([image])[0], test.views[index].at(truth.size))


def _score(scored: Any, index: int) -> str:
    """The headline of one image, as a reader wants it."""
    name, measure = next(iter(scored.metric.measures.items()))
    number = scored.metric.of(scored.statistics[index : index + 1])[name]
    return f"{words.measure_name(name)} {words.value(number if math.isfinite(number) else None, measure.unit)}"
