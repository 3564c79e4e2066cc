"""The DataLoader of a training set, and its worker processes."""

from __future__ import annotations

import atexit
import signal
from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from clipzoo.data.batches import Batch, TrainingSet
from clipzoo.data.sampling import MixtureSampler, PlanSampler
from clipzoo.errors import PlanError, counted


class _Loader(DataLoader[Any]):
    """A DataLoader that raises `Batch.lost`, and runs online experts, in the training process."""

    dataset: TrainingSet

    def __iter__(self) -> Any:
        batches = (self.dataset.finished(batch) for batch in super().__iter__())
        _OPEN.add(batches)
        return batches


_OPEN: WeakSet[Generator[Batch]] = WeakSet()


@atexit.register  # runs before multiprocessing's handler, which sends one SIGTERM and waits: workers ignore the first
def _end_workers() -> None:
    """Close iterators that are still open when the interpreter ends."""
    for batches in list(_OPEN):
        batches.close()


def loader(
    dataset: TrainingSet,
    batch_size: int,
    tokenize: Callable[[Sequence[str]], Tensor],
    *,
    start: int = 0,
    steps: int | None = None,
    workers: int = 0,
    rank: int = 0,
    ranks: int = 1,
    pin_memory: bool = False,
) -> DataLoader[Any]:
    """Return a DataLoader of `Batch`.

    Args:
        dataset: the samples and their columns.
        batch_size: samples of a batch of this process.
        tokenize: N texts -> int64 [N,L]; N is 0 if no sample of a batch could be read.
        start: first step; a training that was stopped after N steps resumes at N.
        steps: step at which it ends, counted from the first one of the training; by default the length of an epoch.
        workers: processes that read samples; 0 reads in this one.
        rank: number of this process, from 0.
        ranks: number of processes. Each one gets its share of every batch, in the same order.
        pin_memory: as of `torch.utils.data.DataLoader`.

    Raises:
        PlanError: the plan has fewer samples than one batch of all ranks, ``start`` is after the last step, or an
            argument is out of its range.
        LostError, RemoteError: during iteration; see `TrainingSet`.
    """
    sampler = _sampler(dataset, batch_size, start, steps, rank, ranks)
    return _Loader(
        dataset,
        batch_sampler=sampler,
        collate_fn=partial(dataset.collated, tokenize=tokenize),
        num_workers=workers,
        persistent_workers=False,
        pin_memory=pin_memory,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_ignore_signals,
        generator=torch.Generator(),  # views have their own generators, and the default one is used by the student
    )


def _sampler(
    dataset: TrainingSet, batch_size: int, start: int, steps: int | None, rank: int, ranks: int
) -> PlanSampler:
    """Return the sampler of a loader; arguments and errors as of `loader`."""
    if batch_size < 1 or not 0 <= rank < ranks:
        raise PlanError(
            f"batch_size={batch_size}, rank={rank} and ranks={ranks} do not fit: give a batch size of 1 or more, and a "
            "rank from 0 to ranks - 1"
        )
    kind = MixtureSampler if dataset.mixture else PlanSampler
    sampler = kind(dataset.plan, batch_size, dataset.seed, start, 0, rank, ranks)
    sampler.stepped = bool(dataset.viewing.sizes)
    if isinstance(sampler, MixtureSampler):
        sampler.weights = dataset.mixture
    if sampler.steps_per_epoch == 0:
        raise PlanError(
            f"the plan has {counted(len(dataset), 'sample')}, fewer than one batch of {batch_size * ranks} on all "
            f"processes. Lower training.batch_size to at most {len(dataset) // ranks * ranks}"
        )
    sampler.stop = sampler.steps_per_epoch if steps is None else steps
    if not 0 <= start <= sampler.stop:
        raise PlanError(
            f"start={start} is not between 0 and the last step, {sampler.stop}. steps= sets another one; an epoch has "
            f"{counted(sampler.steps_per_epoch, 'step')}"
        )
    return sampler


def _ignore_signals(worker: int) -> None:
    """Ignore Ctrl-C, SIGUSR1 and the first SIGTERM, which reach every process: the trainer ends its workers.

    A second SIGTERM ends a worker that hangs.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGUSR1"):
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))
