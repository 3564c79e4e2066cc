"""The guard: measurements of the student while it is trained, and at the end."""

from __future__ import annotations

from clipzoo.training import ranks
from clipzoo.training.job import Training
from clipzoo.training.records import Records


def measure(training: Training, records: Records, step: int) -> None:
    """Log what ``training.evaluate`` yields, if it is given. Leaves the student in evaluation mode."""
    training.student.eval()
    if training.evaluate and ranks.is_main():
        records.write(step, dict(training.evaluate(training.student)), {})
