"""Weighted nearest neighbors, as DINO and DINOv2 publish them: ``--preset knn``.

The neighbors of an image are the k training images with the largest cosine similarity s. Each votes for its class with
the weight exp(s / 0.07). DINO (Caron et al., arXiv 2104.14294, appendix) and DINOv2 (arXiv 2304.07193) report k = 20.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from clipzoo.evaluation.classification.base import Classification, Fitted, Step
from clipzoo.evaluation.classification.cache import Features
from clipzoo.tasks.base import Additive, Measure, Statistics

NEIGHBORS = (20, 10, 100, 200)
"""Numbers of neighbors that are reported, the headline first; at most the number of training images."""
TEMPERATURE = 0.07
QUERIES = 512
"""Images that are compared together with a part of the training images."""


class KnnMetric(Additive):
    """Statistics [5]: images, and hits for each of `NEIGHBORS`."""

    measures: ClassVar = {"top1": Measure()} | {f"top1_k{k}": Measure() for k in NEIGHBORS[1:]}

    def statistics(self, prediction: NDArray[np.float64], truth: int) -> Statistics:
        """Return the statistics of one image, from its votes [4,K] and class; a tie counts as a miss."""
        hits = (prediction >= prediction[:, truth : truth + 1]).sum(1) == 1
        return np.array([1, *hits], np.float64)

    def compute(self, total: Statistics) -> dict[str, float]:
        """Return the accuracies in [0, 1]."""
        n = total[0] if total[0] > 0 else np.nan
        return {name: float(hits / n) for name, hits in zip(self.measures, total[1:], strict=True)}


METRIC = KnnMetric()


@dataclass(frozen=True)
class Knn(Classification):
    """The preset; see the module."""

    name: ClassVar = "knn"
    group: ClassVar = "knn"
    metric: ClassVar = METRIC
    validated: ClassVar = False

    neighbors: tuple[int, ...] = NEIGHBORS
    temperature: float = TEMPERATURE

    def fit(self, probe: Features, validation: Features | None, classes: int, step: Step) -> Fitted:
        """Return the votes [4,K] of each image's neighbors in ``probe``."""

        def predictions(features: Tensor) -> Iterator[NDArray[np.float64]]:
            for queries in torch.split(features, QUERIES):
                votes = self._votes(*nearest(queries, probe, max(self.neighbors)), classes)
                yield from votes.cpu().numpy()

        return Fitted(predictions)

    def _votes(self, similarities: Tensor, targets: Tensor, classes: int) -> Tensor:
        """Return votes float64 [N,4,K] of neighbors [N,k] in falling order."""
        weights = ((similarities.double() - similarities[:, :1]) / self.temperature).exp()
        votes = weights.new_zeros(len(weights), len(self.neighbors), classes)
        for i, k in enumerate(self.neighbors):
            votes[:, i].scatter_add_(1, targets[:, :k], weights[:, :k])
        return votes


def nearest(queries: Tensor, probe: Features, k: int) -> tuple[Tensor, Tensor]:
    """Return cosines and classes [N,k] of the nearest training images in falling order; one part is in memory."""
    queries = F.normalize(queries, dim=1)
    similarities = queries.new_zeros(len(queries), 0)
    targets = torch.zeros(len(queries), 0, dtype=torch.int64, device=queries.device)
    for features, classes in probe.parts():
        found = torch.cat([similarities, queries @ F.normalize(features, dim=1).T], 1)
        labels = torch.cat([targets, classes.expand(len(queries), -1)], 1)
        similarities, places = found.topk(min(k, found.shape[1]), dim=1)
        targets = labels.gather(1, places)
    return similarities, targets


PRESET = Knn(
    source="Caron et al., DINO (arXiv 2104.14294), and Oquab et al., DINOv2 (arXiv 2304.07193), weighted k-NN, k = 20",
    deviations=("ties of classes count as misses", "the image has the preprocessing of its model"),
)
