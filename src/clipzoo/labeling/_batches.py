"""From a shard to batches of images of one size, with bounded memory.

The composition of batches is a function of the shard and the batch size alone: not of threads, of other experts in
the same pass, or of what an earlier run had done.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from clipzoo.errors import SampleError
from clipzoo.experts import ExpertInput
from clipzoo.readers import Entry, Reader
from clipzoo.types import ImageArray, Sample, decode_image

PENDING_PIXELS = 64_000_000
"""Images of odd sizes wait for others of their size until so many pixels wait: 200 MB."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """A sample's key with its image, or with the reason why there is none."""

    key: str
    image: ImageArray | None
    error: str = ""
    caption: str = ""

    @property
    def pixels(self) -> int:
        """Of the image."""
        return 0 if self.image is None else self.image.shape[0] * self.image.shape[1]


Batch = list[ExpertInput]
"""Samples whose images are all of one size."""


def opened(reader: Reader, entry: Entry) -> tuple[Sample, ImageArray] | str:
    """A sample and its image, or the reason why it cannot be used; a `RemoteError` is none."""
    if entry.error is not None:
        return entry.error
    try:
        sample = reader.read(entry)
        return sample, decode_image(sample.image)
    except SampleError as error:
        return str(error)
    except (MemoryError, OSError) as error:
        return f"cannot read the sample: {type(error).__name__}: {error}"


def decode(reader: Reader, entry: Entry) -> Decoded:
    """Read and decode one sample; what is wrong with it becomes its ``error``."""
    found = opened(reader, entry)
    if isinstance(found, str):
        return Decoded(entry.key, None, found)
    sample, image = found
    return Decoded(entry.key, image, caption=sample.caption)


def decoded(reader: Reader, entries: Sequence[Entry], pool: ThreadPoolExecutor, ahead: int) -> Iterator[Decoded]:
    """The samples in their order; at most ``ahead`` of them, or `PENDING_PIXELS`, are decoded before they are taken."""
    waiting: deque[Future[Decoded]] = deque()
    uncounted: deque[Future[Decoded]] = deque()  # the last of them, not yet seen to be done
    pixels = 0  # of the others
    try:
        for entry in entries:
            waiting.append(pool.submit(decode, reader, entry))
            uncounted.append(waiting[-1])
            while True:
                while uncounted and uncounted[0].done():
                    pixels += uncounted.popleft().result().pixels
                if len(waiting) < ahead and pixels <= PENDING_PIXELS:
                    break
                future = waiting.popleft()
                sample = future.result()
                if uncounted and uncounted[0] is future:
                    uncounted.popleft()
                else:
                    pixels -= sample.pixels
                yield sample
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


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
