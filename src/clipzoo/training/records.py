"""Records of a training: ``log.jsonl``, ``skipped.jsonl`` (one JSON object per line), and TensorBoard's files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from clipzoo import files
from clipzoo.errors import CheckpointError
from clipzoo.training import ranks

LOG, SKIPPED = "log.jsonl", "skipped.jsonl"


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


class Records:
    """Writer of the records; only the main process writes.

    Lines of steps that a resumed training repeats are dropped first, except ``events``, which are not repeated.
    """

    def __init__(self, out: Path, start: int, events: Sequence[Mapping[str, Any]] = ()) -> None:
        self.path, self.skips = out / LOG, out / SKIPPED
        self.board = None
        if not ranks.is_main():
            return
        for path in (self.path, self.skips):
            kept = [line for line in lines(path) if line["step"] < start or line in events]
            files.write(path, "".join(json.dumps(line) + "\n" for line in kept).encode())
        for event in events:  # a kill came between the checkpoint and the log
            if event not in lines(self.path):
                self.event(event)
        self.board = SummaryWriter(str(out / "tensorboard"), purge_step=start)

    def event(self, values: Mapping[str, Any]) -> None:
        """Add a line of plain values to the log, with a ``step``; TensorBoard does not receive it."""
        if ranks.is_main():
            files.append(self.path, json.dumps(values).encode())

    def write(self, step: int, values: Mapping[str, float], speed: Mapping[str, float]) -> None:
        """Add a line to the log."""
        if self.board is None:
            return
        files.append(self.path, json.dumps({"step": step, **values, **speed}).encode())
        for name, value in (*values.items(), *speed.items()):
            self.board.add_scalar(name, value, step)

    def skipped(self, step: int, skipped: list[tuple[str, str]]) -> None:
        """Add one line per sample or label that could not be read."""
        if not skipped or self.board is None:
            return
        lines = [json.dumps({"step": step, "key": key, "reason": why}) for key, why in skipped]
        files.append(self.skips, "\n".join(lines).encode())

    def close(self) -> None:
        """Close TensorBoard's file."""
        if self.board is not None:
            self.board.close()
