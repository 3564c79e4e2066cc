"""The scores of a run: of every arm and seed and of the baselines, measured once and kept in its folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa

from clipzoo import files
from clipzoo.benchmarks import Split, column_labels, split_of
from clipzoo.data import Where, entry_of, joining
from clipzoo.errors import ClipzooError
from clipzoo.evaluation.measure import OPEN_VOCABULARY, Scored
from clipzoo.evaluation.probes.probe import Probes
from clipzoo.evaluation.scores import LAYERS, STRIDE, STUDENT, kept_scores
from clipzoo.evaluation.suite import Suite
from clipzoo.experts import Expert
from clipzoo.models import Student
from clipzoo.readers import Entry, Reader
from clipzoo.recipe import ColumnRecipe
from clipzoo.runs.before.preflight import TRAINED
from clipzoo.runs.inputs import reported_splits, versioned_preset
from clipzoo.runs.trainings import Trainings
from clipzoo.types import decode_image

T = TypeVar("T")
PSEUDO = 2000
"""Pseudo-labeled pictures that the row "more labels" adds to the true labels of the probe split."""

Groups = Mapping[str, Scored]
"""Group of measures -> scores."""


class Scores:
    """The scores of a run.

    Args:
        trainings: of the run; an arm that is measured is trained first if necessary.
    """

    def __init__(self, trainings: Trainings) -> None:
        self.trainings, self.inputs, self.progress = trainings, trainings.inputs, trainings.progress
        self._probed = lru_cache(maxsize=2)(self._fit)  # two arms of one seed are shown side by side on the page

    @property
    def suite(self) -> Suite:
        """The measurements."""
        return self.trainings.suite

    @property
    def splits(self) -> list[str]:
        """The splits that are reported."""
        return reported_splits(self.inputs.recipe)

    def _fit(self, arm: str, seed: int) -> tuple[Student, Probes | None]:
        """Return a student and its fitted probes; None if there are no true labels."""
        student = self.trainings.train(arm, seed)
        return student, self._measured(student, arm, seed, lambda: self.suite.probes(student))

    def _measured(self, student: Student, arm: str, seed: int, measure: Callable[[], T]) -> T:
        if arm not in TRAINED:
            return self.trainings.measured(student, "start", measure)
        return self.trainings.measured(student, self.inputs.folder.training(arm, seed), measure)

    def probes(self, arm: str, seed: int) -> Probes | None:
        """Return the fitted probes of a student; None if there are no true labels."""
        return self._probed(arm, seed)[1]

    def arm(self, arm: str, seed: int) -> dict[str, dict[str, Scored]]:
        """Return split -> group -> scores of a trained arm."""
        splits = self.splits

        def measure() -> Mapping[str, Groups]:
            self.progress.stage(f"measuring {arm}, seed {seed}" if arm in TRAINED else f"measuring {arm}")
            student, probes = self._probed(arm, seed)
            return self._measured(student, arm, seed, lambda: self.suite.measure(student, splits, probes))

        identity = self.identity(arm, seed)
        kept = self.kept(self.inputs.folder.scores(arm, seed), measure, splits, identity)
        return self.with_prompted(kept, arm, seed, lambda: self.trainings.train(arm, seed), identity)

    def identity(self, arm: str, seed: int) -> dict[str, str]:
        """Return the name and value that scores of a trained arm belong to; those of ``clip`` have none."""
        return {STUDENT: self.trainings.digest(arm, seed)} if arm in TRAINED else {}

    def with_prompted(
        self,
        scores: Mapping[str, Groups],
        row: str,
        seed: int,
        student: Callable[[], Student],
        extra: Mapping[str, str] | None = None,
    ) -> dict[str, dict[str, Scored]]:
        """Add the scores of open-vocabulary segmentation, if the recipe has it; they are kept in their own folder.

        Args:
            scores: split -> group -> scores of a row.
            row: arm, or interpolated arm.
            seed: of the row.
            student: returns its student.
            extra: as in `kept`.
        """
        whole = {split: dict(groups) for split, groups in scores.items()}
        variant = self.inputs.recipe.evaluation.open_vocabulary
        if variant is None:
            return whole

        def measure() -> Mapping[str, Groups]:
            self.progress.stage(f"measuring open vocabulary ({variant}) of {row}, seed {seed}")
            one = student()
            if row not in self.inputs.recipe.arms:  # other processes have no interpolated students
                return self.suite.prompted(one, self.splits, variant)
            return self._measured(one, row, seed, lambda: self.suite.prompted(one, self.splits, variant))

        folder = self.inputs.folder.scores(f"{OPEN_VOCABULARY}-{variant}", f"{row}-{seed}")
        for split, groups in self.kept(folder, measure, self.splits, extra).items():
            whole.setdefault(split, {}).update(groups)
        return whole

    def baselines(self, splits: Sequence[str]) -> dict[str, dict[str, dict[str, Scored]]]:
        """Return split -> baseline -> group -> scores."""

        @cache  # all splits are measured by one call
        def measure() -> dict[str, dict[str, Groups]]:
            return self._measure_baselines(splits)

        def kept(split: str) -> dict[str, dict[str, Scored]]:
            folder = self.inputs.folder.scores("baselines", split)
            possible = "clip-ft" in self.inputs.recipe.arms and self.suite.probed and split in self.suite.dense
            # measured before clip-ft was an arm: scores that have the row need no record of it
            extra = {"more_labels": "of clip-ft"} if possible and not (folder / "more_labels").exists() else {}
            if possible:
                extra |= self.identity("clip-ft", self.inputs.recipe.seeds[0])
            return self.kept(folder, lambda: measure()[split], [split], extra)

        return {split: kept(split) for split in splits}

    def _measure_baselines(self, splits: Sequence[str]) -> dict[str, dict[str, Groups]]:
        self.progress.stage("measuring the baselines")
        random_student = self.trainings.start(random=True).to(self.trainings.device).eval()
        experts, device = self.loaded_experts(), self.trainings.device
        rows = self.trainings.measured(
            random_student, "random", lambda: self.suite.baselines(splits, random_student, experts, device)
        )
        if any(rows.values()) and "clip-ft" in self.inputs.recipe.arms:
            self._add_more_labels(rows)
        return rows

    def _add_more_labels(self, rows: dict[str, dict[str, Groups]]) -> None:
        """Add the row of ``clip-ft``, probed on true labels and pseudo-labels."""
        pseudo = self._pseudo_labeled()
        if pseudo is None:
            return
        seed = self.inputs.recipe.seeds[0]
        student, dense = self.trainings.train("clip-ft", seed), self.suite.dense

        def scores() -> dict[str, dict[str, Scored]]:
            probes = self.suite.probes(student, pseudo)
            return {split: probes.score(dense[split]) for split in rows if split in dense} if probes else {}

        for split, scored in self._measured(student, "clip-ft", seed, scores).items():
            rows[split]["more_labels"] = scored

    def loaded_experts(self) -> dict[str, Expert]:
        """Return task -> the recipe's (last) expert of it, loaded, if its labels can be compared with true labels."""
        loaded = {}
        for uri, expert in self.inputs.experts.items():
            task = expert.card.task
            if self.suite.comparable(task, expert.card.convention):
                expert.load(self.trainings.device)
                loaded[task] = expert
            else:
                self.progress.stage(f"{uri} is not compared: test has no true labels of {task} with its convention")
        return loaded

    def _pseudo_labeled(self) -> Split | None:
        """Return captioned pictures with their pseudo-labels, as probes read them; None if none are comparable."""
        columns, plan, reader = self.inputs.columns, self.inputs.plan, self.inputs.reader
        comparable = {
            labels.task: name
            for name, (_, labels) in columns.items()
            if self.suite.comparable(labels.task, labels.convention)
        }
        if not comparable:
            return None
        generator = np.random.default_rng(self.inputs.recipe.seeds[0])
        rows = sorted(generator.choice(len(plan), min(PSEUDO, len(plan)), replace=False).tolist())
        entries = [entry_of(row) for row in plan.rows(rows)]
        used = {task: self._used(columns[name][0]) for task, name in comparable.items()}
        true_labels = next(iter(self.suite.dense["test"].truth.values()))
        readable = [entry for entry in entries if decodes(reader, entry)]
        labels = column_labels(str(self.inputs.store.root), reader, comparable, used)
        counts = {task: sum(map(bool, one.loaders(readable))) for task, one in labels.items()}
        files.write(self._pseudo_record, json.dumps(counts).encode())
        return split_of(reader, readable, labels, self.suite.size, true_labels.size)

    @staticmethod
    def _used(column: ColumnRecipe) -> Callable[[pa.Table], pa.Table]:
        """Return the filter of the labels that training uses."""
        where = Where.parse(column.where) if column.where else None
        return partial(joining.used, floor=column.min_confidence, where=where)

    @property
    def _pseudo_record(self) -> Path:
        return self.inputs.folder.scores("baselines", "more_labels.json")

    def pseudo_labels(self) -> dict[str, int] | None:
        """Return task -> number of pseudo-labels of the row "more labels"; None without the row."""
        if not self.suite.probed or "clip-ft" not in self.inputs.recipe.arms:
            return None
        if not self._pseudo_record.exists() and self._pseudo_labeled() is None:
            return None
        counts: dict[str, int] = json.loads(self._pseudo_record.read_text(encoding="utf-8"))
        return counts

    def kept(
        self,
        folder: Path,
        measure: Callable[[], Mapping[str, Groups]],
        splits: Sequence[str],
        extra: Mapping[str, str] | None = None,
    ) -> dict[str, dict[str, Scored]]:
        """Return the scores in a folder; measure them again if they are of other benchmarks, preset or student.

        Args:
            folder: of the scores.
            measure: returns split -> group -> scores.
            splits: that are measured.
            extra: further names and values that the scores belong to.
        """
        evaluation = self.inputs.recipe.evaluation
        settings = {LAYERS: str(list(evaluation.layers)), STRIDE: str(evaluation.label_stride)}
        identity = {"preset": versioned_preset(self.inputs.recipe), **settings, **(extra or {})}
        for split in ("probe", "validation", *splits):
            if split in self.suite.identities:
                identity[split] = self.suite.identities[split]
        return kept_scores(folder, measure, identity, self.progress.stage)


def decodes(reader: Reader, entry: Entry) -> bool:
    """Return True if the picture of an entry can be decoded."""
    try:
        decode_image(reader.read(entry).image)
    except ClipzooError:
        return False
    return True
