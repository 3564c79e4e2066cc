"""The loop. It can be killed at any step and goes on at the exact sample; on one CPU thread, to the same bits."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clipzoo import files
from clipzoo.data import Batch, TrainingSet, loader
from clipzoo.errors import CheckpointError, DatasetError, DivergedError
from clipzoo.models import Student
from clipzoo.recipe import TrainingRecipe
from clipzoo.stopping import Interrupted, signals
from clipzoo.training import checkpoint, exact, health, objectives, optimizer
from clipzoo.training.records import Records

CHECKPOINT, DONE = "checkpoint.pt", "done"
"""Files in the folder of a training, and of its student once that is whole."""


@dataclass(frozen=True)
class Job:
    """One training run.

    Attributes:
        student: where it starts; trained in place.
        dataset: what it sees.
        weights: term -> weight; ``contrastive`` defaults to 1.
        settings: the recipe's training part.
        rate: peak learning rate of the image tower.
        steps: how many.
        out: folder of the checkpoint, the log and the result.
        evaluate: called every ``settings.evaluate_every`` steps and at the end; yields (name, value).
        device: as torch names it.
        on_step: told the step and its values, when they are logged.
        say: told in a sentence what could not be read, at the end.
    """

    student: Student
    dataset: TrainingSet
    weights: Mapping[str, float]
    settings: TrainingRecipe
    rate: float
    steps: int
    out: Path
    evaluate: Callable[[Student], Iterable[tuple[str, float]]] | None = None
    device: str = "cpu"
    on_step: Callable[[int, Mapping[str, float]], None] = field(default=lambda step, values: None)
    say: Callable[[str], None] = field(default=lambda text: None)


def train(job: Job) -> Student:
    """Train, or go on with what an earlier call left in ``job.out``; the result is in ``job.out/student``.

    Raises:
        DatasetError: no sample of a whole batch, or too few of them, can be read.
        StoreError: too few labels of a column can be read, or its files are gone or exchanged.
        RemoteError: a place cannot be reached.
        CheckpointError: what an earlier call left is damaged, or of another model.
        RecipeError: it is to be deterministic, and the device cannot.
        DivergedError: the loss is no longer finite.
        Interrupted: asked to stop by SIGINT or SIGTERM; the state is saved first. A second signal does not wait.
    """
    settings, student, device = job.settings, job.student.to(job.device), torch.device(job.device)
    if done_before := finished(job.out, job.device, student.trust_remote_code):
        return done_before
    job.out.mkdir(parents=True, exist_ok=True)
    rates = {"heads": settings.heads_learning_rate, "image": job.rate, "text": job.rate * settings.text_factor}
    adam = optimizer.build(student, rates, settings.weight_decay)
    start = _resume(job, student, adam)
    log, seen = Records(job.out, start), health.Health(settings.max_failures, job.dataset.labels)
    batches = iter(
        loader(
            job.dataset, settings.batch_size, student.tokenize, start=start, steps=job.steps, workers=settings.workers,
            pin_memory=device.type == "cuda",
        )
    )  # fmt: skip
    student.train()
    forward = torch.compile(student) if settings.compile else student
    saved_at = time.monotonic()
    with signals() as stop, exact.arithmetic(settings.deterministic):
        for step in range(start, job.steps):
            began = time.perf_counter()
            batch: Batch = next(batches).to(device)
            waited = time.perf_counter() - began
            log.skipped(step, batch.skipped)
            seen.note(batch)
            seen.judge(step, last=step == job.steps - 1)
            update = _step(job, forward, adam, batch, step)
            if step % settings.log_every == 0 or step == job.steps - 1:
                seconds = time.perf_counter() - began
                speed = {"images_per_second": len(batch.captions) / seconds, "waiting": waited / seconds}
                log.write(step, values := update.values(), speed)
                job.on_step(step, values | speed)
            done = step + 1
            if settings.evaluate_every and done % settings.evaluate_every == 0 and done < job.steps:
                _evaluate(job, student, log, step)
                student.train()
            due = (
                done % settings.checkpoint_every == 0 or time.monotonic() - saved_at > 60 * settings.checkpoint_minutes
            )
            if stop.signal or (due and done < job.steps):
                _save(job, student, adam, done)
                saved_at = time.monotonic()
            if stop.signal:
                log.close()
                raise Interrupted(f"stopped by {stop.signal}; the same command goes on behind step {done}")
    if job.evaluate and start < job.steps:
        _save(job, student, adam, job.steps)  # what fails while it measures costs no training
    _evaluate(job, student, log, job.steps)
    log.close()
    _finish(job, student)
    return student


def _finish(job: Job, student: Student) -> None:
    """Keep what was learned, and from what; only when it is on the disk does the checkpoint go."""
    found = health.supervision(job.dataset.plan, job.dataset.labels, job.out)
    health.keep(job.out, found)
    if told := health.unread(found):
        job.say(told)
    student.save(job.out / "student")
    files.settle(job.out / "student")
    files.write(job.out / "student" / DONE, b"")
    (job.out / CHECKPOINT).unlink(missing_ok=True)


def ended(out: Path) -> bool:
    """Whether the training in this folder has ended: its student is whole."""
    return (out / "student" / DONE).exists()


def reached(out: Path) -> int:
    """How many steps an unfinished training has behind it: those that it would not take again."""
    return checkpoint.step(out / CHECKPOINT)


def finished(out: Path, device: str, trust_remote_code: bool = False) -> Student | None:
    """The student of a training that has ended; None where there is none.

    Raises:
        CheckpointError: its files are damaged.
    """
    if not ended(out):
        return None
    try:
        return Student.load(out / "student", trust_remote_code).to(device).eval()
    except CheckpointError as error:
        raise CheckpointError(
            f"the trained student in {out / 'student'} cannot be used: {error}. Copy it again from where it is sound, "
            f"or delete the folder {out} and rerun the command, which trains it anew"
        ) from error


@dataclass(frozen=True, slots=True)
class _Update:
    """What one update was: the loss and its terms, unweighted, the gradient's norm, the rate of the image tower."""

    terms: Mapping[str, Tensor]
    loss: Tensor
    norm: Tensor
    rate: float

    def values(self) -> dict[str, float]:
        """For the log; waits for the device."""
        named = {f"loss/{name}": term.item() for name, term in self.terms.items()}
        return named | {"loss": self.loss.item(), "gradient_norm": self.norm.item(), "rate": self.rate}


