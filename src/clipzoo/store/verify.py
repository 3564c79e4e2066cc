"""Verification of a store: all checksums, and the contents of a sample of its labels, or of all."""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Set, Sized
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from clipzoo import files, tasks
from clipzoo.errors import ClipzooError, DatasetError, LabelError, StoreError, counted
from clipzoo.experts.base import sha256
from clipzoo.files import AnyPath
from clipzoo.locations import open_dataset
from clipzoo.readers import Reader, fingerprint, shard_fingerprint, spread
from clipzoo.store.column import Column
from clipzoo.store.rows import EXPERT_MARK, SOURCE_MARK, TAR_MARK
from clipzoo.store.store import HEADLESS, Store
from clipzoo.store.tally import Tally

log = logging.getLogger(__name__)

SAMPLE = 256
"""Labels of a column that are decoded by default: evenly spread, at least one per shard."""

THREADS = max(1, min(8, os.cpu_count() or 1))
"""Shards that are verified at the same time."""


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
class Verification:
    """The result of `verification`.

    Attributes:
        problems: all errors, sorted by column.
        labels, decoded: number of labels, and of those that were decoded and checked.
        unmarked: shards whose tar has no stored checksum (old stores). All of their labels were decoded.
    """

    problems: list[Problem] = field(default_factory=list)
    labels: int = 0
    decoded: int = 0
    unmarked: int = 0

    def add(self, result: _Result, column: _Verified) -> None:
        """Add the result for a shard of a column."""
        self.problems += result.problems
        self.unmarked += not result.marked
        column.tally.merge(result.tally)
        if result.differences is not None:
            column.differences.append(result.differences)

    def end(self, columns: Sequence[_Verified], identity: Mapping[str, Any], there: Set[str] | None) -> None:
        """Add the errors of whole columns, and sort the problems.

        Args:
            columns: with the results of all of their shards.
            identity: fingerprint of the dataset that they are compared with.
            there: its shards; None if there is no such dataset.
        """
        for one in columns:
            self.labels, self.decoded = self.labels + one.tally.labels, self.decoded + one.tally.decoded
            if reason := one.tally.suspicion(one.column.convention.classes):
                self.problems.append(Problem(one.column.name, "", "", reason))
            if there is not None:
                self.problems += one.against(identity, there)
        self.problems.sort(key=lambda problem: problem.column)

    def describe(self) -> str:
        """Return a sentence on what was checked."""
        if self.decoded == self.labels:
            return f"all {self.labels:,} labels were decoded, and checksums of all shards compared"
        old = f", among them all of {self.unmarked:,} shards without a checksum" if self.unmarked else ""
        return (
            f"checksums of all shards were compared; {self.decoded:,} of {self.labels:,} labels were decoded{old}. "
            "--deep decodes all"
        )


def verify(
    store: Store | AnyPath,
    reader: Reader | AnyPath | None = None,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
    *,
    deep: bool = False,
) -> list[Problem]:
    """Return all errors of a store; see `verification`."""
    return verification(store, reader, progress, deep=deep).problems


