"""The interface of a reader: it lists shards, indexes a shard without decoding, and reads samples by offset."""

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


@dataclass(slots=True)  # frozen ones take four times as long to make
class Entry:
    """One sample in the index of a shard; it is not changed after it was made.

    ``members`` maps extension -> span. ``image`` and ``caption`` name the members that hold them; for a table, both
    are the row. `Reader.read` needs only these two spans, the key and the shard. ``failure`` is the reason why the
    sample cannot be used, or None; the other fields may then be empty. ``texts`` are further members that hold caption
    fields, if the dataset was opened with fields or with several names of captions; `Reader.read` needs their spans,
    too, if they are in ``members``.
    """

    key: str
    shard: str
    members: Mapping[str, Span] = field(default_factory=dict)
    image: str = ""
    caption: str = ""
    failure: Failure | None = None
    texts: tuple[str, ...] = ()

    @property
    def error(self) -> str | None:
        """The detail of ``failure``, or None."""
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
    """Part of the fingerprint; distinguishes datasets with equal shards and keys when keys are row numbers."""

    folders: tuple[Place, ...] = ()
    """Folders that are read with all their files; new files there become data."""

    drawn: tuple[str, ...] = ()
    """Caption fields that samples carry in `Sample.fields`; those that the dataset was opened with."""

    reads_texts: bool = False
    """True if entries may have `Entry.texts`."""

    captions_optional: bool = False
    """True if samples may have no caption."""

    threads: int = 1
    """The number of threads that should read in parallel; more than 1 for data on a network."""

    separable: bool = False
    """True if other processes can index shards: a copy of the reader is small, and `index` reads the shard's file."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.location!r})"

    @abstractmethod
    def index(self, shard: str) -> list[Entry]:
        """Return every sample of a shard in a fixed order, unusable ones with their reason."""

    @abstractmethod
    def read(self, entry: Entry) -> Sample:
        """Return the sample of a usable entry; safe in forked workers and threads."""

    def fields(self, entry: Entry) -> Mapping[str, tuple[str, ...]]:
        """Return all fields of a usable entry that have text: name -> texts. Empty if the format has no fields."""
        return {}

    def contents(self, shard: str) -> str:
        """Return a digest that distinguishes shards with equal keys when keys are row numbers; else ""."""
        return ""

    def advice(self, entry: Entry) -> str:
        """Return a location (with options) that reads an entry without image or caption as a sample, or ""."""
        return ""

    def sideways(self, entry: Entry, image: bytes) -> str:
        """Return the orientation that metadata gives and that was not applied to the image; else ""."""
        return ""

    def state(self, shard: str) -> str:
        """Return a text that changes with the shard's file, without reading the file; "" if unknown."""
        return ""

    def stamp(self, shard: str) -> str:
        """Return a text that changes with any file of the shard, without reading the files; "" if unknown."""
        return self.state(shard)

    def named_files(self, shard: str) -> Sequence[str]:
        """Return the paths of the image files on a disk that rows of a shard name; empty for other formats."""
        return ()

    def others(self, entry: Entry) -> Mapping[str, bytes]:
        """Return the members of a usable entry apart from its image and caption file: name -> bytes; with ``json``."""
        return {}

    def cached(self, shard: str) -> AbstractContextManager[None]:
        """Keep a remote shard on disk for the length of the block, for callers that read all of it."""
        return nullcontext()


def spread(items: Sequence[T], count: int | None) -> Sequence[T]:
    """Return ``count`` items at equal distances; all if there are fewer, or ``count`` is None."""
    if count is None or len(items) <= count:
        return items
    return [items[int((i + 0.5) * len(items) / count)] for i in range(count)]


@contextmanager
def prefetched(reader: Reader, shards: Sequence[str]) -> Iterator[Iterator[str]]:
    """Yield an iterator over the shards: each is cached (`Reader.cached`) in its turn while the next one is fetched."""
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
    """The keys of a shard, made unique and printable."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def take(self, key: str) -> tuple[str, int]:
        """Return (the key, or ``<key>#2`` and so on if it is taken, the number of times it has occurred)."""
        clean = key if key.isascii() else key.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        count = self._counts[clean] = self._counts.get(clean, 0) + 1
        unique = clean if count == 1 else f"{clean}#{count}"
        return (unique, count) if count == 1 else (self.take(unique)[0], count)


def too_large(what: str, size: int, most: int) -> Failure:
    """Return the reason why something of ``size`` bytes is not read."""
    return Failure("too-large", f"the {what} is too large: {size} bytes, more than {most}")
