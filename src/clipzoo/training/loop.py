"""The training loop. It may be killed at any step and resumes at the same sample; on one CPU thread, bit for bit."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import closing, nullcontext
from typing import cast

import torch

from clipzoo.data import Batch, loader
from clipzoo.errors import DivergedError
from clipzoo.models import Student
from clipzoo.stopping import Interrupted, Stop, signals
from clipzoo.training import checks, guard, result
from clipzoo.training.checkpoint import Checkpoints
from clipzoo.training.guard import Guard
from clipzoo.training.health import Health
from clipzoo.training.job import Training
from clipzoo.training.pictures import pictures
from clipzoo.training.processes import exchange, ranks, sharding
from clipzoo.training.processes.sharding import Sharding
from clipzoo.training.records import Records
from clipzoo.training.updates import exact, optimizer, out_of_memory
from clipzoo.training.updates.step import Updater


def train(training: Training) -> Student:
    """Execute a job, or resume it from its checkpoint; the result is in ``job.out/student``.

    Raises:
        DatasetError: no sample of a whole batch, or too few of them, can be read.
        StoreError: too few labels of a column can be read, or its files were removed or replaced.
        RemoteError: a remote file cannot be reached.
        CheckpointError: existing files are damaged, or they belong to another model.
        RecipeError: several processes were started, the device has no deterministic kernel and needs one, or a step
            does not fit in memory.
        DivergedError: gradients are not finite, in more steps than ``max_nonfinite`` allows.
        Interrupted: SIGINT, SIGTERM or SIGUSR1 arrived; the state is saved first. A second signal does not wait.
    """
    ranks.check_joined()
    exact.prepare(training.job.settings.deterministic)
    job, student = training.job, training.student.to(training.job.device)
    sharding.check_batch(job.settings)
    sharding.check_student(job.settings, student)
    checks.check_balancing(job.settings)
    if trained := result.finished(job.out, job.device, student.trust_remote_code):
        return trained
    job.out.mkdir(parents=True, exist_ok=True)
    optimizer.freeze(student, job)
    ranks.wait()  # for processes that still download weights: NCCL would wait for minutes only
    sharded = Sharding(job, student)  # keeps the start for anchors, before the checkpoint replaces it
    adam = optimizer.build(student, job)
    updater = Updater(training, adam, sharded)
    checkpoints = Checkpoints(job, sharded, adam, updater.states)
    watch = guard.build(training, sharded, checkpoints, updater.average)
    start = step = checkpoints.resume()
    records = Records(job, step, watch.events if watch else ())
    while step < job.steps:  # again after a rollback of the guard
        batches = _batches(training, step)  # starts workers, which must not inherit the handlers of signals
        # workers ignore the SIGTERM of an interpreter that ends, which would wait for them forever
        with closing(batches), signals() as stop, exact.arithmetic(job.settings.deterministic):
            step = _run(training, updater, batches, step, checkpoints, records, watch, stop)
        if watch and watch.events:  # they are added to the log
            records.close()
            records = Records(job, step, watch.events)
    if training.evaluate and start < job.steps:
        checkpoints.write(job.steps)  # a measurement that fails costs no training
    if updater.average:
        updater.average.apply()
    guard.measure(training, sharded, records, job.steps)
    records.close()
    if watch:
        watch.finish()
    trained = sharded.gathered() or student
    result.write(training, trained)
    ranks.wait()
    return trained


def _run(
    training: Training, updater: Updater, batches: Iterator[Batch], start: int, checkpoints: Checkpoints,
    records: Records, watch: Guard | None, stop: Stop,
) -> int:  # fmt: skip
    """Take the steps from ``start``; return the last step, or an earlier one after a signal or a rollback."""
    job, settings, student = training.job, training.job.settings, training.student
    if watch:
        watch.begin(start, records)
        updater.rate_factor = watch.factor
    health = Health(settings.max_failures, training.dataset.supervision)
    student.train()
    for step in range(start, job.steps):
        began = time.perf_counter()
        batch = next(batches).to(torch.device(job.device))
        waited = time.perf_counter() - began
        done = step + 1
        last = done == job.steps

        batch = exchange.failures(batch)
        records.skipped(step, batch.skipped)
        health.count(batch)
        health.check(step, last)
        try:
            with out_of_memory.explained(settings, step):
                update = updater.update(batch, step)
        except DivergedError as error:
            if watch is None:
                raise
            return _left(watch.diverged(done, error), stop, records)

        if step % settings.log_every == 0 or last or update.measured:
            seconds = time.perf_counter() - began
            images = batch.unreadable[""][1] - batch.unreadable[""][0]  # of all processes
            speed = {"images_per_second": images / seconds, "waiting": waited / seconds}
            values = update.values()
            records.write(step, values, speed)
            training.on_step(step, values | speed)
        if settings.pictures_every and done % settings.pictures_every == 0:
            records.pictures(step, pictures(student, batch))
            student.train()
        if settings.evaluate_every and done % settings.evaluate_every == 0 and not last:
            with updater.average.applied() if updater.average else nullcontext():
                guard.measure(training, updater.sharding, records, step)
            student.train()
        if watch and watch.due(done):
            reached = watch.check(done, records)
            if reached != done:
                return _left(reached, stop, records)
        signal, due = exchange.decisions(stop.signal, checkpoints.due(done))
        if signal or (due and not last):
            checkpoints.write(done)
        _interrupt(signal, done, records)
    return job.steps


def _left(reached: int, stop: Stop, records: Records) -> int:
    """Return the step that the guard has restored and saved, unless a signal came before."""
    signal, _ = exchange.decisions(stop.signal, False)
    _interrupt(signal, reached, records)
    return reached


def _interrupt(signal: str, step: int, records: Records) -> None:
    """Raise `Interrupted` after a signal, in all processes together; the state of ``step`` is saved.

    A process that ended before the main one has written the checkpoint would end that too (`watch.GRACE`).
    """
    if not signal:
        return
    records.close()
    ranks.wait()
    raise Interrupted(f"stopped by {signal} after step {step}; rerun the command to resume", signal)


def _batches(training: Training, start: int) -> Generator[Batch]:
    """Return the batches of the remaining steps; `Generator.close` ends the workers."""
    job, settings = training.job, training.job.settings
    batches = loader(
        training.dataset,
        settings.batch_size // ranks.world_size(),
        training.student.tokenize,
        start=start,
        rank=ranks.rank(),
        ranks=ranks.world_size(),
        steps=job.steps,
        workers=settings.workers,
        pin_memory=torch.device(job.device).type == "cuda",
    )
    return cast("Generator[Batch]", iter(batches))
