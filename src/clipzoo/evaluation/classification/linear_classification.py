"""Logistic regression on frozen embeddings, as CLIP's paper does it: ``--preset linear-classification``.

Radford et al. (arXiv 2103.00020, appendix A.3): L-BFGS with at most 1,000 iterations. The strength λ of the L2 penalty
is one of 97 between 1e-6 and 1e6, eight per decade; a search that starts with one of every two decades and halves its
interval around the best finds it on validation images. The result is fitted to training and validation images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clipzoo.errors import RecipeError
from clipzoo.evaluation.classification.base import Classification, Fitted, Step
from clipzoo.evaluation.classification.cache import Features
from clipzoo.evaluation.zero_shot import ZeroShotMetric

METRIC = ZeroShotMetric()
PER_DECADE = 8
FIRST = 16
"""Distance of the strengths at which the search starts, in steps of `PER_DECADE`: two decades."""
RANGE = 48
"""The last strength on either side of 1, in steps of `PER_DECADE`: 1e-6 and 1e6."""
HELD_OUT = 10
"""Without validation images, every tenth training image chooses the strength."""
FITS = 15
"""The number of strengths that the search tries; two less where the best is at the end of the range."""
TOLERANCE = 1e-6
"""Largest entry of the gradient of the mean loss at which a fit ends."""
ROWS = 1024
"""Images whose logits are computed together."""


@dataclass(frozen=True)
class LinearClassification(Classification):
    """The preset; see the module."""

    name: ClassVar = "linear-classification"
    group: ClassVar = "linear_classification"
    metric: ClassVar = METRIC
    validated: ClassVar = True

    version: int = 2
    iterations: int = 1000
    strengths: str = "1e-6 to 1e6, 8 per decade"

    def fit(self, probe: Features, validation: Features | None, classes: int, step: Step) -> Fitted:
        """Return the logits of the classifier whose strength validation chooses."""
        part, chosen = probe, validation
        if chosen is None:
            part = probe.where(lambda rows: rows % HELD_OUT != 0)
            chosen = probe.where(lambda rows: rows % HELD_OUT == 0)
        if not len(part):
            raise RecipeError(f"--probe has {len(probe)} images, too few to fit and to choose by. Give more images")
        held, found = chosen, dict[str, float]()

        def accuracy(place: int) -> float:
            step("choosing the strength", len(found) + 1, FITS)
            line = regression([part], classes, strength_of(place), self.iterations)
            found[f"{strength_of(place):.3g}"] = top1(line, held)
            return found[f"{strength_of(place):.3g}"]

        strength = strength_of(search(accuracy))
        step(f"fitting with the strength {strength:.3g}", FITS, FITS)
        whole = [probe] if validation is None else [probe, validation]
        line = regression(whole, classes, strength, self.iterations)
        return Fitted(line.predictions, {"strength": strength, "validation_top1": found})


def strength_of(place: int) -> float:
    """Return the strength at a place from -`RANGE` to `RANGE`."""
    return float(10.0 ** (place / PER_DECADE))


def search(accuracy: Callable[[int], float]) -> int:
    """Return the place of the best strength; of equal ones, the middle one: few validation images have many ties."""
    step, best = FIRST, 0
    found = {place: accuracy(place) for place in range(-RANGE, RANGE + 1, FIRST)}
    while True:
        tied = sorted(place for place in found if found[place] == max(found.values()))
        best = tied[len(tied) // 2]
        step //= 2
        if not step:
            return best
        for place in (best - step, best + step):
            if abs(place) <= RANGE and place not in found:
                found[place] = accuracy(place)


@dataclass(frozen=True)
class Line:
    """A linear classifier: weight [K,D] and bias [K], float64."""

    weight: Tensor
    bias: Tensor

    def logits(self, features: Tensor) -> Tensor:
        """Return logits [N,K] of features [N,D]."""
        return features.to(self.weight) @ self.weight.T + self.bias

    def predictions(self, features: Tensor) -> Iterator[NDArray[np.float64]]:
        """Yield the logits [K] of each image."""
        for some in torch.split(features, ROWS):
            yield from self.logits(some).cpu().numpy()


def regression(data: Sequence[Features], classes: int, strength: float, iterations: int) -> Line:
    """Minimize the sum of the cross-entropies + strength / 2 × the sum of the squared weights, by L-BFGS.

    That is scikit-learn's `LogisticRegression` with C = 1 / strength. The bias has no penalty. Features are read from
    disk in each step.
    """
    count, first = sum(map(len, data)), next(iter(data[0].parts()))[0]
    device = torch.device("cpu") if first.device.type == "mps" else first.device  # MPS has no float64
    weight = torch.zeros(classes, first.shape[1], dtype=torch.float64, device=device, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, device=device, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=iterations, max_eval=2 * iterations, tolerance_grad=TOLERANCE,
        tolerance_change=1e-14, history_size=10, line_search_fn="strong_wolfe",
    )  # fmt: skip

    def loss() -> float:
        line, total = Line(weight.detach(), bias.detach()), 0.5 * strength * float(weight.detach().square().sum())
        slopes, shifts = strength * line.weight, torch.zeros_like(line.bias)
        for features, targets in _some(data):
            log = line.logits(features).log_softmax(1)
            places = torch.arange(len(log), device=device)
            total -= float(log[places, targets.to(device)].sum())
            error = log.exp()
            error[places, targets.to(device)] -= 1
            slopes = slopes + error.T @ features.to(error)
            shifts = shifts + error.sum(0)
        weight.grad, bias.grad = slopes / count, shifts / count
        return total / count

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return Line(weight.detach(), bias.detach())


def top1(line: Line, data: Features) -> float:
    """Return the share of images whose class has the largest logit, alone."""
    hits = 0
    for features, targets in _some([data]):
        logits = line.logits(features)
        truth = logits.gather(1, targets.to(logits.device)[:, None])
        hits += int(((logits >= truth).sum(1) == 1).sum())
    return hits / len(data)


def _some(data: Sequence[Features]) -> Iterator[tuple[Tensor, Tensor]]:
    for one in data:
        for features, targets in one.parts():
            yield from zip(torch.split(features, ROWS), torch.split(targets, ROWS), strict=True)


PRESET = LinearClassification(
    source="Radford et al., CLIP (arXiv 2103.00020), appendix A.3: logistic regression with L-BFGS",
    deviations=(
        "features are embeddings at unit length, as in clip-benchmark 1.6.2; the paper takes those of CLIP before the "
        "projection",
        "without validation images, every tenth training image chooses the strength",
        "features are rounded to float16",
        "a fit ends when no entry of the gradient of the mean loss exceeds 1e-6",
    ),
)
