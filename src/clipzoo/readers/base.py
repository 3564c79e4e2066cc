"""The contract of a reader: it lists shards, indexes one without decoding, reads members by offset."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

from clipzoo.types import Sample

Span = tuple[int, int]
"""(offset, size) in bytes."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One sample of a shard as the index knows it.

    ``members`` maps extension -> span; ``image`` and ``caption`` name the members that hold them. ``error`` is the
    reason why the sample cannot be used, if any; then the rest may be empty.
    """

    key: str
    shard: str
    members: Mapping[str, Span] = field(default_factory=dict)
    image: str = ""
    caption: str = ""
    error: str | None = None


class Reader(ABC):
    """A dataset, read only."""

    location: str
    shards: tuple[str, ...]
    """Names of the shards, sorted; unique within the dataset."""

    @abstractmethod
    def index(self, shard: str) -> list[Entry]:
        """Every sample of a shard in order, the unusable ones with their reason; deterministic."""

    @abstractmethod
    def read(self, entry: Entry) -> Sample:
        """The sample of a usable entry; safe in forked workers and threads."""
