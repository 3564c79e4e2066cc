"""The public class `Run`: a recipe and its folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path

from clipzoo import locations, model_schemes
from clipzoo.data import Plan, check_mixture
from clipzoo.evaluation.measure import Scored
from clipzoo.evaluation.suite import Suite
from clipzoo.experts import Expert
from clipzoo.files import AnyPath
from clipzoo.models import HeadSpec, Student, check_layers, weights_are_local
from clipzoo.progress import Progress, Silent
from clipzoo.readers import Reader
from clipzoo.recipe import ColumnRecipe, Recipe
from clipzoo.runs.before.preflight import check_prompted, check_splits
from clipzoo.runs.folder import Folder
from clipzoo.runs.inputs import Inputs
from clipzoo.runs.interpolation import BEST, Interpolations
from clipzoo.runs.scores import Scores
from clipzoo.runs.trainings import Trainings
from clipzoo.store import Column, Store
from clipzoo.training import check_joined, check_settings
from clipzoo.training.processes.sharding import check_batch, check_student


class Run:
    """A recipe and its folder. Everything is made at first use and reused by later calls and processes.

    Args:
        recipe: complete.
        out: the folder, on a disk.
        progress: receives what is being done.
        device: as torch names it.
        scratch: for a dry run: nothing is written into ``out``, no weights of the student are downloaded, and packaged
            data is unpacked into this folder.

    Attributes:
        recipe, progress, device: as given.
        folder: paths and lock.
        inputs: dataset, store, experts, columns and plan.
        trainings: students, learning rates and steps.

    Raises:
        ClipzooError: a new recipe has a mistake, or the folder holds arms that were trained with another recipe.
    """

    def __init__(
        self,
        recipe: Recipe,
        out: AnyPath,
        progress: Progress | None = None,
        device: str = "cpu",
        scratch: Path | None = None,
    ) -> None:
        check_joined()
        check_batch(recipe.training)
        self.recipe, self.progress, self.device = recipe, progress or Silent(), device
        self.folder = Folder(out, scratch)
        if self.folder.base:
            self.folder.base.check(recipe, self.folder.path)
        changed = self.folder.differences(recipe)
        self.inputs = Inputs(recipe, self.folder, self.progress)
        self.trainings = Trainings(self.inputs, device)
        if changed is None or changed:
            self._preflight()
            if scratch is None:
                self.folder.adopt(recipe, changed or {})

    def _preflight(self) -> None:
        """Find mistakes of a new recipe before hours of labeling and training."""
        packaged = locations.provided(self.recipe.location)
        check_mixture(self.recipe.training.mixture, () if packaged else self.inputs.reader.shards)
        check_splits(self.recipe)
        check_prompted(self.recipe)
        for name, chosen in self.recipe.variants.items():
            self.inputs.chosen(chosen, f"variants.{name}")
        student, evaluation = self.recipe.student, self.recipe.evaluation
        on_disk = weights_are_local(model_schemes.resolve(student.model), student.pretrained)
        random = self.folder.scratch is not None and not on_disk  # a dry run downloads no weights
        start = self.start("clipzoo" if "clipzoo" in self.recipe.arms else "clip", random=random)
        check_settings(self.recipe.training, start)
        check_student(self.recipe.training, start)
        if evaluation.open_vocabulary:
            start.check_dense(evaluation.open_vocabulary)
        if evaluation.probe:
            check_layers(start, evaluation.layers, "evaluation.layers")

    @property
    def out(self) -> Path:
        """The folder of the run."""
        return self.folder.path

    def folder_of(self, arm: str, seed: int) -> Path:
        """Return the folder in which an arm is trained from a seed."""
        return self.folder.training(arm, seed)

    def writing(self) -> AbstractContextManager[None]:
        """Hold the lock of the folder in a ``with`` block; `CheckpointError` if another process holds it."""
        return self.folder.writing()

    @property
    def reader(self) -> Reader:
        """The captioned dataset; `DatasetError` if it cannot be opened."""
        return self.inputs.reader

    @property
    def store(self) -> Store:
        """The label store; its columns may not exist yet."""
        return self.inputs.store

    @property
    def experts(self) -> Mapping[str, Expert]:
        """URI -> expert of the recipe, not loaded; `ExpertError` if one cannot be created."""
        return self.inputs.experts

    @property
    def specs(self) -> Mapping[str, tuple[ColumnRecipe, HeadSpec]]:
        """Column name -> its recipe and the head that learns it."""
        return self.inputs.specs

    @property
    def columns(self) -> Mapping[str, tuple[ColumnRecipe, Column]]:
        """Column name -> its recipe and its labels."""
        return self.inputs.columns

    @property
    def plan(self) -> Plan:
        """Images joined with labels; `CheckpointError` if these changed after arms were trained on them."""
        return self.inputs.plan

    def start(self, arm: str = "clip", seed: int = 0, random: bool = False) -> Student:
        """Return the student before training; that of ``clipzoo`` has heads, drawn from the seed."""
        return self.trainings.start(arm, seed, random)

    def train(self, arm: str, seed: int) -> Student:
        """Return the trained student of an arm and seed; train it first if necessary."""
        return self.trainings.train(arm, seed)

    def steps(self, samples: int | None = None) -> int:
        """Return the updates of each training; ``samples`` of one epoch default to those of the plan."""
        return self.trainings.steps(samples)

    @property
    def suite(self) -> Suite:
        """The benchmarks of the recipe, read for its student."""
        return self.trainings.suite

    @cached_property
    def measured(self) -> Scores:
        """Scores, probes and baselines."""
        return Scores(self.trainings)

    @cached_property
    def interpolations(self) -> Interpolations:
        """The interpolated students of the recipe's ``interpolation``."""
        return Interpolations(self.measured)

    def scores(self, arm: str, seed: int) -> Mapping[str, Mapping[str, Scored]]:
        """Return split -> group -> scores of a trained arm, or of an interpolated one such as ``clipzoo-best``."""
        if arm.endswith(BEST):
            return self.interpolations.scores(arm.removesuffix(BEST), seed)
        return self.measured.arm(arm, seed)

    def baselines(self, splits: Sequence[str]) -> dict[str, dict[str, dict[str, Scored]]]:
        """Return split -> baseline -> group -> scores."""
        return self.measured.baselines(splits)
