"""Balancing of the losses and measured gradients on several processes."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from clipzoo.training.processes import ranks
from forking import on_ranks
from test_balancing import SCHEMES, balanced_steps
from test_ranks import SIZE, Updates, assert_same, batch

pytestmark = pytest.mark.ranks


@pytest.mark.parametrize("name", SCHEMES)
def test_two_ranks_have_the_weights_and_gradients_of_one_process(tiny_clip: str, name: str) -> None:
    run = partial(balanced_steps, tiny_clip, 2, balancing=name)
    (first, second), one = on_ranks(2, run), run()
    assert torch.equal(first["weights"], second["weights"])
    assert torch.allclose(first["weights"], one["weights"], rtol=1e-4)
    assert_same(first, one)


@pytest.mark.parametrize("name", [pytest.param("uncertainty", marks=pytest.mark.slow), "equal_scale"])
def test_sharded_ranks_have_the_weights_of_one_process(tiny_clip: str, name: str) -> None:
    run = partial(balanced_steps, tiny_clip, 2, balancing=name)
    (first, second), one = on_ranks(2, partial(run, sharding="fsdp2")), run()
    assert torch.equal(first["weights"], second["weights"])
    assert torch.allclose(first["weights"], one["weights"], rtol=1e-4)
    assert_same(first, one)


def test_two_ranks_measure_the_gradients_of_one_process(tiny_clip: str) -> None:
    def measured() -> dict[str, float]:
        updates = Updates(tiny_clip, gradients_every=1)
        share = SIZE // ranks.world_size()
        part = batch(updates.student, slice(ranks.rank() * share, (ranks.rank() + 1) * share))
        return {name: value.item() for name, value in updates.updater.update(part, 0).balancing.items()}

    one = measured()
    for found in on_ranks(2, measured):
        assert found == pytest.approx(one, rel=1e-3, abs=1e-5)
