"""The training loop. It may be killed at any step and resumes at the same sample; on one CPU thread, bit for bit."""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch

from clipzoo.data import Batch, loader
from clipzoo.errors import DivergedError
from clipzoo.models import Student
from clipzoo.stopping import Interrupted, Stop, signals
from clipzoo.training import exact, guard, optimizer, ranks, result
from clipzoo.training.checkpoint import Checkpoints
from clipzoo.training.guard import Guard
from clipzoo.training.health import Health
from clipzoo.training.job import Training
from clipzoo.training.records import Records
from clipzoo.training.step import Updater


def train(training: Training) -> Student:
    """Execute a job, or resume it from its checkpoint; the result is in ``job.out/student``.

    Raises:
        DatasetError: no sample of a whole batch, or too few of them, can be read.
        StoreError: too few labels of a column can be read, or its files were removed or replaced.
        RemoteError: a remote file cannot be reached.
        CheckpointError: existing files are damaged, or they belong to another model.
        RecipeError: several processes were started, or the device has no deterministic kernel and needs one.
        DivergedError: the loss is not finite.
        Interrupted: SIGINT or SIGTERM arrived; the state is saved first. A second signal does not wait.
    """
    ranks.check_single_process()
    job, student = training.job, training.student.to(training.job.device)
    if trained := result.finished(job.out, job.device, student.trust_remote_code):
        return trained
    job.out.mkdir(parents=True, exist_ok=True)
    adam = optimizer.build(student, job.rates, job.settings.weight_decay)
    checkpoints = Checkpoints(job, student, adam)
    updater = Updater(training, adam)  # keeps the start frozen, before the checkpoint replaces it
    watch = guard.build(training, checkpoints)
    start = step = checkpoints.resume()
    records = Records(job.out, step, watch.events if watch else ())
    while step < job.steps:  # again after a rollback of the guard
        batches = _batches(training, step)  # starts workers, which must not inherit the handlers of signals
        with signals() as stop, exact.arithmetic(job.settings.deterministic):
            step = _run(training, updater, batches, step, checkpoints, records, watch, stop)
        if stop.signal:
            records.close()
            raise Interrupted(f"stopped by {stop.signal} after step {step}; rerun the command to resume")
        if watch:  # its events are added to the log
            records.close()
            records = Records(job.out, step, watch.events)
    if training.evaluate and start < job.steps:
        checkpoints.write(job.steps)  # a measurement that fails costs no training
    guard.measure(training, records, job.steps)
    records.close()
    if watch:
        watch.finish()
    result.write(training)
    return student


def _run(
    training: Training, updater: Updater, batches: Iterator[Batch], start: int, checkpoints: Checkpoints,
    records: Records, watch: Guard | None, stop: Stop,
) -> int:  # fmt: skip
    """Take the steps from ``start``; return the last step, or an earlier one after a signal or a rollback."""
    job, settings, student = training.job, training.job.settings, training.student
    if watch:
        watch.begin(start, records)
        updater.rate_factor = watch.factor
    health = Health(settings.max_failures, training.dataset.labels)
    student.train()
    for step in range(start, job.steps):
        began = time.perf_counter()
        batch = next(batches).to(torch.device(job.device))
        waited = time.perf_counter() - began
        done = step + 1
        last = done == job.steps

        records.skipped(step, batch.skipped)
        health.count(batch)
        health.check(step, last)
        try:
            update = updater.update(batch, step)
        except DivergedError as error:
            if watch is None:
                raise
            return watch.diverged(done, error)

        if step % settings.log_every == 0 or last:
            seconds = time.perf_counter() - began
            speed = {"images_per_second": len(batch.captions) / seconds, "waiting": waited / seconds}
            values = update.values()
            records.write(step, values, speed)
            training.on_step(step, values | speed)
        if settings.evaluate_every and done % settings.evaluate_every == 0 and not last:
            guard.measure(training, records, step)
            student.train()
        if watch and watch.due(done):
            reached = watch.check(done, records)
            if reached != done:
                return reached
        if stop.signal or (checkpoints.due(done) and not last):
            checkpoints.write(done)
        if stop.signal:
            return done
    return job.steps


def _batches(training: Training, start: int) -> Iterator[Batch]:
    job, settings = training.job, training.job.settings
    batches: Iterator[Batch] = iter(
        loader(
            training.dataset,
            settings.batch_size,
            training.student.tokenize,
            start=start,
            steps=job.steps,
            workers=settings.workers,
            pin_memory=torch.device(job.device).type == "cuda",
        )
    )
    return batches
