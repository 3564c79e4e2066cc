"""All measurements of a student on the splits of a recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import combinations

from clipzoo.benchmarks import Benchmark, Crop, Split, check_meaning, open_benchmark, read_split
from clipzoo.errors import DatasetError, PlanError
from clipzoo.evaluation import baselines, open_vocabulary, retrieval, zero_shot
from clipzoo.evaluation.arms import RowScores
from clipzoo.evaluation.base import Encoder, features
from clipzoo.evaluation.measure import OPEN_VOCABULARY, Scored
from clipzoo.evaluation.probes import fitting, probe
from clipzoo.experts import Expert
from clipzoo.files import Place
from clipzoo.tasks import Convention

SCORED = ("validation", "test", "heldout")
PRESETS = {"quick": 1}
"""Preset of measurements -> its version, which is raised when numbers may change."""


@dataclass(frozen=True)
class Suite:
    """The splits of each kind of measurement: ``probe`` fits, ``validation`` chooses, the others are reported.

    ``identities`` and ``left_out`` hold these attributes of each `Split`.
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
        """Read benchmarks in folders; see `of`.

        Raises:
            PlanError: two splits are one folder. `of` and `Layout.open` raise other errors.
        """
        for split, other in combinations(folders, 2):
            if folders[split].resolve() == folders[other].resolve():
                raise PlanError(
                    f"{split} and {other} are the same folder {folders[split]}. Splits must not share images, or "
                    f"scores are too high. Give {other} a folder of other images"
                )
        benchmarks = {split: open_benchmark(folder, layout) for split, folder in folders.items()}
        return cls.of(benchmarks, size, label_stride, layers, crop)

    @classmethod
    def of(
        cls,
        benchmarks: Mapping[str, Benchmark],
        size: tuple[int, int],
        label_stride: int = 2,
        layers: Sequence[int] = (-1,),
        crop: Crop = "whole",
        label_size: tuple[int, int] | None = None,
        kept: float = 1.0,
    ) -> Suite:
        """Read the benchmarks of the splits (``evaluation`` of a recipe); images are decoded in each pass.

        Args:
            benchmarks: split -> benchmark.
            size: (H, W) of the student's images.
            label_stride: image pixels per pixel of the labels that are compared.
            layers: of the vision tower that probes read.
            crop: of images for zero-shot and retrieval; dense tasks use the whole image, squashed.
            label_size: (H, W) of the labels that are compared, instead of ``label_stride``.
            kept: share of the sides of that crop that preprocessing keeps; see `Split`.

        Raises:
            PlanError: the true labels of two splits differ in tasks or convention.
            DatasetError: a benchmark has no usable image.
            StoreError: true labels cannot be read.
        """
        check_meaning({split: one.conventions for split, one in benchmarks.items()})
        label_size = label_size or (size[0] // label_stride, size[1] // label_stride)
        splits = {split: read_split(one, size, label_size, split in SCORED) for split, one in benchmarks.items()}
        scored = {split: replace(one, crop=crop, kept=kept) for split, one in splits.items() if split in SCORED}
        captioned = {split: one.captioned() for split, one in scored.items()}
        return cls(
            dense={split: _labeled(split, one) for split, one in splits.items() if one.truth},
            zero_shot={split: one for split, one in scored.items() if one.targets},
            retrieval={split: one for split, one in captioned.items() if len(one)},
            size=size,
            layers=tuple(layers),
            identities={split: f"{_identity(one)}{_padded(crop)}" for split, one in splits.items()},
            left_out={split: one.left_out for split, one in splits.items()},
        )

    def seen_by(self, size: tuple[int, int], crop: Crop, kept: float = 1.0) -> Suite:
        """Return the same splits for students with another size and preprocessing, as `of` makes them; labels stay."""
        seen = partial(replace, size=size, crop=crop, kept=kept)
        return replace(
            self,
            dense={split: replace(one, size=size) for split, one in self.dense.items()},
            zero_shot={split: seen(one) for split, one in self.zero_shot.items()},
            retrieval={split: seen(one) for split, one in self.retrieval.items()},
            size=size,
            identities={split: f"{one}{_padded(crop)}" for split, one in self.identities.items()},
        )

    def recognition(self, student: Encoder, split: str) -> dict[str, Scored]:
        """Score zero-shot and retrieval on a split, if it has classes or captions and the model has text."""
        scored: dict[str, Scored] = {}
        if not getattr(student, "has_text", True):
            return scored
        if split in self.zero_shot:
            scored["zero_shot"] = zero_shot.evaluate(student, self.zero_shot[split])
        if split in self.retrieval:
            scored["retrieval"] = retrieval.evaluate(student, self.retrieval[split])
        return scored

    def prompted(self, student: Encoder, splits: Sequence[str], variant: str) -> dict[str, RowScores]:
        """Return split -> scores of open-vocabulary segmentation; none for a model without dense embeddings.

        Raises:
            RecipeError: the test split has no true labels of segmentation with named classes.
            CheckpointError: the variant is not defined for the vision tower of the model.
        """
        self.check_prompted()
        measurable = [one for one in splits if one in self.dense and open_vocabulary.measurable(self.dense[one])]
        if not open_vocabulary.defined(student):
            return {}
        return {
            one: {OPEN_VOCABULARY: open_vocabulary.evaluate(student, self.dense[one], variant)} for one in measurable
        }

    def check_prompted(self, fix: str = open_vocabulary.FIX) -> None:
        """Raise `RecipeError` unless the test split has true labels of segmentation with named classes."""
        if "test" not in self.dense or not open_vocabulary.measurable(self.dense["test"]):
            raise open_vocabulary.unmeasurable(fix)

    def probes(self, student: Encoder, pseudo: Split | None = None) -> probe.Probes | None:
        """Fit the dense probes of a student; return None if there is no truth.

        ``pseudo`` adds images with pseudo-labels to the probe split, for the baseline "more labels".
        """
        if not self.probed:
            return None
        fit = self.dense["probe"] if pseudo is None else self.dense["probe"].extended(pseudo)
        return fitting.dense(student, fit, self.dense["validation"], self.layers)

    @property
    def probed(self) -> bool:
        """True if there is truth to fit probes on and to choose their strengths by."""
        return {"probe", "validation"} <= set(self.dense)

    def measure(
        self, student: Encoder, splits: Sequence[str], probes: probe.Probes | None = None
    ) -> dict[str, RowScores]:
        """Return split -> scores of a student; ``probes`` are fitted if they are not given."""
        probes = probes or self.probes(student)
        scored: dict[str, RowScores] = {}
        for split in splits:
            dense = probes.score(self.dense[split]) if probes and split in self.dense else {}
            scored[split] = self.recognition(student, split) | dense
        return scored

    def baselines(
        self, splits: Sequence[str], random_student: Encoder, experts: Mapping[str, Expert], device: str = "cpu"
    ) -> dict[str, dict[str, RowScores]]:
        """Fit each baseline once and return split -> baseline -> scores.

        ``experts`` maps a task to its loaded expert, on ``device``. Experts with another convention than the truth, or
        with existing labels of the training dataset only, have no row.
        """
        if not self.probed:
            return {split: {} for split in splits}
        fit, validation = self.dense["probe"], self.dense["validation"]
        h, w = features(random_student, fit.select([0]), self.layers).shape[-2:]
        fitted: dict[str, baselines.Constants | probe.Probes] = {
            "position_prior": baselines.position_prior(fit, validation),
            "pixels_position": baselines.pixels_position(fit, validation, (h, w)),
            "random_student": fitting.dense(random_student, fit, validation, self.layers),
        }
        scores: dict[str, dict[str, RowScores]] = {split: {} for split in splits}
        for split in [split for split in splits if split in self.dense]:
            scored = self.dense[split]
            scores[split] = {row: one.score(scored) for row, one in fitted.items()}
            scores[split]["expert"] = {
                task: baselines.expert(expert.predict, task, scored, expert.card.convention, expert.batch_size, device)
                for task, expert in experts.items()
                if self.comparable(task, expert.card.convention) and not expert.needs_sample
            }
        return scores

    def constant(self, split: str) -> dict[str, RowScores]:
        """Return the rows of zero-shot recognition that do not look at the image; see `zero_shot.constant`."""
        if split not in self.zero_shot:
            return {}
        return {row: {"zero_shot": scored} for row, scored in zero_shot.constant(self.zero_shot[split]).items()}

    def comparable(self, task: str, convention: Convention) -> bool:
        """Return True if the test split has truth of this task with this convention."""
        truth = self.dense["test"].truth.get(task) if "test" in self.dense else None
        return truth is not None and truth.convention == convention


def _identity(split: Split) -> str:
    """Return the identity of a split; earlier versions scored classes that share a name as misses."""
    repeated = zero_shot.same_names(split.classnames) if split.targets else []
    return f"{split.identity}, {len(repeated)} repeated names" if repeated else split.identity


def _padded(crop: Crop) -> str:
    return " padded" if crop == "padded" else ""  # earlier versions cropped


def _labeled(split: str, images: Split) -> Split:
    labeled = images.labeled()
    if not len(labeled):
        raise DatasetError(
            f"0 of {len(images)} images of {split} have a true label. Its truth/ has the columns "
            f"{', '.join(images.truth)}, but no label for these images. Import the labels of these images "
            "(docs/benchmarks.md), or remove truth/"
        )
    return labeled
