"""Hypotheses that compete for an expert's labels: which one explains them, and whether that is clear.

Experts err, and know only pictures like those they were trained on; so no single number is trusted. The right
hypothesis and each wrong one are scored on every picture, and one is believed where it is better than the others on
nearly all of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from clipzoo.conformance.card import Verdict

STEADY = 4.0
"""The mean of paired differences of two hypotheses over pictures, in its standard errors, that is no accident."""

CHANCE = 0.02
"""How probable it may be that equal hypotheses win and lose so many pictures (sign test, one-sided)."""

LEAST = 6
"""Pictures that a contest takes: fewer cannot pass the sign test."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Wrong(Generic[T]):
    """A hypothesis under which an expert is wrong: what is, the fix, and ``how`` its labels are to be read then."""

    cause: str
    fix: str
    how: T


@dataclass(frozen=True, slots=True)
class Outcome:
    """Who won: 0 is the right hypothesis; ``clear`` if the others are clearly worse.

    Where a wrong one won, ``clear`` says that it beats the right one. ``means`` are the scores over ``pictures``.
    """

    best: int
    clear: bool
    means: NDArray[np.float64]
    pictures: int


def contest(scores: Sequence[Sequence[float]], margin: float) -> Outcome:
    """Which hypothesis explains the pictures best.

    Args:
        scores: [N pictures][hypotheses], the right one first; larger is better. Rows with a NaN are left out.
        margin: the mean difference below which two hypotheses are equally good, whatever their errors.
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
    """Whether ``gaps`` [N] are larger than 0: by their mean or by their signs, by both to be ``strict``."""
    mean, error = float(gaps.mean()), float(gaps.std(ddof=1)) / math.sqrt(len(gaps))
    won, lost = np.count_nonzero(gaps > 1e-9), np.count_nonzero(gaps < -1e-9)
    chance = sum(math.comb(won + lost, k) for k in range(lost + 1)) / 2 ** (won + lost)
    tests = mean > STEADY * error, chance < CHANCE
    return mean > margin and (all(tests) if strict else any(tests))


def judged(line: str, outcome: Outcome, wrongs: Sequence[Wrong[T]], what: str, least: float = -np.inf) -> Verdict:
    """The verdict of a contest: ``what`` names its score; below ``least``, the right hypothesis explains little."""
    if outcome.pictures < LEAST:
        return Verdict(line, "unsure", f"only {outcome.pictures} pictures say anything; give {LEAST} or more")
    right, of = outcome.means[0], f"over {outcome.pictures} pictures"
    if outcome.best:
        wrong = wrongs[outcome.best - 1]
        seen = f"{what} {right:.2f} as it is, {outcome.means[outcome.best]:.2f} if {wrong.cause}, {of}"
        if outcome.clear:
            return Verdict(line, "fail", seen, wrong.cause, wrong.fix)
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
    return "nothing explains the labels well", "look at some labels: clipzoo label a few pictures, then clipzoo inspect"
