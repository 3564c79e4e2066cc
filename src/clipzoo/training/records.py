"""What a training writes down, a line of JSON each: ``log.jsonl``, ``skipped.jsonl``, and TensorBoard's files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from clipzoo import files
from clipzoo.errors import CheckpointError

LOG, SKIPPED = "log.jsonl", "skipped.jsonl"


def read_log(out: Path) -> list[dict[str, Any]]:
    """The lines of a run's log: ``step`` and values by name.

    Raises:
        CheckpointError: a line is damaged.
    """
    return lines(out / LOG)


def lines(path: Path) -> list[dict[str, Any]]:
    """The lines of such a file; none if it is not there. A last one without an end was torn by a kill and is left out.

    Raises:
        CheckpointError: a line is no JSON object with a ``step``.
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
            f"line {number} of {path} is damaged: {line[:60]!r} is no JSON object with a step. Delete this line, or "
            "the file if its history is not needed; the training itself does not depend on it"
        )
    return values


class Records:
    """Writes them; lines of steps that a resumed run repeats are dropped first."""

    def __init__(self, out: Path, start: int) -> None:
        self.path, self.skips = out / LOG, out / SKIPPED
        for path in (self.path, self.skips):
            kept = [line for line in lines(path) if line["step"] < start]
            files.write(path, "".join(json.dumps(line) + "\n" for line in kept).encode())
        self.board = SummaryWriter(str(out / "tensorboard"), purge_step=start)

    def write(self, step: int, values: Mapping[str, float], speed: Mapping[str, float]) -> None:
        """Add a line to the log."""
        files.append(self.path, json.dumps({"step": step, **values, **speed}).encode())
        for name, value in (*values.items(), *speed.items()):
            self.board.add_scalar(name, value, step)

    def skipped(self, step: int, skipped: list[tuple[str, str]]) -> None:
        """Add a line a sample or label that could not be read."""
        if not skipped:
            return
        lines = [json.dumps({"step": step, "key": key, "reason": why}) for key, why in skipped]
        files.append(self.skips, "\n".join(lines).encode())

    def close(self) -> None:
        """Close TensorBoard's file."""
        self.board.close()
