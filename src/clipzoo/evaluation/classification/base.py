"""The interface of a preset of classification."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from clipzoo.evaluation.classification.cache import Features
from clipzoo.tasks.base import Metric

Step = Callable[[str, int, int], None]
"""Called with a name, and the done and total number of steps."""
Predictions = Callable[[Tensor], Iterable[NDArray[np.float64]]]
"""Features [N,D] -> the prediction of each image, of the kind that the preset's metric compares with its class."""


@dataclass(frozen=True)
class Classification:
    """A protocol on frozen embeddings.

    Attributes:
        name: on the command line.
        source: where the settings were published; differences are in `deviations`.
        version: is raised when numbers may change.
        group: of the measures.
        metric: of the group.
        validated: validation images choose a setting.
    """

    name: ClassVar[str]
    group: ClassVar[str]
    metric: ClassVar[Metric]
    validated: ClassVar[bool]

    source: str
    version: int = 1
    features: str = "embeddings of the image, at unit length, in float16"
    deviations: tuple[str, ...] = ()

    def fit(self, probe: Features, validation: Features | None, classes: int, step: Step) -> Predictions:
        """Return the predictions of a classifier of ``probe``."""
        raise NotImplementedError
