"""The interpolated students of a run: one for each training that the recipe names."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from clipzoo.errors import CheckpointError, RecipeError, shell_word
from clipzoo.evaluation.arms import RowScores
from clipzoo.evaluation.probes.probe import Probes
from clipzoo.evaluation.scores import STUDENT
from clipzoo.evaluation.tradeoff import Tradeoff, tradeoff
from clipzoo.models import Student
from clipzoo.recipe import InterpolationRecipe
from clipzoo.runs.interpolation.sweep import (
    BEST,
    RECORD,
    Between,
    Splits,
    between,
    check_suite,
    sweep,
    write_best,
    write_record,
)
from clipzoo.runs.scores import Scores
from clipzoo.runs.trainings import digest
from clipzoo.training import ended


class Interpolations:
    """The interpolated students of a run.

    Args:
        scores: of the run.
    """

    def __init__(self, scores: Scores) -> None:
        self.all, self.trainings, self.suite = scores, scores.trainings, scores.suite
        self.recipe, self.folder, self.progress = scores.inputs.recipe, scores.inputs.folder, scores.progress
        self.sweep = cache(self._sweep)

    @property
    def arms(self) -> tuple[str, ...]:
        """The arms that the recipe interpolates."""
        settings = self.recipe.interpolation
        return tuple(arm for arm in self.recipe.arms if settings is not None and arm in settings.arms)

    @property
    def settings(self) -> InterpolationRecipe:
        """Those of the recipe; `RecipeError` if it has none."""
        if self.recipe.interpolation is None:
            raise RecipeError(
                "the recipe has no interpolation: run `clipzoo interpolate` on the run's folder, or add "
                "`interpolation: {}` to the recipe"
            )
        return self.recipe.interpolation

    def check(self) -> None:
        """Raise `RecipeError` if validation cannot choose a student."""
        check_suite(self.suite, "evaluation.")

    def check_trained(self, arm: str, seed: int) -> None:
        """Raise `CheckpointError` unless the training of an arm and seed has ended."""
        if not ended(self.folder.training(arm, seed)):
            raise CheckpointError(
                f"{self.folder.path} has no trained student of the arm {arm!r} with seed {seed}, so there is nothing "
                f"to interpolate: run `clipzoo train {shell_word(self.folder.path)} --arm {arm} --seed {seed}` first"
            )

    def student(self, arm: str, seed: int) -> Student:
        """Return the interpolated student that validation chose."""
        return self._between(arm, seed)(self.sweep(arm, seed).best.alpha)

    def scores(self, arm: str, seed: int) -> dict[str, RowScores]:
        """Return split -> scores of the chosen student on the reported splits."""
        alpha = self.sweep(arm, seed).best.alpha
        if alpha in (0, 1):
            return dict(self.all.arm(arm, seed) if alpha else self.all.arm("clip", 0))
        folder = self.folder.scores(f"{arm}{BEST}", seed)
        splits, identity = self.all.splits, self._identity(arm, seed, alpha)

        def measure() -> Splits:
            self.progress.stage(f"measuring {arm}{BEST}, seed {seed} (α = {alpha:g})")
            return self.suite.measure(self.student(arm, seed), splits)

        kept = self.all.kept(folder, measure, splits, identity)
        return dict(self.all.with_prompted(kept, f"{arm}{BEST}", seed, lambda: self.student(arm, seed), identity))

    def tested(self, arm: str, seed: int) -> Tradeoff | None:
        """Return the chosen student between start and end on test; None if its measures were not measured there."""
        found = self.sweep(arm, seed)
        scored: dict[float, Splits] = {0.0: self.all.arm("clip", 0), found.best.alpha: self.scores(arm, seed)}
        scored[1.0] = self.all.arm(arm, seed)
        return tradeoff({alpha: of.get("test", {}) for alpha, of in scored.items()}, found.max_loss)

    def _sweep(self, arm: str, seed: int) -> Tradeoff:
        """Measure every α on validation, and write the chosen student and the record."""
        self.check_trained(arm, seed)
        folder = self.folder.training(arm, seed)
        student = self._between(arm, seed)

        def kept(alpha: float, measure: Callable[[], Splits]) -> Splits:
            name = f"{arm}-{seed}-{alpha:g}" if alpha else "start"
            identity = self._identity(arm, seed, alpha) if alpha else {}
            return self.all.kept(self.folder.scores("interpolation", name), measure, ["validation"], identity)

        def fitted(alpha: float) -> Probes | None:
            ends = {0: ("clip", 0), 1: (arm, seed)}
            return self.all.probes(*ends[int(alpha)]) if alpha in ends else None

        label = f"{arm}, seed {seed}"
        found = sweep(self.suite, student, self.settings, kept, self.progress, label, fitted)
        write_best(self.folder.best(arm, seed), found, student, self._identity(arm, seed, found.best.alpha))
        write_record(folder / RECORD, found)
        return found

    def _identity(self, arm: str, seed: int, alpha: float) -> dict[str, str]:
        return {STUDENT: digest(self.folder.training(arm, seed) / "student"), "alpha": f"{alpha:g}"}

    def _between(self, arm: str, seed: int) -> Between:
        @cache
        def start() -> Student:
            return self.trainings.start().to(self.trainings.device).eval()

        @cache
        def end() -> Student:
            return self.trainings.train(arm, seed)

        return between(start, end)
