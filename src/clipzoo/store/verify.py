"""Verification of a store: every byte is read and checked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, fields, is_dataclass
from typing import cast

import numpy as np

from clipzoo import files, tasks
from clipzoo.errors import ClipzooError, LabelError, StoreError
from clipzoo.experts.base import sha256
from clipzoo.readers import Reader, fingerprint, shard_fingerprint
from clipzoo.store.column import Column
from clipzoo.store.manifest import MANIFEST
from clipzoo.store.rows import EXPERT_MARK, SOURCE_MARK, TAR_MARK, Row
from clipzoo.store.store import Store

ENOUGH = 8
"""Least number of equal labels for which a column counts as constant."""

MOST = 0.99
"""A column is suspicious if this share of its labels is constant, or if the share `LOST` of its samples has none."""

LOST = 0.9

HEADLESS = (
    f"has shards and no {MANIFEST}, so it is not read: copy the file from the original folder, rerun the command that "
    "made the column, which keeps its shards, or remove the folder"
)


@dataclass(frozen=True, slots=True)
class Problem:
    """An error in a column; ``shard`` and ``key`` are "" if it concerns the whole column."""

    column: str
    shard: str
    key: str
    message: str

    def __str__(self) -> str:
        place = "/".join(part for part in (self.column, self.shard, self.key) if part)
        return f"{place}: {self.message}"


@dataclass
class _Tally:
    """Statistics over the labels of a column."""

    samples: int = 0
    labels: int = 0
    varied: int = 0
    valid: float = 0.0
    classes: set[int] | None = None
    """Class ids that occur; None if labels have no classes."""
    contents: set[int] = field(default_factory=set)
    """Hashes of at most two different labels."""

    def add(self, label: object, share: float, data: bytes) -> None:
        """Count a label, its valid share and its bytes."""
        self.labels += 1
        self.valid += share
        self.varied += _varies(label)
        if isinstance(ids := getattr(label, "ids", None), np.ndarray):
            valid = getattr(label, "valid", None)
            is_map = isinstance(valid, np.ndarray) and valid.shape == ids.shape
            self.classes = (self.classes or set()) | set(np.unique(ids[valid] if is_map else ids).tolist())
        if len(self.contents) < 2:
            self.contents.add(hash(data))

    def suspicion(self, classes: Sequence[str]) -> str:
        """Return the most important reason why the column is suspicious, or ""."""
        if self.samples >= ENOUGH and self.samples - self.labels >= LOST * self.samples:
            failed = self.samples - self.labels
            return f"{failed} of {self.samples} samples have no label. Fix the expert and label with --retry-failed"
        if self.labels and self.valid == 0:
            return f"all {self.labels} labels are unknown everywhere. Check the expert"
        if self.labels < ENOUGH:
            return ""
        if self.classes is not None and not self.classes:
            return f"none of the {self.labels} labels has an object. Check the expert and its score floor"
        if self.classes and not self.varied and len(self.classes) == 1 < len(classes):
            return f"all {self.labels} labels have only the class {classes[min(self.classes)]!r}. Check the expert"
        if self.labels - self.varied >= MOST * self.labels:
            return f"{self.labels - self.varied} of the {self.labels} labels are constant. Check the expert"
        if len(self.contents) == 1:
            return f"all {self.labels} labels are equal. Check that the expert uses the images"
        return ""


def verify(
    store: Store,
    reader: Reader | None = None,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> list[Problem]:
    """Return all errors of a store.

    Errors are: damaged or missing manifests, missing, truncated or changed tars, damaged rows, labels that cannot be
    decoded or break their contract, shards of another expert, files of no shard, and suspicious statistics: almost all
    samples failed, or all labels are unknown, constant, of one class, or equal. With the dataset's ``reader`` also
    columns of another dataset, and rows whose keys or images are not the dataset's. Shards that are not labeled yet
    are no errors.

    ``progress`` is called after each shard with (column, shards done, all shards).

    Raises:
        StoreError: there is no column.
    """
    columns_or_errors = store.each(needed=True)
    problems = [
        Problem(name, "", "", str(error)) for name, error in columns_or_errors.items() if isinstance(error, StoreError)
    ]
    problems += [Problem(name, "", "", HEADLESS) for name in store.headless()]
    columns = [
        (column, _begun(column), _Tally()) for column in columns_or_errors.values() if isinstance(column, Column)
    ]
    there, identity = set(reader.shards if reader else ()), fingerprint(reader) if reader else {}
    problems += [problem for column, _, _ in columns for problem in _places(column)]
    if reader is not None:
        problems += [problem for column, have, _ in columns for problem in _dataset(column, identity, have - there)]
    done = Counter[str]()
    for shard in sorted(set[str]().union(*(have for _, have, _ in columns))):
        given = _Given.of(reader, shard) if reader is not None and shard in there else None
        for column, have, tally in columns:
            if shard in have:
                problems += _shard(column, shard, given, tally)
                done[column.name] += 1
                progress(column.name, done[column.name], len(have))
    for column, _, tally in columns:
        if reason := tally.suspicion(column.convention.classes):
            problems.append(Problem(column.name, "", "", reason))
    return sorted(problems, key=lambda problem: problem.column)


@dataclass(frozen=True, slots=True)
class _Given:
    """The keys and the `shard_fingerprint` of a shard of the dataset."""

    keys: Set[str]
    fingerprint: str

    @classmethod
    def of(cls, reader: Reader, shard: str) -> _Given:
        """Read them from the dataset."""
        entries = reader.index(shard)
        return cls({entry.key for entry in entries}, shard_fingerprint(reader, shard, entries))


def _begun(column: Column) -> set[str]:
    """Return the shards that have rows, with or without a tar."""
    return column.committed() | {shard for shard, missing in column.halves().items() if missing == ".tar"}


def _places(column: Column) -> Iterator[Problem]:
    """Yield the errors of a column in a wrong folder, and of files that belong to no committed shard."""
    if column.path.parts[-2:] != (column.task, column.slug):
        yield Problem(column.name, "", "", f"is in the folder {column.path}. Rename the folder to {column.name}")
    there = set(files.below(column.path))
    owned = {name.removesuffix(".parquet") + ".tar" for name in there if name.endswith(".parquet")}
    for name in sorted(name for name in there - owned if name.endswith((".tar", ".tmp"))):
        yield Problem(
            column.name, "", "", f"{name} belongs to no committed shard: a run was killed, or is still running. "
            "Label again, or remove the file"
        )  # fmt: skip


def _dataset(column: Column, given: Mapping[str, object], foreign: Set[str]) -> Iterator[Problem]:
    """Yield the errors of a column of another dataset, and of shards that the dataset does not have."""
    try:
        column.manifest.belongs(given, column.path)
    except StoreError as error:
        yield Problem(column.name, "", "", str(error))
    for shard in sorted(foreign):
        yield Problem(column.name, shard, "", "the dataset has no shard of this name")


def _shard(column: Column, shard: str, given: _Given | None, tally: _Tally) -> Iterator[Problem]:
    """Yield the errors of one shard; ``given`` is the dataset's shard, if they are compared."""
    try:
        table = column.rows(shard)
    except ClipzooError as error:
        yield Problem(column.name, shard, "", str(error))
        return
    rows, marks = table.to_pylist(), table.schema.metadata or {}
    tally.samples += len(rows)
    if marks.get(EXPERT_MARK.encode(), (own := column.manifest.digest).encode()) != own.encode():
        yield Problem(column.name, shard, "", "was labeled by another expert than that of the manifest. Label it again")
    if given is not None:
        yield from _samples(column, shard, given, [row["key"] for row in rows], marks.get(SOURCE_MARK.encode(), b""))
    tar = column.file(shard, ".tar")
    if not tar.exists():
        yield Problem(column.name, shard, "", "the tar is missing. Label again")
        return
    try:
        with files.cached(tar):
            if marks.get(TAR_MARK.encode(), digest := sha256(tar).encode()) != digest:
                yield Problem(column.name, shard, "", "the tar has changed. Remove the .parquet and label again")
            yield from _rows(column, shard, rows, tally)
    except OSError as error:
        message = f"the tar cannot be read ({error.strerror}). Repair the disk, or remove the .parquet and label again"
        yield Problem(column.name, shard, "", message)


