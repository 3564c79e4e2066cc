"""The state of a training that all its processes must agree on, and the random states that each has for itself."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from clipzoo.data import Batch
from clipzoo.training.processes import ranks

APART = 1_000_003
"""Distance of the seeds of two ranks, larger than the seeds of a recipe."""


def failures(batch: Batch) -> Batch:
    """Return a batch with the failures of all processes, by which all of them decide alike to stop."""
    if ranks.world_size() == 1:
        return batch
    names = list(batch.unreadable)
    counts = [count for name in names for count in batch.unreadable[name]]
    everywhere = ranks.numbers([len(batch.skipped), *counts])
    sums = [sum(values) for values in zip(*everywhere, strict=True)]
    unreadable = {name: (sums[1 + 2 * i], sums[2 + 2 * i]) for i, name in enumerate(names)}
    skipped = [one for part in ranks.share(batch.skipped) for one in part] if sums[0] else []
    return replace(batch, skipped=skipped, unreadable=unreadable)


def decisions(stopped: str, due: bool) -> tuple[str, bool]:
    """Return the name of a signal that stops any process, "" if there is none, and whether a checkpoint is due."""
    if ranks.world_size() == 1:
        return stopped, due
    everywhere = ranks.numbers([signal.Signals[stopped].value if stopped else 0, due])
    number = max(one[0] for one in everywhere)
    return signal.Signals(number).name if number else "", bool(everywhere[0][1])


def seed(seed: int) -> None:
    """Seed the random state of a new training; each process draws other dropout masks."""
    torch.manual_seed(seed + APART * ranks.rank())


def random_states(device: torch.device) -> dict[str, Any]:
    """Return the random states of all processes for a checkpoint, in the format of one process if there is one."""
    cuda = device.type == "cuda"  # a training on the CPU does not start CUDA, which others may have reserved
    states = {"rng": torch.get_rng_state(), "cuda_rng": torch.cuda.get_rng_state_all() if cuda else []}
    if ranks.world_size() == 1:
        return states
    own = (states["rng"], torch.cuda.get_rng_state(device) if device.type == "cuda" else None)
    return {**states, "ranks_rng": ranks.share(own)}


def restore_random(state: Mapping[str, Any], seed: int, device: torch.device) -> None:
    """Restore this process's random state; it is seeded from the step if the number of processes has changed."""
    saved, count = state.get("ranks_rng"), ranks.world_size()
    if count == 1:
        torch.set_rng_state(state["rng"])
        if state.get("cuda_rng") and torch.cuda.device_count() == len(state["cuda_rng"]):
            torch.cuda.set_rng_state_all(state["cuda_rng"])
    elif saved is None or len(saved) != count:
        torch.manual_seed(seed + APART * (ranks.rank() + count * (1 + int(state["step"]))))
    else:
        own, on_gpu = saved[ranks.rank()]
        torch.set_rng_state(own)
        if on_gpu is not None and device.type == "cuda":
            torch.cuda.set_rng_state(on_gpu, device)
