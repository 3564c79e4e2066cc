"""The trainings of a run: the start of each arm, its learning rate, its number of steps and its result."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch

from clipzoo import files
from clipzoo.data import LabelColumn, Plan, TrainingSet, Viewing
from clipzoo.errors import CheckpointError, DivergedError, RecipeError
from clipzoo.evaluation import zero_shot
from clipzoo.evaluation.criterion import criterion
from clipzoo.evaluation.suite import Suite
from clipzoo.experts.base import sha256
from clipzoo.models import Student
from clipzoo.recipe import Recipe
from clipzoo.runs import guarding
from clipzoo.runs.before.preflight import TRAINED
from clipzoo.runs.inputs import Inputs, open_suite
from clipzoo.training import Job, Recognition, Training, ended, finished
from clipzoo.training import train as train_job
from clipzoo.training.processes import ranks, spread

T = TypeVar("T")
WEIGHTS = "open_clip_model.safetensors"
"""The file of the weights in the folder of a student."""

DIVERGED = {"criterion": -1.0}
"""The scores of a trial that diverged: below any that is measured."""


class Trainings:
    """The students of a run.

    Args:
        inputs: of the run.
        device: as torch names it.
    """

    def __init__(self, inputs: Inputs, device: str) -> None:
        self.inputs, self.device = inputs, device
        self.recipe, self.folder, self.progress = inputs.recipe, inputs.folder, inputs.progress

    @cached_property
    def suite(self) -> Suite:
        """The measurements; validation chooses learning rates and watches zero-shot."""
        return open_suite(self.inputs, self.start())

    def start(self, arm: str = "clip", seed: int = 0, random: bool = False) -> Student:
        """Return the student before training; that of ``clipzoo`` has heads, drawn from the seed."""
        wanted = self.recipe.student
        heads = {name: head for name, (_, head) in self.inputs.specs.items()} if arm == "clipzoo" else {}
        gpus = [torch.device(self.device)] if self.device.startswith("cuda") else []
        with torch.random.fork_rng(gpus):  # trainings call this, and keep their own random state
            torch.manual_seed(seed)
            return Student.create(
                wanted.model,
                wanted.pretrained,
                heads,
                wanted.layers,
                random or wanted.random,
                wanted.trust_remote_code,
                wanted.height_width,
            )

    def train(self, arm: str, seed: int) -> Student:
        """Return the trained student of an arm and seed; train it first if necessary."""
        if arm == "clip":
            return self.start().to(self.device).eval()
        student = self.trained(arm, seed)
        if student is None:
            if self.folder.base:
                self.folder.base.check_trained(arm, seed, self.folder.path)
            student = self._trained_by_all(arm, seed, self.rate(arm), self.steps(), self.folder.training(arm, seed))
        return student

    def _trained_by_all(self, arm: str, seed: int, rate: float, steps: int, out: Path) -> Student:
        """Train on all processes; the others build the same job, from inputs that this one has prepared."""
        job = self._job(arm, seed, rate, steps, out)
        self.announce(arm=arm, seed=seed, rate=rate, steps=steps, out=str(out.absolute()))
        return train_job(job)

    def announce(self, **job: Any) -> None:
        """Tell the other processes to open this run and to `take_part` in a job; without one, to open it only."""
        if ranks.world_size() > 1:
            recipe = self.recipe.model_dump(mode="json")
            ranks.announce({"recipe": recipe, "folder": str(self.folder.path.absolute()), "job": job})

    def take_part(self, job: Mapping[str, Any]) -> None:
        """Take part in a training or in a measurement that the main process announced."""
        if "measured" in job:
            spread.follow(self._saved(job["measured"]))
        else:
            train_job(self._job(job["arm"], job["seed"], job["rate"], job["steps"], Path(job["out"])))

    def measured(self, student: Student, source: Path | str, measure: Callable[[], T]) -> T:
        """Return ``measure()`` of a student, for which all processes encode pictures and texts.

        Args:
            student: in the main process.
            source: where the other processes get it: the folder of its training, or ``start`` or ``random``.
            measure: what the main process computes with this very object.
        """
        if ranks.world_size() == 1:
            return measure()
        self.announce(measured=source if isinstance(source, str) else str(source.absolute()))
        return spread.lead(student, measure)

    def _saved(self, source: str) -> Student:
        if source in ("start", "random"):
            return self.start(random=source == "random").to(self.device).eval()
        student = finished(Path(source), self.device, self.recipe.student.trust_remote_code)
        if student is None:
            raise CheckpointError(
                f"{source} has a student for rank 0, but not for rank {ranks.rank()}: put the run's folder on a file "
                "system that all machines share, and rerun the command, which resumes"
            )
        return student

    def trained(self, arm: str, seed: int) -> Student | None:
        """Return the student of a finished training, else None; `CheckpointError` if it is damaged."""
        return finished(self.folder.training(arm, seed), self.device, self.recipe.student.trust_remote_code)

    def digest(self, arm: str, seed: int) -> str:
        """Return the SHA-256 of the weights of an arm and seed; train it first if necessary."""
        folder = self.folder.training(arm, seed)
        if not ended(folder) or not (folder / "student" / WEIGHTS).is_file():  # the error of a damaged student
            self.train(arm, seed)
        return digest(folder / "student")

    def remaining(self) -> list[tuple[str, int]]:
        """Return (arm, seed) of the recipe's trainings that are not finished."""
        arms = [arm for arm in self.recipe.arms if arm in TRAINED]
        trainings = [(arm, seed) for arm in arms for seed in self.recipe.seeds]
        return [(arm, seed) for arm, seed in trainings if not ended(self.folder.training(arm, seed))]

    def steps(self, samples: int | None = None) -> int:
        """Return the updates of each training: the recipe's steps, or its epochs in whole batches.

        Args:
            samples: of one epoch; default those of the plan.
        """
        settings = self.recipe.training
        return settings.steps or settings.updates(len(self.plan) if samples is None else samples)

    def trial_steps(self, samples: int | None = None) -> int:
        """Return the updates of a trial of a learning rate; ``samples`` as in `steps`."""
        return self.recipe.training.trial_updates(self.steps(samples))

    def rate(self, arm: str) -> float:
        """Return the learning rate of an arm; of several, the best by `clipzoo.evaluation.criterion` on validation."""
        rates = self.recipe.training.learning_rates
        if len(rates) == 1:
            return rates[0]
        trials = self.trials(arm)
        for rate in rates:
            if f"{rate:g}" not in trials:
                self.check_choice()
                if self.folder.base:
                    self.folder.base.check_rate(arm, self.folder.path)
                self.progress.stage(f"{arm}: trying the learning rate {rate:g}")
                trials[f"{rate:g}"] = self._trial(arm, rate)
                files.write(self._rates(arm), json.dumps(trials, indent=2).encode())
                shutil.rmtree(self._trial_folder(arm, rate) / "student", ignore_errors=True)
        return max(rates, key=lambda rate: trials[f"{rate:g}"]["criterion"])

    def check_choice(self) -> None:
        """Raise `RecipeError` if there are several learning rates and validation measures nothing to choose one by."""
        suite = self.suite if len(self.recipe.training.learning_rates) > 1 else None
        if suite and not (suite.probed or "validation" in suite.zero_shot or "validation" in suite.retrieval):
            raise RecipeError(
                f"training.learning_rates has several, but nothing can be measured on evaluation.validation, "
                f"{self.recipe.evaluation.validation!r}, to choose one: it needs classes, captions, or true labels and "
                "evaluation.probe (docs/benchmarks.md). Add one of these, or give one rate"
            )

    def trials(self, arm: str) -> dict[str, dict[str, float]]:
        """Return learning rate -> validation scores of its trial, for all finished trials of an arm."""
        path = self._rates(arm)
        trials: dict[str, dict[str, float]] = json.loads(path.read_text()) if path.exists() else {}
        return trials

    def _rates(self, arm: str) -> Path:
        return self.folder.rates(arm) / "rates.json"

    def _trial_folder(self, arm: str, rate: float) -> Path:
        return self.folder.rates(arm) / f"rate-{rate:g}"

    def _trial(self, arm: str, rate: float) -> dict[str, float]:
        out, split = self._trial_folder(arm, rate), ["validation"]
        try:
            student = self._trained_by_all(arm, self.recipe.seeds[0], rate, self.trial_steps(), out)
            return criterion(self.measured(student, out, lambda: self.suite.measure(student, split))["validation"])
        except DivergedError:
            return DIVERGED

    def _job(self, arm: str, seed: int, rate: float, steps: int, out: Path) -> Training:
        student, settings, columns = self.start(arm, seed), self.recipe.training, self.inputs.columns
        viewing = Viewing(
            student.image_size, settings.scale, flip=settings.flip, jitter=settings.jitter,
            resampling=settings.resampling, sizes=settings.height_widths,
        )  # fmt: skip
        labels = {
            name: LabelColumn(labels, column.stride, column.confidence_weight)
            for name, (column, labels) in columns.items()
        }
        used = labels if arm == "clipzoo" else {}
        online = self.inputs.online(self.device) if arm == "clipzoo" else {}
        dataset = TrainingSet(
            self.plan, self.inputs.reader, used, viewing, seed, self.recipe.mixture, settings.captions, online
        )

        def on_step(step: int, values: Mapping[str, float]) -> None:
            note = f"loss {values['loss']:.3f}, {values['images_per_second']:.0f} images/s"
            self.progress.step(f"{arm} seed {seed}", step + 1, steps, note)

        def say(text: str) -> None:
            self.progress.stage(f"{arm}, seed {seed}: {text}")

        weights = {name: column.weight for name, (column, _) in self.inputs.specs.items()}
        job = Job(settings, rate, steps, out, weights, seed, self.device)
        return Training(job, student, dataset, self._validate, on_step, say, self._guard[0])

    @cached_property
    def _guard(self) -> tuple[Recognition | None, Plan]:
        """The measure of the guard, and the plan without the samples that it holds out."""
        if self.recipe.training.guard is None:
            return None, self.inputs.plan
        return guarding.recognition(self.recipe.training.guard, self.inputs, self.suite, self.start().crop)

    @property
    def plan(self) -> Plan:
        """Images and labels to train on."""
        return self._guard[1]

    def _validate(self, student: Student) -> Iterator[tuple[str, float]]:
        """Yield (name, value) of the guard: zero-shot on validation, which training must not lower."""
        if "validation" in self.suite.zero_shot:
            scored = zero_shot.evaluate(student, self.suite.zero_shot["validation"])
            for name, value in scored.compute().items():
                yield f"validation/{name}", value


@cache
def _of_state(path: Path, size: int, time: int) -> str:
    return sha256(path)


def digest(student: Path) -> str:
    """Return the SHA-256 of the weights in a student's folder, computed once for each state of the file."""
    path = student / WEIGHTS
    state = path.stat()
    return _of_state(path, state.st_size, state.st_mtime_ns)


def seeds_of(recipe: Recipe, arm: str) -> tuple[int, ...]:
    """Return the seeds of an arm; ``clip``, which is not trained, has one."""
    return (0,) if arm == "clip" else recipe.seeds


def describe(trainings: Sequence[tuple[str, int]]) -> str:
    """Return (arm, seed) of several trainings as text."""
    arms: dict[str, list[str]] = {}
    for arm, seed in trainings:
        arms.setdefault(arm, []).append(str(seed))
    return "; ".join(f"{arm}: seed {', '.join(seeds)}" for arm, seeds in arms.items())
