"""Check of a column against the dataset: labeled shards must be unchanged, and shards may have been added."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence

from clipzoo import files
from clipzoo.errors import StoreError
from clipzoo.readers import Reader, shard_fingerprint
from clipzoo.store.column import Column
from clipzoo.store.manifest import Manifest, writing
from clipzoo.store.rows import SOURCE_MARK

log = logging.getLogger(__name__)

COMPARED = "compared.json"
"""Cache of shard -> state of the dataset's file, and `SOURCE_MARK`, at the last successful check. Shards are not read
again while both are the same. The file may be deleted."""

_OTHER = "{} is a label store of another dataset"


def update_dataset(column: Column, reader: Reader, dataset: Mapping[str, object]) -> None:
    """Check that the dataset still has the labeled samples, and record its fingerprint in the column's manifest.

    The labeled shards are indexed, and keys and image sizes are compared with those that were labeled. Shards whose
    files have not changed since the last check are skipped. The caller holds the column's lock.

    Args:
        column: the labels.
        reader: the dataset.
        dataset: `clipzoo.readers.fingerprint` of it.

    Raises:
        StoreError: a shard is missing or has other samples, or its labels were made under another manifest.
    """
    column.manifest = Manifest.read(column.path)  # before the lock was held another run may have changed it
    shards = sorted(column.committed())
    grown = column.manifest.dataset != dataset
    gone = sorted(set(shards) - set(reader.shards))
    if grown and gone:
        raise StoreError(
            f"{column.path} is a label store of another dataset: {len(gone)} of its {len(shards)} shards, the first is "
            f"{gone[0]!r}, are not in {reader.location!r}. Give another output folder, or the dataset with these "
            "shards (and select some of them by --shards)"
        )
    _compare(column, reader, [shard for shard in shards if shard not in gone], grown)
    if not grown:
        return
    column.manifest = column.manifest.model_copy(update={"dataset": dict(dataset)})
    column.manifest.write(column.path)
    if shards:
        log.warning(
            "%s now belongs to a dataset with other shards: its %d labeled shards are unchanged",
            column.name,
            len(shards),
        )


def _compare(column: Column, reader: Reader, shards: Sequence[str], grown: bool) -> None:
    """Raise `StoreError` unless the labels of the shards are of the images in the dataset.

    A shard without a fingerprint is an error if the dataset has ``grown``, else a warning.
    """
    marks = dict(zip(shards, files.map_ahead(column.marks, shards, files.threads(column.path)), strict=True))
    for shard in shards:
        column.check_meaning(shard, marks[shard])
    unmarked = [shard for shard in shards if SOURCE_MARK not in marks[shard]]
    if unmarked and grown:
        raise StoreError(_no_fingerprint(column, unmarked[0]))
    column.warn_unmarked(unmarked)
    marked = [shard for shard in shards if shard not in set(unmarked)]
    states = files.map_ahead(reader.state, marked, reader.threads)
    now = {shard: [state, marks[shard][SOURCE_MARK]] for shard, state in zip(marked, states, strict=True)}
    before = _compared(column)
    stale = [shard for shard in marked if not now[shard][0] or before.get(shard) != now[shard]]
    sources = files.map_ahead(lambda shard: shard_fingerprint(reader, shard), stale, reader.threads)
    for shard, source in zip(stale, sources, strict=True):
        try:
            column.check_pictures(shard, marks[shard], source)
        except StoreError as error:
            raise StoreError(f"{_OTHER.format(column.path)}, or the dataset has changed. {error}") from error
    if stale:
        with writing(column.path):
            files.write(column.path / COMPARED, json.dumps(now, indent=0).encode())


def _compared(column: Column) -> dict[str, object]:
    """Return the contents of `COMPARED`, or nothing if it is missing or damaged."""
    try:
        cache = json.loads((column.path / COMPARED).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return cache if isinstance(cache, dict) else {}


def _no_fingerprint(column: Column, shard: str) -> str:
    return (
        f"{_OTHER.format(column.path)}, or the dataset has changed: the shard {shard!r} was labeled by an older "
        "clipzoo, which stored no fingerprint, so a change cannot be excluded. Give another output folder, or remove "
        f"{shard}.parquet and {shard}.tar from this one to label the shard again"
    )
