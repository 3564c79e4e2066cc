"""Work on the shards of a dataset, spread over the processor's cores once it turns out to be long."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar, cast

import loky

from clipzoo import files
from clipzoo.readers.base import Reader

log = logging.getLogger(__name__)

Out = TypeVar("Out")

THREADS = 8
"""Number of shards that are read in parallel from a network."""

PATIENCE = 5.0
"""Seconds of work after which other processes are started, which takes seconds, too."""

MOST = 16
"""The most processes by default: each takes about 150 MB, and reading headers needs no more."""

IDLE = 10.0
"""Seconds without work after which a process ends; so it does not outlive the first one, if that one is killed."""

_CALL: list[Callable[[str], object]] = []
"""The work of a process started here."""


def over_shards(
    call: Callable[[str], Out], reader: Reader, shards: Sequence[str], processes: int | None = None
) -> Generator[Out, None, None]:
    """Yield ``call(shard)`` for each shard in order.

    Args:
        call: the work, which must be possible to pickle.
        reader: the dataset; it decides whether threads or processes can share the work.
        shards: names of shards.
        processes: the most processes, by default one for each core that this process may use, up to `MOST`. They are
            started after `PATIENCE` seconds if `Reader.separable`, and end with the last shard.
    """
    if reader.threads > 1:
        yield from files.map_ahead(call, shards, min(reader.threads, THREADS))
        return
    count = (processes or min(loky.cpu_count(), MOST)) if reader.separable else 1
    began, done = time.monotonic(), 0
    while done < len(shards) and (count == 1 or time.monotonic() - began < PATIENCE):
        yield call(shards[done])
        done += 1
    try:
        for made in _elsewhere(call, shards[done:], min(count, len(shards) - done)):
            yield made
            done += 1
    except BrokenProcessPool:
        log.warning(
            "a process that read shards was killed, perhaps because memory ran out; one process reads the remaining "
            "%d shards", len(shards) - done,
        )  # fmt: skip
        yield from map(call, shards[done:])


def _elsewhere(call: Callable[[str], Out], shards: Sequence[str], processes: int) -> Iterator[Out]:
    """Yield ``call(shard)`` for each shard in order, computed by new processes. They end when the caller does."""
    if not processes:
        return
    pool = loky.ProcessPoolExecutor(
        processes, initializer=_prepare, initargs=(call,), env={"OMP_NUM_THREADS": "1"}, timeout=IDLE
    )
    try:
        for made in files.in_order(pool, _work, shards, 2 * processes):
            yield cast(Out, made)
    finally:
        pool.shutdown(kill_workers=True)


def _prepare(call: Callable[[str], object]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the first one ends them
    _CALL[:] = [call]


def _work(shard: str) -> object:
    return _CALL[0](shard)
