"""The pictures of a report: the predictions of each arm's probe on test images that are chosen by their scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from PIL import Image

from clipzoo.benchmarks import Split, Truth
from clipzoo.evaluation.arms import RowScores
from clipzoo.evaluation.baselines import labeled
from clipzoo.evaluation.measure import OPEN_VOCABULARY, Scored
from clipzoo.evaluation.probes.probe import Probes
from clipzoo.experts import Expert
from clipzoo.models import Student
from clipzoo.models.segments import Segments
from clipzoo.pages import words
from clipzoo.pages.pictures import SIDE, PictureRow, cases, overlay
from clipzoo.tasks.segmentation import Segmentation
from clipzoo.types import ImageArray


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


def prompted(
    test: Split,
    students: Mapping[str, Callable[[], Student]],
    scores: Mapping[str, Scored],
    variant: str,
    count: int = 1,
) -> list[PictureRow]:
    """Return rows of the heat maps of class names, for the classes that cover most of each picture.

    Args:
        test: the split of the pictures, with true labels of segmentation.
        students: arm -> function that returns its student; one student is in memory at a time.
        scores: arm -> scores of open-vocabulary segmentation, which choose the pictures.
        variant: of the dense embeddings.
        count: the number of pictures of each case.
    """
    truth = test.truth["segmentation"]
    chosen = [(case, index, _largest(truth, index)) for case, index in _chosen(scores, count)]
    chosen = [(case, index, names) for case, index, names in chosen if names]
    found = {arm: _segmented(make(), test, chosen, variant) for arm, make in students.items()}
    rows = []
    for number, (case, index, names) in enumerate(chosen):
        for name in names:
            segments = {arm: of[number] for arm, of in found.items()}
            image = segments[next(iter(segments))][0]
            rows.append(
                PictureRow(
                    case, OPEN_VOCABULARY, test.keys[index], name, image, truth=_mask(truth, index, name),
                    predictions={arm: overlay(image, one.heat_map(name)) for arm, (_, one) in segments.items()},
                    scores={arm: _range(one, name) for arm, (_, one) in segments.items()}, blended=True,
                )
            )  # fmt: skip
    return rows


def _chosen(scores: Mapping[str, Scored], count: int) -> list[tuple[str, int]]:
    """Return (case, index) of pictures by the gain of clipzoo over clip-ft; without both arms, at equal distances."""
    if {"clipzoo", "clip-ft"} <= set(scores):
        return cases(scores["clipzoo"], scores["clip-ft"], count)
    images = len(next(iter(scores.values())).keys)
    return [("", index) for index in sorted({images * i // (3 * count) for i in range(3 * count)})]


def _largest(truth: Truth, index: int, most: int = 2) -> list[str]:
    """Return the names of the classes with most pixels in a true label."""
    label = truth.labels[index]
    if not isinstance(label, Segmentation):
        return []
    pixels = np.bincount(label.ids[label.valid].astype(np.int64), minlength=len(truth.convention.classes))
    return [truth.convention.classes[i] for i in np.argsort(-pixels, kind="stable")[:most] if pixels[i]]


def _mask(truth: Truth, index: int, name: str) -> ImageArray:
    label = truth.labels[index]
    assert isinstance(label, Segmentation)
    pixels = (label.ids == truth.convention.classes.index(name)) & label.valid
    return np.repeat((255 * pixels).astype(np.uint8)[..., None], 3, -1)


def _segmented(
    student: Student, test: Split, chosen: Sequence[tuple[str, int, list[str]]], variant: str
) -> list[tuple[ImageArray, Segments]]:
    """Return each chosen picture at the size of the page, and its similarities to its class names."""
    found = []
    for _, index, names in chosen:
        picture = Image.fromarray(test.images[index])
        picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        image = np.asarray(picture)
        found.append((image, student.segment(image, names, test.templates, variant=variant)))
    return found


def _range(segments: Segments, name: str) -> str:
    values = segments.similarities[segments.names.index(name)]
    return f"cosine {values.min():.2f} to {values.max():.2f}"


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
    """Return the expert's label of an image at its original size, resampled as for its score; None if it fails."""
    (label,) = labeled(expert.predict, truth, [test.images[index]], expert.card.convention)
    return None if isinstance(label, Exception) else label


def _headline(scored: Scored, index: int) -> str:
    """Return the headline measure of one image with its unit."""
    name, measure = next(iter(scored.metric.measures.items()))
    number = scored.metric.of(scored.statistics[index : index + 1])[name]
    return f"{words.measure_name(name)} {words.value(number if math.isfinite(number) else None, measure.unit)}"
