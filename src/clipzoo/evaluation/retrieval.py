"""Retrieval of captions by images and of images by captions: recall among the first 1, 5, 10.

Equal captions (after stripping) are one candidate, and every image that bears it is a right answer to it:
of two pictures called "a red chair" neither is wrong. Each image asks once for its captions (right if any
of them is among the first k), each of its captions asks once for the image. Ties go against the student. A
bootstrap over images resamples the questions; the gallery stays whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from clipzoo.benchmarks import Split
from clipzoo.evaluation.base import Student, embed_images, embed_texts
from clipzoo.evaluation.measure import Scored, rows
from clipzoo.tasks.base import Additive, Measure, Statistics
from clipzoo.types import FloatArray

FIRST = (1, 5, 10)
VALUES = 1 << 24
"""Similarities that are held at a time."""
Ranks = NDArray[np.int64]


class RetrievalMetric(Additive):
    """Shares [8]: images, their hits among the first 1, 5, 10; captions, their hits."""

    measures: ClassVar = {
        "r5": Measure(), "r1": Measure(), "r10": Measure(),
        "image_to_text_r5": Measure(), "text_to_image_r5": Measure(),
    }  # fmt: skip

    def statistics(self, prediction: tuple[Ranks, Ranks], truth: object = None) -> Statistics:
        """Prediction: ranks from 0, [1] of the best caption, and [captions] of the best image for each."""
        return np.concatenate([[len(r), *((r < k).sum() for k in FIRST)] for r in prediction]).astype(np.float64)

    def compute(self, total: Statistics) -> dict[str, float]:
        """Shares of questions in [0, 1]; r1, r5, r10 are means of both directions."""
        asked = np.where(total[[0, 4]] > 0, total[[0, 4]], np.nan)
        text, image = total[1:4] / asked[0], total[5:8] / asked[1]
        r1, r5, r10 = ((text + image) / 2).tolist()
        return {
            "r5": r5,
            "r1": r1,
            "r10": r10,
            "image_to_text_r5": float(text[1]),
            "text_to_image_r5": float(image[1]),
        }


METRIC = RetrievalMetric()


def evaluate(student: Student, data: Split, batch: int = 64) -> Scored:
    """Recall of a student on image–caption pairs."""
    texts, owners = _unique(data.captions)
    image = embed_images(student, data, batch).numpy()
    text = embed_texts(student, texts).numpy()
    return Scored("retrieval", data.keys, rows_of(image, text, owners), METRIC)


def rows_of(image: FloatArray, text: FloatArray, owned: Sequence[Sequence[int]]) -> NDArray[np.float64]:
    """Shares [N,8] of embeddings [N,D] of images and [U,D] of distinct captions; ``owned`` lists each image's."""
    bearers: list[list[int]] = [[] for _ in text]
    for i, mine in enumerate(owned):
        for caption in mine:
            bearers[caption].append(i)
    to_text = _ranks(lambda some: image[some] @ text.T, owned, len(text))
    to_image = _ranks(lambda some: (image @ text[some].T).T, bearers, len(image))
    ranks = [(to_text[i : i + 1], to_image[list(mine)]) for i, mine in enumerate(owned)]
    return rows(METRIC, ranks, [True] * len(ranks))


def _ranks(similar: Callable[[slice], FloatArray], right: Sequence[Sequence[int]], candidates: int) -> Ranks:
    """Rank from 0 of the best right candidate of every question: how many wrong ones are as near.

    ``similar`` gives the similarity [q,C] of some questions; ``right`` lists the right candidates of each.
    """
    found, step = [np.zeros(0, np.int64)], max(1, VALUES // max(candidates, 1))
    for start in range(0, len(right), step):
        similarity = similar(slice(start, start + step))
        answers = np.zeros(similarity.shape, np.bool_)
        for i, mine in enumerate(right[start : start + step]):
            answers[i, list(mine)] = True
        best = np.where(answers, similarity, -np.inf).max(1, keepdims=True)
        found.append(np.asarray(((similarity >= best) & ~answers).sum(1), np.int64))
    return np.concatenate(found)


def _unique(captions: Sequence[Sequence[str]]) -> tuple[list[str], list[list[int]]]:
    """Distinct captions, and for every image the indices of its own."""
    index: dict[str, int] = {}
    owners = [[index.setdefault(text.strip(), len(index)) for text in mine] for mine in captions]
    return list(index), [sorted(set(mine)) for mine in owners]
