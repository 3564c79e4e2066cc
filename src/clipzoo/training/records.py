"""Records of a training, one JSON object per line: ``log.jsonl``, ``skipped.jsonl``, ``nonfinite.jsonl``; trackers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clipzoo import files
from clipzoo.data import Skipped
from clipzoo.errors import CheckpointError
from clipzoo.training import tracking
from clipzoo.training.job import Job
from clipzoo.training.processes import ranks
from clipzoo.training.tracking import TrackedRun, Tracker
from clipzoo.types import ImageArray

LOG, SKIPPED, NONFINITE = "log.jsonl", "skipped.jsonl", "nonfinite.jsonl"


def read_log(out: Path) -> list[dict[str, Any]]:
    """Return the lines of a training's log: ``step`` and values by name.

    Raises:
        CheckpointError: a line is damaged.
    """
    return lines(out / LOG)


def lines(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a record file, none if it is missing. An incomplete last line, left by a kill, is dropped.

    Raises:
        CheckpointError: a line is not a JSON object with a ``step``.
    """
    text = path.read_bytes().decode("utf-8", "replace") if path.exists() else ""
    return [_parsed(line, number, path) for number, line in enumerate(text.split("\n")[:-1], 1)]


def _parsed(line: str, number: int, path: Path) -> dict[str, Any]:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        values = None
    if not (isinstance(values, dict) and isinstance(values.get("step"), int)):
        raise CheckpointError(
            f"line {number} of {path} is damaged: {line[:60]!r} is not a JSON object with a step. Delete this line, "
            "or the file if you do not need its history. The training itself does not depend on it"
        )
    return values


def append_line(path: Path, line: Mapping[str, Any]) -> None:
    """Add a line to a record file."""
    files.append(path, json.dumps(line).encode())


class Records:
    """Writer of the records; only the main process writes.

    Lines of steps that a resumed training repeats are dropped first, except ``events``, which are not repeated.
    """

    def __init__(self, job: Job, start: int, events: Sequence[Mapping[str, Any]] = ()) -> None:
        self.out, self.main = job.out, ranks.is_main()
        self.trackers: list[Tracker] = []
        if not self.main:
            return
        for name in (LOG, SKIPPED, NONFINITE):
            if (path := job.out / name).exists() or name != NONFINITE:
                kept = [line for line in lines(path) if line["step"] < start or line in events]
                files.write(path, "".join(json.dumps(line) + "\n" for line in kept).encode())
        for event in events:  # a kill came between the checkpoint and the log
            if event not in lines(job.out / LOG):
                self.event(event)
        run = TrackedRun(job.out, start, job.to_json())
        self.trackers += [tracking.PLUGINS.load(name).open(run) for name in job.settings.tracking]

    def event(self, values: Mapping[str, Any]) -> None:
        """Add a line of plain values to the log, with a ``step``; TensorBoard does not receive it."""
        if ranks.is_main():
            files.append(self.out / LOG, json.dumps(values).encode())

    def write(self, step: int, values: Mapping[str, float], speed: Mapping[str, float]) -> None:
        """Add a line to the log."""
        if not self.main:
            return
        append_line(self.out / LOG, {"step": step, **values, **speed})
        for tracker in self.trackers:
            tracker.scalars(step, {**values, **speed})

    def pictures(self, step: int, pictures: Mapping[str, ImageArray]) -> None:
        """Show pictures by column."""
        for tracker in self.trackers:
            for column, picture in pictures.items():
                tracker.picture(step, f"pictures/{column}", picture)

    def skipped(self, step: int, skipped: Sequence[Skipped]) -> None:
        """Add one line per sample or label that could not be read."""
        if not skipped or not self.main:
            return
        lines = [json.dumps({"step": step, **one._asdict()}) for one in skipped]
        files.append(self.out / SKIPPED, "\n".join(lines).encode())

    def close(self) -> None:
        """Close the trackers."""
        for tracker in self.trackers:
            tracker.close()
