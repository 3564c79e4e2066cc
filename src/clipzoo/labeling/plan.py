"""The jobs of a run: which shards are missing in which columns."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence, Set
from dataclasses import dataclass
from fnmatch import filter as fitting

from clipzoo import files
from clipzoo.errors import DatasetError, SampleError
from clipzoo.experts.base import Expert
from clipzoo.readers import Reader
from clipzoo.store import Column, runs
from clipzoo.store.rows import TAR_MARK


@dataclass(frozen=True, slots=True)
class Job:
    """A shard, and the indices of the columns that it is labeled for.

    ``again`` are the columns that have the shard already: their labels are kept, and failed samples are labeled again.
    """

    shard: str
    columns: tuple[int, ...]
    again: tuple[int, ...] = ()


def missing(
    reader: Reader,
    columns: Sequence[Column],
    old: Sequence[Set[str]],
    shards: Collection[str] | str | None = None,
    retry_failed: bool = False,
) -> list[Job]:
    """Return a job for each shard that is missing in a column, in the dataset's order.

    Args:
        reader: the dataset.
        columns: the columns.
        old: for each column the outdated shards, which are labeled again.
        shards: names of shards, or patterns of names; None for all.
        retry_failed: also return jobs for committed shards with failures.

    Raises:
        DatasetError: the dataset does not have one of the ``shards``.
    """
    wanted = choose(reader, shards)
    have = [column.committed() - shards for column, shards in zip(columns, old, strict=True)]
    done = [_done(column, shards, retry_failed) for column, shards in zip(columns, have, strict=True)]
    jobs = []
    for shard in wanted:
        needed = tuple(i for i, shards in enumerate(done) if shard not in shards)
        jobs.append(Job(shard, needed, tuple(i for i in needed if shard in have[i])))
    return [job for job in jobs if job.columns]


def source_state(expert: Expert, reads: Sequence[Column], shard: str, keys: Iterable[str]) -> str:
    """Return a digest of the labels from which a shard's labels are made.

    For an importer, of the states of the files with labels of these keys. For a derived expert, of the checksums of
    the columns that it reads; "" if an older clipzoo labeled one of them without a checksum. "" for other experts.
    """
    if expert.imports:
        return _digest(f"{key} {_state(expert, key)}" for key in keys)
    marks = [column.marks(shard).get(TAR_MARK, "") for column in reads]
    return _digest(marks) if marks and all(marks) else ""


def outdated(expert: Expert, column: Column, reads: Sequence[Column]) -> set[str]:
    """Return the committed shards whose imported label files, or the labels in the columns ``reads``, have changed.

    Files are compared by their sizes and times. Derived labels count as current where an older clipzoo did not record
    from which labels they were made.
    """
    if not (expert.imports or reads):
        return set()
    known = {line["shard"]: line["source"] for line in runs(column.path) if "shard" in line and line.get("source")}
    if expert.imports:
        tables = ((shard, rows["key"].to_pylist()) for shard, rows in column.tables())
        return {shard for shard, keys in tables if known.get(shard) != source_state(expert, (), shard, keys)}
    shards = sorted(known.keys() & set[str].intersection(*(one.committed() for one in (column, *reads))))
    states = files.map_ahead(lambda shard: source_state(expert, reads, shard, ()), shards, files.threads(column.path))
    return {shard for shard, state in zip(shards, states, strict=True) if state not in ("", known[shard])}


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _state(expert: Expert, key: str) -> str:
    try:
        return expert.state(key)
    except (SampleError, OSError):  # not a valid name of a label file
        return ""


def uncommitted(jobs: Sequence[Job], columns: Sequence[Column]) -> list[str]:
    """Return the shards of jobs that are not committed in all of their columns."""
    have = {i: columns[i].committed() for i in {i for job in jobs for i in job.columns}}
    return [job.shard for job in jobs if any(job.shard not in have[i] for i in job.columns)]


def choose(reader: Reader, shards: Collection[str] | str | None) -> list[str]:
    """Return the shards with these names or patterns (or this one), in the dataset's order; all for None.

    Raises:
        DatasetError: the dataset does not have one of the ``shards``.
    """
    if shards is None:
        return list(reader.shards)
    there, meant = set(reader.shards), set[str]()
    for one in [shards] if isinstance(shards, str) else shards:
        fits = {one} & there or set(fitting(reader.shards, one))
        if not fits:
            have = ", ".join(reader.shards[:5]) + (", …" if len(reader.shards) > 5 else "")
            raise DatasetError(f"{reader.location!r} has no shard {one!r}; it has: {have}")
        meant |= fits
    return [shard for shard in reader.shards if shard in meant]


def _done(column: Column, have: set[str], retry_failed: bool) -> set[str]:
    if not retry_failed:
        return have
    return {shard for shard, rows in column.tables() if rows["error"].null_count == len(rows)} & have
