"""All measurements of one student, over the splits of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from clipzoo.errors import PlanError
from clipzoo.evaluation import baselines, probe, retrieval, zero_shot
from clipzoo.evaluation.arms import Run
from clipzoo.evaluation.base import Student, features
from clipzoo.evaluation.measure import Scored
from clipzoo.evaluation.sets import DenseSet, RetrievalSet, ZeroShotSet, recognition
from clipzoo.experts import Expert
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
        cls, folders: Mapping[str, Path], size: tuple[int, int], label_stride: int = 2, layers: Sequence[int] = (-1,)
    ) -> Suite:
        """Read the benchmark folders of the splits (see the recipe's ``evaluation``).

        Args:
            folders: split -> folder with ``images/`` and, for dense tasks, ``truth/``.
            size: (H, W) of the student's images.
            label_stride: image pixels per pixel of the labels that are compared.
            layers: of the vision tower that probes read.
        """
        label_size = (size[0] // label_stride, size[1] // label_stride)
        dense = {
            split: DenseSet.load(str(folder / "images"), folder / "truth", size, label_size=label_size).labelled()
            for split, folder in folders.items()
            if (folder / "truth").is_dir()
        }
        _comparable(dense, folders)
        found = {s: recognition(str(folder / "images"), size) for s, folder in folders.items() if s in SCORED}
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

    def probes(self, student: Student) -> dict[str, probe.Probe]:
        """The fitted dense probes of a student, task by task; nothing where there is no truth."""
        if not {"probe", "validation"} <= set(self.dense):
            return {}
        fit, choose = self.dense["probe"], self.dense["validation"]
        maps = [features(student, part.images, self.layers) for part in (fit, choose)]
        return {task: probe.fit(maps[0], fit.truth[task], maps[1], choose.truth[task]) for task in fit.truth}

    def measure(self, student: Student, splits: Sequence[str]) -> dict[str, dict[str, Scored]]:
        """Split -> group of measures -> scores."""
        probes = self.probes(student)
        scored = {}
        for split in splits:
            scored[split] = self.recognition(student, split)
            if probes and split in self.dense:
                part = self.dense[split]
                maps = features(student, part.images, self.layers)
                scored[split] |= {t: p.score(maps, part.truth[t], part.keys) for t, p in probes.items()}
        return scored

    def baselines(self, split: str, random_student: Student, experts: Mapping[str, Expert]) -> dict[str, Run]:
        """Baseline -> group -> scores on a split.

        ``experts`` maps a task to its loaded expert; one whose labels mean something else than the truth, or that
        knows labels of its dataset alone, has no row.
        """
        if not {"probe", "validation", split} <= set(self.dense):
            return {}
        fit, choose, tested = (self.dense[name] for name in ("probe", "validation", split))
        h, w = features(random_student, fit.images[:1], self.layers).shape[-2:]
        return {
            "position_prior": baselines.position_prior(fit, choose, tested),
            "pixels_position": baselines.pixels_position(fit, choose, tested, (h, w)).scored,
            "random_student": probe.dense(random_student, fit, choose, tested, self.layers).scored,
            "expert": {
                task: baselines.expert(expert.predict, task, tested, expert.card.convention, expert.batch_size)
                for task, expert in experts.items()
                if self.comparable(task, expert.card.convention) and not expert.needs_sample
            },
        }

    def more_labels(self, student: Student, pseudo: DenseSet, split: str) -> Run:
        """A student probed on truth plus the pseudo-labels of ``pseudo``: what more labels alone would give."""
        fit, choose, tested = (self.dense[name] for name in ("probe", "validation", split))
        return baselines.more_labels(student, fit, pseudo, choose, tested, self.layers).scored

    def comparable(self, task: str, convention: Convention) -> bool:
        """Whether there is truth of this task that means the same."""
        return "test" in self.dense and any(
            truth.convention == convention for name, truth in self.dense["test"].truth.items() if name == task
        )


def _comparable(dense: Mapping[str, DenseSet], folders: Mapping[str, Path]) -> None:
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
