"""The contract of a benchmark layout: a file here exports ``LAYOUT``, which opens a folder as a `Benchmark`.

Opening reads lists and manifests only; pictures and labels are read when a `Split` is made of it and streamed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from clipzoo.files import Place
from clipzoo.readers import Entry, Reader
from clipzoo.tasks.base import Convention
from clipzoo.types import Sample

Loader = Callable[[], Any]
"""Reads one label, in the frame of its picture."""

PLAIN = ("{c}",)
"""The template of a benchmark that brings none: the name of the class alone."""


class Labels(Protocol):
    """True labels of one task."""

    @property
    def convention(self) -> Convention:
        """What they mean beyond their task."""
        ...

    def loaders(self, entries: Sequence[Entry]) -> list[Loader | None]:
        """For each picture how its label is read; None where it has none."""
        ...

    def places(self) -> Iterator[Place]:
        """The files that hold the labels: they are read in each pass, so a remote one is copied to the disk once."""
        ...

    def identity(self) -> str:
        """What is another text where any label, or what labels mean, has changed."""
        ...


def every_caption(entry: Entry, sample: Sample) -> tuple[str, ...]:
    """The captions of a sample; none where it has none."""
    return tuple(text for text in (sample.caption, *sample.others) if text)


@dataclass(frozen=True)
class Benchmark:
    """What a benchmark consists of.

    Attributes:
        reader: opens its pictures; captions are optional.
        shards: those of the reader that belong to it.
        labels: task -> true labels; empty where no dense task can be measured.
        classnames: names by class index; empty where there are no classes.
        templates: prompts with ``{c}`` in the place of the name.
        target: the class index of a picture; None where it has none.
        captions: the texts that retrieval asks for; empty where there are none.
        places: files that are read in each pass, as of `Labels.places`.
    """

    reader: Reader
    shards: tuple[str, ...]
    labels: Mapping[str, Labels] = field(default_factory=dict)
    classnames: tuple[str, ...] = ()
    templates: tuple[str, ...] = PLAIN
    target: Callable[[Entry], int | None] = lambda entry: None
    captions: Callable[[Entry, Sample], tuple[str, ...]] = every_caption
    places: tuple[Place, ...] = ()

    @property
    def conventions(self) -> dict[str, Convention]:
        """Task -> what its true labels mean."""
        return {task: labels.convention for task, labels in self.labels.items()}


class Layout(Protocol):
    """A form in which benchmarks lie on disks."""

    def open(self, folder: Place) -> Benchmark:
        """The benchmark in a folder.

        Raises:
            DatasetError: there are no pictures of this layout; PlanError, StoreError: its true labels cannot be used.
        """
        ...
