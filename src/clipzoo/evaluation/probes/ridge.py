"""Ridge regression in closed form from sums over rows: constant memory, one factorization for all strengths.

With features X centered on the mean of the fit, targets Y likewise, and the eigendecomposition XᵀX = V S Vᵀ,
the weights of strength λ are V (S + λ)⁻¹ Vᵀ Xᵀ Y (Hastie, Tibshirani, Friedman, *The Elements of Statistical
Learning*, §3.4.1). The squared error on another set follows from the sums of that set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

STRENGTHS = tuple(10.0**exponent for exponent in range(-5, 2))
"""Default strengths, relative to the number of rows (the diagonal of XᵀX if features are standardized)."""


@dataclass
class Moments:
    """Weighted sums over rows, float64 on the CPU.

    ``n`` Σw, ``x`` Σwx [D], ``y`` Σwy [O], ``xx`` Σwxxᵀ [D,D], ``xy`` Σwxyᵀ [D,O], ``yy`` Σw|y|².
    """

    n: float
    x: Tensor
    y: Tensor
    xx: Tensor
    xy: Tensor
    yy: float

    @classmethod
    def zero(cls, features: int, outputs: int) -> Moments:
        """Return the sums over no rows for ``features`` inputs and ``outputs`` outputs."""
        shapes = (features,), (outputs,), (features, features), (features, outputs)
        x, y, xx, xy = (torch.zeros(shape, dtype=torch.float64) for shape in shapes)
        return cls(0.0, x, y, xx, xy, 0.0)

    def add(
        self, X: Tensor, Y: Tensor, weight: Tensor, columns: Tensor | None = None, gram: Tensor | None = None
    ) -> None:
        """Add rows; the products of one call are summed in the dtype of X.

        Args:
            X: inputs [n,D].
            Y: outputs [n,O'].
            weight: of the rows, [n].
            columns: indices [O'] of the outputs in Y; the others are 0. By default Y has all of them.
            gram: Σxxᵀ [D,D] in float64 if it is known and all weights are 1.
        """
        weighted = X * weight[:, None]
        self.n += float(weight.double().sum())
        self.x += weighted.sum(0).double().cpu()
        self.xx += (weighted.T @ X).double().cpu() if gram is None else gram
        self.yy += float((weight @ Y.square()).double().sum())
        y, xy = (weight @ Y).double().cpu(), (weighted.T @ Y).double().cpu()
        if columns is None or len(columns) == len(self.y):
            self.y += y
            self.xy += xy
        else:
            self.y.index_add_(0, columns, y)
            self.xy.index_add_(1, columns, xy)

    def standardize(self, shift: Tensor, factor: Tensor) -> None:
        """Make these the sums of inputs (x − shift [D]) · factor [D]."""
        xx, xy, _ = self.around(shift, torch.zeros_like(self.y))
        self.x = (self.x - self.n * shift) * factor
        self.xx, self.xy = xx * torch.outer(factor, factor), xy * factor[:, None]

    def around(self, x0: Tensor, y0: Tensor) -> tuple[Tensor, Tensor, float]:
        """Return (Σw x'x'ᵀ, Σw x'y'ᵀ, Σw|y'|²) of x' = x − x0 [D] and y' = y − y0 [O]."""
        cross = torch.outer(x0, self.x)
        xx = self.xx - cross - cross.T + self.n * torch.outer(x0, x0)
        xy = self.xy - torch.outer(x0, self.y) - torch.outer(self.x - self.n * x0, y0)
        return xx, xy, self.yy - 2 * float(y0 @ self.y) + self.n * float(y0 @ y0)


@dataclass(frozen=True)
class Ridge:
    """The map y = x @ weight [D,O] + bias [O], float32; ``errors`` holds strength -> validation error."""

    weight: Tensor
    bias: Tensor
    strength: float
    errors: dict[float, float]

    def __call__(self, X: Tensor) -> Tensor:
        """Map X [n,D] to [n,O]."""
        return torch.addmm(self.bias, X, self.weight)


def solve(train: Moments, validation: Moments, strengths: Sequence[float] = STRENGTHS) -> Ridge:
    """Fit ``train`` with the strength of the smallest mean squared error on ``validation``.

    A strength is relative to the weight of all rows: λ = strength · Σw.
    """
    n = max(train.n, 1e-12)
    x0, y0 = train.x / n, train.y / n
    xx, xy, _ = train.around(x0, y0)
    S, V = torch.linalg.eigh(xx)
    P = V.T @ xy
    shrink = {s: 1 / (S.clamp_min(0) + max(s * n, 1e-12)) for s in strengths}
    errors = _errors(validation, x0, y0, V, P, shrink)
    best = min(errors, key=lambda s: errors[s])
    weight = V @ (shrink[best][:, None] * P)
    return Ridge(weight.float(), (y0 - x0 @ weight).float(), best, errors)


def _errors(
    validation: Moments, x0: Tensor, y0: Tensor, V: Tensor, P: Tensor, shrink: dict[float, Tensor]
) -> dict[float, float]:
    """Return strength -> mean squared error on validation."""
    xx, xy, yy = validation.around(x0, y0)
    linear = (P * (V.T @ xy)).sum(1)
    square = (V.T @ xx @ V) * (P @ P.T)
    n = max(validation.n, 1e-12) * P.shape[1]
    return {s: (yy - 2 * float(g @ linear) + float(g @ square @ g)) / n for s, g in shrink.items()}
