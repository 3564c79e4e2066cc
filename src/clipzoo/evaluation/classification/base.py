"""The interface of a preset of classification."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from clipzoo.evaluation.classification.cache import Features
from clipzoo.tasks.base import Metric

Step = Callable[[str, int, int], None]
"""Called with a name, and the done and total number of steps."""


@dataclass(frozen=True)
class Fitted:
    """A fitted classifier.

    Attributes:
        predict: features [N,D] -> the prediction of each image, as the preset's metric compares it with the class.
        chosen: what validation has chosen, for the record; empty if nothing was chosen.
    """

    predict: Callable[[Tensor], Iterable[NDArray[np.float64]]]
    chosen: Mapping[str, object] = field(default_factory=dict)


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

    def fit(self, probe: Features, validation: Features | None, classes: int, step: Step) -> Fitted:
        """Return the classifier of ``probe``."""
        raise NotImplementedError
