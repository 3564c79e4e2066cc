"""How much of what a training should see can be read; too little ends it."""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clipzoo import files
from clipzoo.data import Batch, LabelColumn, Plan
from clipzoo.errors import ClipzooError, DatasetError, StoreError
from clipzoo.training.records import SKIPPED, lines

WINDOW, EARLIEST = 10_000, 1_000
"""The share of failures is that of the last so many samples, or labels of a column; while there are fewer than
`EARLIEST`, it is taken of so many. So what is lost as a whole is noticed after 1,000 · max_failures of them."""

SUPERVISION = "supervision.json"


class Health:
    """The samples and labels of late that could not be read.

    Args:
        allowed: the share of them that may fail.
        labels: the columns.
    """

    def __init__(self, allowed: float, labels: Mapping[str, LabelColumn]) -> None:
        self.allowed, self.labels = allowed, labels
        self._steps: dict[str, deque[tuple[int, int]]] = {}  # column -> (failed, wanted) of each step in the window
        self._sums: dict[str, list[int]] = {}
        self._example: dict[str, str] = {}

    def note(self, batch: Batch) -> None:
        """Count a batch."""
        for key, reason in batch.skipped:
            column = column_of(reason, self.labels)
            self._example[column] = f"{key}: {reason.removeprefix(f'{column}: ')}"
        for name, counts in batch.unreadable.items():
            steps, sums = self._steps.setdefault(name, deque()), self._sums.setdefault(name, [0, 0])
            steps.append(counts)
            sums[:] = [a + b for a, b in zip(sums, counts, strict=True)]
            while sums[1] - steps[0][1] >= WINDOW:
                sums[:] = [a - b for a, b in zip(sums, steps.popleft(), strict=True)]

    def judge(self, step: int, last: bool) -> None:
        """Raise `DatasetError` or `StoreError` if too much failed; the ``last`` step judges what there is."""
        for name, (failed, wanted) in self._sums.items():
            if failed > self.allowed * max(wanted, 0 if last else EARLIEST):
                raise self._error(step, name, failed, wanted)

    def _error(self, step: int, name: str, failed: int, wanted: int) -> ClipzooError:
        kind: type[ClipzooError] = StoreError if name else DatasetError
        what = f"labels of {name}" if name else "samples"
        store = self.labels[name].column.path.parent.parent if name else None
        fix = f"`clipzoo labels verify {store}` names them: label these shards again" if name else "Restore the dataset"
        return kind(
            f"training stopped at step {step}: {failed:,} of the last {wanted:,} {what} cannot be read "
            f"({failed / wanted:.1%}), more than training.max_failures={self.allowed:g} allows. The last one is "
            f"{self._example[name]}\n{fix}; then the same command goes on from the last checkpoint. Or allow more: "
            "--set training.max_failures=SHARE"
        )


def column_of(reason: str, columns: Mapping[str, object]) -> str:
    """The column whose label a reason of `Batch.skipped` is of; "" where it is of the sample."""
    return next((name for name in columns if reason.startswith(f"{name}: ")), "")


def supervision(plan: Plan, labels: Mapping[str, LabelColumn], out: Path) -> dict[str, Any]:
    """What a training had to learn from, and how often a sample or label could not be read: plain JSON values."""
    skips = Counter(column_of(line["reason"], labels) for line in lines(out / SKIPPED))
    labeled = plan.labeled()
    columns = {name: {"labels": labeled[name], "unreadable": skips[name]} for name in labels}
    return {"samples": len(plan), "left_out": dict(plan.left_out), "unreadable": skips[""], "columns": columns}


def unread(found: Mapping[str, Any]) -> str:
    """What could not be read, in words; "" if all could be."""
    counts = {"samples": found["unreadable"]}
    counts |= {f"labels of {name}": column["unreadable"] for name, column in found["columns"].items()}
    told = [f"{count:,} {what}" for what, count in counts.items() if count]
    return f"{', '.join(told)} could not be read while it was trained; {SKIPPED} says why" if told else ""


def in_words(seeds: Mapping[str, Any]) -> str:
    """Of an arm, by seeds: how many samples each column labels, and how often one could not be read."""
    told = []
    for name in next(iter(seeds.values()), {"columns": {}})["columns"]:
        first, unread = next(iter(seeds.values())), [one["columns"][name]["unreadable"] for one in seeds.values()]
        line = f"{name}: {first['columns'][name]['labels']:,} of {first['samples']:,} samples have a label"
        told.append(line + (f", unreadable by seed: {', '.join(f'{n:,}' for n in unread)}" if any(unread) else ""))
    return "; ".join(told) or "none is known"


def keep(out: Path, found: Mapping[str, Any]) -> None:
    """Write ``supervision.json``."""
    files.write(out / SUPERVISION, json.dumps(found, indent=1).encode())


def kept(out: Path) -> dict[str, Any] | None:
    """What `keep` wrote; None where an earlier clipzoo trained, or the file is damaged."""
    try:
        found = json.loads((out / SUPERVISION).read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
