"""The result of a training: the folder ``student``, and the mark that it is whole."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch

from clipzoo import files
from clipzoo.errors import CheckpointError
from clipzoo.models import Student
from clipzoo.training import checkpoint, guard, health, precision
from clipzoo.training.job import Job, Training
from clipzoo.training.processes import ranks

STUDENT, DONE = "student", "done"
"""The student's folder in the folder of a training; the file in it that marks it as whole."""
HARDWARE = "hardware.txt"
"""The file in the folder of a training that names its processors."""


def write(training: Training, student: Student) -> None:
    """Write the trained student and the record of its supervision, then delete the checkpoints."""
    if not ranks.is_main():
        return
    out, dataset = training.job.out, training.dataset
    supervision = health.supervision(dataset.plan, dataset.supervision, out)
    health.write_supervision(out, supervision)
    if unreadable := health.describe_unreadable(supervision):
        training.say(unreadable)
    files.write(out / HARDWARE, _hardware(training.job).encode())
    student.save(out / STUDENT)
    files.sync_folder(out / STUDENT)
    files.write(out / STUDENT / DONE, b"")
    for name in (checkpoint.NAME, guard.GOOD):
        (out / name).unlink(missing_ok=True)
    checkpoint.prune(out)


def _hardware(job: Job) -> str:
    """Return the processors of a training as text, and the precision if they chose it."""
    count, kind = ranks.world_size(), torch.device(job.device)
    auto = job.settings.precision == "auto"
    chosen = f", {precision.chosen('auto', kind)}" if auto else ""
    if kind.type == "cuda":
        return f"{count} × {torch.cuda.get_device_name(kind)}{chosen}"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    processes = f", {count} processes" if count > 1 else ""
    return f"{kind.type}: {cores} cores ({platform.machine()}){processes}{chosen}"


def hardware(out: Path) -> str:
    """Return the processors of a training that has ended, "" if earlier versions of clipzoo trained it."""
    path = out / HARDWARE
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def ended(out: Path) -> bool:
    """Return True if the training in this folder has ended and its student is whole."""
    return (out / STUDENT / DONE).exists()


def reached(out: Path) -> int:
    """Return the number of steps that an unfinished training need not repeat."""
    return checkpoint.step(out / checkpoint.NAME)


def finished(out: Path, device: str, trust_remote_code: bool = False) -> Student | None:
    """Return the student of a training that has ended, else None.

    Raises:
        CheckpointError: its files are damaged.
    """
    if not ended(out):
        return None
    try:
        return Student.load(out / STUDENT, trust_remote_code).to(device).eval()
    except CheckpointError as error:
        raise CheckpointError(
            f"the trained student in {out / STUDENT} cannot be used: {error}. Restore it from a copy, or delete the "
            f"folder {out} and rerun the command, which repeats this training"
        ) from error
