"""The inputs of a run: dataset, label store, experts, columns, plan and benchmarks, each opened at first use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path

from clipzoo import experts, files, locations
from clipzoo.benchmarks import Benchmark, open_benchmark
from clipzoo.data import OnlineColumn, Plan, Where, check_captions, check_online, kept_plan
from clipzoo.errors import RecipeError
from clipzoo.evaluation.suite import PRESETS, Suite
from clipzoo.experts import Expert
from clipzoo.files import Place
from clipzoo.labeling.inputs import stages
from clipzoo.models import HeadSpec, Student
from clipzoo.plugins import hint
from clipzoo.progress import Progress
from clipzoo.readers import Reader, open_dataset
from clipzoo.recipe import ColumnRecipe, Recipe
from clipzoo.runs.before.preflight import REPORTED, SPLITS
from clipzoo.runs.folder import Folder
from clipzoo.store import Column, Manifest, Store


class Inputs:
    """Everything that a run reads; each property is opened at first use and kept.

    Args:
        recipe: complete.
        folder: of the run; packaged data and labels are stored in it.
        progress: receives what is being unpacked.
    """

    def __init__(self, recipe: Recipe, folder: Folder, progress: Progress) -> None:
        self.recipe, self.folder, self.progress = recipe, folder, progress

    @property
    def dataset(self) -> str:
        """The location of the captioned images."""
        return locations.resolve_data(self.recipe.location, self.folder.data, self.progress.step)

    @cached_property
    def reader(self) -> Reader:
        """The captioned dataset.

        Raises:
            DatasetError: it cannot be opened.
            RecipeError: its samples have no such field as one of ``training.captions``.
        """
        captions = self.recipe.training.captions
        reader = open_dataset(self.dataset, fields=tuple(captions))
        if reader.captions_optional:
            raise RecipeError(
                f"data: {self.recipe.location!r} has captions=optional, but training needs a caption for each image; "
                "remove the option, which is for benchmarks and labels"
            )
        check_captions(captions, reader)
        return reader

    def located(self, location: str) -> Place:
        """Return the folder of a location, unpacked or rendered if it is packaged."""
        return files.place(locations.resolve(location, self.folder.data, self.progress.step))

    def benchmark(self, location: str) -> Benchmark:
        """Return the benchmark at a location of ``evaluation``; packaged ones have their own layout."""
        if locations.provided(location):
            return open_benchmark(self.located(location))
        return open_benchmark(location, self.recipe.evaluation.layout)

    def shards(self) -> list[str] | None:
        """Return the shards that hold the first ``max_samples`` usable samples; None means all."""
        if self.recipe.max_samples is None:
            return None
        chosen, missing = [], self.recipe.max_samples
        for shard in self.reader.shards:
            chosen.append(shard)
            missing -= sum(entry.error is None for entry in self.reader.index(shard))
            if missing <= 0:
                break
        return chosen

    @property
    def store(self) -> Store:
        """The label store, of the recipe or in the folder; its columns may not exist yet."""
        return Store(self.recipe.store or self.folder.labels)

    @cached_property
    def experts(self) -> dict[str, Expert]:
        """URI -> expert of the recipe, not loaded; `ExpertError` if one cannot be created."""
        created = {c.expert: experts.create(c.expert) for c in self.recipe.columns if c.expert}
        for column in self.recipe.columns:
            if column.expert and column.online:
                check_online(created[column.expert])
        stages([expert for uri, expert in created.items() if uri not in self._online], self.store)
        return created

    def check_names(self, fields: Sequence[str]) -> None:
        """Raise the error of an expert or column that does not exist, of these fields of the recipe."""
        for field in fields:
            _, _, rest = field.partition("columns.")
            number, _, name = rest.partition(".")
            if not number.isdecimal() or int(number) >= len(self.recipe.columns):
                continue
            column = self.recipe.columns[int(number)]
            if name == "expert" and column.expert:
                experts.create(column.expert)
            elif name == "column" and column.column:
                self._stored(column.column)

    @property
    def _online(self) -> set[str]:
        """URIs of the experts that label during training."""
        return {column.expert for column in self.recipe.columns if column.expert and column.online}

    @property
    def labelers(self) -> list[Expert]:
        """The experts of the recipe whose labels are stored, not loaded."""
        return [expert for uri, expert in self.experts.items() if uri not in self._online]

    def online(self, device: str) -> dict[str, OnlineColumn]:
        """Return column name -> a column whose expert labels during training on ``device``."""
        return {
            name: OnlineColumn(self.experts[column.expert], device, column.stride)
            for name, (column, _) in self.specs.items()
            if column.expert and column.online
        }

    def unload_experts(self) -> None:
        """Release the experts and their weights; they are created again when they are needed."""
        self.__dict__.pop("experts", None)

    @cached_property
    def specs(self) -> dict[str, tuple[ColumnRecipe, HeadSpec]]:
        """Column name -> its recipe and the head that learns it; known before labeling.

        Raises:
            RecipeError: two columns of the recipe are the same column.
        """
        specs: dict[str, tuple[ColumnRecipe, HeadSpec]] = {}
        for column in self.recipe.columns:
            if column.expert:
                card = self.experts[column.expert].card
                name, task, convention = card.column, card.task, card.convention
            else:
                stored = self._stored(str(column.column))
                name, task, convention = stored.name, stored.task, stored.convention
            if name in specs:
                raise RecipeError(f"columns: {name} is listed twice; list each column once, with one head and loss")
            head = HeadSpec(
                task, convention, column.head, column.head_options, column.loss, column.loss_options,
                column.confidence_weight, column.trim,
            )  # fmt: skip
            specs[name] = (column, head)
        return specs

    def chosen(self, names: Sequence[str], field: str) -> list[str]:
        """Return the names of columns, in the order of the recipe, that are given by name, task or expert.

        Args:
            names: ``<task>/<slug>``, a task (all of its columns), or the URI of an expert.
            field: of the recipe or command line, for messages.

        Raises:
            RecipeError: a name fits no column.
        """
        keys = {name: {name, name.partition("/")[0], column.expert} for name, (column, _) in self.specs.items()}
        for given in names:
            if not any(given in one for one in keys.values()):
                raise RecipeError(
                    f"{field} has {given!r}, which is no column of the recipe; {hint(given, list(keys))}. Give the "
                    "name of a column, a task or the URI of an expert"
                )
        return [name for name, one in keys.items() if one & set(names)]

    @cached_property
    def columns(self) -> dict[str, tuple[ColumnRecipe, Column]]:
        """Column name -> its recipe and its labels, without online columns."""
        return {name: (column, self._stored(name)) for name, (column, _) in self.specs.items() if not column.online}

    def manifests(self) -> dict[str, Manifest]:
        """Return column name -> its manifest; that of an online column has no counts."""
        unstored = {name: Manifest.of(one.expert.card, {}) for name, one in self.online("cpu").items()}
        return {name: unstored.get(name) or self._stored(name).manifest for name in self.specs}

    def _stored(self, name: str) -> Column:
        task, _, slug = name.partition("/")
        return self.store.column(task, slug)

    def unlabeled(self) -> list[str]:
        """Return the names of the columns for which an expert has shards to label."""
        shards = set(self.shards() or self.reader.shards)
        complete = {column.name for column in self.store.columns() if shards <= column.committed()}
        made = [name for name, (column, _) in self.specs.items() if column.expert and not column.online]
        return [name for name in made if name not in complete]

    @cached_property
    def plan(self) -> Plan:
        """Images joined with labels.

        Raises:
            CheckpointError: dataset or labels changed after arms were trained on them, or the plan's files are damaged.
        """
        columns = {name: column for name, (_, column) in self.columns.items()}
        plan = kept_plan(self.folder.path, self.reader, columns, partial(self.join, columns), self.folder.trained)
        for line in plan.summary():
            self.progress.stage(line)
        return plan

    def join(self, columns: Mapping[str, Column], path: Path | None = None) -> Plan:
        """Join images with the labels of these columns; the plan is written to ``path`` if given, else to memory.

        Raises:
            RecipeError: labels are to be weighted by a confidence that none of them has.
        """
        for name, column in columns.items():
            power = self.specs[name][0].confidence_weight
            if power is not None and not _has_confidence(column):
                raise RecipeError(
                    f"columns: confidence_weight of {name} is {power:g}, but its labels have no "
                    "confidence, because its expert reports none. Remove confidence_weight"
                )
        floors = {
            name: column.min_confidence for name, (column, _) in self.specs.items() if column.min_confidence is not None
        }
        where = {name: Where.parse(column.where) for name, (column, _) in self.specs.items() if column.where}
        return Plan.build(
            self.reader,
            columns,
            min_confidence=floors,
            where=where,
            max_samples=self.recipe.max_samples,
            path=path,
            progress=self.progress,
        )


def open_suite(inputs: Inputs, student: Student) -> Suite:
    """Open the benchmarks of a recipe.

    Args:
        inputs: of the run; its progress receives how many samples cannot be used.
        student: whose image size and crop the pictures get.
    """
    evaluation, progress = inputs.recipe.evaluation, inputs.progress
    locations = {split: getattr(evaluation, split) for split in SPLITS}
    benchmarks = {split: inputs.benchmark(location) for split, location in locations.items() if location}
    suite = Suite.of(benchmarks, student.image_size, evaluation.label_stride, evaluation.layers, student.crop)
    if evaluation.open_vocabulary:
        suite.check_prompted()
    for split, reasons in suite.left_out.items():
        if reasons:
            most = max(reasons, key=lambda reason: reasons[reason])
            progress.stage(f"{split}: {sum(reasons.values())} samples cannot be used. Most common reason: {most}")
    if "test" in suite.dense and not suite.probed and not evaluation.open_vocabulary:
        progress.stage("the true labels of test are not used: probes need evaluation.probe and evaluation.validation")
    return suite


def reported_splits(recipe: Recipe) -> list[str]:
    """Return the splits of a recipe that are reported: ``test`` and ``heldout``, if it has them."""
    return [split for split in REPORTED if getattr(recipe.evaluation, split)]


def versioned_preset(recipe: Recipe) -> str:
    """Return the preset of the measurements with its version; scores of another one do not count."""
    name = recipe.evaluation.preset
    return f"{name}, version {PRESETS[name]}"


def _has_confidence(column: Column) -> bool:
    """Return True if any label of a column has a confidence."""
    return any(rows["confidence"].null_count < len(rows) for rows in map(column.rows, sorted(column.committed())))
