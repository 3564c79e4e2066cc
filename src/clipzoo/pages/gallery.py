"""The gallery of a store: its columns, and samples with their labels, as one HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from clipzoo import files, tasks
from clipzoo.errors import ClipzooError, StoreError
from clipzoo.files import AnyPath, Place
from clipzoo.locations import open_dataset
from clipzoo.pages import _html
from clipzoo.pages.pictures import data_uri, overlay
from clipzoo.readers import Entry, Reader, fingerprint, shard_fingerprint, spread
from clipzoo.readers.decode import read_image
from clipzoo.store import Column, Store, create_file
from clipzoo.store.summary import summary
from clipzoo.types import Failure, ImageArray

LISTED = 200
"""The largest number of failures that are listed for a column."""


@dataclass(frozen=True, slots=True)
class Gallery:
    """The result of `inspect`.

    ``columns`` holds the `summary` of each column, ``keys`` the samples on the page, ``failures`` the samples without
    a label as (column, shard, key, reason).
    """

    path: Path
    columns: list[dict[str, str]]
    keys: list[str]
    failures: list[tuple[str, str, str, str]]


@dataclass(frozen=True)
class _Label:
    """A label of a sample; ``image`` is a data URI, or "" where ``error`` says why there is none."""

    column: str
    image: str = ""
    note: str = ""
    error: str = ""


@dataclass(frozen=True)
class _Sample:
    """A row of the page; ``image`` is a data URI, or "" where ``error`` says why there is none."""

    key: str
    shard: str
    caption: str = ""
    error: str = ""
    image: str = ""
    labels: list[_Label] = field(default_factory=list)


def inspect(store_root: AnyPath | Place, data: AnyPath, out_html: AnyPath, count: int = 24) -> Gallery:
    """Write a summary of each column and ``count`` samples with their labels as one HTML file.

    Samples are spread evenly over the committed shards. Failures are listed, up to 200 a column.

    Raises:
        StoreError: the store has no column or labels other samples, ``count`` is below 1, or the page cannot be
            written.
        DatasetError: the dataset cannot be read.
    """
    if count < 1:
        raise StoreError(f"count={count} is not a valid number of samples; give 1 or more")
    columns = Store(store_root).columns(needed=True)
    reader = open_dataset(data)
    summaries = [summary(column) for column in columns]
    identity = fingerprint(reader)
    for column in columns:
        column.manifest.belongs(identity, column.path)
    out = create_file(files.local(out_html, "the page"))
    samples = [_sample(reader, entry, columns) for entry in _chosen(reader, columns, count)]
    failures = [
        (column.name, shard, key, failure.detail)
        for column in columns
        for shard, key, failure in islice(column.failures(), LISTED)
    ]
    page = _html.render(
        "gallery.html", title="Labels", path=str(store_root), manifests=summaries, samples=samples, failures=failures,
        listed=LISTED,
    )  # fmt: skip
    files.write_output(out, page)
    return Gallery(out, summaries, [sample.key for sample in samples], failures)


def _chosen(reader: Reader, columns: Sequence[Column], count: int) -> Sequence[Entry]:
    """Return usable entries, spread evenly over the shards that any column has."""
    committed = set[str]().union(*(column.committed() for column in columns))
    shards = spread([shard for shard in reader.shards if shard in committed], count)
    entries: list[Entry] = []
    for shard in shards:
        indexed = reader.index(shard)
        source = shard_fingerprint(reader, shard, indexed)
        for column in columns:
            if column.has(shard):
                column.check_pictures(shard, column.marks(shard), source)
        entries += spread([entry for entry in indexed if entry.error is None], count)
    return spread(entries, count)


def _sample(reader: Reader, entry: Entry, columns: Sequence[Column]) -> _Sample:
    result = read_image(reader, entry)
    if isinstance(result, Failure):
        return _Sample(entry.key, entry.shard, error=result.detail)
    sample, image = result
    labels = [_label(column, entry, image) for column in columns]
    return _Sample(entry.key, entry.shard, sample.caption, image=data_uri(image, photo=True), labels=labels)


def _label(column: Column, entry: Entry, image: ImageArray) -> _Label:
    try:
        rows = {row["key"]: row for row in column.rows(entry.shard).to_pylist()}
        if entry.key not in rows:
            return _Label(column.name, error="the sample has no row in this column")
        row = rows[entry.key]
        rendered = tasks.get(column.task).render(column.label(entry.shard, row), column.convention)
    except ClipzooError as error:
        return _Label(column.name, error=str(error))
    note = f"{row['valid_share']:.0%} known"
    if row["confidence"] is not None:
        note += f", confidence {row['confidence']:.2f}"
    return _Label(column.name, data_uri(overlay(image, rendered), photo=True), note)
