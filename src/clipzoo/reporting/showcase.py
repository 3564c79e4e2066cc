"""The pictures of a run: what each arm's probe sees on test images that the scores chose, failures too."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from clipzoo.evaluation.arms import Run
from clipzoo.evaluation.base import Student, features
from clipzoo.evaluation.sets import DenseSet, Truth
from clipzoo.evaluation.suite import Suite
from clipzoo.experts import Expert
from clipzoo.reporting import words
from clipzoo.reporting.pictures import PictureRow, cases

SHOWN = ("clip-ft", "clipzoo")


def showcase(
    suite: Suite,
    students: Mapping[str, Student],
    runs: Mapping[str, Run],
    experts: Mapping[str, Expert],
    count: int = 1,
) -> list[PictureRow]:
    """Rows for every dense task that both arms were scored on.

    Args:
        suite: its test split is shown.
        students: "clip-ft" and "clipzoo".
        runs: arm (and "expert") -> scores of the same students.
        experts: task -> its loaded expert.
        count: pictures of each case.
    """
    if "test" not in suite.dense:
        return []
    test = suite.dense["test"]
    fitted = {arm: suite.probes(students[arm]) for arm in SHOWN}
    probes = {arm: found.tasks for arm, found in fitted.items() if found}
    found = []
    for task, truth in ((task, truth) for task, truth in test.truth.items() if task in runs["clipzoo"]):
        for case, index in cases(runs["clipzoo"][task], runs["clip-ft"][task], count):
            image = test.images[index : index + 1]
            render = truth.task.render
            labels = {arm: probes[arm][task].predict(features(students[arm], image, suite.layers))[0] for arm in SHOWN}
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
