"""Zero-shot recognition by the protocol of OpenCLIP (``open_clip/zero_shot_classifier.py``).

A class is the normalized mean of its normalized template embeddings; a picture belongs to the class with the
largest cosine. Ties go against the student: a model that maps everything to one point scores nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from clipzoo.benchmarks import Split
from clipzoo.evaluation.base import Student, embed_images, embed_texts
from clipzoo.evaluation.measure import Scored, rows
from clipzoo.tasks.base import Additive, Measure, Statistics


class ZeroShotMetric(Additive):
    """Shares [3]: pictures, hits among the first, hits among the first five."""

    measures: ClassVar = {"top1": Measure(), "top5": Measure()}

    def statistics(self, prediction: NDArray[np.float32], truth: int) -> Statistics:
        """Prediction: scores of all classes [K]; truth: the class index."""
        rank = int((prediction >= prediction[truth]).sum()) - 1
        return np.array([1, rank < 1, rank < 5], np.float64)

    def compute(self, total: Statistics) -> dict[str, float]:
        """Shares of pictures in [0, 1]."""
        n = total[0] if total[0] > 0 else np.nan
        return {"top1": float(total[1] / n), "top5": float(total[2] / n)}


METRIC = ZeroShotMetric()


def classifier(student: Student, classnames: Sequence[str], templates: Sequence[str]) -> Tensor:
    """Class embeddings, float32 [K,D], unit length."""
    texts = [template.replace("{c}", name) for name in classnames for template in templates]
    embedded = F.normalize(embed_texts(student, texts), dim=-1)
    return F.normalize(embedded.reshape(len(classnames), len(templates), -1).mean(1), dim=-1)


def evaluate(student: Student, data: Split, batch: int = 64) -> Scored:
    """Top-1 and top-5 of a student on a set."""
    classes = classifier(student, data.classnames, data.templates)
    scores: Any = torch.matmul(embed_images(student, data, batch), classes.T).numpy()
    return Scored("zero_shot", data.keys, rows(METRIC, scores, data.targets), METRIC)
