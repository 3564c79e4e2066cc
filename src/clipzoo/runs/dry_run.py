"""What a run would do: its samples, labels, steps, memory and reading, found by looking. Nothing is started or written.

The memory is an estimate: what autograd keeps of two small forward passes on the CPU, drawn out to the whole batch,
plus weights, gradients and AdamW's two moments. The peak is higher, since the backward pass makes what it does not
keep: on an H100 by 8 % (ViT-B-16, float32) to 19 % (bf16, three heads) of the activations; torch.compile saves some.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from clipzoo import locations
from clipzoo.data import Batch, Plan
from clipzoo.errors import PlanError
from clipzoo.files import AnyPath
from clipzoo.models import Student
from clipzoo.progress import Progress
from clipzoo.recipe import Recipe, TrainingRecipe
from clipzoo.runs._run import Run
from clipzoo.runs.preflight import REPORTED, SPLITS, TRAINED, check_arm
from clipzoo.runs.trainings import describe
from clipzoo.store import Column
from clipzoo.tasks import Convention
from clipzoo.tasks import get as get_task
from clipzoo.training import ended, objectives, reached

FLOAT = 4
"""Bytes of a weight, a gradient and each of AdamW's moments."""


@dataclass(frozen=True, slots=True)
class Memory:
    """An estimate of what one step holds, in bytes; ``parameters`` is a count."""

    parameters: int
    state: int
    """Weights, gradients, AdamW's moments."""
    activations: int
    """What the forward pass keeps for the backward pass, at the whole batch."""


@dataclass(frozen=True, slots=True)
class Split:
    """Pictures that the arms are measured on; ``truth`` maps a task to what its labels mean.

    Of pictures that are yet to be rendered, ``truth`` is None.
    """

    location: str
    pictures: int
    truth: Mapping[str, Convention] | None

    def __str__(self) -> str:
        told = "rendered by the run" if self.truth is None else f"truth of {', '.join(self.truth) or 'no dense task'}"
        return f"{self.pictures:,} pictures of {self.location}; {told}"


@dataclass(frozen=True, slots=True)
class Preview:
    """What a run would do.

    Attributes:
        recipe: of the run.
        folder: of the run.
        samples: usable ones.
        left_out: reason -> samples that cannot be used.
        coverage: column -> share of the samples that have a label, or None where no shard is labeled yet.
        steps: updates of each training. search_steps: of each trial of a learning rate.
        trainings: (arm, seed) of each.
        done: (arm, seed) of a training -> the steps that it has behind it; all of ``steps`` where it has ended.
        trials: of learning rates, over all arms. tried: how many of them have ended.
        memory: of the arm with most terms.
        epoch_bytes: of pictures, captions and labels, read once; None of rows of tables, whose index knows no
            sizes, and of pictures that are yet to be rendered.
        splits: part of evaluation -> its pictures; none where single arms are to be trained, which measures nothing.
        asked: URIs of the experts that will label the pictures that are reported, as what students are compared with.
    """

    recipe: Recipe
    folder: Path
    samples: int
    left_out: Mapping[str, int]
    coverage: Mapping[str, float | None]
    steps: int
    search_steps: int
    trainings: Sequence[tuple[str, int]]
    done: Mapping[tuple[str, int], int]
    trials: int
    tried: int
    memory: Memory
    epoch_bytes: int | None
    splits: Mapping[str, Split]
    asked: Sequence[str]

    @property
    def epochs(self) -> float:
        """How often one training sees a sample, on average."""
        return self.steps * self.recipe.training.batch_size / self.samples

    def rows(self) -> list[tuple[str, str]]:
        """(what, found) of each line, in words."""
        reasons = "".join(f"\nleft out: {count:,} × {reason}" for reason, count in self.left_out.items())
        return [
            ("folder", f"{self.folder}{'' if self.folder.exists() else ' (new)'}"),
            ("samples", f"{self.samples:,} usable{reasons}"),
            *((f"labels {name}", _share(share)) for name, share in self.coverage.items()),
            ("each training", f"{self.steps:,} steps of {self.recipe.training.batch_size} = {self.epochs:.3g} epochs"),
            ("learning rates", self._rates()),
            ("trainings", self._trainings()),
            *([("done already", self._done())] if any(self.done.values()) or self.tried else []),
            ("memory, estimated", self._memory()),
            (
                "data of an epoch",
                "known once it is read: rows of tables, or pictures to render"
                if self.epoch_bytes is None
                else _size(self.epoch_bytes),
            ),
            *((f"evaluation.{name}", str(split)) for name, split in self.splits.items()),
            *([("experts asked", self._asked())] if self.asked else []),
        ]

    def _asked(self) -> str:
        reported = " and ".join(name for name in REPORTED if name in self.splits)
        return f"about the pictures of {reported}, too: {', '.join(self.asked)}"

    def _rates(self) -> str:
        settings = self.recipe.training
        grid = ", ".join(f"{rate:g}" for rate in settings.learning_rates)
        chosen = f", chosen on validation by trials of {self.search_steps:,} steps" if self.trials else ""
        heads = f"heads {settings.heads_learning_rate:g}"
        return f"image tower {grid}{chosen}; text tower ×{settings.text_factor:g}; {heads}"

    def _trainings(self) -> str:
        total = len(self.trainings) * self.steps + self.trials * self.search_steps
        trials = f" + {self.trials} trials × {self.search_steps:,}" if self.trials else ""
        shown = f"{describe(self.trainings)}\n{len(self.trainings)} × {self.steps:,}{trials} = {total:,} steps"
        return shown if self.trainings else "none"

    def _done(self) -> str:
        ended = [one for one, steps in self.done.items() if steps >= self.steps]
        begun = {one: steps for one, steps in self.done.items() if 0 < steps < self.steps}
        lines = [f"trained: {describe(ended)}"] if ended else []
        lines += [f"begun: {describe([one])}, {steps:,} of {self.steps:,} steps" for one, steps in begun.items()]
        lines += [f"{self.tried} of {self.trials} trials"] if self.tried else []
        lines += ["measured: results.json"] if (self.folder / "results.json").exists() else []
        behind = sum(self.done.values()) + self.tried * self.search_steps
        left = len(self.trainings) * self.steps + self.trials * self.search_steps - behind
        return "\n".join([*lines, f"{left:,} steps are left" if left else "nothing is left to train"])

    def _memory(self) -> str:
        m, settings = self.memory, self.recipe.training
        return (
            f"about {_size(m.state + m.activations)}: {_size(m.state)} for {m.parameters / 1e6:,.1f} M weights, their "
            f"gradients and AdamW,\n{_size(m.activations)} for activations at batch {settings.batch_size} in "
            f"{settings.precision}"
        )


