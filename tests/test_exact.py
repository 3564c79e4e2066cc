"""Runs that are equal to the last bit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from clipzoo.errors import RecipeError
from clipzoo.training import read_log, train
from clipzoo.training.updates.exact import arithmetic
from test_training import job, same_student


@pytest.fixture
def two_threads() -> Iterator[None]:
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


def test_deterministic_training_gives_the_bits_of_one_thread_whatever_the_machine_has(
    dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path, two_threads: None
) -> None:
    inside = []
    made = job(dataset, labels, tiny_clip, tmp_path / "exact", deterministic=True)
    watch = lambda step, values: inside.append((torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()))  # noqa: E731
    train(replace(made, on_step=watch))
    assert set(inside) == {(1, True)}
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == (2, False)
    torch.set_num_threads(1)
    train(job(dataset, labels, tiny_clip, tmp_path / "one"))
    exact, one = ([line["loss"] for line in read_log(tmp_path / name)] for name in ("exact", "one"))
    assert exact == one
    assert same_student(tmp_path / "exact", tmp_path / "one")


def test_a_kernel_that_is_not_deterministic_is_said_with_the_fix(two_threads: None) -> None:
    says = pytest.raises(
        RecipeError, match=r"no deterministic kernel for an operation \(put_.*training.deterministic=false"
    )
    with says, arithmetic(deterministic=True):
        torch.zeros(4).put_(torch.zeros(2, dtype=torch.long), torch.ones(2), accumulate=False)
    assert torch.get_num_threads() == 2
    with pytest.raises(RuntimeError, match="of another kind"), arithmetic(deterministic=True):
        raise RuntimeError("of another kind")