def _step(
    job: Job, forward: Callable[..., dict[str, Any]], adam: torch.optim.Optimizer, batch: Batch, step: int
) -> _Update:
    if not batch.captions:
        raise DatasetError(_none_left(step, batch))
    settings, student = job.settings, job.student
    factor = optimizer.schedule(step, job.steps, settings.warmup)
    for group in adam.param_groups:
        group["lr"] = group["peak"] * factor
    with torch.autocast(batch.images.device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
        out = forward(batch.images, batch.tokens)
    named = objectives.terms(student, out, batch)
    loss = torch.stack([job.weights.get(name, 1.0) * term for name, term in named.items()]).sum()
    adam.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    norm = torch.nn.utils.clip_grad_norm_(student.parameters(), settings.clip_norm)
    if not math.isfinite(norm):
        raise DivergedError(_not_finite(step, named, batch))
    adam.step()
    with torch.no_grad():
        student.clip.logit_scale.clamp_(0, math.log(100))
    return _Update(named, loss, norm, job.rate * factor)


def _evaluate(job: Job, student: Student, log: Records, step: int) -> None:
    """Measure the student, if the job says how; leaves it in evaluation mode."""
    student.eval()
    if job.evaluate:
        log.write(step, dict(job.evaluate(student)), {})


def _save(job: Job, student: Student, adam: torch.optim.Optimizer, step: int) -> None:
    state = {
        "step": step,
        "student": student.state_dict(),
        "optimizer": adam.state_dict(),
        "rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }
    checkpoint.save(job.out / CHECKPOINT, state)


def _resume(job: Job, student: Student, adam: torch.optim.Optimizer) -> int:
    path = job.out / CHECKPOINT
    if not path.exists():
        torch.manual_seed(job.dataset.seed)
        return 0
    state = checkpoint.load(path)
    with checkpoint.fitting(path):
        student.load_state_dict(state["student"])
        adam.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"])
    if state.get("cuda_rng") and torch.cuda.device_count() == len(state["cuda_rng"]):
        torch.cuda.set_rng_state_all(state["cuda_rng"])
    if state["step"] > job.steps:
        raise CheckpointError(
            f"{path} has {state['step']} steps behind it, more than the {job.steps} of this training: it is of another "
            "one. Delete it to begin this training anew"
        )
    return int(state["step"])


def _none_left(step: int, batch: Batch) -> str:
    key, reason = batch.skipped[0]
    return (
        f"step {step}: none of the {len(batch.skipped)} samples could be read, the first of them {key}: {reason}; is "
        "the dataset still there? Mend it, or raise training.batch_size, and run the same again"
    )


def _not_finite(step: int, named: Mapping[str, torch.Tensor], batch: Batch) -> str:
    values = ", ".join(f"{name}={term.item():.4g}" for name, term in named.items())
    return (
        f"the gradient is not finite at step {step} ({values}; {len(batch.captions)} images): lower "
        "training.learning_rates or a column's weight; if one term alone is not finite, its labels break the contract "
        "(`clipzoo inspect` shows them)"
    )
