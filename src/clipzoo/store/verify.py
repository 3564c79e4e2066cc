"""Is a store what it says it is? Reads every byte of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np

from clipzoo import files, tasks
from clipzoo.errors import ClipzooError, LabelError
from clipzoo.readers import Reader, fingerprint
from clipzoo.readers.webdataset import BLOCK
from clipzoo.store.store import Column, Store

ENOUGH = 8
"""So many labels must agree before a column counts as constant: two pictures may well look alike."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is wrong in a column; ``shard`` and ``key`` are "" where the whole is meant."""

    column: str
    shard: str
    key: str
    message: str

    def __str__(self) -> str:
        place = "/".join(part for part in (self.column, self.shard, self.key) if part)
        return f"{place}: {self.message}"


@dataclass
class _Tally:
    """What the labels of a column are like together."""

    labels: int = 0
    varied: int = 0
    valid: float = 0.0


def verify(
    store: Store,
    reader: Reader | None = None,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> list[Problem]:
    """Everything that is wrong with a store; an empty list if nothing is.

    Looked for: missing or truncated tars, damaged rows, labels that do not decode or break their task's contract,
    columns that say nothing (all invalid) or always the same; with the dataset's ``reader`` also columns of
    another dataset and rows whose keys are not the dataset's. A shard that is not labelled yet is no problem.

    ``progress`` is told of each shard: (column, shards done, shards in all).
    """
    return [problem for column in store.columns() for problem in _column(column, reader, progress)]


def _column(column: Column, reader: Reader | None, progress: Callable[[str, int, int], None]) -> Iterator[Problem]:
    if reader is not None:
        yield from _dataset(column, reader)
    tally, shards = _Tally(), sorted(column.committed())
    for done, shard in enumerate(shards, 1):
        yield from _shard(column, shard, reader, tally)
        progress(column.name, done, len(shards))
    if tally.labels and tally.valid == 0:
        yield Problem(column.name, "", "", f"all {tally.labels} labels are wholly unknown; the expert says nothing")
    elif tally.labels >= ENOUGH and not tally.varied:
        yield Problem(
            column.name, "", "", f"each of the {tally.labels} labels has one value all over; check the expert"
        )


def _dataset(column: Column, reader: Reader) -> Iterator[Problem]:
    stored, given = column.manifest.dataset, fingerprint(reader)
    if stored != given:
        yield Problem(column.name, "", "", f"labels another dataset: {stored} is stored, {given} is given")
    for shard in sorted(column.committed() - set(reader.shards)):
        yield Problem(column.name, shard, "", "the dataset has no shard of this name")


def _shard(column: Column, shard: str, reader: Reader | None, tally: _Tally) -> Iterator[Problem]:
    try:
        rows = column.rows(shard).to_pylist()
    except ClipzooError as error:
        yield Problem(column.name, shard, "", str(error))
        return
    if reader is not None and shard in reader.shards:
        yield from _keys(column, shard, reader, [row["key"] for row in rows])
    tar = column.file(shard, ".tar")
    if not tar.exists():
        yield Problem(column.name, shard, "", "the tar is missing; remove the .parquet and label again")
        return
    with files.near(tar):
        yield from _rows(column, shard, rows, tally)


def _rows(column: Column, shard: str, rows: list[dict[str, Any]], tally: _Tally) -> Iterator[Problem]:
    for row in rows:
        if row["size"] is None:
            if row["error"] is None:
                yield Problem(column.name, shard, row["key"], "neither a label nor a reason is stored")
            continue
        try:
            _label(column, shard, row, tally)
        except ClipzooError as error:
            yield Problem(column.name, shard, row["key"], str(error))


def _keys(column: Column, shard: str, reader: Reader, keys: list[str]) -> Iterator[Problem]:
    known = {entry.key for entry in reader.index(shard)}
    for key in keys:
        if key not in known:
            yield Problem(column.name, shard, key, "the dataset has no sample of this key")
    for key in sorted(known - set(keys)):
        yield Problem(column.name, shard, key, "the sample has no row")


def _label(column: Column, shard: str, row: dict[str, Any], tally: _Tally) -> None:
    """Add a row's label to the tally; any `ClipzooError` says what is wrong with it."""
    task = tasks.get(column.task)
    name = f"{row['key']}.{task.extension}"
    # A tar's header stands before its data; a row whose offset points elsewhere reads another label's bytes.
    header = column.read(shard, row["offset"] - BLOCK, BLOCK)
    stored = header[:100].rstrip(b"\0").decode("utf-8", "replace")
    written_plainly = name.isascii() and len(name) < 100
    if (written_plainly and stored != name) or _size(header) != row["size"]:
        raise LabelError(f"its row leads to the member {stored!r}; rows and tar are of different runs: label again")
    label = column.label(shard, row)
    task.check(label, column.convention)
    share = task.valid_share(label)
    if abs(share - row["valid_share"]) > 1e-4:
        raise LabelError(f"its valid share is {share:.4f}, the row says {row['valid_share']:.4f}")
    tally.labels += 1
    tally.valid += share
    tally.varied += _varies(label)


def _size(header: bytes) -> int:
    """The size that a tar's member header states; -1 if that is none."""
    try:
        return int(header[124:135], 8)
    except ValueError:
        return -1


def _varies(label: Any) -> bool:
    """Whether any array of the label but its validity holds two values (per channel, where it has three axes)."""
    arrays = {f.name: getattr(label, f.name) for f in fields(label)} if is_dataclass(label) else {}
    valid = arrays.pop("valid", None)
    maps = [value for value in arrays.values() if isinstance(value, np.ndarray)]
    if not maps:
        return True
    for values in maps:
        flat = values.reshape(-1, *values.shape[-2:]) if values.ndim >= 2 else values.reshape(1, 1, -1)
        known = valid if isinstance(valid, np.ndarray) and valid.shape == flat.shape[1:] else np.s_[:, :]
        if any(channel[known].size and np.ptp(channel[known]) > 0 for channel in flat):
            return True
    return False
