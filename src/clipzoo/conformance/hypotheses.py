"""Comparison of hypotheses about an expert's labels: the best one, and whether it is significantly better.

Experts make errors and generalize only to pictures like those of their training, so no single number is trusted. The
hypothesis that the labels follow the contract and each possible fault are scored on every picture. One is accepted
only if it scores higher than the others on nearly all pictures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from clipzoo.conformance.report import Verdict
from clipzoo.errors import counted

SIGNIFICANT = 4.0
"""Significant mean of the paired differences of two hypotheses over pictures, in standard errors."""

SIGN_LEVEL = 0.02
"""Significance level of the one-sided sign test over pictures."""

LEAST = 6
"""Minimum number of pictures: fewer cannot pass the sign test."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Fault(Generic[T]):
    """A possible fault of an expert.

    Attributes:
        cause: the fault in a few words.
        fix: how to fix it.
        reading: how labels with this fault must be read to be correct.
    """

    cause: str
    fix: str
    reading: T


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of a comparison.

    Attributes:
        best: index of the best hypothesis; 0 is the correct one, i + 1 the i-th fault.
        clear: the best is significantly better: the correct one than every fault, or a fault than the correct one.
        means: mean score of each hypothesis.
        pictures: number of pictures compared.
    """

    best: int
    clear: bool
    means: NDArray[np.float64]
    pictures: int


def compare(scores: Sequence[Sequence[float]], margin: float) -> Outcome:
    """Return the best hypothesis, and whether it is significantly better.

    Args:
        scores: [N pictures][hypotheses], the correct one first; larger is better. Rows with a NaN are left out.
        margin: the mean difference below which two hypotheses are equally good.
    """
    rows = np.array(scores, np.float64).reshape(len(scores), -1)
    rows = rows[np.isfinite(rows).all(1)]
    if len(rows) < LEAST:
        return Outcome(0, False, rows.mean(0) if len(rows) else np.full(rows.shape[1], np.nan), len(rows))
    means = rows.mean(0)
    best = int(means.argmax())
    rivals = [0] if best else range(1, rows.shape[1])
    clear = all(_clear(rows[:, best] - rows[:, i], margin, strict=best > 0) for i in rivals)
    return Outcome(best, clear, means, len(rows))


def _clear(gaps: NDArray[np.float64], margin: float, strict: bool) -> bool:
    """Return True if ``gaps`` [N] are larger than 0 by their mean or their signs; ``strict`` requires both."""
    mean, error = float(gaps.mean()), float(gaps.std(ddof=1)) / math.sqrt(len(gaps))
    won, lost = np.count_nonzero(gaps > 1e-9), np.count_nonzero(gaps < -1e-9)
    chance = sum(math.comb(won + lost, k) for k in range(lost + 1)) / 2 ** (won + lost)
    tests = mean > SIGNIFICANT * error, chance < SIGN_LEVEL
    return mean > margin and (all(tests) if strict else any(tests))


def to_verdict(line: str, outcome: Outcome, faults: Sequence[Fault[T]], what: str, least: float = -np.inf) -> Verdict:
    """Return the verdict of a comparison of scores named ``what``; a contract score below ``least`` is a warning."""
    pictures = counted(outcome.pictures, "picture")
    if outcome.pictures < LEAST:
        return Verdict(line, "unsure", f"only {pictures} can be used; give {LEAST} or more")
    right, of = outcome.means[0], f"over {pictures}"
    if outcome.best:
        fault = faults[outcome.best - 1]
        seen = f"{what} {right:.2f} as it is, {outcome.means[outcome.best]:.2f} if {fault.cause}, {of}"
        if outcome.clear:
            return Verdict(line, "fail", seen, fault.cause, fault.fix)
        return Verdict(line, "unsure", f"{seen}: the difference is not clear")
    seen = f"{what} {right:.2f} {of}"
    if len(outcome.means) > 1:
        seen += f"; the next best explanation {np.delete(outcome.means, 0).max():.2f}"
    if not outcome.clear:
        return Verdict(line, "unsure", f"{seen}: the difference is not clear")
    return Verdict(line, "warn" if right < least else "pass", seen, *_weak(right, least))


def _weak(right: float, least: float) -> tuple[str, ...]:
    if right >= least:
        return ()
    return (
        "no hypothesis explains the labels well",
        "view some labels: clipzoo label a few pictures, then clipzoo inspect",
    )
