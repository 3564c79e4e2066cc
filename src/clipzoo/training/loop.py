"""The training loop. It may be killed at any step and resumes at the same sample; on one CPU thread, bit for bit."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import nullcontext

import torch

from clipzoo.data import Batch, loader
from clipzoo.models import Student
from clipzoo.stopping import Interrupted, Stop, signals
from clipzoo.training import exact, exchange, guard, optimizer, ranks, result, sharding
from clipzoo.training.checkpoint import Checkpoints
from clipzoo.training.health import Health
from clipzoo.training.job import Training
from clipzoo.training.pictures import pictures
from clipzoo.training.records import Records
from clipzoo.training.sharding import Sharding
from clipzoo.training.step import Updater


def train(training: Training) -> Student:
    """Execute a job, or resume it from its checkpoint; the result is in ``job.out/student``.

    Raises:
        DatasetError: no sample of a whole batch, or too few of them, can be read.
        StoreError: too few labels of a column can be read, or its files were removed or replaced.
        RemoteError: a remote file cannot be reached.
        CheckpointError: existing files are damaged, or they belong to another model.
        RecipeError: several processes were started, or the device has no deterministic kernel and needs one.
        DivergedError: gradients are not finite, in more steps than ``max_nonfinite`` allows.
        Interrupted: SIGINT, SIGTERM or SIGUSR1 arrived; the state is saved first. A second signal does not wait.
    """
    ranks.check_joined()
    job, student = training.job, training.student.to(training.job.device)
    sharding.check_batch(job.settings)
    sharding.check_sharded(job.settings)
    sharding.check_student(job.settings, student)
    if trained := result.finished(job.out, job.device, student.trust_remote_code):
        return trained
    job.out.mkdir(parents=True, exist_ok=True)
    optimizer.freeze(student, job)
    sharded = Sharding(job, student)
    adam = optimizer.build(student, job)
    updater = Updater(training, adam, sharded)
    checkpoints = Checkpoints(job, sharded, adam, updater.states)
    start = checkpoints.resume()
    records = Records(job, start)
    batches = _batches(training, start)  # starts workers, which must not inherit the handlers of signals
    with signals() as stop, exact.arithmetic(job.settings.deterministic):
        _run(training, updater, batches, start, checkpoints, records, stop)
    if training.evaluate and start < job.steps:
        checkpoints.write(job.steps)  # a measurement that fails costs no training
    if updater.average:
        updater.average.apply()
    guard.measure(training, sharded, records, job.steps)
    records.close()
    trained = sharded.gathered() or student
    result.write(training, trained)
    ranks.wait()
    return trained


def _run(
    training: Training, updater: Updater, batches: Iterator[Batch], start: int, checkpoints: Checkpoints,
    records: Records, stop: Stop,
) -> None:  # fmt: skip
    """Take the steps from ``start`` to the last one."""
    job, settings, student = training.job, training.job.settings, training.student
    health = Health(settings.max_failures, training.dataset.labels)
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
        update = updater.update(batch, step)

        if step % settings.log_every == 0 or last:
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
        signal, due = exchange.decisions(stop.signal, checkpoints.due(done))
        if signal or (due and not last):
            checkpoints.write(done)
        if signal:
            records.close()
            raise Interrupted(f"stopped by {signal} after step {done}; rerun the command to resume", signal)


def _batches(training: Training, start: int) -> Iterator[Batch]:
    job, settings = training.job, training.job.settings
    batches: Iterator[Batch] = iter(
        loader(
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
    )
    return batches