def _rows(column: Column, shard: str, rows: list[Row], tally: _Tally) -> Iterator[Problem]:
    for row in rows:
        if row["size"] is None:
            if row["error"] is None:
                yield Problem(column.name, shard, row["key"], "the row has neither a label nor a reason")
            continue
        try:
            _label(column, shard, row, tally)
        except ClipzooError as error:
            yield Problem(column.name, shard, row["key"], str(error))


def _samples(column: Column, shard: str, given: _Given, keys: Sequence[str], source: bytes) -> Iterator[Problem]:
    known = given.keys
    if source and known == set(keys) and source != given.fingerprint.encode():
        message = "the dataset has other images under these keys. Remove the shard's two files and label again"
        yield Problem(column.name, shard, "", message)
    for key in keys:
        if key not in known:
            yield Problem(column.name, shard, key, "the dataset has no sample with this key")
    for key in sorted(known - set(keys)):
        yield Problem(column.name, shard, key, "the sample has no row")


def _label(column: Column, shard: str, row: Row, tally: _Tally) -> None:
    """Add a row's label to the tally; raise `ClipzooError` if it is wrong."""
    task = tasks.get(column.task)
    data = column.member(shard, row["key"], cast(int, row["offset"]), cast(int, row["size"]))
    label = task.decode(data)
    task.check(label, column.convention)
    share = task.valid_share(label)
    if abs(share - row["valid_share"]) > 1e-4:
        raise LabelError(
            f"the valid share of the label is {share:.4f}, but {row['valid_share']:.4f} in its row. Label again"
        )
    tally.add(label, share, data)


def _varies(label: object) -> bool:
    """Return True if an array of the label, except its validity, has two values, or two values in one channel."""
    arrays = {f.name: getattr(label, f.name) for f in fields(label)} if is_dataclass(label) else {}
    valid = arrays.pop("valid", None)
    maps = [value for value in arrays.values() if isinstance(value, np.ndarray)]
    if not maps:
        return True
    for values in (value for value in maps if value.size):
        flat = values.reshape(-1, *values.shape[-2:]) if values.ndim >= 2 else values.reshape(1, 1, -1)
        known = valid if isinstance(valid, np.ndarray) and valid.shape == flat.shape[1:] else np.s_[:, :]
        if any(channel[known].size and np.ptp(channel[known]) > 0 for channel in flat):
            return True
    return False
