"""Retrieval of captions by images and of images by captions: recall@1, @5 and @10.

Equal captions (after stripping) are one candidate, and every image with that caption is a correct answer. Each image is
a query for its captions (a hit if any of them is among the first k), and each of its captions is a query for the image.
Ties count against the student. A bootstrap over images resamples the queries; the candidates stay the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from clipzoo.benchmarks import Split
from clipzoo.evaluation.base import Encoder, embed_images, embed_texts
from clipzoo.evaluation.measure import Scored, rows
from clipzoo.tasks.base import Additive, Measure, Statistics
from clipzoo.types import FloatArray

FIRST = (1, 5, 10)
VALUES = 1 << 24
"""The number of similarities in memory at a time."""
Ranks = NDArray[np.int64]


class RetrievalMetric(Additive):
    """Statistics [8]: image queries, their hits at 1, 5 and 10; caption queries, their hits at 1, 5 and 10."""

    measures: ClassVar = {
        "r5": Measure(), "r1": Measure(), "r10": Measure(),
        "image_to_text_r5": Measure(), "text_to_image_r5": Measure(),
    }  # fmt: skip

    def statistics(self, prediction: tuple[Ranks, Ranks], truth: object = None) -> Statistics:
        """Return the statistics of one image.

        Args:
            prediction: ranks from 0: [1] of the best caption, and [captions] of the best image for each caption.
            truth: not used.
        """
        return np.concatenate([[len(r), *((r < k).sum() for k in FIRST)] for r in prediction]).astype(np.float64)

    def compute(self, total: Statistics) -> dict[str, float]:
        """Return recall in [0, 1]; r1, r5 and r10 are the means of both directions."""
        queries = np.where(total[[0, 4]] > 0, total[[0, 4]], np.nan)
        text, image = total[1:4] / queries[0], total[5:8] / queries[1]
        r1, r5, r10 = ((text + image) / 2).tolist()
        return {
            "r5": r5,
            "r1": r1,
            "r10": r10,
            "image_to_text_r5": float(text[1]),
            "text_to_image_r5": float(image[1]),
        }


METRIC = RetrievalMetric()


def evaluate(student: Encoder, data: Split, batch: int = 64) -> Scored:
    """Score the retrieval of a student on image–caption pairs."""
    texts, captions = _unique(data.captions)
    image = embed_images(student, data, batch).numpy()
    text = embed_texts(student, texts).numpy()
    return Scored("retrieval", data.keys, rows_of(image, text, captions), METRIC)


def rows_of(image: FloatArray, text: FloatArray, captions: Sequence[Sequence[int]]) -> NDArray[np.float64]:
    """Return the statistics [N,8] of images.

    Args:
        image: embeddings [N,D] of the images.
        text: embeddings [U,D] of the distinct captions.
        captions: the indices of each image's captions.
    """
    images: list[list[int]] = [[] for _ in text]
    for i, indices in enumerate(captions):
        for caption in indices:
            images[caption].append(i)
    to_text = _ranks(lambda part: image[part] @ text.T, captions, len(text))
    to_image = _ranks(lambda part: (image @ text[part].T).T, images, len(image))
    ranks = [(to_text[i : i + 1], to_image[list(indices)]) for i, indices in enumerate(captions)]
    return rows(METRIC, ranks, [True] * len(ranks))


def _ranks(similarities: Callable[[slice], FloatArray], correct: Sequence[Sequence[int]], candidates: int) -> Ranks:
    """Return the rank from 0 of the best correct candidate of every query: the number of wrong ones as similar.

    Args:
        similarities: slice of the queries -> similarities [q,C].
        correct: the correct candidates of each query.
        candidates: their number C.
    """
    ranks, step = [np.zeros(0, np.int64)], max(1, VALUES // max(candidates, 1))
    for start in range(0, len(correct), step):
        similarity = similarities(slice(start, start + step))
        answers = np.zeros(similarity.shape, np.bool_)
        for i, indices in enumerate(correct[start : start + step]):
            answers[i, list(indices)] = True
        best = np.where(answers, similarity, -np.inf).max(1, keepdims=True)
        ranks.append(np.asarray(((similarity >= best) & ~answers).sum(1), np.int64))
    return np.concatenate(ranks)


def _unique(captions: Sequence[Sequence[str]]) -> tuple[list[str], list[list[int]]]:
    """Return the distinct captions, and for each image the indices of its captions."""
    index: dict[str, int] = {}
    indices = [[index.setdefault(text.strip(), len(index)) for text in texts] for texts in captions]
    return list(index), [sorted(set(some)) for some in indices]