def verification(
    store: Store | AnyPath,
    reader: Reader | AnyPath | None = None,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
    *,
    deep: bool = False,
    resume: Path | None = None,
) -> Verification:
    """Return all errors of a store, and how much of it was read.

    Errors are: damaged or missing manifests, missing, truncated or changed tars, damaged rows, labels that cannot be
    decoded or break their contract, shards of another expert, files of no shard, and suspicious statistics: almost all
    samples failed, or all labels are unknown, constant, of one class, or equal. With the dataset's ``reader`` also
    columns of another dataset, and rows whose keys or images are not the dataset's. Shards that are not labeled yet
    are no errors.

    Every tar is compared with its checksum. `SAMPLE` labels of each column are decoded; all labels of a shard whose
    checksum differs or is missing.

    Args:
        store: the labels, or their path.
        reader: their dataset, or its location.
        progress: called after each shard with (column, shards done, all shards).
        deep: decode all labels.
        resume: file to which the result of each shard is appended. Shards that it has are not read again, unless
            their files or the dataset have changed.

    Raises:
        StoreError: there is no column.
    """
    store = Store.of(store)
    reader = reader if reader is None or isinstance(reader, Reader) else open_dataset(reader)
    columns_or_errors = store.each(needed=True)
    found = Verification(
        [
            Problem(name, "", "", str(error))
            for name, error in columns_or_errors.items()
            if isinstance(error, StoreError)
        ]
    )
    found.problems += [Problem(name, "", "", HEADLESS) for name in store.headless()]
    columns = [_Verified(one, _begun(one)) for one in columns_or_errors.values() if isinstance(one, Column)]
    there, identity = set(reader.shards if reader else ()), fingerprint(reader) if reader else {}
    found.problems += [problem for one in columns for problem in _places(one.column)]
    shards = sorted(set[str]().union(*(one.shards for one in columns)))
    held = [(one.column, one.shards, 0 if deep else max(1, SAMPLE // max(len(one.shards), 1))) for one in columns]
    work = partial(_verified, reader, there, held, _Log(resume))
    done = Counter[str]()
    for results in files.map_ahead(work, shards, THREADS):
        for one in columns:
            if (name := one.column.name) in results:
                found.add(results[name], one)
                done[name] += 1
                progress(name, done[name], len(one.shards))
    found.end(columns, identity, None if reader is None else there)
    return found


@dataclass
class _Verified:
    """A column, its shards that have rows, and the results so far."""

    column: Column
    shards: Set[str]
    tally: Tally = field(default_factory=Tally)
    differences: list[list[Problem]] = field(default_factory=list)
    """Differences from the dataset in each compared shard."""

    def against(self, identity: Mapping[str, Any], there: Set[str]) -> Iterator[Problem]:
        """Yield the differences from a dataset; not those of each shard if it is another one, and no shard fits."""
        name, foreign = self.column.name, sorted(self.shards - there)
        try:
            self.column.manifest.belongs(identity, self.column.path)
        except StoreError as error:
            yield Problem(name, "", "", str(error))
            if all(self.differences):
                images = [problem for shard in self.differences for problem in shard if not problem.key]
                for first in images[:1]:
                    yield replace(first, message=first.message + _likewise(images, "shard"))
                return
        if foreign:
            yield Problem(name, foreign[0], "", f"the dataset has no shard of this name{_likewise(foreign, 'shard')}")
        yield from (problem for shard in self.differences for problem in shard)


@dataclass
class _Result:
    """The result for one shard of a column; ``marked`` is False if its tar has no stored checksum."""

    problems: list[Problem] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)
    marked: bool = True
    differences: list[Problem] | None = None
    """Differences from the dataset; None if it has no shard of this name, or there is no dataset."""


def _plain(problems: Sequence[Problem] | None) -> list[list[str]] | None:
    """Return the fields of problems."""
    return None if problems is None else [[one.column, one.shard, one.key, one.message] for one in problems]


class _Log:
    """Results of earlier calls, by state of a shard, in a file of JSON lines; nothing if there is no file."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.known: dict[str, tuple[int, _Result]] = {}
        """State of a shard -> the number of labels that were to be decoded, 0 for all, and the result."""
        for line in path.read_bytes().splitlines() if path is not None and path.exists() else []:
            try:
                values = json.loads(line)
                problems = [Problem(*one) for one in values["problems"]]
                result = _Result(problems, Tally.from_json(values["tally"]), values["marked"])
                if (differences := values.get("differences")) is not None:
                    result.differences = [Problem(*one) for one in differences]
                *state, least = json.loads(values["of"])
                before, _ = self.known.get(json.dumps(state), (-1, result))
                if least == 0 or before != 0:
                    self.known[json.dumps(state)] = int(least), result
            except (ValueError, KeyError, TypeError):
                log.warning("%s has a line that is not a result: it is ignored", path)

    def find(self, state: Sequence[str], least: int) -> _Result | None:
        """Return a result for which at least so many labels were decoded."""
        decoded, result = self.known.get(json.dumps(state), (-1, None))
        return result if decoded == 0 or 0 < least <= decoded else None

    def add(self, state: Sequence[str], least: int, result: _Result) -> None:
        """Append a result."""
        if self.path is not None:
            problems, differences = _plain(result.problems), _plain(result.differences)
            of, tally = json.dumps([*state, least]), result.tally.to_json()
            values = {"of": of, "problems": problems, "tally": tally, "marked": result.marked}
            values["differences"] = differences
            files.append(self.path, json.dumps(values).encode())


def _verified(
    reader: Reader | None, there: Set[str], columns: Sequence[tuple[Column, Set[str], int]], known: _Log, shard: str
) -> dict[str, _Result]:
    """Return column -> result for one shard; ``columns`` have their shards, and the labels to decode of each or 0."""
    given, unread = None, ""
    if reader is not None and shard in there:
        try:
            given = _Given.of(reader, shard)
        except DatasetError as error:
            unread = f"cannot be compared with the dataset: {error}"
    results = {}
    for column, have, least in columns:
        if shard not in have:
            continue
        states = [files.state(column.file(shard, suffix)) for suffix in (".parquet", ".tar")]
        against = given.fingerprint if given else ""
        state = [column.name, column.manifest.digest, shard, *states, against]
        result = known.find(state, least)
        if result is None:
            result = _Result()
            result.problems += _shard(column, shard, given, least, result)
            known.add(state, least, result)
        if unread:
            result = replace(result, problems=[*result.problems, Problem(column.name, shard, "", unread)])
        results[column.name] = result
    return results


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


def _shard(column: Column, shard: str, given: _Given | None, least: int, result: _Result) -> Iterator[Problem]:
    """Yield the errors of one shard; ``given`` is the dataset's shard, if they are compared."""
    try:
        table = column.rows(shard)
    except ClipzooError as error:
        yield Problem(column.name, shard, "", str(error))
        return
    marks = table.schema.metadata or {}
    result.tally.samples += len(table)
    result.tally.labels += len(table) - table["size"].null_count
    if marks.get(EXPERT_MARK.encode(), (own := column.manifest.digest).encode()) != own.encode():
        yield Problem(column.name, shard, "", "was labeled by another expert than that of the manifest. Label it again")
    if given is not None:
        source = marks.get(SOURCE_MARK.encode(), b"")
        result.differences = [*_samples(column, shard, given, table["key"].to_pylist(), source)]
    tar = column.file(shard, ".tar")
    if not tar.exists():
        yield Problem(column.name, shard, "", "the tar is missing. Label again")
        return
    neither = pc.and_(pc.is_null(table["size"]), pc.is_null(table["error"]))
    for key in table.filter(neither)["key"].to_pylist():
        yield Problem(column.name, shard, key, "the row has neither a label nor a reason")
    try:
        with files.cached(tar):
            stored, digest = marks.get(TAR_MARK.encode()), sha256(tar).encode()
            result.marked = stored is not None
            if stored not in (None, digest):
                yield Problem(column.name, shard, "", "the tar has changed. Remove the .parquet and label again")
            yield from _rows(column, shard, table, least if stored == digest else 0, result.tally)
    except OSError as error:
        message = f"the tar cannot be read ({error.strerror}). Repair the disk, or remove the .parquet and label again"
        yield Problem(column.name, shard, "", message)


def _rows(column: Column, shard: str, table: pa.Table, least: int, tally: Tally) -> Iterator[Problem]:
    """Yield the errors of labels: ``least`` of them, evenly spread, or all if it is 0."""
    labeled = table.filter(pc.is_valid(table["size"]))
    chosen = spread(range(len(labeled)), least or None)
    for row in labeled.take(pa.array(chosen, pa.int64())).to_pylist():
        try:
            _label(column, shard, row, tally)
        except ClipzooError as error:
            yield Problem(column.name, shard, row["key"], str(error))


def _samples(column: Column, shard: str, given: _Given, keys: Sequence[str], source: bytes) -> Iterator[Problem]:
    known = given.keys
    if source and known == set(keys) and source != given.fingerprint.encode():
        message = "the dataset has other images under these keys. Remove the shard's two files and label again"
        yield Problem(column.name, shard, "", message)
    foreign, missing = [key for key in keys if key not in known], sorted(known - set(keys))
    for found, message in ((foreign, "the dataset has no sample with this key"), (missing, "the sample has no row")):
        if found:
            yield Problem(column.name, shard, found[0], message + _likewise(found, "sample"))


def _likewise(items: Sized, noun: str) -> str:
    """Return the end of a message about the first of several."""
    return f" ({counted(len(items) - 1, f'other {noun}')} likewise)" if len(items) > 1 else ""


def _label(column: Column, shard: str, row: Mapping[str, Any], tally: Tally) -> None:
    """Add a row's label to the tally; raise `ClipzooError` if it is wrong."""
    task = tasks.get(column.task)
    data = column.member(shard, row["key"], row["offset"], row["size"])
    label = task.decode(data)
    task.check(label, column.convention)
    share = task.valid_share(label)
    if abs(share - row["valid_share"]) > 1e-4:
        raise LabelError(
            f"the valid share of the label is {share:.4f}, but {row['valid_share']:.4f} in its row. Label again"
        )
    tally.add(label, share, data)
