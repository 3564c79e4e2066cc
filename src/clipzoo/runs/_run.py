"""The public class `Run`: a recipe and its folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from clipzoo import locations, model_schemes
from clipzoo.data import Plan, check_mixture
from clipzoo.data.kept_plan import differing
from clipzoo.errors import CheckpointError
from clipzoo.evaluation.measure import Scored
from clipzoo.evaluation.suite import Suite
from clipzoo.experts import Expert
from clipzoo.files import AnyPath
from clipzoo.models import HeadSpec, Student, check_layers, uncertain_preprocessing, weights_are_local
from clipzoo.progress import Progress, Silent
from clipzoo.readers import Reader
from clipzoo.recipe import ColumnRecipe, Recipe
from clipzoo.runs.before.preflight import check_prompted, check_splits
from clipzoo.runs.folder import Folder, SavedRecipe
from clipzoo.runs.inputs import Inputs
from clipzoo.runs.interpolation import BEST, Interpolations
from clipzoo.runs.scores import Scores
from clipzoo.runs.trainings import Trainings
from clipzoo.runs.variants import Variant, check_variants, variant_of
from clipzoo.store import Column, Store
from clipzoo.training import check_joined, check_settings, check_stride, ended
from clipzoo.training.processes import ranks
from clipzoo.training.processes.sharding import check_batch, check_student
from clipzoo.training.updates import exact


class Run:
    """A recipe and its folder. Everything is made at first use and reused by later calls and processes.

    The folder gets the recipe, and loses what no longer belongs to it, under its lock, before the first other change.

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
        exact.prepare(recipe.training.deterministic)
        check_batch(recipe.training)
        self._named: dict[str, Run] = {}
        self.recipe, self.progress, self.device = recipe, progress or Silent(), device
        self.folder = Folder(out, scratch)
        if self.folder.base:
            self.folder.base.check(recipe, self.folder.path)
        self.inputs = Inputs(recipe, self.folder, self.progress)
        self._saved = SavedRecipe(self.folder, recipe, self.inputs.check_names)
        self.trainings = Trainings(self.inputs, device)
        if self._saved.outdated and ranks.is_main():
            self._preflight()

    def _preflight(self) -> None:
        """Find mistakes of a new recipe before hours of labeling and training."""
        packaged = locations.provided(self.recipe.location)
        check_mixture(self.recipe.training.mixture, () if packaged else self.inputs.reader.shards)
        check_splits(self.recipe)
        check_prompted(self.recipe)
        check_variants(self.inputs)
        student, evaluation = self.recipe.student, self.recipe.evaluation
        on_disk = weights_are_local(model_schemes.resolve(student.model), student.pretrained)
        random = self.folder.scratch is not None and not on_disk  # a dry run downloads no weights
        arm = "clipzoo" if "clipzoo" in self.recipe.arms else "clip"
        start = self.start(arm, random=random)
        check_layers(start, student.layers, "student.layers")
        if note := uncertain_preprocessing(student.model, student.pretrained):
            self.progress.stage(note)
        check_settings(self.recipe.training, start)
        for name, (column, _) in self.specs.items() if arm == "clipzoo" else ():
            check_stride(f"stride of {name}", column.stride, self.recipe.training.height_widths or (start.image_size,))
        check_stride("evaluation.label_stride", evaluation.label_stride, (start.image_size,))
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
        if arm in self.recipe.named_arms:
            return self.variant_folder(self._variant(arm)).training("clipzoo", seed)
        return self.folder.training(arm, seed)

    def _variant(self, arm: str) -> Variant:
        return variant_of(self.inputs, arm, self.recipe.variants[arm])

    def variant_folder(self, variant: Variant) -> Folder:
        """Return the folder of a subset of the columns; all of them are this run."""
        return Folder(self.out / "ablations" / variant.folder) if variant.folder else self.folder

    def variant(self, variant: Variant) -> Run:
        """Return the run of a subset of the columns, which takes data, labels and the arms without labels from this."""
        if not variant.folder:
            return self
        self.adopt()
        folder = self.variant_folder(variant)
        folder.share(self.folder, ["clip", "clip-ft"] if "clip-ft" in self.recipe.arms else ["clip"], rates=True)
        values = self.recipe.model_dump(mode="json")
        kept = [values["columns"][i] for i, name in enumerate(self.specs) if name in variant.columns]
        values |= {"columns": kept, "name": f"{self.recipe.name}-{variant.folder}", "variants": {}}
        values["arms"] = [arm for arm in self.recipe.arms if arm not in self.recipe.named_arms]
        run = Run(Recipe.model_validate(values), folder.path, self.progress, self.device)
        if "suite" in self.trainings.__dict__:
            run.trainings.suite = self.suite
        return run

    def named(self, arm: str) -> Run | None:
        """Return the run whose arm ``clipzoo`` is a named arm of this one; None for other arms."""
        if arm not in self.recipe.named_arms:
            return None
        if arm not in self._named:
            self._named[arm] = self.variant(self._variant(arm))
        return self._named[arm]

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the lock of the folder in a ``with`` block.

        Raises:
            CheckpointError: another process holds it, or has changed the recipe since this run was opened.
        """
        with self.folder.writing():
            self._saved.check()
            yield

    def adopt(self) -> None:
        """Write the recipe into the folder, unless it has it; errors as of `writing`. A dry run writes nothing."""
        if self._saved.outdated and self.folder.scratch is None:
            with self.writing():
                self._saved.adopt()

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
        self.adopt()
        return self.inputs.plan

    def check_plan(self) -> None:
        """Raise `CheckpointError` if this run was trained on other data or labels than the run that it belongs to."""
        base = self.folder.base
        changed = differing(self.folder.path, base.folder.path) if base and self.folder.trained else []
        if base and changed:
            raise CheckpointError(
                f"the arms in {self.folder.path} were trained on other data or labels ({', '.join(changed)}) than "
                f"those of {base.folder.path}, so they cannot be compared. Delete {self.folder.path} to train again"
            )

    def start(self, arm: str = "clip", seed: int = 0, random: bool = False) -> Student:
        """Return the student before training; that of ``clipzoo`` has heads, drawn from the seed."""
        return self.trainings.start(arm, seed, random)

    def train(self, arm: str, seed: int) -> Student:
        """Return the trained student of an arm and seed; train it first if necessary."""
        self.adopt()
        if run := self.named(arm):
            self.rate(arm)  # that of clipzoo, chosen with all columns
            with run.writing():
                return run.train("clipzoo", seed)
        return self.trainings.train(arm, seed)

    def rate(self, arm: str) -> float:
        """Return the learning rate of a trained arm; that of a named arm is that of ``clipzoo``."""
        self.adopt()
        return self.trainings.rate("clipzoo" if arm in self.recipe.named_arms else arm)

    def remaining(self) -> list[tuple[str, int]]:
        """Return (arm, seed) of the trainings that are not finished; those of named arms last."""
        named = [(arm, seed) for arm in self.recipe.named_arms for seed in self.recipe.seeds]
        return self.trainings.remaining() + [one for one in named if not ended(self.folder_of(*one))]

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
        self.adopt()
        if arm.endswith(BEST):
            return self.interpolations.scores(arm.removesuffix(BEST), seed)
        if run := self.named(arm):
            with run.writing():
                run.check_plan()
                return run.scores("clipzoo", seed)
        return self.measured.arm(arm, seed)

    def baselines(self, splits: Sequence[str]) -> dict[str, dict[str, dict[str, Scored]]]:
        """Return split -> baseline -> group -> scores."""
        self.adopt()
        return self.measured.baselines(splits)
