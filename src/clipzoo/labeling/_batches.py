"""Batches of images of one size from a shard, with bounded memory.

The composition of batches depends only on the shard and the batch size: not on threads, other experts or earlier runs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

from clipzoo.experts import ExpertInput
from clipzoo.readers import Entry, Reader
from clipzoo.readers.decode import Decoded, decode
from clipzoo.types import IN_FLIGHT, NoRoomError, Room

PENDING_PIXELS = 64_000_000
"""Most pixels that wait for others of their size: 200 MB."""


Batch = list[ExpertInput]
"""Samples whose images are all of one size."""


def decoded(reader: Reader, entries: Sequence[Entry], pool: ThreadPoolExecutor, ahead: int) -> Iterator[Decoded]:
    """Yield the samples in order. At most ``ahead`` of them are decoded in advance.

    Together they have at most `IN_FLIGHT` pixels, plus those of the sample that is yielded next.
    """
    window = _Window(reader, pool)
    try:
        for entry in entries:
            window.add(entry)
            if len(window.waiting) >= ahead:
                yield from window.take()
        while window.waiting:
            yield from window.take()
    finally:
        for one in window.waiting:
            one.future.cancel()


@dataclass
class _Ahead:
    """A sample that is decoded in advance. The result of its future is None if there was no room for its pixels."""

    entry: Entry
    future: Future[Decoded | None] = field(init=False)
    pixels: int = 0
    held: bool = False

    def refused(self) -> bool:
        """Return True if there was no room for its pixels."""
        return self.future.done() and self.future.exception() is None and self.future.result() is None


class _Window:
    """Samples in order. Threads do not wait for room: a sample without room is submitted again later."""

    def __init__(self, reader: Reader, pool: ThreadPoolExecutor) -> None:
        self.waiting: deque[_Ahead] = deque()
        self._reader, self._pool, self._room = reader, pool, Room(IN_FLIGHT)
        self._refused = False

    def add(self, entry: Entry) -> None:
        """Submit a sample to be decoded."""
        self.waiting.append(_Ahead(entry))
        self._submit(self.waiting[-1])

    def take(self) -> Iterator[Decoded]:
        """Yield the next sample, and hold room for its pixels until the generator is resumed."""
        first = self.waiting[0]
        if first.future.result() is None:
            self._room.force(first.pixels)  # only later samples hold room, and they are released after this one
            first.held = True
            self._submit(first)
        if self._refused:
            self._resubmit()
        sample = first.future.result()
        assert sample is not None, "room is held for it"
        self.waiting.popleft()
        yield sample
        if first.held:
            self._room.give(first.pixels)

    def _resubmit(self) -> None:
        """Submit the refused samples again, in order, while there is room."""
        refused = [one for one in self.waiting if one.refused()]
        self._refused = bool(refused)
        with suppress(NoRoomError):
            for one in refused:
                self._room.take(one.pixels, wait=False)
                one.held = True
                self._submit(one)

    def _submit(self, one: _Ahead) -> None:
        one.future = self._pool.submit(self._decode, one)

    def _decode(self, one: _Ahead) -> Decoded | None:
        def admit(pixels: int) -> None:
            one.pixels = pixels
            if not one.held:
                self._room.take(pixels, wait=False)
                one.held = True

        try:
            return decode(self._reader, one.entry, admit)
        except NoRoomError:
            self._refused = True
            return None


@dataclass
class Batcher:
    """Collects images by size and passes on full batches."""

    size: int
    take: Callable[[Batch], None]
    _buckets: dict[tuple[int, int], Batch] = field(default_factory=dict)
    _pixels: int = 0

    def add(self, sample: ExpertInput) -> None:
        """Add a sample. Pass on its batch if it is full, and the largest batches if too many pixels wait."""
        shape = (sample.image.shape[0], sample.image.shape[1])
        self._buckets.setdefault(shape, []).append(sample)
        self._pixels += shape[0] * shape[1]
        if len(self._buckets[shape]) >= self.size:
            self._pass_on(shape)
        while self._pixels > PENDING_PIXELS:
            self._pass_on(max(self._buckets, key=lambda s: (s[0] * s[1] * len(self._buckets[s]), s)))

    def flush(self) -> None:
        """Pass on the remaining batches."""
        for shape in sorted(self._buckets):
            self._pass_on(shape)

    def _pass_on(self, shape: tuple[int, int]) -> None:
        batch = self._buckets.pop(shape)
        self._pixels -= shape[0] * shape[1] * len(batch)
        self.take(batch)
