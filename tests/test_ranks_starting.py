"""Processes that start a training with different files, or at different times."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from clipzoo.errors import CheckpointError
from clipzoo.training import loop, train
from clipzoo.training.processes import ranks
from forking import on_ranks
from test_checkpoints import interrupted
from test_training import job

pytestmark = pytest.mark.ranks


def test_processes_that_find_different_checkpoints_are_refused(
    dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path
) -> None:
    """As machines do without a shared file system: rank 1 would train from the start, next to the weights of rank 0."""
    interrupted(dataset, labels, tiny_clip, tmp_path / "0")

    def refused() -> str:
        with pytest.raises(CheckpointError) as error:
            train(job(dataset, labels, tiny_clip, tmp_path / str(ranks.rank())))
        return str(error.value)

    for text in on_ranks(2, refused):
        assert "rank 0 resumes" in text
        assert "but rank 1 after step 0: the folder is not the same on all machines" in text


def test_no_process_distributes_the_student_before_all_have_arrived(
    dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NCCL waits for minutes only, and another machine may download weights for longer."""
    begun: list[float] = []

    class Distributed(loop.Sharding):
        def __init__(self, *given: Any) -> None:
            begun.append(time.monotonic())
            super().__init__(*given)

    def late() -> tuple[float, float]:
        time.sleep(ranks.rank())
        arrived = time.monotonic()
        train(job(dataset, labels, tiny_clip, tmp_path, steps=1))
        return arrived, begun[0]

    monkeypatch.setattr(loop, "Sharding", Distributed)
    (_, first), (second_arrived, _) = on_ranks(2, late)
    assert first > second_arrived
