"""All measurements of one student, over the splits of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

from clipzoo.benchmarks import Benchmark, Crop, Split, check_meaning, open_benchmark, read_split
from clipzoo.errors import DatasetError, PlanError
from clipzoo.evaluation import baselines, probe, retrieval, zero_shot
from clipzoo.evaluation.arms import Run
from clipzoo.evaluation.base import Student, features
from clipzoo.evaluation.measure import Scored
from clipzoo.experts import Expert
from clipzoo.files import Place
from clipzoo.tasks import Convention

SCORED = ("validation", "test", "heldout")
PRESETS = {"quick": 1}
"""How arms are measured -> its version, which is another one wherever numbers may change."""


@dataclass(frozen=True)
class Suite:
    """What there is to measure, split by split: ``probe`` fits, ``validation`` chooses, the others are reported.

    ``identities`` and ``left_out`` are those of each `Split`.
    """

    dense: Mapping[str, Split]
    zero_shot: Mapping[str, Split]
    retrieval: Mapping[str, Split]
    size: tuple[int, int]
    layers: tuple[int, ...] = (-1,)
    identities: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    @classmethod
    def load(
        cls,
        folders: Mapping[str, Place],
        size: tuple[int, int],
        label_stride: int = 2,
        layers: Sequence[int] = (-1,),
        crop: Crop = "whole",
        layout: str = "webdataset",
    ) -> Suite:
        """As `of`, of benchmarks in folders.

        Raises:
            PlanError: two splits are one folder; what `of` and `Layout.open` raise.
        """
        for split, other in combinations(folders, 2):
            if folders[split].resolve() == folders[other].resolve():
                raise PlanError(f"{split} and {other} are the same folder {folders[split]}: splits share no picture")
        found = {split: open_benchmark(folder, layout) for split, folder in folders.items()}
        return cls.of(found, size, label_stride, layers, crop)

    @classmethod
    def of(
        cls,
        benchmarks: Mapping[str, Benchmark],
        size: tuple[int, int],
        label_stride: int = 2,
        layers: Sequence[int] = (-1,),
        crop: Crop = "whole",
    ) -> Suite:
        """Read the benchmarks of the splits (see the recipe's ``evaluation``); pictures are decoded in each pass.

        Args:
            benchmarks: split -> what is measured on.
            size: (H, W) of the student's images.
            label_stride: image pixels per pixel of the labels that are compared.
            layers: of the vision tower that probes read.
            crop: what zero-shot and retrieval see of an image; dense tasks see the whole, squashed.

        Raises:
            PlanError: true labels of two splits differ in meaning; DatasetError, StoreError: one cannot be read.
        """
        check_meaning({split: one.conventions for split, one in benchmarks.items()})
        label_size = (size[0] // label_stride, size[1] // label_stride)
        read = {split: read_split(one, size, label_size, split in SCORED) for split, one in benchmarks.items()}
        scored = {split: replace(one, crop=crop) for split, one in read.items() if split in SCORED}
        return cls(
            {split: _labeled(split, one) for split, one in read.items() if one.truth},
            {split: one for split, one in scored.items() if one.targets},
            {split: some for split, one in scored.items() if len(some := one.captioned())},
            size,
            tuple(layers),
            {split: one.identity for split, one in read.items()},
            {split: one.left_out for split, one in read.items()},
        )

    def recognition(self, student: Student, split: str) -> dict[str, Scored]:
        """Zero-shot and retrieval of a student on a split, as far as there is data for them."""
        scored = {}
        if split in self.zero_shot:
            scored["zero_shot"] = zero_shot.evaluate(student, self.zero_shot[split])
        if split in self.retrieval:
            scored["retrieval"] = retrieval.evaluate(student, self.retrieval[split])
        return scored

    def probes(self, student: Student, pseudo: Split | None = None) -> probe.Probes | None:
        """The fitted dense probes of a student; None where there is no truth.

        ``pseudo`` adds pictures with pseudo-labels to the true ones: what more labels alone would give.
        """
        if not self.probed:
            return None
        fit = self.dense["probe"] if pseudo is None else self.dense["probe"].extended(pseudo)
        return probe.dense(student, fit, self.dense["validation"], self.layers)

    @property
    def probed(self) -> bool:
        """Whether there is what probes are fitted on and chosen by."""
        return {"probe", "validation"} <= set(self.dense)

    def measure(self, student: Student, splits: Sequence[str], probes: probe.Probes | None = None) -> dict[str, Run]:
        """Split -> group of measures -> scores, by the student's ``probes`` if they are fitted already."""
        probes = probes or self.probes(student)
        scored: dict[str, Run] = {}
        for split in splits:
            dense = probes.score(self.dense[split]) if probes and split in self.dense else {}
            scored[split] = self.recognition(student, split) | dense
        return scored

    def baselines(
        self, splits: Sequence[str], random_student: Student, experts: Mapping[str, Expert]
    ) -> dict[str, dict[str, Run]]:
        """Split -> baseline -> group -> scores; each is fitted once.

        ``experts`` maps a task to its loaded expert; one whose labels mean something else than the truth, or that
        knows labels of its dataset alone, has no row.
        """
        if not self.probed:
            return {split: {} for split in splits}
        fit, choose = self.dense["probe"], self.dense["validation"]
        h, w = features(random_student, fit.select([0]), self.layers).shape[-2:]
        fitted: dict[str, baselines.Constants | probe.Probes] = {
            "position_prior": baselines.position_prior(fit, choose),
            "pixels_position": baselines.pixels_position(fit, choose, (h, w)),
            "random_student": probe.dense(random_student, fit, choose, self.layers),
        }
        found: dict[str, dict[str, Run]] = {}
        for split in splits:
            tested = self.dense.get(split)
            found[split] = {} if tested is None else {row: one.score(tested) for row, one in fitted.items()}
            if tested is not None:
                found[split]["expert"] = {
                    task: baselines.expert(expert.predict, task, tested, expert.card.convention, expert.batch_size)
                    for task, expert in experts.items()
                    if self.comparable(task, expert.card.convention) and not expert.needs_sample
                }
        return found

    def comparable(self, task: str, convention: Convention) -> bool:
        """Whether there is truth of this task that means the same."""
        return "test" in self.dense and any(
            truth.convention == convention for name, truth in self.dense["test"].truth.items() if name == task
        )


def _labeled(split: str, pictures: Split) -> Split:
    found = pictures.labeled()
    if not len(found):
        raise DatasetError(
            f"none of the {len(pictures)} pictures of {split} has a true label, though it has columns of "
            f"{', '.join(pictures.truth)}: import the labels of these pictures (docs/benchmarks.md), or leave the "
            "folder truth/ out"
        )
    return found
