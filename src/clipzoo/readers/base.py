"""The contract of a reader: it lists shards, indexes one without decoding, reads members by offset."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TypeVar

from clipzoo.files import Place
from clipzoo.types import Failure, Sample

T = TypeVar("T")

Span = tuple[int, int]
"""(offset, size) in bytes; where a format has rows instead, (row of the file, 1)."""

IMAGE_BYTES, CAPTION_BYTES = 256 * 2**20, 2**20
"""A larger image file or caption is not read: it would be held in memory, many at a time."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One sample of a shard as the index knows it.

    ``members`` maps extension -> span; ``image`` and ``caption`` name the members that hold them (of a row, both are
    the row). These two spans, with key and shard, are all that `Reader.read` needs. ``failure`` is the
    reason why the sample cannot be used, if any; then the rest may be empty.
    """

    key: str
    shard: str
    members: Mapping[str, Span] = field(default_factory=dict)
    image: str = ""
    caption: str = ""
    failure: Failure | None = None

    @property
    def error(self) -> str | None:
        """The sentence of ``failure``, if any."""
        return None if self.failure is None else self.failure.detail

    def check(self) -> None:
        """Raise `SampleError` if the sample cannot be used."""
        if self.failure is not None:
            raise self.failure.error()


class Reader(ABC):
    """A dataset, read only."""

    location: str
    shards: tuple[str, ...]
    """Names of the shards, sorted; unique within the dataset."""
    identity: str = ""
    """What tells it from another dataset with the same shards and keys, where keys are but numbers of rows."""

    folders: tuple[Place, ...] = ()
    """Those of which all is read: what is put there becomes data."""

    threads: int = 1
    """How many threads should read at once: more than 1 where each waits for a network."""

    @abstractmethod
    def index(self, shard: str) -> list[Entry]:
        """Every sample of a shard in order, the unusable ones with their reason; deterministic."""

    @abstractmethod
    def read(self, entry: Entry) -> Sample:
        """The sample of a usable entry; safe in forked workers and threads."""

    def contents(self, shard: str) -> str:
        """What tells a shard from another one with the same keys, where they are but numbers of rows; else ""."""
        return ""

    def advice(self, entry: Entry) -> str:
        """The location by which an entry without image or caption would be a sample; "" if none is known."""
        return ""

    def sideways(self, entry: Entry, image: bytes) -> str:
        """How the picture would have to be turned, as a note beside it says and nobody has done; else ""."""
        return ""

    def state(self, shard: str) -> str:
        """A text that is another one when the shard's file has changed, found without reading it; "" if unknown."""
        return ""

    def cached(self, shard: str) -> AbstractContextManager[None]:
        """While the block lasts, the shard is kept on disk if it would pay: for whoever reads all of it."""
        return nullcontext()


def spread(items: Sequence[T], count: int | None) -> Sequence[T]:
    """Return ``count`` items at equal distances; all if there are fewer, or ``count`` is None."""
    if count is None or len(items) <= count:
        return items
    return [items[int((i + 0.5) * len(items) / count)] for i in range(count)]


@contextmanager
def prefetched(reader: Reader, shards: Sequence[str]) -> Iterator[Iterator[str]]:
    """An iterator over the shards of which each is near (`Reader.near`) in its turn, and the next one on its way."""
    with ThreadPoolExecutor(1, thread_name_prefix="fetch") as pool, closing(_turns(reader, shards, pool)) as turns:
        yield turns


def _turns(reader: Reader, shards: Sequence[str], pool: ThreadPoolExecutor) -> Generator[str, None, None]:
    coming: deque[Future[ExitStack]] = deque()
    try:
        for turn, shard in enumerate(shards):
            for following in shards[turn + len(coming) : turn + 2]:
                coming.append(pool.submit(_held, reader, following))
            with coming.popleft().result():
                yield shard
    finally:
        for future in coming:
            if not future.cancel() and not future.exception():
                future.result().close()


def _held(reader: Reader, shard: str) -> ExitStack:
    stack = ExitStack()
    stack.enter_context(reader.cached(shard))
    return stack


class Keys:
    """Makes the keys of a shard unique and printable."""

    def __init__(self) -> None:
        self._seen: dict[str, int] = {}

    def take(self, key: str) -> tuple[str, int]:
        """(the key, or ``<key>#2`` and so on where it has been taken, and how many times it has come)."""
        clean = key.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        count = self._seen[clean] = self._seen.get(clean, 0) + 1
        unique = clean if count == 1 else f"{clean}#{count}"
        return (unique, count) if count == 1 else (self.take(unique)[0], count)


def too_large(what: str, size: int, most: int) -> Failure:
    """Return the reason why something of ``size`` bytes is not read."""
    return Failure("too-large", f"the {what} is too large: {size} bytes, more than {most}")
