"""Zero-shot recognition with the protocol of OpenCLIP (``open_clip/zero_shot_classifier.py``).

The embedding of a class is the normalized mean of its normalized template embeddings. The prediction is the class with
the largest cosine. Ties count against the student, so a model that maps everything to one point scores 0. Of classes
with one name, such as the two "missile" of ImageNet, the first is predicted, so the images of half of them are hits.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from clipzoo.benchmarks import Split
from clipzoo.evaluation.base import Encoder, embed_images, embed_texts
from clipzoo.evaluation.measure import Scored, rows
from clipzoo.tasks.base import Additive, Measure, Statistics


class ZeroShotMetric(Additive):
    """Statistics [3]: images, top-1 hits, top-5 hits."""

    measures: ClassVar = {"top1": Measure(), "top5": Measure()}

    def statistics(self, prediction: NDArray[np.float32], truth: int) -> Statistics:
        """Return the statistics of one image, from the scores of all classes [K] and the class index."""
        rank = int((prediction >= prediction[truth]).sum()) - 1
        return np.array([1, rank < 1, rank < 5], np.float64)

    def compute(self, total: Statistics) -> dict[str, float]:
        """Return the accuracies in [0, 1]."""
        n = total[0] if total[0] > 0 else np.nan
        return {"top1": float(total[1] / n), "top5": float(total[2] / n)}


METRIC = ZeroShotMetric()


def classifier(student: Encoder, classnames: Sequence[str], templates: Sequence[str]) -> Tensor:
    """Return the class embeddings, unit vectors, float32 [K,D]."""
    texts = [template.replace("{c}", name) for name in classnames for template in templates]
    embedded = F.normalize(embed_texts(student, texts), dim=-1)
    return F.normalize(embedded.reshape(len(classnames), len(templates), -1).mean(1), dim=-1)


def constant(data: Split) -> dict[str, Scored]:
    """Return the scores of guessing (``chance``), and of the classes that are most frequent in this split itself.

    The second one is the best answer that does not look at the image. The statistics of guessing are expectations.
    """
    count, targets = max(len(data.classnames), 1), np.asarray(data.targets)
    order = np.argsort(-np.bincount(targets, minlength=count), kind="stable")
    hits = np.stack([targets == order[0], np.isin(targets, order[:5])], 1)
    guessed = np.broadcast_to([1 / count, min(5, count) / count], hits.shape)
    return {
        row: Scored("zero_shot", data.keys, np.concatenate([np.ones((len(targets), 1)), of], 1), METRIC)
        for row, of in (("chance", guessed), ("majority", hits))
    }


def evaluate(student: Encoder, data: Split, batch: int = 64) -> Scored:
    """Score the top-1 and top-5 accuracy of a student on a split."""
    classes = classifier(student, data.classnames, data.templates)
    scores: Any = torch.matmul(embed_images(student, data, batch), classes.T).numpy()
    for first, *later in same_names(data.classnames):
        for before, one in pairwise([first, *later]):
            scores[:, one] = np.nextafter(scores[:, before], np.float32(-np.inf))
    return Scored("zero_shot", data.keys, rows(METRIC, scores, data.targets), METRIC)


def same_names(classnames: Sequence[str]) -> list[list[int]]:
    """Return the indices of classes that share a name, for each such name."""
    places: dict[str, list[int]] = {}
    for index, name in enumerate(classnames):
        places.setdefault(name, []).append(index)
    return [one for one in places.values() if len(one) > 1]
