"""A column and the dataset of now: labeled shards must have the same pictures; shards may have been added."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from clipzoo import files
from clipzoo.errors import StoreError
from clipzoo.readers import Reader, shard_fingerprint
from clipzoo.store.column import Column
from clipzoo.store.manifest import Manifest, writing
from clipzoo.store.rows import SOURCE_MARK

log = logging.getLogger(__name__)

COMPARED = "compared.json"
"""Shard -> state of the dataset's file, and `SOURCE_MARK`, when they were last found to fit: they are not read again
while both are the same. A cache; it may be deleted."""

_WHOSE = "{} is a label store of another dataset,"


def update_dataset(column: Column, reader: Reader, dataset: Mapping[str, Any]) -> None:
    """Check that what a column labels is in the dataset, with the same pictures, and make it a column of this dataset.

    The labeled shards are indexed, and their keys and sizes of pictures compared with those that were labeled; not
    those whose files have not changed since that was last done. For who holds the column's lock.

    Args:
        column: its manifest gets the fingerprint.
        reader: the dataset.
        dataset: `clipzoo.readers.fingerprint` of it.

    Raises:
        StoreError: a shard is not there, or has other samples; or its labels are of another manifest than the column's.
    """
    column.manifest = Manifest.read(column.path)  # before the lock was held another run may have changed it
    shards = sorted(column.committed())
    grown = column.manifest.dataset != dataset
    gone = sorted(set(shards) - set(reader.shards))
    if grown and gone:
        raise StoreError(
            f"{column.path} is a label store of another dataset: {len(gone)} of its {len(shards)} shards, {gone[0]!r} "
            f"the first, are not in {reader.location!r}; give another folder, or the dataset with these shards (and "
            "choose some of them by --shards)"
        )
    _compare(column, reader, [shard for shard in shards if shard not in gone], grown)
    if not grown:
        return
    column.manifest = column.manifest.model_copy(update={"dataset": dict(dataset)})
    column.manifest.write(column.path)
    if shards:
        told = "%s goes on with a dataset of other shards: the %d that it has are in it, unchanged"
        log.warning(told, column.name, len(shards))


def _compare(column: Column, reader: Reader, shards: Sequence[str], grown: bool) -> None:
    """Raise `StoreError` unless the shards' labels are of the pictures that the dataset has now.

    Where a shard does not say of which it is, that is an error if the dataset has ``grown``, else a warning.
    """
    marks = dict(zip(shards, files.ahead(column.marks, shards, files.threads(column.path)), strict=True))
    for shard in shards:
        column.check_meaning(shard, marks[shard])
    unmarked = [shard for shard in shards if SOURCE_MARK not in marks[shard]]
    if unmarked and grown:
        raise StoreError(_unknown(column, unmarked[0]))
    column.warn_unmarked(unmarked)
    marked = [shard for shard in shards if shard not in set(unmarked)]
    states = files.ahead(reader.state, marked, reader.threads)
    now = {shard: [state, marks[shard][SOURCE_MARK]] for shard, state in zip(marked, states, strict=True)}
    before = _compared(column)
    left = [shard for shard in marked if not now[shard][0] or before.get(shard) != now[shard]]
    found = files.ahead(lambda shard: shard_fingerprint(reader, shard), left, reader.threads)
    for shard, source in zip(left, found, strict=True):
        try:
            column.check_pictures(shard, marks[shard], source)
        except StoreError as error:
            raise StoreError(f"{_WHOSE.format(column.path)} or of one that has changed. {error}") from error
    if left:
        with writing(column.path):
            files.write(column.path / COMPARED, json.dumps(now, indent=0).encode())


def _compared(column: Column) -> dict[str, Any]:
    """What `COMPARED` holds; nothing if it is not there or damaged."""
    try:
        found = json.loads((column.path / COMPARED).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _unknown(column: Column, shard: str) -> str:
    return (
        f"{_WHOSE.format(column.path)} or of one that has changed: the shard {shard!r} was "
        "labeled by a clipzoo that did not keep what it looked at, so that nobody can tell if it is the same; give "
        f"another folder, or remove {shard}.parquet and {shard}.tar from this one, to have the shard labeled anew"
    )
