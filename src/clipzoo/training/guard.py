"""The guard: measurements of the student while it is trained, and at the end."""

from __future__ import annotations

from clipzoo.training import ranks
from clipzoo.training.job import Training
from clipzoo.training.records import Records
from clipzoo.training.sharding import Sharding


def measure(training: Training, sharding: Sharding, records: Records, step: int) -> None:
    """Log what ``training.evaluate`` yields, if it is given. Leaves the student in evaluation mode.

    Only the main process measures, the others wait.
    """
    training.student.eval()
    student = sharding.gathered() if training.evaluate else None
    if training.evaluate and student is not None:
        records.write(step, dict(training.evaluate(student.eval())), {})
    ranks.wait()
