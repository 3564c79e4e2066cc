"""All measurements of one student, over the splits of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from clipzoo.errors import PlanError
from clipzoo.evaluation import baselines, probe, retrieval, zero_shot
from clipzoo.evaluation.arms import Run
from clipzoo.evaluation.base import Student, features
from clipzoo.evaluation.measure import Scored
from clipzoo.evaluation.sets import Crop, DenseSet, RetrievalSet, ZeroShotSet, recognition
from clipzoo.experts import Expert
from clipzoo.files import Place
from clipzoo.tasks import Convention

SCORED = ("validation", "test", "heldout")


@dataclass(frozen=True)
class Suite:
    """What there is to measure, split by split: ``probe`` fits, ``validation`` chooses, the others are reported."""

    dense: Mapping[str, DenseSet]
    zero_shot: Mapping[str, ZeroShotSet]
    retrieval: Mapping[str, RetrievalSet]
    size: tuple[int, int]
    layers: tuple[int, ...] = (-1,)

    @classmethod
    def load(
        cls,
        folders: Mapping[str, Place],
        size: tuple[int, int],
        label_stride: int = 2,
        layers: Sequence[int] = (-1,),
        crop: Crop = "whole",
    ) -> Suite:
        """Read the benchmark folders of the splits (see the recipe's ``evaluation``).

        Args:
            folders: split -> folder with ``images/`` and, for dense tasks, ``truth/``.
            size: (H, W) of the student's images.
            label_stride: image pixels per pixel of the labels that are compared.
            layers: of the vision tower that probes read.
            crop: what zero-shot and retrieval see of an image; dense tasks see the whole, squashed.
        """
        label_size = (size[0] // label_stride, size[1] // label_stride)
        dense = {
            split: DenseSet.load(str(folder / "images"), folder / "truth", size, label_size=label_size).labelled()
            for split, folder in folders.items()
            if (folder / "truth").is_dir()
        }
        _comparable(dense, folders)
        pictures = {split: str(folder / "images") for split, folder in folders.items() if split in SCORED}
        found = {split: recognition(location, size, crop=crop) for split, location in pictures.items()}
        named = {split: sets[0] for split, sets in found.items() if sets[0] is not None}
        told = {split: sets[1] for split, sets in found.items() if sets[1] is not None}
        return cls(dense, named, told, size, tuple(layers))

    def recognition(self, student: Student, split: str) -> dict[str, Scored]:
        """Zero-shot and retrieval of a student on a split, as far as there is data for them."""
        scored = {}
        if split in self.zero_shot:
            scored["zero_shot"] = zero_shot.evaluate(student, self.zero_shot[split])
        if split in self.retrieval:
            scored["retrieval"] = retrieval.evaluate(student, self.retrieval[split])
        return scored

    def probes(self, student: Student, pseudo: DenseSet | None = None) -> probe.Probes | None:
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
        h, w = features(random_student, fit.images[:1], self.layers).shape[-2:]
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


def _comparable(dense: Mapping[str, DenseSet], folders: Mapping[str, Place]) -> None:
    """Raise `PlanError` unless the splits are different folders whose truth is of the same tasks and meaning."""
    for split, other in combinations(folders, 2):
        if folders[split].resolve() == folders[other].resolve():
            raise PlanError(f"{split} and {other} are the same folder {folders[split]}: splits may share no picture")
    for split, other in combinations(dense, 2):
        mine, theirs = ({t: s.truth[t].convention for t in s.truth} for s in (dense[split], dense[other]))
        if mine != theirs:
            raise PlanError(
                f"the truth of {split} ({', '.join(mine)}) and of {other} ({', '.join(theirs)}) differ in tasks or in "
                f"what labels mean: {_difference(mine, theirs)}; give all splits the same columns <task>/truth"
            )


def _difference(mine: Mapping[str, Convention], theirs: Mapping[str, Convention]) -> str:
    task = next(t for t in [*mine, *theirs] if mine.get(t) != theirs.get(t))
    return f"{task} is {mine.get(task, 'missing')} in one, {theirs.get(task, 'missing')} in the other"
