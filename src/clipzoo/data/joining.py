"""One shard of a plan: its usable samples joined with their labels."""

from __future__ import annotations

import gc
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clipzoo.data.filters import Where
from clipzoo.data.planfile import PARTS, SPANS, TEXT
from clipzoo.readers import shard_fingerprint
from clipzoo.readers.base import Entry, Reader
from clipzoo.store import TAR_MARK, Column, marks_of

NO_SPAN = (0, 0)
"""The span of a text that is a file of its own, which a reader reads by its name."""


@dataclass
class ShardRows:
    """The rows of one shard, and what a plan keeps of it.

    Attributes:
        rows: key and spans of image and caption, and of every column's labels; see `clipzoo.data.planfile.schema`.
        left_out: kind of failure -> number of samples that cannot be used.
        place: `Reader.state` and `places_of` of the shard.
        tars: label column with rows -> checksum of its labels, "" if the store has none.
        unmarked: label columns whose rows have no fingerprint of the images.
    """

    rows: pa.Table
    left_out: Counter[str]
    place: tuple[str, str]
    tars: dict[str, str] = field(default_factory=dict)
    unmarked: list[str] = field(default_factory=list)


def joined(
    reader: Reader, columns: Mapping[str, Column], floors: Mapping[str, float], where: Mapping[str, Where], shard: str
) -> ShardRows:
    """Index one shard and join it with its labels; see `clipzoo.data.Plan.build`.

    Raises:
        StoreError: a column has a shard made under another manifest, of other images, or rows without labels.
    """
    with _without_collections():
        entries = reader.index(shard)
        usable = [entry for entry in entries if entry.failure is None]
        left_out = Counter(entry.failure.kind for entry in entries if entry.failure)
        made = ShardRows(
            _samples(usable, reader.reads_texts), left_out, (reader.state(shard), places_of(reader, shard, entries))
        )
        source = shard_fingerprint(reader, shard, entries) if columns else ""
        del entries, usable
    for name, column in columns.items():
        labels = column.rows(shard) if column.has(shard) else None
        if labels is not None:
            marks = marks_of(labels.schema)
            column.check_meaning(shard, marks)
            if not column.check_pictures(shard, marks, source):
                made.unmarked.append(name)
            made.tars[name] = marks.get(TAR_MARK, "")
            labels = used(labels, floors.get(name), where.get(name))
        made.rows = _with_labels(made.rows, name, labels)
    return made


@contextmanager
def _without_collections() -> Iterator[None]:
    """Pause the cyclic garbage collector, which takes a third of the time of an index. Its objects have no cycles."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def indexed(reader: Reader, shard: str) -> str:
    """Index one shard and return `places_of` it."""
    return places_of(reader, shard, reader.index(shard))


def places_of(reader: Reader, shard: str, entries: Sequence[Entry]) -> str:
    """Return a digest of the places of a shard's samples, and of its contents."""
    templates: dict[tuple[str, ...], tuple[str, list[str]]] = {}
    samples = []
    for e in entries:
        names = (e.image, e.caption, *e.members)
        if names not in templates:
            templates[names] = _template(e)
        template, ordered = templates[names]
        values: list[object] = [e.key, e.failure.detail if e.failure else None]
        for name in ordered:
            values += e.members[name]
        samples.append(template % (*values,))
    text = "\n".join([*samples, reader.contents(shard)])
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _template(entry: Entry) -> tuple[str, list[str]]:
    """Return a format of samples with these members, and the members' names in its order.

    It gives the text ``<key> <failure> <image> <caption> <sorted list of (name, span)>``, which older plans have.
    """
    ordered = sorted(entry.members)
    spans = ", ".join(f"({name!r}, (\0r, \0r))" for name in ordered)
    text = f"\0s \0s {entry.image} {entry.caption} [{spans}]"
    return text.replace("%", "%%").replace("\0", "%"), ordered


def _samples(entries: Sequence[Entry], with_texts: bool) -> pa.Table:
    """Return keys and spans; with texts, also the members that hold caption fields."""
    fields: dict[str, pa.Array] = {"key": pa.array([entry.key for entry in entries], TEXT)}
    for part in PARTS:
        exts = [entry.image for entry in entries] if part == "image" else [entry.caption for entry in entries]
        spans = [entry.members[ext] for entry, ext in zip(entries, exts, strict=True)]
        values = np.fromiter(chain.from_iterable(spans), np.int64, 2 * len(spans)).reshape(-1, 2)
        fields[f"{part}:ext"] = pa.array(exts, TEXT)
        fields |= {f"{part}:{name}": pa.array(np.ascontiguousarray(values[:, i])) for i, name in enumerate(SPANS)}
    if with_texts:
        named = ({name: e.members.get(name, NO_SPAN) for name in e.texts} for e in entries)
        texts = [json.dumps(one) if one else "" for one in named]
        fields["texts"] = pa.array(texts, TEXT)
    return pa.table(fields)


def used(labels: pa.Table, floor: float | None, where: Where | None) -> pa.Table:
    """Return the rows with a label that reaches the least confidence and meets the condition."""
    used = pc.is_valid(labels["size"])
    if floor is not None:
        reached = pc.greater_equal(labels["confidence"].cast(pa.float64()), floor)
        used = pc.and_(used, pc.fill_null(reached, True))
    if where is not None:
        used = pc.and_(used, where.mask(labels))
    return labels.filter(used)


def _with_labels(samples: pa.Table, name: str, labels: pa.Table | None) -> pa.Table:
    """Left join by key; ``labels`` is None if the shard is not labeled."""
    found = None if labels is None else pc.index_in(samples["key"], labels["key"].cast(TEXT).combine_chunks())
    for part in SPANS:
        empty = pa.nulls(len(samples), pa.int64())
        samples = samples.append_column(f"{name}:{part}", empty if labels is None else labels[part].take(found))
    return samples