def preview(
    recipe: Recipe,
    out: AnyPath,
    *,
    arms: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    progress: Progress | None = None,
) -> Preview:
    """Look at what a run of this recipe in this folder would do.

    Args:
        recipe: complete.
        out: the run's folder; need not exist, and is left as it is.
        arms, seeds: those that would be trained; default the recipe's.
        progress: told what is being unpacked.

    Raises:
        ClipzooError: the same mistakes that would stop the run.
        PlanError: fewer samples than one batch.
    """
    for arm in arms or ():
        check_arm(arm, "train")
    with TemporaryDirectory() as scratch:
        run = Run(recipe, out, progress, scratch=Path(scratch))
        samples, left_out, coverage, size = _data(run)
        settings = recipe.training
        if samples < settings.batch_size:
            raise PlanError(
                f"{recipe.data} has {samples} usable samples, fewer than one batch of {settings.batch_size}; lower "
                f"training.batch_size to at most {samples}"
            )
        trained = list(arms or (arm for arm in recipe.arms if arm in TRAINED))
        trainings = [(arm, seed) for arm in trained for seed in seeds or recipe.seeds]
        steps = run.steps(samples)
        folders = {one: run.folder_of(*one) for one in trainings}
        done = {one: steps if ended(folder) else reached(folder) for one, folder in folders.items()}
        grid = settings.learning_rates if len(settings.learning_rates) > 1 else ()
        tried = sum(f"{rate:g}" in run.trainings.trials(arm) for arm in trained for rate in grid)
        splits = {} if arms else _splits(run)
        student = run.start("clipzoo" if "clipzoo" in trained else "clip", random=True)
        return Preview(
            recipe=recipe,
            folder=run.out,
            samples=samples,
            left_out=left_out,
            coverage=coverage,
            steps=steps,
            search_steps=run.trainings.trial_steps(samples),
            trainings=trainings,
            done=done,
            trials=len(grid) * len(trained),
            tried=tried,
            memory=estimate(student, {n: w.stride for n, (w, _) in run.specs.items()}, settings),
            epoch_bytes=size,
            splits=splits,
            asked=_asked(run, splits),
        )


def _splits(run: Run) -> dict[str, Split]:
    named = {name: getattr(run.recipe.evaluation, name) for name in SPLITS}
    return {name: _split(run, location) for name, location in named.items() if location}


