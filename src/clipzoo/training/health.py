"""Samples and labels that cannot be read: too many stop a training, and all are counted at its end."""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict, cast

from clipzoo import errors, files
from clipzoo.data import Batch, LabelColumn, OnlineColumn, Plan
from clipzoo.errors import ClipzooError, DatasetError, StoreError
from clipzoo.training.records import SKIPPED, lines

WINDOW, EARLIEST = 10_000, 1_000
"""The share of failures is computed over the last `WINDOW` samples, or labels of a column. While there are fewer than
`EARLIEST`, it is computed over `EARLIEST`, so that a dataset of which all is lost stops after 1,000 · max_failures."""

SUPERVISION = "supervision.json"


class Health:
    """Recent samples and labels that could not be read.

    Args:
        allowed: share of them that may fail, 0 to 1.
        labels: columns by name.
    """

    def __init__(self, allowed: float, labels: Mapping[str, LabelColumn | OnlineColumn]) -> None:
        self.allowed, self.labels = allowed, labels
        self._steps: dict[str, deque[tuple[int, int]]] = {}  # column -> (failed, wanted) of each step in the window
        self._sums: dict[str, list[int]] = {}
        self._example: dict[str, str] = {}

    def count(self, batch: Batch) -> None:
        """Add the failures of a batch."""
        for shard, key, reason in batch.skipped:
            column = column_of(reason, self.labels)
            self._example[column] = f"{shard}/{key}: {reason.removeprefix(f'{column}: ')}"
        for name, counts in batch.unreadable.items():
            steps, sums = self._steps.setdefault(name, deque()), self._sums.setdefault(name, [0, 0])
            steps.append(counts)
            sums[:] = [a + b for a, b in zip(sums, counts, strict=True)]
            while sums[1] - steps[0][1] >= WINDOW:
                sums[:] = [a - b for a, b in zip(sums, steps.popleft(), strict=True)]

    def check(self, step: int, last: bool) -> None:
        """Raise `DatasetError` or `StoreError` if too much failed; `EARLIEST` does not apply at the ``last`` step."""
        for name, (failed, wanted) in self._sums.items():
            if failed > self.allowed * max(wanted, 0 if last else EARLIEST):
                raise self._error(step, name, failed, wanted)

    def _error(self, step: int, name: str, failed: int, wanted: int) -> ClipzooError:
        kind: type[ClipzooError] = StoreError if name else DatasetError
        unit = f"labels of {name}" if name else "samples"
        fix = "Restore the dataset"
        if name:
            fix = self.labels[name].remedy
        return kind(
            f"training stopped at step {step}: {failed:,} of the last {wanted:,} {unit} cannot be read "
            f"({failed / wanted:.1%}), more than training.max_failures={self.allowed:g} allows. The last one is "
            f"{self._example[name]}\n{fix}, then rerun the command, which resumes from the last checkpoint. To allow "
            "more failures: --set training.max_failures=SHARE"
        )


def column_of(reason: str, columns: Mapping[str, object]) -> str:
    """Return the column that a reason of `Batch.skipped` names, "" if it concerns the whole sample."""
    return next((name for name in columns if reason.startswith(f"{name}: ")), "")


class Supervised(TypedDict):
    """Counts of a column: samples with a label, and labels that could not be read."""

    labels: int
    unreadable: int


class Supervision(TypedDict):
    """The content of ``supervision.json``; see `supervision`."""

    samples: int
    left_out: dict[str, int]
    unreadable: int
    columns: dict[str, Supervised]


def supervision(plan: Plan, labels: Mapping[str, LabelColumn | OnlineColumn], out: Path) -> Supervision:
    """Return counts of samples, labels and failed reads of a training: plain JSON values."""
    skips = Counter(column_of(line["reason"], labels) for line in lines(out / SKIPPED))
    labeled = dict.fromkeys(labels, len(plan)) | plan.labeled()  # online experts label every sample
    columns: dict[str, Supervised] = {}
    for name in labels:
        columns[name] = {"labels": labeled[name], "unreadable": skips[name]}
    return {"samples": len(plan), "left_out": dict(plan.left_out), "unreadable": skips[""], "columns": columns}


def describe_unreadable(counted: Supervision) -> str:
    """Return a sentence about failed reads, "" if there were none."""
    counts = {"samples": counted["unreadable"]}
    counts |= {f"labels of {name}": column["unreadable"] for name, column in counted["columns"].items()}
    failed = [f"{errors.counted(count, 'read')} of {unit}" for unit, count in counts.items() if count]
    every = "A sample is read once in each epoch"
    return f"{', '.join(failed)} failed during training; {SKIPPED} lists the reasons. {every}" if failed else ""


def describe_supervision(seeds: Mapping[str, Supervision]) -> str:
    """Return a sentence about an arm's labels and failed reads per column; ``seeds``: seed -> `supervision`."""
    if not seeds:
        return "unknown"
    first = next(iter(seeds.values()))
    parts = []
    for name, column in first["columns"].items():
        part = f"{name}: {column['labels']:,} of {first['samples']:,} samples have a label"
        failed = [counted["columns"][name]["unreadable"] for counted in seeds.values()]
        if any(failed):
            part += f", unreadable by seed: {', '.join(f'{count:,}' for count in failed)}"
        parts.append(part)
    return "; ".join(parts) or "no labels"


def write_supervision(out: Path, counted: Supervision) -> None:
    """Write ``supervision.json``."""
    files.write(out / SUPERVISION, json.dumps(counted, indent=1).encode())


def read_supervision(out: Path) -> Supervision | None:
    """Return what `write_supervision` wrote; None if the file is missing or damaged."""
    try:
        counted = json.loads((out / SUPERVISION).read_bytes())
    except (OSError, ValueError):
        return None
    return cast(Supervision, counted) if isinstance(counted, dict) else None
