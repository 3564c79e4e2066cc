"""The contract of a benchmark layout: ``LAYOUT`` opens a folder as a `Benchmark`.

Opening reads lists and manifests only. Images and labels are read when the benchmark is streamed as a `Split`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from clipzoo.files import Place
from clipzoo.readers import Entry, Reader
from clipzoo.tasks.base import Convention
from clipzoo.types import Sample

Loader = Callable[[], object]
"""Returns one label, in the frame of its image."""

PLAIN = ("{c}",)
"""The templates of a benchmark without templates: the class name alone."""


class Labels(Protocol):
    """The true labels of one task."""

    @property
    def convention(self) -> Convention:
        """The convention of the labels."""
        ...

    def loaders(self, entries: Sequence[Entry]) -> list[Loader | None]:
        """Return a function for each entry that reads its label; None for entries without one."""
        ...

    def places(self) -> Iterator[Place]:
        """Yield the files of the labels. They are read in each pass, so remote files are copied to the disk once."""
        ...

    def identity(self) -> str:
        """Return a text that changes with any label and with the convention."""
        ...


def every_caption(entry: Entry, sample: Sample) -> tuple[str, ...]:
    """Return all captions of a sample."""
    return tuple(text for text in (sample.caption, *sample.others) if text)


@dataclass(frozen=True)
class Benchmark:
    """A benchmark: images with true labels, classes and captions, each of which is optional.

    Attributes:
        reader: of the images.
        shards: the shards of the reader that belong to the benchmark.
        labels: task -> true labels; dense tasks are measured on these.
        classnames: names by class index; zero-shot is measured if there are any.
        templates: prompts with ``{c}`` in the place of the class name.
        target: returns the class index of an entry, or None.
        captions: returns the captions of a sample for retrieval; may be empty.
        places: files that are read in each pass, as in `Labels.places`.
        pictures: picture files, if they are listed one by one; splits with a common one are refused.
    """

    reader: Reader
    shards: tuple[str, ...]
    labels: Mapping[str, Labels] = field(default_factory=dict)
    classnames: tuple[str, ...] = ()
    templates: tuple[str, ...] = PLAIN
    target: Callable[[Entry], int | None] = lambda entry: None
    captions: Callable[[Entry, Sample], tuple[str, ...]] = every_caption
    places: tuple[Place, ...] = ()
    pictures: frozenset[Path] = frozenset()

    @property
    def conventions(self) -> dict[str, Convention]:
        """Task -> convention of its true labels."""
        return {task: labels.convention for task, labels in self.labels.items()}


class Layout(Protocol):
    """A directory layout of benchmarks."""

    def open(self, folder: Place, options: Mapping[str, str]) -> Benchmark:
        """Open the benchmark in a folder.

        Args:
            folder: of the benchmark; some layouts take a file.
            options: those after ``?`` of a location such as ``voc:PATH?split=val``; empty for a path alone.

        Raises:
            DatasetError: there are no images in this layout, or an option is unknown.
            PlanError: there is no column of true labels.
            StoreError: the true labels cannot be read, or belong to another dataset.
        """
        ...