def _split(run: Run, location: str) -> Split:
    if (pictures := locations.pictures_to_render(location)) is not None:
        return Split(location, pictures, None)
    found = run.inputs.benchmark(location)
    return Split(location, sum(len(found.reader.index(shard)) for shard in found.shards), found.conventions)


def _asked(run: Run, splits: Mapping[str, Split]) -> list[str]:
    """Experts whose labels mean what the truth of test does; none where no probe can be fitted and chosen."""
    if not all(name in splits and splits[name].truth for name in ("probe", "validation", "test")):
        return []
    truth = splits["test"].truth or {}
    cards = {uri: expert.card for uri, expert in run.inputs.experts.items() if not expert.needs_sample}
    return [uri for uri, card in cards.items() if truth.get(card.task) == card.convention]


def _data(run: Run) -> tuple[int, Mapping[str, int], dict[str, float | None], int | None]:
    """Samples, reasons of those left out, coverage by column, bytes of an epoch."""
    stored = {column.name: column for column in run.inputs.store.columns()}
    labeled = {name: stored[name] for name in run.specs if name in stored and stored[name].committed()}
    coverage: dict[str, float | None] = dict.fromkeys(run.specs)
    if (
        pictures := locations.pictures_to_render(run.recipe.data)
    ) is not None:  # rendered by the run itself: too long to look at
        samples = min(pictures, run.recipe.max_samples or pictures)
        return samples, {}, coverage | {n: c.manifest.counts.labels / samples for n, c in labeled.items()}, None
    plan = run.inputs.join(labeled)
    return len(plan), plan.left_out, coverage | plan.coverage(), _bytes(plan, labeled)


def _bytes(plan: Plan, columns: Mapping[str, Column]) -> int | None:
    sizes = [plan.table[f"{name}:size"].to_numpy() for name in ("image", "caption")]
    if sizes[0].max() == 1:  # (row, 1)
        return None
    labels = [plan.table[f"{name}:size"].drop_null().to_numpy() for name in columns]
    return int(sum(size.sum() for size in [*sizes, *labels]))


def estimate(student: Student, strides: Mapping[str, int], settings: TrainingRecipe) -> Memory:
    """What a step of training would hold.

    Args:
        student: on the CPU, with its heads.
        strides: column -> image pixels per target pixel, of all heads.
        settings: batch size, precision, and which towers are trained.
    """
    counts = {part: sum(p.numel() for _, p in named) for part, named in student.parameter_groups().items()}
    total, frozen = sum(counts.values()), 0 if settings.text_factor else counts["text"]
    for _, parameter in student.parameter_groups()["text"]:
        parameter.requires_grad_(settings.text_factor > 0)
    forward, weights = partial(_forward, student.train(), strides, settings.precision), list(student.parameters())
    one, two = (kept_bytes(partial(forward, count), weights) for count in (1, 2))
    return Memory(total, FLOAT * (4 * total - 3 * frozen), one + (two - one) * (settings.batch_size - 1))


def kept_bytes(compute: Callable[[], Any], weights: Iterable[Tensor]) -> int:
    """Bytes that autograd keeps for the backward pass of what ``compute`` gives, those of ``weights`` not counted."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        held = compute()  # alive until the sum: no storage is given out twice
    del held
    own = {weight.untyped_storage().data_ptr() for weight in weights}
    return sum(size for place, size in kept.items() if place not in own)


def _forward(student: Student, strides: Mapping[str, int], precision: str, count: int) -> dict[str, Tensor]:
    """The terms of the loss of ``count`` black pictures without labels: masks change values, not what is kept."""
    H, W = student.image_size
    captions = ["a picture"] * count
    targets = {
        name: get_task(spec.task).collate([None] * count, (H // strides[name], W // strides[name]))
        for name, spec in student.specs.items()
    }
    images = torch.zeros(count, H, W, 3, dtype=torch.uint8)
    batch = Batch(images, student.tokenize(captions), captions, targets, [])
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        out = student(batch.images, batch.tokens)
    return objectives.terms(student, out, batch)


def _share(share: float | None) -> str:
    return "not labeled yet" if share is None else f"of {share:.1%} of the samples"


def _size(count: int) -> str:
    """Bytes in words."""
    unit, name = next(((u, n) for u, n in ((2**30, "GiB"), (2**20, "MiB")) if count >= u), (2**10, "KiB"))
    return f"{count / unit:.1f} {name}"
