"""From a shard to batches of images of one size, with bounded memory.

The composition of batches is a function of the shard and the batch size alone: not of threads, of other experts in
the same pass, or of what an earlier run had done.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

from clipzoo.experts import ExpertInput
from clipzoo.labeling.samples import Decoded, decode
from clipzoo.readers import Entry, Reader
from clipzoo.types import IN_FLIGHT, NoRoomError, Room

PENDING_PIXELS = 64_000_000
"""Images of odd sizes wait for others of their size until so many pixels wait: 200 MB."""


Batch = list[ExpertInput]
"""Samples whose images are all of one size."""


def decoded(reader: Reader, entries: Sequence[Entry], pool: ThreadPoolExecutor, ahead: int) -> Iterator[Decoded]:
    """The samples in their order; of those that are decoded before they are taken there are at most ``ahead``.

    Together they have at most `IN_FLIGHT` pixels, or that and those of the one that is taken next.
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
    """A sample that is to be decoded before it is taken; its future gives None where there was no room for it."""

    entry: Entry
    future: Future[Decoded | None] = field(init=False)
    pixels: int = 0
    held: bool = False

    def refused(self) -> bool:
        """Whether there was no room for it."""
        return self.future.done() and self.future.exception() is None and self.future.result() is None


class _Window:
    """Samples in the order in which they are taken. Nobody waits for room: who finds none is begun again later."""

    def __init__(self, reader: Reader, pool: ThreadPoolExecutor) -> None:
        self.waiting: deque[_Ahead] = deque()
        self._reader, self._pool, self._room = reader, pool, Room(IN_FLIGHT)
        self._refused = False

    def add(self, entry: Entry) -> None:
        """Begin to decode a sample."""
        self.waiting.append(_Ahead(entry))
        self._begin(self.waiting[-1])

    def take(self) -> Iterator[Decoded]:
        """The next sample; its pixels are held until the caller comes back."""
        first = self.waiting[0]
        if first.future.result() is None:
            self._room.force(first.pixels)  # those who have the room are behind it: nobody else can give it any
            first.held = True
            self._begin(first)
        if self._refused:
            self._again()
        sample = first.future.result()
        assert sample is not None, "room is held for it"
        self.waiting.popleft()
        yield sample
        if first.held:
            self._room.give(first.pixels)

    def _again(self) -> None:
        """Begin those again, in their order, for whom there is room now."""
        late = [one for one in self.waiting if one.refused()]
        self._refused = bool(late)
        with suppress(NoRoomError):
            for one in late:
                self._room.take(one.pixels, wait=False)
                one.held = True
                self._begin(one)

    def _begin(self, one: _Ahead) -> None:
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
    """Collects images by size and hands on full batches."""

    size: int
    take: Callable[[Batch], None]
    _buckets: dict[tuple[int, int], Batch] = field(default_factory=dict)
    _pixels: int = 0

    def add(self, sample: ExpertInput) -> None:
        """Add a sample; a batch that it fills is taken, and the largest ones when too much waits."""
        shape = (sample.image.shape[0], sample.image.shape[1])
        self._buckets.setdefault(shape, []).append(sample)
        self._pixels += shape[0] * shape[1]
        if len(self._buckets[shape]) >= self.size:
            self._hand_on(shape)
        while self._pixels > PENDING_PIXELS:
            self._hand_on(max(self._buckets, key=lambda s: (s[0] * s[1] * len(self._buckets[s]), s)))

    def flush(self) -> None:
        """Hand on what is left."""
        for shape in sorted(self._buckets):
            self._hand_on(shape)

    def _hand_on(self, shape: tuple[int, int]) -> None:
        batch = self._buckets.pop(shape)
        self._pixels -= shape[0] * shape[1] * len(batch)
        self.take(batch)
