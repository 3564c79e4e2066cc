"""The pictures of a run: what each arm's probe sees on test images that the scores chose, failures too."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from clipzoo.benchmarks import Split, Truth
from clipzoo.evaluation.arms import Run
from clipzoo.evaluation.probe import Probes
from clipzoo.experts import Expert
from clipzoo.pages import words
from clipzoo.pages.pictures import PictureRow, cases
from clipzoo.types import View


def showcase(
    test: Split,
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
            render, picture = truth.task.render, test.select([index])
            (image,) = next(picture.batches())
            labels = {arm: one.tasks[task].predict(next(one.read(picture)))[0] for arm, one in fitted.items()}
            asked = experts.get(task)
            expert = _asked(asked, test, index, truth) if asked and not asked.needs_sample else None
            label = truth.labels[index]
            found.append(
                PictureRow(
                    case, task, test.keys[index], " ".join(test.captions[index]), image,
                    truth=None if label is None else render(label, truth.convention),
                    expert=None if expert is None else render(expert, truth.convention),
                    predictions={arm: render(value, truth.convention) for arm, value in labels.items()},
                    scores={row: _score(run[task], index) for row, run in runs.items() if task in run},
                )
            )  # fmt: skip
    return found


def _asked(expert: Expert, test: Split, index: int, truth: Truth) -> Any:
    """An expert's label of a picture as it was scored: of the original, brought to the size of the truth."""
    return truth.task.view(expert.predict([test.images[index]])[0], View.whole(truth.size))


def _score(scored: Any, index: int) -> str:
    """The headline of one image, as a reader wants it."""
    name, measure = next(iter(scored.metric.measures.items()))
    number = scored.metric.of(scored.statistics[index : index + 1])[name]
    return f"{words.measure_name(name)} {words.value(number if math.isfinite(number) else None, measure.unit)}"
