"""Dry run: samples, labels, steps, memory and bytes of a run, without starting or writing anything."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow.compute as pc

from clipzoo import locations
from clipzoo.data import Plan
from clipzoo.errors import counted
from clipzoo.files import AnyPath
from clipzoo.progress import Progress
from clipzoo.readers import ROW
from clipzoo.recipe import Recipe
from clipzoo.runs._run import Run
from clipzoo.runs.before.preflight import REPORTED, SPLITS, TRAINED, check_batch, check_trainable
from clipzoo.runs.guarding import held
from clipzoo.runs.trainings import describe
from clipzoo.store import Column
from clipzoo.tasks import Convention
from clipzoo.training import ended, reached
from clipzoo.training.checks import check_balancing
from clipzoo.training.memory import Memory, estimate
from clipzoo.training.processes.sharding import check_shares

UNKNOWN_SIZE = "known only after reading: rows of tables, or pictures to render"


@dataclass(frozen=True, slots=True)
class Split:
    """Pictures that the arms are measured on.

    Attributes:
        location: of the benchmark.
        pictures: their number.
        truth: task -> convention of the true labels; None if the pictures have not been rendered yet.
    """

    location: str
    pictures: int
    truth: Mapping[str, Convention] | None

    def __str__(self) -> str:
        tasks = ", ".join(self.truth or {}) or "none"
        labels = "rendered by the run" if self.truth is None else f"true labels: {tasks}"
        return f"{counted(self.pictures, 'picture')} of {self.location}; {labels}"


@dataclass(frozen=True, slots=True)
class Preview:
    """The work of a run.

    Attributes:
        recipe: of the run.
        folder: of the run.
        samples: usable samples.
        left_out: reason -> samples that cannot be used.
        coverage: column -> share of the samples that have a label; None if no shard is labeled yet.
        steps: updates of each training. trial_steps: updates of each trial of a learning rate.
        trainings: (arm, seed) of each training.
        done: (arm, seed) of a training -> its finished steps.
        trials: trials of learning rates, over all arms. finished_trials: those that have ended.
        memory: of the arm with most terms, on each process; None if nothing is trained.
        processes: that share each batch. online: columns whose experts label during training. held: samples that the
            guard holds out of training.
        epoch_bytes: of pictures, captions and labels, read once; None for rows of tables, whose index has no sizes, and
            for pictures that have not been rendered yet.
        splits: split -> its pictures; empty if single arms are trained, which measures nothing.
        compared_experts: URIs of the experts that label the pictures of the reported splits, too, for comparison.
    """

    recipe: Recipe
    folder: Path
    samples: int
    left_out: Mapping[str, int]
    coverage: Mapping[str, float | None]
    steps: int
    trial_steps: int
    trainings: Sequence[tuple[str, int]]
    done: Mapping[tuple[str, int], int]
    trials: int
    finished_trials: int
    memory: Memory | None
    epoch_bytes: int | None
    splits: Mapping[str, Split]
    compared_experts: Sequence[str]
    processes: int = 1
    online: Sequence[str] = ()
    held: int = 0

    @property
    def epochs(self) -> float:
        """Average number of times that one training sees a sample."""
        return self.steps * self.recipe.training.batch_size / (self.samples - self.held)

    def rows(self) -> list[tuple[str, str]]:
        """Return (name, text) of each row of the table."""
        batch = self.recipe.training.batch_size
        rows = [
            *_label_rows(self.folder, self.samples, self.left_out, self.coverage, self.online, self.held),
            ("each training", f"{counted(self.steps, 'step')} of {batch} samples = {self.epochs:.3g} epochs"),
            ("learning rates", self._rates()),
            ("trainings", self._trainings()),
        ]
        if any(self.done.values()) or self.finished_trials:
            rows.append(("done already", self._finished()))
        if self.memory:
            rows.append(("memory, estimated", self._memory(self.memory)))
        rows.append(("data of an epoch", UNKNOWN_SIZE if self.epoch_bytes is None else _size(self.epoch_bytes)))
        rows += [(f"evaluation.{name}", str(split)) for name, split in self.splits.items()]
        if self.recipe.interpolation and self.splits:
            swept = ", ".join(f"{alpha:g}" for alpha in self.recipe.interpolation.swept)
            arms = ", ".join(self.recipe.interpolation.arms)
            rows.append(("interpolation", f"{arms}: α = {swept} of each seed, measured on validation"))
        if self.compared_experts:
            rows.append(("experts asked", self._compared()))
        return rows

    def _compared(self) -> str:
        reported = " and ".join(name for name in REPORTED if name in self.splits)
        return f"{', '.join(self.compared_experts)}: they label the pictures of {reported}, too, for comparison"

    def _rates(self) -> str:
        settings = self.recipe.training
        grid = ", ".join(f"{rate:g}" for rate in settings.learning_rates)
        chosen = f", chosen on validation by trials of {self.trial_steps:,} steps" if self.trials else ""
        heads = f"heads {settings.heads_learning_rate:g}"
        return f"image tower {grid}{chosen}; text tower ×{settings.text_factor:g}; {heads}"

    @property
    def _total(self) -> int:
        """Steps of all trainings and trials."""
        return len(self.trainings) * self.steps + self.trials * self.trial_steps

    def _trainings(self) -> str:
        if not self.trainings:
            return "none"
        trials = f" + {counted(self.trials, 'trial')} × {self.trial_steps:,}" if self.trials else ""
        total = f"{len(self.trainings)} × {self.steps:,}{trials} = {counted(self._total, 'step')}"
        return f"{describe(self.trainings)}\n{total}"

    def _finished(self) -> str:
        lines = []
        if whole := [training for training, steps in self.done.items() if steps >= self.steps]:
            lines.append(f"trained: {describe(whole)}")
        for training, steps in self.done.items():
            if 0 < steps < self.steps:
                lines.append(f"{describe([training])}: {steps:,} of {self.steps:,} steps")
        if self.finished_trials:
            lines.append(f"{self.finished_trials} of {self.trials} trials")
        if (self.folder / "results.json").exists():
            lines.append("measured: results.json")
        remaining = self._total - sum(self.done.values()) - self.finished_trials * self.trial_steps
        return "\n".join([*lines, f"{counted(remaining, 'step')} remaining"])

    def _memory(self, memory: Memory) -> str:
        settings = self.recipe.training
        several = self.processes > 1
        parts = {
            "the average of the weights": memory.average,
            "the start that anchors compare with": memory.start,
            "blocks that are gathered": memory.gathered,
            "logits of the contrastive loss": memory.logits if memory.logits > memory.total / 100 else 0,
        }
        others = "".join(f",\n{_size(size)} for {part}" for part, size in parts.items() if size)
        of = f" on each of {self.processes} processes ({settings.sharding})" if several else ""
        precision = "fp32, at most" if settings.precision == "auto" else settings.precision
        images = counted(math.ceil(settings.batch_size / self.processes / settings.accumulate), "image")
        if not several and settings.accumulate == 1:
            images = f"batch size {settings.batch_size}"
        return (
            f"about {_size(memory.total)}{of}: {_size(memory.state)} for {memory.parameters / 1e6:,.1f} M weights, "
            f"their gradients and AdamW,\n{_size(memory.activations)} for activations at {images} in "
            f"{precision}{others}"
        )


def preview(
    recipe: Recipe,
    out: AnyPath,
    *,
    arms: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    progress: Progress | None = None,
    processes: int = 1,
) -> Preview:
    """Return the work of a run without starting it.

    Args:
        recipe: complete.
        out: the folder of the run, which may not exist; nothing is written into it.
        arms, seeds: of the trainings; default the recipe's.
        progress: receives what is being unpacked.
        processes: that will share each batch.

    Raises:
        ClipzooError: a mistake that would stop the run.
        PlanError: there are fewer samples than one batch holds.
    """
    for arm in arms or ():
        check_trainable(arm, recipe)
    with TemporaryDirectory() as scratch:
        run = Run(recipe, out, progress, scratch=Path(scratch))
        (samples, left_out, coverage, size), settings = _data(run), recipe.training
        check_shares(settings, processes)
        check_balancing(settings, processes)
        held_out = _held(recipe, samples)
        check_batch(recipe, samples - held_out)
        trained = list(arms or (arm for arm in recipe.arms if arm != "clip"))
        searched = [arm for arm in trained if arm in TRAINED]  # named arms have the learning rate of clipzoo
        trainings = [(arm, seed) for arm in trained for seed in seeds or recipe.seeds]
        steps = run.steps(samples - held_out)
        folders = {training: run.folder_of(*training) for training in trainings}
        done = {training: steps if ended(folder) else reached(folder) for training, folder in folders.items()}
        grid = settings.learning_rates if len(settings.learning_rates) > 1 else ()
        splits = {} if arms else _splits(run)
        return Preview(
            recipe=recipe,
            folder=run.out,
            samples=samples,
            held=held_out,
            left_out=left_out,
            coverage=coverage,
            steps=steps,
            trial_steps=run.trainings.trial_steps(samples - held_out),
            trainings=trainings,
            done=done,
            trials=len(grid) * len(searched),
            finished_trials=sum(f"{rate:g}" in run.trainings.trials(arm) for arm in searched for rate in grid),
            memory=_memory(run, trained, processes),
            processes=processes,
            epoch_bytes=size,
            splits=splits,
            compared_experts=_compared_experts(run, splits),
            online=_online(run),
        )


def preview_labels(recipe: Recipe, out: AnyPath, *, progress: Progress | None = None) -> list[tuple[str, str]]:
    """Return (name, text) of each row of the table of a run that labels only: no training or evaluation is checked.

    Args:
        recipe: complete.
        out: the folder of the run, which may not exist; nothing is written into it.
        progress: receives what is being unpacked.

    Raises:
        ClipzooError: a mistake that would stop the labeling.
    """
    with TemporaryDirectory() as scratch:
        run = Run(recipe, out, progress, scratch=Path(scratch))
        samples, left_out, coverage, _ = _data(run)
        return _label_rows(run.out, samples, left_out, coverage, _online(run))


def _label_rows(
    folder: Path,
    samples: int,
    left_out: Mapping[str, int],
    coverage: Mapping[str, float | None],
    online: Sequence[str],
    held: int = 0,
) -> list[tuple[str, str]]:
    reasons = "".join(f"\nleft out: {count:,} × {reason}" for reason, count in left_out.items())
    reasons += f"\nheld out of training for the guard: {held:,}" if held else ""
    return [
        ("folder", f"{folder}{'' if folder.exists() else ' (new)'}"),
        ("samples", f"{samples:,} usable{reasons}"),
        *((f"labels {name}", _share(share)) for name, share in coverage.items()),
        *((f"labels {name}", "predicted during training, not stored") for name in online),
    ]


def _online(run: Run) -> list[str]:
    """Return the columns whose experts label during training."""
    return [name for name, (column, _) in run.specs.items() if column.online]


def _held(recipe: Recipe, samples: int) -> int:
    """Return the number of samples that the guard holds out of training."""
    guard = recipe.training.guard
    alone = guard is not None and guard.benchmark is None and recipe.evaluation.validation is None
    return held(guard, samples) if guard and alone else 0


def _memory(run: Run, trained: Sequence[str], processes: int) -> Memory | None:
    if not trained:
        return None
    arm = "clip" if set(trained) == {"clip-ft"} else "clipzoo"
    strides = {name: column.stride for name, (column, _) in run.specs.items()}
    return estimate(run.start(arm, random=True), strides, run.recipe.training, processes)


def _splits(run: Run) -> dict[str, Split]:
    places = {name: getattr(run.recipe.evaluation, name) for name in SPLITS}
    return {name: _split(run, place) for name, place in places.items() if place}


def _split(run: Run, location: str) -> Split:
    pictures = locations.pictures_to_render(location)
    if pictures is not None:
        return Split(location, pictures, None)
    benchmark = run.inputs.benchmark(location)
    pictures = sum(len(benchmark.reader.index(shard)) for shard in benchmark.shards)
    return Split(location, pictures, benchmark.conventions)


def _compared_experts(run: Run, splits: Mapping[str, Split]) -> list[str]:
    """Return the experts whose labels can be compared with the true labels of test; none if probes cannot be fitted."""
    if not all(name in splits and splits[name].truth for name in ("probe", "validation", "test")):
        return []
    truth = splits["test"].truth or {}
    cards = {uri: expert.card for uri, expert in run.inputs.experts.items() if not expert.needs_sample}
    return [uri for uri, card in cards.items() if truth.get(card.task) == card.convention]


def _data(run: Run) -> tuple[int, Mapping[str, int], dict[str, float | None], int | None]:
    """Return usable samples, reasons of those left out, coverage by column and bytes of an epoch."""
    stored = {column.name: column for column in run.inputs.store.columns()}
    wanted = [name for name, (column, _) in run.specs.items() if not column.online]
    labeled = {name: stored[name] for name in wanted if name in stored and stored[name].committed()}
    coverage: dict[str, float | None] = dict.fromkeys(wanted)
    pictures = locations.pictures_to_render(run.recipe.location)
    if pictures is not None:
        samples = min(pictures, run.recipe.max_samples or pictures)
        return samples, {}, coverage | {n: c.manifest.counts.labels / samples for n, c in labeled.items()}, None
    assert run.folder.scratch
    plan = run.inputs.join(labeled, run.folder.scratch / "plan.arrow")  # mapped, not in memory
    return len(plan), plan.left_out, coverage | plan.coverage(), _bytes(plan, labeled)


def _bytes(plan: Plan, columns: Mapping[str, Column]) -> int | None:
    if pc.any(pc.equal(plan.table["image:ext"], ROW)).as_py():  # the span of a row is not that of its image
        return None
    return sum(pc.sum(plan.table[f"{name}:size"]).as_py() or 0 for name in ("image", "caption", *columns))


def _share(share: float | None) -> str:
    return "not labeled yet" if share is None else f"{share:.1%} of the samples"


def _size(count: int) -> str:
    """Return a number of bytes as text."""
    for unit, name in ((2**30, "GiB"), (2**20, "MiB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count / 2**10:.1f} KiB"
