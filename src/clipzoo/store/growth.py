"""A column whose dataset has got more shards since: what is labelled stays, if it is still there and the same."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from clipzoo import files
from clipzoo.errors import StoreError
from clipzoo.readers import Reader, shard_fingerprint
from clipzoo.store.manifest import Manifest
from clipzoo.store.store import Column

log = logging.getLogger(__name__)


def grow(column: Column, reader: Reader, dataset: Mapping[str, Any]) -> None:
    """Make a column one of the dataset that ``reader`` reads, if every shard that it has is there, with its samples.

    Nothing is done for a column of this dataset. Else the dataset's shards that are labelled are indexed, and their
    keys and sizes of pictures compared with those that were labelled. For who holds the column's lock.

    Args:
        column: its manifest gets the fingerprint.
        reader: the dataset.
        dataset: `clipzoo.readers.fingerprint` of it.

    Raises:
        StoreError: a shard is not there, or has other samples.
    """
    column.manifest = Manifest.read(column.path)  # before the lock was held another run may have changed it
    if column.manifest.dataset == dataset:
        return
    shards = sorted(column.committed())
    gone = sorted(set(shards) - set(reader.shards))
    if gone:
        raise StoreError(
            f"{column.path} is a label store of another dataset: {len(gone)} of its {len(shards)} shards, {gone[0]!r} "
            f"the first, are not in {reader.location!r}; give another folder, or the dataset with these shards (and "
            "choose some of them by --shards)"
        )
    now = files.ahead(lambda shard: shard_fingerprint(reader, shard), shards, reader.threads)
    for shard, found in zip(shards, now, strict=True):
        if column.source(shard) != found:
            raise StoreError(_changed(column, shard, reader))
    column.manifest = column.manifest.model_copy(update={"dataset": dict(dataset)})
    column.manifest.write(column.path)
    if shards:
        told = "%s goes on with a dataset of other shards: the %d that it has are in it, unchanged"
        log.warning(told, column.name, len(shards))


def _changed(column: Column, shard: str, reader: Reader) -> str:
    if not column.source(shard):
        why = "was labelled by a clipzoo that did not keep what it looked at, so that nobody can tell if it is the same"
    else:
        why = f"has other samples in {reader.location!r} than those that were labelled, by their keys or sizes"
    return (
        f"{column.path} is a label store of another dataset, or of one that has changed: the shard {shard!r} {why}; "
        f"give another folder, or remove {shard}.parquet and {shard}.tar from this one, to have the shard labelled anew"
    )
